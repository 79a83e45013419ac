"""Right values at extreme and mixed scales, from formulas, exact arithmetic or mpmath."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from mpmath import matrix as mp_matrix
from mpmath import mp, mpf, qr
from numpy.testing import assert_allclose
from random_dags import random_network

from liftflow.architectures import Architecture, Attention, DeepLinear, ReLUNetwork, TwoLayerLinear
from liftflow.architectures.channels import ChannelGraph
from liftflow.errors import NotIntrinsicError, NotOnImageError, NotRecoverableError, NotTangentError
from liftflow.manifolds import InvariantSet
from liftflow.metrics import PathCometric, intrinsic_cometric
from liftflow.metrics.forest import is_parted


def relative(got, wanted):
    return float(np.max(np.abs(got - wanted)) / np.max(np.abs(wanted)))


def laws_gap(network, theta, laws):
    return float(np.max(np.abs(network.conservation_laws(theta) - laws) / network.laws_size(theta)))


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 1e4])
@pytest.mark.parametrize("depth", [3, 9, 16])
def test_distances_of_balanced_deep_networks(depth, scale):
    # In y_k = √L σ_k^(1/L), matrices of fixed singular vectors are flat and totally geodesic.
    network, rng = DeepLinear([2] * (depth + 1)), np.random.default_rng(depth)
    theta = scale * network.balanced_point(0.0, rng)
    left, singular, right_t = np.linalg.svd(network.lift(theta))
    other = singular * np.array([1.2, 0.9]) ** depth
    target = left * other @ right_t
    invariant_set = InvariantSet(network, theta)
    found = invariant_set.recover(target)
    assert relative(network.lift(found), target) < 1e-12
    assert laws_gap(network, found, invariant_set.laws0) < 1e-14
    wanted = math.sqrt(depth) * np.linalg.norm(other ** (1 / depth) - singular ** (1 / depth))
    got = invariant_set.image().metric.dist(network.lift(theta), target)
    assert_allclose(got, wanted, rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-9, 1e-4, 1e5, 1e8])
@pytest.mark.parametrize(
    ("network", "lams"),
    [
        (DeepLinear([3, 4, 3]), 0.0),
        (DeepLinear([2, 5, 3, 2]), 0.0),
        (TwoLayerLinear(5, 3, 5), 0.6),
        (DeepLinear([2, 3, 3, 2]), (0.8, -0.8)),  # a direction is born and dies
    ],
    ids=["3-4-3", "2-5-3-2", "5-3-5", "2-3-3-2"],
)
def test_points_of_the_fibre_at_any_scale(network, lams, scale):
    theta = scale * network.balanced_point(lams, 7)
    laws, z = network.conservation_laws(theta), network.lift(theta)
    for near in (theta, None):
        found = network.recover(z, laws, near=near)
        assert relative(network.lift(found), z) < 1e-12
        assert laws_gap(network, found, laws) < 1e-13
    assert laws_gap(network, intrinsic_cometric(network, theta).point(z), laws) < 1e-13
    scaled = 1.01 * found - 0.01 * np.abs(found)  # the control
    assert laws_gap(network, scaled, laws) > 1e-6


def test_small_z_on_the_set_of_a_large_point():
    network = DeepLinear([2, 3, 3, 2])
    theta = network.balanced_point(0.0, 0)
    z = 1e-12 * network.lift(theta)
    found = InvariantSet(network, theta).recover(z)
    assert relative(network.lift(found), z) < 1e-12
    assert_allclose(found, 1e-4 * network.recover(1e12 * z, 0.0 * network.conservation_laws(theta)))


def test_an_imbalance_beside_large_layers_is_seen():
    network = DeepLinear([2] * 5)
    layers = network.layers(network.balanced_point((0.0, -1e10, 0.0), 0))
    assert intrinsic_cometric(network, network.from_layers(layers)) is not None
    layers[3] = np.diag([1.0, 1.01]) @ layers[3] @ np.diag([1.0, 1.02])
    with pytest.raises(NotIntrinsicError, match="S_3 is not a multiple of I"):
        intrinsic_cometric(network, network.from_layers(layers))


@pytest.mark.parametrize("factors", [(1e-8,) * 3, (1e7,) * 3, (1e3, 1e-3, 1.0), (1e4, 1.0, 1e-4)])
def test_unbalanced_layers_of_any_scales(factors):
    network, rng = DeepLinear([3, 3, 3, 3]), np.random.default_rng(3)
    layers = network.layers(network.random_point(rng=rng))
    theta = network.from_layers([factor * own for factor, own in zip(factors, layers, strict=True)])
    near = theta * (1 + 1e-3 * rng.standard_normal(theta.shape))
    laws, z = network.conservation_laws(theta), network.lift(theta)
    found = network.recover(z, laws, near=near)
    assert relative(network.lift(found), z) < 1e-8
    assert laws_gap(network, found, laws) < 1e-8
    assert laws_gap(network, network.project_to_laws(near, laws), laws) < 1e-13
    assert laws_gap(network, near, laws) > 1e-5
    invariant_set = InvariantSet(network, theta)
    assert invariant_set.dim == network.dim - network.n_laws
    assert invariant_set.belongs(theta) and not invariant_set.belongs(near)
    tangent = invariant_set.to_tangent(near, theta)
    # The layers are solved for together: rounding, times the ratio of their sizes.
    assert invariant_set.is_tangent(tangent, theta, atol=1e-8)
    assert not invariant_set.is_tangent(near, theta, atol=1e-4)


class TwoUnits(Architecture):
    """Laws of different degrees, and nothing of its own: x y, u⁴ v⁴ and their laws."""

    def __init__(self):
        super().__init__(4, (2,), 2, [(2,), (2,)])

    def lift(self, theta):
        theta = self._theta(theta)
        return theta[..., 0::2] * theta[..., 1::2]

    def conservation_laws(self, theta):
        squares = self._theta(theta) ** 2
        return (squares[..., 0::2] - squares[..., 1::2]) ** np.array([1.0, 3.0])


@pytest.mark.parametrize("sizes", [(1.0, 1.0), (1e-2, 1e1), (1e2, 1e-1)])
def test_laws_of_different_units(sizes):
    architecture = TwoUnits()
    theta = np.repeat(sizes, 2) * np.array([1.0, 2.0, 3.0, 1.5])
    laws, near = architecture.conservation_laws(theta), theta * np.array([1.01, 0.99, 1.02, 1.0])
    found = architecture.recover(architecture.lift(theta), laws, near=near)
    assert_allclose(found, theta, rtol=1e-8)
    moved = architecture.project_to_laws(near, laws)
    assert_allclose(architecture.conservation_laws(moved), laws, rtol=1e-9)
    assert InvariantSet(architecture, theta).dim == 2


@pytest.mark.parametrize("power", [-95, -40, 0, 40, 95])
def test_norms_of_path_products(power):
    network = ReLUNetwork.residual([2, 3, 3, 2], [(0, 2), (1, 3)], bias=True)
    rng = np.random.default_rng(power + 100)
    a, b = network.random_point(2, rng) * 10.0 ** rng.uniform(min(0, power), max(0, power), 1)
    a[3] = b[3] = a[7] = 0.0
    products = [
        [math.prod(Fraction(x[e]) for e in row if e < network.dim) for row in network.phi.table]
        for x in (a, b)
    ]
    mp.dps = 40
    for got, gaps in (
        (network.lifted_norm(a), products[0]),
        (network.lifted_distance(a, b), [x - y for x, y in zip(*products, strict=True)]),
    ):
        square = sum(gap**2 for gap in gaps)
        wanted = mp.sqrt(mpf(square.numerator) / mpf(square.denominator))
        assert abs(mpf(float(got)) / wanted - 1) < 1e-13


@pytest.mark.parametrize("scale", [1e-200, 1e-165, 1e160, 1e220])
def test_membership_beyond_the_range_of_squares(scale):
    network = ReLUNetwork.from_widths([3, 2, 2])
    image = InvariantSet(network, network.random_point(rng=1)).image()
    z = network.lift(network.random_point(rng=2))
    assert image.belongs(scale * z)
    assert not image.belongs(scale * z * (1 + 1e-6 * np.sin(np.arange(z.size))))
    theta = network.recover(
        scale**0.5 * z, 0.0 * image.architecture.conservation_laws(image.theta0)
    )
    assert relative(network.lift(theta), scale**0.5 * z) < 1e-13


def test_tangent_spaces_of_graded_path_products():
    network, rng = ReLUNetwork.from_widths([2, 2, 2]), np.random.default_rng(5)
    theta = network.random_point(rng=rng) * 10.0 ** rng.uniform(-50, 50, network.dim)
    vector = network.lift(theta) * rng.standard_normal(network.n_paths)
    got = network.project_to_range(theta, vector)
    mp.dps = 600
    edges = network.basis_chart(theta).edges  # independent columns of D_z P
    lines = network.lift(theta)[:, None] * network.path_incidence.toarray()[:, edges]
    frame = qr(mp_matrix(lines.tolist()))[0][:, : edges.size]
    wanted = frame * (frame.T * mp_matrix(vector.tolist()))
    gap = max(abs(mpf(own) - other) for own, other in zip(got, wanted, strict=True))
    assert gap < 1e-12 * max(map(abs, vector))


def test_heads_of_very_different_scales():
    attention, rng = Attention(3, 2, 1), np.random.default_rng(0)
    scales = np.repeat([1e-6, 1e6], attention.dim // 2)
    plain = attention.balanced_point((0.5, 0.3), rng)
    theta = scales * plain
    space, reference = InvariantSet(attention, theta), InvariantSet(attention, plain)
    z, units = attention.lift(theta), np.array([1e-12, 1e12])[:, None, None]
    assert space.belongs(theta)
    assert not space.belongs(np.where(scales < 1, 1.001, 1.0) * theta)
    metric, wanted = space.image().metric, reference.image().metric
    square = np.repeat([1e-12, 1e12], 9)
    assert_allclose(
        metric.metric_matrix(z) * square,
        wanted.metric_matrix(attention.lift(plain)),
        atol=1e-12,
    )
    vector = attention.lift_jvp(theta, space.to_tangent(scales * rng.standard_normal(24), theta))
    assert_allclose(
        metric.exp(0.1 * vector, z) / units,
        wanted.exp(0.1 * vector / units, attention.lift(plain)),
        rtol=1e-8,
    )
    assert metric._space.is_tangent(vector, z)
    vector[0] = 1e-12 * rng.standard_normal((3, 3))
    assert not metric._space.is_tangent(vector, z)
    with pytest.raises(NotTangentError):
        metric.exp(0.1 * vector, z)
    lifted = attention.solve_jvp(theta, attention.lift_jvp(theta, scales))
    assert_allclose(
        attention.lift_jvp(theta, lifted) / units, attention.lift_jvp(theta, scales) / units
    )


@pytest.mark.parametrize("small", [1e-3, 1e-6, 1e-9, 1e-40])
def test_inverse_of_k_where_neurons_are_not_balanced(small):
    network, theta = ReLUNetwork.diagonal(2), np.array([1.0, small, small, 1.0])
    cometric, z = intrinsic_cometric(network, theta), network.lift(theta)
    kernel = theta[:2] ** 2 + theta[2:] ** 2  # K is diagonal
    for vector in (z, np.array([1.0, -2.0])):
        assert_allclose(cometric.solve(z, vector), vector / kernel, rtol=1e-13)
    assert abs(cometric.solve(z, z * [1, 1.001])[1] * kernel[1] / z[1] - 1) > 9e-4  # the control


@pytest.mark.parametrize("factor", [1.0, 3.0, 8.0])
def test_inverse_of_k_of_a_rescaled_deep_network(rng, factor):
    network = ReLUNetwork.from_widths([2, 2, 2, 2])
    theta = network.rescale(network.random_point(rng=rng), factor * np.array([1, 1, -1, -1]))
    velocity = network.lift_vjp(theta, rng.standard_normal(network.n_paths))
    tangent, z = network.lift_jvp(theta, velocity), network.lift(theta)
    square = tangent @ intrinsic_cometric(network, theta).solve(z, tangent)
    assert_allclose(square, velocity @ velocity, rtol=1e-9)
    assert tangent @ network.solve_vjp(theta, 1.001 * velocity) > 1.0009 * square  # the control


@pytest.mark.parametrize("small", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("shape", [(3, 3), (4, 2)])
def test_lifts_to_two_layers_that_are_not_balanced(rng, shape, small):
    network = TwoLayerLinear(*shape, 1)
    factors = np.repeat([small, 1.0], [network.n, network.m])
    theta = factors * network.random_point(rng=rng)
    form = rng.standard_normal(network.lifted_shape)
    velocity, z = network.lift_vjp(theta, form), network.lift(theta)  # of ∂φᵀ, so horizontal
    tangent, metric = network.lift_jvp(theta, velocity), InvariantSet(network, theta).image().metric
    lifted = metric.cometric.horizontal_lift(z, tangent, theta=theta)
    # The large layer exactly, the small one to the rounding errors of the vector over its size.
    size, large = np.linalg.norm(velocity), factors < 1
    assert_allclose(lifted[large], velocity[large], atol=1e-13 * size)
    assert np.linalg.norm(lifted - velocity) < 1e-14 / small * size
    assert_allclose(metric.norm(tangent, z), np.linalg.norm(velocity), rtol=1e-13)
    assert np.all(np.isfinite(metric.exp(0.1 * small * tangent, z)))
    # The control: a velocity along the fibre as well.
    tilted = velocity + theta * np.repeat([1.0, -1.0], [network.n, network.m])
    assert_allclose(network.lift_jvp(theta, tilted), tangent, atol=1e-12)
    assert np.linalg.norm(lifted - tilted) > 0.1 * np.linalg.norm(velocity)


@pytest.mark.parametrize("logs", [(5, 5, -5, -5), (8, 8, -8, -8), (4, -4, 4, 2), (6, -6, 6, 3)])
def test_norms_where_lifts_in_a_chart_are_long(logs):
    network, rng = ReLUNetwork.from_widths([2, 2, 2, 2]), np.random.default_rng(0)
    theta = network.rescale(network.random_point(rng=0), np.array(logs))
    velocity = network.lift_vjp(theta, rng.standard_normal(network.n_paths))  # horizontal
    tangent, z = network.lift_jvp(theta, velocity), network.lift(theta)
    cometric = PathCometric(network, theta)
    lifted, size = cometric.horizontal_lift(z, tangent, theta=theta), np.linalg.norm(velocity)
    assert_allclose(np.linalg.norm(lifted), size, rtol=1e-10)
    chart = network.basis_chart(theta)
    above = chart.lift_tangent(theta, tangent[network.path_numbers(chart)])  # the control
    assert np.linalg.norm(network.lift_jvp(theta, above) - tangent) < 1e-9 * np.linalg.norm(tangent)
    assert np.linalg.norm(above) > 1e3 * size


def exact_lift(network, theta, form):
    """Return a horizontal velocity ∂φᵀg, its push-forward and its length, in 60 digits."""
    with mpmath.workdps(60):
        numbers = [mpmath.mpf(value) for value in theta.tolist()]
        jacobian = mpmath.zeros(network.n_paths, network.dim)
        for path, edges in enumerate(network.path_incidence.tolil().rows):
            for edge in edges:
                others = [numbers[other] for other in edges if other != edge]
                jacobian[path, edge] = mpmath.fprod(others)
        velocity = jacobian.T * mpmath.matrix(form.tolist())
        tangent = np.array((jacobian * velocity).tolist(), dtype=float).ravel()
        return (
            np.array(velocity.tolist(), dtype=float).ravel(),
            tangent,
            float(mpmath.norm(velocity) ** 2),
        )


PATTERNS = [(1, -1, 1, 0.5), (1, 1, -1, -1), (-1, -1, 1, 1), (1, -1, 0, 0), (1, 1, 1, 1)]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("widths", [[2, 2, 2, 2], [3, 2, 2, 1]])
def test_products_of_rescaled_neurons_are_right_or_refused(pattern, widths):
    network, rng = ReLUNetwork.from_widths(widths), np.random.default_rng(0)
    right = []
    for factor in (2.0, 5.0, 8.0, 10.0, 12.0, 15.0, 20.0):
        theta = network.rescale(network.random_point(rng=0), factor * np.array(pattern))
        metric, z = InvariantSet(network, theta).image().metric, network.lift(theta)
        first, one, square = exact_lift(network, theta, rng.standard_normal(network.n_paths))
        second, other, own = exact_lift(network, theta, rng.standard_normal(network.n_paths))
        try:
            got = metric.squared_norm(one, z), metric.squared_norm(other, z)
            product = metric.inner_product(one, other, z)
        except (NotTangentError, NotRecoverableError) as error:
            told = "the sizes of the weights part so far", "nothing beside the others"
            assert any(reason in str(error) for reason in told)
            continue
        assert_allclose(got, [square, own], rtol=1e-8)
        assert_allclose(product, first @ second, rtol=0, atol=1e-8 * np.sqrt(square * own))
        right.append(factor)
        # The control: the Laplacian alone.
        if pattern == (1, -1, 1, 0.5) and widths == [2, 2, 2, 2] and factor == 12.0:
            chart = network.basis_chart(theta)
            above = chart.lift_tangent(theta, one[network.path_numbers(chart)])
            for _ in range(3):
                above = network.project_to_tangent(theta, above)
            assert abs(np.linalg.norm(above) / np.sqrt(square) - 1) > 1e-2
    assert {2.0, 5.0} <= set(right)
    assert pattern != (1, -1, 1, 0.5) or 12.0 in right or widths != [2, 2, 2, 2]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_dense_inverse_is_right_or_refused(pattern):
    network = ReLUNetwork.from_widths([2, 4, 2])
    kinds = set()
    for factor in (0.0, 2.0, 5.0, 8.0, 12.0):
        theta = network.rescale(network.random_point(rng=0), factor * np.array(pattern))
        z, metric = network.lift(theta), InvariantSet(network, theta).image().metric
        velocities = network.project_to_tangent(theta, np.eye(network.dim))
        tangents, wanted = network.lift_jvp(theta, velocities), velocities @ velocities.T
        try:
            inverse = metric.metric_matrix(z)
        except NotOnImageError as error:
            assert "metric.norm" in str(error)
            kinds.add("refused")
            matrix = metric.cometric_matrix(z)  # the control: what an inverse would give
            inverse = np.linalg.pinv(matrix, 1e-15, hermitian=True)
            assert np.max(np.abs(tangents @ inverse @ tangents.T - wanted)) > 1e-5
            continue
        kinds.add("right")
        assert_allclose(tangents @ inverse @ tangents.T, wanted, rtol=0, atol=1e-5)
    assert kinds == {"right", "refused"}


def test_laws_that_drown_in_rounding_are_taken_from_theta0(rng):
    network = ReLUNetwork.from_widths([2, 2, 2, 2])
    theta = network.rescale(network.random_point(rng=0), 5.0 * np.array([-1, -1, 1, 1]))
    cometric, z = PathCometric(network, theta), network.lift(theta)
    moved = network.rescale(theta, np.full(4, 1e-4))  # by all hidden nodes at once
    for near in (None, moved, network.rescale(theta, 0.3 * rng.standard_normal(4))):
        assert_allclose(cometric.point(z, near=near), theta, rtol=1e-13)
    # The control: the laws in double precision do not tell.
    gap = np.abs(network.conservation_laws(moved) - cometric.laws)
    assert np.all(gap <= 1e-15 * network.laws_size(theta))
    assert np.max(np.abs(moved / theta - 1)) > 9e-5


def test_weights_of_very_different_sizes_are_not_called_zero():
    laplacian = ReLUNetwork.from_widths([1, 1, 1, 1]).laplacian
    for small in (0.0, 1e-20):
        with pytest.raises(NotRecoverableError, match="are zero, or nothing beside the others"):
            laplacian.solve(np.array([small, 1.0, small]), np.ones(2))
    solved = laplacian.solve(np.array([1e-3, 1.0, 1e-3]), np.ones(2))  # the control
    assert_allclose(solved, [1e3, 1e3], rtol=1e-12)


def test_weights_are_parted_where_a_spanning_forest_of_largest_ones_is(rng):
    """A look at the strong weights alone finds the same as the forest, whose edges are counted."""
    found = []
    for seed in range(60):
        network = random_network(seed)
        theta = network.random_point(rng=seed) * 10.0 ** rng.uniform(-3, 3, network.dim)
        sizes, channels = np.abs(theta), network.channels
        inner = sizes[np.abs(channels.exponents.toarray()).sum(axis=1) == 2]
        ties = sizes[channels.strongest_anchors(theta).edges]
        wanted = bool(np.max(inner, initial=0.0) > 1e3 * np.min(ties, initial=np.inf))
        assert is_parted(network, theta) == wanted
        found.append(wanted)
    assert 5 < sum(found) < 55


def test_channels_that_general_exponents_join():
    """Of X = (2, 1; 0, 1; 2, 1) two rows that differ have rank two, the first and last one."""
    matrix = np.array([[2, 1], [0, 1], [2, 1]])
    graph = ChannelGraph.from_matrix(matrix)
    for used, wanted in (
        ([1, 1, 0], True),
        ([1, 0, 1], False),
        ([1, 1, 1], True),
        ([0] * 3, False),
    ):
        assert graph.joined(np.array(used, dtype=bool)) == wanted
