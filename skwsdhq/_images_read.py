"""Reading one image: any file or array as an upright RGB picture of one size."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["blank", "read_image", "resized"]

# Large JPEGs are decoded at a half, a quarter or an eighth as long as this many pixels are left
# for each of the result: what is left is resized, so that the difference can't be seen.
_REDUCING_GAP = 2


def read_image(source: Any, *, background: str | Sequence[int] = "white") -> Any:
    """One picture as a Pillow image in RGB, upright, on a colour where it is transparent.

    Of an animation it is the first frame. 16 bits are scaled to 8, CMYK and palettes become RGB,
    and what EXIF says of a camera's rotation is done.

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
        If the file is no readable picture or has more pixels than Pillow takes for safe, or the
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
    """(size, size, 3) uint8: the shorter side resized to ``size``, then the middle cut out."""
    import torch

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


def blank(size: int, background: tuple[int, int, int]) -> np.ndarray:
    """(size, size, 3) uint8 of one colour, which stands for an image that can't be read."""
    return np.full((size, size, 3), background, dtype=np.uint8)


def rgb_of(background: str | Sequence[int]) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a colour's name or of three such numbers."""
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
    """As `read_image`; a JPEG of both sides above ``wanted`` pixels may come smaller."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        if not os.path.exists(path):
            raise FileNotFoundError(f"image {path!r} does not exist.")
        try:
            with Image.open(path) as picture:
                if wanted is not None:
                    picture.draft(None, (wanted, wanted))  # does nothing but to JPEGs
                return _to_rgb(_upright(picture), background)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise OSError(
                f"image {path!r} has more pixels than Pillow takes for safe: {error} Where the "
                "file is trusted, raise PIL.Image.MAX_IMAGE_PIXELS."
            ) from error
        except UnidentifiedImageError as error:
            raise OSError(f"image {path!r} is of no format that Pillow can read.") from error
        # What Pillow's decoders raise on damaged files is not one kind of error.
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
            raise OSError(f"image {path!r} can't be decoded: {error}") from error
    if hasattr(source, "getbands"):
        return _to_rgb(source, background)
    pixels = np.asarray(source)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not shaped or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(
            f"an image should be uint8 of shape (H, W), (H, W, 3) or (H, W, 4); got "
            f"{pixels.dtype} of shape {pixels.shape}."
        )
    return _to_rgb(Image.fromarray(pixels), background)


def _upright(picture: Any) -> Any:
    """The picture turned as EXIF says; itself where there is nothing to turn."""
    from PIL import ExifTags, ImageOps

    picture.load()
    # Pillow would copy an upright picture, which costs a tenth of the decoding.
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(picture) if turned else picture


def _to_rgb(picture: Any, background: tuple[int, int, int]) -> Any:
    from PIL import Image

    if picture.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        # Pillow clips 16 bits at 255 where it should scale them.
        values = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray((np.clip(values, 0, 65535) // 257).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        behind = Image.new("RGB", picture.size, background)
        behind.paste(picture, mask=picture.getchannel("A"))
        return behind
    if picture.mode == "RGB":
        return picture
    return picture.convert("RGB")
