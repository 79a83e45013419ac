"""The flow with momentum: its equation, its laws and their number."""

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from liftflow.architectures import (
    Attention,
    DeepLinear,
    LinearNeuralODE,
    ReLUNetwork,
    TwoLayerLinear,
)
from liftflow.errors import InputError, UndefinedError
from liftflow.flows import MomentumFlow, Trajectory
from liftflow.losses import loss_from_function


def distance(shape):
    target = np.random.default_rng(0).standard_normal(shape)
    return loss_from_function(lambda z: 0.5 * anp.sum((z - target) ** 2))


def test_the_equation_by_hand():
    network, friction = TwoLayerLinear(1, 1, 1), 0.3
    loss = loss_from_function(lambda z: 0.5 * anp.sum((z - 2.0) ** 2))

    def by_hand(t, state):
        u, v, a, b = state
        return [a, b, -friction * a - (u * v - 2) * v, -friction * b - (u * v - 2) * u]

    start, speed = [1.0, -0.5], [0.2, 0.4]
    run = MomentumFlow(network, loss, friction).integrate(
        start, (0.0, 3.0), speed, rtol=1e-10, atol=1e-12, n_times=7
    )
    wanted = solve_ivp(by_hand, (0, 3), [*start, *speed], rtol=1e-11, atol=1e-13, t_eval=run.t)
    np.testing.assert_allclose(run.y.reshape(7, 4), wanted.y.T, atol=1e-8)
    np.testing.assert_array_equal(run.theta, run.y[:, 0])
    assert isinstance(run, Trajectory) and run.success


@pytest.mark.parametrize(
    "architecture",
    [
        TwoLayerLinear(3, 2, 2),
        TwoLayerLinear(1, 1, 3),
        DeepLinear([2, 3, 2, 2]),
        Attention(2, 2, 1),
    ],
    ids=["two layers", "numbers", "deep", "attention"],
)
def test_noether_laws_are_kept_and_those_of_the_gradient_flow_are_not(architecture, rng):
    friction, loss = 0.4, distance(architecture.lifted_shape)
    flow = MomentumFlow(architecture, loss, friction)
    start, speed = rng.standard_normal((2, architecture.dim))
    run = flow.integrate(start, (0.0, 2.0), speed, rtol=1e-9, atol=1e-11, n_times=9)
    theta, velocity = np.moveaxis(run.y, 1, 0)
    laws = flow.laws(run.t, theta, velocity)
    size = np.max(np.abs(laws))
    assert 0 < flow.n_laws <= laws.shape[1]
    assert np.max(np.ptp(laws, axis=0)) <= 1e-7 * size
    without = flow.laws(0.0 * run.t, theta, velocity)  # without e^{τt}
    assert np.max(np.ptp(without, axis=0)) > 1e-1 * size
    kept = architecture.conservation_laws(theta)
    assert np.max(np.ptp(kept, axis=0)) > 1e-1 * np.max(np.abs(kept))


def test_networks_keep_nothing(rng):
    network = ReLUNetwork.from_widths([2, 3, 1])
    flow = MomentumFlow(network, distance(network.lifted_shape), 0.4)
    assert flow.n_laws == 0
    start, speed = rng.standard_normal((2, network.dim))
    run = flow.integrate(start, (0.0, 1.0), speed, n_times=4)
    assert flow.laws(run.t, *np.moveaxis(run.y, 1, 0)).shape == (4, 0)
    kept = network.conservation_laws(run.theta)
    assert np.max(np.ptp(kept, axis=0)) > 1e-1


@pytest.mark.parametrize(("n", "m", "r"), [(2, 1, 1), (2, 1, 2), (2, 3, 4), (2, 1, 9), (3, 2, 5)])
def test_number_of_independent_laws(n, m, r):
    """Skew r × r matrices of rank at most 2(n + m): fewer than S has, except where r is large."""
    rank = min(r, 2 * (n + m))
    flow = MomentumFlow(TwoLayerLinear(n, m, r), distance((n, m)))
    assert flow.n_laws == rank * (2 * r - rank - 1) // 2
    symmetric = min(r, n + m)
    of_gradient_flow = symmetric * (2 * r - symmetric + 1) // 2
    assert (flow.n_laws > of_gradient_flow) == (r == 9)


def phase_space_laws(gradients, dim, levels, rng):
    """2D + 1 less the dimension of the Lie algebra of the flow in t, θ and θ', by autograd."""

    def field(state, weight, form):
        theta, speed = state[:dim], state[dim : 2 * dim]
        push = anp.dot(form, gradients(theta)) - 0.3 * weight * speed
        return anp.concatenate([weight * speed, push, anp.array([weight])])

    def bracket(one, other):
        def along(state):
            first = autograd.make_jvp(other)(state)(one(state))[1]
            return first - autograd.make_jvp(one)(state)(other(state))[1]

        return along

    state, rows = rng.standard_normal(2 * dim + 1), []
    n_forms = len(gradients(np.ones(dim)))
    for level in range(levels):
        for _ in range(2 * dim + 3):
            draws = [
                (rng.standard_normal(), rng.standard_normal(n_forms)) for _ in range(level + 1)
            ]
            fields = [lambda s, own=own: field(s, *own) for own in draws]
            nested = fields[0]
            for outer in fields[1:]:
                nested = bracket(outer, nested)
            row = nested(state)
            rows.append(row / np.linalg.norm(row))
    return 2 * dim + 1 - np.linalg.matrix_rank(np.array(rows), tol=1e-8)


@pytest.mark.slow
def test_counts_are_those_of_the_lie_algebra_in_phase_space(rng):
    def numbers(theta):  # z = Σ_j u_j v_j: TwoLayerLinear(1, 1, 2)
        return anp.concatenate([theta[2:], theta[:2]])[None]

    def neurons(theta):  # z_j = u_j v_j: a ReLU network of widths 1-2-1
        a, b, c, d = theta
        return anp.array([[c, 0.0, a, 0.0], [0.0, d, 0.0, b]])

    def vectors(theta):  # TwoLayerLinear(2, 1, 2)
        u, v, nothing = theta[:4], theta[4:], np.zeros(2)
        rows = [[v, nothing, u[:2]], [nothing, v, u[2:]]]
        return anp.array([anp.concatenate(row) for row in rows])

    assert phase_space_laws(numbers, 4, 5, rng) == 2  # two halves turn apart
    assert MomentumFlow(TwoLayerLinear(1, 1, 2), distance((1, 1))).n_laws == 2
    assert phase_space_laws(neurons, 4, 5, rng) == 0
    assert phase_space_laws(vectors, 6, 5, rng) == 1
    assert MomentumFlow(TwoLayerLinear(2, 1, 2), distance((2, 1))).n_laws == 1


def test_what_is_refused():
    network = TwoLayerLinear(2, 2, 1)
    with pytest.raises(InputError, match="friction"):
        MomentumFlow(network, distance((2, 2)), -1.0)
    ode = LinearNeuralODE(2, 3)
    with pytest.raises(UndefinedError, match="linear layers"):
        _ = MomentumFlow(ode, distance((2, 2))).n_laws
