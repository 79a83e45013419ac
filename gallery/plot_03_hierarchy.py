r"""
The hierarchy, architecture by architecture
===========================================

**Claims** [MPG]_. Intrinsic recoverability implies the intrinsic metric property, and that the
intrinsic dynamic property; brackets that commute have the Frobenius property [Li2022]_, which
implies recoverability where ranks are constant and all laws are known. Two of these arrows
certainly cannot be reversed: ReLU networks have the Frobenius property and do not commute, and
balanced linear networks have the metric property and are not recoverable. At the random θ below,
linear networks have none of the five; two linear layers with a number as their product have all.

S stands for the laws of two linear layers, :math:`S = U^\top U − V^\top V`, and
:math:`S_i = U_{i+1}^\top U_{i+1} − U_i U_i^\top` for those of more.

``classify`` decides all of it at a point, and says why.
"""

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
from matplotlib.patches import Patch

from liftflow import ReLUNetwork
from liftflow.architectures import Attention, DeepLinear, TwoLayerLinear
from liftflow.criteria import classify
from liftflow.figures import FAILS, HOLDS, OPEN, style

plt.style.use(style())

# %%
# Architectures and points
# ------------------------

graph = nx.DiGraph([("x", "a"), ("y", "a"), ("x", "b"), ("a", "b"), ("y", "b")])
graph.add_edges_from([("a", "o"), ("b", "o"), ("x", "o")])
diagonal, layered = ReLUNetwork.diagonal(3), ReLUNetwork.from_widths([2, 3, 2])
skips = ReLUNetwork(graph, inputs="xy", outputs="o", biases="ab")
two, three, attention = TwoLayerLinear(3, 3, 2), DeepLinear([2, 2, 2, 2]), Attention(3, 2, 1)
scalar, narrow = TwoLayerLinear(1, 1, 3), DeepLinear([1, 2, 2, 1])
cases = {
    "diagonal network": (diagonal, diagonal.random_point(rng=0)),
    "ReLU network 2-3-2": (layered, layered.random_point(rng=0)),
    "ReLU graph, skips and biases": (skips, skips.random_point(rng=0)),
    "two linear layers to a number": (scalar, scalar.random_point(rng=0)),
    "two linear layers, S = λI": (two, two.balanced_point(0.5, rng=0)),
    "two linear layers, random S": (two, two.random_point(rng=0)),
    "three linear layers, Sᵢ = λᵢI": (three, three.balanced_point((0.5, -0.3), rng=0)),
    "three linear layers, random Sᵢ": (three, three.random_point(rng=0)),
    "linear network 1-2-2-1": (narrow, narrow.random_point(rng=0)),
    "attention head, S = λI": (attention, attention.balanced_point(0.4, rng=0)),
    "attention head, random S": (attention, attention.random_point(rng=0)),
}
found = {name: classify(*case) for name, case in cases.items()}
print(found["two linear layers, random S"])

# %%
# The picture
# -----------
#
# ✓ holds, ✗ fails; “?” would mean that the numbers decide nothing. The arrows between columns are
# the implications; the first two need that all laws are known. To the right, the number of
# independent conservation laws, D − dim Lie.

columns = {
    "commuting": "commuting",
    "frobenius": "Frobenius",
    "recoverable": "recoverable",
    "metric": "metric",
    "dynamic": "dynamic",
    "complete": "laws\ncomplete",
}
looks = {"holds": (HOLDS, "✓"), "fails": (FAILS, "✗"), "undecided": (OPEN, "?")}
figure, axes = plt.subplots(figsize=(10, 6))
for i, (name, row) in enumerate(found.items()):
    for j, column in enumerate(columns):
        colour, mark = looks[str(getattr(row, column).verdict)]
        axes.add_patch(plt.Rectangle((j + 0.04, i + 0.06), 0.92, 0.88, color=colour))
        axes.text(j + 0.5, i + 0.5, mark, ha="center", va="center", color="white", fontsize=14)
    laws = f"{row.n_laws.value} of {cases[name][0].dim}"
    axes.text(len(columns) + 0.5, i + 0.5, laws, ha="center", va="center")
for j in range(1, 5):
    axes.text(j, -0.25, "⇒", ha="center", va="center", fontsize=16, clip_on=False)
axes.set(xlim=(0, len(columns) + 1), ylim=(len(found), -0.5))
axes.set_xticks(np.arange(len(columns) + 1) + 0.5, [*columns.values(), "laws\nof D"])
axes.set_yticks(np.arange(len(found)) + 0.5, list(found))
axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
axes.spines[:].set_visible(False)
keys = [Patch(color=colour, label=f"{mark} {name}") for name, (colour, mark) in looks.items()]
figure.legend(handles=keys, loc="outside lower center", ncols=3)
plt.show()

# %%
# The claim, checked
# ------------------
#
# An arrow is broken where its left side holds and its right side fails. The control are the two
# arrows reversed: they must be broken somewhere.

ARROWS = [("commuting", "frobenius"), ("frobenius", "recoverable"), ("recoverable", "metric")]
ARROWS += [("metric", "dynamic")]


def broken(left, right, names):
    """Return the architectures where the left side holds and the right side fails."""
    pairs = {name: [getattr(found[name], side) for side in (left, right)] for name in names}
    return [name for name, (one, other) in pairs.items() if one and not other]


known = [name for name, row in found.items() if row.complete]
off_balance = [name for name in found if name.endswith(("random S", "random Sᵢ"))]
FIVE = ["commuting", "frobenius", "recoverable", "metric", "dynamic"]
assert all(not broken(left, right, known) for left, right in ARROWS), "an arrow is broken"
assert not any(broken(left, right, found) for left, right in ARROWS[2:]), "an arrow needs the laws"
assert broken("frobenius", "commuting", known), "Frobenius implies commuting"
assert broken("metric", "recoverable", known), "the metric property implies recoverability"
none = [not getattr(found[name], each) for name in off_balance for each in FIVE]
assert all(none), "a linear network has one of the five off balance"
every = [bool(getattr(found["two linear layers to a number"], each)) for each in FIVE]
assert all(every), "a scalar product lacks one of the five"

# %%
# Where laws are missing
# ----------------------
#
# The metric property speaks of all points with the laws of θ₀, the dynamic property of those that
# training can reach. The two part where not all laws are known: the matrices Sᵢ hold six laws of
# the linear network 1-2-2-1, which has seven. Its z is a number, so all flows from θ₀ follow one
# curve, on which M is a function of z. It commutes, and yet z and the known laws do not tell θ. The
# control is a network that lacks no law.

apart = found["linear network 1-2-2-1"]
print(apart)
assert known == [name for name in found if name != "linear network 1-2-2-1"], "other laws missing"
assert apart.complete.witness["missing"] == 1, "another number of laws"
assert apart.commuting and not apart.recoverable, "Frobenius needs no laws"
assert apart.dynamic and not apart.metric, "the dynamic property does not hold alone"
control = found["three linear layers, random Sᵢ"]
assert control.complete and not control.dynamic, "the control holds"

CLAIMS = [
    {
        "claim": "Where laws are complete, each property implies the next.",
        "whose": "MPG, Li2022",
        "assert": "an arrow is broken",
        "control": "Frobenius implies commuting",
    },
    {
        "claim": "The last two arrows need no complete laws; the first two do.",
        "whose": "MPG, ours",
        "assert": "an arrow needs the laws",
        "control": "Frobenius needs no laws",
    },
    {
        "claim": "Balanced linear networks are intrinsic and not recoverable.",
        "whose": "MPG",
        "assert": "the metric property implies recoverability",
        "control": "a linear network has one of the five off balance",
    },
    {
        "claim": "The networks here of random S have none of the five properties.",
        "whose": "MPG, ours",
        "assert": "a linear network has one of the five off balance",
        "control": "a scalar product lacks one of the five",
    },
    {
        "claim": "Where laws are missing, the dynamic property can hold alone.",
        "whose": "ours",
        "assert": "the dynamic property does not hold alone",
        "control": "the control holds",
    },
]
