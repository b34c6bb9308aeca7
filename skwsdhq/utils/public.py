"""Let public names say the package that gives them, not the private module that defines them."""

import sys
from types import FunctionType

__all__ = ["named_here"]

_TOLD: set[int] = set()  # ids of what has been sent to its home already, by a package below


def named_here(package: str) -> None:
    """Set ``__module__`` of the classes and functions that a package gives to its own name.

    Pickles, pages and error messages then speak of what users import, and modules behind it may
    be renamed. Called at the end of a package's ``__init__``.

    Parameters
    ----------
    package : str
        Its ``__name__``; it has an ``__all__``.
    """
    module = sys.modules[package]
    for name in module.__all__:
        value = getattr(module, name)
        if not isinstance(value, type | FunctionType) or value.__module__ == package:
            continue
        # doctest looks for the examples of a name in the module that it says it is from. This dict
        # sends it to the one that defines it, whose lines it can tell.
        if id(value) not in _TOLD:
            _TOLD.add(id(value))
            home = sys.modules[value.__module__]
            home.__dict__.setdefault("__test__", {}).setdefault(name, value)
        value.__module__ = package
