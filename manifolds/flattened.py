"""Images whose points are flat vectors, as geomstats.learning wants them."""

import math
from functools import wraps
from inspect import unwrap
from typing import Any, ClassVar

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.base import DiffeomorphicManifold
from geomstats.geometry.diffeo import Diffeo
from geomstats.geometry.euclidean import Euclidean
from geomstats.geometry.manifold import Manifold
from geomstats.geometry.pullback_metric import PullbackDiffeoMetric

from liftflow.architectures.base import architecture_of
from liftflow.doors import OnSpace, doors
from liftflow.metrics.geometry import IntrinsicMetric
from liftflow.typing import Flat, Point, Rng, Scalars, Symbols, TangentVec, as_array, refuse_beyond


class Unflattening(Diffeo):
    """Give flat vectors of a size a shape with as many entries; the map is linear."""

    def __init__(self, size: int, shape: tuple[int, ...]) -> None:
        self.size, self.shape = size, shape

    def __call__(self, base_point: Flat) -> Point:
        """Shape a vector."""
        base_point = as_array(base_point, "a point or vector", (self.size,))
        return gs.reshape(base_point, (*base_point.shape[:-1], *self.shape))

    def inverse(self, image_point: Point) -> Flat:
        """Flatten an array."""
        image_point = as_array(image_point, "a point or vector", self.shape)
        lead = image_point.shape[: image_point.ndim - len(self.shape)]
        return gs.reshape(image_point, (*lead, self.size))

    def tangent(
        self, tangent_vec: Flat, base_point: Flat = None, image_point: Point = None
    ) -> TangentVec:
        """Shape a vector, wherever it is."""
        return self(tangent_vec)

    def inverse_tangent(
        self, image_tangent_vec: TangentVec, image_point: Point = None, base_point: Flat = None
    ) -> Flat:
        """Flatten a vector, wherever it is."""
        return self.inverse(image_tangent_vec)


def _of_the_image(name: str) -> Any:
    """Forward a tensor to the metric of the image, at the point that a vector stands for."""

    @wraps(unwrap(getattr(IntrinsicMetric, name)))
    def forwarded(self: "CoordinateMetric", base_point: Flat = None) -> Any:
        return getattr(self.image_space.metric, name)(self.diffeo(base_point))

    return forwarded


@doors
class CoordinateMetric(OnSpace, PullbackDiffeoMetric):
    """A metric on vectors, with the curvature of the space that they stand for."""

    _varies: ClassVar[bool] = True

    def __init__(self, space: DiffeomorphicManifold) -> None:
        super().__init__(space=space, diffeo=space.diffeo, image_space=space.image_space)

    def riemann_tensor(self, base_point: Point = None) -> Symbols:
        """Return the components of the curvature, R_ijk^l = (R(e_j, e_k) e_i)^l as in geomstats.

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

    def inner_product_derivative_matrix(self, base_point: Point = None) -> Symbols:
        """Derive the metric, ∂_k g_ij, from the Christoffel symbols.

        Returns
        -------
        derivatives : Symbols
            The direction of the derivative last, as in geomstats.
        """
        metric_matrix, symbols = self.metric_matrix(base_point), self.christoffels(base_point)
        lowered = np.einsum("...il,...ljk->...ijk", metric_matrix, symbols)
        return lowered + np.swapaxes(lowered, -3, -2)

    scalar_curvature, injectivity_radius = map(
        _of_the_image, ("scalar_curvature", "injectivity_radius")
    )


@doors
class FlatMetric(CoordinateMetric):
    """The intrinsic metric on flat vectors; its matrices are those of the image, unchanged."""

    metric_matrix, cometric_matrix, christoffels, ricci_tensor = map(
        _of_the_image, ("metric_matrix", "cometric_matrix", "christoffels", "ricci_tensor")
    )

    def gradient(self, euclidean_gradient: Flat, z: Flat) -> Flat:
        """Riemannian gradient K(z)∇f(z)."""
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
    >>> flat = InvariantSet(layers, layers.balanced_point(0.5, 0)).image().flattened()
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

    def __repr__(self) -> str:
        """Say in one line what it is."""
        return f"FlatImage of {getattr(self, 'image_space', None)!r}"

    @staticmethod
    def default_metric() -> type[FlatMetric]:
        """Metric to equip the image with if ``equip`` is True."""
        return FlatMetric

    def belongs(self, point: Flat, atol: float = gs.atol) -> Scalars:
        """Check that a vector belongs to the image."""
        if np.shape(point)[-1:] != self.shape:
            return np.zeros(np.shape(point)[:-1], dtype=bool)
        return self.image_space.belongs(self.diffeo(point), atol)

    def is_tangent(self, vector: Flat, base_point: Flat, atol: float = gs.atol) -> Scalars:
        """Check that a vector is tangent to the image."""
        return self.image_space.is_tangent(self.diffeo(vector), self.diffeo(base_point), atol)

    def projection(self, point: Flat) -> Flat:
        """Move a nearby vector onto the image."""
        return self.diffeo.inverse(self.image_space.projection(self.diffeo(point)))

    def random_tangent_vec(self, base_point: Flat, n_samples: int = 1, rng: Rng = None) -> Flat:
        """Draw tangent vectors as the image does."""
        vectors = self.image_space.random_tangent_vec(self.diffeo(base_point), n_samples, rng)
        return self.diffeo.inverse(vectors)
