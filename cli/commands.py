"""The command ``liftflow``: what its commands share, and which there are."""

import io
import os
import re
import sys
from contextlib import suppress
from itertools import pairwise
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from liftflow.cli.classify import classify, laws
from liftflow.cli.compare import compare
from liftflow.cli.gallery import gallery
from liftflow.errors import InputError, LiftflowError
from liftflow.version import __version__


class _Commands(TyperGroup):
    """What all commands share: how they take options, print and end."""

    def main(self, *args: Any, **settings: Any) -> Any:
        """Make ready for any terminal, and for a backend of figures that may not be there."""
        if "matplotlib" not in sys.modules:
            os.environ["MPLBACKEND"] = "Agg"  # figures go to files
        if not os.environ.get("COLUMNS", "").strip("0"):
            os.environ.pop("COLUMNS", None)  # so narrow that nothing would be seen
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **settings)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse options without a value, for a default was not asked for, and contradictions."""
        for before, argument in pairwise(["liftflow", *args]):
            if re.fullmatch(r"(--[\w-]+=)?\s*", argument):
                name = argument.strip() or before
                raise typer.BadParameter(f"nothing is given after {name}; leave it out")
        names = {argument.partition("=")[0] for argument in args}
        opposites = {f"--{name[5:]}": name for name in names if name.startswith("--no-")}
        for name, other in [("--labels", "--numbers"), *opposites.items()]:
            if {name, other} <= names:
                raise typer.BadParameter(f"give {name} or {other}, not both")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Turn what went wrong into a message and an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except (LiftflowError, MemoryError, OSError, RuntimeError) as error:
            if isinstance(error, BrokenPipeError):  # typer ends quietly
                raise
            if not isinstance(error, LiftflowError | MemoryError | OSError):
                if "Unknown backend" not in str(error):
                    raise
                error = InputError(
                    "the environment variable GEOMSTATS_BACKEND must be autograd or numpy, got "
                    f"{os.environ.get('GEOMSTATS_BACKEND')!r}; without it, it is numpy"
                )
            message = Text.assemble((f"{type(error).__name__}:", "red"), f" {error}")
            with suppress(OSError):
                Console(stderr=True).print(message, soft_wrap=True)
            with suppress(OSError):  # what cannot be printed would fail once more at the very end
                sys.stdout.flush()
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    help="Intrinsic training dynamics of networks.",
)
for _command in (gallery, classify, laws, compare):
    app.command()(_command)


def _print_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Intrinsic training dynamics of neural networks."""


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)
