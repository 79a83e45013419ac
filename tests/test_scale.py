"""Large networks: what is fast agrees with what is plain, and nothing of size D × D is held."""

import networkx as nx
import numpy as np
import pytest
from numpy.testing import assert_allclose
from plain_flow import PlainNetwork
from random_dags import random_network
from test_flows import NETWORKS, bowl

from liftflow.architectures import ReLUNetwork
from liftflow.architectures.laplacian import DENSE_LIMIT
from liftflow.flows import IntrinsicFlow
from liftflow.losses import NetworkLoss
from liftflow.manifolds import InvariantSet

every_network = pytest.mark.parametrize("name", NETWORKS)


def shuffled(network, rng):
    """The same network by a graph whose edges come in another order, so that none is a matrix."""
    order = rng.permutation(network.dag.n_edges)
    graph = nx.DiGraph()
    graph.add_nodes_from(network.graph)
    graph.add_edges_from(network.parameter_names[i] for i in order)
    other = ReLUNetwork(graph, network.inputs, network.outputs, network.biases)
    number = {edge: i for i, edge in enumerate(network.parameter_names)}
    return other, np.array([number[edge] for edge in other.parameter_names])


# The plain reference.


@every_network
def test_velocity_is_that_of_the_plain_reference(name, rng):
    network = NETWORKS[name]()
    theta0 = network.random_point(rng=rng)
    loss, plain = bowl(network, 3), PlainNetwork(network)
    state = IntrinsicFlow(InvariantSet(network, theta0), loss, "basis").state()
    for size in (0.0, 1e-3, 0.1):  # from the start, and from neighbours recovered warm
        theta = network.project_to_laws(
            theta0 * (1 + size * rng.standard_normal(network.dim)), plain.laws(theta0)
        )
        z = plain.lift(theta)
        assert_allclose(plain.recover(z, plain.laws(theta0), theta), theta, rtol=1e-10)
        wanted = -plain.cometric(z, theta) @ loss.gradient(z)
        got = state.velocity(state.chart.coordinates(theta))
        assert_allclose(state.theta, theta, rtol=1e-11)
        numbers = network.path_numbers(state.chart)
        assert_allclose(got, wanted[numbers], atol=1e-11 * np.max(np.abs(wanted)))
        # The control: other laws give another velocity.
        elsewhere = plain.recover(z, plain.laws(theta0) + 0.1, theta)
        other = -plain.cometric(z, elsewhere) @ loss.gradient(z)
        assert np.max(np.abs(got - other[numbers])) > 1e-3 * np.max(np.abs(wanted))


@every_network
def test_flow_is_that_of_the_plain_reference(name):
    network = NETWORKS[name]()
    theta0, loss = network.random_point(rng=5), bowl(network, 5)
    t_end = 0.02  # before a weight crosses zero
    settings = {"t_span": (0.0, t_end), "method": "DOP853", "rtol": 1e-9, "atol": 1e-11}
    flow = IntrinsicFlow(InvariantSet(network, theta0), loss, "basis").integrate(**settings)
    wanted = PlainNetwork(network).flow(loss, theta0, t_end, 1e-9)
    moved = np.linalg.norm(wanted - network.lift(theta0))
    assert np.linalg.norm(network.lift(flow.theta[-1]) - wanted) < 1e-6 * moved


# Layers as matrices, and the same edges in disorder.


@pytest.mark.parametrize("widths", [[5, 4, 3, 2], [3, 70, 40, 2]])
@pytest.mark.parametrize("bias", [False, True])
def test_layers_and_loose_edges_agree(widths, bias, rng):
    network = ReLUNetwork.residual(widths, [(0, 2), (1, 3)], bias)
    other, order = shuffled(network, rng)
    assert len(network.dag.grids) == 5 + 3 * bias
    assert not network.dag.channels.loose.size
    assert other.dag.channels.loose.size > 0.8 * other.dim  # biases still come in rows
    theta = network.random_point(rng=rng)
    assert_allclose(
        other.laplacian.matrix(theta[order] ** 2), network.laplacian.matrix(theta**2), atol=1e-13
    )
    laws = rng.standard_normal(network.n_hidden)
    moved = network.project_to_laws(theta, laws)
    assert_allclose(other.project_to_laws(theta[order], laws), moved[order], rtol=1e-11)
    assert_allclose(network.conservation_laws(moved), laws, atol=1e-11)
    charts = network.basis_chart(theta), other.basis_chart(theta[order])
    assert_allclose(
        charts[1].recover(charts[1].coordinates(theta[order]), laws), moved[order], rtol=1e-11
    )
    tangent = rng.standard_normal(network.dim)
    pushed = np.empty(network.dim)
    pushed[order[charts[1].edges]] = charts[1].push_forward(theta[order], tangent[order])
    assert_allclose(pushed[charts[0].edges], charts[0].push_forward(theta, tangent), rtol=1e-12)
    inputs = rng.standard_normal((7, network.dag.n_inputs))
    one, two = (NetworkLoss(net, inputs, np.ones((7, 2))) for net in (network, other))
    assert_allclose(
        two.parameter_gradient(theta[order]), one.parameter_gradient(theta)[order], atol=1e-13
    )


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("width", [20, 100, 400])
def test_warm_recovery_is_as_precise_as_a_cold_one(width, size, rng):
    """By factorization, by CG before one, and by CG alone."""
    network = ReLUNetwork.from_widths([3, width, width, 2])
    assert (network.n_hidden > DENSE_LIMIT) == (width == 400)
    theta = network.random_point(rng=rng)
    chart, laws = network.basis_chart(theta), network.conservation_laws(theta)
    near = network.rescale(theta, size * rng.standard_normal(network.n_hidden))
    found = chart.recover(chart.coordinates(theta), laws, near=near)
    assert_allclose(found, theta, rtol=1e-11)


def test_badly_scaled_weights_are_recovered(rng):
    """Where conjugate gradients are out of their depth, a factorization takes over."""
    network = ReLUNetwork.from_widths([2, 40, 40, 40, 2])
    theta = network.random_point(rng=rng) * np.exp(6 * rng.standard_normal(network.dim))
    laws = network.conservation_laws(theta)
    found = network.project_to_laws(network.fibre_point(theta, rng), laws)
    total = np.abs(network.dag.channels.law_matrix) @ theta**2
    assert np.max(np.abs(network.conservation_laws(found) - laws) / total) < 1e-13


def test_no_matrix_of_all_parameters_is_held():
    network = ReLUNetwork.from_widths([100, 300, 300, 10])  # D × D would take 120 GB
    start = InvariantSet(network, network.random_point(rng=0))
    assert start.embedding_space.dim == network.dim
    tangent = start.random_tangent_vec(start.theta0, rng=1)
    assert start.is_tangent(tangent, start.theta0, atol=1e-9)
    norm = start.embedding_space.metric.norm(tangent, start.theta0)
    assert_allclose(norm, np.linalg.norm(tangent))
    small = InvariantSet(ReLUNetwork.diagonal(2), np.ones(4))
    assert_allclose(small.embedding_space.metric.metric_matrix(), np.eye(4))


# The kernel on parameters.


@pytest.mark.parametrize("seed", range(12))
def test_kernel_is_that_of_the_jacobian(seed, rng):
    network = random_network(seed)
    theta = network.random_point(2, rng=rng)
    theta[:, seed % 3 :: 4] = 0.0  # nothing is divided by
    jacobian = network.lift_jacobian(theta)
    wanted = np.swapaxes(jacobian, -1, -2) @ jacobian
    scale = np.max(np.abs(wanted), initial=1e-300)
    vector = rng.standard_normal(network.dim)
    assert_allclose(network.kernel_matrix(theta), wanted, atol=1e-14 * scale)
    assert_allclose(network.kernel_apply(theta, vector), wanted @ vector, atol=1e-12 * scale)
    diagonal = np.diagonal(wanted, axis1=-2, axis2=-1)
    assert_allclose(network.kernel_diagonal(theta), diagonal, atol=1e-14 * scale)


@pytest.mark.parametrize("bias", [False, True])
def test_kernel_of_layers_and_skips(bias, rng):
    network = ReLUNetwork.residual([3, 4, 5, 2], [(0, 2), (1, 3)], bias)
    theta = network.random_point(rng=rng)
    jacobian = network.lift_jacobian(theta)
    kernel = network.kernel_matrix(theta)
    assert_allclose(kernel, jacobian.T @ jacobian, atol=1e-14 * np.max(kernel))
    # The control: at another point of the fibre, with the same z, the kernel is another.
    other = network.kernel_matrix(network.fibre_point(theta, rng))
    assert np.max(np.abs(other - kernel)) > 0.1 * np.max(kernel)


def test_kernel_without_a_list_of_paths(rng):
    """Fifty layers have 10⁵⁰ paths; the kernel has one eigenvalue 0 for each hidden node."""
    network = ReLUNetwork.from_widths([2] + [10] * 4 + [2], path_limit=1)
    theta = network.random_point(rng=rng)
    values = np.linalg.eigvalsh(network.kernel_matrix(theta))
    assert np.sum(values < 1e-10 * values[-1]) == network.n_hidden
    deep = ReLUNetwork.from_widths([10] * 51)
    theta = deep.random_point(rng=rng)
    vector = rng.standard_normal(deep.dim)
    image = deep.kernel_apply(theta, vector)
    assert_allclose(deep.kernel_apply(theta, image) @ vector, image @ image, rtol=1e-11)
    # Rescaling moves no z: those directions are in the kernel's kernel.
    slide = theta * (deep.dag.channels.law_matrix.T @ rng.standard_normal(deep.n_hidden))
    size = np.max(deep.kernel_diagonal(theta)) * np.linalg.norm(slide)
    assert np.linalg.norm(deep.kernel_apply(theta, slide)) < 1e-11 * size


def test_gram_operator_in_a_chart(rng):
    network = ReLUNetwork.residual([3, 4, 4, 2], [(0, 2)], bias=True)
    theta = network.random_point(rng=rng)
    chart = network.basis_chart(theta)
    numbers = network.path_numbers(chart)
    gram = network.gram_matrix(theta)[np.ix_(numbers, numbers)]
    covector = rng.standard_normal(chart.dim)
    assert_allclose(chart.gram_apply(theta, covector), gram @ covector, rtol=1e-11)
