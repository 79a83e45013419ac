"""Products of architectures: several factors, each with its own parameter, lift and laws."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from scipy.linalg import block_diag

from liftflow.architectures.base import Architecture
from liftflow.architectures.maps import ProductMap, each_of, joined
from liftflow.architectures.product_chart import LiftChart, ProductChart
from liftflow.errors import ArchitectureError, InputError
from liftflow.linalg import lengths
from liftflow.typing import (
    Block,
    FloatArray,
    IntArray,
    Laws,
    Lifted,
    OneTheta,
    Rng,
    Scalars,
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
        self._set_sizes(
            sum(factor.dim for factor in factors),
            (len(factors), *shapes.pop()) if same else (sum(f.lifted_dim for f in factors),),
            sum(factor.n_laws for factor in factors),
            tuple([(factor.dim,) for factor in factors]),
        )

    def _facts(self) -> str:
        return ", ".join(map(repr, self.factors))

    def _lift_map(self) -> ProductMap:
        return ProductMap([factor.phi for factor in self.factors], self.lifted_shape)

    def _laws_map(self) -> ProductMap:
        return ProductMap([factor.h for factor in self.factors], (self.n_laws,))

    @cached_property
    def _parts(self) -> tuple[ProductMap, ProductMap]:
        """The lift and the laws, by which θ, z and h are split and joined."""
        return self._lift_map(), self._laws_map()

    def _unpack(self, theta: Theta) -> tuple[Block, ...]:
        return tuple(self._parts[0].split(theta))

    def _pack(self, blocks: Sequence[Block]) -> Theta:
        return joined(blocks)

    def split_lifted(self, lifted: Lifted) -> list[Lifted]:
        """Split z, or a vector like it, into those of the factors."""
        return self._parts[0].split_values(self._lifted(lifted))

    def join_lifted(self, parts: list[Lifted]) -> Lifted:
        """Join z, or a vector like it, from those of the factors."""
        count = len(self.factors)
        if not isinstance(parts, list | tuple) or len(parts) != count:
            raise InputError(f"parts must be a list of {count} arrays, got {shown(parts)}")
        rows = enumerate(zip(self.factors, parts, strict=True))
        own = [as_array(part, f"part {i}", factor.lifted_shape) for i, (factor, part) in rows]
        return self._parts[0].join_values(own)

    def lift(self, theta: Theta) -> Lifted:
        return self._parts[0].value(self._theta(theta))

    def conservation_laws(self, theta: Theta) -> Laws:
        return self._parts[1].value(self._theta(theta))

    def _starts(self, near: Theta | None) -> Sequence[Lifted]:
        return [None] * len(self.factors) if near is None else self.unpack(near)

    def project_to_image(self, z: Lifted, *, near: Theta | None = None) -> Lifted:
        parts = each_of(
            self.factors, "project_to_image", self.split_lifted(z), near=self._starts(near)
        )
        return self._parts[0].join_values(parts)

    def project_to_laws(self, theta: Theta, laws: Laws, *, max_steps: int = 50) -> Theta:
        values, most = self._split_laws(laws), [max_steps] * len(self.factors)
        return self.pack(
            *each_of(self.factors, "project_to_laws", self.unpack(theta), values, max_steps=most)
        )

    def recover(self, z: Lifted, laws: Laws, *, near: Theta | None = None) -> Theta:
        parts = self.split_lifted(z), self._split_laws(laws)
        return self.pack(*each_of(self.factors, "recover", *parts, near=self._starts(near)))

    def _split_laws(self, laws: Laws) -> list[Lifted]:
        return self._parts[1].split_values(self._laws(laws))

    def _align(self, theta: FloatArray, base_point: FloatArray) -> FloatArray:
        parts = each_of(self.factors, "align", self.unpack(theta), self.unpack(base_point))
        return np.asarray(self.pack(*parts))

    def _signs(self) -> IntArray:
        return np.asarray(block_diag(*each_of(self.factors, "_signs")), dtype=np.intp)

    def lifted_norm(self, theta: Theta) -> Scalars:
        return lengths(np.stack(each_of(self.factors, "lifted_norm", self.unpack(theta)), axis=-1))

    def lifted_distance(self, theta_a: Theta, theta_b: Theta) -> Scalars:
        both = map(self.unpack, (theta_a, theta_b))
        return lengths(np.stack(each_of(self.factors, "lifted_distance", *both), axis=-1))

    def basis_chart(self, theta: OneTheta) -> ProductChart:
        """Chart of the image by the basis paths of networks among the factors, at θ.

        Returns
        -------
        chart : ProductChart
            Of other factors it has the entries of z.

        Raises
        ------
        NotRecoverableError
            Dead parameters of a network; names them.
        """
        parts, charts = self.unpack(self._one_theta(theta)), []
        for factor, part in zip(self.factors, parts, strict=True):
            has_one = factor.coordinates == "basis" or isinstance(factor, ProductArchitecture)
            charts.append(factor.basis_chart(part) if has_one else LiftChart(factor, part))
        return ProductChart(charts)

    def random_point(self, n_samples: int = 1, rng: Rng = None) -> Theta:
        rng = as_rng(rng)
        return self.pack(*[factor.random_point(n_samples, rng) for factor in self.factors])

    def balanced_point(self, lam: Scalars | Sequence[Scalars], rng: Rng = None) -> OneTheta:
        """Draw a point whose factors are relaxed balanced; those that need no balance, at random.

        Parameters
        ----------
        lam : array-like, shape=[] or [n_factors], or sequence of array-like
            What the ``balanced_point`` of each factor takes, or one number for all. A factor
            without one does not look at its own.

        Raises
        ------
        ArchitectureError
            Another number of λ, or a factor has no such point; says why.
        """
        rng, points = as_rng(rng), []
        for factor, own in zip(self.factors, split_lams(lam, len(self.factors)), strict=True):
            balanced = getattr(factor, "balanced_point", None)
            draw = factor.random_point(rng=rng) if balanced is None else balanced(own, rng)
            points.append(draw)
        return np.asarray(self.pack(*points))

    def fibre_point(self, theta: Theta, rng: Rng = None) -> Theta:
        """Draw another point over the same z, factor by factor.

        A factor that has no other point with a metric stays where it is.

        Raises
        ------
        ArchitectureError
            No factor has one.
        """
        rng, parts, stay = as_rng(rng), list(self.unpack(theta)), []
        for number, factor in enumerate(self.factors):
            try:
                parts[number] = factor.fibre_point(parts[number], rng)
            except ArchitectureError as error:
                stay.append(error)
        if len(stay) == len(self.factors):
            raise ArchitectureError(f"no factor has another point over z: {stay[0]}") from stay[0]
        return self.pack(*parts)


def split_lams(lams: Scalars | Sequence[Scalars], count: int) -> Sequence[Scalars]:
    """Return one λ per factor from one for all, or from as many.

    Parameters
    ----------
    lams : array-like, shape=[] or [count], or sequence of array-like
        Of a sequence each factor looks at its own.
    """
    if isinstance(lams, list | tuple) and len(lams) == as_count(count, "count", 1):
        return lams
    array = as_array(lams, "lams", differentiable=False)
    if array.ndim > 1 or array.size not in (1, count):
        raise ArchitectureError(f"lams must hold 1 or {count} numbers, got shape {array.shape}")
    return list(np.broadcast_to(np.ravel(array), (count,)))
