"""Warnings that point to the user's line, not to one of ours."""

import inspect
import warnings

__all__ = ["warn_caller"]

_PASSED_OVER = ("skwsdhq", "sklearn", "joblib", "contextlib", "threading", "concurrent")


def warn_caller(message: str | Warning, category: type[Warning] | None = None) -> None:
    """Warn, naming the line of the first caller that is outside of this package.

    Parameters
    ----------
    message : str or Warning
        What to say.
    category : class of Warning, default=None
        None is UserWarning, or the message's own.
    """
    # warnings' own skip_file_prefixes is of Python 3.12 on.
    frame, level = inspect.currentframe(), 0
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in _PASSED_OVER:
            break
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=max(1, level + 1))
