"""The lift of a network with shared and frozen weights: its distinct monomials."""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.linalg

from liftflow.architectures.channels import ChannelChart, ChannelGraph
from liftflow.architectures.dag import CompiledDAG
from liftflow.architectures.maps import SmoothMap
from liftflow.architectures.monomials import MonomialLister, Monomials
from liftflow.architectures.path_kernel import path_distance
from liftflow.architectures.path_lift import PathLift, qr_by_rows
from liftflow.architectures.recovery import shortened
from liftflow.architectures.tying import Tying, Units
from liftflow.errors import ArchitectureError
from liftflow.linalg import RANK_RTOL, ROUNDING, lengths, over_batch
from liftflow.typing import (
    FloatArray,
    IntArray,
    LiftedTangent,
    OneLifted,
    OneTheta,
    Scalars,
    Tangent,
    Theta,
    freeze,
)

_STEPS = 60
_CONVERGED = 1e-14  # residual, in units of the terms
_CLOSE = 1e-3  # a residual at which the steps have led to the point that they should
_ON_IMAGE = 1e-10  # a residual that is rounding
_SMALL = 1e-11  # steps, relative to θ: the next one would be the square of it


class MonomialLift(PathLift):
    """Distinct products of the weights along paths, with their frozen constants."""

    def __init__(
        self,
        dag: CompiledDAG,
        tying: Tying,
        units: Units,
        channels: ChannelGraph,
        limit: int,
        blocks: Sequence[tuple[int, ...]] = (),
    ) -> None:
        self.dag, self.limit, self.channels = dag, limit, channels
        self._parts = tying, units
        try:
            count, self.listed = len(self.monomials.constants), True
        except ArchitectureError:  # never listed: all that is asked of it is its size
            count, self.listed = dag.n_paths, False
        self._set_up(tying.dim, (count,), blocks)

    @cached_property
    def monomials(self) -> Monomials:
        """The monomials, in the lexicographic order of their first paths."""
        return MonomialLister(self.dag, *self._parts, self.limit).all()

    @cached_property
    def table(self) -> IntArray:
        """Parameters of the monomials; a first column, of none, stands for their constants."""
        table, tying = self.monomials.parameters, self._parts[0]
        return freeze(np.hstack([np.full((len(table), 1), tying.dim), table]))

    @cached_property
    def folds(self) -> IntArray:
        if not self.listed:
            return super().folds
        columns = self.incidence.tocsc()
        least = [
            np.min(columns.data[first:last], initial=np.inf)
            for first, last in pairwise(columns.indptr)
        ]
        return freeze(np.flatnonzero((np.array(least) >= 2) & np.isfinite(least)))

    def _gather(self, theta: Any, padding: float) -> list[Any]:
        factors = super()._gather(theta, padding)
        factors[0] = factors[0] * self.monomials.constants
        return factors

    def chart(self, theta: OneTheta) -> ChannelChart:
        return self.channels.chart(theta)

    def rank(self, theta: OneTheta) -> int:
        """Rank of ∂φ: D − C where no weight is zero."""
        if np.all(theta):
            return self.dim - self.channels.n_channels
        return SmoothMap.rank(self, theta)

    def norm(self, theta: OneTheta) -> Scalars:
        """Norm of φ(θ); over all paths where there are too many monomials to list."""
        if self.listed:
            return lengths(self.value(theta))
        return path_distance(self.dag, self._parts[0].weights(theta), np.zeros(self.dag.dim))

    def distance(self, a: OneTheta, b: OneTheta) -> Scalars:
        """Distance of φ(a) and φ(b); over all paths as :meth:`norm`."""
        if self.listed:
            return lengths(self.value(a) - self.value(b))
        return path_distance(self.dag, *map(self._parts[0].weights, (a, b)))

    @property
    def edges(self) -> IntArray:
        return self.monomials.edges

    def projected(self, z: OneLifted, near: OneTheta | None = None) -> OneLifted:
        theta = self.representative(z, near)
        lifted = self.value(theta)
        if near is not None:
            self.remember(lifted, theta)
        return lifted

    def representative(self, z: OneLifted, near: OneTheta | None = None) -> OneTheta:
        """Find a point whose lift is z, or nearly: by steps from nearby, else from logarithms.

        Parameters
        ----------
        near : OneTheta, optional
            Where to start; its signs are kept where z leaves them open.
        """
        if near is not None:
            known, found = self._last
            if np.array_equal(z, known) and np.all(found * near >= 0):
                return found
            theta, left, settled = self._nearest(z, near)
            if not settled or left > _CLOSE:  # perhaps only to a saddle
                other, rest, _ = self._nearest(z, self._from_logarithms(z, near))
                theta = theta if left <= rest else other
            return self._signed_as(theta, near)
        return self._nearest(z, self._from_logarithms(z, None))[0]

    def _nearest(self, z: FloatArray, theta: FloatArray) -> tuple[FloatArray, float, bool]:
        """Steps in units that all entries of one degree share, then, on the image, in their own.

        Beside the image an entry that nearly vanishes has nothing to say: a weight near 0 would
        follow the noise in it.
        """
        theta, left, settled = self._follow(z, theta, alike=True)
        if left < _ON_IMAGE:
            own, rest, _ = self._follow(z, theta, alike=False)
            if rest <= _ON_IMAGE:
                return own, rest, True
        return theta, left, settled

    def _signed_as(self, theta: FloatArray, near: FloatArray) -> FloatArray:
        """Take the signs of near over where φ does not tell them from those of θ."""
        other = theta * near < 0
        if not np.any(other):
            return theta
        odd = (self.incidence @ other.astype(np.float64)) % 2
        return theta if np.any(odd[self.value(theta) != 0]) else np.where(other, -theta, theta)

    _last: tuple[FloatArray, FloatArray] = np.zeros(0), np.zeros(0)

    def remember(self, z: OneLifted, theta: OneTheta) -> OneTheta:
        """Keep a copy of the last point found over some z, and return it."""
        self._last = freeze((z.copy(), theta.copy()))
        return self._last[1]

    def _follow(
        self, z: FloatArray, theta: FloatArray, *, alike: bool
    ) -> tuple[FloatArray, float, bool]:
        """Gauss–Newton steps on φ(θ) = z, each entry in units of its terms or of its degree.

        Returns the last point, the residual there, and whether a step from it is nothing.
        """

        def residual(point: FloatArray) -> OneLifted:
            return z - self.value(point)

        gap, left = residual(theta), np.inf
        for _ in range(_STEPS):
            jacobian = self.jacobian(theta)
            units = self._units(np.abs(jacobian) @ np.abs(theta) + np.abs(z), alike)
            own = lengths((jacobian / units[:, None]).T)
            own = np.where(own > 0, 1.0 / np.where(own > 0, own, 1.0), np.max(np.abs(theta)))
            left = float(np.linalg.norm(gap / units))
            if left <= _CONVERGED:
                return theta, left, True
            inverse = np.linalg.pinv(jacobian * own / units[:, None], rcond=RANK_RTOL)
            step = inverse @ (gap / units)
            length = float(np.linalg.norm(step))
            shortest = min(1.0, _CONVERGED / max(length, _CONVERGED))
            moved = shortened(residual, theta, own * step, units, left, shortest)
            if moved is None:
                return theta, left, length < _SMALL
            way = np.linalg.norm((moved[0] - theta) / own)
            theta, gap = moved
            if way < _SMALL:
                return theta, float(np.linalg.norm(gap / units)), length < _SMALL
        return theta, left, False

    def _units(self, terms: FloatArray, alike: bool) -> FloatArray:
        """What entries of z with terms of some sizes are measured in."""
        for entries in self._paths_by_length:
            largest = np.max(terms[entries], initial=0.0)
            terms[entries] = largest if alike else np.maximum(terms[entries], ROUNDING * largest)
        return np.where(terms > 0, terms, 1.0)

    def solve(self, theta: Theta, tangent: LiftedTangent) -> Tangent:
        if not self.dense:
            return super().solve(theta, tangent)

        def one(point: FloatArray, vector: FloatArray) -> Tangent:
            chart = self.chart(point)
            lifts = chart.lift_tangent(point, np.eye(chart.dim))
            # In units of each degree: the small entries tell what the large ones leave open.
            units = self._units(np.abs(self.value(point)), alike=True)
            columns, own = self.jvp(point, lifts).T / units[:, None], vector / units
            sizes = lengths(columns.T)
            frame, triangle, pivots = qr_by_rows(columns / sizes)
            found = np.empty_like(sizes)
            found[pivots] = scipy.linalg.solve_triangular(triangle, frame.T @ own)
            gap, size = lengths(np.stack([columns @ (found / sizes) - own, own]))
            if gap > _CLOSE * size:  # what is not tangent is dropped, in the units of z
                return SmoothMap.solve(self, point, vector)
            return self.channels.to_horizontal(point, (found / sizes) @ lifts)

        return over_batch(one, [theta, tangent], [1, 1], shape=(self.dim,))

    def _from_logarithms(self, z: FloatArray, near: FloatArray | None) -> FloatArray:
        """Solve for log |θ| and the signs from the largest entries of z that determine them."""
        exponents = self.incidence.toarray()
        seen = z != 0
        alive = np.any(exponents[seen] > 0, axis=0)
        rows = exponents[np.ix_(seen, alive)]
        sizes = np.abs(z[seen] / self.monomials.constants[seen])
        weighed = rows * (sizes / np.max(sizes, initial=1e-300))[:, None]
        rank = min(*rows.shape, np.linalg.matrix_rank(rows) if rows.size else 0)
        chosen = scipy.linalg.qr(weighed.T, mode="r", pivoting=True)[1][:rank]
        logs = np.linalg.lstsq(rows[chosen], np.log(sizes[chosen]), rcond=None)[0]
        theta = np.zeros(self.dim)
        theta[alive] = np.exp(logs)
        negative = z[seen] * self.monomials.constants[seen] < 0
        wanted = np.zeros(self.dim, dtype=bool) if near is None else near < 0
        theta[alive] *= 1.0 - 2.0 * _signs_of(rows.astype(int) % 2, negative, wanted[alive])
        return theta


def _signs_of(exponents: IntArray, negative: Any, wanted: Any) -> FloatArray:
    """Solve exponents · s = negative over the field of two elements, near the wanted s."""
    table = np.hstack([exponents.astype(bool), negative[:, None]])
    signs, row, pivots = wanted.copy(), 0, []
    for column in range(exponents.shape[1]):
        below = np.flatnonzero(table[row:, column])
        if not below.size:
            continue
        table[[row, row + below[0]]] = table[[row + below[0], row]]
        others = table[:, column].copy()
        others[row] = False
        table[others] ^= table[row]
        pivots.append(column)
        row += 1
        if row == len(table):
            break
    free = np.setdiff1d(np.arange(exponents.shape[1]), pivots)
    for place, column in enumerate(pivots):
        signs[column] = table[place, -1] ^ bool(np.sum(table[place, free] & signs[free]) % 2)
    return np.asarray(signs, dtype=np.float64)
