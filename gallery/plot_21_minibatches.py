r"""
Minibatches and the drift of the laws
=====================================

Training draws batches, and its laws drift. For gradient descent the drift is no surprise.

**Claims** (ours; the laws are those of [Marcotte2023]_, AdamW is that of [Loshchilov2019]_). A
gradient g of any batch is orthogonal to the laws h, which are quadratic, so a step
:math:`θ^+ = (1 − ηλ)θ − ηg` gives :math:`h(θ^+) = (1 − ηλ)^2 h(θ) + η^2 h(g)` exactly, and with
momentum there is a recursion like it. Nobody has to look at θ. Over a fixed time the drift falls
like η, and what batches add to it in SGD falls like one over their size, as the variance of their
gradients does. AdamW divides each entry of a gradient by its size: for it there is no such
prediction, and its drift stays as η → 0, whatever the batches are.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

from liftflow import NetworkLoss, ReLUNetwork
from liftflow.data import load
from liftflow.figures import CONTROL, GREY, INTRINSIC, PARAMETER, ink, style
from liftflow.flows import Adam, GradientDescent

plt.style.use(style())

# %%
# Three rules of training
# -----------------------
#
# A network with six neurons on iris, and a little weight decay. The flow would let the laws fade to
# :math:`e^{−2λt}h(θ₀)`, and drift means the distance from there. One step of momentum β stands for
# the time η/(1 − β), so each rule makes as many steps of the same time.

iris = load("iris")
network = ReLUNetwork.from_widths([4, 6, 3], bias=True)
loss = NetworkLoss(network, iris.inputs, iris.targets, kind="cross-entropy")
theta0, N = network.random_point(rng=2), len(iris.inputs)
TIME, DECAY = 8.0, 0.01
RULES = {
    "SGD": lambda step, **more: GradientDescent(network, loss, step, **more),
    "momentum 0.9": lambda step, **more: GradientDescent(network, loss, 0.1 * step, 0.9, **more),
    "AdamW": lambda step, **more: Adam(network, loss, step, decay="decoupled", **more),
}


def train(name, step, batch_size, rng=0, every=10**9):
    """Train for the fixed time, in steps of a time."""
    optimizer = RULES[name](step, batch_size=batch_size, weight_decay=DECAY)
    return optimizer.run(theta0, round(TIME / step), every=every, rng=rng)


def drift(laws):
    """Return the drift of the laws at the end, relative to ‖θ₀‖²."""
    faded = np.exp(-2 * DECAY * TIME) * network.conservation_laws(theta0)
    return np.max(np.abs(laws - faded)) / np.sum(theta0**2)


def measured(run):
    """Return the drift of the laws of the last θ."""
    return drift(network.conservation_laws(run.theta[-1]))


# %%
# Over step sizes, and over batch sizes
# -------------------------------------

steps = TIME / np.array([80, 160, 320, 640, 1280, 2560])
sizes = [1, 2, 4, 8, 16, 32, 64, N]
over_steps = {name: [train(name, step, 8) for step in steps] for name in RULES}
over_sizes = {name: [train(name, steps[3], size) for size in sizes] for name in RULES}
run = train("SGD", 2 * steps[0], 1, every=1)

# %%
# The picture
# -----------
#
# Lines are measured on θ, crosses are predicted from the gradients of the batches alone.

figure, axes = plt.subplots(1, 3, figsize=(13, 4.4))
laws = network.conservation_laws(run.theta)
axes[0].plot(run.t, laws, color=PARAMETER)
axes[0].plot(run.t, run.predicted_laws, "--", color=INTRINSIC)
axes[0].plot(run.t, np.exp(-2 * DECAY * run.t)[:, None] * laws[0], ":", color=GREY)
for colour, line, label in (
    (PARAMETER, "-", "measured"),
    (INTRINSIC, "--", "predicted"),
    (GREY, ":", "of the flow"),
):
    axes[0].plot([], [], line, color=colour, label=label)
axes[0].set(title="laws of six neurons, SGD, batches of 1", xlabel="time t", ylabel="h(θ(t))")
axes[0].set_ylim(top=laws.max() + 0.45 * np.ptp(laws))
axes[0].legend(ncols=3, columnspacing=1.0, handlelength=1.5)
COLOURS = dict(zip(RULES, (PARAMETER, INTRINSIC, CONTROL), strict=True))
for panel, places, runs in ((axes[1], steps, over_steps), (axes[2], sizes, over_sizes)):
    for (name, own), marker in zip(runs.items(), "os^", strict=True):
        values = [measured(each) for each in own]
        panel.loglog(places, values, marker, ls="-", color=COLOURS[name], label=name)
        if own[0].predicted_laws is not None:
            predicted = [drift(each.predicted_laws[-1]) for each in own]
            panel.loglog(places, predicted, "x", color=ink(), markersize=9)
    panel.set_ylabel("drift of the laws / ‖θ₀‖²")
    panel.xaxis.set_minor_formatter(NullFormatter())
axes[1].set(title="Drift over step size, batches of 8", xlabel="time per step")
axes[2].set(title=f"Drift over batch size, time per step {steps[3]:g}", xlabel="samples in a batch")
axes[1].plot([], [], "x", color=ink(), label="predicted")
axes[1].set_ylim(bottom=measured(over_steps["SGD"][-1]) / 30)  # room for the legend
axes[1].legend(loc="lower right")
figure.suptitle(f"{network!r}, {iris}, seed 2", fontsize="small")
plt.show()

# %%
# The claim, checked
# ------------------
#
# The prediction holds to rounding in every run but AdamW's. The negative control is the prediction
# of the same training with the batches in another order.


def order(places, values):
    """Return the slope in the logarithms."""
    return np.polyfit(np.log(places), np.log(values), 1)[0]


size = np.abs(network.conservation_laws(theta0)).max()
for name in ("SGD", "momentum 0.9"):
    for each in over_steps[name] + over_sizes[name]:
        gap = np.abs(each.predicted_laws - network.conservation_laws(each.theta)).max()
        assert gap <= 1e-12 * size, "a rule is not predicted to rounding"
    in_step = order(steps[2:], [measured(each) for each in over_steps[name][2:]])
    print(f"{name}: drift of order {in_step:.2f} in η")
    assert abs(in_step - 1) < 0.25, "the drift is of another order in η"
ends = network.conservation_laws([each.theta[-1] for each in over_sizes["SGD"]])
added = np.abs(ends - ends[-1]).max(axis=1)[:5]
in_size = order(sizes[:5], added)
print(f"SGD: what batches add is of order {in_size:.2f} in their size")
assert abs(in_size + 1) < 0.25, "what batches add is of another order in their size"
other = train("SGD", 2 * steps[0], 1, rng=1, every=1)
control = np.abs(other.predicted_laws - laws).max() / np.abs(laws).max()
print(f"another order of the batches: off by {control:.0e}")
assert control > 1e-3, "any order of the batches predicts the laws"
assert all(each.predicted_laws is None for each in over_steps["AdamW"]), "AdamW is predicted"
values = [measured(each) for each in over_steps["AdamW"]]
left = np.polyfit(steps[-3:], values[-3:], 1)[1]
print(f"AdamW: drift {values[-1]:.2f} at the smallest step, {left:.2f} as η → 0")
assert left > 0.5 * values[-1], "AdamW keeps the laws in the limit"
assert values[-1] > 10 * measured(over_steps["SGD"][-1]), "AdamW keeps the laws"

CLAIMS = [
    {
        "claim": "The laws after any steps of SGD with any batches are predicted exactly.",
        "whose": "ours",
        "assert": "a rule is not predicted to rounding",
        "control": "any order of the batches predicts the laws",
    },
    {
        "claim": "Over a fixed time the drift falls like η.",
        "whose": "ours",
        "assert": "the drift is of another order in η",
        "control": "AdamW keeps the laws in the limit",
    },
    {
        "claim": "What batches add falls like one over their size.",
        "whose": "ours",
        "assert": "what batches add is of another order in their size",
        "control": "any order of the batches predicts the laws",
    },
    {
        "claim": "For AdamW no prediction is offered, and its drift stays as η → 0.",
        "whose": "Loshchilov2019, ours",
        "assert": "AdamW keeps the laws",
        "control": "the drift is of another order in η",
    },
]
