r"""The grounded graph Laplacian of a ReLU network, and recovery by a convex problem on it.

With one conservation law per hidden node, h(θ) = Aθ², half the Jacobian of the laws is
:math:`A D_θ`, and :math:`A D_θ^2 A^\top` is the Laplacian of the hidden nodes with edge weights
θ², grounded by the edges from inputs and biases and to outputs. Everything about recovery and the
tangent space of the invariant set is one solve with it; no path is enumerated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from scipy.sparse import csr_array

from liftflow.architectures.dag import CompiledDAG
from liftflow.doors import Guarded
from liftflow.errors import NotRecoverableError
from liftflow.typing import (
    FloatArray,
    IntArray,
    OneTangent,
    OnHidden,
    as_vector,
    freeze,
    refuse_beyond,
)

DENSE_LIMIT = 600
"""Number of hidden nodes up to which the Laplacian may be factored as a dense matrix."""

_DIRECT_LIMIT = 64  # up to here a factorization is quicker than the first steps of an iteration
_PATIENCE = 60  # steps of conjugate gradients after which a factorization is the better bet
_MAX_STEPS = 100
_CG_RTOL = 1e-12
_EPS = float(np.finfo(np.float64).eps)
_SAFE_STEP = 0.5  # the Hessian changes by a factor e at most within log-steps of this length


class _Network:
    """Edge weights as the hidden nodes see them: matrices between layers, and the ground.

    Layers that are complete are views of the weights and cost BLAS products; all other edges
    between hidden nodes make one sparse matrix.
    """

    def __init__(self, laplacian: "GroundedLaplacian", weights: OneTangent) -> None:
        dag = laplacian.dag
        size = dag.n_hidden
        self.from_ground, self.to_ground = np.zeros(size), np.zeros(size)
        self.layers: list[tuple[slice, slice, FloatArray]] = []
        for grid in dag.grids:
            matrix = weights[grid.part].reshape(grid.shape)
            if grid.tails is not None and grid.heads is not None:
                self.layers.append((grid.tails, grid.heads, matrix))
            elif grid.heads is not None:
                self.from_ground[grid.heads] += np.ones(grid.shape[0]) @ matrix
            elif grid.tails is not None:
                self.to_ground[grid.tails] += matrix @ np.ones(grid.shape[1])
        into, heads, out_of, tails = laplacian.loose_ground
        if into.size:
            self.from_ground += np.bincount(heads, weights[into], size)
        if out_of.size:
            self.to_ground += np.bincount(tails, weights[out_of], size)
        edges, columns, bounds = laplacian.loose_inner
        self.sparse = None  # to make an empty one would take longer than all that is above
        if edges.size:
            self.sparse = csr_array((weights[edges], columns, bounds), shape=(size, size))

    @property
    def has_inner(self) -> bool:
        """Whether any edge joins two hidden nodes."""
        return bool(self.layers) or self.sparse is not None

    def forward(self, values: FloatArray) -> FloatArray:
        """Σ_u w_uv x_u at each hidden node v, over hidden u."""
        result = np.zeros(values.size) if self.sparse is None else values @ self.sparse
        for tails, heads, matrix in self.layers:
            result[heads] += values[tails] @ matrix
        return result

    def backward(self, values: FloatArray) -> FloatArray:
        """Σ_v w_uv x_v at each hidden node u, over hidden v."""
        result = np.zeros(values.size) if self.sparse is None else self.sparse @ values
        for tails, heads, matrix in self.layers:
            result[tails] += matrix @ values[heads]
        return result

    def dense(self) -> FloatArray:
        """Weights between hidden nodes as an upper triangular matrix."""
        size = self.from_ground.size
        upper = np.zeros((size, size)) if self.sparse is None else self.sparse.toarray()
        for tails, heads, matrix in self.layers:
            upper[tails, heads] = matrix
        return upper


class _Rescaled:
    """The weights e^{t_v − t_u} w_uv, by their sums at the hidden nodes; they are never formed.

    Parameters
    ----------
    logs : OnHidden
        The rescaling t.
    """

    def __init__(self, network: _Network, logs: OnHidden, laws: OnHidden) -> None:
        self.network = network
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            self.heads, self.tails = np.exp(logs), np.exp(-logs)
            inflow = self.heads * (network.from_ground + network.forward(self.tails))
            grounded = self.tails * network.to_ground
            outflow = grounded + self.tails * network.backward(self.heads)
            self.diagonal = inflow + outflow
            self.gradient = inflow - outflow - laws
            value = float(inflow.sum() + grounded.sum() - laws @ logs)
        self.value = value if np.isfinite(value) else np.inf

    def coupling(self, values: FloatArray) -> FloatArray:
        """Apply the off-diagonal part of the Laplacian, with its sign turned."""
        forward = self.heads * self.network.forward(self.tails * values)
        return forward + self.tails * self.network.backward(self.heads * values)

    def dense(self) -> FloatArray:
        """Off-diagonal part of the Laplacian, with its sign turned."""
        upper = self.network.dense() * self.tails[:, None] * self.heads
        return upper + upper.T


def _conjugate_gradients(
    apply: Callable[[FloatArray], FloatArray], right: FloatArray, rtol: float, most_steps: int
) -> FloatArray | None:
    """Solve a positive definite system by conjugate gradients, or return None.

    As in scipy, but with inner products that stay on one thread: BLAS wakes its threads for each
    of them, which on long vectors and busy cores takes ten times as long as all the rest.
    """
    solution, residual = np.zeros_like(right), right.copy()
    direction, square = right.copy(), _dot(right, right)
    enough = rtol**2 * square
    for _ in range(most_steps):
        if square <= enough:
            return solution
        image = apply(direction)
        curvature = _dot(direction, image)
        if not curvature > 0:
            return None
        length = square / curvature
        solution += length * direction
        residual -= length * image
        square, before = _dot(residual, residual), square
        direction = residual + (square / before) * direction
    return solution if square <= enough else None


def _dot(one: FloatArray, other: FloatArray) -> float:
    return float(np.einsum("i,i", one, other))


@dataclass(frozen=True, eq=False)
class GroundedLaplacian(Guarded):
    """Solves with L = A D_w Aᵀ, the Laplacian of the hidden nodes for edge weights w ≥ 0."""

    dag: CompiledDAG

    @cached_property
    def loose_inner(self) -> tuple[IntArray, IntArray, IntArray]:
        """Edges between two hidden nodes outside the layers, in the order of a CSR matrix."""
        tails, heads = self.dag.tail_hidden[self.dag.loose], self.dag.head_hidden[self.dag.loose]
        inner = (tails >= 0) & (heads >= 0)
        edges, tails, heads = self.dag.loose[inner], tails[inner], heads[inner]
        order = np.lexsort((heads, tails))
        bounds = np.searchsorted(tails[order], np.arange(self.dag.n_hidden + 1))
        return freeze((edges[order], heads[order], bounds))

    @cached_property
    def loose_ground(self) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Edges outside the layers from the ground and to it, each with its hidden end."""
        tails, heads = self.dag.tail_hidden[self.dag.loose], self.dag.head_hidden[self.dag.loose]
        into, out_of = (tails < 0) & (heads >= 0), (tails >= 0) & (heads < 0)
        loose = self.dag.loose
        return freeze((loose[into], heads[into], loose[out_of], tails[out_of]))

    def _at(self, weights: FloatArray) -> _Rescaled:
        zero, weights = np.zeros(self.dag.n_hidden), as_vector(weights, "weights", self.dag.dim)
        return _Rescaled(_Network(self, weights), zero, zero)

    def matrix(self, weights: OneTangent) -> FloatArray:
        """Return the dense matrix.

        Parameters
        ----------
        weights : OneTangent
            Of the edges.

        Returns
        -------
        matrix : array, shape=[n_hidden, n_hidden]
        """
        size = self.dag.n_hidden
        refuse_beyond(float(size) ** 2, f"a dense matrix of {size} × {size} numbers")
        rescaled = self._at(weights)
        return np.diag(rescaled.diagonal) - rescaled.dense()

    def solve(self, weights: OneTangent, right: OnHidden) -> OnHidden:
        """Solve L x = ``right``, by Cholesky when small, else by preconditioned CG.

        Raises
        ------
        NotRecoverableError
            L is singular, to rounding: weights of zero, or tiny ones, cut some hidden nodes off.
        """
        right = as_vector(right, "right", self.dag.n_hidden)
        direct = self.dag.n_hidden <= DENSE_LIMIT
        return self._solve(self._at(weights), right, self._factored if direct else self._iterated)

    def _solve(
        self,
        at: _Rescaled,
        right: FloatArray,
        method: Callable[[_Rescaled, FloatArray, FloatArray], FloatArray],
    ) -> FloatArray:
        if not np.all(at.diagonal > 0):
            raise self._singular(np.flatnonzero(~(at.diagonal > 0)))
        if not at.network.has_inner:
            return right / at.diagonal
        # Scaled to a unit diagonal, L is as well conditioned as the graph lets it be.
        scale = 1.0 / np.sqrt(at.diagonal)
        return scale * method(at, scale, scale * right)

    def _factored(self, at: _Rescaled, scale: FloatArray, right: FloatArray) -> FloatArray:
        scaled = -at.dense() * scale[:, None] * scale
        np.fill_diagonal(scaled, 1.0)
        try:
            factor = scipy.linalg.cho_factor(scaled, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            raise self._singular(np.arange(right.size)) from None
        return scipy.linalg.cho_solve(factor, right, check_finite=False)

    def _iterated(
        self, at: _Rescaled, scale: FloatArray, right: FloatArray, rtol: float = _CG_RTOL
    ) -> FloatArray:
        direct = right.size <= DENSE_LIMIT
        solution = _conjugate_gradients(
            lambda x: x - scale * at.coupling(scale * x),
            right,
            rtol,
            _PATIENCE if direct else 10 * right.size,
        )
        if solution is not None:
            return solution
        if direct:
            return self._factored(at, scale, right)
        raise self._singular(np.arange(right.size))

    def _singular(self, hidden: IntArray) -> NotRecoverableError:
        names = [self.dag.nodes[node] for node in self.dag.hidden_nodes[hidden]]
        shown = ", ".join(repr(name) for name in names[:8])
        return NotRecoverableError(
            "the graph Laplacian of the hidden nodes is singular: the weights that tie some of "
            f"{shown}{', …' if len(names) > 8 else ''} to the inputs and the outputs are zero, or "
            "nothing beside the others in double precision",
            names,
        )

    def rescaling(self, weights: OneTangent, laws: OnHidden, *, warm: bool = False) -> OnHidden:
        r"""Find the rescaling t that takes squared weights w onto given laws.

        Minimises the strictly convex, coercive
        :math:`F(t) = \sum_{u→v} w_{uv} e^{t_v − t_u} − \sum_v h_v t_v` by damped Newton steps; its
        gradient is in − out − h and its Hessian the grounded Laplacian. A step is solved for as
        precisely as its own quadratic error deserves.

        Parameters
        ----------
        weights : OneTangent
            Squares of any representative θ̂ of the fibre.
        warm : bool
            Whether ``weights`` nearly have these laws, so that t = 0 is the place to start.
            Otherwise one sweep of exact minimisations node by node comes first.

        Returns
        -------
        logs : OnHidden
            :math:`t_v = \log λ_v^2`.

        Raises
        ------
        NotRecoverableError
            L is singular, or no minimiser was found.
        """
        weights = as_vector(weights, "weights", self.dag.dim)
        laws = as_vector(laws, "laws", self.dag.n_hidden)
        start = np.zeros(self.dag.n_hidden) if warm else self._sweep(weights, laws)
        if not warm:  # from here on t counts from where the sweep led: no exponential overflows
            padded = np.append(start, 0.0)  # number −1, a node that is not hidden, has t = 0
            with np.errstate(over="ignore", invalid="ignore"):
                change = padded[self.dag.head_hidden] - padded[self.dag.tail_hidden]
                weights = weights * np.exp(change)
        network, logs = _Network(self, weights), np.zeros_like(start)
        at = _Rescaled(network, logs, laws)
        if warm and not np.isfinite(at.value):
            return self.rescaling(weights, laws)
        for _ in range(_MAX_STEPS):
            with np.errstate(divide="ignore", invalid="ignore"):
                size = float(np.max(np.abs(at.gradient) / at.diagonal, initial=0.0))
            if size <= 2 * _EPS:
                return start + logs
            step = self._newton_step(at, size)
            length = float(np.max(np.abs(step), initial=0.0))
            slope = float(at.gradient @ step)
            fraction = min(1.0, 8 * _SAFE_STEP / length) if length > _SAFE_STEP else 1.0
            while True:
                trial = logs + fraction * step
                trial_at = _Rescaled(network, trial, laws)
                # Within a safe step Newton contracts by itself, and F has no digits left to say so.
                if length <= _SAFE_STEP or trial_at.value <= at.value + 1e-4 * fraction * slope:
                    break
                fraction /= 2
                if fraction < 1e-12:
                    raise NotRecoverableError("recovery stalled: no descent along a Newton step")
            logs, at = trial, trial_at
            if length <= 1e-8:  # quadratic convergence: what is left is below rounding
                return start + logs
        raise NotRecoverableError(
            f"recovery did not converge in {_MAX_STEPS} Newton steps (last step {length:.1e}); "
            "is z close to the edge of its orthant?"
        )

    def _newton_step(self, at: _Rescaled, size: float) -> FloatArray:
        if self.dag.n_hidden <= _DIRECT_LIMIT:
            return -self._solve(at, at.gradient, self._factored)
        # Newton's error is quadratic; and nothing below rounding is worth an iteration.
        rtol = min(0.1, max(size, 1e-16 / size)) if size > 0 else 0.1

        def iterated(at: _Rescaled, scale: FloatArray, right: FloatArray) -> FloatArray:
            return self._iterated(at, scale, right, rtol)

        return -self._solve(at, at.gradient, iterated)

    def _sweep(self, weights: FloatArray, laws: FloatArray) -> FloatArray:
        """Minimise F over one node after the other, along the generations."""
        dag = self.dag
        logs = np.zeros(dag.n_hidden + 1)
        parts = zip(dag.hidden_generations, dag.in_edges, dag.out_edges, strict=True)
        for hidden, into, out_of in parts:
            first = hidden[0]
            inflow = np.bincount(
                dag.head_hidden[into] - first, weights[into] * np.exp(-logs[dag.tail_hidden[into]])
            )
            outflow = np.bincount(
                dag.tail_hidden[out_of] - first,
                weights[out_of] * np.exp(logs[dag.head_hidden[out_of]]),
            )
            # e^t is the positive root of in·x² − h·x − out = 0, written without cancellation.
            law = laws[hidden]
            root = np.sqrt(law**2 + 4 * inflow * outflow)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(law >= 0, (law + root) / (2 * inflow), 2 * outflow / (root - law))
            usable = np.isfinite(ratio) & (ratio > 0)
            logs[hidden] = np.log(np.where(usable, ratio, 1.0))
        return logs[:-1]
