"""What a file holds of a kernel regression, alone or as a part of an embedder."""

import math
from typing import Any

import numpy as np

from ..persistence.checks import check_matrix, check_nested, check_vector, need
from ._stream import check_stream

__all__ = ["REQUIRED_OF_REGRESSOR", "check_kernel", "check_regressor", "shape_of_kernel"]

REQUIRED_OF_REGRESSOR = {
    "kernel_", "tag_enhancer_", "feature_mean_", "feature_power_", "n_features_in_",
}  # fmt: skip


def check_regressor(regressor: Any) -> None:
    """Raise LoadError where a regression, its concepts and its features do not fit together."""
    n_features, n_dims = shape_of_kernel(regressor.kernel_)
    check_kernel(regressor.kernel_, n_features, n_dims, regressor.tag_enhancer_, joined=False)
    need(regressor.n_features_in_ == n_features, "n_features_in_ features that are taken")
    if regressor.feature_mean_ is not None:
        check_vector(regressor.feature_mean_, "feature_mean_", n_features)
    power = regressor.feature_power_
    need(isinstance(power, float) and 0 < power <= 16, "a feature_power_ above 0, at most 16")
    check_nested(regressor.tag_enhancer_, "tag_enhancer_", n_dims)
    stream = getattr(regressor, "_kernel_stream", None)
    check_stream(stream, regressor.kernel_, regressor.tag_enhancer_)


def shape_of_kernel(kernel: Any) -> tuple[int, int]:
    """Return the features and the dimensions of a regression, as its arrays say."""
    # Before anything is asked of the arrays: a file may hold anything.
    known = isinstance(kernel, dict) and all(
        isinstance(kernel.get(name), np.ndarray) and kernel[name].ndim == 2
        for name in ("landmarks", "coefs")
    )
    need(known, "landmarks and coefs in kernel_")
    return kernel["landmarks"].shape[1], kernel["coefs"].shape[1]


def check_kernel(
    kernel: Any,
    n_features: int | None,
    n_dims: int | None,
    enhancer: Any,
    *,
    joined: bool = True,
) -> None:
    """Raise LoadError where the arrays of a regression do not fit together.

    ``joined`` is one that has a share in an embedding.
    """
    if kernel == {}:
        return
    # The first files do not tell what places later rows by their tags, and nothing else knows.
    needed = {"landmarks", "coefs", "gamma", "consistency"} | ({"weight"} if joined else set())
    later = {"alpha", "noise", "mean_target", "mean_trust", "word_weights"}
    known = isinstance(kernel, dict) and set(kernel) in (needed, needed | later)
    need(known, "landmarks, coefs, gamma, weight and consistency in kernel_")
    landmarks, coefs = kernel["landmarks"], kernel["coefs"]
    check_matrix(landmarks, "landmarks of kernel_", None, n_features)
    check_matrix(coefs, "coefs of kernel_", len(landmarks), n_dims)
    gamma, weight = kernel["gamma"], kernel.get("weight", 1.0)
    need(isinstance(gamma, float) and 0 < gamma <= 1e6, "a gamma of kernel_ from 0 to 1e6")
    need(isinstance(weight, float) and 0 < weight <= 1, "a weight of kernel_ from 0 to 1")
    need(isinstance(kernel["consistency"], float), "a consistency of kernel_")
    if "noise" in kernel:
        check_vector(kernel["noise"], "noise of kernel_", len(landmarks))
        need((kernel["noise"] > 0).all(), "positive noise of kernel_")
        check_vector(kernel["mean_target"], "mean_target of kernel_", n_dims or 0)
        words = kernel["word_weights"]
        concepts = getattr(getattr(enhancer, "estimator", enhancer), "concept_vectors_", ())
        check_vector(words, "word_weights of kernel_", len(concepts))
        need((words > 0).all(), "positive word_weights of kernel_")
        for name in ("alpha", "mean_trust"):
            value = kernel[name]
            need(isinstance(value, float) and 0 < value < math.inf, f"a positive {name} of kernel_")
