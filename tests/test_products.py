"""What products of architectures take from their factors."""

import autograd.numpy as anp
import geomstats.backend as gs
import numpy as np
import pytest
from tensors import RankOneTensors

from liftflow import InvariantSet, compare, intrinsic_cometric
from liftflow.architectures import (
    Attention,
    DeepLinear,
    LinearNeuralODE,
    ProductArchitecture,
    ReLUNetwork,
    ScaleInvariant,
    TwoLayerLinear,
)
from liftflow.errors import ArchitectureError, InputError, NotIntrinsicError
from liftflow.flows import IntrinsicFlow, TrainingRule
from liftflow.losses import loss_from_function, loss_from_parameters

NETWORK, LINEAR, DEEP = (
    ReLUNetwork.from_widths([2, 3, 2]),
    TwoLayerLinear(3, 2, 2),
    DeepLinear([2] * 4),
)


def test_balanced_points_take_the_lams_of_each_factor(rng):
    product = ProductArchitecture(NETWORK, LINEAR, DEEP)
    theta = product.balanced_point([0.0, 0.7, (0.5, -0.3)], rng)
    network, linear, deep = product.unpack(theta)
    u, v = LINEAR.unpack(linear)
    np.testing.assert_allclose(u.T @ u - v.T @ v, 0.7 * np.eye(2), atol=1e-12)
    first, second, third = DEEP.unpack(deep)
    for below, above, lam in ((first, second, 0.5), (second, third, -0.3)):
        np.testing.assert_allclose(above.T @ above - below @ below.T, lam * np.eye(2), atol=1e-12)
    assert np.all(network != 0)
    intrinsic_cometric(product, theta)
    same = product.unpack(product.balanced_point(0.2, rng))[1:]
    for factor, part in zip(product.factors[1:], same, strict=True):
        assert np.allclose(factor.balance(factor.conservation_laws(part), factor.sizes(part)), 0.2)
    nested = ProductArchitecture(product, Attention(2, 1, 1))
    own = nested.balanced_point([[0.0, 0.7, 0.1], 0.4], 0)
    assert nested.dim == own.size
    intrinsic_cometric(nested, own)
    with pytest.raises(ArchitectureError, match="1 or 3 numbers"):
        product.balanced_point([0.1, 0.2], 0)


def test_the_control_moves_the_factors_that_have_one(rng):
    product = ProductArchitecture(RankOneTensors(2, 1, 3), NETWORK, LinearNeuralODE(2, 4), LINEAR)
    theta = product.balanced_point(0.3, rng)
    other = product.fibre_point(theta, rng)
    np.testing.assert_allclose(product.lift(other), product.lift(theta), rtol=1e-9, atol=1e-9)
    moved = [
        not np.allclose(factor.conservation_laws(a), factor.conservation_laws(b))
        for factor, a, b in zip(
            product.factors, product.unpack(theta), product.unpack(other), strict=True
        )
    ]
    assert moved == [False, True, False, True]
    with pytest.raises(ArchitectureError, match="no factor has another point"):
        ProductArchitecture(*product.factors[::2]).fibre_point(np.ones(6 + 16))


def test_lengths_add_up_without_a_list_of_paths(rng):
    product = ProductArchitecture(NETWORK, LINEAR)
    points = product.random_point(2, rng)
    gap = np.ravel(product.lift(points[0]) - product.lift(points[1]))
    np.testing.assert_allclose(product.lifted_distance(*points), np.linalg.norm(gap))
    norms = [np.linalg.norm(product.lift(point)) for point in points]
    np.testing.assert_allclose(product.lifted_norm(points), norms)
    large = ReLUNetwork.from_widths([20] * 9)  # 5e11 paths
    both = ProductArchitecture(large, ScaleInvariant(2, 3))
    theta = both.random_point(rng=rng)
    wanted = np.hypot(large.lifted_norm(both.unpack(theta)[0]), np.sqrt(2))
    np.testing.assert_allclose(both.lifted_norm(theta), wanted)


# Coordinates.


def test_a_chart_of_a_product_is_that_of_its_factors(rng):
    product = ProductArchitecture(NETWORK, LINEAR, ProductArchitecture(NETWORK))
    theta = product.balanced_point(0.4, rng)
    start = InvariantSet(product, theta)
    chart, parts = start.chart(), product.unpack(theta)
    assert chart.dim == start.image().dim == 9 + 6 + 9
    assert start.image().dim < product.lifted_dim
    x = product.basis_chart(theta).coordinates(theta)
    sets = [InvariantSet(*pair) for pair in zip(product.factors, parts, strict=True)]
    own = [each.chart() for each in sets]
    ends = np.cumsum([each.dim for each in own])[:-1]
    points = np.split(x, ends)
    for name in ("metric_matrix", "cometric_matrix", "christoffels"):
        whole = getattr(chart.metric, name)(x)
        for each, point, end in zip(own, points, np.append(ends, chart.dim), strict=True):
            place = slice(end - each.dim, end)
            block = getattr(each.metric, name)(point)
            found = whole[(place,) * block.ndim]
            np.testing.assert_allclose(found, block, rtol=1e-8, atol=1e-8 * np.max(np.abs(block)))
            whole[(place,) * block.ndim] = 0.0
        assert np.max(np.abs(whole)) < 1e-10  # nothing of it is between factors
    vector = rng.standard_normal(chart.dim)
    length = start.image().metric.squared_norm(
        product.lift_jvp(theta, chart.diffeo.tangent(vector, image_point=theta)),
        product.lift(theta),
    )
    np.testing.assert_allclose(chart.metric.squared_norm(vector, x), length, rtol=1e-9)
    narrow = ProductArchitecture(NETWORK, TwoLayerLinear(3, 3, 1))
    with pytest.raises(NotImplementedError, match="no open set and no chart"):
        InvariantSet(narrow, narrow.balanced_point(0.2, rng)).chart()


@pytest.mark.slow
@pytest.mark.skipif(not gs.has_autodiff(), reason="numpy has no derivatives")
def test_flows_of_products_agree_in_all_coordinates(rng):
    narrow = TwoLayerLinear(3, 3, 1)  # whose image has fewer dimensions than z has entries
    product = ProductArchitecture(NETWORK, narrow, ScaleInvariant(2, 2))
    start = InvariantSet(product, product.balanced_point(0.4, rng))
    target = product.lift(start.theta0) + rng.standard_normal(product.lifted_dim)
    loss = loss_from_function(lambda z: anp.sum((z - target) ** 2))
    runs = [
        compare(start, loss, (0.0, 0.5), rtol=1e-8, n_times=3, coordinates=own, control=True)
        for own in ("full", "basis")
    ]
    for run in runs:
        assert run.success
        assert run.max_deviation < 1e-6
        assert run.control_deviation > 1e-2
    ends = [run.intrinsic.theta[-1] for run in runs]
    np.testing.assert_allclose(product.lift(ends[0]), product.lift(ends[1]), atol=1e-6)
    assert runs[1].intrinsic.y.shape[1] == 9 + 9 + 4


@pytest.mark.skipif(not gs.has_autodiff(), reason="numpy has no derivatives")
def test_many_paths_flow_in_basis_coordinates(rng):
    large = ReLUNetwork.from_widths([4] * 20)  # 10¹² paths
    product = ProductArchitecture(large, ScaleInvariant(2, 4))
    inputs = rng.standard_normal((5, 4))

    def ell(theta):
        network, weights = product.unpack(theta)
        read = anp.dot(inputs, product.factors[1].lift(weights).T)
        return anp.mean((large.forward(network, inputs)[:, :2] - read) ** 2)

    start = InvariantSet(product, product.random_point(rng=rng))
    loss = loss_from_parameters(ell, product)
    run = compare(start, loss, (0.0, 0.1), rtol=1e-7, coordinates="basis", n_times=3)
    assert run.success
    assert run.max_deviation < 1e-6
    assert run.intrinsic.y.shape[1] == large.dim - large.n_hidden + 8


def test_charts_refuse_what_has_no_metric(rng):
    product = ProductArchitecture(NETWORK, LINEAR)
    loss = loss_from_function(lambda z: anp.sum(z**2))
    with pytest.raises(NotIntrinsicError, match="balanced"):
        off = InvariantSet(product, product.random_point(rng=rng))
        IntrinsicFlow(off, loss, coordinates="basis").integrate(None, (0.0, 0.1))
    start = InvariantSet(product, product.balanced_point(0.1, rng))
    with pytest.raises(InputError, match="coordinates='full'"):
        compare(start, loss, (0.0, 0.1), coordinates="basis", rule=TrainingRule([1.0, 2.0]))
    run = compare(start, loss, (0.0, 0.1), rule=TrainingRule([1.0, 2.0], 0.3), n_times=2)
    assert run.max_deviation < 1e-5
