"""Ensembles: the same numbers however they are run, and nothing lost when a worker is killed."""

import joblib
import numpy as np
import pytest
from sweep_cases import DeadlyCase, make_case

from liftflow import sweep
from liftflow.errors import DataError, FlowError, InputError
from liftflow.flows import Trajectory

SPAN, SEEDS = (0.0, 1.0), range(4)
SETTINGS = {"rtol": 1e-6, "n_times": 6, "method": "RK45"}


@pytest.fixture(scope="module")
def serial():
    return sweep(make_case, SEEDS, SPAN, n_jobs=1, **SETTINGS)


@pytest.fixture
def cluster():
    """Return a local Dask cluster of two worker processes."""
    distributed = pytest.importorskip("distributed", reason="needs liftflow[cluster]")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as local,
        distributed.Client(local),
    ):
        yield local


def assert_same(one, other):
    assert [run.seed for run in one.runs] == [run.seed for run in other.runs]
    for left, right in zip(one.runs, other.runs, strict=True):
        for name in ("t", "deviation", "loss_parameter", "loss_intrinsic", "control_deviation"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        assert left.summary.keys() == right.summary.keys()
        for key in left.summary:
            assert left.summary[key] == right.summary[key] or key.startswith("seconds")


def test_results_as_table_and_figure(serial, capsys):
    frame = serial.frame()
    assert list(frame.index) == list(SEEDS)
    assert frame["max_deviation"].max() < 1e-4
    assert frame["success_intrinsic"].all()
    serial.print()
    assert "4 runs of two flows" in capsys.readouterr().out
    figure = serial.plot()
    assert len(figure.axes[1].lines) == 4


def test_other_seeds_give_other_numbers(serial):
    """The control of every comparison here."""
    other = sweep(make_case, [4], SPAN, **SETTINGS).runs[0]
    assert np.all(other.loss_parameter != serial.runs[0].loss_parameter)


def test_a_dask_cluster_and_one_of_its_workers_killed(serial, cluster, tmp_path):
    case = DeadlyCase(half_way(serial), tmp_path / "killed")
    with joblib.parallel_config("dask"):
        assert_same(sweep(make_case, SEEDS, SPAN, **SETTINGS), serial)
        runs = sweep(case, SEEDS, SPAN, folder=tmp_path / "runs", **SETTINGS)
    assert case.mark.exists()
    assert_same(runs, serial)
    # The first flow was done when the worker died, and was not made again.
    assert Trajectory.load(tmp_path / "runs" / "seed-1" / "parameter.npz").success


def half_way(serial):
    """Number of gradients after which the second flow of seed 1 is half done."""
    own = serial.runs[1].summary
    return own["evaluations_parameter"] + own["evaluations_intrinsic"] // 2


def test_two_processes_and_one_of_them_killed(serial, tmp_path):
    case = DeadlyCase(half_way(serial), tmp_path / "killed")
    settings = {"folder": tmp_path / "runs", "n_jobs": 2, **SETTINGS}
    with pytest.raises(FlowError, match=r"a worker process died.*make the same call again"):
        sweep(case, SEEDS, SPAN, **settings)
    settings["n_jobs"] = 1
    assert_same(sweep(case, SEEDS, SPAN, **settings), serial)
    # Finished runs are read, not made.
    before = [p.stat().st_mtime_ns for p in sorted(tmp_path.glob("runs/*/run.npz"))]
    assert_same(sweep(case, SEEDS, SPAN, **settings), serial)
    assert before == [p.stat().st_mtime_ns for p in sorted(tmp_path.glob("runs/*/run.npz"))]


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(InputError, match="seeds must be given once each"):
        sweep(make_case, [1, 1], SPAN)
    settings = {"folder": tmp_path, **SETTINGS}
    sweep(make_case, [0], SPAN, **settings)
    with pytest.raises(InputError, match="holds a run of another θ₀ or with other settings"):
        sweep(make_case, [0], (0.0, 2.0), **settings)
    (tmp_path / "seed-0" / "run.npz").write_bytes(b"")
    with pytest.raises(DataError, match="holds no run of a sweep"):
        sweep(make_case, [0], SPAN, **settings)
