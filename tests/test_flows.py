"""Both flows: do they agree, do they end well, and what do they leave behind."""

import autograd.numpy as anp
import networkx as nx
import numpy as np
import pytest

from liftflow.architectures import ReLUNetwork
from liftflow.flows import IntrinsicFlow, ParameterFlow, compare
from liftflow.losses import Loss, loss_from_function
from liftflow.manifolds import InvariantSet

MODES = ("full", "basis")


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


TOLERANCES = [1e-8, slow(1e-10)]


def small_dag():
    """Return a network that is not layered: skips, biases, and an output in the middle."""
    edges = "xa xb ya yb yc ac ad bc bd bu cu cv du dv xu"
    graph = nx.DiGraph([(tail, head) for tail, head in edges.split()])
    return ReLUNetwork(graph, inputs="xy", outputs="uv", biases="adu")


NETWORKS = {
    "layers": lambda: ReLUNetwork.from_widths([3, 3, 3, 2], bias=True),
    "residual": lambda: ReLUNetwork.residual([2, 3, 3, 2], [(0, 2), (1, 3)]),
    "dag": small_dag,
}


def bowl(network, seed, scale=1.0):
    """Return a smooth convex f, with its minimum at some z far off the image."""
    rng = np.random.default_rng(seed)
    target = scale * rng.standard_normal(network.n_paths)
    weights = rng.uniform(0.5, 1.5, network.n_paths)
    return loss_from_function(lambda z: anp.sum(weights * anp.log(anp.cosh(z - target))))


def problem(name, seed=5):
    """Return the invariant set of a random θ₀ of a network, and a smooth loss."""
    network = NETWORKS[name]()
    return InvariantSet(network, network.random_point(rng=seed)), bowl(network, seed)


def precise(rtol, **settings):
    return {"method": "DOP853", "rtol": rtol, "atol": rtol / 100} | settings


def relative_distance(network, one, other):
    """Largest distance of two trajectories in z, relative to the size of z."""
    gap = network.lifted_distance(one.theta, other.theta)
    return np.max(gap / network.lifted_norm(other.theta))


def changes_sign(trajectory):
    """Which weights have another sign at the end than at the start."""
    return trajectory.theta[0] * trajectory.theta[-1] < 0


# Agreement.


@pytest.mark.parametrize("rtol", TOLERANCES)
@pytest.mark.parametrize("coordinates", MODES)
@pytest.mark.parametrize("name", [slow("layers"), slow("residual"), "dag"])
@pytest.mark.slow
def test_both_flows_agree_and_the_control_does_not(name, coordinates, rtol):
    invariant_set, loss = problem(name)
    comparison = compare(
        invariant_set, loss, (0.0, 1.0), coordinates=coordinates, control=True, **precise(rtol)
    )
    assert comparison.success
    assert comparison.max_deviation <= 100 * rtol
    assert comparison.control_deviation >= 0.05
    assert comparison.law_drift <= 100 * rtol
    parameter, flow = comparison.parameter, comparison.intrinsic
    assert parameter.loss[-1] < 0.9 * parameter.loss[0]
    np.testing.assert_allclose(flow.loss, parameter.loss, rtol=100 * rtol)
    np.testing.assert_allclose(flow.theta, parameter.theta, atol=300 * rtol)


@pytest.mark.parametrize("rtol", TOLERANCES)
@pytest.mark.parametrize("name", [slow("layers"), slow("residual"), "dag"])
def test_full_and_basis_coordinates_agree(name, rtol):
    invariant_set, loss = problem(name)
    full, basis = (
        IntrinsicFlow(invariant_set, loss, mode).integrate(t_span=(0.0, 1.0), **precise(rtol))
        for mode in MODES
    )
    network = invariant_set.architecture
    assert relative_distance(network, full, basis) <= 100 * rtol
    assert full.y.shape == (101, network.n_paths)
    assert basis.y.shape == (101, network.dim - network.n_hidden)
    chart = network.basis_chart(invariant_set.theta0)
    np.testing.assert_allclose(full.y[:, network.path_numbers(chart)], basis.y, atol=300 * rtol)
    assert full.n_charts == 1


def test_auto_takes_the_coordinates_of_the_architecture():
    invariant_set, loss = problem("dag")
    assert IntrinsicFlow(invariant_set, loss).coordinates == "basis"


@pytest.mark.parametrize("coordinates", [slow("full"), "basis"])
def test_the_laws_of_another_point_give_another_flow(coordinates):
    """Laws shifted by a tenth move z by far more than the tolerance, and by more when by more."""
    invariant_set, loss = problem("dag")
    network, theta0 = invariant_set.architecture, invariant_set.theta0
    flow = ParameterFlow(network, loss).integrate(theta0, (0.0, 1.0), **precise(1e-8))
    parts = []
    for shift in (0.0, 0.01, 0.1):
        laws = invariant_set.laws0 + shift
        other = InvariantSet(network, network.project_to_laws(theta0, laws))
        moved = IntrinsicFlow(other, loss, coordinates).integrate(
            network.lift(theta0), (0.0, 1.0), **precise(1e-8)
        )
        parts.append(relative_distance(network, moved, flow))
    assert parts[0] <= 1e-6
    assert parts[1] >= 1e-3
    assert parts[2] >= 5 * parts[1]


# Losses of a user.


class Bowl(Loss):
    """½‖z − 1‖², whose methods write where they should not, if told to."""

    def __init__(self, rude):
        self.rude = rude

    def value(self, z, near=None):
        return 0.5 * np.sum(self.gradient(z, near) ** 2, axis=-1)

    def gradient(self, z, near=None):
        if not self.rude:
            return z - 1.0
        if near is not None:
            near[:] = 7.0
        z -= 1.0
        return z

    def parameter_gradient(self, theta, architecture):
        gradient = super().parameter_gradient(theta, architecture)
        if self.rude:
            theta[:] = 7.0
        return gradient


@pytest.mark.parametrize("coordinates", MODES)
def test_a_loss_that_writes_into_its_arguments_leads_the_same_flow(coordinates):
    network = ReLUNetwork.from_widths([3, 3, 2])
    start = InvariantSet(network, network.random_point(rng=0))
    settings = {"coordinates": coordinates, "n_times": 5, "rtol": 1e-5}
    rude, polite = (compare(start, Bowl(rude), (0.0, 1.0), **settings) for rude in (True, False))
    assert rude.success
    np.testing.assert_array_equal(rude.intrinsic.y, polite.intrinsic.y)
    np.testing.assert_array_equal(rude.parameter.loss, polite.parameter.loss)


# Weights that cross zero.


@pytest.mark.parametrize("coordinates", MODES)
def test_a_weight_crosses_zero(coordinates):
    """One weight is driven through zero by a quadratic f; no anchor comes near."""
    network = ReLUNetwork.from_widths([2, 2, 2])
    theta0 = np.array([1.0, 0.2, -0.8, 0.9, 1.1, -0.7, 0.6, 0.8])
    goal = theta0.copy()
    goal[1] = -0.6
    target = network.lift(goal)
    loss = loss_from_function(lambda z: anp.sum((z - target) ** 2))
    comparison = compare(
        InvariantSet(network, theta0), loss, (0.0, 2.0), coordinates=coordinates, **precise(1e-9)
    )
    assert np.flatnonzero(changes_sign(comparison.parameter)).tolist() == [1]
    assert np.flatnonzero(changes_sign(comparison.intrinsic)).tolist() == [1]
    anchors = network.basis_chart(theta0).anchors
    assert 1 not in [*anchors.into, *anchors.out_of]
    assert comparison.intrinsic.n_charts == 1
    assert comparison.max_deviation <= 1e-7


@pytest.mark.parametrize("coordinates", MODES)
@pytest.mark.slow
def test_many_weights_cross_zero(coordinates):
    invariant_set, loss = problem("layers")
    comparison = compare(invariant_set, loss, (0.0, 1.0), coordinates=coordinates, **precise(1e-9))
    crossed = changes_sign(comparison.parameter)
    assert crossed.sum() >= 5
    np.testing.assert_array_equal(changes_sign(comparison.intrinsic), crossed)
    assert comparison.max_deviation <= 1e-7
