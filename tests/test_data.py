"""The shipped data sets, and tables of one's own."""

import numpy as np
import pytest
from sklearn import datasets

from liftflow.data import NAMES, load

# Written down from the descriptions of the sets, not read from the code.
FACTS = {
    "digits": ((1797, 64), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]),
    "iris": ((150, 4), [50, 50, 50]),
    "wine": ((178, 13), [59, 71, 48]),
    "breast-cancer": ((569, 30), [212, 357]),
    "diabetes": ((442, 10), None),
}


def test_all_sets_are_known():
    assert set(NAMES) == set(FACTS)


@pytest.mark.parametrize("name", NAMES)
def test_shipped(name):
    data = load(name)
    shape, counts = FACTS[name]
    assert data.name == name
    assert data.inputs.shape == shape and data.inputs.dtype == np.float64
    assert data.targets.shape == shape[:1]
    assert np.all(np.isfinite(data.inputs)) and np.all(np.isfinite(data.targets))
    if counts is None:
        assert (data.n_classes, data.n_outputs, data.default_loss) == (0, 1, "mse")
        np.testing.assert_allclose([data.targets.mean(), data.targets.std()], [0, 1], atol=1e-12)
    else:
        assert data.n_classes == data.n_outputs == len(counts)
        assert data.default_loss == "cross-entropy"
        np.testing.assert_array_equal(np.bincount(data.targets), counts)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "digits"])
def test_features_are_standardised(name):
    inputs = load(name).inputs
    np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(inputs.std(axis=0), 1, rtol=1e-12)
    loader = getattr(datasets, "load_" + name.replace("-", "_"))
    raw = loader(return_X_y=True)[0]
    np.testing.assert_allclose(inputs, (raw - raw.mean(axis=0)) / raw.std(axis=0), atol=1e-11)


def test_pixels_are_scaled_by_their_range():
    data = load("digits")
    assert (data.inputs.min(), data.inputs.max()) == (0.0, 1.0)
    raw, labels = datasets.load_digits(return_X_y=True)
    np.testing.assert_array_equal(data.inputs * 16, raw)
    np.testing.assert_array_equal(data.targets, labels)


def test_targets_for_each_loss():
    iris = load("iris")
    np.testing.assert_array_equal(iris.targets_for("cross-entropy"), iris.targets)
    one_hot = iris.targets_for("mse")
    assert one_hot.shape == (150, 3)
    np.testing.assert_array_equal(one_hot.sum(axis=1), 1)
    np.testing.assert_array_equal(one_hot.argmax(axis=1), iris.targets)
    diabetes = load("diabetes")
    np.testing.assert_array_equal(diabetes.targets_for("mse"), diabetes.targets)


@pytest.fixture
def table(tmp_path):
    """Write lines to a CSV file and load it."""

    def read(*lines, end="\n", encoding="utf-8"):
        path = tmp_path / "own table.csv"
        path.write_bytes((end.join(lines) + end).encode(encoding))
        return load(str(path))

    return read


ROWS = ["1,10", "2,20", "3,60"]
SCALED = np.array([[-1, -20], [0, -10], [1, 30]]) / np.sqrt([2 / 3, 1400 / 3])


def lines(targets, rows=ROWS):
    return ["a,b,y", *(f"{row},{target}" for row, target in zip(rows, targets, strict=True))]


@pytest.mark.parametrize(
    ("targets", "labels"),
    [
        pytest.param(["yes", "no", "yes"], [1, 0, 1], id="text"),
        pytest.param([7, -1, 7], [1, 0, 1], id="integers"),
        pytest.param([0, 1, 2], [0, 1, 2], id="as many as rows"),
        pytest.param(["True", "False", "True"], [1, 0, 1], id="true and false"),
        pytest.param(["1", "b", "1"], [0, 1, 0], id="text and integers"),
        pytest.param(["été", "ñ", "été"], [0, 1, 0], id="accents"),
        pytest.param(['"a, b"', "c", '"a, b"'], [0, 1, 0], id="quoted"),
    ],
)
def test_labels_of_a_table(table, targets, labels):
    data = table(*lines(targets))
    assert data.name == "own table" and data.default_loss == "cross-entropy"
    np.testing.assert_allclose(data.inputs, SCALED)
    np.testing.assert_array_equal(data.targets, labels)
    assert data.n_classes == data.n_outputs == len(set(labels))


@pytest.mark.parametrize("targets", [[0.5, 1.5, 1.0], ["1e-3", "2e-3", "1.5e-3"], ["0.0", "2", 1]])
def test_real_targets_of_a_table(table, targets):
    data = table(*lines(targets))
    assert (data.n_classes, data.n_outputs, data.default_loss) == (0, 1, "mse")
    np.testing.assert_allclose(data.inputs, SCALED)
    np.testing.assert_allclose(data.targets, np.array([-1, 1, 0]) * np.sqrt(1.5), atol=1e-12)


@pytest.mark.parametrize(("count", "n_classes"), [(20, 20), (21, 0)])
def test_integers_are_labels_up_to_20_of_them(table, count, n_classes):
    numbers = [i % count for i in range(50)]
    data = table("a,y", *(f"{i}.5,{number}" for i, number in enumerate(numbers)))
    assert data.n_classes == n_classes
    if n_classes:
        np.testing.assert_array_equal(data.targets, numbers)
    else:
        np.testing.assert_allclose(
            data.targets, (numbers - np.mean(numbers)) / np.std(numbers), atol=1e-12
        )


def test_more_than_20_labels_of_text(table):
    data = table("a,y", *(f"{i},class {i % 25:02}" for i in range(50)))
    assert data.n_classes == 25
    np.testing.assert_array_equal(data.targets, np.arange(50) % 25)


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param({"end": "\r\n"}, id="of Windows"),
        pytest.param({"encoding": "utf-8-sig"}, id="with a byte order mark"),
    ],
)
def test_files_of_other_systems(table, variant):
    data = table(*lines([0, 1, 0]), **variant)
    np.testing.assert_allclose(data.inputs, SCALED)
    assert data.n_classes == 2


def test_blank_lines_and_commas_at_the_end_are_no_data(table):
    data = table("a,b,y", "", *(line + "," for line in lines([0, 1, 0])[1:]), "", "")
    np.testing.assert_allclose(data.inputs, SCALED)
    np.testing.assert_array_equal(data.targets, [0, 1, 0])


def test_truth_values_and_constants_as_features(table):
    data = table("a,b,y", "True,5,0", "False,5,1")
    np.testing.assert_allclose(data.inputs, [[1, 0], [-1, 0]])


def test_numbers_as_names_of_columns(table):
    """Pixels, as pandas writes a frame without names."""
    data = table("0,1,2", *(f"{row},{i}" for i, row in enumerate(ROWS)))
    np.testing.assert_allclose(data.inputs, SCALED)
    assert data.n_classes == 3
