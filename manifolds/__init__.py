"""Invariant sets and their images, as geomstats manifolds."""

from liftflow.manifolds.base import InducedMetric as InducedMetric
from liftflow.manifolds.base import InvariantSet as InvariantSet
from liftflow.manifolds.images import LiftedImage as LiftedImage
from liftflow.manifolds.images import MatrixImage as MatrixImage
from liftflow.manifolds.images import PathImage as PathImage
from liftflow.manifolds.images import ProductImage as ProductImage
from liftflow.manifolds.images import image_manifold as image_manifold

__all__ = [
    "InducedMetric",
    "InvariantSet",
    "LiftedImage",
    "MatrixImage",
    "PathImage",
    "ProductImage",
    "image_manifold",
]
