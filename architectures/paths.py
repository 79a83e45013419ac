"""Charts of a network's image by a basis of D − |H| paths."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from liftflow.architectures.anchors import EDGE, REANCHOR_RATIO, Chart, Forest
from liftflow.architectures.dag import CompiledDAG
from liftflow.architectures.laplacian import Laplacian
from liftflow.architectures.signs import follow_signs
from liftflow.errors import InputError, NotRecoverableError
from liftflow.linalg import is_squarable
from liftflow.typing import (
    FloatArray,
    IntArray,
    OneTangent,
    OneTheta,
    OnHidden,
    Tangent,
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
        """
        logs = log_abs(theta)
        into, out_of = np.zeros((2, dag.n_hidden), dtype=np.intp)
        best = _best(dag, logs, into) + _best(dag, logs, out_of, back=True)
        if not np.all(np.isfinite(best)):
            dag.channels.refuse_dead(theta)
        return cls(dag, into, out_of)

    def deficits(self, theta: OneTheta) -> OnHidden:
        """Log-ratio of the best path product through each hidden node to the anchor's.

        Infinite where an anchor vanishes, NaN where all paths do.
        """
        logs = log_abs(theta)
        best = _best(self.dag, logs) + _best(self.dag, logs, back=True)
        own = self.before(logs) + self.after(logs)
        with np.errstate(invalid="ignore"):
            return np.asarray(best - own)

    def deficit(self, theta: OneTheta) -> float:
        """Largest log-ratio, over hidden nodes, of the best path product to the anchor's."""
        return float(np.max(self.deficits(theta), initial=0.0))

    @cached_property
    def _before(self) -> Forest:
        return Forest(self.dag.tail_hidden[self.into], self.dag.hidden_generations)

    @cached_property
    def _after(self) -> Forest:
        return Forest(self.dag.head_hidden[self.out_of], self.dag.hidden_generations[::-1])

    def before(self, values: OneTangent, combine: np.ufunc = np.add) -> OnHidden:
        """Sum of ``values``, or product, along the anchor path from a start to each node."""
        return self._before.along(values[self.into], combine)

    def after(self, values: OneTangent, combine: np.ufunc = np.add) -> OnHidden:
        """Sum of ``values``, or product, along the anchor path from each node to an output."""
        return self._after.along(values[self.out_of], combine)

    def products(self, theta: OneTheta) -> tuple[OnHidden, OnHidden]:
        """Multiply the weights along the anchor paths to each hidden node, and from it."""
        return self.before(theta, np.multiply), self.after(theta, np.multiply)

    def transposed(self, before: OnHidden, after: OnHidden) -> OneTangent:
        """Apply the transposes of both sums, from hidden nodes to edges."""
        result = np.zeros(self.dag.dim)
        result[self.into] = self._before.behind(before)
        result[self.out_of] += self._after.behind(after)
        return result


def log_abs(theta: OneTheta) -> OneTangent:
    """Return log |θ|, −∞ at zeros."""
    with np.errstate(divide="ignore"):
        return np.log(np.abs(theta))


def _best(
    dag: CompiledDAG, logs: FloatArray, choice: IntArray | None = None, *, back: bool = False
) -> FloatArray:
    """Largest log-product from a start to each hidden node, or back from an output.

    ``choice`` is filled with the edges that they come by, if it is given.
    """
    own, other, graph = dag.head_hidden, dag.tail_hidden, dag.channels
    parts = list(zip(dag.hidden_generations, graph.into, strict=True))
    if back:
        own, other = other, own
        parts = list(zip(dag.hidden_generations, graph.out_of, strict=True))[::-1]
    best = np.zeros(dag.n_hidden + 1)
    for hidden, edges in parts:
        owners = own[edges] - hidden[0]
        values = logs[edges] + best[other[edges]]
        numbers = np.arange(hidden.size)
        best[hidden] = np.maximum.reduceat(values, owners.searchsorted(numbers))
        if choice is not None:
            winners = (values == best[hidden][owners]).nonzero()[0]
            choice[hidden] = edges[winners[owners[winners].searchsorted(numbers)]]
    return best[:-1]


@dataclass(frozen=True, eq=False, repr=False)
class BasisPathChart(Chart):
    """Local coordinates on φ(𝓜_θ₀): the products along D − |H| basis paths.

    Every hidden node has an anchor in-edge and an anchor out-edge. The basis path of an edge
    u → v runs along anchors to u, over the edge, and along anchors from v. The anchor edges of
    one node share a path, so exactly D − |H| are distinct. The chart covers the points where no
    anchor path vanishes; all other weights may be zero or change sign.

    Parameters
    ----------
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

    @property
    def nonzero(self) -> IntArray:
        """Coordinates that vanish nowhere in the chart: those along the anchors."""
        return self.coordinate_of_edge[self.anchors.into]

    def _ends(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Products ω along the anchors up to each edge's tail and from its head, shape=[D]."""
        before, after = (np.append(own, 1.0) for own in self.anchors.products(theta))
        return before[self.dag.tail_hidden], after[self.dag.head_hidden]

    def _end_sums(self, values: FloatArray) -> OneTangent:
        """Sum of ``values`` along the anchors before and after each edge, shape=[D]."""
        before = np.append(self.anchors.before(values), 0.0)
        after = np.append(self.anchors.after(values), 0.0)
        return before[self.dag.tail_hidden] + after[self.dag.head_hidden]

    def _value(self, theta: FloatArray) -> FloatArray:
        return self.dag.channels.scaled(theta, *self.anchors.products(theta))[self.edges]

    def _push(self, theta: FloatArray, tangent: FloatArray) -> FloatArray:
        # With α the sums of θ'/θ and ω the products of θ along the anchors, the coordinate z of
        # u → v moves by z (α_in(u) + α_out(v)) + ω_in(u) ω_out(v) θ'.
        dag, anchors = self.dag, self.anchors
        rates = self._rates(theta, tangent)
        before, after = anchors.before(rates), anchors.after(rates)
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
        scaled = dag.channels.scaled(pushed, *anchors.products(theta), out=pushed)
        return np.take(scaled, self.edges)

    def _bend(self, theta: FloatArray, a: FloatArray, b: FloatArray) -> Tangent:
        # With σ the sums of a b / θ² along the anchors, ω (θ (α_a α_b − σ) + a α_b + b α_a).
        before, after = self._ends(theta)
        rates_a, rates_b = self._rates(theta, a), self._rates(theta, b)
        sums_a, sums_b = self._end_sums(rates_a), self._end_sums(rates_b)
        both = sums_a * sums_b - self._end_sums(rates_a * rates_b)
        return (before * after * (theta * both + a * sums_b + b * sums_a))[self.edges]

    def _rates(self, theta: FloatArray, tangent: FloatArray) -> FloatArray:
        """θ̇/θ on the anchors, the only edges where it is asked for."""
        rates = np.zeros_like(theta)
        used = self._anchor_edges
        rates[used] = tangent[used] / theta[used]
        return rates

    @cached_property
    def _anchor_edges(self) -> IntArray:
        return np.union1d(self.anchors.into, self.anchors.out_of)

    def _pull(self, theta: FloatArray, form: FloatArray) -> FloatArray:
        before, after = self._ends(theta)
        weight = np.zeros(self.dag.dim)
        weight[self.edges] = form
        weight *= before * after
        size, along = self.dag.n_hidden, weight * theta
        tails = np.bincount(self.dag.tail_hidden + 1, along, size + 1)[1:]
        heads = np.bincount(self.dag.head_hidden + 1, along, size + 1)[1:]
        sums = self.anchors.transposed(tails, heads)
        return weight + self._rates(theta, sums)

    def representative(self, coordinates: OneTangent) -> OneTangent:
        """Rebuild the point θ̂ of the fibre whose anchor in-edges are all 1.

        One division per edge: :math:`θ̂_{u→v} = z_e / z_{a(v)}` for hidden v,
        :math:`θ̂_{u→o} = z_e` for an output o.

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

    def _recover(
        self, coordinates: FloatArray, laws: FloatArray, near: FloatArray | None = None
    ) -> FloatArray:
        scale, warm = np.ones(self.dag.n_hidden), False
        sizes = np.abs(coordinates[self.coordinate_of_edge[self.anchors.into]])
        if not is_squarable(sizes):  # along anchor paths all weights start with one size
            steps = np.ones(self.dag.dim)
            before, after = self.anchors.before(steps), self.anchors.after(steps)
            scale = sizes ** (before / (before + after))
        if near is not None:
            guess = np.abs(self.anchors.before(near, np.multiply))
            if np.all(guess > 0) and np.all(np.isfinite(guess)):
                scale, warm = guess, True
        theta = self._at_scale(coordinates, self.signs * scale)
        logs = self.laplacian.rescaling(theta**2, laws, warm=warm)
        factors = np.exp(logs / 2)
        return self.dag.channels.scaled(theta, 1.0 / factors, factors, out=theta)

    def _lift(self, theta: FloatArray, velocity: FloatArray) -> FloatArray:
        before, after = self._ends(theta)
        target = velocity[..., self.coordinate_of_edge]
        products = before * theta * after
        # Relative speed of z_{a(v)}, which is that of ω_out(v) when the anchors in are still.
        rate = target[..., self.anchors.into] / products[self.anchors.into]
        rate = np.concatenate([rate, np.zeros((*rate.shape[:-1], 1))], axis=-1)
        head_rate = rate[..., self.dag.head_hidden]
        return (target - products * head_rate) / (before * after)

    def deficit(self, theta: OneTheta) -> float:
        """How far the anchors have lost to their alternatives at θ, as a log-ratio."""
        return self.anchors.deficit(as_vector(theta, "theta", self.dag.dim))

    def follow(self, theta: OneTheta, settled: OneTheta) -> OneTheta:
        """Give a θ beyond the edge of the chart, where anchors vanish, the signs of one before."""
        theta, settled = self._pair(theta, settled)
        used = self._anchor_edges
        if np.any(theta[used] * settled[used] < 0):
            return follow_signs(self.dag.channels, theta, settled)
        return theta

    def is_left(self, theta: OneTheta, settled: OneTheta) -> bool:
        """Whether an anchor vanishes between two points, nearly, and other paths do not."""
        theta, settled = self._pair(theta, settled)
        used = self._anchor_edges
        now, before = theta[used] * np.sign(settled[used]), np.abs(settled[used])
        if np.all(REANCHOR_RATIO * now > before):
            return False
        kept = np.minimum(np.abs(theta), np.abs(settled)) * (theta * settled > 0)
        return bool(np.nanmax(self.anchors.deficits(kept), initial=0.0) > EDGE)

    def _pair(self, theta: OneTheta, settled: OneTheta) -> tuple[OneTheta, OneTheta]:
        dim = self.dag.dim
        return as_vector(theta, "theta", dim), as_vector(settled, "settled", dim)

    def handed_on(self, theta: OneTheta) -> "BasisPathChart":
        """Return the chart with the signs of θ, which it may have taken beyond its edge."""
        own = as_vector(theta, "theta", self.dag.dim)
        signs = self.anchors.before(np.sign(own), np.multiply)
        return self if np.array_equal(signs, self.signs) else replace(self, signs=signs)

    def memory(self) -> dict[str, np.ndarray]:
        return {"into": self.anchors.into, "out_of": self.anchors.out_of, "signs": self.signs}

    def restored(self, memory: Mapping[str, np.ndarray]) -> "BasisPathChart":
        as_instance(memory, Mapping, "memory")
        if missing := self.memory().keys() - memory.keys():
            raise InputError(f"memory must be that of a chart, got none of {sorted(missing)}")
        anchors = Anchors(self.dag, memory["into"], memory["out_of"])
        return replace(self, anchors=anchors, signs=memory["signs"])

    def reanchored(self, theta: OneTheta) -> "BasisPathChart":
        return make_chart(self.dag, as_vector(theta, "theta", self.dag.dim))


def make_chart(dag: CompiledDAG, theta: OneTheta) -> BasisPathChart:
    """Chart with the strongest anchors at θ, and the signs of θ."""
    anchors = Anchors.strongest(dag, theta)
    signs = anchors.before(np.sign(theta), np.multiply)
    return BasisPathChart(dag.channels.laplacian, anchors, signs)
