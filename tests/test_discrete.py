"""Discrete steps: they are the optimizers they say, and the laws drift at the order they should."""

import autograd.numpy as anp
import numpy as np
import pytest

from liftflow import InvariantSet, ParameterFlow, ReLUNetwork, compare, loss_from_function
from liftflow.architectures import DeepLinear
from liftflow.errors import FlowError, InputError
from liftflow.flows import Adam, GradientDescent, Trajectory, law_drift

TARGET = np.array([0.7, -0.4, 0.5, 0.2])
BOWL = loss_from_function(lambda z: anp.sum((anp.ravel(z) - TARGET) ** 2))
ARCHITECTURES = {
    "ReLU": lambda: ReLUNetwork.from_widths([2, 2, 1]),
    "linear": lambda: DeepLinear([2, 3, 2]),
}


def order(step_sizes, errors):
    return np.polyfit(np.log(step_sizes), np.log(errors), 1)[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_gradient_descent_follows_the_flow_at_first_order(name, momentum):
    architecture = ARCHITECTURES[name]()
    theta0 = architecture.random_point(rng=4)
    flow = ParameterFlow(architecture, BOWL).integrate(theta0, (0.0, 1.0), n_times=2)
    step_sizes, errors, drifts = [], [], []
    for n_steps in (100, 200, 400):
        step_size = (1.0 - momentum) / n_steps
        run = GradientDescent(architecture, BOWL, step_size, momentum).run(theta0, n_steps)
        assert run.t[-1] == pytest.approx(1.0)
        step_sizes.append(step_size)
        errors.append(np.linalg.norm(run.theta[-1] - flow.theta[-1]))
        drifts.append(law_drift(architecture, run).max())
    assert order(step_sizes, errors) == pytest.approx(1.0, abs=0.1)
    assert order(step_sizes, drifts) == pytest.approx(1.0, abs=0.1)


def test_one_step_changes_quadratic_laws_by_the_laws_of_the_gradient():
    network = DeepLinear([2, 3, 2])
    theta0 = network.random_point(rng=0)
    run = GradientDescent(network, BOWL, 0.1).run(theta0, 1)
    change = network.conservation_laws(run.theta[-1]) - network.conservation_laws(theta0)
    gradient = BOWL.parameter_gradient(theta0, network)
    np.testing.assert_allclose(change, 0.01 * network.conservation_laws(gradient), atol=1e-15)


def test_laws_drift_under_adam_however_small_the_steps():
    network = ReLUNetwork.from_widths([2, 2, 1])
    theta0 = network.random_point(rng=4)
    drifts = [
        law_drift(network, Adam(network, BOWL, 0.5 / n).run(theta0, n))[-1]
        for n in (250, 500, 1000)
    ]
    assert order([4.0, 2.0, 1.0], drifts) == pytest.approx(0.0, abs=0.15)
    plain = GradientDescent(network, BOWL, 0.5 / 1000).run(theta0, 1000)
    assert min(drifts) > 20 * law_drift(network, plain).max()


def test_adam_by_hand():
    """Two steps on one weight pair, the moments worked out from the definition."""
    network = ReLUNetwork.diagonal(1)
    loss = loss_from_function(lambda z: anp.sum(z))
    theta = np.array([0.5, 0.8])
    run = Adam(network, loss, 0.1, betas=(0.9, 0.99), epsilon=0.0).run(theta, 2)
    first = theta[::-1]  # the gradient of the product
    np.testing.assert_allclose(run.theta[1], theta - 0.1 * np.sign(first), rtol=1e-14)
    second = run.theta[1][::-1]
    mean = (0.9 * 0.1 * first + 0.1 * second) / 0.19
    square = (0.99 * 0.01 * first**2 + 0.01 * second**2) / 0.0199
    np.testing.assert_allclose(
        run.theta[2], run.theta[1] - 0.1 * mean / np.sqrt(square), rtol=1e-13
    )


def test_law_drift_of_steps_is_read_as_that_of_flows():
    network = ReLUNetwork.from_widths([2, 2, 1])
    theta0 = network.random_point(rng=4)
    comparison = compare(InvariantSet(network, theta0), BOWL, (0.0, 1.0), 1e-8, 1e-10)
    run = GradientDescent(network, BOWL, 0.01).run(theta0, 100, every=7)
    assert run.t[[0, 1, -1]] == pytest.approx([0.0, 0.07, 1.0])
    over_time = law_drift(network, run)
    assert over_time.shape == (16,)
    np.testing.assert_array_equal(over_time, comparison.law_drift_over_time(run))
    assert over_time[-1] > 1e3 * comparison.law_drift


def test_divergence_ends_the_run_and_is_said():
    network = ReLUNetwork.from_widths([2, 2, 1])
    run = GradientDescent(network, BOWL, 50.0).run(network.random_point(rng=4), 100)
    assert not run.success
    assert "try a smaller step_size" in run.message
    assert np.all(np.isfinite(run.theta))


def test_refusals():
    network = ReLUNetwork.from_widths([2, 2, 1])
    with pytest.raises(InputError, match="step_size must be positive"):
        GradientDescent(network, BOWL, 0.0)
    with pytest.raises(InputError, match="momentum must be at least 0 and below 1"):
        GradientDescent(network, BOWL, 0.1, momentum=1.0)
    with pytest.raises(InputError, match="a beta"):
        Adam(network, BOWL, 0.1, betas=(0.9, 1.0))
    endless = loss_from_function(lambda z: anp.sum(z) * np.inf)
    with pytest.raises(FlowError, match="cannot start"):
        GradientDescent(network, endless, 0.1).run(np.ones(6), 10)


def test_laws_that_leave_zero_drift_without_bound_and_those_that_stay_do_not():
    network = ReLUNetwork.diagonal(1)
    assert law_drift(network, np.zeros((2, 2))).tolist() == [0.0, 0.0]
    assert law_drift(network, [[0.0, 0.0], [1.0, 2.0]]).tolist() == [0.0, np.inf]


def test_losses_of_another_program_may_be_unknown():
    theta = np.outer(np.arange(1.0, 4.0), [0.5, 0.8])
    run = Trajectory.from_arrays(range(3), theta, [1.0, np.nan, 0.5])
    assert np.array_equal(run.loss, [1.0, np.nan, 0.5], equal_nan=True)
    wrong = [[1.0, np.inf, 0.5], [np.nan, 1.0], ["a"] * 3, [1.0, [2.0], 3.0]]
    masked = np.ma.array([1.0, np.nan, 0.5], mask=[True, False, False])
    for loss in (*wrong, masked):
        with pytest.raises(InputError):
            Trajectory.from_arrays(range(3), theta, loss)


def test_the_head_of_a_run_is_counted_from_its_start():
    run = Trajectory.from_arrays(range(3), np.ones((3, 2)))
    assert [len(run.head(count).t) for count in (0, 2, 9)] == [0, 2, 3]
    with pytest.raises(InputError, match="count"):
        run.head(-1)
