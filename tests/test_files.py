"""Files are whole or not there; a damaged one is refused, never read as something else."""

import dataclasses
import itertools
import json
import os
import threading
import zipfile
import zlib

import numpy as np
import pytest
from test_checkpoint import Fails, assert_same, integrate, problem

from liftflow import ReLUNetwork, classify, discover_laws, files
from liftflow.criteria import Classification, DiscoveredLaws
from liftflow.errors import DataError, InputError, LiftflowError, OutputError
from liftflow.flows import Trajectory

KIND = "table of a test"


@pytest.fixture(scope="module")
def half():
    """A flow in a chart, ended by Ctrl-C: with a checkpoint, and all that it remembers."""
    invariant_set, loss = problem("dag")
    return integrate("basis", invariant_set, Fails(loss, 60, KeyboardInterrupt()), rtol=1e-5)


def equal(one, other):
    """Whether two trajectories are the same in all their fields."""
    pairs = [(vars(one), vars(other)), (vars(one.checkpoint), vars(other.checkpoint))]
    pairs += [(left.pop("memory"), right.pop("memory")) for left, right in map(copies, pairs[1:])]
    pairs += [(vars(one.checkpoint.origin), vars(other.checkpoint.origin))]
    skipped = ("checkpoint", "origin", "memory")
    return all(
        left.keys() == right.keys()
        and all(np.array_equal(left[k], right[k]) for k in left if k not in skipped)
        for left, right in pairs
    )


def copies(pair):
    return [dict(values) for values in pair]


def test_what_is_written_is_read(tmp_path, half):
    half.save(tmp_path / "run")
    assert equal(Trajectory.load(tmp_path / "run"), half)
    values = {
        "number": 3,
        "text": "häß",
        "nothing": "",
        "flag": True,
        "empty": np.empty((0, 4)),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    }
    files.write_arrays(tmp_path / "table", KIND, values)
    read = files.read_arrays(tmp_path / "table", KIND)
    assert read.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(read[name], value)
    with pytest.raises(DataError, match="it is liftflow table of a test 1, and not liftflow traj"):
        Trajectory.load(tmp_path / "table")
    with pytest.raises(InputError, match="numbers or a text, got dtype object"):
        files.write_arrays(tmp_path / "table", KIND, {"a": np.array([{}])})


def damages_of_bytes(raw, rng):
    """Bits turned, bytes lost, repeated, cleared."""
    for place in rng.integers(0, 8 * len(raw), 250):
        data = bytearray(raw)
        data[place // 8] ^= 1 << place % 8
        yield bytes(data)
    for start, length in zip(
        rng.integers(0, len(raw), 240), rng.integers(1, 400, 240), strict=True
    ):
        end = min(start + length, len(raw))
        yield from (
            raw[:start],
            raw[:start] + raw[end:],
            raw[:end] + raw[start:],
            raw[:start] + bytes(end - start) + raw[end:],
        )


def damages_of_members(arrays, rng):
    """Members exchanged, lost, added, of another shape or type, with other numbers."""
    for one, other in itertools.combinations(arrays, 2):
        if not np.array_equal(arrays[one], arrays[other]):
            yield arrays | {one: arrays[other], other: arrays[one]}
    for name, array in arrays.items():
        yield {other: value for other, value in arrays.items() if other != name}
        yield {other if other != name else f"{name}x": v for other, v in arrays.items()}
        yield arrays | {name: array[None]}
        yield arrays | {name: np.concatenate([np.ravel(array)] * 2)}
        yield arrays | {name: np.array(["1"])}
        if array.dtype.kind == "f":
            yield arrays | {name: array.astype(np.float32)}
            yield arrays | {name: array + 1j}
            for value in (np.nan, np.inf, 0.5):
                changed = np.array(array)
                changed.flat[rng.integers(max(array.size, 1)) :] = value
                if not np.array_equal(changed, array):
                    yield arrays | {name: changed}
    yield arrays | {"whatever": np.zeros(3)}
    yield arrays | {"format": np.array("liftflow trajectory 2")}


@pytest.mark.slow
def test_damaged_archives(tmp_path, half, rng):
    path = tmp_path / "run.npz"
    half.save(path)
    raw, arrays = path.read_bytes(), dict(np.load(path))
    count = refused = 0
    for damage in (*damages_of_bytes(raw, rng), *damages_of_members(arrays, rng)):
        with path.open("wb") as file:
            file.write(damage) if isinstance(damage, bytes) else np.savez(file, **damage)
        count += 1
        try:
            # Some bytes of an archive mean nothing, such as the time of day.
            assert equal(Trajectory.load(path), half)
        except DataError:
            refused += 1
    assert count >= 1500
    assert refused > 0.9 * count
    # The control: written by numpy, but unchanged, it is as good as ours.
    with path.open("wb") as file:
        np.savez(file, **arrays)
    assert equal(Trajectory.load(path), half)


def test_archives_that_promise_more_than_they_hold(tmp_path, half):
    path = tmp_path / "run.npz"
    half.save(path)
    arrays = dict(np.load(path))
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays | {"y": np.zeros(1 << 20)})
    with pytest.raises(DataError, match="declares more than there is in it"):
        Trajectory.load(path)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    with pytest.raises(DataError, match="holds no trajectory"):
        Trajectory.load(path)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }"
    for text in (header, b"-" * 9000 + b"1", b"{'descr': 'O'}"):
        with zipfile.ZipFile(path, "w") as archive:
            text = text.ljust(118) + b"\n"
            size = len(text).to_bytes(2, "little")
            archive.writestr("t.npy", b"\x93NUMPY\x01\x00" + size + text)
        with pytest.raises(DataError, match="holds no trajectory"):
            Trajectory.load(path)


def spoilt(run, **changes):
    """The run with other numbers in it or in its checkpoint, as a file with a right digest."""
    own = {name: value for name, value in changes.items() if hasattr(run, name) and name != "t"}
    inner = {name: value for name, value in changes.items() if name not in own}
    checkpoint = dataclasses.replace(run.checkpoint, **inner)
    return dataclasses.replace(run, checkpoint=checkpoint, **own)


@pytest.mark.parametrize(
    "change",
    [
        lambda run: {"t": np.nan},
        lambda run: {"t": -1.0},
        lambda run: {"step": np.nan},
        lambda run: {"step": -run.checkpoint.step},
        lambda run: {"mark": np.inf},
        lambda run: {"coordinates": run.checkpoint.coordinates * np.nan},
        lambda run: {"coordinates": run.checkpoint.coordinates[:-1]},
        lambda run: {"velocity": run.checkpoint.velocity[:-1]},
        lambda run: {"velocity": run.checkpoint.velocity + np.inf},
        lambda run: {"theta": run.theta * np.nan},
        lambda run: {"theta": run.theta[:-1]},
        lambda run: {"y": run.y[:, :-1]},
        lambda run: {"loss": run.loss[:-1]},
        lambda run: {"memory": run.checkpoint.memory | {"theta": np.array([np.nan])}},
    ],
)
def test_numbers_that_no_flow_leaves_are_not_resumed(change, half, tmp_path):
    """They would lead to no end, or to another one."""
    bad = spoilt(half, **change(half))
    bad.save(tmp_path / "run")
    invariant_set, loss = problem("dag")
    for run in (bad, Trajectory.load(tmp_path / "run")):
        with pytest.raises(InputError, match=r"resume continues .* damaged"):
            integrate("basis", invariant_set, loss, resume=run, rtol=1e-5)


def test_numbers_that_a_flow_left_are_resumed(half):
    """The control of the test before."""
    invariant_set, loss = problem("dag")
    same = spoilt(half, y=half.y.copy(), t=half.checkpoint.t)
    whole = integrate("basis", invariant_set, loss, rtol=1e-5)
    assert_same(integrate("basis", invariant_set, loss, resume=same, rtol=1e-5), whole)


@pytest.mark.parametrize("path", [None, 3, 0, True, b"run", "", "a\0b", ["run"]])
def test_what_is_no_path(path, half, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (half.save, Trajectory.load):
        with pytest.raises(InputError, match="path must be str or Path"):
            call(path)
    assert list(tmp_path.iterdir()) == []


def test_folders_and_pipes_are_no_files(half, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # to read it would be to wait for ever
    for name in ("folder", "pipe"):
        with pytest.raises(OutputError, match="is no file"):
            half.save(tmp_path / name)
        with pytest.raises(DataError, match="it is no file"):
            Trajectory.load(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_modes_are_those_of_the_umask(tmp_path, half):
    before = os.umask(0o027)
    try:
        half.save(tmp_path / "run")
    finally:
        os.umask(before)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o640


def aside(path):
    return path.parent / f".liftflow-{zlib.crc32(path.name.encode()):08x}-0123456789abcdef.part"


def test_what_the_dead_left_aside_is_removed_and_that_of_the_living_is_not(tmp_path, half):
    target, kept = tmp_path / "run", tmp_path / "kept"
    kept.write_text("mine")
    aside(target).write_bytes(b"half of a file")
    half.save(target)
    assert sorted(os.listdir(tmp_path)) == ["kept", "run"]
    # Where a writer is at work, his file stays.
    with files.replacing(target) as file:
        file.write(b"of the first writer")
        half.save(target)
        assert equal(Trajectory.load(target), half)
    assert target.read_bytes() == b"of the first writer"
    # A planted link is neither followed nor taken for one of ours.
    aside(target).symlink_to(kept)
    half.save(target)
    assert kept.read_text() == "mine"


def test_a_failed_writing_leaves_the_earlier_file(tmp_path, half, monkeypatch):
    half.save(tmp_path / "run")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*run: .*No space left"):
        half.head(2).save(tmp_path / "run")
    assert os.listdir(tmp_path) == ["run"]
    assert equal(Trajectory.load(tmp_path / "run"), half)


def in_threads(*calls):
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_many_writers_of_one_file(tmp_path, half):
    problems = []

    def write(count):
        try:
            for _ in range(10):
                half.head(count).save(tmp_path / "run")
                assert len(Trajectory.load(tmp_path / "run").t) in (2, 3, 4)
        except (LiftflowError, AssertionError) as error:
            problems.append(error)

    in_threads(*(lambda count=count: write(count) for count in (2, 3, 4)))
    assert problems == []
    assert os.listdir(tmp_path) == ["run"]


def test_one_at_a_time_in_a_folder(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(20):
            with files.locked(tmp_path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    in_threads(work, work, work)
    assert max(most) == 1
    assert os.listdir(tmp_path) == []
    (tmp_path / ".lock").write_text("of a process that is dead")
    with files.locked(tmp_path):
        pass
    assert os.listdir(tmp_path) == []
    with (
        pytest.raises(OutputError, match="cannot write to the folder"),
        files.locked(tmp_path / "no"),
    ):
        pass


@pytest.mark.parametrize("kind", [Classification, DiscoveredLaws])
def test_texts_that_were_changed_are_refused(tmp_path, kind):
    network, path = ReLUNetwork.diagonal(1), tmp_path / "found.json"
    found = discover_laws(network) if kind is DiscoveredLaws else classify(network, [0.5, 0.8])
    found.save(path)
    text = path.read_text()
    assert str(kind.load(path)) == str(found)
    path.write_text(json.dumps(json.loads(text)))  # the same on one line
    assert str(kind.load(path)) == str(found)

    def changed(value):
        """What is in a text, with one value changed or one name."""
        if isinstance(value, dict):
            for name, item in value.items():
                yield {f"{own}x" if own == name else own: v for own, v in value.items()}
                yield from ({**value, name: other} for other in changed(item))
        elif isinstance(value, list):
            yield [*value, None]
            for place, item in enumerate(value):
                yield from ([*value[:place], o, *value[place + 1 :]] for o in changed(item))
        else:
            yield from (other for other in (None, 7.5, "hollow", []) if other != value)

    every = [*changed(json.loads(text)), [], None, 3]
    deep = "[" * 100_000 + "]" * 100_000
    for damage in (*map(json.dumps, every), text[: len(text) // 2], deep, f'{{"format": {deep}}}'):
        path.write_text(damage)
        with pytest.raises(DataError):
            kind.load(path)
    assert len(every) > 50


def test_files_of_a_newer_version_are_said_to_be_so(tmp_path, half, monkeypatch):
    found = classify(ReLUNetwork.diagonal(1), [0.5, 0.8])
    with monkeypatch.context() as newer:
        newer.setattr(files, "_VERSION", 2)
        for result in (half, found):
            result.save(tmp_path / type(result).__name__)
    for kind in (Trajectory, Classification):
        with pytest.raises(DataError, match=r"newer version of liftflow: .* 2, .* 1; upgrade"):
            kind.load(tmp_path / kind.__name__)
