"""The two faces of K_θ₀: a pure cometric, and the geomstats metric whose inverse it is."""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import geomstats.backend as gs
import numpy as np

from liftflow.architectures import Architecture
from liftflow.doors import Guarded, doors
from liftflow.errors import NotOnImageError
from liftflow.metrics.exact import line_distance
from liftflow.metrics.geodesic import GEODESIC_RTOL, GeodesicSolver, length
from liftflow.metrics.geometry import TANGENT_RTOL, HorizontalMetric
from liftflow.metrics.horizontal import HorizontalSpaces, LiftSpaces
from liftflow.typing import (
    Covector,
    FloatArray,
    Lifted,
    LiftedMatrix,
    LiftedTangent,
    OneLifted,
    OneTheta,
    Point,
    Scalars,
    Symbols,
    Tangent,
    TangentVec,
    Theta,
    as_array,
    as_instance,
    as_own,
    freeze,
    refuse_beyond,
)


class Cometric(Guarded, ABC):
    r"""The intrinsic cometric K_θ₀(z), with M(θ) = K_θ₀(φ(θ)) on the invariant set of θ₀.

    Parameters
    ----------
    theta0 : OneTheta
        Enters through its conservation laws (and what else a family reads from it).

    References
    ----------
    Intrinsic metric property: [MPG]_.
    """

    _family: ClassVar[type] = Architecture

    def __init__(self, architecture: Architecture, theta0: OneTheta) -> None:
        self.architecture = as_instance(architecture, self._family, "architecture")
        self.theta0: FloatArray = as_own(theta0, "theta0", (architecture.dim,))
        self.laws: FloatArray = freeze(np.asarray(architecture.conservation_laws(self.theta0)))

    @property
    def lifted_shape(self) -> tuple[int, ...]:
        """Shape of z."""
        return self.architecture.lifted_shape

    def _lifted(self, lifted: Any, name: str, differentiable: bool = True) -> Any:
        return as_array(lifted, name, self.lifted_shape, differentiable=differentiable)

    def _one(self, lifted: Any, name: str) -> FloatArray:
        return as_array(lifted, name, self.lifted_shape, batch=False, differentiable=False)

    def _theta(self, theta: Any, name: str = "theta") -> FloatArray:
        return as_array(theta, name, (self.architecture.dim,), differentiable=False)

    @abstractmethod
    def apply(self, z: Lifted, covector: Covector, *, near: Theta | None = None) -> LiftedTangent:
        """Apply K(z) to a covector, matrix-free.

        Parameters
        ----------
        near : Theta, optional
            A point of the invariant set near the fibre over z, where an iteration may start.
        """

    @abstractmethod
    def solve(self, z: Lifted, tangent_vec: LiftedTangent) -> Covector:
        """Apply K(z)⁺ to a vector tangent to the image at z."""

    def _check_inverse(self, z: Any) -> None:
        """Refuse a z where K(z) has no inverse on the tangent space, if a family knows of such."""

    @abstractmethod
    def point(self, z: Lifted, *, near: Theta | None = None) -> Theta:
        """Find a point of the fibre over z on the invariant set of θ₀.

        Parameters
        ----------
        near : Theta, optional
            Where an iteration may start; by default θ₀.
        """

    def follow(self, z: OneLifted, near: OneTheta) -> OneTheta:
        """Follow a point of the invariant set to z, where iterations or signs need one.

        Parameters
        ----------
        near : OneTheta
            A point followed so far.

        Returns
        -------
        theta : OneTheta
            What to pass as ``near`` at z and close to it; a copy of ``near`` where nothing is
            iterated and φ forgets nothing that a loss asks for.
        """
        return np.array(near)

    def matrix(self, z: Lifted) -> LiftedMatrix:
        """K(z) as a dense matrix."""
        z = self._lifted(z, "z")
        size, n_axes = self.architecture.lifted_dim, len(self.lifted_shape)
        lead = z.shape[: len(z.shape) - n_axes]
        refuse_beyond(
            float(math.prod(lead)) * size**2, f"a dense matrix of {size} × {size} numbers"
        )
        basis = gs.reshape(gs.eye(size), (size, *self.lifted_shape))
        columns = self.apply(gs.reshape(z, (*lead, 1, *self.lifted_shape)), basis)
        return gs.moveaxis(gs.reshape(columns, (*lead, size, size)), -1, -2)

    def inner_product(
        self, z: Lifted, tangent_vec_a: LiftedTangent, tangent_vec_b: LiftedTangent
    ) -> Scalars:
        """Inner product ⟨a, K(z)⁺ b⟩ of tangent vectors."""
        covector = self.solve(z, tangent_vec_b)
        axes = tuple(range(-len(self.lifted_shape), 0))
        return gs.sum(self._lifted(tangent_vec_a, "tangent_vec_a") * covector, axis=axes)

    def horizontal_lift(
        self, z: Lifted, tangent_vec: LiftedTangent, *, theta: Theta | None = None
    ) -> Tangent:
        """Lift a tangent vector to the shortest velocity of θ above it, ∂φ(θ)ᵀ K(z)⁺ ζ.

        Parameters
        ----------
        theta : Theta, optional
            A point of the invariant set over z; by default ``point(z)``.

        Returns
        -------
        horizontal_vec : Tangent
            At θ.
        """
        theta = self.point(z) if theta is None else theta
        return self.architecture.lift_vjp(theta, self.solve(z, tangent_vec))

    def parts(self, lifted: OneLifted) -> list[FloatArray]:
        """Split z, or a vector like it, where K is block diagonal: parts with units of their own.

        Returns
        -------
        parts : list of array
            By default one.
        """
        return [lifted]

    @property
    def horizontal_spaces(self) -> HorizontalSpaces:
        """The subspaces range ∂φᵀ of parameter space, which geodesics and curvature come from."""
        return LiftSpaces(self)

    def exact_distance(self, point_a: OneLifted, point_b: OneLifted) -> float | None:
        """Distance of two points where a formula is known: on a line, by quadrature."""
        point_a, point_b = self._one(point_a, "point_a"), self._one(point_b, "point_b")
        if self.architecture.lifted_dim > 1:
            return None
        unit = np.ones(self.lifted_shape)
        ends = point_a.item(), point_b.item()
        return line_distance(lambda z: self.apply(z * unit, unit).item(), *ends)


@doors
class IntrinsicMetric(HorizontalMetric):
    r"""The metric g_z = K_θ₀(z)⁻¹ on φ(𝓜_θ₀), one class for all families.

    With it φ is a Riemannian submersion from the invariant set, whose metric is Euclidean.
    Points and tangent vectors are those of the lifted space, so the matrices are extrinsic.

    Parameters
    ----------
    space : geomstats.geometry.manifold.Manifold
        The image φ(𝓜_θ₀).
    rtol : float
        Relative tolerance of geodesics and parallel transport.
    """

    def __init__(self, space: Any, cometric: Cometric, rtol: float = GEODESIC_RTOL) -> None:
        spaces = cometric.horizontal_spaces
        super().__init__(space, GeodesicSolver(cometric.architecture, spaces, rtol))
        self.cometric = cometric

    # How this metric lies below the parameters.

    def _point_above(self, point: FloatArray) -> FloatArray:
        theta = self.cometric.point(point)
        gap, size = length((self._point_below(theta) - point).ravel()), length(point.ravel())
        if gap > TANGENT_RTOL * size:
            raise NotOnImageError(
                f"a point is not on the image of the lift: relative residual {gap / size:.1e}, "
                f"expected at most {TANGENT_RTOL:.0e}; image().projection(point) moves it there",
                gap / size,
            )
        return theta

    def _vector_above(self, theta: FloatArray, vector: FloatArray) -> FloatArray:
        return self.cometric.horizontal_lift(self._point_below(theta), vector, theta=theta)

    def _point_below(self, theta: FloatArray) -> FloatArray:
        return self.cometric.architecture.lift(theta)

    def _vector_below(self, theta: FloatArray, vector: FloatArray) -> FloatArray:
        return self.cometric.architecture.lift_jvp(theta, vector)

    def _covector_below(self, theta: FloatArray, vector: FloatArray) -> FloatArray:
        return self.cometric.solve(self._point_below(theta), self._vector_below(theta, vector))

    def _parts(self, vector: FloatArray) -> list[FloatArray]:
        return self.cometric.parts(vector)

    def _exact_distance(self, point_a: FloatArray, point_b: FloatArray) -> float | None:
        return self.cometric.exact_distance(point_a, point_b)

    def cometric_apply(self, z: Point, covector: TangentVec) -> TangentVec:
        """Apply K(z) to a covector, matrix-free."""
        return self.cometric.apply(z, covector)

    def cometric_matrix(self, base_point: Point = None) -> LiftedMatrix:
        """K(z) as a dense matrix in lifted coordinates."""
        return self.cometric.matrix(base_point)

    def metric_matrix(self, base_point: Point = None) -> LiftedMatrix:
        """K(z)⁺ as a dense matrix in lifted coordinates, zero off the tangent space.

        Raises
        ------
        NotOnImageError
            K(z) is singular on the tangent space, as where a matrix z loses rank.
        """
        matrix = self.cometric.matrix(base_point)
        self.cometric._check_inverse(np.asarray(base_point))
        values, vectors = np.linalg.eigh(matrix)
        # Zeros are told by the entries that they come from: a small block has small eigenvalues.
        sizes = np.einsum("...ik,...ii->...k", vectors**2, matrix)
        order = np.argsort(values / np.where(sizes > 0, sizes, 1.0), axis=-1)
        kept = np.argsort(order, axis=-1) >= values.shape[-1] - self._space.dim
        inverse = np.where(kept, 1.0 / np.where(kept, values, 1.0), 0.0)
        return np.einsum("...ik,...k,...jk->...ij", vectors, inverse, vectors)

    def inner_product(
        self, tangent_vec_a: TangentVec, tangent_vec_b: TangentVec, base_point: Point
    ) -> Scalars:
        """Inner product ⟨a, K(z)⁻¹ b⟩ of tangent vectors."""
        return self.cometric.inner_product(base_point, tangent_vec_a, tangent_vec_b)

    def gradient(self, euclidean_gradient: TangentVec, z: Point) -> TangentVec:
        """Riemannian gradient K(z)∇f(z): the intrinsic flow runs down along it."""
        return self.cometric.apply(z, euclidean_gradient)

    def horizontal_lift(self, tangent_vec: TangentVec, z: Point) -> Tangent:
        """Lift a tangent vector to the shortest velocity of θ above it, ∂φ(θ)ᵀ K(z)⁻¹ ζ.

        Returns
        -------
        horizontal_vec : Tangent
            Tangent to the invariant set at the point recovered from z.
        """
        return self.cometric.horizontal_lift(z, tangent_vec)

    def christoffels(self, base_point: Point = None) -> Symbols:
        r"""Christoffel symbols in the entries of z, where the image is open, without deriving K.

        Geodesics z(t) lift to geodesics θ(t) of the invariant set, whose acceleration ∂φ does not
        see: z'' = ∂²φ(θ)[θ', θ'], so :math:`Γ(v, w) = −∂²φ(θ)[hor v, hor w]`.

        Returns
        -------
        christoffels : Symbols
            In the entries of z, the contravariant index first, as in geomstats.

        Raises
        ------
        NotImplementedError
            The image is not open, so that the entries of z are no coordinates.
        """
        architecture, shape = self.cometric.architecture, self._space.shape
        size = architecture.lifted_dim
        if self._space.dim < size:
            return super().christoffels(base_point)
        refuse_beyond(float(size) ** 2 * max(size, architecture.dim), "Christoffel symbols")
        theta = self.cometric.point(base_point)[..., None, :]
        z = np.expand_dims(base_point, -len(shape) - 1)
        frame = architecture.lift_vjp(
            theta, self.cometric.solve(z, np.eye(size).reshape(size, *shape))
        )
        bent = architecture.lift_hessian(
            theta[..., None, :], frame[..., :, None, :], frame[..., None, :, :]
        )
        bent = np.reshape(bent, (*frame.shape[:-2], size, size, size))
        return -np.moveaxis(bent, -1, -3)
