"""Count the laws of every forward pass of gallery page 23 at close to 200 parameters.

Seconds of the processor for the lift and the count; the limit is 10 for each. A count that is wrong
or undecided ends it. Names on the command line choose some, and numbers are seeds, of which the
slowest is told: ``bench_passes.py rotary 0 1 2``.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from math import inf

from table import Row, report

from liftflow import count_conservation_laws
from liftflow.gallery.passes import CONTROL, PASSES, Pass, T, heads

LIMIT = 10.0

Shapes = dict[str, tuple[int, ...]]


def layers(n: int, width: int) -> Shapes:
    """Two layers from n to n."""
    return {"V": (width, n), "U": (n, width)}


GATED = {"G": (8, 8)} | layers(8, 8)
NORMED = {"γ": (8,)} | layers(8, 12)
LAST = {"γ": (8,)} | layers(8, 10) | {"β": (8,), "W": (2, 8)}
EXPERTS = {"R": (3, 13), "V": (3, 2, 13), "U": (3, 13, 2)}
HEAD = {"Q": (21, 2), "bQ": (2,), "K": (21, 2), "bK": (2,), "V": (21, 2), "bV": (2,), "O": (21, 2)}
LARGE: dict[str, tuple[Shapes, tuple[int, ...], int]] = {
    "two residual blocks": (
        {"V1": (8, 6), "U1": (6, 8), "V2": (8, 6), "U2": (6, 8)},
        (6,),
        16,
    ),
    "GELU": (layers(10, 10), (10,), 0),
    "SiLU": (layers(10, 10), (10,), 0),
    "SwiGLU": (GATED, (8,), 8),
    "GLU, sigmoid gates": (GATED, (8,), 8),
    "ReGLU": (GATED, (8,), 16),
    "bilinear GLU": (GATED, (8,), 16),
    "softmax head": ({"W": (14, 13), "b": (14,)}, (13,), 13 + 1),
    "attention, 1 head of 1": (heads(48, 1, 1), (T, 48), 2),
    "attention, 2 heads of 1": (heads(24, 1, 2), (T, 24), 4),
    "attention, 1 head of 2": (heads(24, 2, 1), (T, 24), 6),
    "attention, 2 heads of 2": (heads(12, 2, 2), (T, 12), 12),
    "attention with biases": (HEAD | {"bO": (21,)}, (T, 21), 8),
    "rotary attention, 1 head of 2": (heads(24, 2, 1), (T, 24), 1 + 3),
    "rotary attention, 1 head of 4": (heads(12, 4, 1), (T, 12), 2 + 10),
    "RMS norm first, GELU": (NORMED, (8,), 8),
    "RMS norm first, ReLU": (NORMED, (8,), 8 + 12),
    "layer norm first, ReLU": (NORMED, (8,), 8 + 12),
    "layer norm first, GELU, biases": (
        {"γ": (8,), "β": (8,), "V": (10, 8), "b": (10,), "U": (8, 10)},
        (8,),
        8,
    ),
    "RMS norm last, and a head": (LAST, (8,), 8 + 10),
    "layer norm last, and a head": (LAST, (8,), 8 + 10 + 10),
    "RMS norm of a layer": ({"W": (14, 14)}, (14,), 1),
    "layer norm of a layer": ({"W": (14, 14)}, (14,), 1 + 14),
    "weight norm": ({"V": (10, 9), "g": (10,), "U": (9, 10)}, (9,), 20),
    "tied embedding": ({"E": (18, 5)} | layers(5, 11), (18,), 11),
    "embedding not tied": ({"E": (12, 4)} | layers(4, 12) | {"W": (12, 4)}, (12,), 12 + 10),
    "LoRA of rank 2": ({"B": (50, 2), "A": (2, 50)}, (50,), 3),
    "mixture of experts, GELU": (EXPERTS, (13,), 13),
    "mixture of experts, ReLU": (EXPERTS, (13,), 13 + 6),
    "cosine classifier": ({"V": (8, 12), "W": (13, 8)}, (12,), 13 + 1),
    "mixture of experts, normalised sigmoids": (EXPERTS, (13,), 0),
}
"""Blocks, shape of an input, and number of laws."""


def large() -> Iterator[Pass]:
    """Go through the passes at their large sizes."""
    for case in [*PASSES, CONTROL]:
        blocks, inputs, laws = LARGE[case.name]
        yield replace(case, blocks=blocks, inputs=inputs, laws=laws)


def main() -> None:
    """Print the table, and fail where a count is another or takes too long."""
    rows = []
    words = [word for word in sys.argv[1:] if not word.isdigit()]
    seeds = [int(word) for word in sys.argv[1:] if word.isdigit()] or [0]
    for case in large():
        if not any(word in case.name for word in words or [""]):
            continue
        seconds, values = 0.0, set()
        for seed in seeds:
            start = time.process_time()
            found = count_conservation_laws(case.network(seed), rng=seed)
            right = (str(found.verdict), found.value) == ("holds", case.laws)
            seconds = max(seconds, time.process_time() - start if right else inf)
            values.add(found.value)
        name = f"laws of {case.name}, D = {case.dim}: {', '.join(map(str, values))}"
        rows.append(Row(name, seconds, None, "", LIMIT))
    report(rows)


if __name__ == "__main__":
    main()
