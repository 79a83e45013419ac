"""The lift and the laws of linear networks, and points where their layers are balanced."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Protocol

import geomstats.backend as gs
import numpy as np
from scipy.sparse.linalg import LinearOperator, cg
from scipy.stats import ortho_group

from liftflow.architectures.maps import LawsMap, SmoothMap
from liftflow.errors import ArchitectureError, NotIntrinsicError
from liftflow.linalg import RANK_RTOL, ROUNDING, over_batch
from liftflow.typing import (
    Block,
    Covector,
    FloatArray,
    IntArray,
    Laws,
    Lifted,
    LiftedTangent,
    Matrix,
    OneLaws,
    Tangent,
    Theta,
    freeze,
)

BALANCE_RTOL = 1e-8
"""Distance of the laws to multiples of I, relative to the layers, that counts as none."""

_ANY = 1e100  # an infinite tolerance, which can be multiplied by zero
_DENSE_LAWS = 50


def transpose(matrix: Block) -> Block:
    """Transpose the last two axes."""
    return matrix.swapaxes(-1, -2)


class Layered(Protocol):
    """A network whose layers are an affine function of θ."""

    dim: int
    n_laws: int
    lifted_shape: tuple[int, ...]
    block_shapes: tuple[tuple[int, ...], ...]
    widths: list[int]
    law_scale: float

    def _layers(self, theta: Theta) -> list[Block]: ...

    def _velocities(self, tangent: Tangent) -> list[Block]: ...

    def _pull_layers(self, covectors: list[Block]) -> Tangent: ...


class MatrixProduct(SmoothMap):
    """The product U_L ⋯ U_1 of the layers of a network."""

    def __init__(self, network: Layered) -> None:
        self.network, self.name = network, f"the lift of {type(network).__name__}"
        self._set_up(network.dim, network.lifted_shape, network.block_shapes)

    def value(self, theta: Theta) -> Lifted:
        return self._prefixes(self.network._layers(theta))[-1]

    @staticmethod
    def _prefixes(layers: list[Block]) -> list[Block]:
        """Products U_i ⋯ U_1 for i = 1, …, L."""
        products = [layers[0]]
        for layer in layers[1:]:
            products.append(layer @ products[-1])
        return products

    def jvp(self, theta: Theta, tangent: Tangent) -> LiftedTangent:
        layers, velocities = self.network._layers(theta), self.network._velocities(tangent)
        return self._moving_prefixes(layers, velocities)[-1][1]

    @staticmethod
    def _moving_prefixes(layers: list[Block], velocities: list[Block]) -> list[tuple[Block, Block]]:
        """Products U_i ⋯ U_1 with their velocities, for i = 1, …, L."""
        products = [(layers[0], velocities[0])]
        for layer, velocity in zip(layers[1:], velocities[1:], strict=True):
            product, speed = products[-1]
            speed = gs.matmul(velocity, product) + gs.matmul(layer, speed)
            products.append((gs.matmul(layer, product), speed))
        return products

    def hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> LiftedTangent:
        layers = self.network._layers(theta)
        speeds_a = self.network._velocities(tangent_a)
        speeds_b = self.network._velocities(tangent_b)
        product, a, b, both = layers[0], speeds_a[0], speeds_b[0], gs.zeros_like(layers[0])
        for layer, own_a, own_b in zip(layers[1:], speeds_a[1:], speeds_b[1:], strict=True):
            both = gs.matmul(layer, both) + gs.matmul(own_a, b) + gs.matmul(own_b, a)
            a = gs.matmul(own_a, product) + gs.matmul(layer, a)
            b = gs.matmul(own_b, product) + gs.matmul(layer, b)
            product = gs.matmul(layer, product)
        return both

    def vjp(self, theta: Theta, covector: Covector) -> Tangent:
        layers = self.network._layers(theta)
        form = covector
        prefixes = [None, *self._prefixes(layers[:-1])]
        lead = np.broadcast_shapes(form.shape[:-2], layers[0].shape[:-2])
        pulled = []
        for layer, prefix in zip(reversed(layers), reversed(prefixes), strict=True):
            own = form if prefix is None else form @ transpose(prefix)
            shape = (*lead, *own.shape[-2:])
            pulled.append(own if own.shape == shape else gs.broadcast_to(own, shape))
            form = transpose(layer) @ form
        return self.network._pull_layers(pulled[::-1])

    def hvp(self, theta: Theta, tangent: Tangent, covector: Covector) -> Tangent:
        theta, tangent = gs.broadcast_arrays(theta, tangent)
        layers, velocities = self.network._layers(theta), self.network._velocities(tangent)
        form = covector
        lead = np.broadcast_shapes(form.shape[:-2], theta.shape[:-1])
        turned = [[transpose(each) for each in part[::-1]] for part in (layers, velocities)]
        before = [None, *self._moving_prefixes(layers, velocities)[:-1]]
        after = [None, *self._moving_prefixes(*turned)[:-1]][::-1]
        pulled = []
        for left, right in zip(after, before, strict=True):
            terms = []
            if left is not None:  # (U_L ⋯ U_{i+1})ᵀ moves
                own = gs.matmul(left[1], form)
                terms.append(own if right is None else gs.matmul(own, transpose(right[0])))
            if right is not None:  # (U_{i−1} ⋯ U_1)ᵀ moves
                own = gs.matmul(form, transpose(right[1]))
                terms.append(own if left is None else gs.matmul(left[0], own))
            pulled.append(gs.broadcast_to(sum(terms), (*lead, *terms[0].shape[-2:])))
        return self.network._pull_layers(pulled)


class BalanceLaws(LawsMap):
    r"""Upper triangles of the matrices :math:`S_i = U_{i+1}^\top U_{i+1} − U_i U_i^\top`."""

    def __init__(self, network: Layered) -> None:
        self.network, self.scale = network, network.law_scale
        self.name = f"the laws of {type(network).__name__}"
        self._set_up(network.dim, (network.n_laws,), network.block_shapes)

    def matrices(self, theta: Theta) -> list[Block]:
        """Evaluate the matrices S_i, times the scale of the laws."""
        grams = [
            (gs.matmul(transpose(after), after), gs.matmul(before, transpose(before)))
            for before, after in pairwise(self.network._layers(theta))
        ]
        return [self.scale * (inner - outer) for inner, outer in grams]

    def value(self, theta: Theta) -> Laws:
        return _upper(self.matrices(theta))

    def jvp(self, theta: Theta, tangent: Tangent) -> Laws:
        return self._polar(self.network._layers(theta), self.network._velocities(tangent))

    def hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> Laws:
        """Second derivative ∂²h[v, w] of the laws, the same at every θ."""
        return self._polar(*map(self.network._velocities, (tangent_a, tangent_b)))

    def _polar(self, first: list[Block], second: list[Block]) -> Laws:
        """Twice the symmetric bilinear form whose quadratic form of the layers is h."""
        halves = [
            gs.matmul(transpose(second[i + 1]), first[i + 1])
            - gs.matmul(second[i], transpose(first[i]))
            for i in range(len(first) - 1)
        ]
        return _upper([self.scale * (half + transpose(half)) for half in halves])

    def terms(self, theta: Theta, tangent: Tangent | None = None) -> Laws:
        """Size of the terms of h(θ), or of ∂h(θ) v: that of the two layers next to each S_i."""
        norms = _squares(self.network._layers(theta))
        if tangent is not None:
            moved = _squares(self.network._velocities(tangent))
            norms = [np.sqrt(a) * np.sqrt(b) for a, b in zip(norms, moved, strict=True)]
        sizes = np.stack([before + after for before, after in pairwise(norms)], axis=-1)
        counts = [size * (size + 1) // 2 for size in self.network.widths[1:-1]]
        return self.scale * np.repeat(sizes, counts, axis=-1)

    def split(self, laws: OneLaws) -> list[FloatArray]:
        """Rebuild the matrices S_i, without the scale, from the flat laws."""
        matrices, start = [], 0
        for size in self.network.widths[1:-1]:
            count = size * (size + 1) // 2
            matrix = np.zeros((size, size))
            matrix[np.triu_indices(size)] = laws[start : start + count] / self.scale
            matrices.append(matrix + np.triu(matrix, 1).T)
            start += count
        return matrices

    def solve(self, theta: Theta, tangent: Laws) -> Tangent:
        r"""Solve ∂h(θ) v = w for the shortest v, by Lyapunov equations.

        v moves the layers by :math:`V_i = U_i N_{i-1} − N_i U_i`, with symmetric N_i such that

        .. math::

            A_i N_i + N_i A_i − 2 U_{i+1}^\top N_{i+1} U_{i+1} − 2 U_i N_{i-1} U_i^\top = W_i, \quad
            A_i = U_{i+1}^\top U_{i+1} + U_i U_i^\top.

        With one hidden layer only the first two terms are there, and the eigenvectors of A solve
        it. With several, few laws are solved for densely; many by conjugate gradients, which the
        first two terms precondition.
        """
        if len(self.network.widths) > 3 and self.size <= _DENSE_LAWS:
            return super().solve(theta, tangent)
        return over_batch(self._solve, [theta, tangent], [1, 1])

    def _solve(self, theta: FloatArray, tangent: FloatArray) -> Tangent:
        layers, right = self.network._layers(theta), self.split(tangent)
        grams = [after.T @ after + before @ before.T for before, after in pairwise(layers)]
        spectra = [np.linalg.eigh(gram) for gram in grams]

        def precondition(sides: list[FloatArray]) -> list[FloatArray]:
            return [_lyapunov(*pair, side) for pair, side in zip(spectra, sides, strict=True)]

        def apply(inner: list[FloatArray]) -> list[FloatArray]:
            halves = [gram @ own for gram, own in zip(grams, inner, strict=True)]
            for i, between in enumerate(layers[1:-1]):
                halves[i] -= between.T @ inner[i + 1] @ between
                halves[i + 1] -= between @ inner[i] @ between.T
            return [half + half.T for half in halves]

        solved = precondition(right)
        if len(layers) > 2:
            size = sum(side.size for side in right)
            operator, inverse = (
                LinearOperator(
                    (size, size), lambda x, f=f: _ravel(f(_unravel(x, right))), dtype=np.float64
                )
                for f in (apply, precondition)
            )
            flat, failed = cg(operator, _ravel(right), _ravel(solved), rtol=1e-15, M=inverse)
            if failed:  # dependent laws, or nearly so
                return super().solve(theta, tangent)
            solved = _unravel(flat, right)
        steps = [-own @ layer for own, layer in zip(solved, layers[:-1], strict=True)]
        steps.append(np.zeros_like(layers[-1]))
        for i, own in enumerate(solved):
            steps[i + 1] += layers[i + 1] @ own
        # The layers are θ times a constant, whose square the laws are scaled back by.
        return np.sqrt(self.scale) * self.network._pull_layers(steps)


def read_balance(
    matrices: list[FloatArray],
    means: FloatArray,
    sizes: FloatArray,
    tolerance: float,
    noise: FloatArray | float,
) -> FloatArray:
    """Read λ_1, …, λ_{L−1} off symmetric matrices with these means of eigenvalues."""
    lams = np.where(np.abs(means) > ROUNDING * sizes + noise, means, 0.0)
    bounds = np.broadcast_to(min(tolerance, _ANY) * sizes + noise, lams.shape)
    for number, (matrix, lam, bound) in enumerate(zip(matrices, lams, bounds, strict=True)):
        distance = float(np.linalg.norm(matrix - lam * np.eye(len(matrix))))
        if not distance <= bound:
            spectrum = show_spectrum(matrix)
            raise NotIntrinsicError(
                f"S_{number + 1} is not a multiple of I, so θ₀ is not relaxed balanced: "
                f"spectrum {spectrum}, ‖S − λI‖ = {distance:.3g} with λ = {lam:.3g}, expected "
                f"at most {bound:.1e}; balanced_point(lam, rng) makes a balanced one"
            )
    return lams


def hidden_values(
    widths: Sequence[int], layers: list[FloatArray], product: FloatArray, tolerance: float
) -> tuple[FloatArray, FloatArray]:
    """Read from θ what z does not tell, as :meth:`DeepLinear.hidden_values` says."""
    prefixes = [np.eye(widths[0]), *MatrixProduct._prefixes(layers)[:-1]]
    suffixes = [np.eye(widths[-1])]
    for layer in layers[:0:-1]:
        suffixes.insert(0, suffixes[0] @ layer)
    left, singular, right_t = np.linalg.svd(product)
    # A rank drop at θ makes the kernels larger; what is read there must still be one value.
    rank = min(*widths, int(np.sum(singular > RANK_RTOL * singular.max(initial=0.0))))
    alphas, betas = np.eye(len(layers))[[-1, 0]]
    squares, tolerance = np.array([np.sum(layer**2) for layer in layers]), min(tolerance, _ANY)
    if widths[-1] > min(widths):
        for j, suffix in enumerate(suffixes):
            bound = tolerance * np.prod(squares[j + 1 :])
            alphas[j] = _one_value(widths, left[:, rank:].T @ suffix, bound, "ker Zᵀ")
    if widths[0] > min(widths):
        for j, prefix in enumerate(prefixes):
            bound = tolerance * np.prod(squares[:j])
            betas[j] = _one_value(widths, right_t[rank:] @ prefix.T, bound, "ker Z")
    return alphas, betas


def _one_value(widths: Sequence[int], rows: FloatArray, bound: float, kernel: str) -> float:
    """The one eigenvalue of rows rowsᵀ, or NotIntrinsicError with its spectrum."""
    gram = rows @ rows.T
    value = float(np.trace(gram)) / len(gram)
    if not np.linalg.norm(gram - value * np.eye(len(gram))) <= bound:
        spectrum = show_spectrum(gram)
        raise NotIntrinsicError(
            f"ambiguous hidden directions: on {kernel} the layers next to it have the squared "
            f"singular values {spectrum}, and z does not tell which direction carries which, "
            f"so the kernel inclusion fails (widths {widths}; two layers: λ ≠ 0 needs r "
            "not strictly between min(n, m) and max(n, m), and z of full rank)"
        )
    return value


def balanced_layers(
    widths: Sequence[int],
    squares: FloatArray,
    lams: FloatArray,
    frames: list[FloatArray],
    noise: float = 0.0,
) -> list[FloatArray]:
    """Make layers with S_i = λ_i I and squared singular values ``squares``, shape=[rank, L].

    Column k of each frame is direction k of the product; the columns beyond those of the
    product are hidden. A hidden direction carries a squared singular value from layer to
    layer, starts at 0 where it is born, and must end at 0 or at the output. What is below
    the rounding errors of the squares, or of the λ (``noise``), is 0.
    """
    rank, layers = len(squares), []
    tiny = ROUNDING * (np.max(squares) + np.abs(layer_shifts(lams)).max()) + noise
    hidden = _hidden_squares(widths, rank, lams, tiny)  # squared values of the layer to come
    for i, (n_in, n_out) in enumerate(pairwise(widths)):
        carried = np.flatnonzero(hidden > 0)
        if carried.size > n_out - rank:
            raise ArchitectureError(
                f"no relaxed balanced point: λ_{i} = {lams[i - 1]:g} > 0 needs layer {i + 1} "
                f"to have full column rank, so widths[{i + 1}] ≥ widths[{i}] (two layers: "
                f"r ≤ n); got widths {widths}"
            )
        middle = np.zeros((n_out, n_in))
        middle[range(rank), range(rank)] = squares[:, i]
        middle[rank + np.arange(carried.size), rank + carried] = hidden[carried]
        layers.append(frames[i + 1] @ np.sqrt(middle) @ frames[i].T)
        if i < len(lams):
            arrived = np.zeros(n_out - rank)
            arrived[: carried.size] = hidden[carried]
            hidden = arrived + lams[i]
            hidden[np.abs(hidden) < tiny] = 0.0
            if np.any(hidden < 0):
                raise ArchitectureError(
                    f"no relaxed balanced point: λ_{i + 1} = {lams[i]:g} < 0 needs layer "
                    f"{i + 1} to have full row rank, so widths[{i}] ≥ widths[{i + 1}] (two "
                    f"layers: r ≤ m); got widths {widths}"
                )
    return layers


def _hidden_squares(widths: Sequence[int], rank: int, lams: FloatArray, tiny: float) -> FloatArray:
    """Squared singular values of the first layer on hidden directions of the input.

    Such a direction has the squares y + c_i, and must be at 0 where the widths leave it no
    room to go on: at layer j, if y = −c_j. It goes as far as it can.
    """
    shifts = layer_shifts(lams)
    squares = np.zeros(widths[0] - rank)
    going = min(widths[0], widths[1]) - rank
    born = np.zeros(0)  # squares of the directions that began later, at 0
    for j, width in enumerate(widths[1:]):
        room = width - rank
        born = born[born > tiny]
        stay = max(0, min(going, room - born.size))
        squares[stay:going] = max(0.0, -shifts[j])
        going = stay
        if j < len(lams):
            born = lams[j] + np.append(born, np.zeros(max(0, room - going - born.size)))
    return squares


def scalar_gram(z: float, matrix: FloatArray) -> FloatArray:
    """WWᵀ of two vectors with product z and uuᵀ − vvᵀ of this trace and norm."""
    trace = float(np.trace(matrix))
    total = np.sqrt(max(2 * float(np.sum(matrix**2)) - trace**2, 0.0) + 4 * z**2)
    return np.array([[(total + trace) / 2, z], [z, (total - trace) / 2]])


def hyperbolic_gram(z: FloatArray, a: float) -> FloatArray:
    """WWᵀ = [[(ZZᵀ + a²)^½, Z], [Zᵀ, (ZᵀZ + a²)^½]] of the leaf of hyperbolic isotropy."""
    left, singular, right_t = np.linalg.svd(z)
    rows, columns = (np.append(singular, np.zeros(n - singular.size)) for n in z.shape)
    upper = (left * np.hypot(rows, a)) @ left.T
    lower = (right_t.T * np.hypot(columns, a)) @ right_t
    return np.block([[upper, z], [z.T, lower]])


def square_root(matrix: FloatArray) -> Matrix:
    """Square root of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def mean_eigenvalues(matrices: list[FloatArray]) -> FloatArray:
    """Mean λ of the eigenvalues of symmetric matrices."""
    return np.array([np.trace(matrix) / len(matrix) for matrix in matrices])


def _upper(matrices: list[Block]) -> Laws:
    """Upper triangles of symmetric matrices, flat and joined."""
    flat = [matrix.reshape(*matrix.shape[:-2], matrix.shape[-1] ** 2) for matrix in matrices]
    sizes = tuple(matrix.shape[-1] for matrix in matrices)
    return gs.concatenate(flat, axis=-1)[..., _upper_places(sizes)]


@cache
def _upper_places(sizes: tuple[int, ...]) -> IntArray:
    """Places of upper triangles among the entries of square matrices, flat and joined."""
    starts = np.cumsum([0, *(size**2 for size in sizes[:-1])])
    places = [
        start + np.ravel_multi_index(np.triu_indices(size), (size, size))
        for start, size in zip(starts, sizes, strict=True)
    ]
    return freeze(np.concatenate(places))


def _squares(layers: list[Block]) -> list[Block]:
    return [np.sum(layer**2, axis=(-2, -1)) for layer in layers]


def _ravel(matrices: Sequence[FloatArray]) -> FloatArray:
    return np.concatenate([matrix.ravel() for matrix in matrices])


def _unravel(flat: FloatArray, like: Sequence[FloatArray]) -> list[FloatArray]:
    parts = np.split(flat, np.cumsum([matrix.size for matrix in like])[:-1])
    return [part.reshape(matrix.shape) for part, matrix in zip(parts, like, strict=True)]


def _lyapunov(values: FloatArray, vectors: FloatArray, right: FloatArray) -> Matrix:
    """Solve A N + N A = ``right`` in the eigenvectors of A ≥ 0, least squares where singular."""
    sums = values[:, None] + values[None, :]
    regular = sums > RANK_RTOL * sums.max(initial=0.0)
    inner = np.divide(vectors.T @ right @ vectors, sums, out=np.zeros_like(sums), where=regular)
    return vectors @ inner @ vectors.T


def eigenspaces(matrix: FloatArray, gap: float) -> list[FloatArray]:
    """Orthonormal bases of the eigenspaces of a symmetric matrix, shape=[n, multiplicity] each."""
    values, vectors = np.linalg.eigh(matrix)
    ends = np.flatnonzero(np.diff(values) > gap) + 1
    return np.split(vectors, ends, axis=1)


def layer_shifts(lams: FloatArray) -> FloatArray:
    """Return the constants c_i = λ_1 + … + λ_{i−1} of the layers i = 1, …, L."""
    return np.concatenate([[0.0], np.cumsum(lams)])


def show_spectrum(matrix: FloatArray) -> str:
    """Write down the eigenvalues of a symmetric matrix, to four digits each."""
    values = np.linalg.eigvalsh(matrix)
    return np.array2string(values, formatter={"float_kind": "{:.4g}".format})


def random_orthogonal(size: int, rng: np.random.Generator) -> FloatArray:
    """Draw an orthogonal matrix by Haar measure."""
    if size == 1:
        return rng.choice([-1.0, 1.0], size=(1, 1))
    return np.asarray(ortho_group.rvs(size, random_state=rng))
