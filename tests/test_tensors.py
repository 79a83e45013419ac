"""What an architecture has of which only the lift and its laws are written: u ⊗ v ⊗ w."""

import inspect

import autograd.numpy as anp
import numpy as np
import pytest
import tensors
from geomstats.learning.frechet_mean import FrechetMean
from tensors import RankOneTensors

from liftflow import InvariantSet, classify, compare, loss_from_function
from liftflow.architectures import ProductArchitecture, TwoLayerLinear
from liftflow.errors import NotIntrinsicError
from liftflow.metrics import ProductCometric, RecoveredCometric, intrinsic_cometric

NETWORK = RankOneTensors(2, 3, 2)


def cone_point(size, *angles):
    """Return a point with |u| = |v| = |w|, each turned by an angle from its first axis."""
    blocks = [np.zeros(n) for n in (2, 3, 2)]
    for block, angle in zip(blocks, angles, strict=True):
        block[:2] = size * np.cos(angle), size * np.sin(angle)
    return NETWORK.pack(*blocks)


def test_it_is_short():
    assert len(inspect.getsource(tensors).splitlines()) <= 25


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_distances_are_those_of_a_cone_over_three_spheres(scale):
    # |θ'|² = 3a'² + a² (α'² + β'² + γ'²), a cone with distance √3 a to its apex.
    start, end = cone_point(scale, 0.0, 0.0, 0.0), cone_point(1.2 * scale, 0.5, -0.3, 0.4)
    metric = InvariantSet(NETWORK, start).image().metric
    first, last = 3**0.5, 1.2 * 3**0.5
    opening = np.sqrt((0.5**2 + 0.3**2 + 0.4**2) / 3)
    wanted = np.sqrt(first**2 + last**2 - 2 * first * last * np.cos(opening))
    z, target = NETWORK.lift(start), NETWORK.lift(end)
    log = metric.log(target, z)
    np.testing.assert_allclose(metric.norm(log, z), scale * wanted, rtol=1e-9)
    np.testing.assert_allclose(metric.exp(log, z), target, rtol=0, atol=1e-9 * np.max(target))
    # The control: with other laws it is another metric.
    u, v, w = NETWORK.unpack(start)
    other = InvariantSet(NETWORK, NETWORK.pack(2 * u, v / 2, w)).image().metric
    assert abs(other.norm(log, z) / metric.norm(log, z) - 1) > 0.1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_image_does_not_depend_on_units(scale, rng):
    theta0 = scale * NETWORK.random_point(rng=1)
    image = InvariantSet(NETWORK, theta0).image()
    assert image.dim == 2 + 3 + 2 - 2
    plain = InvariantSet(NETWORK, theta0 / scale).image()
    noise = rng.standard_normal(image.shape)
    z = NETWORK.lift(NETWORK.random_point(rng=2))
    near = z + 1e-3 * np.max(np.abs(z)) * noise
    found = image.projection(scale**3 * near) / scale**3
    np.testing.assert_allclose(found, plain.projection(near), atol=1e-9)
    assert image.belongs(scale**3 * z, 1e-12) and not image.belongs(scale**3 * near, 1e-5)
    tangent = image.to_tangent(noise, scale**3 * z)
    np.testing.assert_allclose(tangent, plain.to_tangent(noise, z), atol=1e-9)
    assert image.is_tangent(tangent, scale**3 * z) and not image.is_tangent(noise, scale**3 * z)
    # Rank-one tensors are tangent where they share two of three factors.
    u, v, _ = NETWORK.unpack(NETWORK.random_point(rng=2))
    assert image.is_tangent(np.einsum("i,j,k", u, v, [0.3, -2.0]), scale**3 * z)


def test_both_flows_agree_and_the_metric_property_holds():
    theta0 = NETWORK.random_point(rng=0)
    start, target = InvariantSet(NETWORK, theta0), NETWORK.lift(NETWORK.random_point(rng=5))
    loss = loss_from_function(lambda z: 0.5 * anp.sum((z - target) ** 2))
    settings = {"rtol": 1e-7, "atol": 1e-9, "n_times": 3}
    run = compare(start, loss, (0.0, 0.3), **settings)
    assert run.success and run.max_deviation < 1e-6
    u, v, w = NETWORK.unpack(theta0)
    wrong = RecoveredCometric(NETWORK, NETWORK.pack(1.3 * u, v / 1.3, w))  # the control
    assert compare(start, loss, (0.0, 0.3), cometric=wrong, **settings).max_deviation > 1e-3
    assert classify(NETWORK, theta0).metric


def test_a_frechet_mean_is_that_of_the_cone():
    sizes = np.array([0.9, 1.0, 1.25])
    points = NETWORK.lift(np.stack([cone_point(size, 0.3, 0.2, -0.1) for size in sizes]))
    space = InvariantSet(NETWORK, cone_point(1.0, 0.3, 0.2, -0.1)).image().flattened()
    mean = FrechetMean(space)
    mean.set(epsilon=1e-8)
    mean.fit(points.reshape(3, -1))
    wanted = NETWORK.lift(cone_point(np.mean(sizes), 0.3, 0.2, -0.1)).ravel()
    np.testing.assert_allclose(mean.estimate_, wanted, atol=1e-6)
    assert np.max(np.abs(mean.estimate_ - np.mean(points, axis=0).ravel())) > 1e-3  # the control


class Lawless(RankOneTensors):
    """The same lift, of which no law is known."""

    def __init__(self, *shape):
        super().__init__(*shape)
        self.n_laws = 0

    def conservation_laws(self, theta):
        return self._theta(theta)[..., :0]


REASONS = (
    r"no closed form is registered for Lawless; .*\. Nor can θ be recovered from z: θ₀ is not "
    r"recoverable: ker ∂φ ∩ ker ∂h has dimension 2, so z and the 0 known laws"
)


@pytest.mark.parametrize("joined", [False, True])
def test_what_is_not_recoverable_is_refused_with_both_reasons(joined):
    network, known = Lawless(2, 3, 2), NETWORK
    if joined:
        linear = TwoLayerLinear(2, 2, 1)
        network, known = ProductArchitecture(linear, network), ProductArchitecture(linear, known)
    theta0 = network.random_point(rng=0)
    with pytest.raises(NotIntrinsicError, match=REASONS) as caught:
        intrinsic_cometric(network, theta0)
    assert str(caught.value).count("Nor can") == 1
    with pytest.raises(NotIntrinsicError, match=REASONS):
        InvariantSet(network, theta0).image()
    found = InvariantSet(known, theta0).image().metric.cometric  # the control
    assert type(found) is (ProductCometric if joined else RecoveredCometric)


def test_both_reasons_are_given_for_a_family_with_closed_forms():
    network = TwoLayerLinear(3, 2, 2)
    with pytest.raises(NotIntrinsicError, match=r"not a multiple of I.* Nor can θ be recovered"):
        intrinsic_cometric(network, network.random_point(rng=0))
