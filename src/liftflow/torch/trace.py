"""Reading a module: one run of it, during which every number of every tensor carries its channel.

The symbols of a tensor are a tensor of its shape. What moves numbers about moves their symbols
along, by the same call; a sum makes its terms one channel; a layer leads from the channels before
it to new ones. So no list of layers is needed, nor a symbolic trace: whatever Python runs is read.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from liftflow.errors import ArchitectureError, InputError, LiftflowError
from liftflow.typing import IntArray, got

ZERO, GROUND, N_FIXED = 0, 1, 2
"""Symbols of a number that is 0 whatever the parameters, and of one that never rescales."""

_REMEDY = (
    "freeze what comes before it (requires_grad_(False)), replace it by a layer that is positively "
    "homogeneous, or pass opaque=[{!r}], which grounds the channels that meet there"
)


Bias = tuple[str, int]


@dataclass(frozen=True)
class Use:
    """One place where a tensor of parameters leads from channels to channels.

    Attributes
    ----------
    entries : array or None
        Which parameters, None for all of the tensor in their order.
    tails, heads : array
        Symbols at the two ends; they broadcast to the shape of the entries.
    is_bias : bool
        Whether it is added to what else comes into its heads.
    """

    entries: IntArray | None
    tails: IntArray
    heads: IntArray
    is_bias: bool


class Reader(TorchFunctionMode):
    """Follow the symbols of channels through one run of a module.

    Parameters
    ----------
    module : torch.nn.Module
        Gets hooks while it runs.
    opaque : sequence of str
        Names of modules or operations whose channels are grounded.

    Attributes
    ----------
    uses : dict of str to list of Use
        Of each trainable parameter.
    equal : list of (array, array)
        Symbols that are one channel.
    sums : list of dict
        How often biases are in a sum of layers, wherever something else than a sum came next. A
        bias is called by its name and the axis, from the end, along which it is added.
    drops_units : bool
        Whether units are dropped at random.
    func, name : callable, str
        The operation that is looked at.
    """

    def __init__(self, module: torch.nn.Module, opaque: Sequence[str]) -> None:
        super().__init__()
        self.module, self.opaque, self._stack, self._hidden = module, {*opaque}, [""], 0
        self.uses: dict[str, list[Use]] = {}
        self.equal: list[tuple[IntArray, IntArray]] = []
        self.sums: list[dict[Bias, float]] = []
        self.biased: dict[int, dict[Bias, float]] = {}
        self.origins: list[tuple[int, str]] = [(0, "ground")]
        self.n_symbols, self.drops_units = N_FIXED, False
        self.func: Callable[..., Any] = torch.add
        self.name = ""
        self._symbols: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._entries: dict[int, tuple[torch.Tensor, str, torch.Tensor | None]] = {
            id(p): (p, name, None) for name, p in module.named_parameters() if p.requires_grad
        }
        self._met: set[str] = set()

    # One run.

    def read(self, inputs: tuple[Any, ...]) -> None:
        """Run the module and ground what comes out.

        Parameters
        ----------
        inputs : tuple
            Positional arguments; their tensors are ground.

        Raises
        ------
        ArchitectureError
            An operation with no known channels, or an ``opaque`` name that was never met: names it.
        InputError
            The module does not run on these inputs, or returns nothing that depends on it.
        """
        if any(tensor.numel() == 0 for tensor in tensors_in(inputs)):
            raise InputError("example_inputs hold an empty tensor; a batch of two or more is meant")
        self._mark(inputs, as_symbols(GROUND))
        try:
            with self._hooks(), torch.enable_grad(), self:
                outputs = self.module(*inputs)
        except LiftflowError:
            raise
        except Exception as error:
            given = ", ".join(
                f"shape {tuple(x.shape)}" if isinstance(x, torch.Tensor) else got(x) for x in inputs
            )
            raise InputError(
                f"{type(self.module).__name__} does not run on example_inputs of {given or 'none'}"
                f": {type(error).__name__}: {error}; pass a tensor, or a tuple of tensors for "
                "several arguments"
            ) from error
        if not any(tensor.requires_grad for tensor in tensors_in(outputs)):
            raise InputError(
                f"{type(self.module).__name__} returns no tensor that depends on a parameter that "
                f"trains, got {got(outputs)}"
            )
        for tensor in tensors_in(outputs):
            self._see(tensor)
            self._ground(self.symbols(tensor))
        if missed := sorted(self.opaque - self._met):
            raise ArchitectureError(
                f"opaque names no module and no operation that runs: {', '.join(missed)}", missed
            )

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        def enter(name: str) -> Callable[..., None]:
            def before(module: object, args: Any, kwargs: Any) -> None:
                self._stack.append(name)
                if name in self.opaque:
                    self._met.add(name)
                    for tensor in tensors_in((args, kwargs)):
                        self._ground(self.symbols(tensor))
                    self._hidden += 1

            return before

        def leave(module: object, args: Any, output: object) -> None:
            if self._stack.pop() in self.opaque:
                self._hidden -= 1

        handles = []
        for name, part in self.module.named_modules():
            if name:
                handles.append(part.register_forward_pre_hook(enter(name), with_kwargs=True))
                handles.append(part.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(
        self, func: Callable[..., object], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Compute as ever, and follow the symbols."""
        kwargs = kwargs or {}
        known = [t for t in tensors_in((args, kwargs)) if self._is_known(t)]
        result = func(*args, **kwargs)
        if not known:
            return result
        name = _name(func)
        if isinstance(func, torch._ops.OpOverload) and name in _ATEN:  # an exported program
            args = tuple(args[k] for k in _ATEN[name] if k < len(args))
        if tensors_in(result) and name not in ("batch_norm", "add", "sub"):
            for tensor in known:
                self._see(tensor)
        if self._hidden or self.opaque & {name, self._here(name)}:
            self._met |= {name, self._here(name)}
            self._hide(known, result)
        elif not tensors_in(result):
            if name in _LOOKS and not all(self._is_data(tensor) for tensor in known):
                raise self._refusal(name, "lets the program depend on numbers of the network")
        elif not torch.is_grad_enabled() and any(not self._is_data(tensor) for tensor in known):
            raise self._refusal(name, "runs under torch.no_grad(), which cuts its gradient")
        elif name in _RULES:
            self.func, self.name = func, name
            _RULES[name](self, result, *args, **kwargs)
        elif all(self._is_data(tensor) for tensor in known):
            self._hide(known, result)  # of data alone: numbers that no parameter rescales
        else:
            raise self._refusal(name, "is not positively homogeneous, or not known to be")
        return result

    def _see(self, tensor: torch.Tensor) -> None:
        if id(tensor) in self.biased:
            self.sums.append(self.biased[id(tensor)])

    def _hide(self, known: list[torch.Tensor], result: object) -> None:
        for tensor in known:
            if id(tensor) in self._symbols:
                self._ground(self.symbols(tensor))
            else:
                self.use(tensor, GROUND, GROUND)
        self._mark(result, as_symbols(GROUND))

    def _here(self, name: str) -> str:
        return f"{self._stack[-1]}.{name}" if self._stack[-1] else name

    def _refusal(self, name: str, why: str) -> ArchitectureError:
        here = self._here(name)
        return ArchitectureError(f"{here} {why}: {_REMEDY.format(here)}", (here,))

    # What tensors carry.

    def _mark(self, result: object, symbols: torch.Tensor) -> None:
        """Give the tensors of a result these symbols, which broadcast to their shapes."""
        for tensor in tensors_in(result):
            if tensor.is_floating_point():
                self._symbols[id(tensor)] = tensor, symbols.expand(tensor.shape)

    def _is_known(self, tensor: torch.Tensor) -> bool:
        return id(tensor) in self._symbols or self.is_weight(tensor)

    def _is_data(self, tensor: torch.Tensor) -> bool:
        """Whether no parameter rescales any of these numbers."""
        known = self._symbols.get(id(tensor))
        return bool(known is not None and (known[1] <= GROUND).all())

    def is_weight(self, tensor: object) -> bool:
        """Tell whether these are trainable parameters as they are, in some order."""
        return id(tensor) in self._entries

    def entries(self, tensor: torch.Tensor) -> tuple[str, torch.Tensor | None]:
        """Find the parameter that a tensor holds, and which of its numbers; None for all."""
        return self._entries[id(tensor)][1:]

    def symbols(self, value: object, shape: tuple[int, ...] = ()) -> torch.Tensor:
        """Return the symbols of a tensor; parameters that are added to others get new ones.

        Parameters
        ----------
        value : torch.Tensor or number
            Whose symbols to find.
        shape : tuple of int
            Of a number.
        """
        if not isinstance(value, torch.Tensor):
            return torch.full(shape, float(value != 0), dtype=torch.float64)
        if id(value) in self._symbols:
            return self._symbols[id(value)][1]
        if self.is_weight(value):
            new = self.new(value.numel(), self._origin(value)).reshape(value.shape)
            self.use(value, GROUND, new)
            return as_symbols(new)
        if value.requires_grad:
            raise ArchitectureError(
                f"{self._here('tensor')} comes from what cannot be followed (compiled code?): "
                f"{_REMEDY.format(self._here('tensor'))}"
            )
        return (value != 0).to(torch.float64)

    def new(self, count: int, origin: str) -> IntArray:
        """Return new symbols, called by where they come from."""
        first, self.n_symbols = self.n_symbols, self.n_symbols + count
        self.origins.append((first, origin))
        return np.arange(first, first + count)

    def _origin(self, weight: torch.Tensor) -> str:
        if self.is_weight(weight):
            name = self.entries(weight)[0]
        else:
            names = (n for n, p in self.module.named_parameters() if p is weight)
            name = next(names, self._here("constant"))
        return name.removesuffix(".weight")

    def identify(self, one: Any, other: Any) -> None:
        """Note that two symbols are one channel, wherever neither is 0."""
        one, other = np.broadcast_arrays(one, other)
        kept = (one != other) & (one != ZERO) & (other != ZERO)
        if kept.any():
            pairs = np.unique(np.stack([one[kept], other[kept]]).astype(np.intp), axis=1)
            self.equal.append((pairs[0], pairs[1]))

    def _ground(self, symbols: torch.Tensor) -> None:
        self.identify(symbols.unique().numpy(), GROUND)

    def use(self, weight: torch.Tensor, tails: Any, heads: Any, is_bias: bool = False) -> None:
        """Note that a tensor leads from channels to channels, which broadcast to its shape."""
        shape = tuple(weight.shape) or (1,)
        tails, heads = (
            np.asarray(each, dtype=np.intp).reshape(
                (1,) * (len(shape) - np.ndim(each)) + np.shape(each)
            )
            for each in (tails, heads)
        )
        if np.any(tails == ZERO):  # what is 0 can be scaled as one likes
            tails = tails.copy()
            empty = tails == ZERO
            tails[empty] = self.new(int(empty.sum()), self._here("zero"))
        if self.is_weight(weight):
            name, entries = self.entries(weight)
            listed = None if entries is None else entries.detach().numpy().astype(np.intp)
            self.uses.setdefault(name, []).append(Use(listed, tails, heads, is_bias))
            return
        if weight.requires_grad:
            raise self._refusal("weight", "is computed from parameters")
        moves = [a for a in range(len(shape)) if tails.shape[a] > 1 or heads.shape[a] > 1]
        still = tuple(a for a in range(len(shape)) if a not in moves)
        seen = (weight.detach() != 0).numpy().reshape(shape).any(axis=still, keepdims=True)
        tails, heads = (np.broadcast_to(each, seen.shape) for each in (tails, heads))
        self.identify(tails[seen], heads[seen])

    def merged(self, symbols: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
        """Make all numbers along some axes one channel, and return it with axes of length 1."""
        axes = [axis % symbols.ndim for axis in axes]
        if not axes or not symbols.numel():
            return symbols
        top = symbols.amax(dim=axes, keepdim=True)
        if bool(((symbols != top) & (symbols != ZERO)).any()):
            wide = torch.broadcast_to(top, symbols.shape)
            self.identify(symbols.numpy(), wide.numpy())
        return top

    def per_channel(self, value: torch.Tensor, axis: int) -> IntArray:
        """Return one symbol for each place along an axis."""
        symbols = self.symbols(value)
        axis %= symbols.ndim
        others = [each for each in range(symbols.ndim) if each != axis]
        return self.merged(symbols, others).reshape(-1).numpy().astype(np.intp)

    def put(self, result: torch.Tensor, channels: IntArray, axis: int) -> None:
        """Give a result these symbols along an axis."""
        shape = [1] * result.ndim
        shape[axis] = -1
        self._mark(result, as_symbols(channels).reshape(shape))


def as_symbols(numbers: object) -> torch.Tensor:
    """Turn numbers of symbols into a tensor of them, in which every operation can move them."""
    return torch.from_numpy(np.asarray(numbers, dtype=np.float64))


def tensors_in(values: object) -> list[torch.Tensor]:
    """List the tensors of nested tuples, lists and dictionaries."""
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _name(func: Any) -> str:
    """Name of a function of torch, the same for functions, methods, operators and in place."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":  # a property
        name = getattr(func.__self__, "__name__", name)
    name = name.split(".")[0].strip("_")  # aten has overloads
    return _SAME.get(name, name)


_LOOKS = {
    *("item", "bool", "float", "int", "index", "complex", "tolist", "numpy", "array", "equal"),
    *("allclose", "is_nonzero", "contains"),
}
"""What takes numbers out of torch's sight."""

_SAME = {"iadd": "add", "radd": "add", "isub": "sub", "rsub": "sub", "imul": "mul", "rmul": "mul"}
_SAME |= {"truediv": "div", "itruediv": "div", "true_divide": "div", "divide": "div", "idiv": "div"}
_SAME |= {"multiply": "mul", "subtract": "sub", "imatmul": "matmul", "dropout1d": "dropout"}
_ATEN = {"batch_norm": (0, 3, 4, 1, 2, 5, 6, 7), "embedding": (1, 0)}
"""Where arguments lie in aten that lie elsewhere in torch.nn.functional."""

_RULES: dict[str, Callable[..., None]] = {}


def rule(*names: str) -> Callable[[Any], Any]:
    """Register what an operation does to symbols.

    Parameters
    ----------
    *names : str
        Of functions, methods and operators alike.

    Returns
    -------
    register : callable
        Takes a function of the reader, the result and the arguments.
    """

    def register(function: Any) -> Any:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return register
