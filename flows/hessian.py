"""Is a metric the Hessian of a potential? Numerical checks, in any coordinates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from liftflow.architectures import ReLUNetwork
from liftflow.criteria import Finding, Verdict
from liftflow.doors import door
from liftflow.errors import InputError, ShapeError
from liftflow.linalg import RANK_RTOL, extrapolated, over_batch
from liftflow.manifolds import InvariantSet
from liftflow.typing import FloatArray, OneTheta, as_array

MetricMatrix = Callable[[FloatArray], FloatArray]
"""Takes coordinates, shape=[..., n], to the matrix of a metric, shape=[..., n, n]."""

_STEP = 0.02  # of finite differences, relative to the size of the point
_CHANGE = 0.05  # of the metric over a step, beyond which it is cut, down to _STEP of its coordinate
_MAX_CUTS = 50
_NOISE = 1e-5  # ratio of the scales of two terms beyond which the smaller is lost in rounding


@door
def is_hessian_metric(
    metric_matrix: MetricMatrix,
    points: Any,
    *,
    warping: Callable[[FloatArray], Any] | None = None,
    rtol: float = 1e-6,
) -> Finding:
    """Ask whether a metric is Hessian, g = ∇²Φ, in the coordinates it is given in.

    A metric is Hessian, locally, iff ∂_k g_ij is totally symmetric. The derivatives are central
    differences extrapolated to order 6, with steps of 2 % of the size of the point, or of a single
    coordinate along which the metric varies faster. The value found is how far it is from symmetric
    at the worst point, relative to the scales of its three coordinates; undecided where the
    differences err too much.

    Parameters
    ----------
    metric_matrix : callable
        Coordinates, shape=[..., n], to the metric, shape=[..., n, n], positive definite:
        ``invariant_set.image().metric.metric_matrix`` where the image is open, else
        :func:`chart_metric_matrix`.
    points : array-like, shape=[..., n]
        Where to ask.
    warping : callable, optional
        A candidate ω > 0, shape=[..., n] to shape=[...]: asks whether ω g is Hessian.
    rtol : float
        The relative asymmetry that still counts as none.

    Raises
    ------
    InputError
        The matrix is singular or of another shape.

    References
    ----------
    Diagonal networks and one neuron: [Li2022]_, [Azulay2021]_.

    Examples
    --------
    >>> from liftflow import InvariantSet, ReLUNetwork
    >>> from liftflow.flows import is_hessian_metric
    >>> start = InvariantSet(ReLUNetwork.diagonal(2), [0.5, 0.8, 0.4, -0.3])
    >>> bool(is_hessian_metric(start.image().metric.metric_matrix, [[0.3, -0.2]]))
    True
    """

    def metric(z: FloatArray) -> FloatArray:
        matrix = metric_matrix(z)
        return matrix if warping is None else np.asarray(warping(z))[..., None, None] * matrix

    points = _points(points)
    slopes = [_slopes(metric, point) for point in points]
    checks = [
        (at.relative(at.slope - np.swapaxes(at.slope, 0, 1)), at.relative(at.error))
        for at in slopes
    ]
    return _finding("Hessian metric", points, np.array(checks), rtol, {})


@door
def is_warped_hessian_metric(
    metric_matrix: MetricMatrix, points: Any, *, rtol: float = 1e-5
) -> Finding:
    r"""Ask whether some ω(z) > 0 makes a metric Hessian, ωg = ∇²Φ, and find ∇log ω.

    With η = ∇log ω the condition is that :math:`∂_k g_{ij} + η_k g_{ij}` is symmetric in i and k.
    Contracted with :math:`g^{ij}` it gives η; what is left must vanish, and η must be a gradient.
    The value found is the asymmetry left, or how far η is from a gradient; the witness has η at all
    points, shape=[n_points, n], as ``log_warping_gradient``.

    Parameters
    ----------
    points : array-like, shape=[..., n]
        With n ≥ 2: in one dimension every metric is Hessian.

    Raises
    ------
    InputError
        The matrix is singular or of another shape, or n = 1.

    References
    ----------
    Ours; the warping of one neuron is that of [Azulay2021]_.
    """
    points = _points(points)
    if points.shape[1] < 2:
        raise InputError("in one dimension every metric is Hessian; got points of one coordinate")
    asymmetry, error, eta = zip(*(_warped_hessian(metric_matrix, p) for p in points), strict=True)
    checks = np.stack([asymmetry, error], axis=-1)
    witness = {"log_warping_gradient": np.array(eta)}
    return _finding("warped Hessian metric", points, checks, rtol, witness)


@door
def chart_metric_matrix(network: ReLUNetwork, theta0: OneTheta) -> MetricMatrix:
    """Write K⁻¹ in the basis-path chart of θ₀, where it has full rank."""
    metric: MetricMatrix = InvariantSet(network, theta0).chart().metric.metric_matrix
    return metric


def _finding(
    name: str, points: FloatArray, checks: FloatArray, rtol: float, witness: dict[str, Any]
) -> Finding:
    """Verdict on asymmetries and the errors in them, shape=[n_points, 2]."""
    asymmetry, error = checks.T
    worst = int(np.argmax(asymmetry))
    value = float(asymmetry[worst])
    margin = max(value / rtol, rtol / value) if value > 0 else np.inf
    if np.any(asymmetry > np.maximum(rtol, 10.0 * error)):
        verdict, reason = Verdict.FAILS, f"∂g is not symmetric, relatively by {value:.1g}"
        witness = {**witness, "point": points[worst]}
    elif max(value, float(error.max())) > rtol:
        verdict, margin = Verdict.UNDECIDED, 1.0
        reason = (
            f"the finite differences err by {error.max():.1e}, too much to tell an asymmetry of "
            f"{rtol:.0e} from none; raise rtol, or choose points where the metric varies less"
        )
    else:
        verdict, reason = Verdict.HOLDS, f"∂g is symmetric at {len(points)} points"
    return Finding(name, verdict, value, margin, rtol, reason, witness)


def _points(points: Any) -> FloatArray:
    points = as_array(points, "points", (None,), differentiable=False)
    if points.size == 0:
        raise InputError(f"points must hold at least one, got shape {points.shape}")
    return points.reshape(-1, points.shape[-1])


def _derivative(
    function: MetricMatrix, point: FloatArray, steps: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Derivative of order 6 with the new axis first, its error, the values at the longest steps."""
    steps = steps / 2.0 ** np.arange(3)[:, None]
    shifts = steps[..., None] * np.eye(len(point))
    moved = point + np.stack([shifts, -shifts])
    ends = as_array(function(moved), "the value of a function", differentiable=False)
    if ends.shape[:3] != moved.shape[:3]:
        raise ShapeError(
            f"a function of {moved.shape} must keep the leading axes, got {ends.shape}"
        )
    steps = steps.reshape(*steps.shape, *[1] * (ends.ndim - 3))
    return *extrapolated((ends[0] - ends[1]) / (2.0 * steps)), ends[:, 0]


def _checked(metric_matrix: MetricMatrix, point: FloatArray) -> FloatArray:
    metric = as_array(metric_matrix(point), "the value of metric_matrix", differentiable=False)
    if metric.shape != (len(point), len(point)):
        raise InputError(
            f"metric_matrix must take {len(point)} coordinates to a matrix of that size, got "
            f"shape {metric.shape}"
        )
    units = _units(metric)
    values = np.linalg.eigvalsh(metric / _outer(units, units))
    if not values[0] > RANK_RTOL * values[-1]:
        raise InputError(
            f"the metric is singular in these coordinates: eigenvalues from {values[0]:.1e} to "
            f"{values[-1]:.1e} at {point}, scaled to a unit diagonal; where the image is not open, "
            "use a chart, as chart_metric_matrix(network, theta0) does"
        )
    return metric


def _outer(a: FloatArray, b: FloatArray) -> FloatArray:
    return a[..., :, None] * b[..., None, :]


def _units(metric: FloatArray) -> FloatArray:
    """Lengths of the coordinate vectors: what entries of the metric are relative to."""
    lengths = np.sqrt(np.maximum(np.diagonal(metric, axis1=-2, axis2=-1), 0.0))
    return np.where(lengths > 0, lengths, 1.0)


@dataclass(frozen=True)
class _Slopes:
    """A metric and its derivative [k, i, j] at a point, with its error and steps.

    The rates are those at which the metric changes along each coordinate.
    """

    metric: FloatArray
    slope: FloatArray
    error: FloatArray
    steps: FloatArray
    rates: FloatArray

    def relative(self, asymmetry: FloatArray) -> float:
        """Largest ∂_k g_ij − ∂_i g_kj, each relative to the scales of the coordinates i, j, k."""
        units = _units(self.metric)
        scale = _outer(self.rates, units)  # of ∂_k g_i: both terms at most, where they are equal
        scale = np.maximum(np.minimum(scale, scale.T), _NOISE * np.maximum(scale, scale.T))
        return float(np.max(np.abs(asymmetry) / (scale[:, :, None] * units)))


def _slopes(metric_matrix: MetricMatrix, point: FloatArray) -> _Slopes:
    metric = _checked(metric_matrix, point)
    shortest = _STEP * np.abs(point)
    steps = np.full(len(point), np.max(shortest) or _STEP)
    for _ in range(_MAX_CUTS):
        slope, error, ends = _derivative(metric_matrix, point, steps)
        units = np.maximum(_units(metric), _units(ends))
        change = np.max(np.abs(ends - metric) / _outer(units, units), axis=(0, 2, 3))
        far = ~(change < _CHANGE) & (steps > shortest)
        if not np.any(far):
            break
        steps = np.where(far, np.maximum(steps / 4.0, shortest), steps)
    units = _units(metric)
    rates = np.max(np.abs(slope) / _outer(units, units), axis=(1, 2))
    return _Slopes(metric, slope, error, steps, np.maximum(rates, _STEP / steps))


def _eta(metric: FloatArray, slope: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Candidate ∇log ω, and what it leaves of the asymmetry, [k, i, j]."""
    gap = slope - np.swapaxes(slope, -3, -2)
    inverse = np.linalg.inv(metric)
    eta = -np.einsum("...ij,...kij->...k", inverse, gap) / (metric.shape[-1] - 1)
    warped = np.einsum("...k,...ij->...kij", eta, metric)
    return eta, gap + warped - np.swapaxes(warped, -3, -2)


def _warped_hessian(
    metric_matrix: MetricMatrix, point: FloatArray
) -> tuple[float, float, FloatArray]:
    at = _slopes(metric_matrix, point)
    eta, left = _eta(at.metric, at.slope)

    def eta_at(z: FloatArray) -> FloatArray:
        def one(z: FloatArray) -> FloatArray:
            slope = _derivative(metric_matrix, z, at.steps)[0]
            return _eta(np.asarray(metric_matrix(z)), slope)[0]

        return over_batch(one, [z], [1])

    curl, curl_error, _ = _derivative(eta_at, point, at.steps)
    scale = np.maximum(_outer(at.rates, at.rates), np.maximum(np.abs(curl), np.abs(curl.T)))
    asymmetry = max(at.relative(left), float(np.max(np.abs(curl - curl.T) / scale)))
    return asymmetry, max(at.relative(at.error), float(np.max(curl_error / scale))), eta
