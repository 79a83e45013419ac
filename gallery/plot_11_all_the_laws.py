r"""
Are these all the laws?
=======================

A conservation law is constant along the gradient flow of every loss f∘φ.

**Claims** [Marcotte2023]_: at a generic θ there are exactly D − dim Lie(∇φ₁, …, ∇φ_d)(θ)
independent ones, where the Lie algebra holds the fields ∇φᵢ, their brackets, the brackets of these,
and so on. For ReLU networks that is one per hidden neuron, and for linear networks the entries of
the matrices :math:`S_i`, as many of them as are independent.

A hundred random networks say so, too, and show an exception (ours): where a linear network narrows
to a width of 1 twice, with two wider layers or more in between, that part of it has a single number
as its product. Its weights can only move to and fro on one curve, and all but one of its dimensions
are laws: more than the :math:`S_i` give.
"""

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np

from liftflow import Architecture, ReLUNetwork
from liftflow.architectures import DeepLinear, TwoLayerLinear
from liftflow.criteria import count_conservation_laws, discover_laws
from liftflow.errors import ArchitectureError
from liftflow.figures import BLUE, CONTROL, GREY, PURPLE, VERMILION, style

plt.style.use(style())
rng = np.random.default_rng(7)

# %%
# A hundred networks
# ------------------
#
# Sixty ReLU networks on random graphs, with skips and biases, and forty linear ones of random
# depths and widths. What is counted on one side is the rank of ∂h, and on the other D − dim Lie,
# over the integers modulo a large prime: no tolerance decides.


def random_relu_network():
    """Return a network on a random graph: an edge from each node to some of the later ones."""
    while True:
        size = int(rng.integers(5, 10))
        edges = np.triu(rng.random((size, size)) < 0.5, k=1)
        graph = nx.from_numpy_array(edges, create_using=nx.DiGraph)
        inputs = [node for node in graph if graph.in_degree(node) == 0]
        outputs = [node for node in graph if graph.out_degree(node) == 0]
        hidden = [node for node in graph if node not in inputs + outputs]
        biases = [node for node in hidden if rng.random() < 0.4]
        try:
            return ReLUNetwork(graph, inputs, outputs, biases)
        except ArchitectureError:  # an isolated node, or no hidden one: draw again
            continue


def is_scalar_somewhere(widths):
    """Return whether two widths of 1 have two wider layers or more between them."""
    ones = np.flatnonzero(np.array(widths) == 1)
    return bool(np.any(np.diff(ones) > 2))


def random_linear_network():
    """Return a linear network of two to four layers, none of the exceptions."""
    while True:
        widths = rng.integers(1, 4, size=int(rng.integers(3, 6))).tolist()
        if not is_scalar_somewhere(widths):
            return DeepLinear(widths)


networks = [random_relu_network() for _ in range(60)] + [random_linear_network() for _ in range(40)]
exceptions = [DeepLinear(w) for w in ([1, 2, 2, 1], [1, 3, 3, 1], [1, 2, 3, 2, 1], [2, 1, 3, 3, 1])]


def known_and_all(networks):
    """Return the rank of ∂h and D − dim Lie of each network, shape=[2, n_networks]."""
    known = [network.laws_rank(network.random_point(rng=rng)) for network in networks]
    every = [count_conservation_laws(network, exact=True).value for network in networks]
    return np.array([known, every])


known, total = known_and_all(networks)
known_of_exceptions, total_of_exceptions = known_and_all(exceptions)

# %%
# What are the laws that the :math:`S_i` do not give? On the smallest exception, no polynomials up
# to degree 4: their search finds six independent ones, and there are seven laws.

quartic = discover_laws(exceptions[0], degree=4)
print(quartic.reason)

# %%
# The control: a lift whose laws are forgotten
# --------------------------------------------
#
# The count must see it. Such a lift is known as a function only, so that it is counted in floats.


class Forgetful(Architecture):
    """Two linear layers of which nobody wrote down a law."""

    def __init__(self, n, m, r):
        self.hidden = TwoLayerLinear(n, m, r)
        super().__init__(self.hidden.dim, self.hidden.lifted_shape, n_laws=0)

    def lift(self, theta):
        return self.hidden.lift(theta)


forgetful = [Forgetful(2, 1, 1), Forgetful(2, 2, 2), Forgetful(3, 2, 3)]
missed = [int(count_conservation_laws(network).value) for network in forgetful]

# %%
# The picture
# -----------
#
# The size of a mark tells how many networks are there: circles, filled, are ReLU networks, and
# squares, hollow, linear ones.

figure, axes = plt.subplots(figsize=(6.4, 5.6))
top = max(total.max(), total_of_exceptions.max()) + 1.5
axes.plot([0, top], [0, top], color=GREY, linewidth=1, zorder=0)
for family, colour, marker, label in (
    (slice(0, 60), BLUE, "o", "60 ReLU networks"),
    (slice(60, 100), VERMILION, "s", "40 linear networks"),
):
    places, counts = np.unique(np.stack([known, total])[:, family], axis=1, return_counts=True)
    look = {"c": colour} if marker == "o" else {"facecolors": "none", "edgecolors": colour}
    area = 18 if marker == "o" else 40  # around the circles
    axes.scatter(*places, s=area * counts, marker=marker, linewidths=2, **look)
    axes.scatter([], [], s=80, marker=marker, linewidths=2, label=label, **look)
for count in (1, 10):
    axes.scatter([], [], s=18 * count, c=GREY, label=f"{count} network{'s' * (count > 1)} of ReLUs")
axes.plot(
    known_of_exceptions,
    total_of_exceptions,
    "D",
    color=PURPLE,
    ms=9,
    label="exceptions: scalar parts",
)
axes.plot([0] * len(missed), missed, "^", color=CONTROL, ms=10, label="control: laws forgotten")
axes.set(xlabel="known laws, rank of ∂h", ylabel="all laws, D − dim Lie", aspect="equal")
axes.set_title(f"{np.sum(known == total)} of {len(networks)} networks have all their laws")
axes.set(xlim=(-1, top), ylim=(-1, top))
axes.legend(loc="lower right", fontsize="x-small", labelspacing=0.7)
figure.suptitle("random graphs and widths, seed 7; laws counted exactly", fontsize="small")
plt.show()

# %%
# The claim, checked
# ------------------

relu_hidden = [network.n_hidden for network in networks[:60]]
print(f"D from {min(n.dim for n in networks)} to {max(n.dim for n in networks)}")
print(f"{np.sum(known == total)} of {len(networks)} networks have all their laws")
print(f"laws that the control forgot: {missed}")
assert np.array_equal(known, total), "laws are missing"
dims = np.array([network.dim for network in exceptions])
assert np.array_equal(total_of_exceptions[:3], dims[:3] - 1), "a scalar lift moves on no curve"
assert np.all(total_of_exceptions > known_of_exceptions), "the exceptions are none"
assert quartic.n_independent == known_of_exceptions[0], "the other law is a polynomial"
assert np.array_equal(total[:60], relu_hidden), "not one law per hidden neuron"
assert min(missed) > 0, "the count does not see that laws are missing"

CLAIMS = [
    {
        "claim": "Random ReLU and linear networks have all their laws.",
        "whose": "Marcotte2023",
        "assert": "laws are missing",
        "control": "the count does not see that laws are missing",
    },
    {
        "claim": "ReLU networks have one law per hidden neuron.",
        "whose": "Marcotte2023",
        "assert": "not one law per hidden neuron",
        "control": "the count does not see that laws are missing",
    },
    {
        "claim": "A linear network that narrows to 1 twice has more laws than its matrices give.",
        "whose": "ours",
        "assert": "the exceptions are none",
        "control": "laws are missing",
    },
    {
        "claim": "All but one dimension of a scalar product are laws.",
        "whose": "ours",
        "assert": "a scalar lift moves on no curve",
        "control": "laws are missing",
    },
    {
        "claim": "Its further law is no polynomial up to degree 4.",
        "whose": "ours",
        "assert": "the other law is a polynomial",
        "control": "the exceptions are none",
    },
]
