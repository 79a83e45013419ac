"""Channel graphs of whole tensors: the ends of a tensor's entries are small arrays that broadcast.

A convolution of 512 × 512 × 3 × 3 weights has 512 tails and 512 heads, and that is all that is
kept. Sums over the entries of a channel are sums over axes, and what remains are matrices.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import scipy.linalg
from autograd.tracer import isbox
from scipy.sparse import csr_array

from liftflow.architectures import ChannelGraph
from liftflow.architectures.anchors import SpanningTree
from liftflow.architectures.channels import ChannelLaws
from liftflow.architectures.incidence import Incidence, reached, refuse_idle
from liftflow.architectures.laplacian import GroundedLaplacian, Laplacian, _Rescaled
from liftflow.errors import NotRecoverableError, listed
from liftflow.linalg import Spare, over_batch
from liftflow.typing import FloatArray, IntArray, Laws, OneTheta, Tangent, Theta, freeze

_CHUNK = 2**17  # entries of a tensor that are worked on at once: a megabyte
_SWEEPS = 30  # of a first guess of a rescaling


@dataclass(frozen=True, eq=False)
class Block:
    """A tensor of parameters, each of which leads from a channel to a channel.

    Attributes
    ----------
    start : int
        Number of its first parameter.
    shape : tuple of int
        Of the tensor.
    tails, heads : array
        Channels at the ends, −1 for the ground; they broadcast to the shape.
    """

    start: int
    shape: tuple[int, ...]
    tails: IntArray
    heads: IntArray

    @cached_property
    def part(self) -> slice:
        """Its parameters."""
        return slice(self.start, self.start + math.prod(self.shape))

    def pieces(self) -> "Iterator[Block]":
        """Cut it along its first axis into pieces of bounded size.

        Yields
        ------
        piece : Block
            In their order.
        """
        row = math.prod(self.shape[1:])
        step = max(1, _CHUNK // max(row, 1))
        if not self.shape or step >= self.shape[0]:
            yield self
            return
        for first in range(0, self.shape[0], step):
            count = min(step, self.shape[0] - first)
            tails, heads = (
                ends if ends.shape[0] == 1 else ends[first : first + count]
                for ends in (self.tails, self.heads)
            )
            yield Block(self.start + first * row, (count, *self.shape[1:]), tails, heads)

    def spread(self) -> "Block":
        """Repeat the tails along the axes after the first one, where the heads stand still.

        Then numpy goes through a row at a time, not through the nine weights of a filter.
        """
        if self.tails.ndim < 2 or self.tails.shape[0] > 1 or math.prod(self.heads.shape[1:]) > 1:
            return self
        return replace(self, tails=np.broadcast_to(self.tails, (1, *self.shape[1:])).copy())

    @cached_property
    def is_narrow(self) -> bool:
        """Whether one end is the same for all entries, so that both need no tensor of their own."""
        return 1 in (self.heads.size, self.tails.size)

    def joined(self, *factors: FloatArray) -> tuple[FloatArray, ...]:
        """Multiply factors at the two ends where that is less work than one by one."""
        return (factors[0] * factors[1],) if self.is_narrow else factors

    @cached_property
    def idle_axes(self) -> tuple[int, ...]:
        """Axes along which neither end changes: parallel parameters."""
        sizes = zip(self.tails.shape, self.heads.shape, strict=True)
        return tuple(axis for axis, size in enumerate(sizes) if size == (1, 1))

    @cached_property
    def axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Axes along which the heads alone change, and those along which the tails alone do."""
        return tuple(  # type: ignore[return-value]
            tuple(a for a, n in enumerate(own.shape) if n > 1 and other.shape[a] == 1)
            for own, other in ((self.heads, self.tails), (self.tails, self.heads))
        )

    @cached_property
    def is_matrix(self) -> bool:
        """Whether no axis moves both ends, so that the entries make a matrix of heads and tails."""
        both = zip(self.tails.shape, self.heads.shape, strict=True)
        return not any(a > 1 and b > 1 for a, b in both)

    @property
    def moving(self) -> IntArray:
        """Channels, or the ground, that one of its entries leads to or from, loops apart."""
        if self.is_matrix:  # each head meets each tail
            both = np.unique(self.heads), np.unique(self.tails)
            alone = np.array_equal(*both) and both[0].size == 1
            return np.unique(np.concatenate(both))[2 * alone :]
        tails, heads = np.broadcast_arrays(self.tails, self.heads)
        return np.unique([tails[tails != heads], heads[tails != heads]])


class BlockGraph(ChannelGraph):
    """The channel graph of tensors, which never lists its parameters one by one.

    Parameters
    ----------
    blocks : sequence of Block
        In the order of their parameters, without gaps.
    n_channels : int
        Number of channels.
    members : sequence of hashable
        What the channels are called.
    names : sequence of hashable
        What the blocks are called.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        n_channels: int,
        members: Sequence[Hashable],
        names: Sequence[Hashable],
    ) -> None:
        self.blocks, self.n_channels = tuple(blocks), n_channels
        self.dim = sum(math.prod(block.shape) for block in blocks)
        self.members, self.names, self.grids = members, names, ()
        self._spare = Spare()
        touched = np.zeros(n_channels + 1, dtype=bool)
        for block in self.blocks:
            touched[block.moving] = True
        refuse_idle(~touched[:-1], members)

    # What the rest of the library may ask for, and large networks had better not.

    @cached_property
    def tails(self) -> IntArray:  # type: ignore[override]
        """Channel at the tail of each parameter, −1 for the ground."""
        return self._listed("tails")

    @cached_property
    def heads(self) -> IntArray:  # type: ignore[override]
        """Channel at the head of each parameter, −1 for the ground."""
        return self._listed("heads")

    def _listed(self, which: str) -> IntArray:
        result = np.empty(self.dim, dtype=np.intp)
        for block in self.blocks:
            result[block.part].reshape(block.shape)[...] = getattr(block, which)
        return freeze(result)

    # Sums over the parameters of a channel, and factors from the channels of a parameter.

    def at_ends(self, *values: FloatArray) -> FloatArray:
        """Add up a product of numbers per parameter, and their sizes, at both ends of each.

        Parameters
        ----------
        *values : array, shape=[dim]
            Factors.

        Returns
        -------
        sums : array, shape=[2, 2, n_channels]
            At heads and at tails, of the numbers and of their sizes. Loops count at both.
        """
        totals = np.zeros((2, 2, self.n_channels + 1))
        for piece in self._pieces:
            product = values[0][piece.part]
            for factor in values[1:]:
                product = product * factor[piece.part]
            product = product.reshape(piece.shape)
            for kind, numbers in enumerate((product, np.abs(product))):
                small = numbers.sum(axis=piece.idle_axes, keepdims=True)
                for end, ends in enumerate((piece.heads, piece.tails)):
                    still = tuple(a for a, n in enumerate(ends.shape) if n == 1)
                    sums = np.broadcast_to(small.sum(axis=still, keepdims=True), ends.shape)
                    np.add.at(totals[end, kind], ends.ravel(), sums.ravel())
        return totals[..., :-1]

    @cached_property
    def _pieces(self) -> tuple[Block, ...]:
        return tuple(piece for block in self.blocks for piece in block.pieces())

    @cached_property
    def _rows(self) -> tuple[Block, ...]:
        return tuple(piece for block in self.blocks for piece in block.spread().pieces())

    @cached_property
    def h(self) -> "BlockLaws":
        """The laws as a smooth map, unchecked."""
        return BlockLaws(self)

    def refuse_dead(self, theta: OneTheta) -> None:
        """Refuse a θ whose zeros leave channels on no walk from the ground and back, unchecked.

        Raises
        ------
        NotRecoverableError
            Names them.
        """
        small, edges = self._thinned(theta)
        used = theta[edges] != 0
        tails, heads, ground = small.tails[used], small.heads[used], np.array([-1])
        fed, feeding = (
            reached(one, other, ground, self.n_channels + 1)
            for one, other in ((tails, heads), (heads, tails))
        )
        dead = np.flatnonzero(~(fed & feeding)[:-1])
        if dead.size:
            names = [self.members[channel] for channel in dead]
            raise NotRecoverableError(
                f"dead channels: weights that are zero cut {listed(map(repr, names))} off from the "
                "inputs or the outputs, so that z and the laws do not determine the others",
                names,
            )

    def along(self, logs: FloatArray) -> FloatArray:
        """Evaluate Xτ, one number per parameter, unchecked."""
        padded = np.concatenate([logs, np.zeros((*logs.shape[:-1], 1))], axis=-1)
        lead = logs.shape[:-1]
        result = np.empty((*lead, self.dim))
        for block in self.blocks:
            step = padded[..., block.heads] - padded[..., block.tails]
            result[..., block.part] = np.broadcast_to(step, (*lead, *block.shape)).reshape(
                *lead, -1
            )
        return result

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
        out : array, optional
            Where to write, ``values`` itself if need be.
        """
        out = np.empty_like(values) if out is None else out
        at_tails, at_heads = np.append(tails, 1.0), np.append(heads, 1.0)
        for piece in self._rows:
            target = out[piece.part].reshape(piece.shape)
            factors = piece.joined(at_heads[piece.heads], at_tails[piece.tails])
            np.multiply(values[piece.part].reshape(piece.shape), factors[0], out=target)
            for factor in factors[1:]:
                target *= factor
        return out

    def room(self) -> FloatArray:
        """Return an array that nobody else holds."""
        return self._spare.empty(self.dim)

    def pushed(
        self, theta: FloatArray, tangent: FloatArray, speeds: FloatArray, logs: FloatArray
    ) -> FloatArray:
        """Evaluate e^{Xτ}(v + θ ∘ Xτ') piece by piece, each in the processor's cache, unchecked."""
        out, speeds = self.room(), np.append(speeds, 0.0)
        at_heads = np.append(np.exp(logs), 1.0)
        at_tails = np.append(np.exp(-logs), 1.0)
        for piece in self._rows:
            heads, tails, shape = piece.heads, piece.tails, piece.shape
            target, own = out[piece.part].reshape(shape), theta[piece.part].reshape(shape)
            if piece.is_narrow:
                np.multiply(own, speeds[heads] - speeds[tails], out=target)
            else:
                np.subtract(speeds[heads], speeds[tails], out=target)
                target *= own
            target += tangent[piece.part].reshape(shape)
            for factor in piece.joined(at_heads[heads], at_tails[tails]):
                target *= factor
        return out

    def rescaling(
        self, theta: FloatArray, laws: FloatArray, *, near: FloatArray | None = None
    ) -> FloatArray:
        if near is not None and self.n_channels:
            laplacian = cast(BlockLaplacian, self.laplacian)
            seen = _BlockWeights(laplacian, theta, are_roots=True)
            at = seen.at(2 * near, laws)
            if np.isfinite(at.value):
                return laplacian._descended(seen, at, laws, 2 * near) / 2
        return super().rescaling(theta, laws)

    def moved(
        self, values: FloatArray, logs: FloatArray, out: FloatArray | None = None
    ) -> FloatArray:
        """Multiply one number per parameter by e^{(Xτ)_e}, unchecked.

        Parameters
        ----------
        out : array, optional
            Where to write, ``values`` itself if need be.
        """
        if values.ndim > 1:
            return super().moved(values, logs, out)
        return self.scaled(values, np.exp(-logs), np.exp(logs), out)

    @cached_property
    def laplacian(self) -> Laplacian:
        """Solver for ∂h ∂hᵀ / 4 = Xᵀ D_θ² X."""
        return BlockLaplacian(self)

    def strongest_anchors(self, theta: FloatArray) -> SpanningTree:
        """Find the spanning tree of quotient and ground with the largest |θ_e|, unchecked."""
        small, edges = self._thinned(theta)
        tree = SpanningTree.strongest(small, theta[edges])
        tree.edges = edges[tree.edges]
        return tree

    def _thinned(self, theta: FloatArray) -> tuple[Incidence, IntArray]:
        """Return the graph with the strongest of parallel parameters alone, and their numbers."""
        found = zip(*self._strong(theta), strict=True)
        edges, tails, heads = (np.concatenate(parts) for parts in found)
        small = Incidence.__new__(Incidence)
        small.tails, small.heads = tails, heads
        small.n_channels, small.members = self.n_channels, self.members
        return small, edges

    def _strong(self, theta: FloatArray) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
        """Of parameters that are parallel within a tensor, the strongest ones with their ends."""
        for block in self.blocks:
            moved = np.moveaxis(
                np.abs(theta[block.part]).reshape(block.shape),
                block.idle_axes,
                range(-len(block.idle_axes), 0),
            )
            numbers = np.moveaxis(
                np.arange(block.part.start, block.part.stop).reshape(block.shape),
                block.idle_axes,
                range(-len(block.idle_axes), 0),
            )
            lead = moved.shape[: moved.ndim - len(block.idle_axes)]
            moved, numbers = (np.reshape(each, (*lead, -1)) for each in (moved, numbers))
            best = np.argmax(moved, axis=-1)[..., None]
            edges = np.take_along_axis(numbers, best, axis=-1)[..., 0]
            tails, heads = (
                np.broadcast_to(each.squeeze(block.idle_axes), lead).ravel()
                for each in (block.tails, block.heads)
            )
            yield edges.ravel(), tails, heads


class BlockLaws(ChannelLaws):
    """The laws of tensors, by sums over their axes."""

    graph: BlockGraph

    def value(self, theta: Theta) -> Laws:
        return super().value(theta) if isbox(theta) else self._sums(theta, theta)

    def jvp(self, theta: Theta, tangent: Tangent) -> Laws:
        if isbox(theta) or isbox(tangent):
            return super().jvp(theta, tangent)
        return 2.0 * self._sums(theta, tangent)

    def vjp(self, theta: Theta, covector: Laws) -> Tangent:
        if isbox(theta) or isbox(covector):
            return super().vjp(theta, covector)
        return 2.0 * theta * self.graph.along(covector)

    def terms(self, theta: Theta, tangent: Tangent | None = None) -> Laws:
        other = theta if tangent is None else tangent
        sizes = over_batch(
            lambda a, b: self.graph.at_ends(a, b)[:, 1].sum(0), [theta, other], [1, 1], self.shape
        )
        return sizes if tangent is None else 2.0 * sizes

    def _sums(self, *values: FloatArray) -> FloatArray:
        def one(a: FloatArray, b: FloatArray) -> FloatArray:
            into, out_of = self.graph.at_ends(a, b)[:, 0]
            return into - out_of

        return over_batch(one, values, [1, 1], self.shape)


class BlockLaplacian(GroundedLaplacian):
    """The Laplacian of a graph of tensors: products with small matrices.

    Parameters
    ----------
    graph : BlockGraph
        Which channels each parameter joins.
    """

    def __init__(self, graph: BlockGraph) -> None:
        super().__init__(graph)
        ground = graph.n_channels + 1  # so many with the ground, which is the last one
        self.matrices = [
            (block, block.heads.ravel() % ground, block.tails.ravel() % ground)
            for block in graph.blocks
            if block.is_matrix and min(block.tails.size, block.heads.size) > 1
        ]
        chosen = {id(block) for block, _, _ in self.matrices}
        self.others = [block for block in graph.blocks if id(block) not in chosen]
        pairs = [np.broadcast_arrays(block.tails, block.heads) for block in self.others]
        ends = [np.stack([np.ravel(each) for each in pair]) for pair in pairs]
        self.other_ends = np.concatenate([np.zeros((2, 0), np.intp), *ends], axis=1) % ground

    def _weights(self, weights: FloatArray) -> Any:
        return _BlockWeights(self, weights)

    @cached_property
    def _layers(self) -> IntArray:
        """Number of the layer where each channel comes from."""
        names = [name for name, _ in map(pair, self.members)]
        number = {name: count for count, name in enumerate(dict.fromkeys(names))}
        return np.array([number[name] for name in names], dtype=np.intp)

    def _rough_inverse(
        self, at: _Rescaled, scale: FloatArray
    ) -> Callable[[FloatArray], FloatArray] | None:
        """Add to the identity the inverse on vectors that are constant on each layer.

        Within a layer a rescaling is soon spread evenly; from layer to layer it is slow.
        """
        layers = self._layers
        try:
            factor = scipy.linalg.cho_factor(cast(_BlockWeights, at.weights).between_layers)
        except np.linalg.LinAlgError:
            return None

        def apply(values: FloatArray) -> FloatArray:
            sums = np.bincount(layers, values / scale, factor[0].shape[0])
            return values + scipy.linalg.cho_solve(factor, sums)[layers] / scale

        return apply

    def _start(self, weights: FloatArray, laws: FloatArray) -> FloatArray:
        """Minimise F over all channels at once, again and again, half of the way each time."""
        seen, logs = self._weights(weights), np.zeros(self.n_channels)
        for _ in range(_SWEEPS):
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                into, out_of = seen.both(np.exp(-logs), np.exp(logs))
                into, out_of = into + seen.from_ground, out_of + seen.to_ground
                root = np.sqrt(laws**2 + 4 * into * out_of)
                best = np.where(laws >= 0, (laws + root) / (2 * into), 2 * out_of / (root - laws))
                move = np.log(best) - logs
            move = np.clip(np.where(np.isfinite(move), move / 2, 0.0), -5.0, 5.0)
            logs = logs + move
            if np.max(np.abs(move), initial=0.0) < 0.1:
                break
        return logs


class _BlockWeights:
    """Weights as the channels see them: matrices of heads and tails, and single ones."""

    has_inner = True

    def __init__(
        self, laplacian: BlockLaplacian, weights: FloatArray, are_roots: bool = False
    ) -> None:
        def condensed(block: Block) -> FloatArray:
            own, count = weights[block.part], math.prod(block.shape[a] for a in block.idle_axes)
            shape = block.shape
            last = tuple(range(len(shape)))[len(shape) - len(block.idle_axes) :]
            if block.idle_axes == last:  # parallel parameters lie side by side
                sums = _added(own, count, are_roots)
            elif 0 in block.idle_axes:
                rows = _added(own, math.prod(shape[1:]), are_roots, by_rows=True)
                rest = tuple(axis - 1 for axis in block.idle_axes if axis)
                sums = rows.reshape(shape[1:]).sum(axis=rest)
            else:
                tensor = np.square(own) if are_roots else own
                sums = tensor.reshape(shape).sum(axis=block.idle_axes)
            return np.expand_dims(
                sums.reshape([n for a, n in enumerate(block.shape) if a not in block.idle_axes]),
                block.idle_axes,
            )

        self.laplacian = laplacian
        self.size = size = laplacian.n_channels + 1
        self.matrices: list[tuple[IntArray, IntArray, FloatArray]] = []
        for block, heads, tails in laplacian.matrices:
            of_heads, of_tails = block.axes
            order = (*of_heads, *of_tails, *block.idle_axes)
            matrix = condensed(block).transpose(order).reshape(heads.size, tails.size)
            loops = heads[:, None] == tails
            self.matrices.append((heads, tails, np.where(loops, 0.0, matrix)))
        tails, heads = laplacian.other_ends
        single = [np.zeros(0), *(condensed(block).ravel() for block in laplacian.others)]
        values = np.where(tails == heads, 0.0, np.concatenate(single))
        self.single = csr_array((values, (heads, tails)), shape=(size, size))
        ground = np.eye(1, size, size - 1)[0]
        self.from_ground, self.to_ground = (own[:-1] for own in self._both(ground, ground))

    def _both(self, ahead: FloatArray, back: FloatArray) -> tuple[FloatArray, FloatArray]:
        forward, backward = self.single @ ahead, back @ self.single
        for heads, tails, matrix in self.matrices:  # the second product finds it in the cache
            np.add.at(forward, heads, matrix @ ahead[tails])
            np.add.at(backward, tails, back[heads] @ matrix)
        return forward, backward

    @cached_property
    def between_layers(self) -> FloatArray:
        """The Laplacian of layers: a matrix."""
        layers = self.laplacian._layers
        size = int(layers.max(initial=-1)) + 1
        places = np.append(layers, size), np.arange(self.size)
        sums = csr_array((np.ones(self.size), places), shape=(size + 1, self.size)).tocsc()
        total = (sums @ self.single @ sums.T).toarray()
        for heads, tails, matrix in self.matrices:
            total += (sums[:, tails] @ (sums[:, heads] @ matrix).T).T
        total = total + total.T
        return (np.diag(total.sum(axis=1)) - total)[:-1, :-1]

    def both(self, ahead: FloatArray, back: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Σ_u w_uv x_u at each channel v, and Σ_v w_uv y_v at each channel u, over channels."""
        forward, backward = self._both(np.append(ahead, 0.0), np.append(back, 0.0))
        return forward[:-1], backward[:-1]

    def dense(self) -> FloatArray:
        """Weights between channels as a matrix of tails and heads."""
        between = self.single.toarray().T
        for heads, tails, matrix in self.matrices:
            np.add.at(between, (tails[:, None], heads), matrix.T)
        return between[:-1, :-1]

    def at(self, logs: FloatArray, laws: FloatArray) -> _Rescaled:
        """Rescale them."""
        return _Rescaled(cast(Any, self), logs, laws)


def _added(values: FloatArray, count: int, are_roots: bool, by_rows: bool = False) -> FloatArray:
    """Sum up numbers or their squares, ``count`` at a time or rows of so many, in the cache."""
    size, step = values.size // count, max(1, _CHUNK // count)
    sums = np.zeros(count) if by_rows else np.empty(size)
    for first in range(0, size, step):
        part = values[first * count : (first + step) * count]
        part = (np.square(part) if are_roots else part).reshape(-1, count)
        if by_rows:
            sums += np.ones(len(part)) @ part
        else:
            sums[first : first + step] = part @ np.ones(count) if count > 1 else part[:, 0]
    return sums


def pair(member: Any) -> tuple[Any, Any]:
    """Return the layer and the number of a channel, from what it is called."""
    return member if isinstance(member, tuple) else (member, 0)
