"""Laws that are polynomials with rational coefficients, and the monomials that they are made of."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial, reduce
from itertools import combinations_with_replacement
from operator import mul

import autograd
import autograd.numpy as anp
import numpy as np

from liftflow.architectures.labels import Forms
from liftflow.typing import FloatArray, Scalars, Tangent, Theta, as_array

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

Monomial = tuple[int, ...]
"""Numbers of the parameters that are multiplied, in ascending order, with repetition."""


@dataclass(frozen=True)
class PolynomialLaw:
    """A conservation law h(θ) that is a polynomial with rational coefficients.

    Attributes
    ----------
    terms : tuple of (tuple of int, Fraction)
        Monomials, as the numbers of their parameters, with their coefficients.
    labels : tuple of str
        Names of the parameters.
    formula : str
        How it is written, where it is not the sum of its terms.
    """

    terms: tuple[tuple[Monomial, Fraction], ...]
    labels: tuple[str, ...]
    formula: str = ""

    def __call__(self, theta: Theta) -> Scalars:
        """Evaluate the law."""
        theta = as_array(theta, "theta", (len(self.labels),))
        monomials, coefficients = zip(*self.terms, strict=True)
        return anp.sum(np.array(coefficients, float) * monomial_values(monomials, theta), axis=-1)

    def gradient(self, theta: Theta) -> Tangent:
        """Differentiate the law."""
        theta = as_array(theta, "theta", (len(self.labels),), differentiable=False)
        gradient = np.zeros(theta.shape)
        for monomial, coefficient in self.terms:
            for place, number in enumerate(monomial):
                others = monomial[:place] + monomial[place + 1 :]
                gradient[..., number] += float(coefficient) * theta[..., others].prod(axis=-1)
        return gradient

    def __repr__(self) -> str:
        """Say in one line what it is."""
        return f"PolynomialLaw({self})"

    def __str__(self) -> str:
        """Write the polynomial down."""
        return self.formula or written_sum((written(m, self.labels), c) for m, c in self.terms)


def written(monomial: Monomial, labels: Sequence[str]) -> str:
    """Name a monomial by the names of its parameters."""
    parts = []
    for number in dict.fromkeys(monomial):
        power = monomial.count(number)
        exponent = str(power).translate(_SUPERSCRIPTS) if power > 1 else ""
        parts.append(labels[number] + exponent)
    return " ".join(parts)


def combined(forms: Forms, row: Mapping[int, Fraction], labels: tuple[str, ...]) -> PolynomialLaw:
    """Add up a combination of forms, given its coefficients by their numbers."""
    total: dict[Monomial, Fraction] = {}
    for number, coefficient in row.items():
        for monomial in forms.terms[number]:
            total[monomial] = total.get(monomial, Fraction(0)) + coefficient
    terms = tuple((monomial, value) for monomial, value in total.items() if value)
    formula = written_sum((forms.names[n], c) for n, c in row.items()) if forms.names else ""
    return PolynomialLaw(terms, labels, formula)


def written_sum(terms: Iterable[tuple[str, Fraction]]) -> str:
    """Write a sum down, given the names of its terms with their coefficients."""
    text = ""
    for name, coefficient in terms:
        sign = "− " if coefficient < 0 else "+ "
        size = abs(coefficient)
        factor = "" if size == 1 else f"{size} "
        text += f"{sign}{factor}{name} "
    return text.strip().removeprefix("+ ")


def monomial_forms(dim: int, degree: int) -> Forms:
    """List all monomials up to a degree but 1."""
    monomials = [
        m for d in range(1, degree + 1) for m in combinations_with_replacement(range(dim), d)
    ]
    return Forms([[m] for m in monomials], partial(_derivatives, monomials))


def monomial_values(monomials: Sequence[Monomial], theta: Theta) -> FloatArray:
    """Evaluate monomials of any degrees.

    A 1 after the parameters fills the shorter ones up.
    """
    one, degree = theta.shape[-1], max(map(len, monomials))
    numbers = np.array([[*monomial, *[one] * (degree - len(monomial))] for monomial in monomials])
    extended = anp.concatenate([theta, anp.ones((*theta.shape[:-1], 1))], axis=-1)
    values: FloatArray = reduce(mul, [extended[..., column] for column in numbers.T])
    return values


def _derivatives(monomials: list[Monomial], theta: FloatArray, fields: FloatArray) -> FloatArray:
    """Derivative of every monomial along a field at each of several points."""
    along: FloatArray = autograd.make_jvp(partial(monomial_values, monomials))(theta)(fields)[1]
    return along
