"""ReLU networks on any directed acyclic graph."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar, Self

import networkx as nx
import numpy as np
from scipy.sparse import csr_array

from liftflow.architectures.attributes import has_attributes
from liftflow.architectures.channels import ChannelGraph, ChannelLaws
from liftflow.architectures.constructors import PATH_LIMIT, Constructors
from liftflow.architectures.dag import BIAS, CompiledDAG
from liftflow.architectures.forward import DAGFunction
from liftflow.architectures.laplacian import Laplacian
from liftflow.architectures.maps import SmoothMap
from liftflow.architectures.path_kernel import ParameterKernel
from liftflow.architectures.path_lift import PathLift
from liftflow.architectures.paths import BasisPathChart, make_chart
from liftflow.architectures.signs import MOST_SIGNS, follow_signs, turn_signs
from liftflow.doors import door
from liftflow.errors import ArchitectureError, InputError, listed
from liftflow.linalg import ROUNDING, over_batch
from liftflow.typing import (
    FloatArray,
    Inputs,
    IntArray,
    Lifted,
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
    as_rng,
    as_vector,
    refuse_beyond,
    shown,
)

_GRAPH_BYTES = 1500  # of one edge, with what a network and a graph keep of it


class ReLUNetwork(Constructors):
    r"""ReLU network on a directed acyclic graph, lifted to its path products.

    Hidden nodes compute the ReLU of the weighted sum of their predecessors plus their bias;
    outputs are linear. A bias is the weight of an edge from a constant source ⟨1⟩. The lift is
    :math:`φ_p(θ) = \prod_{e ∈ p} θ_e` over all paths p from an input or ⟨1⟩ to an output. The
    conservation laws, one per hidden node, are
    :math:`h_v = \sum_{e → v} θ_e^2 − \sum_{v → e} θ_e^2`, the bias counted among the in-edges.

    Parameters
    ----------
    graph : networkx.DiGraph or networkx.MultiDiGraph
        Copied and frozen. The optional edge attribute ``weight`` and node attribute ``bias`` are
        read by :meth:`read_weights`. Further attributes, or parallel edges, make a
        :class:`~liftflow.architectures.TiedNetwork`: ``parameter`` and ``frozen`` of edges,
        ``activation``, ``bias_parameter`` and ``bias_frozen`` of nodes.
    inputs, outputs : iterable of nodes
        In the order of the columns of the data, so no sets. All other nodes are hidden.
    biases : iterable of nodes
        Hidden and output nodes with a bias, in the order of their parameters.
    path_limit : int
        Largest number of paths that this network ever lists.

    Raises
    ------
    ArchitectureError
        The graph is not a network: a cycle, a self-loop, a node on no path, an input with
        in-edges, an output with out-edges, an unknown or repeated node. Names them.
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

    _further = Constructors._further - {"basis_chart"} | {
        "activations",
        "biases",
        "dag",
        "draw",
        "forward_vjp",
        "hidden",
        "image_representative",
        "image_residual",
        "kernel_apply",
        "kernel_diagonal",
        "kernel_matrix",
        "laplacian",
        "path_incidence",
        "path_limit",
        "path_numbers",
        "path_outputs",
        "path_tails",
        "rescale",
        "tying",
        "units",
    }

    _source: Any = None
    """The graph without its edges; by number, what they have; and those that are left out."""

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
        if has_attributes(graph):
            if self._tied.__base__ is not type(self):
                raise ArchitectureError(
                    f"{type(self).__name__} is a ReLUNetwork with a weight to each edge; derive it "
                    "from TiedNetwork for graphs with shared or frozen weights, other activations "
                    "or parallel edges"
                )
            self.__class__ = self._tied
            type(self).__init__(self, graph, inputs, outputs, biases, path_limit=path_limit)
            return
        dag = CompiledDAG.from_graph(graph, inputs, outputs, biases)
        self._set_up(path_limit, dag)
        self._keep(graph, np.arange(dag.n_edges), ())

    def _keep(self, graph: Any, kept: IntArray, lost: Sequence[int]) -> None:
        """Keep of a graph what the arrays of its edges lack, and the edges that are left out."""
        # A copy of 10⁶ edges takes seconds: that is made when somebody asks.
        attributes = {i: dict(data) for i, (*_, data) in enumerate(graph.edges(data=True)) if data}
        keys = [key for *_, key in graph.edges(keys=True)] if graph.is_multigraph() else []
        every = list(graph.edges()) if lost else []
        dropped = {i: every[i] for i in lost}
        self._source = nx.create_empty_copy(graph), attributes, keys, dropped, kept

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

        Returns
        -------
        network : ReLUNetwork
            Nodes are ``(layer, index)``. Edges come layer by layer, tail-major: block l of θ has
            shape ``(widths[l], widths[l+1])``; then the biases, layer by layer.
        """
        return cls.residual(widths, (), bias, path_limit=path_limit)

    @classmethod
    @door
    def diagonal(cls, n: int, depth: int = 2, *, path_limit: int = PATH_LIMIT) -> Self:
        r"""Build a diagonal network: n disjoint chains of ``depth`` edges into one output.

        Parameters
        ----------
        n : int
            Number of inputs; :math:`z_i = \prod_l θ_{l,i}`.

        Returns
        -------
        network : ReLUNetwork
            Nodes are ``(layer, index)`` and the output ``"y"``; block l of θ has shape ``(n,)``.
        """
        n, depth = as_count(n, "n", 1), as_count(depth, "depth", 2)
        size = n * depth
        refuse_beyond(size, f"a graph of {shown(size)} edges", _GRAPH_BYTES)
        labels = [*((layer, i) for layer in range(depth) for i in range(n)), "y"]
        tails = np.arange(size)
        heads = np.minimum(tails + n, size)  # the output has the number after all others
        dag = CompiledDAG.from_edges(labels, tails, heads, range(n), [size], size)
        return cls._of(dag, [(n,)] * depth, path_limit=path_limit)

    def describe(self) -> dict[str, int]:
        return {
            "n_hidden": self.n_hidden,
            "n_paths": self.n_paths,
            "image_dim": self.dim - self.n_hidden,
        }

    # The graph.

    @cached_property
    def graph(self) -> nx.DiGraph:
        """The network's graph, frozen."""
        if self._source is None:
            return nx.freeze(self._graph_of_arrays())
        nodes, attributes, keys, edges, kept = self._source
        names = self.dag.parameter_names[: self.dag.n_edges]
        edges = edges | dict(zip(kept.tolist(), names, strict=False))
        graph = nx.create_empty_copy(nodes)
        graph.add_edges_from(
            (*edges[i], *keys[i : i + 1], attributes.get(i, {})) for i in sorted(edges)
        )
        return nx.freeze(graph)

    def _graph_of_arrays(self) -> nx.DiGraph:
        graph = nx.empty_graph(self.dag.nodes, nx.DiGraph)
        graph.add_edges_from(self.dag.parameter_names[: self.dag.n_edges])
        return graph

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

    def paths(self) -> list[tuple[Hashable, ...]]:
        """List all paths as tuples of nodes, in the order of the entries of z.

        The order is lexicographic: by start (the inputs in order, then ⟨1⟩), then by first edge,
        second edge, …, compared by parameter number. For layers it is row-major. Where weights are
        shared, it is the first path of each entry.

        Raises
        ------
        ArchitectureError
            More paths than ``path_limit``; the message holds their number.
        """
        names = self.dag.parameter_names
        paths = []
        for row in self._paths.edges:
            edges = [names[edge] for edge in row if edge < len(names)]
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
            An attribute is missing, or edges of one weight have two; names them.
        """
        graph = self.graph if graph is None else as_instance(graph, nx.Graph, "graph")
        places, n_edges = self._places(graph), self.dag.n_edges
        values = [place.get("weight" if i < n_edges else "bias") for i, place in enumerate(places)]
        given = np.array([e for e in self.tying.trained if values[e] is not None], dtype=np.intp)
        own = as_array([values[e] for e in given], "the weights of the graph")
        numbers, theta = self.tying.parameters[given], np.full(self.dim, np.nan)
        theta[numbers[::-1]] = own[::-1]  # of edges of one weight the first counts
        wrong = [self._edge_names[e] for e in given[theta[numbers] != own]]
        names: Sequence[Hashable] = self.parameter_names
        biases: dict[Hashable, Hashable] = {(BIAS, node): node for node in self.biases}
        missing = [biases.get(names[i], names[i]) for i in np.flatnonzero(np.isnan(theta))]
        if wrong:
            what = f"edges of one shared weight have different ones: {shown(wrong)}"
            raise ArchitectureError(what, wrong)
        if missing:
            raise ArchitectureError(
                f"no weight (or bias) in the graph for {listed(map(repr, missing))}; "
                "network.write_weights(theta) gives a graph with all of them",
                missing,
            )
        return theta

    def write_weights(self, theta: OneTheta) -> nx.DiGraph:
        """Return a copy of the graph with θ in the attributes ``weight`` and ``bias``."""
        theta = as_array(theta, "theta", (self.dim,), batch=False, differentiable=False)
        graph = type(self.graph)(self.graph)
        values, n_edges = self.tying.weights(theta).tolist(), self.dag.n_edges
        for edge, (place, value) in enumerate(zip(self._places(graph), values, strict=True)):
            place["weight" if edge < n_edges else "bias"] = value
        return graph

    @cached_property
    def _edge_names(self) -> Sequence[Any]:
        """The edge behind each weight, with its key in a graph of parallel edges."""
        names = self.dag.parameter_names
        if self._source is None or not self._source[2]:
            return names
        keys, kept, n_edges = self._source[2], self._source[4], self.dag.n_edges
        keyed = zip(names[:n_edges], kept.tolist(), strict=False)
        return *((*edge, keys[i]) for edge, i in keyed), *names[n_edges:]

    def _places(self, graph: Any) -> list[dict[str, Any]]:
        """Attributes of each edge, or of the node of each bias; empty where there is none."""
        edges = self._edge_names[: self.dag.n_edges]
        found = [graph.get_edge_data(*edge, default={}) for edge in edges]
        return found + [graph.nodes.get(node, {}) for node in self.biases]

    # The lift.

    @cached_property
    def _paths(self) -> PathLift:
        return PathLift(self.dag, self.path_limit, self.block_shapes)

    def _lift_map(self) -> SmoothMap:
        return self._paths

    def lift(self, theta: Theta) -> Lifted:
        """Evaluate the path products φ(θ), in the order of :meth:`paths`."""
        return self.phi.own("value")(self._theta(theta))

    @property
    def path_tails(self) -> IntArray:
        """Number of the tail of each edge of each path, shape=[n_paths, longest path]."""
        return self._paths.tails

    @property
    def path_outputs(self) -> IntArray:
        """Column of the output at the end of each path, shape=[n_paths]."""
        return self._paths.outputs

    @property
    def path_incidence(self) -> csr_array:
        """Path–edge incidence P, shape=[n_paths, dim]."""
        return self._paths.incidence

    def kernel_apply(self, theta: Theta, tangent: Tangent) -> Tangent:
        """Multiply a vector by ∂φ(θ)ᵀ∂φ(θ) in O(edges), whatever the number of paths."""

        def one(point: FloatArray, vector: FloatArray) -> Tangent:
            return ParameterKernel(self.dag, point).apply(vector)

        theta = self._theta(theta, differentiable=False)
        vectors = self._theta(tangent, "tangent", differentiable=False)
        return over_batch(one, [theta, vectors], [1, 1])

    def kernel_diagonal(self, theta: Theta) -> Tangent:
        """Diagonal of ∂φ(θ)ᵀ∂φ(θ), the squared sensitivity of z to each parameter, in O(edges)."""
        theta = self._theta(theta, differentiable=False)
        return over_batch(lambda t: ParameterKernel(self.dag, t).diagonal(), [theta], [1])

    def kernel_matrix(self, theta: Theta) -> Matrix:
        """Evaluate ∂φ(θ)ᵀ∂φ(θ) as a dense matrix, without listing a path."""
        theta = self._theta(theta, differentiable=False)
        shape = self.dim, self.dim
        return over_batch(lambda t: ParameterKernel(self.dag, t).matrix(), [theta], [1], shape)

    def lifted_norm(self, theta: Theta) -> Scalars:
        """Norm ‖φ(θ)‖ over all paths, by dynamic programming on the graph."""
        theta = self._theta(theta, differentiable=False)
        return over_batch(self._paths.norm, [theta], [1], shape=())

    def lifted_distance(self, theta_a: Theta, theta_b: Theta) -> Scalars:
        """Distance ‖φ(θ_a) − φ(θ_b)‖ over all paths, by dynamic programming on the graph."""
        a = self._theta(theta_a, "theta_a", differentiable=False)
        b = self._theta(theta_b, "theta_b", differentiable=False)
        return over_batch(self._paths.distance, [a, b], [1, 1], shape=())

    @property
    def channels(self) -> ChannelGraph:
        """The channel graph: which parameter rescales with which channel."""
        return self.dag.channels

    # The conservation laws.

    def _laws_map(self) -> SmoothMap:
        return ChannelLaws(self.channels, self.block_shapes)

    def conservation_laws(self, theta: Theta) -> OnHidden:
        """Evaluate the laws, in the order of ``hidden``."""
        return self.h.own("value")(self._theta(theta))

    @property
    def laplacian(self) -> Laplacian:
        """Solver for ∂h ∂hᵀ / 4 = Xᵀ D_θ² X, the grounded Laplacian of the channels."""
        return self.channels.laplacian

    def project_to_laws(self, theta: Theta, laws: OnHidden, *, max_steps: int = 50) -> Theta:
        """Slide θ along its fibre, by rescaling, to the one point where h has these values."""
        return self.channels.project_to_laws(theta, self._laws(laws))

    def rescale(self, theta: Theta, log_factors: OnHidden) -> Theta:
        """Act by the rescaling symmetry, θ ↦ e^{Xτ} θ, or θ_{u→v} ↦ (λ_v / λ_u) θ_{u→v}.

        Parameters
        ----------
        log_factors : OnHidden
            Logarithms τ = log λ, one per channel.
        """
        return self.channels.rescale(theta, log_factors)

    # Recovery.

    def basis_chart(self, theta: OneTheta) -> BasisPathChart:
        """Chart of φ(𝓜_θ₀) whose anchors are the strongest at θ, with the signs of θ.

        Raises
        ------
        NotRecoverableError
            Dead parameters; names them.
        """
        return make_chart(self.dag, self._one_theta(theta))

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
        recover = partial(self._recover, tolerance)
        return over_batch(recover, arrays, [1] * len(arrays), shape=(self.dim,))

    def _recover(
        self, tolerance: float, z: FloatArray, laws: FloatArray, near: FloatArray | None = None
    ) -> OneTheta:
        if near is not None and self._is_above(near, z, laws):
            return near
        chart, coordinates = self._paths.chart_of(z)
        self._paths.require(z, chart.representative(coordinates), tolerance)
        theta = chart.recover(coordinates, laws, near=near)
        return theta if near is None else follow_signs(self.channels, theta, near)

    def _is_above(self, theta: FloatArray, z: FloatArray, laws: FloatArray) -> bool:
        """Whether θ is all that could be recovered: what an inner loop hands on it recovered."""
        if not np.all(np.abs(self.phi(theta) - z) <= ROUNDING * np.abs(z)):
            return False
        return bool(np.all(np.abs(self.h(theta) - laws) < ROUNDING * self.h.terms(theta)))

    def image_representative(self, z: Lifted, *, near: Theta | None = None) -> Theta:
        """Find some θ̂ whose lift is z, or a point of the image near z: a retraction."""
        return self._over_image(self._paths.representative, z, near, self.dim)

    def project_to_image(self, z: Lifted, *, near: Theta | None = None) -> Lifted:
        """Move a nearby vector onto the image: rebuild all paths from the strongest of them.

        Parameters
        ----------
        near : Theta, optional
            Its strongest paths are taken, which makes the projection smooth, as long as none of
            them is :data:`~liftflow.architectures.anchors.REANCHOR_RATIO` times weaker than the
            strongest of z. By default those of z. Where weights are shared, Gauss–Newton steps
            start there.
        """
        return self._over_image(self._paths.projected, z, near, self.n_paths)

    def _over_image(
        self, find: Callable[..., FloatArray], z: Lifted, near: Theta | None, size: int
    ) -> FloatArray:
        arrays = [self._lifted(z, differentiable=False)]
        if near is not None:
            arrays.append(self._theta(near, "near", differentiable=False))
        return over_batch(find, arrays, [1] * len(arrays), (size,))

    def image_residual(self, z: FloatArray, projected: FloatArray) -> float:
        """Distance of z to a point of the image, relative to z, the largest of all path lengths."""
        z = as_vector(z, "z", self.n_paths)
        return self._paths.residual(z, as_vector(projected, "projected", self.n_paths))

    def path_numbers(self, chart: BasisPathChart) -> IntArray:
        """Position in z of each basis path of a chart of this network, shape=[chart.dim]."""
        if as_instance(chart, BasisPathChart, "chart").dag is not self.dag:
            raise InputError("chart must be a basis_chart of this network, got one of another")
        return self._paths.numbers(chart)

    def _align(self, theta: FloatArray, base_point: FloatArray) -> OneTheta:
        followed = follow_signs(self.channels, theta, base_point)
        return turn_signs(self.channels, followed, base_point)

    def _signs(self) -> IntArray:
        if self.n_hidden > MOST_SIGNS:  # a dense matrix of all of them may be large
            return super()._signs()
        return np.asarray(self.channels.law_sums.toarray(), dtype=np.intp)

    # The network's function.

    @cached_property
    def _function(self) -> DAGFunction:
        return DAGFunction(self.dag)

    def forward(self, theta: Theta, inputs: Inputs) -> Any:
        """Evaluate the network, shape=[..., n_samples, n_outputs], differentiable once."""
        shape = (None, self.dag.n_inputs)
        data = as_array(inputs, "inputs", shape, batch=False)
        return self._function(self._theta(theta), data)

    def forward_vjp(
        self, theta: OneTheta, inputs: Inputs
    ) -> tuple[FloatArray, Callable[[FloatArray], FloatArray]]:
        """Evaluate the network at one θ and return its backpropagation, both unchecked."""
        return self._function.vjp(theta, inputs)

    def activations(self, theta: OneTheta, inputs: Inputs) -> FloatArray:
        """Value of every node on every sample, unchecked."""
        return self._function.values(theta, inputs)

    # Points.

    def _drawn(self, count: int, rng: np.random.Generator) -> Theta:
        """He's initialisation: no weight is zero.

        Weights into a node with n in-edges are normal of variance 2/n, biases uniform in ±1/√n.
        """
        n_edges, heads = self.dag.n_edges, self.dag.heads
        fan_in = np.maximum(np.bincount(heads[:n_edges], minlength=len(self.dag.nodes)), 1)[heads]
        weights = rng.standard_normal((count, n_edges)) * np.sqrt(2.0 / fan_in[:n_edges])
        if n_edges == self.dim:
            return weights
        limits = np.broadcast_to(1 / np.sqrt(fan_in[n_edges:]), (count, self.dim - n_edges))
        return np.concatenate([weights, rng.uniform(-limits, limits)], axis=1)

    def fibre_point(self, theta: Theta, rng: Rng = None) -> Theta:
        """Rescale every channel by a random factor, standard normal in its logarithm."""
        theta = self._theta(theta, differentiable=False)
        logs = as_rng(rng).standard_normal((*theta.shape[:-1], self.n_laws))
        return self.rescale(theta, logs)
