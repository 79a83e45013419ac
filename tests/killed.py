"""A process that starts comparisons and sweeps, ends them at random moments, and makes them again.

It is run by test_killed.py, apart from pytest, so that it may fork: its children then need not
import liftflow anew, which would take longer than what they do.
"""

import hashlib
import json
import os
import signal
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from joblib.externals.loky.backend.context import set_start_method

from liftflow import InvariantSet, Loss, ReLUNetwork, compare, sweep

MOMENTS = 30
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
NETWORK = ReLUNetwork.from_widths([2, 2, 2])
SETTINGS = {"t_span": (0.0, 1.0), "rtol": 1e-6, "n_times": 11}


class Bowl(Loss):
    """Square distance to a point that a seed picks."""

    def __init__(self, seed):
        self.point = np.random.default_rng(seed).standard_normal(NETWORK.lifted_shape)

    def value(self, z, near=None):
        return 0.5 * np.sum((z - self.point) ** 2, axis=-1)

    def gradient(self, z, near=None):
        return z - self.point


def make_case(seed):
    return InvariantSet(NETWORK, NETWORK.random_point(rng=seed)), Bowl(seed + 100)


def of_compare(folder, seed=0):
    both = compare(*make_case(seed), control=True, checkpoints=folder, **SETTINGS)
    if both.interrupted:
        raise KeyboardInterrupt
    flows = (both.parameter, both.intrinsic, both.control)
    curves = [getattr(flow, name) for flow in flows for name in ("t", "y", "theta", "loss")]
    facts = [(flow.n_evaluations, flow.n_charts, flow.message) for flow in flows]
    return [*curves, both.deviation, both.control_deviation_over_time], facts


def of_sweep(folder, seed=0):
    runs = sweep(make_case, range(seed, seed + 3), n_jobs=2, folder=folder, **SETTINGS).runs
    curves = [c for r in runs for c in (r.t, r.deviation, r.loss_parameter, r.loss_intrinsic)]
    facts = [{k: v for k, v in r.summary.items() if "seconds" not in k} for r in runs]
    return curves, facts


def digest(results):
    curves, facts = results
    numbers = hashlib.sha256(b"".join(np.ascontiguousarray(c).tobytes() for c in curves))
    return numbers.hexdigest() + json.dumps(facts, sort_keys=True)


def start(call, folder, answer, **settings):
    """Make a call in a process group of its own, which leaves its answer in a file."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            answer.write_text(digest(call(folder, **settings)))
            sys.stdout.flush()
            os._exit(0)
        except KeyboardInterrupt:
            os._exit(130)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return child


def ended(child, seconds):
    """Exit code of a process as soon as it has ended, negative for a signal; else None."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def clear(child):
    """End what is left of the process group of a child."""
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def whole(call, folder, answer, **settings):
    """Make a call undisturbed; its answer, and the time it took."""
    began = time.monotonic()
    child = start(call, folder, answer, **settings)
    code = ended(child, 60)
    clear(child)
    return (answer.read_text() if code == 0 else f"exit {code}"), time.monotonic() - began


def disturb(call, scratch, rng):
    """Disturb a call at random moments; what went wrong, and how often it was disturbed."""
    right, seconds = whole(call, scratch / "right", scratch / "answer")
    files = names(scratch / "right")
    control, _ = whole(call, scratch / "control", scratch / "answer", seed=7)
    wrong = [] if control != right and "exit" not in right else ["the control is the same"]
    disturbed = tries = slowest = 0
    while disturbed < MOMENTS and tries < 3 * MOMENTS:
        tries += 1
        folder, sign = scratch / f"try-{tries}", SIGNALS[disturbed % len(SIGNALS)]
        to_all = bool(rng.integers(2))
        child = start(call, folder, scratch / "answer")
        time.sleep(rng.uniform(0, seconds))
        try:
            (os.killpg if to_all else os.kill)(child, sign)
        except ProcessLookupError:  # it has no group of its own yet
            os.kill(child, sign)
        stopped = time.monotonic()
        code = ended(child, 20)
        slowest = max(slowest, time.monotonic() - stopped)
        disturbed += code != 0
        if code not in (0, 130, -sign):
            wrong.append(f"{sign.name}, to all: {to_all}: ended with {code}")
        again, _ = whole(call, folder, scratch / "answer")
        clear(child)  # workers may outlive a parent that was killed
        if again != right:
            wrong.append(f"{sign.name}, to all: {to_all}: other results: {again[:200]}")
        if names(folder) != files:
            wrong.append(f"{sign.name}, to all: {to_all}: {names(folder)} instead of {files}")
    return {"wrong": wrong, "disturbed": disturbed, "slowest": slowest, "files": files}


if __name__ == "__main__":
    # Checkpoints come each 40 ms instead of each minute, and workers are forked, too.
    clock = SimpleNamespace(
        monotonic=lambda: 1500 * time.monotonic(), perf_counter=time.perf_counter
    )
    sys.modules["liftflow.flows.integrate"].time = clock
    warnings.simplefilter("ignore")  # joblib prefers to start its workers anew
    set_start_method("fork")
    call = {"compare": of_compare, "sweep": of_sweep}[sys.argv[1]]
    print(json.dumps(disturb(call, Path(sys.argv[2]), np.random.default_rng(0))))
