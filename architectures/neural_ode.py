"""Linear neural ordinary differential equations: linear networks of infinite depth."""

from collections.abc import Sequence

import geomstats.backend as gs
import numpy as np
from scipy.linalg import expm, schur

from liftflow.architectures.balance import (
    balanced_layers,
    layer_shifts,
    random_orthogonal,
    transpose,
)
from liftflow.architectures.base import Architecture
from liftflow.architectures.linear import DeepLinear
from liftflow.errors import ArchitectureError
from liftflow.typing import (
    Block,
    FloatArray,
    IntArray,
    Matrix,
    OneTheta,
    Rng,
    Scalars,
    Tangent,
    Theta,
    as_array,
    as_count,
    as_rng,
    refuse_beyond,
    shown,
)


class LinearNeuralODE(DeepLinear):
    r"""Linear neural ODE X' = A(s) X, X(0) = I, lifted to z = X(1), on a grid of depths.

    A is constant on each of N cells of depth and the equation is solved by Euler's explicit rule,
    :math:`z = (I + A_N/N) ⋯ (I + A_1/N)`: the residual network of depth N, whose laws
    :math:`H_i = N^2 [(I + A_{i+1}/N)^\top (I + A_{i+1}/N) − (I + A_i/N)(I + A_i/N)^\top]` are
    conserved exactly and tend to :math:`H(s) = A' + A'^\top + A^\top A − A A^\top`. The integral of
    L²([0, 1]) is the rectangle rule, of order 1 in 1/N. The flat vector holds
    :math:`θ_i = A_i/\sqrt N`, so that |θ|² is the squared L² norm and the Euclidean gradient flow
    of θ the L² gradient flow of A; :meth:`pack` and :meth:`unpack` convert.

    Parameters
    ----------
    n : int
        Size of A(s) and z.
    n_steps : int
        Number N of cells of depth, at least 2.

    References
    ----------
    [MPG]_; that λ drops out of the cometric is ours, until we see it in print.
    """

    def __init__(self, n: int, n_steps: int) -> None:
        self.n, self.n_steps = as_count(n, "n", 1), as_count(n_steps, "n_steps", 2)
        cells = f"{shown(self.n_steps)} cells of {shown(self.n)} × {shown(self.n)} numbers"
        refuse_beyond(self.n_steps, cells, 40 + 8 * self.n**2)
        super().__init__([self.n] * (self.n_steps + 1))
        self.law_scale = float(self.n_steps**2)

    def _block_shapes(self) -> list[tuple[int, ...]]:
        return [(self.n_steps, self.n, self.n)]

    def _facts(self) -> str:
        return f"{self.n}, {self.n_steps}"

    def pack(self, *blocks: Block) -> Theta:
        """Flatten A on the grid, θ = A/√N."""
        return super().pack(*blocks) / np.sqrt(self.n_steps)

    def unpack(self, theta: Theta) -> tuple[Block, ...]:
        """Read A on the grid, A = √N θ."""
        return tuple(np.sqrt(self.n_steps) * block for block in super().unpack(theta))

    def _layers(self, theta: Theta) -> list[Block]:
        return [gs.eye(self.n) + layer for layer in self._velocities(theta)]

    def _velocities(self, tangent: Tangent) -> list[Block]:
        (steps,) = self._unpack(tangent)
        return [steps[..., i, :, :] / np.sqrt(self.n_steps) for i in range(self.n_steps)]

    def _pull_layers(self, covectors: list[Block]) -> Tangent:
        return self._pack([gs.stack(covectors, axis=-3) / np.sqrt(self.n_steps)])

    def from_layers(self, layers: Sequence[Block]) -> Theta:
        shape, parts = (self.n, self.n), self._each_layer(layers)
        stacked = np.stack([as_array(layer, "a layer", shape) for layer in parts], axis=-3)
        return self.pack(self.n_steps * (stacked - np.eye(self.n)))

    def _signs(self) -> IntArray:
        # A layer I + A/N turned over is no multiple of A.
        return Architecture._signs(self)

    def _drawn(self, count: int, rng: np.random.Generator) -> Theta:
        """A path A(s) that is linear in s, with normal ends."""
        first, last = rng.standard_normal((2, count, 1, self.n, self.n)) / np.sqrt(self.n)
        s = np.linspace(0.0, 1.0, self.n_steps)[:, None, None]
        return self.pack((1 - s) * first + s * last)

    def balanced_point(self, lam: Scalars, rng: Rng = None) -> OneTheta:
        """Draw a relaxed balanced point, H_i = λ_i I exactly on the grid.

        Parameters
        ----------
        lam : array-like, shape=[] or [n_steps - 1]
            Value of λ, which may depend on the depth.

        Raises
        ------
        ArchitectureError
            So negative a λ that a layer I + A/N would lose its sign on this grid.
        """
        rng, n = as_rng(rng), self.n
        lams = self._lams(lam) / self.law_scale
        rates = rng.uniform(-0.5, 1.0, size=n)
        squares = (1 + rates / self.n_steps)[:, None] ** 2 + layer_shifts(lams)
        if not np.all(squares > 0):
            raise ArchitectureError(
                f"λ = {lam} is too negative for {self.n_steps} cells of depth; take more of them"
            )
        first = random_orthogonal(n, rng)
        noise = rng.standard_normal((n, n))
        turn = expm((noise - noise.T) / (2 * self.n_steps))
        frames = [first]
        for _ in range(self.n_steps):
            frames.append(frames[-1] @ turn)
        return self.from_layers(balanced_layers(self.widths, squares, lams, frames))

    def _unit_of(self, size: float, degree: int = 4) -> float:
        return 1.0  # the layers are close to I in any unit

    def _inner_frames(self, first: FloatArray, last: FloatArray) -> list[FloatArray]:
        # Turn from one end to the other evenly, so that A stays bounded as the grid is refined.
        turn = transpose(first) @ last
        if np.linalg.det(turn) < 0:
            raise ArchitectureError("z has a negative determinant; no flow from I leads there")
        step = _rotation_root(turn, self.n_steps)
        frames = [first @ step]
        while len(frames) < self.n_steps - 1:
            frames.append(frames[-1] @ step)
        return frames

    def fibre_point(self, theta: Theta, rng: Rng = None) -> FloatArray:
        """Refuse: the closed form is the same whatever λ is, so there is no such control."""
        raise ArchitectureError(
            "the metric of a linear neural ODE is the same for every λ, so other laws give no "
            "negative control; compare with another metric instead, by cometric="
        )


def _rotation_root(turn: FloatArray, count: int) -> Matrix:
    """The rotation that makes a turn in ``count`` steps, each by at most π / count."""
    form, basis = schur(turn)
    planes = [(i, i + 1) for i in range(len(turn) - 1) if form[i + 1, i] != 0.0]
    in_planes = np.ravel(planes)
    flipped = [i for i in range(len(turn)) if form[i, i] < 0 and i not in in_planes]
    planes += zip(flipped[0::2], flipped[1::2], strict=True)
    root = np.eye(len(turn))
    for i, j in planes:
        angle = np.arctan2(form[j, i], form[i, i]) / count
        root[i, i] = root[j, j] = np.cos(angle)
        root[j, i], root[i, j] = np.sin(angle), -np.sin(angle)
    return basis @ root @ basis.T
