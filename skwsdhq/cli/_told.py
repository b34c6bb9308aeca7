"""What goes wrong in a command, told in a line, and how a shell sees it."""

import functools
import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import typer

__all__ = ["INTERRUPTED", "put", "put_json", "say", "told"]

INTERRUPTED = 130  # how shells count a Ctrl-C
# What users can do something about; an ImportError says what to install.
_OF_USERS = (OSError, ValueError, TypeError, KeyError, FloatingPointError, ImportError)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def told(command: _Function) -> _Function:
    """Have a command end with 1 and a line on stderr where it fails, in place of a traceback.

    Faults of ours, as an IndexError is, keep their traceback, which a report should hold.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            # The caller's way of showing warnings comes back, as where tests run commands.
            with warnings.catch_warnings():
                warnings.showwarning = _warned
                return command(*args, **kwargs)
        except BrokenPipeError:
            # `| head` has read what it wants. Python would complain of it once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            say("interrupted; the same command goes on from here")
            raise typer.Exit(INTERRUPTED) from None
        except _OF_USERS as error:
            # A KeyError's own text is a repr.
            message = error.args[0] if isinstance(error, KeyError) and error.args else error
            say(f"error: {message}")
            raise typer.Exit(1) from None

    return run  # type: ignore[return-value]


def say(message: Any) -> None:
    """Write a message to stderr, in one line."""
    typer.echo(" ".join(str(message).split()), err=True)


def _warned(message: Any, *args: Any, **kwargs: Any) -> None:
    say(f"warning: {message}")


def put(text: str) -> None:
    """Write a line to stdout; what its encoding lacks is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    # Names of files may hold bytes that are no text, and old terminals few letters.
    typer.echo(text.encode(encoding, "backslashreplace").decode(encoding))


def put_json(value: Any) -> None:
    """Write a value to stdout as one line of JSON."""
    put(json.dumps(value, ensure_ascii=False))
