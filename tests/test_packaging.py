"""Users see one name, ``liftflow``, and all of its folders."""

import ast
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


@pytest.mark.slow
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


def test_public_names_have_the_homes_that_type_checkers_see():
    """The names are written twice: once for programs that read, once for the one that runs."""
    tree = ast.parse(Path(liftflow.__file__).read_text())
    (seen,) = [node for node in tree.body if isinstance(node, ast.If)]
    homes = {name.asname: node.module.split(".")[1] for node in seen.body for name in node.names}
    assert homes == liftflow._HOMES
    assert {*homes} <= {*dir(liftflow)}


HEAVY = {"numpy", "scipy", "autograd", "geomstats", "networkx", "pandas", "matplotlib", "sklearn"}


def python(code, folder, path=()):
    """Run code in a Python of its own, away from the checkout."""
    paths = [*path, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TERM": "dumb"},
    )


def loaded_by(steps, folder):
    """Return which modules steps load, step by step, in one Python."""
    show = "import sys; print('loaded:', *sys.modules, flush=True)"
    done = python(f"\n{show}\n".join([*steps, ""]), folder)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    found = [{*line} for line in lines if line[:1] == ["loaded:"]]
    return [after - before for before, after in zip([set(), *found], found, strict=False)]


@pytest.mark.slow
def test_what_is_imported_is_what_is_asked_for(tmp_path):
    package, peers, room, everything = loaded_by(
        [
            "import liftflow",
            "import geomstats.backend, networkx",
            "liftflow.architectures.dag; dir(liftflow)",
            "from liftflow import *; compare",
        ],
        tmp_path,
    )
    assert not package & HEAVY
    assert {"geomstats.backend", "networkx", "scipy.sparse"} <= peers
    assert "liftflow.architectures.dag" in room
    assert not room & {"liftflow.criteria", "liftflow.flows", "liftflow.manifolds"}
    assert "liftflow.flows.compare" in everything
    foreign = {name for name in room | everything if not name.startswith("liftflow.")}
    assert not foreign & {"pandas", "matplotlib", "sklearn", "typer"}
    assert len(foreign) < 150  # pandas alone are 400


@pytest.mark.parametrize("words", ["--version", "--help", "compare --help"])
def test_what_the_command_says_at_once_loads_nothing_heavy(words, tmp_path):
    run = f"import sys; sys.argv[1:] = {words.split()}; from liftflow.cli import app"
    (before, after) = loaded_by([run, "app(standalone_mode=False)"], tmp_path)
    assert {"typer", "liftflow.cli.compare"} <= before
    assert not (before | after) & HEAVY


@pytest.mark.parametrize("name", ["_ipython_display_", "no_such_name", "compares"])
def test_a_name_that_is_not_there_is_no_import(name):
    with pytest.raises(AttributeError, match=f"'liftflow' has no attribute '{name}'"):
        getattr(liftflow, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("typer", "--version"),
        ("liftflow.cli.compare", "--help"),
        ("numpy", "classify"),
        ("geomstats", "compare --widths 4-3-3 --t-end .1"),
        (None, "--version"),
    ],
)
def test_ctrl_c_while_modules_load_is_no_traceback(module, words, tmp_path):
    """The signal comes when Python looks for a module; without one, the command just ends."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, fullname, path, target=None):\n"
        f"        if fullname == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
    )
    code = f"import sys; sys.argv[1:] = {words.split()}; from liftflow.cli import app; app()"
    done = python(code, tmp_path, [str(tmp_path)])
    assert done.returncode == (130 if module else 0), done.stderr
    assert "Traceback" not in done.stderr


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
