"""The door of what no loop calls: its annotations, held to.

:func:`door` goes before a function and :func:`doors` before all public methods of a class, also
those inherited from geomstats. Methods inside of loops look at their arrays themselves, by
``as_array``; their classes are :class:`Guarded`.
"""

import inspect
import math
import numbers
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from functools import wraps
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import numpy as np
from geomstats.geometry.manifold import Manifold
from numpy.typing import NDArray
from typing_extensions import TypeAliasType

from liftflow.errors import (
    ArchitectureError,
    CallError,
    InputError,
    LiftflowError,
    NotFiniteError,
    ShapeError,
    UndefinedError,
)
from liftflow.typing import (
    as_array,
    as_count,
    as_function,
    as_instance,
    got,
    refuse_beyond,
    shown,
)

_BY_PLACE = inspect.Parameter.POSITIONAL_OR_KEYWORD

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def door(function: F) -> F:
    """Hold the callers of a function to its annotations, before anything is computed.

    Parameters
    ----------
    function : callable
        Not one that a loop calls: to look at the arguments takes some microseconds.

    Returns
    -------
    function : callable
        Raises a ``CallError`` where the signature does not fit and an ``InputError`` where a value
        does not; numbers in an array are checked as by :func:`as_array`. What raises a bare
        ``NotImplementedError``, as geomstats does, raises an ``UndefinedError``.
    """
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    names = [each.name for each in parameters if each.kind is _BY_PLACE]
    known = {each.name for each in parameters if each.kind in (each.KEYWORD_ONLY, _BY_PLACE)}
    required = {each.name for each in parameters if each.default is each.empty}
    plain = len(known) == len(parameters)  # no *args, no **kwargs
    kinds: dict[inspect.Parameter, Any] | None = None

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        nonlocal kinds
        given = dict(zip(names, args, strict=False))
        fits = plain and len(args) <= len(names) and not given.keys() & kwargs.keys()
        given.update(kwargs)
        bound = None
        if not fits or not required <= given.keys() <= known:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise CallError(f"{function.__qualname__}: {error}") from None
            given = bound.arguments
        if kinds is None:  # late, when all rooms can be named
            found = {each: _kind(each, function) for each in parameters}
            kinds = {each: kind for each, kind in found.items() if kind is not Any}
        owner = given.get("self")
        for parameter, kind in kinds.items():
            _hold(given, parameter, kind, owner)
        try:
            if bound is None:
                places = [given.pop(name) for name in names[: len(args)]]
                return function(*places, **given)
            return function(*bound.args, **bound.kwargs)
        except Exception as error:
            _explain(error, function)
            raise

    checked.__liftflow_door__ = True  # type: ignore[attr-defined]
    return checked  # type: ignore[return-value]


class Guarded:
    """A class whose public methods raise errors of liftflow where arguments do not fit together.

    Costs next to nothing: arrays are looked at by the methods, and nothing else happens before one
    fails. What inherits from it is guarded, too.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Guard the methods that a class defines."""
        super().__init_subclass__(**options)
        for name, method in list(vars(cls).items()):
            if _guardable(name, method):
                setattr(cls, name, _guarded(method))


def _guarded(method: F) -> F:
    @wraps(method)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            _explain(error, method)
            raise

    guarded.__liftflow_door__ = True  # type: ignore[attr-defined]
    return guarded  # type: ignore[return-value]


def _guardable(name: str, method: Any) -> bool:
    public = not name.startswith("_") or name in ("__init__", "__call__")
    return public and inspect.isfunction(method) and not hasattr(method, "__liftflow_door__")


def _explain(error: Exception, function: Any) -> None:
    """Raise what an error of Python, numpy or geomstats means for the caller of a function."""
    if isinstance(error, LiftflowError):
        return
    where, trace = function.__qualname__, error.__traceback__
    direct = trace is not None and trace.tb_next is None
    if isinstance(error, TypeError) and (direct or "unexpected keyword argument" in str(error)):
        raise CallError(f"{where}: {error}") from None
    if isinstance(error, NotImplementedError):
        raise UndefinedError(f"{where}: {error}") from error
    if isinstance(error, MemoryError):
        raise ArchitectureError(f"{where} does not fit into memory: {error}") from error
    if isinstance(error, np.linalg.LinAlgError | OverflowError):
        raise NotFiniteError(f"{where}: numbers too large or too small: {error}") from error
    if isinstance(error, ValueError) and any(text in str(error) for text in _MISFITS):
        raise ShapeError(f"{where}: leading axes do not fit together: {error}") from error
    if function.__module__.startswith("geomstats") and isinstance(error, _UNFIT):
        raise InputError(f"{where}: {error}") from error


_MISFITS = ("broadcast", "must match exactly", "must have the same shape")
"""What numpy says of arrays that do not fit together, after each of them has been looked at."""

_UNFIT = (ValueError, TypeError, KeyError, IndexError, AttributeError)
"""What geomstats raises where an argument is not what it expects."""


def doors(space: type[T]) -> type[T]:
    """Put a :func:`door` before all public methods of a class, also the inherited ones.

    Points and vectors, known by the names that geomstats gives them, must have the shape of the
    space.

    Parameters
    ----------
    space : type
        A manifold or a metric.

    Returns
    -------
    space : type
        The same.
    """
    for name in dir(space):
        method = inspect.getattr_static(space, name)
        if _guardable(name, method):
            setattr(space, name, door(method))
    return space


_POINTS = {
    "base_point",
    "cotangent_vec_a",
    "cotangent_vec_b",
    "direction",
    "end_point",
    "euclidean_gradient",
    "initial_point",
    "initial_tangent_vec",
    "neighbors",
    "point",
    "point_a",
    "point_b",
    "points",
    "tangent_vec",
    "tangent_vec_a",
    "tangent_vec_b",
    "tangent_vec_c",
    "tangent_vec_d",
    "vector",
}
_COUNTS = {"n_samples", "n_vectors", "n_rungs"}
_NAMED = {"atol": float, "bound": float, "alpha": float, "image": Manifold, "space": Manifold}
_NAMED |= {"scheme": str, "total_space": Manifold, **dict.fromkeys(_COUNTS, int)}
_NAMES = {bool: "True or False", int: "an integer", float: "a real number", NoneType: "None"}
_Point = object()  # stands for an array of the shape of the space


def _kind(parameter: inspect.Parameter, function: Any) -> Any:
    """What a parameter is annotated as, or known as by its name."""
    kind = parameter.annotation
    if isinstance(kind, str):  # Any, if it is imported for type checkers only
        kind = inspect.unwrap(function).__globals__.get(kind, Any)
    kind = _unnamed(kind)
    if isinstance(kind, type) and kind.__module__.startswith("networkx"):
        return Any  # looked at by who compiles them
    if kind in (Any, inspect.Parameter.empty):
        if parameter.name in _POINTS:  # another shape does not belong, which is an answer
            return NDArray[np.float64] if function.__name__ in ("belongs", "is_tangent") else _Point
        return _NAMED.get(parameter.name, Any)
    return kind


def _unnamed(kind: Any) -> Any:
    """What a named shape stands for; a choice between anything and something is anything."""
    if isinstance(kind, TypeAliasType):
        return kind.__value__
    if get_origin(kind) in (Union, UnionType):
        parts = [_unnamed(part) for part in get_args(kind)]
        return Any if Any in parts else Union[tuple(parts)]  # noqa: UP007 - parts are known late
    return kind


def _hold(given: dict[str, Any], parameter: inspect.Parameter, kind: Any, owner: Any) -> None:
    """Check one argument among those given, in its place there."""
    name, value = parameter.name, given.get(parameter.name)
    if value is None and parameter.default is None:
        if name == "base_point" and kind is _Point and getattr(owner, "_varies", False):
            raise InputError("base_point is missing; the metric changes from point to point")
    elif name in given and parameter.kind is parameter.VAR_POSITIONAL:
        given[name] = tuple(_checked(each, name, kind, owner) for each in value or ())
    elif name in given and kind is bool and (value is None or _is_flag(value)):
        given[name] = bool(value)
    elif name in given and parameter.kind is not parameter.VAR_KEYWORD:
        given[name] = _checked(value, name, kind, owner)


def _checked(value: Any, name: str, kind: Any, owner: Any) -> Any:
    """The value, made an array where one is meant, or an error that says what was meant."""
    if kind is int and name in _COUNTS:
        refuse_beyond(as_count(value, name, 1), f"{name} = {shown(value)}")
        return int(value)
    if isinstance(kind, type) and kind is not NoneType and get_origin(kind) is None:
        if kind in (bool, int, float):
            return _number(value, name, kind)
        return as_instance(value, kind, name)
    origin, parts = get_origin(kind), get_args(kind)
    if kind is _Point:
        space = getattr(owner, "_space", owner)
        return as_array(value, name, getattr(space, "shape", None))
    if origin is np.ndarray:
        return as_array(value, name)
    if origin in (Union, UnionType):
        return _one_of(value, name, parts, owner)
    if origin is Callable or kind is Callable:
        return as_function(value, name)
    if origin in (tuple, list, Sequence, Iterable, Collection):
        unordered = () if origin is Iterable else (str, bytes, Mapping, Set)
        single = isinstance(value, np.ndarray) and value.ndim == 0
        if single or not isinstance(value, Iterable) or isinstance(value, unordered):
            raise InputError(f"{name} must be a sequence, got {got(value)}")
    return value


def _is_flag(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and value in (0, 1)


def _number(value: Any, name: str, kind: type) -> Any:
    scalar = isinstance(value, np.generic | np.ndarray) and value.size == 1
    plain: Any = value.item() if scalar else value
    wanted = {bool: bool, int: numbers.Integral, float: numbers.Real}[kind]
    fits = isinstance(plain, wanted) and (kind is bool or not isinstance(plain, bool))
    if fits and kind is not float:
        return plain
    try:
        number = float(plain) if fits else math.nan
    except OverflowError:
        number = math.inf
    if math.isnan(number):
        raise InputError(f"{name} must be {_NAMES[kind]}, got {shown(value)}")
    return number


def _one_of(value: Any, name: str, kinds: tuple[Any, ...], owner: Any) -> Any:
    problems = []
    for kind in kinds:
        if kind is NoneType:
            if value is None:
                return value
            continue
        try:
            return _checked(value, name, kind, owner)
        except InputError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    wanted = " or ".join(_NAMES.get(kind, getattr(kind, "__name__", str(kind))) for kind in kinds)
    raise InputError(f"{name} must be {wanted}, got {shown(value)}")
