"""The one loop that integrates flows, on the solvers of scipy.integrate."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.integrate
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from scipy.integrate import DOP853, RK23, RK45, OdeSolver

from liftflow.errors import FlowError, InputError, LiftflowError, OutputError
from liftflow.flows.trajectory import Checkpoint, Trajectory
from liftflow.typing import FloatArray, as_array, as_count

METHODS = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")
"""Methods of scipy that go by their name."""

_ONE_STEP = (RK23, RK45, DOP853)  # the next step depends on t, y, its velocity and its length only
_REFRESH = 0.5  # seconds between two looks at the loss for the progress bar
_LEAST_RTOL = 100 * np.finfo(np.float64).eps
_PATIENCE = 2000  # steps after which to ask how far they led
_MOST_STEPS = 1e7  # a flow that would need more of them at its present pace is given up


@dataclass(frozen=True)
class Settings:
    """How to integrate, as the caller asked.

    Attributes
    ----------
    t_span : tuple of float
        First and last time.
    rtol, atol : float
        Relative and absolute tolerance of each step.
    method : str or type
        A method of ``scipy.integrate.solve_ivp``.
    n_times : int
        Number of times, evenly spaced, at which the state is kept.
    t_eval : array, optional
        These times instead.
    progress : bool
        Whether to show a progress bar.
    memory_limit : float
        Most bytes of states to keep. Where the times asked for need more, they are thinned evenly;
        the first and the last one stay.
    checkpoint : str or Path, optional
        File to which the trajectory so far is written now and then, and at the end.
    checkpoint_seconds : float
        Least time between two such writings.
    resume : Trajectory, optional
        An earlier run of this flow with these settings, to be continued where it stopped.
    """

    t_span: tuple[float, float]
    rtol: float = 1e-8
    atol: float = 1e-10
    method: Any = "RK45"
    n_times: int = 101
    t_eval: Any = None
    progress: bool = False
    memory_limit: float = 8e9
    checkpoint: str | Path | None = None
    checkpoint_seconds: float = 60.0
    resume: Trajectory | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be integrated.

        Raises
        ------
        InputError
            A time span that is empty or reversed, tolerances that are not positive or too small,
            an unknown method, times outside the span, something else than a trajectory to resume.
        """
        span = as_array(self.t_span, "t_span", (2,), batch=False, differentiable=False)
        if not span[0] < span[1]:
            raise InputError(
                f"t_span must be (start, end) with start < end, got {tuple(span.tolist())}; a "
                "gradient flow runs forward in time"
            )
        for name in ("rtol", "atol"):
            value = as_array(getattr(self, name), name, (), batch=False, differentiable=False)
            if not value > 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
        if self.rtol < _LEAST_RTOL:
            raise InputError(
                f"rtol must be at least {_LEAST_RTOL:.1e}, the least that scipy works with, got "
                f"{self.rtol}"
            )
        own = isinstance(self.method, type) and issubclass(self.method, OdeSolver)
        if not own and not (isinstance(self.method, str) and self.method in METHODS):
            raise InputError(
                f"method must be one of {', '.join(METHODS)} or a scipy OdeSolver, "
                f"got {self.method!r}"
            )
        as_count(self.n_times, "n_times", 2)
        times = self.times
        if not times.size or np.any(np.diff(times) <= 0):
            raise InputError(f"t_eval must hold increasing times, got {times.tolist()}")
        if times[0] < span[0] or times[-1] > span[1]:
            raise InputError(
                f"t_eval must lie within t_span = {tuple(span.tolist())}, got times from "
                f"{times[0]} to {times[-1]}"
            )
        if self.resume is not None and not isinstance(self.resume, Trajectory):
            raise InputError(
                f"resume must be a Trajectory, got {type(self.resume).__name__}; read one with "
                "Trajectory.load(path)"
            )

    @property
    def times(self) -> FloatArray:
        """Times at which the state is kept, shape=[n_times]."""
        if self.t_eval is None:
            return np.linspace(*self.t_span, self.n_times)
        return as_array(self.t_eval, "t_eval", (None,), batch=False, differentiable=False)

    def thinned(self, n_numbers: int) -> FloatArray:
        """Return the times at which states of so many numbers are kept, within the limit of memory.

        Parameters
        ----------
        n_numbers : int
            Numbers to keep each time.

        Returns
        -------
        times : array, shape=[n_times]
        """
        times = self.times
        most = max(2, int(self.memory_limit // (8 * max(n_numbers, 1))))
        if times.size <= most:
            return times
        return times[np.unique(np.linspace(0, times.size - 1, most).astype(np.intp))]

    @property
    def solver(self) -> type[OdeSolver]:
        """The class behind the method."""
        named = isinstance(self.method, str)
        return getattr(scipy.integrate, self.method) if named else self.method


class FlowState(ABC):
    """What a flow is to the integrator: coordinates, their velocity, and how to read them."""

    n_charts: int = 1

    @abstractmethod
    def start(self) -> FloatArray:
        """First coordinates, shape=[n]."""

    @abstractmethod
    def velocity(self, coordinates: FloatArray) -> FloatArray:
        """Velocity of the coordinates.

        Parameters
        ----------
        coordinates : array, shape=[n]
            Where the flow stands.

        Returns
        -------
        velocity : array, shape=[n]
        """

    @abstractmethod
    def read(self, coordinates: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        """Read off what the trajectory keeps.

        Parameters
        ----------
        coordinates : array, shape=[n]
            Where the flow stands.

        Returns
        -------
        y : array
            State of the flow.
        theta : array, shape=[dim]
            Parameter there.
        loss : float
            Loss there.
        """

    def settle(self, coordinates: FloatArray) -> FloatArray:
        """Take note of a step that was made: called once after each.

        Parameters
        ----------
        coordinates : array, shape=[n]
            Where the flow stands.

        Returns
        -------
        coordinates : array, shape=[n]
            The array itself, or the same point in new coordinates where these serve no longer: the
            event of a change of chart, after which the solver goes on in the new ones.
        """
        return coordinates

    def memory(self) -> dict[str, Any]:
        """What the velocity depends on besides the coordinates, to be saved with them.

        Returns
        -------
        memory : dict of str to array
            Empty where it depends on nothing else.
        """
        return {}

    def restore(self, memory: dict[str, Any]) -> None:  # noqa: B027 - many remember nothing
        """Take over what :meth:`memory` gave, in this run or another one.

        Parameters
        ----------
        memory : dict of str to array
            From :meth:`memory`.
        """


class _Record:
    """States at the times asked for, in arrays that are made once."""

    def __init__(self, times: FloatArray, first: tuple[FloatArray, FloatArray, float]) -> None:
        self.times, self.count = times, 0
        self.loss = np.empty(times.size)
        self.y = np.empty((times.size, *first[0].shape))
        same = first[0] is first[1]
        self.theta = self.y if same else np.empty((times.size, *first[1].shape))

    def add(self, state: tuple[FloatArray, FloatArray, float]) -> None:
        self.y[self.count], self.theta[self.count], self.loss[self.count] = state
        self.count += 1

    def due(self, t: float) -> FloatArray:
        ahead = self.times[self.count :]
        return ahead[ahead <= t]

    def take_over(
        self, trajectory: Trajectory, until: float, first: tuple[FloatArray, FloatArray, float]
    ) -> None:
        """Begin with the states of an earlier run from ``first``, up to its last whole step."""
        same = np.array_equal(trajectory.y[0], first[0]) and trajectory.loss[0] == first[2]
        if trajectory.t[0] == self.times[0] and not same:
            raise InputError(
                "resume continues the flow it came from, which had another start or another loss: "
                f"{trajectory.loss[0]:.6g} there, {first[2]:.6g} here"
            )
        count = int(np.searchsorted(trajectory.t, until, side="right"))
        if not np.array_equal(trajectory.t[:count], self.times[:count]):
            raise InputError(
                "resume continues a trajectory at the times it was made for; the times asked for "
                f"now differ from its first {count} ones"
            )
        parts = zip(trajectory.y, trajectory.theta, trajectory.loss, strict=True)
        for _, state in zip(range(count), parts, strict=False):
            self.add(state)


def integrate(state: FlowState, settings: Settings, label: str) -> Trajectory:
    """Integrate a flow as far as it goes.

    A right-hand side that fails is answered with NaN, from which every solver of scipy backs off
    with shorter steps. Where none helps, or at Ctrl-C, the run ends with a message and keeps what
    was computed: this is why the steps are made here and not by ``solve_ivp``.

    Parameters
    ----------
    state : FlowState
    settings : Settings
    label : str
        What the progress bar calls the flow.

    Returns
    -------
    trajectory : Trajectory

    Raises
    ------
    LiftflowError
        The flow cannot even start: whatever the right-hand side raises at the first point.
    FlowError
        The loss or the velocity at the first point is not finite.
    OutputError
        The checkpoint cannot be written.
    """
    began = time.perf_counter()
    t, t_end = settings.t_span
    problem, n_evaluations, n_steps, mark = "", 0, 0, t
    chart_times: list[float] = []

    def velocity(now: float, y: FloatArray) -> FloatArray:
        nonlocal problem, n_evaluations
        n_evaluations += 1
        try:
            return state.velocity(y)
        except (LiftflowError, FloatingPointError, np.linalg.LinAlgError) as error:
            problem = str(error)
        return np.full_like(y, np.nan)

    def solver_at(now: float, y: FloatArray, step: float | None = None) -> OdeSolver:
        # From a velocity that is not finite, solvers of scipy would never come back.
        if not np.all(np.isfinite(state.velocity(y))):
            raise FlowError(
                f"the {label} flow cannot start at t = {now:.4g}: its velocity is not finite "
                "there; is the loss?"
            )
        return settings.solver(
            velocity,
            now,
            y,
            t_end,
            # Tolerances bound the steps, not the interpolation between their ends, which over a
            # long step of DOP853 is worse by a factor of hundreds.
            max_step=float(np.max(np.diff(record.times), initial=0.0)) or np.inf,
            first_step=None if step is None else min(step, t_end - now),
            rtol=settings.rtol,
            atol=settings.atol,
        )

    def checkpoint() -> Checkpoint:
        known = isinstance(solver, _ONE_STEP)
        return Checkpoint(
            t=t,
            coordinates=solver.y.copy(),  # LSODA writes the next one over it
            velocity=solver.f if known else np.empty(0),
            step=float(solver.h_abs) if known else 0.0,
            n_steps=n_steps,
            mark=mark,
            n_evaluations=n_evaluations,
            n_charts=state.n_charts,
            chart_times=np.array(chart_times),
            memory=state.memory(),
        )

    def trajectory(success: bool, message: str) -> Trajectory:
        kept = record
        if kept.count == 0:  # stopped before the first time asked for
            kept = _Record(np.array(settings.t_span[:1]), first)
            kept.add(first)
        return Trajectory(
            t=kept.times[: kept.count],
            y=kept.y[: kept.count],
            theta=kept.theta[: kept.count],
            loss=kept.loss[: kept.count],
            success=success,
            message=message,
            n_evaluations=n_evaluations,
            n_charts=state.n_charts,
            seconds=earlier + time.perf_counter() - began,
            chart_times=np.array(chart_times),
            checkpoint=whole,
        )

    with (
        _progress(settings, label, state) as tick,
        np.errstate(divide="ignore", over="ignore", invalid="ignore"),
    ):
        coordinates = state.start()
        first = state.read(coordinates)
        if not np.isfinite(first[2]):
            raise FlowError(
                f"the {label} flow cannot start: the loss is {first[2]} at the first point"
            )
        size = first[1].size + (0 if first[0] is first[1] else first[0].size)
        record = _Record(settings.thinned(size), first)
        earlier, whole = 0.0, None
        if settings.resume is not None and settings.resume.checkpoint is not None:
            whole, earlier = settings.resume.checkpoint, settings.resume.seconds
            if whole.t >= t_end:
                return settings.resume
            _check_fits(whole, state, coordinates, settings)
            record.take_over(settings.resume, whole.t, first)
            t, n_steps, mark = whole.t, whole.n_steps, whole.mark
            chart_times, state.n_charts = whole.chart_times.tolist(), whole.n_charts
            state.restore(whole.memory)
            solver = solver_at(t, whole.coordinates, whole.step or None)
            if isinstance(solver, _ONE_STEP) and whole.velocity.size:
                solver.f, solver.h_abs = whole.velocity, whole.step
            state.restore(whole.memory)  # as it was before the solver looked around
            n_evaluations = whole.n_evaluations
        else:
            solver = solver_at(t, coordinates)
            if record.times[0] == t:
                record.add(first)
        if settings.checkpoint is not None:  # before the hours of training, not after
            trajectory(False, f"started at t = {t:.4g}").save(settings.checkpoint)
        written = time.monotonic()
        try:
            while solver.status == "running":
                complaint = solver.step()
                if solver.status == "failed" or not np.all(np.isfinite(solver.y)):
                    problem = problem or complaint or "the state is not finite"
                    break
                due = record.due(solver.t)
                if due.size:
                    inside = solver.dense_output()
                    for now in due:
                        record.add(state.read(inside(now)))
                t, n_steps, problem = solver.t, n_steps + 1, ""
                if n_steps % _PATIENCE == 0:
                    gained, mark = t - mark, t
                    if _crawls(gained, t - settings.t_span[0], t_end - t):
                        problem = (
                            f"the last {_PATIENCE} steps led on by {gained:.1e} only. It slides "
                            "along a kink of the loss (a ReLU at its threshold), where the steps "
                            "are as short as the tolerances, or it blows up; try a larger rtol"
                        )
                        break
                settled = state.settle(solver.y)
                if settled is not solver.y:
                    chart_times.append(t)
                    if t < t_end:
                        known = isinstance(solver, _ONE_STEP)
                        solver = solver_at(t, settled, solver.h_abs if known else None)
                whole = checkpoint()
                tick(t, n_steps, settled)
                if (
                    settings.checkpoint is not None
                    and time.monotonic() - written >= settings.checkpoint_seconds
                ):
                    with suppress(OutputError):  # a full disk is no reason to stop
                        trajectory(False, f"still running at t = {t:.4g}").save(settings.checkpoint)
                    written = time.monotonic()
        except KeyboardInterrupt:
            problem = "interrupted"
        except LiftflowError as error:
            problem = str(error)
        except ValueError:  # NaN is refused by the solvers that factor a Jacobian
            if not problem:
                raise
    success = bool(t == t_end)
    if success:
        problem = "reached the end of the time span"
    else:
        problem = f"stopped after t = {t:.4g}: {problem}"
    result = trajectory(success, problem)
    if settings.checkpoint is not None:
        try:
            result.save(settings.checkpoint)
        except OutputError as error:  # the trajectory is worth more than its file
            return replace(result, message=f"{problem}; {error}")
    return result


def _check_fits(
    whole: Checkpoint, state: FlowState, coordinates: FloatArray, settings: Settings
) -> None:
    """Refuse a checkpoint of another problem."""
    if whole.coordinates.shape != coordinates.shape or whole.memory.keys() != state.memory().keys():
        raise InputError(
            f"resume continues the flow it came from: its state has {whole.coordinates.size} "
            f"numbers and remembers {sorted(whole.memory)}, that of this flow "
            f"{coordinates.size} and {sorted(state.memory())}"
        )
    if not settings.t_span[0] <= whole.t:
        raise InputError(
            f"resume continues from t = {whole.t:.4g}, before t_span = {settings.t_span}"
        )


def _crawls(gained: float, elapsed: float, left: float) -> bool:
    """Whether the last steps led nowhere, by what went before and by what is left."""
    return gained < 1e-3 * elapsed and _PATIENCE * left > _MOST_STEPS * gained


@contextmanager
def _progress(settings: Settings, label: str, state: FlowState) -> Iterator[Any]:
    """Progress bar over the time of the flow; yields a function to call after each step."""
    columns = [
        TextColumn("{task.description:>10}"),
        BarColumn(),
        TextColumn("t = {task.fields[now]:.3g} of {task.fields[end]:.3g}"),
        TextColumn("loss {task.fields[loss]:.4g}, {task.fields[rate]:.3g} steps/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    start, end = settings.t_span
    began = looked = time.monotonic()
    with Progress(
        *columns, console=Console(), disable=not settings.progress, transient=True
    ) as bar:
        task = bar.add_task(label, total=end - start, now=start, end=end, loss=np.nan, rate=np.nan)
        first_step = 0

        def tick(now: float, n_steps: int, coordinates: FloatArray) -> None:
            nonlocal looked, first_step
            first_step = first_step or n_steps
            bar.update(task, completed=now - start, now=now)
            moment = time.monotonic()
            if settings.progress and moment - looked >= _REFRESH:
                rate = (n_steps - first_step) / (moment - began)
                bar.update(task, loss=state.read(coordinates)[2], rate=rate)
                looked = time.monotonic()

        yield tick
