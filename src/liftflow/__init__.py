"""Differential geometry of the training dynamics of neural networks.

A gradient flow of the parameter θ moves the lifted variable z = φ(θ). Where the motion of z can be
written without θ, z follows a Riemannian gradient flow of its own; liftflow builds the invariant
sets, the metrics and the flows, and compares the two.
"""

from liftflow.architectures import Architecture as Architecture
from liftflow.architectures import Attention as Attention
from liftflow.architectures import DeepLinear as DeepLinear
from liftflow.architectures import LinearNeuralODE as LinearNeuralODE
from liftflow.architectures import ProductArchitecture as ProductArchitecture
from liftflow.architectures import ReLUNetwork as ReLUNetwork
from liftflow.architectures import SampledForward as SampledForward
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
from liftflow.flows import Trajectory as Trajectory
from liftflow.flows import compare as compare
from liftflow.flows import sweep as sweep
from liftflow.losses import Loss as Loss
from liftflow.losses import NetworkLoss as NetworkLoss
from liftflow.losses import loss_from_function as loss_from_function
from liftflow.manifolds import InvariantSet as InvariantSet
from liftflow.metrics import Cometric as Cometric
from liftflow.metrics import IntrinsicMetric as IntrinsicMetric
from liftflow.metrics import RecoveredCometric as RecoveredCometric
from liftflow.metrics import intrinsic_cometric as intrinsic_cometric
from liftflow.moved import install
from liftflow.version import __version__ as __version__

install()

__all__ = [
    name
    for name, thing in globals().items()
    if getattr(thing, "__module__", "").startswith("liftflow.") and thing is not install
]
