"""What the family of transformer blocks is trained for: to tell classes of sequences."""

from collections.abc import Sequence

import autograd.numpy as anp
import numpy as np

from liftflow.architectures import Architecture, ProductArchitecture, ReLUNetwork, TransformerBlock
from liftflow.losses import ParameterLoss
from liftflow.typing import FloatArray, IntArray, Numbers, OneTheta, as_rng, untraced

_BLOCK, _HEAD = 0.5, 0.1  # of a random point, so that all rates of training are moderate


class ReadingLoss(ParameterLoss):
    """Cross-entropy of a transformer block and a linear layer that reads all that it writes.

    Parameters
    ----------
    tokens : array, shape=[n_samples, n_tokens, d_model]
    labels : array, shape=[n_samples]
        The class of each sequence.
    """

    def __init__(self, block: TransformerBlock, tokens: FloatArray, labels: IntArray) -> None:
        self.block, self.tokens, self.labels = block, tokens, labels
        size, n_classes = tokens[0].size, int(labels.max()) + 1
        self.head = ReLUNetwork.from_widths([size, n_classes], bias=True)
        super().__init__(self._cross_entropy, ProductArchitecture(block, self.head))

    def start(self, lams: Sequence[float], seed: int) -> FloatArray:
        """Draw a θ₀ whose attention has this λ, or one in each factor."""
        rng = as_rng(seed)
        point = self.block.balanced_point(np.asarray(lams) / _BLOCK**2, rng)
        attention, neurons, gains = self.block.unpack(point)
        own = self.block.pack(_BLOCK * attention, _BLOCK * neurons, gains)
        return np.asarray(self.architecture.pack(own, _HEAD * self.head.random_point(rng=rng)))

    def outputs(self, theta: OneTheta) -> Numbers:
        """Evaluate the network, one number for each class, shape=[n_samples, n_classes]."""
        own, rest = self.architecture.unpack(theta)
        weights, biases = self.head.unpack(rest)
        written = self.block.forward(own, self.tokens)
        return anp.dot(anp.reshape(written, (len(self.tokens), -1)), weights) + biases

    def _cross_entropy(self, theta: OneTheta) -> Numbers:
        outputs = self.outputs(theta)
        outputs = outputs - np.max(untraced(outputs), axis=1, keepdims=True)  # is not seen
        own = outputs[np.arange(len(self.labels)), self.labels]
        return anp.mean(anp.log(anp.sum(anp.exp(outputs), axis=1)) - own)

    def scores(self, theta: OneTheta, architecture: Architecture) -> dict[str, float]:
        """Training accuracy."""
        hit = np.argmax(self.outputs(theta), axis=1) == self.labels
        return {"accuracy": float(np.mean(hit))}
