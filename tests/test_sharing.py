"""The classes of channels, held to the null space of all equations at once, in floats."""

import numpy as np
import pytest
import scipy.linalg

from liftflow.architectures.sharing import shared_channels


def equations(tails, heads, parameters, degrees):
    """The rows of every edge, and what frozen and shared ones must not do."""
    rows = np.zeros((tails.size, degrees.size))
    for row, tail, head in zip(rows, tails, heads, strict=True):
        if head >= 0:
            row[head] += 1
        if tail >= 0:
            row[tail] -= degrees[tail]
    wrong = [row for row, own in zip(rows, parameters, strict=True) if own < 0]
    for number in range(parameters.max() + 1):
        first, *others = rows[parameters == number]
        wrong += [first - other for other in others]
    return rows, np.array(wrong).reshape(-1, degrees.size)


def rank(matrix):
    return np.linalg.matrix_rank(matrix) if matrix.size else 0


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("seed", range(20))
def test_random_sharing(seed, power):
    rng = np.random.default_rng(seed)
    size, n_edges = int(rng.integers(2, 9)), 24
    tails, heads = rng.integers(-1, size, (2, n_edges))
    tails[:size], heads[:size] = -1, np.arange(size)
    degrees = rng.integers(1, power + 1, size)
    parameters = np.arange(n_edges)
    parameters[rng.integers(0, n_edges, 2)] = -1
    parameters[rng.integers(0, n_edges, 3)] = 5
    parameters = np.unique(parameters, return_inverse=True)[1] - (parameters.min() < 0)
    rows, wrong = equations(tails, heads, parameters, degrees)
    free = scipy.linalg.null_space(wrong) if wrong.size else np.eye(size)
    wanted = np.array([rows[parameters == p][0] for p in range(parameters.max() + 1)]) @ free
    graph = shared_channels(tails, heads, parameters, degrees, range(size))
    found = graph.incidence.toarray()
    assert found.shape[1] == rank(found) == rank(wanted) == rank(np.hstack([found, wanted]))


def chain(width, matrices):
    """Layers of one width between two inputs and two outputs; None is frozen."""
    widths = [2, *[width] * (len(matrices) - 1), 2]
    node = {(l, i): l * width + i for l in range(len(matrices) - 1) for i in range(width)}
    edges, numbers = [], {}
    for l, name in enumerate(matrices):
        for i in range(widths[l]):
            for j in range(widths[l + 1]):
                number = -1 if name is None else numbers.setdefault((name, i, j), len(numbers))
                edges.append((node.get((l - 1, i), -1), node.get((l, j), -1), number))
    tails, heads, parameters = np.array(edges).T
    return tails, heads, parameters, np.ones(len(node), dtype=int), list(node)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_weight_used_twice_in_a_row(width):
    """x → W₀ → W → W → C of width r has r + 1 laws: differences are equal, nothing merges."""
    graph = shared_channels(*chain(width, ["A", "W", "W", "C"]))
    assert graph.n_channels == width + 1
    apart = shared_channels(*chain(width, ["A", "W", "V", "C"]))  # untied, one law per neuron
    assert apart.n_channels == 3 * width


def test_a_frozen_layer_merges_all_that_it_mixes():
    assert shared_channels(*chain(4, ["A", None, "C"])).n_channels == 1
    assert shared_channels(*chain(4, ["A", "B", "C"])).n_channels == 8


def test_a_skip_merges_and_its_members_are_named():
    """A frozen edge from a to b makes one channel of them; c stays."""
    tails, heads = np.array([-1, 0, 1, -1, 2]), np.array([0, 1, -1, 2, -1])
    parameters = np.array([0, -1, 1, 2, 3])
    graph = shared_channels(tails, heads, parameters, np.ones(3, dtype=int), ["a", "b", "c"])
    assert set(graph.members) == {("a", "b"), "c"}


def test_what_a_frozen_weight_ties_to_an_input_does_not_rescale():
    tails, heads, parameters = np.array([-1, 0]), np.array([0, -1]), np.array([-1, 0])
    assert shared_channels(tails, heads, parameters, np.ones(1, dtype=int), "a").n_channels == 0
