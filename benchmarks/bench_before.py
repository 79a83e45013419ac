"""Whether anything became slower: hundreds of calls, of an earlier commit and of this one in turn.

``python benchmarks/bench_before.py COMMIT [PART]`` compares with another commit, and takes only
calls whose names hold PART. Least seconds of the processor over many rounds, in which the two take
turns; where a call is over the limit, more rounds follow for it, and only then is it missed.
"""

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from table import Row, report
from worker import ONE_THREAD, Worker, earlier

HERE = Path(__file__).parent
COMMIT, LIMIT, ROUNDS, SHOWN = "1fb90f4", 1.1, 5, 12
ASKED_FOR = {"trajectory save": 1.8, "checkpoint": 1.4}
"""Limits of what does more than it did: files are on the disk before they are in place."""

SETTING = {
    **ONE_THREAD,
    "GEOMSTATS_BACKEND": "autograd",
    # Whether new memory is mapped anew depends on what there was before, and weighs up to a third.
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
}


def measured(folder: Path, parts: list[str], rounds: int) -> list[dict[str, float]]:
    """Least seconds of each call, of this commit and of the other."""
    trees = HERE.parent, folder
    pair = [
        Worker(
            sys.executable,
            HERE / "calls.py",
            "calls",
            {**SETTING, "PYTHONPATH": str(tree / "src")},
            parts=parts,
        )
        for tree in trees
    ]
    least: list[dict[str, float]] = [{}, {}]
    with pair[0], pair[1]:
        for worker in pair:
            if worker.problem:
                raise SystemExit(worker.problem)
        names = [name for name in pair[0].best["names"] if name in pair[1].best["names"]]
        for _ in range(rounds):
            for name in names:
                for worker, own in zip(pair, least, strict=True):
                    worker.once(name)
                    if worker.problem:
                        raise SystemExit(f"{name}: {worker.problem}")
                    own[name] = min(worker.best["least"], own.get(name, float("inf")))
    return least


def limit_of(name: str) -> float:
    """Largest ratio that is accepted."""
    return next((each for what, each in ASKED_FOR.items() if what in name), LIMIT)


def rows(commit: str, part: str) -> Iterator[Row]:
    """The slowest ratios, those that are over the limit, and the median."""
    folder = earlier(commit)
    if folder is None:
        yield Row("calls", None, None, f"commit {commit} is not in this repository")
        return
    now, then = measured(folder, [part], ROUNDS)
    ratios = {name: now[name] / then[name] for name in now}
    over = [name for name in ratios if ratios[name] > limit_of(name)]
    if over:
        again = measured(folder, over, 5 * ROUNDS)
        for name in over:
            pair = (
                min(own[name], more[name]) for own, more in zip((now, then), again, strict=True)
            )
            now[name], then[name] = pair
            ratios[name] = now[name] / then[name]
    slow = sorted(ratios, key=lambda name: -ratios[name])
    over = [name for name in slow if ratios[name] > limit_of(name)]
    for name in dict.fromkeys([*over, *slow[:SHOWN]]):
        yield Row(name, now[name], then[name], f"before ({commit})", limit_of(name))
    told = f"median of {len(ratios)} calls {statistics.median(ratios.values()):.2f} × {commit}"
    yield Row("calls that became slower", None, None, f"{len(over)}; {told}")


def main() -> None:
    """Measure, print the table, and fail where a call became slower."""
    commit, part, *_ = [*sys.argv[1:], *[COMMIT, ""][len(sys.argv) - 1 :]]
    report(rows(commit, part))


if __name__ == "__main__":
    main()
