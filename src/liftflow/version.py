"""The version, which pyproject.toml has: of the checkout, or else of what is installed."""

import re
from importlib.metadata import version
from pathlib import Path


def _of_checkout() -> str | None:
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    text = project.read_text(encoding="utf-8") if project.is_file() else ""
    if not re.search(r'^name = "liftflow"$', text, re.MULTILINE):
        return None
    found = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    return found[1] if found else None


__version__: str = _of_checkout() or version("liftflow")
