"""Laws along ordinary training loops, and what is predicted of their drift."""

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
    assert set(np.diff(monitor.steps)) == {8}
    assert repr(monitor).startswith("LawMonitor(50 steps, 7 kept, of TorchNetwork(Sequential")
    lean = train("MLP", RULES["momentum"], n_steps=50, max_records=2)
    assert len(lean.steps) <= 2 and len(lean._kept) <= 2  # and so is what it holds
    np.testing.assert_allclose(monitor.drift, monitor.predicted_drift, atol=1e-12)


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
