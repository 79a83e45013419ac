"""Names of array types, and the door through which outside data comes in.

Every public function passes its arrays through :func:`as_array`: what leaves it is float64,
finite and of the promised trailing shape. Arrays traced by autograd pass unchanged, so that a
function behind the door stays differentiable; one that is not asks for ``differentiable=False``
and is refused instead of returning a silent zero. Objects pass through :func:`as_instance`, sizes
through :func:`refuse_beyond`. What an object keeps it owns and cannot be written to:
:func:`as_own`, :func:`freeze`.
"""

import math
import numbers
import os
import reprlib
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

import numpy as np
from autograd.tracer import getval, isbox
from numpy.typing import NDArray
from scipy.linalg.blas import dasum
from scipy.sparse import csr_array
from typing_extensions import TypeAliasType

from liftflow.errors import (
    ArchitectureError,
    InputError,
    NotDifferentiableError,
    NotFiniteError,
    ShapeError,
)

FloatArray = TypeAliasType("FloatArray", NDArray[np.float64])
"""An array of float64."""

IntArray = TypeAliasType("IntArray", NDArray[np.intp])
"""An array of indices."""

Rng: TypeAlias = np.random.Generator | int | None

# Named shapes. A leading ... stands for any axes of a batch. Each is an array, a nested sequence of
# numbers where it comes in, or an array that autograd follows: no static type of numpy says that.

Theta = TypeAliasType("Theta", Any)
"""A parameter θ or a batch of them, shape=[..., dim]."""

Tangent = TypeAliasType("Tangent", Any)
"""A velocity or a covector of the parameter, shape=[..., dim]."""

OneTheta = TypeAliasType("OneTheta", Any)
"""One parameter θ, shape=[dim]."""

OneTangent = TypeAliasType("OneTangent", Any)
"""One velocity or covector of the parameter, shape=[dim]."""

Lifted = TypeAliasType("Lifted", Any)
"""A lifted variable z, shape=[..., *lifted_shape]."""

LiftedTangent = TypeAliasType("LiftedTangent", Any)
"""A velocity of z, shape=[..., *lifted_shape]."""

Covector = TypeAliasType("Covector", Any)
"""A covector on z, such as ∇f(z), shape=[..., *lifted_shape]."""

OneLifted = TypeAliasType("OneLifted", Any)
"""One lifted variable z, shape=[*lifted_shape]."""

OneLiftedTangent = TypeAliasType("OneLiftedTangent", Any)
"""One velocity of z or covector on it, shape=[*lifted_shape]."""

Laws = TypeAliasType("Laws", Any)
"""Values of the conservation laws h, or a velocity of them, shape=[..., n_laws]."""

OneLaws = TypeAliasType("OneLaws", Any)
"""One value of the conservation laws, shape=[n_laws]."""

Scalars = TypeAliasType("Scalars", Any)
"""One number for each member of a batch, shape=[...]."""

Point = TypeAliasType("Point", Any)
"""A point of a manifold, shape=[..., *point_shape]."""

TangentVec = TypeAliasType("TangentVec", Any)
"""A vector at a point of a manifold, shape=[..., *point_shape]."""

Jacobian = TypeAliasType("Jacobian", Any)
"""The Jacobian ∂φ, shape=[..., lifted_dim, dim]."""

LiftedMatrix = TypeAliasType("LiftedMatrix", Any)
"""A bilinear form on z, such as K(z), shape=[..., lifted_dim, lifted_dim]."""

Matrix = TypeAliasType("Matrix", Any)
"""A bilinear form on parameters or coordinates, shape=[..., dim, dim]."""

Symbols = TypeAliasType("Symbols", Any)
"""Christoffel symbols, the contravariant index first, shape=[..., dim, dim, dim]."""

Inputs = TypeAliasType("Inputs", Any)
"""Samples that a network is fed, shape=[..., n_samples, n_inputs]."""

OnHidden = TypeAliasType("OnHidden", Any)
"""One number per hidden node, shape=[..., n_hidden]."""

OnTimes = TypeAliasType("OnTimes", Any)
"""One number per kept time, shape=[n_times]."""

Forms = TypeAliasType("Forms", Any)
"""Covectors on z, or what a family keeps instead of them; each names a gradient field."""

Block = TypeAliasType("Block", Any)
"""A named block of the parameter, shape=[..., *block_shape]."""
T = TypeVar("T")

_FLOAT64 = np.dtype(np.float64)
_SHORT = 10**18  # which needs no shortening

MEMORY_LIMIT = 8e9
"""Bytes of a network or a dense array, if the environment has no ``LIFTFLOW_MEMORY_LIMIT``."""


def untraced(value: Any) -> Any:
    """Take an array out of autograd's sight.

    Parameters
    ----------
    value : object
        Traced, or anything else, which stays as it is.
    """
    while isbox(value):
        value = getval(value)
    return value


def as_array(
    value: TangentVec,
    name: str,
    shape: tuple[int | None, ...] | None = None,
    *,
    batch: bool = True,
    differentiable: bool = True,
) -> TangentVec:
    """Return ``value`` as a finite float64 array of the promised shape, or say why not.

    Parameters
    ----------
    value : TangentVec
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
    array : TangentVec
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
    if is_sound(value, shape, batch):
        return value
    traced = isbox(value)
    if traced and not differentiable:
        raise NotDifferentiableError(
            f"{name} is being differentiated by autograd, and this function has no derivative "
            "here; differentiate the lift, the conservation laws or a chart's coordinates"
        )
    if np.ma.is_masked(value):
        raise NotFiniteError(f"{name} must be complete, got {np.ma.count_masked(value)} masked")
    try:
        plain = np.asarray(untraced(value))
    except ValueError as error:
        raise ShapeError(f"{name} must be an array of numbers, got a ragged sequence") from error
    except Exception as error:  # whatever the conversion of a foreign object raises
        raise InputError(
            f"{name} must be an array of numbers, got {got(value)}: {error}"
        ) from error
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


def is_sound(value: object, shape: tuple[int | None, ...] | None, batch: bool = True) -> bool:
    """Whether a value is plainly an array as wanted: what loops and inner calls hand on.

    Parameters
    ----------
    value : object
        Anything.
    shape : tuple of int or None, optional
        As of :func:`as_array`.
    batch : bool
        As of :func:`as_array`.
    """
    if type(value) is not np.ndarray or value.dtype != _FLOAT64:
        return False
    if shape is not None and value.shape != shape:
        lead = value.ndim - len(shape)
        if lead < 0 or (lead and not batch):
            return False
        own = value.shape[lead:]
        if own != shape and not all(w is None or w == s for w, s in zip(shape, own, strict=True)):
            return False
    return not value.size or math.isfinite(dasum(value.ravel()))  # else it may just be large


def as_vector(value: Any, name: str, size: int) -> FloatArray:
    """Return a vector, checked as by :func:`as_array` unless it looks like one of our own.

    Parameters
    ----------
    value : array-like, shape=[size]
        What comes from inside a loop passes at once: its numbers are not looked at.
    name : str
        What the error message calls it.
    size : int
        Its length.

    Returns
    -------
    vector : array, shape=[size]
    """
    if type(value) is np.ndarray and value.shape == (size,) and value.dtype == np.float64:
        return value
    return as_array(value, name, (size,), batch=False, differentiable=False)


def as_own(value: Any, name: str, shape: tuple[int | None, ...] | None = None) -> FloatArray:
    """Return a read-only copy of an array without leading axes: what an object keeps of it.

    Parameters
    ----------
    value : array-like, shape=[*shape]
        Real numbers.
    name : str
        What the error message calls it.
    shape : tuple of int or None, optional
        As of :func:`as_array`.

    Returns
    -------
    array : array, shape=[*shape]
    """
    return freeze(as_array(value, name, shape, batch=False, differentiable=False).copy())


def freeze(value: T) -> T:
    """Make the arrays in ``value`` read-only, and return it.

    Parameters
    ----------
    value : array, sparse array, or list or tuple of them
        Whatever else is inside stays as it is.
    """
    if isinstance(value, np.ndarray):
        value.setflags(write=False)
    elif isinstance(value, list | tuple):
        for part in value:
            freeze(part)
    elif isinstance(value, csr_array):
        freeze((value.data, value.indices, value.indptr))
    return value


def got(value: Any) -> str:
    """Name the type of a value for an error message, or say which class it is.

    Parameters
    ----------
    value : object
        Of any type.
    """
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def shown(value: Any) -> str:
    """Write a value into an error message, however large it is.

    Parameters
    ----------
    value : object
        Of any type.

    Returns
    -------
    text : str
        Shortened.
    """
    if type(value) is int and abs(value) < _SHORT:
        return str(value)
    try:
        return reprlib.repr(value)
    except Exception:  # integers of thousands of digits have none
        return got(value)


def as_instance(value: Any, cls: type, name: str) -> Any:
    """Return ``value`` if it is an instance of ``cls``, or say what it is.

    Parameters
    ----------
    value : object
        Often an argument in another's place, or a class where an instance is meant.
    cls : type
        Its ``_usual_fix``, if it has one, ends the message.
    name : str
        What the error message calls it.

    Raises
    ------
    InputError
        Of another class.
    """
    if isinstance(value, cls):
        return value
    article = "an" if cls.__name__[0] in "AEIOU" else "a"
    fix = "call it to make one" if value is cls else getattr(cls, "_usual_fix", "")
    end = f"; {fix}" if fix else ""
    raise InputError(f"{name} must be {article} {cls.__name__}, got {got(value)}{end}")


def as_function(value: Any, name: str) -> Callable[..., Any]:
    """Return ``value`` if it can be called, or say what it is.

    Parameters
    ----------
    value : callable
        Of any signature.
    name : str
        What the error message calls it.

    Raises
    ------
    InputError
        It cannot be called.
    """
    if not callable(value):
        raise InputError(f"{name} must be a function, got {got(value)}")
    return value


def as_number(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Return one real number from ``low`` to ``high``, or say why not.

    Parameters
    ----------
    value : float
        Any real type.
    name : str
        What the error message calls it.
    low, high : float
        Bounds, themselves let through.

    Raises
    ------
    InputError
        Not a number, or out of bounds.
    """
    if isinstance(value, float) and low <= value <= high:
        return float(value)
    number = float(as_array(value, name, (), batch=False, differentiable=False))
    if not low <= number <= high:
        raise InputError(f"{name} must lie between {low:g} and {high:g}, got {shown(value)}")
    return number


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

    Raises
    ------
    InputError
        Not an integer, or too small.
    """
    if type(value) is int and value >= minimum:
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise InputError(f"{name} must be an integer of at least {minimum}, got {shown(value)}")
    return int(value)


def as_ordered(values: Any, name: str) -> list[Any]:
    """Return the values of an iterable as a list, where their order counts.

    Parameters
    ----------
    values : iterable
        A list, a tuple or whatever else yields the same in every process.
    name : str
        What the error message calls it.

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
        "rng must be a numpy.random.Generator, a seed (an integer from 0) or None, got "
        f"{shown(rng)}"
    )


def refuse_beyond(n_numbers: float, what: str, n_bytes: int = 8) -> None:
    """Refuse what cannot fit into memory before any of it is taken.

    Parameters
    ----------
    n_numbers : float
        How many numbers it takes.
    what : str
        What the error message calls it.
    n_bytes : int
        What one of them takes.

    Raises
    ------
    ArchitectureError
        It takes more than ``MEMORY_LIMIT``.
    """
    limit = float(os.environ.get("LIFTFLOW_MEMORY_LIMIT", MEMORY_LIMIT))
    if n_numbers * n_bytes > limit:
        gigabytes = min(n_numbers * n_bytes, 10**300) / 1e9
        raise ArchitectureError(
            f"{what} takes about {gigabytes:.3g} GB, more than the limit of "
            f"{limit / 1e9:.3g} GB; the environment variable LIFTFLOW_MEMORY_LIMIT, in bytes, "
            "raises it"
        )
