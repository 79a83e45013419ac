"""Discovery of polynomial conservation laws of any architecture."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np

from liftflow.architectures import Architecture
from liftflow.architectures.labels import block_forms, named_blocks, parameter_labels
from liftflow.architectures.polynomials import PolynomialLaw as PolynomialLaw
from liftflow.architectures.polynomials import combined, monomial_forms, written
from liftflow.architectures.sampled import as_seen
from liftflow.criteria.fields import GradientFields, finite
from liftflow.criteria.findings import Verdict
from liftflow.criteria.network_fields import excited
from liftflow.doors import door
from liftflow.errors import InputError, ShapeError
from liftflow.files import Stored, plain
from liftflow.linalg import Row, first_independent, rational_basis
from liftflow.ranks import rank_of, unit_rows
from liftflow.typing import FloatArray, Rng, as_count, as_rng

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MONOMIAL_LIMIT = 2500
"""Largest number of monomials: the matrix of conditions has as many columns."""

_SPARE = 20
_RESIDUAL = 1e-9
_LEAST = 1e-5  # size of the terms of a derivative beside the gradient, or it is rounding
_ROUNDS = 10  # of drawing points anew where all fields vanish
_CHUNK = 10**7  # numbers in the Jacobians that are held at once


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
        chosen = [simple[n] for n in first_independent([law.gradient(point) for law in simple])]
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

        terms = [{written(m, law.labels): float(c) for m, c in law.terms} for law in self.laws]
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
        among, count = f"up to degree {degree}", comb(dim + degree, degree) - 1
        fix = "take a smaller network of the same family, a smaller degree, or blocks=True"
        _refuse_many(count, f"{dim} parameters have {count} monomials {among}", fix)
        forms = monomial_forms(dim, degree)
    else:
        among = f"among forms of the blocks up to degree {degree}"
        forms = block_forms(named_blocks(architecture, blocks, labels), degree)
        fix = "name smaller blocks, or take a smaller network of the same family"
        _refuse_many(len(forms.terms), f"the blocks have {len(forms.terms)} forms", fix)
    n_forms, drawn = len(forms.terms), GradientFields(architecture, excited(architecture, loss))
    theta, fields = _unit_fields(drawn, n_forms + _SPARE, rng)
    conditions = forms.derivatives(theta, fields)
    singular, right = np.linalg.svd(unit_rows(conditions), full_matrices=False)[1:]
    rank = rank_of(singular, float(singular[0]))
    rational = rational_basis(right[rank.value :])
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
        rows = _nonzero(rational, forms.zeros)
        laws = tuple(combined(forms, row, labels) for row in rows)
        residual = _residual(laws, *_unit_fields(drawn, 10, rng))
        point = rng.standard_normal(dim)
        gradients = np.reshape([law.gradient(point) for law in laws], (-1, dim))
        n_independent = int(np.linalg.matrix_rank(gradients)) if laws else 0
        reason = f"{len(laws)} polynomial laws {among}, {n_independent} of them independent"
        reason += f"; {architecture.phi.remark}" if architecture.phi.remark else ""
    verdict = Verdict.HOLDS if residual < _RESIDUAL else Verdict.UNDECIDED
    return DiscoveredLaws(
        laws, verdict, degree, n_forms, n_independent, rank.margin, residual, reason
    )


def _refuse_many(count: float, what: str, fix: str) -> None:
    if count > MONOMIAL_LIMIT:
        raise InputError(f"{what}, more than {MONOMIAL_LIMIT}; {fix}")


def _nonzero(rows: list[Row], zeros: Sequence[Row]) -> list[Row]:
    """Choose the shortest of rows that are independent, with some that stand for zero."""
    ordered = [*zeros, *sorted(rows, key=len)]
    table = np.zeros((len(ordered), 1 + max((max(row) for row in ordered), default=0)))
    for line, row in zip(table, ordered, strict=True):
        line[list(row)] = [float(value) for value in row.values()]
    chosen = first_independent(table) if zeros else range(len(rows))
    return sorted((ordered[number] for number in chosen if number >= len(zeros)), key=tuple)


def _unit_fields(
    drawn: GradientFields, count: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Random points and the unit vector of a random field at each; zero where nearly all vanish."""
    architecture = drawn.architecture
    theta, fields = np.zeros((2, count, architecture.dim))
    for _ in range(_ROUNDS):
        missing = np.flatnonzero(~np.any(fields, axis=1))
        step = max(1, _CHUNK // (architecture.lifted_dim * architecture.dim))
        for start in range(0, missing.size, step):
            rows = missing[start : start + step]
            theta[rows] = rng.standard_normal((rows.size, architecture.dim))
            forms = drawn.draw(rows.size, np.ones(architecture.dim), rng)
            with np.errstate(all="ignore"):
                found = architecture.lift_vjp(theta[rows], forms)
            if not np.all(np.isfinite(found)):  # only the family knows where φ is defined
                theta[rows] = architecture.random_point(rows.size, rng)
                found = architecture.lift_vjp(theta[rows], forms)
            fields[rows] = finite(found, architecture)
    largest = np.max(np.abs(fields), axis=1, keepdims=True)  # first, as squares may underflow
    return theta, unit_rows(fields / np.where(largest > 0, largest, 1.0))


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
