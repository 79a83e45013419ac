"""The Lie algebra that the gradient fields generate, level by level of brackets, at any point.

At a special point brackets of one level may vanish and those of the next not, so that a level that
adds nothing is not the last. At a generic one it is. Two facts decide for analytic fields: nowhere
is the Lie algebra larger than at generic points, and along an orbit its dimension is constant.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

from liftflow.criteria.findings import Finding, found
from liftflow.criteria.vectors import SPARE, Vectors
from liftflow.errors import NotFiniteError
from liftflow.ranks import NOTHING, TOLERANCE, Rank, Rows, Span
from liftflow.typing import FloatArray, IntArray, OneTheta

MAX_LEVELS = 8
"""Depth of brackets at which the search for the whole Lie algebra is given up."""

STEPS = (0.3, 0.1, 0.03, 3e-3, 3e-4, 3e-5, 3e-6, 3e-8, 3e-10)
"""Lengths of flows in units, at their first speed: shorter ones where those run away."""

ROUGHLY = 1e-6
"""Tolerance of flows that only tell where exact ones lead."""

_MAX_EVALUATIONS = 200  # of the fields, after which such a flow is too stiff to be followed
_FAR = 1e3  # units beyond which a flow is not followed
_RTOL = 1e-13
_CONTROLS, _RANDOM_WAYS = 5, 3  # fields combined along a flow; STEPS tried to points aside of θ


@dataclass(frozen=True, eq=False)
class LieTrace:
    """Trace at a point of the Lie algebra that the gradient fields generate."""

    span: Span
    ranks: tuple[Rank, ...]  # one per level: of the fields, then of what each depth adds
    most: int  # dimension that it cannot exceed
    settled: bool  # the last levels added nothing, or there is nothing left to add
    generic: int | None  # dimension at generic points close by, where it is known
    objection: str = ""  # why other points, or other inputs, leave it undecided, if they do
    remark: str = ""  # what the map adds

    @property
    def dimension(self) -> int:
        """Dimension of the trace."""
        return sum(rank.value for rank in self.ranks)

    @property
    def decided(self) -> bool:
        """Whether all ranks are, the levels settled, and no other point objects."""
        return not self.doubt

    @property
    def doubt(self) -> str:
        """What leaves it undecided; empty where nothing does."""
        unclear = [rank.doubt for rank in self.ranks if rank.doubt]
        if unclear and sum(rank.clear for rank in self.ranks) < self.most:
            return unclear[0]
        if not self.settled:
            return f"{len(self.ranks)} levels did not settle it"
        return self.objection

    @property
    def margin(self) -> float:
        """Smallest ratio of a singular value that counts as nonzero to one that does not."""
        kept = [rank.kept for rank in self.ranks if rank.kept > 0]
        dropped = [max(rank.dropped, 1e-16) for rank in self.ranks if rank.dropped >= 0]
        return min(kept, default=np.inf) / max(dropped, default=TOLERANCE)

    def counted(self, name: str, value: int) -> Finding:
        """Return the finding that a number, which the trace tells, is a value."""
        levels = [rank.value for rank in self.ranks]
        holds = True if self.decided else None
        reason = "; ".join(filter(None, [added(levels), self.remark, self.doubt]))
        return replace(
            found(name, holds, value, reason, margin=self.margin), witness={"levels": levels}
        )


def added(levels: list[int]) -> str:
    """Say how many dimensions the fields span, and what each depth of brackets adds."""
    more = " + ".join(map(str, levels[1:])) or "none"
    return f"the fields span {levels[0]} dimensions, brackets add {more}"


def lie_trace(
    vectors: Vectors,
    most: int,
    *,
    patience: int = 1,
    least: int = 0,
    levels: int = MAX_LEVELS,
    likely: Sequence[int] = (),
    bounds: Sequence[int] = (),
) -> LieTrace:
    """Grow the span of the fields by brackets, level by level, until nothing is added.

    Level k has the brackets [X_k, […, [X_2, X_1]]] of random fields, as many as dimensions are
    missing and a few more [Marcotte2023]_. At a generic point a level that adds nothing is the
    last. At a special one it ends after ``patience`` idle levels, not below ``least`` dimensions.
    Ranks that the levels are ``likely`` to have, and ``bounds`` on the dimension up to each, only
    save time.
    """
    span, rank = vectors.field_span()
    ranks, idle = [rank], 0

    def settled() -> bool:
        return span.dimension == most or (idle >= patience and span.dimension >= least)

    def brackets(size: int) -> Rows:
        forms = [vectors.random_forms(size) for _ in range(len(ranks) + 1)]
        return vectors.brackets(forms, size, span if guess == vectors.spare else None)

    while not settled() and len(ranks) < levels:
        bound = [*bounds[len(ranks) :], most][0]
        if (missing := bound - span.dimension) <= 0:
            ranks.append(NOTHING)
            idle += 1
            continue
        guess = sum(likely[len(ranks) : len(ranks) + 1]) + vectors.spare
        rows = brackets(min(missing, guess))
        rank = (trial := copy(span)).extend(rows)
        # Random ones: where so many add nothing, none does.
        while trial.dimension < bound and (size := rows.shape[-2]) < rank.value + vectors.spare:
            full = rank.value == size
            wanted = missing + vectors.beyond if full else rank.value + vectors.spare
            rows = np.concatenate([rows, brackets(min(3 * size, wanted - size))], axis=-2)
            rank = (trial := copy(span)).extend(rows)
        span = trial
        ranks.append(rank)
        idle = 0 if rank.value else idle + 1
    phi = vectors.architecture.phi
    return LieTrace(span, tuple(ranks), most, settled(), None, phi.objection, phi.remark)


def exact_levels(
    fields: Any,
    point: IntArray,
    most: int,
    rng: np.random.Generator,
    *,
    patience: int = 1,
    levels: float = np.inf,
) -> tuple[list[int], float]:
    """Count the dimensions that each level of brackets adds at a point, over a prime field.

    Until ``patience`` levels add none. And bound the probability that a number is too small, as
    none is too large: a minor of R nested brackets of k fields is a polynomial of degree at most
    R k deg X in the point and the forms, and vanishes at a random one with at most degree / p. At
    a given point, where the forms alone are random, p may also divide all minors, however few do.

    Parameters
    ----------
    fields : JetFields
        In a prime field.
    """
    from flint import nmod_mat

    prime, size = fields.arithmetic.prime, len(point)
    rows, ranks, failure, idle = np.zeros((0, size), int), [0], 0.0, 0
    while ranks[-1] < most and idle < patience and len(ranks) <= levels:
        depth, rank = len(ranks), ranks[-1]
        few = min(fields.architecture.lifted_dim, size) if depth == 1 else 1
        while True:  # one that depends on the others shows that all do
            forms = [fields.random_forms(few, point, rng) for _ in range(depth)]
            rows = np.vstack([rows, fields.brackets(forms, point, few)])
            before, rank = rank, int(nmod_mat(rows.tolist(), prime).rank())
            if rank == most or rank - before < few:
                break
            few = min(3 * few, most - rank + SPARE)
        ranks.append(rank)
        idle = 0 if rank > ranks[-2] else idle + 1
        failure += min(rank + 1, size) * depth * fields.degree / prime
    return np.diff(ranks).tolist(), failure


class FlowLost(Exception):
    """A flow ran away, became too stiff to be followed, or did not move."""


def orbit_trace(vectors: Vectors, most: int) -> LieTrace:
    """Trace at θ of the Lie algebra of the fields, at special points, too.

    It has an objection where the dimension found is not that at another point of the orbit.

    References
    ----------
    Orbits of analytic fields: [Nagano1966]_; random points of them: ours.
    """
    trace = lie_trace(vectors, most)
    if not trace.decided or trace.dimension == most:
        return trace
    aside = _trace_aside(vectors)
    if aside is not None and aside.decided:
        if aside.dimension < trace.dimension:
            return replace(trace, objection="beside θ the fields span less, so φ is not analytic")
        trace = replace(trace, generic=aside.dimension)
    if trace.dimension in (0, trace.generic):
        return trace
    end = flow_end(vectors)
    if end is None:
        return replace(trace, objection="no flow could be followed to another point of its orbit")
    there = lie_trace(vectors.at(end), vectors.size)
    if there.dimension == vectors.size and there.decided:  # brackets of some level span the rest
        deeper = trace.span.extend(np.eye(vectors.size)[None])
        trace = replace(trace, ranks=(*trace.ranks, deeper))
    elif there.dimension > trace.dimension:
        longer = lie_trace(vectors, most, least=there.dimension)
        trace = replace(longer, generic=trace.generic)
    if not there.decided or there.dimension != trace.dimension:
        text = f"{trace.dimension} dimensions were found, and {there.dimension} along its orbit"
        return replace(trace, objection=text)
    return trace


def _trace_aside(vectors: Vectors) -> LieTrace | None:
    unit = vectors.fields.unit(vectors.point) / np.sqrt(vectors.theta.size)
    for length in STEPS[:_RANDOM_WAYS]:
        with suppress(NotFiniteError):
            way = length * unit * vectors.rng.standard_normal(vectors.theta.size)
            return lie_trace(vectors.at(vectors.theta + way), vectors.size)
    return None


def followed(
    velocity: Callable[[float, FloatArray], FloatArray],
    time: float,
    start: FloatArray,
    rtol: float,
    unit: float,
) -> FloatArray:
    """Follow a flow to a time, each coordinate as exactly as its size or speed at the start.

    Raises
    ------
    FlowLost
        It leads too far away, or takes too many evaluations.
    """
    evaluations, most = count(), _MAX_EVALUATIONS * (ROUGHLY / rtol) ** (1 / 8)  # of order 8

    def watched(at: float, point: FloatArray) -> FloatArray:
        near = np.max(np.abs(point - start)) < _FAR * unit
        if not near or next(evaluations) > most:
            raise FlowLost
        return velocity(at, point)

    natural = np.maximum(np.abs(start), np.abs(velocity(0.0, start)))
    atol = rtol * np.where(natural > 0, natural, unit)
    flow = solve_ivp(watched, (0.0, time), start, method="DOP853", rtol=rtol, atol=atol)
    end: FloatArray = flow.y[:, -1]
    return end


def flow_end(vectors: Vectors) -> OneTheta | None:
    """Follow a random combination of the fields, which changes with time, to a point of the orbit.

    Returns None where no flow moves, or none could be followed.
    """
    fields, start = vectors.fields, vectors.point
    forms, tones = vectors.random_forms(_CONTROLS), np.pi * np.arange(_CONTROLS)

    def velocity(time: float, point: FloatArray) -> FloatArray:
        return np.asarray(np.cos(tones * time) @ fields.values(forms, point, _CONTROLS))

    for length in STEPS if np.any(fields.values(forms, start, _CONTROLS)) else ():
        with suppress(FlowLost, NotFiniteError):
            # Whether it can be followed, a rough flow tells in a tenth of the evaluations.
            followed(velocity, length, start, ROUGHLY, fields.unit(start))
            end = followed(velocity, length, start, _RTOL, fields.unit(start))
            return vectors.theta + vectors.tangents((end - start)[None])[0]
    return None
