"""What the page and the gallery script say of PyTorch, run."""

import re
import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import torch

ROOT = Path(__file__).parents[2]


def test_the_page_runs_from_a_module_to_a_comparison(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    text = (ROOT / "docs/torch.md").read_text()
    first, second = re.findall(r"^```\n(import torch.*?|from lift.*?)^```$", text, re.M | re.S)
    assert len(first.strip().splitlines()) <= 18 and "comparison.plot()" in first
    names = {}
    exec(first, names)
    found = names["comparison"]
    assert found.success and found.max_deviation < 1e-5
    assert found.control_deviation > 100 * found.max_deviation  # control
    assert (tmp_path / "comparison.png").stat().st_size > 1000
    state = names["network"].to_state_dict(found.intrinsic.theta[-1])
    torch.testing.assert_close(names["trained"][0].weight.detach(), state["0.weight"])
    exec(second, names)
    assert names["monitor"].n_steps == 100
    plt.close("all")


def test_the_gallery_script_shows_what_it_claims(monkeypatch):
    runpy.run_path(str(ROOT / "gallery/torch/watch_training.py"))
    assert plt.get_fignums()
    plt.close("all")
