"""What a file holds of a WSDHQuantizer."""

import math
from typing import Any

import numpy as np

from ..persistence.checks import (
    check_epochs,
    check_floats,
    check_integers,
    check_matrix,
    check_nested,
    need,
)
from ..utils.estimators import unfrozen
from ._suggest import NUMBERS

__all__ = ["REQUIRED", "check_quantizer", "from_format_1"]

REQUIRED = {
    "codebooks_", "codes_", "embedder_", "tag_enhancer_", "metric_", "prefix_weight_",
    "length_weight_", "n_bits_", "n_iter_", "history_", "_statistics",
}  # fmt: skip


def from_format_1(parameters: dict, attributes: dict) -> tuple[dict, dict]:
    """Return what format 1 holds of a quantizer as format 2 does.

    Codebooks of the first files were learned without weights of prefixes and lengths, and encode
    without.
    """
    if "codebooks_" not in attributes:
        return parameters, attributes
    return parameters, {
        "prefix_weight_": 0.0,
        "length_weight_": 0.0,
        "_statistics": None,
        "tag_calibration_": None,
        "tag_directions_": None,
        **attributes,
    }


def check_quantizer(quantizer: Any) -> None:
    """Raise LoadError where codebooks, codes, metric and embedder do not fit together."""
    codebooks = quantizer.codebooks_
    check_floats(codebooks, "codebooks_", 3)
    n_codebooks, n_codewords, n_dims = codebooks.shape
    possible = n_codebooks >= 1 and 2 <= n_codewords <= 65536 and n_dims >= 1
    need(possible, "2 to 65536 codewords in at least one codebook")
    codes = quantizer.codes_
    # The number of rows is the file's to say; all else follows from the codebooks.
    shaped = isinstance(codes, np.ndarray) and codes.ndim == 2
    need(shaped, "a matrix of codes_")
    check_integers(codes, "codes_", (len(codes), n_codebooks), n_codewords)
    need(
        codes.dtype == (np.uint8 if n_codewords <= 256 else np.uint16),
        "codes_ of one byte, or two where K > 256",
    )
    if quantizer.metric_ is not None:
        check_matrix(quantizer.metric_, "metric_", n_dims, n_dims)
        metric = quantizer.metric_
        # Encoding takes it for VᵀV.
        need(np.allclose(metric, metric.T) and (np.diag(metric) >= 0).all(), "a symmetric metric_")
    for name in ("prefix_weight_", "length_weight_"):
        weight = getattr(quantizer, name)
        need(isinstance(weight, float) and 0 <= weight <= 1e6, f"a {name} from 0 to 1e6")
    embedder = quantizer.embedder_
    if embedder != "passthrough":
        check_nested(embedder, "embedder_", None)
        # A FrozenEstimator keeps the embedder within.
        inner = unfrozen(embedder)
        if hasattr(inner, "tag_enhancer_"):
            check_nested(inner.tag_enhancer_, "tag_enhancer_ of embedder_", n_dims)
    if quantizer.tag_enhancer_ is not None:
        check_nested(quantizer.tag_enhancer_, "tag_enhancer_", None)
    _check_columns(quantizer, embedder, n_dims)
    _check_calibration(quantizer)
    _check_directions(quantizer)
    n_bits = n_codebooks * math.ceil(math.log2(n_codewords))
    need(quantizer.n_bits_ == n_bits, f"n_bits_ of {n_bits}")
    check_epochs(quantizer)
    statistics = quantizer._statistics
    if statistics is not None:
        # Of partial_fit, which goes on from them.
        need(isinstance(statistics, tuple) and len(statistics) == 2, "counts and sums")
        counts, sums = statistics
        check_matrix(counts, "counts", n_codebooks * n_codewords, n_codebooks * n_codewords)
        check_matrix(sums, "sums", n_codebooks * n_codewords, n_dims)


def _check_columns(quantizer: Any, embedder: Any, n_dims: int) -> None:
    """Compare the columns of X that the quantizer saw with those that its embedder takes."""
    n_columns = getattr(quantizer, "n_features_in_", None)
    if isinstance(embedder, str):  # embeddings
        need(n_columns in (None, n_dims), f"n_features_in_ of {n_dims}")
        return
    inner = unfrozen(embedder)
    expected = getattr(inner, "n_features_in_", None)
    need(n_columns == expected, f"n_features_in_ of {expected}, as its embedder_ has")


def _check_directions(quantizer: Any) -> None:
    """Check where words are looked for; older files say nothing of it."""
    directions = getattr(quantizer, "tag_directions_", None)
    if directions is None:
        return
    enhancer = quantizer.tag_enhancer_
    vectors: Any = getattr(unfrozen(enhancer), "concept_vectors_", None)
    need(vectors is not None, "concepts beside tag_directions_")
    check_matrix(directions, "tag_directions_", len(vectors), quantizer.codebooks_.shape[2])


def _check_calibration(quantizer: Any) -> None:
    """Check what turns nearness to concepts into probabilities; older files hold none."""
    known = getattr(quantizer, "tag_calibration_", None)
    if known is None:
        return
    parts = {"starts", "concepts", *NUMBERS}
    by_kernel = {"by_kernel", "thresholds"}
    is_whole = isinstance(known, dict) and set(known) in (parts, parts | by_kernel)
    need(is_whole, "a whole tag_calibration_")
    for name in NUMBERS:
        need(
            isinstance(known[name], float) and math.isfinite(known[name]),
            f"a finite {name} in tag_calibration_",
        )
    enhancer = quantizer.tag_enhancer_
    vectors: Any = getattr(unfrozen(enhancer), "concept_vectors_", None)
    need(vectors is not None, "concepts beside tag_calibration_")
    starts, concepts = known["starts"], known["concepts"]
    n_rows = len(quantizer.codes_)
    check_integers(concepts, "concepts of tag_calibration_", (np.size(concepts),), len(vectors))
    check_integers(starts, "starts of tag_calibration_", (n_rows + 1,), len(concepts) + 1)
    rises = starts[0] == 0 and (np.diff(starts.astype(np.int64)) >= 0).all()
    need(rises and starts[-1] == len(concepts), "a part of concepts for each row")
    need(vectors.shape[1] == quantizer.codebooks_.shape[2], "concepts as wide as codewords")
    if "by_kernel" in known:
        check_floats(known["by_kernel"], "by_kernel of tag_calibration_", 1)
        check_floats(known["thresholds"], "thresholds of tag_calibration_", 1)
        need(len(known["by_kernel"]) == 5, "5 numbers by_kernel in tag_calibration_")
        thresholds = known["thresholds"]
        need(len(thresholds) == len(vectors) and (thresholds > 0).all(), "positive thresholds")
        kernel: Any = getattr(embedder_of(quantizer), "kernel_", None) or {}
        n_tagged = int((np.diff(starts.astype(np.int64)) > 0).sum())
        need(len(kernel.get("landmarks", ())) == n_tagged, "a landmark for each row with tags")
        need("noise" in kernel, "noise of the kernel beside by_kernel")


def embedder_of(quantizer: Any) -> Any:
    """Return the embedder, as it is in a FrozenEstimator."""
    return unfrozen(quantizer.embedder_)
