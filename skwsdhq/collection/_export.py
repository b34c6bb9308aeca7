"""Write what a collection holds to files that others read."""

import csv
import io
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..search import CodeIndex
from ..utils.files import replacing
from ..utils.validation import check_choice
from ._items import Item, items_of
from ._snapshot import Snapshot
from ._store import Store

__all__ = ["export"]

_FORMS = ("csv", "jsonl", "faiss", "numpy")
_AT_ONCE = 1000


def export(store: Store, snapshot: Snapshot, path: str | os.PathLike, form: str) -> None:
    """Write a file, whole or not at all; see :meth:`Collection.export`."""
    check_choice("form", form, _FORMS)
    if form == "faiss":
        _write_faiss(snapshot, path)
        return
    with replacing(path) as file:
        if form == "numpy":
            # In the order of the codes, since both come from one transaction.
            names = [item.id for item in _all_items(store, snapshot)]
            np.savez(
                file,
                codebooks=snapshot.quantizer.codebooks_,
                codes=snapshot.codes,
                rows=snapshot.rows,
                ids=np.array(names, dtype=str),
            )
            return
        # Lines end as the table says, not as the system does.
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        if form == "csv":
            _write_csv(store, snapshot, text)
        else:
            for item in _all_items(store, snapshot):
                row = {"id": item.id, "path": item.path, "tags": item.tags, **_apart(item)}
                text.write(json.dumps(row, ensure_ascii=False) + "\n")
        # Else the wrapper would close the file before it has been synced.
        text.detach()


def _apart(item: Item) -> dict[str, Any]:
    """Return the columns of an item, those under a name of ours with a line before it."""
    return {f"_{k}" if k in ("id", "path", "tags") else k: v for k, v in item.columns.items()}


def _write_csv(store: Store, snapshot: Snapshot, text: Any) -> None:
    found = store.connection.execute("SELECT DISTINCT name FROM columns ORDER BY name")
    names = [f"_{name}" if name in ("id", "path", "tags") else name for (name,) in found]
    writer = csv.DictWriter(text, ["id", "path", "tags", *names], restval="")
    writer.writeheader()
    for item in _all_items(store, snapshot):
        own = {"id": item.id, "path": item.path or "", "tags": ",".join(item.tags)}
        writer.writerow(own | _apart(item))


def _write_faiss(snapshot: Snapshot, path: str | os.PathLike) -> None:
    # Takes long to load, and few export to it.
    import faiss

    # Texts are no ids to faiss: rows are numbers that stay.
    index = CodeIndex(snapshot.quantizer.codebooks_, snapshot.codes, ids=snapshot.rows)
    with replacing(path) as file:
        file.write(faiss.serialize_index(index.to_faiss()).tobytes())


def _all_items(store: Store, snapshot: Snapshot) -> Iterator[Item]:
    rows = snapshot.rows
    for start in range(0, len(rows), _AT_ONCE):
        yield from items_of(store, rows[start : start + _AT_ONCE])
