"""A network's graph, validated once and compiled to arrays."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, Self

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from liftflow.architectures.channels import ChannelGraph
from liftflow.architectures.incidence import Grid, reached
from liftflow.errors import ArchitectureError, listed
from liftflow.typing import FloatArray, IntArray, OneTangent, as_ordered, freeze

BIAS = "⟨1⟩"
"""Name of the constant source: a bias is the weight of an edge from it."""

_LINEAR = None, "identity"  # activations of inputs and outputs
_DENSE_FILL = 1 / 8  # from here on, BLAS on a zero-padded block beats a sparse product


@dataclass(frozen=True, eq=False)
class Block:
    """All edges from one generation of nodes to another: one matrix of the network.

    Attributes
    ----------
    tail_generation, head_generation : int
        The tail generation of biases is −1.
    rows, columns : array, shape=[n_edges]
        Positions of the tails and heads within their generations.
    edges : array, shape=[n_edges]
        Parameter number of each edge.
    shape : tuple of int
        Sizes of the two generations.
    """

    tail_generation: int
    head_generation: int
    rows: IntArray
    columns: IntArray
    edges: IntArray
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        """Freeze the arrays, which many share."""
        freeze((self.rows, self.columns, self.edges))

    @cached_property
    def contiguous(self) -> bool:
        """Whether the block is a slice of θ, reshaped."""
        size = self.edges.size
        if size != self.shape[0] * self.shape[1] or self.edges[-1] - self.edges[0] != size - 1:
            return False
        places = np.arange(size)
        in_order = self.edges - self.edges[0] == places
        return bool((in_order & (self.rows * self.shape[1] + self.columns == places)).all())

    @cached_property
    def dense(self) -> bool:
        """Whether the block is multiplied as a dense matrix."""
        return self.edges.size >= _DENSE_FILL * self.shape[0] * self.shape[1]

    def matrix(self, values: OneTangent) -> Any:
        """Return the matrix of the block for one value per parameter."""
        if self.contiguous:
            return values[self.edges[0] : self.edges[-1] + 1].reshape(self.shape)
        if not self.dense:
            return csr_array((values[self.edges], (self.rows, self.columns)), shape=self.shape)
        matrix = np.zeros(self.shape)
        matrix[self.rows, self.columns] = values[self.edges]
        return matrix

    def outer_sum(self, left: FloatArray, right: FloatArray, out: OneTangent) -> None:
        """Write Σ_s left[s, tail] right[s, head] into ``out`` at each edge of the block."""
        if self.contiguous:
            target = out[self.edges[0] : self.edges[-1] + 1].reshape(self.shape)
            np.matmul(left.T, right, out=target)
        elif self.dense:
            out[self.edges] = (left.T @ right)[self.rows, self.columns]
        else:
            size = max(1, 2**22 // max(len(left), 1))
            for start in range(0, self.edges.size, size):
                part = slice(start, start + size)
                out[self.edges[part]] = np.einsum(
                    "se,se->e", left[:, self.rows[part]], right[:, self.columns[part]]
                )


@dataclass(frozen=True, eq=False)
class CompiledDAG:
    """Arrays for a directed acyclic graph whose nodes are numbered along its generations.

    Nodes 0 … n_inputs − 1 are the inputs, in the order given; node ``n_nodes`` is the constant
    source ⟨1⟩. Hidden nodes have numbers of their own, 0 … |H| − 1, also along the generations.

    Attributes
    ----------
    nodes : tuple
        Labels by number.
    generation : array, shape=[n_nodes + 1]
        Topological generation of each node; −1 for ⟨1⟩.
    tails, heads : array, shape=[dim]
        Node numbers of the ends of each parameter's edge.
    outputs : array, shape=[n_outputs]
        Node numbers of the outputs, in the order given.
    n_edges : int
        Parameters 0 … n_edges − 1 are edges of the graph, the others biases.
    """

    nodes: tuple[Hashable, ...]
    generation: IntArray
    tails: IntArray
    heads: IntArray
    n_inputs: int
    outputs: IntArray
    n_edges: int
    hidden_number: IntArray = field(init=False)
    """Number of each node among the hidden ones, −1 for others, shape=[n_nodes + 1]."""

    def __post_init__(self) -> None:
        """Number the hidden nodes."""
        hidden = np.ones(len(self.nodes) + 1, dtype=bool)
        hidden[: self.n_inputs] = False
        hidden[self.outputs] = False
        hidden[-1] = False
        number = np.full(hidden.size, -1)
        number[hidden] = np.arange(hidden.sum())
        object.__setattr__(self, "hidden_number", number)
        freeze((self.generation, self.tails, self.heads, self.outputs, number))

    @classmethod
    def layered(
        cls, widths: Sequence[int], skips: Sequence[tuple[int, int]], bias: bool | Sequence[bool]
    ) -> Self:
        """Compile complete layers, nodes ``(layer, index)``, without a graph in between.

        Parameters
        ----------
        skips : sequence of pairs of int
            Layers joined completely besides the successive ones, the lower one first.
        bias : bool or sequence of bool
            Whether every node but the inputs has a bias, or those of each layer after them.
        """
        starts = np.concatenate([[0], np.cumsum(widths)])
        generation = np.append(np.repeat(np.arange(len(widths)), widths), -1)
        pairs = [*pairwise(range(len(widths))), *skips]
        tails, heads = [], []
        for tail, head in pairs:
            below, above = (np.arange(starts[each], starts[each + 1]) for each in (tail, head))
            tails.append(below.repeat(above.size))
            heads.append(above[None].repeat(below.size, axis=0).ravel())
        n_edges = sum(map(len, tails))
        n_nodes = int(starts[-1])
        biased = bias if isinstance(bias, Sequence) else [bias] * (len(widths) - 1)
        for start, stop, own in zip(starts[1:-1], starts[2:], biased, strict=True):
            if own:
                heads.append(np.arange(start, stop))
                tails.append(np.full(stop - start, n_nodes))
        return cls(
            nodes=tuple((layer, i) for layer, width in enumerate(widths) for i in range(width)),
            generation=generation,
            tails=np.concatenate(tails),
            heads=np.concatenate(heads),
            n_inputs=widths[0],
            outputs=np.arange(starts[-2], n_nodes),
            n_edges=n_edges,
        )

    @classmethod
    def from_graph(
        cls,
        graph: nx.DiGraph,
        inputs: Iterable[Hashable],
        outputs: Iterable[Hashable],
        biases: Iterable[Hashable],
    ) -> Self:
        """Compile a graph."""
        inputs, outputs, biases = read_roles(graph, inputs, outputs, biases)
        code = {node: i for i, node in enumerate(graph)}
        followers = chain.from_iterable(heads for _, heads in graph.adjacency())
        heads = np.fromiter(map(code.__getitem__, chain(followers, biases)), np.intp)
        degrees = [*(degree for _, degree in graph.out_degree()), len(biases)]
        tails = np.repeat(np.arange(len(code) + 1), degrees)
        return cls.from_edges(
            list(graph),
            tails,
            heads,
            [code[node] for node in inputs],
            [code[node] for node in outputs],
            tails.size - len(biases),
        )

    @classmethod
    def from_edges(
        cls,
        labels: Sequence[Hashable],
        tails: IntArray,
        heads: IntArray,
        inputs: Sequence[int],
        outputs: Sequence[int],
        n_edges: int,
    ) -> Self:
        """Compile edges between numbered nodes, parallel ones too.

        Parameters
        ----------
        labels : sequence of nodes
            What the nodes 0, 1, … are called; the number after the last one is that of ⟨1⟩.
        tails, heads : array, shape=[dim]
            Node numbers of the ends of each edge, biases last.
        n_edges : int
            Number of edges that are no biases.
        """
        level = _generations(labels, tails, heads)
        _check_reach(labels, tails, heads, inputs, outputs)
        later = np.argsort(level[:-1], kind="stable")  # a generation in the order of the labels
        entering = np.zeros(level.size, dtype=bool)
        entering[inputs] = True
        later = later[~entering[later]]
        order = np.concatenate([inputs, later, [len(labels)]]).astype(np.intp)
        number = np.empty_like(order)
        number[order] = np.arange(order.size)
        return cls(
            nodes=tuple(labels[i] for i in order[:-1]),
            generation=np.append(level[order[:-1]], -1),
            tails=number[tails],
            heads=number[heads],
            n_inputs=len(inputs),
            outputs=number[outputs],
            n_edges=n_edges,
        )

    @classmethod
    def from_part(
        cls,
        labels: Sequence[Hashable],
        tails: IntArray,
        heads: IntArray,
        inputs: IntArray,
        outputs: IntArray,
        n_edges: int,
        used: NDArray[np.bool_],
    ) -> tuple[Self, IntArray]:
        """Compile the edges between some nodes, ⟨1⟩ among them; and return their numbers."""
        edges, number = np.flatnonzero(used[tails] & used[heads]), np.cumsum(used) - 1
        dag = cls.from_edges(
            [labels[i] for i in np.flatnonzero(used[:-1])],
            number[tails[edges]],
            number[heads[edges]],
            number[inputs].tolist(),
            number[outputs].tolist(),
            int(np.sum(edges < n_edges)),
        )
        return dag, edges

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return self.tails.size

    @property
    def n_hidden(self) -> int:
        """Number of hidden nodes."""
        return int(self.hidden_number.max(initial=-1)) + 1

    @cached_property
    def hidden_nodes(self) -> IntArray:
        """Node number of each hidden node."""
        return freeze(np.flatnonzero(self.hidden_number >= 0))

    @cached_property
    def tail_hidden(self) -> IntArray:
        """Hidden number of each edge's tail, −1 where it is not hidden."""
        return freeze(self.hidden_number[self.tails])

    @cached_property
    def head_hidden(self) -> IntArray:
        """Hidden number of each edge's head, −1 where it is not hidden."""
        return freeze(self.hidden_number[self.heads])

    @cached_property
    def parameter_names(self) -> tuple[tuple[Hashable, Hashable], ...]:
        """The edge (u, v) behind each parameter; (⟨1⟩, v) for a bias."""
        return tuple(_ParameterNames(self))

    @cached_property
    def members(self) -> tuple[IntArray, ...]:
        """Node numbers in each generation."""
        ends = np.bincount(self.generation[:-1]).cumsum().tolist()
        return freeze(tuple([np.arange(start, end) for start, end in pairwise([0, *ends])]))

    @cached_property
    def position(self) -> IntArray:
        """Position of each node within its generation; 0 for ⟨1⟩."""
        position = np.zeros(len(self.nodes) + 1, dtype=np.intp)
        for nodes in self.members:
            position[nodes] = np.arange(nodes.size)
        return freeze(position)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Edges grouped by the generations of tail and head, sorted by head, then tail."""
        tail_level, head_level = self.generation[self.tails], self.generation[self.heads]
        order = np.lexsort(
            (self.position[self.heads], self.position[self.tails], tail_level, head_level)
        )
        heads, tails = head_level[order], tail_level[order]
        cuts = ((heads[1:] != heads[:-1]) | (tails[1:] != tails[:-1])).nonzero()[0] + 1
        blocks = []
        for start, end in pairwise([0, *cuts.tolist(), order.size]):
            edges = order[start:end]
            tail, head = int(tail_level[edges[0]]), int(head_level[edges[0]])
            size = 1 if tail < 0 else self.members[tail].size
            blocks.append(
                Block(
                    tail_generation=tail,
                    head_generation=head,
                    rows=self.position[self.tails[edges]],
                    columns=self.position[self.heads[edges]],
                    edges=edges,
                    shape=(size, self.members[head].size),
                )
            )
        return tuple(blocks)

    @cached_property
    def grids(self) -> tuple[Grid, ...]:
        """Blocks of θ that are complete matrices between layers: what BLAS and broadcasts serve."""
        grids = []
        for block in self.blocks:
            if block.contiguous:
                width = block.shape[1]
                tails = self._hidden_range(self.tails[block.edges[::width]])
                heads = self._hidden_range(self.heads[block.edges[:width]])
                if tails is not False and heads is not False:
                    part = slice(int(block.edges[0]), int(block.edges[-1]) + 1)
                    grids.append(Grid(part, block.shape, tails, heads))
        return tuple(grids)

    def _hidden_range(self, nodes: IntArray) -> Any:
        """Hidden numbers of nodes in a row: a slice, None if none is hidden, False if only some."""
        first, last = self.hidden_number[nodes[[0, -1]]]
        if first < 0 or last < 0:
            return None if np.all(self.hidden_number[nodes] < 0) else False
        return slice(int(first), int(last) + 1) if last - first == np.ptp(nodes) else False

    @cached_property
    def channels(self) -> ChannelGraph:
        """The channel graph: every hidden node is a channel of its own."""
        return ChannelGraph(
            self.tail_hidden,
            self.head_hidden,
            self.n_hidden,
            members=[self.nodes[node] for node in self.hidden_nodes],
            names=_ParameterNames(self),
            grids=self.grids,
            stages=self.hidden_generations,
        )

    @cached_property
    def hidden_generations(self) -> tuple[IntArray, ...]:
        """Hidden numbers of the hidden nodes in each generation that has some."""
        levels = (self.hidden_number[nodes] for nodes in self.members)
        levels = (numbers[numbers >= 0] for numbers in levels)
        return freeze(tuple(numbers for numbers in levels if numbers.size))

    @cached_property
    def edges_by_head_generation(self) -> list[IntArray]:
        """Numbers of the edges, grouped by the generation of their head."""
        levels = self.generation[self.heads]
        order = np.argsort(levels, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(levels[order])) + 1)

    @cached_property
    def suffix_counts(self) -> list[int]:
        """Number of paths from each node to an output, exactly, by dynamic programming."""
        counts = np.zeros(len(self.nodes) + 1, dtype=object)
        counts[self.outputs] = 1
        for block in reversed(self.blocks):
            tails, heads = self.tails[block.edges], self.heads[block.edges]
            if block.contiguous:  # complete: all tails see the same sum
                counts[tails[:: block.shape[1]]] += sum(counts[heads[: block.shape[1]]])
            else:
                np.add.at(counts, tails, counts[heads])
        return counts.tolist()

    @cached_property
    def n_paths(self) -> int:
        """Number of paths from an input or ⟨1⟩ to an output."""
        return sum(self.suffix_counts[: self.n_inputs]) + self.suffix_counts[-1]


class _ParameterNames(Sequence[tuple[Hashable, Hashable]]):
    """The edge behind each parameter, named when it is asked for."""

    def __init__(self, dag: CompiledDAG) -> None:
        self._ends, self._labels = (dag.tails, dag.heads), (*dag.nodes, BIAS)

    def __len__(self) -> int:
        return self._ends[0].size

    def __iter__(self) -> Iterator[tuple[Hashable, Hashable]]:
        pairs = zip(*(ends.tolist() for ends in self._ends), strict=True)
        return ((self._labels[tail], self._labels[head]) for tail, head in pairs)

    def __getitem__(self, number: Any) -> Any:
        tail, head = (ends[number] for ends in self._ends)
        return self._labels[tail], self._labels[head]


def _names(nodes: Iterable[Hashable]) -> str:
    return listed(map(repr, nodes))


def _refuse_if(nodes: Iterable[Hashable], what: str) -> None:
    nodes = list(nodes)
    if nodes:
        # What was got may have braces of its own.
        raise ArchitectureError(_names(nodes).join(what.rsplit("{}", 1)), nodes)


def read_roles(
    graph: Any, inputs: Iterable[Hashable], outputs: Iterable[Hashable], biases: Iterable[Hashable]
) -> tuple[list[Hashable], list[Hashable], list[Hashable]]:
    """List inputs, outputs and biases, distinct nodes of a directed graph.

    Parameters
    ----------
    graph : object
        Refused if it is none.
    """
    inputs, outputs = as_ordered(inputs, "inputs"), as_ordered(outputs, "outputs")
    biases = as_ordered(biases, "biases")
    if not isinstance(graph, nx.Graph):
        raise ArchitectureError(f"graph must be a networkx.DiGraph, got {type(graph).__name__}")
    if not graph.is_directed():
        raise ArchitectureError(
            "graph must be directed, got an undirected one; use networkx.DiGraph"
        )
    if nx.is_empty(graph):
        raise ArchitectureError("graph has no edges, so the network would have no parameters")
    if not inputs or not outputs:
        raise ArchitectureError("a network needs at least one input and one output node")
    for role, nodes in (("input", inputs), ("output", outputs), ("bias", biases)):
        _refuse_if((n for n in nodes if n not in graph), f"{role} nodes not in the graph: {{}}")
        repeated = {n for n in nodes if nodes.count(n) > 1} if len(set(nodes)) < len(nodes) else ()
        _refuse_if(repeated, f"{role} nodes given more than once: {{}}")
    known = set(inputs)
    _refuse_if((n for n in outputs if n in known), "nodes that are both input and output: {}")
    _refuse_if((n for n in biases if n in known), "an input has no bias, got one at: {}")
    _refuse_if(
        (n for n in (*inputs, *outputs) if graph.nodes[n].get("activation") not in _LINEAR),
        "inputs and outputs are linear, got an activation at: {}; add a hidden node",
    )
    _refuse_if(nx.nodes_with_selfloops(graph), "self-loops at: {}")
    return inputs, outputs, biases


def _generations(labels: Sequence[Hashable], tails: IntArray, heads: IntArray) -> IntArray:
    """Topological generation of each node, then of ⟨1⟩; refuse cycles."""
    level = np.full(len(labels) + 1, -1)
    waiting = np.bincount(heads, minlength=level.size)  # for so many tails
    n_out = np.bincount(tails, minlength=level.size)
    past = np.cumsum(n_out)  # the last edge out of each node
    sorted_heads = heads
    if np.any(np.diff(tails) < 0):
        sorted_heads = heads[np.argsort(tails, kind="stable")]
    nodes, generation = np.flatnonzero(waiting == 0), 0
    while nodes.size:
        level[nodes] = generation
        counts = n_out[nodes]
        edges = np.repeat(past[nodes] - np.cumsum(counts), counts) + np.arange(counts.sum())
        fed = sorted_heads[edges]
        np.subtract.at(waiting, fed, 1)
        nodes, generation = np.unique(fed[waiting[fed] == 0]), generation + 1
    if np.any(level < 0):
        left = level[heads] < 0
        cyclic = nx.DiGraph(np.stack([tails[left], heads[left]], axis=1).tolist())
        cycle = [labels[u] for u, _ in nx.find_cycle(cyclic)]
        raise ArchitectureError(
            f"the graph has a cycle through {_names(cycle)}; a network is acyclic", cycle
        )
    return level


def _check_reach(
    labels: Sequence[Hashable],
    tails: IntArray,
    heads: IntArray,
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> None:
    """Refuse inputs that compute, outputs that feed others, and nodes on no path."""
    source = len(labels)
    fed, feeding = np.zeros((2, source + 1), dtype=bool)
    fed[heads], feeding[tails] = True, True
    _refuse_if((labels[i] for i in inputs if fed[i]), "inputs with incoming edges: {}")
    _refuse_if(
        (labels[i] for i in outputs if feeding[i]),
        "outputs with outgoing edges: {}; an output is linear and ends its paths: add a hidden "
        "node that feeds it",
    )
    reaches = reached(tails, heads, np.array([*inputs, source]), fed.size)
    reaching = reached(heads, tails, np.array(outputs), fed.size)
    unreached = (labels[i] for i in outputs if not reaches[i])
    _refuse_if(unreached, "outputs no input or bias leads to: {}")
    lost = ~(reaches & reaching)
    lost[[*inputs, *outputs, source]] = False
    _refuse_if(
        (labels[i] for i in np.flatnonzero(lost)),
        "hidden nodes with no path from an input or bias to an output: {}; remove them",
    )
