"""Coordinates of a product's image: those of each factor, side by side."""

from collections.abc import Mapping, Sequence

import numpy as np

from liftflow.architectures.anchors import Chart
from liftflow.architectures.base import Architecture
from liftflow.architectures.maps import each_of, joined, slices
from liftflow.doors import door
from liftflow.typing import FloatArray, IntArray, OneTheta, as_own


class LiftChart(Chart):
    """The entries of z, for a lift that knows no fewer coordinates of its image.

    Where the image is open they are coordinates. Elsewhere they are more than its dimension, which
    a flow does not mind: what it hands back is moved onto the image.

    Parameters
    ----------
    theta : OneTheta
        Where recovery starts if there is no other point.
    """

    @door
    def __init__(self, architecture: Architecture, theta: OneTheta) -> None:
        self.architecture = architecture
        self.theta: FloatArray = as_own(theta, "theta", (architecture.dim,))

    @property
    def dim(self) -> int:
        """Number of entries of z."""
        return self.architecture.lifted_dim

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.architecture.dim, self.architecture.n_laws

    def _shaped(self, flat: FloatArray) -> FloatArray:
        return flat.reshape((*flat.shape[:-1], *self.architecture.lifted_shape))

    def _value(self, theta: FloatArray) -> FloatArray:
        return np.ravel(self.architecture.phi(theta))

    def _push(self, theta: FloatArray, tangent: FloatArray) -> FloatArray:
        return np.ravel(self.architecture.phi.jvp(theta, tangent))

    def _pull(self, theta: FloatArray, form: FloatArray) -> FloatArray:
        return np.asarray(self.architecture.phi.vjp(theta, self._shaped(form)))

    def _bend(self, theta: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
        return np.ravel(self.architecture.phi.hessian(theta, a, b))

    def _lift(self, theta: FloatArray, velocity: FloatArray) -> FloatArray:
        return np.asarray(self.architecture.phi.solve(theta, self._shaped(velocity)))

    def _recover(
        self, coordinates: FloatArray, laws: FloatArray, near: FloatArray | None = None
    ) -> FloatArray:
        near = self.theta if near is None else near
        z = self.architecture.project_to_image(self._shaped(coordinates), near=near)
        return np.asarray(self.architecture.recover(z, laws, near=near))


class ProductChart(Chart):
    """Charts of the factors of a product, side by side."""

    def __init__(self, charts: Sequence[Chart]) -> None:
        self.charts = tuple(charts)
        dims, laws = zip(*(chart._sizes for chart in self.charts), strict=True)
        self._places, self._of_laws = slices(dims), slices(laws)
        self._coordinates = slices([chart.dim for chart in self.charts])
        self._totals = sum(dims), sum(laws)

    def _facts(self) -> str:
        return ", ".join(map(repr, self.charts))

    @property
    def dim(self) -> int:
        return int(self._coordinates[-1].stop)

    @property
    def _sizes(self) -> tuple[int, int]:
        return self._totals

    @property
    def nonzero(self) -> IntArray:
        pairs = zip(self._coordinates, self.charts, strict=True)
        return np.concatenate([own.start + chart.nonzero for own, chart in pairs])

    def _each(self, verb: str, *parts: tuple[FloatArray, Sequence[slice]]) -> FloatArray:
        """Join what a verb of every chart gives for its own parts of the arguments."""
        own = [[array[..., place] for place in places] for array, places in parts]
        return np.asarray(joined(each_of(self.charts, verb, *own)))

    def _split(self, theta: OneTheta) -> list[FloatArray]:
        return [theta[own] for own in self._places]

    def _value(self, theta: FloatArray) -> FloatArray:
        return self._each("_value", (theta, self._places))

    def _push(self, theta: FloatArray, tangent: FloatArray) -> FloatArray:
        return self._each("_push", (theta, self._places), (tangent, self._places))

    def _pull(self, theta: FloatArray, form: FloatArray) -> FloatArray:
        return self._each("_pull", (theta, self._places), (form, self._coordinates))

    def _bend(self, theta: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
        return self._each("_bend", (theta, self._places), (a, self._places), (b, self._places))

    def _lift(self, theta: FloatArray, velocity: FloatArray) -> FloatArray:
        return self._each("_lift", (theta, self._places), (velocity, self._coordinates))

    def _recover(
        self, coordinates: FloatArray, laws: FloatArray, near: FloatArray | None = None
    ) -> FloatArray:
        parts = [(coordinates, self._coordinates), (laws, self._of_laws)]
        if near is not None:
            parts.append((near, self._places))
        return self._each("_recover", *parts)

    def follow(self, theta: OneTheta, settled: OneTheta) -> OneTheta:
        return self._each("follow", (theta, self._places), (settled, self._places))

    def is_left(self, theta: OneTheta, settled: OneTheta) -> bool:
        return any(each_of(self.charts, "is_left", *map(self._split, (theta, settled))))

    def _changed(self, charts: Sequence[Chart]) -> "ProductChart":
        same = all(new is old for new, old in zip(charts, self.charts, strict=True))
        return self if same else ProductChart(charts)

    def handed_on(self, theta: OneTheta) -> "ProductChart":
        return self._changed(each_of(self.charts, "handed_on", self._split(theta)))

    def deficit(self, theta: OneTheta) -> float:
        return float(max(each_of(self.charts, "deficit", self._split(theta))))

    def reanchored(self, theta: OneTheta) -> "ProductChart":
        return self._changed(each_of(self.charts, "reanchored", self._split(theta)))

    def memory(self) -> dict[str, np.ndarray]:
        return {
            f"{number}.{name}": array
            for number, chart in enumerate(self.charts)
            for name, array in chart.memory().items()
        }

    def restored(self, memory: Mapping[str, np.ndarray]) -> "ProductChart":
        own: list[dict[str, np.ndarray]] = [{} for _ in self.charts]
        for key, array in memory.items():
            number, _, name = key.partition(".")
            if number.isdigit():
                own[int(number)][name] = array
        pairs = zip(self.charts, own, strict=True)
        return ProductChart([chart.restored(part) for chart, part in pairs])
