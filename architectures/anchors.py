"""Coordinates of an image by anchors: one parameter per channel is divided out of the others."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.linalg
from autograd.extend import defjvp, defvjp, primitive
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from liftflow.architectures.incidence import Incidence
from liftflow.architectures.laplacian import Laplacian
from liftflow.errors import NotRecoverableError, listed
from liftflow.linalg import over_batch
from liftflow.typing import FloatArray, IntArray, Laws, OneTheta, Tangent, Theta, as_array, as_vector


class ChannelAnchors(ABC):
    """A parameter per channel, such that the square matrix X_A of their exponents is regular.

    Attributes
    ----------
    edges : array, shape=[n_channels]
        Numbers of the anchors.
    """

    edges: IntArray

    @abstractmethod
    def solve(self, values: FloatArray) -> FloatArray:
        """Solve X_A τ = values."""

    @abstractmethod
    def solve_transposed(self, values: FloatArray) -> FloatArray:
        """Solve X_Aᵀ y = values."""


class SpanningTree(ChannelAnchors):
    """Anchors that are a spanning tree of the channels and the ground: O(channels) to solve.

    Parameters
    ----------
    graph : Incidence
        Which channels each parameter joins.
    edges : array, shape=[n_channels]
        The edges of the tree, in any order.
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
        self.channels, self.parents = order[1:], parents[order[1:]]
        if self.channels.size < ground:
            lost = np.setdiff1d(np.arange(ground), self.channels)
            raise NotRecoverableError(
                "no anchors join these channels to the ground: "
                f"{listed(map(repr, [graph.members[c] for c in lost]))}",
                [graph.members[c] for c in lost],
            )
        at = np.asarray(number[self.channels, self.parents]).ravel().astype(np.intp) - 1
        self.edges = edges[at]
        self.signs = np.where(heads[at] == self.channels, 1.0, -1.0)
        depth = np.zeros(ground + 1, dtype=np.intp)
        for channel, parent in zip(self.channels.tolist(), self.parents.tolist(), strict=True):
            depth[channel] = depth[parent] + 1
        cuts = np.flatnonzero(np.diff(depth[self.channels])) + 1
        self._levels = [
            slice(a, b) for a, b in zip(np.r_[0, cuts], np.r_[cuts, ground], strict=True)
        ]

    @classmethod
    def strongest(cls, graph: Incidence, theta: FloatArray) -> Self:
        """Find the spanning tree of the largest |θ_e|.

        Raises
        ------
        NotRecoverableError
            Zeros cut channels off from the ground; names them.
        """
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
        """Solve τ_head − τ_tail = values along the tree, from the ground on."""
        tau = np.zeros(self.graph.n_channels + 1)
        for level in self._levels:
            tau[self.channels[level]] = tau[self.parents[level]] + (self.signs * values)[level]
        return tau[:-1]

    def solve_transposed(self, values: FloatArray) -> FloatArray:
        """Add up the values of all channels behind each anchor."""
        total = np.append(values, 0.0)
        for level in self._levels[::-1]:
            np.add.at(total, self.parents[level], total[self.channels[level]])
        return self.signs * total[self.channels]


class Pivots(ChannelAnchors):
    """Anchors of a general matrix of exponents, by a dense factorization.

    Parameters
    ----------
    exponents : scipy.sparse.csr_array, shape=[dim, n_channels]
        The matrix X.
    theta : array, shape=[dim]
        Its strongest entries are taken, as far as their rows are independent.
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

    def solve(self, values: FloatArray) -> FloatArray:
        """Solve X_A τ = values."""
        return scipy.linalg.lu_solve(self._factors, values)

    def solve_transposed(self, values: FloatArray) -> FloatArray:
        """Solve X_Aᵀ y = values."""
        return scipy.linalg.lu_solve(self._factors, values, trans=1)


@primitive
def _coordinates(theta: FloatArray, chart: "ChannelChart") -> FloatArray:
    return over_batch(chart._divided, [theta], [1])


# First derivatives only: both functions are closed to autograd themselves and say so.
defvjp(_coordinates, lambda ans, theta, chart: lambda g: chart.pull_back(theta, g))
defjvp(_coordinates, lambda g, ans, theta, chart: chart.push_forward(theta, g))


@dataclass(frozen=True, eq=False)
class ChannelChart:
    r"""Local coordinates on φ(𝓜_θ₀): parameters, with one anchor per channel divided out.

    With τ such that :math:`(Xτ)_a = −\log|θ_a|` on the anchors, the point
    :math:`\hat θ = e^{Xτ} θ` of the orbit has anchors ±1; its other D − C entries are coordinates,
    each a ratio of path products. They may be zero or change sign. No path is needed.

    Parameters
    ----------
    graph : Incidence
        The channel graph, whose ``along(τ)`` is Xτ.
    laplacian : Laplacian
        Of the graph.
    anchors : ChannelAnchors
        One parameter per channel.
    signs : array, shape=[n_channels]
        Signs of the anchors, which cannot change inside the chart.
    strength : array, shape=[n_channels]
        Sizes |θ_a| of the anchors where they were chosen.

    References
    ----------
    Ours.
    """

    graph: Any
    laplacian: Laplacian
    anchors: ChannelAnchors
    signs: FloatArray
    strength: FloatArray

    @classmethod
    def at(cls, graph: Any, theta: FloatArray) -> "ChannelChart":
        """Take the chart whose anchors are the strongest at θ.

        Parameters
        ----------
        graph : ChannelGraph
            Whose parameters are the coordinates.
        """
        anchors = graph.strongest_anchors(theta)
        own = theta[anchors.edges]
        return cls(graph, graph.laplacian, anchors, np.sign(own), np.abs(own))

    @property
    def dim(self) -> int:
        """Number of coordinates, D − C."""
        return self.graph.dim - self.graph.n_channels

    @cached_property
    def edges(self) -> IntArray:
        """The parameter behind each coordinate, shape=[dim]: all but the anchors."""
        kept = np.ones(self.graph.dim, dtype=bool)
        kept[self.anchors.edges] = False
        return np.flatnonzero(kept)

    def _gauge(self, theta: FloatArray) -> FloatArray:
        """The τ that takes the anchors to ±1."""
        return -self.anchors.solve(np.log(np.abs(theta[self.anchors.edges])))

    def _divided(self, theta: FloatArray) -> FloatArray:
        return self.graph.moved(theta, self._gauge(theta))[self.edges]

    def _speeds(self, theta: FloatArray, tangent: FloatArray) -> FloatArray:
        """Xτ' at each parameter."""
        own = self.anchors.edges
        return -self.graph.along(self.anchors.solve(tangent[own] / theta[own]))

    def coordinates(self, theta: Theta) -> Any:
        """Evaluate the entries of θ̂ beside the anchors, differentiably to first order."""
        return _coordinates(as_array(theta, "theta", (self.graph.dim,)), self)

    def push_forward(self, theta: Theta, tangent: Tangent) -> FloatArray:
        r"""Push a velocity of θ forward: :math:`\hatθ' = e^{Xτ}θ' + \hatθ ∘ Xτ'`, in O(D)."""

        def push(point: FloatArray, vector: FloatArray) -> FloatArray:
            moved = vector + point * self._speeds(point, vector)
            return self.graph.moved(moved, self._gauge(point))[self.edges]

        return over_batch(push, [self._numbers(theta), self._numbers(tangent)], [1, 1])

    def pull_back(self, theta: Theta, covector: Tangent) -> FloatArray:
        """Pull a covector on the coordinates back to θ: the transpose of :meth:`push_forward`."""

        def pull(point: FloatArray, form: FloatArray) -> FloatArray:
            weight = np.zeros(self.graph.dim)
            weight[self.edges] = form
            weight = self.graph.moved(weight, self._gauge(point))
            turned = self.anchors.solve_transposed(self.graph.h.jvp(point, weight) / 2)
            weight[self.anchors.edges] -= turned / point[self.anchors.edges]
            return weight

        form = as_array(covector, "covector", (self.dim,), differentiable=False)
        return over_batch(pull, [self._numbers(theta), form], [1, 1])

    def hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> FloatArray:
        """Evaluate the second derivative of the coordinates, in O(D)."""

        def bend(point: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
            own = self.anchors.edges
            turn = self.graph.along(self.anchors.solve(a[own] * b[own] / point[own] ** 2))
            speed_a, speed_b = self._speeds(point, a), self._speeds(point, b)
            bent = point * (speed_a * speed_b + turn) + a * speed_b + b * speed_a
            return self.graph.moved(bent, self._gauge(point))[self.edges]

        arrays = [self._numbers(each) for each in (theta, tangent_a, tangent_b)]
        return over_batch(bend, arrays, [1, 1, 1])

    def gram_apply(self, theta: Theta, covector: Tangent) -> FloatArray:
        """Apply the Gram operator in these coordinates, K_θ₀ where θ is on the invariant set."""
        return self.push_forward(theta, self.pull_back(theta, covector))

    def lift_tangent(self, theta: Theta, velocity: Tangent) -> FloatArray:
        """Find the velocity of θ that pushes forward to this one and keeps the anchors still."""

        def lift(point: FloatArray, speed: FloatArray) -> FloatArray:
            tangent = np.zeros(self.graph.dim)
            tangent[self.edges] = speed
            return self.graph.moved(tangent, -self._gauge(point))

        speed = as_array(velocity, "velocity", (self.dim,), differentiable=False)
        return over_batch(lift, [self._numbers(theta), speed], [1, 1])

    def representative(self, coordinates: FloatArray) -> FloatArray:
        """Rebuild θ̂, with anchors ±1, from one array of coordinates."""
        theta = np.empty(self.graph.dim)
        theta[self.edges] = as_vector(coordinates, "coordinates", self.dim)
        theta[self.anchors.edges] = self.signs
        return theta

    def recover(self, coordinates: Tangent, laws: Laws, *, near: Theta | None = None) -> FloatArray:
        """Recover Ψ(z, h) from the coordinates, the inverse of :meth:`coordinates` on 𝓜_θ₀.

        Parameters
        ----------
        near : array-like, shape=[..., dim], optional
            A point to start Newton's method from; the result does not depend on it.

        Raises
        ------
        NotRecoverableError
            Dead parameters.
        """
        size = self.graph.n_channels
        arrays = [
            as_array(coordinates, "coordinates", (self.dim,), differentiable=False),
            as_array(laws, "laws", (size,), differentiable=False),
        ]
        if near is None:
            return over_batch(self._recover, arrays, [1, 1])
        return over_batch(self._recover, [*arrays, self._numbers(near)], [1, 1, 1])

    def _recover(
        self, coordinates: FloatArray, laws: FloatArray, near: FloatArray | None = None
    ) -> FloatArray:
        theta, warm = self.representative(coordinates), False
        if near is not None and np.all(near[self.anchors.edges]):
            theta, warm = self.graph.moved(theta, -self._gauge(near)), True
        logs = self.laplacian.rescaling(theta**2, laws, warm=warm)
        return self.graph.moved(theta, logs / 2)

    def deficit(self, theta: Theta) -> float:
        """By how much an anchor has shrunk since it was chosen, at most, as a log-ratio."""
        own = np.abs(self._numbers(theta)[self.anchors.edges])
        with np.errstate(divide="ignore"):
            return float(np.max(np.log(self.strength) - np.log(own), initial=0.0))

    def reanchored(self, theta: Theta) -> "ChannelChart":
        """Change to the chart with the strongest anchors at θ, signs as there."""
        return ChannelChart.at(self.graph, self._numbers(theta))

    def follow(self, theta: OneTheta, settled: OneTheta) -> OneTheta:
        """Return θ itself: anchors do not vanish where coordinates are finite."""
        return theta

    def handed_on(self, theta: OneTheta) -> "ChannelChart":
        """Return the chart itself, whose signs cannot change."""
        return self

    def memory(self) -> dict[str, Any]:
        """Arrays that :meth:`restored` makes the chart from."""
        return {"anchors": self.anchors.edges, "anchor_values": self.signs * self.strength}

    def restored(self, memory: Mapping[str, Any]) -> "ChannelChart":
        """Return the chart of the same graph whose :meth:`memory` this is."""
        theta = np.zeros(self.graph.dim)
        theta[memory["anchors"]] = memory["anchor_values"]
        return ChannelChart.at(self.graph, theta)

    def _numbers(self, theta: Theta) -> FloatArray:
        return as_array(theta, "theta", (self.graph.dim,), differentiable=False)
