"""Attention: per head two products of two matrices."""

from liftflow.architectures.linear import TwoLayerLinear
from liftflow.architectures.product import ProductArchitecture
from liftflow.typing import as_count, refuse_beyond, shown


class Attention(ProductArchitecture):
    r"""Factors of a multi-head attention layer, φ = (Q_h K_hᵀ, V_h O_hᵀ)_h.

    A product of two-layer linear factors, two per head: first :math:`Q_h K_h^\top`, which scores
    pairs of tokens, then :math:`V_h O_h^\top`, which maps their values. The Frobenius property
    fails (d_head ≥ 2), and yet the metric property holds at relaxed balanced points.

    Parameters
    ----------
    d_model : int
        Dimension of the tokens.
    d_head : int
        Inner dimension of each head.
    n_heads : int
        Number of heads.

    References
    ----------
    [MPG]_. That its laws are complete with several heads is open in [Marcotte2025]_ and claimed in
    [Tran2026]_.

    Examples
    --------
    >>> from liftflow.architectures import Attention
    >>> attention = Attention(d_model=4, d_head=2, n_heads=3)
    >>> attention.lifted_shape, attention.dim
    ((6, 4, 4), 96)
    """

    def __init__(self, d_model: int, d_head: int, n_heads: int = 1) -> None:
        self.d_model = as_count(d_model, "d_model", 1)
        self.d_head = as_count(d_head, "d_head", 1)
        self.n_heads = as_count(n_heads, "n_heads", 1)
        count, size = 2 * self.n_heads, 2 * self.d_model * self.d_head
        refuse_beyond(count, f"{shown(count)} factors of {shown(size)} numbers", 600 + 8 * size)
        factors = [TwoLayerLinear(self.d_model, self.d_model, self.d_head) for _ in range(count)]
        super().__init__(*factors)

    def _facts(self) -> str:
        return f"{self.d_model}, {self.d_head}, {self.n_heads}"
