r"""Vectors of small networks in high precision, where no scale of a layer hides another.

Rescaling the layers of a network, U_i → c_i U_i with a product of 1, divides the fields of layer i
by c_i², relative to θ, so that brackets have terms at all the scales c_i⁻² c_j⁻² ⋯. In double
precision the largest drown the others. With enough digits none is lost; but then nearly every
number is nonzero, as a balanced θ is balanced to rounding only. Zero is told from nonzero by the
*distance* of θ to a point where the number would vanish, relative to the weights. Two neighbours
of θ show it: a number that is the same there is not about to vanish, however small it is, and one
that grows like the k-th power of the distance to θ is as far from zero as its size at θ tells.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from threading import RLock
from typing import Any

import numpy as np
from typing_extensions import TypeAliasType

from liftflow.criteria.vectors import Vectors, column_lengths
from liftflow.ranks import NONZERO, TOLERANCE, ZERO, Rank, Rows, Span
from liftflow.typing import FloatArray, Forms, IntArray

PRECISE_LIMIT = 100
"""Number of parameters of a linear or ReLU network up to which this precision is used."""

NEAR, NEARER = 1e-5, 1e-7
"""Relative distances of the two neighbours of θ; distances are told up to the first."""

BITS, MAX_DECADES = 2048, 20
"""Of the numbers, for weights of θ whose range is so many powers of ten: fewer do for less.

Each deeper level of brackets takes twice as many decades. Numbers below the square root of the
resolution are exact zeros.
"""

Precise = TypeAliasType("Precise", Any)
"""A number of many bits, or an array of them; vectors at θ and both neighbours, on an axis."""

_BLOCK, _AS_LONG = 16, 1e-3  # directions taken out of rests together, and how much shorter
_N_PAIRS = 20  # of entries of z, whose brackets are looked at
_CONTEXT = RLock()
_TINY = 2.0 ** (-BITS // 2)


@contextmanager
def _precisely(decades: float = MAX_DECADES) -> Iterator[None]:
    """Work with many bits; flint has one precision per process, so one thread at a time."""
    from flint import ctx

    with _CONTEXT, ctx.workprec(int(BITS * (decades + 3) / (MAX_DECADES + 3))):
        yield


def _clear(number: Precise) -> Precise:
    """Return a number, or an exact zero."""
    from flint import arb, ctx

    return number if number > arb(2) ** (-ctx.prec // 2) else arb(0)


def _exact(numbers: Any) -> Any:
    from flint import arb

    return np.frompyfunc(lambda number: arb(float(number)), 1, 1)(numbers)


_root = np.frompyfunc(lambda number: _clear(number.mid().sqrt()), 1, 1)


def decades_of(vectors: Vectors) -> float:
    """Return the range of the weights of θ, in powers of ten."""
    sizes = vectors.fields.typical(vectors.point)
    return float(np.ptp(np.log10(sizes[sizes > 0])))


def distance(here: Precise, near: Precise, nearer: Precise) -> float:
    """Estimate how far θ is from a point where a number vanishes, relative to its weights.

    Given its sizes at θ and at the neighbours, up to ``NEAR``, which stands for all that is
    farther; 0 for an exact zero.
    """
    if not here > _TINY:
        return 0.0
    ratio = float(here / near) if near > _TINY else 1.0
    growth = float(near / nearer) if nearer > _TINY and near > nearer else 1.0
    order = max(1.0, np.log(growth) / np.log(NEAR / NEARER))
    return float(NEAR * min(1.0, ratio) ** (1 / order))


def _lengths(rows: Precise) -> Precise:
    return _root((rows * rows).sum(axis=-1))


def _matrix(entries: Precise) -> Any:
    """Copy an array into a matrix of flint's, whose products take a third of numpy's time."""
    from flint import arb_mat

    return arb_mat(len(entries), entries.shape[1], entries.ravel().tolist())


def _product(a: Precise, b: Precise) -> Precise:
    product = _matrix(a) * _matrix(b)
    return np.array(product.entries(), object).reshape(len(a), b.shape[1])


def _independent(rest: Precise, count: int) -> tuple[Precise, list[Precise]]:
    """Up to ``count`` orthonormal vectors, longest rest first, and the lengths of these rests."""
    pivots: list[Precise] = []
    found, along = np.empty((0, rest.shape[1]), object), np.empty((len(rest), 0), object)
    squares, matrix = (rest * rest).sum(axis=1), _matrix(rest)
    while len(squares) and len(pivots) < count:
        sizes = np.array([square.mid() for square in squares])
        block, first = along.shape[1], int(np.argmax(sizes))
        pivot = _lengths(row := rest[first] - along[first] @ found[len(found) - block :])
        if block and (block == _BLOCK or not pivot > _AS_LONG * pivots[-block]):
            free = sizes >= 0
            rest = (rest - _product(along, found[-block:]))[free]
            squares, along, matrix = squares[free], along[free, :0], _matrix(rest)
        elif not pivot > 0:
            break
        else:
            pivots.append(pivot)
            found = np.vstack([found, row / pivot])
            own = matrix * _matrix(found[-1:].T)
            along = np.column_stack([along, np.array(own.entries(), object)])
            squares = squares - along[:, -1] * along[:, -1]
            squares[first] = _exact(-1.0)  # never again
    return found, pivots


class PreciseSpan(Span):
    """Span by pivots, each as clear as its distance from vanishing."""

    n_points = 3

    def outside(self, vectors: Precise) -> Precise:
        rows = np.broadcast_to(vectors, (len(self.basis), *vectors.shape[-2:]))
        pairs = zip(rows, self.basis, strict=True)
        return vectors - np.array([_product(_product(own, basis.T), basis) for own, basis in pairs])

    def extend(self, vectors: Precise, floor: float = TOLERANCE) -> Rank:
        """Add vectors, and tell how many dimensions they add, in terms of distances.

        Undecided where a pivot neither vanishes nor clearly not, or where it may do so in favour
        of another one that is as small.
        """
        missing = self.size - self.dimension
        lengths = _lengths(vectors[1])
        rest = self.outside(vectors / np.where(lengths > _TINY, lengths, 1)[:, None])
        found = [_independent(rows, missing) for rows in rest]
        padded = [pivots + [_exact(0)] * (missing - len(pivots)) for _, pivots in found]
        distances = [distance(*pivots) for pivots in zip(*padded, strict=True)]
        value = sum(size > floor for size in distances)
        self.opened |= any(pivot > 0 for pivot in padded[1][value:])
        basis = np.array([directions[:value] for directions, _ in found], object)
        self.basis = np.concatenate([self.basis, basis], axis=1)
        kept, dropped = distances[:value], distances[value:]
        doubtful = _doubtful(distances, padded[1])
        clear, vague = (0, missing) if doubtful > 0 else (value, value)
        ends = min(kept, default=np.nan), max(dropped, default=np.nan)
        return Rank(value, clear, vague, doubtful, *ends)

    def complement(self) -> Precise:
        """Project the same random vectors, so that they vary as the complements do."""
        shape = self.size - self.dimension, self.size
        return self.outside(_exact(np.random.default_rng(0).standard_normal(shape)))


def _doubtful(distances: Sequence[float], near: Sequence[Precise]) -> float:
    """First distance that decides nothing, moved into the gap, or NaN.

    What vanishes at θ alone opens at its neighbours, in proportion to their distance. A pivot
    that is smaller than that may be one that θ has too, in a lower place.
    """
    vanished = False
    for size, pivot in zip(distances, near, strict=True):
        vanished |= size <= ZERO
        hidden = vanished and (size >= NONZERO or 0 < pivot < NEAR**2)
        if ZERO < size < NONZERO or hidden:
            return float(np.clip(size, ZERO, NONZERO))
    return np.nan


class PreciseVectors(Vectors):
    """Vectors in high precision: the distance to a point where a number vanishes decides (ours)."""

    rounding, least = 1e-20, 0.0

    @property
    def numbers(self) -> AbstractContextManager[None]:
        return _precisely(decades_of(self))

    def span(self) -> PreciseSpan:
        return PreciseSpan(self.size)

    @cached_property
    def thetas(self) -> FloatArray:
        """θ and both neighbours."""
        weights = self.fields.typical(self.point)
        aside = self.tangents((weights * self.rng.standard_normal(self.size))[None])
        return self.theta + np.array([[0.0], [NEAR], [NEARER]]) * aside

    def exact(self, values: Forms) -> Precise:
        return _exact(values)

    @cached_property
    def scale(self) -> FloatArray:
        """By majorants: where terms cancel, the fields have only the size of rounding."""
        sizes = self.fields.majorants([self._forms], self.point, self.n_fields)
        return column_lengths(sizes, self.point)

    def units(self, rows: Precise) -> Precise:
        return rows

    def lengths(self, vectors: Precise) -> FloatArray:
        lengths: FloatArray = _lengths(vectors[0]).astype(float)
        return lengths

    def decisive(self, *sizes: Precise) -> float:
        return distance(*map(_clear, sizes)) if len(sizes) > 1 else float(sizes[0])

    def largest(self, vectors: Precise) -> tuple[float, float]:
        """Length of the longest vector at θ, and the largest distance of all coordinates from zero.

        One that nearly vanishes may be so much larger at the neighbours that it would hide another
        that stays. Where vectors hide others in all coordinates, as their span tells, nothing is
        decided.
        """
        coordinates = _lengths(np.swapaxes(vectors, 1, 2)).T
        decisive = max(distance(*sizes) for sizes in coordinates)
        if decisive < NONZERO and not self.span().extend(vectors).decided:
            decisive = TOLERANCE
        return float(max(_lengths(vectors[0]))), decisive

    @cached_property
    def entry_brackets(self) -> tuple[IntArray, Rows] | None:
        """Those that are longest in double precision, of at most as many as would take long."""
        plain = Vectors(self.architecture, self.theta, self.rng, self.fields).entry_brackets
        if plain is None:
            return None
        pairs, brackets = plain
        longest = pairs[np.argsort(-np.linalg.norm(brackets[0], axis=1))[:_N_PAIRS]]
        return longest, self.pair_brackets(longest)


def needs_precision(vectors: Vectors) -> bool:
    """Tell whether double precision may hide scales of θ, and this one does not."""
    fields, point = vectors.fields, vectors.point
    if not fields.analytic or point.size > PRECISE_LIMIT or not vectors.apart:
        return False
    return decades_of(vectors) < MAX_DECADES
