"""What each operation of torch does to the symbols of channels; see ``trace``."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from liftflow.torch.trace import GROUND, ZERO, Reader, as_symbols, rule, tensors_in
from liftflow.typing import IntArray

NEGLIGIBLE_EPS = 1e-20
"""An ε of batch norm below this one is nothing beside a variance, in float64."""

_COPIES = {"view": Tensor.reshape, "view_as": Tensor.reshape_as}


# What moves numbers about moves their symbols along.
@rule(
    *("view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "ravel", "squeeze"),
    *("unsqueeze", "permute", "transpose", "t", "T", "mT", "swapaxes", "swapdims", "movedim"),
    *("moveaxis", "adjoint", "expand", "expand_as", "broadcast_to", "repeat", "tile"),
    *("repeat_interleave", "getitem", "narrow", "select", "index_select", "chunk", "split"),
    *("split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split", "unbind", "cat"),
    *("concat", "concatenate", "stack", "hstack", "vstack", "flip", "fliplr", "flipud", "roll"),
    *("rot90", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "diagonal", "unfold"),
    *("slice", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
    *("contiguous", "clone", "broadcast_tensors", "atleast_1d", "atleast_2d", "atleast_3d"),
)
def move(reader: Reader, result: Tensor, *args: object, **kwargs: object) -> None:
    """Call the same function with symbols in place of numbers."""
    # Numbers may lie such that they can be viewed in another shape, and their symbols otherwise.
    _move(reader, _COPIES.get(reader.name, reader.func), result, args, kwargs)


def _move(reader: Reader, func: Callable[..., Any], result: Tensor, args: Any, kwargs: Any) -> None:
    tensors = [t for t in tensors_in((args, kwargs)) if t.is_floating_point()]
    # Of one trainable tensor alone it is followed which parameters a view holds.
    weights = {reader.entries(t)[0] if reader.is_weight(t) else "" for t in tensors}
    name = weights.pop() if len(weights) == 1 else ""

    def swapped(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        return _places(reader, leaf) if name else reader.symbols(leaf)

    moved = func(*pytree.tree_map(swapped, args), **pytree.tree_map(swapped, kwargs))
    for own, other in zip(tensors_in(result), tensors_in(moved), strict=True):
        if name:
            reader._entries[id(own)] = own, name, other
        else:
            reader._mark(own, other)


def _places(reader: Reader, weight: Tensor) -> Tensor:
    """Which numbers of its parameter a tensor holds."""
    entries = reader.entries(weight)[1]
    if entries is None:
        return torch.arange(weight.numel(), dtype=torch.float64).reshape(weight.shape)
    return entries


@rule("pad")
def pad(
    reader: Reader,
    result: Tensor,
    input: Tensor,
    pad: Any,
    mode: str = "constant",
    value: float | None = None,
) -> None:
    """Pad the symbols; a constant that is not 0 is ground."""
    filled = float(bool(value)) if mode == "constant" else None
    reader._mark(result, torch.nn.functional.pad(reader.symbols(input), pad, mode, filled))


# What acts on each number by itself.


@rule(
    *("relu", "leaky_relu", "abs", "absolute", "neg", "negative", "pos", "positive", "to"),
    *("double", "float", "half", "bfloat16"),
    *("type", "type_as", "cpu", "requires_grad", "nan_to_num"),
)
def keep(reader: Reader, result: Tensor, input: Tensor, *args: object, **kw: object) -> None:
    """Let the symbols be: the unit is positively homogeneous."""
    if not reader.is_weight(input):
        reader._mark(result, reader.symbols(input))
    elif reader.name in ("relu", "leaky_relu", "abs", "absolute"):
        raise reader._refusal(reader.name, "acts on a parameter itself")
    else:
        reader._entries[id(result)] = result, reader.entries(input)[0], _places(reader, input)


@rule("dropout", "dropout2d", "dropout3d", "feature_dropout")
def dropout(
    reader: Reader,
    result: Tensor,
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> None:
    """Let the symbols be: whatever is dropped, the rest is scaled by a constant."""
    reader.drops_units |= training and p > 0
    keep(reader, result, input)


@rule("detach", "data")
def cut(reader: Reader, result: Tensor, input: Tensor) -> None:
    """Refuse what cuts the gradient of the network."""
    if reader.is_weight(input) or not reader._is_data(input):
        raise reader._refusal("detach", "cuts the gradient")
    reader._mark(result, reader.symbols(input))


@rule("prelu")
def prelu(reader: Reader, result: Tensor, input: Tensor, weight: Tensor) -> None:
    """Let the symbols be; a trainable slope never rescales."""
    if reader.is_weight(weight):
        reader.use(weight, GROUND, GROUND)
    reader._mark(result, reader.symbols(input))


@rule("relu6", "hardtanh")
def saturate(reader: Reader, result: Tensor, input: Tensor, *a: object, **kw: object) -> None:
    """Ground the channels: they saturate at a value of their own."""
    symbols = reader.symbols(input)
    reader._ground(symbols)
    reader._mark(result, torch.where(symbols == ZERO, 0.0, float(GROUND)))


_SIGNS = {"add": 1.0, "sub": -1.0}


@rule("add", "sub", "maximum", "minimum", "fmax", "fmin")
def merge(reader: Reader, result: Tensor, one: Any, other: Any, **kwargs: object) -> None:
    """Make the two terms of each sum one channel."""
    a, b = (reader.symbols(each, tuple(result.shape)) for each in (one, other))
    reader.identify(a, b)
    reader._mark(result, torch.where(a == ZERO, b, a))
    sign = _SIGNS.get(reader.name, 0.0)
    plain = sign and not kwargs and result is not one
    if plain and all(getattr(each, "shape", ()) == result.shape for each in (one, other)):
        _add_biases(reader, result, one, other, sign)
    elif sign:
        for each in tensors_in((one, other)):
            reader._see(each)


def _add_biases(reader: Reader, result: Tensor, one: Tensor, other: Tensor, sign: float) -> None:
    """Count how often each bias is in a sum or difference."""
    ours, theirs = (reader.biased.get(id(each), {}) for each in (one, other))
    if counts := {k: ours.get(k, 0.0) + sign * theirs.get(k, 0.0) for k in {**ours, **theirs}}:
        reader.biased[id(result)] = counts


@rule("mul")
def multiply(reader: Reader, result: Tensor, one: object, other: object, **kw: object) -> None:
    """Scale by a constant or by data, which moves nothing, or by parameters, to new channels."""
    if reader.is_weight(one):
        one, other = other, one
    if reader.is_weight(other) and not reader.is_weight(one):
        _gain(reader, result, reader.symbols(one), other)
        return
    a, b = (reader.symbols(each, tuple(result.shape)) for each in (one, other))
    a, b = torch.broadcast_tensors(a, b)
    if bool(((a > GROUND) & (b > GROUND)).any()) or reader.is_weight(one):
        raise reader._refusal("mul", "multiplies two factors that both rescale")
    symbols = torch.where((a == ZERO) | (b == ZERO), 0.0, torch.maximum(a, b))
    reader._mark(result, symbols)


def _gain(reader: Reader, result: Tensor, symbols: Tensor, weight: Tensor) -> None:
    """One new channel for each parameter and channel that meet."""
    wide = symbols.expand(result.shape)
    lead = result.ndim - weight.ndim
    spread = [*range(lead), *(lead + a for a, n in enumerate(weight.shape) if n == 1)]
    tails = reader.merged(wide, spread)
    heads = reader.new(tails.numel(), reader._origin(weight)).reshape(tails.shape)
    shape = tuple(weight.shape)
    reader.use(weight, tails.reshape(shape).numpy(), heads.reshape(shape))
    reader._mark(result, as_symbols(heads))


@rule("div")
def divide(reader: Reader, result: Tensor, one: object, other: object, **kw: object) -> None:
    """Divide by a constant or by data."""
    below = reader.symbols(other, tuple(result.shape))
    if reader.is_weight(one) or reader.is_weight(other) or bool((below > GROUND).any()):
        raise reader._refusal("div", "divides by what rescales")
    reader._mark(result, reader.symbols(one))


# What takes many numbers to one.


def _patches(
    symbols: Tensor, n_axes: int, size: Any, stride: Any, padding: Any, dilation: Any
) -> Tensor:
    """Symbols that come together at each place of a result: shape=[..., *places, *size]."""
    size, stride, dilation = (
        (each,) * n_axes if isinstance(each, int) else tuple(each) * (n_axes // len(each))
        for each in (size, stride, dilation)
    )
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
        pads = [(t // 2, t - t // 2) for t in total]
    else:
        padding = 0 if padding == "valid" else padding
        each = (padding,) * n_axes if isinstance(padding, int) else tuple(padding)
        pads = [(p, p) for p in (each * n_axes if len(each) == 1 else each)]
    flat = [number for pair in reversed(pads) for number in pair]
    patches = torch.nn.functional.pad(symbols, flat, value=float(ZERO))
    for axis, (k, step, apart) in enumerate(zip(size, stride, dilation, strict=True)):
        patches = patches.unfold(symbols.ndim - n_axes + axis, apart * (k - 1) + 1, step)
        patches = patches[..., ::apart]
    return patches


def _one_per_channel(symbols: Tensor, n_axes: int) -> bool:
    """Whether a channel is one at all places, as ever but where channels were moved into space."""
    axes = [axis for axis in range(symbols.ndim) if axis != symbols.ndim - n_axes - 1]
    top = symbols.amax(dim=axes, keepdim=True)
    return bool(((symbols == top) | (symbols == ZERO)).all())


_WINDOWS = {  # what the arguments of pooling by windows are called
    "max": ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg": ("kernel_size", "stride", "padding", "ceil_mode"),
}


@rule(
    *(
        f"{kind}_pool{n_axes}d{more}"
        for kind in ("max", "avg", "lp", "adaptive_avg", "adaptive_max")
        for n_axes in (1, 2, 3)
        for more in ("", "_with_indices")
    )
)
def pool(reader: Reader, result: Tensor, input: Tensor, *a: object, **kw: object) -> None:
    """Make what comes together in a window one channel, or all places where that is not known."""
    kind, _, rest = reader.name.partition("_pool")
    n_axes, symbols, names = int(rest[0]), reader.symbols(input), _WINDOWS.get(kind, ())
    given: dict[str, Any] = {**dict(zip(names, a, strict=False)), **kw}
    if names and not given.get("ceil_mode") and not _one_per_channel(symbols, n_axes):
        size, stride = given["kernel_size"], given.get("stride")
        shape = size, stride or size, given.get("padding", 0), given.get("dilation", 1)
        met = _patches(symbols, n_axes, *shape)
        reader._mark(result, reader.merged(met, range(-n_axes, 0)).reshape(met.shape[:-n_axes]))
    else:
        reader._mark(result, reader.merged(symbols, range(-n_axes, 0)))


@rule("interpolate", "upsample", "upsample_nearest", "upsample_bilinear")
def resize(reader: Reader, result: Tensor, input: Tensor, *a: object, **kw: object) -> None:
    """Move symbols along with the nearest numbers; else make all places of a channel one."""
    mode = kw.get("mode", a[2] if len(a) > 2 else "nearest")
    if reader.name == "interpolate" and mode == "nearest":
        move(reader, result, input, *a, **kw)
    else:
        reader._mark(result, reader.merged(reader.symbols(input), range(2 - input.ndim, 0)))


@rule("mean", "sum", "amax", "amin", "max", "min")
def reduce(reader: Reader, result: Any, input: Tensor, dim: Any = None, *a: Any, **kw: Any) -> None:
    """Make what is summed up one channel."""
    if isinstance(dim, Tensor):
        merge(reader, result, input, dim)
        return
    symbols, dim = reader.symbols(input), kw.get("axis", dim)
    axes = [dim] if isinstance(dim, int) else dim or range(symbols.ndim)
    shape = tensors_in(result)[0].shape
    reader._mark(result, reader.merged(symbols, list(axes)).reshape(shape))


@rule("norm", "linalg_vector_norm")
def norm(
    reader: Reader,
    result: Tensor,
    input: Tensor,
    order: Any = 2,
    dim: Any = None,
    *a: Any,
    **kw: Any,
) -> None:
    """Make what a norm is taken of one channel."""
    if kw.get("p", kw.get("ord", order)) == 0:
        raise reader._refusal(reader.name, "counts what is not 0")
    reduce(reader, result, input, dim)


# Layers.


def _bias(reader: Reader, bias: Tensor | None, heads: IntArray, result: Tensor, axis: int) -> None:
    if bias is not None:
        reader.use(bias, GROUND, heads, is_bias=True)
        if reader.is_weight(bias):
            reader.biased[id(result)] = {(reader.entries(bias)[0], axis): 1.0}


def _layer(
    reader: Reader,
    result: Tensor,
    met: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int = 1,
) -> None:
    """Lead from what comes together at each place to new channels; what is alike shares them.

    What comes together has shape=[..., n_in, *places, *taps]. A linear layer has neither.
    """
    n_axes, n_out = weight.ndim - 2, weight.shape[0]
    axis = -n_axes - 1
    taps = met.shape[met.ndim - n_axes :]
    met = met.movedim(axis - n_axes, axis)  # channels beside the taps
    rows = met.reshape(-1, math.prod(met.shape[axis:]))
    if bool((rows == rows[:1]).all()):
        rows, places = rows[:1], torch.zeros(len(rows), dtype=torch.long)
    else:
        rows, places = torch.unique(rows, dim=0, return_inverse=True)
    heads = []
    for row in rows.numpy():
        own = reader.new(n_out, reader._origin(weight))
        tails = _in_groups(row, groups, n_out).reshape(-1, weight.shape[1], *taps)
        reader.use(weight, tails, own.reshape(-1, *(1,) * (n_axes + 1)))
        _bias(reader, bias, own, result, axis)
        heads.append(own)
    found = as_symbols(np.stack(heads))[places].reshape(*met.shape[:axis], n_out)
    reader._mark(result, found.movedim(-1, axis))


def _in_groups(channels: IntArray, groups: int, count: int) -> IntArray:
    """Repeat the channels of each group beside its share of so many others, if there are groups."""
    channels = channels.reshape(groups, 1, -1)
    return channels if groups == 1 else np.repeat(channels, count // groups, axis=1)


@rule("linear")
def linear(
    reader: Reader, result: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> None:
    """Lead from the channels of each row to new ones."""
    if reader.is_weight(input):
        raise reader._refusal("linear", "multiplies parameters by parameters")
    _layer(reader, result, reader.symbols(input), weight, bias)


@rule("matmul", "rmatmul", "mm", "mv", "bmm")
def matmul(reader: Reader, result: Tensor, one: Tensor, other: Tensor) -> None:
    """Multiply by a matrix of parameters or of constants, from either side."""
    if reader.name == "rmatmul":
        one, other = other, one
    if _is_matrix(reader, other):
        linear(reader, result, one, _turned(reader, other))
    elif _is_matrix(reader, one) and other.ndim > 1:
        turned = result.detach().mT
        linear(reader, turned, _turned(reader, other), one)
        reader._mark(result, reader.symbols(turned).mT)
    else:
        raise reader._refusal("matmul", "multiplies two tensors that both depend on the inputs")


def _is_matrix(reader: Reader, value: Tensor) -> bool:
    """Whether these are parameters or constants, in two axes."""
    return value.ndim == 2 and id(value) not in reader._symbols


def _turned(reader: Reader, matrix: Tensor) -> Tensor:
    """Transpose, with symbols and parameters."""
    turned = matrix.mT
    _move(reader, lambda value: value.mT, turned, (matrix,), {})
    return turned


@rule("addmm", "addmv")
def addmm(
    reader: Reader, result: Tensor, input: Tensor, one: Tensor, other: Tensor, **kwargs: object
) -> None:
    """Multiply and add."""
    product = result.detach()
    matmul(reader, product, one, other)
    merge(reader, result, input, product)


@rule("conv1d", "conv2d", "conv3d")
def conv(
    reader: Reader,
    result: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> None:
    """Lead from the channels to new ones, place by place where they are not the same everywhere."""
    symbols, n_axes = reader.symbols(input), weight.ndim - 2
    if _one_per_channel(symbols, n_axes):
        own = reader.per_channel(input, -n_axes - 1)
        met = as_symbols(own).reshape(-1, *(1,) * (2 * n_axes))
    else:
        met = _patches(symbols, n_axes, tuple(weight.shape[2:]), stride, padding, dilation)
    _layer(reader, result, met, weight, bias, groups)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(
    reader: Reader,
    result: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> None:
    """Lead from each channel to new ones, the same at all places."""
    axis, ones = 1 - weight.ndim, (1,) * (weight.ndim - 2)
    own = reader.per_channel(input, axis)
    n_in, n_out = weight.shape[:2]
    new = reader.new(groups * n_out, reader._origin(weight))
    heads = _in_groups(new, groups, n_in)
    reader.use(weight, own.reshape(-1, 1, *ones), heads.reshape(-1, n_out, *ones))
    _bias(reader, bias, new, result, axis)
    reader.put(result, new, axis)


@rule("embedding")
def embedding(
    reader: Reader, result: Tensor, input: Tensor, weight: Tensor, *a: object, **kw: object
) -> None:
    """Lead from the ground to one channel for each column."""
    heads = reader.new(weight.shape[1], reader._origin(weight))
    reader.use(weight, GROUND, heads[None, :])
    reader.put(result, heads, result.ndim - 1)


@rule("batch_norm")
def batch_norm(
    reader: Reader,
    result: Tensor,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> None:
    """Act as frozen affine maps in evaluation; in training the filters before are free in scale.

    With the statistics of the batch the result does not depend on the scale of a channel, but for
    ε: that fixes the scale, unless it is negligible, and then it is a symmetry of its own. Biases
    before it have no effect. In both cases channels begin anew behind it.
    """
    symbols, own = reader.symbols(input), reader.per_channel(input, 1)
    if training or running_mean is None:
        if eps > NEGLIGIBLE_EPS:
            reader.identify(own, GROUND)
        if id(input) in reader.biased and _one_per_channel(symbols, symbols.ndim - 2):
            sums = reader.biased[id(input)].items()  # their mean is taken away
            reader.sums.append({k: 0.0 if k[1] == 1 - input.ndim else count for k, count in sums})
        else:
            reader._see(input)
        hat = np.full(own.size, GROUND)
    else:
        reader._see(input)
        hat = own
        reader.identify(own[(running_mean != 0).numpy()], GROUND)
    heads = hat
    if weight is not None:
        heads = reader.new(own.size, reader._origin(weight))
        reader.use(weight, hat, heads)
    elif bias is not None and hat is not own:
        heads = reader.new(own.size, reader._origin(bias))
        reader.identify(heads, hat)
    _bias(reader, bias, heads, result, 1 - input.ndim)
    reader.put(result, heads, 1)


@rule("rnn_relu_cell")
def rnn_relu_cell(
    reader: Reader,
    result: Tensor,
    input: Tensor,
    hidden: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> None:
    """Add two linear layers."""
    parts = result.detach(), result.detach()
    linear(reader, parts[0], input, w_ih, b_ih)
    linear(reader, parts[1], hidden, w_hh, b_hh)
    reader.name = "add"
    merge(reader, result, *parts)
    reader._see(result)
    reader.biased.pop(id(result), None)
