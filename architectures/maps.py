"""One vocabulary for smooth maps: the lift φ, the laws h, and coordinates of an image.

A map takes θ, shape=[..., dim], to an array of shape [..., *shape]. Its verbs are unchecked: who
calls them has been through the door. Only the call itself must be written; the derivatives then
come from autograd, and each verb that a family writes makes the others cheaper.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import autograd
import geomstats.backend as gs
import numpy as np
from scipy.sparse.linalg import LinearOperator

from liftflow.errors import followed_by_autograd
from liftflow.linalg import RANK_RTOL, minimal_solution, over_batch, range_basis
from liftflow.typing import FloatArray

DENSE_LIMIT = 4_000_000
"""Entries of a Jacobian up to which least squares are solved with it as a matrix."""


class SmoothMap(ABC):
    """A smooth map from ℝᴰ, with its first and second derivatives.

    Parameters
    ----------
    dim : int
        Number D of entries of θ.
    shape : tuple of int
        Shape of a value.
    name : str
        What error messages call it.
    """

    def __init__(self, dim: int, shape: tuple[int, ...], name: str) -> None:
        self.dim, self.shape, self.name = dim, shape, name

    @property
    def size(self) -> int:
        """Number of entries of a value."""
        return math.prod(self.shape)

    @abstractmethod
    def __call__(self, theta: Any) -> Any:
        """Evaluate the map."""

    def jvp(self, theta: Any, tangent: Any) -> Any:
        """Push a velocity forward, ∂f(θ) v."""
        theta, tangent = together(theta, tangent)
        if not self.size:
            return self(theta)
        with followed_by_autograd(self.name):
            return autograd.make_jvp(self.__call__)(theta)(tangent)[1]

    def vjp(self, theta: Any, covector: Any) -> Any:
        """Pull a covector back, ∂f(θ)ᵀ g."""
        lead = covector.shape[: len(covector.shape) - len(self.shape)]
        flat = gs.reshape(covector, (*lead, self.size))
        return gs.einsum("...ij,...i->...j", self.jacobian(theta), flat)

    def jacobian(self, theta: Any) -> Any:
        """Jacobian as a dense matrix, shape=[..., size, dim], by one :meth:`jvp` per parameter."""
        columns = self.jvp(theta[..., None, :], gs.eye(self.dim))
        columns = gs.reshape(columns, (*theta.shape[:-1], self.dim, self.size))
        return gs.moveaxis(columns, -1, -2)

    def hessian(self, theta: Any, tangent_a: Any, tangent_b: Any) -> Any:
        """Evaluate the second derivative ∂²f(θ)[a, b], symmetric in its two vectors."""
        theta, a, b = gs.broadcast_arrays(theta, tangent_a, tangent_b)
        if not self.size:
            return self(theta)
        with followed_by_autograd(self.name):
            return autograd.make_jvp(lambda t: self.jvp(t, a))(theta)(b)[1]

    def hvp(self, theta: Any, tangent: Any, covector: Any) -> Any:
        """Differentiate the pullback, ∂²f(θ)[v, ·]ᵀ g, the Hessian of ⟨g, f⟩ times v."""
        theta, tangent = together(theta, tangent)
        lead = covector.shape[: covector.ndim - len(self.shape)]
        theta = theta + np.zeros((*lead, 1))
        # 0 t, because autograd warns where the derivative of a linear map is constant.
        with followed_by_autograd(self.name):
            return autograd.grad(
                lambda t: gs.sum(covector * self.jvp(t, tangent)) + 0.0 * gs.sum(t)
            )(theta)

    def solve(self, theta: FloatArray, velocity: FloatArray) -> FloatArray:
        """Solve ∂f(θ) v = w for the shortest v, in the sense of least squares."""

        def shortest(point: FloatArray, right: FloatArray) -> FloatArray:
            if self.is_dense:
                return np.linalg.pinv(self.jacobian(point), rcond=RANK_RTOL) @ right.ravel()
            return minimal_solution(self.differential(point), right.ravel())

        return over_batch(shortest, [theta, velocity], [1, len(self.shape)])

    def solve_transposed(self, theta: FloatArray, covector: FloatArray) -> FloatArray:
        """Solve ∂f(θ)ᵀ g = v for the shortest g, in the sense of least squares."""

        def shortest(point: FloatArray, right: FloatArray) -> FloatArray:
            if self.is_dense:
                found = np.linalg.pinv(self.jacobian(point).T, rcond=RANK_RTOL) @ right
            else:
                found = minimal_solution(self.differential(point).T, right)
            return found.reshape(self.shape)

        return over_batch(shortest, [theta, covector], [1, 1])

    def to_range(self, theta: FloatArray, velocity: FloatArray) -> FloatArray:
        """Project orthogonally onto range ∂f(θ)."""

        def project(point: FloatArray, vector: FloatArray) -> FloatArray:
            if self.is_dense:
                basis = range_basis(self.jacobian(point))
                return (basis @ (basis.T @ vector.ravel())).reshape(vector.shape)
            return self.jvp(point, minimal_solution(self.differential(point), vector.ravel()))

        return over_batch(project, [theta, velocity], [1, len(self.shape)])

    @property
    def is_dense(self) -> bool:
        """Whether the Jacobian is small enough to be a matrix."""
        return self.size * self.dim <= DENSE_LIMIT

    def differential(self, theta: FloatArray) -> LinearOperator:
        """∂f(θ) as an operator between flat vectors."""
        return LinearOperator(
            (self.size, self.dim),
            matvec=lambda v: self.jvp(theta, v.ravel()).ravel(),
            rmatvec=lambda g: self.vjp(theta, g.reshape(self.shape)),
            dtype=np.float64,
        )


class FunctionMap(SmoothMap):
    """A map made of functions: its values, and the derivatives that are known.

    Parameters
    ----------
    function : callable
        θ to f(θ).
    verbs : mapping of str to callable
        Derivatives that are written by hand, by the name of the verb.
    """

    def __init__(
        self,
        dim: int,
        shape: tuple[int, ...],
        name: str,
        function: Callable[[Any], Any],
        verbs: Mapping[str, Callable[..., Any]],
    ) -> None:
        super().__init__(dim, shape, name)
        self._function = function
        vars(self).update(verbs)

    def __call__(self, theta: Any) -> Any:
        """Evaluate the function."""
        return self._function(theta)


class ProductMap(SmoothMap):
    """Maps of disjoint parts of θ, side by side; values are flat and joined, or stacked.

    Parameters
    ----------
    factors : sequence of SmoothMap
        In the order of the parts of θ.
    shape : tuple of int, optional
        Of a value, with as many entries as those of the factors have; by default flat.
    """

    def __init__(
        self, factors: Sequence[SmoothMap], shape: tuple[int, ...] | None = None, name: str = ""
    ) -> None:
        self.factors = tuple(factors)
        size = sum(factor.size for factor in factors)
        super().__init__(sum(f.dim for f in factors), (size,) if shape is None else shape, name)

    def split(self, theta: Any) -> list[Any]:
        """Cut θ, or a vector like it, into the parts of the factors."""
        return _cut(theta, [factor.dim for factor in self.factors])

    def split_values(self, values: Any) -> list[Any]:
        """Cut a value into those of the factors."""
        lead = values.shape[: len(values.shape) - len(self.shape)]
        flat = gs.reshape(values, (*lead, self.size))
        parts = _cut(flat, [factor.size for factor in self.factors])
        return [
            gs.reshape(part, (*lead, *factor.shape))
            for factor, part in zip(self.factors, parts, strict=True)
        ]

    def join_values(self, parts: Sequence[Any]) -> Any:
        """Join the values of the factors."""
        flat = []
        for factor, part in zip(self.factors, parts, strict=True):
            lead = part.shape[: len(part.shape) - len(factor.shape)]
            flat.append(gs.reshape(part, (*lead, factor.size)))
        joined = _joined(flat)
        return gs.reshape(joined, (*joined.shape[:-1], *self.shape))

    def _each(self, verb: str, *arguments: Sequence[Any]) -> list[Any]:
        parts = zip(self.factors, *arguments, strict=True)
        return [getattr(factor, verb)(*own) for factor, *own in parts]

    def __call__(self, theta: Any) -> Any:
        """Evaluate the factors."""
        return self.join_values(self._each("__call__", self.split(theta)))

    def jvp(self, theta: Any, tangent: Any) -> Any:
        """Push the parts of a velocity forward."""
        return self.join_values(self._each("jvp", self.split(theta), self.split(tangent)))

    def vjp(self, theta: Any, covector: Any) -> Any:
        """Pull the parts of a covector back."""
        return _joined(self._each("vjp", self.split(theta), self.split_values(covector)))

    def hessian(self, theta: Any, tangent_a: Any, tangent_b: Any) -> Any:
        """Join the second derivatives."""
        parts = map(self.split, (theta, tangent_a, tangent_b))
        return self.join_values(self._each("hessian", *parts))

    def hvp(self, theta: Any, tangent: Any, covector: Any) -> Any:
        """Differentiate the pullbacks."""
        parts = (self.split(theta), self.split(tangent), self.split_values(covector))
        return _joined(self._each("hvp", *parts))

    def solve(self, theta: FloatArray, velocity: FloatArray) -> FloatArray:
        """Solve in each factor."""
        return _joined(self._each("solve", self.split(theta), self.split_values(velocity)))

    def solve_transposed(self, theta: FloatArray, covector: FloatArray) -> FloatArray:
        """Solve in each factor."""
        parts = (self.split(theta), self.split(covector))
        return self.join_values(self._each("solve_transposed", *parts))

    def to_range(self, theta: FloatArray, velocity: FloatArray) -> FloatArray:
        """Project in each factor."""
        parts = (self.split(theta), self.split_values(velocity))
        return self.join_values(self._each("to_range", *parts))


def together(first: Any, second: Any) -> tuple[Any, Any]:
    """Broadcast two arrays against each other, differentiably, as gs.broadcast_arrays is not."""
    return first + 0.0 * second, second + 0.0 * first


def _cut(array: Any, sizes: Sequence[int]) -> list[Any]:
    ends = np.cumsum(sizes)
    return [array[..., end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _joined(parts: Sequence[Any]) -> Any:
    lead = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return gs.concatenate(
        [gs.broadcast_to(part, (*lead, part.shape[-1])) for part in parts], axis=-1
    )
