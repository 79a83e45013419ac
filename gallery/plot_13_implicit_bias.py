r"""
Small initialisation, read off K
================================

Gradient descent on too many parameters finds solutions that are sparse, or of low rank, if it
starts small. The intrinsic metric says why: :math:`\dot z = −K ∇f`, and K is small where z is
small. What is already large grows; what is not is all but frozen.

**Claims.** For a diagonal network, :math:`K = \sqrt{h^2 + 4z^2}` entry by entry [MPG]_: with small
laws h its spectrum spreads out along training, and the limit is nearly the solution of least ℓ₁
norm; with large laws K is nearly constant, and the limit is not sparse [Woodworth2020]_. For a
balanced linear network of depth L, K scales with σ by :math:`σ^{2−2/L}` [Arora2018]_: singular
values enter one after the other, and the limit has low rank.
"""

import matplotlib.pyplot as plt
import numpy as np

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
labels = {"sparse": "entries zᵢ", "rank 2": "singular values σₖ"}
figure, axes = plt.subplots(2, 3, figsize=(12, 7.2))
for row, (name, (_, pair)) in zip(axes, runs.items(), strict=True):
    times = pair[0][0].t
    for panel, (true, other) in zip(row[::2], lines[name], strict=True):
        panel.plot(times, other, color=GREY, linewidth=0.8)
        panel.plot(times, true, color=BLUE)
        panel.set_ylabel(labels[name])
    row[0].set_title(f"small weights: {name}")
    row[2].set_title(f"control, large weights: not {name}")
    row[2].set_ylim(row[0].get_ylim())
    small, large = spectra[name]
    row[1].semilogy(times[::5], small, color=INTRINSIC, linewidth=0.9)
    row[1].fill_between(times[::5], large[:, 0], large[:, -1], color=CONTROL, alpha=0.35, lw=2)
    row[1].plot([], [], color=INTRINSIC, label="small weights")
    row[1].fill_between([], [], color=CONTROL, alpha=0.35, label="control: large")
    row[1].set(title="spectrum of K", ylabel="eigenvalues of K(z(t))")
    row[1].legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")
for panel in axes.flat:
    panel.set_xlabel("time t")
plt.show()

# %%
# The claim, checked
# ------------------

truth = {"sparse": sparse, "rank 2": low_rank}
errors, decades = {}, {}
for name, wanted in truth.items():
    gaps = [np.linalg.norm(z[-1] - wanted) for z in paths[name]]
    errors[name] = np.array(gaps) / np.linalg.norm(wanted)
    decades[name] = np.log10(spectra[name][:, -1, -1] / spectra[name][:, -1, 0])
    print(
        f"{name}: error {errors[name][0]:.3f}, from large weights {errors[name][1]:.2f}; K spreads "
        f"over {decades[name][0]:.1f} decades, from large weights {decades[name][1]:.1f}"
    )
losses = [run.loss[-1] for _, pair in runs.values() for run, _ in pair]
assert max(losses) < 1e-4, "not trained to the end"
assert all(small < 0.1 for small, _ in errors.values()), "the limit is not the simple one"
assert all(large > 0.3 for _, large in errors.values()), "the scale of weights does not matter"
assert all(small > large + 1 for small, large in decades.values()), "K does not tell them apart"
