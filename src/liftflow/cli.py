"""The command line: train both ways on real data, and see that the two flows are one."""

import json
import math
import tempfile
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from liftflow import __version__, cli_criteria
from liftflow.data import NAMES
from liftflow.errors import LiftflowError, OutputError
from liftflow.flows import Comparison
from liftflow.flows import compare as compare_flows
from liftflow.gallery_cli import gallery
from liftflow.problems import FAMILIES, TASKS, Options, build

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Intrinsic training dynamics of networks."
)
console = Console()
app.command()(gallery)

app.command()(cli_criteria.classify)
app.command()(cli_criteria.laws)


@app.callback()
def main() -> None:
    """Intrinsic training dynamics of neural networks."""


@app.command()
def version() -> None:
    """Print the version."""
    console.print(__version__)


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # before the hours of training, not after
            return path
    except OSError as error:
        raise OutputError(f"cannot write to the folder {path}: {error}") from error


@app.command()
def compare(
    family: Annotated[str, typer.Option(help=f"{', '.join(FAMILIES)}.")] = "relu",
    data: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(NAMES)}, or a CSV file with the target last.",
            show_default="iris for relu, else diabetes",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(TASKS)}, for two-layer, deep and ode.",
            show_default="regression; for ode sensing",
        ),
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(
            help="Layer widths from input to output, like 64-32-10; for ode the size and the "
            "number of steps; for attention d_model, d_head and the number of heads.",
            show_default="by family",
        ),
    ] = None,
    lam: Annotated[
        str | None,
        typer.Option(
            help="λ of relaxed balancedness: one for all, or several joined by commas; not for "
            "relu.",
            show_default="0",
        ),
    ] = None,
    bias: Annotated[bool, typer.Option(help="Biases on hidden and output nodes; relu.")] = False,
    loss: Annotated[
        str | None,
        typer.Option(help="mse or cross-entropy; relu.", show_default="by the targets"),
    ] = None,
    t_end: Annotated[float, typer.Option(help="Time to train for.")] = 10.0,
    rtol: Annotated[float, typer.Option(help="Relative tolerance of both flows.")] = 1e-5,
    atol: Annotated[
        float | None, typer.Option(help="Absolute tolerance.", show_default="rtol / 100")
    ] = None,
    method: Annotated[str, typer.Option(help="Method of scipy's solve_ivp.")] = "RK45",
    coordinates: Annotated[str, typer.Option(help="auto, full or basis.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the initial point and of sensed data.")] = 0,
    control: Annotated[
        bool, typer.Option("--control", help="Add the negative control, with other laws.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the figure, trajectories and summary.")
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(help="Folder for checkpoints; a run that was stopped goes on from there."),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Progress bars.")] = True,
) -> None:
    """Train by both flows on all samples of a problem, and compare them."""
    try:
        folder = None if out is None else _folder(out)
        options = Options(data, task, widths, lam, bias, loss, seed)
        start, objective = build(family, options)
        comparison = compare_flows(
            start,
            objective,
            (0.0, t_end),
            rtol=rtol,
            atol=rtol / 100 if atol is None else atol,
            method=method,
            coordinates=coordinates,
            control=control,
            progress=progress and console.is_terminal,
            checkpoints=None if checkpoints is None else _folder(checkpoints),
        )
        console.print(comparison.table())
        if folder is not None:
            _write(comparison, folder)
            # A path has no markup in it, and is not to be broken.
            written = f"comparison.png, trajectories.npz and summary.json are in {folder}"
            console.print(Text(written), soft_wrap=True)
    except LiftflowError as error:
        message = Text.assemble((f"{type(error).__name__}:", "red"), f" {error}")
        Console(stderr=True).print(message, soft_wrap=True)
        raise typer.Exit(2) from None
    if not comparison.success:
        raise typer.Exit(1)


def _write(comparison: Comparison, folder: Path) -> None:
    flows = {"parameter": comparison.parameter, "intrinsic": comparison.intrinsic}
    if comparison.control is not None:
        flows["control"] = comparison.control
    arrays = {
        f"{name}_{part}": getattr(flow, part)
        for name, flow in flows.items()
        for part in ("t", "y", "theta", "loss")
    }
    try:
        with mpl.rc_context({"savefig.dpi": 150}):
            figure = comparison.plot()
            figure.savefig(folder / "comparison.png")
            plt.close(figure)
        np.savez_compressed(folder / "trajectories.npz", deviation=comparison.deviation, **arrays)
        summary = {key: _strict(value) for key, value in comparison.summary().items()}
        text = json.dumps(summary, indent=2, allow_nan=False)
        (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error}") from error


def _strict(value: Any) -> Any:
    """Return what JSON has a word for: NaN and infinity become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
