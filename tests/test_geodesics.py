"""Geodesics, distances, transport and curvature against formulas, geomstats and differences."""

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from cases import METRICS, balanced, layers, on_image, on_set
from geomstats.geometry.spd_matrices import SPDBuresWassersteinMetric, SPDMatrices
from scipy.linalg import solve_continuous_lyapunov

from liftflow.architectures import Attention, DeepLinear, LinearNeuralODE, TwoLayerLinear
from liftflow.errors import GeodesicError, InputError, NotDifferentiableError, NotTangentError
from liftflow.manifolds import InducedMetric, InvariantSet, MatrixImage
from liftflow.metrics import (
    GeodesicSolver,
    IntrinsicMetric,
    LiftSpaces,
    TangentSpaces,
)
from liftflow.metrics.multipliers import LogarithmicMeanMultiplier

FAMILIES = {
    "ReLU 4-6-3": (layers([4, 6, 3]), None),
    "two layers 4, 3, 3": balanced(TwoLayerLinear(4, 3, 3), 0.7),
    "deep 3-3-3-3": balanced(DeepLinear([3, 3, 3, 3]), (0.5, -1.2)),
}


def unit(space, point, rng):
    vector = space.random_tangent_vec(point, rng=rng)
    return vector / space.metric.norm(vector, point)


def base_point(space):
    """Return θ₀ on the set, and φ(θ₀) on the image."""
    on = isinstance(space, InvariantSet)
    return space.theta0 if on else space.architecture.lift(space.theta0)


def neuron(n, m, rng, law=0.0):
    """Return the set of one ReLU neuron with n weights in and m out, |u|² − |v|² = law."""
    u, v = rng.standard_normal(n), rng.standard_normal(m)
    v *= np.sqrt((u @ u - law) / (v @ v))
    return InvariantSet(layers([n, 1, m]), np.append(u, v))


@pytest.mark.parametrize("name", FAMILIES)
def test_laws_and_speed_are_conserved(name, rng):
    start = on_set(*FAMILIES[name])
    start.equip_with_metric(InducedMetric, rtol=1e-10)
    velocity, solver = unit(start, start.theta0, rng), start.metric.solver
    laws, size = start.laws0, np.sum(start.theta0**2)
    raw = solver._integrate(start.theta0, velocity, 1.0)  # before anything is projected
    for state in raw.y.T:
        theta, heading = np.split(state, 2)
        assert np.max(np.abs(start.architecture.conservation_laws(theta) - laws)) < 1e-9
        assert abs(np.linalg.norm(heading) - 1.0) < 1e-9
    end = start.metric.exp(velocity, start.theta0)
    assert np.linalg.norm(end - raw.y[: end.size, -1]) < 1e-9
    assert np.max(np.abs(start.submersion(end))) < 1e-13 * size
    # A control: the straight line leaves the set.
    assert np.max(np.abs(start.submersion(start.theta0 + velocity))) > 1e-2


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("build", [on_set, on_image], ids=["set", "image"])
def test_exp_and_log_are_inverse(name, build, rng):
    space = build(*FAMILIES[name])
    point = base_point(space)
    vector = 0.3 * unit(space, point, rng)
    end = space.metric.exp(vector, point)
    assert np.max(np.abs(space.metric.log(end, point) - vector)) < 1e-8
    again = space.metric.exp(space.metric.log(end, point), point)
    assert np.max(np.abs(again - end)) < 1e-8


def test_exp_solves_the_geodesic_equation_of_the_set(rng):
    start = on_set(*FAMILIES["two layers 4, 3, 3"])
    velocity = unit(start, start.theta0, rng)
    path = start.metric.geodesic(start.theta0, initial_tangent_vec=velocity)
    wanted = start.metric.geodesic_equation(np.stack([start.theta0, velocity]))
    assert np.array_equal(wanted[0], velocity)
    gaps = []
    for h in (0.2, 0.1, 0.05):
        before, here, after = path([-h, 0.0, h])
        gaps.append(np.linalg.norm((after - 2 * here + before) / h**2 - wanted[1]))
    slopes = np.diff(np.log(gaps)) / np.log(0.5)
    assert np.all(np.abs(slopes - 2.0) < 0.2)


def test_times_of_a_geodesic(rng):
    image = on_image(*FAMILIES["ReLU 4-6-3"])
    z = image.architecture.lift(image.theta0)
    vectors = np.stack([unit(image, z, rng), np.zeros(z.size)])
    path = image.metric.geodesic(z, initial_tangent_vec=0.5 * vectors)
    times = np.array([1.0, -0.5, 0.0, 2.0])
    points = path(times)
    assert points.shape == (2, 4, z.size) and path(0.3).shape == (2, 1, z.size)
    for t, point in zip(times, points[0], strict=True):
        assert np.max(np.abs(point - image.metric.exp(0.5 * t * vectors[0], z))) < 1e-9
    assert np.max(np.abs(points[1] - z)) < 1e-14  # the constant geodesic
    ends = image.metric.geodesic(z, end_point=points[0, 0])([0.0, 1.0])
    assert np.max(np.abs(ends - [z, points[0, 0]])) < 1e-9


# Known distances.


@pytest.mark.parametrize("sizes", [(3, 4), (2, 2), (5, 2)])
def test_cone_distance(sizes, rng):
    start = neuron(*sizes, rng)
    image, angles = start.image(), []
    for _ in range(2):
        theta = neuron(*sizes, rng).theta0
        pairs = zip(*(np.split(point, [sizes[0]]) for point in (start.theta0, theta)), strict=True)
        cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in pairs]
        angles = np.arccos(cosines)
        squares = start.theta0 @ start.theta0, theta @ theta

        def law_of_cosines(angles, squares=squares):
            angle = min(np.pi, np.sqrt(np.sum(angles**2) / 2))
            return np.sqrt(sum(squares) - 2 * np.sqrt(squares[0] * squares[1]) * np.cos(angle))

        sheets = law_of_cosines(angles), law_of_cosines(np.pi - angles)
        z, other = image.architecture.lift(np.stack([start.theta0, theta]))
        assert abs(image.metric.dist(z, other) - min(sheets)) < 1e-10
        followed = image.metric.norm(image.metric.log(other, z), z)  # by the geodesic
        assert abs(followed - min(sheets)) < 1e-8
        if sheets[0] < sheets[1]:
            assert abs(start.metric.dist(start.theta0, theta) - sheets[0]) < 1e-8


def test_linear_rank_one_is_the_same_cone(rng):
    image = on_image(TwoLayerLinear(3, 4, 1), TwoLayerLinear(3, 4, 1).balanced_point(0.0, rng))
    relu = neuron(3, 4, rng).image()
    a, b = (image.architecture.lift(neuron(3, 4, rng).theta0) for _ in range(2))
    wanted = relu.metric.dist(a.ravel(), b.ravel())
    assert abs(image.metric.dist(a, b) - wanted) < 1e-12
    assert abs(image.metric.norm(image.metric.log(b, a), a) - wanted) < 1e-8


def test_neuron_with_one_input_keeps_its_sheet():
    # u = ±1 cannot turn, so the cone over a circle of radius 1/√2 is left: for v at a right angle
    # the law of cosines has the angle π/(2√2), and opposite points are joined by π/√2.
    image = InvariantSet(layers([1, 1, 2]), [1.0, 1.0, 0.0]).image()
    ends = [[0.0, 1.0], [-1.0, 0.0]]
    wanted = np.sqrt(4 - 4 * np.cos(np.array([0.5, 1.0]) * np.pi / np.sqrt(2)))
    assert np.max(np.abs(image.metric.dist(np.array(ends), [1.0, 0.0]) - wanted)) < 1e-12


def test_scalar_distances():
    # δ = 0: ∫ (4 z²)^(−1/4) dz = √(2z), and points of different sign are joined through 0.
    flat = InvariantSet(layers([1, 1, 1]), [1.0, 1.0]).image().metric
    assert abs(flat.dist([2.0], [8.0]) - 2.0) < 1e-12
    assert abs(flat.dist([-2.0], [8.0]) - 6.0) < 1e-12
    assert abs(flat.norm(flat.log([8.0], [2.0]), [2.0]) - 2.0) < 1e-9
    curved = InvariantSet(layers([1, 1, 1]), [2.0, 1.0]).image().metric
    wanted = curved.norm(curved.log([3.0], [-0.5]), [-0.5])  # along the hyperbola u² − v² = 3
    assert abs(curved.dist([-0.5], [3.0]) - wanted) < 1e-9


def spd(rng, n=3):
    factor = rng.standard_normal((n, n))
    return factor @ factor.T + 0.3 * np.eye(n)


def test_bures_wasserstein(rng):
    metric = on_image(*balanced(TwoLayerLinear(3, 3, 3), 0.0)).metric
    space = SPDMatrices(3, equip=False)
    theirs = space.equip_with_metric(SPDBuresWassersteinMetric).metric
    a, b, x = spd(rng), spd(rng), spd(rng) - spd(rng)
    assert abs(metric.squared_norm(x, a) / theirs.squared_norm(x, a) - 2.0) < 1e-12
    assert abs(metric.dist(a, b) - np.sqrt(2) * theirs.dist(a, b)) < 1e-8
    vector = metric.log(b, a)
    assert abs(metric.norm(vector, a) - metric.dist(a, b)) < 1e-9
    assert np.max(np.abs(vector - theirs.log(b, a))) < 1e-9
    assert np.max(np.abs(metric.exp(0.3 * x, a) - theirs.exp(0.3 * x, a))) < 1e-9
    moved = metric.parallel_transport(x, a, end_point=b)
    wanted = theirs.parallel_transport(x, a, end_point=b, n_steps=400)
    assert np.max(np.abs(moved - wanted)) < 1e-8
    assert np.max(np.abs(x - wanted)) > 0.1  # the control: x is not its own transport
    # Totally geodesic, and yet the formula for symmetric matrices is not that for others.
    assert metric.cometric.exact_distance(a, b @ np.diag([1.0, 1.0, 0.9])) is None


def test_bures_wasserstein_curvature(rng):
    """Against O'Neill's formula for A = XXᵀ from flat space: 3 |vertical part of T S X|²."""
    image = on_image(*balanced(TwoLayerLinear(3, 3, 3), 0.0))
    point, x, y = spd(rng), spd(rng) - spd(rng), spd(rng) - spd(rng)
    root = np.linalg.cholesky(point)
    s, t = (solve_continuous_lyapunov(point, vector) @ root for vector in (x, y))
    bent = solve_continuous_lyapunov(point, y) @ s
    spin = root @ solve_continuous_lyapunov(root.T @ root, root.T @ bent - bent.T @ root)
    area = np.sum(s * s) * np.sum(t * t) - np.sum(s * t) ** 2
    wanted = 3 * np.sum(spin**2) / area / 2  # the metric is twice theirs
    assert wanted > 1e-3
    assert abs(image.metric.sectional_curvature(x, y, point) - wanted) < 1e-10 * (1 + wanted)


# Curvature.


def test_hyperboloid(rng):
    # x² + y² − w² = c has the curvature −c / |θ|⁴.
    start = InvariantSet(layers([2, 1, 1]), [1.0, 2.0, 1.0])
    theta = start.random_point(rng=rng)
    wanted = -4.0 / np.sum(theta**2) ** 2
    image, z = start.image(), start.lift(theta)
    for space, point in ((start, theta), (image, z)):
        pair = space.random_tangent_vec(point, 2, rng)
        assert abs(space.metric.sectional_curvature(*pair, point) - wanted) < 1e-12
        assert abs(space.metric.scalar_curvature(point) - 2 * wanted) < 1e-12
        ricci = pair[0] @ space.metric.ricci_tensor(point) @ pair[1]
        assert abs(ricci - wanted * space.metric.inner_product(*pair, point)) < 1e-12


def test_curvature_of_the_cone(rng):
    start = neuron(3, 4, rng)
    image, theta = start.image(), start.theta0
    z, square = start.lift(theta), np.sum(theta**2)
    u, v = (np.append(theta[:3], np.zeros(4)), np.append(np.zeros(3), theta[3:]))

    def turn(block):
        vector = rng.standard_normal(7) * (block != 0)
        return vector - block * (vector @ block) / (block @ block)

    for first, second, wanted in (
        (theta, turn(u) + turn(v), 0.0),
        (turn(u), turn(u), 1.0),
        (turn(v), turn(v), 1.0),
        (turn(u), turn(v), -1.0),
    ):
        got = start.metric.sectional_curvature(first, second, theta)
        assert abs(got * square - wanted) < 1e-12
        below = start.architecture.lift_jvp(theta, np.stack([first, second]))
        assert abs(image.metric.sectional_curvature(*below, z) * square - wanted) < 1e-12
    # 2 planes in the one factor, 6 in the other (both ways round), 2·2·3 mixed ones.
    assert abs(image.metric.scalar_curvature(z) * square - (2 + 6 - 12)) < 1e-11


@pytest.mark.parametrize("name", ["two layers 4, 3, 3", "deep 3-3-3-3"])
def test_ricci_is_the_sum_of_sectional_curvatures(name, rng):
    image = on_image(*FAMILIES[name])
    z = image.architecture.lift(image.theta0)
    flat = [v.reshape(image.shape) for v in np.eye(z.size)]
    frame = [unit(image, z, rng)]
    for vector in image.to_tangent(np.array(flat), z):
        for _ in range(2):
            for other in frame:
                vector = vector - image.metric.inner_product(vector, other, z) * other
        length = image.metric.norm(vector, z)
        if length > 1e-6 and len(frame) < image.dim:
            frame.append(vector / length)
    total = sum(image.metric.sectional_curvature(frame[0], other, z) for other in frame[1:])
    first = frame[0].ravel()
    assert len(frame) == image.dim
    assert abs(first @ image.metric.ricci_tensor(z) @ first - total) < 1e-8 * (1 + abs(total))


def test_two_ways_to_the_second_fundamental_form(rng):
    """By the laws and by the lift, where one neuron is recoverable and where it is horizontal."""
    one = on_image(*balanced(TwoLayerLinear(4, 3, 1), 0.6))
    tangent, lifted = TangentSpaces(one.architecture), LiftSpaces(one.metric.cometric)
    x, y = tangent.project(one.theta0, rng.standard_normal((2, one.architecture.dim)))
    forms = [s.second_fundamental_form(one.theta0, x, y) for s in (tangent, lifted)]
    assert np.max(np.abs(forms[0] - forms[1])) < 1e-12
    for name in ("two layers 4, 3, 3", "deep 3-3-3-3"):
        image = on_image(*FAMILIES[name])
        theta, spaces = image.theta0, LiftSpaces(image.metric.cometric)
        x, y = spaces.project(theta, rng.standard_normal((2, theta.size)))
        bent = spaces.second_fundamental_form(theta, x, x)
        assert np.max(np.abs(bent - image.metric.solver.acceleration(theta, x))) < 1e-10
        twist = spaces.second_fundamental_form(theta, x, y)
        twist = twist - spaces.second_fundamental_form(theta, y, x)
        assert np.linalg.norm(twist) > 1e-2  # the fibre is not flat, so this tells them apart
        assert np.max(np.abs(image.architecture.lift_jvp(theta, twist))) < 1e-10
        wrong = TangentSpaces(image.architecture).second_fundamental_form(theta, x, y)
        assert np.linalg.norm(wrong - spaces.second_fundamental_form(theta, x, y)) > 1e-2


# Batches, derivatives and errors.


@pytest.mark.parametrize("name", ["layers 2-3", "two layers 5, 3, 2"])
def test_batches_are_loops(name, rng):
    m = METRICS[name]()
    space, z = m._space, m.cometric.architecture.lift(m.cometric.theta0)
    v, w = 0.1 * np.stack([[unit(space, z, rng) for _ in range(2)] for _ in range(2)])
    points = m.exp(v, z)
    assert points.shape == v.shape
    assert np.array_equal(m.exp(v, np.stack([z, z])), points)
    assert np.array_equal(m.exp(v[0], np.stack([z, z])), points[[0, 0]])
    assert np.max(np.abs(m.log(points, z)[1] - m.log(points[1], z))) < 1e-12
    assert np.max(np.abs(m.log(z, points)[1] - m.log(z, points[1]))) < 1e-12
    assert np.max(np.abs(m.dist(points, z) - [m.dist(p, z) for p in points])) < 1e-12
    assert m.sectional_curvature(v, w, z).shape == m.dist(z, points).shape == (2,)
    moved = m.parallel_transport(w, z, direction=v[0])
    assert np.max(np.abs(moved[1] - m.parallel_transport(w[1], z, direction=v[0]))) < 1e-14
    assert np.max(np.abs(m.curvature(v[0], v[1], w, z)[1] - m.curvature(*v, w[1], z))) < 1e-14
    assert m.curvature(v[0], v[1], w, z).shape == v.shape


@pytest.mark.parametrize("name", ["ReLU 4-6-3", "two layers 4, 3, 3"])
def test_gradient_of_the_distance(name, rng):
    image = on_image(*FAMILIES[name])
    m, z = image.metric, image.architecture.lift(image.theta0)
    end, w = m.exp(0.3 * unit(image, z, rng), z), unit(image, z, rng)
    slopes = []
    for h in (1e-2, 5e-3):
        ahead, behind = (m.squared_dist(m.exp(s * w, z), end) for s in (h, -h))
        slopes.append((ahead - behind) / (2 * h))
    wanted = (4 * slopes[1] - slopes[0]) / 3
    first = autograd.grad(lambda p: m.squared_dist(p, end))(z)
    second = autograd.grad(lambda p: anp.sum(m.squared_dist(anp.stack([end, end]), p)))(z)
    assert abs(np.sum(first * w) - wanted) < 1e-7
    assert abs(np.sum(second * w) - 2 * wanted) < 1e-6
    distance = m.dist(z, end)
    got = np.sum(autograd.grad(lambda p: m.dist(p, end))(z) * w)
    assert abs(got - wanted / (2 * distance)) < 1e-6


@pytest.mark.parametrize("build", [on_set, on_image], ids=["set", "image"])
def test_what_has_no_derivative_says_so(build, rng):
    space = build(layers([2, 2, 1]))
    start = base_point(space)
    m, v = space.metric, 0.1 * unit(space, start, rng)
    for function in (
        lambda p: m.exp(v, p),
        lambda p: m.log(start, p),
        lambda p: m.geodesic(p, initial_tangent_vec=v)(1.0),
        lambda p: m.parallel_transport(v, p, direction=v),
        lambda p: m.curvature(v, v, v, p),
        lambda p: m.scalar_curvature(p),
    ):
        with pytest.raises(NotDifferentiableError, match="being differentiated by autograd"):
            autograd.grad(lambda p, f=function: anp.sum(f(p)))(start)


def test_refusals(rng):
    image = on_image(*balanced(TwoLayerLinear(2, 2, 2), 0.0))
    m, z = image.metric, np.eye(2)
    with pytest.raises(GeodesicError, match="no geodesic was found between points"):
        m.dist(z, np.diag([1.0, -1.0]))  # the determinants differ in sign
    with pytest.raises(InputError, match="one of end_point and initial_tangent_vec; got neither"):
        m.geodesic(z)
    with pytest.raises(InputError, match="one of end_point and initial_tangent_vec; got both"):
        m.geodesic(z, z, z)
    with pytest.raises(InputError, match="one of direction and end_point; got neither"):
        m.parallel_transport(z, z)
    with pytest.raises(InputError, match="one of direction and end_point; got both"):
        m.parallel_transport(z, z, z, z)
    with pytest.raises(InputError, match="linearly dependent"):
        m.sectional_curvature(z, -2 * z, z)
    with pytest.raises(InputError, match="rtol must lie between 1e-13 and 1, got 0"):
        image.equip_with_metric(IntrinsicMetric, cometric=m.cometric, rtol=0)
    short = GeodesicSolver(image.architecture, m.solver.spaces, max_steps=20)
    with pytest.raises(GeodesicError, match="takes more than 20 evaluations up to the length"):
        short.end(image.theta0, m.horizontal_lift(rng.standard_normal((2, 2)), z))


@pytest.mark.parametrize("build", [on_set, on_image], ids=["set", "image"])
def test_what_needs_coordinates_is_refused(build):
    space = build(layers([2, 2, 2]))
    point = base_point(space)
    for name in (
        "christoffels",
        "riemann_tensor",
        "covariant_riemann_tensor",
        "inner_product_derivative_matrix",
    ):
        with pytest.raises(NotImplementedError, match="points are extrinsic"):
            getattr(space.metric, name)(point)
    with pytest.raises(NotImplementedError, match="injectivity radius"):
        space.metric.injectivity_radius(point)


@pytest.mark.parametrize("build", [on_set, on_image], ids=["set", "image"])
def test_vectors_that_are_not_tangent_are_refused(build):
    space = build(layers([2, 2, 2]))
    point = base_point(space)
    with pytest.raises(NotTangentError, match="to_tangent"):
        space.metric.exp(point + 1.0, point)


def test_infinite_depth_has_no_geodesics_on_a_grid(rng):
    network = LinearNeuralODE(2, 4)
    image = MatrixImage(network, network.balanced_point(0.3, rng))
    assert isinstance(image.metric.cometric.multiplier, LogarithmicMeanMultiplier)
    z = base_point(image)
    with pytest.raises(NotTangentError, match="infinite depth"):
        image.metric.exp(rng.standard_normal((2, 2)), z)


def test_far_points_are_joined():
    """Where shooting from the chord did not converge."""
    start = neuron(2, 2, np.random.default_rng(5))
    metric, end = start.image().metric, start.random_point(6, rng=14)[0]
    z, other = start.lift(start.theta0), start.lift(end)
    vector = metric.log(other, z)
    assert np.max(np.abs(metric.exp(vector, z) - other)) < 1e-8
    assert abs(metric.norm(vector, z) - metric.dist(z, other)) < 1e-8  # on the cone: the shortest


def test_alignment(rng):
    two, deep = TwoLayerLinear(4, 3, 3), DeepLinear([3, 3, 3, 3])
    attention = Attention(3, 2, 1)
    for network, theta in (
        balanced(two, 0.7),
        balanced(deep, (0.5, -1.2)),
        balanced(attention, 0.5),
        (TwoLayerLinear(1, 2, 4), TwoLayerLinear(1, 2, 4).hyperbolic_point(0.8, 1)),
    ):
        near = theta + 0.01 * rng.standard_normal(theta.shape)
        near = network.project_to_laws(near, network.conservation_laws(theta))
        other = network.recover(network.lift(near), network.conservation_laws(near), near=near)
        found = network.align(other, theta)
        assert np.max(np.abs(network.lift(found) - network.lift(near))) < 1e-10
        laws = network.conservation_laws(near)
        assert np.max(np.abs(network.conservation_laws(found) - laws)) < 1e-10
        assert np.linalg.norm(found - theta) <= np.linalg.norm(near - theta) * (1 + 1e-9)


def test_alignment_of_signs(rng):
    network = layers([3, 4, 4, 2])
    theta = network.random_point(rng=rng)
    signs = np.where(rng.random((2, 4)) < 0.5, -1.0, 1.0)
    first, middle, last = network.unpack(theta)
    flipped = network.pack(
        first * signs[0], signs[0][:, None] * middle * signs[1], signs[1][:, None] * last
    )
    assert np.max(np.abs(network.lift(flipped) - network.lift(theta))) < 1e-15
    assert np.any(flipped != theta)
    assert np.array_equal(network.align(flipped, theta), theta)
