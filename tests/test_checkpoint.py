"""Long runs: what is saved is enough to go on bit for bit, memory is bounded, charts change."""

import dataclasses
import os
import re
import shutil

import numpy as np
import pytest
import scipy.integrate
from scipy.integrate import DOP853
from test_flows import MODES, precise, problem

from liftflow.architectures import ReLUNetwork
from liftflow.errors import DataError, InputError, OutputError
from liftflow.flows import IntrinsicFlow, ParameterFlow, TrainingRule, Trajectory, compare
from liftflow.losses import Loss
from liftflow.manifolds import InvariantSet
from liftflow.metrics import Cometric, intrinsic_cometric

KEPT = ("t", "y", "theta", "loss", "chart_times")
FLOWS = ("parameter", *MODES)


class Killed(BaseException):
    """Stands for the end of the process: nobody catches it."""


class Fails(Loss):
    """A loss that raises at one of its gradients."""

    def __init__(self, loss, at, error):
        self.loss, self.left, self.error = loss, at, error

    def value(self, z, near=None):
        return self.loss.value(z, near)

    def gradient(self, z, near=None):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.loss.gradient(z, near)


def integrate(kind, invariant_set, loss, **settings):
    """Integrate one of the three flows from θ₀."""
    settings = {"t_span": (0.0, 1.0), "n_times": 11} | precise(1e-7) | settings
    if kind == "parameter":
        flow = ParameterFlow(invariant_set.architecture, loss)
        return flow.integrate(invariant_set.theta0, **settings)
    return IntrinsicFlow(invariant_set, loss, kind).integrate(**settings)


def assert_same(one, other):
    for name in KEPT:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for name in ("success", "message", "n_evaluations", "n_charts"):
        assert getattr(one, name) == getattr(other, name)


@pytest.mark.parametrize(
    ("kind", "method"),
    [*((kind, "RK45") for kind in FLOWS), ("basis", "RK23"), ("basis", "DOP853")],
)
def test_interrupted_saved_and_resumed_bit_for_bit(kind, method, tmp_path):
    invariant_set, loss = problem("dag")
    settings = {"method": method, "rtol": 1e-5}
    whole = integrate(kind, invariant_set, loss, **settings)
    failing = Fails(loss, whole.n_evaluations // 2, KeyboardInterrupt())
    part = integrate(kind, invariant_set, failing, **settings)
    assert not part.success
    assert "interrupted" in part.message
    assert 0 < part.checkpoint.n_steps < whole.checkpoint.n_steps
    part.save(tmp_path / "run")
    resumed = integrate(
        kind, invariant_set, loss, resume=Trajectory.load(tmp_path / "run"), **settings
    )
    assert_same(resumed, whole)
    assert resumed.seconds > part.seconds
    # The control: with another step the end differs in its last digits.
    off = dataclasses.replace(part.checkpoint, step=0.3 * part.checkpoint.step)
    other = integrate(
        kind, invariant_set, loss, resume=dataclasses.replace(part, checkpoint=off), **settings
    )
    assert np.any(other.theta != whole.theta)
    np.testing.assert_allclose(other.theta, whole.theta, atol=1e-3)


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.slow
def test_killed_and_resumed_from_the_file(kind, tmp_path):
    """Whoever kills the process leaves the file of the last checkpoint, whole."""
    invariant_set, loss = problem("layers")
    counting = Fails(loss, 0, None)
    whole = integrate(kind, invariant_set, counting)
    path = tmp_path / "run.npz"
    failing = Fails(loss, -counting.left - 5, Killed())
    settings = {"checkpoint": path, "checkpoint_seconds": 0.0}
    with pytest.raises(Killed):
        integrate(kind, invariant_set, failing, **settings)
    part = Trajectory.load(path)
    assert "still running" in part.message
    assert len(part.t) >= 8
    assert_same(integrate(kind, invariant_set, loss, resume=part, **settings), whole)
    assert_same(Trajectory.load(path), whole)
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


@pytest.mark.parametrize("method", ["Radau", "BDF", "LSODA"])
def test_methods_with_a_longer_memory_resume_within_their_tolerance(method):
    invariant_set, loss = problem("layers")
    whole = integrate("parameter", invariant_set, loss, method=method)
    failing = Fails(loss, whole.n_evaluations // 2, KeyboardInterrupt())
    part = integrate("parameter", invariant_set, failing, method=method)
    resumed = integrate("parameter", invariant_set, loss, method=method, resume=part)
    assert resumed.success
    np.testing.assert_allclose(resumed.theta, whole.theta, atol=1e-4)


def test_a_file_holds_no_pickle(tmp_path):
    invariant_set, loss = problem("dag")
    integrate("basis", invariant_set, loss).save(tmp_path / "run.npz")
    with np.load(tmp_path / "run.npz", allow_pickle=False) as data:
        assert all(data[name].dtype != object for name in data.files)
    np.savez(tmp_path / "run.npz", t=np.array([None]))
    with pytest.raises(DataError, match="holds no trajectory"):
        Trajectory.load(tmp_path / "run.npz")


def test_a_finished_run_is_returned_and_a_longer_one_goes_on():
    invariant_set, loss = problem("dag")
    times = np.linspace(0.0, 1.0, 11)
    half = integrate("basis", invariant_set, loss, t_span=(0.0, 0.5), t_eval=times[:6])
    same = {"t_span": (0.0, 0.5), "resume": half}
    assert integrate("basis", invariant_set, loss, t_eval=times[:6], **same) is half
    with pytest.raises(InputError, match="times asked for now differ"):
        integrate("basis", invariant_set, loss, **same)
    late = dataclasses.replace(half, interrupted=True)  # by Ctrl-C, after the last step
    again = integrate("basis", invariant_set, loss, t_eval=times[:6], **same | {"resume": late})
    assert again.success
    assert not again.interrupted
    assert_same(again, half)
    with pytest.raises(InputError, match=r"went to t = 0\.5 already, beyond the end 0\.35 asked"):
        integrate("basis", invariant_set, loss, t_eval=times[:4], t_span=(0.0, 0.35), resume=half)
    longer = integrate("basis", invariant_set, loss, t_eval=times, resume=half)
    whole = integrate("basis", invariant_set, loss, t_eval=times)
    np.testing.assert_array_equal(longer.theta[:6], half.theta)
    np.testing.assert_allclose(longer.theta, whole.theta, atol=1e-6)
    # Where the last step before the end was the one that led to another chart, too.
    edge = whole.chart_times[0]
    before = times[times < edge]
    half = integrate("basis", invariant_set, loss, t_span=(0.0, edge), t_eval=before)
    assert half.chart_times.tolist() == [edge]
    longer = integrate("basis", invariant_set, loss, t_eval=times, resume=half)
    np.testing.assert_allclose(longer.theta, whole.theta, atol=1e-6)


def test_resume_refuses_what_does_not_fit():
    invariant_set, loss = problem("dag")
    other_set, other_loss = problem("layers")
    part = integrate("basis", invariant_set, loss, t_span=(0.0, 0.5))
    with pytest.raises(InputError, match="resume must be a Trajectory, got str"):
        integrate("basis", invariant_set, loss, resume="run.npz")
    with pytest.raises(InputError, match="times asked for now differ from its first 11"):
        integrate("basis", invariant_set, loss, resume=part)
    elsewhere = InvariantSet(invariant_set.architecture, 1.1 * invariant_set.theta0)
    with pytest.raises(InputError, match="which had another start or another loss"):
        integrate("basis", elsewhere, loss, t_eval=part.t, resume=part)
    rated = IntrinsicFlow(invariant_set, loss, "basis", rule=TrainingRule(3.0))
    with pytest.raises(InputError, match="other learning rates"):
        rated.integrate(t_span=(0.0, 1.0), t_eval=part.t, resume=part)
    with pytest.raises(InputError, match="its state has 14 numbers"):
        integrate("basis", other_set, other_loss, t_eval=part.t, resume=part)
    with pytest.raises(InputError, match=r"remembers \[.*'theta'\], that of this flow 18 and \[\]"):
        integrate("parameter", invariant_set, loss, t_eval=part.t, resume=part)
    with pytest.raises(InputError, match=r"from t = 0\.5 a run that began at t = 0; .*not at 0\.2"):
        integrate("basis", invariant_set, loss, t_span=(0.2, 1.0), resume=part)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        (
            {"rtol": 1e-6},
            r"a run with rtol = 1e-05, got rtol = 1e-06; give the same, or start anew",
        ),
        ({"atol": 1e-6}, r"a run with atol = 1e-09, got atol = 1e-06; give the same, or"),
        ({"method": "RK23"}, r"a run with method = RK45, got method = RK23; give the same, or"),
        (
            {"rtol": 1e-6, "method": DOP853},
            r"with rtol = 1e-05, method = RK45, got rtol = 1e-06, method = DOP853;",
        ),
    ],
)
def test_resume_refuses_other_settings_also_where_the_run_is_done(changed, match, tmp_path):
    invariant_set, loss = problem("dag")
    settings = {"rtol": 1e-5, "atol": 1e-9, "method": "RK45"}
    done = integrate("basis", invariant_set, loss, **settings)
    failing = Fails(loss, done.n_evaluations // 2, KeyboardInterrupt())
    part = integrate("basis", invariant_set, failing, **settings)
    for number, run in enumerate((done, part)):
        run.save(tmp_path / f"{number}.npz")
        for earlier in (run, Trajectory.load(tmp_path / f"{number}.npz")):
            with pytest.raises(InputError, match=match):
                integrate("basis", invariant_set, loss, resume=earlier, **settings | changed)


def test_resume_takes_other_settings_that_decide_no_step(tmp_path):
    invariant_set, loss = problem("dag")
    whole = integrate("basis", invariant_set, loss)
    part = integrate(
        "basis", invariant_set, Fails(loss, whole.n_evaluations // 2, KeyboardInterrupt())
    )
    free = {"checkpoint": tmp_path / "run", "checkpoint_seconds": 0.0, "memory_limit": 1e9}
    same = precise(1e-7)["method"]
    again = integrate(
        "basis", invariant_set, loss, resume=part, method=getattr(scipy.integrate, same), **free
    )
    assert_same(again, whole)


def test_resume_refuses_another_metric():
    """The start and the loss there are the same; the velocity is not."""
    invariant_set, loss = problem("layers")
    architecture, theta0 = invariant_set.architecture, invariant_set.theta0
    settings = {"t_span": (0.0, 1.0), "rtol": 1e-5, "atol": 1e-8}
    elsewhere = intrinsic_cometric(architecture, architecture.fibre_point(theta0, 0))
    part = IntrinsicFlow(
        invariant_set, Fails(loss, 20, KeyboardInterrupt()), "full", elsewhere
    ).integrate(**settings)
    assert part.checkpoint.n_steps > 0
    with pytest.raises(InputError, match=r"left this start at the speed [\d.]+, not [\d.]+; is it"):
        IntrinsicFlow(invariant_set, loss, "full").integrate(resume=part, **settings)
    assert (
        IntrinsicFlow(invariant_set, loss, "full", elsewhere)
        .integrate(resume=part, **settings)
        .success
    )


def test_resumed_before_the_first_time_asked_for():
    invariant_set, loss = problem("dag")
    times = np.array([0.5, 1.0])
    whole = integrate("basis", invariant_set, loss, t_eval=times)
    failing = Fails(loss, whole.n_evaluations // 4, KeyboardInterrupt())
    part = integrate("basis", invariant_set, failing, t_eval=times)
    assert 0 < part.checkpoint.t < times[0]
    assert_same(integrate("basis", invariant_set, loss, t_eval=times, resume=part), whole)
    # Of a time that the run has passed, it kept no state.
    passed = np.append(0.5 * part.checkpoint.t, times)
    with pytest.raises(InputError, match="the times asked for now differ"):
        integrate("basis", invariant_set, loss, t_eval=passed, resume=part)


def test_states_are_thinned_to_the_memory_allowed():
    invariant_set, loss = problem("dag")
    dim = invariant_set.architecture.dim
    full = integrate("parameter", invariant_set, loss, n_times=101)
    thin = integrate("parameter", invariant_set, loss, n_times=101, memory_limit=11 * 8 * (dim + 2))
    np.testing.assert_array_equal(thin.t, full.t[::10])
    limit = 5 * 8 * (2 * dim + 4)  # with the time, the loss and two deviations
    comparison = compare(invariant_set, loss, (0.0, 1.0), memory_limit=limit, **precise(1e-8))
    np.testing.assert_array_equal(comparison.parameter.t, comparison.intrinsic.t)
    assert len(comparison.parameter.t) == 5
    assert comparison.max_deviation < 1e-6


def test_a_comparison_goes_on_from_its_folder(tmp_path):
    invariant_set, loss = problem("dag")
    settings = {"t_span": (0.0, 1.0), "n_times": 6} | precise(1e-6)
    whole = compare(invariant_set, loss, **settings)
    count = whole.parameter.n_evaluations + whole.intrinsic.n_evaluations // 2
    with pytest.raises(Killed):
        compare(invariant_set, Fails(loss, count, Killed()), checkpoints=tmp_path, **settings)
    assert Trajectory.load(tmp_path / "parameter.npz").success
    assert "started" in Trajectory.load(tmp_path / "intrinsic.npz").message
    again = compare(invariant_set, loss, checkpoints=tmp_path, **settings)
    assert again.parameter.seconds == Trajectory.load(tmp_path / "parameter.npz").seconds
    np.testing.assert_array_equal(again.deviation, whole.deviation)
    shown = str(again)
    assert "charts" in shown


def test_a_comparison_uses_a_checkpoint_only_for_what_it_is(tmp_path):
    invariant_set, loss = problem("dag")
    settings = {"t_span": (0.0, 1.0), "n_times": 6, "rtol": 1e-5}
    folder = tmp_path / "new" / "folder"  # is made
    whole = compare(invariant_set, loss, checkpoints=folder, **settings)
    (folder / "intrinsic.npz").unlink()  # as if killed between the flows
    dim = invariant_set.architecture.dim
    for changed, match in (
        ({"n_times": 11}, "times asked for now differ"),
        ({"t_span": (0.0, 0.6), "n_times": 4}, r"went to t = 1 already, beyond the end 0\.6"),
        ({"t_span": (0.0, 2.0)}, "times asked for now differ"),
        ({"memory_limit": 3 * 16 * dim}, "times asked for now differ"),
        ({"rtol": 1e-6}, "a run with rtol"),
        ({"t_span": (0.0, 0.6), "control": True}, "beyond the end"),
    ):
        with pytest.raises(InputError, match=match):
            compare(invariant_set, loss, checkpoints=folder, **settings | changed)
    again = compare(invariant_set, loss, checkpoints=folder, control=True, **settings)
    np.testing.assert_array_equal(again.deviation, whole.deviation)
    np.testing.assert_array_equal(again.control.t, again.parameter.t)
    # Twice as long, at the same times as far as it goes: this is the same run, and goes on.
    longer = compare(
        invariant_set, loss, checkpoints=folder, **settings | {"t_span": (0.0, 2.0), "n_times": 11}
    )
    np.testing.assert_array_equal(longer.parameter.theta[:6], whole.parameter.theta)
    with pytest.raises(InputError, match=r"checkpoints must be str or Path or None, got 3"):
        compare(invariant_set, loss, checkpoints=3, **settings)


class Agrees(Loss):
    """A loss that takes the values and the gradients of another one where they are told apart."""

    def __init__(self, loss, change):
        self.loss, self.change = loss, change

    def value(self, z, near=None):
        return self.loss.value(z, near) + self.change(z)[0]

    def gradient(self, z, near=None):
        return self.loss.gradient(z, near) + self.change(z)[1]


def changes(z0):
    """Changes of a loss that vanish at z₀, ever more of them, and their gradients."""
    normal = np.random.default_rng(5).standard_normal(z0.size)

    def cubic(z):
        return np.sum((z - z0) ** 3, axis=-1), 3 * (z - z0) ** 2

    def far(z):  # nothing at all within the distance 1 of z₀
        reach = np.maximum(np.linalg.norm(z - z0) - 1.0, 0.0)
        away = (z - z0) / max(np.linalg.norm(z - z0), 1.0)
        return reach**2, 2 * reach * away

    return {
        "slope": lambda z: ((z - z0) @ normal, normal),
        "curvature": lambda z: (0.01 * np.sum((z - z0) ** 2, axis=-1), 0.02 * (z - z0)),
        "cubic": cubic,
        "far": far,
    }


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize("change", ["slope", "curvature", "cubic", "far"])
def test_resume_refuses_a_loss_that_begins_alike(kind, change):
    invariant_set, loss = problem("layers")
    settings = {"t_span": (0.0, 0.2), "n_times": 3, "rtol": 1e-4, "atol": 1e-7}
    part = integrate(kind, invariant_set, loss, **settings)
    z0 = invariant_set.architecture.lift(invariant_set.theta0)
    other = Agrees(loss, changes(z0)[change])
    with pytest.raises(InputError, match="resume continues the flow it came from, which "):
        integrate(kind, invariant_set, other, resume=part, **settings)
    equal = Agrees(loss, lambda z: (0.0, 0.0))  # the control
    assert integrate(kind, invariant_set, equal, resume=part, **settings) is part


class Frozen(Cometric):
    """K stays as it is at z₀."""

    def __init__(self, cometric, z0):
        super().__init__(cometric.architecture, cometric.theta0)
        self.moving, self.z0 = cometric, z0

    def apply(self, z, covector, *, near=None):
        return self.moving.apply(self.z0, covector, near=self.theta0)

    def solve(self, z, vector, *, near=None):
        return self.moving.solve(self.z0, vector, near=self.theta0)

    def point(self, z, *, near=None):
        return self.moving.point(z, near=near)


def test_resume_refuses_a_metric_that_begins_alike():
    invariant_set, loss = problem("layers")
    architecture, theta0 = invariant_set.architecture, invariant_set.theta0
    moving = intrinsic_cometric(architecture, theta0)
    settings = {"t_span": (0.0, 0.2), "n_times": 3, "rtol": 1e-4}
    part = IntrinsicFlow(invariant_set, loss, "full", moving).integrate(**settings)
    frozen = IntrinsicFlow(invariant_set, loss, "full", Frozen(moving, architecture.lift(theta0)))
    with pytest.raises(InputError, match="goes on otherwise after the same start"):
        frozen.integrate(resume=part, **settings)


def test_a_run_whose_last_checkpoint_is_at_the_end_is_finished(monkeypatch):
    """Killed after that, and before it said so."""
    invariant_set, loss = problem("dag")
    saved, settings = [], {"rtol": 1e-5, "checkpoint": "run", "checkpoint_seconds": 0.0}
    monkeypatch.setattr(Trajectory, "save", lambda self, path: saved.append(self))
    whole = integrate("basis", invariant_set, loss, **settings)
    assert "still running at t = 1" in saved[-2].message
    assert_same(integrate("basis", invariant_set, loss, resume=saved[-2], **settings), whole)


def test_the_remark_outlives_the_end_of_a_resumed_run(monkeypatch):
    """Killed half-way, resumed, and killed again after the last step."""
    invariant_set, loss = problem("layers")
    saved, settings = [], {"rtol": 1e-4, "method": "LSODA", "checkpoint": "run"}
    monkeypatch.setattr(Trajectory, "save", lambda self, path: saved.append(self))
    settings["checkpoint_seconds"] = 0.0
    integrate("parameter", invariant_set, loss, **settings)
    half = saved[len(saved) // 2]
    resumed = integrate("parameter", invariant_set, loss, resume=half, **settings)
    last = saved[-2]
    again = integrate("parameter", invariant_set, loss, resume=last, **settings)
    assert (last.success, resumed.success, again.success) == (False, True, True)
    assert type(resumed.success) is bool  # JSON knows none of numpy
    assert again.message == resumed.message
    assert re.fullmatch("reached the end of the time span; resumed at .* holds", again.message)


@pytest.mark.slow
def test_ctrl_c_ends_the_whole_comparison_and_the_same_call_goes_on(tmp_path):
    invariant_set, loss = problem("layers")
    settings = {"t_span": (0.0, 0.3), "n_times": 6, "rtol": 1e-4, "control": True}
    whole = compare(invariant_set, loss, **settings)
    assert whole.success
    assert not whole.interrupted
    flows = [whole.parameter, whole.intrinsic, whole.control]
    before = 0
    for number, flow in enumerate(flows):
        pressed = Fails(loss, before + flow.n_evaluations // 2, KeyboardInterrupt())
        before += flow.n_evaluations
        cut = compare(invariant_set, pressed, checkpoints=tmp_path / str(number), **settings)
        assert cut.interrupted
        assert not cut.success
        got = [cut.parameter, cut.intrinsic, cut.control]
        assert [own.success for own in got] == [place < number for place in range(3)]
        assert all(own.message == "not begun: interrupted" for own in got[number + 1 :])
        assert all(len(own.t) == 1 for own in got[number + 1 :])
        assert "interrupted" in str(cut)
        again = compare(invariant_set, loss, checkpoints=tmp_path / str(number), **settings)
        for own, right in zip(
            (again.parameter, again.intrinsic, again.control), flows, strict=True
        ):
            assert_same(own, right)


def test_ctrl_c_while_a_later_flow_starts_keeps_the_one_before():
    invariant_set, loss = problem("dag")
    settings = {"t_span": (0.0, 0.3), "n_times": 4, "rtol": 1e-4}
    seen = Fails(loss, 10**9, KeyboardInterrupt())
    flow = ParameterFlow(invariant_set.architecture, seen)
    first = flow.integrate(invariant_set.theta0, **settings)
    for later in range(1, 4):  # its first point, its loss there, its first velocity
        pressed = Fails(loss, 10**9 - seen.left + later, KeyboardInterrupt())
        cut = compare(invariant_set, pressed, **settings)
        assert cut.interrupted
        assert not cut.success
        assert_same(cut.parameter, first)
        assert (cut.intrinsic.message, len(cut.intrinsic.t)) == ("not begun: interrupted", 1)
    with pytest.raises(KeyboardInterrupt):  # the control: there is nothing to keep
        compare(invariant_set, Fails(loss, 1, KeyboardInterrupt()), **settings)


def test_a_flow_is_not_lost_with_the_folder_or_the_disk(tmp_path, monkeypatch):
    """After the first flow no checkpoint can be written any more: the others run all the same."""
    invariant_set, loss = problem("dag")
    settings = {"t_span": (0.0, 1.0), "n_times": 6, "rtol": 1e-5}
    whole = compare(invariant_set, loss, **settings)
    count, fsync = [], os.fsync

    def full(handle):
        count.append(handle)
        if len(count) > 1:  # the first checkpoint
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(RuntimeWarning, match="cannot write .*No space left") as said:
        got = compare(invariant_set, loss, checkpoints=tmp_path, **settings)
    assert [str(warning.message).split(":")[0].split("/")[-1] for warning in said] == [
        "parameter.npz",
        "intrinsic.npz",
    ]
    np.testing.assert_array_equal(got.deviation, whole.deviation)
    assert got.success
    for flow in (got.parameter, got.intrinsic):
        assert "reached the end of the time span; cannot write" in flow.message
    assert os.listdir(tmp_path) == ["parameter.npz"]


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    """Said before the run where that can be known, and never at the price of the run."""
    invariant_set, loss = problem("dag")
    with pytest.raises(OutputError, match="cannot write"):
        integrate("basis", invariant_set, loss, checkpoint=tmp_path / "nowhere" / "run.npz")
    folder = tmp_path / "there"
    folder.mkdir()

    class Removes(Fails):
        def gradient(self, z, near=None):
            self.left -= 1
            if self.left <= 0:
                shutil.rmtree(folder, ignore_errors=True)
            return self.loss.gradient(z, near)

    settings = {"checkpoint": folder / "run.npz", "checkpoint_seconds": 0.0}
    with pytest.warns(RuntimeWarning, match="cannot write") as said:
        run = integrate("basis", invariant_set, Removes(loss, 20, None), **settings)
    assert len(said) == 1
    assert run.success
    assert "cannot write" in run.message
    np.testing.assert_array_equal(run.theta, integrate("basis", invariant_set, loss).theta)


def test_progress_shows_time_loss_and_rate(capsys, monkeypatch):
    monkeypatch.setattr("liftflow.flows.integrate._REFRESH", 0.0)
    invariant_set, loss = problem("dag")
    quiet = integrate("basis", invariant_set, loss)
    assert capsys.readouterr().err == ""  # no terminal
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "150"}.items():
        monkeypatch.setenv(name, value)  # a terminal, where it shows itself after a while
    integrate("basis", invariant_set, loss)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("liftflow.waiting.PATIENCE", 0.0)
    for progress in (True, None):
        shown = integrate("basis", invariant_set, loss, progress=progress)
        printed = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
        assert "steps/s" in printed
        assert f"loss {shown.loss[-1]:.4g}" in printed
        assert_same(shown, quiet)  # looking changes nothing
    integrate("basis", invariant_set, loss, progress=False)
    assert capsys.readouterr().err == ""


# Changes of chart.


class Spirals(Loss):
    """Each of two neurons, with z = (x, y), winds out along the valley angle = 4 log |z| + offset.

    At each quarter of a turn, the path that was strongest gets ten times weaker than the other.
    """

    turn, depth, offsets = 4.0, 0.5, np.array([0.0, np.pi / 4])

    def _polar(self, z):
        point = z[..., :2] + 1j * z[..., 2:]
        return point, self.turn * np.log(np.abs(point)) + self.offsets - np.angle(point)

    def value(self, z, near=None):
        point, phase = self._polar(z)
        return np.sum(self.depth * (1 - np.cos(phase)) - np.log(np.abs(point)), axis=-1)

    def gradient(self, z, near=None):
        point, phase = self._polar(z)
        radial, angular = self.depth * self.turn * np.sin(phase) - 1, -self.depth * np.sin(phase)
        slope = (radial + 1j * angular) * point / np.abs(point) ** 2
        return np.concatenate([slope.real, slope.imag], axis=-1)


def many_charts():
    network = ReLUNetwork.from_widths([2, 2, 1])
    diagonal = np.sqrt(0.5)
    theta0 = network.pack([[1.0, diagonal], [0.02, diagonal]], np.ones((2, 1)))
    return InvariantSet(network, theta0), Spirals()


@pytest.mark.slow
def test_many_changes_of_chart():
    """A flow that changes its chart ten times stays on the other, and says when it changed."""
    invariant_set, loss = many_charts()
    comparison = compare(invariant_set, loss, (0.0, 120.0), rtol=1e-5, atol=1e-7, control=True)
    flow = comparison.intrinsic
    assert comparison.summary()["n_charts"] == flow.n_charts == 1 + len(flow.chart_times)
    assert flow.n_charts > 10
    assert np.all(np.diff(flow.chart_times) > 0)
    assert flow.chart_times[0] > 0
    assert flow.chart_times[-1] <= 120.0
    assert comparison.max_deviation <= 1e-4
    assert comparison.control_deviation > 0.1


def test_resumed_between_changes_of_chart():
    invariant_set, loss = many_charts()
    settings = {"t_span": (0.0, 30.0), "rtol": 1e-4, "method": "RK45"}
    whole = integrate("basis", invariant_set, loss, **settings)
    failing = Fails(loss, whole.n_evaluations // 2, KeyboardInterrupt())
    part = integrate("basis", invariant_set, failing, **settings)
    assert 1 < part.n_charts < whole.n_charts
    assert_same(integrate("basis", invariant_set, loss, resume=part, **settings), whole)
