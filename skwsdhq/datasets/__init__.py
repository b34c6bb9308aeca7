"""Small real data that comes with the package, loaders of sets on disk, and synthetic data."""

from ._emoji import load_emoji
from ._openclipart import load_openclipart
from ._synthetic import make_tagged_images

__all__ = ["load_emoji", "load_openclipart", "make_tagged_images"]
