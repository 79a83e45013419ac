"""Networks with shared and frozen weights: functions, constructors, monomials, laws and charts."""

import pickle

import autograd
import autograd.numpy as anp
import networkx as nx
import numpy as np
import pytest
from cases import convolutional, stream, units
from numpy.testing import assert_allclose
from scipy.signal import correlate

from liftflow import InvariantSet, NetworkLoss, ReLUNetwork, compare
from liftflow.architectures import Conv, Pool, TiedNetwork
from liftflow.architectures.channels import ChannelGraph
from liftflow.architectures.dag import BIAS
from liftflow.criteria import classify
from liftflow.errors import ArchitectureError, InputError, NotOnImageError, ShapeError
from liftflow.flows import intrinsic

NETWORKS = {
    "convolutional": convolutional,
    "identity skip": stream,
    "recurrent": lambda: ReLUNetwork.recurrent(2, 2, 1, 3),
    "units of all kinds": units,
}
every = pytest.mark.parametrize("network", [pytest.param(b(), id=n) for n, b in NETWORKS.items()])


def relu(values):
    return np.maximum(values, 0.0)


# Functions.


def convolved(images, filters, biases):
    """What torch calls a convolution, by scipy."""
    return np.array(
        [
            [
                sum(correlate(c, f, "valid") for c, f in zip(image, own, strict=True)) + bias
                for own, bias in zip(filters, biases, strict=True)
            ]
            for image in images
        ]
    )


def test_a_convolutional_network(rng):
    network = ReLUNetwork.convolutional((2, 7, 6), [Conv(3, 3), Pool("max", 2), Conv(2, (2, 1))], 4)
    theta, data = network.random_point(rng=rng), rng.standard_normal((5, 84))
    first, second, dense, *biases = network.unpack(theta)
    assert first.shape, second.shape == ((3, 2, 3, 3), (2, 3, 2, 1))
    hidden = relu(convolved(data.reshape(5, 2, 7, 6), first, biases[0]))[:, :, :4, :4]
    pooled = hidden.reshape(5, 3, 2, 2, 2, 2).max(axis=(3, 5))
    hidden = relu(convolved(pooled, second, biases[1])).reshape(5, -1)
    assert_allclose(network.forward(theta, data), hidden @ dense + biases[2], rtol=1e-12)
    assert network.n_laws == 5
    shifted = theta.copy()
    shifted[0] += 0.1
    assert np.max(np.abs(network.forward(shifted, data) - network.forward(theta, data))) > 1e-3


def test_strides_padding_groups_and_means(rng):
    layers = [Conv(4, 3, stride=2, padding=1, groups=2), Pool("mean", 2)]
    network = ReLUNetwork.convolutional((2, 5, 5), layers, 3, bias=False)
    theta, data = network.random_point(rng=rng), rng.standard_normal((4, 50))
    filters, dense = network.unpack(theta)
    padded = np.pad(data.reshape(4, 2, 5, 5), ((0, 0), (0, 0), (1, 1), (1, 1)))
    maps = [convolved(padded[:, g : g + 1], filters[2 * g : 2 * g + 2], [0, 0]) for g in (0, 1)]
    hidden = relu(np.concatenate(maps, axis=1)[:, :, ::2, ::2])[:, :, :2, :2]
    assert_allclose(network.forward(theta, data), hidden.mean(axis=(2, 3)) @ dense, rtol=1e-12)


def test_a_recurrent_network(rng):
    network = ReLUNetwork.recurrent(2, 3, 2, 4)
    theta, data = network.random_point(rng=rng), rng.standard_normal((6, 4, 2))
    into, along, out, bias, end = network.unpack(theta)
    state = np.zeros((6, 3))
    for step in range(4):
        state = relu(data[:, step] @ into + state @ along + bias)
    assert_allclose(network.forward(theta, data.reshape(6, 8)), state @ out + end, rtol=1e-12)


def test_units_of_all_kinds(rng):
    network = units()
    names = network.parameter_names
    assert names[:2] == (("x", "a", 0), ("x", "a", 1))
    theta, data = network.random_point(rng=rng), rng.standard_normal((7, 2))
    value = dict(zip(names, theta, strict=True))
    x, v = data.T
    a = (value["x", "a", 0] + value["x", "a", 1]) * x
    a = np.where(a > 0, a, 0.3 * a)
    b = np.abs(value["x", "b", 0] * x + value["w"] * v)
    c = relu(value["v", "c", 0] * v + value["⟨1⟩", "c"]) ** 2
    d = value["c", "d", 0] * c - 0.5 * a
    y = value["d", "y", 0] * d + value["u"] * (a + b) + value["m", "y", 0] * np.maximum(a, b)
    assert_allclose(network.forward(theta, data)[:, 0], y + value["⟨1⟩", "y"], rtol=1e-12)


@every
def test_derivatives(network, rng):
    theta = network.random_point(2, rng)
    data = rng.standard_normal((5, len(network.inputs)))
    for argument in (0, 1):
        own = [theta, data]

        def value(free, argument=argument, own=own):
            own = [free if argument == 0 else own[0], free if argument == 1 else own[1]]
            return anp.sum(anp.sin(network.forward(*own)))

        found = autograd.grad(value)(own[argument])
        way = rng.standard_normal(own[argument].shape)
        step = 1e-6
        wanted = (value(own[argument] + step * way) - value(own[argument] - step * way)) / 2 / step
        assert_allclose(np.sum(found * way), wanted, rtol=1e-6)
        assert np.any(found)


def test_inputs_of_plain_networks(rng):
    network = ReLUNetwork.residual([3, 4, 4, 2], [(1, 3)], bias=True)
    theta, data = network.random_point(rng=rng), rng.standard_normal((4, 3))
    found = autograd.jacobian(lambda x: network.forward(theta, x))(data)
    for place in np.ndindex(*data.shape):
        step = np.zeros_like(data)
        step[place] = 1e-6
        gap = network.forward(theta, data + step) - network.forward(theta, data - step)
        assert_allclose(found[(..., *place)], gap / 2e-6, atol=1e-8)


def test_chunks_of_samples_change_nothing(rng):
    network = convolutional()
    theta, data = network.random_point(rng=rng), rng.standard_normal((100, 16))
    whole = network.forward(theta, data)
    network._function.sweep._most = 7
    outputs, pull = network.forward_vjp(theta, data)
    parts = [network.forward_vjp(theta, row[None])[1](np.ones((1, 2))) for row in data]
    assert_allclose(outputs, whole, rtol=1e-13)
    assert_allclose(pull(np.ones((100, 2))), sum(parts), rtol=1e-12)


# Laws, monomials and coordinates.


@every
def test_the_geometry_against_matrices(network, rng):
    theta = network.random_point(rng=rng)
    lift = autograd.jacobian(network.lift)(theta)
    rank = np.linalg.matrix_rank(lift, tol=1e-9 * np.linalg.norm(lift))
    assert rank == network.dim - network.n_laws
    data = rng.standard_normal((3, len(network.inputs)))
    outputs, pull = network.forward_vjp(theta, data)
    gradient = pull(rng.standard_normal(outputs.shape))
    assert_allclose(network.laws_jvp(theta, gradient), 0.0, atol=1e-12)
    assert_allclose(
        lift @ np.linalg.pinv(lift) @ np.ones(len(lift)),
        network.project_to_range(theta, np.ones(len(lift))),
        atol=1e-9,
    )
    image = InvariantSet(network, theta).image()
    matrix = image.metric.cometric.matrix(network.lift(theta))
    assert_allclose(matrix, lift @ lift.T, atol=1e-10 * np.max(matrix))
    exponents = network.path_incidence.toarray()
    assert_allclose(exponents @ network.channels.incidence.toarray(), 0.0)
    wanted = np.prod(theta**exponents, axis=1) * network._paths.monomials.constants
    assert_allclose(network.lift(theta), wanted, rtol=1e-12)
    assert len({tuple(row) for row in exponents.tolist()}) == len(exponents)


@every
def test_recovery(network, rng):
    theta = network.random_point(rng=rng)
    z, laws = network.lift(theta), network.conservation_laws(theta)
    moved = network.fibre_point(theta, rng)
    assert_allclose(network.recover(z, laws, near=moved), theta, rtol=1e-9)
    alone = network.recover(z, laws)
    assert_allclose(network.lift(alone), z, rtol=1e-9)
    assert_allclose(np.abs(alone), np.abs(theta), rtol=1e-9)
    away = z * (1 + 0.3 * rng.standard_normal(z.size))
    with pytest.raises(NotOnImageError):
        network.recover(away, laws, near=theta)


@every
def test_flows_agree(network, rng):
    theta = network.random_point(rng=1)
    data = rng.standard_normal((6, len(network.inputs)))
    loss = NetworkLoss(network, data, network.forward(theta, data) + 0.3)
    start = InvariantSet(network, theta)
    for coordinates in ("basis", "full"):
        run = compare(start, loss, (0.0, 0.3), rtol=1e-6, coordinates=coordinates, n_times=3)
        assert run.success
        assert run.max_deviation < 1e-4
        assert run.intrinsic.loss[-1] < 0.9 * run.intrinsic.loss[0]


@every
def test_properties_hold(network):
    found = classify(network, network.random_point(rng=0))
    verdicts = {str(each.verdict) for each in (found.recoverable, found.frobenius, found.complete)}
    assert verdicts == {"holds"}


def test_thawed_skips_part_what_frozen_ones_merge():
    frozen = stream()
    thawed = ReLUNetwork.residual([2, 3, 2, 3, 2], [(1, 3)], bias=True)
    assert (frozen.n_laws, thawed.n_laws) == (5, 8)
    theta, rng = frozen.random_point(rng=0), np.random.default_rng(0)
    loss = NetworkLoss(thawed, rng.standard_normal((5, 2)), np.ones((5, 2)))
    own = thawed.random_point(rng=0)
    merged = np.zeros((5, 8))
    merged[[0, 1, 2, 3, 4, 0, 1, 2], range(8)] = 1.0
    drift = merged @ thawed.laws_jvp(own, loss.parameter_gradient(own))
    assert theta.size == frozen.dim == thawed.dim - 9
    assert np.max(np.abs(drift[3:])) < 1e-12
    assert np.max(np.abs(thawed.laws_jvp(own, loss.parameter_gradient(own)))) < 1e-12


def test_walks_of_general_exponents():
    """Weights that only small multiples of the others balance are on walks all the same."""
    exponents = [[1, 0], [-5, 1], [0, -1], [1, 0]]
    graph = ChannelGraph.from_matrix([[1, 0], [1, 0], [-2, 1], [0, -1], *exponents])
    assert graph.dead(np.ones(8)).size == 0
    assert graph.dead([0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0]).tolist() == [2, 3, 5, 6]


def test_large_networks_list_nothing(rng):
    network = ReLUNetwork.convolutional((3, 8, 8), [Conv(16, 3), Conv(16, 3), Conv(16, 3)], 10)
    theta = network.random_point(rng=rng)
    assert network.n_laws == 48
    moved = network.fibre_point(theta, rng)
    laws = network.conservation_laws(theta)
    assert_allclose(network.project_to_laws(moved, laws), theta, rtol=1e-9)
    chart = network.basis_chart(theta)
    assert chart.dim == network.dim - 48
    with pytest.raises(ArchitectureError, match="use coordinates='basis', which lists none"):
        network.paths()


# Constructors.


@every
def test_networks_are_their_graphs(network, rng):
    again = ReLUNetwork(network.graph, network.inputs, network.outputs, network.biases)
    assert type(again) is TiedNetwork
    assert (again.dim, again.n_laws, again.n_paths) == (
        network.dim,
        network.n_laws,
        network.n_paths,
    )
    theta, data = network.random_point(rng=rng), rng.standard_normal((3, len(network.inputs)))
    written = network.write_weights(theta)
    assert_allclose(network.read_weights(written), theta)
    assert_allclose(again.forward(again.read_weights(written), data), network.forward(theta, data))
    copied = pickle.loads(pickle.dumps(network))
    assert_allclose(copied.lift(theta), network.lift(theta))


def test_a_graph_keeps_what_it_is_given():
    graph = nx.DiGraph([("x", "a"), ("a", "y"), ("x", "b"), ("b", "y")])
    graph.add_edge("x", "y", frozen=True, weight=0.0, colour="red")
    graph.add_edge("a", "b", parameter="w", weight=1.0)
    graph.add_edge("x", "a", parameter="w")
    network = ReLUNetwork(graph, ["x"], ["y"])
    assert nx.utils.graphs_equal(network.graph, graph)
    assert network.parameter_names == ("w", ("x", "b"), ("a", "y"), ("b", "y"))
    graph.edges["x", "a"]["weight"] = 2.0
    with pytest.raises(ArchitectureError, match=r"different ones: \[\('a', 'b'\)\]"):
        network.read_weights(graph)


def test_layers_there_and_back(rng):
    weights = [rng.standard_normal(shape) for shape in ((3, 4), (4, 4), (4, 2))]
    biases = [None, rng.standard_normal(4), rng.standard_normal(2)]
    network, theta = ReLUNetwork.from_layers(weights, biases, torch_layout=False)
    data = rng.standard_normal((5, 3))
    hidden = relu(relu(data @ weights[0]) @ weights[1] + biases[1])
    assert_allclose(network.forward(theta, data), hidden @ weights[2] + biases[2], rtol=1e-12)
    turned = [w.T for w in weights]
    other, same = ReLUNetwork.from_layers(turned, biases, torch_layout=True)
    assert_allclose(same, theta)
    assert other.block_shapes == network.block_shapes
    for layout, wanted in ((False, weights), (True, turned)):
        found, offsets = network.to_layers(theta, torch_layout=layout)
        assert all(map(np.array_equal, found, wanted))
        assert offsets[0] is None
        assert_allclose(offsets[2], biases[2])
    with pytest.raises(InputError, match=r"weights\[1\] are square.* say torch_layout=False"):
        ReLUNetwork.from_layers(weights)
    with pytest.raises(ShapeError, match="torch_layout=True"):
        ReLUNetwork.from_layers([turned[0], turned[2]])
    with pytest.raises(ArchitectureError, match="not made of complete layers"):
        ReLUNetwork.residual([2, 2, 2, 2], [(0, 2)]).to_layers(np.ones(16))
    with pytest.raises(ArchitectureError, match="no list of layers"):
        stream().to_layers(np.ones(stream().dim))


def test_pruning(rng):
    network = ReLUNetwork.from_widths([3, 4, 4, 2], bias=True)
    theta = network.random_point(rng=rng)
    node = network.dag.nodes.index((1, 0))
    theta[network.dag.heads == node] = 0.0
    smaller, left = network.prune(theta)
    assert set(network.hidden) - set(smaller.hidden) == {(1, 0)}
    assert smaller.dim == network.dim - 8
    data = rng.standard_normal((5, 3))
    assert_allclose(smaller.forward(left, data), network.forward(theta, data), rtol=1e-13)
    assert smaller.basis_chart(left).dim == smaller.dim - 7
    network = units()
    theta = network.random_point(rng=rng)
    theta[[network.parameter_names.index(name) for name in (("x", "b", 0), "w")]] = 0.0
    smaller, left = network.prune(theta)
    assert "b" not in smaller.hidden
    data = rng.standard_normal((9, 2))
    assert_allclose(smaller.forward(left, data), network.forward(theta, data), rtol=1e-13)


def one_path(**attributes):
    graph = nx.DiGraph([("x", "a", attributes), ("a", "y")])
    return ReLUNetwork(graph, ["x"], ["y"])


def activated(kind):
    graph = nx.DiGraph([("x", "a"), ("a", "y")])
    graph.nodes["a"]["activation"] = kind
    return ReLUNetwork(graph, ["x"], ["y"])


def test_frozen_is_also_a_number_as_files_have_it():
    assert one_path(frozen=1, weight=2.0).dim == one_path(frozen=True, weight=2.0).dim == 1
    assert one_path(frozen=0).dim == one_path(frozen=False).dim == 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ReLUNetwork.convolutional((1, 2, 2), [Conv(2, 3)], 2), "does not fit an image"),
        (lambda: ReLUNetwork.convolutional((1, 4, 4), [Conv(2, 2, groups=2)], 2), "groups must"),
        (lambda: ReLUNetwork.convolutional((1, 1, 1), [Conv(2, 3, padding=1)], 2), "padding alone"),
        (lambda: ReLUNetwork.residual([2, 3, 2, 4, 2], [(1, 3)], identity=True), "of one width"),
        (lambda: one_path(frozen="false", weight=2.0), r"frozen must be True .* \('x', 'a'\)"),
        (lambda: activated({"a": 1}), r"got \{'a': 1\} at: 'a'"),
        (lambda: one_path(parameter=["w"]), r"parameter must be a name.* \('x', 'a'\)"),
    ],
)
def test_what_fits_nothing(build, message):
    with pytest.raises(ArchitectureError, match=message):
        build()


def test_subclasses_of_plain_networks_stay_plain():
    class Own(ReLUNetwork):
        pass

    graph = nx.DiGraph([("x", "a"), ("a", "y")])
    assert type(Own(graph, ["x"], ["y"])) is Own
    graph.nodes["a"]["activation"] = "abs"
    with pytest.raises(ArchitectureError, match="derive it from TiedNetwork"):
        Own(graph, ["x"], ["y"])


@pytest.mark.slow
def test_a_weight_that_only_counts_squared_is_not_followed_through_zero(monkeypatch):
    graph = nx.DiGraph([(u, v) for u in "xw" for v in "ab"] + [(v, o) for v in "ab" for o in "yz"])
    graph.nodes["a"].update(activation="relu_power", degree=2)
    graph.nodes["b"].update(activation="relu_power", degree=3)
    network = ReLUNetwork(graph, ["x", "w"], ["y", "z"], ["a"])
    named = {network.parameter_names[number] for number in network.phi.folds}
    assert named == {*((u, v) for u in "xw" for v in "ab"), (BIAS, "a")}
    data = (
        np.random.default_rng(0).normal(size=(4, 2)),
        np.random.default_rng(1).normal(size=(4, 2)),
    )
    start = InvariantSet(network, network.random_point(rng=0))
    given = start, NetworkLoss(network, *data), (0, 0.2)
    settings = {"rtol": 1e-6, "n_times": 5}
    assert compare(*given, coordinates="basis", **settings).max_deviation < 1e-4
    stopped = compare(*given, coordinates="full", **settings)
    assert not stopped.success
    assert stopped.max_deviation < 1e-4
    assert "coordinates='basis'" in stopped.intrinsic.message
    monkeypatch.setattr(intrinsic, "_NEAR_FOLD", 0.0)
    assert compare(*given, coordinates="full", **settings).max_deviation > 1e-2


def graph_of(*edges):
    graph = nx.MultiDiGraph()
    for tail, head, attributes in edges:
        graph.add_edge(tail, head, **attributes)
    return graph


FROZEN, TIED = {"frozen": True, "weight": 1.0}, {"parameter": "a"}
# z = (a², const); (a, b, const); (a, b); and the control, (ac, bc).
SQUARE = graph_of(("x", "h", TIED), ("h", "y", TIED), ("w", "h", TIED), ("w", "v", FROZEN))
CONSTANT = graph_of(("x", "h", {}), ("x", "h", {}), ("w", "h", FROZEN), ("h", "y", FROZEN))
LINEAR = graph_of(("x", "h", {}), ("w", "h", {}), ("h", "y", FROZEN))
PRODUCTS = graph_of(("x", "h", {}), ("w", "h", {}), ("h", "y", {}))


@pytest.mark.parametrize(
    ("graph", "outputs", "theta", "verdict"),
    [
        (SQUARE, "yv", [3.0], "holds"),
        (CONSTANT, "y", [2.0, 3.0], "holds"),
        (LINEAR, "y", [2.0, 3.0], "holds"),
        (LINEAR, "y", [0.0, 3.0], "holds"),
        (LINEAR, "y", [0.0, 0.0], "holds"),
        (PRODUCTS, "y", [1.0, 3.0, 2.0], "fails"),
    ],
)
def test_constant_monomials_and_constant_fields_commute(graph, outputs, theta, verdict):
    network = ReLUNetwork(graph, "xw", outputs)
    found = classify(network, theta)
    assert found.commuting.verdict == verdict
    if graph is LINEAR:  # no channel has a law, and z is θ
        assert {found.recoverable.verdict, found.frobenius.verdict} == {"holds"}
        assert found.n_laws.value == 0
