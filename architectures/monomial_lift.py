"""The lift of a network with shared and frozen weights: its distinct monomials."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg

from liftflow.architectures.anchors import ChannelChart
from liftflow.architectures.channels import ChannelGraph
from liftflow.architectures.dag import CompiledDAG
from liftflow.architectures.monomials import Monomials, list_monomials
from liftflow.architectures.path_lift import PathLift
from liftflow.architectures.tying import Tying, Units
from liftflow.errors import ArchitectureError
from liftflow.typing import FloatArray, IntArray, OneLifted, OneTheta, freeze

_STEPS = 60
_CONVERGED = 1e-13


class MonomialLift(PathLift):
    """Distinct products of the weights along paths, with their frozen constants.

    Parameters
    ----------
    channels : ChannelGraph
        The symmetries of the products.
    limit : int
        Largest number of monomials to list.
    """

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
        """The monomials, in the lexicographic order of their first paths.

        Raises
        ------
        ArchitectureError
            There are more than the limit.
        """
        return list_monomials(self.dag, *self._parts, self.limit)

    @cached_property
    def table(self) -> IntArray:
        """Parameters of the monomials; a first column, of none, stands for their constants."""
        table, tying = self.monomials.parameters, self._parts[0]
        return freeze(np.hstack([np.full((len(table), 1), tying.dim), table]))

    def _gather(self, theta: Any, padding: float) -> list[Any]:
        factors = super()._gather(theta, padding)
        factors[0] = factors[0] * self.monomials.constants
        return factors

    def chart(self, theta: OneTheta) -> ChannelChart:
        """Coordinates of the image about φ(θ)."""
        return self.channels.chart(theta)

    def representative(self, z: OneLifted) -> OneTheta:
        """Find some θ̂ whose lift is z, or a point of the image near z."""
        return self.preimage(z, None)

    def preimage(self, z: FloatArray, near: FloatArray | None) -> FloatArray:
        """A point whose lift is z, or nearly: by steps from nearby, else from logarithms."""
        if near is not None:
            theta, left = self._follow(z, near)
            if left <= _CONVERGED:
                return theta
        start = self._from_logarithms(z, near)
        other, rest = self._follow(z, start)
        return theta if near is not None and left <= rest else other

    def _follow(self, z: FloatArray, theta: FloatArray) -> tuple[FloatArray, float]:
        """Gauss–Newton steps on φ(θ) = z, each entry in units of its terms, and what is left."""
        gap, left = z - self.value(theta), np.inf
        for _ in range(_STEPS):
            jacobian, own = self.jacobian(theta), np.abs(theta)
            terms = np.abs(jacobian) @ own + np.abs(z)
            terms = np.where(terms > 0, terms, 1.0)
            own = np.where(own > 0, own, np.max(own) or 1.0)
            left = float(np.linalg.norm(gap / terms))
            if left <= _CONVERGED:
                break
            relative = jacobian / terms[:, None] * own
            step = own * (np.linalg.pinv(relative, rcond=1e-10) @ (gap / terms))
            fraction = 1.0
            while True:
                trial = theta + fraction * step
                trial_gap = z - self.value(trial)
                if np.linalg.norm(trial_gap / terms) < left or fraction < 1e-4:
                    break
                fraction /= 2
            after = float(np.linalg.norm(trial_gap / terms))
            if not after < left:
                break
            stalled = after > 0.99 * left or np.linalg.norm(step / own) < 1e-15
            theta, gap, left = trial, trial_gap, after
            if stalled:
                break
        return theta, left

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
    return signs.astype(float)
