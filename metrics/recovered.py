"""The cometric of any recoverable architecture, by numerical recovery of θ: the default."""

import numpy as np

from liftflow.architectures import Architecture
from liftflow.errors import NotRecoverableError
from liftflow.metrics.cometric import Cometric, TangentSpaces
from liftflow.typing import (
    Covector,
    Lifted,
    LiftedMatrix,
    LiftedTangent,
    OneLifted,
    OneTheta,
    Scalars,
    Tangent,
    Theta,
)


class RecoveredCometric(Cometric):
    """K_θ₀(z) = ∂φ∂φᵀ at the θ that (φ, h) = (z, h(θ₀)) determines, found by iteration.

    What an architecture without a closed form has: it needs intrinsic recoverability only,
    ker ∂φ ∩ ker ∂h = {0}, which is checked at θ₀ and at every θ that is recovered. Recovery starts
    at θ₀, so z must be reachable from φ(θ₀).

    Raises
    ------
    NotRecoverableError
        θ₀ is not recoverable: says the dimension of ker ∂φ ∩ ker ∂h.

    References
    ----------
    Recoverability implies the metric property: [MPG]_.
    """

    def __init__(self, architecture: Architecture, theta0: OneTheta) -> None:
        super().__init__(architecture, theta0)
        self._check(self.theta0, "θ₀")

    def _check(self, theta: OneTheta, name: str) -> None:
        """Refuse a point where z and the laws leave directions open: the metric depends on them."""
        architecture = self.architecture
        # The ranges of ∂φᵀ and ∂hᵀ are orthogonal, so each may be measured in its own units.
        seen = architecture.lift_rank(theta) + architecture.laws_rank(theta)
        if seen < architecture.dim:
            raise NotRecoverableError(
                f"{name} is not recoverable: ker ∂φ ∩ ker ∂h has dimension "
                f"{architecture.dim - seen}, so z and the {architecture.n_laws} known laws do not "
                "determine θ, and K would depend on where a search for it starts; take another θ₀, "
                "more laws, or a closed form (intrinsic_cometric) where there is one"
            )

    def point(self, z: Lifted, *, near: Theta | None = None) -> Theta:
        """Recover θ, by default from θ₀ on.

        Raises
        ------
        NotRecoverableError
            The iteration does not converge, or leads to a point that is not recoverable.
        """
        theta = super().point(z, near=near)
        for point in np.reshape(theta, (-1, self.architecture.dim)):
            self._check(point, "the θ over this z")
        return theta

    def follow(self, z: OneLifted, near: OneTheta) -> OneTheta:
        """Recover θ starting from the point followed so far, with its signs."""
        return self.point(z, near=near)

    @property
    def horizontal_spaces(self) -> TangentSpaces:
        """All of ker ∂h is horizontal: z and the laws determine θ."""
        return TangentSpaces(self.architecture)

    def apply(self, z: Lifted, covector: Covector, *, near: Theta | None = None) -> LiftedTangent:
        """Apply K(z) to a covector, as ∂φ∂φᵀ at the recovered θ."""
        return self.architecture.gram_apply(self.point(z, near=near), covector)

    def matrix(self, z: Lifted) -> LiftedMatrix:
        return self.architecture.gram_matrix(self.point(z))

    def horizontal_lift(
        self, z: Lifted, tangent_vec: LiftedTangent, *, theta: Theta | None = None
    ) -> Tangent:
        """Lift a tangent vector to the shortest velocity of θ above it, J⁺ζ with J = ∂φ(θ)."""
        theta = self.point(z) if theta is None else theta
        return self.architecture.solve_jvp(theta, tangent_vec)

    def inner_product(
        self, z: Lifted, tangent_vec_a: LiftedTangent, tangent_vec_b: LiftedTangent
    ) -> Scalars:
        """Inner product of tangent vectors, as that of their horizontal lifts."""
        theta = self.point(z)
        lifts = (self.architecture.solve_jvp(theta, v) for v in (tangent_vec_a, tangent_vec_b))
        return np.einsum("...i,...i->...", *lifts)

    def solve(self, z: Lifted, tangent_vec: LiftedTangent) -> Covector:
        """Apply K(z)⁺ to a tangent vector; the part of it that is not tangent is dropped."""
        theta = self.point(z)  # K⁺ = (J⁺)ᵀ J⁺, which squares no condition number
        return self.architecture.solve_vjp(theta, self.architecture.solve_jvp(theta, tangent_vec))
