"""Attributes by which the weights of a graph are shared or frozen, and its nodes activated."""

import math
import numbers
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import networkx as nx
import numpy as np

from liftflow.architectures.dag import BIAS, CompiledDAG, _names, _refuse_if, read_roles
from liftflow.architectures.tying import Tying, Units
from liftflow.errors import ArchitectureError
from liftflow.typing import FloatArray, IntArray, shown

SLOPES = {"relu": 0.0, "abs": -1.0, "identity": 1.0, "max": 1.0, "relu_power": 0.0}
"""What is below 0 is multiplied by it; ``leaky_relu`` has a slope of its own."""

ACTIVATIONS = (*SLOPES, "leaky_relu")
"""Names of the functions of nodes."""

_OWN = ("parameter", "frozen"), ("activation", "bias_parameter", "bias_frozen")


def has_attributes(graph: Any) -> bool:
    """Whether a graph is more than a DAG of ReLUs with a weight to each edge."""
    if not isinstance(graph, nx.Graph):
        return False
    edges = (data for _, _, data in graph.edges(data=True) if data)
    nodes = (data for _, data in graph.nodes(data=True) if data)
    return (
        graph.is_multigraph()
        or any(data.get(name) for data in edges for name in _OWN[0])
        or any(data.get(name) not in (None, False, "relu") for data in nodes for name in _OWN[1])
        or any(data.get("parameter") is not None for _, _, data in graph.edges(data=True) if data)
    )


def compile_graph(
    graph: nx.DiGraph,
    inputs: Iterable[Hashable],
    outputs: Iterable[Hashable],
    biases: Iterable[Hashable],
) -> tuple[CompiledDAG, Tying, Units, tuple[Any, ...]]:
    """Compile a graph with its attributes.

    Parameters
    ----------
    graph : networkx.DiGraph or networkx.MultiDiGraph
        The network.
    inputs, outputs, biases : iterable of nodes
        As of a ``ReLUNetwork``.

    Returns
    -------
    dag, tying, units : CompiledDAG, Tying, Units
        Without the frozen edges of weight 0.
    keyed : tuple
        Edges of a multigraph, with their keys, then biases; else nothing.

    Raises
    ------
    ArchitectureError
        The graph is not a network, or attributes contradict each other; names edges and nodes.
    """
    inputs, outputs, biases = read_roles(graph, inputs, outputs, biases)
    labels = list(graph)
    code = {node: i for i, node in enumerate(labels)}
    edges = list(graph.edges(data=True))
    names: list[Hashable] = [(u, v) for u, v, _ in edges] + [(BIAS, v) for v in biases]
    if graph.is_multigraph():
        names[: len(edges)] = [
            (u, v, key) if graph.number_of_edges(u, v) > 1 else (u, v)
            for u, v, key in graph.edges(keys=True)
        ]
    shared = [data.get("parameter") for *_, data in edges]
    frozen = [bool(data.get("frozen")) for *_, data in edges]
    weights = [data.get("weight") for *_, data in edges]
    for node in biases:
        data = graph.nodes[node]
        shared.append(data.get("bias_parameter"))
        frozen.append(bool(data.get("bias_frozen")))
        weights.append(data.get("bias"))
    numbered, called = _parameters(names, shared, frozen)
    constants = _constants(names, frozen, weights)
    units = _read_units(graph, labels, {*inputs, *outputs})
    tails = np.array([code[u] for u, _, _ in edges] + [len(labels)] * len(biases), dtype=np.intp)
    heads = np.array([code[v] for _, v, _ in edges] + [code[v] for v in biases], dtype=np.intp)
    trained = numbered >= 0
    wrong = np.flatnonzero(units.maxima[heads] & trained)
    _refuse_if(
        (names[i] for i in wrong),
        "a max takes the largest of frozen edges (frozen=True, weight=…), got trainable ones: {}",
    )
    kept = trained | (constants != 0)
    slopes = units.slopes.copy()
    slopes[heads[~kept & units.maxima[heads]]] = 0.0  # the largest of 0 and of what flows in
    n_edges = int(kept[: len(edges)].sum())
    dag = CompiledDAG.from_edges(
        labels,
        tails[kept],
        heads[kept],
        [code[node] for node in inputs],
        [code[node] for node in outputs],
        n_edges,
    )
    order = np.array([code[node] for node in dag.nodes], dtype=np.intp)
    own = Units(slopes[order], units.degrees[order], units.maxima[order])
    keyed: tuple[Any, ...] = ()
    if graph.is_multigraph():
        every = [*graph.edges(keys=True), *names[len(edges) :]]
        keyed = tuple(every[i] for i in np.flatnonzero(kept))
    return dag, Tying(numbered[kept], constants[kept], called), own, keyed


def _parameters(
    names: list[Hashable], shared: list[Hashable], frozen: list[bool]
) -> tuple[IntArray, tuple[Hashable, ...]]:
    """Number the parameters in the order of their first use, and name them."""
    mixed = {own for own, still in zip(shared, frozen, strict=True) if own is not None and still}
    mixed &= {own for own, still in zip(shared, frozen, strict=True) if not still}
    _refuse_if(
        (name for name, own in zip(names, shared, strict=True) if own in mixed),
        "one shared weight is frozen at some of its edges and trained at others: {}",
    )
    known: dict[Hashable, int] = {}
    called: list[Hashable] = []
    numbered = np.full(len(names), -1)
    for edge, (name, own, still) in enumerate(zip(names, shared, frozen, strict=True)):
        if still:
            continue
        if own is not None and own in known:
            numbered[edge] = known[own]
            continue
        numbered[edge] = len(called)
        if own is not None:
            known[own] = len(called)
        called.append(name if own is None else own)
    if not called:
        raise ArchitectureError(
            f"every weight is frozen, so the network has no parameters: {_names(names)}", names
        )
    return numbered, tuple(called)


def _constants(names: list[Hashable], frozen: list[bool], weights: list[Any]) -> FloatArray:
    constants = np.zeros(len(names))
    wrong = []
    for edge in np.flatnonzero(frozen):
        if _is_real(weights[edge]):
            constants[edge] = weights[edge]
        else:
            wrong.append(names[edge])
    _refuse_if(
        wrong, "a frozen edge needs its weight, a finite number (weight=…, bias=…), at: {}"
    )
    return constants


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


def _read_units(graph: Any, labels: list[Hashable], ends: set[Hashable]) -> Units:
    kinds = [graph.nodes[node].get("activation") for node in labels]
    kinds = ["identity" if node in ends and kind in (None, "relu") else kind or "relu"
             for node, kind in zip(labels, kinds, strict=True)]
    _refuse_if(
        (node for node, kind in zip(labels, kinds, strict=True) if kind not in ACTIVATIONS),
        "the activation of a node is one of " + ", ".join(ACTIVATIONS) + "; another one at: {}",
    )
    _refuse_if(
        (n for n, kind in zip(labels, kinds, strict=True) if n in ends and kind != "identity"),
        "inputs and outputs are linear, got an activation at: {}; add a hidden node",
    )
    slopes, degrees = np.zeros(len(labels)), np.ones(len(labels), np.intp)
    for place, (node, kind) in enumerate(zip(labels, kinds, strict=True)):
        data = graph.nodes[node]
        if kind == "leaky_relu":
            slopes[place] = _number(node, data, "slope", 0.01, _is_real)
        else:
            slopes[place] = SLOPES[kind]
        if kind == "relu_power":
            degrees[place] = _number(node, data, "degree", 2, _is_degree)
    return Units(slopes, degrees, np.array([kind == "max" for kind in kinds], dtype=bool))


def _is_degree(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and value >= 1


def _number(
    node: Hashable, data: dict[str, Any], name: str, default: float, fits: Callable[[Any], bool]
) -> Any:
    value = data.get(name, default)
    if not fits(value):
        kind = "an integer from 1" if name == "degree" else "a finite number"
        raise ArchitectureError(f"the {name} of {node!r} must be {kind}, got {shown(value)}", [node])
    return value


def graph_of(dag: CompiledDAG, tying: Tying, units: Units) -> nx.DiGraph:
    """Return a graph with the attributes that make the compiled network.

    Parameters
    ----------
    dag : CompiledDAG
        No parallel edges.
    """
    kinds = {slope: name for name, slope in SLOPES.items() if name not in ("max", "relu_power")}
    graph = nx.DiGraph()
    for number, node in enumerate(dag.nodes):
        slope, degree = float(units.slopes[number]), int(units.degrees[number])
        data: dict[str, Any] = {"activation": kinds.get(slope, "leaky_relu")}
        if units.maxima[number]:
            data = {"activation": "max"}
        elif degree > 1:
            data = {"activation": "relu_power", "degree": degree}
        elif slope not in kinds:
            data["slope"] = slope
        graph.add_node(node, **data)
    used = np.bincount(tying.parameters[tying.trained], minlength=tying.dim)
    names = tying.names or range(tying.dim)
    for edge, (tail, head) in enumerate(dag.parameter_names):
        own, data = int(tying.parameters[edge]), {}
        if own < 0:
            data = {"frozen": True, "weight": float(tying.constants[edge])}
        elif used[own] > 1:
            data = {"parameter": names[own]}
        if edge < dag.n_edges:
            graph.add_edge(tail, head, **data)
        else:
            renamed = {"frozen": "bias_frozen", "weight": "bias", "parameter": "bias_parameter"}
            graph.nodes[head].update({renamed[name]: value for name, value in data.items()})
    return graph
