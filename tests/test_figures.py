"""The style and the views of our figures."""

from pathlib import PurePath

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.animation import FuncAnimation
from matplotlib.colors import to_rgb
from PIL import Image

from liftflow import InvariantSet, ReLUNetwork, compare, figures, loss_from_function, sweep
from liftflow.drawing import draw_laws, plot_values
from liftflow.errors import InputError, ShapeError
from liftflow.flows import MomentumFlow, Trajectory


@pytest.fixture(autouse=True)
def no_figure_is_left():
    yield
    plt.close("all")


@pytest.fixture
def hyperboloid():
    return InvariantSet(ReLUNetwork.from_widths([2, 1, 1]), [0.6, 0.8, np.sqrt(2.0)])


def luminance(colour):
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


def contrast(colour, ground):
    low, high = sorted([luminance(colour), luminance(ground)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_ink_and_roles_stand_out_from_the_ground(dark):
    with plt.style.context(figures.style(dark)):
        ground = plt.rcParams["axes.facecolor"]
        assert contrast(figures.ink(), ground) > 7
        for role in (figures.PARAMETER, figures.INTRINSIC, figures.CONTROL, figures.OPEN):
            assert contrast(role, ground) >= 3


def test_yellow_would_not_stand_out():
    assert contrast("#F0E442", "white") < 3


@pytest.mark.parametrize(("value", "dark"), [(None, False), ("0", False), ("1", True)])
def test_the_environment_chooses_light_or_dark(monkeypatch, value, dark):
    monkeypatch.delenv("LIFTFLOW_DARK", raising=False)
    if value is not None:
        monkeypatch.setenv("LIFTFLOW_DARK", value)
    assert figures.style()["axes.facecolor"] == figures.style(dark)["axes.facecolor"]


def test_the_style_ends_with_its_context():
    before = dict(plt.rcParams)
    with plt.style.context(figures.style(dark=True)):
        assert dict(plt.rcParams) != before
    assert dict(plt.rcParams) == before


def grid(resolution):
    side = np.linspace(-1.5, 1.5, resolution)
    return np.stack(np.meshgrid(side, side, side, indexing="ij"), axis=-1)


def test_the_faces_of_a_sphere_have_its_area():
    errors = []
    for resolution in (17, 33):
        points = grid(resolution)
        faces = figures.level_set_faces(np.sum(points**2, axis=-1) - 1, points)
        fans = [(f[0], f[i], f[i + 1]) for f in faces for i in range(1, len(f) - 1)]
        a, b, c = np.moveaxis(fans, 1, 0)
        area = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
        errors.append(abs(area / (4 * np.pi) - 1))
    assert errors[1] < 0.01
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.3)  # second order


def test_faces_of_a_linear_function_are_exact():
    points = grid(5)
    faces = figures.level_set_faces(points @ [1.0, 2.0, 3.0] - 0.1, points)
    assert len(faces) > 0
    assert all(np.allclose(face @ [1.0, 2.0, 3.0], 0.1, atol=1e-12) for face in faces)


def test_the_level_set_is_drawn(hyperboloid):
    axes = figures.add_space(plt.figure(), labels=("x", "y", "w"))
    figures.draw_level_set(axes, hyperboloid, [(-1, 1), (-1, 1), (0.5, 2)], resolution=12)
    assert axes.has_data()
    assert axes.get_zlim() == (0.5, 2)
    axes.figure.canvas.draw()


def test_a_level_set_that_is_no_surface_is_refused():
    axes = figures.add_space(plt.figure())
    chain = InvariantSet(ReLUNetwork.from_widths([1, 1, 1, 1]), [1.0, 2.0, 1.0])
    with pytest.raises(ShapeError, match="three parameters and one law, got 3 and 2"):
        figures.draw_level_set(axes, chain, [(0, 1)] * 3)


def test_a_box_off_the_level_set_is_refused(hyperboloid):
    axes = figures.add_space(plt.figure())
    with pytest.raises(ShapeError, match="does not meet the box"):
        figures.draw_level_set(axes, hyperboloid, [(-1, 1), (-1, 1), (0.0, 0.5)])


@pytest.mark.parametrize("dim", [2, 3])
def test_a_trajectory_has_its_arrows(dim):
    axes = figures.add_space(plt.figure()) if dim == 3 else plt.figure().add_subplot()
    t = np.linspace(0, 1, 20)
    figures.draw_trajectory(axes, np.stack([t, t**2, t**3][:dim], axis=1), arrows=3, label="run")
    arrows = [a for a in axes.get_children() if isinstance(a, figures.FancyArrowPatch)]
    assert len(arrows) == 3
    assert axes.get_legend_handles_labels()[1] == ["run"]
    axes.figure.canvas.draw()


def test_a_trajectory_in_four_dimensions_is_refused():
    with pytest.raises(ShapeError, match=r"\(5, 4\)"):
        figures.draw_trajectory(plt.figure().add_subplot(), np.zeros((5, 4)))


def test_an_animation_is_a_gif_that_moves(tmp_path):
    figure, axes = plt.subplots(figsize=(2, 2))
    (dot,) = axes.plot([0], [0], "o")
    axes.set(xlim=(-1, 4), ylim=(-1, 1))
    animation = FuncAnimation(figure, lambda k: dot.set_data([k], [0]), frames=4)
    figures.save_animation(animation, PurePath(tmp_path / "dot.gif"), fps=10)  # as Sphinx has it
    with Image.open(tmp_path / "dot.gif") as picture:
        assert picture.n_frames == 4
        assert picture.info["duration"] == 100


def test_a_figure_is_as_before_once_it_was_seen_in_the_dark():
    def pixels(figure):
        figure.canvas.draw()
        return np.array(figure.canvas.buffer_rgba())

    with plt.style.context(figures.style(dark=False)):
        figure, axes = plt.subplots(figsize=(3, 2))
        axes.plot([0, 1], [0, 1], label="a line")
        axes.legend()
        pixels(figure)  # the layout settles
        light = pixels(figure)
        with figures.recoloured(figure, dark=True):
            dark = pixels(figure)
        again = pixels(figure)
    plt.close(figure)
    np.testing.assert_array_equal(again, light)
    assert (dark != light).mean() > 0.5


@pytest.mark.parametrize("shift", [-5.0, -0.2, 0.0])  # below 0, across it, and above
def test_losses_are_drawn_as_they_are(shift):
    case = InvariantSet(ReLUNetwork.diagonal(1), [0.5, 0.8])
    loss = loss_from_function(lambda z: anp.sum((z - 1.0) ** 2) + shift)
    run = compare(case, loss, (0.0, 1.0), n_times=5)
    several = sweep(lambda seed: (case, loss), [0], (0.0, 1.0), n_times=5)
    for result in (run, run.parameter, several):
        axes = result.plot().axes[0]
        drawn = [line.get_ydata() for line in axes.lines]
        assert any(np.array_equal(values, run.parameter.loss) for values in drawn)
        low, high = axes.get_ylim()
        assert low <= run.parameter.loss.min() and run.parameter.loss.max() <= high
        assert axes.get_yscale() == ("linear" if shift else "log")


@pytest.mark.parametrize("loss", [None, [0.0] * 3, [-1.0] * 3, [np.nan, 2.0, 1.0]])
@pytest.mark.parametrize("moves", [False, True])
def test_a_trajectory_of_any_loss_is_drawn(loss, moves):
    theta = np.outer(1.0 + moves * np.arange(3), [0.5, 0.8])
    figure = Trajectory.from_arrays(range(3), theta, loss).plot()
    figure.canvas.draw()
    assert figure.axes[1].get_yscale() == ("log" if moves else "linear")
    assert (":" in figure.axes[0].get_title("left")) == (loss is not None)
    expected = [np.nan] * 3 if loss is None else loss
    assert np.array_equal(figure.axes[0].lines[0].get_ydata(), expected, equal_nan=True)


def test_exact_zeros_lie_below_all_that_is_drawn():
    axes = plt.figure().add_subplot()
    plot_values(axes, [([0, 1, 2], np.array([1e-30, 0.0, 1.0]), {})])
    assert axes.lines[0].get_ydata().tolist() == [1e-30, 1e-30, 1.0]
    plt.close("all")


def test_what_has_no_times_or_no_size_is_drawn_or_refused(hyperboloid):
    still = Trajectory.from_arrays(range(2), np.zeros((2, 3)))
    draw_laws(hyperboloid.architecture, still)
    still.head(0).plot()
    with pytest.raises(InputError, match="at least one point"):
        hyperboloid.plot(np.empty((0, 3)))


def test_the_trajectory_of_a_flow_with_momentum_shows_theta():
    network = ReLUNetwork.diagonal(1)
    flow = MomentumFlow(network, loss_from_function(lambda z: anp.sum((z - 1.0) ** 2)))
    run = flow.integrate([0.5, 0.8], (0.0, 1.0), n_times=5)
    _, speed, entries = run.plot().axes
    assert speed.get_ylabel() == "‖θ'‖" and entries.get_ylabel() == "θᵢ"
    drawn = np.array([line.get_ydata() for line in entries.lines])
    assert np.array_equal(np.sort(drawn[:, -1]), np.sort(run.theta[-1]))
