"""The contracts of architectures, metrics, manifolds and bundles, for people who add their own.

Each function draws random points and checks one property after the other, like scikit-learn's
``check_estimator``. The first that fails raises an ``AssertionError`` which says what it is and by
how much. Under the autograd backend a lift is judged by automatic differentiation, too; under
numpy, which has none, by finite differences alone.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import autograd
import geomstats.backend as gs
import numpy as np
from geomstats.geometry.manifold import Manifold

from liftflow.architectures import Architecture
from liftflow.doors import door
from liftflow.errors import ArchitectureError
from liftflow.linalg import extrapolated
from liftflow.manifolds import InvariantSet
from liftflow.metrics import IntrinsicMetric, oracle_jacobian
from liftflow.typing import FloatArray, Numbers, Rng, as_rng

Map: TypeAlias = Callable[..., Numbers]

DENSE_LIMIT = 2**20
"""Number of entries up to which ∂φ and ∂φ∂φᵀ are judged as dense matrices."""


def _require(holds: Numbers, reason: str) -> None:
    if not np.all(holds):  # no assert statement, so that python -O does not empty the contracts
        raise AssertionError(reason)


def _close(
    what: str, got: Numbers, wanted: Numbers, rtol: float = 1e-9, scale: Numbers = None
) -> None:
    """Require equal shapes, and entries equal relative to the largest one, or to ``scale``."""
    got, wanted = np.asarray(got, dtype=float), np.asarray(wanted, dtype=float)
    _require(got.shape == wanted.shape, f"{what}: shape {got.shape}, expected {wanted.shape}")
    size = float(np.max(np.abs(wanted if scale is None else scale), initial=0.0)) or 1.0
    gap = float(np.max(np.abs(got - wanted), initial=0.0)) / size
    _require(gap <= rtol, f"{what}: off by {gap:.1e} relative, allowed {rtol:.0e}")


def _batches(
    what: str, function: Map, shape: tuple[int, ...], *arrays: Numbers, scale: Numbers = None
) -> None:
    """Require results of this shape, and on leading axes [2, 2], [2], [] those of a loop."""

    def alike(how: str, got: Numbers, wanted: Numbers) -> None:
        _close(f"{what}: {how} against a loop", got, wanted, 1e-11, scale)

    loop = np.array([[function(*(a[i, j] for a in arrays)) for j in (0, 1)] for i in (0, 1)])
    _require(loop.shape[2:] == shape, f"{what}: shape {loop.shape[2:]}, expected {shape}")
    alike("leading axes [2, 2]", function(*arrays), loop)
    alike("batch", function(*(a[0] for a in arrays)), loop[0])
    if len(arrays) > 1:  # one point, a column of vectors
        point, vectors = arrays[0][0, 0], [a[:, 0] for a in arrays[1:]]
        mixed = [function(point, *(v[i] for v in vectors)) for i in (0, 1)]
        alike("broadcast", function(point, *vectors), mixed)


def _global_state() -> list[bytes]:
    return [np.asarray(part).tobytes() for part in np.random.get_state()]  # noqa: NPY002


def _draws(what: str, draw: Map, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """Require geomstats' shapes, draws that depend on the seed alone, and no global state."""
    seed, before = int(rng.integers(2**32)), _global_state()
    one, many, again = (draw(n_samples=count, rng=seed) for count in (1, 3, 3))
    other = draw(n_samples=3, rng=seed + 1)
    _require(np.shape(one) == shape, f"{what}: shape {np.shape(one)}, expected {shape}")
    _require(np.shape(many) == (3, *shape), f"{what}: three have shape {np.shape(many)}")
    _require(np.array_equal(many, again), f"{what}: the same seed gives other draws")
    _require(not np.array_equal(many, other), f"{what}: another seed gives the same draws")
    _require(not np.array_equal(many[0], many[1]), f"{what}: two samples are the same")
    _require(before == _global_state(), f"{what}: numpy's global random state moved")


def _projector(what: str, matrix: FloatArray, rank: int) -> None:
    """Require the matrix of an orthogonal projection of this rank."""
    _close(f"{what}: symmetric, as an orthogonal projection is", matrix, matrix.T)
    _close(f"{what}: idempotent", matrix @ matrix, matrix)
    got = round(float(np.trace(matrix)))
    _require(got == rank, f"{what}: rank {got}, expected {rank}")


def _slope(function: Map, point: Numbers, tangent: Numbers) -> FloatArray:
    """Directional derivative, by central differences extrapolated to order 6 (Richardson).

    Where the extrapolations of order 4 and 6 differ, a pole of the function is near, and shorter
    steps are taken; of each entry the value of the least difference counts.
    """
    size = float(np.max(np.abs(point))) or 1.0
    slope: Numbers = 0.0
    least: Numbers = np.inf
    for step in 0.01 / 8.0 ** np.arange(4) * size / float(np.max(np.abs(tangent))):
        fine, gap = extrapolated(
            [
                np.asarray(function(point + s * tangent) - function(point - s * tangent)) / (2 * s)
                for s in (step, step / 2, step / 4)
            ]
        )
        slope, least = np.where(gap < least, fine, slope), np.minimum(gap, least)
        if np.max(gap, initial=0.0) <= 1e-8 * np.max(np.abs(fine), initial=0.0):
            break
    return slope


def _slopes(function: Map, point: Numbers) -> FloatArray:
    """Jacobian by finite differences, shape=[size of the result, dim]."""
    return _slope(function, point, np.eye(point.size)).reshape(point.size, -1).T


def _fibre_point(architecture: Architecture, theta: Numbers, rng: np.random.Generator) -> Numbers:
    try:
        return architecture.fibre_point(theta, rng)
    except ArchitectureError:  # the one method that a family may do without
        return theta


# What the verbs of the two maps φ and h are called.
_LIFT = {verb: f"lift_{verb}" for verb in ("jvp", "vjp", "hvp", "hessian", "jacobian")}
_LIFT |= {"value": "lift", "solve": "solve_jvp"}
_LAWS = {"value": "conservation_laws", "jacobian": "conservation_laws_jacobian"}
_LAWS |= {"jvp": "laws_jvp", "hessian": "laws_hessian", "solve": "solve_laws_jvp"}


def _map(
    a: Architecture, names: Mapping[str, str], shape: tuple[int, ...], *arrays: Numbers
) -> None:
    """Require that the values and the derivatives of a smooth map fit together, those with a name.

    Of θ, two velocities and a covector with leading axes [2, 2]: batches against loops; then at the
    first of them against finite differences and each other.
    """
    theta, v, w, g = arrays
    verbs = {verb: getattr(a, name) for verb, name in names.items()}
    results: dict[str, list[Numbers]] = {
        "value": [shape],
        "jvp": [shape, v],
        "hessian": [shape, v, w],
    }
    results |= {"vjp": [(a.dim,), g], "hvp": [(a.dim,), v, g]}
    results["jacobian"] = [(math.prod(shape), a.dim)]
    for verb, (result, *vectors) in results.items():
        if verb in verbs:
            _batches(names[verb], verbs[verb], result, theta, *vectors)
    x, v, w, g = (each[0, 0] for each in arrays)
    jvp = verbs["jvp"](x, v)
    if "vjp" in verbs:
        slope, vjp = _slope(verbs["value"], x, v), verbs["vjp"](x, g)
        what = f"{names['jvp']} against finite differences of {names['value']}"
        _close(what, jvp, slope, 1e-8)
        products, scale = (np.sum(vjp * v), np.sum(g * jvp)), np.sum(np.abs(g * jvp))
        _close(f"{names['vjp']} as the transpose of {names['jvp']}", *products, 1e-12, scale)
    if "jacobian" in verbs:
        matrix, what = np.asarray(verbs["jacobian"](x)), names["jacobian"]
        _close(f"{what} against finite differences", matrix, _slopes(verbs["value"], x), 1e-8)
        _close(f"{names['jvp']} against {what}", np.ravel(jvp), matrix @ v, 1e-12)
        if "vjp" in verbs:
            _close(f"{names['vjp']} against {what}", vjp, matrix.T @ np.ravel(g), 1e-12)
        shortest = np.linalg.pinv(matrix, rcond=1e-10) @ np.ravel(jvp)
        _close(f"{names['solve']} against {what}", verbs["solve"](x, jvp), shortest, scale=v)
    if "hessian" in verbs:
        bent, slope = verbs["hessian"](x, v, w), _slope(lambda t: verbs["jvp"](t, v), x, w)
        what = f"{names['hessian']} against finite differences of {names['jvp']}"
        _close(what, bent, slope, 1e-8, scale=jvp)
    if "hvp" in verbs:
        bent, slope = verbs["hvp"](x, v, g), _slope(lambda t: verbs["vjp"](t, g), x, v)
        _close(f"{names['hvp']} against finite differences of {names['vjp']}", bent, slope, 1e-8)


def _without(names: Mapping[str, str], *verbs: str) -> Mapping[str, str]:
    return {verb: name for verb, name in names.items() if verb not in verbs}


@door
def check_architecture(architecture: Architecture, rng: Rng = 0) -> None:
    """Check that the lift, the laws and all their derivatives belong together.

    Shapes, and batches against loops; blocks; ∂φ and ∂h against finite differences, ∂φ and the
    second derivative of the lift against autodiff; ∂φᵀ and ∂φ∂φᵀ against ∂φ; conservation,
    ∂h ∂φᵀ = 0; second derivatives; solutions of ∂φ v = w and ∂h v = w; the orthogonal projection
    onto ker ∂h; distances; recovery of a point from its lift and laws; its alignment with another
    point; other points of its fibre, if the family has a ``fibre_point``; seeded draws.

    Parameters
    ----------
    architecture : Architecture
        Where ∂φ or ∂φ∂φᵀ has more than ``DENSE_LIMIT`` entries, they are judged on vectors only.
    """
    a, rng, size, shape = architecture, as_rng(rng), architecture.dim, architecture.lifted_shape
    d, k, dense = a.lifted_dim, a.n_laws, a.lifted_dim * max(size, a.lifted_dim) <= DENSE_LIMIT
    _draws("random_point", a.random_point, (size,), rng)
    theta, other = a.random_point(8, rng).reshape(2, 2, 2, size)
    v, g = rng.standard_normal((2, 2, size)), rng.standard_normal((2, 2, *shape))
    lift = _LIFT if dense else _without(_LIFT, "jacobian", "solve")
    _map(a, lift, shape, theta, v, other, g)
    _batches("gram_apply", a.gram_apply, shape, theta, g)
    _batches("project_to_tangent", a.project_to_tangent, (size,), theta, v)
    _batches("lifted_norm", a.lifted_norm, (), theta)
    _batches("lifted_distance", a.lifted_distance, (), theta, other)
    blocks = a.unpack(theta)
    shapes = tuple(block.shape[2:] for block in blocks)
    _require(shapes == a.block_shapes, f"unpack: shapes {shapes}, expected {a.block_shapes}")
    _close("pack after unpack", a.pack(*blocks), theta, 1e-15)

    x, y, v0, g0 = theta[0, 0], other[0, 0], v[0, 0], g[0, 0]
    vjp, z = a.lift_vjp(x, g0), a.lift(x)
    _close("gram_apply against ∂φ ∂φᵀ", a.gram_apply(x, g0), a.lift_jvp(x, vjp), 1e-12)
    if dense:
        jacobian = np.asarray(a.lift_jacobian(x))
        _batches("gram_matrix", a.gram_matrix, (d, d), theta)
        _close("gram_matrix against ∂φ ∂φᵀ", a.gram_matrix(x), jacobian @ jacobian.T, 1e-12)
    if dense and gs.has_autodiff():
        _close("lift_jacobian against autodiff", jacobian, oracle_jacobian(a, x), 1e-10)
    if gs.has_autodiff():
        pull = autograd.grad(lambda t: gs.sum(g0 * a.lift(t)))
        # 0 t, because autograd warns where the derivative of a linear lift is constant.
        second = autograd.grad(lambda t: gs.sum(v0 * pull(t) + 0.0 * t))(x)
        wanted = _slope(lambda t: a.lift_vjp(t, g0), x, v0)
        _close("second derivative of lift by autodiff", second, wanted, 1e-8)

    laws, values = np.asarray(a.conservation_laws_jacobian(x)), a.conservation_laws(x)
    scale = np.abs(laws) @ np.abs(vjp)
    _close("conservation, ∂h ∂φᵀ = 0", laws @ vjp, np.zeros(k), 1e-12, scale)
    known = _LAWS if gs.has_autodiff() else _without(_LAWS, "hessian")
    _map(a, known, (k,), theta, v, other, g)
    rank = int(np.linalg.matrix_rank(laws)) if k else 0
    _require(a.laws_rank(x) == rank, f"laws_rank: {a.laws_rank(x)}, but ∂h has rank {rank}")
    projector = np.asarray(a.project_to_tangent(x, np.eye(size)))
    _projector("project_to_tangent", projector, size - rank)
    _close("project_to_tangent onto ker ∂h", laws @ projector, np.zeros(laws.shape), scale=laws)

    distance, norm = np.linalg.norm(a.lift(x) - a.lift(y)), np.linalg.norm(z)
    _close("lifted_distance against lift", a.lifted_distance(x, y), distance, 1e-12)
    _close("lifted_norm against lift", a.lifted_norm(x), norm, 1e-12)
    for point in (*other.reshape(-1, size), *theta[::-1, ::-1].reshape(-1, size)):  # x is the last
        near, values = point * (1 + 0.01 * rng.standard_normal(size)), a.conservation_laws(point)
        found = a.recover(a.lift(point), values, near=near)
        _close("recover: lift", a.lift(found), a.lift(point))
        _close("recover: laws", a.conservation_laws(found), values)
    moved = a.project_to_laws(near, values)
    _close("project_to_laws: laws", a.conservation_laws(moved), values)
    _close("fibre_point: lift", a.lift(_fibre_point(a, x, rng)), z)
    aligned = a.align(found, y)
    _close("align: lift", a.lift(aligned), z)
    _close("align: laws", a.conservation_laws(aligned), values)
    gaps = np.linalg.norm(aligned - y), np.linalg.norm(found - y)
    _require(gaps[0] <= gaps[1] * (1 + 1e-12), f"align: farther, {gaps[0]} > {gaps[1]}")


@door
def check_metric(metric: IntrinsicMetric, rng: Rng = 0) -> None:
    """Check that a metric is the closed form of M(θ) = ∂φ ∂φᵀ on its invariant set.

    K(φ(θ)) = M(θ) at random points θ of the invariant set, at points that come to it from
    elsewhere in a fibre, and at those that the cometric itself finds over z; K symmetric, positive
    semidefinite and of rank ``dim``; its matrix-free form, its inverse and the inner product;
    horizontal lifts, by which the lift is a Riemannian submersion; batches against loops.

    Then its geometry at one point: geodesics stay on the invariant set above, at constant speed,
    and do not accelerate horizontally (to fitted order); log inverts exp; distances are symmetric
    and keep the triangle inequality; parallel transport is an isometry and takes velocities to
    velocities; the curvature has its symmetries, and the sign and value by which geodesics spread.

    Parameters
    ----------
    metric : IntrinsicMetric
        On its space, and small enough for K to be a dense matrix.
    """
    rng, space, cometric = as_rng(rng), metric._space, metric.cometric
    a: Architecture = cometric.architecture
    d, shape, laws = a.lifted_dim, space.shape, a.conservation_laws(cometric.theta0)
    drawn = a.project_to_laws(a.random_point(4, rng), laws)
    moved = a.project_to_laws(_fibre_point(a, drawn, rng), laws)
    found = cometric.point(a.lift(drawn))
    again = cometric.point(a.lift(drawn), near=moved)
    for points in (found, again):
        _close("point: lift", a.lift(points), a.lift(drawn))
        size = float(np.max(np.sum(np.square(points), axis=-1)))  # laws may all be zero
        _close("point: laws", a.conservation_laws(points), np.tile(laws, (4, 1)), scale=size)
    sets = {"random θ": drawn, "θ moved": moved, "point(z)": found, "point(z, near)": again}
    for where, theta in [(name, theta) for name, points in sets.items() for theta in points]:
        jacobian = oracle_jacobian(a, theta) if gs.has_autodiff() else _slopes(a.lift, theta)
        matrix, gram = metric.cometric_matrix(a.lift(theta)), jacobian @ jacobian.T
        _close(f"cometric_matrix against ∂φ ∂φᵀ, {where}", matrix, gram, 1e-10)
        _close(f"cometric_matrix symmetric, {where}", matrix, matrix.T, 1e-12)
        values = np.linalg.eigvalsh(matrix) / np.linalg.norm(gram, 2)
        _require(values > -1e-12, f"cometric_matrix: relative eigenvalue {values[0]:.1e} < 0")
        rank = int(np.sum(values > 1e-12))
        _require(rank == space.dim, f"cometric_matrix: rank {rank}, expected dim {space.dim}")

    theta = np.broadcast_to(drawn[:2], (2, 2, a.dim))  # one point and two vectors in each column
    z, g = a.lift(theta), rng.standard_normal((2, 2, *shape))
    vectors = a.lift_jvp(theta, rng.standard_normal(theta.shape))
    _batches("cometric_matrix", metric.cometric_matrix, (d, d), z)
    _batches("metric_matrix", metric.metric_matrix, (d, d), z)
    _batches("cometric_apply", metric.cometric_apply, shape, z, g)
    _batches("gradient", lambda z, g: metric.gradient(g, z), shape, z, g)
    _batches("solve", cometric.solve, shape, z, vectors)
    _batches("horizontal_lift", lambda z, v: metric.horizontal_lift(v, z), (a.dim,), z, vectors)
    _batches("squared_norm", lambda z, v: metric.squared_norm(v, z), (), z, vectors)
    for x, form, v, w in zip(z[0], g[0], *vectors, strict=True):
        matrix, inverse = metric.cometric_matrix(x), metric.metric_matrix(x)
        applied, product = metric.cometric_apply(x, form), metric.inner_product(v, w, x)
        dense, flat_v, flat_w = matrix @ np.ravel(form), np.ravel(v), np.ravel(w)
        _close("cometric_apply against cometric_matrix", np.ravel(applied), dense, 1e-10)
        _close("gradient against cometric_apply", metric.gradient(form, x), applied, 1e-12)
        _close("metric_matrix symmetric", inverse, inverse.T)
        _close("metric_matrix inverts cometric_matrix", matrix @ inverse @ matrix, matrix)
        # The inverse of K is known to as many digits as its condition leaves.
        scale = float(np.linalg.norm(inverse) ** 2 * np.linalg.norm(matrix))
        back = inverse @ matrix @ inverse
        _close("metric_matrix 0 off the tangent space", back, inverse, 1e-12, scale)
        _close("solve inverts cometric_apply", metric.cometric_apply(x, cometric.solve(x, v)), v)
        squares = metric.squared_norm(v, x), metric.squared_norm(w, x)
        _require(min(squares) > 0, f"squared_norm: {min(squares)} for a nonzero vector")
        scale = math.sqrt(squares[0] * squares[1])
        _close("inner_product symmetric", metric.inner_product(w, v, x), product, scale=scale)
        _close("inner_product against K⁺", flat_v @ inverse @ flat_w, product, scale=scale)
        point, up = cometric.point(x), [metric.horizontal_lift(u, x) for u in (v, w)]
        _close("horizontal_lift: push-forward", a.lift_jvp(point, up[0]), v)
        _close("horizontal_lift: tangent", a.project_to_tangent(point, up[0]), up[0])
        _close("horizontal_lift: isometry", np.sum(up[0] * up[1]), product, scale=scale)

    frame = _orthonormal(metric, z[0, 0], a.lift_jvp(drawn[0], rng.standard_normal((3, a.dim))))
    # As far as geodesics are sure to go: a small part of the way to the next singular point.
    reach = 0.1 * math.sqrt(np.linalg.eigvalsh(metric.cometric_matrix(z[0, 0]))[-space.dim])
    _geodesics(metric, z[0, 0], frame, min(0.3, reach))
    if space.dim > 1:
        _curvature(metric, z[0, 0], frame, min(0.3, reach))


def _orthonormal(metric: IntrinsicMetric, point: Numbers, vectors: Numbers) -> list[Numbers]:
    """Orthonormal tangent vectors, by Gram and Schmidt; as many as the dimension allows."""
    frame: list[Numbers] = []
    for vector in vectors[: metric._space.dim]:
        for _ in range(2):
            for unit in frame:
                vector = vector - metric.inner_product(vector, unit, point) * unit
        frame.append(vector / metric.norm(vector, point))
    return frame


def _geodesics(metric: IntrinsicMetric, point: Numbers, frame: list[Numbers], reach: float) -> None:
    cometric, solver, v, w = metric.cometric, metric.solver, frame[0], frame[-1]
    theta, laws = cometric.point(point), cometric.laws
    velocity = metric.horizontal_lift(reach * v, point)
    steps = np.array([1.0, 0.5, 0.25])
    forth, back = (solver.path(theta, velocity)(sign * steps) for sign in (1, -1))
    size = float(np.sum(theta**2))
    values = cometric.architecture.conservation_laws(np.vstack([forth, back]))
    _close("exp: laws of the lifted geodesic", values, np.tile(laws, (6, 1)), scale=size)
    second = (forth - 2 * theta + back) / steps[:, None] ** 2
    gaps = [float(np.linalg.norm(solver.spaces.project(theta, each))) for each in second]
    flat = gaps[0] <= 1e-6 * np.linalg.norm(velocity)  # nothing to fit an order to
    order = math.log(gaps[0] / gaps[2]) / math.log(4) if not flat else 2.0
    _require(
        order > 1.7,
        f"exp: horizontal acceleration falls with the order {order:.2f} in the "
        "step, expected 2, so it does not solve the geodesic equation",
    )

    end, other = metric.exp(reach * v, point), metric.exp(reach * w, point)
    path = metric.geodesic(point, initial_tangent_vec=reach * v)([0.0, 0.5, 1.0])
    _close("geodesic at time 0", path[0], point)
    _close("geodesic at time 1 against exp", path[2], end)
    _close("exp against the lifted geodesic", end, cometric.architecture.lift(forth[0]))
    _close("log inverts exp", metric.log(end, point), reach * v, 1e-7)
    lengths = [metric.dist(a, b) for a, b in ((point, end), (end, point), (path[1], end))]
    _close("dist against the length of a geodesic", lengths[0], reach, 1e-8)
    _close("dist symmetric", lengths[1], lengths[0], 1e-8)
    _close("dist along a geodesic: constant speed", lengths[2], reach / 2, 1e-8)
    detour = lengths[0] + metric.dist(point, other)
    direct = float(metric.dist(end, other))
    _require(direct <= detour * (1 + 1e-9), f"dist: triangle, {direct} > {detour}")
    moved = metric.parallel_transport([v, w], point, direction=reach * v)
    back = -metric.log(point, end) / reach
    _close("parallel_transport of the velocity", moved[0], back, 1e-7)
    gram = [metric.inner_product(a, b, end) for a, b in ((moved[1], moved[1]), tuple(moved))]
    wanted = [1.0, metric.inner_product(w, v, point)]
    _close("parallel_transport: isometry", np.array(gram), np.array(wanted), 1e-8, 1.0)


def _curvature(metric: IntrinsicMetric, point: Numbers, frame: list[Numbers], reach: float) -> None:
    a, b, c = frame[0], frame[1], frame[-1] + frame[0]
    d = frame[1] - 0.5 * c

    def tensor(x: Numbers, y: Numbers, u: Numbers, v: Numbers) -> float:
        return float(metric.inner_product(metric.curvature(x, y, u, point), v, point))

    form, theta = metric.solver.spaces.second_fundamental_form, metric.cometric.point(point)
    up = [metric.horizontal_lift(vector, point) for vector in (a, b)]
    bent = [form(theta, x, y) for x in up for y in up]
    scale = float(np.sum(np.square(bent)))  # what curvatures are made of
    pair = tensor(a, b, c, d)
    _close("curvature: skew in the plane", tensor(b, a, c, d), -pair, scale=scale + abs(pair))
    _close("curvature: skew as a map", tensor(a, b, d, c), -pair, scale=scale + abs(pair))
    _close("curvature: symmetric in pairs", tensor(c, d, a, b), pair, scale=scale + abs(pair))
    cycle = pair + tensor(b, c, a, d) + tensor(c, a, b, d)
    _close("curvature: Bianchi's identity", cycle, 0.0, scale=scale + abs(pair))
    sectional = float(metric.sectional_curvature(a, b, point))
    _close("sectional_curvature against curvature", tensor(a, b, b, a), sectional, scale=scale)
    spread = 0.0
    for s in (reach, -reach):  # d² = 2s² − K s⁴/3 + O(s⁵), whose odd terms cancel
        ends = metric.exp([s * a, s * b], point)
        spread += 3 * (2 * s**2 - metric.squared_dist(*ends)) / s**4 / 2
    noise = 1e-12 * float(np.linalg.norm(theta)) / reach**3  # what d² is known to
    _require(
        abs(spread - sectional) <= 0.1 * abs(sectional) + 3 * reach**2 * scale**2 + noise,
        f"sectional_curvature: {sectional:.3g}, but geodesics spread as for {spread:.3g}",
    )


@door
def check_manifold(space: Manifold, rng: Rng = 0) -> None:
    """Check that points, tangent vectors and the dimension of a manifold belong together.

    ``dim`` is the rank of the tangent projector, which is orthogonal and takes values that are
    tangent; what it takes away is not. Random and projected points belong, perturbed ones do not;
    points of the space are projected to themselves. Seeded draws, shapes, batches against loops.

    Parameters
    ----------
    space : geomstats.geometry.manifold.Manifold
        With extrinsic points, ``to_tangent`` orthogonal in the embedding space, and ``rng`` among
        the arguments of ``random_point`` and ``random_tangent_vec``.
    """
    rng, dim, shape, size = as_rng(rng), space.dim, space.shape, math.prod(space.shape)
    _require(type(dim) is int, f"dim: must be an int, got {dim!r}")
    _draws("random_point", space.random_point, shape, rng)
    points = space.random_point(n_samples=4, rng=rng).reshape(2, 2, *shape)
    ambient, largest = rng.standard_normal(points.shape), float(np.max(np.abs(points)))
    x, perturbed = points[0, 0], points + 1e-3 * largest * ambient
    tangent = space.to_tangent(ambient, points)
    is_tangent = partial(space.is_tangent, atol=1e-9)
    _batches("belongs", space.belongs, (), points)
    _batches("projection", space.projection, shape, perturbed)
    _batches("to_tangent", lambda p, v: space.to_tangent(v, p), shape, points, ambient)
    _batches("is_tangent", lambda p, v: is_tangent(v, p), (), points, tangent)
    _draws("random_tangent_vec", partial(space.random_tangent_vec, x), shape, rng)
    basis = space.to_tangent(np.eye(size).reshape(size, *shape), x)
    _projector("to_tangent (dim)", basis.reshape(size, size), dim)
    _require(is_tangent(tangent, points), "to_tangent: a value that is_tangent refuses")
    drawn = space.random_tangent_vec(points[:, 0], rng=rng)
    _require(is_tangent(drawn, points[:, 0]), "random_tangent_vec: a vector that is not tangent")
    _require(np.any(drawn[0] != drawn[1]), "random_tangent_vec: the same at two points")
    _require(space.belongs(points, atol=1e-10), "random_point: a point that does not belong")
    _require(space.belongs(space.projection(perturbed), atol=1e-10), "projection: off the space")
    _close("projection of points of the space", space.projection(points), points)
    other = ~space.belongs(np.ones((size + 1,) * len(shape)))
    _require(not shape or other, "belongs: accepts another shape")  # a number fits any
    if dim < size:
        _require(~space.belongs(perturbed, atol=1e-10), "belongs: accepts perturbed points")
        _require(~is_tangent(ambient - tangent, points), "is_tangent: accepts normal vectors")


@door
def check_bundle(invariant_set: InvariantSet, rng: Rng = 0) -> None:
    """Check that the lift is a Riemannian submersion from an invariant set, as its bundle says.

    The section and its lift; projections onto range ∂φᵀ and ker ∂φ ∩ ker ∂h, orthogonal and of
    complementary ranks; horizontal lifts, whose length is the same at all points of a fibre;
    O'Neill's tensor, skew; alignment, which keeps φ and h and makes geodesics horizontal.

    Parameters
    ----------
    invariant_set : InvariantSet
        Where the metric property holds.
    """
    rng, space, bundle = as_rng(rng), invariant_set, invariant_set.fiber_bundle
    a: Architecture = space.architecture
    shape, size = a.lifted_shape, a.dim
    points = space.random_point(4, rng=rng).reshape(2, 2, size)
    z = bundle.riemannian_submersion(points)
    _batches("lift", bundle.lift, (size,), z)
    section = bundle.lift(z)
    _close("lift: a section of the submersion", bundle.riemannian_submersion(section), z)
    _require(space.belongs(section, atol=1e-10), "lift: off the invariant set")
    v, w = (space.random_tangent_vec(points, rng=rng) for _ in range(2))
    below = bundle.tangent_riemannian_submersion(v, points)
    swapped = {
        "tangent_riemannian_submersion": (bundle.tangent_riemannian_submersion, shape),
        "horizontal_projection": (bundle.horizontal_projection, (size,)),
        "vertical_projection": (bundle.vertical_projection, (size,)),
    }
    for name, (function, result) in swapped.items():
        _batches(name, lambda p, u, f=function: f(u, p), result, points, v)
    lifted = partial(bundle.horizontal_lift, base_point=None)
    _batches("horizontal_lift", lambda p, u: lifted(u, fiber_point=p), (size,), points, below)
    tensor = bundle.integrability_tensor
    bent = np.linalg.norm(v) * np.linalg.norm(w) / np.linalg.norm(points)  # what it may vanish to
    arrays = points, v, w
    _batches("integrability_tensor", lambda p, u, t: tensor(u, t, p), (size,), *arrays, scale=bent)

    x, v, w, below = points[0, 0], v[0, 0], w[0, 0], below[0, 0]
    tangent = space.to_tangent(np.eye(size), x)
    rank = int(np.linalg.matrix_rank(a.lift_jacobian(x), rtol=1e-9))
    horizontal = bundle.horizontal_projection(tangent, x)
    vertical = bundle.vertical_projection(tangent, x)
    _projector("horizontal_projection", horizontal, rank)
    _close("both projections together", horizontal + vertical, tangent)
    _close("vertical after horizontal", vertical @ horizontal, 0 * tangent, scale=tangent)
    pushed = bundle.tangent_riemannian_submersion(vertical, x)
    _close("vertical_projection: push-forward", pushed, 0 * pushed, scale=a.lift_jacobian(x))
    _require(bundle.is_horizontal(horizontal, x, atol=1e-8), "is_horizontal: refuses")
    clear = np.max(np.abs(vertical), axis=-1) > 1e-6  # what is left is rounding, of any direction
    for vector in vertical[clear]:
        _require(bundle.is_vertical(vector, x, atol=1e-8), "is_vertical: refuses")
    up, other = (bundle.horizontal_lift(below, fiber_point=p) for p in (x, section[0, 0]))
    _close("horizontal_lift of a push-forward", up, bundle.horizontal_projection(v, x))
    _close("horizontal_lift: push-forward", bundle.tangent_riemannian_submersion(up, x), below)
    length, wanted = np.sum(other**2), np.sum(up**2)
    _close("horizontal_lift: length, elsewhere in the fibre", length, wanted, 1e-8)
    h, k = (bundle.horizontal_projection(u, x) for u in (v, w))
    scale = np.linalg.norm(v) * np.linalg.norm(w) / np.linalg.norm(x)
    _close("integrability_tensor: skew", tensor(h, k, x), -tensor(k, h, x), 1e-8, scale)
    across, back = np.sum(tensor(v, w, x) * v), -np.sum(w * tensor(v, v, x))
    scale = scale * np.linalg.norm(v)
    _close("integrability_tensor: skew adjoint", across, back, 1e-8, scale)
    _close("align along the fibre", bundle.align(section[0], points[0]), points[0], 1e-8)
    noise = space.to_tangent(rng.standard_normal((2, size)), x)
    near = space.projection(x + 0.02 * float(np.max(np.abs(x))) * noise)
    aligned, close = bundle.align(near, x), 1e-8
    _close("align: batch against a loop", aligned[0], bundle.align(near[0], x), 1e-11)
    _close("align: lift", a.lift(aligned), a.lift(near), close)
    _require(space.belongs(aligned, atol=close), "align: off the invariant set")
    straight = bundle.is_horizontal(space.metric.log(aligned, x), x, atol=close)
    _require(straight, "align: the geodesic there is not horizontal")
