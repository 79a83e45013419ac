"""Mirror flows: which metrics are Hessian, and the potentials in closed form."""

from itertools import pairwise

import mpmath
import networkx as nx
import numpy as np
import pytest

from liftflow import IntrinsicFlow, InvariantSet, ReLUNetwork, loss_from_function
from liftflow.errors import ArchitectureError, InputError, NotRecoverableError, UndecidedError
from liftflow.flows import (
    DiagonalPotential,
    NeuronPotential,
    chart_metric_matrix,
    is_hessian_metric,
    is_warped_hessian_metric,
)

CHAINS = {  # squares of the weights of one chain: all laws of theory, elementary to hyperelliptic
    "depth 2": [0.9, 0.4],
    "depth 2 balanced": [0.7, 0.7],
    "depth 3": [0.3, 1.1, 0.6],
    "depth 3 least pair": [0.3, 0.3, 0.8],
    "depth 3 balanced": [0.5, 0.5, 0.5],
    "depth 3 balanced to rounding": [0.1 + 0.2, 0.3, 0.3],
    "depth 4": [0.8, 0.3, 1.4, 0.5],
    "depth 4 least pair": [0.3, 0.9, 0.3, 1.2],
    "depth 5": [0.8, 0.3, 1.4, 0.5, 1.1],
    "depth 5 least triple": [0.4, 0.4, 1.4, 0.4, 1.1],
    "depth 6 balanced": [0.9] * 6,
}


def diagonal(*chains):
    """Return a diagonal network and the θ₀ with these squares along its chains."""
    network = ReLUNetwork.diagonal(len(chains), len(chains[0]))
    theta = np.zeros(network.dim)
    names = {name: i for i, name in enumerate(network.parameter_names)}
    for path, squares in zip(network.paths(), chains, strict=True):
        for edge, square in zip(pairwise(path), squares, strict=True):
            theta[names[edge]] = np.sqrt(square)
    return network, theta


def neuron(delta, n=3, seed=0):
    """Return one neuron with n inputs, and a θ₀ with v² − |u|² = delta."""
    network = ReLUNetwork.from_widths([n, 1, 1])
    u = np.random.default_rng(seed).standard_normal(n)
    u *= np.sqrt((max(-delta, 0.0) + 0.5) / np.sum(u**2))
    return network, np.append(u, np.sqrt(np.sum(u**2) + delta))


def slopes(function, point, step=1e-3):
    """Gradient or Jacobian along the last axis, by central differences of order 6."""
    total = 0.0
    for weight, count in ((45, 1), (-9, 2), (1, 3)):
        shift = count * step * np.eye(len(point))
        total = total + weight * (function(point + shift) - function(point - shift))
    return np.moveaxis(total / (60 * step), 0, -1)


# Potentials of diagonal networks.


@pytest.mark.parametrize("chain", CHAINS)
def test_diagonal_potential_has_the_inverse_of_k_as_its_hessian(chain):
    network, theta0 = diagonal(CHAINS[chain], CHAINS[chain][::-1])
    potential = DiagonalPotential(network, theta0)
    metric = InvariantSet(network, theta0).image().metric
    for z in np.array([[0.31, -0.7], [1.9, -0.05], [-4.0, 25.0]]):
        step = 1e-3 * np.abs(z).min()
        hessian = potential.hessian(z)
        np.testing.assert_allclose(hessian, metric.metric_matrix(z), rtol=1e-11)
        np.testing.assert_allclose(slopes(potential.gradient, z, step), hessian, rtol=2e-7, atol=0)
        np.testing.assert_allclose(
            slopes(potential.value, z, step), potential.gradient(z), rtol=1e-7
        )


@pytest.mark.parametrize("chain", CHAINS)
def test_mirror_map_of_a_chain_is_the_integral_of_one_over_k(chain):
    network, theta0 = diagonal(CHAINS[chain])
    potential = DiagonalPotential(network, theta0)
    start, end = 0.02, 3.0
    gaps = [mpmath.mpf(float(gap)) for gap in potential._gaps[0]]

    def inverse_cometric(z):  # with nothing shared: roots of the polynomial, in 30 digits
        def surplus(log_excess):
            return mpmath.fsum(mpmath.log(gap + mpmath.exp(log_excess)) for gap in gaps) - 2 * log_z

        log_z = mpmath.log(z)
        e = mpmath.exp(mpmath.findroot(surplus, log_z, tol=1e-40))
        return 1 / (z**2 * mpmath.fsum(1 / (gap + e) for gap in gaps))

    with mpmath.workdps(30):
        exact = mpmath.quad(inverse_cometric, [start, 0.1, 0.5, end])
    got = potential.gradient([end]) - potential.gradient([start])
    assert abs(got[0] - float(exact)) <= 1e-11 * abs(float(exact))


def test_mirror_map_keeps_its_digits_near_zero_and_is_odd():
    for chain in ("depth 2", "depth 3", "depth 4", "depth 5"):
        network, theta0 = diagonal(CHAINS[chain])
        potential = DiagonalPotential(network, theta0)
        slope = potential.hessian([0.0])[0, 0]
        near = potential.gradient([1e-9])
        np.testing.assert_allclose(near, 1e-9 * slope, rtol=1e-12)
        np.testing.assert_allclose(potential.gradient([-1e-9]), -near, rtol=1e-15)
        assert potential.value([0.0]) == 0.0


def test_known_potentials():
    z = np.linspace(-3.0, 3.0, 8)[:, None]
    network, theta0 = diagonal(CHAINS["depth 2"])
    law = network.conservation_laws(theta0)
    potential = DiagonalPotential(network, theta0)
    np.testing.assert_allclose(potential.gradient(z), np.arcsinh(2 * z / abs(law)) / 2, rtol=1e-13)
    network, theta0 = diagonal(CHAINS["depth 2 balanced"])
    balanced = DiagonalPotential(network, theta0)
    np.testing.assert_allclose(balanced.gradient(z), np.sign(z) * np.log(abs(z)) / 2, rtol=1e-13)
    np.testing.assert_allclose(balanced.hessian(z)[:, 0], 1 / (2 * abs(z)), rtol=1e-13)


def test_conjugate_potential_is_half_the_least_square():
    network, theta0 = diagonal(CHAINS["depth 4"])
    potential = DiagonalPotential(network, theta0)
    z = np.array([[0.3], [1.7]])
    theta = network.recover(z, network.conservation_laws(theta0), near=theta0)
    conjugate = z[:, 0] * potential.gradient(z)[:, 0] - potential.value(z)
    np.testing.assert_allclose(conjugate, theta.min(axis=-1) ** 2 / 2, rtol=1e-12)


@pytest.mark.parametrize("chain", ["depth 2", "depth 3", "depth 5"])
def test_intrinsic_flow_is_straight_in_the_mirror_coordinate(chain):
    """With f linear, ∇Φ(z(t)) = ∇Φ(z₀) − ct; by the mirror map of other laws it is not."""
    network, theta0 = diagonal(CHAINS[chain], CHAINS[chain][::-1])
    cost = np.array([0.4, -0.3])
    loss = loss_from_function(lambda z: z @ cost)
    flow = IntrinsicFlow(InvariantSet(network, theta0), loss, coordinates="full")
    run = flow.integrate(t_span=(0.0, 1.0), rtol=1e-10, atol=1e-12, method="DOP853", n_times=9)

    def bend(potential):
        straight = potential.gradient(run.y[0]) - run.t[:, None] * cost
        return np.max(np.abs(potential.gradient(run.y) - straight))

    assert bend(DiagonalPotential(network, theta0)) <= 1e-8
    assert bend(DiagonalPotential(network, 1.5 * theta0)) > 1e-2


def test_an_edge_without_a_hidden_node_has_a_flat_potential():
    graph = nx.DiGraph([("x", "a"), ("a", "o"), ("y", "o")])
    network = ReLUNetwork(graph, inputs="xy", outputs="o")
    theta0 = np.array([0.5, 0.8, 0.3])
    potential, z = DiagonalPotential(network, theta0), np.array([0.7, -1.4])
    metric = InvariantSet(network, theta0).image().metric
    np.testing.assert_allclose(potential.hessian(z), metric.metric_matrix(z), rtol=1e-12)
    np.testing.assert_allclose(slopes(potential.gradient, z), potential.hessian(z), atol=1e-9)
    np.testing.assert_allclose(slopes(potential.value, z), potential.gradient(z), rtol=1e-9)


def test_diagonal_potential_refuses():
    with pytest.raises(ArchitectureError, match="disjoint paths"):
        DiagonalPotential(ReLUNetwork.from_widths([2, 1, 1]), [1.0, 1.0, 1.0])
    network, theta0 = diagonal(CHAINS["depth 3 least pair"])
    with pytest.raises(NotRecoverableError, match="not defined there"):
        DiagonalPotential(network, theta0).gradient([0.0])


# One neuron.


@pytest.mark.parametrize("delta", [-0.8, 0.0, 0.6])
def test_neuron_is_a_warped_mirror_flow_and_not_a_mirror_flow(delta):
    network, theta0 = neuron(delta)
    metric = InvariantSet(network, theta0).image().metric
    potential = NeuronPotential(network, theta0)
    points = np.array([[0.4, -0.3, 0.5], [1.2, 0.8, -0.4]])
    plain = is_hessian_metric(metric.metric_matrix, points)
    assert not plain
    assert plain.value > 0.05
    assert is_hessian_metric(metric.metric_matrix, points, warping=potential.warping)
    found = is_warped_hessian_metric(metric.metric_matrix, points)
    assert found
    for z, eta in zip(points, found.witness["log_warping_gradient"], strict=True):
        exact = slopes(lambda z: np.log(potential.warping(z)), z)
        np.testing.assert_allclose(eta, exact, rtol=1e-5)
        warped = potential.warping(z) * metric.metric_matrix(z)
        np.testing.assert_allclose(potential.hessian(z), warped, atol=1e-12)
        np.testing.assert_allclose(slopes(potential.gradient, z), warped, atol=1e-9)
        np.testing.assert_allclose(slopes(potential.value, z), potential.gradient(z), rtol=1e-9)
        theta = network.recover(z, network.conservation_laws(theta0), near=theta0)
        sign = np.sign(theta[-1])
        np.testing.assert_allclose(potential.gradient(z), sign * theta[:-1], rtol=1e-12)
        np.testing.assert_allclose(potential.warping(z), sign * theta[-1], rtol=1e-12)


def test_balanced_neuron_is_that_of_the_paper():
    network, theta0 = neuron(0.0)
    potential = NeuronPotential(network, theta0)
    z = np.array([0.3, 0.4, 1.2])  # of length 1.3
    np.testing.assert_allclose(potential.value(z), 2 / 3 * 1.3**1.5, rtol=1e-13)
    np.testing.assert_allclose(potential.warping(z), np.sqrt(1.3), rtol=1e-13)
    with pytest.raises(NotRecoverableError, match="not smooth"):
        potential.gradient([0.0, 0.0, 0.0])
    with pytest.raises(ArchitectureError, match="n, 1, 1"):
        NeuronPotential(ReLUNetwork.from_widths([2, 1, 2]), np.ones(4))


# The checks.


def test_commuting_networks_are_hessian_and_two_outputs_are_not_even_warped():
    network, theta0 = diagonal(CHAINS["depth 3"], CHAINS["depth 3"][::-1])
    metric = InvariantSet(network, theta0).image().metric.metric_matrix
    check = is_hessian_metric(metric, [[0.4, -0.7], [1.5, 0.3]])
    assert check
    assert check.margin > 10
    network = ReLUNetwork.from_widths([2, 1, 2])
    theta0 = np.array([0.8, -0.6, 0.9, 0.5])
    metric = chart_metric_matrix(network, theta0)
    chart = network.basis_chart(theta0).coordinates(theta0)
    assert not is_hessian_metric(metric, chart)
    assert not is_warped_hessian_metric(metric, chart)


def test_chart_metric_is_the_metric_where_the_image_is_open():
    network, theta0 = neuron(0.6)
    chart = chart_metric_matrix(network, theta0)
    image = InvariantSet(network, theta0).image().metric
    z = network.lift(theta0)
    assert is_warped_hessian_metric(chart, z)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(chart(z)), np.linalg.eigvalsh(image.metric_matrix(z))
    )


def test_a_curl_is_seen_in_two_dimensions():
    """In the plane some η always solves the pointwise condition; only its curl decides."""

    def metric(z):
        x, y = z[..., 0], z[..., 1]
        zero = 0.0 * x
        rows = [[1.0 + y**2 * x**2, zero], [zero, 1.0 + x * y]]
        return np.moveaxis(np.array(rows), (0, 1), (-2, -1))

    check = is_warped_hessian_metric(metric, [[0.7, 0.4]])
    assert not check
    euclidean = is_warped_hessian_metric(lambda z: np.eye(2) + 0.0 * z[..., None], [[0.7, 0.4]])
    assert euclidean
    np.testing.assert_allclose(euclidean.witness["log_warping_gradient"], 0.0, atol=1e-12)


def test_checks_refuse():
    network = ReLUNetwork.from_widths([2, 1, 2])
    theta0 = np.array([0.8, -0.6, 0.9, 0.5])
    metric = InvariantSet(network, theta0).image().metric.metric_matrix
    with pytest.raises(InputError, match="chart_metric_matrix"):
        is_hessian_metric(metric, network.lift(theta0))
    with pytest.raises(InputError, match="of that size"):
        is_hessian_metric(lambda z: np.eye(3), [0.1, 0.2])
    with pytest.raises(InputError, match="one dimension"):
        is_warped_hessian_metric(lambda z: z[..., None], [0.1])
    with pytest.raises(UndecidedError, match="finite differences err"):
        bool(is_hessian_metric(lambda z: np.eye(2) * np.exp(40 * z[..., None, :]), [0.9, 0.8]))


def neuron_and_chain(n_inputs, scale):
    """A neuron with generic weights and, if its scale is given, a chain with weights of that."""
    graph = nx.DiGraph([("b", "z"), *[(f"x{i}", "b") for i in range(n_inputs)]])
    if scale is not None:
        graph.add_edges_from([("w", "a"), ("a", "y")])
    inputs = [node for node in graph if node[0] in "wx"]
    network = ReLUNetwork(graph, inputs, [node for node in graph if node in "yz"])
    weights = {"x0": 0.6, "x1": 0.8, "b": 1.0, "w": scale, "a": scale}
    return network, np.array([weights[tail] for tail, _ in network.parameter_names])


def metric_at(network, theta):
    return InvariantSet(network, theta).image().metric.metric_matrix, network.lift(theta)


@pytest.mark.parametrize(("scale", "unit"), [(1e-6, 1.0), (1e-4, 1e6), (0.1, 1e-6), (1e4, 1.0)])
@pytest.mark.slow
def test_no_block_hides_another(scale, unit):
    """The asymmetry of a neuron is the same beside a chain; two chains have none."""
    network, theta = neuron_and_chain(2, scale)
    beside, alone = metric_at(network, unit * theta), metric_at(*neuron_and_chain(2, None))
    found = is_hessian_metric(*beside)
    assert found.verdict == "fails"
    assert is_warped_hessian_metric(*beside).verdict == "fails"
    if scale < 1:  # else the neuron's coordinates are small beside the largest
        assert found.value == pytest.approx(is_hessian_metric(*alone).value, rel=1e-6)
    chains, theta = neuron_and_chain(1, scale)
    assert is_hessian_metric(*metric_at(chains, unit * theta)).verdict == "holds"


@pytest.mark.parametrize("small", [1e-10, 1e-4])
@pytest.mark.parametrize(("coupling", "verdict"), [(0.0, "holds"), (1.0, "fails")])
def test_a_coupling_of_blocks_is_seen_whatever_their_scales(small, coupling, verdict):
    """g = diag((1 + c y)/|x|, 1/√(1 + y²)): ∂_y g_xx alone is not symmetric."""

    def metric(z):
        x, y = z[..., 0], z[..., 1]
        diagonal = [(1 + coupling * y) / np.abs(x), 1 / np.sqrt(1 + y**2)]
        return np.eye(2) * np.stack(diagonal, axis=-1)[..., None]

    assert is_hessian_metric(metric, [small, 0.3]).verdict == verdict
