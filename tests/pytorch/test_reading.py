"""What is read off a module: its laws are all there are, and they hold.

Each claim of the bridge, and the control that fails where it is false:

* All laws: D − rank of gradients. Squares of single parameters are not conserved (below); modules
  with fewer laws than D − rank are named (``test_odd_modules.FEWER``).
* The certificate: an import without skips, or with a bias said to have no effect, is refused
  by the name of a layer (below).
* Ψ: a parameter off the orbit has another lift; so has the wrong law (below).
* Steps: laws drift at all (below); another learning rate or no decay is predicted wrongly
  (``test_monitor``).
* Flows agree: those by the laws of another θ₀ part from them (``test_flows``).
* Every method is that of the network of its graph: with two channels exchanged it is not
  (``test_flows``).
* What is cut off is not recoverable: a channel whose weights are 0 (below).
* What cannot be read is refused by its name, and read once it is replaced or frozen (below).
"""

import numpy as np
import pytest
import torch
from models import MODELS, Gated, Residual, build, images
from torch import nn
from torch.utils import _pytree as pytree

from liftflow.errors import ArchitectureError, NotRecoverableError
from liftflow.torch import from_torch

models = pytest.mark.parametrize("name", MODELS)


def gradients(network, theta, inputs, rng, count):
    """Gradients of random linear functions of the outputs, on random data, one per row."""

    def random(tensor):
        if tensor.is_floating_point():
            return torch.from_numpy(rng.standard_normal(tuple(tensor.shape)))
        return torch.from_numpy(rng.integers(6, size=tuple(tensor.shape)))

    rows = []
    for _ in range(count):
        data = [random(tensor) for tensor in inputs]

        def function(module, data=data):
            outputs = pytree.tree_leaves(module(*data))
            weights = [torch.from_numpy(rng.standard_normal(tuple(y.shape))) for y in outputs]
            return sum((y * w).sum() for y, w in zip(outputs, weights, strict=True))

        rows.append(network.workbench.value_and_gradient(function, theta)[1].copy())
    return np.array(rows)


def rank(matrix):
    matrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    singular = np.linalg.svd(matrix, compute_uv=False)
    return int(np.sum(singular > 1e-11 * singular[0]))


@models
def test_the_laws_are_all_there_are(name, rng):
    module, inputs = build(name)
    network, theta = from_torch(module, inputs)
    rows = gradients(network, theta, inputs, rng, 3 * network.dim)
    assert network.n_laws == network.dim - rank(rows) > 0
    products = network.conservation_laws_jacobian(theta) @ rows.T
    assert np.max(np.abs(products)) <= 1e-12 * np.max(np.abs(rows)) * np.max(np.abs(theta)) * 100
    # Control: the squares of single parameters are not conserved.
    assert np.max(np.abs(theta * rows)) > 1e-3


@models
def test_the_function_is_that_of_the_module(name):
    module, inputs = build(name)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    network, theta = from_torch(module, inputs)
    with torch.no_grad():
        wanted = module.eval()(*inputs)
        for point in (theta, network.fibre_point(theta, 0)):
            copy = network.to_module(point).eval()
            if "in training" in name and point is not theta:
                continue  # in evaluation, its filters have a scale
            torch.testing.assert_close(copy(*inputs), wanted, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(network.from_module(module), theta)
    np.testing.assert_array_equal(network.from_state_dict(network.to_state_dict(theta)), theta)
    assert all(torch.equal(module.state_dict()[key], value) for key, value in before.items())


@models
def test_a_point_is_recovered_from_its_orbit_and_its_laws(name, rng):
    network, theta = from_torch(*build(name))
    other = network.fibre_point(theta, rng)
    np.testing.assert_allclose(network.lift(other), network.lift(theta), rtol=1e-9, atol=1e-12)
    back = network.recover(network.lift(theta), network.conservation_laws(other))
    np.testing.assert_allclose(back, other, rtol=1e-9, atol=1e-12)
    moved = theta + 0.01 * rng.standard_normal(theta.size)
    assert np.max(np.abs(network.lift(moved) - network.lift(theta))) > 1e-4  # control
    chart = network.basis_chart(theta)
    assert chart.dim == network.dim - network.channels.n_channels
    assert network.lift_rank(theta) == network.dim - network.n_laws
    back = chart.recover(chart.coordinates(other), network.conservation_laws(theta))
    np.testing.assert_allclose(back, theta, rtol=1e-9, atol=1e-12)


@models
def test_the_drift_along_steps_of_torch_is_as_predicted(name):
    module, inputs = build(name)
    network, theta = from_torch(module, inputs)
    rate, optimizer = 1e-2, torch.optim.SGD(module.parameters(), lr=1e-2)
    predicted = network.conservation_laws(theta)
    quadratic = np.arange(network.n_laws) < network.channels.n_channels  # the others are linear
    for _ in range(5):
        optimizer.zero_grad()
        ((module(*inputs) ** 2).sum() / len(inputs[0])).backward()
        used = dict(module.named_parameters())
        gradient = np.concatenate([used[n].grad.numpy().ravel() for n in network.parameter_names])
        predicted = predicted + rate**2 * network.conservation_laws(gradient) * quadratic
        optimizer.step()
    found = network.conservation_laws(network.from_module(module))
    size = np.max(network.laws_size(theta))
    np.testing.assert_allclose(found, predicted, atol=1e-12 * size)
    assert np.max(np.abs(found - network.conservation_laws(theta))) > 1e-9 * size  # control


def test_filters_before_batch_norm_have_a_scale_of_their_own(rng):
    module, inputs = build("ResNet, batch norm in training")
    plain, _ = from_torch(module, inputs)
    network, theta = from_torch(module, inputs, batch_norm_eps=1e-30)
    assert network.n_laws == plain.n_laws + 4 * 2 + 2 * 3
    rows = gradients(network, theta, inputs, rng, 2 * network.dim)
    assert network.n_laws == network.dim - rank(rows)


def test_biases_before_batch_norm_have_no_effect():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 6))
    network, _ = from_torch(module, images())
    assert network.inert_groups == (("0.bias",),)
    assert network.n_laws == network.channels.n_channels + 2
    assert from_torch(module.eval(), images())[0].inert_groups == ()  # control


def test_running_means_ground_their_channels():
    module, inputs = build("ResNet, batch norm in evaluation")
    free, _ = from_torch(module, inputs)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
    grounded, _ = from_torch(module, inputs)
    assert grounded.n_laws < free.n_laws
    assert grounded.certificate.conservation < 1e-10


def test_what_cannot_be_read_is_named_with_what_to_do():
    module, x = Gated().double(), torch.randn(3, 3)
    with pytest.raises(
        ArchitectureError, match=r"norm\.layer_norm .*opaque=\['norm\.layer_norm'\]"
    ):
        from_torch(module, x)
    for opaque in (["norm"], ["layer_norm"], ["norm.layer_norm"]):
        network, _ = from_torch(module, x, opaque=opaque)
        assert network.n_laws == 3  # behind the norm
    with pytest.raises(ArchitectureError, match="nowhere"):
        from_torch(module, x, opaque=["norm", "nowhere"])
    module.norm = nn.Identity()  # replaced
    assert from_torch(module, x)[0].n_laws == 4 + 3
    with pytest.raises(ArchitectureError, match="trains"):
        from_torch(module.requires_grad_(False), x)


class Looking(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        hidden = torch.relu(self.one(x))
        return self.two(hidden if hidden.sum() > 1.0 else -hidden)


class Cutting(Looking):
    def forward(self, x):
        return self.two(torch.relu(self.one(x)).detach())


class Blind(Looking):
    def forward(self, x):
        with torch.no_grad():
            hidden = torch.relu(self.one(x))
        return self.two(hidden)


@pytest.mark.parametrize(("kind", "what"), [(Looking, "gt"), (Cutting, "cuts"), (Blind, "no_grad")])
def test_what_hides_from_the_gradient_is_refused(kind, what):
    with pytest.raises(ArchitectureError, match=what):
        from_torch(kind(), torch.randn(2, 3))


def test_an_import_with_a_skip_dropped_is_not_certified(monkeypatch):
    from liftflow.torch import trace

    def forgetful(reader, result, one, other, **kwargs):
        reader._mark(result, reader.symbols(one))

    module, inputs = build("ResNet")
    from_torch(module, inputs)
    monkeypatch.setitem(trace._RULES, "add", forgetful)
    with pytest.raises(ArchitectureError, match=r"not certified: .* of (stem|b|c|project)\b"):
        from_torch(module, inputs)
    assert from_torch(module, inputs, certified=False)[0].n_laws > 0


def test_an_import_with_a_wrong_inert_bias_is_not_certified(monkeypatch):
    from liftflow.torch import network

    module, inputs = build("MLP")
    from_torch(module, inputs)
    monkeypatch.setattr(network, "inert_groups", lambda reader, names: [(["2.bias"], np.eye(1))])
    with pytest.raises(ArchitectureError, match=r"not certified: .*inert direction of 2\.bias"):
        from_torch(module, inputs)


def test_a_wrong_law_and_a_dead_channel_are_seen(rng):
    network, theta = from_torch(*build("MLP"))
    other = network.fibre_point(theta, rng)
    laws = network.conservation_laws(other)
    wrong = network.recover(network.lift(theta), laws + 0.1 * np.eye(network.n_laws)[0])
    assert np.max(np.abs(wrong - other)) > 1e-3
    assert network.lift_rank(theta) == network.dim - network.n_laws
    weights, bias, *_ = network.unpack(np.arange(theta.size))
    theta[[*weights[0].astype(int), int(bias[0])]] = 0.0  # what leads into the first channel
    with pytest.raises(NotRecoverableError, match=r"\('0', 0\)"):
        network.lift_rank(theta)


@pytest.mark.parametrize("name", ["MLP", "ResNet, batch norm in training", "embedding"])
def test_an_exported_program_is_read_like_its_module(name):
    module, inputs = build(name)
    network, theta = from_torch(module, inputs)
    other, same = from_torch(torch.export.export(module, inputs).module(), inputs)
    assert other.parameter_names == network.parameter_names
    np.testing.assert_array_equal(same, theta)
    laws = (each.conservation_laws_jacobian(theta) for each in (network, other))
    # The same laws, whatever the order of the channels.
    ours, theirs = (np.sort(np.abs(each).sum(axis=1)) for each in laws)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_weights_that_are_computed_are_refused():
    module, mask = nn.Linear(3, 4), torch.ones(4, 3).triu()
    module.register_forward_hook(lambda m, x, y: y + nn.functional.linear(x[0], m.weight * mask))
    with pytest.raises(ArchitectureError, match="is computed from parameters"):
        from_torch(module, torch.ones(2, 3))


def test_a_mode_is_that_of_the_moment():
    module = Residual(nn.BatchNorm2d)
    training, evaluation = (from_torch(module.train(m), images())[0] for m in (True, False))
    assert training.n_laws < evaluation.n_laws


class Scaled(nn.Module):
    """One gain, a number without axes, for all channels."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.two(torch.relu(self.gain * self.one(x)))


def test_a_parameter_without_axes_is_read():
    module = Scaled().double()
    network, theta = from_torch(module, torch.ones(2, 3))
    square = {name: (p**2).sum().item() for name, p in module.named_parameters()}
    expected = [
        square["one.weight"] + square["one.bias"] - square["gain"],
        square["gain"] - square["two.weight"],
    ]
    np.testing.assert_allclose(network.conservation_laws(theta), expected, rtol=1e-12)
    theta[network.parameter_names.index("gain")] = 3.0  # the first of all
    assert network.to_module(theta).gain == 3.0
