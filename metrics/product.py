"""Product cometrics, block diagonal over the factors of a product architecture."""

from collections.abc import Iterator, Sequence

from liftflow.architectures import ProductArchitecture
from liftflow.doors import door
from liftflow.metrics.cometric import Cometric, HorizontalSpaces
from liftflow.typing import (
    Covector,
    Lifted,
    LiftedTangent,
    OneLifted,
    OneTheta,
    Tangent,
    Theta,
)


class ProductSpaces(HorizontalSpaces):
    """Horizontal spaces of a product, factor by factor."""

    @door
    def __init__(
        self, architecture: ProductArchitecture, factors: Sequence[HorizontalSpaces]
    ) -> None:
        self.architecture = architecture
        self.factors = tuple(factors)

    def _over_factors(self, name: str, *vectors: Tangent) -> Tangent:
        parts = zip(self.factors, *map(self.architecture.unpack, vectors), strict=True)
        return self.architecture.pack(*[getattr(own, name)(*args) for own, *args in parts])

    def _project(self, theta: Theta, vector: Tangent) -> Tangent:
        return self._over_factors("_project", theta, vector)

    def _form(self, theta: Theta, direction: Tangent, vector: Tangent) -> Tangent:
        return self._over_factors("_form", theta, direction, vector)

    def _displacement(self, theta: Theta, target: Theta) -> Tangent:
        return self._over_factors("_displacement", theta, target)


class ProductCometric(Cometric):
    """K of a product: that of each factor on its own part of z.

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

    def _over_factors(
        self, *lifted: Lifted, near: Theta | None
    ) -> Iterator[tuple[Cometric, Theta, *tuple[Lifted, ...]]]:
        """Factors with their parts of a starting point and of z and vectors like it."""
        starts = self.architecture.unpack(self.theta0 if near is None else near)
        parts = [self.architecture.split_lifted(each) for each in lifted]
        return zip(self.factors, starts, *parts, strict=True)

    @property
    def horizontal_spaces(self) -> ProductSpaces:
        return ProductSpaces(self.architecture, [f.horizontal_spaces for f in self.factors])

    def parts(self, lifted: OneLifted) -> list[OneLifted]:
        pairs = zip(self.factors, self.architecture.split_lifted(lifted), strict=True)
        return [part for factor, own in pairs for part in factor.parts(own)]

    def apply(self, z: Lifted, covector: Covector, *, near: Theta | None = None) -> LiftedTangent:
        parts = self._over_factors(z, covector, near=near)
        return self.architecture.join_lifted(
            [factor.apply(own, form, near=start) for factor, start, own, form in parts]
        )

    def solve(self, z: Lifted, tangent_vec: LiftedTangent) -> Covector:
        parts = self._over_factors(z, tangent_vec, near=None)
        return self.architecture.join_lifted([f.solve(own, vector) for f, _, own, vector in parts])

    def _check_inverse(self, z: Lifted) -> None:
        for factor, _, own in self._over_factors(z, near=None):
            factor._check_inverse(own)

    def point(self, z: Lifted, *, near: Theta | None = None) -> Theta:
        parts = self._over_factors(z, near=near)
        return self.architecture.pack(*[f.point(own, near=start) for f, start, own in parts])

    def follow(self, z: OneLifted, near: OneTheta) -> OneTheta:
        parts = self._over_factors(z, near=near)
        return self.architecture.pack(*[f.follow(own, start) for f, start, own in parts])
