"""The one loop that integrates flows, on the solvers of scipy.integrate."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.integrate
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from scipy.integrate import OdeSolver

from liftflow.errors import FlowError, InputError, LiftflowError
from liftflow.flows.trajectory import Trajectory
from liftflow.typing import FloatArray, as_array, as_count

METHODS = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")
"""Methods of scipy that go by their name."""

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
    """

    t_span: tuple[float, float]
    rtol: float = 1e-8
    atol: float = 1e-10
    method: Any = "RK45"
    n_times: int = 101
    t_eval: Any = None
    progress: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be integrated.

        Raises
        ------
        InputError
            A time span that is empty or reversed, tolerances that are not positive or too small,
            an unknown method, times outside the span.
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

    @property
    def times(self) -> FloatArray:
        """Times at which the state is kept, shape=[n_times]."""
        if self.t_eval is None:
            return np.linspace(*self.t_span, self.n_times)
        return as_array(self.t_eval, "t_eval", (None,), batch=False, differentiable=False)

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
        """Velocity of the coordinates, shape=[n]."""

    @abstractmethod
    def read(self, coordinates: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        """State y as the trajectory keeps it, parameter θ, and loss, at coordinates."""

    def settle(self, coordinates: FloatArray) -> FloatArray:
        """Take note of a step that was made: called once after each.

        Returns
        -------
        coordinates : array, shape=[n]
            The array itself, or the same point in new coordinates where these serve no longer.
        """
        return coordinates


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
    """
    began = time.perf_counter()
    times, (t, t_end) = settings.times, settings.t_span
    problem, n_evaluations, n_steps, mark = "", 0, 0, t

    def velocity(now: float, y: FloatArray) -> FloatArray:
        nonlocal problem, n_evaluations
        n_evaluations += 1
        try:
            return state.velocity(y)
        except (LiftflowError, FloatingPointError, np.linalg.LinAlgError) as error:
            problem = str(error)
        return np.full_like(y, np.nan)

    def solver_at(now: float, y: FloatArray) -> OdeSolver:
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
            max_step=float(np.max(np.diff(times), initial=0.0)) or np.inf,
            rtol=settings.rtol,
            atol=settings.atol,
        )

    with (
        _progress(settings, label) as tick,
        np.errstate(divide="ignore", over="ignore", invalid="ignore"),
    ):
        coordinates = state.start()
        first = state.read(coordinates)
        if not np.isfinite(first[2]):
            raise FlowError(
                f"the {label} flow cannot start: the loss is {first[2]} at the first point"
            )
        solver = solver_at(t, coordinates)
        kept = [first] if times[0] == t else []
        try:
            while solver.status == "running":
                complaint = solver.step()
                if solver.status == "failed" or not np.all(np.isfinite(solver.y)):
                    problem = problem or complaint or "the state is not finite"
                    break
                ahead = times[len(kept) :]
                due = ahead[ahead <= solver.t]
                if due.size:
                    inside = solver.dense_output()
                    for now in due:
                        kept.append(state.read(inside(now)))
                t, n_steps, problem = solver.t, n_steps + 1, ""
                tick(t)
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
                if settled is not solver.y and t < t_end:
                    solver = solver_at(t, settled)
        except KeyboardInterrupt:
            problem = "interrupted"
        except LiftflowError as error:
            problem = str(error)
        except ValueError:  # NaN is refused by the solvers that factor a Jacobian
            if not problem:
                raise
    success = t == t_end
    if success:
        problem = "reached the end of the time span"
    else:
        problem = f"stopped after t = {t:.4g}: {problem}"
    if not kept:
        times, kept = np.array(settings.t_span[:1]), [first]
    y, theta, loss = (np.array(column) for column in zip(*kept, strict=True))
    return Trajectory(
        t=times[: len(kept)],
        y=y,
        theta=theta,
        loss=loss,
        success=bool(success),
        message=problem,
        n_evaluations=n_evaluations,
        n_charts=state.n_charts,
        seconds=time.perf_counter() - began,
    )


def _crawls(gained: float, elapsed: float, left: float) -> bool:
    """Whether the last steps led nowhere, by what went before and by what is left."""
    return gained < 1e-3 * elapsed and _PATIENCE * left > _MOST_STEPS * gained


@contextmanager
def _progress(settings: Settings, label: str) -> Iterator[Any]:
    """Progress bar over the time of the flow; yields a function to call with the time."""
    columns = [
        TextColumn("{task.description:>10}"),
        BarColumn(),
        TextColumn("t = {task.fields[now]:.3g} of {task.fields[end]:.3g}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    start, end = settings.t_span
    with Progress(*columns, disable=not settings.progress, transient=True) as bar:
        task = bar.add_task(label, total=end - start, now=start, end=end)
        yield lambda now: bar.update(task, completed=now - start, now=now)
