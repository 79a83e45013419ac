"""Product cometrics, block diagonal over the factors of a product architecture."""

from collections.abc import Sequence

from liftflow.architectures import ProductArchitecture
from liftflow.architectures.maps import each_of
from liftflow.doors import door
from liftflow.metrics.cometric import Cometric, HorizontalSpaces
from liftflow.typing import Covector, Lifted, LiftedTangent, OneLifted, OneTheta, Tangent, Theta


class ProductSpaces(HorizontalSpaces):
    """Horizontal spaces of a product, factor by factor."""

    @door
    def __init__(
        self, architecture: ProductArchitecture, factors: Sequence[HorizontalSpaces]
    ) -> None:
        self.architecture = architecture
        self.factors = tuple(factors)

    def _over_factors(self, name: str, *vectors: Tangent) -> Tangent:
        parts = map(self.architecture.unpack, vectors)
        return self.architecture.pack(*each_of(self.factors, name, *parts))

    def _project(self, theta: Theta, vector: Tangent) -> Tangent:
        return self._over_factors("_project", theta, vector)

    def _form(self, theta: Theta, direction: Tangent, vector: Tangent) -> Tangent:
        return self._over_factors("_form", theta, direction, vector)

    def _displacement(self, theta: Theta, target: Theta) -> Tangent:
        return self._over_factors("_displacement", theta, target)


class ProductCometric(Cometric):
    """K of a product: that of each factor on its own part of z [MPG]_."""

    architecture: ProductArchitecture
    _family = ProductArchitecture

    @door
    def __init__(
        self, architecture: ProductArchitecture, theta0: OneTheta, factors: Sequence[Cometric]
    ) -> None:
        super().__init__(architecture, theta0)
        self.factors = tuple(factors)

    def _split(self, *lifted: Lifted) -> list[list[Lifted]]:
        return [self.architecture.split_lifted(each) for each in lifted]

    def _starts(self, near: Theta | None) -> Sequence[Theta]:
        """Where the factors start."""
        return self.architecture.unpack(self.theta0 if near is None else near)

    @property
    def horizontal_spaces(self) -> ProductSpaces:
        return ProductSpaces(self.architecture, [f.horizontal_spaces for f in self.factors])

    def parts(self, lifted: OneLifted) -> list[OneLifted]:
        own = each_of(self.factors, "parts", *self._split(lifted))
        return [part for parts in own for part in parts]

    def apply(self, z: Lifted, covector: Covector, *, near: Theta | None = None) -> LiftedTangent:
        parts = self._split(z, covector)
        own = each_of(self.factors, "apply", *parts, near=self._starts(near))
        return self.architecture.join_lifted(own)

    def solve(self, z: Lifted, tangent_vec: LiftedTangent) -> Covector:
        own = each_of(self.factors, "solve", *self._split(z, tangent_vec))
        return self.architecture.join_lifted(own)

    def _check_image(self, z: Lifted) -> None:
        each_of(self.factors, "_check_image", *self._split(z))

    def _check_inverse(self, z: Lifted) -> None:
        each_of(self.factors, "_check_inverse", *self._split(z))

    def point(self, z: Lifted, *, near: Theta | None = None) -> Theta:
        own = each_of(self.factors, "point", *self._split(z), near=self._starts(near))
        return self.architecture.pack(*own)

    def follow(self, z: OneLifted, near: OneTheta) -> OneTheta:
        own = each_of(self.factors, "follow", *self._split(z), self._starts(near))
        return self.architecture.pack(*own)
