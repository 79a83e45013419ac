"""What the kernels of ∂φ and ∂h decide: recoverability, and the kernel inclusion."""

from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np

from liftflow.architectures import Architecture, ReLUNetwork
from liftflow.criteria.brackets import lie_trace
from liftflow.criteria.fields import gradient_fields
from liftflow.criteria.findings import (
    TOLERANCE,
    Finding,
    Rank,
    Verdict,
    decide,
    margin_to_zero,
    rank_of,
    verdict_of,
)
from liftflow.criteria.graph import graph_recoverability
from liftflow.criteria.products import over_factors
from liftflow.criteria.scaling import column_lengths, lift_rows, unit_rows
from liftflow.typing import FloatArray, Rng, as_rng


@dataclass(frozen=True, eq=False)
class Kernel:
    """The kernel ker ∂φ(θ) ∩ ker ∂h(θ), from the singular values of both, stacked and balanced.

    Attributes
    ----------
    basis : array, shape=[dimension, dim]
        Unit vectors.
    rank : Rank
        Of the stacked matrix.
    smallest : float
        Its smallest singular value, relative to the largest.
    """

    basis: FloatArray
    rank: Rank
    smallest: float


def common_kernel(
    architecture: Architecture, theta: FloatArray, rng: np.random.Generator
) -> Kernel:
    """Compute ker ∂φ(θ) ∩ ker ∂h(θ).

    Columns are scaled by those of ∂φ and rows to unit length, so that neither the scale of θ nor
    a rescaling of its blocks moves a singular value across the tolerance. Without known laws,
    ker ∂h is the trace at θ of the Lie algebra that the fields ∇φ_i generate.

    Parameters
    ----------
    architecture : Architecture
    theta : array, shape=[dim]
    rng : numpy.random.Generator

    Returns
    -------
    kernel : Kernel
    """
    lifted = lift_rows(architecture, theta, rng)
    lengths = column_lengths(lifted, theta)
    laws = _law_rows(architecture, theta, rng)
    rows = np.vstack([unit_rows(lifted / lengths), unit_rows(laws / lengths)])
    singular, right = np.linalg.svd(rows, full_matrices=True)[1:]
    singular = np.pad(singular, (0, max(0, architecture.dim - singular.size)))
    rank = rank_of(singular[: architecture.dim], float(singular.max(initial=0.0)))
    null = right[rank.value :] / lengths
    smallest = float(singular[architecture.dim - 1] / (singular[0] or 1.0))
    return Kernel(null / np.linalg.norm(null, axis=1, keepdims=True), rank, smallest)


def _law_rows(
    architecture: Architecture, theta: FloatArray, rng: np.random.Generator
) -> FloatArray:
    if architecture.n_laws:
        return np.asarray(architecture.conservation_laws_jacobian(theta))
    fields = gradient_fields(architecture)
    trace = lie_trace(fields, theta, architecture.lifted_dim, rng)
    complement = np.linalg.qr(trace.basis, mode="complete")[0][:, trace.basis.shape[1] :]
    return complement.T / trace.scale


@over_factors
def recoverability(architecture: Architecture, theta: Any, *, rng: Rng = 0) -> Finding:
    """Decide intrinsic recoverability at θ: ker ∂φ(θ) ∩ ker ∂h(θ) = {0}.

    Parameters
    ----------
    architecture : Architecture
    theta : array-like, shape=[dim]
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
def _recoverability(
    architecture: Architecture, theta: FloatArray, rng: np.random.Generator
) -> Finding:
    kernel = common_kernel(architecture, theta, rng)
    dimension = len(kernel.basis)
    laws = "∂h" if architecture.n_laws else "the trace of the Lie algebra"
    if dimension:
        reason = f"∂φ and {laws} leave {dimension} directions of {architecture.dim} free"
        witness = {"dimension": dimension, "direction": kernel.basis[-1]}
        margin = kernel.rank.margin
    else:
        reason = f"∂φ and {laws} determine all {architecture.dim} directions"
        witness, margin = {}, kernel.smallest / TOLERANCE
    decided = kernel.rank.decided
    if not decided:
        reason = f"a singular value of {kernel.rank.doubtful:.1e} is neither zero nor clearly not"
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
def kernel_inclusion(architecture: Architecture, theta: Any, *, rng: Rng = 0) -> Finding:
    r"""Decide ker ∂φ(θ) ∩ ker ∂h(θ) ⊆ ker ∂M(θ), which the metric property needs.

    Matrix-free: :math:`⟨g', M g⟩ = ⟨X_{g'}, X_g⟩` with the fields :math:`X_g = ∂φ^\top g`, so ∂M
    along a direction takes the derivatives of random fields along it, never M.

    Parameters
    ----------
    architecture : Architecture
    theta : array-like, shape=[dim]
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
    rng = as_rng(rng)
    recoverable = _recoverability(architecture, theta, rng)
    if recoverable.verdict is not Verdict.FAILS:
        holds = recoverable.verdict is Verdict.HOLDS
        return Finding(
            "kernel inclusion",
            recoverable.verdict,
            value=0.0 if holds else recoverable.value,
            margin=recoverable.margin,
            tolerance=recoverable.tolerance,
            reason="the kernel is zero" if holds else f"the kernel: {recoverable.reason}",
        )
    kernel = common_kernel(architecture, theta, rng)
    changes = gram_changes(architecture, theta, kernel.basis, rng)
    worst = int(np.argmax(changes))
    value = float(changes[worst])
    holds_or_not = decide(value)
    reasons = {
        True: f"M does not change along the {len(changes)} directions of the kernel",
        False: f"M changes along a direction that neither z nor h sees, relatively by {value:.1g}",
        None: f"M changes along the kernel by {value:.1e}: neither zero nor clearly not",
    }
    return Finding(
        "kernel inclusion",
        verdict_of(holds_or_not),
        value=value,
        margin=margin_to_zero(value),
        tolerance=TOLERANCE,
        reason=reasons[holds_or_not],
        witness={"direction": kernel.basis[worst]} if holds_or_not is False else {},
    )


def gram_changes(
    architecture: Architecture,
    theta: FloatArray,
    directions: FloatArray,
    rng: np.random.Generator,
    n_probes: int = 4,
) -> FloatArray:
    """Relative size of ∂M(θ) along directions, by pairs of random fields.

    Parameters
    ----------
    architecture : Architecture
    theta : array, shape=[dim]
    directions : array, shape=[n, dim]
        One per row.
    rng : numpy.random.Generator
    n_probes : int
        Number of pairs.

    Returns
    -------
    changes : array, shape=[n]
    """
    fields = gradient_fields(architecture)
    point, velocities = fields.point(theta), fields.velocities(directions)
    changes = np.zeros(len(directions))
    for _ in range(n_probes):
        forms = fields.random_forms(2, point, rng)
        (left, right) = fields.values(forms, point, 2)
        for number, velocity in enumerate(velocities):
            moved_left, moved_right = fields.derivatives(
                forms, point, np.broadcast_to(velocity, (2, point.size))
            )
            terms = np.array([moved_left * right, left * moved_right])
            size = np.abs(terms).sum()
            if size > 0:
                changes[number] = max(changes[number], abs(terms.sum()) / size)
    return changes
