r"""The gradient fields ∇⟨g, φ⟩ of a lift, their derivatives and their brackets.

A *form* is a covector g on z; it names the field :math:`X_g(θ) = ∂φ(θ)^\top g`. Everything that
the criteria ask of φ is a rank or a residual of such fields, of their derivatives along a
direction, and of their brackets :math:`[X, Y] = ∂Y·X − ∂X·Y`. Forms are drawn at random instead
of taking all of a basis: brackets are multilinear in them, so random ones span what all span.
Where φ has a structure, forms of rank one do, which cost one pass through the network each.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np

from liftflow.architectures import Architecture, DeepLinear, ReLUNetwork
from liftflow.architectures.dag import CompiledDAG
from liftflow.criteria.jets import FLOATS, Arithmetic, constant, inner_sum, multiply, seed, split
from liftflow.errors import InputError, NotDifferentiableError
from liftflow.typing import FloatArray, IntArray


class GradientFields(ABC):
    """Fields X_g of an architecture, in Euclidean coordinates of its choice.

    Points, velocities and fields are arrays whose last axis runs over coordinates that an
    isometry, up to one factor, relates to θ.
    """

    @abstractmethod
    def point(self, theta: FloatArray) -> FloatArray:
        """Coordinates of a parameter, shape=[n_coordinates]."""

    @abstractmethod
    def velocities(self, tangents: FloatArray) -> FloatArray:
        """Coordinates of velocities of θ, shape=[n, n_coordinates]."""

    @abstractmethod
    def random_forms(self, count: int, point: FloatArray, rng: np.random.Generator) -> Any:
        """Draw forms whose fields are about as long as the point."""

    @abstractmethod
    def basis_forms(self, numbers: IntArray) -> Any:
        """Forms that read single entries of z, by their flat numbers."""

    @abstractmethod
    def field(self, forms: Any, point: Any) -> Any:
        """Evaluate the fields of all forms, shape=[n_forms, n_coordinates]."""

    @abstractmethod
    def push(self, function: Callable[[Any], Any], point: Any, velocity: Any) -> tuple[Any, Any]:
        """Evaluate a function of the point and its derivative along a velocity."""

    def start(self, point: FloatArray, count: int) -> Any:
        """Repeat a point for ``count`` forms, in the form that :meth:`field` works on."""
        return np.broadcast_to(point, (count, point.shape[-1]))

    def finish(self, values: Any) -> FloatArray:
        """Return plain arrays from the form that :meth:`field` works on."""
        return np.asarray(values)

    def values(self, forms: Any, point: FloatArray, count: int) -> FloatArray:
        """Evaluate the fields at a plain point.

        Parameters
        ----------
        forms : forms
        point : array, shape=[n_coordinates]
        count : int
            Number of forms.

        Returns
        -------
        vectors : array, shape=[count, n_coordinates]
        """
        return self.finish(self.field(forms, self.start(point, count)))

    def derivatives(self, forms: Any, point: FloatArray, velocities: FloatArray) -> FloatArray:
        """Differentiate each field along the velocity of the same number, ∂X_i v_i.

        Parameters
        ----------
        forms : forms
        point : array, shape=[n_coordinates]
        velocities : array, shape=[n, n_coordinates]

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
        count : int

        Returns
        -------
        brackets : array, shape=[count, n_coordinates]
        """
        return self.finish(self._nested(forms, self.start(point, count), self._difference))

    @abstractmethod
    def majorants(self, forms: Sequence[Any], point: FloatArray, count: int) -> FloatArray:
        """Sizes of what brackets are made of, before anything cancels: the units of rounding.

        Parameters
        ----------
        forms : sequence of forms
        point : array, shape=[n_coordinates]
        count : int

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


@dataclass(frozen=True, eq=False)
class NetworkForms:
    """Forms Σ_p (sink of p's end) (source of p's start) ∏_{e∈p} (multiplier of e) on the paths.

    Attributes
    ----------
    multipliers : array, shape=[n or 1, n_edges]
    sources : array, shape=[n, n_inputs]
    sinks : array, shape=[n, n_outputs]
    """

    multipliers: Any
    sources: Any
    sinks: Any

    def __abs__(self) -> "NetworkForms":
        """Take all absolute values."""
        return NetworkForms(abs(self.multipliers), abs(self.sources), abs(self.sinks))


class NetworkFields(GradientFields):
    """Fields of a lift made of paths through a graph: linear and ReLU networks.

    One pass forward and one backward give the field of a form, ∂/∂θ_e = c_e f_tail(e) b_head(e).

    Parameters
    ----------
    dag : CompiledDAG
    arithmetic : Arithmetic
        Floats, or integers modulo a prime.
    """

    def __init__(self, dag: CompiledDAG, arithmetic: Arithmetic) -> None:
        self.dag = dag
        self.arithmetic = arithmetic

    def start(self, point: FloatArray, count: int) -> Any:
        """Return the point as a constant jet."""
        return seed(np.atleast_2d(point))

    def finish(self, values: Any) -> FloatArray:
        """Return the constant part of a jet."""
        return constant(values)

    def push(self, function: Callable[[Any], Any], point: Any, velocity: Any) -> tuple[Any, Any]:
        """Differentiate by one more nilpotent variable.

        Parameters
        ----------
        function : callable
        point, velocity : jet

        Returns
        -------
        value, derivative : jet
        """
        count = max(point.shape[1], velocity.shape[1])
        parts = [
            np.broadcast_to(part, (len(part), count, part.shape[-1])) for part in (point, velocity)
        ]
        return split(function(np.concatenate(parts)))

    def _difference(self, along: Any, other: Any) -> Any:
        return self.arithmetic.reduce(along - other)

    def majorants(self, forms: Sequence[Any], point: FloatArray, count: int) -> FloatArray:
        """Evaluate brackets with absolute values and sums in place of differences.

        Parameters
        ----------
        forms : sequence of NetworkForms
        point : array, shape=[n_coordinates]
        count : int

        Returns
        -------
        sizes : array, shape=[count, n_coordinates]
            All coefficients of the fields are positive, so these bound every partial sum.
        """
        sizes = [abs(form) for form in forms]
        return self.finish(self._nested(sizes, self.start(np.abs(point), count), np.add))

    def field(self, forms: NetworkForms, point: Any) -> Any:
        """Evaluate the fields by backpropagation on jets.

        Parameters
        ----------
        forms : NetworkForms
        point : jet, shape=[2^k, n or 1, n_edges]

        Returns
        -------
        vectors : jet, shape=[2^k, n, n_edges]
        """
        dag, arithmetic = self.dag, self.arithmetic
        multipliers = seed(forms.multipliers)
        weights = multiply(point, multipliers, arithmetic)
        matrices = [self._matrix(block, weights) for block in dag.blocks]
        count, n_nodes = len(forms.sources), len(dag.nodes) + 1
        shape = (len(weights), count)
        forward = [np.zeros((*shape, nodes.size), weights.dtype) for nodes in dag.members]
        backward = [np.zeros((*shape, nodes.size), weights.dtype) for nodes in dag.members]
        forward[0][0] = forms.sources
        levels, columns = dag.generation[dag.outputs], dag.position[dag.outputs]
        for number, (level, column) in enumerate(zip(levels, columns, strict=True)):
            backward[level][0, :, column] = forms.sinks[:, number]
        one = np.ones((1, count, 1), weights.dtype)
        blocks = list(zip(dag.blocks, matrices, strict=True))
        for block, matrix in blocks:
            tail = one if block.tail_generation < 0 else forward[block.tail_generation]
            head = forward[block.head_generation]
            head += inner_sum(matrix, tail[..., None], -2, arithmetic)
            arithmetic.reduce(head, out=head)
        for block, matrix in reversed(blocks):
            if block.tail_generation > 0:
                tail = backward[block.tail_generation]
                tail += inner_sum(
                    matrix, backward[block.head_generation][..., None, :], -1, arithmetic
                )
                arithmetic.reduce(tail, out=tail)
        before = np.zeros((*shape, n_nodes), weights.dtype)
        after = np.zeros((*shape, n_nodes), weights.dtype)
        for nodes, own, back in zip(dag.members, forward, backward, strict=True):
            before[..., nodes], after[..., nodes] = own, back
        before[0, :, -1] = 1
        product = multiply(before[..., dag.tails], after[..., dag.heads], arithmetic)
        return multiply(product, multipliers, arithmetic)

    @staticmethod
    def _matrix(block: Any, weights: Any) -> Any:
        matrix = np.zeros((*weights.shape[:-1], *block.shape), weights.dtype)
        matrix[..., block.rows, block.columns] = weights[..., block.edges]
        return matrix

    def _normalised(self, forms: NetworkForms, point: FloatArray) -> NetworkForms:
        """Scale the sinks so that the fields are about as long as the point."""
        lengths = np.linalg.norm(self.values(forms, point, len(forms.sources)), axis=1)
        factor = np.linalg.norm(point) / np.where(lengths > 0, lengths, 1.0)
        return NetworkForms(forms.multipliers, forms.sources, forms.sinks * factor[:, None])


class LinearFields(NetworkFields):
    """Fields of a product of matrices; the coordinates are the entries of its layers.

    Parameters
    ----------
    architecture : DeepLinear
    arithmetic : Arithmetic
    """

    def __init__(self, architecture: DeepLinear, arithmetic: Arithmetic) -> None:
        super().__init__(CompiledDAG.layered(architecture.widths, (), False), arithmetic)
        self.architecture = architecture

    def point(self, theta: FloatArray) -> FloatArray:
        """Entries of the layers, by input and then output.

        Parameters
        ----------
        theta : array, shape=[dim]

        Returns
        -------
        weights : array, shape=[n_coordinates]
        """
        return self._flat(self.architecture.layers(theta))

    def velocities(self, tangents: FloatArray) -> FloatArray:
        """Velocities of the layers.

        Parameters
        ----------
        tangents : array, shape=[n, dim]

        Returns
        -------
        velocities : array, shape=[n, n_coordinates]
        """
        return self._flat(self.architecture.layer_velocities(tangents))

    @staticmethod
    def _flat(layers: list[Any]) -> FloatArray:
        moved = [np.moveaxis(np.asarray(layer), -1, -2) for layer in layers]
        return np.concatenate([layer.reshape(*layer.shape[:-2], -1) for layer in moved], axis=-1)

    def random_forms(self, count: int, point: FloatArray, rng: np.random.Generator) -> NetworkForms:
        """Draw matrices of rank one, as forms on the product.

        Parameters
        ----------
        count : int
        point : array, shape=[n_coordinates]
        rng : numpy.random.Generator

        Returns
        -------
        forms : NetworkForms
        """
        widths = self.architecture.widths
        sources, sinks = (self.arithmetic.draw((count, n), rng) for n in (widths[0], widths[-1]))
        forms = NetworkForms(self.arithmetic.ones((1, self.dag.dim)), sources, sinks)
        return forms if self.arithmetic.exact else self._normalised(forms, point)

    def basis_forms(self, numbers: IntArray) -> NetworkForms:
        """Forms that read single entries of the product.

        Parameters
        ----------
        numbers : array, shape=[n]

        Returns
        -------
        forms : NetworkForms
        """
        widths = self.architecture.widths
        sinks, sources = np.divmod(numbers, widths[0])
        ones = self.arithmetic.ones((1, self.dag.dim))
        return NetworkForms(ones, np.eye(widths[0])[sources], np.eye(widths[-1])[sinks])


class ReLUFields(NetworkFields):
    r"""Fields of the path products of a ReLU network; no path is listed.

    A form gives every edge a random multiplier: :math:`\sum_p \prod_{e∈p} c_e θ_e`. Such
    products over edges span all forms, and c_e ∝ 1/|θ_e| makes every path count alike, whatever
    the scale and the rescaling of θ.

    Parameters
    ----------
    network : ReLUNetwork
    arithmetic : Arithmetic
    """

    def __init__(self, network: ReLUNetwork, arithmetic: Arithmetic) -> None:
        super().__init__(network.dag, arithmetic)
        self.network = network

    def point(self, theta: FloatArray) -> FloatArray:
        """θ itself.

        Parameters
        ----------
        theta : array, shape=[dim]

        Returns
        -------
        theta : array, shape=[dim]
        """
        return np.asarray(theta)

    def velocities(self, tangents: FloatArray) -> FloatArray:
        """The velocities themselves.

        Parameters
        ----------
        tangents : array, shape=[n, dim]

        Returns
        -------
        tangents : array, shape=[n, dim]
        """
        return np.asarray(tangents)

    def random_forms(self, count: int, point: FloatArray, rng: np.random.Generator) -> NetworkForms:
        """Draw a multiplier for every edge.

        Parameters
        ----------
        count : int
        point : array, shape=[dim]
        rng : numpy.random.Generator

        Returns
        -------
        forms : NetworkForms
        """
        arithmetic = self.arithmetic
        sources = arithmetic.ones((count, self.dag.n_inputs))
        sinks = arithmetic.ones((count, self.dag.outputs.size))
        multipliers = arithmetic.draw((count, self.dag.dim), rng)
        if arithmetic.exact:
            return NetworkForms(multipliers, sources, sinks)
        sizes = np.abs(point)
        typical = np.median(sizes[sizes > 0]) if np.any(sizes > 0) else 1.0
        multipliers /= np.where(sizes > 0, sizes, typical)
        return self._normalised(NetworkForms(multipliers, sources, sinks), point)

    def basis_forms(self, numbers: IntArray) -> NetworkForms:
        """Forms that read single paths: a multiplier of 1 on its edges, and of 0 elsewhere.

        Parameters
        ----------
        numbers : array, shape=[n]

        Returns
        -------
        forms : NetworkForms
        """
        on_path = self.network.path_incidence[np.asarray(numbers)].toarray()
        sources = np.ones((len(numbers), self.dag.n_inputs))
        return NetworkForms(on_path, sources, np.ones((len(numbers), self.dag.outputs.size)))


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
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def point(self, theta: FloatArray) -> FloatArray:
        """θ itself.

        Parameters
        ----------
        theta : array, shape=[dim]

        Returns
        -------
        theta : array, shape=[dim]
        """
        return np.asarray(theta)

    def velocities(self, tangents: FloatArray) -> FloatArray:
        """The velocities themselves.

        Parameters
        ----------
        tangents : array, shape=[n, dim]

        Returns
        -------
        tangents : array, shape=[n, dim]
        """
        return np.asarray(tangents)

    def random_forms(self, count: int, point: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Draw normal covectors.

        Parameters
        ----------
        count : int
        point : array, shape=[dim]
        rng : numpy.random.Generator

        Returns
        -------
        forms : array, shape=[count, *lifted_shape]
        """
        forms = rng.standard_normal((count, *self.architecture.lifted_shape))
        lengths = np.linalg.norm(self.values(forms, point, count), axis=1)
        factor = np.linalg.norm(point) / np.where(lengths > 0, lengths, 1.0)
        return forms * factor.reshape(-1, *[1] * (forms.ndim - 1))

    def basis_forms(self, numbers: IntArray) -> FloatArray:
        """Covectors that read single entries of z.

        Parameters
        ----------
        numbers : array, shape=[n]

        Returns
        -------
        forms : array, shape=[n, *lifted_shape]
        """
        rows = np.eye(self.architecture.lifted_dim)[numbers]
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
        try:
            return autograd.grad(lambda at: anp.sum(forms * self.architecture.lift(at)))(point)
        except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
            raise NotDifferentiableError(
                f"autograd cannot follow the lift of {type(self.architecture).__name__} "
                f"({error}); write it with autograd.numpy, or with geomstats.backend and start "
                "Python with GEOMSTATS_BACKEND=autograd"
            ) from error

    def majorants(self, forms: Sequence[Any], point: FloatArray, count: int) -> FloatArray:
        """Add up the sizes of the two terms of the brackets and of the fields.

        Parameters
        ----------
        forms : sequence of array
        point : array, shape=[dim]
        count : int

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
        point, velocity : array, shape=[n, dim]

        Returns
        -------
        value, derivative : array, shape=[n, dim]
        """
        return autograd.make_jvp(function)(point)(velocity)


@singledispatch
def gradient_fields(architecture: Architecture) -> GradientFields:
    """Return the gradient fields of an architecture; a family with a structure registers its own.

    Parameters
    ----------
    architecture : Architecture

    Returns
    -------
    fields : GradientFields
    """
    return AutogradFields(architecture)


@gradient_fields.register
def _(architecture: DeepLinear) -> GradientFields:
    return LinearFields(architecture, FLOATS)


@gradient_fields.register
def _(architecture: ReLUNetwork) -> GradientFields:
    return ReLUFields(architecture, FLOATS)


@singledispatch
def exact_fields(architecture: Architecture, arithmetic: Arithmetic) -> NetworkFields:
    """Return the gradient fields of an architecture over a prime field.

    Parameters
    ----------
    architecture : Architecture
    arithmetic : Arithmetic
        Integers modulo a prime.

    Returns
    -------
    fields : NetworkFields

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


@exact_fields.register
def _(architecture: DeepLinear, arithmetic: Arithmetic) -> NetworkFields:
    return LinearFields(architecture, arithmetic)


@exact_fields.register
def _(architecture: ReLUNetwork, arithmetic: Arithmetic) -> NetworkFields:
    return ReLUFields(architecture, arithmetic)
