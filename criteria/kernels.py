"""What the kernels of ∂φ and ∂h decide: recoverability, and the kernel inclusion."""

from dataclasses import replace
from functools import singledispatch
from typing import Any

import numpy as np

from liftflow.architectures import Architecture, ReLUNetwork
from liftflow.criteria.doubts import MATRIX_LIMIT, doubted, kinked, scales_part, too_large
from liftflow.criteria.findings import (
    TOLERANCE,
    Finding,
    Verdict,
    decide,
    margin_to_zero,
    undecided,
    verdict_of,
)
from liftflow.criteria.graph import by_graph, graph_recoverability
from liftflow.criteria.products import over_factors
from liftflow.criteria.views import Kernel, View, view_of
from liftflow.typing import FloatArray, OneTheta, Rng, as_rng

_TOO_LARGE: dict[str, Any] = {
    "verdict": Verdict.UNDECIDED,
    "margin": 1.0,
    "reason": "θ is not recoverable, and the network has too many parameters to look at its kernel",
    "witness": {},
}


@over_factors
def recoverability(architecture: Architecture, theta: OneTheta, *, rng: Rng = 0) -> Finding:
    """Decide intrinsic recoverability at θ: ker ∂φ(θ) ∩ ker ∂h(θ) = {0}.

    Parameters
    ----------
    rng : numpy.random.Generator or int, optional
        For random combinations of the rows of ∂φ, where there are many.

    Returns
    -------
    finding : Finding
        The value is the smallest singular value of ∂φ and ∂h, stacked and balanced, relative to
        the largest; the witness a common direction of the kernels. For a ReLU network the graph
        alone decides, whatever its size: then the value is the smallest eigenvalue of its
        Laplacian scaled to a unit diagonal, and the witness names the dead parameters.

    References
    ----------
    [MPG]_.
    """
    return _recoverability(architecture, theta, as_rng(rng))


@singledispatch
@doubted("recoverable", MATRIX_LIMIT)
def _recoverability(
    architecture: Architecture, theta: FloatArray, rng: np.random.Generator
) -> Finding:
    return _triviality(architecture, view_of(architecture, theta, rng).kernel())


def _triviality(architecture: Architecture, kernel: Kernel, *, in_orbit: bool = False) -> Finding:
    """Decide whether a kernel is zero."""
    dim = architecture.dim
    laws = "∂h" if architecture.n_laws and not in_orbit else "the trace of the Lie algebra"
    dimension = len(kernel.basis)
    if dimension:
        reason = f"∂φ and {laws} leave {dimension} directions of {dim} free"
        witness = {"dimension": dimension, "direction": kernel.basis[-1]}
        margin = kernel.rank.margin
    else:
        reason = f"∂φ and {laws} determine all {dim} directions"
        witness, margin = {}, kernel.rank.kept / TOLERANCE
    decided = not kernel.doubt
    if not decided:
        reason = kernel.doubt
    return Finding(
        "recoverable",
        verdict_of(dimension == 0 if decided else None),
        value=kernel.smallest,
        margin=margin,
        tolerance=TOLERANCE,
        reason=reason,
        witness=witness if decided else {},
    )


@_recoverability.register
def _(network: ReLUNetwork, theta: FloatArray, rng: np.random.Generator) -> Finding:
    return graph_recoverability(network, theta)


@over_factors
def kernel_inclusion(architecture: Architecture, theta: OneTheta, *, rng: Rng = 0) -> Finding:
    r"""Decide ker ∂φ(θ) ∩ ker ∂h(θ) ⊆ ker ∂M(θ), which the metric property needs.

    Matrix-free: :math:`⟨g', M g⟩ = ⟨X_{g'}, X_g⟩` with the fields :math:`X_g = ∂φ^\top g`, so ∂M
    along a direction takes the derivatives of random fields along it, never M.

    Parameters
    ----------
    rng : numpy.random.Generator or int, optional
        For the random fields.

    Returns
    -------
    finding : Finding
        The value is the largest change of ⟨X_g', X_g⟩ along the kernel, relative to its terms;
        the witness a direction along which M changes.

    References
    ----------
    [MPG]_.
    """
    return _kernel_inclusion(architecture, theta, as_rng(rng))


@singledispatch
@doubted("kernel inclusion", MATRIX_LIMIT)
def _kernel_inclusion(
    architecture: Architecture, theta: FloatArray, rng: np.random.Generator
) -> Finding:
    view = view_of(architecture, theta, rng)
    kernel = view.kernel()
    recoverable = _triviality(architecture, kernel)
    if recoverable.verdict is Verdict.FAILS:
        return _inclusion(view, kernel)
    return _inclusion_of_nothing(recoverable)


@_kernel_inclusion.register
def _(network: ReLUNetwork, theta: FloatArray, rng: np.random.Generator) -> Finding:
    recoverable = graph_recoverability(network, theta)
    if recoverable.verdict is Verdict.FAILS and by_graph(network):
        return replace(recoverable, name="kernel inclusion", **_TOO_LARGE)
    if recoverable.verdict is Verdict.FAILS:
        return _kernel_inclusion.dispatch(Architecture)(network, theta, rng)
    return _inclusion_of_nothing(recoverable)


def _inclusion_of_nothing(recoverable: Finding) -> Finding:
    """State the kernel inclusion where the kernel is zero, or where that is undecided."""
    holds = recoverable.verdict is Verdict.HOLDS
    return replace(
        recoverable,
        name="kernel inclusion",
        value=0.0 if holds else recoverable.value,
        reason="the kernel is zero" if holds else f"the kernel: {recoverable.reason}",
    )


def _inclusion(view: View, kernel: Kernel) -> Finding:
    """Decide whether M does not change along a kernel that is not zero."""
    changes, decisive = view.gram_changes(kernel)
    worst = int(np.argmax(changes))
    value = float(changes[worst])
    holds = decide(decisive)
    reasons = {
        True: f"M does not change along the {len(changes)} directions of the kernel",
        False: f"M changes along a direction that neither z nor h sees, relatively by {value:.1g}",
        None: f"M changes along the kernel by {decisive:.1e}: neither zero nor clearly not",
    }
    return Finding(
        "kernel inclusion",
        verdict_of(holds),
        value=value,
        margin=margin_to_zero(decisive),
        tolerance=TOLERANCE,
        reason=reasons[holds],
        witness={"direction": kernel.basis[worst]} if holds is False else {},
    )


def in_orbit(
    architecture: Architecture, theta: OneTheta, rng: np.random.Generator
) -> tuple[Finding, Finding]:
    """Decide recoverability and the kernel inclusion in the orbit, all that flows can reach.

    The trace at θ of the Lie algebra that the fields ∇φ_i generate, tangent to the orbit of θ,
    stands in the place of ker ∂h. The two are the same where the laws are complete.

    Returns
    -------
    recoverable, inclusion : Finding
        The second is undecided also where ∂φ has a smaller rank than elsewhere, so that its
        kernel at θ may not be that of points close by.

    References
    ----------
    Ours.
    """
    return _in_orbit(architecture, theta, rng)


@singledispatch
def _in_orbit(
    architecture: Architecture, theta: FloatArray, rng: np.random.Generator
) -> tuple[Finding, Finding]:
    if reason := too_large(architecture):
        return (unknown := undecided("recoverable", reason)), unknown
    view = view_of(architecture, theta, rng)
    kernel = view.kernel(in_orbit=True)
    recoverable = _triviality(architecture, kernel, in_orbit=True)
    if kinked(architecture, theta, rng) or scales_part(architecture, theta, rng):
        reason = "φ has a kink at θ, or the scales of θ part too far for double precision"
        recoverable = replace(recoverable, verdict=Verdict.UNDECIDED, reason=reason, witness={})
    if recoverable.verdict is not Verdict.FAILS:
        return recoverable, recoverable
    inclusion = _inclusion(view, kernel)
    generic = view_of(architecture, np.asarray(architecture.random_point(rng=rng)), rng)
    here, elsewhere = (seen.span().extend(seen.field_vectors()) for seen in (view, generic))
    if here.value == elsewhere.value and here.decided and elsewhere.decided:
        return recoverable, inclusion
    reason = f"∂φ has the rank {here.value} here and {elsewhere.value} elsewhere"
    return recoverable, replace(inclusion, verdict=Verdict.UNDECIDED, reason=reason, witness={})


@_in_orbit.register
def _(network: ReLUNetwork, theta: FloatArray, rng: np.random.Generator) -> tuple[Finding, Finding]:
    if not by_graph(network):
        return _in_orbit.dispatch(Architecture)(network, theta, rng)
    unknown = replace(graph_recoverability(network, theta), **_TOO_LARGE)
    return unknown, unknown
