"""Which properties hold at a point: each criterion by itself, and the whole hierarchy in a table.

Every criterion reads what it asks for off the view of an architecture at a point.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import singledispatch, wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from liftflow.architectures import Architecture, ProductArchitecture, ReLUNetwork
from liftflow.criteria.dynamics import dynamic, metric
from liftflow.criteria.fields import Arithmetic, Coordinates
from liftflow.criteria.findings import Finding, Verdict, combine, found, undecided
from liftflow.criteria.graph import by_graph
from liftflow.criteria.network_fields import excited_fields
from liftflow.criteria.traces import LieTrace, added, lie_trace
from liftflow.criteria.vectors import SPARE, Vectors
from liftflow.criteria.views import MATRIX_LIMIT, View, too_large, view_of
from liftflow.doors import door
from liftflow.files import Stored, as_html, as_text
from liftflow.typing import OneTheta, Rng, as_array, as_rng
from liftflow.waiting import tracked

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

_TRIALS = 2
_POINTS = 3
_PRIMES = (2**30, 2**31)
_COLOURS = {"holds": "green", "fails": "red", "undecided": "yellow"}


@dataclass(frozen=True)
class Classification(Stored):
    """Which properties of the hierarchy hold at θ, by what margins, and why.

    Each attribute is a Finding: ``bool(classification.metric)`` is True or False, or raises
    UndecidedError.

    Attributes
    ----------
    recoverable, metric, dynamic : Finding
        The three properties, each implying the next.
    inclusion : Finding
        The kernel inclusion, which the metric property needs.
    frobenius, commuting : Finding
        Properties of the brackets of the fields ∇φ_i at θ.
    complete : Finding
        Whether the known laws are all.
    n_laws : Finding
        Number of independent laws at a generic point, in its ``value``.
    """

    recoverable: Finding
    metric: Finding
    dynamic: Finding
    inclusion: Finding
    frobenius: Finding
    commuting: Finding
    complete: Finding
    n_laws: Finding

    _parts = (Finding, Verdict)

    def to_dict(self) -> dict[str, dict[str, object]]:
        """Return all findings in the types of JSON, by name."""
        return {field.name: getattr(self, field.name).to_dict() for field in fields(self)}

    def table(self) -> "Table":
        """Return the findings as a table for rich."""
        from rich.table import Table

        table = Table(title="The hierarchy at θ")
        for title in ("property", "verdict", "value", "margin"):
            table.add_column(title, justify="right" if title in ("value", "margin") else "left")
        table.add_column("reason", overflow="fold")
        for field in fields(self):
            finding = getattr(self, field.name)
            verdict = str(finding.verdict)
            value = finding.value
            table.add_row(
                finding.name,
                f"[{_COLOURS[verdict]}]{verdict}[/]",
                str(value) if isinstance(value, int) else f"{value:.1e}",
                f"{finding.margin:.0e}",
                finding.reason.replace("[", r"\["),
            )
        return table

    def __repr__(self) -> str:
        """Say in one line what holds."""
        marks = {"holds": "✓", "fails": "✗", "undecided": "?"}
        names = [field.name for field in fields(self) if field.name != "n_laws"]
        said = [f"{name} {marks[str(getattr(self, name).verdict)]}" for name in names]
        return f"Classification({', '.join(said)}, {self.n_laws.value} laws)"

    def plot(self) -> "Figure":
        """Draw the verdicts beside each other, with their margins."""
        from liftflow.drawing import draw_findings

        return draw_findings([getattr(self, field.name) for field in fields(self)])

    def __str__(self) -> str:
        """Render the table as text."""
        return as_text(self.table(), 120)

    def _repr_html_(self) -> str:
        """Render the table for a notebook."""
        return as_html(self.table(), 120)


def over_factors(criterion: Callable[..., Finding]) -> Callable[..., Finding]:
    """Let a criterion take products: ∂φ, ∂h and all brackets are block diagonal there.

    It also becomes the door: θ is checked here, once. On a product it answers for the factor that
    decides, or adds counts up.
    """

    @door
    @wraps(criterion)
    def decided(architecture: Architecture, theta: OneTheta, **options: object) -> Finding:
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


def look(architecture: Architecture, theta: OneTheta, rng: Rng) -> View:
    """Look at a point, drawing random fields where they stand for all."""
    return view_of(architecture, theta, as_rng(rng))


@over_factors
def recoverability(architecture: Architecture, theta: OneTheta, *, rng: Rng = 0) -> Finding:
    """Decide intrinsic recoverability at θ [MPG]_: ker ∂φ(θ) ∩ ker ∂h(θ) = {0}.

    The value is the singular value of ∂φ and ∂h, stacked and balanced, that decides; the witness a
    common direction of the kernels. For a ReLU network the graph alone decides, whatever its
    size: then the value is the smallest eigenvalue of its Laplacian scaled to a unit diagonal,
    and the witness names the dead parameters.
    """
    return look(architecture, theta, rng).recoverable


@over_factors
def kernel_inclusion(architecture: Architecture, theta: OneTheta, *, rng: Rng = 0) -> Finding:
    r"""Decide ker ∂φ(θ) ∩ ker ∂h(θ) ⊆ ker ∂M(θ), which the metric property needs [MPG]_.

    Matrix-free: :math:`⟨g', M g⟩ = ⟨X_{g'}, X_g⟩` with the fields :math:`X_g = ∂φ^\top g`, so ∂M
    along a direction takes the derivatives of random fields along it, never M.

    The value is the largest change of ⟨X_g', X_g⟩ along the kernel, relative to its terms;
    the witness a direction along which M changes.
    """
    return look(architecture, theta, rng).inclusion


@over_factors
def frobenius(architecture: Architecture, theta: OneTheta, *, rng: Rng = 0) -> Finding:
    """Decide the Frobenius property at θ: [∇φ_i, ∇φ_j](θ) ∈ span{∇φ_k(θ)} for all i and j.

    The value is the largest distance of a bracket to the span [MPG]_, relative to its terms; the
    witness two entries of z whose fields have a bracket outside.
    """
    return look(architecture, theta, rng).frobenius


@over_factors
def commuting(architecture: Architecture, theta: OneTheta, *, rng: Rng = 0) -> Finding:
    """Decide whether the fields commute at θ [Li2022]_: [∇φ_i, ∇φ_j](θ) = 0 for all i and j.

    The value is the size of the largest bracket, relative to its terms; the witness two
    entries of z whose fields do not commute.
    """
    return look(architecture, theta, rng).commuting


@over_factors
def lie_algebra_dimension(architecture: Architecture, theta: OneTheta, *, rng: Rng = 0) -> Finding:
    """Dimension of the trace at θ of the Lie algebra generated by the fields ∇φ_i.

    The value is the dimension [Marcotte2023]_, an int; it holds where all ranks are clear. The
    witness has the dimensions that each level of brackets adds.
    """
    return look(architecture, theta, rng).dimension


@over_factors
def laws_complete(architecture: Architecture, theta: OneTheta, *, rng: Rng = 0) -> Finding:
    """Decide whether the known laws are all there are at θ: rank ∂h(θ) = D − dim Lie(∇φ)(θ).

    The value is the number of missing laws, an int [Marcotte2023]_.
    """
    return look(architecture, theta, rng).complete


@over_factors
def metric_property(architecture: Architecture, theta: OneTheta, *, rng: Rng = 0) -> Finding:
    """Decide the intrinsic metric property of θ₀: M(θ) = K_θ₀(φ(θ)) for all θ in 𝓜_θ₀.

    Close to θ₀ it holds where θ₀ is recoverable. Else two things are checked at θ₀ and at points
    of 𝓜_θ₀ that random flows lead to: the kernel inclusion, necessary, and sufficient where the
    fibres of φ in 𝓜_θ₀ are connected and of constant dimension; and that M is the same at the
    end of a walk inside the fibre.

    The value is the largest change of M that was found, relative to its terms. The property is
    that of [MPG]_, the check along fibres ours.
    """
    return metric(look(architecture, theta, rng))


@over_factors
def dynamic_property(architecture: Architecture, theta: OneTheta, *, rng: Rng = 0) -> Finding:
    """Decide the intrinsic dynamic property of θ₀: along every flow from it, M depends on z alone.

    Implied by the metric property. Where that fails, what flows can reach decides, the orbit of
    θ₀ under the fields ∇φ_i, whose tangents are the trace of the Lie algebra they generate. If ∂φ
    is injective on them, z determines θ in the orbit, at least locally, and the property holds as
    far as points tell, like the metric property where θ₀ is recoverable. If M changes along a
    kernel of ∂φ in them, at a point where the rank of ∂φ is maximal, it fails: the flows fill an
    open part of the orbit [Krener1974]_, so they reach points of one fibre with different M. Both
    hold for an analytic φ. To show such a pair, two losses are searched for.

    The value is the relative difference of M; the witness has the two losses, or where none were
    found a direction along which M changes. The property is that of [MPG]_, the argument by orbits
    and the search ours.
    """
    view = look(architecture, theta, rng)
    return dynamic(view, metric(view))


@singledispatch
def count_told(architecture: Architecture) -> Finding | None:
    """Return the number of laws of a family that knows it without looking; it registers that."""
    return None


@door
def count_conservation_laws(
    architecture: Architecture, exact: bool = False, loss: Any = None, *, rng: Rng = 0
) -> Finding:
    """Count the independent conservation laws at a generic θ, D − dim Lie(∇φ).

    The value is the number of laws, an int. Undecided where no singular values are clear at
    any of three random points. In exact mode the witness has the ``error_bound``.

    Parameters
    ----------
    exact : bool
        Count over prime fields of about 2³¹ elements at random points instead of floats. Ranks
        there are never too large, and too small only with a probability that the theorem of
        Schwartz and Zippel bounds.
    loss : Loss, optional
        Count the laws of this loss, which are more where its gradients do not span all of z; of a
        ``NetworkLoss``, for all data. By default those that all losses have.

    Raises
    ------
    InputError
        Exact mode, and the lift is known only as a function of floats.

    References
    ----------
    [Marcotte2023]_; of one loss: [Marcotte2025]_, Proposition 3.11; the exact mode: ours.
    """
    rng = as_rng(rng)
    if isinstance(architecture, ProductArchitecture) and loss is None:
        parts = [count_conservation_laws(f, exact, rng=rng) for f in architecture.factors]
        return combine(parts)
    name = "conservation laws"
    if not exact and (told := count_told(architecture)) is not None:
        return told
    fields = excited_fields(architecture, loss)
    all_excited = loss is None or getattr(fields, "outputs", 0) is None
    large = isinstance(architecture, ReLUNetwork) and by_graph(architecture) and all_excited
    if not large and (reason := too_large(architecture, fields, MATRIX_LIMIT)):
        return undecided(name, reason)
    if exact:
        return _exact_count(architecture, rng, loss)
    if isinstance(architecture, ReLUNetwork) and large:
        reason = "from the graph: one law per channel, and rank ∂φ = D − C"
        return found(name, True, architecture.n_laws, reason, tolerance=0.0)
    traces: list[LieTrace] = []
    points = np.asarray(architecture.random_point(_POINTS, rng=rng))
    for point in points:  # any generic one will do, so one that decides
        traces.append(lie_trace(Vectors(architecture, point, rng, fields)))
        if traces[-1].decided and fields.analytic:
            break  # known to be analytic; the others may have pieces with other counts
    trace = next((trace for trace in traces if trace.decided), traces[-1])
    dimensions = {trace.dimension for trace in traces if trace.decided}
    if len(dimensions) > 1:
        numbers = " and ".join(str(architecture.dim - size) for size in sorted(dimensions))
        objection = f"random points have {numbers} laws, so φ is not analytic"
        trace = replace(trace, objection=objection)
    return trace.counted(name, architecture.dim - trace.dimension)


def _exact_count(architecture: Architecture, rng: np.random.Generator, loss: Any) -> Finding:
    best, levels, bound = 0, [0], 1.0
    for _ in range(_TRIALS):
        prime = _random_prime(rng)
        fields = excited_fields(architecture, loss, Arithmetic(prime))
        ranks, failure = _exact_ranks(fields, architecture, rng)
        bound *= min(1.0, failure)
        if ranks[-1] > best:
            best, levels = ranks[-1], np.diff(ranks, prepend=0).tolist()
    count = architecture.dim - best
    reason = f"over {_TRIALS} prime fields {added(levels)}; wrong with a probability below "
    reason += f"{bound:.0e} (Schwartz–Zippel)"
    finding = found("conservation laws", True, count, reason, tolerance=0.0)
    return replace(finding, witness={"levels": levels, "error_bound": bound})


def _random_prime(rng: np.random.Generator) -> int:
    from flint import fmpz

    while True:
        candidate = int(rng.integers(*_PRIMES))
        if fmpz(candidate).is_prime():
            return candidate


def _exact_ranks(
    fields: Any, architecture: Architecture, rng: np.random.Generator
) -> tuple[list[int], float]:
    """Ranks level by level, and a bound on the probability that one of them is too small.

    A minor of R nested brackets of k fields is a polynomial of degree at most R k deg X in the
    point and the forms; it vanishes at a random one with probability at most degree / p.
    """
    prime, size = fields.arithmetic.prime, architecture.dim
    point = fields.arithmetic.draw((size,), rng)
    count = min(architecture.lifted_dim, size) + SPARE
    rows = fields.values(fields.random_forms(count, point, rng), point, count)
    ranks, failure = [_modular_rank(rows, prime)], 0.0
    while True:
        depth = len(ranks)
        failure += min(ranks[-1] + 1, size) * depth * fields.degree / prime
        if ranks[-1] == size or (depth > 1 and ranks[-1] == ranks[-2]):
            return ranks, failure
        count = size - ranks[-1] + SPARE
        forms = [fields.random_forms(count, point, rng) for _ in range(depth + 1)]
        rows = np.vstack([rows, fields.brackets(forms, point, count)])
        ranks.append(_modular_rank(rows, prime))


def _modular_rank(rows: Coordinates, prime: int) -> int:
    from flint import nmod_mat

    return int(nmod_mat(len(rows), rows.shape[1], rows.ravel().tolist(), prime).rank())


@door
def classify(
    architecture: Architecture,
    theta: OneTheta,
    exact: bool = False,
    *,
    quick: bool = False,
    progress: bool = False,
    rng: Rng = 0,
) -> Classification:
    """Decide the whole hierarchy at θ.

    Parameters
    ----------
    architecture : Architecture
        Any; one that only defines ``lift`` is differentiated by autograd, and its laws are those
        that the Lie algebra of its fields leaves.
    exact : bool
        Count the laws over prime fields instead of floats.
    quick : bool
        Compute in double precision alone: what that hides where the scales of θ part is undecided,
        also in small networks, for which it takes seconds to look.
    progress : bool
        Show which finding is being looked for.

    Raises
    ------
    InputError
        Exact mode, and the lift is known only as a function of floats.

    References
    ----------
    [MPG]_, [Marcotte2023]_, [Li2022]_.

    Examples
    --------
    >>> from liftflow.architectures import TwoLayerLinear
    >>> from liftflow.criteria import classify
    >>> network = TwoLayerLinear(3, 3, 2)
    >>> balanced = classify(network, network.balanced_point(0.7, rng=0))
    >>> bool(balanced.recoverable), bool(balanced.metric), bool(balanced.frobenius)
    (False, True, False)
    >>> balanced.n_laws.value
    3
    """
    rng = as_rng(rng)
    theta = as_array(theta, "theta", (architecture.dim,), batch=False, differentiable=False)
    if isinstance(architecture, ProductArchitecture):
        parts = zip(architecture.factors, architecture.unpack(theta), strict=True)
        each = [
            classify(factor, part, exact, quick=quick, progress=progress, rng=rng)
            for factor, part in parts
        ]
        names = [field.name for field in fields(Classification)]
        return Classification(*[combine([getattr(one, name) for one in each]) for name in names])
    view = view_of(architecture, theta, rng)
    view.quick = quick
    known: dict[str, Finding] = {}
    others: dict[str, Callable[[], Finding]] = {
        "metric": lambda: metric(view),
        "dynamic": lambda: dynamic(view, known["metric"]),
        "n_laws": lambda: count_conservation_laws(architecture, exact, rng=rng),
    }
    names = [field.name for field in fields(Classification)]
    for name in tracked(names, "classify", progress):
        known[name] = others[name]() if name in others else getattr(view, name)
    return Classification(**known)
