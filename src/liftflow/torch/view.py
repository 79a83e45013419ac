"""What the criteria see of a module: its channel graph tells all where no channel is cut off."""

from functools import cached_property

import numpy as np

from liftflow.criteria.findings import Finding, found
from liftflow.criteria.graph import ChannelView
from liftflow.criteria.views import BRACKET_LIMIT, View, count_told, view_of
from liftflow.errors import NotRecoverableError
from liftflow.torch.network import TorchNetwork
from liftflow.typing import OneTheta


class TorchView(ChannelView):
    """The view of a module by its channels."""

    architecture: TorchNetwork  # type: ignore[assignment]

    def too_large(self, limit: int = BRACKET_LIMIT) -> str:
        return "without a list of paths no brackets are computed, and the channels do not tell"

    @cached_property
    def recoverable(self) -> Finding:
        """Whether ker ∂φ ∩ ker ∂h = {0}."""
        network = self.architecture
        try:
            network.h.rank(self.theta)
        except NotRecoverableError as error:
            return found("recoverable", False, 0.0, str(error), tolerance=0.0)
        reason = f"all {network.channels.n_channels} channels are tied to the ground by nonzero "
        return found("recoverable", True, 1.0, reason + "parameters", tolerance=0.0)

    @cached_property
    def commuting(self) -> Finding:
        """Whether brackets vanish; nobody has looked."""
        return found("commuting", None, 0.0, self.too_large(), tolerance=0.0)


@view_of.register
def _(network: TorchNetwork, theta: OneTheta, rng: np.random.Generator) -> View:
    return TorchView(network, theta, rng)


@count_told.register
def _(network: TorchNetwork) -> Finding:
    reason = "from the channels: one law for each, and one for each inert direction"
    return found("conservation laws", True, network.n_laws, reason, tolerance=0.0)
