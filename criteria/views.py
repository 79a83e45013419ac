"""A parameter as the criteria see it: what is known at one point, found once, and its doubts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, singledispatch, wraps
from typing import Any, TypeVar

import numpy as np
from scipy.stats import gmean

from liftflow.architectures import Architecture, DeepLinear
from liftflow.criteria.fields import GradientFields
from liftflow.criteria.findings import Finding, Verdict, decide, doubted, found, undecided, vanishes
from liftflow.criteria.precise import PreciseVectors, needs_precision, precise_trace
from liftflow.criteria.traces import LieTrace, orbit_trace
from liftflow.criteria.vectors import Vectors
from liftflow.ranks import TOLERANCE, ZERO, Rank, Rows, Span
from liftflow.typing import FloatArray, OneTheta

BRACKET_LIMIT, MATRIX_LIMIT = 600, 1200
"""Numbers of parameters up to which brackets, and single matrices, are computed."""

FORM_LIMIT = 4_000_000
"""Number of entries of as many covectors on z as there are parameters."""

_ARRAYS = 50  # of that size, that automatic differentiation of brackets keeps
_SIDES = np.array([0.0, 1e-7, -1e-7, 1e-8, -1e-8, 1.0])  # in units, along a random way


@dataclass(frozen=True, eq=False)
class Kernel:
    """What of the kernel of ∂φ(θ) and other covectors is clear: those of laws, or of the orbit."""

    others: str  # what they are
    velocities: Rows  # a basis, in the coordinates of the fields
    basis: FloatArray  # the same as unit vectors of ℝᴰ
    rank: Rank  # of all covectors together
    objection: str = ""  # what leaves it undecided beside the rank, if anything does

    @property
    def doubt(self) -> str:
        """What leaves it open whether this is all of it."""
        return self.objection or self.rank.doubt

    @property
    def recoverable(self) -> Finding:
        """Whether the kernel is zero."""
        (dimension, dim), covectors = self.basis.shape, f"∂φ and {self.others}"
        holds: bool | None = not dimension
        reason = f"{covectors} determine all {dim} directions"
        value, margin = self.rank.kept, self.rank.kept / TOLERANCE
        if dimension:
            value = float(np.nan_to_num(self.rank.dropped))
            reason = f"{covectors} leave {dimension} directions of {dim} free"
            margin = self.rank.margin
        if self.doubt and (self.objection or self.rank.vague >= dim):
            holds, reason = None, self.doubt
        witness = {"dimension": dimension, "direction": self.basis[-1]} if dimension else {}
        return found("recoverable", holds, value, reason, margin=margin, witness=witness)


T = TypeVar("T")
Fact = Callable[["View"], Finding]


def _within(find: Callable[["View"], T]) -> Callable[["View"], T]:
    """Compute in the numbers of the vectors."""

    @wraps(find)
    def found_within(view: "View") -> T:
        with view.vectors.numbers:
            return find(view)

    return found_within


def looked(find: Callable[["View"], T]) -> cached_property[T]:
    """Let a view compute something once, in the numbers of its vectors."""
    return cached_property(_within(find))


def fact(
    name: str,
    limit: int = BRACKET_LIMIT,
    rank: Callable[["View"], object] = lambda view: 0,
    implied: Callable[["View"], dict[str, Any]] | None = None,
) -> Callable[[Fact], cached_property[Finding]]:
    """Let a view find something once, and leave it undecided where it cannot tell it from rounding.

    Up to ``limit`` parameters, or as ``implied`` says where recoverability tells. Where the scales
    of θ part, a verdict that generic points share is believed if the ``rank`` that it rests on is
    theirs, as there ranks are the largest there are. Another one may be due to a singular value
    lost in rounding, and high precision is asked, if θ is small enough for it.
    """

    def decorator(find: Fact) -> cached_property[Finding]:
        look = _within(find)

        @wraps(find)
        def checked(view: "View") -> Finding:
            if implied and view.tells:
                told = {"name": name, "value": 0.0, **implied(view)}
                told["reason"] += f": {view.recoverable.reason}"
                return replace(view.recoverable, **told)
            # Where no laws are known, the Lie algebra takes their place.
            known = view.architecture.n_laws
            if reason := view.too_large(limit if known else BRACKET_LIMIT):
                return undecided(name, reason)
            if (floats := view.floats) is not view:
                seen: Finding = getattr(floats, find.__name__)
                if seen.verdict is not Verdict.UNDECIDED and rank(floats) == rank(floats.generic):
                    return seen
            finding = look(view)
            if finding.verdict is Verdict.UNDECIDED:
                return finding
            doubt = "φ has a kink at θ" if view.kinked else ""
            alone = not isinstance(view.vectors, PreciseVectors) and view.vectors.apart
            if not doubt and alone and not finding.agrees(look(view.generic)):
                doubt = "the scales of θ part so far that double precision cannot tell this from "
                doubt += "generic points, where the answer is another"
            reason = f"{doubt}; it would be: {finding.reason}"
            return doubted(finding, reason) if doubt else finding

        return cached_property(checked)

    return decorator


class View:
    """What is known of an architecture at one point; all of it is found when asked for, once."""

    quick = False
    """Whether double precision has to do, whatever the scales of θ."""

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
        plain = Vectors(self.architecture, self.theta, self.rng)
        if self.quick or not needs_precision(plain):
            return plain
        return PreciseVectors(self.architecture, self.theta, self.rng, plain.fields)

    # What may be lost in double precision, cannot be differentiated, or takes too long.

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

    @property
    def tells(self) -> bool:
        """Whether recoverability tells the rest: range ∂φᵀ is all of ker ∂h, with all brackets."""
        laws, holds = self.architecture.n_laws, Verdict.HOLDS
        return laws > 0 and self.recoverable.verdict is holds and self.vectors.conserved

    @looked
    def law_rank(self) -> Rank:
        """Rank of ∂h(θ); where floats find that of generic points, the largest, it is right."""
        told = self.floats.vectors.law_rank
        if self.floats is self or not told.decided:
            return self.vectors.law_rank
        largest = told.value == self.generic.floats.vectors.law_rank.value
        return told if largest else self.vectors.law_rank

    @property
    def most(self) -> int:
        """Dimension that laws leave to the Lie algebra at most."""
        known = self.architecture.n_laws and self.vectors.conserved and self.law_rank.decided
        return self.architecture.dim - (self.law_rank.value if known else 0)

    @looked
    def trace(self) -> LieTrace:
        """Trace at θ of the Lie algebra that the fields generate."""
        if isinstance(self.vectors, PreciseVectors):
            return precise_trace(self.vectors, self.most, vars(self.floats).get("trace"))
        return orbit_trace(self.vectors, self.most)

    @looked
    def kernel(self) -> Kernel:
        """The kernel of ∂φ(θ) and ∂h(θ); of ∂φ(θ) in the orbit of θ where no laws are known."""
        if self.architecture.n_laws:
            return self._kernel("∂h", self.vectors.law_rows)
        trace, kernel = self.trace, self.orbit_kernel
        full = trace.dimension in (trace.generic, self.vectors.size)
        if len(kernel.basis) or full or kernel.objection:
            return kernel
        smaller = (
            f"the orbit of θ has {trace.dimension} dimensions, those beside it "
            f"{'others' if trace.generic is None else trace.generic}, and laws may leave as "
            "many free at θ"
        )
        return replace(kernel, objection=smaller)

    @looked
    def orbit_kernel(self) -> Kernel:
        """The kernel of ∂φ(θ) in the trace of the Lie algebra, tangent to what flows can reach."""
        trace = self.trace
        if isinstance(self.vectors, PreciseVectors) and self._believed:
            told = vars(self.floats).get("trace")
            trace = precise_trace(self.vectors, self.most, told, spanned=True)
        across = self.vectors.scaled(trace.span.complement(), -1)
        return self._kernel("the trace of the Lie algebra", across, trace.doubt)

    def _kernel(self, others: str, rows: Rows, objection: str = "") -> Kernel:
        """Stack covectors on those of ∂φ, scaled so that no unit of θ or of a row matters."""
        vectors, span = self.vectors, self.vectors.span()
        covectors = np.concatenate([vectors.field_vectors, vectors.scaled(rows, -1)], axis=1)
        rank = span.extend(covectors, ZERO)
        velocities = vectors.velocities(span)
        return Kernel(others, velocities, vectors.plain(velocities), rank, objection)

    # The criteria.

    @fact("recoverable", MATRIX_LIMIT)
    def recoverable(self) -> Finding:
        """Decide intrinsic recoverability at θ [MPG]_: ker ∂φ(θ) ∩ ker ∂h(θ) = {0}.

        The value is the singular value of ∂φ and ∂h, stacked and balanced, that decides; the
        witness a common direction of the kernels. For a ReLU network the graph alone decides,
        whatever its size: then the value is the smallest eigenvalue of its Laplacian scaled to a
        unit diagonal, and the witness names the dead parameters.
        """
        return self.kernel.recoverable

    @fact(
        "kernel inclusion",
        MATRIX_LIMIT,
        lambda view: len(view.kernel.basis),
        lambda view: {"reason": "the kernel is zero"},
    )
    def inclusion(self) -> Finding:
        r"""Decide ker ∂φ(θ) ∩ ker ∂h(θ) ⊆ ker ∂M(θ), which the metric property needs [MPG]_.

        Matrix-free: :math:`⟨g', M g⟩ = ⟨X_{g'}, X_g⟩` with the fields :math:`X_g = ∂φ^\top g`, so
        ∂M along a direction takes the derivatives of random fields along it, never M.

        The value is the largest change of ⟨X_g', X_g⟩ along the kernel, relative to its terms;
        the witness a direction along which M changes.
        """
        return self._inclusion(self.kernel)

    def _inclusion(self, kernel: Kernel) -> Finding:
        """Decide whether M does not change along a kernel."""
        if kernel.recoverable.verdict is not Verdict.FAILS:
            return inclusion_of_nothing(kernel.recoverable)
        changes, decisive = self.vectors.gram_changes(kernel.velocities)
        worst = int(np.argmax(changes))
        value, witness = float(changes[worst]), {"direction": kernel.basis[worst]}
        yes = f"M does not change along the {len(changes)} directions of the kernel"
        no = "M changes along a direction that neither z nor h sees, relatively by "
        unclear = f"M changes along the kernel by {decisive:.1e}: neither zero nor clearly not"
        reasons = yes, f"{no}{value:.1g}", unclear
        finding = vanishes("kernel inclusion", decisive, value, reasons, witness)
        holds = finding.verdict is Verdict.HOLDS
        return doubted(finding, kernel.doubt) if holds and kernel.doubt else finding

    @fact(
        "frobenius",
        rank=lambda view: view.vectors.field_span()[1].value,
        implied=lambda view: {"reason": "range ∂φᵀ is ker ∂h, which holds all brackets"},
    )
    def frobenius(self) -> Finding:
        """Decide the Frobenius property at θ: [∇φ_i, ∇φ_j](θ) ∈ span{∇φ_k(θ)} for all i and j.

        The value is the largest distance of a bracket to the span [MPG]_, relative to its terms;
        the witness two entries of z whose fields have a bracket outside.
        """
        span, rank = self.vectors.field_span()
        yes = "all brackets lie in the span of the fields"
        no = "the bracket of two fields leaves their span"
        finding = self._vanish("frobenius", span, yes, no)
        doubt = f"the span of the fields: {rank.doubt}"
        return finding if rank.decided else doubted(finding, doubt)

    @fact("commuting")
    def commuting(self) -> Finding:
        """Decide whether the fields commute at θ [Li2022]_: [∇φ_i, ∇φ_j](θ) = 0 for all i and j.

        The value is the size of the largest bracket, relative to its terms; the witness two
        entries of z whose fields do not commute.
        """
        span = self.vectors.span()
        return self._vanish("commuting", span, "all fields commute", "two fields do not commute")

    def _vanish(self, name: str, span: Span, yes: str, no: str) -> Finding:
        """Decide whether the part of every bracket outside a span vanishes.

        Two entries of z whose bracket is outside show the failure, the worst of all or many.
        """
        vectors, witness = self.vectors, {}
        for brackets in vectors.simple_brackets():
            value, decisive = vectors.largest(span.outside(brackets))
            if decide(decisive) is False:
                break
        if decide(decisive) is False and vectors.entry_brackets is not None:
            pairs, brackets = vectors.entry_brackets
            sizes = vectors.lengths(span.outside(brackets))
            worst = int(np.argmax(sizes))
            entries = np.unravel_index(pairs[worst], self.architecture.lifted_shape)
            witness = {"entries": np.transpose(entries).tolist(), "size": float(sizes[worst])}
        unclear = f"a part of {decisive:.1e} is neither zero nor clearly not"
        return vanishes(name, decisive, value, (yes, no, unclear), witness)

    @fact(
        "dimension of the Lie algebra",
        implied=lambda view: {
            "reason": "the fields span D less one for each independent law",
            "value": view.most,
            "witness": {"levels": [view.most]},
        },
    )
    def dimension(self) -> Finding:
        """Dimension of the trace at θ of the Lie algebra generated by the fields ∇φ_i.

        The value is the dimension [Marcotte2023]_, an int; it holds where all ranks are clear. The
        witness has the dimensions that each level of brackets adds.
        """
        return self.trace.counted("dimension of the Lie algebra", self.trace.dimension)

    @fact(
        "laws complete",
        implied=lambda view: {"reason": "range ∂φᵀ and range ∂hᵀ fill ℝᴰ", "value": 0},
    )
    def complete(self) -> Finding:
        """Decide whether the known laws are all there are at θ: rank ∂h(θ) = D − dim Lie(∇φ)(θ).

        The value is the number of missing laws, an int [Marcotte2023]_.
        """
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

    # The first two again, in the orbit, all that flows can reach (ours).

    @fact("recoverable", rank=lambda view: view._ranks)
    def _orbit_recoverable(self) -> Finding:
        return self.orbit_kernel.recoverable

    @fact("kernel inclusion", rank=lambda view: view._ranks)
    def _orbit_inclusion(self) -> Finding:
        return self._inclusion(self.orbit_kernel)

    @property
    def _believed(self) -> bool:  # that is, whether deep levels are counted, but not spanned
        precise = isinstance(self.vectors, PreciseVectors)
        return precise and self.trace.span.dimension < self.trace.dimension

    @property
    def _ranks(self) -> tuple[int, int]:
        return self.trace.dimension, self.vectors.field_span()[1].value

    @cached_property
    def in_orbit(self) -> tuple[Finding, Finding]:
        """Recoverability and the kernel inclusion in the orbit, this only where ∂φ is generic."""
        if self.complete.verdict is Verdict.HOLDS:  # the orbit is open in the set of the laws
            recoverable, inclusion = self.recoverable, self.inclusion
        elif self._believed and self.trace.decided and self.floats.special and self.special:
            reason = "the orbit of θ has more dimensions than ∂φ has rank"
            recoverable = inclusion = found("recoverable", False, 0.0, reason)
        else:
            recoverable, inclusion = self._orbit_recoverable, self._orbit_inclusion
        if recoverable.verdict is Verdict.FAILS and self.floats.special and self.special:
            return recoverable, doubted(inclusion, self.special)
        return recoverable, inclusion

    @looked
    def special(self) -> str:
        """Tell that ∂φ may have another rank than at generic points, and so close by, if it may."""
        here, elsewhere = (view.vectors.field_span()[1] for view in (self, self.generic))
        same = here.value == elsewhere.value and here.decided and elsewhere.decided
        return "" if same else f"∂φ has the rank {here.value} here and {elsewhere.value} elsewhere"


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
    dim = architecture.dim
    forms = dim * architecture.phi.per_covector if fields.listed else 0
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


@view_of.register
def _(architecture: DeepLinear, theta: OneTheta, rng: np.random.Generator) -> View:
    sizes = np.array([np.max(np.abs(layer)) for layer in architecture.layers(theta)])
    typical = gmean(sizes[sizes > 0]) if np.any(sizes) else 1.0
    unit = architecture._unit_of(typical, 4 * len(architecture.widths))
    unit = 2.0 ** np.round(np.log2(unit))  # so that what cancels does so after it
    return View(architecture, theta / unit, rng)


@singledispatch
def count_told(
    architecture: Architecture, loss: object, rng: np.random.Generator
) -> Finding | None:
    """Return the number of laws, of a loss or of all, of a family that registers its own count."""
    return None
