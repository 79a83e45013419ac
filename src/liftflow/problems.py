"""Training problems by name, for the command line: a family, a task and real or sensed data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from liftflow.architectures import (
    Architecture,
    Attention,
    DeepLinear,
    LinearNeuralODE,
    ReLUNetwork,
    TwoLayerLinear,
)
from liftflow.data import Dataset, load
from liftflow.errors import DataError, InputError
from liftflow.losses import Loss, NetworkLoss
from liftflow.manifolds import InvariantSet
from liftflow.matrix_losses import (
    attention_loss,
    least_squares_loss,
    matrix_completion_loss,
    matrix_sensing_loss,
)
from liftflow.typing import FloatArray, as_count

TASKS = ("regression", "sensing", "completion")
"""What a product of matrices is trained for."""

_TARGET_RANK = 2
_N_IMAGES = 500  # a few seconds of training instead of half a minute


@dataclass(frozen=True)
class Options:
    """What the command line can say about a problem; None leaves a thing to the family.

    Attributes
    ----------
    data : str or None
        Name of a data set, or the path of a CSV file.
    task : str or None
        One of ``TASKS``.
    widths : str or None
        Numbers joined by dashes: widths of the layers from input to output; for ``ode`` the size
        and the number of steps; for ``attention`` d_model, d_head and the number of heads.
    lams : str or None
        One λ of relaxed balancedness, or several joined by commas.
    bias : bool
        Biases of a ReLU network.
    loss : str or None
        ``mse`` or ``cross-entropy``, for a ReLU network.
    seed : int
        Of everything that is drawn.
    """

    data: str | None = None
    task: str | None = None
    widths: str | None = None
    lams: str | None = None
    bias: bool = False
    loss: str | None = None
    seed: int = 0


Problem = tuple[Architecture, FloatArray, Loss]


def _numbers(text: str, separator: str, name: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(part) for part in text.split(separator)]
    except ValueError:
        raise DataError(f"{name} must be numbers joined by {separator!r}, got {text!r}") from None


def _layer_widths(options: Options, n_inputs: int, n_outputs: int, hidden: int) -> list[int]:
    default = f"{n_inputs}-{hidden}-{n_outputs}"
    widths = _numbers(options.widths or default, "-", "widths", int)
    if widths[0] != n_inputs or widths[-1] != n_outputs:
        raise DataError(
            f"the data have {n_inputs} features and need {n_outputs} outputs, got widths "
            f"{options.widths}; try {default}"
        )
    return widths


def _relu(options: Options) -> Problem:
    dataset = load(options.data or "iris")
    widths = _layer_widths(options, dataset.inputs.shape[1], dataset.n_outputs, 32)
    kind = options.loss or dataset.default_loss
    network = ReLUNetwork.from_widths(widths, options.bias)
    loss = NetworkLoss(network, dataset.inputs, dataset.targets_for(kind), kind)
    return network, network.random_point(rng=options.seed), loss


def _rows(dataset: Dataset) -> FloatArray:
    """Targets as rows, one-hot for labels."""
    return np.reshape(dataset.targets_for("mse"), (len(dataset.inputs), -1))


def _layered(options: Options, build: Callable[[list[int]], DeepLinear]) -> Problem:
    if options.task in (None, "regression"):
        dataset = load(options.data or "diabetes")
        n_inputs, n_outputs = dataset.inputs.shape[1], dataset.n_outputs
        widths = _layer_widths(options, n_inputs, n_outputs, min(n_inputs, n_outputs))
        loss: Loss = least_squares_loss(dataset.inputs, _rows(dataset))
    else:
        _refuse(options, "data", f"the task {options.task}")
        widths = _numbers(options.widths or "8-4-10", "-", "widths", int)
        loss = _sensed(options, (widths[-1], widths[0]))
    network = build(widths)
    return network, _balanced(network, options), loss


def _two_layers(widths: list[int]) -> TwoLayerLinear:
    if len(widths) != 3:
        raise DataError(f"two layers have three widths, like 8-4-10, got {widths}; use deep")
    return TwoLayerLinear(widths[2], widths[0], widths[1])


def _balanced(network: Any, options: Options) -> FloatArray:
    lams = _numbers(options.lams or "0", ",", "λ", float)
    return network.balanced_point(lams[0] if len(lams) == 1 else lams, options.seed)


def _sensed(options: Options, shape: tuple[int, int]) -> Loss:
    """Sense or complete a random matrix of rank 2, from half as many numbers as it has."""
    rng = np.random.default_rng([options.seed, 1])
    rank = min(_TARGET_RANK, *shape)
    target = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    if options.task == "completion":
        mask = rng.random(shape) < 0.5
        mask[0, 0] = True
        return matrix_completion_loss(target, mask)
    forms = rng.standard_normal((max(1, target.size // 2), *shape))
    return matrix_sensing_loss(forms, np.einsum("kij,ij->k", forms, target))


def _ode(options: Options) -> Problem:
    size, steps = _fixed(options.widths or "4-40", "size-steps", 2)
    if options.task == "regression":
        raise DataError(
            "a neural ODE maps a space to itself, which no data set here asks for; use the task "
            "sensing or completion"
        )
    network = LinearNeuralODE(size, steps)
    return network, _balanced(network, options), _sensed(options, (size, size))


def _attention(options: Options) -> Problem:
    d_model, d_head, n_heads = _fixed(options.widths or "8-4-2", "d_model-d_head-heads", 3)
    if d_model != 8:
        raise DataError(
            f"attention is trained on the rows of {_N_IMAGES} digits, tokens of 8 pixels, to "
            f"predict each next row, so d_model is 8; got widths {options.widths!r}"
        )
    # Each row of an image is to be predicted from the rows up to the last.
    images = load_digits().images[:_N_IMAGES] / 16.0
    network = Attention(d_model, d_head, n_heads)
    loss = attention_loss(images[:, :-1], images[:, 1:], d_head)
    return network, _balanced(network, options), loss


def _fixed(text: str, form: str, count: int) -> list[int]:
    numbers = _numbers(text, "-", "widths", int)
    if len(numbers) != count:
        raise DataError(f"widths must be {form}, got {text!r}")
    return [as_count(number, "a width", 1) for number in numbers]


@dataclass(frozen=True)
class _Family:
    reads: tuple[str, ...]
    build: Callable[[Options], Problem]


_FAMILIES = {
    "relu": _Family(("data", "bias", "loss"), _relu),
    "two-layer": _Family(("data", "task", "lams"), lambda options: _layered(options, _two_layers)),
    "deep": _Family(("data", "task", "lams"), lambda options: _layered(options, DeepLinear)),
    "ode": _Family(("task", "lams"), _ode),
    "attention": _Family(("lams",), _attention),
}
FAMILIES = tuple(_FAMILIES)
"""Names of the families."""


def _refuse(options: Options, name: str, what: str) -> None:
    if getattr(options, name):
        raise InputError(f"{what} does not read {name}, got {getattr(options, name)!r}; leave it")


def build(family: str, options: Options) -> tuple[InvariantSet, Loss]:
    """Build the training problem of a family.

    Parameters
    ----------
    family : str
        One of ``FAMILIES``.
    options : Options

    Returns
    -------
    invariant_set : InvariantSet
        Of He's initialisation for a ReLU network, else of a random relaxed balanced point.
    loss : Loss
        Of that data, or of random data of the task.

    Raises
    ------
    InputError
        An unknown family or task, or an option that the family would not read.
    DataError
        Options that do not fit the data.
    ArchitectureError
        No relaxed balanced point for these widths and λ.
    """
    if family not in _FAMILIES:
        raise InputError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    if options.task not in (None, *TASKS):
        raise InputError(f"task must be one of {', '.join(TASKS)}, got {options.task!r}")
    for name in ("data", "task", "lams", "bias", "loss"):
        if name not in _FAMILIES[family].reads:
            _refuse(options, name, f"the family {family}")
    architecture, theta0, loss = _FAMILIES[family].build(options)
    return InvariantSet(architecture, theta0), loss
