"""Names of array types, and the door through which outside data comes in.

Every public function passes its arrays through :func:`as_array`: what leaves it is float64,
finite and of the promised trailing shape. Arrays traced by autograd pass unchanged, so that a
function behind the door stays differentiable; one that is not asks for ``differentiable=False``
and is refused instead of returning a silent zero.
"""

import numbers
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from autograd.tracer import getval, isbox
from numpy.typing import NDArray

from liftflow.errors import InputError, NotDifferentiableError, NotFiniteError, ShapeError

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.intp]
Rng: TypeAlias = np.random.Generator | int | None


def _plain(value: Any) -> Any:
    while isbox(value):
        value = getval(value)
    return value


def as_array(
    value: Any,
    name: str,
    shape: tuple[int | None, ...] | None = None,
    *,
    batch: bool = True,
    differentiable: bool = True,
) -> Any:
    """Return ``value`` as a finite float64 array of the promised shape, or say why not.

    Parameters
    ----------
    value : array-like, shape=[..., *shape]
        Real numbers.
    name : str
        What the error message calls it.
    shape : tuple of int or None, optional
        Trailing shape; None stands for any length. Without it, any shape is let through.
    batch : bool
        Whether leading axes before ``shape`` are allowed.
    differentiable : bool
        Whether the caller can be differentiated by autograd.

    Returns
    -------
    array : array, shape=[..., *shape]
        Of float64; the traced array itself where autograd is at work.

    Raises
    ------
    InputError
        Not numbers.
    ShapeError
        Another trailing shape.
    NotFiniteError
        NaN, infinity or masked entries inside.
    NotDifferentiableError
        Traced by autograd where ``differentiable`` is False.
    """
    traced = isbox(value)
    if traced and not differentiable:
        raise NotDifferentiableError(
            f"{name} is being differentiated by autograd, and this function has no derivative "
            "here; differentiate the lift, the conservation laws or a chart's coordinates"
        )
    if np.ma.is_masked(value):
        raise NotFiniteError(f"{name} must be complete, got {np.ma.count_masked(value)} masked")
    try:
        plain = np.asarray(_plain(value))
    except ValueError as error:
        raise ShapeError(f"{name} must be an array of numbers, got a ragged sequence") from error
    if plain.dtype.kind not in "fiu":
        raise InputError(f"{name} must hold real numbers, got dtype {plain.dtype}")
    if shape is not None:
        tail = plain.shape[max(plain.ndim - len(shape), 0) :]
        fits = len(tail) == len(shape) and all(
            want is None or want == got for want, got in zip(shape, tail, strict=True)
        )
        if not fits or (not batch and plain.ndim != len(shape)):
            wanted = ", ".join("n" if size is None else str(size) for size in shape)
            lead = "..., " if batch else ""
            comma = "," if len(shape) == 1 and not batch else ""
            raise ShapeError(f"{name} must have shape ({lead}{wanted}{comma}), got {plain.shape}")
    with np.errstate(over="ignore"):  # longer floats may overflow
        array = plain.astype(np.float64, copy=False)
    if not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise NotFiniteError(f"{name} must be finite, got {bad} NaN or infinite of {array.size}")
    return value if traced else array


def as_count(value: Any, name: str, minimum: int = 0) -> int:
    """Return an integer of at least ``minimum``, or say why not.

    Parameters
    ----------
    value : int
        Any integer type.
    name : str
        What the error message calls it.
    minimum : int
        Smallest value let through.

    Returns
    -------
    count : int

    Raises
    ------
    InputError
        Not an integer, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise InputError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    return int(value)


def as_ordered(values: Any, name: str) -> list[Any]:
    """Return the values of an iterable as a list, where their order counts.

    Parameters
    ----------
    values : iterable
        A list, a tuple or whatever else yields the same in every process.
    name : str
        What the error message calls it.

    Returns
    -------
    values : list

    Raises
    ------
    InputError
        A set, which has another order in every process, or no iterable.
    """
    if isinstance(values, set | frozenset) or not isinstance(values, Iterable):
        raise InputError(
            f"{name} must come in an order, got {type(values).__name__}; give a list or a tuple"
        )
    return list(values)


def as_rng(rng: Rng) -> np.random.Generator:
    """Return a generator for a generator, a seed or None; numpy's global state is never used.

    Parameters
    ----------
    rng : numpy.random.Generator or int or None
        None draws a fresh seed from the operating system.

    Returns
    -------
    rng : numpy.random.Generator

    Raises
    ------
    InputError
        Anything else.
    """
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is None:
        return np.random.default_rng()
    if isinstance(rng, numbers.Integral) and not isinstance(rng, bool) and rng >= 0:
        return np.random.default_rng(int(rng))
    raise InputError(
        f"rng must be a numpy.random.Generator, a seed (an integer from 0) or None, got {rng!r}"
    )
