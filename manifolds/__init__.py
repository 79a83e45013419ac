"""Invariant sets and their images, as geomstats manifolds."""

from liftflow.manifolds.base import InducedMetric as InducedMetric
from liftflow.manifolds.base import InvariantSet as InvariantSet
from liftflow.manifolds.images import PathImage as PathImage
from liftflow.manifolds.images import image_manifold as image_manifold

__all__ = ["InducedMetric", "InvariantSet", "PathImage", "image_manifold"]
