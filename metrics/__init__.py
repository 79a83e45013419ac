"""The intrinsic metrics K_θ₀ in closed form."""

from liftflow.metrics.base import Cometric as Cometric
from liftflow.metrics.base import IntrinsicMetric as IntrinsicMetric
from liftflow.metrics.intrinsic import intrinsic_cometric as intrinsic_cometric
from liftflow.metrics.oracle import oracle_gram as oracle_gram
from liftflow.metrics.oracle import oracle_jacobian as oracle_jacobian
from liftflow.metrics.path import OneHiddenLayerCometric as OneHiddenLayerCometric
from liftflow.metrics.path import PathCometric as PathCometric
from liftflow.metrics.path import ScalarChainCometric as ScalarChainCometric

__all__ = [
    "Cometric",
    "IntrinsicMetric",
    "OneHiddenLayerCometric",
    "PathCometric",
    "ScalarChainCometric",
    "intrinsic_cometric",
    "oracle_gram",
    "oracle_jacobian",
]
