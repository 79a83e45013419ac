"""The training loss of a ReLU network on data, by its path products or by backpropagation."""

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import null_space
from scipy.sparse import csr_array

from liftflow.architectures import Architecture, ReLUNetwork, TiedNetwork
from liftflow.errors import DataError, InputError, UndefinedError
from liftflow.linalg import ROUNDING, WHOLE, echelon, over_batch, range_basis
from liftflow.losses.base import Loss, as_samples, as_value
from liftflow.losses.outputs import Kind, OutputLoss
from liftflow.typing import (
    Covector,
    FloatArray,
    Inputs,
    IntArray,
    Lifted,
    OneTheta,
    Scalars,
    Tangent,
    Theta,
    as_array,
    as_own,
    as_vector,
    freeze,
    shown,
)

_SPARE = 8
_CHUNK = 2**22  # numbers held at once when path gradients are summed over samples


class NetworkLoss(Loss, copies=False):
    r"""Training loss of a ReLU network on data, as a function of θ and of its path products.

    ``mse``: :math:`\frac{1}{2n}\sum_i ‖R_θ(x_i) − y_i‖^2`. ``cross-entropy``: mean negative
    log-likelihood of the labels under the softmax of the outputs. Any other loss of the outputs is
    given as a function, which sees R_θ(x_i) and y_i alone. In z the network reads
    :math:`R(x) = \sum_p a_p(x) z_p x_{p_0}` with :math:`a_p(x) = 1` where every hidden ReLU on p
    is active; f is smooth inside an activation region. Without a ``near``, anchor in-edges are
    taken for positive.

    Parameters
    ----------
    targets : array-like
        ``mse``: real, shape=[n_samples, n_outputs], or [n_samples] with one output.
        ``cross-entropy``: integer labels from 0, shape=[n_samples]; classes may be missing, their
        number is that of the outputs. Else what the function takes, one row per sample: integers as
        they are, real numbers of shape [n_samples] as a column where there is one output.
    kind : str, callable, or pair of callables
        ``mse``, ``cross-entropy``, or ``function(outputs, targets)`` written with autograd.numpy,
        which takes outputs of shape [n_samples, n_outputs] to one number per sample, whose mean is
        the loss, or to one number for all, which is the loss. With a pair, the second function is
        the gradient in the outputs, of their shape: of each sample's number, or of the one.
    weights : array-like, shape=[n_samples], optional
        The loss is then :math:`\sum_i w_i ℓ_i / \sum_i w_i`. On a batch it is the mean of
        :math:`w_i ℓ_i` in units of the mean of all weights, whose expectation is the loss.

    Raises
    ------
    InputError, ShapeError, NotFiniteError
        Unknown kind, arrays that do not fit the network, a function that returns something else, or
        a gradient that differs from difference quotients of its function.
    DataError
        Labels that are not integers from 0 to n_outputs − 1, or no samples.

    Notes
    -----
    Inputs and targets are copied.

    References
    ----------
    [MPG]_, and the path activations of [Gonon2024]_.
    """

    def __init__(
        self,
        network: ReLUNetwork,
        inputs: Inputs,
        targets: Inputs,
        kind: Kind = "mse",
        weights: Scalars | None = None,
    ) -> None:
        if not isinstance(network, ReLUNetwork):
            raise InputError(
                f"network must be a ReLUNetwork, got {type(network).__name__}; another "
                "architecture takes loss_from_function(f), or loss_from_parameters(ell, "
                "architecture)"
            )
        self.network, self.kind = network, kind
        self.inputs = as_own(inputs, "inputs", (None, len(network.inputs)))
        if len(self.inputs) == 0:
            raise DataError("inputs must hold at least one sample, got none")
        self.n_samples = len(self.inputs)
        self._outputs = OutputLoss(kind, targets, (self.n_samples, len(network.outputs)))
        self.targets = self._outputs.targets
        self.weights = None if weights is None else freeze(self._relative(weights))

    def _facts(self) -> str:
        kind = self.kind if isinstance(self.kind, str) else "a loss of one's own"
        return f"{kind}, {len(self.inputs):,} samples of {self.inputs.shape[1]:,} features"

    def _relative(self, weights: Scalars) -> FloatArray:
        """Weights whose mean is 1, shape=[n_samples, 1]."""
        own = as_array(weights, "weights", (self.n_samples,), batch=False, differentiable=False)
        if self._outputs.is_mean:
            raise InputError(
                "weights need a loss of outputs that returns one number for each sample, got one "
                "that returns one for all"
            )
        if np.any(own < 0) or not np.any(own > 0):
            raise DataError(f"weights must be at least 0, and not all 0, got {shown(weights)}")
        return (own / np.mean(own))[:, None]

    def batch(self, indices: IntArray | Sequence[int]) -> "NetworkLoss":
        """Return the mean over some of the samples, each with the weight that it has among all."""
        rows, part = as_samples(indices, self), copy.copy(self)
        part.inputs, part.targets, part.n_samples = self.inputs[rows], self.targets[rows], len(rows)
        if self.weights is not None:
            part.weights = self.weights[rows]
        return part

    # On the outputs.

    def _value(self, outputs: FloatArray) -> float:
        values = self._outputs.value(outputs, self.targets)
        if self._outputs.is_mean:
            return as_value(values, self)
        if self.weights is not None:
            values = values * self.weights[:, 0]
        return float(np.sum(values) / len(outputs))

    def _cotangent(self, outputs: FloatArray) -> FloatArray:
        gradient = self._outputs.gradient(outputs, self.targets)
        if self._outputs.is_mean:
            return np.asarray(gradient)
        if self.weights is not None:
            gradient = gradient * self.weights
        return gradient / len(outputs)

    # What it moves.

    def excited_outputs(self) -> FloatArray:
        """Return a basis of the covectors on the outputs that this kind of loss has, as rows.

        Gradients at random outputs span it. Cross-entropy does not see a constant added to all
        outputs: its rows add up to 0.

        Returns
        -------
        basis : array, shape=[n_directions, n_outputs]
            In echelon form.
        """
        n_out, rng = len(self.network.outputs), np.random.default_rng(0)
        draws = [
            self._outputs.gradient(rng.standard_normal((len(self.inputs), n_out)), self.targets)
            for _ in range(1 + (n_out + _SPARE) // len(self.inputs))
        ]
        return echelon(np.concatenate(draws))

    def excited(self, architecture: Architecture) -> FloatArray:
        """Return the directions in z of this kind of loss, whatever the data.

        Those of paths that are one but for their last edge are those of the outputs.

        Raises
        ------
        UndefinedError
            Weights of edges into outputs are shared or frozen.
        """
        self._check(architecture)
        network, outputs = self.network, self.excited_outputs()
        if len(outputs) == outputs.shape[1]:
            return np.eye(network.n_paths)
        last = {int(e): (tail, o) for tail, ends in self._last.items() for o, e in ends.items()}
        groups: dict[tuple[Any, ...], dict[int, int]] = {}
        incidence = network.path_incidence
        for path in range(network.n_paths):
            row = slice(incidence.indptr[path], incidence.indptr[path + 1])
            factors = list(zip(incidence.indices[row].tolist(), incidence.data[row], strict=True))
            ends = [edge for edge, _ in factors if edge in last]
            if len(ends) != 1:
                raise UndefinedError(
                    "the laws of one loss are known where the weights into the outputs are "
                    "trained and not shared; count those for all losses instead"
                )
            tail, output = last[ends[0]]
            rest = tuple(sorted(part for part in factors if part[0] != ends[0]))
            groups.setdefault((tail, *rest), {})[output] = path
        rows = []
        for members in groups.values():
            part = range_basis(outputs[:, list(members)].T).T
            block = np.zeros((len(part), network.n_paths))
            block[:, list(members.values())] = part
            rows.append(block)
        return np.concatenate(rows)

    @cached_property
    def _last(self) -> dict[int, dict[int, int]]:
        """Parameters of the edges into the outputs that are theirs alone, by tail and output."""
        dag, tying = self.network.dag, self.network.tying
        own = np.bincount(tying.parameters[tying.trained], minlength=self.network.dim) == 1
        column = {int(node): number for number, node in enumerate(dag.outputs)}
        found: dict[int, dict[int, int]] = {}
        for tail, head, parameter in zip(dag.tails, dag.heads, tying.parameters, strict=True):
            if int(head) in column and parameter >= 0 and own[parameter]:
                found.setdefault(int(tail), {})[column[int(head)]] = int(parameter)
        return found

    def linear_laws(self, architecture: Architecture) -> csr_array:
        r"""Return the laws :math:`\sum_o n_o θ_{v→o}` of the tails v of edges into the outputs.

        n runs through what this kind of loss does not see of the outputs: (1, …, 1) for
        cross-entropy.

        References
        ----------
        [Marcotte2025]_, Proposition 3.11.
        """
        self._check(architecture)
        unseen = null_space(self.excited_outputs()).T
        unseen = unseen / np.max(np.abs(unseen), axis=1, keepdims=True, initial=0.0)
        entries: list[tuple[float, int, int]] = []
        count = 0
        for ends in self._last.values():
            for row in unseen:
                seen = np.flatnonzero(np.abs(row) > WHOLE)
                if set(seen.tolist()) <= ends.keys():
                    entries += [(row[o], count, ends[o]) for o in seen.tolist()]
                    count += 1
        values, rows, columns = zip(*entries, strict=True) if entries else ((), (), ())
        shape = count, self.network.dim
        return csr_array((np.array(values), (np.array(rows, int), np.array(columns, int))), shape)

    # In θ.

    def _check(self, architecture: Architecture | None) -> None:
        if architecture is not None and architecture is not self.network:
            raise InputError(
                "this NetworkLoss belongs to another network; build one with "
                "NetworkLoss(architecture, inputs, targets)"
            )

    def parameter_value(self, theta: Theta, architecture: Architecture | None = None) -> Scalars:
        """Evaluate ℓ(θ) by a forward pass."""
        self._check(architecture)
        theta = as_array(theta, "theta", (self.network.dim,), differentiable=False)
        forward = self.network.forward_vjp
        return over_batch(
            lambda t: np.asarray(self._value(forward(t, self.inputs)[0])), [theta], [1], shape=()
        )

    def parameter_gradient(self, theta: Theta, architecture: Architecture | None = None) -> Tangent:
        """Evaluate ∇ℓ(θ) by one backpropagation, in float64."""
        self._check(architecture)
        theta = as_array(theta, "theta", (self.network.dim,), differentiable=False)

        def gradient(point: FloatArray) -> FloatArray:
            outputs, pull_back = self.network.forward_vjp(point, self.inputs)
            return pull_back(self._cotangent(outputs))

        return over_batch(gradient, [theta], [1])

    # In z.

    def value(self, z: Lifted, near: OneTheta | None = None) -> Scalars:
        """Evaluate f(z) as a sum over paths."""

        def value(point: FloatArray) -> FloatArray:
            if isinstance(self.network, TiedNetwork):
                theta = self.network.image_representative(point, near=near)
                return self.parameter_value(theta)
            return np.asarray(self._value(self._path_outputs(point, self._path_nodes(point, near))))

        return over_batch(value, [self._z(z)], [1], shape=())

    def gradient(self, z: Lifted, near: OneTheta | None = None) -> Covector:
        r"""Evaluate ∇f(z), :math:`∂_p f = \sum_i x_{i,p_0} a_p(x_i) δ_{i,o(p)}`.

        Where weights are shared or frozen, the shortest g with :math:`∂φ^⊤ g = ∇ℓ`.
        """

        def gradient(point: FloatArray) -> FloatArray:
            if isinstance(self.network, TiedNetwork):
                theta = self.network.image_representative(point, near=near)
                return self.network.solve_vjp(theta, self.parameter_gradient(theta))
            nodes = self._path_nodes(point, near)
            delta = self._cotangent(self._path_outputs(point, nodes))
            column = self.network.path_outputs
            parts = [
                np.einsum("sp,sp->p", signal, delta[:, column[part]])
                for part, signal in self._signals(nodes)
            ]
            return np.concatenate(parts)

        return over_batch(gradient, [self._z(z)], [1])

    def _z(self, z: Lifted) -> FloatArray:
        return as_array(z, "z", self.network.lifted_shape, differentiable=False)

    def _path_nodes(self, z: FloatArray, near: OneTheta | None) -> FloatArray:
        """Factor of every node on every sample along a path: inputs and 0/1 activations."""
        network = self.network
        if near is not None:
            near = as_array(near, "near", (network.dim,), batch=False, differentiable=False)
        # A flow hands on the very parameter that it recovered from z.
        theta = near
        if near is None or not np.all(np.abs(network.phi(near) - z) <= ROUNDING * np.abs(z)):
            theta = network.image_representative(z)
            if near is not None:
                laws = network.conservation_laws(near)
                theta = network.recover(network.lift(theta), laws, near=near)
        values = self.network.activations(theta, self.inputs)
        hidden = self.network.dag.hidden_nodes
        values[:, hidden] = values[:, hidden] > 0
        return values

    def _signals(self, nodes: FloatArray) -> Iterator[tuple[slice, FloatArray]]:
        """x_{p₀} a_p(x) in chunks of paths: a slice, and an array of shape [n_samples, size]."""
        tails = self.network.path_tails
        size = max(1, _CHUNK // len(nodes))
        padded = np.concatenate([nodes, np.ones((len(nodes), 1))], axis=1)
        for start in range(0, len(tails), size):
            part = slice(start, start + size)
            signal = padded[:, tails[part, 0]]
            for column in tails[part].T[1:]:
                signal = signal * padded[:, column]
            yield part, signal

    def _path_outputs(self, z: FloatArray, nodes: FloatArray) -> FloatArray:
        outputs = np.zeros((len(nodes), len(self.network.outputs)))
        column = self.network.path_outputs
        for part, signal in self._signals(nodes):
            for number in range(outputs.shape[1]):
                own = column[part] == number
                outputs[:, number] += signal[:, own] @ z[part][own]
        return outputs

    def scores(self, theta: OneTheta, architecture: Architecture) -> dict[str, float]:
        """Training accuracy of a classifier, or R² of a regression.

        Returns
        -------
        scores : dict of str to float
            ``accuracy`` where the targets are one-hot, else ``r2``.
        """
        self._check(architecture)
        theta = as_vector(theta, "theta", self.network.dim)
        outputs = self.network.forward_vjp(theta, self.inputs)[0]
        if self.targets.shape != outputs.shape:  # of a loss of one's own
            return {}
        one_hot = self.targets.shape[1] > 1 and np.all(np.isin(self.targets, (0.0, 1.0)))
        if one_hot and np.all(self.targets.sum(axis=1) == 1):
            hit = outputs.argmax(axis=1) == self.targets.argmax(axis=1)
            return {"accuracy": float(hit.mean())}
        residual = np.sum((outputs - self.targets) ** 2)
        total = np.sum((self.targets - self.targets.mean(axis=0)) ** 2)
        return {"r2": float(1 - residual / total)} if total > 0 else {}
