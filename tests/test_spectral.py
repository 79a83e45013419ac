"""Spectral cometrics against J Jᵀ, dense algebra, finite differences and known metrics."""

from itertools import pairwise

import autograd
import geomstats.backend as gs
import numpy as np
import pytest
from geomstats.geometry.rank_k_psd_matrices import PSDMatrices, RankKPSDMatrices
from geomstats.geometry.spd_matrices import SPDBuresWassersteinMetric, SPDMatrices
from linear_cases import (
    ATTENTION,
    CLOSED,
    DEEP,
    HYPERBOLIC,
    ODE,
    SCALAR,
    TWO_LAYERS,
    is_intrinsic,
    params,
)
from scipy.integrate import solve_ivp

from liftflow import InvariantSet
from liftflow.architectures import Attention, DeepLinear, LinearNeuralODE, TwoLayerLinear
from liftflow.errors import (
    ArchitectureError,
    InputError,
    LiftflowError,
    NotDifferentiableError,
    NotIntrinsicError,
    NotOnImageError,
    ShapeError,
)
from liftflow.manifolds import MatrixImage
from liftflow.metrics import (
    DeepMultiplier,
    HyperbolicMultiplier,
    LogarithmicMeanMultiplier,
    ScalarMultiplier,
    SpectralCometric,
    TwoLayerMultiplier,
    intrinsic_cometric,
    oracle_gram,
)

needs_autodiff = pytest.mark.skipif(
    not gs.has_autodiff(), reason="the numpy backend has no derivatives"
)
SINGLE = [*TWO_LAYERS, *DEEP, *HYPERBOLIC, *SCALAR]
"""Those with one spectral cometric, the closed form of J Jᵀ."""


def close(got, wanted, rtol, scale=None):
    got, wanted = np.asarray(got, dtype=float), np.asarray(wanted, dtype=float)
    assert got.shape == wanted.shape
    size = np.max(np.abs(wanted if scale is None else scale), initial=0.0)
    gap = np.max(np.abs(got - wanted), initial=0.0)
    assert gap <= rtol * size, f"off by {gap:.1e}, size {size:.1e}"


def gram(architecture, theta):
    """J Jᵀ by autodiff where there is any, else by the Jacobian that test_linear.py judges."""
    if gs.has_autodiff():
        return oracle_gram(architecture, theta)
    return architecture.gram_matrix(theta)


def dense(architecture, theta, rank):
    """Eigenvalues and eigenvectors of J Jᵀ on the tangent space, which has dimension ``rank``."""
    values, vectors = np.linalg.eigh(gram(architecture, theta))
    assert np.all(np.abs(values[:-rank]) <= 1e-11 * values[-1])
    return values[-rank:], vectors[:, -rank:]


# K = J Jᵀ, and what follows from it.


@pytest.mark.parametrize("case", params(CLOSED))
def test_closed_form(case):
    architecture = case.architecture
    cometric = intrinsic_cometric(architecture, case.theta0)
    for theta in (case.theta0, case.draw(case.seed + 100)):
        wanted = gram(architecture, theta)
        close(cometric.matrix(architecture.lift(theta)), wanted, 1e-12)


def exact_path(n, lam, seed):
    """A relaxed balanced path of infinite depth: θ = A(s), and X(s) in closed form.

    A = R (S₀ + Λ/2) Rᵀ + Ω with R' = ΩR and Λ' = λ, so X = R exp(∫ S₀ + Λ/2) R(0)ᵀ.
    """
    rng = np.random.default_rng(seed)
    skew = rng.standard_normal((n, n))
    skew = (skew - skew.T) / 2
    values, frame = np.linalg.eigh(1j * skew)  # exp(Ωs) = V exp(−i w s) V*
    start = np.linalg.qr(rng.standard_normal((n, n)))[0]
    rates = rng.uniform(-0.8, 0.8, size=n)

    def frame_at(s):
        turn = np.real((frame * np.exp(-1j * values * s)) @ frame.conj().T)
        return turn @ start

    def velocity(s):
        return (frame_at(s) * (rates + lam * s / 2)) @ frame_at(s).T + skew

    def solution(s):
        return (frame_at(s) * np.exp(rates * s + lam * s**2 / 4)) @ start.T

    return velocity, solution


@pytest.mark.parametrize("case", params(ODE))
def test_closed_form_at_infinite_depth(case, rng):
    n, (lam,) = case.architecture.n, case.lams
    velocity, solution = exact_path(n, lam, case.seed)
    run = solve_ivp(
        lambda s, x: np.ravel(velocity(s) @ x.reshape(n, n)),
        (0, 1),
        np.eye(n).ravel(),
        rtol=1e-10,
        atol=1e-12,
        method="DOP853",
    )
    z = solution(1.0)
    close(run.y[:, -1].reshape(n, n), z, 1e-8)  # so that the path is what it says
    # ∂φ* G = (X(1) X(s)⁻¹)ᵀ G X(s)ᵀ, so M G = ∫ X(1) X⁻¹ (X(1) X⁻¹)ᵀ G XᵀX ds.
    nodes, weights = np.polynomial.legendre.leggauss(40)
    wanted, form = np.zeros((n, n)), rng.standard_normal((n, n))
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        x = solution(node)
        after = z @ np.linalg.inv(x)
        wanted += weight * after @ after.T @ form @ x.T @ x
    cometric = intrinsic_cometric(case.architecture, case.theta0)
    assert isinstance(cometric.multiplier, LogarithmicMeanMultiplier)
    close(cometric.apply(z, form), wanted, 1e-10)


@pytest.mark.parametrize("case", params(ODE))
def test_closed_form_of_the_grid(case):
    network, theta = case.architecture, case.theta0
    shifts = case.lams[0] * np.arange(network.n_steps) / network.n_steps**2
    cometric = SpectralCometric(network, theta, DeepMultiplier(shifts))
    wanted = network.n_steps * gram(network, theta)
    close(cometric.matrix(network.lift(theta)), wanted, 1e-11)


@pytest.mark.parametrize("case", params(SINGLE))
def test_inverse_root_trace_and_determinant(case, rng):
    network, theta = case.architecture, case.draw(case.seed + 50)
    cometric, z = intrinsic_cometric(network, case.theta0), network.lift(theta)
    rank = min(network.widths)
    dim = rank * (sum(z.shape) - rank)
    values, vectors = dense(network, theta, dim)
    form = rng.standard_normal(z.shape)

    def power(exponent):
        return ((vectors * values**exponent) @ vectors.T @ form.ravel()).reshape(z.shape)

    condition = values[-1] / values[0]
    close(cometric.apply(z, form), power(1.0), 1e-12)
    close(cometric.sqrt_apply(z, form), power(0.5), 1e-13 * condition)
    close(cometric.solve(z, form), power(-1.0), 1e-13 * condition)  # drops what is not tangent
    close(cometric.sqrt_apply(z, cometric.sqrt_apply(z, form)), cometric.apply(z, form), 1e-13)
    tangent = network.lift_jvp(theta, rng.standard_normal(network.dim))
    close(cometric.apply(z, cometric.solve(z, tangent)), tangent, 1e-13 * condition)
    product = np.sum(tangent * power(-1.0))
    close(cometric.inner_product(z, tangent, form), product, 1e-12 * condition)
    assert np.shape(cometric.eigenvalues(z)) == (dim,)
    close(np.sort(cometric.eigenvalues(z)), values, 1e-13)
    close(cometric.trace(z), values.sum(), 1e-13)
    close(cometric.log_determinant(z), np.sum(np.log(values)), 1e-13 * condition, scale=1.0)


@pytest.mark.parametrize("case", params([*SINGLE[::4], *ATTENTION[::4]]))
def test_horizontal_lifts(case, rng):
    architecture, theta = case.architecture, case.draw(case.seed + 50)
    cometric, z = intrinsic_cometric(architecture, case.theta0), architecture.lift(theta)
    tangent = architecture.lift_jvp(theta, rng.standard_normal(architecture.dim))
    lifted, point = cometric.horizontal_lift(z, tangent), cometric.point(z)
    close(architecture.lift_jvp(point, lifted), tangent, 1e-9)
    square = cometric.inner_product(z, tangent, tangent)
    close(np.sum(lifted**2), square, 1e-8)
    shortest = np.linalg.pinv(architecture.lift_jacobian(point), rcond=1e-10) @ tangent.ravel()
    close(lifted, shortest, 1e-8)


@pytest.mark.parametrize("case", params([SINGLE[0], TWO_LAYERS[6], DEEP[1], DEEP[0], ODE[3]]))
def test_batches(case, rng):
    network = case.architecture
    cometric = intrinsic_cometric(network, case.theta0)
    z = np.stack([network.lift(case.draw(seed)) for seed in range(6)])
    z = z.reshape(2, 3, *z.shape[1:])
    forms = rng.standard_normal(z.shape)
    for method in (cometric.apply, cometric.solve, cometric.sqrt_apply):
        loop = np.array([[method(z[i, j], forms[i, j]) for j in range(3)] for i in range(2)])
        close(method(z, forms), loop, 1e-14)
        close(method(z[0], forms[0]), loop[0], 1e-14)
        loop = np.array([method(z[0, 0], form) for form in forms[0]])
        close(method(z[0, 0], forms[0]), loop, 1e-14)
        loop = np.array([method(point, forms[0, 0]) for point in z[0]])
        close(method(z[0], forms[0, 0]), loop, 1e-14)
    for method in (cometric.trace, cometric.log_determinant, cometric.eigenvalues, cometric.matrix):
        loop = np.array([[method(z[i, j]) for j in range(3)] for i in range(2)])
        close(method(z), loop, 1e-14)
        close(method(z[0]), loop[0], 1e-14)
    assert cometric.apply(z[:, :0], forms[:, :0]).shape == (2, 0, *z.shape[2:])


@pytest.mark.parametrize("case", params([*TWO_LAYERS, *DEEP]))
def test_frames_of_hidden_layers_do_not_matter(case, rng):
    network, theta = case.architecture, case.theta0
    turns = [np.linalg.qr(rng.standard_normal((n, n)))[0] for n in network.widths]
    turns[0], turns[-1] = np.eye(network.widths[0]), np.eye(network.widths[-1])
    layers = network.layers(theta)
    moved = [turns[i + 1] @ layer @ turns[i].T for i, layer in enumerate(layers)]
    other = network.from_layers(moved)
    z = network.lift(theta)
    close(network.lift(other), z, 1e-13)
    close(gram(network, other), gram(network, theta), 1e-12)
    own = intrinsic_cometric(network, theta).matrix(z)
    close(intrinsic_cometric(network, other).matrix(z), own, 1e-12)


def test_multipliers_are_those_of_the_family():
    def multiplier(network, theta):
        return intrinsic_cometric(network, theta).multiplier

    two, deep = TwoLayerLinear(4, 3, 7), DeepLinear([2, 2, 2])
    found = multiplier(two, two.balanced_point(0.0, 0))
    assert isinstance(found, TwoLayerMultiplier)
    found = multiplier(two, two.hyperbolic_point(0.7, 0))
    assert isinstance(found, HyperbolicMultiplier)
    close(found.a, 0.7, 1e-12)
    found = multiplier(deep, deep.balanced_point(-0.4, 0))
    assert isinstance(found, DeepMultiplier)
    close(found.shifts, [0.0, -0.4], 1e-14)
    scalar = TwoLayerLinear(1, 1, 3)
    assert isinstance(multiplier(scalar, scalar.random_point(rng=0)), ScalarMultiplier)
    # One hidden neuron is always balanced.
    one = TwoLayerLinear(1, 1, 1)
    theta = one.pack([[2.0]], [[0.5]])
    close(intrinsic_cometric(one, theta).matrix([[1.0]]), [[4.25]], 1e-15)


def test_hidden_directions_are_read_from_theta():
    network = TwoLayerLinear(4, 2, 4)  # λ > 0 and r = n: UUᵀ = λ on ker Zᵀ
    found = intrinsic_cometric(network, network.balanced_point(0.8, 0)).multiplier
    close([found.left, found.right], [0.8, 0.0], 1e-14)
    network = TwoLayerLinear(2, 4, 4)
    found = intrinsic_cometric(network, network.balanced_point(-0.8, 0)).multiplier
    close([found.left, found.right], [0.0, 0.8], 1e-14)
    network = TwoLayerLinear(4, 3, 2)
    found = intrinsic_cometric(network, network.balanced_point(0.8, 0)).multiplier
    close([found.left, found.right], [0.0, 0.0], 1e-14, scale=1.0)
    # Widths 4-4-4-2: layers 1 and 2 have the squares y and y + λ_1, and y = −λ_1 − λ_2.
    network = DeepLinear([4, 4, 4, 2])
    found = intrinsic_cometric(network, network.balanced_point([0.2, -1.0], 0)).multiplier
    close(found.right, [1.0, 0.8, 0.8], 1e-13)
    close(found.left, [0.0, 0.0, 1.0], 1e-13)


# Derivatives under autograd.

GAPS = {
    "apart": (2.0, 1.3, 0.6),
    "repeated": (1.2, 1.2, 0.6),
    "all equal": (1.1, 1.1, 1.1),
    **{f"gap 1e-{k}": (1.2 * (1 + 10.0**-k), 1.2, 0.6) for k in (3, 4, 5, 6, 8, 10, 12, 15)},
}
SHAPES = {
    "square": (lambda: TwoLayerLinear(3, 3, 3), 0.7),
    "square, λ < 0": (lambda: TwoLayerLinear(3, 3, 3), -0.7),
    "wide": (lambda: TwoLayerLinear(3, 5, 3), 0.4),
    "wide, hidden": (lambda: TwoLayerLinear(3, 5, 5), -0.4),
    "tall": (lambda: TwoLayerLinear(4, 3, 3), -0.4),
    "tall, hidden": (lambda: TwoLayerLinear(5, 3, 5), 0.4),
    "fixed rank": (lambda: TwoLayerLinear(5, 4, 3), 0.4),
    "fixed rank, balanced": (lambda: TwoLayerLinear(4, 5, 3), 0.0),
    "deep": (lambda: DeepLinear([3, 3, 3, 3]), (0.5, -1.2)),
    "deep, hidden": (lambda: DeepLinear([5, 5, 3, 3]), (-0.5, 0.3)),
    "deep, fixed rank": (lambda: DeepLinear([4, 3, 5, 4]), (0.0, 0.0)),
    "infinite depth": (lambda: LinearNeuralODE(3, 4), 0.3),
}


def slope(function, h=0.02):
    """Derivative at 0 by central differences, extrapolated to order 8 (Richardson)."""
    steps = h / 2.0 ** np.arange(4)
    rows = [(function(s) - function(-s)) / (2 * s) for s in steps]
    for k in range(1, 4):
        rows = [(4**k * b - a) / (4**k - 1) for a, b in pairwise(rows)]
    return rows[0]


def along_image(shape, gaps, seed):
    """A cometric, and a curve on its image through a matrix of these singular values."""
    build, lam = SHAPES[shape]
    network, rng = build(), np.random.default_rng(seed)
    cometric = intrinsic_cometric(network, network.balanced_point(lam, seed))
    n, m = network.lifted_shape
    left, right = (np.linalg.qr(rng.standard_normal((k, k)))[0] for k in (n, m))
    middle = (left[:, :3] * GAPS[gaps]) @ right[:, :3].T
    change_left, change_right = rng.standard_normal((n, n)) / n, rng.standard_normal((m, m)) / m

    def curve(t):
        return (np.eye(n) + t * change_left) @ middle @ (np.eye(m) + t * change_right)

    return cometric, curve, change_left @ middle + middle @ change_right, rng


# At once a third of the pairs, each shape with gaps of all sizes; the others as slow tests.
PAIRS = [
    pytest.param(shape, gaps, marks=pytest.mark.slow if (i + j) % 3 else ())
    for i, shape in enumerate(SHAPES)
    for j, gaps in enumerate(GAPS)
]


@needs_autodiff
@pytest.mark.parametrize(("shape", "gaps"), PAIRS)
def test_derivatives_in_z(shape, gaps):
    cometric, curve, tangent, rng = along_image(shape, gaps, 3)
    z = curve(0.0)
    form, weight = rng.standard_normal((2, *z.shape))
    for method in (cometric.apply, cometric.solve, cometric.sqrt_apply):

        def function(z, method=method):
            return gs.sum(weight * method(z, form))

        gradient = autograd.grad(function)(z)
        wanted = slope(lambda t, f=function: f(curve(t)))
        scale = np.linalg.norm(gradient) * np.linalg.norm(tangent)
        close(np.sum(gradient * tangent), wanted, 1e-9, scale=scale)
        by_form = autograd.grad(lambda g, method=method: gs.sum(weight * method(z, g)))(form)
        close(by_form, method(z, weight), 1e-13)
    for method in (cometric.log_determinant, cometric.trace):
        gradient = autograd.grad(method)(z)
        wanted = slope(lambda t, f=method: f(curve(t)))
        scale = np.linalg.norm(gradient) * np.linalg.norm(tangent)
        close(np.sum(gradient * tangent), wanted, 1e-9, scale=scale)


@needs_autodiff
def test_derivatives_in_batches(rng):
    cometric, curve, _, _ = along_image("fixed rank", "apart", 5)
    z = np.stack([curve(t) for t in np.linspace(-0.2, 0.2, 6)]).reshape(2, 3, 5, 4)
    forms, weights = rng.standard_normal((2, 3, 5, 4)), rng.standard_normal((2, 3, 5, 4))

    def function(z, form, weight):
        return gs.sum(weight * cometric.apply(z, form)) + gs.sum(cometric.log_determinant(z))

    got = autograd.grad(function)(z, forms, weights)
    for i in range(2):
        for j in range(3):
            alone = autograd.grad(function)(z[i, j], forms[i, j], weights[i, j])
            close(got[i, j], alone, 1e-13)
    # One covector at several points.
    got = autograd.grad(function, 1)(z, forms[0, 0], weights)
    close(got, np.sum(cometric.apply(z, weights), axis=(0, 1)), 1e-13)


@needs_autodiff
@pytest.mark.parametrize("name", ["apply", "solve", "sqrt_apply", "log_determinant", "trace"])
def test_second_derivatives_are_refused(name, rng):
    cometric, curve, _, _ = along_image("square", "apart", 4)
    z = curve(0.0)
    form, direction = rng.standard_normal((2, *z.shape))
    method = getattr(cometric, name)
    takes_form = name in ("apply", "solve", "sqrt_apply")

    def function(z):
        return gs.sum(form * method(z, form)) if takes_form else method(z)

    def directional(z):
        return gs.sum(direction * autograd.grad(function)(z))

    with pytest.raises(NotDifferentiableError, match="has no derivative"):
        autograd.grad(directional)(z)


@needs_autodiff
def test_derivative_in_the_covector_and_then_in_z(rng):
    cometric, curve, _, _ = along_image("wide", "repeated", 4)
    z = curve(0.0)
    form, weight = rng.standard_normal((2, *z.shape))

    def in_form(z):
        inner = autograd.grad(lambda g: gs.sum(weight * cometric.apply(z, g)))(form)
        return gs.sum(form * inner)

    wanted = autograd.grad(lambda z: gs.sum(form * cometric.apply(z, weight)))(z)
    close(autograd.grad(in_form)(z), wanted, 1e-13)


# Refusals.


@pytest.mark.parametrize(
    "shape", [(3, 3, 3), (4, 4, 2), (3, 2, 2), (2, 2, 3), (2, 1, 3), (2, 2, 5), (3, 2, 5)], ids=str
)
@pytest.mark.parametrize("seed", range(3))
def test_generic_laws_are_refused(shape, seed):
    network = TwoLayerLinear(*shape)
    theta = network.random_point(rng=seed)
    (matrix,) = network.law_matrices(theta)
    with pytest.raises(NotIntrinsicError, match="S_1 is not a multiple of I") as caught:
        intrinsic_cometric(network, theta)
    text = str(caught.value)
    for value in np.linalg.eigvalsh(matrix):
        assert abs(value) < 1e-12 or f"{value:.4g}" in text
    lam = np.trace(matrix) / len(matrix)
    distance = np.linalg.norm(matrix - lam * np.eye(len(matrix)))
    assert f"‖S − λI‖ = {distance:.3g} with λ = {lam:.3g}" in text
    assert "hyperbolic leaf" in text
    assert "balanced_point(lam, rng)" in text
    assert not kernel_inclusion(network, theta)


def test_generic_deep_networks_are_refused():
    network = DeepLinear([3, 3, 2, 3])
    layers = network.layers(network.balanced_point([-0.3, 0.4], 0))
    theta = network.from_layers(layers)
    intrinsic_cometric(network, theta)
    rng = np.random.default_rng(0)
    layers[2] = layers[2] + 0.3 * rng.standard_normal(layers[2].shape)
    theta = network.from_layers(layers)
    spectrum = np.linalg.eigvalsh(network.law_matrices(theta)[1])
    with pytest.raises(NotIntrinsicError, match="S_2 is not a multiple of I") as caught:
        intrinsic_cometric(network, theta)
    for value in spectrum:
        assert f"{value:.4g}" in str(caught.value)
    assert not kernel_inclusion(network, theta)


@pytest.mark.parametrize(
    ("shape", "lam", "kernel"), [((5, 2, 3), 1.3, "ker Zᵀ"), ((2, 5, 3), -1.3, "ker Z")]
)
def test_hidden_layers_between_the_sizes_are_refused(shape, lam, kernel):
    network = TwoLayerLinear(*shape)
    theta = network.balanced_point(lam, 0)
    with pytest.raises(NotIntrinsicError, match=f"ambiguous hidden directions: on {kernel} ") as e:
        intrinsic_cometric(network, theta)
    assert "1.3" in str(e.value) and "strictly between" in str(e.value)
    assert not kernel_inclusion(network, theta)
    intrinsic_cometric(network, network.balanced_point(0.0, 0))


def kernel_inclusion(network, theta):
    """Whether ker ∂φ ∩ ker ∂h ⊆ ker ∂M, with the singular values well apart."""
    rows = np.vstack([network.lift_jacobian(theta), network.conservation_laws_jacobian(theta)])
    _, singular, right_t = np.linalg.svd(rows)
    rank = int(np.sum(singular > 1e-9 * singular[0]))
    moved = 0.0
    for vector in right_t[rank:]:
        # M is a polynomial of θ: differences are good to 9 digits.
        change = [network.gram_matrix(theta + sign * 1e-5 * vector) for sign in (1, -1)]
        moved = max(moved, np.linalg.norm(change[0] - change[1]) / 2e-5)
    moved /= np.linalg.norm(network.gram_matrix(theta))
    assert moved > 1e-4 or moved < 1e-7, moved
    return moved < 1e-7


def test_two_layers_are_refused_where_the_kernel_inclusion_fails(rng):
    verdicts = []
    for n, m, r in np.ndindex(4, 4, 5):
        network = TwoLayerLinear(n + 1, m + 1, r + 1)
        if n == m == 0:
            continue
        for lam in (-0.6, 0.0, 0.6):
            try:
                theta = network.balanced_point(lam, rng)
            except ArchitectureError:
                continue
            wanted = is_intrinsic(network.n, network.m, network.r, lam)
            assert kernel_inclusion(network, theta) == wanted
            verdicts.append(wanted)
            if wanted:
                intrinsic_cometric(network, theta)
            else:
                with pytest.raises(NotIntrinsicError, match="strictly between"):
                    intrinsic_cometric(network, theta)
    assert 5 < sum(verdicts) < len(verdicts) - 5


def test_deep_networks_are_refused_where_the_kernel_inclusion_fails():
    rng, verdicts = np.random.default_rng(11), []
    while len(verdicts) < 60:
        depth = int(rng.integers(3, 5))
        widths = rng.integers(2, 5, size=depth + 1)
        lams = rng.choice([-0.7, -0.4, 0.0, 0.4, 0.7], size=depth - 1)
        network = DeepLinear(widths)
        try:
            theta = network.balanced_point(lams, rng)
        except ArchitectureError:
            continue
        wanted = kernel_inclusion(network, theta)
        try:
            cometric = intrinsic_cometric(network, theta)
        except NotIntrinsicError as error:
            assert "ambiguous hidden directions" in str(error)
            assert not wanted, (widths, lams)
        else:
            assert wanted, (widths, lams)
            close(cometric.matrix(network.lift(theta)), gram(network, theta), 1e-12)
        verdicts.append(wanted)
    assert 10 < sum(verdicts) < 55


def test_rank_drop_at_the_start():
    # (0, e₁) and (0, e₂): the same Z = 0 and S = −1, and other velocities.
    network = TwoLayerLinear(2, 2, 1)
    points = [network.pack(np.zeros((2, 1)), unit[:, None]) for unit in np.eye(2)]
    for part in (network.lift, network.conservation_laws):
        assert np.array_equal(part(points[0]), part(points[1]))
    form = np.array([[1.0, 2.0], [3.0, 5.0]])
    velocities = [network.gram_apply(point, form) for point in points]
    assert np.array_equal(velocities[0], [[1.0, 0.0], [3.0, 0.0]])
    assert np.array_equal(velocities[1], [[0.0, 2.0], [0.0, 5.0]])
    for point in points:
        with pytest.raises(NotIntrinsicError, match="ambiguous hidden directions: on ker Z "):
            intrinsic_cometric(network, point)


def test_rank_drop_that_does_not_matter():
    # U and V square: UUᵀ and VVᵀ are functions of Z, also where Z is singular.
    # So are the layers of a square deep network, and K is invertible if one of them alone vanishes.
    z, form = np.diag([1.5, 0.0]), np.arange(4.0).reshape(2, 2)
    for network, lams in [
        (TwoLayerLinear(2, 2, 2), [0.6]),
        (TwoLayerLinear(2, 2, 2), [-0.6]),
        (DeepLinear([2, 2, 2, 2]), [0.3, -0.5]),
    ]:
        laws = np.concatenate([lam * np.eye(2)[np.triu_indices(2)] for lam in lams])
        theta = network.recover(z, laws)
        cometric = intrinsic_cometric(network, theta)
        close(cometric.matrix(z), gram(network, theta), 1e-13)
        close(cometric.apply(z, cometric.solve(z, form)), form, 1e-13)


@pytest.mark.parametrize("method", ["solve", "log_determinant"])
@pytest.mark.parametrize(
    "z",
    [
        np.zeros((3, 3)),
        np.diag([2.0, 1.0, 0.0]),
        np.outer([1.0, 2.0, 3.0], [1.0, 1.0, 2.0]) + np.outer([1.0, 0.0, 2.0], [0.3, 1.0, 1.0]),
    ],
    ids=["zero", "diagonal", "in rounding"],
)
def test_no_inverse_where_the_rank_drops(method, z):
    # The last one has a singular value of 4e-16, and the S of θ₀ entries of 1e-17.
    arguments = (z, np.eye(3)) if method == "solve" else (z,)
    for network, lam in [
        (TwoLayerLinear(3, 3, 3), 0.0),
        (TwoLayerLinear(3, 3, 4), 0.0),
        (DeepLinear([3, 3, 3, 3]), (0.0, 0.0)),
        (DeepLinear([3, 3, 3, 3]), (0.5, -0.5)),  # two layers vanish together
    ]:
        cometric = intrinsic_cometric(network, network.balanced_point(lam, 0))
        assert np.all(np.isfinite(cometric.apply(z, np.eye(3))))
        with pytest.raises(NotOnImageError, match="the rank of z is below 3"):
            getattr(cometric, method)(*arguments)
    many = (np.stack([np.eye(3), z]), *arguments[1:])
    with pytest.raises(NotOnImageError):
        getattr(cometric, method)(*many)


def test_small_singular_values_are_no_rank_drop():
    network = DeepLinear([3, 3, 3, 3, 3])
    cometric = intrinsic_cometric(network, network.balanced_point(0.0, 0))
    z = np.diag([1.0, 1e-3, 1e-9])
    form = np.arange(1.0, 10.0).reshape(3, 3)
    found = cometric.apply(z, cometric.solve(z, form))
    assert np.allclose(found, form, rtol=1e-6)


def test_infinite_depth_needs_an_invertible_matrix():
    network = LinearNeuralODE(2, 4)
    cometric = intrinsic_cometric(network, network.balanced_point(0.0, 0))
    with pytest.raises(LiftflowError, match="got a zero"):
        cometric.apply(np.diag([1.0, 0.0]), np.eye(2))


@pytest.mark.parametrize("a", [0.3, 1.1])
def test_the_hyperbolic_leaf_is_found_and_left(a):
    network = TwoLayerLinear(2, 3, 6)
    theta = network.hyperbolic_point(a, 0)
    close(intrinsic_cometric(network, theta).multiplier.a, a, 1e-12)
    # Another radius for one eigenvalue of S.
    (matrix,) = network.law_matrices(theta)
    assert np.linalg.norm(matrix) > 1e-3
    rng = np.random.default_rng(1)
    with pytest.raises(NotIntrinsicError, match="hyperbolic leaf"):
        intrinsic_cometric(network, theta + 1e-4 * rng.standard_normal(network.dim))


def test_tolerance_decides(rng):
    network = TwoLayerLinear(3, 3, 3)
    exact = network.balanced_point(0.5, 0)
    noise = rng.standard_normal(network.dim)
    for size, tolerance, passes in [
        (1e-6, 1e-4, True),
        (1e-6, 1e-8, False),
        (1e-11, 1e-8, True),
        (1e-11, 1e-14, False),
        (1.0, np.inf, True),
        (1.0, 1e-3, False),
    ]:
        theta = exact + size * noise
        if passes:
            cometric = intrinsic_cometric(network, theta, tolerance=tolerance)
            wanted = gram(network, theta)
            close(cometric.matrix(network.lift(theta)), wanted, 10 * size)
        else:
            with pytest.raises(NotIntrinsicError, match="not a multiple of I"):
                intrinsic_cometric(network, theta, tolerance=tolerance)
    (matrix,) = network.law_matrices(theta)
    forced = intrinsic_cometric(network, theta, tolerance=np.inf)
    close(forced.multiplier.lam, np.trace(matrix) / 3, 1e-14)
    gap = forced.matrix(network.lift(theta)) - gram(network, theta)
    assert np.linalg.norm(gap) > 1e-2 * np.linalg.norm(gram(network, theta))


@pytest.mark.parametrize(
    ("network", "theta"),
    [
        (TwoLayerLinear(5, 2, 3), TwoLayerLinear(5, 2, 3).balanced_point(1.3, 0)),
        (TwoLayerLinear(2, 2, 1), [0.0, 0.0, 1.0, 0.0]),
        (DeepLinear([3, 2, 4, 2]), DeepLinear([3, 2, 4, 2]).random_point(rng=0)),
        (LinearNeuralODE(2, 4), LinearNeuralODE(2, 4).random_point(rng=0)),
        (Attention(3, 2, 1), Attention(3, 2, 1).random_point(rng=0)),
    ],
)
def test_an_infinite_tolerance_forces_every_family(network, theta):
    with pytest.raises(NotIntrinsicError):
        intrinsic_cometric(network, theta)
    cometric = intrinsic_cometric(network, theta, tolerance=np.inf)
    z = network.lift(network.random_point(rng=3))
    assert np.all(np.isfinite(cometric.apply(z, np.ones(z.shape))))


@pytest.mark.parametrize("tolerance", [-1.0, np.nan])
def test_bad_tolerances(tolerance):
    network = TwoLayerLinear(2, 2, 2)
    with pytest.raises(InputError, match="tolerance must "):
        intrinsic_cometric(network, network.balanced_point(0.0, 0), tolerance=tolerance)


def test_bad_shapes():
    network = TwoLayerLinear(3, 2, 2)
    cometric = intrinsic_cometric(network, network.balanced_point(0.0, 0))
    with pytest.raises(ShapeError, match="z must have shape"):
        cometric.apply(np.eye(3), np.ones((3, 2)))
    with pytest.raises(ShapeError, match="covector must have shape"):
        cometric.apply(np.ones((3, 2)), np.ones((2, 3)))
    with pytest.raises(ShapeError, match="theta0 must have shape"):
        intrinsic_cometric(network, np.ones(3))


@pytest.mark.parametrize("count", [3, 30, 300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_generic_neural_ode_is_refused_at_any_depth(count):
    network = LinearNeuralODE(2, count)
    with pytest.raises(NotIntrinsicError, match="not a multiple of I"):
        intrinsic_cometric(network, network.random_point(rng=0))
    intrinsic_cometric(network, network.balanced_point(0.7, 0))


# Known metrics, and the image as a manifold.


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_bures_wasserstein(n, rng):
    network = TwoLayerLinear(n, n, n)
    theta0 = network.balanced_point(0.0, rng)
    if n == 1:  # one sign of z has the points of the image that are positive definite
        theta0 = np.abs(theta0)
    metric = InvariantSet(network, theta0).image().metric
    known = SPDBuresWassersteinMetric(SPDMatrices(n, equip=False))
    for _ in range(5):
        root = rng.standard_normal((n, n))
        z = root @ root.T + 0.1 * np.eye(n)
        a, b = (matrix + matrix.T for matrix in rng.standard_normal((2, n, n)))
        close(
            metric.inner_product(a, b, z),
            2 * known.inner_product(a, b, z),
            1e-10,
            scale=(2 * known.inner_product(a, a, z)),
        )
        close(metric.squared_norm(a, z), 2 * known.squared_norm(a, z), 1e-10)
        # geomstats: half the inner product with the solution of the Lyapunov equation zX + Xz = a.
        covector = metric.cometric.solve(z, a)
        close(z @ covector + covector @ z, a, 1e-10)


IMAGES = {
    "full, square": (TwoLayerLinear(3, 3, 4), 0.0, 9),
    "tall": (TwoLayerLinear(4, 2, 2), 0.5, 8),
    "wide": (TwoLayerLinear(2, 5, 2), 0.5, 10),
    "fixed rank": (TwoLayerLinear(4, 3, 2), 0.5, 10),
    "rank one": (TwoLayerLinear(4, 5, 1), 0.5, 8),
    "deep, fixed rank": (DeepLinear([4, 2, 5, 3]), 0.0, 10),
    "infinite depth": (LinearNeuralODE(3, 4), 0.5, 9),
}


@pytest.mark.parametrize("name", IMAGES)
def test_matrix_image(name, rng):
    network, lam, dim = IMAGES[name]
    theta0 = network.balanced_point(lam, 0)
    image = InvariantSet(network, theta0).image()
    assert isinstance(image, MatrixImage)
    assert image.dim == dim
    z = network.lift(theta0)
    jacobian = network.lift_jacobian(theta0)
    assert np.linalg.matrix_rank(jacobian, tol=1e-9) == dim
    basis = np.linalg.svd(jacobian)[0][:, :dim]
    size = z.size
    projector = image.to_tangent(np.eye(size).reshape(size, *z.shape), z).reshape(size, size)
    close(projector, basis @ basis.T, 1e-10)
    assert image.belongs(z)
    assert image.belongs(network.lift(network.random_point(4, rng))).all()
    assert not image.belongs(np.zeros(z.shape))
    tangent = image.random_tangent_vec(z, rng=rng)
    assert image.is_tangent(tangent, z)
    if dim < size:
        assert not image.belongs(z + 1e-3 * rng.standard_normal(z.shape))
        assert not image.is_tangent(tangent + 0.1 * rng.standard_normal(z.shape), z)
        nearby = z + 1e-3 * rng.standard_normal(z.shape)
        assert image.belongs(image.projection(nearby))
        assert np.linalg.norm(image.projection(nearby) - nearby) < np.linalg.norm(z - nearby)
    assert not image.belongs(np.ones((9, 9)))


def test_matrix_images_owe_nothing_to_geomstats_psd_matrices():
    # Its dimension and tangent projection are wrong in 2.8.0.
    assert RankKPSDMatrices not in MatrixImage.__mro__
    assert not issubclass(MatrixImage, type(PSDMatrices(3, 2, equip=False)))


@pytest.mark.parametrize("scale", [2.0**-300, 2.0**-270, 2.0**270, 2.0**300])
@pytest.mark.parametrize(
    ("network", "lam"),
    [
        (TwoLayerLinear(3, 2, 2), 0.5),
        (TwoLayerLinear(1, 1, 2), None),
        (DeepLinear([2, 2, 2]), 0.0),
        (Attention(3, 1, 1), 0.1),
    ],
    ids=["two layers", "two layers of numbers", "balanced", "attention"],
)
def test_k_where_fourth_powers_of_theta_are_no_numbers(network, lam, scale):
    """K at cθ is c² that at θ, to rounding, as M is; so is what is recovered from z."""
    theta = network.random_point(rng=0) if lam is None else network.balanced_point(lam, 0)
    start = InvariantSet(network, scale * theta)
    z = network.lift(scale * theta)
    jacobian = network.lift_jacobian(theta).reshape(-1, network.dim)
    wanted = jacobian @ jacobian.T
    found = start.image().metric.cometric.matrix(z) / scale / scale
    np.testing.assert_allclose(found, wanted, atol=1e-12 * np.max(wanted))
    found = start.recover(z) / scale
    np.testing.assert_allclose(network.lift(found), network.lift(theta), rtol=1e-10, atol=1e-12)
    laws = network.conservation_laws(theta)
    np.testing.assert_allclose(network.conservation_laws(found), laws, rtol=1e-10, atol=1e-12)
    # Control: in units of θ, so that what is compared is not zero.
    assert np.max(wanted) > 0.01 and np.max(np.abs(network.lift(theta))) > 0.01
