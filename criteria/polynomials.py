"""Discovery of polynomial conservation laws of any architecture."""

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial, reduce
from itertools import combinations_with_replacement
from math import comb, lcm
from operator import mul
from typing import TYPE_CHECKING, Any

import autograd
import autograd.numpy as anp
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from liftflow.architectures import Architecture
from liftflow.architectures.labels import Forms, block_forms, named_blocks, parameter_labels
from liftflow.criteria.fields import entry_units, finite
from liftflow.criteria.findings import Verdict, plain, rank_of
from liftflow.criteria.network_fields import as_seen, refuse_no_loss
from liftflow.criteria.vectors import unit_rows
from liftflow.doors import door
from liftflow.errors import InputError, ShapeError
from liftflow.files import Stored
from liftflow.typing import (
    FloatArray,
    Rng,
    Scalars,
    Tangent,
    Theta,
    as_array,
    as_count,
    as_rng,
)

MONOMIAL_LIMIT = 2500
"""Largest number of monomials: the matrix of conditions has as many columns."""

_SPARE = 20
_ROUNDING = 1e-7  # of coefficients
_RESIDUAL = 1e-9
_LEAST = 1e-5  # size of the terms of a derivative beside the gradient, or it is rounding
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
    formula : str
        How it is written, where it is not the sum of its terms.
    """

    terms: tuple[tuple[Monomial, Fraction], ...]
    labels: tuple[str, ...]
    formula: str = ""

    def __call__(self, theta: Theta) -> Scalars:
        """Evaluate the law."""
        theta = as_array(theta, "theta", (len(self.labels),))
        monomials, coefficients = zip(*self.terms, strict=True)
        return anp.sum(np.array(coefficients, float) * _values(monomials, theta), axis=-1)

    def gradient(self, theta: Theta) -> Tangent:
        """Differentiate the law."""
        theta = as_array(theta, "theta", (len(self.labels),), differentiable=False)
        return autograd.elementwise_grad(self)(theta)

    def __repr__(self) -> str:
        """Say in one line what it is."""
        return f"PolynomialLaw({self})"

    def __str__(self) -> str:
        """Write the polynomial down."""
        return self.formula or _sum((self._write(m), c) for m, c in self.terms)

    def _write(self, monomial: Monomial) -> str:
        parts = []
        for number in dict.fromkeys(monomial):
            power = monomial.count(number)
            exponent = str(power).translate(_SUPERSCRIPTS) if power > 1 else ""
            parts.append(self.labels[number] + exponent)
        return " ".join(parts)


def _sum(terms: Iterable[tuple[str, Fraction]]) -> str:
    """Write a sum down."""
    text = ""
    for name, coefficient in terms:
        sign = "− " if coefficient < 0 else "+ "
        size = abs(coefficient)
        factor = "" if size == 1 else f"{size} "
        text += f"{sign}{factor}{name} "
    return text.strip().removeprefix("+ ")


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

    @property
    def independent(self) -> tuple[PolynomialLaw, ...]:
        """As many of the laws as are functionally independent, the simplest ones."""
        simple = sorted(self.laws, key=lambda law: (len(law.terms[-1][0]), len(law.terms)))
        point = np.random.default_rng(0).standard_normal(len(simple[0].labels) if simple else 0)
        chosen = [simple[number] for number in _first([law.gradient(point) for law in simple])]
        return tuple(law for law in self.laws if law in chosen)

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
    blocks: Mapping[str, tuple[int, ...]] | bool = False,
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
    blocks : bool or mapping of str to tuple of int
        Look only among the entries of W Wᵀ and Wᵀ W for the matrices W that θ is made of, sums of
        their rows and columns, and the entries of vectors and products of two of one vector. So
        500 parameters take seconds. True stands for the blocks of the architecture; or their names
        and shapes, in order. Of more than two axes the last two make matrices.

    Raises
    ------
    InputError
        More than ``MONOMIAL_LIMIT`` monomials, or forms of blocks; forms of a higher degree than 2.
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
    rng, (architecture, loss) = as_rng(rng), as_seen(architecture, loss)
    dim = architecture.dim
    degree = as_count(degree, "degree", 1)
    labels = tuple(parameter_labels(architecture) if labels is None else labels)
    if len(labels) != dim:
        raise ShapeError(f"labels must name {dim} parameters, got {len(labels)}")
    if blocks is False:
        among, forms = f"up to degree {degree}", _monomials(dim, degree)
    else:
        among = f"among forms of the blocks up to degree {degree}"
        forms = block_forms(named_blocks(architecture, blocks, labels), degree)
        fix = "name smaller blocks, or take a smaller network of the same family"
        _refuse_many(len(forms.terms), f"the blocks have {len(forms.terms)} forms", fix)
    n_forms, basis = len(forms.terms), None
    if loss is not None:
        refuse_no_loss(loss)
        basis = np.asarray(loss.excited(architecture))
    theta, fields = _unit_fields(architecture, n_forms + _SPARE, rng, basis)
    conditions = forms.derivatives(theta, fields)
    singular, right = np.linalg.svd(unit_rows(conditions), full_matrices=False)[1:]
    rank = rank_of(singular, float(singular[0]))
    rational = _rational(_echelon(right[rank.value :]))
    moved = np.any(fields, axis=1)
    doubts = {
        "the fields vanish at most points": np.any(moved) and not np.all(moved),
        "the null space is not clear": not rank.decided,
        "not rational": rational is None,
        architecture.phi.objection: bool(architecture.phi.objection),
    }
    laws: tuple[PolynomialLaw, ...] = ()
    n_independent, residual = 0, np.nan
    if rational is None or any(doubts.values()):
        doubt = next(text for text, doubtful in doubts.items() if doubtful)
        reason = f"nothing is decided {among}: {doubt}"
    else:
        rows = _nonzero(_sparser(rational), forms.zeros)
        laws = tuple(_law(forms, row, labels) for row in rows)
        residual = _residual(laws, *_unit_fields(architecture, 10, rng, basis))
        point = rng.standard_normal(dim)
        gradients = np.reshape([law.gradient(point) for law in laws], (-1, dim))
        n_independent = int(np.linalg.matrix_rank(gradients)) if laws else 0
        reason = f"{len(laws)} polynomial laws {among}, {n_independent} of them independent"
        reason += f"; {architecture.phi.remark}" if architecture.phi.remark else ""
    return DiscoveredLaws(
        laws,
        Verdict.HOLDS if residual < _RESIDUAL else Verdict.UNDECIDED,
        degree,
        n_forms,
        n_independent,
        rank.margin,
        residual,
        reason,
    )


Row = dict[int, Fraction]  # coefficients of forms by their numbers


def _law(forms: Forms, row: Row, labels: tuple[str, ...]) -> PolynomialLaw:
    """Add up a combination of forms."""
    total: dict[Monomial, Fraction] = {}
    for number, coefficient in row.items():
        for monomial in forms.terms[number]:
            total[monomial] = total.get(monomial, Fraction(0)) + coefficient
    terms = tuple((monomial, value) for monomial, value in total.items() if value)
    formula = _sum((forms.names[n], c) for n, c in row.items()) if forms.names else ""
    return PolynomialLaw(terms, labels, formula)


def _refuse_many(count: float, what: str, fix: str) -> None:
    if count > MONOMIAL_LIMIT:
        raise InputError(f"{what}, more than {MONOMIAL_LIMIT}; {fix}")


def _monomials(dim: int, degree: int) -> Forms:
    count = comb(dim + degree, degree) - 1
    what = f"{dim} parameters have {count} monomials up to degree {degree}"
    fix = "take a smaller network of the same family, a smaller degree, or blocks=True"
    _refuse_many(count, what, fix)
    monomials = [
        m for d in range(1, degree + 1) for m in combinations_with_replacement(range(dim), d)
    ]
    return Forms([[m] for m in monomials], partial(_derivatives, monomials))


def _first(rows: Sequence[FloatArray] | FloatArray) -> list[int]:
    """Return the numbers of rows that do not depend on those before them."""
    chosen: list[int] = []
    for number in range(len(rows)):
        trial = [*chosen, number]
        if np.linalg.matrix_rank([rows[n] for n in trial]) == len(trial):
            chosen = trial
    return chosen


def _nonzero(rows: list[Row], zeros: Sequence[Row]) -> list[Row]:
    """Choose the shortest of rows that are independent, with some that stand for zero."""
    ordered = [*zeros, *sorted(rows, key=len)]
    table = np.zeros((len(ordered), 1 + max((max(row) for row in ordered), default=0)))
    for line, row in zip(table, ordered, strict=True):
        line[list(row)] = [float(value) for value in row.values()]
    chosen = _first(table) if zeros else range(len(rows))
    return sorted((ordered[number] for number in chosen if number >= len(zeros)), key=tuple)


def _values(monomials: Sequence[Monomial], theta: Theta) -> FloatArray:
    """Evaluate monomials of any degrees: a 1 after the parameters fills the shorter ones up."""
    one, degree = theta.shape[-1], max(map(len, monomials))
    numbers = np.array([[*monomial, *[one] * (degree - len(monomial))] for monomial in monomials])
    extended = anp.concatenate([theta, anp.ones((*theta.shape[:-1], 1))], axis=-1)
    return reduce(mul, [extended[..., column] for column in numbers.T])


def _derivatives(monomials: list[Monomial], theta: FloatArray, fields: FloatArray) -> FloatArray:
    """Derivative of every monomial along a field at each of several points."""
    return autograd.make_jvp(partial(_values, monomials))(theta)(fields)[1]


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
                forms = architecture.phi.covectors(rows.size, rng) / units
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
    from flint import fmpz_mat

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
        gradients = law.gradient(theta)
        terms = gradients * fields
        # Terms that are no more than rounding of the fields, of length 1, have another unit.
        least = _LEAST * np.linalg.norm(gradients, axis=1)
        sizes = np.maximum(np.abs(terms).sum(axis=1), least)
        worst = max(worst, float(np.max(np.abs(terms.sum(axis=1)) / np.where(sizes > 0, sizes, 1))))
    return worst
