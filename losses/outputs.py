"""Losses of the outputs of a network, sample by sample: mean squares, cross-entropy, any other."""

from collections.abc import Callable, Sequence
from functools import partial

import autograd
import autograd.numpy as anp
import numpy as np
from scipy.special import log_softmax, softmax

from liftflow.architectures.maps import followed_by_autograd, watched
from liftflow.errors import DataError, InputError, ShapeError
from liftflow.typing import (
    FloatArray,
    Inputs,
    Scalars,
    as_array,
    as_function,
    as_own,
    freeze,
    got,
    shown,
)

_Function = Callable[..., FloatArray]  # of outputs and targets
Kind = str | _Function | Sequence[_Function]
"""A name, a function of outputs and targets, or one with its gradient."""

_OWN = "the loss of outputs"
_STEP = 1e-6  # of the difference quotient that a gradient is held to
_AGREE = 1e-3


class OutputLoss:
    """A loss of outputs and targets.

    Attributes
    ----------
    value, gradient : callable
        Of outputs and targets: one number per sample, and its gradient in the outputs.
    targets : array
        What they are called with.
    is_mean : bool
        Whether there is one number for all samples already, and not one for each.
    """

    def __init__(self, kind: Kind, targets: Inputs, shape: tuple[int, int]) -> None:
        self.value, self.gradient = _functions(kind)
        read = _NAMED[kind][0] if isinstance(kind, str) else _any
        self.targets: FloatArray = freeze(read(targets, shape[1]))
        if len(self.targets) != shape[0]:
            raise ShapeError(
                f"inputs and targets must have one row per sample, got {shape[0]} and "
                f"{len(self.targets)}"
            )
        self.is_mean = False
        if not isinstance(kind, str):
            self._try(shape)

    def _try(self, shape: tuple[int, int]) -> None:
        """Call the functions of a user once, to see what they return."""
        rng = np.random.default_rng(0)
        outputs, direction = rng.standard_normal((2, *shape))
        with np.errstate(all="ignore"):
            value = _called(self.value, outputs, self.targets)
            if value.shape not in ((), shape[:1]):
                raise ShapeError(
                    f"{_OWN} must return one number, or one for each of the {shape[0]} samples, "
                    f"got an array of shape {value.shape}"
                )
            self.is_mean = value.shape == ()
            gradient = _called(self.gradient, outputs, self.targets)
            if gradient.shape != shape:
                raise ShapeError(
                    f"the gradient of {_OWN} must have the shape {shape} of the outputs, got "
                    f"{gradient.shape}"
                )
            ends = (
                np.sum(_called(self.value, outputs + step * direction, self.targets))
                for step in (_STEP, -_STEP)
            )
            slope, quotient = np.sum(gradient * direction), (next(ends) - next(ends)) / (2 * _STEP)
            self._check_pairs(outputs)
            # Rounding of the values, over twice the step.
            size = np.sum(np.abs(gradient * direction)) + 1e-14 / _STEP * np.sum(np.abs(value))
            if abs(slope - quotient) > _AGREE * size:
                raise InputError(
                    f"the gradient of {_OWN} is not that of its values: along a random direction "
                    f"it is {slope:.6g}, and the difference quotient {quotient:.6g}"
                )

    def _check_pairs(self, outputs: FloatArray) -> None:
        """Refuse what broadcasts a column of outputs against a row of targets: all with all."""
        if outputs.shape[1] > 1:
            return
        turned, alike = (
            np.roll(self.targets, 1, axis=0),
            np.repeat(self.targets[:1], len(outputs), 0),
        )
        own, other, same = (
            np.sum(_called(self.value, outputs, targets))
            for targets in (self.targets, turned, alike)
        )
        if np.isclose(own, other, rtol=1e-12) and not np.isclose(own, same, rtol=1e-9):
            raise ShapeError(
                f"{_OWN} does not see which target belongs to which output; outputs have the shape "
                f"{outputs.shape}, and targets {self.targets.shape}"
            )


def _called(function: _Function, outputs: FloatArray, targets: FloatArray) -> FloatArray:
    value = function(outputs, targets)
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{_OWN} and its gradient must return real numbers, got {got(value)}")
    return array


def _functions(kind: Kind) -> tuple[_Function, _Function]:
    if isinstance(kind, str) and kind in _NAMED:
        _, value, gradient = _NAMED[kind]
        return value, gradient
    if callable(kind):
        function = as_function(kind, _OWN, 2)
        return function, partial(_by_autograd, function)
    if isinstance(kind, tuple | list) and len(kind) == 2 and all(map(callable, kind)):
        return as_function(kind[0], _OWN, 2), as_function(kind[1], f"the gradient of {_OWN}", 2)
    raise InputError(
        f"kind must be one of {', '.join(_NAMED)}, got {shown(kind)}; any other is given as a "
        "function of outputs and targets, or as a pair of one and its gradient in the outputs"
    )


def _by_autograd(function: _Function, outputs: FloatArray, targets: FloatArray) -> FloatArray:
    total = watched(lambda own: anp.sum(function(own, targets)), _OWN)
    with followed_by_autograd(_OWN):
        return autograd.grad(total)(outputs)


def _any(targets: Inputs, n_out: int) -> FloatArray:
    """Targets of a user's own loss: labels stay integers, and real ones are read as for mse."""
    values = as_array(targets, "targets", differentiable=False)
    if not values.ndim:
        raise ShapeError("targets must have one row per sample, got one number")
    plain = np.asarray(targets)
    if plain.dtype.kind in "iu":
        return plain.copy()
    return values[:, None].copy() if values.ndim == 1 and n_out == 1 else values.copy()


def _values(targets: Inputs, n_out: int) -> FloatArray:
    values = as_array(targets, "targets", differentiable=False)
    if values.ndim == 1 and n_out == 1:
        values = values[:, None]
    return as_own(values, "targets", (None, n_out))


def _one_hot(targets: Scalars, n_out: int) -> FloatArray:
    """One row per label: as many columns as outputs, whichever classes there are."""
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


def _squares(outputs: FloatArray, targets: FloatArray) -> FloatArray:
    return 0.5 * ((outputs - targets) ** 2).sum(axis=1)


def _log_likelihood(outputs: FloatArray, targets: FloatArray) -> FloatArray:
    return -np.sum(targets * log_softmax(outputs, axis=1), axis=1)


def _misfit(outputs: FloatArray, targets: FloatArray) -> FloatArray:
    return softmax(outputs, axis=1) - targets


_NAMED: dict[str, tuple[_Function, _Function, _Function]] = {
    "mse": (_values, _squares, np.subtract),
    "cross-entropy": (_one_hot, _log_likelihood, _misfit),
}
"""How targets are read, the loss of each sample, and its gradient in the outputs."""
