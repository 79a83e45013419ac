"""Images whose points are flat vectors, as geomstats.learning wants them."""

import math
from typing import Any, ClassVar

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.base import DiffeomorphicManifold
from geomstats.geometry.diffeo import Diffeo
from geomstats.geometry.euclidean import Euclidean
from geomstats.geometry.manifold import Manifold
from geomstats.geometry.pullback_metric import PullbackDiffeoMetric

from liftflow.architectures.base import architecture_of
from liftflow.doors import doors
from liftflow.typing import (
    FloatArray,
    LiftedMatrix,
    Point,
    Rng,
    Scalars,
    Symbols,
    TangentVec,
    as_array,
    refuse_beyond,
)


class Unflattening(Diffeo):
    """Give flat vectors a shape.

    Parameters
    ----------
    size : int
        Number of entries.
    shape : tuple of int
        With ``size`` entries.
    """

    def __init__(self, size: int, shape: tuple[int, ...]) -> None:
        self.size, self.shape = size, shape

    def __call__(self, base_point: Any) -> Point:
        """Shape a vector.

        Parameters
        ----------
        base_point : array-like, shape=[..., size]
        """
        base_point = as_array(base_point, "a point or vector", (self.size,))
        return gs.reshape(base_point, (*base_point.shape[:-1], *self.shape))

    def inverse(self, image_point: Point) -> Any:
        """Flatten an array.

        Returns
        -------
        base_point : array, shape=[..., size]
        """
        image_point = as_array(image_point, "a point or vector", self.shape)
        lead = image_point.shape[: image_point.ndim - len(self.shape)]
        return gs.reshape(image_point, (*lead, self.size))

    def tangent(
        self, tangent_vec: Any, base_point: Any = None, image_point: Any = None
    ) -> TangentVec:
        """Shape a vector: the map is linear.

        Parameters
        ----------
        tangent_vec : array-like, shape=[..., size]
        base_point, image_point : array-like, optional
            Not used.
        """
        return self(tangent_vec)

    def inverse_tangent(
        self, image_tangent_vec: TangentVec, image_point: Any = None, base_point: Any = None
    ) -> Any:
        """Flatten an array: the map is linear.

        Parameters
        ----------
        image_point, base_point : array-like, optional
            Not used.

        Returns
        -------
        tangent_vec : array, shape=[..., size]
        """
        return self.inverse(image_tangent_vec)


@doors
class CoordinateMetric(PullbackDiffeoMetric):
    """A metric on vectors, with the curvature of the space that they stand for."""

    _varies: ClassVar[bool] = True

    def __init__(self, space: DiffeomorphicManifold) -> None:
        super().__init__(space=space, diffeo=space.diffeo, image_space=space.image_space)

    def riemann_tensor(self, base_point: Any = None) -> FloatArray:
        """Return the components of the curvature, R_ijk^l = (R(e_j, e_k) e_i)^l as in geomstats.

        Parameters
        ----------
        base_point : array-like, shape=[..., n]

        Returns
        -------
        riemann_tensor : array, shape=[..., n, n, n, n]

        Raises
        ------
        NotImplementedError
            The vectors are no coordinates: there are more of them than dimensions.
        """
        (size,) = self._space.shape
        if self._space.dim < size:
            raise NotImplementedError(
                f"points are {size} numbers on a manifold of dimension {self._space.dim}, so the "
                "Riemann tensor has no components in them; use curvature(a, b, c, base_point)"
            )
        refuse_beyond(float(size) ** 4 * math.prod(np.shape(base_point)[:-1]), "the Riemann tensor")
        first, second = np.triu_indices(size, 1)  # R(e_j, e_k) is skew in j and k
        axes = np.eye(size)
        tensor = np.zeros((*np.shape(base_point)[:-1], *(size,) * 4))
        for i, axis in enumerate(axes):
            point = np.asarray(base_point)[..., None, :]
            own = self.curvature(axes[first], axes[second], axis, point)
            tensor[..., i, first, second, :], tensor[..., i, second, first, :] = own, -own
        return tensor

    def inner_product_derivative_matrix(self, base_point: Any = None) -> FloatArray:
        """Derive the metric, ∂_k g_ij, from the Christoffel symbols.

        Parameters
        ----------
        base_point : array-like, shape=[..., n]

        Returns
        -------
        derivatives : array, shape=[..., n, n, n]
            The direction of the derivative last, as in geomstats.
        """
        metric_matrix, symbols = self.metric_matrix(base_point), self.christoffels(base_point)
        lowered = np.einsum("...il,...ljk->...ijk", metric_matrix, symbols)
        return lowered + np.swapaxes(lowered, -3, -2)

    def scalar_curvature(self, base_point: Any = None) -> Scalars:
        """Scalar curvature, that of the space the vectors stand for.

        Parameters
        ----------
        base_point : array-like, shape=[..., n]
        """
        return self.image_space.metric.scalar_curvature(self.diffeo(base_point))

    def injectivity_radius(self, base_point: Any = None) -> Scalars:
        """Injectivity radius of the space that the vectors stand for.

        Parameters
        ----------
        base_point : array-like, shape=[..., n]

        Raises
        ------
        NotImplementedError
            It is not known.
        """
        return self.image_space.metric.injectivity_radius(self.diffeo(base_point))


@doors
class FlatMetric(CoordinateMetric):
    """The intrinsic metric on flat vectors."""

    def metric_matrix(self, base_point: Any = None) -> LiftedMatrix:
        """Return K(z)⁺ as a dense matrix, zero off the tangent space.

        Parameters
        ----------
        base_point : array-like, shape=[..., d]
        """
        return self.image_space.metric.metric_matrix(self.diffeo(base_point))

    def cometric_matrix(self, base_point: Any = None) -> LiftedMatrix:
        """K(z) as a dense matrix.

        Parameters
        ----------
        base_point : array-like, shape=[..., d]
        """
        return self.image_space.metric.cometric_matrix(self.diffeo(base_point))

    def christoffels(self, base_point: Any = None) -> Symbols:
        """Christoffel symbols in the entries of z, where these are coordinates.

        Parameters
        ----------
        base_point : array-like, shape=[..., d]

        Raises
        ------
        NotImplementedError
            The image is not open.
        """
        return self.image_space.metric.christoffels(self.diffeo(base_point))

    def ricci_tensor(self, base_point: Any = None) -> LiftedMatrix:
        """Ricci tensor as a bilinear form, zero off the tangent space.

        Parameters
        ----------
        base_point : array-like, shape=[..., d]
        """
        return self.image_space.metric.ricci_tensor(self.diffeo(base_point))

    def gradient(self, euclidean_gradient: Any, z: Any) -> Any:
        """Riemannian gradient K(z)∇f(z).

        Parameters
        ----------
        euclidean_gradient, z : array-like, shape=[..., d]

        Returns
        -------
        gradient : array, shape=[..., d]
        """
        metric = self.image_space.metric
        return self.diffeo.inverse(metric.gradient(self.diffeo(euclidean_gradient), self.diffeo(z)))


@doors
class FlatImage(DiffeomorphicManifold):
    """An image whose points are flattened, and that is else the same: an isometry.

    The learning algorithms of geomstats take points that are vectors.

    Examples
    --------
    >>> from liftflow.architectures import TwoLayerLinear
    >>> from liftflow.manifolds import InvariantSet
    >>> layers = TwoLayerLinear(3, 2, 2)
    >>> flat = InvariantSet(layers, layers.balanced_point(0.5, 0)).image().flat()
    >>> flat.shape, flat.random_point(4, rng=0).shape
    ((6,), (4, 6))
    """

    def __init__(self, image: Manifold) -> None:
        size = architecture_of(image, "image").lifted_dim
        self.embedding_space = Euclidean(size, equip=False)
        super().__init__(
            diffeo=Unflattening(size, image.shape),
            image_space=image,
            dim=image.dim,
            shape=(size,),
            intrinsic=False,
        )

    @staticmethod
    def default_metric() -> type[FlatMetric]:
        """Metric to equip the image with if ``equip`` is True."""
        return FlatMetric

    def belongs(self, point: Any, atol: float = gs.atol) -> Scalars:
        """Check that a vector belongs to the image.

        Parameters
        ----------
        point : array-like, shape=[..., d]
        atol : float
            As that of the image.
        """
        point = np.asarray(point)
        if point.shape[-1:] != self.shape:
            return gs.zeros(point.shape[:-1]) > 0
        return self.image_space.belongs(self.diffeo(point), atol)

    def is_tangent(self, vector: Any, base_point: Any, atol: float = gs.atol) -> Scalars:
        """Check that a vector is tangent to the image.

        Parameters
        ----------
        vector, base_point : array-like, shape=[..., d]
        atol : float
            As that of the image.
        """
        return self.image_space.is_tangent(self.diffeo(vector), self.diffeo(base_point), atol)

    def projection(self, point: Any) -> Any:
        """Move a nearby vector onto the image.

        Parameters
        ----------
        point : array-like, shape=[..., d]

        Returns
        -------
        point : array, shape=[..., d]
        """
        return self.diffeo.inverse(self.image_space.projection(self.diffeo(point)))

    def random_tangent_vec(self, base_point: Any, n_samples: int = 1, rng: Rng = None) -> Any:
        """Draw tangent vectors as the image does.

        Parameters
        ----------
        base_point : array-like, shape=[..., d]
        n_samples : int
            With several, ``base_point`` is one point.

        Returns
        -------
        tangent_vec : array, shape=[..., d]
        """
        vectors = self.image_space.random_tangent_vec(self.diffeo(base_point), n_samples, rng)
        return self.diffeo.inverse(vectors)
