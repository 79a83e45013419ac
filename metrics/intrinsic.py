"""The one way from an architecture and θ₀ to its closed form K_θ₀."""

from functools import singledispatch
from typing import Any

from liftflow.architectures import (
    Architecture,
    DeepLinear,
    LinearNeuralODE,
    ProductArchitecture,
    ReLUNetwork,
    TiedNetwork,
    TwoLayerLinear,
)
from liftflow.architectures.linear import BALANCE_RTOL
from liftflow.doors import door
from liftflow.errors import InputError, NotIntrinsicError
from liftflow.metrics.base import Cometric
from liftflow.metrics.linear import deep_linear_cometric, neural_ode_cometric, two_layer_cometric
from liftflow.metrics.path import MonomialCometric, PathCometric
from liftflow.metrics.product import ProductCometric
from liftflow.typing import FloatArray, OneTheta, as_array


@door
@singledispatch
def intrinsic_cometric(
    architecture: Architecture, theta0: OneTheta, *, tolerance: float = BALANCE_RTOL
) -> Cometric:
    """Build the closed form K_θ₀ of an architecture at θ₀.

    A new family registers its own: ``@intrinsic_cometric.register``.

    Parameters
    ----------
    tolerance : float
        How far θ₀ may be from the condition that the closed form needs (‖S − λI‖ relative to
        ‖U‖² + ‖V‖², for two linear layers). ``numpy.inf`` forces the form of the nearest λ, to be
        used as a negative control.

    Raises
    ------
    NotIntrinsicError
        No closed form is known for this family, or none exists at this θ₀: says why.
    NotRecoverableError
        Dead parameters at θ₀.
    """
    raise NotIntrinsicError(
        f"no closed form is registered for {type(architecture).__name__}; register one with "
        "@intrinsic_cometric.register, or use RecoveredCometric(architecture, theta0) where θ is "
        "recoverable"
    )


def _point(architecture: Architecture, theta0: Any, tolerance: float) -> FloatArray:
    if not tolerance >= 0:
        raise InputError(f"tolerance must not be negative, got {tolerance}")
    return as_array(theta0, "theta0", (architecture.dim,), batch=False, differentiable=False)


@intrinsic_cometric.register
def _(architecture: ReLUNetwork, theta0: Any, *, tolerance: float = BALANCE_RTOL) -> PathCometric:
    point = _point(architecture, theta0, tolerance)
    architecture.basis_chart(point)  # refuses dead parameters, by name
    return PathCometric(architecture, point)


@intrinsic_cometric.register
def _(
    architecture: TiedNetwork, theta0: Any, *, tolerance: float = BALANCE_RTOL
) -> MonomialCometric:
    point = _point(architecture, theta0, tolerance)
    architecture.channels.refuse_dead(point)
    return MonomialCometric(architecture, point)


@intrinsic_cometric.register
def _(architecture: DeepLinear, theta0: Any, *, tolerance: float = BALANCE_RTOL) -> Cometric:
    return deep_linear_cometric(architecture, _point(architecture, theta0, tolerance), tolerance)


@intrinsic_cometric.register
def _(architecture: TwoLayerLinear, theta0: Any, *, tolerance: float = BALANCE_RTOL) -> Cometric:
    return two_layer_cometric(architecture, _point(architecture, theta0, tolerance), tolerance)


@intrinsic_cometric.register
def _(architecture: LinearNeuralODE, theta0: Any, *, tolerance: float = BALANCE_RTOL) -> Cometric:
    return neural_ode_cometric(architecture, _point(architecture, theta0, tolerance), tolerance)


@intrinsic_cometric.register
def _(
    architecture: ProductArchitecture, theta0: Any, *, tolerance: float = BALANCE_RTOL
) -> ProductCometric:
    point = _point(architecture, theta0, tolerance)
    parts = zip(architecture.factors, architecture.unpack(point), strict=True)
    factors = [intrinsic_cometric(factor, part, tolerance=tolerance) for factor, part in parts]
    return ProductCometric(architecture, point, factors)
