"""Two flows of one training problem, and how far they part: their table, figure and file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from liftflow.architectures import Architecture
from liftflow.doors import door
from liftflow.errors import InputError, UndefinedError
from liftflow.files import Archived, Tabled, as_text
from liftflow.flows.certificate import RateCertificate, rate_certificate
from liftflow.flows.rules import TrainingRule, law_drift
from liftflow.flows.trajectory import Trajectory
from liftflow.linalg import relative
from liftflow.losses import Loss
from liftflow.typing import FloatArray, OnTimes
from liftflow.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

Values: TypeAlias = Mapping[str, Any]
"""Numbers and texts by names, in the types of JSON."""

ELSEWHERE, NO_RATES, FROZEN = "laws of another θ₀", "rates ignored", "laws frozen"
_PARTS = tuple(part.name for part in fields(Trajectory) if part.name != "checkpoint")
_LABELS = {
    "n_hidden": "hidden nodes |H|",
    "n_channels": "channels C",
    "n_paths": "paths",
    "image_dim": "dim of the image",
}


@dataclass(frozen=True, eq=False)
class Comparison(Archived, Tabled):
    """A parameter flow and the intrinsic flow from the same point, and how far they part.

    What is loaded has neither its architecture nor its loss, which no file holds; its tables and
    figures are those it had.

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
    about : mapping of str to Any
        What figures and summaries say besides, such as the data and the seed.
    kept : mapping of str to Any
        Of a comparison that was loaded, what it takes an architecture and a loss to compute; they
        are None then.
    """

    _kind = "comparison"

    architecture: Architecture | None
    loss: Loss | None
    manifold_dim: int
    rtol: float
    parameter: Trajectory
    intrinsic: Trajectory
    deviation: OnTimes
    control: Trajectory | None
    control_deviation_over_time: OnTimes | None
    steps: Trajectory | None = None
    rule: TrainingRule | None = None
    control_name: str = ELSEWHERE
    further_controls: Mapping[str, tuple[Trajectory, OnTimes]] = field(default_factory=dict)
    about: Mapping[str, object] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def max_deviation(self) -> float:
        """Largest relative deviation of the two flows; NaN where they share their start alone."""
        return self._largest(self.parameter.t, self.deviation)

    @property
    def control_deviation(self) -> float | None:
        """Largest relative deviation of the negative control, the least of several."""
        every = [self._largest(self.parameter.t, gap) for _, gap in self._controls.values()]
        return min(every, default=None)

    @property
    def _controls(self) -> dict[str, tuple[Trajectory, OnTimes]]:
        first, over_time = self.control, self.control_deviation_over_time
        if first is None or over_time is None:
            return {}
        return {self.control_name: (first, over_time), **self.further_controls}

    @property
    def steps_deviation_over_time(self) -> OnTimes | None:
        """Relative deviation of the steps from the parameter flow, at the times of ``steps``."""
        if self.steps is None or self.architecture is None:
            return self.kept.get("steps_deviation")
        flow = self.parameter.theta[np.searchsorted(self.parameter.t, self.steps.t)]
        gap = self.architecture.lifted_distance(self.steps.theta, flow)
        return gap / self.architecture.lifted_norm(flow)

    @property
    def steps_deviation(self) -> float | None:
        """Largest relative deviation of the steps, where there are any."""
        over_time = self.steps_deviation_over_time
        if self.steps is None or over_time is None:
            return None
        return self._largest(self.steps.t, over_time)

    @property
    def _start(self) -> float:
        """The time of θ₀, at which the states need not have been kept."""
        whole, first = self.parameter.checkpoint, float(self.parameter.t[0])
        if whole is not None:
            return whole.origin.t
        return self.kept.get("summary", {}).get("t_start", first)

    def _largest(self, t: OnTimes, deviation: OnTimes) -> float:
        """Largest of what is a deviation after the start, where there is none."""
        after = len(deviation) and t[len(deviation) - 1] > self._start
        return float(deviation.max()) if after else np.nan

    @property
    def control_speed(self) -> float | None:
        """How many times as fast the loss of the control falls at first, where there is one.

        That is the ratio of the ‖∇ℓ‖² at the two θ over z₀. A control of larger weights runs ahead
        like training with a larger learning rate, and says nothing about which one is better.
        """
        if self.architecture is None or self.loss is None:
            return self.kept.get("summary", {}).get("control_speed")
        if self.control is None or self.control_name != ELSEWHERE:
            return None  # it has the same θ₀
        ends = [self.control.theta[0], self.parameter.theta[0]]
        squares = [np.sum(self.loss.parameter_gradient(t, self.architecture) ** 2) for t in ends]
        return float(squares[0] / squares[1]) if squares[1] > 0 else None

    @property
    def success(self) -> bool:
        """Whether all flows reached the end of the time span."""
        return all(flow.success for flow in self._flows)

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the comparison."""
        return any(flow.interrupted for flow in self._flows)

    @property
    def _columns(self) -> dict[str, Trajectory]:
        """The flows that tables and files have by these names."""
        own = {"parameter": self.parameter, "intrinsic": self.intrinsic}
        return own if self.control is None else {**own, "control": self.control}

    @property
    def _flows(self) -> list[Trajectory]:
        return [self.parameter, self.intrinsic, *(flow for flow, _ in self._controls.values())]

    @door
    def law_drift_over_time(self, trajectory: Trajectory) -> OnTimes:
        """Drift of the conservation laws along a trajectory, as :func:`law_drift` measures it."""
        return law_drift(self._own_architecture(), trajectory, self.rule)

    def _own_architecture(self) -> Architecture:
        if self.architecture is None:
            raise InputError(
                "a comparison that was loaded has no architecture; "
                "law_drift(architecture, trajectory) measures the drift of its trajectories"
            )
        return self.architecture

    @property
    def law_drift(self) -> float:
        """Largest drift of the laws along either flow, relative to ‖θ₀‖²."""
        summary = self.summary()
        return max(summary["law_drift_parameter"], summary["law_drift_intrinsic"])

    @cached_property
    def certificate(self) -> RateCertificate | None:
        """The rate that the laws certify, for two linear layers where there is one."""
        if self.architecture is None or self.loss is None:
            found = self.kept.get("summary", {}).get("certificate")
            return None if found is None else RateCertificate(*found)
        try:
            start = self.parameter.theta[0]
            return rate_certificate(self.architecture, start, self.loss, self.rule)
        except UndefinedError:
            return None

    @cached_property
    def loss_laws(self) -> Any:
        """Linear laws that this loss keeps and others do not, shape=[n_loss_laws, dim]."""
        architecture = self._own_architecture()
        return None if self.loss is None else self.loss.linear_laws(architecture)

    @door
    def loss_law_drift_over_time(self, trajectory: Trajectory) -> OnTimes:
        """Largest drift of the :attr:`loss_laws`, relative to ‖θ₀‖; with a rule, of θ/η."""
        rule = TrainingRule() if self.rule is None else self.rule
        scaled = trajectory.theta / rule.rates(self._own_architecture())
        faded = np.exp(-rule.weight_decay * (trajectory.t - trajectory.t[0]))
        gap = scaled - faded[:, None] * scaled[0]
        drift = np.max(np.abs(self.loss_laws @ gap.T), axis=0, initial=0.0)
        return relative(drift, float(np.linalg.norm(scaled[0])))

    @property
    def loss_law_drift(self) -> float:
        """Largest drift of the laws of this loss along either flow, relative to ‖θ₀‖."""
        summary = self.summary()
        drifts = [summary.get(f"loss_law_drift_{name}") for name in ("parameter", "intrinsic")]
        return max(0.0 if drift is None else drift for drift in drifts)

    def summary(self) -> dict[str, Any]:
        """Collect the figures of the comparison; None stands for what does not apply."""
        if "summary" in self.kept:
            return dict(self.kept["summary"])
        architecture, loss = self._own_architecture(), self.loss
        result: dict[str, Any] = {
            "version": __version__,
            "architecture": repr(architecture),
            "training_loss": repr(loss),
            **self.about,
            "dim": architecture.dim,
            "n_laws": architecture.n_laws,
            "manifold_dim": self.manifold_dim,
            "n_loss_laws": self.loss_laws.shape[0],
            **architecture.describe(),
            "rtol": self.rtol,
            "max_deviation": self.max_deviation,
            "control_deviation": self.control_deviation,
            "control_speed": self.control_speed,
        }
        if self.rule is not None:
            result |= {"rule": str(self.rule)} | {
                f"deviation, {name}": self._largest(self.parameter.t, gap)
                for name, (_, gap) in self._controls.items()
            }
        if self.certificate is not None:
            own = self.certificate
            result["certified_rate"] = own.rate
            result["certificate"] = [own.gap, own.pl_constant, own.first, own.minimum]
        for name, flow in self._columns.items():
            if loss is None:
                break
            scores = loss.scores(flow.theta[-1], architecture)
            result |= {
                f"loss_{name}": float(flow.loss[-1]),
                f"accuracy_{name}": scores.get("accuracy"),
                f"r2_{name}": scores.get("r2"),
                f"law_drift_{name}": float(self.law_drift_over_time(flow).max()),
                f"loss_law_drift_{name}": float(self.loss_law_drift_over_time(flow).max())
                if result["n_loss_laws"]
                else None,
                f"evaluations_{name}": flow.n_evaluations,
                f"seconds_{name}": flow.seconds,
                f"success_{name}": flow.success,
                f"message_{name}": flow.message,
            }
        if self.steps is not None:
            result["steps_deviation"] = self.steps_deviation
            result["law_drift_steps"] = float(self.law_drift_over_time(self.steps).max())
        times = {"t_start": self._start, "t_end": float(self.parameter.t[-1])}
        return result | times | {"n_charts": self.intrinsic.n_charts}

    def table(self) -> "Table":
        """Lay the figures out as a table."""
        summary = self.summary()
        from rich.table import Table  # here, as many never print

        table = Table("", title="Two flows of one training problem", title_justify="left")
        for name in self._columns:
            table.add_column(name if name == "control" else f"{name} flow", justify="right")
        rows = {
            "loss": "final loss",
            "accuracy": "accuracy",
            "r2": "R²",
            "law_drift": "law drift",
            "loss_law_drift": "law drift, this loss",
            "evaluations": "evaluations",
            "seconds": "seconds",
        }
        for key, label in rows.items():
            own = [summary.get(f"{key}_{name}") for name in self._columns]
            if any(value is not None for value in own):
                table.add_row(label, *map(_show, own))
        table.add_section()
        facts: dict[str, object] = {
            "parameters D": summary["dim"],
            "dim of the invariant set": self.manifold_dim,
            "laws of this loss alone": summary.get("n_loss_laws") or None,
            **{label: summary[key] for key, label in _LABELS.items() if key in summary},
            "charts": self.intrinsic.n_charts,
            "largest relative deviation": self.max_deviation,
            "deviation of the steps": summary.get("steps_deviation"),
            "law drift of the steps": summary.get("law_drift_steps"),
            "training rule": summary.get("rule"),
            "rate certified by the laws": summary.get("certified_rate"),
        }
        for label, value in facts.items():
            if value is not None:
                table.add_row(label, "", _show(value))
        if self.control is not None:
            for name, (_, gap) in self._controls.items():
                label = "of the control" if name == ELSEWHERE else f"with {name}"
                largest = self._largest(self.parameter.t, gap)
                table.add_row(f"deviation {label}", "", "", _show(largest))
            if self.control_speed is not None:
                table.add_row(
                    "its loss falls at first", "", "", f"{self.control_speed:.2g} × as fast"
                )
        for flow in self._flows:
            if not flow.success:
                table.add_row("[red]ended early", "", flow.message)
        return table

    def __str__(self) -> str:
        """Return the table as text."""
        return as_text(self.table()) + "\n"

    def __repr__(self) -> str:
        """Say in one line what was compared, and what came of it."""
        return f"Comparison({self.verdict}: {self._subject()}, rtol {self.rtol:g})"

    def _subject(self) -> str:
        """What was trained, on what, from which seed."""
        names = self.kept.get("summary", {})
        family = repr(self.architecture) if self.architecture else names.get("architecture", "")
        loss = repr(self.loss) if self.loss else names.get("training_loss", "")
        told = [(name, self.about[name]) for name in ("data", "seed") if name in self.about]
        said = [f"{value}" if name == "data" else f"{name} {value}" for name, value in told]
        return ", ".join([family, loss, *said])

    def _drift(self) -> FloatArray:
        """Drift of the laws along the parameter flow."""
        if "drift" in self.kept:
            return np.asarray(self.kept["drift"])
        return self.law_drift_over_time(self.parameter)

    def plot(self) -> "Figure":
        """Draw the losses, the deviation, and the drift of the laws along the parameter flow.

        Along the intrinsic flow the laws are kept by construction, which proves nothing.
        """
        from liftflow.flows import plotting

        flows = [(self.parameter, plotting.PARAMETER, "parameter flow")]
        flows.append((self.intrinsic, plotting.INTRINSIC, "intrinsic flow"))
        losses = [plotting.Curve(own.t, own.loss, role, name) for own, role, name in flows]
        if self.certificate is not None:
            times = self.parameter.t
            bound = self.certificate.bound(times - times[0])
            losses.append(plotting.Curve(times, bound, plotting.BOUND, "bound by the laws"))
        # At the start every flow is at the same point: a zero that only stretches the axis.
        begun = int(self.parameter.t[0] <= self._start)
        t, drift = self.parameter.t[begun:], self._drift()[begun:]
        speed = self.control_speed
        largest = f" ≤ {drift.max():.1e}" if drift.size else ""
        apart = [plotting.Curve(t, self.deviation[begun:], plotting.DEVIATION, "intrinsic flow")]
        for style, (name, (flow, over_time)) in zip(":-", self._controls.items(), strict=False):
            role, said = (plotting.CONTROL[0], style), f"control: {name}"
            first = flow is self.control and speed is not None
            fast = f",\nat first {speed:.2g} × as fast" if first else ""
            losses.append(plotting.Curve(flow.t, flow.loss, role, f"{said}{fast}"))
            apart.append(plotting.Curve(t, over_time[begun:], role, said))
        drifts = [plotting.Curve(t, drift, plotting.PARAMETER, "parameter flow")]
        steps, gap = self.steps, self.steps_deviation_over_time
        if steps is not None and gap is not None:
            parts = [(losses, steps.loss), (apart, gap)]
            if self.architecture is not None:
                parts.append((drifts, self.law_drift_over_time(steps)))
            for panel, values in parts:
                own = (steps.t[begun:], values[begun:])
                panel.append(plotting.Curve(*own, plotting.STEPS, "steps"))
        panels = [
            (self.verdict, "loss", losses),
            ("Deviation from the parameter flow", plotting.GAP, apart),
            (f"Solver's drift of the laws{largest}", "‖h(θ(t)) − h(θ₀)‖∞ / ‖θ₀‖²", drifts),
        ]
        return plotting.draw(panels, (13, 4.2), self._subject())

    def _values(self) -> dict[str, Any]:
        flows = self._columns if self.steps is None else {**self._columns, "steps": self.steps}
        further = dict(enumerate(self.further_controls.items()))
        flows |= {f"control-{number}": flow for number, (_, (flow, _)) in further.items()}
        values = {
            f"{name}_{part}": getattr(flow, part) for name, flow in flows.items() for part in _PARTS
        }
        values |= {"deviation": self.deviation, "drift": self._drift(), "rtol": self.rtol}
        if self.control_deviation_over_time is not None:
            values["control_deviation"] = self.control_deviation_over_time
        if self.steps_deviation_over_time is not None:
            values["steps_deviation"] = self.steps_deviation_over_time
        values |= {f"control-{number}_deviation": gap for number, (_, (_, gap)) in further.items()}
        names = [self.control_name, *self.further_controls]
        texts = {"controls": names, "summary": self.summary(), "about": dict(self.about)}
        return values | {name: json.dumps(text) for name, text in texts.items()}

    @classmethod
    def _made(cls, values: dict[str, Any]) -> Self:
        first, *others = json.loads(values["controls"])
        further = {name: f"control-{number}" for number, name in enumerate(others)}
        flows = {
            name: Trajectory(**{part: values[f"{name}_{part}"] for part in _PARTS})
            for name in ("parameter", "intrinsic", "control", "steps", *further.values())
            if f"{name}_t" in values
        }
        summary = json.loads(values["summary"])
        kept = {"summary": summary, "drift": values["drift"]}
        if "steps" in flows:
            kept["steps_deviation"] = values["steps_deviation"]
        return cls(
            architecture=None,
            loss=None,
            manifold_dim=summary["manifold_dim"],
            rtol=values["rtol"],
            parameter=flows["parameter"],
            intrinsic=flows["intrinsic"],
            deviation=values["deviation"],
            control=flows.get("control"),
            control_deviation_over_time=values.get("control_deviation"),
            steps=flows.get("steps"),
            control_name=first,
            further_controls={
                name: (flows[key], values[f"{key}_deviation"]) for name, key in further.items()
            },
            about=json.loads(values["about"]),
            kept=kept,
        )

    @property
    def verdict(self) -> str:
        """Whether the flows agree, in a line: what the figure is called."""
        deviation = self.max_deviation
        if np.isnan(deviation):
            flows = [("parameter", self.parameter), ("intrinsic", self.intrinsic)]
            names = " and the ".join(name for name, flow in flows if flow.t[-1] <= self._start)
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


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
