r"""The view of small networks in high precision, where no scale of a layer hides another.

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
from functools import singledispatch
from threading import RLock
from typing import Any

import numpy as np
from flint import arb, ctx

from liftflow.architectures import Architecture, DeepLinear, ReLUNetwork
from liftflow.criteria.findings import NONZERO, TOLERANCE, ZERO, Rank
from liftflow.criteria.network_fields import NetworkForms
from liftflow.criteria.scaling import coordinate_scale
from liftflow.criteria.traces import LieTrace, lie_trace
from liftflow.criteria.views import (
    N_PROBES,
    FloatView,
    Kernel,
    Span,
    View,
    relative_gram_changes,
    view_of,
)
from liftflow.typing import FloatArray, OneTangent, OneTheta

PRECISE_LIMIT = 100
"""Number of parameters of a linear or ReLU network up to which this view is used."""

NEAR, NEARER = 1e-5, 1e-7
"""Relative distances of the two neighbours of θ; distances are told up to the first."""

BITS = 2048
"""Of the numbers; those below the square root of their resolution are exact zeros."""

MAX_DECADES = 20
"""Range of weights of θ, in powers of ten, for which these bits suffice at all depths of brackets:
each deeper level takes twice as many decades."""

Rows = list[Any]
"""Vectors at θ, at the near and at the nearer neighbour: arrays of high-precision numbers."""

_CONTEXT = RLock()


@contextmanager
def _precisely() -> Iterator[None]:
    """Work with ``BITS`` bits; flint has one precision per process, so one thread at a time."""
    with _CONTEXT, ctx.workprec(BITS):
        yield


_TINY = arb(2) ** (-BITS // 2)

_exact = np.frompyfunc(lambda number: arb(float(number)), 1, 1)
_root = np.frompyfunc(lambda number: number.mid().sqrt(), 1, 1)


def distance(here: Any, near: Any, nearer: Any) -> float:
    """Estimate how far θ is from a point where a number vanishes, relative to its weights.

    Parameters
    ----------
    here, near, nearer : arb
        Size of the number at θ and at its neighbours.

    Returns
    -------
    distance : float
        Up to ``NEAR``, which stands for all that is farther; 0 for an exact zero.
    """
    if not here > _TINY:
        return 0.0
    ratio = float(here / near) if near > _TINY else 1.0
    growth = float(near / nearer) if nearer > _TINY and near > nearer else 1.0
    order = max(1.0, np.log(growth) / np.log(NEAR / NEARER))
    return float(NEAR * min(1.0, ratio) ** (1 / order))


def _lengths(rows: Any) -> Any:
    return _root((rows * rows).sum(axis=1))


def _independent(rows: Any, basis: Any, count: int) -> tuple[Any, list[Any]]:
    """Up to ``count`` orthonormal vectors, longest rest first, and the lengths of these rests."""
    rest = rows - (rows @ basis.T) @ basis
    found: list[Any] = []
    pivots: list[Any] = []
    while len(rest) and len(found) < count:
        squares = [square.mid() for square in (rest * rest).sum(axis=1)]
        first = max(range(len(squares)), key=squares.__getitem__)
        pivot = squares[first].sqrt()
        if not pivot > _TINY:
            break
        pivots.append(pivot)
        found.append(rest[first] / pivot)
        rest = rest - np.outer(rest @ found[-1], found[-1])
    return np.array(found, object).reshape(len(found), rows.shape[1]), pivots


class PreciseSpan(Span):
    """Span by pivots, each as clear as its distance from vanishing.

    Parameters
    ----------
    size : int
        Number of coordinates.

    Attributes
    ----------
    bases : Rows
        Orthonormal.
    smallest : float
        The smallest of as many pivots at θ as there are coordinates.
    opened : bool
        Whether the neighbours of θ have dimensions that θ lacks.
    """

    def __init__(self, size: int) -> None:
        self.bases = [np.zeros((0, size), object) for _ in range(3)]
        self.smallest = 0.0
        self.opened = False
        self._kept: list[float] = []

    @property
    def dimension(self) -> int:
        """Number of vectors of the basis at θ."""
        return len(self.bases[0])

    @_precisely()
    def extend(self, vectors: Rows) -> Rank:
        """Add vectors, and tell how many dimensions they add.

        Parameters
        ----------
        vectors : Rows
            Of the view.

        Returns
        -------
        rank : Rank
            In terms of distances. Undecided where a pivot neither vanishes nor clearly not, or
            where it may do so in favour of another one that is as small.
        """
        missing = self.bases[0].shape[1] - self.dimension
        lengths = _lengths(vectors[1])
        lengths = np.where(lengths > _TINY, lengths, 1)[:, None]
        found = [
            _independent(rows / lengths, basis, missing)
            for rows, basis in zip(vectors, self.bases, strict=True)
        ]
        padded = [pivots + [arb(0)] * (missing - len(pivots)) for _, pivots in found]
        distances = [distance(*pivots) for pivots in zip(*padded, strict=True)]
        value = sum(size > TOLERANCE for size in distances)
        here = [float(pivot) for pivot in padded[0]]
        self.smallest = min([*self._kept, *here], default=0.0)
        self._kept += here[:value]
        self.opened |= bool(np.any(np.array(padded[1][value:]) > _TINY))
        self.bases = [
            np.vstack([basis, directions[:value]])
            for basis, (directions, _) in zip(self.bases, found, strict=True)
        ]
        return Rank(
            value=value,
            doubtful=_doubtful(distances, padded[1]),
            kept=min(distances[:value], default=np.nan),
            dropped=max(distances[value:], default=np.nan),
        )

    @_precisely()
    def outside(self, vectors: Rows) -> Rows:
        """Project onto the orthogonal complements.

        Parameters
        ----------
        vectors : Rows
            Of the view.
        """
        return [
            rows - (rows @ basis.T) @ basis for rows, basis in zip(vectors, self.bases, strict=True)
        ]

    @_precisely()
    def complement(self) -> Rows:
        """Orthonormal bases of the orthogonal complements."""
        size = self.bases[0].shape[1]
        units = _exact(np.eye(size))
        return [_independent(units, basis, size - self.dimension)[0] for basis in self.bases]


def _doubtful(distances: Sequence[float], near: Sequence[Any]) -> float:
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


class PreciseView(View):
    """The view in high precision: the distance to a point where a number vanishes decides.

    Parameters
    ----------
    rng : numpy.random.Generator
        For random combinations of the fields, and the neighbours of θ.

    References
    ----------
    Ours.
    """

    def __init__(
        self, architecture: Architecture, theta: OneTheta, rng: np.random.Generator
    ) -> None:
        super().__init__(architecture, theta, rng)
        # By majorants: where terms cancel, the fields have only the size of rounding.
        sizes = self.fields.majorants([self.random_forms(self.n_fields)], self.point, self.n_fields)
        self._scale = coordinate_scale(sizes)
        self._coordinates = self.fields.velocities(np.eye(architecture.dim))
        aside = typical_weights(architecture, theta) * rng.standard_normal(self.size)
        aside = self._coordinates @ aside / np.sum(self._coordinates[0] ** 2)
        self._thetas = [theta + size * aside for size in (0.0, NEAR, NEARER)]
        self._points = [_exact(self.fields.point(at)) for at in self._thetas]

    def _rows(self, evaluate: Callable[[Any], Any]) -> Rows:
        return [evaluate(point) / self._scale for point in self._points]

    def span(self) -> PreciseSpan:
        """Return the empty span."""
        return PreciseSpan(self.size)

    @_precisely()
    def field_vectors(self) -> Rows:
        """Random fields, as many as span all."""
        count = self.n_fields
        forms = _exact_forms(self.random_forms(count))
        return self._rows(lambda point: self.fields.values(forms, point, count))

    @_precisely()
    def brackets(self, forms: Sequence[NetworkForms], count: int) -> Rows:
        """Nested brackets, relative to bounds of all terms."""
        majorants = self.fields.majorants(forms, self.point, count) / self._scale
        sizes = np.linalg.norm(majorants, axis=1, keepdims=True)
        sizes = np.where(sizes > 0, sizes, 1.0)
        exact = [_exact_forms(form) for form in forms]
        rows = self._rows(lambda point: self.fields.brackets(exact, point, count))
        return [row / sizes for row in rows]

    def _law_rows(self) -> Rows:
        """Rows of ∂h, in scaled coordinates; entries of θ and zeros, without rounding."""
        rows = [
            np.asarray(self.architecture.conservation_laws_jacobian(theta))
            for theta in self._thetas
        ]
        return [_exact(self.fields.velocities(row)) / self._scale for row in rows]

    def trace(self, patience: int = 1) -> LieTrace:
        """Compute the trace at θ of the Lie algebra.

        Parameters
        ----------
        patience : int
            Number of levels of brackets that must add nothing.
        """
        return lie_trace(self, patience=patience)

    @_precisely()
    def law_rank(self) -> Rank:
        """Rank of ∂h(θ)."""
        return self.span().extend([row * self._scale**2 for row in self._law_rows()])

    @_precisely()
    def kernel(self, *, in_orbit: bool = False) -> Kernel:
        """Compute what is orthogonal to the rows of ∂φ, and to those of ∂h or in the trace.

        Parameters
        ----------
        in_orbit : bool
            Whether the trace of the Lie algebra is in the place of ker ∂h.
        """
        ranks, velocities, smallest, objection = self._in_orbit() if in_orbit else self._in_laws()
        basis = velocities[0].astype(float) @ self._coordinates.T
        return Kernel(
            basis=basis / np.linalg.norm(basis, axis=1, keepdims=True),
            velocities=velocities,
            rank=Rank(
                value=self.size - len(basis),
                doubtful=next((r.doubtful for r in ranks if not r.decided), np.nan),
                kept=min((rank.kept for rank in ranks if rank.value), default=np.nan),
                dropped=max((rank.dropped for rank in ranks if rank.dropped >= 0), default=np.nan),
            ),
            smallest=smallest,
            objection=objection,
        )

    def _in_laws(self) -> tuple[list[Rank], Rows, float, str]:
        span = self.span()
        ranks = [span.extend(self.field_vectors()), span.extend(self._law_rows())]
        velocities = [rows / self._scale for rows in self._aligned(span.complement())]
        if span.opened:  # kernels of another dimension are no measure
            velocities = velocities[:1]
        return ranks, velocities, span.smallest, ""

    def _in_orbit(self) -> tuple[list[Rank], Rows, float, str]:
        """Return what is orthogonal to the fields, which are the first of the trace."""
        trace = self.trace()
        assert isinstance(trace.span, PreciseSpan)
        count, bases = trace.ranks[0].value, []
        for basis in trace.span.bases:
            rows = basis * self._scale
            fields = _independent(rows[:count], rows[:0], count)[0]
            bases.append(_independent(rows[count:], fields, trace.dimension - count)[0])
        return [*trace.ranks], self._aligned(bases), trace.span.smallest, trace.doubt

    def _aligned(self, bases: Rows) -> Rows:
        """Project the same random vectors onto subspaces, so that they vary as these do."""
        vectors = _exact(self.rng.standard_normal((len(bases[0]), self.size)))
        return [(vectors @ basis.T) @ basis for basis in bases]

    @_precisely()
    def lengths(self, vectors: Rows) -> FloatArray:
        """Measure vectors at θ.

        Parameters
        ----------
        vectors : Rows
            Of this view.

        Returns
        -------
        lengths : array, shape=[n]
        """
        return _lengths(vectors[0]).astype(float)

    @_precisely()
    def largest(self, vectors: Rows) -> tuple[float, float]:
        """Length of the longest vector at θ, and the distance from zero.

        Parameters
        ----------
        vectors : Rows
            Of this view.

        Returns
        -------
        length, decisive : float
            The distance is the largest of all coordinates: one that nearly vanishes may be so
            much larger at the neighbours that it would hide another that stays. Where vectors
            hide others in all coordinates, as their span tells, nothing is decided.
        """
        coordinates = zip(*[_lengths(rows.T) for rows in vectors], strict=True)
        decisive = max(distance(*sizes) for sizes in coordinates)
        if decisive < NONZERO and not self.span().extend(vectors).decided:
            decisive = TOLERANCE
        return float(max(_lengths(vectors[0]))), decisive

    @_precisely()
    def gram_changes(self, kernel: Kernel) -> tuple[FloatArray, float]:
        """Relative size of ∂M along a kernel, and the largest of their distances from zero.

        Returns
        -------
        changes : array, shape=[dimension]
            For each direction.
        decisive : float
            The largest distance.
        """
        pairs = [_exact_forms(self.random_forms(2)) for _ in range(N_PROBES)]
        changes = [
            relative_gram_changes(self.fields, pairs, point, velocities)
            for point, velocities in zip(self._points, kernel.velocities, strict=False)
        ]
        here = changes[0].astype(float)
        if len(changes) < 3:
            return here, float(max(here))
        return here, max(distance(*sizes) for sizes in zip(*changes, strict=True))


def _exact_forms(forms: NetworkForms) -> NetworkForms:
    parts = (forms.multipliers, forms.sources, forms.sinks)
    return NetworkForms(*[_exact(part) for part in parts])


@singledispatch
def typical_weights(architecture: Architecture, theta: OneTheta) -> OneTangent:
    """Typical size of each weight: what a small change of it is relative to.

    Returns
    -------
    sizes : OneTangent
        In the coordinates of the fields. Zero for a weight that is zero with all of its row or
        column of a matrix, or as an edge of a graph: such zeros are no accidents.
    """
    raise TypeError(f"no fields of paths are known for {type(architecture).__name__}")


@typical_weights.register
def _(architecture: DeepLinear, theta: FloatArray) -> FloatArray:
    sizes = []
    for layer in architecture.layers(theta):
        squares = np.asarray(layer).T ** 2
        rows, columns = squares.mean(axis=1), squares.mean(axis=0)
        sizes.append(np.sqrt(np.outer(rows, columns) / (squares.mean() or 1.0)).ravel())
    return np.concatenate(sizes)


@typical_weights.register
def _(architecture: ReLUNetwork, theta: FloatArray) -> FloatArray:
    return np.abs(theta)


def is_precise(architecture: Architecture, theta: OneTheta) -> bool:
    """Tell whether a network is seen in high precision."""
    sizes = typical_weights(architecture, theta)
    sizes = sizes[sizes > 0]
    decades = np.ptp(np.log10(sizes)) if sizes.size else 0.0
    return architecture.dim <= PRECISE_LIMIT and bool(decades < MAX_DECADES)


@view_of.register(DeepLinear)
@view_of.register(ReLUNetwork)
def _(architecture: Architecture, theta: FloatArray, rng: np.random.Generator) -> View:
    return (PreciseView if is_precise(architecture, theta) else FloatView)(architecture, theta, rng)
