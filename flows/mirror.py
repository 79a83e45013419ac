r"""Mirror flows: intrinsic flows whose metric is the Hessian of a potential.

:math:`ż = −K ∇f` reads :math:`\frac{d}{dt} ∇Φ(z) = −∇f(z)` iff :math:`K^{-1} = ∇^2 Φ`. A warped
mirror flow has :math:`ω K^{-1} = ∇^2 Φ` with a scalar ω(z) > 0, and
:math:`\frac{d}{dt} ∇Φ(z) = −ω(z) ∇f(z)`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.integrate import quad
from scipy.special import elliprf

from liftflow.architectures import ReLUNetwork
from liftflow.doors import Guarded, door
from liftflow.errors import ArchitectureError, NotRecoverableError
from liftflow.flows.hessian import chart_metric_matrix as chart_metric_matrix
from liftflow.flows.hessian import is_hessian_metric as is_hessian_metric
from liftflow.flows.hessian import is_warped_hessian_metric as is_warped_hessian_metric
from liftflow.linalg import over_batch, shifted_product_root
from liftflow.typing import (
    Covector,
    FloatArray,
    Inputs,
    Lifted,
    LiftedMatrix,
    OneTheta,
    Scalars,
    as_array,
    freeze,
    refuse_beyond,
)

_LAW_RTOL = 1e-14
"""Squares of weights that differ by this fraction of |θ₀|² are equal: the laws say no more."""


class MirrorPotential(Guarded, ABC):
    """A potential Φ of z, its mirror map ∇Φ, and its Hessian ω K⁻¹.

    Parameters
    ----------
    theta0 : OneTheta
        Enters through its conservation laws.
    """

    @door
    def __init__(self, network: ReLUNetwork, theta0: OneTheta) -> None:
        self.network = network
        theta0 = as_array(theta0, "theta0", (network.dim,), batch=False, differentiable=False)
        self.laws: FloatArray = freeze(np.asarray(network.conservation_laws(theta0)))

    def _facts(self) -> str:
        return repr(self.network)

    def _lifted(self, z: Any) -> FloatArray:
        return as_array(z, "z", self.network.lifted_shape, differentiable=False)

    @abstractmethod
    def value(self, z: Lifted) -> Scalars:
        """Evaluate the potential Φ(z)."""

    @abstractmethod
    def gradient(self, z: Lifted) -> Covector:
        """Evaluate the mirror map ∇Φ(z)."""

    @abstractmethod
    def hessian(self, z: Lifted) -> LiftedMatrix:
        """Evaluate ∇²Φ(z) = ω(z) K(z)⁻¹."""

    def warping(self, z: Lifted) -> Scalars:
        """Evaluate ω(z), which is 1 for a mirror flow that is not warped."""
        return np.ones(self._lifted(z).shape[:-1])


class DiagonalPotential(MirrorPotential):
    r"""Potential of a diagonal network of any depth L, for any laws.

    Each path is a chain of weights with squares :math:`x + c_i`, where the laws fix the shifts
    :math:`c_i` and :math:`\prod_i (x + c_i) = z^2`. So :math:`K = z^2 \sum_i (x + c_i)^{-1}`,
    :math:`dz/K = dx/2z`, and with an x₀ that depends on the laws alone

    .. math:: Φ'(z) = \frac{1}{2} \int_{x_0}^{x(z)} \frac{dt}{\sqrt{\prod_i (t + c_i)}}, \qquad
        Φ(z) = z Φ'(z) − \frac{x(z) − x(0)}{2},

    which makes the conjugate potential half the square of the first weight, up to a constant.
    Depth 2: :math:`Φ' = \frac{1}{2} \operatorname{arcsinh}(2z/|h|)`, or
    :math:`\frac{1}{2} \operatorname{sign}(z) \log|z|` for h = 0. Balanced, depth L > 2:
    :math:`Φ' = −\operatorname{sign}(z) |z|^{2/L−1}/(L−2)`. Depth 3 and 4: an elliptic integral,
    in Carlson's form. Deeper and not balanced: a hyperelliptic integral, which has no closed form
    and is computed by quadrature to a relative error of about 1e-12.

    Parameters
    ----------
    network : ReLUNetwork
        ``ReLUNetwork.diagonal(n, depth)``, or any disjoint chains.

    Raises
    ------
    ArchitectureError
        Two paths share an edge.

    Notes
    -----
    Where one shift is the least, Φ' is odd and Φ'(0) = 0. Where several are equal and least,
    several weights of the chain vanish with z: K(0) = 0, and Φ' has a pole or a logarithm at 0,
    which divides the half-lines z < 0 and z > 0.

    References
    ----------
    Depth 2: [Woodworth2020]_; the general depth is ours.
    """

    def __init__(self, network: ReLUNetwork, theta0: OneTheta) -> None:
        super().__init__(network, theta0)
        paths = network.paths()
        edges = [edge for path in paths for edge in pairwise(path)]
        if len(edges) != len(set(edges)):
            raise ArchitectureError(
                "this potential is for disjoint paths, as in ReLUNetwork.diagonal(n, depth); got "
                f"{len(paths)} paths that share {len(edges) - len(set(edges))} edges"
            )
        laws = dict(zip(network.hidden, self.laws, strict=True))
        shifts = [-np.cumsum([0.0, *(laws[node] for node in path[1:-1])]) for path in paths]
        # Gaps to the least shift, sorted: the first is 0.
        gaps = [np.sort(shift - shift.min()) for shift in shifts]
        noise = _LAW_RTOL * np.sum(as_array(theta0, "theta0") ** 2)
        self._gaps = [np.where(gap > noise, gap, 0.0) for gap in gaps]

    def _along_paths(
        self, function: Callable[[FloatArray, FloatArray], FloatArray], z: Any
    ) -> FloatArray:
        """Apply a function of (gaps, entries of z) path by path, shape=[..., n_paths]."""
        z = self._lifted(z)
        return np.stack([function(gaps, z[..., i]) for i, gaps in enumerate(self._gaps)], axis=-1)

    @staticmethod
    def _excess(gaps: FloatArray, z: FloatArray) -> FloatArray:
        """The least square of a weight of the chain, x + min c, shape=[...]."""
        return np.asarray(shifted_product_root(gaps, z**2))[..., 0]

    def value(self, z: Lifted) -> Scalars:
        """Evaluate Φ(z) = Σ_p (z_p Φ'(z_p) − (x(z_p) − x(0))/2)."""
        excess = self._along_paths(self._excess, z)
        return np.sum(self._lifted(z) * self.gradient(z) - excess / 2.0, axis=-1)

    def gradient(self, z: Lifted) -> Covector:
        """Evaluate the mirror map, path by path.

        Raises
        ------
        NotRecoverableError
            z = 0 on a path with several equal and least squares.
        """
        return self._along_paths(_chain_mirror_map, z)

    def hessian(self, z: Lifted) -> LiftedMatrix:
        """Evaluate ∇²Φ(z) = K(z)⁻¹, a diagonal matrix."""

        def cometric(gaps: FloatArray, z: FloatArray) -> FloatArray:
            squares = gaps + self._excess(gaps, z)[..., None]
            return sum(np.prod(np.delete(squares, i, axis=-1), -1) for i in range(len(gaps)))

        refuse_beyond(float(self.network.n_paths) ** 2, "a dense Hessian")
        return np.eye(self.network.n_paths) / self._along_paths(cometric, z)[..., None, :]


def _chain_mirror_map(gaps: FloatArray, z: FloatArray) -> FloatArray:
    """Φ'(z) = ½ ∫ dt/√∏(t + d_i), up to the excess of the squares at z, by the cheapest form."""
    depth, from_zero = len(gaps), not np.any(gaps[1:] == 0.0)
    if depth == 1:
        return z  # an edge of its own, K = 1
    excess = DiagonalPotential._excess(gaps, z)
    if not from_zero and not np.all(excess > 0.0):
        raise NotRecoverableError(
            "z = 0 on a path whose smallest weights are equal: they vanish together, and the "
            "mirror map is not defined there"
        )
    if not np.any(gaps):
        size = np.abs(z)
        half = np.log(size) / 2 if depth == 2 else -(size ** (2 / depth - 1)) / (depth - 2)
    elif depth <= 4:
        half = _carlson(gaps, excess, from_zero)
    else:
        half = over_batch(lambda e: np.asarray(_quadrature(gaps, float(e))), [excess], [0])
    return np.sign(z) * half


def _carlson(gaps: FloatArray, excess: FloatArray, from_zero: bool) -> FloatArray:
    """The integral from 0 to the excess, or minus that from there to infinity, as an R_F.

    DLMF 19.29.4 with its two factors 1 where the chain has less than four weights.
    """
    roots = np.sqrt(gaps + excess[..., None])
    ones = np.ones((*excess.shape, 4 - len(gaps)))
    one, two, three, four = np.moveaxis(np.concatenate([roots, ones], axis=-1), -1, 0)
    if from_zero:
        _, b, c, d = np.append(np.sqrt(gaps), np.ones(4 - len(gaps)))
        pairs = (two * c * d, three * b * d, four * b * c)
        return np.sqrt(excess) * elliprf(*(pair**2 for pair in pairs))
    if len(gaps) == 3:
        return -elliprf(one**2, two**2, three**2)
    pairs = (one * two + three * four, one * three + two * four, one * four + two * three)
    return -elliprf(*(pair**2 for pair in pairs))


def _quadrature(gaps: FloatArray, excess: float) -> float:
    """The same integral at any depth, in a variable in which the integrand is smooth."""
    second, others, depth = gaps[1], gaps[2:], len(gaps)

    def rising(w: float) -> Any:  # t = d₂ sinh² w takes the singularity at 0 away
        return np.prod(others + second * np.sinh(w) ** 2) ** -0.5

    def tail(w: float) -> Any:  # t = excess / w² takes infinity to 0
        return np.prod(gaps * w**2 + excess) ** -0.5 * excess * w ** (depth - 3)

    integrand, end = tail, 1.0
    if second > 0.0:
        integrand, end = rising, np.arcsinh(np.sqrt(excess / second))
    integral = quad(integrand, 0.0, end, epsabs=0.0, epsrel=1e-12, limit=200)[0]
    return float(integral if second > 0.0 else -integral)


class NeuronPotential(MirrorPotential):
    r"""Warped potential of one neuron with vector input and one output, z = u v.

    With δ = v² − |u|² and ρ = |z| = |u||v|, K = v² I + zzᵀ/v² is not the inverse of a Hessian
    (unless there is one input), but :math:`ω K^{-1} = ∇^2 Φ` with

    .. math:: ω(z) = |v|, \qquad ∇Φ(z) = \operatorname{sign}(v)\, u = |u|\, z/ρ, \qquad
        Φ(z) = |u|^2 |v| − \tfrac{1}{3}(|v|^3 − |v_0|^3),

    where :math:`v^2 = (δ + \sqrt{δ^2 + 4ρ^2})/2` and v₀ is its value at ρ = 0: the mirror map is
    the weight vector itself, and the warping the weight that multiplies its gradient. For δ = 0,
    :math:`Φ = \frac{2}{3} ρ^{3/2}` and :math:`ω = \sqrt{ρ}`.

    Parameters
    ----------
    network : ReLUNetwork
        ``ReLUNetwork.from_widths([n, 1, 1])``.

    Raises
    ------
    ArchitectureError
        Another network.

    References
    ----------
    [Azulay2021]_; that ∇Φ and ω are the weights is ours.
    """

    def __init__(self, network: ReLUNetwork, theta0: OneTheta) -> None:
        super().__init__(network, theta0)
        chain = [(node, *network.hidden, *network.outputs) for node in network.inputs]
        if len(network.hidden) != 1 or sorted(network.paths()) != sorted(chain):
            raise ArchitectureError(
                "this potential is for ReLUNetwork.from_widths([n, 1, 1]), without biases or "
                f"skips; got {network.n_hidden} hidden nodes and {network.n_paths} paths"
            )

    def _squares(self, z: Any) -> tuple[FloatArray, FloatArray, FloatArray]:
        """z, |u|² and v², the latter two shape=[...]."""
        z = self._lifted(z)
        squares = shifted_product_root(np.array([0.0, -self.laws[0]]), np.sum(z**2, axis=-1))
        u, v = np.moveaxis(np.asarray(squares), -1, 0)
        if not np.all(v > 0.0):
            raise NotRecoverableError(
                "z = 0 where v vanishes with it: the warped potential is not smooth there"
            )
        return z, u, v

    def value(self, z: Inputs) -> Scalars:
        """Evaluate Φ(z), zero at the origin."""
        _, u, v = self._squares(z)
        start = max(-self.laws[0], 0.0)
        return u * np.sqrt(v) - (v**1.5 - start**1.5) / 3.0

    def gradient(self, z: Inputs) -> Inputs:
        """Evaluate the mirror map ∇Φ(z) = sign(v) u."""
        z, _, v = self._squares(z)
        return z / np.sqrt(v)[..., None]

    def hessian(self, z: Inputs) -> LiftedMatrix:
        """Evaluate ∇²Φ(z) = ω K⁻¹ = (I − zzᵀ/(v²(|u|² + v²)))/|v|."""
        z, u, v = self._squares(z)
        outer = z[..., :, None] * z[..., None, :] / (v * (u + v))[..., None, None]
        return (np.eye(z.shape[-1]) - outer) / np.sqrt(v)[..., None, None]

    def warping(self, z: Inputs) -> Scalars:
        """Evaluate ω(z) = |v|."""
        return np.sqrt(self._squares(z)[2])
