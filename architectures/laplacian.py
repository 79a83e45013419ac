r"""The grounded graph Laplacian of a ReLU network, and recovery by a convex problem on it.

With one conservation law per hidden node, h(θ) = Aθ², half the Jacobian of the laws is
:math:`A D_θ`, and :math:`A D_θ^2 A^\top` is the Laplacian of the hidden nodes with edge weights
θ², grounded by the edges from inputs and biases and to outputs. Everything about recovery and the
tangent space of the invariant set is one solve with it; no path is enumerated.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, cg

from liftflow.architectures.dag import CompiledDAG
from liftflow.errors import NotRecoverableError
from liftflow.typing import FloatArray, IntArray

DENSE_LIMIT = 600
"""Number of hidden nodes up to which the Laplacian is factored as a dense matrix."""

_MAX_STEPS = 100
_CG_RTOL = 1e-12
_SAFE_STEP = 0.5  # the Hessian changes by a factor e at most within log-steps of this length


@dataclass(frozen=True, eq=False)
class GroundedLaplacian:
    """Solves with L = A D_w Aᵀ, the Laplacian of the hidden nodes for edge weights w ≥ 0."""

    dag: CompiledDAG

    @cached_property
    def _inner(self) -> IntArray:
        """Edges between two hidden nodes."""
        return np.flatnonzero((self.dag.tail_hidden >= 0) & (self.dag.head_hidden >= 0))

    @cached_property
    def _flat(self) -> IntArray:
        """Flat index of each inner edge in the upper triangle."""
        tails, heads = self.dag.tail_hidden[self._inner], self.dag.head_hidden[self._inner]
        return tails * self.dag.n_hidden + heads

    @cached_property
    def _incidence(self) -> csr_array:
        return abs(self.dag.law_matrix)

    def diagonal(self, weights: FloatArray) -> FloatArray:
        """Total weight at each hidden node, shape=[n_hidden]."""
        return self._incidence @ weights

    def matrix(self, weights: FloatArray) -> FloatArray:
        """Dense matrix, shape=[n_hidden, n_hidden]."""
        size = self.dag.n_hidden
        upper = np.bincount(self._flat, weights[self._inner], minlength=size**2)
        upper = upper.reshape(size, size)
        return np.diag(self.diagonal(weights)) - upper - upper.T

    def solve(self, weights: FloatArray, right: FloatArray) -> FloatArray:
        """Solve L x = ``right``, by Cholesky when small, else by preconditioned CG.

        Parameters
        ----------
        weights : array, shape=[dim]
        right : array, shape=[n_hidden]

        Returns
        -------
        solution : array, shape=[n_hidden]

        Raises
        ------
        NotRecoverableError
            L is singular: some hidden node is cut off by zero weights.
        """
        diagonal = self.diagonal(weights)
        if not np.all(diagonal > 0):
            raise self._singular(np.flatnonzero(~(diagonal > 0)))
        # Scaled to a unit diagonal, L is as well conditioned as the graph lets it be.
        scale = 1.0 / np.sqrt(diagonal)
        if self._inner.size == 0:
            return right / diagonal
        if self.dag.n_hidden <= DENSE_LIMIT:
            scaled = self.matrix(weights) * scale[:, None] * scale
            try:
                factor = scipy.linalg.cho_factor(scaled, lower=True, check_finite=False)
            except np.linalg.LinAlgError:
                raise self._singular(np.arange(self.dag.n_hidden)) from None
            solved = scipy.linalg.cho_solve(factor, scale * right, check_finite=False)
            return scale * solved
        return scale * self._solve_by_cg(weights, scale, scale * right)

    def _solve_by_cg(self, weights: FloatArray, scale: FloatArray, right: FloatArray) -> FloatArray:
        size = self.dag.n_hidden
        tails, heads = self.dag.tail_hidden[self._inner], self.dag.head_hidden[self._inner]
        values = weights[self._inner] * scale[tails] * scale[heads]
        upper = csr_array((values, (tails, heads)), shape=(size, size))
        lower = upper.T.tocsr()
        operator = LinearOperator(
            (size, size), matvec=lambda x: x - upper @ x - lower @ x, dtype=np.float64
        )
        solution, info = cg(operator, right, rtol=_CG_RTOL, maxiter=10 * size)
        if info:
            raise self._singular(np.arange(size))
        return solution

    def _singular(self, hidden: IntArray) -> NotRecoverableError:
        names = [self.dag.nodes[node] for node in self.dag.hidden_nodes[hidden]]
        shown = ", ".join(repr(name) for name in names[:8])
        return NotRecoverableError(
            "the graph Laplacian of the hidden nodes is singular: zero weights cut some of "
            f"{shown}{', …' if len(names) > 8 else ''} off from the inputs or the outputs",
            names,
        )

    def rescaling(
        self, weights: FloatArray, laws: FloatArray, start: FloatArray | None = None
    ) -> FloatArray:
        r"""Find the rescaling t that takes squared weights w onto given laws.

        Minimises the strictly convex, coercive
        :math:`F(t) = \sum_{u→v} w_{uv} e^{t_v − t_u} − \sum_v h_v t_v` by damped Newton steps; its
        gradient is in − out − h and its Hessian the grounded Laplacian.

        Parameters
        ----------
        weights : array, shape=[dim]
            Squares of any representative θ̂ of the fibre.
        laws : array, shape=[n_hidden]
        start : array, shape=[n_hidden], optional
            Where to start; by default from one sweep of exact minimisations node by node.

        Returns
        -------
        logs : array, shape=[n_hidden]
            :math:`t_v = \log λ_v^2`.

        Raises
        ------
        NotRecoverableError
            L is singular, or no minimiser was found.
        """
        logs = self._sweep(weights, laws) if start is None else start
        value, flux = self._objective(weights, laws, logs)
        if start is not None and not np.isfinite(value):
            return self.rescaling(weights, laws)
        for _ in range(_MAX_STEPS):
            gradient = self.dag.law_matrix @ flux - laws
            step = -self.solve(flux, gradient)
            length = float(np.max(np.abs(step), initial=0.0))
            slope = float(gradient @ step)
            fraction = min(1.0, 8 * _SAFE_STEP / length) if length > _SAFE_STEP else 1.0
            while True:
                trial = logs + fraction * step
                trial_value, trial_flux = self._objective(weights, laws, trial)
                # Within a safe step Newton contracts by itself, and F has no digits left to say so.
                if length <= _SAFE_STEP or trial_value <= value + 1e-4 * fraction * slope:
                    break
                fraction /= 2
                if fraction < 1e-12:
                    raise NotRecoverableError("recovery stalled: no descent along a Newton step")
            logs, value, flux = trial, trial_value, trial_flux
            if length <= 1e-8:  # quadratic convergence: what is left is below rounding
                return logs
        raise NotRecoverableError(
            f"recovery did not converge in {_MAX_STEPS} Newton steps (last step {length:.1e}); "
            "is z close to the edge of its orthant?"
        )

    def _objective(
        self, weights: FloatArray, laws: FloatArray, logs: FloatArray
    ) -> tuple[float, FloatArray]:
        """F(t), and the weights e^{t_v − t_u} w of the Laplacian there."""
        padded = np.append(logs, 0.0)  # number −1, a node that is not hidden, has t = 0
        with np.errstate(over="ignore", invalid="ignore"):
            flux = weights * np.exp(padded[self.dag.head_hidden] - padded[self.dag.tail_hidden])
            value = float(flux.sum() - laws @ logs)
        return (value if np.isfinite(value) else np.inf), flux

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
