"""Names of the parameters of an architecture, and forms of its named blocks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import prod

import numpy as np

from liftflow.architectures.attention import Attention
from liftflow.architectures.base import Architecture, WithLaws
from liftflow.architectures.linear import DeepLinear, TwoLayerLinear
from liftflow.architectures.product import ProductArchitecture
from liftflow.architectures.relu import ReLUNetwork
from liftflow.architectures.sampled import SampledForward
from liftflow.errors import InputError
from liftflow.typing import FloatArray, IntArray, as_blocks


def entries_of(name: str, shape: tuple[int, ...]) -> list[str]:
    """Name the entries of an array."""
    return [f"{name}[{','.join(map(str, index))}]" for index in np.ndindex(*shape)]


def parameter_labels(architecture: Architecture) -> list[str]:
    """Return one name per entry of θ, such as ``θ[i]``, or what a family calls it."""
    if isinstance(architecture, WithLaws):
        return parameter_labels(architecture.original)
    if isinstance(architecture, ReLUNetwork):
        parts = (
            name if isinstance(name, tuple) else (name,) for name in architecture.parameter_names
        )
        return [f"θ[{'→'.join(map(str, part))}]" for part in parts]
    if isinstance(architecture, Attention):
        shape, heads = (architecture.d_model, architecture.d_head), range(architecture.n_heads)
        names = (f"{name}{head}" for head in heads for name in "QKVO")
        return [label for name in names for label in entries_of(name, shape)]
    if isinstance(architecture, ProductArchitecture):
        each = enumerate(map(parameter_labels, architecture.factors))
        return [f"{label}.{number}" for number, own in each for label in own]
    count = len(architecture.block_shapes)
    named: Sequence[str] = ["θ"] if count == 1 else [f"θ{i}" for i in range(count)]
    if isinstance(architecture, SampledForward):
        named = architecture.block_names
    elif isinstance(architecture, TwoLayerLinear):
        named = "UV"
    elif isinstance(architecture, DeepLinear) and count > 1:  # a neural ODE has one block
        named = [f"U{i + 1}" for i in range(count)]
    pairs = zip(named, architecture.block_shapes, strict=True)
    return [label for name, shape in pairs for label in entries_of(name, shape)]


def named_blocks(
    architecture: Architecture, blocks: Mapping[str, tuple[int, ...]] | bool, labels: Sequence[str]
) -> list[tuple[str, IntArray]]:
    """Find the vectors and matrices that θ is made of: names, and numbers of their entries."""
    shapes = architecture.block_shapes
    if isinstance(blocks, Mapping):
        shapes = as_blocks([*blocks.values()], architecture.dim, "blocks")
    parts, start = [], 0
    for place, shape in enumerate(shapes):
        numbers = np.arange(start, start + prod(shape)).reshape(shape)
        start += prod(shape)
        name = labels[int(numbers.flat[0])].partition("[")[0] if numbers.size else ""
        name = list(blocks)[place] if isinstance(blocks, Mapping) else name
        for lead in np.ndindex(shape[:-2]):
            parts.append((f"{name}[{','.join(map(str, lead))}]" if lead else name, numbers[lead]))
    return [(name, numbers) for name, numbers in parts if numbers.size]


@dataclass(frozen=True)
class Forms:
    """Polynomials in θ, each a sum of monomials.

    Attributes
    ----------
    terms : sequence of sequence of tuple of int
        The monomials of each, as the numbers of their parameters.
    derivatives : callable
        Of all of them, at points along vectors.
    names : sequence of str
        What they are called; none where they are monomials.
    zeros : sequence of mapping of int to Fraction
        Combinations of them that are zero.
    """

    terms: Sequence[Sequence[tuple[int, ...]]]
    derivatives: Callable[[FloatArray, FloatArray], FloatArray]
    names: Sequence[str] = ()
    zeros: Sequence[dict[int, Fraction]] = ()


def block_forms(blocks: Sequence[tuple[str, IntArray]], degree: int) -> Forms:
    """List entries of vectors, products of two; row and column sums of matrices, W Wᵀ and Wᵀ W.

    Of each matrix two traces are the same, and two sums of all entries.
    """
    if degree > 2:
        raise InputError(f"forms of blocks have a degree of 1 or 2, got {degree}")
    names: list[str] = []
    terms: list[list[tuple[int, ...]]] = []
    zeros: list[dict[int, Fraction]] = []
    parts: list[tuple[int, IntArray]] = []  # degree, and a matrix whose rows are multiplied

    def add(order: int, rows: IntArray, entry: Callable[..., str]) -> list[int]:
        start = len(terms)
        parts.append((order, rows))
        if order == 1:
            terms.extend([(int(n),) for n in row] for row in rows)
            names.extend(entry(i) for i in range(len(rows)))
            return list(range(start, len(terms)))
        pairs = list(zip(*np.triu_indices(len(rows)), strict=True))
        for i, j in pairs:
            terms.append(
                [(min(a, b), max(a, b)) for a, b in zip(*rows[[i, j]].tolist(), strict=True)]
            )
            names.append(entry(i, j))
        return [start + n for n, (i, j) in enumerate(pairs) if i == j]

    for name, numbers in blocks:
        if min(numbers.shape, default=1) == 1 or numbers.ndim < 2:
            entries, rows = entries_of(name, numbers.shape), numbers.reshape(-1, 1)
            add(1, rows, entries.__getitem__)
            if degree == 2:
                add(2, rows, partial(_product, entries))
            continue
        for order in range(1, degree + 1):
            sides = []
            for side, matrix in ((0, numbers), (1, numbers.T)):
                sides.append(add(order, matrix, partial(_FORMS[order, side].format, name)))
            first, second = sides
            zeros.append({n: Fraction(1) for n in first} | {n: Fraction(-1) for n in second})

    def derivatives(theta: FloatArray, fields: FloatArray) -> FloatArray:
        columns = []
        for order, rows in parts:
            if order == 1:
                columns.append(fields[:, rows].sum(axis=-1))
                continue
            gram = fields[:, rows] @ np.swapaxes(theta[:, rows], -1, -2)
            first, second = np.triu_indices(len(rows))
            columns.append(gram[:, first, second] + gram[:, second, first])
        return np.hstack(columns)

    return Forms(terms, derivatives, names, zeros)


_FORMS = {
    (1, 0): "Σ {0}[{1},·]",
    (1, 1): "Σ {0}[·,{1}]",
    (2, 0): "({0} {0}ᵀ)[{1},{2}]",
    (2, 1): "({0}ᵀ {0})[{1},{2}]",
}
"""What the forms of a matrix are called, by degree and side."""


def _product(entries: Sequence[str], i: int, j: int) -> str:
    return f"{entries[i]}²" if i == j else f"{entries[i]} {entries[j]}"
