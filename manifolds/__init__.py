"""Invariant sets and their images, as geomstats manifolds."""

from liftflow.manifolds.base import InducedMetric as InducedMetric
from liftflow.manifolds.base import InvariantSet as InvariantSet
from liftflow.manifolds.bundle import LiftBundle as LiftBundle
from liftflow.manifolds.bundle import LiftQuotientMetric as LiftQuotientMetric
from liftflow.manifolds.charts import ChartedImage as ChartedImage
from liftflow.manifolds.charts import ChartMetric as ChartMetric
from liftflow.manifolds.charts import chart_manifold as chart_manifold
from liftflow.manifolds.flattened import CoordinateMetric as CoordinateMetric
from liftflow.manifolds.flattened import FlatImage as FlatImage
from liftflow.manifolds.flattened import FlatMetric as FlatMetric
from liftflow.manifolds.images import LiftedImage as LiftedImage
from liftflow.manifolds.images import MatrixImage as MatrixImage
from liftflow.manifolds.images import PathImage as PathImage
from liftflow.manifolds.images import ProductImage as ProductImage
from liftflow.manifolds.images import image_manifold as image_manifold

__all__ = [
    "ChartMetric",
    "ChartedImage",
    "CoordinateMetric",
    "FlatImage",
    "FlatMetric",
    "InducedMetric",
    "InvariantSet",
    "LiftBundle",
    "LiftQuotientMetric",
    "LiftedImage",
    "MatrixImage",
    "PathImage",
    "ProductImage",
    "chart_manifold",
    "image_manifold",
]
