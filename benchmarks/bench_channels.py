"""Networks with shared and frozen weights: gradients beside PyTorch, channels at 10⁶ edges."""

import importlib.util
import time
from collections.abc import Callable, Iterator

import networkx as nx
import numpy as np
from table import Row, peak_memory, report, side_by_side

from liftflow import IntrinsicFlow, InvariantSet, NetworkLoss, ReLUNetwork
from liftflow.architectures import Conv, Pool
from liftflow.data import load
from liftflow.typing import FloatArray

WIDTH, DEPTH, FAN = 1_000, 112, 9


def torch_gradient(
    network: ReLUNetwork, theta: FloatArray, inputs: FloatArray, labels: FloatArray
) -> Callable[[], FloatArray]:
    """Return the gradient of the digits' network by PyTorch in float64, to be timed."""
    import torch
    from torch.nn import functional

    weights = [torch.tensor(block, requires_grad=True) for block in network.unpack(theta)]
    first, second, head, first_bias, second_bias, head_bias = weights
    data, wanted = torch.tensor(inputs.reshape(-1, 1, 8, 8)), torch.tensor(labels.astype(np.int64))

    def gradient() -> FloatArray:
        values = torch.relu(functional.conv2d(data, first, first_bias))
        values = torch.relu(functional.conv2d(values, second, second_bias))
        values = functional.max_pool2d(values, 2).flatten(1)
        loss = functional.cross_entropy(values @ head + head_bias, wanted)
        parts = torch.autograd.grad(loss, weights)
        return np.concatenate([part.numpy().ravel() for part in parts])

    return gradient


def convolution() -> Iterator[Row]:
    """Rows of the convolutional network on the digits."""
    digits = load("digits")
    network = ReLUNetwork.convolutional((1, 8, 8), [Conv(8, 3), Conv(16, 3), Pool("max", 2)], 10)
    labels = digits.targets_for("cross-entropy")
    loss = NetworkLoss(network, digits.inputs, labels, "cross-entropy")
    theta = network.random_point(rng=0)
    name = f"convolutional, D = {network.dim:,}, batch {len(labels):,}"

    def ours() -> FloatArray:
        return loss.parameter_gradient(theta)

    if importlib.util.find_spec("torch"):
        other = torch_gradient(network, theta, digits.inputs, labels)
        error = float(np.linalg.norm(ours() - other()) / np.linalg.norm(ours()))
        own, seconds = side_by_side(ours, other)
        yield Row(f"gradient, {name}", own, seconds, "torch, float64", 2.0, error)
    else:
        yield Row(f"gradient, {name}", None, None, "torch is not installed")
    state = IntrinsicFlow(InvariantSet(network, theta), loss, "basis").state()
    first = state.start()
    velocity = state.velocity(first)
    step = 0.01 * np.linalg.norm(first) / np.linalg.norm(velocity)
    points = [first + part * step * velocity for part in (0.2, 0.3, 0.8, 8 / 9, 1.0)]
    count = iter(range(10**9))
    seconds, own = side_by_side(
        lambda: state.velocity(points[next(count) % len(points)]), ours, repeats=10
    )
    yield Row(f"intrinsic right-hand side, {name}", seconds, own, "our gradient", 1.3)


def streams() -> nx.DiGraph:
    """Draw layers with a frozen skip over one layer into each node: a tenth of the edges.

    The even layers make one residual stream, the odd ones another, of a channel per node.
    """
    rng = np.random.default_rng(0)
    node = np.arange(WIDTH * (DEPTH + 1)).reshape(DEPTH + 1, WIDTH)
    graph = nx.DiGraph()
    for layer in range(1, DEPTH + 1):
        shifts = rng.choice(WIDTH, FAN, replace=False)
        tails = np.concatenate([np.roll(node[layer - 1], shift) for shift in shifts])
        graph.add_edges_from(zip(tails.tolist(), np.tile(node[layer], FAN).tolist(), strict=True))
        if 3 <= layer < DEPTH:
            skips = zip(node[layer - 2].tolist(), node[layer].tolist(), strict=True)
            graph.add_edges_from(skips, frozen=True, weight=1.0)
    return graph


def frozen() -> Row:
    """Row of channels, laws and Ψ of a large graph."""
    graph = streams()
    start = time.perf_counter()
    network = ReLUNetwork(graph, range(WIDTH), range(WIDTH * DEPTH, WIDTH * (DEPTH + 1)))
    theta = network.random_point(rng=0)
    laws = network.conservation_laws(theta)
    scales = 0.3 * np.random.default_rng(1).standard_normal(network.channels.n_channels)
    far = theta * np.exp(network.channels.incidence @ scales)
    back = network.channels.project_to_laws(far, laws)
    seconds = time.perf_counter() - start
    error = float(np.linalg.norm(back - theta) / np.linalg.norm(theta))
    name = f"channels, laws and Ψ, {network.dim:,} weights, {laws.size:,} channels, 10 % frozen"
    memory = peak_memory(lambda: network.channels.project_to_laws(far, laws))
    return Row(name, seconds, None, "", 10.0, error, memory)


def main() -> None:
    """Measure, and print the table."""
    report([*convolution(), frozen()])


if __name__ == "__main__":
    main()
