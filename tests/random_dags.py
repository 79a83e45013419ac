"""Random networks on directed acyclic graphs, the same for the same seed."""

import networkx as nx
import numpy as np

from liftflow.architectures import ReLUNetwork

MAX_PATHS = 120


def random_network(seed):
    """Draw a network of 3 to 5 generations of nodes, with skips, biases and shuffled nodes.

    Every node after the inputs has an in-edge from the generation before it, and every node
    before the last generation an out-edge; further edges skip generations at random. Some
    outputs sit in an inner generation, beside hidden nodes. Nodes and edges are put into the
    graph in random order. Networks of more than MAX_PATHS paths are drawn again.
    """
    rng = np.random.default_rng(seed)
    while True:
        network = _draw(rng, n_generations=3 + seed % 3)
        if network.n_paths <= MAX_PATHS:
            return network


def _draw(rng, n_generations):
    sizes = [int(size) for size in rng.integers(1, 5, size=n_generations)]
    levels = [[f"{level}.{i}" for i in range(size)] for level, size in enumerate(sizes)]
    outputs = list(levels[-1])
    for nodes in levels[1:-1]:
        if len(nodes) > 1 and rng.random() < 0.2:
            outputs.append(nodes[-1])
    edges = set()
    for level, nodes in enumerate(levels):
        earlier = [u for own in levels[:level] for u in own if u not in outputs]
        later = [v for own in levels[level + 1 :] for v in own]
        for node in nodes:
            if level:
                before = [u for u in levels[level - 1] if u not in outputs]
                edges.add((str(rng.choice(before)), node))
                edges.update((u, node) for u in earlier if rng.random() < 0.25)
            if later and node not in outputs:
                edges.add((node, str(rng.choice(later))))
    nodes = [str(node) for node in rng.permutation([u for own in levels for u in own])]
    graph = nx.DiGraph()
    graph.add_nodes_from(nodes)
    graph.add_edges_from(tuple(map(str, edge)) for edge in rng.permutation(sorted(edges)))
    biases = [node for node in nodes if node not in levels[0] and rng.random() < 0.4]
    return ReLUNetwork(graph, rng.permutation(levels[0]).tolist(), outputs, biases)
