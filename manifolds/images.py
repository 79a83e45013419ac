"""Images φ(𝓜_θ₀) of invariant sets, as geomstats manifolds with their intrinsic metric."""

import math
from functools import singledispatch
from typing import Any

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.euclidean import Euclidean
from geomstats.geometry.manifold import Manifold
from geomstats.geometry.matrices import Matrices
from geomstats.geometry.nfold_manifold import NFoldManifold

from liftflow.architectures import Architecture, DeepLinear, ProductArchitecture, ReLUNetwork
from liftflow.doors import door, doors
from liftflow.errors import NotIntrinsicError, NotRecoverableError
from liftflow.linalg import over_batch
from liftflow.manifolds.flat import FlatImage
from liftflow.metrics import IntrinsicMetric, intrinsic_cometric
from liftflow.typing import (
    FloatArray,
    Lifted,
    LiftedTangent,
    OneTheta,
    Point,
    Rng,
    Scalars,
    TangentVec,
    as_array,
    as_count,
    as_own,
    as_rng,
    refuse_beyond,
)


@door
@singledispatch
def image_manifold(architecture: Architecture, theta0: OneTheta) -> Manifold:
    """Return the manifold φ(𝓜_θ₀), equipped; each family registers its own.

    Raises
    ------
    NotIntrinsicError
        None is registered for this family.
    """
    raise NotIntrinsicError(
        f"no image manifold is registered for {type(architecture).__name__}; register one with "
        "@image_manifold.register"
    )


def random_tangent_vec(space: Manifold, base_point: Point, n_samples: int, rng: Rng) -> TangentVec:
    """Draw a standard normal vector for each base point and project it onto the tangent space.

    Parameters
    ----------
    n_samples : int
        With several, ``base_point`` is one point.
    """
    count = as_count(n_samples, "n_samples", 1)
    refuse_beyond(count * math.prod(space.shape), f"{count} tangent vectors")
    shape = np.shape(base_point) if count == 1 else (count, *space.shape)
    return space.to_tangent(as_rng(rng).standard_normal(shape), base_point)


@doors
class LiftedImage(Manifold):
    """What the images of all families share: θ₀, the intrinsic metric, random points and vectors.

    A family writes ``dim``, ``belongs`` and ``to_tangent``.

    Parameters
    ----------
    dim : int
        Dimension of the image.
    equip : bool
        Whether to equip it with its :class:`~liftflow.metrics.IntrinsicMetric`.
    """

    def __init__(
        self, architecture: Architecture, theta0: OneTheta, dim: int, equip: bool = True
    ) -> None:
        self.architecture = architecture
        self.theta0: FloatArray = as_own(theta0, "theta0", (architecture.dim,))
        super().__init__(dim=dim, shape=architecture.lifted_shape, intrinsic=False, equip=equip)
        self.embedding_space = _vector_space(self.shape)

    def default_metric(self) -> tuple[type[IntrinsicMetric], dict[str, Any]]:
        """Metric to equip the image with if ``equip`` is True, and its arguments."""
        return IntrinsicMetric, {"cometric": intrinsic_cometric(self.architecture, self.theta0)}

    def flat(self) -> Manifold:
        """Return the same manifold with flat vectors for points, as geomstats.learning wants them.

        Returns
        -------
        flat : geomstats.geometry.manifold.Manifold
            Itself where points are vectors already.
        """
        return self if len(self.shape) == 1 else FlatImage(self)

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.shape), 0))

    def _shape_fits(self, point: Any) -> bool:
        return np.shape(point)[-len(self.shape) :] == self.shape

    def _refused(self, point: Any) -> FloatArray:
        """False for each entry of a batch of another shape."""
        return np.zeros(np.shape(point)[: -len(self.shape)], dtype=bool)

    def is_tangent(self, vector: TangentVec, base_point: Point, atol: float = gs.atol) -> Scalars:
        """Check that the tangent projection leaves a vector as it is.

        Parameters
        ----------
        atol : float
            Tolerance of the entries, relative to the largest of the vector.
        """
        gap = np.abs(self.to_tangent(vector, base_point) - vector)
        size = np.max(np.abs(vector), axis=self._axes)
        return np.max(gap, axis=self._axes) <= atol * size

    def projection(self, point: Point) -> Point:
        """Move a nearby point onto the image.

        Raises
        ------
        NotRecoverableError
            A ReLU network: all paths through some hidden node vanish.
        """
        return self.architecture.project_to_image(point, near=self.theta0)

    def random_point(self, n_samples: int = 1, bound: float = 1.0, rng: Rng = None) -> Point:
        """Lift random parameters of the architecture.

        Parameters
        ----------
        n_samples : int
            With one sample there is no sample axis.
        bound : float
            Scale of the parameters.
        """
        return self.architecture.lift(bound * self.architecture.random_point(n_samples, rng))

    def random_tangent_vec(
        self, base_point: Point, n_samples: int = 1, rng: Rng = None
    ) -> TangentVec:
        """Draw standard normal vectors and project them, one for each base point.

        Parameters
        ----------
        n_samples : int
            With several, ``base_point`` is one point.
        """
        return random_tangent_vec(self, base_point, n_samples, rng)


def _vector_space(shape: tuple[int, ...]) -> Manifold:
    """The vector space of arrays of a shape."""
    if len(shape) == 1:
        return Euclidean(*shape, equip=False)
    if len(shape) == 2:
        return Matrices(*shape, equip=False)
    return NFoldManifold(_vector_space(shape[1:]), shape[0], equip=False)


@doors
class PathImage(LiftedImage):
    """The path products of a ReLU network, φ(𝓜_θ₀), of dimension D − |H|.

    In every orthant log |z| runs through the range of the path–edge incidence. Points are vectors
    of all path products, so the manifold is extrinsic in ``Euclidean(n_paths)``.

    Parameters
    ----------
    equip : bool
        Whether to equip it with its :class:`~liftflow.metrics.IntrinsicMetric`.
    """

    architecture: ReLUNetwork

    def __init__(self, architecture: ReLUNetwork, theta0: OneTheta, equip: bool = True) -> None:
        super().__init__(architecture, theta0, architecture.dim - architecture.n_laws, equip)

    def residual(self, point: Lifted) -> Scalars:
        """Relative distance from a vector to the point of the image that is found for it.

        Paths of one length at a time, as ``ReLUNetwork.image_residual``.

        Returns
        -------
        residual : Scalars
            1 where all paths through some hidden node vanish, so that none is found.
        """
        point = as_array(point, "point", self.shape, differentiable=False)

        def residual(z: FloatArray) -> FloatArray:
            try:
                return np.asarray(self.architecture.image_residual(z, self.projection(z)))
            except NotRecoverableError:
                return np.array(1.0)

        return over_batch(residual, [point], [1], shape=())

    def belongs(self, point: Lifted, atol: float = gs.atol) -> Scalars:
        """Check that a vector is made of path products, by its relative residual.

        Parameters
        ----------
        atol : float
            Largest relative residual.
        """
        if not self._shape_fits(point):
            return self._refused(point)
        return self.residual(point) <= atol

    def to_tangent(self, vector: LiftedTangent, base_point: Lifted) -> LiftedTangent:
        """Project orthogonally onto the tangent space range ∂φ at a point."""
        theta = self.architecture.recover(base_point, self._laws0, near=self.theta0)
        return self.architecture.project_to_range(theta, vector)

    @property
    def _laws0(self) -> FloatArray:
        return np.asarray(self.architecture.conservation_laws(self.theta0))


@doors
class MatrixImage(LiftedImage):
    """The products of a linear network: matrices of full rank, or of a fixed smaller rank ρ.

    ρ is the smallest width, and the dimension is ρ (n + m − ρ). The tangent space at
    Z = P diag(σ) Qᵀ is {W : (I − PPᵀ) W (I − QQᵀ) = 0}.

    Parameters
    ----------
    architecture : DeepLinear
        Or another family of matrix products.
    equip : bool
        Whether to equip it with its :class:`~liftflow.metrics.IntrinsicMetric`.
    """

    architecture: DeepLinear

    def __init__(self, architecture: DeepLinear, theta0: OneTheta, equip: bool = True) -> None:
        self.rank = min(architecture.widths)
        rows, columns = architecture.lifted_shape
        super().__init__(architecture, theta0, self.rank * (rows + columns - self.rank), equip)

    def belongs(self, point: Lifted, atol: float = gs.atol) -> Scalars:
        """Check that a matrix has rank ρ, by its singular values relative to the largest.

        Parameters
        ----------
        atol : float
            Relative size below which a singular value counts as zero.
        """
        if not self._shape_fits(point):
            return self._refused(point)
        point = as_array(point, "point", self.shape, differentiable=False)
        singular = np.linalg.svd(point, compute_uv=False)
        relative = singular > atol * singular[..., :1]
        return np.sum(relative, axis=-1) == self.rank

    def to_tangent(self, vector: LiftedTangent, base_point: Lifted) -> LiftedTangent:
        """Project orthogonally onto the tangent space, dropping the corner of both kernels."""
        vector = as_array(vector, "vector", self.shape, differentiable=False)
        base_point = as_array(base_point, "base_point", self.shape, differentiable=False)
        left, _, right_t = np.linalg.svd(base_point, full_matrices=False)
        left, right_t = left[..., : self.rank], right_t[..., : self.rank, :]
        rest = vector - left @ (np.swapaxes(left, -1, -2) @ vector)
        return vector - (rest - (rest @ np.swapaxes(right_t, -1, -2)) @ right_t)


@doors
class ProductImage(LiftedImage):
    """The image of a product of architectures: the product of their images.

    Points keep the shape in which :class:`~liftflow.architectures.ProductArchitecture` lifts.

    Parameters
    ----------
    equip : bool
        Whether to equip it with its :class:`~liftflow.metrics.IntrinsicMetric`.
    """

    architecture: ProductArchitecture

    def __init__(
        self, architecture: ProductArchitecture, theta0: OneTheta, equip: bool = True
    ) -> None:
        parts = zip(architecture.factors, architecture.unpack(theta0), strict=True)
        self.factors = [image_manifold(factor, part) for factor, part in parts]
        super().__init__(architecture, theta0, sum(f.dim for f in self.factors), equip)

    def _split(self, *lifted: Any) -> Any:
        """Factors with their parts of each argument."""
        parts = [self.architecture.split_lifted(each) for each in lifted]
        return zip(self.factors, *parts, strict=True)

    def belongs(self, point: Point, atol: float = gs.atol) -> Scalars:
        """Check every factor.

        Parameters
        ----------
        atol : float
            Tolerance of each factor.
        """
        if not self._shape_fits(point):
            return self._refused(point)
        return np.all([f.belongs(part, atol) for f, part in self._split(point)], axis=0)

    def is_tangent(self, vector: TangentVec, base_point: Point, atol: float = gs.atol) -> Scalars:
        """Check every factor.

        Parameters
        ----------
        atol : float
            Tolerance of each factor.
        """
        parts = self._split(vector, base_point)
        return np.all([f.is_tangent(v, part, atol) for f, v, part in parts], axis=0)

    def to_tangent(self, vector: TangentVec, base_point: Point) -> TangentVec:
        """Project orthogonally onto the tangent space, factor by factor."""
        parts = self._split(vector, base_point)
        return self.architecture.join_lifted([f.to_tangent(v, part) for f, v, part in parts])


@image_manifold.register
def _(architecture: ReLUNetwork, theta0: Any) -> PathImage:
    return PathImage(architecture, theta0)


@image_manifold.register
def _(architecture: DeepLinear, theta0: Any) -> MatrixImage:
    return MatrixImage(architecture, theta0)


@image_manifold.register
def _(architecture: ProductArchitecture, theta0: Any) -> ProductImage:
    return ProductImage(architecture, theta0)
