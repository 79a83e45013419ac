"""Maps: verbs against one another, products, and what users write themselves."""

import autograd.numpy as anp
import geomstats.backend as gs
import numpy as np
import pytest

from liftflow.architectures import (
    Architecture,
    Attention,
    DeepLinear,
    ProductArchitecture,
    ReLUNetwork,
    TwoLayerLinear,
)
from liftflow.architectures.maps import ProductMap, SmoothMap

pytestmark = pytest.mark.skipif(
    not gs.has_autodiff(), reason="derivatives by autograd need its backend"
)
NETWORK = ReLUNetwork.residual([2, 3, 2], [(0, 2)], bias=True)
FAMILIES = {
    "relu": NETWORK,
    "deep": DeepLinear([2, 3, 2, 2]),
    "two layers": TwoLayerLinear(2, 3, 2),
    "product": ProductArchitecture(ReLUNetwork.from_widths([2, 2, 1]), TwoLayerLinear(1, 2, 2)),
}


def public(thing):
    return {name for name in dir(thing) if not name.startswith("_")}


def test_the_surface_is_small():
    assert len(public(NETWORK) & public(DeepLinear([1, 1, 1]))) <= 20
    assert len(public(Architecture)) <= 20
    assert len(public(ReLUNetwork) - public(Architecture)) <= 20
    assert len(public(NETWORK) - public(DeepLinear([1, 1, 1]))) <= 20
    assert "laws_jvp" not in public(NETWORK) and callable(NETWORK.laws_jvp)


@pytest.mark.parametrize("kind", ["phi", "h"])
@pytest.mark.parametrize("name", FAMILIES)
def test_closed_forms_against_autograd(name, kind, rng):
    own = getattr(FAMILIES[name], kind)
    plain = SmoothMap(own.value, own.dim, own.shape)
    theta, v, w = rng.standard_normal((3, own.dim))
    g = rng.standard_normal(own.shape)
    for verb, arguments in (
        ("jvp", [v]),
        ("vjp", [g]),
        ("jacobian", []),
        ("hessian", [v, w]),
        ("hvp", [v, g]),
    ):
        wanted = getattr(plain, verb)(theta, *arguments)
        np.testing.assert_allclose(getattr(own, verb)(theta, *arguments), wanted, atol=1e-12)
    terms = own.terms(np.stack([theta, w]))
    assert terms.shape == (2, *own.shape)
    assert np.all(terms[0] >= np.abs(own(theta)) * (1 - 1e-12))
    shortest = np.linalg.pinv(plain.jacobian(theta), rcond=1e-9) @ np.ravel(own.jvp(theta, v))
    np.testing.assert_allclose(own.solve(theta, own.jvp(theta, v)), shortest, atol=1e-10)
    np.testing.assert_allclose(own.jvp(theta, own.project_to_kernel(theta, v)), 0, atol=1e-12)
    assert own.rank(theta) == plain.rank(theta)
    batch = own.jvp(theta, np.stack([v, w]))  # leading axes broadcast
    np.testing.assert_allclose(batch[1], own.jvp(theta, w), atol=1e-14)


def test_a_product_joins_vectors_and_values():
    square = SmoothMap(lambda t: t**2, 2, (2,))
    total = SmoothMap(lambda t: anp.sum(t, axis=-1)[..., None], 1, (1,))
    both = ProductMap([square, total], (3,))
    theta = np.array([[1.0, 2.0, 5.0], [3.0, 4.0, 6.0]])
    np.testing.assert_allclose(both(theta), [[1, 4, 5], [9, 16, 6]])
    np.testing.assert_allclose(both.vjp(theta, np.ones(3)), [[2, 4, 1], [6, 8, 1]])


class Own(ReLUNetwork):
    """A user's own derivatives, in terms of those of the family."""

    def lift_jvp(self, theta, tangent):
        return 2 * super().lift_jvp(theta, tangent)

    def laws_jvp(self, theta, tangent):
        return 3 * super().laws_jvp(theta, tangent)


class Further(Own):
    def lift_jvp(self, theta, tangent):
        return 5 * super().lift_jvp(theta, tangent)


class Product(Architecture):
    """A lift and nothing else, and a derivative of it that counts how often it is asked."""

    def __init__(self):
        super().__init__(2, (1,))
        self.calls = 0

    def lift(self, theta):
        return theta[..., :1] * theta[..., 1:]

    def lift_jvp(self, theta, tangent):
        self.calls += 1
        return theta[..., :1] * tangent[..., 1:] + tangent[..., :1] * theta[..., 1:]


def test_what_a_user_writes_is_what_maps_do(rng):
    theta, v = rng.standard_normal((2, NETWORK.dim))
    jvp, laws = NETWORK.lift_jvp(theta, v), NETWORK.laws_jvp(theta, v)
    for kind, factor in ((Own, 2), (Further, 10)):
        network = kind.residual([2, 3, 2], [(0, 2)], bias=True)
        for own in (network.lift_jvp, network.phi.jvp):
            np.testing.assert_allclose(own(theta, v), factor * jvp)
        np.testing.assert_allclose(network.h.jvp(theta, v), 3 * laws)
        np.testing.assert_allclose(network.phi.jacobian(theta) @ v, factor * jvp)
    assert NETWORK.phi.jvp(theta, v) == pytest.approx(jvp)  # the control


def test_defaults_rest_on_what_a_user_writes():
    product = Product()
    np.testing.assert_allclose(product.lift_vjp([2.0, 3.0], [1.0]), [3, 2])
    assert product.calls == 1
    pair = ProductArchitecture(product, Product())
    np.testing.assert_allclose(pair.phi.jvp(np.arange(4.0), np.ones(4)), [[1], [5]])
    assert product.calls == 2


def test_maps_of_shared_heads_do_not_mix():
    attention = Attention(2, 1, 2)
    theta = attention.random_point(rng=0)
    parts = [
        factor.lift(part)
        for factor, part in zip(attention.factors, attention.unpack(theta), strict=True)
    ]
    np.testing.assert_array_equal(attention.phi(theta), np.stack(parts))
