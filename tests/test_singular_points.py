"""Where K does not exist, where it vanishes, and where the lift forgets signs."""

import autograd.numpy as anp
import geomstats.backend as gs
import mpmath as mp
import numpy as np
import pytest
from cases import balanced, layers, on_image, on_set

from liftflow import Architecture, InvariantSet, RecoveredCometric, loss_from_function
from liftflow.architectures import Attention, DeepLinear, TwoLayerLinear
from liftflow.errors import (
    GeodesicError,
    InputError,
    NotIntrinsicError,
    NotOnImageError,
    NotRecoverableError,
)
from liftflow.flows import IntrinsicFlow, ParameterFlow
from liftflow.linalg import scaled_rank
from liftflow.metrics import IntrinsicMetric, intrinsic_cometric
from liftflow.metrics.exact import chain_distance, line_distance

# K at a z of lower rank: it exists where turning a kernel of z leaves M as it is.


def lower_rank(network, theta, rank):
    """Return a point of the set of θ over a z of this rank, and one with its left kernel turned."""
    left, singular, right_t = np.linalg.svd(network.lift(theta))
    z = (left[:, :rank] * singular[:rank]) @ right_t[:rank]
    point = network.recover(z, network.conservation_laws(theta))
    turned = []
    for side, basis in (("left", left), ("right", right_t.T)):
        size = len(basis)
        turn = np.eye(size)
        turn[rank:, rank:] = np.linalg.qr(np.vander(np.arange(1.0, size - rank + 1)))[0]
        parts = network.layers(point)
        number = -1 if side == "left" else 0
        frame = basis @ turn @ basis.T
        parts[number] = frame @ parts[number] if side == "left" else parts[number] @ frame
        turned.append(network.from_layers(parts))
    return z, [point, *turned]


def label(value):
    """Name a parameter of a test; the default for networks has their address in it."""
    return f"{type(value).__name__} {value.dim}" if hasattr(value, "dim") else str(value)


NETWORKS = [
    (TwoLayerLinear(3, 2, 2), 0.7, False),
    (TwoLayerLinear(2, 4, 2), -0.4, False),
    (TwoLayerLinear(5, 4, 3), 0.4, False),
    (DeepLinear([3, 2, 4]), 0.4, False),
    (DeepLinear([2, 3, 3, 3]), (0.7, 0.0), True),
    (DeepLinear([4, 3, 3, 4]), (0.5, -1.2), False),
    (TwoLayerLinear(3, 2, 2), 0.0, True),
    (TwoLayerLinear(3, 2, 2), -0.7, True),
    (TwoLayerLinear(3, 3, 3), 0.7, True),
    (TwoLayerLinear(4, 2, 4), 0.8, True),
    (DeepLinear([3, 2, 4]), 0.0, True),
    (DeepLinear([2, 2, 2, 2]), (0.3, -0.5), True),
]


@pytest.mark.parametrize(("network", "lam", "exists"), NETWORKS, ids=label)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_k_exists_where_m_is_the_same_along_the_fibre(network, lam, exists, scale):
    theta = network.balanced_point(lam, 0)
    z, points = lower_rank(network, theta, 1)
    depth = len(network.widths) - 1
    laws = network.conservation_laws(points)
    assert np.max(np.abs(laws - laws[0])) < 1e-12
    assert np.max(np.abs(network.lift(points) - z)) < 1e-12
    grams = network.gram_matrix(points)
    apart, size = np.max(np.abs(grams - grams[0])), np.max(np.abs(grams))
    assert (apart < 1e-10 * size) if exists else (apart > 1e-2 * size)
    cometric, z = intrinsic_cometric(network, scale * theta), scale**depth * z
    if exists:
        wanted = scale ** (2 * depth - 2) * grams[0]
        assert np.max(np.abs(cometric.matrix(z) - wanted)) < 1e-10 * np.max(np.abs(wanted))
        return
    whole = scale**depth * network.lift(theta)
    for call in (
        lambda: cometric.apply(z, z),
        lambda: cometric.matrix(np.stack([whole, z])),
        lambda: cometric.solve(z, z),
        lambda: cometric.sqrt_apply(z, z),
        lambda: cometric.inner_product(z, z, z),
        lambda: cometric.horizontal_lift(z, z),
        lambda: cometric.point(z),
    ):
        with pytest.raises(NotIntrinsicError, match=r"no K\(z\) exists: z has rank 1, below"):
            call()
    assert np.all(np.isfinite(cometric.matrix(whole)))  # the control


def test_factors_of_a_product_are_refused_alike():
    attention = Attention(3, 2, 1)
    cometric = intrinsic_cometric(attention, attention.balanced_point(0.5, 0))
    whole = attention.lift(cometric.theta0)
    z = whole.copy()
    z[1] = np.outer(*z[1, :2])
    for call in (lambda z: cometric.apply(z, z), cometric.matrix, cometric.point):
        with pytest.raises(NotIntrinsicError, match="no K"):
            call(z)
        call(whole)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(
    ("network", "lam", "exists"),
    [
        (DeepLinear([2, 2, 3, 3]), 0.0, False),
        (TwoLayerLinear(2, 2, 2), 0.5, True),
        (Attention(2, 2, 1), 0.0, False),
    ],
    ids=["deep", "two", "attention"],
)
def test_the_metric_matrix_is_refused_where_k_is_singular(network, lam, exists, scale):
    theta = scale * network.balanced_point(lam, 0)
    metric, whole = InvariantSet(network, theta).image().metric, network.lift(theta)
    left, singular, right_t = np.linalg.svd(whole, full_matrices=False)
    z = singular[..., :1, None] * left[..., :, :1] @ right_t[..., :1, :]
    if exists:
        kernel = metric.cometric_matrix(z)
        unit = kernel @ metric.metric_matrix(z)
        np.testing.assert_allclose(unit, np.eye(4), atol=1e-12)
    else:
        for point in (z, np.stack([whole, z])):
            with pytest.raises(NotOnImageError, match="the rank of z is below 2"):
                metric.metric_matrix(point)
    assert np.all(np.isfinite(metric.metric_matrix(whole.tolist())))  # the control


# Recovery where the laws leave directions open.


@pytest.mark.parametrize(("network", "kernel"), [(DeepLinear([3, 3, 3]), 3), (layers([2, 2]), 0)])
def test_a_theta_that_is_not_recoverable_is_refused(network, kernel):
    theta = network.random_point(rng=0)
    if not kernel:
        RecoveredCometric(network, theta)
        return
    rows = [network.lift_jacobian(theta), network.conservation_laws_jacobian(theta)]
    assert network.dim - np.linalg.matrix_rank(np.vstack(rows)) == kernel
    with pytest.raises(NotRecoverableError, match=f"∂φ ∩ ker ∂h has dimension {kernel}, "):
        RecoveredCometric(network, theta)


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_a_recoverable_theta_is_accepted_in_any_units(factor):
    network = TwoLayerLinear(3, 4, 1)  # one neuron
    left, right = network.unpack(network.random_point(rng=0))
    for theta in (network.pack(factor * left, right / factor), network.pack(left, right) * factor):
        RecoveredCometric(network, theta)


def test_ranks_do_not_depend_on_units(rng):
    matrix = rng.standard_normal((6, 3)) @ rng.standard_normal((3, 8))
    units = 10.0 ** np.array([9.0, -9.0, -8.0, 0.0, -9.0, 9.0, -7.0, -9.0])
    matrix[:, [0, 5]] = matrix[:, :1]
    rows = np.logspace(-4, 4, 6)[:, None]
    assert scaled_rank(matrix * units) == scaled_rank(rows * matrix * units) == 3
    assert np.linalg.matrix_rank(matrix * units) < 3  # the control
    assert scaled_rank(np.zeros((2, 3))) == scaled_rank(np.zeros((0, 3))) == 0


# A line on which K vanishes at 0.


def exact_length(gaps, *ends):
    """∫ √S dw of a chain by mpmath, from 0 to each end, with signs."""
    with mp.workdps(25):
        gaps, total = [mp.mpf(float(gap)) for gap in gaps], []
        for z in ends:
            log, w = 2 * mp.log(abs(mp.mpf(z))), mp.mpf(0)
            u = log / 2 / len(gaps)
            for _ in range(60):
                slope = 2 * sum(mp.exp(2 * u) / (mp.exp(2 * u) + gap) for gap in gaps)
                u -= (sum(mp.log(mp.exp(2 * u) + gap) for gap in gaps) - log) / slope
            w = mp.exp(u)
            nodes = [0, *(w * mp.mpf(10) ** -k for k in range(12, -1, -1))]
            rate = lambda x: mp.sqrt(sum(x * x / (x * x + gap) for gap in gaps))  # noqa: E731
            total.append(mp.sign(z) * mp.quad(rate, nodes))
        return float(total[1] - total[0])


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 8])
def test_chain_of_equal_weights(depth):
    """√L |z_b^{1/L} − z_a^{1/L}|, whatever the signs, because both ways lead through 0."""
    metric = on_image(layers([1] * (depth + 1)), np.full(depth, 0.7)).metric

    def root(z):
        return np.sign(z) * np.abs(z) ** (1 / depth)

    for ends in ((1e-12, 1.0), (1e-300, 1e300), (-1e-5, 2.0), (-3.0, -4.0), (0.0, 1e-250)):
        wanted = np.sqrt(depth) * abs(root(ends[1]) - root(ends[0]))
        assert abs(metric.dist([ends[0]], [ends[1]]) / wanted - 1) < 1e-12
    near, far = 1.0, 1.0 + 2.0**-40  # no digit is lost to a difference of lengths
    assert abs(metric.dist([near], [far]) * 2.0**40 * np.sqrt(depth) - 1) < 1e-11


@pytest.mark.parametrize("gaps", [(0.0, 1.0), (0.0, 1e-8, 3.0), (0.0, 0.0, 2.0)])
def test_chain_of_unequal_weights(gaps):
    theta = np.sqrt(np.array(gaps) + 0.4**2)
    metric = on_image(layers([1] * (theta.size + 1)), theta).metric
    for ends in ((1e-7, 2.0), (-1e-3, 5.0)):
        wanted = abs(exact_length(gaps, *ends))
        assert abs(chain_distance(np.array(gaps), *ends) / wanted - 1) < 1e-11
        assert abs(metric.dist([ends[0]], [ends[1]]) / wanted - 1) < 1e-6  # of gaps in rounding
    ends = 0.9, 1.3
    wanted = line_distance(lambda z: metric.cometric.apply([z], [1.0]).item(), *ends)
    assert abs(chain_distance(np.array(gaps), *ends) / wanted - 1) < 1e-9


def test_linear_networks_of_one_number_are_chains():
    network = DeepLinear([1, 3, 2, 1])
    balanced_metric = on_image(*balanced(network, 0.0)).metric
    for start, end in ((1e-9, 1.0), (-1e-3, 2.0)):
        wanted = np.sqrt(3) * abs(np.cbrt(end) - np.cbrt(start))
        assert abs(balanced_metric.dist([[start]], [[end]]) / wanted - 1) < 1e-12
    any_laws = on_image(TwoLayerLinear(1, 1, 3)).metric
    gap = any_laws.cometric.multiplier.gap
    wanted = abs(exact_length((0.0, gap), -0.2, 5.0))
    assert abs(any_laws.dist([[-0.2]], [[5.0]]) / wanted - 1) < 1e-12


def test_lines_without_a_formula():
    def chain(z):
        return 3 * abs(z) ** (4 / 3)

    assert abs(line_distance(chain, 1e-12, 1.0) / (np.sqrt(3) * (1 - 1e-4)) - 1) < 1e-10
    assert abs(line_distance(chain, -1e-9, 1.0) / (np.sqrt(3) * (1 + 1e-3)) - 1) < 1e-10
    smooth = line_distance(lambda z: 1 + z * z, -1.0, 2.0)
    assert abs(smooth - np.arcsinh(1.0) - np.arcsinh(2.0)) < 1e-12
    assert abs(line_distance(lambda z: z * z, 1e-9, 1.0) - 9 * np.log(10)) < 1e-10
    with pytest.raises(GeodesicError, match="0 lies infinitely far"):
        line_distance(lambda z: z * z, -1.0, 1.0)
    with pytest.raises(GeodesicError, match="could not be integrated"):
        line_distance(lambda z: (z - 1.3) ** 4 + 1e-300, 1.0, 2.0)


# Sheets.


def test_the_sheet_with_the_shortest_geodesic_is_not_the_nearest_one():
    angle, u = 1.8, 0.5
    network, start = layers([1, 1, 2]), np.array([u, 1.0, 0.0])
    end = np.array([u, np.cos(angle), np.sin(angle)])
    image = InvariantSet(network, start).image()
    metric = image.equip_with_metric(
        IntrinsicMetric, cometric=image.metric.cometric, rtol=1e-6
    ).metric
    sheets = network.sheets(end)
    assert np.array_equal(sheets, [end, -end])
    chords = np.linalg.norm(sheets - start, axis=1)
    lengths = [np.linalg.norm(metric.solver.connect(start, sheet)) for sheet in sheets]
    assert chords[0] < chords[1] and lengths[0] > 1.05 * lengths[1]
    below = network.lift(start), network.lift(end)
    vector = metric.log(below[1], below[0])
    assert abs(metric.norm(vector, below[0]) - lengths[1]) < 1e-4
    assert abs(metric.dist(*below[::-1]) - lengths[1]) < 1e-4


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (layers([2, 3, 2, 1]), 32),
        (layers([2, 7, 1]), 1),
        (DeepLinear([2, 1, 3, 1, 2]), 4),
        (TwoLayerLinear(2, 3, 2), 1),
        (Attention(2, 1, 2), 16),
    ],
    ids=label,
)
def test_sheets_are_the_points_of_a_fibre_that_differ_in_signs(network, count):
    theta = network.random_point(rng=0)
    sheets = network.sheets(theta)
    assert len(np.unique(sheets, axis=0)) == len(sheets) == count
    assert np.array_equal(sheets[0], theta)
    for function in (network.lift, network.conservation_laws):
        assert np.max(np.abs(function(sheets) - function(theta))) < 1e-14


# Flows on images that are not open.


class Unit(Architecture):
    """φ(w) = w/|w|."""

    def __init__(self):
        super().__init__(3, (3,), n_laws=1)

    def lift(self, theta):
        return theta / anp.sqrt(anp.sum(theta**2, axis=-1, keepdims=True))

    def conservation_laws(self, theta):
        return anp.sum(theta**2, axis=-1, keepdims=True)


class Triple(Architecture):
    """φ(u, v, w) = u ⊗ v ⊗ w."""

    def __init__(self, *sizes):
        super().__init__(sum(sizes), sizes, n_laws=2, block_shapes=[(size,) for size in sizes])

    def lift(self, theta):
        u, v, w = self.unpack(theta)
        return u[..., :, None, None] * v[..., None, :, None] * w[..., None, None, :]

    def conservation_laws(self, theta):
        u, v, w = (anp.sum(part**2, axis=-1, keepdims=True) for part in self.unpack(theta))
        return anp.concatenate([u - v, v - w], axis=-1)


class Saddle(Architecture):
    """φ(x, y) = (x, y, xy)."""

    def __init__(self):
        super().__init__(2, (3,))

    def lift(self, theta):
        x, y = theta[..., :1], theta[..., 1:]
        return anp.concatenate([x, y, x * y], axis=-1)


needs_autodiff = pytest.mark.skipif(not gs.has_autodiff(), reason="only the lift is written")
BARE = [Unit(), Triple(2, 1, 2), Saddle()]


@needs_autodiff
@pytest.mark.parametrize("architecture", BARE, ids=lambda a: type(a).__name__)
def test_a_flow_stays_on_the_image_of_a_bare_lift(architecture):
    theta0 = architecture.random_point(rng=1)
    target = architecture.lift(architecture.random_point(rng=2)) + 0.3
    loss = loss_from_function(lambda z: 0.5 * anp.sum((z - target) ** 2))
    settings = {"rtol": 1e-5, "atol": 1e-7, "n_times": 3}
    wanted = ParameterFlow(architecture, loss).integrate(theta0, (0.0, 0.2), **settings)
    flow = IntrinsicFlow(
        InvariantSet(architecture, theta0),
        loss,
        cometric=RecoveredCometric(architecture, theta0),
    )
    got = flow.integrate(None, (0.0, 0.2), **settings)
    assert got.success and got.n_evaluations < 2 * wanted.n_evaluations
    assert np.max(np.abs(got.theta[-1] - wanted.theta[-1])) < 1e-5
    assert np.linalg.norm(wanted.theta[-1] - theta0) > 1e-3


@needs_autodiff
@pytest.mark.parametrize("architecture", BARE, ids=lambda a: type(a).__name__)
def test_projection_leaves_a_gap_orthogonal_to_the_image(architecture, rng):
    theta = architecture.random_point(rng=rng)
    z = architecture.lift(theta)
    off = z + 0.05 * rng.standard_normal((4, *z.shape))
    found = architecture.project_to_image(off, near=theta)
    again = architecture.project_to_image(found, near=theta)
    assert np.max(np.abs(again - found)) < 1e-13
    for point, gap in zip(found, off - found, strict=True):
        above = architecture.recover(point, architecture.conservation_laws(theta), near=theta)
        assert np.max(np.abs(architecture.lift_vjp(above, gap))) < 1e-7 < np.max(np.abs(gap))
    if isinstance(architecture, Unit):
        lengths = np.linalg.norm(off, axis=-1, keepdims=True)
        assert np.max(np.abs(found - off / lengths)) < 1e-7
    with pytest.raises(NotRecoverableError, match="pass near=theta0"):
        architecture.project_to_image(off)


@needs_autodiff
def test_an_open_image_is_seen_once_and_left_alone():
    class Square(Architecture):
        def lift(self, theta):
            return theta**2

    square = Square(2, (2,))
    z = np.array([-3.0, 1.0])
    assert np.array_equal(square.project_to_image(z, near=[1.0, 2.0]), z)
    assert np.array_equal(square.project_to_image(z), z)


# Vectors of any length, and points that lie elsewhere.


@pytest.mark.parametrize("build", [on_set, on_image], ids=["set", "image"])
def test_lengths_of_any_scale(build, rng):
    space = build(layers([2, 2, 2]))
    point = space.theta0 if build is on_set else space.architecture.lift(space.theta0)
    vector, metric = space.random_tangent_vec(point, rng=rng), space.metric
    for size in (0.0, 1e-300, 1e-200):
        assert np.max(np.abs(metric.exp(size * vector, point) - point)) < 1e-15
        moved = metric.parallel_transport(size * vector, point, direction=vector)
        wanted = size * metric.parallel_transport(vector, point, direction=vector)
        assert np.max(np.abs(moved - wanted)) <= 1e-12 * np.max(np.abs(wanted))
        off = size * (np.eye(point.size)[0] + point)
        if size:  # a short vector is not tangent because it is short
            with pytest.raises(Exception, match="tangent"):
                metric.exp(off, point)
    if build is on_set:
        with pytest.raises(GeodesicError, match="double precision"):
            metric.exp(1e300 * vector, point)


def test_a_geodesic_to_a_point_elsewhere_is_refused_at_the_door():
    network = layers([10, 10, 10])
    start = InvariantSet(network, network.random_point(rng=0))
    for call in (start.metric.log, start.metric.dist):
        with pytest.raises(InputError, match=r"laws of one differ by .*; projection"):
            call(np.ones(network.dim), start.theta0)
    image = on_image(*balanced(TwoLayerLinear(3, 3, 2), 0.0))
    z = image.architecture.lift(image.theta0)
    with pytest.raises(NotOnImageError, match="relative residual") as caught:
        image.metric.log(z + 0.1 * np.eye(3), z)
    singular = np.linalg.svd(z + 0.1 * np.eye(3), compute_uv=False)
    assert abs(caught.value.residual - singular[2] / np.linalg.norm(singular)) < 1e-12
