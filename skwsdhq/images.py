"""Images in every accepted form, as RGB pictures of one size."""

from ._images_kind import input_kind
from ._images_read import read_image
from ._images_resized import ResizedImages, prefetched, resized_batches, unreadable_images

__all__ = [
    "ResizedImages",
    "input_kind",
    "prefetched",
    "read_image",
    "resized_batches",
    "unreadable_images",
]
