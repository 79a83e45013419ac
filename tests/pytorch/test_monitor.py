"""Laws along ordinary training loops, and what is predicted of their drift."""

import copy
import pickle

import numpy as np
import pytest
import torch
from models import build
from torch import nn

from liftflow.errors import InputError
from liftflow.torch import LawMonitor


def train(name, make, n_steps=20, **options):
    module, inputs = build(name)
    optimizer = make(module.parameters())
    monitor = LawMonitor(module, inputs, optimizer, **options)
    target = torch.zeros_like(module(*inputs)).detach()
    for _ in range(n_steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(module(*inputs), target).backward()
        optimizer.step()
    return monitor


SGD = torch.optim.SGD
RULES = {
    "plain": lambda p: SGD(p, lr=0.05),
    "momentum": lambda p: SGD(p, lr=0.02, momentum=0.9),
    "weight decay": lambda p: SGD(p, lr=0.05, weight_decay=0.1),
    "both": lambda p: SGD(p, lr=0.02, momentum=0.8, weight_decay=0.1),
    "nesterov": lambda p: SGD(p, lr=0.02, momentum=0.8, nesterov=True),
    "all": lambda p: SGD(p, lr=0.02, momentum=0.8, nesterov=True, weight_decay=0.1),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["MLP", "ResNet", "ResNet, batch norm in training", "RNNCell"])
def test_the_drift_of_sgd_is_predicted_exactly(name, rule):
    monitor = train(name, RULES[rule])
    drift, size = monitor.drift, np.max(np.abs(monitor.laws))
    np.testing.assert_allclose(drift, monitor.predicted_drift, atol=1e-12 * size)
    assert np.max(np.abs(drift[-1])) > 1e-6 * size  # control: there is something to predict
    assert monitor.n_steps == 20 and len(monitor.steps) == 21


def test_another_rule_is_seen():
    """Negative control: what is predicted for a learning rate to three digits, or no decay."""
    module, inputs = build("MLP")
    optimizer = SGD(module.parameters(), lr=0.05, weight_decay=0.1)
    monitors = {rate: LawMonitor(module, inputs) for rate in (0.05, 0.0501)}
    for _ in range(20):
        optimizer.zero_grad()
        module(*inputs).square().mean().backward()
        optimizer.step()
        for rate, monitor in monitors.items():
            monitor.record(rate)
    for monitor in monitors.values():
        gap = np.max(np.abs(monitor.drift - monitor.predicted_drift))
        assert gap > 1e-6 * np.max(np.abs(monitor.laws))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=1e-3),
        lambda p: SGD(p, lr=0.01, momentum=0.5, dampening=0.1),
        lambda p: SGD([{"params": [q], "lr": 0.01 * (i + 1)} for i, q in enumerate(p)]),
    ],
)
def test_what_has_no_exact_drift_gets_no_prediction(make):
    monitor = train("MLP", make)
    assert np.isnan(monitor.predicted_drift[1:]).all()
    assert np.isfinite(monitor.drift).all()


def test_records_are_thinned_and_predictions_go_on():
    monitor = train("MLP", RULES["momentum"], n_steps=50, max_records=8)
    assert len(monitor.steps) <= 8
    np.testing.assert_array_equal(monitor.steps, [0, 8, 16, 24, 32, 40, 48, 50])  # and the last
    assert repr(monitor).startswith("LawMonitor(50 steps, 8 kept, of TorchNetwork(Sequential")
    np.testing.assert_allclose(monitor.drift, monitor.predicted_drift, atol=1e-12)
    for most, steps in ((1, [50]), (2, [0, 50]), (3, [0, 32, 50])):
        lean = train("MLP", RULES["momentum"], n_steps=50, max_records=most)
        np.testing.assert_array_equal(lean.steps, steps)
        assert len(lean._kept) < most + 1  # and so is what it holds
        np.testing.assert_array_equal(lean.drift[-1], monitor.drift[-1])
        assert len(lean.frame()) == most * 7


def test_records_by_hand_and_the_table():
    module, inputs = build("MLP")
    monitor = LawMonitor(module, inputs)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        module(*inputs).square().mean().backward()
        optimizer.step()
        monitor.record(0.1)
    frame = monitor.frame()
    assert list(frame.columns) == ["step", "layer", "channel", "law", "drift", "predicted"]
    assert len(frame) == 4 * 7 and {*frame.layer} == {"0", "2"}
    np.testing.assert_allclose(frame.drift, frame.predicted, atol=1e-13)
    by_layer = monitor.frame(by="layer")
    top = frame[frame.layer == "2"].groupby("step").drift.apply(lambda d: d.abs().max())
    np.testing.assert_array_equal(by_layer[by_layer.layer == "2"].drift, top)
    assert monitor.plot().axes[0].get_ylabel()
    with pytest.raises(InputError, match="by must be"):
        monitor.frame("unit")
    assert np.isfinite(monitor.predicted_drift).all()
    monitor.record()  # of whom?
    assert np.isnan(monitor.predicted_drift[-1]).all()


def test_a_hook_can_be_taken_off():
    module, inputs = build("MLP")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    monitor = LawMonitor(module, inputs, optimizer)
    monitor.close()
    module(*inputs).sum().backward()
    optimizer.step()
    assert monitor.n_steps == 0


@pytest.mark.parametrize("rule", ["momentum", "both", "nesterov", "all"])
def test_momenta_that_are_there_already_are_taken_over(rule):
    """A training that is resumed, watched by a hook and by hand."""
    module, inputs = build("MLP")
    optimizer = RULES[rule](module.parameters())

    def step():
        optimizer.zero_grad()
        module(*inputs).square().mean().backward()
        optimizer.step()

    for _ in range(5):
        step()
    hooked, by_hand = LawMonitor(module, inputs, optimizer), LawMonitor(module, inputs)
    for _ in range(20):
        step()
        by_hand.record(optimizer)
    for monitor in (hooked, by_hand):
        size = np.max(np.abs(monitor.laws))
        np.testing.assert_allclose(monitor.drift, monitor.predicted_drift, atol=1e-12 * size)
    # Control: had it begun without momenta, it would be off.
    fresh = LawMonitor(module, inputs)
    step()
    fresh._followed = optimizer
    fresh.record(optimizer)
    gap = np.max(np.abs(fresh.drift - fresh.predicted_drift))
    assert gap > 1e-6 * size


def test_what_is_no_step_of_this_module_is_refused():
    (module, inputs), (other, _) = build("MLP"), build("MLP")
    foreign = SGD(other.parameters(), lr=0.1)
    with pytest.raises(InputError, match="no parameter of the module"):
        LawMonitor(module, inputs, foreign)
    monitor = LawMonitor(module, inputs)
    for wrong in (-1.0, "x", True, float("nan"), float("inf"), [0.1], module):
        with pytest.raises(InputError, match="record takes the optimizer"):
            monitor.record(wrong)
    with pytest.raises(InputError, match="no parameter of the module"):
        monitor.record(foreign)
    hooked = LawMonitor(module, inputs, SGD(module.parameters(), lr=0.1))
    with pytest.raises(InputError, match="count twice"):
        hooked.record(0.1)
    hooked.close()
    hooked.record()  # from here on by hand
    assert monitor.n_steps == 0 and hooked.n_steps == 1


def test_a_training_that_diverges_goes_on():
    module, inputs = build("frozen backbone")  # of leaky units, which never die
    optimizer = SGD(module.parameters(), lr=1e3, momentum=0.9)
    monitor = LawMonitor(module, inputs, optimizer, max_records=4)
    assert monitor.not_finite_since is None
    with pytest.warns(RuntimeWarning, match="not finite after step") as warned:
        for _ in range(60):
            optimizer.zero_grad()
            module(*inputs).square().mean().backward()
            optimizer.step()
    assert len(warned) == 1 and monitor.n_steps == 60
    assert f"not finite since step {monitor.not_finite_since}" in repr(monitor)
    assert 0 < monitor.not_finite_since < 60 and not np.isfinite(monitor.laws[-1]).all()
    assert len(monitor.frame(by="layer")) == len({*monitor.frame().layer}) * len(monitor.steps)
    monitor.plot()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_monitor_shows_what_was_seen(duplicate):
    monitor = train("MLP", RULES["plain"], n_steps=3)
    again = duplicate(monitor)
    np.testing.assert_array_equal(again.predicted_drift, monitor.predicted_drift)
    assert again.frame().equals(monitor.frame()) and repr(again) == repr(monitor)
    with pytest.raises(InputError, match="copy of a monitor"):
        again.record(0.1)


def test_a_module_without_laws_has_an_empty_table():
    module, x = nn.Linear(3, 2), torch.ones(2, 3)
    monitor = LawMonitor(module, x)
    module(x).sum().backward()
    monitor.record(0.1)
    for by in ("channel", "layer"):
        assert len(monitor.frame(by)) == 0 < len(monitor.steps)
    monitor.plot()
