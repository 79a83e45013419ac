"""Small modules of every kind that the bridge reads, in float64 at generic parameters."""

import copy
import itertools

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Residual(nn.Module):
    """Two residual blocks with a projection between them."""

    def __init__(self, norm):
        super().__init__()
        bias = norm is nn.Identity
        self.stem, self.norm = nn.Conv2d(1, 2, 3, padding=1, bias=bias), norm(2)
        self.a, self.norm_a = nn.Conv2d(2, 2, 3, padding=1, bias=bias), norm(2)
        self.b, self.norm_b = nn.Conv2d(2, 2, 3, padding=1, bias=bias), norm(2)
        self.c, self.norm_c = nn.Conv2d(2, 2, 3, padding=1, bias=bias), norm(2)
        self.d, self.norm_d = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=bias), norm(3)
        self.project, self.norm_p = nn.Conv2d(2, 3, 1, stride=2, bias=bias), norm(3)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.norm_b(self.b(F.relu(self.norm_a(self.a(x))))))
        y = self.norm_d(self.d(F.relu(self.norm_c(self.c(x)))))
        x = F.relu(y + self.norm_p(self.project(x)))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Dense(nn.Module):
    """Layers that see the concatenation of all before."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(2 + 2 * k, 2, 3, padding=1) for k in range(3)])
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], 1)
        return self.head(x.mean(dim=(2, 3)))


class UNet(nn.Module):
    """Down and up again, once by transposed convolution and once by upsampling."""

    def __init__(self):
        super().__init__()
        self.down, self.deep = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)
        self.bottom = nn.Conv2d(3, 2, 3, padding=1)
        self.up = nn.ConvTranspose2d(2, 2, 2, stride=2)
        self.mix, self.last = nn.Conv2d(5, 2, 1), nn.Conv2d(4, 1, 1)
        self.resize = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x):
        one = F.relu(self.down(x))
        two = F.relu(self.deep(F.max_pool2d(one, 2)))
        three = F.leaky_relu(self.bottom(F.avg_pool2d(two, 2)), 0.1)
        y = F.relu(self.mix(torch.cat([two, F.relu(self.up(three))], dim=1)))
        return self.last(torch.cat([one, self.resize(y)], dim=1))


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder, turned round."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 5))
        self.v = nn.Parameter(torch.randn(3, 4))
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x):
        code = F.relu(F.linear(F.relu(F.linear(x, self.w, self.bias)), self.v))
        return F.linear(F.relu(code @ self.v), self.w.t())


class Unrolled(nn.Module):
    """A recurrent cell over four steps."""

    def __init__(self):
        super().__init__()
        self.cell = nn.RNNCell(2, 3, nonlinearity="relu")
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        hidden = torch.zeros(x.shape[0], 3, dtype=x.dtype)
        for step in x.unbind(1):
            hidden = self.cell(step, hidden)
        return self.head(hidden)


class Siamese(nn.Module):
    """One trunk for two inputs."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU())
        self.head = nn.Linear(6, 2)

    def forward(self, x, y):
        return self.head(torch.cat([self.trunk(x), self.trunk(y)], dim=1))


class Words(nn.Module):
    """An embedding first, and a mean over words."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(6, 3), nn.Linear(3, 2)

    def forward(self, words):
        return self.head(F.relu(self.table(words).sum(dim=1)))


class Gated(nn.Module):
    """A normalisation that is not homogeneous."""

    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 3)
        self.three = nn.Linear(3, 2)

    def forward(self, x):
        return self.three(F.relu(self.two(self.norm(self.one(x)))))


class Odds(nn.Module):
    """Slices, gains, padding, PReLU, |x|, convolutions in one and three dimensions."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv1d(2, 4, 3), nn.Conv1d(4, 2, 2, padding=1)
        self.gain, self.slope = nn.Parameter(torch.ones(2, 1)), nn.PReLU()
        self.three, self.head = nn.Conv3d(2, 2, (1, 1, 2)), nn.Linear(4, 2)

    def forward(self, x):
        x = F.pad(self.one(x), (1, 1)).abs()
        x = torch.cat([x[:, 2:], x[:, :2]], 1)
        x = self.slope(self.gain * self.two(x)) - 0.5 * x[:, 1:3, :1]
        x = F.leaky_relu(self.three(x.unflatten(2, (1, 1, -1))[..., :4]))
        return self.head(torch.nn.functional.adaptive_max_pool3d(x, (1, 1, 2)).flatten(1))


class Shuffled(nn.Module):
    """Channels that are shuffled between groups, and then moved into space."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 2), nn.Conv2d(4, 4, 2, groups=2)
        self.three, self.four = nn.Conv2d(3, 3, (2, 1), stride=(2, 1)), nn.Conv1d(3, 2, 2)
        self.head = nn.Linear(2, 2)

    def forward(self, x):
        x = F.leaky_relu(self.one(x))
        x = F.leaky_relu(self.two(x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)))
        x = F.leaky_relu(self.three(x.transpose(1, 2)))  # pairs of channels meet
        x = F.leaky_relu(self.four(F.max_pool2d(x, (1, 2)).mean(-1)))
        return self.head(x.flatten(1))


def frozen_backbone():
    module = nn.Sequential(
        nn.Linear(3, 5), nn.LeakyReLU(0.1), nn.Linear(5, 4), nn.LeakyReLU(0.1),
        nn.Linear(4, 3), nn.LeakyReLU(0.1), nn.Linear(3, 2),
    )  # fmt: skip
    for layer in module[:3]:
        layer.requires_grad_(False)
    return module


def images(count=16, channels=1, size=8):
    return torch.randn(count, channels, size, size)


MODELS = {
    "MLP": lambda: (
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)),
        (torch.randn(16, 3),),
    ),
    "CNN": lambda: (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 2, groups=2), nn.ReLU(),
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 2),
        ),
        (images(channels=2),),
    ),
    "VGG": lambda: (
        nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.LeakyReLU(0.1, inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(2, 3, 3, padding=1), nn.LeakyReLU(0.1, inplace=True), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(12, 3), nn.LeakyReLU(0.1), nn.Dropout(), nn.Linear(3, 2),
        ).eval(),
        (images(),),
    ),
    "ResNet": lambda: (Residual(nn.Identity), (images(),)),
    "ResNet, batch norm in evaluation": lambda: (Residual(nn.BatchNorm2d).eval(), (images(),)),
    "ResNet, batch norm in training": lambda: (Residual(nn.BatchNorm2d).train(), (images(),)),
    "DenseNet": lambda: (Dense(), (images(channels=2, size=5),)),
    "U-Net": lambda: (UNet(), (images(),)),
    "depthwise": lambda: (
        nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3, groups=3), nn.ReLU(),
            nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2),
        ),
        (images(),),
    ),
    "tied autoencoder": lambda: (Tied(), (torch.randn(16, 5),)),
    "RNNCell": lambda: (Unrolled(), (torch.randn(16, 4, 2),)),
    "frozen backbone": lambda: (frozen_backbone(), (torch.randn(16, 3),)),
    "Siamese": lambda: (Siamese(), (torch.randn(16, 3), torch.randn(16, 3))),
    "embedding": lambda: (Words(), (torch.randint(6, (16, 3)),)),
    "channels into space": lambda: (Shuffled(), (images(size=5),)),
    "odds and ends": lambda: (Odds(), (torch.randn(4, 2, 9),)),
}  # fmt: skip


UNITS = "relu", "leaky_relu", "prelu", "rnn_relu_cell"


class Units(TorchFunctionMode):
    """Watch whether each channel of each unit is on somewhere and off elsewhere."""

    switch = True

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "").strip("_") in UNITS:
            on = result.detach().transpose(0, 1).flatten(1) > 0
            self.switch &= bool((on.any(dim=1) & ~on.all(dim=1)).all())
        return result


def all_switch(module, inputs):
    """Whether every channel of every unit is on for some of the inputs and off for others."""
    with Units() as units:
        copy.deepcopy(module)(*inputs)  # a copy: statistics of batches stay as they are
    return units.switch


def build(name):
    """Return a module in float64 at generic parameters, and inputs: the first whose units switch.

    Gradients miss directions that no law forbids where a unit is dead or never off.
    """
    for seed in itertools.count():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module, inputs = MODELS[name]()
            module.double()
            for parameter in module.parameters():
                parameter.data += 0.3 * torch.randn_like(parameter)
            inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
            outputs = (trial := copy.deepcopy(module))(*inputs)
            (outputs * torch.randn_like(outputs)).sum().backward()
        seen = all(bool(p.grad.all()) for p in trial.parameters() if p.requires_grad)
        if seen and all_switch(module, inputs):
            return module, inputs


class Block18(nn.Module):
    """A block of ResNet-18."""

    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.one = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.norm_one, self.norm_two = nn.BatchNorm2d(n_out), nn.BatchNorm2d(n_out)
        self.skip = nn.Identity()
        if stride > 1:
            project = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.skip = nn.Sequential(project, nn.BatchNorm2d(n_out))

    def forward(self, x):
        y = self.norm_two(self.two(F.relu(self.norm_one(self.one(x)))))
        return F.relu(y + self.skip(x))


def resnet18(width, n_classes=10):
    """Build ResNet-18 with so many channels in its first stage, where torchvision has 64."""
    sizes = [width * k for k in (1, 1, 2, 4, 8)]
    blocks = []
    for stage, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        blocks += [Block18(n_in, n_out, 1 + (stage > 0)), Block18(n_out, n_out, 1)]
    module = nn.Sequential(
        nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sizes[-1], n_classes),
    )  # fmt: skip
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    return module
