"""The gradient flow of the parameter."""

from typing import Any

import numpy as np

from liftflow.architectures import Architecture
from liftflow.doors import Guarded, door
from liftflow.flows.integrate import FlowState, Settings, integrate
from liftflow.flows.trajectory import Trajectory
from liftflow.losses.base import Loss, as_gradient, as_value
from liftflow.typing import FloatArray, OneTheta, as_array, as_instance


class _ParameterState(FlowState):
    def __init__(self, architecture: Architecture, loss: Loss, theta0: FloatArray) -> None:
        self.architecture, self.loss, self.theta0 = architecture, loss, theta0
        architecture.phi.check(theta0)
        architecture.h.check(theta0)

    def start(self) -> FloatArray:
        return self.theta0

    def velocity(self, coordinates: FloatArray) -> FloatArray:
        gradient = self.loss.parameter_gradient(coordinates, self.architecture)
        return -as_gradient(gradient, self.loss, self.theta0.shape)

    def read(self, coordinates: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        value = self.loss.parameter_value(coordinates, self.architecture)
        return coordinates, coordinates, as_value(value, self.loss)

    def probe(self) -> FloatArray:
        return probe_loss(self.loss, self.architecture, self.theta0)


class ParameterFlow(Guarded):
    """The flow θ' = −∇ℓ(θ) that training by small steps follows.

    Raises
    ------
    InputError
        Not a loss.
    """

    @door
    def __init__(self, architecture: Architecture, loss: Loss) -> None:
        self.architecture, self.loss = architecture, check_loss(loss)

    def integrate(
        self, theta0: OneTheta, t_span: tuple[float, float], **settings: Any
    ) -> Trajectory:
        """Integrate the flow from θ₀.

        Parameters
        ----------
        t_span : tuple of float
            First and last time.
        **settings
            ``rtol=1e-8``, ``atol=1e-10``, ``method="RK45"``, ``n_times=101`` or ``t_eval``,
            ``max_step``, ``first_step``, ``progress=False``, ``memory_limit=8e9``,
            ``checkpoint=path``, ``resume=trajectory``; see
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
        return integrate(self.state(theta0), Settings(t_span, **settings), "parameter")

    def state(self, theta0: OneTheta) -> FlowState:
        """Right-hand side of the flow as the integrator sees it, for solvers of one's own.

        Parameters
        ----------
        theta0 : OneTheta
            Where it starts.

        Returns
        -------
        state : FlowState
            ``start()`` gives θ₀, ``velocity(theta)`` is −∇ℓ(θ).
        """
        point = as_array(
            theta0, "theta0", (self.architecture.dim,), batch=False, differentiable=False
        )
        return _ParameterState(self.architecture, self.loss, point)


def check_loss(loss: Any) -> Loss:
    """Return the loss, or say how to make one.

    Parameters
    ----------
    loss : Loss
        What is to be one.

    Raises
    ------
    InputError
        Anything else.
    """
    return as_instance(loss, Loss, "loss")


def probe_loss(loss: Loss, architecture: Architecture, theta: OneTheta) -> FloatArray:
    """Evaluate a loss at points near and far from θ, always the same ones.

    Losses and data that differ at all differ there, also where they agree around θ.

    Returns
    -------
    losses : array, shape=[n_probes]
        0 where the loss is not finite, or not defined.
    """
    rng, scale = np.random.default_rng(0), np.max(np.abs(theta), initial=0.0) or 1.0
    losses = []
    for reach in (0.1, 0.3, 1.0, 3.0):
        point = theta + reach * scale * rng.standard_normal(theta.size)
        try:
            losses.append(float(loss.parameter_value(point, architecture)))
        except Exception:  # a probe is no reason to stop, whatever the loss of a user raises
            losses.append(0.0)
    return np.nan_to_num(losses, nan=0.0, posinf=0.0, neginf=0.0)
