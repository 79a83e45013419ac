"""Both flows of one training problem, side by side."""

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.integrate import OdeSolver

from liftflow.architectures import Architecture
from liftflow.doors import door
from liftflow.errors import InputError, OutputError, ShapeError
from liftflow.files import as_path, make_folder
from liftflow.flows.drift import law_drift
from liftflow.flows.integrate import integrate, origin
from liftflow.flows.intrinsic import IntrinsicFlow
from liftflow.flows.parameter import ParameterFlow
from liftflow.flows.resume import same_numbers
from liftflow.flows.rules import TrainingRule
from liftflow.flows.settings import Settings
from liftflow.flows.state import FlowState
from liftflow.flows.trajectory import Trajectory
from liftflow.linalg import lengths, units
from liftflow.losses import Loss
from liftflow.manifolds import InvariantSet
from liftflow.metrics import Cometric
from liftflow.typing import FloatArray, OnTimes
from liftflow.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SAME = 1e-6  # distance of two starts, relative to θ₀, that single precision leaves
_CONTROL_SEED = 20_260_807
_ELSEWHERE, _NO_RATES, _FROZEN = "laws of another θ₀", "rates ignored", "laws frozen"
_FILES = {_NO_RATES: "control-rates", _FROZEN: "control-laws"}
_LABELS = {
    "n_hidden": "hidden nodes |H|",
    "n_channels": "channels C",
    "n_paths": "paths",
    "image_dim": "dim of the image",
}


@dataclass(frozen=True, eq=False)
class Comparison:
    """A parameter flow and the intrinsic flow from the same point, and how far they part.

    Attributes
    ----------
    manifold_dim : int
        Dimension of the invariant set.
    deviation : OnTimes
        Relative deviation ‖φ(θ(t)) − z(t)‖ / ‖φ(θ(t))‖, as far as both flows came.
    control : Trajectory or None
        The negative control: the flow from the same z by the metric of other laws.
    control_deviation_over_time : OnTimes, optional
        Its relative deviation from the parameter flow.
    steps : Trajectory or None
        A run of training by steps, at those of its times that the parameter flow was kept at.
    rule : TrainingRule or None
        The rule of all flows. The control then has the metric without its learning rates, or that
        of the laws at θ₀, which do not decay.
    control_name : str
        Says which.
    further_controls : dict of str to tuple
        Another control and its deviation, by its name, where the rule has rates and decay.
    """

    architecture: Architecture
    loss: Loss
    manifold_dim: int
    rtol: float
    parameter: Trajectory
    intrinsic: Trajectory
    deviation: OnTimes
    control: Trajectory | None
    control_deviation_over_time: OnTimes | None
    steps: Trajectory | None = None
    rule: TrainingRule | None = None
    control_name: str = _ELSEWHERE
    further_controls: Mapping[str, tuple[Trajectory, OnTimes]] = field(default_factory=dict)

    @property
    def max_deviation(self) -> float:
        """Largest relative deviation of the two flows; NaN where they share their start alone."""
        return _largest(self.deviation)

    @property
    def control_deviation(self) -> float | None:
        """Largest relative deviation of the negative control, the least of several."""
        return min((_largest(gap) for _, gap in self._controls.values()), default=None)

    @property
    def _controls(self) -> dict[str, tuple[Trajectory, OnTimes]]:
        first, over_time = self.control, self.control_deviation_over_time
        if first is None or over_time is None:
            return {}
        return {self.control_name: (first, over_time), **self.further_controls}

    @property
    def steps_deviation_over_time(self) -> OnTimes | None:
        """Relative deviation of the steps from the parameter flow, at the times of ``steps``."""
        if self.steps is None:
            return None
        flow = self.parameter.theta[np.searchsorted(self.parameter.t, self.steps.t)]
        gap = self.architecture.lifted_distance(self.steps.theta, flow)
        return gap / self.architecture.lifted_norm(flow)

    @property
    def steps_deviation(self) -> float | None:
        """Largest relative deviation of the steps, where there are any."""
        over_time = self.steps_deviation_over_time
        return None if over_time is None else _largest(over_time)

    @property
    def success(self) -> bool:
        """Whether all flows reached the end of the time span."""
        return all(flow.success for flow in self._flows)

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the comparison."""
        return any(flow.interrupted for flow in self._flows)

    @property
    def _flows(self) -> list[Trajectory]:
        return [self.parameter, self.intrinsic, *(flow for flow, _ in self._controls.values())]

    @door
    def law_drift_over_time(self, trajectory: Trajectory) -> OnTimes:
        """Drift of the conservation laws along a trajectory, as :func:`law_drift` measures it."""
        return law_drift(self.architecture, trajectory, self.rule)

    @property
    def law_drift(self) -> float:
        """Largest drift of the laws along either flow, relative to ‖θ₀‖²."""
        flows = (self.parameter, self.intrinsic)
        return max(float(self.law_drift_over_time(flow).max()) for flow in flows)

    def summary(self) -> dict[str, Any]:
        """Collect the figures of the comparison; None stands for what does not apply."""
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
        if self.rule is not None:
            result |= {"rule": str(self.rule)} | {
                f"deviation, {name}": _largest(gap) for name, (_, gap) in self._controls.items()
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
        if self.steps is not None:
            result["steps_deviation"] = self.steps_deviation
            result["law_drift_steps"] = float(self.law_drift_over_time(self.steps).max())
        return result | {"t_end": float(self.parameter.t[-1]), "n_charts": self.intrinsic.n_charts}

    def table(self) -> Table:
        """Lay the figures out as a table."""
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
        facts: dict[str, Any] = {
            "parameters D": self.architecture.dim,
            "dim of the invariant set": self.manifold_dim,
            **{_LABELS.get(k, k): v for k, v in self.architecture.describe().items()},
            "charts": self.intrinsic.n_charts,
            "largest relative deviation": self.max_deviation,
            "deviation of the control": self.control_deviation,
            "deviation of the steps": summary.get("steps_deviation"),
            "law drift of the steps": summary.get("law_drift_steps"),
        }
        if self.rule is not None:
            controls = {f"control: {k}": _largest(gap) for k, (_, gap) in self._controls.items()}
            facts |= {"training rule": self.rule, **controls}
        for label, value in facts.items():
            if value is not None:
                table.add_row(label, "", _show(value))
        for flow in self._flows:
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
        """Draw loss, deviation and law drift over time."""
        from liftflow.flows import plotting

        flows = [(self.parameter, plotting.PARAMETER, "parameter flow")]
        flows.append((self.intrinsic, plotting.INTRINSIC, "intrinsic flow"))
        losses = [plotting.Curve(own.t, own.loss, role, name) for own, role, name in flows]
        # At the start every flow is at the same point: a zero that only stretches the axis.
        drifts = [
            plotting.Curve(own.t[1:], self.law_drift_over_time(own)[1:], role, name)
            for own, role, name in flows
        ]
        t = self.parameter.t[1:]
        apart = [plotting.Curve(t, self.deviation[1:], plotting.DEVIATION, "intrinsic flow")]
        for style, (name, (flow, over_time)) in zip(":-", self._controls.items(), strict=False):
            role, name = (plotting.CONTROL[0], style), f"control: {name}"
            losses.append(plotting.Curve(flow.t, flow.loss, role, name))
            apart.append(plotting.Curve(t, over_time[1:], role, name))
        steps, gap = self.steps, self.steps_deviation_over_time
        if steps is not None and gap is not None:
            values = steps.loss, gap, self.law_drift_over_time(steps)
            for panel, over_time in zip((losses, apart, drifts), values, strict=True):
                panel.append(plotting.Curve(steps.t[1:], over_time[1:], plotting.STEPS, "steps"))
        panels = [
            (self._verdict(), "loss", losses),
            ("Deviation from the parameter flow", plotting.GAP, apart),
            ("Drift of the conservation laws", "‖h(θ(t)) − h(θ₀)‖∞ / ‖θ₀‖²", drifts),
        ]
        return plotting.draw(panels, (12, 3.8))

    def _verdict(self) -> str:
        """Whether the flows agree, in a line."""
        deviation = self.max_deviation
        if np.isnan(deviation):
            flows = {"parameter": self.parameter, "intrinsic": self.intrinsic}
            names = " and the ".join(name for name, flow in flows.items() if len(flow.t) < 2)
            return f"Flows not compared: the {names} flow ended where it began"
        agree = agreed(deviation, self.rtol, self.control_deviation)
        last = self.parameter.t[len(self.deviation) - 1]
        until = "" if self.success else f", up to t = {last:.3g}"
        return f"Flows {'agree to' if agree else 'part by'} {deviation:.1e}{until}"


def agreed(deviation: float, rtol: float, control: float | None) -> bool:
    """Whether a deviation is that of solvers, and not one of flows.

    Kinks of the loss take away up to half of a solver's order, so √rtol may be had by agreement. A
    control that parts by less than ten times as much does not tell the one from the other.
    """
    return bool(deviation <= np.sqrt(rtol)) and (control is None or not 10 * deviation > control)


def _largest(deviation: FloatArray) -> float:
    return float(deviation.max()) if len(deviation) > 1 else np.nan


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@door
def compare(
    invariant_set: InvariantSet,
    loss: Loss,
    t_span: tuple[float, float],
    rtol: float = 1e-8,
    atol: float = 1e-10,
    method: str | type[OdeSolver] = "RK45",
    coordinates: str = "auto",
    cometric: Cometric | None = None,
    control: bool = False,
    progress: bool = False,
    n_times: int = 101,
    memory_limit: float = 8e9,
    checkpoints: str | Path | None = None,
    steps: Trajectory | None = None,
    rule: TrainingRule | None = None,
    **options: Any,
) -> Comparison:
    """Integrate the parameter flow and the intrinsic flow from θ₀, and compare them.

    Both have the same settings, those of :class:`~liftflow.flows.Settings`.

    Parameters
    ----------
    invariant_set : InvariantSet
        Names the architecture and θ₀.
    coordinates : {"auto", "full", "basis"}
        Coordinates of the intrinsic flow.
    cometric : Cometric, optional
        The metric of the intrinsic flow, by default that of the invariant set.
    control : bool
        Whether to add the negative control: the flow from the same z by the metric of another
        θ₀, with other laws. It must part from the others. With a rule, it is the flow by the metric
        without the learning rates, and one by that of laws that do not decay.
    checkpoints : str or Path, optional
        Folder where the flows leave their checkpoints every minute; it is made where there is none.
        Those that are there already are continued: to go on after a stop, make the same call
        again. Those of another flow, start, loss, metric or method, of other tolerances or times,
        and those that went beyond the end of ``t_span``, are refused.
    steps : Trajectory, optional
        A run of training by steps from θ₀, such as :meth:`GradientDescent.run` makes or
        :meth:`Trajectory.from_arrays` takes from elsewhere, to be put beside the two flows. Its
        times are the sums of the step sizes, and the flows are kept at those next to the times
        asked for.
    rule : TrainingRule, optional
        Learning rates and weight decay of both flows.
    **options
        ``max_step``, ``first_step``, ``t_eval`` and ``checkpoint_seconds``.

    Returns
    -------
    comparison : Comparison
        Ctrl-C ends all flows, also those that were not begun; ``success`` is then False, and
        ``interrupted`` True.

    Raises
    ------
    InputError, FlowError, NotIntrinsicError, NotRecoverableError
        As the two flows.
    DataError
        A checkpoint is damaged.
    OutputError
        The first checkpoint cannot be written. Later ones only give a warning.
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
    if steps is not None:
        wanted = Settings(t_span, n_times=n_times, t_eval=options.get("t_eval"))
        options["t_eval"] = _times_with(steps, invariant_set, wanted)
    plan = Plan(
        invariant_set,
        loss,
        t_span,
        coordinates,
        cometric,
        control,
        rtol=rtol,
        atol=atol,
        method=method,
        progress=progress,
        n_times=n_times,
        memory_limit=memory_limit,
        rule=rule,
        **options,
    )
    done = plan.run(None if checkpoints is None else as_path(checkpoints, "checkpoints"))
    if steps is None:
        return done
    return replace(done, steps=steps.rows(np.flatnonzero(np.isin(steps.t, done.parameter.t))))


def _times_with(steps: Trajectory, invariant_set: InvariantSet, wanted: Settings) -> FloatArray:
    """Times of the steps next to those that are wanted, as far as the steps came."""
    theta0, start = invariant_set.theta0, float(wanted.t_span[0])
    if steps.theta.shape[1:] != theta0.shape:
        raise ShapeError(
            f"steps must have theta of shape (n_times, {theta0.size}), got {steps.theta.shape}"
        )
    gap = float(lengths(steps.theta[0] - theta0))
    if not gap <= _SAME * lengths(theta0) or steps.t[0] != start:
        raise InputError(
            f"steps must start from θ₀ at the time {start:g} of the flows, got a run that starts "
            f"at a distance of {gap:.2g} at the time {steps.t[0]:g}"
        )
    times, own = wanted.times, steps.t[steps.t <= wanted.t_span[1]]
    before = own[np.maximum(np.searchsorted(own, times, "right") - 1, 0)]
    after = own[np.minimum(np.searchsorted(own, times), len(own) - 1)]
    nearest = np.where(times - before <= after - times, before, after)
    return np.unique(np.where(times <= own[-1], nearest, times))


class Plan:
    """The flows of a comparison, before they are integrated.

    Parameters
    ----------
    control : bool
        Whether there is a third flow.
    **settings
        Of :class:`~liftflow.flows.Settings`.

    Raises
    ------
    InputError
        The checkpoint of a single flow among the settings, or settings that cannot be used.
    """

    @door
    def __init__(
        self,
        invariant_set: InvariantSet,
        loss: Loss,
        t_span: tuple[float, float],
        coordinates: str = "auto",
        cometric: Cometric | None = None,
        control: bool = False,
        rule: TrainingRule | None = None,
        **settings: Any,
    ) -> None:
        for name in ("checkpoint", "checkpoints", "resume"):
            if name in settings:
                raise InputError(
                    f"{name} is no setting here, where each flow has a file of its own: use "
                    "checkpoints= of compare or folder= of sweep, which both write and resume them"
                )
        architecture, theta0 = invariant_set.architecture, invariant_set.theta0
        flow = IntrinsicFlow(invariant_set, loss, coordinates, cometric, rule)
        self.invariant_set, self.loss, self.rule = invariant_set, loss, rule
        self.flows = {"intrinsic": flow}
        if control and rule is not None and not rule.is_plain:
            if np.any(rule.rates(architecture) != 1.0):
                self.flows[_NO_RATES] = flow.without_rates()
            if rule.weight_decay:
                self.flows[_FROZEN] = flow.with_frozen_laws()
        elif control:  # first, since a family may have none
            elsewhere = InvariantSet(architecture, architecture.fibre_point(theta0, _CONTROL_SEED))
            self.flows["control"] = IntrinsicFlow(elsewhere, loss, coordinates)
        size = architecture.lifted_dim if flow.coordinates == "full" else architecture.dim
        wanted = Settings(t_span, **settings)
        kept = architecture.dim + size + 2  # with the deviations of the flow and of its control
        self.settings = replace(wanted, t_eval=wanted.thinned(kept))
        # A state remembers where it was, so that each integration takes a new one.
        by_theta = ParameterFlow(architecture, loss, rule)
        self.states: dict[str, Callable[[], FlowState]] = {
            "parameter": partial(by_theta.state, theta0)
        }
        self.states |= {name: own.state for name, own in self.flows.items()}

    def identity(self) -> dict[str, Any]:
        """Collect all that decides the numbers, by names.

        Returns
        -------
        identity : dict
            What is given, as it is. Architectures, losses and metrics have no such form: under
            ``computed`` are numbers that they lead to.
        """
        architecture, theta0 = self.invariant_set.architecture, self.invariant_set.theta0
        settings, scale = self.settings, np.max(np.abs(theta0), initial=0.0)
        aside = theta0 + 0.1 * scale * np.random.default_rng(0).standard_normal(theta0.size)
        computed = {"laws": [_sketch(architecture.conservation_laws(aside))]}
        for name, state in self.states.items():
            own = origin(state(), settings, name)
            numbers = [[own.loss], *([loss] for loss in own.probe.tolist())]
            vectors = (own.coordinates, own.velocity, own.ahead)
            computed[f"loss, data or metric of the {name} flow"] = [
                *numbers,
                *map(_sketch, vectors),
            ]
        return {
            "version of liftflow": __version__,
            "architecture": [
                type(architecture).__name__,
                str((architecture.dim, architecture.lifted_shape, architecture.n_laws)),
                str(architecture.describe()),
            ],
            "θ₀": joblib.hash(theta0 + 0.0),  # no −0
            "times": [*map(float, settings.t_span), joblib.hash(settings.times)],
            "rtol": float(settings.rtol),
            "atol": float(settings.atol),
            "max_step": float(settings.max_step),
            "first_step": float(settings.first_step or 0.0),
            "method": f"{settings.solver.__module__}.{settings.solver.__qualname__}",
            "coordinates": self.flows["intrinsic"].coordinates,
            "control": len(self.flows) > 1,
            "computed": computed,
        }

    @staticmethod
    def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
        """Return the names of what differs between two identities, as JSON keeps them."""
        given = [name for name in here if name != "computed" and there[name] != here[name]]
        return given + [
            name
            for name, blocks in here["computed"].items()
            if len(blocks) != len(there["computed"].get(name, ()))
            or not all(map(same_numbers, there["computed"][name], blocks))
        ]

    def run(self, folder: Path | None) -> Comparison:
        """Integrate the flows one after another, with checkpoints in the folder if there is one."""
        paths, earlier = {}, {}
        if folder is not None:
            files = {name: _FILES.get(name, name) for name in self.states}
            paths = {name: make_folder(folder) / f"{own}.npz" for name, own in files.items()}
            earlier = {n: Trajectory.load(p) for n, p in paths.items() if os.path.lexists(p)}
        done: dict[str, Trajectory] = {}
        for name, state in self.states.items():
            settings = replace(self.settings, resume=earlier.get(name))
            if any(flow.interrupted for flow in done.values()):
                done[name] = _not_begun(state(), settings)
            elif not paths:
                done[name] = integrate(state(), settings, name)
            elif not done:
                done[name] = integrate(state(), replace(settings, checkpoint=paths[name]), name)
            else:
                done[name] = _integrate_at_any_price(state, settings, paths[name])
        apart = {n: _deviation(f, done[n], done["parameter"]) for n, f in self.flows.items()}
        controls = {name: (done[name], apart[name]) for name in self.flows if name != "intrinsic"}
        first, *rest = controls or [None]
        return Comparison(
            architecture=self.invariant_set.architecture,
            loss=self.loss,
            manifold_dim=self.invariant_set.dim,
            rtol=self.settings.rtol,
            parameter=done["parameter"],
            intrinsic=done["intrinsic"],
            deviation=apart["intrinsic"],
            control=None if first is None else done[first],
            control_deviation_over_time=None if first is None else apart[first],
            rule=self.rule,
            control_name=_ELSEWHERE if first in (None, "control") else first,
            further_controls={name: controls[name] for name in rest if name},
        )


def _integrate_at_any_price(
    state: Callable[[], FlowState], settings: Settings, path: Path
) -> Trajectory:
    """Integrate a flow after others, whose results are worth more than its checkpoint."""
    try:
        make_folder(path.parent)  # it may have gone since
        return integrate(state(), replace(settings, checkpoint=path), path.stem)
    except OutputError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=4)
        result = integrate(state(), settings, path.stem)
        return replace(result, message=f"{result.message}; {error}")


def _not_begun(state: FlowState, settings: Settings) -> Trajectory:
    """What there is of a flow that Ctrl-C kept from starting: its first point."""
    y, theta, loss = state.read(state.start())
    return Trajectory(
        t=np.array([float(settings.t_span[0])]),
        y=y[None],
        theta=theta[None],
        loss=np.array([loss]),
        success=False,
        message="not begun: interrupted",
        n_evaluations=0,
        n_charts=1,
        seconds=0.0,
        interrupted=True,
    )


def _sketch(vector: FloatArray) -> list[float]:
    """Root mean square, and product with a random vector, which tell a vector from others."""
    vector, other = np.ravel(vector), np.random.default_rng(0).standard_normal(np.size(vector))
    unit = units(np.max(np.abs(vector), initial=0.0))  # squares under- and overflow
    relative = vector / unit / np.sqrt(max(vector.size, 1))
    length = np.linalg.norm(other) or 1.0
    return [float(unit * np.linalg.norm(relative)), float(unit * (relative @ other / length))]


def _deviation(flow: IntrinsicFlow, intrinsic: Trajectory, parameter: Trajectory) -> FloatArray:
    """Relative deviation, as far as both flows came."""
    count = min(len(intrinsic.t), len(parameter.t))
    theta = parameter.theta[:count]
    norm = flow.invariant_set.architecture.lifted_norm(theta)
    return flow.distance(intrinsic.head(count), theta) / norm
