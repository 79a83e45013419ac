"""Attributes by which the weights of a graph are shared or frozen, and its nodes activated."""

import math
import numbers
from collections.abc import Hashable, Iterable
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

_OF_NODES, _PLAIN = ("activation", "bias_parameter", "bias_frozen"), (None, False, "relu")


def has_attributes(graph: Any) -> bool:
    """Tell whether a graph is more than a DAG of ReLUs with a weight to each edge.

    Parameters
    ----------
    graph : object
        Anything; what is no graph has none.
    """
    if not isinstance(graph, nx.Graph):
        return False
    edges = (data for _, _, data in graph.edges(data=True) if data)
    nodes = (data for _, data in graph.nodes(data=True) if data)
    return (
        graph.is_multigraph()
        or any(data.get("frozen") or data.get("parameter") is not None for data in edges)
        or any(data.get(name) not in _PLAIN for data in nodes for name in _OF_NODES)
    )


def compile_graph(
    graph: nx.DiGraph,
    inputs: Iterable[Hashable],
    outputs: Iterable[Hashable],
    biases: Iterable[Hashable],
) -> tuple[CompiledDAG, Tying, Units, IntArray]:
    """Compile a graph with its attributes.

    Returns
    -------
    dag, tying, units : CompiledDAG, Tying, Units
        Without the frozen edges of weight 0.
    kept : array
        Numbers of the other edges of the graph, in the order of ``graph.edges``, then of biases.
    """
    inputs, outputs, biases = read_roles(graph, inputs, outputs, biases)
    labels = list(graph)
    code = {node: i for i, node in enumerate(labels)}
    edges = _Edges(graph, biases)
    frozen = _frozen(edges)
    numbered, called = _parameters(edges, frozen)
    constants = _constants(edges, frozen)
    units = _read_units(graph, labels, {*inputs, *outputs})
    tails = np.fromiter((code[u] for u, _ in edges.ends), np.intp, len(edges.ends))
    heads = np.fromiter((code[v] for _, v in edges.ends), np.intp, len(edges.ends))
    tails = np.append(tails, np.full(len(biases), len(labels)))
    heads = np.append(heads, np.array([code[v] for v in biases], dtype=np.intp))
    trained = numbered >= 0
    edges.refuse(
        units.maxima[heads] & trained,
        "a max takes the largest of frozen edges (frozen=True, weight=…), got trainable ones: {}",
    )
    kept = np.flatnonzero(trained | (constants != 0))
    lost = np.setdiff1d(np.arange(heads.size), kept)
    slopes = units.slopes.copy()
    slopes[heads[lost][units.maxima[heads[lost]]]] = 0.0  # the largest of 0 and what flows in
    dag = CompiledDAG.from_edges(
        labels,
        tails[kept],
        heads[kept],
        [code[node] for node in inputs],
        [code[node] for node in outputs],
        int(np.sum(kept < len(edges.ends))),
    )
    own = Units(slopes, units.degrees, units.maxima).along(labels, dag.nodes)
    return dag, Tying(numbered[kept], constants[kept], called), own, kept


class _Edges:
    """Edges of a graph, then its biases as edges, with their attributes by the names of edges."""

    def __init__(self, graph: Any, biases: list[Hashable]) -> None:
        self.graph, self.biases = graph, biases
        self.ends, self.data = list(graph.edges()), [data for *_, data in graph.edges(data=True)]
        for node in biases:
            own = graph.nodes[node]
            names = {"parameter": "bias_parameter", "frozen": "bias_frozen", "weight": "bias"}
            self.data.append({name: own[there] for name, there in names.items() if there in own})
        self.size = len(self.data)

    def names(self, wrong: Any) -> list[Hashable]:
        """What the marked edges are called."""
        names: list[Hashable] = self.ends
        if self.graph.is_multigraph():
            names = list(self.graph.edges(keys=True))
        return [
            names[i] if i < len(names) else (BIAS, self.biases[i - len(names)])
            for i in np.flatnonzero(wrong)
        ]

    def refuse(self, wrong: Any, what: str) -> None:
        if np.any(wrong):
            _refuse_if(self.names(wrong), what)


def _frozen(edges: _Edges) -> Any:
    """Which edges are frozen: a word such as "false" is refused, not true because it is there."""
    values = [data.get("frozen") or False for data in edges.data]
    wrong = [not isinstance(value, bool | np.bool_) and value != 1 for value in values]
    edges.refuse(wrong, "frozen must be True or False, at: {}")
    return np.array([bool(value) for value in values], dtype=bool)


def _parameters(edges: _Edges, frozen: Any) -> tuple[IntArray, dict[int, Hashable]]:
    """Number the parameters in the order of their first use, and name those that are shared."""
    if np.all(frozen):
        raise ArchitectureError(
            f"every weight is frozen, so the network has no parameters: {_names(edges.ends)}",
            edges.ends,
        )
    shared = [data.get("parameter") for data in edges.data]
    wrong = [not isinstance(own, Hashable) for own in shared]
    edges.refuse(wrong, "parameter must be a name, such as a text or a number, at: {}")
    again = np.arange(edges.size)  # the first edge of the same weight
    known: dict[Hashable, int] = {}
    for edge, own in enumerate(shared):
        if own is not None:
            again[edge] = known.setdefault(own, edge)
    edges.refuse(
        np.isin(again, again[frozen != frozen[again]]),
        "one shared weight is frozen at some of its edges and trained at others: {}",
    )
    own = np.flatnonzero(~frozen)
    first, place = np.unique(again[own], return_inverse=True)
    numbered = np.full(edges.size, -1)
    numbered[own] = place
    called = {number: shared[edge] for number, edge in enumerate(first.tolist())}
    return numbered, {number: name for number, name in called.items() if name is not None}


def _constants(edges: _Edges, frozen: Any) -> FloatArray:
    constants, wrong = np.zeros(edges.size), np.zeros(edges.size, dtype=bool)
    for edge in np.flatnonzero(frozen):
        weight = edges.data[edge].get("weight")
        wrong[edge] = not _is_real(weight)
        constants[edge] = 0.0 if wrong[edge] else weight
    edges.refuse(
        wrong, "a frozen edge needs its weight, a finite number (weight=…, bias=…), at: {}"
    )
    return constants


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


def _read_units(graph: Any, labels: list[Hashable], ends: set[Hashable]) -> Units:
    kinds = [graph.nodes[node].get("activation") for node in labels]
    kinds = [
        "identity" if node in ends else kind or "relu"
        for node, kind in zip(labels, kinds, strict=True)
    ]
    unknown = [node for node, kind in zip(labels, kinds, strict=True) if kind not in ACTIVATIONS]
    others = {repr(graph.nodes[node]["activation"]) for node in unknown}
    _refuse_if(
        unknown,
        f"an activation is one of {', '.join(ACTIVATIONS)}, got {', '.join(sorted(others))} "
        "at: {}",
    )
    slopes, degrees = np.zeros(len(labels)), np.ones(len(labels), np.intp)
    for place, (node, kind) in enumerate(zip(labels, kinds, strict=True)):
        data = graph.nodes[node]
        if kind == "leaky_relu":
            slopes[place] = _number(node, data, "slope", numbers.Real)
        else:
            slopes[place] = SLOPES[kind]
        if kind == "relu_power":
            degrees[place] = _number(node, data, "degree", numbers.Integral)
    return Units(slopes, degrees, np.array([kind == "max" for kind in kinds], dtype=bool))


def _number(node: Hashable, data: dict[str, Any], name: str, kind: Any) -> Any:
    value, whole = data.get(name), kind is numbers.Integral
    if not isinstance(value, kind) or not _is_real(value) or (whole and not value >= 1):
        wanted = "an integer from 1" if whole else "a finite number"
        what = f"the {name} of {node!r} must be {wanted}, got {shown(value)}"
        raise ArchitectureError(what, [node])
    return value


def graph_of(dag: CompiledDAG, tying: Tying, units: Units) -> nx.DiGraph:
    """Return a graph with the attributes that make the compiled network."""
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
    for edge, (tail, head) in enumerate(dag.parameter_names):
        own, data = int(tying.parameters[edge]), {}
        if own < 0:
            data = {"frozen": True, "weight": float(tying.constants[edge])}
        elif used[own] > 1:
            data = {"parameter": tying.names.get(own, own)}
        if edge < dag.n_edges:
            graph.add_edge(tail, head, **data)
        else:
            renamed = {"frozen": "bias_frozen", "weight": "bias", "parameter": "bias_parameter"}
            graph.nodes[head].update({renamed[name]: value for name, value in data.items()})
    return graph
