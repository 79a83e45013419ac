"""Ranks of brackets over prime fields: never too large, and rarely too small."""

from typing import Any

import numpy as np

from liftflow.criteria.vectors import SPARE
from liftflow.typing import IntArray


def exact_levels(
    fields: Any,
    point: IntArray,
    most: int,
    rng: np.random.Generator,
    *,
    patience: int = 1,
    levels: float = np.inf,
) -> tuple[list[int], float]:
    """Dimensions that each level of brackets adds at a point, until ``patience`` levels add none.

    And a bound on the probability that one is too small. A minor of R nested brackets of k fields
    is a polynomial of degree at most R k deg X in the point and the forms; it vanishes at a random
    one with probability at most degree / p.
    """
    from flint import nmod_mat

    prime, size = fields.arithmetic.prime, len(point)
    rows, ranks, failure, idle = np.zeros((0, size), int), [0], 0.0, 0
    while ranks[-1] < most and idle < patience and len(ranks) <= levels:
        depth, rank = len(ranks), ranks[-1]
        count = min(fields.architecture.lifted_dim, size) if depth == 1 else 1
        while True:  # one that depends on the others shows that all do
            forms = [fields.random_forms(count, point, rng) for _ in range(depth)]
            rows = np.vstack([rows, fields.brackets(forms, point, count)])
            before, rank = rank, int(nmod_mat(rows.tolist(), prime).rank())
            if rank == most or rank - before < count:
                break
            count = min(3 * count, most - rank + SPARE)
        ranks.append(rank)
        idle = 0 if rank > ranks[-2] else idle + 1
        failure += min(rank + 1, size) * depth * fields.degree / prime
    return np.diff(ranks).tolist(), failure
