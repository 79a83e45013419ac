"""Geodesics in parameter space, which all metrics here take theirs from."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from typing import Any

import numpy as np
import scipy.linalg
from scipy.integrate import solve_ivp
from scipy.optimize import root

from liftflow.architectures import Architecture
from liftflow.doors import Guarded
from liftflow.errors import GeodesicError, InputError, NotOnImageError, NotRecoverableError
from liftflow.linalg import lengths
from liftflow.metrics.cometric import HorizontalSpaces
from liftflow.typing import (
    FloatArray,
    OneTangent,
    OneTheta,
    Tangent,
    Theta,
    as_array,
    as_count,
    as_instance,
    as_number,
    as_vector,
)
from liftflow.waiting import Waiting

GEODESIC_RTOL = 1e-11
"""Default relative tolerance of geodesics."""

_SINGULAR = (NotRecoverableError, NotOnImageError)  # what families raise where ∂h or K loses rank
_MAX_STEPS = 100_000
_COARSE_RTOL, _COARSE_STEPS = 1e-8, 600
_MOST_FAILURES = 3  # targets that no geodesic was found to, each of which takes long
_REFINEMENTS, _SWEEPS = 3, 10


class _OutOfTimeError(GeodesicError):
    """The time is over: nothing else is tried."""


_Shot = tuple[FloatArray, FloatArray | None]
"""The initial velocity of a geodesic, and the Jacobian of shooting where one was found."""


@dataclass
class _Search:
    """What is under way: until when, the bar that shows how far it is, and what it found.

    Attributes
    ----------
    shots : dict
        By targets: where the last geodesic to each of them started, and how.
    """

    deadline: float
    bar: Waiting
    shots: dict[bytes, tuple[FloatArray, _Shot]] = field(default_factory=dict)


_UNDER_WAY: ContextVar[_Search | None] = ContextVar("search", default=None)


@dataclass(frozen=True)
class GeodesicSolver(Guarded):
    r"""Horizontal geodesics of an invariant set, and parallel transport along them.

    The invariant set carries the Euclidean metric, and its laws are quadratic, so that its
    geodesics obey the closed equation

    .. math:: θ'' = −∂h^\top μ, \quad (∂h\,∂h^\top) μ = ∂^2 h[θ', θ'],

    and no metric is differentiated. A geodesic that starts horizontally stays horizontal, and φ
    takes it to a geodesic of the image, of the same length (a Riemannian submersion).

    Parameters
    ----------
    spaces : HorizontalSpaces
        Those of the submersion; the tangent spaces, for the invariant set itself.
    rtol : float
        Relative tolerance of positions, directions and transported vectors.
    max_steps : int
        Largest number of evaluations of the equation along one geodesic.
    seconds : float
        Most seconds to look for the geodesics between the points of one call, such as a batch of
        logarithms; or of all that is done inside of :meth:`bounded`.

    Raises
    ------
    InputError
        A tolerance that double precision cannot keep.

    References
    ----------
    Submersions: [ONeill1966]_. Geodesics of balanced deep linear networks: [Chen2025]_. The
    equation by laws, for all families, and its solve by the graph Laplacian are ours.
    """

    architecture: Architecture
    spaces: HorizontalSpaces
    rtol: float = GEODESIC_RTOL
    max_steps: int = _MAX_STEPS
    seconds: float = 9.0

    def __post_init__(self) -> None:
        """Refuse a tolerance that cannot be kept."""
        as_instance(self.architecture, Architecture, "architecture")
        as_instance(self.spaces, HorizontalSpaces, "spaces")
        as_count(self.max_steps, "max_steps", 1)
        if not as_number(self.seconds, "seconds", 0.0) > 0:
            raise InputError(f"seconds must be positive, got {self.seconds}")
        if not 1e-13 <= as_number(self.rtol, "rtol") < 1:
            raise InputError(f"rtol must lie between 1e-13 and 1, got {self.rtol}")

    def _vectors(self, **vectors: OneTangent) -> list[FloatArray]:
        size = self.architecture.dim
        return [as_vector(vector, name, size) for name, vector in vectors.items()]

    def acceleration(self, theta: Theta, velocity: Tangent) -> Tangent:
        """Second derivative θ'' of the geodesic through θ, orthogonal to the invariant set."""
        shape, laws = (self.architecture.dim,), self.architecture.h
        theta = as_array(theta, "theta", shape, differentiable=False)
        velocity = as_array(velocity, "velocity", shape, differentiable=False)
        return -laws.solve(theta, laws.hessian(theta, velocity, velocity))

    def end(self, theta: OneTheta, velocity: OneTangent) -> OneTheta:
        """Where a geodesic is after unit time.

        Raises
        ------
        GeodesicError
            The geodesic runs into a singular point of the invariant set.
        """
        theta, velocity = self._vectors(theta=theta, velocity=velocity)
        if not np.any(velocity):
            return theta
        return self._integrate(theta, velocity, 1.0).y[: theta.size, -1]

    def path(self, theta: OneTheta, velocity: OneTangent) -> Callable[[FloatArray], FloatArray]:
        """Parametrise a geodesic by time.

        Returns
        -------
        path : callable
            Takes times of either sign, shape=[n_times], to points, shape=[n_times, dim].
        """
        theta, velocity = self._vectors(theta=theta, velocity=velocity)

        def path(times: FloatArray) -> FloatArray:
            times = as_array(times, "times", (None,), batch=False, differentiable=False)
            points = np.tile(theta, (times.size, 1))
            for side in (times > 0, times < 0):
                if np.any(velocity) and np.any(side):
                    last = times[side][np.argmax(np.abs(times[side]))]
                    found = self._integrate(theta, velocity, last, dense_output=True)
                    along = found.t[-1] * (times[side] / last)
                    points[side] = found.sol(along)[: theta.size].T
            return points

        return path

    def transport(
        self, theta: OneTheta, velocity: OneTangent, vector: OneTangent
    ) -> tuple[FloatArray, FloatArray]:
        r"""Transport a horizontal vector parallel along a geodesic for unit time.

        V' = B(θ', V), the derivative of V that keeps it horizontal and has no horizontal part.

        Returns
        -------
        theta, vector : array, shape=[dim]
            At the end.
        """
        theta, velocity, vector = self._vectors(theta=theta, velocity=velocity, vector=vector)
        if not np.any(velocity) or not np.any(vector):
            return self.end(theta, velocity), vector
        size = lengths(vector)
        found = self._integrate(theta, velocity, 1.0, passenger=vector / size)
        theta, _, vector = np.split(found.y[:, -1], 3)
        return theta, size * self.spaces._project(theta, vector)

    def _integrate(
        self,
        theta: FloatArray,
        velocity: FloatArray,
        time: float,
        passenger: FloatArray | None = None,
        dense_output: bool = False,
    ) -> Any:
        """Integrate over arc length in units of θ, in which every step and tolerance is."""
        speed, size = lengths(velocity), theta.size
        unit = lengths(theta) or 1.0
        parts = [theta, np.sign(time) * velocity / speed]

        evaluations = 0

        def derivative(at: float, state: FloatArray) -> OneTangent:
            nonlocal evaluations
            evaluations += 1
            if evaluations > self.max_steps:
                raise GeodesicError(
                    f"the geodesic takes more than {self.max_steps} evaluations up to the "
                    f"length {at * unit:.3g} of {abs(time) * speed:.3g}: it passes close to a "
                    "singular point"
                )
            here, heading = state[:size], state[size : 2 * size]
            moves = [heading, self.acceleration(here, heading)]
            if passenger is not None:
                moves.append(self.spaces._form(here, heading, state[2 * size :]))
            return unit * np.concatenate(moves)

        if passenger is not None:
            parts.append(passenger)
        typical = np.repeat([unit, *[1.0] * (len(parts) - 1)], size)
        try:
            found = solve_ivp(
                derivative,
                (0.0, abs(time) * speed / unit),
                np.concatenate(parts),
                method="DOP853",
                rtol=self.rtol,
                atol=self.rtol * typical / np.sqrt(size),
                dense_output=dense_output,
            )
        except _SINGULAR as error:
            raise GeodesicError(f"the geodesic runs into a singular point: {error}") from error
        if not found.success:
            raise GeodesicError(
                f"the geodesic cannot be followed beyond the length {found.t[-1] * unit:.3g} of "
                f"{abs(time) * speed:.3g}: it runs into a singular point of the invariant set; "
                "take a shorter tangent vector"
            )
        return found

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Bound the time for the geodesics that are looked for inside, all together.

        A geodesic to where one led before starts from that one, as in a mean that moves little from
        step to step. A progress bar shows in a terminal what is left, after a few seconds.
        """
        if _UNDER_WAY.get() is not None:  # within another bound
            yield
            return
        detail = "{task.fields[gap]:.1e} from the target"
        with Waiting("geodesics", self.seconds, detail, gap=np.nan) as bar:
            token = _UNDER_WAY.set(_Search(time.monotonic() + self.seconds, bar))
            try:
                yield
            finally:
                _UNDER_WAY.reset(token)

    def _look_at_the_clock(self, gap: float, length: float) -> None:
        search = _UNDER_WAY.get()
        if search is None:
            return
        left = search.deadline - time.monotonic()
        search.bar.update(self.seconds - left, gap=gap)
        if left < 0:
            raise _OutOfTimeError(
                f"no geodesic was found within {self.seconds:g} seconds: of a length of about "
                f"{length:.3g}, the last one tried ends {gap:.1e} from the target; take closer "
                "points, or a solver with more seconds: "
                "metric.solver = dataclasses.replace(metric.solver, seconds=60.0)"
            )

    def connect(self, theta: OneTheta, target: FloatArray) -> OneTangent:
        """Find the initial velocity of a geodesic that ends after unit time over a target.

        Shooting: the gap that is left at the end is a correction at the start, but for terms of
        second order in the distance, which Broyden's method learns. Where that fails from the
        chord, a broken line is shortened first, and Powell's hybrid method goes on from there.

        Parameters
        ----------
        target : array, shape=[dim] or [n_targets, dim]
            A point of the same invariant set; of several the one with the shortest geodesic.

        Raises
        ------
        GeodesicError
            None was found; says how far the end stays from the target.
        """
        (theta,) = self._vectors(theta=theta)
        size = (self.architecture.dim,)
        targets = np.atleast_2d(as_array(target, "target", size, differentiable=False))
        chords = np.linalg.norm(targets - theta, axis=-1)
        coarse = replace(self, rtol=max(self.rtol, _COARSE_RTOL), max_steps=_COARSE_STEPS)
        found: list[tuple[float, int, _Shot]] = []
        failures: list[GeodesicError] = []
        with self.bounded():
            for number in np.argsort(chords, kind="stable"):
                if (
                    found and min(each[0] for each in found) <= chords[number]
                ):  # no geodesic is shorter than that
                    break
                if len(failures) == _MOST_FAILURES:
                    break
                try:
                    shot = coarse._guess(theta, targets[number])
                    found.append((float(lengths(shot[0])), number, shot))
                except _OutOfTimeError:
                    raise
                except GeodesicError as error:
                    failures.append(error)
            for _, number, shot in sorted(found, key=lambda each: each[:2]):
                try:
                    shot = self._refine(theta, targets[number], shot)
                    self._remember(theta, targets[number], shot)
                    return shot[0]
                except _OutOfTimeError:
                    raise
                except GeodesicError as error:
                    failures.append(error)
        raise failures[0]

    @staticmethod
    def _remember(theta: FloatArray, target: FloatArray, shot: _Shot) -> None:
        search = _UNDER_WAY.get()
        if search is not None:
            search.shots[target.tobytes()] = theta, shot

    def _from_nearby(self, theta: FloatArray, target: FloatArray) -> _Shot | None:
        """The geodesic to the same target from nearby, moved over here, if one is known."""
        search = _UNDER_WAY.get()
        known = None if search is None else search.shots.get(target.tobytes())
        if known is None:
            return None
        start, (velocity, jacobian) = known
        moved = start - theta
        if lengths(moved) > 0.3 * lengths(velocity):
            return None
        return self.spaces._project(theta, velocity + moved), jacobian

    def _guess(self, theta: FloatArray, target: FloatArray) -> _Shot:
        known = self._from_nearby(theta, target)
        if known is not None:
            try:
                return self._broyden(theta, target, known)
            except _OutOfTimeError:
                raise
            except (GeodesicError, *_SINGULAR):
                pass
        try:
            return self._broyden(theta, target, (self._chord(theta, target), None))
        except _OutOfTimeError:
            raise
        except (GeodesicError, *_SINGULAR):
            return self._hybrid(theta, target, self._shortened(theta, target))

    def _refine(self, theta: FloatArray, target: FloatArray, shot: _Shot) -> _Shot:
        try:
            return self._broyden(theta, target, shot)
        except _OutOfTimeError:
            raise
        except (GeodesicError, *_SINGULAR):
            return self._hybrid(theta, target, shot[0])

    def _chord(self, theta: FloatArray, target: FloatArray) -> OneTangent:
        """Horizontal part of the chord, of the chord's length."""
        chord = target - theta
        velocity = self.spaces._project(theta, chord)
        size = np.linalg.norm(velocity)
        return velocity * (np.linalg.norm(chord) / size) if size else velocity

    def _shortened(self, theta: FloatArray, target: FloatArray) -> OneTangent:
        """Initial velocity of a broken line, shortened by moving its corners between neighbours.

        It is refined as it gets shorter, and its end moves in the fibre of the target.
        """
        laws, points = self.architecture.conservation_laws(theta), [theta, target]
        for _ in range(_REFINEMENTS):
            middles = [(first + second) / 2 for first, second in pairwise(points)]
            middles = list(self.architecture.project_to_laws(np.stack(middles), laws))
            points = [*chain.from_iterable(zip(points[:-1], middles, strict=True)), points[-1]]
            for _ in range(_SWEEPS):
                for i in range(1, len(points) - 1):
                    middle = (points[i - 1] + points[i + 1]) / 2
                    points[i] = self.architecture.project_to_laws(middle, laws)
                points[-1] = self.architecture.align(points[-1], points[-2])
        total = sum(np.linalg.norm(second - first) for first, second in pairwise(points))
        velocity = self.spaces._project(theta, points[1] - theta)
        return velocity * (total / np.linalg.norm(velocity))

    def _miss(
        self, theta: FloatArray, target: FloatArray, velocity: FloatArray
    ) -> tuple[FloatArray, float]:
        """Minus the gap at the end, plus what is not horizontal at the start; size of the gap."""
        horizontal = self.spaces._project(theta, velocity)
        gap = self.spaces._displacement(self.end(theta, horizontal), target)
        residual = velocity - horizontal - self.spaces._project(theta, gap)
        size = float(np.linalg.norm(gap))
        self._look_at_the_clock(size, float(np.linalg.norm(horizontal)))
        return residual, size

    def _accept(
        self, theta: FloatArray, target: FloatArray, velocity: FloatArray, gap: float
    ) -> OneTangent:
        tolerance = self._tolerance(theta)
        if not gap <= 10 * tolerance:
            raise GeodesicError(
                f"no geodesic was found between points whose parameters are "
                f"{np.linalg.norm(target - theta):.3g} apart: shooting ends {gap:.1e} from the "
                f"target, expected at most {tolerance:.1e}; are they joined in the invariant set, "
                "and far from its singular points?"
            )
        return self.spaces._project(theta, velocity)

    def _tolerance(self, theta: FloatArray) -> float:
        return 10 * self.rtol * float(np.linalg.norm(theta))

    def _broyden(self, theta: FloatArray, target: FloatArray, shot: _Shot) -> _Shot:
        """Solve from a known Jacobian, by default the identity, which it is but for second order.

        Where a coarser solution left its Jacobian, two or three geodesics make it a finer one.
        """
        (guess, jacobian), gaps = shot, list[float]()
        factors = None if jacobian is None else scipy.linalg.lu_factor(jacobian)

        def miss(velocity: FloatArray) -> FloatArray:
            residual, gap = self._miss(theta, target, velocity)
            gaps.append(gap)
            if not gap <= 2 * gaps[0] + self._tolerance(theta):
                raise GeodesicError(f"shooting diverges, at {gap:.1e} from the target")
            return residual if factors is None else scipy.linalg.lu_solve(factors, residual)

        options: dict[str, object] = {"fatol": self._tolerance(theta), "maxiter": 12}
        options |= {"line_search": None, "jac_options": {"alpha": -1.0}}
        with np.errstate(all="ignore"):  # a step may be infinite, which is refused
            found = root(miss, guess, method="broyden1", options=options)
        return self._accept(theta, target, found.x, gaps[-1]), jacobian

    def _hybrid(self, theta: FloatArray, target: FloatArray, guess: FloatArray) -> _Shot:
        """Solve with a Jacobian by differences, one geodesic per parameter, in trust regions."""

        def miss(velocity: FloatArray) -> FloatArray:
            return self._miss(theta, target, velocity)[0]

        options: dict[str, object] = {
            "eps": self.rtol,
            "xtol": self.rtol,
            "maxfev": 50 + 4 * theta.size,
        }
        options |= {"factor": 0.1, "diag": np.ones(theta.size)}
        found = root(miss, guess, method="hybr", options=options)
        triangle = np.zeros((theta.size, theta.size))
        triangle[np.triu_indices(theta.size)] = found.r
        velocity = self._accept(theta, target, found.x, self._miss(theta, target, found.x)[1])
        return velocity, found.fjac.T @ triangle
