"""Cost against the number of edges, 10³ to 10⁷: one evaluation of the intrinsic flow, and recovery.

Layers n-n-n-10 of growing n, on batches of 64 and of 1,024; and random graphs without layers, as
far as networkx holds them comfortably. Writes docs/figures/scaling.png and its dark twin, and fails
where a fitted exponent is above 1.15.
"""

import resource
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from bench_scale import recovery, sparse_network
from matplotlib.figure import Figure
from table import Row, report, side_by_side

from liftflow import IntrinsicFlow, InvariantSet, NetworkLoss, ReLUNetwork
from liftflow.figures import GREEN, GREY, INTRINSIC, PARAMETER, recoloured, style

LIMIT = 1.15
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "scaling.png"
LAYERS = (1e3, 1e4, 1e5, 1e6, 1e7)
BATCH, LARGE_BATCH = 64, 1024
GRAPHS = (1e3, 1e4, 1e5, 1e6)


def right_hand_side(n_edges: float, batch: int = BATCH) -> tuple[int, float, float]:
    """Edges, and seconds of the right-hand side and of the gradient, on layers."""
    width = round((np.sqrt(100 + 8 * n_edges) - 10) / 4)  # 2 n² + 10 n edges
    network = ReLUNetwork.from_widths([width, width, width, 10])
    rng = np.random.default_rng(0)
    inputs, labels = rng.standard_normal((batch, width)), rng.integers(0, 10, batch)
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


def draw(
    lines: Sequence[tuple[str, Sequence[float], Sequence[float], str, str]],
    ratios: Sequence[tuple[int, Sequence[float], Sequence[float], str]],
) -> Figure:
    """Seconds against edges, with the slope of the last decade; and the ratio to a gradient."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), width_ratios=(1.35, 1))
    for name, edges, seconds, colour, look in lines:
        late = exponent(edges[-2:], seconds[-2:])
        left.loglog(edges, seconds, look, color=colour, label=f"{name}: slope {late:.2f}")
    left.set(xlabel="edges", ylabel="seconds", ylim=(None, 300 * max(lines[0][2])))
    left.set_title("cost, and its slope over the last decade")
    left.legend(loc="upper left")
    for batch, edges, ratio, look in ratios:
        right.semilogx(edges, ratio, look, color=INTRINSIC, label=f"batch {batch:,}")
    right.axhline(1.0, color=GREY, linewidth=1)
    right.set(xlabel="edges", ylabel="seconds of z / seconds of a gradient", ylim=(0, None))
    right.set_title("right-hand side of z, in gradients")
    right.legend()
    figure.suptitle("layers n-n-n-10, random data; random graphs; seed 0", fontsize="small")
    return figure


def main() -> None:
    """Measure, draw, and print the exponents and ratios."""
    edges, flow, gradient = zip(*map(right_hand_side, LAYERS), strict=True)
    memory = 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    measured = [right_hand_side(n_edges, LARGE_BATCH) for n_edges in LAYERS]
    many_edges, many_flow, many_gradient = zip(*measured, strict=True)
    graph_edges, solve = zip(*map(sparse_recovery, GRAPHS), strict=True)
    lines = [
        (f"right-hand side of z, batch {BATCH}", edges, flow, INTRINSIC, "o-"),
        (f"parameter gradient, batch {BATCH}", edges, gradient, PARAMETER, "s--"),
        ("recovery Ψ, cold, random graphs", graph_edges, solve, GREEN, "^:"),
    ]
    ratios = [
        (BATCH, edges, np.divide(flow, gradient), "o-"),
        (LARGE_BATCH, many_edges, np.divide(many_flow, many_gradient), "s--"),
    ]
    with plt.style.context(style(dark=False)):
        figure = draw(lines, ratios)
        FIGURE.parent.mkdir(parents=True, exist_ok=True)
        for dark, path in ((False, FIGURE), (True, FIGURE.with_stem(f"{FIGURE.stem}_dark"))):
            with recoloured(figure, dark):
                figure.savefig(path)
    rows = []
    for name, own_edges, seconds, _, _ in lines:
        slope, late = exponent(own_edges, seconds), exponent(own_edges[-2:], seconds[-2:])
        rows.append(
            Row(
                f"exponent in edges, {name}, {own_edges[0]:,} to {own_edges[-1]:,}",
                None,
                None,
                f"{slope:.2f} (last decade {late:.2f})" + (" MISSED" if slope > LIMIT else ""),
                memory=memory if own_edges is edges else None,
            )
        )
    for batch, ours, peer in ((BATCH, flow, gradient), (LARGE_BATCH, many_flow, many_gradient)):
        what = f"right-hand side of z, {edges[-1]:,} edges, batch {batch:,}"
        rows.append(Row(what, ours[-1], peer[-1], "our gradient"))
    report(rows)
    if max(exponent(own, seconds) for _, own, seconds, _, _ in lines) > LIMIT:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
