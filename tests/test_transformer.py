"""Transformer blocks against formulas written down by hand, and trained on rows of digits."""

import autograd
import autograd.numpy as anp
import geomstats.backend as gs
import numpy as np
import pytest

from liftflow import InvariantSet, compare, intrinsic_cometric
from liftflow.architectures import (
    ProductArchitecture,
    ReLUNetwork,
    TransformerBlock,
    transformer_forward,
)
from liftflow.criteria import count_conservation_laws
from liftflow.data import load
from liftflow.errors import InputError, LiftflowError, NotIntrinsicError, ShapeError
from liftflow.losses import loss_from_parameters
from liftflow.metrics import oracle_gram

needs_autodiff = pytest.mark.skipif(not gs.has_autodiff(), reason="numpy has no derivatives")

BLOCK = TransformerBlock(d_model=3, d_head=2, n_heads=2, d_mlp=4)
LAMS = [0.5, -0.3, 0.2, 0.0]


def by_hand(weights, sequence, causal):
    """One sequence through a block, token by token."""
    n_heads, _, d_head = weights.queries.shape
    heads, count = range(n_heads), len(sequence)

    def normed(token, gains):
        return gains * token / np.sqrt(np.mean(token**2) + 1e-6)

    read = [normed(token, weights.gains[0]) for token in sequence]
    result = []
    for i, token in enumerate(sequence):
        seen = range(i + 1) if causal else range(count)
        total = token.copy()
        for head in heads:
            scores = weights.queries[head] @ weights.keys[head].T
            numbers = np.array([np.exp(read[i] @ scores @ read[j] / d_head**0.5) for j in seen])
            mixed = sum(n * read[j] for n, j in zip(numbers, seen, strict=True)) / numbers.sum()
            total += weights.outputs[head] @ weights.values[head].T @ mixed
        own = normed(total, weights.gains[1])
        for u, v, b in zip(weights.out_of, weights.into, weights.biases, strict=True):
            total = total + max(v @ own + b, 0.0) * u
        result.append(total)
    return np.array(result)


@pytest.mark.parametrize("causal", [False, True])
def test_forward_is_that_of_the_formulas(causal, rng):
    thetas, tokens = BLOCK.random_point(2, rng), rng.standard_normal((2, 4, 5, 3))
    found = BLOCK.forward(thetas, tokens, causal=causal)
    assert found.shape == (2, 2, 4, 5, 3)
    for theta, own in zip(thetas, found, strict=True):
        weights = BLOCK.weights(theta)
        wanted = [[by_hand(weights, each, causal) for each in row] for row in tokens]
        np.testing.assert_allclose(own, wanted, rtol=1e-11, atol=1e-11)
    alone = transformer_forward(BLOCK, thetas[0], tokens[0, 0], causal=causal)
    np.testing.assert_allclose(alone, found[0, 0, 0], rtol=1e-12, atol=1e-12)


def test_a_causal_block_does_not_look_ahead(rng):
    theta, tokens = BLOCK.random_point(rng=rng), rng.standard_normal((5, 3))
    later = tokens.copy()
    later[3:] += 1.0
    moved = [
        np.abs(
            BLOCK.forward(theta, later, causal=causal) - BLOCK.forward(theta, tokens, causal=causal)
        )
        for causal in (True, False)
    ]
    assert np.max(moved[0][:3]) == 0.0
    assert np.min(np.max(moved[1], axis=1)) > 1e-6


def test_laws_and_blocks_are_those_of_the_names(rng):
    theta = BLOCK.random_point(rng=rng)
    weights, upper = BLOCK.weights(theta), np.triu_indices(2)
    wanted = []
    for q, k, v, o in zip(*weights[:4], strict=True):
        wanted += [*(q.T @ q - k.T @ k)[upper], *(v.T @ v - o.T @ o)[upper]]
    into, out_of = (np.sum(block**2, axis=1) for block in (weights.into, weights.out_of))
    wanted += [*(into + weights.biases**2 - out_of)]
    np.testing.assert_allclose(BLOCK.conservation_laws(theta), wanted, rtol=1e-13, atol=1e-13)
    assert BLOCK.n_laws == len(wanted) == 4 * 3 + 4
    products = [q @ k.T for pair in zip(*weights[:4], strict=True) for q, k in (pair[:2], pair[2:])]
    joined = np.concatenate([np.ravel(products), BLOCK.mlp.lift(BLOCK.unpack(theta)[1])])
    wanted = np.append(joined, weights.gains)
    np.testing.assert_allclose(BLOCK.lift(theta), wanted, rtol=1e-13, atol=1e-13)
    paths = BLOCK.mlp.lift(BLOCK.unpack(theta)[1]).reshape(-1)
    wanted = [
        v * u for vs in weights.into.T for v, us in zip(vs, weights.out_of, strict=True) for u in us
    ]
    wanted += [b * u for b, us in zip(weights.biases, weights.out_of, strict=True) for u in us]
    np.testing.assert_allclose(paths, wanted, rtol=1e-13, atol=1e-13)


def test_no_tokens_and_none_of_theta():
    theta = BLOCK.random_point(rng=0)
    for thetas, tokens, shape in (
        (theta, np.zeros((0, 3)), (0, 3)),
        (theta, np.zeros((2, 0, 4, 3)), (2, 0, 4, 3)),
        (np.zeros((0, BLOCK.dim)), np.ones((4, 3)), (0, 4, 3)),
        (np.zeros((2, 0, BLOCK.dim)), np.ones((5, 4, 3)), (2, 0, 5, 4, 3)),
    ):
        for causal in (False, True):
            assert BLOCK.forward(thetas, tokens, causal=causal).shape == shape
    assert BLOCK.weights(np.zeros((0, BLOCK.dim))).gains.shape == (0, 2, 3)


@pytest.mark.parametrize("scale", [1e99, 1e101, 1e200, 1e307])
def test_large_tokens_are_divided_before_they_are_squared(scale, rng):
    """What is added to them is that of tokens of any size; only ε is another, and not seen."""
    theta, tokens = BLOCK.random_point(rng=rng), rng.standard_normal((5, 3))
    mixed = np.array([[scale, 1.0, 0.0], [0.5, -1.0, 2.0]])
    found = BLOCK.forward(theta, scale * tokens)
    np.testing.assert_allclose(found / scale, tokens, rtol=1e-13)
    weights = BLOCK.weights(theta)
    squares = np.mean((mixed / [[scale], [1.0]]) ** 2, axis=1, keepdims=True)
    unit = mixed / np.sqrt(squares + np.array([[0.0], [1e-6]]))
    unit[0] /= scale
    # Values of the first half by hand, as the rest is lost beside the large token.
    read = weights.gains[0] * unit
    total = np.zeros(3)
    for q, k, v, o in zip(*weights[:4], strict=True):
        logits = read[1] @ q @ k.T @ read.T / 2**0.5
        powers = np.exp(logits - np.max(logits))
        total += o @ v.T @ (powers @ read / powers.sum())
    own = mixed[1] + total
    normed = weights.gains[1] * own / np.sqrt(np.mean(own**2) + 1e-6)
    active = np.maximum(weights.into @ normed + weights.biases, 0.0)
    np.testing.assert_allclose(
        BLOCK.forward(theta, mixed)[1], own + active @ weights.out_of, rtol=1e-11
    )


def laws_left(function, theta, rng):
    """Numbers of parameters that no flow of functions of ``function`` moves, by brute force.

    The rank of random gradient fields at θ and their brackets up to the third level.
    """
    dim, size = theta.size, function(theta).size

    def field():
        form = rng.standard_normal(size)
        return autograd.grad(lambda t: anp.sum(form * anp.ravel(function(t))))

    def bracket(x, y):
        def own(t):
            return autograd.make_jvp(y)(t)(x(t))[1] - autograd.make_jvp(x)(t)(y(t))[1]

        return own

    rows, ranks = [], []
    for level, count in ((1, dim + 2), (2, dim + 2), (3, 12)):
        for _ in range(count):
            own = field()
            for _ in range(level - 1):
                own = bracket(field(), own)
            vector = own(theta)
            rows.append(vector / np.linalg.norm(vector))
        ranks.append(np.linalg.matrix_rank(np.array(rows), rtol=1e-8))
    assert ranks[1] == ranks[2]
    return dim - ranks[2]


@needs_autodiff
@pytest.mark.parametrize("sizes", [(2, 1, 1, 1), (2, 2, 1, 1), (3, 1, 1, 2)])
@pytest.mark.slow
def test_the_laws_are_all_there_are(sizes, rng):
    block = TransformerBlock(*sizes)
    theta = block.random_point(rng=rng)
    assert laws_left(block.lift, theta, rng) == block.n_laws
    assert count_conservation_laws(block).value == block.n_laws
    parts = list(block.unpack(theta))
    parts[1][-block.d_mlp :] = 0.1  # so that every neuron is active for some token
    tokens = rng.standard_normal((15, 4, sizes[0]))
    left = laws_left(lambda t: block.forward(t, tokens), block.pack(*parts), rng)
    assert left == block.n_laws + 2 * block.d_model


@needs_autodiff
def test_a_forward_pass_keeps_the_laws_of_its_gains(rng):
    theta, tokens = BLOCK.random_point(rng=rng), rng.standard_normal((6, 5, 3))
    targets = rng.standard_normal(tokens.shape)

    def ell(theta):
        return anp.sum((BLOCK.forward(theta, tokens, causal=True) - targets) ** 2)

    def laws(theta, part=3):
        own = BLOCK.weights(theta)
        behind = sum(anp.sum(block**2, axis=(0, 2)) for block in own[:part])
        gains = own.gains**2
        return anp.concatenate([gains[0] - behind, gains[1] - anp.sum(own.into**2, axis=0)])

    slope = autograd.grad(ell)(theta)
    size = np.linalg.norm(theta) * np.linalg.norm(slope)
    assert np.max(np.abs(autograd.make_jvp(laws)(theta)(slope)[1])) < 1e-13 * size
    other = autograd.make_jvp(lambda t: laws(t, 2))(theta)(slope)[1]
    assert np.max(np.abs(other)) > 1e-4 * size
    known = BLOCK.conservation_laws_jacobian(theta)
    assert np.max(np.abs(known @ slope)) < 1e-13 * size
    both = np.vstack([known, autograd.jacobian(laws)(theta)])
    assert np.linalg.matrix_rank(both) == BLOCK.n_laws + 2 * 3


@needs_autodiff
def test_the_metric_at_balanced_points(rng):
    theta = BLOCK.balanced_point(LAMS, rng)
    weights = BLOCK.weights(theta)
    for head in range(2):
        q, k, v, o = (block[head] for block in weights[:4])
        for (u, w), lam in zip(((q, k), (v, o)), LAMS[2 * head :], strict=False):
            np.testing.assert_allclose(u.T @ u - w.T @ w, lam * np.eye(2), atol=1e-12)
    assert np.array_equal(weights.gains, np.ones((2, 3)))
    cometric, z = intrinsic_cometric(BLOCK, theta), BLOCK.lift(theta)
    oracle = oracle_gram(BLOCK, theta)
    np.testing.assert_allclose(cometric.matrix(z), oracle, atol=1e-11 * np.max(oracle))
    turned = cometric.point(z)
    np.testing.assert_allclose(BLOCK.lift(turned), z, rtol=1e-9, atol=1e-9)
    other = BLOCK.fibre_point(theta, rng)
    np.testing.assert_allclose(BLOCK.lift(other), z, rtol=1e-9, atol=1e-9)
    gap = intrinsic_cometric(BLOCK, other).matrix(z) - oracle
    assert np.max(np.abs(gap)) > 1e-2 * np.max(oracle)
    with pytest.raises(NotIntrinsicError, match="balanced"):
        intrinsic_cometric(BLOCK, BLOCK.random_point(rng=rng))


def test_the_block_is_a_function_of_its_lift(rng):
    theta, tokens = BLOCK.balanced_point(0.5, rng), rng.standard_normal((5, 3))
    wanted = BLOCK.forward(theta, tokens)
    moved = BLOCK.forward(BLOCK.fibre_point(theta, rng), tokens)
    np.testing.assert_allclose(moved, wanted, rtol=1e-8, atol=1e-8)
    assert np.max(np.abs(BLOCK.forward(1.01 * theta, tokens) - wanted)) > 1e-3


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: TransformerBlock(4, 2, 0, 3), InputError, "n_heads"),
        (lambda: TransformerBlock(4, 2, 1, 10**12), LiftflowError, "memory|large|limit"),
        (lambda: BLOCK.forward(np.ones(BLOCK.dim), np.ones((5, 4))), ShapeError, "tokens"),
        (lambda: BLOCK.forward(np.ones(3), np.ones((5, 3))), ShapeError, "theta"),
        (lambda: BLOCK.balanced_point([1.0, 2.0], 0), LiftflowError, "4 numbers"),
    ],
)
def test_errors(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


@pytest.mark.slow
@needs_autodiff
def test_both_flows_learn_to_read_digits():
    # The rows of 600 digits are sequences of 8 tokens of 8 pixels; the output reads all tokens.
    digits = load("digits")
    tokens = digits.inputs[:600].reshape(-1, 8, 8)
    wanted = digits.targets[:600]
    labels = wanted if wanted.ndim == 1 else np.argmax(wanted, axis=1)
    block, head = TransformerBlock(8, 4, 2, 16), ReLUNetwork.from_widths([64, 10], bias=True)
    model = ProductArchitecture(block, head)

    def scores(theta):
        own, rest = model.unpack(theta)
        weights, biases = head.unpack(rest)
        return anp.dot(anp.reshape(block.forward(own, tokens), (-1, 64)), weights) + biases

    def ell(theta):
        own = scores(theta)
        own = own - anp.max(own, axis=1, keepdims=True)
        right = own[np.arange(len(labels)), labels]
        return anp.mean(anp.log(anp.sum(anp.exp(own), axis=1)) - right)

    def accuracy(theta):
        return np.mean(np.argmax(scores(theta), axis=1) == labels)

    start = model.pack(block.balanced_point(LAMS, 0), head.random_point(rng=0))
    attention, neurons, gains = block.unpack(model.unpack(start)[0])
    start = model.pack(block.pack(0.5 * attention, 0.5 * neurons, gains), 0.1 * start[block.dim :])
    loss = loss_from_parameters(ell, model)
    both = compare(InvariantSet(model, start), loss, (0.0, 7.0), rtol=1e-5, atol=1e-7, n_times=8)
    assert both.success
    assert both.max_deviation <= 1e-3
    for flow in (both.parameter, both.intrinsic):
        assert accuracy(flow.theta[0]) < 0.3
        assert accuracy(flow.theta[-1]) >= 0.9
