"""Small real data that comes with the package, loaders of sets on disk, and synthetic data."""

from ..utils.public import named_here
from ._columns import stream_columns
from ._emoji import load_emoji
from ._mirflickr import load_mirflickr25k
from ._nus_wide import load_nus_wide
from ._openclipart import load_openclipart
from ._parquet import load_parquet, stream_parquet
from ._synthetic import make_tagged_images
from ._tagged_folder import load_tagged_folder
from ._webdataset import stream_webdataset

__all__ = [
    "load_emoji",
    "load_mirflickr25k",
    "load_nus_wide",
    "load_openclipart",
    "load_parquet",
    "load_tagged_folder",
    "make_tagged_images",
    "stream_columns",
    "stream_parquet",
    "stream_webdataset",
]

named_here(__name__)
