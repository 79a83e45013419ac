"""A copy of a module whose parameters are one flat vector of float64."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from liftflow.errors import ArchitectureError, InputError
from liftflow.linalg import Spare
from liftflow.typing import FloatArray, IntArray, got


def in_double(values: object) -> Any:
    """Turn floating tensors into float64, on the CPU, wherever they are nested."""

    def cast(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        leaf = leaf.detach().cpu()
        return leaf.double() if leaf.is_floating_point() else leaf

    return pytree.tree_map(cast, values)


def as_inputs(example_inputs: object) -> tuple[Any, ...]:
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
            raise InputError(f"module must be a torch.nn.Module, got {got(module)}")
        named = dict(module.named_parameters())
        _refuse_unfit(module)
        if not any(p.requires_grad for p in named.values()):
            raise ArchitectureError("no parameter of the module trains")
        self.dtypes = {name: p.dtype for name, p in named.items()}
        # Parameters that train are not copied here: their places are empty until they are laid out.
        memo = {
            id(p): torch.nn.Parameter(torch.empty(0)) for p in named.values() if p.requires_grad
        }
        self.template = copy.deepcopy(module, dict(memo))
        self._eps = eps
        self._values = {n: p.detach() for n, p in named.items() if p.requires_grad}
        self._assemble(list(self._values))

    def _assemble(self, names: Sequence[str]) -> None:
        self.module = copy.deepcopy(self.template)
        for part in self.module.modules():
            if isinstance(part, torch.nn.modules.batchnorm._NormBase):
                part.momentum = 0.0  # statistics of training are not updated by looking
                part.eps = self._eps if self._eps is not None and part.training else part.eps
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.double()
            tensor.data = tensor.data.cpu()
        self.module.register_forward_pre_hook(
            lambda own, args, kwargs: (in_double(args), in_double(kwargs)), with_kwargs=True
        )
        self._spare = Spare()
        self.lay_out(names)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and copy the module that was read, and the numbers that are laid out."""
        now = dict(self.module.named_parameters())
        values = {name: now[name].detach().clone() for name in self._values}
        kept = ("template", "dtypes", "names", "_eps")
        return {**{name: getattr(self, name) for name in kept}, "_values": values}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Lay the numbers out again."""
        vars(self).update(state)
        self._assemble(self.names)

    def lay_out(self, names: Sequence[str]) -> None:
        """Let θ consist of these parameters, in this order; the others keep their values."""
        self.names, parameters = list(names), dict(self.module.named_parameters())
        self.shapes = {name: tuple(self._values[name].shape) for name in self.names}
        self.flat = torch.empty(sum(map(math.prod, self.shapes.values())), dtype=torch.float64)
        own = self.parts(self.theta)
        for name, value in self._values.items():
            place = torch.from_numpy(own[name]) if name in own else value.double().cpu().clone()
            parameters[name].data = place.copy_(value)

    def places(self, names: Sequence[str]) -> IntArray:
        """Return which entries of θ parameters of one size are, one row each."""
        parts = self.parts(np.arange(self.flat.numel()))
        return np.array([parts[name].ravel() for name in names])

    def parts(self, vector: FloatArray) -> dict[str, FloatArray]:
        """Take a vector like θ apart, [..., dim], by the names of the parameters: views."""
        cuts = np.cumsum([math.prod(shape) for shape in self.shapes.values()])[:-1]
        lead, shapes = vector.shape[:-1], self.shapes.items()
        parts = np.split(vector, cuts, axis=-1)
        return {n: part.reshape((*lead, *s)) for (n, s), part in zip(shapes, parts, strict=True)}

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
        gradient = self._spare.empty(self.flat.numel())
        gradient.fill(0.0)
        parameters = dict(module.named_parameters())
        for name, part in self.parts(gradient).items():
            parameters[name].grad = torch.from_numpy(part)
        try:
            with torch.enable_grad():
                value = _scalar(function(module))
                if value.requires_grad:
                    value.backward()
                if not gradient[:1].any() and not gradient.any() and not self._is_seen(function):
                    raise InputError(
                        "the function returns what does not depend on the parameters of the module "
                        "that it is given: a constant, a detached tensor or another module's output"
                    )
        finally:
            for parameter in parameters.values():
                parameter.grad = None
        return float(value.detach()), gradient

    def _is_seen(self, function: Callable[[torch.nn.Module], Any]) -> bool:
        """Whether any parameter that is laid out has a part in the graph of a function."""
        value = _scalar(function(self.module))
        own = [p for n, p in self.module.named_parameters() if n in self.shapes]
        slopes = torch.autograd.grad(value, own, allow_unused=True) if value.requires_grad else ()
        return any(slope is not None for slope in slopes)


def _refuse_unfit(module: torch.nn.Module) -> None:
    """Refuse modules that cannot be copied to float64 and followed."""
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError("TorchScript cannot be followed; pass the module that it was made from")
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
            raise InputError(f"{name} has no shape yet; run the module once on an example first")
        if tensor.is_meta:
            raise InputError(
                f"{name} is on the meta device and has no numbers; make the module on the CPU, or "
                "call to_empty(device='cpu') and load a state_dict"
            )
        if tensor.is_complex():
            raise InputError(f"{name} is complex, of {tensor.dtype}; real modules alone are read")


def _scalar(value: object) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        what = got(value)
    elif value.numel() != 1 or not value.is_floating_point():
        what = f"{value.dtype} of shape {tuple(value.shape)}"
    else:
        return value.reshape(())
    raise InputError(
        "the function of a module must return one number, a real tensor as torch computes it, "
        f"not an .item() of it; got {what}"
    )


@contextmanager
def same_randomness(seed: int = 0) -> Iterator[None]:
    """Let torch draw the same numbers each time, and leave its generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
