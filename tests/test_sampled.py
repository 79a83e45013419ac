"""Any forward pass as a lift: counts and laws against exact ranks, theory and differences."""

import autograd
import autograd.numpy as anp
import cases
import numpy as np
import pytest
from autograd.scipy.special import erf
from random_forwards import RandomForward, exact_laws

from liftflow import (
    InvariantSet,
    ReLUNetwork,
    SampledForward,
    TwoLayerLinear,
    classify,
    count_conservation_laws,
    discover_laws,
)
from liftflow.criteria import laws_complete, lie_algebra_dimension
from liftflow.errors import (
    InputError,
    NotDifferentiableError,
    NotFiniteError,
    ShapeError,
)
from liftflow.flows import ParameterFlow
from liftflow.gallery.passes import CONTROL, PASSES
from liftflow.losses import loss_from_function
from liftflow.testing import check_architecture


def layers(activation, shape=(3, 2, 2)):
    """Two layers without biases, n → r → m."""
    n, r, m = shape
    blocks = {"V": (r, n), "U": (m, r)}

    def forward(theta, x):
        v, u = anp.reshape(theta[: r * n], (r, n)), anp.reshape(theta[r * n :], (m, r))
        return anp.dot(u, activation(anp.dot(v, x)))

    return forward, r * (n + m), (n,), blocks


def sampled(activation, shape=(3, 2, 2), **options):
    forward, dim, inputs, blocks = layers(activation, shape)
    return SampledForward(forward, dim, inputs, **{"blocks": blocks, **options})


def relu(s):
    return anp.maximum(s, 0.0)


# Counts.


@pytest.mark.slow
def test_no_confident_count_of_random_forward_passes_is_wrong(capsys):
    undecided, with_laws = 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = RandomForward(rng)
        number = exact_laws(truth, rng)
        network = SampledForward(
            lambda theta, x, truth=truth: anp.stack(truth.outputs(theta, x)),
            truth.dim,
            (truth.shape[0],),
            rng=rng,
        )
        found = count_conservation_laws(network, rng=rng)
        with_laws += number > 0
        undecided += found.verdict == "undecided"
        if found.verdict != "undecided":
            assert found.value == number, (seed, vars(truth), found)
    with capsys.disabled():
        print(f"{undecided} of 60 counts undecided, {with_laws} forward passes with laws")
    assert with_laws >= 12 and undecided <= 3


@pytest.mark.slow
@pytest.mark.parametrize("case", [*PASSES, CONTROL], ids=lambda case: case.name)
def test_counts_of_the_table(case, rng):
    seed = int(rng.integers(2**31))
    network = case.network(seed)
    found = count_conservation_laws(network, rng=seed)
    assert (str(found.verdict), found.value) == ("holds", case.laws)
    assert f"at {len(network.inputs)} inputs" in found.reason and "rank" in found.reason
    laws = discover_laws(network, blocks=True, rng=seed)
    assert (str(laws.verdict), laws.n_independent) == ("holds", case.laws)
    assert len(laws.independent) == case.laws


def test_counts_of_layers_that_are_known():
    for architecture, activation, count in (
        (ReLUNetwork.from_widths([3, 2, 2]), relu, 2),
        (TwoLayerLinear(2, 3, 2), lambda s: s, 3),
    ):
        network = sampled(activation)
        assert count_conservation_laws(network).value == count
        assert count_conservation_laws(architecture).value == count
    assert count_conservation_laws(sampled(anp.tanh)).value == 0


def test_given_inputs_that_are_too_few_decide_nothing(rng):
    forward, dim, _, blocks = layers(lambda s: s)
    few, many = rng.standard_normal((2, 3)), rng.standard_normal((20, 3))
    network = SampledForward(forward, dim, few, blocks=blocks)
    assert not network.stable
    found = count_conservation_laws(network)
    assert found.verdict == "undecided" and "raise the rank of ∂φ" in found.reason
    assert found.value > 3  # laws that other inputs do not leave
    assert laws_complete(network, network.random_point(rng=0)).verdict == "undecided"
    assert discover_laws(network).verdict == "undecided"
    network = SampledForward(forward, dim, many, blocks=blocks)
    assert network.stable and np.array_equal(network.inputs, many)
    assert count_conservation_laws(network).value == 3


def test_inputs_by_a_function_may_be_anything(rng):
    """Sequences of 1 to 3 tokens, each with a weight; the embedding scales with the readout."""

    def draw(rng):
        size = int(rng.integers(1, 4))
        return rng.integers(4, size=size), rng.standard_normal(size)

    def forward(theta, x):
        tokens, weights = x
        embedding, readout = anp.reshape(theta[:8], (4, 2)), theta[8:]
        return anp.dot(anp.dot(weights, embedding[tokens]), readout)

    network = SampledForward(forward, 10, draw, blocks={"E": (4, 2), "a": (2,)})
    assert network.lifted_shape == (len(network.inputs),)
    assert count_conservation_laws(network).value == 3
    assert str(discover_laws(network, blocks=True).laws[0]) == "(Eᵀ E)[0,0] − a[0]²"


def test_inputs_of_which_few_tell_the_most(rng):
    one_of_many = np.eye(30)[0]
    network = SampledForward(lambda theta, x: x * theta, 20, one_of_many)
    assert network.stable
    found = count_conservation_laws(network)
    assert (str(found.verdict), found.value) == ("holds", 0)
    control = SampledForward(lambda theta, x: x * theta, 20, 0 * one_of_many)
    assert count_conservation_laws(control).value == 20


@pytest.mark.parametrize("seed", range(3))
def test_inputs_of_two_kinds_of_which_one_has_brackets(seed):
    """Gradients of the one kind are constant; the other's span 3 of 4 dimensions, brackets all."""

    def draw(rng):
        return rng.random() < 0.2, rng.standard_normal(10)

    def forward(theta, x):
        rare, a = x
        if rare:
            a, b, c, d = theta[10:]
            return x[1][0] * a * b + x[1][1] * b * c + x[1][2] * (c + d**2)
        return anp.dot(a, theta[:10])

    network = SampledForward(forward, 14, draw, rng=seed)
    found = count_conservation_laws(network, rng=seed)
    assert (str(found.verdict), found.value) == ("holds", 0)
    assert found.witness["levels"] == [13, 1]


def test_a_function_that_autograd_knows_in_reverse_alone():
    def forward(theta, x):  # (I + A)⁻¹ x has the laws of a full matrix, none
        return anp.dot(anp.linalg.inv(anp.eye(2) + 0.1 * anp.reshape(theta, (2, 2))), x)

    network = SampledForward(forward, 4, (2,))
    assert count_conservation_laws(network).value == 0
    theta, v, w = np.random.default_rng(0).standard_normal((3, 4))
    step = 1e-5
    slope = (network.lift(theta + step * v) - network.lift(theta - step * v)) / (2 * step)
    np.testing.assert_allclose(network.lift_jvp(theta, v), slope, rtol=0, atol=1e-9)
    ends = [network.lift_jvp(theta + s * step * w, v) for s in (1, -1)]
    bent = network.lift_hessian(theta, v, w)
    np.testing.assert_allclose(bent, (ends[0] - ends[1]) / (2 * step), rtol=0, atol=1e-9)


def test_derivatives_are_those_of_the_formula(rng):
    network = sampled(lambda s: 0.5 * s * (1 + erf(s / 2**0.5)))
    theta = network.random_point(3, rng)
    v, u = network.unpack(theta)
    x = np.array(network.inputs)
    s = np.einsum("brn,in->bir", v, x)
    value = 0.5 * s * (1 + erf(s / 2**0.5))
    slope = 0.5 * (1 + erf(s / 2**0.5)) + s * np.exp(-(s**2) / 2) / (2 * np.pi) ** 0.5
    np.testing.assert_allclose(network.lift(theta), np.einsum("bmr,bir->bim", u, value), atol=1e-14)
    g = rng.standard_normal((3, *network.lifted_shape))
    by_hand = network.pack(
        np.einsum("bim,bmr,bir,in->brn", g, u, slope, x), np.einsum("bim,bir->bmr", g, value)
    )
    np.testing.assert_allclose(network.lift_vjp(theta, g), by_hand, atol=1e-13)
    few = g * (np.arange(network.lifted_shape[0]) < 2)[:, None]  # few inputs, another path
    np.testing.assert_allclose(
        network.lift_vjp(theta[0], few), network.lift_vjp(theta[:1], few[:, None])[:, 0], atol=1e-13
    )


def test_a_pullback_is_differentiable_in_the_covector(rng):
    """Also where it is zero, so that no input is passed forward for its value."""
    network = sampled(anp.tanh)
    theta, zero = network.random_point(rng=rng), np.zeros(network.lifted_shape)
    slopes = autograd.jacobian(lambda g: network.lift_vjp(theta, g))(zero)
    wanted = network.lift_jacobian(theta).T.reshape(slopes.shape)
    np.testing.assert_allclose(slopes, wanted, atol=1e-14)
    assert network.lift_vjp(theta, np.zeros((0, *network.lifted_shape))).shape == (0, network.dim)
    assert network.lift_vjp(np.zeros((0, network.dim)), zero).shape == (0, network.dim)


# Laws.


def test_laws_of_blocks_are_those_of_monomials(rng):
    network = sampled(lambda s: s)
    every, blocks = discover_laws(network), discover_laws(network, blocks=True)
    assert [str(law) for law in blocks] == [
        "(V Vᵀ)[0,0] − (Uᵀ U)[0,0]",
        "(V Vᵀ)[0,1] − (Uᵀ U)[0,1]",
        "(V Vᵀ)[1,1] − (Uᵀ U)[1,1]",
    ]
    theta = network.random_point(5, rng)
    for one, other in zip(every, blocks, strict=True):
        np.testing.assert_allclose(one(theta), other(theta), atol=1e-14)
        np.testing.assert_allclose(one.gradient(theta), other.gradient(theta), atol=1e-14)
    v, u = network.unpack(theta)
    wanted = np.einsum("bij,bkj->bik", v, v) - np.einsum("bji,bjk->bik", u, u)
    np.testing.assert_allclose(blocks.laws[1](theta), wanted[:, 0, 1], atol=1e-14)


def test_blocks_with_names_of_the_caller_and_of_a_family():
    found = discover_laws(TwoLayerLinear(3, 3, 2), blocks=True)
    assert str(found.laws[0]) == "(Uᵀ U)[0,0] − (Vᵀ V)[0,0]" and len(found) == 3
    found = discover_laws(TwoLayerLinear(3, 3, 2), blocks={"A": (3, 2), "B": (3, 2)})
    assert str(found.laws[1]) == "(Aᵀ A)[0,1] − (Bᵀ B)[0,1]"
    with pytest.raises(ShapeError, match="must hold 12 numbers"):
        discover_laws(TwoLayerLinear(3, 3, 2), blocks={"A": (3, 2)})
    with pytest.raises(InputError, match="degree of 1 or 2"):
        discover_laws(TwoLayerLinear(3, 3, 2), 3, blocks=True)


def test_traces_that_are_equal_are_no_laws():
    """tr W Wᵀ = tr Wᵀ W: a form that is zero is none, and a law has several ways to be written."""
    network = sampled(anp.tanh)
    assert len(discover_laws(network, blocks=True)) == 0
    scale = SampledForward(
        lambda theta, x: anp.dot(anp.reshape(theta, (2, 3)), x) / anp.sum(theta**2) ** 0.5,
        6,
        (3,),
        blocks={"W": (2, 3)},
    )
    assert [str(law) for law in discover_laws(scale, blocks=True)] == ["(W Wᵀ)[0,0] + (W Wᵀ)[1,1]"]


@pytest.mark.parametrize("size", [500])
@pytest.mark.slow
def test_five_hundred_parameters(size):
    network = sampled(relu, (15, 20, 10))
    assert network.dim == size
    found = discover_laws(network, blocks=True)
    assert (str(found.verdict), len(found), found.n_independent) == ("holds", 20, 20)
    with pytest.raises(InputError, match="blocks=True"):
        discover_laws(network)


# Laws that are used.


def test_laws_that_are_none_break_the_contract():
    """That discovered ones keep it, tests/cases.py has."""
    forward, dim, _, blocks = layers(lambda s: s**3, (2, 1, 1))
    network = SampledForward(lambda *of: forward(*of)[0], dim, cases.GIVEN, blocks=blocks)
    found = discover_laws(network)
    known = network.with_laws(found)
    assert (known.n_laws, known.dim, known.lifted_shape) == (1, 3, (4,))
    assert str(found.laws[0]) == "V[0,0]² + V[0,1]² − 3 U[0,0]²"
    wrong = network.with_laws([lambda theta: theta[..., 0] ** 2 + theta[..., 2] ** 2])
    with pytest.raises(AssertionError, match="conservation"):
        check_architecture(wrong)


def test_given_laws_replace_those_of_a_family(rng):
    """Recovery, the image and its metric rest on them: K = √(2‖S‖² − (tr S)² + 4z²) for one number.

    The laws of S leave a sign open, which the other law that is found tells.
    """
    network = TwoLayerLinear(1, 1, 2)
    found = discover_laws(network)
    known = network.with_laws(found)
    assert known.n_laws == 4 and network.n_laws == 3
    theta = known.random_point(rng=rng)
    np.testing.assert_allclose(known.conservation_laws(theta), [law(theta) for law in found])
    assert laws_complete(known, theta).verdict == "holds"
    image = InvariantSet(known, theta).image()
    z = known.lift(theta) + 0.1
    moved = known.recover(z, known.conservation_laws(theta), near=theta)
    np.testing.assert_allclose(known.lift(moved), z, atol=1e-12)
    u, v = theta[:2], theta[2:]
    s = np.outer(u, u) - np.outer(v, v)
    wanted = np.sqrt(2 * np.sum(s**2) - np.trace(s) ** 2 + 4 * z**2)
    np.testing.assert_allclose(image.metric.cometric_matrix(z), wanted, rtol=1e-8)
    control = network.with_laws(found.laws[:2])  # too few: z has a neighbourhood of points above it
    assert laws_complete(control, theta).verdict == "fails"


def test_laws_are_functions_of_theta():
    network = sampled(relu)
    with pytest.raises(InputError, match="a law must be a function"):
        network.with_laws([1.0])
    with pytest.raises(InputError, match="must come in an order"):
        network.with_laws(lambda theta: theta[..., 0])
    with pytest.raises(ShapeError, match="to a number, got shape"):
        network.with_laws([lambda theta: theta**2])
    assert network.with_laws([]).n_laws == 0


def test_laws_of_one_theta_are_evaluated_row_by_row(rng):
    """Where they do not broadcast; what those that do differ in is time."""
    network = TwoLayerLinear(1, 1, 2)  # as many parameters as a batch has points, among others

    def single(theta):
        u1, u2, v1, v2 = theta
        return u1 * u2 - v1 * v2

    plain = [lambda t: t[0] ** 2 - t[2] ** 2, single, lambda t: anp.sum(t[1::2] ** 2 * [1.0, -1.0])]
    batched = [
        lambda t: t[..., 0] ** 2 - t[..., 2] ** 2,
        lambda t: t[..., 0] * t[..., 1] - t[..., 2] * t[..., 3],
        lambda t: t[..., 1] ** 2 - t[..., 3] ** 2,
    ]
    one, other = network.with_laws(plain), network.with_laws(batched)
    assert other.laws == tuple(batched) and one.laws != tuple(plain)
    theta, vector = rng.standard_normal((2, 3, 2, 4))
    for name, *arrays in (
        ("conservation_laws", theta),
        ("conservation_laws_jacobian", theta),
        ("laws_jvp", theta, vector),
        ("conservation_laws", theta[0, 0]),
        ("conservation_laws", theta[:0]),
    ):
        wanted = getattr(other, name)(*arrays)
        np.testing.assert_allclose(getattr(one, name)(*arrays), wanted, atol=1e-14)
    check_architecture(one)
    with pytest.raises(AssertionError, match="conservation"):
        check_architecture(network.with_laws([lambda theta: theta[0] ** 2]))


def test_laws_stay_along_a_flow(rng):
    network = cases.sampled()
    known = network.with_laws(discover_laws(network))
    target = rng.standard_normal(known.lifted_shape)
    loss = loss_from_function(lambda z: anp.mean((z - target) ** 2))
    theta0 = known.random_point(rng=rng)
    flow = ParameterFlow(known, loss).integrate(theta0, (0.0, 0.3), rtol=1e-8)
    laws = known.conservation_laws(flow.theta)
    assert np.max(np.abs(laws - laws[0])) < 1e-7
    wrong = network.with_laws([lambda theta: anp.sum(theta**2, axis=-1)])
    values = wrong.conservation_laws(flow.theta)
    assert np.max(np.abs(values - values[0])) > 1e-3


@pytest.mark.slow
def test_classify_a_forward_pass():
    network = sampled(relu, (2, 1, 2))
    theta = network.random_point(rng=1)
    found = classify(network, theta)
    assert (bool(found.recoverable), bool(found.metric), bool(found.frobenius)) == (True,) * 3
    assert found.n_laws.value == 1 and "inputs" in found.n_laws.reason
    assert found.complete.verdict == "fails"  # one is missing
    known = classify(network.with_laws(discover_laws(network)), theta)
    assert bool(known.complete) and bool(known.metric)
    assert lie_algebra_dimension(network, theta).value == 3


# The door.


def test_what_is_no_forward_pass():
    def forward(theta, x):
        return anp.dot(theta, x)

    with pytest.raises(InputError, match="the shape of one such as"):
        SampledForward(forward, 3, 5)
    with pytest.raises(InputError, match="got none"):
        SampledForward(forward, 3, [])
    with pytest.raises(ShapeError, match="must hold dim = 3 numbers"):
        SampledForward(forward, 3, (3,), blocks={"a": (2,)})
    with pytest.raises(InputError, match="forward must be a function"):
        SampledForward(1.0, 3, (3,))
    with pytest.raises(NotFiniteError):
        SampledForward(forward, 3, [[1.0, np.nan, 0.0]])
    with pytest.raises(NotFiniteError, match="finite numbers"):
        SampledForward(lambda theta, x: anp.sum(theta) * np.inf, 3, (3,))
    with pytest.raises(NotDifferentiableError, match=r"autograd\.numpy"):
        SampledForward(lambda theta, x: np.asarray(theta, dtype=float) @ x, 3, (3,))
    with pytest.raises(ShapeError, match="of one kind"):
        SampledForward(lambda theta, x: x * theta[0], 1, [np.ones(2), np.ones(3)])
    assert repr(SampledForward(forward, 3, (3,))) == "SampledForward(forward, dim=3, 12 inputs)"
