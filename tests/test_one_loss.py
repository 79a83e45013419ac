"""Laws of one loss: counts, the laws themselves, and their drift along flows."""

import autograd.numpy as anp
import numpy as np
import pytest
from cases import convolutional

from liftflow.architectures import ReLUNetwork, TwoLayerLinear
from liftflow.criteria import count_conservation_laws, discover_laws
from liftflow.data import load
from liftflow.errors import InputError, UndefinedError
from liftflow.flows import TrainingRule, compare
from liftflow.losses import NetworkLoss, loss_from_function, loss_from_parameters
from liftflow.manifolds import InvariantSet

IRIS = load("iris")


def iris(kind, bias=True):
    network = ReLUNetwork.from_widths([4, 6, 3], bias=bias)
    return network, NetworkLoss(network, IRIS.inputs, IRIS.targets_for(kind), kind)


@pytest.mark.parametrize(("kind", "count"), [("cross-entropy", 13), ("mse", 6)])
def test_counts_for_iris(kind, count):
    network, loss = iris(kind)
    assert count_conservation_laws(network, loss=loss).value == count
    assert count_conservation_laws(network, True, loss).value == count
    assert count_conservation_laws(network).value == 6  # whatever the loss
    assert loss.linear_laws(network).shape == (count - 6, network.dim)


def span_of_gradients(network, kind, rng):
    """D − dim Lie by brute force: gradients of the loss at one θ, on data of any kind.

    For a ReLU network the fields at a generic point span the Lie algebra. All weights are positive,
    so that no unit is dead for all inputs.
    """
    theta, rows = np.abs(network.random_point(rng=rng)), []
    for _ in range(10 * network.dim):
        inputs = rng.standard_normal((1, len(network.inputs)))
        size = len(network.outputs)
        targets = rng.standard_normal((1, size)) if kind == "mse" else rng.integers(size, size=1)
        row = NetworkLoss(network, inputs, targets, kind).parameter_gradient(theta)
        rows.append(row / (np.linalg.norm(row) or 1.0))
    return network.dim - np.linalg.matrix_rank(np.array(rows), tol=1e-9)


def skips(bias=False):
    """Layers with a skip into the outputs, so that the inputs are tails of last edges as well."""
    return ReLUNetwork.residual([3, 2, 3], [(0, 2)], bias=bias)


@pytest.mark.parametrize("kind", ["cross-entropy", "mse"])
@pytest.mark.parametrize(
    "network", [skips(), skips(True), ReLUNetwork.from_widths([2, 4, 3], bias=True)]
)
def test_counts_by_brute_force(network, kind, rng):
    targets = [[0.0] * len(network.outputs)] if kind == "mse" else [0]
    loss = NetworkLoss(network, np.ones((1, len(network.inputs))), targets, kind)
    brute = span_of_gradients(network, kind, rng)
    assert count_conservation_laws(network, loss=loss).value == brute
    assert count_conservation_laws(network, True, loss).value == brute
    # The same by z, as for networks with shared weights.
    basis = loss.excited(network)
    jacobian = network.lift_jacobian(network.random_point(rng=rng))
    assert network.dim - np.linalg.matrix_rank(basis @ jacobian) == brute


def test_deeper_layers_by_hand():
    """|H| laws, and one more for each of the last hidden nodes and for the biases."""
    network = ReLUNetwork.from_widths([2, 3, 3, 4], bias=True)
    loss = NetworkLoss(network, np.ones((1, 2)), [0], "cross-entropy")
    assert count_conservation_laws(network, loss=loss).value == 6 + 3 + 1
    assert count_conservation_laws(network, True, loss).value == 6 + 3 + 1


def test_convolutions_have_a_sum_for_each_position_and_the_biases():
    network = convolutional()  # two channels of four positions each, two outputs
    loss = NetworkLoss(network, np.ones((2, 16)), [0, 1], "cross-entropy")
    assert count_conservation_laws(network, loss=loss).value == network.n_laws + 8 + 1
    assert loss.linear_laws(network).shape[0] == 9


def test_a_loss_of_ones_own():
    """One that sees the differences to the first output only, and one that sees the first two."""
    network = ReLUNetwork.from_widths([2, 2, 3])
    inputs, targets = np.ones((4, 2)), np.zeros((4, 3))

    def differences(outputs, targets):
        return anp.sum((outputs - outputs[:, :1] - targets) ** 4, axis=1)

    def first(outputs, targets):
        return anp.sum((outputs - targets)[:, :2] ** 2, axis=1)

    loss = NetworkLoss(network, inputs, targets, differences)
    np.testing.assert_array_equal(loss.excited_outputs().sum(axis=1), 0.0)
    assert count_conservation_laws(network, True, loss).value == 2 + 2
    loss = NetworkLoss(network, inputs, targets, first)
    assert count_conservation_laws(network, loss=loss).value == 2 + 2  # θ into the third stay put
    laws = loss.linear_laws(network).toarray()
    np.testing.assert_array_equal(np.flatnonzero(np.any(laws, axis=0)), [6, 9])


def test_laws_are_found_and_named():
    network = ReLUNetwork.from_widths([1, 1, 2])
    loss = NetworkLoss(network, [[1.0]], [0], "cross-entropy")
    laws = {str(law) for law in discover_laws(network, 1, loss)}
    assert laws == {"θ[(1, 0)→(2, 0)] + θ[(1, 0)→(2, 1)]"}
    assert discover_laws(network, 2, loss).n_independent == 2
    assert len(discover_laws(network, 1)) == 0


def test_any_function_of_z():
    """f that sees the first column of z alone keeps what builds the others."""
    network = TwoLayerLinear(2, 3, 1)
    loss = loss_from_function(lambda z: anp.sum(z[:, 0] ** 2 + z[:, 0]))
    assert loss.excited(network).shape == (2, 2, 3)
    assert count_conservation_laws(network, loss=loss).value == 1 + 2
    assert count_conservation_laws(network).value == 1
    with pytest.raises(InputError, match="exact"):
        count_conservation_laws(network, True, loss)
    by_theta = loss_from_parameters(lambda theta: anp.sum(network.lift(theta) ** 2), network)
    with pytest.raises(UndefinedError, match="∇f"):
        count_conservation_laws(network, loss=by_theta)
    with pytest.raises(InputError, match="must be a Loss"):
        count_conservation_laws(network, loss="mse")


@pytest.mark.parametrize("rule", [None, TrainingRule(np.geomspace(0.3, 2.0, 51), 0.3)])
def test_drift_of_both_kinds(rule):
    network, loss = iris("cross-entropy")
    space = InvariantSet(network, network.random_point(rng=0))
    both = compare(space, loss, (0, 1.0), rtol=1e-5, n_times=5, rule=rule)
    moved = np.linalg.norm(both.parameter.theta[-1] - both.parameter.theta[0])
    assert moved > 0.1 * np.linalg.norm(both.parameter.theta[0])
    drift = both.loss_law_drift_over_time(both.parameter).max()
    assert drift <= (1e-14 if rule is None else 1e-5)
    assert both.summary()["n_loss_laws"] == 7
    assert "law drift, this loss" in str(both)
    assert both.loss_law_drift < 1e-4
    network, loss = iris("mse")
    other = compare(InvariantSet(network, space.theta0), loss, (0, 0.1), n_times=3)
    assert other.loss_law_drift == 0.0  # there are none
    # Mean squares do not keep what cross-entropy does.
    assert np.max(np.abs(both.loss_laws @ (other.parameter.theta[-1] - space.theta0))) > 1e-3
