"""The structure of a channel graph: which parameter leads from which channel to which."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order

from liftflow.doors import counted, door
from liftflow.errors import ArchitectureError, InputError, listed
from liftflow.typing import FloatArray, IntArray, Tangent, as_array, as_count, freeze, shown

GROUND = -1
"""Number of what does not rescale: inputs, the constant source of biases, and outputs."""

_TILE = 2**15  # entries of a block that stay in the cache while several operations pass over them


@dataclass(frozen=True, eq=False)
class Grid:
    """Parameters in a row that are a complete matrix between two ranges of channels.

    Attributes
    ----------
    part : slice
        Its parameters, a matrix of shape ``shape`` in row-major order.
    shape : tuple of int
        Numbers of tails and heads.
    tails, heads : slice or None
        Channels at the two ends, None where they are the ground.
    """

    part: slice
    shape: tuple[int, int]
    tails: slice | None
    heads: slice | None

    def tiles(self) -> "Iterator[Grid]":
        """Cut the grid into groups of rows that fit into the cache."""
        rows, width = self.shape
        size = max(1, _TILE // width)
        for start in range(0, rows, size):
            count = min(size, rows - start)
            first = self.part.start + start * width
            tails = self.tails and slice(self.tails.start + start, self.tails.start + start + count)
            yield Grid(slice(first, first + count * width), (count, width), tails, self.heads)


class Incidence:
    """Parameters as edges between channels and the ground; parallel ones, cycles and loops too.

    Parameters
    ----------
    tails, heads : array-like, shape=[dim]
        As of a :class:`~liftflow.architectures.ChannelGraph`, and so are the others.
    stages : sequence of array, optional
        Which channels are swept over at a time.
    """

    @door
    def __init__(
        self,
        tails: Any,
        heads: Any,
        n_channels: int,
        members: Sequence[Hashable] | None = None,
        names: Sequence[Hashable] | None = None,
        grids: Sequence[Grid] = (),
        stages: Sequence[IntArray] | None = None,
    ) -> None:
        self.tails, self.heads = _whole(tails, "tails"), _whole(heads, "heads")
        as_count(n_channels, "n_channels")
        if self.tails.shape != self.heads.shape or self.tails.ndim != 1:
            raise ArchitectureError(
                "tails and heads must be two lists of the same length, got shapes "
                f"{self.tails.shape} and {self.heads.shape}"
            )
        for ends in (self.tails, self.heads):
            if ends.size and not (ends.min() >= GROUND and ends.max() < n_channels):
                raise ArchitectureError(
                    f"tails and heads must be channels, 0 to {n_channels - 1}, or −1 for the "
                    f"ground, got {ends.min()} to {ends.max()}"
                )
        self.dim, self.n_channels, self.grids = self.tails.size, n_channels, tuple(grids)
        self.members = called(members, n_channels, "members")
        self.names = called(names, self.dim, "names")
        if stages is not None:
            self.stages = tuple(stages)
        touched = np.zeros(n_channels + 1, dtype=bool)
        moves = self.tails != self.heads
        touched[self.tails[moves]] = touched[self.heads[moves]] = True
        refuse_idle(~touched[:-1], self.members)

    def _facts(self) -> str:
        return f"{len(self.tails):,} parameters, {counted(self.n_channels, 'channels')}"

    @cached_property
    def incidence(self) -> csr_array:
        """The exponents X, shape=[dim, n_channels], in integers."""
        return self.law_matrix.T.tocsr().astype(np.intp)

    @cached_property
    def law_matrix(self) -> csr_array:
        """The transpose of X as floats, shape=[n_channels, dim]: h = Xᵀθ²."""
        moves = self.tails != self.heads
        into = np.flatnonzero(moves & (self.heads >= 0))
        out_of = np.flatnonzero(moves & (self.tails >= 0))
        rows = np.concatenate([self.heads[into], self.tails[out_of]])
        values = np.concatenate([np.ones(into.size), -np.ones(out_of.size)])
        columns = np.concatenate([into, out_of])
        return freeze(csr_array((values, (rows, columns)), shape=(self.n_channels, self.dim)))

    @cached_property
    def exponents(self) -> csr_array:
        """The matrix X as floats, by rows, shape=[dim, n_channels]."""
        return self.law_matrix.T.tocsr()

    @cached_property
    def law_sums(self) -> csr_array:
        """The matrix |X|ᵀ, by which the terms of the laws add up without a sign."""
        return abs(self.law_matrix)

    @cached_property
    def tiles(self) -> tuple[Grid, ...]:
        """The grids, cut into pieces that fit into the cache."""
        return tuple(tile for grid in self.grids for tile in grid.tiles())

    @cached_property
    def loose(self) -> IntArray:
        """Parameters outside all grids."""
        inside = np.zeros(self.dim, dtype=bool)
        for grid in self.grids:
            inside[grid.part] = True
        return freeze(np.flatnonzero(~inside))

    @cached_property
    def stages(self) -> tuple[IntArray, ...]:
        """Groups of channels that share no parameter, for sweeps over one group at a time."""
        inner = (self.tails >= 0) & (self.heads >= 0)
        return _colour(self.n_channels, self.tails[inner], self.heads[inner])

    @cached_property
    def place(self) -> IntArray:
        """Position of each channel in its stage, shape=[n_channels]."""
        place = np.empty(self.n_channels, dtype=np.intp)
        for channels in self.stages:
            place[channels] = np.arange(channels.size)
        return place

    @cached_property
    def into(self) -> tuple[IntArray, ...]:
        """For each stage, the parameters with a head in it, sorted by head; no loops."""
        return self._by_stage(self.heads)

    @cached_property
    def out_of(self) -> tuple[IntArray, ...]:
        """For each stage, the parameters with a tail in it, sorted by tail; no loops."""
        return self._by_stage(self.tails)

    def _by_stage(self, ends: IntArray) -> tuple[IntArray, ...]:
        rank = np.empty(self.n_channels, dtype=np.intp)
        rank[np.concatenate([np.empty(0, np.intp), *self.stages])] = np.arange(self.n_channels)
        own = np.flatnonzero((ends >= 0) & (self.tails != self.heads))
        ranks = rank[ends[own]]
        order = np.argsort(ranks, kind="stable")
        sizes = [channels.size for channels in self.stages]
        bounds = np.searchsorted(ranks[order], np.cumsum([0, *sizes]))
        return freeze(tuple(own[order[a:b]] for a, b in pairwise(bounds)))

    def along(self, logs: FloatArray) -> Tangent:
        """Evaluate Xτ, one number per parameter, unchecked."""
        if logs.ndim == 1 and self.grids:
            return self._along_grids(logs)
        padded = np.concatenate([logs, np.zeros((*logs.shape[:-1], 1))], axis=-1)
        return padded[..., self.heads] - padded[..., self.tails]

    def _along_grids(self, logs: FloatArray) -> FloatArray:
        differences = np.empty(self.dim)
        for tile in self.tiles:
            target = differences[tile.part].reshape(tile.shape)
            target[...] = 0.0 if tile.heads is None else logs[tile.heads]
            if tile.tails is not None:
                target -= logs[tile.tails, None]
        if self.loose.size:
            padded = np.append(logs, 0.0)
            loose = self.loose
            differences[loose] = padded[self.heads[loose]] - padded[self.tails[loose]]
        return differences

    def walked(self, used: NDArray[np.bool_]) -> Any:
        """Whether the ends of each parameter are on walks from ground to ground over those used."""
        ground, size = np.array([GROUND]), self.n_channels + 1
        fed = reached(self.tails[used], self.heads[used], ground, size)
        feeding = reached(self.heads[used], self.tails[used], ground, size)
        return fed[self.tails] & feeding[self.heads]

    def undetermined(self, used: NDArray[np.bool_]) -> IntArray:
        """List the parameters that neither the products over walks nor the laws determine (ours).

        A parameter is dead where every walk through it passes another that is not used. An unused
        dead one is seen by neither; a used one by the laws alone, as a flow that channels on no
        walk must conserve. So those on a cycle are not determined, in the graph of these channels
        with everything else merged into one ground.
        """
        alive = self.walked(used)
        lost, walked, free = ~alive & ~used, alive & used, np.flatnonzero(~alive & used)
        number = np.arange(1, self.n_channels + 2)
        number[self.tails[walked]] = number[self.heads[walked]] = number[GROUND] = 0
        ends = number[self.tails[free]], number[self.heads[free]]
        graph = nx.MultiGraph()
        graph.add_edges_from(zip(*(own.tolist() for own in (*ends, free)), strict=True))
        bridges = set(nx.bridges(graph))
        for tail, head, edge in graph.edges(keys=True):
            lost[edge] |= (tail, head) not in bridges and (head, tail) not in bridges
        return np.flatnonzero(lost)

    def scaled(
        self,
        values: FloatArray,
        tails: FloatArray,
        heads: FloatArray,
        out: FloatArray | None = None,
    ) -> FloatArray:
        """Multiply a number per parameter u → v by one factor at u and one at v, unchecked.

        Parameters
        ----------
        tails, heads : array, shape=[n_channels]
            Factors; that of the ground is 1.
        """
        out = np.empty_like(values) if out is None else out
        for tile in self.tiles:
            source, target = values[tile.part], out[tile.part].reshape(tile.shape)
            if tile.tails is None:
                np.copyto(target, source.reshape(tile.shape))
            else:
                np.multiply(source.reshape(tile.shape), tails[tile.tails, None], out=target)
            if tile.heads is not None:
                target *= heads[tile.heads]
        if self.loose.size:
            at_tails = np.append(tails, 1.0)[self.tails[self.loose]]
            at_heads = np.append(heads, 1.0)[self.heads[self.loose]]
            out[self.loose] = values[self.loose] * at_tails * at_heads
        return out


def _whole(value: Any, name: str) -> IntArray:
    array = as_array(value, name, differentiable=False)
    whole: IntArray = freeze(np.clip(array, -(2**53), 2**53).astype(np.intp))
    if not np.array_equal(whole, array):
        raise InputError(f"{name} must be whole numbers, got {shown(value)}")
    return whole


def called(labels: Sequence[Hashable] | None, size: int, name: str) -> Sequence[Hashable]:
    """Return what channels or parameters are called in messages, by default their numbers."""
    if labels is None:
        return range(size)
    if len(labels) != size:
        raise InputError(f"{name} must be {size} labels, got {len(labels)}")
    return labels


def refuse_idle(idle: NDArray[np.bool_], members: Sequence[Hashable]) -> None:
    """Refuse channels that no parameter rescales with."""
    wrong = [members[number] for number in np.flatnonzero(idle)]
    if wrong:
        raise ArchitectureError(
            f"no parameter rescales with the channels {listed(map(repr, wrong))}; leave them out",
            wrong,
        )


def reached(tails: IntArray, heads: IntArray, starts: IntArray, size: int) -> NDArray[np.bool_]:
    """Tell which of some nodes are reached from ``starts``, themselves included.

    Parameters
    ----------
    tails, heads, starts : array
        Numbers from 0 to size − 1; −1 is the last.
    """
    root = size  # a further node that leads to all starts
    rows, columns = np.append(tails, np.full(len(starts), root)), np.append(heads, starts)
    rows, columns = np.where(rows < 0, size - 1, rows), np.where(columns < 0, size - 1, columns)
    graph = csr_array((np.ones(rows.size), (rows, columns)), shape=(size + 1, size + 1))
    found = np.zeros(size + 1, dtype=bool)
    found[breadth_first_order(graph, root, return_predecessors=False)] = True
    return found[:-1]


def _colour(n_channels: int, tails: IntArray, heads: IntArray) -> tuple[IntArray, ...]:
    """Partition channels so that no parameter joins two of one part."""
    apart = tails != heads
    ends = (
        np.concatenate([tails[apart], heads[apart]]),
        np.concatenate([heads[apart], tails[apart]]),
    )
    near = csr_array((np.ones(ends[0].size), ends), shape=(n_channels, n_channels))
    near.sum_duplicates()
    colours = np.full(n_channels, -1)
    for channel in np.argsort(-np.diff(near.indptr), kind="stable").tolist():
        taken = colours[near.indices[near.indptr[channel] : near.indptr[channel + 1]]]
        free = np.ones(int(taken.max(initial=-1)) + 2, dtype=bool)
        free[taken[taken >= 0]] = False
        colours[channel] = np.argmax(free)
    order = np.argsort(colours, kind="stable")
    return tuple(np.split(order, np.cumsum(np.bincount(colours))[:-1])) if n_channels else ()


def ends_of(matrix: csr_array) -> tuple[IntArray, IntArray] | None:
    """Read tails and heads off an incidence; None where the matrix is none."""
    tails, heads = np.full((2, matrix.shape[0]), GROUND)
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    for ends, sign in ((tails, -1.0), (heads, 1.0)):
        own = matrix.data == sign
        if np.any(np.bincount(rows[own], minlength=1) > 1):
            return None
        ends[rows[own]] = matrix.indices[own]
    return (tails, heads) if np.all(np.abs(matrix.data) == 1) else None
