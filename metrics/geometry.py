"""Geodesics, distances, parallel transport and curvature, as geomstats asks for them."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
from autograd.extend import defvjp, primitive
from geomstats.geometry.manifold import Manifold
from geomstats.geometry.riemannian_metric import RiemannianMetric

from liftflow.doors import OnSpace, doors
from liftflow.errors import GeodesicError, InputError, NotOnImageError, NotTangentError
from liftflow.linalg import lengths, over_batch
from liftflow.metrics.cometric import TANGENT_RTOL, Cometric
from liftflow.metrics.geodesic import GEODESIC_RTOL, GeodesicSolver
from liftflow.typing import (
    FloatArray,
    LiftedMatrix,
    OnTimes,
    Point,
    Scalars,
    Symbols,
    Tangent,
    TangentVec,
    Theta,
    as_array,
    refuse_beyond,
)

_INVERSE_RTOL = 1e-6  # of a dense inverse, where K(z) is ill conditioned


def _pull_squared_dist(
    ans: Scalars, base_point: Point, point: Point, metric: "HorizontalMetric"
) -> Callable[[Scalars], TangentVec]:
    """Gradient −2 log as a covector."""
    gradient = -2.0 * metric._over_points(metric._one_covector_log, [base_point, point])
    return lambda g: np.reshape(g, np.shape(ans) + (1,) * metric._ndim) * gradient


_squared_dist = primitive(
    lambda point_a, point_b, metric: metric._over_points(
        metric._one_squared_dist, [point_a, point_b], ()
    )
)
defvjp(
    _squared_dist,
    _pull_squared_dist,
    lambda ans, a, b, metric: _pull_squared_dist(ans, b, a, metric),
    argnums=(0, 1),
)


class HorizontalMetric(OnSpace, RiemannianMetric):
    r"""A metric that makes a map from an invariant set a Riemannian submersion.

    Every computation goes up to parameter space: a geodesic is the image of a horizontal one
    there, and so is a parallel field; the curvature is that of Gauss and O'Neill in one,

    .. math:: ⟨R(X, Y)Z, W⟩ = ⟨B(Y, Z), B(X, W)⟩ − ⟨B(X, Z), B(Y, W)⟩ − 2⟨A_X Y, A_Z W⟩,

    with B of :meth:`HorizontalSpaces.second_fundamental_form` and
    :math:`A_X Y = (B(X, Y) − B(Y, X))/2`. Points are extrinsic, so what geomstats would compute
    from a matrix of the metric in coordinates is refused.

    References
    ----------
    [ONeill1966]_. That one tensor B gives both corrections is ours.
    """

    _varies: ClassVar[bool] = True  # from point to point, so that a base point is needed

    def __init__(self, space: Manifold, solver: GeodesicSolver) -> None:
        super().__init__(space=space)
        self.solver = solver

    # How the metric lies below the parameters; items without leading axes.

    @abstractmethod
    def _point_above(self, point: FloatArray, near: FloatArray | None = None) -> Theta:
        """A parameter of the invariant set over a point, found from another where it matters."""

    @abstractmethod
    def _vector_above(self, theta: FloatArray, vector: FloatArray) -> Tangent:
        """Horizontal lift of a tangent vector to θ."""

    @abstractmethod
    def _point_below(self, theta: FloatArray) -> Point:
        """The point below a parameter."""

    @abstractmethod
    def _vector_below(self, theta: FloatArray, vector: FloatArray) -> TangentVec:
        """Push a velocity of θ down."""

    @abstractmethod
    def _covector_below(self, theta: FloatArray, vector: FloatArray) -> TangentVec:
        """The covector ⟨·, v⟩ of a pushed-down horizontal velocity v."""

    def _parts(self, vector: FloatArray) -> list[FloatArray]:
        """Parts of a vector that have units of their own."""
        return [vector]

    # The door.

    @property
    def _ndim(self) -> int:
        return len(self._space.shape)

    def _over_points(
        self,
        function: Callable[..., Point],
        arrays: Sequence[Point],
        result: tuple[int, ...] | None = None,
    ) -> Point:
        """Apply a function of items to batches of points and vectors, all of the point's shape."""
        shape = self._space.shape
        checked = [as_array(a, "a point or vector", shape, differentiable=False) for a in arrays]
        try:
            with np.errstate(over="raise", invalid="raise"), self.solver.bounded():
                return over_batch(function, checked, [len(shape)] * len(checked), result)
        except (FloatingPointError, np.linalg.LinAlgError) as error:
            sizes = ", ".join(f"{np.max(np.abs(a), initial=0.0):.1e}" for a in checked)
            raise GeodesicError(
                f"the numbers on the way do not fit into double precision ({error}): the points "
                f"and vectors given have entries up to {sizes}"
            ) from error

    def _lift(self, point: FloatArray, *vectors: FloatArray) -> list[FloatArray]:
        """A parameter over a point, and the horizontal lifts of tangent vectors to it."""
        theta = self._point_above(point)
        return [theta, *[self._lift_vector(theta, vector) for vector in vectors]]

    def _lift_vector(self, theta: FloatArray, vector: FloatArray) -> Tangent:
        largest = np.max(np.abs(vector), initial=0.0)
        unit = vector / (largest or 1.0)  # whose squares neither under- nor overflow
        above = self._vector_above(theta, unit)
        below = self._vector_below(theta, above)
        for gap, own in zip(self._parts(below - unit), self._parts(unit), strict=True):
            length, size = lengths(np.stack([gap.ravel(), own.ravel()]))
            if not length > TANGENT_RTOL * size:
                continue
            residual = float(length / size) if size else np.inf
            raise NotTangentError(
                f"no velocity of the parameters pushes down to tangent_vec: relative residual "
                f"{residual:.1e}, expected at most {TANGENT_RTOL:.0e}; "
                "to_tangent(vector, base_point) of the space projects it. (A metric in a limit of "
                "infinite depth has no parameters on a grid above it, and no geodesics here.)",
                residual,
            )
        return largest * above

    # Geodesics.

    def exp(self, tangent_vec: TangentVec, base_point: Point) -> Point:
        """Follow the geodesic with a given initial velocity for unit time.

        Raises
        ------
        GeodesicError
            The geodesic runs into a singular point.
        NotTangentError
            ``tangent_vec`` is not tangent.
        """
        return self._over_points(
            lambda vector, point: self._point_below(self.solver.end(*self._lift(point, vector))),
            [tangent_vec, base_point],
        )

    def log(self, point: Point, base_point: Point) -> TangentVec:
        """Find the initial velocity of a geodesic that joins two points in unit time.

        It is that of the geodesic found from the chord of the parameters: the shortest one for
        points that are close. φ forgets signs, so that several parameters lie over ``point``;
        all of these are tried that may be closer, up to 2⁶. Of more, it is the nearest one as
        the crow flies, and so it is of what φ forgets but signs, the frames of hidden layers.

        Raises
        ------
        GeodesicError
            None was found.
        """
        return self._over_points(
            lambda target, start: self._vector_below(*self._connect(start, target)),
            [point, base_point],
        )

    def _connect(self, start: FloatArray, target: FloatArray) -> tuple[FloatArray, FloatArray]:
        """A parameter over the start, and the shortest velocity found that leads to the target."""
        theta = self._point_above(start)
        return theta, self.solver.connect(theta, self._sheets(target, theta))

    def _sheets(self, target: FloatArray, theta: FloatArray) -> Theta:
        """The parameters over a point that may be the closest to another."""
        architecture = self.solver.architecture
        return architecture.sheets(architecture.align(self._point_above(target, theta), theta))

    def frechet_mean(self, points: Point, weights: Scalars | None = None) -> Point:
        """Find a Fréchet mean: each step goes along the mean of the logarithms of the points.

        It goes as far as the last two steps tell [Barzilai1988]_, and ends where that mean is 1e-6
        of the longest logarithm. The time for all geodesics together is that of
        ``solver.seconds``.

        Raises
        ------
        GeodesicError
            The time is over, there is no geodesic to one of the points, or the steps do not
            converge: says how far it came.
        """
        shape = self._space.shape
        points = as_array(points, "points", (None, *shape), batch=False, differentiable=False)
        if not len(points):
            raise InputError("points must hold at least one point, got none")
        weights = np.ones(len(points)) if weights is None else weights
        parts = as_array(weights, "weights", (len(points),), batch=False, differentiable=False)
        targets = [partial(self._sheets, point) for point in points]
        with self.solver.bounded():
            mean = self.solver.mean(self._point_above(points[0]), targets, parts)
        return self._point_below(mean)

    def geodesic(
        self,
        initial_point: Point,
        end_point: Point | None = None,
        initial_tangent_vec: TangentVec | None = None,
    ) -> Callable[[OnTimes], Point]:
        """Parametrise a geodesic, given by its ends or by its initial velocity.

        Takes times, shape=[n_times] and of either sign, to points,
        shape=[..., n_times, *point_shape].

        Parameters
        ----------
        end_point : Point, optional
            Reached at time 1.

        Raises
        ------
        InputError
            Neither or both of an end point and an initial velocity are given.
        """
        if (end_point is None) == (initial_tangent_vec is None):
            _refuse_choice("end_point and initial_tangent_vec", end_point)
        if initial_tangent_vec is None:
            initial_tangent_vec = self.log(end_point, initial_point)

        def path(t: OnTimes) -> Point:
            times = np.atleast_1d(as_array(t, "t", differentiable=False))

            def one(vector: FloatArray, point: FloatArray) -> TangentVec:
                above = self.solver.path(*self._lift(point, vector))(times)
                return np.reshape([self._point_below(theta) for theta in above], result)

            result = (times.size, *self._space.shape)
            return self._over_points(one, [initial_tangent_vec, initial_point], result)

        return path

    def squared_dist(self, point_a: Point, point_b: Point) -> Scalars:
        """Squared distance along the geodesic that :meth:`log` finds, or by a formula.

        So it is that to the closest of up to 2⁶ sheets over the end point, and beyond that to the
        nearest one as the crow flies, from which it may be shorter to go elsewhere.
        Differentiable once under autograd: the gradient in the first point is −2 log, as a
        covector.

        Raises
        ------
        GeodesicError
            No geodesic was found.
        """
        shape = self._space.shape
        point_a = as_array(point_a, "point_a", shape)
        point_b = as_array(point_b, "point_b", shape)
        # Both ways, so that autograd sums over the axes of a batch that one of them lacks.
        return _squared_dist(point_a + 0.0 * point_b, point_b + 0.0 * point_a, self)

    def _one_squared_dist(self, point_a: FloatArray, point_b: FloatArray) -> Scalars:
        distance = self._exact_distance(point_a, point_b)
        if distance is None:
            return np.sum(self._connect(point_a, point_b)[1] ** 2)
        return np.square(distance)

    def _exact_distance(self, point_a: FloatArray, point_b: FloatArray) -> float | None:
        """The distance where a formula is known for it."""
        return None

    def _one_covector_log(self, start: FloatArray, target: FloatArray) -> TangentVec:
        return self._covector_below(*self._connect(start, target))

    def parallel_transport(
        self,
        tangent_vec: TangentVec,
        base_point: Point,
        direction: TangentVec | None = None,
        end_point: Point | None = None,
    ) -> TangentVec:
        """Transport a tangent vector parallel along a geodesic, from time 0 to 1.

        Parameters
        ----------
        direction, end_point : Point, optional
            One of its initial velocity and its end.

        Raises
        ------
        InputError
            Neither or both of a direction and an end point are given.
        """
        if (direction is None) == (end_point is None):
            _refuse_choice("direction and end_point", end_point)

        def along(vector: FloatArray, point: FloatArray, course: FloatArray) -> TangentVec:
            theta, passenger, velocity = self._lift(point, vector, course)
            return self._vector_below(*self.solver.transport(theta, velocity, passenger))

        def towards(vector: FloatArray, point: FloatArray, target: FloatArray) -> TangentVec:
            theta, velocity = self._connect(point, target)
            passenger = self._lift_vector(theta, vector)
            return self._vector_below(*self.solver.transport(theta, velocity, passenger))

        if end_point is None:
            return self._over_points(along, [tangent_vec, base_point, direction])
        return self._over_points(towards, [tangent_vec, base_point, end_point])

    def injectivity_radius(self, base_point: Point = None) -> Scalars:
        """Refuse: it is not known.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            "the injectivity radius of these metrics is not known; log raises a GeodesicError "
            "where it finds no geodesic"
        )

    # Curvature.

    def curvature(
        self,
        tangent_vec_a: TangentVec,
        tangent_vec_b: TangentVec,
        tangent_vec_c: TangentVec,
        base_point: Point,
    ) -> TangentVec:
        r"""Riemannian curvature R(a, b)c, with R(X, Y) = ∇_X ∇_Y − ∇_Y ∇_X − ∇_[X, Y]."""

        def one(a: FloatArray, b: FloatArray, c: FloatArray, point: FloatArray) -> TangentVec:
            theta, a, b, c = self._lift(point, a, b, c)
            basis, form = self._basis(theta), partial(self._form, theta)
            twist = form(a, b) - form(b, a)
            inner = form(a, basis) @ form(b, c) - form(b, basis) @ form(a, c)
            inner -= (form(c, basis) - form(basis, c)) @ twist / 2
            return self._vector_below(theta, inner @ basis)

        return self._over_points(one, [tangent_vec_a, tangent_vec_b, tangent_vec_c, base_point])

    def sectional_curvature(
        self, tangent_vec_a: TangentVec, tangent_vec_b: TangentVec, base_point: Point = None
    ) -> Scalars:
        """Sectional curvature ⟨R(a, b)b, a⟩ / (|a|²|b|² − ⟨a, b⟩²) of a plane."""

        def one(a: FloatArray, b: FloatArray, point: FloatArray) -> Scalars:
            theta, a, b = self._lift(point, a, b)
            frame, triangle = np.linalg.qr(np.stack([a, b], axis=1))
            diagonal = np.abs(np.diag(triangle))
            if not diagonal[1] > TANGENT_RTOL * np.linalg.norm(b):
                raise InputError(
                    "the sectional curvature belongs to a plane, but tangent_vec_a and "
                    "tangent_vec_b are linearly dependent"
                )
            a, b = frame.T
            form = partial(self._form, theta)
            ab, ba = form(a, b), form(b, a)
            return form(a, a) @ form(b, b) - ab @ ba + (ab - ba) @ (ab - ba) / 2

        return self._over_points(one, [tangent_vec_a, tangent_vec_b, base_point], ())

    def ricci_tensor(self, base_point: Point = None) -> LiftedMatrix:
        """Ricci tensor as a bilinear form in the coordinates of the points, like metric_matrix.

        Ric(ζ, η) = ζᵀ ricci η for tangent vectors; zero off the tangent space.
        """

        def one(point: FloatArray) -> LiftedMatrix:
            theta, basis, matrix = self._ricci(point)
            forms = [self._covector_below(theta, vector).ravel() for vector in basis]
            return np.transpose(forms) @ matrix @ forms

        size = math.prod(self._space.shape)
        return self._over_points(one, [base_point], (size, size))

    def scalar_curvature(self, base_point: Point = None) -> Scalars:
        """Scalar curvature, the trace of the Ricci tensor."""
        return self._over_points(lambda point: np.trace(self._ricci(point)[2]), [base_point], ())

    def _form(self, theta: FloatArray, direction: FloatArray, vector: FloatArray) -> FloatArray:
        return np.asarray(self.solver.spaces.second_fundamental_form(theta, direction, vector))

    def _basis(self, theta: FloatArray) -> FloatArray:
        """Orthonormal basis of the horizontal space, shape=[n, dim]."""
        refuse_beyond(float(theta.size) * self._space.dim**2, "a basis and its second derivatives")
        projector = self.solver.spaces.project(theta, np.eye(theta.size))
        return np.linalg.eigh(projector)[1][:, theta.size - self._space.dim :].T

    def _ricci(self, point: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """A parameter above, a horizontal basis there, and the Ricci tensor in it."""
        theta = self._point_above(point)
        basis = self._basis(theta)
        form = self._form(theta, basis[:, None], basis[None, :])
        twist = (form - np.swapaxes(form, 0, 1)) / 2
        matrix = np.einsum("jkd,iid->jk", form, form) - np.einsum("ikd,jid->jk", form, form)
        matrix -= 2 * np.einsum("ijd,kid->jk", twist, twist)
        return theta, basis, (matrix + matrix.T) / 2

    # What needs coordinates.

    def christoffels(self, base_point: Point = None) -> Symbols:
        """Refuse: points are extrinsic, and ambient Christoffel symbols would be wrong."""
        raise _extrinsic(
            "Christoffel symbols",
            "exp and geodesic solve the geodesic equation, and the chart() of an invariant set has "
            "coordinates, for the families that have them",
        )

    def riemann_tensor(self, base_point: Point = None) -> Symbols:
        """Refuse: points are extrinsic, and the ambient tensor, zero, would be wrong."""
        raise _extrinsic("components of the Riemann tensor", "use curvature(a, b, c, base_point)")

    covariant_riemann_tensor = riemann_tensor

    def inner_product_derivative_matrix(self, base_point: Point = None) -> Symbols:
        """Refuse: points are extrinsic, and there is no derivative in all of their coordinates."""
        raise _extrinsic("a derivative of the metric matrix", "no geodesic here needs one")


def _refuse_choice(names: str, one: Point | None) -> None:
    got = "neither" if one is None else "both"
    raise InputError(f"a geodesic from a point is given by one of {names}; got {got}")


def _extrinsic(what: str, advice: str) -> NotImplementedError:
    return NotImplementedError(
        f"points are extrinsic (their coordinates outnumber the dimension), so there are no {what} "
        f"in them; {advice}"
    )


@doors
class IntrinsicMetric(HorizontalMetric):
    r"""The metric g_z = K_θ₀(z)⁻¹ on φ(𝓜_θ₀), one class for all families.

    With it φ is a Riemannian submersion from the invariant set, whose metric is Euclidean.
    Points and tangent vectors are those of the lifted space, so the matrices are extrinsic.
    """

    def __init__(self, space: Manifold, cometric: Cometric, rtol: float = GEODESIC_RTOL) -> None:
        spaces = cometric.horizontal_spaces
        super().__init__(space, GeodesicSolver(cometric.architecture, spaces, rtol))
        self.cometric = cometric

    def __repr__(self) -> str:
        """Say in one line what it is."""
        return f"{type(self).__name__}({getattr(self, 'cometric', '')!r})"

    # How this metric lies below the parameters.

    def _point_above(self, point: FloatArray, near: FloatArray | None = None) -> Theta:
        theta = self.cometric.point(point, near=near)
        gap, size = lengths((self._point_below(theta) - point).ravel()), lengths(point.ravel())
        if gap > TANGENT_RTOL * size:
            raise NotOnImageError(
                f"a point is not on the image of the lift: relative residual {gap / size:.1e}, "
                f"expected at most {TANGENT_RTOL:.0e}; image().projection(point) moves it there",
                gap / size,
            )
        return theta

    def _vector_above(self, theta: FloatArray, vector: FloatArray) -> Tangent:
        return self.cometric.horizontal_lift(self._point_below(theta), vector, theta=theta)

    def _point_below(self, theta: FloatArray) -> Point:
        return self.cometric.architecture.phi(theta)

    def _vector_below(self, theta: FloatArray, vector: FloatArray) -> TangentVec:
        return self.cometric.architecture.phi.jvp(theta, vector)

    def _covector_below(self, theta: FloatArray, vector: FloatArray) -> TangentVec:
        return self.cometric.solve(self._point_below(theta), self._vector_below(theta, vector))

    def _parts(self, vector: FloatArray) -> list[FloatArray]:
        return self.cometric.parts(vector)

    def _exact_distance(self, point_a: FloatArray, point_b: FloatArray) -> float | None:
        return self.cometric.exact_distance(point_a, point_b)

    def cometric_apply(self, z: Point, covector: TangentVec) -> TangentVec:
        """Apply K(z) to a covector, matrix-free."""
        return self.cometric.apply(z, covector)

    def cometric_matrix(self, base_point: Point = None) -> LiftedMatrix:
        """K(z) as a dense matrix in lifted coordinates."""
        return self.cometric.matrix(base_point)

    def metric_matrix(self, base_point: Point = None) -> LiftedMatrix:
        """K(z)⁺ as a dense matrix in lifted coordinates, zero off the tangent space.

        Raises
        ------
        NotOnImageError
            K(z) is singular on the tangent space, as where a matrix z loses rank, or so close to
            it that its inverse would keep fewer than six digits.
        """
        matrix = self.cometric.matrix(base_point)
        self.cometric._check_inverse(np.asarray(base_point))
        values, vectors = np.linalg.eigh(matrix)
        # Zeros are told by the entries that they come from: a small block has small eigenvalues.
        sizes = np.einsum("...ik,...ii->...k", vectors**2, matrix)
        ratios = values / np.where(sizes > 0, sizes, 1.0)
        kept = (
            np.argsort(np.argsort(ratios, axis=-1), axis=-1) >= values.shape[-1] - self._space.dim
        )
        smallest = float(np.min(ratios, initial=1.0, where=kept))
        if smallest < np.finfo(np.float64).eps / _INVERSE_RTOL:
            raise NotOnImageError(
                f"K(z) is singular to rounding: eigenvalues of {smallest:.0e} beside 1; "
                "metric.norm and metric.inner_product need no inverse and keep their digits",
                0.0,
            )
        inverse = np.where(kept, 1.0 / np.where(kept, values, 1.0), 0.0)
        return np.einsum("...ik,...k,...jk->...ij", vectors, inverse, vectors)

    def inner_product(
        self, tangent_vec_a: TangentVec, tangent_vec_b: TangentVec, base_point: Point
    ) -> Scalars:
        """Inner product ⟨a, K(z)⁻¹ b⟩ of tangent vectors."""
        return self.cometric.inner_product(base_point, tangent_vec_a, tangent_vec_b)

    def gradient(self, euclidean_gradient: TangentVec, z: Point) -> TangentVec:
        """Riemannian gradient K(z)∇f(z): the intrinsic flow runs down along it."""
        return self.cometric.apply(z, euclidean_gradient)

    def horizontal_lift(self, tangent_vec: TangentVec, z: Point) -> Tangent:
        """Lift a tangent vector to the shortest velocity of θ above it, ∂φ(θ)ᵀ K(z)⁻¹ ζ.

        It is tangent to the invariant set at the point recovered from z.
        """
        return self.cometric.horizontal_lift(z, tangent_vec)

    def christoffels(self, base_point: Point = None) -> Symbols:
        r"""Christoffel symbols in the entries of z, where the image is open, without deriving K.

        Geodesics z(t) lift to geodesics θ(t) of the invariant set, whose acceleration ∂φ does not
        see: z'' = ∂²φ(θ)[θ', θ'], so :math:`Γ(v, w) = −∂²φ(θ)[hor v, hor w]`.

        Raises
        ------
        NotImplementedError
            The image is not open, so that the entries of z are no coordinates.
        """
        architecture, shape = self.cometric.architecture, self._space.shape
        size = architecture.lifted_dim
        if self._space.dim < size:
            return super().christoffels(base_point)
        refuse_beyond(float(size) ** 2 * max(size, architecture.dim), "Christoffel symbols")
        theta = self.cometric.point(base_point)[..., None, :]
        z = np.expand_dims(base_point, -len(shape) - 1)
        frame = architecture.lift_vjp(
            theta, self.cometric.solve(z, np.eye(size).reshape(size, *shape))
        )
        bent = architecture.lift_hessian(
            theta[..., None, :], frame[..., :, None, :], frame[..., None, :, :]
        )
        bent = np.reshape(bent, (*frame.shape[:-2], size, size, size))
        return -np.moveaxis(bent, -1, -3)
