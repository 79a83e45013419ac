"""Fields of subspaces of parameter space: all that geodesics and curvature need of a family.

A Riemannian submersion φ from an invariant set is known by its horizontal spaces range ∂φᵀ. The
metric, its geodesics, parallel transport and curvature follow from their projectors P(θ) and the
derivative of P along themselves; the metric itself is never differentiated.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from liftflow.architectures import Architecture, ProductArchitecture
from liftflow.architectures.base import architecture_of
from liftflow.doors import Guarded, door
from liftflow.typing import FloatArray, Tangent, Theta, as_array

if TYPE_CHECKING:
    from liftflow.metrics.base import Cometric


class HorizontalSpaces(Guarded, ABC):
    """A field of subspaces of ℝᴰ along an invariant set, by its orthogonal projectors P(θ)."""

    @abstractmethod
    def project(self, theta: Theta, vector: Tangent) -> Tangent:
        """Project orthogonally, P(θ) v."""

    @abstractmethod
    def second_fundamental_form(self, theta: Theta, direction: Tangent, vector: Tangent) -> Tangent:
        r"""Derivative of the projector, B(X, Y) = (∂_X P)(θ) Y, for horizontal X and Y.

        It is the part of :math:`∂_X Y` orthogonal to the spaces, for every horizontal field Y: the
        second fundamental form of the invariant set, symmetric in X and Y, plus O'Neill's
        integrability tensor :math:`A_X Y`, which is skew.

        References
        ----------
        O'Neill's tensor: [ONeill1966]_; the form B of both is ours.
        """

    @abstractmethod
    def displacement(self, theta: Theta, target: Tangent) -> Tangent:
        """Shortest vector that leads from θ to the fibre of a target, to first order.

        Parameters
        ----------
        theta, target : array, shape=[..., dim]
            The target stands for its fibre.

        Returns
        -------
        displacement : Tangent
            Zero where θ lies in that fibre, and only there.
        """


class TangentSpaces(HorizontalSpaces):
    """Tangent spaces ker ∂h: all of it is horizontal where θ is recoverable."""

    @door
    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def project(self, theta: Theta, vector: Tangent) -> Tangent:
        """Project onto ker ∂h(θ)."""
        return self.architecture.project_to_tangent(theta, vector)

    def second_fundamental_form(self, theta: Theta, direction: Tangent, vector: Tangent) -> Tangent:
        """Second fundamental form of the invariant set, −∂hᵀ(∂h∂hᵀ)⁻¹ ∂²h[X, Y]."""
        second = self.architecture.laws_hessian(theta, direction, vector)
        return -self.architecture.solve_laws_jvp(theta, second)

    def displacement(self, theta: Theta, target: Tangent) -> Tangent:
        """Difference of two points, each alone in its fibre.

        Parameters
        ----------
        theta, target : array, shape=[..., dim]
            The target stands for its fibre.
        """
        shape = (self.architecture.dim,)
        return as_array(target, "target", shape) - as_array(theta, "theta", shape)


class LiftSpaces(HorizontalSpaces):
    """Horizontal spaces range ∂φᵀ of a lift with fibres of positive dimension.

    P = ∂φᵀ K⁺ ∂φ, with K = ∂φ ∂φᵀ in closed form.
    """

    def __init__(self, cometric: "Cometric") -> None:
        self.cometric, self.architecture = cometric, architecture_of(cometric, "cometric")

    def _solve(self, theta: FloatArray, lifted_vec: FloatArray) -> FloatArray:
        return self.cometric.solve(self.architecture.lift(theta), lifted_vec)

    def project(self, theta: Theta, vector: Tangent) -> Tangent:
        """Project onto range ∂φ(θ)ᵀ."""
        covector = self._solve(theta, self.architecture.lift_jvp(theta, vector))
        return self.architecture.lift_vjp(theta, covector)

    def second_fundamental_form(self, theta: Theta, direction: Tangent, vector: Tangent) -> Tangent:
        """Differentiate ∂φᵀ in ∂φᵀg = Y and drop the horizontal part."""
        covector = self._solve(theta, self.architecture.lift_jvp(theta, vector))
        moved = self.architecture.lift_hvp(theta, direction, covector)
        return moved - self.project(theta, moved)

    def displacement(self, theta: Theta, target: Tangent) -> Tangent:
        """Lift the difference on the image horizontally, ∂φᵀ K⁺ (φ(target) − φ(θ)).

        Parameters
        ----------
        theta, target : array, shape=[..., dim]
            The target stands for its fibre.
        """
        gap = self.architecture.lift(target) - self.architecture.lift(theta)
        return self.architecture.lift_vjp(theta, self._solve(theta, gap))


class ProductSpaces(HorizontalSpaces):
    """Horizontal spaces of a product, factor by factor.

    Parameters
    ----------
    factors : sequence of HorizontalSpaces
        One for each factor.
    """

    @door
    def __init__(
        self, architecture: ProductArchitecture, factors: Sequence[HorizontalSpaces]
    ) -> None:
        self.architecture = architecture
        self.factors = tuple(factors)

    def _over_factors(self, name: str, *vectors: FloatArray) -> Any:
        parts = zip(self.factors, *map(self.architecture.unpack, vectors), strict=True)
        return self.architecture.pack(*[getattr(own, name)(*args) for own, *args in parts])

    def project(self, theta: Theta, vector: Tangent) -> Tangent:
        """Project each part."""
        return self._over_factors("project", theta, vector)

    def second_fundamental_form(self, theta: Theta, direction: Tangent, vector: Tangent) -> Tangent:
        """Join the second fundamental forms of the factors."""
        return self._over_factors("second_fundamental_form", theta, direction, vector)

    def displacement(self, theta: Theta, target: Tangent) -> Tangent:
        """Join the displacements of the factors.

        Parameters
        ----------
        theta, target : array, shape=[..., dim]
            The target stands for its fibre.
        """
        return self._over_factors("displacement", theta, target)
