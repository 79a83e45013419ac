"""Ensembles: the same numbers however they are run, and nothing lost when a worker is killed."""

import sys
import threading

import autograd.numpy as anp
import joblib
import numpy as np
import pytest
from joblib.externals.loky.process_executor import BrokenProcessPool
from scipy.integrate import RK45
from sweep_cases import DeadlyCase, make_case
from test_checkpoint import Fails

from liftflow import InvariantSet, NetworkLoss, ReLUNetwork, compare, loss_from_function, sweep
from liftflow.errors import DataError, FlowError, InputError, OutputError
from liftflow.flows import Trajectory
from liftflow.flows.integrate import same_numbers
from liftflow.metrics import intrinsic_cometric

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
        # The losses that kill are others by name.
        same = {key for key in left.summary if not key.startswith(("seconds", "training_loss"))}
        assert {k: left.summary[k] for k in same} == {k: right.summary[k] for k in same}


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


@pytest.mark.slow
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


@pytest.mark.slow
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


SMALL = {"rtol": 1e-4, "atol": 1e-6, "n_times": 5}
DATA = np.random.default_rng(3).standard_normal((20, 2))


def diagonal(seed=0, loss=None, network=None, theta0=None, target=1.0):
    """A case with one part of its own."""
    network = ReLUNetwork.diagonal(2) if network is None else network
    theta0 = network.random_point(rng=1) if theta0 is None else theta0
    own = loss_from_function(lambda z: anp.sum((z - target) ** 2))
    return InvariantSet(network, theta0), own if loss is None else loss


def on_data(network, entry=0.0, row=0):
    targets = DATA @ [1.0, -2.0]
    targets[row] += entry
    return NetworkLoss(network, DATA, targets)


class Lifts(ReLUNetwork):
    """A network whose laws are counted otherwise."""

    def conservation_laws(self, theta):
        return 2.0 * super().conservation_laws(theta)


NETWORK, ONE = ReLUNetwork.diagonal(2), ReLUNetwork.from_widths([2, 2, 1])
AT = NETWORK.random_point(rng=1)
OTHERS = {
    "target": {"target": 1.0 + 1e-6},
    "start": {"theta0": AT * (1 + 1e-15)},
    "mirrored": {
        "loss": loss_from_function(lambda z: anp.sum((2 * NETWORK.lift(AT) - z - 1) ** 2))
    },
    "far": {
        "loss": loss_from_function(
            lambda z: anp.sum((z - 1.0) ** 2) + anp.maximum(anp.sum(z**2) - 4.0, 0.0) ** 2
        )
    },
    "architecture": {"network": ReLUNetwork.from_widths([1] * 5), "theta0": AT},
    "laws": {"network": Lifts.diagonal(2)},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_of_another_case_is_refused(name, tmp_path):
    settings = {"folder": tmp_path, **SMALL}
    first = sweep(diagonal, [0], (0.0, 0.2), **settings)
    match = "holds a run of another θ₀ or with other settings: another "
    with pytest.raises(InputError, match=match):
        sweep(lambda seed: diagonal(seed, **OTHERS[name]), [0], (0.0, 0.2), **settings)
    assert_same(sweep(lambda seed: diagonal(seed), [0], (0.0, 0.2), **settings), first)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e160, 1e300])
def test_losses_of_extreme_scales_are_told_apart(scale, tmp_path):
    span = (0.0, min(0.01, 0.01 / scale))

    def case(target):
        loss = loss_from_function(lambda z: scale * anp.sum((z - target) ** 2))
        return lambda seed: (InvariantSet(NETWORK, AT), loss)

    first = sweep(case(1.0), [0], span, folder=tmp_path, **SMALL)
    assert_same(sweep(case(1.0), [0], span, folder=tmp_path, **SMALL), first)
    with pytest.raises(InputError, match="another loss, data or metric of the parameter flow"):
        sweep(case(1.0 + 1e-6), [0], span, folder=tmp_path, **SMALL)


@pytest.mark.parametrize("scale", [5e-324, 1e-200, 1.0, 1e307])
def test_numbers_of_any_scale_are_the_same_or_not(scale):
    one = scale * np.array([3.0, -4.0])
    assert same_numbers(one, one)
    assert same_numbers(one, one * (1 + 1e-15))
    for other in (np.zeros(2), -one, one * 1.01 if scale > 1e-300 else 2 * one):
        assert not same_numbers(one, other)
        assert not same_numbers(other, one)
    assert not same_numbers(1e-200, 1e200)
    assert not same_numbers(1e200, 1e-200)


def test_a_folder_of_other_data_is_refused(tmp_path):
    theta0 = ONE.random_point(rng=1)

    def case(entry=0.0, row=0):
        network = ReLUNetwork.from_widths([2, 2, 1])
        return lambda seed: (InvariantSet(network, theta0), on_data(network, entry, row))

    settings = {"folder": tmp_path, **SMALL}
    first = sweep(case(), [0], (0.0, 0.1), **settings)
    for row in range(0, len(DATA), 5):
        with pytest.raises(InputError, match="another loss, data or metric of the parameter flow"):
            sweep(case(1e-5, row), [0], (0.0, 0.1), **settings)
    assert_same(sweep(case(), [0], (0.0, 0.1), **settings), first)


@pytest.mark.parametrize("run", ["sweep", "compare"])
def test_a_loss_that_differs_on_the_way_alone_is_refused(run, tmp_path):
    """A bump that the flow passes, where neither its start nor a point far away sees it."""
    network, start = ReLUNetwork.diagonal(1), np.array([0.5, 0.5])
    settings = {"rtol": 1e-6, "n_times": 21, "progress": False}

    def flow(height, folder=None):
        def f(z):
            u = (z[..., 0] - 0.5) / 0.1
            bump = anp.where(anp.abs(u) < 1, (1 - u * u) ** 3, 0.0)
            return anp.sum((z - 1.0) ** 2, axis=-1) + height * bump

        case = InvariantSet(network, start), loss_from_function(f)
        if run == "sweep":
            return sweep(lambda seed: case, [0], (0.0, 3.0), folder=folder, **settings)
        return compare(*case, (0.0, 3.0), checkpoints=folder, **settings)

    flow(0.0, tmp_path)
    with pytest.raises(InputError, match="whose loss was another one"):
        flow(0.05, tmp_path)
    flow(0.0, tmp_path)  # control: the same loss is taken


@pytest.mark.parametrize(
    "changed",
    [
        {"t_span": (0.0, 0.3)},
        {"n_times": 6},
        {"rtol": 1e-5},
        {"atol": 1e-5},
        {"method": "RK23"},
        {"coordinates": "full"},
        {"control": True},
        {"memory_limit": 3 * 16 * NETWORK.dim},
        {"max_step": 0.01},
        {"first_step": 1e-4},
        {"t_eval": [0.0, 0.1, 0.2]},
    ],
)
def test_a_folder_of_other_settings_is_refused(changed, tmp_path):
    settings = {"t_span": (0.0, 0.2), "folder": tmp_path, **SMALL}
    sweep(diagonal, [0], **settings)
    for missing in ((), ("run.npz",), ("run.npz", "case.txt")):
        for name in missing:
            (tmp_path / "seed-0" / name).unlink(missing_ok=True)
        if len(missing) == 2 and "control" in changed:
            continue  # then only the two flows are left, and they are the same
        with pytest.raises(InputError, match=r"holds a run of another|the checkpoint .* continues"):
            sweep(diagonal, [0], **settings | changed)


@pytest.mark.parametrize(
    "options",
    [
        {"max_step": 1e-3, "checkpoint_seconds": 1.0},
        {"first_step": 1e-5},
        {"t_eval": [0.0, 0.15, 0.2]},
    ],
)
@pytest.mark.slow
def test_options_of_the_flows_are_those_of_a_comparison(options, tmp_path):
    settings = {"rtol": 1e-4, "atol": 1e-6} | options
    runs = sweep(diagonal, [0], (0.0, 0.2), folder=tmp_path, **settings).runs
    wanted = compare(*diagonal(), (0.0, 0.2), **settings)
    np.testing.assert_array_equal(runs[0].t, wanted.parameter.t)
    np.testing.assert_array_equal(runs[0].deviation, wanted.deviation)
    assert runs[0].summary["evaluations_parameter"] == wanted.parameter.n_evaluations
    free = compare(*diagonal(), (0.0, 0.2), rtol=1e-4, atol=1e-6)
    same_steps = free.parameter.n_evaluations == wanted.parameter.n_evaluations
    assert same_steps == ("t_eval" in options)  # times decide no step


@pytest.mark.parametrize("name", ["checkpoint", "checkpoints", "resume", "max_stop"])
def test_options_of_something_else_are_refused_by_name(name):
    with pytest.raises(InputError, match=f"^{name} is no setting"):
        sweep(diagonal, [0], (0.0, 0.2), **{name: "run"})
    if name != "checkpoints":
        with pytest.raises(InputError, match=f"^{name} is no setting"):
            compare(*diagonal(), (0.0, 0.2), **{name: "run"})


def test_other_metrics_are_refused(tmp_path):
    invariant_set, _ = diagonal()
    elsewhere = NETWORK.fibre_point(AT, 0)
    settings = {"coordinates": "full", "folder": tmp_path, **SMALL}
    sweep(diagonal, [0], (0.0, 0.2), **settings)
    other = intrinsic_cometric(NETWORK, elsewhere)
    with pytest.raises(InputError, match="another loss, data or metric of the intrinsic flow"):
        sweep(diagonal, [0], (0.0, 0.2), cometric=other, **settings)
    same = intrinsic_cometric(invariant_set.architecture, AT)
    sweep(diagonal, [0], (0.0, 0.2), cometric=same, **settings)


def test_equal_numbers_of_other_types_go_on(tmp_path):
    settings = {"folder": str(tmp_path), **SMALL}
    first = sweep(diagonal, [0], (0, 1), **settings)
    for span in ((0.0, 1.0), [0, 1], np.array([0.0, 1.0]), (np.float32(0), np.int64(1))):
        same = {"rtol": np.float64(1e-4), "n_times": np.int64(5), "method": RK45, "control": False}
        assert_same(sweep(diagonal, [np.int64(0)], span, **settings | same), first)


def test_damaged_folders_are_refused(tmp_path):
    settings = {"folder": tmp_path, **SMALL}
    first = sweep(diagonal, range(2), (0.0, 0.1), **settings)
    run, case = tmp_path / "seed-0" / "run.npz", tmp_path / "seed-0" / "case.txt"
    good, note = run.read_bytes(), case.read_text()
    for bad in (
        b"\xff",
        b"",
        b"3",
        b"{}",
        b"[" * 100_000,
        note.encode().replace(b'"laws"', b'"x"'),
    ):
        case.write_bytes(bad)
        with pytest.raises(InputError, match=r"holds a run of another|does not say what .* holds"):
            sweep(diagonal, range(2), (0.0, 0.1), **settings)
    case.write_text(note)
    other = (tmp_path / "seed-1" / "run.npz").read_bytes()
    for bad in (good[:-40], good[:200] + good[201:], b"", other):
        run.write_bytes(bad)
        with pytest.raises(DataError, match=r"holds no run of a sweep|holds another run"):
            sweep(diagonal, range(2), (0.0, 0.1), **settings)
    # Without its note, a run is still known by what is in it.
    run.write_bytes(good)
    case.unlink()
    with pytest.raises(DataError, match="holds another run of a sweep"):
        sweep(lambda seed: diagonal(seed, target=2.0), range(2), (0.0, 0.1), **settings)
    case.unlink()
    assert_same(sweep(diagonal, range(2), (0.0, 0.1), **settings), first)


def test_ctrl_c_ends_a_sweep_and_the_same_call_goes_on(tmp_path):
    whole = sweep(make_case, range(3), SPAN, **SETTINGS)
    begun = []

    def pressed(seed):
        begun.append(seed)
        invariant_set, loss = make_case(seed)
        at = whole.runs[1].summary["evaluations_parameter"] + 20 if seed == 1 else 0
        return invariant_set, Fails(loss, at, KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        sweep(pressed, range(3), SPAN, folder=tmp_path, **SETTINGS)
    assert begun == [0, 1]
    assert [(tmp_path / f"seed-{seed}" / "run.npz").exists() for seed in begun] == [True, False]
    assert_same(sweep(make_case, range(3), SPAN, folder=tmp_path, **SETTINGS), whole)


def test_a_run_is_not_lost_with_its_file(tmp_path, monkeypatch):
    def full(path, kind, values):
        raise OutputError("cannot write: No space left on device")

    monkeypatch.setattr(sys.modules["liftflow.flows.sweep"], "write_arrays", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        runs = sweep(diagonal, [0], (0.0, 0.1), folder=tmp_path, **SMALL)
    assert runs.frame()["success_intrinsic"].all()


def test_a_backend_that_notices_no_death_is_refused():
    with (
        joblib.parallel_config("multiprocessing", n_jobs=2),
        pytest.raises(InputError, match=r"MultiprocessingBackend does neither: use 'loky'"),
    ):
        sweep(make_case, range(2), SPAN, **SETTINGS)
    for backend in ("threading", "sequential"):
        with joblib.parallel_config(backend, n_jobs=2):
            assert len(sweep(diagonal, range(2), (0.0, 0.1), **SMALL).runs) == 2


@pytest.mark.parametrize("seed", ["../x", "a", 1.5, True, None, [1], np.True_])
def test_seeds_that_are_no_integers_are_refused_by_name(seed, tmp_path):
    with pytest.raises(InputError, match="seeds must be integers, got"):
        sweep(diagonal, [0, seed], (0.0, 0.1), folder=tmp_path / "runs", **SMALL)
    assert not list(tmp_path.iterdir())


def test_seeds_are_integers_of_any_type_and_size(tmp_path):
    given, settings = [], {"folder": tmp_path, **SMALL}
    seeds = [2**64 + 1, np.int8(-1), np.array(3)]

    def case(seed):
        given.append(seed)
        return diagonal()

    first = sweep(case, seeds, (0.0, 0.1), **settings)
    assert [(type(seed), seed) for seed in given] == [(int, 2**64 + 1), (int, -1), (int, 3)]
    assert_same(sweep(case, seeds, (0.0, 0.1), **settings), first)
    assert list(first.frame().index) == [2**64 + 1, -1, 3]


@pytest.mark.parametrize(
    "result", [5, None, diagonal()[:1], (*diagonal(), 3), diagonal()[::-1], (diagonal()[0], "f")]
)
def test_another_result_of_make_case_is_refused_by_name(result):
    with pytest.raises(InputError, match=r"make_case must return .* got .* for the seed 7"):
        sweep(lambda seed: result, [7], (0.0, 0.1), **SMALL)


def test_a_number_of_jobs_that_none_can_have():
    with pytest.raises(InputError, match="n_jobs must be a number of processes"):
        sweep(diagonal, [0], (0.0, 0.1), n_jobs=0, **SMALL)
    with joblib.parallel_config("threading"):
        assert len(sweep(diagonal, [0], (0.0, 0.1), n_jobs=10**9, **SMALL).runs) == 1


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(InputError, match="seeds must be given once each"):
        sweep(make_case, [1, 1], SPAN)
    settings = {"folder": tmp_path, **SETTINGS}
    sweep(make_case, [0], SPAN, **settings)
    with pytest.raises(InputError, match="holds a run of another θ₀ or with other settings"):
        sweep(make_case, [0], (0.0, 2.0), **settings)
    (tmp_path / "seed-0" / "run.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds no run of a sweep"):
        sweep(make_case, [0], SPAN, **settings)


@pytest.mark.parametrize("how", ["context", "cause"])
def test_ctrl_c_behind_an_error_of_joblib_is_ctrl_c(how, monkeypatch):
    """It cleans up with errors of its own, and a worker that waits dies with a traceback."""

    def broken(*args, **kwargs):
        if how == "cause":
            raise BrokenProcessPool("a task was lost") from RuntimeError("… KeyboardInterrupt")
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise RuntimeError("cannot join thread before it is started")  # noqa: B904

    monkeypatch.setattr(sys.modules["liftflow.flows.sweep"], "Parallel", lambda **_: broken)
    with pytest.raises(KeyboardInterrupt):
        sweep(make_case, range(2), (0.0, 0.1))


def test_a_worker_that_died_by_itself_is_no_ctrl_c(monkeypatch):
    def broken(*args, **kwargs):
        raise BrokenProcessPool("out of memory")

    monkeypatch.setattr(sys.modules["liftflow.flows.sweep"], "Parallel", lambda **_: broken)
    with pytest.raises(FlowError, match="a worker process died"):
        sweep(make_case, range(2), (0.0, 0.1))


@pytest.mark.slow
def test_a_case_that_cannot_be_sent_to_workers_is_refused():
    lock = threading.Lock()

    def case(seed):
        with lock:
            return make_case(seed)

    with pytest.raises(InputError, match=r"cannot be sent to other processes \(TypeError: cannot"):
        sweep(case, [0, 1], (0.0, 0.1), n_jobs=2, **SETTINGS)
    assert len(sweep(case, [0], (0.0, 0.1), n_jobs=1, **SETTINGS).runs) == 1  # control


def test_an_error_names_its_seed():
    def sick(seed):
        case, loss = make_case(seed)
        return case, loss if seed != 2 else loss_from_function(lambda z: anp.sum(z) * np.nan)

    with pytest.raises(FlowError, match=r"the loss is nan .* seed 2$"):
        sweep(sick, range(4), SPAN, **SETTINGS)
