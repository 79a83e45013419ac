"""The lift as a fibre bundle: projections, O'Neill's tensor, alignment, and the quotient metric."""

import pickle
from functools import partial

import joblib
import numpy as np
import pytest
from cases import LIFTS, balanced, layers, on_set, residual
from geomstats.geometry.pre_shape import PreShapeSpace

from liftflow.architectures import Attention, DeepLinear, TwoLayerLinear
from liftflow.errors import NotIntrinsicError
from liftflow.manifolds import InvariantSet, LiftQuotientMetric
from liftflow.testing import check_bundle

RECOVERABLE = {
    "layers 4-6-3": lambda: on_set(layers([4, 6, 3])),
    "residual 2-3-3-2, biases": lambda: on_set(residual([2, 3, 3, 2], [(0, 2), (1, 3)], bias=True)),
    **{name: lambda build=build: on_set(build()) for name, build in LIFTS.items()},
}
WITH_FIBRES = {
    "two layers 4, 3, 3": lambda: on_set(*balanced(TwoLayerLinear(4, 3, 3), 0.7)),
    "two layers 5, 3, 2": lambda: on_set(*balanced(TwoLayerLinear(5, 3, 2), -1.0)),
    "two layers 2, 2, 5": lambda: on_set(*balanced(TwoLayerLinear(2, 2, 5), 0.0)),
    "deep 3-3-3-3": lambda: on_set(*balanced(DeepLinear([3, 3, 3, 3]), (0.5, -1.2))),
    "attention": lambda: on_set(*balanced(Attention(3, 2, 1), 0.5)),
}
BUNDLES = {**RECOVERABLE, **WITH_FIBRES}


def params(table):
    return [pytest.param(build, id=name) for name, build in table.items()]


@pytest.mark.parametrize("build", params(BUNDLES))
def test_contract(build, rng):
    check_bundle(build(), rng)


@pytest.mark.parametrize("build", params(RECOVERABLE))
def test_nothing_is_vertical_where_theta_is_recoverable(build, rng):
    invariant_set = build()
    theta = invariant_set.random_point(rng=rng)
    vector = invariant_set.random_tangent_vec(theta, rng=rng)
    bundle = invariant_set.fiber_bundle
    assert np.max(np.abs(bundle.vertical_projection(vector, theta))) < 1e-11 * np.abs(vector).max()
    assert bundle.is_horizontal(vector, theta, atol=1e-10)
    assert not bundle.is_vertical(vector, theta, atol=1e-3)


@pytest.mark.parametrize("build", params(WITH_FIBRES))
def test_vertical_vectors_are_those_of_the_fibres(build, rng):
    # A turn of the hidden frame moves θ along its fibre, on the invariant set.
    invariant_set = build()
    theta = invariant_set.random_point(rng=rng)
    bundle = invariant_set.fiber_bundle
    vector = invariant_set.random_tangent_vec(theta, rng=rng)
    vertical = bundle.vertical_projection(vector, theta)
    assert np.linalg.norm(vertical) > 0.01 * np.linalg.norm(vector)
    assert bundle.is_vertical(vertical, theta, atol=1e-9)
    assert not bundle.is_horizontal(vertical, theta, atol=1e-3)
    lift, laws = invariant_set.lift, invariant_set.submersion
    for value in (lift, laws):
        # Second order in the step, because the fibre has this tangent.
        gaps = [np.abs(value(theta + h * vertical) - value(theta)).max() for h in (1e-3, 1e-4)]
        assert gaps[1] < 0.02 * gaps[0] + 1e-14


@pytest.mark.parametrize("build", params(WITH_FIBRES))
def test_integrability_tensor_is_half_the_vertical_part_of_the_bracket(build, rng):
    invariant_set = build()
    architecture, bundle = invariant_set.architecture, invariant_set.fiber_bundle
    theta = invariant_set.random_point(rng=rng)
    forms = rng.standard_normal((2, *architecture.lifted_shape))
    a, b = (architecture.lift_vjp(theta, form) for form in forms)
    h = 1e-5

    def slope(form, direction):
        ends = [architecture.lift_vjp(theta + s * direction, form) for s in (h, -h)]
        return (ends[0] - ends[1]) / (2 * h)

    bracket = slope(forms[1], a) - slope(forms[0], b)
    wanted = bundle.vertical_projection(invariant_set.to_tangent(bracket, theta), theta) / 2
    found = bundle.integrability_tensor(a, b, theta)
    assert np.linalg.norm(wanted) > 0.01 * np.linalg.norm(a) * np.linalg.norm(b)
    np.testing.assert_allclose(found, wanted, atol=1e-7 * np.abs(wanted).max())


@pytest.mark.parametrize("build", params(BUNDLES))
def test_quotient_metric_is_the_closed_form(build, rng):
    invariant_set = build()
    closed, quotient = invariant_set.image(), invariant_set.equip_with_quotient()
    z = closed.projection(invariant_set.lift(invariant_set.random_point(3, rng=rng)))
    a, b = (closed.random_tangent_vec(z, rng=rng) for _ in range(2))
    scale = np.sqrt(closed.metric.squared_norm(a, z) * closed.metric.squared_norm(b, z))
    gap = quotient.metric.inner_product(a, b, z) - closed.metric.inner_product(a, b, z)
    assert np.max(np.abs(gap) / scale) < 1e-9


def test_another_lambda_has_another_quotient_metric(rng):
    network = TwoLayerLinear(3, 3, 3)
    image, other = (on_set(*balanced(network, lam)) for lam in (0.7, 0.6))
    z = image.lift(image.theta0)
    vector = rng.standard_normal(z.shape)
    closed = image.image().metric.squared_norm(vector, z)
    gap = other.equip_with_quotient().metric.squared_norm(vector, z) - closed
    assert abs(gap) > 1e-3 * closed


@pytest.mark.parametrize("build", params(WITH_FIBRES))
def test_curvature_of_the_quotient_is_the_closed_form(build, rng):
    invariant_set = build()
    closed, quotient = invariant_set.image(), invariant_set.equip_with_quotient()
    z = invariant_set.lift(invariant_set.theta0)
    vectors = closed.random_tangent_vec(z, n_samples=3, rng=rng)
    wanted = closed.metric.curvature(*vectors, z)
    found = quotient.metric.curvature(*vectors, z)
    np.testing.assert_allclose(found, wanted, atol=1e-9 * np.abs(wanted).max())
    # The sign that geomstats 2.8.0 gives O'Neill's correction is another one.
    generic = super(LiftQuotientMetric, quotient.metric).curvature(*vectors, z)
    assert np.abs(generic - wanted).max() > 1e-3 * np.abs(wanted).max()


def test_geomstats_has_the_other_sign_for_planar_shapes_too(rng):
    # If this fails, geomstats has mended its quotient metric: delete LiftQuotientMetric.
    shapes = PreShapeSpace(4, 2).equip_with_group_action("rotations")
    quotient, bundle = shapes.equip_with_quotient(), shapes.fiber_bundle
    x = shapes.projection(rng.standard_normal((4, 2)))
    tangent = shapes.to_tangent(rng.standard_normal((2, 4, 2)), x)
    a, b = bundle.horizontal_projection(tangent, x)
    assert quotient.metric.sectional_curvature(a, b, x) < 1  # complex projective: from 1 to 4


def test_there_is_no_quotient_where_the_fibres_are_not_equidistant():
    network = TwoLayerLinear(3, 3, 3)
    with pytest.raises(NotIntrinsicError, match="not a multiple of I"):
        InvariantSet(network, network.random_point(rng=0)).equip_with_quotient()


def test_horizontal_lift_needs_a_point():
    with pytest.raises(ValueError, match="needs a base_point or a fiber_point"):
        on_set(layers([2, 2, 1])).fiber_bundle.horizontal_lift(np.zeros(4))


@pytest.mark.parametrize("build", params(BUNDLES))
def test_everything_can_be_pickled_and_sent_to_workers(build, rng):
    invariant_set = build()
    theta = invariant_set.random_point(rng=rng)
    z, vector = invariant_set.lift(theta), invariant_set.random_tangent_vec(theta, rng=rng)
    again = pickle.loads(pickle.dumps(invariant_set))
    np.testing.assert_array_equal(again.submersion(theta), invariant_set.submersion(theta))
    bundle = pickle.loads(pickle.dumps(invariant_set.fiber_bundle))
    expected = invariant_set.fiber_bundle.horizontal_projection(vector, theta)
    np.testing.assert_array_equal(bundle.horizontal_projection(vector, theta), expected)
    image = invariant_set.image()
    for space in (image, image.flat()):
        point = np.reshape(z, space.shape)
        norm = space.metric.squared_norm(space.to_tangent(point, point), point)
        copy = pickle.loads(pickle.dumps(space))
        assert copy.metric.squared_norm(space.to_tangent(point, point), point) == norm
        found = joblib.Parallel(n_jobs=2, prefer="threads")(
            joblib.delayed(space.metric.squared_norm)(point, point) for _ in range(2)
        )
        assert found[0] == found[1]


# Negative controls: each breaks one promise, and the contract says which.

BROKEN = {
    "horizontal_lift: push-forward|horizontal_lift of a push-forward": (
        "horizontal_lift",
        lambda own, *args, **kwargs: 1.01 * own(*args, **kwargs),
    ),
    "horizontal_projection: rank 12, expected 9": (
        "horizontal_projection",
        lambda own, vector, point: vector + 0 * point,
    ),
    "vertical_projection|both projections": (
        "vertical_projection",
        lambda own, vector, point: 0.5 * own(vector, point),
    ),
    "integrability_tensor: skew": (
        "integrability_tensor",
        lambda own, a, b, point: own(a, b, point) + 1e-3 * b,
    ),
    "lift: a section": ("lift", lambda own, z: 1.01 * own(z)),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_contract_catches(reason, rng, monkeypatch):
    invariant_set = on_set(*balanced(TwoLayerLinear(3, 3, 3), 0.7))
    name, broken = BROKEN[reason]
    bundle = invariant_set.fiber_bundle
    monkeypatch.setattr(bundle, name, partial(broken, getattr(bundle, name)))
    with pytest.raises(AssertionError, match=reason):
        check_bundle(invariant_set, rng)


def test_contract_catches_alignment_by_frames_alone(rng, monkeypatch):
    # Procrustes' problem is right to second order only: the invariant set is curved.
    invariant_set = on_set(*balanced(TwoLayerLinear(3, 3, 3), 0.7))
    bundle = invariant_set.fiber_bundle
    monkeypatch.setattr(bundle.aligner, "align", invariant_set.architecture.align)
    with pytest.raises(AssertionError, match="align: the geodesic there is not horizontal"):
        check_bundle(invariant_set, rng)
