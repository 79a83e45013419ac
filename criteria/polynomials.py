"""Discovery of polynomial conservation laws of any architecture."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations_with_replacement
from math import comb, lcm
from typing import TYPE_CHECKING, Any

import numpy as np
from flint import fmpz_mat
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from liftflow.architectures import Architecture
from liftflow.architectures.labels import parameter_labels
from liftflow.criteria.fields import entry_units, finite
from liftflow.criteria.findings import Verdict, plain, rank_of
from liftflow.criteria.vectors import unit_rows
from liftflow.doors import door
from liftflow.errors import InputError, ShapeError
from liftflow.files import Stored
from liftflow.typing import FloatArray, Rng, Scalars, Tangent, Theta, as_array, as_count, as_rng

MONOMIAL_LIMIT = 2500
"""Largest number of monomials: the matrix of conditions has as many columns."""

_SPARE = 20
_ROUNDING = 1e-7  # of coefficients
_RESIDUAL = 1e-9
_ROUNDS = 10  # of drawing points anew where all fields vanish
_CHUNK = 10**7  # numbers in the Jacobians that are held at once
if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

    def __repr__(self) -> str:
        """Say in one line what it is."""
        return f"PolynomialLaw({self})"

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
class DiscoveredLaws(Stored):
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

    _parts = (PolynomialLaw, Verdict, Fraction)

    def __len__(self) -> int:
        """Count the laws."""
        return len(self.laws)

    def __iter__(self) -> Iterator[PolynomialLaw]:
        """Go through the laws."""
        return iter(self.laws)

    def __repr__(self) -> str:
        """Say in one line what was found."""
        return (
            f"DiscoveredLaws({self.verdict}: {len(self)} up to degree {self.degree}, "
            f"{self.n_independent} of them independent)"
        )

    def plot(self) -> "Figure":
        """Draw the coefficients: a row for each law, a column for each monomial."""
        from liftflow.drawing import draw_coefficients

        terms = [{law._write(m): float(c) for m, c in law.terms} for law in self.laws]
        return draw_coefficients(terms, self.reason)

    def _repr_html_(self) -> str:
        """Render the laws for a notebook."""
        rows = "".join(f"<li>{html.escape(str(law))}</li>" for law in self.laws)
        return f"<p>{html.escape(self.reason)}</p><ol>{rows}</ol>"

    def __str__(self) -> str:
        """Write all laws down, one per line."""
        return "\n".join([self.reason, *(f"  {law}" for law in self.laws)])

    def to_dict(self) -> dict[str, object]:
        """Return everything in the types of JSON."""
        record = {**vars(self), "laws": [str(law) for law in self.laws]}
        return {key: plain(value) for key, value in record.items()}


@door
def discover_laws(
    architecture: Architecture,
    degree: int = 2,
    loss: Any = None,
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
    loss : Loss, optional
        Find the laws of this loss, as :func:`count_conservation_laws` counts them.
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
    basis = None if loss is None else np.asarray(loss.excited(architecture))
    drawn = _unit_fields(architecture, n_monomials + _SPARE, rng, basis)
    conditions = _derivatives(monomials, *drawn)
    singular, right = np.linalg.svd(unit_rows(conditions), full_matrices=False)[1:]
    rank = rank_of(singular, float(singular[0]))
    rational = _rational(_echelon(right[rank.value :]))
    moved = np.any(conditions, axis=1)
    doubts = {
        "the fields vanish at most points": np.any(moved) and not np.all(moved),
        "the null space is not clear": not rank.decided,
        "not rational": rational is None,
    }
    laws: tuple[PolynomialLaw, ...] = ()
    n_independent, residual = 0, np.nan
    if rational is None or any(doubts.values()):
        doubt = next(text for text, doubtful in doubts.items() if doubtful)
        reason = f"nothing is decided up to degree {degree}: {doubt}"
    else:
        laws = tuple(
            PolynomialLaw(tuple((monomials[i], value) for i, value in row.items()), labels)
            for row in _sparser(rational)
        )
        residual = _residual(laws, *_unit_fields(architecture, 10, rng, basis))
        point = rng.standard_normal(dim)
        gradients = np.reshape([law.gradient(point) for law in laws], (-1, dim))
        n_independent = int(np.linalg.matrix_rank(gradients)) if laws else 0
        reason = f"{len(laws)} polynomial laws up to degree {degree}, {n_independent} of them "
        reason += "independent"
    return DiscoveredLaws(
        laws,
        Verdict.HOLDS if residual < _RESIDUAL else Verdict.UNDECIDED,
        degree,
        n_monomials,
        n_independent,
        rank.margin,
        residual,
        reason,
    )


def _derivatives(monomials: list[Monomial], theta: FloatArray, fields: FloatArray) -> FloatArray:
    """Derivative of every monomial along a field at each of several points."""
    columns = []
    for size in sorted({len(monomial) for monomial in monomials}):
        numbers = np.array([m for m in monomials if len(m) == size])
        total = np.zeros((len(theta), len(numbers)))
        for position in range(size):
            others = np.delete(numbers, position, axis=1)
            total += fields[:, numbers[:, position]] * np.prod(theta[:, others], axis=-1)
        columns.append(total)
    return np.hstack(columns)


def _unit_fields(
    architecture: Architecture, count: int, rng: np.random.Generator, basis: FloatArray | None
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
            if basis is None:
                forms = rng.standard_normal((rows.size, *architecture.lifted_shape)) / units
            else:
                forms = np.tensordot(rng.standard_normal((rows.size, len(basis))), basis, 1)
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


def _rational(rows: FloatArray) -> FloatArray | None:
    """Return multiples of rows of small fractions that are integers, or None."""
    found = np.zeros(rows.shape, object)
    for number, row in enumerate(rows):
        own = np.flatnonzero(np.abs(row) > _ROUNDING)
        entries = [Fraction(entry).limit_denominator(_LARGEST_DENOMINATOR) for entry in row[own]]
        if np.any(np.abs(row[own] - np.array(entries, float)) > _ROUNDING):
            return None
        common = lcm(*[entry.denominator for entry in entries])
        found[number, own] = [int(common * entry) for entry in entries]
    return found


def _sparser(rows: FloatArray) -> list[dict[int, Fraction]]:
    """Make integer rows short and so sparse, by LLL where they share columns; leading ones."""
    shares = csr_array(rows.astype(bool), dtype=int)
    count, parts = connected_components(shares @ shares.T, directed=False)
    reduced = []
    for part in range(count):
        own = rows[parts == part][::-1]  # those of later monomials are more local
        columns = np.flatnonzero(np.any(own, axis=0))
        for row in fmpz_mat(own[:, columns].tolist()).lll().tolist():
            entries = {
                n: int(entry) for n, entry in zip(columns.tolist(), row, strict=True) if entry
            }
            first = next(iter(entries.values()))
            reduced.append({n: Fraction(entry, first) for n, entry in entries.items()})
    return sorted(reduced, key=tuple)


def _residual(laws: tuple[PolynomialLaw, ...], theta: FloatArray, fields: FloatArray) -> float:
    """Largest derivative of a law along the fields, relative to its terms."""
    worst = 0.0
    for law in laws:
        terms = law.gradient(theta) * fields
        sizes = np.abs(terms).sum(axis=1)
        worst = max(worst, float(np.max(np.abs(terms.sum(axis=1)) / np.where(sizes > 0, sizes, 1))))
    return worst
