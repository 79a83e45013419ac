"""The space of parameters, which may have millions of dimensions."""

from functools import cached_property
from typing import Any

import geomstats.backend as gs
from geomstats.geometry.euclidean import CanonicalEuclideanMetric, Euclidean
from geomstats.geometry.riemannian_metric import RiemannianMetric


class ParameterMetric(CanonicalEuclideanMetric):
    """The Euclidean metric of ℝᴰ, whose D × D identity is made only if someone asks for it."""

    def __init__(self, space: Euclidean) -> None:
        RiemannianMetric.__init__(self, space)  # that of geomstats' class fills the matrix

    @cached_property
    def metric_matrix_(self) -> Any:
        """Identity matrix, shape=[D, D]."""
        return gs.eye(self._space.dim)
