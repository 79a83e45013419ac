"""The lift of a network that has no list of paths: from θ to one point of its orbit."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from autograd.extend import defjvp, defvjp, primitive

from liftflow.architectures import ChannelGraph
from liftflow.architectures.maps import SmoothMap
from liftflow.linalg import over_batch
from liftflow.torch.inert import Inert
from liftflow.typing import (
    Covector,
    FloatArray,
    Lifted,
    LiftedTangent,
    OneTheta,
    Tangent,
    Theta,
)


@primitive
def _settled(theta: FloatArray, lift: "OrbitLift") -> FloatArray:
    return over_batch(lift.settle, [theta], [1])


# First derivatives only, as of a chart's coordinates.
defvjp(_settled, lambda ans, theta, lift: lambda g: lift.vjp(theta, g))
defjvp(_settled, lambda g, ans, theta, lift: lift.jvp(theta, g))


class OrbitLift(SmoothMap):
    r"""From θ to the point z of its orbit where the laws have given values.

    With τ such that :math:`z = e^{Xτ} θ` and P_z the projection onto ker ∂h(z),
    :math:`∂φ(θ) v = P_z e^{Xτ} v`. Its image is one invariant set, and θ is recovered by sliding.

    Parameters
    ----------
    graph : ChannelGraph
        Of the rescalings.
    laws : array, shape=[n_channels]
        The values.
    inert : Inert
        Directions that the lift forgets.
    blocks : sequence of tuple of int
        Shapes of the parts of θ.

    References
    ----------
    Ours.
    """

    name = "the lift to orbits"

    def __init__(
        self,
        graph: ChannelGraph,
        laws: FloatArray,
        inert: Inert,
        blocks: Sequence[tuple[int, ...]] = (),
    ) -> None:
        self.graph, self.laws, self.inert = graph, laws, inert
        self._set_up(graph.dim, (graph.dim,), blocks)

    def settle(self, theta: OneTheta) -> FloatArray:
        """Slide one θ to z."""
        theta = self.inert.seen(theta)
        gap = np.abs(self.graph.h(theta) - self.laws)
        if np.all(gap <= 1e-15 * np.max(np.abs(self.laws), initial=0.0)):
            return theta.copy()
        return self.graph.project_to_laws(theta, self.laws)

    def _factors(self, theta: FloatArray, z: FloatArray) -> FloatArray:
        """e^{Xτ}, which takes θ to z."""
        if np.all(theta):
            return z / theta
        tree = self.graph.strongest_anchors(theta)
        logs = np.log(z[tree.edges] / theta[tree.edges])
        return self.graph.moved(np.ones(self.dim), tree.solve(logs))

    def _each(self, function: Any, *arrays: Any) -> FloatArray:
        """Apply a function of θ, z, the factors between them, and vectors."""

        def one(theta: FloatArray, *vectors: FloatArray) -> FloatArray:
            theta, vectors = self.inert.seen(theta), tuple(map(self.inert.seen, vectors))
            z = self.settle(theta)
            return self.inert.seen(function(theta, z, self._factors(theta, z), *vectors))

        return over_batch(one, arrays, [1] * len(arrays), (self.dim,))

    def value(self, theta: Theta) -> Lifted:
        return _settled(theta, self)

    def jvp(self, theta: Theta, tangent: Tangent) -> LiftedTangent:
        horizontal = self.graph.h.project_to_kernel
        return self._each(lambda t, z, w, v: horizontal(z, w * v), theta, tangent)

    def vjp(self, theta: Theta, covector: Covector) -> Tangent:
        horizontal = self.graph.h.project_to_kernel
        return self._each(lambda t, z, w, g: w * horizontal(z, g), theta, covector)

    def _spread(self, z: FloatArray) -> Callable[[FloatArray], FloatArray]:
        """Make the operator X L⁻¹ Xᵀ of the Laplacian L at z, which is symmetric."""
        graph, squares, ones = self.graph, z**2, np.ones(self.dim)
        return lambda v: graph.along(graph.laplacian.solve(squares, graph.h.jvp(ones, v) / 2))

    def hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> LiftedTangent:
        """Second derivative, by three solves with the Laplacian."""

        def bend(t: Any, z: Any, weight: Any, a: FloatArray, b: FloatArray) -> FloatArray:
            spread, a, b = self._spread(z), weight * a, weight * b
            along_a, along_b = -spread(z * a), -spread(z * b)
            moved_a, moved_b = a + z * along_a, b + z * along_b
            bent = a * along_b + moved_b * along_a
            return bent - z * spread(moved_a * moved_b + z * bent)

        return self._each(bend, theta, tangent_a, tangent_b)

    def hvp(self, theta: Theta, tangent: Tangent, covector: Covector) -> Tangent:
        """The transpose of the second derivative in its second argument."""

        def bend(t: Any, z: Any, weight: Any, a: FloatArray, g: FloatArray) -> FloatArray:
            spread, a = self._spread(z), weight * a
            along, turned = -spread(z * a), spread(z * g)
            bent = g - z * turned
            moved = along * bent - (a + z * along) * turned
            return weight * (moved - z * spread(a * bent + z * moved))

        return self._each(bend, theta, tangent, covector)

    def solve(self, theta: Theta, tangent: LiftedTangent) -> Tangent:
        horizontal = self.graph.h.project_to_kernel
        return self._each(lambda t, z, w, v: horizontal(t, v / w), theta, tangent)

    def solve_transposed(self, theta: Theta, covector: Tangent) -> Covector:
        horizontal = self.graph.h.project_to_kernel
        return self._each(lambda t, z, w, v: horizontal(z, v / w), theta, covector)

    def project_to_range(self, theta: Theta, vector: LiftedTangent) -> LiftedTangent:
        horizontal = self.graph.h.project_to_kernel
        return self._each(lambda t, z, w, v: horizontal(z, v), theta, vector)

    def rank(self, theta: OneTheta) -> int:
        """Dimension of the image."""
        return self.dim - self.graph.h.rank(self.inert.seen(theta)) - self.inert.count
