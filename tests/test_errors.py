"""Bad input is refused at the door: by the right class, and with a message that helps."""

import copy
import pickle
import re
from pathlib import Path

import autograd
import autograd.numpy as anp
import networkx as nx
import numpy as np
import pytest

from liftflow import (
    Architecture,
    IntrinsicFlow,
    InvariantSet,
    NetworkLoss,
    ParameterFlow,
    ReLUNetwork,
    Trajectory,
    TwoLayerLinear,
    classify,
    commuting,
    count_conservation_laws,
    discover_laws,
    frobenius,
    intrinsic_cometric,
    kernel_inclusion,
    laws_complete,
    loss_from_function,
    recoverability,
)
from liftflow.data import load
from liftflow.errors import (
    ArchitectureError,
    CallError,
    DataError,
    FlowError,
    GeodesicError,
    InputError,
    LiftflowError,
    MissingExtraError,
    NotDifferentiableError,
    NotFiniteError,
    NotIntrinsicError,
    NotOnImageError,
    NotRecoverableError,
    NotTangentError,
    OffImageError,
    OutputError,
    ShapeError,
    UndecidedError,
    UndefinedError,
)
from liftflow.flows.integrate import METHODS, FlowState, Settings, integrate
from liftflow.manifolds.images import image_manifold
from liftflow.typing import untraced

BUILT_IN = {
    ArchitectureError: ValueError,
    CallError: TypeError,
    DataError: ValueError,
    FlowError: RuntimeError,
    MissingExtraError: ImportError,
    GeodesicError: RuntimeError,
    InputError: ValueError,
    NotDifferentiableError: TypeError,
    NotFiniteError: ValueError,
    NotIntrinsicError: ValueError,
    NotOnImageError: ValueError,
    NotRecoverableError: ValueError,
    NotTangentError: ValueError,
    OffImageError: ValueError,
    OutputError: OSError,
    ShapeError: ValueError,
    UndecidedError: ValueError,
    UndefinedError: NotImplementedError,
}


def refused(act, error_type, match):
    """Run ``act``, check its refusal in every respect, and return the error."""
    with pytest.raises(error_type, match=match) as caught:
        act()
    error = caught.value
    assert type(error) is error_type
    assert isinstance(error, LiftflowError) and isinstance(error, BUILT_IN[error_type])
    assert "\n" not in str(error)
    return error


NETWORK = ReLUNetwork.from_widths([2, 3, 2])
THETA = NETWORK.random_point(rng=0)
SET = InvariantSet(NETWORK, THETA)
LAWS, Z = SET.laws0, NETWORK.lift(THETA)
DATA = np.random.default_rng(0).standard_normal((5, 2))
LOSS = NetworkLoss(NETWORK, DATA, DATA[::-1])
ONES = np.ones(NETWORK.dim)


class Product(Architecture):
    """Nothing but a lift: no recovery, no closed form, no chart."""

    def __init__(self):
        super().__init__(2, (1,))

    def lift(self, theta):
        theta = self._theta(theta)
        return theta[..., :1] * theta[..., 1:]


def with_entry(values, index, value):
    changed = np.array(values, dtype=float)
    changed[index] = value
    return changed


def dead(kind):
    """Zero weights at the first hidden neuron of NETWORK: all in-weights, all out-weights, both."""
    first, second = (block.copy() for block in NETWORK.unpack(THETA))
    if kind != "out":
        first[:, 0] = 0
    if kind != "in":
        second[0] = 0
    return NETWORK.pack(first, second)


def table(cases):
    return [pytest.param(*case, id=name) for name, case in cases.items()]


ARRAYS = {
    "NaN": (lambda: NETWORK.lift(with_entry(ONES, 3, np.nan)), NotFiniteError, "1 NaN .* of 12"),
    "infinity": (
        lambda: NETWORK.conservation_laws(with_entry(ONES, [0, 1], -np.inf)),
        NotFiniteError,
        "theta must be finite, got 2 NaN or infinite of 12",
    ),
    "beyond float64": (
        lambda: NETWORK.lift(np.full(NETWORK.dim, np.longdouble("1e400"))),
        NotFiniteError,
        "theta must be finite, got 12 NaN or infinite",
    ),
    "masked": (
        lambda: NETWORK.lift(np.ma.masked_equal(np.arange(12.0), 5)),
        NotFiniteError,
        "theta must be complete, got 1 masked",
    ),
    "wrong length": (
        lambda: NETWORK.lift(np.ones(11)),
        ShapeError,
        r"theta must have shape \(\.\.\., 12\), got \(11,\)",
    ),
    "a number for a vector": (
        lambda: NETWORK.lift(1.0),
        ShapeError,
        r"theta must have shape \(\.\.\., 12\), got \(\)",
    ),
    "a batch for a point": (
        lambda: InvariantSet(NETWORK, np.ones((4, 12))),
        ShapeError,
        r"theta0 must have shape \(12,\), got \(4, 12\)",
    ),
    "text": (
        lambda: NETWORK.lift(["a"] * 12),
        InputError,
        "theta must hold real numbers, got dtype <U1",
    ),
    "complex": (lambda: NETWORK.lift(1j * ONES), InputError, "real numbers, got dtype complex128"),
    "object": (lambda: NETWORK.lift([None] * 12), InputError, "real numbers, got dtype object"),
    "bool": (lambda: NETWORK.lift([True] * 12), InputError, "real numbers, got dtype bool"),
    "generator": (lambda: NETWORK.lift(iter(ONES)), InputError, "real numbers, got dtype object"),
    "ragged": (
        lambda: NETWORK.lift([[1.0, 2.0], [3.0]]),
        ShapeError,
        "theta must be an array of numbers, got a ragged sequence",
    ),
    "wrong laws": (
        lambda: NETWORK.recover(Z, LAWS[:2]),
        ShapeError,
        r"laws must have shape \(\.\.\., 3\), got \(2,\)",
    ),
    "wrong z": (
        lambda: NETWORK.recover(Z[:-1], LAWS),
        ShapeError,
        r"z must have shape \(\.\.\., 12\), got \(11,\)",
    ),
    "wrong samples": (
        lambda: NETWORK.forward(THETA, np.ones((5, 3))),
        ShapeError,
        r"inputs must have shape \(n, 2\), got \(5, 3\)",
    ),
    "too few blocks": (
        lambda: NETWORK.pack(np.ones((2, 3))),
        ShapeError,
        r"pack takes 2 blocks of shapes \(\(2, 3\), \(3, 2\)\), got 1",
    ),
    "a block transposed": (
        lambda: NETWORK.pack(np.ones((2, 3)), np.ones((2, 3))),
        ShapeError,
        r"block 1 must have shape \(\.\.\., 3, 2\), got \(2, 3\)",
    ),
    "rng a float": (
        lambda: NETWORK.random_point(rng=1.5),
        InputError,
        r"rng must be .*Generator, a seed \(an integer from 0\) or None, got 1\.5",
    ),
    "rng negative": (lambda: NETWORK.random_point(rng=-1), InputError, "rng must be .*got -1"),
    "rng a bool": (lambda: SET.random_point(rng=True), InputError, "rng must be .*got True"),
    "rng of the old kind": (
        lambda: NETWORK.fibre_point(THETA, np.random.RandomState(0)),
        InputError,
        "rng must be .*got RandomState",
    ),
    "no samples": (
        lambda: NETWORK.random_point(0),
        InputError,
        "n_samples must be an integer of at least 1, got 0",
    ),
    "2.0 samples": (
        lambda: SET.random_point(2.0),
        InputError,
        r"n_samples must be an integer of at least 1, got 2\.0",
    ),
    "dim of an architecture": (
        lambda: Architecture.__init__(object.__new__(Product), 0, (1,)),
        InputError,
        "dim must be an integer of at least 1, got 0",
    ),
}


@pytest.mark.parametrize(("act", "error_type", "match"), table(ARRAYS))
def test_arrays(act, error_type, match):
    refused(act, error_type, match)


def network(edges, inputs=("x",), outputs=("y",), biases=()):
    return ReLUNetwork(nx.DiGraph(edges), inputs, outputs, biases)


CHAIN = [("x", "a"), ("a", "y")]


def marked(nodes=(), edges=()):
    graph = nx.DiGraph(CHAIN)
    nx.set_node_attributes(graph, dict(nodes))
    nx.set_edge_attributes(graph, dict(edges))
    return ReLUNetwork(graph, ["x"], ["y"])


GRAPHS = {
    "cycle": (
        lambda: network([*CHAIN, ("a", "b"), ("b", "a")]),
        "has a cycle through .*; a network is acyclic",
        {"a", "b"},
    ),
    "self-loop": (lambda: network([*CHAIN, ("a", "a")]), "self-loops at: 'a'", {"a"}),
    "another activation": (
        lambda: marked(nodes={"a": {"activation": "tanh"}}),
        "an activation is one of relu, .*, got 'tanh' at: 'a'",
        {"a"},
    ),
    "no slope": (
        lambda: marked(nodes={"a": {"activation": "leaky_relu"}}),
        "the slope of 'a' must be a finite number, got None",
        {"a"},
    ),
    "activation of an output": (
        lambda: marked(nodes={"y": {"activation": "abs"}}),
        "inputs and outputs are linear, got an activation at: 'y'",
        {"y"},
    ),
    "ReLU of an output": (
        lambda: marked(nodes={"y": {"activation": "relu"}}),
        "inputs and outputs are linear, got an activation at: 'y'",
        {"y"},
    ),
    "frozen edge": (
        lambda: marked(edges={CHAIN[1]: {"frozen": True, "weight": "1"}}),
        r"a frozen edge needs its weight, a finite number .*: \('a', 'y'\)",
        {CHAIN[1]},
    ),
    "frozen edges": (
        lambda: marked(edges={edge: {"frozen": True, "weight": 1.0} for edge in CHAIN}),
        "every weight is frozen, so the network has no parameters",
        set(CHAIN),
    ),
    "shared weight": (
        lambda: marked(
            edges={
                CHAIN[0]: {"parameter": "w"},
                CHAIN[1]: {"parameter": "w", "frozen": True, "weight": 1.0},
            }
        ),
        r"frozen at some of its edges and trained at others: \('x', 'a'\), \('a', 'y'\)",
        set(CHAIN),
    ),
    "maximum": (
        lambda: marked(nodes={"a": {"activation": "max"}}),
        r"a max takes the largest of frozen edges .*, got trainable ones: \('x', 'a'\)",
        {CHAIN[0]},
    ),
    "frozen edges of weight 0": (
        lambda: marked(edges={CHAIN[0]: {"frozen": True, "weight": 0.0}}),
        "outputs no input or bias leads to: 'y'",
        {"y"},
    ),
    "undirected": (
        lambda: ReLUNetwork(nx.Graph(CHAIN), ["x"], ["y"]),
        r"must be directed, got an undirected one; use networkx\.DiGraph",
        set(),
    ),
    "not a graph": (
        lambda: ReLUNetwork(dict(CHAIN), ["x"], ["y"]),
        r"must be a networkx\.DiGraph, got dict",
        set(),
    ),
    "empty graph": (lambda: network([]), "no edges, so the network would have no param", set()),
    "no inputs": (lambda: network(CHAIN, inputs=()), "at least one input and one output", set()),
    "unknown input": (
        lambda: network(CHAIN, inputs=["x", "X"]),
        "input nodes not in the graph: 'X'",
        {"X"},
    ),
    "unhashable input": (
        lambda: network(CHAIN, inputs=[["x"]]),
        r"input nodes not in the graph: \['x'\]",
        None,
    ),
    "unknown output": (
        lambda: network(CHAIN, outputs=["z", "y"]),
        "output nodes not in the graph: 'z'",
        {"z"},
    ),
    "unknown bias": (
        lambda: network(CHAIN, biases=["c"]),
        "bias nodes not in the graph: 'c'",
        {"c"},
    ),
    "repeated input": (
        lambda: network(CHAIN, inputs=["x", "x"]),
        "input nodes given more than once: 'x'",
        {"x"},
    ),
    "repeated bias": (
        lambda: network(CHAIN, biases=["a", "a"]),
        "bias nodes given more than once: 'a'",
        {"a"},
    ),
    "input and output": (
        lambda: network(CHAIN, outputs=["y", "x"]),
        "both input and output: 'x'",
        {"x"},
    ),
    "bias on an input": (
        lambda: network(CHAIN, biases=["x", "a"]),
        "an input has no bias, got one at: 'x'",
        {"x"},
    ),
    "input with in-edges": (
        lambda: network([*CHAIN, ("w", "x")], inputs=["w", "x"]),
        "inputs with incoming edges: 'x'",
        {"x"},
    ),
    "output with out-edges": (
        lambda: network([*CHAIN, ("y", "t")], outputs=["y", "t"]),
        "outputs with outgoing edges: 'y'; .* add a hidden node that feeds it",
        {"y"},
    ),
    "output that nothing leads to": (
        lambda: ReLUNetwork(
            nx.compose(nx.DiGraph(CHAIN), nx.empty_graph(["t"], nx.DiGraph)), ["x"], ["y", "t"]
        ),
        "outputs no input or bias leads to: 't'",
        {"t"},
    ),
    "hidden node without in-edges": (
        lambda: network([*CHAIN, ("b", "y")]),
        "hidden nodes with no path .*: 'b'; remove them",
        {"b"},
    ),
    "hidden node without out-edges": (
        lambda: network([*CHAIN, ("x", "b"), ("b", "c")]),
        "hidden nodes with no path .*: 'b', 'c'; remove them",
        {"b", "c"},
    ),
    "many hidden nodes": (
        lambda: network(CHAIN + [("x", i) for i in range(20)]),
        "with no path .*: 0, 1, 2, 3, 4, 5, 6, 7 and 12 more; remove them",
        set(range(20)),
    ),
    "a skip of one layer": (
        lambda: ReLUNetwork.residual([2, 2, 2], [(0, 1)]),
        r"a skip goes once from a layer to one at least two later, .* got \(0, 1\)",
        set(),
    ),
    "a skip beyond": (
        lambda: ReLUNetwork.residual([2, 2, 2], [(0, 3)]),
        r"at most 2; got \(0, 3\)",
        set(),
    ),
    "a skip twice": (
        lambda: ReLUNetwork.residual([2, 2, 2], [(0, 2), (0, 2)]),
        r"a skip goes once .* got \(0, 2\)",
        set(),
    ),
    "one layer": (
        lambda: ReLUNetwork.from_widths([3]),
        r"widths must name at least two layers, got \[3\]",
        set(),
    ),
    "too many paths": (
        lambda: ReLUNetwork.from_widths([20] * 7).paths(),
        "has 1280000000 paths, more than the limit of 2000000; .*coordinates='basis'",
        set(),
    ),
    "too many paths to lift": (
        lambda: ReLUNetwork.from_widths([2, 3, 2], path_limit=11).lift(ONES),
        "has 12 paths, more than the limit of 11; .*raise path_limit",
        set(),
    ),
    "no weights": (
        lambda: network(CHAIN, biases=["a"]).read_weights(),
        r"no weight \(or bias\) in the graph for \('x', 'a'\), \('a', 'y'\), 'a'; "
        r"network\.write_weights\(theta\) gives",
        {*CHAIN, "a"},
    ),
    "one weight missing": (
        lambda: network([("x", "a", {"weight": 1.0}), ("a", "y")]).read_weights(),
        r"no weight .* for \('a', 'y'\);",
        {("a", "y")},
    ),
    "no basis chart": (
        lambda: Product().basis_chart([1.0, 2.0]),
        "Product has no basis-path chart; use coordinates='full'",
        set(),
    ),
    "no fibre point": (
        lambda: Product().fibre_point([1.0, 2.0]),
        r"Product defines no fibre_point\(theta\)",
        set(),
    ),
}


def test_attributes_that_say_what_is_so():
    marks = {"activation": "relu", "colour": "red"}
    assert marked({"a": marks}, {CHAIN[0]: {"frozen": False, "parameter": None}}).n_paths == 1


@pytest.mark.parametrize(("act", "match", "nodes"), table(GRAPHS))
def test_graphs(act, match, nodes):
    error = refused(act, ArchitectureError, match)
    assert isinstance(error.nodes, tuple)
    assert nodes is None or set(error.nodes) == nodes


@pytest.mark.parametrize(
    ("act", "match"),
    table(
        {
            "width 0": (
                lambda: ReLUNetwork.from_widths([2, 0, 1]),
                "a width must be an integer of at least 1, got 0",
            ),
            "width 2.5": (
                lambda: ReLUNetwork.from_widths([2, 2.5, 1]),
                r"a width must be an integer of at least 1, got 2\.5",
            ),
            "text": (lambda: ReLUNetwork.from_widths("2-3"), "widths must be a sequence, got str"),
            "negative layer": (
                lambda: ReLUNetwork.residual([2, 2, 2], [(-1, 2)]),
                "a layer must be an integer of at least 0, got -1",
            ),
            "depth 1": (
                lambda: ReLUNetwork.diagonal(3, depth=1),
                "depth must be an integer of at least 2, got 1",
            ),
            "path limit": (
                lambda: ReLUNetwork.from_widths([2, 1], path_limit=0),
                "path_limit must be an integer of at least 1, got 0",
            ),
        }
    ),
)
def test_sizes(act, match):
    refused(act, InputError, match)


def test_weights_of_another_type():
    graph = nx.DiGraph([("x", "a", {"weight": "1.0"}), ("a", "y", {"weight": 2.0})])
    act = ReLUNetwork(graph, ["x"], ["y"]).read_weights
    refused(act, InputError, "the weights of the graph must hold real numbers, got dtype <U")


OFF = with_entry(Z, 0, 2 * Z[0])


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda: NETWORK.recover(OFF, LAWS), id="network"),
        pytest.param(lambda: SET.recover(OFF), id="set"),
        pytest.param(lambda: SET.image().metric.cometric_apply(OFF, Z), id="metric"),
        pytest.param(lambda: IntrinsicFlow(SET, LOSS).integrate(OFF), id="flow"),
    ],
)
def test_z_off_the_image(act):
    error = refused(
        act,
        NotOnImageError,
        r"relative residual \d\.\d\de-\d\d, expected at most 1e-06; image\(\)\.projection\(z\)",
    )
    assert isinstance(error.residual, float)
    # The residual is that of the point found nearby, and that point is on the image.
    nearby = SET.image().projection(OFF)
    gap = np.linalg.norm(nearby - OFF) / np.linalg.norm(OFF)
    assert error.residual == pytest.approx(gap, rel=1e-6) and gap > 1e-3
    NETWORK.recover(nearby, LAWS)


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda z: NETWORK.recover(z, LAWS), id="recover"),
        pytest.param(lambda z: LOSS.value(z), id="loss"),
        pytest.param(lambda z: SET.image().projection(z), id="projection"),
    ],
)
def test_z_with_a_dead_node(act):
    through = np.array([path[1] == (1, 1) for path in NETWORK.paths()])
    error = refused(
        lambda: act(np.where(through, 0.0, Z)),
        NotRecoverableError,
        r"every path through the hidden nodes \(1, 1\) vanishes in z",
    )
    touching = {name for name in NETWORK.parameter_names if (1, 1) in name}
    assert set(error.parameters) == touching and len(touching) == 4


@pytest.mark.parametrize("kind", ["in", "out", "both"])
@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda theta: InvariantSet(NETWORK, theta), id="set"),
        pytest.param(NETWORK.basis_chart, id="chart"),
        pytest.param(lambda theta: intrinsic_cometric(NETWORK, theta), id="metric"),
        pytest.param(lambda theta: image_manifold(NETWORK, theta), id="image"),
    ],
)
def test_dead_parameters(act, kind):
    error = refused(
        lambda: act(dead(kind)),
        NotRecoverableError,
        r"dead parameters: every path through .*\(1, 0\).* passes through another weight that is "
        "zero",
    )
    # Those whose every path passes another zero: the out-weights of a node without in-weights.
    first = {((0, i), (1, 0)) for i in range(2)}
    second = {((1, 0), (2, i)) for i in range(2)}
    assert set(error.parameters) == {"in": second, "out": first, "both": first | second}[kind]


def test_outside_a_chart():
    chart = NETWORK.basis_chart(THETA)
    coordinates = chart.coordinates(THETA)
    anchor = chart.coordinate_of_edge[chart.anchors.into[1]]
    error = refused(
        lambda: chart.recover(with_entry(coordinates, anchor, 0.0), LAWS),
        NotRecoverableError,
        r"the anchor path through \(1, 1\) vanishes .*: they are outside the chart; "
        r"take network\.basis_chart\(theta\)",
    )
    assert error.parameters == ()


def test_vector_that_is_not_tangent(rng):
    metric = SET.image().metric
    vector = rng.standard_normal(Z.size)
    tangent = SET.image().to_tangent(vector, Z)
    distance = np.linalg.norm(vector - tangent) / np.linalg.norm(vector)
    match = (
        r"not tangent to the image at z: relative residual .*, expected at most 1e-06; image\(\)"
    )
    for act in (
        lambda: metric.horizontal_lift(vector, Z),
        lambda: metric.inner_product(vector, tangent, Z),
        lambda: metric.inner_product(tangent, vector, Z),
        lambda: metric.cometric.solve(Z, vector),
    ):
        error = refused(act, NotTangentError, match)
        # Measured along the chart, not orthogonally: no less than the distance.
        assert error.residual >= distance > 1e-3
    assert metric.inner_product(tangent, tangent, Z) > 0


FAMILIES = {
    "no closed form": (
        lambda: intrinsic_cometric(Product(), [1.0, 2.0]),
        NotIntrinsicError,
        r"no closed form is registered for Product; .*@intrinsic_cometric\.register",
    ),
    "no image": (
        lambda: InvariantSet(Product(), [1.0, 2.0]).image(),
        NotIntrinsicError,
        r"no (image manifold|closed form) is registered for Product",
    ),
    "a flow without a closed form": (
        lambda: IntrinsicFlow(
            InvariantSet(Product(), [1.0, 2.0]), loss_from_function(anp.sum)
        ).integrate(),
        NotIntrinsicError,
        "is registered for Product",
    ),
    "derivative of a recovery": (
        lambda: autograd.grad(lambda z: anp.sum(NETWORK.recover(z, LAWS)))(Z),
        NotDifferentiableError,
        "z is being differentiated by autograd, and this function has no derivative here; "
        "differentiate the lift",
    ),
    "derivative of a loss on paths": (
        lambda: autograd.grad(LOSS.value)(Z),
        NotDifferentiableError,
        "z is being differentiated by autograd",
    ),
    "derivative of a loss on parameters": (
        lambda: autograd.grad(LOSS.parameter_value)(THETA),
        NotDifferentiableError,
        "theta is being differentiated by autograd",
    ),
    "second derivative of the network": (
        lambda: autograd.hessian(lambda t: anp.sum(NETWORK.forward(t, DATA) ** 2))(THETA),
        NotDifferentiableError,
        "is being differentiated by autograd",
    ),
    "second derivative of a chart": (
        lambda: autograd.hessian(lambda t: anp.sum(NETWORK.basis_chart(THETA).coordinates(t)))(
            THETA
        ),
        NotDifferentiableError,
        "theta is being differentiated by autograd",
    ),
}


@pytest.mark.parametrize(("act", "error_type", "match"), table(FAMILIES))
def test_what_a_family_lacks(act, error_type, match):
    refused(act, error_type, match)


SETTINGS = {
    "reversed": (
        {"t_span": (1.0, 0.0)},
        InputError,
        r"start < end, got \(1\.0, 0\.0\); a gradient flow runs forward",
    ),
    "empty span": ({"t_span": (2, 2)}, InputError, r"start < end, got \(2\.0, 2\.0\)"),
    "NaN in the span": ({"t_span": (0, np.nan)}, NotFiniteError, "t_span must be finite"),
    "three times": ({"t_span": (0, 1, 2)}, ShapeError, r"t_span must have shape \(2,\), got \(3,"),
    "one time": ({"t_span": 1.0}, ShapeError, r"t_span must have shape \(2,\), got \(\)"),
    "text for a span": ({"t_span": "01"}, InputError, "t_span must hold real numbers"),
    "rtol 0": ({"rtol": 0.0}, InputError, r"rtol must be positive, got 0\.0"),
    "atol negative": ({"atol": -1e-9}, InputError, "atol must be positive, got -1e-09"),
    "rtol below rounding": (
        {"rtol": 1e-15},
        InputError,
        r"rtol must be at least 2\.2e-14, .* got 1e-15",
    ),
    "rtol NaN": ({"rtol": np.nan}, NotFiniteError, "rtol must be finite"),
    "atol infinite": ({"atol": np.inf}, NotFiniteError, "atol must be finite"),
    "a tolerance each": ({"atol": ONES}, ShapeError, r"atol must have shape \(\), got \(12,\)"),
    "method": (
        {"method": "euler"},
        InputError,
        "method must be one of RK23, RK45, .* or a scipy OdeSolver, got 'euler'",
    ),
    "method None": ({"method": None}, InputError, "method must be one of .*got None"),
    "method a class": ({"method": dict}, InputError, "method must be one of .*got <class 'dict'>"),
    "method an array": ({"method": ONES}, InputError, r"method must be one of .*got array\(\["),
    "times outside": (
        {"t_eval": [0.5, 1.5]},
        InputError,
        r"t_eval must .*lie within t_span = \(0\.0, 1\.0\), got times from 0\.5 to 1\.5",
    ),
    "times before": ({"t_eval": [-0.5, 0.5]}, InputError, "t_eval must .*lie within t_span"),
    "times that fall": ({"t_eval": [0.5, 0.2]}, InputError, r"increas.*got \[0\.5, 0\.2\]"),
    "times that stay": ({"t_eval": [0.5, 0.5]}, InputError, "t_eval must .*increas"),
    "no times": ({"t_eval": []}, InputError, r"t_eval must .*got \[\]"),
    "NaN among the times": ({"t_eval": [0.0, np.nan]}, NotFiniteError, "t_eval must be finite"),
    "a table of times": ({"t_eval": [[0.0, 1.0]]}, ShapeError, r"t_eval must .*got \(1, 2\)"),
    "one kept time": ({"n_times": 1}, InputError, "n_times must be an integer of at least 2"),
    "2.5 kept times": ({"n_times": 2.5}, InputError, r"n_times must be an integer .* got 2\.5"),
}


@pytest.mark.parametrize(("settings", "error_type", "match"), table(SETTINGS))
@pytest.mark.parametrize("flow", ["parameter", "intrinsic"])
def test_settings_of_a_flow(flow, settings, error_type, match):
    settings = {"t_span": (0.0, 1.0), **settings}
    if flow == "parameter":
        refused(
            lambda: ParameterFlow(NETWORK, LOSS).integrate(THETA, **settings), error_type, match
        )
    else:
        refused(lambda: IntrinsicFlow(SET, LOSS).integrate(**settings), error_type, match)


def parameter_flow(loss, architecture=NETWORK, theta=THETA):
    return ParameterFlow(architecture, loss).integrate(theta, (0.0, 1.0))


TWIN = ReLUNetwork.from_widths([2, 3, 2])
FLOWS = {
    "coordinates": (
        lambda: IntrinsicFlow(SET, LOSS, coordinates="polar"),
        InputError,
        "coordinates must be auto, full or basis, got 'polar'",
    ),
    "basis coordinates without paths": (
        lambda: IntrinsicFlow(
            InvariantSet(Product(), [1.0, 2.0]), loss_from_function(anp.sum), "basis"
        ).integrate(),
        ArchitectureError,
        "Product has no basis-path chart; use coordinates='full'",
    ),
    "no Loss": (
        lambda: ParameterFlow(NETWORK, anp.sum),
        InputError,
        r"loss must be a Loss, got function; use loss_from_function\(f\)",
    ),
    "no Loss either": (
        lambda: IntrinsicFlow(SET, "mse"),
        InputError,
        r"loss must be a Loss, got str; .*NetworkLoss\(network, inputs, targets\)",
    ),
    "loss of another network": (
        lambda: parameter_flow(LOSS, TWIN),
        InputError,
        r"belongs to another network; build one with NetworkLoss\(architecture, inputs, targets\)",
    ),
    "loss of another network, in z": (
        lambda: IntrinsicFlow(InvariantSet(TWIN, THETA), LOSS).integrate(),
        InputError,
        "belongs to another network",
    ),
    "scores of another network": (
        lambda: LOSS.scores(THETA, TWIN),
        InputError,
        "belongs to another network",
    ),
    "too many paths for full coordinates": (
        lambda: IntrinsicFlow(
            InvariantSet(ReLUNetwork.from_widths([2, 3, 2], path_limit=11), THETA),
            loss_from_function(anp.sum),
            "full",
        ).integrate(),
        ArchitectureError,
        "has 12 paths, more than the limit of 11",
    ),
    "loss that is no function": (
        lambda: loss_from_function(3.0),
        InputError,
        r"function must be a function, got float",
    ),
    "loss of vectors": (
        lambda: loss_from_function(lambda z: z).value(Z),
        InputError,
        r"must take z to one number, got an array of shape \(12,\)",
    ),
    "loss without a result": (
        lambda: loss_from_function(lambda z: None).value(Z),
        InputError,
        "must take z to one number, got None",
    ),
    "flow of vectors": (
        lambda: parameter_flow(loss_from_function(lambda z: z)),
        InputError,
        r"must take z to one number, got an array of shape \(12,\)",
    ),
    "gradient of vectors": (
        lambda: loss_from_function(lambda z: z).gradient(Z),
        InputError,
        r"must take z to one number, got an array of shape \(12,\)",
    ),
    "loss that leaves autograd": (
        lambda: parameter_flow(loss_from_function(lambda z: float(z[0]))),
        NotDifferentiableError,
        "by operations of autograd.numpy; autograd says: float",
    ),
    "loss infinite at the start": (
        lambda: parameter_flow(loss_from_function(lambda z: anp.sum(1.0 / (z - Z) ** 2))),
        FlowError,
        "flow cannot start",
    ),
    "loss NaN at the start": (
        lambda: parameter_flow(loss_from_function(lambda z: anp.sum(anp.log(-(z**2))))),
        FlowError,
        "flow cannot start",
    ),
    "velocity infinite at the start": (
        lambda: parameter_flow(LOSS, theta=1e160 * THETA),
        FlowError,
        "the parameter flow cannot start",
    ),
    "loss overflows at the start": (
        lambda: parameter_flow(LOSS, theta=1e80 * THETA),
        FlowError,
        "the parameter flow cannot start",
    ),
    "wrong start": (
        lambda: parameter_flow(LOSS, theta=THETA[:-1]),
        ShapeError,
        r"theta0 must have shape \(12,\), got \(11,\)",
    ),
    "wrong z0": (
        lambda: IntrinsicFlow(SET, LOSS).integrate(Z[1:]),
        ShapeError,
        r"z0 must have shape \(12,\), got \(11,\)",
    ),
}


@pytest.mark.parametrize(("act", "error_type", "match"), table(FLOWS))
def test_flows(act, error_type, match):
    refused(act, error_type, match)


class Wall(FlowState):
    """The flow y' = −y, which is refused where y is small."""

    def start(self):
        return np.array([1.0, 2.0])

    def velocity(self, coordinates):
        if coordinates[0] < 0.5:
            raise NotRecoverableError("here is a wall")
        return -coordinates

    def read(self, coordinates):
        return coordinates, coordinates, float(np.sum(coordinates**2))


class Interrupt(Wall):
    """The same flow, with one Ctrl-C in the middle."""

    def velocity(self, coordinates):
        if 0.5 < coordinates[0] < 0.7:
            raise KeyboardInterrupt
        return -coordinates


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("flow", "text", "t_stop"),
    [(Wall, "here is a wall", np.log(2)), (Interrupt, "interrupted", -np.log(0.7))],
)
def test_a_flow_that_ends_early_says_why(flow, text, t_stop, method):
    # Steps this short, because BDF's Jacobian needs the velocity at the end of a step, too.
    settings = Settings((0.0, 1.0), rtol=1e-6, atol=1e-9, method=method, max_step=0.01)
    trajectory = integrate(flow(), settings, "test")
    assert not trajectory.success
    assert re.fullmatch(rf"stopped after t = [\d.e-]+: {text}", trajectory.message)
    # All that was computed is kept, and it is right.
    assert 0.0 <= trajectory.t[-1] <= t_stop
    assert len(trajectory.t) == len(trajectory.y) == len(trajectory.loss)
    exact = np.exp(-trajectory.t)[:, None] * [1.0, 2.0]
    np.testing.assert_allclose(trajectory.y, exact, rtol=1e-4)
    if flow is Wall:
        assert trajectory.t[-1] > 0.9 * t_stop


def on_data(targets, kind, inputs=DATA, architecture=NETWORK):
    return NetworkLoss(architecture, inputs, targets, kind)


LOSSES = {
    "kind": (
        lambda: on_data(DATA, "hinge"),
        InputError,
        "kind must be one of mse, cross-entropy, got 'hinge'",
    ),
    "no network": (
        lambda: on_data(DATA, "mse", architecture=Product()),
        InputError,
        r"network must be a ReLUNetwork, got Product; .*loss_from_function\(f\)",
    ),
    "label out of range": (
        lambda: on_data([0, 1, 2, 0, 1], "cross-entropy"),
        DataError,
        "label 2 is out of range for a network of 2 outputs, which takes labels 0 to 1",
    ),
    "negative label": (
        lambda: on_data([0, 1, -1, 0, 1], "cross-entropy"),
        DataError,
        "labels must be integers from 0, got -1; sklearn's LabelEncoder",
    ),
    "fractional label": (
        lambda: on_data([0, 0.5, 1, 0, 1], "cross-entropy"),
        DataError,
        r"labels must be integers from 0, got 0\.5",
    ),
    "huge label": (
        lambda: on_data([0, 1e300, 1, 0, 1], "cross-entropy"),
        DataError,
        r"label 1e\+300 is out of range",
    ),
    "text labels": (
        lambda: on_data(list("abaab"), "cross-entropy"),
        InputError,
        "labels must hold real numbers, got dtype <U1",
    ),
    "one-hot labels": (
        lambda: on_data(np.eye(2)[[0, 1, 0, 1, 0]], "cross-entropy"),
        ShapeError,
        r"labels must have shape \(n,\), got \(5, 2\)",
    ),
    "one output": (
        lambda: on_data(
            np.zeros(5), "cross-entropy", architecture=ReLUNetwork.from_widths([2, 3, 1])
        ),
        DataError,
        "cross-entropy needs a network of at least two outputs, got one",
    ),
    "rows": (
        lambda: on_data(DATA[:4], "mse"),
        ShapeError,
        "one row per sample, got 5 and 4",
    ),
    "rows of labels": (
        lambda: on_data([0, 1], "cross-entropy"),
        ShapeError,
        "one row per sample, got 5 and 2",
    ),
    "one column for two outputs": (
        lambda: on_data(DATA[:, 0], "mse"),
        ShapeError,
        r"targets must have shape \(n, 2\), got \(5,\)",
    ),
    "features": (
        lambda: on_data(DATA, "mse", inputs=np.ones((5, 3))),
        ShapeError,
        r"inputs must have shape \(n, 2\), got \(5, 3\)",
    ),
    "one sample without its axis": (
        lambda: on_data(np.ones(2), "mse", inputs=np.ones(2)),
        ShapeError,
        r"inputs must have shape \(n, 2\), got \(2,\)",
    ),
    "no samples": (
        lambda: on_data(DATA[:0], "mse", inputs=DATA[:0]),
        DataError,
        "inputs must hold at least one sample, got none",
    ),
    "NaN in the inputs": (
        lambda: on_data(DATA, "mse", inputs=with_entry(DATA, (3, 1), np.nan)),
        NotFiniteError,
        "inputs must be finite, got 1 NaN or infinite of 10",
    ),
    "infinite targets": (
        lambda: on_data(with_entry(DATA, 0, np.inf), "mse"),
        NotFiniteError,
        "targets must be finite, got 2 NaN or infinite of 10",
    ),
    "a batch of gauges": (
        lambda: LOSS.value(Z, near=np.ones((3, 12))),
        ShapeError,
        r"near must have shape \(12,\), got \(3, 12\)",
    ),
}


@pytest.mark.parametrize(("act", "error_type", "match"), table(LOSSES))
def test_losses(act, error_type, match):
    refused(act, error_type, match)


MANY = "\n".join(f"{i},{i}.5" for i in range(25))
TABLES = {
    "a missing cell": (
        "a,b,y\n1,2,0\n3,,1\n",
        "1 missing cells, the first in line 3, column 'b'; fill or drop them",
    ),
    "a missing target after blank lines": (
        "a,b,y\n\n1,2,0\n\n\n3,4,\n,1,0\n",
        "2 missing cells, the first in line 6, column 'y'",
    ),
    "a missing cell after a long one": (
        'a,b,y\n1,2,"yes,\nof course"\n3,,no\n',
        "first in line 4, column 'b'",
    ),
    "a short row": ("a,b,y\n1,2,0\n3,4\n", "first in line 3, column 'y'"),
    "a long row": (
        "a,b,y\n1,2,0\n3,4,1,5\n",
        "4 cells in line 3 and 3 in its first row; name every column",
    ),
    "long rows": (
        "a,b,y\n1,2,3,0\n4,5,6,1\n",
        "4 cells in line 2 and 3 in its first row; name every column",
    ),
    "text features": (
        "a,colour,y\n1,red,0\n2,blue,1\n",
        "2 texts among the features, the first in line 2, column 'colour'; encode them as numbers",
    ),
    "infinite feature": (
        "a,b,y\n1,2,0\n1,inf,1\n",
        "1 infinite or huge numbers, the first in line 3, column 'b'; drop or rescale",
    ),
    "infinite target": ("a,y\n1,2.5\n3,-inf\n", "first in line 3, column 'y'; drop or rescale"),
    "text among numeric targets": (
        f"a,y\n{MANY}\n7,?\n",
        "1 texts among the numbers, the first in line 27, column 'y'; make them numbers",
    ),
    "a text of its own in every row": (
        "a,y\n" + "\n".join(f"{i},row {i}" for i in range(25)) + "\n",
        "another text in every row of column 'y', its target; expected labels or numbers",
    ),
    "one class": (
        "a,b,y\n1,2,yes\n3,4,yes\n",
        "the same target in every row, yes in column 'y': there is nothing to learn",
    ),
    "one value": ("a,y\n1,2.5\n3,2.5\n", r"the same target in every row, 2\.5 in column 'y'"),
    "no header": (
        "5.1,3.5,0\n4.9,3.0,1\n4.7,3.2,1\n",
        r"must begin with a header line of names, got numbers: 5\.1, 3\.5, 0, in line 1",
    ),
    "empty": ("", "cannot be read as a CSV file: it is empty"),
    "header only": ("a,b,y\n", "at least two rows, .* got 0 rows and 3 columns"),
    "one row": ("a,b,y\n1,2,0\n", "at least two rows, .* got 1 rows and 3 columns"),
    "one column": ("y\n1\n2\n", "one feature and the target, .* got 2 rows and 1 columns"),
    "semicolons": ("a;b;y\n1;2;0\n3;4;1\n", "cells separated by commas, .* got line 1: 'a;b;y'"),
    "not text": (
        bytes(range(128, 256)),
        "cannot be read as a CSV file: 'utf-8' codec.*in line 1; save it as text",
    ),
}


@pytest.mark.parametrize(("content", "match"), table(TABLES))
def test_tables(tmp_path, content, match):
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    error = refused(lambda: load(str(path)), DataError, match)
    assert str(path) in str(error)


def test_unknown_data():
    refused(
        lambda: load("iriss"), DataError, "no data set and no file is called 'iriss'; known.*iris"
    )


def test_archive_is_no_table(tmp_path):
    np.savez(tmp_path / "table.zip", a=np.arange(2000))
    path = tmp_path / "table.zip.npz"
    refused(
        lambda: load(str(path.rename(tmp_path / "t.zip"))), DataError, "cannot be read as a CSV"
    )


def test_loss_for_a_data_set():
    match = "diabetes has real targets, not labels; use the loss mse"
    refused(lambda: load("diabetes").targets_for("cross-entropy"), DataError, match)
    match = "loss must be mse or cross-entropy, got 'hinge'"
    refused(lambda: load("diabetes").targets_for("hinge"), InputError, match)


def test_trajectory_that_cannot_be_written(tmp_path):
    short = ParameterFlow(NETWORK, LOSS).integrate(THETA, (0.0, 0.1), n_times=2)
    (tmp_path / "file").write_text("in the place of a folder")
    for folder in (tmp_path / "nowhere", tmp_path / "file", Path("/proc")):
        refused(lambda path=folder / "t.npz": short.save(path), OutputError, f"write {folder}/t")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="no file"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"garbage", id="garbage"),
        pytest.param(b"PK\x03\x04garbage", id="broken archive"),
        pytest.param(lambda path: np.save(path, np.ones(3)), id="one array"),
        pytest.param(lambda path: np.savez(path, t=np.ones(3)), id="other arrays"),
        pytest.param(lambda path: np.savez(path, t=np.array([{}])), id="pickles"),
    ],
)
def test_file_that_holds_no_trajectory(tmp_path, content):
    path = tmp_path / "t.npz"
    if callable(content):
        with path.open("wb") as file:
            content(file)
    elif content is not None:
        path.write_bytes(content)
    refused(lambda: Trajectory.load(path), DataError, "t.npz holds no trajectory")


class Another(NotOnImageError):
    """An error of one's own, whose constructor asks for something else."""

    def __init__(self, place):
        super().__init__(f"not at {place}", 0.5)
        self.place = place


@pytest.mark.parametrize(
    "error",
    [
        NotOnImageError("m", 0.1),
        NotTangentError("m", 0.2),
        ArchitectureError("m", ["a", ("b", 1)]),
        NotRecoverableError("m", ["b"]),
        OutputError("m"),
        FlowError("m"),
        Another("home"),
    ],
)
def test_errors_survive_their_way_back_from_a_worker(error):
    error.add_note("seen there")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(error, protocol))
        assert type(back) is type(error)
        assert (str(back), back.args, vars(back)) == (str(error), error.args, vars(error))
    assert vars(copy.copy(error)) == vars(error)


def test_every_class_of_error_is_covered():
    classes, todo = set(), [LiftflowError]
    while todo:
        children = todo.pop().__subclasses__()
        classes.update(children)
        todo += children
    own = {error for error in classes if error.__module__ == "liftflow.errors"}
    assert all(issubclass(error, BUILT_IN[error]) for error in BUILT_IN)
    assert own == set(BUILT_IN)


# Criteria.


def test_truth_of_an_undecided_verdict():
    two_layers = TwoLayerLinear(1, 1, 2)
    left = np.array([[1.0, 2.0]])
    theta = two_layers.pack(left, left + np.array([[1e-9, -1e-9]]))
    match = "recoverable is undecided: a size of .* read .verdict, or ask at a point"
    refused(lambda: bool(recoverability(two_layers, theta)), UndecidedError, match)


class Bare(Architecture):
    """Defines a lift alone, by numpy, which autograd cannot follow."""

    def __init__(self):
        super().__init__(3, (3,))

    def lift(self, theta):
        return np.fft.fft(np.exp(theta)).real


@pytest.mark.parametrize(
    "call",
    [
        count_conservation_laws,
        lambda bare: classify(bare, np.ones(3)),
        lambda bare: bare.lift_jvp(np.ones(3), np.ones(3)),
        lambda bare: bare.lift_hvp(np.ones(3), np.ones(3), np.ones(3)),
        lambda bare: bare.lift_hessian(np.ones(3), np.ones(3), np.ones(3)),
    ],
    ids=["count", "classify", "jvp", "hvp", "hessian"],
)
def test_lift_that_nothing_differentiates(call):
    match = "autograd cannot follow the lift of Bare .* write it with autograd.numpy"
    refused(lambda: call(Bare()), NotDifferentiableError, match)


class Own(Architecture):
    """A user's lift u ∘ v with laws u² − v², each wrapped by a fault."""

    def __init__(self, enter=lambda theta: theta, lift=lambda z: z, laws=lambda h: h, **options):
        super().__init__(4, (2,), n_laws=2, **options)
        self.faults = enter, lift, laws

    def lift(self, theta):
        theta = self.faults[0](theta)
        return self.faults[1](theta[..., :2] * theta[..., 2:])

    def conservation_laws(self, theta):
        return self.faults[2](theta[..., :2] ** 2 - theta[..., 2:] ** 2)


OWN = np.array([1.0, 2.0, 0.5, -0.7])
SIGHT = "autograd cannot follow the lift of Own, which returns numbers out of its sight"


def test_a_lift_without_faults():
    """Control; and a lift may be constant, or linear."""
    own = Own(block_shapes=[[2], np.array([2])])
    np.testing.assert_array_equal(own.lift_jacobian(OWN), [[0.5, 0, 1, 0], [0, -0.7, 0, 2]])
    np.testing.assert_array_equal(
        own.conservation_laws_jacobian(OWN), [[2, 0, -1, 0], [0, 4, 0, 1.4]]
    )
    assert [block.tolist() for block in own.unpack(OWN)] == [[1.0, 2.0], [0.5, -0.7]]
    constant = Own(lift=lambda z: np.ones(z.shape))
    np.testing.assert_array_equal(constant.lift_jacobian(OWN), np.zeros((2, 4)))
    np.testing.assert_array_equal(constant.lift_hessian(OWN, OWN, OWN), np.zeros(2))


@pytest.mark.parametrize(
    ("faults", "error_type", "match"),
    [
        ({"enter": np.asarray}, NotDifferentiableError, SIGHT),
        ({"enter": untraced}, NotDifferentiableError, SIGHT),
        ({"lift": np.float32}, InputError, "the lift of Own must return .* float64, got float32"),
        ({"lift": lambda z: z + 0j}, InputError, "the lift of Own must .* got complex128"),
        ({"laws": lambda h: [h[..., 0], h[..., 1]]}, ShapeError, "laws of Own must broadcast"),
        ({"laws": lambda h: h[..., 0]}, ShapeError, r"\(\), but \(n_laws,\) is \(2,\)"),
        ({"laws": lambda h: h[..., [0, 1, 0]]}, ShapeError, r"\(3,\), but \(n_laws,\) is \(2,\)"),
        ({"block_shapes": [(2,)]}, ShapeError, "block_shapes must hold dim = 4 numbers"),
        ({"block_shapes": [2, 2]}, InputError, "block_shapes must be tuples, one per block"),
    ],
)
def test_faults_of_an_architecture_of_a_user(faults, error_type, match):
    def act():
        own = Own(**faults)
        own.lift_jacobian(OWN)
        return InvariantSet(own, OWN).dim

    refused(act, error_type, match)


@pytest.mark.parametrize(
    "act",
    [count_conservation_laws, discover_laws, lambda own: classify(own, OWN)],
    ids=["count", "discover", "classify"],
)
def test_the_criteria_refuse_a_faulty_lift_as_its_derivatives_do(act):
    act(Own())
    for fault, match in [
        (lambda z: z[..., :1], r"to an array of shape \(1,\), but lifted_shape is \(2,\)"),
        (lambda z: None, r"to an array of shape \(\), but"),
        (lambda z: "a", r"to an array of shape \(\), but"),
        (lambda z: 3.0, r"to an array of shape \(\), but"),
        (lambda z: anp.array([z[0], z[1]]), "must broadcast over leading axes"),
    ]:
        refused(lambda fault=fault: act(Own(lift=fault)), ShapeError, match)


def test_an_architecture_whose_own_start_was_forgotten():
    class Started(Own):
        def __init__(self):
            pass

    match = r"Started has no dim; begin its __init__ with super\(\).__init__\(dim, lifted_shape\)"
    refused(lambda: InvariantSet(Started(), OWN), ArchitectureError, match)
    with pytest.raises(AttributeError, match="has no attribute 'width'"):
        _ = Own().width


class Pairs(Architecture):
    """Multiplies weights by a function whose derivative divides by them."""

    def __init__(self):
        super().__init__(4, (2,))

    def lift(self, theta):
        return anp.prod(anp.reshape(theta, (*theta.shape[:-1], 2, 2)), axis=-1)


@pytest.mark.filterwarnings("ignore::RuntimeWarning:autograd")
@pytest.mark.parametrize(
    "criterion", [classify, commuting, frobenius, kernel_inclusion, laws_complete, recoverability]
)
def test_derivatives_that_are_not_finite(criterion):
    criterion(Pairs(), np.array([1.0, 1.0, 2.0, 3.0]))
    match = "derivatives of the lift of Pairs at θ must be finite, got .* NaN or infinite of"
    refused(lambda: criterion(Pairs(), np.array([0.0, 1.0, 2.0, 3.0])), NotFiniteError, match)


def test_exact_count_of_a_lift_of_floats():
    match = "exact=True evaluates the lift over a prime field, and that of Bare .* exact=False"
    refused(lambda: count_conservation_laws(Bare(), exact=True), InputError, match)


@pytest.mark.parametrize(
    "criterion", [classify, commuting, frobenius, kernel_inclusion, laws_complete, recoverability]
)
def test_theta_at_the_door_of_the_criteria(criterion):
    match = r"theta must have shape \(8,\), got \(2, 8\)"
    network = TwoLayerLinear(2, 2, 2)
    refused(lambda: criterion(network, np.ones((2, 8))), ShapeError, match)
    refused(lambda: criterion(network, np.full(8, np.nan)), NotFiniteError, "theta must be finite")


def test_laws_with_too_many_monomials_or_other_labels():
    match = "100 parameters have 5150 monomials up to degree 2, more than 2500; take a smaller"
    refused(lambda: discover_laws(ReLUNetwork.diagonal(50)), InputError, match)
    match = "labels must name 4 parameters, got 1"
    refused(lambda: discover_laws(ReLUNetwork.diagonal(2), labels=["a"]), ShapeError, match)
    match = "degree must be an integer of at least 1, got 0"
    refused(lambda: discover_laws(ReLUNetwork.diagonal(2), degree=0), InputError, match)
