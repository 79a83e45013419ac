"""Products of architectures: every criterion is decided factor by factor."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

from liftflow.architectures import Architecture, ProductArchitecture
from liftflow.criteria.findings import Finding, Verdict
from liftflow.doors import door
from liftflow.typing import as_array

_WORST = (Verdict.FAILS, Verdict.UNDECIDED, Verdict.HOLDS)


def over_factors(criterion: Callable[..., Finding]) -> Callable[..., Finding]:
    """Let a criterion take products: ∂φ, ∂h and all brackets are block diagonal there.

    It also becomes the door: θ is checked here, once.

    Parameters
    ----------
    criterion : callable
        Takes an architecture, one θ and options.

    Returns
    -------
    criterion : callable
        On a product it answers for the factor that decides, or adds counts up.
    """

    @door
    @wraps(criterion)
    def decided(architecture: Architecture, theta: Any, **options: Any) -> Finding:
        point = as_array(theta, "theta", (architecture.dim,), batch=False, differentiable=False)
        if not isinstance(architecture, ProductArchitecture):
            return criterion(architecture, point, **options)
        findings: list[Finding] = []
        for factor, part in zip(architecture.factors, architecture.unpack(point), strict=True):
            findings.append(decided(factor, part, **options))
            if findings[-1].verdict is Verdict.FAILS and not isinstance(findings[-1].value, int):
                break  # one factor refutes it
        return combine(findings)

    return decided


def combine(findings: list[Finding]) -> Finding:
    """Return the finding of a product from those of its factors.

    Parameters
    ----------
    findings : list of Finding
        One for each factor.

    Returns
    -------
    finding : Finding
        Of the factor that decides: one that fails, else one that is undecided, else the one with
        the smallest margin. Counts are added up.
    """
    number, worst = min(
        enumerate(findings), key=lambda item: (_WORST.index(item[1].verdict), item[1].margin)
    )
    if isinstance(worst.value, int):
        total = sum(finding.value for finding in findings)
        parts = " + ".join(str(finding.value) for finding in findings)
        return replace(worst, value=total, reason=f"{parts}, factor by factor: {worst.reason}")
    witness = {"factor": number, **worst.witness} if worst.witness else {}
    return replace(worst, reason=f"factor {number}: {worst.reason}", witness=witness)
