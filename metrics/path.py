"""The cometric of a ReLU network on its path products."""

from collections.abc import Hashable

import geomstats.backend as gs
import numpy as np

from liftflow.architectures import ReLUNetwork
from liftflow.architectures.balance import transpose
from liftflow.errors import ArchitectureError, NotRecoverableError, NotTangentError
from liftflow.linalg import lengths, over_batch, shifted_product_root, sparse_apply
from liftflow.metrics.cometric import TANGENT_RTOL, Cometric
from liftflow.metrics.exact import EXACT_RTOL, chain_distance, cone_distance
from liftflow.metrics.forest import Forest, is_parted
from liftflow.metrics.recovered import RecoveredCometric
from liftflow.typing import (
    Covector,
    FloatArray,
    IntArray,
    Lifted,
    LiftedMatrix,
    LiftedTangent,
    OneLifted,
    OneTheta,
    Scalars,
    Tangent,
    Theta,
    refuse_beyond,
)

_PRODUCT_RTOL = 1e-9  # of inner products, where the scales of weights part


class PathCometric(RecoveredCometric):
    r"""K_θ₀(z) = D_z P D_θ⁻² Pᵀ D_z with θ = Ψ(z, h(θ₀)), on the products along all paths.

    Entry by entry, :math:`K_{pq} = z_p z_q \sum_{e ∈ p ∩ q} θ_e^{-2}`. Where a weight is zero the
    same operator is applied without division.

    References
    ----------
    [MPG]_, whose theorem is local; the recovery Ψ by a convex problem, unique for fixed signs, is
    ours, but for its case h = 0: [Stock2019]_, [Saul2023]_.
    """

    architecture: ReLUNetwork
    _family = ReLUNetwork

    def _check(self, theta: OneTheta, name: str) -> None:
        """Leave it to ``recover``, which refuses dead parameters: all others are recoverable."""

    def point(self, z: Lifted, *, near: Theta | None = None) -> Theta:
        """Recover Ψ(z, h(θ₀)), in the sign gauge of ``near``, by default of θ₀."""
        theta = super().point(z, near=near)
        return over_batch(self._settled, [theta], [1])

    def _settled(self, theta: FloatArray) -> OneTheta:
        """Recover what rounding errors of the laws hide where the sizes of weights part."""
        if not is_parted(self.architecture, theta):
            return theta
        return Forest(self.architecture, theta).settle(self.theta0)

    def apply(self, z: Lifted, covector: Covector, *, near: Theta | None = None) -> LiftedTangent:
        """Apply K(z) to a covector with two sparse products.

        Raises
        ------
        NotOnImageError, NotRecoverableError
            As :meth:`~liftflow.architectures.ReLUNetwork.recover`.
        """
        z = self._lifted(z, "z", differentiable=False)
        covector = self._lifted(covector, "covector")
        theta = self.point(z, near=near)
        if not np.all(theta):
            return self.architecture.gram_apply(theta, covector)
        incidence = self.architecture.path_incidence
        per_edge = sparse_apply(z * covector, incidence.T.tocsr()) / theta**2
        return z * sparse_apply(per_edge, incidence)

    def matrix(self, z: Lifted) -> LiftedMatrix:
        z = self._lifted(z, "z", differentiable=False)
        theta = self.point(z)
        size, dim = self.architecture.lifted_dim, self.architecture.dim
        refuse_beyond(float(size) * max(size, dim), f"a dense matrix of {size} × {size} numbers")
        if not np.all(theta):
            return self.architecture.gram_matrix(theta)
        scaled = self.architecture.path_incidence.toarray() / theta[..., None, :]
        return z[..., :, None] * (scaled @ np.swapaxes(scaled, -1, -2)) * z[..., None, :]

    def horizontal_lift(
        self, z: Lifted, tangent_vec: LiftedTangent, *, theta: Theta | None = None
    ) -> Tangent:
        """Lift a tangent vector to 𝓜_θ₀, in O(edges) and one solve with the Laplacian.

        Raises
        ------
        NotTangentError
            The vector is not tangent to the image at z, or its rounding errors decide what lies
            above it; holds how large they are.
        """
        arrays = self._above(z, theta, tangent_vec)

        def lift(theta: FloatArray, z: FloatArray, vector: FloatArray) -> FloatArray:
            above, noise = self._horizontal_lift(theta, z, vector)
            _require_accurate(above, noise, above, noise)
            return above

        return over_batch(lift, arrays, [1, 1, 1])

    def _above(self, z: Lifted, theta: Theta | None, *vectors: LiftedTangent) -> list[FloatArray]:
        z = self._lifted(z, "z", differentiable=False)
        theta = self.point(z) if theta is None else self.architecture._theta(theta)
        checked = [self._lifted(each, "tangent_vec", differentiable=False) for each in vectors]
        return [theta, z, *checked]

    def _horizontal_lift(
        self, theta: FloatArray, z: FloatArray, vector: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """The lift, and what rounding errors of the vector may do to its entries."""
        network = self.architecture
        chart = network.basis_chart(theta)
        numbers = network.path_numbers(chart)
        size = np.max(np.abs(vector), initial=0.0)
        vector = vector / (size or 1.0)  # its squares neither under- nor overflow
        lifted = chart.lift_tangent(theta, vector[numbers])
        gap, own = lengths(np.stack([network.phi.jvp(theta, lifted) - vector, vector]))
        if gap > TANGENT_RTOL * own:
            residual = float(gap / own)
            raise NotTangentError(
                f"tangent_vec is not tangent to the image at z: relative residual {residual:.1e}, "
                f"expected at most {TANGENT_RTOL:.0e}; image().to_tangent(vector, z) projects it",
                residual,
            )
        # Its entries are differences of the rates of basis paths.
        anchors = numbers[chart.coordinate_of_edge[chart.anchors.into]]
        rates = np.append(np.abs(vector[anchors] / z[anchors]), 0.0)
        terms = np.abs(lifted) + np.abs(theta) * rates[network.dag.head_hidden]
        noise = np.finfo(np.float64).eps * terms
        # Two lifts differ by a rescaling, which is orthogonal to the invariant set.
        if not is_parted(network, theta):
            above, own = lifted, np.inf
            while lengths(above) < 0.3 * own:  # what rounding leaves of a long one is one as well
                own = lengths(above)
                above = network.h.project_to_kernel(theta, above)
            if lengths(noise) <= _PRODUCT_RTOL / 4 * own:
                return size * above, size * noise
        forest = Forest(network, theta)
        lifted, noise = forest.still(lifted, terms)
        return size * forest.project(lifted), size * noise

    def solve(self, z: Lifted, tangent_vec: LiftedTangent) -> Covector:
        """Apply K(z)⁺ to a vector tangent to the image at z.

        Raises
        ------
        NotTangentError
            The vector is not tangent to the image at z.
        """
        theta = self.point(z)
        return self.architecture.solve_vjp(theta, self.horizontal_lift(z, tangent_vec, theta=theta))

    def inner_product(
        self, z: Lifted, tangent_vec_a: LiftedTangent, tangent_vec_b: LiftedTangent
    ) -> Scalars:
        arrays = self._above(z, None, tangent_vec_a, tangent_vec_b)

        def product(
            theta: FloatArray, z: FloatArray, one: FloatArray, other: FloatArray
        ) -> FloatArray:
            above, noise = self._horizontal_lift(theta, z, one)
            beside, own = (above, noise) if one is other else self._horizontal_lift(theta, z, other)
            _require_accurate(above, noise, beside, own)
            return np.asarray(above @ beside)

        return over_batch(product, arrays, [1, 1, 1, 1], ())

    def exact_distance(self, point_a: OneLifted, point_b: OneLifted) -> float | None:
        """Distance of two points, for a chain of single weights or one balanced neuron."""
        point_a, point_b = self._ends(point_a, point_b)
        if self.architecture.n_paths == 1:
            sizes = np.abs(self.theta0)
            least = np.min(sizes)
            gaps = (sizes - least) * (sizes + least)
            return chain_distance(gaps, point_a.item(), point_b.item())
        dag = self.architecture.dag
        shape = np.sum(dag.head_hidden == 0), np.sum(dag.tail_hidden == 0)
        one_neuron = dag.n_hidden == 1 and sum(shape) == dag.dim
        if one_neuron and abs(self.laws[0]) <= EXACT_RTOL * np.sum(self.theta0**2):
            return cone_distance(point_a.reshape(shape), point_b.reshape(shape))
        return super().exact_distance(point_a, point_b)


def _require_accurate(
    above: FloatArray, noise: FloatArray, beside: FloatArray, own: FloatArray
) -> None:
    """Refuse two lifts whose inner product is decided by the noise in them."""
    sizes = lengths(above) or 1.0, lengths(beside) or 1.0
    own, noise = own / sizes[1], noise / sizes[0]
    error = np.abs(above / sizes[0]) @ own + noise @ np.abs(beside / sizes[1]) + noise @ own
    if error > _PRODUCT_RTOL:
        raise NotTangentError(
            "the sizes of the weights part so far that rounding errors of tangent_vec decide what "
            f"lies above it: inner products may be off by {error:.1e} of the lengths, "
            f"expected at most {_PRODUCT_RTOL:.0e}; take a θ₀ whose hidden nodes are closer to "
            "balance (architecture.rescale)",
            float(error),
        )


class _RankOneCometric(PathCometric):
    """Closed forms where paths form matrices of rank one: no iteration, differentiable in z."""

    def _set_up(self, matrices: list[IntArray], shifts: list[Scalars], rest: list[int]) -> None:
        """Keep the paths of each matrix, the shifts of its layers, and the paths that are edges."""
        self._matrices = list(zip(matrices, map(gs.array, shifts), strict=True))
        self._rest: IntArray = np.array(rest, dtype=np.intp)
        self._inverse_order: IntArray = np.argsort(
            np.concatenate([*(paths.ravel() for paths in matrices), self._rest])
        )

    def apply(self, z: Lifted, covector: Covector, *, near: Theta | None = None) -> LiftedTangent:
        """Apply K(z) to a covector; nothing is iterated.

        Raises
        ------
        NotRecoverableError
            All paths through some neuron vanish.
        """
        z, covector = self._lifted(z, "z"), self._lifted(covector, "covector")
        covector = covector + 0.0 * z  # broadcast both ways
        parts = []
        for paths, shifts in self._matrices:
            matrix, form = z[..., paths], covector[..., paths]
            first, *middle, last = gs.moveaxis(_layer_squares(shifts, matrix), -1, 0)
            turned = transpose(matrix)
            image = form @ turned @ matrix / first[..., None, None]
            image = image + matrix @ turned @ form / last[..., None, None]
            for square in middle:
                overlap = gs.sum(matrix * form, axis=(-2, -1)) / square
                image = image + overlap[..., None, None] * matrix
            parts.append(gs.reshape(image, (*image.shape[:-2], paths.size)))
        parts.append(covector[..., self._rest])
        return gs.concatenate(parts, axis=-1)[..., self._inverse_order]

    def matrix(self, z: Lifted) -> LiftedMatrix:
        return Cometric.matrix(self, z)


class OneHiddenLayerCometric(_RankOneCometric):
    r"""Closed form for one hidden layer: no iteration, and differentiable in z.

    The paths through neuron j form a matrix :math:`Z_j = u_j v_j^\top`, with
    :math:`|u_j|^2 (|u_j|^2 − h_j) = ‖Z_j‖^2`, :math:`|v_j|^2 = |u_j|^2 − h_j` and

    .. math:: K(Z)[G]_j = G_j Z_j^\top Z_j / |u_j|^2 + Z_j Z_j^\top G_j / |v_j|^2.

    A skip edge from an input to an output is a path of its own, on which K = 1.

    Parameters
    ----------
    architecture : ReLUNetwork
        No path with more than two edges.

    Raises
    ------
    ArchitectureError
        A deeper network.

    References
    ----------
    [MPG]_.
    """

    def __init__(self, architecture: ReLUNetwork, theta0: OneTheta) -> None:
        super().__init__(architecture, theta0)
        paths = architecture.paths()
        if max(map(len, paths)) > 3:
            raise ArchitectureError(
                "this closed form is for one hidden layer, got a path of "
                f"{max(map(len, paths)) - 1} edges; use PathCometric"
            )
        numbers: dict[Hashable, list[int]] = {node: [] for node in architecture.hidden}
        skips: list[int] = []
        for number, path in enumerate(paths):
            (numbers[path[1]] if len(path) == 3 else skips).append(number)
        # In the order of paths, those through one neuron are row-major in (input, output).
        neurons = [
            np.reshape(numbers[node], (-1, architecture.graph.out_degree(node)))
            for node in architecture.hidden
        ]
        self._set_up(neurons, [[0.0, -law] for law in self.laws], skips)


class ScalarChainCometric(_RankOneCometric):
    r"""Closed form for three layers of edges with one neuron in each hidden layer.

    The paths form a matrix :math:`Z = a\,m\,c^\top`. With :math:`x = |a|^2` the laws reduce to the
    cubic :math:`x (x − h_1)(x − h_1 − h_2) = ‖Z‖^2`, whose one root beyond all three zeros gives
    :math:`m^2 = x − h_1` and :math:`|c|^2 = x − h_1 − h_2`, and

    .. math:: K(Z)[G] = G Z^\top Z / |a|^2 + ⟨Z, G⟩ Z / m^2 + Z Z^\top G / |c|^2.

    Parameters
    ----------
    architecture : ReLUNetwork
        ``ReLUNetwork.from_widths([n, 1, 1, m])``, or any graph with the same paths.

    Raises
    ------
    ArchitectureError
        Another network.

    References
    ----------
    [MPG]_.
    """

    def __init__(self, architecture: ReLUNetwork, theta0: OneTheta) -> None:
        super().__init__(architecture, theta0)
        n_in, n_out = len(architecture.inputs), len(architecture.outputs)
        chain = architecture.hidden
        expected = [(i, *chain, o) for i in architecture.inputs for o in architecture.outputs]
        if len(chain) != 2 or set(architecture.paths()) != set(expected):
            raise ArchitectureError(
                "this closed form is for networks n-1-1-m without biases or skips, got "
                f"{len(chain)} hidden nodes and {architecture.n_paths} paths; use PathCometric"
            )
        numbers = {path: number for number, path in enumerate(architecture.paths())}
        paths = np.reshape([numbers[path] for path in expected], (n_in, n_out))
        first, second = self.laws
        self._set_up([paths], [[0.0, -first, -first - second]], [])


def _layer_squares(shifts: Scalars, matrix: Lifted) -> Scalars:
    """Squared norms of the layers of a rank-one product of given laws, shape=[..., n_layers]."""
    squares = shifted_product_root(shifts, gs.sum(matrix**2, axis=(-2, -1)))
    if not gs.all(squares > 0):
        raise NotRecoverableError(
            "every path through a hidden node vanishes in z: its parameters are dead, and z does "
            "not determine them"
        )
    return squares
