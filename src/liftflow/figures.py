"""The look of our figures: colours by role, a style for matplotlib, and views in space.

>>> import matplotlib.pyplot as plt
>>> from liftflow.figures import style
>>> plt.style.use(style())  # or: with plt.style.context(style(dark=True)): ...
>>> plt.style.use("default")
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import Animation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import FuncFormatter
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from mpl_toolkits.mplot3d.proj3d import proj_transform

from liftflow.doors import door
from liftflow.errors import ShapeError
from liftflow.typing import FloatArray, Point, as_array, as_instance

Colour: TypeAlias = Any  # whatever matplotlib reads as one
Thing: TypeAlias = Any  # of a room that imports this module, which therefore imports none

# Okabe and Ito's palette, safe for the common kinds of colour blindness. All but the last two have
# a contrast of 3 or more to the light ground, and all of them to the dark one.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY = "#E69F00", "#56B4E9"
GREY = "0.55"

# One colour for one role, in every figure.
PARAMETER = BLUE  # the flow of θ
INTRINSIC = VERMILION  # the flow of z
CONTROL = GREEN  # what must go wrong
HOLDS, FAILS, OPEN = BLUE, VERMILION, GREY  # a property, in tables and phase diagrams
CYCLE = [BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY]  # things that only need to differ
SURFACE = SKY  # an invariant set, pale
SEQUENTIAL, DIVERGING = "cividis", "PuOr"  # names of colour maps

_LIGHT = {"ground": "white", "ink": "#1A1A1A", "grid": "#B8B8B8"}
_DARK = {"ground": "#15181E", "ink": "#E8E8E8", "grid": "#5A6068"}


@door
def style(dark: bool | None = None) -> dict[str, object]:
    """Return the style as settings for ``plt.style.use`` or ``plt.style.context``.

    Labels stay legible at half the size of the figure.

    Parameters
    ----------
    dark : bool, optional
        Light ink on a dark ground. By default as the environment variable ``LIFTFLOW_DARK`` says,
        which ``liftflow gallery --dark`` sets; light without it.
    """
    if dark is None:
        dark = os.environ.get("LIFTFLOW_DARK", "") not in ("", "0")
    tones = _DARK if dark else _LIGHT
    ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    ground = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    return {
        **dict.fromkeys(ink, tones["ink"]),
        **dict.fromkeys(ground, tones["ground"]),
        "axes.prop_cycle": plt.cycler(color=CYCLE),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": "medium",
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
        "figure.figsize": (9, 4.8),
        "font.size": 12,
        "grid.alpha": 0.5,
        "grid.color": tones["grid"],
        "image.cmap": SEQUENTIAL,
        "legend.fontsize": "small",
        "legend.frameon": False,
        "lines.linewidth": 2,
        "savefig.dpi": 150,
    }


@contextmanager
def recoloured(figure: Figure, dark: bool) -> Iterator[None]:
    """Show a figure on dark ground with light ink for a while; the colours of roles stay."""
    pairs = {to_hex(_LIGHT[tone]): _DARK[tone] for tone in _LIGHT} | {"#000000": _DARK["ink"]}
    # Both as they were before the loop, which sees ticks and the ground, too.
    ground, figure_ground = figure.get_facecolor(), mpl.rcParams["savefig.facecolor"]
    axes = [getattr(axes, f"{name}axis", None) for axes in figure.axes for name in "xyz"]
    spots = [spot for axis in axes if axis is not None for spot in _ticks(axis)]
    before_ticks = [(spot, spot.get_color()) for spot in spots] if dark else []
    undo: list[tuple[Colour, Colour]] = []
    for artist in figure.findobj() if dark else ():
        for part in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
            get, put = (getattr(artist, f"{verb}_{part}", None) for verb in ("get", "set"))
            if get is None or put is None:
                continue
            before = get()
            swapped = _swapped(before, pairs)
            if swapped is not None:
                undo.append((put, before))
                put(swapped)
    for spot, colour in before_ticks:
        spot.set_color(_swapped(colour, pairs) or colour)
    try:
        if dark:
            figure.set_facecolor(_DARK["ground"])
        with mpl.rc_context({"savefig.facecolor": _DARK["ground"] if dark else figure_ground}):
            yield
    finally:
        for put, before in reversed(undo):
            put(before)
        for spot, colour in before_ticks:
            spot.set_color(colour)
        figure.set_facecolor(ground)


def _ticks(axis: Colour) -> list[Colour]:
    every = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    parts = [spot for tick in every for spot in (tick.label1, tick.tick1line, tick.tick2line)]
    return [*parts, *([axis.line] if hasattr(axis, "line") else [])]


def _swapped(colours: Colour, pairs: dict[str, str]) -> Colour:
    """Return colours with tones of the light theme taken for those of the dark one, if any are."""
    try:
        rows = np.atleast_2d(to_rgba_array(colours))
    except (ValueError, TypeError):
        return None
    if not len(rows):
        return None
    names = [to_hex(row) for row in rows]
    if not any(name in pairs for name in names):
        return None
    new = [(*to_rgb(pairs.get(name, name)), row[3]) for name, row in zip(names, rows, strict=True)]
    return new[0] if len(new) == 1 else new


def plain_ticks(axes: Axes) -> None:
    """Write the numbers of a logarithmic axis of values as 0.5 and 2, not as 5 × 10⁻¹."""
    low, high = as_instance(axes, Axes, "axes").get_ylim()
    decades = np.log10(high / low)
    wanted = (1, 2, 5) if decades > 1 else range(1, 10)

    def written(value: float, place: int | None = None) -> str:
        lead = round(value / 10 ** np.floor(np.log10(value) + 1e-9))
        return f"{value:.6g}" if lead in wanted else ""

    if decades < 2.5 and low > 1e-4:
        axes.yaxis.set_major_formatter(FuncFormatter(written))
        axes.yaxis.set_minor_formatter(FuncFormatter(written))


def shown_once(figure: Figure) -> Figure:
    """Let pyplot forget a figure, unless windows show it: a notebook draws what a cell returns.

    With windows ``plt.show()`` shows it; elsewhere ``figure.savefig`` writes it.
    """
    as_instance(figure, Figure, "figure")
    windows = mpl.backends.backend_registry.list_builtin(mpl.backends.BackendFilter.INTERACTIVE)
    if mpl.get_backend().lower() not in windows:
        plt.close(figure)
    return figure


def ink() -> Colour:
    """Return the colour of the text: black on light ground, white on dark."""
    return mpl.rcParams["text.color"]


@door
def add_space(
    figure: Figure,
    position: SubplotSpec | int = 111,
    *,
    labels: Sequence[str] = ("θ₁", "θ₂", "θ₃"),
    elevation: float = 30.0,
    azimuth: float = -60.0,
) -> Axes3D:
    """Add axes in space with nothing drawn but the three labelled edges.

    What is drawn later lies over what is drawn before, so draw the surface first.

    Parameters
    ----------
    position : matplotlib.gridspec.SubplotSpec or int
        As in ``figure.add_subplot``.
    elevation, azimuth : float
        Where the eye is, in degrees.
    """
    axes = figure.add_subplot(position, projection="3d", computed_zorder=False)
    axes.set(xlabel=labels[0], ylabel=labels[1], zlabel=labels[2])
    axes.view_init(elev=elevation, azim=azimuth)
    axes.grid(False)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.pane.set_visible(False)
    return axes


@door
def level_set_faces(values: FloatArray, grid: FloatArray) -> list[FloatArray]:
    """Return polygons, shape=[3 or 4, 3], of the surface where a function on a grid is zero.

    Marching tetrahedra: each cell is cut into six, in which the function is taken as linear.

    Parameters
    ----------
    values : array, shape=[n_x, n_y, n_z]
        The function on the grid.
    grid : array, shape=[n_x, n_y, n_z, 3]
        The points where the function has these values.
    """
    if values.ndim != 3 or grid.shape != (*values.shape, 3) or 0 in values.shape:
        raise ShapeError(
            f"values must have three axes and grid one more of three, got {values.shape} and "
            f"{grid.shape}"
        )
    size = [count - 1 for count in values.shape]
    tetrahedra = []
    for walk in itertools.permutations(np.eye(3, dtype=int)):  # from a corner to the opposite one
        corners = np.cumsum([np.zeros(3, dtype=int), *walk], axis=0)
        cuts = [tuple(slice(c, c + n) for c, n in zip(k, size, strict=True)) for k in corners]
        tetrahedra.append([np.stack([a[cut] for cut in cuts], axis=3) for a in (values, grid)])
    height = np.concatenate([v.reshape(-1, 4) for v, _ in tetrahedra])
    place = np.concatenate([p.reshape(-1, 4, 3) for _, p in tetrahedra])
    upwards = np.argsort(height, axis=1)
    height = np.take_along_axis(height, upwards, axis=1)
    place = np.take_along_axis(place, upwards[..., None], axis=1)
    n_positive = (height > 0).sum(axis=1)
    crossed = {
        1: [(3, 0), (3, 1), (3, 2)],
        2: [(0, 2), (0, 3), (1, 3), (1, 2)],
        3: [(0, 1), (0, 2), (0, 3)],
    }
    faces: list[FloatArray] = []
    for count, edges in crossed.items():
        here = n_positive == count
        tail, head = np.transpose(edges)
        share = height[here][:, tail] / (height[here][:, tail] - height[here][:, head])
        start, end = place[here][:, tail], place[here][:, head]
        faces.extend(start + share[..., None] * (end - start))
    return faces


@door
def draw_level_set(
    axes: Axes3D,
    invariant_set: Thing,
    bounds: Sequence[tuple[float, float]],
    *,
    colour: Colour = SURFACE,
    strength: float = 0.3,
    rings: int = 6,
    resolution: int = 32,
) -> None:
    """Draw an invariant set of three parameters and one law as a pale surface in space.

    Parameters
    ----------
    invariant_set : InvariantSet
        With D = 3 and one law, like that of a neuron with two inputs and one output.
    bounds : sequence of three pairs of float
        The box it is cut to. One sheet of two is had by a box that misses the other.
    colour : matplotlib colour
        Of the surface.
    strength : float
        Share of the colour in its mixture with the ground, between 0 and 1.
    rings : int
        Number of lines of equal height.
    resolution : int
        Number of grid points along each axis.
    """
    architecture = invariant_set.architecture
    if (architecture.dim, architecture.n_laws) != (3, 1):
        raise ShapeError(
            f"expected three parameters and one law, got {architecture.dim} and "
            f"{architecture.n_laws}; draw three coordinates of its points instead"
        )
    sides = [np.linspace(*pair, resolution) for pair in bounds]
    grid = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1)
    values = np.asarray(invariant_set.submersion(grid))[..., 0]
    faces = level_set_faces(values, grid)
    if not faces:
        raise ShapeError(f"the invariant set does not meet the box {list(map(tuple, bounds))}")
    corners = np.array([face[:3] for face in faces])
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)
    light = np.array([0.4, -0.5, 0.77])
    brightness = 0.8 + 0.2 * np.abs(normals @ light)[:, None]  # the same from both sides
    # Mixed with the ground, not transparent: where transparent faces meet, their edges show.
    ground = np.array(mpl.colors.to_rgb(axes.get_facecolor()))
    colours = strength * np.array(mpl.colors.to_rgb(colour)) + (1 - strength) * ground
    axes.add_collection3d(
        Poly3DCollection(faces, facecolors=brightness * colours, linewidths=0, antialiased=False)
    )
    heights = np.linspace(0, resolution - 1, rings + 2).round().astype(int)[1:-1]
    for height in heights[[np.ptp(np.sign(values[:, :, k])) > 0 for k in heights]]:
        plane = (grid[:, :, height, 0], grid[:, :, height, 1], values[:, :, height])
        axes.contour(*plane, levels=[0.0], offset=sides[2][height], colors=[colour], linewidths=0.9)
    axes.set(xlim=bounds[0], ylim=bounds[1], zlim=bounds[2])


class _ArrowInSpace(FancyArrowPatch):
    """An arrow between two points in space, with the filled head that arrows in a plane have."""

    def __init__(self, tail: FloatArray, tip: FloatArray, **settings: Any):
        super().__init__((0, 0), (0, 0), **settings)
        self.ends = np.transpose([tail, tip])

    def do_3d_projection(self, renderer: object = None) -> float:
        """Place the arrow on the page; called by matplotlib, which wants a depth."""
        x, y, depth = proj_transform(*self.ends, self.axes.M)  # type: ignore[union-attr]
        self.set_positions((x[0], y[0]), (x[1], y[1]))
        return float(np.min(depth))


@door
def draw_trajectory(
    axes: Axes,
    points: Point,
    *,
    colour: Colour = PARAMETER,
    arrows: int = 1,
    linestyle: str = "-",
    linewidth: float = 2.0,
    start: bool = True,
    label: str | None = None,
) -> None:
    """Draw a trajectory in the plane or in space, with arrows the way it runs.

    Parameters
    ----------
    points : array-like, shape=[n_times, 2 or 3]
    colour : matplotlib colour
        Of line and arrows.
    arrows : int
        Number of arrow heads, evenly along its length.
    linestyle, linewidth : str, float
        As in ``axes.plot``.
    start : bool
        Whether to mark the first point.
    """
    points = as_array(points, "points", differentiable=False)
    if points.ndim != 2 or points.shape[1] not in (2, 3) or len(points) < 2:
        raise ShapeError(f"expected points of shape [n_times, 2 or 3], got {points.shape}")
    axes.plot(*points.T, color=colour, linestyle=linestyle, linewidth=linewidth, label=label)
    if start:
        axes.plot(*points[:1].T, "o", color=colour, markersize=4 + 2 * linewidth)
    gone = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    middles = gone[-1] * (np.arange(arrows) + 0.5) / max(arrows, 1)
    kind = FancyArrowPatch if points.shape[1] == 2 else _ArrowInSpace
    for step in np.clip(np.searchsorted(gone, middles), 1, len(points) - 1):
        axes.add_artist(
            kind(
                points[step - 1],
                points[step],
                arrowstyle="-|>",
                mutation_scale=10 + 5 * linewidth,
                color=colour,
                linewidth=0,
                shrinkA=0,
                shrinkB=0,
            )
        )


@door
def save_animation(animation: Animation, path: str | Path, *, fps: int = 20) -> None:
    """Write an animation that is not yet closed as a GIF, by Pillow.

    A gallery script need not call it: it makes a ``matplotlib.animation.FuncAnimation`` under a
    name of its own, and ``liftflow gallery`` and the documentation write the GIF.
    """
    animation.save(path, writer=PillowWriter(fps=fps), dpi=100)
