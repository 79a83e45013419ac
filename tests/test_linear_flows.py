"""Both flows of the linear families: they agree where the theory says so, and part where not."""

import json
from itertools import pairwise

import autograd.numpy as anp
import numpy as np
import pytest
from linear_cases import ATTENTION, DEEP, HYPERBOLIC, PRODUCTS, SCALAR, TWO_LAYERS, params
from typer.testing import CliRunner

from liftflow import InvariantSet, ParameterFlow, compare, loss_from_function
from liftflow.architectures import DeepLinear, LinearNeuralODE, TwoLayerLinear
from liftflow.cli import app
from liftflow.errors import NotIntrinsicError
from liftflow.metrics import intrinsic_cometric

RTOL = 1e-10
PRECISE = {"method": "DOP853", "rtol": RTOL, "atol": 1e-12, "n_times": 5}


def squares(target):
    return loss_from_function(lambda z: 0.5 * anp.sum((z - target) ** 2))


def nearby_target(architecture, theta0, rng):
    """Lift of a point of the invariant set a few tenths of the size of θ₀ away."""
    step = architecture.project_to_tangent(theta0, rng.standard_normal(theta0.shape))
    step *= 0.4 * np.linalg.norm(theta0) / np.linalg.norm(step)
    return architecture.lift(theta0 + step)


def time_of_drop(architecture, loss, theta0, factor):
    """Time at which the parameter flow has brought the loss down by a factor."""
    t_end = 1.0
    while t_end < 2.0**12:
        run = ParameterFlow(architecture, loss).integrate(theta0, (0.0, t_end), method="LSODA")
        if run.loss[-1] * factor <= run.loss[0]:
            return float(run.t[np.argmax(run.loss * factor <= run.loss[0])])
        t_end *= 4
    raise AssertionError(f"the loss does not fall by {factor}: {run.loss[0]} to {run.loss[-1]}")


@pytest.mark.parametrize(
    "case", params([*TWO_LAYERS, *DEEP, *ATTENTION, *HYPERBOLIC, *SCALAR, *PRODUCTS], quick=6)
)
def test_both_flows_agree_until_the_loss_has_dropped_tenfold(case, rng):
    architecture, theta0 = case.architecture, case.theta0
    loss = squares(nearby_target(architecture, theta0, rng))
    t_end = time_of_drop(architecture, loss, theta0, 10.0)
    run = compare(InvariantSet(architecture, theta0), loss, (0.0, t_end), **PRECISE)
    assert run.success
    assert run.parameter.loss[-1] <= 0.1 * run.parameter.loss[0]
    assert run.max_deviation <= 100 * RTOL
    assert run.law_drift <= 100 * RTOL


@pytest.mark.parametrize("case", params([*TWO_LAYERS[:6], *DEEP[1::6], *ATTENTION[1:3]]))
def test_other_laws_give_another_flow(case, rng):
    architecture, theta0 = case.architecture, case.theta0
    loss = squares(nearby_target(architecture, theta0, rng))
    t_end = time_of_drop(architecture, loss, theta0, 2.0)
    start = InvariantSet(architecture, theta0)
    run = compare(start, loss, (0.0, t_end), control=True, **PRECISE)
    assert run.max_deviation <= 100 * RTOL
    assert run.control_deviation >= 1e-3


@pytest.mark.parametrize(
    ("shape", "lam"),
    [((3, 3, 3), None), ((4, 4, 2), None), ((3, 2, 2), None), ((5, 2, 3), 1.3)],
)
def test_a_forced_closed_form_parts_from_the_flow(shape, lam, rng):
    network = TwoLayerLinear(*shape)
    theta0 = network.random_point(rng=3) if lam is None else network.balanced_point(lam, 3)
    with pytest.raises(NotIntrinsicError, match=r"spectrum|singular values"):
        intrinsic_cometric(network, theta0)
    forced = intrinsic_cometric(network, theta0, tolerance=np.inf)
    loss = squares(nearby_target(network, theta0, rng))
    t_end = time_of_drop(network, loss, theta0, 10.0)
    run = compare(InvariantSet(network, theta0), loss, (0.0, t_end), cometric=forced, **PRECISE)
    assert run.success
    assert run.max_deviation >= 1e-2


@pytest.mark.parametrize("lam", [0.0, 0.8])
@pytest.mark.slow
def test_the_neural_ode_follows_its_closed_form_to_first_order_in_depth(lam):
    target = np.array([[1.2, 0.3, 0.0], [-0.2, 0.9, 0.4], [0.1, -0.3, 1.1]])
    counts, deviations = [8, 16, 32, 64], []
    for count in counts:
        network = LinearNeuralODE(3, count)
        start = InvariantSet(network, network.balanced_point(lam, 5))
        run = compare(start, squares(target), (0.0, 1.0), method="DOP853", rtol=1e-9, n_times=5)
        assert run.parameter.loss[-1] < 0.7 * run.parameter.loss[0]
        deviations.append(run.max_deviation)
    order = -np.polyfit(np.log(counts), np.log(deviations), 1)[0]
    assert abs(order - 1.0) <= 0.1  # of the rectangle rule
    assert deviations[-1] <= 0.05


@pytest.mark.slow
def test_the_neural_ode_off_balance_does_not_follow_it():
    """The deviation of a generic θ₀ does not fall with the depth: it is not the grid's."""
    target = np.array([[1.2, 0.3, 0.0], [-0.2, 0.9, 0.4], [0.1, -0.3, 1.1]])
    deviations = []
    for count in (16, 64):
        network = LinearNeuralODE(3, count)
        theta0 = 2.0 * network.random_point(rng=1)
        forced = intrinsic_cometric(network, theta0, tolerance=np.inf)
        run = compare(
            InvariantSet(network, theta0),
            squares(target),
            (0.0, 1.0),
            method="DOP853",
            cometric=forced,
            n_times=5,
        )
        deviations.append(run.max_deviation)
    assert min(deviations) >= 1e-2
    assert deviations[1] >= 0.7 * deviations[0]


# The command line.


def run_compare(*words):
    return CliRunner().invoke(app, ["compare", "--no-progress", *words])


@pytest.mark.parametrize(
    "words",
    [
        ["--family", "two-layer", "--lam", "0.5", "--data", "diabetes", "--widths", "10-1-1"],
        ["--family", "two-layer", "--data", "digits", "--t-end", "0.2", "--lam", "0.3"],
        ["--family", "two-layer", "--task", "sensing", "--lam", "-0.4", "--widths", "4-3-5"],
        ["--family", "deep", "--task", "completion", "--widths", "6-3-3-6", "--lam", "0"],
        ["--family", "attention", "--lam", "0.2,-0.1", "--widths", "8-2-1", "--t-end", "0.5"],
    ],
    ids=lambda words: " ".join(words),
)
@pytest.mark.slow
def test_the_command_compares_every_family(words, tmp_path):
    result = run_compare(*words, "--control", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["max_deviation"] <= 1e-4
    assert summary["control_deviation"] >= 10 * summary["max_deviation"]
    assert summary["loss_intrinsic"] == pytest.approx(summary["loss_parameter"], rel=1e-3)
    assert (tmp_path / "comparison.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_command_on_a_neural_ode(tmp_path):
    deviations = []
    for widths in ("3-10", "3-40"):
        words = ["--family", "ode", "--widths", widths, "--t-end", "1", "--lam", "0.5"]
        result = run_compare(*words, "--out", str(tmp_path))
        assert result.exit_code == 0, result.output
        deviations.append(json.loads((tmp_path / "summary.json").read_text())["max_deviation"])
    assert deviations[1] <= 0.4 * deviations[0]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--family", "linear"], "family must be one of relu, two-layer"),
        (["--family", "ode", "--data", "iris"], "the family ode does not read data, got 'iris'"),
        (["--family", "ode", "--control"], "other laws give no negative control"),
        (["--family", "ode", "--task", "regression"], "use the task sensing or completion"),
        (["--family", "ode", "--widths", "4"], "widths must be size-steps, like 4-40, got '4'"),
        (["--family", "deep", "--task", "sensing", "--data", "iris"], "does not read data"),
        (["--family", "deep", "--lam", "x"], "λ must be numbers joined by ',', got 'x'"),
        (["--family", "deep", "--lam", "1,2,3"], "one λ per hidden layer, 1, or one for all"),
        (["--family", "deep", "--task", "sense"], "task must be one of regression, sensing"),
        (["--family", "two-layer", "--widths", "4-3-3-2", "--task", "sensing"], "use deep"),
        (["--family", "two-layer", "--lam", "1", "--widths", "10-3-1"], "no relaxed balanced"),
        (["--family", "attention", "--widths", "6-2-2"], "d_model is 8; got widths '6-2-2'"),
        (["--family", "attention", "--bias"], "the family attention does not read bias"),
        (["--lam", "1"], "the family relu does not read lams"),
    ],
)
def test_the_command_refuses(words, text):
    result = run_compare(*words)
    assert result.exit_code == 2
    assert text in result.output


def test_balanced_layers_stay_balanced_along_the_flow(rng):
    """Known answer: singular values of all layers of a balanced network stay equal."""
    network = DeepLinear([3, 3, 3])
    theta0 = network.balanced_point(0.0, 1)
    loss = squares(nearby_target(network, theta0, rng))
    run = compare(InvariantSet(network, theta0), loss, (0.0, 2.0), **PRECISE)
    for theta in run.parameter.theta:
        singular = [np.linalg.svd(layer, compute_uv=False) for layer in network.layers(theta)]
        for one, other in pairwise(singular):
            np.testing.assert_allclose(one, other, rtol=1e-8)
