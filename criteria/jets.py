"""Jets: numbers with nilpotent parts, so that a derivative is one more evaluation.

A jet over ε_1, …, ε_k with ε_i² = 0 is an array whose first axis, of length 2^k, runs over the
products of them. Evaluated at x + ε v, a polynomial gives its value and its derivative along v,
without truncation, over floats as well as over a prime field.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from liftflow.typing import FloatArray


@dataclass(frozen=True)
class Arithmetic:
    """Floats, or integers modulo a prime below 2^31, whose products fit into 64 bits.

    Attributes
    ----------
    prime : int
        0 stands for floats.
    """

    prime: int = 0

    @property
    def exact(self) -> bool:
        """Whether this is a prime field."""
        return self.prime > 0

    def reduce(self, values: Any, out: Any = None) -> Any:
        """Bring integers back to 0 … p − 1; floats stay.

        Parameters
        ----------
        values : array
            Of any shape.
        out : array, optional
            Where to write them.
        """
        if not self.exact:
            return values
        return np.remainder(values, self.prime, out=out)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        """Draw an array: normal floats, or uniform residues.

        Parameters
        ----------
        shape : tuple of int
            Of the array.
        """
        if self.exact:
            return rng.integers(self.prime, size=shape)
        return rng.standard_normal(shape)

    def ones(self, shape: tuple[int, ...]) -> Any:
        """Return an array of ones.

        Parameters
        ----------
        shape : tuple of int
            Of the array.
        """
        return np.ones(shape, np.int64 if self.exact else np.float64)


FLOATS = Arithmetic()
"""float64."""


def seed(values: Any) -> Any:
    """Return the jet of a constant.

    Parameters
    ----------
    values : array-like, shape=[*shape]
        The constant.

    Returns
    -------
    jet : array, shape=[1, *shape]
    """
    return np.asarray(values)[None]


def constant(jet: Any) -> FloatArray:
    """Return the part of a jet without nilpotents.

    Parameters
    ----------
    jet : array, shape=[2^k, *shape]
        Over any number of nilpotents.

    Returns
    -------
    values : array, shape=[*shape]
    """
    return jet[0]


def split(jet: Any) -> tuple[Any, Any]:
    """Return value and derivative in the last nilpotent, as jets over the others.

    Parameters
    ----------
    jet : array, shape=[2^k, *shape]
        With k ≥ 1.

    Returns
    -------
    value, derivative : array, shape=[2^(k - 1), *shape]
        The two halves.
    """
    half = len(jet) // 2
    return jet[:half], jet[half:]


def multiply(a: Any, b: Any, arithmetic: Arithmetic) -> Any:
    """Multiply two jets entry by entry; one of them may be a constant.

    Parameters
    ----------
    a, b : array, shape=[2^k, *shape] or [1, *shape]
        Jets; shapes broadcast.

    Returns
    -------
    product : array, shape=[2^k, *shape]
    """
    if len(a) == 1 or len(b) == 1:
        return arithmetic.reduce(a * b)
    (a0, a1), (b0, b1) = split(a), split(b)
    mixed = multiply(a0, b1, arithmetic) + multiply(a1, b0, arithmetic)
    return np.concatenate([multiply(a0, b0, arithmetic), arithmetic.reduce(mixed)])


def inner_sum(a: Any, b: Any, axis: int, arithmetic: Arithmetic) -> Any:
    """Multiply two jets entry by entry and add up along an axis.

    Parameters
    ----------
    a, b : array, shape=[2^k, *shape] or [1, *shape]
        Jets; shapes broadcast.
    axis : int
        Of the arrays, negative to count from the end.

    Returns
    -------
    total : array
        A jet with one axis less.
    """
    return arithmetic.reduce(np.sum(multiply(a, b, arithmetic), axis=axis))
