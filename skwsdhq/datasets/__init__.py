"""Small real data that comes with the package, loaders of sets on disk, and synthetic data."""

from ..utils.public import named_here
from ._emoji import load_emoji
from ._mirflickr import load_mirflickr25k
from ._nus_wide import load_nus_wide
from ._openclipart import load_openclipart
from ._synthetic import make_tagged_images
from ._tagged_folder import load_tagged_folder

__all__ = [
    "load_emoji",
    "load_mirflickr25k",
    "load_nus_wide",
    "load_openclipart",
    "load_tagged_folder",
    "make_tagged_images",
]

named_here(__name__)
