"""Cost against the number of edges, 10³ to 10⁷: one evaluation of the intrinsic flow, and recovery.

Layers n-n-n-10 of growing n, on a batch of 64; and random graphs without layers, as far as
networkx holds them comfortably. Writes docs/figures/scaling.png and fails where a fitted exponent
is above 1.15.
"""

import resource
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from bench_scale import recovery, sparse_network
from table import Row, report, side_by_side

from liftflow import IntrinsicFlow, InvariantSet, NetworkLoss, ReLUNetwork

LIMIT = 1.15
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito's palette
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "scaling.png"
LAYERS = (1e3, 1e4, 1e5, 1e6, 1e7)
GRAPHS = (1e3, 1e4, 1e5, 1e6)


def right_hand_side(n_edges: float) -> tuple[int, float, float]:
    """Edges, and seconds of the right-hand side and of the gradient, on layers."""
    width = round((np.sqrt(100 + 8 * n_edges) - 10) / 4)  # 2 n² + 10 n edges
    network = ReLUNetwork.from_widths([width, width, width, 10])
    rng = np.random.default_rng(0)
    inputs, labels = rng.standard_normal((64, width)), rng.integers(0, 10, 64)
    loss = NetworkLoss(network, inputs, labels, "cross-entropy")
    start = InvariantSet(network, network.random_point(rng=0))
    state = IntrinsicFlow(start, loss, "basis").state()
    first = state.start()
    velocity = state.velocity(first)
    step = 0.01 * np.linalg.norm(first) / np.linalg.norm(velocity)
    points = [first + part * step * velocity for part in (0.2, 0.3, 0.8, 1.0)]

    def evaluate() -> None:
        for point in points:
            state.velocity(point)

    seconds, gradient = side_by_side(
        evaluate, lambda: loss.parameter_gradient(start.theta0), repeats=4
    )
    return network.dim, seconds / len(points), gradient


def sparse_recovery(n_edges: float) -> tuple[int, float]:
    """Edges, and seconds of a cold recovery, on a random graph of about ten edges a node."""
    network = sparse_network(round(0.81 * n_edges), round(n_edges / 10))
    return network.dim, recovery(network, 3)[0]


def exponent(edges: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of the line through the logarithms."""
    return float(np.polyfit(np.log(edges), np.log(seconds), 1)[0])


def main() -> None:
    """Measure, draw, and print the exponents."""
    edges, flow, gradient = zip(*map(right_hand_side, LAYERS), strict=True)
    memory = 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    graph_edges, solve = zip(*map(sparse_recovery, GRAPHS), strict=True)
    lines = [
        ("intrinsic right-hand side, layers, batch 64", edges, flow, VERMILION, "o-"),
        ("parameter gradient, layers, batch 64", edges, gradient, BLUE, "s--"),
        ("recovery Ψ, cold, random graphs", graph_edges, solve, GREEN, "^:"),
    ]
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    rows = []
    for name, own_edges, seconds, colour, style in lines:
        slope, late = exponent(own_edges, seconds), exponent(own_edges[-2:], seconds[-2:])
        axes.loglog(own_edges, seconds, style, color=colour, label=f"{name}: exponent {slope:.2f}")
        rows.append(
            Row(
                f"exponent in edges, {name}, {own_edges[0]:,} to {own_edges[-1]:,}",
                None,
                None,
                f"{slope:.2f} (last decade {late:.2f})" + (" MISSED" if slope > LIMIT else ""),
                memory=memory if own_edges is edges else None,
            )
        )
    axes.set_xlabel("edges, D")
    axes.set_ylabel("seconds")
    axes.set_title("The intrinsic flow costs O(edges)", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=150)
    report(rows)
    if max(exponent(own, seconds) for _, own, seconds, _, _ in lines) > LIMIT:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
