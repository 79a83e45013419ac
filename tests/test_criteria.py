"""The hierarchy: the table of the paper, its margins, and what must not change a verdict."""

import json

import autograd.numpy as anp
import numpy as np
import pytest
from cases import bias_fed
from random_dags import random_network

from liftflow import Architecture, ReLUNetwork, classify, frobenius, kernel_inclusion
from liftflow.architectures import Attention, DeepLinear, ProductArchitecture, TwoLayerLinear
from liftflow.criteria import (
    Classification,
    Finding,
    Verdict,
    commuting,
    find_counter_example,
    laws_complete,
    lie_algebra_dimension,
    metric_property,
    recoverability,
)
from liftflow.criteria.kernels import common_kernel
from liftflow.errors import NotIntrinsicError, UndecidedError
from liftflow.metrics import intrinsic_cometric, oracle_gram, oracle_jacobian

layers = ReLUNetwork.from_widths


def balanced(network, lam, seed=0):
    return network, network.balanced_point(lam, seed)


def generic(network, seed=0):
    return network, network.random_point(rng=seed)


HOLDS, FAILS = "holds", "fails"
RELU = (HOLDS, HOLDS, HOLDS, HOLDS, FAILS, HOLDS)
BALANCED = (FAILS, HOLDS, HOLDS, FAILS, FAILS, HOLDS)
UNBALANCED = (FAILS, FAILS, FAILS, FAILS, FAILS, HOLDS)
ALL = (HOLDS,) * 6
TABLE = {  # recoverable, metric, dynamic, Frobenius, commuting, laws complete
    "ReLU 4-6-3": (lambda: generic(layers([4, 6, 3])), RELU),
    "ReLU 3-4-4-2, biases": (lambda: generic(layers([3, 4, 4, 2], bias=True)), RELU),
    "ReLU residual": (lambda: generic(ReLUNetwork.residual([2, 3, 3, 2], [(0, 2)])), RELU),
    "ReLU nodes fed by biases": (lambda: generic(bias_fed()), RELU),
    "ReLU DAG 3": (lambda: generic(random_network(3)), RELU),
    "ReLU DAG 9": (lambda: generic(random_network(9)), RELU),
    "diagonal": (lambda: generic(ReLUNetwork.diagonal(3, depth=3)), ALL),
    "two layers 3, 3, 2 balanced": (lambda: balanced(TwoLayerLinear(3, 3, 2), 0.7), BALANCED),
    "two layers 2, 2, 2 at λ = 0": (lambda: balanced(TwoLayerLinear(2, 2, 2), 0.0), BALANCED),
    "two layers 2, 2, 2": (lambda: generic(TwoLayerLinear(2, 2, 2)), UNBALANCED),
    "two layers 4, 3, 2": (lambda: generic(TwoLayerLinear(4, 3, 2)), UNBALANCED),
    "two layers 5, 2, 3 at λ = 1.3": (lambda: balanced(TwoLayerLinear(5, 2, 3), 1.3), UNBALANCED),
    "two layers 1, 1, 3": (lambda: generic(TwoLayerLinear(1, 1, 3)), ALL),
    "two layers 3, 2, 1": (lambda: generic(TwoLayerLinear(3, 2, 1)), RELU),
    "deep balanced": (lambda: balanced(DeepLinear([3, 3, 3, 3]), (0.5, -1.2)), BALANCED),
    "deep": (lambda: generic(DeepLinear([2, 2, 2, 2])), UNBALANCED),
    "attention balanced": (lambda: balanced(Attention(3, 2, 1), 0.5), BALANCED),
    "attention": (lambda: generic(Attention(2, 2, 1)), UNBALANCED),
    "hyperbolic leaf": (
        lambda: (TwoLayerLinear(2, 2, 5), TwoLayerLinear(2, 2, 5).hyperbolic_point(0.7, 0)),
        BALANCED,
    ),
}


def verdicts(found):
    names = ("recoverable", "metric", "dynamic", "frobenius", "commuting", "complete")
    return tuple(str(getattr(found, name).verdict) for name in names)


def verdicts_but_dynamic(network, theta):
    criteria = (recoverability, metric_property, frobenius, commuting, laws_complete)
    return tuple(str(criterion(network, theta).verdict) for criterion in criteria)


@pytest.mark.parametrize("case", TABLE)
def test_hierarchy_of_the_paper(case):
    build, wanted = TABLE[case]
    found = classify(*build())
    assert verdicts(found) == wanted
    for finding in vars(found).values():
        assert finding.margin > 100, finding
    assert str(found.inclusion.verdict) == wanted[1]  # necessary, and enough in these families


@pytest.mark.parametrize("case", ["ReLU 4-6-3", "two layers 3, 3, 2 balanced", "deep balanced"])
def test_metric_verdict_agrees_with_the_closed_forms(case):
    network, theta = TABLE[case][0]()
    intrinsic_cometric(network, theta)  # does not refuse
    assert metric_property(network, theta)


@pytest.mark.parametrize("case", ["two layers 5, 2, 3 at λ = 1.3", "two layers 2, 2, 2"])
def test_failing_metric_verdict_agrees_with_the_closed_forms(case):
    network, theta = TABLE[case][0]()
    with pytest.raises(NotIntrinsicError):
        intrinsic_cometric(network, theta)
    assert not metric_property(network, theta)


def test_points_with_the_same_z_and_laws_and_other_velocities():
    network = TwoLayerLinear(2, 2, 1)  # Z = 0 and S = −1 at (0, e₁) and at (0, e₂)
    theta = network.pack(np.zeros((2, 1)), np.array([[1.0], [0.0]]))
    assert not recoverability(network, theta)
    assert not metric_property(network, theta)


# Witnesses show what they claim, by the brute-force oracle.


def test_witness_of_an_unrecoverable_point():
    network, theta = generic(TwoLayerLinear(3, 3, 2))
    direction = recoverability(network, theta).witness["direction"]
    assert np.linalg.norm(direction) == pytest.approx(1)
    assert np.linalg.norm(oracle_jacobian(network, theta) @ direction) < 1e-13
    assert np.linalg.norm(network.laws_jvp(theta, direction)) < 1e-13


def test_witness_of_the_kernel_inclusion():
    network, theta = generic(TwoLayerLinear(3, 3, 2))
    direction = kernel_inclusion(network, theta).witness["direction"]
    ends = [oracle_gram(network, theta + s * 1e-5 * direction) for s in (1, -1)]
    assert np.abs(ends[0] - ends[1]).max() / 2e-5 > 0.01
    network, theta = balanced(TwoLayerLinear(3, 3, 2), 0.7)
    (direction,) = common_kernel(network, theta, np.random.default_rng(0)).basis
    ends = [oracle_gram(network, theta + s * 1e-5 * direction) for s in (1, -1)]
    assert np.abs(ends[0] - ends[1]).max() / 2e-5 < 1e-9


def test_witness_of_the_frobenius_property():
    network, theta = balanced(TwoLayerLinear(3, 3, 2), 0.7)
    first, second = frobenius(network, theta).witness["entries"]
    forms = np.zeros((2, 3, 3))
    forms[0][tuple(first)] = forms[1][tuple(second)] = 1

    def bracket():
        x, y = network.lift_vjp(theta, forms)
        ends = [network.lift_vjp(theta + s * 1e-5 * x, forms[1]) for s in (1, -1)]
        others = [network.lift_vjp(theta + s * 1e-5 * y, forms[0]) for s in (1, -1)]
        return (ends[0] - ends[1] - others[0] + others[1]) / 2e-5

    span = oracle_jacobian(network, theta)
    rest = bracket() - span.T @ np.linalg.lstsq(span.T, bracket(), rcond=1e-10)[0]
    assert np.linalg.norm(rest) > 0.01


def test_counter_example_to_the_dynamic_property():
    network, theta = generic(TwoLayerLinear(2, 2, 2))
    example = find_counter_example(network, theta)
    assert example.found and example.gap > 1e-4
    z1, z2 = network.lift(example.theta1), network.lift(example.theta2)
    assert np.linalg.norm(z1 - z2) < 1e-9 * np.linalg.norm(z1)
    grams = [oracle_gram(network, end) for end in (example.theta1, example.theta2)]
    assert np.linalg.norm(grams[0] - grams[1]) > 1e-4 * np.linalg.norm(grams[0])
    # Both ends are where the two losses lead, by steps of Euler's rule that share no code.
    z0, ends = network.lift(theta), []
    for slope, bend in ((example.slope1, 0.0), (example.slope2, example.curvature)):
        end = theta
        for _ in range(4000):
            along = np.sum(example.axis * (network.lift(end) - z0))
            end = end - network.lift_vjp(end, slope + bend * along * example.axis) / 4000
        ends.append(end)
    np.testing.assert_allclose(ends, [example.theta1, example.theta2], rtol=0, atol=1e-3)


def test_no_counter_example_at_a_relaxed_balanced_point():
    example = find_counter_example(*balanced(TwoLayerLinear(2, 2, 2), 0.7), max_tries=2)
    assert not example.found
    assert (example.tries, example.gap < 1e-9) == (2, True)
    assert "2 tries" in example.describe()


@pytest.mark.parametrize(
    ("network", "theta"),
    [
        (TwoLayerLinear(2, 2, 2), np.zeros(8)),  # nothing moves
        (TwoLayerLinear(11, 11, 2), np.ones(44)),  # too many entries
    ],
    ids=["zero", "large"],
)
def test_no_search_for_a_counter_example(network, theta):
    example = find_counter_example(network, theta)
    assert (example.found, example.tries) == (False, 0)
    assert "no search" in example.describe()


def test_flows_that_run_away_are_followed_less_far():
    network, theta = generic(DeepLinear([2, 2, 2, 2]))
    blocks = zip((1e4, 1e-4, 1.0), network.unpack(theta), strict=True)
    example = find_counter_example(network, network.pack(*[c * u for c, u in blocks]))
    assert example.found and example.mismatch < 1e-8


# What must not change a verdict, and where there is none.


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("case", TABLE)
def test_scale_changes_no_verdict(case, scale):
    build, wanted = TABLE[case]
    network, theta = build()
    assert verdicts(classify(network, scale * theta)) == wanted


@pytest.mark.parametrize("case", [name for name in TABLE if name[:4] in ("ReLU", "diag")])
def test_rescaling_a_relu_network_changes_no_verdict(case, rng):
    network, theta = TABLE[case][0]()
    logs = np.log(1e4) * rng.uniform(-1, 1, size=network.n_hidden)
    moved = network.rescale(theta, logs)
    assert np.ptp(np.log10(np.abs(moved))) > 3
    assert verdicts(classify(network, moved)) == TABLE[case][1]


@pytest.mark.parametrize("factor", [1e-4, 1e4])
@pytest.mark.parametrize("case", ["two layers 2, 2, 2", "two layers 4, 3, 2", "two layers 3, 2, 1"])
def test_rescaling_two_layers_changes_no_verdict(case, factor):
    network, theta = TABLE[case][0]()
    left, right = network.unpack(theta)
    moved = network.pack(factor * left, right / factor)
    assert verdicts(classify(network, moved)) == TABLE[case][1]
    diagonal = factor ** np.linspace(0, 1, network.r)
    moved = network.pack(left * diagonal, right / diagonal)
    # Other laws than those of θ, so another dynamic to search in.
    assert verdicts_but_dynamic(network, moved) == TABLE[case][1][:2] + TABLE[case][1][3:]


@pytest.mark.parametrize("factors", [(1e2, 1e-2, 1.0), (1e-2, 1.0, 1e2)])
def test_rescaling_the_layers_of_a_deep_network_changes_no_verdict(factors):
    network, theta = TABLE["deep"][0]()
    blocks = zip(factors, network.unpack(theta), strict=True)
    moved = network.pack(*[c * u for c, u in blocks])
    assert verdicts_but_dynamic(network, moved) == UNBALANCED[:2] + UNBALANCED[3:]


def test_rescaling_attention_changes_no_verdict():
    attention, theta = TABLE["attention"][0]()
    moved = []
    for part in attention.unpack(theta):
        left, right = attention.factors[0].unpack(part)
        moved.append(attention.factors[0].pack(1e4 * left, right / 1e4))
    assert verdicts(classify(attention, attention.pack(*moved))) == UNBALANCED


def test_turning_a_balanced_point_changes_no_verdict(rng):
    network, theta = balanced(TwoLayerLinear(3, 3, 2), 0.7)
    turn = np.linalg.qr(rng.standard_normal((2, 2)))[0]
    left, right = network.unpack(theta)
    assert verdicts(classify(network, network.pack(left @ turn, right @ turn))) == BALANCED


@pytest.mark.parametrize("distance", [1e-13, 1e-9, 1e-4])
def test_close_to_the_border_nothing_is_decided(distance, rng):
    network, theta = balanced(TwoLayerLinear(2, 2, 2), 0.7)
    moved = theta + distance * rng.standard_normal(theta.size)
    wanted = {1e-13: "holds", 1e-9: "undecided", 1e-4: "fails"}[distance]
    assert kernel_inclusion(network, moved).verdict == wanted
    assert metric_property(network, moved).verdict == wanted


@pytest.mark.parametrize(("gap", "wanted"), [(0, "fails"), (1e-9, "undecided"), (1e-3, "holds")])
def test_close_to_a_kernel_nothing_is_decided(gap, wanted, rng):
    network = TwoLayerLinear(1, 1, 3)  # recoverable, but not at U = V
    left, right = rng.standard_normal((2, 1, 3))
    theta = network.pack(left, left + gap * right)
    found = recoverability(network, theta)
    assert found.verdict == wanted
    if wanted == "undecided":
        assert metric_property(network, theta).verdict == "undecided"
        assert kernel_inclusion(network, theta).verdict == "undecided"
        with pytest.raises(UndecidedError, match="recoverable is undecided"):
            bool(found)


# Any architecture.


class Product(Architecture):
    """A B C of three matrices, or of two: only lift is defined, and no law."""

    def __init__(self, n, m, r):
        super().__init__((n + m) * r, (n, m))
        self.sizes = n, m, r

    def lift(self, theta):
        n, m, r = self.sizes
        left = anp.reshape(theta[..., : n * r], (*theta.shape[:-1], n, r))
        right = anp.reshape(theta[..., n * r :], (*theta.shape[:-1], m, r))
        return anp.einsum("...ik,...jk->...ij", left, right)


@pytest.mark.parametrize(
    "case", ["two layers 3, 3, 2 balanced", "two layers 2, 2, 2", "two layers 1, 1, 3"]
)
def test_an_architecture_with_a_lift_alone(case):
    (network, theta), wanted = TABLE[case][0](), TABLE[case][1]
    bare = Product(network.n, network.m, network.r)
    found, own = classify(bare, theta), classify(network, theta)
    assert verdicts(found)[:5] == wanted[:5]
    assert found.complete.verdict == "fails"  # it knows none
    assert found.n_laws.value == own.n_laws.value
    dimension = lie_algebra_dimension(bare, theta).value
    assert dimension == lie_algebra_dimension(network, theta).value


def test_one_bad_factor_refutes_a_product():
    good, bad = TwoLayerLinear(2, 3, 2), TwoLayerLinear(2, 2, 2)
    product = ProductArchitecture(good, bad)
    theta = product.pack(good.balanced_point(0.5, 0), bad.random_point(rng=0))
    found = kernel_inclusion(product, theta)
    assert (found.verdict, found.witness["factor"]) == ("fails", 1)
    mixed = ProductArchitecture(layers([2, 2, 1]), good)
    theta = mixed.pack(mixed.factors[0].random_point(rng=0), good.balanced_point(0.5, 0))
    assert verdicts(classify(mixed, theta)) == BALANCED


# Large ReLU networks go by their graph; the rules agree with brackets where both can be computed.


@pytest.mark.parametrize("seed", range(8))
def test_rules_of_the_graph_agree_with_brackets(seed, monkeypatch):
    network = random_network(seed) if seed else ReLUNetwork.diagonal(3, depth=3)
    theta = network.random_point(rng=seed)
    criteria = (frobenius, commuting, laws_complete, lie_algebra_dimension)
    by_brackets = [criterion(network, theta) for criterion in criteria]
    monkeypatch.setattr("liftflow.criteria.graph.GRAPH_LIMIT", 0)
    by_graph = [criterion(network, theta) for criterion in criteria]
    for one, other in zip(by_brackets, by_graph, strict=True):
        assert one.verdict == other.verdict and other.tolerance == 0.0
    assert by_brackets[2].value == by_graph[2].value == 0
    assert by_brackets[3].value == by_graph[3].value


# What a user sees.


def test_table_and_records():
    found = classify(*balanced(TwoLayerLinear(2, 2, 2), 0.3), exact=True)
    assert isinstance(found, Classification)
    assert "Schwartz–Zippel" in found.n_laws.reason
    text, page = str(found), found._repr_html_()
    for finding in vars(found).values():
        assert finding.name in text and str(finding.verdict) in page
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["recoverable"]["verdict"] == "fails"
    assert len(record["recoverable"]["witness"]["direction"]) == 8
    assert record["n_laws"]["value"] == 3


def test_a_finding_is_true_or_false():
    finding = Finding("metric", Verdict.HOLDS, 0.0, np.inf, 0.0, "by hand")
    assert finding
    assert finding.to_dict()["margin"] is None
