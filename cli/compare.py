"""Train both ways on real data, and see that the two flows are one."""

import json
import math
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

import liftflow
from liftflow.cli.classify import BIASES, LAM, Widths
from liftflow.cli.families import FAMILIES, TASKS, Options, build, read_numbers
from liftflow.errors import InputError, OutputError

if TYPE_CHECKING:
    from liftflow.flows import Comparison, TrainingRule

_FILES = ("trajectories.npz", "summary.json", "comparison.png")


def _folder(path: Path, *names: str) -> Path:
    """Make a folder, and see that files can be written to it: before the hours of training."""
    try:
        with tempfile.TemporaryFile(dir=liftflow.files.make_folder(path)):
            for name in names:
                if (path / name).is_dir():
                    raise IsADirectoryError(f"{name} is a folder there")
            return path
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to the folder {path}: {error}") from error


def compare(
    family: Annotated[str, typer.Option(help=f"{', '.join(FAMILIES)}.")] = "relu",
    data: Annotated[
        str | None,
        typer.Option(
            help="digits, iris, wine, breast-cancer, diabetes, or a CSV file.",
            show_default="iris for relu; diabetes for two-layer, deep; else digits",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Column of a CSV file to predict: its name, or its number from 1.",
            show_default="the last",
        ),
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header",
            help="Whether the first line of a CSV file names the columns.",
            show_default="it must, without numbers",
        ),
    ] = None,
    index_column: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of a CSV file that only names or numbers the rows; may be repeated.",
            show_default="one that looks so is refused",
        ),
    ] = None,
    no_index_column: Annotated[
        bool, typer.Option("--no-index-column", help="All columns of a CSV file are data.")
    ] = False,
    labels: Annotated[
        bool | None,
        typer.Option(
            "--labels/--numbers",
            help="What the targets of a CSV file are.",
            show_default="labels if texts or few whole numbers",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(TASKS)}, for two-layer, deep and ode.",
            show_default="regression; for ode sensing",
        ),
    ] = None,
    widths: Widths = None,
    lam: Annotated[str | None, typer.Option(help=LAM, show_default="0")] = None,
    bias: Annotated[bool, typer.Option(help=BIASES)] = False,
    loss: Annotated[
        str | None, typer.Option(help="mse or cross-entropy; relu.", show_default="by the targets")
    ] = None,
    t_end: Annotated[float, typer.Option(help="Time to train for.")] = 10.0,
    rtol: Annotated[float, typer.Option(help="Relative tolerance of both flows.")] = 1e-6,
    atol: Annotated[
        float | None, typer.Option(help="Absolute tolerance.", show_default="rtol / 1000")
    ] = None,
    method: Annotated[str, typer.Option(help="Method of scipy's solve_ivp.")] = "RK45",
    coordinates: Annotated[str, typer.Option(help="auto, full or basis.")] = "auto",
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the initial point and of sensed data.")
    ] = 0,
    control: Annotated[
        bool, typer.Option("--control", help="Add the negative control, with other laws.")
    ] = False,
    learning_rates: Annotated[
        str | None,
        typer.Option(
            help="Learning rates: one for all, or one per block of θ joined by commas; linear "
            "families then start where θ₀/√η is relaxed balanced.",
            show_default="1",
        ),
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Weight decay λ.")] = 0.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the figure, trajectories and summary.")
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(help="Folder for checkpoints; a run that was stopped goes on from there."),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Progress bars, after a few seconds.")] = True,
) -> None:
    """Train by both flows on all samples of a problem, and compare them."""
    if not 0 < t_end < math.inf:
        raise InputError(f"--t-end must be a positive number, got {t_end}")
    index = False if no_index_column else index_column or None
    options = Options(data, task, widths, lam, bias, loss, seed, target, header, index, labels)
    folder = None if out is None else _folder(out, *_FILES)
    about: dict[str, Any] = {}

    def say(line: str) -> None:
        with suppress(OSError):  # who does not listen is no reason to stop
            typer.echo(line)

    run = liftflow.compare  # which loads all that a run needs, before the first word
    start, objective = build(family, options, say, about)
    rule = _rule(learning_rates, weight_decay)
    if rule is not None and not isinstance(start.architecture, liftflow.ReLUNetwork):
        # What is to be relaxed balanced is θ₀/√η.
        units = rule.rates(start.architecture) ** 0.5
        start = liftflow.InvariantSet(start.architecture, units * start.theta0)
    comparison = run(
        start,
        objective,
        (0.0, t_end),
        rtol=rtol,
        atol=atol,
        method=method,
        coordinates=coordinates,
        control=control,
        progress=None if progress else False,
        checkpoints=None if checkpoints is None else _folder(checkpoints),
        rule=rule,
        about=about,
    )
    try:
        if folder is not None:
            _write(comparison, folder)
    finally:
        _print(comparison.table())
    if folder is not None:
        # A path has no markup in it, and is not to be broken.
        written = f"comparison.png, trajectories.npz and summary.json are in {folder}"
        _print(Text(written), soft_wrap=True)
    if not comparison.success:
        raise typer.Exit(130 if comparison.interrupted else 1)


def _rule(rates: str | None, decay: float) -> "TrainingRule | None":
    """Make the rule that was asked for, if any."""
    numbers = None if rates is None else read_numbers(rates, ",", "learning rates", float)
    if numbers is None and decay == 0.0:
        return None
    return liftflow.TrainingRule(numbers[0] if numbers and len(numbers) == 1 else numbers, decay)


def _print(what: object, **style: Any) -> None:
    """Print, if somebody listens: rich would end the program with the code 1 where nobody does."""
    with suppress(BrokenPipeError, SystemExit):
        Console().print(what, **style)


def _write(comparison: "Comparison", folder: Path) -> None:
    """Write the results, the numbers before the figure, each file whole or not at all."""
    comparison.save(folder / "trajectories.npz")
    summary = liftflow.files.plain(comparison.summary())
    with liftflow.files.replacing(folder / "summary.json") as file:
        file.write((json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
    import matplotlib.pyplot as plt

    with (
        liftflow.files.replacing(folder / "comparison.png") as file,
        plt.rc_context({"savefig.dpi": 150}),
    ):
        figure = comparison.plot()
        figure.savefig(file, format="png")
        plt.close(figure)
