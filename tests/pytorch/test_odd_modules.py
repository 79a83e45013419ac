"""Modules as people write them: all laws, fewer than there are where that is known, or an error."""

import numpy as np
import pytest
import torch
from models import all_switch
from test_reading import gradients, rank
from torch import nn
from torch.nn import functional as F

from liftflow import count_conservation_laws
from liftflow.errors import ArchitectureError
from liftflow.torch import from_torch

Linear, Chain = nn.Linear, nn.Sequential


class By(nn.Module):
    """A module by a function of its parts and its inputs."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def leaky():
    return nn.LeakyReLU(0.3)  # no unit is dead


def image(*shape):
    return torch.randn(4, *shape)


def head(n_in):
    return leaky(), nn.Flatten(), Linear(n_in, 2)


def shared(m, x):
    return m.c(F.leaky_relu(m.b(F.leaky_relu(m.b(F.leaky_relu(m.a(x)))))))


def length(x):
    return torch.linalg.vector_norm(x, 1, 1, True)


def spread(*layers):
    """Channels of a linear layer as places of an image."""
    return lambda: (Chain(*layers), image(3))


def frozen(module, *parts):
    for part in parts:
        module[part].requires_grad_(False)
    return module


ALL = {
    "strided": lambda: (
        Chain(nn.Conv1d(2, 3, 3, 2, 1), leaky(), nn.Conv1d(3, 2, 2), *head(6)),
        image(2, 8),
    ),
    "dilated groups": lambda: (
        Chain(nn.Conv2d(2, 4, 2, dilation=2, groups=2), leaky(), nn.Conv2d(4, 2, 3), *head(8)),
        image(2, 6, 6),
    ),
    "volumes": lambda: (
        Chain(nn.Conv3d(1, 2, 2), leaky(), nn.Conv3d(2, 2, 2), *head(2)),
        image(1, 3, 3, 3),
    ),
    "transposed": lambda: (
        Chain(
            nn.Conv2d(1, 2, 2),
            leaky(),
            nn.ConvTranspose2d(2, 3, 2, stride=2),
            leaky(),
            nn.Conv2d(3, 2, 2),
            *head(18),
        ),
        image(1, 3, 3),
    ),
    "transposed groups": lambda: (
        Chain(
            nn.Conv1d(1, 4, 2),
            leaky(),
            nn.ConvTranspose1d(4, 4, 2, groups=2),
            leaky(),
            nn.Conv1d(4, 2, 2),
            *head(8),
        ),
        image(1, 5),
    ),
    "upsampled": lambda: (
        Chain(
            nn.Conv2d(1, 2, 2), leaky(), nn.Upsample(scale_factor=2), nn.Conv2d(2, 2, 2), *head(18)
        ),
        image(1, 3, 3),
    ),
    "shuffled pixels": lambda: (
        Chain(nn.Conv2d(1, 4, 2), leaky(), nn.PixelShuffle(2), nn.Conv2d(1, 2, 2, 2), *head(8)),
        image(1, 3, 3),
    ),
    "last window cut": lambda: (
        Chain(
            nn.Conv2d(1, 2, 2), leaky(), nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(), Linear(8, 2)
        ),
        image(1, 4, 4),
    ),
    "frozen slope": lambda: (frozen(Chain(Linear(3, 4), nn.PReLU(), Linear(4, 2)), 1), image(3)),
    "norm in training": lambda: (
        Chain(Linear(3, 4), nn.BatchNorm1d(4), leaky(), Linear(4, 2)),
        image(3),
    ),
    "norm without gains": lambda: (
        Chain(
            nn.Conv2d(1, 2, 2),
            nn.BatchNorm2d(2, affine=False),
            leaky(),
            nn.Conv2d(2, 2, 2),
            *head(2),
        ),
        image(1, 3, 3),
    ),
    "called twice": lambda: (By(shared, a=Linear(3, 4), b=Linear(4, 4), c=Linear(4, 2)), image(3)),
    "dictionary": lambda: (
        By(
            lambda m, x: m.parts["b"](F.leaky_relu(m.parts["a"](x))),
            parts=nn.ModuleDict({"a": Linear(3, 4), "b": Linear(4, 2)}),
        ),
        image(3),
    ),
    "view": lambda: (
        By(
            lambda m, x: m.b(leaky()(m.a(x)).view(len(x), -1)), a=nn.Conv2d(1, 2, 2), b=Linear(8, 2)
        ),
        image(1, 3, 3),
    ),
    "in place": lambda: (
        Chain(Linear(3, 4), nn.LeakyReLU(0.2, inplace=True), Linear(4, 2)),
        image(3),
    ),
    "permuted": lambda: (
        By(
            lambda m, x: m.b(leaky()(m.a(x)).permute(0, 2, 3, 1).reshape(len(x), 4, 2)).flatten(1),
            a=nn.Conv2d(1, 2, 2),
            b=Linear(2, 2),
        ),
        image(1, 3, 3),
    ),
    "two outputs": lambda: (
        By(
            lambda m, x: (m.b(F.leaky_relu(m.a(x))), {"more": m.c(F.leaky_relu(m.a(x)))}),
            a=Linear(3, 4),
            b=Linear(4, 2),
            c=Linear(4, 1),
        ),
        image(3),
    ),
    "buffer": lambda: (
        By(
            lambda m, x: m.b(F.leaky_relu(m.a(x)) * m.s),
            a=Linear(3, 4),
            b=Linear(4, 2),
            s=torch.rand(4),
        ),
        image(3),
    ),
    "norms": lambda: (
        By(
            lambda m, x: m.c(torch.hstack([m.a(x).norm(p=1, dim=1, keepdim=True), length(m.b(x))])),
            a=Linear(3, 4),
            b=Linear(3, 3),
            c=Linear(2, 2),
        ),
        image(3),
    ),
    "a bias that cancels": lambda: (
        By(
            lambda m, x, y: m.c((m.t(x) - m.t(y)).abs()),
            t=Chain(Linear(3, 4), leaky(), Linear(4, 3)),
            c=Linear(3, 2),
        ),
        (image(3), image(3)),
    ),
    "windows in space": spread(
        Linear(3, 16),
        leaky(),
        nn.Unflatten(1, (1, 4, 4)),
        nn.AvgPool2d(2),
        nn.Flatten(),
        Linear(4, 2),
    ),
}

FEWER = {  # laws that are not found, and why
    "transposed convolution over channels in space": spread(
        Linear(3, 8),
        leaky(),
        nn.Unflatten(1, (2, 2, 2)),
        nn.ConvTranspose2d(2, 2, 2, 2, bias=False),
        *head(32),
    ),
    "adaptive pooling over channels in space": spread(
        Linear(3, 16),
        leaky(),
        nn.Unflatten(1, (1, 4, 4)),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        Linear(4, 2),
    ),
    "weights side by side": lambda: (
        By(
            lambda m, x: m.c(F.leaky_relu(m.a(x) + m.b(x))),
            a=Linear(3, 4),
            b=Linear(3, 4),
            c=Linear(4, 2),
        ),
        image(3),
    ),
    "a constant beside a bias": lambda: (
        By(
            lambda m, x: m.b(F.leaky_relu(m.a(x) + m.s)),
            a=Linear(3, 4),
            b=Linear(4, 2),
            s=torch.rand(4),
        ),
        image(3),
    ),
    "inputs that are alike": spread(
        Linear(3, 4),
        leaky(),
        nn.Unflatten(1, (1, 2, 2)),
        nn.Upsample(scale_factor=2),
        nn.Flatten(),
        Linear(16, 2),
    ),
}

WRONG = {
    "softmax": lambda m, x: m.b(F.softmax(m.a(x), 1)),
    "gelu": lambda m, x: m.b(F.gelu(m.a(x))),
    "mul": lambda m, x: m.b(F.relu(m.a(x)) * m.a(x)),
    "div": lambda m, x: m.b(m.a(x) / (1 + m.a(x).abs())),
    "einsum": lambda m, x: m.b(torch.einsum("bi,ji->bj", x, m.a.weight)),
    "norm": lambda m, x: m.b(m.a(x).norm(0, 1, True).expand(-1, 4)),
    "sort": lambda m, x: m.b(m.a(x).sort(1)[0]),
    "gt": lambda m, x: m.b(m.a(x) * (m.a(x) > 0)),
    "item": lambda m, x: m.b(m.a(x)) * m.a.weight[0, 0].item(),
    "detach": lambda m, x: m.b(torch.from_numpy(F.relu(m.a(x)).detach().numpy())),
    "layer_norm": lambda m, x: m.b(F.layer_norm(m.a(x), (4,))),
}


def read(build, rng):
    """Return the network of a module at generic parameters, and D − rank of its gradients.

    Of parameters and inputs the first are taken whose units switch: two neurons that never do are
    a linear network, with a law more.  They are drawn by numpy, for what torch draws depends on
    the machine.
    """
    while True:
        with torch.random.fork_rng(devices=[]):
            module, inputs = build()
        module.double()
        for parameter in module.parameters():
            noise = torch.from_numpy(rng.standard_normal(tuple(parameter.shape)))
            gains = len(parameter) > 1 and len(parameter.unique()) == 1  # ones or zeros of a norm
            parameter.data = parameter.data + 0.3 * noise if gains else 0.5 * noise
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        inputs = tuple(torch.from_numpy(rng.standard_normal(tuple(x.shape))) for x in inputs)
        if all_switch(module, inputs):
            break
    network, theta = from_torch(module, inputs)
    rows = gradients(network, theta, inputs, rng, 2 * network.dim)
    return network, network.dim - rank(rows)


@pytest.mark.parametrize("name", ALL)
def test_all_laws_are_found(name, rng):
    network, count = read(ALL[name], rng)
    assert network.n_laws == count > 0
    told = count_conservation_laws(network)
    assert told and told.value == count


@pytest.mark.parametrize("name", FEWER)
def test_the_laws_that_are_not_found_are_known(name, rng):
    network, count = read(FEWER[name], rng)
    assert 0 <= network.n_laws < count  # and what is found is certified
    found = count_conservation_laws(network)
    assert found.verdict == "undecided" and "some laws may not be found" in found.reason


def test_gradients_may_miss_a_direction_without_a_law(rng):
    """A bias b before a fixed batch norm, which gives γb/σ + β.

    No gradient has a part along ω = db − (γ/σ)dβ, so D − rank counts it. But no function has such
    a gradient at all γ, for ω ∧ dω = −(1/σ) db ∧ dγ ∧ dβ is not 0: D − rank is a bound on laws.
    """
    network, count = read(
        lambda: (Chain(Linear(3, 4), nn.BatchNorm1d(4), leaky(), Linear(4, 2)).eval(), image(3)),
        rng,
    )
    assert (network.n_laws, count) == (8, 8 + 4)
    theta = network.random_point(rng=0)
    rows = gradients(network, theta, (image(3).double(),), rng, 5)
    gain = network.unpack(theta)[2] / np.sqrt(1 + 1e-5)
    for row in rows:
        _, of_bias, _, of_shift, *_ = network.unpack(row)
        np.testing.assert_allclose(of_bias, gain * of_shift, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_refused_by_name(name):
    module = By(WRONG[name], a=Linear(3, 4), b=Linear(4, 2))
    with pytest.raises(ArchitectureError, match=rf"{name}.* opaque=\['"):
        from_torch(module, image(3))


def both(m, x):
    """Two sums of three layers: the middle bias is in both."""
    one, two = m.a(x) + m.b(2 * x), m.b(3 * x) + m.c(4 * x)
    return m.e(F.leaky_relu(torch.cat([one, two], dim=1)))


SUMS = {  # which biases have combinations that nothing sees, and how many of them
    "a chain": (both, [("a.bias", "b.bias", "c.bias")]),
    "plus and minus": (
        lambda m, x: m.e(F.leaky_relu(torch.cat([m.a(x) + m.b(x), m.a(x) - m.b(x)], dim=1))),
        [],
    ),
    "a difference": (
        lambda m, x: m.e(F.leaky_relu(torch.cat([m.a(x) - m.b(x), m.c(x)], dim=1))),
        [("a.bias", "b.bias")],
    ),
    "itself": (
        lambda m, x: m.e(F.leaky_relu(torch.cat([m.a(x) - m.a(x.flip(0)), m.c(x)], dim=1))),
        [("a.bias",)],
    ),
    "elsewhere, too": (  # added by hand, not by its layer
        lambda m, x: m.e(F.leaky_relu(torch.cat([m.a(x) - m.a(x.flip(0)), x + m.a.bias], dim=1))),
        [],
    ),
}


@pytest.mark.parametrize("name", SUMS)
def test_what_no_sum_of_biases_sees_is_conserved(name, rng):
    function, groups = SUMS[name]
    parts = {key: Linear(3, 3) for key in "abc"}
    network, _ = read(lambda: (By(function, e=Linear(6, 2), **parts), image(3)), rng)[:2]
    assert list(network.inert_groups) == groups and network.inert.count == 3 * len(groups)
    assert network.certificate.effect < 1e-12  # the gradient along them
