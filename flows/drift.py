"""How far the conservation laws drift along a run."""

import numpy as np

from liftflow.architectures import Architecture
from liftflow.doors import door
from liftflow.errors import InputError
from liftflow.flows.rules import TrainingRule
from liftflow.flows.trajectory import Trajectory
from liftflow.typing import OnTimes, Theta, as_array, as_instance


@door
def law_drift(
    architecture: Architecture, trajectory: Trajectory | Theta, rule: TrainingRule | None = None
) -> OnTimes:
    """Measure the drift of the conservation laws, ‖h(θ(t)) − h(θ₀)‖_∞ / ‖θ₀‖².

    Parameters
    ----------
    trajectory : Trajectory or array-like, shape=[..., n_times, dim]
        A flow, steps of a finite size, or any array of θ, such as another program logged. The first
        θ is θ₀.
    rule : TrainingRule, optional
        Of a trajectory, whose times it needs: the drift is that of its laws, from where its decay
        leads them.
    """
    theta = trajectory.theta if isinstance(trajectory, Trajectory) else trajectory
    theta = as_array(theta, "trajectory", (None, architecture.dim), differentiable=False)
    if not theta.shape[-2]:
        raise InputError("trajectory must hold at least one point, got none")
    if rule is not None:
        times = as_instance(trajectory, Trajectory, "trajectory").t
        expected = rule.laws_at(architecture, theta[0], times - times[0])
        gap = np.abs(rule.laws(architecture, theta) - expected)
        return np.max(gap, axis=1, initial=0.0) / np.sum(theta[0] ** 2 / rule.rates(architecture))
    laws = np.asarray(architecture.conservation_laws(theta))
    gap = np.max(np.abs(laws - laws[..., :1, :]), axis=-1, initial=0.0)
    return gap / np.sum(theta[..., :1, :] ** 2, axis=-1)
