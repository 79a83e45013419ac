"""The interface of an architecture: a parameter θ, a lift φ and conservation laws h."""

import itertools
import math
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import autograd.numpy as anp
import geomstats.backend as gs
import numpy as np

from liftflow.architectures.maps import LawsMap, SmoothMap, over_rows, with_overrides
from liftflow.architectures.maps import followed_by_autograd as followed_by_autograd
from liftflow.architectures.maps import watched as watched
from liftflow.architectures.recovery import on_image, with_laws, with_lift_and_laws
from liftflow.architectures.signs import MOST_SIGNS
from liftflow.doors import Guarded, counted
from liftflow.errors import ArchitectureError, InputError, NotRecoverableError, ShapeError
from liftflow.linalg import lengths, over_batch
from liftflow.typing import (
    Block,
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
    as_blocks,
    as_count,
    as_function,
    as_ordered,
    as_rng,
    got,
    refuse_beyond,
    shown,
)

_PHI = {
    "lift": "value",
    "lift_jvp": "jvp",
    "lift_vjp": "vjp",
    "lift_jacobian": "jacobian",
    "lift_hessian": "hessian",
    "lift_hvp": "hvp",
    "lift_rank": "rank",
    "solve_jvp": "solve",
    "solve_vjp": "solve_transposed",
    "project_to_range": "project_to_range",
}
"""Verbs of φ by the names under which a class may write them itself; and those of h."""

_H = {
    "conservation_laws": "value",
    "laws_jvp": "jvp",
    "conservation_laws_jacobian": "jacobian",
    "laws_hessian": "hessian",
    "laws_rank": "rank",
    "laws_size": "terms",
    "solve_laws_jvp": "solve",
    "project_to_tangent": "project_to_kernel",
}


_FURTHER = {
    "align",
    "basis_chart",
    "coordinates",
    "describe",
    "fibre_point",
    "lifted_dim",
    "lifted_distance",
    "lifted_norm",
    "project_to_image",
    "project_to_laws",
    "sheets",
}
"""What works, and leaves the list of names that a reader meets first."""


class _Surface(ABCMeta):
    """Leaves what few readers look for out of ``dir``: the names that a class calls further."""

    _further: frozenset[str]

    def __dir__(cls) -> list[str]:
        """List the names for tables of contents and for completion."""
        return [name for name in super().__dir__() if name not in cls._further]


class Architecture(Guarded, metaclass=_Surface):
    r"""A factorisation φ of the loss ℓ = f∘φ, with the conservation laws h of its flows.

    Only :meth:`lift` must be written; then every derivative comes from autograd. Writing
    :meth:`lift_jvp` as well replaces autograd, and writing :meth:`lift_vjp` replaces the dense
    Jacobian: each method that is overridden only makes the others cheaper. The methods look at
    what they are given, and then call the maps :attr:`phi` and :attr:`h`, which do not.

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

    _further: ClassVar[frozenset[str]] = frozenset(_PHI.keys() | _H.keys() | _FURTHER) - {
        "lift",
        "lift_jvp",
        "lift_vjp",
        "lift_jacobian",
        "conservation_laws",
        "conservation_laws_jacobian",
    }

    def __dir__(self) -> list[str]:
        """Leave the further names out, as the class does."""
        return [name for name in super().__dir__() if name not in self._further]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say what was forgotten where ``__init__`` of this class was not called."""
            if name in ("dim", "lifted_shape", "n_laws", "block_shapes"):
                raise ArchitectureError(
                    f"{type(self).__name__} has no {name}; begin its __init__ with "
                    "super().__init__(dim, lifted_shape)"
                )
            return object.__getattribute__(self, name)  # fails as it did before

    def __init__(
        self,
        dim: int,
        lifted_shape: tuple[int, ...],
        n_laws: int = 0,
        block_shapes: Sequence[tuple[int, ...]] | None = None,
    ) -> None:
        dim, sizes = as_count(dim, "dim", 1), as_ordered(lifted_shape, "lifted_shape")
        shape = tuple([as_count(size, "a size of z") for size in sizes])
        n_laws = as_count(n_laws, "n_laws")
        self._set_sizes(dim, shape, n_laws, as_blocks(block_shapes, dim))

    def _set_sizes(
        self,
        dim: int,
        lifted_shape: tuple[int, ...],
        n_laws: int,
        block_shapes: tuple[tuple[int, ...], ...],
    ) -> None:
        """Set the sizes, of which is known that they are some and that they fit together."""
        refuse_beyond(dim, f"one θ of {shown(dim)} numbers")
        self.dim, self.lifted_shape = dim, lifted_shape
        self.n_laws, self.block_shapes = n_laws, block_shapes

    @property
    def lifted_dim(self) -> int:
        """Number d of entries of z."""
        return math.prod(self.lifted_shape)

    def _facts(self) -> str:
        parts = [counted(self.dim, "parameters"), f"z of shape {self.lifted_shape}"]
        return ", ".join([*parts, counted(self.n_laws, "laws")])

    def describe(self) -> dict[str, int]:
        """Return facts of this family for a summary, by name."""
        return {}

    # The door: what comes in from outside.

    def _theta(self, theta: Theta, name: str = "theta", differentiable: bool = True) -> Theta:
        return as_array(theta, name, (self.dim,), differentiable=differentiable)

    def _lifted(self, lifted: Lifted, name: str = "z", differentiable: bool = True) -> Lifted:
        return as_array(lifted, name, self.lifted_shape, differentiable=differentiable)

    def _laws(self, laws: Laws, name: str = "laws") -> Laws:
        return as_array(laws, name, (self.n_laws,), differentiable=False)

    def _one_theta(self, theta: OneTheta, name: str = "theta") -> OneTheta:
        return as_array(theta, name, (self.dim,), batch=False, differentiable=False)

    # Blocks.

    def pack(self, *blocks: Block) -> Theta:
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
        rows = enumerate(zip(blocks, self.block_shapes, strict=True))
        return self._pack([as_array(block, f"block {i}", shape) for i, (block, shape) in rows])

    def _pack(self, blocks: Sequence[Block]) -> Theta:
        flat = []
        for block, shape in zip(blocks, self.block_shapes, strict=True):
            lead = block.shape[: len(block.shape) - len(shape)]
            flat.append(block.reshape((*lead, math.prod(shape))))
        return gs.concatenate(flat, axis=-1)

    def unpack(self, theta: Theta) -> tuple[Block, ...]:
        """Split the flat vector θ into its named blocks."""
        return self._unpack(self._theta(theta))

    def _unpack(self, theta: Theta) -> tuple[Block, ...]:
        blocks, start = [], 0
        for shape in self.block_shapes:
            stop = start + math.prod(shape)
            blocks.append(theta[..., start:stop].reshape((*theta.shape[:-1], *shape)))
            start = stop
        return tuple(blocks)

    # The lift and its derivatives.

    @cached_property
    def phi(self) -> SmoothMap:
        """The lift φ as a smooth map, unchecked: for inner loops."""
        return with_overrides(self._lift_map(), self, "_lift_map", _PHI)

    def _lift_map(self) -> SmoothMap:
        name = f"the lift of {type(self).__name__}"
        shapes = self.lifted_shape, self.block_shapes
        return SmoothMap(self.lift, self.dim, *shapes, name, "lifted_shape")

    @abstractmethod
    def lift(self, theta: Theta) -> Lifted:
        """Evaluate the lift φ."""

    def lift_jvp(self, theta: Theta, tangent: Tangent) -> LiftedTangent:
        """Push a velocity of θ forward, ∂φ(θ) v."""
        return self.phi.own("jvp")(self._theta(theta), self._theta(tangent, "tangent"))

    def lift_vjp(self, theta: Theta, covector: Covector) -> Tangent:
        """Pull a covector on z back, ∂φ(θ)ᵀ g."""
        theta = self._theta(theta)
        self.phi.check(theta)  # first, as a wrong lift looks like a wrong covector
        return self.phi.own("vjp")(theta, self._lifted(covector, "covector"))

    def lift_jacobian(self, theta: Theta) -> Jacobian:
        """Jacobian ∂φ(θ) as a dense matrix."""
        return self.phi.own("jacobian")(self._theta(theta))

    def lift_hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> LiftedTangent:
        """Evaluate the second derivative of the lift, ∂²φ(θ)[a, b].

        With a = b = θ̇ along a horizontal geodesic of 𝓜_θ₀ it is the acceleration of z, because
        that of θ lies in range ∂hᵀ, on which ∂φ vanishes.
        """
        named = {"theta": theta, "tangent_a": tangent_a, "tangent_b": tangent_b}
        arrays = [self._theta(array, name, False) for name, array in named.items()]
        return self.phi.own("hessian")(*arrays)

    def lift_hvp(self, theta: Theta, tangent: Tangent, covector: Covector) -> Tangent:
        """Differentiate the pullback, ∂²φ(θ)[v, ·]ᵀ g, the Hessian of ⟨g, φ⟩ times v."""
        theta, tangent = self._theta(theta), self._theta(tangent, "tangent")
        return self.phi.own("hvp")(theta, tangent, self._lifted(covector, "covector"))

    def lift_rank(self, theta: OneTheta) -> int:
        """Dimension of the image about φ(θ), the rank of ∂φ(θ)."""
        return int(self.phi.own("rank")(self._one_theta(theta)))

    def solve_jvp(self, theta: Theta, lifted_tangent: LiftedTangent) -> Tangent:
        """Solve ∂φ(θ) v = ζ for the shortest v, the horizontal lift, by least squares."""
        theta = self._theta(theta, differentiable=False)
        return self.phi.own("solve")(theta, self._lifted(lifted_tangent, "vector", False))

    def solve_vjp(self, theta: Theta, covector: Tangent) -> Covector:
        """Solve ∂φ(θ)ᵀ g = v for the shortest g on z, in the sense of least squares."""
        theta = self._theta(theta, differentiable=False)
        return self.phi.own("solve_transposed")(theta, self._theta(covector, "covector", False))

    def project_to_range(self, theta: Theta, lifted_vec: LiftedTangent) -> LiftedTangent:
        """Project orthogonally onto range ∂φ(θ), the tangent space of the image at φ(θ)."""
        theta = self._theta(theta, differentiable=False)
        return self.phi.own("project_to_range")(theta, self._lifted(lifted_vec, "vector", False))

    def gram_apply(self, theta: Theta, covector: Covector) -> LiftedTangent:
        """Apply the lifted Gram operator, M(θ) g = ∂φ ∂φᵀ g, without forming it."""
        theta = self._theta(theta)
        return self.phi.jvp(theta, self.phi.vjp(theta, self._lifted(covector, "covector")))

    def gram_matrix(self, theta: Theta) -> LiftedMatrix:
        """Lifted Gram operator M(θ) as a dense matrix."""
        theta, size = self._theta(theta), self.lifted_dim
        lead = float(math.prod(theta.shape[:-1]))
        refuse_beyond(lead * size**2, f"a dense matrix of {size} × {size} numbers")
        jacobian = self.phi.jacobian(theta)
        return gs.einsum("...ik,...jk->...ij", jacobian, jacobian)

    def lifted_distance(self, theta_a: Theta, theta_b: Theta) -> Scalars:
        """Euclidean distance ‖φ(θ_a) − φ(θ_b)‖ between two lifted points."""
        return self._lifted_length(self.lift(theta_a) - self.lift(theta_b))

    def lifted_norm(self, theta: Theta) -> Scalars:
        """Euclidean norm ‖φ(θ)‖ of a lifted point."""
        return self._lifted_length(self.lift(theta))

    def _lifted_length(self, lifted: Lifted) -> Scalars:
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

        def nearest(point: FloatArray, start: FloatArray) -> FloatArray:
            found = on_image(self.phi, point, start)
            self._image_is_open |= found is None
            return point if found is None else found

        return over_batch(nearest, [z, near], [len(self.lifted_shape), 1])

    _image_is_open: bool = False
    """Whether ∂φ was onto at some point, and so is almost everywhere."""

    # The conservation laws.

    @cached_property
    def h(self) -> SmoothMap:
        """The conservation laws h as a smooth map, unchecked: for inner loops."""
        return with_overrides(self._laws_map(), self, "_laws_map", _H)

    def _laws_map(self) -> SmoothMap:
        name = f"the laws of {type(self).__name__}"
        shapes = (self.n_laws,), self.block_shapes
        return LawsMap(self.conservation_laws, self.dim, *shapes, name, "(n_laws,)")

    def conservation_laws(self, theta: Theta) -> Laws:
        """Evaluate the known conservation laws h; none are known unless a family says so."""
        return self._theta(theta)[..., :0]

    def conservation_laws_jacobian(self, theta: Theta) -> Jacobian:
        """Jacobian ∂h(θ) as a dense matrix."""
        return self.h.own("jacobian")(self._theta(theta))

    def laws_rank(self, theta: OneTheta) -> int:
        """Number of independent laws at θ, the rank of ∂h(θ)."""
        return int(self.h.own("rank")(self._one_theta(theta)))

    def laws_jvp(self, theta: Theta, tangent: Tangent) -> Laws:
        """Push a velocity of θ forward by the laws, ∂h(θ) v."""
        return self.h.own("jvp")(self._theta(theta), self._theta(tangent, "tangent"))

    def laws_size(self, theta: Theta, tangent: Tangent | None = None) -> Laws:
        """Size of the terms that h(θ), or ∂h(θ) v, is a sum of: the unit of tolerances for it.

        Parameters
        ----------
        tangent : Tangent, optional
            The vector v; without it the terms are those of h(θ).
        """
        theta = self._theta(theta, differentiable=False)
        if tangent is not None:
            tangent = self._theta(tangent, "tangent", differentiable=False)
        return self.h.own("terms")(theta, tangent)

    def laws_hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> Laws:
        """Second derivative ∂²h(θ)[v, w] of the laws."""
        first, second = self._theta(tangent_a, "tangent_a"), self._theta(tangent_b, "tangent_b")
        return self.h.own("hessian")(self._theta(theta), first, second)

    def project_to_tangent(self, theta: Theta, vector: Tangent) -> Tangent:
        """Project orthogonally onto ker ∂h(θ), v − ∂hᵀ(∂h∂hᵀ)⁺∂h v."""
        return self.h.own("project_to_kernel")(self._theta(theta), self._theta(vector, "vector"))

    def solve_laws_jvp(self, theta: Theta, laws_tangent: Laws) -> Tangent:
        """Solve ∂h(θ) v = w for the shortest v, ∂hᵀ(∂h∂hᵀ)⁺ w, by least squares."""
        theta = self._theta(theta, differentiable=False)
        return self.h.own("solve")(theta, self._laws(laws_tangent, "laws_tangent"))

    def project_to_laws(self, theta: Theta, laws: Laws, *, max_steps: int = 50) -> Theta:
        """Move θ to a nearby point of {h = laws}: Gauss–Newton steps along range ∂hᵀ.

        Raises
        ------
        NotRecoverableError
            The steps do not converge: θ is too far, or ∂h loses rank on the way.
        """
        arrays = [self._theta(theta, differentiable=False), self._laws(laws)]
        most = as_count(max_steps, "max_steps")
        return over_batch(lambda t, w: with_laws(self.h, t, w, most), arrays, [1, 1])

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

        def find(point: FloatArray, values: FloatArray, start: FloatArray) -> OneTheta:
            return with_lift_and_laws(self.phi, self.h, point, values, start)

        return over_batch(find, arrays, [len(self.lifted_shape), 1, 1], shape=(self.dim,))

    def align(self, theta: Theta, base_point: Theta) -> Theta:
        """Move θ within its fibre of φ on its invariant set close to another point of that set.

        Returns
        -------
        theta : Theta
            With the same φ and h; by default what recovery from the other point leads to.
        """
        points = {"theta": theta, "base_point": base_point}.items()
        arrays = [self._theta(point, name, differentiable=False) for name, point in points]
        return over_batch(self._align, arrays, [1, 1])

    def _align(self, theta: FloatArray, base_point: FloatArray) -> FloatArray:
        """The point that recovery from the other one leads to, if it is closer."""
        try:
            found = self.recover(self.lift(theta), self.conservation_laws(theta), near=base_point)
        except NotRecoverableError:
            return theta
        return min(theta, found, key=lambda point: float(lengths(point - base_point)))

    def sheets(self, theta: OneTheta) -> Theta:
        """Return θ, then what differs from it in signs alone, and φ and h do not tell from it."""
        theta = self._one_theta(theta)
        turned = self._signs()
        if len(turned) > MOST_SIGNS:
            turned = turned[:0]
        choices = np.array(list(itertools.product((0, 1), repeat=len(turned)))) @ turned
        return theta * (1.0 - 2.0 * (choices % 2))

    def _signs(self) -> IntArray:
        """What turns its sign with each sign that φ forgets, as ones, shape=[n_signs, dim]."""
        return np.zeros((0, self.dim), dtype=np.intp)

    def basis_chart(self, theta: OneTheta) -> Any:
        """Chart of φ(𝓜_θ₀) by basis paths; only networks on graphs have one."""
        raise ArchitectureError(
            f"{type(self).__name__} has no basis-path chart; use coordinates='full'"
        )

    def with_laws(self, laws: Iterable[Callable[[Theta], Scalars]]) -> "Architecture":
        """Return the same lift with other laws.

        Parameters
        ----------
        laws : iterable of callable
            One number for one θ, written with autograd.numpy; quicker where it broadcasts over
            leading axes, as those of :func:`liftflow.criteria.discover_laws` do. That they are
            conserved is for :func:`liftflow.testing.check_architecture` to say.
        """
        functions = [as_function(law, "a law", 1) for law in as_ordered(laws, "laws")]
        points = self.random_point(2, rng=0)
        return WithLaws(self, tuple(over_rows(law, points, "a law") for law in functions))

    # Points.

    def random_point(self, n_samples: int = 1, rng: Rng = None) -> Theta:
        """Draw parameters as a family initialises them; one sample has no axis of samples.

        By default standard normal. What needs others, such as θ > 0, writes its own: the criteria
        and the contracts look at φ there.
        """
        count = as_count(n_samples, "n_samples", 1)
        refuse_beyond(count * self.dim, f"{count} points of {self.dim} numbers")
        points = self._drawn(count, as_rng(rng))
        return points[0] if count == 1 else points

    def _drawn(self, count: int, rng: np.random.Generator) -> Theta:
        """Points, shape=[count, dim]; by default standard normal."""
        return rng.standard_normal((count, self.dim))

    def fibre_point(self, theta: Theta, rng: Rng = None) -> Theta:
        """Draw another point of the fibre of φ through θ, on another invariant set."""
        raise ArchitectureError(f"{type(self).__name__} defines no fibre_point(theta)")


class WithLaws(Architecture):
    """The lift of an architecture, and laws that were given."""

    def __init__(
        self, original: Architecture, laws: tuple[Callable[[Theta], Scalars], ...]
    ) -> None:
        super().__init__(original.dim, original.lifted_shape, len(laws), original.block_shapes)
        self.original, self.laws = original, laws

    def _lift_map(self) -> SmoothMap:
        return self.original.phi

    def lift(self, theta: Theta) -> Lifted:
        return self.original.lift(theta)

    def conservation_laws(self, theta: Theta) -> Laws:
        theta = self._theta(theta)
        values = [law(theta) for law in self.laws]
        return anp.stack(values, axis=-1) if values else theta[..., :0]

    def project_to_image(self, z: Lifted, *, near: Theta | None = None) -> Lifted:
        return self.original.project_to_image(z, near=near)

    def random_point(self, n_samples: int = 1, rng: Rng = None) -> Theta:
        return self.original.random_point(n_samples, rng)

    def __repr__(self) -> str:
        """Say of what."""
        return f"{self.original!r} with {self.n_laws} laws that were given"


def architecture_of(thing: object, name: str) -> Architecture:
    """Return the architecture of an invariant set, an image or a cometric, or say what it is."""
    architecture = getattr(thing, "architecture", None)
    if isinstance(thing, type) or not isinstance(architecture, Architecture):
        raise InputError(f"{name} must have an architecture, as InvariantSet has, got {got(thing)}")
    return architecture
