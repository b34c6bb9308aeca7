"""Pictures in small, as data URIs that a page holds itself."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import joblib
import numpy as np

from ..images.reading import thumbnail

__all__ = ["data_uris"]

_SIDES = (128, 112, 96, 80, 64, 48, 32)  # pixels; the largest that fits
_BUDGET = 7_000_000  # characters of all pictures, so that two thousand leave a page below 15 MB
_LEAST = 1200  # characters that each of very many pictures may take all the same
_SAMPLE = 48  # pictures by which the size is chosen
_QUALITY = 70


def data_uris(images: Sequence[Any], n_jobs: int | None = None) -> list[str]:
    """Return a data URI of each picture, "" where there is none or it can't be read.

    Every picture is decoded and written anew: nothing else that a file holds gets into a page.

    Parameters
    ----------
    images : sequence of paths, arrays or Pillow images
        Or None.
    n_jobs : int, default=None
        Threads that read them.

    Returns
    -------
    list of str
    """
    n = len(images)
    some = [
        images[i] for i in np.unique(np.linspace(0, max(n - 1, 0), min(n, _SAMPLE)).astype(int))
    ]
    most = max(_BUDGET / max(n, 1), _LEAST)
    for side in _SIDES:
        lengths = [len(uri) for uri in _written(some, side, n_jobs) if uri]
        if not lengths or np.mean(lengths) <= most:
            break
    return _written(images, side, n_jobs)


def _written(images: Sequence[Any], side: int, n_jobs: int | None) -> list[str]:
    """Return data URIs of pictures of that size at most."""
    work = joblib.Parallel(n_jobs=n_jobs, prefer="threads")
    return list(work(joblib.delayed(_data_uri)(images[i], side) for i in range(len(images))))


def _data_uri(image: Any, side: int) -> str:
    if image is None:
        return ""
    try:
        picture = thumbnail(image, side)
    except OSError:  # moved away, perhaps, since it came into a collection
        return ""
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=_QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
