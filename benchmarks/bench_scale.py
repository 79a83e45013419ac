"""What the intrinsic flow costs beside training, what recovery costs, and the kernel.

The peers: a backpropagation written by hand on the same matrices, PyTorch where it is installed,
our own gradient for the right-hand side of the intrinsic flow, and the figures of PathCond
(Lebeurrier, Vayer and Gribonval 2026) as measured once with its published code on two cores.
"""

import importlib.util
from collections.abc import Callable, Iterator

import networkx as nx
import numpy as np
from table import Row, peak_memory, report, side_by_side

from liftflow import IntrinsicFlow, InvariantSet, NetworkLoss, ReLUNetwork
from liftflow.data import load
from liftflow.typing import FloatArray

# Seconds of PathCond's solver, in float32, by widths.
PATHCOND = {
    (64, 64, 64, 10): 0.26,
    (256, 256, 256, 10): 9.5,
    (784, 500, 500, 10): 17.0,
}
PATHCOND_KERNEL, PATHCOND_KERNEL_BYTES = 15.4, 4.5e9


def backpropagation(
    matrices: list[FloatArray], inputs: FloatArray, one_hot: FloatArray
) -> list[FloatArray]:
    """Gradient of the cross-entropy of a ReLU network by its layers, written by hand."""
    values = [inputs]
    for number, matrix in enumerate(matrices):
        product = values[-1] @ matrix
        if number + 1 < len(matrices):
            np.maximum(product, 0.0, out=product)
        values.append(product)
    delta = values[-1] - values[-1].max(axis=1, keepdims=True)
    np.exp(delta, out=delta)
    delta /= delta.sum(axis=1, keepdims=True)
    delta -= one_hot
    delta /= len(inputs)
    gradients = []
    for number in reversed(range(len(matrices))):
        gradients.append(values[number].T @ delta)
        if number:
            delta = delta @ matrices[number].T
            delta *= values[number] > 0
    return gradients[::-1]


def torch_gradient(
    matrices: list[FloatArray], inputs: FloatArray, labels: FloatArray
) -> Callable[[], object]:
    """Return the same gradient by PyTorch in float64, as a function to be timed."""
    import torch

    weights = [torch.tensor(matrix, requires_grad=True) for matrix in matrices]
    data, wanted = torch.tensor(inputs), torch.tensor(labels.astype(np.int64))

    def gradient() -> object:
        values = data
        for weight in weights[:-1]:
            values = torch.relu(values @ weight)
        loss = torch.nn.functional.cross_entropy(values @ weights[-1], wanted)
        return torch.autograd.grad(loss, weights)

    return gradient


def gradients(
    widths: list[int], inputs: FloatArray, labels: FloatArray, limit: float
) -> Iterator[Row]:
    """Rows of the gradient and of the intrinsic right-hand side of one network."""
    network = ReLUNetwork.from_widths(widths)
    theta = network.random_point(rng=0)
    loss = NetworkLoss(network, inputs, labels, "cross-entropy")
    matrices = [block.copy() for block in network.unpack(theta)]
    one_hot = np.eye(widths[-1])[labels.astype(int)]
    name = f"{'-'.join(map(str, widths))}, batch {len(inputs):,}"

    def ours() -> FloatArray:
        return loss.parameter_gradient(theta)

    def by_hand() -> list[FloatArray]:
        return backpropagation(matrices, inputs, one_hot)

    exact = np.concatenate([gradient.ravel() for gradient in by_hand()])
    error = float(np.linalg.norm(ours() - exact) / np.linalg.norm(exact))
    own, hand = side_by_side(ours, by_hand)
    memory = peak_memory(ours)
    yield Row(
        f"parameter gradient, {name}",
        own,
        hand,
        "by hand",
        1.5,
        error,
        memory,
        peak_memory(by_hand),
    )
    if importlib.util.find_spec("torch"):
        other = torch_gradient(matrices, inputs, labels)
        other()
        own, seconds = side_by_side(ours, other)
        yield Row(f"parameter gradient, {name}", own, seconds, "torch, float64", 2.0)
    else:
        yield Row(f"parameter gradient, {name}", None, None, "torch is not installed")

    start = InvariantSet(network, theta)
    state = IntrinsicFlow(start, loss, "basis").state()
    first = state.start()
    velocity = state.velocity(first)
    # Steps as a solver takes them: z moves by 1 % from one evaluation to the next.
    step = 0.01 * np.linalg.norm(first) / np.linalg.norm(velocity)
    points = [first + part * step * velocity for part in (0.2, 0.3, 0.8, 8 / 9, 1.0)]
    count = iter(range(10**9))

    def right_hand_side() -> FloatArray:
        return state.velocity(points[next(count) % len(points)])

    seconds, own = side_by_side(right_hand_side, ours, repeats=10)
    right_hand_side()
    laws = np.abs(network.conservation_laws(state.theta) - start.laws0).max() / np.sum(theta**2)
    chart = network.basis_chart(theta)
    gap = chart.coordinates(state.theta) - points[(next(count) - 1) % len(points)]
    error = max(float(laws), float(np.linalg.norm(gap) / np.linalg.norm(first)))
    yield Row(
        f"intrinsic right-hand side, {name}",
        seconds,
        own,
        "our gradient",
        limit,
        error,
        peak_memory(right_hand_side),
        memory,
    )


def recovery(network: ReLUNetwork, repeats: int) -> tuple[float, float]:
    """Seconds to recover θ from z and the laws without a start nearby, and the error."""
    theta = network.random_point(rng=0)
    far = network.fibre_point(theta, 1)
    chart, laws = network.basis_chart(far), network.conservation_laws(theta)
    z = chart.coordinates(far)
    chart.recover(z, laws)
    (seconds,) = side_by_side(lambda: chart.recover(z, laws), repeats=repeats)
    gap = np.abs(chart.recover(z, laws)) - np.abs(theta)
    return seconds, float(np.linalg.norm(gap) / np.linalg.norm(theta))


def sparse_network(n_edges: int, n_nodes: int) -> ReLUNetwork:
    """Random graph without layers: each edge joins two nodes of a random order."""
    rng = np.random.default_rng(0)
    n_inputs, n_outputs = n_nodes // 50, n_nodes // 100
    last = n_nodes - n_outputs
    middle = np.arange(n_inputs, last)
    # One edge into each hidden node and one out of it, so that all lie on paths.
    pairs = [
        np.stack([rng.integers(0, middle), middle]),
        np.stack([middle, rng.integers(middle + 1, n_nodes)]),
        np.stack([rng.integers(0, last, n_outputs), np.arange(last, n_nodes)]),
    ]
    tails = rng.integers(0, last, n_edges)
    heads = rng.integers(np.maximum(tails + 1, n_inputs), n_nodes)
    pairs.append(np.stack([tails, heads]))
    edges = np.unique(np.concatenate(pairs, axis=1), axis=1)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n_nodes))
    graph.add_edges_from(edges.T.tolist())
    return ReLUNetwork(graph, range(n_inputs), range(last, n_nodes))


def recoveries() -> Iterator[Row]:
    """Rows of the recovery Ψ."""
    for widths, published in PATHCOND.items():
        seconds, error = recovery(ReLUNetwork.from_widths(widths), 5)
        name = "-".join(map(str, widths))
        yield Row(f"recovery Ψ, cold, {name}", seconds, published, "PathCond", 1 / 20, error)
    network = sparse_network(850_000, 100_000)
    seconds, error = recovery(network, 2)
    depth = len(network.dag.members)
    name = f"recovery Ψ, cold, {network.dim:,} random edges, {depth} generations"
    yield Row(name, seconds, None, "", 10.0, error)


def kernel() -> Row:
    """Row of the full kernel on parameters."""
    network = ReLUNetwork.from_widths([64, 64, 64, 12])
    theta, rng = network.random_point(rng=0), np.random.default_rng(1)
    (seconds,) = side_by_side(lambda: network.kernel_matrix(theta), repeats=3)
    matrix, vector = network.kernel_matrix(theta), rng.standard_normal(network.dim)
    image = network.kernel_apply(theta, vector)
    error = float(np.linalg.norm(matrix @ vector - image) / np.linalg.norm(image))
    del matrix
    return Row(
        f"∂φᵀ∂φ in full, D = {network.dim:,}",
        seconds,
        PATHCOND_KERNEL,
        "PathCond",
        1.5 / PATHCOND_KERNEL,
        error,
        peak_memory(lambda: network.kernel_matrix(theta)),
        PATHCOND_KERNEL_BYTES,
    )


def main() -> None:
    """Measure, and print the table."""
    digits, rng = load("digits"), np.random.default_rng(0)
    rows = list(
        gradients([64, 128, 128, 10], digits.inputs, digits.targets_for("cross-entropy"), 2)
    )
    inputs, labels = rng.standard_normal((1000, 784)), rng.integers(0, 10, 1000)
    rows += gradients([784, 1000, 1000, 10], inputs, labels, 2.5)
    report([*rows, *recoveries(), kernel()])


if __name__ == "__main__":
    main()
