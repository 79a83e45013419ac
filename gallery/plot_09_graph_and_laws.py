r"""
Skips, biases, and one law per neuron
=====================================

A ReLU network can be any directed acyclic graph, with edges that skip layers and with biases.

**Claims** [MPG]_ [Marcotte2023]_: every hidden node v has one conservation law, the sum of the
squares of the weights into it minus that of the weights out of it,

.. math:: h_v = \sum_{u → v} θ_{uv}^2 − \sum_{v → w} θ_{vw}^2,

where a bias counts among the weights in, as an edge from a constant source. Training changes all
the weights and none of these numbers. There are no more laws: the rank of ∂φ is D − |H|.
"""

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np

from liftflow import InvariantSet, NetworkLoss, ParameterFlow, ReLUNetwork
from liftflow.data import load
from liftflow.figures import BLUE, GREY, VERMILION, ink, style

plt.style.use(style())

# %%
# A graph that is not layered
# ---------------------------
#
# Four features of the iris flowers go in, scores for three species come out. Four of the five
# hidden nodes have a bias; there are skips from an input to an output and across hidden nodes.

edges = """x1 a, x2 a, x3 a, x2 b, x3 b, x4 b, x2 c, a c, b c, a d, b d, x4 e, b e, d e,
c y1, c y2, d y2, d y3, e y3, x1 y1, a y1"""
graph = nx.DiGraph(tuple(edge.split()) for edge in edges.split(","))
network = ReLUNetwork(
    graph, inputs=["x1", "x2", "x3", "x4"], outputs=["y1", "y2", "y3"], biases="abde"
)
iris = load("iris")
loss = NetworkLoss(network, iris.inputs, iris.targets, kind="cross-entropy")
theta0 = network.random_point(rng=3)
run = ParameterFlow(network, loss).integrate(theta0, (0.0, 30.0), rtol=1e-6, atol=1e-8)

# %%
# The picture
# -----------
#
# The same network before and after training. The width of an edge is the size of its weight, the
# colour its sign; stubs from above are biases. The number on a hidden node is its law.

places = {"x1": (0, 3), "x2": (0, 2), "x3": (0, 1), "x4": (0, 0)}
places |= {"a": (1.1, 2.3), "b": (1.1, 0.6), "c": (2.1, 1.75), "d": (2.1, 0.9), "e": (3.1, 0.2)}
places |= {"y1": (4, 2.6), "y2": (4, 1.5), "y3": (4, 0.4)}
hidden = list(network.hidden)
when = ("before", "after")
laws = network.conservation_laws(run.theta[[0, -1]])

figure, axes = plt.subplots(1, 2, figsize=(12, 5.2))
figure.get_layout_engine().set(w_pad=0.1)
for i, panel in enumerate(axes):
    theta, value, own_laws = run.theta[-i], run.loss[-i], laws[i]
    weights = dict(zip(network.parameter_names, theta, strict=True))
    for sign, colour in ((1, BLUE), (-1, VERMILION)):
        chosen = [edge for edge in graph.edges if sign * weights[edge] > 0]
        nx.draw_networkx_edges(
            graph,
            places,
            chosen,
            ax=panel,
            width=[2.5 * abs(weights[edge]) for edge in chosen],
            edge_color=colour,
            node_size=1900,
            arrowsize=12,
        )
    for node in network.biases:  # from the constant source, as a stub from above
        x, y = places[node]
        weight = weights["⟨1⟩", node]
        panel.annotate(
            "",
            (x, y + 0.2),
            (x, y + 0.62),
            arrowprops={
                "arrowstyle": "-|>",
                "color": BLUE if weight > 0 else VERMILION,
                "linewidth": 2.5 * abs(weight),
            },
        )
    ends = [*network.inputs, *network.outputs]
    nx.draw_networkx_nodes(graph, places, ends, ax=panel, node_size=700, node_color=GREY)
    nx.draw_networkx_labels(
        graph, places, dict(zip(ends, ends, strict=True)), 11, "white", ax=panel
    )
    nx.draw_networkx_nodes(
        graph,
        places,
        hidden,
        ax=panel,
        node_size=1900,
        node_color=[panel.get_facecolor()],
        edgecolors=ink(),
    )
    numbers = {
        node: f"{node}\n{law:+.2f}".replace("-", "−")
        for node, law in zip(hidden, own_laws, strict=True)
    }
    nx.draw_networkx_labels(graph, places, numbers, 10, ink(), ax=panel)
    panel.set_title(f"{when[i]} training, loss {value:.2f}")
    panel.axis("off")
for label, colour in (("positive weight", BLUE), ("negative weight", VERMILION)):
    panel.plot([], [], color=colour, label=label)
figure.legend(loc="outside lower center", ncols=2)
figure.suptitle(f"{network!r}, {iris}, seed 3", fontsize="small")
plt.show()

# %%
# The claim, checked
# ------------------
#
# The negative control forgets the biases: those sums of squares are not conserved.

edges_only = run.theta.copy()
edges_only[:, graph.number_of_edges() :] = 0.0
drift = np.ptp(network.conservation_laws(run.theta), axis=0)
without_biases = np.ptp(network.conservation_laws(edges_only), axis=0)
moved = np.abs(run.theta[-1] - run.theta[0]).max()
rank = np.linalg.matrix_rank(network.lift_jacobian(theta0))
print(f"largest change of a weight {moved:.2f}, of a law {drift.max():.0e}")
print(f"largest change of a law without its bias {without_biases.max():.2f}")
print(f"rank of ∂φ {rank} = {network.dim} parameters − {network.n_hidden} hidden nodes")

# The flow runs at a relative tolerance of 1e-6, over some hundred steps.
assert drift.max() < 1e-4 * moved, "training changed a law"
assert without_biases.max() > 0.1, "the biases do not matter"
dead = theta0 * ["c" not in edge for edge in network.parameter_names]  # all weights of c are 0
rank_with_dead = np.linalg.matrix_rank(network.lift_jacobian(dead))
assert rank == network.dim - network.n_hidden, "there are more laws"
assert InvariantSet(network, theta0).dim == rank, "the invariant set has another dimension"
assert rank_with_dead < rank, "the rank does not see a dead neuron"

CLAIMS = [
    {
        "claim": "Every hidden node has one conservation law, its bias counted in.",
        "whose": "Marcotte2023",
        "assert": "training changed a law",
        "control": "the biases do not matter",
    },
    {
        "claim": "There are no more laws: the rank of ∂φ is D − |H|.",
        "whose": "MPG, Marcotte2023",
        "assert": "there are more laws",
        "control": "the rank does not see a dead neuron",
    },
    {
        "claim": "The invariant set has that dimension.",
        "whose": "MPG",
        "assert": "the invariant set has another dimension",
        "control": "the rank does not see a dead neuron",
    },
]
