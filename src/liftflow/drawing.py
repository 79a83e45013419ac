"""Figures of what is no curve over time: verdicts, laws, networks, invariant sets, spectra."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from liftflow import figures


def draw_findings(findings: Sequence[Any]) -> Figure:
    """Draw findings of the criteria beside each other: verdicts, counts and margins.

    Parameters
    ----------
    findings : sequence of Finding
        Each becomes a field, blue where it holds.
    """
    looks = {"holds": (figures.HOLDS, "✓"), "fails": (figures.FAILS, "✗")}
    with plt.style.context(figures.style()):
        figure, axes = plt.subplots(figsize=(1.4 * len(findings), 2.0))
        for place, finding in enumerate(findings):
            colour, mark = looks.get(str(finding.verdict), (figures.OPEN, "?"))
            text = f"{finding.value}" if isinstance(finding.value, int) else mark
            axes.add_patch(plt.Rectangle((place + 0.03, 0), 0.94, 1, color=colour))
            axes.text(place + 0.5, 0.5, text, ha="center", va="center", color="white")
            axes.text(place + 0.5, 1.15, finding.name.replace(" ", "\n"), ha="center")
            axes.text(place + 0.5, -0.4, f"margin {finding.margin:.0e}", ha="center", size=9)
        axes.set(xlim=(0, len(findings)), ylim=(-0.6, 2.0))
        axes.set_axis_off()
    return figures.shown_once(figure)


def draw_coefficients(laws: Sequence[dict[str, float]], title: str) -> Figure:
    """Draw polynomials as a matrix: a row for each, a column for each monomial.

    Parameters
    ----------
    laws : sequence of dict of str to float
        Coefficients by the names of their monomials.
    """
    names = list(dict.fromkeys(name for law in laws for name in law))
    shape = np.clip((2.0 + 0.35 * len(names), 1.8 + 0.35 * len(laws)), (5, 2), (16, 12))
    with plt.style.context(figures.style()):
        figure, axes = plt.subplots(figsize=tuple(shape))
        if names:
            table = np.array([[law.get(name, 0.0) for name in names] for law in laws])
            size = np.abs(table).max()
            image = axes.imshow(table, cmap=figures.DIVERGING, vmin=-size, vmax=size)
            figure.colorbar(image, ax=axes, label="coefficient")
            axes.set_xticks(range(len(names)), names, rotation=90, fontsize="small")
            axes.set_yticks(range(len(laws)), [f"law {row + 1}" for row in range(len(laws))])
        axes.set_title(title, fontsize="small")
    return figures.shown_once(figure)
