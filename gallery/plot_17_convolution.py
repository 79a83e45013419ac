r"""
A convolutional network by its channels
=======================================

A channel of a feature map has one factor for all its positions, for they share their filters. So
the laws, the coordinates and the metric of a convolutional network are those of a small graph: a
vertex for each channel, and an edge for each tap of each filter.

**Claims** (ours): each channel c has one conservation law, the sum of the squares of its own filter
and bias minus that of all weights that read it, through ReLUs and max-pooling,

.. math:: h_c = \sum_{i, s} W_{c i s}^2 + b_c^2 − \sum_{o, s} (W'_{o c s})^2,

there are no more, and the flow of D − C coordinates of the image, which needs no path, follows
that of the parameters.
"""

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np

from liftflow import InvariantSet, NetworkLoss, ReLUNetwork, compare
from liftflow.architectures import Conv, Pool
from liftflow.data import load
from liftflow.figures import CONTROL, DIVERGING, GREY, INTRINSIC, ink, style

plt.style.use(style())

# %%
# Digits
# ------
#
# Four filters of 3 × 3, six more that read them, max-pooling, and ten scores. The image has D − C
# = 502 coordinates; they take the place of the 86,650 monomials that z consists of.

digits = load("digits")
images, labels = digits.inputs[:150], digits.targets[:150]
network = ReLUNetwork.convolutional((1, 8, 8), [Conv(4, 3), Conv(6, 3), Pool("max", 2)], 10)
theta0 = network.random_point(rng=0)
loss = NetworkLoss(network, images, labels, kind="cross-entropy")
start = InvariantSet(network, theta0)
run = compare(start, loss, (0.0, 5.0), rtol=1e-4, atol=1e-7, n_times=21, control=True)

# %%
# The channel graph
# -----------------
#
# What all parallel edges between two channels weigh together is their width. The number on a
# channel is its law, before and after training.

filters, more, dense, *biases = network.unpack(run.parameter.theta[-1])
first, second = ([("1st", i) for i in range(4)], [("2nd", i) for i in range(6)])
graph = nx.DiGraph()
graph.add_weighted_edges_from(
    [("image", c, np.linalg.norm(filters[c[1]])) for c in first]
    + [(a, b, np.linalg.norm(more[b[1], a[1]])) for a in first for b in second]
    + [(b, "scores", np.linalg.norm(dense.reshape(6, 4, 10)[b[1]])) for b in second]
)
places = {"image": (0, 2.5), "scores": (3, 2.5)}
places |= {c: (1, 1.0 + c[1]) for c in first} | {c: (2, float(c[1])) for c in second}
laws = network.conservation_laws(run.parameter.theta[[0, -1]])

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8))
widths = [graph.edges[edge]["weight"] for edge in graph.edges]
nx.draw_networkx_edges(graph, places, ax=left, width=widths, edge_color=GREY, node_size=1500)
size = 2.0 * np.abs(laws).max()
options = {"cmap": DIVERGING, "vmin": -size, "vmax": size, "node_size": 1500, "ax": left}
nx.draw_networkx_nodes(graph, places, [*first, *second], node_color=laws[1], **options)
nx.draw_networkx_nodes(
    graph, places, ["image", "scores"], node_color=[left.get_facecolor()], node_size=1500, ax=left
)
names = {c: f"{a:.2f}\n{b:.2f}" for c, a, b in zip([*first, *second], *laws, strict=True)}
nx.draw_networkx_labels(graph, places, names, 9, "black", ax=left)
nx.draw_networkx_labels(graph, places, {end: end for end in ("image", "scores")}, 9, ink(), ax=left)
left.set_title("laws of the channels, before and after")
left.set_axis_off()

times = run.parameter.t
right.semilogy(times[1:], run.deviation[1:], color=INTRINSIC, label="coordinates of the image")
control = run.control_deviation_over_time
right.semilogy(
    times[1:], control[1:], linestyle=":", color=CONTROL, label="control: laws of another θ₀"
)
right.set(xlabel="time t", ylabel="relative distance from the flow of θ", title=run.verdict)
right.legend()
figure.suptitle(f"{network!r}, the first 150 digits, seed 0", fontsize="small")

# %%
# The claims hold.

assert network.n_laws == 10, "not one law per channel"
assert network.basis_chart(theta0).dim == 502 and network.n_paths == 86_650, "other sizes"
small = ReLUNetwork.convolutional((1, 4, 4), [Conv(2, 2), Conv(2, 2)], 2)
rank = np.linalg.matrix_rank(small.lift_jacobian(small.random_point(rng=0)))
parts = [block.copy() for block in small.unpack(small.random_point(rng=0))]
parts[0][0], parts[1][:, 0], parts[3][0] = 0.0, 0.0, 0.0  # the first channel, in and out
silent = small.pack(*parts)
assert rank > np.linalg.matrix_rank(small.lift_jacobian(silent)), "the rank sees no dead channel"
assert rank == small.dim - small.n_laws, "there are more laws"
assert run.parameter.loss[-1] < 0.7 * run.parameter.loss[0], "nothing was learned"
drift = np.abs(laws[1] - laws[0]) / np.sum(theta0**2)
filters_only = run.parameter.theta.copy()
filters_only[:, -sum(block.size for block in biases) :] = 0.0
alone = np.ptp(network.conservation_laws(filters_only), axis=0) / np.sum(theta0**2)
assert drift.max() < 1e-3, "the laws drift"
assert alone.max() > 2e-3, "the biases do not count"
assert run.max_deviation < 1e-2, "the flows part"
assert run.control_deviation > 0.05, "any laws would do"

CLAIMS = [
    {
        "claim": "A convolutional network has one law per channel.",
        "whose": "ours",
        "assert": "not one law per channel",
        "control": "the biases do not count",
    },
    {
        "claim": "Training keeps these laws.",
        "whose": "ours",
        "assert": "the laws drift",
        "control": "the biases do not count",
    },
    {
        "claim": "There are no more.",
        "whose": "ours",
        "assert": "there are more laws",
        "control": "the rank sees no dead channel",
    },
    {
        "claim": "The flow of D − C coordinates follows that of the parameters.",
        "whose": "ours",
        "assert": "the flows part",
        "control": "any laws would do",
    },
]
