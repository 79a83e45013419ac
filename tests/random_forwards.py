"""Random polynomial and rational forward passes, and how many laws they have, exactly.

The truth comes from power series at a random θ for random inputs, all modulo a prime. Nothing here
is from liftflow.
"""

import numpy as np
from lie_oracle import PRIME, Expansions, _bracket, rank

N_INPUTS = 14
"""More than any of the passes needs: each raises the rank by one at least, or none ever will."""

ACTIVATIONS = {
    "identity": lambda s: s,
    "square": lambda s: s * s,
    "cube": lambda s: s * s * s,
    "odd": lambda s: s / (1 + s * s),
    "bump": lambda s: 1 / (1 + s * s),
    "shifted": lambda s: s * s + s,
}


class Series:
    """Power series about a point, modulo the prime, with the arithmetic of numbers."""

    def __init__(self, space, values):
        self.space, self.values = space, values % PRIME

    def _other(self, other):
        if isinstance(other, Series):
            return other.values
        constant = np.zeros(self.space.size, np.int64)
        constant[0] = other % PRIME
        return constant

    def __add__(self, other):
        return Series(self.space, self.values + self._other(other))

    def __mul__(self, other):
        return Series(self.space, self.space.product(self._other(other), self.values))

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other):
        return self * other.inverse()

    def __rtruediv__(self, other):
        return other * self.inverse()

    def inverse(self):
        """1/s by the geometric series of its part without constant."""
        first = pow(int(self.values[0]), -1, PRIME)
        rest = self * (PRIME - first)  # −s/s₀
        rest = rest + 1
        total = power = Series(self.space, self._other(1))
        for _ in range(int(self.space.exponents.sum(axis=1).max())):
            power = power * rest
            total = total + power
        return total * first


class RandomForward:
    """Σ_j u_oj σ(Σ_i v_ji x_i + b_j), perhaps with gates, skips, a division or tied weights."""

    def __init__(self, rng):
        n_in, width, n_out = (int(n) for n in rng.integers(1, 3, size=3))
        self.shape = n_in, width, n_out
        self.activation = str(rng.choice(list(ACTIVATIONS)))
        self.gate = str(rng.choice([*ACTIVATIONS, "none", "none"]))
        self.skip, self.divided, self.bias = (rng.random(3) < [0.3, 0.25, 0.3]).tolist()
        counts = [width * n_in, n_out * width]
        counts += [width * n_in] * (self.gate != "none") + [width] * self.bias
        total = sum(counts)
        self.dim = total if rng.random() < 0.6 else int(rng.integers(2, total + 1))
        self.dim = min(self.dim, 6)
        order = rng.permutation(total) % self.dim  # ties where there are fewer parameters
        self.numbers = np.split(order, np.cumsum(counts)[:-1])

    def outputs(self, theta, x):
        """Return the outputs, of numbers or series θ and numbers x."""
        n_in, width, n_out = self.shape
        parts = [[theta[n] for n in own] for own in self.numbers]

        def linear(own, j):
            return sum(own[j * n_in + i] * x[i] for i in range(n_in))

        hidden = []
        for j in range(width):
            total = linear(parts[0], j)
            if self.bias:
                total = total + parts[-1][j]
            unit = ACTIVATIONS[self.activation](total)
            if self.gate != "none":
                unit = unit * ACTIVATIONS[self.gate](linear(parts[2], j))
            hidden.append(unit)
        found = [
            sum(parts[1][o * width + j] * hidden[j] for j in range(width)) for o in range(n_out)
        ]
        if self.skip:
            found = [value + x[o % n_in] * theta[0] for o, value in enumerate(found)]
        if self.divided:  # as a norm does
            size = 1 + sum(value * value for value in found)
            found = [value / size for value in found]
        return found


def _ranks(forward, degree, rng):
    """Ranks at a random θ with the brackets of each level that a degree suffices for."""
    dim = forward.dim
    space = Expansions(dim, degree)
    theta = []
    for axis in range(dim):
        values = np.zeros(space.size, np.int64)
        values[0] = rng.integers(PRIME)
        values[space.numbers(space.base[axis])] = 1
        theta.append(Series(space, values))
    rows = []
    for _ in range(N_INPUTS):
        x = [int(n) for n in rng.integers(PRIME, size=forward.shape[0])]
        rows += [value.values for value in forward.outputs(theta, x)]
    fields = space.slopes(np.array(rows))

    def combination():
        weights = rng.integers(PRIME, size=(dim + 2, len(fields)))
        terms = (weights[:, n, None, None] * own % PRIME for n, own in enumerate(fields))
        return sum(terms) % PRIME

    spanned, chains = fields[..., 0], combination()
    ranks = [rank(spanned)]
    while len(ranks) < degree and ranks[-1] < dim and ranks[-1:] != ranks[-2:-1]:
        chains = _bracket(space, combination(), chains)
        spanned = np.vstack([spanned, chains[..., 0]])
        ranks.append(rank(spanned))
    return ranks


def exact_laws(forward, rng):
    """Return the number of laws for all losses and inputs."""
    for degree in (3, 5):
        ranks = _ranks(forward, degree, rng)
        if ranks[-1] == forward.dim or ranks[-1:] == ranks[-2:-1]:
            return forward.dim - ranks[-1]
    raise AssertionError(f"brackets of {degree} levels do not settle it: {ranks}")
