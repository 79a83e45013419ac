"""The metric and the dynamic property, and the search for a pair of flows that refutes them."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.optimize import least_squares

from liftflow.architectures import Architecture
from liftflow.architectures.recovery import with_lift_and_laws
from liftflow.criteria.fields import GradientFields, gradient_fields
from liftflow.criteria.findings import (
    Finding,
    Verdict,
    decide,
    doubted,
    found,
    margin_to_zero,
    undecided,
)
from liftflow.criteria.traces import ROUGHLY, STEPS, FlowLost, flow_end, followed
from liftflow.criteria.views import FORM_LIMIT, View
from liftflow.doors import door
from liftflow.errors import NotRecoverableError
from liftflow.ranks import TOLERANCE
from liftflow.typing import FloatArray, OneLiftedTangent, OneTheta, Rng, as_array, as_rng

SEARCH_LIMIT = 100
"""Number of entries of z up to which a counter-example is searched for."""

SAME, OTHER = 1e-8, 1e-6
"""Relative differences of M from which flows or walks of rtol 1e-11 tell equal from different."""

_RTOL, _TOLD = 1e-11, 1e-4  # of flows; relative change of M at their ends that is no error
_MATCH = 1e-8  # distance of two z, in units of their terms and way, up to which they are the same
_CLOSE = 1e-5  # such a distance, to which rough flows bring them if exact ones will do the rest
_WALK, _MAX_STEPS, _LAST_STEPS = 20, 20, 6  # of solvers: for a walk; by rough, then exact flows
_N_POINTS, _TRIES, _SLOPE = 3, 3, 1e-6  # of flows; of pairs of losses; step of differences


def metric(view: View) -> Finding:
    """Decide the intrinsic metric property of θ₀: M(θ) = K_θ₀(φ(θ)) for all θ in 𝓜_θ₀.

    Close to θ₀ it holds where θ₀ is recoverable. Else two things are checked at θ₀ and at points
    of 𝓜_θ₀ that random flows lead to: the kernel inclusion, necessary, and sufficient where the
    fibres of φ in 𝓜_θ₀ are connected and of constant dimension; and that M is the same at the
    end of a walk inside the fibre.

    The value is the largest change of M that was found, relative to its terms. The property is
    that of [MPG]_, the check along fibres ours.
    """
    recoverable = view.recoverable
    if recoverable.verdict is not Verdict.FAILS:
        reason = f"recoverability is undecided: {recoverable.reason}"
        if recoverable.verdict is Verdict.HOLDS:
            reason = "implied by recoverability, and so for θ close to θ₀: what other points of "
            reason += "𝓜_θ₀ have the same z is not looked at"
        return replace(recoverable, name="metric", value=0.0, reason=reason)
    points, where = [view], "at θ₀"
    for _ in range(_N_POINTS + 1):
        finding = points[-1].inclusion
        if finding.verdict is not Verdict.HOLDS:
            witness = {**finding.witness, "point": points[-1].theta} if finding.witness else {}
            reason = f"the kernel inclusion {where}: {finding.reason}"
            finding = replace(finding, name="metric", reason=reason, witness=witness)
            told = len(points) == 1 or finding.value > _TOLD
            return finding if told else doubted(finding, f"{reason}, as far as the flow is exact")
        if reason := view.too_large():
            return undecided("metric", f"the kernel inclusion holds at θ₀; elsewhere, {reason}")
        where = "at a point of 𝓜_θ₀ that a flow leads to"
        if len(points) <= _N_POINTS and (end := flow_end(view.vectors)) is not None:
            points.append(view.at(end))
    worst = max((point.inclusion for point in points), key=lambda finding: finding.value)
    walks = [end for point in points for end in _fibre_walk(point)]
    fields, rng = view.vectors.fields, view.rng
    change = max((_gram_difference(fields, rng, *walk) for walk in walks), default=0.0)
    same = decide(change, zero=SAME, nonzero=OTHER)
    reason = f"kernel inclusion at {len(points)} points of 𝓜_θ₀"
    if view.architecture.n_laws:
        reason += f"; M changes by {change:.0e} along {len(walks)} walks inside the fibre"
    return found(
        "metric",
        same,
        max(worst.value, change),
        reason,
        margin=worst.margin if same else margin_to_zero(change),
        tolerance=TOLERANCE if same else OTHER,
        witness={"points": walks[-1][:2]} if walks else {},
    )


def _fibre_walk(view: View) -> list[tuple[FloatArray, ...]]:
    """Step along the kernel, and come back to the same (φ, h): the ends, and where the step led."""
    architecture, basis, theta = view.architecture, view.kernel.basis, view.theta
    if not architecture.n_laws or not len(basis):
        return []
    direction = view.rng.standard_normal(len(basis)) @ basis
    moved = theta + STEPS[0] * np.linalg.norm(theta) / np.linalg.norm(direction) * direction
    z, laws = architecture.lift(theta), architecture.conservation_laws(theta)
    try:
        found = with_lift_and_laws(architecture.phi, architecture.h, z, laws, moved, _WALK)
    except (NotRecoverableError, np.linalg.LinAlgError):
        return []
    return [(theta, found, moved)]


def dynamic(view: View, known: Finding | None = None) -> Finding:
    """Decide the intrinsic dynamic property of θ₀: along every flow from it, M depends on z alone.

    Implied by the metric property. Where that fails, what flows can reach decides, the orbit of
    θ₀ under the fields ∇φ_i, whose tangents are the trace of the Lie algebra they generate. If ∂φ
    is injective on them, z determines θ in the orbit, at least locally, and the property holds as
    far as points tell, like the metric property where θ₀ is recoverable. If M changes along a
    kernel of ∂φ in them, at a point where the rank of ∂φ is maximal, it fails: the flows fill an
    open part of the orbit [Krener1974]_, so they reach points of one fibre with different M. Both
    hold for an analytic φ. To show such a pair, two losses are searched for.

    The value is the relative difference of M; the witness has the two losses, or where none were
    found, or the scales of θ part, a direction along which M changes. The property is that of
    [MPG]_, the argument by orbits and the search ours.
    """
    implied = metric(view) if known is None else known
    if implied.verdict is Verdict.HOLDS:
        reason = f"implied by the metric property: {implied.reason}"
        return replace(implied, name="dynamic", reason=reason)
    recoverable, inclusion = view.in_orbit
    if recoverable.verdict is Verdict.HOLDS:
        reason = "z determines θ in its orbit, locally, though not among all points with its laws"
        return replace(recoverable, name="dynamic", value=0.0, reason=reason)
    refuted = inclusion.verdict is Verdict.FAILS
    reason = "M changes inside the fibres of φ in the orbit of θ, of which flows reach an open part"
    if refuted and view.floats is not view:  # flows in double precision show it less clearly
        return replace(inclusion, name="dynamic", reason=reason)
    tries = 1 if refuted else _TRIES
    example = find_counter_example(view.architecture, view.theta, max_tries=tries, rng=view.rng)
    if refuted and not example.found:
        reason = f"{reason} ({example.describe()})"
        return replace(inclusion, name="dynamic", reason=reason)
    return found(
        "dynamic",
        False if example.found else None,
        example.gap,
        example.describe(),
        margin=example.gap / OTHER if example.found else 1.0,
        tolerance=OTHER,
        witness=example.losses(),
    )


@dataclass(frozen=True, eq=False)
class CounterExample:
    r"""Two losses whose flows from θ₀ reach the same z at time 1.

    The first is :math:`⟨c_1, z⟩`, the second :math:`⟨c_2, z⟩ + κ ⟨a, z − z_0⟩^2 / 2`.

    Attributes
    ----------
    gap, mismatch : float
        Relative difference of M, by random probes; distance of the two z, each entry relative to
        its terms, and to the way that z went.
    slope1, slope2, axis, curvature : OneLiftedTangent, float
        The vectors c_1, c_2 and a, and the number κ.
    theta1, theta2 : OneTheta
        Ends of the two flows.
    tries, evaluations : int
        What the search took.
    """

    gap: float
    mismatch: float
    slope1: OneLiftedTangent
    slope2: OneLiftedTangent
    axis: OneLiftedTangent
    curvature: float
    theta1: OneTheta
    theta2: OneTheta
    tries: int
    evaluations: int

    @property
    def found(self) -> bool:
        """Whether the two z are the same, and M is not."""
        return self.mismatch <= _MATCH and self.gap >= OTHER

    def describe(self) -> str:
        """Return one sentence."""
        effort = f"{self.tries} {'try' if self.tries == 1 else 'tries'}, {self.evaluations} flows"
        if self.found:
            return (
                "the flows of ⟨c₁, z⟩ and ⟨c₂, z⟩ + κ⟨a, z − z₀⟩²/2 reach the same z at time 1 (to "
                f"{self.mismatch:.0e}) with M apart by {self.gap:.1g}, relatively ({effort})"
            )
        if self.tries:
            return f"no two losses found that refute it, in {effort}; largest gap {self.gap:.1e}"
        return f"no search: z has over {SEARCH_LIMIT} entries, θ is too long, or no flow moves it"

    def losses(self) -> dict[str, object]:
        """Return the two losses, by name."""
        own = {"c1": self.slope1, "c2": self.slope2, "kappa": self.curvature, "a": self.axis}
        return {"times": [1.0, 1.0], **own, "mismatch": self.mismatch, "gap": self.gap}


@door
def find_counter_example(
    architecture: Architecture, theta: OneTheta, *, max_tries: int = _TRIES, rng: Rng = 0
) -> CounterExample:
    """Search for two losses whose flows from θ₀ reach the same z with different M, by shooting.

    The first flow is that of a random linear loss. The second has a random curved part, and its
    linear part is solved for, so that both end at the same z.

    Of ``max_tries`` random pairs of losses, the first that refutes the dynamic property is
    returned, else the one with the largest gap.
    """
    theta = as_array(theta, "theta", (architecture.dim,), batch=False, differentiable=False)
    rng = as_rng(rng)
    zero = np.broadcast_to(0.0, architecture.lifted_shape)  # z may be too long to be held
    best = CounterExample(0.0, np.inf, zero, zero, zero, 0.0, theta, theta, 0, 0)
    size = architecture.lifted_dim
    if size > SEARCH_LIMIT or size * architecture.dim > FORM_LIMIT or not np.any(theta):
        return best
    flows, number, steps = 0, 0, list(STEPS)
    while number < max_tries and not best.found and steps:
        try:
            example = _shoot(architecture, theta, rng, steps[0])
        except FlowLost:
            del steps[0]
            continue
        number, flows = number + 1, flows + example.evaluations
        if example.mismatch > _MATCH:
            del steps[0]  # closer to θ₀ the two ends are easier to bring together
        elif example.gap >= best.gap:
            best = example
    return replace(best, tries=number, evaluations=flows)


def _shoot(
    architecture: Architecture, theta: FloatArray, rng: np.random.Generator, step: float
) -> CounterExample:
    shape, phi, flows = architecture.lifted_shape, architecture.phi, 0
    fields, z0 = gradient_fields(architecture), np.asarray(phi.value(theta))

    def ends(slopes: FloatArray, curvature: float = 0.0, rtol: float = _RTOL) -> FloatArray:
        """Follow θ' = −∂φ(θ)ᵀ ∇f(φ(θ)) for several losses at once, to time 1, or raise FlowLost."""
        starts, size = np.repeat(theta[None], len(slopes), axis=0), float(np.max(np.abs(theta)))

        def velocity(_: float, flat: FloatArray) -> FloatArray:
            thetas, form = flat.reshape(starts.shape), slopes
            if curvature:
                along = np.tensordot(phi.value(thetas) - z0, axis, len(shape))
                form = slopes + np.multiply.outer(curvature * along, axis)
            if not fields.analytic:  # one pass back, not one for each parameter
                return -np.asarray(fields.field(form, thetas)).ravel()
            return -np.asarray(phi.vjp(thetas, form)).ravel()

        nonlocal flows
        flows += len(slopes)
        end = followed(velocity, 1.0, starts.ravel(), rtol, size)
        return end.reshape(starts.shape)

    slope1 = rng.standard_normal(shape)  # made such that its field is as long as the step
    speed = np.linalg.norm(architecture.lift_vjp(theta, slope1)) or 1.0
    slope1 *= step * np.linalg.norm(theta) / speed
    pushed = np.asarray(architecture.gram_apply(theta, slope1))
    axis = rng.standard_normal(shape)
    axis *= np.where(np.sum(axis * pushed) < 0, -1, 1) / np.linalg.norm(axis)
    axis += pushed / (np.linalg.norm(pushed) or 1.0)
    axis /= np.linalg.norm(axis)
    # Half-way, the curved part is about as strong as the linear one.
    length = np.linalg.norm(slope1)
    curvature = float(2 * length / (abs(float(np.sum(axis * pushed))) or 1.0))
    ends(slope1[None], rtol=ROUGHLY)  # tells soon whether the exact flow can be followed
    (theta1,) = ends(slope1[None])
    target = np.asarray(phi.value(theta1))
    # Entry by entry, as M may change with the smallest of z: relative to all terms of each.
    units = np.abs(architecture.lift_jacobian(theta1)) @ np.abs(theta1)
    units = np.where(units > 0, units, units.max() or 1.0).reshape(shape)
    way = np.linalg.norm((target - z0) / units)
    if not way > 0:
        raise FlowLost

    def second(unknowns: FloatArray) -> FloatArray:
        return slope1 + length * unknowns.reshape(-1, *shape)

    def misses(thetas: FloatArray) -> FloatArray:
        gaps = (np.asarray(phi.value(thetas)) - target) / units
        return gaps.reshape(len(thetas), -1) / way

    @cache
    def roughly(raw: bytes) -> tuple[FloatArray, FloatArray]:
        """What is missed, roughly, and its slopes: the flows of all go along with each other."""
        unknown = np.frombuffer(raw)
        moved = np.vstack([unknown, unknown + _SLOPE * np.eye(unknown.size)])
        here, *others = misses(ends(second(moved), curvature, ROUGHLY))
        return here, (np.array(others) - here).T / _SLOPE

    unknown = np.zeros(z0.size)
    for rtol, steps in ((ROUGHLY, _MAX_STEPS), (_RTOL, _LAST_STEPS)):
        solution = least_squares(
            lambda x, rough=rtol == ROUGHLY: (
                roughly(x.tobytes())[0] if rough else misses(ends(second(x), curvature))[0]
            ),
            unknown,
            jac=lambda x: roughly(x.tobytes())[1],
            gtol=rtol,
            xtol=rtol / 10,
            ftol=rtol / 1000,
            max_nfev=steps,
        )
        unknown = solution.x
        if np.linalg.norm(solution.fun) > _CLOSE:
            break
    slope2 = second(unknown)
    (theta2,) = ends(slope2, curvature)
    mismatch = float(np.linalg.norm(misses(theta2[None])))
    gap = _gram_difference(fields, rng, theta1, theta2)
    return CounterExample(
        gap, mismatch, slope1, slope2[0], axis, curvature, theta1, theta2, 1, flows
    )


def _gram_difference(
    fields: GradientFields, rng: np.random.Generator, *thetas: FloatArray
) -> float:
    """Largest relative difference of ⟨X_g', X_g⟩ between two points, over random forms.

    A third point, where a walk began, tells with them how long fields are: at its end they may
    vanish but for its error.
    """
    points = [fields.point(theta) for theta in thetas]
    forms = fields.random_forms(8, points[0], rng)
    values = np.array([fields.values(forms, point, 8) for point in points])
    lengths = np.linalg.norm(values, axis=2).max(axis=0)
    lengths = np.where(lengths > 0, lengths, 1.0)
    one, two, *_ = values @ np.swapaxes(values, 1, 2) / np.outer(lengths, lengths)
    return float(np.max(np.abs(one - two)))
