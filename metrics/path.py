"""The cometric of a ReLU network on its path products."""

from typing import Any

import geomstats.backend as gs
import numpy as np

from liftflow.architectures import ReLUNetwork, TiedNetwork
from liftflow.errors import ArchitectureError, NotRecoverableError, NotTangentError
from liftflow.linalg import lengths, over_batch, shifted_product_root, sparse_apply
from liftflow.metrics.base import Cometric
from liftflow.metrics.exact import EXACT_RTOL, chain_distance, cone_distance
from liftflow.metrics.geometry import TANGENT_RTOL
from liftflow.metrics.horizontal import TangentSpaces
from liftflow.typing import (
    Covector,
    FloatArray,
    IntArray,
    Lifted,
    LiftedMatrix,
    LiftedTangent,
    OneTheta,
    Scalars,
    Tangent,
    Theta,
    refuse_beyond,
)


class PathCometric(Cometric):
    r"""K_θ₀(z) = D_z P D_θ⁻² Pᵀ D_z with θ = Ψ(z, h(θ₀)), on the products along all paths.

    Entry by entry, :math:`K_{pq} = z_p z_q \sum_{e ∈ p ∩ q} θ_e^{-2}`. Where a weight is zero the
    same operator is applied without division.

    Parameters
    ----------
    theta0 : array-like, shape=[dim]

    References
    ----------
    [MPG]_; the recovery Ψ by a convex problem is ours.
    """

    architecture: ReLUNetwork
    _family = ReLUNetwork

    def point(self, z: Lifted, *, near: Theta | None = None) -> Theta:
        """Recover Ψ(z, h(θ₀)), in the sign gauge of ``near``.

        Parameters
        ----------
        near : Theta, optional
            By default θ₀.
        """
        near = self.theta0 if near is None else near
        return self.architecture.recover(z, self.laws, near=near)

    def follow(self, z: FloatArray, near: OneTheta) -> OneTheta:
        """Recover θ starting from the point followed so far, with its signs.

        Parameters
        ----------
        z : array, shape=[n_paths]
        """
        return self.point(z, near=near)

    @property
    def horizontal_spaces(self) -> TangentSpaces:
        """All of ker ∂h is horizontal: z and the laws determine θ."""
        return TangentSpaces(self.architecture)

    def apply(self, z: Lifted, covector: Covector, *, near: Theta | None = None) -> LiftedTangent:
        """Apply K(z) to a covector with two sparse products.

        Parameters
        ----------
        near : Theta, optional
            Where Newton's method starts; by default θ₀.

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
        """K(z) as a dense matrix."""
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

        Parameters
        ----------
        theta : Theta, optional
            A point of 𝓜_θ₀ over z; by default ``point(z)``.

        Raises
        ------
        NotTangentError
            The vector is not tangent to the image at z; holds the relative residual.
        """
        z = self._lifted(z, "z", differentiable=False)
        vector = self._lifted(tangent_vec, "tangent_vec", differentiable=False)
        theta = self.point(z) if theta is None else self._theta(theta)
        return over_batch(self._horizontal_lift, [theta, vector], [1, 1])

    def _horizontal_lift(self, theta: FloatArray, vector: FloatArray) -> FloatArray:
        network = self.architecture
        chart = network.basis_chart(theta)
        size = np.max(np.abs(vector), initial=0.0)
        vector = vector / (size or 1.0)  # its squares neither under- nor overflow
        above = chart.lift_tangent(theta, vector[network.path_numbers(chart)])
        self._check_tangent(theta, above, vector)
        # Two lifts differ by a rescaling, which is orthogonal to the invariant set.
        own = np.inf
        while lengths(above) < 0.3 * own:  # what rounding leaves of a long one is one as well
            own = lengths(above)
            above = network.project_to_tangent(theta, above)
        return size * above

    def _check_tangent(self, theta: FloatArray, above: FloatArray, vector: FloatArray) -> None:
        gap = lengths(self.architecture.lift_jvp(theta, above) - vector)
        if gap > TANGENT_RTOL * lengths(vector):
            residual = float(gap / lengths(vector))
            raise NotTangentError(
                f"tangent_vec is not tangent to the image at z: relative residual {residual:.1e}, "
                f"expected at most {TANGENT_RTOL:.0e}; image().to_tangent(vector, z) projects it",
                residual,
            )

    def solve(self, z: Lifted, tangent_vec: LiftedTangent) -> Covector:
        """Apply K(z)⁺ to a vector tangent to the image at z.

        Raises
        ------
        NotTangentError
            The vector is not tangent to the image at z.
        """
        return self.architecture.solve_vjp(self.point(z), self.horizontal_lift(z, tangent_vec))

    def inner_product(
        self, z: Lifted, tangent_vec_a: LiftedTangent, tangent_vec_b: LiftedTangent
    ) -> Scalars:
        """Inner product of tangent vectors, as that of their horizontal lifts."""
        lifts = [self.horizontal_lift(z, vec) for vec in (tangent_vec_a, tangent_vec_b)]
        return np.sum(lifts[0] * lifts[1], axis=-1)

    def exact_distance(self, point_a: FloatArray, point_b: FloatArray) -> float | None:
        """Distance of two points, for a chain of single weights or one balanced neuron.

        Parameters
        ----------
        point_a, point_b : array, shape=[n_paths]
        """
        point_a, point_b = self._one(point_a, "point_a"), self._one(point_b, "point_b")
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


class MonomialCometric(PathCometric):
    """K_θ₀ = ∂φ∂φᵀ at θ = Ψ(z, h(θ₀)), on the monomials of shared and frozen weights.

    Where no weight is zero it is :math:`D_z A D_θ^{-2} A^⊤ D_z`, with A the exponents.

    References
    ----------
    Ours.
    """

    architecture: TiedNetwork
    _family = TiedNetwork

    def apply(self, z: Lifted, covector: Covector, *, near: Theta | None = None) -> LiftedTangent:
        """Apply K(z) to a covector.

        Parameters
        ----------
        near : Theta, optional
            Where recovery starts; by default θ₀.
        """
        return self.architecture.gram_apply(self.point(z, near=near), covector)

    def matrix(self, z: Lifted) -> LiftedMatrix:
        """K(z) as a dense matrix."""
        return self.architecture.gram_matrix(self.point(z))

    def _horizontal_lift(self, theta: FloatArray, vector: FloatArray) -> FloatArray:
        network, size = self.architecture, np.max(np.abs(vector), initial=0.0) or 1.0
        above = network.solve_jvp(theta, vector / size)
        self._check_tangent(theta, above, vector / size)
        return size * network.project_to_tangent(theta, above)

    def exact_distance(self, point_a: FloatArray, point_b: FloatArray) -> float | None:
        """None is known.

        Parameters
        ----------
        point_a, point_b : array, shape=[n_paths]
        """
        return None


class OneHiddenLayerCometric(PathCometric):
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
        numbers: dict[Any, list[int]] = {node: [] for node in architecture.hidden}
        skips: list[int] = []
        for number, path in enumerate(paths):
            (numbers[path[1]] if len(path) == 3 else skips).append(number)
        # In the order of paths, those through one neuron are row-major in (input, output).
        self._neurons: list[IntArray] = [
            np.reshape(numbers[node], (-1, architecture.graph.out_degree(node)))
            for node in architecture.hidden
        ]
        self._skips: IntArray = np.array(skips, dtype=np.intp)
        order = np.concatenate([*(block.ravel() for block in self._neurons), self._skips])
        self._inverse_order: IntArray = np.argsort(order)

    def apply(self, z: Lifted, covector: Covector, *, near: Any = None) -> LiftedTangent:
        """Apply K(z) to a covector.

        Parameters
        ----------
        near : array-like, optional
            Not used: nothing is iterated.

        Raises
        ------
        NotRecoverableError
            All paths through some neuron vanish.
        """
        z, covector = self._lifted(z, "z"), self._lifted(covector, "covector")
        covector = covector + 0.0 * z  # broadcast both ways
        parts = []
        for block, law in zip(self._neurons, self.laws, strict=True):
            matrix, form = z[..., block], covector[..., block]
            squares = _layer_squares(gs.array([0.0, -law]), matrix)
            squares = squares[..., None, None]
            image = _right_gram(form, matrix) / squares[..., 0, :, :]
            image = image + _left_gram(matrix, form) / squares[..., 1, :, :]
            parts.append(gs.reshape(image, (*image.shape[:-2], block.size)))
        parts.append(covector[..., self._skips])
        return gs.concatenate(parts, axis=-1)[..., self._inverse_order]

    def matrix(self, z: Lifted) -> LiftedMatrix:
        """K(z) as a dense matrix."""
        return Cometric.matrix(self, z)


class ScalarChainCometric(PathCometric):
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
        self._block = np.reshape([numbers[path] for path in expected], (n_in, n_out))
        self._inverse_order = np.argsort(self._block.ravel())
        first, second = self.laws
        self._shifts = gs.array([0.0, -first, -first - second])

    def apply(self, z: Lifted, covector: Covector, *, near: Any = None) -> LiftedTangent:
        """Apply K(z) to a covector.

        Parameters
        ----------
        near : array-like, optional
            Not used: nothing is iterated.

        Raises
        ------
        NotRecoverableError
            z vanishes.
        """
        z, covector = self._lifted(z, "z"), self._lifted(covector, "covector")
        matrix, form = z[..., self._block], (covector + 0.0 * z)[..., self._block]
        squares = _layer_squares(self._shifts, matrix)[..., None, None]
        overlap = gs.sum(matrix * form, axis=(-2, -1))[..., None, None]
        image = (
            _right_gram(form, matrix) / squares[..., 0, :, :]
            + overlap * matrix / squares[..., 1, :, :]
            + _left_gram(matrix, form) / squares[..., 2, :, :]
        )
        flat = gs.reshape(image, (*image.shape[:-2], self._block.size))
        return flat[..., self._inverse_order]

    def matrix(self, z: Lifted) -> LiftedMatrix:
        """K(z) as a dense matrix."""
        return Cometric.matrix(self, z)


def _right_gram(form: Any, matrix: Any) -> Any:
    """G ZᵀZ."""
    return gs.einsum("...ij,...jl->...il", gs.einsum("...ik,...jk->...ij", form, matrix), matrix)


def _left_gram(matrix: Any, form: Any) -> Any:
    """ZZᵀ G."""
    return gs.einsum("...ij,...jl->...il", gs.einsum("...ij,...kj->...ik", matrix, matrix), form)


def _layer_squares(shifts: Any, matrix: Any) -> Any:
    """Squared norms of the layers of a rank-one product of given laws, shape=[..., n_layers]."""
    squares = shifted_product_root(shifts, gs.sum(matrix**2, axis=(-2, -1)))
    if not gs.all(squares > 0):
        raise NotRecoverableError(
            "every path through a hidden node vanishes in z: its parameters are dead, and z does "
            "not determine them"
        )
    return squares
