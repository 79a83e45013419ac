"""The whole hierarchy at one point, in one table."""

import io
from dataclasses import dataclass, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from liftflow.architectures import Architecture, ProductArchitecture
from liftflow.criteria.brackets import commuting, frobenius
from liftflow.criteria.counts import count_conservation_laws, laws_complete
from liftflow.criteria.dynamics import dynamic_given_metric, metric_given_recoverability
from liftflow.criteria.findings import Finding
from liftflow.criteria.kernels import kernel_inclusion, recoverability
from liftflow.criteria.products import combine
from liftflow.doors import door
from liftflow.typing import OneTheta, Rng, as_array, as_rng

_COLOURS = {"holds": "green", "fails": "red", "undecided": "yellow"}


@dataclass(frozen=True)
class Classification:
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

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return all findings in the types of JSON, by name."""
        return {field.name: getattr(self, field.name).to_dict() for field in fields(self)}

    def table(self) -> Table:
        """Return the findings as a table for rich."""
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

    def __str__(self) -> str:
        """Render the table as text."""
        console = Console(width=120, file=io.StringIO(), record=True)
        console.print(self.table())
        return console.export_text(styles=False).rstrip()

    def _repr_html_(self) -> str:
        """Render the table for a notebook."""
        console = Console(width=120, file=io.StringIO(), record=True)
        console.print(self.table())
        page = '<pre style="line-height: 1.2; overflow-x: auto">{code}</pre>'
        return console.export_html(inline_styles=True, code_format=page)


@door
def classify(
    architecture: Architecture, theta: OneTheta, exact: bool = False, *, rng: Rng = 0
) -> Classification:
    """Decide the whole hierarchy at θ.

    Parameters
    ----------
    architecture : Architecture
        Any; one that only defines ``lift`` is differentiated by autograd, and its laws are those
        that the Lie algebra of its fields leaves.
    exact : bool
        Count the laws over prime fields instead of floats.
    rng : numpy.random.Generator or int, optional
        For random combinations of fields, and for the search for a counter-example.

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
        found = [classify(factor, part, exact, rng=rng) for factor, part in parts]
        names = [field.name for field in fields(Classification)]
        return Classification(*[combine([getattr(one, name) for one in found]) for name in names])
    recoverable = recoverability(architecture, theta, rng=rng)
    metric = metric_given_recoverability(architecture, theta, recoverable, rng)
    return Classification(
        recoverable=recoverable,
        metric=metric,
        dynamic=dynamic_given_metric(architecture, theta, metric, rng),
        inclusion=kernel_inclusion(architecture, theta, rng=rng),
        frobenius=frobenius(architecture, theta, rng=rng),
        commuting=commuting(architecture, theta, rng=rng),
        complete=laws_complete(architecture, theta, rng=rng),
        n_laws=count_conservation_laws(architecture, exact, rng=rng),
    )
