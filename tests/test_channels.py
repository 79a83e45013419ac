"""Channel graphs, held to dense algebra on their matrices that shares no line with them."""

import itertools

import numpy as np
import pytest

from liftflow.architectures import ChannelGraph, GroundedLaplacian
from liftflow.errors import ArchitectureError, InputError, NotRecoverableError

KINDS = "graph", "matrix"
GRAPH = ChannelGraph([-1, 0], [0, -1], 1)


def random_graph(seed, kind):
    """A random channel graph: parallel parameters, cycles and loops; or degree-k units."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 6))
    # A ground-to-ground cycle through all channels keeps every one of them alive.
    tour = rng.permutation(size)
    tails = [-1, *tour, *rng.integers(-1, size, 3 * size)]
    heads = [*tour, -1, *rng.integers(-1, size, 3 * size)]
    if kind == "graph":
        return ChannelGraph(tails, heads, size)
    matrix = np.zeros((len(tails), size), dtype=int)
    degree = rng.integers(1, 4, size)
    for row, (tail, head) in enumerate(zip(tails, heads, strict=True)):
        if head >= 0:
            matrix[row, head] += 1
        if tail >= 0:
            matrix[row, tail] -= degree[tail]
    return ChannelGraph.from_matrix(matrix)


def dense(graph):
    return graph.incidence.toarray()


def nonzero_point(graph, rng):
    return rng.choice([-1.0, 1.0], graph.dim) * rng.uniform(0.3, 2.0, graph.dim)


graphs = pytest.mark.parametrize(
    ("kind", "seed"), list(itertools.product(KINDS, range(12))), ids=lambda value: str(value)
)


@graphs
def test_laws_and_their_derivative(kind, seed, rng):
    graph = random_graph(seed, kind)
    theta, tangent = nonzero_point(graph, rng), rng.standard_normal(graph.dim)
    np.testing.assert_allclose(graph.laws(theta), dense(graph).T @ theta**2, rtol=1e-13, atol=1e-13)
    jacobian = 2 * dense(graph).T * theta
    np.testing.assert_allclose(graph.laws_jacobian(theta), jacobian, atol=1e-13)
    np.testing.assert_allclose(graph.laws_jvp(theta, tangent), jacobian @ tangent, atol=1e-12)


@graphs
def test_solves_and_projections(kind, seed, rng):
    graph = random_graph(seed, kind)
    theta, vector = nonzero_point(graph, rng), rng.standard_normal(graph.dim)
    jacobian = 2 * dense(graph).T * theta
    speed = rng.standard_normal(graph.n_channels)
    wanted = np.linalg.lstsq(jacobian, speed, rcond=None)[0]
    np.testing.assert_allclose(graph.solve(theta, speed), wanted, atol=1e-10)
    normal = np.linalg.pinv(jacobian) @ jacobian
    np.testing.assert_allclose(graph.to_vertical(theta, vector), normal @ vector, atol=1e-10)
    np.testing.assert_allclose(
        graph.to_horizontal(theta, vector), vector - normal @ vector, atol=1e-10
    )


@graphs
def test_a_point_is_recovered_from_its_orbit_and_its_laws(kind, seed, rng):
    graph = random_graph(seed, kind)
    theta = nonzero_point(graph, rng)
    moved = graph.rescale(theta, rng.standard_normal(graph.n_channels))
    np.testing.assert_allclose(moved, theta * np.exp(np.log(moved / theta)), rtol=1e-12)
    back = graph.project_to_laws(moved, graph.laws(theta))
    np.testing.assert_allclose(back, theta, rtol=1e-9)
    other = graph.project_to_laws(moved, graph.laws(theta) + 0.3)
    assert np.abs(other - theta).max() > 1e-3  # the laws decide, not the start


@graphs
def test_coordinates_forget_the_orbit_and_nothing_else(kind, seed, rng):
    graph = random_graph(seed, kind)
    theta, tangent = nonzero_point(graph, rng), rng.standard_normal(graph.dim)
    chart = graph.chart(theta)
    x = chart.coordinates(theta)
    assert x.shape == (graph.dim - graph.n_channels,)
    moved = graph.rescale(theta, rng.standard_normal(graph.n_channels))
    np.testing.assert_allclose(chart.coordinates(moved), x, rtol=1e-10)
    np.testing.assert_allclose(chart.recover(x, graph.laws(theta)), theta, rtol=1e-9)
    near = theta * rng.uniform(0.9, 1.1, graph.dim)
    np.testing.assert_allclose(chart.recover(x, graph.laws(theta), near=near), theta, rtol=1e-9)
    step = 1e-6
    ends = chart.coordinates(np.stack([theta + step * tangent, theta - step * tangent]))
    pushed = chart.push_forward(theta, tangent)
    np.testing.assert_allclose(pushed, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-7)
    form = rng.standard_normal(chart.dim)
    assert form @ pushed == pytest.approx(chart.pull_back(theta, form) @ tangent)
    np.testing.assert_allclose(
        chart.push_forward(theta, chart.lift_tangent(theta, form)), form, atol=1e-12
    )
    speeds = [chart.push_forward(theta + s * tangent, tangent) for s in (step, -step)]
    np.testing.assert_allclose(
        chart.hessian(theta, tangent, tangent),
        (speeds[0] - speeds[1]) / (2 * step),
        rtol=1e-5,
        atol=1e-6,
    )
    rank = np.linalg.matrix_rank(chart.push_forward(theta, np.eye(graph.dim)))
    assert rank == graph.dim - graph.n_channels


def test_zero_parameters_beside_the_anchors_are_coordinates():
    graph = ChannelGraph([-1, -1, 0, 0], [0, 0, -1, -1], 1)
    theta = np.array([2.0, 0.0, 3.0, 0.0])
    chart = graph.chart(theta)
    np.testing.assert_allclose(chart.recover(chart.coordinates(theta), graph.laws(theta)), theta)


def test_an_incidence_is_recognised_and_a_power_is_not():
    assert type(ChannelGraph.from_matrix([[1], [-1]])) is ChannelGraph
    assert type(ChannelGraph.from_matrix([[1], [-2]])) is not ChannelGraph
    with pytest.raises(ArchitectureError, match="integers"):
        ChannelGraph.from_matrix([[0.5], [-1.0]])


def test_units_of_degree_two_by_hand():
    """x → u → y by ReLU²: z = u²v, so 2 log u + log v stays, and h = u² − 2v²."""
    graph = ChannelGraph.from_matrix([[1], [-2]])
    theta = np.array([1.5, -0.7])
    assert graph.laws(theta)[0] == pytest.approx(1.5**2 - 2 * 0.7**2)
    moved = graph.rescale(theta, [0.4])
    assert moved[0] ** 2 * moved[1] == pytest.approx(1.5**2 * -0.7)


def test_bad_ends_and_idle_channels_are_refused():
    with pytest.raises(ArchitectureError, match="0 to 0"):
        ChannelGraph([-1, 0], [1, -1], 1)
    with pytest.raises(ArchitectureError, match="same length"):
        ChannelGraph([-1, 0], [0], 1)
    with pytest.raises(ArchitectureError, match="no parameter rescales with the channels 'b'"):
        ChannelGraph([-1, 0, 1], [0, -1, 1], 2, members=["a", "b"])  # b has a loop alone


def test_channels_cut_off_are_named():
    graph = ChannelGraph([-1, 0, -1, 1], [0, -1, 1, -1], 2, members=["a", "b"])
    with pytest.raises(NotRecoverableError, match="'b'"):
        graph.chart([1.0, 1.0, 0.0, 0.0])


def test_dead_parameters():
    """2 → ground is zero, so nothing of what only leads there is seen; it itself is."""
    tails, heads = [-1, 0, -1, 1, 2, -1], [0, -1, 1, 2, -1, 2]
    theta = np.array([1.0, 2.0, 3.0, 4.0, 0.0, 5.0])
    graph = ChannelGraph(tails, heads, 3)
    assert graph.dead(theta).tolist() == [2, 3, 5]
    general = np.vstack([graph.incidence.toarray(), [[2, -3, 0]]])  # no incidence any more
    assert ChannelGraph.from_matrix(general).dead(np.append(theta, 0.0)).tolist() == [2, 3, 5]
    nothing = np.zeros(graph.dim + 1)
    assert ChannelGraph.from_matrix(general).dead(nothing).tolist() == list(range(nothing.size))


def test_a_million_parameters(rng):
    """Channels, laws and Ψ in seconds, with a tenth of them parallel to others."""
    size, dim = 3000, 100_000
    tails, heads = rng.integers(-1, size, (2, dim))
    tails[:size], heads[size : 2 * size] = -1, -1
    heads[:size] = tails[size : 2 * size] = np.arange(size)
    graph = ChannelGraph(tails, heads, size)
    theta = rng.uniform(0.5, 1.5, dim)
    moved = graph.rescale(theta, 0.3 * rng.standard_normal(size))
    np.testing.assert_allclose(graph.project_to_laws(moved, graph.laws(theta)), theta, rtol=1e-9)


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda: ChannelGraph([0.5], [1], 2), "tails must be whole numbers, got"),
        (lambda: ChannelGraph("a", [1], 2), "tails must hold real numbers"),
        (lambda: ChannelGraph([-1], [0], 1, members=[0, 1]), "members must be 1 labels, got 2"),
        (lambda: ChannelGraph.from_matrix("text"), "matrix must hold real numbers"),
        (lambda: GroundedLaplacian(3), "must be an Incidence, got int"),
        (lambda: GRAPH.laplacian.matrix("text"), "weights must hold real numbers"),
        (lambda: GRAPH.laplacian.conditioning(np.ones(7)), r"weights must have shape \(2,\)"),
    ],
)
def test_doors(act, match):
    with pytest.raises(InputError, match=match):
        act()
