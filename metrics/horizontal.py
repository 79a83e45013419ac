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
from liftflow.typing import FloatArray, as_array

if TYPE_CHECKING:
    from liftflow.metrics.base import Cometric


class HorizontalSpaces(Guarded, ABC):
    """A field of subspaces of ℝᴰ along an invariant set, by its orthogonal projectors P(θ)."""

    @abstractmethod
    def project(self, theta: FloatArray, vector: FloatArray) -> FloatArray:
        """Project orthogonally, P(θ) v.

        Parameters
        ----------
        theta, vector : array, shape=[..., dim]

        Returns
        -------
        horizontal_vec : array, shape=[..., dim]
        """

    @abstractmethod
    def second_fundamental_form(
        self, theta: FloatArray, direction: FloatArray, vector: FloatArray
    ) -> FloatArray:
        r"""Derivative of the projector, B(X, Y) = (∂_X P)(θ) Y, for horizontal X and Y.

        It is the part of :math:`∂_X Y` orthogonal to the spaces, for every horizontal field Y: the
        second fundamental form of the invariant set, symmetric in X and Y, plus O'Neill's
        integrability tensor :math:`A_X Y`, which is skew.

        Parameters
        ----------
        theta, direction, vector : array, shape=[..., dim]

        Returns
        -------
        normal_vec : array, shape=[..., dim]

        References
        ----------
        O'Neill's tensor: [ONeill1966]_; the form B of both is ours.
        """

    @abstractmethod
    def displacement(self, theta: FloatArray, target: FloatArray) -> FloatArray:
        """Shortest vector that leads from θ to the fibre of a target, to first order.

        Parameters
        ----------
        theta, target : array, shape=[..., dim]
            The target stands for its fibre.

        Returns
        -------
        displacement : array, shape=[..., dim]
            Zero where θ lies in that fibre, and only there.
        """


class TangentSpaces(HorizontalSpaces):
    """Tangent spaces ker ∂h of the invariant sets: all of it is horizontal where θ is recoverable.

    Parameters
    ----------
    architecture : Architecture
    """

    @door
    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def project(self, theta: FloatArray, vector: FloatArray) -> FloatArray:
        """Project onto ker ∂h(θ).

        Parameters
        ----------
        theta, vector : array, shape=[..., dim]

        Returns
        -------
        tangent_vec : array, shape=[..., dim]
        """
        return self.architecture.project_to_tangent(theta, vector)

    def second_fundamental_form(
        self, theta: FloatArray, direction: FloatArray, vector: FloatArray
    ) -> FloatArray:
        """Second fundamental form of the invariant set, −∂hᵀ(∂h∂hᵀ)⁻¹ ∂²h[X, Y].

        Parameters
        ----------
        theta, direction, vector : array, shape=[..., dim]

        Returns
        -------
        normal_vec : array, shape=[..., dim]
        """
        second = self.architecture.laws_hessian(theta, direction, vector)
        return -self.architecture.solve_laws_jvp(theta, second)

    def displacement(self, theta: FloatArray, target: FloatArray) -> FloatArray:
        """Difference of two points, each alone in its fibre.

        Parameters
        ----------
        theta, target : array, shape=[..., dim]
            The target stands for its fibre.

        Returns
        -------
        displacement : array, shape=[..., dim]
        """
        shape = (self.architecture.dim,)
        return as_array(target, "target", shape) - as_array(theta, "theta", shape)


class LiftSpaces(HorizontalSpaces):
    """Horizontal spaces range ∂φᵀ of a lift with fibres of positive dimension.

    P = ∂φᵀ K⁺ ∂φ, with K = ∂φ ∂φᵀ in closed form.

    Parameters
    ----------
    cometric : Cometric
    """

    def __init__(self, cometric: "Cometric") -> None:
        self.cometric, self.architecture = cometric, architecture_of(cometric, "cometric")

    def _solve(self, theta: FloatArray, lifted_vec: FloatArray) -> FloatArray:
        return self.cometric.solve(self.architecture.lift(theta), lifted_vec)

    def project(self, theta: FloatArray, vector: FloatArray) -> FloatArray:
        """Project onto range ∂φ(θ)ᵀ.

        Parameters
        ----------
        theta, vector : array, shape=[..., dim]

        Returns
        -------
        horizontal_vec : array, shape=[..., dim]
        """
        covector = self._solve(theta, self.architecture.lift_jvp(theta, vector))
        return self.architecture.lift_vjp(theta, covector)

    def second_fundamental_form(
        self, theta: FloatArray, direction: FloatArray, vector: FloatArray
    ) -> FloatArray:
        """Differentiate ∂φᵀ in ∂φᵀg = Y and drop the horizontal part.

        Parameters
        ----------
        theta, direction, vector : array, shape=[..., dim]

        Returns
        -------
        normal_vec : array, shape=[..., dim]
        """
        covector = self._solve(theta, self.architecture.lift_jvp(theta, vector))
        moved = self.architecture.lift_hvp(theta, direction, covector)
        return moved - self.project(theta, moved)

    def displacement(self, theta: FloatArray, target: FloatArray) -> FloatArray:
        """Lift the difference on the image horizontally, ∂φᵀ K⁺ (φ(target) − φ(θ)).

        Parameters
        ----------
        theta, target : array, shape=[..., dim]
            The target stands for its fibre.

        Returns
        -------
        displacement : array, shape=[..., dim]
        """
        gap = self.architecture.lift(target) - self.architecture.lift(theta)
        return self.architecture.lift_vjp(theta, self._solve(theta, gap))


class ProductSpaces(HorizontalSpaces):
    """Horizontal spaces of a product, factor by factor.

    Parameters
    ----------
    architecture : ProductArchitecture
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

    def project(self, theta: FloatArray, vector: FloatArray) -> FloatArray:
        """Project each part.

        Parameters
        ----------
        theta, vector : array, shape=[..., dim]

        Returns
        -------
        horizontal_vec : array, shape=[..., dim]
        """
        return self._over_factors("project", theta, vector)

    def second_fundamental_form(
        self, theta: FloatArray, direction: FloatArray, vector: FloatArray
    ) -> FloatArray:
        """Join the second fundamental forms of the factors.

        Parameters
        ----------
        theta, direction, vector : array, shape=[..., dim]

        Returns
        -------
        normal_vec : array, shape=[..., dim]
        """
        return self._over_factors("second_fundamental_form", theta, direction, vector)

    def displacement(self, theta: FloatArray, target: FloatArray) -> FloatArray:
        """Join the displacements of the factors.

        Parameters
        ----------
        theta, target : array, shape=[..., dim]
            The target stands for its fibre.

        Returns
        -------
        displacement : array, shape=[..., dim]
        """
        return self._over_factors("displacement", theta, target)
