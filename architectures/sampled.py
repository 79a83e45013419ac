"""Any forward pass as a lift: its outputs at several inputs."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.core import make_vjp
from autograd.tracer import isbox
from numpy.typing import NDArray
from scipy.linalg import qr

from liftflow.architectures.base import Architecture, WithLaws
from liftflow.architectures.maps import SmoothMap, followed_by_autograd, watched
from liftflow.doors import door
from liftflow.errors import InputError, NotFiniteError, ShapeError
from liftflow.linalg import range_basis, row_sizes, scaled_rank
from liftflow.typing import (
    Covector,
    FloatArray,
    IntArray,
    Jacobian,
    Lifted,
    Numbers,
    OneTheta,
    Rng,
    Tangent,
    Theta,
    as_array,
    as_count,
    as_function,
    as_instance,
    as_rng,
    freeze,
    got,
    refuse_beyond,
    shown,
    untraced,
)

Forward = Callable[[OneTheta, Numbers], Numbers]
_Pull = Callable[[Numbers], Numbers]

_SPARE = 6  # given inputs that must not raise the rank of ∂φ
_TIMES = 4  # as many inputs are drawn as have its rank already
_FIRST = 12
_MOST_INPUTS = 8192
_POINTS = 3  # at which ranks are compared
_SEEN = 2, 6  # inputs that a covector looks at: of normal ones, and of those of several kinds
_SIZES = (10.0, 0.1, 100.0, 0.01, 1000.0)  # beside 1, of normal inputs that are looked at as well
_PROBES = 3  # inputs of each size
_FURTHER = 60  # inputs that a function draws, and that must not see more
_CLEAR = 1e-4  # part of a gradient that no rounding of saturated units brings about
_TINY = 1e-8  # size of a gradient, relative to the others, that may be nothing but rounding


class SampledMap(SmoothMap):
    """Outputs of a forward pass at several inputs, one θ and one input at a time.

    A covector costs one pass back through each input that it is not zero at.
    """

    def __init__(
        self,
        forward: Forward,
        inputs: Sequence[Numbers],
        dim: int,
        shape: tuple[int, ...],
        blocks: Sequence[tuple[int, ...]] = (),
    ) -> None:
        self.forward, self.inputs = forward, inputs
        super().__init__(self.value, dim, (len(inputs), *shape), blocks, "the forward pass")
        self._per_input = math.prod(shape)
        self._kept: tuple[bytes, FloatArray] | None = None
        self._pulled: tuple[tuple[object, ...], Tangent] | None = None
        self.places: IntArray = np.arange(len(inputs))
        """Inputs such that random covectors, one at each of them, span all; with repetition."""
        self.seen = _SEEN[1]

    def value(self, theta: Theta) -> Lifted:
        rows = anp.reshape(theta, (-1, self.dim))
        values = [self.forward(row, one) for row in rows for one in self.inputs]
        if not values:
            return np.zeros((*theta.shape[:-1], *self.shape))
        return anp.reshape(anp.stack(values), (*theta.shape[:-1], *self.shape))

    def jacobian(self, theta: Theta) -> Jacobian:
        """One pass back per output, kept for the last θ."""
        if type(theta) is not np.ndarray or theta.ndim > 1:
            rows = [self._rows(row) for row in anp.reshape(theta, (-1, self.dim))]
            lead = theta.shape[:-1]
            stacked = anp.stack(rows) if rows else np.zeros((0, self.size, self.dim))
            return anp.reshape(stacked, (*lead, self.size, self.dim))
        key = theta.tobytes()
        if self._kept is None or self._kept[0] != key:
            self._kept = key, np.asarray(self._rows(theta))
        return self._kept[1].copy()

    def _rows(self, theta: OneTheta) -> Jacobian:
        basis = np.eye(self._per_input).reshape(-1, *self.shape[1:])
        return anp.stack([pull(row) for pull in self._pulls(theta) for row in basis])

    def _pulls(self, theta: OneTheta, numbers: Iterable[int] | None = None) -> Iterator[_Pull]:
        """Pass forward at some inputs in turn, and yield what pulls covectors there back."""
        for number in range(len(self.inputs)) if numbers is None else numbers:
            yield self._pull(theta, self.inputs[number])

    def _pull(self, theta: OneTheta, one: Numbers) -> _Pull:
        with followed_by_autograd(self.name):
            pull, value = make_vjp(lambda at: self.forward(at, one) + 0.0, theta)
        if untraced(value).shape != self.shape[1:]:
            raise ShapeError(
                f"{self.name} gives arrays of shape {self.shape[1:]} and of shape "
                f"{untraced(value).shape}; the inputs must be of one kind"
            )

        def pulled(covector: Numbers) -> Numbers:
            with followed_by_autograd(self.name):
                return pull(covector) + 0.0 * theta

        return pulled

    def span(
        self, theta: OneTheta, count: int, rng: np.random.Generator
    ) -> tuple[FloatArray, IntArray]:
        """Find random covectors, each at one of the first inputs, that span all that is seen there.

        As many are drawn at each as add nothing to half of them: then no other does.

        Returns
        -------
        rows : array, shape=[rank, dim]
            Pulled back.
        inputs : array, shape=[rank]
            Numbers of the inputs they are at.
        """
        rows, owners = np.zeros((0, self.dim)), np.zeros(0, np.intp)
        each, ranks = 0, [-1, 0]
        while ranks[-2] < ranks[-1] < self.dim and each < self._per_input:
            more = min(max(each, 1), self._per_input - each)
            forms = rng.standard_normal((count, more, *self.shape[1:]))
            pulls = zip(self._pulls(theta, range(count)), forms, strict=True)
            rows = np.vstack([rows, *(pull(form) for pull, own in pulls for form in own)])
            owners = np.append(owners, np.repeat(np.arange(count), more))
            each += more
            ranks.append(scaled_rank(rows))
        units = rows / row_sizes(rows.T)
        units = units / row_sizes(units)[:, None]
        chosen = qr(units.T, mode="r", pivoting=True)[1][: ranks[-1]]
        return rows[chosen], owners[chosen]

    def adds(self, theta: OneTheta, rows: FloatArray, count: int, rng: np.random.Generator) -> bool:
        """Whether the inputs after the first see more than rows that span what those see."""
        forms = rng.standard_normal(self.shape)[count:]
        others = self._pulls(theta, range(count, len(self.inputs)))
        further = [pull(form) for pull, form in zip(others, forms, strict=True)]
        return len(rows) < self.dim and scaled_rank(np.vstack([rows, *further])) > len(rows)

    def _opens(self, theta: OneTheta, rows: FloatArray, one: Numbers, form: Covector) -> bool:
        """Whether another input clearly sees more than rows that span what those at hand see.

        Where the output is not finite there it sees nothing.
        """
        with np.errstate(all="ignore"), suppress(Exception):  # what a function does far away
            row = self._pull(theta, one)(form)
            if len(rows) < self.dim and np.all(np.isfinite(row)):
                units = row_sizes(rows.T)
                lengths = np.linalg.norm(rows / units, axis=1)
                own = np.linalg.norm(row / units)
                if own > _TINY * np.max(lengths, initial=0.0):
                    basis = range_basis((rows / units / lengths[:, None]).T)
                    rest = row / units - basis @ (basis.T @ (row / units))
                    return bool(np.linalg.norm(rest) > _CLEAR * own)
        return False

    def vjp(self, theta: Theta, covector: Covector) -> Tangent:
        return self.pulled(covector, theta)

    def pulled(self, covector: Covector, theta: Theta) -> Tangent:
        """One pass back per input that is seen, kept for the last covectors."""
        if isbox(covector) or isbox(theta) or (np.ndim(theta) > 1 and len(theta) > 1):
            return self._pull_all(covector, theta)
        key = theta.shape, theta.tobytes(), covector.shape, covector.tobytes()
        if self._pulled is None or self._pulled[0] != key:
            self._pulled = key, self._pull_all(covector, theta)
        return self._pulled[1].copy()

    def _pull_all(self, covector: Covector, theta: Theta) -> Tangent:
        lead = np.broadcast_shapes(self._lead(covector), theta.shape[:-1])
        forms = anp.reshape(covector + np.zeros((*lead, *self.shape)), (-1, *self.shape))
        rows = anp.reshape(theta, (-1, self.dim))
        flat = np.reshape(untraced(forms), (len(forms), len(self.inputs), self._per_input))
        seen = np.any(flat, axis=-1) | isbox(covector)  # zeros that vary are no zeros
        if len(rows) == 1 and np.sum(seen) > self.size:
            flat = anp.reshape(forms, (len(forms), self.size))
            return anp.reshape(anp.dot(flat, self.jacobian(rows[0])), (*lead, self.dim))
        if len(rows) == 1:
            pulled = self._sums(rows[0], forms, seen)
        else:
            rows = anp.reshape(theta + np.zeros((*lead, 1)), (-1, self.dim))
            pulled = [self._sums(row, forms[[n]], seen[[n]])[0] for n, row in enumerate(rows)]
        return anp.reshape(anp.stack([*pulled, np.zeros(self.dim)])[:-1], (*lead, self.dim))

    def _sums(self, theta: OneTheta, forms: Covector, seen: NDArray[np.bool_]) -> list[OneTheta]:
        """Pull covectors back at one θ, passing forward once at those inputs that they see."""
        totals = [0.0 * theta for _ in forms]
        inputs = np.flatnonzero(np.any(seen, axis=0))
        for one, pull in zip(inputs, self._pulls(theta, inputs), strict=True):
            for number in np.flatnonzero(seen[:, one]):
                totals[number] = totals[number] + pull(forms[number, one])
        return totals

    @property
    def per_covector(self) -> int:
        return min(self.seen * self._per_input, self.size)

    def covectors(self, count: int, rng: np.random.Generator) -> Covector:
        """Draw covectors that see few inputs: any in turn, and the others of those that suffice."""
        refuse_beyond(float(count) * self.size, f"{count} covectors of {self.size} numbers")
        n_inputs, number = len(self.inputs), np.arange(count)
        seen = np.zeros((count, n_inputs))
        for some in (np.arange(n_inputs), *[self.places] * (self.seen - 1)):
            if some.size:
                seen[number, rng.permutation(some)[number % some.size]] = 1.0
        return rng.standard_normal((count, *self.shape)) * seen.reshape(
            count, n_inputs, *[1] * (len(self.shape) - 1)
        )


class SampledForward(Architecture):
    r"""Any forward pass as a lift, φ(θ) = (forward(θ, x_i))_i at inputs x_i.

    Every loss of the outputs at these inputs is an f∘φ. Where further inputs do not raise the rank
    of ∂φ, the fields ∇φ_i span all that other inputs could add, and the laws are those of the
    network, whatever the loss and the data (ours). So inputs are drawn until a quarter of them has
    the same rank; given ones are taken as they are, and what is counted with them stays undecided
    where the last of them still raise the rank.

    Where the outputs are analytic in θ and the inputs together, normal inputs tell what all others
    could. What opens for few inputs alone, behind a threshold say, is seen only where one of those
    is looked at. So beside standard normal inputs a few of .01 to 1,000 times their size are tried,
    and if these see more, inputs of their size are drawn as well. Findings say at which inputs
    they were made: give inputs, or a
    function that draws them, where you know of others. If no drawn input moves the output by some
    parameter, they stay undecided.

    Parameters
    ----------
    forward : callable
        The output, a number or an array, of one θ of size ``dim`` and one input; written with
        autograd.numpy.
    inputs : array-like, or tuple of int, or callable
        The inputs, one after the other. Or the shape of one, of which standard normal ones are
        drawn; or a function of a ``numpy.random.Generator`` that draws one, which then may be
        anything.
    blocks : mapping of str to tuple of int, optional
        Names and shapes of what the flat θ is made of, in order.
    rng : numpy.random.Generator or int or None
        Draws the inputs, and the θ at which ranks are compared.

    Attributes
    ----------
    inputs : sequence
        Those that are used.
    stable : bool
        Whether the last of them do not raise the rank of ∂φ.

    Raises
    ------
    InputError
        The forward pass does not return real numbers. A ``ShapeError`` where the blocks do not
        hold ``dim`` numbers, a ``NotFiniteError`` where the output is not finite.
    NotDifferentiableError
        Autograd cannot follow the forward pass.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> from liftflow import count_conservation_laws, discover_laws
    >>> from liftflow.architectures import SampledForward
    >>> def forward(theta, x):  # two gated units
    ...     gate, up, out = anp.reshape(theta, (3, 2, 2))
    ...     return anp.dot(out, anp.tanh(anp.dot(gate, x)) * anp.dot(up, x))
    >>> blocks = {"G": (2, 2), "U": (2, 2), "V": (2, 2)}
    >>> network = SampledForward(forward, 12, (2,), blocks=blocks)
    >>> count_conservation_laws(network).value
    2
    >>> for law in discover_laws(network, blocks=True):
    ...     print(law)
    (U Uᵀ)[0,0] − (Vᵀ V)[0,0]
    (U Uᵀ)[1,1] − (Vᵀ V)[1,1]
    """

    @door
    def __init__(
        self,
        forward: Callable[..., Numbers],
        dim: int,
        inputs: Numbers,
        *,
        blocks: Mapping[str, tuple[int, ...]] | None = None,
        rng: Rng = 0,
    ) -> None:
        rng, named = as_rng(rng), None if blocks is None else as_instance(blocks, Mapping, "blocks")
        super().__init__(dim, (), block_shapes=None if named is None else list(named.values()))
        self.block_names = ("θ",) if named is None else tuple(map(str, named))
        self.forward = as_function(forward, "forward", 2)
        self._points = self.random_point(_POINTS, rng)
        draw = _drawing(inputs, rng)
        normal = isinstance(inputs, tuple) and draw is not None
        self.inputs = _given(inputs) if draw is None else [draw() for _ in range(_FIRST)]
        shape = self._output_shape(self._points[0], self.inputs[0])
        sizes: tuple[float, ...] = (1.0,)
        while True:
            count = len(self.inputs)
            self._map = SampledMap(forward, self.inputs, self.dim, shape, self.block_shapes)
            self._map.seen = _SEEN[not normal or len(sizes) > 1]
            fewer = count // _TIMES if draw else max(count // 2, count - _SPARE)
            last = draw is None or count >= _MOST_INPUTS
            self.stable = self._is_stable(fewer, rng, last)
            if draw is None or last:
                break
            if self.stable and normal and len(sizes) == 1:
                tried = [[size * draw() for _ in range(_PROBES)] for size in _SIZES]
                opened = [len(self._opened(own, rng)) for own in tried]
                if not any(opened):
                    break
                often = np.array(opened) >= max(opened) / 2  # the nearest of those that do it most
                sizes = 1.0, _SIZES[int(np.argmax(often))]
                self.inputs, count = [], _FIRST
            elif self.stable:
                further = [draw() for _ in range(_FURTHER)]
                others = self._opened([sizes[-1] * x for x in further] if normal else further, rng)
                if not others:
                    break
                self.inputs = [*others, *self.inputs]
            more = [draw() for _ in range(count)]
            if normal:
                more = [sizes[n % len(sizes)] * x for n, x in enumerate(more)]
            self.inputs = [*self.inputs, *more]
        self.lifted_shape = self._map.shape
        self._kind = "those that were given"
        if normal:
            other = f"none of {min(_SIZES):g} to {max(_SIZES):g} times their size sees more"
            if len(sizes) > 1:
                other = f"and others of {sizes[1]:g} times their size, which see more"
            self._kind = f"standard normal ones, {other}"
        elif draw is not None:
            self._kind = f"those that inputs() draws, of which {_FURTHER} further ones see no more"
        if self.stable:
            self._map.remark += f": {self._kind}; what opens for other inputs alone is not seen"
        if self.stable and draw is not None and self._blind:
            self._map.objection = (
                f"no input that was drawn moves the output by {self._blind} of {self.dim} "
                "parameters, which others may; give inputs that do, or leave them out"
            )

    def _is_stable(self, fewer: int, rng: np.random.Generator, last: bool) -> bool:
        """Whether inputs after the first add nothing at some points; let the last map say so."""
        phi, count = self._map, len(self.inputs)
        self._spans: list[tuple[OneTheta, FloatArray]] = []
        for point in self._points:
            rows, phi.places = phi.span(point, fewer, rng)
            self._spans.append((point, rows))
            if phi.adds(point, rows, fewer, rng):
                if not last:
                    return False
                every, phi.places = phi.span(point, count, rng)
                phi.objection = (
                    f"the last of {count} inputs raise the rank of ∂φ from {len(rows)} to "
                    f"{len(every)}, so that others may leave fewer laws; give more inputs, or "
                    "their shape"
                )
                return False
        self._blind = int(np.sum(~np.any(np.vstack([rows for _, rows in self._spans]), axis=0)))
        phi.remark = f"at {count} inputs, of which {fewer} give ∂φ its rank {len(rows)} already"
        return True

    def _opened(self, others: Sequence[Numbers], rng: np.random.Generator) -> list[Numbers]:
        """Choose other inputs that see more than all those of the map at some point."""
        forms = rng.standard_normal((len(others), *self._map.shape[1:]))
        return [
            one
            for one, form in zip(others, forms, strict=True)
            if any(self._map._opens(*each, one, form) for each in self._spans)
        ]

    def seen_by(self, loss: Any) -> "SampledForward":
        """Return the forward pass as one loss sees it, all laws of which are laws of that loss.

        That is :math:`B_i` forward(θ, x_i), with a basis of the span of the gradients that the loss
        has at x_i.

        Parameters
        ----------
        loss : Loss
            A function of z. Where it is no sum over the inputs it may keep more, and findings are
            undecided.

        References
        ----------
        [Marcotte2025]_, Proposition 3.11; any forward pass: ours.
        """
        if not hasattr(loss, "excited_rows"):
            raise InputError(f"loss must be a Loss, got {got(loss)}")
        bases, is_sum = loss.excited_rows(self)
        numbers = np.flatnonzero(np.any(bases, axis=(1, 2)))

        def forward(theta: OneTheta, number: IntArray) -> Numbers:
            value = self.forward(theta, self.inputs[int(number)])
            seen = anp.dot(bases[int(number)], anp.ravel(value))
            return anp.reshape(seen, self.lifted_shape[1:])

        blocks = dict(zip(self.block_names, self.block_shapes, strict=True))
        given = numbers if numbers.size else np.arange(len(self.inputs))
        seen = SampledForward(forward, self.dim, given, blocks=blocks)
        seen._map.seen = self._map.seen
        if seen.stable:
            seen._map.remark = f"of this loss, {seen._map.remark}".replace(seen._kind, self._kind)
        seen._map.objection = seen._map.objection or self._map.objection
        if not is_sum:
            seen._map.objection = (
                "the loss is no sum over the inputs, so that it may keep more than what every "
                "such sum of its gradients keeps; give one that is"
            )
        return seen

    def _output_shape(self, theta: OneTheta, one: Numbers) -> tuple[int, ...]:
        what = "the forward pass"
        with followed_by_autograd(what):
            value = untraced(make_vjp(watched(lambda at: self.forward(at, one), what), theta)[1])
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise InputError(f"{what} must return real numbers, got {shown(value)}")
        if not np.all(np.isfinite(array)):
            raise NotFiniteError(f"{what} must return finite numbers, got {shown(value)}")
        return array.shape

    def _lift_map(self) -> SampledMap:
        return self._map

    def lift(self, theta: Theta) -> Lifted:
        """Evaluate the forward pass at all inputs."""
        return self._map.value(self._theta(theta))

    def random_point(self, n_samples: int = 1, rng: Rng = None) -> Theta:
        """Draw parameters: normal, and matrices such that their rows have lengths of about 1."""
        lengths = [shape[-1] ** -0.5 if len(shape) > 1 else 1.0 for shape in self.block_shapes]
        sizes = np.repeat(lengths, [math.prod(shape) for shape in self.block_shapes])
        return super().random_point(n_samples, rng) * sizes

    def __repr__(self) -> str:
        """Say how large it is."""
        name = getattr(self.forward, "__name__", "a function")
        return f"SampledForward({name}, dim={self.dim}, {len(self.inputs)} inputs)"


def as_seen(architecture: Architecture, loss: Any) -> tuple[Architecture, Any]:
    """Return the forward pass that a loss sees and None, where the former stands for both.

    Parameters
    ----------
    loss : Loss or None
        Returned as it is where the architecture is no forward pass.
    """
    forward = architecture.original if isinstance(architecture, WithLaws) else architecture
    if loss is None or not isinstance(forward, SampledForward):
        return architecture, loss
    return forward.seen_by(loss), None


def _drawing(inputs: Numbers, rng: np.random.Generator) -> Callable[[], Numbers] | None:
    """Return what draws one input; None where all are given."""
    if isinstance(inputs, tuple) and all(isinstance(n, int | np.integer) for n in inputs):
        shape = tuple(as_count(n, "a size of an input", 1) for n in inputs)
        return lambda: freeze(np.asarray(rng.standard_normal(shape)))
    if callable(inputs):
        function = as_function(inputs, "inputs", 1)
        return lambda: function(rng)
    return None


def _given(inputs: Numbers) -> Numbers:
    if not isinstance(inputs, Iterable) or isinstance(inputs, str | Mapping | set):
        raise InputError(
            f"inputs must be an array of inputs, the shape of one such as (3,), or a function that "
            f"draws one, got {shown(inputs)}"
        )
    given = list(inputs)
    if not given:
        raise InputError("inputs must hold one input or more, got none")
    try:
        plain = np.array(given)
    except ValueError:  # inputs of several parts
        return given
    if plain.dtype.kind == "f":
        as_array(plain, "inputs")
    if plain.dtype.kind not in "biuf":
        return given
    plain.setflags(write=False)
    return plain
