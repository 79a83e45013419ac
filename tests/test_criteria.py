"""The hierarchy: the table of the paper, its margins, its witnesses, and what a user sees."""

import json

import numpy as np
import pytest
from hierarchy_cases import (
    BALANCED,
    TABLE,
    BarePaths,
    balanced,
    bare,
    generic,
    layers,
    verdicts,
)
from random_dags import random_network
from scipy.integrate import solve_ivp

from liftflow import ReLUNetwork, classify, frobenius, kernel_inclusion
from liftflow.architectures import Attention, DeepLinear, ProductArchitecture, TwoLayerLinear
from liftflow.criteria import (
    Classification,
    Finding,
    Verdict,
    commuting,
    dynamic_property,
    find_counter_example,
    laws_complete,
    lie_algebra_dimension,
    metric_property,
    recoverability,
)
from liftflow.criteria.views import View, view_of
from liftflow.errors import NotIntrinsicError
from liftflow.metrics import intrinsic_cometric, oracle_gram, oracle_jacobian


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
    (direction,) = view_of(network, theta, np.random.default_rng(0)).kernel.basis
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


def test_dynamic_property_without_the_metric_property():
    network, theta = generic(DeepLinear([1, 2, 2, 1]))  # one law more than the S_i are
    found = classify(network, theta)
    assert (found.metric.verdict, found.dynamic.verdict) == ("fails", "holds")
    assert "z determines θ in its orbit" in found.dynamic.reason
    z, slope = float(network.lift(theta)[0, 0]), 0.3

    def end(gradient):
        def reached(t, theta):
            return float(network.lift(theta)[0, 0]) - z - slope

        reached.terminal = True
        flow = solve_ivp(
            lambda t, at: -network.lift_vjp(at, gradient(network.lift(at))),
            (0, 10),
            theta,
            rtol=1e-11,
            atol=1e-11,
            events=reached,
        )
        return flow.y_events[0][0]

    grams = [oracle_gram(network, end(f)) for f in (lambda z: -1 + 0 * z, lambda z: -np.exp(z))]
    assert grams[0] == pytest.approx(grams[1], rel=1e-8)
    assert abs(grams[0] - oracle_gram(network, theta)) > 0.01 * grams[0]


def test_dynamic_property_of_an_orbit_too_large_to_search():
    network, theta = generic(TwoLayerLinear(11, 10, 2))
    found = dynamic_property(network, theta)
    assert found.verdict == "fails" and found.margin > 100
    assert "the orbit of θ" in found.reason and "no search" in found.reason
    direction = found.witness["direction"]
    assert np.linalg.norm(network.lift_jvp(theta, direction)) < 1e-13
    assert np.linalg.norm(network.laws_jvp(theta, direction)) < 1e-13
    forms = np.random.default_rng(0).standard_normal((2, *network.lifted_shape))
    ends = [network.lift_vjp(theta + s * 1e-5 * direction, forms) for s in (1, -1)]
    assert abs(ends[0][0] @ ends[0][1] - ends[1][0] @ ends[1][1]) / 2e-5 > 0.01


def test_orbit_of_a_point_of_smaller_rank_decides_nothing():
    network = ReLUNetwork.from_widths([2, 1, 2])
    theta = np.array([1.0, 2.0, 0.0, 0.0])
    recoverable, inclusion = view_of(network, theta, np.random.default_rng(0)).in_orbit
    assert (recoverable.verdict, inclusion.verdict) == ("fails", "undecided")
    assert "∂φ has the rank 2 here and 3 elsewhere" in inclusion.reason


@pytest.mark.parametrize(
    "network",
    [layers([2, 2, 1]), DeepLinear([2, 2, 2]), TwoLayerLinear(1, 1, 2), Attention(2, 1, 1)],
    ids=lambda network: type(network).__name__,
)
def test_hierarchy_at_zero(network):
    found = classify(network, np.zeros(network.dim))
    assert verdicts(found)[:5] == ("fails", *["holds"] * 4)  # nothing moves
    assert found.complete.verdict == "fails"


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


# Any architecture.


@pytest.mark.parametrize(
    "case", ["two layers 3, 3, 2 balanced", "two layers 2, 2, 2", "two layers 1, 1, 3"]
)
def test_an_architecture_with_a_lift_alone(case):
    (network, theta), wanted = TABLE[case][0](), TABLE[case][1]
    alone, point = bare(network, theta)
    found, own = classify(alone, point), classify(network, theta)
    assert verdicts(found)[:5] == wanted[:5]
    assert found.complete.verdict == "fails"  # it knows none
    assert found.n_laws.value == own.n_laws.value
    dimension = lie_algebra_dimension(alone, point).value
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


# ReLU networks go by their graph; the rules agree with brackets where both can be computed.


class Brackets(View):
    """A view that looks, whatever recoverability tells."""

    tells = False


@pytest.mark.parametrize("seed", range(8))
def test_rules_of_the_graph_agree_with_brackets(seed):
    network = random_network(seed) if seed else ReLUNetwork.diagonal(3, depth=3)
    theta = network.random_point(rng=seed)
    view = Brackets(network, theta, np.random.default_rng(0))
    by_brackets = [view.frobenius, view.complete, view.dimension]
    criteria = (frobenius, laws_complete, lie_algebra_dimension)
    by_graph = [criterion(network, theta) for criterion in criteria]
    for one, other in zip(by_brackets, by_graph, strict=True):
        assert one.verdict == other.verdict and other.tolerance == 0.0
    assert by_brackets[1].value == by_graph[1].value == 0
    assert by_brackets[2].value == by_graph[2].value
    assert commuting(network, theta).verdict == commuting(BarePaths(network), theta).verdict


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
