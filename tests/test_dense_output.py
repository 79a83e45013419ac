"""Kept times come from the interpolants of the solvers, and never from their steps."""

import inspect

import numpy as np
import pytest
import scipy.integrate
from small_networks import crossing_problem
from test_flows import problem
from typer.testing import CliRunner

from liftflow import IntrinsicFlow, InvariantSet, ParameterFlow, ReLUNetwork, compare
from liftflow.cli import app
from liftflow.flows import Settings
from liftflow.flows.settings import METHODS
from liftflow.losses import loss_from_function

RTOL = 1e-6
SMOOTH = 10  # tolerances by which an interpolant may err, as the docstring of Settings says
FLOWS = [("parameter", method) for method in METHODS]
FLOWS += [(kind, method) for kind in ("basis", "full") for method in ("RK45", "DOP853")]


def integrate(kind, name, rtol=RTOL, t_end=1.0, **settings):
    start, loss = problem(name)
    if kind == "parameter":
        flow = ParameterFlow(start.architecture, loss)
        return flow.integrate(start.theta0, (0.0, t_end), rtol=rtol, **settings)
    return IntrinsicFlow(start, loss, kind).integrate(t_span=(0.0, t_end), rtol=rtol, **settings)


def recording(method):
    """A solver of scipy that notes the ends of its steps."""
    steps = []

    class Recording(getattr(scipy.integrate, method)):
        def step(self):
            complaint = super().step()
            steps.append((self.t, self.y.copy()))
            return complaint

    return Recording, steps


SLOW = {("full", "DOP853")}  # beside it full-RK45 and basis-DOP853


@pytest.mark.parametrize(
    ("kind", "method"),
    [pytest.param(*flow, marks=pytest.mark.slow if flow in SLOW else ()) for flow in FLOWS],
)
def test_kept_times_decide_nothing(kind, method):
    few, many = (integrate(kind, "dag", 1e-4, n_times=n, method=method) for n in (2, 101))
    assert many.t.size == 101
    steps = few.checkpoint.n_steps
    assert many.checkpoint.n_steps == steps
    np.testing.assert_array_equal(many.chart_times, few.chart_times)
    # DOP853 has an interpolant of three more stages.
    more = 3 * steps if method == "DOP853" else 0
    assert few.n_evaluations <= many.n_evaluations <= few.n_evaluations + more
    end, same = many.checkpoint.coordinates, few.checkpoint.coordinates
    np.testing.assert_array_equal(end, same)
    control = integrate(kind, "dag", 1e-4, n_times=2, method=method, max_step=1 / 50)
    assert control.checkpoint.n_steps > steps


@pytest.mark.parametrize("method", METHODS)
def test_exact_at_steps_and_within_ten_tolerances_between(method):
    """Of z = (u₁v₁, u₂v₂) with f = |z − 1|²/2, for half a dozen units of time."""
    network, theta0 = ReLUNetwork.diagonal(2), np.array([0.5, 0.6, 0.7, 0.8])
    loss = loss_from_function(lambda z: 0.5 * ((z[..., 0] - 1.0) ** 2 + (z[..., 1] - 1.0) ** 2))
    flow = ParameterFlow(network, loss)
    solver, steps = recording(method)
    settings = {"method": solver, "rtol": RTOL, "atol": RTOL / 100}
    flow.integrate(theta0, (0.0, 6.0), n_times=2, **settings)
    ends = np.array([0.0, *(t for t, _ in steps)])
    at_ends = np.array([theta0, *(theta for _, theta in steps)])
    kept = flow.integrate(theta0, (0.0, 6.0), t_eval=ends, **settings)
    np.testing.assert_array_equal(kept.theta, at_ends)  # to the bit

    def velocity(t, theta):
        u, v = theta[:2], theta[2:]
        return np.concatenate([(1 - u * v) * v, (1 - u * v) * u])

    assert np.allclose(velocity(0.0, theta0), -loss.parameter_gradient(theta0, network))
    inside = ends[:-1, None] + np.diff(ends)[:, None] * np.array([0.2, 0.4, 0.6, 0.8])
    run = flow.integrate(theta0, (0.0, 6.0), t_eval=inside.ravel(), **settings)
    scale = RTOL / 100 + RTOL * np.abs(at_ends[:-1])
    errors, straight = [], []
    for i, times in enumerate(inside):
        own = run.theta.reshape(*inside.shape, 4)[i]
        span = ends[i : i + 2]
        truth = scipy.integrate.solve_ivp(
            velocity, span, at_ends[i], "DOP853", times, rtol=1e-13, atol=1e-15
        ).y.T
        line = at_ends[i] + (times - span[0])[:, None] / np.diff(span) * np.diff(
            at_ends[i : i + 2], axis=0
        )
        errors.append(np.sqrt(np.mean(((own - truth) / scale[i]) ** 2, axis=-1)))
        straight.append(np.sqrt(np.mean(((line - truth) / scale[i]) ** 2, axis=-1)))
    assert np.max(errors) <= SMOOTH
    assert np.max(straight) > 10 * SMOOTH  # the control


@pytest.mark.parametrize("kind", ["basis", "full"])
@pytest.mark.parametrize("seed", [14, 68])
def test_what_is_kept_inside_of_a_step_has_the_right_signs(kind, seed):
    """Weights cross zero inside of long steps: θ is that of the parameter flow all along."""
    network, theta0, loss = crossing_problem(seed)
    settings = {"method": "DOP853", "rtol": 1e-4, "n_times": 101}
    truth = ParameterFlow(network, loss).integrate(theta0, (0.0, 1.5), **settings)
    assert np.any(truth.theta[0] * truth.theta[-1] < 0)
    start = InvariantSet(network, theta0)
    run = IntrinsicFlow(start, loss, kind).integrate(t_span=(0.0, 1.5), **settings)
    assert run.checkpoint.n_steps < 20
    assert np.max(np.abs(run.theta - truth.theta)) <= 0.05  # a wrong sign is twice a weight
    laws = network.conservation_laws(run.theta)
    np.testing.assert_allclose(laws, np.broadcast_to(start.laws0, laws.shape), atol=1e-9)


def test_theta_inside_of_a_step_is_known_as_well_as_z_tells_it():
    """While the one weight into a node is 0.001, z hardly tells those out of it.

    z is what scipy's solver makes of z' = −∂φ∂φᵀ∇f, written down without ours: off by 11
    tolerances. What θ is off by, 1.26 at one kept time, is that over the least singular value of
    ∂(φ, h); a wrong sign would be far more.
    """
    network, theta0, loss = crossing_problem(14)
    span, rtol, times = (0.0, 1.5), 1e-3, np.linspace(0.0, 1.5, 101)
    truth = scipy.integrate.solve_ivp(
        lambda t, theta: -loss.parameter_gradient(theta, network),
        span,
        theta0,
        "DOP853",
        dense_output=True,
        rtol=1e-10,
        atol=1e-13,
    ).sol
    laws = network.conservation_laws(theta0)

    def together(theta):
        return np.vstack([network.lift_jacobian(theta), network.conservation_laws_jacobian(theta)])

    def velocity(t, z):
        theta = truth(t)  # has the signs
        for _ in range(8):
            gap = np.append(network.lift(theta) - z, network.conservation_laws(theta) - laws)
            theta = theta - np.linalg.solve(together(theta), gap)
        jacobian = network.lift_jacobian(theta)
        return -jacobian @ jacobian.T @ loss.gradient(z)

    plain = scipy.integrate.solve_ivp(
        velocity, span, network.lift(theta0), "DOP853", times, rtol=rtol, atol=rtol / 1000
    )
    flow = IntrinsicFlow(InvariantSet(network, theta0), loss, "full")
    run = flow.integrate(t_span=span, method="DOP853", rtol=rtol, n_times=101)
    np.testing.assert_allclose(run.y, plain.y.T, atol=1e-6)
    exact = truth(times).T
    gaps = np.linalg.norm(network.lift(run.theta) - network.lift(exact), axis=-1)
    least = [np.linalg.svd(together(theta), compute_uv=False)[-1] for theta in exact]
    errors, known = np.linalg.norm(run.theta - exact, axis=-1), gaps / least
    assert np.all(errors <= 1.5 * known + 1e-9)
    assert np.sum(errors > 0.1) == 1
    turned, of_node = run.theta[50].copy(), network.channels.incidence.toarray()[:, 0] != 0
    turned[of_node] *= -1.0  # the same z
    assert np.linalg.norm(turned - exact[50]) > 10 * known[50]


def test_the_defaults_are_the_same_everywhere():
    assert (Settings((0.0, 1.0)).rtol, Settings((0.0, 1.0)).atol) == (1e-6, 1e-6 / 1000)
    assert Settings((0.0, 1.0), rtol=1e-4).atol == 1e-4 / 1000
    assert Settings((0.0, 1.0), rtol=1e-4, atol=1e-9).atol == 1e-9
    assert inspect.signature(compare).parameters["rtol"].default == 1e-6
    assert "[default: 1e-06]" in CliRunner().invoke(app, ["compare", "--help"]).output
