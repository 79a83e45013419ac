"""Gradient fields of linear and ReLU networks, by one pass forward and one backward each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from liftflow.architectures import (
    Architecture,
    DeepLinear,
    ReLUNetwork,
    SampledForward,
    TiedNetwork,
)
from liftflow.architectures.base import WithLaws
from liftflow.architectures.dag import Block, CompiledDAG
from liftflow.criteria.fields import (
    FLOATS,
    Arithmetic,
    Coordinates,
    GradientFields,
    Map,
    Push,
    gradient_fields,
    halves,
    length_of,
    sizes_of,
)
from liftflow.errors import InputError
from liftflow.typing import FloatArray, IntArray, OneTheta, got, refuse_beyond

_VANISHED = 1e-15  # relative size of a singular value that is rounding
_CAREFULLY = 1.5  # power of singular values, as brackets have products of them


@dataclass(frozen=True, eq=False)
class NetworkForms:
    """Forms Σ_p (sink of p's end) (source of p's start) ∏_{e∈p} (multiplier of e) on the paths.

    Attributes
    ----------
    multipliers : array, shape=[n or 1, n_edges]
        Of the edges.
    sources : array, shape=[n, n_inputs]
        Of the inputs.
    sinks : array, shape=[n, n_outputs]
        Of the outputs.
    """

    multipliers: Any
    sources: Any
    sinks: Any

    def each(self, function: Callable[[Any], Any]) -> "NetworkForms":
        """Apply a function to all numbers."""
        parts = self.multipliers, self.sources, self.sinks
        return NetworkForms(*[function(part) for part in parts])


class NetworkFields(GradientFields):
    """Fields of a lift made of paths through a graph, on jets: linear and ReLU networks.

    One pass forward and one backward give the field of a form, ∂/∂θ_e = c_e f_tail(e) b_head(e).
    """

    analytic = True

    def __init__(self, dag: CompiledDAG, arithmetic: Arithmetic) -> None:
        self.dag, self.arithmetic = dag, arithmetic
        self.degree = 2 * len(dag.members) + 1  # of a field, in the point and the form

    def unit(self, point: FloatArray) -> float:
        return length_of(point)

    def start(self, point: FloatArray, count: int) -> Coordinates:
        return np.atleast_2d(point)[None]  # a constant broadcasts

    def finish(self, values: Coordinates) -> FloatArray:
        constant: FloatArray = values[0]
        return constant

    def push(self, function: Map, point: Coordinates, velocity: Coordinates) -> Push:
        count = max(point.shape[1], velocity.shape[1])
        parts = [
            np.broadcast_to(part, (len(part), count, part.shape[-1])) for part in (point, velocity)
        ]
        return halves(function(np.concatenate(parts)))

    def _difference(self, along: Coordinates, other: Coordinates) -> Coordinates:
        return self.arithmetic.reduce(along - other)

    def majorants(self, forms: Sequence[NetworkForms], point: FloatArray, count: int) -> FloatArray:
        """Evaluate brackets with absolute values and sums in place of differences.

        All coefficients of the fields are positive, so these bound every partial sum.
        """
        sizes = [form.each(np.abs) for form in forms]
        return self.finish(self._nested(sizes, self.start(np.abs(point), count), np.add))

    def field(self, forms: NetworkForms, point: Coordinates) -> Coordinates:
        """Evaluate the fields by backpropagation."""
        dag, arithmetic = self.dag, self.arithmetic
        multipliers = forms.multipliers[None]
        weights = arithmetic.multiply(point, multipliers)
        count = max(weights.shape[1], len(forms.sources))
        shape = (len(weights), count, len(dag.nodes) + 1)
        before, after = np.zeros((2, *shape), weights.dtype)
        before[0, :, : dag.n_inputs] = forms.sources
        before[0, :, -1] = 1
        after[0, :, dag.outputs] = forms.sinks.T
        matrices = [self._matrix(block, weights) for block in dag.blocks]
        nodes = [*dag.members, np.array([len(dag.nodes)])]  # the last is the source of biases
        ends = [
            (nodes[block.head_generation], nodes[block.tail_generation]) for block in dag.blocks
        ]
        for matrix, (heads, tails) in zip(matrices, ends, strict=True):
            sums = arithmetic.inner_sum(matrix, before[..., tails, None], -2)
            before[..., heads] = arithmetic.reduce(before[..., heads] + sums)
        for matrix, (heads, tails) in zip(reversed(matrices), reversed(ends), strict=True):
            if tails[0] < dag.n_inputs:
                continue  # what is after inputs is not asked for
            sums = arithmetic.inner_sum(matrix, after[..., None, heads], -1)
            after[..., tails] = arithmetic.reduce(after[..., tails] + sums)
        product = arithmetic.multiply(before[..., dag.tails], after[..., dag.heads])
        return arithmetic.multiply(product, multipliers)

    @staticmethod
    def _matrix(block: Block, weights: Coordinates) -> Coordinates:
        matrix = np.zeros((*weights.shape[:-1], *block.shape), weights.dtype)
        matrix[..., block.rows, block.columns] = weights[..., block.edges]
        return matrix

    def _normalised(self, forms: NetworkForms, point: FloatArray) -> NetworkForms:
        """Scale the sinks so that the fields are about as long as the unit."""
        lengths = np.linalg.norm(self.values(forms, point, len(forms.sources)), axis=1)
        factor = self.unit(point) / np.where(lengths > 0, lengths, 1.0)
        return NetworkForms(forms.multipliers, forms.sources, forms.sinks * factor[:, None])


class LinearFields(NetworkFields):
    """Fields of a product of matrices; the coordinates are the entries of its layers."""

    architecture: DeepLinear

    def __init__(self, architecture: DeepLinear, arithmetic: Arithmetic) -> None:
        super().__init__(CompiledDAG.layered(architecture.widths, (), False), arithmetic)
        self.architecture = architecture

    def point(self, theta: OneTheta) -> FloatArray:
        return self._flat(self.architecture.layers(theta))

    def _layers(self, point: FloatArray) -> list[FloatArray]:
        shapes = list(pairwise(self.architecture.widths))
        parts = np.split(point, np.cumsum([n * m for n, m in shapes])[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def typical(self, point: FloatArray) -> FloatArray:
        sizes = []
        for squares in (layer**2 for layer in self._layers(point)):
            rows, columns = squares.mean(axis=1), squares.mean(axis=0)
            sizes.append(np.sqrt(np.outer(rows, columns) / (squares.mean() or 1.0)).ravel())
        return np.concatenate(sizes)

    def scales(self, point: FloatArray, lengths: FloatArray) -> list[FloatArray]:
        layers = [np.linalg.svd(layer, compute_uv=False) for layer in self._layers(point)]
        kept = np.concatenate([sizes[sizes > _VANISHED * sizes[0]] for sizes in layers])
        return [lengths, kept**_CAREFULLY]

    def velocities(self, tangents: FloatArray) -> FloatArray:
        return self._flat(self.architecture.layer_velocities(tangents))

    @staticmethod
    def _flat(layers: Sequence[FloatArray]) -> FloatArray:
        moved = [np.moveaxis(np.asarray(layer), -1, -2) for layer in layers]
        return np.concatenate(
            [layer.reshape(*layer.shape[:-2], np.prod(layer.shape[-2:])) for layer in moved],
            axis=-1,
        )

    def random_forms(self, count: int, point: FloatArray, rng: np.random.Generator) -> NetworkForms:
        widths = self.architecture.widths
        sources, sinks = (self.arithmetic.draw((count, n), rng) for n in (widths[0], widths[-1]))
        forms = NetworkForms(np.ones((1, self.dag.dim), int), sources, sinks)
        return forms if self.arithmetic.exact else self._normalised(forms, point)

    def basis_forms(self, numbers: IntArray) -> NetworkForms:
        widths = self.architecture.widths
        sinks, sources = np.divmod(numbers, widths[0])
        ones = np.ones((1, self.dag.dim), int)
        return NetworkForms(ones, np.eye(widths[0])[sources], np.eye(widths[-1])[sinks])


class ReLUFields(NetworkFields):
    r"""Fields of the path products of a ReLU network; no path is listed.

    A form gives every edge a random multiplier: :math:`\sum_p \prod_{e∈p} c_e θ_e`. Such
    products over edges span all forms, and c_e ∝ 1/|θ_e| makes every path count alike, whatever
    the scale and the rescaling of θ.
    """

    def __init__(
        self, network: ReLUNetwork, arithmetic: Arithmetic, outputs: FloatArray | None = None
    ) -> None:
        super().__init__(network.dag, arithmetic)
        self.network, self.outputs = network, outputs

    def scales(self, point: FloatArray, lengths: FloatArray) -> list[FloatArray]:
        """Return nonzero weights, if others are zero: else the forms follow the rescalings."""
        return [] if np.all(point) else [np.abs(point[point != 0])]

    def random_forms(self, count: int, point: OneTheta, rng: np.random.Generator) -> NetworkForms:
        arithmetic = self.arithmetic
        sources = np.ones((count, self.dag.n_inputs), int)
        sinks = np.ones((count, self.dag.outputs.size), int)
        multipliers = arithmetic.draw((count, self.dag.dim), rng)
        if self.outputs is not None:  # edges of one tail into the outputs count alike
            into = np.flatnonzero(np.isin(self.dag.heads, self.dag.outputs))
            tails = np.unique(self.dag.tails[into], return_index=True, return_inverse=True)
            multipliers[:, into] = multipliers[:, into[tails[1]][tails[2]]]
            drawn = arithmetic.draw((count, len(self.outputs)), rng)
            sinks = arithmetic.reduce(drawn @ self.outputs.astype(drawn.dtype))
            point = np.ones_like(point)  # no unit but this one is that of all edges of a tail
        if arithmetic.exact:
            return NetworkForms(multipliers, sources, sinks)
        forms = NetworkForms(multipliers / sizes_of(point), sources, sinks)
        return self._normalised(forms, point)

    def basis_forms(self, numbers: IntArray) -> NetworkForms:
        on_path = self.network.path_incidence[np.asarray(numbers)].toarray()
        sources = np.ones((len(numbers), self.dag.n_inputs))
        return NetworkForms(on_path, sources, np.ones((len(numbers), self.dag.outputs.size)))


class MonomialFields(NetworkFields):
    r"""Fields of the distinct monomials of a network with shared and frozen weights.

    A form is a vector g, :math:`X_g = \sum_m g_m ∇ \prod_j θ_{m,j}`. Constants other than 0 are
    left out: they only rescale g.
    """

    def __init__(self, network: TiedNetwork, arithmetic: Arithmetic) -> None:
        super().__init__(network.dag, arithmetic)
        seen = network.path_incidence[network.lift(np.ones(network.dim)) != 0]
        factors = np.repeat(seen.indices, seen.data.astype(int))
        degrees = seen.sum(axis=1).astype(int)
        self.dim, self.degree = network.dim, int(degrees.max(initial=0)) + 1
        self.table = np.full((degrees.size, self.degree - 1), self.dim)
        self.table[np.arange(self.degree - 1) < degrees[:, None]] = factors

    def random_forms(self, count: int, point: OneTheta, rng: np.random.Generator) -> Coordinates:
        size = len(self.table)
        refuse_beyond(8.0 * count * size * self.degree, f"{count} forms on {size} monomials")
        return self.arithmetic.draw((count, size), rng)

    def field(self, forms: Coordinates, point: Coordinates) -> Coordinates:
        """Evaluate the fields by the rule for products, each factor in turn."""
        arithmetic, columns = self.arithmetic, self.table.T
        one = np.zeros_like(point[..., :1])
        one[0] = 1
        factors = [np.concatenate([point, one], axis=-1)[..., column] for column in columns]
        before, after = [forms[None]], [np.ones_like(forms[None])]
        for factor in factors[:-1]:
            before.append(arithmetic.multiply(before[-1], factor))
        for factor in factors[:0:-1]:
            after.append(arithmetic.multiply(after[-1], factor))
        sums: Coordinates = 0
        for column, left, right in zip(columns, before, reversed(after), strict=True):
            product = arithmetic.multiply(left, right)
            flat = np.zeros((self.dim + 1, product[..., 0].size), product.dtype)
            np.add.at(flat, column, product.reshape(-1, product.shape[-1]).T)
            sums = sums + flat[:-1].T.reshape(*product.shape[:-1], self.dim)
        return arithmetic.reduce(sums)


def refuse_no_loss(loss: Any) -> None:
    """Refuse what does not say which covectors it excites.

    Parameters
    ----------
    loss : object
        Anything; a Loss has a method ``excited(architecture)``.
    """
    if not hasattr(loss, "excited"):
        raise InputError(f"loss must be a Loss, got {got(loss)}")


def as_seen(architecture: Architecture, loss: Any) -> tuple[Architecture, Any]:
    """Return the forward pass that a loss sees and None, where the former stands for both.

    Parameters
    ----------
    loss : Loss or None
        Returned as it is where the architecture is no forward pass.
    """
    forward = architecture.original if isinstance(architecture, WithLaws) else architecture
    if loss is None or not isinstance(forward, SampledForward):
        return architecture, loss
    refuse_no_loss(loss)
    return forward.seen_by(loss), None


def excited_fields(
    architecture: Architecture, loss: Any, arithmetic: Arithmetic = FLOATS
) -> GradientFields:
    """Return the fields ∂φᵀPᵀ that a loss excites, or all of them without one.

    Parameters
    ----------
    loss : Loss or None
        Anything with a method ``excited(architecture)``.
    """
    if loss is None:
        return gradient_fields(architecture, arithmetic)
    refuse_no_loss(loss)
    if type(architecture) is ReLUNetwork and hasattr(loss, "excited_outputs"):
        outputs = loss.excited_outputs()
        if arithmetic.exact and not np.array_equal(outputs, np.round(outputs)):
            raise InputError("exact=True needs a loss whose gradients span integers; use floats")
        full = len(outputs) == outputs.shape[1]
        return ReLUFields(architecture, arithmetic, None if full else outputs)
    basis = loss.excited(architecture)
    if len(basis) == architecture.lifted_dim:
        return gradient_fields(architecture, arithmetic)
    if arithmetic.exact:
        raise InputError("exact=True takes a loss where z lists the paths of a ReLUNetwork only")
    return GradientFields(architecture, basis)


@gradient_fields.register
def _(architecture: DeepLinear, arithmetic: Arithmetic = FLOATS) -> LinearFields:
    return LinearFields(architecture, arithmetic)


@gradient_fields.register
def _(architecture: ReLUNetwork, arithmetic: Arithmetic = FLOATS) -> ReLUFields:
    return ReLUFields(architecture, arithmetic)


@gradient_fields.register
def _(architecture: TiedNetwork, arithmetic: Arithmetic = FLOATS) -> GradientFields:
    if arithmetic.exact:
        return MonomialFields(architecture, arithmetic)
    return gradient_fields.dispatch(Architecture)(architecture, arithmetic)
