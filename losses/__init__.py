"""Losses: functions of the lifted variable z, and what they are in the parameter θ."""

from liftflow.losses.base import FunctionLoss as FunctionLoss
from liftflow.losses.base import Loss as Loss
from liftflow.losses.base import loss_from_function as loss_from_function
from liftflow.losses.matrix import attention_loss as attention_loss
from liftflow.losses.matrix import least_squares_loss as least_squares_loss
from liftflow.losses.matrix import matrix_completion_loss as matrix_completion_loss
from liftflow.losses.matrix import matrix_sensing_loss as matrix_sensing_loss
from liftflow.losses.network import NetworkLoss as NetworkLoss

__all__ = [
    "FunctionLoss",
    "Loss",
    "NetworkLoss",
    "attention_loss",
    "least_squares_loss",
    "loss_from_function",
    "matrix_completion_loss",
    "matrix_sensing_loss",
]
