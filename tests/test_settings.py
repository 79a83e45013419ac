"""What may be asked of a flow, what is refused by name, and what is bounded."""

import dataclasses

import autograd.numpy as anp
import numpy as np
import pytest
import scipy.integrate
from scipy.integrate import RK45
from test_checkpoint import Fails

from liftflow import IntrinsicFlow, InvariantSet, ParameterFlow, ReLUNetwork, compare
from liftflow.architectures import Architecture
from liftflow.errors import InputError, NotDifferentiableError, ShapeError
from liftflow.flows import Adam, Settings
from liftflow.losses import loss_from_function
from liftflow.testing import check_architecture

NETWORK = ReLUNetwork.diagonal(2)
THETA0 = np.array([0.5, 0.6, 0.7, 0.8])
BOWL = loss_from_function(lambda z: anp.sum((z - 1.0) ** 2))


def flow(**settings):
    return ParameterFlow(NETWORK, BOWL).integrate(THETA0, (0.0, 1.0), **settings)


# Options of the solvers.


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("events", "look for events in the trajectory"),
        ("dense_output", "n_times times, or at those of t_eval"),
        ("min_step", "the tolerances decide"),
        ("vectorized", "that of one state"),
        ("args", "holds its own data"),
        ("jac", "takes? (its|their) differences"),
        ("lband", "takes? (its|their) differences"),
        ("rtoll", "no flow has one of that name. Settings are rtol, atol"),
    ],
)
def test_options_that_a_flow_does_not_take_are_refused_by_name(name, reason):
    start = InvariantSet(NETWORK, THETA0)
    for call in (
        flow,
        lambda **s: IntrinsicFlow(start, BOWL).integrate(**s),
        lambda **s: compare(start, BOWL, (0.0, 1.0), **s),
    ):
        with pytest.raises(InputError, match=f"{name} is no setting of a flow: .*{reason}"):
            call(**{name: None})


def test_the_longest_and_the_first_step_are_passed_on():
    """As many evaluations as scipy makes with the same options."""

    def velocity(t, theta):
        return -np.asarray(BOWL.parameter_gradient(theta, NETWORK))

    free = flow(n_times=2, rtol=1e-4).n_evaluations
    for options in ({"max_step": 0.01}, {"first_step": 1e-6}, {"max_step": 0.1, "first_step": 0.1}):
        own = flow(n_times=2, rtol=1e-4, **options)
        wanted = scipy.integrate.solve_ivp(
            velocity, (0.0, 1.0), THETA0, rtol=1e-4, atol=1e-7, **options
        )
        np.testing.assert_array_equal(own.theta[-1], wanted.y[:, -1])
        assert own.success
        assert own.checkpoint.n_steps == wanted.t.size - 1
        assert own.n_evaluations != free
    same = compare(InvariantSet(NETWORK, THETA0), BOWL, (0.0, 1.0), n_times=2, max_step=0.01)
    assert same.parameter.checkpoint.n_steps >= 100


@pytest.mark.parametrize("name", ["rtol", "atol", "max_step", "first_step", "memory_limit"])
@pytest.mark.parametrize("value", [0, -1, np.nan, "x", [1.0, 2.0]])
def test_numbers_that_are_not_positive_are_refused(name, value):
    with pytest.raises(InputError, match=name):
        flow(**{name: value})


def test_progress_is_a_flag():
    with pytest.raises(InputError, match="progress must be True, False or None, got 'yes'"):
        flow(progress="yes")
    with pytest.raises(InputError, match="progress must be True, False or None"):
        flow(progress=np.ones(2))


def test_a_run_is_resumed_only_with_the_same_steps():
    part = ParameterFlow(NETWORK, Fails(BOWL, 30, KeyboardInterrupt())).integrate(
        THETA0, (0.0, 1.0), max_step=0.01
    )
    whole = flow(max_step=0.01)
    np.testing.assert_array_equal(flow(max_step=0.01, resume=part).theta, whole.theta)
    with pytest.raises(InputError, match=r"a run with max_step = 0.01, got max_step = 0.02"):
        flow(max_step=0.02, resume=part)


# Memory and time.


def test_all_that_is_kept_fits_into_the_memory_allowed():
    """A thousand million times are not even listed."""
    limit = 8 * (4 + 2) * 20
    thin = flow(n_times=10**9, memory_limit=limit)
    assert thin.t.size == 20
    assert thin.t.nbytes + thin.theta.nbytes + thin.loss.nbytes <= limit
    np.testing.assert_allclose(thin.t, np.linspace(0.0, 1.0, 20), atol=1e-8)
    assert thin.t[[0, -1]].tolist() == [0.0, 1.0]
    assert flow(n_times=21, memory_limit=np.inf).t.size == 21
    few = Settings((0.0, 0.7), n_times=1001, memory_limit=8 * 3 * 101)
    listed = np.linspace(0.0, 0.7, 1001)
    np.testing.assert_array_equal(few.thinned(1), listed[::10])
    np.testing.assert_array_equal(dataclasses.replace(few, t_eval=listed).thinned(1), listed[::10])


@pytest.mark.slow
def test_a_flow_that_needs_far_too_many_steps_says_so():
    stiff = loss_from_function(lambda z: 0.5e9 * anp.sum(z**2))
    run = ParameterFlow(NETWORK, stiff).integrate(
        THETA0, (0.0, 1.0), n_times=2, rtol=1e-3, atol=1e-3
    )
    assert not run.success
    assert "are needed. The flow is stiff" in run.message
    assert run.checkpoint.n_steps <= 2000
    stiffer = loss_from_function(lambda z: 2e9 * anp.sum(z**2))
    sooner = ParameterFlow(NETWORK, stiffer).integrate(
        THETA0, (0.0, 1.0), n_times=2, rtol=1e-3, atol=1e-3
    )
    assert "the last 250 steps led on by" in sooner.message
    assert sooner.checkpoint.n_steps < 250
    shorter = ParameterFlow(NETWORK, stiff).integrate(
        THETA0, (0.0, 1e-6), n_times=2, rtol=1e-3, atol=1e-3
    )
    assert shorter.success


class Growing(RK45):
    """Steps that grow by 2 % each, the first ones far too short for the time span."""

    longest, growth = 1e-12, 1.02

    def _step_impl(self):
        self.longest = self.max_step = self.growth * self.longest
        return super()._step_impl()


class Constant(Growing):
    """The control: steps that do not grow."""

    growth = 1.0


@pytest.mark.slow
def test_a_flow_whose_steps_still_grow_is_not_given_up():
    run = flow(method=Growing, n_times=2, rtol=1e-3, atol=1e-3)
    assert run.success
    assert run.checkpoint.n_steps > 1000
    given_up = flow(method=Constant, n_times=2, rtol=1e-3, atol=1e-3)
    assert "the last 250 steps led on by" in given_up.message


@pytest.mark.parametrize("method", ["RK45", "Radau", "BDF", "LSODA"])
def test_a_resumed_run_says_where_it_is_not_that_of_an_undisturbed_one(method):
    whole = flow(method=method)
    failing = Fails(BOWL, whole.n_evaluations // 2, KeyboardInterrupt())
    part = ParameterFlow(NETWORK, failing).integrate(THETA0, (0.0, 1.0), method=method)
    again = flow(method=method, resume=part)
    assert again.success
    if method == "RK45":
        assert again.message == whole.message
        np.testing.assert_array_equal(again.theta, whole.theta)
    else:
        assert f"not bit for bit: {method} remembers more than a checkpoint holds" in again.message
        np.testing.assert_allclose(again.theta, whole.theta, rtol=1e-5)


# Optimizers.


@pytest.mark.parametrize(
    "hyper",
    [
        {"betas": (0.9,)},
        {"betas": (0.9, 0.99, 0.999)},
        {"betas": 0.9},
        {"betas": (0.9, np.nan)},
        {"betas": (-0.1, 0.9)},
        {"epsilon": -1e-8},
        {"epsilon": np.nan},
        {"step_size": np.nan},
        {"step_size": np.inf},
    ],
)
def test_adam_takes_two_betas_below_one(hyper):
    with pytest.raises(InputError, match=next(iter(hyper)).removesuffix("s")):
        Adam(NETWORK, BOWL, **({"step_size": 0.1} | hyper))


# What autograd cannot follow.


def in_place(z):
    z.__setitem__(0, 0.0)
    return anp.sum(z**2)


@pytest.mark.parametrize(
    "function",
    [
        lambda z: z.item(0) ** 2,
        lambda z: float(len(z.tobytes())),
        in_place,
        lambda z: {1.0: 2.0}[z[0]],  # KeyError, under autograd alone
        lambda z: np.frombuffer(z)[0],
        lambda z: sum(z.tolist()),
    ],
)
def test_a_loss_that_autograd_cannot_follow_says_so(function):
    start = np.array([1.0, 2.0])
    with pytest.raises(NotDifferentiableError, match=r"by operations of autograd\.numpy"):
        loss_from_function(function).gradient(start)
    assert start.tolist() == [1.0, 2.0]


def test_an_error_of_the_loss_itself_arrives_as_it_is():
    with pytest.raises(KeyError, match="mine"):
        loss_from_function(lambda z: {}["mine"]).gradient([1.0, 2.0])


# Lifts of one's own.


class Own(Architecture):
    def __init__(self, lift, shape=(2,)):
        super().__init__(2, shape)
        self.own = lift

    def lift(self, theta):
        return self.own(theta)


WRONG_LIFTS = {
    "shape": (
        Own(lambda t: anp.stack([t[..., 0], t[..., 1]], -1), (3,)),
        r"lifted_shape is \(3,\)",
    ),
    # Of two θ it makes as many numbers as it should, but others.
    "batch": (Own(lambda t: anp.array([t[0] * t[1], t[0]])), "must broadcast over leading axes"),
    "error": (Own(lambda t: anp.array([float(t[0]), 1.0])), "must broadcast over leading axes"),
}


@pytest.mark.parametrize("name", WRONG_LIFTS)
def test_a_lift_of_another_shape_or_for_one_point_only_is_named(name):
    architecture, match = WRONG_LIFTS[name]
    target = np.ones(architecture.lifted_shape)
    loss = loss_from_function(lambda z: anp.sum((z - target) ** 2))
    for call in (
        lambda: ParameterFlow(architecture, loss).integrate([0.5, 0.7], (0.0, 1.0)),
        lambda: architecture.lift_jacobian([0.5, 0.7]),
        lambda: architecture.lift_vjp([0.5, 0.7], np.ones(2)),
    ):
        with pytest.raises(ShapeError, match=match):
            call()


def test_a_right_lift_is_looked_at_once():
    calls = []
    architecture = Own(lambda t: (calls.append(t), anp.stack([t[..., 0], t[..., 1]], -1))[1])
    np.testing.assert_allclose(architecture.lift_jacobian([0.5, 0.7]), np.eye(2))
    first = len(calls)
    architecture.lift_jacobian([0.5, 0.7])
    assert len(calls) - first < first


# Laws that are rational.


class Rational(Architecture):
    """φ = xy, and a function of its law x² − y² with poles where that is ±i/50."""

    def __init__(self, error=0.0):
        super().__init__(2, (1,), 1)
        self.error = error

    def lift(self, theta):
        return theta[..., :1] * theta[..., 1:]

    def conservation_laws(self, theta):
        x, y = theta[..., :1], theta[..., 1:]
        laws = (x**2 - y**2) / (1.0 + (x**2 - y**2) ** 2 / 0.02**2)
        return laws + self.error * x

    def random_point(self, n_samples=1, rng=None):
        points = 1.0 + 0.2 * np.random.default_rng(rng).random((n_samples, 2))
        return points[0] if n_samples == 1 else points


class WrongSlope(Rational):
    def laws_jvp(self, theta, tangent):
        return super().laws_jvp(theta, tangent) * (1.0 + 1e-7)


def test_rational_laws_pass_near_their_poles():
    check_architecture(Rational(), rng=0)
    with pytest.raises(AssertionError, match="conservation_laws_jacobian against finite diff"):
        check_architecture(WrongSlope(), rng=0)
    with pytest.raises(AssertionError, match="conservation"):
        check_architecture(Rational(1e-6), rng=0)


@pytest.mark.parametrize("span", [(1.0, 1.0 + 1e-15), (-1e9, -1e9 + 1e-6), (0.0, 5e-324)])
def test_a_span_shorter_than_its_times_is_refused(span):
    with pytest.raises(InputError, match=r"t_span = .* is too short for n_times = 101"):
        Settings(span)


@pytest.mark.parametrize("span", [(0.0, 1e-300), (1.0, 1.0 + 1e-13), (1e9, 1e9 + 1.0)])
def test_a_short_span_has_different_times(span):
    assert np.all(np.diff(Settings(span).times) > 0)
