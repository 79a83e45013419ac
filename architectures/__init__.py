"""What θ and φ are: architectures, their lifts and their conservation laws."""

from liftflow.architectures.attention import Attention as Attention
from liftflow.architectures.base import Architecture as Architecture
from liftflow.architectures.channels import ChannelGraph as ChannelGraph
from liftflow.architectures.convolution import Conv as Conv
from liftflow.architectures.convolution import Pool as Pool
from liftflow.architectures.laplacian import GroundedLaplacian as GroundedLaplacian
from liftflow.architectures.linear import DeepLinear as DeepLinear
from liftflow.architectures.linear import TwoLayerLinear as TwoLayerLinear
from liftflow.architectures.neural_ode import LinearNeuralODE as LinearNeuralODE
from liftflow.architectures.normalised import GainedDirections as GainedDirections
from liftflow.architectures.normalised import NormalisedNetwork as NormalisedNetwork
from liftflow.architectures.normalised import ScaleInvariant as ScaleInvariant
from liftflow.architectures.path_kernel import ParameterKernel as ParameterKernel
from liftflow.architectures.paths import BasisPathChart as BasisPathChart
from liftflow.architectures.product import ProductArchitecture as ProductArchitecture
from liftflow.architectures.relu import ReLUNetwork as ReLUNetwork
from liftflow.architectures.sampled import SampledForward as SampledForward
from liftflow.architectures.tied import TiedNetwork as TiedNetwork
from liftflow.architectures.transformer import TransformerBlock as TransformerBlock
from liftflow.architectures.transformer import TransformerWeights as TransformerWeights
from liftflow.architectures.transformer import transformer_forward as transformer_forward

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
