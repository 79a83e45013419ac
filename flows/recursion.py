"""Conservation laws along steps of a finite size: exactly, without looking at θ."""

import numpy as np

from liftflow.architectures.maps import SmoothMap
from liftflow.typing import FloatArray, OneLaws, OneTangent, OneTheta


class LawRecursion:
    r"""Laws of degree two along the steps of (stochastic) gradient descent.

    A gradient g of any batch is orthogonal to the laws, :math:`B(θ, g) = 0` with the bilinear form
    of h, where :math:`h(θ) = B(θ, θ)`. So no step needs θ to tell the laws after it: plain steps
    :math:`θ^+ = (1 − ηλ)θ − ηg` give

    .. math:: h^+ = (1 − ηλ)^2 h + η^2 h(g),

    and with momentum :math:`b^+ = βb + g + λθ`, along :math:`u = −ηb^+`, or
    :math:`u = −η(g + λθ + βb^+)` for Nesterov's, with :math:`c = B(θ, b)`,

    .. math::

        c' = βc + λh, \quad h^+ = h + 2B(θ, u) + h(u), \quad c^+ = c' + B(u, b^+),

    where :math:`B(θ, u) = −ηc'`, or :math:`−η(λh + βc')`. A decay that is decoupled shrinks θ by
    the factor 1 − ηλ before the step, and is in no momentum.

    Parameters
    ----------
    h : SmoothMap
        Laws that are quadratic forms.
    coupled, decoupled : float
        The λ of either kind of decay.

    References
    ----------
    Ours; that one step of gradient descent drifts by η²h(g), to second order in η, is known for
    linear layers.
    """

    def __init__(
        self,
        h: SmoothMap,
        theta: OneTheta,
        momentum: float,
        nesterov: bool,
        coupled: float,
        decoupled: float,
    ) -> None:
        self.h, self.momentum, self.nesterov = h, momentum, nesterov
        self.coupled, self.decoupled = coupled, decoupled
        self.laws: OneLaws = np.array(h(theta))
        self.mixed = np.zeros_like(self.laws)

    def follow(
        self, rate: float, gradient: OneTangent, update: OneTangent, velocity: OneTangent
    ) -> None:
        """Take note of a step.

        Parameters
        ----------
        rate : float
            Its η.
        gradient : array, shape=[dim]
            Its g, without any decay.
        update, velocity : array, shape=[dim]
            The u that was added to θ, and b⁺.
        """
        if not self.momentum:  # then both kinds of decay are one
            kept = 1.0 - rate * (self.coupled + self.decoupled)
            self.laws = kept**2 * self.laws + rate**2 * self.h(gradient)
            return
        pull = self.coupled * self.laws  # B(θ, g + λθ)
        mixed = self.momentum * self.mixed + pull
        along = -rate * (pull + self.momentum * mixed if self.nesterov else mixed)
        kept = 1.0 - rate * self.decoupled
        self.laws = kept**2 * self.laws + 2 * kept * along + self.h(update)
        self.mixed = kept * mixed + self.form(update, velocity)

    def form(self, a: FloatArray, b: FloatArray) -> OneLaws:
        """B(a, b) = ∂h(a) b / 2."""
        return self.h.jvp(a, b) / 2
