"""What the benchmarks share: timing side by side, peak memory, machine and commit, one table."""

import json
import os
import platform
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

COLUMNS = ("what", "ours", "peer", "ratio", "limit", "error", "peak memory")
FOLDER = "LIFTFLOW_BENCHMARKS"
"""Environment variable: where ``run.py`` collects the rows of all scripts."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    what : str
    ours, peer : float or None
        Seconds.
    peer_name : str
        What ours is compared with, or why there is no peer.
    limit : float or None
        Largest ratio of ours to the peer that is accepted; without a peer, largest seconds.
    error : float or None
        Relative difference from the peer or from what is known.
    memory, peer_memory : float or None
        Peak bytes.
    """

    what: str
    ours: float | None
    peer: float | None
    peer_name: str
    limit: float | None = None
    error: float | None = None
    memory: float | None = None
    peer_memory: float | None = None

    @property
    def kept(self) -> bool:
        """Whether the limit is kept."""
        if self.limit is None or self.ours is None:
            return True
        return self.ours / (1.0 if self.peer is None else self.peer) <= self.limit

    def cells(self) -> tuple[str, ...]:
        """Text of the row, by column."""
        both = self.ours is not None and self.peer is not None
        ratio = "" if not both else f"{self.ours / self.peer:.3g}"
        limit = "" if self.limit is None else f"{self.limit:g}{'' if both else ' s'}"
        peer = f"{_seconds(self.peer)} {self.peer_name}".strip()
        error = "" if self.error is None else f"{self.error:.0e}"
        memory = _bytes(self.memory)
        if self.memory and self.peer_memory:
            memory += f", {self.memory / self.peer_memory:.2g} × peer"
        missed = "" if self.kept else " missed"
        return self.what, _seconds(self.ours), peer, ratio, limit + missed, error, memory


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def _bytes(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value / 1e9:.2g} GB" if value >= 1e9 else f"{value / 1e6:.3g} MB"


def side_by_side(*functions: Callable[[], object], repeats: int = 7) -> list[float]:
    """Smallest seconds of each function, called in turn: what else runs weighs on all alike."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, own in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            own.append(time.perf_counter() - start)
    return [min(own) for own in times]


def peak_memory(function: Callable[[], object]) -> float:
    """Most bytes that a call holds at a time, beyond what was there before it."""
    tracemalloc.start()
    try:
        function()
        return float(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def setting() -> str:
    """Machine and commit, in one line."""
    names = [platform.machine()]
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")][:1]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    threads = os.environ.get("OPENBLAS_NUM_THREADS", os.cpu_count())
    return (
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {threads} BLAS "
        f"threads, Python {platform.python_version()}, commit {commit or 'unknown'}"
    )


def hand_over(rows: Iterable[Row]) -> bool:
    """Give the rows to ``run.py`` for its one table, and say whether it is there to take them."""
    folder = os.environ.get(FOLDER)
    if folder:
        name = Path(sys.argv[0]).stem
        (Path(folder) / f"{name}.json").write_text(json.dumps([asdict(row) for row in rows]))
    return bool(folder)


def report(rows: Iterable[Row]) -> None:
    """Print the rows as a table, or hand them to ``run.py``; fail where a limit is missed."""
    rows = list(rows)
    if not hand_over(rows):
        show(rows)
    if not all(row.kept for row in rows):
        raise SystemExit(1)


def show(rows: Iterable[Row]) -> None:
    """Print the table."""
    table = Table(title=f"liftflow on {setting()}", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in ("ours", "ratio") else "left")
    for row in rows:
        table.add_row(*row.cells())
    Console(width=150).print(table)


def markdown(rows: Iterable[Row]) -> str:
    """The table as Markdown, with the machine and the commit."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    return f"{setting()}\n\n" + "\n".join(lines) + "\n"
