"""What the graph of a ReLU network tells alone: no path, no Jacobian."""

from functools import cached_property

import numpy as np

from liftflow.architectures import ReLUNetwork, TiedNetwork
from liftflow.architectures.channels import NEGLIGIBLE
from liftflow.criteria.findings import Finding, Verdict, found
from liftflow.criteria.network_fields import excited_fields
from liftflow.criteria.views import BRACKET_LIMIT, View, count_told, inclusion_of_nothing, view_of
from liftflow.errors import listed
from liftflow.typing import IntArray, OneTheta


class ChannelView(View):
    """The view of a network of channels, one law each, which shared or frozen weights may tie.

    The monomials have the exponents A, and ker A is the range of X: where no weight is zero,
    rank ∂φ = D − C and the laws are complete (ours). Else it is looked at like any lift.
    """

    architecture: ReLUNetwork

    @property
    def tells(self) -> bool:
        return self.recoverable.verdict is Verdict.HOLDS

    @property
    def most(self) -> int:
        told = self.architecture.n_laws and self.tells  # which asks for this where there are none
        return self.architecture.dim - self.architecture.n_laws if told else super().most

    @cached_property
    def recoverable(self) -> Finding:
        if not np.all(self.theta):
            return View.recoverable.func(self)
        return self._tied()

    def _tied(self) -> Finding:
        """State that all channels are tied to the ground, and how well."""
        channels = self.architecture.channels
        value = channels.conditioning(self.theta)
        reason = f"all {channels.n_channels} channels are tied to the ground; their graph "
        reason += f"Laplacian, scaled to a unit diagonal, has the smallest eigenvalue {value:.2g}"
        return found("recoverable", True, value, reason, tolerance=0.0)

    @cached_property
    def commuting(self) -> Finding:
        """Decide whether the fields commute, which those of two monomials do if they share none."""
        if not np.all(self.theta):
            return super().commuting
        reason, witness = self._shared()
        shared = bool(reason)
        reason = reason or "no two share a parameter, of the products of weights that make z"
        return found("commuting", not shared, float(shared), reason, tolerance=0.0, witness=witness)

    def _shared(self) -> tuple[str, dict[str, object]]:
        """Say, and show, which entries of z share a parameter; empty where none do."""
        network = self.architecture
        # More monomials than parameters, one of which may be constant, must share one.
        many = network.n_paths > network.dim + 1
        shared = many or np.any((network.path_incidence != 0).sum(axis=0) > 1)
        return "two monomials share a parameter" if shared else "", {}


class GraphView(ChannelView):
    """The view of a ReLU network, whose graph tells of zeros, too."""

    def too_large(self, limit: int = BRACKET_LIMIT) -> str:
        if self.architecture.dim <= BRACKET_LIMIT:
            return super().too_large(limit)
        return (
            "the network has too many parameters to look at its kernel or at brackets, and the "
            f"graph does not tell where weights are zero ({self.recoverable.reason})"
        )

    @cached_property
    def recoverable(self) -> Finding:
        """Decide ker ∂φ ∩ ker ∂h = {0} in time proportional to the number of edges.

        The value is the conditioning of Ψ, the smallest eigenvalue of the graph Laplacian scaled to
        a unit diagonal. Undecided where the answer hinges on weights that are negligible whatever
        the rescaling. Of nonzero weights: [MPG]_; zeros: ours.
        """
        channels, names = self.architecture.channels, self.architecture.parameter_names

        def show(edges: IntArray) -> str:
            return listed(f"{names[edge][0]!r}→{names[edge][1]!r}" for edge in edges)

        dead = channels.undetermined(self.theta != 0)
        if dead.size:
            reason = f"neither z nor the laws determine the dead parameters {show(dead)}: every "
            reason += "path through them passes through another zero"
            witness = {"parameters": [names[edge] for edge in dead]}
            return found("recoverable", False, 0.0, reason, tolerance=0.0, witness=witness)
        value, tiny = channels.conditioning(self.theta), channels.negligible(self.theta)
        if tiny.any() and channels.undetermined((self.theta != 0) & ~tiny).size:
            reason = f"it hinges on weights that no rescaling brings above {NEGLIGIBLE:.0e} of the "
            reason += f"typical one: {show(np.flatnonzero(tiny))}"
            return found("recoverable", None, value, reason, margin=1.0, tolerance=NEGLIGIBLE)
        return self._tied()

    @cached_property
    def inclusion(self) -> Finding:
        """Whether M does not change along ker ∂φ ∩ ker ∂h."""
        undecided = self.recoverable.verdict is Verdict.UNDECIDED
        return inclusion_of_nothing(self.recoverable) if undecided else super().inclusion

    def _shared(self) -> tuple[str, dict[str, object]]:
        """Find a channel with two parameters in or out: only then two paths share one."""
        channels = self.architecture.channels
        own, size = (channels.tails, channels.heads), channels.n_channels + 1
        ends = [np.bincount(end + 1, minlength=size)[1:] for end in own]
        several = np.flatnonzero(np.max(ends, axis=0) > 1)
        if not several.size:
            return "", {}
        node = channels.members[several[0]]
        return f"paths through {node!r} share an edge", {"node": node}


@count_told.register
def _(network: ReLUNetwork, loss: object, rng: np.random.Generator) -> Finding | None:
    if network.dim <= BRACKET_LIMIT or excited_fields(network, loss).basis is not None:
        return None
    reason = "from the graph: one law per channel, and rank ∂φ = D − C"
    return found("conservation laws", True, network.n_laws, reason, tolerance=0.0)


@view_of.register
def _(network: ReLUNetwork, theta: OneTheta, rng: np.random.Generator) -> View:
    return GraphView(network, theta, rng)


@view_of.register
def _(network: TiedNetwork, theta: OneTheta, rng: np.random.Generator) -> View:
    return ChannelView(network, theta, rng)
