"""Every gallery script runs without a display, draws something, and can fail."""

import runpy
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from liftflow import ReLUNetwork

GALLERY = Path(__file__).parents[1] / "gallery"
SCRIPTS = sorted(GALLERY.glob("plot_*.py"))


@pytest.fixture
def run(monkeypatch):
    """Run a script as a user would, and leave no figure and no setting behind."""
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: None)
    plt.close("all")
    with mpl.rc_context():
        yield lambda script: runpy.run_path(str(script), run_name="__main__")
    plt.close("all")


def test_the_gallery_is_found():
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_runs_and_draws(script, run):
    run(script)
    figures = [plt.figure(number) for number in plt.get_fignums()]
    assert figures, "no figure was made"
    for figure in figures:
        figure.canvas.draw()
        assert figure.axes, "a figure without axes"
        assert all(axes.has_data() for axes in figure.axes), "empty axes"


def test_quick_start_fails_with_wrong_laws(monkeypatch, run):
    laws = ReLUNetwork.conservation_laws
    monkeypatch.setattr(
        ReLUNetwork, "conservation_laws", lambda self, theta: 0.5 * laws(self, theta)
    )
    with pytest.raises(AssertionError, match="z needs more than its metric"):
        run(GALLERY / "plot_01_quick_start.py")


def test_quick_start_fails_with_a_control_that_agrees(monkeypatch, run):
    monkeypatch.setattr(ReLUNetwork, "rescale", lambda self, theta, log_factors: theta)
    with pytest.raises(AssertionError, match="any metric would do"):
        run(GALLERY / "plot_01_quick_start.py")
