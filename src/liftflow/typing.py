"""Names of array types, and the door through which outside data comes in.

Every public function passes its arrays through :func:`as_array`: what leaves it is float64,
finite and of the promised trailing shape. Arrays traced by autograd pass unchanged, so that a
function behind the door stays differentiable; one that is not asks for ``differentiable=False``
and is refused instead of returning a silent zero. Objects pass through :func:`as_instance`, sizes
through :func:`refuse_beyond`. What an object keeps it owns and cannot be written to:
:func:`as_own`, :func:`freeze`. ``name`` is what error messages call a value.
"""

import inspect
import math
import numbers
import os
import reprlib
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any, TypeAlias, TypeVar

import numpy as np
from autograd.tracer import getval, isbox
from numpy.typing import NDArray
from scipy.linalg.blas import dasum
from scipy.sparse import csr_array
from typing_extensions import TypeAliasType

from liftflow.errors import (
    ArchitectureError,
    CallError,
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
Numbers: TypeAlias = Any  # of any shape

Theta = TypeAliasType("Theta", Numbers)
"""A parameter θ or a batch of them, shape=[..., dim]."""
Tangent = TypeAliasType("Tangent", Numbers)
"""A velocity or a covector of the parameter, shape=[..., dim]."""
OneTheta = TypeAliasType("OneTheta", Numbers)
"""One parameter θ, shape=[dim]."""
OneTangent = TypeAliasType("OneTangent", Numbers)
"""One velocity or covector of the parameter, shape=[dim]."""
Lifted = TypeAliasType("Lifted", Numbers)
"""A lifted variable z, shape=[..., *lifted_shape]."""
LiftedTangent = TypeAliasType("LiftedTangent", Numbers)
"""A velocity of z, shape=[..., *lifted_shape]."""
Covector = TypeAliasType("Covector", Numbers)
"""A covector on z, such as ∇f(z), shape=[..., *lifted_shape]."""
OneLifted = TypeAliasType("OneLifted", Numbers)
"""One lifted variable z, shape=[*lifted_shape]."""
OneLiftedTangent = TypeAliasType("OneLiftedTangent", Numbers)
"""One velocity of z or covector on it, shape=[*lifted_shape]."""
Laws = TypeAliasType("Laws", Numbers)
"""Values of the conservation laws h, or a velocity of them, shape=[..., n_laws]."""
OneLaws = TypeAliasType("OneLaws", Numbers)
"""One value of the conservation laws, shape=[n_laws]."""
Scalars = TypeAliasType("Scalars", Numbers)
"""One number for each member of a batch, shape=[...]."""
Point = TypeAliasType("Point", Numbers)
"""A point of a manifold, shape=[..., *point_shape]."""
TangentVec = TypeAliasType("TangentVec", Numbers)
"""A vector at a point of a manifold, shape=[..., *point_shape]."""
Jacobian = TypeAliasType("Jacobian", Numbers)
"""The Jacobian ∂φ, shape=[..., lifted_dim, dim]."""
LiftedMatrix = TypeAliasType("LiftedMatrix", Numbers)
"""A bilinear form on z, such as K(z), shape=[..., lifted_dim, lifted_dim]."""
Matrix = TypeAliasType("Matrix", Numbers)
"""A bilinear form on parameters or coordinates, shape=[..., dim, dim]."""
Symbols = TypeAliasType("Symbols", Numbers)
"""Christoffel symbols, the contravariant index first, shape=[..., dim, dim, dim]."""
States = TypeAliasType("States", Numbers)
"""Positions and velocities, or their derivatives, shape=[..., 2, dim]."""
Flat = TypeAliasType("Flat", Numbers)
"""Lifted variables or vectors like them as flat vectors, shape=[..., lifted_dim]."""
Inputs = TypeAliasType("Inputs", Numbers)
"""Samples that a network is fed, shape=[..., n_samples, n_inputs]."""
OnHidden = TypeAliasType("OnHidden", Numbers)
"""One number per hidden node, shape=[..., n_hidden]."""
OnLayers = TypeAliasType("OnLayers", Numbers)
"""One number per layer, shape=[..., n_layers]."""
OnTimes = TypeAliasType("OnTimes", Numbers)
"""One number per kept time, shape=[n_times]."""
Forms = TypeAliasType("Forms", Numbers)
"""Covectors on z, or what a family keeps instead of them; each names a gradient field."""
Block = TypeAliasType("Block", Numbers)
"""A named block of the parameter, shape=[..., *block_shape]."""

T = TypeVar("T")
Shape: TypeAlias = tuple[int | None, ...]  # None stands for any length

MEMORY_LIMIT = 8e9
"""Bytes of a network or a dense array, if the environment has no ``LIFTFLOW_MEMORY_LIMIT``."""

_ARRAY, _FLOAT64 = np.ndarray, np.dtype(np.float64)
_SMALL = 1000  # bytes that nobody limits
_SHORT = 10**18  # which needs no shortening


def untraced(value: Numbers) -> Numbers:
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
    value: Numbers,
    name: str,
    shape: Shape | None = None,
    *,
    batch: bool = True,
    differentiable: bool = True,
) -> Numbers:
    """Return ``value`` as a finite float64 array of the promised shape, or say why not.

    Parameters
    ----------
    value : array-like
        Real numbers. Traced ones are returned as they are.
    shape : tuple of int or None, optional
        Trailing shape; None stands for any length. Without it, any shape is let through.
    batch : bool
        Whether leading axes before ``shape`` are allowed.
    differentiable : bool
        Whether the caller can be differentiated by autograd.

    Raises
    ------
    InputError
        Not numbers. A ``ShapeError`` for another trailing shape, a ``NotFiniteError`` for NaN,
        infinity or masked entries inside.
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
    if not _fits(plain.shape, shape, batch):
        wanted = ", ".join("n" if size is None else str(size) for size in shape or ())
        lead = "..., " if batch else ""
        comma = "," if len(shape or ()) == 1 and not batch else ""
        raise ShapeError(f"{name} must have shape ({lead}{wanted}{comma}), got {plain.shape}")
    with np.errstate(over="ignore"):  # longer floats may overflow
        array = plain.astype(np.float64, copy=False)
    if not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise NotFiniteError(f"{name} must be finite, got {bad} NaN or infinite of {array.size}")
    return value if traced else array


def is_sound(value: object, shape: Shape | None, batch: bool = True) -> bool:
    """Whether a value is plainly an array as wanted: what loops and inner calls hand on."""
    return (
        type(value) is _ARRAY
        and (value.dtype is _FLOAT64 or value.dtype == _FLOAT64)
        and (value.shape == shape or _fits(value.shape, shape, batch))
        # Not finite it may just be large.
        and (not value.size or isfinite(dasum(value if value.ndim == 1 else value.ravel())))
    )


def _fits(own: tuple[int, ...], shape: Shape | None, batch: bool) -> bool:
    if shape is None:
        return True
    lead = len(own) - len(shape)
    if lead < 0 or (lead and not batch):
        return False
    return own[lead:] == shape or all(
        want in (None, size) for want, size in zip(shape, own[lead:], strict=True)
    )


def as_vector(value: Numbers, name: str, size: int) -> FloatArray:
    """Return a vector, checked as by :func:`as_array` unless it looks like one of our own.

    Parameters
    ----------
    value : array-like, shape=[size]
        What comes from inside a loop passes at once: its numbers are not looked at.
    """
    if type(value) is np.ndarray and value.shape == (size,) and value.dtype == _FLOAT64:
        return value
    return as_array(value, name, (size,), batch=False, differentiable=False)


def as_own(value: Numbers, name: str, shape: Shape | None = None) -> FloatArray:
    """Return a read-only copy of an array without leading axes: what an object keeps of it.

    Parameters
    ----------
    value : array-like, shape=[*shape]
        Checked as by :func:`as_array`.
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


def got(value: object) -> str:
    """Name the type of a value for an error message, or say which class it is."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def shown(value: object) -> str:
    """Write a value into an error message, shortened however large it is."""
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
    """
    if isinstance(value, cls):
        return value
    article = "an" if cls.__name__[0] in "AEIOU" else "a"
    fix = "call it to make one" if value is cls else getattr(cls, "_usual_fix", "")
    end = f"; {fix}" if fix else ""
    raise InputError(f"{name} must be {article} {cls.__name__}, got {got(value)}{end}")


def as_function(value: object, name: str, n_arguments: int | None = None) -> Callable[..., Any]:
    """Return ``value`` if it can be called, with so many arguments, or say what it is."""
    if not callable(value):
        raise InputError(f"{name} must be a function, got {got(value)}")
    if n_arguments is None:
        return value
    try:
        signature = inspect.signature(value)
    except ValueError:  # some built-in functions do not say what they take
        return value
    try:
        signature.bind(*[None] * n_arguments)
    except TypeError as error:
        wanted = f"{n_arguments} argument{'s' * (n_arguments > 1)}"
        raise CallError(
            f"{name} must be a function of {wanted}, got {shown(value)}: {error}"
        ) from None
    return value


def as_number(value: object, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Return one real number from ``low`` to ``high``, both let through, or say why not."""
    if isinstance(value, float) and low <= value <= high:
        return float(value)
    number = float(as_array(value, name, (), batch=False, differentiable=False))
    if not low <= number <= high:
        raise InputError(f"{name} must lie between {low:g} and {high:g}, got {shown(value)}")
    return number


def as_count(value: object, name: str, minimum: int = 0) -> int:
    """Return an integer of at least ``minimum``, or say why not."""
    if type(value) is int and value >= minimum:
        return value
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < minimum:
        raise InputError(f"{name} must be an integer of at least {minimum}, got {shown(value)}")
    return int(value)


def as_indices(value: object, name: str, count: int) -> IntArray:
    """Return numbers of rows, integers from 0 to ``count`` − 1, or say why not."""
    numbers = as_array(value, name, (None,), batch=False, differentiable=False)
    if np.any((numbers % 1 != 0) | (numbers < 0) | (numbers >= count)):
        raise InputError(f"{name} must be integers from 0 to {count} − 1, got {shown(value)}")
    return np.asarray(numbers.astype(np.intp))


def as_ordered(values: object, name: str) -> list[Any]:
    """Return the values of an iterable as a list; a set has another order in every process."""
    if type(values) is list or type(values) is tuple:
        return list(values)
    single = isinstance(values, np.ndarray) and values.ndim == 0
    if single or isinstance(values, set | frozenset) or not isinstance(values, Iterable):
        raise InputError(
            f"{name} must come in an order, got {type(values).__name__}; give a list or a tuple"
        )
    return list(values)


def as_blocks(shapes: object, dim: int, name: str = "block_shapes") -> tuple[tuple[int, ...], ...]:
    """Return the shapes of the blocks of θ, by default of one, or say why they are none."""
    if shapes is None:
        return ((dim,),)
    found = []
    for shape in as_ordered(shapes, name):
        if not isinstance(shape, Iterable):
            raise InputError(f"{name} must be tuples, one per block, got {shown(shape)}")
        found.append(tuple([as_count(size, "a size of a block") for size in shape]))
    if sum(map(math.prod, found)) != dim:
        size = f"dim = {dim}" if name == "block_shapes" else dim  # which is given beside it
        raise ShapeError(f"{name} must hold {size} numbers, got {shown(tuple(found))}")
    return tuple(found)


def as_rng(rng: Rng) -> np.random.Generator:
    """Return a generator for a generator, a seed or None; numpy's global state is never used.

    Parameters
    ----------
    rng : numpy.random.Generator or int or None
        None draws a fresh seed from the operating system.
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
    """Refuse what would take more than ``MEMORY_LIMIT`` before any of it is taken.

    Parameters
    ----------
    n_bytes : int
        What one of the numbers takes.
    """
    if n_numbers * n_bytes <= _SMALL:
        return
    given = os.environ.get("LIFTFLOW_MEMORY_LIMIT", str(MEMORY_LIMIT))
    try:
        limit = float(given)
    except ValueError:
        limit = np.nan
    if not limit >= 0:
        raise InputError(
            "the environment variable LIFTFLOW_MEMORY_LIMIT must be a number of bytes, such as "
            f"8e9 or inf, got {given!r}; without it the limit is {MEMORY_LIMIT:g}"
        )
    if n_numbers * n_bytes > limit:
        gigabytes = min(n_numbers * n_bytes, 10**300) / 1e9
        raise ArchitectureError(
            f"{what} takes about {gigabytes:.3g} GB, more than the limit of "
            f"{limit / 1e9:.3g} GB; the environment variable LIFTFLOW_MEMORY_LIMIT, in bytes, "
            "raises it"
        )
