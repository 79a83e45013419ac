"""Recoverability of ReLU networks from the graph, against dense kernels."""

import networkx as nx
import numpy as np
import pytest
from random_dags import random_network

from liftflow import Architecture, ReLUNetwork, classify, count_conservation_laws, recoverability
from liftflow.criteria import commuting
from liftflow.criteria.views import view_of


def dense_kernel(network, theta):
    """Null space of ∂φ and ∂h, stacked, by their dense matrices."""
    rows = np.vstack([network.lift_jacobian(theta), network.conservation_laws_jacobian(theta)])
    singular, right = np.linalg.svd(rows)[1:]
    singular = np.pad(singular, (0, network.dim - singular.size))
    return right[singular < 1e-10]


@pytest.mark.parametrize("seed", range(20))
def test_zeros_agree_with_dense_kernels(seed, rng):
    network = random_network(seed)
    seen = set()
    for _ in range(15):
        theta = rng.uniform(0.5, 1.5, size=network.dim) * rng.choice([-1, 1], size=network.dim)
        theta[rng.random(network.dim) < rng.uniform(0, 0.7)] = 0.0
        kernel, found = dense_kernel(network, theta), recoverability(network, theta)
        assert (found.verdict == "holds") == (len(kernel) == 0)
        if len(kernel):  # named are the dead parameters that the kernel moves
            dead = ~np.any(network.lift_jacobian(theta), axis=0)
            moved = np.flatnonzero(dead & (np.linalg.norm(kernel, axis=0) > 1e-8))
            named = [network.parameter_names[i] for i in moved]
            assert found.witness["parameters"] == named
        seen.add(str(found.verdict))
    assert seen == {"holds", "fails"} or network.n_hidden < 2


def test_dead_parameter_is_named():
    graph = nx.DiGraph([("x", "a"), ("a", "b"), ("b", "y"), ("x", "c"), ("c", "y")])
    network = ReLUNetwork(graph, ["x"], ["y"])
    theta = np.ones(5)
    theta[network.parameter_names.index(("x", "a"))] = 0.0
    assert recoverability(network, theta)  # the laws of a and b still determine a→b and b→y
    theta[network.parameter_names.index(("a", "b"))] = 0.0
    found = classify(network, theta)
    assert found.recoverable.verdict == "fails"
    assert found.recoverable.witness["parameters"] == [("x", "a"), ("a", "b")]
    assert "'x'→'a', 'a'→'b'" in found.recoverable.reason
    assert found.recoverable.to_dict()["witness"]["parameters"][0] == ["x", "a"]


def test_nonzero_dead_parameters_on_a_cycle_are_named():
    network = ReLUNetwork.from_widths([2, 1, 1])
    theta = np.array([1.0, 2.0, 0.0])  # both weights in, and their law is one number
    found = recoverability(network, theta)
    assert found.witness["parameters"] == [((0, 0), (1, 0)), ((0, 1), (1, 0))]
    assert len(dense_kernel(network, theta)) == 1
    assert recoverability(network, np.array([1.0, 0.0, 1.0]))


def test_metric_of_an_unrecoverable_network_is_checked():
    network = ReLUNetwork.from_widths([2, 1, 2])
    theta = np.array([1.0, 2.0, 0.0, 0.0])
    found = classify(network, theta)
    assert (found.recoverable.verdict, found.metric.verdict) == ("fails", "fails")


@pytest.mark.parametrize("seed", range(10))
def test_dense_criterion_agrees_with_the_graph(seed):
    network = random_network(seed)
    theta = network.random_point(rng=seed)
    kernel = view_of(network, theta, np.random.default_rng(0)).kernel
    assert kernel.rank.decided and len(kernel.basis) == 0
    assert recoverability(network, theta)


@pytest.mark.parametrize("widths", [[3, 5, 4, 2], [30, 150, 120, 10]])  # dense, and sparse
def test_conditioning_is_the_smallest_eigenvalue(widths, rng):
    network = ReLUNetwork.from_widths(widths, bias=True)
    theta = network.random_point(rng=rng)
    jacobian = network.dag.channels.law_matrix.toarray() * theta
    laplacian = jacobian @ jacobian.T
    scale = 1 / np.sqrt(np.diag(laplacian))
    wanted = np.linalg.eigvalsh(laplacian * scale[:, None] * scale)[0]
    assert network.channels.conditioning(theta) == pytest.approx(wanted, abs=1e-12)
    assert recoverability(network, theta).value == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_weights_are_negligible_whatever_the_gauge(scale, rng):
    network = ReLUNetwork.from_widths([3, 4, 3, 2], bias=True)
    theta = network.random_point(rng=rng)
    theta[:12].reshape(3, 4)[:, 0] *= 1e-25  # all that leads into one neuron, with its bias
    theta[network.parameter_names.index(("⟨1⟩", (1, 0)))] *= 1e-25
    logs = np.log(1e4) * rng.uniform(-1, 1, size=network.n_hidden)
    moved = scale * network.rescale(theta, logs)
    channels = network.channels
    assert np.array_equal(channels.negligible(moved), channels.negligible(theta))
    assert np.any(channels.negligible(theta))
    found = recoverability(network, moved)
    assert found.verdict == "undecided"
    assert "(1, 0)" in found.reason
    assert recoverability(network, scale * network.random_point(rng=rng)).verdict == "holds"


@pytest.mark.parametrize("seed", range(10))
def test_paths_that_share_an_edge_are_found(seed):
    network = random_network(seed)
    incidence = network.path_incidence.toarray()
    shares = np.any((incidence @ incidence.T)[~np.eye(network.n_paths, dtype=bool)] > 0)
    assert bool(commuting(network, network.random_point(rng=0))) != shares
    diagonal = ReLUNetwork.diagonal(4, depth=3)
    assert commuting(diagonal, diagonal.random_point(rng=0))


def test_large_network_goes_by_its_graph():
    network = ReLUNetwork.from_widths([100] * 5)
    found = classify(network, network.random_point(rng=0))
    assert [str(f.verdict) for f in vars(found).values()] == [
        *["holds"] * 3,
        "holds",
        "holds",
        "fails",
        "holds",
        "holds",
    ]
    assert found.n_laws.value == 300
    assert found.commuting.witness["node"] == (1, 0)
    assert network.n_paths > 10**9  # none of which was listed


def test_a_large_network_with_a_dead_parameter_is_left_undecided():
    network = ReLUNetwork.from_widths([40] * 6)
    theta = network.random_point(rng=0)
    theta[:1600].reshape(40, 40)[:, 0] = 0  # nothing reaches the first hidden node,
    theta[1600:1640] = 0  # which reaches nothing
    found = classify(network, theta)
    assert found.recoverable.verdict == "fails"
    doubts = (found.inclusion, found.metric, found.dynamic, found.frobenius, found.commuting)
    for finding in doubts:
        assert finding.verdict == "undecided"
    assert "too many parameters to look at its kernel" in found.inclusion.reason


def test_counts_by_graph_are_those_by_brackets():
    small, large = ReLUNetwork.from_widths([4, 5, 4]), ReLUNetwork.from_widths([30, 20, 10])
    assert count_conservation_laws(small).value == 5
    assert count_conservation_laws(large).value == 20
    assert count_conservation_laws(large).tolerance == 0.0
    assert isinstance(large, Architecture)
