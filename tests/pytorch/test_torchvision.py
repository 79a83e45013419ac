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
