"""Networks of kinds that many know by name, and networks from layers."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from liftflow.architectures.base import Architecture
from liftflow.architectures.builders import recurrent_parts, residual_parts
from liftflow.architectures.convolution import Conv, Pool, convolutional_parts
from liftflow.architectures.dag import CompiledDAG
from liftflow.architectures.incidence import reached
from liftflow.architectures.tying import Blocks, Tying, Units
from liftflow.doors import counted, door
from liftflow.errors import ArchitectureError, InputError, ShapeError
from liftflow.typing import (
    FloatArray,
    Matrix,
    OneTheta,
    as_array,
    as_count,
    as_ordered,
    as_own,
    refuse_beyond,
    shown,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EDGE_BYTES = 150  # of one edge, with what a network keeps of it
PATH_LIMIT = 2_000_000
"""Default for the largest number of paths that are ever listed."""


class Constructors(Architecture):
    """What makes networks, apart from graphs."""

    _tied: ClassVar[Any] = None
    """The class for graphs with shared or frozen weights, and other units."""

    dag: CompiledDAG
    path_limit: int

    @cached_property
    def tying(self) -> Tying:
        """The parameter of each edge; by default its own."""
        return Tying.of_own(self.dim)

    @cached_property
    def units(self) -> Units:
        """The function of each node; by default a ReLU where it is hidden."""
        return Units.rectifiers(self.dag.hidden_number[:-1] >= 0)

    @classmethod
    def _of(cls, *parts: Any, path_limit: int = PATH_LIMIT) -> Self:
        """Make a network of what :meth:`_set_up` takes."""
        network = cls.__new__(cls)
        network._set_up(path_limit, *parts)
        return network

    def _set_up(self, path_limit: int, dag: CompiledDAG, blocks: Blocks = (), *tied: Any) -> None:
        """Set up from arrays: without blocks, of the weights and the biases."""
        self.dag, self.path_limit = dag, as_count(path_limit, "path_limit", 1)
        flat = [(n,) for n in (dag.n_edges, dag.dim - dag.n_edges) if n]
        super().__init__(dag.dim, (dag.n_paths,), dag.n_hidden, blocks or flat)

    @classmethod
    @door
    def residual(
        cls,
        widths: Sequence[int],
        skips: Iterable[tuple[int, int]],
        bias: bool = False,
        identity: bool = False,
        *,
        path_limit: int = PATH_LIMIT,
    ) -> Self:
        """Build a layered network with further complete blocks of edges that skip layers.

        Parameters
        ----------
        skips : iterable of (int, int)
            Pairs of layers (from, to) with to ≥ from + 2. Their edges follow those of the layers.
        identity : bool
            Whether skips are the identity, frozen, between layers of one width.
        """
        widths, skips = as_ordered(widths, "widths"), as_ordered(skips, "skips")
        widths = [as_count(width, "a width", 1) for width in widths]
        if len(widths) < 2:
            raise ArchitectureError(f"widths must name at least two layers, got {widths}")
        skips = [tuple(s) if isinstance(s, np.ndarray) and s.ndim else s for s in skips]
        if not all(isinstance(skip, tuple | list) and len(skip) == 2 for skip in skips):
            raise InputError(f"skips must be pairs of layers, got {shown(skips)}")
        skips = [(as_count(a, "a layer"), as_count(b, "a layer")) for a, b in skips]
        for tail, head in skips:
            if not tail + 2 <= head < len(widths) or skips.count((tail, head)) > 1:
                raise ArchitectureError(
                    f"a skip goes once from a layer to one at least two later, at most "
                    f"{len(widths) - 1}; got ({tail}, {head}) in {skips}"
                )
        blocks = [(widths[a], widths[b]) for a, b in [*pairwise(range(len(widths))), *skips]]
        n_edges = sum(a * b for a, b in blocks)
        refuse_beyond(n_edges, f"a network of {shown(n_edges)} edges", EDGE_BYTES)
        if identity:
            parts = residual_parts(widths, skips, bias)
            made: Self = cls._tied._of(*parts, path_limit=path_limit)
            return made
        biases = [(width,) for width in widths[1:]] if bias else []
        dag = CompiledDAG.layered(widths, skips, bias)
        return cls._of(dag, [*blocks, *biases], path_limit=path_limit)

    @classmethod
    @door
    def convolutional(
        cls,
        image_shape: Sequence[int],
        layers: Sequence[Conv | Pool],
        n_outputs: int,
        bias: bool = True,
        *,
        path_limit: int = PATH_LIMIT,
    ) -> Any:
        """Build a convolutional network: convolutions with ReLUs, pooling, and a complete layer.

        Parameters
        ----------
        image_shape : sequence of int
            Channels, height and width; an image is a row of the data, flattened in this order.
        layers : sequence of Conv or Pool
            From the image on.
        n_outputs : int
            Of the complete layer that follows them.
        bias : bool
            Whether channels and outputs have a bias.

        Returns
        -------
        network : TiedNetwork
            The blocks of its θ are the filters, of shape (out, in, height, width), the complete
            layer (in, out), then the biases, layer by layer.

        Raises
        ------
        ArchitectureError
            Layers that do not fit the image.

        Examples
        --------
        >>> from liftflow.architectures import Conv, Pool, ReLUNetwork
        >>> network = ReLUNetwork.convolutional((1, 4, 4), [Conv(2, 3), Pool("max", 2)], 2)
        >>> network.dim, network.n_laws, network.n_paths
        (26, 2, 42)
        """
        layers, n_outputs = as_ordered(layers, "layers"), as_count(n_outputs, "n_outputs", 1)
        shape = as_ordered(image_shape, "image_shape")
        parts = convolutional_parts(shape, layers, n_outputs, bias)
        return cls._tied._of(*parts, path_limit=path_limit)

    @classmethod
    @door
    def recurrent(
        cls,
        n_inputs: int,
        n_hidden: int,
        n_outputs: int,
        n_steps: int,
        bias: bool = True,
        *,
        path_limit: int = PATH_LIMIT,
    ) -> Any:
        """Build a recurrent network, unrolled, whose outputs read its last hidden state.

        Parameters
        ----------
        n_steps : int
            At least 2; a row of the data holds the inputs of the first step, of the second, ….
        bias : bool
            Whether hidden and output nodes have a bias.

        Returns
        -------
        network : TiedNetwork
            The blocks of its θ are the weights from the inputs, along time, and to the outputs,
            (in, out) each, then the biases.
        """
        sizes = {"n_inputs": n_inputs, "n_hidden": n_hidden, "n_outputs": n_outputs}
        n_in, n_mid, n_out = (as_count(size, name, 1) for name, size in sizes.items())
        parts = recurrent_parts(n_in, n_mid, n_out, as_count(n_steps, "n_steps", 2), bias)
        return cls._tied._of(*parts, path_limit=path_limit)

    @classmethod
    @door
    def from_layers(
        cls,
        weights: Sequence[Matrix],
        biases: Sequence[Any] | None = None,
        *,
        torch_layout: bool | None = None,
        path_limit: int = PATH_LIMIT,
    ) -> tuple[Self, OneTheta]:
        """Build the layered ReLU network of given weights.

        Parameters
        ----------
        weights : sequence of array, shape=[n_in, n_out]
            One matrix per layer, shape=[n_out, n_in] with ``torch_layout``. A square one does not
            show in which layout it is: where the layout is wrong, so is the network, and nothing
            can tell. So the flag must be given where a matrix is square.
        biases : sequence of array or None, optional
            One vector per layer, None for layers without biases. By default none have some.
        torch_layout : bool, optional
            Whether the matrices are those of ``torch.nn.Linear``; by default they are not.

        Raises
        ------
        InputError
            A square matrix, and no ``torch_layout``.
        ShapeError
            Layers that do not fit each other.

        Examples
        --------
        >>> from liftflow import ReLUNetwork
        >>> network, theta = ReLUNetwork.from_layers([[[1.0, 2.0]], [[3.0], [4.0]]])
        >>> print(network.forward(theta, [[1.0]]))
        [[11.]]
        """
        matrices = [
            as_own(w, f"weights[{i}]", (None, None))
            for i, w in enumerate(as_ordered(weights, "weights"))
        ]
        if not matrices:
            raise InputError("weights must hold one matrix per layer, got none")
        square = [i for i, matrix in enumerate(matrices) if matrix.shape[0] == matrix.shape[1]]
        if torch_layout is None and square:
            raise InputError(
                f"weights{square} are square, so that their layout cannot be seen; say "
                "torch_layout=False for (in, out), torch_layout=True for (out, in)"
            )
        if torch_layout:
            matrices = [matrix.T for matrix in matrices]
        for number, (first, second) in enumerate(pairwise(matrices), start=1):
            if first.shape[1] != second.shape[0]:
                raise ShapeError(
                    f"weights[{number - 1}] has {first.shape[1]} outputs, but weights[{number}] "
                    f"reads {second.shape[0]}; matrices of torch come with torch_layout=True"
                )
        widths = [matrices[0].shape[0], *(matrix.shape[1] for matrix in matrices)]
        if not all(widths):
            raise ArchitectureError(
                f"layer {widths.index(0)} has width 0, in layers of widths {widths}; leave out "
                "weights without entries, or prune"
            )
        given = [None] * len(matrices) if biases is None else list(biases)
        if len(given) != len(matrices):
            raise ShapeError(f"biases must be one per layer, {len(matrices)}, got {len(given)}")
        vectors = [
            as_own(bias, f"biases[{i}]", (widths[i + 1],))
            for i, bias in enumerate(given)
            if bias is not None
        ]
        biased = [bias is not None for bias in given]
        blocks = [matrix.shape for matrix in matrices] + [vector.shape for vector in vectors]
        dag = CompiledDAG.layered(widths, (), biased)
        network = cls._of(dag, blocks, path_limit=path_limit)
        theta = np.concatenate([part.ravel() for part in (*matrices, *vectors)])
        return network, network._theta(theta)

    @door
    def to_layers(
        self, theta: OneTheta, *, torch_layout: bool = False
    ) -> tuple[list[FloatArray], list[Any]]:
        """Return the weights of a layered network, as :meth:`from_layers` takes them.

        Parameters
        ----------
        torch_layout : bool
            Whether matrices are (out, in).

        Returns
        -------
        weights : list of array
            One matrix per layer.
        biases : list of array or None
            One vector per layer, None for layers without biases.

        Raises
        ------
        ArchitectureError
            The network is not made of complete layers, one after the other.
        """
        theta, dag = self._one_theta(theta), self.dag
        if isinstance(self, self._tied):
            raise ArchitectureError(
                f"{self} may have shared or frozen weights, or other units than ReLUs, so that it "
                "is no list of layers"
            )
        sizes = [nodes.size for nodes in dag.members]
        levels = dag.generation[dag.heads]
        weights, biases = list[FloatArray](), list[Any]()
        for level, (rows, columns) in enumerate(pairwise(sizes), start=1):
            edges = np.flatnonzero(levels == level)
            own = dag.tails[edges] < len(dag.nodes)
            inner, outer = edges[own], edges[~own]
            adjacent = np.all(dag.generation[dag.tails[inner]] == level - 1)
            if not adjacent or inner.size != rows * columns or outer.size not in (0, columns):
                raise ArchitectureError(
                    f"{self} is not made of complete layers, one after the other: see the nodes "
                    f"{[dag.nodes[node] for node in dag.members[level][:8]]}"
                )
            matrix, bias = np.zeros((rows, columns)), np.zeros(columns)
            places = dag.position[dag.tails[inner]], dag.position[dag.heads[inner]]
            matrix[places], bias[dag.position[dag.heads[outer]]] = theta[inner], theta[outer]
            weights.append(matrix.T if torch_layout else matrix)
            biases.append(bias if outer.size else None)
        order = dag.position[dag.outputs]
        if len(set(dag.generation[dag.outputs])) > 1:
            raise ArchitectureError(f"the outputs of {self} are in several layers")
        weights[-1] = weights[-1][order] if torch_layout else weights[-1][:, order]
        biases[-1] = None if biases[-1] is None else biases[-1][order]
        return weights, biases

    def prune(self, theta: OneTheta) -> tuple[Any, OneTheta]:
        """Leave out the nodes that lie on no path of nonzero weights, with their edges.

        Returns
        -------
        network : ReLUNetwork
            The same function at θ, with no dead parameters there.
        theta : OneTheta
            What is left of θ.

        Raises
        ------
        ArchitectureError
            An output is left that nothing leads to.

        Examples
        --------
        >>> from liftflow import ReLUNetwork
        >>> network = ReLUNetwork.from_widths([1, 2, 1])
        >>> smaller, left = network.prune([1.0, 0.0, 3.0, 0.0])
        >>> smaller.hidden, left.tolist()
        (((1, 0),), [1.0, 3.0])
        """
        theta = self._one_theta(theta)
        dag, tying, units = self.dag, self.tying, self.units
        used, source = tying.weights(theta) != 0, len(dag.nodes)
        tails, heads, starts = dag.tails[used], dag.heads[used], np.arange(dag.n_inputs)
        alive = reached(tails, heads, np.append(starts, source), source + 1)
        alive &= reached(heads, tails, dag.outputs, source + 1)
        alive[starts] = alive[dag.outputs] = alive[source] = True
        ends = dag.tails, dag.heads, starts, dag.outputs
        smaller, edges = CompiledDAG.from_part(dag.nodes, *ends, dag.n_edges, alive)
        slopes, lost = units.slopes.copy(), dag.heads[np.setdiff1d(np.arange(dag.dim), edges)]
        slopes[lost[units.maxima[lost]]] = 0.0  # a dead node is 0, and so is a maximum at least
        parameters = tying.parameters[edges]
        kept = np.unique(parameters[parameters >= 0])
        renumbered = np.where(parameters < 0, -1, np.searchsorted(kept, parameters))
        numbers = enumerate(kept.tolist())
        names = {new: tying.names[old] for new, old in numbers if old in tying.names}
        own = Units(slopes, units.degrees, units.maxima).along(dag.nodes, smaller.nodes)
        left = Tying(renumbered, tying.constants[edges], names)
        return self._of(smaller, (), left, own, path_limit=self.path_limit), theta[kept]

    def _facts(self) -> str:
        layers = [shape for shape in self.block_shapes if len(shape) == 2]
        chained = all(a[1] == b[0] for a, b in pairwise(layers))
        widths = [layers[0][0], *(shape[1] for shape in layers)] if layers and chained else []
        facts = [
            counted(self.dim, "parameters"),
            counted(self.dag.n_paths, "paths"),
            counted(self.n_laws, "laws"),
        ]
        return ", ".join([*(["-".join(map(str, widths))] if widths else []), *facts])

    def draw(self, theta: OneTheta | None = None) -> "Figure":
        """Draw the network: the weights on its edges, the laws on its hidden nodes or channels.

        Parameters
        ----------
        theta : array-like, shape=[dim], optional
            Without it, edges have one width and no laws are written.

        Raises
        ------
        InputError
            More than 200 nodes.
        """
        from liftflow.drawing import draw_network

        point = None if theta is None else as_array(theta, "theta", (self.dim,), batch=False)
        return draw_network(self, point)
