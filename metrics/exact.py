"""Distances that are known exactly, without a geodesic to follow."""

import math
import warnings
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from scipy.integrate import IntegrationWarning, quad

from liftflow.architectures.balance import square_root
from liftflow.errors import GeodesicError
from liftflow.linalg import lengths
from liftflow.typing import FloatArray, Scalars

EXACT_RTOL = 1e-12
"""Size of a conservation law, relative to |θ₀|², that counts as 0."""


def _integral(function: Callable[[float], float], start: float, end: float) -> float:
    """Integral of a smooth function; a warning of the quadrature is an error."""
    if start == end:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error", IntegrationWarning)
        try:
            return float(quad(function, start, end, epsabs=0.0, epsrel=1e-12, limit=500)[0])
        except IntegrationWarning as warning:
            raise GeodesicError(
                f"the distance along a line could not be integrated: {warning}"
            ) from warning


def _along_line(
    start: float, end: float, within: Callable[..., float], from_zero: Callable[[float], float]
) -> float:
    """Add up the distance between numbers of one sign, or those from 0 to either of two signs.

    ``within`` takes a sign, log|start| and how much log|end| exceeds it, without cancellation.
    """
    if start * np.sign(end) > 0:
        near, far = sorted((start, end), key=abs)
        ratio = far / near
        log = np.log(abs(near))
        growth = np.log1p((far - near) / near) if ratio < 2 else np.log(abs(far)) - log
        return within(np.sign(start), log, growth)
    return sum(from_zero(z) for z in (start, end) if z)


def line_distance(cometric: Callable[[float], float], start: float, end: float) -> float:
    r"""Distance ∫ dz/√K(z) on a line, by quadrature.

    Over log|z| between numbers of one sign. A piece that ends at 0, where :math:`K ∼ |z|^p` may
    vanish, is taken over :math:`|z|^{1−p/2}`, in which there is no spike. Where K vanishes at 0,
    an end of the line, the distance is that of the completion across 0.

    Raises
    ------
    GeodesicError
        0 is infinitely far, or the quadrature fails.
    """

    def speed(z: float) -> float:
        return math.sqrt(cometric(z))

    def within(sign: float, log: float, growth: float) -> float:
        def integrand(rise: float) -> float:
            size = math.exp(log + rise)
            return size / speed(sign * size)

        return _integral(integrand, 0.0, growth)

    def from_zero(z: float) -> float:
        powers = [np.log2(speed(z * 2.0**-k) / speed(z * 2.0 ** -(k + 1))) for k in (30, 40)]
        power = 1.0 - powers[-1]
        if power < 1e-3:
            raise GeodesicError(
                f"0 lies infinitely far: K(z) ∼ |z|^{2 * powers[-1]:.3g} there, so that there is "
                "no way from one sign of z to the other"
            )
        return _integral(
            lambda s: abs(z) * s ** (1.0 / power - 1.0) / power / speed(z * s ** (1.0 / power)),
            0.0,
            1.0,
        )

    return _along_line(start, end, within, from_zero)


def chain_distance(gaps: FloatArray, start: float, end: float) -> float:
    r"""Distance on the products :math:`z = ∏ θ_i` of a chain of single weights.

    The invariant set is the curve :math:`θ_i^2 = w^2 + d_i`, :math:`∏ (w^2 + d_i) = z^2` with
    gaps :math:`d_i ≥ 0`, of which the smallest is 0, and its length is

    .. math:: ∫ \sqrt{S}\, dw = ∫ \frac{w}{\sqrt S}\, d\log|z|, \quad
        S = \sum_i \frac{w^2}{w^2 + d_i} ∈ [1, L],

    without a spike at z = 0. A chain without gaps has :math:`\sqrt L\, |z|^{1/L}` from 0 to z.
    Between different signs it is that of the way through 0, where a weight changes its sign. Where
    all of an even number of weights vanish together, that way has a corner, and the distance is
    that of the completion; an odd number of them goes straight on. Ours.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(gaps)

    def total(w: float) -> float:
        return float(np.sum(1.0 / (1.0 + np.exp(np.minimum(logs - 2 * np.log(w), 700.0)))))

    def root(log: float) -> float:
        """Solve Σ log(w² + d_i) = 2 log|z| by Newton's method on log w, convex, from the right."""
        found = log / gaps.size
        for _ in range(100 * gaps.size):
            excess = np.sum(np.logaddexp(2 * found, logs)) - 2 * log
            step = excess / (2 * total(np.exp(found)))
            found -= step
            if abs(step) <= 1e-15 * max(1.0, abs(found)):
                break
        return float(np.exp(found))

    def within(sign: float, log: float, growth: float) -> float:
        def integrand(rise: float) -> float:
            w = root(log + rise)
            return w / math.sqrt(total(w))

        return _integral(integrand, 0.0, growth)

    def from_zero(z: float) -> float:
        last = root(np.log(abs(z)))
        corners = np.sqrt(gaps[(gaps > 0) & (gaps < last**2)])
        nodes = [0.0, *sorted(corners), last]
        return sum(_integral(lambda w: np.sqrt(total(w)), *pair) for pair in pairwise(nodes))

    return _along_line(start, end, within, from_zero)


def cone_distance(matrix_a: FloatArray, matrix_b: FloatArray) -> float:
    r"""Distance of two matrices of rank one, of the form u vᵀ with |u| = |v|.

    The invariant set is the cone over two spheres of radius :math:`1/\sqrt 2`. With the distance
    :math:`ρ = \sqrt{2‖Z‖}` to the apex and the angles α of the u and β of the v,

    .. math:: d^2 = ρ_1^2 + ρ_2^2 − 2 ρ_1 ρ_2 \cos \min(π, \sqrt{(α^2 + β^2)/2}).

    (u, v) and (−u, −v) have the same image, so the closer of the two sheets counts. Where a side
    has one entry, its sign must stay; points of different sign are joined by the apex alone. Ours.
    """
    left, sizes, right_t = np.linalg.svd(np.stack([matrix_a, matrix_b]), full_matrices=False)
    alpha, beta = angle(*left[..., 0]), angle(*right_t[:, 0])
    sheets = []
    for angles in ((alpha, beta), (np.pi - alpha, np.pi - beta)):
        sides = zip(angles, matrix_a.shape, strict=True)
        cut = any(size == 1 and angle > np.pi / 2 for angle, size in sides)
        sheets.append(np.pi if cut else min(np.pi, np.sqrt(np.sum(np.square(angles)) / 2)))
    radii = np.sqrt(2 * sizes[:, 0])
    # The law of cosines, without cancellation where the points are close.
    across = 2 * np.sqrt(radii[0] * radii[1]) * np.sin(min(sheets) / 2)
    return float(np.hypot(radii[0] - radii[1], across))


def angle(first: FloatArray, second: FloatArray) -> Scalars:
    """Angle of unit vectors, accurate at 0 and π."""
    return 2 * np.arctan2(lengths(first - second), lengths(first + second))


def bures_wasserstein_distance(matrix_a: FloatArray, matrix_b: FloatArray) -> float:
    """Bures–Wasserstein distance min_Q ‖A^½ − B^½ Q‖ of two symmetric positive matrices.

    There is none of the cancellation of the formula by traces.
    """
    roots = [square_root(matrix) for matrix in (matrix_a, matrix_b)]
    left, _, right_t = np.linalg.svd(roots[1] @ roots[0])
    return float(np.linalg.norm(roots[0] - roots[1] @ left @ right_t))
