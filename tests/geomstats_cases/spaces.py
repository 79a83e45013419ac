"""The manifolds that geomstats's test cases run over, kept small, and how points are drawn."""

import numpy as np
import pytest

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


def params(table):
    """Return the factories of a table as pytest parameters named after its lines."""
    return [pytest.param(factory, id=name) for name, factory in table.items()]


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

    def __init__(self, space, radius=0.05, amplitude=10.0):
        self.space, self.radius, self.amplitude = space, radius, amplitude
        self.centre = space.random_point(rng=7)

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
