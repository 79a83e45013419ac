r"""Vectors of small networks in high precision, where no scale of a layer hides another.

Rescaling the layers of a network, U_i → c_i U_i with a product of 1, divides the fields of layer i
by c_i², relative to θ, so that brackets have terms at all the scales c_i⁻² c_j⁻² ⋯. In double
precision the largest drown the others. With enough digits none is lost; but then nearly every
number is nonzero, as a balanced θ is balanced to rounding only. Zero is told from nonzero by the
*distance* of θ to a point where the number would vanish, relative to the weights. Two neighbours
of θ show it: a number that is the same there is not about to vanish, however small it is, and one
that grows like the k-th power of the distance to θ is as far from zero as its size at θ tells.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from threading import RLock
from typing import Any

import numpy as np
from typing_extensions import TypeAliasType

from liftflow.criteria.fields import GradientFields
from liftflow.criteria.findings import NONZERO, TOLERANCE, ZERO, Rank
from liftflow.criteria.network_fields import NetworkForms
from liftflow.criteria.vectors import N_PROBES, Span, Vectors, column_lengths, relative_gram_changes
from liftflow.typing import FloatArray, IntArray, OneTheta

PRECISE_LIMIT = 100
"""Number of parameters of a linear or ReLU network up to which this precision is used."""

NEAR, NEARER = 1e-5, 1e-7
"""Relative distances of the two neighbours of θ; distances are told up to the first."""

BITS = 2048
"""Of the numbers; those below the square root of their resolution are exact zeros."""

MAX_DECADES = 20
"""Range of weights of θ, in powers of ten, for which these bits suffice at all depths of brackets:
each deeper level takes twice as many decades."""

PARTED = 1e3
"""Ratio of the scales of θ from which double precision may hide some."""

Precise = TypeAliasType("Precise", Any)
"""A number of many bits, or an array of them; vectors at θ and both neighbours, on an axis."""

_N_PAIRS = 20  # of entries of z, whose brackets are looked at
_CONTEXT = RLock()


@contextmanager
def _precisely() -> Iterator[None]:
    """Work with ``BITS`` bits; flint has one precision per process, so one thread at a time."""
    from flint import ctx

    with _CONTEXT, ctx.workprec(BITS):
        yield


_TINY = 2.0 ** (-BITS // 2)

_root = np.frompyfunc(lambda number: number.mid().sqrt(), 1, 1)


def _exact(numbers: Any) -> Any:
    from flint import arb

    return np.frompyfunc(lambda number: arb(float(number)), 1, 1)(numbers)


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


def _independent(rest: Precise, count: int) -> tuple[Precise, list[Precise]]:
    """Up to ``count`` orthonormal vectors, longest rest first, and the lengths of these rests."""
    found: list[Precise] = []
    pivots: list[Precise] = []
    while len(rest) and len(found) < count:
        squares = [square.mid() for square in (rest * rest).sum(axis=1)]
        first = max(range(len(squares)), key=squares.__getitem__)
        pivot = squares[first].sqrt()
        if not pivot > _TINY:
            break
        pivots.append(pivot)
        found.append(rest[first] / pivot)
        rest = rest - np.outer(rest @ found[-1], found[-1])
    return np.array(found, object).reshape(len(found), rest.shape[1]), pivots


class PreciseSpan(Span):
    """Span by pivots, each as clear as its distance from vanishing."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.basis = np.zeros((3, 0, size), object)

    @_precisely()
    def extend(self, vectors: Precise) -> Rank:
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
        value = sum(size > TOLERANCE for size in distances)
        self.opened |= bool(np.any(np.array(padded[1][value:]) > _TINY))
        basis = np.array([directions[:value] for directions, _ in found], object)
        self.basis = np.concatenate([self.basis, basis], axis=1)
        kept, dropped = distances[:value], distances[value:]
        doubtful = _doubtful(distances, padded[1])
        return Rank(value, doubtful, min(kept, default=np.nan), max(dropped, default=np.nan))

    outside = _precisely()(Span.outside)

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
        if ZERO < size < NONZERO or (vanished and (size >= NONZERO or _TINY < pivot < NEAR**2)):
            return float(np.clip(size, ZERO, NONZERO))
    return np.nan


class PreciseVectors(Vectors):
    """Vectors in high precision: the distance to a point where a number vanishes decides (ours)."""

    @cached_property
    def _thetas(self) -> OneTheta:
        weights = self.fields.typical(self.point)
        aside = self.tangents((weights * self.rng.standard_normal(self.size))[None])
        return self.theta + np.array([[0.0], [NEAR], [NEARER]]) * aside

    @cached_property
    def _points(self) -> Precise:
        return _exact([self.fields.point(theta) for theta in self._thetas])

    def _everywhere(self, evaluate: Callable[[Precise], Precise]) -> Precise:
        return np.array([evaluate(point) for point in self._points]) / self.scale

    @cached_property
    def scale(self) -> FloatArray:
        """By majorants: where terms cancel, the fields have only the size of rounding."""
        forms = self.random_forms(self.n_fields)
        return column_lengths(self.fields.majorants([forms], self.point, self.n_fields), self.point)

    def span(self) -> PreciseSpan:
        return PreciseSpan(self.size)

    @cached_property
    def field_vectors(self) -> Precise:
        count = self.n_fields
        with _precisely():
            forms = _exact_forms(self.random_forms(count))
            return self._everywhere(lambda point: self.fields.values(forms, point, count))

    @cached_property
    def law_rows(self) -> Precise:
        """Entries of θ and zeros, without rounding."""
        laws = np.asarray(self.architecture.conservation_laws_jacobian(self._thetas))
        return _exact([self.fields.velocities(rows) for rows in laws])

    @_precisely()
    def scaled(self, rows: Precise, factors: FloatArray) -> Precise:
        return rows * factors

    @_precisely()
    def brackets(self, forms: Sequence[NetworkForms], count: int) -> Precise:
        exact = [_exact_forms(form) for form in forms]
        rows = self._everywhere(lambda point: self.fields.brackets(exact, point, count))
        return rows / self._bracket_units(forms, count)

    @cached_property
    def entry_brackets(self) -> tuple[IntArray, Precise] | None:
        """Those that are longest in double precision, of at most as many as would take long."""
        plain = Vectors(self.architecture, self.theta, self.rng, self.fields).entry_brackets
        if plain is None:
            return None
        pairs, brackets = plain
        longest = pairs[np.argsort(-np.linalg.norm(brackets, axis=1))[:_N_PAIRS]]
        forms = [self.fields.basis_forms(column) for column in longest.T]
        return longest, self.brackets(forms, len(longest))

    @_precisely()
    def lengths(self, vectors: Precise) -> FloatArray:
        lengths: FloatArray = _lengths(vectors[0]).astype(float)
        return lengths

    @_precisely()
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

    velocities = _precisely()(Vectors.velocities)

    @_precisely()
    def plain(self, velocities: Precise) -> FloatArray:
        units: FloatArray = (velocities[0] / _lengths(velocities[0])[:, None]).astype(float)
        return units

    @_precisely()
    def gram_changes(self, velocities: Precise) -> tuple[FloatArray, float]:
        pairs = [_exact_forms(self.random_forms(2)) for _ in range(N_PROBES)]
        changes = [
            relative_gram_changes(self.fields, pairs, *at)
            for at in zip(self._points, velocities, strict=False)
        ]
        here = changes[0].astype(float)
        if len(changes) < 3:
            return here, float(max(here))
        return here, max(distance(*sizes) for sizes in zip(*changes, strict=True))


def _exact_forms(forms: NetworkForms) -> NetworkForms:
    parts = (forms.multipliers, forms.sources, forms.sinks)
    return NetworkForms(*[_exact(part) for part in parts])


def needs_precision(fields: GradientFields, point: FloatArray, apart: Callable[[], bool]) -> bool:
    """Tell whether double precision may hide scales of θ, and this one does not.

    Parameters
    ----------
    apart : callable
        Tells whether those of the fields part, in small networks at little cost.
    """
    scales = fields.scales(point)
    if point.size > PRECISE_LIMIT or not scales.size or not (parted(scales) or apart()):
        return False
    sizes = fields.typical(point)
    return bool(np.ptp(np.log10(sizes[sizes > 0])) < MAX_DECADES)


def parted(scales: FloatArray) -> bool:
    """Tell whether scales are so different that double precision hides some."""
    return bool(np.max(scales, initial=0.0) > PARTED * np.min(scales, initial=np.inf))
