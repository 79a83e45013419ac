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
from liftflow.losses import loss_from_function
from liftflow.matrix_losses import matrix_completion_loss

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


small_sparse, small_diagonal_k = train_diagonal(0.003, 120.0)
large_sparse, large_diagonal_k = train_diagonal(2.0, 120.0)
small_rank, small_deep_k = train_deep(0.05, 4000.0)
large_rank, large_deep_k = train_deep(1.0, 4000.0)

# %%
# The picture
# -----------
#
# Above the sparse vector, below the matrix of low rank. In the middle the spectrum of K along the
# run from small weights: it spreads over orders of magnitude, and only few directions move.


def spectrum(cometric, run, network):
    """Return the eigenvalues of K along a run."""
    return np.linalg.eigvalsh(cometric.matrix(network.lift(run.theta[::5])))


figure, axes = plt.subplots(2, 3, figsize=(12, 7.2))
truth = sparse != 0
for panel, run, title in (
    (axes[0, 0], small_sparse, "small weights: sparse"),
    (axes[0, 2], large_sparse, "control, large weights: not sparse"),
):
    z = diagonal.lift(run.theta)
    panel.plot(run.t, z[:, ~truth], color=GREY, linewidth=0.8)
    panel.plot(run.t, z[:, truth], color=BLUE)
    panel.set(title=title, ylabel="entries zᵢ", ylim=(-1.1, 1.2))
for panel, run, title in (
    (axes[1, 0], small_rank, "small weights: rank 2"),
    (axes[1, 2], large_rank, "control, large weights: rank 10"),
):
    sigma = np.linalg.svd(deep.lift(run.theta), compute_uv=False)
    panel.plot(run.t, sigma[:, 2:], color=GREY, linewidth=0.8)
    panel.plot(run.t, sigma[:, :2], color=BLUE)
    panel.set(title=title, ylabel="singular values σₖ", ylim=(0, None))
spectra = {}
for panel, small, large, network in (
    (axes[0, 1], (small_diagonal_k, small_sparse), (large_diagonal_k, large_sparse), diagonal),
    (axes[1, 1], (small_deep_k, small_rank), (large_deep_k, large_rank), deep),
):
    spectra[panel] = [spectrum(*pair, network) for pair in (small, large)]
    panel.semilogy(small[1].t[::5], spectra[panel][0], color=INTRINSIC, linewidth=0.9)
    extremes = spectra[panel][1][:, [0, -1]].T
    panel.fill_between(large[1].t[::5], *extremes, color=CONTROL, alpha=0.35, linewidth=2)
    panel.plot([], [], color=INTRINSIC, label="small weights")
    panel.fill_between([], [], color=CONTROL, alpha=0.35, label="control: large")
    panel.set(title="spectrum of K", ylabel="eigenvalues of K(z(t))")
    panel.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")
for panel in axes.flat:
    panel.set_xlabel("time t")
plt.show()

# %%
# The claim, checked
# ------------------


def error(network, run, wanted):
    """Return the distance of the limit from the truth, relative to its size."""
    return np.linalg.norm(network.lift(run.theta[-1]) - wanted) / np.linalg.norm(wanted)


spread = {panel: [np.log10(s[-1, -1] / s[-1, 0]) for s in pair] for panel, pair in spectra.items()}
print(
    "final losses",
    [f"{run.loss[-1]:.0e}" for run in (small_sparse, large_sparse, small_rank, large_rank)],
)
for name, network, wanted, runs, panel in (
    ("sparse", diagonal, sparse, (small_sparse, large_sparse), axes[0, 1]),
    ("rank 2", deep, low_rank, (small_rank, large_rank), axes[1, 1]),
):
    small, large = (error(network, run, wanted) for run in runs)
    decades = spread[panel]
    print(
        f"{name}: error {small:.3f}, from large weights {large:.2f}; "
        f"K spreads over {decades[0]:.1f} decades, from large weights {decades[1]:.1f}"
    )
    assert max(run.loss[-1] for run in runs) < 1e-4, "not trained to the end"
    assert small < 0.1, "the limit is not the simple one"
    assert large > 0.3, "the scale of the weights does not matter"
    assert decades[0] > decades[1] + 1, "the spectrum of K does not tell the two apart"
