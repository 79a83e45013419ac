"""The gradient flow of the parameter."""

from typing import Any

import numpy as np

from liftflow.architectures import Architecture
from liftflow.doors import Guarded, door
from liftflow.flows.integrate import FlowState, Settings, integrate
from liftflow.flows.trajectory import Trajectory
from liftflow.losses import Loss
from liftflow.typing import FloatArray, as_array, as_instance


class _ParameterState(FlowState):
    def __init__(self, architecture: Architecture, loss: Loss, theta0: FloatArray) -> None:
        self.architecture, self.loss, self.theta0 = architecture, loss, theta0

    def start(self) -> FloatArray:
        return self.theta0

    def velocity(self, coordinates: FloatArray) -> FloatArray:
        return -np.asarray(self.loss.parameter_gradient(coordinates, self.architecture))

    def read(self, coordinates: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        value = self.loss.parameter_value(coordinates, self.architecture)
        return coordinates, coordinates, float(value)


class ParameterFlow(Guarded):
    """The flow θ' = −∇ℓ(θ) that training by small steps follows.

    Parameters
    ----------
    architecture : Architecture
    loss : Loss

    Raises
    ------
    InputError
        Not a loss.
    """

    @door
    def __init__(self, architecture: Architecture, loss: Loss) -> None:
        self.architecture, self.loss = architecture, check_loss(loss)

    def integrate(self, theta0: Any, t_span: tuple[float, float], **settings: Any) -> Trajectory:
        """Integrate the flow from θ₀.

        Parameters
        ----------
        theta0 : array-like, shape=[dim]
        t_span : tuple of float
            First and last time.
        **settings
            ``rtol=1e-8``, ``atol=1e-10``, ``method="RK45"``, ``n_times=101`` or ``t_eval``,
            ``progress=False``, ``checkpoint=path``, ``resume=trajectory``; see
            :class:`~liftflow.flows.Settings`.

        Returns
        -------
        trajectory : Trajectory
            Its ``success`` and ``message`` say whether the end was reached.

        Raises
        ------
        InputError
            Settings that cannot be used.
        FlowError
            The flow cannot start.
        """
        point = as_array(
            theta0, "theta0", (self.architecture.dim,), batch=False, differentiable=False
        )
        state = _ParameterState(self.architecture, self.loss, point)
        return integrate(state, Settings(t_span, **settings), "parameter")


def check_loss(loss: Any) -> Loss:
    """Return the loss, or say how to make one.

    Parameters
    ----------
    loss : Loss

    Returns
    -------
    loss : Loss

    Raises
    ------
    InputError
        Anything else.
    """
    return as_instance(loss, Loss, "loss")
