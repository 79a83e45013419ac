"""Ended at random moments, by kill −9, SIGTERM and Ctrl-C, and made again: the same to the bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="needs fork and locks")
SCRIPT = Path(__file__).with_name("killed.py")
OF_COMPARE = {"parameter.npz", "intrinsic.npz", "control.npz"}
OF_SWEEP = {"case.txt", "run.npz", "parameter.npz", "intrinsic.npz"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "files"),
    [
        ("compare", OF_COMPARE),
        ("sweep", {f"seed-{s}{f}" for s in range(3) for f in ("", *(f"/{n}" for n in OF_SWEEP))}),
    ],
)
def test_the_same_after_thirty_ends(call, files, tmp_path):
    command = [sys.executable, str(SCRIPT), call, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["wrong"] == []
    assert report["disturbed"] == 30
    assert report["slowest"] < 5  # seconds from a signal to the end
    assert set(report["files"]) == files


IMPORTED = """
import sys
from pathlib import Path
import killed
before = set(sys.modules)
killed.of_compare(Path(sys.argv[1]))
print(*sorted(sys.modules.keys() - before))
"""


@pytest.mark.slow
def test_flows_import_nothing_on_their_way(tmp_path):
    """Ctrl-C within an import may come out as another error, and then ends nothing."""
    command = [sys.executable, "-c", IMPORTED, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=SCRIPT.parent, timeout=60
    )
    assert done.stdout.split() == []
