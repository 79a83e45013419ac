"""Ranks and spans, and what leaves them in doubt: which numbers are zero, and which clearly not."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import TypeAliasType

from liftflow.typing import FloatArray

ZERO = 1e-11
"""Relative size up to which a number counts as zero."""

NONZERO = 1e-7
"""Relative size from which a number counts as nonzero; in between nothing is decided."""

TOLERANCE = 1e-9
"""Centre of that gap: what a verdict states as its tolerance."""

DROP = 1e-10
"""Vectors below this fraction of the terms they are made of are rounding, and are dropped."""

Rows = TypeAliasType("Rows", Any)
"""Rows of vectors at a point, after an axis for it and for neighbours that it is judged by."""

_SHORTEST = 1e-3  # relative length down to which vectors are made to unit vectors


@dataclass(frozen=True)
class Rank:
    """Rank of a matrix, read off its singular values relative to a scale; NaN where none is."""

    value: int  # number of those above the tolerance, or another floor
    clear: int  # of those that are clearly not zero
    vague: int  # of those that may not be zero
    doubtful: float  # the largest in the gap between zero and nonzero
    kept: float  # the last that counts as nonzero
    dropped: float  # the first that counts as zero

    @property
    def decided(self) -> bool:
        """Whether no singular value lies in the gap between zero and nonzero."""
        return bool(np.isnan(self.doubtful))

    @property
    def doubt(self) -> str:
        """What leaves it undecided; empty where nothing does."""
        if self.decided:
            return ""
        return f"a size of {self.doubtful:.1e} is neither zero nor clearly not"

    @property
    def margin(self) -> float:
        """Ratio of the last nonzero singular value to the first zero one."""
        if np.isnan(self.kept) or not self.dropped > 0:
            return np.inf
        return self.kept / self.dropped


NOTHING = Rank(0, 0, 0, np.nan, np.nan, 0.0)
"""Rank of vectors that are zero beyond doubt."""


def rank_of(singular: FloatArray, scale: float = 1.0, floor: float = TOLERANCE) -> Rank:
    """Read a rank off descending singular values, relative to a scale: of those above a floor."""
    relative = singular / scale if scale > 0 else np.zeros_like(singular)
    value, clear, vague = (int(np.sum(relative > least)) for least in (floor, NONZERO, ZERO))
    between = relative[(relative > ZERO) & (relative <= NONZERO)]
    doubtful = float(between[0]) if between.size else np.nan
    kept = float(relative[value - 1]) if value else np.nan
    dropped = float(relative[value]) if value < relative.size else np.nan
    return Rank(value, clear, vague, doubtful, kept, dropped)


class Span:
    """Span of vectors of a point, which grows; by singular values, relative to unit vectors.

    Attributes
    ----------
    n_points : int
        Number of points that vectors are given at: one, and neighbours.
    opened : bool
        Whether neighbours of the point have dimensions that it lacks.
    """

    n_points = 1
    opened = False

    def __init__(self, size: int) -> None:
        self.size = size
        self.basis: Rows = np.zeros((self.n_points, 0, size))

    @property
    def dimension(self) -> int:
        """Number of independent vectors so far."""
        return int(self.basis.shape[-2])

    def extend(self, vectors: Rows, floor: float = TOLERANCE) -> Rank:
        """Add vectors, at most about as long as unit vectors; tell what dimensions they add."""
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        rest = vectors / np.maximum(lengths, _SHORTEST)
        for _ in range(2):  # twice, so that the rest is orthogonal to rounding
            rest = self.outside(rest)
        _, singular, right = np.linalg.svd(rest[0], full_matrices=False)
        rank = rank_of(singular, floor=floor)
        self.basis = np.concatenate([self.basis, right[None, : rank.value]], axis=1)
        return rank

    def outside(self, vectors: Rows) -> Rows:
        """Project vectors onto the orthogonal complement."""
        return vectors - (vectors @ np.swapaxes(self.basis, -1, -2)) @ self.basis

    def holds(self, vectors: Rows) -> bool:
        """Tell whether vectors of one point are in the span beyond doubt, where that saves time."""
        return False

    def complement(self) -> Rows:
        """Return a basis of all that is orthogonal to the span."""
        return np.linalg.qr(self.basis[0].T, mode="complete")[0].T[None, self.dimension :]


def unit_rows(rows: FloatArray) -> FloatArray:
    """Scale rows to length 1, and set those to zero that are rounding beside the longest."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    kept = lengths > DROP * lengths.max(initial=0.0)
    return np.where(kept, rows / np.where(kept, lengths, 1.0), 0.0)
