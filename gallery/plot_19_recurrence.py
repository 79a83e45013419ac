r"""
One law per unit, whatever the time
===================================

A recurrent network is a network in which the weights of all steps are the same. Unrolled it has a
copy of each unit for each step; they share their weights, so they rescale alike.

**Claims** (ours): a recurrent network has one law per hidden unit, the number of steps does not
matter, and the weight of a unit on itself cancels out of its law,

.. math:: h_c = \sum_i A_{ic}^2 + b_c^2 + \sum_{k ≠ c} W_{kc}^2 − \sum_{k ≠ c} W_{ck}^2
    − \sum_o C_{co}^2.

The control counts the loop as if it led into another unit: then nothing is conserved.
"""

import matplotlib.pyplot as plt
import numpy as np

from liftflow import InvariantSet, NetworkLoss, ReLUNetwork, compare
from liftflow.data import load
from liftflow.figures import BLUE, CONTROL, GREY, INTRINSIC, style

plt.style.use(style())

# %%
# Digits, row by row
# ------------------
#
# The eight rows of an image are read one after the other; the last state gives the scores.

digits = load("digits")
images, labels = digits.inputs[:100], digits.targets[:100]
network = ReLUNetwork.recurrent(8, 12, 10, n_steps=8)
for steps in (2, 3, 5, 8):
    print(f"{steps} steps: {ReLUNetwork.recurrent(8, 12, 10, steps).n_laws} laws")
theta0 = network.random_point(rng=2)
loss = NetworkLoss(network, images, labels, kind="cross-entropy")
start = InvariantSet(network, theta0)
run = compare(start, loss, (0.0, 3.0), rtol=1e-5, atol=1e-8, n_times=21)

# %%
# Laws with and without loops
# ---------------------------

theta, times = run.parameter.theta, run.parameter.t
laws = network.conservation_laws(theta)
along = np.array([network.unpack(point)[1] for point in theta])
loops = np.diagonal(along, axis1=1, axis2=2) ** 2

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4))
counted = left.plot(
    times, laws + loops - laws[0] - loops[0], color=CONTROL, alpha=0.6, linestyle=":"
)
own = left.plot(times, laws - laws[0], color=BLUE)
left.legend([own[0], counted[0]], ["laws", "control: loops counted in"])
left.set(xlabel="time of training t", title=f"change of the {network.n_laws} laws")
right.semilogy(times[1:], run.deviation[1:], color=INTRINSIC, label="distance of the two flows")
right.semilogy(times, run.parameter.loss, color=GREY, label="loss")
right.set(xlabel="time of training t", title=run.verdict)
right.legend()
figure.suptitle(f"{network!r}, the first 100 digits, seed 2", fontsize="small")

# %%
# The claims hold.

size = np.sum(theta0**2)
counted = laws + loops
assert network.n_laws == 12, "not one law per unit"
assert ReLUNetwork.recurrent(8, 12, 10, 3).n_laws == 12, "the number of steps matters"
assert run.parameter.loss[-1] < 0.95 * run.parameter.loss[0], "nothing was learned"
assert np.abs(laws - laws[0]).max() / size < 1e-4, "the laws drift"
assert run.max_deviation < 1e-2, "the flows part"
assert np.abs(counted - counted[0]).max() / size > 1e-3, "loops do not matter"

CLAIMS = [
    {
        "claim": "A recurrent network has one law per hidden unit.",
        "whose": "ours",
        "assert": "not one law per unit",
        "control": "loops do not matter",
    },
    {
        "claim": "The number of steps does not matter.",
        "whose": "ours",
        "assert": "the number of steps matters",
        "control": "loops do not matter",
    },
    {
        "claim": "The weight of a unit on itself cancels out of its law.",
        "whose": "ours",
        "assert": "the laws drift",
        "control": "loops do not matter",
    },
    {
        "claim": "The flow of z is the image of training.",
        "whose": "ours",
        "assert": "the flows part",
        "control": "loops do not matter",
    },
]
