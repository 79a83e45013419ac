"""The Lie algebra that the gradient fields generate, level by level of brackets."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from liftflow.criteria.findings import TOLERANCE, Rank
from liftflow.criteria.scaling import SPARE

if TYPE_CHECKING:
    from liftflow.criteria.views import Span, View

MAX_LEVELS = 8
"""Depth of brackets at which the search for the whole Lie algebra is given up."""


@dataclass(frozen=True, eq=False)
class LieTrace:
    """Trace at a point of the Lie algebra that the gradient fields generate.

    Attributes
    ----------
    span : Span
        The trace.
    ranks : tuple of Rank
        One per level: of the fields, then of what each depth of brackets adds.
    settled : bool
        Whether the last levels added nothing, or there is nothing left to add.
    generic : int, optional
        Dimension at generic points close by, where it is known.
    objection : str
        Why other points leave it undecided, if they do.
    """

    span: "Span"
    ranks: tuple[Rank, ...]
    settled: bool
    generic: int | None = None
    objection: str = ""

    @property
    def dimension(self) -> int:
        """Dimension of the trace."""
        return self.span.dimension

    @property
    def decided(self) -> bool:
        """Whether all ranks are, the levels settled, and no other point objects."""
        return not self.doubt

    @property
    def doubt(self) -> str:
        """What leaves it undecided; empty where nothing does."""
        sizes = [rank.doubtful for rank in self.ranks if not rank.decided]
        if sizes:
            return f"a size of {sizes[0]:.1e} is neither zero nor clearly not"
        if not self.settled:
            return f"{len(self.ranks)} levels did not settle it"
        return self.objection

    @property
    def margin(self) -> float:
        """Smallest ratio of a singular value that counts as nonzero to one that does not."""
        kept = [rank.kept for rank in self.ranks if rank.kept > 0]
        dropped = [max(rank.dropped, 1e-16) for rank in self.ranks if rank.dropped >= 0]
        return min(kept, default=np.inf) / max(dropped, default=TOLERANCE)


def lie_trace(view: "View", *, patience: int = 1, least: int = 0) -> LieTrace:
    """Grow the span of the fields by brackets, level by level, until nothing is added.

    Level k has the brackets [X_k, […, [X_2, X_1]]] of random fields, as many as dimensions are
    missing and a few more. Such nested brackets span the Lie algebra, and at a generic point a
    level that adds nothing is the last. At a special point a later one may still add something.

    Parameters
    ----------
    patience : int
        Number of successive levels that must add nothing.
    least : int
        Dimension below which the search goes on.

    References
    ----------
    [Marcotte2023]_.
    """
    span = view.span()
    ranks, idle = [span.extend(view.field_vectors())], 0

    def settled() -> bool:
        return span.dimension == view.size or (idle >= patience and span.dimension >= least)

    while not settled() and len(ranks) < MAX_LEVELS:
        count = view.size - span.dimension + SPARE
        forms = [view.random_forms(count) for _ in range(len(ranks) + 1)]
        ranks.append(span.extend(view.brackets(forms, count)))
        idle = 0 if ranks[-1].value else idle + 1
    return LieTrace(span, tuple(ranks), settled())
