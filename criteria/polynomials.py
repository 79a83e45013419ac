"""Discovery of polynomial conservation laws of any architecture."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations_with_replacement
from math import comb
from typing import Any

import numpy as np

from liftflow.architectures import Architecture
from liftflow.criteria.fields import entry_units, finite
from liftflow.criteria.findings import Verdict, rank_of
from liftflow.criteria.labels import parameter_labels
from liftflow.criteria.vectors import unit_rows
from liftflow.doors import door
from liftflow.errors import InputError, ShapeError
from liftflow.typing import FloatArray, Rng, Scalars, Tangent, Theta, as_array, as_count, as_rng

MONOMIAL_LIMIT = 2500
"""Largest number of monomials: the matrix of conditions has as many columns."""

_SPARE = 20
_ROUNDS = 10  # of drawing points anew where all fields vanish
_CHUNK = 10**7  # numbers in the Jacobians that are held at once
_LARGEST_DENOMINATOR = 64
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

Monomial = tuple[int, ...]
"""Numbers of the parameters that are multiplied, in ascending order, with repetition."""


@dataclass(frozen=True)
class PolynomialLaw:
    """A conservation law h(θ) that is a polynomial with rational coefficients.

    Attributes
    ----------
    terms : tuple of (tuple of int, Fraction)
        Monomials, as the numbers of their parameters, with their coefficients.
    labels : tuple of str
        Names of the parameters.
    """

    terms: tuple[tuple[Monomial, Fraction], ...]
    labels: tuple[str, ...]

    def __call__(self, theta: Theta) -> Scalars:
        """Evaluate the law."""
        theta = as_array(theta, "theta", (len(self.labels),), differentiable=False)
        values = [float(c) * np.prod(theta[..., list(m)], axis=-1) for m, c in self.terms]
        return np.sum(values, axis=0)

    def gradient(self, theta: Theta) -> Tangent:
        """Differentiate the law."""
        theta = as_array(theta, "theta", (len(self.labels),), differentiable=False)
        result = np.zeros_like(theta)
        for monomial, coefficient in self.terms:
            for position, number in enumerate(monomial):
                others = list(monomial[:position] + monomial[position + 1 :])
                result[..., number] += float(coefficient) * np.prod(theta[..., others], axis=-1)
        return result

    def __str__(self) -> str:
        """Write the polynomial down."""
        text = ""
        for monomial, coefficient in self.terms:
            sign = "− " if coefficient < 0 else "+ "
            size = abs(coefficient)
            factor = "" if size == 1 else f"{size} "
            text += f"{sign}{factor}{self._write(monomial)} "
        return text.strip().removeprefix("+ ")

    def _write(self, monomial: Monomial) -> str:
        parts = []
        for number in dict.fromkeys(monomial):
            power = monomial.count(number)
            exponent = str(power).translate(_SUPERSCRIPTS) if power > 1 else ""
            parts.append(self.labels[number] + exponent)
        return " ".join(parts)


@dataclass(frozen=True)
class DiscoveredLaws:
    """All polynomial conservation laws up to a degree: a basis of them, as simple as found.

    Attributes
    ----------
    laws : tuple of PolynomialLaw
        Linearly independent. Empty where nothing is decided.
    verdict : Verdict
        ``"holds"`` where the null space is clear and every law passes at fresh points.
    degree : int
        Largest degree that was looked at.
    n_monomials : int
        Number of monomials up to it.
    n_independent : int
        Number of laws that are functionally independent, the rank of their gradients.
    margin : float
        Ratio of the smallest singular value that counts as nonzero to the largest that does not.
    residual : float
        Largest derivative of a law along a random field at fresh points, relative to its terms.
    reason : str
        One sentence.
    """

    laws: tuple[PolynomialLaw, ...]
    verdict: Verdict
    degree: int
    n_monomials: int
    n_independent: int
    margin: float
    residual: float
    reason: str

    def __len__(self) -> int:
        """Count the laws."""
        return len(self.laws)

    def __iter__(self) -> Iterator[PolynomialLaw]:
        """Go through the laws."""
        return iter(self.laws)

    def __str__(self) -> str:
        """Write all laws down, one per line."""
        return "\n".join([self.reason, *(f"  {law}" for law in self.laws)])

    def to_dict(self) -> dict[str, Any]:
        """Return everything in the types of JSON."""
        return {
            "laws": [str(law) for law in self.laws],
            "verdict": str(self.verdict),
            "degree": self.degree,
            "n_monomials": self.n_monomials,
            "n_independent": self.n_independent,
            "margin": self.margin if np.isfinite(self.margin) else None,
            "residual": self.residual,
            "reason": self.reason,
        }


@door
def discover_laws(
    architecture: Architecture,
    degree: int = 2,
    *,
    labels: Sequence[str] | None = None,
    rng: Rng = 0,
) -> DiscoveredLaws:
    r"""Find all polynomial conservation laws up to a degree, with rational coefficients.

    h is conserved by every flow if and only if :math:`⟨∇h, ∇⟨g, φ⟩⟩ = 0` for all g and θ. This is
    linear in the coefficients of h: one random g at each of many random θ gives enough equations,
    and their null space holds all laws. Its basis is brought into echelon form, where rational
    coefficients show, made sparser, and verified at fresh points.

    Parameters
    ----------
    architecture : Architecture
        Any; what it says of its own laws is not looked at.
    degree : int
        Largest degree, without the constants.
    labels : sequence of str, optional
        Names of the parameters; those of the family by default.

    Raises
    ------
    InputError
        More than ``MONOMIAL_LIMIT`` monomials.
    ShapeError
        Another number of labels.

    References
    ----------
    Polynomial laws as a null space: [Marcotte2023]_; the rational basis: ours.

    Examples
    --------
    >>> from liftflow.architectures import TwoLayerLinear
    >>> from liftflow.criteria import discover_laws
    >>> for law in discover_laws(TwoLayerLinear(2, 1, 2)):  # UᵀU − VᵀV
    ...     print(law)
    U[0,0]² + U[1,0]² − V[0,0]²
    U[0,0] U[0,1] + U[1,0] U[1,1] − V[0,0] V[0,1]
    U[0,1]² + U[1,1]² − V[0,1]²
    """
    rng, dim = as_rng(rng), architecture.dim
    degree = as_count(degree, "degree", 1)
    labels = tuple(parameter_labels(architecture) if labels is None else labels)
    if len(labels) != dim:
        raise ShapeError(f"labels must name {dim} parameters, got {len(labels)}")
    n_monomials = comb(dim + degree, degree) - 1
    if n_monomials > MONOMIAL_LIMIT:
        raise InputError(
            f"{dim} parameters have {n_monomials} monomials up to degree {degree}, more than "
            f"{MONOMIAL_LIMIT}; take a smaller network of the same family, or a smaller degree"
        )
    monomials = [
        m for d in range(1, degree + 1) for m in combinations_with_replacement(range(dim), d)
    ]
    conditions = _derivatives(architecture, monomials, n_monomials + _SPARE, rng)
    singular, right = np.linalg.svd(unit_rows(conditions), full_matrices=False)[1:]
    rank = rank_of(singular, float(singular[0]))
    basis = _echelon(right[rank.value :])
    rows = [_rational(row) for row in basis]
    moved = np.any(conditions, axis=1)
    doubts = {
        "the fields vanish at most points": np.any(moved) and not np.all(moved),
        "the null space is not clear": not rank.decided,
        "not rational": None in rows,
    }
    if any(doubts.values()):
        reason = next(text for text, doubtful in doubts.items() if doubtful)
        return DiscoveredLaws(
            (),
            Verdict.UNDECIDED,
            degree,
            n_monomials,
            0,
            rank.margin,
            np.nan,
            f"nothing is decided up to degree {degree}: {reason}",
        )
    sparse = _sparser([row for row in rows if row is not None])
    laws = tuple(
        PolynomialLaw(tuple((monomials[i], row[i]) for i in sorted(row)), labels) for row in sparse
    )
    residual = _residual(architecture, laws, rng)
    point = rng.standard_normal(dim)
    gradients = np.array([law.gradient(point) for law in laws]).reshape(-1, dim)
    n_independent = int(np.linalg.matrix_rank(gradients)) if laws else 0
    holds = residual < 1e-9
    return DiscoveredLaws(
        laws,
        Verdict.HOLDS if holds else Verdict.UNDECIDED,
        degree,
        n_monomials,
        n_independent,
        rank.margin,
        residual,
        f"{len(laws)} polynomial laws up to degree {degree}, {n_independent} of them independent",
    )


def _derivatives(
    architecture: Architecture, monomials: list[Monomial], count: int, rng: np.random.Generator
) -> FloatArray:
    """Derivative of every monomial along a random field at each of ``count`` random points."""
    theta, fields = _unit_fields(architecture, count, rng)
    columns = []
    for size in sorted({len(monomial) for monomial in monomials}):
        numbers = np.array([m for m in monomials if len(m) == size])
        total = np.zeros((count, len(numbers)))
        for position in range(size):
            others = np.delete(numbers, position, axis=1)
            total += fields[:, numbers[:, position]] * np.prod(theta[:, others], axis=-1)
        columns.append(total)
    return np.hstack(columns)


def _unit_fields(
    architecture: Architecture, count: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Random points and the unit vector of a random field at each; zero where nearly all vanish."""
    theta, fields = np.zeros((2, count, architecture.dim))
    units = entry_units(architecture, np.ones(architecture.dim))
    for _ in range(_ROUNDS):
        missing = np.flatnonzero(~np.any(fields, axis=1))
        step = max(1, _CHUNK // (architecture.lifted_dim * architecture.dim))
        for start in range(0, missing.size, step):
            rows = missing[start : start + step]
            theta[rows] = rng.standard_normal((rows.size, architecture.dim))
            forms = rng.standard_normal((rows.size, *architecture.lifted_shape)) / units
            fields[rows] = finite(architecture.lift_vjp(theta[rows], forms), architecture)
    largest = np.max(np.abs(fields), axis=1, keepdims=True)  # first, as squares may underflow
    return theta, unit_rows(fields / np.where(largest > 0, largest, 1.0))


def _echelon(rows: FloatArray, tolerance: float = 1e-6) -> FloatArray:
    """Bring rows into reduced echelon form, leading ones on the earliest columns possible."""
    rows, done = rows.copy(), 0
    for column in range(rows.shape[1]):
        if done == len(rows):
            break
        best = done + int(np.argmax(np.abs(rows[done:, column])))
        if abs(rows[best, column]) < tolerance:
            continue
        rows[[done, best]] = rows[[best, done]]
        rows[done] /= rows[done, column]
        others = np.arange(len(rows)) != done
        rows[others] -= np.outer(rows[others, column], rows[done])
        done += 1
    return rows


def _rational(row: FloatArray) -> dict[int, Fraction] | None:
    """Return the nonzero entries as small fractions, or None where they are none."""
    fractions = {}
    for number in np.flatnonzero(np.abs(row) > 1e-7).tolist():
        fractions[number] = Fraction(row[number]).limit_denominator(_LARGEST_DENOMINATOR)
        if abs(row[number] - fractions[number]) > 1e-7 or not fractions[number]:
            return None
    return fractions


def _sparser(rows: list[dict[int, Fraction]]) -> list[dict[int, Fraction]]:
    """Subtract rows from each other as long as that leaves fewer terms."""
    improved = True
    while improved:
        improved = False
        for i, own in enumerate(rows):
            for j, other in enumerate(rows):
                if i == j:
                    continue
                for ratio in {own[k] / other[k] for k in own.keys() & other.keys()}:
                    reduced = {
                        k: value
                        for k in own.keys() | other.keys()
                        if (value := own.get(k, Fraction(0)) - ratio * other.get(k, Fraction(0)))
                    }
                    if len(reduced) < len(own):
                        rows[i] = own = reduced
                        improved = True
    return [_leading_one(row) for row in rows]


def _leading_one(row: dict[int, Fraction]) -> dict[int, Fraction]:
    first = row[min(row)]
    return {number: value / first for number, value in row.items()}


def _residual(
    architecture: Architecture, laws: tuple[PolynomialLaw, ...], rng: np.random.Generator
) -> float:
    theta, fields = _unit_fields(architecture, 10, rng)
    worst = 0.0
    for law in laws:
        terms = law.gradient(theta) * fields
        sizes = np.abs(terms).sum(axis=1)
        worst = max(worst, float(np.max(np.abs(terms.sum(axis=1)) / np.where(sizes > 0, sizes, 1))))
    return worst
