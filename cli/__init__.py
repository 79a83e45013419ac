"""The command line: compare the flows, decide what holds, run the gallery."""

from liftflow.cli.commands import app as app

__all__ = ["app"]
