r"""
Identity skips merge laws
=========================

The skip of a residual block is an edge with the constant weight 1. It cannot be rescaled, so the
channels at its ends must rescale alike: all blocks share one class of channels, the stream.

**Claims** (ours): the neurons of a stream have one law together, the sum of theirs; none of them
keeps its own. The control thaws the skips: then each neuron has its own law again.
"""

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np

from liftflow import NetworkLoss, ParameterFlow, ReLUNetwork
from liftflow.data import load
from liftflow.figures import BLUE, PURPLE, style

plt.style.use(style())

# %%
# Two blocks on a stream of four channels
# ---------------------------------------
#
# Iris flowers go in. The stream is read at the layers 1, 3 and 5; the layers 2 and 4 are the hidden
# layers of the blocks.

widths, skips = [4, 4, 6, 4, 6, 4, 3], [(1, 3), (3, 5)]
frozen = ReLUNetwork.residual(widths, skips, bias=True, identity=True)
graph = nx.DiGraph(frozen.graph)
for edge in graph.edges:
    graph.edges[edge].clear()  # all edges are trained now
thawed = ReLUNetwork(graph, frozen.inputs, frozen.outputs, frozen.biases)
print(f"{frozen.n_laws} laws with frozen skips, {thawed.n_laws} with thawed ones")

# %%
# Both are trained from one function
# ----------------------------------

iris = load("iris")
theta0 = frozen.random_point(rng=0)
start = thawed.read_weights(frozen.write_weights(theta0))
runs = {}
for name, network, theta in (("frozen", frozen, theta0), ("thawed", thawed, start)):
    loss = NetworkLoss(network, iris.inputs, iris.targets, kind="cross-entropy")
    runs[name] = ParameterFlow(network, loss).integrate(theta, (0.0, 1.5), rtol=1e-5, atol=1e-8)

# %%
# The laws of single neurons, with the skips counted
# --------------------------------------------------

whole = np.array([thawed.read_weights(frozen.write_weights(t)) for t in runs["frozen"].theta])
own = {"frozen": thawed.conservation_laws(whole)}
own["thawed"] = thawed.conservation_laws(runs["thawed"].theta)
stream = [[thawed.hidden.index((layer, c)) for layer in (1, 3, 5)] for c in range(4)]

network_of = {"frozen": frozen, "thawed": thawed}
figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True)
for panel, name in zip(panels, own, strict=True):
    moved = own[name] - own[name][0]
    for member in range(3):
        columns = [channel[member] for channel in stream]
        panel.plot(runs[name].t, moved[:, columns], color=BLUE, alpha=0.6, label="single neurons")
    sums = np.stack([moved[:, channel].sum(axis=1) for channel in stream], axis=1)
    panel.plot(runs[name].t, sums, color=PURPLE, linewidth=2.5, label="channels of the stream")
    panel.set(xlabel="time t", title=f"{name} skips, {network_of[name].n_laws} laws")
panels[0].set_ylabel("change of the laws")
lines, names = panels[0].get_legend_handles_labels()
panels[1].legend([lines[0], lines[-1]], [names[0], names[-1]])
figure.suptitle(f"{frozen!r}, {iris}, seed 0", fontsize="small")

# %%
# The claims hold.

size = np.sum(theta0**2)
drifts = {name: np.abs(laws - laws[0]).max() / size for name, laws in own.items()}
together = np.abs(frozen.conservation_laws(runs["frozen"].theta) - frozen.conservation_laws(theta0))
assert frozen.n_laws == 4 + 6 + 6, "not one law per channel of the stream"
assert thawed.n_laws == 3 * 4 + 6 + 6, "thawed skips merge laws"
assert together.max() / size < 1e-4, "the laws of the stream drift"
assert drifts["frozen"] > 1e-3, "single neurons keep their laws though the skips are frozen"
assert drifts["thawed"] < 1e-4, "single neurons lose their laws though nothing is frozen"

CLAIMS = [
    {
        "claim": "The neurons of a stream with identity skips have one law together.",
        "whose": "ours",
        "assert": "not one law per channel of the stream",
        "control": "thawed skips merge laws",
    },
    {
        "claim": "Training keeps it.",
        "whose": "ours",
        "assert": "the laws of the stream drift",
        "control": "single neurons keep their laws though the skips are frozen",
    },
    {
        "claim": "None of them keeps its own.",
        "whose": "ours",
        "assert": "single neurons keep their laws though the skips are frozen",
        "control": "single neurons lose their laws though nothing is frozen",
    },
]
