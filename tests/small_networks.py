"""Small random networks, most of whose hidden nodes hang on a single in-edge or out-edge."""

import autograd.numpy as anp
import networkx as nx
import numpy as np

from liftflow.architectures import ReLUNetwork
from liftflow.losses import NetworkLoss, loss_from_function


def small_network(rng):
    """Draw a network of 1 to 4 hidden nodes, where each has few edges and may be left by a zero."""
    n_inputs, n_hidden, n_outputs = rng.integers(1, 3), rng.integers(1, 5), rng.integers(1, 3)
    inputs, hidden, outputs = (
        [f"{letter}{i}" for i in range(count)]
        for letter, count in zip("xhy", (n_inputs, n_hidden, n_outputs), strict=True)
    )
    edges = set()
    for i, node in enumerate(hidden):
        edges.add((str(rng.choice(inputs + hidden[:i])), node))
        edges.add((node, str(rng.choice(hidden[i + 1 :] + outputs))))
    edges.update((str(rng.choice(hidden)), node) for node in outputs)
    edges.update((node, str(rng.choice(hidden))) for node in inputs)
    order = {node: i for i, node in enumerate(inputs + hidden + outputs)}
    for tail in inputs + hidden:
        for head in hidden + outputs:
            if order[tail] < order[head] and rng.random() < 0.1:
                edges.add((tail, head))
    biases = [node for node in hidden + outputs if rng.random() < 0.15]
    return ReLUNetwork(nx.DiGraph(sorted(edges)), inputs, outputs, biases)


def crossing_problem(seed):
    """Draw a network, θ₀, and a loss whose minimum has other signs: of data, or a bowl in z."""
    rng = np.random.default_rng(seed)
    network = small_network(rng)
    theta0 = rng.uniform(0.3, 1.0, network.dim) * rng.choice([-1, 1], network.dim)
    flips = np.where(rng.random(network.dim) < 0.4, -1, 1)
    goal = theta0 * flips * rng.uniform(0.8, 1.5, network.dim)
    if seed % 2:
        inputs = rng.standard_normal((2, len(network.inputs)))
        return network, theta0, NetworkLoss(network, inputs, network.forward(goal, inputs))
    target = network.lift(goal)
    return network, theta0, loss_from_function(lambda z: 0.5 * anp.sum((z - target) ** 2))
