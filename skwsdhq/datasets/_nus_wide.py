"""Loader of NUS-WIDE as its makers distribute it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from ._tables import check_whole, first_folder, read_lines, split_rows

__all__ = ["load_nus_wide"]

_N_IMAGES = 269_648
_N_CONCEPTS = 81


def load_nus_wide(
    data_home: str | os.PathLike,
    *,
    tags: str = "1k",
    n_concepts: int | None = 21,
    n_query: int = 5000,
    n_train: int | None = 10000,
    random_state: Any = 0,
    strict: bool = True,
    return_X_y: bool = False,
) -> Any:
    """Load NUS-WIDE: 269,648 photographs, their Flickr tags, and 81 annotated concepts.

    Parameters
    ----------
    data_home : str or PathLike
        Folder with what was unpacked of the set::

            Flickr/actor/0001_2124494179.jpg …       (or images/)
            ImageList/Imagelist.txt
            ConceptsList/Concepts81.txt              (or Concepts81.txt)
            Groundtruth/AllLabels/Labels_animal.txt …  (or AllLabels/)
            NUS_WID_Tags/AllTags1k.txt, TagList1k.txt, All_Tags.txt

    tags : {"1k", "all"}, default="1k"
        The 1,000 most frequent tags of ``AllTags1k.txt``, or all of ``All_Tags.txt``.
    n_concepts : int or None, default=21
        Labels are the concepts of most images, this many; images without any of them take no part
        in the split. None takes all 81, and all images.
    n_query, n_train : int, default=5000 and 10000
        Sizes of the split; ``n_train=None`` trains on all images of the database that have tags.
    random_state : int, RandomState instance or None, default=0
        Draws the split.
    strict : bool, default=True
        Check that there are 269,648 images in the list, all of which are on the disk, and 81
        concepts. False loads a part of the set, and leaves out images that are not there.
    return_X_y : bool, default=False
        Return ``(images, tags)`` instead of a Bunch.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        With the attributes

        images : list of n str
            Paths, in order of the image list. Images are not opened.
        tags : list of n lists of str
            As their owners typed them.
        names : list of n str
            As ``"actor/0001_2124494179"``.
        target : ndarray of shape (n, L), int64
            0/1.
        target_names : list of L str
            In order of ``Concepts81.txt``.
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
    Known: 269,648 images and 81 concepts (Chua et al., *NUS-WIDE: a real-world web image database*,
    CIVR 2009); 195,834 images with any of the 21 most frequent concepts, 5,000 queries and 10,000
    images to train on (Cao et al., *Deep visual-semantic quantization*, CVPR 2017); 1,000 tags, of
    which the paper of WSDHQ makes 928 concepts. Inferred: that WSDHQ uses the same sizes, for which
    the lengths of its epochs speak. Its rows are no random draw of this function, so that figures
    differ by chance.

    Examples
    --------
    >>> from skwsdhq.datasets import load_nus_wide
    >>> load_nus_wide("/nowhere")
    Traceback (most recent call last):
        ...
    FileNotFoundError: the image lists of NUS-WIDE are not in '/nowhere': ...
    """
    if tags not in ("1k", "all"):
        raise ValueError(f"tags={tags!r} should be '1k' or 'all'.")
    if n_concepts is not None:
        check_whole("n_concepts", n_concepts, 1)
    check_whole("n_query", n_query, 0)
    if n_train is not None:
        check_whole("n_train", n_train, 1)
    home = Path(data_home)
    listed, concepts = _lists(home, strict)
    target = _labels(home, concepts, len(listed))
    if n_concepts is not None:
        best = _most_frequent(target, n_concepts)
        target, concepts = target[:, best], [concepts[k] for k in best]
    # All tables have a line for each line of the list; what is not on the disk goes from all.
    rows = _tags(home, tags, len(listed))
    folder, kept = _images(home, listed, strict)
    images = [str(folder / listed[n]) for n in kept]
    rows, target = [rows[n] for n in kept], target[kept]
    if return_X_y:
        return images, rows
    takes_part = np.ones(len(images), dtype=bool)
    if n_concepts is not None:
        takes_part = target.sum(axis=1) > 0
    has_tags = np.array([bool(row) for row in rows], dtype=bool)
    split = split_rows(takes_part, has_tags, n_query, n_train, random_state)
    return Bunch(
        images=images,
        tags=rows,
        names=[os.path.splitext(listed[n])[0] for n in kept],
        target=target,
        target_names=concepts,
        split=split,
        DESCR=(
            "NUS-WIDE (National University of Singapore): photographs of Flickr, whose owners keep "
            "their rights; for research.\n"
            f"{len(images)} images of {len(listed)} in the list, {int((~has_tags).sum())} without "
            f"tags; {len({tag for row in rows for tag in row})} tags; {len(concepts)} concepts, "
            f"any of which {int(takes_part.sum())} images carry.\n"
            f"Split, drawn with random_state={random_state!r}: {len(split.query)} queries, "
            f"{len(split.database)} in the database, {len(split.train)} of them to train on.\n"
        ),
    )


def _lists(home: Path, strict: bool) -> tuple[list[str], list[str]]:
    """Read the list of images, by their paths, and that of concepts."""
    images_at = first_folder(
        home, ("ImageList", "."), "Imagelist.txt", "the image lists of NUS-WIDE"
    )
    # The set was made on Windows.
    listed = [
        line.strip().replace("\\", "/")
        for line in read_lines(images_at / "Imagelist.txt")
        if line.strip()
    ]
    concepts_at = first_folder(
        home, ("ConceptsList", "."), "Concepts81.txt", "the concepts of NUS-WIDE"
    )
    concepts = [n.strip() for n in read_lines(concepts_at / "Concepts81.txt") if n.strip()]
    if strict:
        _check_count(len(listed), _N_IMAGES, "images", images_at / "Imagelist.txt")
        _check_count(len(concepts), _N_CONCEPTS, "concepts", concepts_at / "Concepts81.txt")
    return listed, concepts


def _most_frequent(target: np.ndarray, n_concepts: int) -> np.ndarray:
    """Return the columns of the most frequent concepts, in their own order."""
    if n_concepts > target.shape[1]:
        raise ValueError(f"n_concepts={n_concepts} should be from 1 to {target.shape[1]}.")
    # The first of equally frequent concepts counts as the more frequent.
    return np.sort(np.argsort(-target.sum(axis=0), kind="stable")[:n_concepts])


def _check_count(found: int, expected: int, what: str, path: Path) -> None:
    if found != expected:
        raise ValueError(
            f"{str(path)!r} should name {expected} {what}; it names {found}. strict=False loads a "
            "part."
        )


def _labels(home: Path, concepts: list[str], n_images: int) -> np.ndarray:
    """Read a 0/1 table (n, L), a file a concept and a line an image."""
    folder = first_folder(
        home,
        ("Groundtruth/AllLabels", "GroundTruth/AllLabels", "AllLabels"),
        "Labels_*.txt",
        "the labels of NUS-WIDE",
    )
    target = np.zeros((n_images, len(concepts)), dtype=np.int64)
    for column, name in enumerate(concepts):
        path = folder / f"Labels_{name}.txt"
        # A quarter of a million lines of one letter each.
        lines = [line.strip() for line in read_lines(path) if line.strip()]
        if len(lines) != n_images or not set(lines) <= {"0", "1"}:
            raise ValueError(
                f"{str(path)!r} should hold {n_images} lines of 0 or 1; it holds {len(lines)}."
            )
        target[:, column] = np.array(lines) == "1"
    return target


def _tags(home: Path, kind: str, n_images: int) -> list[list[str]]:
    """Read the tags of each image of the list."""
    name = "AllTags1k.txt" if kind == "1k" else "All_Tags.txt"
    folder = first_folder(home, ("NUS_WID_Tags", "."), name, "the tags of NUS-WIDE")
    path = folder / name
    rows: list[list[str]] = []
    if kind == "all":
        # A line: the photograph's number, then its tags.
        rows = [sorted(set(line.split()[1:])) for line in read_lines(path) if line.strip()]
    else:
        words = np.array([w.strip() for w in read_lines(folder / "TagList1k.txt") if w.strip()])
        with open(path) as file:  # half a gigabyte: line by line
            for line in file:
                values = np.array(line.split())
                if not values.size:
                    continue
                if len(values) != len(words):
                    raise ValueError(
                        f"{str(path)!r}, line {len(rows) + 1}, should hold {len(words)} numbers; "
                        f"it holds {len(values)}."
                    )
                # Compared as text: 270 million cells as numbers would take longer still.
                rows.append(sorted(set(words[values == "1"].tolist())))
    if len(rows) != n_images:
        raise ValueError(f"{str(path)!r} should hold {n_images} lines; it holds {len(rows)}.")
    return rows


def _images(home: Path, listed: list[str], strict: bool) -> tuple[Path, list[int]]:
    """Return the folder of images, and which lines of the list are there."""
    folder = next((home / n for n in ("Flickr", "images", "image") if (home / n).is_dir()), None)
    if folder is None:
        raise FileNotFoundError(
            f"the images of NUS-WIDE are not in {str(home)!r}: no folder Flickr or images."
        )
    # One look at each folder: a quarter of a million questions take long on a network's disk.
    there = {
        f"{sub}/{name}" if sub else name
        for sub in {os.path.dirname(name) for name in listed}
        if (folder / sub).is_dir()
        for name in os.listdir(folder / sub)
    }
    kept = [n for n, name in enumerate(listed) if name in there]
    if strict and len(kept) != len(listed):
        missing = next(name for name in listed if name not in there)
        raise FileNotFoundError(
            f"{str(folder)!r} lacks {len(listed) - len(kept)} of {len(listed)} images, as "
            f"{missing!r}. strict=False leaves them out."
        )
    return folder, kept
