"""Which channels rescale together: the equations that shared and frozen weights impose."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array, eye_array, hstack, vstack
from scipy.sparse.csgraph import connected_components

from liftflow.architectures.channels import ChannelGraph
from liftflow.errors import ArchitectureError
from liftflow.typing import IntArray

_MOST_UNKNOWNS = 4000  # of the equations that no merging solves, solved for exactly and densely


def shared_channels(
    tails: IntArray,
    heads: IntArray,
    parameters: IntArray,
    degrees: IntArray,
    nodes: Sequence[Hashable],
    names: Sequence[Hashable] | None = None,
) -> ChannelGraph:
    """Solve for the rescalings of nodes that edges with shared and frozen weights allow.

    An edge u → v of a parameter e rescales by τ_v − k_u τ_u, with the degree k_u of the unit at
    its tail. All edges of one parameter must rescale alike, and frozen ones not at all. Where
    two nodes must rescale alike they are one channel; other equations (a weight used twice in a
    row gives equal differences) are solved exactly.

    Parameters
    ----------
    tails, heads : array, shape=[n_edges]
        Nodes that rescale, −1 for all others: inputs, outputs, constants.
    parameters : array, shape=[n_edges]
        Parameter of each edge, −1 for a frozen one.
    degrees : array, shape=[n_nodes]
        Degree of homogeneity of the unit at each node.
    nodes : sequence of hashable
        Labels of the nodes; a channel is called by those that rescale with it.

    Returns
    -------
    graph : ChannelGraph
        Its ``members`` are tuples of nodes where several share a channel.

    References
    ----------
    Ours.
    """
    size = len(nodes)
    rows = _exponent_rows(tails, heads, degrees, size)
    order = np.argsort(parameters, kind="stable")
    frozen = order[parameters[order] < 0]
    used = order[parameters[order] >= 0]
    first = np.ones(used.size, dtype=bool)
    first[1:] = np.diff(parameters[used]) != 0
    leaders = used[first]
    again = used[~first]
    leader_of = leaders[np.cumsum(first) - 1][~first]
    equations = vstack([rows[frozen], rows[again] - rows[leader_of]]).tocsr()
    basis = _solutions(equations, size)
    exponents = (rows[leaders] @ basis).tocsr()
    exponents.eliminate_zeros()
    moving = np.diff(exponents.tocsc().indptr) > 0
    exponents, basis = exponents[:, moving], basis.tocsc()[:, moving]
    members = [_member(basis, column, nodes) for column in range(basis.shape[1])]
    return ChannelGraph.from_matrix(exponents, members, names)


def _exponent_rows(tails: IntArray, heads: IntArray, degrees: IntArray, size: int) -> csr_array:
    """Exponents τ_head − k_tail τ_tail of each edge, shape=[n_edges, n_nodes]."""
    into, out_of = np.flatnonzero(heads >= 0), np.flatnonzero(tails >= 0)
    values = np.concatenate([np.ones(into.size), -degrees[tails[out_of]].astype(float)])
    places = (np.concatenate([into, out_of]), np.concatenate([heads[into], tails[out_of]]))
    rows = csr_array((values, places), shape=(tails.size, size))
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return rows


def _solutions(equations: csr_array, size: int) -> csr_array:
    """Integer basis of the solutions, shape=[n_nodes, n_channels]: merge what is equal, first."""
    basis = eye_array(size, format="csr")
    while True:
        equations.eliminate_zeros()
        equations = equations[np.diff(equations.indptr) > 0]
        if equations.shape[0] == 0:
            return basis
        labels = _merged(equations)
        if labels is None:
            break
        kept = labels >= 0
        merge = csr_array(
            (np.ones(kept.sum()), (np.flatnonzero(kept), labels[kept])),
            shape=(labels.size, labels.max(initial=-1) + 1),
        )
        basis, equations = (basis @ merge).tocsr(), (equations @ merge).tocsr()
    return (basis @ _null_space(equations)).tocsr()


def _merged(equations: csr_array) -> IntArray | None:
    """Number the classes of unknowns that single equations make equal, −1 for those that are 0."""
    counts = np.diff(equations.indptr)
    data, columns, starts = equations.data, equations.indices, equations.indptr[:-1]
    single = starts[counts == 1]
    pair = starts[counts == 2]
    pair = pair[data[pair] == -data[pair + 1]]
    if not single.size + pair.size:
        return None
    ground = equations.shape[1]
    ends = np.concatenate([columns[single], columns[pair]])
    others = np.concatenate([np.full(single.size, ground), columns[pair + 1]])
    joined = coo_array((np.ones(ends.size), (ends, others)), shape=(ground + 1, ground + 1))
    labels = connected_components(joined, directed=False)[1]
    zero = labels[:-1] == labels[-1]
    kept = np.where(zero, labels[-1], labels[:-1])
    numbers = np.cumsum(np.bincount(kept[~zero], minlength=labels.max() + 1) > 0) - 1
    return np.where(zero, -1, numbers[kept])


def _null_space(equations: csr_array) -> csr_array:
    """Exact integer basis of the null space; unknowns in no equation are free."""
    bound = np.unique(equations.indices)
    if bound.size > _MOST_UNKNOWNS:
        raise ArchitectureError(
            f"shared weights tie {bound.size} channels together by equations that are not just "
            f"equalities, more than the {_MOST_UNKNOWNS} that are solved exactly"
        )
    from flint import fmpz_mat  # here, as few networks need it

    rows = np.unique(equations[:, bound].toarray().astype(np.int64), axis=0)
    matrix = fmpz_mat(len(rows), bound.size, rows.ravel().tolist())
    columns, count = matrix.nullspace()
    solution = np.array(columns.tolist(), dtype=object).reshape(bound.size, -1)[:, :count]
    solution = solution // -np.gcd.reduce(solution, axis=0)
    rest = np.setdiff1d(np.arange(equations.shape[1]), bound)
    inner = coo_array(solution.astype(float))
    tied = csr_array((inner.data, (bound[inner.row], inner.col)), (equations.shape[1], count))
    loose = csr_array(
        (np.ones(rest.size), (rest, np.arange(rest.size))), (equations.shape[1], rest.size)
    )
    return hstack([loose, tied]).tocsr()


def _member(basis: Any, column: int, nodes: Sequence[Hashable]) -> Hashable:
    own = [nodes[i] for i in basis.indices[basis.indptr[column] : basis.indptr[column + 1]]]
    return own[0] if len(own) == 1 else tuple(own)
