r"""
Small initialisation, read off K
================================

Gradient descent on too many parameters finds solutions that are sparse, or of low rank, if it
starts small. The intrinsic metric says why: :math:`\dot z = −K ∇f`, and K is small where z is
small. What is already large grows; what is not is all but frozen.

**Claims.** For a diagonal network, :math:`K = \sqrt{h^2 + 4z^2}` entry by entry [MPG]_: with small
laws h its spectrum spreads out along training, and the limit has nearly the least ℓ₁ norm; with
large laws K is nearly constant, and the limit is not sparse [Woodworth2020]_. For a balanced linear
network of depth L, K multiplies the direction of σ by :math:`L σ^{2−2/L}` [Arora2018]_: in the runs
below, singular values enter one after the other from small weights, and the limit has low rank.
Both problems are drawn once, from the seed 0.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linprog

from liftflow import ParameterFlow, ReLUNetwork, intrinsic_cometric
from liftflow.architectures import DeepLinear
from liftflow.figures import BLUE, CONTROL, GREY, INTRINSIC, style
from liftflow.losses import loss_from_function, matrix_completion_loss

plt.style.use(style())

# %%
# Sparse regression
# -----------------
#
# Twenty measurements of a vector of forty entries, of which three are not zero. A diagonal network
# with weights of size α starts close to z = 0, once with small laws h = α², once with large ones.

N_ENTRIES, N_MEASURED = 40, 20
sparse = np.zeros(N_ENTRIES)
sparse[[3, 17, 30]] = [1.0, -0.8, 0.6]
rng = np.random.default_rng(0)
measurements = rng.standard_normal((N_MEASURED, N_ENTRIES)) / np.sqrt(N_MEASURED)
values = measurements @ sparse
regression = loss_from_function(lambda z: 0.5 * ((measurements @ z - values) ** 2).sum())
diagonal = ReLUNetwork.diagonal(N_ENTRIES)


def train_diagonal(scale, time):
    """Train from weights (scale, scale / 1000) on each chain."""
    names = diagonal.parameter_names
    first = [tail in diagonal.inputs for tail, _ in names]
    theta0 = np.where(first, scale, 1e-3 * scale)
    settings = {"rtol": 1e-5, "atol": 1e-9, "n_times": 101}
    run = ParameterFlow(diagonal, regression).integrate(theta0, (0.0, time), **settings)
    return run, intrinsic_cometric(diagonal, theta0)


# %%
# Matrix completion
# -----------------
#
# A 10 × 10 matrix of rank 2, of which 65 % of the entries are known, and three linear layers,
# balanced, small and large.

rng = np.random.default_rng(0)
left, _ = np.linalg.qr(rng.standard_normal((10, 2)))
right, _ = np.linalg.qr(rng.standard_normal((10, 2)))
low_rank = left @ np.diag([4.0, 2.5]) @ right.T
known = rng.random((10, 10)) < 0.65
completion = matrix_completion_loss(low_rank * known, known)
deep = DeepLinear([10, 10, 10, 10])


def train_deep(scale, time):
    """Train from balanced layers with singular values around ``scale``."""
    theta0 = scale * deep.balanced_point((0.0, 0.0), rng=1)
    settings = {"rtol": 1e-5, "atol": 1e-8, "n_times": 101}
    run = ParameterFlow(deep, completion).integrate(theta0, (0.0, time), **settings)
    return run, intrinsic_cometric(deep, theta0)


# %%
# From small weights, and from large ones
# ---------------------------------------
#
# All four runs are trained to the end. The spectrum of K is computed from z alone.

runs = {
    "sparse": (diagonal, [train_diagonal(0.003, 120.0), train_diagonal(2.0, 120.0)]),
    "rank 2": (deep, [train_deep(0.05, 4000.0), train_deep(1.0, 4000.0)]),
}
paths, spectra = {}, {}
for name, (network, pair) in runs.items():
    paths[name] = [network.lift(run.theta) for run, _ in pair]
    matrices = [cometric.matrix(z[::5]) for (_, cometric), z in zip(pair, paths[name], strict=True)]
    spectra[name] = np.linalg.eigvalsh(matrices)

truth = {"sparse": sparse, "rank 2": low_rank}
errors, decades = {}, {}
for name, wanted in truth.items():
    gaps = [np.linalg.norm(z[-1] - wanted) for z in paths[name]]
    errors[name] = np.array(gaps) / np.linalg.norm(wanted)
    decades[name] = np.log10(spectra[name][:, -1, -1] / spectra[name][:, -1, 0])

# %%
# The picture
# -----------
#
# Above the sparse vector, below the matrix of low rank; in colour what the truth consists of. In
# the middle the spectrum of K along the run from small weights: it spreads over orders of
# magnitude, and only few directions move.

lines = {
    "sparse": [(z[:, sparse != 0], z[:, sparse == 0]) for z in paths["sparse"]],
    "rank 2": [np.split(np.linalg.svd(z, compute_uv=False), [2], axis=1) for z in paths["rank 2"]],
}
values_of = {"sparse": sparse[sparse != 0], "rank 2": [4.0, 2.5]}
labels = {"sparse": "entries zᵢ", "rank 2": "singular values σₖ"}
figure, axes = plt.subplots(2, 3, figsize=(12, 7.2))
for row, (name, (_, pair)) in zip(axes, runs.items(), strict=True):
    times = pair[0][0].t
    for panel, (true, other) in zip(row[::2], lines[name], strict=True):
        panel.plot(times, other, color=GREY, linewidth=0.8)
        panel.plot(times, true, color=BLUE)
        panel.plot([], [], color=BLUE, label="what the truth consists of")
        panel.plot([], [], color=GREY, linewidth=0.8, label="the rest")
        for value in values_of[name]:
            panel.axhline(value, color=CONTROL, linewidth=1, linestyle="--")
        panel.plot([], [], "--", color=CONTROL, linewidth=1, label="true values")
        panel.set_ylabel(labels[name])
    row[0].set_title(f"small weights, error {errors[name][0]:.3f}")
    row[2].set_title(f"control: large weights, error {errors[name][1]:.2f}")
    row[2].set_ylim(row[0].get_ylim())
    small, large = spectra[name]
    row[1].semilogy(times[::5], small, color=INTRINSIC, linewidth=0.9)
    row[1].fill_between(times[::5], large[:, 0], large[:, -1], color=CONTROL, alpha=0.35, lw=2)
    row[1].set(title=f"spectrum of K, {name}", ylabel="eigenvalues of K(z(t))")
for panel in axes.flat:
    panel.set_xlabel("time t")
axes[0, 0].plot([], [], color=INTRINSIC, label="K, small weights")
axes[0, 0].fill_between([], [], color=CONTROL, alpha=0.35, label="K, control: large weights")
handles, names = axes[0, 0].get_legend_handles_labels()
keys = dict(zip(names, handles, strict=True))  # each once
figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=5)
figure.suptitle(f"{diagonal!r}; {deep!r}; seed 0", fontsize="small")
plt.show()

# %%
# The claim, checked
# ------------------

for name in truth:
    print(
        f"{name}: error {errors[name][0]:.3f}, from large weights {errors[name][1]:.2f}; K spreads "
        f"over {decades[name][0]:.1f} decades, from large weights {decades[name][1]:.1f}"
    )
# The least ℓ₁ norm of all z that fit, by linear programming in the positive and negative parts.
both = np.hstack([measurements, -measurements])
least = linprog(np.ones(2 * N_ENTRIES), A_eq=both, b_eq=values).fun
norms = np.array([np.abs(z[-1]).sum() for z in paths["sparse"]]) / least
print(f"ℓ₁ norm over the least: {norms[0]:.3f}, from large weights {norms[1]:.2f}")

# K along the direction of each singular value, at the end of the run from small weights.
z_end = paths["rank 2"][0][-1]
u, sigma, v = np.linalg.svd(z_end)
outer = [np.outer(u[:, k], v[k]) for k in range(2)]
along = np.array([np.sum(each * runs["rank 2"][1][0][1].apply(z_end, each)) for each in outer])
law, other_law = 3 * sigma[:2] ** (4 / 3), 2 * sigma[:2]  # of depth 3, and of depth 2

# When each of the two singular values has half of its last size.
first_two = [np.linalg.svd(z, compute_uv=False)[:, :2] for z in paths["rank 2"]]
halves = []
for (run, _), values_in_time in zip(runs["rank 2"][1], first_two, strict=True):
    late = np.argmax(values_in_time > values_in_time[-1] / 2, axis=0)
    halves.append(run.t[late])
apart = [times[1] - times[0] for times in halves]
print(f"the second singular value is late by {apart[0]:.0f}, from large weights by {apart[1]:.0f}")

losses = [run.loss[-1] for _, pair in runs.values() for run, _ in pair]
assert max(losses) < 1e-4, "not trained to the end"
assert all(small < 0.1 for small, _ in errors.values()), "the limit is not the simple one"
assert all(large > 0.3 for _, large in errors.values()), "the scale of weights does not matter"
assert norms[0] < 1.02, "the limit is not that of least norm"
assert norms[1] > 1.2, "large weights have the least norm, too"
assert np.allclose(along, law, rtol=1e-6), "K has another exponent"
assert not np.allclose(along, other_law, rtol=0.1), "any exponent would do"
assert apart[0] > 20, "the singular values enter together"
assert apart[1] < 0.2 * apart[0], "they enter one by one from large weights, too"
assert all(small > large + 1 for small, large in decades.values()), "K does not tell them apart"

CLAIMS = [
    {
        "claim": "From small weights the limit is nearly the simple solution.",
        "whose": "Woodworth2020, Arora2018",
        "assert": "the limit is not the simple one",
        "control": "the scale of weights does not matter",
    },
    {
        "claim": "From small weights the limit has nearly the least ℓ₁ norm.",
        "whose": "Woodworth2020",
        "assert": "the limit is not that of least norm",
        "control": "large weights have the least norm, too",
    },
    {
        "claim": "At depth 3, K multiplies the direction of σ by 3 σ^(4/3).",
        "whose": "Arora2018",
        "assert": "K has another exponent",
        "control": "any exponent would do",
    },
    {
        "claim": "In this run the singular values enter one after the other.",
        "whose": "Arora2018",
        "assert": "the singular values enter together",
        "control": "they enter one by one from large weights, too",
    },
    {
        "claim": "The spectrum of K spreads out from small weights.",
        "whose": "ours",
        "assert": "K does not tell them apart",
        "control": "the scale of weights does not matter",
    },
]
