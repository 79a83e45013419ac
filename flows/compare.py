"""Both flows of one training problem, side by side."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from scipy.integrate import OdeSolver

from liftflow.doors import door
from liftflow.errors import ArchitectureError, InputError, OutputError, ShapeError
from liftflow.files import as_path, make_folder
from liftflow.flows.comparison import ELSEWHERE, FROZEN, NO_RATES, Comparison
from liftflow.flows.integrate import integrate, origin
from liftflow.flows.intrinsic import IntrinsicFlow
from liftflow.flows.parameter import ParameterFlow
from liftflow.flows.resume import check_losses, same_numbers
from liftflow.flows.rules import TrainingRule
from liftflow.flows.settings import Settings
from liftflow.flows.state import FlowState
from liftflow.flows.trajectory import Trajectory
from liftflow.linalg import lengths, units
from liftflow.losses import Loss
from liftflow.manifolds import InvariantSet
from liftflow.metrics import Cometric
from liftflow.typing import FloatArray
from liftflow.version import __version__

_SAME = 1e-6  # distance of two starts, relative to θ₀, that single precision leaves
_CONTROL_SEED = 20_260_807
_FILES = {NO_RATES: "control-rates", FROZEN: "control-laws"}


@door
def compare(
    invariant_set: InvariantSet,
    loss: Loss,
    t_span: tuple[float, float],
    rtol: float = 1e-6,
    atol: float | None = None,
    method: str | type[OdeSolver] = "RK45",
    coordinates: str = "auto",
    cometric: Cometric | None = None,
    control: bool = False,
    progress: bool | None = None,
    n_times: int = 101,
    memory_limit: float = 8e9,
    checkpoints: str | Path | None = None,
    steps: Trajectory | None = None,
    rule: TrainingRule | None = None,
    about: Mapping[str, Any] | None = None,
    **options: Any,
) -> Comparison:
    """Integrate the parameter flow and the intrinsic flow from θ₀, and compare them.

    Both have the same settings, those of :class:`~liftflow.flows.Settings`. Ctrl-C ends all flows,
    also those that were not begun; ``success`` is then False, and ``interrupted`` True.

    Parameters
    ----------
    invariant_set : InvariantSet
        Names the architecture and θ₀.
    coordinates : {"auto", "full", "basis"}
        Coordinates of the intrinsic flow.
    cometric : Cometric, optional
        The metric of the intrinsic flow, by default that of the invariant set.
    control : bool
        Whether to add the negative control: the flow from the same z by the metric of another
        θ₀, with other laws. It must part from the others. With a rule, it is the flow by the metric
        without the learning rates, and one by that of laws that do not decay, unless they vanish.
    checkpoints : str or Path, optional
        Folder where the flows leave their checkpoints every minute; it is made where there is none.
        Those that are there already are continued: to go on after a stop, make the same call
        again. Those of another flow, start, loss, metric or method, of other tolerances or times,
        and those that went beyond the end of ``t_span``, are refused. A loss is known by its values
        at the times kept and around the start: one that differs only elsewhere passes for the same.
    steps : Trajectory, optional
        A run of training by steps from θ₀, such as :meth:`GradientDescent.run` makes or
        :meth:`Trajectory.from_arrays` takes from elsewhere, to be put beside the two flows. Its
        times are the sums of the step sizes, and the flows are kept at those next to the times
        asked for.
    rule : TrainingRule, optional
        Learning rates and weight decay of both flows.
    about : mapping of str to Any, optional
        What the figure and the summary are to say besides, such as
        ``{"data": "iris", "seed": 0}``.
    **options
        ``max_step``, ``first_step``, ``t_eval`` and ``checkpoint_seconds``.

    Raises
    ------
    InputError, FlowError, NotIntrinsicError, NotRecoverableError
        As the two flows.
    DataError
        A checkpoint is damaged.
    OutputError
        The first checkpoint cannot be written. Later ones only give a warning.
    ArchitectureError
        A control is asked for, and the family has no other θ₀ over the same z with a closed form;
        or only weights decay, and all laws vanish at θ₀.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> from liftflow import InvariantSet, ReLUNetwork, compare, loss_from_function
    >>> network = ReLUNetwork.diagonal(2)
    >>> loss = loss_from_function(lambda z: anp.sum((z - 1.0) ** 2))
    >>> start = InvariantSet(network, [0.5, 0.8, 0.4, -0.3])
    >>> bool(compare(start, loss, (0.0, 1.0)).max_deviation < 1e-5)
    True
    """
    if steps is not None:
        wanted = Settings(t_span, n_times=n_times, t_eval=options.get("t_eval"))
        options["t_eval"] = _times_with(steps, invariant_set, wanted)
    plan = Plan(
        invariant_set,
        loss,
        t_span,
        coordinates,
        cometric,
        control,
        rtol=rtol,
        atol=atol,
        method=method,
        progress=progress,
        n_times=n_times,
        memory_limit=memory_limit,
        rule=rule,
        **options,
    )
    done = plan.run(None if checkpoints is None else as_path(checkpoints, "checkpoints"))
    if steps is not None:
        steps = steps.rows(np.flatnonzero(np.isin(steps.t, done.parameter.t)))
    return replace(done, steps=steps, about=dict(about or {}))


def _times_with(steps: Trajectory, invariant_set: InvariantSet, wanted: Settings) -> FloatArray:
    """Times of the steps next to those that are wanted, as far as the steps came."""
    theta0, start = invariant_set.theta0, float(wanted.t_span[0])
    if steps.theta.shape[1:] != theta0.shape:
        raise ShapeError(
            f"steps must have theta of shape (n_times, {theta0.size}), got {steps.theta.shape}"
        )
    gap = float(lengths(steps.theta[0] - theta0))
    if not gap <= _SAME * lengths(theta0) or steps.t[0] != start:
        raise InputError(
            f"steps must start from θ₀ at the time {start:g} of the flows, got a run that starts "
            f"at a distance of {gap:.2g} at the time {steps.t[0]:g}"
        )
    times, own = wanted.times, steps.t[steps.t <= wanted.t_span[1]]
    before = own[np.maximum(np.searchsorted(own, times, "right") - 1, 0)]
    after = own[np.minimum(np.searchsorted(own, times), len(own) - 1)]
    nearest = np.where(times - before <= after - times, before, after)
    return np.unique(np.where(times <= own[-1], nearest, times))


class Plan:
    """The flows of a comparison, before they are integrated."""

    @door
    def __init__(
        self,
        invariant_set: InvariantSet,
        loss: Loss,
        t_span: tuple[float, float],
        coordinates: str = "auto",
        cometric: Cometric | None = None,
        control: bool = False,
        rule: TrainingRule | None = None,
        **settings: Any,
    ) -> None:
        for name in ("checkpoint", "checkpoints", "resume"):
            if name in settings:
                raise InputError(
                    f"{name} is no setting here, where each flow has a file of its own: use "
                    "checkpoints= of compare or folder= of sweep, which both write and resume them"
                )
        architecture, theta0 = invariant_set.architecture, invariant_set.theta0
        flow = IntrinsicFlow(invariant_set, loss, coordinates, cometric, rule)
        self.invariant_set, self.loss, self.rule = invariant_set, loss, rule
        self.flows = {"intrinsic": flow}
        if control and rule is not None and not rule.is_plain:
            if np.any(rule.rates(architecture) != 1.0):
                self.flows[NO_RATES] = flow.without_rates()
            if rule.weight_decay and flow.laws_fade:
                self.flows[FROZEN] = flow.with_frozen_laws()
            if len(self.flows) == 1:
                raise ArchitectureError(
                    "all laws vanish at θ₀, where laws that decay and laws that do not make the "
                    "same flow, so that there is no control; start off balance"
                )
        elif control:  # first, since a family may have none
            elsewhere = InvariantSet(architecture, architecture.fibre_point(theta0, _CONTROL_SEED))
            self.flows["control"] = IntrinsicFlow(elsewhere, loss, coordinates)
        size = architecture.lifted_dim if flow.coordinates == "full" else architecture.dim
        wanted = Settings(t_span, **settings)
        kept = architecture.dim + size + 2  # with the deviations of the flow and of its control
        self.settings = replace(wanted, t_eval=wanted.thinned(kept))
        # A state remembers where it was, so that each integration takes a new one.
        by_theta = ParameterFlow(architecture, loss, rule)
        self.states: dict[str, Callable[[], FlowState]] = {
            "parameter": partial(by_theta.state, theta0)
        }
        self.states |= {name: own.state for name, own in self.flows.items()}

    def identity(self) -> dict[str, Any]:
        """Collect all that decides the numbers, by names.

        What is given is there as it is. Architectures, losses and metrics have no such form: under
        ``computed`` are numbers that they lead to.
        """
        architecture, theta0 = self.invariant_set.architecture, self.invariant_set.theta0
        settings, scale = self.settings, np.max(np.abs(theta0), initial=0.0)
        aside = theta0 + 0.1 * scale * np.random.default_rng(0).standard_normal(theta0.size)
        computed = {"laws": [_sketch(architecture.conservation_laws(aside))]}
        for name, state in self.states.items():
            own = origin(state(), settings, name)
            numbers = [[loss] for loss in (own.loss, *own.probe.tolist())]
            numbers += map(_sketch, (own.coordinates, own.velocity, own.ahead))
            computed[f"loss, data or metric of the {name} flow"] = numbers
        return {
            "version of liftflow": __version__,
            "architecture": [
                type(architecture).__name__,
                str((architecture.dim, architecture.lifted_shape, architecture.n_laws)),
                str(architecture.describe()),
            ],
            "θ₀": joblib.hash(theta0 + 0.0),  # no −0
            "times": [*map(float, settings.t_span), joblib.hash(settings.times)],
            "rtol": float(settings.rtol),
            "atol": float(settings.atol),
            "max_step": float(settings.max_step),
            "first_step": float(settings.first_step or 0.0),
            "method": f"{settings.solver.__module__}.{settings.solver.__qualname__}",
            "coordinates": self.flows["intrinsic"].coordinates,
            "control": len(self.flows) > 1,
            "computed": computed,
        }

    @staticmethod
    def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
        """Return the names of what differs between two identities, as JSON keeps them."""
        given = [name for name in here if name != "computed" and there[name] != here[name]]
        pairs = [(n, own, there["computed"].get(n, ())) for n, own in here["computed"].items()]
        return given + [
            name
            for name, own, other in pairs
            if len(own) != len(other) or not all(map(same_numbers, other, own))
        ]

    def check_losses(self, folder: Path) -> None:
        """Refuse a folder whose flow of θ had another loss on its way, as far as it is there."""
        path = folder / "parameter.npz"
        if os.path.lexists(path):
            check_losses(Trajectory.load(path), self.states["parameter"]().losses)

    def run(self, folder: Path | None) -> Comparison:
        """Integrate the flows one after another, with checkpoints in the folder if there is one."""
        paths, earlier = {}, {}
        if folder is not None:
            files = {name: _FILES.get(name, name) for name in self.states}
            paths = {name: make_folder(folder) / f"{own}.npz" for name, own in files.items()}
            earlier = {n: Trajectory.load(p) for n, p in paths.items() if os.path.lexists(p)}
        done: dict[str, Trajectory] = {}
        for name, state in self.states.items():
            path = paths.get(name)
            settings = replace(self.settings, resume=earlier.get(name), checkpoint=path)
            if any(flow.interrupted for flow in done.values()):
                done[name] = _not_begun(state(), settings)
                continue
            try:
                with _speaking_of(path):
                    if done and path is not None:
                        done[name] = _integrate_at_any_price(state, settings, path)
                    else:
                        done[name] = integrate(state(), settings, name)
            except KeyboardInterrupt:  # while it starts; later, it keeps what it has
                if not done:
                    raise
                done[name] = _not_begun(state(), settings)
        apart = {n: _deviation(f, done[n], done["parameter"]) for n, f in self.flows.items()}
        controls = {name: (done[name], apart[name]) for name in self.flows if name != "intrinsic"}
        first, *rest = controls or [None]
        return Comparison(
            architecture=self.invariant_set.architecture,
            loss=self.loss,
            manifold_dim=self.invariant_set.dim,
            rtol=self.settings.rtol,
            parameter=done["parameter"],
            intrinsic=done["intrinsic"],
            deviation=apart["intrinsic"],
            control=None if first is None else done[first],
            control_deviation_over_time=None if first is None else apart[first],
            rule=self.rule,
            control_name=ELSEWHERE if first in (None, "control") else first,
            further_controls={name: controls[name] for name in rest if name},
        )


@contextmanager
def _speaking_of(path: Path | None) -> Iterator[None]:
    """Say of a file what is wrong with it, where nobody asked to resume a trajectory."""
    try:
        yield
    except InputError as error:
        text = str(error).replace("resume continues", f"the checkpoint {path} continues")
        text = text.replace("start anew without resume", "give another folder to start anew")
        error.args = (text,)
        raise


def _integrate_at_any_price(
    state: Callable[[], FlowState], settings: Settings, path: Path
) -> Trajectory:
    """Integrate a flow after others, whose results are worth more than its checkpoint."""
    try:
        make_folder(path.parent)  # it may have gone since
        return integrate(state(), settings, path.stem)
    except OutputError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=4)
        result = integrate(state(), replace(settings, checkpoint=None), path.stem)
        return replace(result, message=f"{result.message}; {error}")


def _not_begun(state: FlowState, settings: Settings) -> Trajectory:
    """What there is of a flow that Ctrl-C kept from starting: its first point."""
    y, theta, loss = state.read(state.start())
    t, message = np.array([float(settings.t_span[0])]), "not begun: interrupted"
    first = (t, y[None], theta[None], np.array([loss]))
    return Trajectory(*first, False, message, 0, 1, 0.0, interrupted=True)


def _sketch(vector: FloatArray) -> list[float]:
    """Root mean square, and product with a random vector, which tell a vector from others."""
    vector, other = np.ravel(vector), np.random.default_rng(0).standard_normal(np.size(vector))
    unit = units(np.max(np.abs(vector), initial=0.0))  # squares under- and overflow
    relative = vector / unit / np.sqrt(max(vector.size, 1))
    length = np.linalg.norm(other) or 1.0
    return [float(unit * np.linalg.norm(relative)), float(unit * (relative @ other / length))]


def _deviation(flow: IntrinsicFlow, intrinsic: Trajectory, parameter: Trajectory) -> FloatArray:
    """Relative deviation, as far as both flows came; one that kept no time has its start alone."""
    if intrinsic.t[0] != parameter.t[0]:
        return np.empty(0)
    count = min(len(intrinsic.t), len(parameter.t))
    theta = parameter.theta[:count]
    norm = flow.invariant_set.architecture.lifted_norm(theta)
    return flow.distance(intrinsic.head(count), theta) / norm
