"""The figure of the page on concepts: two horizontal velocities of a fibre go to one velocity."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb

from liftflow.figures import (
    GREY,
    INTRINSIC,
    PARAMETER,
    SURFACE,
    add_space,
    draw_trajectory,
    ink,
    style,
)

plt.style.use(style())

# Revolution acts on the invariant set by isometries; z forgets the angle: (angle, height) ↦ height.
angles, heights = np.meshgrid(np.linspace(0, 2 * np.pi, 61), np.linspace(0.0, 2.0, 31))


def surface(angle, height):
    """Return a point of a surface of revolution."""
    radius = 0.6 + 0.25 * np.cos(1.6 * height)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height + 0.0 * angle], axis=-1)


figure = plt.figure(figsize=(7, 4))
axes = add_space(figure, elevation=18, azimuth=-60)
pale = 0.3 * np.array(to_rgb(SURFACE)) + 0.7 * np.array(to_rgb(axes.get_facecolor()))
shape = np.moveaxis(surface(angles, heights), -1, 0)
axes.plot_surface(*shape, color=pale, linewidth=0, antialiased=False, shade=False)
turn = np.linspace(0, 2 * np.pi, 61)
for height in (0.0, 2.0):
    axes.plot(*surface(turn, np.full(61, height)).T, color=SURFACE, linewidth=1)
axes.plot(*surface(turn, np.full(61, 0.7)).T, color=GREY, linewidth=2)
up = np.linspace(0.7, 1.35, 12)
for angle in np.deg2rad([-105, -15]):
    draw_trajectory(axes, surface(np.full(12, angle), up), colour=PARAMETER, linewidth=3)
FOOT = 2.2  # the image stands beside the surface
axes.plot([FOOT, FOOT], [0, 0], [0, 2], color=ink())
below = np.stack([np.full(12, FOOT), np.zeros(12), up], axis=-1)
draw_trajectory(axes, below, colour=INTRINSIC, linewidth=3)
draw_trajectory(
    axes,
    np.linspace([1.0, 0, 0.7], [FOOT - 0.15, 0, 0.7], 30),
    colour=GREY,
    linestyle=":",
    start=False,
)
axes.text(0.1, 0, -0.55, "{θ : h(θ) = h(θ₀)}", ha="center")
axes.text(FOOT, 0, -0.3, "its image", ha="center")
axes.text(-1.15, -0.4, 0.65, "fibre\nover z", ha="center")
axes.text(1.5, 0, 0.85, "φ", ha="center")
axes.text(FOOT + 0.15, 0, 0.6, "z")
axes.set_axis_off()
axes.set_box_aspect((3.2, 1.8, 2.4), zoom=1.35)
axes.set(xlim=(-0.9, 2.4), ylim=(-0.9, 0.9), zlim=(-0.3, 2.1))
