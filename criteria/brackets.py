"""Brackets of the gradient fields: the Frobenius property, and whether all commute."""

from functools import singledispatch
from itertools import combinations
from typing import Any

import numpy as np

from liftflow.architectures import Architecture, ReLUNetwork
from liftflow.criteria.doubts import doubted
from liftflow.criteria.findings import (
    TOLERANCE,
    Finding,
    Verdict,
    decide,
    margin_to_zero,
    verdict_of,
)
from liftflow.criteria.graph import by_graph, graph_recoverability, shared_edge
from liftflow.criteria.products import over_factors
from liftflow.criteria.scaling import SPARE
from liftflow.criteria.views import Span, View, view_of
from liftflow.typing import FloatArray, OneTheta, Rng, as_rng

_MAX_PAIRS = 2000
_MAX_ENTRIES = 100_000  # of z, among which pairs are looked for
_MAX_NUMBERS = 4_000_000  # in the covectors of all pairs


@over_factors
def frobenius(architecture: Architecture, theta: OneTheta, *, rng: Rng = 0) -> Finding:
    """Decide the Frobenius property at θ: [∇φ_i, ∇φ_j](θ) ∈ span{∇φ_k(θ)} for all i and j.

    Parameters
    ----------
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
@doubted("frobenius")
def _frobenius(architecture: Architecture, theta: FloatArray, rng: np.random.Generator) -> Finding:
    view = view_of(architecture, theta, rng)
    span = view.span()
    decided = span.extend(view.field_vectors()).decided
    reasons = (
        "all brackets lie in the span of the fields",
        "the bracket of two fields leaves their span",
    )
    return _bracket_test("frobenius", view, span, decided, reasons)


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
def commuting(architecture: Architecture, theta: OneTheta, *, rng: Rng = 0) -> Finding:
    """Decide whether the fields commute at θ: [∇φ_i, ∇φ_j](θ) = 0 for all i and j.

    Parameters
    ----------
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
@doubted("commuting")
def _commuting(architecture: Architecture, theta: FloatArray, rng: np.random.Generator) -> Finding:
    view = view_of(architecture, theta, rng)
    reasons = ("all fields commute", "two fields do not commute")
    return _bracket_test("commuting", view, view.span(), True, reasons)


@_commuting.register
def _(network: ReLUNetwork, theta: FloatArray, rng: np.random.Generator) -> Finding:
    if not np.all(theta != 0):
        if not by_graph(network):
            return _commuting.dispatch(Architecture)(network, theta, rng)
        return Finding(
            "commuting",
            Verdict.UNDECIDED,
            value=0.0,
            margin=1.0,
            tolerance=0.0,
            reason="too many parameters for brackets, and zeros among them, of which the graph "
            "does not tell",
        )
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
    name: str, view: View, span: Span, decided: bool, reasons: tuple[str, str]
) -> Finding:
    """Decide whether the part of every bracket outside a span vanishes."""
    count = view.architecture.dim + SPARE
    forms = [view.random_forms(count) for _ in range(2)]
    value, decisive = view.largest(span.outside(view.brackets(forms, count)))
    holds = decide(decisive) if decided else None
    undecided = f"a part of {decisive:.1e} is neither zero nor clearly not"
    return Finding(
        name,
        verdict_of(holds),
        value=value,
        margin=margin_to_zero(decisive),
        tolerance=TOLERANCE,
        reason=undecided if holds is None else reasons[0 if holds else 1],
        witness=_worst_pair(view, span) if holds is False else {},
    )


def _worst_pair(view: View, span: Span) -> dict[str, Any]:
    """Find two entries of z whose bracket shows the failure, among all or many of them."""
    size = view.architecture.lifted_dim
    if size > _MAX_ENTRIES:
        return {}  # nobody looks at so many, and some cannot be numbered
    n_pairs = min(_MAX_PAIRS, _MAX_NUMBERS // max(size, view.size))
    if size * (size - 1) // 2 <= n_pairs:
        pairs = np.array(list(combinations(range(size), 2)))
    else:
        pairs = view.rng.integers(size, size=(n_pairs, 2))
    forms = [view.basis_forms(column) for column in pairs.T]
    found = view.lengths(span.outside(view.brackets(forms, len(pairs))))
    worst = int(np.argmax(found))
    entries = [
        [int(i) for i in np.unravel_index(number, view.architecture.lifted_shape)]
        for number in pairs[worst]
    ]
    return {"entries": entries, "size": float(found[worst])}
