"""Images φ(𝓜_θ₀) of invariant sets, as geomstats manifolds with their intrinsic metric."""

from functools import singledispatch
from typing import Any

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.euclidean import Euclidean
from geomstats.geometry.manifold import Manifold

from liftflow.architectures import Architecture, ReLUNetwork
from liftflow.errors import NotIntrinsicError, NotRecoverableError
from liftflow.linalg import over_batch
from liftflow.metrics import IntrinsicMetric, intrinsic_cometric
from liftflow.typing import FloatArray, Rng, as_array, as_count, as_rng


@singledispatch
def image_manifold(architecture: Architecture, theta0: Any) -> Manifold:
    """Return the manifold φ(𝓜_θ₀), equipped; each family registers its own.

    Parameters
    ----------
    architecture : Architecture
    theta0 : array-like, shape=[dim]

    Returns
    -------
    image : geomstats.geometry.manifold.Manifold

    Raises
    ------
    NotIntrinsicError
        None is registered for this family.
    """
    raise NotIntrinsicError(
        f"no image manifold is registered for {type(architecture).__name__}; register one with "
        "@image_manifold.register"
    )


def random_tangent_vec(space: Manifold, base_point: Any, n_samples: int, rng: Rng) -> Any:
    """Draw a standard normal vector for each base point and project it onto the tangent space.

    Parameters
    ----------
    space : geomstats.geometry.manifold.Manifold
    base_point : array-like, shape=[..., *point_shape]
    n_samples : int
        With several, ``base_point`` is one point.
    rng : numpy.random.Generator or int or None

    Returns
    -------
    tangent_vec : array, shape=[..., *point_shape]
    """
    count = as_count(n_samples, "n_samples", 1)
    shape = np.shape(base_point) if count == 1 else (count, *space.shape)
    return space.to_tangent(as_rng(rng).standard_normal(shape), base_point)


class PathImage(Manifold):
    """The path products of a ReLU network, φ(𝓜_θ₀), of dimension D − |H|.

    In every orthant log |z| runs through the range of the path–edge incidence. Points are vectors
    of all path products, so the manifold is extrinsic in ``Euclidean(n_paths)``.

    Parameters
    ----------
    architecture : ReLUNetwork
    theta0 : array-like, shape=[dim]
    equip : bool
        Whether to equip it with its :class:`~liftflow.metrics.IntrinsicMetric`.
    """

    def __init__(self, architecture: ReLUNetwork, theta0: Any, equip: bool = True) -> None:
        self.architecture = architecture
        self.theta0: FloatArray = as_array(
            theta0, "theta0", (architecture.dim,), batch=False, differentiable=False
        )
        super().__init__(
            dim=architecture.dim - architecture.n_hidden,
            shape=architecture.lifted_shape,
            intrinsic=False,
            equip=equip,
        )
        self.embedding_space = Euclidean(architecture.lifted_dim, equip=False)

    def default_metric(self) -> tuple[type[IntrinsicMetric], dict[str, Any]]:
        """Metric to equip the image with if ``equip`` is True, and its arguments.

        Returns
        -------
        metric : tuple of type and dict
        """
        return IntrinsicMetric, {"cometric": intrinsic_cometric(self.architecture, self.theta0)}

    def residual(self, point: Any) -> FloatArray:
        """Relative distance from a vector to the point of the image that is found for it.

        Parameters
        ----------
        point : array-like, shape=[..., n_paths]

        Returns
        -------
        residual : array, shape=[...]
            1 where all paths through some hidden node vanish, so that none is found.
        """
        point = as_array(point, "point", self.shape, differentiable=False)

        def residual(z: FloatArray) -> FloatArray:
            try:
                gap = np.linalg.norm(self.projection(z) - z)
            except NotRecoverableError:
                return np.array(1.0)
            return np.asarray(gap / np.linalg.norm(z)) if gap else np.array(0.0)

        return over_batch(residual, [point], [1])

    def belongs(self, point: Any, atol: float = gs.atol) -> Any:
        """Check that a vector is made of path products, by its relative residual.

        Parameters
        ----------
        point : array-like, shape=[..., n_paths]
        atol : float
            Largest relative residual.

        Returns
        -------
        belongs : array, shape=[...]
        """
        shape = np.shape(point)
        if shape[-1:] != self.shape:
            return np.zeros(shape[:-1], dtype=bool)
        return self.residual(point) <= atol

    def is_tangent(self, vector: Any, base_point: Any, atol: float = gs.atol) -> Any:
        """Check that the tangent projection leaves a vector as it is.

        Parameters
        ----------
        vector, base_point : array-like, shape=[..., n_paths]
        atol : float
            Tolerance, entry by entry.

        Returns
        -------
        is_tangent : array, shape=[...]
        """
        gap = np.abs(self.to_tangent(vector, base_point) - vector)
        return np.all(gap <= atol, axis=-1)

    def to_tangent(self, vector: Any, base_point: Any) -> FloatArray:
        """Project orthogonally onto the tangent space range ∂φ at a point.

        Parameters
        ----------
        vector, base_point : array-like, shape=[..., n_paths]

        Returns
        -------
        tangent_vec : array, shape=[..., n_paths]
        """
        theta = self.architecture.recover(base_point, self._laws0, near=self.theta0)
        return self.architecture.project_to_range(theta, vector)

    @property
    def _laws0(self) -> FloatArray:
        return np.asarray(self.architecture.conservation_laws(self.theta0))

    def projection(self, point: Any) -> FloatArray:
        """Move a nearby vector onto the image: rebuild all paths from the strongest basis of them.

        Parameters
        ----------
        point : array-like, shape=[..., n_paths]

        Returns
        -------
        z : array, shape=[..., n_paths]

        Raises
        ------
        NotRecoverableError
            All paths through some hidden node vanish.
        """
        return self.architecture.lift(self.architecture.image_representative(point))

    def random_point(self, n_samples: int = 1, bound: float = 1.0, rng: Rng = None) -> FloatArray:
        """Lift random parameters of the network.

        Parameters
        ----------
        n_samples : int
            With one sample there is no sample axis.
        bound : float
            Scale of the parameters.
        rng : numpy.random.Generator or int, optional

        Returns
        -------
        z : array, shape=[..., n_paths]
        """
        return self.architecture.lift(bound * self.architecture.random_point(n_samples, rng))

    def random_tangent_vec(
        self, base_point: Any, n_samples: int = 1, rng: Rng = None
    ) -> FloatArray:
        """Draw standard normal vectors and project them, one for each base point.

        Parameters
        ----------
        base_point : array-like, shape=[..., n_paths]
        n_samples : int
            With several, ``base_point`` is one point.
        rng : numpy.random.Generator or int, optional

        Returns
        -------
        tangent_vec : array, shape=[..., n_paths]
        """
        return random_tangent_vec(self, base_point, n_samples, rng)


@image_manifold.register
def _(architecture: ReLUNetwork, theta0: Any) -> PathImage:
    return PathImage(architecture, theta0)
