"""Data for geomstats's test cases, by introspection.

geomstats ships its test cases but not the data classes that switch them on. A test ``test_x`` of a
case is on when the data class has a method ``x_test_data``; what that must return is read off the
arguments of the test. Numbers of points and repetitions are fixed, so that all workers collect the
same tests, and ``trials`` is 1: a test passes the first time or it fails.
"""

import inspect

from exclusions import EXCLUDED, TOLERANCES
from geomstats.test.data import TestData
from geomstats.test.parametrizers import DataBasedParametrizer
from geomstats.test.vectorization import KNOWN_ARGS

_COUNTS = {"n_points": (1, 2), "n_reps": (2,), "n_times": (2,)}


def _arguments(function):
    return [name for name in inspect.signature(function).parameters if name != "self"]


def _needs_no_data(function):
    """Whether a test draws all of its data itself, given how much of it."""
    wanted = {name for name in _arguments(function) if not name.endswith("tol")}
    return bool(wanted) and wanted <= {*_COUNTS}


def _is_vectorised_by_geomstats(function):
    """Whether geomstats makes a test of batches from a test of values."""
    arguments = {name for name in _arguments(function) if not name.endswith("tol")}
    points = arguments - {"expected"}
    return points < arguments and bool(points) and points <= {*KNOWN_ARGS}


def tests_of(case):
    """Return the names of all tests of a case that can run without data written by hand.

    Parameters
    ----------
    case : type
        A test case of geomstats.

    Returns
    -------
    counts : dict of str to tuple of str
        For each test the numbers that it asks for.
    """
    functions = {name[5:]: getattr(case, name) for name in dir(case) if name.startswith("test_")}
    found = {
        name: tuple(argument for argument in _arguments(function) if argument in _COUNTS)
        for name, function in functions.items()
        if _needs_no_data(function)
    }
    for name, function in functions.items():
        if f"{name}_vec" not in functions and _is_vectorised_by_geomstats(function):
            found[f"{name}_vec"] = ("n_reps",)
    return found


def _data(counts):
    def data(self):
        rows = [{}]
        for name in counts:
            rows = [{**row, name: count} for row in rows for count in _COUNTS[name]]
        return self.generate_tests(rows)

    return data


def data_for(case, *topics):
    """Return data that switches on all tests of a case but those excluded, with reasons.

    Parameters
    ----------
    case : type
        A test case of geomstats.
    *topics : str
        Lines of ``exclusions.EXCLUDED`` and ``exclusions.TOLERANCES`` that apply.

    Returns
    -------
    data : geomstats.test.data.TestData
    """
    excluded = {name for topic in topics for name in EXCLUDED.get(topic, ((), ""))[0]}
    tests = tests_of(case)
    unknown = excluded - {*tests}
    assert not unknown, f"excluded, but not a test of {case.__name__}: {sorted(unknown)}"
    methods = {
        f"{name}_test_data": _data(counts) for name, counts in tests.items() if name not in excluded
    }
    tolerances = {
        name: {"atol": atol}
        for topic in topics
        for names, atol, _ in TOLERANCES.get(topic, ())
        for name in names
    }
    settings = {"trials": 1, "tolerances": tolerances}
    return type("Data", (TestData,), {**methods, **settings})()


__all__ = ["DataBasedParametrizer", "data_for", "tests_of"]
