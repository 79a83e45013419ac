r"""
Attention: a metric without Frobenius
=====================================

A head of attention sees its weights through :math:`QK^\top` and :math:`VO^\top`, a product of two
linear layers each.

**Claims** [MPG]_: the brackets of the gradient fields leave their span, so the Frobenius property
fails, and θ cannot be recovered from z and the laws. And yet, where the laws of every factor are
multiples of the identity, z has an intrinsic flow of its own, with a K that is block diagonal: one
block for each factor.
"""

import matplotlib.pyplot as plt
import numpy as np

from liftflow import InvariantSet, compare, intrinsic_cometric
from liftflow.architectures import Attention
from liftflow.criteria import frobenius, kernel_inclusion, recoverability
from liftflow.figures import CONTROL, INTRINSIC, SEQUENTIAL, style
from liftflow.losses import attention_loss

plt.style.use(style())

# %%
# Two heads that learn from a teacher
# -----------------------------------
#
# Sequences of five tokens in three dimensions. The targets come from random heads, through the
# softmax: the loss is far from quadratic in z. One start is relaxed balanced; the control is off
# balance, and the closed form of the nearest λ is forced upon it.

network = Attention(d_model=3, d_head=2, n_heads=2)
rng = np.random.default_rng(2)
tokens = rng.standard_normal((6, 5, 3))
teacher = 1.2 * rng.standard_normal(network.lifted_shape)
targets = np.zeros_like(tokens)
for scores, values in zip(teacher[0::2], teacher[1::2], strict=True):
    logits = tokens @ scores @ np.swapaxes(tokens, 1, 2) / np.sqrt(network.d_head)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    targets += weights / weights.sum(axis=-1, keepdims=True) @ tokens @ values
loss = attention_loss(tokens, targets, network.d_head)

balanced = network.balanced_point([0.5, -0.3, 0.2, 0.0], rng=0)
points = {"relaxed balanced": balanced, "off balance": network.random_point(rng=1)}
runs = {}
for name, theta in points.items():
    cometric = intrinsic_cometric(network, theta, tolerance=np.inf)
    start = InvariantSet(network, theta)
    runs[name] = compare(
        start, loss, (0.0, 8.0), rtol=1e-7, atol=1e-9, cometric=cometric, n_times=41
    )

# %%
# What the criteria say
# ---------------------

criteria = (frobenius, recoverability, kernel_inclusion)
found = {name: [rule(network, theta) for rule in criteria] for name, theta in points.items()}
for name, findings in found.items():
    for finding in findings:
        print(f"{name:17} {finding.name:17} {finding.verdict!s:6} {finding.value:.0e}")

# %%
# The picture
# -----------

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6))
good, bad = runs.values()
times = good.parameter.t[1:]
left.semilogy(times, good.deviation[1:], color=INTRINSIC, label="S = λI in every factor")
left.semilogy(times, bad.deviation[1:], ":", color=CONTROL, label="control: other S, K forced")
left.set(title=f"{good.verdict}, off balance to {bad.max_deviation:.1e}", xlabel="time t")
left.set_ylabel("‖φ(θ(t)) − z(t)‖ / ‖φ(θ(t))‖")
left.legend(loc="center right")
matrix = InvariantSet(network, balanced).image().metric.cometric_matrix(network.lift(balanced))
size = np.abs(matrix)
image = right.imshow(np.log10(np.where(size > 1e-14, size, np.nan)), cmap=SEQUENTIAL)
blocks = ["Q₁K₁ᵀ", "V₁O₁ᵀ", "Q₂K₂ᵀ", "V₂O₂ᵀ"]
right.set_xticks(4 + 9 * np.arange(4), blocks)
right.set_yticks(4 + 9 * np.arange(4), blocks)
right.set_title("K at θ₀, factor by factor")
right.tick_params(length=0)
figure.colorbar(image, ax=right, label="log₁₀ |Kᵢⱼ|", shrink=0.85)
figure.suptitle(f"{network!r}, six sequences of five tokens, seeds 0 and 1", fontsize="small")
plt.show()

# %%
# The claim, checked
# ------------------

blocks_only = np.kron(np.eye(4), np.ones((9, 9)))
verdicts = {name: [bool(finding) for finding in findings] for name, findings in found.items()}
print(f"deviation {good.max_deviation:.0e}, off balance {bad.max_deviation:.1e}")
assert verdicts["relaxed balanced"] == [False, False, True], "another verdict"
assert verdicts["off balance"] == [False, False, False], "any other S would do"
assert good.max_deviation < 1e-5, "the two flows part"
assert good.intrinsic.loss[-1] < 0.3 * good.intrinsic.loss[0], "nothing was learnt"
assert np.array_equal(matrix * blocks_only, matrix), "K mixes the factors"
assert bad.max_deviation > 1e-2, "any S would do"

CLAIMS = [
    {
        "claim": "Frobenius and recoverability fail, and the kernel inclusion holds at balance.",
        "whose": "MPG",
        "assert": "another verdict",
        "control": "any other S would do",
    },
    {
        "claim": "Two balanced heads have a flow of z of their own.",
        "whose": "MPG",
        "assert": "the two flows part",
        "control": "any S would do",
    },
    {
        "claim": "K is block diagonal, one block for each factor.",
        "whose": "MPG",
        "assert": "K mixes the factors",
        "control": "any S would do",
    },
]
