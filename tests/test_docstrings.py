"""Public docstrings are numpydoc as this code base writes it; pyproject.toml says which checks."""

import enum
import importlib
import inspect
import pkgutil
import re
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from numpydoc.docscrape import Parameter, get_doc_object
from numpydoc.validate import Validator, get_validation_checks, validate

import liftflow
import liftflow.typing
from liftflow.typing import Theta

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


TYPES = {name for name in vars(liftflow.typing) if name[0].isupper()}


class Docstring(Validator):
    """Numpydoc's view of a docstring, with what need not be said filled in."""

    def __init__(self, obj_name):
        super().__init__(get_doc_object(self._load_obj(obj_name)))
        if not self.raw_doc and inspect.getdoc(self.obj):  # an override inherits it
            self.raw_doc = inspect.getdoc(self.obj) + "\n"

    @property
    def signature_parameters(self):
        """Those that the docstring has a word for: the types of the others say all there is."""
        said = self.doc_all_parameters
        return tuple(name for name in super().signature_parameters if name in said)

    @property
    def doc_all_parameters(self):
        """With the attributes that a constructor takes: they are documented once."""
        parameters = super().doc_all_parameters
        names = super().signature_parameters
        for name, value in self._doc_parameters(["Attributes"]).items():
            if name in names:
                parameters.setdefault(name, value)
        return {
            name: (kind, text or (["So shaped."] if "shape=" in kind else []))
            for name, (kind, text) in parameters.items()
        }

    @property
    def returns(self):
        """With the summary for what a single value of an unusual shape is, and several by name."""
        found = super().returns
        fill = len(found) > 1
        return [
            Parameter(name, kind, text or (["So."] if fill or "shape=" in kind else []))
            for name, kind, text in found
        ]


def hints(thing):
    """Yield the arguments of a function or class, and whether their types say nothing."""
    for name, parameter in inspect.signature(thing).parameters.items():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            yield name, parameter.annotation in (parameter.empty, Any, Any | None)


def untold(name):
    """List the arguments of which neither the type nor a word tells what they are."""
    docstring = Docstring(name)
    thing = inspect.unwrap(getattr(docstring.obj, "func", docstring.obj))
    if not callable(thing) or (
        isinstance(thing, type) and issubclass(thing, enum.Enum | Exception)
    ):
        return []
    told = {part.strip() for key in docstring.doc_all_parameters for part in key.split(",")}
    told |= {"self", "cls"}
    return [f"{name}: {key}" for key, bare in hints(thing) if bare and key not in told]


def findings(name):
    found = validate(name, Docstring)["errors"]
    return [f"{name}: {code} {text}" for code, text in found if code in CHECKS]


@pytest.mark.parametrize("module", MODULES)
def test_docstrings(module):
    names = documented(module)
    found = [finding for name in names for finding in findings(name)]
    found += [argument for name in names for argument in untold(name)]
    assert not found, "\n".join(found)


def wrong(x, rng: Any, alpha: float, theta: Theta, beta: float = 1.0):
    """returns a number

    Returns
    -------
    sum : float

    Parameters
    ----------
    beta : float
    gamma
        no such thing
    """
    return x + rng + alpha + beta + theta


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
    expected = "SS02 SS03 SS05 GL07 PR02 PR04 PR07 PR08 PR09 RT03"
    assert codes("wrong") == {*expected.split()}
    assert codes("WrongError") == {"PR07"}
    assert codes("WrongError.shout") == {"GL08"}


def test_what_types_say_needs_no_words():
    assert untold(f"{__name__}.wrong") == [f"{__name__}.wrong: x", f"{__name__}.wrong: rng"]


def test_an_override_inherits_its_docstring():
    name = "liftflow.architectures.maps.ProductMap.jvp"
    assert Validator._load_obj(name).__doc__ is None
    assert not [finding for finding in findings(name) if "GL08" in finding]
