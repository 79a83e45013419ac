"""Training rules: learning rates and weight decay, and what they make of laws and metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from liftflow.architectures import Architecture
from liftflow.architectures.linear import BALANCE_RTOL
from liftflow.architectures.rescaling import Rescaling, degrees, rescaling
from liftflow.doors import door
from liftflow.errors import InputError, NotIntrinsicError, ShapeError
from liftflow.flows.trajectory import Trajectory
from liftflow.linalg import relative
from liftflow.metrics import Cometric, intrinsic_cometric
from liftflow.metrics.rescaled import RescaledCometric
from liftflow.typing import (
    FloatArray,
    Laws,
    Lifted,
    OneTheta,
    OnTimes,
    Scalars,
    Theta,
    as_array,
    as_instance,
    as_number,
    as_own,
    shown,
)

_POINTS = 3
_TOLERANCE, _ROUNDING = 1e-6, 1e-12


@dataclass(frozen=True, eq=False)
class TrainingRule:
    r"""The flow θ' = −E∇ℓ(θ) − λθ: learning rates E = diag(η), and weight decay λ.

    With rates it is the plain flow in the metric :math:`E^{-1}` of parameter space: laws are those
    of θ/√η, and :math:`M = ∂φ E ∂φ^\top`. With decay, laws of degree two fade as
    :math:`h(t) = e^{-2λt} h_0`, and :math:`z' = −K_{h(t)}(z)∇f(z) − λ ∂φ(θ)θ`. Rates do not
    multiply the decay.

    Attributes
    ----------
    learning_rates : float, array, sequence or dict, optional
        One for all; one per parameter, shape=[dim]; a sequence of one per block of
        ``unpack(theta)``, each a number or an array of the shape of the block; or a dict of these
        by the number of the block. By default 1.
    weight_decay : float
        The λ.

    Raises
    ------
    InputError
        Rates that are not positive, or a negative decay.

    References
    ----------
    Rates: [Kunin2024]_; decay: [Marcotte2025]_, Theorem 2.1. The metrics are ours.

    Examples
    --------
    >>> from liftflow.architectures import TwoLayerLinear
    >>> from liftflow.flows import TrainingRule
    >>> network = TwoLayerLinear(1, 1, 1)
    >>> rule = TrainingRule([4.0, 1.0], weight_decay=0.5)
    >>> print(rule.laws(network, [2.0, 3.0]))  # u²/4 − v²
    [-8.]
    """

    learning_rates: Any = None
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Look at the numbers, and keep copies of them."""
        given = self.learning_rates
        if isinstance(given, Mapping):
            kept: Any = {key: _as_rates(value, f"rate {key!r}") for key, value in given.items()}
        elif isinstance(given, Sequence) and not all(map(np.isscalar, given)):
            kept = tuple(_as_rates(value, f"rate {i}") for i, value in enumerate(given))
        else:
            kept = None if given is None else _as_rates(given, "learning_rates")
        object.__setattr__(self, "learning_rates", kept)
        decay = as_number(self.weight_decay, "weight_decay", 0.0, np.finfo(float).max)
        object.__setattr__(self, "weight_decay", decay)

    @property
    def is_plain(self) -> bool:
        """Whether the flow is that without a rule: all rates are 1, and there is no decay."""
        return self.weight_decay == 0.0 and all(np.all(rate == 1.0) for rate in self._parts)

    @property
    def _parts(self) -> list[FloatArray]:
        """The rates, as they were given."""
        given = self.learning_rates
        if isinstance(given, Mapping):
            return list(given.values())
        return list(given) if isinstance(given, tuple) else [] if given is None else [given]

    def __repr__(self) -> str:
        """Say it in one line, however many rates there are."""
        return f"TrainingRule({self})"

    def __str__(self) -> str:
        """Say what the rule is, in a few words."""
        words = [f"decay {self.weight_decay:g}"] if self.weight_decay else []
        if self._parts:
            low, high = (f(list(map(f, self._parts))) for f in (np.min, np.max))
            words.insert(0, f"rates {low:g}" + (f" to {high:g}" if high > low else ""))
        return ", ".join(words) or "plain flow"

    @door
    def rates(self, architecture: Architecture) -> FloatArray:
        """Return the rate η of every parameter, shape=[dim].

        Raises
        ------
        ShapeError
            As many rates as there are neither parameters nor blocks, or a block's of another shape.
        InputError
            A dict that leaves a block out, or names one that is not there.
        """
        given, blocks = self.learning_rates, architecture.block_shapes
        if isinstance(given, Mapping):
            if given.keys() != set(range(len(blocks))):
                raise InputError(
                    f"learning_rates must have the keys 0 to {len(blocks) - 1}, the blocks of "
                    f"unpack(theta), got {shown(list(given))}"
                )
            given = tuple(given[number] for number in range(len(blocks)))
        if given is None:
            return np.ones(architecture.dim)
        if isinstance(given, np.ndarray):
            if given.ndim == 0:
                return np.full(architecture.dim, float(given))
            if given.shape == (architecture.dim,):
                return given.copy()
            if given.ndim > 1:
                raise ShapeError(
                    "learning_rates must be one number, one per parameter, "
                    f"shape=({architecture.dim},), or a list of one per block, got shape "
                    f"{given.shape}"
                )
        if len(given) != len(blocks):
            raise ShapeError(
                f"learning_rates must be one per parameter or one per block of unpack(theta), "
                f"whose shapes are {shown(blocks)}, got {len(given)}"
            )
        parts = []
        for number, (rate, shape) in enumerate(zip(given, blocks, strict=True)):
            if np.shape(rate) not in ((), shape):
                raise ShapeError(
                    f"the rates of block {number} must be one number or an array of shape {shape}, "
                    f"got shape {np.shape(rate)}"
                )
            parts.append(np.broadcast_to(rate, shape).ravel())
        return np.concatenate(parts)

    @door
    def laws(self, architecture: Architecture, theta: Theta) -> Laws:
        """Evaluate the laws of this rule, which the flow keeps but for the decay.

        Raises
        ------
        NotIntrinsicError
            None are known for these rates: says why.
        """
        theta = as_array(theta, "theta", (architecture.dim,))
        return Course(architecture, theta, self).laws_of(theta)

    @door
    def laws_at(self, architecture: Architecture, theta0: OneTheta, t: Scalars) -> Laws:
        """Evaluate the laws a time t after θ₀, which e^{−λt}θ₀ has, shape=[..., n_laws].

        Raises
        ------
        NotIntrinsicError
            As :meth:`laws`, or no law of the times to come is known under decay: says why.
        """
        times, course = as_array(t, "t", differentiable=False), self._course(architecture, theta0)
        return course.laws_of(np.exp(-self.weight_decay * times)[..., None] * course.theta0)

    @door
    def cometric(self, architecture: Architecture, theta0: OneTheta, t: float = 0.0) -> Cometric:
        """Build K of the flow from θ₀ a time t later, ∂φ E ∂φᵀ where the laws are those then.

        Raises
        ------
        NotIntrinsicError, NotRecoverableError
            As :func:`~liftflow.metrics.intrinsic_cometric`, :meth:`laws` or :meth:`laws_at`.
        """
        factor = float(np.exp(-self.weight_decay * t))
        return self._course(architecture, theta0).cometric(factor)

    def _course(self, architecture: Architecture, theta0: OneTheta) -> "Course":
        start = as_array(theta0, "theta0", (architecture.dim,), batch=False, differentiable=False)
        course = Course(architecture, start, self)
        course.check()
        return course


def _as_rates(value: object, name: str) -> FloatArray:
    rates = as_own(value, name)
    if not np.all(rates > 0):
        raise InputError(
            f"{name} must be positive, got {shown(float(np.min(rates)))}; a weight that is not "
            "trained is frozen in the graph of a network"
        )
    return rates


@door
def law_drift(
    architecture: Architecture, trajectory: Trajectory | Theta, rule: TrainingRule | None = None
) -> OnTimes:
    """Measure the drift of the conservation laws, ‖h(θ(t)) − h(θ₀)‖_∞ / ‖θ₀‖².

    Parameters
    ----------
    trajectory : Trajectory or array-like, shape=[..., n_times, dim]
        A flow, steps of a finite size, or any array of θ, such as another program logged. The first
        θ is θ₀.
    rule : TrainingRule, optional
        Of a trajectory, whose times it needs: the drift is that of its laws, from where its decay
        leads them.

    Returns
    -------
    drift : OnTimes
        From θ₀ = 0, infinite where the laws drift at all.
    """
    theta = trajectory.theta if isinstance(trajectory, Trajectory) else trajectory
    theta = as_array(theta, "trajectory", (None, architecture.dim), differentiable=False)
    if not theta.shape[-2]:
        raise InputError("trajectory must hold at least one point, got none")
    if rule is not None:
        times = as_instance(trajectory, Trajectory, "trajectory").t
        expected = rule.laws_at(architecture, theta[0], times - times[0])
        gap = np.abs(rule.laws(architecture, theta) - expected)
        size = np.sum(theta[0] ** 2 / rule.rates(architecture))
        return relative(np.max(gap, axis=1, initial=0.0), size)
    laws = np.asarray(architecture.conservation_laws(theta))
    gap = np.max(np.abs(laws - laws[..., :1, :]), axis=-1, initial=0.0)
    return relative(gap, np.sum(theta[..., :1, :] ** 2, axis=-1))


class Course:
    """Laws and metric on the way from θ₀ by a rule, or by the plain flow."""

    tolerance: float = BALANCE_RTOL
    """Of the closed form; infinite where a negative control has none at θ₀."""

    def __init__(
        self, architecture: Architecture, theta0: OneTheta, rule: TrainingRule | None = None
    ) -> None:
        self.architecture, self.theta0 = architecture, theta0
        self.decay, self.rates = 0.0, None  # where all rates are 1
        if rule is not None:
            self.decay, rates = rule.weight_decay, rule.rates(architecture)
            self.rates = None if np.all(rates == 1.0) else rates

    @cached_property
    def way(self) -> Rescaling | None:
        """Where the flow with rates is a plain one; None where it is one itself."""
        return None if self.rates is None else rescaling(self.architecture, self.rates)

    def check(self) -> None:
        """Refuse a rule under which no laws are known."""
        way = self.way
        if self.decay:
            _refuse_inhomogeneous(way.architecture if way else self.architecture)

    @property
    def units(self) -> FloatArray | float:
        """The factors u of the coordinates ψ = θ/u in which the flow is a plain one."""
        return self.way.units if self.way else 1.0

    def laws_of(self, theta: Theta) -> Laws:
        """Evaluate the laws of the flow but for its decay."""
        return self.way.laws(theta) if self.way else self.architecture.conservation_laws(theta)

    def laws(self, factor: float = 1.0) -> Laws:
        """Evaluate the laws of θ₀ times a factor."""
        return self.laws_of(self._shrunk(factor))

    def cometric(self, factor: float = 1.0) -> Cometric:
        """Build K of θ₀ times a factor."""
        point = self._shrunk(factor)
        if self.rates is None or self.way is None:
            return intrinsic_cometric(self.architecture, point, tolerance=self.tolerance)
        return RescaledCometric(self.architecture, point, self.rates, self.way)

    @cached_property
    def degrees(self) -> FloatArray | None:
        """The degrees L of the entries of z, with ∂φ(θ)θ = L ∘ z, where they have some."""
        return degrees(self.architecture)

    def recover(self, z: Lifted) -> Theta:
        """Recover θ from z and the laws of θ₀."""
        if self.way is None:
            return self.architecture.recover(z, self.laws(), near=self.theta0)
        return self.cometric().point(z)

    def _shrunk(self, factor: float) -> OneTheta:
        return self.theta0 if factor == 1.0 else factor * self.theta0


def _refuse_inhomogeneous(architecture: Architecture) -> None:
    """Refuse laws that θ ↦ sθ does not multiply by a power of s: decay mixes them with others."""
    laws = architecture.h
    points = np.asarray(architecture.random_point(_POINTS, rng=0))
    changes = np.asarray(laws.jvp(points, points)).reshape(_POINTS, -1)
    values = np.asarray(laws(points)).reshape(_POINTS, -1)
    squares = np.sum(values**2, axis=0)
    degrees = np.sum(changes * values, axis=0) / np.where(squares > 0, squares, 1.0)
    terms = np.asarray(laws.terms(points)).reshape(_POINTS, -1)
    gaps, sizes = np.abs(changes - degrees * values), np.abs(changes) + np.abs(degrees * values)
    off = gaps > _TOLERANCE * sizes + _ROUNDING * terms
    if np.any(off):
        first = int(np.argmax(np.any(off, axis=0)))
        raise NotIntrinsicError(
            f"weight decay: law {first} of {type(architecture).__name__} is not "
            "homogeneous in θ, so it does not fade as a power of e^{−λt}: its change −λ ∂h(θ)θ is "
            "no function of the laws, and K at later times is not known; train without decay, or "
            "take a family whose laws are homogeneous, as those of degree two are"
        )
