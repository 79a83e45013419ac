"""Forward passes of modern networks, each with its number of laws and whose that is.

Page 23 of the gallery counts them. Blocks are named, so that laws are written in their names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import autograd.numpy as np
from autograd.scipy.special import erf, expit

from liftflow import SampledForward
from liftflow.typing import untraced


@dataclass(frozen=True)
class Pass:
    """A forward pass of one input and the named blocks of θ."""

    name: str
    function: Callable
    blocks: dict
    inputs: tuple
    laws: int
    source: str

    @property
    def dim(self):
        """Number of parameters."""
        return sum(map(prod, self.blocks.values()))

    def forward(self, theta, x):
        """Evaluate the network at one θ and one input."""
        parts, start = [], 0
        for shape in self.blocks.values():
            parts.append(np.reshape(theta[start : start + prod(shape)], shape))
            start += prod(shape)
        return self.function(x, *parts)

    def network(self, rng=0):
        """Return the lift at random inputs, as many as are needed."""
        return SampledForward(self.forward, self.dim, self.inputs, blocks=self.blocks, rng=rng)


# %%
# What they are made of


def relu(s):
    """max(s, 0)."""
    return np.maximum(s, 0.0)


def gelu(s):
    """Gaussian error linear unit."""
    return 0.5 * s * (1 + erf(s / np.sqrt(2.0)))


def silu(s):
    """Sigmoid linear unit."""
    return s * expit(s)


def softmax(scores):
    """Softmax along the last axis."""
    largest = np.max(untraced(scores), axis=-1, keepdims=True)  # as a constant, which is not seen
    powers = np.exp(scores - largest)
    return powers / np.sum(powers, axis=-1, keepdims=True)


def rms_norm(x):
    """X over its root mean square, without the ε against zero that would break a law a little."""
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True))


def layer_norm(x):
    """The same without its mean."""
    return rms_norm(x - np.mean(x, axis=-1, keepdims=True))


def feed_forward(activation):
    """Two layers without biases."""
    return lambda x, V, U: U @ activation(V @ x)


def gated(gate):
    """Units with gates: SwiGLU and its relatives."""
    return lambda x, G, V, U: U @ (gate(G @ x) * (V @ x))


def rotations(n_tokens, d_head):
    """Rotary position codes: one angle for each pair of coordinates, times the position."""
    angles = np.outer(np.arange(n_tokens), 0.5 ** np.arange(d_head // 2))
    turns = np.zeros((n_tokens, d_head, d_head))
    for pair in range(d_head // 2):
        i, j, angle = 2 * pair, 2 * pair + 1, angles[:, pair]
        turns[:, i, i] = turns[:, j, j] = np.cos(angle)
        turns[:, i, j], turns[:, j, i] = -np.sin(angle), np.sin(angle)
    return turns


def attention(x, Q, K, V, O, turns=None):
    """Attention of several heads, from tokens (n, d) to tokens; blocks (heads, d, d_head)."""
    left, right = x @ Q, x @ K
    if turns is not None:
        left, right = ((turns @ part[..., None])[..., 0] for part in (left, right))
    scores = softmax(left @ np.swapaxes(right, -1, -2))
    return np.sum(scores @ (x @ V) @ np.swapaxes(O, -1, -2), axis=0)


def heads(d_model, d_head, n_heads):
    """Shapes of the blocks of attention."""
    return dict.fromkeys("QKVO", (n_heads, d_model, d_head))


def biased_attention(x, Q, a, K, b, V, c, O, e):
    """One head with all biases."""
    scores = softmax((x @ Q + a) @ (x @ K + b).T)
    return scores @ (x @ V + c) @ O.T + e


def mixture(gate, activation):
    """All experts, weighted by a router R; blocks (experts, …)."""

    def forward(x, R, V, U):
        experts = np.sum(U * activation(V @ x)[:, None, :], axis=-1)
        return gate(R @ x) @ experts

    return forward


def normalised_sigmoid(scores):
    """Sigmoids over their sum."""
    return expit(scores) / np.sum(expit(scores))


def residual(x, V1, U1, V2, U2):
    """Two residual blocks."""
    x = x + U1 @ relu(V1 @ x)
    return x + U2 @ relu(V2 @ x)


def head(x, W, b):
    """Logarithms of the probabilities that a softmax head gives."""
    return np.log(softmax(W @ x + b))


def tied(x, E, V, U):
    """Embedding, a residual block, and the embedding again as the head."""
    h = E.T @ x
    return E @ (h + U @ relu(V @ h))


def untied(x, E, V, U, W):
    """The same with a head of its own."""
    h = E.T @ x
    return W @ (h + U @ relu(V @ h))


def lora(x, B, A):
    """A frozen layer with an adapter of low rank, and a tanh behind."""
    frozen = np.cos(np.arange(len(B) * len(x))).reshape(len(B), len(x))
    return np.tanh(frozen @ x + B @ (A @ x))


def cosine(x, V, W):
    """Cosines between features and one vector per class."""
    h = V @ x
    return (W @ h) / np.sqrt(np.sum(W**2, axis=-1) * np.sum(h**2))


def pre_norm(norm, activation):
    """A residual block whose norm comes first, with gains γ."""
    return lambda x, γ, V, U: x + U @ activation(V @ (γ * norm(x)))


def pre_norm_biased(x, γ, β, V, b, U):
    """The same with biases, as layer norm has."""
    return x + U @ gelu(V @ (γ * layer_norm(x) + β) + b)


def post_norm(norm):
    """A residual block whose norm comes last, with gains γ, biases β and a linear head."""
    return lambda x, γ, V, U, β, W: W @ (γ * norm(x + U @ relu(V @ x)) + β)


def weight_norm(x, V, g, U):
    """Units with directions v_j/‖v_j‖ and lengths g_j."""
    directions = V / np.sqrt(np.sum(V**2, axis=-1, keepdims=True))
    return U @ relu(g * (directions @ x))


# %%
# The table

MARCOTTE, TRAN, KUNIN, OURS = "Marcotte2025", "Tran2026", "Kunin2021", "ours"
D, R, T = 3, 3, 2  # sizes of inputs, of hidden layers, and numbers of tokens

_LAYERS = {"V": (R, D), "U": (D, R)}
_GATED = {"G": (R, D), **_LAYERS}
_EXPERTS = {"R": (3, D), "V": (3, 2, D), "U": (3, D, 2)}
_NORMED = {"γ": (D,), "V": (2, D), "U": (D, 2)}

PASSES = [
    Pass(
        "two residual blocks",
        residual,
        {"V1": (R, D), "U1": (D, R), "V2": (R, D), "U2": (D, R)},
        (D,),
        2 * R,
        MARCOTTE,
    ),
    Pass("GELU", feed_forward(gelu), _LAYERS, (D,), 0, TRAN),
    Pass("SiLU", feed_forward(silu), _LAYERS, (D,), 0, TRAN),
    Pass("SwiGLU", gated(silu), _GATED, (D,), R, TRAN),
    Pass("GLU, sigmoid gates", gated(expit), _GATED, (D,), R, OURS),
    Pass("ReGLU", gated(relu), _GATED, (D,), 2 * R, OURS),
    Pass("bilinear GLU", gated(lambda s: s), _GATED, (D,), 2 * R, OURS),
    Pass("softmax head", head, {"W": (4, D), "b": (4,)}, (D,), D + 1, KUNIN),
    Pass("attention, 1 head of 1", attention, heads(D, 1, 1), (T, D), 2, MARCOTTE),
    Pass("attention, 2 heads of 1", attention, heads(D, 1, 2), (T, D), 4, TRAN),
    Pass("attention, 1 head of 2", attention, heads(D, 2, 1), (T, D), 6, MARCOTTE),
    Pass("attention, 2 heads of 2", attention, heads(D, 2, 2), (T, D), 12, TRAN),
    Pass(
        "attention with biases",
        biased_attention,
        {
            "Q": (D, 2),
            "bQ": (2,),
            "K": (D, 2),
            "bK": (2,),
            "V": (D, 2),
            "bV": (2,),
            "O": (D, 2),
            "bO": (D,),
        },
        (T, D),
        8,
        OURS,
    ),
    Pass(
        "rotary attention, 1 head of 2",
        lambda *parts: attention(*parts, turns=rotations(T, 2)),
        heads(D, 2, 1),
        (T, D),
        1 + 3,
        TRAN,
    ),
    Pass(
        "rotary attention, 1 head of 4",
        lambda *parts: attention(*parts, turns=rotations(T, 4)),
        heads(4, 4, 1),
        (T, 4),
        2 + 10,
        TRAN,
    ),
    Pass("RMS norm first, GELU", pre_norm(rms_norm, gelu), _NORMED, (D,), D, OURS),
    Pass("RMS norm first, ReLU", pre_norm(rms_norm, relu), _NORMED, (D,), D + 2, OURS),
    Pass("layer norm first, ReLU", pre_norm(layer_norm, relu), _NORMED, (D,), D + 2, OURS),
    Pass(
        "layer norm first, GELU, biases",
        pre_norm_biased,
        {"γ": (D,), "β": (D,), "V": (2, D), "b": (2,), "U": (D, 2)},
        (D,),
        D,
        OURS,
    ),
    Pass(
        "RMS norm last, and a head",
        post_norm(rms_norm),
        _NORMED | {"β": (D,), "W": (2, D)},
        (D,),
        D + 2,
        OURS,
    ),
    Pass(
        "layer norm last, and a head",
        post_norm(layer_norm),
        _NORMED | {"β": (D,), "W": (2, D)},
        (D,),
        D + 2 + 2,
        OURS,
    ),
    Pass("RMS norm of a layer", lambda x, W: rms_norm(W @ x), {"W": (4, D)}, (D,), 1, KUNIN),
    Pass("layer norm of a layer", lambda x, W: layer_norm(W @ x), {"W": (4, D)}, (D,), 1 + D, OURS),
    Pass("weight norm", weight_norm, {"V": (R, D), "g": (R,), "U": (D, R)}, (D,), 2 * R, OURS),
    Pass("tied embedding", tied, {"E": (5, D), **_LAYERS}, (5,), R, OURS),
    Pass("embedding not tied", untied, {"E": (5, D), **_LAYERS, "W": (5, D)}, (5,), R + 6, OURS),
    Pass("LoRA of rank 2", lora, {"B": (4, 2), "A": (2, D)}, (D,), 3, OURS),
    Pass(
        "mixture of experts, GELU",
        mixture(softmax, gelu),
        _EXPERTS,
        (D,),
        D,
        TRAN,
    ),
    Pass(
        "mixture of experts, ReLU",
        mixture(softmax, relu),
        _EXPERTS,
        (D,),
        D + 6,
        TRAN,
    ),
    Pass("cosine classifier", cosine, {"V": (4, D), "W": (5, 4)}, (D,), 5 + 1, KUNIN),
]
"""What is counted, and how many laws there are by whom."""

CONTROL = Pass(
    "mixture of experts, normalised sigmoids",
    mixture(normalised_sigmoid, gelu),
    _EXPERTS,
    (D,),
    0,
    OURS,
)
"""The sum of the rows of R, a law of softmax gates, is none here.

A clause on such gates in Tran2026 is refuted, by what we were told; its words we have not seen.
"""
