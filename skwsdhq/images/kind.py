"""Which form of input X is, and what to pass in place of what is none."""

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

__all__ = ["how_to_pass", "input_kind"]

_FORMS = (
    "pass a list of paths, a list of uint8 arrays or Pillow images, an array (n, H, W, 3) of "
    "uint8, or a feature matrix (n, d)"
)


def input_kind(X: Any) -> str:
    """Tell which form of input X is.

    Parameters
    ----------
    X : array-like, sequence
        Feature matrix (n, d); uint8 pictures (n, H, W, 3), or any lazy object of that ``shape``
        that slices as an array; a sequence of pictures of unequal sizes; a sequence of paths.
        Whatever else holds no image counts as features, which the caller validates.

    Returns
    -------
    str
        ``"features"``, ``"array"``, ``"arrays"`` or ``"paths"``.

    Raises
    ------
    TypeError
        If X is one image in place of a list, a table, mapping or iterator, or its first row is no
        image but holds one. The message says what to pass.
    ValueError
        If an array is one of pictures, but not uint8 in RGB.

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.images import input_kind
    >>> input_kind(["cat.jpg", "dog.png"]), input_kind(np.zeros((2, 5)))
    ('paths', 'features')
    """
    _refuse_what_is_no_sequence(X)
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) in (3, 4):
        dtype = getattr(X, "dtype", np.dtype(np.uint8))
        if len(shape) == 4 and shape[3] == 3 and dtype == np.uint8:
            return "array"
        raise ValueError(
            f"an array of images should be uint8 of shape (n, H, W, 3); got {dtype} of shape "
            f"{tuple(shape)}.{how_to_pass(dtype, tuple(shape))}"
        )
    if shape is not None and len(shape) == 2:
        _refuse_table(X)
        return "features"
    if (shape is not None and len(shape) != 1) or not hasattr(X, "__len__") or not len(X):
        return "features"
    # One row decides: a list of mixed forms fails where its first other row is read, and by name.
    first = X.iloc[0] if hasattr(X, "iloc") else X[0]
    if _is_path(first):
        return "paths"
    if _is_picture(first):
        return "arrays"
    _refuse_row(first)
    return "features"


def how_to_pass(dtype: Any, shape: tuple[int, ...], listed: bool = False) -> str:
    """Say how to convert an array of one picture or of several, as the end of a message.

    ``listed``: one picture stands in a list already.
    """
    several = len(shape) == 4
    # torch keeps channels in front: (3, H, W) can be told where only the first axis is that short.
    first_axis = len(shape) > 2 and shape[-3] in (1, 3, 4) and shape[-1] not in (1, 3, 4)
    kind = str(dtype).rpartition(".")[2]
    steps = [".numpy()"] if type(dtype).__module__.startswith("torch") else []
    steps += [f".transpose({'0, 2, 3, 1' if several else '1, 2, 0'})"] if first_axis else []
    steps += [".astype(np.uint8)"] if kind != "uint8" else []
    text = f" Convert by {''.join(steps)}" if steps else ""
    text += ", floats of 0 ... 1 times 255 before" if kind.startswith(("float", "bfloat")) else ""
    text += "." if text else ""
    if several and shape[-1] in (1, 4):
        text += " Pass list(X): single pictures may be grey or transparent."
    if len(shape) == 3 and not listed:
        text += " One image goes into a list: [image]."
        text += "" if first_axis or shape[-1] in (3, 4) else " n grey ones are list(X)."
    return text


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _is_pillow(value: Any) -> bool:
    # By a method of Pillow's images, so that asking does not import Pillow.
    return callable(getattr(value, "getbands", None))


def _is_picture(value: Any) -> bool:
    # A row of features has one dimension, a picture two (grey) or three.
    shaped = getattr(value, "ndim", 0) in (2, 3) and getattr(value, "dtype", None) == np.uint8
    return _is_pillow(value) or shaped


def _refuse_what_is_no_sequence(X: Any) -> None:
    if _is_path(X):
        path = os.fspath(X)
        if os.path.isdir(path):
            raise TypeError(
                f"X is the folder {path!r}; pass a list of the paths in it, as "
                "datasets.load_tagged_folder gives it in its attribute images."
            )
        raise TypeError(f"X is one string or path, {path!r}; a single image goes into a list: [X].")
    if _is_pillow(X):
        raise TypeError("X is one Pillow image; a single image goes into a list: [X].")
    if isinstance(X, (bytes, bytearray, memoryview)):
        raise TypeError(f"X is {type(X).__name__}; {_of_bytes('[image]')}")
    if callable(getattr(X, "read", None)):
        raise TypeError("X is an open file; pass [PIL.Image.open(X)], or its path in a list.")
    if isinstance(X, Mapping) and not hasattr(X, "shape"):  # as a sparse matrix by keys has
        known = "X['images']" if "images" in X else "list(X.values()), or what holds the images"
        raise TypeError(f"X is a {type(X).__name__}; pass {known}.")
    if isinstance(X, Set):
        raise TypeError("X is a set, whose order is by chance; pass sorted(X).")
    is_iterable = hasattr(X, "__iter__") and not (hasattr(X, "__array__") or hasattr(X, "shape"))
    if isinstance(X, Iterator) or (is_iterable and not hasattr(X, "__getitem__")):
        raise TypeError(f"X is a {type(X).__name__}, whose rows have no numbers; pass list(X).")
    if X is None:
        raise TypeError(f"X is None; {_FORMS}.")


def _refuse_table(X: Any) -> None:
    """Refuse a data frame or an array (n, columns) in which a column holds images."""
    if not X.shape[0]:
        return
    if hasattr(X, "iloc"):
        # Objects and strings of all kinds; columns of numbers hold no paths.
        places = [k for k, dtype in enumerate(X.dtypes) if getattr(dtype, "kind", "O") in "OSUT"]
        cells = {f"X[{X.columns[k]!r}]": X.iloc[0, k] for k in places}
    elif hasattr(X, "columns") and hasattr(X, "row"):  # of polars
        cells = {f"X[{name!r}]": X[name][0] for name in X.columns}
    elif isinstance(X, np.ndarray) and X.dtype.kind in "OSUT":
        cells = {f"X[:, {k}]": cell for k, cell in enumerate(X[0])}
    elif hasattr(X, "column_names"):  # a dataset of Hugging Face's
        return _refuse_row(X[0])
    else:
        return
    for column, cell in cells.items():
        if _holds_image(cell):
            raise TypeError(f"X is a table, of which {column} looks like images; pass that column.")


def _refuse_row(first: Any) -> None:
    """Refuse a sequence whose first row holds an image, or is one in a form that is not read."""
    if isinstance(first, (bytes, bytearray, memoryview)):
        raise TypeError(f"row 0 is {type(first).__name__}; {_of_bytes('a list of images')}")
    if callable(getattr(first, "read", None)):
        raise TypeError("row 0 is an open file; pass paths, or [PIL.Image.open(f) for f in X].")
    if isinstance(first, Mapping):
        names = [name for name, value in first.items() if _holds_image(value)]
        key = repr(names[0]) if names else "'image'"
        raise TypeError(
            f"the rows of X are {type(first).__name__}s; pass what holds the images, as "
            f"[row[{key}] for row in X]."
        )
    if first is None or type(first).__name__ == "NAType" or _is_nan(first):
        raise TypeError(f"row 0 is {first!r}: no image. Leave such rows out, with their tags.")
    if isinstance(first, Sequence) and len(first) and _holds_image(first[0]):
        raise TypeError(
            f"the rows of X are {type(first).__name__}s that begin with an image; pass "
            "[row[0] for row in X]."
        )
    shape = getattr(first, "shape", ())
    if len(shape) in (2, 3) and hasattr(first, "dtype"):
        raise ValueError(
            f"images should be uint8 of shape (H, W), (H, W, 3) or (H, W, 4); row 0 is "
            f"{first.dtype} of shape {tuple(shape)}."
            f"{how_to_pass(first.dtype, tuple(shape), listed=True)}"
        )


def _holds_image(value: Any) -> bool:
    """Tell whether a cell is a picture, or a path: text that is no number."""
    if not isinstance(value, str):
        return _is_path(value) or _is_picture(value) or isinstance(value, bytes)
    # Features may come as text, as from a CSV file: "0.5" is no path.
    try:
        float(value)
    except ValueError:
        return True
    return False


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value  # how pandas says that nothing is there


def _of_bytes(form: str) -> str:
    return (
        f"pass {form} made by PIL.Image.open(io.BytesIO(content)), or paths; a path of bytes by "
        "os.fsdecode."
    )
