"""Curves between two points that obey the equation of geodesics at Chebyshev's nodes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.polynomial import chebyshev
from scipy.optimize import NoConvergence, anderson

from liftflow.errors import GeodesicError
from liftflow.typing import FloatArray, OneTangent, OneTheta

FEWEST_NODES, MOST_NODES = 16, 256
_MEMORY, _MOST_STEPS, _PATIENCE = 10, 100, 40  # of Anderson's iteration
_WIDER = 1e-3  # what is left at some nodes, as a part of the terms that they leave out
_ROUNDING = 1e-13  # what is left of accelerations, of which those of the laws cancel


@dataclass(frozen=True)
class _Rules:
    """Integrals of the polynomials that have given values at Chebyshev's nodes."""

    times: FloatArray  # the nodes, in the unit interval
    place: FloatArray  # takes accelerations to displacements that vanish at both ends,
    speed: FloatArray  # to their velocities,
    start: FloatArray  # and to those at the ends
    end: FloatArray
    terms: FloatArray  # takes values to coefficients of Chebyshev's polynomials


@lru_cache(maxsize=8)
def _rules(size: int) -> _Rules:
    nodes = chebyshev.chebpts1(size)
    values = chebyshev.chebvander(nodes, size - 1)
    terms = np.asarray(values.T * (2.0 / size), np.float64)
    terms[0] /= 2.0
    once = chebyshev.chebint(np.eye(size), lbnd=-1, scl=0.5)
    twice = chebyshev.chebint(once, lbnd=-1, scl=0.5)
    mean = np.sum(twice, axis=0) @ terms  # a displacement's at the end, which the chord takes away
    place = chebyshev.chebvander(nodes, size + 1) @ twice @ terms
    speed = chebyshev.chebvander(nodes, size) @ once @ terms - mean
    times = (nodes + 1) / 2
    end = np.sum(once, axis=0) @ terms - mean
    return _Rules(times, place - np.outer(times, mean), speed, -mean, end, terms)


@dataclass(frozen=True)
class Curve:
    """A curve from a point in unit time, by its end and its accelerations at Chebyshev's nodes."""

    bends: FloatArray  # shape=[n_nodes, dim]
    end: OneTheta

    @classmethod
    def straight(cls, end: OneTheta) -> Self:
        """The chord."""
        return cls(np.zeros((FEWEST_NODES, end.size)), end)

    @property
    def tail(self) -> float:
        """Size of the last terms, which tells that of those left out."""
        return float(np.max(np.abs(_rules(len(self.bends)).terms[-2:] @ self.bends)))

    def finer(self) -> Self:
        """The same curve with twice as many nodes."""
        size = len(self.bends)
        values = chebyshev.chebvander(chebyshev.chebpts1(2 * size), size - 1)
        return replace(self, bends=values @ (_rules(size).terms @ self.bends))

    def shorter(self, ratio: float, end: OneTheta) -> Self:
        """The accelerations of a curve that is as much shorter, and another end."""
        return replace(self, bends=ratio**2 * self.bends, end=end)

    def start(self, theta: OneTheta) -> OneTangent:
        """Velocity at the start."""
        return self.end - theta + _rules(len(self.bends)).start @ self.bends


def relax(
    theta: OneTheta,
    curve: Curve,
    acceleration: Callable[[FloatArray, FloatArray], FloatArray],
    gap: Callable[[OneTheta, OneTangent], OneTangent],
    tolerance: float,
    look: Callable[[float, float], None],
) -> Curve:
    r"""Relax a curve from θ until it obeys :math:`θ'' = a(θ, θ')`.

    With the chord and the accelerations, both at the nodes, the equation says what the
    accelerations should be. Putting these in their place over and over is the descent of the energy
    in :math:`H^1`, which Anderson's iteration [Anderson1965]_ makes faster, at all nodes at once.

    Parameters
    ----------
    gap : callable
        Of the end and its velocity: what the end should move by.
    tolerance : float
        Of the accelerations and the end, for which nodes are added.
    look : callable
        Is told after each evaluation what is left, and the length, and may raise.

    Raises
    ------
    GeodesicError
        The iteration does not converge.
    """
    enough = max(tolerance, _WIDER * float(np.linalg.norm(curve.end - theta)))
    while True:
        rules, size = _rules(len(curve.bends)), len(curve.bends)
        seen: list[float] = []

        def miss(state: FloatArray, rules: _Rules = rules, seen: list[float] = seen) -> FloatArray:
            bends, end = state[:-1], state[-1]
            chord = end - theta
            places = theta + rules.times[:, None] * chord + rules.place @ bends
            wanted = acceleration(places, chord + rules.speed @ bends)
            move = gap(end, chord + rules.end @ bends)
            missing = np.vstack([wanted - bends, move])
            left = float(np.max(np.abs(missing)))
            look(left, float(np.linalg.norm(chord + rules.start @ bends)))
            seen.append(left)
            idle = len(seen) > _PATIENCE and min(seen[_PATIENCE // 2 :]) > 0.5 * seen[0]
            if not left <= 1e6 * seen[0] or idle:
                raise NoConvergence
            return missing

        try:
            with np.errstate(all="ignore"):  # what is not finite is refused
                found = anderson(
                    miss,
                    np.vstack([curve.bends, curve.end]),
                    alpha=1.0,
                    M=_MEMORY,
                    f_tol=max(enough, _ROUNDING * float(np.max(np.abs(curve.bends)))),
                    maxiter=_MOST_STEPS,
                    line_search=None,
                )
        except NoConvergence as error:
            message = "a curve between the points could not be made a geodesic"
            raise GeodesicError(message) from error
        curve = Curve(found[:-1], found[-1])
        tail = curve.tail
        fine = tail <= tolerance / _WIDER or size >= MOST_NODES
        if fine and enough <= tolerance:
            return curve
        if not fine:
            curve = curve.finer()
        enough = tolerance if fine else max(tolerance, _WIDER * tail)
