"""Gradient flows of θ and of z, and their comparison."""

from liftflow.flows.compare import Comparison as Comparison
from liftflow.flows.compare import compare as compare
from liftflow.flows.intrinsic import IntrinsicFlow as IntrinsicFlow
from liftflow.flows.parameter import ParameterFlow as ParameterFlow
from liftflow.flows.sweep import Sweep as Sweep
from liftflow.flows.sweep import sweep as sweep
from liftflow.flows.trajectory import Trajectory as Trajectory

__all__ = [
    "Comparison",
    "IntrinsicFlow",
    "ParameterFlow",
    "Sweep",
    "Trajectory",
    "compare",
    "sweep",
]
