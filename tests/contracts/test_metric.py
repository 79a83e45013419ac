"""Every closed form keeps the contract, and the contract catches broken ones."""

import numpy as np
import pytest
from cases import METRICS, layers, on_image, params, slow_under_numpy

from liftflow.metrics import GeodesicSolver, IntrinsicMetric, PathCometric
from liftflow.testing import check_metric

SLOW = [f"DAG {seed}" for seed in range(20) if seed not in (0, 3)]
SLOW += ["product", "discovered laws", "tensors 2, 1, 3", "identity skip", "batch norm 2-2-2-1"]
SLOW += ["layers 3-4-4-2, biases"]
UNDER_NUMPY = ["transformer block 2-2-1-2", "units of all kinds"]
UNDER_NUMPY += ["residual 2-3-3-2, biases", "diagonal 4, depth 3", "nodes fed by biases"]
UNDER_NUMPY += ["layers 3-2-2-2-2", "closed 2-3-2, skip", "deep 3-3-3-3"]


@pytest.mark.parametrize("build", params(METRICS, SLOW, UNDER_NUMPY))
def test_contract(build, rng):
    check_metric(build(), rng)


# Negative controls: each breaks one promise, and the contract says which.


class Scaled(PathCometric):
    def apply(self, z, covector, *, near=None):
        return 0.9 * super().apply(z, covector, near=near)

    def matrix(self, z):
        return 0.9 * super().matrix(z)


class SwappedEigenvalues(PathCometric):
    """The right eigenvectors and eigenvalues, in the wrong pairs."""

    def matrix(self, z):
        values, vectors = np.linalg.eigh(super().matrix(z))
        kept = self.architecture.dim - self.architecture.n_hidden
        values[..., -kept:] = values[..., -kept:][..., ::-1]
        return np.einsum("...ik,...k,...jk->...ij", vectors, values, vectors)


class OtherInvariantSet(PathCometric):
    """The closed form of another θ₀ with the same z."""

    def __init__(self, architecture, theta0):
        super().__init__(architecture, theta0)
        self.laws = self.laws + 0.01


class ConstantSection(PathCometric):
    """A point of the fibre that does not lie on the invariant set."""

    def point(self, z, *, near=None):
        return self.architecture.image_representative(z)


class StuckAtStart(PathCometric):
    """K at the point where Newton's method was told to start."""

    def point(self, z, *, near=None):
        return super().point(z) if near is None else near[..., ::-1]


class Skewed(PathCometric):
    def matrix(self, z):
        matrix = super().matrix(z)
        return matrix + 1e-11 * np.max(np.abs(matrix)) * np.triu(np.ones_like(matrix), 1)


class Shifted(PathCometric):
    """K + ε I, within the tolerance but of full rank."""

    def matrix(self, z):
        matrix = super().matrix(z)
        return matrix + 5e-11 * np.max(np.abs(matrix)) * np.eye(matrix.shape[-1])


class Indefinite(PathCometric):
    def matrix(self, z):
        matrix = super().matrix(z)
        return matrix - 5e-11 * np.max(np.abs(matrix)) * np.eye(matrix.shape[-1])


class OtherOperator(PathCometric):
    def apply(self, z, covector, *, near=None):
        return super().apply(z, covector, near=near) + 1e-6 * covector


class HalfSolve(PathCometric):
    def solve(self, z, tangent_vec):
        return super().solve(z, tangent_vec) / 2


class EuclideanProduct(PathCometric):
    def inner_product(self, z, tangent_vec_a, tangent_vec_b):
        return np.sum(np.asarray(tangent_vec_a) * tangent_vec_b, axis=-1)


class SkewProduct(PathCometric):
    def inner_product(self, z, tangent_vec_a, tangent_vec_b):
        weighted = np.arange(self.architecture.n_paths) * tangent_vec_b
        product = super().inner_product(z, tangent_vec_a, tangent_vec_b)
        return product + 1e-3 * np.sum(np.roll(tangent_vec_a, 1, axis=-1) * weighted, axis=-1)


class NegativeProduct(PathCometric):
    def inner_product(self, z, tangent_vec_a, tangent_vec_b):
        return -super().inner_product(z, tangent_vec_a, tangent_vec_b)


class FirstOfBatch(PathCometric):
    def apply(self, z, covector, *, near=None):
        z = np.asarray(z)
        return super().apply(z if z.ndim == 1 else z[..., :1, :] + 0 * z, covector, near=near)


BROKEN_COMETRICS = [
    (Scaled, "cometric_matrix against ∂φ ∂φᵀ, random θ: off by 1.0e-01"),
    (SwappedEigenvalues, "cometric_matrix against ∂φ ∂φᵀ, random θ"),
    (OtherInvariantSet, "point: laws"),
    (ConstantSection, "point: laws"),
    (StuckAtStart, "point: lift"),
    (Skewed, "cometric_matrix symmetric"),
    (Shifted, "cometric_matrix: rank 18, expected dim 12"),
    (Indefinite, "cometric_matrix: relative eigenvalue -.*e-11 < 0"),
    (OtherOperator, "cometric_apply against cometric_matrix"),
    (HalfSolve, "solve inverts cometric_apply: off by 5.0e-01"),
    (EuclideanProduct, r"inner_product against K⁺"),
    (SkewProduct, "inner_product symmetric"),
    (NegativeProduct, "squared_norm: -.* for a nonzero vector"),
    (FirstOfBatch, "cometric_apply: leading axes"),
]


@slow_under_numpy
@pytest.mark.parametrize(
    ("broken", "reason"), BROKEN_COMETRICS, ids=[cls.__name__ for cls, _ in BROKEN_COMETRICS]
)
def test_contract_catches_a_cometric(broken, reason, rng):
    image = on_image(layers([3, 3, 2]))
    image.equip_with_metric(IntrinsicMetric, cometric=broken(image.architecture, image.theta0))
    with pytest.raises(AssertionError, match=reason):
        check_metric(image.metric, rng)


class Descent(IntrinsicMetric):
    def gradient(self, euclidean_gradient, z):
        return -super().gradient(euclidean_gradient, z)


class OffTheTangentSpace(IntrinsicMetric):
    """Positive definite in all lifted directions."""

    def metric_matrix(self, base_point=None):
        matrix, right = self.cometric_matrix(base_point), super().metric_matrix(base_point)
        return right + np.eye(matrix.shape[-1]) - right @ matrix


class NotInverted(IntrinsicMetric):
    def metric_matrix(self, base_point=None):
        return self.cometric_matrix(base_point)


class VerticalLift(IntrinsicMetric):
    """A lift that pushes forward to the vector, but leaves the invariant set."""

    def horizontal_lift(self, tangent_vec, z):
        network, theta = self.cometric.architecture, self.cometric.point(z)
        rates = np.append(np.ones(network.n_hidden), 0.0)
        along = theta * (rates[network.dag.head_hidden] - rates[network.dag.tail_hidden])
        return super().horizontal_lift(tangent_vec, z) + along


class LongLift(IntrinsicMetric):
    def horizontal_lift(self, tangent_vec, z):
        return 1.001 * super().horizontal_lift(tangent_vec, z)


class LongVectors(IntrinsicMetric):
    def inner_product(self, tangent_vec_a, tangent_vec_b, base_point):
        return 1.01 * super().inner_product(tangent_vec_a, tangent_vec_b, base_point)


class WeakTurn(GeodesicSolver):
    def _acceleration(self, theta, velocity):
        return 0.9 * super()._acceleration(theta, velocity)


class WeakTurns(IntrinsicMetric):
    """0.9 times the coefficient of the geodesic equation."""

    def __init__(self, space, cometric):
        super().__init__(space, cometric)
        self.solver = WeakTurn(cometric.architecture, cometric.horizontal_spaces)


class Sideways(GeodesicSolver):
    """Accelerates within the invariant set: its laws and speed do not tell."""

    def _acceleration(self, theta, velocity):
        right = super()._acceleration(theta, velocity)
        push = self.spaces.project(theta, theta[::-1])
        along = push - velocity * (velocity @ push) / (velocity @ velocity)
        return right + 0.1 * along


class SidewaysGeodesics(IntrinsicMetric):
    def __init__(self, space, cometric):
        super().__init__(space, cometric)
        self.solver = Sideways(cometric.architecture, cometric.horizontal_spaces)


class SlowExp(IntrinsicMetric):
    def exp(self, tangent_vec, base_point):
        return super().exp(0.9 * np.asarray(tangent_vec), base_point)


class ChordLog(IntrinsicMetric):
    """The first guess of the logarithm, the projected chord."""

    def log(self, point, base_point):
        return self._space.to_tangent(point - base_point, base_point)


class TwiceTheSquare(IntrinsicMetric):
    def squared_dist(self, point_a, point_b):
        return 2 * super().squared_dist(point_a, point_b)


class NoTransport(IntrinsicMetric):
    def parallel_transport(self, tangent_vec, base_point, direction=None, end_point=None):
        return np.asarray(tangent_vec)


class OppositeCurvature(IntrinsicMetric):
    def curvature(self, tangent_vec_a, tangent_vec_b, tangent_vec_c, base_point):
        return -super().curvature(tangent_vec_a, tangent_vec_b, tangent_vec_c, base_point)


class OppositeCurvatures(OppositeCurvature):
    """The wrong sign everywhere, which no symmetry tells."""

    def sectional_curvature(self, tangent_vec_a, tangent_vec_b, base_point=None):
        return -super().sectional_curvature(tangent_vec_a, tangent_vec_b, base_point)


class AmbientCurvature(IntrinsicMetric):
    """The zeros of the ambient space."""

    def curvature(self, tangent_vec_a, tangent_vec_b, tangent_vec_c, base_point):
        return 0.0 * tangent_vec_c

    def sectional_curvature(self, tangent_vec_a, tangent_vec_b, base_point=None):
        return 0.0


BROKEN_METRICS = [
    (WeakTurns, "exp: laws of the lifted geodesic"),
    (SidewaysGeodesics, "exp: horizontal acceleration falls with the order"),
    (SlowExp, "geodesic at time 1 against exp"),
    (ChordLog, "log inverts exp"),
    (TwiceTheSquare, "dist against the length of a geodesic: off by 4.1e-01"),
    (NoTransport, "parallel_transport of the velocity"),
    (OppositeCurvature, "sectional_curvature against curvature"),
    (OppositeCurvatures, "but geodesics spread as for"),
    (AmbientCurvature, "but geodesics spread as for"),
    (VerticalLift, "horizontal_lift: tangent"),
    (LongLift, "horizontal_lift: push-forward"),
    (LongVectors, "inner_product against K⁺"),
    (Descent, "gradient against cometric_apply: off by 2.0e"),
    (OffTheTangentSpace, "metric_matrix 0 off the tangent space"),
    (NotInverted, "metric_matrix inverts cometric_matrix"),
]


@slow_under_numpy
@pytest.mark.parametrize(
    ("broken", "reason"), BROKEN_METRICS, ids=[cls.__name__ for cls, _ in BROKEN_METRICS]
)
def test_contract_catches_a_metric(broken, reason, rng):
    image = on_image(layers([3, 3, 2]))
    image.equip_with_metric(broken, cometric=image.metric.cometric)
    with pytest.raises(AssertionError, match=reason):
        check_metric(image.metric, rng)


@pytest.mark.parametrize("wrong", [-1, 1])
def test_contract_catches_a_wrong_dimension(wrong, rng):
    image = on_image(layers([3, 3, 2]))
    image.dim += wrong
    with pytest.raises(AssertionError, match=f"rank 12, expected dim {12 + wrong}"):
        check_metric(image.metric, rng)
