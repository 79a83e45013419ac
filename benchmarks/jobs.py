"""Jobs that bench_waiting.py has done by liftflow, of this commit and of an earlier one."""

import sys

import autograd.numpy as anp
import networkx as nx
import numpy as np
from worker import serve

from liftflow import InvariantSet, NetworkLoss, ParameterFlow, ReLUNetwork, compare
from liftflow.architectures import Architecture
from liftflow.data import load


def evaluations():
    """Kept times must not decide the steps: evaluations, which no machine changes."""
    iris, network = load("iris"), ReLUNetwork.from_widths([4, 5, 3])
    loss = NetworkLoss(network, iris.inputs, iris.targets, "cross-entropy")
    flow, theta = ParameterFlow(network, loss), network.random_point(rng=0)

    def run():
        return [flow.integrate(theta, (0.0, 3.0), rtol=1e-3, n_times=n) for n in (2, 101)]

    return run, lambda found: {"counts": [each.n_evaluations for each in found]}


def demo():
    """The flows of ``make demo``."""
    data, network = load("digits"), ReLUNetwork.from_widths([64, 32, 10])
    labels = data.targets_for("cross-entropy")
    loss = NetworkLoss(network, data.inputs, labels, "cross-entropy")
    start = InvariantSet(network, network.random_point(rng=0))
    settings = {"rtol": 1e-5, "n_times": 2, "progress": False}
    return lambda: compare(start, loss, (0.0, 2.0), **settings), lambda _: {}


class Tensors(Architecture):
    """The toy of CONTRIBUTING.md: u ⊗ v ⊗ w, with a lift and laws only."""

    def __init__(self) -> None:
        super().__init__(7, (3, 2, 2), n_laws=2, block_shapes=[(3,), (2,), (2,)])

    def lift(self, theta):
        return anp.einsum("...i,...j,...k->...ijk", *self.unpack(theta))

    def conservation_laws(self, theta):
        u, v, w = (anp.sum(block**2, axis=-1) for block in self.unpack(theta))
        return anp.stack([u - v, v - w], axis=-1)


def toy():
    """Check the metric of a lift of a user's own."""
    from liftflow.testing import check_metric

    own = Tensors()
    start = InvariantSet(own, own.random_point(rng=0))
    return lambda: check_metric(start.image().metric), lambda _: {}


def dag(where: str):
    """Ten random points of a graph of ten parameters, on the set or on the image."""
    edges = ["xa", "xb", "ya", "yb", "ab", "au", "av", "bu", "bv", "xu"]
    network = ReLUNetwork(nx.DiGraph([tuple(edge) for edge in edges]), "xy", "uv")
    start = InvariantSet(network, network.random_point(rng=0))
    points = start.random_point(10, rng=1)
    space = start if where == "set" else start.image()
    return network, space, points if where == "set" else network.lift(points)


def logarithms(where: str):
    """Logarithms to nine far points, one after the other."""
    network, space, points = dag(where)
    counts, hessian = [0], type(network.h).hessian

    def counting(self, *arguments):  # once for each evaluation of the geodesic equation
        counts[0] += 1
        return hessian(self, *arguments)

    type(network.h).hessian = counting

    def run():
        counts[0] = 0
        return np.stack([space.metric.log(point, points[0]) for point in points[1:]])

    def tell(found):
        lengths = space.metric.norm(found, points[0])
        return {"evaluations": counts[0], "lengths": np.asarray(lengths).tolist()}

    return run, tell


def mean(where: str):
    """The mean of ten far points, by what there is for it."""
    from geomstats.learning.frechet_mean import FrechetMean

    from liftflow.errors import GeodesicError

    _, space, points = dag(where)

    def run():
        try:
            if hasattr(space.metric, "frechet_mean"):
                return space.metric.frechet_mean(points)
            return FrechetMean(space).fit(points).estimate_
        except GeodesicError as error:
            return error

    def tell(found):
        if isinstance(found, Exception):
            return {"told": str(found).split(";")[0]}
        logs = space.metric.log(points, found)
        left = space.metric.norm(np.mean(logs, axis=0), found)
        return {"told": "found", "error": float(left / np.max(space.metric.norm(logs, found)))}

    return run, tell


def frechet_mean(where: str):
    """The mean of ten far points, by geomstats on our logarithms."""
    from geomstats.learning.frechet_mean import FrechetMean

    _, space, points = dag(where)

    def run():
        return FrechetMean(space).set(init_point=points[0], max_iter=100).fit(points).estimate_

    def tell(found):
        logs = space.metric.log(points, found)
        left = space.metric.norm(np.mean(logs, axis=0), found)
        return {"told": "found", "error": float(left / np.max(space.metric.norm(logs, found)))}

    return run, tell


def flow(widths: list[int], t_end: float, rtol: float, data: str = ""):
    """The parameter flow of the digits; leaves its problem for others."""
    digits, network = load("digits"), ReLUNetwork.from_widths(widths)
    labels, theta = digits.targets_for("cross-entropy"), network.random_point(rng=0)
    own = ParameterFlow(network, NetworkLoss(network, digits.inputs, labels, "cross-entropy"))
    if data:
        np.savez(data, inputs=digits.inputs, labels=labels, theta=theta)

    def run():
        # The tolerances of the peers, whatever the default of ours is.
        return own.integrate(theta, (0.0, t_end), rtol=rtol, atol=rtol / 100, n_times=2)

    def tell(found):
        return {"end": found.theta[-1, ::97].tolist(), "evaluations": found.n_evaluations}

    return run, tell


def classified(widths: list[int]):
    """Classify a ReLU network of one hidden layer at a random point, or a balanced linear one."""
    from liftflow import DeepLinear, classify

    if len(widths) == 3:
        network = ReLUNetwork.from_widths(widths)
        theta = network.random_point(rng=0)
    else:
        network = DeepLinear(widths)
        theta = network.balanced_point(0.0, 0)
    return lambda: classify(network, theta), lambda _: {}


def laws(widths: list[int]):
    """The number of laws."""
    from liftflow.criteria import count_conservation_laws

    network = ReLUNetwork.from_widths(widths)
    return lambda: count_conservation_laws(network), lambda found: {"laws": int(found.value)}


if __name__ == "__main__":
    serve(globals(), sys.argv[1:])
