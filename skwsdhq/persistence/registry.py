"""Tell which classes a file may hold, and what each of them says about it.

A class says so itself, by the decorator :func:`saved`, beside its definition: what a fitted one
has, how that is checked, what stays on the machine, and how a record of an older file becomes one
of today. The format asks here and knows no class.

Only the very class that was registered is known. A subclass inherits nothing of it: a file should
not be able to name a class that a user wrote, whose ``__init__`` may do anything.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = [
    "Saved",
    "as_text",
    "class_names",
    "looks_like_path",
    "saved",
    "saved_by_name",
    "saved_of",
]

Values = dict[str, Any]
Upgrade = Callable[[Values, Values], tuple[Values, Values]]
Class = TypeVar("Class", bound=type)

_FILE_SUFFIXES = (
    ".bin", ".csv", ".gz", ".kv", ".model", ".npy", ".npz", ".pkl", ".pickle", ".pt", ".pth",
    ".safetensors", ".txt", ".vec", ".w2v", ".wordvectors",
)  # fmt: skip


@dataclass(frozen=True)
class Saved:
    """Hold what a class says about its place in a file; :func:`saved` tells the fields."""

    own: type
    home: str  # the module that defines the class; its __module__ names the public package later
    required: frozenset[str]
    check: Callable[[Any], None] | None
    local: frozenset[str]
    names: Mapping[str, Callable[[Any], str | None]]
    upgrade: Mapping[int, Upgrade]


_KNOWN: dict[str, Saved] = {}


def saved(
    *,
    required: Iterable[str] = (),
    check: Callable[[Any], None] | None = None,
    local: Iterable[str] = (),
    names: Mapping[str, Callable[[Any], str | None]] | None = None,
    upgrade: Mapping[int, Upgrade] | None = None,
) -> Callable[[Class], Class]:
    """Register a class, by its name, as one that files may hold.

    The class is an estimator or a small object with ``get_params``. Its ``_parameter_constraints``
    check what a file says of its parameters.

    Parameters
    ----------
    required : iterable of str, default=()
        Attributes that each fitted object has. One without any attribute that ends in ``_`` is not
        fitted, and needs none.
    check : callable, default=None
        Takes a loaded, fitted object, and raises LoadError where its attributes do not fit
        together.
    local : iterable of str, default=()
        Parameters that mean something on this machine alone; they come back as None.
    names : mapping of str to callable, default=None
        Parameters and attributes that a file holds by name: a function takes the value and gives
        its name, or None to leave it out. It raises TypeError, with the way out, for a value
        without a name. In a file no such value is anything else than a text or null.
    upgrade : mapping of int to callable, default=None
        By the number of a format: a function of the parameters and the attributes of an object of
        that format (two dicts, which it leaves as they are) that gives those of the next format.
        What it gives is checked like what a file holds.

    Returns
    -------
    callable
        The decorator; it gives the class back as it is.

    Raises
    ------
    TypeError
        If the class does not check its parameters, has no parameter of such a name, or another
        class has its name.
    """
    # Frozen and copied: nobody changes what a class has said.
    given = frozenset(required), check, frozenset(local), dict(names or {}), dict(upgrade or {})

    def register(own: Class) -> Class:
        entry = Saved(own, own.__module__, *given)
        _check_entry(entry)
        _KNOWN[own.__name__] = entry
        return own

    return register


def _check_entry(entry: Saved) -> None:
    """Raise TypeError where a class can't be registered like that."""
    own = entry.own
    if not hasattr(own, "_parameter_constraints") or not hasattr(own, "get_params"):
        raise TypeError(
            f"{own.__name__} needs get_params and _parameter_constraints: parameters from a file "
            "are checked by these."
        )
    parameters = own._get_param_names()  # type: ignore[attr-defined]
    fields = {*entry.local, *(name for name in entry.names if not name.endswith("_"))}
    if unknown := fields - set(parameters):
        raise TypeError(f"{own.__name__} has no parameter {', '.join(sorted(unknown))}.")
    before = _KNOWN.get(own.__name__)
    # A module that is reloaded registers its classes again.
    if before is not None and before.home != entry.home:
        raise TypeError(f"{before.home} has a {own.__name__} that is saved; give another name.")


def saved_of(own: type) -> Saved | None:
    """Return what a class says; None where it is not registered, as no subclass is."""
    entry = _KNOWN.get(own.__name__)
    return entry if entry is not None and entry.own is own else None


def saved_by_name(name: Any) -> Saved | None:
    """Return what the class of that name says; None where there is none."""
    return _KNOWN.get(name) if isinstance(name, str) else None


def class_names() -> list[str]:
    """Return the names of the classes that files may hold."""
    return list(_KNOWN)


def as_text(value: Any) -> str | None:
    """Return a value's text, as of a device; None stays None."""
    return None if value is None else str(value)


def looks_like_path(text: str) -> bool:
    """Tell whether a parameter's text names a place on a machine rather than a model.

    Its letters say so: what files there are where a model is loaded should make no difference.
    """
    is_marked = text.startswith(("~", ".")) or any(c in text for c in "/\\\0@")
    return is_marked or os.path.splitext(text)[1].lower() in _FILE_SUFFIXES
