"""What numbers cannot tell: points whose scales part, kinks of φ, and too many parameters."""

from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch, wraps

import numpy as np

from liftflow.architectures import Architecture, DeepLinear, ReLUNetwork
from liftflow.criteria.fields import AutogradFields, gradient_fields
from liftflow.criteria.findings import Finding, Verdict, undecided
from liftflow.criteria.graph import GRAPH_LIMIT, by_graph
from liftflow.criteria.precise import is_precise
from liftflow.criteria.scaling import column_lengths
from liftflow.criteria.views import lift_rows
from liftflow.typing import FloatArray, OneTheta

PARTED = 1e3
"""Ratio of the lengths of two columns of ∂φ(θ) up to which double precision hides no scale."""

BRACKET_LIMIT, MATRIX_LIMIT = GRAPH_LIMIT, 1200
"""Numbers of parameters up to which brackets, and single matrices, are computed."""

FORM_LIMIT = 4_000_000
"""Number of entries of as many covectors on z as there are parameters."""

_ARRAYS = 50  # of that size, that automatic differentiation of brackets keeps
_SIDES = np.array([0.0, 1e-7, -1e-7, 1e-8, -1e-8, 1.0])  # in units, along a random way

Criterion = Callable[[Architecture, FloatArray, np.random.Generator], Finding]


@singledispatch
def scales_part(architecture: Architecture, theta: OneTheta, rng: np.random.Generator) -> bool:
    """Tell whether θ has weights of such different scales that double precision hides some.

    A rescaling that multiplies weights by c and leaves φ alone divides their columns of ∂φ by c.
    """
    lengths = column_lengths(lift_rows(architecture, theta, rng), theta)
    return bool(np.max(lengths) > PARTED * np.min(lengths))


@scales_part.register
def _(network: DeepLinear, theta: FloatArray, rng: np.random.Generator) -> bool:
    if is_precise(network, theta):
        return False
    return bool(scales_part.dispatch(Architecture)(network, theta, rng))


@scales_part.register
def _(network: ReLUNetwork, theta: FloatArray, rng: np.random.Generator) -> bool:
    sizes = np.abs(theta[theta != 0])
    if sizes.size in (0, network.dim) or is_precise(network, theta):
        return False  # without zeros the forms follow the rescalings
    return bool(np.max(sizes) > PARTED * np.min(sizes))


def too_large(architecture: Architecture, limit: int = BRACKET_LIMIT) -> str:
    """Tell what a criterion would take, if that is too much.

    Parameters
    ----------
    limit : int
        Number of parameters.

    Returns
    -------
    reason : str
        Empty where the criterion can be computed, or goes by the graph of a network.
    """
    if isinstance(architecture, ReLUNetwork) and by_graph(architecture):
        return ""
    dim, forms = architecture.dim, 0
    if isinstance(gradient_fields(architecture), AutogradFields):
        forms = dim * architecture.lifted_dim
    if dim <= limit and forms <= FORM_LIMIT:
        return ""
    return (
        f"with {dim:,} parameters and {architecture.lifted_dim:,} entries of z it would take about "
        f"{8e-9 * _ARRAYS * max(dim**2, forms):.1g} GB and {200e-12 * dim**3:.1g}·10¹² operations; "
        f"up to {limit:,} parameters and {FORM_LIMIT:,} entries of ∂φ are looked at"
    )


def kinked(architecture: Architecture, theta: OneTheta, rng: np.random.Generator) -> bool:
    """Tell whether the derivative of a lift that is only evaluated jumps at θ."""
    fields = gradient_fields(architecture)
    if not isinstance(fields, AutogradFields):
        return False
    way = fields.unit(theta) / np.sqrt(theta.size) * rng.standard_normal(theta.size)
    form = rng.standard_normal((1, *architecture.lifted_shape))
    with np.errstate(all="ignore"):
        values = np.asarray(fields.field(form, theta + _SIDES[:, None] * way))
        jump, closer = np.linalg.norm(values[[1, 3]] - values[[2, 4]], axis=1)
        size = np.nanmax(np.linalg.norm(values[[0, 1, 5]], axis=1))
    return bool(closer > max(0.5 * jump, 1e-6 * size))  # what is smooth shrinks with the distance


def doubted(name: str, limit: int = BRACKET_LIMIT) -> Callable[[Criterion], Criterion]:
    """Let a criterion answer undecided where it cannot tell a special point from rounding.

    Where the scales of θ part, a verdict that generic points share is believed: there ranks are
    the largest there are. Another one may be due to a singular value lost in rounding.

    Parameters
    ----------
    name : str
        What is decided.
    limit : int
        Number of parameters up to which it is, where laws are known.

    Returns
    -------
    decorator : callable
        Of criteria, which take an architecture, θ and a generator to a finding.
    """

    def decorator(criterion: Criterion) -> Criterion:
        @wraps(criterion)
        def checked(
            architecture: Architecture, theta: FloatArray, rng: np.random.Generator
        ) -> Finding:
            # Where no laws are known, the Lie algebra takes their place.
            if reason := too_large(architecture, limit if architecture.n_laws else BRACKET_LIMIT):
                return undecided(name, reason)
            finding = criterion(architecture, theta, rng)
            if finding.verdict is Verdict.UNDECIDED:
                return finding
            if kinked(architecture, theta, rng):
                return _doubt(finding, "φ has a kink at θ")
            if not scales_part(architecture, theta, rng):
                return finding
            generic = criterion(architecture, np.asarray(architecture.random_point(rng=rng)), rng)
            counted = isinstance(finding.value, int)
            if finding.verdict is generic.verdict and not (
                counted and finding.value != generic.value
            ):
                return finding
            return _doubt(
                finding,
                "the scales of θ part so far that double precision cannot tell this from generic "
                "points, where the answer is another",
            )

        return checked

    return decorator


def _doubt(finding: Finding, reason: str) -> Finding:
    reason = f"{reason}; it would be: {finding.reason}"
    return replace(finding, verdict=Verdict.UNDECIDED, margin=1.0, reason=reason, witness={})
