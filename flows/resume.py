"""Which runs continue which: a checkpoint is not taken for that of another flow."""

from collections.abc import Callable

import numpy as np

from liftflow.errors import InputError
from liftflow.flows.trajectory import Checkpoint, Memory, Origin, Trajectory
from liftflow.linalg import lengths, units
from liftflow.typing import FloatArray, Scalars

_ROUNDING = 1e-9  # most that another machine may change of the same start, relatively
_ON_THE_WAY = 1e-6  # and of the losses on the way, where θ was recovered
_MOST_LOOKED_AT = 101


def same_numbers(one: Scalars, other: Scalars) -> bool:
    """Whether numbers are the same but for what another machine may change, next to the others."""
    if np.shape(one) != np.shape(other):
        return False
    # In units of the largest, since squares under- and overflow.
    unit = units(np.max(np.abs([one, other]), initial=0.0))
    here, there = np.asarray(one) / unit, np.asarray(other) / unit
    return bool(np.linalg.norm(here - there) <= _ROUNDING * np.linalg.norm(there))


def check_fits(
    earlier: Trajectory,
    whole: Checkpoint,
    here: Origin,
    memory: Memory,
    first: tuple[FloatArray, FloatArray, float],
    end: float,
) -> None:
    """Refuse a checkpoint of another flow, of other settings, or with numbers that cannot be.

    Parameters
    ----------
    first : tuple
        State, parameter and loss at its start.
    """
    there = whole.origin
    known, own = there.coordinates, here.coordinates
    _require(
        known.shape == own.shape and whole.memory.keys() == memory.keys(),
        f"the flow it came from: its state has {known.size} numbers and remembers "
        f"{sorted(whole.memory)}, that of this flow {own.size} and {sorted(memory)}",
    )
    _require(
        there.t == here.t,
        f"from t = {whole.t:.4g} a run that began at t = {there.t:.4g}; t_span must begin there, "
        f"not at {here.t:.4g}",
    )
    _require(
        same_numbers(there.loss, here.loss),
        "the flow it came from, which had another start or another loss: "
        f"{there.loss:.6g} there, {here.loss:.6g} here",
    )
    _require(
        same_numbers(known, own),
        "the flow it came from, which began at other coordinates, those of another start or of "
        "another chart",
    )
    _require(
        same_numbers(there.velocity, here.velocity),
        "the flow it came from, which left this start at the speed "
        f"{lengths(there.velocity):.6g}, not {lengths(here.velocity):.6g}; is it another metric, "
        "another loss, or are there other learning rates?",
    )
    _require(
        same_numbers(there.ahead, here.ahead) and all(map(same_numbers, there.probe, here.probe)),
        "the flow it came from, which goes on otherwise after the same start; is it another "
        "metric, another loss, or other data?",
    )
    names = ("rtol", "atol", "method", "max_step", "first_step")
    differ = [name for name in names if getattr(there, name) != getattr(here, name)]
    wanted, got = (
        ", ".join(f"{name} = {getattr(origin, name)}" for name in differ)
        for origin in (there, here)
    )
    _require(
        not differ, f"a run with {wanted}, got {got}; give the same, or start anew without resume"
    )
    wrong = _damaged(earlier, whole, here, memory, first)
    _require(
        not wrong,
        f"a trajectory as it was left, and this one is damaged ({wrong}): shapes differ, or "
        "numbers are not finite; start anew without resume",
    )
    _require(
        whole.t <= end,
        f"a run that went to t = {whole.t:.4g} already, beyond the end {end:.4g} asked for; give "
        "that end, or start anew without resume",
    )


def check_losses(earlier: Trajectory, losses: Callable[[FloatArray], FloatArray]) -> None:
    """Refuse a run along which the loss is another one now, also if it is the same at the start.

    Parameters
    ----------
    losses : callable
        Evaluates the loss at parameters, shape=[n, dim].
    """
    count = len(earlier.t)
    chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST_LOOKED_AT)).astype(int))
    there, here = earlier.loss[chosen], losses(earlier.theta[chosen])
    if not here.size:
        return
    apart = np.abs(there - here) / units(np.max(np.abs(there), initial=0.0))
    first = int(np.argmax(~(apart <= _ON_THE_WAY)))
    _require(
        bool(apart[first] <= _ON_THE_WAY),
        f"the flow it came from, whose loss was another one: {there[first]:.6g} at "
        f"t = {earlier.t[chosen[first]]:.4g} there, {here[first]:.6g} at the same θ here",
    )


def _require(fits: bool, what: str) -> None:
    if not fits:
        raise InputError(f"resume continues {what}")


def _damaged(
    earlier: Trajectory,
    whole: Checkpoint,
    here: Origin,
    memory: Memory,
    first: tuple[FloatArray, FloatArray, float],
) -> list[str]:
    """Names of the numbers from which a flow would come to no end, or to another one."""
    n, (y, theta, _) = len(earlier.t), first
    alike = {
        "coordinates": (whole.coordinates, here.coordinates),
        "velocity": (whole.velocity, here.coordinates if whole.velocity.size else ()),
        "t": (earlier.t, np.empty(n)),
        "y": (earlier.y, np.empty((n, *y.shape))),
        "theta": (earlier.theta, np.empty((n, *theta.shape))),
        "times": ([whole.t, whole.step, whole.mark], np.empty(3)),
        **{f"memory of {name}": (whole.memory[name], now) for name, now in memory.items()},
    }
    wrong = [
        name
        for name, (got, wanted) in alike.items()
        if np.shape(got) != np.shape(wanted) or not np.all(np.isfinite(got))
    ]
    if np.shape(earlier.loss) != (n,):
        wrong.append("loss")
    if whole.step < 0:
        wrong.append("step")
    if whole.t < here.t:
        wrong.append("t")
    return wrong
