"""The one loop that integrates flows, on the solvers of scipy.integrate."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.integrate import DOP853, RK23, RK45, OdeSolver

from liftflow.errors import FlowError, InputError, LiftflowError, OutputError
from liftflow.flows.resume import check_fits, check_losses
from liftflow.flows.resume import same_numbers as same_numbers
from liftflow.flows.settings import METHODS as METHODS
from liftflow.flows.settings import Settings as Settings
from liftflow.flows.state import FlowState as FlowState
from liftflow.flows.state import State
from liftflow.flows.trajectory import Checkpoint, Origin, Trajectory
from liftflow.linalg import lengths
from liftflow.threads import blas_threads
from liftflow.typing import FloatArray
from liftflow.waiting import Waiting

_ONE_STEP = (RK23, RK45, DOP853)  # the next step depends on t, y, its velocity and its length only
_REFRESH = 0.5  # seconds between two looks at the loss for the progress bar
_PATIENCE = 2000  # steps after which to ask how far they led
_FIRST_LOOK = 250  # and those after which it shows already, if they no longer grow: the second
_GROWTH = 1.1  # half of them leads on by this much more than the first one, at most,
_CATCH_UP = 2.2  # which at this rate makes the first 2000 so much quicker than the first 250
_MOST_STEPS = 1e7  # a flow that has slowed down and would need more of them is given up
_FAR_TOO_MANY_STEPS = 1e8  # and one that would need more of these, at any pace
_TRIES = 1.75  # of a step, in the mean, that show that it is a kink which keeps them short
_MOST_SLIDING = 2e4  # steps along a kink that are waited for
_REACHED = "reached the end of the time span"
_RESUMED = "; resumed at t = "  # begins what a message says of a run that is not bit for bit
_INTERRUPTED = "interrupted"  # by Ctrl-C

Tick = Callable[[float, int, FloatArray], None]
"""To be called after each step, with the time, the number of steps and the coordinates."""


class _Record:
    """States at the times asked for, in arrays that are made once."""

    def __init__(self, times: FloatArray, first: State) -> None:
        self.times, self.count = times, 0
        self.loss = np.empty(times.size)
        self.y = np.empty((times.size, *first[0].shape))
        same = first[0] is first[1]
        self.theta = self.y if same else np.empty((times.size, *first[1].shape))

    def add(self, state: State) -> None:
        self.y[self.count], self.theta[self.count], self.loss[self.count] = state
        self.count += 1

    def due(self, t: float) -> FloatArray:
        ahead = self.times[self.count :]
        return ahead[ahead <= t]

    def take_over(self, trajectory: Trajectory, until: float) -> None:
        """Begin with the states of an earlier run up to some time; refuse others than asked for."""
        kept = (trajectory.t >= self.times[0]) & (trajectory.t <= until)
        if not np.array_equal(trajectory.t[kept], self.times[self.times <= until]):
            raise InputError(
                "resume continues a trajectory at the times it was made for; the times asked for "
                f"now differ from its first {np.sum(kept)} ones"
            )
        states = (trajectory.y[kept], trajectory.theta[kept], trajectory.loss[kept])
        for state in zip(*states, strict=True):
            self.add(state)


class _Velocity:
    """The right-hand side for solvers: NaN where it fails, with the reason kept."""

    def __init__(self, state: FlowState) -> None:
        self.state, self.n_evaluations, self.problem = state, 0, ""

    def __call__(self, now: float, coordinates: FloatArray) -> FloatArray:
        self.n_evaluations += 1
        try:
            return self.state.velocity(coordinates)
        except (LiftflowError, FloatingPointError, np.linalg.LinAlgError) as error:
            if not self.problem or np.all(np.isfinite(coordinates)):  # not what NaN led to
                self.problem = str(error)
        return np.full_like(coordinates, np.nan)


class _Run:
    """A flow under way: its solver, the states kept, and what it takes to go on from here."""

    def __init__(self, state: FlowState, settings: Settings, label: str) -> None:
        self.began, self.earlier = time.perf_counter(), 0.0
        self.state, self.settings, self.label = state, settings, label
        self.velocity = _Velocity(state)
        self.t, self.end = settings.t_span
        self.n_steps, self.mark, self.remark = 0, self.t, ""
        self.looked: tuple[float, int] | None = None  # t and evaluations at the last look
        self.chart_times: list[float] = []
        start = state.start()
        self.first = state.read(start)
        if not np.isfinite(self.first[2]):
            raise FlowError(
                f"the {label} flow cannot start: the loss is {self.first[2]} at the first point"
            )
        same = self.first[0] is self.first[1]
        size = self.first[1].size + (0 if same else self.first[0].size)
        self.record = _Record(settings.thinned(size), self.first)
        memory, probe = state.memory(), state.probe()
        velocity = self._finite_velocity(start)
        self.origin = Origin(
            t=float(self.t),
            coordinates=start.copy(),
            loss=self.first[2],
            velocity=velocity,
            ahead=self._ahead(start, velocity),
            probe=probe,
            rtol=float(settings.rtol),
            atol=float(settings.atol),
            method=settings.solver.__name__,
            max_step=float(settings.max_step),
            first_step=float(settings.first_step or 0.0),
        )
        state.restore(memory)  # as it was before looking around
        self.whole: Checkpoint | None = None

    def begin(self) -> None:
        """Start from the first point."""
        self.solver = self._solver(self.origin.coordinates.copy(), self.settings.first_step)
        if self.record.times[0] == self.t:
            self.record.add(self.first)

    def go_on(self, earlier: Trajectory, whole: Checkpoint) -> None:
        """Start where an earlier run stopped."""
        self.record.take_over(earlier, whole.t)
        self.whole, self.earlier = whole, earlier.seconds
        self.t, self.n_steps, self.mark = whole.t, whole.n_steps, whole.mark
        self.chart_times, self.state.n_charts = whole.chart_times.tolist(), whole.n_charts
        self.state.restore(whole.memory)
        self._finite_velocity(whole.coordinates)
        self.solver = self._solver(whole.coordinates, whole.step or None)
        if isinstance(self.solver, _ONE_STEP) and whole.velocity.size:
            self.solver.f, self.solver.h_abs = whole.velocity, whole.step
        else:
            self.remark = (
                f"{_RESUMED}{self.t:.4g} within the tolerances, not bit for bit: "
                f"{self.origin.method} remembers more than a checkpoint holds"
            )
        self.state.restore(whole.memory)  # as it was before the solver looked around
        self.velocity.n_evaluations = whole.n_evaluations

    def step(self) -> FloatArray:
        """Make one step, keep the states it passed, and return the coordinates it led to."""
        solver = self.solver
        complaint = solver.step()
        if solver.status == "failed" or not np.all(np.isfinite(solver.y)):
            raise FlowError(self.velocity.problem or complaint or "the state is not finite")
        if not solver.t > self.t:
            raise FlowError(f"a step from t = {self.t:.4g} led to t = {solver.t:.4g}")
        self._keep(self.record.due(solver.t))
        self.t, self.n_steps, self.velocity.problem = solver.t, self.n_steps + 1, ""
        self._check_pace()
        settled = self.state.settle(solver.y)
        if settled is not solver.y:
            self._change_chart(settled)
        self.whole = self._checkpoint()
        return settled

    def _keep(self, due: FloatArray) -> None:
        """Keep the states at times that the last step passed, from its interpolant."""
        solver, seen, memory = self.solver, self.velocity.n_evaluations, self.state.memory()
        if not due.size:
            return
        inside = solver.dense_output() if due[0] < solver.t else lambda now: solver.y
        for now in due:
            self.record.add(self.state.read(inside(now) if now < solver.t else solver.y))
        if self.velocity.n_evaluations > seen:  # looking inside must not change what follows
            self.state.restore(memory)

    def trajectory(self, success: bool, message: str, interrupted: bool = False) -> Trajectory:
        """All that was kept so far."""
        kept = self.record
        if kept.count == 0:  # stopped before the first time asked for
            kept = _Record(np.array(self.settings.t_span[:1]), self.first)
            kept.add(self.first)
        return Trajectory(
            t=kept.times[: kept.count],
            y=kept.y[: kept.count],
            theta=kept.theta[: kept.count],
            loss=kept.loss[: kept.count],
            success=success,
            message=message + self.remark,
            n_evaluations=self.velocity.n_evaluations,
            n_charts=self.state.n_charts,
            seconds=self.earlier + time.perf_counter() - self.began,
            chart_times=np.array(self.chart_times),
            checkpoint=self.whole,
            interrupted=interrupted,
        )

    def _ahead(self, start: FloatArray, velocity: FloatArray) -> FloatArray:
        """Velocity after a hundredth of the way that doubles the coordinates; 0 where it fails."""
        size = float(lengths(velocity)) or 1.0
        reach = 0.01 * (float(lengths(start)) or 1.0)
        ahead = _Velocity(self.state)(self.t, start + reach * (velocity / size))
        return ahead if np.all(np.isfinite(ahead)) else np.zeros_like(start)

    def _finite_velocity(self, coordinates: FloatArray) -> FloatArray:
        # From a velocity that is not finite, solvers of scipy would never come back.
        velocity = self.state.velocity(coordinates)
        if not np.all(np.isfinite(velocity)):
            raise FlowError(
                f"the {self.label} flow cannot start at t = {self.t:.4g}: its velocity is not "
                "finite there; is the loss?"
            )
        return velocity

    def _solver(self, coordinates: FloatArray, step: float | None = None) -> OdeSolver:
        return self.settings.solver(
            self.velocity,
            self.t,
            coordinates,
            self.end,
            max_step=self.settings.max_step,
            first_step=None if step is None else min(step, self.end - self.t),
            rtol=self.settings.rtol,
            atol=self.settings.atol * self.state.sizes,
        )

    def _check_pace(self) -> None:
        start = self.settings.t_span[0]
        if self.n_steps % _FIRST_LOOK == 0 and isinstance(self.solver, _ONE_STEP):
            self._check_slide(self.solver.n_stages)
        if self.n_steps == _FIRST_LOOK // 2:
            self.mark = self.t
        if self.n_steps == _FIRST_LOOK:
            halves, self.mark = (self.mark - start, self.t - self.mark), start
            if halves[1] <= _GROWTH * halves[0]:
                self._check_left(_FIRST_LOOK, self.t - start, _CATCH_UP * _FAR_TOO_MANY_STEPS)
        if self.n_steps % _PATIENCE:
            return
        gained, self.mark = self.t - self.mark, self.t
        self._check_left(_PATIENCE, gained, _FAR_TOO_MANY_STEPS)
        crawls = _PATIENCE * (self.end - self.t) > _MOST_STEPS * gained
        if gained < 1e-3 * (self.t - start) and crawls:
            raise FlowError(
                f"the last {_PATIENCE} steps led on by {gained:.1e} only. It slides along a kink "
                "of the loss (a ReLU at its threshold), where the steps are as short as the "
                "tolerances, or it blows up; try a larger rtol"
            )

    def _check_slide(self, n_stages: int) -> None:
        """Give up a flow that slides along a kink, which by itself ends nowhere, if that is long.

        There both sides lead back to it, so that a step of any length that crosses it is off.
        """
        before, self.looked = self.looked, (self.t, self.velocity.n_evaluations)
        if before is None:
            return
        gained, tries = self.t - before[0], self.looked[1] - before[1]
        left = _FIRST_LOOK * (self.end - self.t) / gained
        if tries > _TRIES * n_stages * _FIRST_LOOK and left > _MOST_SLIDING:
            raise FlowError(
                f"the last {_FIRST_LOOK} steps led on by {gained:.1e} only, and took "
                f"{tries / n_stages:,.0f} tries: about {left:.0e} more are needed. It slides along "
                "a kink of the loss (a ReLU at its threshold), where the steps are as short as "
                "the tolerances; try a larger rtol or an earlier end"
            )

    def _check_left(self, count: int, gained: float, most: float) -> None:
        left = count * (self.end - self.t) / gained
        if left > most:
            raise FlowError(
                f"the last {count} steps led on by {gained:.1e}, so that about {left:.0e} more "
                "are needed. The flow is stiff, or the time span too long: try method='LSODA' or "
                "'Radau', a larger rtol or an earlier end"
            )

    def _change_chart(self, coordinates: FloatArray) -> None:
        self.chart_times.append(self.t)
        known = isinstance(self.solver, _ONE_STEP)
        velocity = self._finite_velocity(coordinates)
        if self.t < self.end:
            self.solver = self._solver(coordinates, self.solver.h_abs if known else None)
            return
        self.solver.y = coordinates  # for the checkpoint: a longer run may go on from here
        if known:
            self.solver.f = velocity

    def _checkpoint(self) -> Checkpoint:
        solver = self.solver
        known = isinstance(solver, _ONE_STEP)
        return Checkpoint(
            t=self.t,
            coordinates=solver.y.copy(),  # LSODA writes the next one over it
            velocity=solver.f if known else np.empty(0),
            step=float(solver.h_abs) if known else 0.0,
            n_steps=self.n_steps,
            mark=self.mark,
            n_evaluations=self.velocity.n_evaluations,
            n_charts=self.state.n_charts,
            chart_times=np.array(self.chart_times),
            memory=self.state.memory(),
            origin=self.origin,
        )


def integrate(state: FlowState, settings: Settings, label: str) -> Trajectory:
    """Integrate a flow as far as it goes.

    A right-hand side that fails is answered with NaN, from which every solver of scipy backs off
    with shorter steps. Where none helps, or at Ctrl-C, the run ends with a message and keeps what
    was computed: this is why the steps are made here and not by ``solve_ivp``.

    Raises
    ------
    LiftflowError
        The flow cannot even start: whatever the right-hand side raises at the first point.
    FlowError
        The loss or the velocity at the first point is not finite.
    InputError
        The run to resume is of another flow, has other settings, or is damaged.
    OutputError
        The checkpoint cannot be written at the start. Later on, that gives a warning, and the
        result says so.
    """
    with (
        _progress(settings, label, state) as tick,
        np.errstate(divide="ignore", over="ignore", invalid="ignore"),
        blas_threads(state.start().size),
    ):
        run = _Run(state, settings, label)
        earlier = settings.resume
        if earlier is None or earlier.checkpoint is None:
            run.begin()
        else:
            remembered = state.memory()
            check_fits(earlier, earlier.checkpoint, run.origin, remembered, run.first, run.end)
            check_losses(earlier, state.losses)
            if earlier.checkpoint.t == run.end:
                run.record.take_over(earlier, run.end)
                message = "".join((_REACHED, *earlier.message.partition(_RESUMED)[1:]))
                done = replace(earlier, success=True, message=message, interrupted=False)
                ended = earlier.success and not earlier.interrupted  # Ctrl-C came after its end
                # Again, as whoever was stopped while he wrote it left a part of it aside.
                return _saved(earlier if ended else done, settings, warn=True)
            run.go_on(earlier, earlier.checkpoint)
        if settings.checkpoint is not None:  # before the hours of training, not after
            run.trajectory(False, f"started at t = {run.t:.4g}").save(settings.checkpoint)
        problem, unwritten = _advance(run, tick)
    interrupted = problem == _INTERRUPTED
    reached = run.whole is not None and bool(run.whole.t == run.end)
    message = _REACHED if reached else f"stopped after t = {run.t:.4g}: {problem}"
    result = run.trajectory(reached, message, interrupted)
    return _saved(result, settings, warn=not unwritten)


def origin(state: FlowState, settings: Settings, label: str) -> Origin:
    """What a flow is told by from others, without integrating it."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return _Run(state, settings, label).origin


def _advance(run: _Run, tick: Tick) -> tuple[str, str]:
    """Make steps until the end, with a checkpoint now and then.

    Returns what stopped them, and what kept a checkpoint from being written.
    """
    path, written, unwritten = run.settings.checkpoint, time.monotonic(), ""
    try:
        while run.solver.status == "running":
            coordinates = run.step()
            tick(run.t, run.n_steps, coordinates)
            if path is not None and time.monotonic() - written >= run.settings.checkpoint_seconds:
                so_far = run.trajectory(False, f"still running at t = {run.t:.4g}")
                unwritten = _try_to_save(so_far, path, warn=not unwritten) or unwritten
                written = time.monotonic()
    except KeyboardInterrupt:
        return _INTERRUPTED, unwritten
    except LiftflowError as error:
        return str(error), unwritten
    except ValueError:  # NaN is refused by the solvers that factor a Jacobian
        if not run.velocity.problem:
            raise
    return run.velocity.problem, unwritten


def _try_to_save(trajectory: Trajectory, path: str | Path | None, warn: bool) -> str:
    """Save a trajectory, which is worth more than its file; return what hinders that."""
    if path is None:
        return ""
    try:
        trajectory.save(path)
    except OutputError as error:
        if warn:
            warnings.warn(str(error), RuntimeWarning, stacklevel=4)
        return str(error)
    return ""


def _saved(result: Trajectory, settings: Settings, warn: bool) -> Trajectory:
    """Save a result, which says what hinders that."""
    complaint = _try_to_save(result, settings.checkpoint, warn)
    return replace(result, message=f"{result.message}; {complaint}") if complaint else result


@contextmanager
def _progress(settings: Settings, label: str, state: FlowState) -> Iterator[Tick]:
    """Progress bar over the time of the flow; yields a function to call after each step."""
    detail = (
        "t = {task.fields[now]:.3g} of {task.fields[end]:.3g}, loss {task.fields[loss]:.4g}, "
        "{task.fields[rate]:.3g} steps/s"
    )
    start, end = settings.t_span
    fields = {"now": start, "end": end, "loss": np.nan, "rate": np.nan}
    began, looked, first_step = time.monotonic(), -np.inf, 0
    with Waiting(label, end - start, detail, settings.progress, **fields) as bar:

        def tick(now: float, n_steps: int, coordinates: FloatArray) -> None:
            nonlocal looked, first_step
            first_step = first_step or n_steps
            moment = time.monotonic()
            if bar.shown and moment - looked >= _REFRESH:
                rate = (n_steps - first_step) / (moment - began)
                bar.update(now - start, now=now, loss=state.read(coordinates)[2], rate=rate)
                looked = moment

        yield tick
