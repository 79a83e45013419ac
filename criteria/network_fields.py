"""Gradient fields of linear and ReLU networks, by one pass forward and one backward each."""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from liftflow.architectures import Architecture, DeepLinear, ReLUNetwork, TiedNetwork
from liftflow.architectures.dag import Block, CompiledDAG
from liftflow.criteria.fields import Coordinates, GradientFields, Map, Push, gradient_fields
from liftflow.errors import InputError
from liftflow.linalg import FLOATS, Arithmetic, halves, sizes_of
from liftflow.typing import FloatArray, Forms, IntArray, OneTheta, got, refuse_beyond

_VANISHED = 1e-15  # relative size of a singular value that is rounding
_CAREFULLY = 1.5  # power of singular values, as brackets have products of them


class JetFields(GradientFields):
    """Fields of a lift that is a polynomial with positive coefficients, on jets."""

    analytic = True
    architecture: Any

    def __init__(self, architecture: Architecture, arithmetic: Arithmetic) -> None:
        self.architecture, self.arithmetic = architecture, arithmetic

    def unit(self, point: FloatArray) -> float:
        return float(np.linalg.norm(point)) or 1.0

    def scales(self, point: FloatArray, lengths: FloatArray) -> list[FloatArray]:
        """Return nonzero weights, if others are zero: else the forms follow the rescalings."""
        return [] if np.all(point) else [np.abs(point[point != 0])]

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

    def majorants(self, forms: Sequence[Forms], point: FloatArray, count: int) -> FloatArray:
        """Evaluate brackets with absolute values and sums in place of differences.

        All coefficients of the fields are positive, so these bound every partial sum.
        """
        sizes = [np.abs(form) for form in forms]
        return self.finish(self._nested(sizes, self.start(np.abs(point), count), np.add))

    def random_forms(self, count: int, point: FloatArray, rng: np.random.Generator) -> Forms:
        draw = self.draw if self.arithmetic.exact else super().random_forms
        return draw(count, point, rng)


class NetworkFields(JetFields):
    r"""Fields of a lift made of paths through a graph, on jets: linear and ReLU networks.

    A form is Σ_p (source of p's start) (sink of p's end) ∏_{e∈p} (multiplier of e) on the paths: a
    row of sources of all inputs, sinks of all outputs, and multipliers of all edges, or none if
    they are 1. One pass forward and one backward give its field, ∂/∂θ_e = c_e f_tail(e) b_head(e).
    """

    listed = False

    def __init__(
        self, architecture: Architecture, dag: CompiledDAG, arithmetic: Arithmetic
    ) -> None:
        super().__init__(architecture, arithmetic)
        self.dag = dag
        self.degree = 2 * len(dag.members) + 1  # of a field, in the point and the form

    @cached_property
    def _steps(self) -> list[tuple[Block, slice, slice]]:
        """Blocks, with the places of their heads and tails; ⟨1⟩ is the last node."""
        dag = self.dag
        ends = [(int(nodes[0]), int(nodes[-1]) + 1) for nodes in dag.members]
        nodes = [slice(*each) for each in [*ends, (len(dag.nodes), len(dag.nodes) + 1)]]
        return [(b, nodes[b.head_generation], nodes[b.tail_generation]) for b in dag.blocks]

    def field(self, forms: Forms, point: Coordinates) -> Coordinates:
        """Evaluate the fields by backpropagation."""
        dag, arithmetic, inner = self.dag, self.arithmetic, self.dag.n_inputs
        sources, sinks, multipliers = np.split(forms, [inner, inner + dag.outputs.size], axis=1)
        weighted = multipliers.size > 0
        weights = arithmetic.multiply(point, multipliers[None]) if weighted else point
        shape = (len(weights), max(weights.shape[1], len(forms)), len(dag.nodes) + 1)
        before, after = np.zeros((2, *shape), weights.dtype)
        before[0, :, :inner] = sources
        before[0, :, -1] = 1
        after[0, :, dag.outputs] = sinks.T
        for block, heads, tails in self._steps:
            sums = self._passed(block, weights, before[..., tails], back=False)
            before[..., heads] = arithmetic.reduce(before[..., heads] + sums)
        for block, heads, tails in reversed(self._steps):
            if tails.start >= inner:  # what is after inputs is not asked for
                sums = self._passed(block, weights, after[..., heads], back=True)
                after[..., tails] = arithmetic.reduce(after[..., tails] + sums)
        product = arithmetic.multiply(before[..., dag.tails], after[..., dag.heads])
        return arithmetic.multiply(product, multipliers[None]) if weighted else product

    def _passed(
        self, block: Block, weights: Coordinates, values: Coordinates, back: bool
    ) -> Coordinates:
        """Sum what the edges of a block bring to its heads, or back to its tails."""
        arithmetic, lead = self.arithmetic, weights.shape[:-1]
        if block.dense:
            first, last = block.edges[[0, -1]]
            if block.contiguous:
                matrix = weights[..., first : last + 1].reshape(*lead, *block.shape)
            else:
                matrix = np.zeros((*lead, *block.shape), weights.dtype)
                matrix[..., block.rows, block.columns] = weights[..., block.edges]
            return arithmetic.apply(matrix if back else np.swapaxes(matrix, -1, -2), values)
        sources, targets = (block.rows, block.columns)[:: -1 if back else 1]
        terms = arithmetic.multiply(weights[..., block.edges], values[..., sources])
        sums = np.zeros((*terms.shape[:-1], block.shape[0 if back else 1]), terms.dtype)
        np.add.at(sums.T, targets, terms.T)
        return sums

    def _scaled(self, forms: Forms, factors: FloatArray) -> Forms:
        first = self.dag.n_inputs
        forms[:, first : first + self.dag.outputs.size] *= factors[:, None]
        return forms


class LinearFields(NetworkFields):
    """Fields of a product of matrices; the coordinates are the entries of its layers."""

    def __init__(self, architecture: DeepLinear, arithmetic: Arithmetic) -> None:
        dag = CompiledDAG.layered(architecture.widths, (), False)
        super().__init__(architecture, dag, arithmetic)

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

    def draw(self, count: int, point: FloatArray, rng: np.random.Generator) -> Forms:
        return self.arithmetic.draw((count, self.dag.n_inputs + self.dag.outputs.size), rng)

    def basis_forms(self, numbers: IntArray) -> Forms:
        n_inputs, n_outputs = self.dag.n_inputs, self.dag.outputs.size
        sinks, sources = np.divmod(numbers, n_inputs)
        return np.hstack([np.eye(n_inputs)[sources], np.eye(n_outputs)[sinks]])


class ReLUFields(NetworkFields):
    r"""Fields of the path products of a ReLU network; no path is listed.

    A form gives every edge a random multiplier: :math:`\sum_p \prod_{e∈p} c_e θ_e`. Such
    products over edges span all forms, and c_e ∝ 1/|θ_e| makes every path count alike, whatever
    the scale and the rescaling of θ.
    """

    def __init__(
        self, network: ReLUNetwork, arithmetic: Arithmetic, outputs: FloatArray | None = None
    ) -> None:
        super().__init__(network, network.dag, arithmetic)
        self.basis = outputs

    def _form(self, multipliers: Coordinates) -> Forms:
        ends = self.dag.n_inputs + self.dag.outputs.size
        return np.hstack([np.ones((len(multipliers), ends), multipliers.dtype), multipliers])

    def draw(self, count: int, point: OneTheta, rng: np.random.Generator) -> Forms:
        arithmetic, n_inputs = self.arithmetic, self.dag.n_inputs
        multipliers = arithmetic.draw((count, self.dag.dim), rng)
        if self.basis is None:
            return self._form(multipliers if arithmetic.exact else multipliers / sizes_of(point))
        # Edges of one tail into the outputs count alike: no unit but 1 is that of all of them.
        into = np.flatnonzero(np.isin(self.dag.heads, self.dag.outputs))
        tails = np.unique(self.dag.tails[into], return_index=True, return_inverse=True)
        multipliers[:, into] = multipliers[:, into[tails[1]][tails[2]]]
        forms, drawn = self._form(multipliers), arithmetic.draw((count, len(self.basis)), rng)
        sinks = arithmetic.reduce(drawn @ self.basis.astype(drawn.dtype))
        forms[:, n_inputs : n_inputs + self.dag.outputs.size] = sinks
        return forms

    def basis_forms(self, numbers: IntArray) -> Forms:
        return self._form(
            self.architecture.path_incidence[np.asarray(numbers)].toarray().astype(float)
        )


class MonomialFields(JetFields):
    r"""Fields of the distinct monomials of a network with shared and frozen weights.

    A form is a vector g, :math:`X_g = \sum_m g_m ∇ \prod_j θ_{m,j}`. Constants of monomials are
    left out: they only rescale g.
    """

    @cached_property
    def columns(self) -> IntArray:
        """Parameters of the first factors of all monomials, of the second ones, …; D for none."""
        return np.asarray(self.architecture.phi.table.T[1:])

    @property
    def degree(self) -> int:
        """Of a field, in the point and the form."""
        return len(self.columns) + 1

    def draw(self, count: int, point: OneTheta, rng: np.random.Generator) -> Forms:
        degree, size = self.columns.shape
        refuse_beyond(8.0 * count * size * (degree + 1), f"{count} forms on {size} monomials")
        forms = self.arithmetic.draw((count, size), rng)
        if self.arithmetic.exact:
            return forms
        return forms / np.prod(np.append(sizes_of(point), 1.0)[self.columns], axis=0)

    def basis_forms(self, numbers: IntArray) -> Forms:
        return super().basis_forms(numbers) * self.architecture.phi.monomials.constants

    def field(self, forms: Forms, point: Coordinates) -> Coordinates:
        """Evaluate the fields by the rule for products, each factor in turn."""
        used = np.flatnonzero((forms != 0).any(axis=0))
        forms, columns = forms[:, used], self.columns[:, used]
        arithmetic, dim = self.arithmetic, point.shape[-1]
        one = np.zeros_like(point[..., :1])
        one[0] = 1  # a constant, as fields of degree 1 are
        factors = [np.concatenate([point, one], axis=-1)[..., column] for column in columns]
        before, after = [forms[None]], [np.ones_like(forms[None])]
        for factor in factors[:-1]:
            before.append(arithmetic.multiply(before[-1], factor))
        for factor in factors[:0:-1]:
            after.append(arithmetic.multiply(after[-1], factor))
        sums: Coordinates = 0
        for column, left, right in zip(columns, before, reversed(after), strict=True):
            product = arithmetic.multiply(left, right)
            flat = np.zeros((dim + 1, product[..., 0].size), product.dtype)
            np.add.at(flat, column, product.reshape(-1, product.shape[-1]).T)
            sums = sums + flat[:-1].T.reshape(*product.shape[:-1], dim)
        return arithmetic.reduce(sums) if len(sums) > 1 else arithmetic.multiply(sums, one)


def excited(architecture: Architecture, loss: object) -> FloatArray | None:
    """Return a basis of the covectors that a loss excites, if it is not all or none is given."""
    if loss is None:
        return None
    if not hasattr(loss, "excited"):
        raise InputError(f"loss must be a Loss, got {got(loss)}")
    basis = np.asarray(loss.excited(architecture))
    return None if len(basis) == architecture.lifted_dim else basis


def excited_fields(
    architecture: Architecture, loss: object, arithmetic: Arithmetic = FLOATS
) -> GradientFields:
    """Return the fields ∂φᵀPᵀ that a loss excites, or all of them without one."""
    if type(architecture) is ReLUNetwork and hasattr(loss, "excited_outputs"):
        outputs = loss.excited_outputs()
        if arithmetic.exact and not np.array_equal(outputs, np.round(outputs)):
            raise InputError("exact=True needs a loss whose gradients span integers; use floats")
        full = len(outputs) == outputs.shape[1]
        return ReLUFields(architecture, arithmetic, None if full else outputs)
    basis = excited(architecture, loss)
    if basis is None:
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
def _(architecture: TiedNetwork, arithmetic: Arithmetic = FLOATS) -> MonomialFields:
    return MonomialFields(architecture, arithmetic)
