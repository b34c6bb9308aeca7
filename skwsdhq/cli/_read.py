"""What users write in a shell: conditions on columns, tables of labels and of tags."""

import csv
import io
import os
import re
from pathlib import Path
from typing import Any

from ..utils.files import replacing

__all__ = ["read_labels", "read_where", "write_tags"]

_CONDITION = re.compile(r"^(.+?)\s*(==|!=|<=|>=|=|<|>)\s*(.*)$", re.DOTALL)


def read_where(conditions: list[str]) -> dict[str, Any] | None:
    """Return conditions as ``year>=2020`` and ``place=Oslo`` as a collection takes them."""
    found: dict[str, Any] = {}
    for text in conditions:
        match = _CONDITION.match(text)
        if match is None:
            raise ValueError(f"--where {text!r} should be as year>=2020 or place=Oslo.")
        name, operator, value = match.groups()
        # A mapping has one place for each column, and the last would win without a word.
        if name in found:
            raise ValueError(f"--where has two conditions on {name!r}; give one for a column.")
        found[name] = (operator, _number(value))
    return found or None


def _number(text: str) -> str | int | float:
    """Return a number where a text is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def read_labels(path: Path) -> dict[str, list[str]]:
    """Return the labels of a CSV table by id: its first column, and the second, by commas."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    # The first line names the columns.
    wrong = [i for i, row in enumerate(rows, 1) if len(row) < 2]
    if len(rows) < 2 or wrong:
        raise ValueError(
            f"{path} should have a line of names and then an id and a label in each line; "
            f"{f'line {wrong[0]} has not' if wrong else 'it has none'}."
        )
    return {row[0]: [label.strip() for label in row[1].split(",")] for row in rows[1:]}


def write_tags(path: Path, rows: list[tuple[str, list[str]]]) -> None:
    """Write a table of files and tags that ``create`` and ``add`` read; whole or not at all."""
    with replacing(os.fspath(path)) as file:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="", write_through=True)
        writer = csv.writer(text)
        writer.writerow(["file", "tags"])
        writer.writerows((name, ",".join(tags)) for name, tags in rows)
        # Else the wrapper would close the file before it has been synced.
        text.detach()
