"""Figures of pages: drawn when the library changed, in both themes, and one that can be turned."""

import contextlib
import os
import runpy
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import plotly
import plotly.graph_objects as go
from gif_scraper import save_both
from matplotlib.animation import FuncAnimation

from liftflow import IntrinsicFlow, InvariantSet, ParameterFlow, ReLUNetwork, loss_from_function
from liftflow.figures import CONTROL, INTRINSIC, PARAMETER, SKY, add_space, draw_level_set, style

HERE = Path(__file__).parent
OUT = HERE / "gallery" / "pages"
STATIC = HERE / "gallery" / "static"
LAWS = (-1.5, -1.0, -0.5, -0.1, 0.25, 0.5, 1.0)
GREY = "#808080"
DOT = {"color": INTRINSIC, "size": 3}


def draw_pages():
    """Draw all of them, unless what draws them has not changed since."""
    last, sources = (
        OUT / "hyperboloid.html",
        [*HERE.glob("*.py"), HERE / "start.rst", HERE / "howto.md"],
    )
    if last.is_file() and last.stat().st_mtime > max(path.stat().st_mtime for path in sources):
        return
    for folder in (OUT, STATIC):
        folder.mkdir(parents=True, exist_ok=True)
    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    shutil.copy(script, STATIC / "plotly.min.js")
    with plt.rc_context(), mock.patch.object(plt, "show"):
        plt.style.use(style(False))
        runpy.run_path(str(HERE / "submersion.py"))
        save_both(plt.gcf(), OUT / "submersion.png")
        save_both(start_page(), OUT / "start.png")
        save_both(*moving_picture())
        plt.close("all")
    guide_figures()
    last.write_text(hyperboloid(), encoding="utf-8")


def guide_figures():
    """Save the figures of the last guide, by the code that it shows, in both themes."""
    text = (HERE / "howto.md").read_text(encoding="utf-8")
    code = text.rpartition("```python\n")[2].partition("```")[0]
    for dark in ("", "_dark"):
        with TemporaryDirectory() as folder, contextlib.chdir(folder):
            with mock.patch.dict(os.environ, LIFTFLOW_DARK=dark):
                exec(code, {})
            for path in Path(folder).glob("*.png"):
                shutil.copy(path, OUT / f"{path.stem}{dark}.png")


def start_page():
    """Return the figure of the page Start, by the code that the page shows."""
    text = (HERE / "start.rst").read_text(encoding="utf-8")
    code, inside = [], False
    for line in text.split("\n"):
        if line.startswith(".. plot::"):
            inside = True
        elif inside and line and not line.startswith("   "):
            inside = False
        elif inside and not line.strip().startswith(":"):
            code.append(line[3:])
    names = {}
    with open(os.devnull, "w") as silence, mock.patch("sys.stdout", silence):
        exec("\n".join(code), names)
    return names["figure"]


def problem():
    """Return the network of one neuron, a loss, and where z ends."""
    network = ReLUNetwork.from_widths([2, 1, 1])
    target = np.array([0.9, -0.5])
    steep = np.array([1.0, 0.2])
    loss = loss_from_function(lambda z: (steep * (z - target) ** 2).sum())
    return network, loss, target


def moving_picture():
    """Return figure, path and animation of training on the bowl and of z in the plane."""
    network, loss, target = problem()
    angles = np.deg2rad([18, 75, 128, 180, 234, 295])
    x, y = 1.55 * np.cos(angles), 1.55 * np.sin(angles)
    starts = np.stack([x, y, np.sqrt(x**2 + y**2 + 1)], axis=-1)
    bowl = InvariantSet(network, starts[0])
    times = 8.0 * np.linspace(0, 1, 41) ** 2
    settings = {"t_span": (0.0, 8.0), "t_eval": times, "rtol": 1e-5, "atol": 1e-7}
    by_theta = [ParameterFlow(network, loss).integrate(p, **settings).theta for p in starts]
    flow = IntrinsicFlow(bowl, loss, coordinates="full")
    by_z = [flow.integrate(z, **settings).y for z in network.lift(starts)]
    figure = plt.figure(figsize=(9, 4.2))
    grid = figure.add_gridspec(1, 2, width_ratios=(1.2, 1))
    space = add_space(figure, grid[0], labels=("x", "y", "w"), elevation=32, azimuth=-65)
    plane = figure.add_subplot(grid[1])
    draw_level_set(space, bowl, bounds=[(-1.7, 1.7), (-1.7, 1.7), (0.9, 1.95)], resolution=24)
    space.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1), zticks=(1, 1.5, 2))
    space.set_title("training: θ on its invariant set")
    plane.plot(*target, "*", color=GREY, markersize=15)
    plane.set(aspect="equal", xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), xlabel="z₁", ylabel="z₂")
    plane.set_title("z: image of training, and its own flow")
    above = [space.plot([], [], [], color=PARAMETER, linewidth=3)[0] for _ in starts]
    wide = [plane.plot([], [], color=PARAMETER, linewidth=8, alpha=0.35)[0] for _ in starts]
    thin = [plane.plot([], [], "--", color=INTRINSIC)[0] for _ in starts]

    def draw(step):
        for run, line in enumerate(above):
            line.set_data_3d(*by_theta[run][: step + 1].T)
            wide[run].set_data(*network.lift(by_theta[run][: step + 1]).T)
            thin[run].set_data(*by_z[run][: step + 1].T)
        return [*above, *wide, *thin]

    frames = [*range(len(times)), *[len(times) - 1] * 12]
    return figure, OUT / "hero.gif", FuncAnimation(figure, draw, frames=frames, interval=60)


def hyperboloid():
    """Return the interactive figure: a surface for each h, both flows on it, and the fibre."""
    network, loss, _ = problem()
    z0 = np.array([-1.8, 1.2])
    ratio = z0 / np.linalg.norm(z0)
    figure, settings = go.Figure(), {"t_span": (0.0, 8.0), "rtol": 1e-6, "atol": 1e-8}
    settings["t_eval"] = 8.0 * np.linspace(0, 1, 61) ** 2
    turns = np.linspace(0, 2 * np.pi, 49)
    first = LAWS.index(-1.0)
    for place, law in enumerate(LAWS):
        near = np.array([*ratio, 1.0])
        theta0 = network.recover(z0, [law], near=near)
        start = InvariantSet(network, theta0)
        theta = ParameterFlow(network, loss).integrate(theta0, **settings).theta
        run = IntrinsicFlow(start, loss, coordinates="full").integrate(**settings)
        heights = np.linspace(np.sqrt(max(-law, 0.0)) + 1e-3, 2.2, 30)
        radius = np.sqrt(np.maximum(heights**2 + law, 0.0))
        shown = {"visible": place == first}
        figure.add_surface(
            x=radius[:, None] * np.cos(turns),
            y=radius[:, None] * np.sin(turns),
            z=heights[:, None] + 0.0 * turns,
            opacity=0.45,
            showscale=False,
            colorscale=[[0, SKY], [1, SKY]],
            hoverinfo="skip",
            name="invariant set",
            **shown,
        )
        for points, mode, look, name in (
            (theta, "lines", {"line": {"color": PARAMETER, "width": 9}}, "θ(t), training"),
            # Dots, since dashes would be hidden in the line.
            (run.theta[1::4], "markers", {"marker": DOT}, "from z(t) and h"),
        ):
            xyz = dict(zip("xyz", points.T, strict=True))
            figure.add_scatter3d(**xyz, mode=mode, name=name, **look, **shown)
        xyz = dict(zip("xyz", theta0[:, None], strict=True))
        marker = {"color": PARAMETER, "size": 6}
        figure.add_scatter3d(**xyz, mode="markers", marker=marker, name="θ₀", **shown)
    log = np.linspace(-0.6, 1.1, 60)
    base = network.recover(z0, [0.0], near=np.array([*ratio, 1.0]))
    fibre = np.array([network.rescale(base, [value]) for value in log])
    fibre = fibre[fibre[:, 2] < 2.2]
    xyz = dict(zip("xyz", fibre.T, strict=True))
    line = {"color": CONTROL, "width": 6}
    figure.add_scatter3d(**xyz, mode="lines", line=line, name="fibre: one z, every h")
    steps = [
        {
            "label": f"{law:g}",
            "method": "restyle",
            "args": ["visible", [*(i // 4 == place for i in range(4 * len(LAWS))), True]],
        }
        for place, law in enumerate(LAWS)
    ]
    slider = {"active": first, "currentvalue": {"prefix": "h = "}, "steps": steps}
    slider |= {"pad": {"b": 20}, "x": 0.03, "len": 0.94, "tickcolor": GREY, "font": {"size": 14}}
    axis = {"color": GREY, "gridcolor": GREY, "backgroundcolor": "rgba(0,0,0,0)"}
    figure.update_layout(
        sliders=[slider],
        scene={
            "xaxis": {**axis, "range": [-2.4, 2.4]},
            "yaxis": {**axis, "range": [-2.4, 2.4]},
            "zaxis": {**axis, "range": [0, 2.3], "title": {"text": "w"}},
            "aspectratio": {"x": 1, "y": 1, "z": 0.7},
            "camera": {"eye": {"x": 1.1, "y": -1.3, "z": 0.8}},
        },
        font={"color": GREY},
        paper_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": 1.0},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": GREY},
        margin={"l": 0, "r": 0, "t": 10, "b": 10},
    )
    options = {"displaylogo": False, "responsive": True, "scrollZoom": False}
    options["modeBarButtons"] = [["resetCameraDefault3d"]]  # more would hide the legend at 400 px
    body = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id="hyperboloid", config=options
    )
    return f'<script src="_static/plotly.min.js"></script>\n<div class="figure-3d">{body}</div>\n'
