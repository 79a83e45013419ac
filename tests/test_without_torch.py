"""PyTorch is an extra: nothing imports it unasked, and where it is missing the message says so."""

import subprocess
import sys

from liftflow.errors import LiftflowError, MissingExtraError

HIDDEN = """
import sys
import liftflow.cli
sys.modules["torch"] = None  # as if it were not installed
try:
    import liftflow.torch
except ImportError as error:
    print(type(error).__name__, error)
"""


def test_liftflow_does_without_torch_and_says_how_to_get_it():
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("MissingExtraError")
    assert "pip install 'liftflow[torch]'" in done.stdout


def test_nothing_imports_torch_unasked():
    code = "import liftflow, liftflow.cli, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_error_is_one_of_ours():
    assert issubclass(MissingExtraError, LiftflowError) and issubclass(
        MissingExtraError, ImportError
    )
