"""Ensembles: the same comparison from many seeds, side by side and safe from a worker's death."""

import json
import operator
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import PicklingError
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import BrokenProcessPool
from joblib.parallel import SequentialBackend, get_active_backend
from threadpoolctl import threadpool_limits  # scikit-learn requires it

from liftflow.doors import door
from liftflow.errors import DataError, FlowError, InputError, LiftflowError, OutputError
from liftflow.files import (
    Archived,
    Tabled,
    as_path,
    locked,
    make_folder,
    read_arrays,
    read_text,
    replacing,
    write_arrays,
)
from liftflow.flows.compare import Plan
from liftflow.flows.comparison import Comparison, agreed
from liftflow.losses import Loss
from liftflow.manifolds import InvariantSet
from liftflow.typing import OnTimes, shown
from liftflow.waiting import Waiting

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from rich.table import Table

Case = tuple[InvariantSet, Loss]
_KIND = "run of a sweep"
_CURVES = ("t", "deviation", "loss_parameter", "loss_intrinsic", "control_deviation")


@dataclass(frozen=True, eq=False)
class SweepRun:
    """One comparison of a sweep, without its states.

    Attributes
    ----------
    control_deviation : OnTimes
        That of the negative control; empty without one.
    """

    seed: int
    summary: dict[str, Any]
    t: OnTimes
    deviation: OnTimes
    loss_parameter: OnTimes
    loss_intrinsic: OnTimes
    control_deviation: OnTimes

    def _values(self) -> dict[str, Any]:
        """Its numbers and texts, as a file has them."""
        # A seed may have more digits than an integer of numpy.
        curves = {name: getattr(self, name) for name in _CURVES}
        return {"seed": str(self.seed), "summary": json.dumps(self.summary), **curves}

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> Self:
        """Make a run of its values."""
        seed, summary = int(values["seed"]), json.loads(values["summary"])
        return cls(seed, summary, **{name: values[name] for name in _CURVES})

    def __repr__(self) -> str:
        """Say in one line what was found."""
        return f"SweepRun(seed {self.seed}, deviation {self.summary['max_deviation']:.1e})"


@dataclass(frozen=True, eq=False)
class Sweep(Archived, Tabled):
    """The comparisons of an ensemble, in the order of their seeds."""

    _kind = "sweep"

    runs: tuple[SweepRun, ...]

    def __repr__(self) -> str:
        """Say in one line what was found."""
        return f"Sweep({self._verdict()})"

    def _values(self) -> dict[str, Any]:
        rows = enumerate(run._values() for run in self.runs)
        own = {f"{place}.{name}": value for place, row in rows for name, value in row.items()}
        return {"runs": len(self.runs), **own}

    @classmethod
    def _made(cls, values: dict[str, Any]) -> Self:
        names = ("seed", "summary", *_CURVES)
        rows = (
            {name: values[f"{place}.{name}"] for name in names}
            for place in range(int(values["runs"]))
        )
        return cls(tuple(map(SweepRun._of, rows)))

    def frame(self) -> "DataFrame":
        """Return the summaries as a table, one row per seed."""
        import pandas as pd  # which takes its time

        seeds = pd.Index([run.seed for run in self.runs], name="seed")
        return pd.DataFrame([run.summary for run in self.runs], index=seeds)

    def table(self) -> "Table":
        """Lay out the main figures of each run."""
        from rich.table import Table

        table = Table(title=f"{len(self.runs)} runs of two flows", title_justify="left")
        heads = ("seed", "loss by θ", "loss by z", "deviation", "control", "charts", "ended")
        for head in heads:
            table.add_column(head, justify="right")
        for run in self.runs:
            own = run.summary
            control = own["control_deviation"]
            table.add_row(
                str(run.seed),
                f"{own['loss_parameter']:.4g}",
                f"{own['loss_intrinsic']:.4g}",
                f"{own['max_deviation']:.1e}",
                "" if control is None else f"{control:.3g}",
                str(own["n_charts"]),
                "well" if _ended_well(own) else "early",
            )
        return table

    def plot(self) -> "Figure":
        """Draw the deviation of every run over time."""
        from liftflow.flows import plotting

        losses, gaps = [], []
        labels = ["parameter flow", "intrinsic flow", "control: laws of another θ₀"]
        for run in self.runs:
            by_theta, by_z, control = labels
            begun = int(run.t.size > 0 and run.t[0] <= run.summary.get("t_start", run.t[0]))
            t = run.t[begun:]
            losses.append(plotting.Curve(run.t, run.loss_parameter, plotting.PARAMETER, by_theta))
            losses.append(plotting.Curve(run.t, run.loss_intrinsic, plotting.INTRINSIC, by_z))
            gaps.append(plotting.Curve(t, run.deviation[begun:], plotting.DEVIATION, by_z))
            if run.control_deviation.size:
                values = run.control_deviation[begun:]
                gaps.append(plotting.Curve(t, values, plotting.CONTROL, control))
            labels = ["", "", ""]  # once for all runs
        panels = [
            (self._verdict(), "loss", losses),
            ("Deviation from the parameter flow", plotting.GAP, gaps),
        ]
        told = self.runs[0].summary if self.runs else {}
        seeds = [str(run.seed) for run in self.runs]
        listed = f"seeds {', '.join(seeds[:6])}{', …' if len(seeds) > 6 else ''}"
        about = [told.get("architecture", ""), told.get("training_loss", ""), listed]
        return plotting.draw(panels, (10, 4.2), ", ".join(filter(None, about)))

    def _verdict(self) -> str:
        """In how many runs the flows agree, in a line."""
        everything = [run.summary for run in self.runs]
        summaries = [own for own in everything if not np.isnan(own["max_deviation"])]
        parted = [
            own["max_deviation"]
            for own in summaries
            if not agreed(own["max_deviation"], own["rtol"], own["control_deviation"])
        ]
        n_early = sum(not _ended_well(own) for own in everything)
        early = f", {n_early} ended early" if n_early else ""
        if everything and not summaries:
            return f"Flows not compared in {len(everything)} runs{early}"
        if parted:
            count = f"{len(parted)} of {len(summaries)}"
            return f"In {count} runs flows part, by {max(parted):.1e}{early}"
        largest = max((own["max_deviation"] for own in summaries), default=0.0)
        return f"In {len(summaries)} runs flows agree to {largest:.1e}{early}"


def _ended_well(summary: dict[str, Any]) -> bool:
    return summary["success_parameter"] and summary["success_intrinsic"]


@door
def sweep(
    make_case: Callable[[int], Case],
    seeds: Iterable[int],
    t_span: tuple[float, float],
    *,
    n_jobs: int | None = None,
    folder: str | Path | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Sweep:
    """Compare the two flows from many seeds, on as many processes as joblib is told to use.

    The same call runs on a Dask cluster under ``joblib.parallel_config("dask")``, and gives the
    same numbers, but for the seconds: every run has one BLAS thread wherever it runs.

    Parameters
    ----------
    make_case : callable
        Takes a seed to an invariant set and a loss. It is called where the run is made, so data
        need not travel.
    seeds : iterable of int
        Each once.
    n_jobs : int, optional
        As in joblib; by default what ``joblib.parallel_config`` says, else 1. No more processes
        are started than there are seeds.
    folder : str or Path, optional
        Where each run leaves its checkpoints and, in the end, its result. The same call with the
        same folder then goes on where the last one was stopped, by Ctrl-C, too. Runs of another
        start, loss, architecture or metric, with other data, settings or times, or of another
        version of liftflow, are refused. A run that another process is at work on is waited for.
    **settings
        Of :func:`~liftflow.flows.compare`.

    Raises
    ------
    InputError
        Seeds that are no integers or given twice, a folder that holds runs of other cases or
        settings, another result of ``make_case``, no jobs, or a backend that does not notice a
        worker's death.
    DataError
        A file in the folder is damaged.
    OutputError
        The folder cannot be written to. Later on, that only gives a warning.
    FlowError
        A worker process died. With a folder, nothing that it had saved is lost.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> from liftflow import InvariantSet, ReLUNetwork, loss_from_function, sweep
    >>> def make_case(seed):
    ...     network = ReLUNetwork.diagonal(2)
    ...     loss = loss_from_function(lambda z: anp.sum((z - 1.0) ** 2))
    ...     return InvariantSet(network, network.random_point(rng=seed)), loss
    >>> runs = sweep(make_case, range(3), (0.0, 1.0), rtol=1e-8)
    >>> bool(runs.frame()["max_deviation"].max() < 1e-6)
    True
    """
    seeds = list(map(_seed, seeds))
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds must be given once each, got {seeds}")
    where = None if folder is None else as_path(folder, "folder")
    backend, configured = get_active_backend()
    if not (isinstance(backend, SequentialBackend) or backend.supports_return_generator):
        raise InputError(
            "a sweep takes its runs as they come, and notices when a worker dies; joblib's "
            f"{type(backend).__name__} does neither: use 'loky', the default, or 'dask'"
        )
    n_jobs = configured if n_jobs is None else n_jobs
    if n_jobs == 0:
        raise InputError("n_jobs must be a number of processes, or -1 for all processors, got 0")
    if n_jobs is not None:
        n_jobs = min(n_jobs, max(len(seeds), 2))  # two set even one run apart from this process
    jobs = (delayed(_run)(make_case, seed, t_span, where, settings) for seed in seeds)
    try:
        finished = Parallel(n_jobs=n_jobs, return_as="generator")(jobs)
        runs: list[SweepRun] = []
        with Waiting("runs", len(seeds), show=progress) as bar:
            for run in finished:
                if run is None:
                    raise KeyboardInterrupt
                runs.append(run)
                bar.update(len(runs))
        return Sweep(tuple(runs))
    except Exception as error:
        if _comes_of_ctrl_c(error):
            raise KeyboardInterrupt from error
        if isinstance(error, PicklingError):
            reason = str(error.__cause__ or error).strip('" \n').rpartition("\n")[2]
            raise InputError(
                f"make_case cannot be sent to other processes ({reason}); make in it what it "
                "needs, or take n_jobs=1"
            ) from error
        if not isinstance(error, BrokenProcessPool):
            raise
        hint = (
            "give a folder, and the same call goes on where it was stopped"
            if where is None
            else f"what was computed is in {where}: make the same call again to go on"
        )
        raise FlowError(f"a worker process died (out of memory?); {hint}") from error


def _comes_of_ctrl_c(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error of joblib, here or as the text of a worker's traceback."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or "KeyboardInterrupt" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _seed(value: Any) -> int:
    try:
        if not isinstance(value, bool | np.bool_):
            return operator.index(value)
    except TypeError:
        pass
    raise InputError(f"seeds must be integers, got {shown(value)}")


def _run(
    make_case: Callable[[int], Case],
    seed: int,
    t_span: tuple[float, float],
    folder: Path | None,
    settings: dict[str, Any],
) -> SweepRun | None:
    """Make or read one run; None where Ctrl-C ended it, which not all backends hand on."""
    # With other numbers of threads BLAS sums in another order.
    with suppress(KeyboardInterrupt), threadpool_limits(limits=1):
        match make_case(seed):
            case (InvariantSet() as invariant_set, Loss() as loss):
                with _speaking_of(seed):
                    plan = Plan(invariant_set, loss, t_span, progress=False, **settings)
            case other:
                raise InputError(
                    f"make_case must return an InvariantSet and a Loss, got {shown(other)} for "
                    f"the seed {shown(seed)}"
                )
        if folder is None:
            with _speaking_of(seed):
                return _summarise(plan.run(None), seed)
        own = make_folder(folder / f"seed-{seed}")
        with locked(own):
            note, path = _claim(own, plan), own / "run.npz"
            if os.path.lexists(path):
                found = _load(path, seed, note)
                plan.check_losses(own)
                return found
            with _speaking_of(seed):
                run = _summarise(plan.run(own), seed)
            if run is not None:
                _save(run, path, note)
            return run
    return None


@contextmanager
def _speaking_of(seed: int) -> Iterator[None]:
    """Say which seed an error is that of."""
    try:
        yield
    except LiftflowError as error:
        error.args = (f"{error}; so it is with the seed {shown(seed)}",)
        raise


def _summarise(comparison: Comparison, seed: int) -> SweepRun | None:
    if comparison.interrupted:
        return None
    control = comparison.control_deviation_over_time
    return SweepRun(
        seed=seed,
        summary=comparison.summary(),
        t=comparison.parameter.t[: len(comparison.deviation)],
        deviation=comparison.deviation,
        loss_parameter=comparison.parameter.loss,
        loss_intrinsic=comparison.intrinsic.loss,
        control_deviation=np.empty(0) if control is None else control,
    )


def _claim(folder: Path, plan: Plan) -> str:
    """Note in the folder of a run which one it is, or see that it is the same; return the note."""
    mark, here = folder / "case.txt", plan.identity()
    try:
        if not mark.exists():
            with replacing(mark) as file:
                file.write(json.dumps(here, indent=1).encode())
        text = read_text(mark, 1 << 20)
        there = json.loads(text)
        differ = plan.differences(there, here)
    except OutputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{mark} does not say what {folder} holds a run of: {error!r}; give a new folder"
        ) from error
    if differ:
        raise InputError(
            f"{folder} holds a run of another θ₀ or with other settings: another "
            f"{', '.join(differ)}; give a new folder"
        )
    return text


def _save(run: SweepRun, path: Path, note: str) -> None:
    try:
        write_arrays(path, _KIND, {"case": note, **run._values()})
    except OutputError as error:  # the run is worth more than its file
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)


def _load(path: Path, seed: int, note: str) -> SweepRun:
    values = read_arrays(path, _KIND)
    if values.keys() != {"seed", "summary", "case", *_CURVES}:
        raise DataError(f"{path} holds no {_KIND}, but {sorted(values)}; remove it to start anew")
    if values["case"] != note or values["seed"] != str(seed):
        raise DataError(f"{path} holds another run of a sweep; remove it to start anew")
    return SweepRun._of(values)
