"""Real data to train on: the sets that scikit-learn ships, or a table of one's own."""

import csv
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.preprocessing import LabelEncoder, StandardScaler

from liftflow.doors import door
from liftflow.errors import DataError, InputError
from liftflow.typing import FloatArray, as_array, freeze


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and targets, scaled and ready.

    Attributes
    ----------
    name : str
        What figures and tables call it.
    inputs : array, shape=[n_samples, n_features]
    targets : array, shape=[n_samples]
        Labels from 0, or real numbers of mean 0 and variance 1.
    n_classes : int
        0 for a regression.
    """

    name: str
    inputs: FloatArray
    targets: FloatArray
    n_classes: int

    def __post_init__(self) -> None:
        """Own the arrays: those of the caller may change."""
        for name, shape in (("inputs", (None, None)), ("targets", (None,))):
            as_array(getattr(self, name), name, shape, batch=False)
            object.__setattr__(self, name, freeze(np.array(getattr(self, name))))

    @property
    def default_loss(self) -> str:
        """The usual loss for these targets."""
        return "cross-entropy" if self.n_classes else "mse"

    @property
    def n_outputs(self) -> int:
        """Number of outputs of a network for these targets."""
        return self.n_classes or 1

    @door
    def targets_for(self, loss: str) -> FloatArray:
        """Return the targets in the form a loss takes them.

        Parameters
        ----------
        loss : {"mse", "cross-entropy"}

        Returns
        -------
        targets : array, shape=[n_samples] or [n_samples, n_outputs]
            One-hot rows where labels are regressed on.

        Raises
        ------
        InputError
            Another loss.
        DataError
            Cross-entropy on real targets.
        """
        if loss not in ("mse", "cross-entropy"):
            raise InputError(f"loss must be mse or cross-entropy, got {loss!r}")
        if loss == "cross-entropy" and not self.n_classes:
            raise DataError(f"{self.name} has real targets, not labels; use the loss mse")
        if loss == "mse" and self.n_classes:
            return np.eye(self.n_classes)[self.targets.astype(int)]
        return self.targets


_SHIPPED: dict[str, tuple[Callable[..., Any], int]] = {
    "digits": (datasets.load_digits, 10),
    "iris": (datasets.load_iris, 3),
    "wine": (datasets.load_wine, 3),
    "breast-cancer": (datasets.load_breast_cancer, 2),
    "diabetes": (datasets.load_diabetes, 0),
}
NAMES = tuple(_SHIPPED)
"""Data sets that come with scikit-learn."""

_MAX_LABELS = 20
_HUGE = 1e150  # the square is still finite


@door
def load(name: str) -> Dataset:
    """Load a data set of scikit-learn by name, or a CSV file by path.

    Pixels are scaled to [0, 1], other features and real targets to mean 0 and variance 1.

    Parameters
    ----------
    name : str
        One of ``NAMES``, or the path of a CSV file with a header line, whose last column is the
        target: labels where it holds text, true and false, or at most 20 different integers,
        else real numbers.

    Returns
    -------
    dataset : Dataset

    Raises
    ------
    DataError
        An unknown name, a file that cannot be read or has no header line, a missing cell (named
        by line and column), text among numbers, a target that never changes.
    """
    if name not in _SHIPPED:
        return _from_csv(Path(name))
    loader, n_classes = _SHIPPED[name]
    inputs, targets = loader(return_X_y=True)
    scaled = inputs / 16.0 if name == "digits" else StandardScaler().fit_transform(inputs)
    return Dataset(name, scaled, targets if n_classes else _standard(targets), n_classes)


def _standard(targets: Any) -> FloatArray:
    return StandardScaler().fit_transform(np.reshape(targets, (-1, 1)))[:, 0]


def _from_csv(path: Path) -> Dataset:
    table = _read_csv(path)
    features, target = table.iloc[:, :-1], table.iloc[:, -1]
    text = [c for c in features if not pd.api.types.is_numeric_dtype(features[c])]
    if text:
        raise DataError(f"{path} has text in the feature columns {text}; encode them as numbers")
    if target.nunique() < 2:
        raise DataError(
            f"{path} has the same target in every row, {target.iloc[0]} in column {target.name!r}: "
            "there is nothing to learn"
        )
    inputs = StandardScaler().fit_transform(features.to_numpy(dtype=np.float64))
    if _holds_labels(path, target):
        encoder = LabelEncoder().fit(target)
        return Dataset(path.stem, inputs, encoder.transform(target), len(encoder.classes_))
    return Dataset(path.stem, inputs, _standard(target.to_numpy(dtype=np.float64)), 0)


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a table with a header and without gaps, or say why not."""
    if not path.is_file():
        raise DataError(
            f"no data set and no file is called {str(path)!r}; known are {', '.join(NAMES)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Read in one piece, or a column could get two types; never taken for an archive.
            table = pd.read_csv(path, index_col=False, low_memory=False, compression=None)
    except pd.errors.ParserWarning:
        raise DataError(
            f"{path} has more cells in its rows than names in its header; name every column"
        ) from None
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path} cannot be read as a CSV file: {str(error).strip()}") from error
    if table.shape[1] < 2 or len(table) < 2:
        raise DataError(
            f"{path} must have a header line, at least two rows, one feature and the target in "
            f"the last column, separated by commas; got {table.shape[0]} rows and "
            f"{table.shape[1]} columns"
        )
    header = pd.to_numeric(table.columns[:-1].to_series(), errors="coerce")
    if header.notna().all() and np.any(header % 1):  # whole numbers may well be names
        raise DataError(
            f"{path} must begin with a header line of names, got numbers: "
            f"{', '.join(table.columns[:3])}, …"
        )
    _refuse_cells(path, table.isna(), "missing cells", "fill or drop them")
    huge = table.select_dtypes("number").abs() >= _HUGE
    _refuse_cells(path, huge, "infinite or huge numbers", "drop or rescale them")
    return table


def _holds_labels(path: Path, target: pd.Series) -> bool:
    """Whether the target is made of labels, not real numbers; refuse what may be neither."""
    few = target.nunique() <= _MAX_LABELS
    if pd.api.types.is_bool_dtype(target):
        return True
    if pd.api.types.is_numeric_dtype(target):
        return few and pd.api.types.is_integer_dtype(target)
    text = pd.to_numeric(target, errors="coerce").isna()
    if not few and not text.all():
        _refuse_cells(path, text.to_frame(), "texts among the numbers", "make them numbers")
    if not few and target.is_unique:
        raise DataError(
            f"{path} has another text in every row of column {target.name!r}, its last; expected "
            "labels or numbers there"
        )
    return True


def _refuse_cells(path: Path, bad: pd.DataFrame, what: str, remedy: str) -> None:
    """Refuse a table with bad cells: count them, and name the first as an editor shows it."""
    rows, columns = np.nonzero(bad)
    if not rows.size:
        return
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        # Blank lines are no rows, and a quoted cell may run over several.
        ends = [reader.line_num for row in reader if len(row) > 1 or "".join(row).strip()]
    raise DataError(
        f"{path} has {rows.size} {what}, the first in line {ends[rows[0] + 1]}, column "
        f"{bad.columns[columns[0]]!r}; {remedy}"
    )
