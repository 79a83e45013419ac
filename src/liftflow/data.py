"""Real data to train on: the sets that scikit-learn ships, or a table of one's own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.preprocessing import LabelEncoder, StandardScaler

from liftflow.errors import DataError
from liftflow.typing import FloatArray


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and targets, scaled and ready.

    Attributes
    ----------
    name : str
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

    @property
    def default_loss(self) -> str:
        """The usual loss for these targets."""
        return "cross-entropy" if self.n_classes else "mse"

    @property
    def n_outputs(self) -> int:
        """Number of outputs of a network for these targets."""
        return self.n_classes or 1

    def targets_for(self, loss: str) -> FloatArray:
        """Targets in the form a loss takes them.

        Parameters
        ----------
        loss : {"mse", "cross-entropy"}

        Returns
        -------
        targets : array, shape=[n_samples] or [n_samples, n_outputs]
            One-hot rows where labels are regressed on.

        Raises
        ------
        DataError
            Cross-entropy on real targets.
        """
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


def load(name: str) -> Dataset:
    """Load a data set of scikit-learn by name, or a CSV file by path.

    Pixels are scaled to [0, 1], other features and real targets to mean 0 and variance 1.

    Parameters
    ----------
    name : str
        One of ``NAMES``, or the path of a CSV file with a header line, whose last column is the
        target: labels where it holds text or at most 20 different integers, else real numbers.

    Returns
    -------
    dataset : Dataset

    Raises
    ------
    DataError
        An unknown name, a file that cannot be read, a missing cell, text among the features.
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
    if not path.is_file():
        raise DataError(
            f"no data set and no file is called {str(path)!r}; known are {', '.join(NAMES)}"
        )
    try:
        table = pd.read_csv(path)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path} cannot be read as a CSV file: {error}") from error
    if table.shape[1] < 2 or len(table) < 2:
        raise DataError(
            f"{path} must have at least two rows, one feature and the target in the last column, "
            f"got {table.shape[0]} rows and {table.shape[1]} columns"
        )
    rows, columns = np.nonzero(table.isna())
    if rows.size:
        # Line 1 of the file is the header.
        raise DataError(
            f"{path} has {rows.size} missing cells, the first in line {rows[0] + 2}, column "
            f"{table.columns[columns[0]]!r}; fill or drop them"
        )
    features, target = table.iloc[:, :-1], table.iloc[:, -1]
    text = [c for c in features if not pd.api.types.is_numeric_dtype(features[c])]
    if text:
        raise DataError(f"{path} has text in the feature columns {text}; encode them as numbers")
    values = features.to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{path} has infinite features")
    inputs = StandardScaler().fit_transform(values)
    integer = pd.api.types.is_integer_dtype(target) and target.nunique() <= 20
    if integer or not pd.api.types.is_numeric_dtype(target):
        encoder = LabelEncoder().fit(target)
        return Dataset(path.stem, inputs, encoder.transform(target), len(encoder.classes_))
    return Dataset(path.stem, inputs, _standard(target.to_numpy(dtype=np.float64)), 0)
