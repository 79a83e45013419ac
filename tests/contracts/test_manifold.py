"""Every manifold keeps the contract, and the contract catches broken ones."""

import numpy as np
import pytest
from cases import MANIFOLDS, layers, params

from liftflow.manifolds import InvariantSet, PathImage
from liftflow.testing import check_manifold

SLOW = [f"image DAG {seed}" for seed in range(5, 20)] + ["image identity skip"]
UNDER_NUMPY = ["image units of all kinds", "image discovered laws"]
UNDER_NUMPY += ["image recurrent", "image 3-4-4-2, biases"]


@pytest.mark.parametrize("build", params(MANIFOLDS, SLOW, UNDER_NUMPY))
def test_contract(build, rng):
    check_manifold(build(), rng)


# Negative controls: each breaks one promise, and the contract says which.


class Bigger(InvariantSet):
    def __init__(self, architecture, theta0):
        super().__init__(architecture, theta0)
        self.dim += 1


class FloatDim(InvariantSet):
    def __init__(self, architecture, theta0):
        super().__init__(architecture, theta0)
        self.dim = float(self.dim)


class SmallerImage(PathImage):
    def __init__(self, architecture, theta0):
        super().__init__(architecture, theta0)
        self.dim -= 1


class NoProjector(InvariantSet):
    def to_tangent(self, vector, base_point):
        return vector + 0 * np.asarray(base_point)


class ShortProjector(InvariantSet):
    def to_tangent(self, vector, base_point):
        return 0.99 * super().to_tangent(vector, base_point)


class ObliqueProjector(PathImage):
    """Onto the tangent space, but not orthogonally."""

    def to_tangent(self, vector, base_point):
        scale = np.linspace(1, 2, *self.shape)
        return super().to_tangent(
            scale * super().to_tangent(vector / scale, base_point), base_point
        )


class MissedDirection(InvariantSet):
    """Loses a tangent direction, as RankKPSDMatrices of geomstats 2.8.0 does."""

    def to_tangent(self, vector, base_point):
        radial = super().to_tangent(base_point, base_point)
        tangent = super().to_tangent(vector, base_point)
        inner, square = (np.sum(v * radial, axis=-1)[..., None] for v in (tangent, radial))
        return tangent - inner / square * radial


class OtherBasePoint(InvariantSet):
    """Projects at θ₀, whatever the base point."""

    def to_tangent(self, vector, base_point):
        return super().to_tangent(vector + 0 * np.asarray(base_point), self.theta0)


class AnyPoint(InvariantSet):
    def belongs(self, point, atol=1e-12):
        return super().belongs(point, atol=1e3)


class AnyShape(PathImage):
    def belongs(self, point, atol=1e-12):
        if np.shape(point)[-1:] != self.shape:
            return np.ones(np.shape(point)[:-1], dtype=bool)
        return super().belongs(point, atol)


class AnyVector(PathImage):
    def is_tangent(self, vector, base_point, atol=1e-12):
        return super().is_tangent(vector, base_point, atol=1e3)


class NoVector(InvariantSet):
    def is_tangent(self, vector, base_point, atol=1e-12):
        return super().is_tangent(vector, base_point, atol) & False


class OffPoints(InvariantSet):
    def random_point(self, n_samples=1, bound=1.0, rng=None):
        return self.architecture.random_point(n_samples, rng)


class Unseeded(PathImage):
    def random_point(self, n_samples=1, bound=1.0, rng=None):
        return super().random_point(n_samples, bound)


class NormalVectors(InvariantSet):
    def random_tangent_vec(self, base_point, n_samples=1, rng=None):
        vectors = super().random_tangent_vec(base_point, n_samples, rng)
        return vectors + self.architecture.conservation_laws_jacobian(base_point)[..., 0, :]


class OneVector(InvariantSet):
    """The bug of geomstats' default: one draw for all base points."""

    def random_tangent_vec(self, base_point, n_samples=1, rng=None):
        base_point = np.asarray(base_point)
        first = base_point.reshape(-1, *self.shape)[0]
        return super().random_tangent_vec(first, n_samples, rng) + 0 * base_point


class UnseededVectors(PathImage):
    def random_tangent_vec(self, base_point, n_samples=1, rng=None):
        return super().random_tangent_vec(base_point, n_samples)


class LazyProjection(PathImage):
    def projection(self, point):
        return point


class FarProjection(InvariantSet):
    def projection(self, point):
        return super().projection(np.asarray(point) * np.linspace(1, 2, *self.shape))


class FirstOfBatch(PathImage):
    def projection(self, point):
        point = np.asarray(point)
        return super().projection(point if point.ndim == 1 else point[..., :1, :] + 0 * point)


BROKEN = [
    (Bigger, r"to_tangent \(dim\): rank 12, expected 13"),
    (FloatDim, "dim: must be an int, got 12.0"),
    (SmallerImage, r"to_tangent \(dim\): rank 12, expected 11"),
    (NoProjector, r"to_tangent \(dim\): rank 15, expected 12"),
    (ShortProjector, r"to_tangent \(dim\): idempotent"),
    (ObliqueProjector, r"to_tangent \(dim\): (symmetric|idempotent)"),
    (MissedDirection, r"to_tangent \(dim\): rank 11, expected 12"),
    (OtherBasePoint, "to_tangent: a value that is_tangent refuses"),
    (AnyPoint, "belongs: accepts perturbed points"),
    (AnyShape, "belongs: accepts another shape"),
    (AnyVector, "is_tangent: accepts normal vectors"),
    (NoVector, "to_tangent: a value that is_tangent refuses"),
    (OffPoints, "random_point: a point that does not belong"),
    (Unseeded, "random_point: the same seed gives other draws"),
    (NormalVectors, "random_tangent_vec: a vector that is not tangent"),
    (OneVector, "random_tangent_vec: a vector that is not tangent"),
    (UnseededVectors, "random_tangent_vec: the same seed gives other draws"),
    (LazyProjection, "belongs: accepts perturbed points"),
    (FarProjection, "projection of points of the space"),
    (FirstOfBatch, "projection: leading axes"),
]


@pytest.mark.parametrize(("broken", "reason"), BROKEN, ids=[cls.__name__ for cls, _ in BROKEN])
def test_contract_catches(broken, reason, rng):
    network = layers([3, 3, 2])
    with pytest.raises(AssertionError, match=reason):
        check_manifold(broken(network, network.random_point(rng=0)), rng)
