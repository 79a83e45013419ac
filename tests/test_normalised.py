"""Scale-invariant weights: spheres, laws, and flows that stay on them without a projection."""

import autograd
import autograd.numpy as anp
import geomstats.backend as gs
import numpy as np
import pytest

from liftflow import (
    Architecture,
    InvariantSet,
    SampledForward,
    compare,
    intrinsic_cometric,
    loss_from_function,
)
from liftflow.architectures import (
    GainedDirections,
    NormalisedNetwork,
    ProductArchitecture,
    ScaleInvariant,
)
from liftflow.criteria import count_conservation_laws
from liftflow.errors import InputError, NotOnImageError, NotRecoverableError
from liftflow.flows import ParameterFlow
from liftflow.losses import loss_from_parameters
from liftflow.metrics import RecoveredCometric, oracle_gram

needs_autodiff = pytest.mark.skipif(not gs.has_autodiff(), reason="numpy has no derivatives")


class Direction(Architecture):
    """The direction of one vector, of which a user wrote the lift and its law alone."""

    def __init__(self, size):
        super().__init__(size, (size,), n_laws=1)

    def lift(self, theta):
        return theta / anp.sqrt(anp.sum(theta**2, axis=-1, keepdims=True))

    def conservation_laws(self, theta):
        return anp.sum(theta**2, axis=-1, keepdims=True)


@needs_autodiff
@pytest.mark.slow
@pytest.mark.parametrize("size", [0.5, 1.0])
def test_a_bare_lift_flows_on_its_sphere(size, rng):
    architecture, forms = Direction(3), rng.standard_normal((2, 3))
    theta = rng.standard_normal(3)
    start = InvariantSet(architecture, size * theta / np.linalg.norm(theta))
    loss = loss_from_function(lambda z: anp.sum(forms[0] * z) + anp.sum(forms[1] * z) ** 2)
    both = compare(start, loss, (0.0, 1.0), rtol=1e-8, n_times=3)
    assert both.success
    assert isinstance(start.image().metric.cometric, RecoveredCometric)
    assert both.intrinsic.n_evaluations < 500
    assert both.max_deviation <= 1e-7
    moved = architecture.lifted_distance(both.parameter.theta[0], both.parameter.theta[-1])
    assert moved > 0.3
    own = ScaleInvariant(1, 3)  # the closed form leads to the same place
    flat = loss_from_function(lambda z: loss.value(z[0]))
    known = compare(InvariantSet(own, start.theta0), flat, (0.0, 1.0), rtol=1e-8, n_times=3)
    np.testing.assert_allclose(known.intrinsic.y[-1, 0], both.intrinsic.y[-1], atol=1e-7)
    longer = ScaleInvariant(1, 3).project_to_laws(start.theta0, [4 * size**2])
    other = intrinsic_cometric(architecture, longer)
    control = compare(start, loss, (0.0, 1.0), rtol=1e-8, cometric=other, n_times=3)
    assert control.max_deviation > 1e-2


def groups_of(architecture, theta):
    return theta.reshape(architecture.n_groups, architecture.group_shape[0], -1)


CASES = {
    "rows": ScaleInvariant(3, 4),
    "filters": ScaleInvariant(2, (2, 3, 3)),
    "layer norm": ScaleInvariant(1, (4, 3), centred=True),
    "groups, centred": ScaleInvariant(2, (3, 2), centred=True),
}


@pytest.mark.parametrize("architecture", CASES.values(), ids=CASES)
def test_lift_laws_and_metric_by_hand(architecture, rng):
    theta = architecture.random_point(rng=rng)
    groups = groups_of(architecture, theta)
    seen = groups - groups.mean(axis=1, keepdims=True) if architecture.centred else groups
    radii = np.sqrt(np.sum(seen**2, axis=(1, 2)))
    unit = seen / radii[:, None, None]
    z = architecture.lift(theta)
    np.testing.assert_allclose(z.ravel(), unit.ravel(), rtol=1e-14, atol=1e-14)
    laws = [np.sum(groups**2, axis=(1, 2))]
    if architecture.centred:
        laws.append(groups.sum(axis=1).ravel())
    wanted = np.concatenate(laws)
    np.testing.assert_allclose(architecture.conservation_laws(theta), wanted, rtol=1e-13)
    assert architecture.n_laws == wanted.size
    size = groups[0].size
    blocks = np.zeros((architecture.dim, architecture.dim))
    outputs = architecture.group_shape[0]
    centre = np.kron(np.eye(outputs) - 1 / outputs, np.eye(size // outputs))
    for number, (u, radius) in enumerate(zip(unit.reshape(len(unit), -1), radii, strict=True)):
        own = slice(number * size, (number + 1) * size)
        blocks[own, own] = (centre if architecture.centred else np.eye(size)) - np.outer(u, u)
        blocks[own, own] /= radius**2
    cometric = intrinsic_cometric(architecture, theta)
    np.testing.assert_allclose(cometric.matrix(z), blocks, atol=1e-13)
    np.testing.assert_allclose(architecture.gram_matrix(theta), blocks, atol=1e-13)
    np.testing.assert_allclose(cometric.point(z), theta, rtol=1e-12, atol=1e-12)
    longer = intrinsic_cometric(architecture, 2.0 * theta).matrix(z)
    np.testing.assert_allclose(4 * longer, blocks, atol=1e-13)
    if gs.has_autodiff():
        np.testing.assert_allclose(oracle_gram(architecture, theta), blocks, atol=1e-12)
        assert count_conservation_laws(architecture).value == architecture.n_laws
    for scale in (1e-200, 1e200):  # no square is taken on the way
        np.testing.assert_allclose(architecture.lift(scale * theta), z, rtol=1e-12, atol=1e-15)


def test_distances_are_those_of_great_circles(rng):
    architecture = ScaleInvariant(2, 3)
    theta = architecture.pack([[2.0, 0.0, 0.0], [0.0, 0.0, 0.5]])
    image = InvariantSet(architecture, theta).image()
    ends = [[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [[0.0, 1.0, 0.0], [0.0, 0.6, 0.8]]]
    wanted = np.hypot(2 * np.pi / 2, 0.5 * np.arccos(0.8))
    exact = image.metric.cometric.exact_distance(*map(np.array, ends))
    np.testing.assert_allclose(exact, wanted, rtol=1e-14)
    np.testing.assert_allclose(image.metric.dist(*map(np.array, ends)), wanted, rtol=1e-8)
    plane = np.array([[[0.0, 1.0, 0.0], [0.0] * 3], [[0.0, 0.0, 1.0], [0.0] * 3]])
    curvature = image.metric.sectional_curvature(*plane, np.array(ends[0]))
    np.testing.assert_allclose(curvature, 1 / 4, rtol=1e-9)


def test_points_off_the_spheres_are_refused(rng):
    architecture = ScaleInvariant(2, 3)
    theta = architecture.random_point(rng=rng)
    z, laws = architecture.lift(theta), architecture.conservation_laws(theta)
    with pytest.raises(NotOnImageError, match="spheres") as refused:
        architecture.recover(1.01 * z, laws)
    assert refused.value.residual == pytest.approx(0.01)
    np.testing.assert_allclose(architecture.project_to_image(1.01 * z), z, rtol=1e-14)
    with pytest.raises(NotRecoverableError, match="positive"):
        architecture.recover(z, [1.0, 0.0])
    with pytest.raises(NotRecoverableError, match="group 1 of weights is zero"):
        architecture.lift([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    with pytest.raises(InputError, match="no direction"):
        ScaleInvariant(3, 1)
    with pytest.raises(InputError, match="batch, weight or layer"):
        NormalisedNetwork([2, 3, 1], kind="group")
    with pytest.raises(InputError, match="one hidden layer or more"):
        NormalisedNetwork([2, 3])


DEPTHS = [(3, 4, 2), (2, 3, 2, 2), (2, 3, 3, 2, 1)]


def outputs_by_hand(network, theta, inputs):
    """The network, sample by sample, with its weights by name."""
    kind, (_, *hidden, n_outputs) = network.kind, network.widths
    left = list(theta)

    def take(*shape):
        numbers = [left.pop(0) for _ in range(int(np.prod(shape)))]
        return np.reshape(numbers, shape)

    values, gains, shifts = inputs, None, None
    for number, width in enumerate(hidden):
        below = values.shape[1]
        if number and kind != "layer":
            gains, shifts = take(below), take(below)
            values = np.maximum(gains * values + shifts, 0)
        weights = take(width, below)
        raw = values @ weights.T
        if kind == "batch":
            values = (raw - raw.mean(axis=0)) / raw.std(axis=0)
        elif kind == "weight":
            values = raw / np.linalg.norm(weights, axis=1)
        else:
            raw = raw - raw.mean(axis=1)[:, None]
            values = np.maximum(raw / raw.std(axis=1)[:, None], 0)
    width = hidden[-1]
    if kind == "layer":
        v, b = take(width, n_outputs), take(n_outputs)
        return values @ v + b
    gains, v, shifts, b = take(width), take(width, n_outputs), take(width), take(n_outputs)
    return np.maximum(gains * values + shifts, 0) @ v + b


def laws_by_hand(network, theta):
    """Of units of the first layer, then of each further one, then of the gains of the last."""
    parts, found = list(network.unpack(theta)), []
    for number, width in enumerate(network.widths[1:-1]):
        below = network.widths[number]
        own = parts.pop(0)
        if network.kind == "layer":
            found += [np.sum(own**2), *own.reshape(width, below).sum(axis=0)]
            continue
        if number and network.kind == "batch":
            gains, shifts, own = own[:below], own[below : 2 * below], own[2 * below :]
            found += [*(gains**2 + shifts**2 - np.sum(own.reshape(width, below) ** 2, axis=0))]
        elif number:
            own = parts.pop(0)  # behind the gains, which have none
        found += [*np.sum(own.reshape(width, below) ** 2, axis=1)]
    if network.kind != "layer":
        gains, v, shifts, _ = network.rest.unpack(parts.pop(0))
        found += [*(gains**2 + shifts**2 - np.sum(v**2, axis=1))]
    return found


@pytest.mark.parametrize("widths", DEPTHS, ids=str)
@pytest.mark.parametrize("kind", ["batch", "weight", "layer"])
def test_networks_by_hand(kind, widths, rng):
    network = NormalisedNetwork(widths, kind)
    theta, inputs = network.random_point(rng=rng), rng.standard_normal((9, widths[0]))
    wanted = outputs_by_hand(network, theta, inputs)
    np.testing.assert_allclose(network.forward(theta, inputs), wanted, rtol=1e-12, atol=1e-12)
    moved = network.forward(network.fibre_point(theta, rng), inputs)
    np.testing.assert_allclose(moved, wanted, rtol=1e-12, atol=1e-12)
    laws = network.conservation_laws(theta)
    np.testing.assert_allclose(np.sort(laws), np.sort(laws_by_hand(network, theta)), rtol=1e-12)
    if not gs.has_autodiff():
        return
    targets = rng.standard_normal(wanted.shape)

    def ell(theta, shift=0.0):
        outputs = network.forward(theta, inputs) + shift * anp.sum(theta**2)
        return anp.sum((outputs - targets) ** 2)

    slope = autograd.grad(ell)(theta)
    jacobian = network.conservation_laws_jacobian(theta)
    assert np.max(np.abs(jacobian @ slope)) < 1e-11 * np.linalg.norm(slope)
    other = autograd.grad(lambda t: ell(t, 0.1))(theta)
    assert np.max(np.abs(jacobian @ other)) > 1e-2 * np.linalg.norm(other)
    cometric = intrinsic_cometric(network, theta)
    oracle, z = oracle_gram(network, theta), network.lift(theta)
    np.testing.assert_allclose(cometric.matrix(z), oracle, atol=1e-10 * np.max(oracle))
    np.testing.assert_allclose(cometric.point(z), theta, rtol=1e-8, atol=1e-8)
    elsewhere = intrinsic_cometric(network, network.fibre_point(theta, rng)).matrix(z)
    assert np.max(np.abs(elsewhere - oracle)) > 1e-2 * np.max(oracle)


@pytest.mark.parametrize(("kind", "sees"), [("batch", False), ("layer", False), ("weight", True)])
def test_what_is_standardised_is_so_at_any_scale_or_refused(kind, sees, rng):
    network = NormalisedNetwork([3, 4, 2], kind)
    theta, inputs = network.random_point(rng=rng), rng.standard_normal((7, 3))
    wanted = network.forward(theta, inputs)
    for scale in (1e-300, 1e-6, 1e6, 1e300):
        found = network.forward(theta, scale * inputs)
        assert np.allclose(found, wanted, rtol=1e-12, atol=1e-12) is not sees
    assert network.forward(theta, inputs[:0]).shape == (0, 2)
    alike = np.repeat(0.1 + rng.random((1, 3)), 7, axis=0)
    for few in (inputs[:1], alike):  # what rounding leaves of their spread is no spread
        if kind == "batch":
            with pytest.raises(InputError, match="the samples must differ, got the same number"):
                network.forward(theta, few)
        else:
            assert np.ptp(network.forward(theta, few), axis=0) == pytest.approx([0, 0], abs=1e-15)
    if kind == "layer":
        with pytest.raises(InputError, match="the units must differ"):
            network.forward(theta, 0.0 * inputs)


@needs_autodiff
@pytest.mark.slow  # Jacobians at many points
@pytest.mark.parametrize(
    ("kind", "widths", "unseen"),
    [(kind, widths, 0) for kind in ("batch", "layer") for widths in ((3, 4, 2), (2, 3, 3, 2))]
    + [("weight", (3, 4, 2), 0), ("weight", (2, 3, 3, 2), 3)],
)
def test_the_laws_are_those_of_the_forward_pass(kind, widths, unseen, rng):
    """The rank of its gradients is what they leave, where no unit is dead; nowhere is it more.

    Deep weight norm has a symmetry besides, of as many dimensions as units below the last layer.
    """
    network, ranks = NormalisedNetwork(widths, kind), []
    wanted = network.dim - network.n_laws - unseen
    for _ in range(10):
        theta = network.random_point(rng=rng)
        batches = rng.standard_normal((2, 60, widths[0]))
        passes = [
            autograd.jacobian(lambda t, own=own: anp.ravel(network.forward(t, own)))(theta)
            for own in batches
        ]
        rows = np.vstack(passes)
        rows = rows / np.maximum(np.linalg.norm(rows, axis=0), 1e-9)
        ranks.append(np.linalg.matrix_rank(rows, rtol=1e-9))
        if ranks[-1] == wanted:
            break
    assert max(ranks) <= wanted
    assert max(ranks) == wanted or unseen


def test_gained_directions_recover_from_their_laws(rng):
    layer = GainedDirections(3, 2)
    theta = layer.random_point(2, rng)
    z, laws = layer.lift(theta), layer.conservation_laws(theta)
    np.testing.assert_allclose(layer.recover(z, laws, near=theta), theta, rtol=1e-9, atol=1e-9)
    positive = layer.recover(z, laws)
    np.testing.assert_allclose(layer.lift(positive), z, atol=1e-9)
    assert np.all(layer.unpack(positive)[0] > 0)
    with pytest.raises(NotOnImageError, match="off by"):
        layer.recover(z + 0.1 * rng.standard_normal(z.shape), laws)


def both_flows(network, n_samples, t_end, rng, **tolerances):
    inputs = rng.standard_normal((n_samples, 3))
    targets = np.stack([inputs[:, 0] * inputs[:, 1], np.abs(inputs[:, 2])], axis=1)

    def ell(theta):
        return anp.mean((network.forward(theta, inputs) - targets) ** 2)

    start = InvariantSet(network, network.random_point(rng=rng))
    loss = loss_from_parameters(ell, network)
    both = compare(start, loss, (0.0, t_end), control=True, n_times=3, **tolerances)
    assert both.success
    assert both.max_deviation < 1e-4  # the kinks take digits away
    assert both.control_deviation > 1e2 * both.max_deviation


@needs_autodiff
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["batch", "weight", "layer"])
def test_networks_flow_in_spheres_times_paths(kind, rng):
    both_flows(NormalisedNetwork([3, 4, 2], kind), 20, 0.3, rng, rtol=1e-7, atol=1e-9)


@needs_autodiff
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["batch", "weight", "layer"])
def test_deep_networks_flow_in_spheres_times_paths(kind, rng):
    """On 400 samples, of which none makes a kink that is large enough to slide along for long."""
    both_flows(NormalisedNetwork([3, 4, 3, 2], kind), 400, 0.1, rng)


@needs_autodiff
@pytest.mark.slow  # thousands of evaluations, as many as an error should take
def test_a_flow_that_slides_along_a_kink_ends_with_an_error():
    """Deep batch norm from a point whose flow meets a kink, which leads back to it on both sides.

    The Hessian there is moderate, and implicit methods do no better. A larger tolerance does.
    """
    rng, network = np.random.default_rng(11), NormalisedNetwork([3, 4, 3, 2])
    inputs = rng.standard_normal((60, 3))
    targets = np.stack([inputs[:, 0] * inputs[:, 1], np.abs(inputs[:, 2])], axis=1)
    loss = loss_from_parameters(
        lambda theta: anp.mean((network.forward(theta, inputs) - targets) ** 2), network
    )
    flow, theta0 = ParameterFlow(network, loss), network.random_point(rng=rng)
    stopped = flow.integrate(theta0, (0.0, 1.0), rtol=1e-6, n_times=3)
    assert not stopped.success and "slides along a kink" in stopped.message
    assert "try a larger rtol" in stopped.message and stopped.n_evaluations < 15_000
    control = flow.integrate(theta0, (0.0, 1.0), rtol=1e-3, n_times=3)
    assert control.success and control.n_evaluations < 1000


@needs_autodiff
def test_deep_weight_norm_has_a_law_more(rng):
    """Scaling all gains and shifts of a layer is made up for by the gains of the next one."""
    network = NormalisedNetwork([2, 3, 3, 2], "weight")
    theta, inputs = network.random_point(rng=rng), rng.standard_normal((9, 2))
    targets = rng.standard_normal((9, 2))

    def ell(theta):
        return anp.sum((network.forward(theta, inputs) - targets) ** 2)

    def law(theta, last=1.0):
        _, gained, _, rest = network.unpack(theta)
        return anp.sum(gained**2) - last * anp.sum(rest[:3] ** 2)

    slope, known = autograd.grad(ell)(theta), network.conservation_laws_jacobian(theta)
    size = np.linalg.norm(slope) * np.linalg.norm(theta)
    own = autograd.grad(law)(theta)
    assert abs(own @ slope) < 1e-13 * size
    assert np.linalg.matrix_rank(np.vstack([known, own])) == network.n_laws + 1
    assert abs(autograd.grad(lambda t: law(t, 0.9))(theta) @ slope) > 1e-3 * size
    # Each unit has such a symmetry, but no law: that of its gains alone changes.
    gains = np.zeros(network.dim)
    gains[[6, 9]] = theta[[6, 9]]
    assert abs(gains @ slope) > 1e-4 * size


@needs_autodiff
@pytest.mark.slow  # brackets at three points
def test_deep_weight_norm_has_no_other_law():
    """Counted by the forward pass alone, with leaky ReLUs, which have no dead units."""

    def forward(theta, x):
        first, gains, second, rest = theta[:4], theta[4:8], theta[8:12], theta[12:]
        for weights, own in ((first, gains), (second, rest)):
            weights = anp.reshape(weights, (2, 2))
            x = anp.dot(weights, x) / anp.sqrt(anp.sum(weights**2, axis=1))
            x = own[:2] * x + own[2:4]
            x = anp.where(x > 0, x, 0.3 * x)
        return anp.dot(rest[4:6], x) + rest[6]

    found = count_conservation_laws(SampledForward(forward, 19, (2,)))
    known = NormalisedNetwork([2, 2, 2, 1], "weight")
    assert known.dim == 19
    assert (str(found.verdict), found.value) == ("holds", known.n_laws + 1)
    assert found.witness["levels"][:2] == [19 - known.n_laws - 2, 1]  # brackets move the other


def test_gained_directions_have_derivatives_in_closed_form(rng):
    layer = GainedDirections(3, 2)
    theta, v = rng.standard_normal((2, 4, layer.dim))
    step, form = 1e-5, rng.standard_normal(layer.lifted_shape)
    slope = (layer.lift(theta + step * v) - layer.lift(theta - step * v)) / (2 * step)
    pushed = layer.lift_jvp(theta, v)
    np.testing.assert_allclose(pushed, slope, atol=1e-8 * np.max(np.abs(slope)))
    pulled = np.sum(layer.lift_vjp(theta, form) * v, axis=-1)
    np.testing.assert_allclose(pulled, np.sum(pushed * form, axis=(-3, -2, -1)), rtol=1e-11)
    z = layer.lift(theta)
    np.testing.assert_allclose(layer.project_to_image(z), z, atol=1e-13)
    off = layer.project_to_image(z + 1e-2 * rng.standard_normal(z.shape))
    assert 1e-4 < np.max(np.abs(off - z)) < 1e-1
    laws = layer.conservation_laws(theta)
    np.testing.assert_allclose(layer.lift(layer.recover(off, laws, near=theta)), off, atol=1e-9)


@pytest.mark.parametrize("architecture", CASES.values(), ids=CASES)
def test_batches_of_none(architecture):
    none = np.zeros((0, *architecture.lifted_shape))
    laws = architecture.conservation_laws(architecture.random_point(rng=0))
    for own in (architecture, ProductArchitecture(architecture, architecture)):
        values = laws if own is architecture else np.append(laws, laws)
        none = np.zeros((2, 0, *own.lifted_shape))
        assert own.recover(none, values).shape == (2, 0, own.dim)
    network = NormalisedNetwork([2, 3, 2, 2])
    none, laws = np.zeros((0, *network.lifted_shape)), np.zeros((0, network.n_laws))
    assert network.recover(none, laws, near=np.zeros((0, network.dim))).shape == (0, network.dim)
