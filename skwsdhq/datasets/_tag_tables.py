"""Tables of images and their tags: CSV, TSV and JSONL, read strictly."""

import csv
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.text import name_of_number

__all__ = ["TABLES", "Line", "column_of_texts", "decoded", "read_table", "read_tags", "split_tags"]

TABLES = tuple(
    f"{name}.{kind}" for name in ("tags", "metadata") for kind in ("csv", "tsv", "jsonl")
)
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)")
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_FILE_COLUMNS = ("file_name", "filename", "file", "path", "image")
_TAG_COLUMNS = ("tags", "tag", "keywords", "hashtags")


class Line(NamedTuple):
    """Hold what one line of a table, or one text file, says of an image."""

    name: str  # its path, with slashes
    tags: list[str]
    others: dict[str, Any]  # by column
    number: int  # of the line


def read_table(
    table: Path,
    file_column: str | None,
    tag_columns: str | Sequence[str] | None,
    separator: str,
    delimiter: str | None,
    encoding: str,
    names: Collection[str] = (),
) -> Iterator[Line]:
    """Yield what each line of a table says of a file.

    ``names`` are files that are known to be there: where a cell goes on to a line that begins with
    one of them, a quote was not closed.
    """
    suffix = table.suffix.lower()
    text = decoded(table, encoding)
    if not text.strip():
        raise ValueError(f"{str(table)!r} is empty; it should have a line for each image.")
    lines: Iterator[tuple[int, list, dict | None]]
    if suffix == ".jsonl":
        lines = _json_lines(table, text)
    else:
        lines = _csv_lines(table, text, delimiter or ("\t" if suffix == ".tsv" else ","), names)
    wanted = [tag_columns] if isinstance(tag_columns, str) else tag_columns
    chosen: list[str] | None = None
    for number, columns, line in lines:
        place = f"{str(table)!r}, line {number},"
        if chosen is None or suffix == ".jsonl":  # objects may differ in their keys
            file_name = _column(columns, file_column, _FILE_COLUMNS, place, "file_column")
            if wanted is None:
                chosen = [_column(columns, None, _TAG_COLUMNS, place, "tag_columns")]
            else:
                chosen = [_column(columns, name, (), place, "tag_columns") for name in wanted]
            _refuse_twice(columns, [file_name, *chosen], place)
        if line is None:  # the header alone
            continue
        values = [tag for name in chosen for tag in read_tags(line.get(name), separator, place)]
        # A line may be shorter than its columns, and longer where a separator was not quoted.
        extra = line.get(None)
        if extra and chosen[-1] != columns[-1]:
            raise ValueError(
                f"{place} has {len(columns) + len(extra)} cells for {len(columns)} columns; quote "
                "cells that hold the delimiter."
            )
        values += [tag for cell in extra or () for tag in split_tags(cell, separator)]
        name = line.get(file_name)
        if isinstance(name, (list, dict)) or not str("" if name is None else name).strip():
            raise ValueError(f"{place} has no {file_name}.")
        others = {k: v for k, v in line.items() if k not in (None, file_name, *chosen)}
        # Tables from Windows write backslashes.
        path = os.path.normpath(str(name).strip().replace("\\", "/")).replace(os.sep, "/")
        yield Line(path, values, others, number)


def split_tags(text: str, separator: str) -> list[str]:
    """Return the tags of a cell or of a line, without blanks around them."""
    parts = (" ".join(part.split()) for part in text.split(separator))
    return [part for part in parts if part]


def column_of_texts(values: Sequence[Any]) -> list[Any]:
    """Return the cells of a CSV column: numbers where all that say something are, else texts.

    Digits after a zero, as of "0047", are no number but a name. Cells that are empty are None.
    """
    texts = ["" if value is None else str(value).strip() for value in values]
    told = list(filter(None, texts))
    kind: Any = next((kind for kind in (int, float) if all(map(_READS[kind], told))), str)
    return [kind(text) if text else None for text in texts]


def _is_whole(text: str) -> bool:
    # Within 64 bits.
    return bool(_INTEGER.fullmatch(text)) and len(text) < 19


def _is_number(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and math.isfinite(float(text))


_READS: dict[type, Any] = {int: _is_whole, float: _is_number}


def decoded(path: Path, encoding: str) -> str:
    """Return the text of a file, without a byte order mark; the error names file and line."""
    content = path.read_bytes()
    try:
        text = content.decode(encoding)
    except UnicodeError as error:
        # What the text may be in: two-byte codes have zero bytes, and anything is Latin-1.
        number = content[: getattr(error, "start", 0)].count(b"\n") + 1
        other = "utf-16-le" if b"\0" in content[: 1 << 12] else "latin-1"
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            other = "utf-16"
        raise ValueError(
            f"{str(path)!r}, line {number}, is not in {encoding}; name its encoding, as "
            f"encoding={other!r}."
        ) from error
    if "\0" in text:
        number = text[: text.index("\0")].count("\n") + 1
        raise ValueError(
            f"{str(path)!r}, line {number}, holds a zero byte, which no text in {encoding} has; "
            "name its encoding, as encoding='utf-16-le', or make the file anew."
        )
    # Of encodings that leave the mark in the text, as utf-16-le does.
    return text.removeprefix("\ufeff")


def read_tags(value: Any, separator: str, place: str) -> list[str]:
    """Return the tags of a cell: text is split; a JSON list holds one an item, null none."""
    if isinstance(value, str):
        return split_tags(value, separator)
    items = value if isinstance(value, list) else [value]
    found = []
    for item in items:
        if isinstance(item, str):
            found.append(" ".join(item.split()))
        elif isinstance(item, Real) and not isinstance(item, bool):
            if item == item:  # NaN says no more than null
                found.append(name_of_number(item))
        elif item is not None:
            kind = {dict: "an object", list: "a list in a list", bool: "true or false"}
            raise ValueError(
                f"{place} has {kind.get(type(item), type(item).__name__)} for tags, {item!r}; tags "
                "should be a text or a list of texts."
            )
    return [tag for tag in found if tag]


def _csv_lines(
    table: Path, text: str, delimiter: str, names: Collection[str]
) -> Iterator[tuple[int, list, dict | None]]:
    """Yield line number, columns and cells of each record; None for cells of the header."""
    # Strict: what follows a closing quote, and a quote that is never closed, are errors.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    columns: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{str(table)!r}, line {number}, is no line of a table: {error}. A quote that "
                "opens a cell has to close it, and one within a cell has to be doubled."
            ) from error
        if not any(cell.strip() for cell in cells):
            continue
        if reader.line_num > number:
            _refuse_swallowed(table, number, cells, delimiter, names)
        if columns is None:
            columns = [name.strip() for name in cells]
            yield number, columns, None
            continue
        line: dict = dict(zip(columns, cells, strict=False))
        line[None] = cells[len(columns) :]
        yield number, columns, line


def _refuse_swallowed(
    table: Path, number: int, cells: list[str], delimiter: str, names: Collection[str]
) -> None:
    """Refuse cells over several lines of which one begins like the line of another image."""
    for cell in cells:
        for line in cell.splitlines()[1:]:
            first = line.split(delimiter)[0].strip().strip('"')
            if first and first in names:
                raise ValueError(
                    f"{str(table)!r}, line {number}, has a quote that is not closed: its cell goes "
                    f"on to the line of {first!r}."
                )


def _json_lines(table: Path, text: str) -> Iterator[tuple[int, list, dict | None]]:
    """Yield line number, keys and the object of each line."""

    # json itself would keep the last of two equal keys.
    def once(pairs: list[tuple[str, Any]]) -> dict:
        twice = [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]
        if twice:
            raise ValueError(f"it has {twice[0]!r} twice")
        return dict(pairs)

    # Lines end at line feeds alone: JSON may hold all other ends of lines within a text.
    for number, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            line = json.loads(content, object_pairs_hook=once, strict=False)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{str(table)!r}, line {number}, is no JSON: {error}") from error
        if not isinstance(line, dict):
            raise ValueError(f"{str(table)!r}, line {number}, should be a JSON object.")
        yield number, list(line), line


def _column(
    columns: list, name: str | None, known: tuple[str, ...], place: str, parameter: str
) -> str:
    """Return the name of a column, given or one that is known, as the table spells it."""
    if name is not None and name in columns:
        return name
    # The first of columns that differ in case alone; reversed, since later ones replace earlier.
    by_lower = {str(column).lower(): column for column in reversed(columns)}
    for candidate in known if name is None else ():
        if candidate in by_lower:
            return by_lower[candidate]
    asked = repr(name) if name is not None else f"any of {', '.join(known)}"
    way = f"Name it by {parameter}=."
    # One column in which other marks stand: the table has another delimiter.
    other = next((mark for mark in ";\t|" if len(columns) == 1 and mark in columns[0]), None)
    if other:
        way = f"Name what stands between columns, as delimiter={other!r}."
    raise ValueError(f"{place} has no column {asked}; it has {columns}. {way}")


def _refuse_twice(columns: list, used: list[str], place: str) -> None:
    """Refuse a table in which a column that is read has a twin."""
    # Of two columns of one name, cells by name would keep the last in silence.
    for name in used:
        if columns.count(name) > 1:
            raise ValueError(f"{place} has {columns.count(name)} columns {name!r}; rename one.")
