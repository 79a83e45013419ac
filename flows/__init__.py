"""Gradient flows of θ and of z, their comparison, discrete steps, and mirror flows."""

from liftflow.flows.certificate import RateCertificate, rate_certificate
from liftflow.flows.compare import compare
from liftflow.flows.comparison import Comparison
from liftflow.flows.discrete import Adam, GradientDescent, Optimizer
from liftflow.flows.hessian import chart_metric_matrix, is_hessian_metric, is_warped_hessian_metric
from liftflow.flows.intrinsic import IntrinsicFlow
from liftflow.flows.mirror import DiagonalPotential, MirrorPotential, NeuronPotential
from liftflow.flows.momentum import MomentumFlow
from liftflow.flows.parameter import ParameterFlow
from liftflow.flows.rules import TrainingRule, law_drift
from liftflow.flows.settings import Settings
from liftflow.flows.state import FlowState
from liftflow.flows.sweep import Sweep, SweepRun, sweep
from liftflow.flows.trajectory import Checkpoint, Trajectory

__all__ = [
    "Adam",
    "Checkpoint",
    "Comparison",
    "DiagonalPotential",
    "FlowState",
    "GradientDescent",
    "IntrinsicFlow",
    "MirrorPotential",
    "MomentumFlow",
    "NeuronPotential",
    "Optimizer",
    "ParameterFlow",
    "RateCertificate",
    "Settings",
    "Sweep",
    "SweepRun",
    "TrainingRule",
    "Trajectory",
    "chart_metric_matrix",
    "compare",
    "is_hessian_metric",
    "is_warped_hessian_metric",
    "law_drift",
    "rate_certificate",
    "sweep",
]
