"""The interface of an architecture: a parameter θ, a lift φ and conservation laws h."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import autograd
import geomstats.backend as gs
import numpy as np
from autograd.tracer import isbox
from scipy.sparse.linalg import LinearOperator

from liftflow.doors import Guarded, door
from liftflow.errors import (
    ArchitectureError,
    InputError,
    LiftflowError,
    NotDifferentiableError,
    NotRecoverableError,
    ShapeError,
)
from liftflow.linalg import (
    RANK_RTOL,
    ROUNDING,
    lengths,
    minimal_solution,
    over_batch,
    range_basis,
    row_sizes,
    scaled_rank,
)
from liftflow.typing import (
    Covector,
    FloatArray,
    IntArray,
    Jacobian,
    Laws,
    Lifted,
    LiftedMatrix,
    LiftedTangent,
    OneTheta,
    Rng,
    Scalars,
    Tangent,
    Theta,
    as_array,
    as_count,
    as_rng,
    got,
    refuse_beyond,
    shown,
    untraced,
)

MOST_SIGNS = 6
"""Most signs forgotten by φ, all of whose choices are tried for the shortest geodesic."""

_GAUSS_NEWTON_STEPS = 100
_GAUSS_NEWTON_RTOL = 1e-9
_LAWS_RTOL = 1e-10
_NO_BATCH = (
    "{} must broadcast over leading axes, theta of shape [..., dim] to an array of shape "
    "[..., *{}]; write theta[..., i] for theta[i], axis=-1 for sums, and join a list by numpy.stack"
)


@contextmanager
def followed_by_autograd(what: str) -> Iterator[None]:
    """Raise what helps where autograd cannot follow a function that a user wrote.

    Parameters
    ----------
    what : str
        The function.

    Yields
    ------
    None
        To the block that differentiates it.

    Raises
    ------
    NotDifferentiableError
        Autograd failed there.
    """
    try:
        yield
    except (LiftflowError, ArithmeticError, MemoryError):
        raise
    except Exception as error:  # whatever a function does with an array that is traced
        raise NotDifferentiableError(
            f"autograd cannot follow {what} ({error}); write it with autograd.numpy, or with "
            "geomstats.backend and start Python with GEOMSTATS_BACKEND=autograd"
        ) from error


def watched(function: Callable[[Any], Any], what: str) -> Callable[[Any], Any]:
    """Let autograd differentiate a function, but not take one that left it for a constant.

    Parameters
    ----------
    function : callable
        Of one array.
    what : str
        What the error message calls it.

    Returns
    -------
    watched : callable
        The same, but it raises a ``NotDifferentiableError``.
    """

    def watching(point: Any) -> Any:
        value = function(point)
        if not isbox(value):
            elsewhere = 1.01 * untraced(point) + 0.01
            if np.asarray(value).dtype == object or not np.array_equal(
                value, function(elsewhere), equal_nan=True
            ):
                raise NotDifferentiableError(
                    f"autograd cannot follow {what}, which returns numbers out of its sight; do "
                    "not pass its argument to numpy.array or numpy.asarray, nor return a list"
                )
            return value + 0.0 * gs.sum(point)  # a constant, for which autograd would warn
        return value

    return watching


class Architecture(Guarded, ABC):
    r"""A factorisation φ of the loss ℓ = f∘φ, with the conservation laws h of its flows.

    Only :meth:`lift` must be written; then every derivative comes from autograd. Writing
    :meth:`lift_jvp` as well replaces autograd, and writing :meth:`lift_vjp` replaces the dense
    Jacobian: each method that is overridden only makes the others cheaper.

    Parameters
    ----------
    dim : int
        Number of parameters D.
    lifted_shape : tuple of int
        Shape of z = φ(θ), which holds d numbers.
    n_laws : int
        Number k of known conservation laws.
    block_shapes : sequence of tuple of int, optional
        Shapes of the named blocks that the flat θ is made of, in order. By default one block.

    Notes
    -----
    θ is one flat vector, ``shape=[..., dim]``; z has ``shape=[..., *lifted_shape]``. All methods
    broadcast over leading axes.

    References
    ----------
    [MPG]_.
    """

    _usual_fix: ClassVar[str] = "the architecture comes first, then its theta"

    coordinates: ClassVar[str] = "full"
    """Coordinates in which the intrinsic flow of this family is integrated best."""

    _lift_is_checked: bool = False
    _laws_are_checked: bool = False

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say what was forgotten where ``__init__`` of this class was not called."""
            if name in ("dim", "lifted_shape", "n_laws", "block_shapes"):
                raise ArchitectureError(
                    f"{type(self).__name__} has no {name}; begin its __init__ with "
                    "super().__init__(dim, lifted_shape)"
                )
            return object.__getattribute__(self, name)  # fails as it did before

    @door
    def __init__(
        self,
        dim: int,
        lifted_shape: tuple[int, ...],
        n_laws: int = 0,
        block_shapes: Sequence[tuple[int, ...]] | None = None,
    ) -> None:
        self.dim = as_count(dim, "dim", 1)
        refuse_beyond(self.dim, f"one θ of {shown(self.dim)} numbers")
        self.lifted_shape = tuple(as_count(size, "a size of z", 0) for size in lifted_shape)
        self.n_laws = as_count(n_laws, "n_laws")
        self.block_shapes = self._blocks(block_shapes)

    def _blocks(self, shapes: Any) -> tuple[tuple[int, ...], ...]:
        if shapes is None:
            return ((self.dim,),)
        shapes = [tuple(shape) if isinstance(shape, Iterable) else shape for shape in shapes]
        if not all(isinstance(shape, tuple) for shape in shapes):
            raise InputError(f"block_shapes must be tuples, one per block, got {shown(shapes)}")
        blocks = tuple(tuple(as_count(n, "a size of a block") for n in shape) for shape in shapes)
        if sum(map(math.prod, blocks)) != self.dim:
            raise ShapeError(
                f"block_shapes must hold dim = {self.dim} numbers, got {shown(blocks)}"
            )
        return blocks

    @property
    def lifted_dim(self) -> int:
        """Number d of entries of z."""
        return math.prod(self.lifted_shape)

    def describe(self) -> dict[str, int]:
        """Return facts of this family for a summary, by name."""
        return {}

    # The door: what comes in from outside.

    def _theta(self, theta: Any, name: str = "theta", differentiable: bool = True) -> Any:
        return as_array(theta, name, (self.dim,), differentiable=differentiable)

    def _lifted(self, lifted: Any, name: str = "z", differentiable: bool = True) -> Any:
        return as_array(lifted, name, self.lifted_shape, differentiable=differentiable)

    def _laws(self, laws: Any, name: str = "laws") -> Any:
        return as_array(laws, name, (self.n_laws,), differentiable=False)

    def _refuse_dense(self, points: Any, rows: int, columns: int) -> None:
        lead = math.prod(points.shape[:-1])
        refuse_beyond(float(lead) * rows * columns, f"a dense matrix of {rows} × {columns} numbers")

    def _check_lift(self, theta: Any) -> None:
        """Refuse a lift of another shape, or one that does not broadcast, when it is first used."""
        by_autograd = type(self).lift_jvp is Architecture.lift_jvp  # else a family knows better
        if not self._lift_is_checked and by_autograd and not isbox(theta) and np.size(theta):
            self._check_shape(theta, self.lift, "lift", "lifted_shape", self.lifted_shape)
            self._lift_is_checked = True

    def _check_laws(self, theta: Any) -> None:
        """Refuse laws as :meth:`_check_lift` does a lift."""
        by_autograd = type(self).laws_jvp is Architecture.laws_jvp
        if not self._laws_are_checked and by_autograd and not isbox(theta) and np.size(theta):
            laws = self.conservation_laws
            self._check_shape(theta, laws, "conservation_laws", "(n_laws,)", (self.n_laws,))
            self._laws_are_checked = True

    def _check_shape(
        self, theta: Any, function: Any, what: str, given: str, shape: tuple[int, ...]
    ) -> None:
        one = np.reshape(theta, (-1, self.dim))[0]
        points, name = np.stack([one, 1.01 * one]), f"the {what} of {type(self).__name__}"
        each = [np.asarray(function(point)) for point in points]
        if each[0].shape != shape:
            raise ShapeError(
                f"{name} takes θ to an array of shape {each[0].shape}, but {given} is {shape}; "
                f"give super().__init__ what fits {what}(theta)"
            )
        kind = each[0].dtype
        if kind.kind not in "iuf" or (kind.kind == "f" and not np.can_cast(np.float64, kind)):
            raise InputError(f"{name} must return real numbers of float64, got {kind}")
        try:
            both = np.asarray(function(points))
        except Exception as error:
            raise ShapeError(f"{_NO_BATCH.format(name, given)}: {error}") from error
        if not np.array_equal(both.shape, np.shape(each)) or not np.allclose(
            both,
            each,
            rtol=1e-9,
            atol=1e-9 * np.max(np.abs(each), initial=0.0),
            equal_nan=True,
        ):
            raise ShapeError(
                f"{_NO_BATCH.format(name, given)}: two θ at once give other numbers than each"
            )

    # Blocks.

    def pack(self, *blocks: Any) -> Theta:
        """Join the named blocks into the flat vector θ.

        Parameters
        ----------
        *blocks : array-like, shape=[..., *block_shape]
            As many as ``block_shapes``, with the same leading axes.

        Raises
        ------
        ShapeError
            Another number of blocks, or another shape.
        """
        if len(blocks) != len(self.block_shapes):
            raise ShapeError(
                f"pack takes {len(self.block_shapes)} blocks of shapes {self.block_shapes}, "
                f"got {len(blocks)}"
            )
        flat = []
        for number, (block, shape) in enumerate(zip(blocks, self.block_shapes, strict=True)):
            array = as_array(block, f"block {number}", shape)
            lead = array.shape[: len(array.shape) - len(shape)]
            flat.append(gs.reshape(array, (*lead, math.prod(shape))))
        return gs.concatenate(flat, axis=-1)

    def unpack(self, theta: Theta) -> tuple[Any, ...]:
        """Split the flat vector θ into its named blocks.

        Returns
        -------
        *blocks : tuple of array, shape=[..., *block_shape]
        """
        theta = self._theta(theta)
        blocks, start = [], 0
        for shape in self.block_shapes:
            stop = start + math.prod(shape)
            blocks.append(gs.reshape(theta[..., start:stop], (*theta.shape[:-1], *shape)))
            start = stop
        return tuple(blocks)

    # The lift and its derivatives.

    @abstractmethod
    def lift(self, theta: Theta) -> Lifted:
        """Evaluate the lift φ."""

    def lift_jvp(self, theta: Theta, tangent: Tangent) -> LiftedTangent:
        """Push a velocity of θ forward, ∂φ(θ) v."""
        theta, tangent = _together(self._theta(theta), self._theta(tangent, "tangent"))
        self._check_lift(theta)
        name = f"the lift of {type(self).__name__}"
        with followed_by_autograd(name):
            return autograd.make_jvp(watched(self.lift, name))(theta)(tangent)[1]

    def lift_jacobian(self, theta: Theta) -> Jacobian:
        """Jacobian ∂φ(θ) as a dense matrix, from one :meth:`lift_jvp` per parameter."""
        theta = self._theta(theta)
        self._refuse_dense(theta, self.lifted_dim, self.dim)
        columns = self.lift_jvp(theta[..., None, :], gs.eye(self.dim))
        columns = gs.reshape(columns, (*theta.shape[:-1], self.dim, self.lifted_dim))
        return gs.moveaxis(columns, -1, -2)

    def lift_hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> LiftedTangent:
        """Evaluate the second derivative of the lift, ∂²φ(θ)[a, b]; by autograd unless overridden.

        With a = b = θ̇ along a horizontal geodesic of 𝓜_θ₀ it is the acceleration of z, because
        that of θ lies in range ∂hᵀ, on which ∂φ vanishes.

        Returns
        -------
        acceleration : LiftedTangent
            Symmetric in its two vectors.
        """
        theta, a, b = gs.broadcast_arrays(
            self._theta(theta, differentiable=False),
            self._theta(tangent_a, "tangent_a", differentiable=False),
            self._theta(tangent_b, "tangent_b", differentiable=False),
        )
        name = f"the lift of {type(self).__name__}"
        with followed_by_autograd(name):
            jvp = autograd.make_jvp(watched(self.lift, name))
            return autograd.make_jvp(lambda t: jvp(t)(a)[1] + 0.0 * gs.sum(t))(theta)(b)[1]

    def lift_vjp(self, theta: Theta, covector: Covector) -> Tangent:
        """Pull a covector on z back, ∂φ(θ)ᵀ g."""
        theta = self._theta(theta)
        self._check_lift(theta)
        covector = self._lifted(covector, "covector")
        lead = covector.shape[: len(covector.shape) - len(self.lifted_shape)]
        flat = gs.reshape(covector, (*lead, self.lifted_dim))
        return gs.einsum("...ij,...i->...j", self.lift_jacobian(theta), flat)

    def lift_hvp(self, theta: Theta, tangent: Tangent, covector: Covector) -> Tangent:
        """Differentiate the pullback, ∂²φ(θ)[v, ·]ᵀ g, the Hessian of ⟨g, φ⟩ times v."""
        covector = self._lifted(covector, "covector")
        theta, tangent = _together(self._theta(theta), self._theta(tangent, "tangent"))
        lead = covector.shape[: covector.ndim - len(self.lifted_shape)]
        theta = theta + np.zeros((*lead, 1))
        # 0 t, because autograd warns where the derivative of a linear lift is constant.
        with followed_by_autograd(f"the lift of {type(self).__name__}"):
            return autograd.grad(
                lambda t: gs.sum(covector * self.lift_jvp(t, tangent)) + 0.0 * gs.sum(t)
            )(theta)

    def lift_rank(self, theta: OneTheta) -> int:
        """Dimension of the image about φ(θ), the rank of ∂φ(θ).

        Raises
        ------
        ArchitectureError
            ∂φ(θ) is too large for a dense matrix.
        """
        if not self._dense_jacobian:
            raise ArchitectureError(
                f"the rank of ∂φ needs a dense matrix of {self.lifted_dim} × {self.dim} numbers, "
                f"which is too large; {type(self).__name__} may write its own lift_rank(theta)"
            )
        return scaled_rank(self.lift_jacobian(theta))

    def gram_apply(self, theta: Theta, covector: Covector) -> LiftedTangent:
        """Apply the lifted Gram operator, M(θ) g = ∂φ ∂φᵀ g, without forming it."""
        return self.lift_jvp(theta, self.lift_vjp(theta, covector))

    def gram_matrix(self, theta: Theta) -> LiftedMatrix:
        """Lifted Gram operator M(θ) as a dense matrix."""
        theta = self._theta(theta)
        self._refuse_dense(theta, self.lifted_dim, self.lifted_dim)
        jacobian = self.lift_jacobian(theta)
        return gs.einsum("...ik,...jk->...ij", jacobian, jacobian)

    def lifted_distance(self, theta_a: Theta, theta_b: Theta) -> Scalars:
        """Euclidean distance ‖φ(θ_a) − φ(θ_b)‖ between two lifted points."""
        return self._lifted_length(self.lift(theta_a) - self.lift(theta_b))

    def lifted_norm(self, theta: Theta) -> Scalars:
        """Euclidean norm ‖φ(θ)‖ of a lifted point."""
        return self._lifted_length(self.lift(theta))

    def _lifted_length(self, lifted: Any) -> FloatArray:
        lead = lifted.shape[: lifted.ndim - len(self.lifted_shape)]
        return lengths(np.reshape(lifted, (*lead, self.lifted_dim)))

    def project_to_image(self, z: Lifted, *, near: Theta | None = None) -> Lifted:
        """Move a nearby vector onto the image of φ, by default with Gauss–Newton steps on θ.

        Parameters
        ----------
        near : Theta, optional
            A point to start from, where a family does not know better.

        Returns
        -------
        z : Lifted
            Unmoved where the derivative of the lift is onto: its image is open.

        Raises
        ------
        NotRecoverableError
            No ``near`` where one is needed, or the steps do not converge.
        """
        z = self._lifted(z, differentiable=False)
        if self._image_is_open:
            return z.copy()
        if near is None:
            raise NotRecoverableError(
                f"{type(self).__name__} finds its image by iteration and needs a point to start "
                "from; pass near=theta0"
            )
        near = self._theta(near, "near", differentiable=False)
        return over_batch(self._nearest_on_image, [z, near], [len(self.lifted_shape), 1])

    _image_is_open: bool = False
    """Whether ∂φ was onto at some point, and so is almost everywhere."""

    def _nearest_on_image(self, z: FloatArray, theta: FloatArray) -> FloatArray:
        lifted, counts = np.asarray(self.lift(theta)), [math.prod(s) for s in self.block_shapes]
        for _ in range(_GAUSS_NEWTON_STEPS):
            blocks = np.split(np.abs(theta), np.cumsum(counts)[:-1])
            tops = [np.max(block, initial=0.0) for block in blocks]
            units = np.repeat([top or max(tops) or 1.0 for top in tops], counts)
            jacobian = self.lift_jacobian(theta) * units
            left, singular, right_t = np.linalg.svd(jacobian, full_matrices=False)
            rank = int(np.sum(singular > RANK_RTOL * singular[0]))
            if rank == self.lifted_dim:
                self._image_is_open = True
                return z
            along = left[:, :rank].T @ np.ravel(z - lifted)
            size = np.linalg.norm(z - lifted)
            # Only the part along the image can be mended, to the rounding errors of φ.
            if np.linalg.norm(along) <= 1e-15 * (np.linalg.norm(z) + np.linalg.norm(lifted)):
                return lifted
            step = units * (right_t[:rank].T @ (along / singular[:rank]))
            while np.linalg.norm(step) > 1e-16 * np.linalg.norm(theta):
                trial = np.asarray(self.lift(theta + step))
                if np.linalg.norm(z - trial) < size:
                    break
                step = step / 2
            else:  # nothing left to gain
                return lifted
            theta, lifted = theta + step, trial
        raise NotRecoverableError(
            f"no point of the image was found near z: a gap of {np.linalg.norm(along):.1e} along "
            f"the image is left after {_GAUSS_NEWTON_STEPS} steps; start from a closer near"
        )

    def project_to_range(self, theta: Theta, lifted_vec: LiftedTangent) -> LiftedTangent:
        """Project orthogonally onto range ∂φ(θ), the tangent space of the image at φ(θ).

        Parameters
        ----------
        lifted_vec : LiftedTangent
            Any vector of the lifted space.
        """

        def project(point: FloatArray, vector: FloatArray) -> FloatArray:
            if self._dense_jacobian:
                basis = range_basis(self.lift_jacobian(point))
                return (basis @ (basis.T @ vector.ravel())).reshape(vector.shape)
            return self.lift_jvp(point, minimal_solution(self._differential(point), vector))

        return self._over_lifted(project, theta, lifted_vec, self.lifted_shape)

    def solve_vjp(self, theta: Theta, covector: Tangent) -> Covector:
        """Solve ∂φ(θ)ᵀ g = v for the shortest g on z, in the sense of least squares."""
        arrays = [
            self._theta(theta, differentiable=False),
            self._theta(covector, "covector", differentiable=False),
        ]

        def solve(point: FloatArray, vector: FloatArray) -> FloatArray:
            if self._dense_jacobian:
                solution = np.linalg.pinv(self.lift_jacobian(point).T, rcond=RANK_RTOL) @ vector
            else:
                solution = minimal_solution(self._differential(point).T, vector)
            return solution.reshape(self.lifted_shape)

        return over_batch(solve, arrays, [1, 1], shape=self.lifted_shape)

    def solve_jvp(self, theta: Theta, lifted_tangent: LiftedTangent) -> Tangent:
        """Solve ∂φ(θ) v = ζ for the shortest v, the horizontal lift, in the sense of least squares.

        Returns
        -------
        horizontal_vec : Tangent
            In range ∂φᵀ.
        """

        def solve(point: FloatArray, vector: FloatArray) -> FloatArray:
            if self._dense_jacobian:
                return np.linalg.pinv(self.lift_jacobian(point), rcond=RANK_RTOL) @ vector.ravel()
            return minimal_solution(self._differential(point), vector.ravel())

        return self._over_lifted(solve, theta, lifted_tangent, (self.dim,))

    @property
    def _dense_jacobian(self) -> bool:
        return self.lifted_dim * self.dim <= 4_000_000

    def _differential(self, theta: FloatArray) -> LinearOperator:
        """∂φ(θ) as an operator between flat vectors."""
        return LinearOperator(
            (self.lifted_dim, self.dim),
            matvec=lambda v: self.lift_jvp(theta, v.ravel()).ravel(),
            rmatvec=lambda g: self.lift_vjp(theta, g.reshape(self.lifted_shape)),
            dtype=np.float64,
        )

    def _over_lifted(
        self, function: Any, theta: Any, lifted: Any, shape: tuple[int, ...]
    ) -> FloatArray:
        arrays = [
            self._theta(theta, differentiable=False),
            self._lifted(lifted, "vector", differentiable=False),
        ]
        return over_batch(function, arrays, [1, len(self.lifted_shape)], shape)

    # The conservation laws.

    def conservation_laws(self, theta: Theta) -> Laws:
        """Evaluate the known conservation laws h; none are known unless a family says so."""
        return self._theta(theta)[..., :0]

    def conservation_laws_jacobian(self, theta: Theta) -> Any:
        """Jacobian ∂h(θ) as a dense matrix, from one :meth:`laws_jvp` per parameter.

        Returns
        -------
        jacobian : array, shape=[..., n_laws, dim]
        """
        theta = self._theta(theta)
        self._refuse_dense(theta, self.dim, self.dim)  # on the way
        columns = self.laws_jvp(theta[..., None, :], gs.eye(self.dim))
        return gs.moveaxis(columns, -1, -2)

    def laws_rank(self, theta: OneTheta) -> int:
        """Number of independent laws at θ, the rank of ∂h(θ)."""
        point = as_array(theta, "theta", (self.dim,), batch=False, differentiable=False)
        return scaled_rank(self.conservation_laws_jacobian(point))

    def laws_jvp(self, theta: Theta, tangent: Tangent) -> Laws:
        """Push a velocity of θ forward by the laws, ∂h(θ) v; by autograd unless overridden."""
        theta, tangent = _together(self._theta(theta), self._theta(tangent, "tangent"))
        self._check_laws(theta)
        if self.n_laws == 0:
            return theta[..., :0]
        name = f"the laws of {type(self).__name__}"
        with followed_by_autograd(name):
            return autograd.make_jvp(watched(self.conservation_laws, name))(theta)(tangent)[1]

    def laws_size(self, theta: Theta, tangent: Tangent | None = None) -> Laws:
        """Size of the terms that h(θ), or ∂h(θ) v, is a sum of: the unit of tolerances for it.

        Parameters
        ----------
        tangent : Tangent, optional
            The vector v; without it the terms are those of h(θ).

        Returns
        -------
        size : Laws
            By default of ∂h, block by block of θ.
        """
        theta = self._theta(theta, differentiable=False)
        jacobian = self._block_sizes(self.conservation_laws_jacobian(theta))
        if tangent is None:
            size = np.einsum("...kb,...b->...k", jacobian, self._block_sizes(theta))
            return size + np.abs(self.conservation_laws(theta))
        vector = self._theta(tangent, "tangent", differentiable=False)
        return np.einsum("...kb,...b->...k", jacobian, self._block_sizes(vector))

    def _block_sizes(self, vectors: Any) -> FloatArray:
        """Largest entry of each block of θ, shape=[..., n_blocks]."""
        starts = np.cumsum([0, *map(math.prod, self.block_shapes[:-1])])
        return np.maximum.reduceat(np.abs(vectors), starts, axis=-1)

    def laws_hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> Laws:
        """Second derivative ∂²h(θ)[v, w] of the laws; by autograd unless overridden."""
        tangent_a = self._theta(tangent_a, "tangent_a")
        theta, second = _together(self._theta(theta), self._theta(tangent_b, "tangent_b"))
        theta, first = _together(theta, tangent_a)
        if self.n_laws == 0:
            return theta[..., :0]
        with followed_by_autograd(f"the laws of {type(self).__name__}"):
            return autograd.make_jvp(lambda t: self.laws_jvp(t, second))(theta)(first)[1]

    def project_to_tangent(self, theta: Theta, vector: Tangent) -> Tangent:
        """Project orthogonally onto ker ∂h(θ), v − ∂hᵀ(∂h∂hᵀ)⁺∂h v."""
        theta, vector = self._theta(theta), self._theta(vector, "vector")
        return vector - self.solve_laws_jvp(theta, self.laws_jvp(theta, vector))

    def solve_laws_jvp(self, theta: Theta, laws_tangent: Laws) -> Tangent:
        """Solve ∂h(θ) v = w for the shortest v, ∂hᵀ(∂h∂hᵀ)⁺ w.

        Returns
        -------
        normal_vec : Tangent
            Orthogonal to ker ∂h; least squares where laws are dependent.
        """
        jacobian = np.asarray(self.conservation_laws_jacobian(theta))
        tangent, sizes = self._laws(laws_tangent, "laws_tangent"), row_sizes(jacobian)
        inverse = np.linalg.pinv(jacobian / sizes[..., None], rcond=RANK_RTOL)
        return np.einsum("...jk,...k->...j", inverse, tangent / sizes)

    def project_to_laws(self, theta: Theta, laws: Laws, *, max_steps: int = 50) -> Theta:
        """Move θ to a nearby point of {h = laws}: Gauss–Newton steps along range ∂hᵀ.

        Parameters
        ----------
        max_steps : int
            Largest number of Gauss–Newton steps.

        Raises
        ------
        NotRecoverableError
            The steps do not converge: θ is too far, or ∂h loses rank on the way.
        """
        theta, max_steps = (
            self._theta(theta, differentiable=False),
            as_count(max_steps, "max_steps"),
        )
        laws = self._laws(laws)

        def project(point: FloatArray, target: FloatArray) -> FloatArray:
            gap, size = np.inf, self.laws_size(point) + np.abs(target)
            size = np.where(size > 0, size, 1.0)
            for _ in range(max_steps):
                defect = target - self.conservation_laws(point)
                previous, gap = gap, float(np.max(np.abs(defect) / size, initial=0.0))
                if gap == 0.0 or (gap < _LAWS_RTOL and gap >= previous / 2):
                    return point
                point = point + self.solve_laws_jvp(point, defect)
            raise NotRecoverableError(
                f"no point of the invariant set found near theta: the laws still differ by "
                f"{gap:.2e} of their size after {max_steps} Gauss–Newton steps; start from a "
                "closer theta"
            )

        return over_batch(project, [theta, laws], [1, 1])

    def recover(self, z: Lifted, laws: Laws, *, near: Theta | None = None) -> Theta:
        """Recover Ψ(z, h): a point θ of the fibre of φ over z on which the laws have these values.

        Parameters
        ----------
        near : Theta, optional
            A point to start from, which also fixes what φ forgets (signs).

        Returns
        -------
        theta : Theta
            Of all such points one close to ``near``; found by Gauss–Newton steps on
            (φ, h) = (z, laws) unless a family knows better.

        Raises
        ------
        NotRecoverableError
            No ``near`` where one is needed, or the steps do not converge.
        """
        if near is None:
            raise NotRecoverableError(
                f"{type(self).__name__} recovers by iteration and needs a point to start from; "
                "pass near=theta0"
            )
        arrays = [
            self._lifted(z, differentiable=False),
            self._laws(laws),
            self._theta(near, "near", differentiable=False),
        ]
        ndims = [len(self.lifted_shape), 1, 1]
        return over_batch(self._gauss_newton, arrays, ndims, shape=(self.dim,))

    def _gauss_newton(self, z: FloatArray, laws: FloatArray, theta: FloatArray) -> FloatArray:
        found, size = self._solve_steps(z, laws, theta, alike=False)
        if not size <= _GAUSS_NEWTON_RTOL:
            # The terms of an entry vanish at its critical values, and its unit grows in the way.
            found, size = self._solve_steps(z, laws, theta, alike=True)
        if not size <= _GAUSS_NEWTON_RTOL:
            raise NotRecoverableError(
                f"Gauss–Newton on (φ, h) ended at a relative residual of {size:.1e}, expected at "
                f"most {_GAUSS_NEWTON_RTOL:.0e}; is z on the image, and near close to it?"
            )
        return found

    def _solve_steps(
        self, z: FloatArray, laws: FloatArray, theta: FloatArray, *, alike: bool
    ) -> tuple[FloatArray, float]:
        """Gauss–Newton on (φ, h), and the residual left, each entry in units of its own terms.

        Where entries count alike, in one unit for φ and one for h, rounding errors beside it are 0.
        """
        target, n_lifted = np.concatenate([np.ravel(z), laws]), self.lifted_dim

        def residual(point: FloatArray) -> FloatArray:
            return np.append(self.lift(point), self.conservation_laws(point)) - target

        counts = [math.prod(shape) for shape in self.block_shapes]
        gap = residual(theta)
        for _ in range(_GAUSS_NEWTON_STEPS):
            # Each block of θ in its own units too: no step, rank or tolerance depends on the units
            # of θ, or on those of one layer against another.
            blocks = [self.lift_jacobian(theta), self.conservation_laws_jacobian(theta)]
            jacobian, own = np.vstack(blocks), self._block_sizes(theta)
            terms = self._block_sizes(jacobian) @ own + np.abs(target)
            terms = sizes = np.where(terms > 0, terms, 1.0)
            if alike:
                parts = np.split(terms, [n_lifted])
                sizes = np.concatenate([0 * part + np.max(part, initial=0.0) for part in parts])
            columns = np.repeat(np.where(own > 0, own, np.max(own) or 1.0), counts)
            size = np.linalg.norm(gap / sizes)
            if size <= np.finfo(np.float64).eps:
                break
            relative = jacobian / sizes[:, None] * columns
            step = columns * (np.linalg.pinv(relative, rcond=RANK_RTOL) @ (gap / sizes))
            fraction, trial = 1.0, residual(theta - step)
            while not np.linalg.norm(trial / sizes) < size and fraction > 1e-4:
                fraction /= 2
                trial = residual(theta - fraction * step)
            if not np.linalg.norm(trial / sizes) < size:  # nothing left to gain
                break
            theta, gap = theta - fraction * step, trial
        if alike:
            gap = np.where(np.abs(gap) > ROUNDING * sizes, gap, 0.0)
        return theta, float(np.linalg.norm(gap / terms))

    def align(self, theta: Theta, base_point: Theta) -> Theta:
        """Move θ within its fibre of φ on its invariant set close to another point of that set.

        Returns
        -------
        theta : Theta
            With the same φ and h; by default what recovery from the other point leads to.
        """
        theta, base_point = (
            self._theta(point, name, differentiable=False)
            for point, name in ((theta, "theta"), (base_point, "base_point"))
        )
        return over_batch(self._align, [theta, base_point], [1, 1])

    def _align(self, theta: FloatArray, base_point: FloatArray) -> FloatArray:
        """The point that recovery from the other one leads to, if it is closer."""
        try:
            found = self.recover(self.lift(theta), self.conservation_laws(theta), near=base_point)
        except NotRecoverableError:
            return theta
        return min(theta, found, key=lambda point: float(lengths(point - base_point)))

    def sheets(self, theta: OneTheta) -> FloatArray:
        """Return the points that φ and h do not tell from θ and that differ from it in signs alone.

        Returns
        -------
        sheets : array, shape=[n_sheets, dim]
            The first is θ; the only one where φ forgets no signs, or more than ``MOST_SIGNS``.
        """
        theta = as_array(theta, "theta", (self.dim,), batch=False, differentiable=False)
        turned = self._signs()
        if len(turned) > MOST_SIGNS:
            turned = turned[:0]
        choices = np.array(list(itertools.product((0, 1), repeat=len(turned)))) @ turned
        return theta * (1.0 - 2.0 * (choices % 2))

    def _signs(self) -> IntArray:
        """What turns its sign with each sign that φ forgets, as ones, shape=[n_signs, dim]."""
        return np.zeros((0, self.dim), dtype=np.intp)

    def basis_chart(self, theta: OneTheta) -> Any:
        """Chart of φ(𝓜_θ₀) by basis paths; only networks on graphs have one.

        Raises
        ------
        ArchitectureError
            This family has no such chart.
        """
        raise ArchitectureError(
            f"{type(self).__name__} has no basis-path chart; use coordinates='full'"
        )

    # Points.

    def random_point(self, n_samples: int = 1, rng: Rng = None) -> Theta:
        """Draw parameters, by default standard normal.

        Parameters
        ----------
        n_samples : int
            With one sample there is no sample axis, as in geomstats.
        """
        count = as_count(n_samples, "n_samples", 1)
        refuse_beyond(count * self.dim, f"{count} points of {self.dim} numbers")
        points = as_rng(rng).standard_normal((count, self.dim))
        return points[0] if count == 1 else points

    def fibre_point(self, theta: Theta, rng: Rng = None) -> Theta:
        """Draw another point of the fibre of φ through θ, on another invariant set.

        Returns
        -------
        theta : Theta
            The same z, other conservation laws: what a negative control starts from.

        Raises
        ------
        ArchitectureError
            This family does not know how.
        """
        raise ArchitectureError(f"{type(self).__name__} defines no fibre_point(theta)")


def architecture_of(thing: Any, name: str) -> Architecture:
    """Return the architecture of an invariant set, an image or a cometric, or say what it is.

    Parameters
    ----------
    thing : object
        Has an architecture.
    name : str
        What the error message calls it.

    Raises
    ------
    InputError
        It has none.
    """
    architecture = getattr(thing, "architecture", None)
    if isinstance(thing, type) or not isinstance(architecture, Architecture):
        raise InputError(f"{name} must have an architecture, as InvariantSet has, got {got(thing)}")
    return architecture


def _together(first: Any, second: Any) -> tuple[Any, Any]:
    """Broadcast two arrays against each other, differentiably, which gs.broadcast_arrays is not."""
    return first + 0.0 * second, second + 0.0 * first
