"""Rescalings of a ReLU network whose weights have very different sizes, without cancellation.

A law adds up the squares at one hidden node. Where a large weight joins two of them, what is left
of its square in the sum of their laws drowns in rounding, and with it the ways of rescaling both at
once. The cuts of a spanning forest of largest weights have no such weight within: each is as large
as the edge of the forest that it cuts.
"""

import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from liftflow.architectures import ReLUNetwork
from liftflow.errors import NotRecoverableError
from liftflow.typing import FloatArray, refuse_beyond

_PARTED = 1e3  # ratio of weights whose square costs the laws six digits
_MAX_STEPS = 200


def is_parted(network: ReLUNetwork, theta: FloatArray) -> bool:
    """Whether a weight between hidden nodes is far larger than all that ties them to the ends.

    Parameters
    ----------
    theta : array, shape=[dim]
    """
    dag, sizes = network.dag, np.abs(theta)
    inner = sizes[(dag.head_hidden >= 0) & (dag.tail_hidden >= 0)]
    largest = np.max(inner, initial=0.0)
    if not largest > _PARTED * np.min(sizes):
        return False
    # Of each hidden node the widest way from the inputs, or to the outputs.
    parts = list(zip(dag.hidden_generations, dag.in_edges, dag.out_edges, strict=True))
    widest = np.zeros(dag.n_hidden)
    for order, near, far in ((parts, dag.head_hidden, 1), (parts[::-1], dag.tail_hidden, 2)):
        ends = dag.tail_hidden if far == 1 else dag.head_hidden
        reach = np.append(np.zeros(dag.n_hidden), np.inf)
        for part in order:
            edges = part[far]
            np.maximum.at(reach, near[edges], np.minimum(sizes[edges], reach[ends[edges]]))
        widest = np.maximum(widest, reach[:-1])
    return bool(largest > _PARTED * np.min(widest))


class Forest:
    """A spanning forest of largest weights at θ, and its fundamental cuts.

    Parameters
    ----------
    theta : array, shape=[dim]
        Without dead parameters.
    """

    def __init__(self, network: ReLUNetwork, theta: FloatArray) -> None:
        dag = network.dag
        refuse_beyond(float(dag.n_hidden) * dag.dim, "the cuts of a spanning forest")
        joined = DisjointSet(range(-1, dag.n_hidden))
        largest_first = np.argsort(-np.abs(theta), kind="stable")
        ends = np.stack([dag.head_hidden, dag.tail_hidden], axis=1).clip(-1)
        self.edges = np.array(
            [edge for edge in largest_first if joined.merge(*ends[edge])], dtype=np.intp
        )
        incidence = dag.law_matrix.toarray()
        # Totally unimodular, so that all entries are −1, 0 or 1.
        self.cuts: FloatArray = np.rint(np.linalg.solve(incidence[:, self.edges], incidence))
        self.theta = theta

    def _across(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rescalings of unit length along the forest, entries at most 1, and their Gram matrix."""
        fibre = self.cuts * theta / theta[self.edges, None]
        return fibre, fibre @ fibre.T

    def settle(self, theta0: FloatArray) -> FloatArray:
        """Move θ along its fibre to where the squares over each cut add up as they do at θ₀.

        Parameters
        ----------
        theta0 : array, shape=[dim]

        Returns
        -------
        theta : array, shape=[dim]

        Raises
        ------
        NotRecoverableError
            Rounding decides where that is.
        """
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

    def still(self, tangent: FloatArray, size: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Add a rescaling to a velocity that stops the forest, and bound the rounding errors.

        Parameters
        ----------
        tangent : array, shape=[dim]
            Velocity of θ.
        size : array, shape=[dim]
            Of the terms that each entry is a sum of.

        Returns
        -------
        tangent, noise : array, shape=[dim]
        """
        along, theta = self.edges, self.theta
        moved = tangent - theta * (tangent[along] / theta[along] @ self.cuts)
        terms = size + np.abs(theta) * (size[along] / np.abs(theta[along]) @ np.abs(self.cuts))
        moved[along] = terms[along] = 0.0
        return moved, np.finfo(float).eps * terms

    def project(self, tangent: FloatArray) -> FloatArray:
        """Project a velocity that leaves the forest still orthogonally onto ker ∂h.

        Parameters
        ----------
        tangent : array, shape=[dim]

        Returns
        -------
        tangent : array, shape=[dim]
        """
        fibre, gram = self._across(self.theta)
        return np.asarray(tangent - np.linalg.solve(gram, fibre @ tangent) @ fibre)
