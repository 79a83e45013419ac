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

ROOT = Path(__file__).parents[1]
FOLDERS = ["architectures", "criteria", "flows", "gallery", "manifolds", "metrics"]


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
    names = [name for name in names if not name.startswith("liftflow.gallery.plot_")]
    assert {f"liftflow.{name}" for name in FOLDERS} <= {*names}
    for name in names:
        importlib.import_module(name)


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
