"""Learning rates and weight decay: laws, metric and both flows, against brute force."""

from itertools import product

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from cases import convolutional
from tensors import RankOneTensors

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
    NotIntrinsicError,
    ShapeError,
    UndefinedError,
)
from liftflow.flows import (
    IntrinsicFlow,
    ParameterFlow,
    TrainingRule,
    compare,
    law_drift,
    sweep,
)
from liftflow.losses import NetworkLoss, loss_from_function
from liftflow.manifolds import InvariantSet
from liftflow.metrics import oracle_jacobian

DECAY, RTOL = 0.6, 1e-6


def residual():
    return ReLUNetwork.residual([2, 3, 2, 2], [(0, 2)], bias=True)


def positive(network):
    """A start and a teacher whose units are all active: no kink is crossed."""
    rng = np.random.default_rng(1)
    inputs = rng.uniform(0.2, 1.0, (12, len(network.inputs)))
    teacher, start = np.abs(network.random_point(2, rng=2))
    return start, NetworkLoss(network, inputs, network.forward(teacher, inputs))


def matrices(architecture, lam):
    """A relaxed balanced start, and a target on this side of the matrices of lower rank."""
    start = architecture.balanced_point(lam, 0)
    noise = np.random.default_rng(3).standard_normal(architecture.lifted_shape)
    target = 1.5 * architecture.lift(start) + 0.3 * noise
    return start, loss_from_function(lambda z: 0.5 * anp.sum((z - target) ** 2))


FAMILIES = {
    "residual": lambda: (a := residual(), *positive(a)),
    "convolutional": lambda: (a := convolutional(), *positive(a)),
    "two layers": lambda: (a := TwoLayerLinear(3, 2, 2), *matrices(a, 0.9)),
    "deep": lambda: (a := DeepLinear([2, 2, 2, 2]), *matrices(a, (1.5, -1.2))),
    "attention": lambda: (a := Attention(2, 2, 1), *matrices(a, 1.1)),
}
SLOW_FAMILIES = "residual", "convolutional", "deep"
KINDS = {"rates": (True, 0.0), "decay": (False, DECAY), "both": (True, DECAY)}


def some_rates(architecture):
    """Rates of every parameter, as unequal as the family allows."""
    if isinstance(architecture, ReLUNetwork):
        return np.random.default_rng(5).uniform(0.2, 2.5, architecture.dim)
    parts = getattr(architecture, "factors", (architecture,))
    sizes = [np.prod(shape) for part in parts for shape in part.block_shapes]
    return np.repeat(np.geomspace(0.3, 2.0, len(sizes)), sizes)


def case(family, kind):
    architecture, start, loss = FAMILIES[family]()
    has_rates, decay = KINDS[kind]
    rates = some_rates(architecture) if has_rates else None
    rule = TrainingRule(rates, decay)
    return architecture, np.sqrt(rule.rates(architecture)) * start, loss, rule


# At once all families under rates and decay, and all kinds of rules for the two quickest.
CASES = [
    pytest.param(
        *case, marks=pytest.mark.slow if case[1] != "both" and case[0] in SLOW_FAMILIES else ()
    )
    for case in product(FAMILIES, KINDS)
]


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_flows_agree_under_a_rule_and_controls_do_not(family, kind):
    architecture, start, loss, rule = case(family, kind)
    settings = {"rtol": RTOL, "atol": RTOL / 100, "method": "DOP853", "n_times": 4}
    both = compare(
        InvariantSet(architecture, start), loss, (0, 1.5), rule=rule, control=True, **settings
    )
    assert both.success
    assert both.max_deviation <= 100 * RTOL
    assert len(both._controls) == (2 if kind == "both" else 1)
    assert both.control_deviation > 1e-2
    assert both.law_drift <= 10 * RTOL
    if kind != "decay":  # without the rates, the laws drift; and so they do without the decay
        assert law_drift(architecture, both.parameter).max() > 1e-2
    if kind != "rates":
        without = TrainingRule(rule.learning_rates)
        assert law_drift(architecture, both.parameter, without).max() > 1e-2


@pytest.mark.parametrize(
    ("family", "kind"),
    [*product([*FAMILIES, "tensors", "product"], KINDS), ("neural ODE", "rates")],
)
def test_the_metric_is_that_of_brute_force(family, kind):
    has_rates, decay = KINDS[kind]
    if family == "tensors":
        architecture = RankOneTensors(2, 1, 3)
        start, given = np.array([0.4, -0.9, 1.3, 0.7, 0.2, -0.5]), np.linspace(0.3, 2.0, 6)
    elif family == "product":
        network = ReLUNetwork.from_widths([2, 3, 2])
        architecture = ProductArchitecture(network, TwoLayerLinear(2, 3, 2))
        start = np.append(network.random_point(rng=0), TwoLayerLinear(2, 3, 2).balanced_point(1, 0))
        given = np.append(np.linspace(0.3, 2.0, 12), np.repeat([0.5, 1.7], [4, 6]))
    elif family == "neural ODE":
        architecture, given = LinearNeuralODE(2, 300), 0.6
        start = architecture.balanced_point(0.4, 0)
    else:
        architecture, start, _ = FAMILIES[family]()
        given = some_rates(architecture)
    rule = TrainingRule(given if has_rates else None, decay)
    rates = rule.rates(architecture)
    plain = family == "neural ODE"  # whose laws are those of θ, as all rates are one
    start = start if plain else np.sqrt(rates) * start
    t = 0.8 if decay else 0.0
    cometric = rule.cometric(architecture, start, t)
    later = np.exp(-decay * t) * start
    z = architecture.lift(later)
    form = np.random.default_rng(0).standard_normal(architecture.lifted_shape)
    jacobian = oracle_jacobian(architecture, later)
    exact = jacobian @ (rates * (jacobian.T @ form.ravel()))
    found = np.ravel(cometric.apply(z, form, near=later))
    tolerance = 4e-3 if plain else 1e-11  # of the limit of infinite depth
    size = np.max(np.abs(exact))
    assert np.max(np.abs(found - exact)) <= tolerance * size
    wrong = jacobian @ (jacobian.T @ form.ravel())  # without the rates
    if not has_rates:  # at laws that did not fade
        early = TrainingRule(None).cometric(architecture, start)
        wrong = np.ravel(early.apply(z, form, near=later))
    assert np.max(np.abs(wrong - exact)) > 1e-2 * size
    theta = cometric.point(z, near=later)
    np.testing.assert_allclose(architecture.lift(theta), z, atol=1e-9)
    expected = rule.laws_at(architecture, start, t)
    np.testing.assert_allclose(rule.laws(architecture, theta), expected, atol=1e-8)
    lifted = cometric.horizontal_lift(z, cometric.apply(z, form), theta=later)
    np.testing.assert_allclose(
        lifted, rates * (jacobian.T @ form.ravel()), atol=2e-3 if plain else 1e-9
    )


def test_two_weights_by_hand():
    """θ = (u, v), z = uv: h = u²/a − v²/b fades as e^{−2λt}, K = a v² + b u²."""
    network, (a, b), (u, v) = TwoLayerLinear(1, 1, 1), (4.0, 0.25), (1.5, -0.7)
    rule = TrainingRule([a, b], 0.3)
    law = u**2 / a - v**2 / b
    np.testing.assert_allclose(rule.laws(network, [u, v]), [law], rtol=1e-15)
    np.testing.assert_allclose(
        rule.laws_at(network, [u, v], [0.0, 2.0]),
        [[law], [law * np.exp(-1.2)]],
        rtol=1e-14,
    )
    k = rule.cometric(network, [u, v]).apply(np.array([[u * v]]), np.array([[1.0]]))
    assert k.item() == pytest.approx(a * v**2 + b * u**2, rel=1e-14)
    faded, z = law * np.exp(-1.2), 0.9  # K² = a b (h² a b + 4 z²), of x = u²/a, y = v²/b
    k = rule.cometric(network, [u, v], 2.0).apply(np.array([[z]]), np.array([[1.0]]))
    assert k.item() == pytest.approx(np.sqrt(a * b) * np.sqrt(a * b * faded**2 + 4 * z**2))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rule_that_changes_nothing_changes_no_bit(family):
    architecture, start, loss = FAMILIES[family]()
    space = InvariantSet(architecture, start)
    settings = {"rtol": 1e-5, "n_times": 5}
    plain = compare(space, loss, (0, 0.5), **settings)
    rules = [TrainingRule(1.0, 0.0), TrainingRule([1.0] * len(architecture.block_shapes))]
    for rule in rules:
        assert rule.is_plain
        same = compare(space, loss, (0, 0.5), rule=rule, **settings)
        for name in ("parameter", "intrinsic"):
            one, other = getattr(plain, name), getattr(same, name)
            assert one.n_evaluations == other.n_evaluations
            for part in ("t", "y", "theta", "loss"):
                np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
        np.testing.assert_array_equal(plain.deviation, same.deviation)


def test_rates_come_in_many_forms():
    network = TwoLayerLinear(2, 1, 1)  # blocks of 2 and 1
    wanted = [0.5, 0.5, 2.0]
    forms = [[0.5, 2.0], (0.5, [[2.0]]), {1: 2.0, 0: [[0.5], [0.5]]}, wanted, np.array(wanted)]
    for given in forms:
        np.testing.assert_array_equal(TrainingRule(given).rates(network), wanted)
    np.testing.assert_array_equal(TrainingRule(3).rates(network), [3.0] * 3)
    np.testing.assert_array_equal(TrainingRule().rates(network), [1.0] * 3)
    assert repr(TrainingRule([0.5, 2.0], 0.1)) == "TrainingRule(rates 0.5 to 2, decay 0.1)"
    assert str(TrainingRule()) == "plain flow"
    for given in ([1.0] * 4, np.ones((3, 1)), ([1.0, 2.0], 1.0)):
        with pytest.raises(ShapeError, match="block"):
            TrainingRule(given).rates(network)
    with pytest.raises(InputError, match="keys 0 to 1"):
        TrainingRule({0: 1.0}).rates(network)
    for given in (0.0, [1.0, -2.0], {0: 0.0}, (np.zeros((2, 1)), 1.0)):
        with pytest.raises(InputError, match="positive"):
            TrainingRule(given)
    for decay in (-0.1, np.nan, np.inf, "much"):
        with pytest.raises(InputError):
            TrainingRule(weight_decay=decay)


def test_what_cannot_be_had_says_why():
    network = TwoLayerLinear(3, 2, 2)
    start, loss = matrices(network, 0.5)
    space = InvariantSet(network, start)
    uneven = TrainingRule(np.linspace(0.5, 2.0, network.dim))
    with pytest.raises(NotIntrinsicError, match="one rate per block"):
        compare(space, loss, (0, 1.0), rule=uneven)
    ParameterFlow(network, loss, rule=uneven).integrate(start, (0, 0.1))  # needs no laws
    ode = LinearNeuralODE(2, 40)
    path, loss = matrices(ode, 0.3)
    for given in (TrainingRule(None, 0.1), TrainingRule(2.0, 0.1)):
        with pytest.raises(NotIntrinsicError, match="homogeneous"):
            IntrinsicFlow(InvariantSet(ode, path), loss, rule=given)
    with pytest.raises(NotIntrinsicError, match="not relaxed balanced"):
        TrainingRule([1.0, 3.0]).cometric(network, start)  # balanced, but θ/√η is not
    rated = TrainingRule([1.0, 3.0]).cometric(network, start * np.sqrt(np.repeat([1, 3], [6, 4])))
    with pytest.raises(UndefinedError, match="other units"):
        _ = rated.horizontal_spaces


def test_no_control_that_is_the_flow_itself():
    network, loss = ReLUNetwork.diagonal(2), loss_from_function(lambda z: anp.sum((z - 1.0) ** 2))
    balanced, span = InvariantSet(network, [0.5, 0.8, 0.5, -0.8]), (0, 0.1)
    with pytest.raises(ArchitectureError, match="laws vanish"):
        compare(balanced, loss, span, rule=TrainingRule(weight_decay=DECAY), control=True)
    rated = TrainingRule([1.0, 3.0, 2.0, 2.0], DECAY)  # whose laws are those of θ/√η
    assert len(compare(balanced, loss, span, rule=rated, control=True)._controls) == 2


def test_rows_of_the_first_and_columns_of_the_last_layer_may_have_rates_of_their_own():
    """Rates of entry (i, k) of U that depend on i alone leave the symmetry of the k untouched."""
    network = TwoLayerLinear(3, 2, 2)
    own = np.array([0.4, 1.0, 2.5])
    rule = TrainingRule((np.repeat(own[:, None], 2, 1), 0.7))
    start, loss = matrices(network, 0.5)
    start = start * np.sqrt(rule.rates(network))
    both = compare(InvariantSet(network, start), loss, (0, 1.0), rule=rule, rtol=1e-6)
    assert both.max_deviation < 1e-4


def test_a_run_with_decay_goes_on_where_it_stopped(tmp_path):
    architecture, start, loss, rule = case("convolutional", "both")
    flow = IntrinsicFlow(InvariantSet(architecture, start), loss, rule=rule)
    times = np.linspace(0.0, 1.0, 5)
    half = flow.integrate(None, (0.0, 0.5), rtol=1e-6, t_eval=times[:3])
    whole = flow.integrate(None, (0.0, 1.0), rtol=1e-6, t_eval=times)
    again = flow.integrate(None, (0.0, 1.0), rtol=1e-6, t_eval=times, resume=half)
    np.testing.assert_allclose(again.theta, whole.theta, rtol=1e-5)
    np.testing.assert_array_equal(again.theta[:3], half.theta)
    other = IntrinsicFlow(flow.invariant_set, loss, rule=TrainingRule(rule.learning_rates, 0.5))
    with pytest.raises(InputError, match="another metric"):
        other.integrate(None, (0.0, 1.0), rtol=1e-6, t_eval=times, resume=half)


def test_a_sweep_takes_a_rule():
    network = ReLUNetwork.diagonal(2)
    target = np.array([1.0, -0.5])

    def make_case(seed):
        loss = loss_from_function(lambda z: anp.sum((z - target) ** 2))
        return InvariantSet(network, network.random_point(rng=seed)), loss

    rule = TrainingRule([0.5, 2.0], 0.2)
    runs = sweep(make_case, range(2), (0.0, 1.0), rule=rule, control=True, n_times=5, rtol=1e-8)
    frame = runs.frame()
    assert frame["max_deviation"].max() < 1e-6
    assert frame["control_deviation"].min() > 1e-3
    assert set(frame["rule"]) == {"rates 0.5 to 2, decay 0.2"}


def test_laws_are_differentiable():
    network = TwoLayerLinear(2, 1, 1)
    rule = TrainingRule([0.5, 2.0])
    slope = autograd.grad(lambda theta: rule.laws(network, theta)[0])(np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(slope, [4.0, 8.0, -3.0])
