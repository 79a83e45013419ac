"""The table of the hierarchy in the paper: a point of each family, and what holds there."""

import autograd.numpy as anp
import numpy as np
from cases import bias_fed
from random_dags import random_network

from liftflow import Architecture, ReLUNetwork
from liftflow.architectures import Attention, DeepLinear, TwoLayerLinear

layers = ReLUNetwork.from_widths


def balanced(network, lam, seed=0):
    return network, network.balanced_point(lam, seed)


def generic(network, seed=0):
    return network, network.random_point(rng=seed)


HOLDS, FAILS = "holds", "fails"
RELU = (HOLDS, HOLDS, HOLDS, HOLDS, FAILS, HOLDS)
BALANCED = (FAILS, HOLDS, HOLDS, FAILS, FAILS, HOLDS)
UNBALANCED = (FAILS, FAILS, FAILS, FAILS, FAILS, HOLDS)
ALL = (HOLDS,) * 6
TABLE = {  # recoverable, metric, dynamic, Frobenius, commuting, laws complete
    "ReLU 4-6-3": (lambda: generic(layers([4, 6, 3])), RELU),
    "ReLU 3-4-4-2, biases": (lambda: generic(layers([3, 4, 4, 2], bias=True)), RELU),
    "ReLU residual": (lambda: generic(ReLUNetwork.residual([2, 3, 3, 2], [(0, 2)])), RELU),
    "ReLU nodes fed by biases": (lambda: generic(bias_fed()), RELU),
    "ReLU DAG 3": (lambda: generic(random_network(3)), RELU),
    "ReLU DAG 9": (lambda: generic(random_network(9)), RELU),
    "diagonal": (lambda: generic(ReLUNetwork.diagonal(3, depth=3)), ALL),
    "two layers 3, 3, 2 balanced": (lambda: balanced(TwoLayerLinear(3, 3, 2), 0.7), BALANCED),
    "two layers 2, 2, 2 at λ = 0": (lambda: balanced(TwoLayerLinear(2, 2, 2), 0.0), BALANCED),
    "two layers 2, 2, 2": (lambda: generic(TwoLayerLinear(2, 2, 2)), UNBALANCED),
    "two layers 4, 3, 2": (lambda: generic(TwoLayerLinear(4, 3, 2)), UNBALANCED),
    "two layers 5, 2, 3 at λ = 1.3": (lambda: balanced(TwoLayerLinear(5, 2, 3), 1.3), UNBALANCED),
    "two layers 1, 1, 3": (lambda: generic(TwoLayerLinear(1, 1, 3)), ALL),
    "two layers 3, 2, 1": (lambda: generic(TwoLayerLinear(3, 2, 1)), RELU),
    "deep balanced": (lambda: balanced(DeepLinear([3, 3, 3, 3]), (0.5, -1.2)), BALANCED),
    "deep": (lambda: generic(DeepLinear([2, 2, 2, 2])), UNBALANCED),
    "attention balanced": (lambda: balanced(Attention(3, 2, 1), 0.5), BALANCED),
    "attention": (lambda: generic(Attention(2, 2, 1)), UNBALANCED),
    "hyperbolic leaf": (
        lambda: (TwoLayerLinear(2, 2, 5), TwoLayerLinear(2, 2, 5).hyperbolic_point(0.7, 0)),
        BALANCED,
    ),
}


def verdicts(found):
    names = ("recoverable", "metric", "dynamic", "frobenius", "commuting", "complete")
    return tuple(str(getattr(found, name).verdict) for name in names)


class BareLinear(Architecture):
    """A product of matrices of which only the lift is known, and no law."""

    def __init__(self, widths):
        self.shapes = list(zip(widths[1:], widths[:-1], strict=True))
        super().__init__(sum(n * m for n, m in self.shapes), (widths[-1], widths[0]))

    def lift(self, theta):
        z, start = np.eye(self.shapes[0][1]), 0
        for n, m in self.shapes:
            block = theta[..., start : start + n * m]
            z = anp.matmul(anp.reshape(block, (*theta.shape[:-1], n, m)), z)
            start += n * m
        return z


def bare(network, theta):
    """Forget everything about a linear network but its lift."""
    point = np.concatenate([np.ravel(layer) for layer in network.layers(theta)])
    return BareLinear(network.widths), point


class BarePaths(Architecture):
    """Products of weights along the paths of a network, of which only the lift is known."""

    def __init__(self, network):
        self.incidence = network.path_incidence.toarray()
        super().__init__(network.dim, (network.n_paths,))

    def lift(self, theta):
        factors = 1 + self.incidence * (theta[..., None, :] - 1)
        z = 1.0
        for edge in range(self.dim):  # not anp.prod, whose derivative divides by the factors
            z = z * factors[..., edge]
        return z
