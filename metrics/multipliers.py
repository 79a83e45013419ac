r"""Multipliers of spectral cometrics: K(Z)[G] = P (m(σ) ∘ (PᵀGQ)) Qᵀ with Z = P diag(σ) Qᵀ.

All linear families are this one family and differ only in m. Each multiplier is one formula for
the entry :math:`m_{kl}` as a function of the singular values :math:`σ_k` and :math:`σ_l`, and one
for the directions of ker Zᵀ and ker Z, which are hidden: no singular value tells their layers.
"""

from abc import ABC, abstractmethod
from typing import Self

import geomstats.backend as gs
import numpy as np
from autograd.tracer import getval, isbox

from liftflow.doors import Guarded, door
from liftflow.errors import InputError
from liftflow.linalg import layer_squares, units
from liftflow.typing import FloatArray, OnLayers, Scalars, as_array, as_own


def _values(singular: Scalars) -> Scalars:
    """Singular values as an array; those of a decomposition, or traced, pass at once."""
    if (type(singular) is np.ndarray and singular.dtype == np.float64) or isbox(singular):
        return singular
    return as_array(singular, "a singular value")


def _hypot(shift: float, left: Scalars, right: Scalars) -> Scalars:
    """√(shift² + σ_k σ_l), where no square that counts under- or overflows."""
    if 1e-70 < abs(shift) < 1e70:
        return (shift**2 + left * right) ** 0.5
    sizes = np.abs(getval(left)), np.abs(getval(right))
    unit = units(np.maximum(abs(shift), np.maximum(*sizes)))
    return unit * ((shift / unit) ** 2 + left / unit * (right / unit)) ** 0.5


class Multiplier(Guarded, ABC):
    """The function m of a spectral cometric, elementwise and differentiable under autograd."""

    @abstractmethod
    def pair(self, left: Scalars, right: Scalars) -> Scalars:
        """Evaluate m(σ_k, σ_l) at singular values of the left and of the right direction."""

    def _facts(self) -> str:
        return ", ".join(f"{name}={np.asarray(v).tolist()}" for name, v in vars(self).items())

    def hidden_left(self, right: Scalars) -> Scalars:
        """Evaluate m for a left direction in ker Zᵀ, by default the limit σ_k → 0."""
        right = _values(right)
        return self.pair(0.0 * right, right)

    def hidden_right(self, left: Scalars) -> Scalars:
        """Evaluate m for a right direction in ker Z, by default the limit σ_l → 0."""
        left = _values(left)
        return self.pair(left, 0.0 * left)

    def table(self, singular: Scalars) -> Scalars:
        """Evaluate m for all pairs of singular values of one matrix, those along the last axis."""
        singular = as_array(singular, "singular", (None,))
        return self.pair(singular[..., :, None], singular[..., None, :])

    @door
    def scaled(self, factor: float) -> Self:
        """Return the multiplier at cθ₀, for the factor c², which is 1 where φ is no product."""
        if factor != 1.0:
            raise NotImplementedError
        return self

    @property
    def chain_gaps(self) -> FloatArray | None:
        """Constants d_i of a chain of weights, θ_i² = w² + d_i, with this m(|z|, |z|) if any."""
        return None


class TwoLayerMultiplier(Multiplier):
    r"""Relaxed balanced two-layer networks: m(σ_k, σ_l) = a(σ_k) + b(σ_l).

    :math:`a(σ) = (λ + \sqrt{λ^2 + 4σ^2})/2` are the eigenvalues of UUᵀ, and
    :math:`b(σ) = a(σ) − λ` those of VVᵀ. Domain: all σ ≥ 0.

    Parameters
    ----------
    lam : float
        Value of λ, with S = λI.
    left, right : float
        Values of UUᵀ on ker Zᵀ and of VVᵀ on ker Z, where these are not {0}.

    References
    ----------
    [MPG]_.
    """

    @door
    def __init__(self, lam: float, left: float = 0.0, right: float = 0.0) -> None:
        self.lam, self.left, self.right = float(lam), float(left), float(right)

    @staticmethod
    def _positive_root(lam: float, singular: Scalars) -> Scalars:
        """The root x ≥ 0 of x (x − λ) = σ², without cancellation."""
        if lam == 0.0:
            return singular
        root = _hypot(lam, twice := 2.0 * singular, twice)
        if lam > 0.0:
            return (lam + root) / 2.0
        return 2.0 * singular * (singular / (root - lam))

    @door
    def scaled(self, factor: float) -> Self:
        return type(self)(factor * self.lam, factor * self.left, factor * self.right)

    def pair(self, left: Scalars, right: Scalars) -> Scalars:
        left, right = _values(left), _values(right)
        return self._positive_root(self.lam, left) + self._positive_root(-self.lam, right)

    def hidden_left(self, right: Scalars) -> Scalars:
        return self.left + self._positive_root(-self.lam, _values(right))

    def hidden_right(self, left: Scalars) -> Scalars:
        return self._positive_root(self.lam, _values(left)) + self.right


class DeepMultiplier(Multiplier):
    r"""Relaxed balanced deep networks: :math:`m_{kl} = \sum_j α_j(σ_k) β_j(σ_l)`.

    The squared singular value of layer i in direction k is :math:`x_k + c_i`, with
    :math:`\prod_i (x_k + c_i) = σ_k^2`; :math:`α_j = \prod_{i>j}(x + c_i)` and
    :math:`β_j = \prod_{i<j}(x + c_i)`. Domain: all σ ≥ 0.

    Parameters
    ----------
    shifts : OnLayers
        :math:`c_i = λ_1 + … + λ_{i−1}`, so :math:`c_1 = 0`.
    left, right : OnLayers, optional
        :math:`α_j` on ker Zᵀ and :math:`β_j` on ker Z, where these are not {0}.

    References
    ----------
    [MPG]_; balanced: [Arora2018]_.
    """

    def __init__(self, shifts: OnLayers, left: OnLayers = None, right: OnLayers = None) -> None:
        self.shifts: FloatArray = as_own(shifts, "shifts", (None,))
        depth = len(self.shifts)
        if not depth:
            raise InputError("shifts must hold one number per layer, got none")
        ends = np.eye(depth)
        self.left: FloatArray = as_own(ends[-1] if left is None else left, "left", (depth,))
        self.right: FloatArray = as_own(ends[0] if right is None else right, "right", (depth,))

    @door
    def scaled(self, factor: float) -> Self:
        other = factor ** (len(self.shifts) - 1)
        return type(self)(factor * self.shifts, other * self.left, other * self.right)

    @property
    def chain_gaps(self) -> FloatArray:
        return self.shifts - np.min(self.shifts)

    def _squares(self, singular: Scalars) -> OnLayers:
        """Squared singular values of the layers, shape=[..., L]."""
        singular = _values(singular)
        return layer_squares(self.shifts + 0.0 * singular[..., None], singular)

    def _alphas(self, squares: OnLayers) -> OnLayers:
        return self._betas(squares[..., ::-1])[..., ::-1]

    def _betas(self, squares: OnLayers) -> OnLayers:
        products = [gs.ones_like(squares[..., 0])]
        for i in range(len(self.shifts) - 1):
            products.append(products[-1] * squares[..., i])
        return gs.stack(products, axis=-1)

    def pair(self, left: Scalars, right: Scalars) -> Scalars:
        alphas, betas = self._alphas(self._squares(left)), self._betas(self._squares(right))
        return gs.sum(alphas * betas, axis=-1)

    def table(self, singular: Scalars) -> Scalars:
        squares = self._squares(as_array(singular, "singular", (None,)))  # once for all pairs
        alphas, betas = self._alphas(squares), self._betas(squares)
        return gs.sum(alphas[..., :, None, :] * betas[..., None, :, :], axis=-1)

    def hidden_left(self, right: Scalars) -> Scalars:
        return gs.sum(self.left * self._betas(self._squares(right)), axis=-1)

    def hidden_right(self, left: Scalars) -> Scalars:
        return gs.sum(self._alphas(self._squares(left)) * self.right, axis=-1)


class LogarithmicMeanMultiplier(Multiplier):
    r"""Infinite depth: the logarithmic mean of σ_k² and σ_l², whatever λ is.

    :math:`m_{kl} = (σ_k^2 − σ_l^2)/(\log σ_k^2 − \log σ_l^2) = σ_k σ_l \sinh(u)/u` with
    :math:`u = \log(σ_k/σ_l)`, which loses no digits for σ_k → σ_l. Domain: σ > 0.

    References
    ----------
    [MPG]_: :math:`K(Z)[G] = \int_0^1 (ZZ^\top)^{1−s} G (Z^\top Z)^s ds`. That λ drops out is ours,
    until we see it in print.
    """

    def pair(self, left: Scalars, right: Scalars) -> Scalars:
        """Evaluate the logarithmic mean of the squares.

        Raises
        ------
        InputError
            A singular value is zero: X(1) is always invertible.
        """
        left, right = _values(left), _values(right)
        if not (gs.all(left > 0) and gs.all(right > 0)):
            raise InputError("the logarithmic mean needs singular values > 0, got a zero")
        ratio = gs.log(left / right)
        small = abs(ratio) < 0.05
        square = ratio**2
        series = 1.0 + square / 6.0 * (1.0 + square / 20.0 * (1.0 + square / 42.0))
        safe = gs.where(small, gs.ones_like(ratio), ratio)
        return left * right * gs.where(small, series, gs.sinh(safe) / safe)


class HyperbolicMultiplier(Multiplier):
    r"""The two-layer leaf of hyperbolic isotropy: √(σ_k² + a²) + √(σ_l² + a²).

    Parameters
    ----------
    a : float
        With S of spectrum a (n times), −a (m times) and 0. Domain: all σ ≥ 0.

    References
    ----------
    [Tu2024]_, [ZhangPeyre2026]_.
    """

    @door
    def __init__(self, a: float) -> None:
        self.a = float(a)

    def pair(self, left: Scalars, right: Scalars) -> Scalars:
        left, right = _values(left), _values(right)
        return _hypot(self.a, left, left) + _hypot(self.a, right, right)

    @door
    def scaled(self, factor: float) -> Self:
        return type(self)(factor * self.a)


class ScalarMultiplier(Multiplier):
    r"""Two layers of scalar input and output, at any S: √(a² + 4z²).

    Parameters
    ----------
    gap : float
        :math:`a = \sqrt{2‖S‖_F^2 − (\mathrm{tr}\, S)^2}`. Domain: all z.

    References
    ----------
    Ours; every θ₀ is recoverable there.
    """

    @door
    def __init__(self, gap: float) -> None:
        self.gap = float(gap)

    @property
    def chain_gaps(self) -> FloatArray:
        """Those of two weights whose law is a."""
        return np.array([0.0, abs(self.gap)])

    def pair(self, left: Scalars, right: Scalars) -> Scalars:
        return _hypot(self.gap, 2.0 * _values(left), 2.0 * _values(right))

    @door
    def scaled(self, factor: float) -> Self:
        return type(self)(factor * self.gap)
