"""The gradient flow of the parameter."""

from typing import Any

from liftflow.architectures import Architecture
from liftflow.doors import Guarded, door
from liftflow.flows.integrate import integrate
from liftflow.flows.rules import Course, TrainingRule
from liftflow.flows.settings import Settings
from liftflow.flows.state import FlowState, State, TrainingState
from liftflow.flows.trajectory import Trajectory
from liftflow.losses import Loss
from liftflow.typing import FloatArray, OneTheta, as_array


class _ParameterState(TrainingState):
    def start(self) -> FloatArray:
        return self.theta

    def velocity(self, coordinates: FloatArray) -> FloatArray:
        return -self.descent(coordinates)

    def read(self, coordinates: FloatArray) -> State:
        return coordinates, coordinates, self.value(coordinates)


class ParameterFlow(Guarded):
    """The flow θ' = −∇ℓ(θ) that training by small steps follows.

    Parameters
    ----------
    rule : TrainingRule, optional
        Learning rates E and weight decay λ, of the flow θ' = −E∇ℓ(θ) − λθ.

    Raises
    ------
    InputError
        Not a loss, or rates that do not fit the architecture.
    """

    @door
    def __init__(
        self, architecture: Architecture, loss: Loss, rule: TrainingRule | None = None
    ) -> None:
        self.architecture, self.loss, self.rule = architecture, loss, rule
        if rule is not None:
            rule.rates(architecture)  # do they fit?

    def _facts(self) -> str:
        return repr(self.loss)

    def integrate(
        self, theta0: OneTheta, t_span: tuple[float, float], **settings: Any
    ) -> Trajectory:
        """Integrate the flow from θ₀.

        Parameters
        ----------
        **settings
            Of :class:`~liftflow.flows.Settings`, such as ``rtol=1e-8``.

        Raises
        ------
        InputError
            Settings that cannot be used.
        FlowError
            The flow cannot start.
        """
        return integrate(self.state(theta0), Settings(t_span, **settings), "parameter")

    def state(self, theta0: OneTheta) -> FlowState:
        """Right-hand side of the flow as the integrator sees it, for solvers of one's own."""
        shape = (self.architecture.dim,)
        point = as_array(theta0, "theta0", shape, batch=False, differentiable=False)
        self.architecture.phi.check(point)
        self.architecture.h.check(point)
        course = Course(self.architecture, point, self.rule)
        return _ParameterState(self.architecture, self.loss, point, course)
