"""Figures of curves over time, in colours that everyone can tell apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from liftflow import figures
from liftflow.drawing import plot_values
from liftflow.typing import FloatArray, OnTimes

PARAMETER = (figures.PARAMETER, "-")
INTRINSIC = (figures.INTRINSIC, "--")
DEVIATION = (figures.INTRINSIC, "-")
CONTROL = (figures.CONTROL, ":")
BOUND = (figures.GREY, "-.")
STEPS = (figures.PURPLE, "-.")
GAP = "‖φ(θ(t)) − z(t)‖ / ‖φ(θ(t))‖"


@dataclass(frozen=True)
class Curve:
    """Numbers over time.

    Attributes
    ----------
    t : OnTimes
        Times, of which there may be more than values.
    """

    t: OnTimes
    values: OnTimes
    role: tuple[str, str]
    label: str = ""


def draw(
    panels: Sequence[tuple[str, str, Sequence[Curve]]], size: tuple[float, float], about: str = ""
) -> Figure:
    """Draw curves side by side, in the style of our figures; on logarithmic axes where they can be.

    Parameters
    ----------
    panels : sequence of tuple
        Title, label of the values, and the curves.
    """
    with plt.style.context(figures.style()):
        figure, every = plt.subplots(1, len(panels), figsize=size, squeeze=False)
        for axes, (title, label, curves) in zip(every[0], panels, strict=True):
            drawn = []
            for curve in curves:
                own = {"color": curve.role[0], "linestyle": curve.role[1], "label": curve.label}
                count = min(len(curve.t), len(curve.values))
                drawn.append((curve.t[:count], curve.values[:count], own))
            plot_values(axes, drawn)
            axes.set(xlabel="time t", ylabel=label, title=title)
            axes.grid(visible=True)
            if any(curve.label for curve in curves):
                axes.legend()
        if about:
            figure.suptitle(about, x=0.01, ha="left", fontsize="small")
    return figures.shown_once(figure)


_MOST = 12  # lines that can still be told apart


def draw_run(
    run: Mapping[str, FloatArray],
    role: tuple[str, str],
    message: str,
    laws: tuple[FloatArray, FloatArray | None] | None = None,
) -> Figure:
    """Draw the loss and the speed of a run, and what moves most of its state or of its laws.

    Parameters
    ----------
    run : mapping of str to array
        ``t``, ``loss`` and the state at these times, by the name of its variable.
    laws : tuple of array, shape=[n_times, n_laws]
        Measured and, where they are predicted, drawn over them.
    """
    (t, loss), (name, *_) = (run["t"], run["loss"]), [key for key in run if key not in "t loss"]
    states = run[name].reshape(len(t), run[name][:1].size)
    moved, took = np.linalg.norm(np.diff(states, axis=0), axis=1), np.diff(t)
    steps = np.divide(moved, took, out=np.full(len(took), np.nan), where=took > 0)  # NaN: a jump
    values, predicted = (states, None) if laws is None else laws
    most = np.argsort(-np.ptp(values, axis=0), kind="stable")[:_MOST] if len(t) else np.arange(0)
    with plt.style.context(figures.style()):
        figure, axes = plt.subplots(1, 3, figsize=(12, 3.8))
        for panel, own in zip(axes, ((t, loss), ((t[1:] + t[:-1]) / 2, steps)), strict=False):
            plot_values(panel, [(*own, {"color": role[0]})])
        lines = axes[2].plot(t, values[:, most], color=role[0], alpha=0.6, linewidth=1)
        if predicted is not None and lines:
            lines[0].set_label("measured")
            axes[2].plot(t, predicted[:, most], "--", color=INTRINSIC[0])[0].set_label("predicted")
            axes[2].legend()
        lost = f": {loss[0]:.3g} → {loss[-1]:.3g}" if np.isfinite(loss).any() else ""
        axes[0].set(title=f"Loss{lost}", ylabel="loss")
        axes[1].set(title=f"Speed of {name}", ylabel=f"‖{name}'‖")
        of = f"{len(most)} of {values.shape[1]:,}"
        what, label = (f"Entries of {name}", f"{name}ᵢ") if laws is None else ("Laws", "h(θ(t))")
        axes[2].set(title=f"{what} that move most, {of}", ylabel=label)
        for panel in axes:
            panel.set_xlabel("time t")
        figure.suptitle(message, x=0.01, ha="left", fontsize="small")
    return figures.shown_once(figure)
