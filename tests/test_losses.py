"""Losses: ℓ and ∇ℓ on θ, f and ∇f on z, against slow and independent arithmetic."""

import math
import pickle

import autograd.numpy as anp
import networkx as nx
import numpy as np
import pytest
from random_dags import random_network

from liftflow import (
    IntrinsicFlow,
    InvariantSet,
    NetworkLoss,
    ParameterFlow,
    ReLUNetwork,
    loss_from_function,
    loss_from_parameters,
)
from liftflow.errors import InputError, LiftflowError, NotDifferentiableError
from liftflow.flows import GradientDescent
from liftflow.losses import Loss
from liftflow.typing import untraced

NETWORKS = {
    "layers 3-4-2": lambda: ReLUNetwork.from_widths([3, 4, 2]),
    "layers 2-3-3-2, biases": lambda: ReLUNetwork.from_widths([2, 3, 3, 2], bias=True),
    "residual 2-3-3-2, biases": lambda: ReLUNetwork.residual(
        [2, 3, 3, 2], [(0, 2), (0, 3), (1, 3)], bias=True
    ),
    "linear 3-2": lambda: ReLUNetwork.from_widths([3, 2]),
    **{f"DAG {seed}": lambda seed=seed: random_network(seed) for seed in range(8)},
}
KINDS = ["mse", "cross-entropy"]
N_SAMPLES = 7


def draw(network, kind, rng):
    """Return inputs, targets and the loss, in so far as the network has outputs enough."""
    n_out = len(network.outputs)
    if kind == "cross-entropy" and n_out < 2:
        pytest.skip("one output has no cross-entropy")
    inputs = rng.standard_normal((N_SAMPLES, len(network.inputs)))
    if kind == "mse":
        targets = rng.standard_normal((N_SAMPLES, n_out))
    else:
        targets = rng.integers(n_out, size=N_SAMPLES)
    return inputs, targets, NetworkLoss(network, inputs, targets, kind)


def mixed_point(network, rng):
    """Return weights of either sign, none small, so that some nodes have negative anchors."""
    return rng.uniform(0.4, 1.3, network.dim) * rng.choice([-1.0, 1.0], network.dim)


def slow_preactivations(network, theta, row):
    """Return the value of every node before its ReLU, node by node along the graph."""
    weights = dict(zip(network.parameter_names, theta, strict=True))
    before, after = {}, dict(zip(network.inputs, row, strict=True))
    for node in nx.topological_sort(network.graph):
        if node in network.inputs:
            continue
        total = weights.get(("⟨1⟩", node), 0.0)
        for tail in network.graph.predecessors(node):
            total += weights[tail, node] * after[tail]
        before[node] = total
        after[node] = total if node in network.outputs else max(total, 0.0)
    return before


def slow_loss(network, theta, inputs, targets, kind):
    total = 0.0
    for row, target in zip(inputs, targets, strict=True):
        before = slow_preactivations(network, theta, row)
        outputs = [before[node] for node in network.outputs]
        if kind == "mse":
            total += sum((a - b) ** 2 for a, b in zip(outputs, target, strict=True)) / 2
        else:
            total += math.log(sum(math.exp(a) for a in outputs)) - outputs[target]
    return total / len(inputs)


def distance_to_a_kink(network, theta, inputs):
    """Return the least |preactivation| of a hidden node that is fed by anything at all."""
    values = [
        abs(before[node])
        for row in inputs
        for before in [slow_preactivations(network, theta, row)]
        for node in network.hidden
        if before[node] != 0.0
    ]
    return min(values, default=1.0)


def central_differences(function, point, step):
    shifts = step * np.eye(point.size)
    return np.array([(function(point + s) - function(point - s)) / (2 * step) for s in shifts])


cases = pytest.mark.parametrize("kind", KINDS)
networks = pytest.mark.parametrize("name", NETWORKS)


@networks
@cases
def test_value_is_that_of_the_slow_loss(name, kind, rng):
    network = NETWORKS[name]()
    inputs, targets, loss = draw(network, kind, rng)
    for theta in (mixed_point(network, rng), network.random_point(rng=rng)):
        expected = slow_loss(network, theta, inputs, targets, kind)
        assert loss.parameter_value(theta) == pytest.approx(expected, rel=1e-13)


@networks
@cases
def test_gradient_in_the_parameter(name, kind, rng):
    network = NETWORKS[name]()
    inputs, targets, loss = draw(network, kind, rng)
    theta = mixed_point(network, rng)
    step = 1e-5
    assert distance_to_a_kink(network, theta, inputs) > 100 * step
    slow = central_differences(lambda t: slow_loss(network, t, inputs, targets, kind), theta, step)
    gradient = loss.parameter_gradient(theta)
    np.testing.assert_allclose(gradient, slow, rtol=0, atol=1e-8 * max(1, np.abs(slow).max()))
    assert np.linalg.norm(gradient) > 1e-3


@networks
@cases
def test_loss_in_z_is_the_loss_in_the_parameter(name, kind, rng):
    """f(φ(θ)) = ℓ(θ) and ∂φᵀ∇f(φ(θ)) = ∇ℓ(θ), in the sign gauge of θ."""
    network = NETWORKS[name]()
    loss = draw(network, kind, rng)[-1]
    for theta in (mixed_point(network, rng), network.random_point(rng=rng)):
        z = network.lift(theta)
        assert loss.value(z, near=theta) == pytest.approx(loss.parameter_value(theta), rel=1e-12)
        pulled = network.lift_vjp(theta, loss.gradient(z, near=theta))
        gradient = loss.parameter_gradient(theta)
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(pulled, gradient, rtol=0, atol=1e-11 * scale)


@networks
@cases
def test_gradient_in_z(name, kind, rng):
    """∇f against differences of f entry by entry of z, which leave the image but no region."""
    network = NETWORKS[name]()
    inputs, _, loss = draw(network, kind, rng)
    theta = mixed_point(network, rng)
    z = network.lift(theta)
    step = 1e-5 * np.abs(z).min()
    assert distance_to_a_kink(network, theta, inputs) > 100 * step
    slow = central_differences(lambda point: float(loss.value(point, near=theta)), z, step)
    gradient = loss.gradient(z, near=theta)
    # Rounding of f over twice the step; the differences of a quadratic have no other error.
    atol = 1e-15 * max(1.0, float(loss.parameter_value(theta))) / step + 1e-9
    np.testing.assert_allclose(gradient, slow, rtol=1e-6, atol=atol)


@networks
@cases
def test_depends_on_z_alone(name, kind, rng):
    """Another point of the fibre has the same ℓ, f and ∇f, and is as good a gauge."""
    network = NETWORKS[name]()
    loss = draw(network, kind, rng)[-1]
    theta = mixed_point(network, rng)
    z = network.lift(theta)
    other = network.fibre_point(theta, rng)
    if network.n_hidden:
        assert np.abs(other - theta).max() > 0.1
    np.testing.assert_allclose(loss.parameter_value(other), loss.parameter_value(theta), rtol=1e-11)
    np.testing.assert_allclose(loss.value(z, near=other), loss.value(z, near=theta), rtol=1e-11)
    expected = loss.gradient(z, near=theta)
    np.testing.assert_allclose(
        loss.gradient(z, near=other), expected, rtol=0, atol=1e-10 * np.abs(expected).max()
    )


@cases
def test_sign_gauge_matters(kind, rng):
    """Negative control: φ forgets the sign of a neuron, and without ``near`` f guesses it."""
    network = ReLUNetwork.from_widths([3, 4, 2])
    loss = draw(network, kind, rng)[-1]
    theta = mixed_point(network, rng)
    first, second = network.unpack(theta)
    first[:, 0], second[0] = -np.abs(first[:, 0]), np.abs(second[0])
    negative = network.pack(first, second)
    z = network.lift(negative)
    value = loss.parameter_value(negative)
    assert loss.value(z, near=negative) == pytest.approx(value, rel=1e-12)
    assert abs(loss.value(z) - value) > 1e-3
    gap = loss.gradient(z) - loss.gradient(z, near=negative)
    assert np.abs(gap).max() > 1e-3
    # The same z from the other sign of that neuron: another function of the data.
    first[:, 0], second[0] = -first[:, 0], -second[0]
    positive = network.pack(first, second)
    np.testing.assert_allclose(network.lift(positive), z, rtol=1e-14)
    assert abs(loss.parameter_value(positive) - value) > 1e-3
    assert loss.value(z, near=positive) == pytest.approx(loss.parameter_value(positive), rel=1e-12)


@networks
@cases
def test_positive_anchors_need_no_gauge(name, kind, rng):
    network = NETWORKS[name]()
    loss = draw(network, kind, rng)[-1]
    theta = np.abs(mixed_point(network, rng))
    theta[[head in network.outputs for _, head in network.parameter_names]] *= -1
    z = network.lift(theta)
    assert loss.value(z) == pytest.approx(loss.parameter_value(theta), rel=1e-12)
    expected = loss.gradient(z, near=theta)
    np.testing.assert_allclose(loss.gradient(z), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["layers 3-4-2", "residual 2-3-3-2, biases", "DAG 3"])
@cases
def test_batches(name, kind, rng):
    network = NETWORKS[name]()
    loss = draw(network, kind, rng)[-1]
    base = mixed_point(network, rng)
    theta = base * rng.uniform(0.5, 2.0, (2, 3, network.dim))
    z = network.lift(theta)
    for batch, one in (
        (loss.parameter_value(theta), loss.parameter_value),
        (loss.parameter_gradient(theta), loss.parameter_gradient),
        (loss.value(z, near=base), lambda t: loss.value(network.lift(t), near=base)),
        (loss.gradient(z, near=base), lambda t: loss.gradient(network.lift(t), near=base)),
    ):
        for index in np.ndindex(2, 3):
            # BLAS may add in another order.
            np.testing.assert_allclose(batch[index], one(theta[index]), rtol=1e-12, atol=1e-14)


def test_many_paths_in_pieces(rng, monkeypatch):
    network = ReLUNetwork.residual([3, 4, 3, 2], [(0, 2)], bias=True)
    loss = draw(network, "mse", rng)[-1]
    theta = mixed_point(network, rng)
    z = network.lift(theta)
    value, gradient = loss.value(z, near=theta), loss.gradient(z, near=theta)
    monkeypatch.setattr("liftflow.losses.network._CHUNK", 5 * N_SAMPLES)  # five paths at a time
    np.testing.assert_allclose(loss.value(z, near=theta), value, rtol=1e-13)
    np.testing.assert_allclose(loss.gradient(z, near=theta), gradient, rtol=1e-12, atol=1e-15)


def test_large_outputs_do_not_overflow(rng):
    network = ReLUNetwork.from_widths([2, 3, 2])
    loss = NetworkLoss(network, [[1.0, 1.0], [2.0, 1.0]], [0, 1], "cross-entropy")
    theta = network.pack(1e3 * np.ones((2, 3)), np.array([[1.0, 2.0]] * 3))
    outputs = network.forward(theta, loss.inputs)  # (6000, 12000) and (9000, 18000)
    assert loss.parameter_value(theta) == pytest.approx((outputs[0, 1] - outputs[0, 0]) / 2)
    assert loss.value(network.lift(theta), near=theta) == pytest.approx(3000.0)
    assert np.all(np.isfinite(loss.parameter_gradient(theta)))


def test_one_output_takes_a_vector_of_targets(rng):
    network = ReLUNetwork.from_widths([3, 4, 1])
    inputs, targets = rng.standard_normal((6, 3)), rng.standard_normal(6)
    theta = mixed_point(network, rng)
    flat, column = (NetworkLoss(network, inputs, t) for t in (targets, targets[:, None]))
    assert flat.parameter_value(theta) == column.parameter_value(theta)
    # By hand: half the mean square, not the sum of all pairs that broadcasting would give.
    gap = network.forward(theta, inputs)[:, 0] - targets
    assert flat.parameter_value(theta) == pytest.approx(np.mean(gap**2) / 2, rel=1e-14)


@cases
def test_data_are_copied(kind, rng):
    network = ReLUNetwork.from_widths([3, 4, 2])
    inputs, targets, loss = draw(network, kind, rng)
    theta = mixed_point(network, rng)
    before = loss.parameter_value(theta)
    inputs *= 2
    targets[:] = targets[::-1].copy()
    assert loss.parameter_value(theta) == before


def test_accuracy(rng):
    network = ReLUNetwork.from_widths([3, 4, 3])
    inputs, theta = rng.standard_normal((20, 3)), mixed_point(network, rng)
    predicted = network.forward(theta, inputs).argmax(axis=1)
    labels = predicted.copy()
    labels[:7] = (labels[:7] + 1) % 3
    for loss in (
        NetworkLoss(network, inputs, labels, "cross-entropy"),
        NetworkLoss(network, inputs, np.eye(3)[labels], "mse"),
    ):
        assert loss.scores(theta, network) == {"accuracy": 13 / 20}


def test_r2(rng):
    network = ReLUNetwork.from_widths([3, 4, 2])
    inputs, theta = rng.standard_normal((20, 3)), mixed_point(network, rng)
    outputs = network.forward(theta, inputs)
    assert NetworkLoss(network, inputs, outputs).scores(theta, network)["r2"] == pytest.approx(1.0)
    targets = outputs + rng.standard_normal(outputs.shape)
    gap, spread = outputs - targets, targets - targets.mean(axis=0)
    scores = NetworkLoss(network, inputs, targets).scores(theta, network)
    assert scores == {"r2": pytest.approx(1 - np.sum(gap**2) / np.sum(spread**2))}
    # The mean of the targets explains nothing, and constant targets have nothing to explain.
    nothing = network.pack(np.ones((3, 4)), np.zeros((4, 2)))
    centred = targets - targets.mean(axis=0)
    scores = NetworkLoss(network, inputs, centred).scores(nothing, network)
    assert scores["r2"] == pytest.approx(0.0, abs=1e-14)
    assert NetworkLoss(network, inputs, np.ones((20, 2))).scores(theta, network) == {}


def test_loss_from_function(rng):
    network = ReLUNetwork.residual([2, 3, 2], [(0, 2)], bias=True)
    weights = rng.standard_normal(network.n_paths)
    loss = loss_from_function(lambda z: anp.sum(weights * anp.sin(z)) + anp.sum(z**2))
    theta = mixed_point(network, rng)
    z = network.lift(theta)
    value = sum(w * math.sin(a) + a * a for w, a in zip(weights, z, strict=True))
    assert loss.value(z) == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(loss.gradient(z), weights * np.cos(z) + 2 * z, rtol=1e-13)
    assert loss.parameter_value(theta, network) == pytest.approx(value, rel=1e-13)
    slow = central_differences(lambda t: loss.value(network.lift(t)), theta, 1e-5)
    gradient = loss.parameter_gradient(theta, network)
    np.testing.assert_allclose(gradient, slow, rtol=0, atol=1e-8 * np.abs(slow).max())
    # It knows no gauge, no score, and batches of parameters.
    assert loss.value(z, near=theta) == loss.value(z)
    assert loss.scores(theta, network) == {}
    batch = theta * rng.uniform(0.5, 2.0, (2, 3, network.dim))
    values = loss.parameter_value(batch, network)
    gradients = loss.parameter_gradient(batch, network)
    assert values.shape == (2, 3) and gradients.shape == batch.shape
    for index in np.ndindex(2, 3):
        assert values[index] == loss.parameter_value(batch[index], network)
        np.testing.assert_array_equal(
            gradients[index], loss.parameter_gradient(batch[index], network)
        )


def test_loss_of_integers():
    loss = loss_from_function(lambda z: anp.sum(z**2))
    np.testing.assert_array_equal(loss.gradient([1, 2]), [2.0, 4.0])


@pytest.mark.parametrize(
    "function",
    [
        lambda z: [anp.sum(z**2)],
        lambda z: anp.sum(z**2, keepdims=True),
        lambda z: anp.sum(z**2) + 0j,
        lambda z: (each for each in z),
        lambda z: None,
    ],
    ids=["list", "array", "complex", "generator", "None"],
)
def test_function_of_a_loss_that_returns_no_number(function):
    for method in (loss_from_function(function).value, loss_from_function(function).gradient):
        with pytest.raises(
            InputError, match="the function of a loss must take z to one number, got"
        ):
            method([1.0, 2.0])


def test_function_of_a_loss_out_of_the_sight_of_autograd():
    loss = loss_from_function(lambda z: float(np.sum(untraced(z) ** 2)))
    assert loss.value([1.0, 2.0]) == 5.0
    with pytest.raises(NotDifferentiableError, match="out of its sight"):
        loss.gradient([1.0, 2.0])


class Own(Loss):
    """A user's loss, ‖z − 1‖²/2, wrapped by a fault."""

    def __init__(self, value=lambda value: value, gradient=lambda gradient: gradient):
        self.faults = value, gradient

    def value(self, z, near=None):
        return self.faults[0](0.5 * np.sum((z - 1.0) ** 2))

    def gradient(self, z, near=None):
        return self.faults[1](z - 1.0)


@pytest.mark.parametrize(
    ("faults", "match"),
    [
        ({"value": lambda value: [value]}, "Own.value must .* an array of shape .1,."),
        ({"value": lambda value: None}, "Own.value must .* got None"),
        ({"value": lambda value: "x"}, "Own.value .* got str"),
        ({"gradient": lambda gradient: gradient[None]}, "must .*shape"),
        ({"gradient": lambda gradient: None}, "must .*(real numbers|shape)"),
    ],
)
def test_a_loss_of_a_user_that_returns_something_else(faults, match):
    network = ReLUNetwork.diagonal(2)
    start = InvariantSet(network, [0.5, 0.8, 0.4, -0.3])
    flows = [
        lambda loss: ParameterFlow(network, loss).integrate(start.theta0, (0.0, 0.1)),
        lambda loss: IntrinsicFlow(start, loss, coordinates="full").integrate(t_span=(0.0, 0.1)),
        lambda loss: GradientDescent(network, loss, 0.1).run(start.theta0, 2),
    ]
    for flow in flows:
        with pytest.raises(LiftflowError, match=match):
            flow(Own(**faults))
        assert flow(Own()).success


# Losses of outputs of one's own, weights, and batches.


def hinge(outputs, targets):
    """One-against-all hinge, of integer labels that index: one number per sample."""
    rows = anp.arange(len(targets))
    margins = anp.maximum(0.0, 1.0 + outputs - outputs[rows, targets][:, None])
    return anp.sum(margins, axis=1) - 1.0


def hinge_gradient(outputs, targets):
    rows = np.arange(len(targets))
    above = (1.0 + outputs - outputs[rows, targets][:, None] > 0).astype(float)
    above[rows, targets] -= above.sum(axis=1)
    return above


SQUARES_OF_ONES_OWN = {
    "per sample": lambda o, t: 0.5 * anp.sum((o - t) ** 2, axis=1),
    "of all": lambda o, t: 0.5 * anp.sum((o - t) ** 2) / len(t),
    "pair per sample": (lambda o, t: 0.5 * np.sum((o - t) ** 2, axis=1), lambda o, t: o - t),
    "pair of all": (
        lambda o, t: 0.5 * np.sum((o - t) ** 2) / len(t),
        lambda o, t: (o - t) / len(t),
    ),
}


@pytest.mark.parametrize("name", SQUARES_OF_ONES_OWN)
def test_a_loss_of_outputs_of_ones_own_against_the_named_one(name, rng):
    network = ReLUNetwork.residual([2, 3, 3, 2], [(0, 2)], bias=True)
    inputs, targets, named = draw(network, "mse", rng)
    own = NetworkLoss(network, inputs, targets, SQUARES_OF_ONES_OWN[name])
    theta = mixed_point(network, rng)
    z = network.lift(theta)
    pairs = [
        (own.parameter_value(theta), named.parameter_value(theta)),
        (own.parameter_gradient(theta), named.parameter_gradient(theta)),
        (own.value(z, near=theta), named.value(z, near=theta)),
        (own.gradient(z, near=theta), named.gradient(z, near=theta)),
    ]
    rows = [5, 0, 2]
    for method in ("parameter_value", "parameter_gradient"):
        pairs.append([getattr(loss.batch(rows), method)(theta) for loss in (own, named)])
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    assert own.scores(theta, network) == named.scores(theta, network)


def test_targets_of_one_output_are_matched_with_it(rng):
    """Real ones become a column, as for mse; what pairs all with all is refused."""
    network = ReLUNetwork.from_widths([2, 3, 1])
    inputs, targets = rng.standard_normal((N_SAMPLES, 2)), rng.standard_normal(N_SAMPLES)
    theta = mixed_point(network, rng)
    expected = NetworkLoss(network, inputs, targets).parameter_gradient(theta)
    for kind in SQUARES_OF_ONES_OWN.values():
        found = NetworkLoss(network, inputs, targets, kind).parameter_gradient(theta)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    signs = np.where(targets > 0, 1, -1)

    def logistic(outputs, labels):
        return anp.log(1.0 + anp.exp(-labels * outputs[:, 0]))

    loss = NetworkLoss(network, inputs, signs, logistic)
    outputs = network.forward(theta, inputs)[:, 0]
    value = np.mean(np.log1p(np.exp(-signs * outputs)))
    assert loss.parameter_value(theta) == pytest.approx(value, rel=1e-13)
    for wrong, given in (
        (lambda o, t: anp.mean((o[:, 0] - t) ** 2), targets),
        (lambda o, t: anp.sum((o - t) ** 2, axis=1), signs),
    ):
        with pytest.raises(InputError, match="which target belongs to which output"):
            NetworkLoss(network, inputs, given, wrong)
    NetworkLoss(network, inputs, targets, lambda o, t: anp.sum(o**2))  # sees no targets at all


@pytest.mark.parametrize("kind", [hinge, (hinge, hinge_gradient)], ids=["function", "pair"])
def test_a_hinge(kind, rng):
    """Integer labels reach the function as integers; the slow loss is sample by sample."""
    network = ReLUNetwork.from_widths([3, 4, 3], bias=True)
    inputs, labels = rng.standard_normal((N_SAMPLES, 3)), rng.integers(3, size=N_SAMPLES)
    loss, theta = NetworkLoss(network, inputs, labels, kind), mixed_point(network, rng)

    def slow(theta):
        outputs = [slow_preactivations(network, theta, row) for row in inputs]
        total = 0.0
        for before, label in zip(outputs, labels, strict=True):
            values = [before[node] for node in network.outputs]
            total += sum(
                max(0.0, 1.0 + value - values[label])
                for place, value in enumerate(values)
                if place != label
            )
        return total / N_SAMPLES

    assert loss.parameter_value(theta) == pytest.approx(slow(theta), rel=1e-13)
    expected = central_differences(slow, theta, 1e-6)
    np.testing.assert_allclose(loss.parameter_gradient(theta), expected, atol=1e-8)
    assert loss.scores(theta, network) == {}


@cases
def test_weights_count_samples(kind, rng):
    """A sample of weight 2 is one that is there twice, and one of weight 0 is not there."""
    network = ReLUNetwork.from_widths([3, 4, 2])
    inputs, targets, plain = draw(network, kind, rng)
    rows = [0, 1, 1, 2, 4, 5, 6]
    counts = np.bincount(rows, minlength=N_SAMPLES)
    repeated = NetworkLoss(network, inputs[rows], targets[rows], kind)
    theta = mixed_point(network, rng)
    for scale in (1.0, 0.1):  # only their ratios matter
        loss = NetworkLoss(network, inputs, targets, kind, weights=scale * counts)
        for method in ("parameter_value", "parameter_gradient"):
            found = getattr(loss, method)(theta)
            np.testing.assert_allclose(found, getattr(repeated, method)(theta), rtol=1e-12)
            assert np.max(np.abs(found - getattr(plain, method)(theta))) > 1e-3
        # Batches of one have the loss as their mean.
        single = [loss.batch([row]).parameter_gradient(theta) for row in range(N_SAMPLES)]
        np.testing.assert_allclose(
            np.mean(single, axis=0), loss.parameter_gradient(theta), rtol=1e-11, atol=1e-14
        )
    alike = NetworkLoss(network, inputs, targets, kind, weights=np.full(N_SAMPLES, 3.0))
    np.testing.assert_array_equal(alike.parameter_gradient(theta), plain.parameter_gradient(theta))


def test_classes_may_be_missing_from_data_and_from_batches(rng):
    network = ReLUNetwork.from_widths([3, 4, 5])
    inputs, theta = rng.standard_normal((4, 3)), mixed_point(network, rng)
    labels = np.array([3, 1, 1, 3])  # of 0 to 4
    loss = NetworkLoss(network, inputs, labels, "cross-entropy")
    expected = slow_loss(network, theta, inputs, labels, "cross-entropy")
    assert loss.parameter_value(theta) == pytest.approx(expected, rel=1e-13)
    part = loss.batch([1, 2])
    expected = slow_loss(network, theta, inputs[1:3], labels[1:3], "cross-entropy")
    assert part.parameter_value(theta) == pytest.approx(expected, rel=1e-13)
    assert part.parameter_gradient(theta).shape == theta.shape
    assert set(part.scores(theta, network)) == {"accuracy"}


@pytest.mark.parametrize(
    ("kind", "error", "match"),
    [
        (lambda o, t: o, InputError, "one number, or one for each of the 7 samples"),
        (lambda o, t: None, InputError, "must return real numbers, got NoneType"),
        (lambda o, t: float(np.sum(untraced(o))), NotDifferentiableError, "the loss of outputs"),
        ((lambda o, t: anp.sum(o), lambda o, t: o[:, :1]), InputError, "must have the shape"),
        (
            (lambda o, t: 0.5 * anp.sum((o - t) ** 2, axis=1), lambda o, t: t - o),
            InputError,
            "not that of its values",
        ),
        ((hinge,), InputError, "kind must be one of mse, cross-entropy, got"),
        ("hinge", InputError, "any other is given as a function"),
    ],
)
def test_losses_of_outputs_that_are_refused(kind, error, match, rng):
    network = ReLUNetwork.from_widths([3, 4, 2])
    inputs, targets, _ = draw(network, "mse", rng)
    with pytest.raises(error, match=match):
        NetworkLoss(network, inputs, targets, kind)


def test_weights_that_are_refused(rng):
    network = ReLUNetwork.from_widths([3, 4, 2])
    inputs, targets, _ = draw(network, "mse", rng)
    for weights in (-np.ones(N_SAMPLES), np.zeros(N_SAMPLES)):
        with pytest.raises(InputError, match="at least 0, and not all 0"):
            NetworkLoss(network, inputs, targets, weights=weights)
    with pytest.raises(InputError, match="weights must have shape"):
        NetworkLoss(network, inputs, targets, weights=np.ones(3))
    with pytest.raises(InputError, match="one number for each sample"):
        NetworkLoss(network, inputs, targets, lambda o, t: anp.sum(o), weights=np.ones(N_SAMPLES))
    with pytest.raises(InputError, match="indices must hold"):
        NetworkLoss(network, inputs, targets).batch([])


def half_square(z):
    return 0.5 * anp.sum(z**2)


def of_parameters(theta):
    return anp.sum((theta[:2] * theta[2:] - 1.0) ** 2)


def difference(theta):
    return theta[0] ** 2 + theta[1] ** 2 - theta[2] ** 2 - theta[3] ** 2


@pytest.mark.parametrize(
    "build",
    [
        lambda _: loss_from_function(half_square),
        lambda network: loss_from_parameters(of_parameters, network),
        lambda network: NetworkLoss(network, np.eye(2), [0, 1], hinge),
        lambda network: NetworkLoss(network, np.eye(2), [0, 1], (hinge, hinge_gradient)),
    ],
    ids=["of z", "of θ", "of outputs", "and its gradient"],
)
def test_losses_made_of_functions_of_a_module_go_to_other_processes(build, rng):
    network = ReLUNetwork.from_widths([2, 1, 2])
    theta, loss = rng.standard_normal(4), build(network)
    flow = pickle.loads(pickle.dumps(ParameterFlow(network, loss)))
    for name in ("parameter_value", "parameter_gradient"):
        found = getattr(flow.loss, name)(theta, flow.architecture)
        np.testing.assert_array_equal(found, getattr(loss, name)(theta, network))
    assert repr(flow.loss) == repr(loss)
    laws = pickle.loads(pickle.dumps(network.with_laws([difference])))
    np.testing.assert_array_equal(laws.conservation_laws(theta), [difference(theta)])
    with pytest.raises((AttributeError, pickle.PicklingError)):  # the control
        pickle.dumps(loss_from_function(lambda z: anp.sum(z)))
