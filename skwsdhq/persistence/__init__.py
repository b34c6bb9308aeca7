"""Save fitted estimators to safetensors files, and load them without running anything from them.

A file holds arrays by name and a JSON text with parameters and attributes. Loading checks it
against itself before it is believed: length, checksum, format, dtypes, shapes, and that codes,
layers, vectors and concepts fit together. What fails is a :class:`LoadError`.
"""

from ..utils.public import named_here
from ._save import PersistenceMixin, load, save
from .file import FORMAT, LoadError

__all__ = [
    "FORMAT",
    "LoadError",
    "PersistenceMixin",
    "load",
    "save",
]

named_here(__name__)
