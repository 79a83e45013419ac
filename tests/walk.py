"""Walk a page as a new user would, from an empty folder, and time it: walk.py start|torch.

Every command of the page is run as it stands, in one shell, and then its Python. ADDRESS is this
clone, and the table of one's own is made here. It fails where a step does, where nothing to show
for it is left, or where it takes the processor more than five of the ten minutes that it may take
a user, so that neither a slow index nor a busy machine fails it.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 300.0  # seconds of the processor
PAGES = {
    "start": ("docs/start.rst", r"^\.\. code-block:: sh\n\n((?:   .*\n|\n)+)"),
    "torch": ("docs/torch.md", r"^```sh\n(.*?)^```$"),
}
PYTHON = {
    "start": r"^\.\. plot::\n(?:   :.*\n)*\n((?:   .*\n|\n)+)",
    "torch": r"^```\n((?:import|from) .*?)^```$",
}


def found(pattern: str, text: str) -> list[str]:
    """Return the blocks of a page, without their indentation."""
    flags = re.MULTILINE | (re.DOTALL if "```" in pattern else 0)
    return [textwrap.dedent(block) for block in re.findall(pattern, text, flags)]


def own_table() -> str:
    """Return a table as people have them: two measured columns, and one of classes in words."""
    rows = [(0.1 * a, 0.3 * b, "high" if a * b > 30 else "low") for a in range(9) for b in range(9)]
    return "size,dose,effect\n" + "".join(f"{a:.1f},{b:.1f},{word}\n" for a, b, word in rows)


def walk(name: str, folder: Path) -> None:
    """Run the page in a folder, and say what it took."""
    page, pattern = PAGES[name]
    text = (ROOT / page).read_text(encoding="utf-8")
    commands, python = found(pattern, text), "\n".join(found(PYTHON[name], text))
    assert "pip install" in commands[0] and "import" in python, f"{page} is written otherwise"
    (folder / "own.csv").write_text(own_table())
    (folder / "page.py").write_text(python, encoding="utf-8")
    steps = [block.replace("ADDRESS", str(ROOT)) for block in commands] + ["python page.py\n"]
    script = "set -ex\n" + 'echo "$(date +%s)" >>times\n'.join(steps)
    own = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    start = time.time()
    subprocess.run(["bash", "-c", script], cwd=folder, env=own | {"MPLBACKEND": "Agg"}, check=True)
    installed, end = int((folder / "times").read_text().split()[0]), time.time()
    spent = sum(os.times()[2:4])  # by the steps, pip's included
    pip, rest = (installed - start) / 60, (end - installed) / 60
    print(f"{page}: {pip:.1f} minutes to install, {rest:.1f} for the rest; {spent:.0f} s of CPU")
    figure = folder / ("run/comparison.png" if name == "start" else "comparison.png")
    assert figure.stat().st_size > 10_000, "no figure"
    if name == "start":
        summary = json.loads((folder / "run/summary.json").read_text())
        assert summary["max_deviation"] < 1e-2 < summary["control_deviation"], "flows part"
    assert spent < LIMIT, "it takes too long"


if __name__ == "__main__":
    if sys.argv[1:] not in [[name] for name in PAGES]:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory(prefix="liftflow-walk-") as empty:
        walk(sys.argv[1], Path(empty))
