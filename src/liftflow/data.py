"""Real data to train on: the sets that scikit-learn ships, or a table of one's own."""

import collections
import csv
import io
import os
import re
import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype, is_numeric_dtype
from sklearn import datasets
from sklearn.preprocessing import LabelEncoder, StandardScaler

from liftflow.doors import door
from liftflow.errors import DataError, InputError
from liftflow.linalg import units
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
    target : str
        Name of the column with the targets, where there is one.
    """

    name: str
    inputs: FloatArray
    targets: FloatArray
    n_classes: int
    target: str = ""

    def __repr__(self) -> str:
        """Say in one line what it is."""
        return f"Dataset({self})"

    def __str__(self) -> str:
        """Say in one line what was read."""
        rows, features = self.inputs.shape
        task = f"{self.n_classes} classes" if self.n_classes else "regression"
        column = f", target {self.target!r}" if self.target else ""
        return f"{self.name}: {rows:,} rows, {features:,} features{column}, {task}"

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
        """Return the targets as a loss takes them, in one-hot rows where labels are regressed on.

        Returns
        -------
        targets : array, shape=[n_samples] or [n_samples, n_outputs]
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
_MIN_NUMBERED = 10  # fewer consecutive numbers happen
_UNNAMED = re.compile(r"|Unnamed: \d+(\.\d+)?")  # pandas adds a number where one was there
_INDEX = re.compile(
    r"(.*[\W_])?id|idx|index|rows?|row.?(name|number|num|nr|id|index)s?", re.IGNORECASE
)
_MISSING = ("missing cells", "fill or drop them")
_SAY = ", or say --labels (labels=True) if these are names of classes"
_WITH_A_NUMBER = re.compile(r"\W*\d|.*\d[.,]\d")  # 12.5 km, ~3, EUR 1.50; but not class 7
_LIKE_A_NUMBER = re.compile(r"(?=.*\d)[\d\s.,:;/'’_%$€£+−–-]+")


@door
def load(
    name: str | os.PathLike[str],
    *,
    target: str | int | None = None,
    header: bool | None = None,
    index_column: str | int | bool | Sequence[str | int] | None = None,
    labels: bool | None = None,
) -> Dataset:
    """Load a data set of scikit-learn by name, or a CSV file by path.

    Pixels are scaled to [0, 1], other features and real targets to mean 0 and variance 1. What was
    read is said in one line by ``str(dataset)``.

    Parameters
    ----------
    name : str or path
        One of ``NAMES``, or the path of a CSV file in UTF-8: cells separated by commas, numbers
        with a decimal point, all of them but the targets.
    target : str or int, optional
        The column of a CSV file that is to be predicted, by its name or its number from 1, which
        may be written "#1"; the last by default. A text that is the name of one column and the
        number of another is refused.
    header : bool, optional
        Whether the first line names the columns. By default it must, and numbers in it are
        refused, because it may be a row. Without names, columns are called by their numbers.
    index_column : str, int, sequence of them, or False, optional
        The column or columns that name or number the rows and are left out; False if there are
        none. Another column that looks like one is refused: it has no name, or a name such as id
        and whole numbers or texts that all differ. So is by default a first column of consecutive
        whole numbers, from 10 rows on.
    labels : bool, optional
        Whether the targets are labels, or real numbers. By default they are labels where all of
        them are text, all true or false, or all whole numbers without a decimal point, at most 20
        different ones. Text among numbers, text that looks like numbers, and more than 20
        different texts that all have a number in front or a decimal one inside, are refused.

    Raises
    ------
    InputError
        An option of CSV files for another data set, or of another type.
    DataError
        An unknown name; a file that cannot be read, or could be read in two ways; a cell that is
        missing, no number or too large, named by line and column; a target that never changes.
    """
    if not isinstance(name, str | os.PathLike):
        raise InputError(f"name must be that of a data set or a file, got {name!r}")
    for option, flag in (("header", header), ("labels", labels)):
        if not (flag is None or isinstance(flag, bool)):  # header=0 means something else in pandas
            raise InputError(f"{option} must be True, False or None, got {flag!r}")
    if name not in _SHIPPED:
        return _Table(Path(name), header).dataset(target, index_column, labels)
    options = {"target": target, "header": header, "index_column": index_column, "labels": labels}
    for option, value in options.items():
        if value is not None:
            raise InputError(f"{name} is no CSV file and does not read {option}; leave it")
    loader, n_classes = _SHIPPED[str(name)]
    inputs, targets = loader(return_X_y=True)
    scaled = inputs / 16.0 if name == "digits" else _standard(inputs)
    return Dataset(str(name), scaled, targets if n_classes else _standard(targets), n_classes)


def _standard(columns: Any) -> FloatArray:
    """Scale columns to mean 0 and variance 1, whatever their offsets and units.

    First from their first rows, in powers of two: that rounds nothing, and squares stay in range.
    """
    values = np.asarray(columns, dtype=float).copy()
    values /= units(np.max(np.abs(values), axis=0, initial=0.0))
    values -= values[:1]
    values /= units(np.max(np.abs(values), axis=0, initial=0.0))
    return StandardScaler().fit_transform(values.reshape(len(values), -1)).reshape(values.shape)


def _is_value(cell: str) -> bool:
    """Whether a cell may be one of a row of features: a number, or a truth value."""
    try:
        return cell.strip().lower() in ("true", "false") or float(cell) is not None
    except ValueError:
        return False


def _strip(cell: Any) -> Any:
    """Take blanks off the ends of a text; one of blanks alone is missing."""
    return cell.strip() or None if isinstance(cell, str) else cell


class _Table:
    """A CSV file: its cells without gaps, each found again by line and column."""

    def __init__(self, path: Path, header: bool | None) -> None:
        if not os.path.isfile(path):  # Path.is_file raises where no file can have that name
            raise DataError(
                f"no data set and no file is called {os.fspath(path)!r}; known are "
                f"{', '.join(NAMES)}"
            )
        self.path, self.has_header = path, header is not False
        try:
            raw = path.read_bytes()
            if b"\0" in raw:
                raise DataError(f"{path} cannot be read as a CSV file: it is not text in UTF-8")
            self.text = raw.decode("utf-8-sig")
        except OSError as error:
            raise DataError(f"{path} cannot be read as a CSV file: {error}") from error
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{path} cannot be read as a CSV file: {error}, in line {line}; save it as text in "
                "UTF-8"
            ) from error
        if '"' in self.text:  # pandas would swallow rows where a quote is never closed
            collections.deque(self._rows(), maxlen=0)
        self.names = self._read_names(header)
        self.cells = self._read_cells()

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each row that is not blank, the header first, and the line where it begins."""
        rows, line = csv.reader(io.StringIO(self.text, newline=""), strict=True), 1
        try:
            for cells in rows:
                if cells and not (len(cells) == 1 and cells[0].isspace()):
                    yield line, cells
                line = rows.line_num + 1  # a quoted cell may run over several
        except csv.Error as error:
            raise DataError(
                f"{self.path} cannot be read as a CSV file: in the row that begins in line {line}, "
                f"{error}; look for a quote that does not enclose a cell"
            ) from error

    def _read_names(self, header: bool | None) -> list[str]:
        """Read the names of the columns, or number them."""
        line, cells = next(self._rows(), (1, []))
        if not cells:
            raise DataError(f"{self.path} cannot be read as a CSV file: it is empty")
        if len(cells) == 1 and re.search(r"[;\t|]", cells[0]):
            raise DataError(
                f"{self.path} must have cells separated by commas, and numbers with a decimal "
                f"point; got line {line}: {cells[0][:40]!r}"
            )
        if not self.has_header:
            return [str(number) for number in range(1, len(cells) + 1)]
        numbers = [cell for cell in cells if _is_value(cell)]
        if header is None and numbers:
            raise DataError(
                f"{self.path} must begin with a header line of names, got numbers: "
                f"{', '.join(numbers[:3])}, in line {line}; say --no-header (header=False) if it "
                "is a row, --header (header=True) if they are names"
            )
        names = [cell.strip() for cell in cells]
        counts = collections.Counter(filter(None, names))
        if counts and max(counts.values()) > 1:
            twice = counts.most_common(1)[0][0]
            raise DataError(f"{self.path} has two columns {twice!r} in line {line}; rename one")
        return names

    def _read_cells(self) -> pd.DataFrame:
        """Read all rows; the columns are called by their position."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)
                # Read in one piece, or a column could get two types.
                cells = pd.read_csv(
                    io.StringIO(self.text, newline=""),
                    header=0 if self.has_header else None,
                    names=range(len(self.names)),
                    index_col=False,
                    low_memory=False,
                )
        except pd.errors.EmptyDataError:
            cells = pd.DataFrame(columns=range(len(self.names)))
        except (pd.errors.ParserWarning, pd.errors.ParserError) as error:
            self._refuse_long_rows(error)
        if len(cells.columns) < 2 or len(cells) < 2:
            raise DataError(
                f"{self.path} must have a header line, at least two rows, one feature and the "
                f"target, separated by commas; got {len(cells)} rows and {len(self.names)} columns"
            )
        unnamed = not self.has_header or not self.names[-1]
        empty = unnamed and cells.iloc[:, -1].isna().all()
        return cells.iloc[:, :-1] if empty else cells  # after a comma at the end of every line

    def _refuse_long_rows(self, error: Exception) -> None:
        width = len(self.names)
        for line, cells in self._rows():
            if len(cells) > width and "".join(cells[width:]):
                raise DataError(
                    f"{self.path} has {len(cells)} cells in line {line} and {width} in its first "
                    "row; name every column, and put a text with a comma in quotes"
                ) from error
        raise DataError(
            f"{self.path} cannot be read as a CSV file: {str(error).strip()}"
        ) from error

    def _column(self, position: int) -> str:
        return repr(self.names[position] or position + 1)

    def _refuse(self, bad: FloatArray, columns: Sequence[int], what: str, remedy: str) -> None:
        """Refuse bad cells: count them, and name the first as an editor shows it."""
        rows, places = np.nonzero(bad)
        if rows.size:
            line, _ = next(islice(self._rows(), int(rows[0]) + self.has_header, None))
            raise DataError(
                f"{self.path} has {rows.size} {what}, the first in line {line}, column "
                f"{self._column(columns[places[0]])}; {remedy}"
            )

    def _called(self, column: str | int) -> list[int]:
        """Positions of the columns that have this name or number."""
        count = range(len(self.cells.columns))
        if isinstance(column, int):
            return [c for c in count if c + 1 == column]
        text = column.strip()
        return [c for c in count if text and text in (self.names[c], f"{c + 1}", f"#{c + 1}")]

    def _position(self, column: Any, option: str) -> int:
        """Find a column by its name, or its number from 1."""
        if isinstance(column, bool) or not isinstance(column, str | int):
            raise InputError(f"{option} must be the name or number of a column, got {column!r}")
        found, last = self._called(column), len(self.cells.columns)
        if len(found) == 1:
            return found[0]
        if found:
            numbers = " or ".join(f"'#{c + 1}'" for c in found)
            raise DataError(
                f"{self.path} has a column of name {column!r} and another of that number; say for "
                f"{option} which is meant, by its number: {numbers}"
            )
        names = ", ".join(map(self._column, range(min(last, 9)))) + (", …" if last > 9 else "")
        raise DataError(
            f"{self.path} has no column {column!r} for {option}; it has {names}, by number 1 to "
            f"{last}"
        )

    def dataset(self, target: Any, index_column: Any, labels: bool | None) -> Dataset:
        """Tell the features from the target, and scale them."""
        none = index_column is None or index_column is False
        several = isinstance(index_column, Sequence) and not isinstance(index_column, str)
        given = [] if none else index_column if several else [index_column]
        left_out = [self._position(column, "index_column") for column in given]
        cells = self.cells.drop(columns=left_out)
        chosen = cells.columns[-1] if target is None else self._position(target, "target")
        if chosen not in cells or len(cells.columns) < 2:
            raise DataError(
                f"{self.path} needs a column of features beside its index and its target, column "
                f"{self._column(chosen)}"
            )
        features = [c for c in cells if c != chosen or target is None]
        if index_column is not False:
            self._refuse_index([c for c in features if self._names_rows(c)], left_out)
        values, goal = self._complete(cells, chosen)
        inputs = _standard(values)
        name = self.names[chosen] or str(chosen + 1)
        holds_labels = self._holds_labels(goal, labels)
        if index_column is None and features[0] == 0 and self._numbers_rows(values[:, 0]):
            self._refuse_index([0], left_out)
        if goal.nunique() < 2:
            raise DataError(
                f"{self.path} has the same target in every row, {goal.iloc[0]} in column "
                f"{self._column(chosen)}: there is nothing to learn"
            )
        if holds_labels:
            encoder = LabelEncoder().fit(goal)
            classes = encoder.transform(goal)
            return Dataset(self.path.stem, inputs, classes, len(encoder.classes_), name)
        return Dataset(self.path.stem, inputs, _standard(goal.to_numpy(np.float64)), 0, name)

    def _names_rows(self, column: int) -> bool:
        if not _INDEX.fullmatch(self.names[column]):
            return bool(_UNNAMED.fullmatch(self.names[column]))
        cells = self.cells[column]
        return cells.is_unique and bool(not is_float_dtype(cells) or (cells % 1 == 0).all())

    @staticmethod
    def _numbers_rows(values: FloatArray) -> bool:
        """Whether a column holds consecutive whole numbers, as often rows are numbered."""
        steps = np.diff(values)
        return len(values) >= _MIN_NUMBERED and values[0] % 1 == 0 and bool(np.all(steps == 1))

    def _refuse_index(self, found: Sequence[int], left_out: Sequence[int]) -> None:
        if found:
            columns = [*left_out, *found]
            calls = [(self.names[c], f"{c + 1}", f"#{c + 1}") for c in columns]
            texts = [next((t for t in c if len(self._called(t)) == 1), c[-1]) for c in calls]
            say = " ".join(f"--index-column {shlex.quote(text)}" for text in texts)
            numbers = [c + 1 for c in columns] if len(columns) > 1 else columns[0] + 1
            none = "rename it" if left_out else "--no-index-column (index_column=False)"
            which = ", ".join(
                self._column(c) if self.names[c] else f"{c + 1}, the one without a name"
                for c in found
            )
            raise DataError(
                f"{self.path} seems to name or number its rows in column {which}; say {say} "
                f"(index_column={numbers}) to leave it out, {none} if it is none"
            )

    def _complete(self, cells: pd.DataFrame, chosen: int) -> tuple[FloatArray, pd.Series]:
        """Return the features as numbers, and the target, both without gaps."""
        texts = [c for c, kind in cells.dtypes.items() if not is_numeric_dtype(kind)]
        if texts:
            cells = cells.copy()
            for column in texts:
                cells[column] = cells[column].map(_strip)
            self._refuse(cells.isna(), [*cells], *_MISSING)
        numbers = {c: pd.to_numeric(cells[c], errors="coerce") for c in texts}
        words = pd.DataFrame({c: numbers[c].isna() for c in texts if c != chosen})
        self._refuse(words, [*words], "texts among the features", "encode them as numbers")
        for column in texts:
            if numbers[column].notna().all():  # integers of more than 64 bits
                cells[column] = numbers[column].astype(np.float64)
        target = cells[chosen]
        if not is_numeric_dtype(target):
            cells = cells.drop(columns=chosen)
        values = cells.to_numpy(dtype=np.float64)
        fine = np.abs(values) < _HUGE
        if not fine.all():
            self._refuse(np.isnan(values), [*cells], *_MISSING)
            self._refuse(~fine, [*cells], "infinite or huge numbers", "drop or rescale them")
        return values[:, cells.columns != chosen], target

    def _holds_labels(self, target: pd.Series, labels: bool | None) -> bool:
        """Whether the target is made of labels, not real numbers; refuse what may be either."""
        few = target.nunique() <= _MAX_LABELS
        if is_numeric_dtype(target):
            return few and not is_float_dtype(target) if labels is None else labels
        if labels:
            return True
        texts, where = pd.to_numeric(target, errors="coerce").isna(), [target.name]
        if labels is False or texts.mean() < 0.5:
            remedy = "make them numbers" + ("" if labels is False else _SAY)
            self._refuse(texts.to_frame(), where, "texts among the numbers", remedy)
        self._refuse(~texts.to_frame(), where, "numbers among the texts", "make all text" + _SAY)
        different = target.unique()
        alike = target.isin([text for text in different if _LIKE_A_NUMBER.fullmatch(text)])
        remedy = "write them like 1234.5" + _SAY
        if not few and all(map(_WITH_A_NUMBER.match, different)):
            alike[:] = True
        self._refuse(alike.to_frame(), where, "texts that look like numbers or dates", remedy)
        if not few and target.is_unique:
            raise DataError(
                f"{self.path} has another text in every row of column "
                f"{self._column(target.name)}, its target; expected labels or numbers there"
            )
        return True
