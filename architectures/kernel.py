"""The former name of :mod:`liftflow.architectures.path_kernel`."""

from liftflow.architectures.path_kernel import ParameterKernel as ParameterKernel
