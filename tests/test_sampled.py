"""Any forward pass as a lift: counts and laws against exact ranks, theory and differences."""

import autograd
import autograd.numpy as anp
import cases
import numpy as np
import pytest
from autograd.scipy.special import erf
from lie_oracle import PRIME
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
    CallError,
    InputError,
    NotDifferentiableError,
    NotFiniteError,
    ShapeError,
    UndefinedError,
)
from liftflow.flows import ParameterFlow
from liftflow.gallery.passes import CONTROL, PASSES
from liftflow.losses import Loss, NetworkLoss, loss_from_function, loss_from_parameters
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


# Inputs that open what others do not see.


def gated(opening):
    """Two numbers that scale against each other, and two that are seen where a gate is open.

    The laws are a² − b² and, once c d² is seen, 2 c² − d².
    """

    def forward(theta, x):
        a, b, c, d = theta
        return a * b * x[0] + opening(x) * c * d**2

    return forward


@pytest.mark.parametrize(
    ("opening", "size"),
    [
        (lambda x: relu(x[1] - 5.0), "0 times"),  # of 10, 100 and 1,000 the nearest that often do
        pytest.param(lambda x: float(np.sum(x**2) < 1e-3), "0.01 times", marks=pytest.mark.slow),
    ],
)
def test_inputs_of_other_sizes_are_tried(opening, size):
    for seed in range(3):
        network = SampledForward(gated(opening), 4, (2,), rng=seed)
        found = count_conservation_laws(network, rng=seed)
        assert (str(found.verdict), found.value) == ("holds", 2)
        assert f"{size} their size, which see more" in found.reason
        laws = discover_laws(network, rng=seed)
        assert [str(law) for law in laws] == ["θ[0]² − θ[1]²", "θ[2]² − 1/2 θ[3]²"]
        # Normal inputs alone do not see it: the control.
        normal = np.random.default_rng(seed).standard_normal((12, 2))
        blind = SampledForward(gated(opening), 4, normal)
        assert count_conservation_laws(blind).value == 3


def test_what_no_input_opens_is_not_decided():
    def opening(x):
        return float(abs(x[1] - 1.234) < 1e-5)

    network = SampledForward(gated(opening), 4, (2,))
    found = count_conservation_laws(network)
    assert (str(found.verdict), found.value) == ("undecided", 3)
    assert "moves the output by 2 of 4 parameters" in found.reason
    assert discover_laws(network).verdict == "undecided"

    def draw(rng):  # by a user who knows where it opens
        x = rng.standard_normal(2)
        return np.array([x[0], 1.234]) if rng.random() < 0.1 else x

    known = SampledForward(gated(opening), 4, draw)
    found = count_conservation_laws(known)
    assert (str(found.verdict), found.value) == ("holds", 2)
    assert "those that inputs() draws" in found.reason


@pytest.mark.parametrize("seed", range(4))
def test_kinds_that_are_drawn_seldom(seed):
    """The twelve inputs that suffice for the others have none of a kind in 25, more often than not.

    It breaks a law of theirs without a parameter of its own.
    """

    def draw(rng):
        return rng.random() < 0.04, rng.standard_normal(2)

    def forward(theta, x):
        a, b, c = theta
        seldom, (u, v) = x
        return u * a * c if seldom else u * a * b + v * c

    network = SampledForward(forward, 3, draw, rng=seed)
    found = count_conservation_laws(network, rng=seed)
    assert (str(found.verdict), found.value) == ("holds", 0)
    control = SampledForward(forward, 3, lambda rng: (False, rng.standard_normal(2)), rng=seed)
    assert count_conservation_laws(control, rng=seed).value == 1


def test_findings_say_at_which_inputs(rng):
    forward, dim, shape, blocks = layers(lambda s: s)
    given = SampledForward(forward, dim, rng.standard_normal((20, 3)), blocks=blocks)
    for network, kind in ((given, "those that were given"), (sampled(relu), "standard normal")):
        for reason in (count_conservation_laws(network).reason, discover_laws(network).reason):
            assert kind in reason and "what opens for other inputs alone is not seen" in reason
    dead = SampledForward(lambda theta, x: forward(theta[:dim], x), dim + 1, shape)
    assert "by 1 of 11 parameters" in count_conservation_laws(dead).reason


def test_far_inputs_that_overflow_or_are_refused_see_nothing():
    def forward(theta, x):
        if np.max(np.abs(x)) > 20:
            raise ValueError("too far")
        return anp.exp(theta[0] * theta[1] * x[0] ** 3) + theta[2] * anp.tanh(x[1] * 40)

    network = SampledForward(forward, 3, (2,))
    found = count_conservation_laws(network)
    assert (str(found.verdict), found.value) == ("holds", 1)


# Laws of one loss.


def cross_entropy(labels):
    def f(z):
        return anp.mean(anp.log(anp.sum(anp.exp(z), axis=1)) - z[np.arange(len(labels)), labels])

    return loss_from_function(f)


def losses_of(network, rng):
    """Cross-entropy, mean squares, and one that sees the first two outputs alone."""
    shape = network.lifted_shape
    target = rng.standard_normal(shape)
    return {
        "cross-entropy": cross_entropy(rng.integers(shape[1], size=shape[0])),
        "mse": loss_from_function(lambda z: anp.mean((z - target) ** 2)),
        "first": loss_from_function(lambda z: anp.sum((z - target)[:, :2] ** 2)),
    }


def test_one_loss_counts_as_for_the_family(rng):
    """ReLU layers with biases, whose counts by the graph are |H| + |H| + 1, |H|, and |H| + |H|."""
    family = ReLUNetwork.from_widths([2, 3, 3])
    network = sampled(relu, (2, 3, 3))
    for name, loss in losses_of(network, rng).items():
        kind = {"first": lambda z, y: anp.sum((z - y)[:, :2] ** 2, axis=1)}.get(name, name)
        targets = [0] if name == "cross-entropy" else np.zeros((1, 3))
        own = NetworkLoss(family, np.ones((1, 2)), targets, kind)
        found = count_conservation_laws(network, loss=loss)
        assert found.verdict == "holds" and "of this loss" in found.reason
        assert found.value == count_conservation_laws(family, loss=own).value
        assert found.value == {"cross-entropy": 6, "mse": 3, "first": 6}[name]


def test_one_loss_of_units_without_laws(rng):
    """No law for all losses, and a sum over the outputs of each unit and of the biases for one."""

    def forward(theta, x):
        v, u = anp.reshape(theta[:4], (2, 2)), anp.reshape(theta[4:10], (3, 2))
        return anp.dot(u, anp.tanh(anp.dot(v, x))) + theta[10:]

    network = SampledForward(forward, 13, (2,), blocks={"V": (2, 2), "U": (3, 2), "b": (3,)})
    loss = losses_of(network, rng)["cross-entropy"]
    assert count_conservation_laws(network).value == 0
    assert count_conservation_laws(network, loss=loss).value == 3
    found = discover_laws(network, 1, loss)
    assert [str(law) for law in found] == [
        "U[0,0] + U[1,0] + U[2,0]",
        "U[0,1] + U[1,1] + U[2,1]",
        "b[0] + b[1] + b[2]",
    ]
    known = network.with_laws(found)
    assert count_conservation_laws(known, loss=loss).value == 3
    theta0 = network.random_point(rng=rng)
    flow = ParameterFlow(network, loss).integrate(theta0, (0.0, 0.5), rtol=1e-8)
    laws = known.conservation_laws(flow.theta)
    assert np.max(np.abs(laws - laws[0])) < 1e-12
    other = ParameterFlow(network, losses_of(network, rng)["mse"])
    laws = known.conservation_laws(other.integrate(theta0, (0.0, 0.5), rtol=1e-8).theta)
    assert np.max(np.abs(laws - laws[0])) > 1e-2


@pytest.mark.slow  # power series modulo a prime
def test_one_loss_by_exact_ranks():
    """A loss that sees the difference of two outputs has the laws of that difference."""
    looked = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = RandomForward(rng)
        if truth.shape[2] < 2 or truth.dim > 3:
            continue
        looked += 1
        network = SampledForward(
            lambda theta, x, truth=truth: anp.stack(truth.outputs(theta, x)),
            truth.dim,
            (truth.shape[0],),
            rng=rng,
        )
        loss = loss_from_function(lambda z: anp.sum((z[:, 0] - z[:, 1] - 1.0) ** 2))
        found = count_conservation_laws(network, loss=loss, rng=rng)
        outputs = truth.outputs
        truth.outputs = lambda theta, x, own=outputs: [
            own(theta, x)[0] + own(theta, x)[1] * (PRIME - 1)
        ]
        if found.verdict != "undecided":
            assert found.value == exact_laws(truth, rng), seed
    assert looked >= 5


def test_losses_that_are_no_sum_over_inputs_or_no_functions_of_z(rng):
    network = sampled(relu)
    spread = loss_from_function(lambda z: anp.sum((z - anp.mean(z, axis=0)) ** 4))
    found = count_conservation_laws(network, loss=spread)
    assert (str(found.verdict), found.value) == ("undecided", 2)
    assert "no sum over the inputs" in found.reason
    assert discover_laws(network, loss=spread).verdict == "undecided"
    of_theta = loss_from_parameters(lambda t: anp.sum(network.lift(t) ** 2), network)
    with pytest.raises(UndefinedError, match="∇f"):
        count_conservation_laws(network, loss=of_theta)
    with pytest.raises(InputError, match="must be a Loss"):
        count_conservation_laws(network, loss="mse")
    with pytest.raises(InputError, match="must be a Loss"):
        network.seen_by(3)
    few = loss_from_function(lambda z: anp.sum(z[:2] ** 2))  # of which others would see more
    assert count_conservation_laws(network, loss=few).verdict == "undecided"
    nothing = loss_from_function(lambda z: 0.0 * anp.sum(z))
    assert count_conservation_laws(network, loss=nothing).value == network.dim


class Masked(Loss):
    """A loss that says what it excites: the first output of each input."""

    def value(self, z, near=None):
        return np.sum(z[..., 0] ** 2)

    def gradient(self, z, near=None):
        return 2 * z * [1.0, 0.0]

    def excited(self, architecture):
        rows = np.eye(architecture.lifted_dim)[::2]
        return rows.reshape(-1, *architecture.lifted_shape)


def test_a_loss_that_knows_what_it_excites():
    network = sampled(anp.tanh)
    found = count_conservation_laws(network, loss=Masked())
    assert (str(found.verdict), found.value) == ("holds", 2)  # what builds the other output
    assert found.value == count_conservation_laws(network, loss=MaskedByGradients()).value


class MaskedByGradients(Masked):
    excited = Loss.excited


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
    with pytest.raises(CallError, match="of 2 arguments"):
        SampledForward(lambda theta: theta, 3, (3,))
    with pytest.raises(CallError, match="inputs must be a function of 1 argument"):
        SampledForward(forward, 3, lambda: 1.0)
    for blocks in (3, [(3,)]):
        with pytest.raises(InputError, match="blocks must be"):
            SampledForward(forward, 3, (3,), blocks=blocks)
    with pytest.raises(NotFiniteError):
        SampledForward(forward, 3, [[1.0, np.nan, 0.0]])
    with pytest.raises(NotFiniteError, match="finite numbers"):
        SampledForward(lambda theta, x: anp.sum(theta) * np.inf, 3, (3,))
    with pytest.raises(NotDifferentiableError, match=r"autograd\.numpy"):
        SampledForward(lambda theta, x: np.asarray(theta, dtype=float) @ x, 3, (3,))
    with pytest.raises(ShapeError, match="of one kind"):
        SampledForward(lambda theta, x: x * theta[0], 1, [np.ones(2), np.ones(3)])
    assert repr(SampledForward(forward, 3, (3,))) == "SampledForward(forward, dim=3, 12 inputs)"
