"""Recoverability, its conditioning and the count of laws of ReLU networks, from the graph alone.

Beside them, at sizes that both can do, the naive way: the singular values of ∂φ over all paths,
stacked on ∂h. The limits are those of 10⁶ edges, the making of the graph included: 20 seconds and
2 GB.
"""

import resource
import time
from collections.abc import Callable

import networkx as nx
import numpy as np
from table import Row, report, side_by_side

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
    "random, 31 edges": lambda: sparse(20, 50, 5),
    "random, 10⁵ edges": lambda: sparse(10_000, 112_000, 2_000),
    "layers 5 × 500, 10⁶ edges": lambda: ReLUNetwork.from_widths([500] * 5),
    "layers 101 × 100, 10⁶ edges": lambda: ReLUNetwork.from_widths([100] * 101),
    "random, 10⁶ edges": lambda: sparse(100_000, 1_120_000, 20_000),
}


def naive(network: ReLUNetwork, theta: np.ndarray) -> bool:
    """Decide recoverability by the singular values of ∂φ and ∂h, both dense."""
    rows = np.vstack([network.lift_jacobian(theta), network.conservation_laws_jacobian(theta)])
    singular = np.linalg.svd(rows, compute_uv=False)
    return bool(singular.size == network.dim and singular[-1] > 1e-10 * singular[0])


def measure(name: str, build: Callable[[], ReLUNetwork]) -> tuple[Row, list[str]]:
    """Return the row of a network, and what is wrong with the answers."""
    start = time.perf_counter()
    network = build()
    building = time.perf_counter() - start
    theta = network.random_point(rng=0)
    start = time.perf_counter()
    found = recoverability(network, theta)
    deciding = time.perf_counter() - start
    laws = count_conservation_laws(network).value
    facts = (
        f"recoverability, {name}: {network.dim:,} edges, {paths(network)} paths, {laws:,} laws, "
        f"eigenvalue {found.value:.2e}"
    )
    wrong = [] if laws == network.n_hidden else [f"{name}: {laws} laws"]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    if memory > GIGABYTES * 2**30:
        wrong.append(f"{name}: {memory / 2**30:.2f} GB")
    if network.n_paths > NAIVE_PATHS:
        what = f"{facts}; built and decided, the latter in {deciding:.2f} s"
        return Row(what, building + deciding, None, "", SECONDS, memory=memory), wrong
    if naive(network, theta) != bool(found):
        wrong.append(f"{name}: the two ways disagree")
    times = side_by_side(
        lambda: recoverability(network, theta), lambda: naive(network, theta), repeats=3
    )
    what = f"{facts}; built in {1e3 * building:.2g} ms"
    return Row(what, *times, "singular values of ∂φ", memory=memory), wrong


def paths(network: ReLUNetwork) -> str:
    """Number of paths, in digits or as a power of 10."""
    digits = int(network.n_paths.bit_length() * np.log10(2))
    return f"{network.n_paths:,}" if network.n_paths < 10**6 else f"10^{digits}"


def main() -> None:
    """Report the rows, and fail where a limit is passed or an answer is wrong."""
    rows, failures = [], []
    for name, build in CASES.items():
        row, wrong = measure(name, build)
        rows.append(row)
        failures += wrong
    for failure in failures:
        print(failure)
    report(rows)
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
