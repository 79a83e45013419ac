"""Networks of kinds that many know by name, and networks from layers."""

from collections.abc import Sequence
from typing import Any, ClassVar

from liftflow.architectures.base import Architecture
from liftflow.architectures.builders import Parts, recurrent_parts
from liftflow.architectures.convolution import Conv, Pool, convolutional_parts
from liftflow.doors import door
from liftflow.typing import as_count, as_ordered

PATH_LIMIT = 2_000_000
"""Default for the largest number of paths that are ever listed."""


class Constructors(Architecture):
    """What makes networks, apart from graphs."""

    _tied: ClassVar[Any] = None
    """The class for graphs with shared or frozen weights, and other units."""

    @classmethod
    def _assembled(cls, parts: Parts, path_limit: int) -> Any:
        return cls._tied.assemble(*parts, path_limit)

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
        path_limit : int
            Largest number of monomials that this network ever lists.

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
        return cls._assembled(convolutional_parts(shape, layers, n_outputs, bias), path_limit)

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
        n_inputs, n_hidden, n_outputs : int
            Widths.
        n_steps : int
            At least 2; a row of the data holds the inputs of the first step, of the second, ….
        bias : bool
            Whether hidden and output nodes have a bias.
        path_limit : int
            Largest number of monomials that this network ever lists.

        Returns
        -------
        network : TiedNetwork
            The blocks of its θ are the weights from the inputs, along time, and to the outputs,
            (in, out) each, then the biases.
        """
        sizes = {"n_inputs": n_inputs, "n_hidden": n_hidden, "n_outputs": n_outputs}
        widths = [as_count(size, name, 1) for name, size in sizes.items()]
        parts = recurrent_parts(*widths, as_count(n_steps, "n_steps", 2), bias)
        return cls._assembled(parts, path_limit)
