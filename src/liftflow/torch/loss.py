"""Losses of modules, by torch's autograd."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch.utils import _pytree as pytree

from liftflow.architectures import Architecture
from liftflow.errors import InputError, UndefinedError
from liftflow.linalg import over_batch
from liftflow.losses.base import Loss, as_samples
from liftflow.torch.network import TorchNetwork
from liftflow.typing import (
    Covector,
    FloatArray,
    IntArray,
    Lifted,
    OneTheta,
    Scalars,
    Tangent,
    Theta,
    as_array,
    as_function,
    as_instance,
    got,
)

_ALL_LOSSES = (
    "the laws of a module are those that all losses have: its channels do not tell what a single "
    "one conserves besides; leave loss= out, or write the module as a ReLUNetwork"
)


class TorchLoss(Loss, copies=False):
    """A function of the module as a loss: ℓ and ∇ℓ(θ) in float64, on the CPU.

    Parameters
    ----------
    network : TorchNetwork
        From :func:`from_torch`.
    function : callable
        Takes the module, which has the parameters θ, to one number, a tensor; with a loader, the
        module and a batch to the mean over the batch.
    loader : iterable, optional
        Of batches, such as a ``DataLoader`` without shuffling. ℓ is the mean over all of it, where
        a batch weighs as much as the first of its tensors is long. Its samples are those that
        ``GradientDescent(…, batch_size=…)`` draws from.

    Raises
    ------
    InputError
        No network, no function, or a module that drops units at random.

    Examples
    --------
    ``TorchLoss(network, lambda module: torch.nn.functional.mse_loss(module(x), y))``.
    """

    def __init__(
        self,
        network: TorchNetwork,
        function: Callable[..., Any],
        loader: Iterable[object] | None = None,
    ) -> None:
        self.network = as_instance(network, TorchNetwork, "network")
        self.function = as_function(function, "function", 1 if loader is None else 2)
        if isinstance(loader, Iterator) or not isinstance(loader, Iterable | None):
            raise InputError(
                "loader must be what can be gone through again and again, a DataLoader or a list "
                f"of batches, got {got(loader)}; list(loader) is one"
            )
        self.loader = loader
        if network.drops_units:
            raise InputError(
                "the module drops units at random, so that its loss is no function of θ; call "
                "module.eval(), or set p of its dropout to 0, before from_torch(module, …)"
            )

    def value(self, z: Lifted, near: OneTheta | None = None) -> Scalars:
        return self.parameter_value(z, self.network)

    def gradient(self, z: Lifted, near: OneTheta | None = None) -> Covector:
        return self.parameter_gradient(z, self.network)

    def parameter_value(self, theta: Theta, architecture: Architecture) -> Scalars:
        point = self._own(theta, architecture)
        bench = self.network.workbench

        def value(one: FloatArray) -> FloatArray:
            return sum(w * bench.value(f, one) for w, f in self._parts())

        return over_batch(value, [point], [1], shape=())

    def parameter_gradient(self, theta: Theta, architecture: Architecture) -> Tangent:
        point = self._own(theta, architecture)
        bench = self.network.workbench

        def gradient(one: FloatArray) -> FloatArray:
            if self.loader is None:
                return bench.value_and_gradient(self.function, one)[1]
            return sum(w * bench.value_and_gradient(f, one)[1] for w, f in self._parts())

        return over_batch(gradient, [point], [1])

    @cached_property
    def n_samples(self) -> int | None:  # type: ignore[override]
        """How many samples the loader yields."""
        return None if self.loader is None else sum(map(_length, self.loader))

    @cached_property
    def _samples(self) -> Any:
        """All of them as one batch: tensors as long as the first of theirs are joined."""
        batches = list(self.loader or ())
        sizes = list(map(_length, batches))

        def joined(*leaves: Any) -> Any:
            pairs = zip(leaves, sizes, strict=True)
            all_samples = all(torch.is_tensor(x) and x.shape[:1] == (size,) for x, size in pairs)
            return torch.cat(leaves) if all_samples else leaves[0]

        return pytree.tree_map(joined, *batches)

    def batch(self, indices: IntArray | Sequence[int]) -> "TorchLoss":
        if self.loader is None:
            raise InputError(
                "without a loader a TorchLoss is no mean over samples; it is one as "
                "TorchLoss(network, function, loader), where function takes the module and a batch"
            )
        rows, size = torch.from_numpy(as_samples(indices, self)), self.n_samples

        def chosen(leaf: Any) -> Any:
            return leaf[rows] if torch.is_tensor(leaf) and leaf.shape[:1] == (size,) else leaf

        return TorchLoss(self.network, self.function, [pytree.tree_map(chosen, self._samples)])

    def excited(self, architecture: Architecture) -> FloatArray:
        """Refuse: the coordinates of z do not tell which laws this loss has besides.

        Raises
        ------
        UndefinedError
            Always.
        """
        raise UndefinedError(_ALL_LOSSES)

    def _own(self, theta: Any, architecture: Any) -> FloatArray:
        if architecture is not self.network:
            raise InputError("this loss belongs to another network; make one for each")
        return as_array(theta, "theta", (self.network.dim,), differentiable=False)

    def _parts(self) -> list[tuple[float, Callable[[Any], Any]]]:
        if self.loader is None:
            return [(1.0, self.function)]
        batches = list(self.loader)
        sizes = [_length(batch) for batch in batches]
        total = float(sum(sizes))
        if not total:
            raise InputError("the loader yields no samples")

        def part(batch: object) -> Callable[[Any], Any]:
            return lambda module: self.function(module, batch)

        return [(n / total, part(b)) for n, b in zip(sizes, batches, strict=True)]


def _length(batch: Any) -> int:
    tensors = [t for t in pytree.tree_leaves(batch) if isinstance(t, torch.Tensor) and t.ndim]
    if not tensors:
        raise InputError(f"a batch of the loader must hold a tensor, got {got(batch)}")
    return len(tensors[0])
