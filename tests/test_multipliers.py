"""The multipliers of the linear families, and the root behind them, against 50 digits of mpmath."""

import autograd
import geomstats.backend as gs
import mpmath as mp
import numpy as np
import pytest

from liftflow.errors import InputError, NotFiniteError, ShapeError
from liftflow.linalg import shifted_product_root
from liftflow.metrics import (
    DeepMultiplier,
    HyperbolicMultiplier,
    LogarithmicMeanMultiplier,
    ScalarMultiplier,
    TwoLayerMultiplier,
)

GRID = 10.0 ** np.arange(-8, 9)
SHIFTS = [
    (0.0, 0.0),
    (0.0, 1.0),
    (0.0, -1.0),
    (0.0, 0.5, -0.7),
    (0.0, 0.3, 0.3, -1e-6),
    (0.0, 1e6, -1e6, 2.0),
    (0.0, -0.2, 0.1, 0.1, 4.0, -1.0),
]

needs_autodiff = pytest.mark.skipif(
    not gs.has_autodiff(), reason="the numpy backend has no derivatives"
)


@pytest.fixture(autouse=True)
def fifty_digits():
    with mp.workdps(50):
        yield


def pairs():
    """Singular values in pairs: a grid, nearly equal ones, and ratios up to 1e12."""
    scales, powers = [1e-8, 3e-3, 0.7, 2e5, 1e8], 10.0 ** np.arange(1, 13)
    near = 1 + np.concatenate([sign * 10.0 ** -np.arange(1, 16) for sign in (1.0, -1.0)])
    found = [(k, l) for k in GRID for l in GRID]
    found += [(scale * ratio, scale) for scale in scales for ratio in near]
    far = [(scale * ratio, scale) for scale in scales for ratio in (*powers, *(1 / powers))]
    found += [(k, l) for k, l in far if 1e-8 <= k <= 1e8]
    return np.array(found).T


PAIRS = pairs()


def check(got, wanted, rtol):
    """Compare with mpmath numbers; no error is hidden by rounding these first."""
    got = np.ravel(got)
    assert got.size == len(wanted)
    errors = [abs(mp.mpf(float(a)) / b - 1) for a, b in zip(got, wanted, strict=True)]
    worst = int(np.argmax([float(error) for error in errors]))
    assert errors[worst] <= rtol, f"entry {worst}: {float(errors[worst]):.1e} relative"


def mp_pairs():
    return [(mp.mpf(float(k)), mp.mpf(float(l))) for k, l in zip(*PAIRS, strict=True)]


def root(shifts, target):
    """The root x of ∏(x + c_i) = T right of −min c, as x + min c, by bisection of its logarithm."""
    low = min(shifts)
    gaps = [c - low for c in shifts]
    log_target = mp.log(target)
    upper = log_target / len(gaps)  # ∏(d_i + y) ≥ y^L
    # … and every other factor is at most twice the larger of d_i and that bound.
    others = sorted(gaps)[1:]
    lower = log_target - sum(mp.log(2 * max(gap, mp.exp(upper))) for gap in others)
    while upper - lower > mp.mpf(10) ** -40:
        middle = (lower + upper) / 2
        value = sum(mp.log(gap + mp.exp(middle)) for gap in gaps)
        lower, upper = (middle, upper) if value < log_target else (lower, middle)
    return mp.exp(lower)


def factors(shifts, target):
    """The factors x + c_i at that root."""
    shifts = [mp.mpf(float(c)) for c in shifts]
    excess = root(shifts, mp.mpf(target))
    return [c - min(shifts) + excess for c in shifts]


def deep(shifts):
    """Return the function m(σ_k, σ_l) of a deep network at 50 digits."""
    squares = {}

    def at(singular):
        if singular not in squares:
            squares[singular] = factors(shifts, singular**2)
        return squares[singular]

    def multiplier(left, right):
        x, y = at(left), at(right)
        return mp.fsum(mp.fprod(x[j + 1 :]) * mp.fprod(y[:j]) for j in range(len(shifts)))

    return multiplier


# The multipliers.


@pytest.mark.parametrize("lam", [0.0, 1.0, -1.0, 1e-6, -1e-6, 1e6, -1e6, 1e-12, 0.3, -0.3])
def test_two_layers(lam):
    exact = mp.mpf(lam)

    def half(lam, singular):
        return (lam + mp.sqrt(lam**2 + 4 * singular**2)) / 2

    wanted = [half(exact, k) + half(-exact, l) for k, l in mp_pairs()]
    check(TwoLayerMultiplier(lam).pair(*PAIRS), wanted, 1e-12)
    multiplier = TwoLayerMultiplier(lam, left=0.25, right=1.5)
    check(multiplier.hidden_left(GRID), [0.25 + half(-exact, mp.mpf(s)) for s in GRID], 1e-12)
    check(multiplier.hidden_right(GRID), [1.5 + half(exact, mp.mpf(s)) for s in GRID], 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("shifts", SHIFTS, ids=str)
def test_deep(shifts):
    multiplier = deep(shifts)
    check(DeepMultiplier(shifts).pair(*PAIRS), [multiplier(k, l) for k, l in mp_pairs()], 1e-12)


@pytest.mark.parametrize("shifts", SHIFTS, ids=str)
def test_deep_hidden_directions(shifts, rng):
    left, right = rng.uniform(0, 2, size=(2, len(shifts)))
    multiplier = DeepMultiplier(shifts, left, right)
    squares = [factors(shifts, mp.mpf(s) ** 2) for s in GRID]
    depth = range(len(shifts))
    betas = [[mp.fprod(x[:j]) for j in depth] for x in squares]
    alphas = [[mp.fprod(x[j + 1 :]) for j in depth] for x in squares]
    check(multiplier.hidden_left(GRID), [mp.fdot(map(mp.mpf, left), row) for row in betas], 1e-12)
    check(multiplier.hidden_right(GRID), [mp.fdot(map(mp.mpf, right), r) for r in alphas], 1e-12)


def test_without_kernels_hidden_directions_count_one_layer():
    multiplier = DeepMultiplier([0.0, 0.5, 0.2])
    squares = shifted_product_root(multiplier.shifts, GRID**2)
    assert np.allclose(multiplier.hidden_left(GRID), squares[:, 0] * squares[:, 1], rtol=1e-13)
    assert np.allclose(multiplier.hidden_right(GRID), squares[:, 1] * squares[:, 2], rtol=1e-13)


@pytest.mark.parametrize("depth", [2, 3, 4, 7])
def test_balanced_depth(depth):
    wanted = [
        mp.fsum(
            k ** (mp.mpf(2 * (depth - j)) / depth) * l ** (mp.mpf(2 * (j - 1)) / depth)
            for j in range(1, depth + 1)
        )
        for k, l in mp_pairs()
    ]
    check(DeepMultiplier(np.zeros(depth)).pair(*PAIRS), wanted, 1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.7, -2.0, 1e5])
def test_two_layers_are_depth_two(lam):
    pair, deep_pair = TwoLayerMultiplier(lam).pair(*PAIRS), DeepMultiplier([0.0, lam]).pair(*PAIRS)
    assert np.max(np.abs(deep_pair / pair - 1)) <= 1e-13


def test_logarithmic_mean():
    def mean(left, right):
        if left == right:
            return left**2
        return (left**2 - right**2) / (mp.log(left**2) - mp.log(right**2))

    wanted = [mean(k, l) for k, l in mp_pairs()]
    check(LogarithmicMeanMultiplier().pair(*PAIRS), wanted, 1e-13)


def test_logarithmic_mean_is_smooth_where_the_series_takes_over():
    ratios = np.exp(0.05 * (1 + np.linspace(-1e-6, 1e-6, 41)))
    values = LogarithmicMeanMultiplier().pair(ratios, np.ones(41))
    assert np.all(np.diff(values) > 0)
    with mp.workdps(50):
        u = [mp.log(mp.mpf(r)) for r in ratios]
        check(values, [mp.exp(x) * mp.sinh(x) / x for x in u], 1e-15)


@pytest.mark.parametrize("zero", [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_logarithmic_mean_refuses_zero(zero):
    with pytest.raises(InputError, match="singular values > 0, got a zero"):
        LogarithmicMeanMultiplier().pair(*np.array(zero))


@pytest.mark.parametrize("a", [1e-8, 1e-3, 1.0, 1e6])
def test_hyperbolic(a):
    square = mp.mpf(a) ** 2
    wanted = [mp.sqrt(k**2 + square) + mp.sqrt(l**2 + square) for k, l in mp_pairs()]
    check(HyperbolicMultiplier(a).pair(*PAIRS), wanted, 1e-12)
    wanted = [a + mp.sqrt(mp.mpf(s) ** 2 + square) for s in GRID]
    check(HyperbolicMultiplier(a).hidden_left(GRID), wanted, 1e-12)
    check(HyperbolicMultiplier(a).hidden_right(GRID), wanted, 1e-12)


@pytest.mark.parametrize("gap", [0.0, 1e-4, 1.0, 1e3])
def test_scalar(gap):
    wanted = [mp.sqrt(mp.mpf(gap) ** 2 + 4 * mp.mpf(s) ** 2) for s in GRID]
    check(ScalarMultiplier(gap).pair(GRID, GRID), wanted, 1e-12)


@pytest.mark.parametrize("factor", [2.0**-1000, 2.0**-500, 2.0**500, 2.0**900])
@pytest.mark.parametrize("name", ["two layers", "two layers, λ < 0", "hyperbolic", "scalar"])
def test_multipliers_of_two_layers_are_homogeneous(name, factor):
    """m of cθ is c² m of θ to the last bit, also where σ² and λ² under- or overflow."""
    there = MULTIPLIERS[name].scaled(factor)
    for left, right in [(1.3, 0.4), (0.0, 2.0), (1e-3, 7.0)]:
        wanted = factor * MULTIPLIERS[name].pair(np.array(left), np.array(right))
        assert there.pair(np.array(factor * left), np.array(factor * right)) == wanted


def test_infinite_depth_is_the_limit_of_depth():
    left, right = np.array([2.0, 0.3, 1.7, 5.0]), np.array([0.4, 0.3, 1.8, 2e-3])
    limit = LogarithmicMeanMultiplier().pair(left, right)
    for lam in (0.0, 1.5, -0.8):
        depths = 2 ** np.arange(4, 10)
        errors = []
        for depth in depths:
            shifts = lam * np.arange(depth) / depth**2
            pair = DeepMultiplier(shifts).pair(left, right) / depth
            errors.append(np.max(np.abs(pair / limit - 1)))
        slope = np.polyfit(np.log(depths), np.log(errors), 1)[0]
        assert abs(slope + 1) < 0.05, (lam, slope)


@pytest.mark.parametrize(
    ("shifts", "error"),
    [([[0.0, 1.0]], ShapeError), (0.0, ShapeError), ([0.0, np.inf], NotFiniteError)],
)
def test_deep_refuses_bad_shifts(shifts, error):
    with pytest.raises(error):
        DeepMultiplier(shifts)


def test_deep_refuses_hidden_values_of_another_depth():
    with pytest.raises(ShapeError):
        DeepMultiplier([0.0, 1.0], left=[1.0, 2.0, 3.0])


# The root of ∏(x + c_i) = T.


def random_shifts(rng):
    """Shifts over many scales: some repeated, some equal but for the last digits."""
    count = int(rng.integers(1, 8))
    shifts = rng.standard_normal(count) * 10.0 ** rng.integers(-6, 7)
    if rng.random() < 0.4:
        shifts[rng.integers(count, size=count // 2)] = shifts[0]
    if rng.random() < 0.3:
        shifts[-1] = shifts[0] * (1 + 1e-13)
    if rng.random() < 0.2:
        shifts[:] = 0.0
    return shifts


@pytest.mark.slow
def test_root_of_random_shifts(rng):
    for _ in range(250):
        shifts = random_shifts(rng)
        target = 10.0 ** rng.uniform(-16, 16)
        got = shifted_product_root(shifts, np.array(target))
        check(got, factors(shifts, target), 1e-14)


@pytest.mark.parametrize("exponent", [-250, -120, -40, 40, 120, 250])
def test_root_at_huge_and_small_targets(exponent, rng):
    for _ in range(12):
        shifts = random_shifts(rng)
        target = 10.0**exponent
        got = shifted_product_root(shifts, np.array(target))
        wanted = factors(shifts, target)
        if min(wanted) > 1e-290:  # below that lie the subnormal numbers
            check(got, wanted, 1e-14)


def test_root_at_zero():
    shifts = np.array([[0.5, -0.7, 0.0], [1.0, 1.0, 1.0]])
    got = shifted_product_root(shifts, np.zeros(2))
    assert np.array_equal(got, shifts - shifts.min(axis=1, keepdims=True))


def test_root_in_batches(rng):
    shifts, targets = rng.standard_normal((2, 1, 4)), rng.uniform(0.1, 3.0, size=(2, 5))
    targets[1, 2] = 0.0
    got = shifted_product_root(shifts, targets)
    assert got.shape == (2, 5, 4)
    for i in range(2):
        for j in range(5):
            alone = shifted_product_root(shifts[i, 0], targets[i, j])
            assert np.allclose(got[i, j], alone, rtol=1e-15, atol=0)
    assert np.allclose(np.prod(got, axis=-1), targets, rtol=1e-13, atol=0)


@needs_autodiff
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    ("shifts", "target"),
    [((0.0, 0.5, -0.7), 1.3), ((0.0, 0.0, 0.0), 2.0), ((1.0, 1.0, -2.0, 3.0), 1e-3), ((0.4,), 7.0)],
)
def test_derivatives_of_the_root_in_the_target(shifts, target, order):
    def last(t):
        return shifted_product_root(np.array(shifts), t)[..., -1]

    derivative = last
    for _ in range(order):
        # 0 t⁴: autograd warns where a derivative is constant.
        derivative = autograd.elementwise_grad(lambda t, inner=derivative: inner(t) + 0.0 * t**4)
    targets = target * np.array([1.0, 10.0, 0.3])
    exact = [mp.mpf(c) for c in shifts]

    def function(t):
        return exact[-1] - min(exact) + newton(exact, t)

    wanted = np.array([mp.diff(function, mp.mpf(t), order) for t in targets], dtype=float)
    # y/Tᵏ is the size of the terms that cancel where a derivative is small.
    excess = shifted_product_root(np.array(shifts), targets).min(axis=-1)
    errors = np.abs(derivative(targets) - wanted)
    assert np.all(errors <= 1e-13 * np.maximum(np.abs(wanted), excess / targets**order))


def newton(shifts, target):
    """The root by mpmath's own solver, quick enough to be differentiated."""
    gaps = [c - min(shifts) for c in shifts]
    start = shifted_product_root(np.array(gaps, float), np.array(target, float)).min()
    return mp.findroot(lambda y: mp.fprod(gap + y for gap in gaps) - target, mp.mpf(float(start)))


@needs_autodiff
def test_derivatives_of_the_root_in_the_shifts():
    shifts, target, weights = np.array([0.2, 0.9, -0.5]), 1.7, np.array([1.0, -2.0, 0.5])

    def scalar(c):
        return gs.sum(weights * shifted_product_root(c, np.array(target)))

    def exact(*c):
        low = min(c)
        return mp.fdot(map(mp.mpf, weights), [x - low + newton(c, mp.mpf(target)) for x in c])

    point = tuple(map(mp.mpf, shifts))
    unit = np.eye(3, dtype=int)
    first = [mp.diff(exact, point, tuple(map(int, row))) for row in unit]
    second = [[mp.diff(exact, point, tuple(map(int, a + b))) for a in unit] for b in unit]
    got = autograd.grad(scalar)(shifts)
    assert np.allclose(got, np.array(first, float), rtol=1e-11, atol=1e-12)
    got = autograd.hessian(scalar)(shifts)
    assert np.allclose(got, np.array(second, float), rtol=1e-10, atol=1e-11)


@needs_autodiff
def test_derivative_of_the_root_at_zero_target_is_no_nan():
    shifts = np.array([0.0, 0.5, 0.5])
    slope = autograd.jacobian(lambda t: shifted_product_root(shifts, t))(np.array(0.0))
    assert np.all(np.isfinite(slope))


MULTIPLIERS = {
    "two layers": TwoLayerMultiplier(0.7),
    "two layers, λ < 0": TwoLayerMultiplier(-0.7),
    "two layers, balanced": TwoLayerMultiplier(0.0),
    "deep": DeepMultiplier([0.0, 0.5, -0.7]),
    "deep, balanced": DeepMultiplier([0.0, 0.0, 0.0, 0.0]),
    "infinite depth": LogarithmicMeanMultiplier(),
    "hyperbolic": HyperbolicMultiplier(0.6),
    "scalar": ScalarMultiplier(0.4),
}


@needs_autodiff
@pytest.mark.parametrize("name", MULTIPLIERS)
def test_derivatives_of_multipliers(name):
    multiplier = MULTIPLIERS[name]
    left = np.array([1.3, 0.8, 2.0, 2.0, 0.5, 0.04])
    right = np.array([0.4, 0.8, 2.0 + 1e-9, 1.95, 3.0, 0.1])
    for number in (0, 1):
        slope = autograd.elementwise_grad(multiplier.pair, number)(left, right)
        h = 0.01 * (left, right)[number]

        def shifted(amount, number=number):
            point = [left, right]
            point[number] = point[number] + amount
            return multiplier.pair(*point)

        differences = [(shifted(k * h) - shifted(-k * h)) / (2 * k * h) for k in (1, 2, 3)]
        wanted = (15 * differences[0] - 6 * differences[1] + differences[2]) / 10
        assert np.allclose(slope, wanted, rtol=1e-9, atol=0), np.max(np.abs(slope / wanted - 1))
