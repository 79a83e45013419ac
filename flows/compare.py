"""Both flows of one training problem, side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from liftflow.architectures import Architecture
from liftflow.flows.integrate import Settings
from liftflow.flows.intrinsic import IntrinsicFlow
from liftflow.flows.parameter import ParameterFlow
from liftflow.flows.trajectory import Trajectory
from liftflow.losses import Loss
from liftflow.manifolds import InvariantSet
from liftflow.metrics import Cometric
from liftflow.typing import FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CONTROL_SEED = 20_260_807
_LABELS = {
    "n_hidden": "hidden nodes |H|",
    "n_paths": "paths",
    "image_dim": "dim of the image",
}


@dataclass(frozen=True, eq=False)
class Comparison:
    """A parameter flow and the intrinsic flow from the same point, and how far they part.

    Attributes
    ----------
    architecture : Architecture
    loss : Loss
    manifold_dim : int
        Dimension of the invariant set.
    rtol : float
        Relative tolerance of both flows.
    parameter, intrinsic : Trajectory
    deviation : array, shape=[n_times]
        Relative deviation ‖φ(θ(t)) − z(t)‖ / ‖φ(θ(t))‖, as far as both flows came.
    control : Trajectory or None
        The negative control: the flow from the same z by the metric of other laws.
    control_deviation_over_time : array, shape=[n_times], or None
        Its relative deviation from the parameter flow.
    """

    architecture: Architecture
    loss: Loss
    manifold_dim: int
    rtol: float
    parameter: Trajectory
    intrinsic: Trajectory
    deviation: FloatArray
    control: Trajectory | None
    control_deviation_over_time: FloatArray | None

    @property
    def max_deviation(self) -> float:
        """Largest relative deviation of the two flows."""
        return float(self.deviation.max())

    @property
    def control_deviation(self) -> float | None:
        """Largest relative deviation of the negative control, where there is one."""
        over_time = self.control_deviation_over_time
        return None if over_time is None else float(over_time.max())

    @property
    def success(self) -> bool:
        """Whether both flows reached the end of the time span."""
        return self.parameter.success and self.intrinsic.success

    def law_drift_over_time(self, trajectory: Trajectory) -> FloatArray:
        """Drift of the conservation laws along a trajectory, as :func:`law_drift` measures it.

        Parameters
        ----------
        trajectory : Trajectory

        Returns
        -------
        drift : array, shape=[n_times]
        """
        return law_drift(self.architecture, trajectory)

    @property
    def law_drift(self) -> float:
        """Largest drift of the laws along either flow, relative to ‖θ₀‖²."""
        flows = (self.parameter, self.intrinsic)
        return max(float(self.law_drift_over_time(flow).max()) for flow in flows)

    def summary(self) -> dict[str, Any]:
        """Collect the figures of the comparison, as written to summary.json.

        Returns
        -------
        summary : dict
            None stands for what does not apply.
        """
        flows = {"parameter": self.parameter, "intrinsic": self.intrinsic}
        result: dict[str, Any] = {
            "dim": self.architecture.dim,
            "n_laws": self.architecture.n_laws,
            "manifold_dim": self.manifold_dim,
            **self.architecture.describe(),
            "rtol": self.rtol,
            "max_deviation": self.max_deviation,
            "control_deviation": self.control_deviation,
        }
        for name, flow in flows.items():
            scores = self.loss.scores(flow.theta[-1], self.architecture)
            result |= {
                f"loss_{name}": float(flow.loss[-1]),
                f"accuracy_{name}": scores.get("accuracy"),
                f"r2_{name}": scores.get("r2"),
                f"law_drift_{name}": float(self.law_drift_over_time(flow).max()),
                f"evaluations_{name}": flow.n_evaluations,
                f"seconds_{name}": flow.seconds,
                f"success_{name}": flow.success,
                f"message_{name}": flow.message,
            }
        return result | {"t_end": float(self.parameter.t[-1]), "n_charts": self.intrinsic.n_charts}

    def table(self) -> Table:
        """Lay the figures out as a table.

        Returns
        -------
        table : rich.table.Table
        """
        summary = self.summary()
        table = Table(title="Two flows of one training problem", title_justify="left")
        table.add_column("")
        for name in ("parameter flow", "intrinsic flow"):
            table.add_column(name, justify="right")
        rows = {
            "loss": "final loss",
            "accuracy": "accuracy",
            "r2": "R²",
            "law_drift": "law drift",
            "evaluations": "evaluations",
            "seconds": "seconds",
        }
        for key, label in rows.items():
            pair = [summary[f"{key}_{name}"] for name in ("parameter", "intrinsic")]
            if any(value is not None for value in pair):
                table.add_row(label, *map(_show, pair))
        table.add_section()
        facts = {
            "parameters D": self.architecture.dim,
            "dim of the invariant set": self.manifold_dim,
            **{_LABELS.get(k, k): v for k, v in self.architecture.describe().items()},
            "charts": self.intrinsic.n_charts,
            "largest relative deviation": self.max_deviation,
            "deviation of the control": self.control_deviation,
        }
        for label, value in facts.items():
            if value is not None:
                table.add_row(label, "", _show(value))
        for flow in (self.parameter, self.intrinsic):
            if not flow.success:
                table.add_row("[red]ended early", "", flow.message)
        return table

    def __str__(self) -> str:
        """Return the table as text."""
        console = Console(width=88, color_system=None)
        with console.capture() as capture:
            console.print(self.table())
        return capture.get()

    def print(self) -> None:
        """Print the table."""
        Console().print(self.table())

    def plot(self) -> "Figure":
        """Draw loss, deviation and law drift over time.

        Returns
        -------
        figure : matplotlib.figure.Figure
        """
        from liftflow.flows.plotting import plot_comparison

        return plot_comparison(self)


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def law_drift(architecture: Architecture, trajectory: Trajectory) -> FloatArray:
    """Measure the drift of the conservation laws, ‖h(θ(t)) − h(θ₀)‖_∞ / ‖θ₀‖².

    Parameters
    ----------
    architecture : Architecture
    trajectory : Trajectory
        Of a flow, or of steps of a finite size. Its first parameter is θ₀.

    Returns
    -------
    drift : array, shape=[n_times]
    """
    laws = np.asarray(architecture.conservation_laws(trajectory.theta))
    gap = np.max(np.abs(laws - laws[0]), axis=1, initial=0.0)
    return gap / np.sum(trajectory.theta[0] ** 2)


def compare(
    invariant_set: InvariantSet,
    loss: Loss,
    t_span: tuple[float, float],
    rtol: float = 1e-8,
    atol: float = 1e-10,
    method: Any = "RK45",
    coordinates: str = "auto",
    cometric: Cometric | None = None,
    control: bool = False,
    progress: bool = False,
    n_times: int = 101,
    memory_limit: float = 8e9,
    checkpoints: str | Path | None = None,
    **options: Any,
) -> Comparison:
    """Integrate the parameter flow and the intrinsic flow from θ₀, and compare them.

    Parameters
    ----------
    invariant_set : InvariantSet
        Names the architecture and θ₀.
    loss : Loss
    t_span : tuple of float
        First and last time.
    rtol, atol : float
        Tolerances of both flows.
    method : str or type
        A method of ``scipy.integrate.solve_ivp``.
    coordinates : {"auto", "full", "basis"}
        Coordinates of the intrinsic flow.
    cometric : Cometric, optional
        The metric of the intrinsic flow, by default that of the invariant set.
    control : bool
        Whether to add the negative control: the flow from the same z by the metric of another
        θ₀, with other laws. It must part from the others.
    progress : bool
        Whether to show progress bars.
    n_times : int
        Number of times at which the flows are compared.
    memory_limit : float
        Most bytes that each flow keeps, with its deviations; the times are thinned to fit.
    checkpoints : str or Path, optional
        Folder where the flows leave their checkpoints every minute. Those that are there already
        are continued: to go on after a stop, make the same call again. Those of other flows or
        other tolerances are refused.
    **options
        ``max_step`` and ``first_step``, as in :class:`~liftflow.flows.Settings`.

    Returns
    -------
    comparison : Comparison

    Raises
    ------
    InputError, FlowError, NotIntrinsicError, NotRecoverableError
        As the two flows.
    ArchitectureError
        A control is asked for, and the family has no other θ₀ over the same z with a closed form.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> from liftflow import InvariantSet, ReLUNetwork, compare, loss_from_function
    >>> network = ReLUNetwork.diagonal(2)
    >>> loss = loss_from_function(lambda z: anp.sum((z - 1.0) ** 2))
    >>> start = InvariantSet(network, [0.5, 0.8, 0.4, -0.3])
    >>> bool(compare(start, loss, (0.0, 1.0)).max_deviation < 1e-6)
    True
    """
    settings: dict[str, Any] = {
        "rtol": rtol,
        "atol": atol,
        "method": method,
        "n_times": n_times,
        "progress": progress,
        "memory_limit": memory_limit,
        **options,
    }
    architecture, theta0 = invariant_set.architecture, invariant_set.theta0
    flow = IntrinsicFlow(invariant_set, loss, coordinates, cometric)
    if control:  # first, since a family may have none
        elsewhere = InvariantSet(architecture, architecture.fibre_point(theta0, _CONTROL_SEED))
    state = architecture.lifted_dim if flow.coordinates == "full" else architecture.dim
    kept = architecture.dim + state + 2  # with the deviations of the flow and of its control
    settings["t_eval"] = Settings(t_span, **settings).thinned(kept)
    parameter = ParameterFlow(architecture, loss).integrate(
        theta0, t_span, **settings, **_continued(checkpoints, "parameter")
    )
    intrinsic = flow.integrate(None, t_span, **settings, **_continued(checkpoints, "intrinsic"))
    other, other_deviation = None, None
    if control:
        other_flow = IntrinsicFlow(elsewhere, loss, coordinates)
        other = other_flow.integrate(None, t_span, **settings, **_continued(checkpoints, "control"))
        other_deviation = _deviation(other_flow, other, parameter)
    return Comparison(
        architecture=architecture,
        loss=loss,
        manifold_dim=invariant_set.dim,
        rtol=rtol,
        parameter=parameter,
        intrinsic=intrinsic,
        deviation=_deviation(flow, intrinsic, parameter),
        control=other,
        control_deviation_over_time=other_deviation,
    )


def _continued(folder: str | Path | None, name: str) -> dict[str, Any]:
    """Settings by which a flow leaves its checkpoints in a folder, and goes on from there."""
    if folder is None:
        return {}
    path = Path(folder) / f"{name}.npz"
    return {"checkpoint": path, "resume": Trajectory.load(path) if path.exists() else None}


def _deviation(flow: IntrinsicFlow, intrinsic: Trajectory, parameter: Trajectory) -> FloatArray:
    """Relative deviation, as far as both flows came."""
    count = min(len(intrinsic.t), len(parameter.t))
    theta = parameter.theta[:count]
    norm = flow.invariant_set.architecture.lifted_norm(theta)
    return flow.distance(intrinsic.head(count), theta) / norm
