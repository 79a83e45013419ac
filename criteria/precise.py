r"""Vectors of small networks in high precision, where no scale of a layer hides another.

Rescaling the layers of a network, U_i → c_i U_i with a product of 1, divides the fields of layer i
by c_i², relative to θ, so that brackets have terms at all the scales c_i⁻² c_j⁻² ⋯. In double
precision the largest drown the others. With enough digits none is lost, and the distance of θ to a
point where a number would vanish tells zero from nonzero.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from liftflow.criteria.fields import gradient_fields
from liftflow.criteria.traces import MAX_LEVELS, LieTrace, exact_levels, lie_trace
from liftflow.criteria.vectors import Vectors
from liftflow.distances import (
    NEAR,
    NEARER,
    Precise,
    PreciseSpan,
    clear,
    distance,
    exact,
    lengths_of,
    precisely,
)
from liftflow.linalg import Arithmetic
from liftflow.ranks import NONZERO, TOLERANCE, Rank, Rows
from liftflow.typing import FloatArray, Forms, IntArray

PRECISE_LIMIT, MAX_DECADES = 100, 20
"""Number of parameters of a linear or ReLU network up to which this precision is used; range of the
weights of θ, in powers of ten, for which all bits do: fewer do for less."""

SHALLOW = 4
"""Levels of brackets that there are always bits for: each deeper one takes two ranges more."""

_N_PAIRS, _HELD = 20, 2**18  # of entries of z, whose brackets are looked at; numbers at once


def decades_of(vectors: Vectors) -> float:
    """Return the range of the weights of θ, in powers of ten."""
    sizes = vectors.fields.typical(vectors.point)
    return float(np.ptp(np.log10(sizes[sizes > 0])))


class PreciseVectors(Vectors):
    """Vectors in high precision: the distance to a point where a number vanishes decides (ours)."""

    rounding, least, spare, beyond, n_probes = 1e-20, 0.0, 1, 0, 2  # one tells, without rounding
    levels = SHALLOW  # of brackets, for which there are bits enough

    @property
    def numbers(self) -> AbstractContextManager[None]:
        """Half the bits at level 3, all at the last, for the widest range of weights."""
        share = 0.2 + 0.1 * self.levels
        return precisely(share * (decades_of(self) + 3) / (MAX_DECADES + 3))

    def deep(self, levels: int) -> "PreciseVectors":
        """Return the same, with bits enough for so many levels."""
        vectors = self if levels <= self.levels else self.at(self.theta)
        vectors.levels = max(levels, self.levels)
        return vectors

    def span(self) -> PreciseSpan:
        return PreciseSpan(self.size)

    @cached_property
    def thetas(self) -> FloatArray:
        """θ and both neighbours."""
        weights = self.fields.typical(self.point)
        aside = self.tangents((weights * self.rng.standard_normal(self.size))[None])
        return self.theta + np.array([[0.0], [NEAR], [NEARER]]) * aside

    def exact(self, values: Forms) -> Precise:
        return exact(values)

    def nested(self, forms: Sequence[Forms], point: Rows, count: int) -> Rows:
        """Take difference quotients, exact with as many bits more for each: 2ᵏ fields, not 3ᵏ."""
        from flint import arb, ctx

        step, per_step = arb(2) ** -ctx.prec, arb(2) ** ctx.prec

        def evaluated(forms: Sequence[Forms], at: Rows) -> Rows:
            *inner, outer = forms
            own: Rows = self.fields.values(outer, at, len(at))
            if not inner:
                return own
            twice = [np.concatenate([form, form]) for form in inner]
            value, moved = np.split(evaluated(twice, np.concatenate([at, at + step * own])), 2)
            other = self.fields.values(outer, at + step * value, len(at))
            return per_step * (moved - value - other + own)

        points, n_parts = np.tile(point, (count, 1)), 1 + (count * self.size << len(forms)) // _HELD
        parts = np.array_split(np.arange(count), min(count, n_parts))
        with ctx.workprec(len(forms) * ctx.prec):
            own = [evaluated([form[part] for form in forms], points[part]) for part in parts]
        return np.concatenate(own)

    @cached_property
    def scale(self) -> FloatArray:
        """By majorants: where terms cancel, the fields have only the size of rounding."""
        return self.column_lengths(self.fields.majorants([self._forms], self.point, self.n_fields))

    def units(self, rows: Precise) -> Precise:
        return rows

    def lengths(self, vectors: Precise) -> FloatArray:
        lengths: FloatArray = lengths_of(vectors[0]).astype(float)
        return lengths

    def decisive(self, *sizes: Precise) -> float:
        return distance(*map(clear, sizes)) if len(sizes) > 1 else float(sizes[0])

    def largest(self, vectors: Precise) -> tuple[float, float]:
        """Length of the longest vector at θ, and the largest distance of all coordinates from zero.

        One that nearly vanishes may be so much larger at the neighbours that it would hide another
        that stays. Where vectors hide others in all coordinates, as their span tells, nothing is
        decided.
        """
        coordinates = lengths_of(np.swapaxes(vectors, 1, 2)).T
        decisive = max(distance(*sizes) for sizes in coordinates)
        if decisive < NONZERO and not self.span().extend(vectors).decided:
            decisive = TOLERANCE
        return float(max(lengths_of(vectors[0]))), decisive

    @cached_property
    def entry_brackets(self) -> tuple[IntArray, Rows] | None:
        """Those that are longest in double precision, of at most as many as would take long."""
        plain = Vectors(self.architecture, self.theta, self.rng, self.fields).entry_brackets
        if plain is None:
            return None
        pairs, brackets = plain
        longest = pairs[np.argsort(-np.linalg.norm(brackets[0], axis=1))[:_N_PAIRS]]
        return longest, self.pair_brackets(longest)


def precise_trace(
    vectors: PreciseVectors, most: int, told: LieTrace | None, *, spanned: bool = False
) -> LieTrace:
    """Trace of the Lie algebra in high precision, with what floats told of it.

    How many dimensions each level adds at θ as it is, exact arithmetic tells, and no more are
    clear. Where as many are clear on all shallow levels, the deeper ones are believed (ours): they
    are looked for only if they have to be ``spanned``.
    """
    field = Arithmetic.over_a_field(vectors.rng)
    fields, point = gradient_fields(vectors.architecture, field), field.residues(vectors.point)
    exact, _ = exact_levels(fields, point, most, vectors.rng, patience=2, levels=MAX_LEVELS)
    ended = sum(exact) == most or exact[-2:] == [0, 0]
    bounds, end = np.cumsum(exact).tolist(), sum(exact) if ended else most
    least = told.dimension if told and told.decided else 0
    known: dict[str, Any] = {"patience": 1 if least else 2, "least": least, "bounds": bounds}

    def grown(levels: int, likely: list[int]) -> LieTrace:
        with (deep := vectors.deep(levels)).numbers:
            return lie_trace(deep, end, levels=levels, likely=likely, **known)

    guess = [rank.value for rank in told.ranks] if told else exact
    trace = grown(SHALLOW, guess)
    if trace.settled or not ended:  # what has no end at θ itself is not settled
        return trace
    if trace.dimension < sum(exact[:SHALLOW]) or not all(rank.decided for rank in trace.ranks):
        return grown(MAX_LEVELS, guess)
    if spanned:
        return grown(bounds.index(bounds[-1]) + 1, exact)
    deeper = [Rank(added, added, added, np.nan, np.nan, np.nan) for added in exact[SHALLOW:]]
    return replace(trace, ranks=(*trace.ranks, *deeper), settled=True)


def needs_precision(vectors: Vectors) -> bool:
    """Tell whether double precision may hide scales of θ, and this one does not."""
    fields, point = vectors.fields, vectors.point
    small = fields.analytic and point.size <= PRECISE_LIMIT
    return small and vectors.apart and decades_of(vectors) < MAX_DECADES
