"""Public docstrings are numpydoc as this code base writes it; pyproject.toml says which checks."""

import enum
import importlib
import inspect
import pkgutil
import re
import tomllib
from functools import cached_property
from pathlib import Path

import pytest
from numpydoc.docscrape import Parameter, get_doc_object
from numpydoc.validate import Validator, get_validation_checks, validate

import liftflow

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["numpydoc_validation"]
CHECKS = get_validation_checks({*CONFIG["checks"]})
MODULES = [
    module.name
    for module in pkgutil.walk_packages(liftflow.__path__, "liftflow.")
    if not any(re.search(pattern, module.name) for pattern in CONFIG["exclude"])
]


def public(owner, module):
    """Return the names that a module or a class defines for others."""
    kinds = property, cached_property, classmethod, staticmethod
    return [
        name
        for name, value in vars(owner).items()
        if not name.startswith("_")
        and (inspect.isroutine(value) or inspect.isclass(value) or isinstance(value, kinds))
        and getattr(value, "__module__", module) == module
    ]


def documented(module):
    """Return the full names of the public classes, their members and the functions of a module."""
    names = []
    for name in public(importlib.import_module(module), module):
        names.append(f"{module}.{name}")
        thing = Validator._load_obj(names[-1])
        if inspect.isclass(thing):
            names += [f"{names[-1]}.{member}" for member in public(thing, module)]
    return names


ARGUMENTS = {
    name.strip()
    for span in re.findall(r"`([^`]+)`", (ROOT / "NOTATION.md").read_text())
    for arguments in re.findall(r"^(\w+)$|\(([^()]*)\)", span)
    for name in ",".join(arguments).split(",")
}
CLASSES = {name.split(".")[-1] for module in MODULES for name in documented(module)}


def is_explained(name, kind):
    """Tell whether NOTATION.md has the name of an argument, or its type is a class of ours."""
    (first, *_) = re.split(", | or ", kind)
    return re.sub("_[abc]$", "", name) in ARGUMENTS or first in CLASSES


class Docstring(Validator):
    """Numpydoc's view of a docstring, with what need not be said filled in."""

    def __init__(self, obj_name):
        super().__init__(get_doc_object(self._load_obj(obj_name)))

    @property
    def signature_parameters(self):
        """All but the values of an enum and the message of an error."""
        kind = self.obj if inspect.isclass(self.obj) else object
        if issubclass(kind, enum.Enum):
            return ()
        names = super().signature_parameters
        return tuple(name for name in names if name != "message" or not issubclass(kind, Exception))

    @property
    def doc_all_parameters(self):
        """With the attributes that a constructor takes: they are documented once."""
        parameters = super().doc_all_parameters
        for name, value in self._doc_parameters(["Attributes"]).items():
            if name in self.signature_parameters:
                parameters.setdefault(name, value)
        return {
            name: (kind, text or (["Elsewhere."] if is_explained(name, kind) else []))
            for name, (kind, text) in parameters.items()
        }

    @property
    def returns(self):
        """With the summary for what a single value is."""
        found = super().returns
        if len(found) > 1:
            return found
        return [Parameter(name, kind, text or [self.summary]) for name, kind, text in found]


def findings(name):
    found = validate(name, Docstring)["errors"]
    return [f"{name}: {code} {text}" for code, text in found if code in CHECKS]


@pytest.mark.parametrize("module", MODULES)
def test_docstrings(module):
    found = [finding for name in documented(module) for finding in findings(name)]
    assert not found, "\n".join(found)


def wrong(x, rng, alpha, beta=1.0):
    """returns a number

    Returns
    -------
    sum : float

    Parameters
    ----------
    x : Finding
    rng : int
    beta : float
    gamma
        no such thing
    """
    return x + rng + alpha + beta


class WrongError(ValueError):
    """An error.

    Attributes
    ----------
    size : int
    """

    def __init__(self, message, size, other):
        super().__init__(message)

    def shout(self):
        return self.args[0].upper()


def codes(name):
    return {re.search(r": (\w+) ", finding)[1] for finding in findings(f"{__name__}.{name}")}


def test_wrong_docstrings_are_found():
    expected = "SS02 SS03 SS05 GL07 PR01 PR02 PR04 PR07 PR08 PR09 RT04 RT05"
    assert codes("wrong") == {*expected.split()}
    assert codes("WrongError") == {"PR01", "PR07"}
    assert codes("WrongError.shout") == {"GL08"}


def test_what_notation_explains_needs_no_words():
    text = "\n".join(findings(f"{__name__}.wrong"))
    assert '"beta" has no description' in text
    assert '"rng"' not in text
    assert '"x"' not in text
