"""The intrinsic metrics K_θ₀, in closed form or by recovery of θ, and their geometry."""

from liftflow.metrics.cometric import Cometric, HorizontalSpaces, LiftSpaces, TangentSpaces
from liftflow.metrics.geodesic import GeodesicSolver
from liftflow.metrics.geometry import HorizontalMetric, IntrinsicMetric
from liftflow.metrics.intrinsic import intrinsic_cometric
from liftflow.metrics.multipliers import (
    DeepMultiplier,
    HyperbolicMultiplier,
    LogarithmicMeanMultiplier,
    Multiplier,
    ScalarMultiplier,
    TwoLayerMultiplier,
)
from liftflow.metrics.oracle import oracle_gram, oracle_jacobian
from liftflow.metrics.path import OneHiddenLayerCometric, PathCometric, ScalarChainCometric
from liftflow.metrics.product import ProductCometric, ProductSpaces
from liftflow.metrics.recovered import RecoveredCometric
from liftflow.metrics.spectral import SpectralCometric
from liftflow.metrics.sphere import SphereCometric

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
