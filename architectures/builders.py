"""Edges, with their parameters and constants, collected layer by layer."""

import math
from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from liftflow.architectures.dag import CompiledDAG
from liftflow.architectures.incidence import reached
from liftflow.architectures.tying import Blocks, Tying, Units
from liftflow.errors import ArchitectureError
from liftflow.typing import IntArray, refuse_beyond, shown

Parts: TypeAlias = tuple[CompiledDAG, Blocks, Tying, Units]
"""What a network is assembled from."""

NODE_BYTES, EDGE_BYTES = 800, 160  # of one of them, with what a network keeps of it


class Builder:
    """Nodes and edges of a network to be, and the blocks of its θ."""

    def __init__(self) -> None:
        self.labels: list[Hashable] = []
        self.slopes: list[float] = []
        self.maxima: list[bool] = []
        self.blocks: list[tuple[int, ...]] = []
        self.bias_blocks: list[tuple[int, ...]] = []
        self._edges: list[tuple[IntArray, ...]] = []
        self._biases: list[tuple[IntArray, IntArray]] = []
        self._reserved = [0, 0]

    def reserve(self, n_nodes: int = 0, n_edges: int = 0) -> None:
        """Refuse nodes and edges to come that do not fit into memory, with all before them."""
        nodes, edges = self._reserved[0] + n_nodes, self._reserved[1] + n_edges
        self._reserved = [nodes, edges]
        what = f"a network of {shown(nodes)} nodes and {shown(edges)} edges"
        refuse_beyond(nodes * NODE_BYTES + edges * EDGE_BYTES, what, 1)

    def nodes(self, prefix: tuple[Hashable, ...], shape: tuple[int, ...], kind: str) -> IntArray:
        """Add an array of nodes, called by the prefix and their place in it.

        Parameters
        ----------
        kind : {"linear", "relu", "max"}
            Their function.
        """
        self.reserve(n_nodes=math.prod(shape))
        first = len(self.labels)
        self.labels += [(*prefix, *place) for place in np.ndindex(*shape)]
        count = len(self.labels) - first
        self.slopes += [0.0 if kind == "relu" else 1.0] * count
        self.maxima += [kind == "max"] * count
        return first + np.arange(count).reshape(shape)

    def parameters(self, shape: tuple[int, ...]) -> IntArray:
        """Add a block of parameters."""
        first = sum(int(np.prod(block)) for block in self.blocks)
        self.blocks.append(shape)
        return first + np.arange(int(np.prod(shape))).reshape(shape)

    def connect(self, tails: IntArray, heads: IntArray, parameters: IntArray) -> None:
        """Add edges of trained weights; the arrays broadcast."""
        self._edges.append(self._flat(tails, heads, parameters, 0.0))

    def freeze(self, tails: IntArray, heads: IntArray, weight: float) -> None:
        """Add edges of one constant weight; the arrays broadcast."""
        self._edges.append(self._flat(tails, heads, np.array(-1), weight))

    def layer(self, tails: IntArray, heads: IntArray) -> None:
        """Join all tails to all heads by a block of parameters."""
        self.reserve(n_edges=tails.size * heads.size)
        self.connect(tails[:, None], heads, self.parameters((tails.size, heads.size)))

    def bias(self, heads: IntArray) -> None:
        """Give nodes a bias each; along further axes it is shared."""
        number = np.arange(len(heads)) + sum(block[0] for block in self.bias_blocks)
        self.bias_blocks.append((len(heads),))
        shaped = number.reshape(-1, *[1] * (heads.ndim - 1))
        self._biases.append((heads.ravel(), np.broadcast_to(shaped, heads.shape).ravel()))

    @staticmethod
    def _flat(*arrays: IntArray | float) -> tuple[IntArray, ...]:
        return tuple(np.ravel(each) for each in np.broadcast_arrays(*arrays))

    def parts(self, inputs: IntArray, outputs: IntArray) -> Parts:
        """Compile all that leads to an output."""
        tails, heads, own, weights = map(np.concatenate, zip(*self._edges, strict=True))
        n_weights = sum(int(np.prod(block)) for block in self.blocks)
        source, n_edges = len(self.labels), tails.size
        for bias_heads, numbers in self._biases:
            tails = np.append(tails, np.full(bias_heads.size, source))
            heads, own = np.append(heads, bias_heads), np.append(own, n_weights + numbers)
            weights = np.append(weights, np.zeros(bias_heads.size))
        used = reached(heads, tails, outputs.ravel(), source + 1)
        seen = np.unique(own[used[heads]])
        used[inputs.ravel()] = used[source] = True
        blocks = self.blocks + self.bias_blocks
        total = sum(int(np.prod(block)) for block in blocks)
        if np.sum(seen >= 0) < total:
            raise ArchitectureError(
                f"{total - np.sum(seen >= 0)} of {total} parameters reach no output: some taps of "
                "a filter read padding alone; take a smaller kernel or less padding"
            )
        ends = inputs.ravel(), outputs.ravel()
        dag, kept = CompiledDAG.from_part(self.labels, tails, heads, *ends, n_edges, used)
        tying = Tying(own[kept].astype(np.intp), weights[kept].astype(float))
        units = Units(np.array(self.slopes), np.ones(source, np.intp), np.array(self.maxima))
        return dag, blocks, tying, units.along(self.labels, dag.nodes)


def residual_parts(widths: Sequence[int], skips: Sequence[tuple[int, int]], bias: bool) -> Parts:
    """Build layers with skips that are the identity."""
    for tail, head in skips:
        if widths[tail] != widths[head]:
            raise ArchitectureError(
                f"an identity skips between layers of one width, got ({tail}, {head}) of widths "
                f"{widths[tail]} and {widths[head]}; leave identity=False for trained skips"
            )
    built = Builder()
    last = len(widths) - 1
    layers = [
        built.nodes((number,), (width,), "relu" if 0 < number < last else "linear")
        for number, width in enumerate(widths)
    ]
    for tails, heads in pairwise(layers):
        built.layer(tails, heads)
    for tail, head in skips:
        built.freeze(layers[tail], layers[head], 1.0)
    if bias:
        for layer in layers[1:]:
            built.bias(layer)
    return built.parts(layers[0], layers[-1])


def recurrent_parts(
    n_inputs: int, n_hidden: int, n_outputs: int, n_steps: int, bias: bool
) -> Parts:
    """Build a recurrent layer, unrolled over its steps, and a layer that reads the last of them."""
    built = Builder()
    built.reserve(n_edges=n_hidden * ((n_inputs + n_hidden + bias) * n_steps + n_outputs))
    inputs = built.nodes(("x",), (n_steps, n_inputs), "linear")
    hidden = built.nodes(("h",), (n_steps, n_hidden), "relu")
    outputs = built.nodes(("y",), (n_outputs,), "linear")
    into = built.parameters((n_inputs, n_hidden))
    along = built.parameters((n_hidden, n_hidden))
    for step in range(n_steps):
        built.connect(inputs[step][:, None], hidden[step], into)
    for before, after in pairwise(hidden):
        built.connect(before[:, None], after, along)
    built.layer(hidden[-1], outputs)
    if bias:
        built.bias(hidden.T)
        built.bias(outputs)
    return built.parts(inputs, outputs)
