"""A point is looked at once, in floats where its scales do not part."""

from itertools import pairwise

import numpy as np
import pytest
from hierarchy_cases import TABLE, balanced, generic, verdicts

from liftflow import classify
from liftflow.architectures import DeepLinear, ReLUNetwork, TwoLayerLinear
from liftflow.criteria import views
from liftflow.criteria.precise import PreciseVectors
from liftflow.criteria.views import View, view_of


def look(network, theta):
    return view_of(network, theta, np.random.default_rng(0))


def spread(widths, ratio):
    """Draw layers whose singular values lie between 1 and 1/ratio, along random directions."""
    rng, layers = np.random.default_rng(0), []
    for m, n in pairwise(widths):
        left, right = (np.linalg.qr(rng.standard_normal((k, k)))[0] for k in (n, m))
        k = min(m, n)
        layers.append(left[:, :k] * np.geomspace(1, 1 / ratio, k) @ right[:k])
    network = DeepLinear(widths)
    return network, network.from_layers(layers)


def test_classify_looks_at_the_point_once(monkeypatch):
    network, theta = balanced(TwoLayerLinear(2, 2, 2), 0.7)
    seen, create = [], View.__init__

    def noted(self, architecture, at, rng):
        seen.append(np.array_equal(at, theta))
        create(self, architecture, at, rng)

    monkeypatch.setattr(View, "__init__", noted)
    classify(network, theta)
    assert seen.count(True) == 1
    assert seen.count(False) == 3  # of the metric property, at the ends of flows
    assert look(network, theta).trace is not look(network, theta).trace  # the control


def test_what_is_found_is_kept():
    view = look(*generic(TwoLayerLinear(2, 2, 2)))
    assert view.frobenius is view.frobenius
    assert view.kernel is view.kernel and view.trace is view.trace


@pytest.mark.parametrize("case", TABLE)
def test_points_whose_scales_do_not_part_are_seen_in_floats(case):
    network, theta = TABLE[case][0]()
    if not hasattr(network, "factors"):
        assert not isinstance(look(network, theta).vectors, PreciseVectors)


@pytest.mark.parametrize(("ratio", "precise"), [(10, False), (1e4, True)])
def test_precision_follows_the_singular_values(ratio, precise):
    assert isinstance(look(*spread([2, 2, 2], ratio)).vectors, PreciseVectors) == precise


@pytest.mark.parametrize("widths", [[2, 2, 2], [1, 2, 2, 1], [3, 2, 1]], ids=str)
@pytest.mark.parametrize("ratio", [30])
def test_floats_and_precision_agree(widths, ratio, monkeypatch):
    network, theta = spread(widths, ratio)
    floats = verdicts(classify(network, theta))
    monkeypatch.setattr(views, "needs_precision", lambda *given: True)
    monkeypatch.setattr(View, "floats", property(lambda view: view))  # nor asked first
    assert isinstance(look(network, theta).vectors, PreciseVectors)
    assert verdicts(classify(network, theta)) == floats


@pytest.mark.parametrize("sizes", [(3, 3, 2), (12, 11, 2)])
def test_the_kernel_in_the_orbit_is_that_of_the_laws_where_they_are_complete(sizes):
    view = look(*balanced(TwoLayerLinear(*sizes), 0.7))
    assert view.complete
    (along,), (in_orbit,) = view.kernel.basis, view.orbit_kernel.basis
    assert abs(along @ in_orbit) == pytest.approx(1)
    recoverable, inclusion = view.in_orbit
    assert (recoverable.verdict, inclusion.verdict) == ("fails", "holds")
    fails = look(*generic(TwoLayerLinear(*sizes))).in_orbit[1]  # the control
    assert fails.verdict == "fails"


def test_laws_end_the_search_for_brackets_if_they_are_laws():
    network, theta = balanced(TwoLayerLinear(3, 3, 2), 0.7)
    assert look(network, theta).most == 12 - 3
    assert len(look(network, theta).trace.ranks) == 2  # no third level that adds nothing
    wrong = network.with_laws([lambda theta: theta[0], lambda theta: theta[1] * theta[2]])
    view = look(wrong, theta)
    assert view.most == 12 and not view.tells
    assert view.dimension.value == 9


def test_a_kernel_is_clear_where_another_direction_is_not():
    network, theta = balanced(TwoLayerLinear(3, 3, 2), 0.7)
    assert look(network, theta).kernel.rank.vague == 11
    layers = [np.diag([1.0, 1.0, 3e-10]), np.diag([1.0, 1.0, 0.0])]
    network = DeepLinear([3, 3, 3])
    kernel = look(network, network.from_layers(layers)).floats.kernel
    assert kernel.recoverable.verdict == "fails"


def test_close_to_the_border_the_dynamic_property_is_undecided(rng):
    network, theta = balanced(TwoLayerLinear(2, 2, 2), 0.7)
    moved = theta + 1e-9 * rng.standard_normal(theta.size)
    assert classify(network, moved).dynamic.verdict == "undecided"


def test_quick_is_floats_alone():
    """What double precision hides is undecided then; the rest is told as by high precision."""
    network, theta = spread([2, 2, 2], 1e6)
    view = look(network, theta)
    assert isinstance(view.vectors, PreciseVectors)
    assert not isinstance(view.floats.vectors, PreciseVectors)
    slow, quick = (classify(network, theta, quick=flag, rng=0) for flag in (False, True))
    for name, finding in vars(quick).items():
        assert finding.verdict in ("undecided", getattr(slow, name).verdict), name
    assert quick.recoverable.verdict == slow.recoverable.verdict == "fails"


def test_high_precision_is_asked_only_where_floats_do_not_tell(monkeypatch):
    """A verdict of floats that generic points share stands; at special points it does not."""
    asked = []
    evaluate = PreciseVectors.exact
    monkeypatch.setattr(
        PreciseVectors, "exact", lambda self, *args: asked.append(0) or evaluate(self, *args)
    )
    rng = np.random.default_rng(0)
    network = ReLUNetwork.from_widths([3, 3, 2])
    theta = network.random_point(rng=0) * 10.0 ** rng.uniform(-3, 3, network.dim)
    theta[[0, 5]] = 0.0
    assert classify(network, theta).frobenius.verdict == "holds"
    assert not asked
    network = DeepLinear([2, 2, 2])
    theta = network.from_layers([np.diag([1.0, 1e-4])] * 2)  # balanced
    found = classify(network, theta)
    assert (found.recoverable.verdict, found.inclusion.verdict) == ("fails", "holds")
    assert asked


def test_the_orbit_asks_for_no_precision_where_all_laws_are_known(monkeypatch):
    """Then it is ker ∂h, of which floats tell; the control is a network with unknown laws."""
    asked = []
    evaluate = PreciseVectors.exact
    monkeypatch.setattr(
        PreciseVectors, "exact", lambda self, *args: asked.append(0) or evaluate(self, *args)
    )
    for widths, told, wanted in (
        ([3, 3, 3], ("fails", "fails"), False),
        ([1, 2, 2, 1], ("holds", "holds"), True),
    ):
        network = DeepLinear(widths)
        theta = network.random_point(rng=0)
        theta[: network.dim // 3] *= 1e-4
        view = look(network, theta)
        assert isinstance(view.vectors, PreciseVectors)
        assert tuple(str(finding.verdict) for finding in view.in_orbit) == told
        assert bool(asked) == wanted
