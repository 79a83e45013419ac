"""Both flows of modules, discrete steps, geometry: a module is an architecture like any other."""

import numpy as np
import pytest
import torch
from models import build
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from liftflow import IntrinsicFlow, InvariantSet, ParameterFlow, ReLUNetwork, classify, compare
from liftflow.errors import InputError
from liftflow.flows import GradientDescent
from liftflow.losses import NetworkLoss
from liftflow.testing import check_manifold, check_metric
from liftflow.torch import TorchLoss, from_torch


def problem(name):
    """A network, θ₀ and a loss towards the outputs of another module like it."""
    module, inputs = build(name)
    network, theta = from_torch(module, inputs)
    with torch.no_grad():
        target = network.to_module(theta)(*inputs) + 0.3
    return network, theta, TorchLoss(network, lambda m: nn.functional.mse_loss(m(*inputs), target))


@pytest.mark.parametrize("name", ["MLP", "U-Net", "RNNCell", "tied autoencoder", "ResNet"])
@pytest.mark.parametrize("coordinates", ["basis", "full"])
def test_both_flows_agree_and_the_control_does_not(name, coordinates):
    if (name, coordinates) == ("ResNet", "full"):
        pytest.skip("the recovery of each z would take a minute")
    network, theta, loss = problem(name)
    start = InvariantSet(network, theta)
    options = {"coordinates": coordinates, "control": True, "n_times": 6, "rtol": 1e-7}
    found = compare(start, loss, (0.0, 0.05), **options)
    assert found.success and found.law_drift < 1e-6
    assert found.max_deviation < 1e-5
    assert found.control_deviation > 30 * found.max_deviation


def test_a_flow_is_resumed(tmp_path):
    network, theta, loss = problem("RNNCell")
    flow = IntrinsicFlow(InvariantSet(network, theta), loss)
    half = flow.integrate(
        t_span=(0.0, 0.05), n_times=3, rtol=1e-8, checkpoint=tmp_path / "half.npz"
    )
    whole = flow.integrate(t_span=(0.0, 0.1), n_times=5, rtol=1e-8)
    again = flow.integrate(t_span=(0.0, 0.1), n_times=5, rtol=1e-8, resume=half)
    np.testing.assert_allclose(again.theta[-1], whole.theta[-1], atol=1e-6)


def from_layers(module):
    """The same network by its graph, and θ of the module as it is laid out there."""
    layers = [part for part in module if isinstance(part, nn.Linear)]
    weights = [layer.weight.detach().numpy() for layer in layers]
    biases = [layer.bias.detach().numpy() for layer in layers]
    return ReLUNetwork.from_layers(weights, biases, torch_layout=True)


def test_a_perceptron_is_the_network_of_its_graph(rng):
    module, (x,) = build("MLP")
    network, theta = from_torch(module, x)
    other, same = from_layers(module)
    # Where entry i of θ lies in the other layout: by a module that holds its own numbers.
    for start, parameter in zip(
        np.cumsum([0, *(p.numel() for p in module.parameters())]), module.parameters(), strict=False
    ):
        numbers = torch.arange(start, start + parameter.numel(), dtype=torch.float64)
        parameter.data = numbers.reshape(parameter.shape)
    order = from_layers(module)[1].astype(int)
    np.testing.assert_array_equal(theta[order], same)
    assert (network.dim, network.n_laws) == (other.dim, other.n_laws)
    v, w = rng.standard_normal((2, network.dim))
    for verb, arguments in {
        "conservation_laws": (theta,),
        "laws_jvp": (theta, v),
        "laws_hessian": (theta, v, w),
        "laws_size": (theta, v),
    }.items():
        found = getattr(network, verb)(*arguments)
        wanted = getattr(other, verb)(*(a[order] for a in arguments))
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    laws = network.conservation_laws(theta) + 0.1 * rng.standard_normal(network.n_laws)
    for found, wanted in (
        (network.project_to_laws(theta, laws), other.project_to_laws(same, laws)),
        (network.recover(network.lift(theta), laws), other.project_to_laws(same, laws)),
        (network.project_to_tangent(theta, v), other.project_to_tangent(same, v[order])),
        (network.solve_laws_jvp(theta, laws), other.solve_laws_jvp(same, laws)),
        (
            network.solve_jvp(theta, network.lift_jvp(theta, v)),
            other.solve_jvp(same, other.lift_jvp(same, v[order])),
        ),
    ):
        np.testing.assert_allclose(found[order], wanted, rtol=1e-9, atol=1e-9)
    assert network.lift_rank(theta) == other.lift_rank(same)
    y = rng.standard_normal((len(x), 2))
    loss = TorchLoss(network, lambda m: nn.functional.mse_loss(m(x), torch.from_numpy(y)))
    plain = NetworkLoss(other, x.numpy(), y)
    gradient = loss.parameter_gradient(theta, network)
    # Torch's mean squared error is a mean over samples and outputs, ours half of one over samples.
    np.testing.assert_allclose(gradient[order], plain.parameter_gradient(same, other), rtol=1e-10)
    span = (0.0, 0.2)
    flows = [
        IntrinsicFlow(InvariantSet(n, t), f).integrate(t_span=span, n_times=3, rtol=1e-9).theta
        for n, t, f in ((network, theta, loss), (other, same, plain))
    ]
    np.testing.assert_allclose(flows[0][:, order], flows[1], atol=1e-6)


def test_derivatives_of_the_lift(rng):
    network, theta = from_torch(*build("RNNCell"))
    theta = network.fibre_point(theta, rng)  # off the invariant set of z
    v, w, g = rng.standard_normal((3, network.dim))
    step = 1e-5

    def difference(f, vector):
        return (f(theta + step * vector) - f(theta - step * vector)) / (2 * step)

    slope = network.lift_jvp(theta, v)
    np.testing.assert_allclose(slope, difference(network.lift, v), atol=1e-7)
    np.testing.assert_allclose(g @ slope, network.lift_vjp(theta, g) @ v, rtol=1e-10)
    bent = difference(lambda t: network.lift_jvp(t, v), w)
    np.testing.assert_allclose(network.lift_hessian(theta, v, w), bent, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        network.laws_jvp(theta, v), difference(network.conservation_laws, v), atol=1e-7
    )
    there = network.lift_jvp(theta, network.solve_jvp(theta, slope))
    np.testing.assert_allclose(there, slope, atol=1e-10)
    assert np.max(np.abs(network.laws_jvp(theta, network.project_to_tangent(theta, v)))) < 1e-10


@pytest.mark.parametrize("name", ["RNNCell", "Siamese"])
def test_its_invariant_set_and_its_image_are_manifolds(name):
    start = InvariantSet(*from_torch(*build(name)))
    check_manifold(start)
    end = start.random_point(rng=0)
    assert start.belongs(end, atol=1e-9)
    vector = start.random_tangent_vec(start.theta0, rng=0)
    path = start.metric.exp(0.1 * vector, start.theta0)
    assert start.belongs(path, atol=1e-6)


def test_discrete_steps_and_batches_of_a_loader():
    module, (x,) = build("MLP")
    network, theta = from_torch(module, x)
    y = torch.zeros(4, 2, dtype=torch.float64)
    mse = nn.functional.mse_loss
    whole = TorchLoss(network, lambda m: mse(m(x), y))
    loader = DataLoader(TensorDataset(x, y), batch_size=3)  # of 3 and 1
    parts = TorchLoss(network, lambda m, batch: mse(m(batch[0]), batch[1]), loader)
    value, gradient = (
        whole.parameter_value(theta, network),
        whole.parameter_gradient(theta, network),
    )
    np.testing.assert_allclose(parts.parameter_value(theta, network), value, rtol=1e-12)
    np.testing.assert_allclose(parts.parameter_gradient(theta, network), gradient, rtol=1e-10)
    run = GradientDescent(network, whole, 0.1).run(theta, 5)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        mse(module(x), y).backward()
        optimizer.step()
    np.testing.assert_allclose(run.theta[-1], network.from_module(module), rtol=1e-10)


def test_what_a_loss_refuses():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))
    x = torch.randn(4, 3)
    network, theta = from_torch(module, x)  # its laws hold whatever is dropped
    assert network.n_laws == 4
    with pytest.raises(InputError, match="eval"):
        TorchLoss(network, lambda m: m(x).sum())
    network, theta = from_torch(module.eval(), x)
    with pytest.raises(InputError, match="one number"):
        TorchLoss(network, lambda m: m(x)).parameter_value(theta, network)
    loss = TorchLoss(network, lambda m: m(x).sum())
    with pytest.raises(InputError, match="another network"):
        ParameterFlow(from_torch(module, x)[0], loss).integrate(theta, (0.0, 1.0))


def test_a_module_is_classified_by_its_channels():
    network, theta = from_torch(*build("RNNCell"))
    found = classify(network, theta)
    assert found.recoverable and found.metric and found.frobenius and found.complete
    assert found.n_laws.value == network.n_laws
    theta[:] = 0.0  # control: every channel is cut off
    assert not classify(network, theta).recoverable


def test_the_image_of_a_module_is_a_riemannian_manifold():
    module, x = (
        nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double(),
        torch.zeros(4, 2),
    )
    network, theta = from_torch(module, x)
    check_metric(InvariantSet(network, theta).image().metric)
