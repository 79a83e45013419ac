"""Both flows of modules, discrete steps, geometry: a module is an architecture like any other."""

import numpy as np
import pytest
import scipy.integrate
import torch
from models import build, resnet18
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from liftflow import IntrinsicFlow, InvariantSet, ParameterFlow, ReLUNetwork, classify, compare
from liftflow.architectures import Architecture
from liftflow.errors import InputError
from liftflow.flows import GradientDescent, TrainingRule
from liftflow.losses import NetworkLoss
from liftflow.testing import check_manifold, check_metric
from liftflow.torch import TorchLoss, from_torch


def problem(name):
    """A network, θ₀ and a loss towards the outputs of another module like it."""
    module, inputs = build(name)
    network, theta = from_torch(module, inputs)
    with torch.no_grad():
        target = network.to_module(theta)(*inputs) + 0.3
    return network, theta, TorchLoss(network, lambda m: nn.functional.mse_loss(m(*inputs), target))


@pytest.mark.parametrize("name", ["MLP", "U-Net", "RNNCell", "tied autoencoder", "ResNet"])
@pytest.mark.parametrize("coordinates", ["basis", "full"])
def test_both_flows_agree_and_the_control_does_not(name, coordinates):
    if (name, coordinates) == ("ResNet", "full"):
        pytest.skip("the recovery of each z would take a minute")
    network, theta, loss = problem(name)
    start = InvariantSet(network, theta)
    options = {"coordinates": coordinates, "control": True, "n_times": 6, "rtol": 1e-7}
    end = 0.005 if name == "tied autoencoder" else 0.05  # whose weights act twice, and fast
    found = compare(start, loss, (0.0, end), **options)
    assert found.success and found.law_drift < 1e-6
    assert found.max_deviation < 1e-5
    assert found.control_deviation > 30 * found.max_deviation


def test_both_flows_of_a_network_like_resnet_18_agree():
    """Fifty evaluations of each at rtol 1e-6, by RK23: the velocity jumps where units switch.

    Of what a jump within a step does to the result, RK23 estimates 0.6, RK45 a fourteenth; that is
    what the next test works out.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, x, y = resnet18(8).eval(), torch.randn(2, 3, 32, 32), torch.randint(10, (2,))
    network, theta = from_torch(module, x)
    loss = TorchLoss(network, lambda m: nn.functional.cross_entropy(m(x), y))
    end, options = 2e-4, {"rtol": 1e-6, "method": "RK23", "n_times": 2, "control": True}
    found = compare(InvariantSet(network, theta), loss, (0.0, end), max_step=end / 17, **options)
    assert found.success and found.max_deviation <= 1e-5
    assert min(found.parameter.n_evaluations, found.intrinsic.n_evaluations) >= 50
    assert found.control_deviation > 30 * found.max_deviation


@pytest.mark.parametrize("kind", ["one", "each"])
def test_learning_rates_of_a_module(kind):
    """In the coordinates of its chart, also where one rate is that of all."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    network, theta0 = from_torch(module, torch.zeros(1, 2, dtype=torch.double))
    inputs = torch.rand(8, 2, dtype=torch.double)
    loss = TorchLoss(network, lambda f: ((f(inputs) - 1) ** 2).mean())
    start = InvariantSet(network, theta0)
    rates = 3.0 if kind == "one" else np.linspace(2.0, 4.0, network.dim)
    rule = TrainingRule(rates)
    both = compare(start, loss, (0.0, 0.1), rule=rule, n_times=3, coordinates="basis")
    assert both.success
    assert both.max_deviation <= 100 * both.rtol
    without = IntrinsicFlow(start, loss, "basis").integrate(t_span=(0.0, 0.1), n_times=3)
    gap = network.lifted_distance(without.theta[-1], both.parameter.theta[-1])
    assert gap > 1e-3  # the control


@pytest.mark.parametrize(("method", "low", "high"), [("RK23", 0.4, 0.7), ("RK45", 0.05, 0.1)])
def test_how_much_of_a_jump_an_error_estimate_sees(method, low, high):
    """A jump of 1 at a random moment of a step: the estimate beside the error, in root mean square.

    After the jump at s the true integral is 1 − s, that of the method the weights of later stages.
    """
    solver, places = getattr(scipy.integrate, method), (np.arange(10_000) + 0.5) / 10_000
    nodes, weights = np.append(solver.C, 1.0), np.append(solver.B, 0.0)
    later = nodes > places[:, None]
    errors, estimates = 1.0 - places - later @ weights, later @ solver.E
    assert low < np.linalg.norm(estimates) / np.linalg.norm(errors) < high


def test_a_flow_is_resumed(tmp_path):
    network, theta, loss = problem("RNNCell")
    flow = IntrinsicFlow(InvariantSet(network, theta), loss)
    half = flow.integrate(
        t_span=(0.0, 0.05), n_times=3, rtol=1e-8, checkpoint=tmp_path / "half.npz"
    )
    whole = flow.integrate(t_span=(0.0, 0.1), n_times=5, rtol=1e-8)
    again = flow.integrate(t_span=(0.0, 0.1), n_times=5, rtol=1e-8, resume=half)
    np.testing.assert_allclose(again.theta[-1], whole.theta[-1], atol=1e-6)


def from_layers(module):
    """The same network by its graph, and θ of the module as it is laid out there."""
    layers = [part for part in module if isinstance(part, nn.Linear)]
    weights = [layer.weight.detach().numpy() for layer in layers]
    biases = [layer.bias.detach().numpy() for layer in layers]
    return ReLUNetwork.from_layers(weights, biases, torch_layout=True)


class Side:
    """One of two descriptions of the same perceptron, with vectors in the layout of torch."""

    def __init__(self, network, theta, order, rng):
        self.network, self.theta, self.order = network, theta, order
        draw = np.random.default_rng(rng)
        self.v, self.w = draw.standard_normal((2, theta.size))[:, order]
        self.other_laws = network.conservation_laws(theta) + 0.1 * draw.standard_normal(7)
        horizontal = network.project_to_tangent(theta, self.v)
        self.vertical = self.v - horizontal
        # The covector, of whatever z, that is pulled back to the same vector.
        self.g = network.solve_vjp(theta, horizontal)

    def back(self, vector):
        result = np.empty_like(vector)
        result[..., self.order] = vector
        return result

    def __getattr__(self, name):
        """Return a method of the network, called at θ."""
        return lambda *arguments: getattr(self.network, name)(self.theta, *arguments)


def spanned(matrix):
    """The projector onto the span of the rows."""
    return np.linalg.pinv(matrix) @ matrix


def fibre(side):
    """Products along paths at another point over the same z: those of this one."""
    point = side.back(side.network.fibre_point(side.theta, 0))
    moved = np.max(np.abs(point - side.back(side.theta))) > 0.1
    return side.relu.lift(point[side.relu_order]), moved


BOTH = {  # what both networks must answer alike, up to their own coordinates of z
    "coordinates": lambda s: s.network.coordinates,
    "lifted_dim": lambda s: s.lift().size == s.network.lifted_dim,
    "describe": lambda s: s.network.describe()["image_dim"],
    "pack": lambda s: s.back(s.network.pack(*s.unpack())),
    "unpack": lambda s: sum(part.size for part in s.unpack()),
    "phi": lambda s: np.array_equal(s.network.phi(s.theta), s.lift()),
    "lift": lambda s: s.back(s.network.recover(s.lift(), s.other_laws, near=s.theta)),
    "lift_jvp": lambda s: s.back(s.solve_jvp(s.lift_jvp(s.v))),
    "lift_vjp": lambda s: s.back(s.lift_vjp(s.g)),
    "lift_jacobian": lambda s: s.back(s.back(spanned(s.lift_jacobian())).T),
    "lift_hessian": lambda s: s.back(s.solve_jvp(s.lift_hessian(s.vertical, s.w))),
    "lift_hvp": lambda s: s.back(s.lift_hvp(s.vertical, s.g)),
    "lift_rank": lambda s: s.lift_rank(),
    "solve_jvp": lambda s: s.back(s.solve_jvp(s.lift_jvp(s.w))),
    "solve_vjp": lambda s: s.back(s.lift_vjp(s.solve_vjp(s.v))),
    "project_to_range": lambda s: s.back(s.solve_jvp(s.project_to_range(s.lift_jvp(s.v)))),
    "gram_apply": lambda s: s.back(s.solve_jvp(s.gram_apply(s.g))),
    "gram_matrix": lambda s: s.back(s.solve_jvp(s.gram_matrix() @ s.g)),
    "lifted_distance": lambda s: s.lifted_distance(s.network.fibre_point(s.theta, 1)),
    "lifted_norm": lambda s: s.lifted_norm() / np.linalg.norm(s.lift()),
    "project_to_image": lambda s: s.back(
        s.network.recover(
            s.network.project_to_image(s.lift(), near=s.theta), s.other_laws, near=s.theta
        )
    ),
    "h": lambda s: s.network.h(s.theta),
    "conservation_laws": lambda s: s.conservation_laws(),
    "conservation_laws_jacobian": lambda s: s.back(s.conservation_laws_jacobian()),
    "laws_rank": lambda s: s.laws_rank(),
    "laws_jvp": lambda s: s.laws_jvp(s.v),
    "laws_size": lambda s: (s.laws_size(), s.laws_size(s.v)),
    "laws_hessian": lambda s: s.laws_hessian(s.v, s.w),
    "project_to_tangent": lambda s: s.back(s.project_to_tangent(s.v)),
    "solve_laws_jvp": lambda s: s.back(s.solve_laws_jvp(s.other_laws)),
    "project_to_laws": lambda s: s.back(s.project_to_laws(s.other_laws)),
    "recover": lambda s: s.back(s.network.recover(s.lift(), s.other_laws, near=s.theta)),
    "align": lambda s: s.back(s.align(s.theta)),
    "sheets": lambda s: s.back(s.sheets()[0]),  # the others differ in signs, which ours keeps
    "basis_chart": lambda s: s.back(
        s.basis_chart().recover(s.basis_chart().coordinates(s.theta), s.other_laws)
    ),
    "with_laws": lambda s: s.network.with_laws([lambda t: (t**2).sum(-1)]).h(s.theta),
    "random_point": lambda s: s.network.random_point(3, 0).shape,
    "fibre_point": fibre,
}


def test_a_perceptron_is_the_network_of_its_graph_in_every_method():
    module, (x,) = build("MLP")
    network, theta = from_torch(module, x)
    other, same = from_layers(module)
    # Where entry i of θ lies in the other layout: by a module that holds its own numbers.
    for start, parameter in zip(
        np.cumsum([0, *(p.numel() for p in module.parameters())]), module.parameters(), strict=False
    ):
        numbers = torch.arange(start, start + parameter.numel(), dtype=torch.float64)
        parameter.data = numbers.reshape(parameter.shape)
    order = from_layers(module)[1].astype(int)
    np.testing.assert_array_equal(theta[order], same)
    assert (network.dim, network.n_laws) == (other.dim, other.n_laws)
    public = {name for name in type.__dir__(Architecture) if not name.startswith("_")}
    assert {*BOTH} == public  # a new method is to be compared, too
    sides = [Side(network, theta, np.arange(theta.size), 0), Side(other, same, order, 0)]
    for side in sides:
        side.relu, side.relu_order = other, order
    for name, answer in BOTH.items():
        found, wanted = map(answer, sides)
        if isinstance(wanted, str):
            assert found == wanted, name
            continue
        pairs = ((a if isinstance(a, tuple) else (a,)) for a in (found, wanted))
        for one, two in zip(*pairs, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-8, atol=1e-8, err_msg=name)
    # Control: with two channels exchanged hardly a method agrees.
    wrong = Side(other, same, np.roll(order, 1), 0)
    wrong.relu, wrong.relu_order = other, order
    missed = [n for n, f in BOTH.items() if n.startswith(("lift_", "laws_j", "solve", "project"))]
    for name in {*missed} - {"lift_rank"}:
        assert np.max(np.abs(BOTH[name](sides[0]) - BOTH[name](wrong))) > 1e-3, name
    y = np.random.default_rng(0).standard_normal((len(x), 2))
    loss = TorchLoss(network, lambda m: nn.functional.mse_loss(m(x), torch.from_numpy(y)))
    plain = NetworkLoss(other, x.numpy(), y)
    gradient = loss.parameter_gradient(theta, network)
    # Torch's mean squared error is a mean over samples and outputs, ours half of one over samples.
    np.testing.assert_allclose(gradient[order], plain.parameter_gradient(same, other), rtol=1e-10)
    span = (0.0, 0.2)
    flows = [
        IntrinsicFlow(InvariantSet(n, t), f).integrate(t_span=span, n_times=3, rtol=1e-9).theta
        for n, t, f in ((network, theta, loss), (other, same, plain))
    ]
    np.testing.assert_allclose(flows[0][:, order], flows[1], atol=1e-6)


def test_derivatives_of_the_lift(rng):
    network, theta = from_torch(*build("RNNCell"))
    theta = network.fibre_point(theta, rng)  # off the invariant set of z
    v, w, g = rng.standard_normal((3, network.dim))
    step = 1e-5

    def difference(f, vector):
        return (f(theta + step * vector) - f(theta - step * vector)) / (2 * step)

    slope = network.lift_jvp(theta, v)
    np.testing.assert_allclose(slope, difference(network.lift, v), atol=1e-7)
    np.testing.assert_allclose(g @ slope, network.lift_vjp(theta, g) @ v, rtol=1e-10)
    bent = difference(lambda t: network.lift_jvp(t, v), w)
    found = network.lift_hessian(theta, v, w)
    np.testing.assert_allclose(found, bent, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(network.lift_hvp(theta, v, g) @ w, g @ found, rtol=1e-9)
    np.testing.assert_allclose(
        network.laws_jvp(theta, v), difference(network.conservation_laws, v), atol=1e-7
    )
    there = network.lift_jvp(theta, network.solve_jvp(theta, slope))
    np.testing.assert_allclose(there, slope, atol=1e-10)
    assert np.max(np.abs(network.laws_jvp(theta, network.project_to_tangent(theta, v)))) < 1e-10


@pytest.mark.parametrize("name", ["RNNCell", "Siamese"])
def test_its_invariant_set_and_its_image_are_manifolds(name):
    start = InvariantSet(*from_torch(*build(name)))
    check_manifold(start)
    end = start.random_point(rng=0)
    assert start.belongs(end, atol=1e-9)
    vector = start.random_tangent_vec(start.theta0, rng=0)
    path = start.metric.exp(0.1 * vector, start.theta0)
    assert start.belongs(path, atol=1e-6)


def test_discrete_steps_and_batches_of_a_loader():
    module, (x,) = build("MLP")
    network, theta = from_torch(module, x)
    y = torch.zeros(16, 2, dtype=torch.float64)
    mse = nn.functional.mse_loss
    whole = TorchLoss(network, lambda m: mse(m(x), y))
    loader = DataLoader(TensorDataset(x, y), batch_size=3)  # the last one of 1
    parts = TorchLoss(network, lambda m, batch: mse(m(batch[0]), batch[1]), loader)
    value, gradient = (
        whole.parameter_value(theta, network),
        whole.parameter_gradient(theta, network),
    )
    np.testing.assert_allclose(parts.parameter_value(theta, network), value, rtol=1e-12)
    np.testing.assert_allclose(parts.parameter_gradient(theta, network), gradient, rtol=1e-10)
    # Minibatches of its samples, drawn anew in every epoch.
    rows = [3, 0, 15]
    few = TorchLoss(network, lambda m: mse(m(x[rows]), y[rows])).parameter_gradient(theta, network)
    found = parts.batch(rows).parameter_gradient(theta, network)
    np.testing.assert_allclose(found, few, rtol=1e-10)
    run = GradientDescent(network, parts, 0.1, batch_size=5).run(theta, 8, rng=0)
    np.testing.assert_allclose(run.predicted_laws, network.conservation_laws(run.theta), atol=1e-13)
    again = GradientDescent(network, parts, 0.1, batch_size=5).run(theta, 8, rng=1)
    assert parts.n_samples == 16 and np.max(np.abs(again.theta[-1] - run.theta[-1])) > 1e-4
    with pytest.raises(InputError, match=r"TorchLoss\(network, function, loader\)"):
        GradientDescent(network, whole, 0.1, batch_size=5)
    with pytest.raises(InputError, match="at most 16 samples"):
        GradientDescent(network, parts, 0.1, batch_size=17)
    run = GradientDescent(network, whole, 0.1).run(theta, 5)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        mse(module(x), y).backward()
        optimizer.step()
    np.testing.assert_allclose(run.theta[-1], network.from_module(module), rtol=1e-10)


def test_what_a_loss_refuses():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))
    x = torch.randn(4, 3)
    network, theta = from_torch(module, x)  # its laws hold whatever is dropped
    assert network.n_laws == 4
    with pytest.raises(InputError, match="eval"):
        TorchLoss(network, lambda m: m(x).sum())
    network, theta = from_torch(module.eval(), x)
    with pytest.raises(InputError, match="one number"):
        TorchLoss(network, lambda m: m(x)).parameter_value(theta, network)
    loss = TorchLoss(network, lambda m: m(x).sum())
    with pytest.raises(InputError, match="another network"):
        ParameterFlow(from_torch(module, x)[0], loss).integrate(theta, (0.0, 1.0))


def test_a_module_is_classified_by_its_channels():
    network, theta = from_torch(*build("RNNCell"))
    found = classify(network, theta)
    assert found.recoverable and found.metric and found.frobenius and found.complete
    assert found.n_laws.value == network.n_laws
    theta[:] = 0.0  # control: every channel is cut off
    assert not classify(network, theta).recoverable


def test_the_image_of_a_module_is_a_riemannian_manifold():
    module, x = (
        nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double(),
        torch.zeros(4, 2),
    )
    network, theta = from_torch(module, x)
    check_metric(InvariantSet(network, theta).image().metric)
