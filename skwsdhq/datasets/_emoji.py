"""Loader of the packaged emoji set."""

import json
from importlib import resources
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from ._tables import label_indicator

__all__ = ["load_emoji"]

_SIZE = 64  # pixels of a picture's side in the sheet


def load_emoji(*, return_X_y: bool = False) -> Any:
    """Load 1,911 emoji pictures with their keywords: real images with real tags.

    People wrote the keywords to find an emoji by; they name the thing, what it is like and
    what it stands for, some eleven a picture, 7,485 different ones. Unicode's two levels of
    order, 10 groups and 99 subgroups, serve as labels to evaluate by. Everything comes inside
    the package; nothing is downloaded.

    Parameters
    ----------
    return_X_y : bool, default=False
        Return ``(images, tags)`` instead of a Bunch.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        With the attributes

        images : ndarray of shape (1911, 64, 64, 3), uint8
            RGB on white.
        tags : list of 1911 lists of str
            Sorted, lower-case, without duplicates.
        names : list of 1911 str
            Short name of each emoji.
        target : ndarray of shape (1911, 10), int64
            0/1; the group of each picture.
        target_names : list of 10 str
            Names of the groups.
        subgroup : ndarray of shape (1911, 99), int64
            0/1; the subgroup of each picture.
        subgroup_names : list of 99 str
            Names of the subgroups.
        word_vectors : gensim.models.KeyedVectors
            The rows of GloVe 6B 50d for all words that the tags consist of.
        DESCR : str
            Sources, versions and licences.

    Examples
    --------
    >>> from skwsdhq.datasets import load_emoji
    >>> emoji = load_emoji()
    >>> emoji.images.shape, emoji.target.shape, emoji.subgroup.shape
    ((1911, 64, 64, 3), (1911, 10), (1911, 99))
    >>> emoji.names[0], emoji.tags[0][:5]
    ('grinning', [':d', 'cheerful', 'cheery', 'face', 'grin'])
    """
    # Both take long to import, and other models do without.
    from gensim.models import KeyedVectors
    from PIL import Image

    folder = resources.files(__package__) / "data"
    rows = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    with (folder / "emoji_images.webp").open("rb") as file, Image.open(file) as picture:
        sheet = np.asarray(picture.convert("RGB"))
    images = _cut_sheet(sheet, len(rows))
    tags = [row["tags"] for row in rows]
    if return_X_y:
        return images, tags
    target, target_names = label_indicator([[row["group"]] for row in rows])
    subgroup, subgroup_names = label_indicator([[row["subgroup"]] for row in rows])
    # gensim wants a path; within a zip archive there is none but for a while.
    with resources.as_file(folder / "emoji_words.bin") as path:
        word_vectors = KeyedVectors.load_word2vec_format(str(path), binary=True)
    return Bunch(
        images=images,
        tags=tags,
        names=[row["name"] for row in rows],
        target=target,
        target_names=target_names,
        subgroup=subgroup,
        subgroup_names=subgroup_names,
        word_vectors=word_vectors,
        DESCR=(folder / "emoji.rst").read_text(encoding="utf-8"),
    )


def _cut_sheet(sheet: np.ndarray, n_images: int) -> np.ndarray:
    """Cut a sheet (lines·64, columns·64, 3) into pictures (n, 64, 64, 3), row by row."""
    lines, columns = sheet.shape[0] // _SIZE, sheet.shape[1] // _SIZE
    tiles = sheet.reshape(lines, _SIZE, columns, _SIZE, 3).swapaxes(1, 2)
    # The last line of the sheet may be filled in part.
    return np.ascontiguousarray(tiles.reshape(-1, _SIZE, _SIZE, 3)[:n_images])
