"""Which property holds: recoverability, metric, dynamic, Frobenius, commuting, complete laws."""

from liftflow.criteria import graph as _graph  # noqa: F401 (views of networks register there)
from liftflow.criteria.dynamics import CounterExample as CounterExample
from liftflow.criteria.dynamics import find_counter_example as find_counter_example
from liftflow.criteria.findings import Finding as Finding
from liftflow.criteria.findings import Verdict as Verdict
from liftflow.criteria.hierarchy import Classification as Classification
from liftflow.criteria.hierarchy import classify as classify
from liftflow.criteria.hierarchy import commuting as commuting
from liftflow.criteria.hierarchy import count_conservation_laws as count_conservation_laws
from liftflow.criteria.hierarchy import dynamic_property as dynamic_property
from liftflow.criteria.hierarchy import frobenius as frobenius
from liftflow.criteria.hierarchy import kernel_inclusion as kernel_inclusion
from liftflow.criteria.hierarchy import laws_complete as laws_complete
from liftflow.criteria.hierarchy import lie_algebra_dimension as lie_algebra_dimension
from liftflow.criteria.hierarchy import metric_property as metric_property
from liftflow.criteria.hierarchy import recoverability as recoverability
from liftflow.criteria.polynomials import DiscoveredLaws as DiscoveredLaws
from liftflow.criteria.polynomials import PolynomialLaw as PolynomialLaw
from liftflow.criteria.polynomials import discover_laws as discover_laws

__all__ = [
    "Classification",
    "CounterExample",
    "DiscoveredLaws",
    "Finding",
    "PolynomialLaw",
    "Verdict",
    "classify",
    "commuting",
    "count_conservation_laws",
    "discover_laws",
    "dynamic_property",
    "find_counter_example",
    "frobenius",
    "kernel_inclusion",
    "laws_complete",
    "lie_algebra_dimension",
    "metric_property",
    "recoverability",
]
