"""A parameter as the criteria see it: what is known at one point, found once, and its doubts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, singledispatch, wraps

import numpy as np

from liftflow.architectures import Architecture
from liftflow.criteria.fields import GradientFields
from liftflow.criteria.findings import (
    TOLERANCE,
    Finding,
    Rank,
    Verdict,
    decide,
    doubted,
    found,
    undecided,
    vanishing,
)
from liftflow.criteria.precise import PreciseVectors, needs_precision, parted
from liftflow.criteria.traces import LieTrace, lie_trace, orbit_trace
from liftflow.criteria.vectors import Rows, Span, Vectors
from liftflow.typing import FloatArray, OneTheta

BRACKET_LIMIT, MATRIX_LIMIT = 600, 1200
"""Numbers of parameters up to which brackets, and single matrices, are computed."""

FORM_LIMIT = 4_000_000
"""Number of entries of as many covectors on z as there are parameters."""

_ARRAYS = 50  # of that size, that automatic differentiation of brackets keeps
_SIDES = np.array([0.0, 1e-7, -1e-7, 1e-8, -1e-8, 1.0])  # in units, along a random way


@dataclass(frozen=True, eq=False)
class Kernel:
    """The kernel of ∂φ(θ) and other covectors: those of the laws, or of the orbit."""

    covectors: str  # what the others are
    velocities: Rows  # a basis, in the coordinates of the fields
    basis: FloatArray  # the same as unit vectors of ℝᴰ
    rank: Rank  # of all covectors together
    objection: str = ""  # what leaves it undecided beside the rank, if anything does

    @property
    def recoverable(self) -> Finding:
        """Whether the kernel is zero."""
        (dimension, dim), covectors = self.basis.shape, f"∂φ and {self.covectors}"
        holds: bool | None = not dimension
        reason = f"{covectors} determine all {dim} directions"
        value, margin = self.rank.kept, self.rank.kept / TOLERANCE
        if dimension:
            value = float(np.nan_to_num(self.rank.dropped))
            reason = f"{covectors} leave {dimension} directions of {dim} free"
            margin = self.rank.margin
        if doubt := self.rank.doubt or self.objection:
            holds, reason = None, doubt
        witness = {"dimension": dimension, "direction": self.basis[-1]} if dimension else {}
        return found("recoverable", holds, value, reason, margin=margin, witness=witness)


Fact = Callable[["View"], Finding]


def fact(
    name: str, limit: int = BRACKET_LIMIT, rank: Callable[["View"], int] = lambda view: 0
) -> Callable[[Fact], cached_property[Finding]]:
    """Let a view find something once, and leave it undecided where it cannot tell it from rounding.

    Where the scales of θ part, a verdict that generic points share is believed: there ranks are
    the largest there are. Another one may be due to a singular value lost in rounding, and high
    precision is asked, if θ is small enough for it.

    Parameters
    ----------
    name : str
        What is decided.
    limit : int
        Number of parameters up to which it is, where laws are known.
    rank : callable
        A rank that the verdict rests on, believed in floats only where generic points have it.
    """

    def told_by_floats(view: "View", find: Fact) -> Finding | None:
        floats = view.floats
        finding: Finding = getattr(floats, find.__name__)
        if finding.verdict is Verdict.UNDECIDED or rank(floats) != rank(floats.generic):
            return None
        return finding

    def decorator(find: Fact) -> cached_property[Finding]:
        @wraps(find)
        def checked(view: "View") -> Finding:
            # Where no laws are known, the Lie algebra takes their place.
            known = view.architecture.n_laws
            if reason := view.too_large(limit if known else BRACKET_LIMIT):
                return undecided(name, reason)
            if view.floats is not view and (told := told_by_floats(view, find)) is not None:
                return told
            finding = find(view)
            if finding.verdict is Verdict.UNDECIDED:
                return finding
            doubt = "φ has a kink at θ" if view.kinked else ""
            if not doubt and view.parted:
                generic = find(view.generic)
                counted = isinstance(finding.value, int)
                if finding.verdict is not generic.verdict or (
                    counted and finding.value != generic.value
                ):
                    doubt = (
                        "the scales of θ part so far that double precision cannot tell this from "
                        "generic points, where the answer is another"
                    )
            reason = f"{doubt}; it would be: {finding.reason}"
            return doubted(finding, reason) if doubt else finding

        return cached_property(checked)

    return decorator


class View:
    """What is known of an architecture at one point; all of it is found when asked for, once.

    Attributes
    ----------
    quick : bool
        Whether double precision has to do, whatever the scales of θ.
    """

    quick = False

    def __init__(
        self, architecture: Architecture, theta: OneTheta, rng: np.random.Generator
    ) -> None:
        self.architecture = architecture
        self.theta = theta
        self.rng = rng

    def at(self, theta: OneTheta) -> "View":
        """Return the view of another point."""
        view = type(self)(self.architecture, theta, self.rng)
        view.quick = self.quick
        return view

    @cached_property
    def floats(self) -> "View":
        """The view in double precision: this one, or one beside it."""
        if not isinstance(self.vectors, PreciseVectors):
            return self
        view = self.at(self.theta)
        view.quick = True
        return view

    @cached_property
    def generic(self) -> "View":
        """The view of a random point."""
        return self.at(np.asarray(self.architecture.random_point(rng=self.rng)))

    @cached_property
    def vectors(self) -> Vectors:
        """Fields, brackets and laws, in high precision only where the scales of θ part."""
        kind = PreciseVectors if self._precise and not self.quick else Vectors
        return kind(self.architecture, self.theta, self.rng, self._floats.fields)

    @cached_property
    def _floats(self) -> Vectors:
        return Vectors(self.architecture, self.theta, self.rng)

    @cached_property
    def _precise(self) -> bool:
        floats = self._floats
        return needs_precision(floats.fields, floats.point, lambda: self._apart(floats))

    # What may be lost in double precision, cannot be differentiated, or takes too long.

    @cached_property
    def parted(self) -> bool:
        """Whether θ has weights of such different scales that double precision hides some.

        A rescaling that multiplies weights by c and leaves φ alone divides their columns of ∂φ by
        c.
        """
        if isinstance(self.vectors, PreciseVectors):
            return False
        return self._precise or self._apart(self.vectors)

    def _apart(self, vectors: Vectors) -> bool:
        return parted(vectors.scale)

    @cached_property
    def kinked(self) -> bool:
        """Whether the derivative of a lift that is only evaluated jumps at θ."""
        fields, theta, rng = self.vectors.fields, self.theta, self.rng
        if fields.analytic:
            return False
        way = fields.unit(theta) / np.sqrt(theta.size) * rng.standard_normal(theta.size)
        form = rng.standard_normal((1, *self.architecture.lifted_shape))
        with np.errstate(all="ignore"):
            values = np.asarray(fields.field(form, theta + _SIDES[:, None] * way))
            jump, closer = np.linalg.norm(values[[1, 3]] - values[[2, 4]], axis=1)
            size = np.nanmax(np.linalg.norm(values[[0, 1, 5]], axis=1))
        return bool(closer > max(0.5 * jump, 1e-6 * size))  # what is smooth shrinks with distance

    def too_large(self, limit: int = BRACKET_LIMIT) -> str:
        """Tell what a criterion would take, if that is too much; empty where it can be computed."""
        return too_large(self.architecture, self.vectors.fields, limit)

    # The Lie algebra, the laws, and the kernels.

    @cached_property
    def trace(self) -> LieTrace:
        """Trace at θ of the Lie algebra that the fields generate."""
        if isinstance(self.vectors, PreciseVectors):
            return lie_trace(self.vectors, patience=2)
        return orbit_trace(self.vectors)

    @cached_property
    def law_rank(self) -> Rank:
        """Rank of ∂h(θ), its columns scaled to compensate those of ∂φ(θ)."""
        vectors = self.vectors
        return vectors.span().extend(vectors.scaled(vectors.law_rows, vectors.scale))

    @cached_property
    def kernel(self) -> Kernel:
        """The kernel of ∂φ(θ) and ∂h(θ); of ∂φ(θ) in the orbit of θ where no laws are known."""
        if self.architecture.n_laws:
            return self._kernel("∂h", self.vectors.law_rows)
        trace, kernel = self.trace, self.orbit_kernel
        if len(kernel.basis) or trace.generic == trace.dimension or kernel.objection:
            return kernel
        if trace.dimension == self.vectors.size:
            return kernel
        smaller = (
            f"the orbit of θ has {trace.dimension} dimensions, those beside it "
            f"{'others' if trace.generic is None else trace.generic}, and laws may leave as "
            "many free at θ"
        )
        return replace(kernel, objection=smaller)

    @cached_property
    def orbit_kernel(self) -> Kernel:
        """The kernel of ∂φ(θ) in the tangent space of all that flows from θ can reach.

        That is the trace of the Lie algebra, which is in ker ∂h and fills it where the laws are
        complete.
        """
        across = self.vectors.scaled(self.trace.span.complement(), 1 / self.vectors.scale)
        return self._kernel("the trace of the Lie algebra", across, self.trace.doubt)

    def _kernel(self, covectors: str, rows: Rows, objection: str = "") -> Kernel:
        """Stack covectors on those of ∂φ, scaled so that no unit of θ or of a row matters."""
        vectors, span = self.vectors, self.vectors.span()
        rows = vectors.scaled(rows, 1 / vectors.scale)
        rank = span.extend(np.concatenate([vectors.field_vectors, rows], axis=-2))
        velocities = vectors.velocities(span)
        basis = vectors.tangents(vectors.plain(velocities))
        basis = basis / np.linalg.norm(basis, axis=1, keepdims=True)
        return Kernel(covectors, velocities, basis, rank, objection)

    # The criteria.

    @fact("recoverable", MATRIX_LIMIT)
    def recoverable(self) -> Finding:
        """Whether ker ∂φ ∩ ker ∂h = {0}."""
        return self.kernel.recoverable

    @fact("kernel inclusion", MATRIX_LIMIT, lambda view: len(view.kernel.basis))
    def inclusion(self) -> Finding:
        """Whether M does not change along ker ∂φ ∩ ker ∂h."""
        recoverable = self.kernel.recoverable
        if recoverable.verdict is Verdict.FAILS:
            return self._inclusion(self.kernel)
        return inclusion_of_nothing(recoverable)

    def _inclusion(self, kernel: Kernel) -> Finding:
        """Decide whether M does not change along a kernel that is not zero."""
        changes, decisive = self.vectors.gram_changes(kernel.velocities)
        worst = int(np.argmax(changes))
        value, witness = float(changes[worst]), {"direction": kernel.basis[worst]}
        yes = f"M does not change along the {len(changes)} directions of the kernel"
        no = "M changes along a direction that neither z nor h sees, relatively by "
        unclear = f"M changes along the kernel by {decisive:.1e}: neither zero nor clearly not"
        reasons = yes, f"{no}{value:.1g}", unclear
        return vanishing("kernel inclusion", decisive, value, reasons, witness)

    @fact("frobenius", rank=lambda view: view.vectors.field_span()[1].value)
    def frobenius(self) -> Finding:
        """Whether brackets lie in the span of the fields."""
        span, rank = self.vectors.field_span()
        yes = "all brackets lie in the span of the fields"
        no = "the bracket of two fields leaves their span"
        finding = self._brackets_vanish("frobenius", span, yes, no)
        return (
            finding if rank.decided else doubted(finding, f"the span of the fields: {rank.doubt}")
        )

    @fact("commuting")
    def commuting(self) -> Finding:
        """Whether brackets vanish."""
        yes, no = "all fields commute", "two fields do not commute"
        return self._brackets_vanish("commuting", self.vectors.span(), yes, no)

    def _brackets_vanish(self, name: str, span: Span, yes: str, no: str) -> Finding:
        """Decide whether the part of every bracket outside a span vanishes."""
        value, decisive = self.vectors.largest(span.outside(self.vectors.simple_brackets))
        witness = self._worst_pair(span) if decide(decisive) is False else {}
        unclear = f"a part of {decisive:.1e} is neither zero nor clearly not"
        return vanishing(name, decisive, value, (yes, no, unclear), witness)

    def _worst_pair(self, span: Span) -> dict[str, object]:
        """Find two entries of z whose bracket shows the failure, among all or many of them."""
        if self.vectors.entry_brackets is None:
            return {}
        pairs, brackets = self.vectors.entry_brackets
        found = self.vectors.lengths(span.outside(brackets))
        worst = int(np.argmax(found))
        entries = np.unravel_index(pairs[worst], self.architecture.lifted_shape)
        return {"entries": np.transpose(entries).tolist(), "size": float(found[worst])}

    @fact("dimension of the Lie algebra")
    def dimension(self) -> Finding:
        """Dimension of the trace of the Lie algebra."""
        return self.trace.counted("dimension of the Lie algebra", self.trace.dimension)

    @fact("laws complete")
    def complete(self) -> Finding:
        """Whether rank ∂h = D − dim Lie."""
        dimension, known, dim = self.dimension, self.law_rank, self.architecture.dim
        total = dim - int(dimension.value)
        missing = total - known.value
        decided = dimension.verdict is Verdict.HOLDS and known.decided
        return found(
            "laws complete",
            missing == 0 if decided else None,
            missing,
            f"{known.value} known laws are independent here, of D − dim Lie = {dim} − "
            f"{dimension.value} = {total}",
            margin=min(dimension.margin, known.margin),
            tolerance=dimension.tolerance,
            witness={"missing": missing},
        )

    @cached_property
    def in_orbit(self) -> tuple[Finding, Finding]:
        """Recoverability and the kernel inclusion in the orbit, all that flows can reach (ours).

        The second is undecided also where ∂φ has a smaller rank than elsewhere, so that its
        kernel at θ may not be that of points close by.
        """
        if reason := self.too_large():
            return (unknown := undecided("recoverable", reason)), unknown
        if self.floats is not self and self.floats.in_orbit[0].verdict is not Verdict.UNDECIDED:
            return self.floats.in_orbit
        recoverable = self.orbit_kernel.recoverable
        if self.kinked or (self.parted and not (self._precise and self._largest_ranks)):
            reason = "φ has a kink at θ, or the scales of θ part too far for double precision"
            recoverable = doubted(recoverable, reason)
        if recoverable.verdict is not Verdict.FAILS:
            return recoverable, recoverable
        inclusion = self._inclusion(self.orbit_kernel)
        here, elsewhere = (view.vectors.field_span()[1] for view in (self, self.generic))
        if here.value == elsewhere.value and here.decided and elsewhere.decided:
            return recoverable, inclusion
        reason = f"∂φ has the rank {here.value} here and {elsewhere.value} elsewhere"
        return recoverable, doubted(inclusion, reason)

    @cached_property
    def _largest_ranks(self) -> bool:
        """Whether the fields and their Lie algebra have the dimensions of generic points."""
        here, elsewhere = (
            (view.trace.dimension, view.vectors.field_span()[1].value)
            for view in (self, self.generic)
        )
        return here == elsewhere and self.trace.decided


def inclusion_of_nothing(recoverable: Finding) -> Finding:
    """State the kernel inclusion where the kernel is zero, or where that is undecided."""
    holds = recoverable.verdict is Verdict.HOLDS
    return replace(
        recoverable,
        name="kernel inclusion",
        value=0.0 if holds else recoverable.value,
        reason="the kernel is zero" if holds else f"the kernel: {recoverable.reason}",
    )


def too_large(architecture: Architecture, fields: GradientFields, limit: int) -> str:
    """Tell what a criterion would take, if that is too much; empty where it can be computed."""
    dim, forms = architecture.dim, 0
    if not fields.analytic:
        forms = dim * architecture.phi.per_covector
    if dim <= limit and forms <= FORM_LIMIT:
        return ""
    return (
        f"with {dim:,} parameters and {architecture.lifted_dim:,} entries of z it would take about "
        f"{8e-9 * _ARRAYS * max(dim**2, forms):.1g} GB and {200e-12 * dim**3:.1g}·10¹² operations; "
        f"up to {limit:,} parameters and {FORM_LIMIT:,} entries of ∂φ are looked at"
    )


@singledispatch
def view_of(architecture: Architecture, theta: OneTheta, rng: np.random.Generator) -> View:
    """Return the view of an architecture at a point; a family with a better one registers it."""
    return View(architecture, theta, rng)
