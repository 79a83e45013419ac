"""Training problems by name, for the command line: a family, a task and real or sensed data."""

from collections.abc import Callable, Iterable, Sequence
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
from liftflow.typing import FloatArray, OneTheta, as_count

TASKS = ("regression", "sensing", "completion")
"""What a product of matrices is trained for."""

_TARGET_RANK = 2
_MAX_GIGABYTES = 8
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
    target : str or None
        Column of a CSV file to predict, as in :func:`liftflow.data.load`.
    header : bool or None
        Whether its first line names the columns.
    index_column : sequence of str, False or None
        Its columns that are left out.
    labels : bool or None
        Whether its targets are labels.
    """

    data: str | None = None
    task: str | None = None
    widths: str | None = None
    lams: str | None = None
    bias: bool = False
    loss: str | None = None
    seed: int = 0
    target: str | None = None
    header: bool | None = None
    index_column: Sequence[str] | bool | None = None
    labels: bool | None = None


Problem = tuple[Architecture, FloatArray, Loss, str]
"""Of an architecture, θ₀, a loss, and what its data are in one line."""


def _numbers(text: str, separator: str, name: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(part) for part in text.split(separator)]
    except ValueError:
        raise DataError(f"{name} must be numbers joined by {separator!r}, got {text!r}") from None


def read_widths(text: str | None, default: str, form: str = "") -> list[int]:
    """Read positive numbers joined by dashes.

    Parameters
    ----------
    text : str or None
        As given on the command line.
    default : str
        In place of None.
    form : str
        Names of the numbers, joined by dashes, where their count is fixed.

    Raises
    ------
    DataError
        Something else, or another count.
    InputError
        A number below 1.
    """
    text = default if text is None else text
    widths = _numbers(text, "-", "widths", int)
    if form and len(widths) != form.count("-") + 1:
        raise DataError(f"widths must be {form}, like {default}, got {text!r}")
    return [as_count(width, "a width", 1) for width in widths]


def balanced(network: Any, lams: str, seed: int) -> OneTheta:
    """Draw a relaxed balanced point.

    Parameters
    ----------
    network : Architecture
        Of a family that has such points.
    lams : str
        One λ for all, or several joined by commas.
    seed : int
        Of the draw.

    Raises
    ------
    DataError
        No numbers.
    ArchitectureError
        No such point.
    """
    numbers = _numbers(lams, ",", "λ", float)
    return network.balanced_point(numbers[0] if len(numbers) == 1 else numbers, seed)


def _load(options: Options, default: str) -> Dataset:
    return load(
        default if options.data is None else options.data,
        target=options.target,
        header=options.header,
        index_column=options.index_column,
        labels=options.labels,
    )


def _layer_widths(options: Options, n_inputs: int, n_outputs: int, hidden: int) -> list[int]:
    default = f"{n_inputs}-{hidden}-{n_outputs}"
    widths = read_widths(options.widths, default)
    if widths[0] != n_inputs or widths[-1] != n_outputs:
        raise DataError(
            f"the data have {n_inputs} features and need {n_outputs} outputs, got widths "
            f"{options.widths}; try {default}"
        )
    return widths


def _relu(options: Options) -> Problem:
    dataset = _load(options, "iris")
    widths = _layer_widths(options, dataset.inputs.shape[1], dataset.n_outputs, 32)
    kind = dataset.default_loss if options.loss is None else options.loss
    network = ReLUNetwork.from_widths(widths, options.bias)
    loss = NetworkLoss(network, dataset.inputs, dataset.targets_for(kind), kind)
    return network, network.random_point(rng=options.seed), loss, str(dataset)


def _rows(dataset: Dataset) -> FloatArray:
    """Targets as rows, one-hot for labels."""
    return np.reshape(dataset.targets_for("mse"), (len(dataset.inputs), -1))


def _layered(options: Options, build: Callable[[list[int]], DeepLinear]) -> Problem:
    if options.task in (None, "regression"):
        dataset = _load(options, "diabetes")
        n_inputs, n_outputs = dataset.inputs.shape[1], dataset.n_outputs
        widths = _layer_widths(options, n_inputs, n_outputs, min(n_inputs, n_outputs))
        network = build(widths)
        loss: Loss = least_squares_loss(dataset.inputs, _rows(dataset))
        data = str(dataset)
    else:
        _refuse(options, _DATA, f"the task {options.task}")
        network = build(read_widths(options.widths, "8-4-10"))
        loss, data = _sensed(options, network.lifted_shape)
    return network, _balanced(network, options), loss, data


def _two_layers(widths: list[int]) -> TwoLayerLinear:
    if len(widths) != 3:
        raise DataError(f"two layers have three widths, like 8-4-10, got {widths}; use deep")
    return TwoLayerLinear(widths[2], widths[0], widths[1])


def _balanced(network: Any, options: Options) -> FloatArray:
    return balanced(network, "0" if options.lams is None else options.lams, options.seed)


def _sensed(options: Options, shape: tuple[int, ...]) -> tuple[Loss, str]:
    """Sense or complete a random matrix of rank 2, from half as many numbers as it has."""
    rng = np.random.default_rng([options.seed, 1])
    rank = min(_TARGET_RANK, *shape)
    data = f"{options.task or 'sensing'} of a random {shape[0]} × {shape[1]} matrix of rank {rank}"
    target = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    if options.task == "completion":
        mask = rng.random(shape) < 0.5
        mask[0, 0] = True
        return matrix_completion_loss(target, mask), f"{data} from {mask.sum():,} of its entries"
    count = max(1, target.size // 2)
    size = 8e-9 * count * target.size
    if size > _MAX_GIGABYTES:
        raise DataError(
            f"the random matrices to sense with would take {size:.3g} GB, more than "
            f"{_MAX_GIGABYTES}; take smaller widths, or the task completion"
        )
    forms = rng.standard_normal((count, *shape))
    loss = matrix_sensing_loss(forms, np.einsum("kij,ij->k", forms, target))
    return loss, f"{data} from {count:,} random products"


def _ode(options: Options) -> Problem:
    size, steps = read_widths(options.widths, "4-40", "size-steps")
    if options.task == "regression":
        raise DataError(
            "a neural ODE maps a space to itself, which no data set here asks for; use the task "
            "sensing or completion"
        )
    network = LinearNeuralODE(size, steps)
    return network, _balanced(network, options), *_sensed(options, (size, size))


def _attention(options: Options) -> Problem:
    form = "d_model-d_head-heads"
    d_model, d_head, n_heads = read_widths(options.widths, "8-4-2", form)
    if d_model != 8:
        raise DataError(
            f"attention is trained on the rows of {_N_IMAGES} digits, tokens of 8 pixels, to "
            f"predict each next row, so d_model is 8; got widths {options.widths!r}"
        )
    # Each row of an image is to be predicted from the rows up to the last.
    images = load_digits().images[:_N_IMAGES] / 16.0
    network = Attention(d_model, d_head, n_heads)
    loss = attention_loss(images[:, :-1], images[:, 1:], d_head)
    data = f"digits: the first {_N_IMAGES}, each row of pixels from those above it"
    return network, _balanced(network, options), loss, data


@dataclass(frozen=True)
class _Family:
    reads: tuple[str, ...]
    build: Callable[[Options], Problem]


_DATA = ("data", "target", "header", "index_column", "labels")
_FAMILIES = {
    "relu": _Family((*_DATA, "bias", "loss"), _relu),
    "two-layer": _Family((*_DATA, "task", "lams"), lambda options: _layered(options, _two_layers)),
    "deep": _Family((*_DATA, "task", "lams"), lambda options: _layered(options, DeepLinear)),
    "ode": _Family(("task", "lams"), _ode),
    "attention": _Family(("lams",), _attention),
}
FAMILIES = tuple(_FAMILIES)
"""Names of the families."""


def _refuse(options: Options, names: Iterable[str], what: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value != getattr(Options, name):  # not even if it is empty
            raise InputError(f"{what} does not read {name}, got {value!r}; leave it")


def build(
    family: str, options: Options, say: Callable[[str], object] = lambda data: None
) -> tuple[InvariantSet, Loss]:
    """Build the training problem of a family.

    Parameters
    ----------
    family : str
        One of ``FAMILIES``.
    say : function
        Called with one line on what the data are.

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
    as_count(options.seed, "seed")
    unread = {*_DATA, "task", "lams", "bias", "loss"}.difference(_FAMILIES[family].reads)
    _refuse(options, sorted(unread), f"the family {family}")
    architecture, theta0, loss, data = _FAMILIES[family].build(options)
    say(data)
    return InvariantSet(architecture, theta0), loss
