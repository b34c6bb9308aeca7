"""Loader of MIRFLICKR-25000 as its makers distribute it."""

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from ._tables import check_whole, first_folder, read_lines, split_rows

__all__ = ["load_mirflickr25k"]

_N_IMAGES = 25_000
# Without and with those of images to which the concept is relevant.
_N_CONCEPTS = {"potential": 24, "all": 38}


def load_mirflickr25k(  # noqa: PLR0913 - options of a call, all but one by name
    data_home: str | os.PathLike,
    *,
    labels: str = "potential",
    raw_tags: bool = False,
    min_count: int = 20,
    n_query: int = 2000,
    n_train: int | None = 5000,
    random_state: Any = 0,
    strict: bool = True,
    return_X_y: bool = False,
) -> Any:
    """Load MIRFLICKR-25000: photographs, their Flickr tags, and annotated concepts.

    Parameters
    ----------
    data_home : str or PathLike
        Folder with the unpacked ``mirflickr25k.zip`` (``mirflickr/im1.jpg`` …,
        ``mirflickr/meta/tags/tags1.txt`` …) and ``mirflickr25k_annotations_v080.zip``, whose
        files (``animals.txt``, ``baby_r1.txt`` …) lie in a folder
        ``mirflickr25k_annotations_v080``, ``annotations`` or ``annotations_v080``, beside the
        images' folder or in it.
    labels : {"potential", "all"}, default="potential"
        The 24 concepts that are potentially seen, or also the 14 of images to which the concept is
        relevant (``_r1``).
    raw_tags : bool, default=False
        Tags as users typed them (``meta/tags_raw``) in place of Flickr's, which are lower-case
        without spaces.
    min_count : int, default=20
        Tags of fewer images are dropped.
    n_query, n_train : int, default=2000 and 5000
        Sizes of the split; ``n_train=None`` trains on all images of the database that have tags.
    random_state : int, RandomState instance or None, default=0
        Draws the split.
    strict : bool, default=True
        Check that there are 25,000 images and 24 or 38 concepts. False loads a part of the set.
    return_X_y : bool, default=False
        Return ``(images, tags)`` instead of a Bunch.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        With the attributes

        images : list of n str
            Paths, in order of their numbers.
        tags : list of n lists of str
            As their owners typed them.
        names : list of n str
            ``"im1"`` and so on.
        target : ndarray of shape (n, L), int64
            0/1.
        target_names : list of L str
            Names of the annotations.
        split : Bunch
            ``train``, ``query`` and ``database``: row numbers. Train is a part of database.
        DESCR : str
            Source, counts, and the splits.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    ValueError
        If a count is not what it should be.

    Notes
    -----
    Known: 25,000 images, 24 and 14 concepts, and 1,386 tags of at least 20 images (Huiskes and
    Lew, *The MIR Flickr retrieval evaluation*, MIR 2008; the paper of WSDHQ merges these 1,386
    into 1,178 concepts). Inferred: 2,000 queries, the rest as database, and 5,000 of it to train
    on, as is usual on this set; the rows themselves were never published in a paper, so that
    figures on a drawn split differ by chance from published ones. WSDHQ took more: the epochs in
    its logs have 73 batches of 256, some 18,500 images, as ``n_train=None`` takes all with tags.

    Examples
    --------
    >>> from skwsdhq.datasets import load_mirflickr25k
    >>> load_mirflickr25k("/nowhere")
    Traceback (most recent call last):
        ...
    FileNotFoundError: the images of MIRFLICKR are not in '/nowhere': ...
    """
    if labels not in _N_CONCEPTS:
        raise ValueError(f"labels={labels!r} should be 'potential' or 'all'.")
    check_whole("min_count", min_count, 0)
    check_whole("n_query", n_query, 0)
    if n_train is not None:
        check_whole("n_train", n_train, 1)
    home = Path(data_home)
    folder = first_folder(home, ("mirflickr", "."), "im*.jpg", "the images of MIRFLICKR")
    numbers = _numbers(folder, strict)
    target, target_names = _annotations(_find_annotations(home), numbers, labels, strict)
    # Tags of few images are dropped before rows are told apart: an image may have none left.
    kind = "tags_raw" if raw_tags else "tags"
    tags = _tags(folder / "meta" / kind, numbers, min_count)
    images = [str(folder / f"im{number}.jpg") for number in numbers]
    if return_X_y:
        return images, tags
    has_tags = np.array([bool(row) for row in tags], dtype=bool)
    split = split_rows(np.ones(len(images), bool), has_tags, n_query, n_train, random_state)
    n_tags = len({tag for row in tags for tag in row})
    return Bunch(
        images=images,
        tags=tags,
        names=[f"im{number}" for number in numbers],
        target=target,
        target_names=target_names,
        split=split,
        DESCR=(
            "MIRFLICKR-25000 (press.liacs.nl/mirflickr): photographs of Flickr under Creative "
            "Commons licences, which meta/license names for each.\n"
            f"{len(images)} images, {int((~has_tags).sum())} without tags; {n_tags} tags of at "
            f"least {min_count} images; {len(target_names)} concepts ({labels}).\n"
            f"Split, drawn with random_state={random_state!r}: {len(split.query)} queries, "
            f"{len(split.database)} in the database, {len(split.train)} of them to train on.\n"
        ),
    )


def _numbers(folder: Path, strict: bool) -> list[int]:
    """Return the numbers of the images that are there, in order."""
    numbers = sorted(
        int(found.group(1))
        for path in folder.glob("im*.jpg")
        if (found := re.fullmatch(r"im(\d+)\.jpg", path.name))
    )
    if strict and numbers != list(range(1, _N_IMAGES + 1)):
        raise ValueError(
            f"{str(folder)!r} should hold im1.jpg to im{_N_IMAGES}.jpg; it holds {len(numbers)} "
            "images. strict=False loads a part."
        )
    return numbers


def _find_annotations(home: Path) -> Path:
    """Return the folder of annotations, which unpacks beside the images or into their folder."""
    names = ("mirflickr25k_annotations_v080", "annotations", "annotations_v080", ".")
    places = [str(Path(place) / name) for place in (".", "mirflickr") for name in names]
    return first_folder(home, places, "animals.txt", "the annotations of MIRFLICKR")


def _annotations(
    folder: Path, numbers: list[int], labels: str, strict: bool
) -> tuple[np.ndarray, list[str]]:
    """Return a 0/1 table (n, L) and the names of the concepts, in order."""
    # The annotations bring a README along.
    paths = sorted(path for path in folder.glob("*.txt") if path.stem.lower() != "readme")
    if labels == "potential":
        paths = [path for path in paths if not path.stem.endswith("_r1")]
    if strict and len(paths) != _N_CONCEPTS[labels]:
        raise ValueError(
            f"{str(folder)!r} should hold {_N_CONCEPTS[labels]} concepts; it holds "
            f"{len(paths)}. strict=False loads them."
        )
    rows = {number: row for row, number in enumerate(numbers)}
    target = np.zeros((len(numbers), len(paths)), dtype=np.int64)
    for column, path in enumerate(paths):
        for line in read_lines(path):
            if not line.strip():
                continue
            try:
                row = rows.get(int(line))  # each line is the number of an image with the concept
            except ValueError as error:
                raise ValueError(
                    f"{str(path)!r} should hold numbers of images; got {line!r}."
                ) from error
            # Of an image that is not here nothing needs to be known.
            if row is not None:
                target[row, column] = 1
    return target, [path.stem for path in paths]


def _tags(folder: Path, numbers: list[int], min_count: int) -> list[list[str]]:
    """Read the tags of each image, a line each, and drop those of few images."""
    tags = []
    for number in numbers:
        lines = (" ".join(line.split()) for line in read_lines(folder / f"tags{number}.txt"))
        tags.append(sorted({line for line in lines if line}))
    counts = Counter(tag for row in tags for tag in row)
    return [[tag for tag in row if counts[tag] >= min_count] for row in tags]
