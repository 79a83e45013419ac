"""The doors of the API: what comes in, what is kept, what cannot fit."""

import inspect
import os
import pickle
from contextlib import suppress

import fuzzing
import networkx as nx
import numpy as np
import pytest
from hierarchy_cases import BareLinear

from liftflow import (
    InvariantSet,
    NetworkLoss,
    compare,
    intrinsic_cometric,
    loss_from_function,
)
from liftflow.architectures import (
    Architecture,
    Attention,
    DeepLinear,
    LinearNeuralODE,
    ProductArchitecture,
    ReLUNetwork,
    TwoLayerLinear,
)
from liftflow.criteria import discover_laws, find_counter_example
from liftflow.data import Dataset
from liftflow.doors import door
from liftflow.errors import (
    ArchitectureError,
    CallError,
    GeodesicError,
    InputError,
    LiftflowError,
    NotFiniteError,
    ShapeError,
    UndefinedError,
)
from liftflow.flows import DiagonalPotential, GradientDescent
from liftflow.linalg import over_batch
from liftflow.manifolds import chart_manifold, image_manifold
from liftflow.matrix_losses import attention_loss, matrix_completion_loss, matrix_sensing_loss
from liftflow.metrics import DeepMultiplier
from liftflow.typing import MEMORY_LIMIT, as_function, as_instance, refuse_beyond

N_CALLS = int(os.environ.get("LIFTFLOW_FUZZ_CALLS", "2500"))  # per seed
NETWORK = ReLUNetwork.from_widths([2, 2, 1])
LINEAR, OPEN = TwoLayerLinear(2, 2, 2), BareLinear([2, 3, 2])


@pytest.fixture(scope="module")
def world():
    return fuzzing.World()


# Wrong arguments.


@pytest.mark.parametrize(
    ("seed", "part"),
    [*(pytest.param(seed, 1, marks=pytest.mark.slow) for seed in (20261125, 7)), (8, 5)],
)
def test_nothing_raw_comes_out_of_the_public_interface(world, seed, part):
    found = fuzzing.search(N_CALLS // part, seed, world)
    assert not found, "\n".join(f"{label}({shown}): {error}" for label, shown, error in found)


def test_the_search_sees_what_is_raw():
    def raw(x):
        return x[1]

    def refuses(x):
        raise InputError("x")

    assert fuzzing.outcome(raw, [[]], {}).startswith("IndexError")
    assert fuzzing.outcome(raw, [], {}) is None  # Python's own refusal
    assert fuzzing.outcome(refuses, [0], {}) is None
    assert fuzzing.outcome(raw, [[0, 1]], {}) is None


def mean(targets, weights):
    """The mean of a geodesic solver; of the point itself, it is there."""
    space = InvariantSet(NETWORK, np.arange(1.0, 7.0))
    return space.metric.solver.mean(space.theta0, targets, weights)


def test_the_mean_of_a_point_is_the_point():
    assert mean([np.copy], [2.0]) == pytest.approx(np.arange(1.0, 7.0))


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda: InvariantSet(np.ones(6), NETWORK), "architecture must be an Architecture, got nd"),
        (lambda: InvariantSet(ReLUNetwork, np.ones(6)), "got the class ReLUNetwork"),
        (lambda: compare(NETWORK, None, (0, 1)), r"an InvariantSet, got ReLUNetwork; make one by"),
        (lambda: intrinsic_cometric(nx.DiGraph(), np.ones(6)), "an Architecture, got DiGraph"),
        (lambda: InvariantSet(NETWORK), "missing a required argument: 'theta0'"),
        (lambda: compare(turns=1), "missing a required argument"),
        (lambda: NETWORK.lift(), "missing 1 required positional argument"),
        (lambda: LINEAR.lift_jvp(np.ones((2, 8)), np.ones((3, 8))), "leading axes do not fit"),
        (lambda: ReLUNetwork.from_widths({2, 3}), "widths must be a sequence, got set"),
        (lambda: mean([3], [1.0]), "a target must be a function, got int"),
        (lambda: mean([np.copy], [1.0, 2.0]), r"weights must have shape \(1,\), got \(2,\)"),
        (lambda: mean([np.copy], [0.0]), "weights must have a positive sum, got"),
        (lambda: mean([], []), "weights must have a positive sum, got"),
    ],
)
def test_messages_name_the_cause(act, match):
    with pytest.raises(InputError, match=match):
        act()


def test_a_door_looks_again_at_every_call():
    space = InvariantSet(NETWORK, np.arange(1.0, 7.0))
    vector = space.to_tangent(np.ones(6), space.theta0)
    norm = space.metric.squared_norm
    whole = float(np.sum(vector**2))
    for _ in range(2):  # a way to call is worked out once, what it is called with is not
        assert float(norm(vector)) == pytest.approx(whole, rel=1e-15)
        assert float(norm(vector, base_point=space.theta0)) == pytest.approx(whole, rel=1e-15)
        assert float(norm(vector.tolist(), space.theta0)) == pytest.approx(whole, rel=1e-15)
        assert norm(np.array([vector, 2 * vector])) == pytest.approx([whole, 4 * whole])
        for bad in (vector[:5], np.append(vector[:5], np.nan), "v", None, vector.astype(complex)):
            with pytest.raises(InputError):
                norm(bad)
        with pytest.raises(NotFiniteError):
            norm(vector, np.full(6, np.inf))
        for call in (lambda: norm(vector, point=1), lambda: norm(), lambda: norm(1, 2, 3)):
            with pytest.raises(CallError):
                call()


def test_a_door_holds_to_annotations():
    @door
    def scale(network: Architecture, *factors: float, count: int = 1, name: str | None = None):
        """Scale."""
        return network, factors, count, name

    assert scale(NETWORK, 1, np.float32(2), count=np.int8(3)) == (NETWORK, (1.0, 2.0), 3, None)
    assert scale.__doc__ == "Scale."
    for bad in (
        lambda: scale(nx.DiGraph()),
        lambda: scale(NETWORK, "1"),
        lambda: scale(NETWORK, np.nan),
        lambda: scale(NETWORK, count=1.5),
        lambda: scale(NETWORK, count=True),
        lambda: scale(NETWORK, name=3),
    ):
        with pytest.raises(InputError):
            bad()
    with pytest.raises(TypeError):
        scale()
    with pytest.raises(CallError):
        scale(NETWORK, other=1)

    @door
    def takes_more(a: int, **more: float):
        return a, more

    assert takes_more(1, b=2) == (1, {"b": 2})
    for misfit in (lambda: takes_more(1, a=1), lambda: takes_more(1, 2), lambda: takes_more(b=1)):
        with pytest.raises(CallError):
            misfit()

    @door
    def fails():
        return {}["a bug of ours"]

    with pytest.raises(KeyError):  # is not dressed up
        fails()


def test_a_door_reads_the_flags_that_python_reads():
    @door
    def switch(on: bool = False):
        return on

    for value in (True, 1, np.int8(1), np.bool_(True)):
        assert switch(value) is True
    for value in (False, 0, None):
        assert switch(value) is False
    for bad in (2, -1, 1.0, "yes", [True, False]):
        with pytest.raises(InputError, match="on must be True or False"):
            switch(bad)


def test_what_does_not_exist_is_refused_as_geomstats_does_and_as_we_do():
    image = InvariantSet(NETWORK, NETWORK.random_point(rng=0)).image()
    for act in (image.metric.injectivity_radius, image.metric.riemann_tensor):
        with pytest.raises(NotImplementedError) as caught:
            act(image.random_point(rng=0))
        assert isinstance(caught.value, UndefinedError)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), UndefinedError)
    with pytest.raises(InputError, match="call it to make one"):
        as_instance(InvariantSet, InvariantSet, "x")


# Empty batches.

BATCHED = {
    "architecture": "lift lift_jvp lift_vjp lift_hessian lift_hvp lift_jacobian gram_apply "
    "gram_matrix conservation_laws conservation_laws_jacobian laws_jvp laws_hessian solve_laws_jvp "
    "project_to_tangent project_to_laws project_to_range solve_jvp solve_vjp recover align unpack "
    "lifted_distance lifted_norm project_to_image kernel_apply kernel_diagonal kernel_matrix",
    "set": "submersion belongs to_tangent projection is_tangent lift recover",
    "image": "belongs to_tangent projection is_tangent",
    "bundle": "lift riemannian_submersion tangent_riemannian_submersion horizontal_projection "
    "vertical_projection integrability_tensor align",
    "induced metric": "exp log dist squared_dist inner_product norm parallel_transport "
    "second_fundamental_form curvature scalar_curvature ricci_tensor",
    "metric": "exp log dist squared_dist inner_product norm parallel_transport curvature "
    "scalar_curvature cometric_matrix cometric_apply horizontal_lift ricci_tensor",
    "cometric": "apply solve point matrix inner_product horizontal_lift",
    "chart metric": "exp log dist inner_product metric_matrix christoffels curvature",
    "chart": "coordinates push_forward pull_back hessian recover lift_tangent gram_apply",
    "loss": "parameter_value parameter_gradient",
    "network loss": "value gradient parameter_value parameter_gradient",
    "potential": "value gradient hessian warping",
}


def batched_calls(world):
    for case, kind, thing in world.objects:
        for name in BATCHED.get(kind, "").split():
            if hasattr(thing, name):
                yield case, kind, thing, name


def arguments(world, method, case, kind, lead):
    rng, given = np.random.default_rng(0), {}
    for name, parameter in inspect.signature(method).parameters.items():
        needed = parameter.default is parameter.empty or name in ("base_point", "direction")
        if not needed and name != "near":
            continue
        with suppress(KeyError):
            given[name] = world.good(name, case, kind, rng, lead)
    return given


@pytest.mark.slow
def test_an_empty_batch_gives_an_empty_batch(world):
    seen, shapes = 0, []
    for case, kind, thing, name in batched_calls(world):
        method = getattr(thing, name)
        try:
            full = method(**arguments(world, method, case, kind, (2,)))
        except LiftflowError:
            continue
        empty = method(**arguments(world, method, case, kind, (0,)))
        parts = zip(full, empty, strict=True) if isinstance(full, tuple) else [(full, empty)]
        for own, none in parts:
            if np.shape(none) != (0, *np.shape(own)[1:]) or np.shape(own)[:1] != (2,):
                shapes.append((case, type(thing).__name__, name, np.shape(own), np.shape(none)))
        seen += 1
    assert not shapes
    assert seen > 400


def test_over_batch_of_none_asks_nothing():
    def never(*_):
        raise AssertionError

    assert over_batch(never, [np.zeros((0, 3)), np.zeros(2)], [1, 1]).shape == (0, 3)
    assert over_batch(never, [np.zeros((2, 0, 3))], [1], shape=(4, 4)).shape == (2, 0, 4, 4)
    with pytest.raises(ShapeError, match="leading axes"):
        over_batch(never, [np.zeros((0, 3)), np.zeros((2, 3))], [1, 1])


# What is kept.


def kept(build, *arrays):
    """The object, and that object built from arrays that change afterwards."""
    mine = [np.array(array) for array in arrays]
    changed = build(*mine)
    for array in mine:
        array *= 2
        array += 1
    return build(*arrays), changed


SAMPLES = np.array([[1.0, 2.0], [0.5, -1.0]])
DIAGONAL = ReLUNetwork.diagonal(2)
POINT, HALF = NETWORK.random_point(rng=0), DIAGONAL.random_point(rng=0)
KEEPERS = {
    "set": (lambda t: InvariantSet(NETWORK, t), [POINT], lambda s: s.submersion(POINT)),
    "image": (
        lambda t: InvariantSet(NETWORK, t).image(),
        [POINT],
        lambda i: i.metric.cometric.matrix(NETWORK.lift(POINT)),
    ),
    "cometric": (
        lambda t: intrinsic_cometric(NETWORK, t),
        [POINT],
        lambda k: k.point(NETWORK.lift(POINT)),
    ),
    "multiplier": (lambda s: DeepMultiplier(s), [[0.0, 0.3]], lambda m: m.pair(1.0, 2.0)),
    "potential": (lambda t: DiagonalPotential(DIAGONAL, t), [HALF], lambda p: p.value([1.0, 2.0])),
    "chart": (NETWORK.basis_chart, [POINT], lambda c: c.signs),
    "network loss": (
        lambda x, y: NetworkLoss(NETWORK, x, y),
        [SAMPLES, SAMPLES[:, :1]],
        lambda f: f.parameter_value(POINT),
    ),
    "completion": (matrix_completion_loss, [SAMPLES, np.eye(2)], lambda f: f.value(np.eye(2))),
    "sensing": (matrix_sensing_loss, [SAMPLES[None], [1.0]], lambda f: f.value(SAMPLES)),
    "attention": (
        lambda x, y: attention_loss(x, y, 2),
        [SAMPLES[None], SAMPLES[None]],
        lambda f: f.value(np.stack([np.eye(2), np.eye(2)])),
    ),
    "data set": (
        lambda x, y: Dataset("d", x, y, 0),
        [SAMPLES, SAMPLES[0]],
        lambda d: np.append(d.inputs, d.targets),
    ),
}


@pytest.mark.parametrize("name", KEEPERS)
def test_what_the_caller_does_to_his_arrays_changes_nothing(name):
    build, arrays, ask = KEEPERS[name]
    own, other = kept(build, *arrays)
    np.testing.assert_array_equal(ask(own), ask(other))
    moved = build(*[np.asarray(array) * 2 + 1 for array in arrays])
    assert not np.array_equal(ask(own), ask(moved))  # what was asked depends on them


def frozen_arrays():
    own = InvariantSet(NETWORK, POINT)
    chart, dag = NETWORK.basis_chart(POINT), NETWORK.dag
    loss = NetworkLoss(NETWORK, SAMPLES, SAMPLES[:, :1])
    return [
        own.theta0,
        own.laws0,
        own.image().theta0,
        own.image().metric.cometric.theta0,
        own.image().metric.cometric.laws,
        chart.signs,
        chart.edges,
        chart.coordinate_of_edge,
        chart.anchors.into,
        chart.anchors.out_of,
        *(dag.tails, dag.heads, dag.outputs, dag.generation, dag.hidden_number, dag.position),
        *(dag.tail_hidden, dag.head_hidden, dag.hidden_nodes, dag.channels.loose, *dag.members),
        *(
            dag.channels.law_matrix.data,
            dag.channels.law_matrix.indices,
            *dag.channels.into,
            *dag.channels.out_of,
        ),
        *(part.edges for part in dag.blocks),
        *(NETWORK.laplacian.loose_ground + NETWORK.laplacian.loose_inner),
        *NETWORK.phi._path_offsets,
        NETWORK.path_tails,
        NETWORK.path_outputs,
        NETWORK.path_incidence.data,
        loss.inputs,
        loss.targets,
        DeepMultiplier([0.0, 0.3]).shifts,
        DiagonalPotential(DIAGONAL, HALF).laws,
    ]


def test_what_is_cached_cannot_be_written_to():
    for number, array in enumerate(frozen_arrays()):
        assert not array.flags.writeable, number


UNMOVED = {
    "project_to_laws": (
        LINEAR,
        lambda t, z: LINEAR.project_to_laws(t, LINEAR.conservation_laws(t)),
    ),
    "projection": (LINEAR, lambda t, z: InvariantSet(LINEAR, t).projection(t)),
    "project_to_image": (LINEAR, lambda t, z: LINEAR.project_to_image(z)),
    "open image": (OPEN, lambda t, z: OPEN.project_to_image(z, near=t)),
    "image": (LINEAR, lambda t, z: InvariantSet(LINEAR, t).image().projection(z)),
    "follow": (LINEAR, lambda t, z: intrinsic_cometric(LINEAR, t).follow(z, t)),
    "align": (OPEN, lambda t, z: OPEN.align(t, t)),
}


@pytest.mark.parametrize("name", UNMOVED)
def test_what_did_not_move_is_a_copy(name):
    architecture, act = UNMOVED[name]
    if architecture is LINEAR:
        theta = LINEAR.balanced_point(0.3, rng=0)
    else:
        theta = architecture.random_point(rng=0)
    z = architecture.lift(theta)
    for _ in range(2):  # what an architecture finds out at first, it knows the second time
        result = act(theta, z)
        given = z if result.shape == z.shape else theta
        np.testing.assert_allclose(result, given, rtol=1e-12)
        assert not np.may_share_memory(result, given)
        result += 1.0


def test_theta0_stays_on_its_own_set():
    theta = POINT.copy()
    own = InvariantSet(NETWORK, theta)
    loss = loss_from_function(lambda z: (z**2).sum())
    settings = {"rtol": 1e-6, "atol": 1e-8, "n_times": 5}
    before = compare(own, loss, (0.0, 0.1), **settings).max_deviation
    theta *= 1.5
    assert own.belongs(own.theta0) and not own.belongs(theta)
    assert compare(own, loss, (0.0, 0.1), **settings).max_deviation == before


# What cannot fit.

ONE = ReLUNetwork.from_widths([300, 150, 1])
WIDE = ReLUNetwork.from_widths([200, 200, 100])
TOO_LARGE = {
    "784-100000-10": lambda: ReLUNetwork.from_widths([784, 100_000, 10]),
    "2⋅10⁶-10⁶": lambda: ReLUNetwork.from_widths([2 * 10**6, 10**6]),
    "10³⁰⁰⁰-10": lambda: ReLUNetwork.from_widths([10**3000, 10]),
    "skips": lambda: ReLUNetwork.residual([10**5, 1, 10**5], [(0, 2)]),
    "diagonal": lambda: ReLUNetwork.diagonal(10**8, 3),
    "two layers": lambda: TwoLayerLinear(10**6, 10**6, 10**6),
    "deep": lambda: DeepLinear([10**6, 10**6, 10**4, 2]),
    "ode": lambda: LinearNeuralODE(10**5, 10**5),
    "ode of many cells": lambda: LinearNeuralODE(10, 10**8),
    "ode of 10³⁰⁰⁰ cells": lambda: LinearNeuralODE(1, 10**3000),
    "heads": lambda: Attention(4, 2, 10**8),
    "heads of one number": lambda: Attention(1, 1, 10**9),
    "kernel_matrix": lambda: WIDE.kernel_matrix(WIDE.random_point(rng=0)),
    "lift_jacobian": lambda: WIDE.lift_jacobian(WIDE.random_point(rng=0)),
    "gram_matrix": lambda: WIDE.gram_matrix(WIDE.random_point(rng=0)),
    "laws' Jacobian": lambda: WIDE.conservation_laws_jacobian(np.zeros((100, WIDE.dim))),
    "points": lambda: NETWORK.random_point(10**12),
    "points of a set": lambda: InvariantSet(NETWORK, POINT).random_point(10**10),
    "points of two layers": lambda: LINEAR.random_point(10**12),
    "points of a product": lambda: ProductArchitecture(NETWORK, LINEAR).random_point(10**12),
    "points of an ode": lambda: LinearNeuralODE(2, 3).random_point(10**30),
    "tangent vectors": lambda: InvariantSet(NETWORK, POINT).random_tangent_vec(POINT, 10**12),
    "cometric": lambda: intrinsic_cometric(ONE, ONE.random_point(rng=0)).matrix(
        ONE.lift(ONE.random_point(rng=0))
    ),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_cannot_fit_is_refused(name):
    with pytest.raises(ArchitectureError, match=r"takes about .* GB, more than the limit of 8 GB"):
        TOO_LARGE[name]()


def test_the_limit_is_where_it_says(monkeypatch):
    refuse_beyond(MEMORY_LIMIT / 8, "just fits")
    with pytest.raises(ArchitectureError, match="this takes about 8 GB"):
        refuse_beyond(MEMORY_LIMIT / 8 + 1, "this")
    refuse_beyond(10**7, "ten million edges", 150)
    monkeypatch.setenv("LIFTFLOW_MEMORY_LIMIT", "1000")
    with pytest.raises(ArchitectureError, match="LIFTFLOW_MEMORY_LIMIT"):
        refuse_beyond(126, "this")
    for wrong in ("8G", "abc", "", "nan", "-1"):
        monkeypatch.setenv("LIFTFLOW_MEMORY_LIMIT", wrong)
        with pytest.raises(InputError, match=f"LIFTFLOW_MEMORY_LIMIT must be .* got '{wrong}'"):
            refuse_beyond(126, "this")
    monkeypatch.setenv("LIFTFLOW_MEMORY_LIMIT", "inf")
    refuse_beyond(1e30, "this")
    assert NETWORK.lift_jacobian(POINT).shape == (4, 6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: loss_from_function(lambda: 0.0),
        lambda: loss_from_function(lambda z, theta: 0.0),
        lambda: NetworkLoss(NETWORK, [[1.0, 0.0]], [[1.0]], kind=lambda outputs: 0.0),
        lambda: TwoLayerLinear(1, 1, 1).with_laws([lambda theta, z: 0.0]),
        lambda: GradientDescent(NETWORK, loss_from_function(np.sum), 0.1, schedule=lambda: 1.0),
    ],
)
def test_a_function_takes_what_it_is_called_with(call):
    with pytest.raises(InputError, match=r"a function of \d arguments?, got .*argument"):
        call()


def test_functions_that_do_not_say_what_they_take_may_do_so():
    assert as_function(max, "f", 2) is max
    assert as_function(np.add, "f", 2) is np.add


def test_a_picture_of_a_set_takes_one_trajectory():
    network = ReLUNetwork.from_widths([2, 2, 1])
    start = InvariantSet(network, network.random_point(rng=0))
    with pytest.raises(ShapeError, match=r"theta must have shape \(n, 6\), got \(2, 1, 6\)"):
        start.plot(np.zeros((2, 1, 6)))
    assert start.plot(np.stack([start.theta0, start.theta0])).axes


def test_what_is_no_loss_and_what_is_no_flag_are_refused():
    with pytest.raises(InputError, match="loss must be a Loss, got tuple"):
        discover_laws(LINEAR, 2, (0.0, 1.0))
    with pytest.raises(InputError, match="torch_layout must be"):
        NETWORK.to_layers(np.zeros(NETWORK.dim), torch_layout=np.zeros(2))


def test_settings_out_of_their_range_are_refused():
    start = InvariantSet(NETWORK, NETWORK.random_point(rng=0))
    image, theta, layers = start.image(), start.theta0, [[[1.0, 2.0]], [[3.0], [4.0]]]
    for atol in (-1, -1e-9, np.nan, -(10**400), "a"):
        with pytest.raises(InputError, match="atol must be a real number of at least 0, got"):
            start.belongs(theta, atol=atol)
        with pytest.raises(InputError, match="atol must be a real number of at least 0, got"):
            image.is_tangent(np.zeros(4), start.lift(theta), atol)
    assert start.belongs(theta, atol=0) and start.is_tangent(np.zeros(6), theta, np.float32(0))
    for space in (start, image):
        for bound in (0, -1.0, np.nan):
            with pytest.raises(InputError, match="bound must be a real number above 0, got"):
                space.random_point(bound=bound)
    for tries in (0, -1):
        with pytest.raises(InputError, match="max_tries must be an integer of at least 1, got"):
            find_counter_example(LINEAR, np.ones(8), max_tries=tries)
    for blocks in ("abc", np.nan, -1, np.ones(4), [1, 2], {1, 2}, b"x"):
        with pytest.raises(InputError, match="blocks must be Mapping or True or False, got"):
            discover_laws(LINEAR, blocks=blocks)
    with pytest.raises(InputError, match="blocks must be tuples, one per block, got 1"):
        discover_laws(LINEAR, blocks={"a": 1})
    assert len(discover_laws(LINEAR, blocks={"U": (2, 2), "V": [2, 2]})) == 3
    for flag in ("abc", np.nan, 2.5, [], np.ones(3)):
        with pytest.raises(InputError, match="torch_layout must be"):
            ReLUNetwork.from_layers(layers, torch_layout=flag)
        with pytest.raises(InputError, match="warm must be True or False"):
            NETWORK.channels.project_to_laws(theta, start.laws0, warm=flag)
    with pytest.raises(InputError, match="biases must be a sequence, got int"):
        ReLUNetwork.from_layers(layers, biases=3)


def test_a_space_is_equipped_with_metrics_alone():
    start, other = (InvariantSet(NETWORK, NETWORK.random_point(rng=seed)) for seed in (0, 1))
    metric = start.metric
    for bad in ("a", np.ones(2), nx.DiGraph(), nx.DiGraph, int):
        with pytest.raises(InputError, match="Metric must be a class of metrics or a metric"):
            start.equip_with_metric(bad)
    with pytest.raises(InputError, match="Metric must be one of this space"):
        start.equip_with_metric(other.metric)
    assert start.metric is metric
    for good in (metric, type(metric), 2.0 * metric):
        assert start.equip_with_metric(good) is start


@pytest.mark.parametrize("on_image", [False, True], ids=["set", "image"])
def test_a_geodesic_at_no_times(on_image):
    start = InvariantSet(NETWORK, NETWORK.random_point(rng=0))
    space, point = (start.image(), start.lift(start.theta0)) if on_image else (start, start.theta0)
    vector = space.random_tangent_vec(point, rng=0)
    path = space.metric.geodesic(point, initial_tangent_vec=vector)
    assert path([]).shape == (0, *space.shape) and path([0.0]).shape == (1, *space.shape)
    np.testing.assert_array_equal(path([0.0])[0], point)


def test_a_geodesic_from_a_singular_point_says_so():
    chain, along = DeepLinear([1, 1, 1, 1]), np.array([1.0, 0.0, 0.0])
    theta = [0.0, 0.0, 1.3]
    with pytest.raises(GeodesicError, match=r"singular point .* only 1 of the 2 laws"):
        InvariantSet(chain, theta).metric.exp(along, theta)
    theta = np.array([0.5, 1.0, 1.3])
    regular = InvariantSet(chain, theta)
    end = regular.metric.exp(0.1 * regular.to_tangent(along, theta), theta)
    assert regular.belongs(end, 1e-8)


def test_generic_functions_take_names():
    network = ReLUNetwork.diagonal(1)
    start = InvariantSet(network, [0.5, 0.5])
    assert repr(image_manifold(theta0=[0.5, 0.5], architecture=network)) == repr(start.image())
    found = chart_manifold(network, theta=[0.5, 0.5], invariant_set=start)
    assert found.dim == 1
    with pytest.raises(CallError, match="missing a required argument: 'architecture'"):
        image_manifold(theta0=[0.5, 0.5])


def test_what_only_fuzzing_gave():
    network = DeepLinear([2, 2, 2, 2])
    theta = network.balanced_point(0.0, 0)
    laws, cometric = network.conservation_laws(theta), intrinsic_cometric(network, theta)
    with pytest.raises(ShapeError, match="2 each"):
        network.balance(laws, np.ones((2, 3)))
    np.testing.assert_array_equal(network.balance(laws, 1.0), network.balance(laws, np.ones(2)))
    with pytest.raises(InputError, match="near"):
        cometric.follow(network.lift(theta), [[1.0], [1.0, 2.0]])
    with pytest.raises(InputError, match="skips must be pairs"):
        ReLUNetwork.residual([2, 2, 1], np.array([0.0, 2.0]))
    solver = InvariantSet(network, theta).metric.solver
    velocity = InvariantSet(network, theta).to_tangent(np.ones(network.dim), theta)
    several = solver.acceleration(theta, np.array([[velocity], [2 * velocity]]))
    np.testing.assert_allclose(several[1, 0], 4 * several[0, 0], atol=1e-12)
    with pytest.raises(GeodesicError, match="no length in floats"):
        solver.transport(theta, velocity, np.full(network.dim, 1e308))
