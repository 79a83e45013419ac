"""The lift φ : 𝓜_θ₀ → φ(𝓜_θ₀) as a fibre bundle of geomstats."""

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.fiber_bundle import AlignerAlgorithm, FiberBundle
from geomstats.geometry.manifold import Manifold
from geomstats.geometry.quotient_metric import QuotientMetric

from liftflow.architectures import Architecture
from liftflow.architectures.base import architecture_of
from liftflow.doors import OnSpace, doors
from liftflow.errors import InputError
from liftflow.linalg import ROUNDING, over_batch
from liftflow.metrics.cometric import LiftSpaces
from liftflow.metrics.geodesic import GeodesicSolver
from liftflow.typing import Covector, Lifted, LiftedTangent, Scalars, Tangent, Theta, as_array


class LeastSquaresSpaces(LiftSpaces):
    """Horizontal spaces range ∂φᵀ from φ alone: K⁺ is the inverse of ∂φ ∂φᵀ by least squares."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def _solve(self, theta: Theta, lifted_vec: LiftedTangent) -> Covector:
        phi = self.architecture.phi
        return phi.solve_transposed(theta, phi.solve(theta, lifted_vec))


class HorizontalAligner(AlignerAlgorithm):
    """Move a point of an invariant set along its fibre to where a horizontal geodesic arrives.

    The frames of the hidden layers, or the signs of hidden nodes, are first brought as close to
    those of the base point as they come (a Procrustes problem). That is where the geodesic is
    looked for, and right to second order in the distance only, because the set is curved.
    """

    def __init__(self, total_space: Manifold) -> None:
        super().__init__(total_space)
        architecture = architecture_of(total_space, "total_space")
        self.solver = GeodesicSolver(architecture, LeastSquaresSpaces(architecture))

    def align(self, point: Theta, base_point: Theta) -> Theta:
        """Find the point of a fibre that a horizontal geodesic from a base point reaches.

        It lies on the invariant set.

        Raises
        ------
        GeodesicError
            No such geodesic was found.
        """

        def one(point: Theta, base_point: Theta) -> Theta:
            close = self.solver.architecture.align(point, base_point)
            return self.solver.end(base_point, self.solver.connect(base_point, close))

        shape = (self.solver.architecture.dim,)
        points = [as_array(point, "point", shape), as_array(base_point, "base_point", shape)]
        return over_batch(one, points, [1, 1])


def _largest(vectors: Tangent) -> Scalars:
    return np.max(np.abs(vectors), axis=-1, keepdims=True)


def _without_rounding(vectors: Tangent, terms: Scalars) -> Tangent:
    """Vectors, but 0 where they are what rounding leaves of terms of this size."""
    return np.where(_largest(vectors) > 10 * ROUNDING * terms, vectors, 0.0)


@doors
class LiftBundle(FiberBundle):
    """The lift as a Riemannian submersion from an invariant set onto its image.

    Vertical vectors are those that neither φ nor h sees, ker ∂φ ∩ ker ∂h; horizontal ones are
    orthogonal to them, range ∂φᵀ. Nothing here knows the intrinsic metric: it is made of φ and h
    alone, and geomstats's ``QuotientMetric`` over it is a second way to K⁻¹.

    References
    ----------
    For balanced linear networks: Riemannian flows [Bah2022]_, metric by submersion [MenonYu2025]_.
    That the intrinsic metric property of [MPG]_ is the submersion, for all families, is ours.
    """

    def __init__(self, total_space: Manifold) -> None:
        super().__init__(total_space=total_space, aligner=HorizontalAligner(total_space))
        self.spaces = LeastSquaresSpaces(total_space.architecture)

    def __repr__(self) -> str:
        """Say in one line what it is."""
        return f"{type(self).__name__} over {self._total_space!r}"

    @property
    def _architecture(self) -> Architecture:
        return architecture_of(self._total_space, "total_space")

    def riemannian_submersion(self, point: Theta) -> Lifted:
        """Evaluate the lift φ."""
        return self._architecture.lift(point)

    def tangent_riemannian_submersion(
        self, tangent_vec: Tangent, base_point: Theta
    ) -> LiftedTangent:
        """Push a tangent vector forward, ∂φ(θ) v."""
        return self._architecture.lift_jvp(base_point, tangent_vec)

    def lift(self, point: Lifted) -> Theta:
        """Find a point of the fibre over z, in the sign gauge of θ₀: a section."""
        return self._total_space.recover(point)

    def horizontal_lift(
        self,
        tangent_vec: LiftedTangent,
        base_point: Lifted | None = None,
        fiber_point: Theta | None = None,
    ) -> Tangent:
        """Lift a tangent vector to the shortest one above it, by least squares on ∂φ(θ) v = ζ.

        Parameters
        ----------
        fiber_point : Theta, optional
            Point of the fibre over it; by default that of :meth:`lift`.

        Raises
        ------
        ValueError
            Neither point is given.
        """
        if fiber_point is None:
            if base_point is None:
                raise InputError("horizontal_lift needs a base_point or a fiber_point, got neither")
            fiber_point = self.lift(base_point)
        return self._architecture.solve_jvp(fiber_point, tangent_vec)

    def horizontal_projection(self, tangent_vec: Tangent, base_point: Theta) -> Tangent:
        """Project orthogonally onto range ∂φᵀ."""
        return self.spaces.project(base_point, tangent_vec)

    def vertical_projection(self, tangent_vec: Tangent, base_point: Theta) -> Tangent:
        """Project a tangent vector orthogonally onto ker ∂φ ∩ ker ∂h.

        What rounding leaves of a horizontal vector is 0: it has no direction.
        """
        vertical = tangent_vec - self.horizontal_projection(tangent_vec, base_point)
        return _without_rounding(vertical, _largest(tangent_vec))

    def is_horizontal(
        self, tangent_vec: Tangent, base_point: Theta, atol: float = gs.atol
    ) -> Scalars:
        """Check that a vector is its horizontal projection, relative to its largest entry."""
        gap = np.abs(tangent_vec - self.horizontal_projection(tangent_vec, base_point))
        return np.all(gap <= atol * _largest(tangent_vec), axis=-1)

    def is_vertical(
        self, tangent_vec: Tangent, base_point: Theta, atol: float = gs.atol
    ) -> Scalars:
        """Check that a tangent vector has no horizontal part, relative to its largest entry."""
        gap = np.abs(self.horizontal_projection(tangent_vec, base_point))
        return np.all(gap <= atol * _largest(tangent_vec), axis=-1)

    def integrability_tensor(
        self, tangent_vec_a: Tangent, tangent_vec_b: Tangent, base_point: Theta
    ) -> Tangent:
        r"""Evaluate O'Neill's tensor A of the lift [ONeill1966]_; 0 where it is a local isometry.

        :math:`A_a b = ver ∇_{hor a} hor b + hor ∇_{hor a} ver b`. The first part is half the
        vertical part of the bracket of two gradient fields, the second minus its transpose,
        :math:`−∂φ^+ ∂²φ[hor a, ver b]`. So it measures by how much the Frobenius property fails. It
        is vertical if b is horizontal, horizontal if b is vertical.
        """
        a = self.horizontal_projection(tangent_vec_a, base_point)
        b = self.horizontal_projection(tangent_vec_b, base_point)
        bent = self.spaces.second_fundamental_form(base_point, a, b)
        pushed = self._architecture.lift_hessian(base_point, a, tangent_vec_b - b)
        across = self._architecture.solve_jvp(base_point, pushed)
        terms = _largest(tangent_vec_a) * _largest(tangent_vec_b) / _largest(base_point)
        return _without_rounding(self._total_space.to_tangent(bent, base_point) - across, terms)


@doors
class LiftQuotientMetric(OnSpace, QuotientMetric):
    """The quotient metric of geomstats over the lift, with the curvature of the right sign.

    geomstats 2.8.0 adds O'Neill's correction with the sign that belongs to the opposite convention
    for R: planar shapes, whose sectional curvature lies between 1 and 4, come out at less than 1.

    Parameters
    ----------
    space, total_space : geomstats.geometry.manifold.Manifold
        The base of the bundle, and the space that has the bundle.
    signature : tuple of int, optional
        As in geomstats.
    """

    def curvature(
        self,
        tangent_vec_a: LiftedTangent,
        tangent_vec_b: LiftedTangent,
        tangent_vec_c: LiftedTangent,
        base_point: Lifted,
    ) -> LiftedTangent:
        """Riemannian curvature R(a, b)c from the total space and O'Neill's tensor."""
        vectors = (tangent_vec_a, tangent_vec_b, tangent_vec_c)
        bundle, fiber_point = self._fiber_bundle, self._fiber_bundle.lift(base_point)
        above = [bundle.horizontal_lift(vector, fiber_point=fiber_point) for vector in vectors]
        top = self._total_space.metric.curvature(*above, fiber_point)
        top = bundle.tangent_riemannian_submersion(top, fiber_point)
        return 2 * top - super().curvature(*vectors, base_point)
