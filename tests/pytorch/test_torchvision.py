"""Models that people have, unmodified: each is read and certified."""

import subprocess
import sys

import pytest

READ = """
import resource, sys, time
import torch, torchvision
from liftflow.torch import from_torch

torch.set_num_threads(1)
module = getattr(torchvision.models, sys.argv[1])().train(sys.argv[2] == "training")
began = time.process_time()
network, theta = from_torch(module, torch.randn(2, 3, 64, 64))
seconds, began = time.process_time() - began, time.process_time()
network.conservation_laws(theta)
assert network.dim == sum(p.numel() for p in module.parameters())
assert network.certificate.invariance < 1e-10 > network.certificate.conservation
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(network.channels.n_channels, seconds, time.process_time() - began, peak)
"""

CHANNELS = {
    ("resnet18", "evaluation"): 7680,
    ("resnet18", "training"): 2880,
    ("mobilenet_v2", "training"): 712,
    ("densenet121", "training"): 41760,
    ("resnet50", "evaluation"): 38016,
    ("vgg11", "evaluation"): 10944,
}


@pytest.mark.parametrize(("name", "mode"), CHANNELS)
def test_models_of_torchvision_are_read_and_certified(name, mode):
    command = [sys.executable, "-W", "ignore", "-c", READ, name, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    channels, seconds, for_laws, gigabytes = map(float, done.stdout.split())
    assert channels == CHANNELS[name, mode]
    assert seconds < 20 and for_laws < 2 and gigabytes < 6


SPEED = """
import time
import numpy as np, torch, torchvision
from torch.nn.functional import cross_entropy
from liftflow import IntrinsicFlow, InvariantSet
from liftflow.torch import TorchLoss, from_torch

torch.set_num_threads(1)
torch.manual_seed(0)
module = torchvision.models.resnet18(num_classes=10)
x, y = torch.randn(8, 3, 64, 64), torch.randint(10, (8,))
network, theta = from_torch(module, x[:2])
loss = TorchLoss(network, lambda m: cross_entropy(m(x), y))
state = IntrinsicFlow(InvariantSet(network, theta), loss).state()
z = state.start()
step = state.velocity(z)
step *= 1e-3 * np.linalg.norm(z) / np.linalg.norm(step)
own, inputs = network.to_module(theta).double(), x.double()

def gradient(_):
    own.zero_grad()
    cross_entropy(own(inputs), y).backward()

points = [z + k * step for k in range(8)]
seconds = {gradient: [], lambda k: state.velocity(points[k]): []}
for k in range(8):  # side by side; what else the machine does only adds
    for function, spent in seconds.items():
        began = time.process_time()
        function(k)
        spent.append(time.process_time() - began)
print(*map(min, seconds.values()))
"""


def test_the_flow_of_z_costs_little_more_than_the_gradient():
    command = [sys.executable, "-W", "ignore", "-c", SPEED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    gradient, velocity = map(float, done.stdout.split())
    assert velocity < 1.3 * gradient
