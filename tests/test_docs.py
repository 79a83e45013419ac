"""What the prose says is so: examples run, recipes work, names, links and sources exist."""

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from liftflow import InvariantSet, NetworkLoss, ReLUNetwork, compare, intrinsic_cometric
from liftflow.architectures import TwoLayerLinear
from liftflow.data import load
from liftflow.errors import MissingExtraError
from liftflow.flows import DiagonalPotential

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("*.md"))
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = CONFIG["project"]


def read(name):
    return (ROOT / name).read_text()


def blocks(text, language):
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def printed_by(code, folder):
    """Run code as a user would, in a Python of its own and away from the checkout."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def sources():
    """Return the Python files of the package and the gallery."""
    rooms = [path for path in (ROOT / "src" / "liftflow").iterdir() if path.is_dir()]
    files = [path for room in rooms for path in room.resolve().rglob("*.py")]
    return [*files, *(ROOT / "src").rglob("*.py"), *(ROOT / "gallery").glob("*.py")]


checkout = pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="not a checkout: an unpacked sdist has other folders"
)


def tracked_files():
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


# The examples.


@pytest.mark.slow
def test_the_example_prints_what_the_readme_shows(tmp_path):
    readme = read("README.md")
    (code,), (shown,) = blocks(readme, "python"), blocks(readme, "text")
    assert printed_by(code, tmp_path) == shown


def indented(text, directive):
    """Return the blocks under a directive of reStructuredText."""
    pattern = rf"^\.\. {directive}\n(?:   :.*\n)*\n((?:   .*\n|\n)+)"
    return [textwrap.dedent(found) for found in re.findall(pattern, text, re.MULTILINE)]


@pytest.mark.slow
def test_the_start_page_prints_what_it_shows(tmp_path):
    page = read("docs/start.rst")
    shown = indented(page, "code-block:: text")
    assert len(shown) == 4
    printed = printed_by("\n".join(indented(page, "plot::")), tmp_path)
    assert printed == "".join(f"{block.strip()}\n" for block in shown)


@pytest.mark.slow
def test_the_training_page_prints_what_it_shows(tmp_path, monkeypatch):
    """And a transformer-like product is compared in at most twelve lines, on either backend."""
    monkeypatch.setenv("GEOMSTATS_BACKEND", "numpy")
    page = read("docs/training.md")
    code = blocks(page, "python")
    assert printed_by("\n".join(code), tmp_path) == "".join(blocks(page, "text"))
    lines = code[0].splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith("attention, mlp ="))
    last = next(k for k, line in enumerate(lines) if line.startswith("run ="))
    assert last - first + 1 <= 12


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("src/liftflow/linalg.py", True),
        ("src/liftflow/flows/compare.py", True),  # in a room, behind a link
        ("docs/gif_scraper.py", True),
        ("constraints.txt", True),
        ("src/liftflow/gallery/plot_01_quick_start.py", False),  # sphinx-gallery sees to it
        ("docs/index.md", False),
    ],
)
def test_figures_are_drawn_again_when_the_library_changed(tmp_path, file, again):
    names = ["src/liftflow/linalg.py", "docs/gif_scraper.py", "docs/index.md", "constraints.txt"]
    names += ["flows/compare.py", "gallery/plot_01_quick_start.py", "docs/gallery/.library"]
    for age, name in enumerate(["Makefile", *names]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(read("Makefile") if name == "Makefile" else "")
        os.utime(path, (age, age))
    for room in ("flows", "gallery"):
        (tmp_path / "src/liftflow" / room).symlink_to(f"../../{room}")
    os.utime(tmp_path / file, (100, 100))
    command = ["make", "-n", "docs/gallery/.library"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert ("rm -rf docs/gallery" in said) == again


def test_every_room_is_in_the_api_pages():
    rooms = [path.name for path in (ROOT / "src" / "liftflow").iterdir() if path.is_symlink()]
    missing = [room for room in rooms if f"   liftflow.{room}\n" not in read("docs/api.rst")]
    assert not missing


def test_the_example_is_short():
    (code,) = blocks(read("README.md"), "python")
    lines = [line for line in code.splitlines() if line]
    assert len(lines) <= 15


@pytest.mark.slow
def test_the_recipes_keep_the_contracts(tmp_path):
    recipes = blocks(read("CONTRIBUTING.md"), "python")
    assert all(len(recipe.splitlines()) <= 10 for recipe in recipes)
    assert "check_metric" in recipes[-1]
    printed_by("\n".join(recipes), tmp_path)


@pytest.mark.slow
def test_a_wrong_recipe_breaks_the_contracts(tmp_path):
    recipes = "\n".join(blocks(read("CONTRIBUTING.md"), "python"))
    wrong = recipes.replace("4 * z**2", "5 * z**2")
    assert wrong != recipes
    with pytest.raises(AssertionError, match="cometric_matrix against"):
        printed_by(wrong, tmp_path)


# The demo: it takes too long to run here, so only what it is made of.


@pytest.fixture(scope="module")
def comparison():
    iris = load("iris")
    network = ReLUNetwork.from_widths([4, 3, 3])
    loss = NetworkLoss(network, iris.inputs, iris.targets, "cross-entropy")
    start = InvariantSet(network, network.random_point(rng=0))
    return compare(start, loss, (0.0, 0.1), rtol=1e-3, atol=1e-5, control=True)


def row_labels(table):
    cells = re.findall(r"^│ (.*?) *│", table, re.MULTILINE)
    return [cell for cell in cells if cell]


def test_the_readme_shows_the_table_of_the_demo(comparison):
    (table,) = (text for text in blocks(read("README.md"), "") if "┏" in text)
    assert row_labels(table) == row_labels(str(comparison))


def test_the_readme_describes_the_demo_of_the_makefile():
    (command,) = re.findall(r"^\t\$\(BIN\)/(liftflow compare .*)$", read("Makefile"), re.MULTILINE)
    arguments = shlex.split(command)
    given = dict(pairwise(arguments))
    readme = read("README.md")
    assert given["--widths"] in readme
    assert f"relative tolerance of {given['--rtol']}" in readme
    assert given["--data"] in readme
    assert f"are in {given['--out']}" in readme


# The names.

CALL = re.compile(r"`(?:\w+ = )?((?:\w+\.)+\w+)(?:\(([^()`]*)\))?`")


def test_notation_names_what_exists(comparison):
    network = comparison.architecture
    linear = TwoLayerLinear(3, 2, 2)
    invariant_set = InvariantSet(network, comparison.parameter.theta[0])
    image = invariant_set.image()
    roots = {
        "architecture": network,
        "network": network,
        "loss": comparison.loss,
        "invariant_set": invariant_set,
        "metric": image.metric,
        "cometric": image.metric.cometric,
        "chart": network.basis_chart(invariant_set.theta0),
        "trajectory": comparison.intrinsic,
        "comparison": comparison,
        "linear": linear,
        "spectral": intrinsic_cometric(linear, linear.balanced_point(0.5, 0)),
        "potential": DiagonalPotential(ReLUNetwork.diagonal(1), [0.5, 0.8]),
    }
    found = [match for match in CALL.findall(read("NOTATION.md")) if "..." not in match[0]]
    assert len(found) > 30
    for path, arguments in found:
        root, *names = path.split(".")
        thing = roots[root]
        for name in names:
            thing = getattr(thing, name)
        named = [argument.strip() for argument in arguments.split(",") if argument.strip()]
        if named:
            assert {*named} <= {*inspect.signature(thing).parameters}, path


def test_dotted_names_in_the_prose_can_be_imported():
    names = {
        name for page in PAGES for name in re.findall(r"`(liftflow(?:\.\w+)+)", page.read_text())
    }
    assert names
    for name in sorted(names):
        module, _, attribute = name.rpartition(".")
        code = f"from {module} import {attribute}"
        try:
            exec(code, {})
        except MissingExtraError:
            assert name.startswith("liftflow.torch")  # an extra, which make test-torch has


def test_the_dependencies_are_explained():
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(r for group in extras.values() for r in group)]
    wanted += CONFIG["build-system"]["requires"]
    wanted = {re.match(r"[\w.-]+", requirement)[0] for requirement in wanted} - {PROJECT["name"]}
    section = read("CONTRIBUTING.md").split("## Dependencies")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)[1:]
    names = {name for row in rows for name in re.sub(r"\*.*?\*", "", row).replace(",", " ").split()}
    assert names == wanted


def test_the_pythons_are_those_of_the_project():
    low, high = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups())
    text = ", ".join(f"3.{minor}" for minor in range(low, high - 1)) + f" or 3.{high - 1}"
    assert text in read("README.md")


def test_the_make_targets_exist():
    targets = {*re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)}
    used = {
        t
        for page in PAGES
        for t in re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", page.read_text(), re.M)
    }
    assert {name for pair in used for name in pair if name} <= targets


# The map and the links.


@checkout
def test_every_folder_of_the_map_exists():
    section = read("README.md").split("## The map")[1].split("\n## ")[0]
    folders = re.findall(r"^\| \[([\w/]+)/\]\(([\w/]+)\)", section, re.MULTILINE)
    assert folders
    assert all(name == target for name, target in folders)
    assert all((ROOT / name).is_dir() for name, _ in folders)


@checkout
def test_every_room_is_on_the_map():
    rooms = [path.name for path in (ROOT / "src" / "liftflow").iterdir() if path.is_symlink()]
    readme = read("README.md")
    assert all(f"| [{room}/]({room}) |" in readme for room in rooms)


@checkout
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [target.partition("#")[0] for target in targets if "://" not in target]
    missing = [target for target in local if target and not (page.parent / target).exists()]
    assert not missing


# The sources.


def bibliography():
    return re.findall(r"^@\w+\{(\w+),$", read("references.bib"), re.MULTILINE)


def docstrings(path):
    """Return every string that stands alone: docstrings, those of attributes too."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text


def test_no_source_is_listed_twice():
    keys = bibliography()
    assert len({*keys}) == len(keys)


def linked(entry):
    """Whether a source has a DOI or a number of arXiv, which the pages make links."""
    doi = re.search(r"^  doi       = \{10\.\d{4,}/\S+\},$", entry, re.MULTILINE)
    arxiv = r"^  eprint    = \{\d{4}\.\d{4,5}\},\n  archiveprefix = \{arXiv\},$"
    return bool(doi or re.search(arxiv, entry, re.MULTILINE))


def test_every_source_has_a_doi_or_an_arxiv_number():
    """But for one in a journal that gives none, and one that we know from a restatement."""
    entries = re.split(r"^@", read("references.bib"), flags=re.MULTILINE)[1:]
    entries = {re.match(r"\w+\{(\w+)", entry)[1]: entry for entry in entries}
    assert {*entries} == {*bibliography()}
    without = {key for key, entry in entries.items() if not linked(entry)}
    assert without == {"Saul2023", "ZhangPeyre2026"}
    assert "url       = {https://openreview.net/" in entries["Saul2023"]
    assert "found none" in entries["ZhangPeyre2026"]
    assert not linked("  note      = {arXiv:2508.07370},")  # no link on the pages


@pytest.mark.slow
def test_cited_sources_are_in_the_bibliography():
    # K(Z)[G]_j is a formula: a citation neither follows nor precedes a letter or a bracket.
    citation = re.compile(r"(?<![\w)\]}])\[(\w+)\]_(?!\w)")
    cited = {
        (path.relative_to(ROOT).as_posix(), key)
        for path in sources()
        for text in docstrings(path)
        for key in citation.findall(text)
    }
    assert len(cited) > 5
    known = {*bibliography()}
    assert not {pair for pair in cited if pair[1] not in known}


def test_the_readme_cites_the_paper_as_the_bibliography_does():
    (entry,) = blocks(read("README.md"), "bibtex")
    assert entry in read("references.bib")


# What must not be in the files.


@checkout
def test_no_file_names_a_registry_or_a_path_of_a_machine():
    # The brackets keep this file from finding itself.
    registry = re.compile(r"[p]ypi\.|[p]ythonhosted|[a]naconda\.org|[n]pmjs|[i]ndex-url", re.I)
    machine = re.compile(r"(?<![\w.~])/(work|root|home|Users)(?![\w-])")
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture
            continue
        for pattern in (registry, machine):
            if match := pattern.search(text):
                found.append(f"{os.path.relpath(path, ROOT)}: {match[0]}")
    assert not found
