"""Geodesics in parameter space, which all metrics here take theirs from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import root

from liftflow.architectures import Architecture
from liftflow.errors import GeodesicError, InputError, NotRecoverableError
from liftflow.metrics.horizontal import HorizontalSpaces
from liftflow.typing import FloatArray

GEODESIC_RTOL = 1e-11
"""Default relative tolerance of geodesics."""

_MAX_ITERATIONS = 30
_SMALLEST_STRIDE = 1 / 64


@dataclass(frozen=True)
class GeodesicSolver:
    r"""Horizontal geodesics of an invariant set, and parallel transport along them.

    The invariant set carries the Euclidean metric, and its laws are quadratic, so that its
    geodesics obey the closed equation

    .. math:: θ'' = −∂h^\top μ, \quad (∂h\,∂h^\top) μ = ∂^2 h[θ', θ'],

    and no metric is differentiated. A geodesic that starts horizontally stays horizontal, and φ
    takes it to a geodesic of the image, of the same length (a Riemannian submersion).

    Parameters
    ----------
    architecture : Architecture
    spaces : HorizontalSpaces
        Those of the submersion; the tangent spaces, for the invariant set itself.
    rtol : float
        Relative tolerance of positions, directions and transported vectors.

    Raises
    ------
    InputError
        A tolerance that double precision cannot keep.

    References
    ----------
    Submersions: [ONeill1966]_. The equation in closed form is ours.
    """

    architecture: Architecture
    spaces: HorizontalSpaces
    rtol: float = GEODESIC_RTOL

    def __post_init__(self) -> None:
        """Refuse a tolerance that cannot be kept."""
        if not 1e-13 <= self.rtol < 1:
            raise InputError(f"rtol must lie between 1e-13 and 1, got {self.rtol}")

    def acceleration(self, theta: FloatArray, velocity: FloatArray) -> FloatArray:
        """Second derivative θ'' of the geodesic through θ.

        Parameters
        ----------
        theta, velocity : array, shape=[..., dim]

        Returns
        -------
        acceleration : array, shape=[..., dim]
            Orthogonal to the invariant set.
        """
        second = self.architecture.laws_hessian(theta, velocity, velocity)
        return -self.architecture.solve_laws_jvp(theta, second)

    def end(self, theta: FloatArray, velocity: FloatArray) -> FloatArray:
        """Where a geodesic is after unit time.

        Parameters
        ----------
        theta, velocity : array, shape=[dim]

        Returns
        -------
        theta : array, shape=[dim]

        Raises
        ------
        GeodesicError
            The geodesic runs into a singular point of the invariant set.
        """
        if not np.any(velocity):
            return theta
        return self._integrate(theta, velocity, 1.0).y[: theta.size, -1]

    def path(self, theta: FloatArray, velocity: FloatArray) -> Callable[[FloatArray], FloatArray]:
        """Parametrise a geodesic by time.

        Parameters
        ----------
        theta, velocity : array, shape=[dim]

        Returns
        -------
        path : callable
            Takes times of either sign, shape=[n_times], to points, shape=[n_times, dim].
        """

        def path(times: FloatArray) -> FloatArray:
            points = np.tile(theta, (times.size, 1))
            for side in (times > 0, times < 0):
                if np.any(velocity) and np.any(side):
                    last = times[side][np.argmax(np.abs(times[side]))]
                    found = self._integrate(theta, velocity, last, dense_output=True)
                    length = np.linalg.norm(velocity)
                    points[side] = found.sol(length * np.abs(times[side]))[: theta.size].T
            return points

        return path

    def transport(
        self, theta: FloatArray, velocity: FloatArray, vector: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        r"""Transport a horizontal vector parallel along a geodesic for unit time.

        V' = B(θ', V), the derivative of V that keeps it horizontal and has no horizontal part.

        Parameters
        ----------
        theta, velocity, vector : array, shape=[dim]

        Returns
        -------
        theta, vector : array, shape=[dim]
            At the end.
        """
        if not np.any(velocity) or not np.any(vector):
            return self.end(theta, velocity), vector
        length = np.linalg.norm(vector)
        found = self._integrate(theta, velocity, 1.0, passenger=vector / length)
        theta, _, vector = np.split(found.y[:, -1], 3)
        return theta, length * self.spaces.project(theta, vector)

    def _integrate(
        self,
        theta: FloatArray,
        velocity: FloatArray,
        time: float,
        passenger: FloatArray | None = None,
        dense_output: bool = False,
    ) -> Any:
        """Integrate over arc length, at unit speed, so that tolerances are relative to 1."""
        speed, size = float(np.linalg.norm(velocity)), theta.size
        parts = [theta, np.sign(time) * velocity / speed]

        def derivative(_: float, state: FloatArray) -> FloatArray:
            here, heading = state[:size], state[size : 2 * size]
            moves = [heading, self.acceleration(here, heading)]
            if passenger is not None:
                moves.append(self.spaces.second_fundamental_form(here, heading, state[2 * size :]))
            return np.concatenate(moves)

        if passenger is not None:
            parts.append(passenger)
        typical = np.repeat([np.linalg.norm(theta), *[1.0] * (len(parts) - 1)], size)
        try:
            found = solve_ivp(
                derivative,
                (0.0, abs(time) * speed),
                np.concatenate(parts),
                method="DOP853",
                rtol=self.rtol,
                atol=self.rtol * typical / np.sqrt(size),
                dense_output=dense_output,
            )
        except NotRecoverableError as error:
            raise GeodesicError(f"the geodesic runs into a singular point: {error}") from error
        if not found.success:
            raise GeodesicError(
                f"the geodesic cannot be followed beyond the length {found.t[-1]:.3g} of "
                f"{abs(time) * speed:.3g}: it runs into a singular point of the invariant set; "
                "take a shorter tangent vector"
            )
        return found

    def connect(self, theta: FloatArray, target: FloatArray) -> FloatArray:
        """Find the initial velocity of a geodesic that ends after unit time over a target.

        Shooting: the gap that is left at the end is a correction at the start, but for terms of
        second order in the distance; Broyden's method learns those. Where that fails, the target
        is approached by intermediate ones.

        Parameters
        ----------
        theta, target : array, shape=[dim]
            Points of one invariant set.

        Returns
        -------
        velocity : array, shape=[dim]
            Horizontal.

        Raises
        ------
        GeodesicError
            None was found; says how far the end stays from the target.
        """
        laws = self.architecture.conservation_laws(theta)
        velocity, reached, stride = np.zeros_like(theta), 0.0, 1.0
        while reached < 1.0:
            share = min(1.0, reached + stride)
            try:
                between = target
                if share < 1.0:
                    chord = (1 - share) * theta + share * target
                    between = self.architecture.project_to_laws(chord, laws)
                guess = velocity * (share / reached) if reached else self._guess(theta, between)
                velocity = self._shoot(theta, between, guess)
                reached = share
            except (GeodesicError, NotRecoverableError) as error:
                stride /= 2
                if stride < _SMALLEST_STRIDE:
                    raise GeodesicError(
                        f"no geodesic found between points at the distance "
                        f"{np.linalg.norm(target - theta):.3g} (of the parameters), after the "
                        f"share {reached:.3g} of the way: {error}; are they joined in the "
                        "invariant set, and is it regular between them?"
                    ) from error
        return velocity

    def _guess(self, theta: FloatArray, target: FloatArray) -> FloatArray:
        """Horizontal part of the chord, of the chord's length."""
        chord = target - theta
        velocity = self.spaces.project(theta, chord)
        length = np.linalg.norm(velocity)
        return velocity * (np.linalg.norm(chord) / length) if length else velocity

    def _shoot(self, theta: FloatArray, target: FloatArray, guess: FloatArray) -> FloatArray:
        tolerance = 10 * self.rtol * float(np.linalg.norm(theta))
        gaps = []

        def miss(velocity: FloatArray) -> FloatArray:
            gap = self.spaces.displacement(self.end(theta, velocity), target)
            gaps.append(float(np.linalg.norm(gap)))
            if not gaps[-1] <= 2 * gaps[0] + tolerance:
                raise GeodesicError(f"shooting diverges, at {gaps[-1]:.1e} from the target")
            return self.spaces.project(theta, gap)

        if np.linalg.norm(miss(guess)) <= tolerance:
            return guess
        found = root(
            miss,
            guess,
            method="broyden1",
            options={
                "fatol": tolerance,
                "maxiter": _MAX_ITERATIONS,
                "line_search": None,
                "jac_options": {"alpha": 1.0},
            },
        )
        if not found.success or not gaps[-1] <= 100 * tolerance:
            raise GeodesicError(
                f"shooting ends {gaps[-1]:.1e} from the target after {len(gaps)} geodesics, "
                f"expected at most {tolerance:.1e}"
            )
        return found.x
