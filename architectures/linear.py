"""Linear networks: products of matrices, of any depth."""

import math
from collections.abc import Sequence
from itertools import combinations, pairwise, product
from typing import Any

import geomstats.backend as gs
import numpy as np
from scipy.sparse.linalg import LinearOperator, cg
from scipy.stats import ortho_group

from liftflow.architectures.base import Architecture
from liftflow.doors import door
from liftflow.errors import (
    ArchitectureError,
    InputError,
    NotIntrinsicError,
    NotRecoverableError,
    ShapeError,
)
from liftflow.linalg import RANK_RTOL, ROUNDING, layer_squares, over_batch
from liftflow.typing import (
    Covector,
    FloatArray,
    IntArray,
    Laws,
    Lifted,
    LiftedTangent,
    OneLaws,
    OneTheta,
    Rng,
    Tangent,
    Theta,
    as_array,
    as_count,
    as_ordered,
    as_rng,
    refuse_beyond,
    shown,
)

BALANCE_RTOL = 1e-8
"""Distance of the laws to multiples of I, relative to the layers, that counts as none."""

_ANY = 1e100  # an infinite tolerance, which can be multiplied by zero
_ALIGN_SWEEPS = 200
_DENSE_LAWS = 50


def transpose(matrix: LiftedTangent) -> Any:
    """Transpose the last two axes.

    Parameters
    ----------
    matrix : LiftedTangent
        Or a stack of them.

    Returns
    -------
    transposed : array, shape=[..., m, n]
    """
    return gs.moveaxis(matrix, -1, -2)


class DeepLinear(Architecture):
    r"""Linear network of any depth, lifted to its end-to-end matrix.

    :math:`φ(θ) = U_L ⋯ U_1`, with :math:`U_i` of shape ``(widths[i], widths[i-1])``. The laws are
    the symmetric matrices :math:`S_i = U_{i+1}^\top U_{i+1} − U_i U_i^\top`, one per hidden layer,
    by their upper triangles. θ is relaxed balanced where :math:`S_i = λ_i I` for all i.

    Parameters
    ----------
    widths : sequence of int
        :math:`[n_0, …, n_L]`, at least three.

    Raises
    ------
    ArchitectureError
        Fewer than three widths.

    References
    ----------
    [MPG]_; balanced networks: [Arora2018]_.

    Examples
    --------
    >>> from liftflow.architectures import DeepLinear
    >>> network = DeepLinear([3, 2, 2, 4])
    >>> network.lifted_shape, network.dim, network.n_laws
    ((4, 3), 18, 6)
    """

    @door
    def __init__(self, widths: Sequence[int]) -> None:
        self.widths = [as_count(w, "a width", 1) for w in as_ordered(widths, "widths")]
        if len(self.widths) < 3:
            raise ArchitectureError(
                f"a linear network needs at least one hidden layer, got widths {self.widths}"
            )
        shapes = self._block_shapes()
        super().__init__(
            dim=sum(map(math.prod, shapes)),
            lifted_shape=(self.widths[-1], self.widths[0]),
            n_laws=sum(n * (n + 1) // 2 for n in self.widths[1:-1]),
            block_shapes=shapes,
        )

    def _block_shapes(self) -> list[tuple[int, ...]]:
        return [(b, a) for a, b in pairwise(self.widths)]

    # θ and its layers: all that the families of matrix products differ in.

    law_scale: float = 1.0
    """Factor of the conservation laws."""

    def layers(self, theta: Theta) -> list[Any]:
        """Return the matrices U_1, …, U_L of the product, an affine function of θ.

        Returns
        -------
        layers : list of array, shape=[..., widths[i], widths[i-1]]
        """
        return list(self.unpack(theta))

    def layer_velocities(self, tangent: Tangent) -> list[Any]:
        """Return the velocities of the layers, the linear part of :meth:`layers`.

        Returns
        -------
        velocities : list of array, shape=[..., widths[i], widths[i-1]]
        """
        return self.layers(tangent)

    def _pull_layers(self, covectors: list[Any]) -> Any:
        """Transpose of :meth:`layer_velocities`."""
        return self.pack(*covectors)

    def from_layers(self, layers: Sequence[Any]) -> Theta:
        """Find the θ with these layers.

        Parameters
        ----------
        layers : sequence of array-like, shape=[..., widths[i], widths[i-1]]
            The matrices U_1, …, U_L.
        """
        return self.pack(*self._each_layer(layers))

    def _each_layer(self, layers: Any) -> list[Any]:
        count = len(self.widths) - 1
        if not isinstance(layers, list | tuple) or len(layers) != count:
            raise InputError(f"layers must be a list of {count} matrices, got {shown(layers)}")
        return [as_array(layer, "a layer") for layer in layers]

    # The lift.

    def lift(self, theta: Theta) -> Lifted:
        """Evaluate the product U_L ⋯ U_1."""
        return self._prefixes(self.layers(self._theta(theta)))[-1]

    @staticmethod
    def _prefixes(layers: list[Any]) -> list[Any]:
        """Products U_i ⋯ U_1 for i = 1, …, L."""
        products = [layers[0]]
        for layer in layers[1:]:
            products.append(gs.matmul(layer, products[-1]))
        return products

    @staticmethod
    def _suffixes(layers: list[Any]) -> list[Any]:
        """Products U_L ⋯ U_i for i = 1, …, L."""
        products = [layers[-1]]
        for layer in layers[-2::-1]:
            products.append(gs.matmul(products[-1], layer))
        return products[::-1]

    def lift_jvp(self, theta: Theta, tangent: Tangent) -> LiftedTangent:
        """Push a velocity of θ forward by the product rule."""
        layers = self.layers(self._theta(theta))
        velocities = self.layer_velocities(self._theta(tangent, "tangent"))
        return self._moving_prefixes(layers, velocities)[-1][1]

    @staticmethod
    def _moving_prefixes(layers: list[Any], velocities: list[Any]) -> list[tuple[Any, Any]]:
        """Products U_i ⋯ U_1 with their velocities, for i = 1, …, L."""
        products = [(layers[0], velocities[0])]
        for layer, velocity in zip(layers[1:], velocities[1:], strict=True):
            product, speed = products[-1]
            speed = gs.matmul(velocity, product) + gs.matmul(layer, speed)
            products.append((gs.matmul(layer, product), speed))
        return products

    def lift_hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> LiftedTangent:
        """Evaluate the second derivative of the product, ∂²φ(θ)[a, b], by the product rule."""
        layers = self.layers(self._theta(theta))
        speeds_a = self.layer_velocities(self._theta(tangent_a, "tangent_a"))
        speeds_b = self.layer_velocities(self._theta(tangent_b, "tangent_b"))
        product, a, b, both = layers[0], speeds_a[0], speeds_b[0], gs.zeros_like(layers[0])
        for layer, own_a, own_b in zip(layers[1:], speeds_a[1:], speeds_b[1:], strict=True):
            both = gs.matmul(layer, both) + gs.matmul(own_a, b) + gs.matmul(own_b, a)
            a = gs.matmul(own_a, product) + gs.matmul(layer, a)
            b = gs.matmul(own_b, product) + gs.matmul(layer, b)
            product = gs.matmul(layer, product)
        return both

    def lift_vjp(self, theta: Theta, covector: Covector) -> Tangent:
        """Pull a covector back, (U_L ⋯ U_{i+1})ᵀ G (U_{i−1} ⋯ U_1)ᵀ for each layer."""
        layers = self.layers(self._theta(theta))
        form = self._lifted(covector, "covector")
        prefixes, suffixes = self._prefixes(layers), self._suffixes(layers)
        lead = np.broadcast_shapes(form.shape[:-2], layers[0].shape[:-2])
        pulled = []
        for i in range(len(layers)):
            own = form if i + 1 == len(layers) else gs.matmul(transpose(suffixes[i + 1]), form)
            own = own if i == 0 else gs.matmul(own, transpose(prefixes[i - 1]))
            pulled.append(gs.broadcast_to(own, (*lead, *own.shape[-2:])))
        return self._pull_layers(pulled)

    def lift_hvp(self, theta: Theta, tangent: Tangent, covector: Covector) -> Tangent:
        """Differentiate the pullback by the product rule."""
        theta, tangent = gs.broadcast_arrays(self._theta(theta), self._theta(tangent, "tangent"))
        layers, velocities = self.layers(theta), self.layer_velocities(tangent)
        form = self._lifted(covector, "covector")
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
        return self._pull_layers(pulled)

    def project_to_image(self, z: Lifted, *, near: Any = None) -> Lifted:
        """Find the nearest matrix of rank at most the smallest width.

        Parameters
        ----------
        near : array-like, optional
            Not used: nothing is iterated.
        """
        z, rank = self._lifted(z, differentiable=False), min(self.widths)
        if rank == min(self.lifted_shape):
            return z.copy()
        left, singular, right_t = np.linalg.svd(z, full_matrices=False)
        return (left[..., :rank] * singular[..., None, :rank]) @ right_t[..., :rank, :]

    # The conservation laws.

    def law_matrices(self, theta: Theta) -> list[Any]:
        """Evaluate the symmetric matrices S_i of the laws, times ``law_scale``.

        Returns
        -------
        matrices : list of array, shape=[..., widths[i], widths[i]]
        """
        layers = self.layers(self._theta(theta))
        grams = [
            (gs.matmul(transpose(after), after), gs.matmul(before, transpose(before)))
            for before, after in pairwise(layers)
        ]
        return [self.law_scale * (inner - outer) for inner, outer in grams]

    def conservation_laws(self, theta: Theta) -> Laws:
        """Evaluate the laws, the upper triangles of all S_i."""
        return _upper(self.law_matrices(theta))

    def laws_jvp(self, theta: Theta, tangent: Tangent) -> Laws:
        """Push a velocity of θ forward by the laws."""
        velocities = self.layer_velocities(self._theta(tangent, "tangent"))
        return self._polar_laws(self.layers(self._theta(theta)), velocities)

    def laws_size(self, theta: Theta, tangent: Tangent | None = None) -> Laws:
        """Size of the terms of h(θ), or of ∂h(θ) v: that of the two layers next to each S_i."""
        layers = self.layers(self._theta(theta, differentiable=False))
        norms = [np.sum(layer**2, axis=(-2, -1)) for layer in layers]
        if tangent is not None:
            moved = self.layer_velocities(self._theta(tangent, "tangent", differentiable=False))
            squares = [np.sum(layer**2, axis=(-2, -1)) for layer in moved]
            norms = [np.sqrt(a) * np.sqrt(b) for a, b in zip(norms, squares, strict=True)]
        sizes = np.stack([before + after for before, after in pairwise(norms)], axis=-1)
        return self.law_scale * np.repeat(sizes, self._law_counts, axis=-1)

    @property
    def _law_counts(self) -> list[int]:
        """Number of laws in each S_i."""
        return [size * (size + 1) // 2 for size in self.widths[1:-1]]

    def laws_hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> Laws:
        """Second derivative ∂²h[v, w] of the laws, the same at every θ."""
        first = self.layer_velocities(self._theta(tangent_a, "tangent_a"))
        return self._polar_laws(first, self.layer_velocities(self._theta(tangent_b, "tangent_b")))

    def _polar_laws(self, first: list[Any], second: list[Any]) -> Any:
        """Twice the symmetric bilinear form whose quadratic form of the layers is h."""
        halves = [
            gs.matmul(transpose(second[i + 1]), first[i + 1])
            - gs.matmul(second[i], transpose(first[i]))
            for i in range(len(first) - 1)
        ]
        return _upper([self.law_scale * (half + transpose(half)) for half in halves])

    def solve_laws_jvp(self, theta: Theta, laws_tangent: Laws) -> Tangent:
        r"""Solve ∂h(θ) v = w for the shortest v, by Lyapunov equations.

        v moves the layers by :math:`V_i = U_i N_{i-1} − N_i U_i`, with symmetric N_i such that

        .. math::

            A_i N_i + N_i A_i − 2 U_{i+1}^\top N_{i+1} U_{i+1} − 2 U_i N_{i-1} U_i^\top = W_i, \quad
            A_i = U_{i+1}^\top U_{i+1} + U_i U_i^\top.

        With one hidden layer only the first two terms are there, and the eigenvectors of A solve
        it. With several, few laws are solved for densely; many by conjugate gradients, which the
        first two terms precondition.
        """
        if len(self.widths) > 3 and self.n_laws <= _DENSE_LAWS:
            return super().solve_laws_jvp(theta, laws_tangent)
        theta = self._theta(theta, differentiable=False)
        tangent = as_array(laws_tangent, "laws_tangent", (self.n_laws,), differentiable=False)
        return over_batch(self._solve_laws_jvp, [theta, tangent], [1, 1])

    def _solve_laws_jvp(self, theta: FloatArray, laws_tangent: FloatArray) -> FloatArray:
        layers, right = self.layers(theta), self.split_laws(laws_tangent)
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
                return super().solve_laws_jvp(theta, laws_tangent)
            solved = _unravel(flat, right)
        steps = [-own @ layer for own, layer in zip(solved, layers[:-1], strict=True)]
        steps.append(np.zeros_like(layers[-1]))
        for i, own in enumerate(solved):
            steps[i + 1] += layers[i + 1] @ own
        # The layers are θ times a constant, whose square the laws are scaled back by.
        return np.sqrt(self.law_scale) * self._pull_layers(steps)

    def split_laws(self, laws: OneLaws) -> list[FloatArray]:
        """Rebuild the symmetric matrices S_i, without ``law_scale``, from the flat laws.

        Returns
        -------
        matrices : list of array, shape=[widths[i], widths[i]]
        """
        flat = as_array(laws, "laws", (self.n_laws,), batch=False, differentiable=False)
        matrices, start = [], 0
        for size in self.widths[1:-1]:
            count = size * (size + 1) // 2
            matrix = np.zeros((size, size))
            matrix[np.triu_indices(size)] = flat[start : start + count] / self.law_scale
            matrices.append(matrix + np.triu(matrix, 1).T)
            start += count
        return matrices

    @door
    def balance(
        self, laws: OneLaws, sizes: Any, tolerance: float = BALANCE_RTOL, noise: Any = 0.0
    ) -> FloatArray:
        """Read λ_1, …, λ_{L−1} off relaxed balanced laws, or say how far they are from it.

        Parameters
        ----------
        sizes : array-like, shape=[L - 1]
            Sizes of the layers, as :meth:`sizes`, that distances are relative to.
        tolerance : float
            Largest relative distance ‖S_i − λ_i I‖ that counts as none.
        noise : array-like, shape=[L - 1], optional
            Rounding errors of the laws, where they come from larger layers.

        Returns
        -------
        lams : array, shape=[L - 1]
            0 where S_i vanishes up to rounding.

        Raises
        ------
        NotIntrinsicError
            Some S_i is no multiple of I; holds its spectrum and distance.
        """
        matrices = self.split_laws(laws)
        bounds = (
            as_array(bound, name, differentiable=False)
            for name, bound in (("sizes", sizes), ("noise", noise))
        )
        sizes, noise = (np.broadcast_to(bound, (len(matrices),)) for bound in bounds)
        return self._balance(matrices, _means(matrices), sizes, tolerance, noise)

    def _balance(
        self,
        matrices: list[FloatArray],
        means: FloatArray,
        sizes: FloatArray,
        tolerance: float,
        noise: Any,
    ) -> FloatArray:
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

    def sizes(self, theta: OneTheta) -> FloatArray:
        """Size ‖U_i‖² + ‖U_{i+1}‖² of the layers next to each S_i, the unit of distances from it.

        Returns
        -------
        sizes : array, shape=[L - 1]
        """
        squares = np.array([np.sum(layer**2) for layer in self.layers(theta)])
        return squares[:-1] + squares[1:]

    @door
    def hidden_values(
        self, theta: OneTheta, tolerance: float = BALANCE_RTOL
    ) -> tuple[FloatArray, FloatArray]:
        r"""Read from θ what z does not tell: α_j on ker Zᵀ and β_j on ker Z.

        :math:`α_j` is the eigenvalue of :math:`U_L ⋯ U_{j+1} (U_L ⋯ U_{j+1})^\top`, and
        :math:`β_j` that of :math:`(U_{j−1} ⋯ U_1)^\top U_{j−1} ⋯ U_1`.

        Parameters
        ----------
        theta : OneTheta
            Relaxed balanced.
        tolerance : float
            Largest relative distance of several eigenvalues that counts as none.

        Returns
        -------
        alphas, betas : array, shape=[L]
            The trivial ones, of α_L = 1 and β_1 = 1 alone, where there is no kernel.

        Raises
        ------
        NotIntrinsicError
            A kernel carries more than one value.
        """
        layers = [np.asarray(layer) for layer in self.layers(theta)]
        depth, rank = len(layers), min(self.widths)
        prefixes, suffixes = [np.eye(self.widths[0])], [np.eye(self.widths[-1])]
        for layer in layers[:-1]:
            prefixes.append(layer @ prefixes[-1])
        for layer in layers[:0:-1]:
            suffixes.append(suffixes[-1] @ layer)
        left, singular, right_t = np.linalg.svd(np.asarray(self.lift(theta)))
        # A rank drop at θ makes the kernels larger; what is read there must still be one value.
        rank = min(rank, int(np.sum(singular > RANK_RTOL * singular.max(initial=0.0))))
        ends = np.eye(depth)
        alphas, betas = ends[-1].copy(), ends[0].copy()
        squares, tolerance = np.array([np.sum(layer**2) for layer in layers]), min(tolerance, _ANY)
        if self.widths[-1] > min(self.widths):
            basis = left[:, rank:]
            for j, suffix in enumerate(suffixes[::-1]):
                bound = tolerance * np.prod(squares[j + 1 :])
                alphas[j] = self._one_value(basis.T @ suffix, bound, "ker Zᵀ")
        if self.widths[0] > min(self.widths):
            basis = right_t[rank:].T
            for j, prefix in enumerate(prefixes):
                bound = tolerance * np.prod(squares[:j])
                betas[j] = self._one_value(basis.T @ prefix.T, bound, "ker Z")
        return alphas, betas

    def _one_value(self, rows: FloatArray, bound: float, kernel: str) -> float:
        """The one eigenvalue of rows rowsᵀ, or NotIntrinsicError with its spectrum."""
        gram = rows @ rows.T
        value = float(np.trace(gram)) / len(gram)
        if not np.linalg.norm(gram - value * np.eye(len(gram))) <= bound:
            spectrum = show_spectrum(gram)
            raise NotIntrinsicError(
                f"ambiguous hidden directions: on {kernel} the layers next to it have the squared "
                f"singular values {spectrum}, and z does not tell which direction carries which, "
                f"so the kernel inclusion fails (widths {self.widths}; two layers: λ ≠ 0 needs r "
                "not strictly between min(n, m) and max(n, m), and z of full rank)"
            )
        return value

    # Points.

    def random_point(self, n_samples: int = 1, rng: Rng = None) -> Theta:
        """Draw layers with normal entries of variance 1/fan-in.

        Parameters
        ----------
        n_samples : int
            With one sample there is no sample axis.
        """
        count, rng = as_count(n_samples, "n_samples", 1), as_rng(rng)
        refuse_beyond(count * self.dim, f"{count} points of {self.dim} numbers")
        layers = [rng.standard_normal((count, b, a)) / np.sqrt(a) for a, b in pairwise(self.widths)]
        points = self.from_layers(layers)
        return points[0] if count == 1 else points

    def balanced_point(self, lams: Any, rng: Rng = None) -> OneTheta:
        """Draw a relaxed balanced point, S_i = λ_i I.

        Parameters
        ----------
        lams : array-like, shape=[L - 1]
            One number stands for all.

        Raises
        ------
        ArchitectureError
            No such point exists for these widths; says at which layer and why.
        """
        rng = as_rng(rng)
        lams = self._lams(lams)
        floor = max(0.0, -float(np.min(layer_shifts(lams))))
        values = floor + rng.uniform(0.3, 2.0, size=min(self.widths))
        frames = [random_orthogonal(width, rng) for width in self.widths]
        squares = values[:, None] + layer_shifts(lams)
        return self.from_layers(self._balanced_layers(squares, lams, frames))

    def _lams(self, lams: Any) -> FloatArray:
        array = as_array(lams, "lams", differentiable=False)
        count = len(self.widths) - 2
        if array.ndim > 1 or array.size not in (1, count):
            raise ArchitectureError(
                f"lams must hold one λ per hidden layer, {count}, or one for all; got shape "
                f"{array.shape}"
            )
        return np.broadcast_to(np.ravel(array), (count,))

    def _balanced_layers(
        self,
        squares: FloatArray,
        lams: FloatArray,
        frames: list[FloatArray],
        noise: float = 0.0,
    ) -> list[FloatArray]:
        """Layers with S_i = λ_i I and squared singular values ``squares``, shape=[rank, L].

        Column k of each frame is direction k of the product; the columns beyond those of the
        product are hidden. A hidden direction carries a squared singular value from layer to
        layer, starts at 0 where it is born, and must end at 0 or at the output. What is below
        the rounding errors of the squares, or of the λ (``noise``), is 0.
        """
        rank, layers = len(squares), []
        tiny = ROUNDING * (np.max(squares) + np.abs(layer_shifts(lams)).max()) + noise
        hidden = self._hidden_squares(rank, lams, tiny)  # squared values of the layer to come
        for i, (n_in, n_out) in enumerate(pairwise(self.widths)):
            carried = np.flatnonzero(hidden > 0)
            if carried.size > n_out - rank:
                raise ArchitectureError(
                    f"no relaxed balanced point: λ_{i} = {lams[i - 1]:g} > 0 needs layer {i + 1} "
                    f"to have full column rank, so widths[{i + 1}] ≥ widths[{i}] (two layers: "
                    f"r ≤ n); got widths {self.widths}"
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
                        f"layers: r ≤ m); got widths {self.widths}"
                    )
        return layers

    def _hidden_squares(self, rank: int, lams: FloatArray, tiny: float) -> FloatArray:
        """Squared singular values of the first layer on hidden directions of the input.

        Such a direction has the squares y + c_i, and must be at 0 where the widths leave it no
        room to go on: at layer j, if y = −c_j. It goes as far as it can.
        """
        shifts = layer_shifts(lams)
        squares = np.zeros(self.widths[0] - rank)
        going = min(self.widths[0], self.widths[1]) - rank
        born = np.zeros(0)  # squares of the directions that began later, at 0
        for j, width in enumerate(self.widths[1:]):
            room = width - rank
            born = born[born > tiny]
            stay = max(0, min(going, room - born.size))
            squares[stay:going] = max(0.0, -shifts[j])
            going = stay
            if j < len(lams):
                born = lams[j] + np.append(born, np.zeros(max(0, room - going - born.size)))
        return squares

    def recover(self, z: Lifted, laws: Laws, *, near: Theta | None = None) -> Theta:
        """Find one point of the fibre over z on the invariant set: a section.

        At relaxed balanced laws it is built from the singular value decomposition of z, whatever
        ``near``, and so it is, close to ``near``, for two layers on the leaf of hyperbolic isotropy
        or with n = m = 1; elsewhere Gauss–Newton steps lead there from ``near``.

        Returns
        -------
        theta : Theta
            The frames of the hidden layers, which φ forgets, are the standard ones here.

        Raises
        ------
        NotRecoverableError
            No such point, or none found.
        """
        arrays = [self._lifted(z, differentiable=False), self._laws(laws)]
        if near is not None:
            arrays.append(self._theta(near, "near", differentiable=False))
        return over_batch(self._recover, arrays, [2, 1, 1][: len(arrays)], shape=(self.dim,))

    def _recover(
        self, z: FloatArray, laws: FloatArray, near: FloatArray | None = None
    ) -> FloatArray:
        matrices = self.split_laws(laws)
        # The laws are as precise as the layers that they were taken from were large.
        noise = np.zeros(len(matrices)) if near is None else ROUNDING * self.sizes(near)
        means = _means(matrices)
        means[np.abs(means) <= noise] = 0.0
        left, singular, right_t = np.linalg.svd(z)
        typical = np.max(singular, initial=0.0) ** (2 / len(self.widths[1:]))
        if np.all(np.abs(means) <= ROUNDING * typical):  # as all layers are then, of one size
            means[:] = 0.0
        squares = self._squares(singular, means)
        layers = np.sum(squares, axis=0)
        sizes = layers[:-1] + layers[1:] + [np.linalg.norm(matrix) for matrix in matrices]
        try:
            lams = self._balance(matrices, means, sizes, BALANCE_RTOL, noise)
            if np.any(lams != means):
                squares = self._squares(singular, lams)
            frames = self._frames(right_t.T, left)
            return self.from_layers(self._balanced_layers(squares, lams, frames, np.max(noise)))
        except NotIntrinsicError:
            return self._recover_unbalanced(z, laws, near)
        except ArchitectureError as error:
            raise NotRecoverableError(str(error)) from error

    def _recover_unbalanced(
        self, z: FloatArray, laws: FloatArray, near: FloatArray | None
    ) -> FloatArray:
        return super().recover(z, laws, near=near)

    def _section(self, z: FloatArray, lams: FloatArray) -> FloatArray:
        left, singular, right_t = np.linalg.svd(z)
        squares, frames = self._squares(singular, lams), self._frames(right_t.T, left)
        return self.from_layers(self._balanced_layers(squares, lams, frames))

    def _squares(self, singular: FloatArray, lams: FloatArray) -> FloatArray:
        """Squared singular values of the layers, shape=[rank, L]."""
        rank = min(self.widths)
        shifts = np.broadcast_to(layer_shifts(lams), (rank, len(self.widths) - 1))
        return np.asarray(layer_squares(shifts, singular[:rank]))

    def _frames(self, first: FloatArray, last: FloatArray) -> list[FloatArray]:
        return [first, *self._inner_frames(first, last), last]

    def _inner_frames(self, first: FloatArray, last: FloatArray) -> list[FloatArray]:
        """Frames of the hidden layers for a section, which φ forgets."""
        return [np.eye(width) for width in self.widths[1:-1]]

    def _align(self, theta: FloatArray, base_point: FloatArray) -> FloatArray:
        """Turn the frames of the hidden layers, one after the other: Procrustes' problem in each.

        The laws allow what commutes with them, so one turn for each of their eigenspaces.
        """
        layers, targets = self.layers(theta), self.layers(base_point)
        laws = self.split_laws(self.conservation_laws(theta))
        gaps = BALANCE_RTOL * self.sizes(theta)
        spaces = [_eigenspaces(matrix, gap) for matrix, gap in zip(laws, gaps, strict=True)]
        for sweep in range(_ALIGN_SWEEPS):
            moved = 0.0
            for i, bases in enumerate(spaces):
                before, after = layers[i], layers[i + 1]
                overlap = targets[i] @ before.T
                if sweep > 0 or i + 1 == len(spaces):  # the frame ahead means nothing yet
                    overlap = overlap + targets[i + 1].T @ after
                parts = [basis @ _polar(basis.T @ overlap @ basis) @ basis.T for basis in bases]
                turn = np.sum(parts, axis=0)
                layers[i], layers[i + 1] = turn @ before, after @ turn.T
                moved = max(moved, np.abs(turn - np.eye(len(turn))).max())
            if len(layers) == 2 or moved < 1e-14:
                break
        return self.from_layers(layers)

    def _signs(self) -> IntArray:
        """The layers on both sides of each hidden layer of width 1, whose frame is a sign."""
        signs = []
        for i, width in enumerate(self.widths[1:-1]):
            if width == 1:
                sizes = enumerate(pairwise(self.widths))
                layers = [np.full((b, a), float(j in (i, i + 1))) for j, (a, b) in sizes]
                signs.append(self.from_layers(layers))
        return np.array(signs, dtype=np.intp).reshape(-1, self.dim)

    def fibre_point(self, theta: Theta, rng: Rng = None) -> Theta:
        """Find another point over the same z, relaxed balanced with other λ.

        Parameters
        ----------
        theta : Theta
            Relaxed balanced.
        rng : numpy.random.Generator or int, optional
            Not used: the shift of λ is one of a few fixed ones.

        Raises
        ------
        ArchitectureError
            These widths admit no other relaxed balanced point over z with a metric in closed
            form.
        """
        theta = self._theta(theta, differentiable=False)
        if theta.ndim > 1:
            return over_batch(lambda point: self.fibre_point(point, rng), [theta], [1])
        z = np.asarray(self.lift(theta))
        laws = self.split_laws(self.conservation_laws(theta))
        lams = _means(laws)
        lams[np.abs(lams) <= ROUNDING * self.sizes(theta)] = 0.0
        size = np.linalg.norm(z) ** (2 / (len(self.widths) - 1))
        each = np.eye(lams.size)
        steps = [np.ones(lams.size), *each, *(a - b for a, b in combinations(each, 2))]
        for shift, step in product((1.0, -1.0), steps):
            try:
                point = self._section(z, lams + shift * size * step)
                self.hidden_values(point)
                return point
            except (ArchitectureError, NotIntrinsicError):
                continue
        raise ArchitectureError(
            f"widths {self.widths} admit no other relaxed balanced point over this z where the "
            "metric has a closed form"
        )


class TwoLayerLinear(DeepLinear):
    r"""Two linear layers, φ(U, V) = U Vᵀ, the two-layer case of :class:`DeepLinear`.

    The laws are the symmetric matrix :math:`S = U^\top U − V^\top V`; θ is relaxed balanced where
    :math:`S = λI`.

    Parameters
    ----------
    n, m, r : int
        U has shape (n, r), V has shape (m, r), and z has shape (n, m).

    References
    ----------
    [MPG]_; the leaf of hyperbolic isotropy: Zhang and Peyré 2026.
    """

    def __init__(self, n: int, m: int, r: int) -> None:
        self.n, self.m, self.r = (as_count(size, "a size", 1) for size in (n, m, r))
        super().__init__([self.m, self.r, self.n])

    def _block_shapes(self) -> list[tuple[int, ...]]:
        return [(self.n, self.r), (self.m, self.r)]

    def layers(self, theta: Theta) -> list[Any]:
        """Return the layers Vᵀ and U of the product."""
        left, right = self.unpack(theta)
        return [transpose(right), left]

    def _pull_layers(self, covectors: list[Any]) -> Any:
        return self.pack(covectors[1], transpose(covectors[0]))

    def from_layers(self, layers: Sequence[Any]) -> Theta:
        """Find the θ = (U, V) with the layers Vᵀ and U.

        Parameters
        ----------
        layers : sequence of array-like
            The matrices Vᵀ and U.
        """
        first, last = self._each_layer(layers)
        if first.ndim < 2:
            raise ShapeError(f"a layer must be a matrix, got shape {first.shape}")
        return self.pack(last, transpose(first))

    def hyperbolic_point(self, a: float, rng: Rng = None) -> OneTheta:
        r"""Draw a point of the leaf of hyperbolic isotropy, W Wᵀ J W Wᵀ = a² J.

        Here W = [U; V] and J = diag(I_n, −I_m). S has the eigenvalues a (n times), −a (m times)
        and 0: it is not relaxed balanced, and yet the metric property holds.

        Parameters
        ----------
        a : float
            Positive.

        Raises
        ------
        ArchitectureError
            r < n + m, or a is not positive.
        """
        if self.r < self.n + self.m:
            raise ArchitectureError(
                f"the hyperbolic leaf needs r ≥ n + m = {self.n + self.m}, got r = {self.r}"
            )
        radius = float(as_array(a, "a", (), batch=False, differentiable=False))
        if not radius > 0:
            raise ArchitectureError(f"a must be positive, got {a}")
        rng = as_rng(rng)
        gram = _hyperbolic_gram(rng.standard_normal((self.n, self.m)), radius)
        frame = random_orthogonal(self.r, rng)[:, : self.n + self.m]
        return self._stacked(_root(gram) @ frame.T)

    def _stacked(self, weights: FloatArray) -> FloatArray:
        """The θ of W = [U; V]."""
        return np.asarray(self.pack(weights[: self.n], weights[self.n :]))

    @door
    def hyperbolic_radius(self, laws: OneLaws, tolerance: float = BALANCE_RTOL) -> float | None:
        """Read off laws the radius a of the leaf of hyperbolic isotropy they belong to.

        Parameters
        ----------
        tolerance : float
            Largest distance of the spectrum of S from {a (n times), −a (m times), 0}, relative to
            a.

        Returns
        -------
        radius : float or None
            None where the laws belong to no such leaf.
        """
        if self.r < self.n + self.m:
            return None
        (matrix,) = self.split_laws(laws)
        spectrum = np.linalg.eigvalsh(matrix)
        radius = float(np.linalg.norm(spectrum) / np.sqrt(self.n + self.m))
        wanted = np.repeat([-radius, 0.0, radius], [self.m, self.r - self.n - self.m, self.n])
        gap = np.linalg.norm(spectrum - wanted)
        return radius if radius > 0 and gap <= tolerance * radius else None

    def _recover_unbalanced(
        self, z: FloatArray, laws: FloatArray, near: FloatArray | None
    ) -> FloatArray:
        """Build the point from WWᵀ, where z and the laws determine it: W = (WWᵀ)^½ Qᵀ."""
        (matrix,) = self.split_laws(laws)
        radius = self.hyperbolic_radius(laws)
        if self.n == self.m == 1:
            gram = _scalar_gram(float(z[0, 0]), matrix)
        elif radius is not None:
            gram = _hyperbolic_gram(z, radius)
        else:
            return super()._recover_unbalanced(z, laws, near)
        root = _root(gram)
        # WᵀJW = S, so that Q takes the eigenvectors of (WWᵀ)^½ J (WWᵀ)^½ to those of S.
        signs = np.repeat([1.0, -1.0], [self.n, self.m])
        frame = np.linalg.eigh(root * signs @ root)[1]
        basis = np.linalg.eigh(matrix)[1]
        basis = np.hstack([basis[:, : self.m], basis[:, self.r - self.n :]])
        if near is not None:  # turned within the eigenspaces of S to come close
            weights = np.vstack(self.unpack(near))
            for block in (slice(self.m), slice(self.m, None)):
                overlap = frame[:, block].T @ root @ weights @ basis[:, block]
                left, _, right_t = np.linalg.svd(overlap)
                basis[:, block] = basis[:, block] @ (left @ right_t).T
        return self._stacked(root @ frame @ basis.T)


def _scalar_gram(z: float, matrix: FloatArray) -> FloatArray:
    """WWᵀ of two vectors with product z and uuᵀ − vvᵀ of this trace and norm."""
    trace = float(np.trace(matrix))
    total = np.sqrt(max(2 * float(np.sum(matrix**2)) - trace**2, 0.0) + 4 * z**2)
    return np.array([[(total + trace) / 2, z], [z, (total - trace) / 2]])


def _hyperbolic_gram(z: FloatArray, a: float) -> FloatArray:
    """WWᵀ = [[(ZZᵀ + a²)^½, Z], [Zᵀ, (ZᵀZ + a²)^½]] of the leaf of hyperbolic isotropy."""
    left, singular, right_t = np.linalg.svd(z)
    rows, columns = (np.append(singular, np.zeros(n - singular.size)) for n in z.shape)
    upper = (left * np.hypot(rows, a)) @ left.T
    lower = (right_t.T * np.hypot(columns, a)) @ right_t
    return np.block([[upper, z], [z.T, lower]])


def _root(matrix: FloatArray) -> FloatArray:
    """Square root of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _means(matrices: list[FloatArray]) -> FloatArray:
    """Means λ of the eigenvalues of symmetric matrices."""
    return np.array([np.trace(matrix) / len(matrix) for matrix in matrices])


def _upper(matrices: list[Any]) -> Any:
    """Upper triangles of symmetric matrices, flat and joined."""
    triangles = [(matrix, *np.triu_indices(matrix.shape[-1])) for matrix in matrices]
    return gs.concatenate([matrix[..., i, j] for matrix, i, j in triangles], axis=-1)


def _ravel(matrices: Sequence[FloatArray]) -> FloatArray:
    return np.concatenate([matrix.ravel() for matrix in matrices])


def _unravel(flat: FloatArray, like: Sequence[FloatArray]) -> list[FloatArray]:
    parts = np.split(flat, np.cumsum([matrix.size for matrix in like])[:-1])
    return [part.reshape(matrix.shape) for part, matrix in zip(parts, like, strict=True)]


def _lyapunov(values: FloatArray, vectors: FloatArray, right: FloatArray) -> FloatArray:
    """Solve A N + N A = ``right`` in the eigenvectors of A ≥ 0, least squares where singular."""
    sums = values[:, None] + values[None, :]
    regular = sums > RANK_RTOL * sums.max(initial=0.0)
    inner = np.divide(vectors.T @ right @ vectors, sums, out=np.zeros_like(sums), where=regular)
    return vectors @ inner @ vectors.T


def _polar(matrix: FloatArray) -> FloatArray:
    """Orthogonal matrix Q with the largest ⟨Q, matrix⟩."""
    left, _, right_t = np.linalg.svd(matrix)
    return left @ right_t


def _eigenspaces(matrix: FloatArray, gap: float) -> list[FloatArray]:
    """Orthonormal bases of the eigenspaces of a symmetric matrix, shape=[n, multiplicity] each."""
    values, vectors = np.linalg.eigh(matrix)
    ends = np.flatnonzero(np.diff(values) > gap) + 1
    return np.split(vectors, ends, axis=1)


def layer_shifts(lams: FloatArray) -> FloatArray:
    """Return the constants c_i = λ_1 + … + λ_{i−1} of the layers i = 1, …, L.

    Parameters
    ----------
    lams : array, shape=[L - 1]

    Returns
    -------
    shifts : array, shape=[L]
    """
    return np.concatenate([[0.0], np.cumsum(lams)])


def show_spectrum(matrix: FloatArray) -> str:
    """Write down the eigenvalues of a symmetric matrix, to four digits each.

    Parameters
    ----------
    matrix : array, shape=[n, n]
        Symmetric.
    """
    values = np.linalg.eigvalsh(matrix)
    return np.array2string(values, formatter={"float_kind": "{:.4g}".format})


def random_orthogonal(size: int, rng: np.random.Generator) -> FloatArray:
    """Draw an orthogonal matrix by Haar measure.

    Parameters
    ----------
    size : int
        Number of rows.

    Returns
    -------
    matrix : array, shape=[size, size]
    """
    if size == 1:
        return rng.choice([-1.0, 1.0], size=(1, 1))
    return np.asarray(ortho_group.rvs(size, random_state=rng))
