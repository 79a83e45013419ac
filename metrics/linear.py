"""From a linear network and θ₀ to its multiplier, or to the reason why there is none."""

import numpy as np

from liftflow.architectures import DeepLinear, LinearNeuralODE, TwoLayerLinear
from liftflow.architectures.linear import layer_shifts, show_spectrum
from liftflow.errors import NotIntrinsicError
from liftflow.metrics.multipliers import (
    DeepMultiplier,
    HyperbolicMultiplier,
    LogarithmicMeanMultiplier,
    Multiplier,
    ScalarMultiplier,
    TwoLayerMultiplier,
)
from liftflow.metrics.spectral import SpectralCometric
from liftflow.typing import FloatArray

_RANK_RTOL = 1e-10


def deep_linear_cometric(
    network: DeepLinear, theta0: FloatArray, tolerance: float
) -> SpectralCometric:
    """Closed form of a relaxed balanced linear network of any depth.

    Parameters
    ----------
    network : DeepLinear
    theta0 : array, shape=[dim]
    tolerance : float
        Largest relative distance from relaxed balancedness.

    Returns
    -------
    cometric : SpectralCometric

    Raises
    ------
    NotIntrinsicError
        θ₀ is not relaxed balanced, or its hidden directions are ambiguous.
    """
    lams = network.balance(network.conservation_laws(theta0), _scale(network, theta0), tolerance)
    left, right = _hidden_layers(network, theta0, tolerance)
    return SpectralCometric(network, theta0, DeepMultiplier(layer_shifts(lams), left, right))


def two_layer_cometric(
    network: TwoLayerLinear, theta0: FloatArray, tolerance: float
) -> SpectralCometric:
    """Closed form of two linear layers: relaxed balanced, hyperbolic, or scalar at any S.

    Parameters
    ----------
    network : TwoLayerLinear
    theta0 : array, shape=[dim]
    tolerance : float
        Largest relative distance from relaxed balancedness, or from the hyperbolic leaf.

    Returns
    -------
    cometric : SpectralCometric

    Raises
    ------
    NotIntrinsicError
        None of the three applies at θ₀.
    """
    return SpectralCometric(network, theta0, _two_layer_multiplier(network, theta0, tolerance))


def _two_layer_multiplier(
    network: TwoLayerLinear, theta0: FloatArray, tolerance: float
) -> Multiplier:
    laws = network.conservation_laws(theta0)
    (matrix,) = network.split_laws(laws)
    if network.n == network.m == 1:
        return ScalarMultiplier(2 * np.sum(matrix**2) - np.trace(matrix) ** 2)
    try:
        (lam,) = network.balance(laws, _scale(network, theta0), tolerance)
    except NotIntrinsicError as error:
        radius = _hyperbolic_radius(network, theta0, tolerance)
        if radius is None:
            raise NotIntrinsicError(
                f"{error}. Nor is θ₀ on the hyperbolic leaf (r ≥ n + m), the one other known case"
            ) from None
        return HyperbolicMultiplier(radius)
    left, right = _hidden_layers(network, theta0, tolerance)
    return TwoLayerMultiplier(lam, left[0], right[1])


def neural_ode_cometric(
    network: LinearNeuralODE, theta0: FloatArray, tolerance: float
) -> SpectralCometric:
    """Closed form of a relaxed balanced linear neural ODE, in the limit of infinite depth.

    Parameters
    ----------
    network : LinearNeuralODE
    theta0 : array, shape=[dim]
    tolerance : float
        Largest distance of the H_i from multiples of I, relative to 1 + ‖A‖².

    Returns
    -------
    cometric : SpectralCometric

    Raises
    ------
    NotIntrinsicError
        θ₀ is not relaxed balanced.
    """
    # The H_i lie in the last digits of the layers, which bound from below what can be told.
    size = 1.0 + float(np.sum(theta0**2))
    bound = max(tolerance * size / network.n_steps**2, 1e-14 * network.n)
    network.balance(network.conservation_laws(theta0), 1.0, bound)
    return SpectralCometric(network, theta0, LogarithmicMeanMultiplier())


def _scale(network: DeepLinear, theta0: FloatArray) -> float:
    """Size of the layers, Σ‖U_i‖², that distances between laws are relative to."""
    return float(sum(np.sum(layer**2) for layer in network.layers(theta0)))


def _hyperbolic_radius(
    network: TwoLayerLinear, theta0: FloatArray, tolerance: float
) -> float | None:
    """The a with W Wᵀ J W Wᵀ = a² J, where there is one."""
    if network.r < network.n + network.m:
        return None
    weights = np.vstack(network.unpack(theta0))
    signs = np.repeat([1.0, -1.0], [network.n, network.m])
    gram = weights @ weights.T
    product = gram @ (signs[:, None] * gram) * signs[:, None]
    square = float(np.trace(product)) / len(product)
    gap = np.linalg.norm(product - square * np.eye(len(product)))
    return np.sqrt(square) if gap <= tolerance * np.sum(weights**2) ** 2 and square > 0 else None


def _hidden_layers(
    network: DeepLinear, theta0: FloatArray, tolerance: float
) -> tuple[FloatArray, FloatArray]:
    """α_j on ker Zᵀ and β_j on ker Z, read from θ₀; the trivial ones where there is no kernel."""
    layers = [np.asarray(layer) for layer in network.layers(theta0)]
    depth, rank = len(layers), min(network.widths)
    prefixes, suffixes = [np.eye(network.widths[0])], [np.eye(network.widths[-1])]
    for layer in layers[:-1]:
        prefixes.append(layer @ prefixes[-1])
    for layer in layers[:0:-1]:
        suffixes.append(suffixes[-1] @ layer)
    left, singular, right_t = np.linalg.svd(np.asarray(network.lift(theta0)))
    # A rank drop at θ₀ makes the kernels larger; what is read there must still be one value.
    rank = min(rank, int(np.sum(singular > _RANK_RTOL * singular.max(initial=0.0))))
    ends = np.eye(depth)
    alphas, betas = ends[-1].copy(), ends[0].copy()
    scale = _scale(network, theta0)
    if network.widths[-1] > min(network.widths):
        basis = left[:, rank:]
        for j, suffix in enumerate(suffixes[::-1]):
            bound = tolerance * scale ** (depth - 1 - j)
            alphas[j] = _one_value(basis.T @ suffix, bound, "ker Zᵀ", network)
    if network.widths[0] > min(network.widths):
        basis = right_t[rank:].T
        for j, prefix in enumerate(prefixes):
            betas[j] = _one_value(basis.T @ prefix.T, tolerance * scale**j, "ker Z", network)
    return alphas, betas


def _one_value(rows: FloatArray, bound: float, kernel: str, network: DeepLinear) -> float:
    """The one eigenvalue of rows rowsᵀ, or NotIntrinsicError with its spectrum."""
    gram = rows @ rows.T
    value = float(np.trace(gram)) / len(gram)
    if not np.linalg.norm(gram - value * np.eye(len(gram))) <= bound:
        spectrum = show_spectrum(gram)
        raise NotIntrinsicError(
            f"ambiguous hidden directions: on {kernel} the layers next to it have the squared "
            f"singular values {spectrum}, and z does not tell which direction carries which, so "
            f"the kernel inclusion fails (widths {network.widths}; two layers: λ ≠ 0 needs r not "
            "strictly between min(n, m) and max(n, m), and z of full rank)"
        )
    return value
