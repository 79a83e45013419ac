r"""
Distances between networks
==========================

With the metric :math:`K_{θ_0}^{-1}` two networks of the same laws have a distance, a shortest path
and a mean, which no rescaling of neurons changes. Geodesics are images of horizontal geodesics of
the invariant set, whose metric is Euclidean, so that no metric is ever differentiated.

**Claims** (ours). A balanced ReLU neuron lives on a cone, and its distances are those of the law of
cosines. For two square balanced linear layers, positive definite matrices are at √2 times their
Bures–Wasserstein distance. The Fréchet mean of geomstats works as it is.
"""

import matplotlib.pyplot as plt
import numpy as np
from geomstats.geometry.spd_matrices import SPDBuresWassersteinMetric, SPDMatrices
from geomstats.learning.frechet_mean import FrechetMean

from liftflow import InvariantSet, ReLUNetwork
from liftflow.architectures import TwoLayerLinear
from liftflow.figures import CONTROL, GREY, INTRINSIC, PARAMETER, ink, style

plt.style.use(style())

# %%
# One neuron: a cone
# ------------------
#
# Two inputs, one output, z = uv in the plane. With h = 0, |u|² = v² = |z|, and the metric is that
# of a cone: with ρ² = 2|z| and the angle α between two points,
#
# .. math:: d^2 = ρ_1^2 + ρ_2^2 − 2 ρ_1 ρ_2 \cos(α/\sqrt{2}).

neuron = ReLUNetwork.from_widths([2, 1, 1])
cone = InvariantSet(neuron, [1.0, 0.0, 1.0]).image()
centre = neuron.lift([1.0, 0.0, 1.0])
directions = np.deg2rad(np.arange(-174, 180, 6))
velocities = np.stack([np.cos(directions), np.sin(directions)], axis=-1)
velocities /= cone.metric.norm(velocities, centre)[:, None]
lengths = np.linspace(0.0, 1.3, 27)
fan = cone.metric.geodesic(centre, initial_tangent_vec=velocities)(lengths)


def cone_distance(one, other):
    """Return the distance of the law of cosines."""
    sizes = np.sqrt(2 * np.linalg.norm(one)), np.sqrt(2 * np.linalg.norm(other))
    angle = abs(np.angle(complex(*one) / complex(*other))) / np.sqrt(2)
    return np.sqrt(sizes[0] ** 2 + sizes[1] ** 2 - 2 * sizes[0] * sizes[1] * np.cos(angle))


cone_errors = [
    abs(cone_distance(point, centre) - length)
    for path in fan
    for point, length in zip(path, lengths, strict=True)
]

# %%
# Two linear layers: Bures and Wasserstein
# ----------------------------------------
#
# Positive definite 2 × 2 matrices, drawn as ellipses. The geodesic from one to the other, and the
# straight line between them for comparison.

layers = TwoLayerLinear(2, 2, 2)
matrices = InvariantSet(layers, layers.pack(np.eye(2), np.eye(2))).image()
turn = np.array([[np.cos(1.4), -np.sin(1.4)], [np.sin(1.4), np.cos(1.4)]])
first = np.diag([1.0, 0.05])
last = turn @ np.diag([1.2, 0.05]) @ turn.T
course = matrices.metric.geodesic(first, last)(np.linspace(0, 1, 6))
straight = first + np.linspace(0, 1, 6)[:, None, None] * (last - first)
ours = float(matrices.metric.dist(first, last))
known = float(SPDBuresWassersteinMetric(SPDMatrices(2, equip=False)).dist(first, last))

# %%
# The mean of five networks
# -------------------------
#
# geomstats computes it from exp and log alone. At the mean m the logarithms of the networks sum to
# zero. The control is the mean of the z, which is none for this metric.

sample = np.array([[3.0, 0.3], [1.0, 0.4], [0.1, 1.5], [-0.7, 0.9], [0.2, -0.6]])
learner = FrechetMean(cone)
learner.set(epsilon=1e-10, max_iter=100)
learner.fit(sample)
mean, average = np.asarray(learner.estimate_), sample.mean(axis=0)
balance, off_balance = (
    float(cone.metric.norm(np.sum(cone.metric.log(sample, point), axis=0), point))
    for point in (mean, average)
)

# %%
# The picture
# -----------

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4.2), width_ratios=(1, 1.25, 1.1))
for path in fan[1::3]:
    left.plot(*path.T, color=INTRINSIC, linewidth=1)
for step in (6, 13, 20, 26):
    left.plot(*fan[:, step].T, color=GREY, linewidth=1)
left.plot(*centre, "o", color=ink(), markersize=8)
left.plot(0, 0, "x", color=ink(), markersize=9)
left.text(-0.1, 0.0, "tip of\nthe cone", ha="right", va="center", fontsize="small")
left.set(
    title="one neuron: geodesics, equal distances",
    xlabel="z₁",
    ylabel="z₂",
    aspect="equal",
    xlim=(-1.5, None),
)

angles = np.linspace(0, 2 * np.pi, 73)
circle = np.stack([np.cos(angles), np.sin(angles)])
for row, (path, colour) in enumerate(((course, INTRINSIC), (straight, CONTROL))):
    for column, matrix in enumerate(path):
        values, vectors = np.linalg.eigh(matrix)
        ellipse = vectors @ (np.sqrt(values)[:, None] * circle)
        middle.plot(*(ellipse + np.array([[2.4 * column], [-3.0 * row]])), color=colour)
middle.text(0.0, 1.25, "geodesic")
middle.text(0.0, -1.75, "straight line")
middle.set(title="two layers: matrices as ellipses", aspect="equal", ylim=(-4.2, 2.0))
middle.set(xticks=[2.4 * i for i in range(6)], xticklabels=[0, 0.2, 0.4, 0.6, 0.8, 1], yticks=[])
middle.set(xlabel="time along the path")
middle.spines["left"].set_visible(False)

to_mean = cone.metric.geodesic(mean, sample)(np.linspace(0, 1, 21))
for path in to_mean:
    right.plot(*path.T, color=INTRINSIC, linewidth=1)
right.plot(*sample.T, "o", color=PARAMETER, markersize=8, label="five networks", zorder=3)
right.plot(*mean, "*", color=INTRINSIC, markersize=15, label="Fréchet mean", zorder=3)
right.plot(*average, "P", color=CONTROL, markersize=9, label="control: mean of z", zorder=3)
right.set(title="the mean of networks", xlabel="z₁", ylabel="z₂", aspect="equal")
right.set(xlim=(-1.0, 3.3), ylim=(-0.9, 2.9))
right.legend(loc="upper right")
plt.show()

# %%
# The claim, checked
# ------------------
#
# Geodesics are solved to a relative tolerance of 1e-11.

print(f"distances on the cone, off by {max(cone_errors):.0e}")
print(f"distance of the matrices {ours:.6f} = √2 · {known:.6f}")
print(f"sum of the logarithms at the mean {balance:.0e}, at the average of z {off_balance:.2f}")
assert max(cone_errors) < 1e-8, "no cone"
assert np.isclose(ours, np.sqrt(2) * known, rtol=1e-8), "not Bures–Wasserstein"
assert abs(np.linalg.norm(first - last) / ours - 1) > 0.05, "the distance is the Euclidean one"
assert balance < 1e-4, "the Fréchet mean is no mean"
assert off_balance > 0.05, "any mean would do"
