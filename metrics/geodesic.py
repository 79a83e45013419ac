"""Geodesics in parameter space, which all metrics here take theirs from."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg.lapack import dposv

from liftflow.architectures import Architecture
from liftflow.architectures.maps import SmoothMap
from liftflow.doors import Guarded
from liftflow.errors import GeodesicError, InputError, NotOnImageError, NotRecoverableError
from liftflow.linalg import lengths, over_batch
from liftflow.metrics.collocation import Curve, relax
from liftflow.metrics.cometric import HorizontalSpaces
from liftflow.typing import (
    FloatArray,
    OneTangent,
    OneTheta,
    Tangent,
    Theta,
    as_array,
    as_count,
    as_function,
    as_instance,
    as_number,
    as_ordered,
    as_vector,
    shown,
)
from liftflow.waiting import Waiting

GEODESIC_RTOL = 1e-11
"""Default relative tolerance of geodesics."""

_SINGULAR = (NotRecoverableError, NotOnImageError)  # what families raise where ∂h or K loses rank
_MAX_STEPS = 100_000
_DENSE_LAWS = 1 << 15  # entries of ∂h up to which all nodes of a curve have theirs at once
_INDEPENDENT = 1e-3  # part of each ∂h_i beyond the others, below which laws are solved with care
_MOST_FAILURES = 3  # targets that no geodesic was found to, each of which takes long
_ROUGHLY, _NEARLY = 1e-6, 1e-8  # to tell the shortest of several curves, and for steps of a mean
_MEAN_STEPS, _MEAN_RTOL = 100, 1e-6
_SHORT = 0.2  # least part of the mean of the logarithms that a step to a mean goes along
_SHORTEST = 1 / 64  # step of a continuation, as a part of the chord
_CORRECTIONS = 5
_BETWEEN_LOOKS = 64  # evaluations along one geodesic


class _OutOfTimeError(Exception):
    """The time is over: nothing else is tried. Outside of a bound it is a GeodesicError."""


@dataclass
class _Search:
    """What is under way: until when, the bar that shows how far it is, and what it found."""

    deadline: float
    bar: Waiting
    curves: dict[bytes, Curve] = field(default_factory=dict)  # by targets: the last one to each
    between: bool = False  # whether a geodesic between points is looked for, or followed only


def _solved(laws: SmoothMap, theta: Theta, velocity: Tangent) -> Tangent:
    """Solve ∂h a = ∂²h[θ', θ'] for the shortest a, at all points at once where laws are few."""
    right = laws.hessian(theta, velocity, velocity)
    if laws.size * laws.dim <= _DENSE_LAWS:
        jacobian = laws.jacobian(theta)
        gram = jacobian @ np.swapaxes(jacobian, -1, -2)
        scale = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
        if np.all(scale > 0):
            gram /= scale[..., :, None] * scale[..., None, :]
            inner = _independent_solution(gram, right / scale)
            if inner is not None:
                return (((inner / scale)[..., None, :]) @ jacobian)[..., 0, :]
    return laws.solve(theta, right)


def _independent_solution(gram: FloatArray, right: FloatArray) -> FloatArray | None:
    """Solve with matrices of unit diagonal, or return None where they are close to singular."""
    if gram.ndim == 2 and right.size:  # without the checks that take longer than the solve
        factor, inner, failed = dposv(gram, right, lower=True)
        return None if failed or np.min(np.diag(factor)) < _INDEPENDENT else inner
    try:
        factors = np.linalg.cholesky(gram)
    except np.linalg.LinAlgError:
        return None
    least = np.min(np.diagonal(factors, axis1=-2, axis2=-1), initial=1.0)
    if least < _INDEPENDENT:
        return None
    inner = np.linalg.solve(gram, right[..., None])[..., 0]
    return np.asarray(inner, np.float64)


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
        found = {n: as_vector(each, n, self.architecture.dim) for n, each in vectors.items()}
        for name, vector in found.items():
            if vector.any() and not 1e-307 < lengths(vector) < np.inf:
                raise GeodesicError(f"{name} has no length in floats, {lengths(vector):.1e}")
        return list(found.values())

    def acceleration(self, theta: Theta, velocity: Tangent) -> Tangent:
        """Second derivative θ'' of the geodesic through θ, orthogonal to the invariant set."""
        shape = (self.architecture.dim,)
        theta = as_array(theta, "theta", shape, differentiable=False)
        velocity = as_array(velocity, "velocity", shape, differentiable=False)
        return over_batch(self._acceleration, [theta, velocity], [1, 1])

    def _acceleration(self, theta: Theta, velocity: Tangent) -> Tangent:
        return -_solved(self.architecture.h, theta, velocity)

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
        """Parametrise a geodesic: from times of either sign to points, shape=[n_times, dim]."""
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
        Returns θ and V at the end.
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

        evaluations, whole, search = 0, abs(time) * speed, _UNDER_WAY.get()

        def derivative(at: float, state: FloatArray) -> OneTangent:
            nonlocal evaluations
            evaluations += 1
            if evaluations > self.max_steps:
                raise GeodesicError(
                    f"the geodesic takes more than {self.max_steps} evaluations up to the "
                    f"length {at * unit:.3g} of {whole:.3g}: it passes close to a singular point"
                )
            if search is not None and not search.between and evaluations % _BETWEEN_LOOKS == 0:
                told = f"at the length {at * unit:.3g} of {whole:.3g}"
                search.bar.update(self.seconds * at * unit / whole, told=told)
            here, heading = state[:size], state[size : 2 * size]
            moves = [heading, self._acceleration(here, heading)]
            if passenger is not None:
                moves.append(self.spaces._form(here, heading, state[2 * size :]))
            return unit * np.concatenate(moves)

        if passenger is not None:
            parts.append(passenger)
        typical = np.repeat([unit, *[1.0] * (len(parts) - 1)], size)
        try:
            found = solve_ivp(
                derivative,
                (0.0, whole / unit),
                np.concatenate(parts),
                method="DOP853",
                rtol=self.rtol,
                atol=self.rtol * typical / np.sqrt(size),
                dense_output=dense_output,
            )
        except _SINGULAR as error:
            raise GeodesicError(f"the geodesic runs into a singular point: {error}") from error
        except FloatingPointError as error:
            rank, n_laws = self.architecture.laws_rank(theta), self.architecture.n_laws
            if rank == n_laws:
                raise
            raise GeodesicError(
                f"the geodesic starts at a singular point of the invariant set: only {rank} of the "
                f"{n_laws} laws are independent there, and it cannot be followed ({error})"
            ) from error
        if not found.success:
            raise GeodesicError(
                f"the geodesic cannot be followed beyond the length {found.t[-1] * unit:.3g} of "
                f"{whole:.3g}: it runs into a singular point of the invariant set; "
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
        with Waiting("geodesics", self.seconds, "{task.fields[told]}", told="") as bar:
            token = _UNDER_WAY.set(_Search(time.monotonic() + self.seconds, bar))
            try:
                yield
            except _OutOfTimeError as error:
                raise GeodesicError(str(error)) from None
            finally:
                _UNDER_WAY.reset(token)

    @property
    def _search(self) -> _Search:
        search = _UNDER_WAY.get()
        if search is None:
            raise RuntimeError("geodesics are looked for inside of bounded() only")
        return search

    def _look_at_the_clock(self, gap: float, length: float) -> None:
        search = self._search
        left = search.deadline - time.monotonic()
        search.between = True
        search.bar.update(self.seconds - left, told=f"{gap:.1e} from a geodesic")
        if left < 0:
            raise _OutOfTimeError(
                f"no geodesic was found within {self.seconds:g} seconds: of a length of about "
                f"{length:.3g}, the last curve tried is {gap:.1e} from one; take closer "
                "points, or a solver with more seconds: "
                "metric.solver = dataclasses.replace(metric.solver, seconds=60.0)"
            )

    def connect(self, theta: OneTheta, target: FloatArray) -> OneTangent:
        """Find the initial velocity of a geodesic that ends after unit time over a target.

        A curve is relaxed from the chord until it obeys the equation at some points in time
        (collocation [Ascher1995]_), or where that fails from shorter ones, one after the other. The
        geodesic with its initial velocity is followed then, and what misses the target corrects the
        curve's end.

        Parameters
        ----------
        target : array, shape=[dim] or [n_targets, dim]
            A point of the same invariant set; of several the one with the shortest geodesic.

        Raises
        ------
        GeodesicError
            None was found; says how far it came.
        """
        (theta,) = self._vectors(theta=theta)
        size = (self.architecture.dim,)
        targets = np.atleast_2d(as_array(target, "target", size, differentiable=False))
        failures: list[GeodesicError] = []
        with self.bounded():
            for curve, own in self._curves(theta, targets, _ROUGHLY, failures):
                try:
                    return self._followed(theta, own, curve)
                except GeodesicError as error:
                    failures.append(error)
        raise failures[0]

    def _curves(
        self, theta: FloatArray, targets: FloatArray, rtol: float, failures: list[GeodesicError]
    ) -> list[tuple[Curve, FloatArray]]:
        """Curves that are geodesics to few digits, with their targets, the shortest one first."""
        chords = lengths(targets - theta)
        found: list[tuple[float, int, Curve]] = []
        for number in np.argsort(chords, kind="stable"):
            if found and min(found)[0] <= chords[number]:  # no geodesic is shorter than that
                break
            if len(failures) == _MOST_FAILURES:
                break
            try:
                curve = self._curve(theta, targets[number], rtol)
                found.append((float(lengths(curve.start(theta))), int(number), curve))
            except GeodesicError as error:
                failures.append(error)
        return [(curve, targets[number]) for _, number, curve in sorted(found, key=lambda f: f[:2])]

    def mean(
        self,
        theta: OneTheta,
        targets: Sequence[Callable[[FloatArray], FloatArray]],
        weights: FloatArray,
    ) -> OneTheta:
        """Find a Fréchet mean of points from a point near it.

        Each step is as long as the last two tell the Hessian to be in their direction
        [Barzilai1988]_. The steps go along curves that are geodesics to eight digits, each from the
        one before, and where they end it is found anew by geodesics.

        Parameters
        ----------
        targets : sequence of callable
            From the point come so far, the points over one of those that the mean is of.
        weights : array, shape=[n_targets]
            Of a positive sum.

        Raises
        ------
        InputError
            No targets, or weights of another number or without a positive sum.
        GeodesicError
            The time is over, there is no geodesic to one of the points, or the steps do not
            converge: says how far it came.
        """
        (theta,) = self._vectors(theta=theta)
        targets = [as_function(each, "a target") for each in as_ordered(targets, "targets")]
        weights = as_array(weights, "weights", (len(targets),), batch=False, differentiable=False)
        if not np.sum(weights) > 0:
            raise InputError(f"weights must have a positive sum, got {shown(weights)}")
        exactly, length, last = False, 1.0, None
        with self.bounded():
            for _ in range(_MEAN_STEPS):
                velocities = np.stack([self._to(theta, each(theta), exactly) for each in targets])
                step = np.average(velocities, axis=0, weights=weights)
                left, longest = float(lengths(step)), float(np.max(lengths(velocities)))
                done = left <= _MEAN_RTOL * longest
                if last is not None and not done:
                    moved, turned = theta - last[0], last[1] - step
                    length = abs(moved @ turned) / (turned @ turned or np.inf) or 1.0
                    length = min(max(length, _SHORT), 1.0 / _SHORT)
                last = theta, step
                theta = self.end(theta, step if done else length * step)
                if done and exactly:
                    return theta
                exactly = done and not exactly
                if exactly:  # and as a logarithm alone is found, which may be shorter by now
                    self._search.curves.clear()
        raise GeodesicError(
            f"no mean was found in {_MEAN_STEPS} steps: the last one is {left:.1e} long, where the "
            f"farthest point is {longest:.1e} away"
        )

    def _to(self, theta: FloatArray, targets: FloatArray, exactly: bool) -> OneTangent:
        """Initial velocity of a geodesic over one of some targets."""
        if exactly:
            return self.connect(theta, targets)
        failures: list[GeodesicError] = []
        for curve, _ in self._curves(theta, np.atleast_2d(targets), _NEARLY, failures):
            return np.asarray(self.spaces._project(theta, curve.start(theta)))
        raise failures[0]

    def _curve(self, theta: FloatArray, target: FloatArray, rtol: float) -> Curve:
        """A curve that is a geodesic to few digits, from the last one to the target if need be."""
        tolerance, name = max(self.rtol, rtol) * float(lengths(theta)), target.tobytes()
        known, straight = self._search.curves.get(name), Curve.straight(target)
        for start in (straight,) if known is None else (known, straight):
            try:
                curve = self._relaxed(theta, target, start, tolerance)
                break
            except GeodesicError:
                continue
        else:
            curve = self._continued(theta, target, tolerance)
        self._search.curves[name] = curve
        return curve

    def _continued(self, theta: FloatArray, target: FloatArray, tolerance: float) -> Curve:
        """The same by continuation in length: over shorter chords, each from the one before."""
        laws, curve = self.architecture.conservation_laws(theta), Curve.straight(target)
        done, step = 0.0, 0.5
        while done < 1.0:
            ahead = min(1.0, done + step)
            try:
                end = target
                if ahead < 1.0:
                    end = theta + ahead * (target - theta)
                    end = self.architecture.project_to_laws(end, laws)
                start = curve.shorter(ahead / done if done else 1.0, end)
                curve = self._relaxed(theta, end, start, tolerance)
                done, step = ahead, 2.0 * step
            except (GeodesicError, *_SINGULAR) as error:
                step /= 2.0
                if step < _SHORTEST:
                    raise GeodesicError(
                        f"no geodesic was found between points whose parameters are "
                        f"{lengths(target - theta):.3g} apart: one was followed for {done:.0%} of "
                        "the way only; are they joined in the invariant set, and far from its "
                        "singular points?"
                    ) from error
        return curve

    def _relaxed(
        self,
        theta: FloatArray,
        target: FloatArray,
        curve: Curve,
        tolerance: float,
        shift: FloatArray | float = 0.0,
    ) -> Curve:
        def move(end: FloatArray, velocity: FloatArray) -> FloatArray:
            return np.asarray(self.spaces._turn(end, velocity, target) + shift)

        try:
            return relax(theta, curve, self._acceleration, move, tolerance, self._look_at_the_clock)
        except (*_SINGULAR, np.linalg.LinAlgError) as error:
            raise GeodesicError(f"a curve runs into a singular point: {error}") from error

    def _followed(self, theta: FloatArray, target: FloatArray, curve: Curve) -> OneTangent:
        """Initial velocity of a geodesic that does end over the target, from a curve near it.

        What the geodesic with the curve's initial velocity misses the target by, the curve's end
        is moved by.
        """
        tolerance, best, found = 10 * self.rtol * float(lengths(theta)), np.inf, None
        shift: FloatArray = np.zeros_like(theta)
        for _ in range(_CORRECTIONS):
            curve = self._relaxed(theta, target, curve, tolerance / 10, shift)
            velocity = self.spaces._project(theta, curve.start(theta))
            gap = self.spaces._displacement(self.end(theta, velocity), target)
            size = float(lengths(gap))
            self._look_at_the_clock(size, float(lengths(velocity)))
            if not size <= best / 2:
                break  # it is at rounding, or diverges
            best, found, shift = size, velocity, shift + gap
            if best <= tolerance:
                break
        if found is None or best > 10 * tolerance:
            raise GeodesicError(
                f"no geodesic was found between points whose parameters are "
                f"{lengths(target - theta):.3g} apart: the last one ends {best:.1e} from the "
                f"target, expected at most {tolerance:.1e}; are they joined in the invariant set, "
                "and far from its singular points?"
            )
        self._search.curves[target.tobytes()] = curve
        return found
