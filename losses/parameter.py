"""Losses that are given as functions of θ, as everybody has them."""

import copy
from collections.abc import Callable, Sequence

import autograd
import numpy as np

from liftflow.architectures import Architecture
from liftflow.architectures.maps import followed_by_autograd, watched
from liftflow.doors import door
from liftflow.errors import InputError, NotFiniteError, NotRecoverableError, UndefinedError
from liftflow.linalg import ROUNDING, over_batch
from liftflow.losses.base import Loss, as_number_of, as_samples, name_of
from liftflow.typing import (
    Covector,
    FloatArray,
    IntArray,
    Lifted,
    OneTheta,
    Scalars,
    Tangent,
    Theta,
    as_array,
    as_count,
    as_function,
    as_instance,
)

_N_POINTS = 3  # random ones, at which a loss is looked at
_FACTORS_RTOL = 1e-9
"""Part of ∇ℓ outside range ∂φᵀ, relative to ∇ℓ, that is rounding."""


class ParameterLoss(Loss):
    """A loss given as ℓ(θ); build it with :func:`loss_from_parameters`.

    Its f is ℓ at some θ behind z, and ∇f the shortest g with ∂φᵀg = ∇ℓ there. Both read the θ from
    ``near``: itself where φ(near) = z, and else recovered with the laws of ``near`` and in its
    sign gauge; where there is none, a ``NotRecoverableError`` is raised. The flows need no ∇f: in
    their coordinates z' = −∂φ ∇ℓ(Ψ(z)).

    Parameters
    ----------
    n_samples : int, optional
        How many samples there are, if ``ell`` takes their numbers as well.
    """

    @door
    def __init__(
        self,
        ell: Callable[..., Scalars],
        architecture: Architecture,
        n_samples: int | None = None,
        points: Theta | None = None,
    ) -> None:
        self.ell = as_function(ell, "ell")
        self.architecture = as_instance(architecture, Architecture, "architecture")
        self.n_samples = None if n_samples is None else as_count(n_samples, "n_samples", 1)
        self._samples = () if n_samples is None else (np.arange(self.n_samples),)
        self._check_that_it_factors(points)

    def _facts(self) -> str:
        name = name_of(self.ell)
        return name if self.n_samples is None else f"{name}, {self.n_samples:,} samples"

    def _number(self, theta: OneTheta) -> Scalars:
        return as_number_of(self.ell(theta, *self._samples), _ELL, "θ")

    def batch(self, indices: IntArray | Sequence[int]) -> "ParameterLoss":
        """Return ℓ on some of the samples, as ``ell(theta, indices)`` has it."""
        part = copy.copy(self)
        part._samples = (as_samples(indices, self),)
        return part

    def excited(self, architecture: Architecture) -> FloatArray:
        """Refuse: what ℓ moves is known at each θ, but no function of z alone is.

        Raises
        ------
        UndefinedError
            Always.
        """
        raise UndefinedError(
            "a loss that is given as a function of θ has no ∇f(z) whose span could be told; give "
            "one of z by loss_from_function(f), or a NetworkLoss"
        )

    # In θ.

    def _theta(self, theta: Theta, architecture: Architecture | None) -> FloatArray:
        if architecture is not None and architecture is not self.architecture:
            raise InputError(
                "this loss is a function of the θ of another architecture; build one with "
                "loss_from_parameters(ell, architecture)"
            )
        return as_array(theta, "theta", (self.architecture.dim,), differentiable=False)

    def parameter_value(self, theta: Theta, architecture: Architecture | None = None) -> Scalars:
        theta = self._theta(theta, architecture)
        return over_batch(lambda t: np.asarray(self._number(t)), [theta], [1], shape=())

    def parameter_gradient(self, theta: Theta, architecture: Architecture | None = None) -> Tangent:
        """Evaluate ∇ℓ(θ) by automatic differentiation of the function.

        Raises
        ------
        NotDifferentiableError
            Autograd cannot follow it.
        """
        theta = self._theta(theta, architecture)
        with followed_by_autograd(_ELL):
            return over_batch(autograd.grad(watched(self._number, _ELL)), [theta], [1])

    # In z.

    def value(self, z: Lifted, near: OneTheta | None = None) -> Scalars:
        """Evaluate f(z) = ℓ(θ) at a θ behind z.

        Raises
        ------
        NotRecoverableError
            There is no ``near``, or no θ behind z is found from it.
        """
        return over_batch(
            lambda point: np.asarray(self._number(self._behind(point, near))),
            [self._z(z)],
            [len(self.architecture.lifted_shape)],
            shape=(),
        )

    def gradient(self, z: Lifted, near: OneTheta | None = None) -> Covector:
        """Evaluate ∇f(z), the shortest g with ∂φ(θ)ᵀ g = ∇ℓ(θ) at a θ behind z.

        Raises
        ------
        NotRecoverableError
            There is no ``near``, or no θ behind z is found from it.
        """

        def gradient(point: FloatArray) -> FloatArray:
            theta = self._behind(point, near)
            return self.architecture.phi.solve_transposed(theta, self.parameter_gradient(theta))

        shape = self.architecture.lifted_shape
        return over_batch(gradient, [self._z(z)], [len(shape)], shape=shape)

    def _z(self, z: Lifted) -> FloatArray:
        return as_array(z, "z", self.architecture.lifted_shape, differentiable=False)

    def _behind(self, z: FloatArray, near: OneTheta | None) -> OneTheta:
        """A θ with φ(θ) = z. A flow hands on the very one that it recovered."""
        architecture = self.architecture
        if near is None:
            raise NotRecoverableError(
                "a loss of θ needs a θ behind z, or close to one behind it: pass near=theta"
            )
        near = as_array(near, "near", (architecture.dim,), batch=False, differentiable=False)
        if np.all(np.abs(architecture.phi(near) - z) <= ROUNDING * np.abs(z)):
            return near
        return architecture.recover(z, architecture.h(near), near=near)

    # Whether it is a function of z at all.

    def _check_that_it_factors(self, points: Theta | None) -> None:
        if points is None:  # always the same ones, so that a loss is taken always or never
            points = self.architecture.random_point(_N_POINTS, rng=0)
        points = np.reshape(self._theta(points, None), (-1, self.architecture.dim))
        losses: list[Loss] = [self]
        if self.n_samples is not None:
            losses += [self.batch([self.n_samples - 1])]
        seen, worst = 0, 0.0
        for point in points:
            for loss in losses:
                gradient = loss.parameter_gradient(point, self.architecture)
                size = np.linalg.norm(gradient)
                if not np.isfinite(size):
                    continue
                seen += 1
                if size > 0:
                    unseen = np.linalg.norm(_unseen(self.architecture, point, gradient))
                    worst = max(worst, float(unseen / size))
        if not seen:
            raise NotFiniteError(
                f"∇ℓ is not finite at {len(points)} points, so it cannot be seen whether ell is a "
                "function of φ(θ); give points=, an array of θ where it is"
            )
        if worst > _FACTORS_RTOL:
            raise InputError(
                f"ell is no function of the lift of {type(self.architecture).__name__}: a part of "
                f"{worst:.2g} of ∇ℓ lies outside range ∂φᵀ, at most {_FACTORS_RTOL:g} is rounding. "
                "A penalty on the weights is no part of ℓ; give it as the weight_decay= of what "
                "trains. Else take the architecture whose lift ell sees"
            )


def _unseen(architecture: Architecture, theta: OneTheta, gradient: FloatArray) -> FloatArray:
    """The part of a vector that no f∘φ has as its gradient: that in ker ∂φ(θ)."""
    if architecture.lift_rank(theta) + architecture.laws_rank(theta) == architecture.dim:
        # Then ker ∂φ is range ∂hᵀ, which takes no product over paths.
        return gradient - architecture.h.project_to_kernel(theta, gradient)
    return architecture.phi.project_to_kernel(theta, gradient)


_ELL = "the function of a loss of θ"


def loss_from_parameters(
    ell: Callable[..., Scalars],
    architecture: Architecture,
    n_samples: int | None = None,
    points: Theta | None = None,
) -> ParameterLoss:
    r"""Turn a function of θ, written with autograd.numpy, into a loss.

    A loss moves z only if it sees θ through the lift, ℓ = f∘φ, so that ∇ℓ ∈ range ∂φᵀ. That is
    looked at here; f itself is never asked for. On all coordinates of z the intrinsic flow is
    :math:`z' = −∂φ\,∇ℓ(Ψ(z, h))`.

    Parameters
    ----------
    ell : callable
        Takes one θ, shape=[dim], to a number; ``architecture.unpack`` splits θ. With ``n_samples``,
        ``ell(theta, indices)`` is the mean over the samples of these numbers.
    n_samples : int, optional
        How many samples there are, for training on minibatches.
    points : Theta, optional
        Where ∇ℓ is looked at; by default at three random points of the architecture, and with
        samples also on the last of them alone.

    Raises
    ------
    InputError
        A part of ∇ℓ lies outside range ∂φᵀ, and how much; not a function of θ to one number, not an
        architecture. A ``NotFiniteError`` where ∇ℓ is finite at none of the points.
    NotDifferentiableError
        Autograd cannot follow the function.

    References
    ----------
    Factorisations ℓ = f∘φ: [MPG]_.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> from liftflow import TwoLayerLinear, loss_from_parameters
    >>> layers = TwoLayerLinear(2, 3, 2)
    >>> def ell(theta):
    ...     u, v = layers.unpack(theta)
    ...     return anp.sum((anp.dot(u, v.T) - 1.0) ** 2)
    >>> loss = loss_from_parameters(ell, layers)
    >>> round(float(loss.parameter_value(layers.pack([[1, 0], [0, 1]], [[1, 1]] * 3))), 12)
    0.0
    >>> loss_from_parameters(lambda theta: anp.sum(theta**2), layers)
    Traceback (most recent call last):
    liftflow.errors.InputError: ell is no function of the lift of TwoLayerLinear: ...
    """
    return ParameterLoss(ell, architecture, n_samples, points)
