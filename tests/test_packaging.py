"""Users see one name, ``liftflow``, and all of its folders."""

import importlib
import importlib.util
import os
import pkgutil
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

import pytest

import liftflow
from liftflow.moved import MOVED

ROOT = Path(__file__).parents[1]
FOLDERS = ["architectures", "cli", "criteria", "flows", "gallery", "losses", "manifolds", "metrics"]


@pytest.mark.parametrize("name", FOLDERS)
def test_folder_is_in_the_package(name):
    assert importlib.util.find_spec(f"liftflow.{name}") is not None


@pytest.mark.parametrize("name", [*FOLDERS, "tests"])
def test_folder_is_not_a_top_level_name(name, tmp_path):
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({name!r}) is not None)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_the_rooms_are_links():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: an unpacked sdist has real folders in src/liftflow")
    paths = (ROOT / "src" / "liftflow").iterdir()
    links = {path.name: os.readlink(path) for path in paths if path.is_symlink()}
    assert links == {name: f"../../{name}" for name in FOLDERS}
    assert all((ROOT / name / "__init__.py").is_file() for name in FOLDERS)


def test_the_fallback_maps_the_same_folders():
    assert f"FOLDERS = {FOLDERS}".replace("'", '"') in (ROOT / "setup.py").read_text()


def test_every_module_imports():
    names = [m.name for m in pkgutil.walk_packages(liftflow.__path__, "liftflow.")]
    names = [
        name for name in names if not name.startswith(("liftflow.gallery.plot_", "liftflow.torch"))
    ]
    assert {f"liftflow.{name}" for name in FOLDERS} <= {*names}
    for name in names:
        importlib.import_module(name)


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_what_moved_is_the_same_module_under_its_old_name(old, new):
    module = importlib.import_module(old)
    assert module is importlib.import_module(new)
    assert module.__spec__.name == module.__name__ == new
    assert (
        getattr(importlib.import_module(old.rpartition(".")[0]), old.rpartition(".")[2]) is module
    )


def test_modules_that_never_were_are_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("liftflow.matrix_loss")


def test_what_moved_costs_nothing_until_it_is_asked_for():
    code = "import sys, liftflow; sys.exit('typer' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = (
        "from liftflow.matrix_losses import attention_loss; from liftflow.cli_criteria import laws"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_that_of_the_project():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == (
        liftflow.__version__
    )


def test_public_names_exist():
    assert len(set(liftflow.__all__)) == len(liftflow.__all__)
    for name in liftflow.__all__:
        assert hasattr(liftflow, name), name


def test_types_are_shipped():
    assert files("liftflow").joinpath("py.typed").is_file()


def test_console_script():
    (script,) = entry_points(group="console_scripts", name="liftflow")
    assert script.value == "liftflow.cli:app"
    assert callable(script.load())


def test_ruff_bans_every_room_as_a_top_level_name():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    banned = config["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert {*FOLDERS} <= banned.keys()
    assert all(rule["msg"] == f"import liftflow.{name}" for name, rule in banned.items())
