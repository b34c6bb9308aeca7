"""The report: read what was given, compute its figures, write the page."""

import os
from typing import Any

import numpy as np

from .._version import __version__
from ..utils.files import replacing
from ..utils.validation import check_whole
from ._figures import (
    Judgement,
    codewords,
    doubtful_tags,
    judge,
    merged_concepts,
    near_duplicates,
    queries_at_the_ends,
    scores_of_labels,
)
from ._material import Material, of_collection, of_estimator
from ._page import check_jinja2, clean, page_data, render
from ._pictures import data_uris

__all__ = ["retrieval_report"]

_N_FOUND = 8  # beside each query
_N_QUERIES = 5  # of the best, and of the worst
_N_LABELS, _N_CONCEPTS, _N_DOUBTS, _N_PAIRS = 100, 100, 60, 40
_ALIKE = 0.95  # least cosine of near duplicates


def retrieval_report(  # noqa: PLR0913 - options of a call, all but five by name
    estimator_or_collection: Any,
    X: Any = None,
    tags: Any = None,
    labels: Any = None,
    path: str | os.PathLike[str] = "report.html",
    *,
    images: Any = None,
    names: Any = None,
    title: str = "Retrieval report",
    top_k: int | None = None,
    max_images: int = 5000,
    n_jobs: int | None = None,
) -> str:
    """Write a page that shows how pictures are found, and what to look at in their tags.

    One HTML file, to be opened in any browser and handed on: it needs no network and no other
    file. It tells sizes, bits and mAP, the best and the worst queries, mAP by label, the use of
    codewords, merged concepts, tags that contradict their picture (by the trust that a fit
    computes), and near duplicates. It searches as well: by a picture that is clicked, by words, and
    among the pictures of a tag, in the order in which this library ranks them.

    Parameters
    ----------
    estimator_or_collection : WSDHQuantizer, Pipeline that ends in one, or Collection
        Fitted.
    X : images or features of n rows, default=None
        As for ``fit``. None is all items of a collection, with their own tags.
    tags : tags of n rows, default=None
        In any form that :func:`skwsdhq.tags.check_tags` reads.
    labels : labels of n rows, default=None
        What to judge by; in a collection a mapping of ids to labels as well, as for
        :meth:`Collection.evaluate`. None judges by shared tags, as ``score`` does.
    path : str or PathLike, default="report.html"
        Of the file to write; one that is there is replaced when the new one is whole.
    images : sequence of n pictures, default=None
        Paths, arrays or Pillow images to show. None takes X, where it holds images, or the files of
        a collection; features without pictures are shown by name.
    names : sequence of n str, default=None
        None takes paths, the ids of a collection, or numbers.
    title : str, default="Retrieval report"
        Of the page.
    top_k : int, default=None
        R of mAP@R. None is the quantizer's ``top_k``.
    max_images : int, default=5000
        Of more rows, so many are drawn at random, and the report is of these alone.
    n_jobs : int, default=None
        Threads that read pictures.

    Returns
    -------
    str
        The path.

    Raises
    ------
    ImportError
        If Jinja2 is not installed.

    See Also
    --------
    skwsdhq.WSDHQuantizer.score : The mAP that is told.

    Examples
    --------
    >>> import os, tempfile
    >>> from skwsdhq import WSDHQuantizer
    >>> from skwsdhq.datasets import make_tagged_images
    >>> from skwsdhq.report import retrieval_report
    >>> made = make_tagged_images(60, random_state=0)
    >>> quantizer = WSDHQuantizer(n_bits=8, n_codewords=16, random_state=0)
    >>> quantizer = quantizer.fit(made.data, made.tags)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "report.html")
    ...     os.path.getsize(retrieval_report(quantizer, made.data, made.tags, path=path)) > 10_000
    True
    """
    check_jinja2()  # before hours of other work
    max_images = check_whole("max_images", max_images, 2)
    if top_k is not None:
        top_k = check_whole("top_k", top_k)
    is_collection = hasattr(estimator_or_collection, "evaluate")
    read = of_collection if is_collection else of_estimator
    material = read(estimator_or_collection, X, tags, labels, images, names, max_images)
    if top_k is None:
        top_k = int(getattr(material.quantizer, "top_k", 5000))
    judgement = judge(material, top_k, _N_FOUND)
    pictures = None if material.images is None else data_uris(material.images, n_jobs)
    context = _context(material, judgement, top_k) | {
        "title": clean(title),
        "version": __version__,
        "data": page_data(material, pictures, judgement.precision),
    }
    page = render(context)
    with replacing(path) as file:
        file.write(page)
    return os.fspath(path)


def _context(material: Material, judgement: Judgement, top_k: int) -> dict[str, Any]:
    """Return what the template shows."""
    known = judgement.precision[np.isfinite(judgement.precision)]
    concepts = merged_concepts(material)
    doubts = doubtful_tags(material, _N_DOUBTS)
    for row in doubts["rows"] if doubts else ():
        row["tags"] = [clean(tag) for tag in row["tags"]]
    labels = scores_of_labels(material, judgement, _N_LABELS)
    for row in labels:
        row["name"] = clean(row["name"])
    return {
        "names": [clean(name) for name in material.names],
        "figures": _figures(material, known, top_k),
        "ends": queries_at_the_ends(judgement, _N_QUERIES),
        "labels": labels,
        "by_labels": material.by_labels,
        "top_k": top_k,
        "codebooks": codewords(material),
        "n_concepts": len(concepts),
        "concepts": [
            row | {"concept": clean(row["concept"]), "tags": [clean(tag) for tag in row["tags"]]}
            for row in concepts[:_N_CONCEPTS]
        ],
        "doubts": doubts,
        "duplicates": near_duplicates(material, _ALIKE, _N_PAIRS),
        "alike": _ALIKE,
        "n_shown": len(material.codes),
        "n_given": material.n_given,
    }


def _figures(material: Material, known: np.ndarray, top_k: int) -> list[tuple[str, str, str]]:
    """Return figures as (name, value, what it means)."""
    n = len(material.codes)
    n_tags = [len(row) for row in material.tags]
    n_bits = int(material.quantizer.n_bits_)
    n_distinct = len(np.unique(material.codes, axis=0))
    different = len({tag for row in material.tags for tag in row})
    found = [("Pictures", f"{n:,}", f"{sum(not count for count in n_tags):,} without tags")]
    if different:
        found.append(("Tags", f"{different:,}", f"{np.mean(n_tags):.1f} a picture"))
    enhancer = material.enhancer
    if hasattr(enhancer, "concept_names_"):
        n_known = len(enhancer.vocabulary_)
        found.append(
            ("Concepts", f"{len(enhancer.concept_names_):,}", f"of {n_known:,} known tags")
        )
    found.append(("Bits", f"{n_bits}", f"a code; {n_distinct:,} different codes"))
    if len(known):
        by = "shared labels" if material.by_labels else "shared tags"
        found.append((f"mAP@{top_k}", f"{known.mean():.3f}", f"by {by}, {len(known):,} queries"))
    return found
