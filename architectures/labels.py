"""Names of the entries of θ, family by family."""

from functools import singledispatch

import numpy as np

from liftflow.architectures.attention import Attention
from liftflow.architectures.base import Architecture
from liftflow.architectures.linear import DeepLinear, TwoLayerLinear
from liftflow.architectures.neural_ode import LinearNeuralODE
from liftflow.architectures.product import ProductArchitecture
from liftflow.architectures.relu import ReLUNetwork
from liftflow.architectures.tied import TiedNetwork


def _entries(name: str, shape: tuple[int, ...]) -> list[str]:
    return [f"{name}[{','.join(map(str, index))}]" for index in np.ndindex(*shape)]


def _blocks(architecture: Architecture, names: list[str]) -> list[str]:
    pairs = zip(names, architecture.block_shapes, strict=True)
    return [label for name, shape in pairs for label in _entries(name, shape)]


@singledispatch
def parameter_labels(architecture: Architecture) -> list[str]:
    """Return one name per entry of θ, such as ``θ[i]``; a family registers names of its own."""
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
def _(network: TiedNetwork) -> list[str]:
    return [
        f"θ[{'→'.join(map(str, name)) if isinstance(name, tuple) else name}]"
        for name in network.parameter_names
    ]


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
