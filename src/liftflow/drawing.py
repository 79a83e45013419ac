"""Figures of verdicts, laws, networks, invariant sets and spectra, and how values are drawn."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from liftflow import figures
from liftflow.errors import InputError
from liftflow.figures import Thing
from liftflow.linalg import relative

_MOST_NODES = 200
_LOWEST = 1e-18  # where exact zeros lie on a logarithmic axis, if nothing is lower


def plot_values(axes: Axes, curves: Sequence[Sequence[Any]]) -> None:
    """Draw curves by times, values and settings: on a logarithmic axis where none is negative.

    Exact zeros, of which there is no logarithm, lie below all the rest; where there is nothing
    else, the axis is linear, and so it is where some value is negative.
    """
    known = np.concatenate([np.ravel(values) for _, values, _ in curves] or [np.empty(0)])
    known = known[np.isfinite(known)]
    floor = 0.0
    if known.size and known.min() >= 0 and known.max() > 0:
        axes.set_yscale("log")
        floor = min(_LOWEST, known[known > 0].min())
    for times, values, own in curves:
        axes.plot(times, np.where(np.equal(values, 0), floor, values), **own)
    if floor:
        figures.plain_ticks(axes)


def draw_findings(findings: Sequence[Thing]) -> Figure:
    """Draw findings of the criteria beside each other: verdicts, counts and margins.

    Parameters
    ----------
    findings : sequence of Finding
        Each becomes a field, blue where it holds.
    """
    looks = {"holds": (figures.HOLDS, "✓"), "fails": (figures.FAILS, "✗")}
    with plt.style.context(figures.style()):
        figure, axes = plt.subplots(figsize=(1.4 * len(findings), 2.0))
        for place, finding in enumerate(findings):
            colour, mark = looks.get(str(finding.verdict), (figures.OPEN, "?"))
            text = f"{finding.value}" if isinstance(finding.value, int) else mark
            axes.add_patch(plt.Rectangle((place + 0.03, 0), 0.94, 1, color=colour))
            axes.text(place + 0.5, 0.5, text, ha="center", va="center", color="white")
            axes.text(place + 0.5, 1.15, finding.name.replace(" ", "\n"), ha="center")
            axes.text(place + 0.5, -0.4, f"margin {finding.margin:.0e}", ha="center", size=9)
        axes.set(xlim=(0, len(findings)), ylim=(-0.6, 2.0))
        axes.set_axis_off()
    return figures.shown_once(figure)


def draw_coefficients(laws: Sequence[dict[str, float]], title: str) -> Figure:
    """Draw polynomials as a matrix: a row for each, a column for each monomial.

    Parameters
    ----------
    laws : sequence of dict of str to float
        Coefficients by the names of their monomials.
    """
    names = list(dict.fromkeys(name for law in laws for name in law))
    shape = np.clip((2.0 + 0.35 * len(names), 1.8 + 0.35 * len(laws)), (5, 2), (16, 12))
    with plt.style.context(figures.style()):
        figure, axes = plt.subplots(figsize=tuple(shape))
        if names:
            table = np.array([[law.get(name, 0.0) for name in names] for law in laws])
            size = np.abs(table).max()
            image = axes.imshow(table, cmap=figures.DIVERGING, vmin=-size, vmax=size)
            figure.colorbar(image, ax=axes, label="coefficient")
            axes.set_xticks(range(len(names)), names, rotation=90, fontsize="small")
            axes.set_yticks(range(len(laws)), [f"law {row + 1}" for row in range(len(laws))])
        axes.set_title(title, fontsize="small")
    return figures.shown_once(figure)


def draw_network(network: Thing, theta: Thing = None) -> Figure:
    """Draw a network of up to 200 nodes: the weights on its edges, the laws on its hidden nodes.

    Of a network with shared or frozen weights, the channels are drawn: what all weights between
    two of them weigh together.

    Parameters
    ----------
    network : ReLUNetwork
        Layered or not.
    theta : array-like, shape=[dim], optional
        Without it, edges have one width and nodes their names.
    """
    tied = type(network).__name__ == "TiedNetwork"
    edges, places, names, ends = (_channel_graph if tied else _node_graph)(network)
    if len(places) > _MOST_NODES:
        raise InputError(
            f"a network of {len(places)} nodes is too large to be drawn, at most {_MOST_NODES} "
            "are; draw a smaller one of the same kind"
        )
    laws = np.empty(0)
    if theta is not None:
        laws = np.asarray(network.conservation_laws(theta))
    weights: dict[tuple[Thing, Thing], float] = {}
    for number, edge in enumerate(edges):
        size = 0.6 if theta is None else float(theta[number])
        weights[edge] = np.hypot(weights.get(edge, 0.0), size) if tied else size
    with plt.style.context(figures.style()):
        figure, axes = plt.subplots(figsize=(9, 5))
        for (tail, head), size in weights.items():
            if tail == head:
                continue
            axes.annotate(
                "",
                places[head],
                places[tail],
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": figures.BLUE if size > 0 else figures.VERMILION,
                    "linewidth": min(0.4 + 2.0 * abs(size), 6.0),
                    "alpha": 0.7,
                    "shrinkA": 14,
                    "shrinkB": 14,
                },
            )
        for node, place in places.items():
            law = f"\n{laws[names[node]]:+.2f}" if node in names and len(laws) else ""
            text = f"{ends.get(node, node)}{law}".replace("-", "−")
            box = {"boxstyle": "round", "fc": axes.get_facecolor(), "ec": figures.ink()}
            axes.text(
                place[0], place[1], text, ha="center", va="center", fontsize="x-small", bbox=box
            )
        axes.set(xlim=_span(places, 0), ylim=_span(places, 1))
        axes.set_axis_off()
        lost = "" if theta is None else ", with their laws"
        axes.set_title(f"{'channels' if tied else 'nodes'}{lost}: {network!r}", fontsize="small")
    return figures.shown_once(figure)


def _span(places: dict[Thing, tuple[float, float]], axis: int) -> tuple[float, float]:
    values = [place[axis] for place in places.values()]
    return min(values) - 0.6, max(values) + 0.6


def _node_graph(network: Thing) -> tuple[Thing, ...]:
    """Edges by parameter, places, numbers of the laws, and other names of nodes."""
    columns: dict[int, list[Thing]] = {}
    for node, column in zip(network.dag.nodes, network.dag.generation, strict=False):
        last = max(network.dag.generation)
        columns.setdefault(int(last if node in network.outputs else column), []).append(node)
    places = {
        node: (2.0 * column, 1.2 * (i - (len(nodes) - 1) / 2))
        for column, nodes in columns.items()
        for i, node in enumerate(nodes)
    }
    edges = list(network.parameter_names)
    if network.biases:
        low = min(place[1] for place in places.values())
        places["⟨1⟩"] = (1.0, low - 1.2)
    return edges, places, {node: i for i, node in enumerate(network.hidden)}, {}


def _channel_graph(network: Thing) -> tuple[Thing, ...]:
    """The same for channels, and the ground on both sides of them."""
    graph = network.channels
    tails, heads = np.asarray(graph.tails), np.asarray(graph.heads)
    edges = [
        ("in" if tail < 0 else int(tail), "out" if head < 0 else int(head))
        for tail, head in zip(tails, heads, strict=True)
    ]
    depth = np.zeros(graph.n_channels, dtype=int)
    for _ in range(graph.n_channels):
        inner = (tails >= 0) & (heads >= 0) & (tails != heads)
        reached = depth.copy()
        np.maximum.at(reached, heads[inner], depth[tails[inner]] + 1)
        if np.array_equal(reached, depth) or reached.max() >= graph.n_channels:
            break
        depth = reached
    places: dict[Thing, tuple[float, float]] = {}
    for column in sorted({*depth.tolist()}):
        own = np.flatnonzero(depth == column)
        places |= {
            int(c): (2.0 * column, 1.2 * (i - (len(own) - 1) / 2)) for i, c in enumerate(own)
        }
    places |= {"in": (-2.0, 0.0), "out": (2.0 * (depth.max(initial=0) + 1), 0.0)}
    names = {channel: channel for channel in range(graph.n_channels)}
    return edges, places, names, {c: f"channel {c}" for c in names}


def draw_invariant_set(invariant_set: Thing, theta: Thing = None) -> Figure:
    """Draw an invariant set at θ₀, and a trajectory on it.

    A surface where there are three parameters and one law. Else the slice through θ₀ by the
    direction of steepest change of the laws and one tangent direction, that of the trajectory if
    there is one: the set is where the laws have their values.

    Parameters
    ----------
    invariant_set : InvariantSet
        Of any architecture with laws.
    theta : array-like, shape=[n_times, dim], optional
        A trajectory.
    """
    theta0, laws = invariant_set.theta0, invariant_set.architecture.conservation_laws
    path = np.atleast_2d(theta0 if theta is None else theta)
    if not len(path):
        raise InputError("theta must hold at least one point, got none; leave it out")
    with plt.style.context(figures.style()):
        figure = plt.figure(figsize=(6, 5.4))
        if (theta0.size, invariant_set.laws0.size) == (3, 1):
            axes: Thing = figures.add_space(figure)
            reach = 1.3 * np.abs(path).max() + 0.2
            figures.draw_level_set(axes, invariant_set, [(-reach, reach)] * 3)
            axes.plot(*theta0, "o", color=figures.PARAMETER, markersize=8)
            if len(path) > 1:
                figures.draw_trajectory(axes, path)
        else:
            axes = figure.add_subplot()
            jacobian = invariant_set.architecture.conservation_laws_jacobian(theta0)
            normal = np.linalg.svd(jacobian)[2][0]
            way = path[-1] - theta0  # of the trajectory, so that it is seen
            if not way.any():
                way = np.random.default_rng(0).standard_normal(theta0.size)
            tangent = invariant_set.to_tangent(way, theta0)
            tangent = tangent / np.linalg.norm(tangent)
            reach = 0.7 * np.linalg.norm(theta0)
            side = np.linspace(-reach, reach, 121)
            grid = theta0 + side[:, None, None] * normal + side[None, :, None] * tangent
            gaps = np.linalg.norm(np.asarray(laws(grid)) - invariant_set.laws0, axis=-1)
            image = axes.contourf(side, side, np.log10(gaps + 1e-3 * gaps.max()), 12)
            figure.colorbar(image, ax=axes, label="log₁₀ ‖h(θ) − h(θ₀)‖")
            axes.plot(0, 0, "o", color=figures.VERMILION, markersize=9)
            axes.plot((path - theta0) @ tangent, (path - theta0) @ normal, color=figures.VERMILION)
            axes.set(xlabel="along the set", ylabel="across it", aspect="equal")
        figure.suptitle(f"{invariant_set!r}", fontsize="x-small")
    return figures.shown_once(figure)


def draw_laws(architecture: Thing, trajectory: Thing) -> Figure:
    """Draw the laws along a trajectory, and how far they drift.

    Parameters
    ----------
    architecture : Architecture
        Whose laws.
    trajectory : Trajectory
        Of a flow or of steps.
    """
    laws = np.asarray(architecture.conservation_laws(trajectory.theta))
    gaps = np.abs(laws - laws[0]).max(axis=1, initial=0.0)
    drift = relative(gaps, np.sum(trajectory.theta[0] ** 2))
    with plt.style.context(figures.style()):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
        left.plot(trajectory.t, laws, color=figures.PARAMETER, alpha=0.6, linewidth=1)
        left.set(xlabel="time t", ylabel="h(θ(t))", title=f"{laws.shape[1]} laws")
        curve = (trajectory.t[1:], drift[1:], {"color": figures.PARAMETER})
        plot_values(right, [curve])
        right.set(xlabel="time t", ylabel="‖h(θ(t)) − h(θ₀)‖∞ / ‖θ₀‖²")
        right.set_title(f"drift ≤ {drift.max():.1e}")
    return figures.shown_once(figure)


def draw_spectra(invariant_set: Thing, trajectory: Thing, count: int = 40) -> Figure:
    """Draw the spectra of K and, for a network, of its graph Laplacian along a trajectory.

    Parameters
    ----------
    invariant_set : InvariantSet
        Of an architecture of which K can be written as a matrix.
    trajectory : Trajectory
        Of a flow from its θ₀.
    """
    steps = np.unique(np.linspace(0, len(trajectory.t) - 1, count).astype(int))
    theta, t = trajectory.theta[steps], trajectory.t[steps]
    architecture = invariant_set.architecture
    spectra = {"K(z(t))": np.linalg.eigvalsh(architecture.gram_matrix(theta))}
    if hasattr(architecture, "laplacian"):
        jacobians = architecture.conservation_laws_jacobian(theta)
        spectra["L(θ(t))"] = np.linalg.eigvalsh(jacobians @ np.swapaxes(jacobians, 1, 2) / 4)
    with plt.style.context(figures.style()):
        figure, every = plt.subplots(1, len(spectra), figsize=(5 * len(spectra), 4), squeeze=False)
        for axes, (name, values) in zip(every[0], spectra.items(), strict=True):
            floor = 1e-12 * values.max()
            shown = np.where(values > floor, values, np.nan)
            axes.semilogy(t, shown, color=figures.INTRINSIC, linewidth=0.8)
            rank = int((values[-1] > floor).sum())
            axes.set(xlabel="time t", ylabel=f"eigenvalues of {name}")
            axes.set_title(f"{rank} of {values.shape[1]} above rounding")
    return figures.shown_once(figure)
