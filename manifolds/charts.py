"""Coordinates of the images, in which tensors have entries."""

from functools import singledispatch

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.base import DiffeomorphicManifold, LevelSet
from geomstats.geometry.diffeo import Diffeo
from geomstats.geometry.manifold import Manifold

from liftflow.architectures import Architecture, DeepLinear, ProductArchitecture, ReLUNetwork
from liftflow.architectures.base import architecture_of
from liftflow.architectures.paths import BasisPathChart
from liftflow.doors import door, doors
from liftflow.manifolds.flattened import CoordinateMetric
from liftflow.typing import (
    FloatArray,
    Matrix,
    OneTheta,
    Rng,
    Scalars,
    States,
    Symbols,
    Tangent,
    Theta,
    as_array,
    refuse_beyond,
)


@door
@singledispatch
def chart_manifold(
    architecture: Architecture, invariant_set: LevelSet, theta: OneTheta
) -> Manifold:
    """Return the manifold of coordinates of the image about φ(θ); each family registers its own.

    Raises
    ------
    NotImplementedError
        None is registered for this family, or the image is not covered by one.
    """
    raise NotImplementedError(
        f"no coordinates of the image are known for {type(architecture).__name__}; curvature, "
        "geodesics and parallel transport need none: use image().metric"
    )


class BasisPathCoordinates(Diffeo):
    """Coordinates x of a ReLU network's image to the parameter Ψ(x, h(θ₀)) above.

    φ is a local isometry from the invariant set.
    """

    def __init__(self, invariant_set: LevelSet, chart: BasisPathChart) -> None:
        self.invariant_set, self.chart = invariant_set, chart

    def __call__(self, base_point: Theta) -> Theta:
        """Recover θ from its coordinates."""
        return self.chart.recover(base_point, self.invariant_set.laws0)

    def inverse(self, image_point: Theta) -> Tangent:
        """Evaluate the products along the basis paths."""
        return self.chart.coordinates(image_point)

    def tangent(
        self,
        tangent_vec: Tangent,
        base_point: Theta | None = None,
        image_point: Theta | None = None,
    ) -> Tangent:
        """Lift a velocity of the coordinates horizontally, at one of the two points."""
        theta = self(base_point) if image_point is None else image_point
        above = self.chart.lift_tangent(theta, tangent_vec)
        # Two velocities above differ by a rescaling, which is orthogonal to the invariant set.
        return self.invariant_set.to_tangent(above, theta)

    def inverse_tangent(
        self,
        image_tangent_vec: Tangent,
        image_point: Theta | None = None,
        base_point: Theta | None = None,
    ) -> Tangent:
        """Push a velocity of θ forward to the coordinates, at one of the two points."""
        theta = self(base_point) if image_point is None else image_point
        return self.chart.push_forward(theta, image_tangent_vec)


@doors
class ChartMetric(CoordinateMetric):
    """The intrinsic metric in basis-path coordinates, of which no derivative is ever taken.

    Geodesics z(t) of the image lift to geodesics θ(t) of the invariant set, whose acceleration is
    normal to it, so that ∂x does not see it: x'' = ∂²x(θ)[θ', θ']. Hence the Christoffel symbols.
    """

    def _frame(self, base_point: Theta) -> tuple[FloatArray, FloatArray]:
        """θ, and the horizontal lifts of the coordinate fields, shape=[..., dim, D]."""
        theta = self.diffeo(base_point)
        return theta, self.diffeo.tangent(np.eye(self._space.dim), image_point=theta[..., None, :])

    def metric_matrix(self, base_point: Theta = None) -> Matrix:
        """Inner products of the coordinate fields."""
        _, frame = self._frame(base_point)
        return frame @ np.swapaxes(frame, -1, -2)

    def cometric_matrix(self, base_point: Theta = None) -> Matrix:
        """Inner products of the differentials of the coordinates, ∂x ∂xᵀ."""
        theta = self.diffeo(base_point)[..., None, :]
        rows = self.diffeo.chart.pull_back(theta, np.eye(self._space.dim))
        return rows @ np.swapaxes(rows, -1, -2)

    def christoffels(self, base_point: Theta = None) -> Symbols:
        r"""Christoffel symbols, exactly: :math:`Γ(v, w) = −∂²x(θ)[hor v, hor w]`."""
        theta, frame = self._frame(base_point)
        refuse_beyond(float(self._space.dim) ** 2 * theta.size, "Christoffel symbols")
        bent = self.diffeo.chart.hessian(
            theta[..., None, None, :], frame[..., :, None, :], frame[..., None, :, :]
        )
        return -np.moveaxis(bent, -1, -3)

    def geodesic_equation(self, state: States) -> States:
        """Velocity and acceleration of a geodesic, in O(edges) and one solve with the Laplacian."""
        state = as_array(state, "state", (2, *self._space.shape), differentiable=False)
        position, velocity = state[..., 0, :], state[..., 1, :]
        theta = self.diffeo(position)
        above = self.diffeo.tangent(velocity, image_point=theta)
        return np.stack([velocity, self.diffeo.chart.hessian(theta, above, above)], axis=-2)


@doors
class ChartedImage(DiffeomorphicManifold):
    """The part of an image that is covered by a chart, such as one by basis paths of a network.

    Anchors are chosen at θ, and the signs are taken from there.
    """

    def __init__(self, invariant_set: LevelSet, theta: OneTheta) -> None:
        chart = architecture_of(invariant_set, "invariant_set").basis_chart(theta)
        super().__init__(
            diffeo=BasisPathCoordinates(invariant_set, chart),
            image_space=invariant_set,
            dim=chart.dim,
            shape=(chart.dim,),
        )
        self._anchors = chart.nonzero
        self._sizes: FloatArray = np.abs(chart.coordinates(theta))[self._anchors]

    def __repr__(self) -> str:
        """Say in one line what it is."""
        return f"ChartedImage(dimension {self.dim:,}) of {self.image_space!r}"

    @staticmethod
    def default_metric() -> type[ChartMetric]:
        """Metric to equip the chart with if ``equip`` is True."""
        return ChartMetric

    def belongs(self, point: Theta, atol: float = gs.atol) -> Scalars:
        """Check that no anchor path vanishes, relative to its size at the θ of the chart."""
        if np.shape(point)[-1:] != self.shape:
            return np.zeros(np.shape(point)[:-1], dtype=bool)
        return np.all(np.abs(np.asarray(point)[..., self._anchors]) > atol * self._sizes, axis=-1)

    def is_tangent(
        self, vector: Tangent, base_point: Theta | None = None, atol: float = gs.atol
    ) -> Scalars:
        """Check the shape: every vector is tangent, whatever the tolerance."""
        lead = np.broadcast_shapes(np.shape(vector)[:-1], np.shape(base_point)[:-1])  # type: ignore[arg-type]
        return np.full(lead, np.shape(vector)[-1:] == self.shape)

    def to_tangent(self, vector: Tangent, base_point: Theta | None = None) -> Tangent:
        """Leave a vector as it is."""
        return gs.copy(vector) if base_point is None else vector + 0.0 * base_point

    def projection(self, point: Theta) -> Theta:
        """Leave a point as it is."""
        return gs.copy(point)

    def random_tangent_vec(self, base_point: Theta, n_samples: int = 1, rng: Rng = None) -> Tangent:
        """Draw tangent vectors of the invariant set and push them forward."""
        theta = self.diffeo(base_point)
        above = self.image_space.random_tangent_vec(theta, n_samples, rng)
        return self.diffeo.inverse_tangent(above, image_point=theta)


@chart_manifold.register
def _(architecture: ReLUNetwork, invariant_set: LevelSet, theta: OneTheta) -> ChartedImage:
    return ChartedImage(invariant_set, theta)


@chart_manifold.register
def _(architecture: ProductArchitecture, invariant_set: LevelSet, theta: OneTheta) -> Manifold:
    image = invariant_set.image()
    if image.dim == architecture.lifted_dim:
        return image.flattened()
    chart = architecture.basis_chart(theta)
    if chart.dim > image.dim:
        raise NotImplementedError(
            f"the image of a factor is no open set and no chart of it is known: {chart} has "
            f"{chart.dim} numbers on an image of dimension {image.dim}; curvature, geodesics and "
            "parallel transport need no coordinates: use image().metric"
        )
    return ChartedImage(invariant_set, theta)


@chart_manifold.register(DeepLinear)
def _(architecture: Architecture, invariant_set: LevelSet, theta: OneTheta) -> Manifold:
    architecture_of(invariant_set, "invariant_set")
    image = invariant_set.image()
    if image.dim < architecture.lifted_dim:
        raise NotImplementedError(
            f"the image is no open set, of dimension {image.dim} among {architecture.lifted_dim} "
            "numbers, so the entries of z are no coordinates; curvature, geodesics and parallel "
            "transport need none: use image().metric"
        )
    return image.flattened()
