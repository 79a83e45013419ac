"""Figures of curves over time, in colours that everyone can tell apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from liftflow import figures
from liftflow.typing import FloatArray, OnTimes

_TINY = 1e-18  # exact zeros stay on a logarithmic axis

PARAMETER = (figures.PARAMETER, "-")
INTRINSIC = (figures.INTRINSIC, "--")
DEVIATION = (figures.INTRINSIC, "-")
CONTROL = (figures.CONTROL, ":")
STEPS = (figures.PURPLE, "-.")
GAP = "‖φ(θ(t)) − z(t)‖ / ‖φ(θ(t))‖"


@dataclass(frozen=True)
class Curve:
    """Positive numbers over time.

    Attributes
    ----------
    t : OnTimes
        Times, of which there may be more than values.
    role : tuple of str
        Colour and style of the line.
    label : str
        For the legend; an empty one is left out.
    """

    t: OnTimes
    values: OnTimes
    role: tuple[str, str]
    label: str = ""


def draw(
    panels: Sequence[tuple[str, str, Sequence[Curve]]], size: tuple[float, float], about: str = ""
) -> Figure:
    """Draw curves on logarithmic axes, side by side, in the style of our figures.

    Parameters
    ----------
    panels : sequence of tuple
        Title, label of the values, and the curves.
    size : tuple of float
        Of the figure, in inches.
    about : str
        What the figure is of: family, data and seed.
    """
    with plt.style.context(figures.style()):
        figure, every = plt.subplots(1, len(panels), figsize=size, squeeze=False)
        for axes, (title, label, curves) in zip(every[0], panels, strict=True):
            for curve in curves:
                values = np.maximum(curve.values, _TINY)
                colour, style = curve.role
                axes.plot(curve.t[: len(values)], values, style, color=colour, label=curve.label)
            axes.set(yscale="log", xlabel="time t", ylabel=label)
            axes.set_title(title)
            axes.grid(visible=True)
            figures.plain_ticks(axes)
            if any(curve.label for curve in curves):
                axes.legend()
        if about:
            figure.suptitle(about, x=0.01, ha="left", fontsize="small")
    return figures.shown_once(figure)


_MOST_LAWS = 12  # lines that can still be told apart


def add_laws(axes: Axes, t: OnTimes, laws: FloatArray, predicted: FloatArray | None) -> None:
    """Draw laws over time, those that drift most where there are too many.

    Parameters
    ----------
    laws, predicted : array, shape=[n_times, n_laws]
        Measured and, where they are predicted, drawn over them.
    """
    count = laws.shape[1]
    shown = np.argsort(-np.ptp(laws, axis=0), kind="stable")[:_MOST_LAWS]
    parts = [("measured", laws, figures.PARAMETER, "-")]
    if predicted is not None:
        parts += [("predicted", predicted, figures.INTRINSIC, "--")]
    for name, values, colour, style in parts:
        lines = axes.plot(t, values[:, shown], style, color=colour)
        for line in lines[:1]:
            line.set_label(name)
    which = f"{len(shown)} of the {count}" if count > len(shown) else "The"
    axes.set(xlabel="time t", ylabel="h(θ(t))")
    axes.set_title(f"{which} conservation laws")
    if len(shown):
        axes.legend()
