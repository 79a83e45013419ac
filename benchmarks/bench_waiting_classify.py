"""What people wait for at the start: the command, the import, and ``classify``, in seconds of CPU.

The command and two networks are timed by the earlier commit of bench_waiting.py, too; the import,
without and with all names, beside what geomstats and networkx cost.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bench_waiting import BEFORE, beside, both
from table import Row, report
from worker import earlier

from liftflow import Attention, DeepLinear, ReLUNetwork, TwoLayerLinear, classify
from liftflow.architectures import Architecture

HERE = Path(__file__).parent


def spent_by(code: str, root: Path = HERE.parent, repeats: int = 5) -> float:
    """CPU that a Python of its own needs for some code, the least of several."""
    found, environment = [], {**os.environ, "PYTHONPATH": str(root / "src")}
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=environment
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def starts() -> Iterator[Row]:
    """Start the command and import the package."""
    for option in ("--help", "--version"):
        code = f"import sys; sys.argv[1:] = [{option!r}]; from liftflow.cli import app; app()"
        what, spent = f"CPU of liftflow {option}", spent_by(code)
        yield Row(what, spent, None, "", 0.4)
        before = earlier(BEFORE)
        if option == "--help" and before is not None:  # which had no version
            yield Row(what, spent, spent_by(code, before, 2), f"before ({BEFORE})")
    peers = spent_by("import geomstats.backend, networkx")
    for code, limit in (("import liftflow", 1.1), ("from liftflow import *", None)):
        yield Row(f"CPU of {code}", spent_by(code), peers, "geomstats and networkx", limit)


def points(network: Architecture) -> Iterator[tuple[str, np.ndarray]]:
    """Points of every kind: generic, balanced, with zeros, and with scales that part."""
    rng, theta = np.random.default_rng(0), network.random_point(rng=0)
    yield "random", theta
    if isinstance(network, ReLUNetwork):
        wild = theta * 10.0 ** rng.uniform(-4, 4, network.dim)
        yield "zeros, scales apart", np.where(rng.random(network.dim) < 0.3, 0.0, wild)
    else:
        yield "balanced", network.balanced_point(0.0, 0)
        yield "scales apart", theta * np.exp(3 * rng.standard_normal(network.dim))
        first = network.unpack(theta)[0].size
        yield "a zero block", np.append(np.zeros(first), theta[first:])
    third = np.arange(network.dim) < network.dim // 3
    yield "zeros", np.where(rng.random(network.dim) < 0.3, 0.0, theta)
    yield "a third zero", np.where(third, 0.0, theta)
    yield "twelve decades", theta * 10.0 ** rng.uniform(-6, 6, network.dim)
    yield "a third small", np.where(third, 1e-4 * theta, theta)


def before() -> Iterator[Row]:
    """The networks that took longest, by both commits; the earlier one may take minutes."""
    for widths in ([5, 8, 5], [4, 4, 4, 4, 4]):
        kind = "ReLU" if len(widths) == 3 else "linear"
        what = f"classify {kind} {'-'.join(map(str, widths))}, balanced or random"
        yield from beside(what, *both("classified", 1, widths=widths), "", 2.0, 0.0)


CASES = {
    "ReLU 4-6-6-4": (lambda: ReLUNetwork.from_widths([4, 6, 6, 4]), 2.0),
    "ReLU 5-8-5": (lambda: ReLUNetwork.from_widths([5, 8, 5]), 2.0),
    "ReLU 10-10-10-10": (lambda: ReLUNetwork.from_widths([10, 10, 10, 10]), 20.0),
    "linear 4-4-4-4-4": (lambda: DeepLinear([4, 4, 4, 4, 4]), 2.0),
    "linear 7-7-7": (lambda: TwoLayerLinear(7, 7, 7), 2.0),
    "linear 10-10-10-10": (lambda: DeepLinear([10, 10, 10, 10]), 20.0),
    "linear, 11 layers of 3": (lambda: DeepLinear([3] * 12), 2.0),
    "linear, 25 layers of 2": (lambda: DeepLinear([2] * 26), 2.0),
    "recurrent 4-6-3": (lambda: ReLUNetwork.recurrent(4, 6, 3, 3), 2.0),
    "linear 20-4-5": (lambda: TwoLayerLinear(20, 5, 4), 2.0),
    "linear 1-40-1": (lambda: DeepLinear([1, 40, 1]), 2.0),
    "linear 8-5-4-2-4-3": (lambda: DeepLinear([8, 5, 4, 2, 4, 3]), 2.0),
    "linear 2-4-7-2-5-5": (lambda: DeepLinear([2, 4, 7, 2, 5, 5]), 2.0),
    "ReLU, 30 chains of 3": (lambda: ReLUNetwork.diagonal(30, 3), 2.0),
    "ReLU, 11 layers of 2": (lambda: ReLUNetwork.from_widths([2] * 12), 2.0),
    "attention 6, 4, 2 heads": (lambda: Attention(6, 4, 2), 20.0),
}


def classified() -> Iterator[Row]:
    """Classify networks at points of every kind."""
    for name, (build, limit) in CASES.items():
        network = build()
        for kind, theta in points(network):
            start = time.process_time()
            found = classify(network, theta, rng=0)
            spent = time.process_time() - start
            doubts = sum(finding.verdict == "undecided" for finding in vars(found).values())
            what = f"classify {name} (D = {network.dim}), {kind}"
            yield Row(what, spent, None, f"{doubts} undecided" if doubts else "", limit)


if __name__ == "__main__":
    report([*starts(), *before(), *classified()])
