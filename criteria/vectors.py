"""Vectors at a point: of the fields, their brackets and the laws, and what these span.

The criteria ask how many dimensions vectors span and whether a part of them vanishes. In which
arithmetic that is answered, and by which number zero is told from nonzero, is hidden here.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from functools import cached_property
from itertools import combinations
from typing import Any, Self

import numpy as np

from liftflow.architectures import Architecture
from liftflow.criteria.fields import GradientFields, gradient_fields
from liftflow.linalg import sizes_of
from liftflow.ranks import DROP, TOLERANCE, ZERO, Rank, Rows, Span, unit_rows
from liftflow.typing import FloatArray, Forms, IntArray, OneTangent, OneTheta, refuse_beyond

SPARE = 6
"""Random combinations more than can be independent, so that no single one decides."""

PARTED = 1e3
"""Ratio of the scales of θ from which double precision may hide some."""

_MAX_PAIRS, _FEW_PAIRS = 2000, 200  # of entries of z; of lifts that are only evaluated
_AT_ONCE = 50  # of them, where covectors are mostly zeros
_MAX_ENTRIES, _MAX_NUMBERS = 100_000, 4_000_000  # of z, and of the covectors of all its pairs


class Vectors:
    """Vectors at one point, scaled coordinate by coordinate, and to lengths of about 1.

    In double precision, where a relative size decides by itself. Good where a legitimate singular
    value is well above the rounding of the largest one, so where the blocks of θ have scales that
    do not part by many orders of magnitude.
    """

    rounding = 1e-2
    """Terms that are smaller, beside those elsewhere, may be nothing but rounding."""

    spare, beyond, n_probes = SPARE, SPARE, 4
    """Brackets beyond independent ones, and beyond missing ones; entries of M looked at."""

    def __init__(
        self,
        architecture: Architecture,
        theta: OneTheta,
        rng: np.random.Generator,
        fields: GradientFields | None = None,
    ) -> None:
        self.architecture = architecture
        self.theta = theta
        self.rng = rng
        self.fields = fields or gradient_fields(architecture)
        self.point = self.fields.point(theta)
        self.size = int(self.point.size)
        self.n_fields = min(architecture.lifted_dim, self.size) + SPARE

    def at(self, theta: OneTheta) -> Self:
        """Return the vectors at another point."""
        return type(self)(self.architecture, theta, self.rng, self.fields)

    def tangents(self, velocities: FloatArray) -> FloatArray:
        """Return the velocities of θ that velocities of the coordinates of the fields are."""
        axes = self.fields.velocities(np.eye(self.architecture.dim))
        return velocities @ axes.T / np.sum(axes[0] ** 2)

    @cached_property
    def apart(self) -> bool:
        """Whether θ has weights of such different scales that double precision hides some.

        A rescaling that multiplies weights by c and leaves φ alone divides their columns of ∂φ by
        c.
        """
        scales = self.fields.scales(self.point, self.scale)
        return any(np.max(own, initial=0) > PARTED * np.min(own, initial=np.inf) for own in scales)

    def random_forms(self, count: int) -> Forms:
        """Draw forms, each of which names a field."""
        return self.fields.random_forms(count, self.point, self.rng)

    # What another arithmetic does in its own way.

    least = DROP
    """Length, beside that of their terms, from which brackets are no rounding."""

    @property
    def numbers(self) -> AbstractContextManager[None]:
        """What all that is asked of these vectors is computed within."""
        return nullcontext()

    def span(self) -> Span:
        """Return the empty span."""
        return Span(self.size)

    @cached_property
    def thetas(self) -> FloatArray:
        """θ, and the neighbours that it is judged by."""
        return self.theta[None]

    def exact(self, values: Forms) -> Any:
        """Return numbers, or forms, in the arithmetic of the vectors."""
        return values

    @cached_property
    def _plain(self) -> FloatArray:
        return self.values(self._forms, self.point, self.n_fields)

    def values(self, forms: Forms, point: Rows, count: int) -> Rows:
        """Evaluate fields at a point: zero where they are no more than rounding of their terms."""
        rows = self.fields.values(forms, point, count)
        if not self.fields.analytic or not self.least:
            return rows
        return np.where(np.abs(rows) > DROP * self.fields.majorants([forms], point, count), rows, 0)

    @cached_property
    def scale(self) -> FloatArray:
        """Typical size of the fields at each coordinate, and what it may be where they vanish."""
        return self.column_lengths(self._plain)

    def column_lengths(self, rows: FloatArray) -> OneTangent:
        """Typical size of each column of ∂φ, the unit of covectors there, from fields.

        A rescaling of the hidden nodes that multiplies a weight divides its length, so their
        product tells which columns vanish: those are given the length that the largest product
        stands for, where a weight counts as much as those of its row and column.
        """
        sizes = sizes_of(np.maximum(np.abs(self.point), self.fields.typical(self.point)))
        lengths = np.sqrt(np.mean(rows**2, axis=0))
        natural = (np.max(lengths * sizes) or 1.0) / sizes
        return np.where(lengths > DROP * natural, lengths, natural)

    def units(self, rows: Rows) -> Rows:
        """Make covectors to unit vectors."""
        return unit_rows(rows)

    def lengths(self, vectors: Rows) -> FloatArray:
        """Measure vectors at θ."""
        return np.linalg.norm(vectors[0], axis=1)

    def largest(self, vectors: Rows) -> tuple[float, float]:
        """Length of the longest vector, and the number that tells whether it is zero."""
        length = float(np.max(self.lengths(vectors)))
        return length, length

    def decisive(self, *sizes: Any) -> float:
        """Return the number that tells whether one is zero, given it at all points."""
        return float(sizes[0])

    # Fields, laws and brackets.

    @cached_property
    def _forms(self) -> Forms:
        refuse_beyond(float(self.n_fields) * self.size, f"{self.n_fields} fields at one point")
        return self.random_forms(self.n_fields)

    @cached_property
    def points(self) -> Rows:
        """The coordinates of :attr:`thetas`."""
        return self.exact(np.array([self.fields.point(theta) for theta in self.thetas]))

    @cached_property
    def field_vectors(self) -> Rows:
        """Random fields, as many as span all."""
        forms, n, several = self.exact(self._forms), self.n_fields, len(self.points) > 1
        rows = [self.values(forms, p, n) for p in self.points] if several else [self._plain]
        return self.units(np.array(rows) / self.scale)

    @cached_property
    def law_rows(self) -> Rows:
        """Rows of ∂h(θ) in the coordinates of the fields, not scaled."""
        laws = np.asarray(self.architecture.conservation_laws_jacobian(self.thetas))
        return self.exact(np.array([self.fields.velocities(rows) for rows in laws]))

    @cached_property
    def law_rank(self) -> Rank:
        """Rank of ∂h(θ), its columns scaled to compensate those of ∂φ(θ)."""
        return self.span().extend(self.scaled(self.law_rows, 1))

    @cached_property
    def conserved(self) -> bool:
        """Whether the known laws are laws here: nobody may have checked those that were given."""
        laws = np.asarray(self.architecture.conservation_laws_jacobian(self.theta))
        rows, fields = self.fields.velocities(laws), self._plain.T
        return bool(np.all(np.abs(rows @ fields) <= TOLERANCE * (np.abs(rows) @ np.abs(fields))))

    def scaled(self, rows: Rows, power: int) -> Rows:
        """Multiply covectors by a power of the scale, 1 or −1, and make them to unit vectors."""
        return self.units(rows * self.scale if power == 1 else rows / self.scale)

    def nested(self, forms: Sequence[Forms], point: Rows, count: int) -> Rows:
        """Nested brackets at a point, as they are."""
        return self.fields.brackets(forms, point, count)

    def brackets(self, forms: Sequence[Forms], count: int, span: Span | None = None) -> Rows:
        """Nested brackets [X_k, […, [X_2, X_1]]], X_1 first, relative to their terms.

        Made to unit vectors instead, brackets that vanish would be noise of full rank. Those that
        a span is likely to hold are zero if it does: then neighbours are not asked.
        """
        exact = [self.exact(form) for form in forms]
        here, *others = self.points
        first = self.nested(exact, here, count)
        if span is not None and span.holds(first / self.scale):
            return self.exact(np.zeros((len(self.points), count, self.size)))
        rows = np.array([first, *(self.nested(exact, point, count) for point in others)])
        majorants = self.fields.majorants(forms, self.point, count) / self.scale
        sizes = np.linalg.norm(majorants, axis=1, keepdims=True)
        rows = rows / self.scale / np.where(sizes > 0, sizes, 1.0)
        told = not self.least or self.lengths(rows)[:, None] > self.least
        return np.where(told, rows, 0.0)

    @cached_property
    def _field_span(self) -> tuple[Span, Rank]:
        span = self.span()
        return span, span.extend(self.field_vectors)

    def field_span(self) -> tuple[Span, Rank]:
        """Span of the fields, to be extended by the caller, and its rank."""
        span, rank = self._field_span
        return copy(span), rank

    @cached_property
    def _few_brackets(self) -> Rows:
        return self.brackets([self.random_forms(SPARE) for _ in range(2)], SPARE)

    @cached_property
    def _many_brackets(self) -> Rows:
        count = self.architecture.dim + SPARE
        return self.brackets([self.random_forms(count) for _ in range(2)], count)

    def simple_brackets(self) -> Iterator[Rows]:
        """Go through brackets of random pairs of fields: a few, and then as many as span all."""
        yield self._few_brackets
        yield self._many_brackets

    @cached_property
    def entry_brackets(self) -> tuple[IntArray, Rows] | None:
        """Pairs of entries of z, all or many, and their brackets; None where z is too long."""
        size = self.architecture.lifted_dim
        if size > _MAX_ENTRIES:
            return None  # nobody looks at so many, and some cannot be numbered
        most = _MAX_PAIRS if self.fields.analytic else _FEW_PAIRS
        n_pairs = min(most, _MAX_NUMBERS // max(size, self.size))
        if size * (size - 1) // 2 <= n_pairs:
            pairs = np.array(list(combinations(range(size), 2)))
        else:
            pairs = self.rng.integers(size, size=(n_pairs, 2))
        return pairs, self.pair_brackets(pairs)

    def pair_brackets(self, pairs: IntArray) -> Rows:
        """Return the brackets of the fields of pairs of entries of z, some at a time."""
        n_parts = 1 + len(pairs) // _AT_ONCE if self.fields.listed else 1
        parts = [list(map(self.fields.basis_forms, p.T)) for p in np.array_split(pairs, n_parts)]
        return np.concatenate([self.brackets(forms, len(forms[0])) for forms in parts], axis=1)

    # Velocities, and how M changes along them.

    def velocities(self, span: Span) -> Rows:
        """Return a basis of the velocities that all covectors of a span vanish on."""
        rows = span.complement()
        velocities = (np.where(np.abs(rows) > ZERO, rows, 0) if self.least else rows) / self.scale
        return velocities[:1] if span.opened else velocities  # the others would be no measure

    def plain(self, velocities: Rows) -> FloatArray:
        """Return velocities as unit vectors of ℝᴰ."""
        found = (velocities[0] / self.lengths(velocities)[:, None]).astype(float)
        tangents = self.tangents(found)
        return tangents / np.linalg.norm(tangents, axis=1, keepdims=True)

    def gram_changes(self, velocities: Rows) -> tuple[FloatArray, float]:
        """Relative size of ∂M along velocities, and the number that tells whether all vanish.

        M is looked at by ⟨X_g', X_g⟩ of pairs of random fields, relative to its terms.
        """
        forms = [self.exact(self.random_forms(1)) for _ in range(2 * self.n_probes)]
        pairs = list(zip(forms[::2], forms[1::2], strict=True))
        changes = [
            np.max([self._changes(*pair, point, own) for pair in pairs], axis=0)
            for point, own in zip(self.points, velocities, strict=False)
        ]
        decisive = max(self.decisive(*sizes) for sizes in zip(*changes, strict=True))
        return changes[0].astype(float), decisive

    def _changes(self, left: Forms, right: Forms, point: Rows, velocities: Rows) -> Rows:
        """Differentiate one entry of M along velocities, relative to its terms.

        Where these vanish, what is left of them is rounding: it is seen beside the terms along a
        velocity that all coordinates have a part in.
        """
        fields = self.fields
        anywhere = self.exact(1.0 / self.scale / np.sqrt(self.size))
        velocities = np.concatenate([velocities, anywhere[None]])
        terms = np.concatenate(
            [
                fields.derivatives(one, point, velocities) * self.values(other, point, 1)
                for one, other in ((left, right), (right, left))
            ],
            axis=1,
        )
        sizes = np.abs(terms).sum(axis=1)
        sizes = np.maximum(sizes, self.rounding * sizes[-1])[:-1]
        return np.abs(terms[:-1].sum(axis=1)) / np.where((sizes > 0).astype(bool), sizes, 1)
