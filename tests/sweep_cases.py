"""What a sweep runs on its workers, which import it by name."""

import os
import signal

from test_flows import bowl

from liftflow.architectures import ReLUNetwork
from liftflow.losses import Loss
from liftflow.manifolds import InvariantSet


def make_case(seed):
    network = ReLUNetwork.from_widths([3, 3, 2])
    return InvariantSet(network, network.random_point(rng=seed)), bowl(network, seed)


class KillsOnce(Loss):
    """A loss at one of whose gradients the process dies, in the first process that comes there."""

    def __init__(self, loss, at, mark):
        self.loss, self.left, self.mark = loss, at, mark

    def value(self, z, near=None):
        return self.loss.value(z, near)

    def gradient(self, z, near=None):
        self.left -= 1
        if self.left == 0 and not self.mark.exists():
            self.mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return self.loss.gradient(z, near)


class DeadlyCase:
    """The cases above, where the worker that has seed 1 is killed half-way."""

    def __init__(self, at, mark):
        self.at, self.mark = at, mark

    def __call__(self, seed):
        invariant_set, loss = make_case(seed)
        return invariant_set, KillsOnce(loss, self.at, self.mark) if seed == 1 else loss
