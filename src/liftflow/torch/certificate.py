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
    seen = inert.seen(theta)
    effect = 0.0
    if inert.count:
        along = np.abs(inert.matrix @ gradient) / (np.max(np.abs(gradient)) or 1.0)
        effect, row = float(np.max(along)), int(np.argmax(along))
        if effect > _TOLERANCE:
            owner = inert.owners[row]
            name = next(n for n in bench.names if owner in bench.places([n]))
            what = f"the gradient along an inert direction of {name}"
            raise ArchitectureError(_failure(what, effect), (name,))
    sums, sizes = graph.h.jvp(seen, gradient), graph.h.terms(seen, gradient)
    floor = 1e-6 * float(np.max(sizes, initial=0.0)) or 1.0
    residual = np.abs(sums) / np.maximum(sizes, floor)
    worst = int(np.argmax(residual)) if residual.size else -1
    conservation = float(residual[worst]) if residual.size else 0.0
    if not conservation <= _TOLERANCE:
        raise ArchitectureError(
            _failure(f"∂h·∇ℓ of {_shown(graph.members[worst])}", conservation),
            (graph.members[worst],),
        )
    del gradient
    logs = _SPREAD * rng.standard_normal(graph.n_channels)
    invariance = _change(bench, graph, inert, data, logs)
    if not invariance <= _TOLERANCE:
        layer = _breaking(bench, graph, inert, data, logs)
        raise ArchitectureError(
            _failure(f"the outputs under rescalings of the channels of {layer}", invariance),
            (layer,),
        )
    return Certificate(invariance, conservation, effect)


def _random(inputs: Any, rng: np.random.Generator) -> Any:
    return pytree.tree_map(lambda leaf: _random_like(leaf, rng), inputs)


def _loss(data: Any, rng: np.random.Generator) -> Callable[[torch.nn.Module], torch.Tensor]:
    """A random linear function of the outputs at these data."""

    def loss(module: torch.nn.Module) -> torch.Tensor:
        with same_randomness():
            outputs = [each for inputs in data for each in _floating(module(*inputs))]
        return sum((each * _random_like(each, rng)).sum() for each in outputs)

    return loss


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


def _failure(what: str, size: float) -> str:
    return (
        f"the import is not certified: {what} should vanish or stay, and is off by {size:.1e} of "
        f"its terms, where rounding leaves at most {_TOLERANCE:.0e}; an operation there was read "
        "wrongly, or the function depends on more than its inputs. opaque=[…] grounds channels; "
        "certified=False skips this check"
    )


def _shown(member: Hashable) -> str:
    return f"channel {member[1]} of {member[0]}" if isinstance(member, tuple) else str(member)


def _random_like(leaf: Any, rng: np.random.Generator) -> Any:
    if not isinstance(leaf, torch.Tensor) or leaf.dtype is torch.bool:
        return leaf
    if leaf.is_floating_point():
        return torch.from_numpy(rng.standard_normal(tuple(leaf.shape)))
    return leaf.flatten()[torch.from_numpy(rng.permutation(leaf.numel()))].reshape(leaf.shape)


def _floating(outputs: Any) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves(outputs)
    return [v for v in leaves if isinstance(v, torch.Tensor) and v.is_floating_point()]


def _outputs(bench: Workbench, data: Any) -> list[FloatArray]:
    with torch.no_grad(), same_randomness():
        return [each.numpy().copy() for inputs in data for each in _floating(bench.module(*inputs))]


def _change(
    bench: Workbench,
    graph: ChannelGraph,
    inert: Inert,
    data: Any,
    logs: FloatArray,
) -> float:
    """Largest relative change of an output by a rescaling."""
    before, theta = _outputs(bench, data), bench.theta.copy()
    # In place where there is nothing inert: of large modules there is memory for few copies.
    bench.put(inert.beside(lambda seen: graph.moved(seen, logs, bench.theta), theta))
    after = _outputs(bench, data)
    bench.put(theta)
    size = max((float(np.max(np.abs(each), initial=0.0)) for each in before), default=0.0)
    gaps = (np.max(np.abs(a - b), initial=0.0) for a, b in zip(before, after, strict=True))
    return float(max(gaps, default=0.0)) / (size or 1.0)


def _breaking(
    bench: Workbench,
    graph: ChannelGraph,
    inert: Inert,
    data: Any,
    logs: FloatArray,
) -> str:
    """Name the layer whose channels change the outputs most when they alone rescale."""
    layers = [str(m[0]) if isinstance(m, tuple) else str(m) for m in graph.members]
    changes = {
        layer: _change(bench, graph, inert, data, logs * (np.array(layers) == layer))
        for layer in dict.fromkeys(layers)
    }
    return max(changes, key=changes.__getitem__)
