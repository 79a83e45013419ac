"""ReLU networks: paths, lift, recovery, charts, metric and function, against slow references."""

import itertools
import math
import re
from fractions import Fraction

import autograd
import autograd.numpy as anp
import networkx as nx
import numpy as np
import pytest
from cases import ARCHITECTURES, diagonal, layers, residual
from numpy.testing import assert_allclose, assert_array_equal
from random_dags import random_network

from liftflow.architectures import ReLUNetwork
from liftflow.architectures.laplacian import DENSE_LIMIT
from liftflow.errors import (
    ArchitectureError,
    NotDifferentiableError,
    NotOnImageError,
    NotRecoverableError,
)
from liftflow.manifolds import InvariantSet
from liftflow.metrics import (
    OneHiddenLayerCometric,
    PathCometric,
    ScalarChainCometric,
    intrinsic_cometric,
    oracle_gram,
    oracle_jacobian,
)

BUILT = {name: build() for name, build in ARCHITECTURES.items()}
NETWORKS = {name: case for name, case in BUILT.items() if type(case) is ReLUNetwork}
SMALL = {name: case for name, case in NETWORKS.items() if case.n_paths <= 200}

every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
every_small_network = pytest.mark.parametrize("network", SMALL.values(), ids=SMALL)


def edge_paths(network):
    """Parameter numbers along each path, from the node tuples alone."""
    number = {name: i for i, name in enumerate(network.parameter_names)}
    return [[number[edge] for edge in itertools.pairwise(path)] for path in network.paths()]


def slow_nodes(network, theta, x):
    """Value of each node for one sample, by recursion over the graph."""
    value = dict(zip(network.inputs, map(float, x), strict=True))
    value["⟨1⟩"] = 1.0
    weight = dict(zip(network.parameter_names, theta, strict=True))

    def evaluate(node):
        if node not in value:
            total = sum(w * evaluate(u) for (u, v), w in weight.items() if v == node)
            value[node] = total if node in network.outputs else max(total, 0.0)
        return value[node]

    for node in network.graph:
        evaluate(node)
    return value


# Paths.


def test_paths_of_layers_come_in_row_major_order():
    network = layers([2, 3, 2, 2])
    layer_nodes = [[(l, i) for i in range(n)] for l, n in enumerate([2, 3, 2, 2])]
    assert network.paths() == list(itertools.product(*layer_nodes))
    assert_array_equal(
        network.lift(np.arange(1.0, 17.0)),
        np.einsum("ij,jk,kl->ijkl", *network.unpack(np.arange(1.0, 17.0))).ravel(),
    )


@every_network
def test_paths_come_in_lexicographic_order(network):
    starts = {node: i for i, node in enumerate([*network.inputs, "⟨1⟩"])}
    keys = [
        (starts[path[0]], *edges)
        for path, edges in zip(network.paths(), edge_paths(network), strict=True)
    ]
    assert keys == sorted(keys)
    assert len(set(keys)) == network.n_paths


@every_network
def test_paths_are_those_that_networkx_finds(network):
    graph = nx.DiGraph(network.parameter_names)
    graph.add_nodes_from(network.graph)
    found = {
        tuple(path)
        for start in [*network.inputs, "⟨1⟩"]
        if start in graph
        for path in nx.all_simple_paths(graph, start, network.outputs)
    }
    assert network.n_paths == len(found)
    assert set(network.paths()) == found


def test_number_of_paths_is_exact_however_large():
    network = layers([100] * 21)
    assert network.n_paths == 100**21
    assert network.lifted_shape == (100**21,)


def test_paths_over_the_limit_are_counted_and_not_listed():
    network = layers([10, 10, 10], path_limit=999)
    for listing in (network.paths, lambda: network.lift(network.random_point(rng=0))):
        with pytest.raises(ArchitectureError, match="1000 paths, more than the limit of 999"):
            listing()
    assert len(layers([10, 10, 10], path_limit=1000).paths()) == 1000


@every_network
def test_lift_is_the_product_along_each_path(network, rng):
    theta = network.random_point(rng=rng)
    products = [math.prod(theta[edges]) for edges in edge_paths(network)]
    assert_allclose(network.lift(theta), products, rtol=1e-14)


@every_network
def test_rank_of_the_lift(network, rng):
    # ∂φ = D_z P D_θ⁻¹ where no weight is zero, so that its rank is that of PᵀP, in integers.
    incidence = network.path_incidence
    values = np.linalg.eigvalsh((incidence.T @ incidence).toarray())
    assert np.sum(values > 1e-9) == network.dim - network.n_hidden
    if network.n_paths <= 200:
        jacobian = oracle_jacobian(network, network.random_point(rng=rng))
        assert np.linalg.matrix_rank(jacobian) == network.dim - network.n_hidden


# Graphs in and out.


@every_network
def test_weights_survive_the_graph(network, rng):
    theta = network.random_point(rng=rng)
    graph = network.write_weights(theta)
    assert_array_equal(network.read_weights(graph), theta)
    again = ReLUNetwork(graph, network.inputs, network.outputs, network.biases)
    weights = dict(zip(network.parameter_names, theta, strict=True))
    assert dict(zip(again.parameter_names, again.read_weights(), strict=True)) == weights


@pytest.mark.parametrize("seed", range(5))
def test_order_of_nodes_and_edges_does_not_matter(seed, rng):
    network = random_network(seed)
    theta = network.random_point(rng=rng)
    weights = network.write_weights(theta)
    shuffled = nx.DiGraph()
    nodes, edges = list(weights.nodes(data=True)), list(weights.edges(data=True))
    shuffled.add_nodes_from(nodes[i] for i in rng.permutation(len(nodes)))
    shuffled.add_edges_from(edges[i] for i in rng.permutation(len(edges)))
    biases = [network.biases[i] for i in rng.permutation(len(network.biases))]
    other = ReLUNetwork(shuffled, network.inputs, network.outputs, biases)
    moved = other.read_weights()
    data = rng.standard_normal((5, len(network.inputs)))
    assert_allclose(other.forward(moved, data), network.forward(theta, data), rtol=1e-12)
    lifts = [
        dict(zip(n.paths(), n.lift(t), strict=True)) for n, t in ((network, theta), (other, moved))
    ]
    assert lifts[0].keys() == lifts[1].keys()
    for path, value in lifts[0].items():
        assert math.isclose(value, lifts[1][path], rel_tol=1e-14)
    laws = [
        dict(zip(n.hidden, n.conservation_laws(t), strict=True))
        for n, t in ((network, theta), (other, moved))
    ]
    for node, value in laws[0].items():
        assert math.isclose(value, laws[1][node], rel_tol=1e-12, abs_tol=1e-14)


def test_parameters_come_in_the_order_of_the_graph():
    graph = nx.DiGraph([("b", "y"), ("x", "b"), ("x", "a"), ("a", "y")])
    network = ReLUNetwork(graph, ["x"], ["y"], ["y", "a"])
    assert network.parameter_names == (*graph.edges, ("⟨1⟩", "y"), ("⟨1⟩", "a"))
    assert network.parameter_names[:2] == (("b", "y"), ("x", "b"))


@pytest.mark.parametrize("seed", range(8))
def test_generations_are_those_of_networkx_with_a_node_before_all_biases(seed):
    network = random_network(seed)
    augmented = nx.DiGraph(network.parameter_names)
    levels = nx.topological_generations(augmented)
    wanted = {node: level for level, nodes in enumerate(levels) for node in nodes}
    nodes, generation = network.dag.nodes, network.dag.generation
    assert {node: generation[i] for i, node in enumerate(nodes)} == {n: wanted[n] for n in nodes}
    members = [[nodes[i] for i in numbers] for numbers in network.dag.members]
    assert members[0] == list(network.inputs)
    order = list(network.graph)
    assert members[1:] == [[n for n in order if wanted[n] == g] for g in range(1, len(members))]


def test_only_a_bias_puts_a_node_without_in_edges_after_the_inputs():
    graph = nx.DiGraph([("b", "y"), ("x", "y")])
    network = ReLUNetwork(graph, ["x"], ["y"], ["b"])
    assert network.dag.nodes == ("x", "b", "y")
    assert_array_equal(network.dag.generation, [0, 1, 2, -1])


def test_the_graph_is_a_frozen_copy():
    graph = nx.DiGraph(name="mine")
    graph.add_nodes_from([("y", {"colour": "red"}), "x", "b"])
    graph.add_edges_from([("x", "b"), ("b", "y", {"weight": 2.0}), ("x", "y", {"weight": 3.0})])
    network, before = ReLUNetwork(graph, ["x"], ["y"]), graph.copy()
    graph.edges["x", "b"]["weight"] = graph.edges["b", "y"]["weight"] = 7.0
    graph.nodes["y"]["colour"] = graph.graph["name"] = "other"
    graph.remove_edge("x", "y")
    for view in ("nodes", "edges"):
        kept, wanted = (list(getattr(g, view)(data=True)) for g in (network.graph, before))
        assert kept == wanted
    assert network.graph.graph == {"name": "mine"}
    assert list(network.graph.pred["y"]) == list(before.pred["y"])
    with pytest.raises(nx.NetworkXError, match="Frozen"):
        network.graph.add_edge("x", "z")


def test_blocks_of_layers():
    network = residual([2, 3, 3, 1], [(0, 2), (1, 3)], bias=True)
    assert network.block_shapes == ((2, 3), (3, 3), (3, 1), (2, 3), (3, 1), (3,), (3,), (1,))
    assert network.parameter_names[1] == ((0, 0), (1, 1))
    assert network.parameter_names[-1] == ("⟨1⟩", (3, 0))


# Conservation laws and recovery.


@every_network
def test_laws_are_in_minus_out(network, rng):
    theta = network.random_point(rng=rng)
    squares = list(zip(network.parameter_names, theta**2, strict=True))
    laws = [
        sum(s for (_, v), s in squares if v == node) - sum(s for (u, _), s in squares if u == node)
        for node in network.hidden
    ]
    assert_allclose(network.conservation_laws(theta), laws, rtol=1e-13, atol=1e-13)


@every_network
def test_recovery_of_theta(network, rng):
    theta = network.random_point(3, rng)
    z, laws = network.lift(theta), network.conservation_laws(theta)
    assert_allclose(network.recover(z, laws, near=theta), theta, rtol=1e-9)
    unsigned = network.recover(z, laws)
    assert_allclose(np.abs(unsigned), np.abs(theta), rtol=1e-9)
    assert_allclose(network.lift(unsigned), z, rtol=1e-9)


@every_network
def test_rescaling_is_undone(network, rng):
    theta = network.random_point(3, rng)
    laws, moved = network.conservation_laws(theta), network.fibre_point(theta, rng)
    if network.n_hidden:
        assert np.all(np.max(np.abs(moved / theta - 1), axis=-1) > 0.1)
    assert_allclose(network.lift(moved), network.lift(theta), rtol=1e-12)
    assert_allclose(network.project_to_laws(moved, laws), theta, rtol=1e-9)
    assert_allclose(network.recover(network.lift(moved), laws, near=moved), theta, rtol=1e-9)
    assert_allclose(network.recover(network.lift(moved), laws, near=theta), theta, rtol=1e-9)


@every_small_network
def test_metric_is_unchanged_by_rescaling(network, rng):
    theta = network.random_point(rng=rng)
    cometric = intrinsic_cometric(network, theta)
    moved = network.fibre_point(theta, rng)
    wanted = oracle_gram(network, theta)
    scale = np.max(np.abs(wanted))
    for z in (network.lift(theta), network.lift(moved)):
        assert_allclose(cometric.matrix(z), wanted, rtol=1e-10, atol=1e-10 * scale)


@every_small_network
def test_other_laws_give_another_metric(network, rng):
    """The negative control of the metric property."""
    if network.n_hidden == 0:
        pytest.skip("without hidden nodes there is one invariant set only")
    theta = network.random_point(rng=rng)
    other = intrinsic_cometric(network, network.fibre_point(theta, rng))
    wanted = oracle_gram(network, theta)
    gap = np.max(np.abs(other.matrix(network.lift(theta)) - wanted)) / np.max(np.abs(wanted))
    assert gap > 1e-2


def test_recovery_takes_signs_from_near(rng):
    network = layers([2, 3, 3, 2], bias=True)
    theta = network.random_point(rng=rng)
    flips = np.where(rng.random(network.n_hidden) < 0.5, -1.0, 1.0)
    padded = np.append(flips, 1.0)
    flipped = theta * padded[network.dag.head_hidden] * padded[network.dag.tail_hidden]
    assert not np.array_equal(flipped, theta)
    z, laws = network.lift(theta), network.conservation_laws(theta)
    assert_array_equal(network.lift(flipped), z)
    assert_allclose(network.recover(z, laws, near=flipped), flipped, rtol=1e-9)
    assert_allclose(network.recover(z, laws, near=theta), theta, rtol=1e-9)


@pytest.mark.parametrize("laws", [1e6, -1e6, 1e-6, 0.0])
def test_recovery_at_extreme_laws(laws, rng):
    network = layers([2, 3, 2, 2])
    theta = network.project_to_laws(network.random_point(rng=rng), laws * np.ones(5))
    assert_allclose(network.conservation_laws(theta), laws, rtol=1e-9, atol=1e-9)
    z = network.lift(theta)
    assert_allclose(network.recover(z, laws * np.ones(5), near=theta), theta, rtol=1e-9)


def test_points_off_the_image_are_refused_with_their_residual(rng):
    network = layers([2, 2, 2])
    theta = network.random_point(rng=rng)
    z, laws = network.lift(theta), network.conservation_laws(theta)
    weakest = np.argmin(np.abs(z))
    z[weakest] += 0.1 * np.linalg.norm(z)
    with pytest.raises(NotOnImageError, match="relative residual") as caught:
        network.recover(z, laws)
    assert 0.01 < caught.value.residual < 1
    assert f"{caught.value.residual:.2e}" in str(caught.value)
    image = InvariantSet(network, theta).image()
    assert caught.value.residual == image.residual(z)
    assert image.residual(image.projection(z)) < 1e-12


def test_the_tolerance_of_the_image_is_relative(rng):
    network = layers([2, 2, 2])
    theta = 1e-3 * network.random_point(rng=rng)
    z, laws = network.lift(theta), network.conservation_laws(theta)
    for size, on_image in [(1e-8, True), (1e-4, False)]:
        moved = z + size * np.linalg.norm(z) * np.array([0, 0, 0, 0, 0, 0, 0, 1.0])
        if on_image:
            network.recover(moved, laws)
        else:
            with pytest.raises(NotOnImageError):
                network.recover(moved, laws)


def brute_dead(network, theta):
    """Parameters whose every path passes through another zero."""
    paths = edge_paths(network)
    alive = {e for path in paths for e in path if all(theta[f] for f in path if f != e)}
    return {network.parameter_names[e] for e in set(range(network.dim)) - alive}


@pytest.mark.parametrize("seed", range(6))
def test_dead_parameters_are_named_exactly(seed, rng):
    network = random_network(seed)
    theta = network.random_point(rng=rng)
    node = network.hidden[rng.integers(network.n_hidden)]
    into = [e for e, (_, v) in enumerate(network.parameter_names) if v == node]
    theta[into] = 0.0
    wanted = brute_dead(network, theta)
    assert wanted
    with pytest.raises(NotRecoverableError, match="dead parameters") as caught:
        network.basis_chart(theta)
    assert set(caught.value.parameters) == wanted
    assert len(caught.value.parameters) == len(wanted)
    with pytest.raises(NotRecoverableError, match="dead parameters"):
        intrinsic_cometric(network, theta)
    with pytest.raises(NotRecoverableError, match="dead parameters"):
        InvariantSet(network, theta)
    with pytest.raises(NotRecoverableError, match=re.escape(repr(node))):
        network.recover(network.lift(theta), network.conservation_laws(theta))


def test_zeros_that_kill_nothing_are_fine(rng):
    network = layers([3, 3, 3])
    theta = network.random_point(rng=rng)
    theta[[0, 4, 10]] = 0.0  # one in-weight of two neurons, and one out-weight
    assert not brute_dead(network, theta)
    z, laws = network.lift(theta), network.conservation_laws(theta)
    assert_allclose(network.recover(z, laws, near=theta), theta, rtol=1e-9, atol=0.0)
    cometric = intrinsic_cometric(network, theta)
    wanted = oracle_gram(network, theta)
    assert_allclose(cometric.matrix(z), wanted, rtol=1e-10, atol=1e-10)
    covector = rng.standard_normal(network.n_paths)
    assert_allclose(cometric.apply(z, covector), wanted @ covector, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("function", ["recover", "chart.recover", "cometric.apply", "projection"])
def test_what_has_no_derivative_says_so(function, rng):
    network = layers([2, 2, 2])
    theta = network.random_point(rng=rng)
    z, laws = network.lift(theta), network.conservation_laws(theta)
    chart, invariant_set = network.basis_chart(theta), InvariantSet(network, theta)
    functions = {
        "recover": (lambda z: network.recover(z, laws), z),
        "chart.recover": (lambda c: chart.recover(c, laws), chart.coordinates(theta)),
        "cometric.apply": (lambda z: PathCometric(network, theta).apply(z, np.ones(8)), z),
        "projection": (invariant_set.projection, theta),
    }
    inner, point = functions[function]
    with pytest.raises(NotDifferentiableError, match="differentiated by autograd"):
        autograd.grad(lambda t: anp.sum(inner(t)))(point)


# Basis-path charts.


@every_network
def test_chart_has_one_coordinate_per_basis_path(network, rng):
    theta = network.random_point(rng=rng)
    chart = network.basis_chart(theta)
    assert chart.dim == network.dim - network.n_hidden == len(chart.edges)
    numbers = network.path_numbers(chart)
    assert len(set(numbers.tolist())) == chart.dim
    assert_allclose(chart.coordinates(theta), network.lift(theta)[numbers], rtol=1e-13)
    paths = edge_paths(network)
    for edge, number in zip(chart.edges, numbers, strict=True):
        assert edge in paths[number]
    assert chart.deficit(theta) == 0.0


@every_network
def test_chart_recovery_inverts_its_coordinates(network, rng):
    base = network.random_point(rng=rng)
    chart = network.basis_chart(base)
    # Other points of the chart: any sizes, and any signs off the anchor in-edges.
    theta = np.abs(network.random_point(3, rng)) * np.sign(base)
    free = np.setdiff1d(np.arange(network.dim), chart.anchors.into)
    theta[:, free] *= np.where(rng.random((3, free.size)) < 0.5, -1.0, 1.0)
    laws = network.conservation_laws(theta)
    coordinates = chart.coordinates(theta)
    assert_allclose(chart.recover(coordinates, laws), theta, rtol=1e-9)
    assert_allclose(chart.recover(coordinates, laws, near=base), theta, rtol=1e-9)
    assert_allclose(chart.recover(coordinates, laws, near=theta), theta, rtol=1e-9)
    for one, own in zip(theta, laws, strict=True):
        assert_allclose(chart.recover(chart.coordinates(one), own), one, rtol=1e-9)


@every_small_network
def test_chart_derivatives(network, rng):
    theta = network.random_point(rng=rng)
    chart = network.basis_chart(theta)
    # Zeros and sign changes off the anchors belong to the chart.
    used = np.union1d(chart.anchors.into, chart.anchors.out_of)
    free = np.setdiff1d(np.arange(network.dim), used)
    theta[free] *= rng.choice([-1.0, 0.0, 1.0], size=free.size)
    rows = oracle_jacobian(network, theta)[network.path_numbers(chart)]
    assert np.linalg.matrix_rank(rows) == chart.dim
    basis = np.eye(network.dim)
    assert_allclose(chart.push_forward(theta, basis).T, rows, rtol=1e-10, atol=1e-12)
    assert_allclose(chart.pull_back(theta, np.eye(chart.dim)), rows, rtol=1e-10, atol=1e-12)
    by_autograd = autograd.jacobian(chart.coordinates)(theta)
    assert_allclose(by_autograd, rows, rtol=1e-10, atol=1e-12)
    forward = autograd.make_jvp(chart.coordinates)(theta)(basis[0])[1]
    assert_allclose(forward, rows[:, 0], rtol=1e-10, atol=1e-12)
    velocity = rng.standard_normal(chart.dim)
    section = chart.lift_tangent(theta, velocity)
    assert_allclose(chart.push_forward(theta, section), velocity, rtol=1e-9, atol=1e-9)
    assert_allclose(section[chart.anchors.into], 0.0, atol=1e-12)


@every_network
def test_chart_covers_zeros_off_its_anchors(network, rng):
    theta = network.random_point(rng=rng)
    chart = network.basis_chart(theta)
    used = np.union1d(chart.anchors.into, chart.anchors.out_of)
    theta[np.setdiff1d(np.arange(network.dim), used)[::2]] = 0.0
    laws = network.conservation_laws(theta)
    assert_allclose(chart.recover(chart.coordinates(theta), laws), theta, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("seed", [1, 5, 8, 14])
def test_reanchoring_keeps_the_point_and_its_signs(seed, rng):
    network = random_network(seed)
    chart = network.basis_chart(network.random_point(rng=rng))
    theta = network.random_point(rng=rng)
    theta[chart.anchors.into] *= 1e-3
    assert chart.deficit(theta) > 1.0
    other = chart.reanchored(theta)
    assert other.deficit(theta) == 0.0
    assert not np.array_equal(other.anchors.into, chart.anchors.into)
    laws = network.conservation_laws(theta)
    assert_allclose(other.recover(other.coordinates(theta), laws), theta, rtol=1e-9)
    signs = np.sign(network.random_point(rng=rng))  # the signs of the chart it came from play
    again = network.basis_chart(np.abs(theta) * signs).reanchored(theta)  # no part in this
    assert_array_equal(again.signs, other.signs)


def test_the_edge_of_a_chart(rng):
    network = layers([2, 2, 2])
    theta = network.random_point(rng=rng)
    chart = network.basis_chart(theta)
    theta[chart.anchors.into[1]] = 0.0
    assert chart.deficit(theta) == math.inf
    with pytest.raises(NotRecoverableError, match=r"outside the chart; take network\.basis_chart"):
        chart.recover(chart.coordinates(theta), network.conservation_laws(theta))
    assert chart.reanchored(theta).deficit(theta) == 0.0


def test_anchors_do_not_depend_on_the_rescaling(rng):
    network = random_network(13)
    theta = network.random_point(rng=rng)
    charts = [network.basis_chart(t) for t in (theta, network.fibre_point(theta, rng))]
    assert_array_equal(charts[0].anchors.into, charts[1].anchors.into)
    assert_array_equal(charts[0].anchors.out_of, charts[1].anchors.out_of)
    assert_array_equal(charts[0].signs, charts[1].signs)


# The network's function.


@every_network
def test_forward_against_a_node_by_node_evaluation(network, rng):
    theta = network.random_point(2, rng)
    data = rng.standard_normal((3, len(network.inputs)))
    outputs = network.forward(theta, data)
    assert outputs.shape == (2, 3, len(network.outputs))
    for t, own in zip(theta, outputs, strict=True):
        slow = [slow_nodes(network, t, x) for x in data]
        wanted = [[values[node] for node in network.outputs] for values in slow]
        assert_allclose(own, wanted, rtol=1e-12, atol=1e-13)
        nodes = network.activations(t, data)
        labels = [*network.dag.nodes, "⟨1⟩"]
        assert_allclose(nodes, [[v[n] for n in labels] for v in slow], rtol=1e-12, atol=1e-13)


@every_network
def test_forward_is_a_sum_over_paths(network, rng):
    theta = network.random_point(rng=rng)
    z, paths = network.lift(theta), network.paths()
    for x in rng.standard_normal((2, len(network.inputs))):
        values = slow_nodes(network, theta, x)
        outputs = dict.fromkeys(network.outputs, 0.0)
        for path, product in zip(paths, z, strict=True):
            if all(values[node] > 0 for node in path[1:-1]):
                outputs[path[-1]] += product * values[path[0]]
        assert_allclose(network.forward(theta, [x])[0], list(outputs.values()), rtol=1e-10)


@every_network
def test_gradient_of_forward(network, rng):
    theta = network.random_point(rng=rng)
    data = rng.standard_normal((4, len(network.inputs)))
    cotangent = rng.standard_normal((4, len(network.outputs)))

    def scalar(t):
        return anp.sum(network.forward(t, data) * cotangent)

    gradient = autograd.grad(scalar)(theta)
    assert_allclose(network.forward_vjp(theta, data)[1](cotangent), gradient, rtol=1e-14)
    # Central differences, exact up to rounding where no ReLU changes its state: the function is
    # affine in each parameter there.
    h = 1e-6
    for number in rng.permutation(network.dim)[:40]:
        step = h * np.eye(network.dim)[number]
        slope = (scalar(theta + step) - scalar(theta - step)) / (2 * h)
        assert math.isclose(slope, gradient[number], rel_tol=1e-6, abs_tol=1e-7)


def test_gradient_of_forward_over_a_batch_of_parameters(rng):
    network = random_network(5)
    theta = network.random_point(3, rng)
    data = rng.standard_normal((4, len(network.inputs)))
    together = autograd.grad(lambda t: anp.sum(network.forward(t, data) ** 2))(theta)
    apart = [autograd.grad(lambda t: anp.sum(network.forward(t, data) ** 2))(t) for t in theta]
    assert_allclose(together, apart, rtol=1e-13)


@every_network
def test_function_is_unchanged_by_rescaling(network, rng):
    theta = network.random_point(rng=rng)
    data = rng.standard_normal((4, len(network.inputs)))
    moved = network.forward(network.fibre_point(theta, rng), data)
    assert_allclose(moved, network.forward(theta, data), rtol=1e-10, atol=1e-12)


def test_relu_at_zero_has_derivative_zero():
    network = layers([1, 1, 1])
    gradient = network.forward_vjp(np.array([2.0, 3.0]), np.array([[0.0]]))[1](np.ones((1, 1)))
    assert_array_equal(gradient, [0.0, 0.0])


# Distances in the lifted space.


@every_network
def test_lifted_distance_against_the_lift(network, rng):
    a, b = network.random_point(2, rng)
    direct = np.linalg.norm(network.lift(a) - network.lift(b))
    assert_allclose(network.lifted_distance(a, b), direct, rtol=1e-12)
    assert_allclose(network.lifted_norm(a), np.linalg.norm(network.lift(a)), rtol=1e-12)
    assert network.lifted_distance(a, a) == 0.0


@pytest.mark.parametrize("size", [1e-3, 1e-8, 1e-12, 1e-15])
def test_lifted_distance_of_close_points(size, rng):
    network = random_network(7)
    a = network.random_point(rng=rng)
    b = a * (1 + size * rng.standard_normal(network.dim))

    def products(theta):
        exact = [Fraction(float(t)) for t in theta]
        return [math.prod(exact[e] for e in edges) for edges in edge_paths(network)]

    square = sum((p - q) ** 2 for p, q in zip(products(a), products(b), strict=True))
    exact = math.sqrt(square)
    assert exact > 0
    assert_allclose(network.lifted_distance(a, b), exact, rtol=1e-12)


def test_lifted_distance_without_listing_paths(rng):
    network = layers([50] * 8)  # 50⁸ paths
    a = network.random_point(rng=rng)
    b = a.copy()
    b[:2500] *= 2.0  # z doubles
    assert_allclose(network.lifted_distance(a, b), network.lifted_norm(a), rtol=1e-12)


# Values worked by hand.


def test_one_neuron_by_hand():
    # z = u v, |u|² = 25, |v|² = 9, δ = 16: K[G] = G ZᵀZ/|u|² + ZZᵀG/|v|² = |v|² G Q + |u|² P G
    # with the projectors on v and on u.
    network = layers([2, 1, 2])
    theta = np.array([3.0, 4.0, 0.0, 3.0])
    assert_array_equal(network.lift(theta), [0.0, 9.0, 0.0, 12.0])
    assert_array_equal(network.conservation_laws(theta), [16.0])
    wanted = np.array([[9, 0, 12, 0], [0, 18, 0, 12], [12, 0, 16, 0], [0, 12, 0, 25]])
    for cometric in (PathCometric(network, theta), OneHiddenLayerCometric(network, theta)):
        assert_allclose(cometric.matrix(network.lift(theta)), wanted, atol=1e-12)


def test_recovery_of_one_neuron_by_hand():
    # |u|² (|u|² − δ) = |Z|²: 25 · (25 − 16) = 225.
    network = layers([2, 1, 2])
    theta = network.recover([0.0, 9.0, 0.0, 12.0], [16.0], near=[1.0, 1.0, 1.0, 1.0])
    assert_allclose(theta, [3.0, 4.0, 0.0, 3.0], rtol=1e-12)


@pytest.mark.parametrize("theta", [(1.0, 2.0, 3.0), (-2.0, 0.5, 1.0), (3.0, 3.0, 3.0)])
def test_scalar_chain_by_hand(theta):
    u, v, w = theta
    z, h1, h2, x = u * v * w, u**2 - v**2, v**2 - w**2, v**2
    assert math.isclose((x + h1) * x * (x - h2), z**2)
    wanted = x * (x - h2) + (x + h1) * (x - h2) + (x + h1) * x
    network = layers([1, 1, 1, 1])
    assert_allclose(network.conservation_laws(theta), [h1, h2], rtol=1e-14)
    for cometric in (PathCometric(network, theta), ScalarChainCometric(network, theta)):
        assert_allclose(cometric.matrix([z]), [[wanted]], rtol=1e-12)


def test_diagonal_network_by_hand(rng):
    network = diagonal(5)
    theta = network.random_point(rng=rng)
    u, v = network.unpack(theta)
    z, h = u * v, u**2 - v**2
    assert_allclose(network.lift(theta), z, rtol=1e-15)
    assert_allclose(network.conservation_laws(theta), h, rtol=1e-13)
    other = network.random_point(rng=rng)  # anywhere on the image
    for cometric in (PathCometric(network, theta), OneHiddenLayerCometric(network, theta)):
        for point in (z, network.lift(other)):
            wanted = np.diag(np.sqrt(h**2 + 4 * point**2))
            assert_allclose(cometric.matrix(point), wanted, rtol=1e-12, atol=1e-13)


def test_balanced_diagonal_network_of_any_depth():
    # K = L |z|^{2 − 2/L}.
    for depth in (2, 3, 4):
        network = diagonal(3, depth)
        theta = np.tile([0.5, -1.0, 2.0], depth)
        z = network.lift(theta)
        wanted = np.diag(depth * np.abs(z) ** (2 - 2 / depth))
        assert_allclose(PathCometric(network, theta).matrix(z), wanted, rtol=1e-12)


@every_small_network
def test_metric_entry_by_entry(network, rng):
    # K_pq = z_p z_q Σ_{e ∈ p ∩ q} θ_e⁻².
    theta = network.random_point(rng=rng)
    z, paths = network.lift(theta), [set(edges) for edges in edge_paths(network)]
    wanted = [
        [z[i] * z[j] * sum(theta[e] ** -2.0 for e in p & q) for j, q in enumerate(paths)]
        for i, p in enumerate(paths)
    ]
    matrix = PathCometric(network, theta).matrix(z)
    assert_allclose(matrix, wanted, rtol=1e-9, atol=1e-11 * np.max(np.abs(wanted)))


# Closed forms.

CLOSED = [
    (OneHiddenLayerCometric, layers([4, 6, 3])),
    (OneHiddenLayerCometric, layers([3, 2, 2], bias=True)),
    (OneHiddenLayerCometric, residual([2, 3, 2], [(0, 2)], bias=True)),
    (OneHiddenLayerCometric, random_network(9)),
    (OneHiddenLayerCometric, layers([2, 3])),
    (ScalarChainCometric, layers([1, 1, 1, 1])),
    (ScalarChainCometric, layers([3, 1, 1, 2])),
    (
        ScalarChainCometric,
        ReLUNetwork(
            nx.DiGraph([("b", "y"), ("b", "x"), ("a", "b"), ("i", "a"), ("j", "a")]),
            ["j", "i"],
            ["x", "y"],
        ),
    ),
]
every_closed_form = pytest.mark.parametrize(
    ("closed", "network"), CLOSED, ids=[f"{cls.__name__}-{i}" for i, (cls, _) in enumerate(CLOSED)]
)


@every_closed_form
def test_closed_form_equals_the_general_one(closed, network, rng):
    theta0, other = network.random_point(2, rng)
    general, special = PathCometric(network, theta0), closed(network, theta0)
    z = network.lift(np.stack([theta0, other]))
    form = rng.standard_normal(z.shape)
    matrix = general.matrix(z)
    scale = np.max(np.abs(matrix))
    assert_allclose(special.matrix(z), matrix, rtol=1e-12, atol=1e-12 * scale)
    assert_allclose(special.apply(z, form), general.apply(z, form), atol=1e-12 * scale)


@every_closed_form
def test_closed_form_is_differentiable(closed, network, rng):
    cometric = closed(network, network.random_point(rng=rng))
    z = network.lift(network.random_point(rng=rng))
    form, direction = rng.standard_normal((2, network.n_paths))
    slope = autograd.make_jvp(lambda p: cometric.apply(p, form))(z)(direction)[1]
    # The smallest neuron sets the scale on which K changes.
    h = 1e-3 * np.min(np.abs(z)) / np.max(np.abs(direction))

    def difference(step):
        ahead, back = (cometric.apply(z + s * direction, form) for s in (step, -step))
        return (ahead - back) / (2 * step)

    wanted = (4 * difference(h / 2) - difference(h)) / 3
    assert_allclose(slope, wanted, rtol=1e-7, atol=1e-7 * (1 + np.max(np.abs(wanted))))
    if closed is ScalarChainCometric:  # and so is its derivative
        second = autograd.grad(lambda p: anp.sum(cometric.apply(p, form) * direction))
        assert np.all(np.isfinite(autograd.jacobian(second)(z)))


def test_closed_forms_refuse_other_networks():
    theta = layers([2, 2, 2, 2]).random_point(rng=0)
    with pytest.raises(ArchitectureError, match="one hidden layer, got a path of 3 edges"):
        OneHiddenLayerCometric(layers([2, 2, 2, 2]), theta)
    with pytest.raises(ArchitectureError, match=r"networks n-1-1-m .* got 4 hidden nodes"):
        ScalarChainCometric(layers([2, 2, 2, 2]), theta)


# Many hidden nodes: sparse, iterative, no path listed.


@pytest.fixture(scope="module")
def large():
    """Three hidden layers of 250 nodes, three in-edges each."""
    rng = np.random.default_rng(0)
    sizes = [10, 250, 250, 250, 5]
    graph = nx.DiGraph()
    for level, (n_tails, n_heads) in enumerate(itertools.pairwise(sizes)):
        for head in range(n_heads):
            tails = rng.choice(n_tails, size=3, replace=False)
            graph.add_edges_from(((level, int(t)), (level + 1, head)) for t in tails)
        idle = [(level, t) for t in range(n_tails) if not graph.out_degree((level, t))]
        graph.add_edges_from((node, (level + 1, int(rng.integers(n_heads)))) for node in idle)
    ends = ([(level, i) for i in range(sizes[level])] for level in (0, 4))
    return ReLUNetwork(graph, *ends)


def test_large_laplacian_by_conjugate_gradients(large, rng):
    assert large.n_hidden > DENSE_LIMIT
    theta = large.random_point(rng=rng)
    right = rng.standard_normal(large.n_hidden)
    solution = large.laplacian.solve(theta**2, right)
    dense = large.laplacian.matrix(theta**2)
    jacobian = large.conservation_laws_jacobian(theta)
    assert_allclose(dense, jacobian @ jacobian.T / 4, atol=1e-12)
    wanted = np.linalg.solve(dense, right)
    assert_allclose(solution, wanted, rtol=1e-8, atol=1e-8 * np.max(np.abs(wanted)))


def test_large_recovery(large, rng):
    theta = large.random_point(rng=rng)
    laws = large.conservation_laws(theta)
    chart = large.basis_chart(theta)
    assert chart.dim == large.dim - large.n_hidden
    assert_allclose(large.project_to_laws(large.fibre_point(theta, rng), laws), theta, rtol=1e-9)
    assert_allclose(chart.recover(chart.coordinates(theta), laws), theta, rtol=1e-9)
    vector = rng.standard_normal(large.dim)
    tangent = large.project_to_tangent(theta, vector)
    assert_allclose(large.laws_jvp(theta, tangent), 0.0, atol=1e-8)
    assert_allclose(large.project_to_tangent(theta, tangent), tangent, atol=1e-9)


def test_the_chart_that_is_kept_at_a_fixed_point_is_that_of_the_point(rng):
    network = layers([2, 2, 2])
    near, other = 0.5 + rng.random((2, network.dim))
    other[0] *= 1e-6  # its strongest paths are others
    z = network.lift(near) * (1 + 0.1 * rng.random(network.n_paths))  # off the image
    expected = {
        name: network.lift(network.basis_chart(theta).representative(z[positions(network, theta)]))
        for name, theta in (("near", near), ("other", other))
    }
    assert not np.allclose(expected["near"], expected["other"], rtol=1e-3)
    point = near.copy()
    assert_allclose(network.project_to_image(z, near=point), expected["near"], rtol=1e-13)
    point[:] = other  # nothing is kept of what can still change
    assert_allclose(network.project_to_image(z, near=point), expected["other"], rtol=1e-13)
    for theta in (near, other):
        theta.setflags(write=False)
    for _ in range(2):
        for name, theta in (("near", near), ("other", other)):
            found = network.project_to_image(z, near=theta)
            assert_allclose(found, expected[name], rtol=1e-13)


def positions(network, theta):
    return network.path_numbers(network.basis_chart(theta))
