"""The cometric of any recoverable architecture, by numerical recovery of θ."""

from typing import Any

import numpy as np

from liftflow.linalg import over_batch
from liftflow.metrics.base import Cometric
from liftflow.metrics.horizontal import TangentSpaces
from liftflow.typing import FloatArray


class RecoveredCometric(Cometric):
    """K_θ₀(z) = ∂φ∂φᵀ at the θ that (φ, h) = (z, h(θ₀)) determines, found by iteration.

    The fallback for architectures without a closed form: it needs intrinsic recoverability only.

    Parameters
    ----------
    architecture : Architecture
        Its ``recover`` is Gauss–Newton unless the family knows better.
    theta0 : array-like, shape=[dim]
        Also where recovery starts, so z must be reachable from φ(θ₀).

    References
    ----------
    Recoverability implies the metric property: [MPG]_.
    """

    def point(self, z: Any, *, near: Any = None) -> FloatArray:
        """Recover θ.

        Parameters
        ----------
        z : array-like, shape=[..., *lifted_shape]
        near : array-like, shape=[..., dim], optional
            Where the iteration starts; by default θ₀.

        Returns
        -------
        theta : array, shape=[..., dim]

        Raises
        ------
        NotRecoverableError
            The iteration does not converge.
        """
        near = self.theta0 if near is None else near
        return self.architecture.recover(z, self.laws, near=near)

    def follow(self, z: FloatArray, near: FloatArray) -> FloatArray:
        """Recover θ starting from the point followed so far.

        Parameters
        ----------
        z : array, shape=[*lifted_shape]
        near : array, shape=[dim]

        Returns
        -------
        theta : array, shape=[dim]
        """
        return self.point(z, near=near)

    @property
    def horizontal_spaces(self) -> TangentSpaces:
        """All of ker ∂h is horizontal: z and the laws determine θ."""
        return TangentSpaces(self.architecture)

    def apply(self, z: Any, covector: Any, *, near: Any = None) -> Any:
        """Apply K(z) to a covector, as ∂φ∂φᵀ at the recovered θ.

        Parameters
        ----------
        z, covector : array-like, shape=[..., *lifted_shape]
        near : array-like, shape=[..., dim], optional
            Where the iteration starts; by default θ₀.

        Returns
        -------
        velocity : array, shape=[..., *lifted_shape]
        """
        return self.architecture.gram_apply(self.point(z, near=near), covector)

    def matrix(self, z: Any) -> Any:
        """K(z) as a dense matrix.

        Parameters
        ----------
        z : array-like, shape=[..., *lifted_shape]

        Returns
        -------
        matrix : array, shape=[..., lifted_dim, lifted_dim]
        """
        return self.architecture.gram_matrix(self.point(z))

    def solve(self, z: Any, tangent_vec: Any) -> FloatArray:
        """Apply K(z)⁺ to a tangent vector; the part of it that is not tangent is dropped.

        Parameters
        ----------
        z, tangent_vec : array-like, shape=[..., *lifted_shape]

        Returns
        -------
        covector : array, shape=[..., *lifted_shape]
        """
        architecture, shape = self.architecture, self.lifted_shape

        def solve(theta: FloatArray, vector: FloatArray) -> FloatArray:
            # K⁺ = (J⁺)ᵀ J⁺, which squares no condition number.
            inverse = np.linalg.pinv(architecture.lift_jacobian(theta), rcond=1e-10)
            return np.reshape(inverse.T @ (inverse @ vector.ravel()), shape)

        vector = self._lifted(tangent_vec, "tangent_vec", differentiable=False)
        return over_batch(solve, [self.point(z), vector], [1, len(shape)], shape)
