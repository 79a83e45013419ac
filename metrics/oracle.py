"""The brute-force oracle: J Jᵀ with J by automatic differentiation of the lift alone.

It shares no line with any closed form, knows no family, and every closed form is judged by it.
"""

import autograd

from liftflow.architectures import Architecture
from liftflow.doors import door
from liftflow.linalg import over_batch
from liftflow.typing import Jacobian, LiftedMatrix, Theta, as_array, refuse_beyond


@door
def oracle_jacobian(architecture: Architecture, theta: Theta) -> Jacobian:
    """Jacobian of the lift by reverse-mode autodiff, entry by entry of z."""
    theta = as_array(theta, "theta", (architecture.dim,), differentiable=False)
    rows, columns = architecture.lifted_dim, architecture.dim
    refuse_beyond(float(rows) * columns, f"a dense matrix of {rows} × {columns} numbers")
    shape = (*architecture.lifted_shape, architecture.dim)
    dense = over_batch(autograd.jacobian(architecture.lift), [theta], [1], shape)
    return dense.reshape(*theta.shape[:-1], architecture.lifted_dim, architecture.dim)


@door
def oracle_gram(architecture: Architecture, theta: Theta) -> LiftedMatrix:
    """Lifted Gram operator M(θ) = J Jᵀ."""
    jacobian = oracle_jacobian(architecture, theta)
    return jacobian @ jacobian.swapaxes(-1, -2)
