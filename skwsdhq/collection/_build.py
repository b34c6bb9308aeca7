"""Make a collection's model of the features that it keeps, and the codes of all its items."""

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone

from ..embedding import HypersphereEmbedder, TagKernelRegressor
from ..persistence import load
from ..quantization import WSDHQuantizer
from ..quantization.lengths import code_size
from ..tags.enhancer import TagEnhancer
from ..utils.estimators import takes_tags, unfrozen
from ._snapshot import code_shape
from ._source import Reading, features_of_rows
from ._store import Store

__all__ = ["Wanted", "build", "codes_of", "load_model", "new_quantizer", "places_by_tags"]

_MOST_TO_FIT = 10_000  # items that a model learns from; more would teach it little
_MANY, _LANDMARKS = 4096, 2048  # items from which on the kernel compares with so many of them
_BLOCK = 8192  # rows whose codes are made at once


class Wanted(NamedTuple):
    """Hold what kind of model is to be learned."""

    quantizer: Any  # a WSDHQuantizer to clone, or None
    n_bits: int  # of a default one
    random_state: Any
    word_vectors: Any  # of a default one


def new_quantizer(wanted: Wanted, n_rows: int) -> Any:
    """Return a quantizer to be fitted: a clone of the given one, or one of so many bits."""
    random_state = wanted.random_state
    if wanted.quantizer is not None:
        twin = clone(wanted.quantizer)
        if random_state is not None:
            twin.set_params(random_state=random_state)
        return twin
    code_size(wanted.n_bits, None, None, n_rows)  # None is no number of bits here
    # A kernel of all landmarks with each other takes most of the memory of a fit.
    kernel = TagKernelRegressor(max_landmarks=_LANDMARKS) if n_rows > _MANY else None
    embedder = HypersphereEmbedder(TagEnhancer(wanted.word_vectors), kernel=kernel)
    return WSDHQuantizer(embedder, n_bits=wanted.n_bits, random_state=random_state)


def build(store: Store, reading: Reading, wanted: Wanted) -> None:
    """Learn a model, and put it and its codes in the place of what there is, in one step.

    What is written meanwhile by others is coded before that step.
    """
    with store.reading():
        tags = _tags_of_all(store)
        rows = np.array(list(tags), dtype=np.int64)
        number = int(store.meta("model", 0)) + 1
    tagged = np.flatnonzero([bool(tags[row]) for row in rows.tolist()])
    if not len(tagged):
        raise ValueError(
            f"a collection learns from tags, and none of its {len(rows)} images has any; give tags."
        )
    model = new_quantizer(wanted, len(rows))
    chosen = _to_fit(len(rows), tagged)
    # Long, and outside of any transaction: others write meanwhile.
    chosen, features = _there(store, rows, chosen, reading)
    model.fit(features, [tags[row] for row in rows[chosen].tolist()])
    del features
    path = store.path.with_name(f"model-{number}.safetensors")
    model.save(path)
    model = load(path)  # what others will read, so that all make the same codes
    fitted = {int(rows[i]) for i in chosen if tags[int(rows[i])]}
    shape = code_shape(model)
    codes = np.zeros((len(rows), shape[0]), dtype=shape[1])
    # Some at a time: all features may be gigabytes.
    for start in range(0, len(rows), _BLOCK):
        some, features = _there(store, rows, np.arange(len(rows))[start : start + _BLOCK], reading)
        own = [_own(tags, fitted, row) for row in rows[some].tolist()]
        codes[some] = codes_of(model, features, own)
    with store.writing() as (connection, version):
        _replace(store, reading, version, model, (rows, codes, tags), fitted)
        store.set_meta("model", number)
        store.set_meta("n_bits", int(model.n_bits_))
        store.set_meta("state", "ready")
        connection.execute("UPDATE items SET fitted = 0 WHERE fitted")
        connection.executemany(
            "UPDATE items SET fitted = 1 WHERE row = ?", [(row,) for row in sorted(fitted)]
        )
    for other in store.path.parent.glob("model-*.safetensors"):
        if other != path:
            with contextlib.suppress(OSError):  # one that another process just reads
                other.unlink()


def _replace(
    store: Store,
    reading: Reading,
    version: int,
    model: Any,
    made: tuple[np.ndarray, np.ndarray, dict[int, list[str]]],
    fitted: set[int],
) -> None:
    """Write codes of the items of now: those that are made, and others where it has changed."""
    rows, codes, tags = made
    now = _tags_of_all(store)
    current = np.array(sorted(now), dtype=np.int64)
    place = {row: i for i, row in enumerate(rows.tolist())}
    final = np.zeros((len(current), codes.shape[1]), dtype=codes.dtype)
    changed = []
    for i, row in enumerate(current.tolist()):
        if row in place and tags[row] == now[row]:
            final[i] = codes[place[row]]
        else:
            changed.append(i)
            fitted.discard(row)
    if changed:
        some = current[changed]
        own = [now[row] for row in some.tolist()]
        final[changed] = codes_of(model, features_of_rows(store, some, reading), own)
    store.replace_codes(version, current, final)


def _there(
    store: Store, rows: np.ndarray, chosen: np.ndarray, reading: Reading
) -> tuple[np.ndarray, np.ndarray]:
    """Return which of the chosen are still there, and their features."""
    with store.reading():
        found = store.select("SELECT row FROM features WHERE row IN ({})", rows[chosen].tolist())
        chosen = chosen[np.isin(rows[chosen], [row for (row,) in found])]
        return chosen, features_of_rows(store, rows[chosen], reading)


def _own(tags: dict[int, list[str]], fitted: set[int], row: int) -> list[str]:
    """Return the tags that place a row; the model knows those of the fit already."""
    return [] if row in fitted else tags[row]


def _tags_of_all(store: Store) -> dict[int, list[str]]:
    """Return the tags of all items that have features, by row."""
    found = store.connection.execute("SELECT row, tags FROM items ORDER BY row")
    return {row: json.loads(tags) for row, tags in found}


def _to_fit(n: int, tagged: np.ndarray) -> np.ndarray:
    """Return the rows to learn from, ascending: all, or some of those with tags."""
    if n <= _MOST_TO_FIT:
        return np.arange(n)
    if len(tagged) <= _MOST_TO_FIT:
        return tagged
    return np.sort(np.random.RandomState(0).permutation(tagged)[:_MOST_TO_FIT])


def codes_of(model: Any, features: np.ndarray, tags: list[list[str]]) -> np.ndarray:
    """Return codes (n, M) of features, placed by tags as well where the model can."""
    shape = code_shape(model)
    codes = np.empty((len(features), shape[0]), dtype=shape[1])
    can_place = places_by_tags(model)
    for start in range(0, len(features), _BLOCK):
        block = slice(start, start + _BLOCK)
        # As a search reads them, so that an item is its own nearest.
        rows = features[block].astype(np.float32)
        own = tags[block] if can_place and any(tags[block]) else None
        codes[block] = model.encode(rows, tags=own)
    return codes


def places_by_tags(model: Any) -> bool:
    """Tell whether a model takes the tags of images that came after its fit."""
    embedder = unfrozen(model.embedder_)
    kernel: Any = getattr(embedder, "kernel_", None)
    return takes_tags(embedder) and bool(kernel) and "noise" in kernel


def load_model(store: Store, number: int) -> Any:
    """Load a model of a collection."""
    return load(Path(store.path).with_name(f"model-{number}.safetensors"))
