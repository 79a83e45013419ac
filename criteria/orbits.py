"""Points of the orbit of θ and close to θ, which tell whether brackets at θ were all found.

At a special point brackets of one level may vanish and those of the next not, so that a level that
adds nothing is not the last. At a generic one it is. Two facts decide for analytic fields: nowhere
is the Lie algebra larger than at generic points, and along an orbit its dimension is constant.
"""

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
from scipy.integrate import solve_ivp

from liftflow.criteria.traces import LieTrace, lie_trace
from liftflow.errors import NotFiniteError
from liftflow.typing import FloatArray, OneTheta

if TYPE_CHECKING:
    from liftflow.criteria.views import View

STEPS = (0.3, 0.1, 0.03, 3e-3, 3e-4, 3e-5, 3e-6, 3e-8, 3e-10)
"""Lengths of flows in units, at their first speed: shorter ones where those run away."""

_RTOL = 1e-13
_CONTROLS = 5  # random fields whose combination changes along a flow
_RANDOM_WAYS = 3  # of STEPS that a point aside of θ is tried at
_MAX_EVALUATIONS = 1500
_FAR = 1e3  # a flow that leads so many units away is not followed


class _FlowLost(Exception):
    """A flow ran away, or became too stiff to be followed."""


def orbit_trace(view: "View") -> LieTrace:
    """Trace at θ of the Lie algebra of the fields, at special points, too.

    Returns
    -------
    trace : LieTrace
        With an objection where the dimension found is not that at another point of the orbit.

    References
    ----------
    Orbits of analytic fields: [Nagano1966]_; random points of them: ours.
    """
    trace = lie_trace(view)
    if not trace.decided or trace.dimension == view.size:
        return trace
    aside = _trace_aside(view)
    if aside is not None and aside.decided:
        if aside.dimension < trace.dimension:
            return replace(trace, objection="beside θ the fields span less, so φ is not analytic")
        trace = replace(trace, generic=aside.dimension)
    if trace.dimension in (0, trace.generic):
        return trace
    end = flow_end(view)
    if end is None:
        return replace(trace, objection="no flow could be followed to another point of its orbit")
    there = lie_trace(view.at(end))
    if there.dimension == view.size and there.decided:  # brackets of some level span the rest
        deeper = trace.span.extend(np.eye(view.size))
        trace = replace(trace, ranks=(*trace.ranks, deeper))
    elif there.dimension > trace.dimension:
        trace = replace(lie_trace(view, least=there.dimension), generic=trace.generic)
    if not there.decided or there.dimension != trace.dimension:
        text = f"{trace.dimension} dimensions were found, and {there.dimension} along its orbit"
        return replace(trace, objection=text)
    return trace


def _trace_aside(view: "View") -> LieTrace | None:
    unit = view.unit / np.sqrt(view.theta.size)
    for length in STEPS[:_RANDOM_WAYS]:
        try:
            way = length * unit * view.rng.standard_normal(view.theta.size)
            return lie_trace(view.at(view.theta + way))
        except NotFiniteError:
            continue
    return None


def flow_end(view: "View") -> OneTheta | None:
    """Follow a random combination of the fields, which changes with time, to a point of the orbit.

    Returns
    -------
    theta : OneTheta, optional
        None where no flow could be followed.
    """
    fields, start, evaluations = view.fields, view.point, count()
    forms, tones = view.random_forms(_CONTROLS), np.pi * np.arange(_CONTROLS)

    def velocity(time: float, point: FloatArray) -> FloatArray:
        away = np.max(np.abs(point - start))
        if not away < _FAR * view.unit or next(evaluations) > _MAX_EVALUATIONS:
            raise _FlowLost
        return np.asarray(np.cos(tones * time) @ fields.values(forms, point, _CONTROLS))

    for length in STEPS:
        try:
            natural = np.maximum(np.abs(start), np.abs(velocity(0.0, start)))
            tolerance = _RTOL * np.where(natural > 0, natural, view.unit)
            solution = solve_ivp(
                velocity, (0.0, length), start, method="DOP853", rtol=_RTOL, atol=tolerance
            )
        except (_FlowLost, NotFiniteError):
            evaluations = count()
            continue
        # The coordinates of the fields are those of θ, turned, moved and times a constant.
        directions, way = fields.velocities(np.eye(view.theta.size)), solution.y[:, -1] - start
        return view.theta + np.asarray(directions @ way / np.sum(directions[0] ** 2))
    return None
