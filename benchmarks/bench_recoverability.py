"""Recoverability, its conditioning and the count of laws of ReLU networks, from the graph alone.

Beside them, at sizes that both can do, the naive way: the singular values of ∂φ over all paths,
stacked on ∂h. The limits are those of 10⁶ edges: 20 seconds and 2 GB.
"""

import platform
import resource
import subprocess
import time
from collections.abc import Callable

import networkx as nx
import numpy as np
from rich.console import Console
from rich.table import Table
from table import Row, hand_over

from liftflow.architectures import ReLUNetwork
from liftflow.criteria import count_conservation_laws, recoverability

SECONDS, GIGABYTES = 20.0, 2.0
NAIVE_PATHS = 20_000
"""Number of paths up to which the naive way is tried."""


def sparse(n_nodes: int, n_edges: int, reach: int) -> ReLUNetwork:
    """Draw a random sparse DAG: edges go up to ``reach`` numbers ahead."""
    rng = np.random.default_rng(0)
    tails = rng.integers(n_nodes, size=n_edges)
    heads = tails + rng.integers(1, reach, size=n_edges)
    inside = heads < n_nodes
    graph = nx.DiGraph(zip(tails[inside].tolist(), heads[inside].tolist(), strict=True))
    inputs = [node for node, degree in graph.in_degree() if not degree]
    outputs = [node for node, degree in graph.out_degree() if not degree]
    return ReLUNetwork(graph, inputs, outputs)


CASES: dict[str, Callable[[], ReLUNetwork]] = {
    "layers 4-6-3": lambda: ReLUNetwork.from_widths([4, 6, 3]),
    "layers 8-8-8-4": lambda: ReLUNetwork.from_widths([8, 8, 8, 4]),
    "layers 10-10-10-10": lambda: ReLUNetwork.from_widths([10] * 4),
    "random, 40 edges": lambda: sparse(20, 50, 5),
    "random, 10⁵ edges": lambda: sparse(10_000, 112_000, 2_000),
    "layers 5 × 500, 10⁶ edges": lambda: ReLUNetwork.from_widths([500] * 5),
    "layers 101 × 100, 10⁶ edges": lambda: ReLUNetwork.from_widths([100] * 101),
    "random, 10⁶ edges": lambda: sparse(100_000, 1_120_000, 20_000),
}


def timed(function: Callable[[], object]) -> tuple[float, object]:
    """Return seconds and result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def naive(network: ReLUNetwork, theta: np.ndarray) -> bool:
    """Decide recoverability by the singular values of ∂φ and ∂h, both dense."""
    rows = np.vstack([network.lift_jacobian(theta), network.conservation_laws_jacobian(theta)])
    singular = np.linalg.svd(rows, compute_uv=False)
    return bool(singular.size == network.dim and singular[-1] > 1e-10 * singular[0])


def main() -> None:
    """Print the table, and fail where a limit is passed or the two ways disagree."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    title = f"Recoverability of ReLU networks, {platform.machine()}, commit {commit}"
    table = Table(title=title, title_justify="left")
    columns = ("network", "edges", "hidden", "paths", "build, s", "decide, s", "naive, s")
    for column in (*columns, "eigenvalue", "laws", "peak, GB"):
        table.add_column(column, justify="left" if column == "network" else "right")
    failures, rows = [], []
    for name, build in CASES.items():
        building, network = timed(build)
        theta = network.random_point(rng=0)
        seconds, found = timed(lambda n=network, t=theta: recoverability(n, t))
        laws = count_conservation_laws(network).value
        shown, naive_seconds = "–", None
        if network.n_paths <= NAIVE_PATHS:
            naive_seconds, agrees = timed(lambda n=network, t=theta: naive(n, t))
            shown = f"{naive_seconds:.3f}"
            if agrees != bool(found):
                failures.append(f"{name}: the two ways disagree")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if seconds > SECONDS or peak > GIGABYTES or laws != network.n_hidden:
            failures.append(f"{name}: {seconds:.1f} s, {peak:.2f} GB, {laws} laws")
        peer = "singular values of ∂φ" if naive_seconds else ""
        limit = None if naive_seconds else SECONDS
        what = f"recoverability, {name}"
        rows.append(Row(what, seconds, naive_seconds, peer, limit, memory=peak * 2**30))
        paths = str(network.n_paths) if network.n_paths < 10**6 else f"10^{_digits(network)}"
        table.add_row(
            *(name, f"{network.dim:,}", f"{network.n_hidden:,}", paths, f"{building:.2f}"),
            *(f"{seconds:.4f}", shown, f"{found.value:.2e}", f"{laws:,}", f"{peak:.2f}"),
        )
    Console(width=140).print(table)
    hand_over(rows)
    if failures:
        raise SystemExit("; ".join(failures))


def _digits(network: ReLUNetwork) -> int:
    return int(network.n_paths.bit_length() * np.log10(2))


if __name__ == "__main__":
    main()
