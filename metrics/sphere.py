"""The cometric of scale-invariant weights, on a product of spheres."""

import autograd.numpy as anp
import numpy as np

from liftflow.architectures import Architecture, ScaleInvariant
from liftflow.linalg import lengths
from liftflow.metrics.cometric import Cometric, TangentSpaces
from liftflow.metrics.exact import angle
from liftflow.typing import Covector, Lifted, LiftedTangent, OneLifted, OneTheta, Tangent, Theta


class SphereCometric(Cometric):
    r"""K of scale-invariant weights, :math:`(I − z_c z_c^\top) / ρ_c^2` on each group.

    The image is a product of spheres; the laws are their radii ρ. Ours.
    """

    architecture: ScaleInvariant
    _family = ScaleInvariant

    def __init__(self, architecture: Architecture, theta0: OneTheta) -> None:
        super().__init__(architecture, theta0)
        axes = (1,) * len(self.architecture.group_shape)
        self.radii = self.architecture.radii(self.laws).reshape((-1, *axes))

    def _tangent(self, z: Lifted, vector: LiftedTangent, name: str) -> LiftedTangent:
        z, vector = self._lifted(z, "z"), self._lifted(vector, name)
        if self.architecture.centred:
            axis = 1 - len(self.lifted_shape)
            vector = vector - anp.mean(vector, axis=axis, keepdims=True)
        axes = tuple(range(1 - len(self.lifted_shape), 0))
        along = anp.sum(z * vector, axis=axes, keepdims=True)
        return vector - z * along / anp.sum(z * z, axis=axes, keepdims=True)

    def apply(self, z: Lifted, covector: Covector, *, near: Theta | None = None) -> LiftedTangent:
        return self._tangent(z, covector, "covector") / self.radii**2

    def solve(self, z: Lifted, tangent_vec: LiftedTangent) -> Covector:
        """Apply K(z)⁺; the part of the vector that is not tangent is dropped."""
        return self._tangent(z, tangent_vec, "tangent_vec") * self.radii**2

    def horizontal_lift(
        self, z: Lifted, tangent_vec: LiftedTangent, *, theta: Theta | None = None
    ) -> Tangent:
        """Lift a tangent vector to the velocity of the weights above it, ρ times as long."""
        vector = self._tangent(z, tangent_vec, "tangent_vec") * self.radii
        return vector.reshape((*vector.shape[: -len(self.lifted_shape)], self.architecture.dim))

    @property
    def horizontal_spaces(self) -> TangentSpaces:
        """All of ker ∂h is horizontal: directions and lengths determine the weights."""
        return TangentSpaces(self.architecture)

    def exact_distance(self, point_a: OneLifted, point_b: OneLifted) -> float:
        r"""Distance along great circles, :math:`\sqrt{\sum_c ρ_c^2 α_c^2}` with angles α."""
        first, second = (
            np.reshape(self.architecture.project_to_image(end), (len(self.radii), -1))
            for end in self._ends(point_a, point_b)
        )
        return float(lengths(self.radii.ravel() * angle(first, second)))
