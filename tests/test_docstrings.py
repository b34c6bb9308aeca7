"""The docstring of every public name, by numpydoc's validation.

Which checks count, and why not all do, stands in pyproject.toml.
"""

import ast
import importlib
import inspect
import pkgutil
import tomllib
from pathlib import Path

import measure_house as house
import pytest
from numpydoc.validate import validate

import skwsdhq

ROOT = Path(__file__).resolve().parents[1]
CHECKS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["numpydoc_validation"][
    "checks"
]
# Packages whose names are still to be mended. This set shrinks to nothing.
TO_BE_MENDED: set[str] = set()


def public_packages():
    names = [module.name for module in pkgutil.iter_modules(skwsdhq.__path__)]
    found = [skwsdhq, *(importlib.import_module(f"skwsdhq.{n}") for n in names if n[0] != "_")]
    return [package for package in found if hasattr(package, "__all__")]


def defining_packages():
    """Return the package that defines each class and function, as "search", by its name.

    The source tells: ``__module__`` names the package that users import a thing from.
    """
    return {
        node.name: module.package
        for module in house.modules().values()
        for node in module.tree.body
        if isinstance(node, (ast.ClassDef, *house.FUNCTIONS)) and not house.is_private(node.name)
    }


def methods(thing):
    """Yield the public methods and properties that one of our classes defines itself."""
    own = [base for base in thing.__mro__ if base.__module__.startswith("skwsdhq")]
    for name in sorted({name for base in own for name in vars(base) if name[0] != "_"}):
        member = inspect.getattr_static(thing, name)
        if isinstance(member, property | classmethod | staticmethod) or inspect.isfunction(member):
            yield name


def public_names():
    found, homes = {}, defining_packages()
    for package in public_packages():
        for name in package.__all__:
            thing = getattr(package, name)
            if not (inspect.isclass(thing) or inspect.isroutine(thing)):
                continue
            if homes[thing.__name__] in TO_BE_MENDED or getattr(thing, "_is_protocol", False):
                continue  # a protocol has no parameters, but typing gives it a signature
            full = f"{package.__name__}.{name}"
            found.setdefault(id(thing), [full, thing])
    for full, thing in found.values():
        yield full
        if inspect.isclass(thing):
            yield from (f"{full}.{name}" for name in methods(thing))


PACKAGES = {package.__name__ for package in public_packages()}
# The command line is told of by its own --help; methods are in the examples of their classes.
METHODS = {n for n in public_names() if n.rpartition(".")[0] not in PACKAGES} | {"skwsdhq.cli.main"}


@pytest.mark.parametrize("name", sorted(public_names()))
def test_docstring(name):
    errors = [f"{code}: {message}" for code, message in validate(name)["errors"] if code in CHECKS]
    assert not errors


@pytest.mark.parametrize("name", sorted(n for n in public_names() if n not in METHODS))
def test_example(name):
    """Every public class and function has an example, which the doctests run."""
    codes = {code for code, _ in validate(name)["errors"]}
    assert "EX01" not in codes


def test_wrong_docstrings_are_found():
    """A name without a docstring, which no check may pass over."""
    codes = {code for code, _ in validate("test_docstrings.public_packages")["errors"]}
    assert "GL08" in codes


def test_enough_names_are_looked_at():
    assert len(list(public_names())) > 80
