"""The page itself: arrays as text, everything else by a template that escapes it."""

import base64
import hashlib
import unicodedata
from importlib import resources
from typing import Any

import numpy as np
from scipy import sparse

from ..search import CodeIndex
from ._material import Material

__all__ = ["check_jinja2", "clean", "page_data", "render"]

_FIRST = 100  # rows of the library's own ranking that the page holds for each picture and word
_RANKED_BYTES = 3_000_000  # of these, at most
_WORD_BYTES = 2_000_000  # of vectors of words, at most: the most frequent ones


def check_jinja2() -> Any:
    """Return the package, or raise an error that says how to install it."""
    try:
        import jinja2
    except ImportError as error:
        raise ImportError(
            "a report needs Jinja2, which is not installed; pip install skwsdhq[report]."
        ) from error
    return jinja2


def clean(text: Any) -> str:
    """Return a text that can be shown: no control characters, nor halves of letters."""
    kept = str(text).encode("utf-8", "replace").decode("utf-8")
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" else c for c in kept)


def render(context: dict[str, Any]) -> bytes:
    """Return the page, as bytes of UTF-8."""
    jinja2 = check_jinja2()
    folder = resources.files(__package__)
    style, script = (
        (folder / name).read_text("utf-8").replace("\r\n", "\n") for name in ("page.css", "page.js")
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # A browser runs what has these hashes: whatever else might get into the page, it does not.
    context = context | {
        "style": style,
        "script": script,
        "style_hash": _hash(style),
        "script_hash": _hash(script),
    }
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    return template.render(context).encode("utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def page_data(material: Material, pictures: list[str] | None, precision: Any) -> dict[str, Any]:
    """Return what the page's script searches by, as JSON takes it.

    Beside vectors and codes it holds the first rows of the library's own rankings: a browser sums
    in another order than a matrix product does, so that its last bit may differ.
    """
    codebooks, codes = material.quantizer.codebooks_, material.codes
    index = CodeIndex(codebooks, codes)
    n = len(codes)
    names, tags = _numbered(material.tags)
    words = _words(material)
    queries = words.pop("vectors")
    of_rows = _ranked(index, material.embeddings, np.arange(n))
    of_words = _ranked(index, queries, None)
    judged = None
    if material.by_labels and material.judged is not None:
        judged = [row.tolist() for row in np.split(*_split(material.judged))]
    return {
        "n": n,
        "shape": list(codebooks.shape),
        "codebooks": _text(codebooks, "<f4"),
        "codes": _text(codes, "<u2" if codes.dtype.itemsize > 1 else "<u1"),
        "wide": bool(codes.dtype.itemsize > 1),
        "vectors": _text(material.embeddings, "<f4"),
        "first": _text(of_rows, "<u4" if n > 65535 else "<u2"),
        "nFirst": of_rows.shape[1],
        "wordVectors": _text(queries, "<f4"),
        "wordFirst": _text(of_words, "<u4" if n > 65535 else "<u2"),
        "nWordFirst": of_words.shape[1],
        **words,
        "names": [clean(name) for name in material.names],
        "tagNames": [clean(name) for name in names],
        "tags": tags,
        "judged": judged,
        "isJudged": [int(known) for known in material.is_judged],
        "precision": [None if np.isnan(value) else round(float(value), 4) for value in precision],
        "pictures": pictures,
    }


def _text(array: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype=dtype).tobytes()).decode("ascii")


def _numbered(rows: list[list[str]]) -> tuple[list[str], list[list[int]]]:
    """Return distinct tags, the most frequent first, and those of each row by number."""
    counts: dict[str, int] = {}
    for row in rows:
        for tag in row:
            counts[tag] = counts.get(tag, 0) + 1
    names = sorted(counts, key=lambda tag: (-counts[tag], tag))
    place = {tag: i for i, tag in enumerate(names)}
    return names, [[place[tag] for tag in row] for row in rows]


def _split(indicator: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    return indicator.indices, indicator.indptr[1:-1]


def _words(material: Material) -> dict[str, Any]:
    """Return words that can be searched for, the vector of each by number, and these."""
    enhancer = material.enhancer
    nothing = np.zeros((0, material.embeddings.shape[1]), dtype=np.float32)
    vocabulary = getattr(enhancer, "vocabulary_", None)
    if not vocabulary:
        return {"words": [], "wordOf": [], "vectors": nothing}
    order = np.argsort(-np.asarray(enhancer.tag_counts_), kind="stable")
    names = np.array(list(vocabulary), dtype=object)[order]
    concepts = np.asarray(enhancer.labels_)[order]
    # Tags of one concept are looked for in one direction.
    kept, first = np.unique(concepts, return_index=True)
    by_frequency = np.argsort(first, kind="stable")
    kept, first = kept[by_frequency], first[by_frequency]
    most = max(_WORD_BYTES // (4 * nothing.shape[1]), 1)
    kept, first = kept[:most], first[:most]
    # A mapping: a word that begins with "-" is meant as it is.
    queries = [{names[i]: 1.0} for i in first.tolist()]
    try:
        vectors = material.quantizer.embed_query(tags=queries)
    except ValueError:  # a pipeline's last step has no concepts, the step before it has
        vectors = enhancer.embed(queries)
    if vectors.shape[1] != nothing.shape[1]:
        return {"words": [], "wordOf": [], "vectors": nothing}
    place = {int(concept): i for i, concept in enumerate(kept)}
    told = [
        (clean(name), place[int(concept)])
        for name, concept in zip(names, concepts, strict=True)
        if int(concept) in place
    ]
    return {"words": [w for w, _ in told], "wordOf": [p for _, p in told], "vectors": vectors}


def _ranked(index: CodeIndex, queries: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """Return the first rows (q, k) that the library finds; none where they would be too many."""
    k = min(_FIRST, len(index) - (own is not None))
    width = 4 if len(index) > 65535 else 2
    if not len(queries) or k < 1 or len(queries) * k * width > _RANKED_BYTES:
        return np.zeros((len(queries), 0), dtype=np.int64)
    return index.search(queries, k, exclude=own)[1]
