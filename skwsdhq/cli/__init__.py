"""The command line, ``skwsdhq`` or ``python -m skwsdhq``: collections from a shell."""

from ..utils.public import named_here
from ._app import app, main

__all__ = ["app", "main"]

named_here(__name__)
