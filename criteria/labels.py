"""Names of single parameters, for polynomials that people read."""

from functools import singledispatch

import numpy as np

from liftflow.architectures import (
    Architecture,
    Attention,
    DeepLinear,
    LinearNeuralODE,
    ProductArchitecture,
    ReLUNetwork,
    TwoLayerLinear,
)


def _entries(name: str, shape: tuple[int, ...]) -> list[str]:
    return [f"{name}[{','.join(map(str, index))}]" for index in np.ndindex(*shape)]


def _blocks(architecture: Architecture, names: list[str]) -> list[str]:
    pairs = zip(names, architecture.block_shapes, strict=True)
    return [label for name, shape in pairs for label in _entries(name, shape)]


@singledispatch
def parameter_labels(architecture: Architecture) -> list[str]:
    """Return one name per entry of θ; a family registers names of its own.

    Returns
    -------
    labels : list of str
        ``θ[i]``, or ``θ0[i]``, ``θ1[i]``, … where θ has several blocks.
    """
    count = len(architecture.block_shapes)
    return _blocks(architecture, ["θ"] if count == 1 else [f"θ{i}" for i in range(count)])


@parameter_labels.register
def _(architecture: DeepLinear) -> list[str]:
    return _blocks(architecture, [f"U{i + 1}" for i in range(len(architecture.block_shapes))])


@parameter_labels.register
def _(architecture: LinearNeuralODE) -> list[str]:
    return _blocks(architecture, ["θ"])


@parameter_labels.register
def _(architecture: TwoLayerLinear) -> list[str]:
    return _blocks(architecture, ["U", "V"])


@parameter_labels.register
def _(network: ReLUNetwork) -> list[str]:
    return [f"θ[{tail}→{head}]" for tail, head in network.parameter_names]


@parameter_labels.register
def _(architecture: ProductArchitecture) -> list[str]:
    return [
        f"{label}.{number}"
        for number, factor in enumerate(architecture.factors)
        for label in parameter_labels(factor)
    ]


@parameter_labels.register
def _(attention: Attention) -> list[str]:
    shape = (attention.d_model, attention.d_head)
    heads = range(attention.n_heads)
    return [
        label for head in heads for name in "QKVO" for label in _entries(f"{name}{head}", shape)
    ]
