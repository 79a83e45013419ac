r"""The gradient fields ∇⟨g, φ⟩ of a lift, their derivatives and their brackets.

A *form* is a covector g on z; it names the field :math:`X_g(θ) = ∂φ(θ)^\top g`. Everything that
the criteria ask of φ is a rank or a residual of such fields, of their derivatives along a
direction, and of their brackets :math:`[X, Y] = ∂Y·X − ∂X·Y`. Forms are drawn at random instead
of taking all of a basis: brackets are multilinear in them, so random ones span what all span.
Where φ has a structure, forms of rank one do, which cost one pass through the network each.
"""

from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
from typing_extensions import TypeAliasType

from liftflow.architectures import Architecture
from liftflow.architectures.base import WithLaws
from liftflow.architectures.maps import make_jvp
from liftflow.errors import InputError, NotFiniteError
from liftflow.linalg import FLOATS, Arithmetic, lengths
from liftflow.typing import FloatArray, Forms, IntArray, OneTheta

Coordinates = TypeAliasType("Coordinates", Any)
"""Points or vectors, each with forms of its own, in the numbers that fields are evaluated in."""

Push = tuple[Coordinates, Coordinates]  # a value and its derivative along a velocity
Combine = Callable[[Coordinates, Coordinates], Coordinates]  # of the two terms of a bracket
Map = Callable[[Coordinates], Coordinates]  # of the point

_CHANGE = 0.1  # of a field, relative to it, that shows its unit of length


class GradientFields:
    """Fields X_g of a lift, in coordinates that an isometry, up to a factor, relates to θ.

    By default θ itself, and any lift that autograd can differentiate as often as brackets need.

    Evaluated, they raise where autograd cannot follow the lift, or a derivative is not finite.

    Parameters
    ----------
    basis : array, shape=[n_forms, *lifted_shape], optional
        Of the forms of one loss, where its gradients do not span all.
    """

    analytic = False
    """Whether φ is known to be, and not only evaluated."""

    listed = True
    """Whether a form has a number for each entry of z."""

    basis: FloatArray | None = None
    _last: Any = None  # brackets, and what they were made of

    def __init__(self, architecture: Architecture, basis: FloatArray | None = None) -> None:
        self.architecture, self.basis = architecture, basis
        self._entries, self._found = architecture.phi.changes, dict[tuple[str, bytes], Any]()

    def point(self, theta: OneTheta) -> FloatArray:
        """Return the coordinates of a parameter."""
        return np.asarray(theta)

    def velocities(self, tangents: FloatArray) -> FloatArray:
        """Return the coordinates of velocities of θ."""
        return np.asarray(tangents)

    def typical(self, point: FloatArray) -> FloatArray:
        """Typical size of each weight: what a small change of it is relative to.

        Zero for a weight that is zero with all of its row or column of a matrix, or as an edge of
        a graph: such zeros are no accidents.
        """
        return np.abs(point)

    def scales(self, point: FloatArray, lengths: FloatArray) -> list[FloatArray]:
        """Return scales that may hide each other; known are the lengths of the columns of ∂φ."""
        return [lengths]

    def unit(self, point: FloatArray) -> float:
        """Return the shortest length, but that of the point, over which a random field changes.

        It is small beside the point where φ knows no scale but θ.
        """
        return float(self._once(self._search_unit, point))

    def _once(self, find: Callable[[FloatArray], Any], point: FloatArray) -> Any:
        key = find.__name__, point.tobytes()
        return self._found[key] if key in self._found else self._found.setdefault(key, find(point))

    def _search_unit(self, point: FloatArray) -> float:
        size, rng = float(np.linalg.norm(point)) or 1.0, np.random.default_rng(0)
        reaches = size * 10.0 ** np.arange(0 if np.any(point) else -8, 16)
        way = rng.standard_normal(point.size) / np.sqrt(point.size)
        form = self.architecture.phi.covectors(1, rng) / self._once(self._entries, point)
        with np.errstate(all="ignore"):  # far from θ anything may happen
            here = np.asarray(self.field(form, point[None]))
            for length in reaches if np.any(here) else ():
                moved = np.asarray(self.field(form, (point + length * way)[None]))
                if not np.linalg.norm(moved - here) < _CHANGE * np.linalg.norm(here):
                    return float(length)
        return size

    def random_forms(self, count: int, point: FloatArray, rng: np.random.Generator) -> Forms:
        """Draw forms whose fields are about as long as the unit, normal in those of z."""
        forms = self.draw(count, point, rng)
        sizes = lengths(self.values(forms, point, count))
        return self._scaled(forms, self.unit(point) / np.where(sizes > 0, sizes, 1.0))

    def _scaled(self, forms: Forms, factors: FloatArray) -> Forms:
        return forms * factors.reshape(-1, *[1] * (forms.ndim - 1))

    def draw(self, count: int, point: FloatArray, rng: np.random.Generator) -> Forms:
        """Draw forms, of floats or residues, that look at all entries of z alike."""
        if self.basis is None:
            return self.architecture.phi.covectors(count, rng) / self._once(self._entries, point)
        weights = rng.standard_normal((count, len(self.basis)))
        return np.asarray(np.tensordot(weights, self.basis, 1), np.float64)

    def basis_forms(self, numbers: IntArray) -> Forms:
        """Return the forms that read single entries of z, by their flat numbers."""
        rows = np.zeros((len(numbers), self.architecture.lifted_dim))
        rows[np.arange(len(numbers)), numbers] = 1.0
        return rows.reshape(-1, *self.architecture.lifted_shape)

    def field(self, forms: Forms, point: Coordinates) -> Coordinates:
        """Evaluate the fields of all forms, each at a point of its own from :meth:`start`."""
        return self.architecture.phi.pulled(forms, point)

    def push(self, function: Map, point: Coordinates, velocity: Coordinates) -> Push:
        """Evaluate a function of the point and its derivative along a velocity."""
        value, derivative = make_jvp(function)(point)(velocity)
        return value, derivative

    def start(self, point: FloatArray, count: int) -> Coordinates:
        """Repeat a point for ``count`` forms, in the numbers that :meth:`field` works on."""
        return np.broadcast_to(point, (count, point.shape[-1]))

    def finish(self, values: Coordinates) -> FloatArray:
        """Return plain arrays from the numbers that :meth:`field` works on."""
        return finite(values, self.architecture)

    def values(self, forms: Forms, point: FloatArray, count: int) -> FloatArray:
        """Evaluate the fields of ``count`` forms at one point."""
        return self.finish(self.field(forms, self.start(point, 1)))

    def derivatives(self, forms: Forms, point: FloatArray, velocities: FloatArray) -> FloatArray:
        """Differentiate each field along the velocity of the same number, or one along all."""
        start = self.start(point, len(velocities))
        direction = self.start(velocities, len(velocities))
        return self.finish(self.push(lambda at: self.field(forms, at), start, direction)[1])

    def brackets(self, forms: Sequence[Forms], point: FloatArray, count: int) -> FloatArray:
        """Evaluate nested brackets [X_k, […, [X_2, X_1]]], ``count`` of them, X_1 first."""
        if len(forms) == 1:
            return self.values(forms[0], point, count)
        terms = self._terms(forms, self.start(point, count), self._difference)
        self._last = forms[-1], point, terms
        return self.finish(self._difference(*terms[1:]))

    def majorants(self, forms: Sequence[Forms], point: FloatArray, count: int) -> FloatArray:
        """Bound what brackets are made of, before anything cancels: the units of rounding.

        By the sizes of their two terms and of the last fields, an estimate.
        """
        last = self._last
        if not last or last[0] is not forms[-1] or not np.array_equal(last[1], point):
            self.brackets(forms, point, count)
        return np.sum(np.abs(self._last[-1]), axis=0)

    def _difference(self, along: Coordinates, other: Coordinates) -> Coordinates:
        return along - other

    def _terms(
        self, forms: Sequence[Forms], point: Coordinates, combine: Combine
    ) -> tuple[Coordinates, Coordinates, Coordinates]:
        """Return the last field X, and the two terms of its bracket with the others, Y."""
        *inner, outer = forms
        own = self.field(outer, point)
        value, along = self.push(lambda at: self._nested(inner, at, combine), point, own)
        return own, along, self.push(lambda at: self.field(outer, at), point, value)[1]

    def _nested(self, forms: Sequence[Forms], point: Coordinates, combine: Combine) -> Coordinates:
        if len(forms) == 1:
            return self.field(forms[0], point)
        return combine(*self._terms(forms, point, combine)[1:])


@singledispatch
def gradient_fields(architecture: Architecture, arithmetic: Arithmetic = FLOATS) -> Any:
    """Return the gradient fields of an architecture; a family can register its own."""
    if arithmetic.exact:
        raise InputError(
            f"exact=True evaluates the lift over a prime field, and that of "
            f"{type(architecture).__name__} is known only as a function of floats; use "
            "exact=False, or register its fields with liftflow.criteria.fields.gradient_fields"
        )
    return GradientFields(architecture)


@gradient_fields.register
def _(architecture: WithLaws, arithmetic: Arithmetic = FLOATS) -> Any:
    return gradient_fields(architecture.original, arithmetic)


def finite(derivatives: Coordinates, architecture: Architecture) -> FloatArray:
    """Return derivatives of a lift as an array, or refuse them: no rank can be read off a NaN."""
    array = np.asarray(derivatives)
    if not np.all(np.isfinite(array)):
        raise NotFiniteError(
            f"the derivatives of the lift of {type(architecture).__name__} at θ must be finite, "
            f"got {np.sum(~np.isfinite(array))} NaN or infinite of {array.size}; autograd divides "
            "by the factors of a prod and by roots: write the lift so that it need not at zeros; "
            "where only some θ have a lift, such as θ > 0, write a random_point that draws them"
        )
    return array
