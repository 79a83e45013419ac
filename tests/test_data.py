"""The shipped data sets, and tables of one's own."""

import re
import shlex
from fractions import Fraction

import numpy as np
import pytest
from sklearn import datasets

from liftflow.data import NAMES, load
from liftflow.errors import DataError, InputError

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


@pytest.mark.parametrize(
    "column",
    [
        1.7e18 + 256.0 * np.arange(40) ** 2,  # nanoseconds since 1970
        1e12 + 0.01 * np.arange(40.0) ** 2,
        1e-200 * np.arange(40.0) ** 2,
        -1e100 * np.arange(40.0) ** 2,
    ],
)
def test_columns_of_any_offset_and_unit_are_standardised(table, column):
    rows = [f"{x!r},{i % 5},{x!r}" for i, x in enumerate(column.tolist())]
    data = table("a,b,y", *rows, labels=False, index_column=False)
    exact = [Fraction(x) for x in column.tolist()]
    centred = [x - sum(exact) / len(exact) for x in exact]
    top = max(map(abs, centred))
    unit = np.array([float(x / top) for x in centred])
    right = unit / np.sqrt(np.mean(unit**2))
    np.testing.assert_allclose(data.inputs[:, 0], right, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(data.targets, right, rtol=1e-9, atol=1e-9)
    assert np.ptp(right) > 1  # control: constants would be 0


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

    def read(*lines, end="\n", encoding="utf-8", **options):
        path = tmp_path / "own table.csv"
        path.write_bytes((end.join(lines) + end).encode(encoding))
        return load(str(path), **options)

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
    data = table("a,y", *(f"{i * i},class {i % 25:02}" for i in range(50)))
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
    """Pixels, as pandas writes a frame without names: this may be a row, too."""
    rows = [f"{row},{i}" for i, row in enumerate(ROWS)]
    with pytest.raises(DataError, match="numbers: 0, 1, 2, in line 1; say --no-header"):
        table("0,1,2", *rows)
    data = table("0,1,2", *rows, header=True)
    np.testing.assert_allclose(data.inputs, SCALED)
    assert data.n_classes == 3


# What may be read in two ways is refused by line and column, until an option says what is meant.


def test_rows_without_names(table):
    data = table("1,10,x", "2,20,z", "3,60,x", header=False)
    np.testing.assert_allclose(data.inputs, SCALED)
    np.testing.assert_array_equal(data.targets, [0, 1, 0])
    assert str(data) == "own table: 3 rows, 2 features, target '3', 2 classes"
    with pytest.raises(DataError, match="texts among the features, the first in line 1"):
        table(*lines([0, 1, 0]), header=False)


@pytest.mark.parametrize("target", ["y", 1, "1", " y "])
def test_a_target_by_name_and_by_number(table, target):
    rows = ["y,a,b", *(f"{i}.5,{row}" for i, row in enumerate(ROWS))]
    data = table(*rows, target=target)
    np.testing.assert_allclose(data.inputs, SCALED)
    np.testing.assert_allclose(data.targets, np.array([-1, 0, 1]) * np.sqrt(1.5))
    assert str(data) == "own table: 3 rows, 2 features, target 'y', regression"
    assert table(*rows).n_classes == 3  # the last column, 10, 20, 60


@pytest.mark.parametrize("target", ["z", 0, 4, -1, "1.0", ""])
def test_a_target_that_is_not_there(table, target):
    with pytest.raises(DataError, match=r"no column .* for target; it has 'a', 'b', 'y', by"):
        table(*lines([0, 1, 0]), target=target)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        pytest.param("", "123", id="without a name"),
        pytest.param("", ("u", "v", "w"), id="of texts"),
        pytest.param("Unnamed: 0", "456", id="of pandas, twice"),
        pytest.param("id", "123", id="id"),
        pytest.param("Customer ID", "829", id="an id in no order"),
        pytest.param("row_names", "123", id="row names"),
    ],
)
def test_names_of_rows_are_no_feature(table, name, names):
    rows = [
        f"{name},a,b,y",
        *(f"{n},{r},{n in names[1:]}" for n, r in zip(names, ROWS, strict=True)),
    ]
    with pytest.raises(
        DataError, match=r"number its rows in column .*; say --index-column (.*) "
    ) as caught:
        table(*rows)
    said = re.search(r"--index-column (.*?) \(index_column=1\)", str(caught.value))[1]
    np.testing.assert_allclose(table(*rows, index_column=shlex.split(said)).inputs, SCALED)
    data = table(*rows, index_column=name or 1)
    np.testing.assert_allclose(data.inputs, SCALED)
    if names[0].isdecimal():
        assert table(*rows, index_column=False).inputs.shape == (3, 3)


def test_names_of_rows_in_the_last_column_are_no_target(table):
    rows = ["a,b,y,id", *(f"{row},{i % 2},{i}" for i, row in enumerate(ROWS))]
    with pytest.raises(DataError, match="rows in column 'id'"):
        table(*rows)
    assert table(*rows, index_column="id").target == "y"
    assert table(*rows, target="id", index_column=False).n_classes == 3


def test_columns_that_only_look_like_names_of_rows(table):
    """Control: numbers that repeat or are not whole, and words that only end like an id."""
    for name, values in (
        ("id", "112"),
        ("index", ("1.5", "2", "3")),
        ("humid", "123"),
        ("body mass index", ("31", "25", "28")),
        ("year", range(9)),
        ("n", [*range(9), 10]),
        ("n", [i + 0.5 for i in range(12)]),
    ):
        rows = [f"{name},y", *(f"{value},{i % 2}" for i, value in enumerate(values))]
        assert table(*rows).inputs.shape == (len(values), 1)


@pytest.mark.parametrize("form", ["{}", "{}.0"])
@pytest.mark.parametrize("name", ["PassengerId", "V1", "#", "...1"])
def test_a_first_column_that_counts_the_rows_is_no_feature(table, name, form):
    counted = [form.format(i) for i in range(3, 15)]
    rows = [f"{name},a,y", *(f"{n},{i * i},{i % 2}" for i, n in enumerate(counted))]
    with pytest.raises(DataError, match=f"rows in column '{name}'; say --index-column"):
        table(*rows)
    assert table(*rows, index_column=1).inputs.shape == (12, 1)
    assert table(*rows, index_column=False).inputs.shape == (12, 2)


def test_a_second_index_column_is_no_feature_either(table):
    """As pandas writes a table that it read with an index."""
    for second in ("Unnamed: 0", "Unnamed: 0.1", "", "id"):
        rows = [f",{second},a,b,y", *(f"{i},{i},{row},{i % 2}" for i, row in enumerate(ROWS))]
        with pytest.raises(DataError, match=r"column 1, the one without a name, .* say"):
            table(*rows)
        with pytest.raises(DataError, match=r"--index-column .* \(index_column=\[1, 2\]\)"):
            table(*rows, index_column=1)
        np.testing.assert_allclose(table(*rows, index_column=[1, 2]).inputs, SCALED)
        assert table(*rows, index_column=False).inputs.shape == (3, 4)


def test_a_name_that_is_the_number_of_another_column(table):
    """As pandas writes a frame without names: what the message says must leave out its column."""
    rows = [",0,1,2", *(f"{i},{row},{i % 2}" for i, row in enumerate(ROWS))]
    with pytest.raises(DataError, match=r"say --index-column '#1' \(index_column=1\)"):
        table(*rows, header=True)
    for column in ("#1", 1):
        np.testing.assert_allclose(table(*rows, header=True, index_column=column).inputs, SCALED)
    for option in ("index_column", "target"):
        with pytest.raises(DataError, match=r"name '1' and another of that number.*'#1' or '#3'"):
            table(*rows, header=True, **{option: "1"})
    assert table(*rows, header=True, index_column=1, target="0").target == "0"  # no number


MANY = [f"{i * i},{i}" for i in range(24)]


@pytest.mark.parametrize(
    ("targets", "where"),
    [
        pytest.param([*"01" * 11, "0", "oops"], "1 texts .* line 25", id="a text among integers"),
        pytest.param(["-", *"01" * 11, "0"], "1 texts .* line 2", id="a dash for none"),
        pytest.param([*"ab" * 11, "a", "7"], "1 numbers .* line 25", id="a number among texts"),
        pytest.param(
            ["1,5", *["2,5", "3,5"] * 11, "1,5"], "24 texts that look .* line 2", id="commas"
        ),
        pytest.param(
            ["a", *["1.234,50", "b"] * 11, "c"], "11 texts that look .* line 3", id="groups"
        ),
        pytest.param(["1 000", *["2 000"] * 23], "24 texts that look .* line 2", id="spaces"),
        pytest.param(["7%", *["9%"] * 23], "24 texts that look .* line 2", id="percent"),
        pytest.param(["2026-01-05", *["2026-01-06"] * 23], "24 texts that look", id="dates"),
        pytest.param([f"{i / 2} km" for i in range(24)], "24 texts that look", id="units"),
        pytest.param([f"USD {i / 2}" for i in range(24)], "24 texts that look", id="currency"),
    ],
)
def test_targets_that_may_be_numbers_or_labels(table, targets, where):
    rows = ["a,b,y", *(f'{row},"{target}"' for row, target in zip(MANY, targets, strict=True))]
    with pytest.raises(DataError, match=where + ".*column 'y'; .*say --labels"):
        table(*rows)
    data = table(*rows, labels=True)
    np.testing.assert_array_equal(data.targets, np.unique(targets, return_inverse=True)[1])
    with pytest.raises(DataError, match="texts among the numbers"):
        table(*rows, labels=False)


def test_integers_are_what_is_said(table):
    np.testing.assert_allclose(
        table(*lines([3, 1, 2]), labels=False).targets, np.array([1, -1, 0]) * np.sqrt(1.5)
    )
    data = table(*lines(["0.5", "1.5", "0.5"]), labels=True)
    np.testing.assert_array_equal(data.targets, [0, 1, 0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('a,y\n1,"u\n2,"v\n3,"u\n', "begins in line 2, ',' expected"),
        ('a,y\n1,u\n2,"v\n3,u\n', "begins in line 3, unexpected end"),
        ('a,y\n"1"2,u\n2,v\n', "begins in line 2, ',' expected"),
        ("a,y\n1," + "u" * 200_000 + "\n,v\n", r"in line 2, field larger"),
        ("a,a,y\n1,2,0\n3,4,1\n", "two columns 'a' in line 1"),
        ("# made by hand\na,y\n1,0\n2,1\n", "2 cells in line 2 and 1 in its first row"),
        ("# made, by hand\na,y\n1,0\n2,1\n", "texts among the features, the first in line 2"),
        ("a\tb\ty\n1\t2\t0\n3\t4\t1\n", "cells separated by commas"),
        ("a;b;y\n1,5;2,5;0\n3,5;4,5;1\n", "cells separated by commas"),
        ("a,y\n1,u\n \t,v\n", "1 missing cells, the first in line 3, column 'a'"),
        ("a,y\n1,u\n2, \n", "1 missing cells, the first in line 3, column 'y'"),
        ("a,y\n1,u\n,\n", "2 missing cells, the first in line 3, column 'a'"),
        ('a,y\n"1,234",u\n2,v\n', "1 texts among the features, the first in line 2, column 'a'"),
        ("a,y\n2026-01-05,u\n2026-01-06,v\n", "2 texts among the features, the first in line 2"),
        ("True,5,u\nFalse,6,v\nFalse,7,u\n", "got numbers: True, 5, in line 1"),
        ("a,y\n1,u\n2,\xe9\n".encode("latin-1"), r"can't decode byte 0xe9 .*, in line 3"),
        ("a,y\n1,u\n2,v\n".encode("utf-16"), "not text in UTF-8"),
        (b"PK\x03\x04\x14\x00\x00", "not text in UTF-8"),
    ],
)
def test_files_that_are_misread_otherwise(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load(path)


def test_what_is_only_unusual_is_read(table):
    """Control: quotes, spaces, old line ends, commas at every end, integers of any length."""
    quoted = ['"a","b ",y,', '"1",10, u,', "2, 20,v ,", '3,"60",u,']
    for end in ("\n", "\r\n", "\r"):
        data = table(*quoted, end=end, encoding="utf-8-sig")
        np.testing.assert_allclose(data.inputs, SCALED)
        np.testing.assert_array_equal(data.targets, [0, 1, 0])
    long = table("a,y", "10000000000000000000000,0", "30000000000000000000000,1")
    np.testing.assert_allclose(long.inputs, [[-1], [1]])


def test_options_that_cannot_be_read(table):
    wrong = {"header": 0, "labels": "yes", "index_column": True, "target": 1.0}
    for option, value in wrong.items():
        with pytest.raises(InputError, match=option):
            table(*lines([0, 1, 0]), **{option: value})
    with pytest.raises(InputError, match="iris is no CSV file and does not read target; leave it"):
        load("iris", target="y")
    with pytest.raises(InputError, match="name must be that of a data set or a file"):
        load(7)
    for name in ("", "a" * 300, "a\0b"):
        with pytest.raises(DataError, match="no data set and no file"):
            load(name)
    with pytest.raises(DataError, match="needs a column of features"):
        table("a,y", "1,0", "2,1", index_column="a")
    with pytest.raises(DataError, match="needs a column of features"):
        table(*lines([0, 1, 0]), index_column="a", target="a")


@pytest.mark.parametrize("name", NAMES)
def test_what_was_read_is_said_in_one_line(name):
    (rows, features), counts = FACTS[name]
    task = f"{len(counts)} classes" if counts else "regression"
    assert str(load(name)) == f"{name}: {rows:,} rows, {features} features, {task}"
