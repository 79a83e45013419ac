"""What people wait for: each number of the issue, the old value beside the new one.

Ours beside peers in ratios: a flow on the digits by JAX with diffrax and by PyTorch with scipy, the
counts of laws by a generic bracket in JAX, geodesics by geomstats. A peer that is not installed is
skipped with the reason. ``LIFTFLOW_PEERS`` names Pythons that have them, separated by colons. An
old value in a row's name was measured before, on two cores of such a machine.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import autograd.numpy as anp
import networkx as nx
import numpy as np
from table import Row, report, side_by_side

from liftflow import InvariantSet, NetworkLoss, ParameterFlow, ReLUNetwork, compare
from liftflow.architectures import Architecture
from liftflow.criteria import count_conservation_laws
from liftflow.data import load
from liftflow.errors import GeodesicError
from liftflow.testing import check_metric

PEERS = Path(__file__).with_name("peers.py")
WIDTHS, T_END, RTOL = [64, 128, 128, 10], 0.5, 1e-6


def seconds(function: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def evaluations() -> Iterator[Row]:
    """Kept times must not decide the steps: evaluations, which no machine changes."""
    iris = load("iris")
    network = ReLUNetwork.from_widths([4, 5, 3])
    loss = NetworkLoss(network, iris.inputs, iris.targets, "cross-entropy")
    few, many = (
        ParameterFlow(network, loss)
        .integrate(network.random_point(rng=0), (0.0, 3.0), rtol=1e-3, n_times=count)
        .n_evaluations
        for count in (2, 101)
    )
    missed = "" if many <= 1.2 * few else " MISSED"
    yield Row(
        "evaluations with 101 kept times, rtol 1e-3",
        None,
        None,
        f"{many}, with two {few}; 602 before{missed}",
    )


def digits() -> tuple[ReLUNetwork, NetworkLoss, np.ndarray]:
    """The network and data of the demonstration, larger, and a start."""
    data, network = load("digits"), ReLUNetwork.from_widths(WIDTHS)
    labels = data.targets_for("cross-entropy")
    return (
        network,
        NetworkLoss(network, data.inputs, labels, "cross-entropy"),
        network.random_point(rng=0),
    )


def crowded() -> Iterator[Row]:
    """The flows of ``make demo`` alone, and beside two busy loops on whatever cores there are."""
    data, network = load("digits"), ReLUNetwork.from_widths([64, 32, 10])
    loss = NetworkLoss(network, data.inputs, data.targets_for("cross-entropy"), "cross-entropy")
    start = InvariantSet(network, network.random_point(rng=0))

    def demo() -> None:
        compare(start, loss, (0.0, 2.0), rtol=1e-5, n_times=2, progress=False)

    demo()
    alone = min(seconds(demo) for _ in range(3))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        time.sleep(0.5)
        beside = min(seconds(demo) for _ in range(3))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    yield Row("demo beside two busy loops; 30 × slower before", beside, alone, "alone", 3.0)


class Tensors(Architecture):
    """The toy of CONTRIBUTING.md: u ⊗ v ⊗ w, with a lift and laws only."""

    def __init__(self) -> None:
        super().__init__(7, (3, 2, 2), n_laws=2, block_shapes=[(3,), (2,), (2,)])

    def lift(self, theta):
        return anp.einsum("...i,...j,...k->...ijk", *self.unpack(theta))

    def conservation_laws(self, theta):
        u, v, w = (anp.sum(block**2, axis=-1) for block in self.unpack(theta))
        return anp.stack([u - v, v - w], axis=-1)


def toy() -> Iterator[Row]:
    """Check the metric of a lift of a user's own."""
    toy = Tensors()
    start = InvariantSet(toy, toy.random_point(rng=0))
    spent = seconds(lambda: check_metric(start.image().metric))
    yield Row("check_metric of a user's toy; 34 s before", spent, None, "", 34.0)


def far() -> Iterator[Row]:
    """Logarithms to far points, and the mean of ten, of a graph of ten parameters."""
    edges = ["xa", "xb", "ya", "yb", "ab", "au", "av", "bu", "bv", "xu"]
    network = ReLUNetwork(nx.DiGraph([tuple(edge) for edge in edges]), "xy", "uv")
    start = InvariantSet(network, network.random_point(rng=0))
    points = start.random_point(10, rng=1)
    for name, space, where in (
        ("set", start, points),
        ("image", start.image(), network.lift(points)),
    ):
        times = [seconds(partial(space.metric.log, p, where[0])) for p in where[1:]]
        what = f"logarithms to nine far points, {name}, the slowest; 2–9 s before"
        yield Row(what, max(times), None, f"the median {np.median(times):.2g} s", 10.0)
        begin = time.perf_counter()
        try:
            space.metric.frechet_mean(where)
            told = "found"
        except GeodesicError as error:
            told = str(error).split(";")[0]
        spent = time.perf_counter() - begin
        what = f"mean of ten random points, {name}; over 120 s before"
        yield Row(what, spent, None, told, 10.0)


def pythons() -> list[str]:
    """Pythons that may have peers."""
    return [sys.executable, *filter(None, os.environ.get("LIFTFLOW_PEERS", "").split(":"))]


def peer(job: str, needs: str, **arguments: object) -> dict | str:
    """Run a job of peers.py where it can be, or say why not."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    for python in pythons():
        test = [python, "-c", f"import {needs}"]
        if subprocess.run(test, capture_output=True, env=environment, check=False).returncode:
            continue
        command = [python, str(PEERS), job, json.dumps(arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, check=False, timeout=600
        )
        if done.returncode:
            return f"failed: {done.stderr.strip().splitlines()[-1][:80]}"
        return json.loads(done.stdout.splitlines()[-1])
    return f"{needs} are not installed (LIFTFLOW_PEERS names a Python that has them)"


def flows() -> Iterator[Row]:
    """The parameter flow of the digits, at the same tolerances."""
    network, loss, theta0 = digits()
    flow = ParameterFlow(network, loss)

    def ours() -> object:
        return flow.integrate(theta0, (0.0, T_END), rtol=RTOL, n_times=2)

    cpu, spent = time.process_time(), [seconds(ours) for _ in range(3)]
    cpu, end = (time.process_time() - cpu) / 3, ours()
    data = load("digits")
    shared = Path(os.environ.get("TMPDIR", "/tmp")) / f"liftflow-digits-{os.getpid()}.npz"
    labels = data.targets_for("cross-entropy")
    np.savez(shared, inputs=data.inputs, labels=labels, theta=theta0)
    try:
        for job, needs, name in (
            ("jax_flow", "jax, diffrax", "JAX + diffrax, Tsit5"),
            ("torch_flow", "torch, scipy", "torch + scipy, RK45"),
        ):
            found = peer(job, needs, data=str(shared), widths=WIDTHS, t_end=T_END, rtol=RTOL)
            what = f"parameter flow, digits {'-'.join(map(str, WIDTHS))}, t ≤ {T_END:g}"
            if isinstance(found, str):
                yield Row(what, None, None, f"{name}: {found}")
                continue
            gap = np.linalg.norm(np.array(found["end"]) - end.theta[-1, ::97])
            error = float(gap / np.linalg.norm(end.theta[-1, ::97]))
            steps = f"{name}, {found['evaluations']} evaluations, ours {end.n_evaluations}; "
            steps += f"CPU {found['cpu']:.2g} s, ours {cpu:.2g} s"
            yield Row(what, min(spent), found["seconds"], steps, None, error)
    finally:
        shared.unlink()


def laws() -> Iterator[Row]:
    """Counts of laws, beside the rank of generic brackets by JAX."""
    for widths in ([3, 4, 2], [2, 3, 3, 2]):
        network = ReLUNetwork.from_widths(widths)
        (spent,) = side_by_side(lambda n=network: count_conservation_laws(n), repeats=3)
        count = count_conservation_laws(network).value
        found = peer("jax_laws", "jax", widths=widths)
        what = f"count of the laws of {'-'.join(map(str, widths))}"
        if isinstance(found, str):
            yield Row(what, None, None, f"JAX bracket rank: {found}")
        else:
            name = f"JAX bracket rank: {found['laws']} laws, ours {count}"
            yield Row(what, spent, found["seconds"], name, 1.0, float(found["laws"] != count))


ROWS = [evaluations, crowded, toy, far, flows, laws]


def main() -> None:
    """Measure, print the table, and fail where a limit is missed."""
    wanted = sys.argv[1:]
    report(row for part in ROWS if not wanted or part.__name__ in wanted for row in part())


if __name__ == "__main__":
    main()
