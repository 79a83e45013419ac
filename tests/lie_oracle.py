"""Lie algebras of polynomial gradient fields at a point, exactly, modulo a prime.

Fields are expanded at the point, so that a bracket of level k needs its terms up to degree K − k
only. Nothing here is from liftflow.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

PRIME = 2**31 - 1
DEPTH = 9
"""Level of brackets up to which the span at a point grows."""


def rank(rows):
    """Rank of a matrix of residues."""
    rows, found = np.array(rows, dtype=object) % PRIME, 0
    for column in range(rows.shape[1]):
        pivots = np.flatnonzero(rows[found:, column])
        if not pivots.size:
            continue
        rows[[found, found + pivots[0]]] = rows[[found + pivots[0], found]]
        rows[found] = rows[found] * pow(int(rows[found, column]), -1, PRIME) % PRIME
        below = rows[found + 1 :]
        below[:] = (below - np.outer(below[:, column], rows[found])) % PRIME
        found += 1
        if found == len(rows):
            break
    return found


class Expansions:
    """Polynomials in ``dim`` variables up to a degree, as residues of their coefficients."""

    def __init__(self, dim, degree):
        exponents = [e for e in product(range(degree + 1), repeat=dim) if sum(e) <= degree]
        self.exponents, self.dim, self.size = np.array(exponents), dim, len(exponents)
        self.base = (2 * degree + 2) ** np.arange(dim)
        order = np.argsort(self.exponents @ self.base)
        self.exponents = self.exponents[order]
        self.codes = self.exponents @ self.base

    def numbers(self, codes):
        """Return the numbers of monomials by their codes; past the end if there is none."""
        found = np.minimum(np.searchsorted(self.codes, codes), self.size - 1)
        return np.where(self.codes[found] == codes, found, self.size)

    def slopes(self, values):
        """Differentiate, with a new axis before the coefficients."""
        result = np.zeros((*values.shape[:-1], self.dim, self.size), np.int64)
        for axis in range(self.dim):
            powers = self.exponents[:, axis]
            used = np.flatnonzero(powers)
            lower = self.numbers(self.codes[used] - self.base[axis])
            result[..., axis, lower] = values[..., used] * powers[used] % PRIME
        return result

    def product(self, a, b):
        """Multiply, coefficient by coefficient of the shorter ``a``."""
        shape = (*np.broadcast_shapes(a.shape[:-1], b.shape[:-1]), self.size + 1)
        result = np.zeros(shape, np.int64)
        for number in np.flatnonzero(a.reshape(-1, self.size).any(axis=0)):
            target = self.numbers(self.codes + self.codes[number])
            result[..., target] += a[..., number, None] * b % PRIME
        return result[..., :-1] % PRIME


@dataclass
class Truth:
    """Ranks at a point: of the fields, with their brackets, of the algebra; and generic ones."""

    dim: int
    fields: int
    brackets: int
    algebra: int
    generic: int
    vanish: bool
    levels: list


def _fields(polynomials, dim, point, degree):
    """Gradients, expanded at a point: shape [n, dim, n_coefficients]."""
    space = Expansions(dim, max(degree, max(sum(m) for f in polynomials for m in f)))
    values = np.zeros((len(polynomials), space.size), np.int64)
    for row, terms in zip(values, polynomials, strict=True):
        for monomial, coefficient in terms.items():
            total = np.zeros(space.size, np.int64)
            total[0] = coefficient % PRIME
            for axis, power in enumerate(monomial):
                factor = np.zeros(space.size, np.int64)  # point + the variable
                factor[0] = int(point[axis]) % PRIME
                factor[space.numbers(space.base[axis])] = 1
                for _ in range(power):
                    total = space.product(factor, total)
            row[:] = (row + total) % PRIME
    return space, space.slopes(values)


def _bracket(space, x, y):
    """[X, Y] = ∂Y X − ∂X Y."""
    along = space.product(x[:, None], space.slopes(y)).sum(axis=2)
    return (along - space.product(space.slopes(x), y[:, None]).sum(axis=2)) % PRIME


def _levels(polynomials, dim, point, rng, depth):
    """Ranks at a point with the brackets up to each level, of random combinations of fields."""
    space, fields = _fields(polynomials, dim, point, (depth + 1) // 2 + 1)
    count = dim + 2

    def combination():
        weights = rng.integers(PRIME, size=(count, len(fields)))
        terms = (weights[:, number, None, None] * own % PRIME for number, own in enumerate(fields))
        return sum(terms) % PRIME

    rows, chains, ranks = fields[..., 0], combination(), []
    ranks.append(rank(rows))
    for _ in range(depth - 1):
        chains = _bracket(space, combination(), chains)
        rows = np.vstack([rows, chains[..., 0]])
        ranks.append(rank(rows))
    return ranks


def truth(polynomials, dim, point, rng):
    """Return the truth at an integer point; polynomials are dicts of exponents to integers."""
    space, fields = _fields(polynomials, dim, point, 2)
    n = len(fields)
    left, right = (np.repeat(fields, n, axis=0), np.tile(fields, (n, 1, 1)))
    brackets = _bracket(space, left, right)[..., 0]
    values = fields[..., 0]
    levels = _levels(polynomials, dim, point, rng, DEPTH)
    generic = _levels(polynomials, dim, rng.integers(PRIME, size=dim), rng, 5)
    assert generic[-1] == generic[-2]
    return Truth(
        dim=dim,
        fields=rank(values),
        brackets=rank(np.vstack([values, brackets])),
        algebra=levels[-1],
        generic=generic[-1],
        vanish=not brackets.any(),
        levels=levels,
    )
