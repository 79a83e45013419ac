"""The intrinsic metrics K_θ₀, in closed form or by recovery of θ, and their geometry."""

from liftflow.metrics.cometric import Cometric as Cometric
from liftflow.metrics.cometric import HorizontalSpaces as HorizontalSpaces
from liftflow.metrics.cometric import LiftSpaces as LiftSpaces
from liftflow.metrics.cometric import TangentSpaces as TangentSpaces
from liftflow.metrics.geodesic import GeodesicSolver as GeodesicSolver
from liftflow.metrics.geometry import HorizontalMetric as HorizontalMetric
from liftflow.metrics.geometry import IntrinsicMetric as IntrinsicMetric
from liftflow.metrics.intrinsic import intrinsic_cometric as intrinsic_cometric
from liftflow.metrics.multipliers import DeepMultiplier as DeepMultiplier
from liftflow.metrics.multipliers import HyperbolicMultiplier as HyperbolicMultiplier
from liftflow.metrics.multipliers import LogarithmicMeanMultiplier as LogarithmicMeanMultiplier
from liftflow.metrics.multipliers import Multiplier as Multiplier
from liftflow.metrics.multipliers import ScalarMultiplier as ScalarMultiplier
from liftflow.metrics.multipliers import TwoLayerMultiplier as TwoLayerMultiplier
from liftflow.metrics.oracle import oracle_gram as oracle_gram
from liftflow.metrics.oracle import oracle_jacobian as oracle_jacobian
from liftflow.metrics.path import OneHiddenLayerCometric as OneHiddenLayerCometric
from liftflow.metrics.path import PathCometric as PathCometric
from liftflow.metrics.path import ScalarChainCometric as ScalarChainCometric
from liftflow.metrics.product import ProductCometric as ProductCometric
from liftflow.metrics.product import ProductSpaces as ProductSpaces
from liftflow.metrics.recovered import RecoveredCometric as RecoveredCometric
from liftflow.metrics.spectral import SpectralCometric as SpectralCometric
from liftflow.metrics.sphere import SphereCometric as SphereCometric

__all__ = [
    "Cometric",
    "DeepMultiplier",
    "GeodesicSolver",
    "HorizontalMetric",
    "HorizontalSpaces",
    "HyperbolicMultiplier",
    "IntrinsicMetric",
    "LiftSpaces",
    "LogarithmicMeanMultiplier",
    "Multiplier",
    "OneHiddenLayerCometric",
    "PathCometric",
    "ProductCometric",
    "ProductSpaces",
    "RecoveredCometric",
    "ScalarChainCometric",
    "ScalarMultiplier",
    "SpectralCometric",
    "SphereCometric",
    "TangentSpaces",
    "TwoLayerMultiplier",
    "intrinsic_cometric",
    "oracle_gram",
    "oracle_jacobian",
]
