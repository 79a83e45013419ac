"""Images under the algorithms of geomstats, and in its products."""

import joblib
import numpy as np
import pytest
from cases import balanced, layers, on_image, on_set
from geomstats.geometry.nfold_manifold import NFoldManifold
from geomstats.geometry.product_manifold import ProductManifold
from geomstats.learning.frechet_mean import FrechetMean, variance
from geomstats.learning.kmeans import RiemannianKMeans
from geomstats.learning.pca import TangentPCA

from liftflow.architectures import TwoLayerLinear
from liftflow.data import load
from liftflow.flows import ParameterFlow
from liftflow.matrix_losses import least_squares_loss
from liftflow.metrics import IntrinsicMetric


def coarse(image):
    """Loosen the tolerance of geodesics, where means are asked for 1e-5 only."""
    return image.equip_with_metric(IntrinsicMetric, cometric=image.metric.cometric, rtol=1e-9)


def mean_of(space, points, start):
    """Fréchet mean, to where the mean of the logarithms is small."""
    found = FrechetMean(space).set(init_point=start, max_iter=20, epsilon=1e-13).fit(points)
    return found.estimate_


@pytest.fixture(scope="module")
def trained():
    """Twenty linear networks of one invariant set, each trained on the petals of twelve irises."""
    iris = load("iris")
    rng = np.random.default_rng(0)
    network, petals = TwoLayerLinear(3, 2, 2), iris.inputs[:, 2:]
    invariant_set = on_set(network, network.balanced_point(0.3, 1))
    ends = []
    for _ in range(20):
        rows = rng.choice(len(petals), size=12, replace=False)
        loss = least_squares_loss(petals[rows], np.eye(3)[iris.targets[rows]])
        flow = ParameterFlow(network, loss)
        end = flow.integrate(invariant_set.theta0, (0.0, 5.0), rtol=1e-6, n_times=2)
        ends.append(invariant_set.projection(end.theta[-1]))
    return invariant_set, np.array(ends)


@pytest.mark.slow
def test_frechet_mean_of_trained_networks_beats_the_euclidean_one(trained):
    invariant_set, ends = trained
    image = coarse(invariant_set.image())
    points = invariant_set.lift(ends)
    euclidean = np.mean(points, axis=0)
    mean = mean_of(image, points, euclidean)
    residual = np.mean(image.metric.log(points, mean), axis=0)
    spread = np.sqrt(variance(image, points, mean))
    assert image.metric.norm(residual, mean) < 1e-5 * spread
    assert variance(image, points, mean) < variance(image, points, euclidean)
    # Not by rounding: their distance is far above the tolerance of the mean.
    assert image.metric.dist(mean, euclidean) > 1e-4 * spread


@pytest.fixture(scope="module")
def flat():
    """The smallest flat image with fibres above it, and points about one of its own."""
    image = coarse(on_image(*balanced(TwoLayerLinear(2, 2, 2), 0.5))).flat()
    centre = image.diffeo.inverse(image.image_space.architecture.lift(image.image_space.theta0))
    return image, centre


def around(space, centre, directions, lengths):
    """Points at given lengths along given directions."""
    unit = space.metric.normalize(space.to_tangent(directions, centre), centre)
    return space.metric.exp(np.asarray(lengths)[:, None] * unit, centre)


def test_principal_geodesic_of_points_along_one(flat, rng):
    space, centre = flat
    direction = rng.standard_normal(space.shape)
    points = around(space, centre, direction, [-0.3, -0.2, -0.1, 0.1, 0.2, 0.3])
    pca = TangentPCA(space, n_components=2).fit(points, base_point=centre)
    assert pca.explained_variance_ratio_[0] > 1 - 1e-12
    component = pca.components_[0] / np.linalg.norm(pca.components_[0])
    assert abs(component @ direction) == pytest.approx(np.linalg.norm(direction), rel=1e-7)
    back = pca.inverse_transform(pca.transform(points))
    np.testing.assert_allclose(back, points, atol=1e-7)


@pytest.mark.slow
def test_k_means_finds_two_groups(flat, rng):
    space, centre = flat
    ends = around(space, centre, rng.standard_normal(space.shape), [-0.5, 0.5])
    groups = [around(space, end, rng.standard_normal((2, space.dim)), [0.05] * 2) for end in ends]
    points = np.concatenate(groups)
    found = RiemannianKMeans(space, n_clusters=2, init=points[[0, 2]]).fit(points)
    np.testing.assert_array_equal(found.labels_, [0] * 2 + [1] * 2)
    assert np.all(space.metric.dist(found.cluster_centers_, ends) < 0.05)


def test_frechet_mean_of_two_networks_lies_half_way(rng):
    invariant_set = on_set(layers([2, 2, 1]))
    image = invariant_set.image()
    start = invariant_set.lift(invariant_set.theta0)
    vector = 0.1 * image.random_tangent_vec(start, rng=rng)
    ends = image.metric.exp(np.stack([vector, -vector]), start)
    np.testing.assert_allclose(mean_of(image, ends, ends[0]), start, atol=1e-6)


def test_distances_of_a_product_are_those_of_its_factors(rng):
    factors = [on_image(layers([2, 1, 2])), on_image(*balanced(TwoLayerLinear(2, 2, 1), 0.5))]
    product = ProductManifold(factors)
    starts = [factor.random_point(rng=rng) for factor in factors]
    vectors = [0.1 * f.random_tangent_vec(x, rng=rng) for f, x in zip(factors, starts, strict=True)]
    start, vector = product.embed_to_product(starts), product.embed_to_product(vectors)
    end = product.metric.exp(vector, start)
    parts = zip(factors, vectors, starts, strict=True)
    squares = [f.metric.squared_norm(v, x) for f, v, x in parts]
    assert product.metric.squared_dist(start, end) == pytest.approx(sum(squares), rel=1e-7)
    np.testing.assert_allclose(product.metric.log(end, start), vector, atol=1e-8)


def test_copies_of_an_image(rng):
    image = on_image(layers([2, 1, 2]))
    copies = NFoldManifold(image, 3)
    start = image.random_point(3, rng=rng)
    vector = 0.1 * image.random_tangent_vec(start, rng=rng)
    end = copies.metric.exp(vector, start)
    np.testing.assert_allclose(end, image.metric.exp(vector, start))
    squares = image.metric.squared_norm(vector, start)
    assert copies.metric.squared_dist(start, end) == pytest.approx(np.sum(squares), rel=1e-7)


@pytest.mark.slow
def test_pairwise_distances_in_other_processes(flat, rng):
    space, centre = flat
    points = around(space, centre, rng.standard_normal((3, space.dim)), [0.1, 0.2, 0.3])
    with joblib.parallel_backend("loky", n_jobs=2):
        table = space.metric.dist_pairwise(points, n_jobs=2)
    wanted = [[0.0 if a is b else space.metric.dist(a, b) for b in points] for a in points]
    np.testing.assert_allclose(table, wanted, atol=1e-9)
