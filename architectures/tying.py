"""Which parameter each edge of a network has, and what its nodes do with what flows in."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import geomstats.backend as gs
import numpy as np
from numpy.typing import NDArray

from liftflow.typing import FloatArray, IntArray, Tangent, Theta, freeze

Blocks = Sequence[tuple[int, ...]]
"""Shapes of what θ is made of."""


@dataclass(frozen=True, eq=False)
class Tying:
    """Edges that share their weights, and edges whose weights are constants.

    Attributes
    ----------
    parameters : array, shape=[n_edges]
        Number of the parameter that is the weight of each edge, −1 where it is frozen.
    constants : array, shape=[n_edges]
        Weights of the frozen edges, 0 at all others.
    names : dict, optional
        What parameters are called, where they are called something.
    """

    parameters: IntArray
    constants: FloatArray
    names: dict[int, Hashable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Freeze the arrays, which many share."""
        freeze((self.parameters, self.constants))

    @classmethod
    def of_own(cls, n_edges: int) -> "Tying":
        """Give each edge a weight of its own."""
        return cls(np.arange(n_edges), np.zeros(n_edges))

    @cached_property
    def dim(self) -> int:
        """Number of parameters."""
        return int(self.parameters.max(initial=-1)) + 1

    @cached_property
    def trained(self) -> IntArray:
        """Edges that are not frozen."""
        return freeze(np.flatnonzero(self.parameters >= 0))

    @cached_property
    def first(self) -> IntArray:
        """The first edge of each parameter, shape=[dim]."""
        return freeze(self.trained[np.unique(self.parameters[self.trained], return_index=True)[1]])

    @cached_property
    def repeats(self) -> bool:
        """Whether some edges share a weight."""
        return self.trained.size > self.dim

    def weights(self, theta: Theta) -> Tangent:
        """Weight of each edge, differentiably."""
        padded = gs.concatenate([theta, 0.0 * theta[..., :1]], axis=-1)
        return padded[..., self.parameters] + self.constants


@dataclass(frozen=True, eq=False)
class Units:
    """The function of each node: (s if s > 0 else slope · s) to the power of its degree.

    Attributes
    ----------
    slopes : array, shape=[n_nodes]
        0 for a ReLU, 1 for the identity, −1 for |s|, anything for a leaky ReLU.
    degrees : array of int, shape=[n_nodes]
        1 for all that is not a power of a ReLU.
    maxima : array of bool, shape=[n_nodes]
        Whether s is the maximum of what flows in, not the sum.
    """

    slopes: FloatArray
    degrees: IntArray
    maxima: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Freeze the arrays, which many share."""
        freeze((self.slopes, self.degrees, self.maxima))

    def along(self, labels: Sequence[Hashable], nodes: Sequence[Hashable]) -> "Units":
        """Put the functions of nodes with these labels into the order of others."""
        place = {label: i for i, label in enumerate(labels)}
        order = np.array([place[node] for node in nodes], dtype=np.intp)
        return Units(self.slopes[order], self.degrees[order], self.maxima[order])

    @classmethod
    def rectifiers(cls, hidden: NDArray[np.bool_]) -> "Units":
        """Hidden nodes that are ReLUs, among others that are linear."""
        size = hidden.size
        return cls(np.where(hidden, 0.0, 1.0), np.ones(size, np.intp), np.zeros(size, bool))
