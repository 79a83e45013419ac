"""What products of architectures take from their factors."""

import numpy as np
import pytest
from tensors import RankOneTensors

from liftflow import intrinsic_cometric
from liftflow.architectures import (
    Attention,
    DeepLinear,
    LinearNeuralODE,
    ProductArchitecture,
    ReLUNetwork,
    ScaleInvariant,
    TwoLayerLinear,
)
from liftflow.errors import ArchitectureError

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
