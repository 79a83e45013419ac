r"""The gradient fields ∇⟨g, φ⟩ of a lift, their derivatives and their brackets.

A *form* is a covector g on z; it names the field :math:`X_g(θ) = ∂φ(θ)^\top g`. Everything that
the criteria ask of φ is a rank or a residual of such fields, of their derivatives along a
direction, and of their brackets :math:`[X, Y] = ∂Y·X − ∂X·Y`. Forms are drawn at random instead
of taking all of a basis: brackets are multilinear in them, so random ones span what all span.
Where φ has a structure, forms of rank one do, which cost one pass through the network each.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np

from liftflow.architectures import Architecture
from liftflow.architectures.base import followed_by_autograd
from liftflow.criteria.jets import Arithmetic
from liftflow.criteria.scaling import entry_units, finite
from liftflow.errors import InputError
from liftflow.typing import FloatArray, Forms, IntArray, OneTheta

_CHANGE = 0.1  # of a field, relative to it, that shows its unit of length


class GradientFields(ABC):
    """Fields X_g of an architecture, in Euclidean coordinates of its choice.

    Points, velocities and fields are arrays whose last axis runs over coordinates that an
    isometry, up to one factor, relates to θ.
    """

    def point(self, theta: OneTheta) -> FloatArray:
        """Return the coordinates of a parameter; θ itself unless a family has better ones.

        Returns
        -------
        point : array, shape=[n_coordinates]
        """
        return np.asarray(theta)

    def velocities(self, tangents: FloatArray) -> FloatArray:
        """Return the coordinates of velocities of θ.

        Parameters
        ----------
        tangents : array, shape=[n, dim]
            Velocities of θ.

        Returns
        -------
        velocities : array, shape=[n, n_coordinates]
        """
        return np.asarray(tangents)

    def unit(self, point: FloatArray) -> float:
        """Return the length over which the fields change: that of the point, if it is not zero.

        Parameters
        ----------
        point : array, shape=[n_coordinates]
        """
        return float(np.linalg.norm(point)) or 1.0

    @abstractmethod
    def random_forms(self, count: int, point: FloatArray, rng: np.random.Generator) -> Any:
        """Draw forms whose fields are about as long as the unit.

        Parameters
        ----------
        count : int
            Number of forms.
        point : array, shape=[n_coordinates]
        """

    @abstractmethod
    def basis_forms(self, numbers: IntArray) -> Any:
        """Return the forms that read single entries of z.

        Parameters
        ----------
        numbers : array, shape=[n]
            Flat numbers of the entries.
        """

    @abstractmethod
    def field(self, forms: Forms, point: Any) -> Any:
        """Evaluate the fields of all forms.

        Parameters
        ----------
        point : array, shape=[n_forms, n_coordinates]
            In the form of :meth:`start`.

        Returns
        -------
        values : array, shape=[n_forms, n_coordinates]
            In the same form.
        """

    @abstractmethod
    def push(self, function: Callable[[Any], Any], point: Any, velocity: Any) -> tuple[Any, Any]:
        """Evaluate a function of the point and its derivative along a velocity.

        Parameters
        ----------
        function : callable
            Takes an array like the point to one like it.
        point, velocity : array, shape=[n, n_coordinates]
            In the form of :meth:`start`.

        Returns
        -------
        value, derivative : array, shape=[n, n_coordinates]
            In the same form.
        """

    def start(self, point: FloatArray, count: int) -> Any:
        """Repeat a point for ``count`` forms, in the form that :meth:`field` works on.

        Parameters
        ----------
        point : array, shape=[n_coordinates]
        count : int
            Number of forms.

        Returns
        -------
        point : array, shape=[count, n_coordinates]
        """
        return np.broadcast_to(point, (count, point.shape[-1]))

    def finish(self, values: Any) -> FloatArray:
        """Return plain arrays from the form that :meth:`field` works on.

        Parameters
        ----------
        values : array, shape=[n_forms, n_coordinates]
            In the form of :meth:`start`.

        Returns
        -------
        values : array, shape=[n_forms, n_coordinates]
        """
        return np.asarray(values)

    def values(self, forms: Forms, point: FloatArray, count: int) -> FloatArray:
        """Evaluate the fields at a plain point.

        Parameters
        ----------
        point : array, shape=[n_coordinates]
        count : int
            Number of forms.

        Returns
        -------
        vectors : array, shape=[count, n_coordinates]
        """
        return self.finish(self.field(forms, self.start(point, count)))

    def derivatives(self, forms: Forms, point: FloatArray, velocities: FloatArray) -> FloatArray:
        """Differentiate each field along the velocity of the same number, ∂X_i v_i.

        Parameters
        ----------
        point : array, shape=[n_coordinates]
        velocities : array, shape=[n, n_coordinates]
            One for each form.

        Returns
        -------
        derivatives : array, shape=[n, n_coordinates]
        """
        start = self.start(point, len(velocities))
        direction = self.start(velocities, len(velocities))
        return self.finish(self.push(lambda at: self.field(forms, at), start, direction)[1])

    def brackets(self, forms: Sequence[Any], point: FloatArray, count: int) -> FloatArray:
        """Evaluate nested brackets [X_k, […, [X_2, X_1]]].

        Parameters
        ----------
        forms : sequence of forms
            For X_1, …, X_k, each for ``count`` brackets.
        point : array, shape=[n_coordinates]

        Returns
        -------
        brackets : array, shape=[count, n_coordinates]
        """
        return self.finish(self._nested(forms, self.start(point, count), self._difference))

    @abstractmethod
    def majorants(self, forms: Sequence[Any], point: FloatArray, count: int) -> FloatArray:
        """Bound what brackets are made of, before anything cancels: the units of rounding.

        Parameters
        ----------
        point : array, shape=[n_coordinates]

        Returns
        -------
        sizes : array, shape=[count, n_coordinates]
        """

    def _difference(self, along: Any, other: Any) -> Any:
        return along - other

    def _nested(self, forms: Sequence[Any], point: Any, combine: Callable[[Any, Any], Any]) -> Any:
        *inner, outer = forms
        own = self.field(outer, point)
        if not inner:
            return own
        value, along = self.push(lambda at: self._nested(inner, at, combine), point, own)
        _, other = self.push(lambda at: self.field(outer, at), point, value)
        return combine(along, other)


class AutogradFields(GradientFields):
    """Fields of any lift that autograd can differentiate, as often as brackets need.

    Parameters
    ----------
    architecture : Architecture
        Only its ``lift`` is used.

    Raises
    ------
    NotDifferentiableError
        When evaluated: autograd cannot follow the lift.
    NotFiniteError
        When evaluated: a derivative is NaN or infinite.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self._units: dict[bytes, float] = {}

    def unit(self, point: OneTheta) -> float:
        """Return the shortest length, but that of the point, over which a random field changes.

        Returns
        -------
        unit : float
            Small beside the point where φ knows no scale but θ.
        """
        key = point.tobytes()
        if key not in self._units:
            self._units[key] = self._search_unit(point)
        return self._units[key]

    def _search_unit(self, point: FloatArray) -> float:
        size, rng = super().unit(point), np.random.default_rng(0)
        lengths = size * 10.0 ** np.arange(0 if np.any(point) else -8, 16)
        way = rng.standard_normal(point.size) / np.sqrt(point.size)
        points = np.vstack([point, point + lengths[:, None] * way])
        form = rng.standard_normal((1, *self.architecture.lifted_shape))
        form = form / entry_units(self.architecture, point)
        with np.errstate(all="ignore"):  # far from θ anything may happen
            here, *moved = np.asarray(self.field(form, points))
            change = np.linalg.norm(np.asarray(moved) - here, axis=1)
        changed = ~(change < _CHANGE * np.linalg.norm(here))
        return float(lengths[np.argmax(changed)]) if np.any(changed) and np.any(here) else size

    def finish(self, values: Any) -> FloatArray:
        """Return plain arrays, or refuse those that are not finite.

        Parameters
        ----------
        values : array
            Fields, their derivatives or brackets.

        Returns
        -------
        array : array
            The same.
        """
        return finite(values, self.architecture)

    def random_forms(self, count: int, point: OneTheta, rng: np.random.Generator) -> FloatArray:
        """Draw covectors, normal in the units of the entries of z.

        Returns
        -------
        forms : array, shape=[count, *lifted_shape]
        """
        forms = rng.standard_normal((count, *self.architecture.lifted_shape))
        forms = forms / entry_units(self.architecture, point)
        lengths = np.linalg.norm(self.values(forms, point, count), axis=1)
        factor = self.unit(point) / np.where(lengths > 0, lengths, 1.0)
        return forms * factor.reshape(-1, *[1] * (forms.ndim - 1))

    def basis_forms(self, numbers: IntArray) -> FloatArray:
        """Return the covectors that read single entries of z.

        Parameters
        ----------
        numbers : array, shape=[n]
            Flat numbers of the entries.

        Returns
        -------
        forms : array, shape=[n, *lifted_shape]
        """
        rows = np.zeros((len(numbers), self.architecture.lifted_dim))
        rows[np.arange(len(numbers)), numbers] = 1.0
        return rows.reshape(-1, *self.architecture.lifted_shape)

    def field(self, forms: FloatArray, point: Any) -> Any:
        """Evaluate the fields by reverse-mode differentiation of the lift.

        Parameters
        ----------
        forms : array, shape=[n, *lifted_shape]
        point : array, shape=[n, dim]

        Returns
        -------
        vectors : array, shape=[n, dim]
        """
        # 0 θ, because autograd warns where a lift or its derivative is constant.
        with followed_by_autograd(f"the lift of {type(self.architecture).__name__}"):
            slope = autograd.grad(
                lambda at: anp.sum(forms * self.architecture.lift(at)) + 0.0 * anp.sum(at)
            )
            return slope(point) + 0.0 * point

    def majorants(self, forms: Sequence[Any], point: OneTheta, count: int) -> FloatArray:
        """Add up the sizes of the two terms of the brackets and of the fields.

        Returns
        -------
        sizes : array, shape=[count, dim]
            An estimate: of a lift that is only evaluated, no partial sums are known.
        """
        *inner, outer = forms
        start = self.start(point, count)
        own = self.field(outer, start)
        value, along = self.push(lambda at: self._nested(inner, at, self._difference), start, own)
        _, other = self.push(lambda at: self.field(outer, at), start, value)
        return np.abs(along) + np.abs(other) + np.abs(own)

    def push(self, function: Callable[[Any], Any], point: Any, velocity: Any) -> tuple[Any, Any]:
        """Differentiate forward.

        Parameters
        ----------
        function : callable
            Takes an array like the point to one like it.
        point, velocity : array, shape=[n, dim]

        Returns
        -------
        value, derivative : array, shape=[n, dim]
        """
        return autograd.make_jvp(function)(point)(velocity)


@singledispatch
def gradient_fields(architecture: Architecture) -> GradientFields:
    """Return the gradient fields of an architecture; a family can register its own."""
    return AutogradFields(architecture)


@singledispatch
def exact_fields(architecture: Architecture, arithmetic: Arithmetic) -> Any:
    """Return the gradient fields of an architecture over a prime field.

    Parameters
    ----------
    arithmetic : Arithmetic
        Integers modulo a prime.

    Raises
    ------
    InputError
        The lift is known only as a function of floats.
    """
    raise InputError(
        f"exact=True evaluates the lift over a prime field, and that of "
        f"{type(architecture).__name__} is known only as a function of floats; use exact=False, or "
        "register its fields with liftflow.criteria.fields.exact_fields"
    )
