"""The numerical fallback, on an architecture that a user would write: linear convolutions."""

from unittest.mock import Mock

import autograd.numpy as anp
import geomstats.backend as gs
import numpy as np
import pytest
from scipy.integrate import quad

from liftflow import (
    Architecture,
    InvariantSet,
    ReLUNetwork,
    TwoLayerLinear,
    classify,
    compare,
    count_conservation_laws,
    discover_laws,
    loss_from_function,
)
from liftflow.architectures import recovery
from liftflow.errors import NotFiniteError, NotRecoverableError
from liftflow.flows import IntrinsicFlow, ParameterFlow
from liftflow.metrics import RecoveredCometric, intrinsic_cometric, oracle_gram
from liftflow.testing import check_architecture, check_manifold

pytestmark = pytest.mark.skipif(
    not gs.has_autodiff(), reason="only lift is written, so derivatives need autograd"
)


class Convolution(Architecture):
    """Two layers of a linear convolution of stride 1: the product of two polynomials.

    Coefficients u and v, h(u, v) = |u|² − |v|². Recoverable where the two have no common root.
    """

    def __init__(self, n, m):
        super().__init__(n + m, (n + m - 1,), n_laws=1, block_shapes=[(n,), (m,)])

    def lift(self, theta):
        u, v = self.unpack(theta)
        m, n = v.shape[-1], u.shape[-1]
        zeros = 0.0 * u[..., :1]
        shifted = [
            gs.concatenate([zeros] * i + [u * v[..., i : i + 1]] + [zeros] * (m - 1 - i), axis=-1)
            for i in range(m)
        ]
        assert shifted[0].shape[-1] == n + m - 1
        return sum(shifted[1:], shifted[0])

    def conservation_laws(self, theta):
        u, v = self.unpack(theta)
        return gs.sum(u**2, axis=-1, keepdims=True) - gs.sum(v**2, axis=-1, keepdims=True)


SIZES = [(2, 2), (3, 2), (4, 3)]


@pytest.fixture(params=SIZES, ids=str)
def network(request):
    return Convolution(*request.param)


def target_of(network, theta0, rng):
    return network.lift(theta0 + 0.2 * rng.standard_normal(network.dim))


def test_it_is_an_architecture(network, rng):
    check_architecture(network)
    theta = network.random_point(rng=rng)
    u, v = network.unpack(theta)
    np.testing.assert_allclose(network.lift(theta), np.convolve(u, v), rtol=1e-12)


def test_cometric_is_the_gram_of_every_point_of_the_set(network, rng):
    start = InvariantSet(network, network.random_point(rng=rng))
    cometric = RecoveredCometric(network, start.theta0)
    for _ in range(5):
        step = start.to_tangent(rng.standard_normal(network.dim), start.theta0)
        theta = start.projection(start.theta0 + 0.2 * step)
        z = network.lift(theta)
        wanted = oracle_gram(network, theta)
        np.testing.assert_allclose(cometric.matrix(z), wanted, atol=1e-10 * np.abs(wanted).max())
        form = rng.standard_normal(z.shape)
        np.testing.assert_allclose(cometric.apply(z, form), wanted @ form, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(cometric.solve(z, wanted @ form), form, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_both_flows_agree_and_those_of_other_laws_part(network, rng):
    theta0 = network.random_point(rng=rng)
    start = InvariantSet(network, theta0)
    target = target_of(network, theta0, rng)
    loss = loss_from_function(lambda z: 0.5 * anp.sum((z - target) ** 2))
    settings = {"method": "DOP853", "rtol": 1e-10, "atol": 1e-12, "n_times": 5}
    run = compare(start, loss, (0.0, 1.0), cometric=RecoveredCometric(network, theta0), **settings)
    assert run.success and run.parameter.loss[-1] < 0.9 * run.parameter.loss[0]
    assert run.max_deviation <= 1e-8
    u, v = network.unpack(theta0)
    other = network.pack(1.3 * u, v / 1.3)  # the same z, other laws
    moved = compare(start, loss, (0.0, 1.0), cometric=RecoveredCometric(network, other), **settings)
    assert moved.max_deviation >= 1e-3


def test_polynomials_with_a_common_root_are_not_recoverable():
    network = Convolution(2, 2)
    theta = network.pack([1.0, -2.0], [0.5, -1.0])  # both vanish at 2
    kernels = np.vstack([network.lift_jacobian(theta), network.conservation_laws_jacobian(theta)])
    assert np.linalg.matrix_rank(kernels, tol=1e-12) < network.dim
    apart = network.pack([1.0, -2.0], [0.5, -1.2])
    kernels = np.vstack([network.lift_jacobian(apart), network.conservation_laws_jacobian(apart)])
    assert np.linalg.matrix_rank(kernels, tol=1e-12) == network.dim


def test_recovery_is_the_default_where_there_is_no_closed_form(rng):
    network = Convolution(3, 2)
    theta0 = network.random_point(rng=rng)
    assert type(intrinsic_cometric(network, theta0)) is RecoveredCometric
    image = InvariantSet(network, theta0).image()
    assert image.dim == network.lifted_dim and image.belongs(network.lift(theta0), 1e-12)
    off = InvariantSet(Convolution(2, 2), [1.0, 2.0, 1.5, -1.0]).image()
    assert off.belongs(np.convolve([1.0, 2.1], [1.4, -1.0]), 1e-9)
    assert not off.belongs(np.array([1.0, 0.0, 1.0]), 1e-9)  # x² + 1 has no real factors


def test_laws_that_no_point_over_z_has_are_refused():
    network = Convolution(2, 2)
    theta0 = network.random_point(rng=0)
    cometric = RecoveredCometric(network, theta0)
    # (x² + 1) has no real factors of degree one.
    with pytest.raises(NotRecoverableError, match="Gauss–Newton on"):
        cometric.point(np.array([1.0, 0.0, 1.0]))


class Square(Architecture):
    """The symmetric square of a vector, x², x y, y²: x² has a critical value."""

    def __init__(self):
        super().__init__(2, (3,))

    def lift(self, theta):
        x, y = theta[..., 0], theta[..., 1]
        return gs.stack([x**2, x * y, y**2], axis=-1)


CROSSINGS = [(0.0012, -0.0017), (0.1, -1e-7), (0.1, 0.0), (0.012, -0.017), (1.0, 1e-9)]


@pytest.mark.parametrize(("start", "end"), CROSSINGS)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_recovery_across_critical_values_of_an_entry(start, end, scale):
    network, near, theta = Square(), scale * np.array([start, 0.3]), scale * np.array([end, 0.3])
    z, laws = network.lift(theta), np.zeros(0)
    found = network.recover(z, laws, near=near)
    np.testing.assert_allclose(found, theta, rtol=0, atol=1e-14 * scale)
    with pytest.raises(NotRecoverableError, match="Gauss–Newton on"):  # the control
        network.recover(z - 1e-7 * scale**2 * np.eye(3)[0], laws, near=near)


def test_a_small_entry_that_is_off_the_image_is_refused():
    class Doubled(Square):
        def lift(self, theta):
            return gs.stack([theta[..., 0], theta[..., 1], 1e-12 * theta[..., 0]], axis=-1)

    near, z = np.array([1.0, 2.0]), np.array([1.1, 2.0, 1.1e-12])
    found = Doubled().recover(z, np.zeros(0), near=near)
    np.testing.assert_allclose(found, z[:2], rtol=1e-14)
    with pytest.raises(NotRecoverableError, match="Gauss–Newton on"):
        Doubled().recover(z * [1, 1, 1.2], np.zeros(0), near=near)


def test_recovery_of_a_root_of_higher_order_takes_longer_steps(monkeypatch):
    """To x³ = 0 from x = 0.3, as a plain step leaves 8/27; control: without them, far more."""

    class Cube(Architecture):
        def lift(self, theta):
            return theta * gs.array([1.0, 0.0]) + theta**3 * gs.array([0.0, 1.0])

    def steps():
        with monkeypatch.context() as patch:
            counted = Mock(side_effect=recovery.shortened)
            patch.setattr(recovery, "shortened", counted)
            found = Cube(2, (2,)).recover([1.0, 0.0], np.zeros(0), near=[1.0, 0.3])
        np.testing.assert_allclose(found, [1.0, 0.0], atol=1e-13)
        return counted.call_count

    few = steps()
    monkeypatch.setattr(recovery, "_SLOW", np.inf)
    assert 2 * few < steps()


@pytest.mark.parametrize(
    ("network", "theta"),
    [
        (TwoLayerLinear(2, 2, 2), [1.0, 0, 0, 1, 0, 0, 0, 0]),
        (ReLUNetwork.from_widths([2, 1, 1]), [0.0, 0, 1]),
        (ReLUNetwork.from_widths([1, 1, 1, 1]), [1.0, 1, 0]),
    ],
)
@pytest.mark.parametrize("distance", [1e-4, 1e-8, 1e-12])
def test_recovery_where_the_terms_of_z_all_but_vanish(network, theta, distance, rng):
    """Their units get so small that their inverses are no numbers; no step needs these."""
    theta = np.array(theta)
    z, laws = network.lift(theta), network.conservation_laws(theta)
    near = theta + distance * rng.standard_normal(network.dim)
    found = Architecture.recover(network, z, laws, near=near)
    np.testing.assert_allclose(network.lift(found), z, rtol=0, atol=1e-14)
    np.testing.assert_allclose(network.conservation_laws(found), laws, rtol=0, atol=1e-14)


@pytest.mark.slow
def test_a_flow_passes_critical_values_and_says_what_stops_it():
    network, rng = Square(), np.random.default_rng(7)
    theta0, target = rng.standard_normal(2), rng.standard_normal(3)
    loss = loss_from_function(lambda z: 0.5 * anp.sum((z - target) ** 2))
    start, times = InvariantSet(network, theta0), (0.0, 0.01)
    reference = ParameterFlow(network, loss).integrate(theta0, times, n_times=2)
    cometric = RecoveredCometric(network, theta0)
    flow = IntrinsicFlow(start, loss, cometric=cometric)
    z = flow.integrate(None, times, n_times=2)
    assert z.success and np.prod(reference.theta[[0, -1], 0]) < 0
    np.testing.assert_allclose(z.y[-1], network.lift(reference.theta[-1]), atol=1e-5)

    class Stopping(RecoveredCometric):
        def point(self, z, *, near=None):
            if z[0] < z0[0] / 2:
                raise NotRecoverableError("the search ends here")
            return super().point(z, near=near)

    z0 = network.lift(theta0)
    flow = IntrinsicFlow(start, loss, cometric=Stopping(network, theta0))
    message = flow.integrate(None, times).message
    assert "the search ends here" in message and "finite" not in message


class Number(Architecture):
    """One number, z = x y, with K = x² + y² = (h² + 4 z²)^½."""

    def __init__(self):
        super().__init__(2, (), n_laws=1)

    def lift(self, theta):
        return theta[..., 0] * theta[..., 1]

    def conservation_laws(self, theta):
        return theta[..., :1] ** 2 - theta[..., 1:] ** 2


def test_the_image_of_a_lift_to_one_number(rng):
    image = InvariantSet(Number(), [1.0, 2.0]).image()
    assert (image.dim, image.shape, image.embedding_space.dim) == (1, (), 1)
    check_manifold(image, rng)
    np.testing.assert_allclose(image.metric.cometric_matrix(2.0), [[5.0]], rtol=1e-12)

    def length(law):
        return quad(lambda z: (law**2 + 4 * z**2) ** -0.25, 2.0, 2.5)[0]

    assert abs(image.metric.dist(2.0, 2.5) - length(-3.0)) < 1e-8
    assert abs(image.metric.dist(2.0, 2.5) - length(-2.9)) > 1e-3  # on another set it is another
    assert abs(image.flattened().metric.dist([2.0], [2.5]) - length(-3.0)) < 1e-8


class Anywhere(Architecture):
    """z = x^1.5 y, which only positive x have."""

    def __init__(self):
        super().__init__(2, (1,))

    def lift(self, theta):
        return theta[..., :1] ** 1.5 * theta[..., 1:]


class Positive(Anywhere):
    def random_point(self, n_samples=1, rng=None):
        return abs(super().random_point(n_samples, rng))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_lift_says_where_it_is_defined():
    found = classify(Positive(), [1.0, 2.0])
    assert found.recoverable and found.n_laws.value == 1  # x²/1.5 − y², by hand
    assert [str(law) for law in discover_laws(Positive())] == ["θ[0]² − 3/2 θ[1]²"]
    for act in (count_conservation_laws, discover_laws):
        with pytest.raises(NotFiniteError, match="write a random_point that draws them"):
            act(Anywhere())
