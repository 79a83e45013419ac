"""Losses of an end-to-end matrix, and of the factors of an attention layer."""

from functools import partial

import autograd.numpy as anp
import numpy as np

from liftflow.doors import door
from liftflow.errors import DataError, ShapeError
from liftflow.linalg import RANK_RTOL
from liftflow.losses.base import FunctionLoss, loss_from_function
from liftflow.typing import (
    FloatArray,
    Inputs,
    Lifted,
    OneLifted,
    Scalars,
    as_array,
    as_own,
)


def _numbers(mask: Lifted) -> Lifted:
    """A mask of booleans as numbers; what is none is left to the door."""
    try:
        array = np.asarray(mask)
    except Exception:
        return mask
    return array * 1 if array.dtype == bool else mask


def _rows(array: FloatArray, name: str, count: int) -> None:
    if len(array) != count:
        raise ShapeError(f"{name} must have one row per sample, {count}, got {len(array)}")


def _strongly_convex(least: float, best: float, moment: FloatArray) -> tuple[float | None, float]:
    """κ and f* of a quadratic, whose κ is the least eigenvalue; None where that vanishes."""
    clear = least > RANK_RTOL * np.max(np.abs(moment), initial=0.0)
    return least if clear else None, best


@door
def least_squares_loss(inputs: Inputs, targets: Inputs) -> FunctionLoss:
    r"""Regress targets linearly on inputs, :math:`f(Z) = \frac{1}{2N}\sum_i ‖Z x_i − y_i‖^2`.

    Parameters
    ----------
    inputs : array-like, shape=[n_samples, m]
    targets : array-like, shape=[n_samples, n]

    Raises
    ------
    InputError, ShapeError, NotFiniteError
        Arrays that do not fit.
    """
    inputs = as_own(inputs, "inputs", (None, None))
    targets = as_own(targets, "targets", (None, None))
    _rows(targets, "targets", len(inputs))
    # ‖XZᵀ − Y‖² needs the samples only through their moments.
    count = len(inputs)
    moment, mixed = inputs.T @ inputs / count, targets.T @ inputs / count
    constant = float((targets**2).sum() / count)

    value = partial(_least_squares, moment, mixed, constant)
    least = float(np.linalg.eigvalsh(moment)[0])
    best = mixed @ np.linalg.pinv(moment)
    return loss_from_function(value, *_strongly_convex(least, float(value(best)), moment))


@door
def matrix_sensing_loss(measurements: Lifted, values: Scalars) -> FunctionLoss:
    r"""Sense a matrix, :math:`f(Z) = \frac{1}{2k}\sum_i (⟨A_i, Z⟩ − y_i)^2`.

    Parameters
    ----------
    measurements : array-like, shape=[k, n, m]
        The matrices A_i.
    values : array-like, shape=[k]
        The numbers y_i.

    Raises
    ------
    InputError, ShapeError, NotFiniteError
        Arrays that do not fit.
    """
    forms = as_own(measurements, "measurements", (None, None, None))
    values = as_own(values, "values", (None,))
    _rows(values, "values", len(forms))
    value, flat = partial(_sensing, forms, values), forms.reshape(len(forms), -1)
    moment = flat.T @ flat / len(values) if len(flat) >= flat.shape[1] else np.zeros((1, 1))
    best = np.linalg.lstsq(flat, values, rcond=None)[0].reshape(forms.shape[1:])
    least = float(np.linalg.eigvalsh(moment)[0])
    return loss_from_function(value, *_strongly_convex(least, float(value(best)), moment))


@door
def matrix_completion_loss(observed: Lifted, mask: Lifted) -> FunctionLoss:
    r"""Complete a matrix, :math:`f(Z) = \frac{1}{2|Ω|}\sum_{(i,j) ∈ Ω} (Z_{ij} − Y_{ij})^2`.

    Parameters
    ----------
    observed : array-like, shape=[n, m]
        Y; entries outside Ω are not read, and must be finite.
    mask : array-like, shape=[n, m]
        1 or True on Ω, else 0.

    Raises
    ------
    DataError
        No entry is observed.
    InputError, ShapeError, NotFiniteError
        Arrays that do not fit.
    """
    observed = as_own(observed, "observed", (None, None))
    known = as_own(_numbers(mask), "mask", observed.shape)
    if not known.sum() > 0:
        raise DataError("mask must mark at least one entry as observed")
    return loss_from_function(partial(_completion, observed, known))


@door
def attention_loss(inputs: Inputs, targets: Inputs, d_head: int) -> FunctionLoss:
    r"""Regress sequences on sequences by an attention layer of any number of heads.

    :math:`f(z) = \frac{1}{2ST}\sum_s ‖\sum_h \mathrm{softmax}(X_s Z_h X_s^\top/\sqrt{d}) X_s W_h
    − Y_s‖^2` with :math:`Z_h = Q_h K_h^\top` and :math:`W_h = V_h O_h^\top`.

    Parameters
    ----------
    inputs, targets : array-like, shape=[n_sequences, n_tokens, d_model]
    d_head : int
        The d in the softmax.

    Returns
    -------
    loss : FunctionLoss
        A function of z, shape=[2 * n_heads, d_model, d_model], as
        :class:`~liftflow.architectures.Attention` lifts.

    Raises
    ------
    InputError, ShapeError, NotFiniteError
        Arrays that do not fit.
    """
    shape = (None, None, None)
    tokens = as_own(inputs, "inputs", shape)
    wanted = as_own(targets, "targets", tokens.shape)
    return loss_from_function(partial(_attention, tokens, wanted, d_head))


# Functions of z, the last argument, which can be pickled.


def _least_squares(moment: FloatArray, mixed: FloatArray, constant: float, z: OneLifted) -> Scalars:
    z = as_array(z, "z", mixed.shape, batch=False)
    return 0.5 * (anp.sum((z @ moment) * z) - 2 * anp.sum(mixed * z) + constant)


def _sensing(forms: FloatArray, values: FloatArray, z: OneLifted) -> Scalars:
    z, flat = as_array(z, "z", forms.shape[1:], batch=False), forms.reshape(len(forms), -1)
    return 0.5 * anp.sum((anp.dot(flat, anp.ravel(z)) - values) ** 2) / len(values)


def _completion(observed: FloatArray, known: FloatArray, z: OneLifted) -> Scalars:
    z = as_array(z, "z", observed.shape, batch=False)
    return 0.5 * anp.sum(known * (z - observed) ** 2) / known.sum()


def _attention(tokens: FloatArray, wanted: FloatArray, d_head: int, z: OneLifted) -> Scalars:
    count, transposed = wanted.shape[0] * wanted.shape[1], anp.swapaxes(tokens, 1, 2)
    z, total = as_array(z, "z", (None, *tokens.shape[2:] * 2), batch=False), 0.0
    for scores, values in zip(z[0::2], z[1::2], strict=True):
        logits = anp.matmul(anp.matmul(tokens, scores), transposed) / d_head**0.5
        weights = anp.exp(logits - anp.max(logits, axis=-1, keepdims=True))
        weights = weights / anp.sum(weights, axis=-1, keepdims=True)
        total = total + anp.matmul(anp.matmul(weights, tokens), values)
    return 0.5 * anp.sum((total - wanted) ** 2) / count
