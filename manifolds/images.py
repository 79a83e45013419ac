"""Images φ(𝓜_θ₀) of invariant sets, as geomstats manifolds with their intrinsic metric."""

import math
from collections.abc import Iterator
from functools import cached_property, singledispatch
from typing import Any

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.euclidean import Euclidean
from geomstats.geometry.manifold import Manifold
from geomstats.geometry.matrices import Matrices
from geomstats.geometry.nfold_manifold import NFoldManifold

from liftflow.architectures import (
    Architecture,
    DeepLinear,
    ProductArchitecture,
    ReLUNetwork,
    ScaleInvariant,
)
from liftflow.doors import Described, door, doors
from liftflow.errors import NotOnImageError, NotRecoverableError
from liftflow.linalg import lengths, over_batch
from liftflow.manifolds.flattened import FlatImage
from liftflow.metrics import IntrinsicMetric, intrinsic_cometric
from liftflow.typing import (
    FloatArray,
    Lifted,
    LiftedTangent,
    OneLifted,
    OneTheta,
    Point,
    Rng,
    Scalars,
    TangentVec,
    Theta,
    as_array,
    as_count,
    as_own,
    as_rng,
    freeze,
    refuse_beyond,
)


def points_of_size(
    architecture: Architecture, theta0: OneTheta, n_samples: int, bound: float, rng: Rng
) -> Theta:
    """Draw parameters of the size of θ₀, times ``bound``: at cθ₀, those drawn at θ₀ times c."""
    unit = float(lengths(np.asarray(architecture.random_point(rng=0)))) or 1.0
    return (
        bound * (float(lengths(theta0)) or unit) / unit * architecture.random_point(n_samples, rng)
    )


class RandomVectors(Described):
    """A space whose random tangent vectors are drawn one for each base point."""

    dim: int
    shape: tuple[int, ...]

    def _facts(self) -> str:
        return f"dimension {self.dim:,}"

    def to_tangent(self, vector: TangentVec, base_point: Point) -> TangentVec:
        """Project onto the tangent space."""
        raise NotImplementedError

    def random_tangent_vec(
        self, base_point: Point, n_samples: int = 1, rng: Rng = None
    ) -> TangentVec:
        """Draw standard normal vectors and project them; several at one point, or one at each."""
        count = as_count(n_samples, "n_samples", 1)
        refuse_beyond(count * math.prod(self.shape), f"{count} tangent vectors")
        shape = np.shape(base_point) if count == 1 else (count, *self.shape)
        return self.to_tangent(as_rng(rng).standard_normal(shape), base_point)


@doors
class LiftedImage(RandomVectors, Manifold):
    """The image of any architecture whose parameter can be recovered from z and the laws.

    A point belongs where a parameter of the invariant set is found over it; its tangent space is
    the range of ∂φ there. A family writes what it knows better.

    Parameters
    ----------
    dim : int, optional
        Dimension of the image; by default the rank of ∂φ(θ₀).

    Raises
    ------
    NotIntrinsicError
        There is no such metric: neither a closed form, nor can θ be recovered.
    """

    _meets_all_fibres: bool = False
    """Whether the image of the invariant set is that of all parameters, as it is known to be."""

    def __init__(
        self,
        architecture: Architecture,
        theta0: OneTheta,
        dim: int | None = None,
        equip: bool = True,
    ) -> None:
        self.architecture = architecture
        self.theta0: FloatArray = as_own(theta0, "theta0", (architecture.dim,))
        dim = architecture.lift_rank(self.theta0) if dim is None else as_count(dim, "dim")
        super().__init__(dim=dim, shape=architecture.lifted_shape, intrinsic=False, equip=equip)
        self.embedding_space = _vector_space(self.shape)

    def default_metric(self) -> tuple[type[IntrinsicMetric], dict[str, object]]:
        """Metric to equip the image with if ``equip`` is True, and its arguments."""
        return IntrinsicMetric, {"cometric": intrinsic_cometric(self.architecture, self.theta0)}

    def flattened(self) -> Manifold:
        """Return the same manifold with flat vectors for points, as geomstats.learning wants them.

        It is the image itself where points are vectors already.
        """
        return self if len(self.shape) == 1 else FlatImage(self)

    flat = flattened

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.shape), 0))

    @cached_property
    def _laws0(self) -> FloatArray:
        return freeze(np.asarray(self.architecture.conservation_laws(self.theta0)))

    def _recovered(self, point: OneLifted) -> FloatArray:
        return np.asarray(self.architecture.recover(point, self._laws0, near=self.theta0))

    def residual(self, point: Lifted) -> Scalars:
        """Relative distance from a point to the one of the image that is found for it, or 1.

        Each entry counts in units of the terms that it is a sum of.
        """
        point = as_array(point, "point", self.shape, differentiable=False)

        def residual(z: FloatArray) -> FloatArray:
            try:
                return np.asarray(self._residual(z, np.asarray(self.projection(z))))
            except (NotRecoverableError, NotOnImageError):
                return np.array(1.0)

        return over_batch(residual, [point], [len(self.shape)], shape=())

    def _residual(self, z: FloatArray, projected: FloatArray) -> float:
        terms = np.ravel(self.architecture.phi.terms(self._recovered(projected)))
        gap = np.ravel(np.abs(projected - z))
        return float(np.max(gap[gap > 0] / terms[gap > 0], initial=0.0))

    def belongs(self, point: Lifted, atol: float = gs.atol) -> Scalars:
        """Check that a point is the lift of a parameter of the set, by its relative residual."""
        lead = len(np.shape(point)) - len(self.shape)
        if np.shape(point)[max(lead, 0) :] != self.shape:
            return np.zeros(np.shape(point)[: max(lead, 0)], dtype=bool)
        return self._belongs(as_array(point, "point", self.shape, differentiable=False), atol)

    def _belongs(self, point: FloatArray, atol: float) -> Scalars:
        return self.residual(point) <= atol

    def to_tangent(self, vector: LiftedTangent, base_point: Lifted) -> LiftedTangent:
        """Project orthogonally onto the tangent space range ∂φ at a point."""
        vector = as_array(vector, "vector", self.shape, differentiable=False)
        base_point = as_array(base_point, "base_point", self.shape, differentiable=False)
        if self.dim == self.architecture.lifted_dim:
            return vector + 0.0 * base_point

        def project(vector: FloatArray, point: FloatArray) -> FloatArray:
            return np.asarray(self.architecture.project_to_range(self._recovered(point), vector))

        return over_batch(project, [vector, base_point], [len(self.shape)] * 2, self.shape)

    def is_tangent(self, vector: TangentVec, base_point: Point, atol: float = gs.atol) -> Scalars:
        """Check that a vector is its tangent projection, relative to its largest entry."""
        gap = np.abs(self.to_tangent(vector, base_point) - vector)
        size = np.max(np.abs(vector), axis=self._axes)
        return np.max(gap, axis=self._axes) <= atol * size

    def projection(self, point: Point) -> Point:
        """Move a nearby point onto the image.

        Raises
        ------
        NotRecoverableError
            None was found; for a ReLU network, all paths through some hidden node vanish.
        """
        return self.architecture.project_to_image(point, near=self.theta0)

    def random_point(self, n_samples: int = 1, bound: float = 1.0, rng: Rng = None) -> Point:
        """Lift random parameters of the size of θ₀, times ``bound``, if need be from the set.

        With one sample there is no sample axis.
        """
        theta = points_of_size(self.architecture, self.theta0, n_samples, bound, rng)
        if not self._meets_all_fibres:
            theta = self.architecture.project_to_laws(theta, self._laws0)
        return self.architecture.lift(theta)


def _vector_space(shape: tuple[int, ...]) -> Manifold:
    """The vector space of arrays of a shape."""
    if len(shape) <= 1:
        return Euclidean(*(shape or (1,)), equip=False)  # numbers are points of a line, too
    if len(shape) == 2:
        return Matrices(*shape, equip=False)
    return NFoldManifold(_vector_space(shape[1:]), shape[0], equip=False)


@doors
class PathImage(LiftedImage):
    """The path products of a ReLU network, φ(𝓜_θ₀), of dimension D − |H|.

    In every orthant log |z| runs through the range of the path–edge incidence. Residuals are taken
    of paths of one length at a time, as ``ReLUNetwork.image_residual``.
    """

    architecture: ReLUNetwork
    _meets_all_fibres = True

    def _residual(self, z: FloatArray, projected: FloatArray) -> float:
        return self.architecture.image_residual(z, projected)


@doors
class MatrixImage(LiftedImage):
    """The products of a linear network: matrices of full rank, or of a fixed smaller rank ρ.

    ρ is the smallest width, and the dimension is ρ (n + m − ρ). The tangent space at
    Z = P diag(σ) Qᵀ is {W : (I − PPᵀ) W (I − QQᵀ) = 0}.
    """

    architecture: DeepLinear
    _meets_all_fibres = True

    def __init__(self, architecture: DeepLinear, theta0: OneTheta, equip: bool = True) -> None:
        self.rank = min(architecture.widths)
        rows, columns = architecture.lifted_shape
        super().__init__(architecture, theta0, self.rank * (rows + columns - self.rank), equip)

    def _belongs(self, point: FloatArray, atol: float) -> Scalars:
        """Whether the rank is ρ, by singular values relative to the largest."""
        singular = np.linalg.svd(point, compute_uv=False)
        relative = singular > atol * singular[..., :1]
        return np.sum(relative, axis=-1) == self.rank

    def to_tangent(self, vector: LiftedTangent, base_point: Lifted) -> LiftedTangent:
        """Project orthogonally onto the tangent space, dropping the corner of both null spaces."""
        vector = as_array(vector, "vector", self.shape, differentiable=False)
        base_point = as_array(base_point, "base_point", self.shape, differentiable=False)
        left, _, right_t = np.linalg.svd(base_point, full_matrices=False)
        left, right_t = left[..., : self.rank], right_t[..., : self.rank, :]
        rest = vector - left @ (np.swapaxes(left, -1, -2) @ vector)
        return vector - (rest - (rest @ np.swapaxes(right_t, -1, -2)) @ right_t)


@doors
class SphereImage(LiftedImage):
    """The directions of scale-invariant weights: a product of spheres, one for each group."""

    architecture: ScaleInvariant
    _meets_all_fibres = True

    def _residual(self, z: FloatArray, projected: FloatArray) -> float:
        return float(np.max(np.abs(projected - z)))

    def to_tangent(self, vector: LiftedTangent, base_point: Lifted) -> LiftedTangent:
        """Project orthogonally, dropping the part along each direction."""
        vector = as_array(vector, "vector", self.shape, differentiable=False)
        base_point = as_array(base_point, "base_point", self.shape, differentiable=False)
        flat = base_point.reshape((*base_point.shape[: -len(self.shape)], self.architecture.dim))
        return self.architecture.project_to_range(flat, vector)


@doors
class ProductImage(LiftedImage):
    """The image of a product of architectures: the product of their images.

    Points keep the shape in which :class:`~liftflow.architectures.ProductArchitecture` lifts.
    """

    architecture: ProductArchitecture

    def __init__(
        self, architecture: ProductArchitecture, theta0: OneTheta, equip: bool = True
    ) -> None:
        parts = zip(architecture.factors, architecture.unpack(theta0), strict=True)
        self.factors = [image_manifold(factor, part) for factor, part in parts]
        self._meets_all_fibres = all(factor._meets_all_fibres for factor in self.factors)
        super().__init__(architecture, theta0, sum(f.dim for f in self.factors), equip)

    def _split(self, *lifted: Lifted) -> Iterator[Any]:
        """Factors with their parts of each argument."""
        parts = [self.architecture.split_lifted(each) for each in lifted]
        return zip(self.factors, *parts, strict=True)

    def _belongs(self, point: FloatArray, atol: float) -> Scalars:
        return np.all([f.belongs(part, atol) for f, part in self._split(point)], axis=0)

    def is_tangent(self, vector: TangentVec, base_point: Point, atol: float = gs.atol) -> Scalars:
        parts = self._split(vector, base_point)
        return np.all([f.is_tangent(v, part, atol) for f, v, part in parts], axis=0)

    def to_tangent(self, vector: TangentVec, base_point: Point) -> TangentVec:
        parts = self._split(vector, base_point)
        return self.architecture.join_lifted([f.to_tangent(v, part) for f, v, part in parts])


@door
@singledispatch
def image_manifold(architecture: Architecture, theta0: OneTheta) -> Manifold:
    """Return the manifold φ(𝓜_θ₀), equipped; a family may register one that knows more.

    Raises
    ------
    NotIntrinsicError
        There is no intrinsic metric: neither a closed form, nor can θ be recovered.
    """
    return LiftedImage(architecture, theta0)


image_manifold.register(ReLUNetwork, PathImage)
image_manifold.register(DeepLinear, MatrixImage)
image_manifold.register(ScaleInvariant, SphereImage)
image_manifold.register(ProductArchitecture, ProductImage)
