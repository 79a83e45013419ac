"""Losses of end-to-end matrices and of attention factors, against plain loops."""

import autograd.numpy as anp
import numpy as np
import pytest

from liftflow.errors import DataError, ShapeError
from liftflow.matrix_losses import (
    attention_loss,
    least_squares_loss,
    matrix_completion_loss,
    matrix_sensing_loss,
)


def slow_attention(z, tokens, targets, d_head):
    """Half the mean square of softmax(X QKᵀ Xᵀ/√d) X V Oᵀ − Y, token by token."""
    total = 0.0
    for sequence, wanted in zip(tokens, targets, strict=True):
        for row, goal in zip(sequence, wanted, strict=True):
            output = np.zeros(len(goal))
            for head in range(len(z) // 2):
                scores = np.array([row @ z[2 * head] @ other for other in sequence])
                weights = np.exp(scores / np.sqrt(d_head))
                mean = sum(w * other for w, other in zip(weights, sequence, strict=True))
                output += (mean / weights.sum()) @ z[2 * head + 1]
            total += 0.5 * np.sum((output - goal) ** 2)
    return total / (tokens.shape[0] * tokens.shape[1])


def test_values(rng):
    z = rng.standard_normal((3, 4))
    inputs, targets = rng.standard_normal((7, 4)), rng.standard_normal((7, 3))
    wanted = 0.5 * np.mean([np.sum((z @ x - y) ** 2) for x, y in zip(inputs, targets, strict=True)])
    assert least_squares_loss(inputs, targets).value(z) == pytest.approx(wanted, rel=1e-12)
    forms, values = rng.standard_normal((5, 3, 4)), rng.standard_normal(5)
    wanted = 0.5 * np.mean([(np.sum(a * z) - y) ** 2 for a, y in zip(forms, values, strict=True)])
    assert matrix_sensing_loss(forms, values).value(z) == pytest.approx(wanted, rel=1e-12)
    observed, mask = rng.standard_normal((3, 4)), rng.random((3, 4)) < 0.6
    wanted = 0.5 * np.mean((z - observed)[mask] ** 2)
    assert matrix_completion_loss(observed, mask).value(z) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("n_heads", [1, 3])
def test_attention_is_that_of_a_real_layer(n_heads, rng):
    tokens, targets = rng.standard_normal((2, 5, 6, 4))
    z = rng.standard_normal((2 * n_heads, 4, 4))
    value = attention_loss(tokens, targets, 2).value(z)
    assert value == pytest.approx(slow_attention(z, tokens, targets, 2), rel=1e-12)
    assert attention_loss(tokens, targets, 3).value(z) != pytest.approx(value, rel=1e-3)


def test_large_scores_do_not_overflow(rng):
    tokens, targets = rng.standard_normal((2, 2, 3, 4))
    assert np.isfinite(attention_loss(tokens, targets, 2).value(1e4 * np.ones((2, 4, 4))))


LOSSES = {
    "least squares": lambda rng: (
        least_squares_loss(rng.standard_normal((6, 4)), rng.standard_normal((6, 3))),
        (3, 4),
    ),
    "sensing": lambda rng: (
        matrix_sensing_loss(rng.standard_normal((5, 3, 4)), rng.standard_normal(5)),
        (3, 4),
    ),
    "completion": lambda rng: (
        matrix_completion_loss(rng.standard_normal((3, 4)), np.eye(3, 4) + np.eye(3, 4, 1)),
        (3, 4),
    ),
    "attention": lambda rng: (
        attention_loss(rng.standard_normal((3, 5, 4)), rng.standard_normal((3, 5, 4)), 2),
        (4, 4, 4),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_against_differences(name, rng):
    loss, shape = LOSSES[name](rng)
    z, direction = rng.standard_normal((2, *shape))
    step = 1e-5
    wanted = (loss.value(z + step * direction) - loss.value(z - step * direction)) / (2 * step)
    assert anp.sum(loss.gradient(z) * direction) == pytest.approx(wanted, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(
    ("act", "error_type", "match"),
    [
        (lambda: least_squares_loss(np.ones((3, 2)), np.ones((4, 1))), ShapeError, "per sample, 3"),
        (lambda: matrix_sensing_loss(np.ones((2, 3, 3)), [1.0]), ShapeError, "per sample, 2"),
        (
            lambda: matrix_completion_loss(np.ones((2, 2)), np.zeros((2, 2))),
            DataError,
            "at least one entry",
        ),
        (
            lambda: matrix_completion_loss(np.ones((2, 2)), np.ones((2, 3))),
            ShapeError,
            r"mask must have shape",
        ),
        (
            lambda: attention_loss(np.ones((2, 3, 4)), np.ones((2, 3, 5)), 2),
            ShapeError,
            r"targets must have shape",
        ),
    ],
)
def test_arrays_that_do_not_fit(act, error_type, match):
    with pytest.raises(error_type, match=match):
        act()
