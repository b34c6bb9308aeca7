"""What a report tells of its rows: scores, queries, labels, codewords, concepts, duplicates."""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from .. import metrics
from ..collection.duplicates import duplicate_pairs
from ..embedding.agreement import agreement_of, expected_embeddings, named_tags
from ..search import CodeIndex
from ._material import Material

__all__ = [
    "Judgement",
    "codewords",
    "doubtful_tags",
    "judge",
    "merged_concepts",
    "near_duplicates",
    "queries_at_the_ends",
    "scores_of_labels",
]

_BLOCK = 256  # queries whose whole ranking is held at once
_BARS = 64  # codewords of a codebook that are drawn, at most


class Judgement(NamedTuple):
    """Hold how good the ranking of each row is, and what it finds first."""

    precision: np.ndarray  # (n,) NaN where nothing is relevant or nobody knows
    first: np.ndarray  # (n, k) rows that are found first, itself left out
    similarities: np.ndarray  # (n, k)
    is_hit: np.ndarray  # (n, k) bool


def judge(material: Material, top_k: int, k: int) -> Judgement:
    """Rank all rows for each, as ``score`` does, and compare labels, or tags where there are none.

    Rows that do not take part are neither queries nor found.
    """
    n, part = len(material.codes), np.flatnonzero(material.is_judged)
    depth = min(top_k, len(part) - 1)
    k = max(min(k, depth), 0)
    found = Judgement(
        np.full(n, np.nan), np.zeros((n, k), int), np.zeros((n, k)), np.zeros((n, k), bool)
    )
    if len(part) < 2 or material.judged is None:
        return found
    index = CodeIndex(material.quantizer.codebooks_, material.codes[part])
    labels = sparse.csr_array(material.judged[part], dtype=np.float32)
    for start in range(0, len(part), _BLOCK):
        own = np.arange(start, min(start + _BLOCK, len(part)))
        similarities, ranked = index.search(material.embeddings[part[own]], depth, exclude=own)
        shared = (labels[own] @ labels.T).toarray() > 0
        relevant = np.take_along_axis(shared, ranked, axis=1)
        found.precision[part[own]] = metrics.average_precision(relevant)
        found.first[part[own]] = part[ranked[:, :k]]
        found.similarities[part[own]] = similarities[:, :k]
        found.is_hit[part[own]] = relevant[:, :k]
    return found


def queries_at_the_ends(judgement: Judgement, n: int) -> dict[str, list[dict[str, Any]]]:
    """Return the n best and the n worst queries, each with what it finds."""
    known = np.flatnonzero(np.isfinite(judgement.precision))
    order = known[np.argsort(-judgement.precision[known], kind="stable")]
    n = min(n, len(order) // 2)

    def told(row: int) -> dict[str, Any]:
        found = zip(
            judgement.first[row].tolist(),
            judgement.similarities[row].tolist(),
            judgement.is_hit[row].tolist(),
            strict=True,
        )
        return {"row": row, "precision": float(judgement.precision[row]), "found": list(found)}

    return {
        "best": [told(row) for row in order[:n].tolist()],
        "worst": [told(row) for row in order[::-1][:n].tolist()],
    }


def scores_of_labels(material: Material, judgement: Judgement, most: int) -> list[dict[str, Any]]:
    """Return the mean average precision of the queries that carry each label, the worst first."""
    if material.judged is None:
        return []
    known = np.isfinite(judgement.precision)
    carried = sparse.csr_array(material.judged[known], dtype=np.float64)
    counts = np.asarray(carried.sum(axis=0)).ravel()
    sums = carried.T @ judgement.precision[known]
    # Of many tags those that most pictures carry: one of two pictures says little.
    frequent = np.argsort(-counts, kind="stable")[:most]
    rows = [
        {"name": material.judged_names[i], "count": int(counts[i]), "score": sums[i] / counts[i]}
        for i in frequent.tolist()
        if counts[i]
    ]
    return sorted(rows, key=lambda row: row["score"])


def codewords(material: Material) -> list[dict[str, Any]]:
    """Return of each codebook its entropy, its capacity, and how much each codeword is used."""
    n_codewords = material.quantizer.codebooks_.shape[1]
    found = []
    for column in material.codes.T.astype(np.int64):
        counts = np.sort(np.bincount(column, minlength=n_codewords))[::-1]
        share = counts / max(counts.sum(), 1)
        used = share[share > 0]
        found.append(
            {
                "entropy": abs(float(-(used * np.log2(used)).sum())),
                "capacity": float(np.log2(n_codewords)),
                "unused": int((counts == 0).sum()),
                "largest": float(share[0]),
                "bars": (share[:_BARS] / max(share[0], 1e-12)).tolist(),
            }
        )
    return found


def merged_concepts(material: Material) -> list[dict[str, Any]]:
    """Return what was merged: concepts of several tags, those of most tags first."""
    enhancer = material.enhancer
    if not hasattr(enhancer, "concept_summary"):
        return []
    return [row for row in enhancer.concept_summary() if len(row["tags"]) > 1]


def doubtful_tags(material: Material, most: int) -> dict[str, Any] | None:
    """Return tags that contradict their picture, the most doubtful first; None without concepts."""
    enhancer = material.enhancer
    vectors = getattr(enhancer, "concept_vectors_", None)
    if vectors is None or not any(material.tags):
        return None
    indicator = sparse.csr_array(enhancer.transform(material.tags))
    tagged = np.diff(indicator.indptr) > 0
    by_fit = bool(getattr(material.embedder, "kernel_", None))
    # Where there is no regression, what was learned is the next best.
    expected = material.embeddings
    if by_fit:
        expected = expected_embeddings(material.embedder, material.inputs, tagged)
    if expected.shape[1] != vectors.shape[1] or not indicator.nnz:
        return None
    found = agreement_of(expected, indicator, vectors)
    # What agrees better than tags of other pictures do is no doubt worth a look.
    order = np.argsort(found.cosines, kind="stable")[:most]
    order = order[found.cosines[order] < found.usual]
    rows = []
    for entry in order.tolist():
        row, concept = int(found.rows[entry]), int(found.concepts[entry])
        named = named_tags(enhancer, material.tags[row], concept)
        rows.append({"row": row, "tags": named, "cosine": float(found.cosines[entry])})
    return {
        "rows": rows,
        "n_tags": len(found.cosines),
        "usual": found.usual,
        "wrong_share": found.wrong_share,
        "by_fit": by_fit,
    }


def near_duplicates(material: Material, threshold: float, most: int) -> dict[str, Any]:
    """Return pairs of rows that look the same or nearly so, the most alike first."""
    pairs, cosines = duplicate_pairs(
        material.features, material.quantizer.codebooks_, material.codes, threshold
    )
    told = zip(pairs[:most].tolist(), cosines[:most].tolist(), strict=True)
    return {"n": len(pairs), "pairs": [(a, b, cosine) for (a, b), cosine in told]}
