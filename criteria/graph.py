"""Recoverability of ReLU networks from their graph alone: no path, no Jacobian."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, hstack
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.sparse.linalg import eigsh, lsmr

from liftflow.architectures import ReLUNetwork
from liftflow.architectures.dag import CompiledDAG
from liftflow.criteria.findings import Finding, Verdict
from liftflow.errors import listed
from liftflow.typing import OneTheta

NEGLIGIBLE = 1e-10
"""Weights below this fraction of the typical one, in the flattest gauge, may as well be zero."""

GRAPH_LIMIT = 600
"""Number of parameters of a ReLU network up to which brackets are computed; then the graph."""

_DENSE_LIMIT = 200  # hidden nodes up to which an eigenvalue comes from a dense matrix


def by_graph(network: ReLUNetwork) -> bool:
    """Tell whether a network is so large that only its graph is looked at."""
    return network.dim > GRAPH_LIMIT


def graph_recoverability(network: ReLUNetwork, theta: OneTheta) -> Finding:
    r"""Decide ker ∂φ(θ) ∩ ker ∂h(θ) = {0} in time proportional to the number of edges.

    A parameter is dead where every path through it passes through another weight that is zero.
    Neither φ nor h sees a dead weight that is zero; a nonzero one is seen by h alone, as a flow
    that hidden nodes on no nonzero path must conserve. So θ is recoverable if and only if no dead
    weight is zero and the nonzero dead ones hold no cycle in the graph of those nodes, with
    everything else merged into one ground node. The value is the conditioning of Ψ, the smallest
    eigenvalue of the graph Laplacian scaled to a unit diagonal.

    Returns
    -------
    finding : Finding
        Undecided where the answer hinges on weights that are negligible whatever the rescaling.

    References
    ----------
    Nonzero weights: [MPG]_; zeros: ours.
    """
    dag = network.dag
    dead = _lost_parameters(dag, theta != 0)
    tiny = negligible(dag, theta)
    if dead.size == 0 and np.any(tiny):
        hinge = _lost_parameters(dag, (theta != 0) & ~tiny)
        if hinge.size:
            return Finding(
                "recoverable",
                Verdict.UNDECIDED,
                value=conditioning(dag, theta),
                margin=1.0,
                tolerance=NEGLIGIBLE,
                reason="it hinges on weights that no rescaling brings above "
                f"{NEGLIGIBLE:.0e} of the typical one: {_show(dag, np.flatnonzero(tiny))}",
            )
    if dead.size:
        return Finding(
            "recoverable",
            Verdict.FAILS,
            value=0.0,
            margin=np.inf,
            tolerance=0.0,
            reason="neither z nor the laws determine the dead parameters "
            f"{_show(dag, dead)}: every path through them passes through another zero",
            witness={"parameters": _names(dag, dead)},
        )
    value = conditioning(dag, theta)
    return Finding(
        "recoverable",
        Verdict.HOLDS,
        value=value,
        margin=np.inf,
        tolerance=0.0,
        reason=f"every one of the {dag.n_hidden} hidden nodes is tied to the ground; the graph "
        f"Laplacian, scaled to a unit diagonal, has the smallest eigenvalue {value:.2g}",
    )


def conditioning(dag: CompiledDAG, theta: OneTheta) -> float:
    """Smallest eigenvalue of the grounded Laplacian A D_θ² Aᵀ scaled to a unit diagonal.

    Returns
    -------
    eigenvalue : float
        Between 0 and 1; to about 1e-15, absolute. 1 without edges between hidden nodes; 0 where a
        hidden node has no weight at all.
    """
    size = dag.n_hidden
    weights = theta**2
    diagonal = abs(dag.channels.law_matrix) @ weights
    if not np.all(diagonal > 0):
        return 0.0
    inner = np.flatnonzero((dag.tail_hidden >= 0) & (dag.head_hidden >= 0))
    if inner.size == 0:
        return 1.0
    scale = 1.0 / np.sqrt(diagonal)
    tails, heads = dag.tail_hidden[inner], dag.head_hidden[inner]
    # The square root before the product: squares of very small weights underflow.
    values = (np.abs(theta[inner]) * scale[tails]) * (np.abs(theta[inner]) * scale[heads])
    upper = csr_array((values, (tails, heads)), shape=(size, size))
    coupling = (upper + upper.T).tocsr()
    if size <= _DENSE_LIMIT:
        largest = np.linalg.eigvalsh(coupling.toarray())[-1]
    else:
        largest = eigsh(
            coupling, k=1, which="LA", v0=np.sqrt(diagonal), tol=1e-10, return_eigenvectors=False
        )[0]
    return float(max(0.0, 1.0 - largest))


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


@dataclass(frozen=True)
class _Reach:
    """Which nodes a nonzero path from the inputs leads to, and from which one leads on."""

    before: NDArray[np.bool_]
    after: NDArray[np.bool_]


def _reach(dag: CompiledDAG, nonzero: NDArray[np.bool_]) -> _Reach:
    n_nodes = len(dag.nodes) + 1
    starts = np.append(np.arange(dag.n_inputs), n_nodes - 1)
    tails, heads = dag.tails[nonzero], dag.heads[nonzero]
    return _Reach(
        before=_reached(n_nodes, tails, heads, starts),
        after=_reached(n_nodes, heads, tails, dag.outputs),
    )


def _reached(n_nodes: int, tails: Any, heads: Any, starts: Any) -> NDArray[np.bool_]:
    root = n_nodes  # a further node that leads to all starts
    rows = np.concatenate([tails, np.full(starts.size, root)])
    columns = np.concatenate([heads, starts])
    graph = coo_array((np.ones(rows.size), (rows, columns)), shape=(root + 1, root + 1)).tocsr()
    mask = np.zeros(n_nodes + 1, dtype=bool)
    mask[breadth_first_order(graph, root, return_predecessors=False)] = True
    return mask[:-1]


def _lost_parameters(dag: CompiledDAG, nonzero: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the parameters that neither φ nor h determines."""
    reach = _reach(dag, nonzero)
    dead = ~(reach.before[dag.tails] & reach.after[dag.heads])
    lost = dead & ~nonzero
    free = np.flatnonzero(dead & nonzero)
    if free.size:
        live = reach.before & reach.after
        number = np.zeros(len(dag.nodes) + 1, dtype=np.intp)  # 0 is the ground
        idle = dag.hidden_nodes[~live[dag.hidden_nodes]]
        number[idle] = 1 + np.arange(idle.size)
        tails, heads = number[dag.tails[free]], number[dag.heads[free]]
        size = idle.size + 1
        graph = coo_array((np.ones(free.size), (tails, heads)), shape=(size, size))
        n_components, _ = connected_components(graph, directed=False)
        if free.size > size - n_components:
            bridges = nx.MultiGraph()
            bridges.add_edges_from(zip(tails.tolist(), heads.tolist(), free.tolist(), strict=True))
            ends = set(nx.bridges(bridges))
            for tail, head, edge in bridges.edges(keys=True):
                lost[edge] |= (tail, head) not in ends and (head, tail) not in ends
    return np.flatnonzero(lost)


def _names(dag: CompiledDAG, edges: NDArray[np.intp]) -> list[tuple[Hashable, Hashable]]:
    labels = (*dag.nodes, "⟨1⟩")
    return [(labels[dag.tails[edge]], labels[dag.heads[edge]]) for edge in edges]


def _show(dag: CompiledDAG, edges: NDArray[np.intp]) -> str:
    return listed(f"{u!r}→{v!r}" for u, v in _names(dag, edges))


def shared_edge(dag: CompiledDAG) -> tuple[Hashable, ...]:
    """Find a hidden node with two edges in or out, so that two paths share an edge.

    At nonzero θ the fields of two different paths commute if and only if they share no edge, and
    none do exactly where every hidden node has one edge in and one out.

    Returns
    -------
    nodes : tuple of nodes
        One, or none.

    References
    ----------
    Ours.
    """
    into = np.bincount(dag.head_hidden + 1, minlength=dag.n_hidden + 1)[1:]
    out_of = np.bincount(dag.tail_hidden + 1, minlength=dag.n_hidden + 1)[1:]
    several = np.flatnonzero((into > 1) | (out_of > 1))
    return tuple(dag.nodes[dag.hidden_nodes[hidden]] for hidden in several[:1])
