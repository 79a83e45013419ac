r"""
Learning rates per layer: from lazy to rich on one neuron
=========================================================

A neuron :math:`z = uv` with a learning rate for each layer keeps
:math:`u^2/η_u − |v|^2/η_v`. The rates are a metric on parameter space, and K follows:
:math:`K = ∂φ E ∂φ^\top = η_v u^2 I + η_u |v|^2 \hat z \hat z^\top` on the set where that law has
its first value. So from one and the same θ₀ the rates decide the kind of training: where the input
layer learns fast, K is nearly a multiple of I and z goes straight, as a linear model does (lazy);
where the output layer does, z grows or shrinks before it turns (rich).

**Claims**: the law of the rates is kept, and others are not; the flow of z in that metric is the
flow of θ, for every ratio of the rates; the slower the input layer, the longer the way of z.
Laws and regimes are those of [Kunin2024]_, the metric is ours. The control ignores the rates.
"""

import matplotlib.pyplot as plt
import numpy as np

from liftflow import InvariantSet, TwoLayerLinear, compare
from liftflow.figures import CONTROL, INTRINSIC, ORANGE, SKY, style
from liftflow.flows import TrainingRule
from liftflow.losses import least_squares_loss

plt.style.use(style())

# %%
# One neuron, two inputs, and three ratios of rates
# -------------------------------------------------
#
# u is the weight of the output, v those of the inputs; the product of the rates is 1. Without its
# rates, each flow of z would be that of equal rates.

network = TwoLayerLinear(1, 2, 1)
theta0 = np.array([0.8, 0.1, 0.7])
target = np.array([[1.5, -0.4]])
loss = least_squares_loss(np.eye(2), target.T)
ratios = {"output layer fast": 9.0, "equal rates": 1.0, "input layer fast": 1 / 9.0}
runs = {}
for name, ratio in ratios.items():
    rule = TrainingRule([np.sqrt(ratio), 1 / np.sqrt(ratio)])
    start = InvariantSet(network, theta0)
    control = ratio != 1.0
    runs[name] = compare(
        start, loss, (0.0, 15.0), rtol=1e-8, rule=rule, control=control, n_times=301
    )
    print(f"{name:18} deviation {runs[name].max_deviation:.1e}", runs[name].control_deviation)

# %%
# The ways to one minimum
# -----------------------

colours = dict(zip(runs, (SKY, INTRINSIC, ORANGE), strict=True))
figure, (plane, laws) = plt.subplots(1, 2, figsize=(11, 4.6))
for name, run in runs.items():
    path = run.intrinsic.y[:, 0]
    plane.plot(*path.T, color=colours[name], linewidth=2.5, label=name)
wrong = runs["input layer fast"].control.y[:, 0]
plane.plot(*wrong.T, ":", color=CONTROL, label="control: rates ignored")
plane.plot(*runs["equal rates"].intrinsic.y[0, 0], "o", color="0.5")
plane.plot(*target[0], "*", color="0.5", markersize=14)
plane.set(xlabel="z₁", ylabel="z₂", title="Ways of z from one start to one minimum", aspect="equal")
plane.legend()
own_change = plain_change = 0.0
for width, (name, run) in zip((6, 4, 2), runs.items(), strict=True):
    theta = run.parameter.theta
    own = run.rule.laws(network, theta)[:, 0]
    plain = network.conservation_laws(theta)[:, 0]
    laws.plot(run.parameter.t, own - own[0], color=colours[name], linewidth=width, label=name)
    laws.plot(run.parameter.t, plain - plain[0], ":", color=colours[name])
    own_change = max(own_change, np.abs(own - own[0]).max())
    plain_change = max(plain_change, np.abs(plain - plain[0]).max())
laws.plot([], [], ":", color="0.5", label="u² − |v|²")
laws.set(xlabel="time t", ylabel="change of the law")
laws.set_title(f"laws of the rates change by {own_change:.0e}, u² − |v|² by {plain_change:.1f}")
laws.set_ylim(top=1.7 * plain_change)
laws.legend(loc="upper left", ncols=2)
where = f"θ₀ = {theta0.tolist()}, minimum at {target[0].tolist()}"
figure.suptitle(f"{network!r}, {where}", fontsize="small")

# %%
# The claims hold.

chord = np.linalg.norm(target[0] - runs["equal rates"].intrinsic.y[0, 0])


def length(flow):
    """Return the length of the way of z."""
    return np.linalg.norm(np.diff(flow.y[:, 0], axis=0), axis=1).sum()


lengths = [length(run.intrinsic) for run in runs.values()]
ignored = [length(run.control or run.intrinsic) for run in runs.values()]
for name, run in runs.items():
    assert run.success
    assert run.max_deviation < 1e-6, f"{name}: the flow of z is not that of θ"
    assert run.law_drift < 1e-7, f"{name}: the law of the rates drifts"
    assert np.linalg.norm(run.intrinsic.y[-1] - target) < 1e-2, f"{name}: another minimum"
    plain = network.conservation_laws(run.parameter.theta)[:, 0]
    if name == "equal rates":
        assert np.ptp(plain) < 1e-7, "the plain law drifts"
    else:
        assert run.control_deviation > 1e-2, f"control: {name} needs no rates"
        assert np.ptp(plain) > 1e-2, f"control: {name} keeps the plain law"
print("lengths of the ways, the chord being 1:", np.round(lengths / chord, 3))
assert lengths[0] > 1.2 * chord, "the way is not rich where the output layer is fast"
assert lengths[0] > lengths[1] > lengths[2], "ways do not get straighter"
assert lengths[2] < 1.01 * chord, "the way is not lazy where the input layer is fast"
assert np.ptp(ignored) < 1e-3 * chord, "control: ways differ where the rates are ignored"

CLAIMS = [
    {
        "claim": "For each of three ratios of rates, the flow of z in their metric is that of θ.",
        "whose": "ours",
        "assert": "{}: the flow of z is not that of θ",
        "control": "control: {} needs no rates",
    },
    {
        "claim": "The law of the rates is kept, and where they differ u² − |v|² is not.",
        "whose": "Kunin2024",
        "assert": "{}: the law of the rates drifts",
        "control": "control: {} keeps the plain law",
    },
    {
        "claim": "The slower the input layer, the longer the way of z.",
        "whose": "Kunin2024, ours",
        "assert": "ways do not get straighter",
        "control": "control: ways differ where the rates are ignored",
    },
    {
        "claim": "Where the input layer learns fast, z goes straight, as in lazy training.",
        "whose": "Kunin2024",
        "assert": "the way is not lazy where the input layer is fast",
        "control": "the way is not rich where the output layer is fast",
    },
]
