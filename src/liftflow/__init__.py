"""Differential geometry of the training dynamics of neural networks.

A gradient flow of the parameter θ moves the lifted variable z = φ(θ). Where the motion of z can be
written without θ, z follows a Riemannian gradient flow of its own; liftflow builds the invariant
sets, the metrics and the flows, and compares the two.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from liftflow.moved import install
from liftflow.version import __version__ as __version__

if TYPE_CHECKING:
    from liftflow.architectures import Architecture as Architecture
    from liftflow.architectures import Attention as Attention
    from liftflow.architectures import DeepLinear as DeepLinear
    from liftflow.architectures import LinearNeuralODE as LinearNeuralODE
    from liftflow.architectures import ProductArchitecture as ProductArchitecture
    from liftflow.architectures import ReLUNetwork as ReLUNetwork
    from liftflow.architectures import TransformerBlock as TransformerBlock
    from liftflow.architectures import TwoLayerLinear as TwoLayerLinear
    from liftflow.criteria import Classification as Classification
    from liftflow.criteria import classify as classify
    from liftflow.criteria import commuting as commuting
    from liftflow.criteria import count_conservation_laws as count_conservation_laws
    from liftflow.criteria import discover_laws as discover_laws
    from liftflow.criteria import frobenius as frobenius
    from liftflow.criteria import kernel_inclusion as kernel_inclusion
    from liftflow.criteria import laws_complete as laws_complete
    from liftflow.criteria import lie_algebra_dimension as lie_algebra_dimension
    from liftflow.criteria import recoverability as recoverability
    from liftflow.flows import Comparison as Comparison
    from liftflow.flows import IntrinsicFlow as IntrinsicFlow
    from liftflow.flows import ParameterFlow as ParameterFlow
    from liftflow.flows import Sweep as Sweep
    from liftflow.flows import TrainingRule as TrainingRule
    from liftflow.flows import Trajectory as Trajectory
    from liftflow.flows.compare import compare as compare
    from liftflow.flows.sweep import sweep as sweep
    from liftflow.losses import Loss as Loss
    from liftflow.losses import NetworkLoss as NetworkLoss
    from liftflow.losses import loss_from_function as loss_from_function
    from liftflow.losses import loss_from_parameters as loss_from_parameters
    from liftflow.manifolds import InvariantSet as InvariantSet
    from liftflow.metrics import Cometric as Cometric
    from liftflow.metrics import IntrinsicMetric as IntrinsicMetric
    from liftflow.metrics import RecoveredCometric as RecoveredCometric
    from liftflow.metrics import intrinsic_cometric as intrinsic_cometric

_ROOMS = {  # where each name lives; the same as above, for there no program sees it
    "architectures": "Architecture Attention DeepLinear "
    "LinearNeuralODE ProductArchitecture ReLUNetwork TransformerBlock TwoLayerLinear",
    "criteria": "Classification classify commuting count_conservation_laws discover_laws "
    "frobenius kernel_inclusion laws_complete lie_algebra_dimension recoverability",
    "flows": "Comparison IntrinsicFlow ParameterFlow Sweep TrainingRule Trajectory compare sweep",
    "losses": "Loss NetworkLoss loss_from_function loss_from_parameters",
    "manifolds": "InvariantSet",
    "metrics": "Cometric IntrinsicMetric RecoveredCometric intrinsic_cometric",
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names.split()}
__all__ = list(_HOMES)

install()


def __getattr__(name: str) -> Any:
    """Import what is asked for: a public name from its room, or a room itself."""
    if name in _HOMES:
        globals()[name] = found = getattr(import_module(f"liftflow.{_HOMES[name]}"), name)
        return found
    if name.startswith("_") or find_spec(f"liftflow.{name}") is None:
        raise AttributeError(f"module 'liftflow' has no attribute {name!r}", name=name)
    return import_module(f"liftflow.{name}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
