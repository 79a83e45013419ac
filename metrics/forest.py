"""Rescalings of a ReLU network whose weights have very different sizes, without cancellation.

A law adds up the squares at one hidden node. Where a large weight joins two of them, what is left
of its square in the sum of their laws drowns in rounding, and with it the ways of rescaling both at
once. The cuts of a spanning forest of largest weights have no such weight within: each is as large
as the edge of the forest that it cuts.
"""

import numpy as np

from liftflow.architectures import ReLUNetwork
from liftflow.errors import NotRecoverableError
from liftflow.typing import FloatArray, OneTangent, OneTheta, refuse_beyond

_PARTED = 1e3  # ratio of weights whose square costs the laws six digits
_MAX_STEPS = 200


def is_parted(network: ReLUNetwork, theta: OneTheta) -> bool:
    """Whether a weight between hidden nodes is far larger than what ties them to the ends."""
    channels, sizes = network.channels, np.abs(theta)
    inner = sizes[np.diff(channels.exponents.indptr) > 1]
    return not channels.joined(_PARTED * sizes >= np.max(inner, initial=0.0))


class Forest:
    """A spanning forest of largest weights at θ, and its fundamental cuts.

    Its rescalings act on a forest's edge each, and on those that share its cut.

    There must be no dead parameters at θ.
    """

    def __init__(self, network: ReLUNetwork, theta: OneTheta) -> None:
        channels = network.channels
        refuse_beyond(float(channels.n_channels) * channels.dim, "the cuts of a spanning forest")
        self.theta, self.edges = theta, channels.strongest_anchors(theta).edges
        exponents = channels.exponents.toarray()
        self.cuts: FloatArray = np.linalg.solve(exponents[self.edges].T, exponents.T)

    def _across(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rescalings of unit length along the forest, entries at most 1, and their Gram matrix."""
        fibre = self.cuts * theta / theta[self.edges, None]
        return fibre, fibre @ fibre.T

    def settle(self, theta0: OneTheta) -> OneTheta:
        """Move θ along its fibre to where the squares over each cut add up as they do at θ₀."""
        theta, logs = self.theta, np.zeros(len(self.edges))
        noise = np.finfo(float).eps * (np.abs(self.cuts) @ (theta0**2 + theta**2))
        for _ in range(_MAX_STEPS):
            theta = self.theta * np.exp(logs @ self.cuts)
            along = np.abs(theta[self.edges])
            gaps = self.cuts @ ((theta0 - theta) * (theta0 + theta))
            _, gram = self._across(theta)
            step = np.linalg.solve(gram, gaps / along) / (2 * along)
            length = float(np.max(np.abs(step), initial=0.0))
            if length <= 1e-14:
                break
            logs += step / max(length, 1.0)
        if not (length <= 1e-11 and np.all(noise <= 1e-9 * along**2)):
            raise NotRecoverableError(
                "the sizes of the weights part so far that rounding errors of the laws decide "
                "where on its fibre θ lies; take a θ₀ whose hidden nodes are closer to balance "
                "(architecture.rescale)"
            )
        return theta

    def still(self, tangent: OneTangent, size: OneTangent) -> tuple[OneTangent, OneTangent]:
        """Add a rescaling to a velocity that stops the forest, and bound the rounding errors.

        Parameters
        ----------
        size : OneTangent
            Of the terms that each entry of the velocity is a sum of.
        """
        along, theta = self.edges, self.theta
        moved = tangent - theta * (tangent[along] / theta[along] @ self.cuts)
        terms = size + np.abs(theta) * (size[along] / np.abs(theta[along]) @ np.abs(self.cuts))
        moved[along] = terms[along] = 0.0
        return moved, np.finfo(float).eps * terms

    def project(self, tangent: OneTangent) -> OneTangent:
        """Project a velocity that leaves the forest still orthogonally onto ker ∂h."""
        fibre, gram = self._across(self.theta)
        return tangent - np.linalg.solve(gram, fibre @ tangent) @ fibre
