"""A rate of convergence of two linear layers that their conservation laws certify."""

from dataclasses import dataclass

import numpy as np

from liftflow.architectures import Architecture, TwoLayerLinear
from liftflow.doors import door
from liftflow.errors import UndefinedError
from liftflow.flows.rules import Course, TrainingRule
from liftflow.losses import Loss
from liftflow.typing import OneTheta, OnTimes, as_array, freeze


@dataclass(frozen=True, eq=False)
class RateCertificate:
    r"""The bound :math:`f(z(t)) − f^* ≤ e^{−2κgt} (f(z_0) − f^*)`.

    Attributes
    ----------
    gap : float
        The g that the laws give: K(z) ≥ g wherever the flow is.
    pl_constant : float
        The κ of the loss, :math:`‖∇f‖^2 ≥ 2κ(f − f^*)`.
    first, minimum : float
        The loss at θ₀ and f*.
    """

    gap: float
    pl_constant: float
    first: float
    minimum: float

    @property
    def rate(self) -> float:
        """The rate 2κg."""
        return 2.0 * self.pl_constant * self.gap

    @door
    def bound(self, elapsed: OnTimes) -> OnTimes:
        """Evaluate the bound on the loss at times since the start."""
        times = as_array(elapsed, "elapsed", (None,), batch=False, differentiable=False)
        return self.minimum + (self.first - self.minimum) * np.exp(-self.rate * times)


@door
def rate_certificate(
    architecture: Architecture, theta0: OneTheta, loss: Loss, rule: TrainingRule | None = None
) -> RateCertificate:
    r"""Certify a rate of the gradient flow of two linear layers by the spectrum of their law S.

    g is the n-th largest eigenvalue of :math:`S = U^\top U − V^\top V`, if it is positive, and the
    size of the m-th least, if it is negative: bounds of the least eigenvalues of UUᵀ and VVᵀ,
    by Weyl, so of :math:`K(Z)[G] = UU^\top G + G VV^\top`. For r ≥ n + m these are the least
    positive and the least negative one. With one learning rate per layer S is that of the rule, and
    g is to be multiplied by their product.

    Raises
    ------
    UndefinedError
        There is no such certificate: for another architecture, a loss whose constant κ is not
        known, weight decay, rates that differ within a layer, or a spectrum without such signs.

    References
    ----------
    Zhang and Peyré 2026, Theorem 3.1, for r ≥ n + m.
    """
    if type(architecture) is not TwoLayerLinear:
        raise UndefinedError(
            "laws certify a rate of two linear layers, TwoLayerLinear, only; got "
            f"{type(architecture).__name__}"
        )
    if not loss.pl_constant:
        raise UndefinedError(
            "a rate needs a loss with ‖∇f‖² ≥ 2κ(f − f*) for a known κ > 0; give it as "
            "loss_from_function(f, pl_constant=κ, minimum=f*)"
        )
    start = as_array(theta0, "theta0", (architecture.dim,), batch=False, differentiable=False)
    course = Course(architecture, start, rule)
    if course.decay:
        raise UndefinedError("weight decay moves the minimum: laws certify no rate to f* then")
    scale = 1.0
    if course.way is not None:
        factors = np.ravel(course.way.outside)
        if np.ptp(factors) > 1e-12 * factors[0]:
            raise UndefinedError("laws certify a rate for one learning rate per layer only")
        scale = float(factors[0]) ** 2
    (matrix,) = architecture.split_laws(course.laws())
    values, rank = np.linalg.eigvalsh(matrix), architecture.r
    positive = values[rank - architecture.n] if architecture.n <= rank else 0.0
    negative = -values[architecture.m - 1] if architecture.m <= rank else 0.0
    gap = scale * (max(float(positive), 0.0) + max(float(negative), 0.0))
    if not gap > 0:
        raise UndefinedError(
            "the laws of θ₀ certify no rate: S = UᵀU − VᵀV has neither n positive nor m negative "
            f"eigenvalues, n = {architecture.n}, m = {architecture.m}, its eigenvalues "
            f"{freeze(values).round(3).tolist()}"
        )
    first = float(loss.parameter_value(start, architecture))
    return RateCertificate(gap, loss.pl_constant, first, loss.minimum)
