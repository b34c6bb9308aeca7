"""Images in every accepted form, as RGB pictures of one size."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

__all__ = ["input_kind", "read_image", "resized_batches"]


def input_kind(X: Any) -> str:
    """Which form of input X is: ``"features"``, ``"array"``, ``"arrays"`` or ``"paths"``.

    Parameters
    ----------
    X : array-like, sequence
        Feature matrix (n, d); uint8 pictures (n, H, W, 3), or any lazy object of that ``shape``
        that slices as an array; a sequence of pictures of unequal sizes; a sequence of paths.
        What is none of the last three counts as features, to be validated as such.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If a 4-D array is not uint8 RGB, or if images and paths are mixed.
    """
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) == 4:
        dtype = getattr(X, "dtype", np.dtype(np.uint8))
        if shape[3] != 3 or dtype != np.uint8:
            raise ValueError(
                f"an array of images should be uint8 of shape (n, H, W, 3); got {dtype} of shape "
                f"{tuple(shape)}."
            )
        return "array"
    if shape is not None and len(shape) != 1:
        return "features"
    if isinstance(X, (str, bytes, os.PathLike)) or not hasattr(X, "__len__") or not len(X):
        return "features"
    first = X.iloc[0] if hasattr(X, "iloc") else X[0]
    if isinstance(first, (str, os.PathLike)):
        return "paths"
    if _is_picture(first):
        return "arrays"
    return "features"


def _is_picture(value: Any) -> bool:
    if hasattr(value, "getbands"):  # a Pillow image
        return True
    # A row of features has one dimension, a picture two (grey) or three.
    return getattr(value, "ndim", 0) in (2, 3) and getattr(value, "dtype", None) == np.uint8


def read_image(source: Any) -> Any:
    """One picture as a Pillow image in RGB, upright, on white where it is transparent.

    Parameters
    ----------
    source : str, PathLike, ndarray of uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or image
        A path, pixels, or a Pillow image.

    Returns
    -------
    PIL.Image.Image
        Mode RGB.

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    OSError, ValueError
        If the file is no readable picture, or the array has another shape or dtype. The message
        names the file.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        if not os.path.exists(path):
            raise FileNotFoundError(f"image {path!r} does not exist.")
        try:
            with Image.open(path) as picture:
                return _to_rgb(ImageOps.exif_transpose(picture))
        except (UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise OSError(f"image {path!r} can't be read: {error}") from error
        except (OSError, SyntaxError, ValueError) as error:
            raise OSError(f"image {path!r} can't be decoded: {error}") from error
    if hasattr(source, "getbands"):
        return _to_rgb(source)
    pixels = np.asarray(source)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not shaped or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(
            f"an image should be uint8 of shape (H, W), (H, W, 3) or (H, W, 4); got "
            f"{pixels.dtype} of shape {pixels.shape}."
        )
    return _to_rgb(Image.fromarray(pixels))


def _to_rgb(picture: Any) -> Any:
    from PIL import Image

    if picture.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        # Pillow clips 16 bits at 255 where it should scale them.
        values = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray((np.clip(values, 0, 65535) // 257).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGB", picture.size, "white")
        white.paste(picture, mask=picture.getchannel("A"))
        return white
    return picture.convert("RGB")


def _resized(source: Any, size: int) -> np.ndarray:
    """(size, size, 3) uint8: the shorter side resized to ``size``, then the middle cut out."""
    from PIL import Image

    picture = read_image(source)
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    picture = picture.resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    return np.asarray(picture)


def resized_batches(
    images: Sequence | Any, size: int, *, batch_size: int = 64, n_jobs: int | None = None
) -> Iterator[np.ndarray]:
    """Batches of pictures of one size, read as they are needed.

    Parameters
    ----------
    images : array of shape (n, H, W, 3), sequence of n pictures or paths
        See :func:`input_kind`.
    size : int
        Pixels of a side. The shorter side is resized to it (bicubic), the middle cut out.
    batch_size : int, default=64
        Pictures of a batch; no more than one batch is held at once.
    n_jobs : int, default=None
        Threads that read and resize; None is 1, -1 all cores.

    Yields
    ------
    ndarray of shape (b, size, size, 3), uint8
        With b = ``batch_size`` but for the last.
    """
    from joblib import Parallel, delayed

    n_images = len(images)
    rows = images.iloc if hasattr(images, "iloc") else images
    with Parallel(n_jobs=n_jobs, prefer="threads") as parallel:
        for start in range(0, n_images, batch_size):
            stop = min(start + batch_size, n_images)
            yield np.stack(parallel(delayed(_resized)(rows[i], size) for i in range(start, stop)))
