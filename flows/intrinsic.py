"""The gradient flow of the lifted variable in its intrinsic metric."""

from copy import copy
from typing import Any, Self

import numpy as np

from liftflow.architectures import ProductArchitecture
from liftflow.architectures.anchors import REANCHOR_RATIO
from liftflow.doors import Guarded, door
from liftflow.errors import InputError, NotRecoverableError
from liftflow.flows.integrate import integrate
from liftflow.flows.rules import Course, TrainingRule
from liftflow.flows.settings import Settings
from liftflow.flows.state import FlowState, State, TrainingState
from liftflow.flows.trajectory import Memory, Trajectory
from liftflow.linalg import Spare
from liftflow.losses import Loss, ParameterLoss
from liftflow.losses.base import as_gradient, as_value
from liftflow.manifolds import InvariantSet
from liftflow.metrics import Cometric
from liftflow.typing import FloatArray, OneLifted, OneTheta, OnTimes, Theta, as_array

_NEAR_FOLD = 0.1  # of the weight at first, above the root of what errors of z are
_BALANCED = 1e-12  # laws of degree two, in squares of θ: what is below is rounding


class _FullState(TrainingState):
    """All entries of z; θ is recovered only where the loss needs it."""

    def __init__(self, flow: "IntrinsicFlow", theta: OneTheta) -> None:
        course, cometric = flow._course, flow.cometric
        super().__init__(course.architecture, flow.loss, theta, course)
        self.by_theta = isinstance(flow.loss, ParameterLoss)
        self.is_gram = self.by_theta and cometric is None  # one of the caller's need not be ∂φ∂φᵀ
        self.frozen = flow.frozen or cometric is not None
        self.cometric = course.cometric() if cometric is None else cometric
        self.known, self.folds = np.empty(0), self.architecture.phi.folds
        self.turning = _NEAR_FOLD * np.abs(theta[self.folds])

    def start(self) -> FloatArray:
        return self.with_clock(np.ravel(self.architecture.lift(self.theta)), 1.0)

    def _look(self, coordinates: FloatArray) -> tuple[OneLifted, Cometric]:
        """The point of the image next to the coordinates, and K at that time."""
        own, factor = self.without_clock(coordinates)
        fades = factor != 1.0 and not self.frozen
        cometric = self.course.cometric(factor) if fades else self.cometric
        # The solver leaves the image by its local error; K and f live on the image.
        z = own.reshape(self.architecture.lifted_shape)
        return self.architecture.project_to_image(z, near=self.theta), cometric

    def _follow(self, coordinates: FloatArray) -> tuple[OneLifted, Cometric, OneTheta]:
        """The same, and what is known of θ there."""
        if not np.array_equal(coordinates, self.known):  # the last stage of a step is its end
            z, cometric = self._look(coordinates)
            if self.by_theta:
                theta = cometric.point(z, near=self.theta)
            else:
                theta = cometric.follow(z, self.theta)
            factor = self.without_clock(coordinates)[1]
            if self.folds.size and np.any(np.abs(theta[self.folds]) <= self.turning * factor):
                raise NotRecoverableError(
                    "a weight that z has in higher powers only comes close to 0, where z does not "
                    "say whether it crosses; coordinates='basis' follow it"
                )
            self.here, self.known = (z, cometric, theta), coordinates.copy()
        return self.here

    def velocity(self, coordinates: FloatArray) -> FloatArray:
        z, cometric, theta = self._follow(coordinates)
        if self.is_gram:
            pushed = self.architecture.phi.jvp(theta, self.descent(theta))
            return self.with_clock(-np.ravel(pushed), self.course.decay)
        gradient = as_gradient(self.loss.gradient(z, theta), self.loss, z.shape)
        velocity, decay = -np.ravel(cometric.apply(z, gradient, near=theta)), self.course.decay
        if not decay:
            return velocity
        if self.course.degrees is None:
            theta = cometric.point(z, near=theta)
            fading = self.architecture.phi.jvp(theta, theta)
        else:
            fading = self.course.degrees * z
        return self.with_clock(velocity - decay * np.ravel(fading), decay)

    def read(self, coordinates: FloatArray) -> State:
        z, cometric = self._look(coordinates)
        theta = cometric.point(z, near=self.theta)
        value = (
            self.value(theta) if self.by_theta else as_value(self.loss.value(z, theta), self.loss)
        )
        own = self.without_clock(coordinates)[0]
        return own.reshape(self.architecture.lifted_shape), theta, value

    def settle(self, coordinates: FloatArray) -> FloatArray:
        # Signs are handed on from step to step: from one kept time to the next they may well turn,
        # and the stages of a step that is given up lead astray.
        self.theta = self._follow(coordinates)[2]
        return coordinates

    def memory(self) -> Memory:
        return {"theta": self.theta}

    def restore(self, memory: Memory) -> None:
        self.theta, self.known = memory["theta"], np.empty(0)


class _BasisState(TrainingState):
    """Products along the basis paths of a chart: O(edges) and one backpropagation each time.

    With learning rates η the laws are those of ψ = θ/√η, whose coordinates are those of θ but for
    constant factors. The solver sees the latter, so that its tolerances do not depend on the rates.
    """

    def __init__(self, flow: "IntrinsicFlow", theta: OneTheta) -> None:
        course = flow._course
        if flow.cometric is not None:
            raise InputError("a cometric of one's own acts on all of z; use coordinates='full'")
        architecture = course.architecture
        if isinstance(architecture, ProductArchitecture):
            if course.rates is not None:
                raise InputError(
                    "with learning rates a product flows in all of z; use coordinates='full'"
                )
            course.cometric()  # which refuses a factor that has no metric at θ₀
        super().__init__(architecture, flow.loss, theta, course)
        self.laws, self.frozen = course.laws(), flow.frozen
        self.first_chart = architecture.basis_chart(theta)
        self._change_chart(self.first_chart)
        self.settled, self.known, self._spare = theta, self.start(), Spare()

    def _change_chart(self, chart: Any) -> None:
        self.chart = chart
        if self.course.way is not None:
            ones = np.ones(self.theta.size)
            own, plain = chart.coordinates(self.course.units), chart.coordinates(ones)
            self.factors = np.divide(own, plain, out=np.ones_like(own), where=plain != 0)

    def start(self) -> FloatArray:
        return self.with_clock(self.chart.coordinates(self.theta), 1.0)

    def _at(self, coordinates: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Coordinates in the chart, and the laws there."""
        own, factor = self.without_clock(coordinates)
        fades = self.course.decay and not self.frozen
        return own, self.course.laws(factor) if fades else self.laws

    def _recover(self, coordinates: FloatArray) -> FloatArray:
        # The last stage of a step is its end; of many coordinates, some tell most ends apart.
        some = slice(None, None, 1 + coordinates.size // 1000)
        if np.array_equal(coordinates[some], self.known[some]) and np.array_equal(
            coordinates, self.known
        ):
            return self.theta
        own, laws = self._at(coordinates)
        if self.course.way is None:
            theta = self.chart.recover(own, laws, near=self.theta)
        else:
            units = self.course.units
            psi = self.chart.recover(own / self.factors, laws, near=self.theta / units)
            theta = units * psi
        return self.chart.follow(theta, self.settled)

    def _move(self, coordinates: FloatArray) -> None:
        self.theta, self.known = self._recover(coordinates), self._spare.copy(coordinates)

    def velocity(self, coordinates: FloatArray) -> FloatArray:
        self._move(coordinates)
        if self.chart.is_left(self.theta, self.settled):  # shorter steps end before, in another one
            raise NotRecoverableError("an anchor of the chart vanishes within a step")
        descent = self.descent(self.theta)
        pushed = self.chart._push(self.theta, descent)  # unchecked: both were looked at
        out = None if np.may_share_memory(pushed, descent) else pushed
        return self.with_clock(np.negative(pushed, out=out), self.course.decay)

    def read(self, coordinates: FloatArray) -> State:
        theta = self._recover(coordinates)
        return self.first_chart.coordinates(theta), theta, self.value(theta)

    def settle(self, coordinates: FloatArray) -> FloatArray:
        self._move(coordinates)
        self.settled = self.theta
        self.chart = self.chart.handed_on(self.theta)  # other signs, but the same factors
        if self.chart.deficit(self.theta) < np.log(REANCHOR_RATIO):
            return coordinates
        self._change_chart(self.chart.reanchored(self.theta))
        self.n_charts += 1
        self.known = self.with_clock(self.chart.coordinates(self.theta), coordinates[-1])
        return self.known.copy()

    def memory(self) -> Memory:
        return {"theta": self.theta, "known": self.known, **self.chart.memory()}

    def restore(self, memory: Memory) -> None:
        self.theta = self.settled = memory["theta"]
        self.known = memory["known"]
        self._change_chart(self.chart.restored(memory))


_STATES = {"full": _FullState, "basis": _BasisState}


class IntrinsicFlow(Guarded):
    """The flow z' = −K_θ₀(z)∇f(z), which needs no parameter.

    Parameters
    ----------
    invariant_set : InvariantSet
        Names the architecture and θ₀, hence K_θ₀.
    coordinates : {"auto", "full", "basis"}
        ``full``: all entries of z. ``basis``: the products along D − |H| basis paths of a ReLU
        network, at the cost of O(edges) and one backpropagation an evaluation, whatever the
        number of paths; of a product, these of its networks and z of the other factors. ``auto``:
        the best of the two for the architecture.
    cometric : Cometric, optional
        By default that of the invariant set; another one, with full coordinates, for metric
        families of one's own and for negative controls; with weight decay it does not fade.
    rule : TrainingRule, optional
        Learning rates and weight decay: the flow z' = −K∇f(z) − λ∂φ(θ)θ, where K has the rates,
        and the laws as they are at each time.

    Raises
    ------
    InputError
        Other coordinates, not a loss, or rates that do not fit the architecture.
    NotIntrinsicError
        No laws are known under the rule: says why.
    """

    frozen: bool = False
    """Whether laws stay as at θ₀ although weights decay: for a negative control."""

    @door
    def __init__(
        self,
        invariant_set: InvariantSet,
        loss: Loss,
        coordinates: str = "auto",
        cometric: Cometric | None = None,
        rule: TrainingRule | None = None,
    ) -> None:
        if coordinates not in ("auto", *_STATES):
            raise InputError(f"coordinates must be auto, full or basis, got {coordinates!r}")
        self.invariant_set, self.loss, self.cometric = invariant_set, loss, cometric
        own = invariant_set.architecture.coordinates
        self.coordinates = own if coordinates == "auto" else coordinates
        self.rule = rule
        self._course = Course(invariant_set.architecture, invariant_set.theta0, rule)
        if cometric is None:
            self._course.check()

    def without_rates(self) -> Self:
        """Return the flow by the metric of another rule, without rates: a negative control.

        Where that has no closed form at θ₀, it has the nearest one.
        """
        rule = TrainingRule(None, 0.0 if self.rule is None else self.rule.weight_decay)
        other = type(self)(self.invariant_set, self.loss, self.coordinates, rule=rule)
        other._course.tolerance = np.inf
        return other

    @property
    def laws_fade(self) -> bool:
        """Whether weight decay changes the laws, which it does not where they are all 0."""
        laws, theta = self._course.laws(), self.invariant_set.theta0 / self._course.units
        return bool(np.any(np.abs(laws) > _BALANCED * np.sum(theta**2)))

    def with_frozen_laws(self) -> Self:
        """Return the flow by the metric of the laws at θ₀, however weights decay: a control."""
        other = copy(self)
        other.frozen = True
        return other

    def _facts(self) -> str:
        return f"{self.loss!r}, {self.coordinates} coordinates, on {self.invariant_set!r}"

    def integrate(
        self, z0: OneLifted | None = None, t_span: tuple[float, float] = (0.0, 1.0), **settings: Any
    ) -> Trajectory:
        """Integrate the flow from z₀.

        Parameters
        ----------
        z0 : OneLifted, optional
            By default φ(θ₀); a network with too many paths to list starts nowhere else.
        **settings
            Of :class:`~liftflow.flows.Settings`, such as ``rtol=1e-8``.

        Raises
        ------
        InputError
            Settings that cannot be used.
        NotOnImageError, NotIntrinsicError, NotRecoverableError, FlowError
            The flow cannot start.
        """
        return integrate(self.state(z0), Settings(t_span, **settings), "intrinsic")

    def state(self, z0: OneLifted | None = None) -> FlowState:
        """Right-hand side of the flow as the integrator sees it, for solvers of one's own."""
        theta = self.invariant_set.theta0
        if z0 is not None:
            shape = self.invariant_set.architecture.lifted_shape
            z = as_array(z0, "z0", shape, batch=False, differentiable=False)
            theta = self._course.recover(z)
        return _STATES[self.coordinates](self, theta)

    @door
    def distance(self, trajectory: Trajectory, theta: Theta) -> OnTimes:
        """Distance ‖φ(θ) − z‖ from a trajectory of this flow to parameters at its times."""
        architecture = self.invariant_set.architecture
        if self.coordinates == "basis":  # the state determines the recovered θ, and conversely
            return architecture.lifted_distance(trajectory.theta, theta)
        gap = np.reshape(architecture.lift(theta) - trajectory.y, (len(theta), -1))
        return np.linalg.norm(gap, axis=1)
