"""The lift φ : 𝓜_θ₀ → φ(𝓜_θ₀) as a fibre bundle of geomstats."""

from typing import Any

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.fiber_bundle import AlignerAlgorithm, FiberBundle
from geomstats.geometry.manifold import Manifold

from liftflow.architectures import Architecture
from liftflow.typing import FloatArray


class FibreAligner(AlignerAlgorithm):
    """Move a point of an invariant set along its fibre, close to another point.

    Parameters
    ----------
    total_space : InvariantSet
    """

    def align(self, point: Any, base_point: Any) -> FloatArray:
        """Move a point along its fibre, close to a base point in the distance of ℝᴰ.

        Parameters
        ----------
        point, base_point : array-like, shape=[..., D]

        Returns
        -------
        aligned_point : array, shape=[..., D]
        """
        return self._total_space.architecture.align(point, base_point)


class LiftBundle(FiberBundle):
    """The lift as a Riemannian submersion from an invariant set onto its image.

    Vertical vectors are those that neither φ nor h sees, ker ∂φ ∩ ker ∂h; horizontal ones are
    orthogonal to them, range ∂φᵀ. Nothing here knows the intrinsic metric: it is made of φ and h
    alone, and geomstats's ``QuotientMetric`` over it is a second way to K⁻¹.

    Parameters
    ----------
    total_space : InvariantSet

    References
    ----------
    That φ is a Riemannian submersion where the intrinsic metric property of [MPG]_ holds is ours.
    """

    def __init__(self, total_space: Manifold) -> None:
        super().__init__(total_space=total_space, aligner=FibreAligner(total_space))

    @property
    def _architecture(self) -> Architecture:
        return self._total_space.architecture

    def riemannian_submersion(self, point: Any) -> Any:
        """Evaluate the lift φ.

        Parameters
        ----------
        point : array-like, shape=[..., D]

        Returns
        -------
        base_point : array, shape=[..., *lifted_shape]
        """
        return self._architecture.lift(point)

    def tangent_riemannian_submersion(self, tangent_vec: Any, base_point: Any) -> Any:
        """Push a tangent vector forward, ∂φ(θ) v.

        Parameters
        ----------
        tangent_vec : array-like, shape=[..., D]
        base_point : array-like, shape=[..., D]
            Point θ of the total space.

        Returns
        -------
        tangent_vec : array, shape=[..., *lifted_shape]
        """
        return self._architecture.lift_jvp(base_point, tangent_vec)

    def lift(self, point: Any) -> FloatArray:
        """Find a point of the fibre over z, in the sign gauge of θ₀: a section.

        Parameters
        ----------
        point : array-like, shape=[..., *lifted_shape]

        Returns
        -------
        theta : array, shape=[..., D]
        """
        return self._total_space.recover(point)

    def horizontal_lift(
        self, tangent_vec: Any, base_point: Any = None, fiber_point: Any = None
    ) -> FloatArray:
        """Lift a tangent vector to the shortest one above it, by least squares on ∂φ(θ) v = ζ.

        Parameters
        ----------
        tangent_vec : array-like, shape=[..., *lifted_shape]
        base_point : array-like, shape=[..., *lifted_shape], optional
            Point of the image.
        fiber_point : array-like, shape=[..., D], optional
            Point of the fibre over it; by default that of :meth:`lift`.

        Returns
        -------
        horizontal_vec : array, shape=[..., D]

        Raises
        ------
        ValueError
            Neither point is given.
        """
        if fiber_point is None:
            if base_point is None:
                raise ValueError("horizontal_lift needs a base_point or a fiber_point, got neither")
            fiber_point = self.lift(base_point)
        return self._architecture.solve_jvp(fiber_point, tangent_vec)

    def horizontal_projection(self, tangent_vec: Any, base_point: Any) -> FloatArray:
        """Project orthogonally onto range ∂φᵀ.

        Parameters
        ----------
        tangent_vec, base_point : array-like, shape=[..., D]

        Returns
        -------
        horizontal_vec : array, shape=[..., D]
        """
        pushed = self._architecture.lift_jvp(base_point, tangent_vec)
        return self._architecture.solve_jvp(base_point, pushed)

    def vertical_projection(self, tangent_vec: Any, base_point: Any) -> FloatArray:
        """Project a tangent vector orthogonally onto ker ∂φ ∩ ker ∂h.

        Parameters
        ----------
        tangent_vec, base_point : array-like, shape=[..., D]

        Returns
        -------
        vertical_vec : array, shape=[..., D]
        """
        return tangent_vec - self.horizontal_projection(tangent_vec, base_point)

    def is_horizontal(self, tangent_vec: Any, base_point: Any, atol: float = gs.atol) -> Any:
        """Check that the horizontal projection leaves a vector as it is.

        Parameters
        ----------
        tangent_vec, base_point : array-like, shape=[..., D]
        atol : float
            Tolerance, entry by entry.

        Returns
        -------
        is_horizontal : array, shape=[...]
        """
        gap = np.abs(tangent_vec - self.horizontal_projection(tangent_vec, base_point))
        return np.all(gap <= atol, axis=-1)

    def is_vertical(self, tangent_vec: Any, base_point: Any, atol: float = gs.atol) -> Any:
        """Check that a tangent vector has no horizontal part.

        Parameters
        ----------
        tangent_vec, base_point : array-like, shape=[..., D]
        atol : float
            Tolerance, entry by entry.

        Returns
        -------
        is_vertical : array, shape=[...]
        """
        gap = np.abs(self.horizontal_projection(tangent_vec, base_point))
        return np.all(gap <= atol, axis=-1)

    def integrability_tensor(
        self, tangent_vec_a: Any, tangent_vec_b: Any, base_point: Any
    ) -> FloatArray:
        r"""Evaluate O'Neill's tensor A of the lift; 0 where it is a local isometry.

        :math:`A_a b = ver ∇_{hor a} hor b + hor ∇_{hor a} ver b`. With hor b = ∂φᵀ g the first
        part is the vertical part of :math:`∂²φ(θ)[hor a, ·]^\top g`, half the bracket of two
        gradient fields; the second is minus its transpose. So it measures by how much the
        Frobenius property fails.

        Parameters
        ----------
        tangent_vec_a, tangent_vec_b, base_point : array-like, shape=[..., D]

        Returns
        -------
        vector : array, shape=[..., D]
            Vertical if b is horizontal, horizontal if b is vertical.

        References
        ----------
        O'Neill, The fundamental equations of a submersion, 1966.
        """
        architecture = self._architecture
        a = self.horizontal_projection(tangent_vec_a, base_point)
        b = self.horizontal_projection(tangent_vec_b, base_point)
        accelerations = architecture.lift_hessian(
            np.asarray(base_point)[..., None, :], a[..., None, :], np.eye(architecture.dim)
        )
        # ∂²φ[a, ·]ᵀ g, the derivative along a of the field ∂φᵀ g whose value here is b.
        form = architecture.solve_vjp(base_point, b)
        axes = tuple(range(-len(architecture.lifted_shape), 0))
        form = np.expand_dims(form, axes[0] - 1)
        derivative = np.sum(accelerations * form, axis=axes)
        derivative = self._total_space.to_tangent(derivative, base_point)
        pushed = architecture.lift_hessian(base_point, a, tangent_vec_b - b)
        return self.vertical_projection(derivative, base_point) - architecture.solve_jvp(
            base_point, pushed
        )
