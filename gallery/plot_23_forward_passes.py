r"""
The laws of modern networks
===========================

Any forward pass is a lift: at inputs x_i, φ(θ) = (forward(θ, x_i))_i, and every loss of its outputs
is some f∘φ. Where further inputs no longer raise the rank of ∂φ, the laws of this lift are those of
the network, whatever the loss and the data (ours).

**Claim**: ``SampledForward`` needs no more than the forward pass to count the laws of thirty modern
networks and to write each of them down: feed-forward layers with GELU, SiLU and gates, attention
with several heads, rotary codes and biases, norms first and last, tied embeddings, adapters, and
mixtures of experts. Its counts are those of the literature where there are some (proved in
[Marcotte2025]_ for residual blocks and one head, claimed in [Tran2026]_ for GELU, SwiGLU, several
heads, rotary codes and experts) and follow from symmetries of the loss in other cases
([Kunin2021]_ for softmax, norms and cosines). The other counts are ours.

**Control**: no published law is taken on trust. Gates by softmax do not see what is added to all
scores, so the sums over the rows of the router R are conserved. Gates of sigmoids over their sum do
see it, and those sums drift. A clause on such gates in [Tran2026]_ is refuted, by what we were
told; its words we have not seen.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from liftflow import count_conservation_laws, discover_laws
from liftflow.figures import BLUE, CONTROL, GREY, PURPLE, VERMILION, ink, style
from liftflow.gallery.passes import CONTROL as SIGMOIDS
from liftflow.gallery.passes import KUNIN, MARCOTTE, OURS, PASSES, TRAN

plt.style.use(style())

# %%
# A forward pass
# --------------
#
# The table is in ``gallery/passes.py``. A forward pass is written with autograd.numpy for one input
# and the named blocks of one θ, and nothing is said of its laws:
#
# .. code-block:: python
#
#    def gated(gate):
#        """Units with gates: SwiGLU and its relatives."""
#        return lambda x, G, V, U: U @ (gate(G @ x) * (V @ x))

# %%
# Count and write down
# --------------------
#
# ``discover_laws(blocks=True)`` looks among the forms of the named blocks: the entries of W Wᵀ and
# Wᵀ W, row and column sums, and products of two entries of one vector. Of the laws that it finds as
# many are shown as are independent; h and h² are not. They tell how many there are at least, and
# gradients with their brackets how many at most: the count looks for as many of these as are
# missing, and decides where both meet, or where further brackets add nothing.

networks, counted, written, seconds = {}, {}, {}, {}
for case in [*PASSES, SIGMOIDS]:
    start = time.process_time()
    network = networks[case.name] = case.network()
    written[case.name] = discover_laws(network, blocks=True)
    counted[case.name] = count_conservation_laws(network.with_laws(written[case.name].independent))
    seconds[case.name] = time.process_time() - start
    print(f"{case.name}, D = {case.dim}: {counted[case.name].value} laws ({case.source})")
    for law in written[case.name].independent:
        print(f"    {law}")

# %%
# How sure is that? The count says how many inputs it looked at, and that a quarter of them would
# have done.

print(counted["SwiGLU"].reason)

# %%
# The control: a gate that sees all scores
# ----------------------------------------
#
# Along random fields ∇⟨g, φ⟩ at five random points, how fast do the sums over the rows of the
# router change, relative to the terms of the sum?


def drift(case):
    """Largest relative change of the sums of R along these fields."""
    network, rng = networks[case.name], np.random.default_rng(1)
    theta = network.random_point(5, rng)
    fields = network.lift_vjp(theta, rng.standard_normal((5, *network.lifted_shape)))
    router = network.unpack(fields)[0]
    return np.max(np.abs(router.sum(axis=1)) / np.abs(router).sum(axis=1))


softmax_drift = drift(next(case for case in PASSES if case.name == "mixture of experts, GELU"))
sigmoid_drift = drift(SIGMOIDS)
print(f"softmax: {softmax_drift:.0e}, normalised sigmoids: {sigmoid_drift:.2f}")

# %%
# The picture
# -----------
#
# One bar per network, its length the number of laws that were counted; a tick where the table in
# ``gallery/passes.py`` expects it to end.

colours = {MARCOTTE: BLUE, TRAN: VERMILION, KUNIN: PURPLE, OURS: GREY}
labels = {
    MARCOTTE: "Marcotte et al. 2025",
    TRAN: "Tran et al. 2026",
    KUNIN: "by Kunin et al. 2021",
    OURS: "ours",
}
figure, axes = plt.subplots(figsize=(7.2, 7.6))
cases = [*PASSES, SIGMOIDS]
for source, colour in colours.items():
    own = [n for n, case in enumerate(PASSES) if case.source == source]
    values = [counted[PASSES[n].name].value for n in own]
    axes.barh(own, values, color=colour, height=0.7, label=labels[source])
axes.plot(
    [case.laws for case in cases],
    range(len(cases)),
    "|",
    color=ink(),
    markersize=11,
    markeredgewidth=1.5,
    label="expected",
)
clause = {
    "color": CONTROL,
    "markersize": 9,
    "label": "control: kept by softmax gates, not by these",
}
axes.plot(SIGMOIDS.blocks["R"][1], len(PASSES), "X", **clause)
axes.set_yticks(range(len(cases)), [case.name for case in cases], fontsize=9)
axes.set_ylim(len(cases) - 0.4, -0.6)
n_right = sum(counted[case.name].value == case.laws for case in cases)
axes.set(xlabel="independent conservation laws")
axes.set_title(f"{n_right} of {len(cases)} counts as expected")
axes.xaxis.set_major_locator(MaxNLocator(integer=True))
figure.legend(loc="outside lower right", ncols=2)
figure.suptitle("small networks at random inputs, seed 0", fontsize="small")
plt.show()

# %%
# The claim, checked
# ------------------

slowest = max(seconds, key=seconds.get)
print(f"{len(cases)} networks; the slowest, {slowest}, took {seconds[slowest]:.1f} s")
clear = all(counted[case.name].verdict == "holds" for case in cases)
all_written = [case.laws == written[case.name].n_independent for case in cases]
assert clear and n_right == len(cases), f"{n_right} of {len(cases)} counts are as expected"
assert all(all_written), "some laws are not written down"
assert softmax_drift < 1e-12, "a sum of the router is no law of softmax gates"
assert len({found.value for found in counted.values()}) > 5, "one count for all"
assert counted["tied embedding"].value < counted["embedding not tied"].value, "tying costs no law"
assert sigmoid_drift > 0.1, "the control has the law, too"

CLAIMS = [
    {
        "claim": "The laws of thirty modern forward passes are counted from these alone.",
        "whose": "ours",
        "assert": "{} of {} counts are as expected",
        "control": "one count for all",
    },
    {
        "claim": "Each of these laws is found as a formula in the named blocks.",
        "whose": "ours",
        "assert": "some laws are not written down",
        "control": "tying costs no law",
    },
    {
        "claim": "Softmax gates keep the sums of the router, and normalised sigmoids do not.",
        "whose": "Tran2026, ours",
        "assert": "a sum of the router is no law of softmax gates",
        "control": "the control has the law, too",
    },
]
