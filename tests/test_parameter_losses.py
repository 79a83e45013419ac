"""Losses given as ℓ(θ): the same flows as by f(z), on all coordinates and families."""

import autograd.numpy as anp
import numpy as np
import pytest
from cases import balanced, convolutional, layers
from tensors import RankOneTensors

import liftflow
from liftflow import (
    Attention,
    DeepLinear,
    InvariantSet,
    LinearNeuralODE,
    NetworkLoss,
    ParameterFlow,
    ProductArchitecture,
    TwoLayerLinear,
    compare,
    loss_from_function,
    loss_from_parameters,
    sweep,
)
from liftflow.errors import (
    InputError,
    NotDifferentiableError,
    NotFiniteError,
    NotRecoverableError,
)
from liftflow.metrics import Cometric, intrinsic_cometric


def product():
    architecture = ProductArchitecture(layers([2, 3, 2]), TwoLayerLinear(2, 3, 2))
    parts = layers([2, 3, 2]).random_point(rng=3), architecture.factors[1].balanced_point(0.2, 0)
    return architecture, architecture.pack(*parts)


def at_random(architecture):
    return architecture, architecture.random_point(rng=3)


STARTS = {
    "layers, full": lambda: (*at_random(layers([2, 3, 2])), "full"),
    "layers, basis": lambda: (*at_random(layers([2, 3, 2])), "basis"),
    "convolution, full": lambda: (*at_random(convolutional()), "full"),
    "convolution, channels": lambda: (*at_random(convolutional()), "basis"),
    "two layers": lambda: (*balanced(TwoLayerLinear(3, 2, 2), 0.3), "auto"),
    "three layers": lambda: (*balanced(DeepLinear([2, 3, 3, 2]), 0.0), "auto"),
    "neural ODE": lambda: (*balanced(LinearNeuralODE(2, 5), 0.1), "auto"),
    "attention": lambda: (*balanced(Attention(3, 2, 1), 0.1), "auto"),
    "product": lambda: (*product(), "auto"),
    "tensors": lambda: (*at_random(RankOneTensors(2, 1, 3)), "auto"),
}


def squares(architecture):
    """Return ½‖z − w‖² as a function of z and of θ."""
    target = np.random.default_rng(0).standard_normal(architecture.lifted_shape)

    def of_z(z):
        return 0.5 * anp.sum((z - target) ** 2)

    def of_theta(theta):
        return of_z(architecture.lift(theta))

    return loss_from_function(of_z), loss_from_parameters(of_theta, architecture)


@pytest.mark.parametrize("name", STARTS)
def test_it_is_the_loss_of_z(name):
    architecture, theta, _ = STARTS[name]()
    by_z, by_theta = squares(architecture)
    z = architecture.lift(theta)
    assert by_theta.parameter_value(theta) == pytest.approx(by_z.value(z), rel=1e-14)
    gradient = by_z.parameter_gradient(theta, architecture)
    atol = 1e-13 * np.abs(gradient).max()
    np.testing.assert_allclose(by_theta.parameter_gradient(theta), gradient, rtol=0, atol=atol)
    # In z: at a θ behind z that is found from one with the same laws elsewhere.
    near = theta + 1e-3 * architecture.project_to_tangent(theta, np.ones(architecture.dim))
    near = architecture.project_to_laws(near, architecture.conservation_laws(theta))
    assert by_theta.value(z, near) == pytest.approx(by_z.value(z), rel=1e-8)
    pulled = architecture.lift_vjp(theta, by_theta.gradient(z, near))
    np.testing.assert_allclose(pulled, gradient, rtol=0, atol=1e-7 * np.abs(gradient).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", STARTS)
def test_flows_are_those_of_the_loss_of_z(name):
    """On all coordinates, and the control parts."""
    architecture, theta, coordinates = STARTS[name]()
    start, span, options = InvariantSet(architecture, theta), (0.0, 0.1), {"n_times": 3}
    options |= {"rtol": 1e-7, "atol": 1e-9, "coordinates": coordinates}
    has_control = name not in ("neural ODE", "tensors")
    by_z, by_theta = squares(architecture)
    run = compare(start, by_theta, span, control=has_control, **options)
    assert run.success
    assert run.max_deviation < 1e-5
    plain = compare(start, by_z, span, **options)
    if name == "neural ODE":  # whose K is that of infinite depth, and ∂φ∂φᵀ that of its steps
        assert plain.max_deviation > 1e-3
        return
    np.testing.assert_allclose(run.intrinsic.y, plain.intrinsic.y, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(run.intrinsic.loss, plain.intrinsic.loss, rtol=1e-6)
    if has_control:
        assert run.control_deviation > 100 * run.max_deviation


class Tripled(Cometric):
    """Three times K: a metric that is not that of θ."""

    def __init__(self, cometric):
        super().__init__(cometric.architecture, cometric.theta0)
        self.own = cometric

    def apply(self, z, covector, *, near=None):
        return 3.0 * self.own.apply(z, covector, near=near)

    def solve(self, z, tangent_vec):
        return self.own.solve(z, tangent_vec) / 3.0


def test_a_metric_of_ones_own_is_used():
    """It moves z by itself: three times as fast as θ does."""
    architecture, theta, _ = STARTS["two layers"]()
    start, loss = InvariantSet(architecture, theta), squares(architecture)[1]
    tripled = Tripled(intrinsic_cometric(architecture, theta))
    flow, options = liftflow.IntrinsicFlow, {"rtol": 1e-9, "n_times": 2}
    fast = flow(start, loss, cometric=tripled).integrate(t_span=(0.0, 0.1), **options)
    slow = flow(start, loss).integrate(t_span=(0.0, 0.3), **options)
    np.testing.assert_allclose(fast.y[-1], slow.y[-1], rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two layers", "product", "layers, full"])
def test_a_flow_is_resumed_bit_for_bit(name, tmp_path):
    architecture, theta, coordinates = STARTS[name]()
    left, by_z = [np.inf], squares(architecture)[0]

    def ell(theta):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return by_z.value(architecture.lift(theta))

    loss, start = loss_from_parameters(ell, architecture), InvariantSet(architecture, theta)
    flow = liftflow.IntrinsicFlow(start, loss, coordinates)
    options = {"t_span": (0.0, 0.1), "n_times": 6, "rtol": 1e-9}
    whole = flow.integrate(**options)
    left[0] = whole.n_evaluations // 2
    part = flow.integrate(**options)
    assert not part.success and 0 < part.checkpoint.n_steps < whole.checkpoint.n_steps
    part.save(tmp_path / "part.npz")
    again = flow.integrate(resume=liftflow.Trajectory.load(tmp_path / "part.npz"), **options)
    for kept in ("y", "theta", "loss"):
        np.testing.assert_array_equal(getattr(again, kept), getattr(whole, kept))


def test_a_network_by_its_own_forward_pass():
    """Against backpropagation, with the signs that φ forgets."""
    network, rng = layers([3, 4, 2]), np.random.default_rng(5)
    inputs, targets = rng.standard_normal((9, 3)), rng.standard_normal((9, 2))

    def ell(theta, indices):
        residual = network.forward(theta, inputs[indices]) - targets[indices]
        return 0.5 * anp.sum(residual**2) / len(indices)

    by_theta = loss_from_parameters(ell, network, n_samples=9)
    loss = NetworkLoss(network, inputs, targets)
    theta = network.random_point(rng=rng)
    np.testing.assert_allclose(
        by_theta.parameter_gradient(theta), loss.parameter_gradient(theta), atol=1e-14
    )
    z = network.lift(theta)
    assert by_theta.value(z, theta) == pytest.approx(loss.value(z, near=theta), rel=1e-13)
    np.testing.assert_allclose(
        by_theta.batch([4, 1]).parameter_gradient(theta),
        NetworkLoss(network, inputs[[4, 1]], targets[[4, 1]]).parameter_gradient(theta),
        atol=1e-14,
    )
    with pytest.raises(InputError, match="integers from 0 to 9 − 1"):
        by_theta.batch([9])
    with pytest.raises(InputError, match="no mean over samples"):
        squares(network)[1].batch([0])


@pytest.mark.slow
def test_a_transformer_block_in_twelve_lines():
    """Attention, a ReLU layer, and the residual stream that only ℓ knows of."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((3, 4, 3))  # three sequences of four tokens
    wanted = rng.standard_normal((12, 3))

    # The twelve lines.
    attention, mlp = Attention(3, 2, n_heads=1), layers([3, 4, 3])
    block = ProductArchitecture(attention, mlp)

    def ell(theta):
        head, weights = block.unpack(theta)
        scores, values = attention.lift(head)
        seen = anp.exp(anp.matmul(anp.dot(tokens, scores), anp.swapaxes(tokens, 1, 2)))
        seen = seen / anp.sum(seen, axis=-1, keepdims=True)
        stream = anp.reshape(tokens + anp.matmul(seen, anp.dot(tokens, values)), (-1, 3))
        return anp.mean((stream + mlp.forward(weights, stream) - wanted) ** 2)

    theta0 = block.pack(attention.balanced_point(0.1, rng=0), mlp.random_point(rng=1))
    start, loss = InvariantSet(block, theta0), loss_from_parameters(ell, block)
    run = compare(start, loss, (0.0, 0.3), rtol=1e-6, control=True, n_times=11)

    assert run.success
    assert run.max_deviation < 1e-4
    assert run.control_deviation > 1e-2
    assert run.intrinsic.loss[-1] < 0.99 * run.intrinsic.loss[0]


@pytest.mark.parametrize("sizes", [(2.0, 1.0), (1.0, 3.0)])
def test_what_the_lift_does_not_see_is_refused_by_how_much(sizes):
    """For φ = uv the kernel is (u, −v): of the gradient of u² + v², |u² − v²|/(u² + v²)."""
    pair, (u, v) = liftflow.ReLUNetwork.diagonal(1), sizes
    part = abs(u**2 - v**2) / (u**2 + v**2)
    with pytest.raises(InputError, match=f"a part of {part:g} of ∇ℓ .* weight_decay"):
        loss_from_parameters(lambda theta: anp.sum(theta**2), pair, points=[u, v])


def test_a_small_penalty_is_found_and_its_size_is_said():
    network, found = layers([2, 3, 1]), []

    def bowl(theta):
        return anp.sum((network.lift(theta) - 1.0) ** 2)

    assert loss_from_parameters(bowl, network).parameter_value(np.ones(9)) == 0.0
    for size in (1e-2, 1e-4, 1e-6):
        with pytest.raises(InputError, match="a part of") as caught:
            loss_from_parameters(lambda t, s=size: bowl(t) + s * anp.sum(t**2), network)
        found.append(float(str(caught.value).split("a part of ")[1].split()[0]))
    np.testing.assert_allclose(np.diff(np.log10(found)), -2.0, atol=0.2)


@pytest.mark.parametrize("name", ["convolution, channels", "attention", "tensors"])
def test_other_families_refuse_a_penalty_too(name):
    architecture = STARTS[name]()[0]
    target = np.random.default_rng(0).standard_normal(architecture.lifted_shape)

    def penalised(theta, indices):
        fit = anp.sum((architecture.lift(theta) - target) ** 2)
        return fit + (1e-3 * theta[0] ** 2 if indices[-1] == 4 else 0.0)

    with pytest.raises(InputError, match="outside range ∂φᵀ"):
        loss_from_parameters(penalised, architecture, n_samples=5)
    loss_from_parameters(penalised, architecture, n_samples=4)


def test_refusals():
    network = layers([2, 3, 1])
    loss = squares(network)[1]
    z = network.lift(np.ones(9))
    with pytest.raises(NotRecoverableError, match="pass near=theta"):
        loss.gradient(z)
    with pytest.raises(InputError, match="of another architecture"):
        ParameterFlow(layers([2, 3, 1]), loss).integrate(np.ones(9), (0.0, 0.1))
    with pytest.raises(InputError, match="take θ to one number, got an array of shape"):
        loss_from_parameters(lambda theta: theta, network)
    with pytest.raises(NotDifferentiableError, match="the function of a loss of θ"):
        loss_from_parameters(lambda theta: float(np.sum(np.asarray(theta))), network)
    with pytest.raises(InputError, match="ell must be a function"):
        loss_from_parameters(3.0, network)
    with pytest.raises(InputError, match="architecture must be an Architecture"):
        loss_from_parameters(lambda theta: 0.0, loss)
    with pytest.raises(NotFiniteError, match="give points="), np.errstate(all="ignore"):
        loss_from_parameters(lambda theta: anp.sqrt(-anp.sum(theta**2)), network)


def test_in_a_sweep():
    def make_case(seed):
        network = layers([2, 2, 1])
        return InvariantSet(network, network.random_point(rng=seed)), squares(network)[1]

    found = sweep(make_case, [0, 1], (0.0, 0.1), n_jobs=1, n_times=3)
    assert all(run.summary["max_deviation"] < 1e-6 for run in found.runs)


def test_repr_says_what_it_is():
    network = layers([2, 2, 1])

    def mine(theta, indices):
        return 0.0 * anp.sum(theta)

    shown = repr(loss_from_parameters(mine, network, 7))
    assert shown.startswith("ParameterLoss(mine, 7 samples) of ReLUNetwork")
