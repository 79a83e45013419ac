"""Brackets of the gradient fields: the Lie algebra they generate, Frobenius, commuting."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from itertools import combinations
from typing import Any

import numpy as np

from liftflow.architectures import Architecture, ReLUNetwork
from liftflow.criteria.fields import GradientFields, gradient_fields
from liftflow.criteria.findings import (
    DROP,
    TOLERANCE,
    Finding,
    Rank,
    Verdict,
    decide,
    margin_to_zero,
    rank_of,
    verdict_of,
)
from liftflow.criteria.graph import by_graph, graph_recoverability, shared_edge
from liftflow.criteria.products import over_factors
from liftflow.criteria.scaling import SPARE, unit_rows
from liftflow.typing import FloatArray, Rng, as_rng

MAX_LEVELS = 8
"""Depth of brackets at which the search for the whole Lie algebra is given up."""

_SHORTEST = 1e-3  # relative length down to which brackets are made to unit vectors
_MAX_PAIRS = 2000


@dataclass(frozen=True, eq=False)
class LieTrace:
    """Trace at a point of the Lie algebra that the gradient fields generate.

    Attributes
    ----------
    basis : array, shape=[n_coordinates, dimension]
        Of the trace, orthonormal after division by ``scale``.
    span : array, shape=[n_coordinates, rank]
        Of the span of the fields alone, likewise.
    scale : array, shape=[n_coordinates]
        Typical size of the fields at each coordinate.
    ranks : tuple of Rank
        One per level: of the fields, then of what each depth of brackets adds.
    settled : bool
        Whether the last levels added nothing, or there is nothing left to add.
    """

    basis: FloatArray
    span: FloatArray
    scale: FloatArray
    ranks: tuple[Rank, ...]
    settled: bool

    @property
    def dimension(self) -> int:
        """Dimension of the trace."""
        return self.basis.shape[1]

    @property
    def decided(self) -> bool:
        """Whether all ranks are, and the levels settled."""
        return self.settled and all(rank.decided for rank in self.ranks)

    @property
    def margin(self) -> float:
        """Smallest ratio of a singular value that counts as nonzero to one that does not."""
        kept = [rank.kept for rank in self.ranks if rank.kept > 0]
        dropped = [max(rank.dropped, 1e-16) for rank in self.ranks if rank.dropped >= 0]
        return min(kept, default=np.inf) / max(dropped, default=TOLERANCE)


def lie_trace(
    fields: GradientFields,
    point: FloatArray,
    lifted_dim: int,
    rng: np.random.Generator,
    *,
    patience: int = 1,
    max_levels: int = MAX_LEVELS,
) -> LieTrace:
    """Grow the span of the fields by brackets, level by level, until nothing is added.

    Level k has the brackets [X_k, […, [X_2, X_1]]] of random fields, as many as dimensions are
    missing and a few more. Such nested brackets span the Lie algebra, and at a generic point a
    level that adds nothing is the last. At a special point a later one may still add something,
    which is what ``patience`` is for.

    Parameters
    ----------
    fields : GradientFields
    point : array, shape=[n_coordinates]
    lifted_dim : int
        Number of independent forms.
    rng : numpy.random.Generator
    patience : int
        Number of successive levels that must add nothing.
    max_levels : int
        Level at which the search gives up.

    Returns
    -------
    trace : LieTrace

    References
    ----------
    [Marcotte2023]_.
    """
    size = point.size
    count = min(lifted_dim, size) + SPARE
    vectors = fields.values(fields.random_forms(count, point, rng), point, count)
    scale = np.sqrt(np.mean(vectors**2, axis=0))
    scale = np.where(scale > 0, scale, np.median(scale[scale > 0]) if np.any(scale > 0) else 1.0)
    basis, rank = extend_basis(np.zeros((size, 0)), unit_rows(vectors / scale))
    span, ranks, idle = basis, [rank], 0
    while idle < patience and basis.shape[1] < size and len(ranks) < max_levels:
        count = size - basis.shape[1] + SPARE
        forms = [fields.random_forms(count, point, rng) for _ in range(len(ranks) + 1)]
        vectors = _relative_brackets(fields, forms, point, scale, count)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        basis, rank = extend_basis(basis, vectors / np.maximum(lengths, _SHORTEST))
        ranks.append(rank)
        idle = 0 if rank.value else idle + 1
    settled = idle >= patience or basis.shape[1] == size
    return LieTrace(basis, span, scale, tuple(ranks), settled)


def _relative_brackets(
    fields: GradientFields, forms: Any, point: FloatArray, scale: FloatArray, count: int
) -> FloatArray:
    """Scaled brackets relative to what they are made of, so that rounding stays rounding.

    Made to unit vectors instead, brackets that vanish would be noise of full rank.
    """
    sizes = np.linalg.norm(fields.majorants(forms, point, count) / scale, axis=1)
    relative = fields.brackets(forms, point, count) / scale / np.where(sizes > 0, sizes, 1)[:, None]
    kept = np.linalg.norm(relative, axis=1) > DROP
    return np.where(kept[:, None], relative, 0.0)


def extend_basis(basis: FloatArray, vectors: FloatArray) -> tuple[FloatArray, Rank]:
    """Extend an orthonormal basis by vectors, and tell by how many dimensions.

    Parameters
    ----------
    basis : array, shape=[n, dimension]
        Orthonormal columns.
    vectors : array, shape=[m, n]
        At most about as long as unit vectors, which ranks are relative to.

    Returns
    -------
    basis : array, shape=[n, dimension + rank]
        The given one first.
    rank : Rank
        Of the vectors beside the basis.
    """
    for _ in range(2):  # twice, so that the rest is orthogonal to rounding
        vectors = vectors - (vectors @ basis) @ basis.T
    _, singular, right = np.linalg.svd(vectors, full_matrices=False)
    rank = rank_of(singular, 1.0)
    return np.hstack([basis, right[: rank.value].T]), rank


# Frobenius and commuting.


@over_factors
def frobenius(architecture: Architecture, theta: Any, *, rng: Rng = 0) -> Finding:
    """Decide the Frobenius property at θ: [∇φ_i, ∇φ_j](θ) ∈ span{∇φ_k(θ)} for all i and j.

    Parameters
    ----------
    architecture : Architecture
    theta : array-like, shape=[dim]
    rng : numpy.random.Generator or int, optional
        For random combinations of the fields.

    Returns
    -------
    finding : Finding
        The value is the largest distance of a bracket to the span, relative to its terms; the
        witness two entries of z whose fields have a bracket outside.

    References
    ----------
    [MPG]_.
    """
    return _frobenius(architecture, theta, as_rng(rng))


@singledispatch
def _frobenius(architecture: Architecture, theta: FloatArray, rng: np.random.Generator) -> Finding:
    def outside(trace: LieTrace, brackets: FloatArray) -> FloatArray:
        rest = brackets - (brackets @ trace.span) @ trace.span.T
        return rest - (rest @ trace.span) @ trace.span.T

    reasons = (
        "all brackets lie in the span of the fields",
        "the bracket of two fields leaves their span",
    )
    return _bracket_test(architecture, theta, rng, "frobenius", outside, reasons)


@_frobenius.register
def _(network: ReLUNetwork, theta: FloatArray, rng: np.random.Generator) -> Finding:
    if not by_graph(network):
        return _frobenius.dispatch(Architecture)(network, theta, rng)
    recoverable = graph_recoverability(network, theta)
    # Both spans together fill ℝᴰ, brackets are tangent to the laws, so they lie in range ∂φᵀ.
    undecided = "too many parameters for brackets, and θ is not recoverable, which would decide"
    holds = recoverable.verdict is Verdict.HOLDS
    return Finding(
        "frobenius",
        Verdict.HOLDS if holds else Verdict.UNDECIDED,
        value=0.0,
        margin=np.inf,
        tolerance=0.0,
        reason="θ is recoverable, so range ∂φᵀ is ker ∂h, which holds all brackets"
        if holds
        else undecided,
    )


@over_factors
def commuting(architecture: Architecture, theta: Any, *, rng: Rng = 0) -> Finding:
    """Decide whether the fields commute at θ: [∇φ_i, ∇φ_j](θ) = 0 for all i and j.

    Parameters
    ----------
    architecture : Architecture
    theta : array-like, shape=[dim]
    rng : numpy.random.Generator or int, optional
        For random combinations of the fields.

    Returns
    -------
    finding : Finding
        The value is the size of the largest bracket, relative to its terms; the witness two
        entries of z whose fields do not commute.

    References
    ----------
    [Li2022]_.
    """
    return _commuting(architecture, theta, as_rng(rng))


@singledispatch
def _commuting(architecture: Architecture, theta: FloatArray, rng: np.random.Generator) -> Finding:
    reasons = ("all fields commute", "two fields do not commute")
    return _bracket_test(architecture, theta, rng, "commuting", lambda trace, b: b, reasons)


@_commuting.register
def _(network: ReLUNetwork, theta: FloatArray, rng: np.random.Generator) -> Finding:
    if not (by_graph(network) and np.all(theta != 0)):
        return _commuting.dispatch(Architecture)(network, theta, rng)
    nodes = shared_edge(network.dag)
    return Finding(
        "commuting",
        Verdict.FAILS if nodes else Verdict.HOLDS,
        value=float(bool(nodes)),
        margin=np.inf,
        tolerance=0.0,
        reason=f"paths through {nodes[0]!r} share an edge" if nodes else "no paths share an edge",
        witness={"node": nodes[0]} if nodes else {},
    )


def _bracket_test(
    architecture: Architecture,
    theta: FloatArray,
    rng: np.random.Generator,
    name: str,
    part: Callable[[LieTrace, FloatArray], FloatArray],
    reasons: tuple[str, str],
) -> Finding:
    """Decide whether a part of every bracket vanishes."""
    fields = gradient_fields(architecture)
    point = fields.point(theta)
    trace = lie_trace(fields, point, architecture.lifted_dim, rng, max_levels=1)

    def sizes(forms: list[Any], count: int) -> FloatArray:
        brackets = _relative_brackets(fields, forms, point, trace.scale, count)
        return np.linalg.norm(part(trace, brackets), axis=1)

    count = architecture.dim + SPARE
    value = float(np.max(sizes([fields.random_forms(count, point, rng) for _ in range(2)], count)))
    holds = decide(value) if trace.ranks[0].decided else None
    witness = {}
    if holds is False:
        witness = _worst_pair(architecture, fields, sizes, rng)
    undecided = f"a part of {value:.1e} is neither zero nor clearly not"
    return Finding(
        name,
        verdict_of(holds),
        value=value,
        margin=margin_to_zero(value),
        tolerance=TOLERANCE,
        reason=undecided if holds is None else reasons[0 if holds else 1],
        witness=witness,
    )


def _worst_pair(
    architecture: Architecture,
    fields: GradientFields,
    sizes: Callable[[list[Any], int], FloatArray],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Find two entries of z whose bracket shows the failure, among all or many of them."""
    size = architecture.lifted_dim
    if size * (size - 1) // 2 <= _MAX_PAIRS:
        pairs = np.array(list(combinations(range(size), 2)))
    else:
        pairs = rng.integers(size, size=(_MAX_PAIRS, 2))
    found = sizes([fields.basis_forms(column) for column in pairs.T], len(pairs))
    worst = int(np.argmax(found))
    entries = [
        [int(i) for i in np.unravel_index(number, architecture.lifted_shape)]
        for number in pairs[worst]
    ]
    return {"entries": entries, "size": float(found[worst])}
