"""THE registry: one line per architecture, metric and manifold, run through every contract.

A new family is one line in each table; ``tests/test_registry.py`` fails until it is there. One of
which only a lift and its laws are written is one line in ``LIFTS``, which the tables take over.
"""

import geomstats.backend as gs
import networkx as nx
import pytest
from linear_cases import mixed_product
from random_dags import random_network
from tensors import RankOneTensors

from liftflow.architectures import (
    Attention,
    Conv,
    DeepLinear,
    GainedDirections,
    LinearNeuralODE,
    NormalisedNetwork,
    ProductArchitecture,
    ReLUNetwork,
    SampledForward,
    ScaleInvariant,
    TransformerBlock,
    TwoLayerLinear,
)
from liftflow.criteria import discover_laws
from liftflow.manifolds import InvariantSet
from liftflow.metrics import (
    IntrinsicMetric,
    OneHiddenLayerCometric,
    RecoveredCometric,
    ScalarChainCometric,
)

layers, residual, diagonal = ReLUNetwork.from_widths, ReLUNetwork.residual, ReLUNetwork.diagonal


def bias_fed():
    """Return a network with a hidden node and an output fed by biases alone, and an idle input."""
    graph = nx.DiGraph([("b", "y"), ("a", "y"), ("x", "a"), ("b", "a")])
    graph.add_nodes_from(["idle", "w"])
    return ReLUNetwork(graph, ["idle", "x"], ["w", "y"], ["w", "b", "y"])


def convolutional():
    """Return a network of two channels of four positions each."""
    return ReLUNetwork.convolutional((1, 4, 4), [Conv(2, 2, stride=2)], 2)


def stream():
    """Return a residual stream with one block, whose skip is the identity."""
    return residual([2, 3, 2, 3, 2], [(1, 3)], bias=True, identity=True)


def units():
    """Return a network of units of five kinds, with a shared, a frozen and a parallel weight."""
    graph = nx.MultiDiGraph(
        [("x", "a"), ("x", "a"), ("x", "b"), ("v", "c"), ("c", "d"), ("d", "y")]
    )
    graph.add_edge("v", "b", parameter="w")
    graph.add_edge("b", "y", parameter="u")
    graph.add_edge("a", "y", parameter="u")
    graph.add_edge("a", "d", frozen=True, weight=-0.5)
    for node in "ab":
        graph.add_edge(node, "m", frozen=True, weight=1.0)
    graph.add_edge("m", "y")
    graph.nodes["a"].update(activation="leaky_relu", slope=0.3)
    graph.nodes["c"].update(activation="relu_power", degree=2)
    for node, kind in {"b": "abs", "d": "identity", "m": "max"}.items():
        graph.nodes[node]["activation"] = kind
    return ReLUNetwork(graph, ["x", "v"], ["y"], ["c", "y"])


def on_set(architecture, theta0=None):
    """Return the invariant set of θ₀, by default of a random point."""
    theta0 = architecture.random_point(rng=0) if theta0 is None else theta0
    return InvariantSet(architecture, theta0)


def on_image(architecture, theta0=None):
    """Return the image of the invariant set of θ₀, with its metric."""
    return on_set(architecture, theta0).image()


def metric(architecture, theta0=None):
    """Return the metric that the image of an invariant set comes with."""
    return on_image(architecture, theta0).metric


def closed(cometric, architecture, theta0=None):
    """Return another closed form, put on the image in place of its own."""
    image = on_image(architecture, theta0)
    own = cometric(architecture, image.theta0)
    return image.equip_with_metric(IntrinsicMetric, cometric=own).metric


def balanced(architecture, lam):
    """Return an architecture with a relaxed balanced θ₀, as the arguments of the lines below."""
    return architecture, architecture.balanced_point(lam, 0)


def hyperbolic(network, a):
    """Return two layers with a θ₀ on the leaf of hyperbolic isotropy."""
    return network, network.hyperbolic_point(a, 0)


def random_dags(name, build):
    """Return 20 lines, each built on another random network."""
    return {f"{name} {seed}": lambda seed=seed: build(random_network(seed)) for seed in range(20)}


def unit(theta, x):
    """Evaluate one linear unit of two inputs."""
    return theta[2] * (theta[0] * x[0] + theta[1] * x[1])


def sampled():
    """Return one linear unit at four inputs, known by its forward pass alone."""
    return SampledForward(unit, 3, GIVEN)


GIVEN = [[1.0, 0.0], [0.0, 1.0], [1.0, -1.0], [0.5, 2.0]]

LIFTS = {
    "discovered laws": lambda: sampled().with_laws(discover_laws(sampled())),
    "tensors 2, 1, 3": lambda: RankOneTensors(2, 1, 3),
}


def lifts(name, build):
    """Return the lines that all lifts have in a table."""
    return {f"{name}{own}": lambda own=own: build(LIFTS[own]()) for own in LIFTS}


ARCHITECTURES = {
    "layers 4-6-3": lambda: layers([4, 6, 3]),
    "layers 3-4-4-2, biases": lambda: layers([3, 4, 4, 2], bias=True),
    "layers 2-3": lambda: layers([2, 3]),
    "layers 3-2-2-2-2": lambda: layers([3, 2, 2, 2, 2]),
    "layers 64-16-10": lambda: layers([64, 16, 10]),
    "chain 1-1-1-1": lambda: layers([1, 1, 1, 1]),
    "diagonal 4, depth 3": lambda: diagonal(4, depth=3),
    "residual 2-3-3-2, biases": lambda: residual([2, 3, 3, 2], [(0, 2), (1, 3)], bias=True),
    "nodes fed by biases": bias_fed,
    "two layers 4, 3, 3": lambda: TwoLayerLinear(4, 3, 3),
    "deep 3-2-4-3": lambda: DeepLinear([3, 2, 4, 3]),
    "neural ODE": lambda: LinearNeuralODE(2, 5),
    "attention": lambda: Attention(3, 2, 1),
    "product": lambda: ProductArchitecture(layers([2, 3, 2]), TwoLayerLinear(2, 3, 2)),
    "scale-invariant 2, 3": lambda: ScaleInvariant(2, 3),
    "scale-invariant, centred": lambda: ScaleInvariant(1, (3, 2), centred=True),
    "batch norm 2-3-1": lambda: NormalisedNetwork([2, 3, 1]),
    "gained directions": lambda: GainedDirections(2, 3),
    "transformer block 2-1-1-2": lambda: TransformerBlock(2, 1, 1, 2),
    "convolutional": convolutional,
    "identity skip": stream,
    "recurrent": lambda: ReLUNetwork.recurrent(2, 2, 1, 3),
    "units of all kinds": units,
    "forward pass": sampled,
    **random_dags("DAG", lambda network: network),
    **lifts("", lambda architecture: architecture),
}

METRICS = {
    "layers 4-6-3": lambda: metric(layers([4, 6, 3])),
    "layers 3-4-4-2, biases": lambda: metric(layers([3, 4, 4, 2], bias=True)),
    "layers 2-3": lambda: metric(layers([2, 3])),
    "layers 3-2-2-2-2": lambda: metric(layers([3, 2, 2, 2, 2])),
    "diagonal 4, depth 3": lambda: metric(diagonal(4, depth=3)),
    "residual 2-3-3-2, biases": lambda: metric(residual([2, 3, 3, 2], [(0, 2), (1, 3)], bias=True)),
    "nodes fed by biases": lambda: metric(bias_fed()),
    "two layers 4, 3, 3": lambda: metric(*balanced(TwoLayerLinear(4, 3, 3), 0.7)),
    "two layers 5, 3, 2": lambda: metric(*balanced(TwoLayerLinear(5, 3, 2), -1.0)),
    "deep 3-3-3-3": lambda: metric(*balanced(DeepLinear([3, 3, 3, 3]), (0.5, -1.2))),
    "deep 4-2-3": lambda: metric(*balanced(DeepLinear([4, 2, 3]), 0.0)),
    "two layers 2, 2, 5": lambda: metric(*balanced(TwoLayerLinear(2, 2, 5), 0.0)),
    "two layers 1, 1, 3, any S": lambda: metric(TwoLayerLinear(1, 1, 3)),
    "hyperbolic 2, 1, 3": lambda: metric(*hyperbolic(TwoLayerLinear(2, 1, 3), 0.7)),
    "attention": lambda: metric(*balanced(Attention(3, 2, 1), 0.5)),
    "product": lambda: metric(*mixed_product()),
    "scale-invariant 2, 3": lambda: metric(ScaleInvariant(2, 3)),
    "scale-invariant, centred": lambda: metric(ScaleInvariant(1, (3, 2), centred=True)),
    "batch norm 2-3-1": lambda: metric(NormalisedNetwork([2, 3, 1])),
    "batch norm 2-2-2-1": lambda: metric(NormalisedNetwork([2, 2, 2, 1])),
    "transformer block 2-2-1-2": lambda: metric(*balanced(TransformerBlock(2, 2, 1, 2), 0.4)),
    "recovered 2-2-2": lambda: closed(RecoveredCometric, layers([2, 2, 2])),
    "convolutional": lambda: metric(convolutional()),
    "identity skip": lambda: metric(stream()),
    "recurrent": lambda: metric(ReLUNetwork.recurrent(2, 2, 1, 3)),
    "units of all kinds": lambda: metric(units()),
    **random_dags("DAG", metric),
    **lifts("", metric),
    "closed 4-6-3": lambda: closed(OneHiddenLayerCometric, layers([4, 6, 3])),
    "closed 2-3-2, biases": lambda: closed(OneHiddenLayerCometric, layers([2, 3, 2], bias=True)),
    "closed 2-3-2, skip": lambda: closed(OneHiddenLayerCometric, residual([2, 3, 2], [(0, 2)])),
    "closed DAG 9": lambda: closed(OneHiddenLayerCometric, random_network(9)),
    "closed 1-1-1-1": lambda: closed(ScalarChainCometric, layers([1, 1, 1, 1])),
    "closed 3-1-1-2": lambda: closed(ScalarChainCometric, layers([3, 1, 1, 2])),
}

MANIFOLDS = {
    "set 4-6-3": lambda: on_set(layers([4, 6, 3])),
    "set 2-3": lambda: on_set(layers([2, 3])),
    "set 64-16-10": lambda: on_set(layers([64, 16, 10])),
    "set 3-4-4-2, biases": lambda: on_set(layers([3, 4, 4, 2], bias=True)),
    "set diagonal 4, depth 3": lambda: on_set(diagonal(4, depth=3)),
    "set nodes fed by biases": lambda: on_set(bias_fed()),
    "set two layers 4, 3, 3": lambda: on_set(*balanced(TwoLayerLinear(4, 3, 3), 0.7)),
    "set deep 3-3-3-3": lambda: on_set(*balanced(DeepLinear([3, 3, 3, 3]), (0.5, -1.2))),
    "set neural ODE": lambda: on_set(*balanced(LinearNeuralODE(2, 5), 0.4)),
    "set product": lambda: on_set(*mixed_product()),
    "set scale-invariant": lambda: on_set(ScaleInvariant(2, 3)),
    "set scale-invariant, centred": lambda: on_set(ScaleInvariant(1, (3, 2), centred=True)),
    "set convolutional": lambda: on_set(convolutional()),
    "set units of all kinds": lambda: on_set(units()),
    **random_dags("set DAG", on_set),
    **lifts("set ", on_set),
    "image 4-6-3": lambda: on_image(layers([4, 6, 3])),
    "image 2-3": lambda: on_image(layers([2, 3])),
    "image 3-4-4-2, biases": lambda: on_image(layers([3, 4, 4, 2], bias=True)),
    "image diagonal 4, depth 3": lambda: on_image(diagonal(4, depth=3)),
    "image nodes fed by biases": lambda: on_image(bias_fed()),
    "image two layers 5, 3, 2": lambda: on_image(*balanced(TwoLayerLinear(5, 3, 2), 1.0)),
    "image deep 4-2-3": lambda: on_image(*balanced(DeepLinear([4, 2, 3]), 0.0)),
    "flat 5, 3, 2": lambda: on_image(*balanced(TwoLayerLinear(5, 3, 2), 1.0)).flat(),
    "chart 2-3-3-2, residual": lambda: on_set(residual([2, 3, 3, 2], [(0, 2), (1, 3)])).chart(),
    "chart recurrent": lambda: on_set(ReLUNetwork.recurrent(2, 2, 1, 3)).chart(),
    "chart units of all kinds": lambda: on_set(units()).chart(),
    "chart product": lambda: on_set(*mixed_product()).chart(),
    "image identity skip": lambda: on_image(stream()),
    "image recurrent": lambda: on_image(ReLUNetwork.recurrent(2, 2, 1, 3)),
    "image units of all kinds": lambda: on_image(units()),
    "image scale-invariant": lambda: on_image(ScaleInvariant(2, 3)),
    "image scale-invariant, centred": lambda: on_image(ScaleInvariant(1, (3, 2), centred=True)),
    "image batch norm": lambda: on_image(NormalisedNetwork([2, 3, 1])),
    "set transformer block": lambda: on_set(*balanced(TransformerBlock(2, 2, 1, 2), 0.4)),
    "image transformer block": lambda: on_image(*balanced(TransformerBlock(2, 2, 1, 2), 0.4)),
    "image attention": lambda: on_image(*balanced(Attention(3, 2, 1), 0.5)),
    "image neural ODE": lambda: on_image(*balanced(LinearNeuralODE(2, 5), 0.4)),
    "image product": lambda: on_image(*mixed_product()),
    **random_dags("image DAG", on_image),
    **lifts("image ", on_image),
}


def slow_under_numpy(test):
    """Leave to ``make test-all`` under numpy what ``make test`` runs under autograd."""
    return test if gs.has_autodiff() else pytest.mark.slow(test)


def params(table, slow=(), under_numpy=()):
    """Return the factories of a table as pytest parameters named after its lines.

    Parameters
    ----------
    slow, under_numpy : iterable of str
        Lines that are slow tests, those of the second under numpy alone.
    """
    slow = {*slow, *(() if gs.has_autodiff() else under_numpy)}
    return [
        pytest.param(factory, id=name, marks=[pytest.mark.slow] if name in slow else [])
        for name, factory in table.items()
    ]
