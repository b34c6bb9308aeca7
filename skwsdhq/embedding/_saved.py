"""What a file holds of a HypersphereEmbedder."""

import math
from collections import Counter
from typing import Any

import numpy as np

from ..losses.objects import NAMES as LOSSES
from ..persistence.checks import (
    check_count,
    check_epochs,
    check_matrix,
    check_nested,
    check_vector,
    need,
)
from ..persistence.registry import saved
from ._saved_kernel import check_kernel, shape_of_kernel
from ._stream import check_stream
from ._upgrade import parts_from_flat

__all__ = ["REQUIRED", "check_embedder", "from_format_1"]

# Here and not beside them, since losses stand below files in the order of the rooms.
for _loss in LOSSES.values():
    saved()(_loss)

REQUIRED = {
    "coefs_", "intercepts_", "feature_mean_", "feature_power_", "kernel_", "tag_enhancer_",
    "n_iter_", "history_", "backbone_", "backbone_state_", "_optimizer_state", "_generator_state",
}  # fmt: skip


def from_format_1(parameters: dict, attributes: dict) -> tuple[dict, dict]:
    """Return what format 1 holds of an embedder as format 2 does.

    The first files know of no power, no kernel regression, no network that learned, and no state
    of a generator. Kernels of the next ones do not tell the consistency, which only informs.
    Parameters stood flat beside each other, before the embedder had parts.
    """
    # Nor did they know of stages of a network.
    parameters = {**parts_from_flat(parameters), "features": "final"}
    if "coefs_" not in attributes:
        return parameters, attributes
    # Values that say: as it was before there was such a thing.
    added = {
        "feature_power_": 1.0,
        "kernel_": {},
        "backbone_state_": {},
        "_optimizer_state": None,
        "_generator_state": None,
    }
    # What the file has stands; only what it lacks is added.
    attributes = {**added, **attributes}
    if attributes["kernel_"]:
        attributes["kernel_"] = {"consistency": math.nan, **attributes["kernel_"]}
        if "noise" in attributes["kernel_"]:  # words counted alike
            n_concepts = len(attributes["tag_enhancer_"].concept_vectors_)
            attributes["kernel_"]["word_weights"] = np.ones(n_concepts, dtype=np.float32)
    return parameters, attributes


def check_embedder(embedder: Any) -> None:
    """Raise LoadError where layers, kernel, concepts and network do not fit together."""
    weights, biases = embedder.coefs_, embedder.intercepts_
    need(isinstance(weights, list), "layers in coefs_")
    need(isinstance(biases, list) and len(biases) == len(weights), "a bias for each layer")
    need(weights or embedder.kernel_, "layers in coefs_, or a kernel_")
    width = None
    # Each layer takes what the one before gives.
    for layer, (matrix, bias) in enumerate(zip(weights, biases, strict=True)):
        check_matrix(matrix, f"coefs_[{layer}]", n_rows=width)
        width = matrix.shape[1]
        check_vector(bias, f"intercepts_[{layer}]", width)
    if weights:
        n_features = weights[0].shape[0]
    else:
        # Without a network, the regression tells what is taken and given.
        n_features, width = shape_of_kernel(embedder.kernel_)
        need(embedder.kernel_.get("weight") == 1, "layers in coefs_, or a kernel_ of weight 1")
    check_kernel(embedder.kernel_, n_features, width, embedder.tag_enhancer_)
    if embedder.feature_mean_ is not None:
        check_vector(embedder.feature_mean_, "feature_mean_", n_features)
    power = embedder.feature_power_
    need(isinstance(power, float) and 0 < power <= 16, "a feature_power_ above 0, at most 16")
    if hasattr(embedder, "n_features_in_"):
        need(embedder.n_features_in_ == n_features, "n_features_in_ features that are taken")
    check_nested(embedder.tag_enhancer_, "tag_enhancer_", width)
    check_stream(
        getattr(embedder, "_kernel_stream", None), embedder.kernel_, embedder.tag_enhancer_
    )
    images = embedder.backbone_ is not None
    # An embedder was fitted to images or to features, never to both.
    need(not (images and hasattr(embedder, "n_features_in_")), "a backbone_ or n_features_in_")
    check_epochs(embedder)
    trunk = embedder.backbone_state_
    _check_trunk(trunk)
    _check_optimizer(embedder._optimizer_state, weights, biases, trunk)
    state = embedder._generator_state
    known = state is None or (isinstance(state, np.ndarray) and state.dtype == np.uint8)
    need(known and (state is None or state.ndim == 1), "bytes as the state of the generator")


def _check_trunk(state: Any) -> None:
    """Raise LoadError where what a backbone has learned is no arrays by name."""
    need(isinstance(state, dict), "parameters by name in backbone_state_")
    for name, array in state.items():
        known = isinstance(name, str) and isinstance(array, np.ndarray)
        need(known and array.dtype == np.float32, "parameters by name in backbone_state_")
        need(bool(np.isfinite(array).all()), f"finite values in {name} of backbone_state_")


def _check_optimizer(state: Any, weights: list, biases: list, trunk: dict) -> None:
    """Raise LoadError where Adam's moments are not of the shapes of what learns."""
    if state is None:
        return
    # Moments come in the order of parameter_groups: torch's weights are (out, in).
    layers = zip(weights, biases, strict=True)
    shapes = [shape for matrix, bias in layers for shape in (matrix.T.shape, bias.shape)]
    known = isinstance(state, dict) and set(state) == {"n_steps", "means", "squares"}
    need(known, "Adam's steps and moments")
    check_count(state["n_steps"], "n_steps")
    for name in ("means", "squares"):
        moments = state[name]
        need(isinstance(moments, list) and len(moments) >= len(shapes), "a moment per parameter")
        # Of a backbone, those that learned last: all that it has learned, some or none.
        of_trunk = Counter(array.shape for array in trunk.values())
        rest = [getattr(array, "shape", None) for array in moments[len(shapes) :]]
        need(Counter(rest) <= of_trunk, "a moment per parameter")
        for array, shape in zip(moments, [*shapes, *rest], strict=True):
            shaped = isinstance(array, np.ndarray) and array.shape == shape
            need(shaped and array.dtype.kind == "f", "Adam's moments of a layer's shape")
