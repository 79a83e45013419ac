"""Channel graphs of whole tensors: the ends of a tensor's entries are small arrays that broadcast.

A convolution of 512 × 512 × 3 × 3 weights has 512 tails and 512 heads, and that is all that is
kept. Sums over the entries of a channel are sums over axes, and what remains are matrices.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import scipy.linalg
from autograd.tracer import isbox
from scipy.sparse import csr_array

from liftflow.architectures import ChannelGraph
from liftflow.architectures.anchors import SpanningTree
from liftflow.architectures.channels import ChannelLaws
from liftflow.architectures.incidence import Incidence
from liftflow.architectures.laplacian import GroundedLaplacian, _balanced, _Rescaled
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
        Of the tensor, which has an axis at least.
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
        tails, rest = self.tails, self.shape[1:]
        if len(tails) == 1 and math.prod(self.heads.shape[1:]) == 1:
            # So numpy goes through a row at a time, not through the nine weights of a filter.
            tails = np.broadcast_to(tails, (1, *rest)).copy()
        row = math.prod(rest)
        step = max(1, _CHUNK // max(row, 1))
        for first in range(0, self.shape[0], step):
            ends = (
                own if len(own) == 1 else own[first : first + step] for own in (tails, self.heads)
            )
            shape = min(step, self.shape[0] - first), *rest
            yield Block(self.start + first * row, shape, *ends)

    @cached_property
    def is_matrix(self) -> bool:
        """Whether both ends change, along axes of their own: a matrix of heads and tails."""
        apart = all(1 in sizes for sizes in zip(self.tails.shape, self.heads.shape, strict=True))
        return apart and min(self.tails.size, self.heads.size) > 1

    @cached_property
    def axes(self) -> list[int]:
        """Axes along which an end changes; of a matrix those of the heads come first."""
        ends = zip(self.tails.shape, self.heads.shape, strict=True)
        axes = [axis for axis, sizes in enumerate(ends) if sizes != (1, 1)]
        return sorted(axes, key=lambda a: self.heads.shape[a] == 1) if self.is_matrix else axes

    @cached_property
    def idle_axes(self) -> list[int]:
        """The other axes: parallel parameters."""
        return [axis for axis in range(len(self.shape)) if axis not in self.axes]

    @property
    def ends(self) -> list[IntArray]:
        """Tails and heads, of parallel parameters once, in the order of the axes."""
        order = *self.axes, *self.idle_axes
        return [e.transpose(order).ravel() for e in np.broadcast_arrays(self.tails, self.heads)]

    def summed(self, *factors: FloatArray) -> FloatArray:
        """Sum up a product of numbers per parameter over parallel ones."""
        every = list(range(len(self.shape)))
        terms: list[Any] = []
        for factor in factors:
            terms += factor[self.part].reshape(self.shape), every
        return np.asarray(np.einsum(*terms, self.axes))

    @property
    def moving(self) -> IntArray:
        """Channels, or the ground, that one of its entries leads to or from, loops apart."""
        if self.is_matrix:  # each head meets each tail
            return np.unique(np.concatenate([self.tails.ravel(), self.heads.ravel()]))
        tails, heads = self.ends
        return np.unique([tails[tails != heads], heads[tails != heads]])


class BlockGraph(ChannelGraph):
    """The channel graph of tensors, which never lists its parameters one by one.

    Parameters
    ----------
    blocks : sequence of Block
        In the order of their parameters, without gaps.
    members : sequence of hashable
        What the channels are called, each of which a parameter rescales with.
    names : sequence of hashable
        What the blocks are called.
    """

    def __init__(
        self, blocks: Sequence[Block], members: Sequence[Hashable], names: Sequence[Hashable]
    ) -> None:
        self.blocks, self.dim, self.n_channels = tuple(blocks), blocks[-1].part.stop, len(members)
        self.members, self.names, self.grids = members, names, ()
        self._spare = Spare()

    # What the rest of the library may ask for, and large networks had better not.

    @cached_property
    def tails(self) -> IntArray:  # type: ignore[override]
        return self._listed("tails")

    @cached_property
    def heads(self) -> IntArray:  # type: ignore[override]
        return self._listed("heads")

    def _listed(self, which: str) -> IntArray:
        parts = [np.broadcast_to(getattr(b, which), b.shape).ravel() for b in self.blocks]
        return freeze(np.concatenate(parts))

    @cached_property
    def h(self) -> "BlockLaws":
        return BlockLaws(self)

    @cached_property
    def laplacian(self) -> "BlockLaplacian":
        return BlockLaplacian(self)

    def refuse_dead(self, theta: OneTheta) -> None:
        """Refuse a θ whose zeros leave channels on no walk from the ground and back, unchecked.

        Raises
        ------
        NotRecoverableError
            Names them.
        """
        small, edges = self._thinned(theta)
        used = theta[edges] != 0
        alive = used & small.walked(used)
        dead = np.setdiff1d(np.arange(self.n_channels), [small.tails[alive], small.heads[alive]])
        if dead.size:
            names = [self.members[channel] for channel in dead]
            raise NotRecoverableError(
                f"dead channels: weights that are zero cut {listed(map(repr, names))} off from the "
                "inputs or the outputs, so that z and the laws do not determine the others",
                names,
            )

    def strongest_anchors(self, theta: FloatArray) -> SpanningTree:
        small, edges = self._thinned(theta)
        tree = SpanningTree.strongest(small, theta[edges])
        tree.edges = edges[tree.edges]
        return tree

    def _thinned(self, theta: FloatArray) -> tuple[Incidence, IntArray]:
        """Return the graph with the strongest of parallel parameters alone, and their numbers."""
        edges = []
        for block in self.blocks:
            part, order = block.part, (*block.axes, *block.idle_axes)
            sizes, numbers = (
                own.reshape(block.shape).transpose(order).reshape(block.ends[0].size, -1)
                for own in (np.abs(theta[part]), np.arange(part.start, part.stop))
            )
            edges.append(numbers[np.arange(len(numbers)), np.argmax(sizes, axis=1)])
        tails, heads = np.concatenate([block.ends for block in self.blocks], axis=1)
        return Incidence(tails, heads, self.n_channels, self.members), np.concatenate(edges)

    # Factors from the channels of a parameter.

    def along(self, logs: FloatArray) -> FloatArray:
        lead = logs.shape[:-1]
        padded = np.concatenate([logs, np.zeros((*lead, 1))], axis=-1)
        result = np.empty((*lead, self.dim))
        for block in self.blocks:
            steps = padded[..., block.heads] - padded[..., block.tails]
            result[..., block.part].reshape(*lead, *block.shape)[...] = steps
        return result

    def moved(
        self, values: FloatArray, logs: FloatArray, out: FloatArray | None = None
    ) -> FloatArray:
        if values.ndim > 1:
            return super().moved(values, logs, out)
        return self._moved(values, logs, np.empty_like(values) if out is None else out)

    def pushed(
        self, theta: FloatArray, tangent: FloatArray, speeds: FloatArray, logs: FloatArray
    ) -> FloatArray:
        return self._moved(tangent, logs, self.room(), theta, np.append(speeds, 0.0))

    def _moved(
        self,
        values: FloatArray,
        logs: FloatArray,
        out: FloatArray,
        theta: FloatArray | None = None,
        speeds: FloatArray | None = None,
    ) -> FloatArray:
        """Evaluate e^{Xτ}(v + θ ∘ Xτ') piece by piece, each in the processor's cache."""
        at_heads, at_tails = np.append(np.exp(logs), 1.0), np.append(np.exp(-logs), 1.0)
        for piece in self._pieces:
            heads, tails = piece.heads, piece.tails
            own, target = (array[piece.part].reshape(piece.shape) for array in (values, out))
            if theta is not None and speeds is not None:
                at = theta[piece.part].reshape(piece.shape)
                np.multiply(at, speeds[heads] - speeds[tails], out=target)
                own = np.add(target, own, out=target)
            factors = [at_heads[heads], at_tails[tails]]
            if 1 in (heads.size, tails.size):  # their product needs no tensor of its own
                factors = [factors[0] * factors[1]]
            for factor in factors:
                own = np.multiply(own, factor, out=target)
        return out

    @cached_property
    def _pieces(self) -> tuple[Block, ...]:
        return tuple(piece for block in self.blocks for piece in block.pieces())

    def room(self) -> FloatArray:
        """Return an array that nobody else holds."""
        return self._spare.empty(self.dim)

    def rescaling(
        self, theta: FloatArray, laws: FloatArray, *, near: FloatArray | None = None
    ) -> FloatArray:
        if near is not None and self.n_channels:
            seen = _BlockWeights(self.laplacian, theta, theta)
            at = seen.at(2 * near, laws)
            if np.isfinite(at.value):
                return self.laplacian._descended(seen, at, laws, 2 * near) / 2
        return super().rescaling(theta, laws)


class BlockLaws(ChannelLaws):
    """The laws of tensors, by sums over their axes."""

    graph: BlockGraph

    def value(self, theta: Theta) -> Laws:
        return super().value(theta) if isbox(theta) else self._sums("gradient", theta, theta)

    def jvp(self, theta: Theta, tangent: Tangent) -> Laws:
        if isbox(theta) or isbox(tangent):
            return super().jvp(theta, tangent)
        return 2.0 * self._sums("gradient", theta, tangent)

    def vjp(self, theta: Theta, covector: Laws) -> Tangent:
        if isbox(theta) or isbox(covector):
            return super().vjp(theta, covector)
        return 2.0 * theta * self.graph.along(covector)

    def terms(self, theta: Theta, tangent: Tangent | None = None) -> Laws:
        factor, other = (1.0, theta) if tangent is None else (2.0, tangent)
        sizes = theta * other
        return factor * self._sums("diagonal", np.abs(sizes, out=sizes))

    def _sums(self, which: str, *factors: FloatArray) -> FloatArray:
        """What comes into each channel, less or with what goes out: a gradient, or a diagonal."""
        zero = np.zeros(self.graph.n_channels)

        def one(*each: FloatArray) -> FloatArray:
            weights = _BlockWeights(self.graph.laplacian, *each)
            return np.asarray(getattr(weights.at(zero, zero), which))

        return over_batch(one, factors, [1] * len(factors), self.shape)


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
        self.matrices, self.others = [], []
        for block in graph.blocks:
            if block.is_matrix:
                heads, tails = block.heads.ravel() % ground, block.tails.ravel() % ground
                loops = np.nonzero(heads[:, None] == tails)
                self.matrices.append((block, heads, tails, loops))
            else:
                self.others.append(block)
        ends = [np.stack(block.ends) for block in self.others]
        self.other_ends = np.concatenate([np.zeros((2, 0), np.intp), *ends], axis=1) % ground

    def _weights(self, weights: FloatArray) -> Any:
        return _BlockWeights(self, weights)

    @cached_property
    def _layers(self) -> IntArray:
        """Number of the layer where each channel comes from."""
        members = cast(Sequence[tuple[str, int]], self.members)
        return np.unique(np.array([name for name, _ in members]), return_inverse=True)[1]

    def _rough_inverse(
        self, at: _Rescaled, scale: FloatArray
    ) -> Callable[[FloatArray], FloatArray] | None:
        """Add to the identity the inverse on vectors that are constant on each layer.

        Within a layer a rescaling is soon spread evenly; from layer to layer it is slow.
        """
        layers = self._layers
        try:
            factor = scipy.linalg.cho_factor(cast(_BlockWeights, at.weights).between_layers())
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
                best = _balanced(into + seen.from_ground, out_of + seen.to_ground, laws)
                move = np.log(best) - logs
            move = np.clip(np.where(np.isfinite(move), move / 2, 0.0), -5.0, 5.0)
            logs = logs + move
            if np.max(np.abs(move), initial=0.0) < 0.1:
                break
        return logs


class _BlockWeights:
    """Weights as the channels see them: matrices of heads and tails, and single ones.

    Weights are products of factors, one number per parameter each.
    """

    has_inner = True

    def __init__(self, laplacian: BlockLaplacian, *factors: FloatArray) -> None:
        self.laplacian = laplacian
        self.size = size = laplacian.n_channels + 1
        self.matrices: list[tuple[IntArray, IntArray, FloatArray]] = []
        for block, heads, tails, loops in laplacian.matrices:
            matrix = block.summed(*factors).reshape(heads.size, tails.size)
            if loops[0].size:
                matrix = matrix.copy()
                matrix[loops] = 0.0
            self.matrices.append((heads, tails, matrix))
        tails, heads = laplacian.other_ends
        single = [np.zeros(0), *(block.summed(*factors).ravel() for block in laplacian.others)]
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

    def both(self, ahead: FloatArray, back: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Σ_u w_uv x_u at each channel v, and Σ_v w_uv y_v at each channel u, over channels."""
        forward, backward = self._both(np.append(ahead, 0.0), np.append(back, 0.0))
        return forward[:-1], backward[:-1]

    def between_layers(self) -> FloatArray:
        """Evaluate the Laplacian of layers, a matrix."""
        layers = self.laplacian._layers
        size = int(layers.max()) + 1
        places = np.append(layers, size), np.arange(self.size)
        sums = csr_array((np.ones(self.size), places), shape=(size + 1, self.size)).tocsc()
        total = (sums @ self.single @ sums.T).toarray()
        for heads, tails, matrix in self.matrices:
            total += sums[:, tails] @ (sums[:, heads] @ matrix).T
        total = total + total.T  # whichever way round each part is
        return (np.diag(total.sum(axis=1)) - total)[:-1, :-1]

    def dense(self) -> FloatArray:
        """Weights between channels as a matrix of tails and heads."""
        between = self.single.toarray().T
        for heads, tails, matrix in self.matrices:
            np.add.at(between, (tails[:, None], heads), matrix.T)
        return between[:-1, :-1]

    def at(self, logs: FloatArray, laws: FloatArray) -> _Rescaled:
        """Rescale them."""
        return _Rescaled(cast(Any, self), logs, laws)
