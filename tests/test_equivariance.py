"""Nothing depends on the units of θ: every method at cθ is the scaled method at θ.

Lifts are homogeneous, of degree k for a product of k weights, and laws are of degree two. So with
c^k for each entry of z, all the geometry scales: what each method returns has a power of c, its
unit below. Units are found from the lift itself, so that a line in ``cases.py`` brings a family
here, too.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from cases import ARCHITECTURES, MANIFOLDS, METRICS, params

from liftflow.architectures import ProductArchitecture, TwoLayerLinear
from liftflow.errors import ArchitectureError, InputError
from liftflow.manifolds import ChartedImage, FlatImage, InvariantSet
from liftflow.metrics import IntrinsicMetric

SCALES = [1e-6, 1e6]
FEW_METRICS = [name for name in METRICS if not name.startswith("DAG") or name[4:] in "012"]
SLOW_METRICS = ["batch norm 2-2-2-1", "product", "tensors 2, 1, 3", "DAG 1"]
SLOW_METRICS += ["layers 3-4-4-2, biases", "closed 4-6-3", "two layers 2, 2, 5", "deep 4-2-3"]
DENSE = 2**18  # entries of ∂φ∂φᵀ above which it is not formed
EXACT = 1e-12  # sums and products: rounding, a few hundred times
SOLVED = 1e-8  # through solves and integrations, which amplify rounding by their condition


def leaves(architecture):
    """Return the factors of a product of products, or the architecture itself."""
    if isinstance(architecture, ProductArchitecture):
        return [leaf for factor in architecture.factors for leaf in leaves(factor)]
    return [architecture]


class Scaling:
    """Powers of c, and the blocks in which errors are relative, of every kind of array."""

    def __init__(self, architecture, theta):
        self.architecture = architecture
        z = np.ravel(architecture.lift(theta))
        degrees = np.ravel(architecture.lift_jvp(theta, theta)) / z  # Euler's theorem
        if not np.allclose(degrees, np.round(degrees), rtol=0, atol=1e-9):
            pytest.skip(f"{type(architecture).__name__}: the lift is not homogeneous")
        parts = leaves(architecture)
        factor = np.repeat(range(len(parts)), [part.lifted_dim for part in parts])
        self.blocks = {
            "z": np.unique(factor + 1j * np.round(degrees), return_inverse=True)[1],
            "theta": np.repeat(range(len(parts)), [part.dim for part in parts]),
            "laws": np.repeat(range(len(parts)), [part.n_laws for part in parts]),
        }
        self.powers = {
            "z": np.round(degrees),
            "theta": np.ones(architecture.dim),
            "laws": law_degrees(architecture, theta),
        }
        self.degree = degrees[0] if np.ptp(np.round(degrees)) == 0 else None
        # Lengths of z, and orthogonality in it, make sense among entries of one degree.
        self.is_euclidean = len(np.unique(self.blocks["z"])) == len(parts)

    def powers_of(self, unit):
        """Powers of c of an array: ``("z", "-z", 2)`` is a matrix of c^(k_p − k_q + 2)."""
        axes = [part for part in unit if isinstance(part, str)]
        total = sum(part for part in unit if not isinstance(part, str))
        for axis in axes:
            own = self.powers[axis.strip("-")] * (-1 if axis.startswith("-") else 1)
            total = np.add.outer(total, own) if np.ndim(total) else total + own
        return np.asarray(total, dtype=float)

    def scaled(self, array, scale, *unit):
        """Multiply an array by the powers of c of its unit."""
        return array * np.reshape(scale ** self.powers_of(unit), np.shape(array))

    def check(self, name, got, wanted, scale, unit, rtol):
        """Compare, in each block relative to the largest entry."""
        got, powers = np.asarray(got), self.powers_of(unit)
        axes = [self.blocks[part.strip("-")] for part in unit if isinstance(part, str)]
        got = np.reshape(got / 1.0, powers.shape) / scale**powers
        wanted = np.reshape(np.asarray(wanted) / 1.0, powers.shape)
        labels = np.zeros(powers.shape, dtype=int)
        for number, blocks in enumerate(axes):
            ends = (1,) * (len(axes) - number - 1)
            labels = 64 * labels + np.reshape(blocks, (-1, *ends))
        for label in np.unique(labels):
            own = labels == label
            gap, size = np.max(np.abs(got - wanted)[own]), np.max(np.abs(wanted[own]))
            assert gap <= rtol * size, f"{name}: off by {gap / size if size else gap:.1e}"


def run(table, scaling, subjects, inputs, units):
    """Run each method of a table on θ and on cθ, where ``subjects`` are at each scale."""
    moved = {}
    for scale in SCALES:
        arrays = {name: scaling.scaled(x, scale, *units[name]) for name, x in inputs.items()}
        moved[scale] = SimpleNamespace(**arrays)
    for name, (method, unit, rtol, needs) in table.items():
        if not needs(scaling, subjects[1.0]):
            continue
        unit = unit(scaling) if callable(unit) else unit
        try:
            wanted = method(subjects[1.0], SimpleNamespace(**inputs))
        except (ArchitectureError, InputError, NotImplementedError) as error:
            for scale in SCALES:  # refused, then, at every scale
                with pytest.raises(type(error)):
                    method(subjects[scale], moved[scale])
            continue
        for scale in SCALES:
            got = method(subjects[scale], moved[scale])
            scaling.check(f"{name} at {scale:g}", got, wanted, scale, unit, rtol)


def always(scaling, subject):
    return True


def dense(scaling, subject):
    return scaling.architecture.lifted_dim**2 <= DENSE


def euclidean(scaling, subject):
    return dense(scaling, subject) and scaling.is_euclidean


def law_degrees(architecture, theta):
    """Degrees of the laws, which are homogeneous: 2, or 1 for sums of weights."""
    laws = architecture.conservation_laws(theta)
    slopes = architecture.conservation_laws_jacobian(theta) @ theta
    return np.where(np.abs(slopes - laws) < 1e-9 * np.abs(laws), 1.0, 2.0)


def one_degree(scaling, subject):
    return scaling.degree is not None


def in_orbit(scaling, subject):
    return scaling.is_euclidean or isinstance(subject, InvariantSet | ChartedImage)


def not_in_chart(scaling, subject):
    return not isinstance(subject, ChartedImage)


def has(name, condition=always):
    return lambda scaling, subject: hasattr(subject, name) and condition(scaling, subject)


def of_degree(power, shift=0.0, *axes):
    return lambda scaling: (*axes, power * scaling.degree + shift)


ARCHITECTURE_METHODS = {
    "lift": (lambda a, x: a.lift(x.theta), ("z",), EXACT, always),
    "lift_jvp": (lambda a, x: a.lift_jvp(x.theta, x.v), ("z",), EXACT, always),
    "lift_vjp": (lambda a, x: a.lift_vjp(x.theta, x.g), ("-theta",), EXACT, always),
    "lift_hessian": (lambda a, x: a.lift_hessian(x.theta, x.v, x.w), ("z",), EXACT, always),
    "lift_hvp": (lambda a, x: a.lift_hvp(x.theta, x.v, x.g), ("-theta",), EXACT, always),
    "lift_jacobian": (lambda a, x: a.lift_jacobian(x.theta), ("z", "-theta"), EXACT, dense),
    "gram_apply": (lambda a, x: a.gram_apply(x.theta, x.g), ("z", -2), EXACT, always),
    "gram_matrix": (lambda a, x: a.gram_matrix(x.theta), ("z", "z", -2), EXACT, dense),
    "lifted_norm": (lambda a, x: a.lifted_norm(x.theta), of_degree(1), EXACT, one_degree),
    "lifted_distance": (
        lambda a, x: a.lifted_distance(x.theta, x.other),
        of_degree(1),
        EXACT,
        one_degree,
    ),
    "project_to_image": (
        lambda a, x: a.project_to_image(x.z, near=x.near),
        ("z",),
        SOLVED,
        always,
    ),
    "project_to_range": (
        lambda a, x: a.project_to_range(x.theta, x.ambient),
        ("z",),
        SOLVED,
        euclidean,
    ),
    "solve_vjp": (lambda a, x: a.solve_vjp(x.theta, x.pulled), ("-z",), SOLVED, euclidean),
    "solve_jvp": (lambda a, x: a.solve_jvp(x.theta, x.pushed), ("theta",), SOLVED, euclidean),
    "conservation_laws": (lambda a, x: a.conservation_laws(x.theta), ("laws",), EXACT, always),
    "conservation_laws_jacobian": (
        lambda a, x: a.conservation_laws_jacobian(x.theta),
        ("laws", "-theta"),
        EXACT,
        always,
    ),
    "laws_jvp": (lambda a, x: a.laws_jvp(x.theta, x.v), ("laws",), EXACT, always),
    "laws_hessian": (lambda a, x: a.laws_hessian(x.theta, x.v, x.w), ("laws",), EXACT, always),
    "laws_size": (lambda a, x: a.laws_size(x.theta), ("laws",), EXACT, always),
    "laws_size of ∂h": (lambda a, x: a.laws_size(x.theta, x.v), ("laws",), EXACT, always),
    "laws_rank": (lambda a, x: a.laws_rank(x.theta), (0,), 0.0, always),
    "project_to_tangent": (
        lambda a, x: a.project_to_tangent(x.theta, x.v),
        ("theta",),
        SOLVED,
        always,
    ),
    "solve_laws_jvp": (lambda a, x: a.solve_laws_jvp(x.theta, x.laws), ("theta",), SOLVED, always),
    "project_to_laws": (lambda a, x: a.project_to_laws(x.near, x.laws), ("theta",), SOLVED, always),
    "recover": (lambda a, x: a.recover(x.z, x.laws, near=x.near), ("theta",), SOLVED, always),
    "align": (lambda a, x: a.align(x.theta, x.near), ("theta",), SOLVED, always),
    "fibre_point": (lambda a, x: a.fibre_point(x.theta, 0), ("theta",), SOLVED, always),
    "rescale": (
        lambda a, x: a.rescale(x.theta, np.linspace(-1, 1, a.n_hidden)),
        ("theta",),
        EXACT,
        has("rescale"),
    ),
    "image_representative": (
        lambda a, x: a.lift(a.image_representative(x.z)),
        ("z",),
        SOLVED,
        has("image_representative"),
    ),
    "kernel_apply": (
        lambda a, x: a.kernel_apply(x.theta, x.v),
        of_degree(2, -2, "theta"),
        EXACT,
        has("kernel_apply", one_degree),
    ),
    "law_matrices": (
        lambda a, x: np.concatenate([m[np.triu_indices(len(m))] for m in a.law_matrices(x.theta)]),
        ("laws",),
        EXACT,
        has("law_matrices"),
    ),
}


def inputs_at(architecture, theta, rng):
    """Points and vectors at θ, and the units of each."""
    v, w, u = (np.max(np.abs(theta)) * rng.standard_normal(theta.shape) for _ in range(3))
    z = architecture.lift(theta)
    near = theta * (1 + 1e-2 * rng.standard_normal(theta.shape))
    inputs = {
        "theta": (theta, "theta"),
        "v": (v, "theta"),
        "w": (w, "theta"),
        "other": (w, "theta"),
        "near": (near, "theta"),
        "z": (z, "z"),
        "ambient": (rng.standard_normal(z.shape) * np.max(np.abs(z)), "z"),
        "pushed": (architecture.lift_jvp(theta, v), "z"),
        "pushed_too": (architecture.lift_jvp(theta, w), "z"),
        "pushed_also": (architecture.lift_jvp(theta, u), "z"),
        "g": (rng.standard_normal(z.shape), "-z"),
        "pulled": (architecture.lift_vjp(theta, rng.standard_normal(z.shape)), "-theta"),
        "laws": (architecture.conservation_laws(theta), "laws"),
    }
    return (
        {name: array for name, (array, _) in inputs.items()},
        {name: (unit,) for name, (_, unit) in inputs.items()},
    )


COMETRIC_METHODS = {
    "apply": (lambda k, x: k.apply(x.z, x.g), ("z", -2), SOLVED, always),
    "matrix": (lambda k, x: k.matrix(x.z), ("z", "z", -2), SOLVED, dense),
    "solve": (lambda k, x: k.solve(x.z, x.pushed), ("-z", 2), SOLVED, euclidean),
    "point": (lambda k, x: k.point(x.z), ("theta",), SOLVED, always),
    "follow": (lambda k, x: k.follow(x.z, x.near), ("theta",), SOLVED, always),
    "horizontal_lift": (
        lambda k, x: k.horizontal_lift(x.z, x.pushed),
        ("theta",),
        SOLVED,
        always,
    ),
    "inner_product": (
        lambda k, x: k.inner_product(x.z, x.pushed, x.pushed_too),
        (2,),
        SOLVED,
        always,
    ),
    "trace": (
        lambda k, x: k.trace(x.z),
        of_degree(2, -2),
        SOLVED,
        has("trace", one_degree),
    ),
}


def unit_curvature(x):
    """Return a curvature of the size that there is, for errors where there is none."""
    return 1.0 / np.sum(x.theta**2)


def unit_symbols(x):
    """Return Christoffel symbols of the size that there are."""
    z = np.ravel(x.z)
    return z[:, None, None] / z[:, None] / z


# Curvature may vanish up to rounding, and is compared with something of its size added.
GEOMETRY = {
    "metric_matrix": (lambda m, x: m.metric_matrix(x.z), ("-z", "-z", 2), SOLVED, euclidean),
    "gradient": (lambda m, x: m.gradient(x.g, x.z), ("z", -2), SOLVED, always),
    "norm": (lambda m, x: m.norm(x.pushed, x.z), (1,), SOLVED, always),
    "exp": (lambda m, x: m.exp(x.short, x.z), ("z",), SOLVED, always),
    "log": (lambda m, x: m.log(x.target, x.z), ("z",), 1e-7, always),
    "dist": (lambda m, x: m.dist(x.target, x.z), (1,), SOLVED, always),
    "parallel_transport": (
        lambda m, x: m.parallel_transport(x.pushed, x.z, direction=x.short),
        ("z",),
        SOLVED,
        always,
    ),
    "curvature": (
        lambda m, x: m.curvature(x.pushed, x.pushed_too, x.pushed_also, x.z) + x.pushed_also,
        ("z",),
        SOLVED,
        always,
    ),
    "sectional_curvature": (
        lambda m, x: m.sectional_curvature(x.pushed, x.pushed_too, x.z) + unit_curvature(x),
        (-2,),
        SOLVED,
        always,
    ),
    "scalar_curvature": (
        lambda m, x: m.scalar_curvature(x.z) + unit_curvature(x),
        (-2,),
        SOLVED,
        always,
    ),
    "christoffels": (
        lambda m, x: np.reshape(m.christoffels(x.z), (x.z.size,) * 3) + unit_symbols(x),
        ("z", "-z", "-z"),
        SOLVED,
        dense,
    ),
}

SPACE_METHODS = {
    "belongs": (lambda s, x: s.belongs(x.point), (0,), 0.0, always),
    "belongs, off": (lambda s, x: s.belongs(x.off), (0,), 0.0, always),
    "is_tangent": (lambda s, x: s.is_tangent(x.tangent, x.point), (0,), 0.0, always),
    "is_tangent, off": (lambda s, x: s.is_tangent(x.vector, x.point), (0,), 0.0, in_orbit),
    "to_tangent": (lambda s, x: s.to_tangent(x.vector, x.point), ("point",), SOLVED, in_orbit),
    "projection": (lambda s, x: s.projection(x.off), ("point",), SOLVED, in_orbit),
    # Drawn and projected from afar; coordinates are those of another chart at another scale.
    "random_point": (lambda s, x: s.random_point(rng=0), ("point",), 1e-6, not_in_chart),
    "random_tangent_vec": (
        lambda s, x: s.is_tangent(s.random_tangent_vec(x.point, rng=0), x.point),
        (0,),
        0.0,
        always,
    ),
}


def image_like(metric, scale):
    """Return the metric of the image at cθ₀, with a cometric of the same class."""
    cometric = metric.cometric
    image = InvariantSet(cometric.architecture, scale * cometric.theta0).image()
    if type(image.metric.cometric) is type(cometric):
        return image.metric
    other = type(cometric)(cometric.architecture, image.theta0)
    return image.equip_with_metric(IntrinsicMetric, cometric=other).metric


@pytest.mark.parametrize("build", params(ARCHITECTURES))
def test_architecture(build, rng):
    architecture = build()
    theta = architecture.random_point(rng=rng)
    scaling = Scaling(architecture, theta)
    inputs, units = inputs_at(architecture, theta, rng)
    same = dict.fromkeys((1.0, *SCALES), architecture)
    run(ARCHITECTURE_METHODS, scaling, same, inputs, units)


class Absolute(TwoLayerLinear):
    """What was wrong: laws that count as met at an absolute distance."""

    def project_to_laws(self, theta, laws, *, max_steps=50):
        gap = np.max(np.abs(self.conservation_laws(theta) - laws))
        return theta if gap < 1e-10 else super().project_to_laws(theta, laws)


def test_an_absolute_tolerance_is_caught(rng):
    with pytest.raises(AssertionError, match="project_to_laws at 1e-06"):
        test_architecture(lambda: Absolute(3, 2, 2), rng)


def on_tangent_space(inputs, units, space, rng):
    """Velocities in the invariant set, what is below them, and a point a step away."""
    architecture, theta = space.architecture, space.theta0
    v = space.to_tangent(inputs["v"], theta)
    step = 0.1 * np.linalg.norm(theta) / np.linalg.norm(v) * v
    inputs["short"] = architecture.lift_jvp(theta, step)
    inputs["target"] = architecture.lift(space.projection(theta + step))
    units |= {"short": ("z",), "target": ("z",)}


def on_metric(metric, rng):
    """Scaling, points and vectors of a metric, and the same metric at every scale."""
    architecture, theta = metric.cometric.architecture, metric.cometric.theta0
    inputs, units = inputs_at(architecture, theta, rng)
    built = {scale: image_like(metric, scale) for scale in (1.0, *SCALES)}
    return Scaling(architecture, theta), built, inputs, units


@pytest.mark.parametrize("build", params(METRICS))
def test_cometric(build, rng):
    scaling, built, inputs, units = on_metric(build(), rng)
    cometrics = {scale: metric.cometric for scale, metric in built.items()}
    run(COMETRIC_METHODS, scaling, cometrics, inputs, units)


@pytest.mark.parametrize("build", params({n: METRICS[n] for n in FEW_METRICS}, SLOW_METRICS))
def test_metric(build, rng):
    metric = build()
    scaling, built, inputs, units = on_metric(metric, rng)
    invariant_set = InvariantSet(metric.cometric.architecture, metric.cometric.theta0)
    on_tangent_space(inputs, units, invariant_set, rng)
    run(GEOMETRY, scaling, built, inputs, units)


def space_like(space, scale):
    """Return the same kind of space at cθ₀, and the θ₀ and architecture below it."""
    if isinstance(space, ChartedImage):
        return InvariantSet(*below(space, scale)).chart()
    if isinstance(space, InvariantSet):
        return InvariantSet(*below(space, scale))
    image = InvariantSet(*below(space, scale)).image()
    return image.flat() if isinstance(space, FlatImage) else image


def below(space, scale=1.0):
    """Architecture and cθ₀ of a space."""
    inner = space.image_space if isinstance(space, FlatImage | ChartedImage) else space
    return inner.architecture, scale * inner.theta0


@pytest.mark.parametrize("build", params(MANIFOLDS))
def test_manifold(build, rng):
    space = build()
    architecture, theta = below(space)
    scaling = Scaling(architecture, theta)
    if isinstance(space, InvariantSet):
        point, kind = theta, "theta"
    elif isinstance(space, ChartedImage):
        point, kind = space.diffeo.inverse(theta), "chart"
        ratio = space.diffeo.inverse(2.0 * theta) / point
        scaling.powers["chart"], scaling.blocks["chart"] = np.log2(ratio), np.arange(point.size)
    else:
        point, kind = architecture.lift(theta).reshape(space.shape), "z"
    scaling.powers["point"], scaling.blocks["point"] = scaling.powers[kind], scaling.blocks[kind]
    vector = np.max(np.abs(point)) * rng.standard_normal(point.shape)
    inputs = {"point": point, "vector": vector, "off": point * (1 + 1e-3 * np.sin(1.0 + vector))}
    inputs["tangent"] = space.to_tangent(vector, point)
    built = {scale: space_like(space, scale) for scale in (1.0, *SCALES)}
    run(SPACE_METHODS, scaling, built, inputs, dict.fromkeys(inputs, ("point",)))
    assert space.belongs(point) and space.is_tangent(inputs["tangent"], point)
    if space.dim < point.size:
        assert not space.belongs(inputs["off"]) and not space.is_tangent(vector, point)
