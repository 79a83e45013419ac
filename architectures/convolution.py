"""Layers of convolutional networks, and the edges they stand for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from liftflow.architectures.builders import Builder, Parts
from liftflow.errors import ArchitectureError, InputError
from liftflow.typing import IntArray, as_count, refuse_beyond, shown


def _pair(value: object, name: str, minimum: int) -> tuple[int, int]:
    both = value if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2:
        raise InputError(f"{name} must be one integer or two, got {shown(value)}")
    return as_count(both[0], name, minimum), as_count(both[1], name, minimum)


@dataclass(frozen=True)
class Conv:
    """A convolution, followed by ReLUs.

    Parameters
    ----------
    channels : int
        Number of filters.
    kernel : int or pair of int
        Height and width of the filters.
    stride, padding : int or pair of int
        As usual; what is padded is 0.
    groups : int
        Input channels are split into so many groups, each read by its share of the filters.

    Raises
    ------
    InputError
        Numbers that are no sizes.
    """

    channels: int
    kernel: int | tuple[int, int]
    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, int] = 0
    groups: int = 1

    def __post_init__(self) -> None:
        """Check the sizes."""
        as_count(self.channels, "channels", 1)
        as_count(self.groups, "groups", 1)
        for name, minimum in (("kernel", 1), ("stride", 1), ("padding", 0)):
            _pair(getattr(self, name), name, minimum)


@dataclass(frozen=True)
class Pool:
    """Pooling over windows that tile the image; a rest at its ends is not read.

    Parameters
    ----------
    kind : {"max", "mean"}
        What is taken of a window.
    size : int or pair of int
        Its height and width.

    Raises
    ------
    InputError
        Another kind, or numbers that are no sizes.
    """

    kind: str
    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        """Check the kind and the size."""
        if not isinstance(self.kind, str) or self.kind not in ("max", "mean"):
            raise InputError(f"kind must be max or mean, got {shown(self.kind)}")
        _pair(self.size, "size", 1)


def convolutional_parts(
    image_shape: Sequence[int], layers: Sequence[Conv | Pool], n_outputs: int, bias: bool
) -> Parts:
    """Build convolutions and pooling, then a complete layer."""
    if len(image_shape) != 3:
        raise InputError(f"image_shape must be (channels, height, width), got {image_shape}")
    built, biased = Builder(), []
    shape = tuple(as_count(size, "a size of the image", 1) for size in image_shape)
    inputs = built.nodes((0,), shape, "linear")
    image = inputs
    for number, layer in enumerate(layers, start=1):
        if isinstance(layer, Conv):
            image = _convolve(built, number, layer, image)
            biased.append(image)
        elif isinstance(layer, Pool):
            image = _pool(built, number, layer, image)
        else:
            raise InputError(f"a layer must be a Conv or a Pool, got {shown(layer)}")
    outputs = built.nodes((len(layers) + 1,), (n_outputs,), "linear")
    built.layer(image.ravel(), outputs)
    if bias:
        for heads in [*biased, outputs]:
            built.bias(heads)
    return built.parts(inputs, outputs)


def _windows(
    size: int, kernel: int, stride: int, padding: int, layer: object, number: int
) -> IntArray:
    """Places that each tap reads at each position, shape=[kernel, n_positions]."""
    count = (size + 2 * padding - kernel) // stride + 1
    if count < 1:
        raise ArchitectureError(f"layer {number}, {layer}, does not fit an image of size {size}")
    refuse_beyond(kernel * count, f"layer {number}, {layer}")
    return np.arange(kernel)[:, None] + stride * np.arange(count) - padding


def _convolve(built: Builder, number: int, layer: Conv, image: IntArray) -> IntArray:
    n_in, height, width = image.shape
    kernel, stride = _pair(layer.kernel, "kernel", 1), _pair(layer.stride, "stride", 1)
    padding, groups = _pair(layer.padding, "padding", 0), layer.groups
    if n_in % groups or layer.channels % groups:
        raise ArchitectureError(
            f"layer {number}, {layer}: groups must divide the {n_in} channels it reads and its own"
        )
    rows = _windows(height, kernel[0], stride[0], padding[0], layer, number)
    columns = _windows(width, kernel[1], stride[1], padding[1], layer, number)
    share, shape = n_in // groups, (layer.channels, rows.shape[1], columns.shape[1])
    built.reserve(n_edges=math.prod((*shape, share, *kernel)))
    heads = built.nodes((number,), shape, "relu")
    filters = built.parameters((layer.channels, share, *kernel))
    group = np.arange(layer.channels) // (layer.channels // groups)
    read = group[:, None] * share + np.arange(share)  # [out, in]
    # Axes: out, in, the taps, the positions.
    row, column = rows[:, None, :, None], columns[None, :, None, :]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    tails = image[read[:, :, None, None, None, None], row % height, column % width]
    kept = np.broadcast_to(inside, tails.shape)
    shaped = np.broadcast_to(filters[..., None, None], tails.shape)
    targets = np.broadcast_to(heads[:, None, None, None], tails.shape)
    built.connect(tails[kept], targets[kept], shaped[kept])
    return heads


def _pool(built: Builder, number: int, layer: Pool, image: IntArray) -> IntArray:
    size = _pair(layer.size, "size", 1)
    rows, columns = (
        _windows(length, own, own, 0, layer, number)
        for length, own in zip(image.shape[1:], size, strict=True)
    )
    shape = image.shape[0], rows.shape[1], columns.shape[1]
    built.reserve(n_edges=math.prod((*shape, *size)))
    heads = built.nodes((number,), shape, "max" if layer.kind == "max" else "linear")
    tails = image[:, rows[:, None, :, None], columns[None, :, None, :]]
    weight = 1.0 if layer.kind == "max" else 1.0 / (size[0] * size[1])
    built.freeze(tails, heads[:, None, None], weight)
    return heads
