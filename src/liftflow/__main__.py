"""``python -m liftflow`` is the ``liftflow`` command."""

from liftflow.cli import app

if __name__ == "__main__":
    app()
