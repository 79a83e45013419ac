"""What the graph of a ReLU network tells alone: no path, no Jacobian."""

from collections.abc import Hashable
from functools import cached_property

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import hstack
from scipy.sparse.linalg import lsmr

from liftflow.architectures import ReLUNetwork, TiedNetwork
from liftflow.architectures.dag import CompiledDAG
from liftflow.criteria.findings import Finding, Verdict, found
from liftflow.criteria.views import BRACKET_LIMIT, View, count_told, inclusion_of_nothing, view_of
from liftflow.errors import listed
from liftflow.typing import IntArray, OneTheta

NEGLIGIBLE = 1e-10
"""Weights below this fraction of the typical one, in the flattest gauge, may as well be zero."""


def graph_recoverability(network: ReLUNetwork, theta: OneTheta) -> Finding:
    r"""Decide ker ∂φ(θ) ∩ ker ∂h(θ) = {0} in time proportional to the number of edges.

    A parameter is dead where every path through it passes through another weight that is zero.
    Neither φ nor h sees a dead weight that is zero; a nonzero one is seen by h alone, as a flow
    that hidden nodes on no nonzero path must conserve. So θ is recoverable if and only if no dead
    weight is zero and the nonzero dead ones hold no cycle in the graph of those nodes, with
    everything else merged into one ground node. The value is the conditioning of Ψ, the smallest
    eigenvalue of the graph Laplacian scaled to a unit diagonal.

    Undecided where the answer hinges on weights that are negligible whatever the rescaling.

    References
    ----------
    Nonzero weights: [MPG]_; zeros: ours.
    """
    dag = network.dag
    dead = _lost_parameters(dag, theta != 0)
    if dead.size:
        reason = f"neither z nor the laws determine the dead parameters {_show(dag, dead)}: every "
        reason += "path through them passes through another zero"
        witness = {"parameters": _names(dag, dead)}
        return found("recoverable", False, 0.0, reason, tolerance=0.0, witness=witness)
    value, tiny = network.channels.conditioning(theta), negligible(dag, theta)
    if np.any(tiny) and _lost_parameters(dag, (theta != 0) & ~tiny).size:
        reason = f"it hinges on weights that no rescaling brings above {NEGLIGIBLE:.0e} of the "
        reason += f"typical one: {_show(dag, np.flatnonzero(tiny))}"
        return found("recoverable", None, value, reason, margin=1.0, tolerance=NEGLIGIBLE)
    reason = f"every one of the {dag.n_hidden} hidden nodes is tied to the ground; the graph "
    reason += f"Laplacian, scaled to a unit diagonal, has the smallest eigenvalue {value:.2g}"
    return found("recoverable", True, value, reason, tolerance=0.0)


def negligible(dag: CompiledDAG, theta: OneTheta) -> NDArray[np.bool_]:
    """Tell which nonzero weights are below ``NEGLIGIBLE`` in the flattest gauge.

    Among all rescalings of the hidden nodes and of θ as a whole, that one makes log |θ_e| as
    equal as can be, in the sense of least squares. So the answer does not depend on the scale of θ
    nor on its representative in the fibre.
    """
    used = np.flatnonzero(theta != 0)
    logs = np.log(np.abs(theta[used]))
    if logs.size == 0 or np.ptp(logs) < -np.log(NEGLIGIBLE):
        return np.zeros(dag.dim, dtype=bool)
    matrix = hstack([dag.channels.law_matrix.T.tocsr()[used], np.ones((used.size, 1))]).tocsr()
    gauge = lsmr(matrix, logs, atol=1e-6, btol=1e-6, maxiter=500)[0]
    tiny = np.zeros(dag.dim, dtype=bool)
    tiny[used] = logs - matrix @ gauge < np.log(NEGLIGIBLE)
    return tiny


def _lost_parameters(dag: CompiledDAG, nonzero: NDArray[np.bool_]) -> IntArray:
    """Return the parameters that neither φ nor h determines."""
    alive = dag.channels.walked(nonzero)
    lost, used, free = ~alive & ~nonzero, alive & nonzero, np.flatnonzero(~alive & nonzero)
    number = np.arange(1, dag.n_hidden + 2)
    number[dag.tail_hidden[used]] = number[dag.head_hidden[used]] = number[-1] = 0  # the ground
    tails, heads = number[dag.tail_hidden[free]], number[dag.head_hidden[free]]
    graph = nx.MultiGraph()
    graph.add_edges_from(zip(tails.tolist(), heads.tolist(), free.tolist(), strict=True))
    bridges = set(nx.bridges(graph))
    for tail, head, edge in graph.edges(keys=True):
        lost[edge] |= (tail, head) not in bridges and (head, tail) not in bridges
    return np.flatnonzero(lost)


def _names(dag: CompiledDAG, edges: IntArray) -> list[tuple[Hashable, Hashable]]:
    labels = (*dag.nodes, "⟨1⟩")
    return [(labels[dag.tails[edge]], labels[dag.heads[edge]]) for edge in edges]


def _show(dag: CompiledDAG, edges: IntArray) -> str:
    return listed(f"{u!r}→{v!r}" for u, v in _names(dag, edges))


def shared_edge(dag: CompiledDAG) -> tuple[Hashable, ...]:
    """Find a hidden node, one or none, with two edges in or out: then two paths share an edge.

    At nonzero θ the fields of two different paths commute if and only if they share no edge, and
    none do exactly where every hidden node has one edge in and one out (ours).
    """
    into = np.bincount(dag.head_hidden + 1, minlength=dag.n_hidden + 1)[1:]
    out_of = np.bincount(dag.tail_hidden + 1, minlength=dag.n_hidden + 1)[1:]
    several = np.flatnonzero((into > 1) | (out_of > 1))
    return tuple(dag.nodes[dag.hidden_nodes[hidden]] for hidden in several[:1])


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
    def n_independent(self) -> int:
        return self.architecture.n_laws

    @cached_property
    def recoverable(self) -> Finding:
        if not np.all(self.theta):
            return View.recoverable.func(self)
        channels = self.architecture.channels
        value = channels.conditioning(self.theta)
        reason = f"all {channels.n_channels} channels are tied to the ground; their "
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
        # More monomials than parameters must share one.
        shared = network.n_paths > network.dim or np.any(network.path_incidence.sum(axis=0) > 1)
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
        """Whether ker ∂φ ∩ ker ∂h = {0}."""
        return graph_recoverability(self.architecture, self.theta)

    @cached_property
    def inclusion(self) -> Finding:
        """Whether M does not change along ker ∂φ ∩ ker ∂h."""
        undecided = self.recoverable.verdict is Verdict.UNDECIDED
        return inclusion_of_nothing(self.recoverable) if undecided else super().inclusion

    def _shared(self) -> tuple[str, dict[str, object]]:
        node = shared_edge(self.architecture.dag)
        return (f"paths through {node[0]!r} share an edge", {"node": node[0]}) if node else ("", {})


@count_told.register
def _(network: ReLUNetwork) -> Finding | None:
    if network.dim <= BRACKET_LIMIT:
        return None
    reason = "from the graph: one law per channel, and rank ∂φ = D − C"
    return found("conservation laws", True, network.n_laws, reason, tolerance=0.0)


@view_of.register
def _(network: ReLUNetwork, theta: OneTheta, rng: np.random.Generator) -> View:
    return GraphView(network, theta, rng)


@view_of.register
def _(network: TiedNetwork, theta: OneTheta, rng: np.random.Generator) -> View:
    return ChannelView(network, theta, rng)
