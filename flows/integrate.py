"""The one loop that integrates flows, on scipy.integrate.solve_ivp."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from scipy.integrate import OdeSolver, solve_ivp

from liftflow.errors import FlowError, InputError, LiftflowError
from liftflow.flows.trajectory import Trajectory
from liftflow.typing import FloatArray, as_array, as_count

METHODS = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")
"""Methods of scipy that go by their name."""

_INTERRUPTED = "interrupted"


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
            A time span that is empty or reversed, tolerances that are not positive, an unknown
            method, times outside the span.
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
        solver = isinstance(self.method, type) and issubclass(self.method, OdeSolver)
        if not solver and self.method not in METHODS:
            raise InputError(
                f"method must be one of {', '.join(METHODS)} or a scipy OdeSolver, "
                f"got {self.method!r}"
            )
        as_count(self.n_times, "n_times", 2)
        times = self.times
        if np.any(np.diff(times) <= 0) or times[0] < span[0] or times[-1] > span[1]:
            raise InputError("t_eval must increase and lie within t_span")

    @property
    def times(self) -> FloatArray:
        """Times at which the state is kept, shape=[n_times]."""
        if self.t_eval is None:
            return np.linspace(*self.t_span, self.n_times)
        return np.atleast_1d(as_array(self.t_eval, "t_eval", (None,), differentiable=False))


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

    def margin(self, coordinates: FloatArray) -> float:
        """Positive as long as these coordinates serve; at zero :meth:`change` is called."""
        return 1.0

    def change(self, coordinates: FloatArray) -> FloatArray:
        """Change to better coordinates and return the point in them."""
        raise NotImplementedError


def integrate(state: FlowState, settings: Settings, label: str) -> Trajectory:
    """Integrate a flow as far as it goes.

    A right-hand side that fails is answered with NaN, from which every solver of scipy backs off
    with shorter steps; where none helps, the run ends with a message and keeps what was computed.

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
        The velocity at the first point is not finite.
    """
    began = time.perf_counter()
    coordinates = state.start()
    if not np.all(np.isfinite(state.velocity(coordinates))):
        raise FlowError(
            f"the {label} flow cannot start: its velocity is not finite at the first point; is "
            "the loss finite there?"
        )
    times, (t, t_end) = settings.times, settings.t_span
    kept: list[tuple[FloatArray, FloatArray, float]] = []
    n_evaluations, problem, reached = 1, "", t
    with _progress(settings, label) as tick:

        def velocity(now: float, y: FloatArray) -> FloatArray:
            nonlocal problem, reached
            tick(now)
            if problem == _INTERRUPTED:  # every further step is refused too, so the run ends
                return np.full_like(y, np.nan)
            try:
                result = state.velocity(y)
                problem, reached = "", now
                return result
            except (LiftflowError, FloatingPointError, np.linalg.LinAlgError) as error:
                problem = str(error)
            except KeyboardInterrupt:
                problem = _INTERRUPTED
            return np.full_like(y, np.nan)

        def margin(now: float, y: FloatArray) -> float:
            try:
                return state.margin(y)
            except LiftflowError:  # past the edge of the chart
                return -1.0

        margin.terminal = True  # type: ignore[attr-defined]
        margin.direction = -1.0  # type: ignore[attr-defined]
        while True:
            with np.errstate(over="ignore", invalid="ignore"):
                run = solve_ivp(
                    velocity,
                    (t, t_end),
                    coordinates,
                    method=settings.method,
                    t_eval=times[len(kept) :],
                    events=margin,
                    rtol=settings.rtol,
                    atol=settings.atol,
                )
            n_evaluations += run.nfev
            kept += [state.read(y) for y in np.transpose(run.y)]
            if run.status != 1:
                break
            t, coordinates = float(run.t_events[0][0]), state.change(run.y_events[0][0])
    if run.status < 0:
        problem = f"stopped after t = {reached:.4g}: {problem or run.message}"
    if not kept:
        times, kept = np.array([settings.t_span[0]]), [state.read(state.start())]
    y, theta, loss = (np.array(column) for column in zip(*kept, strict=True))
    return Trajectory(
        t=times[: len(kept)],
        y=y,
        theta=theta,
        loss=loss,
        success=run.status >= 0,
        message=problem or "reached the end of the time span",
        n_evaluations=n_evaluations,
        n_charts=state.n_charts,
        seconds=time.perf_counter() - began,
    )


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
