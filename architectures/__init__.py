"""What θ and φ are: architectures, their lifts and their conservation laws."""

from liftflow.architectures.attention import Attention
from liftflow.architectures.base import Architecture
from liftflow.architectures.channels import ChannelGraph
from liftflow.architectures.convolution import Conv, Pool
from liftflow.architectures.laplacian import GroundedLaplacian
from liftflow.architectures.linear import DeepLinear, TwoLayerLinear
from liftflow.architectures.neural_ode import LinearNeuralODE
from liftflow.architectures.normalised import GainedDirections, NormalisedNetwork, ScaleInvariant
from liftflow.architectures.path_kernel import ParameterKernel
from liftflow.architectures.paths import BasisPathChart
from liftflow.architectures.product import ProductArchitecture
from liftflow.architectures.relu import ReLUNetwork
from liftflow.architectures.sampled import SampledForward
from liftflow.architectures.tied import TiedNetwork
from liftflow.architectures.transformer import (
    TransformerBlock,
    TransformerWeights,
    transformer_forward,
)

__all__ = [
    "Architecture",
    "Attention",
    "BasisPathChart",
    "ChannelGraph",
    "Conv",
    "DeepLinear",
    "GainedDirections",
    "GroundedLaplacian",
    "LinearNeuralODE",
    "NormalisedNetwork",
    "ParameterKernel",
    "Pool",
    "ProductArchitecture",
    "ReLUNetwork",
    "SampledForward",
    "ScaleInvariant",
    "TiedNetwork",
    "TransformerBlock",
    "TransformerWeights",
    "TwoLayerLinear",
    "transformer_forward",
]
