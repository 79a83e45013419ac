"""Products of architectures: several factors, each with its own parameter, lift and laws."""

import math
from typing import Any

import geomstats.backend as gs
import numpy as np
from scipy.linalg import block_diag

from liftflow.architectures.base import Architecture
from liftflow.errors import ArchitectureError, InputError
from liftflow.typing import FloatArray, IntArray, Rng, as_array, as_count, as_rng, shown


class ProductArchitecture(Architecture):
    """Product of architectures: θ, z and h are those of the factors, one after the other.

    z is a stack of shape ``(n_factors, *shape)`` where all factors have the same lifted shape,
    and else the flat vectors joined. Every property of the hierarchy holds as soon as it holds
    for each factor, and the metric is the product metric.

    Parameters
    ----------
    *factors : Architecture

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

    def split_lifted(self, lifted: Any) -> list[Any]:
        """Split z, or a vector like it, into those of the factors.

        Parameters
        ----------
        lifted : array-like, shape=[..., *lifted_shape]

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

    def join_lifted(self, parts: list[Any]) -> Any:
        """Join z, or a vector like it, from those of the factors.

        Parameters
        ----------
        parts : list of array-like, shape=[..., *factor.lifted_shape]
            One for each factor, in their order.

        Returns
        -------
        lifted : array, shape=[..., *lifted_shape]
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

    def lift(self, theta: Any) -> Any:
        """Evaluate the lifts of the factors.

        Parameters
        ----------
        theta : array-like, shape=[..., dim]

        Returns
        -------
        z : array, shape=[..., *lifted_shape]
        """
        pairs = zip(self.factors, self.unpack(theta), strict=True)
        return self.join_lifted([factor.lift(part) for factor, part in pairs])

    def lift_jvp(self, theta: Any, tangent: Any) -> Any:
        """Push a velocity of θ forward, factor by factor.

        Parameters
        ----------
        theta, tangent : array-like, shape=[..., dim]

        Returns
        -------
        lifted_tangent : array, shape=[..., *lifted_shape]
        """
        triples = zip(self.factors, self.unpack(theta), self.unpack(tangent), strict=True)
        return self.join_lifted([factor.lift_jvp(part, v) for factor, part, v in triples])

    def lift_hessian(self, theta: Any, tangent_a: Any, tangent_b: Any) -> Any:
        """Evaluate the second derivative of the lift, factor by factor.

        Parameters
        ----------
        theta, tangent_a, tangent_b : array-like, shape=[..., dim]

        Returns
        -------
        acceleration : array, shape=[..., *lifted_shape]
        """
        parts = zip(*map(self.unpack, (theta, tangent_a, tangent_b)), strict=True)
        pairs = zip(self.factors, parts, strict=True)
        return self.join_lifted([factor.lift_hessian(*part) for factor, part in pairs])

    def lift_vjp(self, theta: Any, covector: Any) -> Any:
        """Pull a covector back, factor by factor.

        Parameters
        ----------
        theta : array-like, shape=[..., dim]
        covector : array-like, shape=[..., *lifted_shape]

        Returns
        -------
        pulled : array, shape=[..., dim]
        """
        triples = zip(self.factors, self.unpack(theta), self.split_lifted(covector), strict=True)
        return self.pack(*[factor.lift_vjp(part, form) for factor, part, form in triples])

    def lift_hvp(self, theta: Any, tangent: Any, covector: Any) -> Any:
        """Differentiate the pullback, factor by factor.

        Parameters
        ----------
        theta, tangent : array-like, shape=[..., dim]
        covector : array-like, shape=[..., *lifted_shape]

        Returns
        -------
        product : array, shape=[..., dim]
        """
        parts = [self.unpack(theta), self.unpack(tangent), self.split_lifted(covector)]
        factors = zip(self.factors, *parts, strict=True)
        return self.pack(*[f.lift_hvp(part, v, form) for f, part, v, form in factors])

    def project_to_range(self, theta: Any, lifted_vec: Any) -> FloatArray:
        """Project orthogonally onto range ∂φ(θ), factor by factor.

        Parameters
        ----------
        theta : array-like, shape=[..., dim]
        lifted_vec : array-like, shape=[..., *lifted_shape]
            Any vector of the lifted space.

        Returns
        -------
        tangent_vec : array, shape=[..., *lifted_shape]
        """
        triples = zip(self.factors, self.unpack(theta), self.split_lifted(lifted_vec), strict=True)
        return self.join_lifted([f.project_to_range(part, v) for f, part, v in triples])

    def solve_vjp(self, theta: Any, covector: Any) -> FloatArray:
        """Solve ∂φ(θ)ᵀ g = v for the shortest g on z, factor by factor.

        Parameters
        ----------
        theta, covector : array-like, shape=[..., dim]

        Returns
        -------
        lifted_covector : array, shape=[..., *lifted_shape]
        """
        triples = zip(self.factors, self.unpack(theta), self.unpack(covector), strict=True)
        return self.join_lifted([f.solve_vjp(part, v) for f, part, v in triples])

    def solve_jvp(self, theta: Any, lifted_tangent: Any) -> FloatArray:
        """Solve ∂φ(θ) v = ζ for the shortest v, factor by factor.

        Parameters
        ----------
        theta : array-like, shape=[..., dim]
        lifted_tangent : array-like, shape=[..., *lifted_shape]

        Returns
        -------
        horizontal_vec : array, shape=[..., dim]
        """
        parts = zip(
            self.factors, self.unpack(theta), self.split_lifted(lifted_tangent), strict=True
        )
        return np.asarray(self.pack(*[f.solve_jvp(part, v) for f, part, v in parts]))

    def project_to_image(self, z: Any, *, near: Any = None) -> FloatArray:
        """Move a nearby vector onto the image, factor by factor.

        Parameters
        ----------
        z : array-like, shape=[..., *lifted_shape]
        near : array-like, shape=[..., dim], optional
            Where the factors may start.

        Returns
        -------
        z : array, shape=[..., *lifted_shape]
        """
        starts = [None] * len(self.factors) if near is None else self.unpack(near)
        parts = zip(self.factors, self.split_lifted(z), starts, strict=True)
        return self.join_lifted([f.project_to_image(part, near=start) for f, part, start in parts])

    def lift_rank(self, theta: Any) -> int:
        """Dimension of the image about φ(θ), the sum over the factors.

        Parameters
        ----------
        theta : array-like, shape=[dim]

        Returns
        -------
        rank : int
        """
        pairs = zip(self.factors, self.unpack(theta), strict=True)
        return sum(factor.lift_rank(part) for factor, part in pairs)

    def conservation_laws(self, theta: Any) -> Any:
        """Evaluate the laws of the factors.

        Parameters
        ----------
        theta : array-like, shape=[..., dim]

        Returns
        -------
        laws : array, shape=[..., n_laws]
        """
        pairs = zip(self.factors, self.unpack(theta), strict=True)
        return gs.concatenate([f.conservation_laws(part) for f, part in pairs], axis=-1)

    def laws_jvp(self, theta: Any, tangent: Any) -> Any:
        """Push a velocity of θ forward by the laws, factor by factor.

        Parameters
        ----------
        theta, tangent : array-like, shape=[..., dim]

        Returns
        -------
        laws_tangent : array, shape=[..., n_laws]
        """
        triples = zip(self.factors, self.unpack(theta), self.unpack(tangent), strict=True)
        return gs.concatenate([f.laws_jvp(part, v) for f, part, v in triples], axis=-1)

    def laws_hessian(self, theta: Any, tangent_a: Any, tangent_b: Any) -> Any:
        """Second derivative ∂²h(θ)[v, w] of the laws, factor by factor.

        Parameters
        ----------
        theta, tangent_a, tangent_b : array-like, shape=[..., dim]

        Returns
        -------
        second_derivative : array, shape=[..., n_laws]
        """
        parts = zip(self.factors, *map(self.unpack, (theta, tangent_a, tangent_b)), strict=True)
        return gs.concatenate([f.laws_hessian(part, v, w) for f, part, v, w in parts], axis=-1)

    def laws_size(self, theta: Any, tangent: Any = None) -> FloatArray:
        """Size of the terms of h(θ), or of ∂h(θ) v, factor by factor.

        Parameters
        ----------
        theta : array-like, shape=[..., dim]
        tangent : array-like, shape=[..., dim], optional

        Returns
        -------
        size : array, shape=[..., n_laws]
        """
        tangents = [None] * len(self.factors) if tangent is None else self.unpack(tangent)
        triples = zip(self.factors, self.unpack(theta), tangents, strict=True)
        return np.concatenate([f.laws_size(part, v) for f, part, v in triples], axis=-1)

    def laws_rank(self, theta: Any) -> int:
        """Number of independent laws at θ, the sum over the factors.

        Parameters
        ----------
        theta : array-like, shape=[dim]

        Returns
        -------
        rank : int
        """
        pairs = zip(self.factors, self.unpack(theta), strict=True)
        return sum(factor.laws_rank(part) for factor, part in pairs)

    def solve_laws_jvp(self, theta: Any, laws_tangent: Any) -> Any:
        """Solve ∂h(θ) v = w for the shortest v, factor by factor.

        Parameters
        ----------
        theta : array-like, shape=[..., dim]
        laws_tangent : array-like, shape=[..., n_laws]

        Returns
        -------
        normal_vec : array, shape=[..., dim]
        """
        parts = zip(self.factors, self.unpack(theta), self._split_laws(laws_tangent), strict=True)
        return self.pack(*[f.solve_laws_jvp(part, w) for f, part, w in parts])

    def project_to_tangent(self, theta: Any, vector: Any) -> Any:
        """Project orthogonally onto ker ∂h(θ), factor by factor.

        Parameters
        ----------
        theta, vector : array-like, shape=[..., dim]

        Returns
        -------
        tangent_vec : array, shape=[..., dim]
        """
        triples = zip(self.factors, self.unpack(theta), self.unpack(vector), strict=True)
        return self.pack(*[f.project_to_tangent(part, v) for f, part, v in triples])

    def project_to_laws(self, theta: Any, laws: Any, *, max_steps: int = 50) -> Any:
        """Move θ to a nearby point of {h = laws}, factor by factor.

        Parameters
        ----------
        theta : array-like, shape=[..., dim]
        laws : array-like, shape=[..., n_laws]
        max_steps : int
            Largest number of Gauss–Newton steps.

        Returns
        -------
        theta : array, shape=[..., dim]
        """
        triples = zip(self.factors, self.unpack(theta), self._split_laws(laws), strict=True)
        return self.pack(*[f.project_to_laws(p, h, max_steps=max_steps) for f, p, h in triples])

    def recover(self, z: Any, laws: Any, *, near: Any = None) -> Any:
        """Recover θ, factor by factor.

        Parameters
        ----------
        z : array-like, shape=[..., *lifted_shape]
        laws : array-like, shape=[..., n_laws]
        near : array-like, shape=[..., dim], optional

        Returns
        -------
        theta : array, shape=[..., dim]
        """
        starts = [None] * len(self.factors) if near is None else self.unpack(near)
        parts = zip(self.factors, self.split_lifted(z), self._split_laws(laws), starts, strict=True)
        return self.pack(*[f.recover(part, h, near=start) for f, part, h, start in parts])

    def _align(self, theta: FloatArray, base_point: FloatArray) -> FloatArray:
        parts = zip(self.factors, self.unpack(theta), self.unpack(base_point), strict=True)
        return np.asarray(self.pack(*[factor.align(own, base) for factor, own, base in parts]))

    def _signs(self) -> IntArray:
        return block_diag(*[factor._signs() for factor in self.factors]).astype(np.intp)

    def random_point(self, n_samples: int = 1, rng: Rng = None) -> FloatArray:
        """Draw the parameters of the factors.

        Parameters
        ----------
        n_samples : int
            With one sample there is no sample axis.
        rng : numpy.random.Generator or int, optional

        Returns
        -------
        theta : array, shape=[..., dim]
        """
        rng = as_rng(rng)
        return self.pack(*[factor.random_point(n_samples, rng) for factor in self.factors])

    def fibre_point(self, theta: Any, rng: Rng = None) -> FloatArray:
        """Draw another point over the same z, factor by factor.

        Parameters
        ----------
        theta : array-like, shape=[..., dim]
        rng : numpy.random.Generator or int, optional

        Returns
        -------
        theta : array, shape=[..., dim]
        """
        rng = as_rng(rng)
        pairs = zip(self.factors, self.unpack(theta), strict=True)
        return self.pack(*[factor.fibre_point(part, rng) for factor, part in pairs])


def split_lams(lams: Any, count: int) -> FloatArray:
    """Return one λ per factor from one for all, or from as many.

    Parameters
    ----------
    lams : array-like, shape=[] or [count]
    count : int

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
