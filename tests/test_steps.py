"""Training as people do it: laws predicted to rounding, torch's formulas, and logged runs."""

import autograd.numpy as anp
import numpy as np
import pytest
from cases import convolutional

from liftflow import (
    DeepLinear,
    InvariantSet,
    LinearNeuralODE,
    NetworkLoss,
    ReLUNetwork,
    Trajectory,
    compare,
    loss_from_function,
    loss_from_parameters,
)
from liftflow.architectures import Architecture
from liftflow.errors import InputError
from liftflow.flows import Adam, GradientDescent, Optimizer, TrainingRule, law_drift

N_SAMPLES = 64


def relu():
    network, rng = ReLUNetwork.from_widths([4, 6, 3], bias=True), np.random.default_rng(0)
    inputs, labels = rng.standard_normal((N_SAMPLES, 4)), rng.integers(3, size=N_SAMPLES)
    return network, NetworkLoss(network, inputs, labels, "cross-entropy")


def linear():
    layers, rng = DeepLinear([4, 5, 3, 2]), np.random.default_rng(1)
    inputs, targets = rng.standard_normal((N_SAMPLES, 4)), rng.standard_normal((N_SAMPLES, 2))

    def ell(theta, indices):
        residual = anp.dot(inputs[indices], layers.lift(theta).T) - targets[indices]
        return anp.sum(residual**2) / len(indices)

    return layers, loss_from_parameters(ell, layers, N_SAMPLES)


def images():
    network, rng = convolutional(), np.random.default_rng(2)
    inputs, targets = rng.standard_normal((N_SAMPLES, 16)), rng.standard_normal((N_SAMPLES, 2))
    return network, NetworkLoss(network, inputs, targets)


PROBLEMS = {"ReLU": relu, "linear": linear, "convolutional": images}
RULES = {
    "batches of 1": {"batch_size": 1},
    "batches of 32": {"batch_size": 32},
    "all": {},
    "schedule": {"batch_size": 32, "schedule": lambda k: 1.0 / (1.0 + k / 200)},
    "schedule as an array": {"schedule": np.linspace(1.0, 0.1, 1000)},
    "decay": {"batch_size": 32, "weight_decay": 0.01},
    "decoupled decay": {"weight_decay": 0.01, "decay": "decoupled"},
    "heavy ball": {"momentum": 0.9},
    "heavy ball, all at once": {
        "momentum": 0.9,
        "batch_size": 7,
        "weight_decay": 0.01,
        "schedule": lambda k: 0.999**k,
    },
    "heavy ball, decoupled decay": {
        "momentum": 0.8,
        "batch_size": 1,
        "weight_decay": 0.01,
        "decay": "decoupled",
        "schedule": lambda k: 0.999**k,
    },
    "Nesterov": {"momentum": 0.9, "nesterov": True, "batch_size": 32},
    "Nesterov, all at once": {
        "momentum": 0.9,
        "nesterov": True,
        "batch_size": 7,
        "weight_decay": 0.01,
        "schedule": lambda k: 0.999**k,
    },
    "Nesterov, decoupled decay": {
        "momentum": 0.8,
        "nesterov": True,
        "weight_decay": 0.01,
        "decay": "decoupled",
    },
}

LONG = ("batches of 1", "batches of 32", "all", "schedule", "decay", "heavy ball")
SLOW = {rule: [pytest.mark.slow] for rule in LONG[2:]}  # a second of CPU each


def gap(run, architecture):
    """Return the largest gap of predicted and measured laws, relative to the measured ones."""
    laws = architecture.conservation_laws(run.theta)
    return np.max(np.abs(run.predicted_laws - laws)) / np.max(np.abs(laws))


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("rule", [pytest.param(rule, marks=SLOW.get(rule, [])) for rule in RULES])
def test_laws_are_predicted_to_rounding(problem, rule):
    """Over 1,000 steps, and they do drift, by ten million times as much at least."""
    architecture, loss = PROBLEMS[problem]()
    n_steps = 1000 if rule in LONG else 200
    step_size = 0.02 * (1.0 - RULES[rule].get("momentum", 0.0))
    theta0 = architecture.random_point(rng=4)
    run = GradientDescent(architecture, loss, step_size, **RULES[rule]).run(
        theta0, n_steps, every=20, rng=5
    )
    assert run.success
    assert gap(run, architecture) <= 1e-12
    assert run.predicted_laws.shape == (1 + n_steps // 20, architecture.n_laws)
    laws = architecture.conservation_laws(run.theta)
    assert np.max(np.abs(laws - laws[0])) > 1e-5 * np.max(np.abs(laws))


def without(name):
    """Return a recursion that leaves one term out."""
    from liftflow.flows.recursion import LawRecursion

    class Wrong(LawRecursion):
        def follow(self, rate, gradient, update, velocity):
            if name == "h(g)":
                gradient, update = 0 * gradient, 0 * update
            if name == "c":
                self.mixed = 0 * self.mixed
            super().follow(rate, gradient, update, velocity)
            if name == "λ":
                self.laws = self.laws / (1 - rate * self.coupled) ** 2

    return Wrong


@pytest.mark.parametrize(
    ("name", "rule"), [("h(g)", "all"), ("λ", "decay"), ("c", "heavy ball"), ("c", "Nesterov")]
)
def test_no_term_of_the_recursion_is_idle(name, rule, monkeypatch):
    """Negative control: each left out is seen."""
    monkeypatch.setattr("liftflow.flows.discrete.LawRecursion", without(name))
    network, loss = relu()
    step_size = 0.02 * (1.0 - RULES[rule].get("momentum", 0.0))
    run = GradientDescent(network, loss, step_size, **RULES[rule]).run(
        network.random_point(rng=4), 200, rng=5
    )
    assert gap(run, network) > 1e-6


def test_two_steps_by_hand():
    """φ = uv and ℓ = uv, so that g = (v, u) and h = u² − v², in exact binary fractions."""
    pair = ReLUNetwork.diagonal(1)
    loss = loss_from_function(lambda z: anp.sum(z))
    run = GradientDescent(pair, loss, 0.5, momentum=0.5, weight_decay=0.25).run([2.0, 1.0], 2)
    # b = g + θ/4 = (1.5, 2.25), θ = (1.25, −0.125); then b = b/2 + (−0.125, 1.25) + θ/4.
    np.testing.assert_array_equal(run.theta[1], [1.25, -0.125])
    np.testing.assert_array_equal(run.theta[2], [0.78125, -1.296875])
    expected = [3.0, 1.25**2 - 0.125**2, 0.78125**2 - 1.296875**2]
    np.testing.assert_allclose(run.predicted_laws[:, 0], expected, rtol=1e-15)
    np.testing.assert_allclose(run.t, [0.0, 1.0, 2.0])


def test_no_prediction_is_offered_for_adam_and_its_drift_stays():
    """AdamW and Adam, however small the steps; for gradient descent the drift falls like η."""
    network, loss = relu()
    theta0, counts, drifts = network.random_point(rng=4), (250, 500, 1000), {}
    for name, make in {
        "AdamW": lambda step: Adam(network, loss, step, weight_decay=0.1, decay="decoupled"),
        "Adam": lambda step: Adam(network, loss, step, weight_decay=0.1),
        "SGD": lambda step: GradientDescent(network, loss, step, weight_decay=0.1),
    }.items():
        runs = [make(0.5 / n).run(theta0, n, every=n) for n in counts]
        assert all((run.predicted_laws is None) == (name != "SGD") for run in runs)
        # From where the decay alone would have led the laws.
        faded = np.exp(-2 * 0.1 * 0.5) * network.conservation_laws(theta0)
        ends = [network.conservation_laws(run.theta[-1]) for run in runs]
        drifts[name] = [np.max(np.abs(laws - faded)) for laws in ends]
    for name in ("AdamW", "Adam"):
        order = np.polyfit(np.log(counts), np.log(drifts[name]), 1)[0]
        assert abs(order) < 0.1, f"{name} drifts by the order {order} in the number of steps"
        assert drifts[name][-1] > 0.1
    order = np.polyfit(np.log(counts), np.log(drifts["SGD"]), 1)[0]
    assert order == pytest.approx(-1.0, abs=0.1)


class Cubic(Architecture):
    """φ(u, v) = uv with its law cubed, and a law that is not homogeneous."""

    def __init__(self, degree):
        super().__init__(2, (1,), n_laws=1)
        self.degree = degree

    def lift(self, theta):
        return theta[..., :1] * theta[..., 1:]

    def conservation_laws(self, theta):
        return (theta[..., :1] ** 2 - theta[..., 1:] ** 2) ** self.degree


def test_only_quadratic_laws_are_predicted():
    loss = loss_from_function(lambda z: anp.sum((z - 1.0) ** 2))
    for degree in (1, 2):
        run = GradientDescent(Cubic(degree), loss, 0.1).run([0.5, 0.8], 5)
        assert (run.predicted_laws is None) == (degree > 1)
        assert run.success
    chain = LinearNeuralODE(2, 3)  # whose laws have a linear part
    assert (
        GradientDescent(chain, loss, 0.01).run(0.1 * np.ones(chain.dim), 2).predicted_laws is None
    )


# What torch.optim writes down, line by line, on lists of numbers.


def torch_sgd(gradient, theta, lr, n_steps, momentum=0.0, weight_decay=0.0, nesterov=False):
    theta, buffer, states = [*map(float, theta)], None, []
    for _ in range(n_steps):
        d_p = [*map(float, gradient(np.array(theta)))]
        if weight_decay:
            d_p = [g + weight_decay * p for g, p in zip(d_p, theta, strict=True)]
        if momentum:
            if buffer is None:
                buffer = list(d_p)
            else:
                buffer = [momentum * b + g for b, g in zip(buffer, d_p, strict=True)]
            if nesterov:
                d_p = [g + momentum * b for g, b in zip(d_p, buffer, strict=True)]
            else:
                d_p = buffer
        theta = [p - lr * g for p, g in zip(theta, d_p, strict=True)]
        states.append(theta)
    return np.array(states)


def torch_adam(
    gradient, theta, lr, n_steps, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False
):
    theta, states = [*map(float, theta)], []
    mean, square = [0.0] * len(theta), [0.0] * len(theta)
    for step in range(1, n_steps + 1):
        grad = [*map(float, gradient(np.array(theta)))]
        if decoupled:
            theta = [p * (1 - lr * weight_decay) for p in theta]
        elif weight_decay:
            grad = [g + weight_decay * p for g, p in zip(grad, theta, strict=True)]
        mean = [m + (g - m) * (1 - betas[0]) for m, g in zip(mean, grad, strict=True)]
        square = [s * betas[1] + (1 - betas[1]) * g * g for s, g in zip(square, grad, strict=True)]
        first, second = 1 - betas[0] ** step, (1 - betas[1] ** step) ** 0.5
        theta = [
            p - lr / first * (m / (s**0.5 / second + eps))
            for p, m, s in zip(theta, mean, square, strict=True)
        ]
        states.append(theta)
    return np.array(states)


SGD = [
    {},
    {"momentum": 0.9},
    {"weight_decay": 0.01},
    {"momentum": 0.9, "weight_decay": 0.01},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
]
ADAM = [{}, {"weight_decay": 0.01}, {"betas": (0.8, 0.99)}]


def smooth():
    """Return a problem without kinks, where rounding errors stay rounding errors."""
    network = ReLUNetwork.from_widths([2, 3, 2])
    target = np.random.default_rng(0).standard_normal(network.n_paths)
    loss = loss_from_function(lambda z: 0.5 * anp.sum((z - target) ** 2))
    theta0 = network.random_point(rng=1)
    return network, loss, theta0, lambda theta: loss.parameter_gradient(theta, network)


def assert_same(run, expected):
    size = np.max(np.abs(expected), axis=1, keepdims=True)
    assert np.max(np.abs(run.theta[1:] - expected) / size) <= 1e-14


@pytest.mark.parametrize("options", SGD)
def test_the_formulas_of_sgd(options):
    network, loss, theta0, gradient = smooth()
    lr = 0.02 * (1.0 - options.get("momentum", 0.0))
    run = GradientDescent(network, loss, lr, **options).run(theta0, 200)
    assert_same(run, torch_sgd(gradient, theta0, lr, 200, **options))


@pytest.mark.parametrize("options", ADAM)
@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
def test_the_formulas_of_adam_and_adamw(options, decay):
    network, loss, theta0, gradient = smooth()
    run = Adam(network, loss, 0.01, decay=decay, **options).run(theta0, 200)
    decoupled = decay == "decoupled"
    assert_same(run, torch_adam(gradient, theta0, 0.01, 200, decoupled=decoupled, **options))


def test_the_two_kinds_of_decay_differ():
    network, loss, theta0, _ = smooth()
    for make in (
        lambda decay: Adam(network, loss, 0.01, weight_decay=0.1, decay=decay),
        lambda decay: GradientDescent(network, loss, 0.01, 0.9, weight_decay=0.1, decay=decay),
    ):
        ends = [make(decay).run(theta0, 200).theta[-1] for decay in ("coupled", "decoupled")]
        assert np.max(np.abs(ends[0] - ends[1])) > 1e-4
    plain = [
        GradientDescent(network, loss, 0.01, weight_decay=0.1, decay=decay).run(theta0, 200)
        for decay in ("coupled", "decoupled")
    ]
    np.testing.assert_allclose(plain[0].theta, plain[1].theta, rtol=1e-13)


def test_a_schedule_multiplies_the_step_size():
    network, loss, theta0, gradient = smooth()
    factors = np.array([1.0, 0.5, 0.0, 2.0])
    for schedule in (factors, list(factors), lambda k: factors[k]):
        run = GradientDescent(network, loss, 0.1, schedule=schedule).run(theta0, 4)
        theta = theta0
        for place, factor in enumerate(factors):
            theta = theta - 0.1 * factor * gradient(theta)
            np.testing.assert_allclose(run.theta[place + 1], theta, rtol=1e-14)
        np.testing.assert_allclose(run.t, [0.0, 0.1, 0.15, 0.15, 0.35])
    heavy = GradientDescent(network, loss, 0.1, momentum=0.5, schedule=factors).run(theta0, 4)
    np.testing.assert_allclose(heavy.t, 2 * run.t)


# Batches.


class Recording(NetworkLoss):
    """Notes which samples it was asked for."""

    def batch(self, indices):
        self.seen.append(np.array(indices))
        return super().batch(indices)


def recording():
    network, loss = relu()
    own = Recording(network, loss.inputs, loss.targets.argmax(axis=1), "cross-entropy")
    own.seen = []
    return network, own


def test_an_epoch_goes_through_all_samples_once():
    network, loss = recording()
    GradientDescent(network, loss, 1e-3, batch_size=10).run(np.ones(network.dim), 21, rng=0)
    sizes = [len(indices) for indices in loss.seen]
    assert sizes == 3 * ([10] * 6 + [4])
    epochs = [np.concatenate(loss.seen[start : start + 7]) for start in (0, 7, 14)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(N_SAMPLES))
    assert not np.array_equal(epochs[0], epochs[1])


def test_batches_come_from_the_generator_alone():
    network, loss = relu()
    for make in (GradientDescent, Adam):
        optimizer, theta0 = make(network, loss, 0.01, batch_size=5), np.ones(network.dim)
        runs = [optimizer.run(theta0, 20, rng=rng) for rng in (3, np.random.default_rng(3), 4)]
        np.testing.assert_array_equal(runs[0].theta, runs[1].theta)
        assert np.max(np.abs(runs[0].theta[-1] - runs[2].theta[-1])) > 1e-6
        # The loss is that of all samples.
        expected = loss.parameter_value(runs[0].theta)
        np.testing.assert_allclose(runs[0].loss, expected, rtol=1e-13)


def test_one_batch_of_all_is_no_batch():
    network, loss = relu()
    theta0 = network.random_point(rng=0)
    batches = GradientDescent(network, loss, 0.01, batch_size=N_SAMPLES).run(theta0, 50, rng=1)
    np.testing.assert_allclose(
        batches.theta, GradientDescent(network, loss, 0.01).run(theta0, 50).theta, rtol=1e-11
    )


# Beside the flows, and from elsewhere.


def test_compare_takes_steps_beside_the_flows(tmp_path):
    network, loss, theta0, _ = smooth()
    start, found = InvariantSet(network, theta0), []
    for n_steps in (100, 200, 400):
        run = GradientDescent(network, loss, 0.5 / n_steps).run(theta0, n_steps)
        done = compare(start, loss, (0.0, 0.5), rtol=1e-8, n_times=11, steps=run)
        assert done.max_deviation < 1e-6
        np.testing.assert_array_equal(done.steps.t, done.parameter.t)
        np.testing.assert_allclose(done.parameter.t, np.linspace(0, 0.5, 11), atol=0.5 / n_steps)
        gaps = network.lift(done.steps.theta) - network.lift(done.parameter.theta)
        expected = np.linalg.norm(gaps, axis=1)
        expected = expected / np.linalg.norm(network.lift(done.parameter.theta), axis=1)
        np.testing.assert_allclose(done.steps_deviation_over_time, expected, rtol=1e-10)
        assert done.summary()["steps_deviation"] == done.steps_deviation
        assert done.steps_deviation == done.steps_deviation_over_time.max() > 1e-4
        assert "law drift of the steps" in str(done)
        found.append(done.steps_deviation)
    assert np.polyfit(np.log([4, 2, 1]), np.log(found), 1)[0] == pytest.approx(1.0, abs=0.1)
    done.save(tmp_path / "done.npz")
    again = type(done).load(tmp_path / "done.npz")
    assert again.steps_deviation == done.steps_deviation
    np.testing.assert_array_equal(again.steps.predicted_laws, done.steps.predicted_laws)
    figure = done.plot()
    labels = [line.get_label() for axes in figure.axes for line in axes.lines]
    assert labels.count("steps") == 3


def test_steps_with_decay_go_beside_flows_with_decay():
    """And part from flows without it: the negative control."""
    network, loss, theta0, _ = smooth()
    start, rule = InvariantSet(network, theta0), TrainingRule(weight_decay=0.3)
    run = GradientDescent(network, loss, 1e-3, weight_decay=0.3).run(theta0, 400)
    done = compare(start, loss, (0.0, 0.4), 1e-8, n_times=5, steps=run, rule=rule)
    assert done.max_deviation < 1e-6
    assert done.steps_deviation < 2e-3
    assert done.summary()["law_drift_steps"] < 1e-3
    plain = compare(start, loss, (0.0, 0.4), n_times=5, steps=run)
    assert plain.steps_deviation > 0.05


def test_steps_of_a_schedule_that_end_before_the_flows():
    network, loss, theta0, _ = smooth()
    options = {"momentum": 0.5, "schedule": np.linspace(1.0, 0.0, 40)}
    run = GradientDescent(network, loss, 0.01, **options).run(theta0, 40)
    done = compare(InvariantSet(network, theta0), loss, (0.0, 1.0), n_times=21, steps=run)
    assert run.t[-1] == pytest.approx(0.4)
    assert done.parameter.t[-1] == 1.0
    assert done.steps.t[-1] == pytest.approx(0.4, abs=0.03)
    assert np.all(np.isin(done.steps.t, run.t))
    assert done.steps.predicted_laws.shape == (len(done.steps.t), network.n_laws)
    assert done.steps_deviation < 0.1
    with pytest.raises(InputError, match="steps must start from θ₀ at the time 0"):
        compare(InvariantSet(network, theta0 + 0.1), loss, (0.0, 1.0), steps=run)
    with pytest.raises(InputError, match=r"steps must start from θ₀ at the time 0\.5"):
        compare(InvariantSet(network, theta0), loss, (0.5, 1.0), steps=run)
    with pytest.raises(InputError, match="steps must have theta of shape"):
        compare(InvariantSet(network, theta0), loss, (0.0, 1.0), steps=trajectory_of_two())


def trajectory_of_two():
    return Trajectory.from_arrays([0.0, 1.0], [[1.0, 2.0], [2.0, 1.0]])


def test_a_run_that_another_program_logged(tmp_path):
    network, loss, theta0, gradient = smooth()
    logged = torch_sgd(gradient, theta0, 0.01, 50).astype(np.float32)  # as such logs are
    theta = np.concatenate([[theta0], logged])
    drift = law_drift(network, theta)
    run = GradientDescent(network, loss, 0.01).run(theta0, 50)
    np.testing.assert_allclose(drift, law_drift(network, run), atol=1e-6)
    np.testing.assert_array_equal(law_drift(network, np.stack([theta, theta]))[1], drift)
    given = Trajectory.from_arrays(0.01 * np.arange(51), theta, loss=run.loss)
    np.testing.assert_array_equal(law_drift(network, given), drift)
    done = compare(InvariantSet(network, theta0), loss, (0.0, 0.5), n_times=6, steps=given)
    assert done.steps_deviation < 0.02
    assert given.predicted_laws is None
    given.save(tmp_path / "given.npz")
    again = Trajectory.load(tmp_path / "given.npz")
    np.testing.assert_array_equal(again.theta, theta)
    assert again.predicted_laws is None
    bare = Trajectory.from_arrays(given.t, theta)
    assert np.isnan(bare.loss).all()
    assert bare.plot(network).axes[-1].lines  # without a warning
    jump = Trajectory.from_arrays([0.0, 0.01, 0.01, 0.02], theta[:4])
    assert np.isnan(jump.plot().axes[1].lines[0].get_ydata()).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        (([0.0, 1.0], np.ones((3, 2))), "one row per time"),
        (([1.0, 0.0], np.ones((2, 2))), "times that do not fall"),
        (([], np.ones((0, 2))), "one row per time"),
        (([0.0, 1.0], np.ones(2)), "theta must have shape"),
        (([0.0, 1.0], np.ones((2, 2)), [1.0]), "loss must have shape"),
    ],
)
def test_logs_that_are_refused(arrays, match):
    with pytest.raises(InputError, match=match):
        Trajectory.from_arrays(*arrays)


def test_law_drift_of_arrays_that_are_refused():
    network = smooth()[0]
    with pytest.raises(InputError, match="trajectory must have shape"):
        law_drift(network, np.ones(network.dim))
    with pytest.raises(InputError, match="at least one point"):
        law_drift(network, np.ones((0, network.dim)))


def test_a_run_is_saved_cut_and_drawn_with_its_laws(tmp_path):
    network, loss, theta0, _ = smooth()
    run = GradientDescent(network, loss, 0.01).run(theta0, 20)
    run.save(tmp_path / "run.npz")
    again = Trajectory.load(tmp_path / "run.npz")
    np.testing.assert_array_equal(again.predicted_laws, run.predicted_laws)
    np.testing.assert_array_equal(run.head(5).predicted_laws, run.predicted_laws[:5])
    figure = run.plot(network)
    drawn = [line.get_ydata() for line in figure.axes[-1].lines]
    laws = network.conservation_laws(run.theta)
    assert len(drawn) == 2 * network.n_laws
    for number in range(network.n_laws):
        assert sum(np.allclose(line, laws[:, number], atol=1e-14) for line in drawn) == 2
    assert [text.get_text() for text in figure.axes[-1].get_legend().get_texts()] == [
        "measured",
        "predicted",
    ]
    assert run.plot().axes[-1].get_legend() is None


# The door.


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (GradientDescent, {"batch_size": 0}, "batch_size must be an integer of at least 1"),
        (GradientDescent, {"batch_size": N_SAMPLES + 1}, "at most 64 samples, got 65"),
        (Adam, {"weight_decay": -0.1}, "weight_decay must be at least 0"),
        (GradientDescent, {"schedule": [1.0, -1.0]}, "schedule must hold factors of at least 0"),
        (GradientDescent, {"schedule": 3.0}, "schedule must"),
        (GradientDescent, {"nesterov": True}, "nesterov needs a momentum above 0"),
        (Adam, {"decay": "both"}, "decay must be one of coupled, decoupled, got 'both'"),
    ],
)
def test_refusals(make, options, match):
    network, loss = relu()
    with pytest.raises(InputError, match=match):
        make(network, loss, 0.1, **options)


def test_refusals_on_the_way():
    network, loss = relu()
    with pytest.raises(InputError, match="factor for every step, got 3 for step 4"):
        GradientDescent(network, loss, 0.1, schedule=[1.0] * 3).run(np.ones(network.dim), 4)
    with pytest.raises(InputError, match="the schedule at step 0 must"):
        GradientDescent(network, loss, 0.1, schedule=lambda k: -1.0).run(np.ones(network.dim), 4)
    with pytest.raises(InputError, match="no mean over samples"):
        GradientDescent(network, smooth()[1], 0.1, batch_size=2)


def test_repr_says_what_it_is():
    network, loss = relu()
    shown = repr(GradientDescent(network, loss, 0.1, 0.9, 32, 0.01, np.ones(1000)))
    assert "\n" not in shown
    for part in ("GradientDescent(step_size=0.1", "momentum=0.9", "batch_size=32", "decay=0.01"):
        assert part in shown


def test_an_optimizer_of_ones_own_gets_batches_schedules_and_decay():
    """It only writes its step; sign descent, against the same by hand."""

    class Signs(Optimizer):
        n_moments = 0

        def step(self, gradient, moments, count):
            return -self.rate(count) * np.sign(gradient), moments

    network, loss, theta0, gradient = smooth()
    run = Signs(network, loss, 0.01, weight_decay=0.5, schedule=[1.0, 0.5]).run(theta0, 2)
    theta = theta0
    for rate in (0.01, 0.005):
        theta = theta - rate * np.sign(gradient(theta) + 0.5 * theta)
    np.testing.assert_allclose(run.theta[-1], theta, rtol=1e-14)
    assert run.predicted_laws is None
