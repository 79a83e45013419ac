"""Gallery scripts run without a display, draw something, and can fail.

The quick ones run here. ``make gallery`` runs them all by the same function, and so does CI.
"""

import ast
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from typer.testing import CliRunner

from liftflow import ReLUNetwork, gallery
from liftflow.cli import app
from liftflow.errors import InputError
from liftflow.flows.recursion import LawRecursion
from liftflow.metrics import LogarithmicMeanMultiplier

QUICK = ["07_infinite_depth", "08_three_layers", "14_discrete_steps", "16_extend"]


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in QUICK[::3]), *QUICK[1:3]]
)
@pytest.mark.slow
def test_script_runs_and_draws(name):
    gallery.draw(gallery.find(name))


# A script fails when its claim is broken on purpose, and when its control agrees.


@pytest.mark.slow
def test_infinite_depth_fails_with_a_wrong_multiplier(monkeypatch):
    pair = LogarithmicMeanMultiplier.pair
    wrong = lambda self, left, right: 1.1 * pair(self, left, right)  # noqa: E731
    monkeypatch.setattr(LogarithmicMeanMultiplier, "pair", wrong)
    with pytest.raises(AssertionError, match="another order"):
        gallery.draw(gallery.find("infinite_depth"))


@pytest.mark.slow
def test_three_layers_fail_with_the_laws_swapped(monkeypatch):
    laws = ReLUNetwork.conservation_laws
    swapped = lambda self, theta: laws(self, theta)[..., ::-1]  # noqa: E731
    monkeypatch.setattr(ReLUNetwork, "conservation_laws", swapped)
    with pytest.raises(AssertionError, match="another root"):
        gallery.draw(gallery.find("three_layers"))


@pytest.mark.slow
def test_three_layers_fail_with_a_control_that_agrees(monkeypatch):
    monkeypatch.setattr(ReLUNetwork, "rescale", lambda self, theta, log_factors: theta)
    with pytest.raises(AssertionError, match="any laws would do"):
        gallery.draw(gallery.find("three_layers"))


@pytest.mark.slow
def test_minibatches_fail_with_a_recursion_that_forgets_the_batch(monkeypatch):
    follow = LawRecursion.follow
    half = lambda self, rate, gradient, *rest: follow(self, rate, 0.5 * gradient, *rest)  # noqa: E731
    monkeypatch.setattr(LawRecursion, "follow", half)
    with pytest.raises(AssertionError, match="a rule is not predicted to rounding"):
        gallery.draw(gallery.find("minibatches"))


# Every script, without running it.


def test_every_script_has_a_number_of_its_own_and_a_title():
    numbers = [script.name[:2] for script in gallery.scripts()]
    assert numbers == sorted({*numbers})
    assert all(number.isdecimal() for number in numbers)
    assert all(10 < len(script.title) < 80 for script in gallery.scripts())


def test_every_script_has_a_card_in_the_gallery():
    index = (BIBLIOGRAPHY.parent / "docs/gallery.rst").read_text(encoding="utf-8")
    shown = re.findall(r"\.\./gallery/plot_(\d\d)_\*\.py", index)
    assert sorted(shown) == [script.name[:2] for script in gallery.scripts()]


@pytest.mark.parametrize("script", gallery.scripts(), ids=lambda script: script.name)
def test_every_script_ends_with_asserts(script):
    last = script.path.read_text(encoding="utf-8").split("# %%")[-1]
    assert last.count("\nassert ") >= 2, "the claim and its negative control"


# What a script claims is listed, asserted and has a control.

SCRIPTS = pytest.mark.parametrize("script", gallery.scripts(), ids=lambda script: script.name)
BIBLIOGRAPHY = Path(__file__).parents[1] / "references.bib"


@SCRIPTS
def test_every_claim_has_an_assert_and_a_control(script):
    claims, asserts = script.claims, script.asserts
    assert claims, "the list CLAIMS is not the last statement"
    for claim in claims:
        assert claim.check in asserts, f"no assert says {claim.check!r}"
        assert claim.control in asserts, f"no assert says {claim.control!r}"
        assert claim.check != claim.control
        assert claim.text.endswith(".") and len(claim.text) < 100


@SCRIPTS
def test_every_claim_says_whose_it_is(script):
    known = {"ours", *re.findall(r"^@\w+\{(\w+),$", BIBLIOGRAPHY.read_text(), re.MULTILINE)}
    assert {name for claim in script.claims for name in claim.whose.split(", ")} <= known


def test_claims_are_read(tmp_path):
    path = tmp_path / "plot_01_up.py"
    claims = '[{"claim": "It goes up.", "whose": "ours", "assert": "down {}", "control": "flat"}]'
    asserts = 'assert x, f"down {x}"\nassert y, "flat"\n'
    path.write_text(f'"""Up"""\n{asserts}CLAIMS = {claims}\n')
    script = gallery.Script(path)
    assert script.claims == (gallery.Claim("It goes up.", "ours", "down {}", "flat"),)
    assert script.asserts == ("down {}", "flat")
    path.write_text(path.read_text() + "print()\n")
    assert script.claims == ()


# Titles of figures that are written down once and for all name what is seen, and claim nothing.

VERBS = """agree agrees are alike avoid be becomes beats breaks changes come comes do does drifts
equals fail fails fall falls follow follows forget forgets give gives go goes grow grows has have
hold holds is keep keeps lie lies lose loses make makes matter matters merge merges move moves need
needs obey obeys part parts predict predicts recover recovers same stay stays tell tells train
trains vanish vanishes was wins work works"""
CLAIMING = re.compile(
    rf"\b({'|'.join([*VERBS.split(), 'all', 'always', 'every', 'never', 'none', 'only'])})\b", re.I
)


def constant_titles(path):
    """Yield the titles that a file gives to figures and axes as they stand in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(attr="set_title" | "suptitle"), args=[title, *_]):
                given = [title]
            case ast.Call(keywords=words):
                given = [word.value for word in words if word.arg == "title"]
            case _:
                continue
        for each in given:
            parts = list(ast.walk(each))
            if not any(isinstance(part, ast.JoinedStr) for part in parts):
                texts = [part.value for part in parts if isinstance(part, ast.Constant)]
                yield from (text for text in texts if isinstance(text, str))


FILES = [
    *(script.path for script in gallery.scripts()),
    Path(gallery.__file__).parent / "torch/watch_training.py",
    *(Path(gallery.__file__).parents[1] / "flows").glob("*.py"),
    *(Path(gallery.__file__).parents[1] / "criteria").glob("*.py"),
    Path(gallery.__file__).parents[1] / "figures.py",
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_title_of_a_figure_is_a_constant_claim(path):
    assert not [title for title in constant_titles(path) if CLAIMING.search(title)]


def test_a_constant_claim_is_noticed(tmp_path):
    path = tmp_path / "figure.py"
    path.write_text('axes.set(title="Both flows train alike")\naxes.set_title(f"part by {x}")\n')
    (title,) = constant_titles(path)
    assert CLAIMING.search(title) and not CLAIMING.search("loss over time")


# The runner, on scripts of a few lines.

GOOD = '''"""
A line goes up
==============
"""
import matplotlib.pyplot as plt
from matplotlib.animation import FuncAnimation
plt.plot([0, 1])
plt.show()
still = plt.figure()
still.add_subplot().plot([1, 0])
grow = FuncAnimation(still, lambda frame: [], frames=2)
print("up")
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Put two scripts in place of the gallery, of which the second fails after it has drawn."""
    (tmp_path / "plot_01_up.py").write_text(GOOD)
    (tmp_path / "plot_02_down.py").write_text(GOOD + "assert False, 'it goes up'\n")
    monkeypatch.setattr(gallery, "FOLDER", tmp_path)
    return tmp_path


def test_scripts_are_found_by_name_and_number(folder):
    assert [script.name for script in gallery.scripts()] == ["01_up", "02_down"]
    assert {gallery.find(name).title for name in ("01", "up", "01_up")} == {"A line goes up"}
    with pytest.raises(InputError, match="no script 'u'; it has 01_up, 02_down"):
        gallery.find("u")


def test_a_script_leaves_pictures_and_nothing_else(folder):
    before = dict(plt.rcParams)
    out = folder / "out"
    out.mkdir()
    files = gallery.draw(gallery.find("up"), out)
    assert [file.name for file in files] == ["01_up.png", "01_up_2.png", "01_up_grow.gif"]
    assert [*out.iterdir()] and not plt.get_fignums()
    assert dict(plt.rcParams) == before


@pytest.mark.parametrize(
    ("code", "message"),
    [("pass", "no figure"), ("import matplotlib.pyplot as plt; plt.subplots(2)", "axes empty")],
)
def test_an_empty_picture_is_a_failure(folder, code, message):
    (folder / "plot_03_empty.py").write_text(code)
    with pytest.raises(AssertionError, match=message):
        gallery.draw(gallery.find("empty"))


def test_the_command_lists_the_gallery(folder):
    result = CliRunner().invoke(app, ["gallery"])
    assert result.exit_code == 0
    assert "02_down" in result.output and "A line goes up" in result.output


def test_the_command_refuses_an_unknown_name(folder):
    result = CliRunner().invoke(app, ["gallery", "sideways"])
    assert result.exit_code == 2
    assert "sideways" in result.output


@pytest.mark.slow
def test_the_command_runs_all_and_fails_if_one_does(folder, monkeypatch):
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, ["gallery", "--all", "--jobs", "2", "--dark"])
    assert result.exit_code == 1
    assert "AssertionError: it goes up" in result.output
    names = {path.name for path in (folder / "liftflow-gallery").iterdir()}
    assert {"01_up.png", "01_up_grow.gif", "02_down.png", "contact_sheet.png"} <= names
