"""Loader of a folder of images with their tags in a table or in text files."""

import mimetypes
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from ..images.reading import picture_suffixes
from ..utils.text import clean_name, split_lines
from ..utils.warn import warn_caller
from ._keywords import keywords_of
from ._tag_tables import TABLES, Line, column_of_texts, decoded, read_table, split_tags

__all__ = ["load_tagged_folder"]

# Pictures that people have and Pillow alone does not read, besides what has the type image/.
_PICTURES = (".heic", ".heif", ".jxl", ".svg", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw")


def load_tagged_folder(  # noqa: PLR0913 - options of a call, all but two by name
    path: str | os.PathLike,
    tags: str | os.PathLike | None = None,
    *,
    file_column: str | None = None,
    tag_columns: str | Sequence[str] | None = None,
    separator: str = ",",
    delimiter: str | None = None,
    encoding: str = "utf-8-sig",
    lowercase: bool = True,
    missing: str = "raise",
    return_X_y: bool = False,
) -> Any:
    """Load a folder of images with tags from a table, text files beside them, or within them.

    Parameters
    ----------
    path : str or PathLike
        Folder of images, whose folders are searched too. Images are what Pillow can read here, by
        the ends of their names. Files whose names begin with a dot are passed over.
    tags : str, PathLike or None, default=None
        Path of a table (``.csv``, ``.tsv``, ``.jsonl``); or ``"sidecar"``: beside ``cat.jpg``
        stands ``cat.txt`` or ``cat.jpg.txt``, with tags on lines or separated; or
        ``"embedded"``: the keywords that photo managers write into pictures, of IPTC and of XMP's
        ``dc:subject``. None takes ``tags.csv``, ``tags.tsv``, ``tags.jsonl`` or the same of
        ``metadata`` in the folder, where there is none sidecars, and where there is none of
        these either, keywords within.
    file_column : str, default=None
        Column with the images' paths, relative to the folder. None takes the first of
        ``file_name``, ``filename``, ``file``, ``path``, ``image`` that there is.
    tag_columns : str or sequence of str, default=None
        Column or columns with tags. None takes the first of ``tags``, ``tag``, ``keywords``,
        ``hashtags``. What a line of a CSV has beyond its columns counts as tags when the last
        column does.
    separator : str, default=","
        Between the tags of a cell or of a line. In JSONL tags may be lists as well, of one tag an
        item, which is not split; null says nothing. Nor are keywords within pictures split.
    delimiter : str, default=None
        Between columns; None is a comma, and a tabulator in ``.tsv``.
    encoding : str, default="utf-8-sig"
        Of tables and sidecars: UTF-8, with or without a byte order mark.
    lowercase : bool, default=True
        Make tags lower-case.
    missing : {"raise", "warn", "ignore"}, default="raise"
        What to do about lines of a table whose image is not there. They are left out.
    return_X_y : bool, default=False
        Return ``(images, tags)`` instead of a Bunch.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        With the attributes

        images : list of n str
            Paths of all images in the folder, in order, whether they have tags or not.
        tags : list of n lists of str
            Without duplicates, in the order in which they were found; ``[]`` where there are none.
        names : list of n str
            Paths relative to the folder, with slashes.
        columns : dict of str to list
            The table's other columns: n values of each, None where there is none. A column of a CSV
            whose cells are numbers holds numbers.
        untagged : ndarray of int
            Row numbers of images without tags.
        repeated : dict of str to list of int
            Images that several lines of the table name, with the numbers of these lines. Their
            tags add up; of other columns the first value counts, and there is a warning where
            another one contradicts it.
        missing : list of str
            Files that the table names and that are not there, or no images that can be read.
        passed_over : list of str
            Files that are no images which can be read, and no tags; there is a warning where they
            are pictures of another kind.
        DESCR : str
            Folder, table and counts.

    Raises
    ------
    FileNotFoundError
        If the folder, its images, the table, or an image of the table is not there.
    ValueError
        If the table can't be read, as where a quote is never closed, a line has too many cells or
        the encoding is another; the message names file and line.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from skwsdhq.datasets import load_tagged_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (8, 8)).save(Path(folder) / "cat.png")
    ...     _ = (Path(folder) / "cat.txt").write_text("Cat, black")
    ...     data = load_tagged_folder(folder)
    >>> data.names, data.tags
    (['cat.png'], [['cat', 'black']])
    """
    if missing not in ("raise", "warn", "ignore"):
        raise ValueError(f"missing={missing!r} should be 'raise', 'warn' or 'ignore'.")
    if not separator:
        raise ValueError("separator should be at least one character; got ''.")
    folder = Path(path)
    names, others = _list_images(folder)
    table = _find_table(folder, tags)
    lines: Iterable[Line] | None
    if table is not None:
        lines = read_table(
            table, file_column, tag_columns, separator, delimiter, encoding, frozenset(names)
        )
        told = f"the table {str(table)!r}"
    else:
        lines, told = _without_table(folder, names, tags, separator, encoding)
    by_image, absent = _by_image(lines, names)
    found = {name: [tag for line in own for tag in line.tags] for name, own in by_image.items()}
    if absent and missing != "ignore":
        text = _of_absent(absent, others, f"{told} names", folder)
        if missing == "raise":
            raise FileNotFoundError(f"{text} missing='warn' or 'ignore' leaves them out.")
        warn_caller(text)
    passed_over = _passed_over(others, names, folder, table)
    # Two spellings may become one tag, so duplicates are found last.
    rows = [list(dict.fromkeys(clean_name(t, lowercase) for t in found[name])) for name in names]
    images = [str(folder / name) for name in names]
    if return_X_y:
        return images, rows
    untagged = np.flatnonzero([not row for row in rows])
    repeated: dict[str, list[int]] = {}
    if table is not None:
        several = {name: own for name, own in by_image.items() if len(own) > 1}
        repeated = {name: [line.number for line in own] for name, own in several.items()}
        _tell_contradictions(several, told)
    return Bunch(
        images=images,
        tags=rows,
        names=names,
        columns=_columns(list(by_image.values()), is_text=table is not None and _is_text(table)),
        untagged=untagged,
        repeated=repeated,
        missing=absent,
        passed_over=passed_over,
        DESCR=(
            f"{len(names)} images of the folder {str(folder)!r}, with tags from {told}:\n"
            f"{len({tag for row in rows for tag in row})} different tags, {len(untagged)} images "
            f"without tags, {len(absent)} images that are named but not there"
            + (f", {len(repeated)} images that several lines name.\n" if repeated else ".\n")
        ),
    )


def _without_table(
    folder: Path, names: list[str], tags: Any, separator: str, encoding: str
) -> tuple[list[Line], str]:
    """Return what text files beside the images say, or what stands in these."""
    lines: list[Line] = []
    if tags != "embedded":
        lines = list(_read_sidecars(folder, names, separator, encoding))
        if lines:
            return lines, "text files beside the images"
    if tags != "sidecar":
        read = ((name, keywords_of(folder / name)) for name in names)
        lines = [Line(name, found, {}, 1) for name, found in read if found]
        if lines:
            return lines, "keywords in the images"
    beside = f"a text file beside any image, as {Path(names[0]).with_suffix('.txt').as_posix()}"
    raise FileNotFoundError(
        f"there are no tags in {str(folder)!r}: "
        + {
            "sidecar": f"not {beside}.",
            "embedded": "no image has keywords of IPTC or XMP in it.",
        }.get(
            tags,
            f"neither {', '.join(TABLES)} nor {beside}, nor keywords in an image. Name a table "
            "by tags=.",
        )
    )


def _by_image(lines: Iterable[Line], names: list[str]) -> tuple[dict[str, list[Line]], list[str]]:
    """Return the lines of each image, and the files that are named and are no images here."""
    # An image may have several lines, or several text files: tags add up.
    found: dict[str, list[Line]] = {name: [] for name in names}
    absent: dict[str, None] = {}  # in the order in which they come, each once
    # Some systems store names decomposed, "é" as two letters; a table may have them composed.
    by_form = {unicodedata.normalize("NFC", name): name for name in names}
    for line in lines:
        name = line.name
        if name not in found:
            name = by_form.get(unicodedata.normalize("NFC", name), name)
        if name in found:
            found[name].append(line)
        else:
            absent[name] = None
    return found, list(absent)


def _is_text(table: Path) -> bool:
    """Tell whether all cells of a table are texts, of which some mean numbers."""
    return table.suffix.lower() != ".jsonl"


def _said(value: Any) -> bool:
    """Tell whether a cell says something."""
    return value is not None and value != "" and not (isinstance(value, float) and value != value)


def _columns(by_image: list[list[Line]], *, is_text: bool) -> dict[str, list[Any]]:
    """Return the other columns of images, by what their first line that says something says."""
    names = dict.fromkeys(name for own in by_image for line in own for name in line.others)
    columns = {}
    for name in names:
        told = ([line.others.get(name) for line in own] for own in by_image)
        values = [next((value for value in row if _said(value)), None) for row in told]
        columns[str(name)] = column_of_texts(values) if is_text else values
    return columns


def _tell_contradictions(several: dict[str, list[Line]], told: str) -> None:
    """Warn of images of which several lines say different things."""
    for name, own in several.items():
        for column in own[0].others:
            values = [line.others.get(column) for line in own]
            said = [value for value in values if _said(value)]
            if any(value != said[0] for value in said):
                numbers = ", ".join(str(line.number) for line in own)
                warn_caller(
                    f"lines {numbers} of {told} name {name!r} and contradict each other in the "
                    f"column {column!r}: the first, {said[0]!r}, counts. All such images are in "
                    "`repeated`."
                )
                return


def _of_absent(absent: list[str], others: list[str], told: str, folder: Path) -> str:
    """Say which images are named and not there, or there and not readable."""
    text = f"{told} {len(absent)} images that are not in {str(folder)!r}: {_first(absent)}."
    there = sorted(set(absent) & set(others))
    if there:
        text += (
            f" {len(there)} of them are there, but of a kind that Pillow can't read here: "
            f"{_first(there)}."
        )
    return text


def _first(names: list[str]) -> str:
    """Return the first few names, as a part of a message."""
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"


def _list_images(folder: Path) -> tuple[list[str], list[str]]:
    """Find the names of pictures that can be read, and of all other files but hidden ones."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{str(folder)!r} is no folder.")
    suffixes = picture_suffixes()
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = sorted(
        path.as_posix() for path in paths if not any(p.startswith(".") for p in path.parts)
    )
    # By their names alone: opening a hundred thousand files would take minutes.
    names = [name for name in shown if Path(name).suffix.lower() in suffixes]
    if not names:
        raise FileNotFoundError(
            f"there is no image in {str(folder)!r}; these count: {', '.join(suffixes)}."
        )
    return names, sorted(set(shown) - set(names))


def _passed_over(
    others: list[str], names: list[str], folder: Path, table: Path | None
) -> list[str]:
    """Return files that are neither pictures which can be read nor read for tags."""
    read = {name for name in others if table is not None and (folder / name).samefile(table)}
    if table is None:
        for name in names:
            read |= {Path(name).with_suffix(".txt").as_posix(), f"{name}.txt"}
    left = [name for name in others if name not in read]
    lost = [name for name in left if _is_picture(name)]
    if lost:
        warn_caller(
            f"{len(lost)} pictures in {str(folder)!r} are of a kind that Pillow can't read here, "
            f"and are passed over: {_first(lost)}. "
            "Convert them, or install a plugin of Pillow's and import it before.",
        )
    return left


def _is_picture(name: str) -> bool:
    # The system's list of types knows more kinds than Pillow does.
    kind = mimetypes.guess_type(name)[0] or ""
    return kind.startswith("image/") or name.lower().endswith(_PICTURES)


def _find_table(folder: Path, tags: Any) -> Path | None:
    """Return the table to read; None for sidecars and what stands in pictures."""
    if tags is None:
        # Two tables may contradict each other, and none of them has a better claim.
        found = [folder / name for name in TABLES if (folder / name).is_file()]
        if len(found) > 1:
            raise ValueError(
                f"{str(folder)!r} has {' and '.join(path.name for path in found)}; say which by "
                "tags=."
            )
        return found[0] if found else None
    if tags in ("sidecar", "embedded"):
        return None
    table = Path(tags)
    if not table.is_file():
        raise FileNotFoundError(f"the table {str(table)!r} does not exist.")
    if table.suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        raise ValueError(f"{str(table)!r} should be a .csv, .tsv or .jsonl file.")
    return table


def _read_sidecars(folder: Path, names: list[str], separator: str, encoding: str) -> Iterator[Line]:
    """Yield each image that has a text file beside it, and the tags in it."""
    for name in names:
        # The text file's name may be composed where the image's is decomposed, or the reverse.
        forms = dict.fromkeys([name, *(unicodedata.normalize(f, name) for f in ("NFC", "NFD"))])
        paths = [folder / form for form in forms]
        sidecars = [path.with_suffix(".txt") for path in paths]
        for sidecar in (*sidecars, *(path.with_name(path.name + ".txt") for path in paths)):
            if sidecar.is_file():
                lines = split_lines(decoded(sidecar, encoding))
                found = [tag for line in lines for tag in split_tags(line, separator)]
                yield Line(name, found, {}, 1)
