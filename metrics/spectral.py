"""Spectral cometrics: the closed forms of all linear families."""

import math
from collections.abc import Callable
from functools import cached_property

import autograd
import autograd.numpy as anp
import geomstats.backend as gs
import numpy as np
from autograd.extend import defvjp, primitive
from autograd.tracer import getval

from liftflow.architectures.linear import DeepLinear
from liftflow.doors import door
from liftflow.errors import NotIntrinsicError, NotOnImageError
from liftflow.linalg import RANK_RTOL, over_batch
from liftflow.metrics.cometric import Cometric
from liftflow.metrics.exact import (
    EXACT_RTOL,
    bures_wasserstein_distance,
    chain_distance,
    cone_distance,
)
from liftflow.metrics.multipliers import Multiplier, TwoLayerMultiplier
from liftflow.typing import (
    Covector,
    FloatArray,
    Lifted,
    LiftedTangent,
    OneTheta,
    Scalars,
    Theta,
    as_array,
)

_CLOSE = 1e-5  # relative gap of singular values below which a divided difference is a derivative


def _apply_in_frames(
    z: FloatArray, form: FloatArray, cometric: "SpectralCometric", power: float
) -> LiftedTangent:
    """P (m^power ∘ (PᵀGQ)) Qᵀ, plus the parts in ker Zᵀ and ker Z; their corner is dropped."""
    multiplier, rank = cometric.multiplier, cometric.rank
    left, singular, right_t = np.linalg.svd(z, full_matrices=False)
    left, singular, right_t = left[..., :rank], singular[..., :rank], right_t[..., :rank, :]
    cometric._check_null_spaces(singular)
    left_t, right = np.swapaxes(left, -1, -2), np.swapaxes(right_t, -1, -2)
    rows, columns = z.shape[-2:]
    half, other_half = form @ right, left_t @ form
    inside = left_t @ half
    table = multiplier.table(singular) ** power
    image = left @ (table * inside) @ right_t
    if rows > rank:
        scale = multiplier.hidden_left(singular)[..., None, :] ** power
        rest = half - left @ inside
        rest = rest - left @ (left_t @ rest)  # again: a scale may be large, what is left out not
        image = image + (rest * scale) @ right_t
    if columns > rank:
        scale = multiplier.hidden_right(singular)[..., :, None] ** power
        rest = other_half - inside @ right_t
        rest = rest - (rest @ right) @ right_t
        image = image + left @ (scale * rest)
    return image


def _table(
    multiplier: Multiplier, singular: FloatArray, shape: tuple[int, ...], power: float
) -> FloatArray:
    """m^power for all pairs of left and right directions, hidden ones last."""
    rank, table = singular.size, np.zeros(shape)
    table[:rank, :rank] = multiplier.table(singular) ** power
    if shape[0] > rank:
        table[rank:, :rank] = multiplier.hidden_left(singular) ** power
    if shape[1] > rank:
        table[:rank, rank:] = multiplier.hidden_right(singular)[:, None] ** power
    return table


def _contract(
    outer: FloatArray,
    inner: FloatArray,
    table: FloatArray,
    values: FloatArray,
    inside: Callable[[Scalars, Scalars], Scalars],
    edge: Callable[[Scalars], Scalars],
) -> LiftedTangent:
    """Contract the divided differences of the table in its first argument with two matrices.

    Entry (i, j) is Σ_l outer_il (m_jl − m_il)/(σ_j − σ_i) inner_jl. Where σ_i and σ_j are close
    the quotient is the derivative of ``inside`` (l a direction of Z) or ``edge`` (l in a kernel).
    """
    rank, size = values.size, table.shape[0]
    padded = np.append(values, np.zeros(size - rank))
    gap = padded[None, :] - padded[:, None]
    middle = (values[None, :] + values[:, None]) / 2
    close = np.abs(gap[:rank, :rank]) <= 2 * _CLOSE * middle
    middle = np.where(close, middle, values.max(initial=1.0))
    slope, edge_slope = autograd.elementwise_grad(inside), autograd.elementwise_grad(edge)
    regular = np.where(gap == 0, 1.0, gap)
    result = np.zeros_like(gap)
    for number in range(table.shape[1]):
        quotient = (table[None, :, number] - table[:, None, number]) / regular
        if number < rank:
            tangent = slope(middle, np.full_like(middle, values[number]))
        else:
            tangent = edge_slope(middle)
        quotient[:rank, :rank] = np.where(close, tangent, quotient[:rank, :rank])
        result += outer[:, number][:, None] * quotient * inner[:, number][None, :]
    return result


def _pull_z(
    ans: FloatArray, z: FloatArray, form: FloatArray, cometric: "SpectralCometric", power: float
) -> Callable[[LiftedTangent], Lifted]:
    """Pull back to z by divided differences (Daleckii–Krein): no NaN at equal singular values."""
    multiplier, rank = cometric.multiplier, cometric.rank

    def pull(cotangent: LiftedTangent) -> Lifted:
        arrays = [
            as_array(array, "the derivative of K(z)", differentiable=False)
            for array in (z, form, cotangent)
        ]

        def one(z: FloatArray, form: FloatArray, cotangent: FloatArray) -> LiftedTangent:
            left, singular, right_t = np.linalg.svd(z)
            values = singular[:rank]
            table = _table(multiplier, values, z.shape, power)
            outer, inner = left.T @ cotangent @ right_t.T, left.T @ form @ right_t.T
            first = _contract(
                outer,
                inner,
                table,
                values,
                lambda s, t: multiplier.pair(s, t) ** power,
                lambda s: multiplier.hidden_right(s) ** power,
            )
            second = _contract(
                outer.T,
                inner.T,
                table.T,
                values,
                lambda t, s: multiplier.pair(s, t) ** power,
                lambda t: multiplier.hidden_left(t) ** power,
            )
            pulled = np.zeros(z.shape)
            rows, columns = (np.append(values, np.zeros(n - rank)) for n in z.shape)
            weight = _share(values[None, :], rows[:, None])
            pulled[:, :rank] += weight * (first + first.T)[:, :rank]
            weight = _share(values[:, None], columns[None, :])
            pulled[:rank, :] += weight * (second + second.T)[:rank, :]
            return left @ pulled @ right_t

        return over_batch(one, arrays, [2, 2, 2])

    return pull


def _share(own: FloatArray, other: FloatArray) -> Scalars:
    """Quotient own / (own + other), one half where both are zero."""
    total = own + other
    return np.divide(own, total, out=np.full(total.shape, 0.5), where=total > 0)


_spectral_apply = primitive(_apply_in_frames)
defvjp(
    _spectral_apply,
    _pull_z,
    # K(z) is symmetric, so the pullback to the covector is K(z) again.
    lambda ans, z, form, cometric, power: lambda g: _spectral_apply(z, g, cometric, power),
    argnums=(0, 1),
)


def _singular(z: Lifted) -> Scalars:
    return np.linalg.svd(z, compute_uv=False)


def _pull_singular(ans: Scalars, z: Lifted) -> Callable[[Scalars], Lifted]:
    z = as_array(z, "the derivative of the singular values", differentiable=False)
    left, _, right_t = np.linalg.svd(z, full_matrices=False)

    def pull(cotangent: Scalars) -> Lifted:
        return anp.einsum("...ik,...k,...kj->...ij", left, cotangent, right_t)

    return pull


_singular_values = primitive(_singular)
defvjp(_singular_values, _pull_singular)


def _with_leading_axes(matrix: Lifted, lead: tuple[int, ...]) -> Lifted:
    """Broadcast to leading axes; autograd sums over axes of length 1, but not over new ones."""
    shape = matrix.shape
    matrix = gs.reshape(matrix, (1,) * (len(lead) + 2 - len(shape)) + shape)
    return gs.broadcast_to(matrix, (*lead, *shape[-2:]))


class SpectralCometric(Cometric):
    r"""K(Z)[G] = P (m(σ) ∘ (PᵀGQ)) Qᵀ in the singular vectors of Z = P diag(σ) Qᵀ.

    Everything is entrywise in that basis, so apply, inverse, square root and determinant cost one
    singular value decomposition and a few products, O(nm·min(n, m)). All are batched, and
    differentiable once in z under autograd, also where singular values coincide.

    References
    ----------
    [MPG]_; that all linear families are one is ours.
    """

    architecture: DeepLinear
    _family = DeepLinear

    @door
    def __init__(self, architecture: DeepLinear, theta0: OneTheta, multiplier: Multiplier) -> None:
        super().__init__(architecture, theta0)
        self.multiplier = multiplier
        self.rank = min(architecture.widths)

    def point(self, z: Lifted, *, near: Theta | None = None) -> Theta:
        """Find one point of the fibre over z on the invariant set of θ₀.

        Raises
        ------
        NotIntrinsicError
            As :meth:`apply`.
        """
        z = self._lifted(z, "z", differentiable=False)
        self._check_null_spaces(_singular_values(z)[..., : self.rank])
        near = self.theta0 if near is None else near
        return self.architecture.recover(z, self.laws, near=near)

    def _apply(self, z: Lifted, form: Covector, name: str, power: float) -> LiftedTangent:
        z, form = self._lifted(z, "z"), self._lifted(form, name)
        lead = np.broadcast_shapes(z.shape[:-2], form.shape[:-2])
        if lead:
            z, form = (_with_leading_axes(array, lead) for array in (z, form))
        return _spectral_apply(z, form, self, power)

    def apply(self, z: Lifted, covector: Covector, *, near: Theta | None = None) -> LiftedTangent:
        """Apply K(z) to a covector; nothing is iterated.

        Raises
        ------
        NotIntrinsicError
            The rank of z drops where θ₀ has another value in the hidden directions: M differs along
            the fibre over z, and no K(z) exists.
        """
        return self._apply(z, covector, "covector", 1.0)

    def solve(self, z: Lifted, tangent_vec: LiftedTangent) -> Covector:
        """Apply K(z)⁺; the part of the vector that is not tangent is dropped.

        Raises
        ------
        NotOnImageError
            K(z) is singular on the tangent space: the rank of z drops.
        NotIntrinsicError
            As :meth:`apply`.
        """
        self._check_inverse(self._lifted(z, "z"))
        return self._apply(z, tangent_vec, "tangent_vec", -1.0)

    def sqrt_apply(self, z: Lifted, covector: Covector) -> LiftedTangent:
        """Apply the symmetric square root of K(z)."""
        return self._apply(z, covector, "covector", 0.5)

    def _multipliers(self, singular: Scalars) -> Scalars:
        """Entries of m with their multiplicities, shape=[..., rank * (n + m - rank)]."""
        rows, columns = self.lifted_shape
        lead = singular.shape[:-1]
        inside = self.multiplier.table(singular)
        parts = [gs.reshape(inside, (*lead, self.rank**2))]
        if rows > self.rank:
            parts += [self.multiplier.hidden_left(singular)] * (rows - self.rank)
        if columns > self.rank:
            parts += [self.multiplier.hidden_right(singular)] * (columns - self.rank)
        return gs.concatenate(parts, axis=-1)

    def _without_noise(self, singular: Scalars) -> Scalars:
        """Singular values, those that are rounding errors of z and its decomposition as 0."""
        return gs.where(singular > self._noise * singular[..., :1], singular, 0.0)

    @cached_property
    def _noise(self) -> float:
        """Rounding error of a singular value, relative to the largest."""
        return float(sum(self.architecture.widths) * np.finfo(np.float64).eps)

    @cached_property
    def _negligible(self) -> float:
        """What counts as 0 beside the multipliers at θ₀: the λ that vanish are not quite 0."""
        singular = _singular_values(np.asarray(self.architecture.lift(self.theta0)))
        return RANK_RTOL * float(np.max(self._multipliers(singular[: self.rank])))

    def _check_null_spaces(self, singular: Scalars) -> None:
        """Refuse a z in whose kernels a turn of the layers moves M: they carry several values."""
        singular = getval(singular)
        if np.all(singular[..., -1] > self._noise * singular[..., 0]):
            return
        singular = self._without_noise(singular)
        for values in singular[singular[..., -1] == 0.0]:
            rank = np.count_nonzero(values)
            table = _table(self.multiplier, values, self.lifted_shape, 1.0)
            for kernel, own in (("ker Zᵀ", table[rank:]), ("ker Z", table[:, rank:].T)):
                apart = float(np.max(np.ptp(own, axis=0)))
                if apart > self._negligible:
                    raise NotIntrinsicError(
                        f"no K(z) exists: z has rank {rank}, below {self.rank}, and on {kernel} "
                        "the layers carry several values, which z does not assign to directions: "
                        f"M(θ) differs by up to {apart:.3g} along the fibre over z; stay on "
                        f"matrices of rank {self.rank}, or start from a θ₀ with λ = 0"
                    )

    def _check_image(self, z: Lifted) -> None:
        if self.rank < min(self.lifted_shape):  # else all matrices are
            self.architecture._require_image(getval(_singular_values(z)))

    def _check_inverse(self, z: Lifted) -> None:
        singular = _singular_values(z)
        self.architecture._require_image(getval(singular))
        singular = self._without_noise(singular[..., : self.rank])
        self._check_null_spaces(singular)
        drops = singular[..., -1] == 0.0
        # K may still be invertible.
        if gs.any(drops) and gs.any(
            drops & (gs.amin(self._multipliers(singular), axis=-1) <= self._negligible)
        ):
            raise NotOnImageError(
                f"the rank of z is below {self.rank}, where K(z) is singular and has no inverse "
                "on the tangent space; stay on matrices of full rank",
                0.0,
            )

    def eigenvalues(self, z: Lifted) -> Scalars:
        """Return those on the tangent space, in no order, shape=[..., rank * (n + m - rank)]."""
        return self._multipliers(_singular_values(self._lifted(z, "z"))[..., : self.rank])

    def log_determinant(self, z: Lifted) -> Scalars:
        """Logarithm of the determinant of K(z) on the tangent space.

        Raises
        ------
        NotOnImageError
            The rank of z drops, so that it is −∞.
        """
        z = self._lifted(z, "z")
        self._check_inverse(z)
        return gs.sum(gs.log(self.eigenvalues(z)), axis=-1)

    def trace(self, z: Lifted) -> Scalars:
        """Trace of K(z)."""
        return gs.sum(self.eigenvalues(z), axis=-1)

    def exact_distance(self, point_a: FloatArray, point_b: FloatArray) -> float | None:
        """Distance of two points where a formula is known.

        Numbers are products of a chain, whatever the widths between. For two balanced layers there
        are formulas for rank one and for symmetric positive definite matrices: these are totally
        geodesic among the square ones, and the metric on them is twice that of Bures and
        Wasserstein.
        """
        point_a, point_b = self._ends(point_a, point_b)
        widths, multiplier = self.architecture.widths, self.multiplier
        small = EXACT_RTOL * np.sum(self.theta0**2)
        if isinstance(multiplier, TwoLayerMultiplier) and abs(multiplier.lam) <= small:
            if widths[1] == 1:
                for point in (point_a, point_b):
                    self.architecture._require_image(_singular_values(point))
                return cone_distance(point_a, point_b)
            if len(set(widths)) == 1 and _positive(point_a) and _positive(point_b):
                return math.sqrt(2) * bures_wasserstein_distance(point_a, point_b)
        gaps = multiplier.chain_gaps if self.architecture.lifted_dim == 1 else None
        if gaps is not None:
            # The laws are only known to rounding errors, whose roots are large beside those.
            noise = 8 * np.finfo(np.float64).eps * np.sum(self.theta0**2)
            gaps = np.where(gaps <= noise, 0.0, gaps)
            return chain_distance(gaps, point_a.item(), point_b.item())
        return super().exact_distance(point_a, point_b)


def _positive(matrix: FloatArray) -> bool:
    """Whether a matrix is symmetric, to rounding, and positive definite."""
    symmetric = np.allclose(matrix, matrix.T, rtol=0.0, atol=1e-14 * np.abs(matrix).max())
    return symmetric and bool(np.linalg.eigvalsh(matrix)[0] > 0)
