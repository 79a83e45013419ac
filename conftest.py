"""Doctests run under the package's own names, whichever path was given."""

import gc
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

os.environ.setdefault("GEOMSTATS_BACKEND", "autograd")  # read at geomstats' first import
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).parent
PACKAGE = ROOT / "src" / "liftflow"
FOLDERS = [link.name for link in PACKAGE.iterdir() if link.is_symlink()]
collect_ignore = [*FOLDERS, "benchmarks", "build", "setup.py", "tests/smoke_wheel.py"]
if find_spec("torch") is None:  # an extra; make test-torch has it
    collect_ignore += ["src/liftflow/torch", "src/liftflow/gallery/torch", "tests/pytorch"]
collect_ignore_glob = ["src/liftflow/gallery/plot_*.py"]  # tests/test_gallery.py runs them


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Keep the collector of garbage from what stays: thousands of tests, and all modules."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """Begin with the slow tests, so that none is left to one worker alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_configure(config):
    """Read ``pytest manifolds/sphere.py`` as ``pytest src/liftflow/manifolds/sphere.py``."""
    for number, arg in enumerate(config.args):
        path = config.invocation_params.dir / arg
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[:1] in [
            (folder,) for folder in FOLDERS
        ]:
            config.args[number] = str(PACKAGE / path.relative_to(ROOT))
