"""The function of a network with shared and frozen weights, and its derivatives.

Values are held node by node, one row of samples each, so that a layer is one product of its
weights with the rows it reads. Where a filter slides over positions, the rows of all its taps are
gathered first: one matrix product per layer, whatever the number of positions.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from liftflow.architectures.dag import CompiledDAG
from liftflow.architectures.tying import Tying, Units
from liftflow.typing import FloatArray, IntArray, freeze

_DENSE_FILL = 1 / 8  # from here on, BLAS on a zero-padded block beats a sparse product
_LEAST = 32  # products at one sample that are worth a step of their own
_CHUNK = 2**19  # numbers at work at once, which should stay in the cache


def _rows(numbers: IntArray) -> slice | IntArray:
    """A slice where numbers follow each other, which is read without a copy."""
    flat = numbers.ravel()
    first = int(flat[0])
    in_a_row = np.array_equal(flat, first + np.arange(flat.size))
    return slice(first, first + flat.size) if in_a_row else flat


class _Step:
    """Part of what flows into the nodes of one generation.

    Values and deltas are by node, ⟨1⟩ and a node that is always 0 after all others; θ and its
    gradient have one more entry, for what is no weight.
    """

    size: int = 0
    """Numbers that it gathers for one sample."""

    def add(self, theta: FloatArray, values: FloatArray) -> None:
        raise NotImplementedError

    def pull(self, theta: FloatArray, values: FloatArray, deltas: FloatArray) -> None:
        """Pull back to the nodes it reads, if it reads some."""

    def collect(self, values: FloatArray, deltas: FloatArray, gradient: FloatArray) -> None:
        """Pull back to its weights, if they are trained."""


@dataclass(frozen=True, eq=False)
class _Filters(_Step):
    """Weights W[o, k] from tap k at every position to output o there; a layer has one position."""

    parameters: IntArray  # [n_outputs, n_taps]
    taps: IntArray  # nodes, [n_taps, n_positions]
    heads: IntArray  # nodes, [n_outputs, n_positions]

    @cached_property
    def size(self) -> int:  # type: ignore[override]
        return 0 if isinstance(self._reads, slice) else self.taps.size

    @cached_property
    def _reads(self) -> slice | IntArray:
        return _rows(self.taps)

    @cached_property
    def _writes(self) -> slice | IntArray:
        return _rows(self.heads)

    @cached_property
    def _turned(self) -> slice | IntArray:
        return _rows(self.parameters.T)

    @cached_property
    def _own(self) -> slice | IntArray:
        return _rows(self.parameters)

    @cached_property
    def _scatter(self) -> tuple[slice | IntArray, csr_array]:
        return _adding_up(self.taps)

    def _weights(self, theta: FloatArray) -> FloatArray:
        if isinstance(self._turned, slice):
            return theta[self._turned].reshape(self.parameters.T.shape).T
        return theta[self._own].reshape(self.parameters.shape)

    def _gathered(self, values: FloatArray) -> FloatArray:
        return values[self._reads].reshape(len(self.taps), -1)

    def add(self, theta: FloatArray, values: FloatArray) -> None:
        product = self._weights(theta) @ self._gathered(values)
        values[self._writes] += product.reshape(-1, values.shape[1])

    def collect(self, values: FloatArray, deltas: FloatArray, gradient: FloatArray) -> None:
        delta, read = deltas[self._writes].reshape(len(self.heads), -1), self._gathered(values)
        if isinstance(self._turned, slice):
            gradient[self._turned] += (read @ delta.T).ravel()
        else:
            gradient[self._own] += (delta @ read.T).ravel()

    def pull(self, theta: FloatArray, values: FloatArray, deltas: FloatArray) -> None:
        delta = deltas[self._writes].reshape(len(self.heads), -1)
        back = (self._weights(theta).T @ delta).reshape(-1, values.shape[1])
        if self.taps.shape[1] == 1:  # all distinct
            deltas[self._reads] += back
        else:
            nodes, sums = self._scatter
            deltas[nodes] += sums @ back


def _adding_up(taps: IntArray) -> tuple[slice | IntArray, csr_array]:
    """The nodes that taps read, and what adds up all taps of each."""
    nodes, place = np.unique(taps.ravel(), return_inverse=True)
    entries = np.ones(place.size), (place.ravel(), np.arange(place.size))
    return _rows(nodes), freeze(csr_array(entries, shape=(nodes.size, place.size)))


@dataclass(frozen=True, eq=False)
class _Edges(_Step):
    """Edges in no order, one sparse matrix of them."""

    parameters: IntArray
    tails: IntArray
    heads: IntArray

    @cached_property
    def _places(self) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        tails, columns = np.unique(self.tails, return_inverse=True)
        heads, rows = np.unique(self.heads, return_inverse=True)
        return tails, heads, rows, columns

    def _matrix(self, theta: FloatArray) -> csr_array:
        tails, heads, rows, columns = self._places
        shape = heads.size, tails.size
        return csr_array((theta[self.parameters], (rows, columns)), shape=shape)

    def add(self, theta: FloatArray, values: FloatArray) -> None:
        tails, heads = self._places[:2]
        values[heads] += self._matrix(theta) @ values[tails]

    def collect(self, values: FloatArray, deltas: FloatArray, gradient: FloatArray) -> None:
        step = max(1, 2**22 // values.shape[1])
        for start in range(0, self.tails.size, step):
            part = slice(start, start + step)
            own = np.einsum("es,es->e", values[self.tails[part]], deltas[self.heads[part]])
            gradient += np.bincount(self.parameters[part], own, gradient.size)

    def pull(self, theta: FloatArray, values: FloatArray, deltas: FloatArray) -> None:
        tails, heads = self._places[:2]
        deltas[tails] += self._matrix(theta).T @ deltas[heads]


class _Frozen(_Edges):
    """Edges whose weights are constants."""

    def __init__(self, weights: FloatArray, tails: IntArray, heads: IntArray) -> None:
        super().__init__(np.arange(weights.size), tails, heads)
        object.__setattr__(self, "_constant", super()._matrix(weights))

    _constant: csr_array

    def _matrix(self, theta: FloatArray) -> csr_array:
        return self._constant

    collect = _Step.collect


@dataclass(frozen=True, eq=False)
class _Biases(_Step):
    """Trainable edges from ⟨1⟩."""

    parameters: IntArray
    heads: IntArray

    def add(self, theta: FloatArray, values: FloatArray) -> None:
        values[_rows(self.heads)] += theta[self.parameters, None]

    def collect(self, values: FloatArray, deltas: FloatArray, gradient: FloatArray) -> None:
        sums = deltas[_rows(self.heads)].sum(axis=1)
        gradient += np.bincount(self.parameters, sums, gradient.size)


@dataclass(frozen=True, eq=False)
class _Maxima(_Step):
    """Nodes that take the largest of what flows in over frozen edges."""

    taps: IntArray  # nodes, [n_taps, n_heads]; where one has fewer, some of them again
    weights: FloatArray  # [n_taps, n_heads]
    heads: IntArray

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.taps.size

    @cached_property
    def _scatter(self) -> tuple[slice | IntArray, csr_array]:
        return _adding_up(self.taps)

    def _flows(self, values: FloatArray) -> FloatArray:
        flows = values[self.taps]
        return flows if np.all(self.weights == 1.0) else flows * self.weights[:, :, None]

    def add(self, theta: FloatArray, values: FloatArray) -> None:
        values[_rows(self.heads)] = self._flows(values).max(axis=0)

    def pull(self, theta: FloatArray, values: FloatArray, deltas: FloatArray) -> None:
        largest = self._flows(values).argmax(axis=0)
        back = (largest == np.arange(len(self.taps))[:, None, None]) * self.weights[:, :, None]
        back *= deltas[_rows(self.heads)]
        nodes, sums = self._scatter
        deltas[nodes] += sums @ back.reshape(-1, values.shape[1])


class Sweep:
    """The steps by which a network with shared and frozen weights is evaluated."""

    def __init__(self, dag: CompiledDAG, tying: Tying, units: Units) -> None:
        self.dag, self.units, self.dim = dag, units, tying.dim
        self.n_rows = len(dag.nodes) + 2
        level = dag.generation[dag.heads]
        order = np.argsort(level, kind="stable")
        bounds = np.searchsorted(level[order], np.arange(1, len(dag.members) + 1))
        self.steps = [self._steps(edges, tying) for edges in np.split(order, bounds)[1:-1]]
        largest = max((step.size for steps in self.steps for step in steps), default=0)
        self.chunk = max(16, _CHUNK // max(largest, self.n_rows // 4))
        """Number of samples to evaluate at once."""

    def _steps(self, edges: IntArray, tying: Tying) -> list[_Step]:
        dag, steps = self.dag, list[_Step]()
        to_max = self.units.maxima[dag.heads[edges]]
        if np.any(to_max):
            steps.append(self._maxima(edges[to_max], tying))
            edges = edges[~to_max]
        parameters = tying.parameters[edges]
        frozen = edges[parameters < 0]
        if frozen.size:
            steps.append(_Frozen(tying.constants[frozen], dag.tails[frozen], dag.heads[frozen]))
        constant = dag.tails[edges] == len(dag.nodes)
        biases = edges[(parameters >= 0) & constant]
        if biases.size:
            steps.append(_Biases(tying.parameters[biases], dag.heads[biases]))
        edges = edges[(parameters >= 0) & ~constant]
        if not edges.size:
            return steps
        own, tails, heads = tying.parameters[edges], dag.tails[edges], dag.heads[edges]
        if np.unique(own).size < own.size:
            return [*steps, *self._sliding(own, tails, heads)]
        nodes, columns = np.unique(tails, return_inverse=True)
        targets, rows = np.unique(heads, return_inverse=True)
        if own.size < _DENSE_FILL * nodes.size * targets.size or _doubled(tails, heads):
            return [*steps, _Edges(own, tails, heads)]
        matrix = np.full((targets.size, nodes.size), self.dim)
        matrix[rows, columns] = own
        return [*steps, _Filters(matrix, nodes[:, None], targets[:, None])]

    def _maxima(self, edges: IntArray, tying: Tying) -> _Maxima:
        edges = edges[np.argsort(self.dag.heads[edges], kind="stable")]
        heads, starts, counts = np.unique(
            self.dag.heads[edges], return_index=True, return_counts=True
        )
        place = starts + np.arange(counts.max())[:, None] % counts
        chosen = edges[place]
        return _Maxima(self.dag.tails[chosen], tying.constants[chosen], heads)

    def _sliding(self, own: IntArray, tails: IntArray, heads: IntArray) -> list[_Step]:
        """Filters at many positions, as far as edges that share parameters are such filters."""
        parameters, rows = np.unique(own, return_inverse=True)
        nodes, columns = np.unique(heads, return_inverse=True)
        shape = (parameters.size + nodes.size,) * 2
        joined = coo_array((np.ones(own.size), (rows, parameters.size + columns)), shape=shape)
        label = connected_components(joined, directed=False)[1][rows]
        order = np.lexsort((heads, own, label))
        cuts = np.flatnonzero(np.diff(label[order])) + 1
        alike: dict[object, list[tuple[IntArray, ...]]] = {}
        rest = []
        for part in np.split(order, cuts):
            found = self._filter(own[part], tails[part], heads[part])
            if found is None:
                rest.append(part)
            else:
                alike.setdefault((found[1].shape, found[1].tobytes()), []).append((*found, part))
        steps = list[_Step]()
        for group in alike.values():
            taps = group[0][1]
            if len(group) * taps.size < _LEAST:
                rest += [part for *_, part in group]
                continue
            matrix, outputs = (np.stack([each[i] for each in group]) for i in (0, 2))
            steps.append(_Filters(matrix, taps, outputs))
        if rest:
            left = np.concatenate(rest)
            steps.append(_Edges(own[left], tails[left], heads[left]))
        return steps

    def _filter(
        self, own: IntArray, tails: IntArray, heads: IntArray
    ) -> tuple[IntArray, IntArray, IntArray] | None:
        """Parameters, taps and positions of a filter; None where a position has a weight twice."""
        parameters, rows = np.unique(own, return_inverse=True)
        positions, columns = np.unique(heads, return_inverse=True)
        taps = np.full((parameters.size, positions.size), self.n_rows - 1)
        taps[rows, columns] = tails
        if _doubled(rows, columns):
            return None
        order = np.lexsort(taps.T[::-1])
        return parameters[order], taps[order], positions

    def run(self, theta: FloatArray, inputs: FloatArray) -> "Pass":
        """Evaluate the network, unchecked."""
        return Pass(self, np.append(theta, 0.0), inputs)

    def values(self, theta: FloatArray, inputs: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
        """Evaluate all nodes on some samples; and the slopes of the units of each generation."""
        dag = self.dag
        values = np.zeros((self.n_rows, len(inputs)))
        values[: dag.n_inputs], values[-2] = inputs.T, 1.0
        slopes = []
        for nodes, steps in zip(dag.members[1:], self.steps, strict=True):
            for step in steps:
                step.add(theta, values)
            slopes.append(self._activate(nodes, values))
        return values, slopes

    def _activate(self, nodes: IntArray, values: FloatArray) -> FloatArray:
        own = _rows(nodes)
        below, degrees = self.units.slopes[own], self.units.degrees[own]
        sums = values[own]
        if np.all(degrees == 1):
            if np.all(below == 1):
                return np.ones((1, 1))
            if not np.any(below):
                np.maximum(sums, 0.0, out=sums)
                return np.asarray(sums > 0, dtype=np.float64)
        slopes = np.where(sums > 0, 1.0, below[:, None])
        sums *= slopes
        if np.any(degrees > 1):
            slopes *= degrees[:, None] * sums ** (degrees[:, None] - 1)
            sums **= degrees[:, None]
        return slopes


def _doubled(rows: IntArray, columns: IntArray) -> bool:
    """Whether two entries are at one place."""
    keys = rows * (int(columns.max(initial=0)) + 1) + columns
    return np.unique(keys).size < keys.size


class Pass:
    """One evaluation of a network on data, with what its derivatives need of it."""

    def __init__(self, sweep: Sweep, theta: FloatArray, inputs: FloatArray) -> None:
        self.sweep, self.theta, self.n_samples = sweep, theta, len(inputs)
        starts = range(0, len(inputs), sweep.chunk)
        self._parts = [sweep.values(theta, inputs[a : a + sweep.chunk]) for a in starts]

    @property
    def outputs(self) -> FloatArray:
        """Values of the outputs, shape=[n_samples, n_outputs]."""
        return self._of_nodes(self.sweep.dag.outputs)

    @property
    def values(self) -> FloatArray:
        """Values of all nodes, and last of ⟨1⟩, shape=[n_samples, n_nodes + 1]."""
        return self._of_nodes(np.arange(self.sweep.n_rows - 1))

    def _of_nodes(self, nodes: IntArray) -> FloatArray:
        parts = [values[_rows(nodes)].T for values, _ in self._parts]
        return np.concatenate([np.zeros((0, nodes.size)), *parts])  # of no samples, too

    def pull(
        self, cotangent: FloatArray, *, to_inputs: bool = False
    ) -> tuple[FloatArray, FloatArray]:
        """Pull a cotangent back to θ, and to the inputs if asked for, else to none of them."""
        gradient = np.zeros(self.theta.size)
        parts, start = [np.zeros((0, self.sweep.dag.n_inputs))], 0
        for values, slopes in self._parts:
            own = cotangent[start : start + values.shape[1]]
            start += len(own)
            deltas = self._pull(values, slopes, own, gradient, to_inputs)
            if to_inputs:
                parts.append(deltas[: self.sweep.dag.n_inputs].T)
        return gradient[:-1], np.concatenate(parts)

    def _pull(
        self,
        values: FloatArray,
        slopes: list[FloatArray],
        cotangent: FloatArray,
        gradient: FloatArray,
        to_inputs: bool,
    ) -> FloatArray:
        dag = self.sweep.dag
        deltas = np.zeros_like(values)
        deltas[dag.outputs] = cotangent.T
        generations = list(zip(dag.members[1:], self.sweep.steps, slopes, strict=True))
        for number, (nodes, steps, own) in reversed(list(enumerate(generations))):
            deltas[nodes[0] : nodes[-1] + 1] *= own
            for step in steps:
                step.collect(values, deltas, gradient)
                if number or to_inputs:
                    step.pull(self.theta, values, deltas)
        return deltas
