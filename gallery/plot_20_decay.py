r"""
Weight decay: the laws fade, and the metric with them
=====================================================

With weight decay, :math:`θ' = −∇ℓ(θ) − λθ`, nothing is conserved. But laws of degree two fade on a
schedule that no loss can change, :math:`h(t) = e^{−2λt} h_0`, and so the metric is known at all
times: :math:`z' = −K_{h(t)}(z) ∇f(z) − λ ∂φ(θ)θ`, still without θ.

**Claims**: the laws fade as predicted [Marcotte2025]_, Theorem 2.1, so that networks end balanced;
the flow of z in the metric that fades is the flow of θ (ours). The control keeps the metric of the
start: it parts.
"""

import matplotlib.pyplot as plt
import numpy as np

from liftflow import InvariantSet, NetworkLoss, ReLUNetwork, compare
from liftflow.data import load
from liftflow.figures import CONTROL, INTRINSIC, PARAMETER, PURPLE, style
from liftflow.flows import TrainingRule

plt.style.use(style())

# %%
# Diabetes, with decay
# --------------------
#
# A ReLU network learns to predict the progress of the disease. Its neurons are rescaled, so that
# their laws are far from zero, with both signs.

data = load("diabetes")
network = ReLUNetwork.from_widths([data.inputs.shape[1], 8, 1], bias=True)
rng = np.random.default_rng(0)
theta0 = network.random_point(rng=rng)
theta0 = network.rescale(theta0, np.linspace(-1.4, 0.6, 8))
loss = NetworkLoss(network, data.inputs, data.targets_for("mse"))
rule = TrainingRule(weight_decay=0.3)
start = InvariantSet(network, theta0)
run = compare(start, loss, (0.0, 6.0), rtol=1e-6, atol=1e-8, rule=rule, control=True)
print(run)

# %%
# Laws over time, and the distance of both flows of z from that of θ
# ------------------------------------------------------------------

t, theta = run.parameter.t, run.parameter.theta
laws = network.conservation_laws(theta)
expected = rule.laws_at(network, theta0, t)

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4))
left.plot(t, laws, color=PARAMETER, linewidth=2.5, alpha=0.6)
left.plot(t, expected, "--", color=PURPLE)
left.lines[0].set_label("measured along the flow of θ")
left.lines[-1].set_label(r"$e^{-2\lambda t} h(\theta_0)$")
left.set(xlabel="time t", ylabel="laws h, one per neuron")
left.set_title(f"laws of {network.n_laws} neurons, λ = {rule.weight_decay:g}")
left.legend()
right.semilogy(t[1:], run.deviation[1:], color=INTRINSIC, label="metric of the laws at time t")
frozen = run.control_deviation_over_time
right.semilogy(t[1:], frozen[1:], ":", color=CONTROL, label="control: metric of θ₀ for ever")
right.set(
    xlabel="time t",
    ylabel="‖φ(θ(t)) − z(t)‖ / ‖φ(θ(t))‖",
    title=f"up to {run.max_deviation:.1e} apart, control {run.control_deviation:.2f}",
)
right.legend()
figure.suptitle(f"{network!r}, {data}, seed 0", fontsize="small")

# %%
# The claims hold.

size = np.sum(theta0**2)
assert run.success
assert np.abs(laws - expected).max() < 1e-5 * size, "laws do not fade as predicted"
assert np.abs(laws[-1]).max() < 0.05 * np.abs(laws[0]).max(), "the network is not balanced yet"
assert laws[0].min() < 0 < laws[0].max(), "laws of one sign only"
assert run.max_deviation < 1e-3, "the flow of z is not that of θ"
assert run.control_deviation > 1e-2, "control: the metric of θ₀ does as well"
assert np.abs(laws - laws[0]).max() > 1e-2 * size, "control: the laws stay where they are"

CLAIMS = [
    {
        "claim": "With weight decay λ the laws fade as e^{−2λt}h(θ₀).",
        "whose": "Marcotte2025",
        "assert": "laws do not fade as predicted",
        "control": "control: the laws stay where they are",
    },
    {
        "claim": "So networks end balanced.",
        "whose": "Marcotte2025",
        "assert": "the network is not balanced yet",
        "control": "control: the laws stay where they are",
    },
    {
        "claim": "The flow of z in the metric that fades is the flow of θ.",
        "whose": "ours",
        "assert": "the flow of z is not that of θ",
        "control": "control: the metric of θ₀ does as well",
    },
]
