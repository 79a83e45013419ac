"""Networks with shared and frozen weights, and with other positively homogeneous units."""

from collections.abc import Hashable, Iterable
from copy import copy
from functools import cached_property
from typing import Any

import geomstats.backend as gs
import networkx as nx
import numpy as np

from liftflow.architectures.attributes import compile_graph, graph_of
from liftflow.architectures.channels import ChannelChart, ChannelGraph
from liftflow.architectures.constructors import PATH_LIMIT, Constructors
from liftflow.architectures.dag import CompiledDAG
from liftflow.architectures.forward import TiedFunction
from liftflow.architectures.monomial_lift import MonomialLift
from liftflow.architectures.relu import ReLUNetwork
from liftflow.architectures.sharing import shared_channels
from liftflow.architectures.tying import Blocks
from liftflow.doors import counted, door
from liftflow.typing import (
    FloatArray,
    IntArray,
    OneTheta,
    Tangent,
    Theta,
    as_blocks,
    as_count,
    freeze,
    refuse_beyond,
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
    inputs, outputs, biases : iterable of nodes
        As those of a :class:`ReLUNetwork`, frozen biases too.
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
        self._set_up(path_limit, dag, (), tying, units)
        self._keep(graph, kept, np.setdiff1d(np.arange(graph.number_of_edges()), kept).tolist())

    def _set_up(self, path_limit: int, dag: CompiledDAG, blocks: Blocks = (), *tied: Any) -> None:
        self.dag, self.path_limit = dag, as_count(path_limit, "path_limit", 1)
        if tied:
            self.tying, self.units = tied
        self.dim = as_count(self.tying.dim, "dim", 1)
        refuse_beyond(self.dim, f"one θ of {self.dim} numbers")
        n_weights = int(np.count_nonzero(self.tying.first < dag.n_edges))
        flat = [(n,) for n in (n_weights, self.dim - n_weights) if n]
        self.block_shapes = as_blocks(blocks or flat, self.dim)

    # What the channel graph knows.

    @cached_property
    def channels(self) -> ChannelGraph:
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

    def basis_chart(self, theta: OneTheta) -> ChannelChart:  # type: ignore[override]
        """Chart of φ(𝓜_θ₀) by the D − C parameters beside the strongest anchors at θ.

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

    def kernel_apply(self, theta: Theta, tangent: Tangent) -> Tangent:
        return self.lift_vjp(theta, self.lift_jvp(theta, tangent))

    def kernel_matrix(self, theta: Theta) -> Any:
        jacobian = self.lift_jacobian(theta)
        return gs.einsum("...ki,...kj->...ij", jacobian, jacobian)

    def kernel_diagonal(self, theta: Theta) -> Tangent:
        return gs.sum(self.lift_jacobian(theta) ** 2, axis=-2)

    # Recovery.

    def _recover(
        self, tolerance: float, z: FloatArray, laws: FloatArray, near: FloatArray | None = None
    ) -> OneTheta:
        theta = self._paths.representative(z, near)
        if theta is self._recovered[0] and np.array_equal(laws, self._recovered[1]):
            return theta
        self._paths.require(z, theta, tolerance)
        theta = self.channels.project_to_laws(theta, laws, warm=near is not None)
        self._recovered = self._paths.remember(z, theta), freeze(laws.copy())
        return theta

    _recovered: tuple[Any, Any] = None, None
    """The point of the last recovery, and its laws: a flow asks for it several times in a row."""

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

    def _drawn(self, count: int, rng: np.random.Generator) -> Theta:
        """He's initialisation, from the node that each parameter is first used at."""
        n_edges, heads = self.dag.n_edges, self.dag.heads
        fan_in = np.maximum(np.bincount(heads[:n_edges], minlength=len(self.dag.nodes)), 1)
        first = self.tying.first
        sizes, weights = fan_in[heads[first]], first < n_edges
        drawn = rng.standard_normal((count, self.dim)) * np.sqrt(2.0 / sizes)
        limits = 1 / np.sqrt(sizes[~weights])
        drawn[:, ~weights] = rng.uniform(-limits, limits, (count, limits.size))
        return drawn

    # The graph.

    def _graph_of_arrays(self) -> nx.DiGraph:
        return graph_of(self.dag, self.tying, self.units)


Constructors._tied = TiedNetwork
