"""Flows know no unit of time: rates, losses and decays may be multiplied; sizes are bounded."""

import autograd.numpy as anp
import numpy as np
import pytest
import typer

from liftflow.architectures import Conv, Pool, ReLUNetwork
from liftflow.cli import app
from liftflow.cli.families import readers
from liftflow.errors import ArchitectureError, InputError
from liftflow.flows import IntrinsicFlow, MomentumFlow, TrainingRule, compare
from liftflow.losses import loss_from_function
from liftflow.manifolds import InvariantSet

RTOL, SIZE = 1e-6, 1e6
FAMILIES = {
    "layers": lambda: ReLUNetwork.from_widths([3, 4, 3, 2], bias=True),
    "recurrent": lambda: ReLUNetwork.recurrent(1, 2, 1, 2),
}


def bowl(factor=1.0):
    return loss_from_function(lambda z: factor * 0.5 * anp.sum((z - 0.3) ** 2))


@pytest.mark.parametrize("coordinates", ["basis", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rates_and_decay_change_the_time_alone(family, coordinates):
    """θ' = −kη∇ℓ − kλθ to the time T/k is one flow for all k."""
    network = FAMILIES[family]()
    theta0 = network.random_point(rng=0)
    start = InvariantSet(network, theta0)
    rates = np.random.default_rng(1).uniform(0.5, 2.0, network.dim)
    # The first step that scipy tries depends on the unit of time: give it.
    ends, counts = [], []
    for k in (1.0, 1 / SIZE, SIZE):
        rule = TrainingRule(k * rates, 0.5 * k)
        span, first = (0.0, 0.3 / k), 0.01 / k
        settings = {"rule": rule, "n_times": 2, "first_step": first, "rtol": RTOL}
        both = compare(start, bowl(), span, coordinates=coordinates, **settings)
        assert both.success and both.max_deviation <= 100 * RTOL
        ends.append(both.intrinsic.theta[-1])
        counts.append((both.parameter.n_evaluations, both.intrinsic.n_evaluations))
    assert counts[0] == counts[1] == counts[2]
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], rtol=1e-8, atol=1e-9)
    other = compare(start, bowl(), (0.0, 0.6), rule=TrainingRule(rates, 0.5), n_times=2)
    assert np.max(np.abs(other.intrinsic.theta[-1] - ends[0])) > 1e-3  # the control


def test_the_steps_in_a_chart_are_those_of_a_loss_as_many_times_as_large():
    network = FAMILIES["layers"]()
    start = InvariantSet(network, network.random_point(rng=0))
    settings = {"n_times": 2, "rtol": RTOL}
    span = (0.0, 0.3 / 1e3)
    flow = IntrinsicFlow(start, bowl(), "basis", rule=TrainingRule(1e3))
    own = flow.integrate(t_span=span, **settings)
    wanted = IntrinsicFlow(start, bowl(1e3), "basis").integrate(t_span=span, **settings)
    np.testing.assert_allclose(own.theta[-1], wanted.theta[-1], rtol=1e-10)
    assert own.n_evaluations == wanted.n_evaluations
    loose = flow.integrate(t_span=span, atol=RTOL * 10, **settings)
    assert loose.n_evaluations < own.n_evaluations  # in other units: the control


def test_momentum_knows_no_unit_of_time():
    """A loss k² times as large, friction k times, to the time T/k."""
    network = FAMILIES["layers"]()
    theta0, counts, ends = network.random_point(rng=0), [], []
    for k in (1.0, 1 / SIZE, SIZE):
        flow = MomentumFlow(network, bowl(k**2), friction=0.5 * k)
        run = flow.integrate(theta0, (0.0, 1.0 / k), n_times=2, first_step=0.01 / k)
        counts.append(run.n_evaluations)
        ends.append(run.theta[-1])
    assert counts[0] == counts[1] == counts[2]
    np.testing.assert_allclose(ends[1:], [ends[0]] * 2, rtol=1e-8, atol=1e-9)
    other = MomentumFlow(network, bowl(), friction=2.0).integrate(theta0, (0.0, 1.0), n_times=2)
    assert np.max(np.abs(other.theta[-1] - ends[0])) > 1e-3  # the control


LARGE = {
    "image": lambda: ReLUNetwork.convolutional((1, 10**6, 10**6), [Conv(2, 1)], 2),
    "channels": lambda: ReLUNetwork.convolutional((1, 4, 4), [Conv(10**9, 1)], 2),
    "kernel": lambda: ReLUNetwork.convolutional((1, 4, 4), [Conv(1, 10**6, padding=10**6)], 2),
    "pool": lambda: ReLUNetwork.convolutional((10**8, 2, 2), [Pool("max", 2)], 2),
    "outputs": lambda: ReLUNetwork.convolutional((1, 4, 4), [Conv(2, 1)], 10**9),
    "steps": lambda: ReLUNetwork.recurrent(1, 1, 1, 10**7),
    "hidden": lambda: ReLUNetwork.recurrent(1, 10**6, 1, 2),
    "residual": lambda: ReLUNetwork.residual([2, 10**8, 2, 10**8], [(1, 3)], identity=True),
    "diagonal": lambda: ReLUNetwork.diagonal(10**9),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_network_that_cannot_fit_is_refused_with_its_size(name):
    with pytest.raises(ArchitectureError, match=r"takes about .* GB, more than the limit"):
        LARGE[name]()


def test_the_limit_is_that_of_the_environment(monkeypatch):
    def build():
        return ReLUNetwork.convolutional((1, 8, 8), [Conv(2, 3)], 2)

    assert build().dim > 0
    monkeypatch.setenv("LIFTFLOW_MEMORY_LIMIT", "1e5")
    with pytest.raises(ArchitectureError, match=r"a network of .* nodes and .* edges takes about"):
        build()


def test_layers_without_nodes_are_named():
    with pytest.raises(ArchitectureError, match="layer 1 has width 0"):
        ReLUNetwork.from_layers([np.ones((3, 0)), np.ones((0, 2))])
    network, _ = ReLUNetwork.from_layers([np.ones((3, 1)), np.ones((1, 2))])
    assert network.dim == 5


def test_batches_say_how_to_have_all_samples():
    from liftflow.flows import GradientDescent
    from liftflow.losses import NetworkLoss

    network = ReLUNetwork.from_widths([2, 2, 1])
    loss = NetworkLoss(network, np.ones((20, 2)), np.ones((20, 1)))
    with pytest.raises(InputError, match="at most 20 samples, got 32; leave batch_size out"):
        GradientDescent(network, loss, 0.1, batch_size=32)
    assert GradientDescent(network, loss, 0.1, batch_size=20).batch_size == 20


def test_help_names_the_families_that_read_an_option():
    for command in ("laws", "classify", "compare"):
        made = typer.main.get_command(app).commands[command]
        (option,) = [own for own in made.params if own.name == "bias"]
        assert option.help == "Biases on hidden and output nodes; relu, conv, residual, recurrent."
    assert readers("task") == "two-layer, deep, ode"  # the control
