"""What a file holds of a HypersphereEmbedder."""

import math
from typing import Any

import numpy as np

from ..persistence.checks import (
    check_count,
    check_epochs,
    check_matrix,
    check_nested,
    check_vector,
    need,
)

__all__ = ["REQUIRED", "check_embedder", "from_format_1"]

REQUIRED = {
    "coefs_", "intercepts_", "feature_mean_", "feature_power_", "kernel_", "tag_enhancer_",
    "n_iter_", "history_", "backbone_", "backbone_state_", "_optimizer_state", "_generator_state",
}  # fmt: skip


def from_format_1(parameters: dict, attributes: dict) -> tuple[dict, dict]:
    """Return what format 1 holds of an embedder as format 2 does.

    The first files know of no power, no kernel regression, no network that learned, and no state
    of a generator. Kernels of the next ones do not tell the consistency, which only informs.
    """
    if "coefs_" not in attributes:
        return parameters, attributes
    added = {
        "feature_power_": 1.0,
        "kernel_": {},
        "backbone_state_": {},
        "_optimizer_state": None,
        "_generator_state": None,
    }
    attributes = {**added, **attributes}
    if attributes["kernel_"]:
        attributes["kernel_"] = {"consistency": math.nan, **attributes["kernel_"]}
    return parameters, attributes


def check_embedder(embedder: Any) -> None:
    """Raise LoadError where layers, kernel, concepts and network do not fit together."""
    weights, biases = embedder.coefs_, embedder.intercepts_
    need(isinstance(weights, list) and len(weights) > 0, "layers in coefs_")
    need(isinstance(biases, list) and len(biases) == len(weights), "a bias for each layer")
    width = None
    for layer, (matrix, bias) in enumerate(zip(weights, biases, strict=True)):
        check_matrix(matrix, f"coefs_[{layer}]", n_rows=width)
        width = matrix.shape[1]
        check_vector(bias, f"intercepts_[{layer}]", width)
    if embedder.feature_mean_ is not None:
        check_vector(embedder.feature_mean_, "feature_mean_", weights[0].shape[0])
    power = embedder.feature_power_
    need(isinstance(power, float) and 0 < power <= 16, "a feature_power_ above 0, at most 16")
    if hasattr(embedder, "n_features_in_"):
        need(embedder.n_features_in_ == weights[0].shape[0], "n_features_in_ rows in coefs_[0]")
    _check_kernel(embedder.kernel_, weights[0].shape[0], width)
    check_nested(embedder.tag_enhancer_, "tag_enhancer_", width)
    images = embedder.backbone_ is not None
    need(not (images and hasattr(embedder, "n_features_in_")), "a backbone_ or n_features_in_")
    check_epochs(embedder)
    trunk = embedder.backbone_state_
    _check_trunk(trunk)
    _check_optimizer(embedder._optimizer_state, weights, biases, trunk)
    state = embedder._generator_state
    known = state is None or (isinstance(state, np.ndarray) and state.dtype == np.uint8)
    need(known and (state is None or state.ndim == 1), "bytes as the state of the generator")


def _check_kernel(kernel: Any, n_features: int, n_dims: int | None) -> None:
    if kernel == {}:
        return
    # The first files do not tell what places later rows by their tags, and nothing else knows.
    needed = {"landmarks", "coefs", "gamma", "weight", "consistency"}
    later = {"alpha", "noise", "mean_target", "mean_trust"}
    known = isinstance(kernel, dict) and set(kernel) in (needed, needed | later)
    need(known, "landmarks, coefs, gamma, weight and consistency in kernel_")
    landmarks, coefs = kernel["landmarks"], kernel["coefs"]
    check_matrix(landmarks, "landmarks of kernel_", None, n_features)
    check_matrix(coefs, "coefs of kernel_", len(landmarks), n_dims)
    gamma, weight = kernel["gamma"], kernel["weight"]
    need(isinstance(gamma, float) and 0 < gamma <= 1e6, "a gamma of kernel_ from 0 to 1e6")
    need(isinstance(weight, float) and 0 < weight <= 1, "a weight of kernel_ from 0 to 1")
    need(isinstance(kernel["consistency"], float), "a consistency of kernel_")
    if "noise" in kernel:
        check_vector(kernel["noise"], "noise of kernel_", len(landmarks))
        need((kernel["noise"] > 0).all(), "positive noise of kernel_")
        check_vector(kernel["mean_target"], "mean_target of kernel_", n_dims or 0)
        for name in ("alpha", "mean_trust"):
            value = kernel[name]
            need(isinstance(value, float) and 0 < value < math.inf, f"a positive {name} of kernel_")


def _check_trunk(state: Any) -> None:
    need(isinstance(state, dict), "parameters by name in backbone_state_")
    for name, array in state.items():
        known = isinstance(name, str) and isinstance(array, np.ndarray)
        need(known and array.dtype == np.float32, "parameters by name in backbone_state_")
        need(bool(np.isfinite(array).all()), f"finite values in {name} of backbone_state_")


def _check_optimizer(state: Any, weights: list, biases: list, trunk: dict) -> None:
    if state is None:
        return
    layers = zip(weights, biases, strict=True)
    shapes = [shape for matrix, bias in layers for shape in (matrix.T.shape, bias.shape)]
    shapes += [array.shape for array in trunk.values() if array.ndim > 1]
    shapes += [array.shape for array in trunk.values() if array.ndim <= 1]
    known = isinstance(state, dict) and set(state) == {"n_steps", "means", "squares"}
    need(known, "Adam's steps and moments")
    check_count(state["n_steps"], "n_steps")
    for name in ("means", "squares"):
        moments = state[name]
        need(isinstance(moments, list) and len(moments) == len(shapes), "a moment per parameter")
        for array, shape in zip(moments, shapes, strict=True):
            shaped = isinstance(array, np.ndarray) and array.shape == shape
            need(shaped and array.dtype.kind == "f", "Adam's moments of a layer's shape")
