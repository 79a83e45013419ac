r"""
Which widths, which λ
=====================

Two linear layers :math:`Z = UV^\top`, U of shape n × r and V of shape m × r. For which (n, m, r)
and which laws :math:`S = U^\top U − V^\top V` can the flow of Z do without U and V?

**Claims.** The kernel inclusion, which an intrinsic K needs, holds at S = λI always if λ = 0 [MPG]_
(for r > min(n, m) ours), and if λ ≠ 0, unless min(n, m) < r < max(n, m) (ours: z does not tell
which hidden direction carries λ). It holds on the leaf of hyperbolic isotropy, r ≥ n + m [Tu2024]_
[ZhangPeyre2026]_. It fails at random S for 2 ≤ r ≤ max(n, m) ([MPG]_ for r ≤ min(n, m)). For r >
max(n, m), theory is silent on random S but for n = m = 1, where it always holds (ours); what the
diagram shows there is what we found at the S we drew.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from liftflow.architectures import TwoLayerLinear
from liftflow.criteria import kernel_inclusion
from liftflow.errors import ArchitectureError
from liftflow.figures import FAILS, HOLDS, style

plt.style.use(style())

# %%
# One criterion, decided numerically
# ----------------------------------
#
# The kernel inclusion is necessary for the metric property: what moves neither Z nor S may not
# move M. It is decided at one random point of each kind, and at two random S. λ > 0 needs r ≤ n,
# λ < 0 needs r ≤ m, and the hyperbolic leaf r ≥ n + m; elsewhere there is no such point.

SIZES = [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (4, 2), (3, 3), (4, 3)]
WIDTHS = range(1, 7)
KINDS = {"λ = 0": 0.0, "λ > 0": 0.7, "λ < 0": -0.7, "hyperbolic": "leaf", "random S": None}


def measured(n, m, r, lam):
    """Return whether the kernel inclusion holds, or None where there is no such point."""
    network = TwoLayerLinear(n, m, r)
    if lam is None:
        drawn = [kernel_inclusion(network, network.random_point(rng=seed)) for seed in (4, 5)]
        assert len({bool(finding) for finding in drawn}) == 1, "two random S differ"
        return bool(drawn[0])
    if lam == "leaf":
        if r < n + m:
            return None
        return bool(kernel_inclusion(network, network.hyperbolic_point(0.7, rng=4)))
    try:
        return bool(kernel_inclusion(network, network.balanced_point(lam, rng=4)))
    except ArchitectureError:
        return None


def claimed(n, m, r, lam):
    """Return what the claims say, or None where they say nothing or there is no such point."""
    if lam is None:
        return True if r == 1 or n == m == 1 else False if r <= max(n, m) else None
    if lam == "leaf":
        return True if r >= n + m else None
    if lam == 0:
        return True
    exists = r <= (n if lam > 0 else m)
    return not min(n, m) < r < max(n, m) if exists else None


found = {
    k: np.array([[measured(*s, r, lam) for r in WIDTHS] for s in SIZES]) for k, lam in KINDS.items()
}

# %%
# The picture
# -----------

figure, axes = plt.subplots(1, 5, figsize=(13, 4.8), sharey=True)
for panel, (kind, table) in zip(axes, found.items(), strict=True):
    image = np.array([[np.nan if cell is None else float(cell) for cell in row] for row in table])
    shades = ListedColormap([FAILS, HOLDS]).with_extremes(bad=(0.5, 0.5, 0.5, 0.15))
    panel.imshow(image, cmap=shades, vmin=0, vmax=1, aspect="auto")
    for i, (n, m) in enumerate(SIZES):
        for j, r in enumerate(WIDTHS):
            cell = table[i, j]
            mark = "–" if cell is None else "✓" if cell else "✗"
            open_question = KINDS[kind] is None and claimed(n, m, r, None) is None
            colour = "0.5" if cell is None else "white"
            panel.text(j, i, mark + "?" * open_question, ha="center", va="center", color=colour)
    panel.set(title=kind, xlabel="hidden width r", xticks=range(6), xticklabels=WIDTHS)
    panel.set_xticks(np.arange(-0.5, 6), minor=True)
    panel.set_yticks(np.arange(-0.5, len(SIZES)), minor=True)
    panel.grid(which="minor", color=panel.get_facecolor(), alpha=1.0, linewidth=2)
    panel.tick_params(which="both", length=0)
    panel.spines[:].set_visible(False)
axes[0].set(ylabel="(n, m)", yticks=range(len(SIZES)), yticklabels=[f"{n}, {m}" for n, m in SIZES])
keys = [
    Patch(color=HOLDS, label="✓ the necessary inclusion holds"),
    Patch(color=FAILS, label="✗ it fails: no K"),
    Patch(color="none", label="– no such point"),
    Patch(color="none", label="? theory is silent, found at two S"),
]
figure.legend(handles=keys, loc="outside lower center", ncols=4)
plt.show()

# %%
# The claim, checked
# ------------------
#
# Cell by cell. The diagram has its negative control inside: at each size where λI holds for some
# r ≥ 2, a random S fails.

n_compared = 0
for kind, lam in KINDS.items():
    for size, row in zip(SIZES, found[kind], strict=True):
        for r, cell in zip(WIDTHS, row, strict=True):
            wanted = claimed(*size, r, lam)
            if wanted is not None or lam is not None:
                n_compared += 1
                assert cell == wanted, f"(n, m, r) = {(*size, r)}, {kind}: {cell}"
print(f"{n_compared} cells as claimed")
silent = [c for s, row in zip(SIZES, found["random S"], strict=True)
          for r, c in zip(WIDTHS, row, strict=True) if claimed(*s, r, None) is None]  # fmt: skip
print(f"of {len(silent)} cells where theory is silent, {sum(silent)} hold at the S we drew")
assert not found["random S"][3, 1], "any S would do"
assert found["λ = 0"].all(), "balanced points do not suffice"

CLAIMS = [
    {
        "claim": "The kernel inclusion holds or fails as claimed, cell by cell.",
        "whose": "MPG, Tu2024, ZhangPeyre2026, ours",
        "assert": "(n, m, r) = {}, {}: {}",
        "control": "any S would do",
    },
    {
        "claim": "It holds at S = 0 whatever the widths.",
        "whose": "MPG, ours",
        "assert": "balanced points do not suffice",
        "control": "any S would do",
    },
    {
        "claim": "Where theory is silent, two random S agree.",
        "whose": "ours",
        "assert": "two random S differ",
        "control": "any S would do",
    },
]
