"""A copy of a module whose parameters are one flat vector of float64."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from liftflow.errors import InputError
from liftflow.typing import FloatArray


def in_double(values: Any) -> Any:
    """Turn floating tensors into float64, on the CPU, wherever they are nested."""

    def cast(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        leaf = leaf.detach().cpu()
        return leaf.double() if leaf.is_floating_point() else leaf

    return pytree.tree_map(cast, values)


def as_inputs(example_inputs: Any) -> tuple[Any, ...]:
    """Take one input or a tuple or list of them as the positional arguments of a module."""
    return tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)


class Workbench:
    """A module in float64 on which θ is laid out, and from which ∇ℓ(θ) is read.

    The user's module is copied and never touched. Inputs of any floating type are taken.

    Parameters
    ----------
    module : torch.nn.Module
        In the mode, training or evaluation, in which it is to be looked at.
    eps : float, optional
        Instead of that of its batch norms in training mode.
    """

    def __init__(self, module: torch.nn.Module, eps: float | None = None) -> None:
        if not isinstance(module, torch.nn.Module):
            raise InputError(f"module must be a torch.nn.Module, got {type(module).__name__}")
        named = dict(module.named_parameters())
        self.dtypes = {name: p.dtype for name, p in named.items()}
        # Parameters that train are not copied here: their places are empty until they are laid out.
        memo = {
            id(p): torch.nn.Parameter(torch.empty(0)) for p in named.values() if p.requires_grad
        }
        self.template = copy.deepcopy(module, dict(memo))
        self._values = {n: p.detach() for n, p in named.items() if p.requires_grad}
        self.module = copy.deepcopy(self.template)
        for part in self.module.modules():
            if isinstance(part, torch.nn.modules.batchnorm._NormBase):
                part.momentum = 0.0  # statistics of training are not updated by looking
                part.eps = eps if eps is not None and part.training else part.eps
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.double()
            tensor.data = tensor.data.cpu()
        self.module.register_forward_pre_hook(
            lambda own, args, kwargs: (in_double(args), in_double(kwargs)), with_kwargs=True
        )
        self.names: list[str] = []
        self.lay_out(self._values)

    def lay_out(self, names: Sequence[str] | dict[str, Any]) -> None:
        """Let θ consist of these parameters, in this order; the others keep their values."""
        parameters = dict(self.module.named_parameters())
        values = {
            n: (parameters[n].detach() if n in self.names else self._values[n])
            for n in self._values
        }
        self.names = list(names)
        self.shapes = {name: tuple(values[name].shape) for name in self.names}
        flat = torch.empty(sum(map(math.prod, self.shapes.values())), dtype=torch.float64)
        self.flat, start = flat, 0
        for name, value in values.items():
            if name not in self.names:
                parameters[name].data = value.double().cpu().clone()
                parameters[name].grad = None
        for name in self.names:
            part = flat[start : start + values[name].numel()].view(values[name].shape)
            part.copy_(values[name])
            parameters[name].grad, parameters[name].data = None, part
            start += part.numel()

    @property
    def theta(self) -> FloatArray:
        """The numbers that are laid out, which are not copied."""
        return self.flat.numpy()

    def put(self, theta: FloatArray) -> torch.nn.Module:
        """Lay θ out, and return the module."""
        np.copyto(self.flat.numpy(), theta)
        return self.module

    def value(self, function: Callable[[torch.nn.Module], Any], theta: FloatArray) -> float:
        """Evaluate a function of the module at θ."""
        with torch.no_grad():
            return float(_scalar(function(self.put(theta))))

    def value_and_gradient(
        self, function: Callable[[torch.nn.Module], Any], theta: FloatArray
    ) -> tuple[float, FloatArray]:
        """Evaluate a function of the module and its gradient at θ, by torch's autograd.

        Returns
        -------
        value : float
        gradient : array, shape=[dim]
            The caller's own.
        """
        module = self.put(theta)
        gradient, start = torch.zeros_like(self.flat), 0
        parameters = dict(module.named_parameters())
        for name, shape in self.shapes.items():
            stop = start + math.prod(shape)
            parameters[name].grad = gradient[start:stop].view(shape)
            start = stop
        with torch.enable_grad():
            value = _scalar(function(module))
            value.backward()
        for parameter in parameters.values():
            parameter.grad = None
        return float(value.detach()), gradient.numpy()


def _scalar(value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        what = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise InputError(f"the function of a module must return one number, a tensor, got {what}")
    return value.reshape(())


@contextmanager
def same_randomness(seed: int = 0) -> Iterator[None]:
    """Let torch draw the same numbers each time, and leave its generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
