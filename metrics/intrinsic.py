"""The one way from an architecture and θ₀ to K_θ₀: in closed form, else by recovery of θ."""

from collections.abc import Callable
from functools import singledispatch

import numpy as np

from liftflow.architectures import (
    Architecture,
    DeepLinear,
    LinearNeuralODE,
    ProductArchitecture,
    ReLUNetwork,
    ScaleInvariant,
    TiedNetwork,
    TwoLayerLinear,
)
from liftflow.architectures.linear import BALANCE_RTOL, layer_shifts
from liftflow.doors import door
from liftflow.errors import ArchitectureError, InputError, NotIntrinsicError, NotRecoverableError
from liftflow.metrics.cometric import Cometric
from liftflow.metrics.multipliers import (
    DeepMultiplier,
    HyperbolicMultiplier,
    LogarithmicMeanMultiplier,
    Multiplier,
    ScalarMultiplier,
    TwoLayerMultiplier,
)
from liftflow.metrics.path import PathCometric
from liftflow.metrics.product import ProductCometric
from liftflow.metrics.recovered import RecoveredCometric
from liftflow.metrics.spectral import SpectralCometric
from liftflow.metrics.sphere import SphereCometric
from liftflow.typing import OneTheta, as_array


@singledispatch
def closed_form(architecture: Architecture, theta0: OneTheta, *, tolerance: float) -> Cometric:
    """Return the closed form of a family, which registers its own.

    Raises
    ------
    NotIntrinsicError
        None is known, or none exists at this θ₀: says why.
    """
    raise NotIntrinsicError(
        f"no closed form is registered for {type(architecture).__name__}; register one with "
        "@intrinsic_cometric.register"
    )


@door
def intrinsic_cometric(
    architecture: Architecture, theta0: OneTheta, *, tolerance: float = BALANCE_RTOL
) -> Cometric:
    """Build K_θ₀: the closed form where there is one, else from recovery of θ.

    A family registers its closed form: ``@intrinsic_cometric.register``.

    Parameters
    ----------
    tolerance : float
        How far θ₀ may be from the condition that the closed form needs (‖S − λI‖ relative to
        ‖U‖² + ‖V‖², for two linear layers). ``numpy.inf`` forces the form of the nearest λ, to be
        used as a negative control.

    Raises
    ------
    NotIntrinsicError
        There is no closed form, and θ₀ is not recoverable either: has both reasons.
    NotRecoverableError
        Dead parameters of a ReLU network at θ₀.
    """
    if not tolerance >= 0:
        raise InputError(f"tolerance must not be negative, got {tolerance}")
    point = as_array(theta0, "theta0", (architecture.dim,), batch=False, differentiable=False)
    try:
        return closed_form(architecture, point, tolerance=tolerance)
    except NotIntrinsicError as error:
        if error.__cause__ is not None:  # that of a factor, which has both reasons
            raise
        reason = error
    try:
        return RecoveredCometric(architecture, point)
    except (NotRecoverableError, ArchitectureError) as error:
        raise NotIntrinsicError(f"{reason}. Nor can θ be recovered from z: {error}") from error


intrinsic_cometric.register = closed_form.register  # type: ignore[attr-defined]


@closed_form.register
def _(architecture: ReLUNetwork, theta0: OneTheta, *, tolerance: float) -> PathCometric:
    architecture.channels.refuse_dead(theta0)
    return PathCometric(architecture, theta0)


@closed_form.register
def _(architecture: TiedNetwork, theta0: OneTheta, *, tolerance: float) -> RecoveredCometric:
    return RecoveredCometric(architecture, theta0)


@closed_form.register
def _(architecture: ScaleInvariant, theta0: OneTheta, *, tolerance: float) -> SphereCometric:
    return SphereCometric(architecture, theta0)


def deep_linear_multiplier(
    network: DeepLinear, theta0: OneTheta, tolerance: float
) -> DeepMultiplier:
    """Find that of a relaxed balanced linear network of any depth."""
    lams = network.balance(network.conservation_laws(theta0), network.sizes(theta0), tolerance)
    return DeepMultiplier(layer_shifts(lams), *network.hidden_values(theta0, tolerance))


def two_layer_multiplier(network: TwoLayerLinear, theta0: OneTheta, tolerance: float) -> Multiplier:
    """Find that of two linear layers: relaxed balanced, hyperbolic, or scalar at any S."""
    laws = network.conservation_laws(theta0)
    (matrix,) = network.split_laws(laws)
    if network.n == network.m == 1:
        square = 2 * np.sum(matrix**2) - np.trace(matrix) ** 2  # ≥ 0, but for rounding
        return ScalarMultiplier(float(np.sqrt(max(square, 0.0))))
    try:
        (lam,) = network.balance(laws, network.sizes(theta0), tolerance)
    except NotIntrinsicError as error:
        radius = network.hyperbolic_radius(laws, tolerance)
        if radius is None:
            raise NotIntrinsicError(
                f"{error}. Nor is θ₀ on the hyperbolic leaf (r ≥ n + m), the one other known case"
            ) from None
        return HyperbolicMultiplier(radius)
    left, right = network.hidden_values(theta0, tolerance)
    return TwoLayerMultiplier(lam, left[0], right[1])


def neural_ode_multiplier(
    network: LinearNeuralODE, theta0: OneTheta, tolerance: float
) -> LogarithmicMeanMultiplier:
    """Find that of a relaxed balanced linear neural ODE, in the limit of infinite depth."""
    # The H_i lie in the last digits of the layers, which bound from below what can be told. Their
    # distance from multiples of I is relative to 1 + ‖A‖².
    size = 1.0 + float(np.sum(theta0**2))
    bound = max(tolerance * size / network.n_steps**2, 1e-14 * network.n)
    network.balance(network.conservation_laws(theta0), 1.0, bound)
    return LogarithmicMeanMultiplier()


def _spectral(find: Callable[..., Multiplier]) -> Callable[..., SpectralCometric]:
    def build(network: DeepLinear, theta0: OneTheta, *, tolerance: float) -> SpectralCometric:
        unit = network._unit_of(np.max(np.abs(theta0)))
        multiplier = find(network, theta0 / unit, tolerance).scaled(unit**2)
        return SpectralCometric(network, theta0, multiplier)

    return build


closed_form.register(DeepLinear, _spectral(deep_linear_multiplier))
closed_form.register(TwoLayerLinear, _spectral(two_layer_multiplier))
closed_form.register(LinearNeuralODE, _spectral(neural_ode_multiplier))


@closed_form.register
def _(architecture: ProductArchitecture, theta0: OneTheta, *, tolerance: float) -> ProductCometric:
    parts = zip(architecture.factors, architecture.unpack(theta0), strict=True)
    factors = [intrinsic_cometric(factor, part, tolerance=tolerance) for factor, part in parts]
    return ProductCometric(architecture, theta0, factors)
