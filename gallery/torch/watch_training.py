r"""
Watching the laws of a training loop
====================================

A convolutional network of PyTorch is trained as one trains networks: minibatches, float32, an
optimizer. ``LawMonitor`` looks on.

**Claims** (ours; the laws are those of [Marcotte2023]_). Steps of SGD change the laws by exactly
η²h(g), momentum by a rule as exact, so that the drift over hundreds of minibatches is predicted to
the precision of the numbers. Halving the step halves the drift over the same time: in the limit the
laws stand still. AdamW follows no such rule: its drift is a thousand times as large, and half the
step hardly changes it.

This script needs PyTorch: ``make test-torch`` runs it, ``python gallery/torch/watch_training.py``
shows its figure.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from liftflow.data import load
from liftflow.figures import style
from liftflow.torch import LawMonitor

plt.style.use(style())
torch.set_num_threads(1)

# %%
# A network and its data
# ----------------------
#
# Digits of 8 × 8 pixels; two convolutions, pooling, and a linear layer.

digits = load("digits")
images = torch.tensor(digits.inputs, dtype=torch.float32).reshape(-1, 1, 8, 8)
labels = torch.tensor(digits.targets)
TIME = 4.0  # of the flow: each run makes TIME/η steps


def build():
    """Return the same network each time."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


# %%
# Three optimizers, two step sizes each
# -------------------------------------
#
# One step of momentum β with η(1 − β) stands for the time η; so does one of AdamW with η/10, which
# moves each weight by about that much.

RULES = {
    "SGD": lambda p, step: torch.optim.SGD(p, lr=step),
    "momentum 0.9": lambda p, step: torch.optim.SGD(p, lr=0.1 * step, momentum=0.9),
    "AdamW": lambda p, step: torch.optim.AdamW(p, lr=0.1 * step),
}
STEPS = 0.04, 0.02


def train(rule, step):
    """Train one network, watched."""
    module = build()
    optimizer = rule(module.parameters(), step)
    monitor = LawMonitor(module, images[:2], optimizer)
    batches = torch.Generator().manual_seed(1)
    for _ in range(round(TIME / step)):
        chosen = torch.randint(len(images), (64,), generator=batches)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return monitor


monitors = {(name, step): train(rule, step) for name, rule in RULES.items() for step in STEPS}

# %%
# What drifts, and what was predicted of it
# -----------------------------------------

figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.8), sharey=True, layout="constrained")
for axis, step in zip(axes, STEPS, strict=True):
    for name in RULES:
        monitor = monitors[name, step]
        time = step * monitor.steps[1:]
        drift = np.abs(monitor.drift).max(axis=1)[1:]
        (line,) = axis.plot(time, drift, label=name)
        predicted = np.abs(monitor.predicted_drift).max(axis=1)[1:]
        axis.plot(time, predicted, ":", color=line.get_color(), linewidth=4, alpha=0.5)
    axis.set(xlabel="time", yscale="log")
    axis.set_title(f"η = {step}", loc="left")
axes[0].set_ylabel("largest drift of a law")
axes[0].legend()
figure.suptitle(
    "Conv2d(1, 8, 3), Conv2d(8, 8, 3), Linear(32, 10); digits; seeds 0 and 1; dotted: predicted",
    fontsize="small",
)

# %%
# The claims
# ----------

ends = {key: np.abs(monitor.drift[-1]).max() for key, monitor in monitors.items()}
for name in ("SGD", "momentum 0.9"):
    for step in STEPS:
        monitor = monitors[name, step]
        missed = np.abs(monitor.drift - monitor.predicted_drift).max()
        print(f"{name}, η = {step}: drift {ends[name, step]:.2e}, prediction misses {missed:.0e}")
        assert missed < 1e-4 * ends[name, step] + 1e-5  # weights are float32
    assert ends[name, STEPS[1]] < 0.75 * ends[name, STEPS[0]]
# Negative control: AdamW.
assert np.isnan(monitors["AdamW", STEPS[0]].predicted_drift[1:]).all()
print(f"AdamW: drift {ends['AdamW', STEPS[0]]:.2e} and {ends['AdamW', STEPS[1]]:.2e}")
assert ends["AdamW", STEPS[1]] > 0.75 * ends["AdamW", STEPS[0]]
assert ends["AdamW", STEPS[1]] > 1000 * ends["SGD", STEPS[1]]

plt.show()
