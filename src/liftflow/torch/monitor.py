"""The laws of a module along an ordinary training loop."""

import math
import warnings
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch

from liftflow.doors import Guarded, door
from liftflow.errors import InputError
from liftflow.flows.recursion import LawRecursion
from liftflow.torch.network import TorchNetwork
from liftflow.typing import FloatArray, IntArray, OneLaws, as_count, as_instance, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_LABELS = 12  # of layers in a legend
_FRESH = 100  # rounding errors that a momentum may be off the gradient that it begins with

_Rule = tuple[float, float, float, bool]
"""A kind of SGD: its rate, momentum and weight decay, and whether it is Nesterov's."""


class _Record(NamedTuple):
    step: int
    laws: OneLaws
    predicted: OneLaws


class LawMonitor(Guarded):
    r"""Watch the conservation laws of a module while somebody trains it.

    Along the gradient flow they stand still; steps of a finite size let them drift. For SGD, with
    momentum of either kind and weight decay if need be, the drift is predicted exactly from the
    gradients and the momenta alone, as :class:`GradientDescent` predicts it: plain steps change h
    by :math:`η^2 h(g)`. Adam follows no such rule: its laws drift however small the steps are.

    Parameters
    ----------
    module : torch.nn.Module
        The one that is trained; it is read once, here, and not changed.
    example_inputs : torch.Tensor, or a tuple of positional arguments
        Of the shapes that it takes.
    optimizer : torch.optim.Optimizer, optional
        Every step of it is recorded by itself; it may have momenta already. Without it call
        :meth:`record`.
    max_records : int
        Most records that are kept, the last one always. When there are more, every other one is
        forgotten and from then on only every other step is kept; predictions go on with every step.
    **options
        ``opaque``, ``certified`` and ``batch_norm_eps``, as :func:`from_torch` takes them.

    Attributes
    ----------
    n_steps : int
        How many were recorded.
    not_finite_since : int or None
        The first step after which a law was infinite or NaN. The monitor warns of it, once, and
        goes on: it never ends a training.

    Raises
    ------
    ArchitectureError
        The module cannot be read, or the reading is not certified.
    InputError
        The optimizer is that of another module.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        example_inputs: Any,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        max_records: int = 256,
        **options: Any,
    ) -> None:
        self.network = TorchNetwork(module, example_inputs, **options)
        self.max_records = as_count(max_records, "max_records", 1)
        named = dict(module.named_parameters())
        self._parameters = [named[name] for name in self.network.parameter_names]
        self._channels = self.network.channels
        self.n_steps, self._every = 0, 1
        self.not_finite_since: int | None = None
        theta = self._read(self._parameters)
        self._recursion = LawRecursion(self._channels.h, theta, 0.0, False, 0.0, 0.0)
        self._followed: object = None  # whose momenta are known
        self._start = self._recursion.laws
        self._last = _Record(0, self._start, self._start)
        self._kept = [self._last][: self.max_records - 1]
        self._handle = None
        if optimizer is not None:
            _rule_of(as_instance(optimizer, torch.optim.Optimizer, "optimizer"), self._parameters)
            self._handle = optimizer.register_step_post_hook(
                lambda own, args, kwargs: self._note(own)
            )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and copy what was seen: only the original watches the module."""
        return {**vars(self), "_parameters": [], "_handle": None, "_followed": None}

    def _facts(self) -> str:
        words = f"{self.n_steps:,} steps, {len(self._records)} kept, of {self.network!r}"
        since = self.not_finite_since
        return words if since is None else f"{words}, not finite since step {since:,}"

    def close(self) -> None:
        """Take the hook off the optimizer."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    @staticmethod
    def _read(tensors: list[torch.Tensor]) -> FloatArray:
        dense = [t.to_dense() if t.is_sparse else t for t in map(torch.Tensor.detach, tensors)]
        return torch.cat([t.reshape(-1).to("cpu", torch.float64) for t in dense]).numpy()

    def record(self, rule: "torch.optim.Optimizer | float | None" = None) -> None:
        """Look at the module after ``optimizer.step()``, before the gradients are reset.

        Parameters
        ----------
        rule : torch.optim.Optimizer or float, optional
            Whose step it was, or the learning rate of a plain step; without it nothing is
            predicted from here on.

        Raises
        ------
        InputError
            An optimizer of another module or a negative rate; the optimizer's steps are recorded
            already; or this is a copy.
        """
        if self._handle is not None:
            raise InputError(
                "the steps of the optimizer are recorded by themselves, and this one would count "
                "twice; leave record() out, or make LawMonitor(module, example) without optimizer"
            )
        if not self._parameters:
            raise InputError("this is a copy of a monitor, which does not watch the module")
        self._note(rule)

    def _note(self, rule: object) -> None:
        settings = _rule_of(rule, self._parameters)
        theta = self._read(self._parameters)
        with np.errstate(all="ignore"):
            laws = self._channels.h(theta)
            self._follow(rule, settings, theta)
        self.n_steps += 1
        self._last = _Record(self.n_steps, laws, self._recursion.laws)
        if self.n_steps % self._every == 0:
            self._kept.append(self._last)
        if len(self._kept) >= self.max_records:  # the last one is kept beside them
            self._kept = self._kept[::2][: self.max_records - 1]
            self._every *= 2
        if self.not_finite_since is None and not np.isfinite(laws).all():
            self.not_finite_since = self.n_steps
            warnings.warn(
                f"laws are not finite after step {self.n_steps}: the training has diverged",
                RuntimeWarning,
                stacklevel=2,
            )

    def _follow(self, rule: Any, settings: "_Rule | None", theta: FloatArray) -> None:
        """Predict the laws after a step that led to θ."""
        known = self._recursion
        if settings is None or any(p.grad is None for p in self._parameters):
            known.laws = np.full_like(known.laws, np.nan)
            return
        rate, known.momentum, known.coupled, known.nesterov = settings
        velocity = gradient = self._read([p.grad for p in self._parameters])
        if known.momentum:
            # From the momenta: differences of weights in single precision have lost their digits.
            velocity = self._read([rule.state[p]["momentum_buffer"] for p in self._parameters])
        update = -rate * velocity
        if known.nesterov:
            update = -rate * (gradient + known.momentum * velocity)
            shrunk = 1.0 - rate * known.coupled
            update = (update - rate * known.coupled * theta) / shrunk  # in terms of θ after it
        if known.momentum and self._followed is not rule:
            before = theta - update
            old = velocity - gradient - known.coupled * before  # βb
            unit = max(torch.finfo(p.dtype).eps for p in self._parameters)
            fresh = np.max(np.abs(old)) <= _FRESH * unit * np.max(np.abs(velocity))
            known.mixed = known.form(before, 0.0 * old if fresh else old / known.momentum)
        self._followed = rule if known.momentum else None
        known.follow(rate, gradient, update, velocity)

    # What was seen.

    @property
    def _records(self) -> list[_Record]:
        done = self._kept and self._kept[-1] is self._last
        return self._kept if done else [*self._kept, self._last]

    @property
    def steps(self) -> IntArray:
        """Numbers of the steps that are kept, from 0."""
        return np.array([record.step for record in self._records])

    @property
    def laws(self) -> FloatArray:
        """The laws at these steps, shape=[n_kept, n_channels]."""
        return np.array([record.laws for record in self._records])

    @property
    def drift(self) -> FloatArray:
        """What has come to the laws since the beginning, shape=[n_kept, n_channels]."""
        return self.laws - self._start

    @property
    def predicted_drift(self) -> FloatArray:
        """The same as predicted, NaN where nothing is, shape=[n_kept, n_channels]."""
        return np.array([record.predicted for record in self._records]) - self._start

    @property
    def channels(self) -> list[tuple[str, int]]:
        """Layer and number of each channel."""
        return cast(list[tuple[str, int]], self._channels.members)

    @door
    def frame(self, by: str = "channel") -> pd.DataFrame:
        """Lay out what was seen as a table.

        Parameters
        ----------
        by : {"channel", "layer"}
            Each channel at each step, or of each layer the largest drift.

        Returns
        -------
        frame : pandas.DataFrame
            With columns step, layer, channel, law, drift and predicted.
        """
        if by not in ("channel", "layer"):
            raise InputError(f"by must be channel or layer, got {by!r}")
        count, size = len(self._records), self._channels.n_channels
        frame = pd.DataFrame(
            {
                "step": np.repeat(self.steps, size),
                "layer": [layer for layer, _ in self.channels] * count,
                "channel": [number for _, number in self.channels] * count,
                "law": self.laws.ravel(),
                "drift": self.drift.ravel(),
                "predicted": self.predicted_drift.ravel(),
            }
        )
        if by == "channel":
            return frame
        sizes = frame[["drift", "predicted"]].abs().assign(step=frame.step, layer=frame.layer)
        return sizes.groupby(["step", "layer"], sort=False).max().reset_index()

    def plot(self) -> "Figure":
        """Draw the largest drift of each layer over the steps, and its prediction."""
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(7.0, 4.0), layout="constrained")
        frame = self.frame("layer").replace([np.inf, -np.inf], np.nan)
        for layer, part in frame.groupby("layer", sort=False):
            (line,) = axes.plot(part.step, part.drift, label=str(layer))
            axes.plot(
                part.step, part.predicted, ":", color=line.get_color(), linewidth=3, alpha=0.5
            )
        axes.set(xlabel="step", ylabel="largest |h − h(θ₀)|")
        if np.any(frame.drift > 0):
            axes.set_yscale("log")
        axes.set_title(
            "Drift of the laws, and its prediction (dotted)", loc="left", fontsize="medium"
        )
        if 0 < len({layer for layer, _ in self.channels}) <= _MOST_LABELS:
            axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
        return figure


def _rule_of(rule: Any, parameters: list[torch.Tensor]) -> _Rule | None:
    """Read off a rule what predicts the drift; None of those where nothing does."""
    if rule is None:
        return None
    if not isinstance(rule, torch.optim.Optimizer):
        number = float(rule) if isinstance(rule, Real) and rule is not True else math.nan
        if not 0 <= number < math.inf:
            raise InputError(
                "record takes the optimizer whose step it was, or the learning rate of a plain "
                f"step, a number of at least 0; got {shown(rule)}"
            )
        return number, 0.0, 0.0, False
    own = {id(parameter) for parameter in parameters}
    groups = [g for g in rule.param_groups if any(id(p) in own for p in g["params"])]
    if not groups:
        raise InputError(
            "the optimizer steps no parameter of the module that is watched; make it from "
            "module.parameters() of the same module"
        )
    listed = {id(p) for group in groups for p in group["params"]}
    if type(rule) is not torch.optim.SGD or not own <= listed:
        return None
    found = {
        (float(g["lr"]), float(g["momentum"]), float(g["weight_decay"]), bool(g["nesterov"]))
        for g in groups
    }
    strange = any(g["dampening"] or g.get("maximize") for g in groups)
    return None if len(found) != 1 or strange else found.pop()
