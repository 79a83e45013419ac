"""The function of a network on a graph and its backpropagation, in numpy."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from autograd.extend import defvjp, primitive

from liftflow.architectures.dag import Block, CompiledDAG
from liftflow.architectures.sweep import Sweep
from liftflow.architectures.tying import Tying, Units
from liftflow.errors import ShapeError
from liftflow.linalg import Spare, over_batch
from liftflow.typing import FloatArray, Inputs, OneTheta, Theta, as_array, as_vector

_SPARES, _SPARE_SIZES = 8, range(1 << 12, 1 << 22)  # arrays kept for products, numbers in each


class DAGFunction:
    """The function of a network on a compiled graph."""

    def __init__(self, dag: CompiledDAG) -> None:
        self.dag, self.dim = dag, dag.dim
        self._spare = Spare(_SPARES)

    def __call__(self, theta: Theta, inputs: Inputs) -> Any:
        """Evaluate the network, differentiable once, shape=[..., n_samples, n_outputs]."""
        return _evaluate(theta, inputs, self)

    def vjp(
        self, theta: OneTheta, inputs: Inputs
    ) -> tuple[FloatArray, Callable[[FloatArray], FloatArray]]:
        """Evaluate the network at one θ and return its backpropagation, both unchecked.

        Returns
        -------
        outputs : array, shape=[n_samples, n_outputs]
            At all samples.
        pull_back : callable
            Takes a cotangent of shape [n_samples, n_outputs] to the gradient, shape=[dim].
            A ReLU at 0 has derivative 0.
        """
        dag = self.dag
        theta, inputs = self._data(theta, inputs)
        matrices = [block.matrix(theta) for block in dag.blocks]
        activations = self._activations(matrices, inputs)

        def pull_back(cotangent: FloatArray) -> FloatArray:
            gradient = np.empty(dag.dim)
            deltas = self._output_deltas(cotangent, activations)
            blocks = list(zip(dag.blocks, matrices, strict=True))
            head_done = len(activations)
            for block, matrix in reversed(blocks):
                head, tail = block.head_generation, block.tail_generation
                delta = deltas[head]
                if head < head_done:  # all that flows back into this generation has arrived
                    slopes = self._slopes(head, activations[head])
                    if slopes is not None:
                        delta *= slopes
                    head_done = head
                block.outer_sum(self._tail_values(block, activations), delta, gradient)
                if tail > 0:
                    moved = self._product(delta, matrix.T)
                    if deltas[tail] is None:
                        deltas[tail] = moved
                    else:
                        deltas[tail] += moved
            return gradient

        return self._outputs_of(activations), pull_back

    def _data(self, theta: Any, inputs: Any) -> tuple[FloatArray, FloatArray]:
        if type(inputs) is not np.ndarray or inputs.dtype != np.float64 or inputs.ndim != 2:
            inputs = as_array(inputs, "inputs", differentiable=False)
        if inputs.ndim != 2 or inputs.shape[1] != self.dag.n_inputs:
            raise ShapeError(f"inputs must have shape (n, {self.dag.n_inputs}), got {inputs.shape}")
        return as_vector(theta, "theta", self.dim), inputs

    @cached_property
    def sweep(self) -> Sweep:
        """The steps of the function, node by node."""
        units = Units.rectifiers(self.dag.hidden_number[:-1] >= 0)
        return Sweep(self.dag, Tying.of_own(self.dim), units)

    @cached_property
    def _output_level(self) -> int | None:
        """The generation that is exactly the outputs in their order, if there is one."""
        level = int(self.dag.generation[self.dag.outputs[0]])
        return level if np.array_equal(self.dag.members[level], self.dag.outputs) else None

    def _outputs_of(self, activations: list[FloatArray]) -> FloatArray:
        if self._output_level is not None:
            return activations[self._output_level]
        levels = self.dag.generation[self.dag.outputs]
        columns = self.dag.position[self.dag.outputs]
        ends = zip(levels, columns, strict=True)
        return np.stack([activations[level][:, column] for level, column in ends], axis=1)

    def _output_deltas(self, cotangent: FloatArray, activations: list[FloatArray]) -> list[Any]:
        """Cotangents by generation: those of the outputs, None where nothing has arrived yet."""
        deltas: list[Any] = [None] * len(activations)
        if self._output_level is not None:
            deltas[self._output_level] = cotangent
            return deltas
        for number, node in enumerate(self.dag.outputs):
            level = self.dag.generation[node]
            if deltas[level] is None:
                deltas[level] = np.zeros_like(activations[level])
            deltas[level][:, self.dag.position[node]] = cotangent[:, number]
        return deltas

    def _activations(self, matrices: list[Any], inputs: FloatArray) -> list[FloatArray]:
        """Values of the nodes of each generation, shape=[n_samples, n_nodes] each."""
        values: list[Any] = [inputs] + [None] * (len(self.dag.members) - 1)
        blocks = self.dag.blocks
        for number, (block, matrix) in enumerate(zip(blocks, matrices, strict=True)):
            head = block.head_generation
            product = self._product(self._tail_values(block, values), matrix)
            if values[head] is None:
                values[head] = product
            else:
                values[head] += product
            if number + 1 == len(blocks) or blocks[number + 1].head_generation > head:
                self._relu(head, values[head])
        return values

    def _product(self, values: FloatArray, matrix: Any) -> FloatArray:
        """Multiply into memory of its own, that of an earlier product which nobody holds."""
        size = len(values) * matrix.shape[1]
        if not isinstance(matrix, np.ndarray) or size not in _SPARE_SIZES:
            return np.asarray(values @ matrix)
        room = self._spare.empty(size).reshape(len(values), matrix.shape[1])
        return np.matmul(values, matrix, out=room)

    @staticmethod
    def _tail_values(block: Block, values: list[FloatArray]) -> FloatArray:
        if block.tail_generation < 0:
            return np.ones((len(values[0]), 1))
        return values[block.tail_generation]

    @cached_property
    def _rectified(self) -> list[Any]:
        """Per generation: True or False where all nodes or none are hidden, else a mask."""
        masks = [self.dag.hidden_number[nodes] >= 0 for nodes in self.dag.members]
        return [bool(mask[0]) if np.all(mask == mask[0]) else mask for mask in masks]

    def _relu(self, level: int, values: FloatArray) -> None:
        mask = self._rectified[level]
        if mask is True:
            np.maximum(values, 0.0, out=values)
        elif mask is not False:
            np.maximum(values, 0.0, out=values, where=mask)

    def _slopes(self, level: int, values: FloatArray) -> Any:
        """Differentiate the activation at each node, given its value; None where all are linear."""
        mask = self._rectified[level]
        if mask is False:
            return None
        return values > 0 if mask is True else (values > 0) | ~mask

    def values(self, theta: OneTheta, inputs: Inputs) -> FloatArray:
        """Value of every node on every sample, unchecked.

        Returns
        -------
        values : array, shape=[n_samples, n_nodes + 1]
            Columns by node number; the last is the constant source ⟨1⟩.
        """
        theta, inputs = self._data(theta, inputs)
        matrices = [block.matrix(theta) for block in self.dag.blocks]
        values = np.ones((len(inputs), len(self.dag.nodes) + 1))
        for nodes, own in zip(self.dag.members, self._activations(matrices, inputs), strict=True):
            values[:, nodes] = own
        return values


class TiedFunction(DAGFunction):
    """The function of a network with shared and frozen weights, on nodes of several kinds."""

    def __init__(self, dag: CompiledDAG, tying: Tying, units: Units) -> None:
        super().__init__(dag)
        self.dim = tying.dim
        self._parts = tying, units

    @cached_property
    def sweep(self) -> Sweep:
        return Sweep(self.dag, *self._parts)

    def vjp(
        self, theta: OneTheta, inputs: Inputs
    ) -> tuple[FloatArray, Callable[[FloatArray], FloatArray]]:
        evaluated = self.sweep.run(*self._data(theta, inputs))
        return evaluated.outputs, lambda cotangent: evaluated.pull(cotangent)[0]

    def values(self, theta: OneTheta, inputs: Inputs) -> FloatArray:
        return self.sweep.run(*self._data(theta, inputs)).values


def _value(theta: FloatArray, inputs: FloatArray, function: DAGFunction) -> FloatArray:
    shape = len(inputs), function.dag.outputs.size
    return over_batch(lambda t: function.vjp(t, inputs)[0], [theta], [1], shape)


def _pull(cotangent: Any, to: str, theta: Any, inputs: Any, function: DAGFunction) -> FloatArray:
    """Pull a cotangent back to θ, or to the inputs, at each θ of a batch."""
    data = as_array(inputs, "inputs", differentiable=False)
    form = as_array(cotangent, "the derivative of forward", differentiable=False)
    point = as_array(theta, "theta", (function.dim,), differentiable=False)

    def to_theta(point: FloatArray, form: FloatArray) -> FloatArray:
        return function.vjp(point, data)[1](form)

    def to_inputs(point: FloatArray, form: FloatArray) -> FloatArray:
        return function.sweep.run(point, data).pull(form, to_inputs=True)[1]

    if to == "theta":
        return over_batch(to_theta, [point, form], [1, 2])
    pulled = over_batch(to_inputs, [point, form], [1, 2], shape=data.shape)
    return np.asarray(pulled.sum(axis=tuple(range(pulled.ndim - data.ndim))))


_evaluate = primitive(_value)
defvjp(
    _evaluate,
    lambda ans, *given: lambda g: _pull(g, "theta", *given),
    lambda ans, *given: lambda g: _pull(g, "inputs", *given),
    argnums=(0, 1),
)
