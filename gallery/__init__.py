"""Scripts that end by asserting what they claim, and what runs them without a display.

``python gallery/plot_01_quick_start.py`` shows a script's figures in windows. ``draw`` saves them
instead; ``run_all`` does so in Pythons of their own, for ``liftflow gallery`` and ``make
gallery``.
"""

import ast
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from unittest import mock

import matplotlib.pyplot as plt
from matplotlib.animation import Animation
from matplotlib.figure import Figure

from liftflow.errors import InputError
from liftflow.figures import save_animation, style
from liftflow.typing import as_count

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Claim:
    """What a script claims, as the list ``CLAIMS`` at its end says.

    Attributes
    ----------
    text : str
        The claim, one sentence.
    whose : str
        Keys of ``references.bib`` joined by commas, or "ours".
    check : str
        Message of the assert that fails where the claim is false.
    control : str
        Message of the assert that fails where the same computation, with one thing changed, does
        not go wrong.
    """

    text: str
    whose: str
    check: str
    control: str


@dataclass(frozen=True)
class Script:
    """A gallery script.

    Parameters
    ----------
    path : Path
        Its file.
    """

    path: Path

    @property
    def name(self) -> str:
        """Its number and name, such as ``01_quick_start``."""
        return self.path.stem.removeprefix("plot_")

    @property
    def title(self) -> str:
        """The first line of its docstring."""
        return (ast.get_docstring(self._tree) or self.name).splitlines()[0]

    @property
    def _tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What it claims: the list ``CLAIMS``, its last statement; nothing where it has none."""
        match self._tree.body:
            case [*_, ast.Assign(targets=[ast.Name("CLAIMS")], value=value)]:
                return tuple(
                    Claim(each["claim"], each["whose"], each["assert"], each["control"])
                    for each in ast.literal_eval(value)
                )
        return ()

    @property
    def asserts(self) -> tuple[str, ...]:
        """The messages of its asserts, in order; ``{}`` stands for what is filled in."""
        nodes = sorted(
            (node for node in ast.walk(self._tree) if isinstance(node, ast.Assert)),
            key=lambda node: node.lineno,
        )
        return tuple(_message(node.msg) for node in nodes)


def _message(node: ast.expr | None) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in parts)
    return ""


@dataclass(frozen=True)
class Outcome:
    """What came of running a script.

    Parameters
    ----------
    files : tuple of Path
        The pictures.
    output : str
        What the script printed, and the traceback if it failed.
    seconds : float
        How long it took.
    success : bool
        Whether it ran to its end.
    """

    script: Script
    files: tuple[Path, ...]
    output: str
    seconds: float
    success: bool

    @property
    def reason(self) -> str:
        """The last line of what was printed: the error, if the script failed."""
        return (self.output.strip().splitlines() or [""])[-1]


def scripts() -> list[Script]:
    """Return all scripts, in order."""
    return [Script(path) for path in sorted(FOLDER.glob("plot_*.py"))]


def find(name: str) -> Script:
    """Return the script of a name.

    Parameters
    ----------
    name : str
        ``01_quick_start``, ``quick_start`` or ``01``.

    Raises
    ------
    InputError
        There is no such script.
    """
    known = scripts()
    for script in known:
        number, _, rest = script.name.partition("_")
        if name in (script.name, number, rest):
            return script
    listed = ", ".join(script.name for script in known)
    raise InputError(f"the gallery has no script {name!r}; it has {listed}")


def draw(script: Script, folder: Path | None = None) -> list[Path]:
    """Run a script in this Python without showing its figures, and save them.

    They are saved even if the script fails, to be looked at. Figures that are open before are
    closed.

    Parameters
    ----------
    folder : Path, optional
        Where to save the figures and, as GIFs, the animations; nowhere by default.

    Raises
    ------
    AssertionError
        The claim or the negative control fails, or a figure is empty.
    """
    plt.close("all")
    with mock.patch.object(plt, "show"), plt.rc_context():
        try:
            names = runpy.run_path(str(script.path), run_name="__main__")
        except Exception:
            _save(script, {}, folder)
            raise
        figures = [plt.figure(number) for number in plt.get_fignums()]
        assert figures, f"{script.name} draws no figure"
        for figure in figures:
            drawn = [axes.has_data() for axes in figure.axes if axes.axison]
            assert figure.axes and all(drawn), f"{script.name} leaves axes empty"
        return _save(script, names, folder)


def _save(script: Script, names: dict[str, object], folder: Path | None) -> list[Path]:
    files = []
    for count, number in enumerate(plt.get_fignums(), start=1):
        figure = plt.figure(number)
        figure.canvas.draw()
        if folder is not None:
            files.append(folder / f"{script.name}{'' if count == 1 else f'_{count}'}.png")
            figure.savefig(files[-1])
    for name, animation in names.items():
        if isinstance(animation, Animation) and folder is not None:
            files.append(folder / f"{script.name}_{name}.gif")
            save_animation(animation, files[-1])
    plt.close("all")
    return files


class _Run:
    """A script that runs in a Python of its own."""

    def __init__(self, script: Script, folder: Path, dark: bool) -> None:
        for old in folder.glob(f"{script.name}*"):
            old.unlink()
        code = (
            "import pathlib, sys; from liftflow.gallery import Script, draw; "
            "draw(Script(pathlib.Path(sys.argv[1])), pathlib.Path('.'))"
        )
        settings = {"MPLBACKEND": "Agg", "LIFTFLOW_DARK": str(int(dark)), "PYTHONUTF8": "1"}
        self.script, self.folder, self.began = script, folder, time.perf_counter()
        self.output = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe would have to be read
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(script.path)],
            cwd=folder,
            env={**os.environ, **settings},
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )

    def outcome(self) -> Outcome:
        seconds = time.perf_counter() - self.began
        self.output.seek(0)
        output = self.output.read().decode(errors="replace")
        files = tuple(sorted(self.folder.glob(f"{self.script.name}*")))
        return Outcome(self.script, files, output, seconds, self.process.returncode == 0)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.output.close()


def run_all(
    chosen: Iterable[Script], folder: Path, dark: bool = False, jobs: int = 1
) -> Generator[Outcome, None, None]:
    """Run scripts, each in a Python of its own, and yield each outcome when it is there.

    Scripts that still run when the iteration is given up are ended.

    Parameters
    ----------
    chosen : iterable of Script
        Scripts to run.
    folder : Path
        Where the scripts run and the figures go.
    dark : bool
        Whether to draw on dark ground.
    jobs : int
        Number of scripts at a time.

    Yields
    ------
    outcome : Outcome
    """
    as_count(jobs, "jobs", 1)
    waiting, running = list(chosen)[::-1], list[_Run]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_Run(waiting.pop(), folder, dark))
            time.sleep(0.02)
            for run in [run for run in running if run.process.poll() is not None]:
                yield run.outcome()
                running.remove(run)
                run.end()
    finally:
        for run in running:
            run.end()


_TITLE_WIDTH = 40  # letters over a picture of the sheet


def contact_sheet(
    outcomes: Iterable[Outcome], path: Path, dark: bool = False, columns: int = 4
) -> None:
    """Draw the first picture of each script on one sheet, with its title.

    Parameters
    ----------
    outcomes : iterable of Outcome
        Those without a picture are left out.
    dark : bool
        Whether the ground is dark.
    columns : int
        Largest number of pictures in a row.
    """
    shown = sorted((o for o in outcomes if o.files), key=lambda outcome: outcome.script.name)
    columns = min(columns, max(len(shown), 1))
    rows = -(-len(shown) // columns)
    with plt.style.context(style(dark)):
        figure = Figure(figsize=(4.5 * columns, 3.0 * max(rows, 1)))
        for place, outcome in enumerate(shown, start=1):
            axes = figure.add_subplot(rows, columns, place)
            axes.imshow(plt.imread(outcome.files[0]))
            title = f"{outcome.script.name[:2]}  {outcome.script.title}"
            axes.set_title(fill(title, _TITLE_WIDTH), fontsize=11)
            axes.axis("off")
            axes.set_anchor("N")
        figure.savefig(path)
