"""K_θ₀ as an operator, and the subspaces of parameter space that it makes horizontal.

A Riemannian submersion φ from an invariant set is known by its horizontal spaces range ∂φᵀ. The
metric, its geodesics, parallel transport and curvature follow from their projectors P(θ) and the
derivative of P along themselves; the metric itself is never differentiated.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import geomstats.backend as gs
import numpy as np

from liftflow.architectures import Architecture
from liftflow.architectures.base import architecture_of
from liftflow.doors import Guarded, door
from liftflow.metrics.exact import line_distance
from liftflow.typing import (
    Covector,
    FloatArray,
    Lifted,
    LiftedMatrix,
    LiftedTangent,
    OneLifted,
    OneTheta,
    Scalars,
    Tangent,
    Theta,
    as_array,
    as_instance,
    as_own,
    as_vector,
    freeze,
    refuse_beyond,
)

TANGENT_RTOL = 1e-6
"""Relative distance to the tangent space up to which a vector counts as tangent."""


class HorizontalSpaces(Guarded, ABC):
    """A field of subspaces of ℝᴰ along an invariant set, by its orthogonal projectors P(θ).

    Arrays are looked at here, and a family writes the same without, for inner loops.
    """

    architecture: Architecture

    def project(self, theta: Theta, vector: Tangent) -> Tangent:
        """Project orthogonally, P(θ) v."""
        return self._project(*self._checked(theta=theta, vector=vector))

    @abstractmethod
    def _project(self, theta: Theta, vector: Tangent) -> Tangent: ...

    def second_fundamental_form(self, theta: Theta, direction: Tangent, vector: Tangent) -> Tangent:
        r"""Derivative of the projector, B(X, Y) = (∂_X P)(θ) Y, for horizontal X and Y.

        It is the part of :math:`∂_X Y` orthogonal to the spaces, for every horizontal field Y: the
        second fundamental form of the invariant set, symmetric in X and Y, plus O'Neill's
        integrability tensor :math:`A_X Y` [ONeill1966]_, which is skew; B of both is ours.
        """
        return self._form(*self._checked(theta=theta, direction=direction, vector=vector))

    @abstractmethod
    def _form(self, theta: Theta, direction: Tangent, vector: Tangent) -> Tangent: ...

    def displacement(self, theta: Theta, target: Theta) -> Tangent:
        """Shortest vector that leads from θ to the fibre of a target, to first order.

        It is zero where θ lies in that fibre, and only there.
        """
        return self._displacement(*self._checked(theta=theta, target=target))

    @abstractmethod
    def _displacement(self, theta: Theta, target: Theta) -> Tangent: ...

    def _turn(self, theta: OneTheta, velocity: Tangent, target: OneTheta) -> Tangent:
        """What moves the end θ of a curve to a target's fibre, and along it, till v is horizontal.

        To first order, where the curve moves evenly with its end.
        """
        return self._displacement(theta, target) - (velocity - self._project(theta, velocity))

    def _checked(self, **vectors: Tangent) -> list[FloatArray]:
        shape = (self.architecture.dim,)
        return [as_array(v, name, shape, differentiable=False) for name, v in vectors.items()]


class TangentSpaces(HorizontalSpaces):
    """Tangent spaces ker ∂h: all of it is horizontal where θ is recoverable.

    B is the second fundamental form of the invariant set, −∂hᵀ(∂h∂hᵀ)⁻¹ ∂²h[X, Y], and each point
    is alone in its fibre.
    """

    @door
    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def _project(self, theta: Theta, vector: Tangent) -> Tangent:
        return self.architecture.h.project_to_kernel(theta, vector)

    def _form(self, theta: Theta, direction: Tangent, vector: Tangent) -> Tangent:
        laws = self.architecture.h
        return -laws.solve(theta, laws.hessian(theta, direction, vector))

    def _displacement(self, theta: Theta, target: Theta) -> Tangent:
        return target - theta

    def _turn(self, theta: OneTheta, velocity: Tangent, target: OneTheta) -> Tangent:
        return target - theta  # a point is alone, and velocities are horizontal by themselves


class LiftSpaces(HorizontalSpaces):
    """Horizontal spaces range ∂φᵀ of a lift with fibres of positive dimension.

    P = ∂φᵀ K⁺ ∂φ, with K = ∂φ ∂φᵀ in closed form. B differentiates ∂φᵀ in ∂φᵀg = Y and drops the
    horizontal part; the displacement is the horizontal lift of a difference on the image.
    """

    def __init__(self, cometric: "Cometric") -> None:
        self.cometric, self.architecture = cometric, architecture_of(cometric, "cometric")

    def _solve(self, theta: Theta, lifted_vec: LiftedTangent) -> Covector:
        return self.cometric.solve(self.architecture.phi(theta), lifted_vec)

    def _project(self, theta: Theta, vector: Tangent) -> Tangent:
        phi = self.architecture.phi
        return phi.vjp(theta, self._solve(theta, phi.jvp(theta, vector)))

    def _form(self, theta: Theta, direction: Tangent, vector: Tangent) -> Tangent:
        phi = self.architecture.phi
        moved = phi.hvp(theta, direction, self._solve(theta, phi.jvp(theta, vector)))
        return moved - self._project(theta, moved)

    def _displacement(self, theta: Theta, target: Theta) -> Tangent:
        phi = self.architecture.phi
        return phi.vjp(theta, self._solve(theta, phi(target) - phi(theta)))


class Cometric(Guarded, ABC):
    r"""The intrinsic cometric K_θ₀(z), with M(θ) = K_θ₀(φ(θ)) on the invariant set of θ₀.

    Parameters
    ----------
    theta0 : OneTheta
        Enters through its conservation laws (and what else a family reads from it).

    References
    ----------
    Intrinsic metric property: [MPG]_.
    """

    _family: ClassVar[type] = Architecture

    def __init__(self, architecture: Architecture, theta0: OneTheta) -> None:
        self.architecture = as_instance(architecture, self._family, "architecture")
        self.theta0: FloatArray = as_own(theta0, "theta0", (architecture.dim,))
        self.laws: FloatArray = freeze(np.asarray(architecture.conservation_laws(self.theta0)))

    @property
    def lifted_shape(self) -> tuple[int, ...]:
        """Shape of z."""
        return tuple(self.architecture.lifted_shape)

    def _lifted(self, lifted: Lifted, name: str, differentiable: bool = True) -> Lifted:
        return as_array(lifted, name, self.lifted_shape, differentiable=differentiable)

    def _ends(self, *points: OneLifted) -> list[FloatArray]:
        """Two points of the image without leading axes, and not traced."""
        return [
            as_array(z, name, self.lifted_shape, batch=False, differentiable=False)
            for z, name in zip(points, ("point_a", "point_b"), strict=True)
        ]

    @abstractmethod
    def apply(self, z: Lifted, covector: Covector, *, near: Theta | None = None) -> LiftedTangent:
        """Apply K(z) to a covector, matrix-free.

        Parameters
        ----------
        near : Theta, optional
            A point of the invariant set near the fibre over z, where an iteration may start.
        """

    @abstractmethod
    def solve(self, z: Lifted, tangent_vec: LiftedTangent) -> Covector:
        """Apply K(z)⁺ to a vector tangent to the image at z."""

    def _check_image(self, z: Lifted) -> None:
        """Refuse a z that is not on the image, where a family has a form for more than those."""

    def _check_inverse(self, z: Lifted) -> None:
        """Refuse a z where K(z) has no inverse on the tangent space, if a family knows of such."""

    def point(self, z: Lifted, *, near: Theta | None = None) -> Theta:
        """Find a point of the fibre over z on the invariant set of θ₀.

        Parameters
        ----------
        near : Theta, optional
            Where an iteration may start, and whose signs are taken over; by default θ₀.
        """
        near = self.theta0 if near is None else near
        return self.architecture.recover(z, self.laws, near=near)

    def follow(self, z: OneLifted, near: OneTheta) -> OneTheta:
        """Follow a point of the invariant set to z, where iterations or signs need one.

        Takes the point followed so far to what to pass as ``near`` at z and close to it: a copy
        where nothing is iterated and φ forgets nothing that a loss asks for.
        """
        return np.array(as_vector(near, "near", self.architecture.dim))

    def matrix(self, z: Lifted) -> LiftedMatrix:
        """K(z) as a dense matrix."""
        z = self._lifted(z, "z")
        self._check_image(z)
        size, n_axes = self.architecture.lifted_dim, len(self.lifted_shape)
        lead = z.shape[: len(z.shape) - n_axes]
        refuse_beyond(
            float(math.prod(lead)) * size**2, f"a dense matrix of {size} × {size} numbers"
        )
        basis = gs.reshape(gs.eye(size), (size, *self.lifted_shape))
        columns = self.apply(gs.reshape(z, (*lead, 1, *self.lifted_shape)), basis)
        return gs.moveaxis(gs.reshape(columns, (*lead, size, size)), -1, -2)

    def inner_product(
        self, z: Lifted, tangent_vec_a: LiftedTangent, tangent_vec_b: LiftedTangent
    ) -> Scalars:
        """Inner product ⟨a, K(z)⁺ b⟩ of tangent vectors."""
        covector = self.solve(z, tangent_vec_b)
        axes = tuple(range(-len(self.lifted_shape), 0))
        return gs.sum(self._lifted(tangent_vec_a, "tangent_vec_a") * covector, axis=axes)

    def horizontal_lift(
        self, z: Lifted, tangent_vec: LiftedTangent, *, theta: Theta | None = None
    ) -> Tangent:
        """Lift a tangent vector to the shortest velocity of θ above it, ∂φ(θ)ᵀ K(z)⁺ ζ.

        Parameters
        ----------
        theta : Theta, optional
            A point of the invariant set over z, at which it is lifted; by default ``point(z)``.
        """
        theta = self.point(z) if theta is None else theta
        return self.architecture.lift_vjp(theta, self.solve(z, tangent_vec))

    def parts(self, lifted: OneLifted) -> list[OneLifted]:
        """Split z, or a vector like it, into parts with units of their own; by default into one.

        They are those of the blocks where K is block diagonal.
        """
        return [lifted]

    @property
    def horizontal_spaces(self) -> HorizontalSpaces:
        """The subspaces range ∂φᵀ of parameter space, which geodesics and curvature come from."""
        return LiftSpaces(self)

    def exact_distance(self, point_a: OneLifted, point_b: OneLifted) -> float | None:
        """Distance of two points where a formula is known: on a line, by quadrature."""
        ends = self._ends(point_a, point_b)
        if self.architecture.lifted_dim > 1:
            return None
        unit = np.ones(self.lifted_shape)
        return line_distance(lambda z: self.apply(z * unit, unit).item(), *(z.item() for z in ends))
