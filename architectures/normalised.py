"""Scale-invariant weights: batch norm, weight norm, and layer norm without gain."""

import math
from collections.abc import Sequence
from itertools import pairwise

import autograd.numpy as anp
import numpy as np

from liftflow.architectures.base import Architecture
from liftflow.architectures.channels import ChannelGraph
from liftflow.architectures.dag import CompiledDAG
from liftflow.architectures.product import ProductArchitecture
from liftflow.architectures.recovery import refuse_beside_image
from liftflow.architectures.relu import ReLUNetwork
from liftflow.doors import door
from liftflow.errors import InputError, NotRecoverableError
from liftflow.linalg import ROUNDING, over_batch
from liftflow.typing import (
    Covector,
    FloatArray,
    Inputs,
    Jacobian,
    Laws,
    Lifted,
    LiftedTangent,
    Numbers,
    OneTheta,
    Rng,
    Scalars,
    Tangent,
    Theta,
    as_array,
    as_count,
    as_ordered,
    as_rng,
    refuse_beyond,
    untraced,
)

_ON_IMAGE = 1e-6
"""Largest distance of a z from the spheres at which a parameter is recovered."""


def _polar(groups: Numbers) -> tuple[Numbers, Numbers]:
    """Directions and lengths of groups, shape=[..., n_groups, :, :]."""
    largest = np.max(np.abs(untraced(groups)), axis=(-2, -1), keepdims=True, initial=0.0)
    if not np.all(largest):
        raise NotRecoverableError(
            f"group {int(np.argwhere(largest == 0)[0][-3])} of weights is zero, so it has no "
            "direction; start from nonzero weights"
        )
    groups = groups / largest  # so that no square under- or overflows
    size = anp.sqrt(anp.sum(groups**2, axis=(-2, -1), keepdims=True))
    return groups / size, size * largest


def _turned(groups: Numbers, vector: Numbers, power: float = -1.0) -> Numbers:
    """Project onto the tangent spaces of the spheres, times a power of their radii."""
    unit, radius = _polar(groups)
    along = anp.sum(unit * vector, axis=(-2, -1), keepdims=True)
    return radius**power * (vector - unit * along)


class ScaleInvariant(Architecture):
    r"""Weights in groups of which only the directions count, :math:`φ = (w_c / ‖w_c‖)_c`.

    A unit whose input is standardised, by batch norm in training mode or by weight norm, does not
    see the length of its weights: its group is what it reads from. Layer norm standardises over
    its outputs, so that all of its weights are one group, and that their mean over the outputs is
    not seen either.

    With :math:`u_c = φ_c` the laws are :math:`‖w_c‖^2`, and :math:`M = (I − u_c u_c^\top)/‖w_c‖^2`
    on each group: the image is a product of spheres of radius :math:`‖w_c‖`. Where groups are
    centred, :math:`φ = Pw / ‖Pw‖` with P what takes away the mean over the first axis, and the sums
    over that axis are laws as well.

    Parameters
    ----------
    n_groups : int
        Number of groups, such as the units of a layer or the filters of a convolution.
    group_shape : int or tuple of int
        Shape of one group, such as (channels, height, width).
    centred : bool
        Whether the mean over the first axis of a group is not seen, as by layer norm.

    References
    ----------
    Laws of scale-invariant weights: [Kunin2021]_; their intrinsic metric is ours.

    Examples
    --------
    >>> from liftflow.architectures import ScaleInvariant
    >>> weights = ScaleInvariant(2, 2)
    >>> print(weights.lift([3.0, 4.0, 0.0, 5.0]).tolist())
    [[0.6, 0.8], [0.0, 1.0]]
    >>> layer_norm = ScaleInvariant(1, (4, 3), centred=True)
    >>> layer_norm.dim, layer_norm.n_laws
    (12, 4)
    """

    @door
    def __init__(
        self, n_groups: int, group_shape: int | tuple[int, ...], centred: bool = False
    ) -> None:
        self.n_groups = as_count(n_groups, "n_groups", 1)
        sizes = group_shape if isinstance(group_shape, tuple) else (group_shape,)
        self.group_shape = tuple(as_count(size, "a size of a group", 1) for size in sizes)
        self.centred = bool(centred)
        outputs, *others = self.group_shape or (1,)
        self._split = outputs, math.prod(others)
        hidden = 1 + (self._split[1] if self.centred else 0)
        if math.prod(self._split) <= hidden:
            raise InputError(
                f"groups of shape {self.group_shape} have no direction that can turn; "
                f"more than {hidden} weights are needed in each"
            )
        shape = (self.n_groups, *self.group_shape)
        super().__init__(math.prod(shape), shape, self.n_groups * hidden, [shape])

    def _facts(self) -> str:
        centred = ", centred=True" if self.centred else ""
        return f"{self.n_groups}, {self.group_shape}{centred}"

    # Arrays in groups, shape=[..., n_groups, outputs, others].

    def _grouped(self, array: Numbers, n_axes: int) -> Numbers:
        """An array of θ, or of z, in groups."""
        lead = array.shape[: array.ndim - n_axes]
        return anp.reshape(array, (*lead, self.n_groups, *self._split))

    def _as_theta(self, groups: Numbers) -> Numbers:
        return anp.reshape(groups, (*groups.shape[:-3], self.dim))

    def _as_lifted(self, groups: Numbers) -> Numbers:
        return anp.reshape(groups, (*groups.shape[:-3], *self.lifted_shape))

    @property
    def _axes(self) -> int:
        return len(self.lifted_shape)

    def _centre(self, groups: Numbers) -> Numbers:
        return groups - anp.mean(groups, axis=-2, keepdims=True) if self.centred else groups

    def _polar(self, groups: Numbers) -> tuple[Numbers, Numbers]:
        """Direction and length of what is seen of each group."""
        return _polar(self._centre(groups))

    def _turned(self, groups: Numbers, vector: Numbers, power: float) -> Numbers:
        """Project onto the tangent spaces of the spheres, times a power of their radii."""
        return _turned(self._centre(groups), self._centre(vector), power)

    # The lift.

    def lift(self, theta: Theta) -> Lifted:
        """Evaluate the directions of the groups."""
        return self._as_lifted(self._polar(self._grouped(self._theta(theta), 1))[0])

    def lift_jvp(self, theta: Theta, tangent: Tangent) -> LiftedTangent:
        theta, tangent = self._theta(theta), self._theta(tangent, "tangent")
        return self._as_lifted(self._turned(self._grouped(theta, 1), self._grouped(tangent, 1), -1))

    def lift_vjp(self, theta: Theta, covector: Covector) -> Tangent:
        theta, form = self._theta(theta), self._lifted(covector, "covector")
        form = self._grouped(form, self._axes)
        return self._as_theta(self._turned(self._grouped(theta, 1), form, -1))

    def solve_jvp(self, theta: Theta, lifted_tangent: LiftedTangent) -> Tangent:
        theta = self._theta(theta, differentiable=False)
        vector = self._grouped(self._lifted(lifted_tangent, "vector", False), self._axes)
        return self._as_theta(self._turned(self._grouped(theta, 1), vector, 1))

    def solve_vjp(self, theta: Theta, covector: Tangent) -> Covector:
        theta = self._theta(theta, differentiable=False)
        vector = self._grouped(self._theta(covector, "covector", False), 1)
        return self._as_lifted(self._turned(self._grouped(theta, 1), vector, 1))

    def project_to_range(self, theta: Theta, lifted_vec: LiftedTangent) -> LiftedTangent:
        theta = self._theta(theta, differentiable=False)
        vector = self._grouped(self._lifted(lifted_vec, "vector", False), self._axes)
        return self._as_lifted(self._turned(self._grouped(theta, 1), vector, 0))

    def lift_rank(self, theta: OneTheta) -> int:
        self._polar(self._grouped(self._one_theta(theta), 1))
        return self.dim - self.n_laws

    def project_to_image(self, z: Lifted, *, near: Theta | None = None) -> Lifted:
        """Scale every group to length 1; nothing is iterated."""
        groups = self._grouped(self._lifted(z, differentiable=False), self._axes)
        return self._as_lifted(self._polar(groups)[0])

    # The laws.

    def conservation_laws(self, theta: Theta) -> Laws:
        """Evaluate the squared lengths, and the sums where groups are centred."""
        groups = self._grouped(self._theta(theta), 1)
        return self._as_laws(anp.sum(groups**2, axis=(-2, -1)), groups)

    def _as_laws(self, squares: Numbers, groups: Numbers) -> Numbers:
        if not self.centred:
            return squares
        sums = anp.sum(groups, axis=-2)
        sums = anp.reshape(sums, (*sums.shape[:-2], self.n_laws - self.n_groups))
        return anp.concatenate([squares, sums], axis=-1)

    def laws_jvp(self, theta: Theta, tangent: Tangent) -> Laws:
        groups = self._grouped(self._theta(theta), 1)
        vector = self._grouped(self._theta(tangent, "tangent") + 0.0 * self._theta(theta), 1)
        return self._as_laws(2 * anp.sum(groups * vector, axis=(-2, -1)), vector)

    def laws_size(self, theta: Theta, tangent: Tangent | None = None) -> Laws:
        groups = np.abs(self._grouped(self._theta(theta, differentiable=False), 1))
        if tangent is None:
            return self._as_laws(np.sum(groups**2, axis=(-2, -1)), groups)
        vector = np.abs(self._theta(tangent, "tangent", differentiable=False))
        vector = self._grouped(vector + 0.0 * theta, 1)
        return self._as_laws(2 * np.sum(groups * vector, axis=(-2, -1)), vector)

    def laws_rank(self, theta: OneTheta) -> int:
        return self.dim - self.lift_rank(theta)

    def project_to_tangent(self, theta: Theta, vector: Tangent) -> Tangent:
        theta, vector = self._theta(theta), self._theta(vector, "vector")
        return self._as_theta(self._turned(self._grouped(theta, 1), self._grouped(vector, 1), 0))

    def solve_laws_jvp(self, theta: Theta, laws_tangent: Laws) -> Tangent:
        groups = self._grouped(self._theta(theta, differentiable=False), 1)
        squares, sums = self._parts(self._laws(laws_tangent, "laws_tangent"))
        unit, radius = self._polar(groups)
        shift = sums / self._split[0]
        other = np.sum(groups * shift, axis=(-2, -1), keepdims=True)
        return self._as_theta(shift + unit * (squares / 2 - other) / radius)

    def _parts(self, laws: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Squares and sums, to be broadcast against groups."""
        squares = laws[..., : self.n_groups, None, None]
        if not self.centred:
            return squares, np.zeros((1, 1))
        lead = laws.shape[:-1]
        sums = laws[..., self.n_groups :].reshape((*lead, self.n_groups, 1, self._split[1]))
        return squares, sums

    # Points.

    def recover(self, z: Lifted, laws: Laws, *, near: Theta | None = None) -> Theta:
        """Recover the weights, directions times lengths; nothing is iterated.

        Raises
        ------
        NotOnImageError
            Lengths in z are not 1: says by how much.
        NotRecoverableError
            No weights have these laws.
        """
        groups = self._grouped(self._lifted(z, differentiable=False), self._axes)
        unit, size = self._polar(groups)
        gaps = np.abs(size - 1.0), np.abs(groups - size * unit)
        off = max(float(np.max(gap, initial=0.0)) for gap in gaps)
        refuse_beside_image(off, _ON_IMAGE, ": off the spheres by")
        return self._at(unit, self._laws(laws))

    def _at(self, unit: FloatArray, laws: FloatArray) -> FloatArray:
        """The point of these directions and laws."""
        radius, mean = self._spheres(laws)
        return np.asarray(self._as_theta(radius * unit + mean))

    def _spheres(self, laws: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Radius and centre of the sphere that the laws leave of each group."""
        squares, sums = self._parts(laws)
        mean = sums / self._split[0]
        left = squares - self._split[0] * np.sum(mean**2, axis=(-2, -1), keepdims=True)
        if not np.all(left > 0):
            raise NotRecoverableError(
                f"no weights have these laws: a group would have the squared length "
                f"{float(np.min(left)):.3g}, which must be positive"
            )
        return np.sqrt(left), mean

    def project_to_laws(self, theta: Theta, laws: Laws, *, max_steps: int = 50) -> Theta:
        """Scale the groups until the laws have these values; z stays as it is."""
        groups = self._grouped(self._theta(theta, differentiable=False), 1)
        return self._at(self._polar(groups)[0], self._laws(laws))

    def fibre_point(self, theta: Theta, rng: Rng = None) -> Theta:
        """Rescale every group by a random factor, standard normal in its logarithm."""
        theta = self._theta(theta, differentiable=False)
        logs = as_rng(rng).standard_normal((*theta.shape[:-1], self.n_groups, 1, 1))
        return self._as_theta(np.exp(logs) * self._grouped(theta, 1))

    def radii(self, laws: Laws) -> Scalars:
        """Radii of the spheres that the laws leave, shape=[..., n_groups].

        Raises
        ------
        NotRecoverableError
            No weights have these laws.
        """
        return self._spheres(self._laws(laws))[0][..., 0, 0]


class GainedDirections(Architecture):
    r"""Gains, shifts and weights between two layers with batch norm, :math:`φ = (u_o / ‖u_o‖)_o`.

    Unit o of the second layer sees :math:`u_o = (γ_c W_{oc}, β_c W_{oc})_c`, as ReLUs are
    homogeneous, and not its length. So the laws are :math:`γ_c^2 + β_c^2 − \sum_o W_{oc}^2` and
    :math:`‖W_o‖^2`, those of a :class:`ChannelGraph` with a channel for each unit of both layers.

    Parameters
    ----------
    n_inputs, n_units : int
        Numbers of units of the first layer and of the second.

    References
    ----------
    Ours.

    Examples
    --------
    >>> from liftflow.architectures import GainedDirections
    >>> layer = GainedDirections(2, 3)
    >>> layer.dim, layer.n_laws, layer.lifted_shape
    (10, 5, (3, 2, 2))
    """

    @door
    def __init__(self, n_inputs: int, n_units: int) -> None:
        n_inputs, n_units = as_count(n_inputs, "n_inputs", 1), as_count(n_units, "n_units", 1)
        refuse_beyond(2 * n_inputs * n_units, "the directions of a layer")
        self.n_inputs, self.n_units = n_inputs, n_units
        first, second = np.arange(n_inputs), n_inputs + np.arange(n_units)
        self.graph = ChannelGraph(
            np.concatenate([np.full(2 * n_inputs, -1), np.tile(first, n_units)]),
            np.concatenate([first, first, np.repeat(second, n_inputs)]),
            n_inputs + n_units,
        )
        shapes = [(n_inputs,), (n_inputs,), (n_units, n_inputs)]
        super().__init__(self.graph.dim, (n_units, 2, n_inputs), n_inputs + n_units, shapes)

    def _facts(self) -> str:
        return f"{self.n_inputs}, {self.n_units}"

    def _parts(self, theta: Theta) -> tuple[Numbers, Numbers]:
        """Gains and shifts, shape=[..., 1, 2, n_inputs], and weights, [..., n_units, 1, n_inputs].

        What the units see is their product.
        """
        gains, shifts, weights = self._unpack(theta)
        return anp.stack([gains, shifts], axis=-2)[..., None, :, :], weights[..., None, :]

    def lift(self, theta: Theta) -> Lifted:
        """Evaluate the directions that the units see."""
        both, weights = self._parts(self._theta(theta))
        return _polar(both * weights)[0]

    def lift_jvp(self, theta: Theta, tangent: Tangent) -> LiftedTangent:
        both, weights = self._parts(self._theta(theta))
        other, moved = self._parts(self._theta(tangent, "tangent"))
        return _turned(both * weights, other * weights + both * moved)

    def lift_vjp(self, theta: Theta, covector: Covector) -> Tangent:
        both, weights = self._parts(self._theta(theta))
        form = _turned(both * weights, self._lifted(covector, "covector"))
        gains = anp.sum(form * weights, axis=-3)
        rows = anp.sum(form * both, axis=-2)
        return self._pack([gains[..., 0, :], gains[..., 1, :], rows])

    def conservation_laws(self, theta: Theta) -> Laws:
        """Evaluate the laws of the channels."""
        return self.graph.laws(theta)

    def laws_jvp(self, theta: Theta, tangent: Tangent) -> Laws:
        return self.graph.laws_jvp(theta, tangent)

    def conservation_laws_jacobian(self, theta: Theta) -> Jacobian:
        return self.graph.laws_jacobian(theta)

    def project_to_image(self, z: Lifted, *, near: Theta | None = None) -> Lifted:
        """Take what is nearest of rank one of each input, then directions; nothing is iterated."""
        z = self._lifted(z, differentiable=False)
        columns, both = self._columns(z)
        return np.asarray(_polar(np.moveaxis(columns @ both * both[..., None, :, 0], -3, -1))[0])

    def _columns(self, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What is seen of each input, and its main direction.

        Returns
        -------
        columns : array, shape=[..., n_inputs, n_units, 2]
        both : array, shape=[..., n_inputs, 2, 1]
        """
        columns = np.moveaxis(z, -1, -3)
        return columns, np.linalg.svd(columns, full_matrices=False)[2][..., 0, :, None]

    def recover(self, z: Lifted, laws: Laws, *, near: Theta | None = None) -> Theta:
        """Recover the parameters: any with these directions, then their rescaling.

        Without ``near`` gains are positive.

        Raises
        ------
        NotOnImageError
            No parameters have these directions; says by how much.
        """
        arrays = [self._lifted(z, differentiable=False), self._laws(laws)]
        if near is not None:
            arrays.append(self._theta(near, "near", False))
        return over_batch(self._recovered, arrays, [3, 1, 1][: len(arrays)], shape=(self.dim,))

    def _recovered(
        self, z: FloatArray, laws: FloatArray, near: FloatArray | None = None
    ) -> FloatArray:
        columns, directions = self._columns(z)
        both, known = directions[..., 0], near is not None
        gains, shifts, rows = self._unpack(
            near if known else np.repeat([1.0, 0.0, 1.0], [math.prod(s) for s in self.block_shapes])
        )
        start = np.stack([gains, shifts], axis=-1)
        both = both * np.where(np.sum(both * start, axis=1, keepdims=True) < 0, -1.0, 1.0)
        weights = np.einsum("cok,ck->oc", columns, both)
        theta = np.asarray(self._pack([*both.T, weights]))
        off = float(np.max(np.abs(self.lift(theta) - z)))
        refuse_beside_image(off, _ON_IMAGE, ": off by")
        sizes, lengths = np.linalg.norm(start, axis=1), np.linalg.norm(rows, axis=1)
        if known and np.all(sizes) and np.all(lengths):  # start with the lengths that are near
            weights = weights / sizes
            weights *= (lengths / np.linalg.norm(weights, axis=1))[:, None]
            theta = np.asarray(self._pack([*(both * sizes[:, None]).T, weights]))
            return self.graph.project_to_laws(theta, laws, warm=True)
        # Directions say nothing of sizes: those of the laws, which hold a sum of squares.
        size = np.sqrt(np.max(np.abs(laws)))
        return self.graph.project_to_laws(size * theta, laws)

    def fibre_point(self, theta: Theta, rng: Rng = None) -> Theta:
        """Rescale every unit by a random factor, standard normal in its logarithm."""
        theta = self._theta(theta, differentiable=False)
        logs = as_rng(rng).standard_normal((*theta.shape[:-1], self.n_laws))
        return self.graph.rescale(theta, logs)


class NormalisedNetwork(ProductArchitecture):
    r"""Hidden layers of ReLUs that are normalised, and a layer that reads the last of them.

    :math:`\sum_c V_{·c} \mathrm{relu}(γ_c \hat s_c + β_c) + b` where :math:`\hat s` are the
    products of weights and inputs, or of weights and the layer below, normalised. The weights count
    by their directions, and the path lift starts anew at γ and β: a product of
    :class:`ScaleInvariant` and of a :class:`ReLUNetwork`, with the laws :math:`‖w_c‖^2` and
    :math:`γ_c^2 + β_c^2 − \sum_o V_{oc}^2`. Its metric is that of spheres times that of paths.
    Between two hidden layers stand :class:`GainedDirections` with batch norm; with weight norm
    :class:`ScaleInvariant` and the gains and shifts, which are seen as they are.

    Parameters
    ----------
    widths : sequence of int
        Numbers of inputs, of the units of each hidden layer, and of outputs.
    kind : {"batch", "weight", "layer"}
        ``batch``: each unit is standardised over the samples (batch norm in training mode).
        ``weight``: its weights are divided by their length. ``layer``: the units are standardised
        against each other, without gains and shifts (so there is no γ and no β, and V is free).

    Raises
    ------
    InputError
        Another kind, fewer than three widths, or a layer without any direction that can turn. From
        ``forward``: numbers that are standardised are all the same, as those of one sample are to
        batch norm.

    Notes
    -----
    Nothing is added to the variances that are divided by: with the usual ε > 0 lengths are seen,
    and the laws are no laws.

    With weight norm and several hidden layers the forward pass sees less than z: γ_c, β_c and the
    weights that read unit c rescale against each other, where the gains :math:`γ'_o` behind make up
    for the lengths. Of these symmetries, one for each unit, only all together belong to a law:
    :math:`\sum_c (γ_c^2 + β_c^2) − \sum_o γ_o'^2` of two successive hidden layers stays, too, for
    every loss of the outputs. Nothing else does, as brackets of gradients move all of the others.

    References
    ----------
    Ours.

    Examples
    --------
    >>> from liftflow.architectures import NormalisedNetwork
    >>> network = NormalisedNetwork([4, 6, 5, 3])
    >>> network.dim, network.n_laws  # 6 + 5 lengths, and 6 + 5 laws of gains
    (94, 22)
    """

    @door
    def __init__(self, widths: Sequence[int], kind: str = "batch") -> None:
        if kind not in ("batch", "weight", "layer"):
            raise InputError(f"kind must be batch, weight or layer, got {kind!r}")
        sizes = [as_count(size, "a width", 1) for size in as_ordered(widths, "widths")]
        if len(sizes) < 3:
            raise InputError(
                f"widths must be those of inputs, of one hidden layer or more, and of outputs, got "
                f"{sizes}"
            )
        n_weights = sum(math.prod(pair) for pair in pairwise(sizes))
        refuse_beyond(n_weights, "the weights of a network")
        self.kind, self.widths = kind, tuple(sizes)
        last = sizes[-2:]
        self.rest = ReLUNetwork.from_widths(last, bias=True) if kind == "layer" else _gained(*last)
        self._layers = [
            self._layer(*pair, first=not number) for number, pair in enumerate(pairwise(sizes[:-1]))
        ]
        super().__init__(*(factor for layer in self._layers for factor in layer), self.rest)

    def _layer(self, below: int, width: int, first: bool) -> list[Architecture]:
        """What is seen of the weights of a layer, and of the gains and shifts below them."""
        if self.kind == "layer":
            return [ScaleInvariant(1, (width, below), centred=True)]
        if first:
            return [ScaleInvariant(width, below)]
        if self.kind == "batch":
            return [GainedDirections(below, width)]
        # Without a hidden node all weights are paths of their own.
        return [ReLUNetwork.from_widths([2 * below, 1]), ScaleInvariant(width, below)]

    def _facts(self) -> str:
        return f"{list(self.widths)}, kind={self.kind!r}"

    def forward(self, theta: OneTheta, inputs: Inputs) -> Numbers:
        """Evaluate the network on all samples, differentiably in θ.

        Returns
        -------
        outputs : array, shape=[n_samples, n_outputs]
        """
        parts = iter(self._unpack(as_array(theta, "theta", (self.dim,), batch=False)))
        shape = (None, self.widths[0])
        values = as_array(inputs, "inputs", shape, batch=False, differentiable=False)
        for number, layer in enumerate(self._layers):
            own = [next(parts) for _ in layer]
            if self.kind == "batch" and number:
                gains, shifts, weights = layer[0].unpack(own[0])
                values = anp.maximum(gains * values + shifts, 0.0)
            else:
                if len(own) == 2:
                    gains, shifts = anp.split(own[0], 2)
                    values = anp.maximum(gains * values + shifts, 0.0)
                weights = layer[-1].lift(own[-1])
            weights = anp.reshape(weights, (-1, values.shape[1]))
            values = self._normalised(anp.dot(values, weights.T))
        return self.rest.forward(next(parts), values)

    def _normalised(self, products: Numbers) -> Numbers:
        """Standardise over samples, or over units and take what is positive; or leave as it is."""
        if self.kind == "weight":
            return products
        if len(products):
            products = _standardised(products, 0 if self.kind == "batch" else 1)
        return anp.maximum(products, 0.0) if self.kind == "layer" else products


def _standardised(products: Numbers, axis: int) -> Numbers:
    """Shift and divide to mean 0 and variance 1 along an axis, whatever their size."""
    sizes = np.max(np.abs(untraced(products)), axis=axis, keepdims=True)
    products = products / np.where(sizes > 0, sizes, 1.0)  # first, as squares over- and underflow
    products = products - anp.mean(products, axis=axis, keepdims=True)
    spread = np.max(np.abs(untraced(products)), axis=axis, keepdims=True)
    if not np.all(spread > ROUNDING):
        over = "samples" if axis == 0 else "units"
        raise InputError(
            f"the {over} must differ, got the same number for all {products.shape[axis]} of them: "
            "there is no spread to divide by"
        )
    products = products / spread
    return products / anp.sqrt(anp.mean(products**2, axis=axis, keepdims=True))


def _gained(n_hidden: int, n_outputs: int) -> ReLUNetwork:
    """ReLUs of γ_c s_c + β_c, and a layer with biases that reads them."""
    widths = {"s": n_hidden, "h": n_hidden, "y": n_outputs}
    labels = [f"{name}{i}" for name, width in widths.items() for i in range(width)]
    below, units, outputs = np.split(np.arange(len(labels)), [n_hidden, 2 * n_hidden])
    source = np.full(n_hidden + n_outputs, len(labels))  # of biases
    tails = np.concatenate([below, np.repeat(units, n_outputs), source])
    heads = np.concatenate([units, np.tile(outputs, n_hidden), units, outputs])
    n_edges = tails.size - source.size
    dag = CompiledDAG.from_edges(labels, tails, heads, below.tolist(), outputs.tolist(), n_edges)
    return ReLUNetwork._of(dag, [(n_hidden,), (n_hidden, n_outputs), (n_hidden,), (n_outputs,)])
