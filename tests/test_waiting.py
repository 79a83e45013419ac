"""What people wait for: recovery, far geodesics and means, threads of BLAS."""

import builtins
import dataclasses
import io
import pickle
import sys
import time

import autograd.numpy as anp
import numpy as np
import pytest
from cases import layers
from test_flows import problem

from liftflow import ParameterFlow, classify, waiting
from liftflow.architectures import Architecture, forward
from liftflow.errors import GeodesicError, InputError
from liftflow.threads import DESERVES_ANOTHER, _libraries, blas_threads


class Tensors(Architecture):
    """u ⊗ v ⊗ w, which counts how often it is lifted."""

    lifts = 0

    def __init__(self):
        super().__init__(7, (3, 2, 2), n_laws=2, block_shapes=[(3,), (2,), (2,)])

    def lift(self, theta):
        self.lifts += 1
        return anp.einsum("...i,...j,...k->...ijk", *self.unpack(theta))

    def conservation_laws(self, theta):
        u, v, w = (anp.sum(block**2, axis=-1) for block in self.unpack(theta))
        return anp.stack([u - v, v - w], axis=-1)


def test_recovery_from_the_answer_takes_one_lift(rng):
    toy = Tensors()
    theta = toy.random_point(rng=rng)
    z, laws = toy.lift(theta), toy.conservation_laws(theta)
    toy.lift_jacobian(theta)  # which looks at the lift once
    toy.lifts = 0
    np.testing.assert_array_equal(toy.recover(z, laws, near=theta), theta)
    assert toy.lifts == 1
    near = theta + 0.05 * rng.standard_normal(7)
    found = toy.recover(z, laws, near=near)
    np.testing.assert_allclose(found, theta, rtol=1e-13, atol=1e-14)
    assert 1 < toy.lifts - 1 <= 16  # each step takes two, of which few double the digits
    # From rounding errors beside it there is nothing to gain by halving steps.
    toy.lifts, beside = 0, theta * (1.0 + 1e-15 * rng.standard_normal(7))
    np.testing.assert_allclose(toy.recover(z, laws, near=beside), theta, rtol=1e-14)
    assert toy.lifts <= 4


@pytest.mark.parametrize("where", ["set", "image"])
def test_the_time_for_far_geodesics_is_bounded(where):
    start, _ = problem("dag")
    points = start.random_point(3, rng=0)
    space = start if where == "set" else start.image()
    points = points if where == "set" else start.lift(points)
    metric = space.metric
    whole = metric.solver
    metric.solver = dataclasses.replace(whole, seconds=1e-3)
    began = time.process_time()
    for call in (
        lambda: metric.log(points[1:], points[0]),
        lambda: metric.frechet_mean(points),
    ):
        with pytest.raises(GeodesicError, match=r"within 0\.001 seconds: of a length of about"):
            call()
    assert time.process_time() - began < 5
    metric.solver = whole  # the control: near points have a mean, half way between two
    theta = start.theta0
    vector = start.random_tangent_vec(theta, rng=0)
    base = theta if where == "set" else start.lift(theta)
    vector = vector if where == "set" else start.architecture.lift_jvp(theta, vector)
    end = metric.exp(0.05 * vector / metric.norm(vector, base), base)
    middle = metric.frechet_mean(np.stack([base, end]))
    half = metric.exp(0.5 * metric.log(end, base), base)
    np.testing.assert_allclose(middle, half, atol=1e-4)
    with pytest.raises(InputError, match="seconds must be positive"):
        dataclasses.replace(whole, seconds=0.0)


def test_within_a_bound_a_geodesic_starts_from_the_one_before(monkeypatch):
    start, _ = problem("dag")
    metric = start.metric
    base = start.theta0
    velocity = start.random_tangent_vec(base, rng=0)
    velocity /= np.linalg.norm(velocity)
    target = metric.exp(velocity, base)
    moved = metric.exp(0.02 * velocity, base)
    counts, step = [0], type(metric.solver)._look_at_the_clock

    def counting(self, *arguments):  # for each curve that is tried
        counts[-1] += 1
        return step(self, *arguments)

    monkeypatch.setattr(type(metric.solver), "_look_at_the_clock", counting)
    cold = metric.log(target, moved)
    with metric.solver.bounded():
        metric.log(target, base)
        counts.append(0)
        warm = metric.log(target, moved)
    np.testing.assert_allclose(warm, cold, atol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(warm), 0.98 * np.linalg.norm(velocity), rtol=1e-8)
    assert counts[1] < counts[0]


def test_threads_of_blas_are_as_many_as_the_sizes_deserve(monkeypatch):
    """Of those there are: the tests have one, which none makes more."""

    def threads():
        return [own["num_threads"] for own in _libraries().select(user_api="blas").info()]

    monkeypatch.setattr("os.cpu_count", lambda: 8)
    before, seen = threads(), []
    with _libraries().limit(limits=2, user_api="blas"):
        two = threads()
        with blas_threads(100):
            assert set(threads()) == {1}
        with blas_threads(DESERVES_ANOTHER):
            assert threads() == two
        start, loss = problem("dag")

        class Sees(type(loss)):
            def parameter_gradient(self, theta, architecture):
                seen.extend(threads())
                return super().parameter_gradient(theta, architecture)

        loss.__class__ = Sees
        ParameterFlow(start.architecture, loss).integrate(start.theta0, (0.0, 0.1), rtol=1e-2)
        assert set(seen) == {1}
        assert threads() == two
        seen.clear()

        class Looks(Architecture):
            def lift(self, theta):
                seen.extend(threads())
                return theta[..., :1] * theta[..., 1:]

        classify(Looks(2, (1,)), [1.0, 2.0])
        assert set(seen) == {1}
        assert threads() == two
    assert threads() == before


def test_memory_of_products_is_used_again_and_changes_no_bit(rng, monkeypatch):
    network = layers([3, 40, 40, 2])
    inputs, form = rng.standard_normal((150, 3)), rng.standard_normal((150, 2))
    thetas = network.random_point(3, rng=rng)

    def pulled():
        return [network.forward_vjp(theta, inputs)[1](form) for theta in thetas]

    first, held = pulled(), [network.forward(theta, inputs) for theta in thetas]
    kept = np.array(held)
    again = pulled()
    np.testing.assert_array_equal(held, kept)  # what somebody holds is not written over
    monkeypatch.setattr(forward, "_SPARE_SIZES", range(0))
    for one, other, plain in zip(first, again, pulled(), strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, plain)
    assert 0 < len(network._function._spare._arrays) <= forward._SPARES
    function = pickle.loads(pickle.dumps(network._function))
    np.testing.assert_array_equal(function.vjp(thetas[0], inputs)[1](form), first[0])


@pytest.mark.parametrize(("terminal", "seen"), [(True, True), (False, False)])
def test_what_says_nothing_shows_itself_in_a_terminal(terminal, seen, monkeypatch):
    """Also what calls no update: by a timer, and only where somebody may look."""

    class Stream(io.StringIO):
        def isatty(self):
            return terminal

    monkeypatch.setattr(waiting, "PATIENCE", 0.02)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", stream := Stream())
    for steps, show in (([0.2], None), ([0.001], None), ([0.2], False)):
        for length in waiting.tracked(steps, "nothing", show):
            deadline = time.monotonic() + (5.0 if seen and length > 0.1 and show is None else 0.1)
            while time.monotonic() < deadline and "nothing" not in stream.getvalue():
                time.sleep(0.005)
        if length > 0.1:
            assert ("nothing" in stream.getvalue()) == (seen and show is None)
        stream.truncate(0)
    time.sleep(0.05)
    assert stream.getvalue().strip("\0") == ""  # once it is over, no timer shows it


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_ctrl_c_while_a_progress_bar_is_imported_is_ctrl_c(error, monkeypatch):
    """Before Python 3.12 it comes out of the import as a RuntimeError; others stay as they are."""
    original, begun = builtins.__import__, []

    class Interrupted:
        def __set_name__(self, owner, name):
            raise error

    def importing(name, *args, **kwargs):
        if name == "rich":
            begun.append(name)
            type("Made", (), {"part": Interrupted()})
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    expected = error if error is KeyboardInterrupt or sys.version_info >= (3, 12) else RuntimeError
    with pytest.raises(expected):
        list(waiting.tracked(range(3), "rich", True))
    assert begun == ["rich"]
