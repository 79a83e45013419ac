"""What the criteria see of a module: its channel graph tells all where no channel is cut off."""

from dataclasses import replace
from functools import cached_property

import numpy as np

from liftflow.criteria.findings import Finding, Verdict, found
from liftflow.criteria.graph import ChannelView
from liftflow.criteria.views import BRACKET_LIMIT, MATRIX_LIMIT, View, count_told, view_of
from liftflow.errors import NotRecoverableError, UndefinedError
from liftflow.torch.certificate import span_of_gradients
from liftflow.torch.loss import _ALL_LOSSES
from liftflow.torch.network import TorchNetwork
from liftflow.typing import OneTheta

_POINTS, _ALIKE, _SPARE = 9, 4, 20


class TorchView(ChannelView):
    """The view of a module by its channels."""

    architecture: TorchNetwork  # type: ignore[assignment]

    def too_large(self, limit: int = BRACKET_LIMIT) -> str:
        return "without a list of paths no brackets are computed, and the channels do not tell"

    @cached_property
    def recoverable(self) -> Finding:
        network = self.architecture
        try:
            network.h.rank(self.theta)
        except NotRecoverableError as error:
            return found("recoverable", False, 0.0, str(error), tolerance=0.0)
        reason = f"all {network.channels.n_channels} channels are tied to the ground by nonzero "
        return found("recoverable", True, 1.0, reason + "parameters", tolerance=0.0)

    @cached_property
    def count(self) -> Finding:
        """Number of laws at generic points."""
        return _count(self.architecture, self.rng)

    def _counted(self, name: str, value: int) -> Finding:
        if self.recoverable.verdict is Verdict.HOLDS:
            return replace(self.count, name=name, value=value)
        return found(name, None, value, self.too_large(), tolerance=0.0)

    @cached_property
    def dimension(self) -> Finding:
        network = self.architecture
        return self._counted("dimension of the Lie algebra", network.dim - network.n_laws)

    @cached_property
    def complete(self) -> Finding:
        return self._counted("laws complete", 0)

    @cached_property
    def commuting(self) -> Finding:
        return found("commuting", None, 0.0, self.too_large(), tolerance=0.0)


@view_of.register
def _(network: TorchNetwork, theta: OneTheta, rng: np.random.Generator) -> View:
    return TorchView(network, theta, rng)


def _count(network: TorchNetwork, rng: np.random.Generator) -> Finding:
    """All laws are found where gradients span whatever the laws leave, at one θ at least."""
    wanted, name = network.dim - network.n_laws, "conservation laws"
    if network.dim > MATRIX_LIMIT:
        reason = f"gradients are not compared with the laws beyond {MATRIX_LIMIT:,} parameters"
        return found(name, None, network.n_laws, f"at least these: {reason}", tolerance=0.0)
    bench, inputs, spans = network.workbench, network.example_inputs, [0]
    for point in (bench.theta.copy(), *network.random_point(_POINTS, rng)):
        spans.append(span_of_gradients(bench, inputs, point, wanted + _SPARE, rng))
        if spans[-1] == wanted:
            reason = f"gradients at random data span the {wanted} directions that the laws leave"
            return found(name, True, network.n_laws, reason, tolerance=0.0)
        if spans.count(max(spans)) == _ALIKE:  # a unit that is dead here is not so elsewhere
            break
    reason = (
        f"at least these: gradients at random data span {max(spans)} of the {wanted} directions "
        "that the laws leave, so that some laws may not be found"
    )
    return found(name, None, network.n_laws, reason, tolerance=0.0)


@count_told.register
def _(network: TorchNetwork, loss: object, rng: np.random.Generator) -> Finding:
    if loss is not None:
        raise UndefinedError(_ALL_LOSSES)
    return _count(network, rng)
