"""From a linear network and θ₀ to its multiplier, or to the reason why there is none."""

import numpy as np

from liftflow.architectures import DeepLinear, LinearNeuralODE, TwoLayerLinear
from liftflow.architectures.linear import layer_shifts
from liftflow.errors import NotIntrinsicError
from liftflow.metrics.multipliers import (
    DeepMultiplier,
    HyperbolicMultiplier,
    LogarithmicMeanMultiplier,
    Multiplier,
    ScalarMultiplier,
    TwoLayerMultiplier,
)
from liftflow.typing import OneTheta


def deep_linear_multiplier(
    network: DeepLinear, theta0: OneTheta, tolerance: float
) -> DeepMultiplier:
    """That of a relaxed balanced linear network of any depth, to a relative tolerance."""
    lams = network.balance(network.conservation_laws(theta0), network.sizes(theta0), tolerance)
    left, right = network.hidden_values(theta0, tolerance)
    return DeepMultiplier(layer_shifts(lams), left, right)


def two_layer_multiplier(network: TwoLayerLinear, theta0: OneTheta, tolerance: float) -> Multiplier:
    """That of two linear layers: relaxed balanced, hyperbolic, or scalar at any S."""
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
    """That of a relaxed balanced linear neural ODE, in the limit of infinite depth.

    Parameters
    ----------
    tolerance : float
        Largest distance of the H_i from multiples of I, relative to 1 + ‖A‖².
    """
    # The H_i lie in the last digits of the layers, which bound from below what can be told.
    size = 1.0 + float(np.sum(theta0**2))
    bound = max(tolerance * size / network.n_steps**2, 1e-14 * network.n)
    network.balance(network.conservation_laws(theta0), 1.0, bound)
    return LogarithmicMeanMultiplier()
