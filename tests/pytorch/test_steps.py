"""Steps beside those of torch.optim, on the same gradients in float64."""

import numpy as np
import pytest
import torch

from liftflow import NetworkLoss, ReLUNetwork, Trajectory
from liftflow.flows import Adam, GradientDescent, law_drift

N_STEPS = 200


def problem():
    network, rng = ReLUNetwork.from_widths([4, 6, 3], bias=True), np.random.default_rng(0)
    inputs, labels = rng.standard_normal((50, 4)), rng.integers(3, size=50)
    loss = NetworkLoss(network, inputs, labels, "cross-entropy")
    return network, loss, network.random_point(rng=1)


def by_torch(optimizer, loss, theta0, factor=None, **options):
    """Return the states of an optimizer of torch, which is handed our gradients."""
    theta = torch.nn.Parameter(torch.tensor(theta0))
    made = optimizer([theta], **options)
    schedule = None if factor is None else torch.optim.lr_scheduler.LambdaLR(made, factor)
    states = [theta0]
    for _ in range(N_STEPS):
        theta.grad = torch.tensor(loss.parameter_gradient(theta.detach().numpy()))
        made.step()
        if schedule is not None:
            schedule.step()
        states.append(theta.detach().numpy().copy())
    return np.array(states)


def assert_same(theta, expected):
    size = np.max(np.abs(expected), axis=1, keepdims=True)
    assert np.max(np.abs(theta - expected) / size) <= 1e-14


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("factor", [None, lambda k: 0.99**k], ids=["constant", "schedule"])
def test_sgd(momentum, weight_decay, nesterov, factor):
    if nesterov and not momentum:
        pytest.skip("torch, too, refuses Nesterov's momentum without any")
    network, loss, theta0 = problem()
    options = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    run = GradientDescent(network, loss, 0.02, schedule=factor, **options).run(theta0, N_STEPS)
    expected = by_torch(torch.optim.SGD, loss, theta0, factor, lr=0.02, **options)
    assert_same(run.theta, expected)
    # What torch logged has the laws that our steps predict.
    given = Trajectory.from_arrays(run.t, expected)
    laws = network.conservation_laws(given.theta)
    assert np.max(np.abs(run.predicted_laws - laws)) <= 1e-12 * np.max(np.abs(laws))
    np.testing.assert_allclose(law_drift(network, given), law_drift(network, run), atol=1e-13)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.99)])
@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
@pytest.mark.parametrize("factor", [None, lambda k: 0.99**k], ids=["constant", "schedule"])
def test_adam_and_adamw(weight_decay, betas, decay, factor):
    network, loss, theta0 = problem()
    options = {"betas": betas, "weight_decay": weight_decay}
    run = Adam(network, loss, 0.01, schedule=factor, decay=decay, **options).run(theta0, N_STEPS)
    optimizer = {"coupled": torch.optim.Adam, "decoupled": torch.optim.AdamW}[decay]
    assert_same(run.theta, by_torch(optimizer, loss, theta0, factor, lr=0.01, **options))


def test_another_momentum_is_seen():
    """Negative control: β to three digits."""
    network, loss, theta0 = problem()
    run = GradientDescent(network, loss, 0.02, momentum=0.9).run(theta0, N_STEPS)
    other = by_torch(torch.optim.SGD, loss, theta0, lr=0.02, momentum=0.901)
    assert np.max(np.abs(run.theta - other)) > 1e-4
