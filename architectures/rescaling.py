"""Learning rates as units of θ: where a flow with rates is the plain flow of another lift.

A flow θ' = −E∇ℓ(θ) with rates E = diag(η) is the plain flow of ψ = θ/√η in the lift φ(√η ∘ ψ).
"""

from functools import cached_property, singledispatch

import numpy as np

from liftflow.architectures.base import Architecture
from liftflow.architectures.maps import SmoothMap
from liftflow.architectures.product import ProductArchitecture
from liftflow.architectures.relu import ReLUNetwork
from liftflow.errors import NotIntrinsicError
from liftflow.typing import (
    Covector,
    FloatArray,
    Jacobian,
    Laws,
    Lifted,
    LiftedTangent,
    OneLifted,
    OneTangent,
    Rng,
    Tangent,
    Theta,
)

_POINTS = 3
_ROUNDING = 1e-10


class RescaledMap(SmoothMap):
    """The map ψ ↦ f(u ∘ ψ) of another map f, with its derivatives."""

    def __init__(self, inner: SmoothMap, units: FloatArray) -> None:
        self.inner, self.factors = inner, units
        self.dim, self.shape, self.size = inner.dim, inner.shape, inner.size
        self.counts, self.name = inner.counts, inner.name

    def value(self, theta: Theta) -> Lifted:
        return self.inner.value(self.factors * theta)

    def jvp(self, theta: Theta, tangent: Tangent) -> LiftedTangent:
        return self.inner.jvp(self.factors * theta, self.factors * tangent)

    def jacobian(self, theta: Theta) -> Jacobian:
        return self.inner.jacobian(self.factors * theta) * self.factors

    def vjp(self, theta: Theta, covector: Covector) -> Tangent:
        return self.factors * self.inner.vjp(self.factors * theta, covector)

    def hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> LiftedTangent:
        vectors = (self.factors * vector for vector in (theta, tangent_a, tangent_b))
        return self.inner.hessian(*vectors)

    def hvp(self, theta: Theta, tangent: Tangent, covector: Covector) -> Tangent:
        return self.factors * self.inner.hvp(self.factors * theta, self.factors * tangent, covector)


class RescaledArchitecture(Architecture):
    r"""The lift ψ ↦ φ(√η ∘ ψ), whose plain flow is that of φ with the learning rates η.

    Its laws are those of φ, evaluated at ψ. They are kept where the symmetries behind them know no
    difference between the rates, which is checked.

    References
    ----------
    The metric of parameter space: [Kunin2024]_.
    """

    def __init__(self, inner: Architecture, rates: OneTangent) -> None:
        self.inner, self.units = inner, np.sqrt(rates)
        super().__init__(inner.dim, inner.lifted_shape, inner.n_laws, inner.block_shapes)
        for theta in _points(inner):
            psi = theta / self.units
            form = np.random.default_rng(0).standard_normal(inner.lifted_shape)
            field = self.phi.vjp(psi, form)
            change = np.abs(self.h.jvp(psi, field))
            terms = self.h.terms(psi, field)
            if np.any(change > _ROUNDING * terms):
                worst = float(np.max(change[terms > 0] / terms[terms > 0]))
                raise NotIntrinsicError(
                    f"with these learning rates the laws of {type(inner).__name__} are not kept "
                    f"(∂h·E∂φᵀ is {worst:.1e} of its terms, expected 0): the symmetry behind them "
                    "mixes parameters whose rates differ; give one rate per block, "
                    "learning_rates=[…] in the order of unpack(theta)"
                )

    def _lift_map(self) -> SmoothMap:
        return RescaledMap(self.inner.phi, self.units)

    def _laws_map(self) -> SmoothMap:
        return self.inner.h

    def lift(self, theta: Theta) -> Lifted:
        return self.inner.lift(self.units * self._theta(theta))

    def conservation_laws(self, theta: Theta) -> Laws:
        return self.inner.conservation_laws(theta)

    def random_point(self, n_samples: int = 1, rng: Rng = None) -> Theta:
        return self.inner.random_point(n_samples, rng) / self.units


class Rescaling:
    r"""An architecture in which a flow with learning rates is a plain flow, and the way there.

    With :math:`ψ = θ/u` and :math:`\tilde z = z/a` the flow is the plain one of the architecture
    from ψ₀, and :math:`K(z)[g] = b ∘ \tilde K_{ψ_0}(\tilde z)[b ∘ g]`.

    Parameters
    ----------
    units : array, shape=[dim]
        The factors u.
    inside, outside : array, shape=[*lifted_shape], optional
        The factors a and b, by default those of a lift by monomials.
    """

    def __init__(
        self,
        architecture: Architecture,
        units: OneTangent,
        inside: OneLifted | None = None,
        outside: OneLifted | None = None,
    ) -> None:
        self.architecture, self.units = architecture, units
        self._inside, self._outside = inside, outside

    @cached_property
    def inside(self) -> FloatArray:
        """The factors a of z; there may be many."""
        if self._inside is not None:
            return np.asarray(self._inside)
        plain = np.asarray(self.architecture.lift(np.ones(self.units.size)))
        own = np.asarray(self.architecture.lift(self.units))
        factors: FloatArray = np.divide(own, plain, out=np.ones_like(own), where=plain != 0)
        return factors

    @cached_property
    def outside(self) -> FloatArray:
        """The factors b of the covectors on z."""
        return self.inside if self._outside is None else self._outside

    def laws(self, theta: Theta) -> Laws:
        """Evaluate the laws of the flow, those of the architecture at ψ."""
        return self.architecture.conservation_laws(theta / self.units)


@singledispatch
def rescaling(architecture: Architecture, rates: OneTangent) -> Rescaling:
    r"""Find the architecture in which a flow with learning rates η is a plain one.

    It is the same one where :math:`φ(\sqrt η ∘ ψ) = a ∘ φ(ψ)` for constants a, or where all
    rates are the same.

    Raises
    ------
    NotIntrinsicError
        There is none with known laws: says why.
    """
    units, size = np.sqrt(rates), architecture.lifted_shape
    factors = _factors(architecture, units)
    if factors is not None:
        return Rescaling(architecture, units, factors)
    if np.ptp(rates) == 0:
        plain = np.ones(architecture.dim), np.ones(size)
        return Rescaling(architecture, *plain, np.full(size, units[0]))
    return Rescaling(RescaledArchitecture(architecture, rates), units, np.ones(size))


@rescaling.register
def _(architecture: ReLUNetwork, rates: OneTangent) -> Rescaling:
    return Rescaling(architecture, np.sqrt(rates))


@rescaling.register
def _(architecture: ProductArchitecture, rates: OneTangent) -> Rescaling:
    pairs = zip(architecture.factors, architecture.unpack(rates), strict=True)
    parts = [rescaling(factor, own) for factor, own in pairs]
    inner = [part.architecture for part in parts]
    if any(one is not other for one, other in zip(architecture.factors, inner, strict=True)):
        architecture = ProductArchitecture(*inner)
    return Rescaling(
        architecture,
        np.concatenate([part.units for part in parts]),
        np.asarray(architecture.join_lifted([part.inside for part in parts])),
        np.asarray(architecture.join_lifted([part.outside for part in parts])),
    )


def _points(architecture: Architecture) -> FloatArray:
    return np.asarray(architecture.random_point(_POINTS, rng=0))


def _factors(architecture: Architecture, units: FloatArray) -> FloatArray | None:
    """The constants a with φ(u ∘ ψ) = a ∘ φ(ψ), if there are any."""
    points = _points(architecture)
    plain, own = (np.asarray(architecture.lift(theta)) for theta in (points, units * points))
    factors, gaps = _multiples(own, plain)
    fits = np.all(gaps <= _ROUNDING * np.linalg.norm(own, axis=0)) and np.all(factors > 0)
    return factors if fits else None


def degrees(architecture: Architecture) -> FloatArray | None:
    """Return the degrees L of the entries of φ, with ∂φ(θ)θ = L ∘ φ(θ), if they have some."""
    points = _points(architecture)
    plain, own = architecture.phi(points), architecture.phi.jvp(points, points)
    found, gaps = _multiples(np.asarray(own), np.asarray(plain))
    sizes = np.maximum(*(np.linalg.norm(each, axis=0) for each in (own, plain)))
    return found if np.all(gaps <= _ROUNDING * sizes) else None


def _multiples(own: FloatArray, plain: FloatArray) -> tuple[FloatArray, FloatArray]:
    """By which factor each entry is that of another array at all points, and how far it is off."""
    squares = np.sum(plain**2, axis=0)
    factors = np.divide(
        np.sum(plain * own, axis=0), squares, out=np.ones_like(squares), where=squares > 0
    )
    return factors, np.linalg.norm(own - factors * plain, axis=0)
