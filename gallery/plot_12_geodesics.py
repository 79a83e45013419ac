r"""
Distances between networks
==========================

With the metric :math:`K_{θ_0}^{-1}` two networks of the same laws have a distance, geodesics and a
mean. They are those of z, which no rescaling of neurons changes. Geodesics are images of horizontal
geodesics of the invariant set, whose metric is Euclidean, so that no metric is ever differentiated.

**Claims** (ours; for linear layers see [Chen2025]_). A balanced ReLU neuron lives on a cone, and
its distances are those of the law of cosines. For two square balanced linear layers, positive
definite matrices are at √2 times their Bures–Wasserstein distance. The Fréchet mean of geomstats
works as it is.
"""

from dataclasses import replace

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
directions = np.deg2rad(np.arange(-180, 180, 4))
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

sample = np.array([[3.2, 0.3], [0.3, 0.2], [0.1, 2.6], [-0.4, 0.5], [0.2, -0.3]])
cone.metric.solver = replace(cone.metric.solver, seconds=60.0)  # on a machine that is busy
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

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.6), width_ratios=(1, 1.35, 1))
# Behind the tip, where two of them meet, geodesics are no longer the shortest.
turned = np.unwrap(np.angle(fan[..., 0] + 1j * fan[..., 1]), axis=1)
shortest = np.where(abs(turned)[..., None] < np.pi, fan, np.nan)
for path in shortest[1::4]:
    left.plot(*path.T, color=INTRINSIC, linewidth=1)
for step in (6, 13, 20, 26):  # all short of the tip, so that they close
    left.plot(*np.vstack([fan[:, step], fan[:1, step]]).T, color=GREY, linewidth=1)
left.plot(*centre, "o", color=ink(), markersize=8)
left.plot(0, 0, "x", color=ink(), markersize=9)
left.text(-0.1, -0.1, "tip of\nthe cone", ha="right", va="top", fontsize="x-small")
left.set(
    title="geodesics and distances 0.3 to 1.3",
    xlabel="z₁",
    ylabel="z₂",
    xlim=(-0.9, 4.2),
)

angles = np.linspace(0, 2 * np.pi, 73)
circle = np.stack([np.cos(angles), np.sin(angles)])
for row, (path, colour) in enumerate(((course, INTRINSIC), (straight, CONTROL))):
    for column, matrix in enumerate(path):
        values, vectors = np.linalg.eigh(matrix)
        ellipse = vectors @ (np.sqrt(values)[:, None] * circle)
        middle.plot(*(ellipse + np.array([[2.4 * column], [-4.2 * row]])), color=colour)
middle.text(0.0, 1.45, "geodesic")
middle.text(0.0, -2.75, "control: straight line")
middle.set(title="2 × 2 matrices as ellipses", xlim=(-1.4, 13.4))
middle.set(xticks=[2.4 * i for i in range(6)], xticklabels=[0, 0.2, 0.4, 0.6, 0.8, 1], yticks=[])
middle.set(xlabel="time along the path")
middle.spines["left"].set_visible(False)

to_mean = cone.metric.geodesic(mean, sample)(np.linspace(0, 1, 21))
for path in to_mean:
    right.plot(*path.T, color=INTRINSIC, linewidth=1)
right.plot(*sample.T, "o", color=PARAMETER, markersize=8, label="five networks", zorder=3)
right.plot(*mean, "*", color=INTRINSIC, markersize=15, label="Fréchet mean", zorder=3)
right.plot(*average, "P", color=CONTROL, markersize=9, label="control: mean of z", zorder=3)
right.set(title="the mean of networks", xlabel="z₁", ylabel="z₂")
right.set(ylim=(-0.9, 3.3))
right.legend(loc="upper right")
for axes in (left, middle, right):  # all three as high as each other
    axes.set_aspect("equal", adjustable="datalim")
figure.suptitle(f"{neuron!r}, h = 0; {layers!r}, S = 0; points chosen by hand", fontsize="small")
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
flat = max(abs(np.linalg.norm(fan[:, -1] - centre, axis=1) - lengths[-1]))
rescaled = neuron.rescale([1.0, 0.0, 1.0], [0.7])
assert flat > 0.1, "the cone is flat"
assert np.allclose(neuron.lift(rescaled), centre), "a rescaling changes z"
assert not np.allclose(neuron.conservation_laws(rescaled), 0.0), "a rescaling keeps the laws"
assert np.isclose(ours, np.sqrt(2) * known, rtol=1e-8), "not Bures–Wasserstein"
assert abs(np.linalg.norm(first - last) / ours - 1) > 0.05, "the distance is the Euclidean one"
assert balance < 1e-4, "the Fréchet mean is no mean"
assert off_balance > 0.05, "any mean would do"

CLAIMS = [
    {
        "claim": "A balanced ReLU neuron lives on a cone, with its law of cosines.",
        "whose": "ours",
        "assert": "no cone",
        "control": "the cone is flat",
    },
    {
        "claim": "Positive definite matrices are at √2 times their Bures–Wasserstein distance.",
        "whose": "Chen2025, ours",
        "assert": "not Bures–Wasserstein",
        "control": "the distance is the Euclidean one",
    },
    {
        "claim": "The Fréchet mean of geomstats works as it is.",
        "whose": "Miolane2020, ours",
        "assert": "the Fréchet mean is no mean",
        "control": "any mean would do",
    },
    {
        "claim": "No rescaling of neurons changes z, hence no distance.",
        "whose": "ours",
        "assert": "a rescaling changes z",
        "control": "a rescaling keeps the laws",
    },
]
