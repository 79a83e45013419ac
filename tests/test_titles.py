"""What figures say of two flows is what their numbers say."""

from dataclasses import replace

import autograd.numpy as anp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from liftflow import InvariantSet, TwoLayerLinear, compare, intrinsic_cometric, loss_from_function
from liftflow.flows import Sweep
from liftflow.flows.sweep import SweepRun

NETWORK = TwoLayerLinear(3, 3, 2)
TARGET = np.diag([1.0, -2.0, 0.5])


def run(theta, rtol=1e-6, **settings):
    forced = intrinsic_cometric(NETWORK, theta, tolerance=np.inf)
    loss = loss_from_function(lambda z: anp.sum((z - TARGET) ** 2))
    start = InvariantSet(NETWORK, theta)
    return compare(
        start, loss, (0.0, 0.5), rtol, 1e-2 * rtol, cometric=forced, n_times=6, **settings
    )


def title(result):
    figure = result.plot()
    plt.close(figure)
    return figure.axes[0].get_title("left")


@pytest.fixture(scope="module")
def balanced():
    return run(NETWORK.balanced_point(0.3, 0), control=True)


@pytest.fixture(scope="module")
def generic():
    """The closed form forced where there is none: the flows part."""
    return run(NETWORK.random_point(rng=0))


def test_flows_agree_or_part_as_their_deviation_says(balanced, generic):
    assert balanced.max_deviation < 1e-4 < 1e-2 < generic.max_deviation
    assert title(balanced) == f"Flows agree to {balanced.max_deviation:.1e}"
    assert title(generic) == f"Flows part by {generic.max_deviation:.1e}"


def test_flows_part_that_agree_no_better_than_their_control(balanced):
    near = balanced.control_deviation_over_time * 5 * balanced.max_deviation
    near /= balanced.control_deviation
    assert (
        title(replace(balanced, control_deviation_over_time=near))
        == f"Flows part by {balanced.max_deviation:.1e}"
    )


def as_sweep(*comparisons):
    runs = [
        SweepRun(
            seed,
            own.summary(),
            own.parameter.t,
            own.deviation,
            own.parameter.loss,
            own.intrinsic.loss,
            np.empty(0),
        )
        for seed, own in enumerate(comparisons)
    ]
    return Sweep(tuple(runs))


def test_one_of_several_runs_that_parts_is_counted(generic):
    well = run(NETWORK.balanced_point(0.3, 1))
    assert title(as_sweep(well, well)) == f"In 2 runs flows agree to {well.max_deviation:.1e}"
    expected = f"In 1 of 2 runs flows part, by {generic.max_deviation:.1e}"
    assert title(as_sweep(well, generic)) == expected


def only_begun(result):
    begun = result.intrinsic.head(1)
    return replace(result, intrinsic=begun, deviation=result.deviation[:1])


def test_flows_that_share_their_start_alone_are_not_compared(balanced):
    begun = only_begun(replace(balanced, control=None, control_deviation_over_time=None))
    assert np.isnan(begun.max_deviation) and np.isnan(begun.summary()["max_deviation"])
    assert title(begun) == "Flows not compared: the intrinsic flow ended where it began"
    assert str(begun).count("nan") == 1
    well = run(NETWORK.balanced_point(0.3, 1))
    assert title(as_sweep(well, begun)) == f"In 1 runs flows agree to {well.max_deviation:.1e}"
    assert title(as_sweep(begun)) == "Flows not compared in 1 runs"
    twice = replace(balanced, deviation=balanced.deviation[:2])
    assert twice.max_deviation == balanced.deviation[1]


def test_a_flow_that_ended_early_is_told_so_far():
    theta = NETWORK.balanced_point(0.3, 0)
    blows_up = loss_from_function(lambda z: -(anp.sum(z**2) ** 2))
    early = compare(InvariantSet(NETWORK, theta), blows_up, (0.0, 0.1), 1e-6, 1e-8, n_times=101)
    assert not early.success
    assert ", up to t = 0" in title(early)


@pytest.mark.parametrize("times", [[0.5], [0.3, 0.5], [0.0, 0.5]])
def test_times_that_leave_the_start_out_are_compared(times, tmp_path):
    result = run(NETWORK.random_point(rng=0), t_eval=times)  # parts from the start on
    by_theta, by_z = NETWORK.lift(result.parameter.theta), result.intrinsic.y
    gaps = [np.linalg.norm(a - b) / np.linalg.norm(a) for a, b in zip(by_theta, by_z, strict=True)]
    assert result.max_deviation == pytest.approx(max(gaps)) and max(gaps) > 1e-3
    assert title(result) == f"Flows part by {max(gaps):.1e}"
    drawn = [line for line in result.plot().axes[1].lines if line.get_label() == "intrinsic flow"]
    assert len(drawn[0].get_ydata()) == np.sum(np.array(times) > 0)
    result.save(tmp_path / "one.npz")
    assert type(result).load(tmp_path / "one.npz").verdict == result.verdict


def test_the_start_alone_is_not_compared():
    assert "not compared" in title(run(NETWORK.balanced_point(0.3, 0), t_eval=[0.0]))


def test_a_flow_that_kept_its_start_alone_is_not_compared_with_later_times(balanced):
    from liftflow.flows.compare import _deviation

    late = replace(balanced.parameter, t=balanced.parameter.t + 0.1)
    assert not _deviation(None, balanced.intrinsic, late).size
    nothing = replace(balanced, deviation=np.empty(0), intrinsic=balanced.intrinsic.head(1))
    assert "the intrinsic flow ended where it began" in title(nothing)
