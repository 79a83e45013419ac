"""The distinct monomials of a network with shared and frozen weights."""

from dataclasses import dataclass

import numpy as np

from liftflow.architectures.dag import CompiledDAG
from liftflow.architectures.path_lift import stacked
from liftflow.architectures.tying import Tying, Units
from liftflow.errors import ArchitectureError
from liftflow.typing import FloatArray, IntArray, freeze


@dataclass
class Monomials:
    """Products along the paths from a node, those with the same exponents once, for the first path.

    Attributes
    ----------
    parameters : array, shape=[n_monomials, degree]
        Each parameter as often as it is a factor, padded at the end by the number of parameters.
    edges : array, shape=[n_monomials, longest path]
        The first path, padded by the number of edges.
    constants : array, shape=[n_monomials]
        Product of the frozen weights along the first path.
    powers : array, shape=[n_monomials]
        Exponent of an edge into the node.
    hashes : array, shape=[n_monomials]
        Of the multisets of parameters.
    """

    parameters: IntArray
    edges: IntArray
    constants: FloatArray
    powers: IntArray
    hashes: IntArray

    def __len__(self) -> int:
        """Count them."""
        return len(self.constants)

    def __getitem__(self, rows: IntArray) -> "Monomials":
        """Take some of them."""
        return Monomials(*(own[rows] for own in vars(self).values()))


class MonomialLister:
    """Lists the distinct monomials, in the lexicographic order of their first paths."""

    def __init__(self, dag: CompiledDAG, tying: Tying, units: Units, limit: int) -> None:
        self.dag, self.tying, self.units, self.limit = dag, tying, units, limit
        self.dim, self.n_edges = tying.dim, dag.tails.size
        rng = np.random.default_rng(0)  # multisets that hash alike are compared all the same
        self.keys = rng.integers(2**62, size=self.dim + 1, dtype=np.int64)
        self.keys[-1] = 0
        self.merging = tying.repeats or tying.trained.size < self.n_edges

    def _estimate(self) -> float:
        """About how many there are, at least where no weight comes before itself on a path."""
        dag, own = self.dag, self.tying.parameters
        counts = np.zeros(len(dag.nodes) + 1)
        counts[dag.outputs] = 1.0
        labels = np.where(own < 0, self.dim + np.arange(own.size), own)
        level = dag.generation[dag.tails]
        order = np.lexsort((labels, dag.tails, -level))
        cuts = np.flatnonzero(np.diff(level[order])) + 1
        for edges in np.split(order, cuts):
            if level[edges[0]] <= 0:
                break
            np.add.at(counts, *self._largest(dag.tails[edges], labels[edges], counts, edges))
        starts = np.flatnonzero(level <= 0)
        starts = starts[np.argsort(labels[starts], kind="stable")]
        return float(np.sum(self._largest(0 * starts, labels[starts], counts, starts)[1]))

    def _largest(
        self, tails: IntArray, labels: IntArray, counts: FloatArray, edges: IntArray
    ) -> tuple[IntArray, FloatArray]:
        """Tails of sorted edges, and the largest count behind those of one tail and one weight."""
        new = np.append(True, (np.diff(tails) != 0) | (np.diff(labels) != 0))
        starts = np.flatnonzero(new)
        return tails[starts], np.maximum.reduceat(counts[self.dag.heads[edges]], starts)

    def all(self) -> Monomials:
        """List those from all inputs and ⟨1⟩."""
        if self._estimate() > 4.0 * self.limit:
            raise self._too_many()
        dag = self.dag
        nothing = np.zeros((1, 0), np.intp)
        one = np.ones(1, np.intp)
        end = Monomials(nothing, nothing, np.ones(1), one, 0 * one)
        suffixes = {int(node): end for node in dag.outputs}
        starts = [*range(dag.n_inputs), len(dag.nodes)]
        by_tail = np.argsort(dag.tails, kind="stable")
        bounds = np.searchsorted(dag.tails[by_tail], np.arange(len(dag.nodes) + 2))
        degrees = np.append(self.units.degrees, 1)
        for node in [*dag.hidden_nodes[::-1], *starts]:
            out_of = by_tail[bounds[node] : bounds[node + 1]]
            parts = [self._prepend(edge, suffixes[int(dag.heads[edge])]) for edge in out_of]
            joined = self._distinct(parts)
            joined.powers = joined.powers * degrees[node]
            suffixes[int(node)] = joined
        found = self._distinct([suffixes[node] for node in starts])
        freeze([*vars(found).values()])
        return found

    def _prepend(self, edge: int, suffix: Monomials) -> Monomials:
        own, count = int(self.tying.parameters[edge]), len(suffix)
        edges = np.hstack([np.full((count, 1), edge), suffix.edges])
        if own < 0:
            constants = suffix.constants * self.tying.constants[edge] ** suffix.powers
            return Monomials(suffix.parameters, edges, constants, suffix.powers, suffix.hashes)
        most = int(suffix.powers.max())
        times = np.arange(most) < suffix.powers[:, None]
        parameters = np.hstack([np.where(times, own, self.dim), suffix.parameters])
        hashes = suffix.hashes + suffix.powers * self.keys[own]  # wraps around, as it may
        return Monomials(parameters, edges, suffix.constants, suffix.powers, hashes)

    def _distinct(self, parts: list[Monomials]) -> Monomials:
        if sum(map(len, parts)) > 16 * self.limit:
            raise self._too_many()
        if not parts:
            nothing, none = np.zeros((0, 0), np.intp), np.zeros(0, np.intp)
            return Monomials(nothing, nothing, np.ones(0), none, none)
        joined = Monomials(
            stacked([part.parameters for part in parts], self.dim),
            stacked([part.edges for part in parts], self.n_edges),
            *(
                np.concatenate([vars(part)[name] for part in parts])
                for name in ("constants", "powers", "hashes")
            ),
        )
        if self.merging and len(joined) > 1:
            marks = joined.hashes + joined.powers
            first, place = np.unique(marks, return_index=True, return_inverse=True)[1:]
            rows = np.sort(joined.parameters, axis=1)
            if np.array_equal(rows, rows[first[place]]):
                joined = joined[np.sort(first)]
            else:  # two multisets of one hash
                rows = np.hstack([rows, joined.powers[:, None]])
                joined = joined[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
        if len(joined) > self.limit:
            raise self._too_many()
        return joined

    def _too_many(self) -> ArchitectureError:
        return ArchitectureError(
            f"the network has {self.dag.n_paths} paths, of which more than the limit of "
            f"{self.limit} differ in their exponents; use coordinates='basis', which lists none, "
            "or raise path_limit"
        )
