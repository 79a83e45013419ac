"""Spans in high precision, where no scale of a number hides another, and zero is far from nonzero.

With enough digits nearly every number is nonzero, as what is balanced is balanced to rounding only.
Zero is told from nonzero by the *distance* of a point θ to one where the number would vanish,
relative to the coordinates of θ. Two neighbours of θ show it: a number that is the same there is
not about to vanish, however small it is, and one that grows like the k-th power of the distance to
θ is as far from zero as its size at θ tells.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

import numpy as np
from typing_extensions import TypeAliasType

from liftflow.ranks import NONZERO, TOLERANCE, ZERO, Rank, Span
from liftflow.typing import FloatArray

NEAR, NEARER = 1e-5, 1e-7
"""Relative distances of the two neighbours of θ; distances are told up to the first."""

BITS = 2048
"""Of the numbers at most; those below the square root of the resolution are exact zeros."""

Precise = TypeAliasType("Precise", Any)
"""A number of many bits, or an array of them; vectors at θ and both neighbours, on an axis."""

_LOST, _TOGETHER = 1e30, 16  # factor by which rounding may grow; vectors found before some are left
_CONTEXT = RLock()
_TINY = 2.0 ** (-BITS // 2)


@contextmanager
def precisely(share: float = 1.0) -> Iterator[None]:
    """Work with a share of the bits; flint has one precision per process, so one thread at once."""
    from flint import ctx

    with _CONTEXT, ctx.workprec(int(BITS * share)):
        yield


def clear(number: Precise) -> Precise:
    """Return a number, or an exact zero."""
    from flint import arb, ctx

    return number if number > arb(2) ** (-ctx.prec // 2) else arb(0)


def exact(numbers: FloatArray | float) -> Precise:
    """Return floats as numbers of many bits."""
    from flint import arb

    return np.frompyfunc(lambda number: arb(float(number)), 1, 1)(numbers)


_middle = np.frompyfunc(lambda number: number.mid(), 1, 1)
_root = np.frompyfunc(lambda number: clear(number.mid().sqrt()), 1, 1)


def distance(here: Precise, near: Precise, nearer: Precise) -> float:
    """Estimate how far θ is from a point where a number vanishes, relative to its weights.

    Given its sizes at θ and at the neighbours, up to ``NEAR``, which stands for all that is
    farther; 0 for an exact zero.
    """
    if not here > _TINY:
        return 0.0
    if not near > _TINY:  # no number that grows like that is known so well
        return TOLERANCE
    ratio = float(here / near)
    growth = float(near / nearer) if nearer > _TINY and near > nearer else 1.0
    order = max(1.0, np.log(growth) / np.log(NEAR / NEARER))
    return float(NEAR * min(1.0, ratio) ** (1 / order))


def lengths_of(rows: Precise) -> Precise:
    """Measure rows; what is no longer than rounding is zero."""
    return _root((rows * rows).sum(axis=-1))


def _matrix(entries: Precise) -> Any:
    """Copy an array into a matrix of flint's, whose products take a third of numpy's time."""
    from flint import arb_mat

    return arb_mat(len(entries), entries.shape[1], entries.ravel().tolist())


def _array(matrix: Any) -> Precise:
    return np.array(matrix.entries(), object).reshape(matrix.nrows(), matrix.ncols())


def _product(a: Precise, b: Precise) -> Precise:
    """Multiply, and forget the bounds on rounding, which would grow with every product."""
    return _array((_matrix(a) * _matrix(b)).mid())


def _independent(rows: Precise, count: int) -> tuple[Precise, list[Precise]]:
    """Up to ``count`` orthonormal vectors, longest rest first, and the lengths of these rests."""
    from flint import arb_mat

    size, pivots, lost = rows.shape[1], list[Precise](), 1.0
    found, turned = arb_mat(count, size), arb_mat(size, count)
    along, free = np.full((len(rows), count), exact(0.0)), np.arange(len(rows))
    squares = _middle((rows * rows).sum(axis=1))
    while len(free) and (number := len(pivots)) < count:
        if number % _TOGETHER == 0:  # those that are done are no longer multiplied
            free = free[squares[free] >= 0]
            matrix = _matrix(rows[free])  # zeros cost nothing
        first = int(np.argmax(squares))
        rest = (_matrix(rows[[first]]) - _matrix(along[[first]]) * found).mid()
        if not (pivot := lengths_of(row := _array(rest))[0]) > lost / _LOST:
            pivot = lengths_of(row := _array((rest - rest * turned * found).mid()))[0]
        elif pivot < 1:
            lost /= float(pivot)
        if not pivot > 0:
            break
        pivots.append(pivot)
        for place, entry in enumerate(unit := _middle(row[0] / pivot)):
            found[number, place] = turned[place, number] = entry
        own = along[free, number] = _array((matrix * _matrix(unit[:, None])).mid())[:, 0]
        squares[free] = _middle(squares[free] - own * own)
        squares[first] = exact(-1.0)  # never again
    return _array(found)[: len(pivots)], pivots


class PreciseSpan(Span):
    """Span by pivots, each as clear as its distance from vanishing."""

    n_points = 3

    def outside(self, vectors: Precise) -> Precise:
        if not self.dimension:
            return np.broadcast_to(vectors, (len(self.basis), *vectors.shape[-2:]))
        rows = np.broadcast_to(vectors, (len(self.basis), *vectors.shape[-2:]))
        pairs = zip(rows, self.basis, strict=True)
        return vectors - np.array([_product(_product(own, basis.T), basis) for own, basis in pairs])

    def holds(self, vectors: Precise) -> bool:
        lengths, basis = lengths_of(vectors), self.basis[0]
        rows = vectors / np.where(lengths > _TINY, lengths, 1)[:, None]
        return not np.any(lengths_of(rows - _product(_product(rows, basis.T), basis)) > 0)

    def extend(self, vectors: Precise, floor: float = TOLERANCE) -> Rank:
        """Add vectors, and tell how many dimensions they add, in terms of distances.

        Undecided where a pivot neither vanishes nor clearly not, or where it may do so in favour
        of another one that is as small.
        """
        missing = self.size - self.dimension
        lengths = lengths_of(vectors[1])
        rest = self.outside(vectors / np.where(lengths > _TINY, lengths, 1)[:, None])
        found = [_independent(rows, missing) for rows in rest]
        padded = [pivots + [exact(0)] * (missing - len(pivots)) for _, pivots in found]
        distances = [distance(*pivots) for pivots in zip(*padded, strict=True)]
        value = min(sum(size > floor for size in distances), *(len(pivots) for _, pivots in found))
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
        return self.outside(exact(np.random.default_rng(0).standard_normal(shape)))


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
