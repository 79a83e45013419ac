"""Networks with shared and frozen weights, and with other positively homogeneous units."""

from collections.abc import Hashable, Iterable, Sequence
from copy import copy
from functools import cached_property, partial
from typing import Any, Self

import geomstats.backend as gs
import networkx as nx
import numpy as np

from liftflow.architectures.anchors import ChannelChart
from liftflow.architectures.attributes import compile_graph, graph_of
from liftflow.architectures.channels import ChannelGraph
from liftflow.architectures.constructors import PATH_LIMIT, Constructors
from liftflow.architectures.dag import CompiledDAG
from liftflow.architectures.forward import TiedFunction
from liftflow.architectures.laplacian import Laplacian
from liftflow.architectures.monomial_lift import MonomialLift
from liftflow.architectures.path_kernel import path_distance
from liftflow.architectures.relu import ReLUNetwork
from liftflow.architectures.sharing import shared_channels
from liftflow.architectures.tying import Tying, Units
from liftflow.doors import counted, door
from liftflow.errors import ArchitectureError, NotOnImageError
from liftflow.linalg import over_batch
from liftflow.typing import (
    FloatArray,
    IntArray,
    Lifted,
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
    freeze,
    refuse_beyond,
    shown,
)


class TiedNetwork(ReLUNetwork):
    r"""Network whose edges may share weights or be frozen, on nodes of several kinds.

    ``ReLUNetwork`` makes one where a graph has such attributes. θ holds each trained weight once.
    Weights :math:`w(θ)` of the edges are entries of θ, or constants; z lists the distinct monomials
    :math:`φ_p(θ) = \prod_{e ∈ p} w_e(θ)`, those of the same exponents once, for the first of their
    paths. The laws, recovery, and coordinates of the image come from the network's channel graph.

    Parameters
    ----------
    graph : networkx.DiGraph or networkx.MultiDiGraph
        Edge attributes: ``parameter``, a name that edges of one weight share; ``frozen``, whether
        ``weight`` is a constant. Node attributes: ``activation``, "relu" (default), "leaky_relu"
        with ``slope``, "abs", "identity", "max" (of what flows in over frozen edges) or
        "relu_power" with ``degree``. The bias of a node is shared by ``bias_parameter`` and frozen
        at the value ``bias`` by ``bias_frozen``.
    inputs, outputs : iterable of nodes
        In the order of the columns of the data.
    biases : iterable of nodes
        Hidden and output nodes with a bias, frozen ones too.
    path_limit : int
        Largest number of monomials that this network ever lists.

    Raises
    ------
    ArchitectureError
        The graph is not a network, or its attributes contradict each other; names edges and nodes.

    Notes
    -----
    Parameters are ordered by their first use, edges first, then biases. Frozen edges of weight 0
    count as none.

    References
    ----------
    Ours.
    """

    tying: Tying
    units: Units

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
        dag, tying, units, kept = compile_graph(graph, inputs, outputs, biases)
        self._compiled(dag, tying, units, path_limit=path_limit)
        # A copy of 10⁶ edges takes seconds: kept is what the arrays lack, until somebody asks.
        attributes = {i: dict(data) for i, (*_, data) in enumerate(graph.edges(data=True)) if data}
        keys = [key for *_, key in graph.edges(keys=True)] if graph.is_multigraph() else []
        lost = np.setdiff1d(np.arange(graph.number_of_edges()), kept)
        every = list(graph.edges()) if lost.size else []
        dropped = {int(i): every[i] for i in lost}
        self._source = nx.create_empty_copy(graph), attributes, keys, dropped, kept

    _source: Any = None
    """The graph without its edges; by number, what they have; and those that are left out."""

    def _set_up(self, dag: CompiledDAG, blocks: Sequence[tuple[int, ...]], path_limit: int) -> None:
        units = Units.rectifiers(dag.hidden_number[:-1] >= 0)
        self._compiled(dag, Tying.of_own(dag.dim), units, blocks, path_limit)

    def _compiled(
        self,
        dag: CompiledDAG,
        tying: Tying,
        units: Units,
        blocks: Sequence[tuple[int, ...]] | None = None,
        path_limit: int = PATH_LIMIT,
    ) -> Self:
        """Set up from arrays."""
        self.dag, self.tying, self.units = dag, tying, units
        self.path_limit = as_count(path_limit, "path_limit", 1)
        self.dim = as_count(tying.dim, "dim", 1)
        refuse_beyond(self.dim, f"one θ of {self.dim} numbers")
        if blocks is None:
            n_weights = int(np.count_nonzero(tying.first < dag.n_edges))
            blocks = [(n,) for n in (n_weights, self.dim - n_weights) if n]
        self.block_shapes = self._blocks(blocks)
        return self

    def _alike(self, dag: CompiledDAG, tying: Tying, units: Units) -> Self:
        network = type(self).__new__(type(self))
        return network._compiled(dag, tying, units, path_limit=self.path_limit)

    # What the channel graph knows.

    @cached_property
    def channels(self) -> ChannelGraph:
        """The channel graph: which parameter rescales with which channel."""
        dag = self.dag
        return shared_channels(
            dag.tail_hidden,
            dag.head_hidden,
            self.tying.parameters,
            self.units.degrees[dag.hidden_nodes],
            self.hidden,
            self.parameter_names,
        )

    @property
    def n_laws(self) -> int:  # type: ignore[override]
        """Number of conservation laws, one per channel."""
        return self.channels.n_channels

    @property
    def laplacian(self) -> Laplacian:
        """Solver for ∂h ∂hᵀ / 4 = Xᵀ D_θ² X."""
        return self.channels.laplacian

    def rescale(self, theta: Theta, log_factors: OnHidden) -> Theta:
        """Act by the rescaling symmetry, θ ↦ e^{Xτ} θ.

        Parameters
        ----------
        log_factors : OnHidden
            One logarithm τ per channel.
        """
        return self.channels.rescale(theta, log_factors)

    def fibre_point(self, theta: Theta, rng: Rng = None) -> Theta:
        """Rescale every channel by a random factor, standard normal in its logarithm.

        Returns
        -------
        theta : Theta
            The same φ and the same function, other conservation laws.
        """
        theta = self._theta(theta, differentiable=False)
        logs = as_rng(rng).standard_normal((*theta.shape[:-1], self.n_laws))
        return self.rescale(theta, logs)

    def basis_chart(self, theta: OneTheta) -> ChannelChart:  # type: ignore[override]
        """Chart of φ(𝓜_θ₀) by the parameters beside the strongest anchors at θ.

        Returns
        -------
        chart : ChannelChart
            D − C coordinates.

        Raises
        ------
        NotRecoverableError
            Zeros cut channels off from the ground; names them.
        """
        return self.channels.chart(theta)

    def _facts(self) -> str:
        ends = f"{len(self.inputs):,} inputs", f"{len(self.outputs):,} outputs"
        return ", ".join([*ends, f"{self.dim:,} parameters", counted(self.n_laws, "channels")])

    def describe(self) -> dict[str, int]:
        """Return facts of the network for a summary, by name."""
        return {"n_channels": self.n_laws, "image_dim": self.dim - self.n_laws}

    # The monomials.

    @cached_property
    def _paths(self) -> MonomialLift:
        parts = self.dag, self.tying, self.units, self.channels
        return MonomialLift(*parts, self.path_limit, self.block_shapes)

    def _lift_map(self) -> MonomialLift:
        return copy(self._paths)  # the monomials are listed once

    @property
    def n_paths(self) -> int:
        """Number of entries of z; of all paths where there are too many to tell them apart."""
        return self._paths.size

    @property
    def lifted_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of z."""
        return (self._paths.size,)

    @property
    def parameter_names(self) -> tuple[Any, ...]:
        """What each parameter is called: its name if it is shared, else its edge."""
        names, first = self.tying.names, enumerate(self.tying.first.tolist())
        return tuple(names.get(i, self._edge_names[edge]) for i, edge in first)

    def paths(self) -> list[tuple[Hashable, ...]]:
        """List the first path of each entry of z, as a tuple of nodes.

        Raises
        ------
        ArchitectureError
            More monomials than ``path_limit``.
        """
        names = self.dag.parameter_names
        paths = []
        for row in self._paths.monomials.edges:
            edges = [names[edge] for edge in row if edge < len(names)]
            paths.append((edges[0][0], *(head for _, head in edges)))
        return paths

    def lifted_norm(self, theta: Theta) -> Scalars:
        """Norm ‖φ(θ)‖; over all paths where there are too many monomials to list."""
        theta = self._theta(theta, differentiable=False)
        if self._paths.listed:
            return self._lifted_length(self.lift(theta))
        nothing, weights = np.zeros(self.dag.dim), self.tying.weights(theta)
        return over_batch(partial(path_distance, self.dag), [weights, nothing], [1, 1], shape=())

    def lifted_distance(self, theta_a: Theta, theta_b: Theta) -> Scalars:
        """Distance ‖φ(θ_a) − φ(θ_b)‖; over all paths where there are too many monomials to list."""
        a = self._theta(theta_a, "theta_a", differentiable=False)
        b = self._theta(theta_b, "theta_b", differentiable=False)
        return over_batch(self._lifted_distance, [a, b], [1, 1], shape=())

    def _lifted_distance(self, a: FloatArray, b: FloatArray) -> FloatArray:
        if self._paths.listed:
            return np.asarray(self._lifted_length(self.lift(a) - self.lift(b)))
        return np.asarray(path_distance(self.dag, self.tying.weights(a), self.tying.weights(b)))

    def kernel_apply(self, theta: Theta, tangent: Tangent) -> Tangent:
        """Multiply a vector by ∂φ(θ)ᵀ∂φ(θ)."""
        return self.lift_vjp(theta, self.lift_jvp(theta, tangent))

    def kernel_matrix(self, theta: Theta) -> Any:
        """Evaluate ∂φ(θ)ᵀ∂φ(θ), the Gram matrix of the parameters."""
        jacobian = self.lift_jacobian(theta)
        return gs.einsum("...ki,...kj->...ij", jacobian, jacobian)

    def kernel_diagonal(self, theta: Theta) -> Tangent:
        """Diagonal of ∂φ(θ)ᵀ∂φ(θ), the squared sensitivity of z to each parameter."""
        return gs.sum(self.lift_jacobian(theta) ** 2, axis=-2)

    # Recovery.

    def recover(
        self, z: Lifted, laws: OnHidden, *, near: Theta | None = None, tolerance: float = 1e-6
    ) -> Theta:
        """Recover Ψ(z, h) from the monomials.

        Parameters
        ----------
        near : Theta, optional
            A point to start from, whose signs are taken over.
        tolerance : float
            Largest relative distance of z to the image.

        Raises
        ------
        NotOnImageError
            z is farther from the image; holds the relative residual.
        NotRecoverableError
            z does not determine some parameters.
        """
        tolerance = as_number(tolerance, "tolerance", 0.0)
        arrays = [self._lifted(z, differentiable=False), self._laws(laws)]
        if near is not None:
            arrays.append(self._theta(near, "near", differentiable=False))

        def one(
            point: FloatArray, values: FloatArray, start: FloatArray | None = None
        ) -> FloatArray:
            theta: FloatArray = self._paths.preimage(point, start)
            if theta is self._recovered[0] and np.array_equal(values, self._recovered[1]):
                return np.asarray(theta)
            residual = self._paths.residual(point, self.phi(theta))
            if not residual <= tolerance:
                raise NotOnImageError(
                    f"z is not on the image of the lift: relative residual {residual:.2e}, "
                    f"expected at most {tolerance:.0e}; image().projection(z) moves it there",
                    residual,
                )
            theta = self.channels.project_to_laws(theta, values, warm=start is not None)
            self._recovered = self._paths.remember(point, theta), freeze(values.copy())
            return theta

        return over_batch(one, arrays, [1] * len(arrays), shape=(self.dim,))

    def image_representative(self, z: Lifted, *, near: Theta | None = None) -> Theta:
        """Find some θ̂ whose lift is z, or a point of the image near z.

        Parameters
        ----------
        near : Theta, optional
            A point to start from, whose signs are taken over.
        """
        if near is None:
            return super().image_representative(z)
        arrays = [self._lifted(z, differentiable=False), self._theta(near, differentiable=False)]
        return over_batch(self._paths.preimage, arrays, [1, 1], (self.dim,))

    _recovered: tuple[Any, Any] = None, None
    """The point of the last recovery, and its laws: a flow asks for it several times in a row."""

    def project_to_image(self, z: Lifted, *, near: Theta | None = None) -> Lifted:
        """Move a nearby vector onto the image, by Gauss–Newton steps on θ.

        Parameters
        ----------
        near : Theta, optional
            Where they start.
        """
        if near is None:
            return self.lift(self.image_representative(z))

        def nearest(point: FloatArray, start: FloatArray) -> FloatArray:
            theta = self._paths.preimage(point, start)
            projected: FloatArray = self.lift(theta)
            self._paths.remember(projected, theta)
            return projected

        arrays = [self._lifted(z, differentiable=False), self._theta(near, differentiable=False)]
        return over_batch(nearest, arrays, [1, 1], (self.n_paths,))

    def _align(self, theta: FloatArray, base_point: FloatArray) -> FloatArray:
        """Flip channels while that brings θ closer."""
        flips = self._signs()
        turned = True
        while turned:
            turned = False
            for own in flips.astype(bool):
                if np.sum(theta[own] * base_point[own]) < 0:
                    theta = np.where(own, -theta, theta)
                    turned = True
        return theta

    def _signs(self) -> IntArray:
        signs = np.abs(self.channels.law_matrix.toarray()).astype(np.intp) % 2
        return np.asarray(signs[np.any(signs, axis=1)])

    # The network's function.

    @cached_property
    def _function(self) -> TiedFunction:
        return TiedFunction(self.dag, self.tying, self.units)

    # Points.

    def random_point(self, n_samples: int = 1, rng: Rng = None) -> Theta:
        """Draw parameters by He's initialisation, from the node that each is first used at.

        Parameters
        ----------
        n_samples : int
            With one sample there is no sample axis, as in geomstats.
        """
        count, rng = as_count(n_samples, "n_samples", 1), as_rng(rng)
        refuse_beyond(count * self.dim, f"{count} points of {self.dim} numbers")
        n_edges, heads = self.dag.n_edges, self.dag.heads
        fan_in = np.maximum(np.bincount(heads[:n_edges], minlength=len(self.dag.nodes)), 1)
        first = self.tying.first
        sizes, weights = fan_in[heads[first]], first < n_edges
        drawn = rng.standard_normal((count, self.dim)) * np.sqrt(2.0 / sizes)
        limits = 1 / np.sqrt(sizes[~weights])
        drawn[:, ~weights] = rng.uniform(-limits, limits, (count, limits.size))
        return drawn[0] if count == 1 else drawn

    # The graph.

    @cached_property
    def graph(self) -> Any:
        """The network's graph, frozen."""
        if self._source is None:
            return nx.freeze(graph_of(self.dag, self.tying, self.units))
        nodes, attributes, keys, edges, kept = self._source
        n_edges = self.dag.n_edges
        edges = edges | dict(zip(kept.tolist(), self.dag.parameter_names[:n_edges], strict=False))
        graph = nx.create_empty_copy(nodes)
        graph.add_edges_from(
            (*edges[i], *keys[i : i + 1], attributes.get(i, {})) for i in sorted(edges)
        )
        return nx.freeze(graph)

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
        places, numbers = self._places(graph), self.tying.parameters
        n_edges = self.dag.n_edges
        values = [place.get("weight" if i < n_edges else "bias") for i, place in enumerate(places)]
        theta, wrong = np.full(self.dim, np.nan), []
        for edge in self.tying.trained:
            known, value = theta[numbers[edge]], values[edge]
            if value is not None and not np.isnan(known) and known != value:
                wrong.append(self._edge_names[edge])
            if value is not None:
                theta[numbers[edge]] = value
        missing = [self.parameter_names[i] for i in np.flatnonzero(np.isnan(theta))]
        if missing or wrong:
            what = "write_weights(theta) gives a graph with all that are missing (weight, bias)"
            what = "edges of one shared weight have different ones" if wrong else what
            raise ArchitectureError(f"{what}: {shown(wrong or missing)}", wrong or missing)
        return self._theta(theta, "the weights of the graph")

    def write_weights(self, theta: OneTheta) -> Any:
        """Return a copy of the graph with θ in the attributes ``weight`` and ``bias``."""
        theta = as_array(theta, "theta", (self.dim,), batch=False, differentiable=False)
        graph = type(self.graph)(self.graph)
        values, n_edges = self.tying.weights(theta).tolist(), self.dag.n_edges
        for edge, (place, value) in enumerate(zip(self._places(graph), values, strict=True)):
            place["weight" if edge < n_edges else "bias"] = value
        return graph

    @cached_property
    def _edge_names(self) -> tuple[Any, ...]:
        names = self.dag.parameter_names
        if self._source is None or not self._source[2]:
            return names
        keys, kept, n_edges = self._source[2], self._source[4], self.dag.n_edges
        keyed = zip(names[:n_edges], kept.tolist(), strict=False)
        return *((*edge, keys[i]) for edge, i in keyed), *names[n_edges:]

    def _places(self, graph: Any) -> list[dict[str, Any]]:
        """Attributes of each edge, or of the node of each bias; empty where there is none."""
        edges = self._edge_names[: self.dag.n_edges]
        found = [graph.edges[edge] if graph.has_edge(*edge) else {} for edge in edges]
        return found + [graph.nodes.get(node, {}) for node in self.biases]


Constructors._tied = TiedNetwork
