"""Checks of an import on numbers: the function is invariant and the laws are conserved."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from liftflow.architectures import ChannelGraph
from liftflow.errors import ArchitectureError
from liftflow.linalg import row_sizes
from liftflow.torch.inert import Inert
from liftflow.torch.trace import tensors_in
from liftflow.torch.workbench import Workbench, same_randomness
from liftflow.typing import FloatArray, OneTheta, Rng, as_rng

_TOLERANCE = 1e-8
"""Most that rounding in float64 may leave of what cancels, relative to its terms."""

_INDEPENDENT = 1e-11  # least singular value of what spans a direction, beside the largest

_SPREAD = 0.2  # of the logarithms of random rescalings
_DRAWS = 8  # of random inputs; large modules get one
_LARGE = 10**6  # parameters


@dataclass(frozen=True)
class Certificate:
    """What the checks of an import found.

    Attributes
    ----------
    invariance : float
        Largest change of an output by a random rescaling of all channels, relative to the outputs.
    conservation : float
        Largest |∂h_c·∇ℓ| of a channel c at random data, relative to the terms of that sum.
    effect : float
        Largest slope along a direction without effect, relative to the largest of all.
    """

    invariance: float
    conservation: float
    effect: float = 0.0


def certify(
    bench: Workbench,
    graph: ChannelGraph,
    inert: Inert,
    inputs: tuple[Any, ...],
    rng: Rng = 0,
) -> Certificate:
    """Check the channels of a module on random data, in float64.

    Parameters
    ----------
    bench : Workbench
        With the parameters of the graph laid out, where to look.
    inputs : tuple
        An example; floating tensors are replaced by random ones, integers change places.
    inert : Inert
        Directions without effect.

    Raises
    ------
    ArchitectureError
        A check fails: names the layer.
    """
    rng, theta = as_rng(rng), bench.theta
    draws = 1 if theta.size > _LARGE else _DRAWS
    data = [_random(inputs, rng) for _ in range(draws)]
    _, gradient = bench.value_and_gradient(_loss(data, rng), theta)
    effect = 0.0
    if inert.count:
        along = np.abs(inert.matrix @ gradient) / (np.max(np.abs(gradient)) or 1.0)
        effect, row = float(np.max(along)), int(np.argmax(along))
        if effect > _TOLERANCE:
            owner = inert.owners[row]
            name = next(n for n in bench.names if owner in bench.places([n]))
            raise _uncertified(f"the gradient along an inert direction of {name}", effect, name)
    seen, conservation = inert.seen(theta), 0.0
    if graph.n_channels:
        sums, sizes = graph.h.jvp(seen, gradient), graph.h.terms(seen, gradient)
        residual = np.abs(sums) / np.maximum(sizes, 1e-6 * float(np.max(sizes)) or 1.0)
        worst: Any = graph.members[int(np.argmax(residual))]
        conservation = float(np.max(residual))
        if not conservation <= _TOLERANCE:
            what = f"∂h·∇ℓ of channel {worst[1]} of {worst[0]}"
            raise _uncertified(what, conservation, worst)
    del gradient, seen
    with torch.no_grad():
        before = [each.numpy().copy() for each in _outputs(bench.module, data)]

    def change(logs: FloatArray) -> float:
        """Largest relative change of an output by a rescaling."""
        start = theta.copy()
        # In place where there is nothing inert: of large modules there is memory for few copies.
        bench.put(inert.beside(lambda seen: graph.moved(seen, logs, theta), start))
        with torch.no_grad():
            pairs = list(
                zip(before, map(torch.Tensor.numpy, _outputs(bench.module, data)), strict=True)
            )
        gap = max((float(np.max(np.abs(a - b), initial=0.0)) for a, b in pairs), default=0.0)
        bench.put(start)
        return gap / (
            max((float(np.max(np.abs(a), initial=0.0)) for a, _ in pairs), default=0.0) or 1.0
        )

    logs = _SPREAD * rng.standard_normal(graph.n_channels)
    invariance = change(logs)
    if not invariance <= _TOLERANCE:
        members: Any = graph.members
        layers = np.array([name for name, _ in members])
        layer = max(dict.fromkeys(layers.tolist()), key=lambda own: change(logs * (layers == own)))
        what = f"the outputs under rescalings of the channels of {layer}"
        raise _uncertified(what, invariance, layer)
    return Certificate(invariance, conservation, effect)


def _random(values: Any, rng: np.random.Generator) -> Any:
    """Draw floating tensors anew, and let integers change places, wherever they are nested."""

    def drawn(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or leaf.dtype is torch.bool:
            return leaf
        if leaf.is_floating_point():
            return torch.from_numpy(rng.standard_normal(tuple(leaf.shape)))
        return leaf.flatten()[torch.from_numpy(rng.permutation(leaf.numel()))].reshape(leaf.shape)

    return pytree.tree_map(drawn, values)


def _outputs(module: torch.nn.Module, data: Any) -> list[torch.Tensor]:
    with same_randomness():
        outputs = [each for inputs in data for each in tensors_in(module(*inputs))]
    return [each for each in outputs if each.is_floating_point()]


def _loss(data: Any, rng: np.random.Generator) -> Callable[[torch.nn.Module], torch.Tensor]:
    """A random linear function of the outputs at these data."""
    return lambda module: sum(
        ((each * _random(each, rng)).sum() for each in _outputs(module, data)), torch.zeros(())
    )


def span_of_gradients(
    bench: Workbench, inputs: tuple[Any, ...], theta: OneTheta, count: int, rng: Rng
) -> int:
    """Count the dimensions that gradients of random losses at random data span, at one θ.

    Never more than D less the number of laws, up to rounding; less, too, where a unit is dead or
    never off.

    Parameters
    ----------
    count : int
        Of gradients.
    """
    rng = as_rng(rng)
    losses = (_loss([_random(inputs, rng)], rng) for _ in range(count))
    rows = np.array([bench.value_and_gradient(loss, theta)[1] for loss in losses])
    singular = np.linalg.svd(rows / row_sizes(rows)[:, None], compute_uv=False)
    return int(np.sum(singular > _INDEPENDENT * singular[0]))


def _uncertified(what: str, size: float, culprit: Hashable) -> ArchitectureError:
    return ArchitectureError(
        f"the import is not certified: {what} should vanish or stay, and is off by {size:.1e} of "
        f"its terms, where rounding leaves at most {_TOLERANCE:.0e}; an operation there was read "
        "wrongly, or the function depends on more than its inputs. opaque=[…] grounds channels; "
        "certified=False skips this check",
        (culprit,),
    )
