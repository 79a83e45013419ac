"""Figures of flows, in colours that everyone can tell apart."""

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from liftflow.figures import CONTROL, INTRINSIC, PARAMETER
from liftflow.flows.trajectory import Trajectory
from liftflow.typing import FloatArray

if TYPE_CHECKING:
    from liftflow.flows.compare import Comparison
    from liftflow.flows.sweep import Sweep

_TINY = 1e-18  # exact zeros stay on a logarithmic axis


def _log_panel(axes: Axes, title: str, label: str) -> None:
    axes.set_yscale("log")
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_xlabel("time t")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)


def _line(
    axes: Axes, t: FloatArray, values: FloatArray, colour: str, style: str, label: str
) -> None:
    axes.plot(t[: len(values)], np.maximum(values, _TINY), style, color=colour, label=label)


def _agree(deviation: float, rtol: float, control: float | None) -> bool:
    """Whether a deviation is that of solvers, and not one of flows.

    Kinks of the loss take away up to half of a solver's order, so √rtol may be had by agreement. A
    control that parts by less than ten times as much does not tell the one from the other.
    """
    return deviation <= np.sqrt(rtol) and (control is None or not 10 * deviation > control)


def _title(comparison: "Comparison") -> str:
    deviation = comparison.max_deviation
    if np.isnan(deviation):
        flows = {"parameter": comparison.parameter, "intrinsic": comparison.intrinsic}
        names = " and the ".join(name for name, flow in flows.items() if len(flow.t) < 2)
        return f"Flows not compared: the {names} flow ended where it began"
    agree = _agree(deviation, comparison.rtol, comparison.control_deviation)
    last = comparison.parameter.t[len(comparison.deviation) - 1]
    until = "" if comparison.success else f", up to t = {last:.3g}"
    return f"Flows {'agree to' if agree else 'part by'} {deviation:.1e}{until}"


def _title_of_runs(sweep: "Sweep") -> str:
    everything = [run.summary for run in sweep.runs]
    summaries = [own for own in everything if not np.isnan(own["max_deviation"])]
    parted = [
        own["max_deviation"]
        for own in summaries
        if not _agree(own["max_deviation"], own["rtol"], own["control_deviation"])
    ]
    n_early = sum(not (own["success_parameter"] and own["success_intrinsic"]) for own in everything)
    early = f", {n_early} ended early" if n_early else ""
    if everything and not summaries:
        return f"Flows not compared in {len(everything)} runs{early}"
    if parted:
        return f"In {len(parted)} of {len(summaries)} runs flows part, by {max(parted):.1e}{early}"
    largest = max((own["max_deviation"] for own in summaries), default=0.0)
    return f"In {len(summaries)} runs flows agree to {largest:.1e}{early}"


def plot_trajectory(trajectory: Trajectory) -> Figure:
    """Draw the loss of one flow over time."""
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    _line(axes, trajectory.t, trajectory.loss, PARAMETER, "-", "loss")
    _log_panel(axes, trajectory.message, "loss")
    return figure


def plot_comparison(comparison: "Comparison") -> Figure:
    """Draw loss, relative deviation and law drift of two flows over time."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    parameter, intrinsic = comparison.parameter, comparison.intrinsic
    _line(left, parameter.t, parameter.loss, PARAMETER, "-", "parameter flow")
    _line(left, intrinsic.t, intrinsic.loss, INTRINSIC, "--", "intrinsic flow")
    # At the start every flow is at the same point: a zero that only stretches the axis.
    _line(middle, parameter.t[1:], comparison.deviation[1:], INTRINSIC, "-", "intrinsic flow")
    over_time = comparison.control_deviation_over_time
    if comparison.control is not None and over_time is not None:
        _line(left, comparison.control.t, comparison.control.loss, CONTROL, ":", "control")
        _line(middle, parameter.t[1:], over_time[1:], CONTROL, ":", "control: laws of another θ₀")
    for flow, colour, style, label in (
        (parameter, PARAMETER, "-", "parameter flow"),
        (intrinsic, INTRINSIC, "--", "intrinsic flow"),
    ):
        _line(right, flow.t[1:], comparison.law_drift_over_time(flow)[1:], colour, style, label)
    _log_panel(left, _title(comparison), "loss")
    _log_panel(middle, "Deviation from the parameter flow", "‖φ(θ(t)) − z(t)‖ / ‖φ(θ(t))‖")
    _log_panel(right, "Drift of the conservation laws", "‖h(θ(t)) − h(θ₀)‖∞ / ‖θ₀‖²")
    for axes in (left, middle, right):
        axes.legend(frameon=False)
    return figure


def plot_sweep(sweep: "Sweep") -> Figure:
    """Draw loss and relative deviation of every run of an ensemble over time."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for number, run in enumerate(sweep.runs):
        labels = ("parameter flow", "intrinsic flow", "control: laws of another θ₀")
        by_theta, by_z, control = labels if number == 0 else ("", "", "")
        _line(left, run.t, run.loss_parameter[: len(run.t)], PARAMETER, "-", by_theta)
        _line(left, run.t, run.loss_intrinsic[: len(run.t)], INTRINSIC, "--", by_z)
        _line(right, run.t[1:], run.deviation[1:], INTRINSIC, "-", by_z)
        if run.control_deviation.size:
            size = len(run.control_deviation)
            _line(right, run.t[1:size], run.control_deviation[1:], CONTROL, ":", control)
    _log_panel(left, _title_of_runs(sweep), "loss")
    _log_panel(right, "Deviation from the parameter flow", "‖φ(θ(t)) − z(t)‖ / ‖φ(θ(t))‖")
    for axes in (left, right):
        axes.legend(frameon=False)
    return figure
