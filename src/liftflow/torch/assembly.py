"""From the uses of parameters that a run of a module leaves behind to its channel graph."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.linalg
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from liftflow.architectures import ChannelGraph
from liftflow.architectures.sharing import _solutions
from liftflow.torch.blocks import Block, BlockGraph
from liftflow.torch.trace import GROUND, N_FIXED, Reader, Use
from liftflow.typing import FloatArray, IntArray

Ends = tuple[IntArray, IntArray]
"""Symbols at the tails and heads of all entries of a tensor, as arrays that broadcast."""


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
    size, ends = reader.n_symbols, {}
    rows = [np.zeros((0, 4), np.intp)]  # symbols a, b, c, d with τ_b − τ_a = τ_d − τ_c
    for name, shape in shapes.items():
        ends[name], more = _placed(reader.uses[name], shape or (1,))
        rows += more
    for one, other in reader.equal:
        rows.append(np.stack([one, other, np.zeros_like(one), np.zeros_like(one)], axis=1))
    a, b, c, d = np.concatenate(rows).T
    basis = _solutions((_steps(a, b, size) - _steps(c, d, size)).tocsr(), size - N_FIXED)
    # Its columns in the order of their first symbols, which give them their names.
    symbols = np.repeat(np.arange(N_FIXED, size), np.diff(basis.indptr))
    firsts = symbols[np.unique(basis.indices, return_index=True)[1]]
    basis, firsts = basis[:, np.argsort(firsts)], np.sort(firsts)
    if symbols.size == np.unique(symbols).size and np.all(basis.data == 1.0):
        channel = np.full(size, -1)
        channel[symbols] = basis.indices
        return _by_blocks(ends, shapes, channel, firsts, reader)
    every = [np.broadcast_arrays(*ends[n], np.empty(s or (1,)))[:2] for n, s in shapes.items()]
    tails, heads = np.concatenate([np.stack(pair).reshape(2, -1) for pair in every], axis=1)
    exponents = (_steps(tails, heads, size) @ basis).tocsc()
    exponents.eliminate_zeros()
    kept = np.flatnonzero(np.diff(exponents.indptr))
    return ChannelGraph.from_matrix(exponents[:, kept], _called(firsts[kept], reader))


def _placed(uses: Sequence[Use], shape: tuple[int, ...]) -> tuple[Ends, list[IntArray]]:
    """Where a tensor leads first, and what other places ask for."""
    if all(use.entries is None for use in uses):
        first, pairs = (uses[0].tails, uses[0].heads), [(u.tails, u.heads) for u in uses[1:]]
        fours = [(*first, *pair) for pair in pairs]
    else:
        every, flat = (
            np.arange(math.prod(shape)).reshape(shape),
            np.full((2, math.prod(shape)), GROUND),
        )
        listed = [(every if u.entries is None else u.entries, u.tails, u.heads) for u in uses]
        for entries, *ends in listed[::-1]:  # the first use is written last
            for own, end in zip(flat, ends, strict=True):
                own[entries] = end
        fours = [(*flat[:, entries], tails, heads) for entries, tails, heads in listed]
        tails, heads = flat.reshape(2, *shape)
        first = _narrow(tails), _narrow(heads)
    tables = [np.stack(np.broadcast_arrays(*four), axis=-1).reshape(-1, 4) for four in fours]
    apart = [t[(t[:, 0] != t[:, 2]) | (t[:, 1] != t[:, 3])] for t in tables]
    return first, [np.unique(table, axis=0) for table in apart]


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


def _by_blocks(
    ends: dict[str, Ends],
    shapes: dict[str, tuple[int, ...]],
    channel: IntArray,
    firsts: IntArray,
    reader: Reader,
) -> BlockGraph:
    """Take the channels with a parameter that rescales, where each symbol has one."""
    blocks, start = [], 0
    for name, shape in shapes.items():
        own = shape or (1,)
        tails, heads = (
            _narrow(channel[e.reshape((1,) * (len(own) - e.ndim) + e.shape)]) for e in ends[name]
        )
        blocks.append(_by_runs(Block(start, own, tails, heads)))
        start = blocks[-1].part.stop
    moved = np.zeros(firsts.size + 1, dtype=bool)
    for block in blocks:
        moved[block.moving] = True
    moved[-1] = False  # the ground
    number = np.where(moved, np.cumsum(moved) - 1, -1)
    blocks = [replace(b, tails=number[b.tails], heads=number[b.heads]) for b in blocks]
    return BlockGraph(blocks, _called(firsts[moved[:-1]], reader), list(shapes))


def _steps(tails: IntArray, heads: IntArray, size: int) -> Any:
    """Rows τ_head − τ_tail of the symbols that may rescale, shape=[n, size − N_FIXED]."""
    count = np.arange(tails.size)
    values = np.concatenate([np.ones(tails.size), -np.ones(tails.size)])
    places = (np.concatenate([count, count]), np.concatenate([heads, tails]))
    rows = csr_array((values, places), shape=(tails.size, size))
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return rows[:, N_FIXED:]


def _called(symbols: IntArray, reader: Reader) -> list[Hashable]:
    """Name channels by the layer where their first symbol comes from, and its number there."""
    starts = np.array([first for first, _ in reader.origins])
    at = np.searchsorted(starts, symbols, side="right") - 1
    origins = [reader.origins[k] for k in at.tolist()]
    pairs = zip(origins, symbols.tolist(), strict=True)
    return [(name, symbol - first) for (first, name), symbol in pairs]
