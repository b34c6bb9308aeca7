"""Reading one image: any file or array as an upright RGB picture of one size."""

import contextlib
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from .kind import how_to_pass

__all__ = [
    "blank",
    "check_file",
    "orientation_of",
    "picture_suffixes",
    "read_image",
    "resized",
    "thumbnail",
]

# Pillow is imported in the functions that use it: models of features do without, and
# `import skwsdhq` is to stay quick.

# Large JPEGs are decoded at a half, a quarter or an eighth as long as this many pixels are left
# for each of the result: what is left is resized, so that the difference can't be seen.
_REDUCING_GAP = 2
_LOADING = tuple(threading.Lock() for _ in range(64))  # for Pillow images, by their addresses


def read_image(source: Any, *, background: str | Sequence[int] = "white") -> Any:
    """Read one picture as a Pillow image in RGB, upright, on a colour where it is transparent.

    Of an animation it reads the first frame. It scales 16 bits to 8, and floats of 0 to 1 to 0 to
    255, turns CMYK and palettes into RGB, and rotates the picture as EXIF says.

    Parameters
    ----------
    source : str, PathLike, ndarray of uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or image
        A path, pixels, or a Pillow image.
    background : str or (red, green, blue), default="white"
        Colour behind what is transparent: a name or ``"#rrggbb"``, or three numbers from 0 to 255.

    Returns
    -------
    PIL.Image.Image
        Mode RGB.

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    OSError, ValueError
        If the file is no readable picture, no regular file, or has more pixels than Pillow takes
        for safe; if it holds other floats than 0 to 1, or whole numbers beyond 16 bits; or the
        array has another shape or dtype. The message names the file.

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.images import read_image
    >>> clear = np.zeros((2, 2, 4), dtype=np.uint8)
    >>> read_image(clear, background="red").getpixel((0, 0))
    (255, 0, 0)
    """
    return _read(source, rgb_of(background), None)


def resized(source: Any, size: int, background: tuple[int, int, int]) -> np.ndarray:
    """Return a picture (size, size, 3) uint8: its shorter side resized, then the middle cut out."""
    picture = _read(source, background, _REDUCING_GAP * size)
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    middle = np.array(picture.crop((left, top, left + side, top + side)))
    if side == size:
        return middle
    # Like Pillow's resize, but for one level in a hundredth of the values, in a quarter of its
    # time; it neither uses threads nor holds the interpreter's lock.
    pixels = torch.from_numpy(middle).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return small[0].permute(1, 2, 0).numpy()


def thumbnail(source: Any, side: int) -> Any:
    """Return a whole picture in small, as a Pillow image: its longer side is ``side`` at most."""
    picture = _read(source, rgb_of("white"), _REDUCING_GAP * side)
    # A copy: what was given as a Pillow image is its owner's, and stays as large as it is.
    picture = picture.copy()
    picture.thumbnail((side, side))
    return picture


def blank(size: int, background: tuple[int, int, int]) -> np.ndarray:
    """Return one colour, (size, size, 3) uint8: it stands for an image that can't be read."""
    return np.full((size, size, 3), background, dtype=np.uint8)


def rgb_of(background: str | Sequence[int]) -> tuple[int, int, int]:
    """Return red, green and blue, 0 to 255, of a colour's name or of three such numbers."""
    from PIL import ImageColor

    if isinstance(background, str):
        return ImageColor.getrgb(background)[:3]
    colour = tuple(int(value) for value in background)
    if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
        raise ValueError(
            f"background={background!r} should be the name of a colour or three numbers from 0 to "
            "255."
        )
    return colour


def _read(source: Any, background: tuple[int, int, int], wanted: int | None) -> Any:
    """Read an image; a JPEG of both sides above ``wanted`` pixels may come smaller."""
    from PIL import Image

    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        check_file(path)
        with _named(f"image {path!r}"), Image.open(path) as picture:
            if wanted is not None:
                picture.draft(None, (wanted, wanted))  # does nothing but to JPEGs
            picture.load()
            # Before the block closes the file: Pillow reads palettes and tags when asked.
            return _to_rgb(_upright(picture), background)
    if hasattr(source, "getbands"):
        file = getattr(source, "filename", "")
        with _named(f"image {file!r}" if file else f"the Pillow image of mode {source.mode}"):
            with _LOADING[id(source) // 64 % len(_LOADING)]:  # what is open is read by one thread
                source.load()
            return _to_rgb(_upright(source), background)
    pixels = np.asarray(source)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not shaped or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(
            f"an image should be uint8 of shape (H, W), (H, W, 3) or (H, W, 4), with at least one "
            f"pixel; got {pixels.dtype} of shape {pixels.shape}."
            + (how_to_pass(pixels.dtype, pixels.shape, listed=True) if pixels.size else "")
        )
    return _to_rgb(Image.fromarray(np.ascontiguousarray(pixels)), background)


def check_file(path: str) -> os.stat_result:
    """Return the status of a regular file; to open a pipe or a device may take for ever.

    Raises
    ------
    FileNotFoundError, OSError
        If nothing or something else is there; the message names it.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"image {path!r} does not exist.") from None
    except (OSError, ValueError) as error:
        raise OSError(f"image {path!r} can't be opened: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise OSError(f"image {path!r} is no regular file but {kind}.")
    return status


def picture_suffixes() -> tuple[str, ...]:
    """Return the ends of names of files that `read_image` can read, in lower case.

    Formats for which Pillow needs a program or a handler that is not there do not count.
    """
    from PIL import EpsImagePlugin, Image, features

    known = Image.registered_extensions()  # of all of Pillow's plugins, and of others' by now
    # Pillow knows these by name and does not decode them, or only by somebody else's handler.
    left_out = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
    left_out |= set() if EpsImagePlugin.has_ghostscript() else {"EPS"}
    left_out |= set() if features.check("jpg_2000") else {"JPEG2000"}
    kinds = Image.OPEN.keys() - left_out
    return tuple(sorted(suffix for suffix, kind in known.items() if kind in kinds))


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises while it decodes into an OSError that names the picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise OSError(
            f"{name} has more pixels than Pillow takes for safe: {error} Where the file is "
            "trusted, raise PIL.Image.MAX_IMAGE_PIXELS."
        ) from error
    except UnidentifiedImageError as error:
        raise OSError(f"{name} is of no format that Pillow can read.") from error
    except MemoryError:  # says nothing of the picture
        raise
    # What Pillow's decoders raise on damaged files is not one kind of error.
    except Exception as error:
        raise OSError(f"{name} can't be decoded: {error}") from error


def orientation_of(picture: Any) -> int:
    """Return how a camera was held, 1 to 8, by EXIF; 1 where that says nothing readable."""
    from PIL import ExifTags

    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged, in one of many ways; the picture itself may be whole
        return 1
    return value if value in range(1, 9) else 1


def _upright(picture: Any) -> Any:
    """Turn a picture as EXIF says; return itself where there is nothing to turn."""
    from PIL import Image

    # As Pillow's exif_transpose, which would copy an upright picture and read EXIF once more.
    how = Image.Transpose
    methods = [
        how.FLIP_LEFT_RIGHT,
        how.ROTATE_180,
        how.FLIP_TOP_BOTTOM,
        how.TRANSPOSE,
        how.ROTATE_270,
        how.TRANSVERSE,
        how.ROTATE_90,
    ]
    # EXIF counts from 1, which is upright; the list above begins at 2.
    orientation = orientation_of(picture)
    if orientation == 1:
        return picture
    turned = picture.transpose(methods[orientation - 2])
    turned.info = dict(picture.info)  # transparency, for one
    return turned


def _to_rgb(picture: Any, background: tuple[int, int, int]) -> Any:
    from PIL import Image

    if not all(picture.size):
        raise ValueError(f"it has no pixels: its size is {picture.size[0]} x {picture.size[1]}.")
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = _to_grey(picture)
    if picture.mode in ("La", "RGBa"):  # Pillow has no direct way from these
        picture = picture.convert(picture.mode.upper())
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        behind = Image.new("RGB", picture.size, background)
        behind.paste(picture, mask=picture.getchannel("A"))
        return behind
    if picture.mode == "RGB":
        return picture
    return picture.convert("RGB")


def _to_grey(picture: Any) -> Any:
    """Return grey of 8 bits, with what is transparent, of numbers of more bits.

    Pillow would clip them.
    """
    from PIL import Image

    values = np.asarray(picture)
    low, high = values.min(), values.max()
    if picture.mode == "F":
        if not (low >= 0 and high <= 1):  # nor where there is a NaN
            raise ValueError(
                f"it holds floats from {low:g} to {high:g}, of which only 0 ... 1 are known to be "
                "black ... white; convert it to uint8 first."
            )
        levels = np.round(values * np.float32(255))
    else:
        if low < 0 or high > 65535:
            raise ValueError(
                f"it holds whole numbers from {low} to {high}, of which only 0 ... 255 and "
                "0 ... 65535 are known to be black ... white; convert it to uint8 first."
            )
        # 32 bits hold 8 or 16.
        levels = values if picture.mode == "I" and high <= 255 else values // 257
    # A transparent level is one of the file's own numbers, so it is looked for among these.
    grey = Image.fromarray(levels.astype(np.uint8))
    clear = picture.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey
