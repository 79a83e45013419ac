"""The rate that the laws of two linear layers certify."""

import autograd.numpy as anp
import numpy as np
import pytest

from liftflow.architectures import DeepLinear, TwoLayerLinear
from liftflow.errors import InputError, UndefinedError
from liftflow.flows import ParameterFlow, TrainingRule, compare, rate_certificate
from liftflow.losses import least_squares_loss, loss_from_function
from liftflow.losses.matrix import matrix_sensing_loss
from liftflow.manifolds import InvariantSet


def problem(n, m, r, rng):
    network = TwoLayerLinear(n, m, r)
    inputs = rng.standard_normal((20, m))
    targets = inputs @ rng.standard_normal((m, n)) + 0.1 * rng.standard_normal((20, n))
    return network, least_squares_loss(inputs, targets)


@pytest.mark.parametrize("rule", [None, TrainingRule([0.4, 1.7])])
@pytest.mark.parametrize(("n", "m", "r"), [(2, 1, 3), (2, 2, 5), (2, 1, 2), (1, 1, 4)])
def test_the_loss_stays_below_the_bound(n, m, r, rule, rng):
    network, loss = problem(n, m, r, rng)
    start = network.random_point(rng=rng)
    certificate = rate_certificate(network, start, loss, rule)
    run = ParameterFlow(network, loss, rule).integrate(start, (0.0, 3.0), rtol=1e-9, n_times=40)
    bound = certificate.bound(run.t)
    assert certificate.rate > 0
    assert np.all(run.loss <= bound * (1 + 1e-7))
    assert bound[-1] < bound[0]
    # Along the way no eigenvalue of UUᵀ ⊕ VVᵀ is below g.
    rates = TrainingRule([1.0, 1.0]).rates(network) if rule is None else rule.rates(network)
    for theta in run.theta[::13]:
        jacobian = network.lift_jacobian(theta)
        least = np.linalg.eigvalsh((jacobian * rates) @ jacobian.T)[0]
        assert least >= certificate.gap * (1 - 1e-9)
    # The largest eigenvalues instead of the least certify too much.
    (law,) = network.split_laws((rule or TrainingRule()).laws(network, start))
    too_much = 2 * loss.pl_constant * 8 * np.ptp(np.linalg.eigvalsh(law)) * np.max(rates) ** 2
    wrong = loss.minimum + (run.loss[0] - loss.minimum) * np.exp(-too_much * run.t)
    assert np.any(run.loss > wrong + 1e-9)


def test_the_constant_of_the_loss_is_that_of_its_gradient(rng):
    inputs, targets = rng.standard_normal((9, 2)), rng.standard_normal((9, 3))
    loss = least_squares_loss(inputs, targets)
    best = np.linalg.lstsq(inputs, targets, rcond=None)[0].T
    assert loss.minimum == pytest.approx(float(loss.value(best)))
    for _ in range(20):
        z = best + rng.standard_normal((3, 2))
        gradient = loss.gradient(z)
        assert np.sum(gradient**2) >= 2 * loss.pl_constant * (loss.value(z) - loss.minimum) * 0.999
    forms = rng.standard_normal((12, 2, 2))
    assert matrix_sensing_loss(forms, np.ones(12)).pl_constant > 0
    assert matrix_sensing_loss(forms[:3], np.ones(3)).pl_constant is None


def test_compare_reports_and_draws_it(rng):
    network, loss = problem(2, 1, 3, rng)
    start = np.random.default_rng(1).standard_normal(network.dim)
    hyperbolic = network.hyperbolic_point(0.8, 0)
    both = compare(InvariantSet(network, hyperbolic), loss, (0.0, 1.0), rtol=1e-6, n_times=9)
    rate = rate_certificate(network, hyperbolic, loss).rate
    assert both.summary()["certified_rate"] == rate
    assert "rate certified by the laws" in str(both)
    figure = both.plot()
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "bound by the laws" in labels
    figure.clear()
    unknown = loss_from_function(lambda z: anp.sum(z**2))
    assert compare(InvariantSet(network, hyperbolic), unknown, (0.0, 0.1)).certificate is None
    with pytest.raises(UndefinedError, match="pl_constant"):
        rate_certificate(network, start, unknown)
    with pytest.raises(UndefinedError, match="decay"):
        rate_certificate(network, start, loss, TrainingRule(weight_decay=0.1))
    narrow = TwoLayerLinear(2, 1, 1)
    with pytest.raises(UndefinedError, match="eigenvalues"):  # S > 0 and r < n
        rate_certificate(narrow, [2.0, 2.0, 0.1], loss)
    with pytest.raises(UndefinedError, match="TwoLayerLinear"):
        rate_certificate(DeepLinear([1, 1, 1, 2]), np.ones(4), loss)
    with pytest.raises(InputError, match="pl_constant"):
        loss_from_function(np.sum, pl_constant=-1.0)
