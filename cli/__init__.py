"""The command line: compare the flows, decide what holds, run the gallery."""

try:
    from liftflow.cli.commands import app as app
except KeyboardInterrupt:  # nothing has begun yet
    raise SystemExit(130) from None

__all__ = ["app"]
