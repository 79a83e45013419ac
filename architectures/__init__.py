"""What θ and φ are: architectures, their lifts and their conservation laws."""

from liftflow.architectures.base import Architecture as Architecture
from liftflow.architectures.paths import BasisPathChart as BasisPathChart
from liftflow.architectures.relu import ReLUNetwork as ReLUNetwork

__all__ = ["Architecture", "BasisPathChart", "ReLUNetwork"]
