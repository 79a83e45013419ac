"""The flow with momentum, and what it conserves."""

from collections.abc import Callable
from typing import Any

import numpy as np

from liftflow.architectures import Architecture, DeepLinear, LinearNeuralODE, ProductArchitecture
from liftflow.architectures.balance import transpose
from liftflow.doors import Guarded, door
from liftflow.errors import UndefinedError
from liftflow.flows.integrate import integrate
from liftflow.flows.rules import Course
from liftflow.flows.settings import Settings
from liftflow.flows.state import FlowState, State, TrainingState
from liftflow.flows.trajectory import Trajectory
from liftflow.linalg import lengths
from liftflow.losses import Loss
from liftflow.typing import (
    FloatArray,
    OneTangent,
    OneTheta,
    OnTimes,
    Scalars,
    Tangent,
    Theta,
    as_array,
    as_number,
)


class _MomentumState(TrainingState):
    """Positions and velocities, one after the other."""

    def __init__(
        self,
        architecture: Architecture,
        loss: Loss,
        theta: FloatArray,
        velocity: FloatArray,
        friction: float,
    ) -> None:
        super().__init__(architecture, loss, theta, Course(architecture, theta))
        self.first, self.friction = velocity, friction
        reach = float(lengths(theta)) or 1.0
        pull, push = (float(lengths(each)) for each in (self.gradient(theta), velocity))
        speed = np.hypot(push, np.sqrt(pull * reach)) / reach or 1.0  # in a unit of time of its own
        self.sizes = np.repeat([1.0, speed], theta.size)

    def start(self) -> FloatArray:
        return np.concatenate([self.theta, self.first])

    def velocity(self, coordinates: FloatArray) -> FloatArray:
        theta, speed = np.split(coordinates, 2)
        return np.concatenate([speed, -self.friction * speed - self.gradient(theta)])

    def read(self, coordinates: FloatArray) -> State:
        theta = coordinates[: self.theta.size]
        return coordinates.reshape(2, -1), theta, self.value(theta)


class MomentumFlow(Guarded):
    r"""The flow θ'' + τθ' = −∇ℓ(θ), the limit of heavy ball by small steps.

    Rotations of the hidden units of linear layers leave loss and metric as they are, so by Noether
    a skew matrix is kept for each hidden layer,
    :math:`e^{τt}(U_{i+1}^\top U_{i+1}' − U_{i+1}'^\top U_{i+1} + U_i' U_i^\top − U_i U_i'^\top)`.
    Rescalings of ReLU units are no isometries: there nothing is kept. Two layers between numbers
    (n = m = 1) keep as many again, as u + v and u − v turn apart.

    Raises
    ------
    InputError
        Not a loss, or a negative friction.

    References
    ----------
    [Marcotte2024]_.

    Examples
    --------
    >>> import numpy as np
    >>> from liftflow.architectures import TwoLayerLinear
    >>> from liftflow.flows import MomentumFlow
    >>> from liftflow.losses import loss_from_function
    >>> network, loss = TwoLayerLinear(2, 2, 2), loss_from_function(lambda z: (z**2).sum())
    >>> flow = MomentumFlow(network, loss, friction=0.5)
    >>> run = flow.integrate(np.linspace(-1.0, 1.0, 8), (0.0, 1.0), np.linspace(1.0, 0.3, 8) ** 2)
    >>> bool(np.ptp(flow.laws(run.t, *np.moveaxis(run.y, 1, 0)), axis=0).max() < 1e-6)
    True
    """

    @door
    def __init__(self, architecture: Architecture, loss: Loss, friction: float = 1.0) -> None:
        self.architecture, self.loss = architecture, loss
        self.friction = as_number(friction, "friction", 0.0)

    def integrate(
        self,
        theta0: OneTheta,
        t_span: tuple[float, float],
        velocity0: OneTangent | None = None,
        **settings: Any,
    ) -> Trajectory:
        """Integrate the flow from θ₀ to a ``y`` of θ and θ', shape=[n_times, 2, dim].

        Parameters
        ----------
        velocity0 : OneTangent, optional
            Velocity θ' at the start, by default 0; then all Noether laws are 0.
        **settings
            Of :class:`~liftflow.flows.Settings`, such as ``rtol=1e-8``.

        Raises
        ------
        InputError
            Settings that cannot be used.
        FlowError
            The flow cannot start.
        """
        return integrate(self.state(theta0, velocity0), Settings(t_span, **settings), "momentum")

    def state(self, theta0: OneTheta, velocity0: OneTangent | None = None) -> FlowState:
        """Right-hand side of the flow as the integrator sees it; its coordinates are θ, then θ'."""
        shape = (self.architecture.dim,)
        options: dict[str, Any] = {"batch": False, "differentiable": False}
        point = as_array(theta0, "theta0", shape, **options)
        speed = np.zeros(shape) if velocity0 is None else velocity0
        speed = as_array(speed, "velocity0", shape, **options)
        self.architecture.phi.check(point)
        return _MomentumState(self.architecture, self.loss, point, speed, self.friction)

    @door
    def laws(self, t: OnTimes, theta: Theta, velocity: Tangent) -> Scalars:
        """Evaluate the Noether laws, the upper triangles of their matrices, shape=[..., n_laws].

        None of a ReLU network.

        Raises
        ------
        UndefinedError
            The isometries among the symmetries of the architecture are not known.
        """
        times = as_array(t, "t", differentiable=False)
        shape = (self.architecture.dim,)
        theta = as_array(theta, "theta", shape, differentiable=False)
        speed = as_array(velocity, "velocity", shape, differentiable=False)
        charges = noether_charges(self.architecture)(theta, speed)
        return np.exp(self.friction * times)[..., None] * charges

    @property
    def n_laws(self) -> int:
        """Number of independent laws of this flow.

        Raises
        ------
        UndefinedError
            As :meth:`laws`.
        """
        rng, dim = np.random.default_rng(0), self.architecture.dim
        charges = noether_charges(self.architecture)
        theta, velocity = rng.standard_normal((2, dim))
        eye, nothing = np.eye(dim), np.zeros((dim, dim))
        # The charges are bilinear: these are all their derivatives at a random point.
        rows = np.concatenate([charges(eye, nothing + velocity), charges(nothing + theta, eye)])
        return int(np.linalg.matrix_rank(rows)) if rows.size else 0


def noether_charges(architecture: Architecture) -> Callable[[Theta, Tangent], FloatArray]:
    """Return the Noether charges of the rotations that leave an architecture as it is."""
    if isinstance(architecture, ProductArchitecture):
        parts = [noether_charges(factor) for factor in architecture.factors]

        def joined(theta: Theta, velocity: Tangent) -> FloatArray:
            both = map(architecture.unpack, (theta, velocity))
            own = [charges(*pair) for charges, *pair in zip(parts, *both, strict=True)]
            return np.concatenate(own, axis=-1)

        return joined
    if hasattr(architecture, "channels"):
        return lambda theta, velocity: np.zeros((*theta.shape[:-1], 0))
    if not isinstance(architecture, DeepLinear) or isinstance(architecture, LinearNeuralODE):
        raise UndefinedError(
            f"the rotations that leave {type(architecture).__name__} as it is are not known: "
            "Noether laws are those of linear layers, attention, and products of these"
        )
    return lambda theta, velocity: _of_layers(architecture, theta, velocity)


def _of_layers(network: DeepLinear, theta: Theta, velocity: Tangent) -> FloatArray:
    # Layers as they act, whatever a family keeps of them (V, not Vᵀ, of two layers).
    layers, speeds = network.layers(theta), network.layer_velocities(velocity)
    pairs = zip(layers, layers[1:], speeds, speeds[1:], strict=False)
    turns = [
        transpose(above) @ fast + below @ transpose(slow) for below, above, slow, fast in pairs
    ]
    if len(layers) == 2 and layers[0].shape[-1] == layers[1].shape[-2] == 1:
        # z = uᵀv = (|u + v|² − |u − v|²)/4: both halves turn on their own.
        turns.append(layers[0] @ speeds[1] + transpose(layers[1]) @ transpose(speeds[0]))
    charges = []
    for turn in turns:
        rows, columns = np.triu_indices(turn.shape[-1], 1)
        charges.append((turn - transpose(turn))[..., rows, columns])
    return np.concatenate(charges, axis=-1)
