"""Invariant sets and their images, as geomstats manifolds."""

from liftflow.manifolds.base import InducedMetric, InvariantSet
from liftflow.manifolds.bundle import LiftBundle, LiftQuotientMetric
from liftflow.manifolds.charts import ChartedImage, ChartMetric, chart_manifold
from liftflow.manifolds.flattened import CoordinateMetric, FlatImage, FlatMetric
from liftflow.manifolds.images import (
    LiftedImage,
    MatrixImage,
    PathImage,
    ProductImage,
    image_manifold,
)

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
