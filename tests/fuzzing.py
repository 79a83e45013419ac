"""Calls of the public API with arguments drawn from good values and from bad ones.

Right is a result, a ``LiftflowError``, or Python's own refusal of the signature. Whatever else
comes out, comes from inside: ``outcome`` names it. ``python tests/fuzzing.py N SEED`` searches
further.
"""

import contextlib
import copy
import inspect
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from enum import Enum
from fractions import Fraction
from pathlib import Path

import autograd.numpy as anp
import matplotlib as mpl
import matplotlib.pyplot as plt
import networkx as nx
import numpy as np

import liftflow
from liftflow import architectures, criteria, data, figures, flows, losses, manifolds, metrics
from liftflow import testing as contracts
from liftflow.errors import LiftflowError
from liftflow.matrix_losses import least_squares_loss

SECONDS = 10.0  # of processor time that a call may take
SLOW = ("ladder_parallel_transport",)  # geomstats's own: several logarithms to far points
MODULES = (
    liftflow,
    architectures,
    criteria,
    metrics,
    manifolds,
    flows,
    losses,
    data,
    figures,
    contracts,
)


class Late(BaseException):
    """The call took too long."""


def _late(*_):
    raise Late


class ArrayLike:
    """What another library's array looks like to numpy, on a device that it cannot read."""

    shape, ndim, dtype = (2,), 1, "float32"

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("the array is on another device")


class Cyclic(list):
    """A list that holds itself."""

    def __init__(self):
        super().__init__()
        self.append(self)


BAD = [
    lambda: None,
    lambda: "text",
    lambda: "",
    lambda: b"bytes",
    lambda: object(),
    lambda: architectures.ReLUNetwork,
    lambda: manifolds.InvariantSet,
    lambda: nx.DiGraph([("x", "h"), ("h", "y")]),
    lambda: nx.Graph(),
    lambda: 0,
    lambda: 3,
    lambda: -1,
    lambda: 2.5,
    lambda: True,
    lambda: 10**12,
    lambda: 10**30,
    lambda: -(10**30),
    lambda: 1e300,
    lambda: np.nan,
    lambda: np.inf,
    lambda: 1j,
    lambda: Fraction(1, 3),
    lambda: [],
    lambda: (),
    lambda: {},
    lambda: {"a": 1},
    lambda: {1.0, 2.0},
    lambda: [[1.0], [1.0, 2.0]],
    lambda: ["a", 1.0],
    lambda: (x for x in (1.0, 2.0)),
    lambda: np.zeros(0),
    lambda: np.zeros((0, 2)),
    lambda: np.ones(1),
    lambda: np.ones((2, 3, 4, 5)),
    lambda: np.ones(7),
    lambda: np.array(1.0),
    lambda: np.array([1.0, np.nan]),
    lambda: np.array([object(), None]),
    lambda: np.array(["a", "b"]),
    lambda: np.array([1j, 2.0]),
    lambda: np.array([True, False]),
    lambda: np.ma.masked_array([1.0, 2.0], [True, False]),
    lambda: np.array(["2020-01-01"], dtype="datetime64[D]"),
    lambda: np.zeros(2, dtype=[("a", float)]),
    lambda: [10**400],
    lambda: ArrayLike(),
    lambda: Cyclic(),
    lambda: lambda *args: None,
    lambda: Path("nowhere"),
    lambda: slice(3),
    lambda: range(3),
    lambda: np.random.RandomState(0),
    lambda: ValueError("an error"),
    lambda: (1.0, 0.0),
    lambda: (0.0, np.nan),
]


def _squares(z):
    return anp.sum((z - 1.0) ** 2)


class World:
    """Small instances of everything, and good values by the names of arguments."""

    def __init__(self):
        relu = architectures.ReLUNetwork
        product = architectures.ProductArchitecture
        self.networks = {
            "2-2-1": relu.from_widths([2, 2, 1]),
            "2-2-2, biases": relu.from_widths([2, 2, 2], bias=True),
            "diagonal": relu.diagonal(2),
            "1-1-1": relu.from_widths([1, 1, 1]),
            "1-1-1-1": relu.from_widths([1, 1, 1, 1]),
            "two layers": architectures.TwoLayerLinear(2, 2, 2),
            "deep": architectures.DeepLinear([2, 2, 2, 2]),
            "ode": architectures.LinearNeuralODE(2, 3),
            "attention": architectures.Attention(2, 2, 1),
            "product": product(relu.from_widths([1, 1, 1]), architectures.TwoLayerLinear(1, 1, 1)),
        }
        self.theta0 = {}
        for name, network in self.networks.items():
            balanced = getattr(network, "balanced_point", None)
            self.theta0[name] = balanced(0.0, 0) if balanced else network.random_point(rng=0)
        self.sets = {
            name: manifolds.InvariantSet(network, self.theta0[name])
            for name, network in self.networks.items()
        }
        self.loss = losses.loss_from_function(_squares)
        self.network_loss = losses.NetworkLoss(
            self.networks["2-2-1"], [[1.0, 2.0], [0.5, -1.0]], [0.3, 0.1]
        )
        self.parameter_loss = losses.loss_from_parameters(
            lambda theta, rows: _squares(self.networks["2-2-1"].lift(theta)),
            self.networks["2-2-1"],
            n_samples=2,
        )
        self.objects = list(self._objects())
        self.targets = [*self._functions(), *self._methods()]

    # What can be called.

    def _functions(self):
        seen = set()
        for module in MODULES:
            names = getattr(module, "__all__", None) or [
                name
                for name, value in vars(module).items()
                if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
            ]
            for name in names:
                value = getattr(module, name)
                if not callable(value) or value in seen or inspect.isabstract(value):
                    continue
                seen.add(value)
                if inspect.isclass(value) and issubclass(value, Enum):
                    continue
                for case in ("2-2-1", "two layers", "product"):
                    yield f"{module.__name__}.{name}", value, case
                if inspect.isclass(value):
                    for own, method in inspect.getmembers(value, inspect.ismethod):
                        if not own.startswith("_"):
                            yield f"{module.__name__}.{name}.{own}", method, "2-2-1"

    def _objects(self):
        for name, network in self.networks.items():
            own = self.sets[name]
            yield name, "architecture", network
            yield name, "set", own
            yield name, "induced metric", own.metric
            yield name, "bundle", own.fiber_bundle
            image = own.image()
            yield name, "image", image
            yield name, "metric", image.metric
            yield name, "cometric", image.metric.cometric
            yield name, "spaces", image.metric.cometric.horizontal_spaces
            yield name, "solver", image.metric.solver
            yield name, "flow", flows.ParameterFlow(network, self.loss)
            yield name, "intrinsic flow", flows.IntrinsicFlow(own, self.loss)
            yield name, "descent", flows.GradientDescent(network, self.loss, 1e-3)
            yield name, "adam", flows.Adam(network, self.loss, 1e-3)
            try:
                chart = own.chart()
            except (LiftflowError, NotImplementedError):
                continue
            yield name, "chart manifold", chart
            yield name, "chart metric", chart.metric
        for case, cometric in (
            ("2-2-1", metrics.OneHiddenLayerCometric),
            ("1-1-1-1", metrics.ScalarChainCometric),
            ("2-2-1", metrics.RecoveredCometric),
        ):
            yield case, "cometric", cometric(self.networks[case], self.theta0[case])
        network, theta = self.networks["2-2-1"], self.theta0["2-2-1"]
        yield "2-2-1", "chart", network.basis_chart(theta)
        yield "2-2-1", "laplacian", network.laplacian
        yield "2-2-1", "kernel", architectures.ParameterKernel(network.dag, theta)
        yield "2-2-1", "loss", self.loss
        yield "2-2-1", "network loss", self.network_loss
        yield "2-2-1", "network loss", self.parameter_loss
        yield "two layers", "loss", least_squares_loss(np.eye(2), np.eye(2))
        yield (
            "diagonal",
            "potential",
            flows.DiagonalPotential(self.networks["diagonal"], self.theta0["diagonal"]),
        )
        yield (
            "1-1-1",
            "potential",
            flows.NeuronPotential(self.networks["1-1-1"], self.theta0["1-1-1"]),
        )
        comparison = flows.compare(
            self.sets["2-2-1"], self.loss, (0.0, 0.01), n_times=3, control=True
        )
        yield "2-2-1", "comparison", comparison
        yield "2-2-1", "trajectory", comparison.parameter
        self.trajectory = comparison.parameter
        yield "2-2-1", "laws", criteria.discover_laws(network)
        yield "2-2-1", "law", criteria.discover_laws(network).laws[0]
        yield "2-2-1", "classification", criteria.classify(network, theta)
        yield "2-2-1", "finding", criteria.recoverability(network, theta)
        yield "2-2-1", "data set", data.load("iris")
        yield "2-2-1", "settings", flows.Settings((0.0, 1.0))
        for multiplier in (
            metrics.TwoLayerMultiplier(0.5),
            metrics.DeepMultiplier([0.0, 0.1]),
            metrics.LogarithmicMeanMultiplier(),
            metrics.HyperbolicMultiplier(1.0),
            metrics.ScalarMultiplier(1.0),
        ):
            yield "two layers", "multiplier", multiplier

    def _methods(self):
        for case, kind, thing in self.objects:
            if callable(thing):
                yield f"{case} {type(thing).__name__}.__call__", (thing, "__call__", kind), case
            for name in sorted({name for cls in type(thing).__mro__ for name in vars(cls)}):
                if name.startswith("_") or name in ("print", "mro", *SLOW):
                    continue
                static = inspect.getattr_static(type(thing), name)
                if inspect.isfunction(static) or isinstance(static, (classmethod, staticmethod)):
                    yield f"{case} {type(thing).__name__}.{name}", (thing, name, kind), case

    # Values.

    def good(self, name, case, kind, rng, lead=None):
        """Draw a good value of an argument, or raise KeyError."""
        network, own = self.networks[case], self.sets[case]
        theta = self.theta0[case] + 1e-3 * rng.standard_normal(network.dim)
        z = network.lift(theta)
        if lead is None:
            lead = [(), (), (2,), (0,), (2, 1)][rng.integers(5)]
        above = np.broadcast_to(theta, (*lead, network.dim)).copy()
        below = np.broadcast_to(z, (*lead, *network.lifted_shape)).copy()
        flat = np.broadcast_to(np.ravel(z), (*lead, z.size)).copy()
        on_set = kind in ("set", "induced metric")
        chart = kind in ("chart manifold", "chart metric", "chart")
        if chart and isinstance(network, architectures.ReLUNetwork):
            coordinates = network.basis_chart(self.theta0[case]).coordinates(theta)
            coordinates = np.broadcast_to(coordinates, (*lead, coordinates.size)).copy()
        else:
            coordinates = flat
        point = above if on_set else coordinates if chart else below
        if kind in ("potential", "multiplier", "loss", "network loss"):
            point = below
        vector = 0.1 * rng.standard_normal(point.shape)
        up, down = 0.1 * rng.standard_normal(above.shape), 0.1 * rng.standard_normal(below.shape)
        laws = np.broadcast_to(network.conservation_laws(theta), (*lead, network.n_laws)).copy()
        solver_kind = kind in ("spaces", "solver")
        if kind == "multiplier":
            point = np.abs(rng.standard_normal(3))
            vector = point
        values = {
            "architecture": network,
            "network": network,
            "invariant_set": own,
            "space": own,
            "total_space": own,
            "theta": above if not solver_kind else theta,
            "theta0": theta,
            "z": below,
            "z0": z,
            "near": above,
            "laws": laws,
            "laws_tangent": laws,
            "covector": down if kind != "chart" else vector,
            "lifted_vec": down,
            "lifted_tangent": down,
            "tangent": up,
            "tangent_a": up,
            "tangent_b": up,
            "theta_a": above,
            "theta_b": above,
            "vector": up if kind in ("architecture", "spaces", "solver") else vector,
            "velocity": up if not chart else vector,
            "target": theta,
            "direction": up if solver_kind else vector,
            "base_point": above if kind == "architecture" else point,
            "point": point,
            "point_a": point,
            "point_b": point,
            "tangent_vec": vector,
            "tangent_vec_a": vector,
            "tangent_vec_b": vector,
            "tangent_vec_c": vector,
            "tangent_vec_d": vector,
            "initial_point": point,
            "end_point": point,
            "initial_tangent_vec": vector,
            "euclidean_gradient": vector,
            "fiber_point": above,
            "image_point": above,
            "coordinates": coordinates,
            "left": point,
            "right": point,
            "singular": np.abs(rng.standard_normal(2)),
            "state": np.stack([point, point], axis=-2),
            "n_samples": int(rng.integers(1, 4)),
            "rng": 0,
            "atol": 1e-6,
            "rtol": 1e-6,
            "tolerance": 1e-6,
            "bound": 1.0,
            "equip": True,
            "loss": self.loss,
            "t_span": (0.0, 0.01),
            "n_times": 3,
            "method": "RK45",
            "step_size": 1e-3,
            "n_steps": 2,
            "every": 1,
            "momentum": 0.5,
            "batch_size": None,
            "weight_decay": 0.1,
            "schedule": [1.0, 0.5],
            "decay": "coupled",
            "nesterov": True,
            "steps": None,
            "indices": [0],
            "ell": lambda theta, *indices: anp.sum((network.lift(theta) - 1.0) ** 2),
            "betas": (0.9, 0.99),
            "epsilon": 1e-8,
            "function": _squares,
            "kind": "mse",
            "inputs": np.ones((2, 2)),
            "targets": np.ones((2, 1)),
            "degree": 2,
            "exact": False,
            "widths": [2, 2, 1],
            "bias": True,
            "skips": [(0, 2)],
            "n": 2,
            "m": 2,
            "r": 2,
            "depth": 2,
            "d_model": 2,
            "d_head": 2,
            "n_heads": 1,
            "path_limit": 100,
            "graph": nx.DiGraph([("x", "h"), ("h", "y")]),
            "cometric": own.image().metric.cometric,
            "trajectory": getattr(self, "trajectory", None),
            "points": np.abs(below) + 0.5,
            "metric_matrix": lambda x: np.eye(np.shape(x)[-1]) + 0 * x[..., None],
            "lam": 0.0,
            "lams": 0.0,
            "a": 0.5,
            "seeds": [0],
            "make_case": lambda seed: (own, self.loss),
            "control": False,
            "progress": False,
            "coordinates_": "full",
            "name": "iris",
            "max_steps": 5,
            "shifts": [0.0, 0.1],
            "constant": 1.0,
            "metric": own.image().metric,
            "weights": np.ones(network.dim),
            "log_factors": np.zeros(getattr(network, "n_hidden", 1)),
            "gradient": theta,
            "moments": np.zeros((2, network.dim)),
            "count": 1,
            "dark": True,
            "t": 0.5,
            "dim": 3,
            "lifted_shape": (2,),
            "n_laws": 0,
            "solver": own.metric.solver,
        }
        if name == "coordinates" and kind != "chart":
            return "full"
        return values[name]


def call(world, number, rng, *, good_only=False):
    """Call one target once; return its name, what was called with, and the raw error or None."""
    label, target, case = world.targets[number]
    kind = ""
    if isinstance(target, tuple):
        thing, name, kind = target
        target = getattr(copy.copy(thing), name)  # equip_with_metric leaves its mark
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return label, "", None
    spoilt = set()
    if not good_only and parameters and rng.random() < 0.85:
        count = min(len(parameters), 1 + int(rng.random() < 0.25))
        spoilt = {int(i) for i in rng.choice(len(parameters), count, replace=False)}
    arguments, named, shown = [], {}, []
    for place, parameter in enumerate(parameters):
        optional = parameter.default is not inspect.Parameter.empty
        if parameter.kind is parameter.VAR_KEYWORD:
            if place in spoilt:
                named["no_such_argument"] = 1
            continue
        if place in spoilt:
            value = BAD[rng.integers(len(BAD))]()
        else:
            if optional and rng.random() < 0.6:
                continue
            try:
                value = world.good(parameter.name, case, kind, rng)
            except KeyError:
                if optional:
                    continue
                value = BAD[rng.integers(len(BAD))]()
        shown.append(f"{parameter.name}={_show(value)}")
        if parameter.kind is parameter.VAR_POSITIONAL:
            arguments.append(value)
        elif parameter.kind is parameter.KEYWORD_ONLY or len(arguments) < place:
            named[parameter.name] = value
        else:
            arguments.append(value)
    return label, ", ".join(shown), outcome(target, arguments, named)


def _show(value):
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    try:
        return repr(value)[:60]
    except Exception:
        return type(value).__name__


def outcome(target, arguments, named):
    """Return None if the call went right, else what came out, with the place it came from."""
    signal.signal(signal.SIGPROF, _late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    state = np.random.get_state()  # noqa: NPY002 - which some functions of geomstats draw from
    try:
        with warnings.catch_warnings(), mpl.rc_context():
            warnings.simplefilter("ignore")
            target(*arguments, **named)
    except LiftflowError:
        return None
    except AssertionError as error:
        return None if getattr(target, "__module__", "") == contracts.__name__ else _raw(error)
    except Late:
        return f"took more than {SECONDS} s"
    except TypeError as error:
        if error.__traceback__.tb_next is None:  # Python refuses the signature itself
            return None
        return _raw(error)
    except Exception as error:
        return _raw(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        np.random.set_state(state)  # noqa: NPY002
        plt.close("all")
    return None


def _raw(error):
    frames = [
        f"{Path(f.filename).name}:{f.lineno}:{f.name}"
        for f in traceback.extract_tb(error.__traceback__)[1:]
    ]
    shown = [*frames[:3], *(["…"] if len(frames) > 4 else []), *frames[3:][-1:]]
    return f"{type(error).__name__}: {str(error)[:90]} [{' < '.join(shown)}]"


def search(n_calls, seed, world=None):
    """Make so many calls, each target in turn; return the raw ones.

    They are made in a folder that is thrown away, for some of them save to paths without one.
    """
    world = World() if world is None else world
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(world.targets))
    raw = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number in range(n_calls):
            label, shown, error = call(world, int(order[number % order.size]), rng)
            if error is not None:
                raw.append((label, shown, error))
    return raw


if __name__ == "__main__":
    calls, seed = (int(x) for x in sys.argv[1:3])
    everything = World()
    print(len(everything.targets), "targets")
    found = search(calls, seed, everything)
    for label, shown, error in sorted(found):
        print(f"{label}({shown})\n    {error}")
    print(len(found), "of", calls)
    print(Counter(label.split(" ")[-1] for label, _, _ in found).most_common(400))
