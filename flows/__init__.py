"""Gradient flows of θ and of z, their comparison, discrete steps, and mirror flows."""

from liftflow.flows.compare import Comparison as Comparison
from liftflow.flows.compare import compare as compare
from liftflow.flows.compare import law_drift as law_drift
from liftflow.flows.discrete import Adam as Adam
from liftflow.flows.discrete import GradientDescent as GradientDescent
from liftflow.flows.discrete import Optimizer as Optimizer
from liftflow.flows.hessian import chart_metric_matrix as chart_metric_matrix
from liftflow.flows.hessian import is_hessian_metric as is_hessian_metric
from liftflow.flows.hessian import is_warped_hessian_metric as is_warped_hessian_metric
from liftflow.flows.intrinsic import IntrinsicFlow as IntrinsicFlow
from liftflow.flows.mirror import DiagonalPotential as DiagonalPotential
from liftflow.flows.mirror import MirrorPotential as MirrorPotential
from liftflow.flows.mirror import NeuronPotential as NeuronPotential
from liftflow.flows.parameter import ParameterFlow as ParameterFlow
from liftflow.flows.settings import Settings as Settings
from liftflow.flows.state import FlowState as FlowState
from liftflow.flows.sweep import Sweep as Sweep
from liftflow.flows.sweep import SweepRun as SweepRun
from liftflow.flows.sweep import sweep as sweep
from liftflow.flows.trajectory import Checkpoint as Checkpoint
from liftflow.flows.trajectory import Trajectory as Trajectory

__all__ = [
    "Adam",
    "Checkpoint",
    "Comparison",
    "DiagonalPotential",
    "FlowState",
    "GradientDescent",
    "IntrinsicFlow",
    "MirrorPotential",
    "NeuronPotential",
    "Optimizer",
    "ParameterFlow",
    "Settings",
    "Sweep",
    "SweepRun",
    "Trajectory",
    "chart_metric_matrix",
    "compare",
    "is_hessian_metric",
    "is_warped_hessian_metric",
    "law_drift",
    "sweep",
]
