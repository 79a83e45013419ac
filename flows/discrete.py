"""Training by steps of a finite size: gradient descent, momentum, Adam."""

import time
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from rich.progress import track

from liftflow.architectures import Architecture
from liftflow.doors import Guarded, door
from liftflow.errors import FlowError, InputError, NotFiniteError
from liftflow.flows.trajectory import Trajectory
from liftflow.losses.base import Loss, as_value
from liftflow.typing import (
    FloatArray,
    OneTangent,
    OneTheta,
    as_array,
    as_count,
    as_ordered,
    as_vector,
    refuse_beyond,
)


class Optimizer(Guarded, ABC):
    """Steps of θ, one gradient each. Along them the conservation laws drift.

    Raises
    ------
    InputError
        Not a loss, or a step size that is not positive.
    """

    n_moments: ClassVar[int]
    """Number of vectors like θ that are carried from step to step."""

    @door
    def __init__(self, architecture: Architecture, loss: Loss, step_size: float) -> None:
        self.architecture, self.loss = architecture, loss
        self.step_size = _within(step_size, "step_size", 0.0, np.inf)
        if not self.step_size > 0:
            raise InputError(f"step_size must be positive, got {step_size}")

    def _facts(self) -> str:
        own = {name: value for name, value in vars(self).items() if name[0] != "_"}
        settings = own.keys() - {"architecture", "loss"}
        return ", ".join(f"{name}={own[name]}" for name in own if name in settings)

    @property
    def time_per_step(self) -> float:
        """Time of the flow that one step stands for."""
        return self.step_size

    @abstractmethod
    def step(
        self, gradient: OneTangent, moments: FloatArray, count: int
    ) -> tuple[FloatArray, FloatArray]:
        """Make one step.

        Parameters
        ----------
        moments : array, shape=[n_moments, dim]
            What the last step left, zero before the first.
        count : int
            Number of this step, from 1.

        Returns
        -------
        update : array, shape=[dim]
            What is added to θ.
        moments : array, shape=[n_moments, dim]
            For the next step.
        """

    @door
    def run(
        self, theta0: OneTheta, n_steps: int, *, every: int = 1, progress: bool = False
    ) -> Trajectory:
        """Make steps from θ₀.

        Parameters
        ----------
        every : int
            Keep the state after each so many steps, besides the first and the last.

        Returns
        -------
        trajectory : Trajectory
            Its times are ``time_per_step`` apart, so that it compares with a flow. Where the loss
            is no longer finite the run ends, and ``success`` and ``message`` say so.

        Raises
        ------
        InputError
            Numbers of steps that are not positive integers.
        FlowError
            The loss is not finite at θ₀.
        """
        began, shape = time.perf_counter(), (self.architecture.dim,)
        theta = as_array(theta0, "theta0", shape, batch=False, differentiable=False)
        n_steps, every = as_count(n_steps, "n_steps", 1), as_count(every, "every", 1)
        refuse_beyond((n_steps // every + 2) * (self.architecture.dim + 2), f"{n_steps} steps")
        moments = np.zeros((self.n_moments, self.architecture.dim))
        loss, count, problem = self._loss(theta), 0, ""
        if not np.isfinite(loss):
            raise FlowError(f"training cannot start: the loss is {loss} at the first point")
        kept = [(0.0, theta, loss)]
        name = type(self).__name__
        with np.errstate(over="ignore", invalid="ignore"):
            for count in track(range(1, n_steps + 1), name, disable=not progress, transient=True):
                gradient = np.asarray(self.loss.parameter_gradient(theta, self.architecture))
                update, moments = self.step(gradient, moments, count)
                theta = theta + update
                loss = self._loss(theta)
                if not np.isfinite(loss):
                    problem = f"diverged after {count} steps: try a smaller step_size"
                    break
                if count % every == 0 or count == n_steps:
                    kept.append((count * self.time_per_step, theta, loss))
        t, y, losses = (np.array(column) for column in zip(*kept, strict=True))
        return Trajectory(
            t=t,
            y=y,
            theta=y,
            loss=losses,
            success=not problem,
            message=problem or f"made {n_steps} steps",
            n_evaluations=count,
            n_charts=1,
            seconds=time.perf_counter() - began,
        )

    def _own(self, gradient: OneTangent, moments: FloatArray) -> tuple[FloatArray, FloatArray]:
        shape = (self.n_moments, self.architecture.dim)
        if type(moments) is not np.ndarray or moments.dtype != np.float64 or moments.shape != shape:
            moments = as_array(moments, "moments", shape, batch=False, differentiable=False)
        return as_vector(gradient, "gradient", self.architecture.dim), moments

    def _loss(self, theta: FloatArray) -> float:
        try:
            value = self.loss.parameter_value(theta, self.architecture)
        except NotFiniteError:  # a θ that is not finite is refused at the door
            return np.nan
        return as_value(value, self.loss)


class GradientDescent(Optimizer):
    r"""Gradient descent, with momentum if asked: Polyak's heavy ball.

    :math:`θ_{k+1} = θ_k − η ∇ℓ(θ_k) + β (θ_k − θ_{k−1})`. One step stands for the time η/(1 − β)
    of the gradient flow, whose laws h it keeps up to O(η) over a fixed time. A step of plain
    gradient descent changes them by :math:`η^2 h(∇ℓ)` exactly, where h is quadratic.

    Parameters
    ----------
    momentum : float
        The β, at least 0 and below 1.

    Raises
    ------
    InputError
        Not a loss, or a number out of its range.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> from liftflow import ReLUNetwork, loss_from_function
    >>> from liftflow.flows import GradientDescent
    >>> network = ReLUNetwork.diagonal(1)
    >>> loss = loss_from_function(lambda z: anp.sum((z - 1.0) ** 2))
    >>> run = GradientDescent(network, loss, 0.1).run([0.5, 0.8], 100)
    >>> bool(run.loss[-1] < 1e-12)
    True
    """

    n_moments = 1

    @door
    def __init__(
        self, architecture: Architecture, loss: Loss, step_size: float, momentum: float = 0.0
    ) -> None:
        super().__init__(architecture, loss, step_size)
        self.momentum = _within(momentum, "momentum", 0.0, 1.0)

    @property
    def time_per_step(self) -> float:
        return self.step_size / (1.0 - self.momentum)

    def step(
        self, gradient: OneTangent, moments: FloatArray, count: int
    ) -> tuple[FloatArray, FloatArray]:
        gradient, moments = self._own(gradient, moments)  # the moment is the last update
        update = self.momentum * moments[0] - self.step_size * gradient
        return update, update[None]


class Adam(Optimizer):
    r"""Adam: steps along a mean of gradients, divided entry by entry by their size.

    Its small steps follow no gradient flow of ℓ in the Euclidean metric, so that the laws drift
    however small η is. The time of a step is η by convention.

    Parameters
    ----------
    betas : tuple of float
        Decay of the means of the gradient and of its square, at least 0 and below 1.
    epsilon : float
        Added to the size of a gradient.

    Raises
    ------
    InputError
        Not a loss, or a number out of its range.

    References
    ----------
    [Kingma2015]_.
    """

    n_moments = 2

    @door
    def __init__(
        self,
        architecture: Architecture,
        loss: Loss,
        step_size: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(architecture, loss, step_size)
        given = betas if isinstance(betas, np.ndarray) else as_ordered(betas, "betas")
        pair = as_array(given, "betas", (2,), batch=False, differentiable=False)
        self.betas = tuple(_within(beta, "a beta", 0.0, 1.0) for beta in pair)
        self.epsilon = _within(epsilon, "epsilon", 0.0, np.inf)

    def step(
        self, gradient: OneTangent, moments: FloatArray, count: int
    ) -> tuple[FloatArray, FloatArray]:
        gradient, moments = self._own(gradient, moments)  # means of it and of its square
        count = as_count(count, "count", 1)
        betas = np.array(self.betas)[:, None]
        moments = betas * moments + (1.0 - betas) * np.stack([gradient, gradient**2])
        mean, square = moments / (1.0 - betas**count)  # both start at zero, which this undoes
        return -self.step_size * mean / (np.sqrt(square) + self.epsilon), moments


def _within(value: float, name: str, low: float, high: float) -> float:
    number = float(as_array(value, name, (), batch=False, differentiable=False))
    if not low <= number < high:
        raise InputError(f"{name} must be at least {low:g} and below {high:g}, got {value}")
    return number
