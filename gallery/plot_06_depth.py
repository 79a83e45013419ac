r"""
How depth shares out a singular value
=====================================

A linear network :math:`Z = U_L ⋯ U_1` whose laws
:math:`U_{i+1}^\top U_{i+1} − U_i U_i^\top = λ_i I` are multiples of the identity is called relaxed
balanced. It trains in such a way that z alone tells how each singular value is shared out.

**Claim** [MPG]_: with :math:`c_i = λ_1 + … + λ_{i−1}`, the squared singular value of layer i along
the k-th direction is :math:`x_k + c_i`, where :math:`x_k` is the one root of

.. math:: \prod_i (x_k + c_i) = σ_k^2

beyond the zeros of all factors, and from these numbers K_θ₀ is written down in closed form.
"""

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from scipy.optimize import brentq

from liftflow import InvariantSet, compare, loss_from_function
from liftflow.architectures import DeepLinear
from liftflow.figures import BLUE, CONTROL, PURPLE, VERMILION, style

plt.style.use(style())

# %%
# Three families of the same depth
# --------------------------------
#
# Three layers of 3 × 3 matrices, and three choices of (λ₁, λ₂). All learn the same matrix.

network = DeepLinear([3, 3, 3, 3])
families = {"balanced": (0.0, 0.0), "λ = (1, ½)": (1.0, 0.5), "λ = (1, −1½)": (1.0, -1.5)}
target = np.diag([3.0, 1.5, 0.4]) + 0.1
loss = loss_from_function(lambda z: 0.5 * anp.sum((z - target) ** 2))
runs = {}
for name, lams in families.items():
    start = InvariantSet(network, network.balanced_point(lams, rng=8))
    runs[name] = compare(start, loss, (0.0, 1.5), rtol=1e-8, control=True, n_times=61)

# %%
# Measured and predicted
# ----------------------
#
# From θ(t): the singular values of each layer. From z(t) and λ alone: the root of the equation, by
# bisection. The control takes every network for a balanced one, where each layer has the L-th root
# of the singular value of the product.


def measured(theta):
    """Return the singular values of each layer, shape=[n_layers, 3]."""
    return np.linalg.svd(np.array(network.layers(theta)), compute_uv=False)


def predicted(z, lams):
    """Return the same from z and λ alone."""
    shifts = np.array([0.0, *np.cumsum(lams)])
    floor = -shifts.min()
    layers = []
    for sigma in np.linalg.svd(z, compute_uv=False):
        excess = brentq(
            lambda x, sigma=sigma: np.prod(x + floor + shifts) - sigma**2, 0.0, 20.0, xtol=1e-14
        )
        layers.append(np.sqrt(excess + floor + shifts))
    return np.transpose(layers)


layers = {name: np.array([measured(t) for t in run.parameter.theta]) for name, run in runs.items()}
roots = {
    n: np.array([predicted(z, families[n]) for z in run.intrinsic.y]) for n, run in runs.items()
}
balanced = {n: np.array([predicted(z, (0, 0)) for z in run.intrinsic.y]) for n, run in runs.items()}

# %%
# The picture
# -----------
#
# Wide and pale, the layers of θ(t), one colour each; dashed in the same colour, what z(t) and λ
# predict; dotted, the control, one curve for all three layers.

figure, axes = plt.subplots(1, 3, figsize=(12, 4.8), sharey=True)
for panel, (name, run) in zip(axes, runs.items(), strict=True):
    for i, colour in enumerate((BLUE, VERMILION, PURPLE)):
        panel.plot(
            run.parameter.t, layers[name][:, i], color=colour, linewidth=7 - 2 * i, alpha=0.4
        )
        panel.plot(run.intrinsic.t, roots[name][:, i], "--", color=colour, linewidth=1.5)
    panel.plot(run.intrinsic.t, balanced[name][:, 0], ":", color=CONTROL, linewidth=2)
    panel.set(title=name, xlabel="time t")
axes[0].set_ylabel("singular values of the layers")
keys = {}
for i, colour in enumerate((BLUE, VERMILION, PURPLE)):
    wide = Line2D([], [], color=colour, linewidth=7 - 2 * i, alpha=0.4)
    thin = Line2D([], [], color=colour, linestyle="--", linewidth=1.5)
    keys[f"layer {i + 1}: of θ, by z"] = (wide, thin)
keys["control: taken for balanced"] = Line2D([], [], color=CONTROL, linestyle=":")
handler = {tuple: HandlerTuple(ndivide=None)}
figure.legend(
    keys.values(),
    keys.keys(),
    loc="outside lower center",
    ncols=4,
    handler_map=handler,
    handlelength=5,
)
figure.suptitle(f"{network!r}, a quadratic loss, seed 8", fontsize="small")
plt.show()

# %%
# The claim, checked
# ------------------
#
# Both flows run at a relative tolerance of 1e-8, and a singular value of a layer moves by at most
# ten times as much as z.

off = {name: np.abs(layers[name] - roots[name]).max() for name in runs}
control = {name: np.abs(layers[name] - balanced[name]).max() for name in runs}
for name, run in runs.items():
    print(
        f"{name:13} layers off by {off[name]:.0e}, taken for balanced {control[name]:.0e}; "
        f"flows part by {run.max_deviation:.0e}"
    )
assert max(off.values()) < 1e-5, "z and λ do not tell the layers"
assert max(run.max_deviation for run in runs.values()) < 1e-6, "the two flows part"
assert control["balanced"] < 1e-5, "balanced layers do not share alike"
assert all(control[name] > 0.1 for name in runs if any(families[name])), "λ does not matter"

CLAIMS = [
    {
        "claim": "z and λ tell how each singular value is shared out among the layers.",
        "whose": "MPG",
        "assert": "z and λ do not tell the layers",
        "control": "λ does not matter",
    },
    {
        "claim": "The flow of z is the image of training.",
        "whose": "MPG",
        "assert": "the two flows part",
        "control": "λ does not matter",
    },
    {
        "claim": "Balanced layers share alike.",
        "whose": "Arora2018",
        "assert": "balanced layers do not share alike",
        "control": "λ does not matter",
    },
]
