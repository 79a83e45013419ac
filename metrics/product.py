"""Product cometrics, block diagonal over the factors of a product architecture."""

from collections.abc import Sequence

from liftflow.architectures import ProductArchitecture
from liftflow.doors import door
from liftflow.metrics.base import Cometric
from liftflow.metrics.horizontal import ProductSpaces
from liftflow.typing import Covector, FloatArray, Lifted, LiftedTangent, OneLifted, OneTheta, Theta


class ProductCometric(Cometric):
    """K of a product: that of each factor on its own part of z.

    Parameters
    ----------
    factors : sequence of Cometric
        One per factor of the architecture.

    References
    ----------
    [MPG]_.
    """

    architecture: ProductArchitecture
    _family = ProductArchitecture

    @door
    def __init__(
        self, architecture: ProductArchitecture, theta0: OneTheta, factors: Sequence[Cometric]
    ) -> None:
        super().__init__(architecture, theta0)
        self.factors = tuple(factors)

    @property
    def horizontal_spaces(self) -> ProductSpaces:
        """Those of the factors, side by side."""
        return ProductSpaces(self.architecture, [f.horizontal_spaces for f in self.factors])

    def parts(self, lifted: OneLifted) -> list[FloatArray]:
        """Split z, or a vector like it, into the parts of the factors."""
        pairs = zip(self.factors, self.architecture.split_lifted(lifted), strict=True)
        return [part for factor, own in pairs for part in factor.parts(own)]

    def apply(self, z: Lifted, covector: Covector, *, near: Theta | None = None) -> LiftedTangent:
        """Apply K(z) to a covector, factor by factor.

        Parameters
        ----------
        near : Theta, optional
            Where iterations may start.
        """
        split = self.architecture.split_lifted
        starts = [None] * len(self.factors) if near is None else self.architecture.unpack(near)
        parts = zip(self.factors, split(z), split(covector), starts, strict=True)
        return self.architecture.join_lifted(
            [factor.apply(own, form, near=start) for factor, own, form, start in parts]
        )

    def follow(self, z: OneLifted, near: OneTheta) -> OneTheta:
        """Follow a point of the invariant set to z, factor by factor."""
        split = self.architecture.split_lifted(z)
        parts = zip(self.factors, split, self.architecture.unpack(near), strict=True)
        return self.architecture.pack(*[f.follow(own, point) for f, own, point in parts])

    def solve(self, z: Lifted, tangent_vec: LiftedTangent) -> Covector:
        """Apply K(z)⁺ to a tangent vector, factor by factor."""
        split = self.architecture.split_lifted
        parts = zip(self.factors, split(z), split(tangent_vec), strict=True)
        return self.architecture.join_lifted([f.solve(own, vector) for f, own, vector in parts])

    def _check_inverse(self, z: FloatArray) -> None:
        for factor, own in zip(self.factors, self.architecture.split_lifted(z), strict=True):
            factor._check_inverse(own)

    def point(self, z: Lifted, *, near: Theta | None = None) -> Theta:
        """Find a point of the fibre over z on the invariant set of θ₀.

        Parameters
        ----------
        near : Theta, optional
            By default θ₀.
        """
        split = self.architecture.split_lifted(z)
        starts = self.architecture.unpack(self.theta0 if near is None else near)
        parts = zip(self.factors, split, starts, strict=True)
        return self.architecture.pack(*[f.point(own, near=start) for f, own, start in parts])
