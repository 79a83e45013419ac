"""Verdicts: what a criterion found, by what number, and how far that is from the other answer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np

from liftflow.doors import door
from liftflow.errors import UndecidedError
from liftflow.files import plain
from liftflow.ranks import NONZERO, TOLERANCE, ZERO


class Verdict(StrEnum):
    """Answer of a criterion."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Finding:
    """What a criterion found at one point.

    ``bool(finding)`` is True where the property holds and False where it fails; it raises
    UndecidedError where the numbers decide nothing.

    Attributes
    ----------
    name : str
        The property.
    verdict : Verdict
        ``"holds"``, ``"fails"`` or ``"undecided"``.
    value : float or int
        The decisive number: a relative singular value or residual, or a count.
    margin : float
        Ratio, at least 1, of the smallest number that counts as nonzero to the largest that counts
        as zero; infinite where the answer is combinatorial or one of the two is missing.
    tolerance : float
        Relative size that separates zero from nonzero; 0 for an exact answer. Where the
        scales of a linear or ReLU network of up to 100 parameters part, the relative distance of θ
        to a point where the decisive number vanishes, which no rescaling of layers changes.
    reason : str
        One sentence.
    witness : mapping of str to Any
        Where the property fails, what shows it: a direction, a pair of indices, two losses.
    """

    name: str
    verdict: Verdict
    value: float
    margin: float
    tolerance: float
    reason: str
    witness: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Tell whether the property holds.

        Raises
        ------
        UndecidedError
            The verdict is undecided.
        """
        if self.verdict is Verdict.UNDECIDED:
            raise UndecidedError(
                f"{self.name} is undecided: {self.reason}; read .verdict, or ask at a point that "
                "is farther from the border"
            )
        return self.verdict is Verdict.HOLDS

    @door
    def agrees(self, other: "Finding") -> bool:
        """Tell whether another finding has the same verdict, and the same count if it is one."""
        counted = isinstance(self.value, int)
        return self.verdict is other.verdict and not (counted and self.value != other.value)

    def __repr__(self) -> str:
        """Say in one line what was found."""
        value = f"{self.value:,}" if isinstance(self.value, int) else f"{self.value:.1e}"
        return f"Finding({self.name}: {self.verdict}, value {value}, margin {self.margin:.0e})"

    def to_dict(self) -> dict[str, object]:
        """Return everything as numbers, strings and lists that JSON can hold."""
        return {key: plain(value) for key, value in vars(self).items() if key != "name"}


def found(
    name: str,
    holds: bool | None,
    value: float,
    reason: str,
    *,
    margin: float = np.inf,
    tolerance: float = TOLERANCE,
    witness: Mapping[str, Any] | None = None,
) -> Finding:
    """Return the finding for yes, no, or None where nothing is decided; a no shows its witness."""
    verdict = {True: Verdict.HOLDS, False: Verdict.FAILS, None: Verdict.UNDECIDED}[holds]
    shown = witness if witness and holds is False else {}
    return Finding(name, verdict, value, margin, tolerance, reason, shown)


def undecided(name: str, reason: str) -> Finding:
    """Return the finding that nothing is decided, without a value."""
    return found(name, None, np.nan, reason, margin=1.0)


def doubted(finding: Finding, reason: str) -> Finding:
    """Return a finding that is undecided after all, without a witness."""
    return replace(finding, verdict=Verdict.UNDECIDED, margin=1.0, reason=reason, witness={})


def decide(size: float, *, zero: float = ZERO, nonzero: float = NONZERO) -> bool | None:
    """Tell whether a relative size is zero (True), nonzero (False) or in between (None)."""
    return True if size <= zero else False if size >= nonzero else None


def margin_to_zero(size: float) -> float:
    """Ratio, at least 1, of a relative size to the tolerance, whichever side of it that is on."""
    return max(size / TOLERANCE, TOLERANCE / size) if size > 0 else np.inf


def vanishes(
    name: str,
    decisive: float,
    value: float,
    reasons: tuple[str, str, str],
    witness: Mapping[str, Any],
) -> Finding:
    """Return the finding that holds where a number is zero; reasons are for yes, no and neither."""
    holds, margin = decide(decisive), margin_to_zero(decisive)
    reason = dict(zip((True, False, None), reasons, strict=True))[holds]
    return found(name, holds, value, reason, margin=margin, witness=witness)


_WORST = (Verdict.FAILS, Verdict.UNDECIDED, Verdict.HOLDS)


def combine(findings: Iterable[Finding]) -> Finding:
    """Return the finding of a product from those of its factors.

    It is that of the factor that decides: one that fails, else one that is undecided, else the one
    with the smallest margin. Counts are added up.
    """
    looked: list[Finding] = []
    for finding in findings:
        looked.append(finding)
        if finding.verdict is Verdict.FAILS and not isinstance(finding.value, int):
            break  # one factor refutes it
    number, worst = min(
        enumerate(looked), key=lambda item: (_WORST.index(item[1].verdict), item[1].margin)
    )
    if isinstance(worst.value, int):
        total = sum(finding.value for finding in looked)
        parts = " + ".join(str(finding.value) for finding in looked)
        return replace(worst, value=total, reason=f"{parts}, factor by factor: {worst.reason}")
    witness = {"factor": number, **worst.witness} if worst.witness else {}
    return replace(worst, reason=f"factor {number}: {worst.reason}", witness=witness)
