"""Count the conservation laws of the networks of Marcotte et al. 2023, and check every count.

Their workload: 50 random linear networks (2 to 4 layers, widths 2 to 5) and 50 random ReLU networks
(2 to 4 layers, widths 2 to 9, hidden biases with probability ½), published at 34 minutes and at 1
hour 53 minutes on 64 cores. ``--small`` adds every linear network of 2 to 4 layers with widths 1 to
4, by floats and exactly.
"""

import argparse
import platform
import subprocess
import time
from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from table import Row, hand_over

from liftflow.architectures import Architecture, DeepLinear, ReLUNetwork
from liftflow.criteria import count_conservation_laws

PUBLISHED = {"linear": "34 min on 64 cores", "ReLU": "1 h 53 min on 64 cores"}
LIMITS = {"linear": 60.0, "ReLU": 10.0}


def linear_laws(widths: Sequence[int]) -> int:
    """Count by the formula: Σ k(2r+1−k)/2, and D' − 1 for parts between two widths of 1."""
    ones = [i for i, width in enumerate(widths) if width == 1]
    scalar = [(i, j) for i, j in pairwise(ones) if j - i > 1]
    total = sum(sum(a * b for a, b in pairwise(widths[i : j + 1])) - 1 for i, j in scalar)
    for i, r in list(enumerate(widths))[1:-1]:
        if not any(first < i < last for first, last in scalar):
            k = min(r, widths[i - 1] + widths[i + 1])
            total += k * (2 * r + 1 - k) // 2
    return total


def workload() -> dict[str, list[tuple[Architecture, int]]]:
    """Draw both lists at seed 0, each network with the count that is right."""
    rng = np.random.default_rng(0)
    linear, relu = [], []
    for _ in range(50):
        widths = [int(w) for w in rng.integers(2, 6, size=rng.integers(2, 5) + 1)]
        linear.append((DeepLinear(widths), linear_laws(widths)))
    for _ in range(50):
        widths = [int(w) for w in rng.integers(2, 10, size=rng.integers(2, 5) + 1)]
        network = ReLUNetwork.from_widths(widths, bias=bool(rng.random() < 0.5))
        relu.append((network, sum(widths[1:-1])))
    return {"linear": linear, "ReLU": relu}


def small() -> list[tuple[Architecture, int]]:
    """List every linear network of 2 to 4 layers with widths 1 to 4."""
    widths = [w for depth in (2, 3, 4) for w in product(range(1, 5), repeat=depth + 1)]
    return [(DeepLinear(w), linear_laws(w)) for w in widths]


def count(cases: list[tuple[Architecture, int]], exact: bool, label: str) -> tuple[float, int, int]:
    """Return seconds, and how many counts are right and how many undecided."""
    start, right, undecided = time.perf_counter(), 0, 0
    console = Console(stderr=True)
    for network, wanted in track(
        cases, label, console=console, transient=True, disable=not console.is_terminal
    ):
        found = count_conservation_laws(network, exact)
        undecided += found.verdict != "holds"
        right += found.value == wanted and found.verdict == "holds"
    return time.perf_counter() - start, right, undecided


def main() -> None:
    """Print the table, and fail where a count is wrong or a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="add all widths up to 4")
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    title = f"Conservation laws, {platform.machine()}, commit {commit}"
    table = Table(title=title, title_justify="left")
    columns = ("networks", "mode", "count", "right", "undecided", "seconds", "limit", "published")
    for column in columns:
        justify = "left" if column in ("networks", "mode", "published") else "right"
        table.add_column(column, justify=justify)
    runs = [(kind, cases, exact) for kind, cases in workload().items() for exact in (False, True)]
    if options.small:
        runs += [("linear, widths 1–4", small(), exact) for exact in (False, True)]
    failures, rows = [], []
    for kind, cases, exact in runs:
        mode = "exact" if exact else "floats"
        seconds, right, undecided = count(cases, exact, f"{kind}, {mode}")
        limit = None if exact else LIMITS.get(kind)
        if right < len(cases) or (limit and seconds > limit):
            failures.append(f"{kind}, {mode}")
        what = f"count of the laws of {len(cases)} networks, {kind}, {mode}: {right} right"
        published = "" if exact else PUBLISHED.get(kind, "")
        rows.append(Row(what, seconds, None, published, limit))
        table.add_row(
            *(kind, mode, str(len(cases)), str(right), str(undecided), f"{seconds:.2f}"),
            *("" if limit is None else f"{limit:.0f}", published),
        )
    Console().print(table)
    hand_over(rows)
    if failures:
        raise SystemExit(f"wrong or too slow: {'; '.join(failures)}")


if __name__ == "__main__":
    main()
