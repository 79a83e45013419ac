"""What a notebook shows: one line for each object, tables for results, and each figure once."""

import importlib
import pkgutil
from dataclasses import replace

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pytest

import liftflow
from liftflow import (
    IntrinsicFlow,
    InvariantSet,
    NetworkLoss,
    ParameterFlow,
    ReLUNetwork,
    compare,
    loss_from_function,
    sweep,
)
from liftflow.architectures import (
    Attention,
    ChannelGraph,
    Conv,
    DeepLinear,
    LinearNeuralODE,
    ProductArchitecture,
    TwoLayerLinear,
)
from liftflow.criteria import classify, discover_laws
from liftflow.criteria.hierarchy import Classification
from liftflow.criteria.polynomials import DiscoveredLaws
from liftflow.data import load
from liftflow.errors import DataError, InputError
from liftflow.flows import (
    Adam,
    Comparison,
    GradientDescent,
    Sweep,
    TrainingRule,
    Trajectory,
)

NETWORK = ReLUNetwork.from_widths([2, 3, 1])
THETA = NETWORK.random_point(rng=0)
START = InvariantSet(NETWORK, THETA)
LOSS = NetworkLoss(NETWORK, np.eye(2), [1.0, -1.0])


@pytest.fixture(scope="module")
def comparison():
    about = {"data": "two rows", "seed": 0}
    settings = {"n_times": 5, "control": True, "about": about}
    return compare(START, LOSS, (0.0, 0.5), 1e-6, 1e-8, **settings)


@pytest.fixture(scope="module")
def results(comparison):
    runs = sweep(lambda seed: (START, LOSS), [3, 5], (0.0, 0.1), rtol=1e-4, n_times=3)
    linear = TwoLayerLinear(2, 2, 1)
    return {
        Comparison: comparison,
        Trajectory: comparison.parameter,
        Sweep: runs,
        Classification: classify(linear, linear.random_point(rng=0)),
        DiscoveredLaws: discover_laws(linear),
    }


OBJECTS = {
    "ReLUNetwork(2-3-1, 9 parameters, 6 paths, 3 laws)": NETWORK,
    "TiedNetwork(16 inputs, 2 outputs, 44 parameters, 2 channels)": ReLUNetwork.convolutional(
        (1, 4, 4), [Conv(2, 2)], 2, bias=False
    ),
    "ChannelGraph(9 parameters, 3 channels)": NETWORK.channels,
    "ChannelGraph(3 parameters, 1 channel)": ChannelGraph([-1, -1, 0], [0, 0, -1], 1),
    "TwoLayerLinear(3, 2, 1)": TwoLayerLinear(3, 2, 1),
    "DeepLinear([2, 3, 2])": DeepLinear([2, 3, 2]),
    "LinearNeuralODE(2, 5)": LinearNeuralODE(2, 5),
    "Attention(3, 2, 1)": Attention(3, 2, 1),
    "ProductArchitecture(DeepLinear([1, 1, 1]), TwoLayerLinear(1, 1, 1))": ProductArchitecture(
        DeepLinear([1, 1, 1]), TwoLayerLinear(1, 1, 1)
    ),
    "NetworkLoss(mse, 2 samples of 2 features)": LOSS,
    "FunctionLoss(square)": loss_from_function(np.square),
    f"InvariantSet(dimension 6) of {NETWORK!r}": START,
    f"PathImage(dimension 6) of {NETWORK!r}": START.image(),
    f"PathCometric of {NETWORK!r}": START.image().metric.cometric,
}


@pytest.mark.parametrize("said", OBJECTS)
def test_an_object_says_what_it_is(said):
    assert repr(OBJECTS[said]) == said


def test_every_object_says_so_in_one_line(results):
    others = [
        START.metric,
        START.image().metric,
        START.chart(),
        START.fiber_bundle,
        NETWORK.laplacian,
        NETWORK.basis_chart(THETA),
        ParameterFlow(NETWORK, LOSS),
        IntrinsicFlow(START, LOSS),
        Adam(NETWORK, LOSS, 0.1),
        GradientDescent(NETWORK, LOSS, 0.1),
        load("iris"),
        results[Comparison].parameter.checkpoint,
        results[Classification].metric,
        results[DiscoveredLaws].laws[0],
        results[Sweep].runs[0],
    ]
    for thing in [*others, *OBJECTS.values(), *results.values()]:
        text = repr(thing)
        assert "\n" not in text and " object at 0x" not in text and len(text) < 400, text


def test_what_is_half_made_has_a_name_too():
    assert repr(DeepLinear.__new__(DeepLinear)) == "DeepLinear"


def test_a_huge_network_is_named_at_once():
    tall = nx.DiGraph()
    for layer in range(400):
        tall.add_edges_from(((layer, i), (layer + 1, j)) for i in range(2) for j in range(2))
    network = ReLUNetwork(tall, [(0, 0), (0, 1)], [(400, 0), (400, 1)])
    assert "about 10^12" in repr(network)


@pytest.mark.parametrize("kind", [Comparison, Trajectory, Sweep, Classification, DiscoveredLaws])
def test_a_result_is_shown_drawn_written_and_read(results, kind, tmp_path):
    result = results[kind]
    assert result._repr_html_().startswith(("<pre", "<p"))
    before = plt.get_fignums()
    figure = result.plot()
    assert plt.get_fignums() == before, "a notebook draws it twice"
    assert figure.axes
    figure.savefig(tmp_path / "figure.png", dpi=40)
    path = tmp_path / "result"
    result.save(path)
    again = kind.load(path)
    assert repr(again) == repr(result)
    assert again._repr_html_() == result._repr_html_()
    again.plot()
    for other in {*results} - {kind}:
        with pytest.raises(DataError):
            other.load(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError):
        kind.load(path)


def test_a_comparison_that_was_read_has_its_numbers_and_no_architecture(comparison, tmp_path):
    comparison.save(tmp_path / "run.npz")
    again = Comparison.load(tmp_path / "run.npz")
    assert again.summary() == comparison.summary() and str(again) == str(comparison)
    assert again.verdict == comparison.verdict
    np.testing.assert_array_equal(again.control.theta, comparison.control.theta)
    with pytest.raises(InputError, match="has no architecture"):
        again.law_drift_over_time(again.parameter)
    with pytest.raises(DataError, match=r"Comparison\.load"):
        Trajectory.load(tmp_path / "run.npz")


def test_a_comparison_under_a_rule_is_read_with_its_steps_and_all_its_controls(tmp_path):
    steps = GradientDescent(NETWORK, LOSS, 0.01).run(THETA, 30)
    rule = TrainingRule([1.0, 0.1], 0.2)
    run = compare(START, LOSS, (0.0, 0.3), n_times=4, control=True, rule=rule, steps=steps)
    run.save(tmp_path / "run.npz")
    again = Comparison.load(tmp_path / "run.npz")
    assert again.summary() == run.summary() and str(again) == str(run)
    assert again.control_name == run.control_name
    assert again.further_controls.keys() == run.further_controls.keys() != set()
    assert again.control_deviation == run.control_deviation > 100 * run.max_deviation
    assert again.steps_deviation == run.steps_deviation > 0
    np.testing.assert_array_equal(again.steps.theta, run.steps.theta)


def test_figures_and_summaries_say_what_was_trained(comparison):
    summary = comparison.summary()
    assert summary["version"] == liftflow.__version__
    assert (summary["data"], summary["seed"]) == ("two rows", 0)
    figure = comparison.plot()
    assert "2-3-1" in figure._suptitle.get_text()
    assert "two rows, seed 0" in figure._suptitle.get_text()
    labels = [line.get_label() for line in figure.axes[2].lines]
    assert labels == ["parameter flow"], "the drift of the intrinsic flow proves nothing"


def test_the_speed_of_a_control_is_that_of_its_loss(comparison):
    """The loss falls at the rate ‖∇ℓ‖²: by the first steps of both flows."""
    runs = compare(START, LOSS, (0.0, 1e-5), 1e-10, 1e-13, control=True, n_times=2)
    falls = [run.loss[0] - run.loss[-1] for run in (runs.control, runs.parameter)]
    assert runs.control_speed == pytest.approx(falls[0] / falls[1], rel=1e-3)
    assert f"{comparison.control_speed:.2g} × as fast" in str(comparison)
    assert replace(comparison, control=None).control_speed is None


def test_no_public_class_is_left_without_a_name_of_its_own():
    """Objects at addresses are what a notebook must not show."""
    silent = []
    for module in pkgutil.walk_packages(liftflow.__path__, "liftflow."):
        if "gallery.plot_" in module.name or module.name.startswith(
            ("liftflow.__main__", "liftflow.torch", "liftflow.cli")
        ):
            continue
        for name, thing in vars(importlib.import_module(module.name)).items():
            if isinstance(thing, type) and thing.__module__ == module.name and name[0] != "_":
                room = importlib.import_module(".".join(module.name.split(".")[:2]))
                if name in getattr(room, "__all__", ()) and thing.__repr__ is object.__repr__:
                    silent.append(f"{module.name}.{name}")
    assert not silent
