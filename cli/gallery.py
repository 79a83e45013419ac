"""The command ``liftflow gallery``: list the scripts of the gallery, or run them."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import liftflow

if TYPE_CHECKING:
    from liftflow.gallery import Outcome, Script


def gallery(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Which to run, like 01 or quick_start."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Run all of them.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("liftflow-gallery"),
    dark: Annotated[bool, typer.Option("--dark", help="Light ink on a dark ground.")] = False,
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="Scripts to run at a time.")] = 1,
) -> None:
    """List the scripts of the gallery, or run some and save their figures."""
    from liftflow.gallery import contact_sheet, find, scripts  # which loads matplotlib

    console = Console()
    if everything and names:
        raise typer.BadParameter("give names or --all, not both")
    chosen = scripts() if everything else [find(name) for name in names or ()]
    if not chosen:
        table = Table("name", "claim")
        for script in scripts():
            table.add_row(script.name, script.title)
        console.print(table)
        console.print("Run one with: liftflow gallery NAME")
        return
    outcomes = _run(console, chosen, liftflow.files.make_folder(out), dark, jobs)
    if len(outcomes) > 1:
        contact_sheet(outcomes, out / "contact_sheet.png", dark)
        console.print(_summary(outcomes))
    for outcome in outcomes:
        if len(outcomes) == 1 or not outcome.success:
            console.print(Text(outcome.output.rstrip()), soft_wrap=True)
    console.print(Text(f"The figures are in {out}"), soft_wrap=True)
    if not all(outcome.success for outcome in outcomes):
        raise typer.Exit(1)


def _run(
    console: Console, chosen: "list[Script]", out: Path, dark: bool, jobs: int
) -> "list[Outcome]":
    from rich.progress import Progress

    from liftflow.gallery import run_all

    outcomes = []
    with (
        Progress(console=console, disable=not console.is_terminal, transient=True) as progress,
        closing(run_all(chosen, out, dark, jobs)) as running,
    ):
        bar = progress.add_task("gallery", total=len(chosen))
        for outcome in running:
            outcomes.append(outcome)
            progress.advance(bar)
            line = f"  {outcome.seconds:5.1f} s  {outcome.script.name}"
            progress.console.print(Text.assemble(_verdict(outcome), line), soft_wrap=True)
    return sorted(outcomes, key=lambda outcome: outcome.script.name)


def _verdict(outcome: "Outcome") -> Text:
    return Text("holds", "green") if outcome.success else Text("FAILS", "red")


def _summary(outcomes: "list[Outcome]") -> Table:
    table = Table("name", "claim", "seconds", "pictures", "why")
    for outcome in outcomes:
        table.add_row(
            outcome.script.name,
            _verdict(outcome),
            f"{outcome.seconds:.1f}",
            str(len(outcome.files)),
            "" if outcome.success else Text(outcome.reason),
        )
    return table
