"""The gradient flow of the lifted variable in its intrinsic metric."""

from typing import Any

import numpy as np

from liftflow.doors import Guarded, door
from liftflow.errors import InputError
from liftflow.flows.integrate import integrate
from liftflow.flows.settings import Settings
from liftflow.flows.state import FlowState, State, TrainingState
from liftflow.flows.trajectory import Memory, Trajectory
from liftflow.losses import Loss, ParameterLoss
from liftflow.losses.base import as_gradient, as_value
from liftflow.manifolds import InvariantSet
from liftflow.metrics import Cometric, intrinsic_cometric
from liftflow.typing import FloatArray, OneLifted, OneTheta, OnTimes, as_array

REANCHOR_RATIO = 10.0
"""An anchor path this many times smaller than the best one through its node is given up."""


class _FullState(TrainingState):
    """All entries of z; θ is recovered only where the loss needs it."""

    def __init__(
        self, invariant_set: InvariantSet, loss: Loss, theta: OneTheta, cometric: Cometric | None
    ) -> None:
        super().__init__(invariant_set.architecture, loss, theta)
        self.by_theta = isinstance(loss, ParameterLoss)
        self.is_gram = self.by_theta and cometric is None  # one of the caller's need not be ∂φ∂φᵀ
        if cometric is None:
            cometric = intrinsic_cometric(self.architecture, invariant_set.theta0)
        self.cometric, self.known = cometric, np.empty(0)

    def start(self) -> FloatArray:
        return np.ravel(self.architecture.lift(self.theta))

    def _on_image(self, coordinates: FloatArray) -> OneLifted:
        # The solver leaves the image by its local error; K and f live on the image.
        z = coordinates.reshape(self.architecture.lifted_shape)
        return self.architecture.project_to_image(z, near=self.theta)

    def _follow(self, coordinates: FloatArray) -> tuple[OneLifted, OneTheta]:
        """The point of the image next to the coordinates, and what is known of θ there."""
        if not np.array_equal(coordinates, self.known):  # the last stage of a step is its end
            z, metric = self._on_image(coordinates), self.cometric
            if self.by_theta:
                theta = metric.point(z, near=self.theta)
            else:
                theta = metric.follow(z, self.theta)
            self.here, self.known = (z, theta), coordinates.copy()
        return self.here

    def velocity(self, coordinates: FloatArray) -> FloatArray:
        z, theta = self._follow(coordinates)
        if self.is_gram:
            return -np.ravel(self.architecture.phi.jvp(theta, self.gradient(theta)))
        gradient = as_gradient(self.loss.gradient(z, theta), self.loss, z.shape)
        return -np.ravel(self.cometric.apply(z, gradient, near=theta))

    def read(self, coordinates: FloatArray) -> State:
        z = self._on_image(coordinates)
        theta = self.cometric.point(z, near=self.theta)
        value = (
            self.value(theta) if self.by_theta else as_value(self.loss.value(z, theta), self.loss)
        )
        return coordinates.reshape(self.architecture.lifted_shape), theta, value

    def settle(self, coordinates: FloatArray) -> FloatArray:
        # Signs are handed on from step to step: from one kept time to the next they may well turn,
        # and the stages of a step that is given up lead astray.
        self.theta = self._follow(coordinates)[1]
        return coordinates

    def memory(self) -> Memory:
        return {"theta": self.theta}

    def restore(self, memory: Memory) -> None:
        self.theta, self.known = memory["theta"], np.empty(0)


class _BasisState(TrainingState):
    """Products along the basis paths of a chart: O(edges) and one backpropagation each time."""

    def __init__(
        self, invariant_set: InvariantSet, loss: Loss, theta: OneTheta, cometric: Cometric | None
    ) -> None:
        if cometric is not None:
            raise InputError("a cometric of one's own acts on all of z; use coordinates='full'")
        super().__init__(invariant_set.architecture, loss, theta)
        self.laws = invariant_set.laws0
        self.first_chart = self.chart = invariant_set.architecture.basis_chart(theta)
        self.settled, self.known = theta, self.start()

    def start(self) -> FloatArray:
        return self.chart.coordinates(self.theta)

    def _recover(self, coordinates: FloatArray) -> FloatArray:
        # The last stage of a step is its end; of many coordinates, some tell most ends apart.
        some = slice(None, None, 1 + coordinates.size // 1000)
        if np.array_equal(coordinates[some], self.known[some]) and np.array_equal(
            coordinates, self.known
        ):
            return self.theta
        theta = self.chart.recover(coordinates, self.laws, near=self.theta)
        return self.chart.follow(theta, self.settled)

    def _move(self, coordinates: FloatArray) -> None:
        self.theta, self.known = self._recover(coordinates), coordinates.copy()

    def velocity(self, coordinates: FloatArray) -> FloatArray:
        self._move(coordinates)
        velocity = self.chart.push_forward(self.theta, self.gradient(self.theta))
        return np.negative(velocity, out=velocity)

    def read(self, coordinates: FloatArray) -> State:
        theta = self._recover(coordinates)
        return self.first_chart.coordinates(theta), theta, self.value(theta)

    def settle(self, coordinates: FloatArray) -> FloatArray:
        self._move(coordinates)
        self.settled = self.theta
        self.chart = self.chart.handed_on(self.theta)
        if self.chart.deficit(self.theta) < np.log(REANCHOR_RATIO):
            return coordinates
        self.chart = self.chart.reanchored(self.theta)
        self.n_charts += 1
        self.known = self.start()
        return self.known.copy()

    def memory(self) -> Memory:
        return {"theta": self.theta, "known": self.known, **self.chart.memory()}

    def restore(self, memory: Memory) -> None:
        self.theta = self.settled = memory["theta"]
        self.known = memory["known"]
        self.chart = self.chart.restored(memory)


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
        number of paths. ``auto``: the best of the two for the architecture.
    cometric : Cometric, optional
        By default that of the invariant set; another one, with full coordinates, for metric
        families of one's own and for negative controls.

    Raises
    ------
    InputError
        Other coordinates, or not a loss.
    """

    @door
    def __init__(
        self,
        invariant_set: InvariantSet,
        loss: Loss,
        coordinates: str = "auto",
        cometric: Cometric | None = None,
    ) -> None:
        if coordinates not in ("auto", *_STATES):
            raise InputError(f"coordinates must be auto, full or basis, got {coordinates!r}")
        self.invariant_set, self.loss, self.cometric = invariant_set, loss, cometric
        own = invariant_set.architecture.coordinates
        self.coordinates = own if coordinates == "auto" else coordinates

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

        Returns
        -------
        trajectory : Trajectory
            Its ``success`` and ``message`` say whether the end was reached.

        Raises
        ------
        InputError
            Settings that cannot be used.
        NotOnImageError, NotIntrinsicError, NotRecoverableError, FlowError
            The flow cannot start.
        """
        return integrate(self.state(z0), Settings(t_span, **settings), "intrinsic")

    def state(self, z0: OneLifted | None = None) -> FlowState:
        """Right-hand side of the flow as the integrator sees it, for solvers of one's own.

        Returns
        -------
        state : FlowState
            ``start()`` gives the first coordinates, ``velocity(coordinates)`` their velocity.
        """
        theta = self.invariant_set.theta0
        if z0 is not None:
            shape = self.invariant_set.architecture.lifted_shape
            z = as_array(z0, "z0", shape, batch=False, differentiable=False)
            theta = self.invariant_set.recover(z)
        return _STATES[self.coordinates](self.invariant_set, self.loss, theta, self.cometric)

    @door
    def distance(self, trajectory: Trajectory, theta: FloatArray) -> OnTimes:
        """Distance ‖φ(θ) − z‖ from a trajectory of this flow to parameters, time by time.

        Parameters
        ----------
        theta : array, shape=[n_times, dim]
        """
        architecture = self.invariant_set.architecture
        if self.coordinates == "basis":  # the state determines the recovered θ, and conversely
            return architecture.lifted_distance(trajectory.theta, theta)
        gap = np.reshape(architecture.lift(theta) - trajectory.y, (len(theta), -1))
        return np.linalg.norm(gap, axis=1)
