"""The scales that make ranks independent of units, and derivatives that have one."""

from typing import Any

import numpy as np

from liftflow.architectures import Architecture
from liftflow.criteria.findings import DROP
from liftflow.errors import NotFiniteError
from liftflow.typing import FloatArray, OneTangent, OneTheta

SPARE = 6
"""Random combinations more than can be independent, so that no single one decides."""


def finite(derivatives: Any, architecture: Architecture) -> FloatArray:
    """Return derivatives of a lift as an array, or refuse them: no rank can be read off a NaN.

    Parameters
    ----------
    derivatives : array-like
        Any shape.

    Returns
    -------
    derivatives : array
        The same.

    Raises
    ------
    NotFiniteError
        One is NaN or infinite.
    """
    array = np.asarray(derivatives)
    if not np.all(np.isfinite(array)):
        raise NotFiniteError(
            f"the derivatives of the lift of {type(architecture).__name__} at θ must be finite, "
            f"got {np.sum(~np.isfinite(array))} NaN or infinite of {array.size}; autograd divides "
            "by the factors of a prod and by roots: write the lift so that it need not at zeros"
        )
    return array


def column_lengths(rows: FloatArray, theta: OneTheta) -> OneTangent:
    """Measure the columns of ∂φ(θ), whose lengths are the units of velocities of θ.

    A rescaling of the hidden nodes that multiplies a weight divides its length, so their product
    tells which columns vanish: those are given the length that the largest product stands for.

    Parameters
    ----------
    rows : array, shape=[n, dim]
        Of ∂φ(θ).

    Returns
    -------
    lengths : OneTangent
        Positive.
    """
    lengths, sizes = np.linalg.norm(rows, axis=0), np.abs(theta)
    typical = np.median(sizes[sizes > 0]) if np.any(sizes > 0) else 1.0
    sizes = np.where(sizes > 0, sizes, typical)
    natural = (np.max(lengths * sizes) or 1.0) / sizes
    return np.where(lengths > DROP * natural, lengths, natural)


def coordinate_scale(vectors: FloatArray) -> FloatArray:
    """Typical size of vectors at each coordinate; the median one where all are zero.

    Parameters
    ----------
    vectors : array, shape=[n, n_coordinates]
        Fields, or their majorants.

    Returns
    -------
    scale : array, shape=[n_coordinates]
        Positive.
    """
    scale = np.sqrt(np.mean(vectors**2, axis=0))
    typical = np.median(scale[scale > 0]) if np.any(scale > 0) else 1.0
    return np.where(scale > 0, scale, typical)


def unit_rows(rows: FloatArray) -> FloatArray:
    """Scale rows to length 1, and set those to zero that are rounding beside the longest.

    Parameters
    ----------
    rows : array, shape=[n, dim]
        Of any length.

    Returns
    -------
    units : array, shape=[n, dim]
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    kept = lengths > DROP * lengths.max(initial=0.0)
    return np.where(kept, rows / np.where(kept, lengths, 1.0), 0.0)
