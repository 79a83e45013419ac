"""The lift of a network: the products of the weights along its paths."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import geomstats.backend as gs
import numpy as np
import scipy.linalg
from scipy.sparse import csr_array

from liftflow.architectures.anchors import REANCHOR_RATIO
from liftflow.architectures.dag import CompiledDAG
from liftflow.architectures.maps import SmoothMap
from liftflow.architectures.path_kernel import path_distance
from liftflow.architectures.paths import Anchors, BasisPathChart, make_chart
from liftflow.architectures.recovery import refuse_beside_image
from liftflow.errors import ArchitectureError, NotRecoverableError
from liftflow.linalg import lengths, over_batch, sparse_apply
from liftflow.typing import (
    Covector,
    FloatArray,
    IntArray,
    Lifted,
    LiftedTangent,
    OneLifted,
    OneTheta,
    Scalars,
    Tangent,
    Theta,
    freeze,
    refuse_beyond,
)


class PathLift(SmoothMap):
    """The products of θ along all paths, and their derivatives without dividing by a weight."""

    name = "the lift of a network"

    _kept: tuple[Any, Any, Any] = None, None, None

    def __init__(
        self, dag: CompiledDAG, limit: int, blocks: Sequence[tuple[int, ...]] = ()
    ) -> None:
        self.dag, self.limit = dag, limit
        self._set_up(dag.dim, (dag.n_paths,), blocks)

    # The paths.

    @cached_property
    def table(self) -> IntArray:
        """The edges of all paths, as :func:`path_table` lists them."""
        return freeze(path_table(self.dag, self.limit))

    @property
    def edges(self) -> IntArray:
        """The edges of the first path of each entry, padded by their number."""
        return self.table

    @cached_property
    def tails(self) -> IntArray:
        """Number of the tail of each edge of each path, shape=[n_paths, longest path].

        Padded by the number of nodes + 1; the constant source ⟨1⟩ has the number of nodes.
        """
        return freeze(np.append(self.dag.tails, len(self.dag.nodes) + 1)[self.table])

    @cached_property
    def outputs(self) -> IntArray:
        """Column of the output at the end of each path, shape=[n_paths]."""
        last = np.sum(self.table < self.dim, axis=1) - 1
        ends = self.dag.heads[self.table[np.arange(self.size), last]]
        column = np.zeros(len(self.dag.nodes), dtype=np.intp)
        column[self.dag.outputs] = np.arange(self.dag.outputs.size)
        return freeze(column[ends])

    @cached_property
    def incidence(self) -> csr_array:
        """Path–edge incidence P, shape=[n_paths, dim]."""
        rows, columns = np.nonzero(self.table < self.dim)
        entries = (np.ones(rows.size), (rows, self.table[rows, columns]))
        return freeze(csr_array(entries, shape=(self.size, self.dim)))

    @cached_property
    def _scatter(self) -> csr_array:
        """What adds one number per table entry up per parameter."""
        flat = self.table.T.ravel()
        used = np.flatnonzero(flat < self.dim)
        return csr_array((np.ones(used.size), (flat[used], used)), shape=(self.dim, flat.size))

    def _gather(self, theta: Any, padding: float) -> list[Any]:
        """Entries of θ along the paths, one array of shape [..., n_paths] per step."""
        pad = padding + 0.0 * theta[..., :1]
        padded = gs.concatenate([theta, pad], axis=-1)
        return [padded[..., column] for column in self.table.T]

    # The verbs of a map.

    def value(self, theta: Theta) -> Lifted:
        product = 1.0
        for factor in self._gather(theta, 1.0):
            product = product * factor
        return product

    def jvp(self, theta: Theta, tangent: Tangent) -> LiftedTangent:
        factors, speeds = self._gather(theta, 1.0), self._gather(tangent, 0.0)
        product, speed = factors[0], speeds[0] + 0.0 * factors[0]  # broadcast both ways
        for factor, own_speed in zip(factors[1:], speeds[1:], strict=True):
            product, speed = product * factor, speed * factor + product * own_speed
        return speed

    def hessian(self, theta: Theta, tangent_a: Tangent, tangent_b: Tangent) -> LiftedTangent:
        factors = self._gather(theta, 1.0)
        speeds_a, speeds_b = self._gather(tangent_a, 0.0), self._gather(tangent_b, 0.0)
        product, a, b, both = factors[0], speeds_a[0], speeds_b[0], 0.0
        for factor, own_a, own_b in zip(factors[1:], speeds_a[1:], speeds_b[1:], strict=True):
            both = both * factor + a * own_b + b * own_a
            a, b = a * factor + product * own_a, b * factor + product * own_b
            product = product * factor
        return both + 0.0 * (product + a + b)  # the shape, where all paths are single edges

    def vjp(self, theta: Theta, covector: Covector) -> Tangent:
        factors = self._gather(theta, 1.0)
        running = covector + 0.0 * factors[0]
        before = []
        for factor in factors:
            before.append(running)
            running = running * factor
        after, others = 1.0, []
        for factor, prefix in zip(factors[::-1], before[::-1], strict=True):
            others.append(prefix * after)
            after = after * factor
        return sparse_apply(gs.concatenate(others[::-1], axis=-1), self._scatter)

    def hvp(self, theta: Theta, tangent: Tangent, covector: Covector) -> Tangent:
        factors, speeds = self._gather(theta, 1.0), self._gather(tangent, 0.0)
        before = self._moving_products(factors, speeds)
        after = self._moving_products(factors[::-1], speeds[::-1])[::-1]
        moved = [
            covector * (left_speed * right + left * right_speed)
            for (left, left_speed), (right, right_speed) in zip(before, after, strict=True)
        ]
        return sparse_apply(gs.concatenate(moved, axis=-1), self._scatter)

    @staticmethod
    def _moving_products(factors: list[Any], speeds: list[Any]) -> list[tuple[Any, Any]]:
        """Products of the factors before each step of the paths, with their velocities."""
        product, speed = 1.0 + 0.0 * speeds[0], 0.0 * (factors[0] + speeds[0])
        products = []
        for factor, own_speed in zip(factors, speeds, strict=True):
            products.append((product, speed))
            product, speed = product * factor, speed * factor + product * own_speed
        return products

    def rank(self, theta: OneTheta) -> int:
        """Rank of ∂φ: D − |H|, the dimension of a basis-path chart; refuses dead parameters."""
        self.dag.channels.refuse_dead(theta)
        return self.dag.dim - self.dag.n_hidden

    def chart(self, theta: OneTheta) -> Any:
        """Return coordinates of the image about φ(θ)."""
        return make_chart(self.dag, theta)

    def project_to_range(self, theta: Theta, vector: LiftedTangent) -> LiftedTangent:
        """Project orthogonally onto range ∂φ, of whatever sizes the path products are."""
        if not self.dense:
            return super().project_to_range(theta, vector)

        def project(point: FloatArray, own: FloatArray) -> FloatArray:
            basis = self._tangent_basis(point)
            return basis @ (basis.T @ own)

        return over_batch(project, [theta, vector], [1, 1], self.shape)

    def solve_transposed(self, theta: Theta, covector: Tangent) -> Covector:
        """Solve ∂φᵀ g = v for the shortest g, where v is a pullback."""
        if not self.dense:
            return super().solve_transposed(theta, covector)

        def solve(point: FloatArray, vector: FloatArray) -> Covector:
            basis = self._tangent_basis(point)
            rows = self.vjp(point, basis.T)  # all of range ∂φᵀ, so that Qᵀ g is unique
            sizes = lengths(rows)
            frame, triangle, pivots = qr_by_rows((rows / sizes[:, None]).T)
            solution = np.empty_like(sizes)
            solution[pivots] = scipy.linalg.solve_triangular(triangle, frame.T @ vector)
            return basis @ (solution / sizes)

        return over_batch(solve, [theta, covector], [1, 1], shape=self.shape)

    def _tangent_basis(self, theta: FloatArray) -> FloatArray:
        """Orthonormal basis of range ∂φ: D − |H| columns, so that no rank is decided on."""
        chart = self.chart(theta)
        columns = self.jvp(theta, chart.lift_tangent(theta, np.eye(chart.dim))).T
        return qr_by_rows(columns / lengths(columns.T))[0]

    def norm(self, theta: OneTheta) -> Scalars:
        """Norm of φ(θ), without listing a path."""
        return path_distance(self.dag, theta, np.zeros(self.dim))

    def distance(self, a: OneTheta, b: OneTheta) -> Scalars:
        """Distance of φ(a) and φ(b), without listing a path."""
        return path_distance(self.dag, a, b)

    # The image.

    def representative(self, z: OneLifted, near: OneTheta | None = None) -> OneTheta:
        """Find some θ̂ whose lift is z, or a point of the image near z: a retraction."""
        with suppress(NotRecoverableError):  # the anchors of near, if there are any, vanish at z
            if near is not None:
                chart, numbers = self._chart_at(near)
                theta = chart.representative(z[numbers])
                if chart.anchors.deficit(theta) < np.log(REANCHOR_RATIO):
                    return np.asarray(theta)
        chart, coordinates = self.chart_of(z)
        return chart.representative(coordinates)

    def projected(self, z: OneLifted, near: OneTheta | None = None) -> OneLifted:
        """Lift the representative: a point of the image near z."""
        return self.value(self.representative(z, near))

    def require(self, z: OneLifted, theta: OneTheta, tolerance: float) -> None:
        """Refuse a z that the lift of θ, its representative, misses by more than a tolerance."""
        refuse_beside_image(self.residual(z, self.value(theta)), tolerance)

    def _chart_at(self, near: FloatArray) -> tuple[Any, IntArray]:
        """Chart at a point, and the positions in z of its coordinates; kept at a θ₀."""
        kept, chart, numbers = self._kept
        if near is not kept:
            chart = self.chart(near)
            numbers = self.numbers(chart)
            if near.base is None and not near.flags.writeable:  # which stays what it is
                self._kept = near, chart, numbers
        return chart, numbers

    def residual(self, z: OneLifted, projected: OneLifted) -> float:
        """Distance of z to a point of the image, relative to z, the largest of all path lengths.

        Paths of different lengths have different units: short ones would hide what is wrong in
        long ones.
        """
        gap = projected - z
        residuals = [0.0]
        for paths in self._paths_by_length:
            own = float(lengths(gap[paths]))
            size = float(lengths(z[paths]))
            residuals.append(own / size if size else np.inf if own else 0.0)
        return max(residuals)

    @cached_property
    def _paths_by_length(self) -> list[Any]:
        counts = np.sum(self.table < self.dim, axis=1)
        if np.all(counts == counts[:1]):
            return [slice(None)]
        return [np.flatnonzero(counts == count) for count in np.unique(counts)]

    def chart_of(self, z: FloatArray) -> tuple[BasisPathChart, FloatArray]:
        """Find the chart with the strongest anchors at z, and the coordinates of z in it."""
        dag, table = self.dag, self.table
        # The strongest path through a node is the strongest path to it, then from it.
        rank = np.empty(z.size, dtype=np.intp)
        rank[np.argsort(np.abs(z), kind="stable")] = np.arange(z.size)
        by_rank = np.empty_like(rank)
        by_rank[rank] = np.arange(z.size)
        best = np.full(dag.n_hidden + 1, -1)
        head_hidden = np.append(dag.head_hidden, -1)
        for column in table.T:
            np.maximum.at(best, head_hidden[column], rank)
        strongest = by_rank[best[:-1]]
        dead = np.flatnonzero(z[strongest] == 0)
        if dead.size:
            edges = np.isin(dag.head_hidden, dead) | np.isin(dag.tail_hidden, dead)
            names = [dag.parameter_names[edge] for edge in np.flatnonzero(edges)]
            shown = ", ".join(repr(dag.nodes[dag.hidden_nodes[number]]) for number in dead[:8])
            raise NotRecoverableError(
                f"every path through the hidden nodes {shown} vanishes in z: the parameters at "
                "these nodes are dead, and z does not determine them",
                names,
            )
        rows = table[strongest]
        at_head = head_hidden[rows] == np.arange(dag.n_hidden)[:, None]
        step = np.argmax(at_head, axis=1)
        numbers = np.arange(dag.n_hidden)
        anchors = Anchors(dag, rows[numbers, step], rows[numbers, step + 1])
        chart = BasisPathChart(dag.channels.laplacian, anchors, np.ones(dag.n_hidden))
        return chart, z[self.numbers(chart)]

    @cached_property
    def _path_offsets(self) -> tuple[IntArray, IntArray]:
        """How many paths come before an edge's among those from its tail, and before a start's."""
        counts = np.array(self.dag.suffix_counts)
        by_tail = np.argsort(self.dag.tails, kind="stable")
        own = counts[self.dag.heads[by_tail]]
        total = np.cumsum(own) - own
        first = np.searchsorted(self.dag.tails[by_tail], self.dag.tails[by_tail])
        offsets = np.empty(self.dim, dtype=np.intp)
        offsets[by_tail] = total - total[first]
        starts = np.zeros(counts.size, dtype=np.intp)
        order = [*range(self.dag.n_inputs), counts.size - 1]
        starts[order] = np.cumsum(counts[order]) - counts[order]
        return freeze((offsets, starts))

    def numbers(self, chart: BasisPathChart) -> IntArray:
        """Position in z of each basis path of a chart: ranks add up along paths."""
        offsets, starts = self._path_offsets
        anchors = chart.anchors
        # The offset of the start belongs to the first edge of a path.
        first = offsets + starts[self.dag.tails]
        before = np.append(anchors.before(first), 0)[self.dag.tail_hidden]
        after = np.append(anchors.after(offsets), 0)[self.dag.head_hidden]
        return np.asarray((before + first + after)[chart.edges])


def path_table(dag: CompiledDAG, limit: int) -> IntArray:
    """List the edges of all paths, in lexicographic order.

    Paths are ordered by their start (the inputs in the order given, then ⟨1⟩), then by their
    first edge, second edge, …, compared by parameter number. For complete layers this is the
    row-major order of ``(input, hidden, …, output)``.

    Returns
    -------
    edges : array, shape=[n_paths, longest path]
        Parameter numbers, padded at the end by ``dag.dim``.
    """
    if dag.n_paths > limit:
        raise ArchitectureError(
            f"the network has {dag.n_paths} paths, more than the limit of {limit}; use "
            "coordinates='basis', which lists none, or raise path_limit"
        )
    refuse_beyond(dag.n_paths * len(dag.members), f"a table of {dag.n_paths} paths")
    suffixes: dict[int, IntArray] = {int(node): np.empty((1, 0), np.intp) for node in dag.outputs}
    starts = [*range(dag.n_inputs), len(dag.nodes)]
    by_tail = np.argsort(dag.tails, kind="stable")
    bounds = np.searchsorted(dag.tails[by_tail], np.arange(len(dag.nodes) + 2))
    inner = [*dag.hidden_nodes[::-1], *starts]
    for node in inner:
        out_of = by_tail[bounds[node] : bounds[node + 1]]
        tables = [(edge, suffixes[int(dag.heads[edge])]) for edge in out_of]
        longer = [np.hstack([np.full((len(own), 1), edge), own]) for edge, own in tables]
        suffixes[int(node)] = stacked(longer, dag.dim)
    return stacked([suffixes[node] for node in starts], dag.dim)


def stacked(tables: list[IntArray], padding: int) -> IntArray:
    """Put tables below each other, padded to the same width."""
    width = max((table.shape[1] for table in tables), default=0)
    padded = [
        np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=padding)
        for table in tables
    ]
    return np.vstack(padded) if padded else np.empty((0, 0), np.intp)


def qr_by_rows(columns: FloatArray) -> tuple[FloatArray, FloatArray, IntArray]:
    """Decompose A = Q R with pivots among the columns, its rows of whatever sizes.

    Rows from the largest to the smallest keep small ones from drowning in the rounding errors of
    large ones.

    References
    ----------
    Cox and Higham 1998, on the stability of Householder's QR row by row.
    """
    order = np.argsort(-np.max(np.abs(columns), axis=1, initial=0.0), kind="stable")
    basis = np.empty_like(columns)
    basis[order], triangle, pivots = scipy.linalg.qr(
        columns[order], mode="economic", pivoting=True, check_finite=False
    )
    return basis, triangle, pivots
