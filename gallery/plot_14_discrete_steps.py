r"""
Steps of a finite size
======================

The laws h are conserved by gradient flows. Training makes steps, and the laws drift.

**Claims** (ours; the laws are those of [Marcotte2023]_). Over a fixed time of the flow, gradient
descent and momentum let the laws drift by O(η) in the step size η, and the intrinsic flow predicts
z to O(η). Adam divides each entry of the gradient by its size: in the limit of small steps it is
no gradient flow of the loss in the Euclidean metric, the laws drift by O(1) however small η is,
and the intrinsic flow does not predict it.
"""

import matplotlib.pyplot as plt
import numpy as np

from liftflow import InvariantSet, NetworkLoss, ReLUNetwork, compare
from liftflow.data import load
from liftflow.figures import CONTROL, GREY, INTRINSIC, PARAMETER, style
from liftflow.flows import Adam, GradientDescent, law_drift

plt.style.use(style())

# %%
# The two flows, as a reference
# -----------------------------
#
# A network with five neurons on iris, for one unit of time. Both flows agree, and keep the laws.

iris = load("iris")
network = ReLUNetwork.from_widths([4, 5, 3], bias=True)
loss = NetworkLoss(network, iris.inputs, iris.targets, kind="cross-entropy")
start = InvariantSet(network, network.random_point(rng=2))
TIME = 1.0
flows = compare(start, loss, (0.0, TIME), rtol=1e-7, atol=1e-9, n_times=2)

# %%
# Training by steps
# -----------------
#
# One step of momentum β stands for the time η/(1 − β), one of Adam for η. Each run ends at the
# same time. ``law_drift`` measures ‖h(θ) − h(θ₀)‖∞/‖θ₀‖², for steps as for flows.

optimizers = {
    "gradient descent": lambda step: GradientDescent(network, loss, step),
    "momentum 0.9": lambda step: GradientDescent(network, loss, 0.1 * step, momentum=0.9),
    "Adam": lambda step: Adam(network, loss, step),
}
time_steps = TIME / np.array([10, 20, 40, 80, 160, 320, 640])
drifts, deviations = {}, {}
for name, make in optimizers.items():
    runs = [make(step).run(start.theta0, round(TIME / step)) for step in time_steps]
    drifts[name] = [law_drift(network, run)[-1] for run in runs]
    ends = np.array([run.theta[-1] for run in runs])
    predicted = flows.intrinsic.theta[-1]
    deviations[name] = network.lifted_distance(ends, predicted) / network.lifted_norm(predicted)


def order(values):
    """Return the slope in the logarithms, over the three smallest steps."""
    return np.polyfit(np.log(time_steps[-3:]), np.log(values[-3:]), 1)[0]


def limit(values):
    """Extrapolate the line through the three smallest steps to η = 0; relative to the last."""
    return np.polyfit(time_steps[-3:], values[-3:], 1)[1] / values[-1]


# %%
# The picture
# -----------

COLOURS = dict(zip(optimizers, (PARAMETER, INTRINSIC, CONTROL), strict=True))
figure, axes = plt.subplots(1, 2, figsize=(9, 4.6), sharex=True)
for panel, values, title, label in zip(
    axes,
    (drifts, deviations),
    ("drift of the laws", "distance from the intrinsic flow"),
    ("‖h(θ) − h(θ₀)‖∞ / ‖θ₀‖²", "‖φ(θ) − z‖ / ‖z‖"),
    strict=True,
):
    for (name, line), marker in zip(values.items(), "os^", strict=True):
        panel.loglog(
            time_steps,
            line,
            marker=marker,
            color=COLOURS[name],
            label=f"{name}: order {order(line):.2f}",
        )
    guide = 3 * values["momentum 0.9"][-1] * time_steps / time_steps[-1]
    panel.loglog(time_steps, guide, "--", color=GREY, linewidth=1, label="order 1")
    panel.set(title=title, xlabel="time per step", ylabel=label)
    panel.set_ylim(bottom=values["gradient descent"][-1] / 60)  # room for the legend
    panel.legend(loc="lower right")
figure.suptitle(f"{network!r}, {iris}, seed 2", fontsize="small")
plt.show()

# %%
# The claim, checked
# ------------------
#
# The order is 1 up to the terms of order 2 that the smallest steps still show, and up to the kinks
# of the ReLU, and what is extrapolated to steps of size 0 is nearly nothing. Adam is the negative
# control: there its drift and its distance are what they were, or nearly.

print(f"flows: law drift {flows.law_drift:.0e}, deviation {flows.max_deviation:.0e}")
assert flows.max_deviation < 1e-4, "the two flows part"
orders = {name: (order(drifts[name]), order(deviations[name])) for name in optimizers}
for name in ("gradient descent", "momentum 0.9"):
    assert np.allclose(orders[name], 1, atol=0.15), "another order in the step size"
    assert abs(limit(drifts[name])) < 0.2, "steps do not keep the laws in the limit"
    assert abs(limit(deviations[name])) < 0.2, "the flow does not predict the limit of steps"
assert limit(drifts["Adam"]) > 0.5, "Adam keeps the laws in the limit"
assert limit(deviations["Adam"]) > 0.5, "the flow predicts the limit of Adam"
assert drifts["Adam"][-1] > 20 * drifts["gradient descent"][-1], "Adam keeps the laws"

CLAIMS = [
    {
        "claim": "Gradient descent and momentum let the laws drift by O(η).",
        "whose": "ours",
        "assert": "another order in the step size",
        "control": "Adam keeps the laws in the limit",
    },
    {
        "claim": "In the limit of small steps they keep the laws.",
        "whose": "ours",
        "assert": "steps do not keep the laws in the limit",
        "control": "Adam keeps the laws in the limit",
    },
    {
        "claim": "The intrinsic flow predicts them to O(η).",
        "whose": "ours",
        "assert": "the flow does not predict the limit of steps",
        "control": "the flow predicts the limit of Adam",
    },
    {
        "claim": "The two flows, the reference, agree.",
        "whose": "MPG",
        "assert": "the two flows part",
        "control": "the flow predicts the limit of Adam",
    },
    {
        "claim": "Adam lets the laws drift however small its steps.",
        "whose": "ours",
        "assert": "Adam keeps the laws",
        "control": "steps do not keep the laws in the limit",
    },
]
