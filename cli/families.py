"""The families of networks that the commands know, and the problems they can be trained for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import liftflow
from liftflow.errors import DataError, InputError

if TYPE_CHECKING:
    from liftflow.architectures import Architecture, Conv, Pool, ReLUNetwork
    from liftflow.data import Dataset
    from liftflow.losses import Loss
    from liftflow.manifolds import InvariantSet
    from liftflow.typing import FloatArray, OneTheta

# The help of the commands names the families, so nothing heavy is imported before one is built.

TASKS = ("regression", "sensing", "completion")
"""What a product of matrices is trained for."""

_TARGET_RANK = 2
_MAX_GIGABYTES = 8
_N_IMAGES = 500  # a few seconds of training instead of half a minute


@dataclass(frozen=True)
class Options:
    """What the command line can say about a problem; None leaves a thing to the family.

    The last four say how to read a CSV file, as in :func:`liftflow.data.load`.

    Attributes
    ----------
    lams : str or None
        One λ of relaxed balancedness, or several joined by commas.
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


Problem = tuple["Architecture", "FloatArray", "Loss", str, list[int]]
"""Of an architecture, θ₀, a loss, what its data are in one line, and its sizes."""


def read_numbers(text: str, separator: str, name: str, kind: Callable[[str], Any]) -> list[Any]:
    """Read numbers that are joined by a separator, or raise a ``DataError`` that has the name."""
    try:
        return [kind(part) for part in text.split(separator)]
    except ValueError:
        raise DataError(f"{name} must be numbers joined by {separator!r}, got {text!r}") from None


def balanced(network: Any, lams: str, seed: int) -> OneTheta:
    """Draw a relaxed balanced point, of one λ for all or of several joined by commas."""
    numbers = read_numbers(lams, ",", "λ", float)
    return network.balanced_point(numbers[0] if len(numbers) == 1 else numbers, seed)


def _load(options: Options, default: str) -> Dataset:
    return liftflow.data.load(
        default if options.data is None else options.data,
        target=options.target,
        header=options.header,
        index_column=options.index_column,
        labels=options.labels,
    )


def _network(default: str) -> Callable[[Family, Options], Problem]:
    """Train a network on a graph, by default for this data set."""

    def problem(family: Family, options: Options) -> Problem:
        dataset = _load(options, default)
        n_inputs, n_outputs = dataset.inputs.shape[1], dataset.n_outputs
        side = math.isqrt(n_inputs)
        steps, side = (side, side) if side**2 == n_inputs else (1, n_inputs)
        sizes = {"side": side, "steps": steps, "inputs": n_inputs, "outputs": n_outputs}
        fitting = family.fitting.format(**sizes)
        widths = family.read(options.widths, fitting)
        network = family.build(widths, options.bias)
        if (len(network.inputs), len(network.outputs)) != (n_inputs, n_outputs):
            raise DataError(
                f"the data have {n_inputs} features and need {n_outputs} outputs, got a network "
                f"of {len(network.inputs)} and {len(network.outputs)}; try widths {fitting}"
            )
        kind = dataset.default_loss if options.loss is None else options.loss
        loss = liftflow.NetworkLoss(network, dataset.inputs, dataset.targets_for(kind), kind)
        return network, network.random_point(rng=options.seed), loss, str(dataset), widths

    return problem


def _convolutional(sizes: list[int], bias: bool) -> ReLUNetwork:
    """Filters of 3 × 3, or as large as the image, then max-pooling by 2 where there is room."""
    if len(sizes) < 3:
        raise DataError(f"widths must be side-channels-…-outputs, like 8-8-16-10, got {sizes}")
    side, *channels, n_outputs = sizes
    layers: list[Conv | Pool] = []
    left = side
    for count in channels:
        layers.append(liftflow.architectures.Conv(count, min(3, left)))
        left += 1 - min(3, left)
    if left > 1:
        layers.append(liftflow.architectures.Pool("max", 2))
    return liftflow.ReLUNetwork.convolutional((1, side, side), layers, n_outputs, bias)


def _residual(sizes: list[int], bias: bool) -> ReLUNetwork:
    """A stem, blocks of one hidden layer with identity skips, and a head."""
    n_inputs, width, n_blocks, n_outputs = sizes
    widths = [n_inputs, *[width] * (2 * n_blocks + 1), n_outputs]
    skips = [(2 * block + 1, 2 * block + 3) for block in range(n_blocks)]
    return liftflow.ReLUNetwork.residual(widths, skips, bias, identity=True)


def _layered(family: Family, options: Options) -> Problem:
    if options.task in (None, "regression"):
        dataset = _load(options, "diabetes")
        n_inputs, n_outputs = dataset.inputs.shape[1], dataset.n_outputs
        default = f"{n_inputs}-{min(n_inputs, n_outputs)}-{n_outputs}"
        widths = family.read(options.widths, default)
        if widths[0] != n_inputs or widths[-1] != n_outputs:
            raise DataError(
                f"the data have {n_inputs} features and need {n_outputs} outputs, got widths "
                f"{options.widths}; try {default}"
            )
        network = family.build(widths, False)
        rows = dataset.targets_for("mse").reshape(len(dataset.inputs), -1)  # or one-hot
        loss: Loss = liftflow.losses.least_squares_loss(dataset.inputs, rows)
        data = str(dataset)
    else:
        _refuse(options, _DATA, f"the task {options.task}")
        widths = family.read(options.widths, "8-4-10")
        network = family.build(widths, False)
        loss, data = _sensed(options, network.lifted_shape)
    return network, _balanced(network, options), loss, data, widths


def _balanced(network: Any, options: Options) -> FloatArray:
    return balanced(network, "0" if options.lams is None else options.lams, options.seed)


def _sensed(options: Options, shape: tuple[int, ...]) -> tuple[Loss, str]:
    """Sense or complete a random matrix of rank 2, from half as many numbers as it has."""
    import numpy as np

    rng = np.random.default_rng([options.seed, 1])
    rank = min(_TARGET_RANK, *shape)
    data = f"{options.task or 'sensing'} of a random {shape[0]} × {shape[1]} matrix of rank {rank}"
    target = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    if options.task == "completion":
        mask = rng.random(shape) < 0.5
        mask[0, 0] = True
        data += f" from {mask.sum():,} of its entries"
        return liftflow.losses.matrix_completion_loss(target, mask), data
    count = max(1, target.size // 2)
    size = 8e-9 * count * target.size
    if size > _MAX_GIGABYTES:
        raise DataError(
            f"the random matrices to sense with would take {size:.3g} GB, more than "
            f"{_MAX_GIGABYTES}; take smaller widths, or the task completion"
        )
    forms = rng.standard_normal((count, *shape))
    loss = liftflow.losses.matrix_sensing_loss(forms, np.einsum("kij,ij->k", forms, target))
    return loss, f"{data} from {count:,} random products"


def _ode(family: Family, options: Options) -> Problem:
    sizes = family.read(options.widths, "4-40")
    if options.task == "regression":
        raise DataError(
            "a neural ODE maps a space to itself, which no data set here asks for; use the task "
            "sensing or completion"
        )
    network = family.build(sizes, False)
    loss, data = _sensed(options, network.lifted_shape)
    return network, _balanced(network, options), loss, data, sizes


def _attention(family: Family, options: Options) -> Problem:
    sizes = family.read(options.widths, "8-4-2")
    if sizes[0] != 8:
        raise DataError(
            f"attention is trained on the rows of {_N_IMAGES} digits, tokens of 8 pixels, to "
            f"predict each next row, so d_model is 8; got widths {options.widths!r}"
        )
    # Each row of an image is to be predicted from the rows up to the last.
    from sklearn.datasets import load_digits

    images = load_digits().images[:_N_IMAGES] / 16.0
    network = family.build(sizes, False)
    loss = liftflow.losses.attention_loss(images[:, :-1], images[:, 1:], sizes[1])
    data = f"digits: the first {_N_IMAGES}, each row of pixels from those above it"
    return network, _balanced(network, options), loss, data, sizes


def _transformer(family: Family, options: Options) -> Problem:
    from liftflow.cli.reading import ReadingLoss

    dataset = _load(options, "digits")
    sizes = family.read(options.widths, "8-4-2-16")
    n_features = dataset.inputs.shape[1]
    if not dataset.n_classes or n_features % sizes[0]:
        raise DataError(
            f"a transformer tells the classes of sequences of tokens of d_model = {sizes[0]} of "
            f"the {n_features} features; give data with labels, and a d_model that divides that"
        )
    tokens = dataset.inputs.reshape(len(dataset.inputs), -1, sizes[0])
    loss = ReadingLoss(family.build(sizes, False), tokens, dataset.targets.astype(int))
    lams = read_numbers("0" if options.lams is None else options.lams, ",", "λ", float)
    return loss.architecture, loss.start(lams, options.seed), loss, str(dataset), sizes


@dataclass(frozen=True)
class Family:
    """What the commands know of a family of networks."""

    build: Callable[[list[int], bool], Any]  # from sizes, and whether there are biases
    sizes: str  # of a network that the criteria look at, by default
    reads: tuple[str, ...]  # names of the options that a problem of the family reads
    problem: Callable[[Family, Options], Problem]
    form: str = ""  # names of the sizes joined by dashes, where their number is fixed
    fitting: str = ""  # sizes for data of some side, steps, inputs and outputs, in braces
    instead: str = ""  # what to do where there are more or fewer sizes

    def read(self, text: str | None, default: str) -> list[int]:
        """Read sizes, positive numbers joined by dashes; None stands for the default."""
        text = default if text is None else text
        sizes = read_numbers(text, "-", "widths", int)
        if self.form and len(sizes) != self.form.count("-") + 1:
            raise DataError(
                f"widths must be {self.form}, like {default}, got {text!r}{self.instead}"
            )
        return [liftflow.typing.as_count(size, "a width", 1) for size in sizes]


_DATA = ("data", "target", "header", "index_column", "labels")
FAMILIES = {
    "relu": Family(
        lambda sizes, bias: liftflow.ReLUNetwork.from_widths(sizes, bias),
        "4-6-3",
        (*_DATA, "bias", "loss"),
        _network("iris"),
        fitting="{inputs}-32-{outputs}",
    ),
    "two-layer": Family(
        lambda sizes, bias: liftflow.TwoLayerLinear(sizes[2], sizes[0], sizes[1]),
        "3-2-3",
        (*_DATA, "task", "lams"),
        _layered,
        "input-hidden-output",
        instead="; use deep for more layers",
    ),
    "deep": Family(
        lambda sizes, bias: liftflow.DeepLinear(sizes),
        "3-3-3-3",
        (*_DATA, "task", "lams"),
        _layered,
    ),
    "ode": Family(
        lambda sizes, bias: liftflow.LinearNeuralODE(*sizes),
        "2-5",
        ("task", "lams"),
        _ode,
        "size-steps",
    ),
    "attention": Family(
        lambda sizes, bias: liftflow.Attention(*sizes),
        "3-2-1",
        ("lams",),
        _attention,
        "d_model-d_head-heads",
    ),
    "transformer": Family(
        lambda sizes, bias: liftflow.TransformerBlock(*sizes),
        "2-1-1-2",
        (*_DATA, "lams"),
        _transformer,
        "d_model-d_head-heads-neurons",
    ),
    "conv": Family(
        _convolutional,
        "4-2-2",
        (*_DATA, "bias", "loss"),
        _network("digits"),
        fitting="{side}-8-16-{outputs}",
    ),
    "residual": Family(
        _residual,
        "3-2-2-2",
        (*_DATA, "bias", "loss"),
        _network("digits"),
        "inputs-width-blocks-outputs",
        "{inputs}-16-2-{outputs}",
    ),
    "recurrent": Family(
        lambda sizes, bias: liftflow.ReLUNetwork.recurrent(
            sizes[0], sizes[1], sizes[2], sizes[3], bias
        ),
        "2-3-2-3",
        (*_DATA, "bias", "loss"),
        _network("digits"),
        "inputs-hidden-outputs-steps",
        "{side}-16-{outputs}-{steps}",
    ),
}
"""All families, by the names that the commands have for them."""


def readers(option: str) -> str:
    """Name the families whose problems read an option."""
    return ", ".join(name for name, family in FAMILIES.items() if option in family.reads)


def find(name: str) -> Family:
    """Return the family of a name."""
    if name not in FAMILIES:
        raise InputError(f"family must be one of {', '.join(FAMILIES)}, got {name!r}")
    return FAMILIES[name]


def _refuse(options: Options, names: Iterable[str], what: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value != getattr(Options, name):  # not even if it is empty
            raise InputError(f"{what} does not read {name}, got {value!r}; leave it")


def build(
    family: str,
    options: Options,
    say: Callable[[str], object] = lambda data: None,
    about: dict[str, Any] | None = None,
) -> tuple[InvariantSet, Loss]:
    """Build the training problem of a family, of its data or of random data of the task.

    θ₀ is of He's initialisation for a ReLU network, else a random relaxed balanced point.

    Parameters
    ----------
    family : str
        One of ``FAMILIES``.
    say : function
        Called with one line on what the data are.
    about : dict, optional
        Gets what a summary is to say of the problem: data, widths and seed.

    Raises
    ------
    InputError
        An unknown family or task, or an option that the family would not read.
    DataError
        Options that do not fit the data.
    ArchitectureError
        No relaxed balanced point for these widths and λ.
    """
    own = find(family)
    if options.task not in (None, *TASKS):
        raise InputError(f"task must be one of {', '.join(TASKS)}, got {options.task!r}")
    liftflow.typing.as_count(options.seed, "seed")
    unread = {*_DATA, "task", "lams", "bias", "loss"}.difference(own.reads)
    _refuse(options, sorted(unread), f"the family {family}")
    architecture, theta0, loss, data, sizes = own.problem(own, options)
    start = liftflow.InvariantSet(architecture, theta0)
    say(data)
    if about is not None:
        widths = "-".join(map(str, sizes))
        about |= {"family": family, "widths": widths, "data": data, "seed": options.seed}
    return start, loss
