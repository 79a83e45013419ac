"""The main job on real data: the command line, and both flows of a ReLU network on iris."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from liftflow import (
    Comparison,
    InvariantSet,
    NetworkLoss,
    ReLUNetwork,
    __version__,
    classify,
    compare,
)
from liftflow.cli import app
from liftflow.data import NAMES, load

FILES = {"comparison.png", "summary.json", "trajectories.npz"}
KEYS = {
    "family",
    "data",
    "seed",
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


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def run(*words):
    return CliRunner().invoke(app, ["compare", "--no-progress", *words])


def iris_run(seed, rtol, **settings):
    """Run both flows of 4-6-3 on iris."""
    iris = load("iris")
    network = ReLUNetwork.from_widths([4, 6, 3])
    loss = NetworkLoss(network, iris.inputs, iris.targets, "cross-entropy")
    start = InvariantSet(network, network.random_point(rng=seed))
    return compare(start, loss, (0.0, 10.0), rtol=rtol, atol=rtol / 100, n_times=11, **settings)


@pytest.mark.parametrize("seed", [*map(slow, range(2)), 2])
@pytest.mark.slow
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


@pytest.mark.slow
def test_what_the_command_leaves_behind(tmp_path):
    words = ["--data", "iris", "--widths", "4-6-3", "--bias", "--t-end", "1", "--control"]
    result = run(*words, "--seed", "3", "--out", str(tmp_path / "new" / "folder"))
    assert result.exit_code == 0, result.output
    assert "largest relative deviation" in result.output
    folder = tmp_path / "new" / "folder"
    assert {path.name for path in folder.iterdir()} == FILES
    summary = json.loads((folder / "summary.json").read_text())
    assert summary.keys() >= KEYS
    assert (summary["dim"], summary["n_hidden"], summary["n_paths"]) == (51, 6, 93)
    assert summary["manifold_dim"] == summary["image_dim"] == 45
    assert summary["rtol"] == 1e-6
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
    rows = ["a,b,y", *(f"{i * 0.5},{i * i % 7},{i}" for i in range(30))]
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
        (["--t-end", "-1"], "--t-end"),
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
    assert result.output.count("cannot write to the folder") == 1
    assert "OutputError: cannot write to the folder" in result.output


def test_a_table_with_a_missing_cell_is_refused(tmp_path):
    (tmp_path / "own.csv").write_text("a,y\n1,2\n,3\n")
    result = run("--data", str(tmp_path / "own.csv"))
    assert result.exit_code == 2
    assert "DataError" in result.output


def shell(words, tail="", **settings):
    """Run the command in a Python of its own, its output piped or sent elsewhere by a shell."""
    command = f"{shlex.quote(sys.executable)} -m liftflow {words} {tail}"
    environment = {**os.environ, **settings}
    return subprocess.run(command, shell=True, env=environment, capture_output=True, timeout=120)


QUICK = "compare --widths 4-2-3 --t-end 0.01 --rtol 1e-2 --no-progress"


@pytest.mark.parametrize("tail", [slow("| true"), ">/dev/full"])
@pytest.mark.slow
def test_files_are_there_whoever_listens(tmp_path, tail):
    """Nor is the backend of figures needed that a notebook names."""
    done = shell(f"{QUICK} --out {tmp_path}/out", tail, MPLBACKEND="module://not.there")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert b"Traceback" not in done.stderr
    if tail == ">/dev/full":
        assert done.returncode == 2 and b"No space left" in done.stderr


@pytest.mark.slow
def test_a_pipe_that_nobody_reads_is_no_flow_that_ended_early(tmp_path):
    unread, written = os.pipe()
    os.close(unread)
    command = [sys.executable, "-m", "liftflow", *QUICK.split(), "--out", str(tmp_path)]
    done = subprocess.run(command, stdout=written, stderr=subprocess.PIPE, timeout=120)
    os.close(written)
    assert (done.returncode, done.stderr) == (0, b"")
    assert {path.name for path in tmp_path.iterdir()} == FILES


@pytest.mark.parametrize("charset", ["ascii", "cp1252"])
def test_any_terminal_will_do(charset):
    terminal = CliRunner(charset=charset)
    for words in (QUICK, "laws --widths 1-2-1", "--help", "compare --help", "gallery"):
        result = terminal.invoke(app, words.split())
        assert result.exit_code == 0, result.exception
    result = terminal.invoke(app, ["classify", "--widths", "1-2-1", "--json"])
    assert "θ" in json.loads(result.stdout)["data"]


@pytest.mark.parametrize("words", ["compare --widths 4-40-3 --t-end 1e6", slow("gallery 02")])
@pytest.mark.slow
def test_ctrl_c_ends_a_command(tmp_path, words):
    """What was finished is kept: the flow of θ up to then, in files of the same form."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "liftflow", *words.split(), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if "compare" in words:
        assert process.stdout.readline().startswith(b"iris: 150 rows")
    while not out.exists():
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert time.monotonic() - began < 10  # 2 on a machine of our own
    if "compare" in words:
        assert {path.name for path in out.iterdir()} == FILES
        summary = json.loads((out / "summary.json").read_text())
        assert not summary["success_parameter"] and not summary["success_intrinsic"]


def test_what_cannot_be_replaced_is_refused_before_training(tmp_path):
    (tmp_path / "summary.json").mkdir()
    result = run("--out", str(tmp_path), "--t-end", "1e9")  # would not end
    assert result.exit_code == 2
    assert "summary.json is a folder there" in result.output


def test_files_of_an_earlier_run_are_replaced_as_a_whole(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (tmp_path / "summary.json").symlink_to(elsewhere)
    assert run(*QUICK.split()[1:], "--out", str(tmp_path)).exit_code == 0
    assert elsewhere.read_text() == "mine"
    assert json.loads((tmp_path / "summary.json").read_text())["data"].startswith("iris: 150 rows")
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "elsewhere"}


def test_numbers_are_kept_where_the_figure_fails(tmp_path, monkeypatch):
    def plot(comparison):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Comparison, "plot", plot)
    result = run(*QUICK.split()[1:], "--out", str(tmp_path))
    assert result.exit_code == 2
    assert "No space left" in result.stderr and "largest relative deviation" in result.stdout
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"comparison.png"}


@pytest.mark.parametrize(
    ("words", "data"),
    [
        ("--data {table} --widths 2-3-1", "own: 3 rows, 2 features, target 'y', regression"),
        ("--data {table} --widths 2-3-1 --target a", "own: 3 rows, 2 features, target 'a', regr"),
        ("--data {table} --widths 2-3-2 --target 2 --labels", "target 'b', 2 classes"),
        ("--data {table} --widths 1-3-1 --index-column a", "1 features, target 'y'"),
        (
            "--data {table} --widths 1-3-1 --index-column a --index-column 2",
            "needs a column of feat",
        ),
        ("--data {table} --widths 1-3-1 --index-column 1 --no-header", "texts among the features"),
        ("--data {table} --index-column a --no-index-column", "not both"),
        ("--data {table} --header --no-header", "not both"),
        ("--data {table} --labels --numbers", "not both"),
        ("--family ode --task sensing --widths 2-3", "sensing of a random 2 × 2 matrix of rank 2"),
        ("--family ode --task completion --widths 2-3", "completion of a random 2 × 2 matrix"),
        ("--family ode --no-header", "the family ode does not read header, got False"),
        ("--family deep --task sensing --labels", "the task sensing does not read labels"),
        ("--family deep --lam=", "nothing is given after --lam="),
        ("--data ''", "nothing is given after --data"),
        ("--family deep --task completion --widths 0-0-0", "a width must be an integer"),
        ("--family ode --seed -1", "seed"),
    ],
)
def test_the_command_says_what_was_read(tmp_path, words, data):
    (tmp_path / "own.csv").write_text("a,b,y\n0.5,1,1\n1.5,1,3.5\n2.5,2,4\n")
    words = shlex.split(words.format(table=tmp_path / "own.csv"))
    result = run("--t-end", "0.01", "--rtol", "1e-2", *words)
    refused = ("texts", "needs", "not", "the family", "the task", "a width", "seed")
    assert result.exit_code == (2 if data.startswith(refused) else 0), result.output
    assert data in result.output


def test_version():
    assert CliRunner().invoke(app, ["version"]).output.strip() == __version__


@pytest.mark.slow  # a transformer block by both flows
def test_a_transformer_reads_rows_of_features(tmp_path):
    """What ``--data digits`` does in a minute, by two tokens of two features each."""
    words = "--family transformer --data iris --widths 2-1-1-3 --lam 0.1,-0.1 --t-end 0.3"
    found = run(*words.split(), "--rtol", "1e-5", "--control", "--out", str(tmp_path))
    assert found.exit_code == 0, found.output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["family"] == "transformer" and summary["dim"] == 27 + 15
    assert summary["max_deviation"] <= 1e-3 < summary["control_deviation"]
    assert summary["accuracy_parameter"] == summary["accuracy_intrinsic"] > 0
    for wrong in ("--data diabetes", "--data iris --widths 3-1-1-3"):
        refused = run("--family", "transformer", *wrong.split())
        assert refused.exit_code == 2
        assert "a transformer tells the classes" in " ".join(refused.output.split())


@pytest.mark.slow
def test_a_backend_of_no_use_is_refused_by_name():
    done = shell("laws --widths 2-2-1", GEOMSTATS_BACKEND="nope")
    assert (done.returncode, done.stdout) == (2, b"")
    said = done.stderr.decode()
    assert "Traceback" not in said and "GEOMSTATS_BACKEND must be autograd or numpy" in said


def test_a_terminal_of_no_columns_shows_a_table(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "0")
    classify(ReLUNetwork.diagonal(1), [0.5, 0.8]).print()
    assert "The hierarchy" in capsys.readouterr().out
    assert "The hierarchy" in CliRunner().invoke(app, ["classify", "--widths", "1-1-1"]).output
    monkeypatch.setenv("COLUMNS", "0")
    assert "Usage" in CliRunner().invoke(app, ["--help"]).output


@pytest.mark.parametrize("end", ["0", "-1", "nan", "inf"])
def test_an_end_of_no_use_is_refused_by_its_option(end):
    result = run("--t-end", end)
    assert result.exit_code == 2 and "--t-end must be a positive number" in result.output


def test_checkpoints_of_another_run_are_named(tmp_path):
    words = ["--widths", "4-2-3", "--t-end", "0.01", "--rtol", "1e-2", "--checkpoints"]
    assert run(*words, str(tmp_path)).exit_code == 0
    result = run(*words, str(tmp_path), "--seed", "1")
    said = " ".join(result.output.split())
    assert result.exit_code == 2 and "resume" not in said
    assert f"the checkpoint {tmp_path / 'parameter.npz'} continues the flow it came from" in said
