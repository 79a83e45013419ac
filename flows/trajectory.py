"""What a flow leaves behind."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from liftflow.doors import door
from liftflow.errors import DataError
from liftflow.files import as_path, read_arrays, write_arrays
from liftflow.typing import FloatArray, OnTimes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Origin:
    """Which run this is: where its flow began, and how it is integrated.

    Attributes
    ----------
    t : float
        First time.
    coordinates : array, shape=[n]
        First state of the solver.
    loss : float
        Loss there.
    velocity, ahead : array, shape=[n]
        Velocity of the coordinates there, and a short way along it.
    probe : array, shape=[n_probes]
        Losses far from there, which tell whether the loss and its data are the same.
    rtol, atol : float
        Tolerances.
    method : str
        Name of the solver.
    max_step, first_step : float
        As asked for; 0 where the solver finds the first step.
    """

    t: float
    coordinates: FloatArray
    loss: float
    velocity: FloatArray
    ahead: FloatArray
    probe: FloatArray
    rtol: float
    atol: float
    method: str
    max_step: float
    first_step: float


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a flow stood after its last whole step: all that the next one depends on.

    Attributes
    ----------
    t : float
        Time.
    coordinates, velocity : array, shape=[n]
        State of the solver, and its velocity there; empty where the solver keeps more than that.
    step : float
        Length that the solver proposes for the next step; 0 where it keeps more than that.
    n_steps : int
        Steps so far.
    mark : float
        Time at which progress was last asked for.
    n_evaluations, n_charts : int
        Counts so far.
    chart_times : array, shape=[n_changes]
        Times at which the chart was changed.
    memory : dict of str to array
        What the flow remembers, such as its chart.
    origin : Origin
        The run that only one of the same flow with the same settings continues.
    """

    t: float
    coordinates: FloatArray
    velocity: FloatArray
    step: float
    n_steps: int
    mark: float
    n_evaluations: int
    n_charts: int
    chart_times: FloatArray
    memory: dict[str, Any]
    origin: Origin


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A flow at the times asked for, as far as it came.

    Attributes
    ----------
    t : OnTimes
        Times, in the unit of the flow: −∇ per unit time.
    y : array, shape=[n_times, ...]
        The state: θ for a parameter flow; z, or its coordinates in the first basis-path chart,
        for an intrinsic flow.
    theta : array, shape=[n_times, dim]
        The parameter, for an intrinsic flow the one recovered on the invariant set.
    loss : OnTimes
        The loss ℓ(θ), or f(z).
    success : bool
        Whether the end of the time span was reached.
    message : str
        Why the flow ended.
    n_evaluations : int
        Number of evaluations of the right-hand side.
    n_charts : int
        Number of charts that an intrinsic flow in basis coordinates went through, else 1.
    seconds : float
        Time of the integration, by the wall clock.
    chart_times : array, shape=[n_changes]
        Times at which an intrinsic flow in basis coordinates changed its chart.
    checkpoint : Checkpoint or None
        What it takes to continue the flow, by ``integrate(..., resume=trajectory)``.
    interrupted : bool
        Whether Ctrl-C ended the flow, or kept it from starting.
    """

    _usual_fix: ClassVar[str] = "read one with Trajectory.load(path)"

    t: OnTimes
    y: FloatArray
    theta: FloatArray
    loss: OnTimes
    success: bool
    message: str
    n_evaluations: int
    n_charts: int
    seconds: float
    chart_times: FloatArray = field(default_factory=lambda: np.empty(0))
    checkpoint: Checkpoint | None = None
    interrupted: bool = False

    @door
    def head(self, count: int) -> Self:
        """Return the first ``count`` times of the trajectory."""
        arrays = {name: getattr(self, name)[:count] for name in ("t", "y", "theta", "loss")}
        return replace(self, **arrays)

    def plot(self) -> "Figure":
        """Draw the loss over time."""
        from liftflow.flows.plotting import plot_trajectory

        return plot_trajectory(self)

    @door
    def save(self, path: str | Path) -> None:
        """Write the trajectory to an npz file.

        Raises
        ------
        InputError
            Not a path.
        OutputError
            The file cannot be written.
        """
        values = {name: getattr(self, name) for name in _names(type(self)) - {"checkpoint"}}
        if self.checkpoint is not None:
            for name in _names(Checkpoint) - {"memory", "origin"}:
                values[f"checkpoint.{name}"] = getattr(self.checkpoint, name)
            for name in _names(Origin):
                values[f"origin.{name}"] = getattr(self.checkpoint.origin, name)
            for name, array in self.checkpoint.memory.items():
                values[f"memory.{name}"] = array
        write_arrays(as_path(path), "trajectory", values)

    @classmethod
    @door
    def load(cls, path: str | Path) -> Self:
        """Read a trajectory that :meth:`save` wrote.

        Raises
        ------
        InputError
            Not a path.
        DataError
            The file is not there, is damaged, was changed since, or holds something else.
        """
        stored = read_arrays(as_path(path), "trajectory")
        try:
            whole = None
            if "checkpoint.t" in stored:
                parts = _take(stored, "checkpoint.", _names(Checkpoint) - {"memory", "origin"})
                origin = Origin(**_take(stored, "origin.", _names(Origin)))
                own = [name for name in stored if name.startswith("memory.")]
                memory = {name.removeprefix("memory."): stored.pop(name) for name in own}
                whole = Checkpoint(**parts, memory=memory, origin=origin)
            values = _take(stored, "", _names(cls) - {"checkpoint"})
        except KeyError as error:
            raise DataError(f"{path} holds no trajectory: {error} is not in it") from error
        if stored:
            raise DataError(f"{path} holds no trajectory: {sorted(stored)} are not of one")
        return cls(**values, checkpoint=whole)


def _take(stored: dict[str, Any], prefix: str, names: set[str]) -> dict[str, Any]:
    return {name: stored.pop(f"{prefix}{name}") for name in names}


def _names(cls: type) -> set[str]:
    return {f.name for f in fields(cls)}
