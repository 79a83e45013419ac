"""What a flow leaves behind."""

import zlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self
from zipfile import BadZipFile

import numpy as np

from liftflow.errors import DataError, OutputError
from liftflow.typing import FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A flow at the times asked for, as far as it came.

    Attributes
    ----------
    t : array, shape=[n_times]
        Times, in the unit of the flow: −∇ per unit time.
    y : array, shape=[n_times, ...]
        The state: θ for a parameter flow; z, or its coordinates in the first basis-path chart,
        for an intrinsic flow.
    theta : array, shape=[n_times, dim]
        The parameter, for an intrinsic flow the one recovered on the invariant set.
    loss : array, shape=[n_times]
    success : bool
        Whether the end of the time span was reached.
    message : str
        Why the flow ended.
    n_evaluations : int
        Number of evaluations of the right-hand side.
    n_charts : int
        Number of charts that an intrinsic flow in basis coordinates went through, else 1.
    seconds : float
        Time of the integration, by the wall clock.
    """

    t: FloatArray
    y: FloatArray
    theta: FloatArray
    loss: FloatArray
    success: bool
    message: str
    n_evaluations: int
    n_charts: int
    seconds: float

    def head(self, count: int) -> Self:
        """Return the first ``count`` times of the trajectory.

        Parameters
        ----------
        count : int

        Returns
        -------
        trajectory : Trajectory
        """
        arrays = {name: getattr(self, name)[:count] for name in ("t", "y", "theta", "loss")}
        return replace(self, **arrays)

    def plot(self) -> "Figure":
        """Draw the loss over time.

        Returns
        -------
        figure : matplotlib.figure.Figure
        """
        from liftflow.flows.plotting import plot_trajectory

        return plot_trajectory(self)

    def save(self, path: str | Path) -> None:
        """Write the trajectory to an npz file.

        Parameters
        ----------
        path : str or Path

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        try:
            with open(path, "wb") as file:  # given a path, numpy would append .npz to the name
                np.savez_compressed(file, **{f.name: getattr(self, f.name) for f in fields(self)})
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a trajectory that :meth:`save` wrote.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        trajectory : Trajectory

        Raises
        ------
        DataError
            The file is not there, or holds something else.
        """
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as data:
                values = {f.name: data[f.name] for f in fields(cls)}
        except (
            OSError,
            EOFError,
            KeyError,
            TypeError,
            ValueError,
            BadZipFile,
            zlib.error,
        ) as error:
            raise DataError(f"{path} holds no trajectory: {error}") from error
        scalars = {n: v.item() if v.ndim == 0 else v for n, v in values.items()}
        return cls(**scalars)
