"""Charts of a network's image by a basis of D − |H| paths."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from autograd.extend import defjvp, defvjp, primitive

from liftflow.architectures.dag import CompiledDAG
from liftflow.architectures.laplacian import Laplacian
from liftflow.doors import Guarded
from liftflow.errors import NotRecoverableError
from liftflow.linalg import is_squarable, over_batch
from liftflow.typing import (
    FloatArray,
    IntArray,
    OneTangent,
    OneTheta,
    OnHidden,
    Tangent,
    Theta,
    as_array,
    as_instance,
    as_vector,
    freeze,
)


@dataclass(frozen=True, eq=False)
class Anchors:
    """One in-edge and one out-edge for every hidden node, and sums and products along them.

    Attributes
    ----------
    into, out_of : array, shape=[n_hidden]
        Parameter numbers of the anchor edges.
    """

    dag: CompiledDAG
    into: IntArray
    out_of: IntArray

    @classmethod
    def strongest(cls, dag: CompiledDAG, theta: OneTheta) -> "Anchors":
        """Anchor every hidden node on the path of largest product |θ_e| through it.

        Unlike the largest weight at each node, this choice is invariant under rescaling, so it
        depends on z alone, and the anchor paths vanish only where every path does.

        Raises
        ------
        NotRecoverableError
            All paths through some hidden node vanish; names the dead parameters.
        """
        logs = log_abs(theta)
        before, into = _best_prefix(dag, logs)
        after, out_of = _best_suffix(dag, logs)
        if not np.all(np.isfinite(before + after)):
            dag.channels.refuse_dead(theta)
        return cls(dag, into, out_of)

    def deficit(self, theta: OneTheta) -> float:
        """Largest log-ratio, over hidden nodes, of the best path product to the anchor's.

        Returns
        -------
        deficit : float
            Infinite where an anchor has vanished, NaN where all paths through a node have.
        """
        if self.dag.n_hidden == 0:
            return 0.0
        logs = log_abs(theta)
        best = _best_prefix(self.dag, logs)[0] + _best_suffix(self.dag, logs)[0]
        # A vanished anchor has an infinite deficit, a vanished node a deficit of NaN.
        own = self.sums_before(logs) + self.sums_after(logs)
        with np.errstate(invalid="ignore"):
            return float(np.max(best - own))

    def sums_before(self, values: OneTangent) -> OnHidden:
        """Sum of ``values`` along the anchor path from a start to each hidden node.

        Parameters
        ----------
        values : OneTangent
            One per edge.
        """
        return self._along(values, self.into, self.dag.tail_hidden, self._forward, np.add)

    def sums_after(self, values: OneTangent) -> OnHidden:
        """Sum of ``values`` along the anchor path from each hidden node to an output.

        Parameters
        ----------
        values : OneTangent
            One per edge.
        """
        return self._along(values, self.out_of, self.dag.head_hidden, self._backward, np.add)

    def products_before(self, values: OneTangent) -> OnHidden:
        """Product of ``values`` along the anchor path from a start to each hidden node.

        Parameters
        ----------
        values : OneTangent
            One per edge.
        """
        return self._along(values, self.into, self.dag.tail_hidden, self._forward, np.multiply)

    def products_after(self, values: OneTangent) -> OnHidden:
        """Product of ``values`` along the anchor path from each hidden node to an output.

        Parameters
        ----------
        values : OneTangent
            One per edge.
        """
        return self._along(values, self.out_of, self.dag.head_hidden, self._backward, np.multiply)

    @property
    def _forward(self) -> tuple[IntArray, ...]:
        return self.dag.hidden_generations

    @property
    def _backward(self) -> tuple[IntArray, ...]:
        return self.dag.hidden_generations[::-1]

    @staticmethod
    def _along(
        values: Any,
        anchors: IntArray,
        neighbours: IntArray,
        generations: tuple[IntArray, ...],
        combine: np.ufunc,
    ) -> Any:
        total = np.full(anchors.size + 1, combine.identity, dtype=values.dtype)
        for hidden in generations:
            edges = anchors[hidden]
            total[hidden] = combine(total[neighbours[edges]], values[edges])
        return total[:-1]

    def transposed_before(self, weights: OnHidden) -> OneTangent:
        """Apply the transpose of :meth:`sums_before`, from hidden nodes to edges."""
        return self._transposed(weights, self.into, self.dag.tail_hidden, self._backward)

    def transposed_after(self, weights: OnHidden) -> OneTangent:
        """Apply the transpose of :meth:`sums_after`, from hidden nodes to edges."""
        return self._transposed(weights, self.out_of, self.dag.head_hidden, self._forward)

    def _transposed(
        self,
        weights: FloatArray,
        anchors: IntArray,
        neighbours: IntArray,
        generations: tuple[IntArray, ...],
    ) -> FloatArray:
        total = np.append(weights, 0.0)
        for hidden in generations:
            np.add.at(total, neighbours[anchors[hidden]], total[hidden])
        result = np.zeros(self.dag.dim)
        result[anchors] = total[:-1]
        return result


def log_abs(theta: OneTheta) -> OneTangent:
    """Return log |θ|, −∞ at zeros."""
    with np.errstate(divide="ignore"):
        return np.log(np.abs(theta))


def _best_prefix(dag: CompiledDAG, logs: FloatArray) -> tuple[FloatArray, IntArray]:
    """Largest log-product from a start to each hidden node, and the edge it comes in by."""
    parts = zip(dag.hidden_generations, dag.channels.into, strict=True)
    return _best(dag.head_hidden, dag.tail_hidden, parts, logs, dag.n_hidden)


def _best_suffix(dag: CompiledDAG, logs: FloatArray) -> tuple[FloatArray, IntArray]:
    """Largest log-product from each hidden node to an output, and the edge it leaves by."""
    parts = zip(dag.hidden_generations[::-1], dag.channels.out_of[::-1], strict=True)
    return _best(dag.tail_hidden, dag.head_hidden, parts, logs, dag.n_hidden)


def _best(
    own: IntArray, other: IntArray, parts: Any, logs: FloatArray, n_hidden: int
) -> tuple[FloatArray, IntArray]:
    best = np.zeros(n_hidden + 1)
    choice = np.zeros(n_hidden, dtype=np.intp)
    for hidden, edges in parts:
        owners = own[edges] - hidden[0]
        values = logs[edges] + best[other[edges]]
        starts = np.searchsorted(owners, np.arange(hidden.size))
        best[hidden] = np.maximum.reduceat(values, starts)
        winners = np.flatnonzero(values == best[hidden][owners])
        first = np.unique(owners[winners], return_index=True)[1]
        choice[hidden] = edges[winners[first]]
    return best[:-1], choice


def follow_signs(dag: CompiledDAG, theta: OneTheta, near: OneTheta) -> OneTheta:
    """Flip hidden nodes so that every edge has the sign of ``near``, but those that vanish.

    Where all paths through a node vanish, either all its in-edges or all its out-edges change
    sign, and φ does not say which; the edges that are not small do. A spanning tree of the
    strongest ones, grounded at the inputs and outputs, decides for every node.

    Returns
    -------
    theta : OneTheta
        With the same φ and the same laws.
    """
    overlap = theta * near
    if not np.any(overlap < 0):
        return theta
    tree, signs, left = np.arange(dag.n_hidden + 1), np.ones(dag.n_hidden + 1), dag.n_hidden
    for edge in np.argsort(-np.abs(overlap), kind="stable"):
        tail, head = dag.tail_hidden[edge], dag.head_hidden[edge]  # −1, the last, is the ground
        if tree[tail] != tree[head]:
            joined = tree == tree[head]
            if signs[tail] * signs[head] * overlap[edge] < 0:
                signs[joined] *= -1.0
            tree[joined], left = tree[tail], left - 1
        if not left:
            break
    signs *= signs[-1]
    return theta * signs[dag.tail_hidden] * signs[dag.head_hidden]


@primitive
def _coordinates(theta: FloatArray, chart: "BasisPathChart") -> FloatArray:
    return over_batch(
        lambda t: chart._edge_products(t)[chart.edges], [theta], [1], shape=(chart.dim,)
    )


# First derivatives only: both functions are closed to autograd themselves and say so.
defvjp(_coordinates, lambda ans, theta, chart: lambda g: chart.pull_back(theta, g))
defjvp(_coordinates, lambda g, ans, theta, chart: chart.push_forward(theta, g))


@dataclass(frozen=True, eq=False)
class BasisPathChart(Guarded):
    """Local coordinates on φ(𝓜_θ₀): the products along D − |H| basis paths.

    Every hidden node has an anchor in-edge and an anchor out-edge. The basis path of an edge
    u → v runs along anchors to u, over the edge, and along anchors from v. The anchor edges of
    one node share a path, so exactly D − |H| are distinct. The chart covers the points where no
    anchor path vanishes; all other weights may be zero or change sign.

    Parameters
    ----------
    laplacian : Laplacian
        Of the network's channels.
    signs : OnHidden
        Sign of the product along the anchor path to each hidden node: what φ forgets, and what
        cannot change inside the chart.

    References
    ----------
    Cf. [Meng2019]_ for layered networks.
    """

    laplacian: Laplacian
    anchors: Anchors
    signs: OnHidden

    def __post_init__(self) -> None:
        """Freeze the arrays, on which those that are cached rest."""
        as_instance(self.laplacian, Laplacian, "laplacian")
        as_instance(self.anchors, Anchors, "anchors")
        as_vector(self.signs, "signs", self.dag.n_hidden)
        freeze((self.signs, self.anchors.into, self.anchors.out_of))

    @property
    def dag(self) -> CompiledDAG:
        """The compiled graph."""
        return self.anchors.dag

    @property
    def dim(self) -> int:
        """Number of coordinates, D − |H|."""
        return self.dag.dim - self.dag.n_hidden

    @cached_property
    def edges(self) -> IntArray:
        """The edge whose basis path is each coordinate, shape=[dim].

        All but the anchor out-edges, whose path is that of the anchor in-edge of their tail.
        """
        kept = np.ones(self.dag.dim, dtype=bool)
        kept[self.anchors.out_of] = False
        return freeze(np.flatnonzero(kept))

    @cached_property
    def coordinate_of_edge(self) -> IntArray:
        """Number of the coordinate that holds the basis path of each edge, shape=[D]."""
        number = np.full(self.dag.dim, -1)
        number[self.edges] = np.arange(self.dim)
        for hidden in self.dag.hidden_generations:
            number[self.anchors.out_of[hidden]] = number[self.anchors.into[hidden]]
        return freeze(number)

    def _theta(self, theta: Any, name: str = "theta") -> FloatArray:
        return as_array(theta, name, (self.dag.dim,), differentiable=False)

    def _edge_products(self, theta: FloatArray) -> FloatArray:
        """Product along the basis path of each edge, shape=[D]."""
        ends = self.anchors.products_before(theta), self.anchors.products_after(theta)
        return self.dag.channels.scaled(theta, *ends)

    def _ends(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Products ω along the anchors up to each edge's tail and from its head, shape=[D]."""
        before = np.append(self.anchors.products_before(theta), 1.0)
        after = np.append(self.anchors.products_after(theta), 1.0)
        return before[self.dag.tail_hidden], after[self.dag.head_hidden]

    def _end_sums(self, values: FloatArray) -> FloatArray:
        """Sum of ``values`` along the anchors before and after each edge, shape=[D]."""
        before = np.append(self.anchors.sums_before(values), 0.0)
        after = np.append(self.anchors.sums_after(values), 0.0)
        return before[self.dag.tail_hidden] + after[self.dag.head_hidden]

    def coordinates(self, theta: Theta) -> Tangent:
        """Evaluate the products along the basis paths, differentiably to first order."""
        return _coordinates(as_array(theta, "theta", (self.dag.dim,)), self)

    def push_forward(self, theta: Theta, tangent: Tangent) -> Tangent:
        r"""Push a velocity of θ forward to the coordinates, in O(edges).

        :math:`\dot z_b = z_b (α_{in}(u) + α_{out}(v)) + ω_{in}(u) ω_{out}(v) \dot θ_e`, with α the
        sums of :math:`\dot θ/θ` and ω the products of θ along the anchors.
        """
        arrays = [self._theta(theta), self._theta(tangent, "tangent")]
        return over_batch(self._push, arrays, [1, 1], shape=(self.dim,))

    def _push(self, theta: FloatArray, tangent: FloatArray) -> FloatArray:
        dag, anchors = self.dag, self.anchors
        rates = self._rates(theta, tangent)
        before, after = anchors.sums_before(rates), anchors.sums_after(rates)
        pushed = np.empty_like(theta)
        for tile in dag.channels.tiles:
            target = pushed[tile.part].reshape(tile.shape)
            target.fill(0.0)
            if tile.tails is not None:
                target += before[tile.tails, None]
            if tile.heads is not None:
                target += after[tile.heads]
            target *= theta[tile.part].reshape(tile.shape)
            target += tangent[tile.part].reshape(tile.shape)
        if dag.channels.loose.size:
            edges = dag.channels.loose
            pushed[edges] = theta[edges] * self._end_sums(rates)[edges] + tangent[edges]
        ends = anchors.products_before(theta), anchors.products_after(theta)
        return np.take(dag.channels.scaled(pushed, *ends, out=pushed), self.edges)

    def hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> Tangent:
        r"""Evaluate the second derivative of the coordinates, in O(edges).

        With α and ω as in :meth:`push_forward` and σ the sums of :math:`a_e b_e / θ_e^2` along
        the anchors, :math:`ω (θ_e (α_a α_b − σ) + a_e α_b + b_e α_a)`.

        Returns
        -------
        acceleration : Tangent
            Symmetric in its two vectors.
        """

        def bend(point: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
            before, after = self._ends(point)
            rates_a, rates_b = self._rates(point, a), self._rates(point, b)
            sums_a, sums_b = self._end_sums(rates_a), self._end_sums(rates_b)
            both = sums_a * sums_b - self._end_sums(rates_a * rates_b)
            return (before * after * (point * both + a * sums_b + b * sums_a))[self.edges]

        vectors = [self._theta(tangent_a, "tangent_a"), self._theta(tangent_b, "tangent_b")]
        return over_batch(bend, [self._theta(theta), *vectors], [1, 1, 1], shape=(self.dim,))

    def _rates(self, theta: FloatArray, tangent: FloatArray) -> FloatArray:
        """θ̇/θ on the anchors, the only edges where it is asked for."""
        rates = np.zeros_like(theta)
        used = self._anchor_edges
        rates[used] = tangent[used] / theta[used]
        return rates

    @cached_property
    def _anchor_edges(self) -> IntArray:
        return np.union1d(self.anchors.into, self.anchors.out_of)

    def pull_back(self, theta: Theta, covector: Tangent) -> Tangent:
        """Pull a covector on the coordinates back to θ: the transpose of :meth:`push_forward`."""

        def pull(point: FloatArray, form: FloatArray) -> FloatArray:
            before, after = self._ends(point)
            weight = np.zeros(self.dag.dim)
            weight[self.edges] = form
            weight *= before * after
            size = self.dag.n_hidden
            along = weight * point
            tails = np.bincount(self.dag.tail_hidden + 1, along, size + 1)[1:]
            heads = np.bincount(self.dag.head_hidden + 1, along, size + 1)[1:]
            sums = self.anchors.transposed_before(tails) + self.anchors.transposed_after(heads)
            return weight + self._rates(point, sums)

        form = as_array(covector, "covector", (self.dim,), differentiable=False)
        return over_batch(pull, [self._theta(theta), form], [1, 1])

    def gram_apply(self, theta: Theta, covector: Tangent) -> Tangent:
        """Apply ∂φ_B ∂φ_Bᵀ, the Gram operator in these coordinates, in O(edges).

        Returns
        -------
        image : Tangent
            With θ on the invariant set, K_θ₀ times the covector: no path is listed.
        """
        return self.push_forward(theta, self.pull_back(theta, covector))

    def representative(self, coordinates: OneTangent) -> OneTangent:
        """Rebuild the point θ̂ of the fibre whose anchor in-edges are all 1.

        One division per edge: :math:`θ̂_{u→v} = z_e / z_{a(v)}` for hidden v,
        :math:`θ̂_{u→o} = z_e` for an output o.

        Parameters
        ----------
        coordinates : OneTangent
            Products along the basis paths.

        Raises
        ------
        NotRecoverableError
            An anchor path vanishes: the point is not covered by this chart.
        """
        own = as_vector(coordinates, "coordinates", self.dim)
        return self._at_scale(own, np.ones(self.dag.n_hidden))

    def _at_scale(self, coordinates: FloatArray, scale: FloatArray) -> FloatArray:
        """Rebuild the point of the fibre with these products λ along the anchors to each node."""
        products = np.take(coordinates, self.coordinate_of_edge)
        anchors = products[self.anchors.into]
        if not np.all(anchors):
            node = self.dag.hidden_nodes[int(np.flatnonzero(anchors == 0)[0])]
            raise NotRecoverableError(
                f"the anchor path through {self.dag.nodes[node]!r} vanishes at these coordinates: "
                "they are outside the chart; take network.basis_chart(theta) at a point nearby"
            )
        return self.dag.channels.scaled(products, 1.0 / scale, scale / anchors, out=products)

    def recover(self, coordinates: Tangent, laws: OnHidden, *, near: Theta | None = None) -> Theta:
        """Recover Ψ(z, h) from the coordinates, the exact inverse of :meth:`coordinates` on 𝓜_θ₀.

        Parameters
        ----------
        coordinates : Tangent
            Products along the basis paths.
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
            as_array(coordinates, "coordinates", (self.dim,), differentiable=False),
            as_array(laws, "laws", (self.dag.n_hidden,), differentiable=False),
        ]
        if near is not None:
            arrays.append(self._theta(near, "near"))
        return over_batch(self._recover, arrays, [1] * len(arrays), shape=(self.dag.dim,))

    def _recover(
        self, coordinates: FloatArray, laws: FloatArray, near: FloatArray | None = None
    ) -> FloatArray:
        scale, warm = np.ones(self.dag.n_hidden), False
        sizes = np.abs(coordinates[self.coordinate_of_edge[self.anchors.into]])
        if not is_squarable(sizes):  # along anchor paths all weights start with one size
            steps = np.ones(self.dag.dim)
            before, after = self.anchors.sums_before(steps), self.anchors.sums_after(steps)
            scale = sizes ** (before / (before + after))
        if near is not None:
            guess = np.abs(self.anchors.products_before(near))
            if np.all(guess > 0) and np.all(np.isfinite(guess)):
                scale, warm = guess, True
        theta = self._at_scale(coordinates, self.signs * scale)
        logs = self.laplacian.rescaling(theta**2, laws, warm=warm)
        factors = np.exp(logs / 2)
        return self.dag.channels.scaled(theta, 1.0 / factors, factors, out=theta)

    def lift_tangent(self, theta: Theta, velocity: Tangent) -> Tangent:
        """Find some velocity of θ that pushes forward to ``velocity``: a section, in O(edges).

        Returns
        -------
        tangent : Tangent
            It keeps the anchor in-edges still.
        """
        theta = self._theta(theta)
        vector = as_array(velocity, "velocity", (self.dim,), differentiable=False)
        if theta.ndim == 1:
            return self._lift_tangent(theta, vector)
        return over_batch(self._lift_tangent, [theta, vector], [1, 1])

    def _lift_tangent(self, theta: FloatArray, velocity: FloatArray) -> FloatArray:
        before, after = self._ends(theta)
        target = velocity[..., self.coordinate_of_edge]
        products = before * theta * after
        # Relative speed of z_{a(v)}, which is that of ω_out(v) when the anchors in are still.
        rate = target[..., self.anchors.into] / products[self.anchors.into]
        rate = np.concatenate([rate, np.zeros((*rate.shape[:-1], 1))], axis=-1)
        head_rate = rate[..., self.dag.head_hidden]
        return (target - products * head_rate) / (before * after)

    def deficit(self, theta: OneTheta) -> float:
        """How far the anchors have lost to their alternatives at θ, as a log-ratio.

        Returns
        -------
        deficit : float
            Largest log-ratio, over hidden nodes, of the best path product through the node to
            that of its anchors: 0 at the θ the chart was made at, ∞ at the edge of the chart.
        """
        return self.anchors.deficit(as_vector(theta, "theta", self.dag.dim))

    def follow(self, theta: OneTheta, settled: OneTheta) -> OneTheta:
        """Give a θ beyond the edge of the chart, where anchors vanish, the signs of one before."""
        used = self._anchor_edges
        if np.any(theta[used] * settled[used] < 0):
            return follow_signs(self.dag, theta, settled)
        return theta

    def handed_on(self, theta: OneTheta) -> "BasisPathChart":
        """Return the chart with the signs of θ, which it may have taken beyond its edge."""
        signs = self.anchors.products_before(np.sign(theta))
        return self if np.array_equal(signs, self.signs) else replace(self, signs=signs)

    def memory(self) -> dict[str, Any]:
        """Arrays that :meth:`restored` makes the chart from."""
        return {"into": self.anchors.into, "out_of": self.anchors.out_of, "signs": self.signs}

    def restored(self, memory: Mapping[str, Any]) -> "BasisPathChart":
        """Return the chart of the same network whose :meth:`memory` this is."""
        anchors = Anchors(self.dag, memory["into"], memory["out_of"])
        return replace(self, anchors=anchors, signs=memory["signs"])

    def reanchored(self, theta: OneTheta) -> "BasisPathChart":
        """Change to the chart with the strongest anchors at θ, handing the signs on."""
        return make_chart(self.dag, as_vector(theta, "theta", self.dag.dim))


def make_chart(dag: CompiledDAG, theta: OneTheta) -> BasisPathChart:
    """Chart with the strongest anchors at θ, and the signs of θ."""
    anchors = Anchors.strongest(dag, theta)
    signs = anchors.products_before(np.sign(theta))
    return BasisPathChart(dag.channels.laplacian, anchors, signs)
