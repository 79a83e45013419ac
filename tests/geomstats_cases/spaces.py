"""The manifolds that geomstats's test cases run over, kept small, and how points are drawn."""

import geomstats.backend as gs
import numpy as np
import pytest
from geomstats.geometry.nfold_manifold import NFoldManifold
from geomstats.geometry.product_manifold import ProductManifold

from liftflow.architectures import Attention, DeepLinear, ReLUNetwork, TwoLayerLinear
from liftflow.manifolds import InvariantSet


def _balanced(architecture, lam, seed=0):
    return InvariantSet(architecture, architecture.balanced_point(lam, seed))


def _random(network, seed=0):
    return InvariantSet(network, network.random_point(rng=seed))


SETS = {
    "layers 2-2-2": lambda: _random(ReLUNetwork.from_widths([2, 2, 2])),
    "residual 2-2-2-1, biases": lambda: _random(
        ReLUNetwork.residual([2, 2, 2, 1], [(0, 2)], bias=True)
    ),
    "two layers 3, 2, 2": lambda: _balanced(TwoLayerLinear(3, 2, 2), 0.5),
    "two layers 3, 3, 2": lambda: _balanced(TwoLayerLinear(3, 3, 2), -0.3),
    "deep 2-2-2-2": lambda: _balanced(DeepLinear([2, 2, 2, 2]), (0.5, -0.3)),
    "attention": lambda: _balanced(Attention(2, 2, 1), 0.4),
}

EXTRINSIC = {
    f"image {name}": lambda build=SETS[name]: build().image()
    for name in ("layers 2-2-2", "residual 2-2-2-1, biases", "two layers 3, 3, 2")
}
"""Images with fewer dimensions than numbers in a point."""

OPEN = {
    f"image {name}": lambda build=SETS[name]: build().image()
    for name in ("two layers 3, 2, 2", "deep 2-2-2-2", "attention")
}
"""Images whose entries are coordinates; their points are arrays."""

COORDINATES = {
    "flat, two layers 3, 2, 2": lambda: SETS["two layers 3, 2, 2"]().image().flat(),
    "flat, attention": lambda: SETS["attention"]().image().flat(),
    "chart, layers 2-2-2": lambda: SETS["layers 2-2-2"]().chart(),
    "chart, residual 2-2-2-1, biases": lambda: SETS["residual 2-2-2-1, biases"]().chart(),
}
"""Images whose points are vectors of as many coordinates as dimensions."""

SMALL = {
    "set layers 2-1-2": lambda: _random(ReLUNetwork.from_widths([2, 1, 2])),
    "set two layers 2, 2, 2": lambda: _balanced(TwoLayerLinear(2, 2, 2), 0.5),
    "set two layers 2, 1, 1": lambda: _balanced(TwoLayerLinear(2, 1, 1), 0.5),
    "set two layers 3, 2, 1": lambda: _balanced(TwoLayerLinear(3, 2, 1), -0.3),
}
"""Invariant sets that geodesics are cheap on, for the many tests of metrics."""


def _coarse(space, **arguments):
    """Loosen the tolerance of geodesics: the tests ask for 1e-6."""
    return space.equip_with_metric(type(space.metric), rtol=1e-9, **arguments)


def _small_image(name):
    image = SMALL[name]().image()
    return _coarse(image, cometric=image.metric.cometric)


def _small_chart(name):
    chart = SMALL[name]().chart()
    _coarse(chart.image_space)
    return chart


INDUCED_METRICS = {
    name: lambda build=SMALL[name]: _coarse(build())
    for name in ("set layers 2-1-2", "set two layers 3, 2, 1")
}
EXTRINSIC_METRICS = {
    "image layers 2-1-2": lambda: _small_image("set layers 2-1-2"),
    "flat, two layers 3, 2, 1": lambda: _small_image("set two layers 3, 2, 1").flat(),
}
OPEN_METRICS = {"image two layers 2, 1, 1": lambda: _small_image("set two layers 2, 1, 1")}
COORDINATE_METRICS = {
    "flat, two layers 2, 2, 2": lambda: _small_image("set two layers 2, 2, 2").flat(),
    "chart, layers 2-1-2": lambda: _small_chart("set layers 2-1-2"),
}

QUOTIENTS = {name: SMALL[name] for name in ("set layers 2-1-2", "set two layers 2, 2, 2")}

IMAGES = {**EXTRINSIC, **OPEN, **COORDINATES}


def _product(*names):
    return ProductManifold([IMAGES[name]() for name in names])


PRODUCTS = {
    "set and image": lambda: ProductManifold(
        [SETS["layers 2-2-2"](), IMAGES["image two layers 3, 2, 2"]()]
    ),
    "images of two shapes": lambda: _product("image layers 2-2-2", "image deep 2-2-2-2"),
    "images of one shape": lambda: _product("image deep 2-2-2-2", "image deep 2-2-2-2"),
    "flat image and chart": lambda: _product("flat, two layers 3, 2, 2", "chart, layers 2-2-2"),
}

COPIES = {
    "3 × image two layers 3, 2, 2": lambda: NFoldManifold(IMAGES["image two layers 3, 2, 2"](), 3),
    "2 × set layers 2-2-2": lambda: NFoldManifold(SETS["layers 2-2-2"](), 2),
}


def params(table, under_numpy=()):
    """Return the factories of a table as pytest parameters, those named slow under numpy."""
    slow = () if gs.has_autodiff() else under_numpy
    return [
        pytest.param(factory, id=name, marks=[pytest.mark.slow] if name in slow else [])
        for name, factory in table.items()
    ]


class Nearby:
    """Points of a ball about one point of a space, and tangent vectors of moderate length.

    Geodesics between points far apart need not be unique, and logarithms need not exist.

    Parameters
    ----------
    space : geomstats.geometry.manifold.Manifold
    radius : float
        Standard deviation of the noise that is projected.
    amplitude : float
        What tangent vectors are divided by.
    """

    def __init__(self, space, radius=0.03, amplitude=10.0):
        self.space, self.radius, self.amplitude = space, radius, amplitude
        self.centre = space.random_point(rng=3)

    def _noise(self, n_points):
        shape = self.space.shape if n_points == 1 else (n_points, *self.space.shape)
        return self.radius * np.random.standard_normal(shape)  # noqa: NPY002 - seeded by conftest

    def point_to_project(self, n_points=1):
        return self.centre + self._noise(n_points)

    def random_point(self, n_points=1):
        return self.space.projection(self.point_to_project(n_points))

    def random_tangent_vec(self, base_point):
        seed = np.random.randint(2**31)  # noqa: NPY002
        return self.space.random_tangent_vec(base_point, rng=seed) / self.amplitude


class NearbyProduct:
    """Points and tangent vectors of a product, drawn in each factor as :class:`Nearby` does.

    Parameters
    ----------
    space : geomstats.geometry.product_manifold.ProductManifold
    """

    def __init__(self, space):
        self.space = space
        self.factors = [Nearby(factor) for factor in space.factors]

    def random_point(self, n_points=1):
        return self.space.embed_to_product([own.random_point(n_points) for own in self.factors])

    def random_tangent_vec(self, base_point):
        parts = zip(self.factors, self.space.project_from_product(base_point), strict=True)
        return self.space.embed_to_product([own.random_tangent_vec(x) for own, x in parts])


class NearbyCopies:
    """Points and tangent vectors of copies of one space, drawn in each as :class:`Nearby` does.

    Parameters
    ----------
    space : geomstats.geometry.nfold_manifold.NFoldManifold
    """

    def __init__(self, space):
        self.space = space
        self.own = Nearby(space.base_manifold)

    def _join(self, points, n_points):
        return points.reshape(self.space.shape if n_points == 1 else (n_points, *self.space.shape))

    def random_point(self, n_points=1):
        return self._join(self.own.random_point(n_points * self.space.n_copies), n_points)

    def point_to_project(self, n_points=1):
        return self._join(self.own.point_to_project(n_points * self.space.n_copies), n_points)

    def random_tangent_vec(self, base_point):
        points = base_point.reshape(-1, *self.own.space.shape)
        return self.own.random_tangent_vec(points).reshape(base_point.shape)
