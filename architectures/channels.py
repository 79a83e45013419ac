"""Channel graphs: which parameter rescales with which channel.

The rescaling symmetries of a network, θ_e ↦ e^{(Xτ)_e} θ_e, have an integer matrix X of one row
per parameter and one column per channel. Laws, recovery, tangent spaces and coordinates of the
image follow from X alone: no path is known here, no forward pass, and no networkx graph.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array, hstack, issparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import lsmr

from liftflow.architectures.anchors import EDGE, ChannelAnchors, Chart, Pivots, SpanningTree
from liftflow.architectures.incidence import Incidence, called, ends_of, refuse_idle
from liftflow.architectures.laplacian import GroundedLaplacian, Laplacian, MatrixLaplacian
from liftflow.architectures.maps import SmoothMap
from liftflow.doors import Guarded, door
from liftflow.errors import ArchitectureError, NotRecoverableError, listed
from liftflow.linalg import over_batch, sparse_apply
from liftflow.typing import (
    FloatArray,
    IntArray,
    Jacobian,
    Laws,
    OneTangent,
    OneTheta,
    OnHidden,
    Tangent,
    Theta,
    as_array,
    as_vector,
    refuse_beyond,
)

NEGLIGIBLE = 1e-10
"""Weights below this fraction of the typical one, in the flattest gauge, may as well be zero."""

_LARGE = 10**6  # parameters, of which a new array is dearer than a loop over the anchors


class ChannelLaws(SmoothMap):
    """The laws h = Xᵀθ² of a channel graph as a smooth map."""

    name = "the laws of channels"

    def __init__(self, graph: "ChannelGraph", blocks: Sequence[tuple[int, ...]] = ()) -> None:
        self.graph = graph
        self._set_up(graph.dim, (graph.n_channels,), blocks)

    def value(self, theta: Theta) -> Laws:
        return sparse_apply(theta**2, self.graph.law_matrix)

    def jvp(self, theta: Theta, tangent: Tangent) -> Laws:
        return 2.0 * sparse_apply(theta * tangent, self.graph.law_matrix)

    def hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> Laws:
        """Second derivative ∂²h[v, w], the same at every θ."""
        return self.jvp(tangent_a, tangent_b) + 0.0 * theta[..., :1]

    def vjp(self, theta: Theta, covector: Laws) -> Tangent:
        return 2.0 * theta * sparse_apply(covector, self.graph.exponents)

    def hvp(self, theta: Theta, tangent: Tangent, covector: Laws) -> Tangent:
        return self.vjp(tangent, covector) + 0.0 * theta

    def jacobian(self, theta: Theta) -> Jacobian:
        lead = float(math.prod(theta.shape[:-1]))
        what = f"a dense matrix of {self.size} × {self.dim} numbers"
        refuse_beyond(lead * self.size * self.dim, what)
        return 2.0 * self.graph.law_matrix.toarray() * theta[..., None, :]

    def solve(self, theta: Theta, tangent: Laws) -> Tangent:
        """Solve ∂h v = w for the shortest v, by a solve with the Laplacian of the channels."""

        def shortest(point: FloatArray, speed: FloatArray) -> Tangent:
            return point * self.graph.along(self.graph.laplacian.solve(point**2, speed / 2))

        return over_batch(shortest, [theta, tangent], [1, 1], (self.dim,))

    def rank(self, theta: OneTheta) -> int:
        """Number of channels, whose Laplacian is not singular."""
        self.graph.refuse_dead(theta)
        return self.size

    def terms(self, theta: Theta, tangent: Tangent | None = None) -> Laws:
        """The same sums over parameters, all positive."""
        factor, other = (1.0, theta) if tangent is None else (2.0, tangent)
        return factor * sparse_apply(np.abs(theta * other), self.graph.law_sums)


class ChannelGraph(Incidence, Guarded):
    r"""Channels and the ground, joined by parameters.

    A parameter e from channel u to channel v rescales by :math:`e^{τ_v − τ_u}`, in general by
    :math:`e^{(Xτ)_e}`. Parallel parameters, cycles and loops are welcome. The laws are
    :math:`h = X^\top θ^2`, for a graph :math:`h_c = \sum_{e → c} θ_e^2 − \sum_{c → e} θ_e^2`.
    Recovery of θ from a point of its orbit and the laws is a strictly convex problem.

    Parameters
    ----------
    tails, heads : array-like, shape=[dim]
        Channels at the ends of each parameter, −1 for the ground.
    members : sequence of hashable, optional
        What each channel is called in messages; by default its number.
    names : sequence of hashable, optional
        What each parameter is called in messages; by default its number.
    grids : sequence of Grid
        Parameters that BLAS and broadcasts serve; the others are handled one by one.
    stages : sequence of array, optional
        A partition of the channels, in the order in which a first guess of a rescaling sweeps over
        them. Channels of one stage share no parameter. By default found by colouring.

    Raises
    ------
    ArchitectureError
        An end that is neither a channel nor the ground, or a channel that no parameter rescales
        with.

    References
    ----------
    Ours; for layered networks, the laws of [Marcotte2023]_ and [MPG]_. Recovery at h = 0 is the
    rescaling of least norm of [Stock2019]_ and [Saul2023]_; the term in h, hence every invariant
    set, is ours.

    Examples
    --------
    >>> from liftflow.architectures import ChannelGraph
    >>> graph = ChannelGraph([-1, -1, 0], [0, 0, -1], 1)  # two parallel weights in, one out
    >>> print(graph.laws([1.0, 2.0, 3.0]))
    [-4.]
    """

    @classmethod
    @door
    def from_matrix(
        cls,
        matrix: Any,
        members: Sequence[Hashable] | None = None,
        names: Sequence[Hashable] | None = None,
    ) -> "ChannelGraph":
        """Make the symmetries of a general monomial lift from their matrix X.

        Parameters
        ----------
        matrix : array-like or sparse array, shape=[dim, n_channels]
            Integers of independent columns. A unit of degree k has −k at its out-edges.

        Returns
        -------
        graph : ChannelGraph
            With tails and heads where every row has at most one 1 and one −1.

        Raises
        ------
        ArchitectureError
            Not integers, or a channel that no parameter rescales with.
        """
        if not issparse(matrix):
            matrix = as_array(matrix, "matrix", (None, None), batch=False, differentiable=False)
        sparse = csr_array(matrix, dtype=np.float64)
        sparse.eliminate_zeros()
        if not np.array_equal(sparse.data, np.round(sparse.data)):
            raise ArchitectureError("the exponents of rescalings must be integers")
        ends = ends_of(sparse)
        if ends is None:
            return MonomialSymmetry(sparse, members, names)
        return cls(*ends, sparse.shape[1], members, names)

    # Laws and symmetries.

    @cached_property
    def h(self) -> ChannelLaws:
        """The laws as a smooth map, unchecked."""
        return ChannelLaws(self)

    def laws(self, theta: Theta) -> Any:
        """Evaluate the laws h = Xᵀθ², differentiably."""
        return self.h(self._theta(theta))

    def laws_jvp(self, theta: Theta, tangent: Tangent) -> Any:
        """Push a velocity of θ forward by the laws, ∂h(θ) v = 2 Xᵀ(θ ∘ v)."""
        return self.h.jvp(self._theta(theta), self._theta(tangent, "tangent"))

    def laws_jacobian(self, theta: Theta) -> Jacobian:
        """Jacobian ∂h(θ) = 2 Xᵀ D_θ as a dense matrix, shape=[..., n_channels, dim]."""
        return self.h.jacobian(self._theta(theta))

    @cached_property
    def laplacian(self) -> Laplacian:
        """Solver for ∂h ∂hᵀ / 4 = Xᵀ D_θ² X."""
        return GroundedLaplacian(self)

    def solve(self, theta: Theta, laws_tangent: Laws) -> Tangent:
        """Solve ∂h(θ) v = w for the shortest v."""
        return self.h.solve(self._numbers(theta), self._on_channels(laws_tangent))

    def to_horizontal(self, theta: Theta, vector: Tangent) -> Tangent:
        """Project orthogonally onto ker ∂h(θ), which is range ∂φ(θ)ᵀ at nonzero θ."""
        return self.h.project_to_kernel(self._numbers(theta), self._numbers(vector))

    def to_vertical(self, theta: Theta, vector: Tangent) -> Tangent:
        """Project orthogonally onto the orbit of the symmetry through θ, D_θ range X."""
        return vector - self.to_horizontal(theta, vector)

    def rescale(self, theta: Theta, logs: OnHidden) -> Theta:
        """Act by the symmetry, θ_e ↦ e^{(Xτ)_e} θ_e."""
        return over_batch(self.moved, [self._numbers(theta), self._on_channels(logs)], [1, 1])

    def moved(
        self, values: FloatArray, logs: FloatArray, out: FloatArray | None = None
    ) -> FloatArray:
        """Multiply one number per parameter by e^{(Xτ)_e}, unchecked."""
        return np.asarray(np.multiply(values, np.exp(self.along(logs)), out=out))

    def room(self) -> FloatArray:
        """Return a new array of one number per parameter, whatever they are."""
        return np.empty(self.dim)

    def pushed(
        self, theta: FloatArray, tangent: FloatArray, speeds: FloatArray, logs: FloatArray
    ) -> FloatArray:
        """Evaluate e^{Xτ}(v + θ ∘ Xτ'), unchecked."""
        moved = self.along(speeds)
        moved *= theta  # in place: of many parameters, memory is what takes the time
        moved += tangent
        return self.moved(moved, logs, moved)

    def rescaling(
        self, theta: FloatArray, laws: FloatArray, *, near: FloatArray | None = None
    ) -> FloatArray:
        """Find the τ that takes θ to these laws, unchecked.

        Parameters
        ----------
        near : array, optional, shape=[n_channels]
            A τ that nearly does.
        """
        if near is not None:
            theta = self.moved(theta, near)
        logs: FloatArray = self.laplacian.rescaling(theta**2, laws, warm=near is not None) / 2
        return logs if near is None else near + logs

    @door
    def project_to_laws(self, theta: Theta, laws: Laws, *, warm: bool = False) -> FloatArray:
        """Slide θ along its orbit to the one point where the laws have these values.

        Parameters
        ----------
        warm : bool
            Whether θ is close to that point.
        """
        near = np.zeros(self.n_channels) if warm else None

        def slide(point: FloatArray, values: FloatArray) -> OneTheta:
            return self.moved(point, self.rescaling(point, values, near=near))

        return over_batch(slide, [self._numbers(theta), self._on_channels(laws)], [1, 1])

    def conditioning(self, theta: OneTheta) -> float:
        """Smallest eigenvalue of the Laplacian at θ, scaled to a unit diagonal: from 0 to 1.

        1 without parameters between channels, 0 where a channel has no weight at all.
        """
        theta = self._one(theta)
        if not self.n_channels:
            return 1.0
        return self.laplacian.conditioning((theta / (np.max(np.abs(theta)) or 1.0)) ** 2)

    def negligible(self, theta: OneTheta) -> NDArray[np.bool_]:
        """Tell which nonzero weights are below ``NEGLIGIBLE`` in the flattest gauge.

        Among all rescalings of the channels and of θ as a whole, that one makes log |θ_e| as equal
        as can be, in the sense of least squares. So the answer does not depend on the scale of θ
        nor on its representative in the fibre.
        """
        used, tiny = np.flatnonzero(theta != 0), np.zeros(self.dim, dtype=bool)
        logs = np.log(np.abs(theta[used]))
        if logs.size and np.ptp(logs) >= -np.log(NEGLIGIBLE):
            matrix = hstack([self.law_matrix.T.tocsr()[used], np.ones((used.size, 1))]).tocsr()
            gauge = lsmr(matrix, logs, atol=1e-6, btol=1e-6, maxiter=500)[0]
            tiny[used] = logs - matrix @ gauge < np.log(NEGLIGIBLE)
        return tiny

    def dead(self, theta: OneTheta) -> IntArray:
        """List the parameters that lie on no nonzero walk from the ground to the ground.

        Where there are some, not every value of the laws is reached from θ; those at nonzero
        walks are rescaled all the same.
        """
        return np.flatnonzero(~self.walked(self._one(theta) != 0))

    @cached_property
    def _lives(self) -> bool:
        """Whether no parameter is dead where none is zero."""
        return bool(self.walked(np.ones(self.dim, dtype=bool)).all())

    def refuse_dead(self, theta: OneTheta) -> None:
        """Refuse a θ with dead parameters, unchecked."""
        if theta.all() and self._lives:
            return
        dead = np.flatnonzero(~self.walked(theta != 0))
        if dead.size:
            names = [self.names[edge] for edge in dead]
            raise NotRecoverableError(
                f"dead parameters: every path through {listed(map(repr, names))} passes through "
                "another weight that is zero, so no velocity of them is seen in z, which has no "
                "chart here; remove them from the graph or start from nonzero weights",
                names,
            )

    def chart(self, theta: Theta) -> "ChannelChart":
        """Take the parameters beside a spanning tree of anchors for coordinates near θ."""
        return ChannelChart.at(self, self._one(theta))

    def strongest_anchors(self, theta: FloatArray) -> ChannelAnchors:
        """Find the spanning tree of quotient and ground with the largest |θ_e|, unchecked."""
        return SpanningTree.strongest(self, theta)

    @cached_property
    def tree(self) -> SpanningTree:
        """Some spanning tree of the channels and the ground."""
        return SpanningTree.strongest(self, np.ones(self.dim))

    def joined(self, used: NDArray[np.bool_]) -> bool:
        """Whether the parameters that are used alone join all channels to the ground, unchecked."""
        if np.all(used):
            return True
        count = self.n_channels + 1  # with the ground, −1, as the last
        ends = self.tails[used] % count, self.heads[used] % count
        graph = csr_array((np.ones(ends[0].size), ends), shape=(count, count))
        return bool(connected_components(graph, directed=False, return_labels=False) == 1)

    # The door.

    def _theta(self, theta: Theta, name: str = "theta") -> Any:
        return as_array(theta, name, (self.dim,))

    def _numbers(self, theta: Theta, name: str = "theta") -> Theta:
        return as_array(theta, name, (self.dim,), differentiable=False)

    def _one(self, theta: OneTheta) -> OneTheta:
        return as_array(theta, "theta", (self.dim,), batch=False, differentiable=False)

    def _on_channels(self, values: Any) -> OnHidden:
        return as_array(values, "one number per channel", (self.n_channels,), differentiable=False)


@dataclass(frozen=True, eq=False, repr=False)
class ChannelChart(Chart):
    r"""Local coordinates on φ(𝓜_θ₀): parameters, with one anchor per channel divided out.

    With τ such that :math:`(Xτ)_a = −\log|θ_a|` on the anchors, the point
    :math:`\hat θ = e^{Xτ} θ` of the orbit has anchors ±1; its other D − C entries are coordinates,
    each a ratio of path products. They may be zero or change sign. No path is needed.

    Parameters
    ----------
    signs : array, shape=[n_channels]
        Signs of the anchors, which cannot change inside the chart.
    strength : array, shape=[n_channels]
        Sizes |θ_a| of the anchors where they were chosen.

    References
    ----------
    Ours.
    """

    graph: ChannelGraph
    laplacian: Laplacian
    anchors: ChannelAnchors
    signs: FloatArray
    strength: FloatArray

    @classmethod
    def at(cls, graph: ChannelGraph, theta: FloatArray) -> "ChannelChart":
        """Take the chart whose anchors are the strongest at θ."""
        anchors = graph.strongest_anchors(theta)
        own = theta[anchors.edges]
        return cls(graph, graph.laplacian, anchors, np.sign(own), np.abs(own))

    @cached_property
    def edges(self) -> IntArray:
        """The parameter behind each coordinate, shape=[dim]: all but the anchors."""
        kept = np.ones(self.graph.dim, dtype=bool)
        kept[self.anchors.edges] = False
        return np.flatnonzero(kept)

    def _gauge(self, theta: FloatArray) -> FloatArray:
        """The τ that takes the anchors to ±1."""
        return -self.anchors.solve(np.log(np.abs(theta[self.anchors.edges])))

    def _speeds(self, theta: FloatArray, tangent: FloatArray) -> Tangent:
        """Xτ' at each parameter."""
        own = self.anchors.edges
        return self.graph.along(-self.anchors.solve(tangent[own] / theta[own]))

    def _value(self, theta: FloatArray) -> FloatArray:
        return self.graph.moved(theta, self._gauge(theta))[self.edges]

    def _push(self, theta: FloatArray, tangent: FloatArray) -> FloatArray:
        own = self.anchors.edges
        speeds = -self.anchors.solve(tangent[own] / theta[own])
        return self._beside_anchors(self.graph.pushed(theta, tangent, speeds, self._gauge(theta)))

    def _beside_anchors(self, values: FloatArray) -> FloatArray:
        """Take the entries beside the anchors, out of an array that nobody else needs."""
        if values.size < _LARGE:
            return np.take(values, self.edges)
        for count, (a, b) in enumerate(pairwise(self._cuts)):
            values[a + 1 - count : b - count] = values[a + 1 : b]
        return values[: self.dim]

    @cached_property
    def _cuts(self) -> list[int]:
        return [-1, *np.sort(self.anchors.edges).tolist(), self.graph.dim]

    def _pull(self, theta: FloatArray, form: FloatArray) -> FloatArray:
        weight = np.zeros(self.graph.dim)
        weight[self.edges] = form
        weight = self.graph.moved(weight, self._gauge(theta))
        turned = self.anchors.solve_transposed(self.graph.h.jvp(theta, weight) / 2)
        weight[self.anchors.edges] -= turned / theta[self.anchors.edges]
        return weight

    def _bend(self, theta: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
        own = self.anchors.edges
        turn = self.graph.along(self.anchors.solve(a[own] * b[own] / theta[own] ** 2))
        speed_a, speed_b = self._speeds(theta, a), self._speeds(theta, b)
        bent = theta * (speed_a * speed_b + turn) + a * speed_b + b * speed_a
        return self.graph.moved(bent, self._gauge(theta))[self.edges]

    def _lift(self, theta: FloatArray, velocity: FloatArray) -> FloatArray:
        tangent = np.zeros((*velocity.shape[:-1], self.graph.dim))
        tangent[..., self.edges] = velocity
        return self.graph.moved(tangent, -self._gauge(theta))

    def representative(self, coordinates: OneTangent) -> OneTheta:
        """Rebuild θ̂, with anchors ±1."""
        return self._rebuilt(as_vector(coordinates, "coordinates", self.dim))

    def _rebuilt(self, given: FloatArray) -> FloatArray:
        theta = self.graph.room()
        if theta.size < _LARGE:
            theta[self.edges] = given
        else:
            for count, (a, b) in enumerate(pairwise(self._cuts)):
                theta[a + 1 : b] = given[a + 1 - count : b - count]
        theta[self.anchors.edges] = self.signs
        return theta

    def _recover(
        self, coordinates: FloatArray, laws: FloatArray, near: FloatArray | None = None
    ) -> OneTheta:
        theta, start = self._rebuilt(coordinates), None
        if near is not None and np.all(near[self.anchors.edges]):
            start = -self._gauge(near)
        return self.graph.moved(theta, self.graph.rescaling(theta, laws, near=start), theta)

    def memory(self) -> dict[str, np.ndarray]:
        return {"anchors": self.anchors.edges, "anchor_values": self.signs * self.strength}

    def restored(self, memory: Mapping[str, np.ndarray]) -> "ChannelChart":
        theta = np.zeros(self.graph.dim)
        theta[memory["anchors"]] = memory["anchor_values"]
        return ChannelChart.at(self.graph, theta)

    def deficit(self, theta: OneTheta) -> float:
        """By how much an anchor has shrunk since it was chosen, at most, as a log-ratio."""
        own = np.abs(as_vector(theta, "theta", self.graph.dim)[self.anchors.edges])
        with np.errstate(divide="ignore"):
            return float(np.max(np.log(self.strength) - np.log(own), initial=0.0))

    def is_left(self, theta: OneTheta, settled: OneTheta) -> bool:
        return self.deficit(theta) > EDGE

    def reanchored(self, theta: OneTheta) -> "ChannelChart":
        return ChannelChart.at(self.graph, self._theta(theta))


class MonomialSymmetry(ChannelGraph):
    """Rescalings of a general monomial lift, by their matrix X; see ChannelGraph.from_matrix."""

    def __init__(
        self,
        matrix: csr_array,
        members: Sequence[Hashable] | None = None,
        names: Sequence[Hashable] | None = None,
    ) -> None:
        self.dim, self.n_channels = matrix.shape
        self.members = called(members, self.n_channels, "members")
        self.names = called(names, self.dim, "names")
        self._exponents = matrix
        refuse_idle(np.diff(self.law_matrix.indptr) == 0, self.members)

    @cached_property
    def law_matrix(self) -> csr_array:
        return self._exponents.T.tocsr()

    @cached_property
    def laplacian(self) -> Laplacian:
        return MatrixLaplacian(self.law_matrix, self.members)

    def along(self, logs: FloatArray) -> FloatArray:
        return np.asarray(sparse_apply(logs, self._exponents))

    def walked(self, used: NDArray[np.bool_]) -> Any:
        """Whether the exponents of each parameter and those used add up to 0, all weights > 0."""
        alive = np.zeros(self.dim, dtype=bool)
        own = np.flatnonzero(used)
        if own.size:
            alive[own] = self._balanced(own, np.ones(own.size)) > 1e-9
        for edge in np.flatnonzero(~np.asarray(used)):
            wanted = np.append(np.zeros(own.size), 1.0)
            alive[edge] = self._balanced(np.append(own, edge), wanted)[-1] > 1e-9
        return alive

    def _balanced(self, edges: IntArray, wanted: FloatArray) -> FloatArray:
        """Weights ≥ 0 under which these rows add up to 0, the wanted up to 1 where they can be."""
        rows, count = self._exponents[edges], edges.size
        nothing = np.zeros(self.n_channels)
        # What is above 1 counts no more: then all that can be positive is.
        costs = np.append(-wanted, np.zeros(count))
        bounds = [(0.0, 1.0)] * count + [(0.0, None)] * count
        found = linprog(costs, A_eq=hstack([rows.T, rows.T]), b_eq=nothing, bounds=bounds)
        return np.asarray(found.x[:count] + found.x[count:])

    def strongest_anchors(self, theta: FloatArray) -> ChannelAnchors:
        """Take the largest |θ_e| with independent exponents, unchecked."""
        return Pivots(self._exponents, theta)

    def joined(self, used: NDArray[np.bool_]) -> bool:
        rows = self._exponents[np.flatnonzero(used)].toarray()
        return len(rows) >= self.n_channels == int(np.linalg.matrix_rank(rows))
