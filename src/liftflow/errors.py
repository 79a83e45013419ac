"""One tree of errors, catchable at its root.

Every class also derives from the built-in that a caller would expect. A message says what was
got, what was expected and, where there is one, the call that mends it.
"""

import copyreg
from collections.abc import Hashable, Iterable, Sequence
from typing import Any


class LiftflowError(Exception):
    """Root of every error that liftflow raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what the error is, not how it was made: a constructor may ask for more."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class InputError(LiftflowError, ValueError):
    """An argument has a value that no computation can start from."""


class ShapeError(InputError):
    """An array does not have the shape that its name promises."""


class NotFiniteError(InputError):
    """An array holds NaN or infinity."""


class CallError(InputError, TypeError):
    """An argument is missing, unknown, or given twice."""


class UndefinedError(LiftflowError, NotImplementedError):
    """What was asked for does not exist here, or nobody knows how to compute it."""


class DataError(InputError):
    """A data set, a label or a table cannot be used as it is."""


class OutputError(LiftflowError, OSError):
    """A result cannot be written where it was asked for."""


class NotDifferentiableError(LiftflowError, TypeError):
    """A function without a derivative was differentiated: better than a silent zero."""


class ArchitectureError(LiftflowError, ValueError):
    """A graph is not a network, or a network is too large for what was asked of it.

    Attributes
    ----------
    nodes : tuple
        The nodes at fault, where there are any.
    """

    def __init__(self, message: str, nodes: Sequence[Hashable] = ()) -> None:
        super().__init__(message)
        self.nodes = tuple(nodes)


class OffImageError(LiftflowError, ValueError):
    """A point is not on the image of the lift φ, or a vector not tangent to it.

    Attributes
    ----------
    residual : float
        Relative distance to the image, or to the tangent space.
    """

    def __init__(self, message: str, residual: float) -> None:
        super().__init__(message)
        self.residual = residual


class NotOnImageError(OffImageError):
    """A lifted variable z is not in the image of the lift φ."""


class NotTangentError(OffImageError):
    """A vector is not tangent to the image of the lift at the point given."""


class NotRecoverableError(LiftflowError, ValueError):
    """A parameter θ is not determined by z and the conservation laws: ker ∂φ ∩ ker ∂h ≠ {0}.

    Attributes
    ----------
    parameters : tuple
        Names of the dead parameters, where that is the cause.
    """

    def __init__(self, message: str, parameters: Sequence[Hashable] = ()) -> None:
        super().__init__(message)
        self.parameters = tuple(parameters)


class NotIntrinsicError(LiftflowError, ValueError):
    """No K_θ₀(z) is known at this θ₀, neither in closed form nor by recovery: says why."""


class UndecidedError(LiftflowError, ValueError):
    """A verdict that is undecided was asked for its truth value."""


class FlowError(LiftflowError, RuntimeError):
    """A flow cannot be started, or two flows cannot be compared."""


class GeodesicError(LiftflowError, RuntimeError):
    """A geodesic cannot be continued, or none was found between two points."""


def listed(names: Iterable[object]) -> str:
    """Write out the first eight of some names, and how many more there are."""
    shown = [*map(str, names)]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


class MissingExtraError(LiftflowError, ImportError):
    """An optional package is not installed: the message says how to get it."""
