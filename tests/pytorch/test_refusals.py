"""What the bridge refuses, by name and with what to do; and its objects, pickled and copied."""

import copy
import pickle

import numpy as np
import pytest
import torch
from models import MODELS, build
from torch import nn
from typer.testing import CliRunner

from liftflow import InvariantSet, classify, count_conservation_laws, discover_laws
from liftflow.cli import app
from liftflow.errors import CallError, InputError, UndefinedError
from liftflow.torch import TorchLoss, from_torch

X = torch.ones(5, 3)


def mlp(**options):
    return nn.Sequential(nn.Linear(3, 4, **options), nn.LeakyReLU(), nn.Linear(4, 2, **options))


class Returning(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(3, 2), function

    def forward(self, x):
        return self.function(self.layer(x))


@pytest.mark.parametrize(
    ("example", "what"),
    [
        (None, "NoneType.*pass a tensor"),
        ("x", r"of str.*pass a tensor"),
        ((), "of none.*missing 1 required"),
        ({"input": X}, "of dict"),
        (np.ones((5, 3)), "of ndarray"),
        (torch.ones(5, 4), r"shape \(5, 4\).*shapes cannot be multiplied"),
        ((X, X), r"shape \(5, 3\), shape \(5, 3\)"),
        (torch.ones(0, 3), "empty tensor; a batch"),
    ],
)
def test_examples_that_do_not_fit(example, what):
    with pytest.raises(InputError, match=what):
        from_torch(mlp(), example)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: None, "torch.nn.Module, got NoneType"),
        (lambda: nn.Linear, "torch.nn.Module, got the class Linear"),
        (lambda: mlp(dtype=torch.complex64), r"0\.weight is complex, of torch.complex64"),
        (lambda: mlp(dtype=torch.complex128), "real modules alone"),
        (lambda: mlp(device="meta"), r"0\.weight is on the meta device.*to_empty"),
        (lambda: nn.Sequential(nn.LazyLinear(4)), "no shape yet; run the module once"),
        (lambda: Returning(lambda y: None), "depends on a parameter that trains, got NoneType"),
        (lambda: Returning(lambda y: torch.ones(2)), "depends on a parameter that trains"),
        (lambda: Returning(lambda y: y * (1 // 0)), "ZeroDivisionError"),
    ],
)
def test_modules_that_cannot_be_read(make, what):
    with pytest.raises(InputError, match=what):
        from_torch(make(), X)


def test_options_that_are_none():
    for wrong in ("0", [0]):
        with pytest.raises(InputError, match="list of names"):
            from_torch(mlp(), X, opaque=wrong)
    with pytest.raises(InputError, match="batch_norm_eps"):
        from_torch(mlp(), X, batch_norm_eps=-1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_modules_in_half_precision_are_read_in_double(dtype):
    module = mlp(dtype=dtype)
    network, theta = from_torch(module, X.to(dtype))
    assert network.certificate.invariance < 1e-12
    state = network.to_state_dict(theta)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_states_that_are_none():
    network, _ = from_torch(mlp(), X)
    state = dict(mlp().state_dict())
    for wrong in (None, [1], "x"):
        with pytest.raises(InputError, match="Mapping"):
            network.from_state_dict(wrong)
    for wrong in ("x", None, state["0.weight"].numpy(), X):
        with pytest.raises(InputError, match=r"a tensor 0\.weight of shape \(4, 3\), got"):
            network.from_state_dict({**state, "0.weight": wrong})
    with pytest.raises(InputError, match="module must be a Module"):
        network.from_module(None)


@pytest.mark.parametrize(
    "function",
    [
        lambda m: 1.0,
        lambda m: m(X).sum().item(),
        lambda m: m(X).sum().detach().numpy(),
        lambda m: np.float64(1.0),
        lambda m: m(X),
        lambda m: m(X).argmax(),
        lambda m: m(X).sum() * 1j,
    ],
)
def test_losses_that_are_no_number(function):
    network, theta = from_torch(mlp(), X)
    for method in ("parameter_value", "parameter_gradient"):
        with pytest.raises(InputError, match=r"one number.*got"):
            getattr(TorchLoss(network, function), method)(theta, network)


def test_losses_without_a_gradient():
    network, theta = from_torch(mlp(), X)
    other = mlp()
    for function in (
        lambda m: torch.tensor(1.0),
        lambda m: m(X).sum().detach(),
        lambda m: other(X).sum(),
    ):
        with pytest.raises(InputError, match="constant, a detached tensor or another module"):
            TorchLoss(network, function).parameter_gradient(theta, network)
    # Control: a gradient that is zero is one.
    flat = TorchLoss(network, lambda m: 0.0 * m(X).sum())
    assert not flat.parameter_gradient(theta, network).any()


def test_loaders_that_cannot_be_gone_through_again():
    network, theta = from_torch(mlp(), X)

    def loss(loader):
        return TorchLoss(network, lambda m, b: m(b["x"]).mean(), loader)

    batches = [{"x": torch.ones(n, 3)} for n in (1, 4)]
    for wrong in (iter(batches), (b for b in batches), 3):
        with pytest.raises(InputError, match=r"again and again.*list\(loader\)"):
            loss(wrong)
    value = loss(batches).parameter_value(theta, network)
    whole = TorchLoss(network, lambda m: m(X).mean()).parameter_value(theta, network)
    np.testing.assert_allclose(value, whole, rtol=1e-12)  # a batch weighs what its tensor is long
    with pytest.raises(InputError, match="hold a tensor, got NoneType"):
        loss([None]).parameter_value(theta, network)
    for loader, function in ((None, lambda: 0), (batches, lambda m: 0)):
        with pytest.raises(CallError, match="function of"):
            TorchLoss(network, function, loader)


FILE = """
import torch
from torch import nn

def build():
    return {}
"""


@pytest.mark.parametrize(
    "built",
    ["nn.Linear(3, 2)", "None", "(nn.Linear(3, 2), torch.ones(5, 4))", "(nn.Linear(3, 2), None)",
     "(nn.Sequential(nn.Linear(3, 2), nn.GELU(), nn.Linear(2, 2)), torch.ones(5, 3))", "1 / 0",
     "exit()"],
)  # fmt: skip
def test_files_that_build_something_else(built, tmp_path):
    path = tmp_path / "model.py"
    path.write_text(FILE.format(built))
    done = CliRunner().invoke(app, ["laws", f"{path}:build"])
    assert done.exit_code and isinstance(done.exception, SystemExit)
    assert "Traceback" not in done.output and len(done.output.strip()) > 20


def duplicates(thing):
    return copy.deepcopy(thing), pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("name", ["ResNet, batch norm in training", "frozen backbone", "Siamese"])
def test_networks_are_pickled_and_copied(name):
    assert name in MODELS
    network, theta = from_torch(*build(name))
    other = network.fibre_point(theta, 0)
    state = network.to_state_dict(other)
    for again in duplicates(InvariantSet(network, theta)):
        twin = again.architecture
        assert repr(again) == repr(InvariantSet(network, theta)) and twin is not network
        for method in ("lift", "conservation_laws"):
            wanted = getattr(network, method)(other)
            np.testing.assert_array_equal(getattr(twin, method)(other), wanted)
        assert all(torch.equal(value, state[k]) for k, value in twin.to_state_dict(other).items())
        twin.workbench.put(other)  # a bench of its own
        np.testing.assert_array_equal(network.workbench.theta, theta)


def mean(module):
    return module(X).square().mean()


def test_losses_are_pickled_and_copied():
    network, theta = from_torch(mlp(), X)
    gradient = TorchLoss(network, mean).parameter_gradient(theta, network)
    for loss in duplicates(TorchLoss(network, mean)):
        found = loss.parameter_gradient(theta, loss.network)
        np.testing.assert_array_equal(found, gradient)
        with pytest.raises(InputError, match="another network"):  # control
            loss.parameter_gradient(theta, network)


def test_the_laws_of_one_loss_are_not_counted():
    network, _ = from_torch(mlp(), X)
    assert count_conservation_laws(network).value == 4
    for find in (count_conservation_laws, discover_laws):
        with pytest.raises(UndefinedError, match="leave loss= out"):
            find(network, loss=TorchLoss(network, mean))


def test_networks_beyond_a_matrix_are_not_called_complete():
    module = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 2))
    network, theta = from_torch(module, torch.ones(2, 30))
    found = classify(network, theta)
    assert found.metric and found.n_laws.value == 40
    assert found.complete.verdict == found.n_laws.verdict == "undecided"
    assert "at least these" in found.n_laws.reason
