"""Linear networks of two layers, any depth and infinite depth, attention, and products."""

from itertools import pairwise

import autograd.numpy as anp
import geomstats.backend as gs
import numpy as np
import pytest
from linear_cases import (
    ATTENTION,
    BALANCED,
    DEEP,
    HYPERBOLIC,
    ODE,
    PRODUCTS,
    SCALAR,
    TWO_LAYERS,
    is_intrinsic,
    mixed_product,
    params,
)
from scipy.linalg import expm

from liftflow import IntrinsicFlow, InvariantSet, compare, loss_from_function
from liftflow.architectures import (
    Attention,
    DeepLinear,
    LinearNeuralODE,
    ProductArchitecture,
    ReLUNetwork,
    TwoLayerLinear,
)
from liftflow.errors import (
    ArchitectureError,
    InputError,
    NotFiniteError,
    NotOnImageError,
    NotRecoverableError,
    ShapeError,
)
from liftflow.metrics import intrinsic_cometric, oracle_gram, oracle_jacobian
from liftflow.testing import check_architecture

needs_autodiff = pytest.mark.skipif(
    not gs.has_autodiff(), reason="the numpy backend has no derivatives"
)
EVERY = [*BALANCED, *ATTENTION, *HYPERBOLIC, *SCALAR, *PRODUCTS]


def close(got, wanted, rtol, scale=None):
    got, wanted = np.asarray(got, dtype=float), np.asarray(wanted, dtype=float)
    assert got.shape == wanted.shape
    size = np.max(np.abs(wanted if scale is None else scale), initial=0.0)
    gap = np.max(np.abs(got - wanted), initial=0.0)
    assert gap <= rtol * size, f"off by {gap:.1e}, size {size:.1e}"


def layer_scale(architecture, theta):
    """Σ‖U_i‖², the size that laws are relative to."""
    if isinstance(architecture, ProductArchitecture):
        parts = zip(architecture.factors, architecture.unpack(theta), strict=True)
        return max(layer_scale(factor, part) for factor, part in parts)
    layers = architecture.layers(theta)
    return architecture.law_scale * sum(np.sum(layer**2) for layer in layers)


# The points of the families.


@pytest.mark.parametrize("case", params(BALANCED))
def test_balanced_points_are_balanced(case):
    network, theta = case.architecture, case.theta0
    lams = np.broadcast_to(case.lams, len(network.widths) - 2)
    matrices = network.law_matrices(theta)
    assert len(matrices) == len(lams)
    for matrix, lam in zip(matrices, lams, strict=True):
        gap = np.abs(matrix - lam * np.eye(len(matrix)))
        assert np.max(gap) <= 1e-14 * layer_scale(network, theta)
    singular = np.linalg.svd(network.lift(theta), compute_uv=False)
    assert singular[min(network.widths) - 1] > 1e-3  # full rank
    assert np.array_equal(theta, case.theta0)  # the seed is all


@pytest.mark.parametrize("case", params(ODE))
def test_balanced_paths_of_the_neural_ode(case):
    network, theta = case.architecture, case.theta0
    (steps,) = network.unpack(theta)
    n, count = network.n, network.n_steps
    for before, after in pairwise(steps):
        # H = N (A' + A'ᵀ) + A'ᵀA' − AAᵀ, with A' the next cell.
        law = count * (after - before + (after - before).T) + after.T @ after - before @ before.T
        close(law, case.lams[0] * np.eye(n), 1e-13 * count**2, scale=1.0)


@pytest.mark.parametrize("case", params(ATTENTION))
def test_balanced_attention(case):
    attention, theta = case.architecture, case.theta0
    parts = zip(attention.factors, attention.unpack(theta), case.lams, strict=True)
    for factor, part, lam in parts:
        (matrix,) = factor.law_matrices(part)
        close(matrix, lam * np.eye(attention.d_head), 1e-12, scale=1.0)


@pytest.mark.parametrize("case", params(HYPERBOLIC))
def test_hyperbolic_points(case):
    network, (a,) = case.architecture, case.lams
    n, m = network.lifted_shape
    signs = np.diag(np.repeat([1.0, -1.0], [n, m]))
    for theta in (network.hyperbolic_point(a, case.seed), case.theta0):
        weights = np.vstack(network.unpack(theta))
        gram = weights @ weights.T
        close(gram @ signs @ gram, a**2 * signs, 1e-12, scale=gram @ gram)
        (matrix,) = network.law_matrices(theta)
        wanted = np.sort(np.repeat([a, -a, 0.0], [n, m, network.r - n - m]))
        close(np.linalg.eigvalsh(matrix), wanted, 1e-12, scale=gram)


@pytest.mark.parametrize("case", params([*HYPERBOLIC, *SCALAR, *PRODUCTS]))
def test_draws_stay_on_one_invariant_set(case):
    network = case.architecture
    laws = network.conservation_laws(case.theta0)
    other = case.draw(case.seed + 100)
    assert np.max(np.abs(network.lift(other) - network.lift(case.theta0))) > 1e-3
    close(network.conservation_laws(other), laws, 1e-13, scale=layer_scale(network, other))


# Derivatives.


@pytest.mark.parametrize("case", params(EVERY))
def test_laws_are_conserved(case, rng):
    architecture = case.architecture
    for theta in (case.theta0, architecture.random_point(rng=rng)):
        laws = architecture.conservation_laws_jacobian(theta)
        jacobian = architecture.lift_jacobian(theta)
        close(laws @ jacobian.T, np.zeros((len(laws), len(jacobian))), 1e-13, scale=laws)


@pytest.mark.parametrize("case", params(EVERY))
def test_derivatives(case, rng):
    architecture, theta = case.architecture, case.theta0
    v, g = rng.standard_normal(architecture.dim), rng.standard_normal(architecture.lifted_shape)
    pushed, pulled = architecture.lift_jvp(theta, v), architecture.lift_vjp(theta, g)
    close(np.sum(pushed * g), np.sum(pulled * v), 1e-13, scale=np.sum(np.abs(pushed * g)))
    # The laws are quadratic, so central differences are exact.
    laws = architecture.conservation_laws
    close(
        architecture.laws_jvp(theta, v),
        (laws(theta + v) - laws(theta - v)) / 2,
        1e-13,
        scale=layer_scale(architecture, theta + v),
    )
    jacobian = architecture.lift_jacobian(theta)
    close(jacobian @ v, np.ravel(pushed), 1e-13)
    close(jacobian.T @ np.ravel(g), pulled, 1e-13)
    close(architecture.gram_apply(theta, g), architecture.lift_jvp(theta, pulled), 1e-13)
    if gs.has_autodiff():
        close(jacobian, oracle_jacobian(architecture, theta), 1e-13)
    close(architecture.pack(*architecture.unpack(theta)), theta, 1e-15)


@pytest.mark.parametrize("case", params([TWO_LAYERS[0], DEEP[2], ODE[3], ATTENTION[2]]))
def test_batches(case, rng):
    architecture = case.architecture
    shape, dim = architecture.lifted_shape, architecture.dim
    theta = np.stack([case.draw(seed) for seed in range(6)]).reshape(2, 3, dim)
    v, g = rng.standard_normal((3, dim)), rng.standard_normal((2, 1, *shape))
    loop = [[architecture.lift_vjp(theta[i, j], g[i, 0]) for j in range(3)] for i in range(2)]
    close(architecture.lift_vjp(theta, g), loop, 1e-14)
    loop = [[architecture.lift_jvp(theta[i, j], v[j]) for j in range(3)] for i in range(2)]
    close(architecture.lift_jvp(theta, v), loop, 1e-14)
    loop = [[architecture.laws_jvp(theta[i, j], v[j]) for j in range(3)] for i in range(2)]
    close(architecture.laws_jvp(theta, v), loop, 1e-14)
    laws, z = architecture.conservation_laws(theta[0, 0]), architecture.lift(theta)
    found = architecture.recover(z, laws, near=theta[0, 0])
    assert found.shape == theta.shape
    close(architecture.lift(found), z, 1e-10)


# Recovery, and other points of a fibre.


@pytest.mark.parametrize("case", params(EVERY))
def test_recover_is_a_section(case):
    architecture, theta0 = case.architecture, case.theta0
    laws = architecture.conservation_laws(theta0)
    scale = layer_scale(architecture, theta0)
    for theta in (theta0, case.draw(case.seed + 100)):
        z = architecture.lift(theta)
        found = architecture.recover(z, laws, near=theta0)
        close(architecture.lift(found), z, 1e-10)
        close(architecture.conservation_laws(found), laws, 1e-10, scale=scale)
        if isinstance(architecture, DeepLinear) and case in BALANCED:
            again = architecture.recover(z, laws)  # no point to start from is needed
            assert np.array_equal(found, again)


@pytest.mark.parametrize("shape", [(3, 3, 2), (4, 2, 3), (2, 3, 5)])
def test_recover_at_generic_laws(shape):
    network = TwoLayerLinear(*shape)
    theta = network.random_point(rng=4)
    z, laws = network.lift(theta), network.conservation_laws(theta)
    near = theta + 0.01 * np.random.default_rng(5).standard_normal(network.dim)
    found = network.recover(z, laws, near=near)
    close(network.lift(found), z, 1e-9)
    close(network.conservation_laws(found), laws, 1e-9)
    with pytest.raises(NotRecoverableError, match="near=theta0"):
        network.recover(z, laws)


@pytest.mark.parametrize("case", params([*SCALAR, *HYPERBOLIC]))
def test_recover_off_balance_without_iteration(case):
    """From any point of the set, however far, and back to the point itself when it is near."""
    network, theta = case.architecture, case.theta0
    laws, z = network.conservation_laws(theta), network.lift(theta)
    size = np.sum(theta**2)
    for near in (None, network.random_point(rng=9), theta):
        found = network.recover(z, laws, near=near)
        close(network.lift(found), z, 1e-10, size)
        close(network.conservation_laws(found), laws, 1e-10, size)
    close(found, theta, 1e-7)
    if case in SCALAR:  # recoverable: one point, whatever it is called near to
        other = case.draw(case.seed + 1)
        close(network.recover(network.lift(other), laws, near=theta), other, 1e-7)


def test_recover_refuses_laws_that_no_point_has():
    network = TwoLayerLinear(2, 2, 3)
    laws = np.eye(3)[np.triu_indices(3)]
    with pytest.raises(NotRecoverableError, match="r ≤ n"):
        network.recover(np.eye(2), laws)


def test_recover_refuses_a_matrix_of_too_large_rank():
    network = TwoLayerLinear(3, 3, 2)
    theta = network.balanced_point(0.3, 0)
    with pytest.raises(NotOnImageError, match="at most 2: relative residual 5"):
        network.recover(np.eye(3), network.conservation_laws(theta))
    close(network.project_to_image(np.diag([3.0, 2.0, 1.0])), np.diag([3.0, 2.0, 0.0]), 1e-15)
    z = network.lift(theta) + 1e-9 * np.eye(3)  # control: what is left out here is an error of z
    close(network.lift(network.recover(z, network.conservation_laws(theta))), z, 1e-8)


def test_metrics_refuse_a_matrix_of_too_large_rank():
    """Of rank one there is a formula for distances, which takes any two matrices."""
    network = TwoLayerLinear(3, 3, 1)
    theta = network.balanced_point(0.0, 0)
    image = InvariantSet(network, theta).image()
    z, off, distance = network.lift(theta), np.eye(3), image.metric.dist
    loss = loss_from_function(lambda z: anp.sum(z**2, axis=(-2, -1)))
    vector = image.to_tangent(np.eye(3), z)
    assert distance(z, 2 * z) > 0 and image.metric.norm(vector, z) > 0  # the controls
    for refused in (
        lambda: distance(z, off),
        lambda: distance(off, z),
        lambda: image.metric.norm(vector, off),
        lambda: image.metric.metric_matrix(off),
        lambda: image.metric.cometric_matrix(off),
        lambda: IntrinsicFlow(InvariantSet(network, theta), loss).integrate(off),
    ):
        with pytest.raises(NotOnImageError, match="rank at most 1"):
            refused()


@pytest.mark.parametrize("case", params([*TWO_LAYERS, *DEEP, *ATTENTION]))
def test_fibre_points_have_other_laws(case):
    architecture, theta = case.architecture, case.theta0
    shapes = [f.widths for f in getattr(architecture, "factors", [architecture])]
    two_layers = [(n, m, r) for m, r, n in (w for w in shapes if len(w) == 3)]
    # λ = 0 is all there is, or all that has a closed form.
    if any(not any(is_intrinsic(*shape, lam) for lam in (1.0, -1.0)) for shape in two_layers):
        with pytest.raises(ArchitectureError, match="no other relaxed balanced point"):
            architecture.fibre_point(theta)
        return
    try:
        other = architecture.fibre_point(theta)
    except ArchitectureError:
        assert case.architecture.widths == [2, 5, 4, 3]  # balanced or not at all, of all these
        return
    close(architecture.lift(other), architecture.lift(theta), 1e-12)
    moved = architecture.conservation_laws(other) - architecture.conservation_laws(theta)
    assert np.max(np.abs(moved)) > 0.05 * np.linalg.norm(architecture.lift(theta)) ** 0.5
    intrinsic_cometric(architecture, other)  # which a negative control runs by
    both = np.stack([theta, theta])
    assert np.array_equal(architecture.fibre_point(both), np.stack([other, other]))


# What cannot be.


@pytest.mark.parametrize(
    ("shape", "lam", "reason"),
    [
        ((2, 3, 3), 0.5, r"needs layer 2 to have full column rank.*r ≤ n"),
        ((3, 2, 3), -0.5, r"needs layer 1 to have full row rank.*r ≤ m"),
        ((2, 2, 3), 0.5, "r ≤ n"),
        ((2, 2, 3), -0.5, "r ≤ m"),
        ((1, 1, 2), 1e-3, "r ≤ n"),
    ],
)
def test_two_layers_that_cannot_be_balanced(shape, lam, reason):
    with pytest.raises(ArchitectureError, match=f"no relaxed balanced point.*{reason}"):
        TwoLayerLinear(*shape).balanced_point(lam, 0)


@pytest.mark.parametrize(
    ("widths", "lams"),
    [
        ((2, 3, 3, 2), (1.0, 0.5)),  # what is born must die
        ((2, 3, 3, 2), (-1.0, 1.0)),
        ((2, 3, 2, 2), (0.5, 0.0)),
        ((2, 5, 4, 3), (0.1, 0.0)),
        ((4, 4, 4, 2), (0.2, 0.1)),  # ker Z needs squares below 0
        ((3, 3, 2, 2), (0.2, 0.5)),
    ],
)
def test_deep_networks_that_cannot_be_balanced(widths, lams):
    with pytest.raises(ArchitectureError, match="no relaxed balanced point: λ_"):
        DeepLinear(widths).balanced_point(lams, 0)


@pytest.mark.parametrize(
    ("widths", "lams"),
    [
        ((4, 4, 4, 2, 2), (-0.2, -0.7, -0.1)),  # λ_3 is lower down than ker Z reaches
        ((4, 4, 3, 2), (-0.5, -0.5)),  # two squares in ker Z
        ((2, 4, 4, 2), (1.0, -1.0)),
        ((2, 3, 4, 3, 2), (0.1, 0.0, -0.1)),
        ((2, 3, 3, 3, 2), (0.1, 0.2, -0.3)),  # 0.1 + 0.2 − 0.3 is not 0 in floating point
        ((2, 3, 3, 2), (1e6, -1e6)),
        ((3, 3, 3), (1e6,)),
        ((3, 3, 3, 3), (-1e-6, 1e-6)),
        ((5, 3, 2), (0.0,)),
        ((2, 3, 5), (1.3,)),
    ],
)
def test_deep_networks_that_can(widths, lams):
    network = DeepLinear(widths)
    theta = network.balanced_point(lams, 0)
    scale = layer_scale(network, theta)
    for matrix, lam in zip(network.law_matrices(theta), lams, strict=True):
        close(matrix, lam * np.eye(len(matrix)), 1e-14, scale=scale)
    found = network.recover(network.lift(theta), network.conservation_laws(theta))
    close(network.lift(found), network.lift(theta), 1e-11)
    close(network.conservation_laws(found), network.conservation_laws(theta), 1e-13, scale=scale)


def test_admissible_two_layers_are_those_of_the_theory():
    for n, m, r in np.ndindex(4, 4, 5):
        network = TwoLayerLinear(n + 1, m + 1, r + 1)
        for lam in (-0.6, 0.0, 0.6):
            fits = lam == 0 or network.r <= (network.n if lam > 0 else network.m)
            try:
                network.balanced_point(lam, 0)
            except ArchitectureError:
                assert not fits
            else:
                assert fits


@pytest.mark.parametrize(
    ("lams", "error"),
    [
        ([0.1, 0.2, 0.3], ArchitectureError),
        ([[0.1, 0.2]], ArchitectureError),
        (np.nan, NotFiniteError),
        ("0.1", InputError),
        ([], ArchitectureError),
    ],
)
def test_bad_lams(lams, error):
    with pytest.raises(error):
        DeepLinear([2, 2, 2, 2]).balanced_point(lams, 0)


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda: DeepLinear([3, 2]), ArchitectureError),
        (lambda: DeepLinear([3, 0, 2]), InputError),
        (lambda: DeepLinear([3, 2.5, 2]), InputError),
        (lambda: TwoLayerLinear(3, 2, 0), InputError),
        (lambda: LinearNeuralODE(2, 1), InputError),
        (lambda: LinearNeuralODE(0, 4), InputError),
        (lambda: Attention(3, 2, 0), InputError),
        (lambda: ProductArchitecture(), ArchitectureError),
        (lambda: ProductArchitecture(TwoLayerLinear(2, 2, 2), "x"), ArchitectureError),
        (lambda: TwoLayerLinear(2, 2, 2).pack(np.eye(2)), ShapeError),
        (lambda: TwoLayerLinear(2, 3, 2).pack(np.eye(3), np.eye(2)), ShapeError),
        (lambda: TwoLayerLinear(2, 2, 2).lift(np.ones(7)), ShapeError),
        (lambda: TwoLayerLinear(2, 2, 2).lift(np.full(8, np.nan)), NotFiniteError),
    ],
)
def test_bad_architectures(build, error):
    with pytest.raises(error):
        build()


# Two layers.


def test_two_layers_are_a_deep_network_of_depth_two(rng):
    two, deep = TwoLayerLinear(4, 3, 2), DeepLinear([3, 2, 4])
    left, right = rng.standard_normal((4, 2)), rng.standard_normal((3, 2))
    theta, other = two.pack(left, right), deep.pack(right.T, left)
    close(two.lift(theta), left @ right.T, 1e-15)
    close(two.lift(theta), deep.lift(other), 1e-15)
    close(two.conservation_laws(theta), deep.conservation_laws(other), 1e-15)
    close(two.law_matrices(theta)[0], left.T @ left - right.T @ right, 1e-15)
    close(two.split_laws(two.conservation_laws(theta))[0], two.law_matrices(theta)[0], 1e-15)
    u, v = two.unpack(theta)
    assert np.array_equal(u, left) and np.array_equal(v, right)


@pytest.mark.parametrize("shape", [(2, 2, 3), (1, 1, 1), (3, 1, 3)])
def test_the_hyperbolic_leaf_needs_room(shape):
    with pytest.raises(ArchitectureError, match=rf"r ≥ n \+ m = .*got r = {shape[2]}"):
        TwoLayerLinear(*shape).hyperbolic_point(0.5, 0)


@pytest.mark.parametrize("a", [0.0, -1.0, np.nan, np.inf, "1"])
def test_the_hyperbolic_leaf_needs_a_positive_radius(a):
    with pytest.raises((ArchitectureError, InputError)):
        TwoLayerLinear(1, 2, 3).hyperbolic_point(a, 0)


# Infinite depth.


def test_pack_of_the_neural_ode_scales_to_the_norm_of_l2(rng):
    network = LinearNeuralODE(3, 7)
    path = rng.standard_normal((2, 7, 3, 3))
    theta = network.pack(path)
    assert theta.shape == (2, 63)
    close(theta, np.reshape(path, (2, 63)) / np.sqrt(7), 1e-15)
    close(np.sum(theta**2, axis=-1), np.sum(path**2, axis=(1, 2, 3)) / 7, 1e-14)
    (again,) = network.unpack(theta)
    close(again, path, 1e-15)
    layers = [np.eye(3) + step / 7 for step in path[0]]
    for got, wanted in zip(network.layers(theta[0]), layers, strict=True):
        close(got, wanted, 1e-15)
    close(network.lift(theta[0]), np.linalg.multi_dot(layers[::-1]), 1e-13)


def test_the_lift_of_the_neural_ode_is_the_exponential_in_the_limit(rng):
    matrix = rng.standard_normal((3, 3)) / 2
    errors, counts = [], 2 ** np.arange(3, 9)
    for count in counts:
        network = LinearNeuralODE(3, int(count))
        z = network.lift(network.pack(np.broadcast_to(matrix, (count, 3, 3))))
        errors.append(np.linalg.norm(z - expm(matrix)))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope + 1) < 0.2


def test_lam_of_the_neural_ode_may_depend_on_depth():
    network = LinearNeuralODE(3, 6)
    lams = np.array([0.5, -0.3, 0.0, 1.0, -1.0])
    theta = network.balanced_point(lams, 0)
    for matrix, lam in zip(network.law_matrices(theta), lams, strict=True):
        close(matrix, lam * np.eye(3), 1e-12, scale=1.0)


def test_lam_too_negative_for_the_grid():
    with pytest.raises(ArchitectureError, match="too negative for 3 cells"):
        LinearNeuralODE(2, 3).balanced_point(-20.0, 0)


def test_a_path_stays_bounded_as_the_grid_is_refined():
    for count in (10, 100):
        network = LinearNeuralODE(3, count)
        theta = network.balanced_point(0.4, 1)
        found = network.recover(network.lift(theta), network.conservation_laws(theta))
        assert np.linalg.norm(theta) < 4  # the norm of L²
        assert np.linalg.norm(found) < 10


def test_the_neural_ode_does_not_reach_negative_determinants():
    network = LinearNeuralODE(2, 5)
    laws = network.conservation_laws(network.balanced_point(0.0, 0))
    with pytest.raises(NotRecoverableError, match="negative determinant"):
        network.recover(np.diag([1.0, -1.0]), laws)


def test_the_neural_ode_reaches_a_half_turn():
    network = LinearNeuralODE(2, 12)
    laws = network.conservation_laws(network.balanced_point(0.0, 0))
    for z in (np.diag([-1.0, -2.0]), -np.eye(2)):
        found = network.recover(z, laws)
        close(network.lift(found), z, 1e-12)
        close(network.conservation_laws(found), laws, 1e-9, scale=1.0)
        (steps,) = network.unpack(found)
        assert np.max(np.abs(steps)) < 5  # evenly spread over the depth


def test_the_neural_ode_has_no_negative_control_of_this_kind():
    network = LinearNeuralODE(2, 3)
    with pytest.raises(ArchitectureError, match=r"the same for every λ.*cometric="):
        network.fibre_point(network.balanced_point(0.0, 0))


# Attention and products.


def test_attention_is_a_product_per_head(rng):
    attention = Attention(d_model=4, d_head=2, n_heads=3)
    assert attention.lifted_shape == (6, 4, 4)
    assert attention.dim == 3 * 4 * 4 * 2
    assert attention.n_laws == 6 * 3
    blocks = rng.standard_normal((3, 4, 4, 2))  # head, then Q K V O
    theta = blocks.reshape(-1)
    wanted = [a @ b.T for q, k, v, o in blocks for a, b in ((q, k), (v, o))]
    close(attention.lift(theta), wanted, 1e-15)
    grams = [(a.T @ a - b.T @ b) for q, k, v, o in blocks for a, b in ((q, k), (v, o))]
    upper = np.triu_indices(2)
    wanted = np.concatenate([gram[upper] for gram in grams])
    close(attention.conservation_laws(theta), wanted, 1e-14)
    assert attention.random_point(5, rng).shape == (5, attention.dim)


def test_attention_refuses_lams_and_wide_heads():
    with pytest.raises(ArchitectureError, match="1 or 4 numbers"):
        Attention(3, 2, 2).balanced_point([0.1, 0.2], 0)
    with pytest.raises(ArchitectureError, match="r ≤ n"):
        Attention(2, 3, 1).balanced_point(0.5, 0)


def test_products_stack_equal_shapes_and_join_others():
    same = ProductArchitecture(TwoLayerLinear(2, 3, 1), DeepLinear([3, 2, 2, 2]))
    assert same.lifted_shape == (2, 2, 3)
    other = ProductArchitecture(TwoLayerLinear(2, 3, 1), ReLUNetwork.from_widths([2, 3, 1]))
    assert other.lifted_shape == (12,)
    single = ProductArchitecture(TwoLayerLinear(2, 3, 1))
    assert single.lifted_shape == (1, 2, 3)
    nested = ProductArchitecture(same, Attention(2, 1, 1))
    assert nested.lifted_shape == (12 + 8,)
    for product in (same, other, single, nested):
        check_architecture(product)


@pytest.mark.slow
@needs_autodiff
def test_a_product_of_different_families_works_throughout(rng):
    product, theta0 = mixed_product()
    check_architecture(product)
    sizes = [factor.lifted_dim for factor in product.factors]
    z = product.lift(theta0)
    parts = product.split_lifted(z)
    for factor, part, own in zip(product.factors, product.unpack(theta0), parts, strict=True):
        close(own, factor.lift(part), 1e-15)
    close(product.join_lifted(parts), z, 1e-15)
    gram = oracle_gram(product, theta0)
    ends = np.cumsum(sizes)
    for start, stop in zip(ends - sizes, ends, strict=True):
        assert not gram[start:stop, stop:].any()  # block diagonal
    cometric = intrinsic_cometric(product, theta0)
    close(cometric.matrix(z), gram, 1e-12)
    vector = product.lift_jvp(theta0, rng.standard_normal(product.dim))
    close(cometric.apply(z, cometric.solve(z, vector)), vector, 1e-10)
    invariant_set = InvariantSet(product, theta0)
    assert invariant_set.dim == product.dim - product.laws_rank(theta0)
    image = invariant_set.image()
    assert image.dim == np.linalg.matrix_rank(gram, tol=1e-10)
    assert image.belongs(z)
    assert not image.belongs(z + 0.1 * rng.standard_normal(z.shape))
    assert image.is_tangent(image.to_tangent(rng.standard_normal(z.shape), z), z)
    projected = image.projection(z + 1e-3 * rng.standard_normal(z.shape))
    assert image.belongs(projected, atol=1e-8)
    target = product.lift(theta0 + 0.1 * rng.standard_normal(product.dim))
    loss = loss_from_function(lambda z: anp.sum((z - target) ** 2))
    comparison = compare(invariant_set, loss, (0.0, 0.5), rtol=1e-9, atol=1e-11, method="DOP853")
    assert comparison.success
    assert comparison.max_deviation < 1e-7
    assert comparison.law_drift < 1e-7


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_what_is_left_of_a_projection_is_tangent_where_a_law_has_one_term(scale, rng):
    network = DeepLinear([1, 1, 1, 1])
    theta = scale * np.array([0.0, -1.03, 0.0])  # the laws move with its second entry alone
    start = InvariantSet(network, theta)
    vectors = rng.standard_normal((20, 3))
    tangent = start.to_tangent(vectors, theta)
    assert np.all(start.is_tangent(tangent, theta))
    assert np.all(start.is_tangent(start.random_tangent_vec(theta, 20, rng=0), theta))
    aside = np.array([0.0, 1e-9, 0.0])
    assert not np.any(start.is_tangent(tangent + aside, theta))  # the control
    assert not np.any(start.is_tangent(vectors, theta))
