"""Loader of a folder of images with their tags in a table or in text files."""

import csv
import json
import mimetypes
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._images_read import picture_suffixes

__all__ = ["load_tagged_folder"]

# Pictures that people have and Pillow alone does not read, besides what has the type image/.
_PICTURES = (".heic", ".heif", ".jxl", ".svg", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw")
_TABLES = tuple(
    f"{name}.{kind}" for name in ("tags", "metadata") for kind in ("csv", "tsv", "jsonl")
)
_FILE_COLUMNS = ("file_name", "filename", "file", "path", "image")
_TAG_COLUMNS = ("tags", "tag", "keywords", "hashtags")


def load_tagged_folder(
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
    """Load a folder of images with tags from a CSV or JSONL table, or a text file beside each.

    Parameters
    ----------
    path : str or PathLike
        Folder of images, whose folders are searched too. Images are what Pillow can read here, by
        the ends of their names. Files whose names begin with a dot are passed over.
    tags : str, PathLike or None, default=None
        Path of a table (``.csv``, ``.tsv``, ``.jsonl``); or ``"sidecar"``: beside ``cat.jpg``
        stands ``cat.txt`` or ``cat.jpg.txt``, with tags on lines or separated. None takes
        ``tags.csv``, ``tags.tsv``, ``tags.jsonl`` or the same of ``metadata`` in the folder, and
        where there is none, sidecars.
    file_column : str, default=None
        Column with the images' paths, relative to the folder. None takes the first of
        ``file_name``, ``filename``, ``file``, ``path``, ``image`` that there is.
    tag_columns : str or sequence of str, default=None
        Column or columns with tags. None takes the first of ``tags``, ``tag``, ``keywords``,
        ``hashtags``. What a line of a CSV has beyond its columns counts as tags when the last
        column does.
    separator : str, default=","
        Between the tags of a cell or of a line. In JSONL tags may be lists as well.
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
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        images : list of n str
            Paths of all images in the folder, in order, whether they have tags or not.
        tags : list of n lists of str
            Without duplicates, in the order in which they were found; ``[]`` where there are none.
        names : list of n str
            Paths relative to the folder, with slashes.
        untagged : ndarray of int
            Row numbers of images without tags.
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
        If the table can't be read; the message names file and line.

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
    from sklearn.utils import Bunch

    if missing not in ("raise", "warn", "ignore"):
        raise ValueError(f"missing={missing!r} should be 'raise', 'warn' or 'ignore'.")
    if not separator:
        raise ValueError("separator should be at least one character; got ''.")
    folder = Path(path)
    names, others = _list_images(folder)
    table = _find_table(folder, tags)
    found: dict[str, list[str]] = {name: [] for name in names}
    absent: dict[str, None] = {}
    if table is None:
        cells = _read_sidecars(folder, names, encoding)
        told = "text files beside the images"
    else:
        cells = _read_table(table, file_column, tag_columns, delimiter, encoding)
        told = f"the table {str(table)!r}"
    for name, values in cells:
        if name not in found:
            absent[name] = None
            continue
        found[name] += [tag for value in values for tag in _split(value, separator)]
    if absent and missing != "ignore":
        text = (
            f"{told} names {len(absent)} images that are not in {str(folder)!r}: "
            f"{', '.join(list(absent)[:5])}{', ...' if len(absent) > 5 else ''}."
        )
        there = sorted(absent.keys() & set(others))
        if there:
            text += (
                f" {len(there)} of them are there, but of a kind that Pillow can't read here: "
                f"{', '.join(there[:5])}{', ...' if len(there) > 5 else ''}."
            )
        if missing == "raise":
            raise FileNotFoundError(f"{text} missing='warn' or 'ignore' leaves them out.")
        warnings.warn(text, UserWarning, stacklevel=2)
    passed_over = _passed_over(others, names, folder, table)
    if lowercase:
        found = {name: [tag.lower() for tag in row] for name, row in found.items()}
    rows = [list(dict.fromkeys(found[name])) for name in names]
    images = [str(folder / name) for name in names]
    if return_X_y:
        return images, rows
    untagged = np.flatnonzero([not row for row in rows])
    return Bunch(
        images=images,
        tags=rows,
        names=names,
        untagged=untagged,
        missing=list(absent),
        passed_over=passed_over,
        DESCR=(
            f"{len(names)} images of the folder {str(folder)!r}, with tags from {told}:\n"
            f"{len({tag for row in rows for tag in row})} different tags, {len(untagged)} images "
            f"without tags, {len(absent)} images that are named but not there.\n"
        ),
    )


def _list_images(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the pictures that can be read, and of all other files but hidden ones."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{str(folder)!r} is no folder.")
    suffixes = picture_suffixes()
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = sorted(
        path.as_posix() for path in paths if not any(p.startswith(".") for p in path.parts)
    )
    names = [name for name in shown if Path(name).suffix.lower() in suffixes]
    if not names:
        raise FileNotFoundError(
            f"there is no image in {str(folder)!r}; these count: {', '.join(suffixes)}."
        )
    return names, sorted(set(shown) - set(names))


def _passed_over(
    others: list[str], names: list[str], folder: Path, table: Path | None
) -> list[str]:
    """Files that are no pictures which can be read, and none that tags are read from."""
    read = {name for name in others if table is not None and (folder / name).samefile(table)}
    if table is None:
        for name in names:
            read |= {Path(name).with_suffix(".txt").as_posix(), f"{name}.txt"}
    left = [name for name in others if name not in read]
    lost = [name for name in left if _is_picture(name)]
    if lost:
        warnings.warn(
            f"{len(lost)} pictures in {str(folder)!r} are of a kind that Pillow can't read here, "
            f"and are passed over: {', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''}. "
            "Convert them, or install a plugin of Pillow's and import it before.",
            UserWarning,
            stacklevel=3,
        )
    return left


def _is_picture(name: str) -> bool:
    kind = mimetypes.guess_type(name)[0] or ""
    return kind.startswith("image/") or name.lower().endswith(_PICTURES)


def _find_table(folder: Path, tags: Any) -> Path | None:
    """The table to read; None for sidecars."""
    if tags is None:
        found = [folder / name for name in _TABLES if (folder / name).is_file()]
        if len(found) > 1:
            raise ValueError(
                f"{str(folder)!r} has {' and '.join(path.name for path in found)}; say which by "
                "tags=."
            )
        return found[0] if found else None
    if tags == "sidecar":
        return None
    table = Path(tags)
    if not table.is_file():
        raise FileNotFoundError(f"the table {str(table)!r} does not exist.")
    if table.suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        raise ValueError(f"{str(table)!r} should be a .csv, .tsv or .jsonl file.")
    return table


def _read_sidecars(
    folder: Path, names: list[str], encoding: str
) -> Iterator[tuple[str, list[str]]]:
    n_found = 0
    for name in names:
        path = folder / name
        for sidecar in (path.with_suffix(".txt"), path.with_name(path.name + ".txt")):
            if sidecar.is_file():
                n_found += 1
                yield name, _text(sidecar, encoding).splitlines()
    if not n_found:
        raise FileNotFoundError(
            f"there are no tags in {str(folder)!r}: neither {', '.join(_TABLES)} nor a text file "
            f"beside any image, as {Path(names[0]).with_suffix('.txt').as_posix()}. Name a table "
            "by tags=."
        )


def _read_table(
    table: Path,
    file_column: str | None,
    tag_columns: str | Sequence[str] | None,
    delimiter: str | None,
    encoding: str,
) -> Iterator[tuple[str, list[str]]]:
    suffix = table.suffix.lower()
    text = _text(table, encoding)
    if suffix == ".jsonl":
        lines = _json_lines(table, text)
    else:
        lines = _csv_lines(text, delimiter or ("\t" if suffix == ".tsv" else ","))
    wanted = [tag_columns] if isinstance(tag_columns, str) else tag_columns
    names = None
    for number, columns, line in lines:
        if names is None or suffix == ".jsonl":  # objects may differ in their keys
            place = f"{str(table)!r}, line {number},"
            file_name = _column(columns, file_column, _FILE_COLUMNS, place, "file_column")
            if wanted is None:
                names = [_column(columns, None, _TAG_COLUMNS, place, "tag_columns")]
            else:
                names = [_column(columns, n, (), place, "tag_columns") for n in wanted]
        values: list[str] = []
        # A line may be shorter than its columns, and longer where a separator was not quoted.
        extra = line.get(None, []) if names[-1] == columns[-1] else []
        for value in [line.get(name) for name in names] + [extra]:
            if isinstance(value, (list, tuple)):
                values += [str(part) for part in value]
            elif value is not None:
                values.append(str(value))
        name = line.get(file_name)
        if not name:
            raise ValueError(f"{str(table)!r}, line {number}, has no {file_name}.")
        yield os.path.normpath(str(name).strip().replace("\\", "/")).replace(os.sep, "/"), values


def _csv_lines(text: str, delimiter: str) -> Iterator[tuple[int, list, dict]]:
    reader = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter)
    columns = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = columns
    for line in reader:
        yield reader.line_num, columns, line


def _json_lines(table: Path, text: str) -> Iterator[tuple[int, list, dict]]:
    for number, content in enumerate(text.splitlines(), start=1):
        if not content.strip():
            continue
        try:
            line = json.loads(content)
        except json.JSONDecodeError as error:
            raise ValueError(f"{str(table)!r}, line {number}, is no JSON: {error}") from error
        if not isinstance(line, dict):
            raise ValueError(f"{str(table)!r}, line {number}, should be a JSON object.")
        yield number, list(line), line


def _column(
    columns: list, name: str | None, known: tuple[str, ...], place: str, parameter: str
) -> str:
    if name is not None and name in columns:
        return name
    by_lower = {str(column).lower(): column for column in columns}
    for candidate in known if name is None else ():
        if candidate in by_lower:
            return by_lower[candidate]
    asked = repr(name) if name is not None else f"any of {', '.join(known)}"
    raise ValueError(f"{place} has no column {asked}; it has {columns}. Name it by {parameter}=.")


def _split(value: str, separator: str) -> list[str]:
    parts = (" ".join(part.split()) for part in value.split(separator))
    return [part for part in parts if part]


def _text(path: Path, encoding: str) -> str:
    content = path.read_bytes()
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{str(path)!r}, line {number}, is not in {encoding}; name its encoding, as "
            "encoding='latin-1'."
        ) from error
