"""Geodesics to far points, and means of them: against formulas, and at any scale."""

import dataclasses

import networkx as nx
import numpy as np
import pytest
from cases import balanced, layers, on_image, on_set

from liftflow.architectures import DeepLinear, ReLUNetwork, TwoLayerLinear
from liftflow.errors import GeodesicError
from liftflow.manifolds import InvariantSet
from liftflow.metrics import GeodesicSolver, TangentSpaces
from liftflow.metrics.collocation import MOST_NODES, Curve, relax


def gap(target):
    return lambda end, velocity: target - end


def on_sphere(places, velocities):
    squares = np.sum(velocities**2, axis=-1, keepdims=True)
    return -places * squares / np.sum(places**2, axis=-1, keepdims=True)


@pytest.mark.parametrize("angle", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_great_circles(angle, scale):
    """Nearly to the other end of the sphere, from the chord through its middle."""
    theta = scale * np.array([1.0, 0.0, 0.0])
    target = scale * np.array([np.cos(angle), np.sin(angle), 0.0])
    heard = []
    arguments = gap(target), 1e-11 * scale, lambda left, length: heard.append((left, length))
    curve = relax(theta, Curve.straight(target), on_sphere, *arguments)
    np.testing.assert_allclose(curve.start(theta), [0, scale * angle, 0], atol=1e-10 * scale)
    assert heard[-1][0] <= 1e-11 * scale and abs(heard[-1][1] / scale - angle) < 1e-10
    # Controls: without curvature it is the chord, and with the wrong one no great circle.
    flat = relax(theta, curve, lambda place, _: 0.0 * place, *arguments)
    np.testing.assert_allclose(flat.start(theta), target - theta, atol=1e-10 * scale)
    if angle < 1.0:
        wrong = relax(theta, curve, lambda *state: 0.9 * on_sphere(*state), *arguments)
        assert abs(np.linalg.norm(wrong.start(theta)) / scale - angle) > 1e-3


def test_nodes_are_added_where_a_curve_bends():
    """The curve with x'' = k² x from 0 to 1 is sinh(kt)/sinh(k), of a layer 1/k wide at the end."""
    sizes, origin, end = [], np.zeros(1), np.ones(1)
    for rate in (2.0, 12.0):
        found = relax(
            origin,
            Curve.straight(end),
            lambda places, _, k=rate: k**2 * places,
            gap(end),
            1e-11,
            lambda *_: None,
        )
        np.testing.assert_allclose(found.start(origin), rate / np.sinh(rate), atol=1e-10)
        np.testing.assert_allclose(found.finer().start(origin), found.start(origin), atol=1e-12)
        sizes.append(len(found.bends))
    assert sizes[0] == 16 < sizes[1] < MOST_NODES


def test_what_does_not_converge_is_refused():
    with pytest.raises(GeodesicError, match="could not be made a geodesic"):
        relax(
            np.zeros(2),
            Curve.straight(np.ones(2)),
            lambda places, _: 50.0 * np.sign(np.sin(40.0 * places)),
            gap(np.ones(2)),
            1e-11,
            lambda *_: None,
        )


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_far_points_of_a_cone(scale, rng):
    def point():
        u, v = rng.standard_normal(3), rng.standard_normal(2)
        return scale * np.append(u, v * np.linalg.norm(u) / np.linalg.norm(v))

    first, second = point(), point()
    start = InvariantSet(layers([3, 1, 2]), first)
    pairs = zip(*(np.split(p, [3]) for p in (first, second)), strict=True)
    angles = [np.arccos(a @ b / np.sqrt((a @ a) * (b @ b))) for a, b in pairs]
    squares, angle = (first @ first, second @ second), np.sqrt(np.sum(np.square(angles)) / 2)
    wanted = np.sqrt(sum(squares) - 2 * np.sqrt(squares[0] * squares[1]) * np.cos(angle))
    assert 1.0 < angle < np.pi  # far, and not past the apex
    vector = start.metric.log(second, first)
    assert abs(np.linalg.norm(vector) / wanted - 1) < 1e-9
    assert abs(start.metric.dist(second, first) / wanted - 1) < 1e-9
    np.testing.assert_allclose(start.metric.exp(vector, first), second, atol=1e-8 * scale)
    assert np.linalg.norm(second - first) < 0.98 * wanted  # the control: the chord is shorter


def dag():
    """The graph of ten parameters that issues of speed are measured on, and random points."""
    edges = ["xa", "xb", "ya", "yb", "ab", "au", "av", "bu", "bv", "xu"]
    network = ReLUNetwork(nx.DiGraph([tuple(edge) for edge in edges]), "xy", "uv")
    start = InvariantSet(network, network.random_point(rng=0))
    return start, start.random_point(10, rng=1)


def test_far_points_take_few_evaluations(monkeypatch):
    start, points = dag()
    metric, calls = start.metric, []
    step = GeodesicSolver._acceleration

    def counting(self, theta, velocity):
        calls.append(np.size(theta) // 10)
        return step(self, theta, velocity)

    monkeypatch.setattr(GeodesicSolver, "_acceleration", counting)
    for target in points[[2, 9]]:  # by shooting they took 5988 and 5614
        calls.clear()
        vector = metric.log(target, points[0])
        assert len(calls) < 450 and sum(calls) < 2500
        assert np.max(np.abs(metric.exp(vector, points[0]) - target)) < 1e-8
        assert abs(metric.dist(target, points[0]) / np.linalg.norm(vector) - 1) < 1e-9


@pytest.mark.slow  # ten geodesics at each of ten steps
@pytest.mark.parametrize("where", ["set", "image"])
def test_mean_of_far_points(where):
    start, points = dag()
    space = start if where == "set" else start.image()
    points = points if where == "set" else start.lift(points)
    metric = space.metric
    metric.solver = dataclasses.replace(metric.solver, seconds=60.0)  # on a machine that is busy
    mean = metric.frechet_mean(points)
    logs = metric.log(points, mean)
    longest = np.max(metric.norm(logs, mean))
    assert metric.norm(np.mean(logs, axis=0), mean) < 2e-6 * longest
    # The control: it is not that of the first point, nor of where one step leads.
    first = metric.log(points, points[0])
    assert metric.norm(np.mean(first, axis=0), points[0]) > 0.1 * longest
    near = metric.exp(np.mean(first, axis=0), points[0])
    assert metric.norm(np.mean(metric.log(points, near), axis=0), near) > 1e-3 * longest


@pytest.mark.slow  # a continuation, and what fails before it
def test_far_points_are_joined_by_continuation():
    image = on_image(*balanced(TwoLayerLinear(4, 3, 3), 0.7))
    metric, (z, other) = image.metric, image.random_point(2, rng=1)
    solver, theta = metric.solver, metric._point_above(z)
    end = image.architecture.align(metric._point_above(other, theta), theta)
    with solver.bounded(), pytest.raises(GeodesicError, match="could not be made a geodesic"):
        solver._relaxed(theta, end, Curve.straight(end), 1e-6)
    vector = metric.log(other, z)
    assert np.max(np.abs(metric.exp(vector, z) - other)) < 1e-8
    assert abs(metric.dist(other, z) / metric.norm(vector, z) - 1) < 1e-8


def test_points_that_nothing_joins():
    start = InvariantSet(layers([1, 1, 1]), [2.0, 1.0])  # u² − v² = 3, of two branches
    with pytest.raises(GeodesicError, match=r"followed for \d+% of the way only"):
        start.metric.log(np.array([-2.0, 1.0]), start.theta0)


@pytest.mark.parametrize(
    "network", [layers([4, 6, 3]), TwoLayerLinear(4, 3, 3), DeepLinear([2, 3, 3, 2])]
)
def test_accelerations_are_those_of_careful_solves(network, rng):
    laws, solver = network.h, GeodesicSolver(network, TangentSpaces(network))
    theta, velocity = rng.standard_normal((2, 5, network.dim))
    wanted = -laws.solve(theta, laws.hessian(theta, velocity, velocity))
    found = solver.acceleration(theta, velocity)
    np.testing.assert_allclose(found, wanted, atol=1e-9 * np.max(np.abs(wanted)))
    np.testing.assert_allclose(solver.acceleration(theta[0], velocity[0]), found[0], rtol=1e-9)
    # Laws that nearly depend on each other are solved for as before.
    graded = on_set(network).theta0 * 10.0 ** rng.uniform(-5, 0, network.dim)
    wanted = -laws.solve(graded, laws.hessian(graded, velocity[0], velocity[0]))
    found = solver.acceleration(graded, velocity[0])
    np.testing.assert_allclose(found, wanted, atol=1e-9 * np.max(np.abs(wanted)))
