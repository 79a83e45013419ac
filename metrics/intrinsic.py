"""The one way from an architecture and θ₀ to its closed form K_θ₀."""

from functools import singledispatch
from typing import Any

from liftflow.architectures import Architecture, ReLUNetwork
from liftflow.errors import NotIntrinsicError
from liftflow.metrics.base import Cometric
from liftflow.metrics.path import PathCometric


@singledispatch
def intrinsic_cometric(architecture: Architecture, theta0: Any) -> Cometric:
    """Build the closed form K_θ₀ of an architecture at θ₀.

    A new family registers its own: ``@intrinsic_cometric.register``.

    Parameters
    ----------
    architecture : Architecture
    theta0 : array-like, shape=[dim]

    Returns
    -------
    cometric : Cometric

    Raises
    ------
    NotIntrinsicError
        No closed form is known for this family, or none exists at this θ₀.
    NotRecoverableError
        Dead parameters at θ₀.
    """
    raise NotIntrinsicError(
        f"no closed form is registered for {type(architecture).__name__}; register one with "
        "@intrinsic_cometric.register"
    )


@intrinsic_cometric.register
def _(architecture: ReLUNetwork, theta0: Any) -> PathCometric:
    cometric = PathCometric(architecture, theta0)
    architecture.basis_chart(cometric.theta0)  # refuses dead parameters, by name
    return cometric
