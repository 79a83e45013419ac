"""The figure of the page on concepts: two horizontal velocities of a fibre go to one velocity."""

import matplotlib.pyplot as plt
import numpy as np

from liftflow.figures import GREY, INTRINSIC, PARAMETER, add_space, draw_trajectory, style

plt.style.use(style())

# Revolution acts on the invariant set by isometries; z forgets the angle: (angle, height) ↦ height.
angles, heights = np.meshgrid(np.linspace(0, 2 * np.pi, 61), np.linspace(0.0, 2.0, 31))


def surface(angle, height):
    """Return a point of a surface of revolution."""
    radius = 0.6 + 0.25 * np.cos(1.6 * height)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height + 0.0 * angle], axis=-1)


figure = plt.figure(figsize=(7, 4.2))
axes = add_space(figure, elevation=18, azimuth=-60)
axes.plot_surface(
    *np.moveaxis(surface(angles, heights), -1, 0), color="#DDEFFA", lw=0, antialiased=False
)
FOOT = 2.2  # the image stands beside the surface
axes.plot([FOOT, FOOT], [0, 0], [0, 2], color="0.3", linewidth=2)
axes.plot(*surface(np.linspace(0, 2 * np.pi, 61), np.full(61, 0.7)).T, color=GREY, linewidth=2)
up = np.linspace(0.7, 1.35, 12)
for angle in np.deg2rad([-95, -20]):
    draw_trajectory(axes, surface(np.full(12, angle), up), colour=PARAMETER, linewidth=3)
below = np.stack([np.full(12, FOOT), np.zeros(12), up], axis=-1)
draw_trajectory(axes, below, colour=INTRINSIC, linewidth=3)
axes.plot([0.95, FOOT - 0.1], [0, 0], [0.7, 0.7], ":", color=GREY)
axes.text(-0.9, 0, 2.25, "M = {θ : h(θ) = h(θ₀)}", ha="center")
axes.text(FOOT, 0, 2.15, "φ(M)", ha="center")
axes.text(0.95, -1.5, 0.55, "fibre over z", color="0.35", ha="center")
axes.text(1.55, 0, 0.78, "φ", ha="center")
axes.text(FOOT + 0.12, 0, 0.62, "z")
axes.set_axis_off()
axes.set_box_aspect((3.2, 1.8, 2.2), zoom=1.5)
axes.set(xlim=(-0.9, 2.4), ylim=(-0.9, 0.9), zlim=(0, 2.2))
