"""The door of what no loop calls: its annotations, held to.

:func:`door` goes before a function and :func:`doors` before all public methods of a class, also
those inherited from geomstats. Methods inside of loops look at their arrays themselves, by
``as_array``; their classes are :class:`Guarded`.
"""

import inspect
import math
import numbers
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from functools import cache, wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin

import numpy as np
from geomstats.geometry.manifold import Manifold
from geomstats.geometry.riemannian_metric import RiemannianMetric
from geomstats.geometry.scalar_product_metric import ScalarProductMetric
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
    is_sound,
    refuse_beyond,
    shown,
)

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])
Check = Callable[[Any, object], object]  # of a value and the owner of the method: what goes in


def door(function: F) -> F:
    """Hold the callers of a function to its annotations, before anything is computed.

    The annotations are made checks at the first call, one :class:`_Plan` for each way to call.

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
    plans: dict[object, _Plan] = {}

    @cache
    def read() -> tuple[inspect.Signature, dict[str, Check]]:  # late, when all rooms can be named
        signature = inspect.signature(function)
        found = {name: _check_of(each, function) for name, each in signature.parameters.items()}
        return signature, {name: check for name, check in found.items() if check is not None}

    is_generic = hasattr(function, "dispatch")  # by the first argument, which must have no name

    def plan(args: tuple[object, ...], kwargs: dict[str, object]) -> _Plan:
        signature, checks = read()
        parameters = signature.parameters
        is_method = next(iter(parameters), "") == "self"
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise CallError(f"{function.__qualname__}: {error}") from None
        names = [name for name, each in parameters.items() if each.kind in _BY_PLACE]
        more = [name for name, each in parameters.items() if each.kind is each.VAR_POSITIONAL]
        names = names[: len(args)] + more * (len(args) - len(names))
        places = [(at, checks[name]) for at, name in enumerate(names) if name in checks]
        points = [at for at, _ in places if _kind(parameters[names[at]], function) is _Point]
        return _Plan(
            points=[(at, check) for at, check in places if at in points],
            places=[(at, check) for at, check in places if at not in points],
            names=[(name, checks[name]) for name in kwargs if name in checks],
            is_method=is_method,
            nowhere=is_method and "base_point" in parameters and "base_point" not in given,
        )

    @wraps(function)
    def checked(*args: object, **kwargs: object) -> object:
        if kwargs and is_generic:
            with suppress(TypeError):  # refused by the plan
                bound = read()[0].bind(*args, **kwargs)
                args, kwargs = bound.args, bound.kwargs
        key = (len(args), *kwargs) if kwargs else len(args)
        found = plans.get(key)
        if found is None:
            found = plans[key] = plan(args, kwargs)
        points, places, names, is_method, nowhere = found
        owner, values = args[0] if is_method and args else None, list(args)
        if nowhere:
            _refuse_nowhere(owner)
        if points:
            shape = _shape_of(owner)
            for at, check in points:
                if not is_sound(args[at], shape):
                    values[at] = check(args[at], owner)
        for at, check in places:
            values[at] = check(args[at], owner)
        for name, check in names:
            kwargs[name] = check(kwargs[name], owner)
        try:
            return function(*values, **kwargs)
        except Exception as error:
            _explain(error, function)
            raise

    checked.__liftflow_door__ = True  # type: ignore[attr-defined]
    return checked  # type: ignore[return-value]


_BY_PLACE = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


class _Plan(NamedTuple):
    """What to look at in the calls that give so many arguments by place, and these by name."""

    points: list[tuple[int, Check]]  # which pass at once where they are sound
    places: list[tuple[int, Check]]
    names: list[tuple[str, Check]]
    is_method: bool
    nowhere: bool  # whether no base point is given where there may be one


class Described:
    """What says in one line what it is, and of which architecture."""

    def _facts(self) -> str:
        """Return its sizes or settings in a few words."""
        return ""

    def __repr__(self) -> str:
        """Say what it is; also of what is only half made."""
        words = type(self).__name__
        with suppress(Exception):
            facts = self._facts()
            words += f"({facts})" if facts else ""
            whose = getattr(self, "architecture", None)
            words += "" if whose is None else f" of {whose!r}"
        return words


class OnSpace:
    """A metric that says in one line what it is, and on which space."""

    _space: Any

    def __repr__(self) -> str:
        """Say what it is."""
        return f"{type(self).__name__} on {getattr(self, '_space', None)!r}"


def counted(number: int, what: str) -> str:
    """Write a count with its noun, however large it is."""
    if number == 1:
        return f"1 {what.removesuffix('s')}"
    if number < 10**12:
        return f"{number:,} {what}"
    return f"about 10^{round(0.30103 * number.bit_length())} {what}"


class Guarded(Described):
    """A class whose public methods raise errors of liftflow where arguments do not fit together.

    Costs next to nothing: arrays are looked at by the methods, and nothing else happens before one
    fails. What inherits from it is guarded, too.
    """

    def __init_subclass__(cls, **options: object) -> None:
        """Guard the methods that a class defines."""
        super().__init_subclass__(**options)
        for name, method in list(vars(cls).items()):
            if _guardable(name, method):
                setattr(cls, name, _guarded(method))


def _guarded(method: F) -> F:
    @wraps(method)
    def guarded(*args: object, **kwargs: object) -> object:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            _explain(error, method)
            raise

    guarded.__liftflow_door__ = True  # type: ignore[attr-defined]
    return guarded  # type: ignore[return-value]


def _guardable(name: str, method: object) -> bool:
    public = not name.startswith("_") or name in ("__init__", "__call__")
    return public and inspect.isfunction(method) and not hasattr(method, "__liftflow_door__")


def _explain(error: Exception, function: Callable[..., object]) -> None:
    """Raise what an error of Python, numpy or geomstats means for the caller of a function."""
    if isinstance(error, LiftflowError):
        return
    where, trace = function.__qualname__, error.__traceback__
    direct = trace is not None and trace.tb_next is None
    if isinstance(error, TypeError) and (direct or "unexpected keyword argument" in str(error)):
        raise CallError(f"{where}: {error}") from None
    for kind, texts, meaning, what in _MEANINGS:
        if isinstance(error, kind) and any(text in str(error) for text in texts):
            raise meaning(f"{where}{what}: {error}") from error
    if function.__module__.startswith("geomstats") and isinstance(error, _UNFIT):
        raise InputError(f"{where}: {error}") from error


_MISFITS = "broadcast", "must match exactly", "must have the same shape"  # numpy, of arrays
_MEANINGS: list[tuple[Any, tuple[str, ...], type[LiftflowError], str]] = [
    (NotImplementedError, ("",), UndefinedError, ""),
    (MemoryError, ("",), ArchitectureError, " does not fit into memory"),
    (np.linalg.LinAlgError, ("",), NotFiniteError, ": numbers too large or too small"),
    (OverflowError, ("",), NotFiniteError, ": numbers too large or too small"),
    (ValueError, _MISFITS, ShapeError, ": leading axes do not fit together"),
]
"""Errors that say some text, which error of ours they are, and what it adds."""

_UNFIT = (ValueError, TypeError, KeyError, IndexError, AttributeError)
"""What geomstats raises where an argument is not what it expects."""


def doors(space: type[T]) -> type[T]:
    """Put a :func:`door` before all public methods of a class, also the inherited ones.

    Points and vectors, known by the names that geomstats gives them, must have the shape of the
    space.
    """
    methods: dict[str, Any] = {}
    for each in reversed(space.__mro__):
        methods |= vars(each)
    for name, method in methods.items():
        if _guardable(name, method):
            setattr(space, name, door(method))
    return space


_POINTS = re.compile(
    r"(base_|end_|initial_)?point(s|_[ab])?|(co|initial_)?tangent_vec(_[a-d])?|vector|direction"
    r"|neighbors|euclidean_gradient"
)
_COUNTS = {"n_samples", "n_vectors", "n_rungs"}
_NAMED = {"atol": float, "bound": float, "alpha": float, "image": Manifold, "space": Manifold}
_NAMED |= {"scheme": str, "total_space": Manifold, **dict.fromkeys(_COUNTS, int)}
_LEAST: dict[str, tuple[float, str]] = {"atol": (0.0, " of at least 0")}
_LEAST |= {"bound": (math.ulp(0.0), " above 0"), "max_tries": (1.0, " of at least 1")}
_NAMES = {bool: "True or False", int: "an integer", float: "a real number", NoneType: "None"}
_Point = object()  # stands for an array of the shape of the space


def _kind(parameter: inspect.Parameter, function: Callable[..., object]) -> Any:
    """What a parameter is annotated as, or known as by its name."""
    kind = parameter.annotation
    if isinstance(kind, str):  # Any, if it is imported for type checkers only
        kind = inspect.unwrap(function).__globals__.get(kind, Any)
    kind = _unnamed(kind)
    if isinstance(kind, type) and kind.__module__.startswith("networkx"):
        return Any  # looked at by who compiles them
    if kind in (Any, inspect.Parameter.empty):
        if _POINTS.fullmatch(parameter.name):  # another shape does not belong, which is an answer
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


def _check_of(parameter: inspect.Parameter, function: Callable[..., object]) -> Check | None:
    kind = _kind(parameter, function)
    if kind is bool:  # not so where it is one of several: a 0 may then mean something else
        return lambda value, owner: _flag(value, parameter.name)
    check = None if parameter.kind is parameter.VAR_KEYWORD else _check(kind, parameter.name)
    if check is None or parameter.default is not None:
        return check
    is_base = kind is _Point and parameter.name == "base_point"

    def optional(value: object, owner: object) -> object:
        if value is not None:
            return check(value, owner)
        if is_base:
            _refuse_nowhere(owner)
        return None

    return optional


def _refuse_nowhere(owner: object) -> None:
    if getattr(owner, "_varies", False):
        raise InputError("base_point is missing; the metric changes from point to point")


def _check(kind: Any, name: str) -> Check | None:
    """Find what returns a value of a kind, made an array where one is meant, or raises."""
    origin, parts = get_origin(kind), get_args(kind)
    if name == "Metric":
        return _metric
    if kind is Any:
        return None
    if kind is _Point:
        return lambda value, owner: as_array(value, name, _shape_of(owner))
    if kind is int and name in _COUNTS:
        return lambda value, owner: _n_samples(value, name)
    if kind in (bool, int, float):
        return lambda value, owner: _number(value, name, kind)
    if origin is np.ndarray:
        return lambda value, owner: as_array(value, name)
    if origin in (Union, UnionType):
        return _one_of(parts, name)
    if origin is Callable or kind is Callable:
        known = len(parts[0]) if parts and isinstance(parts[0], list) else None
        return lambda value, owner: as_function(value, name, known)
    if origin is Mapping:
        return lambda value, owner: as_instance(value, Mapping, name)
    if origin in (tuple, list, Sequence, Iterable, Collection):
        unordered = () if origin is Iterable else (str, bytes, Mapping, Set)
        return lambda value, owner: _sequence(value, name, unordered)
    if isinstance(kind, type) and origin is None:
        wanted = (Path, os.PathLike) if kind is Path else kind  # pure ones will do
        return lambda value, owner: (
            value if isinstance(value, wanted) else as_instance(value, kind, name)
        )
    return None


def _shape_of(owner: object) -> Any:
    """Shape of the points of a space, or of the space of a metric."""
    return getattr(getattr(owner, "_space", owner), "shape", None)


def _n_samples(value: object, name: str) -> int:
    count = as_count(value, name, 1)
    refuse_beyond(count, f"{name} = {shown(count)}")
    return count


def _metric(value: Any, owner: object) -> Any:
    """What geomstats equips a space with: a class of metrics, or one of this space."""
    kinds = RiemannianMetric, ScalarProductMetric
    if isinstance(value, type) and issubclass(value, kinds):
        return value
    if not isinstance(value, kinds):
        raise InputError(f"Metric must be a class of metrics or a metric, got {got(value)}")
    if value._space is not owner:
        raise InputError(f"Metric must be one of this space, got that of {value._space!r}")
    return value


def _flag(value: Any, name: str) -> bool:
    if value is None or (isinstance(value, numbers.Integral) and value in (0, 1)):
        return bool(value)
    return _number(value, name, bool)


def _sequence(value: object, name: str, unordered: tuple[type, ...]) -> object:
    if type(value) in (list, tuple):
        return value
    single = isinstance(value, np.ndarray) and value.ndim == 0
    if single or not isinstance(value, Iterable) or isinstance(value, unordered):
        raise InputError(f"{name} must be a sequence, got {got(value)}")
    return value


def _number(value: Any, name: str, kind: Any) -> Any:
    least, words = _LEAST.get(name, (-math.inf, ""))
    if type(value) is kind and value >= least:  # no NaN
        return value
    scalar = isinstance(value, np.generic | np.ndarray) and value.size == 1
    plain: Any = value.item() if scalar else value
    wanted = {bool: bool, int: numbers.Integral, float: numbers.Real}[kind]
    fits = isinstance(plain, wanted) and (kind is bool or not isinstance(plain, bool))
    if fits and kind is not float and plain >= least:
        return plain
    try:
        number = float(plain) if fits else math.nan
    except OverflowError:
        number = math.inf if plain > 0 else -math.inf
    if not number >= least:
        raise InputError(f"{name} must be {_NAMES[kind]}{words}, got {shown(value)}")
    return number


def _one_of(kinds: tuple[Any, ...], name: str) -> Check:
    checks = [_check(kind, name) for kind in kinds if kind is not NoneType]
    wanted = (_NAMES.get(kind, getattr(kind, "__name__", str(kind))) for kind in kinds)
    message = f"{name} must be {' or '.join(wanted)}, got"

    def one_of(value: object, owner: object) -> object:
        if value is None and NoneType in kinds:
            return value
        problems = []
        for check in checks:
            try:
                return value if check is None else check(value, owner)
            except CallError:
                raise
            except InputError as error:
                problems.append(error)
        raise problems[0] if len(problems) == 1 else InputError(f"{message} {shown(value)}")

    return one_of
