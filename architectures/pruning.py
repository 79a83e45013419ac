"""What is left of a network where weights are zero."""

import numpy as np

from liftflow.architectures.dag import CompiledDAG
from liftflow.architectures.incidence import reached
from liftflow.architectures.tying import Tying, Units
from liftflow.typing import IntArray, OneTheta


def pruned(
    dag: CompiledDAG, tying: Tying, units: Units, theta: OneTheta
) -> tuple[CompiledDAG, Tying, Units, IntArray]:
    """Leave out the nodes on no path of nonzero weights, with their edges.

    Returns
    -------
    dag, tying, units : CompiledDAG, Tying, Units
        What is left.
    kept : array
        Numbers of the parameters that are.
    """
    used, source = tying.weights(theta) != 0, len(dag.nodes)
    tails, heads = dag.tails[used], dag.heads[used]
    inputs, outputs = np.arange(dag.n_inputs), dag.outputs
    ends = np.zeros(source + 1, dtype=bool)
    ends[inputs] = ends[outputs] = ends[source] = True
    fed = reached(tails, heads, np.append(inputs, source), ends.size)
    alive = ends | (fed & reached(heads, tails, outputs, ends.size))
    smaller, edges = CompiledDAG.from_part(
        dag.nodes, dag.tails, dag.heads, inputs, outputs, dag.n_edges, alive
    )
    slopes = units.slopes.copy()
    lost = np.setdiff1d(np.arange(dag.dim), edges)
    to_max = dag.heads[lost][units.maxima[dag.heads[lost]]]
    slopes[to_max] = 0.0  # a dead node is always 0, and so is a maximum at least
    parameters = tying.parameters[edges]
    kept = np.unique(parameters[parameters >= 0])
    renumbered = np.where(parameters < 0, -1, np.searchsorted(kept, parameters))
    numbers = enumerate(kept.tolist())
    names = {new: tying.names[old] for new, old in numbers if old in tying.names}
    own = Units(slopes, units.degrees, units.maxima).along(dag.nodes, smaller.nodes)
    return smaller, Tying(renumbered, tying.constants[edges], names), own, kept
