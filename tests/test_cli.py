"""The main job on real data: the command line, and both flows of a ReLU network on iris."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from liftflow import InvariantSet, NetworkLoss, ReLUNetwork, __version__, compare
from liftflow.cli import app
from liftflow.data import NAMES, load

KEYS = {
    "dim",
    "n_hidden",
    "n_paths",
    "max_deviation",
    "control_deviation",
    "law_drift_parameter",
    "law_drift_intrinsic",
    "accuracy_parameter",
    "accuracy_intrinsic",
    "loss_parameter",
    "loss_intrinsic",
    "rtol",
    "evaluations_parameter",
    "evaluations_intrinsic",
    "seconds_parameter",
    "seconds_intrinsic",
}


def run(*words):
    return CliRunner().invoke(app, ["compare", "--no-progress", *words])


def iris_run(seed, rtol, **settings):
    """Run both flows of 4-6-3 on iris."""
    iris = load("iris")
    network = ReLUNetwork.from_widths([4, 6, 3])
    loss = NetworkLoss(network, iris.inputs, iris.targets, "cross-entropy")
    start = InvariantSet(network, network.random_point(rng=seed))
    return compare(start, loss, (0.0, 10.0), rtol=rtol, atol=rtol / 100, n_times=11, **settings)


@pytest.mark.parametrize("seed", range(3))
def test_deviation_on_iris_falls_with_the_tolerance(seed):
    """Kinks keep the slope below 1; on a smooth loss it is that of the solver."""
    tolerances = [1e-4, 1e-6, 1e-8]
    deviations = [iris_run(seed, rtol).max_deviation for rtol in tolerances]
    assert deviations[0] > deviations[1] > deviations[2]
    assert np.polyfit(np.log(tolerances), np.log(deviations), 1)[0] >= 0.5


def test_both_flows_on_iris_reach_the_same_network():
    comparison = iris_run(0, 1e-5, control=True)
    summary = comparison.summary()
    assert summary["accuracy_parameter"] == summary["accuracy_intrinsic"] >= 0.8
    assert summary["loss_parameter"] == pytest.approx(summary["loss_intrinsic"], rel=1e-3)
    assert summary["max_deviation"] <= 1e-3
    assert comparison.control_deviation >= 0.05


def test_what_the_command_leaves_behind(tmp_path):
    words = ["--data", "iris", "--widths", "4-6-3", "--bias", "--t-end", "1", "--control"]
    result = run(*words, "--seed", "3", "--out", str(tmp_path / "new" / "folder"))
    assert result.exit_code == 0, result.output
    assert "largest relative deviation" in result.output
    folder = tmp_path / "new" / "folder"
    assert {path.name for path in folder.iterdir()} == {
        "comparison.png",
        "summary.json",
        "trajectories.npz",
    }
    summary = json.loads((folder / "summary.json").read_text())
    assert summary.keys() >= KEYS
    assert (summary["dim"], summary["n_hidden"], summary["n_paths"]) == (51, 6, 93)
    assert summary["manifold_dim"] == summary["image_dim"] == 45
    assert summary["rtol"] == 1e-5
    arrays = np.load(folder / "trajectories.npz", allow_pickle=False)
    assert arrays["parameter_theta"].shape == (101, 51)
    assert arrays["intrinsic_y"].shape == (101, 45)
    assert arrays["deviation"].max() == pytest.approx(summary["max_deviation"])
    assert summary["control_deviation"] > 50 * summary["max_deviation"]


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_trains(name):
    sizes = load(name).inputs.shape[1], load(name).n_outputs
    result = run("--data", name, "--widths", f"{sizes[0]}-4-{sizes[1]}", "--t-end", "0.05")
    assert result.exit_code == 0, result.output


def test_a_table_of_ones_own(tmp_path):
    path = tmp_path / "own.csv"
    rows = ["a,b,y", *(f"{i},{i * i % 7},{i * 0.5}" for i in range(30))]
    path.write_text("\n".join(rows))
    result = run("--data", str(path), "--widths", "2-3-1", "--loss", "mse", "--t-end", "0.1")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--data", "iriss"], "no data set and no file is called 'iriss'"),
        (["--widths", "4-x-3"], "widths must be numbers joined by '-', got '4-x-3'"),
        (["--widths", "5-4-3"], "the data have 4 features and need 3 outputs"),
        (["--loss", "hinge"], "hinge"),
        (["--rtol", "-1"], "rtol"),
        (["--t-end", "-1"], "t_span"),
        (["--method", "Euler"], "Euler"),
        (["--coordinates", "polar"], "polar"),
        (["--widths", "4-0-3"], "a width"),
    ],
)
def test_bad_options_are_refused_in_one_line(words, text):
    result = run(*words)
    assert result.exit_code == 2
    assert text in result.output
    assert "Traceback" not in result.output


def test_a_folder_that_is_a_file_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    result = run("--out", str(tmp_path / "file"), "--t-end", "1e9")  # would not end
    assert result.exit_code == 2
    assert "OutputError: cannot write to the folder" in result.output


def test_a_table_with_a_missing_cell_is_refused(tmp_path):
    (tmp_path / "own.csv").write_text("a,y\n1,2\n,3\n")
    result = run("--data", str(tmp_path / "own.csv"))
    assert result.exit_code == 2
    assert "DataError" in result.output


def test_version():
    assert CliRunner().invoke(app, ["version"]).output.strip() == __version__
