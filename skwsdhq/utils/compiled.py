"""Functions that numba compiles, and the one place that knows whether it can."""

import importlib
import logging
from collections.abc import Callable
from typing import Any

__all__ = ["compiled", "inlined", "kernels"]

logger = logging.getLogger("skwsdhq.utils")
_LOADED: dict[str, Any] = {}  # None for what can't be compiled here


def compiled(function: Callable) -> Any:
    """Return a function as numba compiles it, beside which other threads run.

    What was compiled is kept on disk, beside the source or in the user's cache. Where neither can
    be written to, each process compiles anew. No option lets sums be reordered: rankings are equal
    to the last bit.
    """
    import numba

    try:
        dispatcher = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # there is no place to keep it
        return numba.njit(nogil=True, error_model="numpy")(function)
    _forgive(dispatcher)
    return dispatcher


def inlined(function: Callable) -> Any:
    """Return a function that numba puts into those that it compiles, in place of calls."""
    import numba

    return numba.njit(inline="always")(function)


def _forgive(dispatcher: Any) -> None:
    """Have a full disk or a damaged file of the cache mean that the function is compiled anew."""
    cache = getattr(dispatcher, "_cache", None)
    for name in ("load_overload", "save_overload"):
        method = getattr(cache, name, None)
        if method is None:  # another release of numba keeps it elsewhere
            continue

        def quietly(*args: Any, _method: Callable = method) -> Any:
            try:
                return _method(*args)
            except Exception as error:
                logger.info("numba's cache is of no use: %s", error)
                return None

        setattr(cache, name, quietly)


def kernels(module: str) -> Any:
    """Return a module of compiled functions; None where this installation can't compile.

    Parameters
    ----------
    module : str
        Its whole name. It is imported when it is first asked for, and with it numba, which takes a
        second. Its function ``try_out`` calls what it has.
    """
    # Without a lock, which a forked process might find held: Python imports a module once.
    if module not in _LOADED:
        try:
            loaded = importlib.import_module(module)
            loaded.try_out()
        except Exception as error:  # missing, or too old or new for this Python or numpy
            logger.info("numba compiles nothing here, and numpy does the work: %s", error)
            loaded = None
        _LOADED[module] = loaded
    return _LOADED[module]
