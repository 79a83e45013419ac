"""Coordinates of an image by anchors: one parameter per channel is divided out of the others."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import scipy.linalg
from autograd.extend import defjvp, defvjp, primitive
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from liftflow.architectures.incidence import Incidence
from liftflow.architectures.laplacian import Laplacian
from liftflow.doors import Guarded
from liftflow.errors import NotRecoverableError, listed
from liftflow.linalg import over_batch
from liftflow.typing import FloatArray, IntArray, Laws, OneTheta, OnHidden, Tangent, Theta, as_array

REANCHOR_RATIO = 10.0
"""An anchor path this many times smaller than the best one through its node is given up."""

EDGE = 2.0 * float(np.log(REANCHOR_RATIO))
"""No step of a flow leads on to an anchor that is so weak, as a log-ratio."""


class Forest:
    """Channels that hang on one another by one edge each, and at last on the ground.

    Parameters
    ----------
    parents : array, shape=[n_channels]
        What each channel hangs on, −1 for the ground.
    levels : sequence of array
        The channels, those that hang on others after them.
    """

    def __init__(self, parents: IntArray, levels: Sequence[IntArray]) -> None:
        self.size = parents.size
        self._levels = [(channels, parents[channels]) for channels in levels]

    def along(self, values: FloatArray, combine: np.ufunc = np.add) -> FloatArray:
        """Combine the values of all edges from the ground to each channel."""
        total = np.full(self.size + 1, combine.identity, dtype=values.dtype)
        for channels, parents in self._levels:
            total[channels] = combine(total[parents], values[channels])
        return total[:-1]

    def behind(self, values: FloatArray) -> FloatArray:
        """Add up the values of each channel and of all that hang on it: the transpose of sums."""
        total = np.append(values, 0.0)
        for channels, parents in reversed(self._levels):
            np.add.at(total, parents, total[channels])
        return total[:-1]


class SpanningTree:
    """Anchors that are a spanning tree of the channels and the ground: O(channels) to solve.

    Anchors are a parameter per channel such that the matrix X_A of their exponents is regular.

    Attributes
    ----------
    edges : array, shape=[n_channels]
        Numbers of the anchors.
    """

    def __init__(self, graph: Incidence, edges: IntArray) -> None:
        self.graph, ground = graph, graph.n_channels
        tails, heads = (
            np.where(e < 0, ground, e) for e in (graph.tails[edges], graph.heads[edges])
        )
        # Each channel hangs on the channel that comes before it, by the edge of this number.
        number = csr_array(
            (
                np.tile(np.arange(1.0, edges.size + 1), 2),
                (np.r_[tails, heads], np.r_[heads, tails]),
            ),
            shape=(ground + 1, ground + 1),
        )
        order, parents = breadth_first_order(number, ground, directed=False)
        lost = np.setdiff1d(np.arange(ground), order)
        if lost.size:
            raise NotRecoverableError(
                "no anchors join these channels to the ground: "
                f"{listed(repr(graph.members[channel]) for channel in lost)}",
                [graph.members[channel] for channel in lost],
            )
        channels, parents = np.arange(ground), parents[:-1]
        at = np.zeros(0, np.intp)
        if ground:  # scipy knows no empty selection
            at = np.asarray(number[channels, parents]).ravel().astype(np.intp) - 1
        self.edges = edges[at]
        self.signs = np.where(heads[at] == channels, 1.0, -1.0)
        depth = np.zeros(ground + 1, dtype=np.intp)
        for channel in order[1:].tolist():
            depth[channel] = depth[parents[channel]] + 1
        cuts = np.flatnonzero(np.diff(depth[order])) + 1
        parents = np.where(parents == ground, -1, parents)
        self._forest = Forest(parents, np.split(order, cuts)[1:])

    @classmethod
    def strongest(cls, graph: Incidence, theta: FloatArray) -> Self:
        """Find the spanning tree of the largest |θ_e|."""
        used = np.flatnonzero((theta != 0) & (graph.tails != graph.heads))
        ground = graph.n_channels
        ends = np.stack([graph.tails[used], graph.heads[used]])
        low, high = np.sort(np.where(ends < 0, ground, ends), axis=0)
        # Of parallel parameters the strongest counts. Weights of a tree must not be 0.
        order = np.lexsort((-np.abs(theta[used]), high, low))
        first = np.ones(order.size, dtype=bool)
        first[1:] = (np.diff(low[order]) != 0) | (np.diff(high[order]) != 0)
        kept = order[first]
        rank = np.empty(kept.size)
        rank[np.argsort(-np.abs(theta[used[kept]]), kind="stable")] = np.arange(1, kept.size + 1)
        shape = (ground + 1, ground + 1)
        tree = minimum_spanning_tree(
            coo_array((rank, (low[kept], high[kept])), shape=shape).tocsr()
        )
        by_rank = np.empty(kept.size + 1, dtype=np.intp)
        by_rank[rank.astype(np.intp)] = used[kept]
        return cls(graph, by_rank[tree.data.astype(np.intp)])

    def solve(self, values: FloatArray) -> FloatArray:
        """Solve X_A τ = values: τ_head − τ_tail along the tree, from the ground on."""
        return self._forest.along(self.signs * values)

    def solve_transposed(self, values: FloatArray) -> FloatArray:
        """Solve X_Aᵀ y = values: add them up over all channels behind each anchor."""
        return self.signs * self._forest.behind(values)

    def signs_along(self, values: FloatArray) -> FloatArray:
        """Sign of each channel that makes values, one per parameter, positive along the tree."""
        return self._forest.along(np.sign(values[self.edges]), np.multiply)


class Pivots:
    """Anchors of a general matrix X of exponents, by a dense factorization.

    They are the strongest entries of θ, as far as their rows of X are independent.
    """

    def __init__(self, exponents: csr_array, theta: FloatArray) -> None:
        size = exponents.shape[1]
        order = np.argsort(-np.abs(theta), kind="stable")
        order = order[: np.count_nonzero(theta)]
        reduced = np.zeros((0, size))
        edges: list[int] = []
        for edge in order:
            row = exponents[[edge]].toarray()[0]
            rest = row - (row @ reduced.T) @ reduced
            rest -= (rest @ reduced.T) @ reduced
            length = np.linalg.norm(rest)
            if length > 1e-9 * np.linalg.norm(row):
                reduced, edges = np.vstack([reduced, rest / length]), [*edges, int(edge)]
            if len(edges) == size:
                break
        else:
            raise NotRecoverableError(
                f"the nonzero parameters rescale with {len(edges)} of {size} channels only, so "
                "that z and the laws do not determine the others",
                np.flatnonzero(theta == 0).tolist(),
            )
        self.edges = np.array(edges, dtype=np.intp)
        self._factors = scipy.linalg.lu_factor(exponents[self.edges].toarray())

    def solve(self, values: FloatArray) -> OnHidden:
        """Solve X_A τ = values."""
        return scipy.linalg.lu_solve(self._factors, values)

    def solve_transposed(self, values: FloatArray) -> OnHidden:
        """Solve X_Aᵀ y = values."""
        return scipy.linalg.lu_solve(self._factors, values, trans=1)


ChannelAnchors = SpanningTree | Pivots


def _evaluate(theta: FloatArray, chart: "Chart") -> FloatArray:
    return over_batch(chart._value, [theta], [1], (chart.dim,))


_coordinates = primitive(_evaluate)
# First derivatives only: both functions are closed to autograd themselves and say so.
defvjp(_coordinates, lambda ans, theta, chart: lambda g: chart.pull_back(theta, g))
defjvp(_coordinates, lambda g, ans, theta, chart: chart.push_forward(theta, g))


class Chart(Guarded, ABC):
    """Local coordinates on φ(𝓜_θ₀): one for each parameter that is no anchor."""

    laplacian: Laplacian

    @property
    def dim(self) -> int:
        """Number of coordinates, D less the number of channels."""
        return self.laplacian.dim - self.laplacian.n_channels

    @property
    def _sizes(self) -> tuple[int, int]:
        """Numbers of parameters and of laws."""
        return self.laplacian.dim, self.laplacian.n_channels

    def _facts(self) -> str:
        return f"{self.dim:,} coordinates"

    # What a kind of chart knows, at one θ, unchecked.

    @abstractmethod
    def _value(self, theta: FloatArray) -> FloatArray:
        """Coordinates."""

    @abstractmethod
    def _push(self, theta: FloatArray, tangent: FloatArray) -> FloatArray:
        """Push a velocity forward."""

    @abstractmethod
    def _pull(self, theta: FloatArray, form: FloatArray) -> FloatArray:
        """Pull a covector back."""

    @abstractmethod
    def _bend(self, theta: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
        """Second derivative."""

    @abstractmethod
    def _lift(self, theta: FloatArray, velocity: FloatArray) -> FloatArray:
        """Some velocity that is pushed forward to this one."""

    @abstractmethod
    def _recover(
        self, coordinates: FloatArray, laws: FloatArray, near: FloatArray | None = None
    ) -> FloatArray:
        """The point with these coordinates and laws."""

    @property
    def nonzero(self) -> IntArray:
        """Coordinates that vanish nowhere in the chart: none where the anchors are divided out."""
        return np.zeros(0, dtype=np.intp)

    # Along a flow: by default of a chart of all that never changes.

    def deficit(self, theta: OneTheta) -> float:
        """How far the chart has lost to others at θ, as a log-ratio."""
        return 0.0

    def reanchored(self, theta: OneTheta) -> "Chart":
        """Change to the best chart at θ."""
        return self

    def follow(self, theta: OneTheta, settled: OneTheta) -> OneTheta:
        """Give θ the signs of one before, where it left the chart."""
        return theta

    def is_left(self, theta: OneTheta, settled: OneTheta) -> bool:
        """Whether a step from a settled point to θ leads to an edge of the chart."""
        return False

    def handed_on(self, theta: OneTheta) -> Self:
        """Return the chart with the signs of θ."""
        return self

    def memory(self) -> dict[str, np.ndarray]:
        """Return the arrays that :meth:`restored` makes the chart from."""
        return {}

    def restored(self, memory: Mapping[str, np.ndarray]) -> "Chart":
        """Return the chart of the same network whose :meth:`memory` this is."""
        return self

    # The door.

    def _theta(self, theta: Theta, name: str = "theta") -> Theta:
        return as_array(theta, name, self._sizes[:1], differentiable=False)

    def _own(self, values: Tangent, name: str) -> Tangent:
        return as_array(values, name, (self.dim,), differentiable=False)

    def coordinates(self, theta: Theta) -> Tangent:
        """Evaluate the coordinates, differentiably to first order."""
        return _coordinates(as_array(theta, "theta", self._sizes[:1]), self)

    def push_forward(self, theta: Theta, tangent: Tangent) -> Tangent:
        """Push a velocity of θ forward to the coordinates, in O(D)."""
        arrays = [self._theta(theta), self._theta(tangent, "tangent")]
        return over_batch(self._push, arrays, [1, 1], (self.dim,))

    def pull_back(self, theta: Theta, covector: Tangent) -> Tangent:
        """Pull a covector on the coordinates back to θ: the transpose of :meth:`push_forward`."""
        return over_batch(self._pull, [self._theta(theta), self._own(covector, "covector")], [1, 1])

    def hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> Tangent:
        """Evaluate the second derivative of the coordinates, in O(D)."""
        vectors = [self._theta(tangent_a, "tangent_a"), self._theta(tangent_b, "tangent_b")]
        return over_batch(self._bend, [self._theta(theta), *vectors], [1, 1, 1], (self.dim,))

    def gram_apply(self, theta: Theta, covector: Tangent) -> Tangent:
        """Apply the Gram operator in these coordinates, in O(D)."""
        return self.push_forward(theta, self.pull_back(theta, covector))

    def lift_tangent(self, theta: Theta, velocity: Tangent) -> Tangent:
        """Find some velocity of θ that pushes forward to ``velocity``: a section, in O(D)."""
        theta, vector = self._theta(theta), self._own(velocity, "velocity")
        if theta.ndim == 1:
            return self._lift(theta, vector)
        return over_batch(self._lift, [theta, vector], [1, 1])

    def recover(self, coordinates: Tangent, laws: Laws, *, near: Theta | None = None) -> Theta:
        """Recover Ψ(z, h) from the coordinates, the exact inverse of :meth:`coordinates` on 𝓜_θ₀.

        Parameters
        ----------
        near : Theta, optional
            A point to start Newton's method from; the result does not depend on it.

        Returns
        -------
        theta : Theta
            With the signs that the chart carries.

        Raises
        ------
        NotRecoverableError
            Outside the chart, or dead parameters.
        """
        arrays = [
            self._own(coordinates, "coordinates"),
            as_array(laws, "laws", self._sizes[1:], differentiable=False),
        ]
        if near is not None:
            arrays.append(self._theta(near, "near"))
        return over_batch(self._recover, arrays, [1] * len(arrays), self._sizes[:1])
