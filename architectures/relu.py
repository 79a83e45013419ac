"""ReLU networks on any directed acyclic graph."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, Self

import geomstats.backend as gs
import networkx as nx
import numpy as np
import scipy.linalg
from autograd.extend import defvjp, primitive
from scipy.sparse import csr_array

from liftflow.architectures.base import MOST_SIGNS, Architecture
from liftflow.architectures.channels import ChannelGraph
from liftflow.architectures.dag import Block, CompiledDAG
from liftflow.architectures.kernel import ParameterKernel
from liftflow.architectures.laplacian import Laplacian
from liftflow.architectures.paths import (
    Anchors,
    BasisPathChart,
    follow_signs,
    make_chart,
    path_table,
    scatter_matrix,
)
from liftflow.doors import door
from liftflow.errors import (
    ArchitectureError,
    InputError,
    NotOnImageError,
    NotRecoverableError,
    ShapeError,
)
from liftflow.linalg import lengths, over_batch, sparse_apply
from liftflow.typing import (
    Covector,
    FloatArray,
    Inputs,
    IntArray,
    Lifted,
    LiftedTangent,
    Matrix,
    OneTheta,
    OnHidden,
    Rng,
    Scalars,
    Tangent,
    Theta,
    as_array,
    as_count,
    as_instance,
    as_number,
    as_ordered,
    as_rng,
    as_vector,
    freeze,
    refuse_beyond,
    shown,
)

PATH_LIMIT = 2_000_000
"""Default for the largest number of paths that are ever listed."""


@primitive
def _forward(theta: FloatArray, inputs: FloatArray, network: "ReLUNetwork") -> FloatArray:
    shape = len(inputs), network.dag.outputs.size
    return over_batch(lambda t: network.forward_vjp(t, inputs)[0], [theta], [1], shape)


def _forward_pull(
    ans: FloatArray, theta: FloatArray, inputs: FloatArray, network: "ReLUNetwork"
) -> Callable[[FloatArray], FloatArray]:
    def pull(cotangent: FloatArray) -> FloatArray:
        def one(point: FloatArray, form: FloatArray) -> FloatArray:
            return network.forward_vjp(point, inputs)[1](form)

        form = as_array(cotangent, "the derivative of forward", differentiable=False)
        return over_batch(one, [network._theta(theta, differentiable=False), form], [1, 2])

    return pull


defvjp(_forward, _forward_pull, argnums=(0,))


_EDGE_BYTES, _GRAPH_BYTES = 150, 1500  # of one edge, with what a network and a graph keep of it


def _qr_by_rows(columns: FloatArray) -> tuple[FloatArray, FloatArray, IntArray]:
    """Decompose A = Q R with pivots among the columns, its rows of whatever sizes.

    Rows from the largest to the smallest keep small ones from drowning in the rounding errors of
    large ones.

    References
    ----------
    Cox and Higham 1998, on the stability of Householder's QR row by row.
    """
    order = np.argsort(-np.max(np.abs(columns), axis=1, initial=0.0), kind="stable")
    basis = np.empty_like(columns)
    basis[order], triangle, pivots = scipy.linalg.qr(
        columns[order], mode="economic", pivoting=True, check_finite=False
    )
    return basis, triangle, pivots


class ReLUNetwork(Architecture):
    r"""ReLU network on a directed acyclic graph, lifted to its path products.

    Hidden nodes compute the ReLU of the weighted sum of their predecessors plus their bias;
    outputs are linear. A bias is the weight of an edge from a constant source ⟨1⟩. The lift is
    :math:`φ_p(θ) = \prod_{e ∈ p} θ_e` over all paths p from an input or ⟨1⟩ to an output. The
    conservation laws, one per hidden node, are
    :math:`h_v = \sum_{e → v} θ_e^2 − \sum_{v → e} θ_e^2`, the bias counted among the in-edges.

    Parameters
    ----------
    graph : networkx.DiGraph
        Copied and frozen. The optional edge attribute ``weight`` and node attribute ``bias`` are
        read by :meth:`read_weights`.
    inputs, outputs : iterable of nodes
        In the order of the columns of the data, so no sets. All other nodes are hidden.
    biases : iterable of nodes
        Hidden and output nodes with a bias, in the order of their parameters.
    path_limit : int
        Largest number of paths that this network ever lists.

    Raises
    ------
    ArchitectureError
        The graph is not a network: a cycle, a self-loop, parallel edges, a node on no path, an
        input with in-edges, an output with out-edges, an unknown or repeated node. Names them.
    InputError
        Inputs, outputs or biases without an order.

    Notes
    -----
    The parameters are ordered as ``graph.edges``, then as ``biases``.

    References
    ----------
    Theory of the ReLU lift and its laws: [MPG]_.

    Examples
    --------
    >>> import networkx as nx
    >>> from liftflow.architectures import ReLUNetwork
    >>> graph = nx.DiGraph([("x", "a"), ("x", "y"), ("a", "y")])  # one neuron and a skip
    >>> network = ReLUNetwork(graph, inputs=["x"], outputs=["y"], biases=["a"])
    >>> network.dim, network.n_hidden, network.n_paths
    (4, 1, 3)
    >>> print(network.lift([2.0, 3.0, 5.0, 7.0]))  # x→a→y, x→y, ⟨1⟩→a→y
    [10.  3. 35.]
    """

    coordinates: ClassVar[str] = "basis"

    _attributes: tuple[nx.DiGraph, dict[int, dict[str, Any]]] | None = None
    """The graph without its edges, and the attributes of those that have some, by number."""

    @door
    def __init__(
        self,
        graph: nx.DiGraph,
        inputs: Iterable[Hashable],
        outputs: Iterable[Hashable],
        biases: Iterable[Hashable] = (),
        *,
        path_limit: int = PATH_LIMIT,
    ) -> None:
        dag = CompiledDAG.from_graph(graph, inputs, outputs, biases)
        blocks = [(dag.n_edges,)] + ([(dag.dim - dag.n_edges,)] if dag.dim > dag.n_edges else [])
        self._set_up(dag, blocks, path_limit)
        # A copy of 10⁶ edges takes seconds: kept is what the arrays lack, until somebody asks.
        parts = enumerate(graph.edges(data=True))
        edge_data = {number: dict(data) for number, (_, _, data) in parts if data}
        self._attributes = nx.create_empty_copy(graph), edge_data

    def _set_up(self, dag: CompiledDAG, blocks: Sequence[tuple[int, ...]], path_limit: int) -> None:
        self.dag = dag
        self.path_limit = as_count(path_limit, "path_limit", 1)
        super().__init__(dag.dim, (dag.n_paths,), dag.n_hidden, blocks)

    @classmethod
    @door
    def from_widths(
        cls, widths: Sequence[int], bias: bool = False, *, path_limit: int = PATH_LIMIT
    ) -> Self:
        """Build a layered network, all edges between consecutive layers.

        Parameters
        ----------
        widths : sequence of int
            Number of inputs, of neurons in each hidden layer, and of outputs.
        bias : bool
            Whether hidden and output nodes have a bias.
        path_limit : int
            Largest number of paths that this network ever lists.

        Returns
        -------
        network : ReLUNetwork
            Nodes are ``(layer, index)``. Edges come layer by layer, tail-major: block l of θ has
            shape ``(widths[l], widths[l+1])``; then the biases, layer by layer.
        """
        return cls.residual(widths, (), bias, path_limit=path_limit)

    @classmethod
    @door
    def residual(
        cls,
        widths: Sequence[int],
        skips: Iterable[tuple[int, int]],
        bias: bool = False,
        *,
        path_limit: int = PATH_LIMIT,
    ) -> Self:
        """Build a layered network with further complete blocks of edges that skip layers.

        Parameters
        ----------
        widths : sequence of int
            As in :meth:`from_widths`.
        skips : iterable of (int, int)
            Pairs of layers (from, to) with to ≥ from + 2. Their edges follow those of the layers.
        bias : bool
            Whether hidden and output nodes have a bias.
        path_limit : int
            Largest number of paths that this network ever lists.

        Raises
        ------
        ArchitectureError
            Fewer than two layers, or a skip that is none.
        """
        widths, skips = as_ordered(widths, "widths"), as_ordered(skips, "skips")
        widths = [as_count(width, "a width", 1) for width in widths]
        if len(widths) < 2:
            raise ArchitectureError(f"widths must name at least two layers, got {widths}")
        skips = list(skips)
        if not all(
            isinstance(skip, tuple | list | np.ndarray) and len(skip) == 2 for skip in skips
        ):
            raise InputError(f"skips must be pairs of layers, got {shown(skips)}")
        skips = [(as_count(a, "a layer"), as_count(b, "a layer")) for a, b in skips]
        for tail, head in skips:
            if not tail + 2 <= head < len(widths) or skips.count((tail, head)) > 1:
                raise ArchitectureError(
                    f"a skip goes once from a layer to one at least two later, at most "
                    f"{len(widths) - 1}; got ({tail}, {head}) in {skips}"
                )
        n_edges = sum(widths[a] * widths[b] for a, b in [*pairwise(range(len(widths))), *skips])
        refuse_beyond(n_edges, f"a network of {shown(n_edges)} edges", _EDGE_BYTES)
        dag = CompiledDAG.layered(widths, skips, bias)
        blocks = [(widths[a], widths[b]) for a, b in [*pairwise(range(len(widths))), *skips]]
        network = cls.__new__(cls)
        network._set_up(dag, blocks + ([(w,) for w in widths[1:]] if bias else []), path_limit)
        return network

    @classmethod
    @door
    def diagonal(cls, n: int, depth: int = 2, *, path_limit: int = PATH_LIMIT) -> Self:
        r"""Build a diagonal network: n disjoint chains of ``depth`` edges into one output.

        Parameters
        ----------
        n : int
            Number of inputs; :math:`z_i = \prod_l θ_{l,i}`.
        depth : int
            Number of edges on each chain, at least 2.
        path_limit : int
            Largest number of paths that this network ever lists.

        Returns
        -------
        network : ReLUNetwork
            Nodes are ``(layer, index)`` and the output ``"y"``; block l of θ has shape ``(n,)``.
        """
        n, depth = as_count(n, "n", 1), as_count(depth, "depth", 2)
        refuse_beyond(n * depth, f"a graph of {shown(n * depth)} edges", _GRAPH_BYTES)
        graph = nx.DiGraph()
        graph.add_nodes_from((layer, i) for layer in range(depth) for i in range(n))
        for layer in range(depth):
            graph.add_edges_from(
                ((layer, i), (layer + 1, i) if layer + 1 < depth else "y") for i in range(n)
            )
        inputs = [(0, i) for i in range(n)]
        network = cls(graph, inputs, ["y"], path_limit=path_limit)
        network.block_shapes = ((n,),) * depth
        return network

    def describe(self) -> dict[str, int]:
        """Return facts of the network for a summary, by name."""
        return {
            "n_hidden": self.n_hidden,
            "n_paths": self.n_paths,
            "image_dim": self.dim - self.n_hidden,
        }

    # The graph.

    @cached_property
    def graph(self) -> nx.DiGraph:
        """The network's graph, frozen."""
        nodes, edge_data = self._attributes or (nx.empty_graph(self.dag.nodes, nx.DiGraph), {})
        names = enumerate(self.dag.parameter_names[: self.dag.n_edges])
        graph = nx.create_empty_copy(nodes)
        graph.add_edges_from((*edge, edge_data.get(number, {})) for number, edge in names)
        return nx.freeze(graph)

    @property
    def inputs(self) -> tuple[Hashable, ...]:
        """Input nodes, in the order of the columns of the data."""
        return self.dag.nodes[: self.dag.n_inputs]

    @property
    def outputs(self) -> tuple[Hashable, ...]:
        """Output nodes, in the order of the columns of the result."""
        return tuple(self.dag.nodes[node] for node in self.dag.outputs)

    @property
    def hidden(self) -> tuple[Hashable, ...]:
        """Hidden nodes, in the order of the conservation laws."""
        return tuple(self.dag.nodes[node] for node in self.dag.hidden_nodes)

    @property
    def biases(self) -> tuple[Hashable, ...]:
        """Nodes with a bias, in the order of the parameters."""
        return tuple(self.dag.nodes[node] for node in self.dag.heads[self.dag.n_edges :])

    @property
    def parameter_names(self) -> tuple[tuple[Hashable, Hashable], ...]:
        """The edge (u, v) behind each parameter; ("⟨1⟩", v) for a bias."""
        return self.dag.parameter_names

    @property
    def n_hidden(self) -> int:
        """Number |H| of hidden nodes."""
        return self.dag.n_hidden

    @property
    def n_paths(self) -> int:
        """Number of paths, exactly, by dynamic programming on the graph."""
        return self.dag.n_paths

    @cached_property
    def _path_edges(self) -> IntArray:
        return freeze(path_table(self.dag, self.path_limit))

    def paths(self) -> list[tuple[Hashable, ...]]:
        """List all paths as tuples of nodes, in the order of the entries of z.

        The order is lexicographic: by start (the inputs in order, then ⟨1⟩), then by first edge,
        second edge, …, compared by parameter number. For layers it is row-major.

        Raises
        ------
        ArchitectureError
            More paths than ``path_limit``; the message holds their number.
        """
        names = self.parameter_names
        paths = []
        for row in self._path_edges:
            edges = [names[edge] for edge in row if edge < self.dim]
            paths.append((edges[0][0], *(head for _, head in edges)))
        return paths

    @door
    def read_weights(self, graph: nx.DiGraph | None = None) -> OneTheta:
        """Read θ from the edge attribute ``weight`` and the node attribute ``bias``.

        Parameters
        ----------
        graph : networkx.DiGraph, optional
            A graph with the same edges; by default the network's own.

        Raises
        ------
        ArchitectureError
            An attribute is missing; names the edges or nodes.
        """
        graph = self.graph if graph is None else as_instance(graph, nx.Graph, "graph")
        edges = self.parameter_names[: self.dag.n_edges]
        missing: list[Hashable] = [
            edge for edge in edges if "weight" not in graph.get_edge_data(*edge, {})
        ]
        missing += [node for node in self.biases if "bias" not in graph.nodes.get(node, {})]
        if missing:
            shown = ", ".join(map(repr, missing[:8]))
            raise ArchitectureError(
                f"no weight (or bias) in the graph for {shown}{', …' if missing[8:] else ''}; "
                "network.write_weights(theta) gives a graph with all of them",
                missing,
            )
        values = [graph.edges[edge]["weight"] for edge in edges]
        values += [graph.nodes[node]["bias"] for node in self.biases]
        return self._theta(values, "the weights of the graph")

    def write_weights(self, theta: OneTheta) -> nx.DiGraph:
        """Return a copy of the graph with θ in the attributes ``weight`` and ``bias``."""
        values = as_array(theta, "theta", (self.dim,), batch=False, differentiable=False).tolist()
        graph = nx.DiGraph(self.graph)
        n_edges = self.dag.n_edges
        edges: Mapping[Any, float] = dict(
            zip(self.parameter_names[:n_edges], values[:n_edges], strict=True)
        )
        nx.set_edge_attributes(graph, edges, "weight")
        nx.set_node_attributes(graph, dict(zip(self.biases, values[n_edges:], strict=True)), "bias")
        return graph

    # The lift.

    @cached_property
    def path_tails(self) -> IntArray:
        """Number of the tail of each edge of each path, shape=[n_paths, longest path].

        Padded by the number of nodes + 1; the constant source ⟨1⟩ has the number of nodes.
        """
        return freeze(np.append(self.dag.tails, len(self.dag.nodes) + 1)[self._path_edges])

    @cached_property
    def path_outputs(self) -> IntArray:
        """Column of the output at the end of each path, shape=[n_paths]."""
        last = np.sum(self._path_edges < self.dim, axis=1) - 1
        ends = self.dag.heads[self._path_edges[np.arange(self.n_paths), last]]
        column = np.zeros(len(self.dag.nodes), dtype=np.intp)
        column[self.dag.outputs] = np.arange(self.dag.outputs.size)
        return freeze(column[ends])

    @cached_property
    def path_incidence(self) -> csr_array:
        """Path–edge incidence P, shape=[n_paths, dim]."""
        rows, columns = np.nonzero(self._path_edges < self.dim)
        entries = (np.ones(rows.size), (rows, self._path_edges[rows, columns]))
        return freeze(csr_array(entries, shape=(self.n_paths, self.dim)))

    @cached_property
    def _scatter(self) -> csr_array:
        return scatter_matrix(self._path_edges, self.dim)

    def _gather(self, theta: Any, padding: float) -> list[Any]:
        """Entries of θ along the paths, one array of shape [..., n_paths] per step."""
        pad = padding + 0.0 * theta[..., :1]
        padded = gs.concatenate([theta, pad], axis=-1)
        return [padded[..., column] for column in self._path_edges.T]

    def lift(self, theta: Theta) -> Lifted:
        """Evaluate the path products φ(θ).

        Returns
        -------
        z : Lifted
            In the order of :meth:`paths`.
        """
        product = 1.0
        for factor in self._gather(self._theta(theta), 1.0):
            product = product * factor
        return product

    def lift_jvp(self, theta: Theta, tangent: Tangent) -> LiftedTangent:
        """Push a velocity of θ forward, ∂φ(θ) v, without dividing by a weight."""
        factors = self._gather(self._theta(theta), 1.0)
        speeds = self._gather(self._theta(tangent, "tangent"), 0.0)
        product, speed = factors[0], speeds[0] + 0.0 * factors[0]  # broadcast both ways
        for factor, own_speed in zip(factors[1:], speeds[1:], strict=True):
            product, speed = product * factor, speed * factor + product * own_speed
        return speed

    def lift_hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> LiftedTangent:
        """Evaluate the second derivative ∂²φ(θ)[a, b] without dividing by a weight."""
        factors = self._gather(self._theta(theta), 1.0)
        speeds_a = self._gather(self._theta(tangent_a, "tangent_a"), 0.0)
        speeds_b = self._gather(self._theta(tangent_b, "tangent_b"), 0.0)
        product, a, b, both = factors[0], speeds_a[0], speeds_b[0], 0.0
        for factor, own_a, own_b in zip(factors[1:], speeds_a[1:], speeds_b[1:], strict=True):
            both = both * factor + a * own_b + b * own_a
            a, b = a * factor + product * own_a, b * factor + product * own_b
            product = product * factor
        return both + 0.0 * (product + a + b)  # the shape, where all paths are single edges

    def lift_vjp(self, theta: Theta, covector: Covector) -> Tangent:
        """Pull a covector on z back, ∂φ(θ)ᵀ g, without dividing by a weight."""
        factors = self._gather(self._theta(theta), 1.0)
        running = self._lifted(covector, "covector") + 0.0 * factors[0]
        before = []
        for factor in factors:
            before.append(running)
            running = running * factor
        after, others = 1.0, []
        for factor, prefix in zip(factors[::-1], before[::-1], strict=True):
            others.append(prefix * after)
            after = after * factor
        return sparse_apply(gs.concatenate(others[::-1], axis=-1), self._scatter)

    def lift_hvp(self, theta: Theta, tangent: Tangent, covector: Covector) -> Tangent:
        """Differentiate the pullback, ∂²φ(θ)[v, ·]ᵀ g, without dividing by a weight."""
        factors = self._gather(self._theta(theta), 1.0)
        speeds = self._gather(self._theta(tangent, "tangent"), 0.0)
        form = self._lifted(covector, "covector")
        before = self._moving_products(factors, speeds)
        after = self._moving_products(factors[::-1], speeds[::-1])[::-1]
        moved = [
            form * (left_speed * right + left * right_speed)
            for (left, left_speed), (right, right_speed) in zip(before, after, strict=True)
        ]
        return sparse_apply(gs.concatenate(moved, axis=-1), self._scatter)

    @staticmethod
    def _moving_products(factors: list[Any], speeds: list[Any]) -> list[tuple[Any, Any]]:
        """Products of the factors before each step of the paths, with their velocities."""
        product, speed = 1.0 + 0.0 * speeds[0], 0.0 * (factors[0] + speeds[0])
        products = []
        for factor, own_speed in zip(factors, speeds, strict=True):
            products.append((product, speed))
            product, speed = product * factor, speed * factor + product * own_speed
        return products

    # The kernel on parameters.

    def lift_rank(self, theta: OneTheta) -> int:
        """Dimension of the image about φ(θ): that of a basis-path chart.

        Raises
        ------
        NotRecoverableError
            Dead parameters; names them. The image has no chart there.
        """
        return self.basis_chart(theta).dim

    def kernel_apply(self, theta: Theta, tangent: Tangent) -> Tangent:
        """Multiply a vector by ∂φ(θ)ᵀ∂φ(θ) in O(edges), whatever the number of paths.

        Notes
        -----
        The formula is in :class:`~liftflow.architectures.ParameterKernel` (ours).
        """

        def one(point: FloatArray, vector: FloatArray) -> FloatArray:
            return ParameterKernel(self.dag, point).apply(vector)

        theta = self._theta(theta, differentiable=False)
        vectors = self._theta(tangent, "tangent", differentiable=False)
        return over_batch(one, [theta, vectors], [1, 1])

    def kernel_diagonal(self, theta: Theta) -> Tangent:
        """Diagonal of ∂φ(θ)ᵀ∂φ(θ), the squared sensitivity of z to each parameter, in O(edges)."""
        theta = self._theta(theta, differentiable=False)
        return over_batch(lambda t: ParameterKernel(self.dag, t).diagonal(), [theta], [1])

    def kernel_matrix(self, theta: Theta) -> Matrix:
        """Evaluate ∂φ(θ)ᵀ∂φ(θ), the Gram matrix of the parameters, without listing a path.

        Returns
        -------
        kernel : Matrix
            Dense: 8 D² bytes.
        """
        theta = self._theta(theta, differentiable=False)
        shape = self.dim, self.dim
        return over_batch(lambda t: ParameterKernel(self.dag, t).matrix(), [theta], [1], shape)

    def lifted_norm(self, theta: Theta) -> Scalars:
        """Norm ‖φ(θ)‖ over all paths, by dynamic programming on the graph."""
        return self.lifted_distance(theta, np.zeros(self.dim))

    def lifted_distance(self, theta_a: Theta, theta_b: Theta) -> Scalars:
        """Distance ‖φ(θ_a) − φ(θ_b)‖ over all paths, by dynamic programming on the graph.

        Inner products of differences are propagated, so that close points lose no digits.
        """
        a = self._theta(theta_a, "theta_a", differentiable=False)
        b = self._theta(theta_b, "theta_b", differentiable=False)
        return over_batch(self._lifted_distance, [a, b], [1, 1], shape=())

    def _lifted_distance(self, a: FloatArray, b: FloatArray) -> FloatArray:
        try:
            with np.errstate(over="raise", under="raise", invalid="raise"):
                square = np.sum(self._squared_gaps(a, b))
            if np.isfinite(square):
                return np.sqrt(square)
        except FloatingPointError:
            pass
        # Count each node in a power of two of its own, which the largest path to it fits in.
        dag, size = self.dag, np.maximum(np.abs(a), np.abs(b))
        powers = np.where(size > 0, np.frexp(size)[1], -(2**20))
        units = np.zeros(len(dag.nodes) + 1, dtype=np.intp)
        for edges in self._edges_by_head_generation:
            heads, reach = dag.heads[edges], units[dag.tails[edges]] + powers[edges]
            units[heads] = np.iinfo(units.dtype).min
            np.maximum.at(units, heads, reach)
        shift = (units[dag.tails] - units[dag.heads]).astype(np.intc)
        squares = self._squared_gaps(np.ldexp(a, shift), np.ldexp(b, shift))
        return lengths(np.ldexp(np.sqrt(squares), units[dag.outputs].astype(np.intc)))

    def _squared_gaps(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Squared distance at each output, over the paths that end there."""
        # For the vectors A, B of products over the paths that end at a node: B·B, (A−B)·B and
        # (A−B)·(A−B), of which A a − B b = (A−B) a + B (a−b) makes the next ones.
        dag, gap = self.dag, a - b
        squares, mixed, gaps = (np.zeros(len(dag.nodes) + 1) for _ in range(3))
        squares[: dag.n_inputs] = squares[-1] = 1.0
        for edges in self._edges_by_head_generation:
            tails, heads, size = dag.tails[edges], dag.heads[edges], len(squares)
            a_e, b_e, d_e = a[edges], b[edges], gap[edges]
            s, m, g = squares[tails], mixed[tails], gaps[tails]
            squares += np.bincount(heads, s * b_e**2, size)
            mixed += np.bincount(heads, b_e * (a_e * m + d_e * s), size)
            gaps += np.bincount(heads, a_e**2 * g + 2 * a_e * d_e * m + d_e**2 * s, size)
        return np.maximum(gaps[dag.outputs], 0.0)

    @cached_property
    def _edges_by_head_generation(self) -> list[IntArray]:
        levels = self.dag.generation[self.dag.heads]
        order = np.argsort(levels, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(levels[order])) + 1)

    @property
    def channels(self) -> ChannelGraph:
        """The channel graph: which parameter rescales with which channel."""
        return self.dag.channels

    # The conservation laws.

    def conservation_laws(self, theta: Theta) -> OnHidden:
        r"""Evaluate :math:`h_v = \sum_{e → v} θ_e^2 − \sum_{v → e} θ_e^2`.

        Returns
        -------
        laws : OnHidden
            In the order of ``hidden``.
        """
        return sparse_apply(self._theta(theta) ** 2, self.dag.channels.law_matrix)

    def conservation_laws_jacobian(self, theta: Theta) -> Any:
        """Jacobian ∂h(θ) = 2 A D_θ as a dense matrix.

        Returns
        -------
        jacobian : array, shape=[..., n_hidden, dim]
        """
        theta = self._theta(theta)
        self._refuse_dense(theta, self.n_laws, self.dim)
        return 2.0 * self.dag.channels.law_matrix.toarray() * theta[..., None, :]

    def laws_rank(self, theta: OneTheta) -> int:
        """Number of independent laws at θ: the hidden nodes whose Laplacian is not singular.

        Raises
        ------
        NotRecoverableError
            Dead parameters; names them. The image has no chart there.
        """
        self.basis_chart(theta)
        return self.n_hidden

    def laws_jvp(self, theta: Theta, tangent: Tangent) -> OnHidden:
        """Push a velocity of θ forward by the laws, ∂h(θ) v = 2 A (θ ∘ v)."""
        product = self._theta(theta) * self._theta(tangent, "tangent")
        return 2.0 * sparse_apply(product, self.dag.channels.law_matrix)

    def laws_size(self, theta: Theta, tangent: Tangent | None = None) -> OnHidden:
        """Size of the terms of h(θ), or of ∂h(θ) v: the same sums over edges, all positive."""
        theta = np.abs(self._theta(theta, differentiable=False))
        if tangent is None:
            return sparse_apply(theta**2, self._law_sums)
        vector = np.abs(self._theta(tangent, "tangent", differentiable=False))
        return 2.0 * sparse_apply(theta * vector, self._law_sums)

    @cached_property
    def _law_sums(self) -> csr_array:
        return abs(self.dag.channels.law_matrix)

    def laws_hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> OnHidden:
        """Second derivative ∂²h[v, w] of the laws, the same at every θ."""
        return self.laws_jvp(tangent_a, tangent_b)

    @cached_property
    def laplacian(self) -> Laplacian:
        """Solver for ∂h ∂hᵀ / 4 = A D_θ² Aᵀ, the grounded Laplacian of the hidden nodes."""
        return self.dag.channels.laplacian

    def solve_laws_jvp(self, theta: Theta, laws_tangent: OnHidden) -> Tangent:
        """Solve ∂h(θ) v = w for the shortest v, by a solve with the graph Laplacian."""

        def step(point: FloatArray, speed: FloatArray) -> FloatArray:
            multipliers = self.laplacian.solve(point**2, speed / 2)
            return point * (self.dag.channels.exponents @ multipliers)

        theta = self._theta(theta, differentiable=False)
        tangent = as_array(laws_tangent, "vector", (self.n_laws,), differentiable=False)
        return over_batch(step, [theta, tangent], [1, 1])

    def project_to_laws(self, theta: Theta, laws: OnHidden, *, max_steps: int = 50) -> Theta:
        """Slide θ along its fibre, by rescaling, to the one point where h has these values.

        Parameters
        ----------
        max_steps : int
            Not used: the problem is convex and always solved.

        Returns
        -------
        theta : Theta
            With the same φ and the same function of the network.

        Raises
        ------
        NotRecoverableError
            Dead parameters; names them.
        """

        def slide(point: FloatArray, values: FloatArray) -> FloatArray:
            return self.rescale(point, self.laplacian.rescaling(point**2, values) / 2)

        theta = self._theta(theta, differentiable=False)
        return over_batch(slide, [theta, self._laws(laws)], [1, 1])

    def rescale(self, theta: Theta, log_factors: OnHidden) -> Theta:
        """Act by the rescaling symmetry, θ_{u→v} ↦ (λ_v / λ_u) θ_{u→v}.

        Parameters
        ----------
        log_factors : OnHidden
            Logarithms of λ at the hidden nodes.

        Returns
        -------
        theta : Theta
            With the same φ and the same function of the network.
        """
        theta = self._theta(theta, differentiable=False)
        logs = as_array(log_factors, "log_factors", (self.n_hidden,), differentiable=False)
        padded = np.concatenate([logs, np.zeros((*logs.shape[:-1], 1))], axis=-1)
        return theta * np.exp(padded[..., self.dag.head_hidden] - padded[..., self.dag.tail_hidden])

    # Recovery.

    def basis_chart(self, theta: OneTheta) -> BasisPathChart:
        """Chart of φ(𝓜_θ₀) whose anchors are the strongest at θ, with the signs of θ.

        Returns
        -------
        chart : BasisPathChart
            D − |H| coordinates.

        Raises
        ------
        NotRecoverableError
            Dead parameters; names them.
        """
        point = as_array(theta, "theta", (self.dim,), batch=False, differentiable=False)
        return make_chart(self.dag, point)

    def recover(
        self, z: Lifted, laws: OnHidden, *, near: Theta | None = None, tolerance: float = 1e-6
    ) -> Theta:
        """Recover Ψ(z, h) from the products of all paths.

        Parameters
        ----------
        near : Theta, optional
            A point to start from, whose signs are taken over: φ forgets one sign per hidden node.
            Without it, every anchor in-edge gets a positive weight.
        tolerance : float
            Largest relative distance of z to the image.

        Raises
        ------
        NotOnImageError
            z is farther from the image; holds the relative residual.
        NotRecoverableError
            All paths through some hidden node vanish.
        """
        tolerance = as_number(tolerance, "tolerance", 0.0)
        arrays = [self._lifted(z, differentiable=False), self._laws(laws)]
        if near is not None:
            arrays.append(self._theta(near, "near", differentiable=False))

        def one(
            point: FloatArray, values: FloatArray, start: FloatArray | None = None
        ) -> FloatArray:
            chart, coordinates = self._chart_of(point)
            projected = self.lift(chart.representative(coordinates))
            residual = self.image_residual(point, projected)
            if not residual <= tolerance:
                raise NotOnImageError(
                    f"z is not on the image of the lift: relative residual {residual:.2e}, "
                    f"expected at most {tolerance:.0e}; image().projection(z) moves it there",
                    residual,
                )
            theta = chart.recover(coordinates, values, near=start)
            return theta if start is None else follow_signs(self.dag, theta, start)

        return over_batch(one, arrays, [1] * len(arrays), shape=(self.dim,))

    def image_representative(self, z: Lifted) -> Theta:
        """Find some θ̂ whose lift is z, or a point of the image near z: a retraction.

        Raises
        ------
        NotRecoverableError
            All paths through some hidden node vanish.
        """

        def one(point: FloatArray) -> FloatArray:
            chart, coordinates = self._chart_of(point)
            return chart.representative(coordinates)

        return over_batch(one, [self._lifted(z, differentiable=False)], [1], shape=(self.dim,))

    def project_to_range(self, theta: Theta, lifted_vec: LiftedTangent) -> LiftedTangent:
        """Project orthogonally onto range ∂φ(θ), of whatever sizes the path products are.

        Parameters
        ----------
        lifted_vec : LiftedTangent
            Any vector of the lifted space.
        """
        if not self._dense_jacobian:
            return super().project_to_range(theta, lifted_vec)

        def project(point: FloatArray, vector: FloatArray) -> FloatArray:
            basis = self._tangent_basis(point)
            return basis @ (basis.T @ vector)

        return self._over_lifted(project, theta, lifted_vec, self.lifted_shape)

    def solve_vjp(self, theta: Theta, covector: Tangent) -> Covector:
        """Solve ∂φ(θ)ᵀ g = v for the shortest g, where v is a pullback."""
        if not self._dense_jacobian:
            return super().solve_vjp(theta, covector)

        def solve(point: FloatArray, vector: FloatArray) -> FloatArray:
            basis = self._tangent_basis(point)
            rows = self.lift_vjp(point, basis.T)  # all of range ∂φᵀ, so that Qᵀ g is unique
            sizes = lengths(rows)
            frame, triangle, pivots = _qr_by_rows((rows / sizes[:, None]).T)
            solution = np.empty_like(sizes)
            solution[pivots] = scipy.linalg.solve_triangular(triangle, frame.T @ vector)
            return basis @ (solution / sizes)

        arrays = [
            self._theta(theta, differentiable=False),
            self._theta(covector, "covector", differentiable=False),
        ]
        return over_batch(solve, arrays, [1, 1], shape=self.lifted_shape)

    def _tangent_basis(self, theta: FloatArray) -> FloatArray:
        """Orthonormal basis of range ∂φ: D − |H| columns, so that no rank is decided on."""
        chart = self.basis_chart(theta)
        columns = self.lift_jvp(theta, chart.lift_tangent(theta, np.eye(chart.dim))).T
        return _qr_by_rows(columns / lengths(columns.T))[0]

    def project_to_image(self, z: Lifted, *, near: Any = None) -> Lifted:
        """Move a nearby vector onto the image: rebuild all paths from the strongest basis of them.

        Parameters
        ----------
        near : array-like, optional
            Not used: nothing is iterated.

        Raises
        ------
        NotRecoverableError
            All paths through some hidden node vanish.
        """
        return self.lift(self.image_representative(z))

    def image_residual(self, z: FloatArray, projected: FloatArray) -> float:
        """Distance of z to a point of the image, relative to z, the largest of all path lengths.

        Paths of different lengths have different units: short ones would hide what is wrong in
        long ones.

        Parameters
        ----------
        z, projected : array, shape=[n_paths]
            A vector, and the point of the image found for it.
        """
        z = as_vector(z, "z", self.n_paths)
        gap = as_vector(projected, "projected", self.n_paths) - z
        residuals = [0.0]
        for paths in self._paths_by_length:
            own = float(lengths(gap[paths]))
            size = float(lengths(z[paths]))
            residuals.append(own / size if size else np.inf if own else 0.0)
        return max(residuals)

    @cached_property
    def _paths_by_length(self) -> list[Any]:
        counts = np.sum(self._path_edges < self.dim, axis=1)
        if np.all(counts == counts[:1]):
            return [slice(None)]
        return [np.flatnonzero(counts == count) for count in np.unique(counts)]

    def _chart_of(self, z: FloatArray) -> tuple[BasisPathChart, FloatArray]:
        """Find the chart with the strongest anchors at z, and the coordinates of z in it."""
        dag, table = self.dag, self._path_edges
        # The strongest path through a node is the strongest path to it, then from it.
        rank = np.empty(z.size, dtype=np.intp)
        rank[np.argsort(np.abs(z), kind="stable")] = np.arange(z.size)
        by_rank = np.empty_like(rank)
        by_rank[rank] = np.arange(z.size)
        best = np.full(self.n_hidden + 1, -1)
        head_hidden = np.append(dag.head_hidden, -1)
        for column in table.T:
            np.maximum.at(best, head_hidden[column], rank)
        strongest = by_rank[best[:-1]]
        dead = np.flatnonzero(z[strongest] == 0)
        if dead.size:
            edges = np.isin(dag.head_hidden, dead) | np.isin(dag.tail_hidden, dead)
            names = [self.parameter_names[edge] for edge in np.flatnonzero(edges)]
            shown = ", ".join(repr(self.hidden[number]) for number in dead[:8])
            raise NotRecoverableError(
                f"every path through the hidden nodes {shown} vanishes in z: the parameters at "
                "these nodes are dead, and z does not determine them",
                names,
            )
        rows = table[strongest]
        at_head = head_hidden[rows] == np.arange(self.n_hidden)[:, None]
        step = np.argmax(at_head, axis=1)
        numbers = np.arange(self.n_hidden)
        anchors = Anchors(dag, rows[numbers, step], rows[numbers, step + 1])
        chart = BasisPathChart(self.laplacian, anchors, np.ones(self.n_hidden))
        return chart, z[self.path_numbers(chart)]

    @cached_property
    def _path_offsets(self) -> tuple[IntArray, IntArray]:
        """How many paths come before an edge's among those from its tail, and before a start's."""
        counts = np.array(self.dag.suffix_counts)
        by_tail = np.argsort(self.dag.tails, kind="stable")
        own = counts[self.dag.heads[by_tail]]
        total = np.cumsum(own) - own
        first = np.searchsorted(self.dag.tails[by_tail], self.dag.tails[by_tail])
        offsets = np.empty(self.dim, dtype=np.intp)
        offsets[by_tail] = total - total[first]
        starts = np.zeros(counts.size, dtype=np.intp)
        order = [*range(self.dag.n_inputs), counts.size - 1]
        starts[order] = np.cumsum(counts[order]) - counts[order]
        return freeze((offsets, starts))

    def path_numbers(self, chart: BasisPathChart) -> IntArray:
        """Position in z of each basis path of a chart: ranks add up along paths.

        Parameters
        ----------
        chart : BasisPathChart
            Of this network.

        Returns
        -------
        numbers : array, shape=[chart.dim]
        """
        if as_instance(chart, BasisPathChart, "chart").dag is not self.dag:
            raise InputError("chart must be a basis_chart of this network, got one of another")
        offsets, starts = self._path_offsets
        anchors = chart.anchors
        # The offset of the start belongs to the first edge of a path.
        first = offsets + starts[self.dag.tails]
        before = np.append(anchors.sums_before(first), 0)[self.dag.tail_hidden]
        after = np.append(anchors.sums_after(offsets), 0)[self.dag.head_hidden]
        return (before + first + after)[chart.edges]

    def _align(self, theta: FloatArray, base_point: FloatArray) -> FloatArray:
        """Flip hidden nodes while that brings θ closer; the best for one hidden layer."""
        theta, dag = follow_signs(self.dag, theta, base_point), self.dag
        signs = np.ones(self.n_hidden + 1)
        overlap = theta * base_point
        parts = list(
            zip(dag.hidden_generations, dag.channels.into, dag.channels.out_of, strict=True)
        )
        flipped = True
        while flipped:
            flipped = False
            for hidden, into, out_of in parts:
                pull = np.bincount(
                    np.append(dag.head_hidden[into], dag.tail_hidden[out_of]) - hidden[0],
                    np.append(
                        overlap[into] * signs[dag.tail_hidden[into]],
                        overlap[out_of] * signs[dag.head_hidden[out_of]],
                    ),
                )
                wrong = hidden[signs[hidden] * pull < 0]
                signs[wrong] *= -1
                flipped |= wrong.size > 0
        return theta * signs[dag.head_hidden] * signs[dag.tail_hidden]

    def _signs(self) -> IntArray:
        if self.n_hidden > MOST_SIGNS:  # a dense matrix of all of them may be large
            return super()._signs()
        return np.abs(self.dag.channels.law_matrix.toarray()).astype(np.intp)

    # The network's function.

    def forward(self, theta: Theta, inputs: Inputs) -> Any:
        """Evaluate the network, differentiable once in θ.

        Returns
        -------
        outputs : array, shape=[..., n_samples, n_outputs]
        """
        shape = (None, self.dag.n_inputs)
        data = as_array(inputs, "inputs", shape, batch=False, differentiable=False)
        return _forward(self._theta(theta), data, self)

    def forward_vjp(
        self, theta: OneTheta, inputs: Inputs
    ) -> tuple[FloatArray, Callable[[FloatArray], FloatArray]]:
        """Evaluate the network at one θ and return its backpropagation, both unchecked.

        Returns
        -------
        outputs : array, shape=[n_samples, n_outputs]
            At all samples.
        pull_back : callable
            Takes a cotangent of shape [n_samples, n_outputs] to the gradient, shape=[dim].
            A ReLU at 0 has derivative 0.
        """
        dag = self.dag
        theta, inputs = self._data(theta, inputs)
        matrices = [block.matrix(theta) for block in dag.blocks]
        activations = self._activations(matrices, inputs)

        def pull_back(cotangent: FloatArray) -> FloatArray:
            gradient = np.empty(self.dim)
            deltas = self._output_deltas(cotangent, activations)
            blocks = list(zip(dag.blocks, matrices, strict=True))
            head_done = len(activations)
            for block, matrix in reversed(blocks):
                head, tail = block.head_generation, block.tail_generation
                delta = deltas[head]
                if head < head_done:  # all that flows back into this generation has arrived
                    slopes = self._slopes(head, activations[head])
                    if slopes is not None:
                        delta *= slopes
                    head_done = head
                block.outer_sum(self._tail_values(block, activations), delta, gradient)
                if tail > 0:
                    if deltas[tail] is None:
                        deltas[tail] = delta @ matrix.T
                    else:
                        deltas[tail] += delta @ matrix.T
            return gradient

        return self._outputs_of(activations), pull_back

    def _data(self, theta: Any, inputs: Any) -> tuple[FloatArray, FloatArray]:
        if type(inputs) is not np.ndarray or inputs.dtype != np.float64 or inputs.ndim != 2:
            inputs = as_array(inputs, "inputs", differentiable=False)
        if inputs.ndim != 2 or inputs.shape[1] != self.dag.n_inputs:
            raise ShapeError(f"inputs must have shape (n, {self.dag.n_inputs}), got {inputs.shape}")
        return as_vector(theta, "theta", self.dim), inputs

    @cached_property
    def _output_level(self) -> int | None:
        """The generation that is exactly the outputs in their order, if there is one."""
        level = int(self.dag.generation[self.dag.outputs[0]])
        return level if np.array_equal(self.dag.members[level], self.dag.outputs) else None

    def _outputs_of(self, activations: list[FloatArray]) -> FloatArray:
        if self._output_level is not None:
            return activations[self._output_level]
        levels = self.dag.generation[self.dag.outputs]
        columns = self.dag.position[self.dag.outputs]
        ends = zip(levels, columns, strict=True)
        return np.stack([activations[level][:, column] for level, column in ends], axis=1)

    def _output_deltas(self, cotangent: FloatArray, activations: list[FloatArray]) -> list[Any]:
        """Cotangents by generation: those of the outputs, None where nothing has arrived yet."""
        deltas: list[Any] = [None] * len(activations)
        if self._output_level is not None:
            deltas[self._output_level] = cotangent
            return deltas
        for number, node in enumerate(self.dag.outputs):
            level = self.dag.generation[node]
            if deltas[level] is None:
                deltas[level] = np.zeros_like(activations[level])
            deltas[level][:, self.dag.position[node]] = cotangent[:, number]
        return deltas

    def _activations(self, matrices: list[Any], inputs: FloatArray) -> list[FloatArray]:
        """Values of the nodes of each generation, shape=[n_samples, n_nodes] each."""
        values: list[Any] = [inputs] + [None] * (len(self.dag.members) - 1)
        blocks = self.dag.blocks
        for number, (block, matrix) in enumerate(zip(blocks, matrices, strict=True)):
            head = block.head_generation
            product = self._tail_values(block, values) @ matrix
            if values[head] is None:
                values[head] = product
            else:
                values[head] += product
            if number + 1 == len(blocks) or blocks[number + 1].head_generation > head:
                self._relu(head, values[head])
        return values

    @staticmethod
    def _tail_values(block: Block, values: list[FloatArray]) -> FloatArray:
        if block.tail_generation < 0:
            return np.ones((len(values[0]), 1))
        return values[block.tail_generation]

    @cached_property
    def _rectified(self) -> list[Any]:
        """Per generation: True or False where all nodes or none are hidden, else a mask."""
        masks = [self.dag.hidden_number[nodes] >= 0 for nodes in self.dag.members]
        return [bool(mask[0]) if np.all(mask == mask[0]) else mask for mask in masks]

    def _relu(self, level: int, values: FloatArray) -> None:
        mask = self._rectified[level]
        if mask is True:
            np.maximum(values, 0.0, out=values)
        elif mask is not False:
            np.maximum(values, 0.0, out=values, where=mask)

    def _slopes(self, level: int, values: FloatArray) -> Any:
        """Differentiate the activation at each node, given its value; None where all are linear."""
        mask = self._rectified[level]
        if mask is False:
            return None
        return values > 0 if mask is True else (values > 0) | ~mask

    def activations(self, theta: OneTheta, inputs: Inputs) -> FloatArray:
        """Value of every node on every sample, unchecked.

        Returns
        -------
        values : array, shape=[n_samples, n_nodes + 1]
            Columns by node number; the last is the constant source ⟨1⟩.
        """
        theta, inputs = self._data(theta, inputs)
        matrices = [block.matrix(theta) for block in self.dag.blocks]
        values = np.ones((len(inputs), len(self.dag.nodes) + 1))
        for nodes, own in zip(self.dag.members, self._activations(matrices, inputs), strict=True):
            values[:, nodes] = own
        return values

    # Points.

    def random_point(self, n_samples: int = 1, rng: Rng = None) -> Theta:
        """Draw parameters by He's initialisation.

        Weights into a node with n in-edges are normal of variance 2/n, biases uniform in
        ±1/√n. No weight is zero.

        Parameters
        ----------
        n_samples : int
            With one sample there is no sample axis, as in geomstats.
        """
        count, rng = as_count(n_samples, "n_samples", 1), as_rng(rng)
        n_edges, heads = self.dag.n_edges, self.dag.heads
        fan_in = np.maximum(np.bincount(heads[:n_edges], minlength=len(self.dag.nodes)), 1)[heads]
        refuse_beyond(count * self.dim, f"{count} points of {self.dim} numbers")
        weights = rng.standard_normal((count, n_edges)) * np.sqrt(2.0 / fan_in[:n_edges])
        limits = np.broadcast_to(1 / np.sqrt(fan_in[n_edges:]), (count, self.dim - n_edges))
        points = np.concatenate([weights, rng.uniform(-limits, limits)], axis=1)
        return points[0] if count == 1 else points

    def fibre_point(self, theta: Theta, rng: Rng = None) -> Theta:
        """Rescale every hidden node by a random factor, standard normal in its logarithm.

        Returns
        -------
        theta : Theta
            The same φ and the same function, other conservation laws.
        """
        theta = self._theta(theta, differentiable=False)
        logs = as_rng(rng).standard_normal((*theta.shape[:-1], self.n_hidden))
        return self.rescale(theta, logs)
