r"""
The hierarchy, architecture by architecture
===========================================

**Claims** [MPG]_. Intrinsic recoverability implies the intrinsic metric property, and that the
intrinsic dynamic property; brackets that commute have the Frobenius property [Li2022]_, which
implies recoverability where ranks are constant. Two of these arrows certainly cannot be reversed:
ReLU networks have the Frobenius property and do not commute, and balanced linear networks have the
metric property and are not recoverable. Off balance, linear networks have none of the five.

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
scalar = TwoLayerLinear(1, 1, 3)
cases = {
    "diagonal network": (diagonal, diagonal.random_point(rng=0)),
    "ReLU network 2-3-2": (layered, layered.random_point(rng=0)),
    "ReLU graph, skips and biases": (skips, skips.random_point(rng=0)),
    "two linear layers to a number": (scalar, scalar.random_point(rng=0)),
    "two linear layers, S = λI": (two, two.balanced_point(0.5, rng=0)),
    "two linear layers, random S": (two, two.random_point(rng=0)),
    "three linear layers, Sᵢ = λᵢI": (three, three.balanced_point((0.5, -0.3), rng=0)),
    "three linear layers, random Sᵢ": (three, three.random_point(rng=0)),
    "attention head, S = λI": (attention, attention.balanced_point(0.4, rng=0)),
    "attention head, random S": (attention, attention.random_point(rng=0)),
}
found = {name: classify(*case) for name, case in cases.items()}
print(found["two linear layers, random S"])

# %%
# The picture
# -----------
#
# ✓ holds, ✗ fails; “?” would mean that the numbers decide nothing. To the right, the number of
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
figure, axes = plt.subplots(figsize=(10, 5.4))
for i, (name, row) in enumerate(found.items()):
    for j, column in enumerate(columns):
        colour, mark = looks[str(getattr(row, column).verdict)]
        axes.add_patch(plt.Rectangle((j + 0.04, i + 0.06), 0.92, 0.88, color=colour))
        axes.text(j + 0.5, i + 0.5, mark, ha="center", va="center", color="white", fontsize=14)
    laws = f"{row.n_laws.value} of {cases[name][0].dim}"
    axes.text(len(columns) + 0.5, i + 0.5, laws, ha="center", va="center")
axes.set(xlim=(0, len(columns) + 1), ylim=(len(found), 0))
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


def broken(left, right):
    """Return the architectures where the left side holds and the right side fails."""
    verdicts = {
        n: (str(getattr(r, left).verdict), str(getattr(r, right).verdict)) for n, r in found.items()
    }
    return [name for name, pair in verdicts.items() if pair == ("holds", "fails")]


for left, right in ARROWS:
    assert not broken(left, right), f"{left} without {right}: {broken(left, right)}"
assert broken("frobenius", "commuting"), "Frobenius implies commuting"
assert broken("metric", "recoverable"), "the metric property implies recoverability"
assert all(row.complete for row in found.values()), "laws are missing"
off_balance = {name for name in found if name.endswith(("random S", "random Sᵢ"))}
assert {name for name, row in found.items() if not row.metric} == off_balance, "another verdict"

# %%
# Where laws are missing
# ----------------------
#
# The metric property speaks of all points with the laws of θ₀, the dynamic property of those that
# training can reach. The two part where not all laws are known: the matrices Sᵢ hold six laws of
# the linear network 1-2-2-1, which has seven. Its z is a number, so all flows from θ₀ follow one
# curve, on which M is a function of z. The control is a network that lacks no law.

narrow = DeepLinear([1, 2, 2, 1])
apart = classify(narrow, narrow.random_point(rng=0))
print(apart)
assert apart.complete.witness["missing"] == 1, "another number of laws"
assert apart.dynamic and not apart.metric, "the dynamic property does not hold alone"
control = found["three linear layers, random Sᵢ"]
assert control.complete and not control.dynamic, "the control holds"
