"""Points found by Gauss–Newton steps: of given lift and laws, of given laws, on the image.

Each block of θ is in its own units on the way: no step, rank or tolerance depends on the units of
θ, or on those of one layer against another.
"""

from collections.abc import Callable

import numpy as np

from liftflow.architectures.maps import SmoothMap
from liftflow.errors import NotOnImageError, NotRecoverableError
from liftflow.linalg import RANK_RTOL, ROUNDING
from liftflow.typing import FloatArray, LiftedTangent, OneLaws, OneLifted, OneTheta

_MOST_STEPS = 100
_RTOL = 1e-9
_LAWS_RTOL = 1e-10
_SLOW = 0.1  # of the gap left by a step, from which a longer one is tried
_EPS = float(np.finfo(np.float64).eps)


def refuse_beside_image(
    residual: float, tolerance: float, how: str = ": relative residual"
) -> None:
    """Refuse a z that is farther from the image of a lift than a tolerance."""
    if not residual <= tolerance:
        raise NotOnImageError(
            f"z is not on the image of the lift{how} {residual:.2e}, expected at most "
            f"{tolerance:.0e}; image().projection(z) moves it there",
            residual,
        )


def shortened(
    gap: Callable[[FloatArray], FloatArray],
    theta: FloatArray,
    step: FloatArray,
    sizes: FloatArray | float,
    before: float | np.floating,
    shortest: float,
) -> tuple[FloatArray, FloatArray] | None:
    """Halve a step until the gap is smaller; None where there is nothing left to gain."""
    fraction = 1.0
    while fraction > shortest:
        trial = theta + fraction * step
        found = gap(trial)
        if np.linalg.norm(found / sizes) < before:
            return trial, found
        fraction /= 2
    return None


def with_lift_and_laws(
    phi: SmoothMap,
    h: SmoothMap,
    z: OneLifted,
    laws: OneLaws,
    near: OneTheta,
    most: int = _MOST_STEPS,
) -> OneTheta:
    """Solve (φ, h)(θ) = (z, laws), by at most so many steps, or twice as many."""
    found, size = _solve(phi, h, z, laws, near, most, alike=False)
    if not size <= _RTOL:
        # The terms of an entry vanish at its critical values, and its unit grows in the way.
        found, size = _solve(phi, h, z, laws, near, most, alike=True)
    if not size <= _RTOL:
        raise NotRecoverableError(
            f"Gauss–Newton on (φ, h) ended at a relative residual of {size:.1e}, expected at "
            f"most {_RTOL:.0e}; is z on the image, and near close to it?"
        )
    return found


@np.errstate(over="ignore")  # by steps that lead too far, and are not taken
def _solve(
    phi: SmoothMap,
    h: SmoothMap,
    z: FloatArray,
    laws: FloatArray,
    theta: FloatArray,
    most: int,
    *,
    alike: bool,
) -> tuple[FloatArray, float]:
    """The point, and the residual left, each entry in units of its own terms.

    Where entries count alike, in one unit for φ and one for h, rounding errors beside it are 0.
    """
    target = np.concatenate([np.ravel(z), laws])

    def residual(point: FloatArray) -> LiftedTangent:
        return np.append(phi(point), h(point)) - target

    gap = residual(theta)
    if np.all(np.abs(gap) <= 4 * _EPS * np.abs(target)):  # started at the answer
        return theta, 0.0
    for _ in range(most):
        jacobian = np.vstack([phi.jacobian(theta), h.jacobian(theta)])
        terms = phi.block_sizes(jacobian) @ phi.block_sizes(theta) + np.abs(target)
        terms = sizes = np.where(terms > 0, terms, 1.0)
        if alike:
            parts = np.split(terms, [phi.size])
            sizes = np.concatenate([0 * part + np.max(part, initial=0.0) for part in parts])
        columns = phi.units(theta)
        before = np.linalg.norm(gap / sizes)
        if before <= ROUNDING:
            break
        relative = jacobian * columns / sizes[:, None]  # in this order, as sizes may be tiny
        step = -columns * (np.linalg.pinv(relative, rcond=RANK_RTOL) @ (gap / sizes))
        # So close, a step squares the gap, or there are only rounding errors left.
        moved = shortened(residual, theta, step, sizes, before, 0.5 if before < _RTOL else 1e-4)
        if moved is None:
            break
        # Where many factors of z vanish, as at a root of higher order, longer steps gain far more.
        while (size := np.linalg.norm(moved[1] / sizes)) > _SLOW * before:
            further = 2 * moved[0] - theta
            if not np.linalg.norm((found := residual(further)) / sizes) < size / 2:
                break
            moved = further, found
        theta, gap = moved
        if before < _RTOL and not size < before / 2:
            break
    if alike:
        gap = np.where(np.abs(gap) > ROUNDING * sizes, gap, 0.0)
    return theta, float(np.linalg.norm(gap / terms))


def with_laws(h: SmoothMap, theta: OneTheta, laws: OneLaws, max_steps: int) -> OneTheta:
    """Move to a point of {h = laws}, by steps along range ∂hᵀ."""
    gap, size = np.inf, h.terms(theta) + np.abs(laws)
    size = np.where(size > 0, size, 1.0)
    for _ in range(max_steps):
        defect = laws - h(theta)
        previous, gap = gap, float(np.max(np.abs(defect) / size, initial=0.0))
        if gap == 0.0 or (gap < _LAWS_RTOL and gap >= previous / 2):
            return theta
        theta = theta + h.solve(theta, defect)
    raise NotRecoverableError(
        f"no point of the invariant set found near theta: the laws still differ by {gap:.2e} of "
        f"their size after {max_steps} Gauss–Newton steps; start from a closer theta"
    )


def on_image(phi: SmoothMap, z: OneLifted, theta: OneTheta) -> OneLifted | None:
    """Find the nearest point of the image of φ, from θ; None where ∂φ is onto, and all is image."""

    def gap(point: FloatArray) -> FloatArray:
        return np.ravel(z - phi(point))

    left = gap(theta)
    for _ in range(_MOST_STEPS):
        units = phi.units(theta)
        basis, singular, right_t = np.linalg.svd(phi.jacobian(theta) * units, full_matrices=False)
        rank = int(np.sum(singular > RANK_RTOL * singular[0]))
        if rank == phi.size:
            return None
        along = basis[:, :rank].T @ left
        # Only the part along the image can be mended, to the rounding errors of φ.
        lifted = z - left.reshape(z.shape)
        if np.linalg.norm(along) <= 1e-15 * (np.linalg.norm(z) + np.linalg.norm(lifted)):
            break
        step = units * (right_t[:rank].T @ (along / singular[:rank]))
        shortest = 1e-16 * np.linalg.norm(theta) / np.linalg.norm(step)
        moved = shortened(gap, theta, step, 1.0, np.linalg.norm(left), float(shortest))
        if moved is None:
            break
        theta, left = moved
    else:
        raise NotRecoverableError(
            f"no point of the image was found near z: a gap of {np.linalg.norm(along):.1e} along "
            f"the image is left after {_MOST_STEPS} steps; start from a closer near"
        )
    return np.asarray(phi(theta))
