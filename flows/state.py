"""What a flow is to the integrator: coordinates, their velocity, and how to read them."""

from abc import ABC, abstractmethod

import numpy as np

from liftflow.architectures import Architecture
from liftflow.doors import Described
from liftflow.flows.rules import Course
from liftflow.flows.trajectory import Memory
from liftflow.losses.base import Loss, as_gradient, as_value
from liftflow.typing import FloatArray, OneTangent, OneTheta, Theta

State = tuple[FloatArray, FloatArray, float]
"""What a trajectory keeps: the state of the flow, the parameter and the loss."""


class FlowState(Described, ABC):
    """What a flow is to the integrator: coordinates, their velocity, and how to read them."""

    n_charts: int = 1
    sizes: FloatArray | float = 1.0
    """What the absolute tolerance is a fraction of, in each coordinate where they have units."""

    @abstractmethod
    def start(self) -> FloatArray:
        """First coordinates, shape=[n]."""

    @abstractmethod
    def velocity(self, coordinates: FloatArray) -> FloatArray:
        """Velocity of the coordinates, shape=[n]."""

    @abstractmethod
    def read(self, coordinates: FloatArray) -> State:
        """Read off what the trajectory keeps: the state, the parameter and the loss."""

    def settle(self, coordinates: FloatArray) -> FloatArray:
        """Take note of a step that was made: called once after each.

        Returns the array itself, or the same point in new coordinates where these serve no longer:
        the event of a change of chart, after which the solver goes on in the new ones.
        """
        return coordinates

    def probe(self) -> FloatArray:
        """Evaluate the loss far from the start, by which flows are told apart that begin alike.

        Empty where nothing is known of the loss, shape=[n_probes].
        """
        return np.empty(0)

    def losses(self, theta: Theta) -> FloatArray:
        """Evaluate the loss at parameters, shape=[n]; empty where nothing is known of it."""
        return np.empty(0)

    def memory(self) -> Memory:
        """What the velocity depends on besides the coordinates, to be saved with them."""
        return {}

    def restore(self, memory: Memory) -> None:
        """Take over what :meth:`memory` gave, in this run or another one."""


class TrainingState(FlowState):
    """A flow of the loss of an architecture, at some parameter.

    With weight decay λ the laws fade, so that the velocity of z depends on time: the last of the
    coordinates is then a clock, 1 at the start, which runs at the speed λ.
    """

    def __init__(
        self, architecture: Architecture, loss: Loss, theta: OneTheta, course: Course
    ) -> None:
        self.architecture, self.loss, self.theta = architecture, loss, theta
        self.course = course

    def with_clock(self, values: FloatArray, clock: float) -> FloatArray:
        """Append the clock, or its speed, where there is one."""
        return np.append(values, clock) if self.course.decay else values

    def without_clock(self, coordinates: FloatArray) -> tuple[FloatArray, float]:
        """Part coordinates from the clock, and say by how much decay has shrunk θ since."""
        if not self.course.decay:
            return coordinates, 1.0
        return coordinates[:-1], float(np.exp(1.0 - coordinates[-1]))

    def gradient(self, theta: OneTheta) -> OneTangent:
        """Evaluate ∇ℓ(θ), of the right shape whoever wrote the loss."""
        gradient = self.loss.parameter_gradient(theta, self.architecture)
        return as_gradient(gradient, self.loss, theta.shape)

    def descent(self, theta: OneTheta) -> OneTangent:
        """Evaluate E∇ℓ(θ) + λθ, which θ is to be moved against."""
        gradient, course = self.gradient(theta), self.course
        if course.rates is not None:
            gradient = course.rates * gradient
        return gradient + course.decay * theta if course.decay else gradient

    def value(self, theta: OneTheta) -> float:
        """Evaluate ℓ(θ), one number whoever wrote the loss."""
        return as_value(self.loss.parameter_value(theta, self.architecture), self.loss)

    def losses(self, theta: Theta) -> FloatArray:
        return np.array([self.value(each) for each in theta])

    def probe(self) -> FloatArray:
        """Evaluate the loss near and far from θ, always at the same points.

        Losses and data that differ at all differ there, also where they agree around θ. They are 0
        where the loss is not finite, or not defined.
        """
        rng, theta = np.random.default_rng(0), self.theta
        scale, losses = np.max(np.abs(theta), initial=0.0) or 1.0, []
        for reach in (0.1, 0.3, 1.0, 3.0):
            point = theta + reach * scale * rng.standard_normal(theta.size)
            try:
                losses.append(float(self.loss.parameter_value(point, self.architecture)))
            except Exception:  # a probe is no reason to stop, whatever the loss of a user raises
                losses.append(0.0)
        return np.nan_to_num(losses, nan=0.0, posinf=0.0, neginf=0.0)
