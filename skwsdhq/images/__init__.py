"""Images in every accepted form, as RGB pictures of one size."""

from ..utils.public import named_here
from .kind import input_kind
from .reading import read_image
from .resized import ResizedImages, prefetched, resized_batches, unreadable_images

__all__ = [
    "ResizedImages",
    "input_kind",
    "prefetched",
    "read_image",
    "resized_batches",
    "unreadable_images",
]

named_here(__name__)
