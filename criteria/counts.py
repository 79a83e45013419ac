"""How many conservation laws there are at a generic point, by floats or exactly."""

from dataclasses import replace

import numpy as np
from flint import fmpz, nmod_mat

from liftflow.architectures import Architecture, ProductArchitecture, ReLUNetwork
from liftflow.criteria.fields import (
    Arithmetic,
    Coordinates,
    gradient_fields,
)
from liftflow.criteria.findings import Finding, combine, found, undecided
from liftflow.criteria.graph import by_graph, law_count
from liftflow.criteria.network_fields import NetworkFields
from liftflow.criteria.traces import LieTrace, added, lie_trace
from liftflow.criteria.vectors import SPARE, Vectors
from liftflow.criteria.views import MATRIX_LIMIT, too_large
from liftflow.doors import door
from liftflow.typing import Rng, as_rng

_TRIALS = 2
_POINTS = 3
_PRIMES = (2**30, 2**31)


@door
def count_conservation_laws(
    architecture: Architecture, exact: bool = False, *, rng: Rng = 0
) -> Finding:
    """Count the independent conservation laws at a generic θ, D − dim Lie(∇φ).

    The value is the number of laws, an int. Undecided where no singular values are clear at
    any of three random points. In exact mode the witness has the ``error_bound``.

    Parameters
    ----------
    exact : bool
        Count over prime fields of about 2³¹ elements at random points instead of floats. Ranks
        there are never too large, and too small only with a probability that the theorem of
        Schwartz and Zippel bounds.

    Raises
    ------
    InputError
        Exact mode, and the lift is known only as a function of floats.

    References
    ----------
    [Marcotte2023]_; the exact mode: ours.
    """
    rng = as_rng(rng)
    if isinstance(architecture, ProductArchitecture):
        parts = [count_conservation_laws(f, exact, rng=rng) for f in architecture.factors]
        return combine(parts)
    large = isinstance(architecture, ReLUNetwork) and by_graph(architecture)
    fields = gradient_fields(architecture)
    if not large and (reason := too_large(architecture, fields, MATRIX_LIMIT)):
        return undecided("conservation laws", reason)
    if exact:
        return _exact_count(architecture, rng)
    if isinstance(architecture, ReLUNetwork) and large:
        return law_count(architecture)
    traces: list[LieTrace] = []
    points = np.asarray(architecture.random_point(_POINTS, rng=rng))
    for point in points:  # any generic one will do, so one that decides
        traces.append(lie_trace(Vectors(architecture, point, rng, fields)))
        if traces[-1].decided and fields.analytic:
            break  # known to be analytic; the others may have pieces with other counts
    trace = next((trace for trace in traces if trace.decided), traces[-1])
    dimensions = {trace.dimension for trace in traces if trace.decided}
    if len(dimensions) > 1:
        found = " and ".join(str(architecture.dim - size) for size in sorted(dimensions))
        objection = f"random points have {found} laws, so φ is not analytic"
        trace = replace(trace, objection=objection)
    return trace.counted("conservation laws", architecture.dim - trace.dimension)


def _exact_count(architecture: Architecture, rng: np.random.Generator) -> Finding:
    best, levels, bound = 0, [0], 1.0
    for _ in range(_TRIALS):
        prime = _random_prime(rng)
        fields = gradient_fields(architecture, Arithmetic(prime))
        ranks, failure = _exact_ranks(fields, architecture, rng)
        bound *= min(1.0, failure)
        if ranks[-1] > best:
            best, levels = ranks[-1], np.diff(ranks, prepend=0).tolist()
    count = architecture.dim - best
    reason = f"over {_TRIALS} prime fields {added(levels)}; wrong with a probability below "
    reason += f"{bound:.0e} (Schwartz–Zippel)"
    finding = found("conservation laws", True, count, reason, tolerance=0.0)
    return replace(finding, witness={"levels": levels, "error_bound": bound})


def _random_prime(rng: np.random.Generator) -> int:
    while True:
        candidate = int(rng.integers(*_PRIMES))
        if fmpz(candidate).is_prime():
            return candidate


def _exact_ranks(
    fields: NetworkFields, architecture: Architecture, rng: np.random.Generator
) -> tuple[list[int], float]:
    """Ranks level by level, and a bound on the probability that one of them is too small.

    A minor of R nested brackets of k fields is a polynomial of degree at most R k deg X in the
    point and the forms; it vanishes at a random one with probability at most degree / p.
    """
    prime, size = fields.arithmetic.prime, fields.dag.dim
    point = fields.arithmetic.draw((size,), rng)
    degree = 2 * len(fields.dag.members) + 1
    count = min(architecture.lifted_dim, size) + SPARE
    rows = fields.values(fields.random_forms(count, point, rng), point, count)
    ranks, failure = [_modular_rank(rows, prime)], 0.0
    while True:
        depth = len(ranks)
        failure += min(ranks[-1] + 1, size) * depth * degree / prime
        if ranks[-1] == size or (depth > 1 and ranks[-1] == ranks[-2]):
            return ranks, failure
        count = size - ranks[-1] + SPARE
        forms = [fields.random_forms(count, point, rng) for _ in range(depth + 1)]
        rows = np.vstack([rows, fields.brackets(forms, point, count)])
        ranks.append(_modular_rank(rows, prime))


def _modular_rank(rows: Coordinates, prime: int) -> int:
    return int(nmod_mat(len(rows), rows.shape[1], rows.ravel().tolist(), prime).rank())
