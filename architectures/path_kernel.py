"""The kernel ∂φᵀ∂φ of a ReLU network on its parameters, by dynamic programming on the graph."""

import numpy as np
import scipy.linalg

from liftflow.architectures.dag import CompiledDAG
from liftflow.doors import Described, door
from liftflow.linalg import lengths
from liftflow.typing import (
    FloatArray,
    IntArray,
    Matrix,
    OneTangent,
    OneTheta,
    Scalars,
    as_own,
    as_vector,
    refuse_beyond,
)


class ParameterKernel(Described):
    r"""The D × D matrix ∂φ(θ)ᵀ∂φ(θ) at one θ, as an operator, its diagonal, or in full.

    Along a path through the edges e and e' the entries of ∂φ are the products of the other weights,
    so with e before e'

    .. math:: ⟨∂_e φ, ∂_{e'} φ⟩ = N(u) \, θ_e \, T(v, u') \, θ_{e'} \, S(v'), \qquad
        e = u → v, \; e' = u' → v',

    where N, T and S are the sums over the paths that lead to u, from v to u', and on from v', of
    the products of θ². No path is listed and nothing is divided by, so zero weights are welcome.

    References
    ----------
    Ours; the diagonal, N(u) S(v), is that of PathCond.
    """

    @door
    def __init__(self, dag: CompiledDAG, theta: OneTheta) -> None:
        self.dag, self.theta = dag, as_own(theta, "theta", (dag.dim,))
        self._squares = self.theta**2
        ends = np.zeros(len(dag.nodes) + 1)
        ends[: dag.n_inputs] = ends[-1] = 1.0
        self._before = self._summed(ends, np.zeros(dag.dim))[dag.tails]
        ends = np.zeros(len(dag.nodes) + 1)
        ends[dag.outputs] = 1.0
        self._after = self._summed(ends, np.zeros(dag.dim), back=True)[dag.heads]

    def _summed(self, nodes: FloatArray, edges: FloatArray, back: bool = False) -> FloatArray:
        """Solve r(v) = nodes(v) + Σ_{e: u→v} (edges_e + θ_e² r(u)) along the generations.

        Or back, against them: q(u) = nodes(u) + Σ_{e: u→v} (edges_e + θ_e² q(v)).
        """
        ends = (self.dag.heads, self.dag.tails) if back else (self.dag.tails, self.dag.heads)
        for block in self.dag.blocks[:: -1 if back else 1]:
            part = block.edges
            flow = edges[part] + self._squares[part] * nodes[ends[0][part]]
            nodes += np.bincount(ends[1][part], flow, nodes.size)
        return nodes

    def diagonal(self) -> OneTangent:
        """Squared norms of the columns of ∂φ, in O(edges)."""
        return self._before * self._after

    @door
    def apply(self, tangent: OneTangent) -> OneTangent:
        """Multiply by a vector in O(edges)."""
        tangent = as_vector(tangent, "tangent", self.dag.dim)
        before, after = self._before * self.theta, self.theta * self._after
        size = len(self.dag.nodes) + 1
        arriving = self._summed(np.zeros(size), before * tangent)[self.dag.tails]
        leaving = self._summed(np.zeros(size), after * tangent, back=True)[self.dag.heads]
        return self.diagonal() * tangent + before * leaving + after * arriving

    def _transfer(self) -> Matrix:
        """T(v, u') of all nodes: the inverse of I − W, for W = θ² above the diagonal."""
        size = len(self.dag.nodes) + 1
        inner = self.dag.tails < size - 1  # ⟨1⟩ has the last number, and nothing leads to it
        steps = np.eye(size)
        steps[self.dag.tails[inner], self.dag.heads[inner]] = -self._squares[inner]
        return scipy.linalg.solve_triangular(
            steps, np.eye(size), unit_diagonal=True, overwrite_b=True, check_finite=False
        )

    def matrix(self) -> FloatArray:
        """The full matrix, at the cost of writing it."""
        size = self.dag.dim
        refuse_beyond(float(size) ** 2, f"a dense matrix of {size} × {size} numbers")
        before, after = self._before * self.theta, self.theta * self._after
        transfer, blocks = self._transfer(), self.dag.blocks
        kernel = np.zeros((size, size))
        np.fill_diagonal(kernel, self.diagonal())
        for number, first in enumerate(blocks):
            heads = self.dag.members[first.head_generation]
            for second in blocks[number + 1 :]:
                if second.tail_generation < first.head_generation:
                    continue
                reach = transfer[heads][:, self.dag.tails[second.edges]] * after[second.edges]
                if first.contiguous and second.contiguous:
                    self._fill(kernel, first.edges, second.edges, before[first.edges], reach)
                else:
                    product = before[first.edges, None] * reach[first.columns]
                    kernel[np.ix_(first.edges, second.edges)] = product
                    kernel[np.ix_(second.edges, first.edges)] = product.T
        return kernel

    @staticmethod
    def _fill(
        kernel: FloatArray, rows: IntArray, columns: IntArray, before: FloatArray, reach: FloatArray
    ) -> None:
        """Write before[i, j] reach[j, e'] and its transpose without an array in between."""
        one, two = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        own = before.reshape(-1, len(reach))
        np.multiply(own[:, :, None], reach, out=kernel[one, two].reshape(*own.shape, -1))
        turned = np.ascontiguousarray(reach.T)[:, None, :]
        np.multiply(own, turned, out=kernel[two, one].reshape(-1, *own.shape))


def path_distance(dag: CompiledDAG, a: OneTheta, b: OneTheta) -> Scalars:
    """Distance ‖φ(a) − φ(b)‖ over all paths of a network, unchecked.

    Inner products of differences are propagated, so that close points lose no digits.
    """
    try:
        with np.errstate(over="raise", under="raise", invalid="raise"):
            square = np.sum(_squared_gaps(dag, a, b))
        if np.isfinite(square):
            return np.sqrt(square)
    except FloatingPointError:
        pass
    # Count each node in a power of two of its own, which the largest path to it fits in.
    size = np.maximum(np.abs(a), np.abs(b))
    powers = np.where(size > 0, np.frexp(size)[1], -(2**20))
    units = np.zeros(len(dag.nodes) + 1, dtype=np.intp)
    for edges in dag.edges_by_head_generation:
        heads, reach = dag.heads[edges], units[dag.tails[edges]] + powers[edges]
        units[heads] = np.iinfo(units.dtype).min
        np.maximum.at(units, heads, reach)
    shift = (units[dag.tails] - units[dag.heads]).astype(np.intc)
    squares = _squared_gaps(dag, np.ldexp(a, shift), np.ldexp(b, shift))
    return lengths(np.ldexp(np.sqrt(squares), units[dag.outputs].astype(np.intc)))


def _squared_gaps(dag: CompiledDAG, a: FloatArray, b: FloatArray) -> FloatArray:
    """Squared distance at each output, over the paths that end there."""
    # For the vectors A, B of products over the paths that end at a node: B·B, (A−B)·B and
    # (A−B)·(A−B), of which A a − B b = (A−B) a + B (a−b) makes the next ones.
    gap = a - b
    squares, mixed, gaps = (np.zeros(len(dag.nodes) + 1) for _ in range(3))
    squares[: dag.n_inputs] = squares[-1] = 1.0
    for edges in dag.edges_by_head_generation:
        tails, heads, size = dag.tails[edges], dag.heads[edges], len(squares)
        a_e, b_e, d_e = a[edges], b[edges], gap[edges]
        s, m, g = squares[tails], mixed[tails], gaps[tails]
        squares += np.bincount(heads, s * b_e**2, size)
        mixed += np.bincount(heads, b_e * (a_e * m + d_e * s), size)
        gaps += np.bincount(heads, a_e**2 * g + 2 * a_e * d_e * m + d_e**2 * s, size)
    return np.maximum(gaps[dag.outputs], 0.0)
