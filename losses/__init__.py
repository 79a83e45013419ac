"""Losses: functions of the lifted variable z, and what they are in the parameter θ."""

from liftflow.losses.base import FunctionLoss, Loss, loss_from_function
from liftflow.losses.matrix import (
    attention_loss,
    least_squares_loss,
    matrix_completion_loss,
    matrix_sensing_loss,
)
from liftflow.losses.network import NetworkLoss
from liftflow.losses.parameter import ParameterLoss, loss_from_parameters

__all__ = [
    "FunctionLoss",
    "Loss",
    "NetworkLoss",
    "ParameterLoss",
    "attention_loss",
    "least_squares_loss",
    "loss_from_function",
    "loss_from_parameters",
    "matrix_completion_loss",
    "matrix_sensing_loss",
]
