r"""Laplacians of channel graphs, and recovery by a convex problem on them.

With the laws h(θ) = Xᵀθ², half the Jacobian of the laws is :math:`X^\top D_θ`, and
:math:`X^\top D_θ^2 X` is the Laplacian of the channels with weights θ², grounded by the parameters
from and to the ground. Everything about recovery and the tangent space of the invariant set is
one solve with it; no path is enumerated.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.linalg
from scipy.sparse import csr_array
from scipy.sparse.linalg import eigsh

from liftflow.architectures.incidence import Incidence
from liftflow.doors import Guarded
from liftflow.errors import NotRecoverableError, listed
from liftflow.typing import (
    FloatArray,
    IntArray,
    Matrix,
    OneTangent,
    OnHidden,
    as_instance,
    as_vector,
    freeze,
    refuse_beyond,
)

DENSE_LIMIT = 600
"""Number of hidden nodes up to which the Laplacian may be factored as a dense matrix."""

_DENSE_LIMIT = 200  # channels up to which an eigenvalue comes from a dense matrix
_DIRECT_LIMIT = 64  # up to here a factorization is quicker than the first steps of an iteration
_PATIENCE = 60  # steps of conjugate gradients after which a factorization is the better bet
_MAX_STEPS = 100
_CG_RTOL = 1e-12
_EPS = float(np.finfo(np.float64).eps)


class _Weights:
    """Weights of the parameters as the channels see them: matrices between layers, and the ground.

    Layers that are complete are views of the weights and cost BLAS products; all other parameters
    between channels make one sparse matrix. Loops move nothing and are left out.
    """

    def __init__(self, laplacian: "GroundedLaplacian", weights: FloatArray) -> None:
        size = laplacian.n_channels
        self.from_ground, self.to_ground = np.zeros(size), np.zeros(size)
        self.layers: list[tuple[slice, slice, FloatArray]] = []
        for grid in laplacian.incidence.grids:
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
        """Whether any parameter joins two channels."""
        return bool(self.layers) or self.sparse is not None

    def both(self, ahead: FloatArray, back: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Σ_u w_uv x_u at each channel v, and Σ_v w_uv y_v at each channel u, over channels."""
        forward, backward = np.zeros((2, ahead.size))
        if self.sparse is not None:
            forward, backward = ahead @ self.sparse, self.sparse @ back
        for tails, heads, matrix in self.layers:
            forward[heads] += ahead[tails] @ matrix
            backward[tails] += matrix @ back[heads]
        return forward, backward

    def dense(self) -> FloatArray:
        """Weights between channels as a matrix of tails and heads."""
        size = self.from_ground.size
        between = np.zeros((size, size)) if self.sparse is None else self.sparse.toarray()
        for tails, heads, matrix in self.layers:
            between[tails, heads] = matrix
        return between

    def at(self, logs: FloatArray, laws: FloatArray) -> "_Rescaled":
        return _Rescaled(self, logs, laws)


class _Rescaled:
    """The weights e^{t_v − t_u} w_uv, by their sums at the channels; they are never formed."""

    def __init__(self, weights: _Weights, logs: FloatArray, laws: FloatArray) -> None:
        self.weights, self.decoupled = weights, not weights.has_inner
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            self.heads, self.tails = np.exp(logs), np.exp(-logs)
            forward, backward = weights.both(self.tails, self.heads)
            inflow = self.heads * (weights.from_ground + forward)
            grounded = self.tails * weights.to_ground
            outflow = grounded + self.tails * backward
            self.diagonal = inflow + outflow
            self.gradient = inflow - outflow - laws
            value = float(inflow.sum() + grounded.sum() - laws @ logs)
        self.value = value if np.isfinite(value) else np.inf

    def coupling(self, values: FloatArray) -> FloatArray:
        """Apply the off-diagonal part of the Laplacian, with its sign turned."""
        forward, backward = self.weights.both(self.tails * values, self.heads * values)
        return self.heads * forward + self.tails * backward

    def dense(self) -> Matrix:
        """Off-diagonal part of the Laplacian, with its sign turned."""
        between = self.weights.dense() * self.tails[:, None] * self.heads
        return between + between.T


def _conjugate_gradients(
    apply: Callable[[FloatArray], FloatArray],
    right: FloatArray,
    rtol: float,
    most_steps: int,
    roughly: Callable[[FloatArray], FloatArray] | None = None,
) -> FloatArray | None:
    """Solve a positive definite system by conjugate gradients, or return None.

    ``roughly`` applies an approximate inverse, positive definite too.

    As in scipy, but with inner products that stay on one thread: BLAS wakes its threads for each
    of them, which on long vectors and busy cores takes ten times as long as all the rest.
    """
    solution, residual, direction = np.zeros_like(right), right.copy(), np.zeros_like(right)
    square, before = _dot(right, right), np.inf
    enough = rtol**2 * square
    for _ in range(most_steps):
        if square <= enough:
            return solution
        rough = residual if roughly is None else roughly(residual)
        product = square if roughly is None else _dot(residual, rough)
        direction = rough + (product / before) * direction
        image = apply(direction)
        curvature = _dot(direction, image)
        if not curvature > 0:
            return None
        length = product / curvature
        solution += length * direction
        residual -= length * image
        square, before = _dot(residual, residual), product
    return solution if square <= enough else None


def _dot(one: FloatArray, other: FloatArray) -> float:
    return float(np.einsum("i,i", one, other))


def _balanced(into: Any, out_of: Any, laws: FloatArray) -> FloatArray:
    """Positive root x = e^t of in·x² − h·x − out = 0, written without cancellation."""
    root = np.sqrt(laws**2 + 4 * into * out_of)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(laws >= 0, (laws + root) / (2 * into), 2 * out_of / (root - laws))


class Laplacian(Guarded, ABC):
    """Solves with L = Xᵀ D_w X for weights w ≥ 0, and the convex problem whose Hessian it is."""

    dim: int
    n_channels: int
    members: Sequence[Hashable]
    safe_step: float = 0.5
    """Length of τ along which no weight, so no entry of L, changes by more than a factor e."""

    @abstractmethod
    def _weights(self, weights: FloatArray) -> Any:
        """Weights whose ``at(logs, laws)`` has F, its gradient, and its Hessian in parts."""

    @abstractmethod
    def _along(self, logs: FloatArray) -> FloatArray:
        """Xτ, one number per parameter."""

    def _start(self, weights: FloatArray, laws: FloatArray) -> FloatArray:
        """Where Newton's method starts when nothing is known."""
        return np.zeros(self.n_channels)

    def _at(self, weights: FloatArray) -> Any:
        zero = np.zeros(self.n_channels)
        return self._weights(weights).at(zero, zero)

    def matrix(self, weights: OneTangent) -> Matrix:
        """Return the dense matrix."""
        size = self.n_channels
        refuse_beyond(float(size) ** 2, f"a dense matrix of {size} × {size} numbers")
        rescaled = self._at(as_vector(weights, "weights", self.dim))
        return np.diag(rescaled.diagonal) - rescaled.dense()

    def solve(self, weights: OneTangent, right: OnHidden) -> OnHidden:
        """Solve L x = ``right``, by Cholesky when small, else by preconditioned CG."""
        right = as_vector(right, "right", self.n_channels)
        weights, direct = as_vector(weights, "weights", self.dim), self.n_channels <= DENSE_LIMIT
        return self._solve(self._at(weights), right, self._factored if direct else self._iterated)

    def _solve(
        self,
        at: Any,
        right: FloatArray,
        method: Callable[[Any, FloatArray, FloatArray], FloatArray],
    ) -> OnHidden:
        if not np.all(at.diagonal > 0):
            raise self._singular(np.flatnonzero(~(at.diagonal > 0)))
        if at.decoupled:
            return right / at.diagonal
        # Scaled to a unit diagonal, L is as well conditioned as the graph lets it be.
        scale = 1.0 / np.sqrt(at.diagonal)
        return scale * method(at, scale, scale * right)

    def _factored(self, at: Any, scale: FloatArray, right: FloatArray) -> OnHidden:
        scaled = -at.dense() * scale[:, None] * scale
        np.fill_diagonal(scaled, 1.0)
        try:
            factor = scipy.linalg.cho_factor(scaled, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            raise self._singular(np.arange(right.size)) from None
        return scipy.linalg.cho_solve(factor, right, check_finite=False)

    def _iterated(
        self, at: Any, scale: FloatArray, right: FloatArray, rtol: float = _CG_RTOL
    ) -> OnHidden:
        direct = right.size <= DENSE_LIMIT
        solution = _conjugate_gradients(
            lambda x: x - scale * at.coupling(scale * x),
            right,
            rtol,
            _PATIENCE if direct else 10 * right.size,
            None if direct else self._rough_inverse(at, scale),
        )
        if solution is not None:
            return solution
        if direct:
            return self._factored(at, scale, right)
        raise self._singular(np.arange(right.size))

    def _rough_inverse(
        self, at: Any, scale: FloatArray
    ) -> Callable[[FloatArray], FloatArray] | None:
        """Approximate inverse of L scaled to a unit diagonal, if one is known."""
        return None

    def conditioning(self, weights: FloatArray) -> float:
        """Smallest eigenvalue of the matrix scaled to a unit diagonal; dense."""
        matrix = self.matrix(weights)
        scale = 1.0 / np.sqrt(np.diag(matrix))
        return float(np.linalg.eigvalsh(matrix * scale[:, None] * scale)[0])

    def _singular(self, channels: IntArray) -> NotRecoverableError:
        names = [self.members[number] for number in channels]
        return NotRecoverableError(
            "the Laplacian of the channels is singular: the weights that tie some of "
            f"{listed(map(repr, names))} to the inputs and the outputs are zero, or nothing beside "
            "the others in double precision",
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
        weights = as_vector(weights, "weights", self.dim)
        laws, warm = as_vector(laws, "laws", self.n_channels), warm is True
        start = np.zeros(self.n_channels) if warm else self._start(weights, laws)
        if not warm:  # from here on t counts from that start: no exponential overflows
            with np.errstate(over="ignore", invalid="ignore"):
                weights = weights * np.exp(self._along(start))
        seen = self._weights(weights)
        at = seen.at(np.zeros_like(start), laws)
        if warm and not np.isfinite(at.value):
            return self.rescaling(weights, laws)
        return self._descended(seen, at, laws, np.zeros_like(start)) + start

    def _descended(self, seen: Any, at: Any, laws: FloatArray, logs: OnHidden) -> OnHidden:
        """Newton's method from a first t, where weights are ``at``."""
        for _ in range(_MAX_STEPS):
            with np.errstate(divide="ignore", invalid="ignore"):
                size = float(np.max(np.abs(at.gradient) / at.diagonal, initial=0.0))
            if size <= 2 * _EPS:
                return logs
            step = self._newton_step(at, size)
            length = float(np.max(np.abs(step), initial=0.0))
            slope = float(at.gradient @ step)
            fraction = min(1.0, 8 * self.safe_step / length) if length > self.safe_step else 1.0
            while True:
                trial = logs + fraction * step
                trial_at = seen.at(trial, laws)
                # Within a safe step Newton contracts by itself, and F has no digits left to say so.
                if length <= self.safe_step or trial_at.value <= at.value + 1e-4 * fraction * slope:
                    break
                fraction /= 2
                if fraction < 1e-12:
                    raise NotRecoverableError("recovery stalled: no descent along a Newton step")
            logs, at = trial, trial_at
            if length <= 1e-8:  # quadratic convergence: what is left is below rounding
                return logs
        raise NotRecoverableError(
            f"recovery did not converge in {_MAX_STEPS} Newton steps (last step {length:.1e}); "
            "is z close to the edge of its orthant?"
        )

    def _newton_step(self, at: Any, size: float) -> OnHidden:
        if self.n_channels <= _DIRECT_LIMIT:
            return -self._solve(at, at.gradient, self._factored)
        # Newton's error is quadratic; and nothing below rounding is worth an iteration.
        rtol = min(0.1, max(size, 1e-16 / size)) if size > 0 else 0.1

        def iterated(at: Any, scale: FloatArray, right: FloatArray) -> OnHidden:
            return self._iterated(at, scale, right, rtol)

        return -self._solve(at, at.gradient, iterated)


class GroundedLaplacian(Laplacian):
    """The Laplacian of a channel graph, by the weights at each channel, never by a matrix."""

    def __init__(self, incidence: Incidence) -> None:
        self.incidence = incidence = as_instance(incidence, Incidence, "incidence")
        self.dim, self.n_channels = incidence.dim, incidence.n_channels
        self.members = incidence.members

    def _weights(self, weights: FloatArray) -> _Weights:
        return _Weights(self, weights)

    def _along(self, logs: FloatArray) -> OneTangent:
        return self.incidence.along(logs)

    @cached_property
    def loose_inner(self) -> tuple[IntArray, IntArray, IntArray]:
        """Loose parameters between two channels, in the order of a CSR matrix."""
        loose, tails, heads = self._loose_ends
        inner = (tails >= 0) & (heads >= 0) & (tails != heads)
        edges, tails, heads = loose[inner], tails[inner], heads[inner]
        order = np.lexsort((heads, tails))
        bounds = np.searchsorted(tails[order], np.arange(self.n_channels + 1))
        return freeze((edges[order], heads[order], bounds))

    @cached_property
    def loose_ground(self) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Loose parameters from the ground and to it, each with its channel."""
        loose, tails, heads = self._loose_ends
        into, out_of = (tails < 0) & (heads >= 0), (tails >= 0) & (heads < 0)
        return freeze((loose[into], heads[into], loose[out_of], tails[out_of]))

    @property
    def _loose_ends(self) -> tuple[IntArray, IntArray, IntArray]:
        loose = self.incidence.loose
        return loose, self.incidence.tails[loose], self.incidence.heads[loose]

    def _start(self, weights: FloatArray, laws: FloatArray) -> FloatArray:
        """Minimise F over one channel after the other, stage by stage."""
        graph = self.incidence
        logs = np.zeros(self.n_channels + 1)  # the last one is the ground
        for channels, into, out_of in zip(graph.stages, graph.into, graph.out_of, strict=True):
            with np.errstate(over="ignore", invalid="ignore"):
                inflow = weights[into] * np.exp(-logs[graph.tails[into]])
                outflow = weights[out_of] * np.exp(logs[graph.heads[out_of]])
            total_in, total_out = (
                np.bincount(graph.place[ends[own]], flow, channels.size)
                for ends, own, flow in ((graph.heads, into, inflow), (graph.tails, out_of, outflow))
            )
            ratio = _balanced(total_in, total_out, laws[channels])
            usable = np.isfinite(ratio) & (ratio > 0)
            logs[channels] = np.log(np.where(usable, ratio, 1.0))
        return logs[:-1]

    def conditioning(self, weights: FloatArray) -> float:
        """Smallest eigenvalue of the matrix scaled to a unit diagonal; to about 1e-15, absolute."""
        weights = as_vector(weights, "weights", self.incidence.dim)
        tails, heads = self.incidence.tails, self.incidence.heads
        diagonal = abs(self.incidence.law_matrix) @ weights
        if not np.all(diagonal > 0):
            return 0.0
        inner = np.flatnonzero((tails >= 0) & (heads >= 0) & (tails != heads))
        if inner.size == 0:
            return 1.0
        # The square root before the product: squares of very small weights underflow.
        roots, scale = np.sqrt(weights[inner]), 1.0 / np.sqrt(diagonal)
        values = (roots * scale[tails[inner]]) * (roots * scale[heads[inner]])
        upper = csr_array((values, (tails[inner], heads[inner])), shape=(diagonal.size,) * 2)
        coupling = (upper + upper.T).tocsr()
        if diagonal.size <= _DENSE_LIMIT:
            largest = np.linalg.eigvalsh(coupling.toarray())[-1]
        else:
            start, options = np.sqrt(diagonal), {"tol": 1e-10, "return_eigenvectors": False}
            largest = eigsh(coupling, k=1, which="LA", v0=start, **options)[0]
        return float(max(0.0, 1.0 - largest))


class MatrixLaplacian(Laplacian):
    """The Laplacian Xᵀ D_w X of a general matrix of exponents."""

    def __init__(self, matrix: csr_array, members: Sequence[Hashable]) -> None:
        (self.n_channels, self.dim), self.members = matrix.shape, members
        self._transposed, self._exponents = matrix, matrix.T.tocsr()
        self._squares = self._transposed.multiply(self._transposed).tocsr()
        self.safe_step = 1.0 / float(abs(self._exponents).sum(axis=1).max())

    def _along(self, logs: FloatArray) -> OneTangent:
        return self._exponents @ logs

    def _weights(self, weights: FloatArray) -> SimpleNamespace:
        return SimpleNamespace(at=partial(_MatrixRescaled, self, weights))


class _MatrixRescaled:
    """The weights e^{(Xτ)_e} w_e themselves, with F, its gradient and its Hessian."""

    decoupled = False

    def __init__(
        self, laplacian: MatrixLaplacian, weights: FloatArray, logs: FloatArray, laws: FloatArray
    ) -> None:
        self.laplacian = laplacian
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            self.moved = weights * np.exp(laplacian._along(logs))
            self.diagonal = laplacian._squares @ self.moved
            self.gradient = laplacian._transposed @ self.moved - laws
            value = float(self.moved.sum() - laws @ logs)
        self.value = value if np.isfinite(value) else np.inf

    def coupling(self, values: FloatArray) -> OnHidden:
        flow = self.moved * self.laplacian._along(values)
        return self.diagonal * values - self.laplacian._transposed @ flow

    def dense(self) -> Matrix:
        scaled = self.laplacian._transposed * self.moved
        full = (scaled @ self.laplacian._exponents).toarray()
        return np.diag(self.diagonal) - full
