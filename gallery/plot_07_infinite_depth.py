r"""
The limit of infinite depth
===========================

A linear network with N residual layers :math:`U_i = I + A_i/N` is Euler's method for the neural ODE
:math:`X' = A(s) X`, whose lift is z = X(1).

**Claim** [MPG]_: if the laws are multiples of the identity, the cometrics tend to

.. math:: K(Z)[G] = \int_0^1 (ZZ^\top)^{1−s}\, G\, (Z^\top Z)^s\, ds

for N → ∞: in the singular vectors of Z, a multiplication by the logarithmic means of the
:math:`σ_k^2` and :math:`σ_l^2`. The error is O(1/N) (the order is ours; that λ drops out is ours,
too, until we see it in print).
"""

import matplotlib.pyplot as plt
import numpy as np

from liftflow import intrinsic_cometric
from liftflow.architectures import LinearNeuralODE
from liftflow.figures import CONTROL, CYCLE, GREY, INTRINSIC, ink, style
from liftflow.metrics import DeepMultiplier, LogarithmicMeanMultiplier

plt.style.use(style())

# %%
# The cometric at finite depth, and in the limit
# ----------------------------------------------
#
# For each λ and N, ten relaxed balanced θ; their M(θ) = ∂φ∂φᵀ, in the L² metric of A, is the exact
# cometric at depth N. The closed form belongs to the limit. The control replaces the logarithmic
# mean by the geometric one, σₖσₗ, which is close to it where the singular values are alike.

depths = np.array([4, 8, 16, 32, 64, 128])
errors, controls = {}, {}
for lam in (0.0, 1.0, -2.0):
    errors[lam], controls[lam] = np.zeros((2, 10, depths.size))
    for i, j in np.ndindex(10, depths.size):
        network = LinearNeuralODE(3, int(depths[j]))
        theta = network.balanced_point(lam, rng=i)
        z, exact = network.lift(theta), network.gram_matrix(theta)
        limit = intrinsic_cometric(network, theta).matrix(z)
        left, sigma, right_t = np.linalg.svd(z)
        turn = np.kron(left, right_t.T)
        geometric = turn @ np.diag(np.outer(sigma, sigma).ravel()) @ turn.T
        for store, matrix in ((errors, limit), (controls, geometric)):
            store[lam][i, j] = np.linalg.norm(exact - matrix) / np.linalg.norm(exact)

fits = {lam: -np.polyfit(np.log(depths[-4:]), np.log(e.T[-4:]), 1)[0] for lam, e in errors.items()}

# %%
# The multipliers themselves
# --------------------------
#
# Balanced layers of depth L multiply the entry (k, l) by
# :math:`\frac{1}{L} \sum_j σ_k^{2(L−j)/L} σ_l^{2(j−1)/L}`. With L it tends to the logarithmic mean.

ratio = np.logspace(-2, 2, 200)
shallow = [2, 3, 6, 20]
multipliers = {L: DeepMultiplier(np.zeros(L)).pair(ratio, 1.0 + 0 * ratio) / L for L in shallow}
mean = LogarithmicMeanMultiplier().pair(ratio, 1.0 + 0 * ratio)

figure, (one, two) = plt.subplots(1, 2, figsize=(9, 4.8))
for (lam, values), colour, marker in zip(errors.items(), CYCLE[3:], "os^", strict=True):
    label = f"λ = {lam:g}, ten points: order {np.median(fits[lam]):.2f}"
    one.loglog(depths, np.median(values, axis=0), marker=marker, color=colour, label=label)
    one.plot(depths, values.min(axis=0), depths, values.max(axis=0), color=colour, lw=0.6)
stays = np.median(list(controls.values()), axis=1)  # the same for all λ, but for some per cent
one.loglog(depths, stays.mean(axis=0), ":", color=CONTROL, label="control: geometric mean")
one.loglog(
    depths, 0.3 * errors[-2.0][0, 0] * depths[0] / depths, "--", color=GREY, lw=1, label="order 1"
)
one.set(title="M(θ) against the limit", xlabel="number of layers N", ylabel="relative error")
one.set_ylim(bottom=min(map(np.min, errors.values())) / 20)
one.legend(loc="lower left")
for shade, (depth, values) in zip((0.3, 0.5, 0.7, 0.9), multipliers.items(), strict=True):
    two.loglog(ratio, values, color=INTRINSIC, alpha=shade, label=f"depth {depth}")
two.loglog(ratio, mean, "--", color=ink(), label="∞: logarithmic mean")
two.loglog(ratio, ratio, ":", color=CONTROL, label="control: geometric mean")
two.set(title="multiplier of an entry, balanced", xlabel="σₖ/σₗ", ylabel="mₖₗ/L, with σₗ = 1")
two.legend(loc="upper left")
figure.suptitle("LinearNeuralODE(3, N), seeds 0 to 9", fontsize="small")
plt.show()

# %%
# The claim, checked
# ------------------

print("fitted orders:", {lam: f"{fit.min():.3f} … {fit.max():.3f}" for lam, fit in fits.items()})
at_last = np.array([values[:, -1] for values in errors.values()])
assert np.all(np.abs(np.array(list(fits.values())) - 1) < 0.1), "another order at one of the points"
assert at_last.max() < 0.05, "another limit at one of the points"
assert np.all(stays[:, -1] > 3 * np.median(at_last, axis=1)), "any mean would do"
assert np.all(stays[:, -1] > 0.8 * stays[:, -2]), "the control converges"
gaps = [np.abs(np.log(multipliers[L] / mean)).max() for L in shallow]
assert np.all(np.diff(gaps) < 0), "the multipliers do not approach the logarithmic mean"

CLAIMS = [
    {
        "claim": "The cometrics tend to the logarithmic mean, whatever λ is.",
        "whose": "MPG, ours",
        "assert": "another limit at one of the points",
        "control": "any mean would do",
    },
    {
        "claim": "The error is O(1/N).",
        "whose": "ours",
        "assert": "another order at one of the points",
        "control": "the control converges",
    },
    {
        "claim": "The multipliers of balanced layers tend to the logarithmic mean.",
        "whose": "MPG",
        "assert": "the multipliers do not approach the logarithmic mean",
        "control": "any mean would do",
    },
]
