"""Products of architectures: several factors, each with its own parameter, lift and laws."""

import math
from typing import Any

import geomstats.backend as gs
import numpy as np
from scipy.linalg import block_diag

from liftflow.architectures.base import Architecture
from liftflow.errors import ArchitectureError, InputError
from liftflow.typing import (
    Covector,
    FloatArray,
    IntArray,
    Laws,
    Lifted,
    LiftedTangent,
    OneTheta,
    Rng,
    Tangent,
    Theta,
    as_array,
    as_count,
    as_rng,
    shown,
)


class ProductArchitecture(Architecture):
    """Product of architectures: θ, z and h are those of the factors, one after the other.

    z is a stack of shape ``(n_factors, *shape)`` where all factors have the same lifted shape,
    and else the flat vectors joined. Every property of the hierarchy holds as soon as it holds
    for each factor, and the metric is the product metric.

    Raises
    ------
    ArchitectureError
        No factor, or something else.

    References
    ----------
    [MPG]_.
    """

    def __init__(self, *factors: Architecture) -> None:
        if not factors or not all(isinstance(factor, Architecture) for factor in factors):
            raise ArchitectureError(
                "a product takes one or more architectures, got "
                f"{[type(factor).__name__ for factor in factors]}"
            )
        self.factors = factors
        shapes = {factor.lifted_shape for factor in factors}
        same = len(shapes) == 1
        super().__init__(
            dim=sum(factor.dim for factor in factors),
            lifted_shape=(
                (len(factors), *shapes.pop()) if same else (sum(f.lifted_dim for f in factors),)
            ),
            n_laws=sum(factor.n_laws for factor in factors),
            block_shapes=[(factor.dim,) for factor in factors],
        )

    def split_lifted(self, lifted: Lifted) -> list[Any]:
        """Split z, or a vector like it, into those of the factors.

        Returns
        -------
        parts : list of array, shape=[..., *factor.lifted_shape]
        """
        lifted = self._lifted(lifted)
        lead = lifted.shape[: len(lifted.shape) - len(self.lifted_shape)]
        flat = gs.reshape(lifted, (*lead, self.lifted_dim))
        parts, start = [], 0
        for factor in self.factors:
            stop = start + math.prod(factor.lifted_shape)
            parts.append(gs.reshape(flat[..., start:stop], (*lead, *factor.lifted_shape)))
            start = stop
        return parts

    def join_lifted(self, parts: list[Any]) -> Lifted:
        """Join z, or a vector like it, from those of the factors.

        Parameters
        ----------
        parts : list of array-like, shape=[..., *factor.lifted_shape]
            One for each factor, in their order.
        """
        count = len(self.factors)
        if not isinstance(parts, list | tuple) or len(parts) != count:
            raise InputError(f"parts must be a list of {count} arrays, got {shown(parts)}")
        flat = []
        for number, (factor, own) in enumerate(zip(self.factors, parts, strict=True)):
            part = as_array(own, f"part {number}", factor.lifted_shape)
            lead = part.shape[: len(part.shape) - len(factor.lifted_shape)]
            flat.append(gs.reshape(part, (*lead, factor.lifted_dim)))
        lead = np.broadcast_shapes(*(part.shape[:-1] for part in flat))
        flat = [gs.broadcast_to(part, (*lead, part.shape[-1])) for part in flat]
        return gs.reshape(gs.concatenate(flat, axis=-1), (*lead, *self.lifted_shape))

    def _split_laws(self, laws: Any) -> list[Any]:
        flat = as_array(laws, "laws", (self.n_laws,))
        ends = np.cumsum([factor.n_laws for factor in self.factors])
        return [
            flat[..., end - factor.n_laws : end]
            for factor, end in zip(self.factors, ends, strict=True)
        ]

    def lift(self, theta: Theta) -> Lifted:
        """Evaluate the lifts of the factors."""
        pairs = zip(self.factors, self.unpack(theta), strict=True)
        return self.join_lifted([factor.lift(part) for factor, part in pairs])

    def lift_jvp(self, theta: Theta, tangent: Tangent) -> LiftedTangent:
        """Push a velocity of θ forward, factor by factor."""
        triples = zip(self.factors, self.unpack(theta), self.unpack(tangent), strict=True)
        return self.join_lifted([factor.lift_jvp(part, v) for factor, part, v in triples])

    def lift_hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> LiftedTangent:
        """Evaluate the second derivative of the lift, factor by factor."""
        parts = zip(*map(self.unpack, (theta, tangent_a, tangent_b)), strict=True)
        pairs = zip(self.factors, parts, strict=True)
        return self.join_lifted([factor.lift_hessian(*part) for factor, part in pairs])

    def lift_vjp(self, theta: Theta, covector: Covector) -> Tangent:
        """Pull a covector back, factor by factor."""
        triples = zip(self.factors, self.unpack(theta), self.split_lifted(covector), strict=True)
        return self.pack(*[factor.lift_vjp(part, form) for factor, part, form in triples])

    def lift_hvp(self, theta: Theta, tangent: Tangent, covector: Covector) -> Tangent:
        """Differentiate the pullback, factor by factor."""
        parts = [self.unpack(theta), self.unpack(tangent), self.split_lifted(covector)]
        factors = zip(self.factors, *parts, strict=True)
        return self.pack(*[f.lift_hvp(part, v, form) for f, part, v, form in factors])

    def project_to_range(self, theta: Theta, lifted_vec: LiftedTangent) -> LiftedTangent:
        """Project orthogonally onto range ∂φ(θ), factor by factor.

        Parameters
        ----------
        lifted_vec : LiftedTangent
            Any vector of the lifted space.
        """
        triples = zip(self.factors, self.unpack(theta), self.split_lifted(lifted_vec), strict=True)
        return self.join_lifted([f.project_to_range(part, v) for f, part, v in triples])

    def solve_vjp(self, theta: Theta, covector: Tangent) -> Covector:
        """Solve ∂φ(θ)ᵀ g = v for the shortest g on z, factor by factor."""
        triples = zip(self.factors, self.unpack(theta), self.unpack(covector), strict=True)
        return self.join_lifted([f.solve_vjp(part, v) for f, part, v in triples])

    def solve_jvp(self, theta: Theta, lifted_tangent: LiftedTangent) -> Tangent:
        """Solve ∂φ(θ) v = ζ for the shortest v, factor by factor."""
        parts = zip(
            self.factors, self.unpack(theta), self.split_lifted(lifted_tangent), strict=True
        )
        return np.asarray(self.pack(*[f.solve_jvp(part, v) for f, part, v in parts]))

    def project_to_image(self, z: Lifted, *, near: Theta | None = None) -> Lifted:
        """Move a nearby vector onto the image, factor by factor.

        Parameters
        ----------
        near : Theta, optional
            Where the factors may start.
        """
        starts = [None] * len(self.factors) if near is None else self.unpack(near)
        parts = zip(self.factors, self.split_lifted(z), starts, strict=True)
        return self.join_lifted([f.project_to_image(part, near=start) for f, part, start in parts])

    def lift_rank(self, theta: OneTheta) -> int:
        """Dimension of the image about φ(θ), the sum over the factors."""
        pairs = zip(self.factors, self.unpack(theta), strict=True)
        return sum(factor.lift_rank(part) for factor, part in pairs)

    def conservation_laws(self, theta: Theta) -> Laws:
        """Evaluate the laws of the factors."""
        pairs = zip(self.factors, self.unpack(theta), strict=True)
        return gs.concatenate([f.conservation_laws(part) for f, part in pairs], axis=-1)

    def laws_jvp(self, theta: Theta, tangent: Tangent) -> Laws:
        """Push a velocity of θ forward by the laws, factor by factor."""
        triples = zip(self.factors, self.unpack(theta), self.unpack(tangent), strict=True)
        return gs.concatenate([f.laws_jvp(part, v) for f, part, v in triples], axis=-1)

    def laws_hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> Laws:
        """Second derivative ∂²h(θ)[v, w] of the laws, factor by factor."""
        parts = zip(self.factors, *map(self.unpack, (theta, tangent_a, tangent_b)), strict=True)
        return gs.concatenate([f.laws_hessian(part, v, w) for f, part, v, w in parts], axis=-1)

    def laws_size(self, theta: Theta, tangent: Tangent | None = None) -> Laws:
        """Size of the terms of h(θ), or of ∂h(θ) v, factor by factor."""
        tangents = [None] * len(self.factors) if tangent is None else self.unpack(tangent)
        triples = zip(self.factors, self.unpack(theta), tangents, strict=True)
        return np.concatenate([f.laws_size(part, v) for f, part, v in triples], axis=-1)

    def laws_rank(self, theta: OneTheta) -> int:
        """Number of independent laws at θ, the sum over the factors."""
        pairs = zip(self.factors, self.unpack(theta), strict=True)
        return sum(factor.laws_rank(part) for factor, part in pairs)

    def solve_laws_jvp(self, theta: Theta, laws_tangent: Laws) -> Tangent:
        """Solve ∂h(θ) v = w for the shortest v, factor by factor."""
        parts = zip(self.factors, self.unpack(theta), self._split_laws(laws_tangent), strict=True)
        return self.pack(*[f.solve_laws_jvp(part, w) for f, part, w in parts])

    def project_to_tangent(self, theta: Theta, vector: Tangent) -> Tangent:
        """Project orthogonally onto ker ∂h(θ), factor by factor."""
        triples = zip(self.factors, self.unpack(theta), self.unpack(vector), strict=True)
        return self.pack(*[f.project_to_tangent(part, v) for f, part, v in triples])

    def project_to_laws(self, theta: Theta, laws: Laws, *, max_steps: int = 50) -> Theta:
        """Move θ to a nearby point of {h = laws}, factor by factor.

        Parameters
        ----------
        max_steps : int
            Largest number of Gauss–Newton steps.
        """
        triples = zip(self.factors, self.unpack(theta), self._split_laws(laws), strict=True)
        return self.pack(*[f.project_to_laws(p, h, max_steps=max_steps) for f, p, h in triples])

    def recover(self, z: Lifted, laws: Laws, *, near: Theta | None = None) -> Theta:
        """Recover θ, factor by factor."""
        starts = [None] * len(self.factors) if near is None else self.unpack(near)
        parts = zip(self.factors, self.split_lifted(z), self._split_laws(laws), starts, strict=True)
        return self.pack(*[f.recover(part, h, near=start) for f, part, h, start in parts])

    def _align(self, theta: FloatArray, base_point: FloatArray) -> FloatArray:
        parts = zip(self.factors, self.unpack(theta), self.unpack(base_point), strict=True)
        return np.asarray(self.pack(*[factor.align(own, base) for factor, own, base in parts]))

    def _signs(self) -> IntArray:
        return block_diag(*[factor._signs() for factor in self.factors]).astype(np.intp)

    def random_point(self, n_samples: int = 1, rng: Rng = None) -> Theta:
        """Draw the parameters of the factors.

        Parameters
        ----------
        n_samples : int
            With one sample there is no sample axis.
        """
        rng = as_rng(rng)
        return self.pack(*[factor.random_point(n_samples, rng) for factor in self.factors])

    def fibre_point(self, theta: Theta, rng: Rng = None) -> Theta:
        """Draw another point over the same z, factor by factor."""
        rng = as_rng(rng)
        pairs = zip(self.factors, self.unpack(theta), strict=True)
        return self.pack(*[factor.fibre_point(part, rng) for factor, part in pairs])


def split_lams(lams: Any, count: int) -> FloatArray:
    """Return one λ per factor from one for all, or from as many.

    Parameters
    ----------
    lams : array-like, shape=[] or [count]

    Returns
    -------
    lams : array, shape=[count]

    Raises
    ------
    ArchitectureError
        Another number of them.
    """
    array = as_array(lams, "lams", differentiable=False)
    if array.ndim > 1 or array.size not in (1, as_count(count, "count", 1)):
        raise ArchitectureError(f"lams must hold 1 or {count} numbers, got shape {array.shape}")
    return np.broadcast_to(np.ravel(array), (count,))
