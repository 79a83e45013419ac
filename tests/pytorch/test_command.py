"""``liftflow laws model.py:build``."""

import json

import pytest
from typer.testing import CliRunner

from liftflow.cli import app
from liftflow.errors import DataError
from liftflow.torch.command import module_laws

FILE = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3)

def other():
    return nn.Linear(3, 4)
"""


def test_the_laws_of_a_module_layer_by_layer(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(FILE)
    done = CliRunner().invoke(app, ["laws", f"{path}:build"])
    assert done.exit_code == 0, done.output
    assert "4 conservation laws of 26 parameters" in done.output
    record = json.loads(module_laws(f"{path}:build", as_json=True))
    assert [(row["layer"], row["channels"]) for row in record["layers"]] == [("0", 4)]
    for wrong in (f"{path}:other", f"{path}:missing", f"{path}", "nowhere.py:build"):
        with pytest.raises(DataError, match=r"model\.py|nowhere"):
            module_laws(wrong)
