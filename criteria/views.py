"""A parameter as the criteria see it: vectors of its fields and laws, and what these span.

The criteria ask how many dimensions vectors span and whether a part of them vanishes. A view
answers; it hides in which arithmetic, and by which number zero is told from nonzero. Families
whose scales may part register a view of their own.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, singledispatch
from typing import Any

import numpy as np

from liftflow.architectures import Architecture
from liftflow.criteria.fields import GradientFields, gradient_fields
from liftflow.criteria.findings import DROP, Rank, rank_of
from liftflow.criteria.orbits import orbit_trace
from liftflow.criteria.scaling import SPARE, column_lengths, entry_units, finite, unit_rows
from liftflow.criteria.traces import LieTrace
from liftflow.typing import FloatArray, IntArray, OneTheta, refuse_beyond

_SHORTEST = 1e-3  # relative length down to which vectors are made to unit vectors


class Span(ABC):
    """Span of vectors of a view, which grows."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Number of independent vectors so far."""

    @abstractmethod
    def extend(self, vectors: Any) -> Rank:
        """Add vectors, and tell how many dimensions they add.

        Parameters
        ----------
        vectors : Any
            Of the view.
        """

    @abstractmethod
    def outside(self, vectors: Any) -> Any:
        """Project vectors onto the orthogonal complement.

        Parameters
        ----------
        vectors : Any
            Of the view.

        Returns
        -------
        rest : Any
            As many vectors.
        """

    @abstractmethod
    def complement(self) -> Any:
        """Orthonormal basis of all that is orthogonal to the span."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """The kernel ker ∂φ(θ) ∩ ker ∂h(θ).

    Attributes
    ----------
    basis : array, shape=[dimension, dim]
        Unit vectors.
    velocities : Any
        A basis in the terms of the view.
    rank : Rank
        Of ∂φ and ∂h together.
    smallest : float
        Their smallest singular value, scaled and relative to the largest, as far as a view knows.
    objection : str
        What leaves it undecided beside the rank, if anything does.
    """

    basis: FloatArray
    velocities: Any
    rank: Rank
    smallest: float
    objection: str = ""

    @property
    def doubt(self) -> str:
        """What leaves it undecided; empty where nothing does."""
        if not self.rank.decided:
            return f"a size of {self.rank.doubtful:.1e} is neither zero nor clearly not"
        return self.objection


class View(ABC):
    """What the criteria see of an architecture at one point.

    Vectors are opaque to them. They are scaled coordinate by coordinate with the typical size of
    the fields, and to lengths of about 1.

    Parameters
    ----------
    rng : numpy.random.Generator
        For random combinations of the fields.
    """

    def __init__(
        self, architecture: Architecture, theta: OneTheta, rng: np.random.Generator
    ) -> None:
        self.architecture = architecture
        self.theta = theta
        self.rng = rng
        self.fields: GradientFields = gradient_fields(architecture)
        self.point = self.fields.point(theta)

    @property
    def size(self) -> int:
        """Number of coordinates of the vectors."""
        return int(self.point.size)

    @property
    def unit(self) -> float:
        """Length over which the fields change."""
        return self.fields.unit(self.point)

    def at(self, theta: OneTheta) -> "View":
        """Return the view of another point."""
        return type(self)(self.architecture, theta, self.rng)

    @property
    def n_fields(self) -> int:
        """Number of random fields that span all, and a few more."""
        return min(self.architecture.lifted_dim, self.size) + SPARE

    def random_forms(self, count: int) -> Any:
        """Draw forms, each of which names a field.

        Parameters
        ----------
        count : int
            Number of forms.
        """
        return self.fields.random_forms(count, self.point, self.rng)

    def basis_forms(self, numbers: IntArray) -> Any:
        """Return the forms that read single entries of z.

        Parameters
        ----------
        numbers : array, shape=[n]
            Flat numbers of the entries.
        """
        return self.fields.basis_forms(numbers)

    @abstractmethod
    def span(self) -> Span:
        """Return the empty span."""

    @abstractmethod
    def field_vectors(self) -> Any:
        """Random fields, as many as span all."""

    @abstractmethod
    def brackets(self, forms: Sequence[Any], count: int) -> Any:
        """Nested brackets [X_k, […, [X_2, X_1]]] of the fields of forms.

        Relative to the terms they are made of: made to unit vectors instead, brackets that
        vanish would be noise of full rank.

        Parameters
        ----------
        forms : sequence of forms
            X_1 first, of as many forms each.
        count : int
            Number of brackets.
        """

    @abstractmethod
    def trace(self, patience: int = 1) -> LieTrace:
        """Compute the trace at θ of the Lie algebra that the fields generate.

        Parameters
        ----------
        patience : int
            Number of levels of brackets that must add nothing, where θ alone decides.
        """

    @abstractmethod
    def law_rank(self) -> Rank:
        """Rank of ∂h(θ)."""

    @abstractmethod
    def kernel(self, *, in_orbit: bool = False) -> Kernel:
        """Compute ker ∂φ(θ) ∩ ker ∂h(θ), or its part in the tangent space of the orbit of θ.

        Parameters
        ----------
        in_orbit : bool
            Put the trace at θ of the Lie algebra that the fields generate in the place of ker ∂h.
            So it is wherever no laws are known.
        """

    @abstractmethod
    def lengths(self, vectors: Any) -> FloatArray:
        """Measure vectors.

        Parameters
        ----------
        vectors : Any
            Of this view.

        Returns
        -------
        lengths : array, shape=[n]
        """

    @abstractmethod
    def largest(self, vectors: Any) -> tuple[float, float]:
        """Length of the longest vector, and the number that tells whether it is zero.

        Parameters
        ----------
        vectors : Any
            Of this view.

        Returns
        -------
        length : float
            Of the longest.
        decisive : float
            What tells whether it is zero.
        """

    @abstractmethod
    def gram_changes(self, kernel: Kernel) -> tuple[FloatArray, float]:
        """Relative size of ∂M along a kernel, and the number that tells whether it is zero.

        Parameters
        ----------
        kernel : Kernel
            Of this view.

        Returns
        -------
        changes : array, shape=[dimension]
            The largest over random pairs of fields, for each direction.
        decisive : float
            What tells whether the largest is zero.
        """


class FloatSpan(Span):
    """Span by singular values.

    Parameters
    ----------
    size : int
        Number of coordinates.
    """

    def __init__(self, size: int) -> None:
        self.basis = np.zeros((size, 0))

    @property
    def dimension(self) -> int:
        """Number of columns of the basis."""
        return self.basis.shape[1]

    def extend(self, vectors: FloatArray) -> Rank:
        """Add vectors, and tell how many dimensions they add.

        Parameters
        ----------
        vectors : array, shape=[n, n_coordinates]
            At most about as long as unit vectors, which ranks are relative to.
        """
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        rest = self.outside(vectors / np.maximum(lengths, _SHORTEST))
        _, singular, right = np.linalg.svd(rest, full_matrices=False)
        rank = rank_of(singular, 1.0)
        self.basis = np.hstack([self.basis, right[: rank.value].T])
        return rank

    def outside(self, vectors: FloatArray) -> FloatArray:
        """Project onto the orthogonal complement.

        Parameters
        ----------
        vectors : array, shape=[n, n_coordinates]
            Of any length.

        Returns
        -------
        rest : array, shape=[n, n_coordinates]
        """
        for _ in range(2):  # twice, so that the rest is orthogonal to rounding
            vectors = vectors - (vectors @ self.basis) @ self.basis.T
        return vectors

    def complement(self) -> FloatArray:
        """Orthonormal basis of the orthogonal complement.

        Returns
        -------
        vectors : array, shape=[n_coordinates - dimension, n_coordinates]
        """
        return np.linalg.qr(self.basis, mode="complete")[0][:, self.dimension :].T


class FloatView(View):
    """The view in double precision: a relative size decides by itself.

    Good where a legitimate singular value is well above the rounding of the largest one, so where
    the blocks of θ have scales that do not part by many orders of magnitude.

    Parameters
    ----------
    theta : array, shape=[dim]
    """

    @cached_property
    def _raw_fields(self) -> FloatArray:
        refuse_beyond(float(self.n_fields) * self.size, f"{self.n_fields} fields at one point")
        forms = self.random_forms(self.n_fields)
        return self.fields.values(forms, self.point, self.n_fields)

    @cached_property
    def scale(self) -> FloatArray:
        """Typical size of the fields at each coordinate, and what it may be where they vanish."""
        return column_lengths(self._raw_fields, self.point) / np.sqrt(self.n_fields)

    def span(self) -> FloatSpan:
        """Return the empty span."""
        return FloatSpan(self.size)

    def field_vectors(self) -> FloatArray:
        """Random fields, made to unit vectors.

        Returns
        -------
        vectors : array, shape=[n_fields, n_coordinates]
        """
        return unit_rows(self._raw_fields / self.scale)

    def brackets(self, forms: Sequence[Any], count: int) -> FloatArray:
        """Nested brackets, relative to bounds of all terms; what is rounding beside those is zero.

        Returns
        -------
        vectors : array, shape=[count, n_coordinates]
        """
        majorants = self.fields.majorants(forms, self.point, count) / self.scale
        sizes = np.linalg.norm(majorants, axis=1, keepdims=True)
        raw = self.fields.brackets(forms, self.point, count) / self.scale
        relative = raw / np.where(sizes > 0, sizes, 1.0)
        return np.where(self.lengths(relative)[:, None] > DROP, relative, 0.0)

    def trace(self, patience: int = 1) -> LieTrace:
        """Compute the trace at θ of the Lie algebra, where other points of its orbit agree.

        Parameters
        ----------
        patience : int
            Not used: the other points tell which level is the last.
        """
        return orbit_trace(self)

    def law_rank(self) -> Rank:
        """Rank of ∂h(θ), its columns scaled to compensate those of ∂φ(θ)."""
        rows = np.asarray(self.architecture.conservation_laws_jacobian(self.theta))
        lifted = lift_rows(self.architecture, self.theta, self.rng)
        return FloatSpan(self.architecture.dim).extend(
            unit_rows(rows * column_lengths(lifted, self.theta))
        )

    def kernel(self, *, in_orbit: bool = False) -> Kernel:
        """Compute the kernel of ∂φ and ∂h, stacked.

        Columns are scaled by those of ∂φ and rows to unit length, so that neither the scale of θ
        nor a rescaling of its blocks moves a singular value across the tolerance.

        Parameters
        ----------
        in_orbit : bool
            Whether the trace of the Lie algebra is in the place of ker ∂h.
        """
        dim = self.architecture.dim
        lifted = lift_rows(self.architecture, self.theta, self.rng)
        lengths = column_lengths(lifted, self.theta)
        laws, objection, smaller = self._law_rows(in_orbit)
        rows = np.vstack([unit_rows(lifted / lengths), unit_rows(laws / lengths)])
        singular, right = np.linalg.svd(rows, full_matrices=True)[1:]
        singular = np.pad(singular, (0, max(0, dim - singular.size)))
        rank = rank_of(singular[:dim], float(singular.max(initial=0.0)))
        null = right[rank.value :] / lengths
        null /= np.linalg.norm(null, axis=1, keepdims=True)
        return Kernel(
            basis=null,
            velocities=self.fields.velocities(null),
            rank=rank,
            smallest=float(singular[dim - 1] / (singular[0] or 1.0)),
            objection=objection or ("" if len(null) else smaller),
        )

    def _law_rows(self, in_orbit: bool) -> tuple[FloatArray, str, str]:
        """Covectors that vanish on the tangents of the laws or the orbit, and objections.

        The first is to these tangents, the second to a kernel that is zero on them.
        """
        if self.architecture.n_laws and not in_orbit:
            return np.asarray(self.architecture.conservation_laws_jacobian(self.theta)), "", ""
        trace = self.trace()
        smaller = ""
        if not in_orbit and trace.generic != trace.dimension < self.size:
            smaller = (
                f"the orbit of θ has {trace.dimension} dimensions, those beside it "
                f"{'others' if trace.generic is None else trace.generic}, and laws may leave as "
                "many free at θ"
            )
        return trace.span.complement() / self.scale, trace.doubt, smaller

    def lengths(self, vectors: FloatArray) -> FloatArray:
        """Measure vectors.

        Parameters
        ----------
        vectors : array, shape=[n, n_coordinates]
            Of this view.

        Returns
        -------
        lengths : array, shape=[n]
        """
        return np.linalg.norm(vectors, axis=1)

    def largest(self, vectors: FloatArray) -> tuple[float, float]:
        """Length of the longest vector, twice: it decides by itself.

        Parameters
        ----------
        vectors : array, shape=[n, n_coordinates]
            Of this view.
        """
        length = float(np.max(self.lengths(vectors)))
        return length, length

    def gram_changes(self, kernel: Kernel) -> tuple[FloatArray, float]:
        """Relative size of ∂M along a kernel, twice for the largest: it decides by itself.

        Returns
        -------
        changes : array, shape=[dimension]
            For each direction.
        decisive : float
            The largest of them.
        """
        pairs = [self.random_forms(2) for _ in range(N_PROBES)]
        changes = relative_gram_changes(self.fields, pairs, self.point, kernel.velocities)
        return changes, float(np.max(changes))


N_PROBES = 4
"""Number of pairs of random fields whose inner product is differentiated."""


def relative_gram_changes(
    fields: GradientFields, pairs: Sequence[Any], point: Any, velocities: Any
) -> FloatArray:
    """Differentiate ⟨X_g', X_g⟩ along velocities, relative to the terms.

    Parameters
    ----------
    pairs : sequence of forms
        Two each.
    point : array, shape=[n_coordinates]
    velocities : array, shape=[n, n_coordinates]
        Of the point.

    Returns
    -------
    changes : array, shape=[n]
        The largest over all pairs.
    """
    changes = np.zeros(len(velocities), point.dtype)
    for forms in pairs:
        (left, right) = fields.values(forms, point, 2)
        for number, velocity in enumerate(velocities):
            moved_left, moved_right = fields.derivatives(
                forms, point, np.broadcast_to(velocity, (2, point.size))
            )
            terms = np.array([moved_left * right, left * moved_right])
            size = np.abs(terms).sum()
            if size > 0:
                changes[number] = max(changes[number], abs(terms.sum()) / size)
    return changes


def lift_rows(architecture: Architecture, theta: OneTheta, rng: np.random.Generator) -> FloatArray:
    """∂φ(θ) in units of the entries of φ, or a few more random fields than can be independent.

    Returns
    -------
    rows : array, shape=[n, dim]

    Raises
    ------
    NotFiniteError
        The lift has no finite derivative.
    """
    count = architecture.dim + SPARE
    if architecture.lifted_dim <= 2 * count:
        rows = finite(architecture.lift_jacobian(theta), architecture)
        return rows / np.ravel(entry_units(architecture, theta))[:, None]
    fields = gradient_fields(architecture)
    point = fields.point(theta)
    values = fields.values(fields.random_forms(count, point, rng), point, count)
    return values @ fields.velocities(np.eye(architecture.dim)).T


@singledispatch
def view_of(architecture: Architecture, theta: OneTheta, rng: np.random.Generator) -> View:
    """Return the view of an architecture at a point; a family with a better one registers it."""
    return FloatView(architecture, theta, rng)
