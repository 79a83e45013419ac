"""One vocabulary for smooth maps: the lift φ, the laws h, and products of maps.

Maps are unchecked, for inner loops: float64 arrays in and out, broadcasting over leading axes. The
door to them are the methods of an architecture.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, TypeAlias

import autograd
import autograd.numpy as anp
import geomstats.backend as gs
import numpy as np
from autograd.core import defjvp_argnums, make_vjp, primitive_jvps, primitive_vjps
from autograd.scipy import special
from autograd.tracer import isbox
from scipy.sparse.linalg import LinearOperator

from liftflow.errors import (
    ArchitectureError,
    InputError,
    LiftflowError,
    NotDifferentiableError,
    ShapeError,
)
from liftflow.linalg import (
    RANK_RTOL,
    minimal_solution,
    over_batch,
    range_basis,
    row_sizes,
    scaled_rank,
    sizes_of,
)
from liftflow.typing import (
    Covector,
    FloatArray,
    IntArray,
    Jacobian,
    Lifted,
    LiftedTangent,
    Numbers,
    OneLifted,
    OneTheta,
    Scalars,
    Tangent,
    Theta,
    refuse_beyond,
    untraced,
)

_QUADRATIC_RTOL = 1e-11  # of the parallelogram law

_NO_BATCH = (
    "{} must broadcast over leading axes, theta of shape [..., dim] to an array of shape "
    "[..., *{}]; write theta[..., i] for theta[i], axis=-1 for sums, and join a list by numpy.stack"
)


Pushed: TypeAlias = tuple[Numbers, Numbers]  # a value and its derivative along a vector


@contextmanager
def followed_by_autograd(what: str) -> Iterator[None]:
    """Raise what helps where autograd cannot follow a function that a user wrote."""
    try:
        yield
    except (LiftflowError, ArithmeticError, MemoryError):
        raise
    except Exception as error:  # whatever a function does with an array that is traced
        if _is_one_way(error):
            raise
        raise NotDifferentiableError(
            f"autograd cannot follow {what} ({error}); write it with autograd.numpy, or with "
            "geomstats.backend and start Python with GEOMSTATS_BACKEND=autograd"
        ) from error


def watched(function: Callable[[Any], Any], what: str) -> Callable[[Any], Any]:
    """Let autograd differentiate a function, but not take one that left it for a constant."""

    def watching(point: Any) -> Any:
        value = function(point)
        if not isbox(value):
            elsewhere = 1.01 * untraced(point) + 0.01
            if np.asarray(value).dtype == object or not np.array_equal(
                value, function(elsewhere), equal_nan=True
            ):
                raise NotDifferentiableError(
                    f"autograd cannot follow {what}, which returns numbers out of its sight; do "
                    "not pass its argument to numpy.array or numpy.asarray, nor return a list"
                )
            return value + 0.0 * gs.sum(point)  # a constant, for which autograd would warn
        return value

    return watching


def _is_one_way(error: Exception) -> bool:
    """Whether autograd may follow something in reverse mode alone: see :func:`make_jvp`."""
    return isinstance(error, NotImplementedError) and str(error).startswith("JVP of")


def _transposed(
    pull: Callable[..., Numbers], argnums: object, g: Sequence[Numbers], *rest: object
) -> Numbers:
    return next(iter(pull(argnums, *rest)(g[0])))


for _function in (
    getattr(special, name) for name in ["erf", "erfc", "expit", "logit", "gammaln", "psi"]
):
    if _function not in primitive_jvps:  # entry by entry, so that ∂f is diagonal, and ∂fᵀ itself
        defjvp_argnums(_function, partial(_transposed, primitive_vjps[_function]))


def make_jvp(function: Callable[[Numbers], Numbers]) -> Callable[[Numbers], Callable[..., Pushed]]:
    """Differentiate as ``autograd.make_jvp`` does, also what autograd knows in reverse mode alone.

    That is much of numpy.linalg, such as inv: there it is the linear map u ↦ ∂fᵀ u, transposed.
    """

    def at(point: Numbers) -> Callable[..., Pushed]:
        def along(vector: Numbers) -> Pushed:
            try:
                value, pushed = autograd.make_jvp(function)(point)(vector)
            except NotImplementedError as error:
                if not _is_one_way(error):
                    raise
                pull, value = make_vjp(function, point)
                pushed = make_vjp(pull, np.zeros(np.shape(untraced(value))))[0](vector)
            return value, pushed

        return along

    return at


def _together(first: Any, second: Any) -> tuple[Any, Any]:
    """Broadcast two arrays against each other, differentiably, which gs.broadcast_arrays is not."""
    return first + 0.0 * second, second + 0.0 * first


def over_rows(
    function: Callable[[Theta], Scalars], points: Theta, what: str
) -> Callable[[Theta], Scalars]:
    """Let a function of one vector to a number broadcast over leading axes, if it does not.

    Parameters
    ----------
    points : array, shape=[2, dim]
        Where that is looked at.

    Raises
    ------
    ShapeError
        It takes one vector to something else than a number.
    """
    each = [untraced(function(point)) for point in points]
    if np.shape(each[0]):
        raise ShapeError(f"{what} must take one θ to a number, got shape {np.shape(each[0])}")
    with suppress(Exception):  # whatever a function does with one axis too many
        both = np.asarray(function(points))
        if both.shape == (2,) and np.allclose(both, each, equal_nan=True):
            return function
    return partial(_by_rows, function)


def _by_rows(function: Callable[[Theta], Scalars], theta: Theta) -> Scalars:
    rows = anp.reshape(theta, (-1, theta.shape[-1]))
    values = [function(row) for row in rows]
    return anp.reshape(anp.stack(values) if values else np.zeros(0), theta.shape[:-1])


class SmoothMap:
    """A smooth map f from flat vectors to arrays, with its derivatives by autograd.

    A subclass with a closed form overrides ``value`` and whatever it knows better: each verb that
    is overridden only makes the others cheaper.

    Parameters
    ----------
    function : callable
        Evaluates f. It broadcasts over leading axes.
    blocks : sequence of tuple of int, optional
        Shapes of the parts of the vectors that have units of their own.
    name, given : str
        What error messages call the function, and ``shape``.
    """

    function: Callable[[Any], Any]
    name = "a map"
    remark = ""
    """What findings on the map should add."""

    objection = ""
    """Why findings on the map hold for it alone, and not for the network it stands for."""

    _given = "shape"
    _is_checked = False

    def __init__(
        self,
        function: Callable[[Any], Any],
        dim: int,
        shape: tuple[int, ...],
        blocks: Sequence[tuple[int, ...]] = (),
        name: str = "a function",
        given: str = "shape",
    ) -> None:
        self.function, self.name, self._given = function, name, given
        self._set_up(dim, shape, blocks)

    def _set_up(
        self, dim: int, shape: tuple[int, ...], blocks: Sequence[tuple[int, ...]] = ()
    ) -> None:
        self.dim, self.shape, self.size = dim, shape, math.prod(shape)
        self.counts = [math.prod(block) for block in blocks] or [dim]

    @property
    def folds(self) -> IntArray:
        """Numbers of the entries at whose zero f folds, since it has only higher powers of them."""
        return np.zeros(0, dtype=np.intp)

    @cached_property
    def is_quadratic(self) -> bool:
        """Whether all entries are quadratic forms, by the parallelogram law at random points."""
        a, b = np.random.default_rng(0).standard_normal((2, self.dim))
        sides = self(a + b) + self(a - b), 2 * self(a) + 2 * self(b)
        size = self.terms(a, None) + self.terms(b, None)
        return bool(np.all(np.abs(sides[0] - sides[1]) <= _QUADRATIC_RTOL * size))

    def own(self, verb: str) -> Callable[..., Any]:
        """Return a verb of the class, where the instance has the override of a user."""
        return partial(getattr(type(self), verb), self)

    def __call__(self, theta: Theta) -> Lifted:
        """Evaluate f."""
        return self.value(theta)

    def value(self, theta: Theta) -> Lifted:
        """Evaluate f."""
        return self.function(theta)

    def jvp(self, theta: Theta, tangent: Tangent) -> LiftedTangent:
        """Push a vector forward, ∂f v."""
        theta, tangent = _together(theta, tangent)
        self.check(theta)
        if self.shape == (0,):
            return theta[..., :0]
        with followed_by_autograd(self.name):
            return make_jvp(watched(self.value, self.name))(theta)(tangent)[1]

    def jacobian(self, theta: Theta) -> Jacobian:
        """Jacobian ∂f as a dense matrix, from one :meth:`jvp` per column."""
        lead = theta.shape[:-1]
        for rows in (self.size, self.dim):  # the vectors on the way, too
            what = f"a dense matrix of {rows} × {self.dim} numbers"
            refuse_beyond(float(math.prod(lead)) * rows * self.dim, what)
        columns = self.jvp(theta[..., None, :], gs.eye(self.dim))
        return gs.moveaxis(gs.reshape(columns, (*lead, self.dim, self.size)), -1, -2)

    def vjp(self, theta: Theta, covector: Covector) -> Tangent:
        """Pull a covector back, ∂fᵀ g."""
        self.check(theta)
        flat = gs.reshape(covector, (*self._lead(covector), self.size))
        return gs.einsum("...ij,...i->...j", self.jacobian(theta), flat)

    def hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> LiftedTangent:
        """Second derivative ∂²f[a, b]."""
        theta, a, b = gs.broadcast_arrays(theta, tangent_a, tangent_b)
        if self.shape == (0,):
            return theta[..., :0]
        with followed_by_autograd(self.name):
            jvp = make_jvp(watched(self.value, self.name))
            # 0 t, because autograd warns where the derivative of a linear map is constant.
            return make_jvp(lambda t: jvp(t)(a)[1] + 0.0 * gs.sum(t))(theta)(b)[1]

    def hvp(self, theta: Theta, tangent: Tangent, covector: Covector) -> Tangent:
        """Differentiate the pullback, ∂²f[v, ·]ᵀ g, the Hessian of ⟨g, f⟩ times v."""
        theta, tangent = _together(theta, tangent)
        theta = theta + np.zeros((*self._lead(covector), 1))
        with followed_by_autograd(self.name):
            return autograd.grad(
                lambda t: gs.sum(covector * self.jvp(t, tangent)) + 0.0 * gs.sum(t)
            )(theta)

    def solve(self, theta: Theta, tangent: LiftedTangent) -> Tangent:
        """Solve ∂f v = w for the shortest v, in the sense of least squares."""

        def one(point: FloatArray, vector: FloatArray) -> FloatArray:
            return self._shortest(point, vector.ravel())

        return over_batch(one, [theta, tangent], [1, len(self.shape)], (self.dim,))

    def solve_transposed(self, theta: Theta, covector: Tangent) -> Covector:
        """Solve ∂fᵀ g = v for the shortest g, in the sense of least squares."""

        def one(point: FloatArray, vector: FloatArray) -> FloatArray:
            return self._shortest(point, vector, transposed=True).reshape(self.shape)

        return over_batch(one, [theta, covector], [1, 1], self.shape)

    def _shortest(
        self, theta: FloatArray, right: FloatArray, transposed: bool = False
    ) -> FloatArray:
        matrix: Any = self.jacobian(theta) if self.dense else self._operator(theta)
        matrix = matrix.T if transposed else matrix
        if self.dense:
            return np.asarray(np.linalg.pinv(matrix, rcond=RANK_RTOL) @ right)
        return minimal_solution(matrix, right)

    def project_to_range(self, theta: Theta, vector: LiftedTangent) -> LiftedTangent:
        """Project orthogonally onto range ∂f."""

        def one(point: FloatArray, vector: FloatArray) -> Tangent:
            if self.dense:
                basis = range_basis(self.jacobian(point))
                return (basis @ (basis.T @ vector.ravel())).reshape(vector.shape)
            return self.jvp(point, minimal_solution(self._operator(point), vector.ravel()))

        return over_batch(one, [theta, vector], [1, len(self.shape)], self.shape)

    def project_to_kernel(self, theta: Theta, vector: Tangent) -> Tangent:
        """Project orthogonally onto ker ∂f, v − ∂fᵀ(∂f∂fᵀ)⁺∂f v."""
        return vector - self.solve(theta, self.jvp(theta, vector))

    def covectors(self, count: int, rng: np.random.Generator) -> Covector:
        """Draw covectors on the values that span all, with as few zeros as is cheap."""
        return rng.standard_normal((count, *self.shape))

    @property
    def per_covector(self) -> int:
        """How many of the values a covector of those looks at, and its derivatives work on."""
        return self.size

    def pulled(self, covector: Covector, theta: Theta) -> Tangent:
        """Pull covectors back by one pass of autograd, whatever :meth:`vjp` does."""
        theta = theta + np.zeros((*self._lead(covector), 1))
        with followed_by_autograd(self.name):
            # 0 θ, because autograd warns where f or its derivative is constant.
            slope = autograd.grad(lambda at: anp.sum(covector * self.value(at)) + 0.0 * anp.sum(at))
            return slope(theta) + 0.0 * theta

    def rank(self, theta: OneTheta) -> int:
        """Rank of ∂f."""
        if not self.dense:
            raise ArchitectureError(
                f"the rank of ∂φ needs a dense matrix of {self.size} × {self.dim} numbers, which "
                f"is too large for {self.name}; an architecture may write its own lift_rank(theta)"
            )
        return scaled_rank(self.jacobian(theta))

    def terms(self, theta: Theta, tangent: Tangent | None = None) -> Lifted:
        """Size of the terms that f(θ), or ∂f(θ) v, is a sum of: the unit of tolerances for it.

        Parameters
        ----------
        tangent : Tangent, optional
            The vector v; without it the terms are those of f(θ).

        Returns
        -------
        size : Lifted
            By default of ∂f, block by block of θ.
        """
        jacobian = self.block_sizes(self.jacobian(theta))
        vector = self.block_sizes(theta if tangent is None else tangent)
        size = np.einsum("...kb,...b->...k", jacobian, vector)
        size = size.reshape((*size.shape[:-1], *self.shape))
        return size + np.abs(self.value(theta)) if tangent is None else size

    def changes(self, theta: OneTheta) -> OneLifted:
        """By how much each value changes about θ: units, for ranks that depend on none.

        They are positive; a value that changes by rounding errors beside the others has theirs.
        """
        self.check(theta)
        steps = 0.1 * np.random.default_rng(0).standard_normal((8, theta.size))
        with np.errstate(all="ignore"):  # the neighbours of θ need not all be where f is defined
            values = np.asarray(self.value(theta + steps * sizes_of(theta)))
        flat = values.reshape(len(steps), self.size)
        changes = np.where(np.all(np.isfinite(flat), axis=0), flat - flat[0], 0.0)
        return row_sizes(changes.T).reshape(self.shape)

    def block_sizes(self, vectors: Tangent) -> FloatArray:
        """Largest entry of each block of θ, shape=[..., n_blocks]."""
        starts = np.cumsum([0, *self.counts[:-1]])
        return np.maximum.reduceat(np.abs(vectors), starts, axis=-1)

    def units(self, theta: Theta) -> Theta:
        """Size of the block that each entry of θ is in, or of all of θ where the block is 0."""
        own = self.block_sizes(theta)
        largest = np.max(own, axis=-1, keepdims=True)
        largest = np.where(largest > 0, largest, 1.0)
        return np.repeat(np.where(own > 0, own, largest), self.counts, axis=-1)

    @property
    def dense(self) -> bool:
        """Whether the Jacobian is worked with as a matrix."""
        return self.size * self.dim <= 4_000_000

    def _operator(self, theta: FloatArray) -> LinearOperator:
        """∂f(θ) between flat vectors."""
        return LinearOperator(
            (self.size, self.dim),
            matvec=lambda v: self.jvp(theta, v.ravel()).ravel(),
            rmatvec=lambda g: self.vjp(theta, g.reshape(self.shape)),
            dtype=np.float64,
        )

    def _lead(self, lifted: Any) -> tuple[int, ...]:
        return tuple(lifted.shape[: lifted.ndim - len(self.shape)])

    def check(self, theta: Theta) -> None:
        """Refuse a function of another shape, or one that does not broadcast, when first used."""
        by_autograd = type(self).jvp is SmoothMap.jvp and "jvp" not in vars(self)
        if self._is_checked or not by_autograd or isbox(theta) or not np.size(theta):
            return  # a closed form knows better
        one = np.reshape(theta, (-1, self.dim))[0]
        # Not as many as z has entries, which a list of these would be taken for.
        points = np.outer([1.0, 1.01, 1.02][: 3 if self.shape[:1] == (2,) else 2], one)
        each = [np.asarray(self.value(point)) for point in points]
        if each[0].shape != self.shape:
            raise ShapeError(
                f"{self.name} takes θ to an array of shape {each[0].shape}, but {self._given} is "
                f"{self.shape}; give super().__init__ what fits"
            )
        kind = each[0].dtype
        if kind.kind not in "iuf" or (kind.kind == "f" and not np.can_cast(np.float64, kind)):
            raise InputError(f"{self.name} must return real numbers of float64, got {kind}")
        problem = _NO_BATCH.format(self.name, self._given)
        try:
            both = np.asarray(self.value(points))
        except Exception as error:
            raise ShapeError(f"{problem}: {error}") from error
        size = np.max(np.abs(each), initial=0.0)
        if both.shape != np.shape(each) or not np.allclose(
            both, each, rtol=1e-9, atol=1e-9 * size, equal_nan=True
        ):
            raise ShapeError(f"{problem}: two θ at once give other numbers than each")
        self._is_checked = True


class LawsMap(SmoothMap):
    """Laws: few rows, each of which may have units of its own."""

    dense = True

    def solve(self, theta: Theta, tangent: LiftedTangent) -> Tangent:
        """Solve ∂h v = w for the shortest v; least squares where laws are dependent."""
        jacobian = np.asarray(self.jacobian(theta))
        sizes = row_sizes(jacobian)
        inverse = np.linalg.pinv(jacobian / sizes[..., None], rcond=RANK_RTOL)
        return np.einsum("...jk,...k->...j", inverse, tangent / sizes)


class ProductMap(SmoothMap):
    """Product of maps: vectors and values are those of the factors, one after the other."""

    def __init__(self, factors: Sequence[SmoothMap], shape: tuple[int, ...]) -> None:
        self.factors = factors
        dims = [factor.dim for factor in factors]
        self._set_up(sum(dims), shape, [(dim,) for dim in dims])
        self._slices = slices(dims)
        self._value_slices = slices([factor.size for factor in factors])
        self._flat = all(len(factor.shape) == 1 for factor in factors)

    @property
    def folds(self) -> IntArray:
        own = zip(self._slices, self.factors, strict=True)
        return np.concatenate([part.start + factor.folds for part, factor in own])

    def split(self, theta: Tangent) -> list[Theta]:
        """Split a vector, shape=[..., dim], into those of the factors."""
        return [theta[..., own] for own in self._slices]

    def split_values(self, values: Lifted) -> list[Theta]:
        """Split a value, shape=[..., *shape], into those of the factors."""
        lead = self._lead(values)
        flat = values.reshape((*lead, self.size))
        return [
            flat[..., own].reshape((*lead, *factor.shape))
            for own, factor in zip(self._value_slices, self.factors, strict=True)
        ]

    def join_values(self, parts: Sequence[Theta]) -> Lifted:
        """Join values of the factors."""
        if not self._flat:
            parts = [
                part if len(factor.shape) == 1 else part.reshape((*factor._lead(part), factor.size))
                for factor, part in zip(self.factors, parts, strict=True)
            ]
        values = joined(parts)
        return values if len(self.shape) == 1 else values.reshape((*values.shape[:-1], *self.shape))

    def value(self, theta: Theta) -> Lifted:
        parts = zip(self.factors, self._slices, strict=True)
        return self.join_values([factor.value(theta[..., own]) for factor, own in parts])

    def jvp(self, theta: Theta, tangent: Tangent) -> LiftedTangent:
        return self.join_values(each_of(self.factors, "jvp", *map(self.split, (theta, tangent))))

    def hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> LiftedTangent:
        parts = map(self.split, (theta, tangent_a, tangent_b))
        return self.join_values(each_of(self.factors, "hessian", *parts))

    def vjp(self, theta: Theta, covector: Covector) -> Tangent:
        return joined(each_of(self.factors, "vjp", self.split(theta), self.split_values(covector)))

    def hvp(self, theta: Theta, tangent: Tangent, covector: Covector) -> Tangent:
        parts = [*map(self.split, (theta, tangent)), self.split_values(covector)]
        return joined(each_of(self.factors, "hvp", *parts))

    def solve(self, theta: Theta, tangent: LiftedTangent) -> Tangent:
        return joined(each_of(self.factors, "solve", self.split(theta), self.split_values(tangent)))

    def solve_transposed(self, theta: Theta, covector: Tangent) -> Covector:
        parts = map(self.split, (theta, covector))
        return self.join_values(each_of(self.factors, "solve_transposed", *parts))

    def project_to_range(self, theta: Theta, vector: LiftedTangent) -> LiftedTangent:
        parts = self.split(theta), self.split_values(vector)
        return self.join_values(each_of(self.factors, "project_to_range", *parts))

    def rank(self, theta: OneTheta) -> int:
        return sum(each_of(self.factors, "rank", self.split(theta)))

    def terms(self, theta: Theta, tangent: Tangent | None = None) -> Lifted:
        vectors = [theta] if tangent is None else [theta, tangent]
        return self.join_values(each_of(self.factors, "terms", *map(self.split, vectors)))


def each_of(
    things: Sequence[object], verb: str, *parts: Sequence[Numbers], **named: Sequence[Numbers]
) -> list[Any]:
    """Call a verb of each of several things with its own parts of the arguments."""
    if parts and not named:  # at a third of the price, of what inner loops call
        pairs = zip(things, zip(*parts, strict=True), strict=True)
        return [getattr(thing, verb)(*own) for thing, own in pairs]
    return [
        getattr(thing, verb)(*[own[n] for own in parts], **{k: v[n] for k, v in named.items()})
        for n, thing in enumerate(things)
    ]


def slices(sizes: Sequence[int]) -> list[slice]:
    """Where parts of these sizes lie, one after the other."""
    return [slice(start, end) for start, end in pairwise(np.cumsum([0, *sizes]).tolist())]


def joined(arrays: Sequence[Theta]) -> Theta:
    """Join arrays along their last axes, their leading axes broadcast against each other."""
    if all([type(array) is np.ndarray and array.ndim == 1 for array in arrays]):
        return np.concatenate(arrays)
    leads = {array.shape[:-1] for array in arrays}
    if len(leads) > 1:
        lead = np.broadcast_shapes(*leads)
        arrays = [anp.broadcast_to(array, (*lead, array.shape[-1])) for array in arrays]
    # What nobody differentiates need not pass through autograd, which takes longer than to join.
    join = anp.concatenate if any(map(isbox, arrays)) else np.concatenate
    return join(arrays, axis=-1)


def with_overrides(
    made: SmoothMap, owner: object, hook: str, verbs: Mapping[str, str]
) -> SmoothMap:
    """Let a map use the methods that a class wrote itself, below the class that made the map.

    Parameters
    ----------
    made : SmoothMap
        What ``hook``, a method of the class, has made.
    verbs : mapping of str to str
        Verb of the map by the name of the method.
    """
    names = [vars(cls) for cls in type(owner).__mro__]

    def depth(name: str) -> int:
        return next(number for number, own in enumerate(names) if name in own)

    for name, verb in verbs.items():
        if depth(name) < depth(hook):
            setattr(made, verb, getattr(owner, name))
    return made
