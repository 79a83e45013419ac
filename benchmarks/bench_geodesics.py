"""Exp, log, distance and the geodesic equation beside geomstats's generic PullbackMetric.

One balanced ReLU neuron: the invariant set is a cone, whose geodesics are known exactly, so both
sides are judged by the same formula. geomstats gets the cone as an immersed set in D − 1
coordinates, and computes by automatic differentiation: its own integrator of 100 Euler steps, and
Runge–Kutta steps for as many evaluations. Each of its cells has a process of its own, and is cut
after ``--cap`` seconds; a cut cell is a lower bound. Fails where a limit of ours is missed.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ["GEOMSTATS_BACKEND"] = "autograd"  # read at geomstats's first import

import geomstats.backend as gs
import numpy as np
from geomstats.geometry.base import ImmersedSet
from geomstats.geometry.euclidean import Euclidean
from geomstats.geometry.pullback_metric import PullbackMetric
from geomstats.numerics.geodesic import ExpODESolver
from geomstats.numerics.ivp import GSIVPIntegrator
from table import Row, report

from liftflow import InvariantSet, ReLUNetwork
from liftflow.typing import FloatArray

SPEEDUP_AT_20, SECONDS, ROUNDING = 1000.0, 0.1, 1e-12
LENGTH = 0.3


class Cone(ImmersedSet):
    """The set |u|² = |v|² in the coordinates (u_2, …, u_n, v)."""

    def __init__(self, n: int, m: int) -> None:
        self.n, self.m = n, m
        super().__init__(dim=n + m - 1, equip=False)

    def _define_embedding_space(self) -> Euclidean:
        return Euclidean(self.n + self.m)

    def immersion(self, point: Any) -> Any:
        """Complete the coordinates by u_1 > 0."""
        squares = point**2
        rest = gs.sum(squares[..., self.n - 1 :], axis=-1)
        first = gs.sqrt(rest - gs.sum(squares[..., : self.n - 1], axis=-1))
        return gs.concatenate([first[..., None], point], axis=-1)


def problem(dim: int) -> tuple[InvariantSet, FloatArray]:
    """Return the set of one neuron with dim + 1 weights, and a velocity at its θ₀."""
    rng = np.random.default_rng(dim)
    n = (dim + 1) // 2
    u, v = rng.uniform(0.5, 1.0, n), rng.standard_normal(dim + 1 - n)
    start = InvariantSet(
        ReLUNetwork.from_widths([n, 1, v.size]),
        np.append(u, v * np.linalg.norm(u) / np.linalg.norm(v)),
    )
    velocity = start.random_tangent_vec(start.theta0, rng=rng)
    return start, LENGTH * velocity / np.linalg.norm(velocity)


def exact_end(n: int, theta: FloatArray, velocity: FloatArray) -> FloatArray:
    """Follow a straight line of the developed cone: turn u and v, and change the radius."""
    radius = np.linalg.norm(theta)
    ahead = velocity @ theta / radius
    sideways = np.sqrt(velocity @ velocity - ahead**2)
    turned = np.arctan2(sideways, radius + ahead)
    new_radius = np.hypot(radius + ahead, sideways)
    parts = []
    for block, speed in zip(np.split(theta, [n]), np.split(velocity, [n]), strict=True):
        size = np.linalg.norm(block)
        across = speed - block * (speed @ block) / size**2
        rate = np.linalg.norm(across)
        angle = turned * (rate / size) / (sideways / radius)
        parts.append(np.cos(angle) * block + np.sin(angle) * across * size / rate)
    return np.concatenate(parts) * new_radius / radius


def theirs(job: str, dim: int, channel: Any) -> None:
    """Do one job by geomstats, and send its seconds and its error."""
    start, velocity = problem(dim)
    n = (dim + 1) // 2
    cone = Cone(n, dim + 1 - n)
    cone.equip_with_metric(PullbackMetric)
    if job == "exp, Runge–Kutta":
        integrator = GSIVPIntegrator(n_steps=25, step_type="rk4")
        cone.metric.exp_solver = ExpODESolver(cone, integrator=integrator)
    end = exact_end(n, start.theta0, velocity)
    point, vector, other = start.theta0[1:], velocity[1:], end[1:]
    begin, error = time.perf_counter(), None
    if job == "christoffels":
        cone.metric.christoffels(point)
    elif job == "log":
        error = np.linalg.norm(cone.metric.log(other, point) - vector)
    else:
        error = np.linalg.norm(cone.metric.exp(vector, point) - other)
    channel.send((time.perf_counter() - begin, error))


def capped(job: str, dim: int, cap: float) -> tuple[float | None, float | None]:
    """Run one job of geomstats in a process, for at most ``cap`` seconds."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=theirs, args=(job, dim, sender))
    process.start()
    done = receiver.poll(cap)
    result = receiver.recv() if done else (None, None)
    process.terminate()
    process.join()
    return result


def ours(dim: int) -> dict[str, tuple[float, float | None]]:
    """Seconds, the best of five, and errors of liftflow, on the image and upstairs."""
    start, velocity = problem(dim)
    theta, image, lift = start.theta0, start.image(), start.architecture.lift_jvp
    end = exact_end((dim + 1) // 2, theta, velocity)
    z, other, vector = start.lift(theta), start.lift(end), lift(theta, velocity)
    state = np.stack([theta, velocity])

    def best(function: Callable[[], Any]) -> tuple[float, Any]:
        seconds = []
        for _ in range(5):
            begin = time.perf_counter()
            result = function()
            seconds.append(time.perf_counter() - begin)
        return min(seconds), result

    def norm(gap: FloatArray) -> float:
        return float(np.linalg.norm(gap))

    results = {}
    seconds, got = best(lambda: start.metric.exp(velocity, theta))
    results["exp"] = seconds, norm(got - end)
    seconds, got = best(lambda: start.metric.log(end, theta))
    results["log"] = seconds, norm(got - velocity)
    seconds, got = best(lambda: image.metric.exp(vector, z))
    results["exp on the image"] = seconds, norm(got - other)
    seconds, got = best(lambda: image.metric.log(other, z))
    results["log on the image"] = seconds, norm(got - vector)
    seconds, got = best(lambda: start.metric.dist(theta, end))
    results["dist"] = seconds, abs(got - LENGTH)
    seconds, got = best(lambda: image.metric.dist(z, other))
    results["dist on the image"] = seconds, abs(got - LENGTH)
    results["geodesic equation"] = best(lambda: start.metric.geodesic_equation(state))[0], None
    return results


JOBS = {
    "exp": ("exp, Euler", "exp, Runge–Kutta"),
    "log": ("log",),
    "geodesic equation": ("christoffels",),
}


def rows(dims: list[int], cap: float) -> Iterator[Row]:
    """Measure ours and geomstats's in turn."""
    for dim in dims:
        for what, (seconds, error) in ours(dim).items():
            quick = SECONDS if what.startswith(("log", "dist")) else None
            yield Row(f"{what}, dim {dim}", seconds, None, "", limit=quick, error=error)
            for job in JOBS.get(what, ()):
                other, other_error = capped(job, dim, cap)
                name = f"PullbackMetric{', cut there' if other is None else _error(other_error)}"
                limit = 1 / SPEEDUP_AT_20 if what == "exp" and dim == 20 else None
                peer = cap if other is None else other
                yield Row(f"{job}, dim {dim}", seconds, peer, name, limit=limit, error=error)
                # Below rounding, neither is more accurate.
                if other_error is not None and not error < max(other_error, ROUNDING):
                    raise SystemExit(f"{job} at {dim} is more accurate: {other_error:.0e}")


def _error(value: float | None) -> str:
    return "" if value is None else f", error {value:.0e}"


def main() -> None:
    """Measure, print the table, and fail where a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, nargs="+", default=[6, 20])
    parser.add_argument("--cap", type=float, default=20.0, help="seconds for a cell of geomstats")
    options = parser.parse_args()
    report(rows(options.dims, options.cap))


if __name__ == "__main__":
    main()
