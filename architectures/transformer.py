"""A transformer block: attention, a layer of ReLUs and the gains of two norms, as a product."""

from typing import NamedTuple

import autograd.numpy as anp
import numpy as np
from autograd.extend import defjvp, defvjp, primitive

from liftflow.architectures.attention import Attention
from liftflow.architectures.dag import CompiledDAG
from liftflow.architectures.product import ProductArchitecture, split_lams
from liftflow.architectures.relu import ReLUNetwork
from liftflow.doors import door
from liftflow.typing import (
    FloatArray,
    Numbers,
    OneTheta,
    Rng,
    Scalars,
    Theta,
    as_array,
    as_count,
    as_instance,
    as_rng,
    refuse_beyond,
    untraced,
)

NORM_EPSILON = 1e-6
"""Added to the mean square that tokens are divided by the root of."""

_LARGE = 1e100  # tokens are scaled before they are squared from here on


class TransformerWeights(NamedTuple):
    """The weights of a transformer block, by name.

    Attributes
    ----------
    queries, keys, values, outputs : array, shape=[..., n_heads, d_model, d_head]
        Q, K, V and O of each head.
    into, out_of : array, shape=[..., d_mlp, d_model]
        The v_j that neurons of the layer of ReLUs read by, and the u_j that they write.
    biases : array, shape=[..., d_mlp]
        Their b_j.
    gains : array, shape=[..., 2, d_model]
        The γ of the norm before attention, and of that before the layer of ReLUs.
    """

    queries: Numbers
    keys: Numbers
    values: Numbers
    outputs: Numbers
    into: Numbers
    out_of: Numbers
    biases: Numbers
    gains: Numbers


class TransformerBlock(ProductArchitecture):
    r"""A transformer block as a product: attention × neurons × gains.

    The factors are an :class:`Attention`, which is seen through :math:`Q_h K_h^\top` and
    :math:`V_h O_h^\top`; a :class:`ReLUNetwork` of neurons seen through :math:`u_j ⊗ (v_j, b_j)`;
    and the gains γ of two norms, which are seen as they are. So the laws are
    :math:`Q_h^\top Q_h − K_h^\top K_h` and :math:`V_h^\top V_h − O_h^\top O_h` of each head and
    :math:`‖v_j‖^2 + b_j^2 − ‖u_j‖^2` of each neuron: those that hold for every loss of z. Where
    those of attention are multiples of the identity (:meth:`balanced_point`), the metric is known
    in closed form, factor by factor; the neurons need no balance.

    Parameters
    ----------
    d_model : int
        Dimension of the tokens.
    d_head : int
        Inner dimension of each head.
    n_heads : int
        Number of heads.
    d_mlp : int
        Number of neurons.

    Notes
    -----
    The forward pass sees less than z: a gain γ_i and what reads behind it, row i of Q, K and V or
    the i-th inputs of the neurons, rescale against each other. So it has the further laws
    :math:`γ_{1i}^2 − \sum_h ‖(Q_h, K_h, V_h)_{i·}‖^2` and :math:`γ_{2i}^2 − \sum_j v_{ji}^2`,
    2 d_model of them.

    References
    ----------
    Attention: [MPG]_; the block as a product, and the laws of its gains, are ours.

    Examples
    --------
    >>> from liftflow.architectures import TransformerBlock
    >>> block = TransformerBlock(d_model=4, d_head=2, n_heads=2, d_mlp=6)
    >>> block.dim, block.n_laws
    (126, 18)
    >>> block.forward(block.balanced_point(0.5, rng=0), [[1.0, 0.0, 2.0, 0.0]]).shape
    (1, 4)
    """

    @door
    def __init__(self, d_model: int, d_head: int, n_heads: int, d_mlp: int) -> None:
        self.d_model = as_count(d_model, "d_model", 1)
        self.d_head = as_count(d_head, "d_head", 1)
        self.n_heads = as_count(n_heads, "n_heads", 1)
        self.d_mlp = as_count(d_mlp, "d_mlp", 1)
        refuse_beyond(2 * self.d_model * self.d_mlp, "the weights of the neurons", 600)
        self.attention = Attention(self.d_model, self.d_head, self.n_heads)
        widths = self.d_model, self.d_mlp, self.d_model
        shapes = [widths[:2], widths[1:], widths[1:2]]  # with biases in the hidden nodes alone
        self.mlp = ReLUNetwork._of(CompiledDAG.layered(widths, (), [True, False]), shapes)
        # Without a hidden node all weights are paths of their own: φ(γ) = γ.
        self.gains = ReLUNetwork.from_widths([2 * self.d_model, 1])
        super().__init__(self.attention, self.mlp, self.gains)

    def _facts(self) -> str:
        sizes = ("d_model", "d_head", "n_heads", "d_mlp")
        return ", ".join(f"{name}={getattr(self, name)}" for name in sizes)

    def balanced_point(self, lam: Scalars, rng: Rng = None) -> OneTheta:
        """Draw a point where attention is relaxed balanced, with gains of 1.

        Parameters
        ----------
        lam : array-like, shape=[] or [2 * n_heads]
            The λ of each factor of attention, or one for all.

        Raises
        ------
        ArchitectureError
            No such point exists: λ ≠ 0 needs d_head ≤ d_model.
        """
        rng = as_rng(rng)
        lams = split_lams(lam, 2 * self.n_heads)
        parts = self.attention.balanced_point(lams, rng), self.mlp.random_point(rng=rng)
        return np.asarray(self.pack(*parts, np.ones(self.gains.dim)))

    def weights(self, theta: Theta) -> TransformerWeights:
        """Name the weights in θ."""
        return self._weights(self._theta(theta))

    def _weights(self, theta: Numbers) -> TransformerWeights:
        attention, neurons, gains = self._unpack(theta)
        lead = theta.shape[:-1]
        shape = (*lead, self.n_heads, 4, self.d_model, self.d_head)
        heads = anp.reshape(attention, shape)
        into, out_of, biases = self.mlp._unpack(neurons)
        queries, keys, values, outputs = (heads[..., kind, :, :] for kind in range(4))
        into, gains = anp.swapaxes(into, -1, -2), anp.reshape(gains, (*lead, 2, self.d_model))
        return TransformerWeights(queries, keys, values, outputs, into, out_of, biases, gains)

    def forward(self, theta: Theta, tokens: Numbers, *, causal: bool = False) -> Numbers:
        r"""Evaluate the block on sequences, differentiably in θ.

        :math:`x_1 = x + \sum_h \mathrm{softmax}(n_1 Q_h K_h^\top n_1^\top/\sqrt{d}) n_1 V_h
        O_h^\top` with :math:`n_1 = γ_1 ∘ x / \mathrm{rms}(x)`, and
        :math:`x_1 + \sum_j \mathrm{relu}(⟨v_j, n_2⟩ + b_j) u_j` with
        :math:`n_2 = γ_2 ∘ x_1 / \mathrm{rms}(x_1)`. Here :math:`\mathrm{rms}(x)^2 = ε +
        \sum_i x_i^2 / d_\mathrm{model}` with :math:`ε = 10^{-6}`, so that a token of zeros stays
        one. No law depends on ε: what is divided are numbers that no weight rescales.

        Parameters
        ----------
        tokens : array-like, shape=[*sequences, n_tokens, d_model]
            Any number of axes of sequences, all of one length; no tokens give none.
        causal : bool
            Whether a token attends to itself and earlier ones alone.

        Returns
        -------
        tokens : array, shape=[..., *sequences, n_tokens, d_model]
            With the leading axes of θ.
        """
        given = as_array(tokens, "tokens", (None, self.d_model), differentiable=False)
        theta = self._theta(theta)
        own = self._weights(theta)
        lead, length = own.biases.shape[:-1], given.shape[-2]
        if not given.size or 0 in lead:
            return anp.reshape(theta[..., :0], (*lead, *given.shape))
        rows = given.reshape((-1, self.d_model))  # all tokens at once: one product of matrices
        split = (*lead, len(rows) // length, length, self.n_heads, self.d_head)
        unit = _unit(rows)
        # Gains and constants scale the weights, which are fewer than the tokens.
        queries, keys, values = (
            anp.swapaxes(anp.reshape(anp.matmul(unit, read), split), -2, -3)
            for read in (
                own.gains[..., 0, :, None] * _side_by_side(block) * scale
                for block, scale in zip(own[:3], (self.d_head**-0.5, 1.0, 1.0), strict=True)
            )
        )
        logits = anp.matmul(queries, anp.swapaxes(keys, -1, -2))
        if causal:
            logits = logits + np.where(np.tri(length) == 1, 0.0, -np.inf)
        read = anp.swapaxes(anp.matmul(_softmax(logits), values), -2, -3)
        read = anp.reshape(read, (*lead, len(rows), self.n_heads * self.d_head))
        rows = rows + anp.matmul(read, anp.swapaxes(_side_by_side(own.outputs), -1, -2))
        into = own.gains[..., 1, :, None] * anp.swapaxes(own.into, -1, -2)
        active = anp.matmul(_unit(rows), into) + own.biases[..., None, :]
        active = active * (untraced(active) > 0)  # which autograd follows quicker than a maximum
        rows = rows + anp.matmul(active, own.out_of)
        return anp.reshape(rows, (*lead, *given.shape))


def transformer_forward(
    block: TransformerBlock, theta: Theta, tokens: Numbers, *, causal: bool = False
) -> Numbers:
    """Evaluate a transformer block on sequences: :meth:`TransformerBlock.forward` as a function.

    Parameters
    ----------
    tokens : array-like, shape=[*sequences, n_tokens, d_model]
        As the method takes them.

    Returns
    -------
    tokens : array, shape=[..., *sequences, n_tokens, d_model]
        With the leading axes of θ.
    """
    own = as_instance(block, TransformerBlock, "block")
    return own.forward(theta, tokens, causal=causal)


def _side_by_side(heads: Numbers) -> Numbers:
    """The matrices of all heads next to each other, shape=[..., d_model, n_heads * d_head]."""
    swapped = anp.swapaxes(heads, -2, -3)
    return anp.reshape(swapped, (*swapped.shape[:-2], swapped.shape[-2] * swapped.shape[-1]))


def _unit(rows: Numbers) -> Numbers:
    """Divide each token by its root mean square."""
    epsilon: FloatArray | float = NORM_EPSILON
    if np.max(np.abs(untraced(rows))) > _LARGE:  # squares overflow
        sizes = np.maximum(np.max(np.abs(untraced(rows)), axis=-1, keepdims=True), 1.0)
        rows, epsilon = rows / sizes, NORM_EPSILON / sizes / sizes
    size = rows.shape[-1]
    # Products with ones add up few numbers quicker than a sum does.
    square = anp.matmul(rows * rows, np.full((size, 1), 1.0 / size))
    return rows * (square + epsilon) ** -0.5


def _totals(numbers: Numbers) -> Numbers:
    return anp.matmul(numbers, np.ones((numbers.shape[-1], 1)))


def _weights(logits: FloatArray) -> FloatArray:
    """Softmax along the last axis."""
    powers: FloatArray = np.exp(logits - np.max(logits, axis=-1, keepdims=True))
    powers /= _totals(powers)
    return powers


def _turned(tangent: Numbers, weights: Numbers) -> Numbers:
    """The derivative of softmax, which is symmetric."""
    return weights * (tangent - _totals(weights * tangent))


_softmax = primitive(_weights)  # one step of autograd, where its formula is many
defvjp(_softmax, lambda weights, logits: lambda g: _turned(g, weights))
defjvp(_softmax, lambda g, weights, logits: _turned(g, weights))
