"""Networks with shared, frozen and recurrent weights, against an oracle that knows no channels."""

import functools
import re

import autograd
import autograd.numpy as anp
import channel_oracle as oracles
import networkx as nx
import numpy as np
import pytest
from channel_oracle import ONE, GraphOracle
from numpy.testing import assert_allclose

from liftflow.architectures import Conv, Pool, ReLUNetwork
from liftflow.criteria import (
    Verdict,
    count_conservation_laws,
    frobenius,
    laws_complete,
    recoverability,
)
from liftflow.errors import ArchitectureError, LiftflowError
from liftflow.flows import compare
from liftflow.losses import NetworkLoss, loss_from_function
from liftflow.manifolds import InvariantSet
from liftflow.metrics import intrinsic_cometric

KINDS = {  # seeds of each kind, 40 in all
    "conv": range(0, 8),
    "residual": range(8, 14),
    "sequence": range(14, 19),
    "recurrent": range(19, 25),
    "activations": range(25, 30),
    "frozen": range(30, 34),
    "parallel": range(34, 37),
    "shared": range(37, 40),
}
KIND = {seed: kind for kind, seeds in KINDS.items() for seed in seeds}
SEEDS = [pytest.param(seed, id=f"{seed}-{kind}") for seed, kind in KIND.items()]
every_network = pytest.mark.parametrize("seed", SEEDS)
MOST_MONOMIALS = 200
MOST_PARAMETERS = 60


# Networks: one of the library beside one of the oracle.


class Case:
    """A network and its oracle; ``columns`` are the places of the oracle's parameters in θ."""

    def __init__(self, network, oracle, columns):
        self.network, self.oracle = network, oracle
        self.columns = np.asarray(columns, dtype=int)
        assert sorted(columns) == list(range(network.dim))
        self.n_inputs = sum(node != ONE for node in oracle.inputs)

    def read(self, theta):
        """θ in the order of the oracle."""
        return theta[..., self.columns]

    def write(self, values):
        """A gradient in the order of the library."""
        result = np.zeros(values.shape)
        result[..., self.columns] = values
        return result

    def feed(self, data):
        """Data for the library: with a column of ones where its graph has the input ``ONE``."""
        if ONE not in self.network.inputs:
            return data
        return np.column_stack([data, np.ones(len(data))])

    def theta(self, rng):
        sizes = rng.uniform(0.4, 1.3, self.network.dim)
        return sizes * rng.choice([-1.0, 1.0], self.network.dim)

    @functools.cached_property
    def monomials(self):
        """For each entry of z its row in the oracle's exponents, and its constant.

        θ_e ∂_e log z are the exponents; the constant is that of one of the paths.
        """
        theta = self.theta(np.random.default_rng(0))
        z, jacobian = self.network.lift(theta), self.network.lift_jacobian(theta)
        exponents = self.read(jacobian * theta / z[:, None])
        assert_allclose(exponents, np.rint(exponents), atol=1e-9)
        numbers = {tuple(row): i for i, row in enumerate(self.oracle.exponents.tolist())}
        rows = [numbers[tuple(row)] for row in np.rint(exponents).astype(int).tolist()]
        assert sorted(rows) == list(range(len(numbers)))
        constants = z / self.oracle.lift(self.read(theta))[rows]
        for row, constant in zip(rows, constants, strict=True):
            choices = np.array(self.oracle.constants[tuple(self.oracle.exponents[row].tolist())])
            assert np.min(np.abs(choices / constant - 1)) < 1e-10
        return rows, np.array([float(f"{constant:.10g}") for constant in constants])

    def lift(self, theta):
        rows, constants = self.monomials
        return constants * self.oracle.lift(self.read(theta))[rows]

    def jacobian(self, theta):
        """∂φ in the orders of the library."""
        rows, constants = self.monomials
        jacobian = self.oracle.lift_jacobian(self.read(theta))[rows]
        return self.write(constants[:, None] * jacobian)

    def problem(self, rng, n_samples=6):
        data = rng.standard_normal((n_samples, self.n_inputs))
        return data, rng.standard_normal((n_samples, len(self.oracle.outputs)))


def columns_of_graph(network, oracle):
    """Read off a graph that holds the number of each parameter as its weight."""
    numbered = network.write_weights(np.arange(1.0, network.dim + 1))
    multi = numbered.is_multigraph()
    columns = {}
    for *edge, data in numbered.edges(data=True, **({"keys": True} if multi else {})):
        if not data.get("frozen"):
            label = data.get("parameter", tuple(edge))
            assert columns.setdefault(label, data["weight"]) == data["weight"]
    for node in oracle.biases:
        data = numbered.nodes[node]
        if not data.get("bias_frozen"):
            label = data.get("bias_parameter", ("bias", node))
            assert columns.setdefault(label, data["bias"]) == data["bias"]
    return [round(columns[label]) - 1 for label in oracle.labels]


def graph_case(graph, inputs, outputs, biases=()):
    oracle = GraphOracle(graph, inputs, outputs, biases)
    network = ReLUNetwork(graph, inputs, outputs, biases)
    return Case(network, oracle, columns_of_graph(network, oracle))


def numbers_of_blocks(network, shapes):
    """Place in θ of every entry of the oracle's blocks, whose matrices are (out, in)."""
    blocks = [np.rint(block).astype(int) for block in network.unpack(np.arange(network.dim))]
    assert len(blocks) == len(shapes)
    numbers = []
    for block, shape in zip(blocks, shapes, strict=True):
        if len(shape) == 4 and block.ndim == 2:  # the head: one row per flattened position
            block = block.T.reshape(shape)
        elif len(shape) == 2:
            block = block.T
        assert block.shape == shape
        numbers.append(block.ravel())
    return np.concatenate(numbers)


def block_case(network, graph, shapes):
    oracle = GraphOracle(*graph)
    numbers = numbers_of_blocks(network, shapes)
    columns = numbers[oracles.columns_of_blocks(oracle, shapes)]
    return Case(network, oracle, columns)


def library_layers(layers):
    return [
        Conv(rest[0], rest[1], stride=rest[2], padding=rest[3], groups=rest[4])
        if kind == "conv"
        else Pool(kind, rest[0])
        for kind, *rest in layers
    ]


def convolutional_case(image_shape, layers, n_outputs, bias):
    network = ReLUNetwork.convolutional(image_shape, library_layers(layers), n_outputs, bias=bias)
    graph = oracles.convolutional_graph(image_shape, layers, n_outputs, bias)
    shapes = oracles.convolutional_shapes(image_shape, layers, n_outputs, bias)
    return block_case(network, graph, shapes)


def recurrent_shapes(n_inputs, n_hidden, n_outputs, bias):
    matrices = [(n_hidden, n_inputs), (n_hidden, n_hidden), (n_outputs, n_hidden)]
    return matrices + ([(n_hidden,), (n_outputs,)] if bias else [])


def recurrent_case(n_inputs, n_hidden, n_outputs, n_steps, bias):
    network = ReLUNetwork.recurrent(n_inputs, n_hidden, n_outputs, n_steps, bias=bias)
    graph = oracles.recurrent_graph(n_inputs, n_hidden, n_outputs, n_steps, bias)
    return block_case(network, graph, recurrent_shapes(n_inputs, n_hidden, n_outputs, bias))


def drawn_convolution(rng):
    """Image, layers, outputs and bias; with a stride, padding, groups or a pool now and then."""
    channels = int(rng.integers(1, 3))
    size = int(rng.integers(3, 6))
    layers, width, depth = [], size, channels
    for _ in range(int(rng.integers(1, 3))):
        kernel, stride = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        padding = int(rng.integers(0, 2)) if kernel > 1 else 0
        groups = depth if rng.random() < 0.4 else 1
        out = groups * int(rng.integers(1, 3))
        width = (width + 2 * padding - kernel) // stride + 1
        layers.append(("conv", out, kernel, stride, padding, groups))
        depth = out
        if width >= 2 and rng.random() < 0.5:
            layers.append((str(rng.choice(["max", "mean"])), 2))
            width //= 2
        if width < 2:
            break
    return (channels, size, size), layers, int(rng.integers(1, 3)), bool(rng.random() < 0.5)


def drawn_dag(rng, kind):
    """Generations of 1 to 3 nodes, each with an edge from the one before and one to the next."""
    sizes = [int(n) for n in rng.integers(1, 4, size=int(rng.integers(3, 6)))]
    levels = [[f"{level}.{i}" for i in range(size)] for level, size in enumerate(sizes)]
    pairs = []
    for level, nodes in enumerate(levels[1:], 1):
        earlier = [u for own in levels[:level] for u in own]
        for node in nodes:
            pairs.append((str(rng.choice(levels[level - 1])), node))
            pairs += [(u, node) for u in earlier if rng.random() < 0.3]
        pairs += [
            (u, str(rng.choice(nodes)))
            for u in levels[level - 1]
            if not any(u == tail for tail, _ in pairs)
        ]
    many = kind in ("parallel", "shared") or rng.random() < 0.3
    if many:
        pairs += [pairs[i] for i in rng.integers(len(pairs), size=2)]
    graph = nx.MultiDiGraph() if many else nx.DiGraph()
    maxima = set()
    for level, nodes in enumerate(levels):
        for node in nodes:
            graph.add_node(node)
            if 0 < level < len(levels) - 1:
                choices = ["relu", "leaky_relu", "abs", "max", "identity"]
                weights = [3, 3, 2, 2, 1] if kind == "activations" else [6, 1, 1, 1, 1]
                chosen = str(rng.choice(choices, p=np.array(weights) / sum(weights)))
                if chosen != "relu" or rng.random() < 0.5:
                    graph.nodes[node]["activation"] = chosen
                if chosen == "leaky_relu":
                    graph.nodes[node]["slope"] = float(rng.uniform(0.1, 0.5))
                if chosen == "max":
                    maxima.add(node)
    share = {"parallel": 0.2, "shared": 0.5}.get(kind, 0.1)
    freeze = {"frozen": 0.35, "parallel": 0.15}.get(kind, 0.1)
    for tail, head in pairs if many else dict.fromkeys(pairs):
        if head in maxima or rng.random() < freeze:
            graph.add_edge(tail, head, frozen=True, weight=float(rng.choice([-2.0, 0.5, 1.0])))
        elif rng.random() < share:
            graph.add_edge(tail, head, parameter=f"w{rng.integers(3)}")
        else:
            graph.add_edge(tail, head)
    hidden = [node for own in levels[1:] for node in own if node not in maxima]
    biases = [node for node in hidden if rng.random() < 0.3]
    for node in biases:
        if rng.random() < freeze:
            graph.nodes[node].update(bias_frozen=True, bias=float(rng.choice([-0.5, 1.0])))
        elif rng.random() < share:
            graph.nodes[node]["bias_parameter"] = f"b{rng.integers(2)}"
    return graph, levels[0], levels[-1], biases


def fits(oracle):
    trainable = {number for exponents, _ in oracle.monomials for number, _ in exponents}
    return (
        len(oracle.monomials) <= MOST_MONOMIALS
        and oracle.dim <= MOST_PARAMETERS
        and len(trainable) == oracle.dim
        and oracle.n_laws > 0
        and oracle.dim > oracle.n_laws
        and all(exponents for exponents, _ in oracle.monomials)
    )


@functools.cache
def drawn(seed):
    """The arguments of the network of this seed; drawn again until it is small and alive."""
    kind, rng = KIND[seed], np.random.default_rng(seed)
    while True:
        if kind == "conv":
            spec = drawn_convolution(rng)
            graph = oracles.convolutional_graph(*spec)
            sizes = oracles.convolutional_shapes(*spec)
            complete = sum(int(np.prod(s)) for s in sizes) == GraphOracle(*graph).dim
        elif kind == "residual":
            hidden = [int(n) for n in rng.integers(1, 3, size=2)]
            spec = graph = oracles.residual_graph(
                2, 2, hidden, int(rng.integers(1, 3)), stem=seed % 2 == 0, middle="identity"
            )
            complete = True
        elif kind == "sequence":
            n_inputs, width, n_outputs, n_uses = (int(n) for n in rng.integers(1, 4, size=4))
            activation = str(rng.choice(["relu", "leaky_relu", "abs"]))
            spec = graph = oracles.sequence_graph(
                n_inputs, width, n_outputs, n_uses + 1, activation=activation
            )
            complete = width > 1
        elif kind == "recurrent":
            steps = 2 + (seed - KINDS["recurrent"][0]) % 4
            n_inputs, n_hidden, n_outputs = (int(n) for n in rng.integers(1, 4, size=3))
            spec = (n_inputs, n_hidden, n_outputs, steps, bool(rng.random() < 0.5))
            graph, complete = oracles.recurrent_graph(*spec), True
        else:
            spec = graph = drawn_dag(rng, kind)
            complete = True
        if complete and fits(GraphOracle(*graph)):
            return kind, spec


@functools.cache
def case(seed):
    kind, spec = drawn(seed)
    build = {"conv": convolutional_case, "recurrent": recurrent_case}.get(kind, graph_case)
    return build(*spec)


# The oracle against itself.


def test_forty_networks_of_all_kinds():
    assert sorted(KIND) == list(range(40))
    layers = [drawn(seed)[1][1] for seed in KINDS["conv"]]
    found = {("pool", kind) for own in layers for kind, *_ in own if kind != "conv"}
    for _, _, _, stride, padding, groups in (l for own in layers for l in own if l[0] == "conv"):
        found |= {("stride", stride), ("padding", padding), ("groups", groups > 1)}
    assert {("pool", "max"), ("pool", "mean"), ("stride", 2)} <= found
    assert {("padding", 1), ("groups", True)} <= found
    assert {drawn(seed)[1][3] for seed in KINDS["recurrent"]} == {2, 3, 4, 5}
    graphs = [drawn(seed)[1][0] for seed in KIND if KIND[seed] not in ("conv", "recurrent")]
    kinds = {kind for graph in graphs for _, kind in graph.nodes(data="activation")}
    assert {"leaky_relu", "abs", "max", "identity"} <= kinds
    assert any(data for graph in graphs for *_, data in graph.edges(data="frozen"))
    assert any(len(set(graph.edges())) < len(graph.edges) for graph in graphs)


@every_network
def test_oracle_counts_the_same_in_three_ways(seed):
    kind, spec = drawn(seed)
    build = {"conv": oracles.convolutional_graph, "recurrent": oracles.recurrent_graph}.get(kind)
    oracle = GraphOracle(*(build(*spec) if build else spec))
    rng = np.random.default_rng(seed)
    theta = rng.uniform(0.4, 1.3, oracle.dim) * rng.choice([-1.0, 1.0], oracle.dim)
    assert oracle.dim - oracle.lift_rank(theta) == oracle.n_laws == oracle.equations()
    wanted = autograd.jacobian(oracle.lift)(theta)
    assert_allclose(oracle.lift_jacobian(theta), wanted, rtol=1e-11, atol=1e-12)
    data = rng.standard_normal((9, len(oracle.inputs)))
    gradients = oracle.data_gradients(theta, data)
    laws = oracle.laws_jacobian(theta)
    sizes = np.linalg.norm(gradients, axis=1)[:, None] * np.linalg.norm(laws, axis=1)
    assert np.all(np.abs(gradients @ laws.T) <= 1e-12 * sizes)


# The forty networks.


@every_network
def test_laws_are_what_the_rank_of_the_lift_leaves(seed, rng):
    own = case(seed)
    network, oracle = own.network, own.oracle
    theta = own.theta(rng)
    assert network.n_laws == network.channels.n_channels == oracle.n_laws
    assert oracle.lift_rank(own.read(theta)) == network.dim - network.n_laws
    incidence = network.channels.incidence
    assert incidence.shape == (network.dim, network.n_laws)
    assert np.issubdtype(incidence.dtype, np.integer)
    assert not np.any(oracle.exponents @ incidence.toarray()[own.columns])
    assert np.linalg.matrix_rank(incidence.toarray()) == network.n_laws
    assert_allclose(network.conservation_laws(theta), theta**2 @ incidence, rtol=1e-12, atol=1e-12)


@every_network
def test_exact_counts(seed):
    own = case(seed)
    found = count_conservation_laws(own.network, exact=True)
    assert found.value == own.network.channels.n_channels == own.oracle.n_laws
    assert found.tolerance == 0 < found.witness["error_bound"] < 1e-10
    assert found.witness["levels"][0] == own.network.dim - found.value
    assert not any(found.witness["levels"][1:])  # brackets add nothing: Frobenius


@every_network
def test_function_and_its_derivatives(seed, rng):
    own = case(seed)
    theta, (data, targets) = own.theta(rng), own.problem(rng)
    wanted = own.oracle.forward(own.read(theta), data)
    scale = np.max(np.abs(wanted)) + 1e-3
    found = own.network.forward(theta, own.feed(data))
    assert_allclose(found, wanted, rtol=1e-12, atol=1e-12 * scale)
    both = np.stack([theta, own.theta(rng)])
    found = own.network.forward(both, own.feed(data))
    assert_allclose(found[1], own.oracle.forward(own.read(both[1]), data), rtol=1e-12, atol=1e-12)

    loss = NetworkLoss(own.network, own.feed(data), targets)
    gradient = own.write(own.oracle.loss_gradient(own.read(theta), data, targets))
    scale = np.max(np.abs(gradient))
    found = loss.parameter_gradient(theta, own.network)
    assert_allclose(found, gradient, rtol=1e-10, atol=1e-12 * scale)

    weights = rng.standard_normal(wanted.shape)
    slopes = [
        autograd.grad(lambda x, f=f: anp.sum(weights * f(x)))(points)[:, : own.n_inputs]
        for f, points in [
            (lambda x: own.network.forward(theta, x), own.feed(data)),
            (lambda x: own.oracle.forward(own.read(theta), x), data),
        ]
    ]
    assert_allclose(*slopes, rtol=1e-10, atol=1e-12 * np.max(np.abs(slopes[1])))


@every_network
def test_laws_are_conserved_by_every_gradient(seed, rng):
    own = case(seed)
    theta = own.theta(rng)
    laws = own.network.conservation_laws_jacobian(theta)
    for _ in range(3):
        data, targets = own.problem(rng)
        gradient = own.write(own.oracle.loss_gradient(own.read(theta), data, targets))
        assert np.linalg.norm(gradient) > 0
        size = np.linalg.norm(laws, axis=1) * np.linalg.norm(gradient)
        assert np.all(np.abs(laws @ gradient) <= 1e-12 * size)


@every_network
def test_lift_lists_the_distinct_monomials(seed, rng):
    own = case(seed)
    theta, direction = own.theta(rng), rng.standard_normal(own.network.dim)
    assert own.network.lifted_shape == (len(own.oracle.exponents),)
    assert_allclose(own.network.lift(theta), own.lift(theta), rtol=1e-12)
    jacobian = own.jacobian(theta)
    scale = np.max(np.abs(jacobian))
    assert_allclose(own.network.lift_jacobian(theta), jacobian, rtol=1e-11, atol=1e-12 * scale)
    assert_allclose(
        own.network.lift_jvp(theta, direction), jacobian @ direction, rtol=1e-9, atol=1e-11 * scale
    )
    covector = rng.standard_normal(len(jacobian))
    assert_allclose(
        own.network.lift_vjp(theta, covector), covector @ jacobian, rtol=1e-9, atol=1e-11 * scale
    )


@every_network
def test_metric_property(seed, rng):
    own = case(seed)
    theta0 = own.theta(rng)
    cometric = intrinsic_cometric(own.network, theta0)
    laws = own.network.conservation_laws(theta0)
    other = own.network.project_to_laws(own.theta(rng), laws)
    assert_allclose(own.network.conservation_laws(other), laws, rtol=1e-9, atol=1e-9)
    for theta in (theta0, other):
        jacobian = own.jacobian(theta)
        wanted = jacobian @ jacobian.T
        found = cometric.matrix(own.lift(theta))
        assert np.max(np.abs(found - wanted)) <= 1e-10 * np.max(np.abs(wanted))


@every_network
def test_recovery(seed, rng):
    own = case(seed)
    theta = own.theta(rng)
    z, laws = own.lift(theta), own.network.conservation_laws(theta)
    near = np.abs(own.theta(rng)) * np.sign(theta)
    assert_allclose(own.network.recover(z, laws, near=near), theta, rtol=1e-9)
    unsigned = own.network.recover(z, laws)
    assert_allclose(np.abs(unsigned), np.abs(theta), rtol=1e-9)


@every_network
def test_rescalings(seed, rng):
    own = case(seed)
    network, theta = own.network, own.theta(rng)
    data, _ = own.problem(rng)
    logs = own.oracle.symmetries @ rng.standard_normal(own.oracle.n_laws)
    moved = own.write(own.read(theta) * np.exp(logs))
    value = own.oracle.forward(own.read(theta), data)
    scale = np.max(np.abs(value)) + 1e-3
    assert_allclose(network.forward(moved, own.feed(data)), value, rtol=1e-9, atol=1e-11 * scale)
    assert_allclose(network.lift(moved), network.lift(theta), rtol=1e-10)
    points = [network.fibre_point(theta, rng) for _ in range(network.n_laws)]
    points.append(network.rescale(theta, rng.standard_normal(network.n_laws)))
    for point in points:
        found = own.oracle.forward(own.read(point), data)
        assert_allclose(found, value, rtol=1e-9, atol=1e-11 * scale)
    assert np.linalg.matrix_rank(np.log(points / theta)) == network.n_laws


@every_network
def test_coordinates(seed, rng):
    own = case(seed)
    network, theta = own.network, own.theta(rng)
    chart = network.basis_chart(theta)
    assert chart.dim == network.dim - network.n_laws
    coordinates = chart.coordinates(theta)
    assert coordinates.shape == (chart.dim,)
    laws = network.conservation_laws(theta)
    assert_allclose(chart.recover(coordinates, laws), theta, rtol=1e-9)
    assert_allclose(chart.coordinates(network.fibre_point(theta, rng)), coordinates, rtol=1e-9)
    assert InvariantSet(network, theta).dim == chart.dim
    manifold = InvariantSet(network, theta).image()
    assert manifold.dim == chart.dim


@every_network
def test_criteria(seed, rng):
    own = case(seed)
    theta = own.theta(rng)
    for criterion in (recoverability, laws_complete, frobenius):
        assert criterion(own.network, theta).verdict is Verdict.HOLDS, criterion.__name__


@every_network
def test_zeros_that_kill_nothing(seed, rng):
    own = case(seed)
    network = own.network
    for number in rng.permutation(network.dim):
        theta = own.theta(rng)
        theta[number] = 0.0
        jacobian = own.jacobian(theta)
        alive = np.all(np.any(jacobian, axis=0))
        if alive and own.oracle.lift_rank(own.read(theta)) == network.dim - network.n_laws:
            break
    else:
        pytest.skip("every weight is needed")
    z, laws = own.lift(theta), network.conservation_laws(theta)
    near = np.abs(own.theta(rng)) * np.where(theta < 0, -1, 1)
    assert_allclose(network.recover(z, laws, near=near), theta, rtol=1e-9, atol=1e-12)
    wanted = jacobian @ jacobian.T
    found = intrinsic_cometric(network, theta).matrix(z)
    assert np.max(np.abs(found - wanted)) <= 1e-10 * np.max(np.abs(wanted))
    chart = network.basis_chart(theta)
    assert chart.dim == network.dim - network.n_laws
    assert_allclose(chart.recover(chart.coordinates(theta), laws), theta, rtol=1e-9, atol=1e-12)


# Two networks of each kind at once, the others as slow tests.
SOME = {seed for seeds in KINDS.values() for seed in seeds[:2]}
FLOWS = [
    pytest.param(*seed.values, id=seed.id, marks=[] if seed.values[0] in SOME else pytest.mark.slow)
    for seed in SEEDS
]


@pytest.mark.parametrize("coordinates", ["full", "basis"])
@pytest.mark.parametrize("seed", FLOWS)
def test_flows_agree(seed, coordinates):
    own, rng = case(seed), np.random.default_rng(seed)
    # At a kink of ReLU the gradient jumps, and a flow may slide along: solvers lose their order.
    for _ in range(20):
        theta0 = own.theta(rng)
        data, targets = own.problem(rng, 4)
        loss = NetworkLoss(own.network, own.feed(data), 0.3 * targets)
        longest = 0.5 / np.linalg.norm(loss.parameter_gradient(theta0, own.network))
        time = own.oracle.smooth_time(own.read(theta0), data, 0.3 * targets, longest)
        if time > 0.1 * longest:
            break
    else:
        pytest.fail("no data without a kink")
    run = compare(
        InvariantSet(own.network, theta0),
        loss,
        (0.0, time),
        rtol=1e-6,
        atol=1e-9,
        coordinates=coordinates,
        n_times=5,
    )
    assert run.success
    assert run.max_deviation <= 100 * run.rtol


# Counts of theory.md, §7, and their controls.

CONV = functools.partial(lambda *layer: ("conv", *layer, *(1, 0, 1)[len(layer) - 2 :]))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("image_shape", "layers", "n_laws"),
    [
        ((1, 4, 4), [CONV(2, 2)], 2),
        ((1, 4, 4), [CONV(2, 2), CONV(2, 2)], 4),
        ((2, 4, 4), [CONV(4, 3, 1, 1, 2)], 4),
        ((2, 5, 5), [CONV(2, 3, 2)], 2),
        ((2, 5, 5), [CONV(2, 2, 1, 0, 2), ("max", 2)], 2),
        ((1, 5, 5), [CONV(2, 2), ("mean", 2), CONV(2, 2)], 4),
        ((1, 3, 3), [CONV(2, 1)], 2),
    ],
)
def test_one_law_per_channel_of_a_convolution(image_shape, layers, n_laws, bias, rng):
    own = convolutional_case(image_shape, layers, 2, bias)
    assert own.network.n_laws == own.oracle.n_laws == n_laws
    assert own.oracle.lift_rank(own.read(own.theta(rng))) == own.network.dim - n_laws


@pytest.mark.parametrize(("bias", "n_laws"), [(False, 4), (True, 1)])
def test_positions_that_share_no_tap_rescale_alone(bias, n_laws, rng):
    """A filter 2×2 of stride 2 and padding 1 sees an image 2×2 by another tap at each position."""
    own = convolutional_case((1, 2, 2), [CONV(1, 2, 2, 1)], 2, bias)
    assert own.oracle.lift_rank(own.read(own.theta(rng))) == own.oracle.dim - n_laws
    assert own.network.n_laws == n_laws


@pytest.mark.parametrize("n_uses", [2, 3])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_weight_in_sequence_has_one_law_more_than_its_width(width, n_uses, rng):
    own = graph_case(*oracles.sequence_graph(2, width, 2, n_uses))
    assert own.network.n_laws == width + 1
    assert own.oracle.lift_rank(own.read(own.theta(rng))) == own.network.dim - width - 1


def exactly(own):
    return count_conservation_laws(own.network, exact=True).value


def test_control_one_untied_use_of_a_weight_in_sequence():
    tied = graph_case(*oracles.sequence_graph(2, 1, 2, 2))
    untied = graph_case(*oracles.sequence_graph(2, 1, 2, 2, untied=(1, 0, 0)))
    assert (tied.network.n_laws, untied.network.n_laws) == (2, 3)
    wider = graph_case(*oracles.sequence_graph(2, 2, 2, 2))
    loose = graph_case(*oracles.sequence_graph(2, 2, 2, 2, untied=(1, 0, 1)))
    ranks = [own.network.dim - own.network.n_laws for own in (wider, loose)]
    assert ranks == [own.oracle.dim - own.oracle.n_laws for own in (wider, loose)] == [9, 10]


def test_control_one_untied_tap():
    graph, inputs, outputs = oracles.convolutional_graph((1, 2, 2), [CONV(1, 1)], 1, False)
    tied = graph_case(graph, inputs, outputs)
    position = (1, 0, 0, 0)
    tail, head, key = next(iter(graph.in_edges(position, keys=True)))
    graph = graph.copy()
    graph.edges[tail, head, key]["parameter"] = "untied"
    untied = graph_case(graph, inputs, outputs)
    assert (tied.network.n_laws, untied.network.n_laws) == (1, 2)
    assert (tied.oracle.n_laws, untied.oracle.n_laws) == (1, 2)
    assert (exactly(tied), exactly(untied)) == (1, 2)


@pytest.mark.parametrize(("stem", "n_laws"), [(False, 4), (True, 6)])
def test_skips_merge_the_channels_of_a_residual_stream(stem, n_laws, rng):
    graph = oracles.residual_graph(2, 2, [2, 2], 2, stem)
    own = graph_case(*graph)
    assert own.network.n_laws == n_laws
    thawed = graph_case(*oracles.residual_graph(2, 2, [2, 2], 2, stem, thawed=True))
    assert thawed.network.n_laws == thawed.oracle.n_laws == n_laws + 4
    # The laws of thawed skips do not hold where the skips are frozen.
    theta = own.theta(rng)
    data, targets = own.problem(rng)
    gradient = own.oracle.loss_gradient(own.read(theta), data, targets)
    values = dict(zip(own.oracle.labels, own.read(theta), strict=True))
    slopes = dict(zip(own.oracle.labels, gradient, strict=True))
    wide = np.array([values.get(label, 1.0) for label in thawed.oracle.labels])
    slope = np.array([slopes.get(label, 0.0) for label in thawed.oracle.labels])
    laws = thawed.network.conservation_laws_jacobian(thawed.write(wide))
    change = np.abs(laws @ thawed.write(slope)) / np.linalg.norm(gradient)
    assert np.sum(change > 1e-3) >= 2
    assert np.sum(change < 1e-12) >= 4  # those inside the blocks


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n_steps", [2, 3, 4, 5])
def test_one_law_per_unit_of_a_recurrent_network(n_steps, bias, rng):
    own = recurrent_case(2, 2, 1, n_steps, bias)
    assert own.network.n_laws == own.oracle.n_laws == 2
    data = 2 * rng.standard_normal((4 * own.oracle.dim, own.n_inputs))
    theta = own.read(own.theta(rng))
    assert own.oracle.gradient_rank(theta, data) <= own.network.dim - 2
    inner = [label[0] != 0 for label in own.oracle.labels]
    theta = np.where(inner, np.abs(theta), theta)  # units of all signs, read with one sign
    assert own.oracle.gradient_rank(theta, data) == own.network.dim - 2


def test_loops_cancel_in_the_laws_of_a_recurrent_network():
    own = recurrent_case(2, 3, 1, 3, False)
    incidence = np.abs(own.network.channels.incidence.toarray())[own.columns]
    loops = [
        number
        for number, (block, index, _) in enumerate(own.oracle.labels)
        if block == 1 and index[0] == index[1]
    ]
    assert len(loops) == 3
    assert not incidence[loops].any()


@pytest.mark.parametrize("degree", [2, 3])
def test_units_of_higher_degree(degree, rng):
    graph = nx.DiGraph([("x", "a"), ("v", "a"), ("a", "b"), ("b", "y"), ("a", "y"), ("x", "b")])
    graph.nodes["a"].update(activation="relu_power", degree=degree)
    own = graph_case(graph, ["x", "v"], ["y"], ["a"])
    assert own.network.n_laws == own.oracle.n_laws == own.oracle.equations() == exactly(own) == 2
    theta = own.theta(rng)
    values = dict(zip(own.oracle.labels, own.read(theta), strict=True))
    law = sum(values[e] ** 2 for e in [("x", "a"), ("v", "a"), ("bias", "a")])
    law -= degree * sum(values[e] ** 2 for e in [("a", "b"), ("a", "y")])
    assert np.min(np.abs(own.network.conservation_laws(theta) - law)) < 1e-12
    data, targets = own.problem(rng)
    gradient = own.write(own.oracle.loss_gradient(own.read(theta), data, targets))
    laws = own.network.conservation_laws_jacobian(theta)
    assert np.max(np.abs(laws @ gradient)) < 1e-12 * np.linalg.norm(gradient) * np.max(np.abs(laws))
    assert_allclose(
        own.network.forward(theta, data), own.oracle.forward(own.read(theta), data), rtol=1e-12
    )


# Constructors against the same networks as graphs, and as plain functions.


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("image_shape", "layers"),
    [
        ((1, 4, 5), [CONV(2, 2)]),
        ((2, 5, 4), [CONV(4, 3, 2, 1, 2), CONV(2, 2)]),
        ((2, 7, 5), [CONV(2, 2, 1, 1, 2), ("max", 2), CONV(3, 2)]),
        ((1, 5, 6), [CONV(2, 2), ("mean", 3)]),
        ((2, 4, 4), [("mean", 2), CONV(3, 2)]),
        ((2, 5, 5), [("max", 2), CONV(3, 1)]),
    ],
)
def test_convolutions_are_the_plain_function(image_shape, layers, bias, rng):
    network = ReLUNetwork.convolutional(image_shape, library_layers(layers), 3, bias=bias)
    shapes = oracles.convolutional_shapes(image_shape, layers, 3, bias)
    numbers = numbers_of_blocks(network, shapes)
    theta, data = network.random_point(rng=rng), rng.standard_normal((4, int(np.prod(image_shape))))
    blocks = oracles.split(theta[numbers], shapes)
    wanted = oracles.convolutional(blocks, data, image_shape, layers, bias)
    assert_allclose(network.forward(theta, data), wanted, rtol=1e-11, atol=1e-13)


def test_the_network_of_the_digits(rng):
    layers = [CONV(8, 3), CONV(16, 3), ("max", 2)]
    network = ReLUNetwork.convolutional((1, 8, 8), library_layers(layers), 10)
    assert (network.dim, network.n_laws, network.channels.n_channels) == (1898, 24, 24)
    shapes = oracles.convolutional_shapes((1, 8, 8), layers, 10, True)
    numbers = numbers_of_blocks(network, shapes)
    theta, data = network.random_point(rng=rng), rng.standard_normal((5, 64))
    targets = rng.standard_normal((5, 10))

    def outputs(values):
        return oracles.convolutional(
            oracles.split(values, shapes), data, (1, 8, 8), layers, bias=True
        )

    assert_allclose(network.forward(theta, data), outputs(theta[numbers]), rtol=1e-10, atol=1e-12)
    gradient = np.zeros(network.dim)
    gradient[numbers] = autograd.grad(lambda t: oracles.half_squares(outputs(t) - targets))(
        theta[numbers]
    )
    found = NetworkLoss(network, data, targets).parameter_gradient(theta, network)
    assert_allclose(found, gradient, rtol=1e-9, atol=1e-12 * np.max(np.abs(gradient)))
    laws = network.conservation_laws_jacobian(theta)
    size = np.linalg.norm(laws, axis=1) * np.linalg.norm(gradient)
    assert np.all(np.abs(laws @ gradient) <= 1e-12 * size)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n_steps", [2, 5])
def test_recurrent_networks_are_the_plain_function(n_steps, bias, rng):
    network = ReLUNetwork.recurrent(2, 3, 2, n_steps, bias=bias)
    shapes = recurrent_shapes(2, 3, 2, bias)
    theta, data = network.random_point(rng=rng), rng.standard_normal((5, 2 * n_steps))
    blocks = oracles.split(theta[numbers_of_blocks(network, shapes)], shapes)
    wanted = oracles.recurrent(blocks, data, 2, n_steps, bias)
    assert_allclose(network.forward(theta, data), wanted, rtol=1e-11, atol=1e-13)


def test_constructors_are_their_graphs(rng):
    spec = ((1, 4, 4), [CONV(2, 2, 1, 1), ("max", 2), CONV(1, 2)], 2, True)
    for made, graph in [
        (convolutional_case(*spec), graph_case(*oracles.convolutional_graph(*spec))),
        (recurrent_case(2, 2, 1, 3, True), graph_case(*oracles.recurrent_graph(2, 2, 1, 3, True))),
    ]:
        theta = made.theta(rng)
        same = graph.write(made.read(theta))
        assert_allclose(
            np.sort(made.network.conservation_laws(theta)),
            np.sort(graph.network.conservation_laws(same)),
            rtol=1e-12,
        )
        assert_allclose(
            np.sort(made.network.lift(theta)), np.sort(graph.network.lift(same)), rtol=1e-12
        )


@pytest.mark.parametrize("bias", [False, True])
def test_identity_skips_of_the_constructor(bias, rng):
    widths, skips = [2, 3, 2, 3, 2, 3, 1], [(1, 3), (3, 5)]
    frozen = ReLUNetwork.residual(widths, skips, bias=bias, identity=True)
    thawed = ReLUNetwork.residual(widths, skips, bias=bias)
    assert thawed.dim == frozen.dim + 18
    assert thawed.n_laws == sum(widths[1:-1])
    assert frozen.n_laws == thawed.n_laws - 6
    theta = frozen.random_point(rng=rng)
    data, targets = rng.standard_normal((5, 2)), rng.standard_normal((5, 1))
    gradient = NetworkLoss(frozen, data, targets).parameter_gradient(theta, frozen)
    assert np.linalg.norm(gradient) > 0
    laws = frozen.conservation_laws_jacobian(theta)
    assert np.max(np.abs(laws @ gradient)) < 1e-12 * np.linalg.norm(gradient) * np.max(np.abs(laws))


# Edge cases.


@pytest.mark.parametrize(("weight", "n_laws"), [(-1.5, 1), (0.0, 2)])
def test_frozen_edges_merge_their_ends_but_for_a_zero(weight, n_laws, rng):
    graph = nx.DiGraph([("x", "a"), ("b", "y"), ("a", "y"), ("x", "b")])
    graph.add_edge("a", "b", frozen=True, weight=weight)
    own = graph_case(graph, ["x"], ["y"])
    assert own.network.n_laws == own.oracle.n_laws == exactly(own) == n_laws
    theta = own.theta(rng)
    x_a, b_y = (theta[own.columns[own.oracle.number[e]]] for e in [("x", "a"), ("b", "y")])
    gaps = np.abs(own.network.lift(theta) - weight * x_a * b_y)
    assert (np.min(gaps) < 1e-14) == (weight != 0)


def test_a_frozen_bias_grounds_its_node(rng):
    graph = nx.DiGraph([("x", "a"), ("a", "b"), ("b", "y"), ("a", "y")])
    graph.nodes["a"].update(bias_frozen=True, bias=-0.5)
    own = graph_case(graph, ["x"], ["y"], ["a", "b"])
    assert (own.network.dim, own.network.n_laws, own.oracle.n_laws) == (5, 1, 1)
    theta, (data, _) = own.theta(rng), own.problem(rng)
    wanted = own.oracle.forward(own.read(theta), data)
    assert_allclose(own.network.forward(theta, data), wanted, rtol=1e-12, atol=1e-14)


def test_parallel_edges_have_a_weight_each(rng):
    graph = nx.MultiDiGraph([("x", "a"), ("x", "a"), ("a", "y"), ("a", "y"), ("a", "y")])
    own = graph_case(graph, ["x"], ["y"])
    assert (own.network.dim, own.network.n_laws, own.network.n_paths) == (5, 1, 6)
    graph.add_edge("x", "a", frozen=True, weight=1.0)
    own = graph_case(graph, ["x"], ["y"])
    assert (own.network.dim, own.network.n_laws) == (5, 0)


def test_a_parameter_twice_side_by_side_is_one_monomial(rng):
    graph = nx.MultiDiGraph()
    graph.add_edge("x", "a", parameter="w")
    graph.add_edge("x", "a", parameter="w")
    graph.add_edge("a", "y")
    own = graph_case(graph, ["x"], ["y"])
    assert (own.network.dim, own.network.n_laws) == (2, 1)
    theta, data = own.theta(rng), rng.standard_normal((4, 1))
    assert_allclose(own.network.forward(theta, data), own.oracle.forward(own.read(theta), data))
    assert own.network.lift(theta).shape == (1,)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_square_forgets_a_sign_and_no_size(sign, rng):
    graph = nx.DiGraph()
    graph.add_edge("x", "a", parameter="w")
    graph.add_edge("a", "y", parameter="w")
    own = graph_case(graph, ["x"], ["y"])
    assert (own.network.dim, own.network.n_laws) == (1, 0)
    theta = sign * np.array([1.5])
    assert_allclose(own.network.lift(theta), [2.25])
    assert_allclose(own.network.lift_jacobian(theta), [[3.0 * sign]])
    found = own.network.recover(np.array([2.25]), np.zeros(0), near=sign * np.ones(1))
    assert_allclose(found, theta, rtol=1e-9)
    data = rng.standard_normal((4, 1))
    assert_allclose(own.network.forward(theta, data), own.oracle.forward(theta, data), rtol=1e-13)


def skip_beside_a_neuron():
    """x → a frozen, a → b → y and a → y: two monomials, and two weights in one of them."""
    graph = nx.DiGraph([("a", "b"), ("a", "y"), ("b", "y")])
    graph.add_edge("x", "a", frozen=True, weight=2.0)
    return graph_case(graph, ["x"], ["y"])


@pytest.mark.parametrize("flipped", range(3))
def test_recovery_from_a_point_of_other_signs(flipped):
    own = skip_beside_a_neuron()
    near = np.array([1.2, 0.7, 0.4])
    theta = near.copy()
    theta[flipped] *= -1
    laws = own.network.conservation_laws(theta)
    found = own.network.recover(own.lift(theta), laws, near=near)
    assert_allclose(own.lift(found), own.lift(theta), rtol=1e-12)
    assert_allclose(np.abs(found), np.abs(theta), rtol=1e-9)


@pytest.mark.parametrize("coordinates", ["full", "basis"])
@pytest.mark.slow
def test_flows_through_a_zero(coordinates):
    own = skip_beside_a_neuron()
    theta0 = np.array([1.2, 0.7, 0.4])
    target = -own.network.lift(theta0)
    loss = loss_from_function(lambda z: 0.5 * anp.sum((z - target) ** 2))
    start = InvariantSet(own.network, theta0)
    run = compare(start, loss, (0.0, 8.0), rtol=1e-7, atol=1e-10, coordinates=coordinates)
    assert run.success
    assert run.max_deviation < 1e-5


@pytest.mark.parametrize("coordinates", ["full", "basis"])
@pytest.mark.slow
def test_flows_through_zeros_of_a_recurrent_network(coordinates):
    network, rng = ReLUNetwork.recurrent(2, 2, 1, 2, bias=False), np.random.default_rng(0)
    theta0 = rng.uniform(0.4, 1.3, network.dim) * rng.choice([-1, 1], network.dim)
    flips = np.where(rng.random(network.dim) < 0.4, -1, 1)
    target = network.lift(theta0 * flips * rng.uniform(0.8, 1.4, network.dim))
    loss = loss_from_function(lambda z: 0.5 * anp.sum((z - target) ** 2))
    start = InvariantSet(network, theta0)
    run = compare(start, loss, (0.0, 3.0), 1e-6, 1e-9, coordinates=coordinates, n_times=9)
    assert np.sum(run.parameter.theta[-1] * theta0 < 0) == 3
    assert run.max_deviation <= 100 * run.rtol


@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-4, 0.0])
@pytest.mark.parametrize("number", [0, 4])
def test_recovery_beside_the_image_is_smooth_at_zeros(number, size, rng):
    """Where ∂φ keeps its rank and its least singular value, θ moves as far as z does."""
    own = recurrent_case(2, 2, 1, 2, False)
    network, theta = own.network, own.theta(np.random.default_rng(1))
    theta[number] *= size
    singular = np.linalg.svd(own.jacobian(theta), compute_uv=False)
    assert singular[network.dim - network.n_laws - 1] > 0.05
    z, laws = network.lift(theta), network.conservation_laws(theta)
    step = rng.standard_normal(z.shape)
    step *= 1e-7 * np.linalg.norm(z) / np.linalg.norm(step)
    found = network.recover(z + step, laws, near=theta)
    assert np.linalg.norm(found - theta) < 100 * np.linalg.norm(step)


def test_recovery_keeps_the_signs_of_near():
    """Far from near, a step of Newton's method in θ itself may change the sign of a neuron."""
    network = ReLUNetwork.recurrent(3, 1, 3, 5)
    into, out, bias = (
        [-0.93471, 0.420996, -0.738634],
        [-0.573593, -1.145872, -1.228548],
        [-1.122225],
    )
    theta = np.array([*into, -1.299169, *out, *bias, 1.018971, -0.487213, 0.789896])
    into, out, bias = (
        [-0.761382, 0.975196, -0.982396],
        [-1.269009, -1.182187, -0.406353],
        [-0.659164],
    )
    near = np.array([*into, -0.850719, *out, *bias, 1.051962, -0.611276, 0.676595])
    z, laws = network.lift(theta), network.conservation_laws(theta)
    assert_allclose(network.recover(z, laws, near=near), theta, rtol=1e-9)


def test_a_tap_that_sees_only_padding_is_refused():
    with pytest.raises(ArchitectureError, match=r"8 of 10 parameters .* padding"):
        ReLUNetwork.convolutional((1, 1, 1), [Conv(1, 3, padding=1)], 1, bias=False)


# Bad graphs.


def chain(**middle):
    graph = nx.MultiDiGraph()
    graph.add_node("a", **middle)
    graph.add_edge("x", "a")
    graph.add_edge("a", "y")
    return graph


def refused(graph, *words):
    with pytest.raises(ArchitectureError) as caught:
        ReLUNetwork(graph, ["x"], ["y"])
    for word in words:
        assert re.search(re.escape(word), str(caught.value)), str(caught.value)


def test_frozen_edges_need_a_weight():
    graph = chain()
    graph.add_edge("x", "a", frozen=True)
    refused(graph, "'x'", "'a'", "weight")
    graph.edges["x", "a", 1]["weight"] = float("nan")
    refused(graph, "'x'", "'a'", "weight")


def test_a_shared_weight_is_frozen_everywhere_or_nowhere():
    graph = chain()
    graph.add_edge("x", "a", frozen=True, weight=1.0, parameter="w")
    graph.add_edge("a", "y", parameter="w")
    refused(graph, "frozen", "('x', 'a'", "('a', 'y'")


def test_maxima_have_frozen_in_edges():
    refused(chain(activation="max"), "max", "'x'", "'a'")


def test_unknown_activations_are_named():
    refused(chain(activation="gelu"), "gelu", "'a'")


def test_activations_need_their_numbers():
    refused(chain(activation="leaky_relu"), "slope", "'a'")
    refused(chain(activation="leaky_relu", slope=float("nan")), "slope", "'a'")
    refused(chain(activation="relu_power"), "degree", "'a'")
    refused(chain(activation="relu_power", degree=-1), "degree", "'a'")


def test_cycles_are_still_refused():
    graph = chain()
    graph.add_edge("a", "b")
    graph.add_edge("b", "a")
    refused(graph, "cycle")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ReLUNetwork.convolutional((1, 2, 2), [Conv(1, 3)], 1),
        lambda: ReLUNetwork.convolutional((2, 4, 4), [Conv(3, 2, groups=2)], 1),
        lambda: ReLUNetwork.convolutional((3, 4, 4), [Conv(2, 2, groups=2)], 1),
        lambda: ReLUNetwork.convolutional((1, 2, 2), [Pool("max", 3)], 1),
        lambda: ReLUNetwork.convolutional((1, 4, 4), [Pool("median", 2)], 1),
        lambda: ReLUNetwork.convolutional((1, 4, 4), [Conv(1, 2, stride=0)], 1),
        lambda: ReLUNetwork.recurrent(1, 1, 1, 0),
    ],
)
def test_constructors_refuse_what_does_not_fit(make):
    with pytest.raises(LiftflowError):
        make()


@pytest.mark.parametrize("seed", [0, 20, 27, 36])
def test_no_samples_have_no_outputs(seed, rng):
    network = case(seed).network
    theta, none = network.random_point(3, rng), np.zeros((0, len(network.inputs)))
    some = rng.standard_normal((2, len(network.inputs)))
    n_outputs = len(network.outputs)
    assert network.forward(theta[0], none).shape == (0, n_outputs)
    assert network.forward(theta, none).shape == (3, 0, n_outputs)
    assert network.forward(theta[:0], some).shape == (0, 2, n_outputs)
    assert network.forward(theta, some).shape == (3, 2, n_outputs)

    def square(point, inputs):
        return anp.sum(network.forward(point, inputs) ** 2)

    slopes = autograd.grad(square, (0, 1))
    assert [part.tolist() for part in slopes(theta[0], none)] == [[0.0] * network.dim, []]
    whole = autograd.grad(square, 1)(theta, some)  # the inputs are shared by the batch
    assert_allclose(whole, sum(slopes(point, some)[1] for point in theta), rtol=1e-12)
    assert whole.shape == some.shape
    assert np.any(whole)
