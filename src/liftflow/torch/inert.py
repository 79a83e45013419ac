"""Directions of θ that the function does not see, and the linear laws that they are.

Two biases that are added to one sum move it by their sum alone: their difference is conserved. A
bias before a mean that is taken away, or that cancels in a difference, is conserved itself. In an
orthonormal basis of such directions these are laws Lθ; the rescalings act on what is orthogonal to
them.
"""

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array, eye_array, kron, vstack

from liftflow.architectures.anchors import Chart
from liftflow.architectures.channels import ChannelChart, ChannelLaws
from liftflow.architectures.maps import SmoothMap
from liftflow.linalg import over_batch, sparse_apply
from liftflow.typing import FloatArray, IntArray, Jacobian, Laws, OneTheta, Tangent, Theta


class Inert:
    """An orthonormal basis of directions without effect, by groups of blocks of θ.

    Parameters
    ----------
    dim : int
        Number of parameters.
    groups : list of (array, array)
        Entries of blocks that are added up, one block in a row, and an orthonormal basis of their
        combinations without effect. A block that is alone has no effect at all.
    """

    def __init__(self, dim: int, groups: list[tuple[IntArray, FloatArray]]) -> None:
        self.dim, parts = dim, [csr_array((0, dim))]
        self.owners: list[int] = []  # an entry of a block of θ for each row
        for places, combinations in groups:
            size = places.shape[1]
            part = kron(combinations, eye_array(size)).tocoo()
            ends = part.row, places.ravel()[part.col]
            parts.append(csr_array((part.data, ends), shape=(part.shape[0], dim)))
            self.owners += [int(places[0, 0])] * part.shape[0]
        self.matrix = vstack(parts).tocsr()
        self.count = self.matrix.shape[0]

    @cached_property
    def transposed(self) -> csr_array:
        """The basis as columns."""
        return self.matrix.T.tocsr()

    def seen(self, theta: Tangent) -> Tangent:
        """Take the inert part of vectors away."""
        if not self.count:
            return theta
        return theta - sparse_apply(sparse_apply(theta, self.matrix), self.transposed)

    def beside(self, function: Callable[[FloatArray], FloatArray], theta: OneTheta) -> OneTheta:
        """Apply a function to what is seen of θ, and leave the rest as it is."""
        seen = self.seen(theta)
        return function(seen) + (theta - seen) if self.count else function(seen)

    def spread(self, values: Laws) -> Tangent:
        """Return the inert part with these values."""
        return sparse_apply(values, self.transposed) if self.count else np.zeros(self.dim)


class LinearAndSquare(SmoothMap):
    """The laws of the channels, and then those of the inert directions.

    Parameters
    ----------
    squares : ChannelLaws
        Of the channels.
    inert : Inert
        Of the same θ.
    """

    name = "the laws of channels and of inert directions"

    def __init__(self, squares: ChannelLaws, inert: Inert) -> None:
        self.squares, self.inert, self.size_squares = squares, inert, squares.size
        self._set_up(squares.dim, (squares.size + inert.count,))

    def _join(self, squares: Laws, linear: Laws) -> Laws:
        return np.concatenate([squares, linear], axis=-1)

    def value(self, theta: Theta) -> Laws:
        return self._join(self.squares(theta), sparse_apply(theta, self.inert.matrix))

    def jvp(self, theta: Theta, tangent: Tangent) -> Laws:
        linear = sparse_apply(tangent + 0.0 * theta, self.inert.matrix)
        return self._join(self.squares.jvp(theta, tangent), linear)

    def hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> Laws:
        bent = self.squares.hessian(theta, tangent_a, tangent_b)
        return self._join(bent, np.zeros((*bent.shape[:-1], self.inert.count)))

    def vjp(self, theta: Theta, covector: Laws) -> Tangent:
        squares, linear = self.split(covector)
        return self.squares.vjp(theta, squares) + self.inert.spread(linear)

    def hvp(self, theta: Theta, tangent: Tangent, covector: Laws) -> Tangent:
        return self.squares.hvp(theta, tangent, self.split(covector)[0])

    def jacobian(self, theta: Theta) -> Jacobian:
        own = self.inert.matrix.toarray()
        wide = np.broadcast_to(own, (*theta.shape[:-1], *own.shape))
        return np.concatenate([self.squares.jacobian(theta), wide], axis=-2)

    def split(self, laws: Laws) -> tuple[Laws, Laws]:
        """Split values into those of the channels and the others."""
        return laws[..., : self.size_squares], laws[..., self.size_squares :]

    def solve(self, theta: Theta, tangent: Laws) -> Tangent:
        """Solve ∂h v = w for the shortest v, first along the inert directions."""

        def one(point: FloatArray, speed: FloatArray) -> FloatArray:
            squares, linear = self.split(speed)
            still = self.inert.spread(linear)
            rest = squares - self.squares.jvp(point, still)
            return still + self.squares.solve(self.inert.seen(point), rest)

        return over_batch(one, [theta, tangent], [1, 1], (self.dim,))

    def terms(self, theta: Theta, tangent: Tangent | None = None) -> Laws:
        other = theta if tangent is None else tangent + 0.0 * theta
        linear = sparse_apply(np.abs(other), abs(self.inert.matrix))
        return self._join(self.squares.terms(theta, tangent), linear)

    def rank(self, theta: OneTheta) -> int:
        """Number of laws, which are independent where no channel is cut off."""
        return self.squares.rank(self.inert.seen(theta)) + self.inert.count


class InertChart(Chart):
    """A chart of what is orthogonal to inert directions, for laws of both kinds.

    Parameters
    ----------
    chart : ChannelChart
        Of the channel graph.
    inert : Inert
        Of the same θ.
    """

    def __init__(self, chart: ChannelChart, inert: Inert) -> None:
        self.chart, self.inert, self.laplacian = chart, inert, chart.laplacian

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.laplacian.dim, self.laplacian.n_channels + self.inert.count

    @property
    def nonzero(self) -> IntArray:
        """Coordinates that vanish nowhere in the chart."""
        return self.chart.nonzero

    def _value(self, theta: FloatArray) -> FloatArray:
        return self.chart._value(self.inert.seen(theta))

    def _push(self, theta: FloatArray, tangent: FloatArray) -> FloatArray:
        return self.chart._push(self.inert.seen(theta), self.inert.seen(tangent))

    def _pull(self, theta: FloatArray, form: FloatArray) -> FloatArray:
        return self.inert.seen(self.chart._pull(self.inert.seen(theta), form))

    def _bend(self, theta: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
        return self.chart._bend(*map(self.inert.seen, (theta, a, b)))

    def _lift(self, theta: FloatArray, velocity: FloatArray) -> FloatArray:
        return self.chart._lift(self.inert.seen(theta), velocity)

    def _recover(
        self, coordinates: FloatArray, laws: FloatArray, near: FloatArray | None = None
    ) -> FloatArray:
        squares, linear = np.split(laws, [-self.inert.count])
        still = self.inert.spread(linear)
        near = None if near is None else self.inert.seen(near)
        rest = squares - self.chart.graph.h(still)
        return self.chart._recover(coordinates, rest, near) + still

    def is_left(self, theta: OneTheta, settled: OneTheta) -> bool:
        return self.chart.is_left(self.inert.seen(theta), self.inert.seen(settled))

    def deficit(self, theta: OneTheta) -> float:
        return self.chart.deficit(self.inert.seen(theta))

    def reanchored(self, theta: OneTheta) -> "InertChart":
        return InertChart(self.chart.reanchored(self.inert.seen(theta)), self.inert)

    def memory(self) -> dict[str, np.ndarray]:
        return self.chart.memory()

    def restored(self, memory: Mapping[str, np.ndarray]) -> "InertChart":
        return InertChart(self.chart.restored(memory), self.inert)
