"""What people wait for: each number of the issue, of an earlier commit and of this one in turn.

The earlier one is read out of git, and runs in the same Python. Ours beside peers in ratios: a flow
on the digits by JAX with diffrax and by PyTorch with scipy, the counts of laws by a generic bracket
in JAX; bench_geodesics.py has geomstats. All have one thread on one core, and take turns. A peer
that is not installed is skipped with the reason: ``LIFTFLOW_PEERS`` names Pythons that have them,
separated by colons, and ``LIFTFLOW_BEFORE`` another commit.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from table import Row, report
from worker import ONE_THREAD, Worker, earlier, in_turn

HERE = Path(__file__).parent
BEFORE = os.environ.get("LIFTFLOW_BEFORE", "192e4ac")
WIDTHS, T_END, RTOL = [64, 128, 128, 10], 0.5, 1e-6


def own(job: str, threads: dict[str, str] = ONE_THREAD, **keywords: object) -> Worker:
    """A job of jobs.py by this liftflow."""
    source = {"PYTHONPATH": str(HERE.parent / "src")}
    return Worker(sys.executable, HERE / "jobs.py", job, {**threads, **source}, **keywords)


def before(job: str, threads: dict[str, str] = ONE_THREAD, **keywords: object) -> Worker | None:
    """The same by the earlier one."""
    folder = earlier(BEFORE)
    if folder is None:
        return None
    source = {"PYTHONPATH": str(folder / "src")}
    return Worker(sys.executable, HERE / "jobs.py", job, {**threads, **source}, **keywords)


def peer(job: str, needs: str, **keywords: object) -> Worker | str:
    """A job of peers.py where it can be done, or why not."""
    environment = {**ONE_THREAD, "PYTHONPATH": ""}
    for python in [sys.executable, *filter(None, os.environ.get("LIFTFLOW_PEERS", "").split(":"))]:
        test = [python, "-c", f"import {needs}"]
        done = subprocess.run(
            test, capture_output=True, env={**os.environ, **environment}, check=False
        )
        if not done.returncode:
            return Worker(python, HERE / "peers.py", job, environment, **keywords)
    return f"{needs} are not installed (LIFTFLOW_PEERS names a Python that has them)"


def both(job: str, repeats: int, **keywords: object) -> tuple[Worker, Worker | None]:
    """Let this commit and the earlier one do a job in turn."""
    with ExitStack() as stack:
        pair = [stack.enter_context(own(job, **keywords))]
        other = before(job, **keywords)
        if other is not None:
            pair.append(stack.enter_context(other))
        in_turn(pair, repeats)
    return pair[0], pair[1] if len(pair) > 1 else None


def beside(
    what: str, worker: Worker, other: Worker | None, told: str, limit: float | None, error: float
) -> Iterator[Row]:
    """Seconds beside those before, and those alone with their limit."""
    if worker.problem:
        raise SystemExit(f"{what}: {worker.problem}")
    seconds = worker.best["seconds"]
    if limit is not None:
        yield Row(what, seconds, None, told, limit, error)
    if other is None:
        yield Row(what, seconds, None, f"commit {BEFORE} is not in this repository")
    elif other.problem:
        yield Row(what, seconds, None, f"before ({BEFORE}) {other.problem}")
    else:
        name = f"before ({BEFORE}); {told}" if told else f"before ({BEFORE})"
        yield Row(what, seconds, other.best["seconds"], name)


def evaluations() -> Iterator[Row]:
    """Kept times must not decide the steps."""
    worker, other = both("evaluations", 1)
    few, many = worker.best["counts"]
    missed = "" if many <= 1.2 * few else " MISSED"
    old = "" if other is None or other.problem else f"; before {other.best['counts'][1]}"
    told = f"{many}, with two {few}{old}{missed}"
    yield Row("evaluations with 101 kept times, rtol 1e-3", None, None, told)


def crowded() -> Iterator[Row]:
    """The flows of ``make demo`` alone, and beside two busy loops on whatever cores there are."""
    for name, build in (("", own), (f", before ({BEFORE})", before)):
        alone, crowd = build("demo", {}, cap=60.0), build("demo", {}, cap=60.0)
        if alone is None or crowd is None:
            continue
        with alone, crowd:
            in_turn([alone], 3)
            loop = [sys.executable, "-c", "while True: pass"]
            busy = [subprocess.Popen(loop) for _ in range(2)]
            try:
                in_turn([crowd], 3)
            finally:
                for process in busy:
                    process.kill()
                    process.wait()
        what = f"demo beside two busy loops{name}"
        if alone.problem or crowd.problem:
            yield Row(what, None, None, alone.problem or crowd.problem)
        else:
            limit = None if name else 3.0
            yield Row(what, crowd.best["seconds"], alone.best["seconds"], "alone", limit)


def toy() -> Iterator[Row]:
    """Check the metric of a lift of a user's own."""
    yield from beside("check_metric of a user's toy", *both("toy", 3), "", None, 0.0)


def far() -> Iterator[Row]:
    """Logarithms to far points, and the mean of ten, of a graph of ten parameters."""
    for where in ("set", "image"):
        worker, other = both("logarithms", 2, where=where)
        told, error = f"{worker.best['evaluations']} evaluations", 0.0
        if other is not None and not other.problem:
            told = f"{other.best['evaluations']} evaluations, now {worker.best['evaluations']}"
            lengths = np.array(worker.best["lengths"]), np.array(other.best["lengths"])
            error = float(np.max(np.abs(lengths[0] / lengths[1] - 1)))
        what = f"logarithms to nine far points, {where}, all"
        yield from beside(what, worker, other, told, None, error)
        with own("mean", where=where) as worker:
            in_turn([worker], 1)
        what = f"mean of ten random points, {where}"
        told, error = worker.best["told"], worker.best.get("error")
        yield Row(what, worker.best["seconds"], None, told, 10.0, error)
        for name, build, job in (
            (f"before ({BEFORE}), FrechetMean", before, "mean"),
            ("FrechetMean of geomstats on our logarithms", own, "frechet_mean"),
        ):
            other = build(job, where=where, cap=60.0)
            if other is None:
                continue
            with other:
                in_turn([other], 1)
            if other.problem:
                yield Row(what, worker.best["seconds"], None, f"{name} {other.problem}")
            else:
                name += f": {other.best['told']}"
                yield Row(what, worker.best["seconds"], other.best["seconds"], name)


def flows() -> Iterator[Row]:
    """The parameter flow of the digits, at the same tolerances."""
    shared = Path(tempfile.mkdtemp()) / "digits.npz"
    problem = {"data": str(shared), "widths": WIDTHS, "t_end": T_END, "rtol": RTOL}
    what = f"parameter flow, digits {'-'.join(map(str, WIDTHS))}, t ≤ {T_END:g}"
    peers = {
        f"before ({BEFORE})": lambda: before("flow", **{**problem, "data": ""}),
        "JAX + diffrax, Tsit5": lambda: peer("jax_flow", "jax, diffrax", **problem),
        "torch + scipy, RK45": lambda: peer("torch_flow", "torch, scipy", **problem),
    }
    with ExitStack() as stack:
        ours = stack.enter_context(own("flow", **problem))
        others = {name: build() for name, build in peers.items()}
        running = [stack.enter_context(w) for w in others.values() if isinstance(w, Worker)]
        in_turn([ours, *running], 3)
    for name, other in others.items():
        if not isinstance(other, Worker) or other.problem:
            reason = other.problem if isinstance(other, Worker) else other
            yield Row(what, None, None, f"{name}: {reason or 'not in this repository'}")
            continue
        gap = np.array(ours.best["end"]) - np.array(other.best["end"])
        error = float(np.linalg.norm(gap) / np.linalg.norm(other.best["end"]))
        # The goal is to be as fast as the fastest peer, in seconds of CPU, which no neighbour has.
        limit = None if name.startswith("before") else 1.0
        count = f"{name}, {other.best['evaluations']} evaluations, ours {ours.best['evaluations']}"
        yield Row(f"{what}, CPU", ours.best["cpu"], other.best["cpu"], count, limit, error)
        each = [w.best["cpu"] / w.best["evaluations"] for w in (ours, other)]
        yield Row(f"{what}, CPU of one evaluation", *each, name)
        yield Row(what, ours.best["seconds"], other.best["seconds"], name)
    shared.unlink()
    shared.parent.rmdir()


def laws() -> Iterator[Row]:
    """Counts of laws, beside the rank of generic brackets by JAX."""
    for widths in ([3, 4, 2], [2, 3, 3, 2]):
        what = f"count of the laws of {'-'.join(map(str, widths))}"
        other = peer("jax_laws", "jax", widths=widths)
        if isinstance(other, str):
            yield Row(what, None, None, f"JAX bracket rank: {other}")
            continue
        with own("laws", widths=widths) as ours, other:
            in_turn([ours, other], 7)
        counts = other.best["laws"], ours.best["laws"]
        name = f"JAX bracket rank: {counts[0]} laws, ours {counts[1]}"
        wrong = float(counts[0] != counts[1])
        yield Row(what, ours.best["seconds"], other.best["seconds"], name, 1.0, wrong)


ROWS = [evaluations, crowded, toy, far, flows, laws]


def main() -> None:
    """Measure, print the table, and fail where a limit is missed."""
    wanted = sys.argv[1:]
    report(row for part in ROWS if not wanted or part.__name__ in wanted for row in part())


if __name__ == "__main__":
    main()
