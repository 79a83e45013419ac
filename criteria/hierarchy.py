"""Which properties hold at a point: each criterion by itself, and the whole hierarchy in a table.

Every criterion reads what it asks for off the view of an architecture at a point.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from liftflow.architectures import Architecture, ProductArchitecture, ReLUNetwork
from liftflow.architectures.sampled import as_seen
from liftflow.criteria.dynamics import dynamic, metric
from liftflow.criteria.findings import Finding, Verdict, combine, found, undecided
from liftflow.criteria.network_fields import excited_fields
from liftflow.criteria.traces import LieTrace, added, exact_levels, lie_trace
from liftflow.criteria.vectors import Vectors
from liftflow.criteria.views import MATRIX_LIMIT, View, count_told, too_large, view_of
from liftflow.doors import door
from liftflow.files import Stored, Tabled, as_text
from liftflow.linalg import Arithmetic
from liftflow.threads import blas_threads
from liftflow.typing import OneTheta, Rng, as_array, as_rng
from liftflow.waiting import tracked

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

_TRIALS, _POINTS = 2, 3
_COLOURS = {"holds": "green", "fails": "red", "undecided": "yellow"}
_MARKS = {"holds": "✓", "fails": "✗", "undecided": "?"}


@dataclass(frozen=True)
class Classification(Stored, Tabled):
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

    _parts, _width = (Finding, Verdict), 120

    def to_dict(self) -> dict[str, dict[str, object]]:
        """Return all findings in the types of JSON, by name."""
        return {name: finding.to_dict() for name, finding in vars(self).items()}

    def table(self) -> "Table":
        """Return the findings as a table for rich."""
        from rich.table import Table

        table = Table(title="The hierarchy at θ")
        for title in ("property", "verdict", "value", "margin"):
            table.add_column(title, justify="right" if title in ("value", "margin") else "left")
        table.add_column("reason", overflow="fold")
        for finding in vars(self).values():
            verdict, value = str(finding.verdict), finding.value
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
        *criteria, _ = vars(self).items()
        said = [f"{name} {_MARKS[str(finding.verdict)]}" for name, finding in criteria]
        return f"Classification({', '.join(said)}, {self.n_laws.value} laws)"

    def plot(self) -> "Figure":
        """Draw the verdicts beside each other, with their margins."""
        from liftflow.drawing import draw_findings

        return draw_findings([*vars(self).values()])

    def __str__(self) -> str:
        """Render the table as text."""
        return as_text(self.table(), self._width)


def criterion(
    name: str, find: cached_property[Finding] | Callable[[View], Finding]
) -> Callable[..., Finding]:
    """Return the public function that decides what a view tells, or a function of it, with a door.

    It takes products, as ∂φ, ∂h and all brackets are block diagonal there: then it answers for the
    factor that decides, or adds counts up.
    """
    look = attrgetter(str(find.attrname)) if isinstance(find, cached_property) else find

    def decided(architecture: Architecture, theta: OneTheta, *, rng: Rng = 0) -> Finding:
        point = as_array(theta, "theta", (architecture.dim,), batch=False, differentiable=False)
        if not isinstance(architecture, ProductArchitecture):
            return look(view_of(architecture, point, as_rng(rng)))
        parts = zip(architecture.factors, architecture.unpack(point), strict=True)
        return combine(decided(factor, part, rng=rng) for factor, part in parts)

    decided.__name__ = decided.__qualname__ = name
    decided.__doc__ = find.__doc__
    return door(decided)


recoverability = criterion("recoverability", View.recoverable)
kernel_inclusion = criterion("kernel_inclusion", View.inclusion)
frobenius = criterion("frobenius", View.frobenius)
commuting = criterion("commuting", View.commuting)
lie_algebra_dimension = criterion("lie_algebra_dimension", View.dimension)
laws_complete = criterion("laws_complete", View.complete)
metric_property = criterion("metric_property", metric)
dynamic_property = criterion("dynamic_property", dynamic)


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
    rng, (architecture, loss) = as_rng(rng), as_seen(architecture, loss)
    if isinstance(architecture, ProductArchitecture) and loss is None:
        parts = [count_conservation_laws(f, exact, rng=rng) for f in architecture.factors]
        return combine(parts)
    if not exact and (told := count_told(architecture, loss, rng)) is not None:
        return told
    fields = excited_fields(architecture, loss)
    any_size = exact and isinstance(architecture, ReLUNetwork)
    if not any_size and (reason := too_large(architecture, fields, MATRIX_LIMIT)):
        return undecided("conservation laws", reason)
    if exact:
        return _exact_count(architecture, rng, loss)
    points = np.asarray(architecture.random_point(_POINTS, rng=rng))
    traces: list[LieTrace] = []
    for point in points:  # any generic one will do, so one that decides
        if traces and traces[-1].decided and fields.analytic:
            break  # known to be analytic; the others may have pieces with other counts
        vectors = Vectors(architecture, point, rng, fields)
        bound = architecture.n_laws and vectors.conserved and vectors.law_rank.decided
        most = architecture.dim - (vectors.law_rank.value if bound else 0)
        traces.append(lie_trace(vectors, most))
    decided = {trace.dimension: trace for trace in traces if trace.decided}
    trace = next(iter(decided.values()), traces[-1])
    if len(decided) > 1:
        numbers = " and ".join(str(architecture.dim - size) for size in sorted(decided))
        objection = f"random points have {numbers} laws, so φ is not analytic"
        trace = replace(trace, objection=objection)
    return trace.counted("conservation laws", architecture.dim - trace.dimension)


def _exact_count(architecture: Architecture, rng: np.random.Generator, loss: Any) -> Finding:
    trials: list[list[int]] = []
    dim, bound = architecture.dim, 1.0
    for _ in range(_TRIALS):
        field = Arithmetic.over_a_field(rng)
        fields = excited_fields(architecture, loss, field)
        levels, failure = exact_levels(fields, field.draw((dim,), rng), dim, rng)
        trials.append(levels)
        bound *= min(1.0, failure)
    best = max(trials, key=sum)
    reason = f"over {_TRIALS} prime fields {added(best)}; wrong with a probability below "
    reason += f"{bound:.0e} (Schwartz–Zippel)"
    finding = found("conservation laws", True, dim - sum(best), reason, tolerance=0.0)
    return replace(finding, witness={"levels": best, "error_bound": bound})


@door
def classify(
    architecture: Architecture,
    theta: OneTheta,
    exact: bool = False,
    *,
    quick: bool = False,
    progress: bool | None = None,
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
    progress : bool, optional
        Show which finding is being looked for, at once or never; by default in a terminal, after a
        few seconds.

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
        return Classification(
            **{name: combine(vars(one)[name] for one in each) for name in vars(each[0])}
        )
    view = view_of(architecture, theta, rng)
    view.quick = quick
    known: dict[str, Finding] = {}
    others: dict[str, Callable[[], Finding]] = {
        "metric": lambda: metric(view),
        "dynamic": lambda: dynamic(view, known["metric"]),
        "n_laws": lambda: count_conservation_laws(architecture, exact, rng=rng),
    }
    names = [field.name for field in fields(Classification)]
    with blas_threads(architecture.dim):
        for name in tracked(names, "classify", progress):
            known[name] = others[name]() if name in others else getattr(view, name)
    return Classification(**known)
