"""The beginning of a collection: a directory, and the features of its first images."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..backbones import resolve_auto
from ._items import delete_items, insert_items, set_columns, set_tags
from ._source import Arrivals, Reading
from ._store import Store

__all__ = ["DATABASE", "begun", "check_free", "gather", "reading_of", "rows_to_insert"]

DATABASE = "items.sqlite"


def check_free(folder: Path) -> None:
    """Refuse a directory that holds other things than a collection."""
    if folder.is_dir() and any(folder.iterdir()):
        # Killed before its database was made, a creation has left its lock alone.
        if not ((folder / DATABASE).exists() or (folder / "creation.lock").exists()):
            raise FileExistsError(
                f"{str(folder)!r} holds other files; name a directory that is empty or new."
            )
    elif folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{str(folder)!r} is a file; name a directory.")


def reading_of(store: Store, n_jobs: int | None, device: Any) -> Reading:
    """Return how a collection reads images."""
    known = json.loads(store.meta("reading"))
    return Reading(known["backbone"], known["dtype"], known["n_features"], n_jobs, device)


def begun(
    store: Store, arrivals: Arrivals, backbone: str, n_jobs: int | None, device: Any
) -> Reading:
    """Return how images are read: as a creation that was broken off began, or as is asked."""
    if store.meta("reading") is not None:
        reading = reading_of(store, n_jobs, device)
        # Features of two networks are not to be compared, whatever is asked for now.
        if (reading.backbone is None) == (arrivals.kind == "features"):
            return reading
        raise ValueError("the creation that was broken off had images of another kind.")
    if arrivals.kind == "features":
        # Half the bytes lose nothing that a search would show.
        return Reading(None, _dtype_for(arrivals.images), None, n_jobs, device)
    if not isinstance(backbone, str):
        raise TypeError("backbone should be a name, which a collection can keep.")
    name = resolve_auto() if backbone == "auto" else backbone
    return Reading(name, "float16", None, n_jobs, device)


def _dtype_for(features: Any) -> str:
    """Return float16, or float32 for features that it does not hold."""
    array = np.asarray(features)
    if array.dtype.kind not in "iuf" or not array.size:
        return "float16"  # refused later
    return "float16" if np.abs(array).max() < 3e4 else "float32"


def gather(store: Store, arrivals: Arrivals, reading: Reading, on_error: str, verbose: int) -> None:
    """Keep items and features of images that are not there yet, some in each transaction."""
    known = dict(store.connection.execute("SELECT id, row FROM items").fetchall())
    wanted = set(arrivals.ids)
    gone = np.array([row for name, row in known.items() if name not in wanted], dtype=np.int64)
    if len(gone):
        # The call decides what there is: what it names no more goes.
        with store.writing():
            delete_items(store, gone)
    if known:
        with store.writing():
            for name, tags, columns in zip(
                arrivals.ids, arrivals.tags, arrivals.columns, strict=True
            ):
                if name in known:
                    set_tags(store, known[name], tags)
                    set_columns(store, known[name], columns)
    # Features that were kept before the kill are not extracted again.
    todo = [i for i, name in enumerate(arrivals.ids) if name not in known]
    n_kept = len(arrivals) - len(todo)
    for some, features in arrivals.read(todo, reading, on_error, verbose):
        n_kept += len(some)
        with store.writing():
            insert_items(store, rows_to_insert(arrivals, some), features)
            kept = {
                "backbone": reading.backbone,
                "dtype": reading.dtype.name,
                "n_features": reading.n_features,
            }
            # With the first of them, so that there are no features of an unknown kind.
            store.set_meta("reading", json.dumps(kept))
    if not n_kept:
        raise ValueError(f"none of the {len(arrivals)} images could be read.")


def rows_to_insert(arrivals: Arrivals, some: list[int]) -> list[tuple]:
    """Return (id, path, tags, columns) of some arrivals."""
    return [
        (arrivals.ids[i], arrivals.paths[i], arrivals.tags[i], arrivals.columns[i]) for i in some
    ]
