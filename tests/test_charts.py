"""Coordinates of images: metric, cometric and Christoffel symbols against derivatives of them."""

import geomstats.backend as gs
import numpy as np
import pytest
from autograd import jacobian
from cases import bias_fed, layers, residual
from geomstats.numerics.geodesic import ExpODESolver
from geomstats.numerics.ivp import ScipySolveIVP

from liftflow.architectures import Architecture, DeepLinear, TwoLayerLinear
from liftflow.manifolds import ChartedImage, FlatImage, InvariantSet
from liftflow.testing import check_manifold

NETWORKS = {
    "2-2-2": lambda: layers([2, 2, 2]),
    "residual 2-2-2-1, biases": lambda: residual([2, 2, 2, 1], [(0, 2)], bias=True),
    "nodes fed by biases": bias_fed,
    "2-3, no hidden nodes": lambda: layers([2, 3]),
}
MATRICES = {
    "two layers 3, 2, 2": (lambda: TwoLayerLinear(3, 2, 2), 0.5),
    "deep 2-2-2-2": (lambda: DeepLinear([2, 2, 2, 2]), (0.5, -0.3)),
    "two layers 2, 2, 2": (lambda: TwoLayerLinear(2, 2, 2), -0.7),
}


def christoffels_of(metric_matrix, slopes):
    """Koszul's formula, from g and its derivatives ∂_k g_ij, the derivative last."""
    first = slopes + np.swapaxes(slopes, -2, -1) - np.moveaxis(slopes, -1, -3)
    return np.linalg.solve(metric_matrix, first.reshape(len(first), -1)).reshape(first.shape) / 2


def derivative(function, x, step=1e-3):
    """Central differences, extrapolated to order 6, the derivative last."""
    h = step * np.array([1.0, 0.5, 0.25])
    ends = [
        [(function(x + s * e) - function(x - s * e)) / (2 * s) for e in np.eye(x.size)] for s in h
    ]
    a, b, c = (np.stack(end, axis=-1) for end in ends)
    return (16 * (4 * c - b) - (4 * b - a)) / 45


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS)
def charted(request, rng):
    network = request.param()
    invariant_set = InvariantSet(network, network.random_point(rng=1))
    return invariant_set, invariant_set.chart()


@pytest.fixture(params=MATRICES.values(), ids=MATRICES)
def open_image(request):
    build, lam = request.param
    architecture = build()
    return InvariantSet(architecture, architecture.balanced_point(lam, 0))


def near(invariant_set, rng, count=None, scale=0.05):
    """Points of the invariant set near θ₀, with its signs."""
    shape = invariant_set.shape if count is None else (count, *invariant_set.shape)
    theta = invariant_set.theta0 * (1 + scale * rng.uniform(-1, 1, size=shape))
    return invariant_set.projection(theta)


def test_chart_keeps_the_contract_of_manifolds(charted, rng):
    check_manifold(charted[1], rng)


def test_coordinates_are_entries_of_z(charted, rng):
    invariant_set, chart = charted
    theta = near(invariant_set, rng, 3)
    x = chart.diffeo.inverse(theta)
    numbers = invariant_set.architecture.path_numbers(chart.diffeo.chart)
    np.testing.assert_allclose(x, invariant_set.lift(theta)[:, numbers], rtol=1e-13)
    np.testing.assert_allclose(chart.diffeo(x), theta, rtol=1e-11)


def test_cometric_is_that_of_the_image(charted, rng):
    invariant_set, chart = charted
    theta = near(invariant_set, rng, 2)
    numbers = invariant_set.architecture.path_numbers(chart.diffeo.chart)
    whole = invariant_set.architecture.gram_matrix(theta)
    wanted = whole[:, numbers[:, None], numbers]
    x = chart.diffeo.inverse(theta)
    np.testing.assert_allclose(chart.metric.cometric_matrix(x), wanted, atol=1e-11)
    product = chart.metric.metric_matrix(x) @ wanted
    np.testing.assert_allclose(product, np.tile(np.eye(chart.dim), (2, 1, 1)), atol=1e-9)


def test_inner_product_is_that_of_the_image(charted, rng):
    invariant_set, chart = charted
    x = chart.diffeo.inverse(near(invariant_set, rng))
    v, w = rng.standard_normal((2, chart.dim))
    wanted = v @ chart.metric.metric_matrix(x) @ w
    np.testing.assert_allclose(chart.metric.inner_product(v, w, x), wanted, rtol=1e-10)
    z = invariant_set.lift(chart.diffeo(x))
    pushed = [
        invariant_set.architecture.lift_jvp(chart.diffeo(x), chart.diffeo.tangent(u, x))
        for u in (v, w)
    ]
    np.testing.assert_allclose(
        invariant_set.image().metric.inner_product(*pushed, z), wanted, rtol=1e-9
    )


def test_christoffels_of_a_chart_are_those_of_its_metric(charted, rng):
    invariant_set, chart = charted
    x = chart.diffeo.inverse(near(invariant_set, rng))
    slopes = derivative(chart.metric.metric_matrix, x)
    wanted = christoffels_of(chart.metric.metric_matrix(x), slopes)
    found = chart.metric.christoffels(x)
    np.testing.assert_allclose(found, wanted, atol=1e-7 * max(1.0, np.abs(wanted).max()))
    np.testing.assert_allclose(found, np.swapaxes(found, -1, -2), atol=1e-12 * np.abs(found).max())


def test_geodesic_equation_is_that_of_the_christoffels(charted, rng):
    invariant_set, chart = charted
    x = chart.diffeo.inverse(near(invariant_set, rng, 2))
    state = np.stack([x, rng.standard_normal(x.shape)], axis=-2)
    wanted = super(type(chart.metric), chart.metric).geodesic_equation(state)
    np.testing.assert_allclose(chart.metric.geodesic_equation(state), wanted, atol=1e-9)


def test_batches_of_tensors_are_loops(charted, rng):
    invariant_set, chart = charted
    x = chart.diffeo.inverse(near(invariant_set, rng, 4)).reshape(2, 2, -1)
    for name in ("metric_matrix", "cometric_matrix", "christoffels"):
        tensor = getattr(chart.metric, name)
        loop = [[tensor(point) for point in row] for row in x]
        np.testing.assert_allclose(tensor(x), loop, atol=1e-13 * np.abs(loop).max())


def test_points_outside_a_chart_do_not_belong():
    network = layers([2, 2, 2])
    chart = InvariantSet(network, network.random_point(rng=0)).chart()
    x = chart.diffeo.inverse(chart.image_space.theta0)
    assert chart.belongs(x)
    assert not chart.belongs(0.0 * x)
    assert not chart.belongs(np.ones(chart.dim + 1))


def test_entries_of_matrices_are_coordinates_where_the_rank_is_full(open_image, rng):
    chart = open_image.chart()
    assert isinstance(chart, FlatImage)
    assert chart.shape == (chart.dim,)


@pytest.mark.skipif(
    not gs.has_autodiff(), reason="this backend of geomstats does not differentiate"
)
def test_christoffels_in_entries_are_those_of_the_metric_by_autodiff(open_image, rng):
    image = open_image.image()
    z = open_image.lift(open_image.random_point(rng=rng))
    flat = image.flat()
    x = flat.diffeo.inverse(z)
    slopes = jacobian(lambda x: image.metric.cometric.matrix(gs.reshape(x, image.shape)))(x)
    metric_matrix = flat.metric.metric_matrix(x)
    slopes = -np.einsum("ij,jkl,km->iml", metric_matrix, slopes, metric_matrix)
    wanted = christoffels_of(metric_matrix, slopes)
    np.testing.assert_allclose(
        flat.metric.christoffels(x), wanted, atol=1e-9 * np.abs(wanted).max()
    )


def test_matrices_of_a_smaller_rank_have_no_entries_for_coordinates():
    layers = TwoLayerLinear(3, 3, 2)
    invariant_set = InvariantSet(layers, layers.balanced_point(0.5, 0))
    with pytest.raises(
        NotImplementedError, match="the image is no open set, of dimension 8 among 9"
    ):
        invariant_set.chart()
    with pytest.raises(NotImplementedError, match="chart"):
        invariant_set.image().metric.christoffels(invariant_set.lift(invariant_set.theta0))


def test_a_family_without_coordinates_says_so():
    class Square(Architecture):
        def lift(self, theta):
            return theta**2

    with pytest.raises(
        NotImplementedError, match="no coordinates of the image are known for Square"
    ):
        InvariantSet(Square(2, (2,)), [1.0, 2.0]).chart()


def small_network():
    return InvariantSet(layers([2, 1, 2]), [0.7, -0.4, 1.1, 0.9])


def small_product():
    network = TwoLayerLinear(2, 2, 2)
    return InvariantSet(network, network.balanced_point(0.5, 0))


@pytest.fixture(params=[small_network, small_product], ids=["basis paths", "entries"])
def chart_and_point(request):
    invariant_set = request.param()
    theta, chart = invariant_set.theta0, invariant_set.chart()
    above = theta if isinstance(chart, ChartedImage) else invariant_set.lift(theta)
    return chart, chart.diffeo.inverse(above)


def test_exp_solves_the_geodesic_equation_of_the_christoffels(chart_and_point, rng):
    chart, x = chart_and_point
    vector = 0.2 * rng.standard_normal(chart.dim)
    integrator = ScipySolveIVP(method="DOP853", rtol=1e-11, atol=1e-12)
    solver = ExpODESolver(chart, integrator=integrator)
    np.testing.assert_allclose(chart.metric.exp(vector, x), solver.exp(vector, x), atol=1e-9)


def test_curvature_of_a_chart_has_the_symmetries_and_the_traces(chart_and_point):
    chart, x = chart_and_point
    metric = chart.metric
    tensor = metric.covariant_riemann_tensor(x)
    scale = 1e-9 * np.abs(tensor).max()
    cyclic = (
        tensor
        + np.moveaxis(tensor, [1, 2, 3], [2, 3, 1])
        + np.moveaxis(tensor, [1, 2, 3], [3, 1, 2])
    )
    np.testing.assert_allclose(cyclic, 0 * tensor, atol=scale)
    scalar = np.sum(metric.cometric_matrix(x) * metric.ricci_tensor(x))
    np.testing.assert_allclose(metric.scalar_curvature(x), scalar, rtol=1e-9)


def test_curvature_of_a_chart_is_that_of_its_christoffels(chart_and_point):
    chart, x = chart_and_point
    metric = chart.metric
    symbols = metric.christoffels(x)
    slopes = derivative(metric.christoffels, x)  # Γ^l_ij, then the direction
    # R^l_ijk = ∂_j Γ^l_ki − ∂_k Γ^l_ji + Γ^l_jm Γ^m_ki − Γ^l_km Γ^m_ji
    first = np.einsum("lkij->lijk", slopes)
    second = np.einsum("ljm,mki->lijk", symbols, symbols)
    wanted = first - np.swapaxes(first, -1, -2) + second - np.swapaxes(second, -1, -2)
    found = np.moveaxis(metric.riemann_tensor(x), -1, 0)
    np.testing.assert_allclose(found, wanted, atol=1e-6 * np.abs(wanted).max())
