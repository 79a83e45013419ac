"""Distances that are known exactly, without a geodesic to follow."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from scipy.integrate import quad

from liftflow.typing import FloatArray

EXACT_RTOL = 1e-12
"""Size of a conservation law, relative to |θ₀|², that counts as 0."""


def line_distance(cometric: Callable[[float], float], start: float, end: float) -> float:
    r"""Distance ∫ dz/√K(z) on a line, by quadrature.

    Parameters
    ----------
    cometric : callable
        K as a number at a number.
    start, end : float
        Points of the line.

    Returns
    -------
    distance : float
        Where K vanishes at 0, an end of the line, it is that of the completion across 0.
    """
    crossing = [0.0] if min(start, end) < 0 < max(start, end) else []
    nodes = sorted([start, *crossing, end])
    pieces = [
        quad(lambda z: cometric(z) ** -0.5, *pair, epsabs=1e-13, epsrel=1e-13, limit=200)[0]
        for pair in pairwise(nodes)
    ]
    return float(sum(pieces))


def cone_distance(matrix_a: FloatArray, matrix_b: FloatArray) -> float:
    r"""Distance of two matrices of rank one, of the form u vᵀ with |u| = |v|.

    The invariant set is the cone over two spheres of radius :math:`1/\sqrt 2`. With the distance
    :math:`ρ = \sqrt{2‖Z‖}` to the apex and the angles α of the u and β of the v,

    .. math:: d^2 = ρ_1^2 + ρ_2^2 − 2 ρ_1 ρ_2 \cos \min(π, \sqrt{(α^2 + β^2)/2}).

    (u, v) and (−u, −v) have the same image, so the closer of the two sheets counts. Where a side
    has one entry, its sign must stay; points of different sign are joined through the apex alone.

    Parameters
    ----------
    matrix_a, matrix_b : array, shape=[n, m]
        Of rank one.

    Returns
    -------
    distance : float

    References
    ----------
    Ours.
    """
    (left_a, size_a, right_a), (left_b, size_b, right_b) = map(_leading, (matrix_a, matrix_b))
    alpha, beta = _angle(left_a, left_b), _angle(right_a, right_b)
    sheets = []
    for angles in ((alpha, beta), (np.pi - alpha, np.pi - beta)):
        sides = zip(angles, matrix_a.shape, strict=True)
        cut = any(size == 1 and angle > np.pi / 2 for angle, size in sides)
        sheets.append(np.pi if cut else min(np.pi, np.sqrt(np.sum(np.square(angles)) / 2)))
    radii = np.sqrt(2 * size_a), np.sqrt(2 * size_b)
    # The law of cosines, without cancellation where the points are close.
    across = 2 * np.sqrt(radii[0] * radii[1]) * np.sin(min(sheets) / 2)
    return float(np.hypot(radii[0] - radii[1], across))


def _leading(matrix: FloatArray) -> tuple[FloatArray, float, FloatArray]:
    left, singular, right_t = np.linalg.svd(matrix, full_matrices=False)
    return left[:, 0], float(singular[0]), right_t[0]


def _angle(first: FloatArray, second: FloatArray) -> float:
    """Angle of two unit vectors, accurate at 0 and π."""
    return float(2 * np.arctan2(np.linalg.norm(first - second), np.linalg.norm(first + second)))


def bures_wasserstein_distance(matrix_a: FloatArray, matrix_b: FloatArray) -> float:
    """Bures–Wasserstein distance min_Q ‖A^½ − B^½ Q‖ of two symmetric positive matrices.

    Parameters
    ----------
    matrix_a, matrix_b : array, shape=[n, n]
        The matrices A and B.

    Returns
    -------
    distance : float
        Without the cancellation of the formula by traces.
    """
    roots = []
    for matrix in (matrix_a, matrix_b):
        values, vectors = np.linalg.eigh(matrix)
        roots.append((vectors * np.sqrt(values)) @ vectors.T)
    left, _, right_t = np.linalg.svd(roots[1] @ roots[0])
    return float(np.linalg.norm(roots[0] - roots[1] @ left @ right_t))
