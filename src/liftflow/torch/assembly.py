"""From the uses of parameters that a run of a module leaves behind to its channel graph."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from liftflow.architectures import ChannelGraph
from liftflow.architectures.sharing import _solutions
from liftflow.torch.blocks import Block, BlockGraph
from liftflow.torch.trace import GROUND, ZERO, Reader, Use
from liftflow.typing import FloatArray, IntArray


@dataclass(frozen=True)
class Ends:
    """Symbols at the ends of all entries of a tensor of parameters, as arrays that broadcast."""

    tails: IntArray
    heads: IntArray


def inert_groups(reader: Reader, names: Sequence[str]) -> list[tuple[list[str], FloatArray]]:
    """Group the biases that come together in sums, with the combinations that no sum sees.

    One whose mean is always taken away, or that always cancels, is alone and has no effect at all.
    """
    axes: dict[str, set[int]] = {}
    for name, axis in (key for each in reader.sums for key in each):
        axes.setdefault(name, set()).add(axis)
    plain = {
        (name, axis)
        for name in names
        for axis in axes.get(name, ())
        if len(axes[name]) == 1 and all(use.is_bias for use in reader.uses[name])
    }
    groups = []
    for axis in sorted({axis for _, axis in plain}):
        own = [name for name in names if (name, axis) in plain]
        met = np.array([[each.get((name, axis), 0.0) for name in own] for each in reader.sums])
        labels = connected_components(met.T @ met)[1]
        for label in dict.fromkeys(labels.tolist()):
            columns = np.flatnonzero(labels == label)
            unseen = scipy.linalg.null_space(met[:, columns]).T
            if len(unseen):
                unseen *= np.sign(unseen[:, :1]) + (unseen[:, :1] == 0)
                groups.append(([own[column] for column in columns], unseen))
    return groups


def channel_graph(reader: Reader, shapes: dict[str, tuple[int, ...]]) -> ChannelGraph:
    """Solve for the channels of a module that was read.

    Parameters
    ----------
    reader : Reader
        After its run.
    shapes : dict of str to tuple of int
        Of the parameters that θ consists of, in their order.

    Returns
    -------
    graph : ChannelGraph
        Of whole tensors, where each channel is a class of symbols; else of a matrix.
    """
    leaders: dict[str, Ends] = {}
    rows = []  # tail, head of one place and of another, where a parameter must rescale alike
    for name, shape in shapes.items():
        leaders[name], more = _placed(reader.uses[name], shape)
        rows += more
    shared = np.unique(np.concatenate([np.zeros((0, 4), np.intp), *rows]), axis=0)
    classes = _Classes(reader)
    shared = classes.settle(shared)
    if shared.size == 0:
        return _by_blocks(leaders, shapes, classes, reader)
    return _by_matrix(leaders, shapes, classes, reader, shared)


def _placed(uses: Sequence[Use], shape: tuple[int, ...]) -> tuple[Ends, list[IntArray]]:
    """Where a tensor leads first, and what other places ask for."""
    if uses[0].entries is None:
        leader = Ends(uses[0].tails, uses[0].heads)
    else:
        tails, heads = np.full((2, *shape), GROUND)
        for use in uses[::-1]:  # the first use is written last
            for own, ends in ((tails, use.tails), (heads, use.heads)):
                if use.entries is None:
                    own[...] = ends
                else:
                    flat = np.broadcast_to(ends, use.entries.shape).ravel()
                    own.flat[use.entries.ravel()] = flat
        leader = Ends(_narrow(tails), _narrow(heads))
    rows = []
    for use in uses[1:] if uses[0].entries is None else uses:
        own = leader.tails, leader.heads
        if use.entries is not None:
            own = tuple(np.broadcast_to(e, shape).ravel()[use.entries] for e in own)
        four = np.broadcast_arrays(*own, use.tails, use.heads)
        flat = np.stack([np.ravel(each) for each in four], axis=1)
        flat = flat[(flat[:, 0] != flat[:, 2]) | (flat[:, 1] != flat[:, 3])]
        if flat.size:
            rows.append(np.unique(flat, axis=0))
    return leader, rows


def _narrow(ends: IntArray) -> IntArray:
    """Cut axes along which nothing changes down to length 1."""
    for axis in range(ends.ndim):
        first = ends.take([0], axis)
        if ends.shape[axis] and np.all(ends == first):
            ends = first
    return ends


def _by_runs(block: Block) -> Block:
    """Split axes along which ends change once in so many entries, as behind a flattened image."""
    shape, tails, heads = block.shape, block.tails, block.heads
    for axis in reversed(range(len(shape))):
        size = shape[axis]
        steps = [size]
        for ends in (tails, heads):
            if ends.shape[axis] > 1:
                rest = tuple(a for a in range(ends.ndim) if a != axis)
                steps += (1 + np.flatnonzero(np.any(np.diff(ends, axis=axis), axis=rest))).tolist()
        length = math.gcd(*steps)
        if 1 < length < size:
            shape = (*shape[:axis], size // length, length, *shape[axis + 1 :])
            tails, heads = (
                np.expand_dims(
                    e if e.shape[axis] == 1 else e.take(range(0, size, length), axis), axis + 1
                )
                for e in (tails, heads)
            )
    return Block(block.start, shape, tails, heads)


class _Classes:
    """Symbols that are one channel; number 0 is the ground."""

    def __init__(self, reader: Reader) -> None:
        self.pairs = list(reader.equal)
        self.size = reader.n_symbols
        self.pairs.append((np.array([ZERO]), np.array([GROUND])))
        self._number()

    def _number(self) -> None:
        one, other = (np.concatenate(parts) for parts in zip(*self.pairs, strict=True))
        joined = coo_array((np.ones(one.size), (one, other)), shape=(self.size, self.size))
        labels = connected_components(joined, directed=False)[1]
        # Numbered by their first symbol, so that the ground comes first.
        _, first = np.unique(labels, return_index=True)
        rank = np.empty(first.size, dtype=np.intp)
        rank[np.argsort(first)] = np.arange(first.size)
        self.number, self.firsts = rank[labels], np.sort(first)
        self.pairs = [(np.arange(self.size), self.firsts[self.number])]

    def settle(self, shared: IntArray) -> IntArray:
        """Merge what equal steps make equal, and return what else they ask for, by class."""
        while True:
            tail, head, other_tail, other_head = rows = self.number[shared].T
            done = ((tail == other_tail) & (head == other_head)) | (
                (tail == head) & (other_tail == other_head)
            )
            rows, shared = rows[:, ~done], shared[~done]
            tail, head, other_tail, other_head = rows
            found = []
            for alike, one, other in (
                (tail == other_tail, head, other_head),
                (head == other_head, tail, other_tail),
                (tail == head, other_tail, other_head),
                (other_tail == other_head, tail, head),
            ):
                found.append((self.firsts[one[alike]], self.firsts[other[alike]]))
            if not sum(pair[0].size for pair in found):
                return np.unique(rows.T, axis=0)
            self.pairs += found
            self._number()


def _by_blocks(
    leaders: dict[str, Ends], shapes: dict[str, tuple[int, ...]], classes: _Classes, reader: Reader
) -> BlockGraph:
    """Take the classes with a parameter that rescales for channels."""
    blocks, start = [], 0
    for name, shape in shapes.items():
        own = shape or (1,)
        tails, heads = (
            _narrow(classes.number[e.reshape((1,) * (len(own) - e.ndim) + e.shape)])
            for e in (leaders[name].tails, leaders[name].heads)
        )
        blocks.append(_by_runs(Block(start, own, tails, heads)))
        start = blocks[-1].part.stop
    moved = np.zeros(classes.firsts.size, dtype=bool)
    for block in blocks:
        moved[block.moving] = True
    moved[0] = False
    channel = np.where(moved, np.cumsum(moved) - 1, -1)
    blocks = [replace(b, tails=channel[b.tails], heads=channel[b.heads]) for b in blocks]
    members = _called(classes.firsts[moved], reader)
    return BlockGraph(blocks, members, list(shapes))


def _by_matrix(
    leaders: dict[str, Ends],
    shapes: dict[str, tuple[int, ...]],
    classes: _Classes,
    reader: Reader,
    shared: IntArray,
) -> ChannelGraph:
    """Solve equations that are not just equalities, exactly."""
    size = classes.firsts.size
    steps = _steps(shared[:, 0], shared[:, 1], size) - _steps(shared[:, 2], shared[:, 3], size)
    basis = _solutions(steps[:, 1:].tocsr(), size - 1)
    rows: list[IntArray] = [np.zeros((2, 0), np.intp)]
    for name, shape in shapes.items():
        ends = leaders[name].tails, leaders[name].heads
        rows.append(np.stack([np.broadcast_to(e, shape or (1,)).ravel() for e in ends]))
    tails, heads = classes.number[np.concatenate(rows, axis=1)]
    exponents = (_steps(tails, heads, size)[:, 1:] @ basis).tocsc()
    exponents.eliminate_zeros()
    kept = np.flatnonzero(np.diff(exponents.indptr))
    basis = basis.tocsc()
    leading = [1 + int(basis.indices[basis.indptr[c] : basis.indptr[c + 1]].min()) for c in kept]
    members = _called(classes.firsts[leading], reader)
    return ChannelGraph.from_matrix(exponents[:, kept], members)


def _steps(tails: IntArray, heads: IntArray, size: int) -> Any:
    """Rows τ_head − τ_tail, shape=[n, size]."""
    count = np.arange(tails.size)
    values = np.concatenate([np.ones(tails.size), -np.ones(tails.size)])
    places = (np.concatenate([count, count]), np.concatenate([heads, tails]))
    rows = csr_array((values, places), shape=(tails.size, size))
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return rows


def _called(symbols: IntArray, reader: Reader) -> list[Hashable]:
    """Name channels by the layer where their first symbol comes from, and its number there."""
    starts = np.array([first for first, _ in reader.origins])
    at = np.searchsorted(starts, symbols, side="right") - 1
    origins = [reader.origins[k] for k in at.tolist()]
    pairs = zip(origins, symbols.tolist(), strict=True)
    return [(name, symbol - first) for (first, name), symbol in pairs]
