"""How a flow is integrated."""

from dataclasses import dataclass, fields
from functools import wraps
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import scipy.integrate
from scipy.integrate import OdeSolver

from liftflow.errors import InputError
from liftflow.flows.trajectory import Trajectory
from liftflow.typing import FloatArray, OnTimes, as_array, as_count, as_number, shown

_Class = TypeVar("_Class", bound=type)

METHODS = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")
"""Methods of scipy that go by their name."""

_LEAST_RTOL = 100 * np.finfo(np.float64).eps

_REFUSED = {
    "events": "a flow ends at the end of t_span; look for events in the trajectory",
    "dense_output": "the states are kept at n_times times, or at those of t_eval",
    "min_step": "the tolerances decide how short a step may be",
    "vectorized": "a velocity is that of one state",
    "args": "a loss holds its own data",
    **dict.fromkeys(
        ("jac", "jac_sparsity", "lband", "uband"),
        "the velocity is not differentiated; implicit methods take its differences",
    ),
}
"""Options of ``solve_ivp`` that a flow does not take, and why."""


def _by_name(cls: _Class) -> _Class:
    """Let a dataclass refuse arguments that it does not have, with the reason."""
    made: Any = cls
    init, names = made.__init__, [field.name for field in fields(made)]

    @wraps(init)
    def checked(self: Any, *args: Any, **settings: Any) -> None:
        for name in settings.keys() - set(names):
            reason = _REFUSED.get(name, "no flow has one of that name")
            raise InputError(
                f"{name} is no setting of a flow: {reason}. Settings are {', '.join(names[1:])}"
            )
        init(self, *args, **settings)

    made.__init__ = checked
    return cls


@_by_name
@dataclass(frozen=True)
class Settings:
    """How to integrate, as the caller asked.

    Attributes
    ----------
    rtol, atol : float
        Relative and absolute tolerance of each step; the latter is a thousandth of the former by
        default, as in scipy. Where a ReLU switches, the velocity has a kink, at which every method
        loses its order: there the deviation falls like a root of the tolerance only.
    method : str or type
        A method of ``scipy.integrate.solve_ivp``. In basis coordinates of an intrinsic flow the
        multistep methods BDF and LSODA may end early, as their iterations leave the chart within a
        step; the one-step methods do not, nor do those two in full coordinates.
    n_times : int
        Number of times, evenly spaced, at which the state is kept. They do not decide the steps:
        between the ends of a step, the state is that of the interpolant of the method, which on
        smooth flows errs by less than ten tolerances, and at the ends it is exact. The flow of z
        tells θ as well as z does: where all weights into or out of a node cross 0, the error of z
        over the least singular value of ∂(φ, h), however right z, the loss and the laws are.
    t_eval : array, optional
        These times instead.
    progress : bool, optional
        Whether to show how far the flow is; by default in a terminal, after a few seconds.
    memory_limit : float
        Most bytes of states, times and losses to keep, or infinity. Where the times asked for need
        more, they are thinned evenly; the first and the last one stay.
    first_step : float, optional
        Length that is tried first; by default the solver finds one.
    checkpoint : str or Path, optional
        File to which the trajectory so far is written now and then, and at the end.
    checkpoint_seconds : float
        Least time between two such writings.
    resume : Trajectory, optional
        An earlier run of this flow, to be continued where it stopped. What decides the steps must
        be as it was: the flow, its start, ``rtol``, ``atol``, ``method``, ``max_step``,
        ``first_step`` and the times kept until then. The result is that of an undisturbed run, bit
        for bit with the one-step methods RK23, RK45 and DOP853; Radau, BDF and LSODA remember more
        than a checkpoint holds and agree with it within their tolerances, which the message says.
        The end of ``t_span``, later times, the progress bar and the checkpoints may differ; a run
        that came to an earlier end made a last step that was cut short there, and agrees within
        the tolerances only with one that did not.
        A run that came to this end already is returned as it is, one that went beyond is refused.
    """

    t_span: tuple[float, float]
    rtol: float = 1e-6
    atol: Any = None
    method: Any = "RK45"
    n_times: int = 101
    t_eval: Any = None
    progress: bool | None = None
    memory_limit: float = 8e9
    max_step: float = np.inf
    first_step: float | None = None
    checkpoint: str | Path | None = None
    checkpoint_seconds: float = 60.0
    resume: Trajectory | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be integrated.

        Raises
        ------
        InputError
            A time span that is empty or reversed, tolerances, steps or limits that are not
            positive, tolerances that are too small, an unknown method, times outside the span,
            something else than a trajectory to resume.
        """
        span = as_array(self.t_span, "t_span", (2,), batch=False, differentiable=False)
        if not span[0] < span[1]:
            raise InputError(
                f"t_span must be (start, end) with start < end, got {tuple(span.tolist())}; a "
                "gradient flow runs forward in time"
            )
        if self.progress is not None and not isinstance(self.progress, bool | np.bool_):
            raise InputError(f"progress must be True, False or None, got {self.progress!r}")
        for name in ("rtol", "atol", "max_step", "first_step", "memory_limit"):
            value = getattr(self, name)
            if name == "atol" and value is None:
                object.__setattr__(self, name, self.rtol / 1000)
                continue
            endless = (
                name in ("max_step", "memory_limit") and np.isscalar(value) and value == np.inf
            )
            if endless or (name == "first_step" and value is None):
                continue
            if not as_array(value, name, (), batch=False, differentiable=False) > 0:
                raise InputError(f"{name} must be positive, got {value}")
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
        as_number(self.checkpoint_seconds, "checkpoint_seconds", 0.0)
        if not isinstance(self.checkpoint, str | PathLike | None):
            raise InputError(f"checkpoint must be a path, got {shown(self.checkpoint)}")
        if self.t_eval is None:
            apart = 2 * np.spacing(np.abs(span).max())
            if not span[1] - span[0] >= apart * (self.n_times - 1):
                raise InputError(
                    f"t_span = {tuple(span.tolist())} is too short for n_times = {self.n_times} "
                    f"different times, as numbers there are {apart / 2:.1e} apart; give a longer "
                    "one, or one that starts at 0"
                )
        else:
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

    def thinned(self, n_numbers: int) -> OnTimes:
        """Return the times at which so many numbers, a time and a loss fit into the memory."""
        as_count(n_numbers, "n_numbers")
        count = self.n_times if self.t_eval is None else self.times.size
        size = 8 * (n_numbers + 2)  # with the time and the loss
        if count * size <= self.memory_limit or count <= 2:
            return self.times
        most = max(2, int(self.memory_limit // size))
        kept = np.unique(np.linspace(0, count - 1, most).astype(np.intp))
        if self.t_eval is not None:
            return self.times[kept]
        start, end = self.t_span  # as linspace has them, which may not fit into memory
        return np.append(start + kept[:-1] * ((end - start) / (count - 1)), end)

    @property
    def solver(self) -> type[OdeSolver]:
        """The class behind the method."""
        named = isinstance(self.method, str)
        return getattr(scipy.integrate, self.method) if named else self.method
