"""The scales that make ranks independent of units, and derivatives that have one."""

from typing import Any

import numpy as np

from liftflow.architectures import Architecture
from liftflow.criteria.findings import DROP
from liftflow.errors import NotFiniteError
from liftflow.linalg import row_sizes
from liftflow.typing import FloatArray, OneLifted, OneTangent, OneTheta

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


def entry_units(architecture: Architecture, theta: OneTheta) -> OneLifted:
    """Measure by how much each entry of φ changes about θ, so that no rank depends on its unit.

    Returns
    -------
    units : OneLifted
        Positive; an entry that changes by rounding errors beside the others has their unit.
    """
    steps = 0.1 * np.random.default_rng(0).standard_normal((8, theta.size))
    with np.errstate(all="ignore"):  # the neighbours of θ need not all be where φ is defined
        lifted = np.asarray(architecture.lift(theta + steps * _sizes(theta)))
    flat = lifted.reshape(len(steps), architecture.lifted_dim)
    changes = np.where(np.all(np.isfinite(flat), axis=0), flat - flat[0], 0.0)
    return row_sizes(changes.T).reshape(architecture.lifted_shape)


def _sizes(theta: OneTheta) -> OneTangent:
    """Absolute values, the median one where they are zero."""
    sizes = np.abs(theta)
    return np.where(sizes > 0, sizes, np.median(sizes[sizes > 0]) if np.any(sizes > 0) else 1.0)


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
    lengths, sizes = np.linalg.norm(rows, axis=0), _sizes(theta)
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
