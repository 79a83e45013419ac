"""Criteria at special points of lifts that are only evaluated, against exact brackets."""

import autograd.numpy as anp
import numpy as np
import pytest
from lie_oracle import truth

from liftflow import Architecture, classify
from liftflow.criteria import (
    Verdict,
    commuting,
    count_conservation_laws,
    frobenius,
    laws_complete,
    lie_algebra_dimension,
    metric_property,
    recoverability,
)


class PolynomialLift(Architecture):
    """Polynomials, each a dict of exponents to coefficients."""

    def __init__(self, dim, polynomials, unit=1.0):
        super().__init__(dim, (len(polynomials),))
        self.polynomials, self.unit = polynomials, unit

    def lift(self, theta):
        powers = [[1.0] for _ in range(self.dim)]
        for axis, own in enumerate(powers):
            for _ in range(3):
                own.append(own[-1] * theta[..., axis] / self.unit)
        values = []
        for terms in self.polynomials:
            total = 0.0 * theta[..., 0]
            for exponents, coefficient in terms.items():
                term = float(coefficient)
                for axis, power in enumerate(exponents):
                    if power:
                        term = term * powers[axis][power]
                total = total + term
            values.append(total)
        return anp.stack(values, axis=-1)


def monomial(dim, degree, rng):
    exponents = np.zeros(dim, int)
    np.add.at(exponents, rng.integers(dim, size=degree), 1)
    return tuple(exponents.tolist())


def random_lift(rng):
    """Draw sparse polynomials; some begin with a coordinate of θ, and some points with zeros."""
    dim, size = int(rng.integers(2, 6)), int(rng.integers(1, 5))
    first = rng.permutation(dim)
    kind = rng.integers(3)
    polynomials = []
    for number in range(size):
        terms = {}
        if kind == 1 and number < dim:
            terms[tuple(int(i == first[number]) for i in range(dim))] = 1
        low = 2 if kind == 2 else 1
        for _ in range(rng.integers(0 if terms else 1, 3)):
            degree = int(rng.integers(low, 4))
            terms[monomial(dim, degree, rng)] = int(rng.choice([-2, -1, 1, 2, 3]))
        polynomials.append(terms)
    point = rng.integers(-2, 3, size=dim) * (rng.random(dim) < rng.choice([0.0, 0.4, 0.8]))
    return dim, polynomials, point
