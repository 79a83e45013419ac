"""The training loss of a ReLU network on data, by its path products or by backpropagation."""

from collections.abc import Iterator

import numpy as np
from scipy.special import log_softmax, softmax

from liftflow.architectures import Architecture, ReLUNetwork, TiedNetwork
from liftflow.errors import DataError, InputError, ShapeError
from liftflow.linalg import ROUNDING, over_batch
from liftflow.losses.base import Loss
from liftflow.typing import (
    Covector,
    FloatArray,
    Inputs,
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

_KINDS = ("mse", "cross-entropy")
_CHUNK = 2**22  # numbers held at once when path gradients are summed over samples


class NetworkLoss(Loss):
    r"""Training loss of a ReLU network on data, as a function of θ and of its path products.

    ``mse``: :math:`\frac{1}{2n}\sum_i ‖R_θ(x_i) − y_i‖^2`. ``cross-entropy``: mean negative
    log-likelihood of the labels under the softmax of the outputs. In z the network reads
    :math:`R(x) = \sum_p a_p(x) z_p x_{p_0}` with :math:`a_p(x) = 1` where every hidden ReLU on p
    is active; f is smooth inside an activation region.

    Parameters
    ----------
    targets : array-like
        ``mse``: real, shape=[n_samples, n_outputs], or [n_samples] with one output.
        ``cross-entropy``: integer labels from 0, shape=[n_samples].

    Raises
    ------
    InputError, ShapeError, NotFiniteError
        Unknown kind, or arrays that do not fit the network.
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
        self, network: ReLUNetwork, inputs: Inputs, targets: Inputs, kind: str = "mse"
    ) -> None:
        if not isinstance(kind, str) or kind not in _KINDS:
            raise InputError(f"kind must be one of {', '.join(_KINDS)}, got {shown(kind)}")
        if not isinstance(network, ReLUNetwork):
            raise InputError(
                f"network must be a ReLUNetwork, got {type(network).__name__}; another "
                "architecture takes loss_from_function(f)"
            )
        self.network, self.kind = network, kind
        n_out = len(network.outputs)
        self.inputs = as_own(inputs, "inputs", (None, len(network.inputs)))
        if len(self.inputs) == 0:
            raise DataError("inputs must hold at least one sample, got none")
        if kind == "mse":
            values = as_array(targets, "targets", differentiable=False)
            if values.ndim == 1 and n_out == 1:
                values = values[:, None]
            self.targets = as_own(values, "targets", (None, n_out))
        else:
            self.targets = freeze(self._labels(targets, n_out))
        if len(self.targets) != len(self.inputs):
            raise ShapeError(
                f"inputs and targets must have one row per sample, got {len(self.inputs)} and "
                f"{len(self.targets)}"
            )

    def _facts(self) -> str:
        return f"{self.kind}, {len(self.inputs):,} samples of {self.inputs.shape[1]:,} features"

    @staticmethod
    def _labels(targets: Scalars, n_out: int) -> FloatArray:
        """One-hot rows, shape=[n_samples, n_outputs]."""
        if n_out < 2:
            raise DataError("cross-entropy needs a network of at least two outputs, got one")
        labels = as_array(targets, "labels", (None,), batch=False, differentiable=False)
        wrong = labels[(labels < 0) | (labels % 1 != 0)]
        if wrong.size:
            raise DataError(
                f"labels must be integers from 0, got {wrong[0]:g}; sklearn's LabelEncoder makes "
                "them from any others"
            )
        if labels.max(initial=0) >= n_out:
            raise DataError(
                f"label {labels.max():g} is out of range for a network of {n_out} outputs, which "
                f"takes labels 0 to {n_out - 1}"
            )
        return np.eye(n_out)[labels.astype(np.intp)]

    # On the outputs.

    def _value(self, outputs: FloatArray) -> float:
        if self.kind == "mse":
            return float(0.5 * np.sum((outputs - self.targets) ** 2) / len(self.inputs))
        return float(-np.sum(self.targets * log_softmax(outputs, axis=1)) / len(self.inputs))

    def _cotangent(self, outputs: FloatArray) -> FloatArray:
        predicted = outputs if self.kind == "mse" else softmax(outputs, axis=1)
        return (predicted - self.targets) / len(self.inputs)

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
        """Evaluate f(z) as a sum over paths.

        Parameters
        ----------
        near : OneTheta, optional
            A parameter in the sign gauge of z; by default anchor in-edges are positive.
        """

        def value(point: FloatArray) -> FloatArray:
            if isinstance(self.network, TiedNetwork):
                theta = self.network.image_representative(point, near=near)
                return self.parameter_value(theta)
            return np.asarray(self._value(self._path_outputs(point, self._path_nodes(point, near))))

        return over_batch(value, [self._z(z)], [1], shape=())

    def gradient(self, z: Lifted, near: OneTheta | None = None) -> Covector:
        r"""Evaluate ∇f(z), :math:`∂_p f = \sum_i x_{i,p_0} a_p(x_i) δ_{i,o(p)}`.

        Where weights are shared or frozen, the shortest g with :math:`∂φ^⊤ g = ∇ℓ`.

        Parameters
        ----------
        near : OneTheta, optional
            A parameter in the sign gauge of z; by default anchor in-edges are positive.
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

        Parameters
        ----------
        architecture : ReLUNetwork
            The network of this loss.

        Returns
        -------
        scores : dict of str to float
            ``accuracy`` where the targets are one-hot, else ``r2``.
        """
        self._check(architecture)
        theta = as_vector(theta, "theta", self.network.dim)
        outputs = self.network.forward_vjp(theta, self.inputs)[0]
        one_hot = self.targets.shape[1] > 1 and np.all(np.isin(self.targets, (0.0, 1.0)))
        if one_hot and np.all(self.targets.sum(axis=1) == 1):
            hit = outputs.argmax(axis=1) == self.targets.argmax(axis=1)
            return {"accuracy": float(hit.mean())}
        residual = np.sum((outputs - self.targets) ** 2)
        total = np.sum((self.targets - self.targets.mean(axis=0)) ** 2)
        return {"r2": float(1 - residual / total)} if total > 0 else {}
