"""What double precision cannot tell: verdicts at points whose scales part are checked."""

from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch, wraps

import numpy as np

from liftflow.architectures import Architecture, DeepLinear, ReLUNetwork
from liftflow.criteria.findings import Finding, Verdict
from liftflow.criteria.precise import is_precise
from liftflow.criteria.scaling import column_lengths, lift_rows
from liftflow.typing import FloatArray

PARTED = 1e3
"""Ratio of the lengths of two columns of ∂φ(θ) up to which double precision hides no scale."""

Criterion = Callable[[Architecture, FloatArray, np.random.Generator], Finding]


@singledispatch
def scales_part(architecture: Architecture, theta: FloatArray, rng: np.random.Generator) -> bool:
    """Tell whether θ has weights of such different scales that double precision hides some.

    A rescaling that multiplies weights by c and leaves φ alone divides their columns of ∂φ by c.

    Parameters
    ----------
    architecture : Architecture
    theta : array, shape=[dim]
    rng : numpy.random.Generator

    Returns
    -------
    parted : bool
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


def doubted(criterion: Criterion) -> Criterion:
    """Let a criterion answer undecided where it cannot tell a special point from rounding.

    Where the scales of θ part, a verdict that generic points share is believed: there ranks are
    the largest there are. Another one may be due to a singular value lost in rounding.

    Parameters
    ----------
    criterion : callable
        Takes an architecture, θ and a generator to a finding.

    Returns
    -------
    criterion : callable
    """

    @wraps(criterion)
    def checked(architecture: Architecture, theta: FloatArray, rng: np.random.Generator) -> Finding:
        finding = criterion(architecture, theta, rng)
        if finding.verdict is Verdict.UNDECIDED or not scales_part(architecture, theta, rng):
            return finding
        generic = criterion(architecture, np.asarray(architecture.random_point(rng=rng)), rng)
        counted = isinstance(finding.value, int)
        if finding.verdict is generic.verdict and not (counted and finding.value != generic.value):
            return finding
        reason = (
            "the scales of θ part so far that double precision cannot tell this from generic "
            f"points, where the answer is another; it would be: {finding.reason}"
        )
        return replace(finding, verdict=Verdict.UNDECIDED, margin=1.0, reason=reason, witness={})

    return checked
