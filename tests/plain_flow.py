"""The intrinsic flow of a ReLU network as plainly as it can be written, to compare with.

All paths are listed, all matrices are dense, θ is found from z by logarithms and by Newton's method
with the Laplacian of the hidden nodes written out edge by edge, and K is the formula itself. For
nonzero weights; nothing here is shared with the library but the graph.
"""

import itertools

import networkx as nx
import numpy as np
from scipy.integrate import solve_ivp


class PlainNetwork:
    """A network by its edges (tail, head), with ⟨1⟩ as the tail of a bias."""

    def __init__(self, network):
        self.edges = list(network.parameter_names)
        self.hidden = list(network.hidden)
        graph = nx.DiGraph(self.edges)
        starts = [node for node in (*network.inputs, "⟨1⟩") if node in graph]
        number = {edge: i for i, edge in enumerate(self.edges)}
        found = [
            tuple(path)
            for start in starts
            for end in network.outputs
            if end in graph
            for path in nx.all_simple_paths(graph, start, end)
        ]
        place = {path: i for i, path in enumerate(network.paths())}
        self.paths = sorted(found, key=place.__getitem__)
        self.incidence = np.zeros((len(self.paths), len(self.edges)))
        for row, path in enumerate(self.paths):
            for edge in itertools.pairwise(path):
                self.incidence[row, number[edge]] = 1.0

    def lift(self, theta):
        return np.prod(np.where(self.incidence > 0, theta, 1.0), axis=1)

    def laws(self, theta):
        total = dict.fromkeys(self.hidden, 0.0)
        for (tail, head), weight in zip(self.edges, theta, strict=True):
            if head in total:
                total[head] += weight**2
            if tail in total:
                total[tail] -= weight**2
        return np.array([total[node] for node in self.hidden])

    def laplacian(self, weights):
        """Dense Laplacian of the hidden nodes, edge by edge."""
        number = {node: i for i, node in enumerate(self.hidden)}
        matrix = np.zeros((len(number), len(number)))
        for (tail, head), weight in zip(self.edges, weights, strict=True):
            ends = [number[node] for node in (tail, head) if node in number]
            for end in ends:
                matrix[end, end] += weight
            if len(ends) == 2:
                matrix[ends[0], ends[1]] -= weight
                matrix[ends[1], ends[0]] -= weight
        return matrix

    def recover(self, z, laws, near):
        """θ with these path products and laws, with the signs of ``near``."""
        log_theta = np.linalg.lstsq(self.incidence, np.log(np.abs(z)), rcond=None)[0]
        theta = np.exp(log_theta)
        number = {node: i for i, node in enumerate(self.hidden)}
        for _ in range(60):
            step = np.linalg.solve(self.laplacian(theta**2), self.laws(theta) - laws)
            step *= min(1.0, 0.5 / max(np.max(np.abs(step), initial=0.0), 1e-300))
            logs = -step / 2
            for i, (tail, head) in enumerate(self.edges):
                theta[i] *= np.exp(logs[number[head]] if head in number else 0.0)
                theta[i] *= np.exp(-logs[number[tail]] if tail in number else 0.0)
        return np.copysign(theta, near)

    def cometric(self, z, theta):
        """K = D_z P D_θ⁻² Pᵀ D_z."""
        return np.diag(z) @ self.incidence @ np.diag(theta**-2) @ self.incidence.T @ np.diag(z)

    def flow(self, loss, theta0, t_end, rtol):
        """z(t_end) from φ(θ₀), by scipy, where no weight changes its sign."""
        laws = self.laws(theta0)

        def velocity(t, z):
            theta = self.recover(z, laws, theta0)
            return -self.cometric(z, theta) @ loss.gradient(z)

        z0 = self.lift(theta0)
        run = solve_ivp(velocity, (0.0, t_end), z0, method="DOP853", rtol=rtol, atol=rtol / 100)
        return run.y[:, -1]
