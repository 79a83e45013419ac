"""A module of PyTorch as an architecture."""

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from liftflow.architectures import Architecture, ChannelGraph
from liftflow.architectures.maps import SmoothMap
from liftflow.doors import door
from liftflow.errors import ArchitectureError, InputError
from liftflow.linalg import lengths, over_batch
from liftflow.torch import rules as _  # noqa: F401 - registers what operations do
from liftflow.torch.assembly import channel_graph, inert_groups
from liftflow.torch.certificate import Certificate, certify
from liftflow.torch.inert import Inert, InertChart, LinearAndSquare
from liftflow.torch.orbits import OrbitLift
from liftflow.torch.trace import Reader
from liftflow.torch.workbench import Workbench, as_inputs, in_double, same_randomness
from liftflow.typing import (
    FloatArray,
    Laws,
    Lifted,
    OneTheta,
    OnHidden,
    Rng,
    Theta,
    as_array,
    as_instance,
    as_number,
    as_ordered,
    as_rng,
    got,
)


@door
def from_torch(
    module: object,
    example_inputs: object,
    *,
    opaque: Iterable[str] = (),
    certified: bool = True,
    batch_norm_eps: float | None = None,
) -> "tuple[TorchNetwork, OneTheta]":
    """Read a module of PyTorch, channel by channel.

    Parameters
    ----------
    module : torch.nn.Module
        Copied, in its mode of the moment: ``eval()`` and ``train()`` have different laws where
        there is batch norm. Parameters with ``requires_grad=False`` are constants.
    example_inputs : torch.Tensor, or a tuple of positional arguments
        Of the shapes that the module takes; a batch of two or more.
    opaque : iterable of str
        Modules ("encoder.norm") or operations ("softmax", "encoder.softmax") that are not
        positively homogeneous: the channels that meet there are grounded.
    certified : bool
        Whether to check on random data, in float64, that the function is invariant and the laws
        are conserved.
    batch_norm_eps : float, optional
        The ε of batch norms in training mode, instead of their own. It fixes the scale of the
        filters before it; with 1e-30, which is nothing in float64, each filter w has the law ‖w‖².

    Returns
    -------
    network : TorchNetwork
        Of the parameters that train and have an effect.
    theta0 : OneTheta
        Their values.

    Raises
    ------
    ArchitectureError
        An operation that cannot be read, or a check that fails: names the node or the layer, and
        says what to do.

    References
    ----------
    Ours.
    """
    network = TorchNetwork(
        module,
        example_inputs,
        opaque=opaque,
        certified=certified,
        batch_norm_eps=batch_norm_eps,
    )
    return network, network.workbench.theta.copy()


class TorchNetwork(Architecture):
    r"""A module of PyTorch by its channels, without a list of paths.

    Its symmetries are the rescalings :math:`θ_e ↦ e^{(Xτ)_e} θ_e` of the channel graph, its laws
    :math:`h = X^\top θ^2`. The lift takes θ to the point z of its orbit on which the laws have the
    values that they have at import, :math:`z = Ψ(θ, h(θ_{import}))`: D numbers that determine the
    orbit, as all products along paths do, of which there are far too many.

    Parameters
    ----------
    module : torch.nn.Module
        As :func:`from_torch` takes it, like all that follows.
    example_inputs : torch.Tensor, or a tuple of positional arguments
        Of the shapes that the module takes.
    opaque : iterable of str
        Names of what is grounded.
    certified : bool
        Whether to check the result.
    batch_norm_eps : float, optional
        The ε of batch norms in training mode.

    Attributes
    ----------
    channels : ChannelGraph
        Which parameter rescales with which channel.
    parameter_names : tuple of str
        What the blocks of θ are called in the module.
    inert_groups : tuple of tuple of str
        Biases that are added to the same sums, so that their differences are conserved; one that
        is alone has no effect at all, because a mean is taken away or it cancels.
    unused : tuple of str
        Parameters that train, but are never used: they are no part of θ.
    certificate : Certificate or None
        What the checks found.
    example_inputs : tuple
        Those that were given, in float64.
    """

    coordinates: ClassVar[str] = "basis"

    def __init__(
        self,
        module: torch.nn.Module,
        example_inputs: object,
        *,
        opaque: Iterable[str] = (),
        certified: bool = True,
        batch_norm_eps: float | None = None,
    ) -> None:
        if batch_norm_eps is not None:
            batch_norm_eps = as_number(batch_norm_eps, "batch_norm_eps", 0.0)
        names = as_ordered(opaque, "opaque")
        if isinstance(opaque, str) or not all(isinstance(name, str) for name in names):
            raise InputError(f"opaque must be a list of names, such as ['norm'], got {opaque!r}")
        self.workbench = bench = Workbench(module, batch_norm_eps)
        self.example_inputs = inputs = in_double(as_inputs(example_inputs))
        reader = Reader(bench.module, names)
        with same_randomness():
            reader.read(inputs)
        used = [name for name in bench.names if name in reader.uses]
        if not used:
            raise ArchitectureError("no parameter of the module that trains is used")
        self.unused = tuple(name for name in bench.names if name not in used)
        self.drops_units = reader.drops_units
        if used != bench.names:
            bench.lay_out(used)
        self.channels: ChannelGraph = channel_graph(reader, bench.shapes)
        self.parameter_names = tuple(bench.shapes)
        groups = inert_groups(reader, used)
        self.inert_groups = tuple(tuple(names) for names, unseen in groups)
        self.inert = Inert(bench.theta.size, [(bench.places(n), unseen) for n, unseen in groups])
        super().__init__(
            bench.theta.size,
            (bench.theta.size,),
            self.channels.n_channels + self.inert.count,
            list(bench.shapes.values()),
        )
        self.certificate: Certificate | None = None
        theta = bench.theta
        self._laws0: FloatArray = np.asarray(self.channels.laws(self.inert.seen(theta)))
        parts = map(np.ravel, bench.parts(theta).values())
        self._sizes = [float(lengths(part)) / math.sqrt(part.size) or 1.0 for part in parts]
        if certified:
            self.certificate = certify(bench, self.channels, self.inert, inputs)

    def __repr__(self) -> str:
        """Say what it is in one line."""
        kind = type(self.workbench.template).__name__
        return f"TorchNetwork({kind}, dim={self.dim}, n_laws={self.n_laws})"

    def describe(self) -> dict[str, int]:
        return {"n_channels": self.channels.n_channels, "image_dim": self.dim - self.n_laws}

    # Modules and their states.

    def to_module(self, theta: OneTheta) -> Any:
        """Copy the module that was read, with the parameters θ, in its own dtype.

        Returns
        -------
        module : torch.nn.Module
            Nobody else's; in float32 it has θ to seven digits.
        """
        module = copy.deepcopy(self.workbench.template)
        point = as_array(theta, "theta", (self.dim,), batch=False, differentiable=False)
        values = self.workbench.parts(point)
        working = dict(self.workbench.module.named_parameters())
        for name, parameter in module.named_parameters():
            dtype = self.workbench.dtypes[name]
            if name in values:
                parameter.data = torch.tensor(values[name]).to(dtype)
            elif name in self.unused:
                parameter.data = working[name].detach().to(dtype).clone()
        return module

    def to_state_dict(self, theta: OneTheta) -> dict[str, Any]:
        """Return θ as a ``state_dict`` that the module loads, in its own dtype."""
        return dict(self.to_module(theta).state_dict())

    def from_state_dict(self, state: Mapping[str, Any]) -> OneTheta:
        """Read θ from a ``state_dict`` of the module, or from the module's named parameters.

        Raises
        ------
        InputError
            A parameter is missing, or has another shape.
        """
        as_instance(state, Mapping, "state")
        parts = []
        for name, shape in self.workbench.shapes.items():
            value: Any = state.get(name)
            if not isinstance(value, torch.Tensor) or tuple(value.shape) != shape:
                what = f"shape {tuple(value.shape)}" if hasattr(value, "shape") else got(value)
                raise InputError(
                    f"the state must hold a tensor {name} of shape {shape}, got {what}"
                )
            parts.append(value.detach().double().cpu().numpy().ravel())
        return self._theta(np.concatenate(parts), "the state")

    def from_module(self, module: torch.nn.Module) -> OneTheta:
        """Read θ from a module like the one that was read."""
        as_instance(module, torch.nn.Module, "module")
        return self.from_state_dict(dict(module.named_parameters()))

    # The lift and the laws.

    def _lift_map(self) -> OrbitLift:
        return OrbitLift(self.channels, self._laws0, self.inert, self.block_shapes)

    def _laws_map(self) -> SmoothMap:
        return LinearAndSquare(self.channels.h, self.inert) if self.inert.count else self.channels.h

    def lift(self, theta: Theta) -> Lifted:
        """Slide θ along its orbit to z, where the laws have their values at import."""
        return self.phi(self._theta(theta))

    def conservation_laws(self, theta: Theta) -> Laws:
        """Evaluate the laws h = Xᵀθ², one per channel, and Lθ, one per inert direction."""
        return self.h(self._theta(theta))

    def project_to_laws(self, theta: Theta, laws: Laws, *, max_steps: int = 50) -> Theta:

        def slide(point: FloatArray, values: FloatArray) -> FloatArray:
            squares, linear = np.split(values, [self.channels.n_channels])
            still = self.inert.spread(linear)
            squares = squares - self.channels.h(still) if linear.size else squares
            return self.channels.project_to_laws(self.inert.seen(point), squares) + still

        theta = self._theta(theta, differentiable=False)
        return over_batch(slide, [theta, self._laws(laws)], [1, 1])

    def rescale(self, theta: Theta, log_factors: OnHidden) -> Theta:
        """Act by the symmetry, θ_e ↦ e^{(Xτ)_e} θ_e, beside inert directions."""
        theta = self._theta(theta, differentiable=False)
        return self.inert.beside(lambda seen: self.channels.rescale(seen, log_factors), theta)

    def project_to_image(self, z: Lifted, *, near: Theta | None = None) -> Lifted:
        return self.phi(self._lifted(z, differentiable=False))

    # Recovery.

    def recover(self, z: Lifted, laws: Laws, *, near: Theta | None = None) -> Theta:
        return self.project_to_laws(self._lifted(z, differentiable=False), laws)

    def basis_chart(self, theta: OneTheta) -> Any:
        """Chart of the image whose anchors are the strongest at θ: no path.

        Returns
        -------
        chart : ChannelChart
            Of one coordinate for each parameter that is no anchor; biases that are added up repeat
            their share of the sum.
        """
        chart = self.channels.chart(self.inert.seen(self._one_theta(theta)))
        return InertChart(chart, self.inert) if self.inert.count else chart

    # Points.

    def _drawn(self, count: int, rng: np.random.Generator) -> Theta:
        """Parameters about those at import: their sizes, normal numbers."""
        counts = [math.prod(shape) for shape in self.block_shapes]
        return super()._drawn(count, rng) * np.repeat(self._sizes, counts)

    def fibre_point(self, theta: Theta, rng: Rng = None) -> Theta:
        point = self._theta(theta, differentiable=False)
        lead = point.shape[:-1]
        return self.rescale(
            point, 0.5 * as_rng(rng).standard_normal((*lead, self.channels.n_channels))
        )
