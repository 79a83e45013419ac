"""The laws of a module along an ordinary training loop."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from liftflow.doors import Guarded, door
from liftflow.errors import InputError
from liftflow.flows.recursion import LawRecursion
from liftflow.torch.blocks import pair
from liftflow.torch.network import TorchNetwork
from liftflow.typing import FloatArray, IntArray, as_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_LABELS = 12  # of layers in a legend


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
        Every step of it is recorded by itself. Without it call :meth:`record`.
    max_records : int
        Most records that are kept. When there are more, every other one is forgotten and from then
        on only every other step is kept; predictions go on with every step.
    **options
        ``opaque``, ``certified`` and ``batch_norm_eps``, as :func:`from_torch` takes them.

    Raises
    ------
    ArchitectureError
        The module cannot be read, or the reading is not certified.
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
        self.max_records = max(2, as_count(max_records, "max_records", 1))
        named = dict(module.named_parameters())
        self._parameters = [named[name] for name in self.network.parameter_names]
        self._channels = self.network.channels
        self.n_steps, self._every = 0, 1
        theta = self._read(self._parameters)
        self._recursion = LawRecursion(self._channels.h, theta, 0.0, False, 0.0, 0.0)
        self._kept = [(0, self._recursion.laws, self._recursion.laws)]
        self._handle = None
        if optimizer is not None:
            self._handle = optimizer.register_step_post_hook(
                lambda own, args, kwargs: self.record(own)
            )

    def _facts(self) -> str:
        return f"{self.n_steps:,} steps, {len(self._kept)} kept, of {self.network!r}"

    def close(self) -> None:
        """Take the hook off the optimizer."""
        if self._handle is not None:
            self._handle.remove()

    @staticmethod
    def _read(tensors: list[torch.Tensor]) -> FloatArray:
        flat = [t.detach().reshape(-1).to("cpu", torch.float64) for t in tensors]
        return torch.cat(flat).numpy()

    def record(self, rule: "torch.optim.Optimizer | float | None" = None) -> None:
        """Look at the module after ``optimizer.step()``, before the gradients are reset.

        Parameters
        ----------
        rule : torch.optim.Optimizer or float, optional
            Whose step it was, or the learning rate of a plain step; without it nothing is
            predicted from here on.
        """
        theta = self._read(self._parameters)
        self._follow(rule, theta)
        self.n_steps += 1
        if self.n_steps % self._every == 0:
            self._kept.append((self.n_steps, self._channels.laws(theta), self._recursion.laws))
        if len(self._kept) > self.max_records:
            self._kept, self._every = self._kept[::2], 2 * self._every

    def _follow(self, rule: Any, theta: FloatArray) -> None:
        """Predict the laws after a step that led to θ."""
        known, settings = self._recursion, _settings(rule, self._parameters)
        if settings is None or any(p.grad is None for p in self._parameters):
            known.laws = np.full_like(known.laws, np.nan)
            return
        rate, known.momentum, known.coupled, known.nesterov = settings
        velocity = gradient = self._read([p.grad for p in self._parameters])
        update = -rate * gradient
        if known.momentum:
            # From the momenta: differences of weights in single precision have lost their digits.
            velocity = self._read([rule.state[p]["momentum_buffer"] for p in self._parameters])
            update = -rate * velocity
        if known.nesterov:
            update = -rate * (gradient + known.momentum * velocity)
            shrunk = 1.0 - rate * known.coupled
            update = (update - rate * known.coupled * theta) / shrunk  # in terms of θ after it
        known.follow(rate, gradient, update, velocity)

    # What was seen.

    @property
    def steps(self) -> IntArray:
        """Numbers of the steps that are kept, from 0."""
        return np.array([step for step, _, _ in self._kept])

    @property
    def laws(self) -> FloatArray:
        """The laws at these steps, shape=[n_kept, n_channels]."""
        return np.array([laws for _, laws, _ in self._kept])

    @property
    def drift(self) -> FloatArray:
        """What has come to the laws since the beginning, shape=[n_kept, n_channels]."""
        return self.laws - self._kept[0][1]

    @property
    def predicted_drift(self) -> FloatArray:
        """The same as predicted, NaN where nothing is, shape=[n_kept, n_channels]."""
        return np.array([predicted for _, _, predicted in self._kept]) - self._kept[0][1]

    @property
    def channels(self) -> list[tuple[str, int]]:
        """Layer and number of each channel."""
        return [(str(name), int(number)) for name, number in map(pair, self._channels.members)]

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
        layers, numbers = zip(*self.channels, strict=True)
        count, size = len(self._kept), self._channels.n_channels
        frame = pd.DataFrame(
            {
                "step": np.repeat(self.steps, size),
                "layer": list(layers) * count,
                "channel": list(numbers) * count,
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
        for layer, part in self.frame("layer").groupby("layer", sort=False):
            (line,) = axes.plot(part.step, part.drift, label=str(layer))
            axes.plot(
                part.step, part.predicted, ":", color=line.get_color(), linewidth=3, alpha=0.5
            )
        axes.set(xlabel="step", ylabel="largest |h − h(θ₀)|", yscale="log")
        axes.set_title(
            "Drift of the laws, and its prediction (dotted)", loc="left", fontsize="medium"
        )
        if len({layer for layer, _ in self.channels}) <= _MOST_LABELS:
            axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
        return figure


def _settings(rule: object, parameters: list[torch.Tensor]) -> tuple[Any, ...] | None:
    """Rate, momentum, weight decay and kind of a rule whose drift is known; None of others."""
    if isinstance(rule, int | float):
        return float(rule), 0.0, 0.0, False
    if not isinstance(rule, torch.optim.SGD):
        return None
    own = {id(parameter) for parameter in parameters}
    groups = [g for g in rule.param_groups if any(id(p) in own for p in g["params"])]
    listed = {id(p) for group in groups for p in group["params"]}
    names = "lr", "momentum", "weight_decay"
    found = {(*(float(g[n]) for n in names), bool(g["nesterov"])) for g in groups}
    strange = any(g["dampening"] or g.get("maximize") for g in groups)
    return None if len(found) != 1 or strange or not own <= listed else found.pop()
