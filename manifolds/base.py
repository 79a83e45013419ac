"""The invariant set of a parameter, as a geomstats manifold."""

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.base import LevelSet
from geomstats.geometry.euclidean import CanonicalEuclideanMetric, Euclidean
from geomstats.geometry.manifold import Manifold
from geomstats.geometry.riemannian_metric import RiemannianMetric

from liftflow.architectures import Architecture
from liftflow.architectures.base import architecture_of
from liftflow.doors import doors
from liftflow.errors import ArchitectureError, InputError
from liftflow.linalg import ROUNDING, inner
from liftflow.manifolds.bundle import LiftBundle, LiftQuotientMetric
from liftflow.manifolds.charts import chart_manifold
from liftflow.manifolds.images import RandomVectors, image_manifold, points_of_size
from liftflow.metrics.cometric import TangentSpaces
from liftflow.metrics.geodesic import GEODESIC_RTOL, GeodesicSolver
from liftflow.metrics.geometry import HorizontalMetric
from liftflow.typing import (
    FloatArray,
    Laws,
    Lifted,
    Matrix,
    OneTheta,
    Point,
    Rng,
    Scalars,
    States,
    Tangent,
    Theta,
    as_array,
    as_instance,
    as_own,
    freeze,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ParameterMetric(CanonicalEuclideanMetric):
    """The Euclidean metric of ℝᴰ, whose D × D identity is made only if someone asks for it."""

    def __init__(self, space: Euclidean) -> None:
        RiemannianMetric.__init__(self, space)  # that of geomstats' class fills the matrix

    @cached_property
    def metric_matrix_(self) -> Matrix:
        """Identity matrix."""
        return gs.eye(self._space.dim)


@doors
class InducedMetric(HorizontalMetric):
    """The Euclidean metric of the parameters, restricted to an invariant set."""

    _varies: ClassVar[bool] = False

    def __init__(self, space: "InvariantSet", rtol: float = GEODESIC_RTOL) -> None:
        architecture = architecture_of(space, "space")
        super().__init__(space, GeodesicSolver(architecture, TangentSpaces(architecture), rtol))

    # How this metric lies below the parameters: it is theirs.

    def _point_above(self, point: FloatArray, near: FloatArray | None = None) -> Theta:
        return point

    def _vector_above(self, theta: FloatArray, vector: FloatArray) -> Tangent:
        return self._space.to_tangent(vector, theta)

    def _point_below(self, theta: FloatArray) -> Point:
        return self._space.projection(theta)

    def _vector_below(self, theta: FloatArray, vector: FloatArray) -> Tangent:
        return vector

    def _covector_below(self, theta: FloatArray, vector: FloatArray) -> Tangent:
        return vector

    def _sheets(self, target: FloatArray, theta: FloatArray) -> Theta:
        tolerance = 1e3 * self.solver.rtol  # no geodesic ends closer to a point off the set
        for point in (theta, target):
            if not self._space.belongs(point, tolerance):
                residual = np.max(np.abs(self._space.submersion(point)))
                raise InputError(
                    f"a geodesic joins points of the invariant set, but the laws of one differ by "
                    f"{residual:.2e} from those of θ₀, where their terms have the size "
                    f"{np.sum(point**2):.2e}; projection(point) moves it there"
                )
        return target

    def inner_product(
        self, tangent_vec_a: Tangent, tangent_vec_b: Tangent, base_point: Theta | None = None
    ) -> Scalars:
        """Euclidean inner product of tangent vectors."""
        return inner(tangent_vec_a, tangent_vec_b)

    def squared_norm(self, vector: Tangent, base_point: Theta | None = None) -> Scalars:
        """Euclidean square of tangent vectors."""
        return inner(vector, vector)

    def norm(self, vector: Tangent, base_point: Theta | None = None) -> Scalars:
        """Euclidean length of tangent vectors."""
        return gs.sqrt(inner(vector, vector))

    def geodesic_equation(self, state: States) -> States:
        """Evaluate the geodesic equation, θ'' = −∂hᵀ(∂h∂hᵀ)⁻¹ ∂²h[θ', θ']."""
        shape = (2, *self._space.shape)
        state = as_array(state, "state", shape, differentiable=False)
        theta, velocity = state[..., 0, :], state[..., 1, :]
        return np.stack([velocity, self.solver.acceleration(theta, velocity)], axis=-2)

    def second_fundamental_form(
        self, tangent_vec_a: Tangent, tangent_vec_b: Tangent, base_point: Theta
    ) -> Tangent:
        """Second fundamental form of the invariant set in ℝᴰ, −∂hᵀ(∂h∂hᵀ)⁻¹ ∂²h[a, b]."""
        arrays = [base_point, tangent_vec_a, tangent_vec_b]
        return self._over_points(self.solver.spaces.second_fundamental_form, arrays)


@doors
class InvariantSet(RandomVectors, LevelSet):
    """The set 𝓜_θ₀ = {θ : h(θ) = h(θ₀)} that every gradient flow from θ₀ stays on.

    A geomstats ``LevelSet`` in ``Euclidean(D)``, with the induced metric. With the intrinsic
    metric on the image, the lift is a Riemannian submersion from it. Its ``laws0`` are h(θ₀).

    Raises
    ------
    ArchitectureError
        The laws leave isolated points only, which are no manifold to geomstats.

    Examples
    --------
    >>> from liftflow.architectures import ReLUNetwork
    >>> from liftflow.manifolds import InvariantSet
    >>> network = ReLUNetwork.from_widths([2, 1, 1])
    >>> hyperboloid = InvariantSet(network, [1.0, 2.0, 1.0])  # x² + y² − w² = 4
    >>> hyperboloid.dim, bool(hyperboloid.belongs([2.0, 1.0, 1.0]))
    (2, True)
    """

    _usual_fix: ClassVar[str] = "make one by InvariantSet(architecture, theta0)"

    def __init__(self, architecture: Architecture, theta0: OneTheta, equip: bool = True) -> None:
        self.architecture = as_instance(architecture, Architecture, "architecture")
        self.theta0: FloatArray = as_own(theta0, "theta0", (architecture.dim,))
        self.laws0: FloatArray = freeze(np.asarray(architecture.conservation_laws(self.theta0)))
        dim = architecture.dim - architecture.laws_rank(self.theta0)
        if dim < 1:
            raise ArchitectureError(
                f"{architecture.n_laws} independent laws on {architecture.dim} parameters leave "
                "isolated points: nothing flows, and there is no manifold"
            )
        super().__init__(dim=dim, equip=equip)

    @staticmethod
    def default_metric() -> type[InducedMetric]:
        """Metric to equip the set with if ``equip`` is True."""
        return InducedMetric

    def _define_embedding_space(self) -> Euclidean:
        space = Euclidean(self.architecture.dim, equip=False)
        space.equip_with_metric(ParameterMetric)
        return space

    def plot(self, theta: Theta | None = None) -> "Figure":
        """Draw the set at θ₀: a surface where it is one in space, else a slice; and a trajectory.

        Parameters
        ----------
        theta : array-like, shape=[n_times, dim], optional
            Parameters on the set, such as those of a trajectory.
        """
        from liftflow.drawing import draw_invariant_set

        shape = (None, self.architecture.dim)
        if theta is not None:
            theta = as_array(theta, "theta", shape, batch=False, differentiable=False)
        return draw_invariant_set(self, theta)

    def submersion(self, point: Theta) -> Laws:
        """Evaluate h(θ) − h(θ₀), which vanishes on the set."""
        return self.architecture.conservation_laws(point) - self.laws0

    def tangent_submersion(self, vector: Tangent, point: Theta) -> Laws:
        """Evaluate ∂h(θ) v, which vanishes on tangent vectors."""
        return self.architecture.laws_jvp(point, vector)

    def belongs(self, point: Theta, atol: float = gs.atol) -> Scalars:
        """Check that the laws have their values, each relative to the size of its terms.

        These are taken at the point or at θ₀, where they are larger.
        """
        point = np.asarray(point)
        if point.shape[-1:] != self.shape:
            return np.zeros(point.shape[:-1], dtype=bool)
        gaps = np.abs(self.submersion(point))
        belongs = np.all(gaps <= atol * self._laws_size0, axis=-1)
        if np.all(belongs):  # by terms at least as large, too
            return belongs
        sizes = np.maximum(self.architecture.laws_size(point), self._laws_size0)
        return np.all(gaps <= atol * sizes, axis=-1)

    def is_tangent(self, vector: Tangent, base_point: Theta, atol: float = gs.atol) -> Scalars:
        """Check that a vector leaves the laws as they are, each relative to its terms."""
        if np.shape(vector)[-1:] != self.shape:
            return np.zeros(np.shape(vector)[:-1], dtype=bool)
        change = np.abs(self.tangent_submersion(vector, base_point))
        sizes = atol * self.architecture.laws_size(base_point, vector)
        if not np.all(told := change <= sizes):  # a single term may be rounding of the vector
            units = self.architecture.phi.units(np.asarray(base_point))
            largest = units * np.max(np.abs(vector) / units, axis=-1, keepdims=True)
            told = change <= sizes + ROUNDING * self.architecture.laws_size(base_point, largest)
        return np.all(told, axis=-1)

    @cached_property
    def _laws_size0(self) -> Laws:
        return self.architecture.laws_size(self.theta0)

    def to_tangent(self, vector: Tangent, base_point: Theta) -> Tangent:
        """Project orthogonally onto ker ∂h, by a solve with ∂h∂hᵀ."""
        return self.architecture.project_to_tangent(base_point, vector)

    def projection(self, point: Theta) -> Theta:
        """Move a nearby parameter onto the set; of a ReLU network, within its fibre of φ."""
        return self.architecture.project_to_laws(point, self.laws0)

    def random_point(self, n_samples: int = 1, bound: float = 1.0, rng: Rng = None) -> Theta:
        """Draw parameters of the size of θ₀, times ``bound``, and project them onto the set.

        With one sample there is no sample axis.
        """
        drawn = points_of_size(self.architecture, self.theta0, n_samples, bound, rng)
        return self.projection(drawn)

    def lift(self, theta: Theta) -> Lifted:
        """Lift a parameter to z = φ(θ)."""
        return self.architecture.lift(theta)

    def recover(self, z: Lifted) -> Theta:
        """Recover a parameter of the set from z, in the sign gauge of θ₀."""
        return self.architecture.recover(z, self.laws0, near=self.theta0)

    def chart(self, theta: OneTheta | None = None) -> Manifold:
        """Return the manifold of coordinates of the image about φ(θ), where tensors have entries.

        Its metric has ``metric_matrix``, ``cometric_matrix``, ``christoffels`` and what geomstats
        makes of them. Coordinates are the products along D − |H| basis paths for a ReLU network,
        the entries of Z for matrices of full rank. By default it is about φ(θ₀).

        Raises
        ------
        NotImplementedError
            No coordinates are known.
        """
        return chart_manifold(self.architecture, self, self.theta0 if theta is None else theta)

    @cached_property
    def fiber_bundle(self) -> LiftBundle:
        """The lift φ as a fibre bundle over the image."""
        return LiftBundle(self)

    def equip_with_quotient(self) -> Manifold:
        """Return the image with geomstats's quotient metric over :attr:`fiber_bundle`.

        The same metric as that of :meth:`image`, found another way, and slower: a check on it. It
        is also kept as the attribute ``quotient``.

        Raises
        ------
        NotIntrinsicError
            There is no intrinsic metric at this θ₀: the fibres are not equidistant.
        """
        self.quotient = self.image().equip_with_metric(LiftQuotientMetric, total_space=self)
        return self.quotient

    def image(self) -> Manifold:
        """Return the manifold φ(𝓜_θ₀), equipped with its intrinsic metric.

        Raises
        ------
        NotIntrinsicError
            There is none at this θ₀: no closed form exists, nor can θ be recovered from z.
        """
        return image_manifold(self.architecture, self.theta0)
