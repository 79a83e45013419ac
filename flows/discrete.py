"""Training by steps of a finite size: (stochastic) gradient descent, momentum, Adam."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import ClassVar

import numpy as np

from liftflow.architectures import Architecture
from liftflow.doors import Guarded, door
from liftflow.errors import FlowError, InputError, NotFiniteError
from liftflow.flows.recursion import LawRecursion
from liftflow.flows.trajectory import Trajectory
from liftflow.losses.base import Loss, as_value
from liftflow.typing import (
    FloatArray,
    OneTangent,
    OneTheta,
    Rng,
    as_array,
    as_count,
    as_function,
    as_ordered,
    as_own,
    as_rng,
    as_vector,
    refuse_beyond,
    shown,
)
from liftflow.waiting import tracked

DECAYS = ("coupled", "decoupled")
"""Whether the pull λθ of weight decay goes through the moments, or past them."""

Schedule = Callable[[int], float] | Sequence[float] | FloatArray | None
"""Factors of the step size, for the numbers of the steps from 0."""


class Optimizer(Guarded, ABC):
    """Steps of θ, one gradient each. Along them the conservation laws drift.

    Parameters
    ----------
    batch_size : int, optional
        How many samples each gradient is the mean over; by default all of them. An epoch goes
        through all samples once, in a random order; its last batch may be smaller.
    weight_decay : float
        The λ of a pull −λθ that is added to −∇ℓ.
    schedule : callable or array-like, optional
        Factors of the step size: ``schedule(k)``, or ``schedule[k]``, for the k-th step from 0.
    decay : {"coupled", "decoupled"}
        ``coupled``: λθ is added to the gradient, and goes through the moments with it.
        ``decoupled`` [Loshchilov2019]_: θ shrinks by the factor 1 − ηλ before each step, past all
        moments.

    Raises
    ------
    InputError
        Not a loss, a step size that is not positive, a number out of its range, or batches of a
        loss that is no mean over samples.
    """

    n_moments: ClassVar[int]
    """Number of vectors like θ that are carried from step to step."""

    @door
    def __init__(
        self,
        architecture: Architecture,
        loss: Loss,
        step_size: float,
        batch_size: int | None = None,
        weight_decay: float = 0.0,
        schedule: Schedule = None,
        decay: str = "coupled",
    ) -> None:
        self.architecture, self.loss = architecture, loss
        self.step_size = _within(step_size, "step_size", 0.0, np.inf)
        if not self.step_size > 0:
            raise InputError(f"step_size must be positive, got {step_size}")
        self.batch_size, most = batch_size, loss.n_samples
        if batch_size is not None:
            self.batch_size = as_count(batch_size, "batch_size", 1)
            if most is None:
                loss.batch([0])  # which says that it is no mean over samples
            if most is None or self.batch_size > most:
                raise InputError(
                    f"batch_size must be at most {most} samples, got {batch_size}; leave "
                    "batch_size out to take all samples at each step"
                )
        self.weight_decay = _within(weight_decay, "weight_decay", 0.0, np.inf)
        if callable(schedule):
            as_function(schedule, "schedule", 1)
        self.schedule = schedule if schedule is None or callable(schedule) else _factors(schedule)
        if decay not in DECAYS:
            raise InputError(f"decay must be one of {', '.join(DECAYS)}, got {shown(decay)}")
        self.decay = decay

    def _facts(self) -> str:
        own = {name: value for name, value in vars(self).items() if name[0] != "_"}
        settings = own.keys() - {"architecture", "loss"}
        if self.schedule is not None:
            own["schedule"] = getattr(self.schedule, "__name__", "an array")
        return ", ".join(f"{name}={own[name]}" for name in own if name in settings)

    @property
    def time_per_step(self) -> float:
        """Time of the flow that one step stands for, where no schedule changes it."""
        return self.step_size

    def rate(self, count: int) -> float:
        """Step size η of a step.

        Raises
        ------
        InputError
            The schedule ends before, or gives something else than a number of at least 0.
        """
        if self.schedule is None:
            return self.step_size
        if callable(self.schedule):
            factor = self.schedule(count - 1)
        elif count <= len(self.schedule):
            factor = self.schedule[count - 1]
        else:
            raise InputError(
                f"schedule must hold a factor for every step, got {len(self.schedule)} for step "
                f"{count}"
            )
        return self.step_size * _within(factor, f"the schedule at step {count - 1}", 0.0, np.inf)

    @abstractmethod
    def step(
        self, gradient: OneTangent, moments: FloatArray, count: int
    ) -> tuple[FloatArray, FloatArray]:
        """Make one step: what is added to θ, and the moments for the next one.

        Parameters
        ----------
        gradient : array, shape=[dim]
            With λθ in it where decay is coupled.
        moments : array, shape=[n_moments, dim]
            What the last step left, zero before the first.
        count : int
            Number of this step, from 1.
        """

    def law_recursion(self, theta0: OneTheta) -> LawRecursion | None:
        """Recursion of the laws from θ₀ on; None where there is none."""
        return None

    @door
    def run(
        self,
        theta0: OneTheta,
        n_steps: int,
        *,
        every: int = 1,
        progress: bool = False,
        rng: Rng = None,
    ) -> Trajectory:
        """Make steps from θ₀.

        The times are the sums of the steps made, so that the run compares with a flow, and its
        losses those of all samples. Where a loss or θ is no longer finite the run ends, and
        ``success`` and ``message`` say so.

        Parameters
        ----------
        every : int
            Keep the state after each so many steps, besides the first and the last.
        rng : numpy.random.Generator or int or None
            Draws the batches.

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
        size = self.architecture.dim + self.architecture.n_laws + 2
        refuse_beyond((n_steps // every + 2) * size, f"{n_steps} steps")
        moments = np.zeros((self.n_moments, self.architecture.dim))
        loss, count, problem, laws = self._loss(theta), 0, "", self.law_recursion(theta)
        if not np.isfinite(loss):
            raise FlowError(f"training cannot start: the loss is {loss} at the first point")
        kept, predicted = [(0.0, theta, loss)], [] if laws is None else [laws.laws]
        spent, batches, name = 0.0, self._batches(as_rng(rng)), type(self).__name__
        coupled = self.weight_decay if self.decay == "coupled" else 0.0
        decoupled = self.weight_decay if self.decay == "decoupled" else 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for count in tracked(range(1, n_steps + 1), name, progress):
                rate, batch = self.rate(count), next(batches)
                gradient = np.asarray(batch.parameter_gradient(theta, self.architecture))
                pulled = gradient + coupled * theta if coupled else gradient
                update, moments = self.step(pulled, moments, count)
                theta = theta * (1.0 - rate * decoupled) + update if decoupled else theta + update
                spent += rate
                keep = count % every == 0 or count == n_steps
                loss = self._loss(theta) if keep or not np.isfinite(theta).all() else 0.0
                if not np.isfinite(loss):
                    problem = f"diverged after {count} steps: try a smaller step_size"
                    break
                if laws is not None:
                    laws.follow(rate, gradient, update, moments[0])
                if keep:
                    steps = count if self.schedule is None else spent / self.step_size
                    kept.append((steps * self.time_per_step, theta, loss))
                    predicted += [] if laws is None else [laws.laws]
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
            prediction=np.array(predicted) if predicted else np.empty((0, 0)),
        )

    def _batches(self, rng: np.random.Generator) -> Iterator[Loss]:
        """Losses of the steps: of all samples, or epochs of batches."""
        size, n_samples = self.batch_size, self.loss.n_samples
        if size is None or n_samples is None:
            yield from repeat(self.loss)
            return
        while True:
            order = rng.permutation(n_samples)
            for start in range(0, n_samples, size):
                yield self.loss.batch(order[start : start + size])

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
    r"""Gradient descent, stochastic with batches, with momentum if asked.

    :math:`b_{k+1} = β b_k + ∇ℓ(θ_k)` and :math:`θ_{k+1} = θ_k − η_k b_{k+1}`, which is Polyak's
    heavy ball where η is constant; with Nesterov's momentum
    :math:`θ_{k+1} = θ_k − η_k (∇ℓ(θ_k) + β b_{k+1})`. These are the formulas of PyTorch's ``SGD``,
    with λθ added to ∇ℓ where a weight decay λ is coupled. One step stands for the time η/(1 − β) of
    the gradient flow, whose laws h it keeps up to O(η) over a fixed time.

    The laws after any number of steps follow from the gradients alone where they are quadratic,
    whatever the batches: the run has them as its ``predicted_laws``. A plain step changes them by
    :math:`η^2 h(∇ℓ)` exactly; :class:`~liftflow.flows.recursion.LawRecursion` has the others.

    Parameters
    ----------
    momentum : float
        The β, at least 0 and below 1.

    Raises
    ------
    InputError
        Not a loss, a number out of its range, batches of a loss that is no mean over samples, or
        Nesterov's momentum without any.

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
    >>> measured = network.conservation_laws(run.theta)
    >>> bool(abs(run.predicted_laws - measured).max() < 1e-14)
    True
    """

    n_moments = 1

    @door
    def __init__(
        self,
        architecture: Architecture,
        loss: Loss,
        step_size: float,
        momentum: float = 0.0,
        batch_size: int | None = None,
        weight_decay: float = 0.0,
        schedule: Schedule = None,
        nesterov: bool = False,
        decay: str = "coupled",
    ) -> None:
        super().__init__(architecture, loss, step_size, batch_size, weight_decay, schedule, decay)
        self.momentum = _within(momentum, "momentum", 0.0, 1.0)
        self.nesterov = nesterov
        if nesterov and not self.momentum:
            raise InputError("nesterov needs a momentum above 0, got 0")

    @property
    def time_per_step(self) -> float:
        return self.step_size / (1.0 - self.momentum)

    def step(
        self, gradient: OneTangent, moments: FloatArray, count: int
    ) -> tuple[FloatArray, FloatArray]:
        gradient, moments = self._own(gradient, moments)
        velocity = self.momentum * moments[0] + gradient
        along = gradient + self.momentum * velocity if self.nesterov else velocity
        return -self.rate(count) * along, velocity[None]

    def law_recursion(self, theta0: OneTheta) -> LawRecursion | None:
        """Recursion of the laws from θ₀ on; None where some law is no quadratic form."""
        theta = as_vector(theta0, "theta0", self.architecture.dim)
        if not self.architecture.h.is_quadratic:
            return None
        lams = [self.weight_decay if self.decay == kind else 0.0 for kind in DECAYS]
        return LawRecursion(self.architecture.h, theta, self.momentum, self.nesterov, *lams)


class Adam(Optimizer):
    r"""Adam: steps along a mean of gradients, divided entry by entry by their size.

    Its small steps follow no gradient flow of ℓ in the Euclidean metric, so that the laws drift
    however small η is, and no recursion tells how: ``predicted_laws`` of its runs is None. The time
    of a step is η by convention. With ``decay="decoupled"`` it is AdamW. These are the formulas of
    PyTorch's ``Adam`` and ``AdamW``.

    Parameters
    ----------
    betas : tuple of float
        Decay of the means of the gradient and of its square, at least 0 and below 1.
    epsilon : float
        Added to the size of a gradient.

    Raises
    ------
    InputError
        Not a loss, a number out of its range, or batches of a loss that is no mean over samples.

    References
    ----------
    [Kingma2015]_, [Loshchilov2019]_.
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
        batch_size: int | None = None,
        weight_decay: float = 0.0,
        schedule: Schedule = None,
        decay: str = "coupled",
    ) -> None:
        super().__init__(architecture, loss, step_size, batch_size, weight_decay, schedule, decay)
        given = betas if isinstance(betas, np.ndarray) else as_ordered(betas, "betas")
        pair = as_array(given, "betas", (2,), batch=False, differentiable=False)
        self.betas = tuple(_within(beta, "a beta", 0.0, 1.0) for beta in pair)
        self.epsilon = _within(epsilon, "epsilon", 0.0, np.inf)

    def step(
        self, gradient: OneTangent, moments: FloatArray, count: int
    ) -> tuple[FloatArray, FloatArray]:
        gradient, moments = self._own(gradient, moments)  # means of it and of its square
        count = as_count(count, "count", 1)
        (first, second), (mean, square) = self.betas, moments
        # In PyTorch's order of operations: near a minimum the division lets rounding errors grow.
        mean = mean + (gradient - mean) * (1.0 - first)
        square = square * second + (1.0 - second) * gradient * gradient
        size = np.sqrt(square) / np.sqrt(1.0 - second**count) + self.epsilon
        rate = self.rate(count) / (1.0 - first**count)  # both start at zero, which this undoes
        return -rate * (mean / size), np.stack([mean, square])


def _factors(schedule: object) -> FloatArray:
    factors = as_own(schedule, "schedule", (None,))
    if np.any(factors < 0):
        raise InputError(f"schedule must hold factors of at least 0, got {factors.min():g}")
    return factors


def _within(value: float, name: str, low: float, high: float) -> float:
    number = float(as_array(value, name, (), batch=False, differentiable=False))
    if not low <= number < high:
        raise InputError(f"{name} must be at least {low:g} and below {high:g}, got {value}")
    return number
