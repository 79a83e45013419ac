"""Linear networks: products of matrices, of any depth."""

import math
from collections.abc import Sequence
from itertools import combinations, pairwise, product
from typing import Any

import numpy as np

from liftflow.architectures.balance import BALANCE_RTOL as BALANCE_RTOL
from liftflow.architectures.balance import (
    BalanceLaws,
    MatrixProduct,
    balanced_layers,
    eigenspaces,
    hidden_values,
    hyperbolic_gram,
    mean_eigenvalues,
    random_orthogonal,
    read_balance,
    scalar_gram,
    square_root,
    transpose,
)
from liftflow.architectures.balance import layer_shifts as layer_shifts
from liftflow.architectures.base import Architecture
from liftflow.architectures.maps import SmoothMap
from liftflow.architectures.recovery import refuse_beside_image
from liftflow.doors import door
from liftflow.errors import (
    ArchitectureError,
    InputError,
    NotIntrinsicError,
    NotRecoverableError,
    ShapeError,
)
from liftflow.linalg import ROUNDING, far_unit, layer_squares, lengths, over_batch
from liftflow.typing import (
    Block,
    FloatArray,
    IntArray,
    Laws,
    Lifted,
    Matrix,
    OneLaws,
    OneTheta,
    Rng,
    Scalars,
    Tangent,
    Theta,
    as_array,
    as_count,
    as_ordered,
    as_rng,
    shown,
)

_ALIGN_SWEEPS = 200
_ON_IMAGE = 1e-6  # relative part of z that no product of such layers has, up to which it is one


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
    [MPG]_, for square weights; rectangular ones: ours. Balanced networks: [Arora2018]_; their flow
    as a Riemannian gradient flow: [Bah2022]_.

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
        self._set_sizes(
            sum(map(math.prod, shapes)),
            (self.widths[-1], self.widths[0]),
            sum([n * (n + 1) // 2 for n in self.widths[1:-1]]),
            tuple(shapes),
        )

    def _block_shapes(self) -> list[tuple[int, ...]]:
        return [(b, a) for a, b in pairwise(self.widths)]

    def _facts(self) -> str:
        return str(self.widths)

    # θ and its layers: all that the families of matrix products differ in.

    law_scale: float = 1.0
    """Factor of the conservation laws."""

    def layers(self, theta: Theta) -> list[Block]:
        """Return the matrices U_1, …, U_L of the product, an affine function of θ."""
        return self._layers(self._theta(theta))

    def _layers(self, theta: Theta) -> list[Block]:
        return list(self._unpack(theta))

    def layer_velocities(self, tangent: Tangent) -> list[Block]:
        """Return the velocities of the layers, the linear part of :meth:`layers`."""
        return self._velocities(self._theta(tangent, "tangent"))

    def _velocities(self, tangent: Tangent) -> list[Block]:
        return self._layers(tangent)

    def _pull_layers(self, covectors: list[Block]) -> Tangent:
        """Transpose of :meth:`layer_velocities`."""
        return self._pack(covectors)

    def from_layers(self, layers: Sequence[Block]) -> Theta:
        """Find the θ with these layers."""
        return self.pack(*self._each_layer(layers))

    def _each_layer(self, layers: Sequence[Block]) -> list[Block]:
        count = len(self.widths) - 1
        if not isinstance(layers, list | tuple) or len(layers) != count:
            raise InputError(f"layers must be a list of {count} matrices, got {shown(layers)}")
        return [as_array(layer, "a layer") for layer in layers]

    # The lift.

    def _lift_map(self) -> SmoothMap:
        return MatrixProduct(self)

    def lift(self, theta: Theta) -> Lifted:
        """Evaluate the product U_L ⋯ U_1."""
        return self.phi.own("value")(self._theta(theta))

    def project_to_image(self, z: Lifted, *, near: Theta | None = None) -> Lifted:
        """Find the nearest matrix of rank at most the smallest width."""
        z, rank = self._lifted(z, differentiable=False), min(self.widths)
        if rank == min(self.lifted_shape):
            return z.copy()
        left, singular, right_t = np.linalg.svd(z, full_matrices=False)
        return (left[..., :rank] * singular[..., None, :rank]) @ right_t[..., :rank, :]

    # The conservation laws.

    def _laws_map(self) -> BalanceLaws:
        return BalanceLaws(self)

    def law_matrices(self, theta: Theta) -> list[Block]:
        """Evaluate the symmetric matrices S_i of the laws, times ``law_scale``."""
        return self._laws_map().matrices(self._theta(theta))

    def conservation_laws(self, theta: Theta) -> Laws:
        """Evaluate the laws, the upper triangles of all S_i."""
        return self.h.own("value")(self._theta(theta))

    def split_laws(self, laws: OneLaws) -> list[FloatArray]:
        """Rebuild the symmetric matrices S_i, without ``law_scale``, from the flat laws."""
        flat = as_array(laws, "laws", (self.n_laws,), batch=False, differentiable=False)
        return self._laws_map().split(flat)

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
        sizes = as_array(sizes, "sizes", differentiable=False)
        noise = as_array(noise, "noise", differentiable=False)
        if not {sizes.shape, noise.shape} <= {(), (len(matrices),)}:
            raise ShapeError(
                f"sizes and noise must be numbers, or {len(matrices)} each, got the shapes "
                f"{sizes.shape} and {noise.shape}"
            )
        sizes, noise = (np.broadcast_to(bound, (len(matrices),)) for bound in (sizes, noise))
        return read_balance(matrices, mean_eigenvalues(matrices), sizes, tolerance, noise)

    def sizes(self, theta: OneTheta) -> Scalars:
        """Size ‖U_i‖² + ‖U_{i+1}‖² of the layers next to each S_i, the unit of distances."""
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
        theta = self._one_theta(theta)
        layers = [np.asarray(layer) for layer in self._layers(theta)]
        return hidden_values(self.widths, layers, np.asarray(self.phi(theta)), tolerance)

    # Points.

    def _drawn(self, count: int, rng: np.random.Generator) -> Theta:
        """Layers with normal entries of variance 1/fan-in."""
        layers = [rng.standard_normal((count, b, a)) / np.sqrt(a) for a, b in pairwise(self.widths)]
        return self.from_layers(layers)

    def balanced_point(self, lams: Scalars, rng: Rng = None) -> OneTheta:
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
        return self.from_layers(balanced_layers(self.widths, squares, lams, frames))

    def _lams(self, lams: Scalars) -> FloatArray:
        array = as_array(lams, "lams", differentiable=False)
        count = len(self.widths) - 2
        if array.ndim > 1 or array.size not in (1, count):
            raise ArchitectureError(
                f"lams must hold one λ per hidden layer, {count}, or one for all; got shape "
                f"{array.shape}"
            )
        return np.broadcast_to(np.ravel(array), (count,))

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
        NotOnImageError
            The rank of z is larger than the smallest width.
        NotRecoverableError
            No such point, or none found.
        """
        arrays = [self._lifted(z, differentiable=False), self._laws(laws)]
        if near is not None:
            arrays.append(self._theta(near, "near", differentiable=False))
        return over_batch(self._recover, arrays, [2, 1, 1][: len(arrays)], shape=(self.dim,))

    def _unit_of(self, size: float, degree: int = 4) -> float:
        """Find a unit of θ in which powers of such a size neither under- nor overflow.

        All that is said of θ is said of its multiples: φ and h are homogeneous.
        """
        return far_unit(float(size), degree)

    def _recover(self, z: FloatArray, laws: FloatArray, near: FloatArray | None = None) -> OneTheta:
        depth = len(self.widths) - 1
        largest = np.max(np.abs(z), initial=0.0), np.max(np.abs(laws), initial=0.0)
        unit = self._unit_of(max(largest[0] ** (1 / depth), largest[1] ** 0.5))
        if unit == 1.0:
            return self._recovered(z, laws, near)
        near = None if near is None else near / unit
        return unit * self._recovered(z / unit**depth, laws / unit / unit, near)

    def _recovered(self, z: FloatArray, laws: FloatArray, near: FloatArray | None) -> OneTheta:
        matrices = self.split_laws(laws)
        # The laws are as precise as the layers that they were taken from were large.
        noise = np.zeros(len(matrices)) if near is None else ROUNDING * self.sizes(near)
        centres = mean_eigenvalues(matrices)
        centres[np.abs(centres) <= noise] = 0.0
        left, singular, right_t = np.linalg.svd(z)
        self._require_image(singular)
        typical = np.max(singular, initial=0.0) ** (2 / len(self.widths[1:]))
        if np.all(np.abs(centres) <= ROUNDING * typical):  # as all layers are then, of one size
            centres[:] = 0.0
        squares = self._squares(singular, centres)
        layers = np.sum(squares, axis=0)
        sizes = layers[:-1] + layers[1:] + [np.linalg.norm(matrix) for matrix in matrices]
        try:
            lams = read_balance(matrices, centres, sizes, BALANCE_RTOL, noise)
            if np.any(lams != centres):
                squares = self._squares(singular, lams)
            frames = self._frames(right_t.T, left)
            return self.from_layers(
                balanced_layers(self.widths, squares, lams, frames, np.max(noise))
            )
        except NotIntrinsicError:
            return self._recover_unbalanced(z, laws, near)
        except ArchitectureError as error:
            raise NotRecoverableError(str(error)) from error

    def _require_image(self, singular: FloatArray) -> None:
        """Refuse the singular values of a matrix that has no such factors: of a larger rank."""
        rank = min(self.widths)
        if singular.shape[-1] <= rank:
            return
        sizes = lengths(singular)
        beyond = lengths(singular[..., rank:]) / np.where(sizes > 0, sizes, 1.0)
        how = f", the matrices of rank at most {rank}: relative residual"
        refuse_beside_image(float(np.max(beyond, initial=0.0)), _ON_IMAGE, how)

    def _recover_unbalanced(
        self, z: FloatArray, laws: FloatArray, near: FloatArray | None
    ) -> OneTheta:
        return super().recover(z, laws, near=near)

    def _section(self, z: FloatArray, lams: FloatArray) -> OneTheta:
        left, singular, right_t = np.linalg.svd(z)
        squares, frames = self._squares(singular, lams), self._frames(right_t.T, left)
        return self.from_layers(balanced_layers(self.widths, squares, lams, frames))

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

    def _align(self, theta: FloatArray, base_point: FloatArray) -> OneTheta:
        """Turn the frames of the hidden layers, one after the other: Procrustes' problem in each.

        The laws allow what commutes with them, so one turn for each of their eigenspaces.
        """
        layers, targets = self.layers(theta), self.layers(base_point)
        laws = self.split_laws(self.conservation_laws(theta))
        gaps = BALANCE_RTOL * self.sizes(theta)
        spaces = [eigenspaces(matrix, gap) for matrix, gap in zip(laws, gaps, strict=True)]
        for sweep in range(_ALIGN_SWEEPS):
            moved = 0.0
            for i, bases in enumerate(spaces):
                before, after = layers[i], layers[i + 1]
                overlap = targets[i] @ before.T
                if sweep > 0 or i + 1 == len(spaces):  # the frame ahead means nothing yet
                    overlap = overlap + targets[i + 1].T @ after
                parts = [basis @ _turn(basis.T @ overlap @ basis) @ basis.T for basis in bases]
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
        lams = mean_eigenvalues(laws)
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
    [MPG]_; for r > min(n, m) ours. The leaf of hyperbolic isotropy: [Tu2024]_, equation 1, and
    [ZhangPeyre2026]_.
    """

    def __init__(self, n: int, m: int, r: int) -> None:
        self.n, self.m, self.r = [as_count(size, "a size", 1) for size in (n, m, r)]
        super().__init__([self.m, self.r, self.n])

    def _block_shapes(self) -> list[tuple[int, ...]]:
        return [(self.n, self.r), (self.m, self.r)]

    def _facts(self) -> str:
        return f"{self.n}, {self.m}, {self.r}"

    def _layers(self, theta: Theta) -> list[Block]:
        left, right = self._unpack(theta)
        return [transpose(right), left]

    def _pull_layers(self, covectors: list[Block]) -> Tangent:
        return self._pack([covectors[1], transpose(covectors[0])])

    def from_layers(self, layers: Sequence[Block]) -> Theta:
        """Find the θ = (U, V) with the layers Vᵀ and U."""
        first, last = self._each_layer(layers)
        if first.ndim < 2:
            raise ShapeError(f"a layer must be a matrix, got shape {first.shape}")
        return self.pack(last, transpose(first))

    def hyperbolic_point(self, a: float, rng: Rng = None) -> OneTheta:
        r"""Draw a point of the leaf of hyperbolic isotropy, W Wᵀ J W Wᵀ = a² J.

        Here W = [U; V] and J = diag(I_n, −I_m). S has the eigenvalues a (n times), −a (m times)
        and 0: it is not relaxed balanced, and yet the metric property holds.

        Raises
        ------
        ArchitectureError
            r < n + m, or a is not positive.

        References
        ----------
        [Tu2024]_, [ZhangPeyre2026]_.
        """
        if self.r < self.n + self.m:
            raise ArchitectureError(
                f"the hyperbolic leaf needs r ≥ n + m = {self.n + self.m}, got r = {self.r}"
            )
        radius = float(as_array(a, "a", (), batch=False, differentiable=False))
        if not radius > 0:
            raise ArchitectureError(f"a must be positive, got {a}")
        rng = as_rng(rng)
        gram = hyperbolic_gram(rng.standard_normal((self.n, self.m)), radius)
        frame = random_orthogonal(self.r, rng)[:, : self.n + self.m]
        return self._stacked(square_root(gram) @ frame.T)

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
    ) -> OneTheta:
        """Build the point from WWᵀ, where z and the laws determine it: W = (WWᵀ)^½ Qᵀ."""
        (matrix,) = self.split_laws(laws)
        radius = self.hyperbolic_radius(laws)
        if self.n == self.m == 1:
            gram = scalar_gram(float(z[0, 0]), matrix)
        elif radius is not None:
            gram = hyperbolic_gram(z, radius)
        else:
            return super()._recover_unbalanced(z, laws, near)
        root = square_root(gram)
        # WᵀJW = S, so that Q takes the eigenvectors of (WWᵀ)^½ J (WWᵀ)^½ to those of S.
        signs = np.repeat([1.0, -1.0], [self.n, self.m])
        frame = np.linalg.eigh(root * signs @ root)[1]
        basis = np.linalg.eigh(matrix)[1]
        basis = np.hstack([basis[:, : self.m], basis[:, self.r - self.n :]])
        if near is not None:  # turned within the eigenspaces of S to come close
            weights = np.vstack(self.unpack(near))
            for block in (slice(self.m), slice(self.m, None)):
                turn = _turn(frame[:, block].T @ root @ weights @ basis[:, block])
                basis[:, block] = basis[:, block] @ turn.T
        return self._stacked(root @ frame @ basis.T)


def _turn(overlap: FloatArray) -> Matrix:
    """Orthogonal matrix Q with the largest ⟨Q, overlap⟩; scipy's takes half as long again."""
    left, _, right_t = np.linalg.svd(overlap)
    return left @ right_t
