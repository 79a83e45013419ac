"""Losses: a function f of the lifted variable z, and ℓ = f∘φ of the parameter θ."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, ClassVar

import autograd
import numpy as np
from scipy.sparse import csr_array

from liftflow.architectures import Architecture
from liftflow.architectures.maps import watched
from liftflow.doors import Guarded
from liftflow.errors import InputError, LiftflowError, NotDifferentiableError, ShapeError
from liftflow.linalg import ROUNDING, echelon, over_batch, range_basis, row_sizes
from liftflow.typing import (
    Covector,
    FloatArray,
    IntArray,
    Lifted,
    OneLifted,
    OneLiftedTangent,
    OneTheta,
    Scalars,
    Tangent,
    Theta,
    as_array,
    as_function,
    as_indices,
    as_instance,
    as_number,
    got,
    refuse_beyond,
    untraced,
)

_SPARE = 20


class Loss(Guarded, ABC):
    """A function f of z, with the parameter loss ℓ = f∘φ that it induces.

    Some losses need more than z: a ReLU network's function also depends on one sign per hidden
    neuron, which φ forgets. Such a loss reads them from the argument ``near``, a parameter in the
    same sign gauge; others ignore it.
    """

    _usual_fix: ClassVar[str] = (
        "use loss_from_function(f), loss_from_parameters(ell, architecture) or "
        "NetworkLoss(network, inputs, targets)"
    )

    pl_constant: float | None = None
    """The κ > 0 with ‖∇f‖² ≥ 2κ(f − f*), where it is known."""
    minimum: float = 0.0
    """The f* of that inequality."""

    def __init_subclass__(cls, copies: bool = True, **options: object) -> None:
        """Let the methods that a class defines write into their arguments: they get copies.

        Parameters
        ----------
        copies : bool
            False of a class that never does, and would wait for them.
        """
        super().__init_subclass__(**options)
        if not copies:
            return
        for name in ("value", "gradient", "parameter_value", "parameter_gradient"):
            if inspect.isfunction(vars(cls).get(name)):
                setattr(cls, name, _on_copies(vars(cls)[name]))

    @abstractmethod
    def value(self, z: Lifted, near: OneTheta | None = None) -> Scalars:
        """Evaluate f(z).

        Parameters
        ----------
        near : OneTheta, optional
            A parameter in the sign gauge of z.
        """

    @abstractmethod
    def gradient(self, z: Lifted, near: OneTheta | None = None) -> Covector:
        """Evaluate the Euclidean gradient ∇f(z)."""

    def parameter_value(self, theta: Theta, architecture: Architecture) -> Scalars:
        """Evaluate ℓ(θ) = f(φ(θ))."""
        as_instance(architecture, Architecture, "architecture")
        return self.value(architecture.lift(theta))

    def parameter_gradient(self, theta: Theta, architecture: Architecture) -> Tangent:
        """Evaluate ∇ℓ(θ) = ∂φ(θ)ᵀ∇f(φ(θ))."""
        as_instance(architecture, Architecture, "architecture")
        return architecture.lift_vjp(theta, self.gradient(architecture.lift(theta)))

    n_samples: int | None = None
    """Number of samples that the loss is a mean over, where it is one and can be had on a batch."""

    def batch(self, indices: IntArray | Sequence[int]) -> "Loss":
        """Return the loss on some of the samples: their mean.

        Parameters
        ----------
        indices : array-like, shape=[batch_size]
            Numbers of the samples, from 0.

        Raises
        ------
        InputError
            The loss is no mean over samples, or there are none of these numbers.
        """
        raise InputError(
            f"{type(self).__name__} is no mean over samples; NetworkLoss and "
            "loss_from_parameters(ell, architecture, n_samples) are"
        )

    def excited(self, architecture: Architecture) -> FloatArray:
        """Return a basis of the span of all ∇f(z), the directions that f can move z in.

        f = f̃∘P for the orthogonal projector P onto that span, so the loss keeps all laws of the
        fields ∂φᵀPᵀ, of which there may be more than for all losses.

        Returns
        -------
        basis : array, shape=[n_directions, *lifted_shape]
            By default from gradients at lifts of random parameters.

        References
        ----------
        [Marcotte2025]_, Proposition 3.11.
        """
        size = as_instance(architecture, Architecture, "architecture").lifted_dim
        refuse_beyond(float(size) ** 2, f"{size} gradients of {size} numbers")
        points = architecture.random_point(size + _SPARE, rng=0)
        rows = [np.ravel(self.gradient(architecture.lift(point), point)) for point in points]
        basis = range_basis(np.transpose([row / (np.linalg.norm(row) or 1.0) for row in rows]))
        return basis.T.reshape(-1, *architecture.lifted_shape)

    def excited_rows(self, architecture: Architecture) -> tuple[FloatArray, bool]:
        """Return what the loss excites of each z_i, by the first axis of z.

        Returns
        -------
        bases : array, shape=[n_rows, row_size, row_size]
            As rows, of the span of all ∂f/∂z_i(z) at lifts of random parameters, before zeros.
        is_sum : bool
            Whether f is a sum of functions of one z_i each, so that these spans are all there is.

        References
        ----------
        Ours.
        """
        count, *row = as_instance(architecture, Architecture, "architecture").lifted_shape
        size = math.prod(row)
        refuse_beyond(float(count) * size * (size + _SPARE), f"the gradients at {count} inputs")
        if type(self).excited is not Loss.excited:  # it knows better, or that nobody does
            forms, is_sum = self.excited(architecture), None
        else:
            points = architecture.random_point(size + _SPARE, rng=0)
            lifts, shape = architecture.lift(points), architecture.lifted_shape
            pairs = zip(lifts, points, strict=True)
            forms = np.array([as_gradient(self.gradient(*pair), self, shape) for pair in pairs])
            other = np.arange(count) % 2
            mixed = np.where(other.reshape(-1, *[1] * len(row)), lifts[1], lifts[0])
            gap = as_gradient(self.gradient(mixed, points[0]), self, shape)
            gap = gap - forms[other, np.arange(count)]
            is_sum = bool(np.max(np.abs(gap)) <= ROUNDING * count * np.max(np.abs(forms[:2])))
        forms = forms.reshape(-1, count, size)
        bases, largest = np.zeros((count, size, size)), np.max(np.abs(forms), initial=0.0)
        for number in range(count):
            own = forms[:, number] * (np.abs(forms[:, number]) > ROUNDING * largest)
            basis = echelon(own / row_sizes(own)[:, None])
            bases[number, : len(basis)] = basis
        if is_sum is None:
            is_sum = len(forms) == np.sum(np.any(bases, axis=2))
        return bases, bool(is_sum)

    def linear_laws(self, architecture: Architecture) -> FloatArray | csr_array:
        """Return the linear functions of θ that this loss keeps, as far as they are known.

        Returns
        -------
        laws : array or sparse array, shape=[n_laws, dim]
            By default none.
        """
        return np.zeros((0, as_instance(architecture, Architecture, "architecture").dim))

    def scores(self, theta: OneTheta, architecture: Architecture) -> dict[str, float]:
        """Return figures of merit at θ besides the loss, by name."""
        return {}


def _on_copies(method: Callable[..., Scalars]) -> Callable[..., Scalars]:
    @wraps(method)
    def on_copies(self: Loss, *args: object, **kwargs: object) -> Scalars:
        own = [value.copy("K") if isinstance(value, np.ndarray) else value for value in args]
        for name, value in kwargs.items():
            if isinstance(value, np.ndarray):
                kwargs[name] = value.copy("K")
        return method(self, *own, **kwargs)

    return on_copies


class FunctionLoss(Loss):
    """A loss given by f alone; build it with :func:`loss_from_function`.

    Parameters
    ----------
    pl_constant : float, optional
        The κ, where it is known.

    Raises
    ------
    InputError
        From its methods: the function returns something else than one number.
    NotDifferentiableError
        From its gradient: autograd cannot follow the function.
    """

    def __init__(
        self,
        function: Callable[[Lifted], Scalars],
        pl_constant: float | None = None,
        minimum: float = 0.0,
    ) -> None:
        self.function, self.pl_constant, self.minimum = function, pl_constant, minimum

    def _facts(self) -> str:
        return name_of(self.function)

    def _number(self, z: OneLifted) -> Scalars:
        return as_number_of(self.function(z), _FUNCTION)

    def value(self, z: OneLifted, near: OneTheta | None = None) -> Scalars:
        return self._number(as_array(z, "z"))

    def gradient(self, z: OneLifted, near: OneTheta | None = None) -> OneLiftedTangent:
        z = as_array(z, "z")
        try:
            return autograd.grad(watched(self._number, _FUNCTION))(z)
        except LiftflowError:
            raise
        except Exception as error:
            self.function(z + 0.0)  # is it the function itself that fails?
            raise NotDifferentiableError(
                "the function of a loss must take z to one number by operations of "
                f"autograd.numpy; autograd says: {error}"
            ) from error

    def parameter_value(self, theta: Theta, architecture: Architecture) -> Scalars:
        as_instance(architecture, Architecture, "architecture")
        theta = as_array(theta, "theta", (architecture.dim,), differentiable=False)
        return over_batch(lambda t: self.value(architecture.lift(t)), [theta], [1], shape=())

    def parameter_gradient(self, theta: Theta, architecture: Architecture) -> Tangent:
        as_instance(architecture, Architecture, "architecture")
        theta = as_array(theta, "theta", (architecture.dim,), differentiable=False)
        phi = architecture.phi
        return over_batch(lambda t: phi.vjp(t, self.gradient(phi(t))), [theta], [1])


def loss_from_function(
    function: Callable[[Lifted], Scalars], pl_constant: float | None = None, minimum: float = 0.0
) -> FunctionLoss:
    """Turn a function of z, written with autograd.numpy, into a loss.

    Parameters
    ----------
    function : callable
        Takes one z of shape ``lifted_shape`` to one number.
    pl_constant : float, optional
        A κ > 0 with ‖∇f(z)‖² ≥ 2κ(f(z) − f*) at all z, where one is known: rates are certified by
        it.
    minimum : float
        The f*.

    Raises
    ------
    InputError
        No function of one argument.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> from liftflow.losses import loss_from_function
    >>> loss = loss_from_function(lambda z: anp.sum(z**2))
    >>> print(loss.gradient([1.0, 2.0]))
    [2. 4.]
    """
    as_function(function, "function", 1)
    if pl_constant is not None:
        pl_constant = as_number(pl_constant, "pl_constant", np.finfo(float).tiny, 1e300)
    return FunctionLoss(function, pl_constant, as_number(minimum, "minimum"))


_FUNCTION = "the function of a loss"


def name_of(function: Callable[..., Any]) -> str:
    """Return what a function is called, or its kind; some of its arguments may be given already."""
    if isinstance(function, partial):  # as ours are, of private functions
        return name_of(function.func).strip("_")
    return str(getattr(function, "__name__", type(function).__name__))


def _array(value: object, what: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except Exception as error:  # whatever the conversion of a foreign object raises
        raise InputError(f"{what} must return real numbers, got {got(value)}: {error}") from error


def as_number_of(value: Scalars, what: str, argument: str = "z") -> Scalars:
    """Return the value of a function if it is one number, or say what it is.

    Parameters
    ----------
    what, argument : str
        What the message calls the function, and what it takes.
    """
    plain = _array(untraced(value), what)
    if plain.shape == () and plain.dtype.kind in "fiub":
        return value
    what_kind = "None" if value is None else got(value)
    given = f"an array of shape {plain.shape}" if plain.shape else what_kind
    raise InputError(f"{what} must take {argument} to one number, got {given}")


def as_value(value: Scalars, loss: Loss) -> float:
    """Return the value of a loss, which may be a user's own, if it is one number."""
    return float(as_number_of(value, f"{type(loss).__name__}.value"))


def as_samples(indices: IntArray | Sequence[int], loss: Loss) -> IntArray:
    """Return the numbers of one or more samples of a loss, if it has such."""
    if loss.n_samples is None:
        Loss.batch(loss, indices)  # says why not
    numbers = as_indices(indices, "indices", loss.n_samples or 0)
    if not numbers.size:
        raise InputError("indices must hold at least one sample, got none")
    return numbers


def as_gradient(value: Covector, loss: Loss, shape: tuple[int, ...]) -> FloatArray:
    """Return the gradient of a loss, which may be a user's own, if it has the right shape."""
    name = f"{type(loss).__name__}.gradient"
    gradient = _array(value, name)
    if gradient.dtype.kind not in "fiu":
        raise InputError(f"{name} must return an array of real numbers, got {gradient.dtype}")
    if gradient.shape != shape:
        raise ShapeError(f"{name} must return an array of shape {shape}, got {gradient.shape}")
    return gradient.astype(np.float64, copy=False)
