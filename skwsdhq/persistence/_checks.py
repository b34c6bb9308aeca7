"""Whether the attributes of a loaded estimator fit together, so that its methods can trust them.

Only what is known here is checked; attributes that a later version adds are plain values.
"""

import math
from typing import Any

import numpy as np
from scipy import sparse

from .file import LoadError

__all__ = ["check_estimator"]


def check_estimator(estimator: Any) -> None:
    """Raise LoadError where a fitted estimator can't be one."""
    name = type(estimator).__name__
    fitted = {key for key in vars(estimator) if key.endswith("_") and not key.startswith("_")}
    if "n_features_in_" in fitted:
        _count(estimator.n_features_in_, f"n_features_in_ of {name}", least=1)
    if "feature_names_in_" in fitted:
        names = _texts(estimator.feature_names_in_, f"feature_names_in_ of {name}")
        _need(len(names) == getattr(estimator, "n_features_in_", -1), "feature names per column")
    if not fitted:
        return
    check = {
        "TagEnhancer": _check_enhancer,
        "HypersphereEmbedder": _check_embedder,
        "WSDHQuantizer": _check_quantizer,
        "ImageLoader": _check_loader,
    }[name]
    required = _REQUIRED[name]
    if not required <= fitted:
        raise LoadError(f"its {name} lacks {', '.join(sorted(required - fitted))}.")
    check(estimator)


_REQUIRED = {
    "TagEnhancer": {
        "vocabulary_", "tag_vectors_", "graph_", "enhanced_vectors_", "labels_",
        "concept_vectors_", "concept_names_", "tag_counts_",
    },
    "HypersphereEmbedder": {
        "coefs_", "intercepts_", "feature_mean_", "tag_enhancer_", "n_iter_", "history_",
        "backbone_",
    },
    "WSDHQuantizer": {
        "codebooks_", "codes_", "embedder_", "tag_enhancer_", "metric_", "n_bits_", "n_iter_",
        "history_",
    },
    "ImageLoader": {"backbone_", "n_features_out_"},
}  # fmt: skip


def _check_enhancer(enhancer: Any) -> None:
    vocabulary = enhancer.vocabulary_
    is_dict = isinstance(vocabulary, dict) and all(isinstance(tag, str) for tag in vocabulary)
    _need(is_dict, "tags in vocabulary_")
    n_tags = len(vocabulary)
    _need(list(vocabulary.values()) == list(range(n_tags)), "one row for each tag of vocabulary_")
    _matrix(enhancer.tag_vectors_, "tag_vectors_", n_rows=n_tags)
    n_dims = enhancer.tag_vectors_.shape[1]
    _matrix(enhancer.enhanced_vectors_, "enhanced_vectors_", n_tags, n_dims, unit=True)
    _matrix(enhancer.concept_vectors_, "concept_vectors_", None, n_dims, unit=True)
    n_concepts = len(enhancer.concept_vectors_)
    _integers(enhancer.labels_, "labels_", (n_tags,), n_concepts)
    _integers(enhancer.tag_counts_, "tag_counts_", (n_tags,), None)
    names = _texts(enhancer.concept_names_, "concept_names_")
    _need(len(names) == n_concepts, "a name for each concept")
    graph = enhancer.graph_
    _need(
        isinstance(graph, sparse.csr_array) and graph.shape == (n_tags, n_tags), "a (T, T) graph_"
    )
    _need(np.isfinite(graph.data).all(), "finite values in graph_")
    if hasattr(enhancer, "missing_tags_"):
        _texts(enhancer.missing_tags_, "missing_tags_")
    kept = getattr(enhancer, "_kept_columns", None)
    if kept is not None:
        _integers(kept, "_kept_columns", (n_tags,), getattr(enhancer, "n_features_in_", 0))
    columns = getattr(enhancer, "_column_names", None)
    if columns is not None:
        is_list = isinstance(columns, list) and all(isinstance(name, str) for name in columns)
        _need(is_list, "texts in _column_names")


def _check_embedder(embedder: Any) -> None:
    weights, biases = embedder.coefs_, embedder.intercepts_
    _need(isinstance(weights, list) and len(weights) > 0, "layers in coefs_")
    _need(isinstance(biases, list) and len(biases) == len(weights), "a bias for each layer")
    width = None
    for layer, (matrix, bias) in enumerate(zip(weights, biases, strict=True)):
        _matrix(matrix, f"coefs_[{layer}]", n_rows=width)
        width = matrix.shape[1]
        _vector(bias, f"intercepts_[{layer}]", width)
    if embedder.feature_mean_ is not None:
        _vector(embedder.feature_mean_, "feature_mean_", weights[0].shape[0])
    power = getattr(embedder, "feature_power_", 1.0)
    _need(isinstance(power, float) and 0 < power <= 16, "a feature_power_ above 0, at most 16")
    if hasattr(embedder, "n_features_in_"):
        _need(embedder.n_features_in_ == weights[0].shape[0], "n_features_in_ rows in coefs_[0]")
    _check_kernel(getattr(embedder, "kernel_", {}), weights[0].shape[0], width)
    backbone = embedder.backbone_
    _need(backbone is None or isinstance(backbone, str), "a name as backbone_")
    _check_nested(embedder.tag_enhancer_, "tag_enhancer_", width)
    images = backbone is not None
    _need(not (images and hasattr(embedder, "n_features_in_")), "a backbone_ or n_features_in_")
    _check_epochs(embedder)
    trunk = getattr(embedder, "backbone_state_", {})
    _check_trunk(trunk)
    _check_optimizer(getattr(embedder, "_optimizer_state", None), weights, biases, trunk)
    state = getattr(embedder, "_generator_state", None)
    known = state is None or (isinstance(state, np.ndarray) and state.dtype == np.uint8)
    _need(known and (state is None or state.ndim == 1), "bytes as the state of the generator")


def _check_kernel(kernel: Any, n_features: int, n_dims: int | None) -> None:
    if kernel == {}:
        return
    # 0.1's first files do not tell the consistency, which only informs, nor what places later rows
    # by their tags.
    needed = {"landmarks", "coefs", "gamma", "weight"}
    later = {"alpha", "noise", "mean_target", "mean_trust"}
    known = isinstance(kernel, dict) and set(kernel) - {"consistency"} in (needed, needed | later)
    _need(known, "landmarks, coefs, gamma and weight in kernel_")
    landmarks, coefs = kernel["landmarks"], kernel["coefs"]
    _matrix(landmarks, "landmarks of kernel_", None, n_features)
    _matrix(coefs, "coefs of kernel_", len(landmarks), n_dims)
    gamma, weight = kernel["gamma"], kernel["weight"]
    _need(isinstance(gamma, float) and 0 < gamma <= 1e6, "a gamma of kernel_ from 0 to 1e6")
    _need(isinstance(weight, float) and 0 < weight <= 1, "a weight of kernel_ from 0 to 1")
    _need(isinstance(kernel.get("consistency", 0.0), float), "a consistency of kernel_")
    if "noise" in kernel:
        _vector(kernel["noise"], "noise of kernel_", len(landmarks))
        _need((kernel["noise"] > 0).all(), "positive noise of kernel_")
        _vector(kernel["mean_target"], "mean_target of kernel_", n_dims or 0)
        for name in ("alpha", "mean_trust"):
            value = kernel[name]
            _need(
                isinstance(value, float) and 0 < value < math.inf, f"a positive {name} of kernel_"
            )


def _check_trunk(state: Any) -> None:
    _need(isinstance(state, dict), "parameters by name in backbone_state_")
    for name, array in state.items():
        known = isinstance(name, str) and isinstance(array, np.ndarray)
        _need(known and array.dtype == np.float32, "parameters by name in backbone_state_")
        _need(bool(np.isfinite(array).all()), f"finite values in {name} of backbone_state_")


def _check_optimizer(state: Any, weights: list, biases: list, trunk: dict) -> None:
    if state is None:
        return
    layers = zip(weights, biases, strict=True)
    shapes = [shape for matrix, bias in layers for shape in (matrix.T.shape, bias.shape)]
    shapes += [array.shape for array in trunk.values() if array.ndim > 1]
    shapes += [array.shape for array in trunk.values() if array.ndim <= 1]
    known = isinstance(state, dict) and set(state) == {"n_steps", "means", "squares"}
    _need(known, "Adam's steps and moments")
    _count(state["n_steps"], "n_steps")
    for name in ("means", "squares"):
        moments = state[name]
        _need(isinstance(moments, list) and len(moments) == len(shapes), "a moment per parameter")
        for array, shape in zip(moments, shapes, strict=True):
            shaped = isinstance(array, np.ndarray) and array.shape == shape
            _need(shaped and array.dtype.kind == "f", "Adam's moments of a layer's shape")


def _check_quantizer(quantizer: Any) -> None:
    codebooks = quantizer.codebooks_
    _floats(codebooks, "codebooks_", 3)
    n_codebooks, n_codewords, n_dims = codebooks.shape
    possible = n_codebooks >= 1 and 2 <= n_codewords <= 65536 and n_dims >= 1
    _need(possible, "2 to 65536 codewords in at least one codebook")
    codes = quantizer.codes_
    shaped = isinstance(codes, np.ndarray) and codes.ndim == 2
    _need(shaped, "a matrix of codes_")
    _integers(codes, "codes_", (len(codes), n_codebooks), n_codewords)
    _need(
        codes.dtype == (np.uint8 if n_codewords <= 256 else np.uint16),
        "codes_ of one byte, or two where K > 256",
    )
    if quantizer.metric_ is not None:
        _matrix(quantizer.metric_, "metric_", n_dims, n_dims)
        metric = quantizer.metric_
        _need(np.allclose(metric, metric.T) and (np.diag(metric) >= 0).all(), "a symmetric metric_")
    prefix = getattr(quantizer, "prefix_weight_", 0.0)
    _need(isinstance(prefix, float) and 0 <= prefix <= 1e6, "a prefix_weight_ from 0 to 1e6")
    embedder = quantizer.embedder_
    if embedder != "passthrough":
        _check_nested(embedder, "embedder_", None)
        inner = getattr(embedder, "estimator", embedder)
        if hasattr(inner, "coefs_"):
            _need(inner.coefs_[-1].shape[1] == n_dims, "an embedder of the codebooks' dimension")
    if quantizer.tag_enhancer_ is not None:
        _check_nested(quantizer.tag_enhancer_, "tag_enhancer_", None)
    _check_columns(quantizer, embedder, n_dims)
    n_bits = n_codebooks * math.ceil(math.log2(n_codewords))
    _need(quantizer.n_bits_ == n_bits, f"n_bits_ of {n_bits}")
    _check_epochs(quantizer)
    statistics = getattr(quantizer, "_statistics", None)
    if statistics is not None:
        _need(isinstance(statistics, tuple) and len(statistics) == 2, "counts and sums")
        counts, sums = statistics
        _matrix(counts, "counts", n_codebooks * n_codewords, n_codebooks * n_codewords)
        _matrix(sums, "sums", n_codebooks * n_codewords, n_dims)


def _check_columns(quantizer: Any, embedder: Any, n_dims: int) -> None:
    """Columns of X that the quantizer saw, against those that its embedder takes."""
    n_columns = getattr(quantizer, "n_features_in_", None)
    if isinstance(embedder, str):  # embeddings
        _need(n_columns in (None, n_dims), f"n_features_in_ of {n_dims}")
        return
    inner = getattr(embedder, "estimator", embedder)
    expected = getattr(inner, "n_features_in_", None)
    _need(n_columns == expected, f"n_features_in_ of {expected}, as its embedder_ has")


def _check_epochs(estimator: Any) -> None:
    """A history with a loss for each epoch; codebooks alone have turns and no loss."""
    _count(estimator.n_iter_, "n_iter_")
    _history(estimator.history_)
    losses = estimator.history_.get("loss", [])
    _need(not losses or len(losses) == estimator.n_iter_, "a loss for each of n_iter_ epochs")


def _check_loader(loader: Any) -> None:
    backbone = loader.backbone_
    _need(backbone is None or isinstance(backbone, str), "a name as backbone_")
    if loader.n_features_out_ is not None:
        _count(loader.n_features_out_, "n_features_out_", least=1)
    if hasattr(loader, "n_features_in_"):
        passes = backbone is None and loader.n_features_in_ == loader.n_features_out_
        _need(passes, "n_features_in_ columns that pass, and no backbone_")


def _check_nested(estimator: Any, name: str, width: int | None) -> None:
    """A nested estimator; with `width`, one that has concepts of so many dimensions."""
    _need(hasattr(estimator, "get_params"), f"an estimator as {name}")
    if width is not None:
        inner = getattr(estimator, "estimator", estimator)
        vectors = getattr(inner, "concept_vectors_", None)
        _need(
            isinstance(vectors, np.ndarray) and vectors.shape[1] == width,
            f"concepts of {width} dimensions in {name}",
        )


def _need(condition: Any, what: str) -> None:
    if not condition:
        raise LoadError(f"it should hold {what}, and does not.")


def _count(value: Any, name: str, least: int = 0) -> None:
    _need(type(value) is int and value >= least, f"a whole number >= {least} as {name}")


def _floats(array: Any, name: str, n_axes: int) -> None:
    _need(
        isinstance(array, np.ndarray) and array.ndim == n_axes, f"an array of {n_axes} axes {name}"
    )
    _need(array.dtype in (np.float32, np.float64), f"numbers of 4 or 8 bytes as {name}")
    for row in array:  # one by one, so that no mask of the whole is made
        _need(np.isfinite(row).all(), f"finite numbers as {name}")


def _matrix(
    array: Any,
    name: str,
    n_rows: int | None = None,
    n_columns: int | None = None,
    unit: bool = False,
) -> None:
    _floats(array, name, 2)
    _need(n_rows is None or len(array) == n_rows, f"{n_rows} rows as {name}")
    _need(array.shape[1] >= 1, f"columns in {name}")
    _need(n_columns is None or array.shape[1] == n_columns, f"{n_columns} columns as {name}")
    if unit:
        norms = np.sqrt(np.einsum("nd,nd->n", array, array, dtype=np.float64))
        # A mean of opposite vectors is a row of zeros.
        _need(((np.abs(norms - 1) < 1e-3) | (norms == 0)).all(), f"unit rows as {name}")


def _vector(array: Any, name: str, length: int) -> None:
    _floats(array, name, 1)
    _need(len(array) == length, f"{length} numbers as {name}")


def _integers(array: Any, name: str, shape: tuple[int, ...], limit: int | None) -> None:
    is_whole = isinstance(array, np.ndarray) and array.dtype.kind in "iu"
    _need(is_whole and array.shape == shape, f"whole numbers of shape {shape} as {name}")
    if array.size:
        below = limit is None or array.max() < limit
        _need(array.min() >= 0 and below, f"numbers from 0 to below {limit} as {name}")


def _texts(array: Any, name: str) -> np.ndarray:
    _need(isinstance(array, np.ndarray) and array.ndim == 1, f"texts as {name}")
    _need(array.dtype.kind in "OU" or not len(array), f"texts as {name}")
    return array


def _history(history: Any) -> None:
    lists = isinstance(history, dict) and all(
        isinstance(key, str) and isinstance(values, list) for key, values in history.items()
    )
    _need(lists, "lists of numbers in history_")
    plain = all(isinstance(v, (int, float)) for values in history.values() for v in values)
    _need(plain, "lists of numbers in history_")
