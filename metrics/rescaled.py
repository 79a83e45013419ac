"""The cometric of a flow with learning rates, from that of a plain flow."""

from liftflow.architectures import Architecture
from liftflow.architectures.rescaling import Rescaling
from liftflow.errors import UndefinedError
from liftflow.metrics.cometric import Cometric, HorizontalSpaces
from liftflow.metrics.intrinsic import intrinsic_cometric
from liftflow.typing import Covector, Lifted, LiftedTangent, OneLifted, OneTheta, Tangent, Theta


class RescaledCometric(Cometric):
    r"""K_θ₀ of the flow θ' = −E∇ℓ(θ): the plain metric in other units.

    :math:`K(z)[g] = b ∘ \tilde K_{ψ_0}(z/a)[b ∘ g]` with ψ = θ/√η and constants a and b. On the
    image of any invariant set it is :math:`∂φ E ∂φ^\top`.

    Raises
    ------
    NotIntrinsicError, NotRecoverableError
        As :func:`~liftflow.metrics.intrinsic_cometric` at ψ₀.

    References
    ----------
    Ours; the metric of parameter space: [Kunin2024]_.
    """

    def __init__(
        self, architecture: Architecture, theta0: OneTheta, rates: Tangent, way: Rescaling
    ) -> None:
        super().__init__(architecture, theta0)
        self.rates, self.way = rates, way
        self.plain = intrinsic_cometric(way.architecture, self.theta0 / way.units)
        self.laws = self.plain.laws

    def _inside(self, z: Lifted) -> Lifted:
        return self._lifted(z, "z") / self.way.inside

    def _near(self, near: Theta | None) -> Theta | None:
        return None if near is None else near / self.way.units

    def apply(self, z: Lifted, covector: Covector, *, near: Theta | None = None) -> LiftedTangent:
        form = self.way.outside * self._lifted(covector, "covector")
        return self.way.outside * self.plain.apply(self._inside(z), form, near=self._near(near))

    def solve(self, z: Lifted, tangent_vec: LiftedTangent) -> Covector:
        vector = self._lifted(tangent_vec, "tangent_vec") / self.way.outside
        form = self.plain.solve(self._inside(z), vector) / self.way.outside
        return self.architecture.project_to_range(self.point(z), form)

    def _check_image(self, z: Lifted) -> None:
        self.plain._check_image(self._inside(z))

    def _check_inverse(self, z: Lifted) -> None:
        self.plain._check_inverse(self._inside(z))

    def point(self, z: Lifted, *, near: Theta | None = None) -> Theta:
        return self.way.units * self.plain.point(self._inside(z), near=self._near(near))

    def follow(self, z: OneLifted, near: OneTheta) -> OneTheta:
        return self.way.units * self.plain.follow(self._inside(z), near / self.way.units)

    def horizontal_lift(
        self, z: Lifted, tangent_vec: LiftedTangent, *, theta: Theta | None = None
    ) -> Tangent:
        """Lift a tangent vector to the velocity of θ above it, E ∂φ(θ)ᵀ K(z)⁺ ζ."""
        theta = self.point(z) if theta is None else theta
        return self.rates * self.architecture.lift_vjp(theta, self.solve(z, tangent_vec))

    def parts(self, lifted: OneLifted) -> list[OneLifted]:
        return self.plain.parts(lifted)

    @property
    def horizontal_spaces(self) -> HorizontalSpaces:
        """Refused: projectors of parameter space are those of the Euclidean metric."""
        raise UndefinedError(
            "geodesics of a metric with learning rates are those of a plain one in other units; "
            "take them on the image of InvariantSet(architecture, theta0 / numpy.sqrt(rates))"
        )
