r"""
Mirror flows, and warped ones
=============================

An intrinsic flow :math:`\dot z = −K ∇f` is a mirror flow if :math:`K^{-1} = ∇^2 Φ` for some
potential Φ: then :math:`\frac{d}{dt} ∇Φ(z) = −∇f(z)`, and what the flow can reach is read off Φ.
It is a warped one if :math:`ω K^{-1} = ∇^2 Φ` with a scalar ω(z) > 0.

**Claims.** Diagonal networks of any depth are mirror flows [Woodworth2020]_ [Li2022]_, with a
potential in closed form (depth beyond 2 is ours). One neuron with vector input is not a mirror
flow, but a warped one [Azulay2021]_; its mirror map ∇Φ is its weight vector and ω the weight
behind it (ours).
"""

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np

from liftflow import IntrinsicFlow, InvariantSet, ReLUNetwork, loss_from_function
from liftflow.figures import CONTROL, INTRINSIC, draw_trajectory, style
from liftflow.flows import (
    DiagonalPotential,
    NeuronPotential,
    is_hessian_metric,
    is_warped_hessian_metric,
)

plt.style.use(style())

# %%
# Two networks, both with z in the plane
# --------------------------------------
#
# The diagonal network has two chains of three weights. The neuron has the weights u = (u₁, u₂)
# and v, and z = uv.

diagonal = ReLUNetwork.diagonal(2, depth=3)
neuron = ReLUNetwork.from_widths([2, 1, 1])
starts = {
    "diagonal": InvariantSet(diagonal, [1.0, 0.5, 0.6, 0.9, 0.7, 1.2]),
    "neuron": InvariantSet(neuron, [0.9, 0.5, 0.6]),
}
potentials = {
    "diagonal": DiagonalPotential(diagonal, starts["diagonal"].theta0),
    "neuron": NeuronPotential(neuron, starts["neuron"].theta0),
}

# %%
# Is K⁻¹ a Hessian?
# -----------------
#
# A metric g is a Hessian if :math:`∂_k g_{ij}` does not change when i, j and k are permuted. This
# is checked at some points by finite differences; the value says how far it is from true, relative
# to the size of ∂g.

points = np.array([[0.8, 0.5], [-0.6, 1.1], [1.4, -0.3]])
metrics = {name: start.image().metric.metric_matrix for name, start in starts.items()}
plain = {name: is_hessian_metric(metric, points) for name, metric in metrics.items()}
warped = is_warped_hessian_metric(metrics["neuron"], points)
by_weight = is_hessian_metric(metrics["neuron"], points, warping=potentials["neuron"].warping)
for name, check in {**plain, "neuron, warped": warped, "neuron, by |v|": by_weight}.items():
    print(f"{name:15} Hessian: {check.verdict!s:5}  asymmetry {check.value:.0e}")

# %%
# Straight lines
# --------------
#
# With a linear loss f(z) = ⟨c, z⟩ the mirror map ∇Φ turns the flow into a straight line along −c:
# at constant speed for a mirror flow, at the speed ω for a warped one. In z it bends. The control
# takes the mirror map of other laws, as if θ₀ did not matter. The bend is how far a path is from a
# straight line along c, relative to its length.

SLOPE = np.array([0.45, -0.3])
linear = loss_from_function(lambda z: anp.dot(SLOPE, z))
first_points = {
    "diagonal": [[1.3, -0.9], [1.1, 0.1], [0.1, -1.1], [0.5, 0.9], [-0.5, 0.2]],
    "neuron": [[1.3, -0.8], [1.0, 0.2], [-0.3, -1.0], [1.2, 0.9], [-0.3, 0.6]],
}
end = {"diagonal": 1.2, "neuron": 2.0}
other = {
    "diagonal": DiagonalPotential(diagonal, 1.6 * starts["diagonal"].theta0[::-1]),
    "neuron": NeuronPotential(neuron, [0.2, 0.1, 1.2]),
}
runs = {
    name: [
        IntrinsicFlow(start, linear, coordinates="full").integrate(
            z, (0.0, end[name]), rtol=1e-9, atol=1e-11, n_times=21
        )
        for z in first_points[name]
    ]
    for name, start in starts.items()
}


def bend(mirror_map, run):
    """Return the largest distance of ∇Φ(z(t)) from the line along c, relative to its length."""
    gone = mirror_map(run.y) - mirror_map(run.y[0])
    along = SLOPE / np.linalg.norm(SLOPE)
    off = gone - np.outer(gone @ along, along)
    return np.max(np.linalg.norm(off, axis=1)) / np.max(np.linalg.norm(gone, axis=1))


# %%
# The picture
# -----------
#
# Dots are equally spaced in time, arrows show the way. Above, the diagonal network: its mirror map
# makes the flow straight and even. Below, the neuron: straight and uneven, because ω changes along
# the way. Right, the mirror map of other laws: the same runs stay bent.

figure, axes = plt.subplots(2, 3, figsize=(13, 8))
words = {"diagonal": "diagonal network, depth 3", "neuron": "one neuron, z = uv"}
for row, name in zip(axes, runs, strict=True):
    maps = [lambda z: z, potentials[name].gradient, other[name].gradient]
    for run in runs[name]:
        for panel, mirror_map, colour in zip(
            row, maps, (INTRINSIC, INTRINSIC, CONTROL), strict=True
        ):
            path = mirror_map(run.y)
            draw_trajectory(panel, path, colour=colour, linewidth=2)
            panel.plot(*path[::2].T, "o", color=colour, markersize=4)
    bends = [max(bend(f, run) for run in runs[name]) for f in maps]
    titles = [words[name], "its mirror map ∇Φ", "control: ∇Φ of other laws"]
    for panel, title, size, symbol in zip(row, titles, bends, ("z", "∂Φ/∂z", "∂Φ/∂z"), strict=True):
        panel.set_title(f"{title}, bend {size:.0e}")
        panel.set(xlabel=f"{symbol}₁", ylabel=f"{symbol}₂", aspect="equal")
        panel.set_adjustable("datalim")
figure.suptitle(f"{diagonal!r}, {neuron!r}, a linear loss, five starts each", fontsize="small")
plt.show()

# %%
# The claim, checked
# ------------------

assert plain["diagonal"], "a diagonal network is no mirror flow"
assert not plain["neuron"], "the neuron is a mirror flow after all"
assert warped, "the neuron is not even warped"
assert by_weight, "the warping is not the weight |v|"

straight = {n: max(bend(potentials[n].gradient, run) for run in runs[n]) for n in runs}
control = {n: min(bend(other[n].gradient, run) for run in runs[n]) for n in runs}
speeds = (
    np.diff(potentials["diagonal"].gradient(runs["diagonal"][0].y), axis=0) * 20 / end["diagonal"]
)
print("bend of ∇Φ(z(t)):", {name: f"{value:.0e}" for name, value in straight.items()})
print("bend by other laws:", {name: f"{value:.0e}" for name, value in control.items()})
# The flows run at a relative tolerance of 1e-9.
assert max(straight.values()) < 1e-7, "the mirror map does not make the flow straight"
assert np.allclose(speeds, -SLOPE, rtol=1e-6), "the speed is not −∇f"
assert min(control.values()) > 0.01, "any mirror map would do"

CLAIMS = [
    {
        "claim": "A diagonal network of depth 3 is a mirror flow.",
        "whose": "Woodworth2020, Li2022",
        "assert": "a diagonal network is no mirror flow",
        "control": "the neuron is a mirror flow after all",
    },
    {
        "claim": "One neuron with vector input is a warped mirror flow.",
        "whose": "Azulay2021",
        "assert": "the neuron is not even warped",
        "control": "the neuron is a mirror flow after all",
    },
    {
        "claim": "Its warping is the weight behind it.",
        "whose": "ours",
        "assert": "the warping is not the weight |v|",
        "control": "the neuron is a mirror flow after all",
    },
    {
        "claim": "The mirror map makes the flow of a linear loss straight.",
        "whose": "Li2022, ours",
        "assert": "the mirror map does not make the flow straight",
        "control": "any mirror map would do",
    },
    {
        "claim": "The mirror flow runs along the line at the speed of the slope.",
        "whose": "Li2022",
        "assert": "the speed is not −∇f",
        "control": "any mirror map would do",
    },
]
