"""Numerical pieces shared by all rooms: batches, constant sparse maps, monotone roots."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from sys import getrefcount
from threading import Lock
from typing import Any

import geomstats.backend as gs
import numpy as np
from autograd.extend import defjvp, defvjp, primitive
from autograd.tracer import getval, isbox
from scipy.linalg import qr
from scipy.linalg.blas import dnrm2
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import LinearOperator, lsmr
from typing_extensions import TypeAliasType

from liftflow.errors import NotFiniteError, ShapeError
from liftflow.typing import FloatArray, IntArray, OneTangent, OneTheta, Scalars, Tangent

RANK_RTOL = 1e-10
"""Singular values below this fraction of the largest count as zero."""

ROUNDING = 1e-14
"""What is left of terms that cancel, relative to their size, where rounding is all there is."""

WHOLE = 1e-9
"""Distance to an integer that is rounding, of what is one or far from it."""

_ROUNDING = 1e-13  # rows below this fraction of the largest are what cancellation left of 0


def over_batch(
    function: Callable[..., FloatArray],
    arrays: Sequence[FloatArray],
    core_ndims: Sequence[int],
    shape: tuple[int, ...] | None = None,
) -> FloatArray:
    """Apply ``function`` along the broadcast leading axes of ``arrays``, one item at a time.

    Parameters
    ----------
    core_ndims : sequence of int
        Number of trailing axes that belong to one item of each array.
    shape : tuple of int, optional
        Shape of one result, for a batch of none; by default that of an item of the first array.
    """
    leads = [a.shape[: a.ndim - n] for a, n in zip(arrays, core_ndims, strict=True)]
    try:
        lead = np.broadcast_shapes(*leads) if any(leads) else ()
    except ValueError as error:
        raise ShapeError(f"the leading axes of the arrays do not fit together: {error}") from error
    if not lead:
        result = np.asarray(function(*arrays))
        # As with a batch, what is given back is the caller's, and none of what he gave.
        own = result.base is None and not any([result is a for a in arrays])
        shared = not own and any(np.may_share_memory(result, a) for a in arrays)
        return result.copy() if shared else result
    size = math.prod(lead)  # not −1, which an item without entries leaves open
    if size == 0:
        core = arrays[0].shape[len(leads[0]) :] if shape is None else shape
        return np.zeros((*lead, *core))
    flat = [
        np.broadcast_to(a, lead + a.shape[len(own) :]).reshape(size, *a.shape[len(own) :])
        for a, own in zip(arrays, leads, strict=True)
    ]
    results = np.stack([function(*items) for items in zip(*flat, strict=True)])
    return results.reshape(lead + results.shape[1:])


class Spare:
    """Large arrays that are used again as soon as nobody else holds them.

    New memory is handed out page by page, which takes as long as several passes over it.

    Parameters
    ----------
    most : int
        How many are kept.
    """

    def __init__(self, most: int = 4) -> None:
        self.most = most
        self._arrays: list[FloatArray] = []
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["Spare"], tuple[int]]:
        """Pickle and copy as an empty one."""
        return Spare, (self.most,)

    def empty(self, size: int) -> FloatArray:
        """Return a vector of any content, which is the caller's own."""
        with self._lock:
            for array in self._arrays:
                # Held by the list, by this loop, and by the call that counts.
                if array.size == size and getrefcount(array) == 3:
                    return array
            array = np.empty(size)
            if len(self._arrays) < self.most:
                self._arrays.append(array)
            return array

    def copy(self, vector: FloatArray) -> FloatArray:
        """Return a copy of a vector, which is the caller's own."""
        result = self.empty(vector.size)
        np.copyto(result, vector)
        return result


def lengths(vectors: FloatArray) -> Scalars:
    """Euclidean norms along the last axis, which neither under- nor overflow on the way."""
    if vectors.ndim == 1 and vectors.size:
        return np.asarray(dnrm2(vectors))
    unit = units(np.max(np.abs(vectors), axis=-1, initial=0.0, keepdims=True))
    return np.linalg.norm(vectors / unit, axis=-1) * unit[..., 0]


def inner(a: Tangent, b: Tangent) -> Scalars:
    """Inner products along the last axis; of two plain vectors by BLAS."""
    if type(a) is np.ndarray and type(b) is np.ndarray and a.ndim == b.ndim == 1:
        return a.dot(b)
    return (a * b).sum(axis=-1)


def is_squarable(sizes: Scalars) -> bool:
    """Whether no square of some sizes, which are not negative, can under- or overflow."""
    if sizes.size and sizes.min() == 0:
        sizes = sizes[sizes > 0]
    return sizes.size == 0 or bool(sizes.min() > 1e-140 and sizes.max() < 1e140)


def units(sizes: Scalars) -> Scalars:
    """Find powers of two of the order of some sizes: dividing by them rounds nothing.

    It is 1 where a size is 0 or not finite.
    """
    regular = (sizes > 0) & np.isfinite(sizes)
    return np.ldexp(1.0, np.frexp(np.where(regular, sizes, 1.0))[1] - 1)


def far_unit(size: float, degree: int = 4) -> float:
    """Find a unit of sizes in which powers of this degree neither under- nor overflow.

    1 where they do not anyway; else a power of two.
    """
    far = 10.0 ** (140 / degree)
    return 1.0 if 1 / far < size < far else float(units(np.asarray(size)))


def row_sizes(matrix: FloatArray) -> FloatArray:
    """Measure the rows, to divide them by it, so that no rank depends on the units of a row.

    Rows of rounding errors count as zeros: they get the size of the largest row.
    """
    sizes = lengths(matrix)
    largest = np.max(sizes, axis=-1, initial=0.0, keepdims=True)
    sizes = np.where(sizes > ROUNDING * largest, sizes, largest)
    return np.where(sizes > 0, sizes, 1.0)


def sizes_of(theta: OneTheta) -> OneTangent:
    """Absolute values, the median one where they are zero."""
    sizes = np.abs(theta)
    return np.where(sizes > 0, sizes, np.median(sizes[sizes > 0]) if np.any(sizes > 0) else 1.0)


def range_basis(matrix: FloatArray) -> FloatArray:
    """Orthonormal basis of the range of a matrix, whatever the units of its columns.

    Left singular vectors of the matrix with columns of length 1, whose singular value exceeds
    ``RANK_RTOL`` times the largest.
    """
    left, singular, _ = np.linalg.svd(matrix / row_sizes(matrix.T), full_matrices=False)
    return left[:, singular > RANK_RTOL * singular.max(initial=0.0)]


def echelon(rows: FloatArray) -> FloatArray:
    """Find a basis of the span of rows, in echelon form on the columns that stand out most.

    Entries that are integers but for rounding errors are integers, so that what they cancel is 0.
    """
    factor, order = qr(rows, mode="r", pivoting=True)
    sizes = np.abs(np.diag(factor))
    rank = int(np.sum(sizes > RANK_RTOL * np.max(sizes, initial=0.0)))
    basis = np.zeros((rank, rows.shape[1]))
    basis[:, order] = np.linalg.solve(factor[:rank, :rank], factor[:rank])
    return np.where(np.abs(basis - np.round(basis)) < WHOLE, np.round(basis), basis)


def scaled_rank(matrix: FloatArray) -> int:
    """Rank of a matrix whose rows and columns may have units of their own.

    Number of singular values above ``RANK_RTOL`` times the largest, once columns and then rows
    have length 1; rows that are rounding errors beside the others count as zero.
    """
    matrix = np.asarray(matrix)
    if not np.isfinite(matrix).all():
        raise NotFiniteError("a derivative is not finite, so no rank can be read off it")
    for axis, rounding in ((0, 0.0), (1, _ROUNDING)):
        tops = np.abs(matrix).max(axis=axis, keepdims=True, initial=0.0)
        kept = tops > rounding * tops.max(initial=0.0)
        matrix = matrix / np.where(kept, tops, np.inf)
        matrix = matrix / np.where(kept, np.sqrt((matrix**2).sum(axis, keepdims=True)), 1.0)
    singular = np.linalg.svd(matrix, compute_uv=False)
    return int((singular > RANK_RTOL * singular.max(initial=0.0)).sum())


def extrapolated(quotients: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Extrapolate central differences by steps h, h/2 and h/4 to order 6, and estimate the error.

    That is how far the derivative of order 4 is from it.
    """
    coarse, middle, fine = quotients
    fourth, better = (4 * middle - coarse) / 3, (4 * fine - middle) / 3
    return (16 * better - fourth) / 15, np.abs(better - fourth) / 15


def minimal_solution(operator: LinearOperator, right: FloatArray) -> FloatArray:
    """Shortest least-squares solution of an operator that is too large to be dense, by LSMR."""
    return lsmr(operator, right, atol=1e-14, btol=1e-14, maxiter=10 * max(operator.shape))[0]


def sparse_apply(values: FloatArray, matrix: csr_array) -> FloatArray:
    """Apply a constant sparse matrix along the last axis, differentiably."""
    # What loops hand on passes by autograd.
    return (_applied if type(values) is np.ndarray else _sparse_apply)(values, matrix)


def _applied(values: FloatArray, matrix: csr_array) -> FloatArray:
    if values.ndim == 1:
        return matrix @ values
    flat = values.reshape(-1, matrix.shape[1])
    return np.ascontiguousarray((matrix @ flat.T).T).reshape(*values.shape[:-1], matrix.shape[0])


_sparse_apply = primitive(_applied)
defvjp(_sparse_apply, lambda ans, values, matrix: lambda g: sparse_apply(g, matrix.T.tocsr()))
defjvp(_sparse_apply, lambda g, ans, values, matrix: sparse_apply(g, matrix))


@primitive
def _root_excess(gaps: FloatArray, target: FloatArray) -> FloatArray:
    """Return y ≥ 0 with ∏_i (d_i + y) = T, where min d = 0, by Newton's method on log y."""
    n_factors = gaps.shape[-1]
    positive = target > 0
    safe_target = np.where(positive, target, 1.0)
    # ∏ (d_i + y) ≥ y^L, so this start lies right of the root; log ∏ is convex in log y with
    # slope at least 1, so Newton's method comes down to the root without ever passing it.
    excess = scale = safe_target ** (1.0 / n_factors)
    for _ in range(200):
        factors = gaps + excess[..., None]
        slope = (excess[..., None] / factors).sum(axis=-1)
        step = np.log((factors / scale[..., None]).prod(axis=-1)) / slope
        excess = excess * np.exp(-step)
        if (np.abs(step) <= 4e-16 * n_factors).all():
            break
    return np.where(positive, excess, 0.0)


defvjp(_root_excess, None, None)
defjvp(_root_excess, None, None)


def shifted_product_root(shifts: Scalars, target: Scalars) -> Scalars:
    r"""Solve ∏_i (x + c_i) = T on the ray x ≥ −min c, where the left side increases from 0.

    The factors :math:`x + c_i \geq 0` themselves are returned, not x, because x + c_i loses digits
    to cancellation where x is close to −c_i. They are right to a few units in the last place, and
    differentiable up to order 3 in both arguments where T > 0.

    References
    ----------
    The layers of a relaxed balanced linear network and of a chain of single ReLU neurons obey
    this equation: [MPG]_.
    """
    gaps = shifts - gs.amin(shifts, axis=-1)[..., None]
    gaps, target = gaps + 0.0 * target[..., None], target + 0.0 * gaps[..., 0]
    excess = _root_excess(gaps, target)
    if gs.any(target > 0):
        # The iteration above is a constant for autograd. Each Newton step from it doubles the
        # order to which the result follows a change of the arguments (implicit function theorem).
        # The first also takes back what the logarithm rounded.
        safe_target = gs.where(target > 0, target, 1.0)
        safe_excess = gs.where(target > 0, excess, 1.0)
        for _ in range(2 if isbox(gaps) else 1):
            factors = gaps + safe_excess[..., None]
            slope = gs.sum(1.0 / factors, axis=-1)
            step = (gs.prod(factors, axis=-1) / safe_target - 1.0) / slope
            safe_excess = gs.where(target > 0, safe_excess - step, 1.0)
        excess = gs.where(target > 0, safe_excess, 0.0)
    return gaps + excess[..., None]


def layer_squares(shifts: Scalars, singular: Scalars) -> Scalars:
    r"""Solve ∏_i (x + c_i) = σ² in units of the solution, so that σ² may under- or overflow."""
    if is_squarable(getval(singular)):
        return shifted_product_root(shifts, singular**2)
    depth = np.shape(shifts)[-1]
    sizes = np.max(np.abs(getval(shifts)), axis=-1), getval(singular) ** (2.0 / depth)
    unit = units(np.maximum(*sizes))
    relative = shifted_product_root(shifts / unit[..., None], (singular / unit ** (depth / 2)) ** 2)
    return unit[..., None] * relative


Row = dict[int, Fraction]
"""Entries of a sparse rational vector that are not zero, by their numbers."""

_FRACTION = 1e-7  # distance up to which a number is a fraction
_LARGEST_DENOMINATOR = 64


def rational_basis(rows: FloatArray) -> list[Row] | None:
    """Find short rational vectors that span what independent rows do, or None if none show.

    In echelon form, where small fractions show; then made short and so sparse. Each vector has its
    entries by their numbers, and a leading one.
    """
    integers = _integers(_echelon(rows))
    return None if integers is None else _shortened(integers)


def first_independent(rows: Sequence[FloatArray] | FloatArray) -> list[int]:
    """Return the numbers of rows that do not depend on those before them."""
    chosen: list[int] = []
    for number in range(len(rows)):
        trial = [*chosen, number]
        if np.linalg.matrix_rank([rows[n] for n in trial]) == len(trial):
            chosen = trial
    return chosen


def _echelon(rows: FloatArray, tolerance: float = 1e-6) -> FloatArray:
    """Bring rows into reduced echelon form, leading ones on the earliest columns possible."""
    rows, done = rows.copy(), 0
    for column in range(rows.shape[1]):
        if done == len(rows):
            break
        best = done + int(np.argmax(np.abs(rows[done:, column])))
        if abs(rows[best, column]) < tolerance:
            continue
        rows[[done, best]] = rows[[best, done]]
        rows[done] /= rows[done, column]
        others = np.arange(len(rows)) != done
        rows[others] -= np.outer(rows[others, column], rows[done])
        done += 1
    return rows


def _integers(rows: FloatArray) -> FloatArray | None:
    """Return multiples of rows of small fractions that are integers, or None."""
    found = np.zeros(rows.shape, object)
    for number, row in enumerate(rows):
        own = np.flatnonzero(np.abs(row) > _FRACTION)
        entries = [Fraction(entry).limit_denominator(_LARGEST_DENOMINATOR) for entry in row[own]]
        if np.any(np.abs(row[own] - np.array(entries, float)) > _FRACTION):
            return None
        common = math.lcm(*[entry.denominator for entry in entries])
        found[number, own] = [int(common * entry) for entry in entries]
    return found


def _shortened(rows: FloatArray) -> list[Row]:
    """Make integer rows short and so sparse, by LLL where they share columns; leading ones."""
    from flint import fmpz_mat

    shares = csr_array(rows.astype(bool), dtype=int)
    count, parts = connected_components(shares @ shares.T, directed=False)
    reduced = []
    for part in range(count):
        own = rows[parts == part][::-1]  # those of later monomials are more local
        columns = np.flatnonzero(np.any(own, axis=0))
        for row in fmpz_mat(own[:, columns].tolist()).lll().tolist():
            entries = {
                n: int(entry) for n, entry in zip(columns.tolist(), row, strict=True) if entry
            }
            first = next(iter(entries.values()))
            reduced.append({n: Fraction(entry, first) for n, entry in entries.items()})
    return sorted(reduced, key=tuple)


Jet = TypeAliasType("Jet", Any)
"""Numbers of any arithmetic, with an axis for the products of nilpotents before the others."""


@dataclass(frozen=True)
class Arithmetic:
    """Floats, or integers modulo a prime below 2^31, whose products fit into 64 bits.

    A *jet* over ε_1, …, ε_k with ε_i² = 0 is an array whose first axis, of length 2^k, runs over
    the products of them; one of length 1 stands for a constant. Evaluated at x + ε v, a polynomial
    gives its value and its derivative along v, without truncation, in any arithmetic.
    """

    prime: int = 0
    """0 stands for floats."""

    @property
    def exact(self) -> bool:
        """Whether this is a prime field."""
        return self.prime > 0

    @classmethod
    def over_a_field(cls, rng: np.random.Generator) -> "Arithmetic":
        """Draw a prime of 31 bits."""
        from flint import fmpz

        prime = 0
        while not fmpz(prime).is_prime():
            prime = int(rng.integers(2**30, 2**31))
        return cls(prime)

    def residues(self, numbers: FloatArray) -> IntArray:
        """Return floats, which are fractions, in the prime field."""
        ratios = (float(number).as_integer_ratio() for number in numbers)
        return np.array([n * pow(d, -1, self.prime) % self.prime for n, d in ratios])

    def reduce(self, values: Jet) -> Jet:
        """Bring integers back to 0 … p − 1; floats stay."""
        return np.remainder(values, self.prime) if self.exact else values

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Jet:
        """Draw an array: normal floats, or uniform residues."""
        if self.exact:
            return rng.integers(self.prime, size=shape)
        return rng.standard_normal(shape)

    def multiply(self, a: Jet, b: Jet) -> Jet:
        """Multiply two jets entry by entry."""
        return self._product(np.multiply, a, b)

    def apply(self, matrices: Jet, vectors: Jet) -> Jet:
        """Multiply vectors by matrices, all of them jets."""
        return self._product(self._residues if self.exact else _matvec, matrices, vectors)

    def _residues(self, matrices: Jet, vectors: Jet) -> Jet:
        return np.sum(self.reduce(matrices * vectors[..., None, :]), axis=-1)

    def _product(self, product: Callable[[Jet, Jet], Jet], a: Jet, b: Jet) -> Jet:
        """Extend a bilinear function of numbers to jets."""
        if len(a) == 1 or len(b) == 1:
            return self.reduce(product(a, b))
        if a.size > _GATHERED:
            (a0, a1), (b0, b1) = halves(a), halves(b)
            mixed = self._product(product, a0, b1) + self._product(product, a1, b0)
            return np.concatenate([self._product(product, a0, b0), self.reduce(mixed)])
        left, right, starts = _factors(len(a))
        terms = self.reduce(product(a[left], b[right]))
        return self.reduce(np.add.reduceat(terms, starts, axis=0))


_GATHERED = 2**13  # entries of a jet up to which one call on all pairs of factors is quicker


@cache
def _factors(length: int) -> tuple[IntArray, IntArray, IntArray]:
    """Pairs of disjoint sets of nilpotents, as bits, by their unions, and where each begins."""
    pairs = [(a, s ^ a) for s in range(length) for a in range(s + 1) if a & s == a]
    left, right = np.array(pairs).T
    return left, right, np.flatnonzero(np.diff(left | right, prepend=-1))


def _matvec(matrices: Jet, vectors: Jet) -> Jet:
    return np.matmul(matrices, vectors[..., None])[..., 0]


def halves(jet: Jet) -> tuple[Jet, Jet]:
    """Return value and derivative in the last nilpotent, as jets over the others."""
    half = len(jet) // 2
    return jet[:half], jet[half:]


FLOATS = Arithmetic()
"""float64."""


def relative(gap: FloatArray, size: FloatArray | float) -> FloatArray:
    """Divide by a size that may be 0: there nothing is no part of it, and all else infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(gap == 0, 0.0, gap / size)
