r"""
A flow that needs no parameter
==============================

Training moves the parameter θ along −∇ℓ(θ). The loss sees θ only through the lifted variable
z = φ(θ), so ℓ = f∘φ, and z moves by

.. math:: \dot z = −M(θ) ∇f(z), \qquad M(θ) = ∂φ(θ) ∂φ(θ)^\top.

This still needs θ. **Claim** [MPG]_: for a ReLU network at nonzero weights, M(θ) is a function
K_θ₀(z) of z alone, on the invariant set of θ₀ where every gradient flow from θ₀ stays. So z has a
flow of its own, :math:`\dot z = −K_{θ_0}(z) ∇f(z)`, and it is the image of the training.

Here is the smallest network on which all of it can be seen.
"""

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from liftflow import (
    IntrinsicFlow,
    InvariantSet,
    ParameterFlow,
    ReLUNetwork,
    loss_from_function,
)
from liftflow.figures import (
    CONTROL,
    GREY,
    INTRINSIC,
    PARAMETER,
    add_space,
    draw_level_set,
    draw_trajectory,
    ink,
    style,
)

plt.style.use(style())

# %%
# One neuron, and a hyperboloid
# -----------------------------
#
# Two inputs, one hidden neuron, one output: the weights into the neuron are x and y, the weight
# out of it is w. There are two paths, so z = (xw, yw). There is one conservation law, the sum of
# the squares of the weights in minus that of the weights out, so the invariant set of θ₀ is a
# hyperboloid in space, x² + y² − w² = h(θ₀).
#
# Take h = −1. The sheet w > 0 is a bowl, and φ maps it one to one onto the plane: together with
# the law, z says where on the bowl θ is.

network = ReLUNetwork.from_widths([2, 1, 1])
LAW = -1.0


def on_the_bowl(radius, angle):
    """Return θ = (x, y, w) on the sheet w > 0."""
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    return np.stack([x, y, np.sqrt(x**2 + y**2 - LAW)], axis=-1)


angles = np.deg2rad([18, 75, 128, 180, 234, 295])
starts = on_the_bowl(1.55, angles)
bowl = InvariantSet(network, starts[0])

# %%
# Two flows from every start
# --------------------------
#
# The loss f is quadratic in z, and steeper along z₁ than along z₂. From each start, one flow is
# integrated in θ and one in z. The second is given z₀ and K, and no other θ than θ₀.

target = np.array([0.9, -0.5])
loss = loss_from_function(lambda z: anp.sum(anp.array([1.0, 0.2]) * (z - target) ** 2))
times = 12.0 * np.linspace(0, 1, 121) ** 2  # closest where the flows are fastest
SETTINGS = {"t_span": (0.0, 12.0), "t_eval": times, "rtol": 1e-5, "atol": 1e-7}

by_theta = [ParameterFlow(network, loss).integrate(theta, **SETTINGS) for theta in starts]
intrinsic = IntrinsicFlow(bowl, loss, coordinates="full")
by_z = [intrinsic.integrate(z, **SETTINGS) for z in network.lift(starts)]

# %%
# The negative control
# --------------------
#
# A rescaling of the neuron, (x, y, w) ↦ (λx, λy, w/λ), changes neither z nor the function of the
# network. It changes the law, hence the invariant set, hence the metric. The flow by the metric
# of the rescaled θ₀ starts at the same z and must go another way.

rescaled = network.rescale(starts[0], [np.log(3.0)])
elsewhere = IntrinsicFlow(InvariantSet(network, rescaled), loss, coordinates="full")
by_other_metric = [elsewhere.integrate(z, **SETTINGS) for z in network.lift(starts)]

# %%
# The picture
# -----------
#
# Left, training: six parameters run down the bowl. Right, the plane of z: their images (wide,
# pale) and the flow of z by its own metric (dashed), one on the other. Dotted, the control: the
# weights of the rescaled θ₀ are larger, so its K is, and it runs ahead; it also bends elsewhere.
# Each grey ellipse is the image of one disc of gradients ∇f under K(z): how fast z can move there,
# and in which directions.

figure = plt.figure()
figure.get_layout_engine().set(h_pad=0.08)
grid = figure.add_gridspec(1, 2, width_ratios=(1.2, 1))
space = add_space(figure, grid[0], labels=("x", "y", "w"), elevation=32, azimuth=-65)
plane = figure.add_subplot(grid[1])

draw_level_set(space, bowl, bounds=[(-1.7, 1.7), (-1.7, 1.7), (0.9, 1.95)])
for flow in by_theta:
    draw_trajectory(space, flow.theta, colour=PARAMETER, linewidth=3)
space.plot(*by_theta[0].theta[-1], "*", color=ink(), markersize=15)
space.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1), zticks=(1, 1.5, 2))
space.set_box_aspect((1, 1, 0.75), zoom=1.15)
space.set_title("θ on  x² + y² − w² = −1")

turns = np.linspace(0, 2 * np.pi, 73)
cometric = bowl.image().metric.cometric_matrix
disc = 0.05 * np.stack([np.cos(turns), np.sin(turns)])
for centre in np.stack(np.meshgrid(np.arange(-3, 4), np.arange(-3, 4)), axis=-1).reshape(-1, 2):
    if np.any(centre):
        plane.plot(*(centre[:, None] + cometric(centre) @ disc), color=GREY, linewidth=0.6)
for wide, thin, dotted in zip(by_theta, by_z, by_other_metric, strict=True):
    plane.plot(*network.lift(wide.theta).T, color=PARAMETER, linewidth=8, alpha=0.35)
    plane.plot(*dotted.y.T, ":", color=CONTROL, linewidth=2.5)
    plane.plot(*thin.y.T, "--", color=INTRINSIC, linewidth=1.8)
    plane.plot(*thin.y[0], "o", color=PARAMETER, markersize=9)
plane.plot(*target, "*", color=ink(), markersize=15)
plane.set(aspect="equal", xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), xlabel="z₁ = xw", ylabel="z₂ = yw")
plane.set_title("z = φ(θ) in the plane")
keys = [
    Line2D([], [], color=PARAMETER, linewidth=8, alpha=0.35, label="φ of the parameter flow"),
    Line2D([], [], color=INTRINSIC, linestyle="--", linewidth=1.8, label="intrinsic flow"),
    Line2D([], [], color=CONTROL, linestyle=":", linewidth=2.5, label="control: a rescaled θ₀"),
]
figure.legend(handles=keys, loc="outside lower center", ncols=3)
figure.suptitle(f"{network!r}, a quadratic loss of z, six starts", fontsize="small")
plt.show()

# %%
# The claim, checked
# ------------------
#
# All flows run at a relative tolerance of 1e-5. The images of the six parameter flows and the six
# intrinsic flows agree to a few times that. The control is off by more than a tenth of the way.


def deviation(z_flow, theta_flow):
    """Return the largest distance of z(t) from φ(θ(t)), relative to the distance gone."""
    z = network.lift(theta_flow.theta)
    gone = np.linalg.norm(z - z[0], axis=1).max()
    return np.linalg.norm(z_flow.y - z, axis=1).max() / gone


claim = max(map(deviation, by_z, by_theta))
control = min(map(deviation, by_other_metric, by_theta))
print(f"largest deviation of the intrinsic flow  {claim:.0e}")
print(f"smallest deviation of the control        {control:.2f}")

assert all(np.all(bowl.belongs(flow.theta, atol=1e-4)) for flow in by_theta), "left the bowl"
assert not bowl.belongs(rescaled), "a rescaling keeps the law"
assert claim < 1e-4, "z needs more than its metric"
assert control > 0.1, "any metric would do"

CLAIMS = [
    {
        "claim": "Training stays on the invariant set of its θ₀.",
        "whose": "Marcotte2023",
        "assert": "left the bowl",
        "control": "a rescaling keeps the law",
    },
    {
        "claim": "z has a flow of its own by K_θ₀, the image of training.",
        "whose": "MPG",
        "assert": "z needs more than its metric",
        "control": "any metric would do",
    },
]
