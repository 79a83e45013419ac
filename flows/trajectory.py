"""What a flow leaves behind."""

import html
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np

from liftflow.architectures import Architecture
from liftflow.doors import door
from liftflow.errors import DataError, InputError, ShapeError
from liftflow.files import Archived, as_html
from liftflow.typing import (
    FloatArray,
    IntArray,
    OnTimes,
    as_count,
    as_indices,
    as_instance,
    as_own,
    freeze,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_T = TypeVar("_T", bound="Origin | Checkpoint | Trajectory")
Memory = dict[str, np.ndarray]
"""What the velocity of a flow depends on besides the coordinates, by names."""


@dataclass(frozen=True, eq=False)
class Origin:
    """Which run this is: where its flow began, and how it is integrated."""

    t: float
    coordinates: FloatArray
    loss: float
    velocity: FloatArray
    ahead: FloatArray  # the velocity a short way along it
    probe: FloatArray  # losses far from there: tell whether the loss and its data are the same
    rtol: float
    atol: float
    method: str
    max_step: float
    first_step: float  # 0 where the solver finds it

    def __repr__(self) -> str:
        """Say in one line which run it is."""
        return f"Origin(t = {self.t:.3g}, loss {self.loss:.3g}, {self.method})"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a flow stood after its last whole step: all that the next one depends on.

    Attributes
    ----------
    coordinates, velocity : FloatArray
        State of the solver, and its velocity there; empty where the solver keeps more than that.
    step : float
        Length that the solver proposes for the next step; 0 where it keeps more than that.
    mark : float
        Time at which progress was last asked for.
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
    memory: Memory
    origin: Origin

    def __repr__(self) -> str:
        """Say in one line where the flow stood."""
        return f"Checkpoint(t = {self.t:.3g}, after {self.n_steps:,} steps)"


@dataclass(frozen=True, eq=False)
class Trajectory(Archived):
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
        Whether the end of the time span was reached; the message says why the flow ended.
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
    prediction : array, shape=[n_times, n_laws]
        See ``predicted_laws``; empty where there are none.
    """

    _kind = "trajectory"
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
    prediction: FloatArray = field(default_factory=lambda: np.empty((0, 0)))

    @classmethod
    @door
    def from_arrays(cls, t: OnTimes, theta: FloatArray, loss: OnTimes | None = None) -> Self:
        """Make a trajectory of what another program logged.

        Parameters
        ----------
        t : OnTimes
            Times, which do not fall: for steps of training, the sums of their sizes.
        theta : array, shape=[n_times, dim]
            Parameters; the first one is θ₀.
        loss : OnTimes, optional
            NaN where it is not known.

        Raises
        ------
        InputError
            Arrays that do not fit together, or times that fall.
        """
        times, points = as_own(t, "t", (None,)), as_own(theta, "theta", (None, None))
        if len(times) != len(points) or not len(times):
            raise ShapeError(
                f"t and theta must have one row per time, got {len(times)} and {len(points)}"
            )
        if np.any(np.diff(times) < 0):
            raise InputError("t must hold times that do not fall")
        losses = np.full(len(times), np.nan)
        if loss is not None:
            unknown = _unknown(loss)
            known = np.ma.where(unknown, 0.0, loss) if unknown.any() else loss
            losses = freeze(np.where(unknown, np.nan, as_own(known, "loss", times.shape)))
        return cls(times, points, points, losses, True, "given", 0, 1, 0.0)

    @property
    def predicted_laws(self) -> FloatArray | None:
        """Laws h(θ) at the times kept, as the steps predict them without looking at θ.

        Exact for runs of :class:`~liftflow.flows.GradientDescent`, shape=[n_times, n_laws]. None
        where no prediction is offered: for flows, whose laws stay or decay; for Adam, whose steps
        are no multiples of gradients; where some law is no quadratic form; and for what
        :meth:`from_arrays` made.
        """
        return self.prediction if len(self.prediction) else None

    @door
    def head(self, count: int) -> Self:
        """Return the first ``count`` times of the trajectory, or all where there are fewer."""
        return self.rows(np.arange(min(as_count(count, "count"), len(self.t))))

    @door
    def rows(self, numbers: IntArray) -> Self:
        """Return the trajectory at some of its times, by their numbers from 0."""
        numbers = as_indices(numbers, "numbers", len(self.t))
        names = ["t", "y", "theta", "loss"] + ["prediction"] * (len(self.prediction) > 0)
        return replace(self, **{name: getattr(self, name)[numbers] for name in names})

    def __repr__(self) -> str:
        """Say in one line how far the flow came, and what became of the loss."""
        if not len(self.t):
            return f"Trajectory(no times: {self.message})"
        return (
            f"Trajectory({len(self.t)} times up to t = {self.t[-1]:.3g}, "
            f"loss {self.loss[0]:.3g} → {self.loss[-1]:.3g}: {self.message})"
        )

    def _repr_html_(self) -> str:
        """Render the main figures for a notebook."""
        from rich.table import Table

        table = Table(title=html.escape(self.message), title_justify="left")
        for head in ("times", "t", "loss", "evaluations", "charts", "seconds"):
            table.add_column(head, justify="right")
        ends = [f"{v[0]:.4g} → {v[-1]:.4g}" if len(v) else "" for v in (self.t, self.loss)]
        counts = [f"{self.n_evaluations:,}", str(self.n_charts), f"{self.seconds:.3g}"]
        table.add_row(str(len(self.t)), *ends, *counts)
        return as_html(table)

    def plot(self, architecture: Architecture | None = None) -> "Figure":
        """Draw the loss, the speed, and the entries that move most, of θ or of the z of a flow.

        Parameters
        ----------
        architecture : Architecture, optional
            Whose laws are drawn in place of the entries, those that are predicted over them.
        """
        from liftflow.flows import plotting

        # With momentum, θ is the first half of the state; else this is a flow of z.
        mine = any(np.array_equal(own, self.theta) for own in (self.y, self.y[:, 0]))
        role, name = (plotting.PARAMETER, "θ") if mine else (plotting.INTRINSIC, "z")
        laws = None
        if architecture is not None:
            as_instance(architecture, Architecture, "architecture")
            measured = np.asarray(architecture.conservation_laws(self.theta))
            laws = measured, self.predicted_laws
        run = {"t": self.t, "loss": self.loss, name: self.theta if mine else self.y}
        return plotting.draw_run(run, role, self.message, laws)

    def _values(self) -> dict[str, Any]:
        values = {**vars(self)}
        whole = values.pop("checkpoint")
        if whole is not None:
            own = {**vars(whole)}
            parts = {"memory": own.pop("memory"), "origin": vars(own.pop("origin"))}
            for kind, part in {"checkpoint": own, **parts}.items():
                values |= {f"{kind}.{name}": value for name, value in part.items()}
        return values

    @classmethod
    def _made(cls, values: dict[str, Any]) -> Self:
        parts: dict[str, dict[str, Any]] = {"checkpoint": {}, "memory": {}, "origin": {}, "": {}}
        for name, value in values.items():
            kind, dot, own = name.partition(".")
            parts[kind if dot else ""][own or name] = value
        whole, values = None, parts.pop("")
        if any(parts.values()):
            parts["checkpoint"]["origin"] = _exactly(Origin, parts["origin"])
            whole = _exactly(Checkpoint, parts["checkpoint"] | {"memory": parts["memory"]})
        return _exactly(cls, values | {"checkpoint": whole})

    @classmethod
    def _read(cls, path: Path) -> Self:
        try:
            return super()._read(path)
        except DataError as error:
            if "it is liftflow comparison" not in str(error):
                raise
            raise DataError(
                f"{path} holds no trajectory but a comparison; Comparison.load({str(path)!r}) "
                "reads it, with .parameter, .intrinsic and .control"
            ) from error


def _unknown(loss: OnTimes) -> np.ndarray:
    """Where a loss is NaN and not masked; nowhere in what is no array of numbers."""
    try:
        return np.asarray(np.isnan(loss)) & ~np.ma.getmaskarray(loss)
    except (TypeError, ValueError):
        return np.zeros((), dtype=bool)


def _exactly(cls: type[_T], values: dict[str, Any]) -> _T:
    """Make one of a dataclass, whose fields are these and no others."""
    apart = values.keys() ^ {each.name for each in fields(cls)}
    if apart:
        raise ValueError(f"not as one are {', '.join(sorted(apart))}")
    return cls(**values)
