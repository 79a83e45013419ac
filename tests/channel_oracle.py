"""Networks on graphs by the book: function, monomials, gradients, ranks; no line of liftflow.

A graph is read as in issue 13: edges carry ``parameter`` (a name, shared by all edges that have it)
or ``frozen`` and ``weight``; nodes carry ``activation`` with ``slope`` or ``degree``; the bias of a
node is shared by ``bias_parameter``, or ``bias_frozen`` at the value ``bias``. Everything that
walks over positions, steps or blocks is written out, neuron by neuron and use by use.
"""

import functools
import itertools
from collections import defaultdict
from fractions import Fraction

import autograd
import autograd.numpy as np
import networkx as nx

RANK_TOLERANCE = 1e-9
ONE = "one"  # an input that is always 1: the tail of biases that are shared


def activate(node, value):
    """Value of a unit at its weighted sum."""
    kind = node.get("activation", "relu")
    if kind == "identity":
        return value
    if kind == "abs":
        return np.where(value > 0, value, -value)
    slope = node["slope"] if kind == "leaky_relu" else 0.0
    bent = np.where(value > 0, value, slope * value)
    return bent ** node["degree"] if kind == "relu_power" else bent


class GraphOracle:
    """A network on an acyclic graph; ``labels`` names the entries of θ.

    A label is the name of a shared weight, else (u, v) or (u, v, key), else ("bias", v).
    """

    def __init__(self, graph, inputs, outputs, biases=()):
        self.graph, self.inputs, self.outputs = graph, list(inputs), list(outputs)
        self.biases = list(biases)
        self.order = list(nx.topological_sort(graph))
        self.into = defaultdict(list)  # head → (tail or None for a bias, label or None, constant)
        labels = {}
        edges = graph.edges(keys=True, data=True) if graph.is_multigraph() else None
        for *edge, data in edges or graph.edges(data=True):
            if data.get("frozen"):
                self.into[edge[1]].append((edge[0], None, float(data["weight"])))
            else:
                label = data.get("parameter", tuple(edge))
                labels.setdefault(label, len(labels))
                self.into[edge[1]].append((edge[0], label, 1.0))
        for node in self.biases:
            data = graph.nodes[node]
            if data.get("bias_frozen"):
                self.into[node].append((None, None, float(data["bias"])))
            else:
                label = data.get("bias_parameter", ("bias", node))
                labels.setdefault(label, len(labels))
                self.into[node].append((None, label, 1.0))
        self.number = labels
        self.labels = list(labels)
        self.dim = len(labels)

    def is_linear(self, node):
        return node in self.outputs or node in self.inputs

    def degree(self, node):
        data = self.graph.nodes[node]
        if self.is_linear(node) or data.get("activation") != "relu_power":
            return 1
        return data["degree"]

    # The function.

    def forward(self, theta, data):
        return self.nodes(theta, data)[0]

    def pattern(self, theta, data):
        """Which linear piece each unit is on, at every sample."""
        return np.array(self.nodes(theta, data)[1])

    def nodes(self, theta, data):
        """Outputs, shape=[n_samples, n_outputs], and pieces; θ of shape [dim] or [n_samples, dim].

        ``ONE``, always the last input, needs no column of data.
        """
        pieces = []
        value = {node: data[:, i] for i, node in enumerate(self.inputs) if node != ONE}
        value[ONE] = np.ones(len(data))
        for node in self.order:
            if node in value:
                continue
            terms = []
            for tail, label, constant in self.into[node]:
                weight = constant if label is None else theta[..., self.number[label]]
                terms.append(weight * (value[tail] if tail is not None else np.ones(len(data))))
            attributes = self.graph.nodes[node]
            if attributes.get("activation") == "max" and node not in self.outputs:
                total = terms[0]
                for term in terms[1:]:
                    pieces.append(term > total)
                    total = np.where(term > total, term, total)
                value[node] = total
            else:
                total = sum(terms[1:], terms[0])
                value[node] = total if self.is_linear(node) else activate(attributes, total)
                if not self.is_linear(node) and attributes.get("activation") != "identity":
                    pieces.append(total > 0)
        return np.stack([value[node] for node in self.outputs], axis=-1), pieces

    def smooth_time(self, theta, data, targets, time, n_steps=6):
        """The longest of time, time / 2, … over which a rough flow stays on one linear piece."""
        pattern = self.pattern(theta, data)
        while True:
            at = theta
            for _ in range(n_steps):
                at = at - time / n_steps * self.loss_gradient(at, data, targets)
                if not np.array_equal(self.pattern(at, data), pattern):
                    break
            else:
                return time
            time = time / 2

    def data_gradients(self, theta, data):
        """Gradients of every output at every sample, shape=[n_samples · n_outputs, dim]."""
        return gradients_of(self.forward, theta, data, len(self.outputs))

    def loss_gradient(self, theta, data, targets):
        return autograd.grad(lambda t: half_squares(self.forward(t, data) - targets))(theta)

    # The lift.

    @functools.cached_property
    def monomials(self):
        """Distinct (exponents, constant) of the paths; exponents as ((number, power), …)."""
        at = {node: {((), 1.0): None} for node in self.inputs}
        for node in self.order:
            if node in at:
                continue
            power, found = self.degree(node), {}
            for tail, label, constant in self.into[node]:
                for exponents, factor in at[tail] if tail is not None else [((), 1.0)]:
                    grown = dict(exponents)
                    if label is not None:
                        grown[self.number[label]] = grown.get(self.number[label], 0) + 1
                    key = tuple(sorted((e, p * power) for e, p in grown.items()))
                    found[key, round((factor * constant) ** power, 12)] = None
            at[node] = found
        ends = itertools.chain(*(at[node] for node in self.outputs))
        return sorted(key for key in dict.fromkeys(ends) if key[1] != 0)

    @functools.cached_property
    def constants(self):
        """Exponents → the constants of the paths with this monomial."""
        found = defaultdict(list)
        for exponents, constant in self.monomials:
            powers = dict(exponents)
            found[tuple(powers.get(number, 0) for number in range(self.dim))].append(constant)
        return found

    @functools.cached_property
    def exponents(self):
        """The integer matrix A of the distinct monomials, whatever their constants."""
        return np.array(sorted(self.constants), dtype=int)

    def lift(self, theta):
        """Value of each monomial, as in ``exponents``, for a constant of 1."""
        return np.prod(theta**self.exponents, axis=1)

    def lift_jacobian(self, theta):
        """Product rule without a division: what is before times what is behind each factor."""
        factors = theta**self.exponents
        ones = np.ones((len(factors), 1))
        before = np.cumprod(np.hstack([ones, factors[:, :-1]]), axis=1)
        behind = np.cumprod(np.hstack([ones, factors[:, :0:-1]]), axis=1)[:, ::-1]
        return before * behind * self.exponents * theta ** np.maximum(self.exponents - 1, 0)

    # Counts.

    @functools.cached_property
    def n_laws(self):
        """D − rank A, exactly."""
        return self.dim - exact_rank(self.exponents.tolist())

    @functools.cached_property
    def symmetries(self):
        """Basis X of ker A, shape=[dim, n_laws]: θ ↦ e^{Xτ} θ keeps every monomial."""
        _, values, right = np.linalg.svd(self.exponents.astype(float), full_matrices=True)
        rank = int(np.sum(values > RANK_TOLERANCE * values[0]))
        return right[rank:].T

    def laws_jacobian(self, theta):
        """Derivative of the laws Σ_e X_ec θ_e²."""
        return 2 * self.symmetries.T * theta

    def lift_rank(self, theta):
        return scaled_rank(self.lift_jacobian(theta), theta)

    def gradient_rank(self, theta, data):
        return scaled_rank(self.data_gradients(theta, data), theta)

    def equations(self):
        """Number of laws by the equations of sharing and freezing, without a path (theory, §7).

        Unknowns: one log-factor τ per hidden node, and for each shared weight its own. Every use
        u → v of a weight rescales it by τ_v / k_v − τ_u, where τ is that of the unit's value; a
        frozen one does not rescale. Valid where every node lies on a path.
        """
        ends = set(self.inputs) | set(self.outputs)
        nodes = {node: i for i, node in enumerate(n for n in self.order if n not in ends)}
        width = len(nodes) + self.dim
        rows = []
        for head, uses in self.into.items():
            for tail, label, constant in uses:
                if constant == 0:
                    continue
                row = [Fraction(0)] * width
                if head in nodes:
                    row[nodes[head]] += Fraction(1, self.degree(head))
                if tail in nodes:
                    row[nodes[tail]] -= 1
                if label is not None:
                    row[len(nodes) + self.number[label]] -= 1
                rows.append(row)
        return width - exact_rank(rows)


def half_squares(residuals):
    return 0.5 * np.sum(residuals**2) / len(residuals)


def gradients_of(function, theta, data, n_outputs):
    """One backward pass per output: every sample has a θ of its own."""
    copies = np.tile(theta, (len(data), 1))
    return np.concatenate(
        [
            autograd.grad(lambda t, o=o: np.sum(function(t, data)[:, o]))(copies)
            for o in range(n_outputs)
        ]
    )


def scaled_rank(jacobian, theta):
    """Rank by SVD after rows are scaled to unit length and columns by θ, as log-derivatives are."""
    scaled = jacobian * np.where(theta == 0, 1.0, theta)
    size = np.linalg.norm(scaled, axis=1)
    scaled = scaled[size > 0] / size[size > 0, None]
    if not len(scaled):
        return 0
    values = np.linalg.svd(scaled, compute_uv=False)
    return int(np.sum(values > RANK_TOLERANCE * values[0]))


def exact_rank(rows, prime=2**31 - 1):
    """Rank of a rational matrix, modulo a large prime: never too large, and equal but for luck."""
    residues = [
        [x.numerator * pow(x.denominator, -1, prime) % prime for x in row]
        for row in {tuple(row) for row in rows}
    ]
    matrix, rank = np.array(residues, dtype=np.int64), 0
    for column in range(matrix.shape[1] if len(residues) else 0):
        pivots = np.nonzero(matrix[rank:, column])[0]
        if not len(pivots):
            continue
        matrix[[rank, rank + pivots[0]]] = matrix[[rank + pivots[0], rank]]
        matrix[rank] = matrix[rank] * pow(int(matrix[rank, column]), -1, prime) % prime
        below = matrix[rank + 1 :]
        below -= below[:, column : column + 1] * matrix[rank] % prime
        below %= prime
        rank += 1
    return rank


# Networks with named blocks, as functions. Blocks have the axis of samples first, or none.


def split(theta, shapes):
    """Cut θ, shape [dim] or [n_samples, dim], into blocks of these shapes, in order."""
    blocks, start = [], 0
    for shape in shapes:
        size = int(np.prod(np.array(shape, dtype=int)))
        blocks.append(np.reshape(theta[..., start : start + size], (*theta.shape[:-1], *shape)))
        start += size
    return blocks


def positions(size, kernel, stride, padding):
    return (size + 2 * padding - kernel) // stride + 1


def convolve(image, filters, bias, stride, padding, groups):
    """Cross-correlation of images [n, c, h, w] by filters [(n,) out, in / groups, h, w]."""
    padded = np.pad(
        image, [(0, 0), (0, 0), (padding, padding), (padding, padding)], mode="constant"
    )
    out, depth, high, wide = filters.shape[-4:]
    rows = positions(image.shape[2], high, stride, padding)
    columns = positions(image.shape[3], wide, stride, padding)
    maps = []
    for o in range(out):
        first = o // (out // groups) * depth
        total = 0.0
        for c, i, j in itertools.product(range(depth), range(high), range(wide)):
            seen = padded[
                :, first + c, i : i + stride * rows : stride, j : j + stride * columns : stride
            ]
            seen = seen[:, :rows, :columns]
            total = total + filters[..., o, c, i, j][..., None, None] * seen
        if bias is not None:
            total = total + bias[..., o][..., None, None]
        maps.append(total)
    return np.stack(maps, axis=1)


def pool(image, kind, size):
    rows, columns = image.shape[2] // size, image.shape[3] // size
    corners = [
        image[:, :, i : i + size * rows : size, j : j + size * columns : size][
            :, :, :rows, :columns
        ]
        for i, j in itertools.product(range(size), repeat=2)
    ]
    total = corners[0]
    for corner in corners[1:]:
        total = np.where(corner > total, corner, total) if kind == "max" else total + corner
    return total if kind == "max" else total / size**2


def relu(value):
    return np.where(value > 0, value, 0.0)


def convolutional_shapes(image_shape, layers, n_outputs, bias):
    """Blocks: filters layer by layer, head [outputs, channels, rows, columns], then the biases.

    A layer is ("conv", channels, kernel, stride, padding, groups) or ("max" or "mean", size).
    """
    channels, rows, columns = image_shape
    weights, biases = [], []
    for kind, *rest in layers:
        if kind == "conv":
            out, kernel, stride, padding, groups = rest
            weights.append((out, channels // groups, kernel, kernel))
            biases.append((out,))
            channels = out
            rows = positions(rows, kernel, stride, padding)
            columns = positions(columns, kernel, stride, padding)
        else:
            rows, columns = rows // rest[0], columns // rest[0]
    weights.append((n_outputs, channels, rows, columns))
    biases.append((n_outputs,))
    return weights + (biases if bias else [])


def convolutional(blocks, data, image_shape, layers, bias):
    """A convolutional network: ReLU after each convolution, a linear dense head at the end."""
    image = np.reshape(data, (len(data), *image_shape))
    n_weights = 1 + sum(layer[0] == "conv" for layer in layers)
    weights = iter(blocks[:n_weights])
    biases = iter(blocks[n_weights:] if bias else [None] * n_weights)
    for kind, *rest in layers:
        if kind == "conv":
            _, _, stride, padding, groups = rest
            image = relu(convolve(image, next(weights), next(biases), stride, padding, groups))
        else:
            image = pool(image, kind, rest[0])
    head, last = next(weights), next(biases)
    result = np.sum(head * image[:, None], axis=(-3, -2, -1))
    return result if last is None else result + last


def apply(matrix, value):
    """Product with a matrix [(n,) out, in], one per sample or one for all."""
    return np.sum(matrix * value[:, None, :], axis=-1)


def recurrent(blocks, data, n_inputs, n_steps, bias):
    """Blocks W_x, W_h, W_o (, b_h, b_o): h ← ReLU(W_h h + W_x x_t + b_h), at last W_o h + b_o."""
    w_x, w_h, w_o, *rest = blocks
    series = np.reshape(data, (len(data), n_steps, n_inputs))
    hidden = None
    for step in range(n_steps):
        total = apply(w_x, series[:, step])
        if hidden is not None:
            total = total + apply(w_h, hidden)
        hidden = relu(total + rest[0] if bias else total)
    result = apply(w_o, hidden)
    return result + rest[1] if bias else result


def residual(blocks, data, stem, n_blocks):
    """Blocks (A,) V_1, U_1, …, V_L, U_L, C: s ← s + U ReLU(V s), y = C s, s = A x or x."""
    blocks = list(blocks)
    stream = apply(blocks.pop(0), data) if stem else data
    for _ in range(n_blocks):
        reader, writer = blocks.pop(0), blocks.pop(0)
        stream = stream + apply(writer, relu(apply(reader, stream)))
    return apply(blocks.pop(0), stream)


# The same networks neuron by neuron: (graph, inputs, outputs), labels (block, index).


def named(block, shape, index):
    return (block, tuple(int(i) for i in index), tuple(shape))


def convolutional_graph(image_shape, layers, n_outputs, bias):
    """Every position a neuron, every use of a tap an edge; biases come from the input ``ONE``."""
    graph = nx.MultiDiGraph()
    shapes = convolutional_shapes(image_shape, layers, n_outputs, bias)
    n_weights = 1 + sum(layer[0] == "conv" for layer in layers)
    inputs = [(0, *index) for index in np.ndindex(*image_shape)]
    graph.add_nodes_from(inputs)
    if bias:
        graph.add_node(ONE)
    size, level, block = image_shape, 0, 0
    for kind, *rest in layers:
        level += 1
        if kind == "conv":
            out, kernel, stride, padding, groups = rest
            new = (out, *(positions(n, kernel, stride, padding) for n in size[1:]))
            depth = size[0] // groups
            for o, row, column in np.ndindex(*new):
                head = (level, o, row, column)
                graph.add_node(head)
                for c, i, j in np.ndindex(depth, kernel, kernel):
                    r, s = row * stride + i - padding, column * stride + j - padding
                    if 0 <= r < size[1] and 0 <= s < size[2]:
                        tail = (level - 1, o // (out // groups) * depth + c, r, s)
                        label = named(block, shapes[block], (o, c, i, j))
                        graph.add_edge(tail, head, parameter=label)
                if bias:
                    label = named(n_weights + block, (out,), (o,))
                    graph.add_edge(ONE, head, parameter=label)
            block += 1
        else:
            new = (size[0], size[1] // rest[0], size[2] // rest[0])
            for c, row, column in np.ndindex(*new):
                head = (level, c, row, column)
                graph.add_node(head, activation="max" if kind == "max" else "identity")
                weight = 1.0 if kind == "max" else 1.0 / rest[0] ** 2
                for i, j in np.ndindex(rest[0], rest[0]):
                    tail = (level - 1, c, row * rest[0] + i, column * rest[0] + j)
                    graph.add_edge(tail, head, frozen=True, weight=weight)
        size = new
    outputs = [("y", o) for o in range(n_outputs)]
    for o, index in itertools.product(range(n_outputs), np.ndindex(*size)):
        label = named(block, shapes[block], (o, *index))
        graph.add_edge((level, *index), ("y", o), parameter=label)
    if bias:
        for o in range(n_outputs):
            label = named(n_weights + block, (n_outputs,), (o,))
            graph.add_edge(ONE, ("y", o), parameter=label)
    drop_useless(graph, set(inputs), set(outputs))
    return graph, [*inputs, *([ONE] if bias else [])], outputs


def drop_useless(graph, inputs, outputs):
    """Remove hidden nodes on no path: positions that a stride jumps over."""
    while True:
        useless = [
            node
            for node in graph
            if node not in inputs | outputs | {ONE}
            and not (graph.in_degree(node) and graph.out_degree(node))
        ]
        if not useless:
            return
        graph.remove_nodes_from(useless)


def recurrent_graph(n_inputs, n_hidden, n_outputs, n_steps, bias):
    """Unrolled in time; labels as the blocks of ``recurrent``."""
    graph = nx.MultiDiGraph()
    inputs = [("x", t, i) for t, i in np.ndindex(n_steps, n_inputs)]
    outputs = [("y", o) for o in range(n_outputs)]
    graph.add_nodes_from([*inputs, *([ONE] if bias else [])])
    for t, j in np.ndindex(n_steps, n_hidden):
        for i in range(n_inputs):
            label = named(0, (n_hidden, n_inputs), (j, i))
            graph.add_edge(("x", t, i), ("h", t, j), parameter=label)
        if t:
            for i in range(n_hidden):
                label = named(1, (n_hidden, n_hidden), (j, i))
                graph.add_edge(("h", t - 1, i), ("h", t, j), parameter=label)
        if bias:
            graph.add_edge(ONE, ("h", t, j), parameter=named(3, (n_hidden,), (j,)))
    for o, j in np.ndindex(n_outputs, n_hidden):
        label = named(2, (n_outputs, n_hidden), (o, j))
        graph.add_edge(("h", n_steps - 1, j), ("y", o), parameter=label)
    if bias:
        for o in range(n_outputs):
            graph.add_edge(ONE, ("y", o), parameter=named(4, (n_outputs,), (o,)))
    return graph, [*inputs, *([ONE] if bias else [])], outputs


def residual_shapes(n_inputs, width, hidden, n_outputs, stem):
    """Blocks of ``residual``: hidden has one width per block."""
    stream = width if stem else n_inputs
    inner = [shape for m in hidden for shape in ((m, stream), (stream, m))]
    return [*([(width, n_inputs)] if stem else []), *inner, (n_outputs, stream)]


def residual_graph(n_inputs, width, hidden, n_outputs, stem, thawed=False, middle="identity"):
    """A stream of identity nodes with frozen skips of weight 1; ``thawed`` makes them weights."""
    graph = nx.MultiDiGraph()
    shapes = residual_shapes(n_inputs, width, hidden, n_outputs, stem)
    inputs = [("x", i) for i in range(n_inputs)]
    graph.add_nodes_from(inputs)
    stream, block = inputs, 0
    if stem:
        stream = [("s", 0, i) for i in range(width)]
        graph.add_nodes_from(stream, activation=middle)
        for i, j in np.ndindex(width, n_inputs):
            graph.add_edge(inputs[j], stream[i], parameter=named(0, shapes[0], (i, j)))
        block = 1
    for level, m in enumerate(hidden, 1):
        new = [("s", level, i) for i in range(len(stream))]
        graph.add_nodes_from(new, activation=middle)
        for i, (tail, head) in enumerate(zip(stream, new, strict=True)):
            if thawed:
                graph.add_edge(tail, head, parameter=("skip", level, i))
            else:
                graph.add_edge(tail, head, frozen=True, weight=1.0)
        for k, i in np.ndindex(m, len(stream)):
            label = named(block, shapes[block], (k, i))
            graph.add_edge(stream[i], ("h", level, k), parameter=label)
            label = named(block + 1, shapes[block + 1], (i, k))
            graph.add_edge(("h", level, k), new[i], parameter=label)
        stream, block = new, block + 2
    outputs = [("y", o) for o in range(n_outputs)]
    for o, i in np.ndindex(n_outputs, len(stream)):
        graph.add_edge(stream[i], ("y", o), parameter=named(block, shapes[block], (o, i)))
    return graph, inputs, outputs


def sequence_graph(n_inputs, width, n_outputs, n_uses, untied=None, activation="relu"):
    """x → W₀ → W → … → W → C, W ``n_uses`` times; ``untied`` (use, i, j) has its own weight."""
    graph = nx.MultiDiGraph()
    inputs = [("x", i) for i in range(n_inputs)]
    outputs = [("y", o) for o in range(n_outputs)]
    graph.add_nodes_from(inputs)
    for level, j in np.ndindex(n_uses + 1, width):
        graph.add_node((level, j), activation=activation, slope=0.2)
    for j, i in np.ndindex(width, n_inputs):
        graph.add_edge(inputs[i], (0, j), parameter=named("W0", (width, n_inputs), (j, i)))
    for level, j, i in np.ndindex(n_uses, width, width):
        label = named("W", (width, width), (j, i))
        if untied == (level, j, i):
            label = "untied"
        graph.add_edge((level, i), (level + 1, j), parameter=label)
    for o, j in np.ndindex(n_outputs, width):
        label = named("C", (n_outputs, width), (o, j))
        graph.add_edge((n_uses, j), outputs[o], parameter=label)
    return graph, inputs, outputs


def columns_of_blocks(oracle, shapes):
    """Where each label (block, index, shape) of a graph lies in the θ of its blocks."""
    sizes = [int(np.prod(np.array(shape, dtype=int))) for shape in shapes]
    starts = np.concatenate([[0], np.cumsum(np.array(sizes))]).astype(int)
    return [
        int(starts[block]) + int(np.ravel_multi_index(index, shape))
        for block, index, shape in oracle.labels
    ]
