"""Calls that bench_before.py times, by liftflow of this commit and of an earlier one."""

import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import autograd.numpy as anp
import networkx as nx
import numpy as np
from worker import serve

from liftflow import (
    Attention,
    DeepLinear,
    IntrinsicFlow,
    InvariantSet,
    LinearNeuralODE,
    NetworkLoss,
    ParameterFlow,
    ProductArchitecture,
    ReLUNetwork,
    Trajectory,
    TwoLayerLinear,
    classify,
    compare,
    count_conservation_laws,
    discover_laws,
    intrinsic_cometric,
    loss_from_function,
)
from liftflow.flows import Adam, GradientDescent

SHORT, REPEATS = 1e-3, 3
"""Seconds of the calls that are timed at once, so that the clock weighs nothing, and how often."""

layers = ReLUNetwork.from_widths
EDGES = ["xa", "xb", "ya", "yb", "ab", "au", "av", "bu", "bv", "xu"]


def graph() -> ReLUNetwork:
    """Build a network of ten weights from its graph."""
    return ReLUNetwork(nx.DiGraph([tuple(edge) for edge in EDGES]), "xy", "uv")


FAMILIES = {
    "layers 4-6-3": lambda: layers([4, 6, 3]),
    "layers 3-4-4-2, biases": lambda: layers([3, 4, 4, 2], bias=True),
    "layers 12-8-4": lambda: layers([12, 8, 4]),
    "chain 1-1-1-1": lambda: layers([1, 1, 1, 1]),
    "diagonal 4, depth 3": lambda: ReLUNetwork.diagonal(4, depth=3),
    "residual 2-3-3-2": lambda: ReLUNetwork.residual([2, 3, 3, 2], [(0, 2), (1, 3)], bias=True),
    "graph of 10 edges": graph,
    "diagonal 200": lambda: ReLUNetwork.diagonal(200),
    "two layers 4, 3, 3": lambda: TwoLayerLinear(4, 3, 3),
    "deep 3-3-3-3": lambda: DeepLinear([3, 3, 3, 3]),
    "neural ODE": lambda: LinearNeuralODE(2, 5),
    "attention": lambda: Attention(3, 2, 1),
    "product": lambda: ProductArchitecture(layers([2, 3, 2]), TwoLayerLinear(2, 3, 2)),
}
CALLS: dict[str, Callable[[], object]] = {}


def squares(z: object) -> object:
    """Evaluate a loss of z."""
    return anp.sum((z - 1.0) ** 2)


def start_of(own: object) -> object:
    """Draw a point with a metric, the same in both commits."""
    if type(own) is ProductArchitecture:
        return np.concatenate([start_of(factor) for factor in own.factors])
    balanced = hasattr(own, "balanced_point") and not isinstance(own, ReLUNetwork)
    return own.balanced_point(0.3, 0) if balanced else own.random_point(rng=0)


def of_maps(build: Callable[[], object]) -> Iterator[tuple[str, Callable[[], object]]]:
    """The maps of a family, at one point and at ten."""
    own = build()
    rng = np.random.default_rng(0)
    theta, many = own.random_point(rng=0), own.random_point(10, rng=1)
    z, laws, v = own.lift(theta), own.conservation_laws(theta), rng.standard_normal(own.dim)
    g = rng.standard_normal(z.shape)
    yield "constructor", build
    yield "lift", lambda: own.lift(theta)
    yield "lift of ten", lambda: own.lift(many)
    listed, whole = theta.tolist(), np.arange(own.dim)
    yield "lift of a list", lambda: own.lift(listed)
    yield "lift of integers", lambda: own.lift(whole)
    yield "lift_jvp", lambda: own.lift_jvp(theta, v)
    yield "lift_vjp", lambda: own.lift_vjp(theta, g)
    yield "lift_jacobian", lambda: own.lift_jacobian(theta)
    yield "gram_apply", lambda: own.gram_apply(theta, g)
    yield "gram_matrix", lambda: own.gram_matrix(theta)
    yield "laws", lambda: own.conservation_laws(theta)
    yield "laws of a list", lambda: own.conservation_laws(listed)
    yield "laws of ten", lambda: own.conservation_laws(many)
    yield "laws' Jacobian", lambda: own.conservation_laws_jacobian(theta)
    yield "unpack", lambda: own.unpack(theta)
    yield "pack", lambda: own.pack(*own.unpack(theta))
    yield "random_point", lambda: own.random_point(rng=0)
    try:
        own.recover(z, laws, near=theta)
    except Exception:
        return
    yield "recover near", lambda: own.recover(z, laws, near=1.001 * theta)


def of_spaces(build: Callable[[], object]) -> Iterator[tuple[str, Callable[[], object]]]:
    """The invariant set of a family, its image and its metric."""
    own = build()
    rng = np.random.default_rng(0)
    theta = start_of(own)
    start = InvariantSet(own, theta)
    v, w = start.random_tangent_vec(theta, 2, rng=0)
    yield "InvariantSet", lambda: InvariantSet(own, theta)
    yield "set.belongs", lambda: start.belongs(theta)
    yield "set.to_tangent", lambda: start.to_tangent(v, theta)
    yield "set.projection", lambda: start.projection(1.001 * theta)
    yield "set.random_point", lambda: start.random_point(rng=1)
    yield "set.inner_product", lambda: start.metric.inner_product(v, w, theta)
    yield "set.norm", lambda: start.metric.norm(v, theta)
    yield "set.exp", lambda: start.metric.exp(0.05 * v, theta)
    try:
        cometric, image = intrinsic_cometric(own, theta), start.image()
        z, metric = own.lift(theta), image.metric
        a, b = image.random_tangent_vec(z, 2, rng=0)
        metric.inner_product(a, b, z)
    except Exception:
        return
    g = rng.standard_normal(z.shape)
    yield "intrinsic_cometric", lambda: intrinsic_cometric(own, theta)
    yield "K(z) g", lambda: cometric.apply(z, g, near=theta)
    yield "K(z)", lambda: cometric.matrix(z)
    yield "image", lambda: start.image()
    yield "image.belongs", lambda: image.belongs(z)
    yield "image.to_tangent", lambda: image.to_tangent(g, z)
    yield "image.inner_product", lambda: metric.inner_product(a, b, z)
    yield "image.norm", lambda: metric.norm(a, z)
    yield "image.exp", lambda: metric.exp(0.05 * a, z)


def of_flows(build: Callable[[], object]) -> Iterator[tuple[str, Callable[[], object]]]:
    """The flows of a family, and what is kept of them."""
    own, loss = build(), loss_from_function(squares)
    theta = start_of(own)
    start, span = InvariantSet(own, theta), (0.0, 0.3)
    settings = {"rtol": 1e-5, "atol": 1e-8, "n_times": 2}
    flow = ParameterFlow(own, loss)
    yield "parameter flow", lambda: flow.integrate(theta, span, **settings)
    yield "50 steps", lambda: GradientDescent(own, loss, 1e-3).run(theta, 50)
    yield "50 steps of Adam", lambda: Adam(own, loss, 1e-3).run(theta, 50)
    z = own.lift(theta)
    yield "intrinsic flow", lambda: IntrinsicFlow(start, loss).integrate(z, span, **settings)
    yield "compare", lambda: compare(start, loss, span, **settings)


def of_networks() -> Iterator[tuple[str, Callable[[], object]]]:
    """The rest: training of networks, files, criteria."""
    own = layers([4, 6, 3])
    rng = np.random.default_rng(0)
    inputs, targets = rng.standard_normal((20, 4)), rng.standard_normal((20, 3))
    loss, theta = NetworkLoss(own, inputs, targets, "mse"), own.random_point(rng=0)
    start, span = InvariantSet(own, theta), (0.0, 0.3)
    settings = {"rtol": 1e-5, "atol": 1e-8, "n_times": 2}
    flow = ParameterFlow(own, loss)
    yield "forward", lambda: own.forward(theta, inputs)
    yield "parameter_gradient", lambda: loss.parameter_gradient(theta)
    yield "parameter flow", lambda: flow.integrate(theta, span, **settings)
    folder = Path(tempfile.mkdtemp())
    yield (
        "parameter flow, checkpoint",
        lambda: flow.integrate(theta, span, checkpoint=fresh(folder / "flow.npz"), **settings),
    )
    yield "50 steps", lambda: GradientDescent(own, loss, 1e-3).run(theta, 50)
    yield "50 steps of Adam", lambda: Adam(own, loss, 1e-3).run(theta, 50)
    z = own.lift(theta)
    yield "intrinsic flow", lambda: IntrinsicFlow(start, loss).integrate(z, span, **settings)
    yield "compare", lambda: compare(start, loss, span, **settings)
    kept = flow.integrate(theta, span, **settings)
    yield "trajectory save", lambda: kept.save(folder / "kept.npz")
    kept.save(folder / "kept.npz")
    yield "trajectory load", lambda: Trajectory.load(folder / "kept.npz")
    small = layers([2, 2, 2])
    first = small.random_point(rng=0)
    yield "classify 2-2-2", lambda: classify(small, first)
    two, attention = TwoLayerLinear(2, 2, 2), Attention(2, 1, 1)
    yield "classify two layers", lambda: classify(two, start_of(two))
    yield "classify attention", lambda: classify(attention, start_of(attention))
    middle = layers([3, 3, 2])
    yield "discover_laws 2-2-2", lambda: discover_laws(small)
    yield "discover_laws 3-3-2", lambda: discover_laws(middle)
    yield "count of laws", lambda: count_conservation_laws(layers([3, 3, 2]))


def of_large() -> Iterator[tuple[str, Callable[[], object]]]:
    """A network of 2,400 weights, whose paths nobody lists."""
    own, rng = layers([64, 32, 10]), np.random.default_rng(0)
    inputs, labels = rng.standard_normal((200, 64)), rng.integers(0, 10, 200)
    loss, theta = NetworkLoss(own, inputs, labels, "cross-entropy"), own.random_point(rng=0)
    start = InvariantSet(own, theta)
    yield "constructor", lambda: layers([64, 32, 10])
    yield "random_point", lambda: own.random_point(rng=0)
    yield "forward", lambda: own.forward(theta, inputs)
    yield "parameter_gradient", lambda: loss.parameter_gradient(theta)
    yield "laws", lambda: own.conservation_laws(theta)
    yield "InvariantSet", lambda: InvariantSet(own, theta)
    yield "set.projection", lambda: start.projection(1.001 * theta)
    yield "set.to_tangent", lambda: start.to_tangent(theta, theta)
    chart = own.basis_chart(theta)
    coordinates, laws = chart.coordinates(theta), own.conservation_laws(theta)
    yield "basis_chart", lambda: own.basis_chart(theta)
    yield "chart.recover", lambda: chart.recover(1.001 * coordinates, laws, near=theta)
    state = IntrinsicFlow(start, loss, "basis").state()
    point, numbers = state.start(), iter(range(10**9))
    yield "velocity", lambda: state.velocity((1.0 + 1e-9 * next(numbers)) * point)


def fresh(path: Path) -> Path:
    """Return a path at which there is no file."""
    path.unlink(missing_ok=True)
    return path


def calls(parts: Sequence[str] = ("",)):
    """Time a call by its name; ``parts`` choose those whose names hold one of them."""
    made = {}
    for name, build in FAMILIES.items():
        for group in (of_maps, of_spaces, of_flows):
            made |= {f"{name}: {what}": call for what, call in group(build)}
    made |= {f"network 4-6-3 of data: {what}": call for what, call in of_networks()}
    made |= {f"network 64-32-10: {what}": call for what, call in of_large()}
    rounds = {}
    for name, call in made.items():
        if not any(part in name for part in parts):
            continue
        with suppress(Exception):  # not of this commit
            call()
            start = time.process_time()
            call()
            rounds[name] = max(1, int(SHORT / max(time.process_time() - start, 1e-6)))
    gc.disable()  # as timeit does: what it takes depends on what else there is

    def run(name=""):
        if not name:
            return 0.0
        least = float("inf")
        for _ in range(REPEATS):
            start = time.process_time()
            for _ in range(rounds[name]):
                made[name]()
            least = min(least, (time.process_time() - start) / rounds[name])
        gc.collect(0)
        return least

    return run, lambda found: {"least": found} if found else {"names": list(rounds)}


if __name__ == "__main__":
    serve(globals(), sys.argv[1:])
