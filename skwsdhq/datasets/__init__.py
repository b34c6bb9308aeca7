"""Small real data that comes with the package, and synthetic data."""

from ._emoji import load_emoji
from ._synthetic import make_tagged_images

__all__ = ["load_emoji", "make_tagged_images"]
