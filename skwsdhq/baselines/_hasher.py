"""The common part of hashers of images with tags."""

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ..tags.concepts import learn_concepts

__all__ = ["TagHasher"]


class TagHasher(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turn features into signs and packed bits, with what was learned from tags."""

    tag_enhancer: Any
    n_bits: int

    def transform(self, X: Any) -> np.ndarray:
        """Return the signs of the bits.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        ndarray of shape (n, n_bits), float32
            1 and -1. The inner product of two rows is n_bits − 2 times their Hamming distance,
            so every function of :mod:`skwsdhq.metrics` ranks them as Hamming distance does.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        # 0 is a sign too: a bit has two values.
        return np.where(self._project(X) >= 0, np.float32(1), np.float32(-1))

    def encode(self, X: Any) -> np.ndarray:
        """Return the bits, eight to a byte, the first the highest.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        ndarray of shape (n, ceil(n_bits / 8)), uint8
            As faiss's binary indices take them.
        """
        return np.packbits(self.transform(X) > 0, axis=1)

    def _project(self, X: np.ndarray) -> np.ndarray:
        """Return numbers (n, n_bits) whose signs are the bits, of features that were checked."""
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: the target is needed, in any form that tags come in."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.one_d_labels = True
        tags.target_tags.two_d_labels = True
        tags.target_tags.multi_output = True
        tags.transformer_tags.preserves_dtype = []  # signs are float32 whatever X is
        return tags

    @property
    def _n_features_out(self) -> int:  # asked for by scikit-learn, to name the columns
        return self.n_bits

    def _read(self, X: Any, y: Any) -> tuple[np.ndarray, Any, sparse.csr_array]:
        """Return features, a fitted enhancer and the indicator (n, C) of the concepts."""
        self._validate_params()
        if y is None:  # in scikit-learn's words, which its checks of estimators look for
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None: it "
                "learns from tags."
            )
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        return X, *learn_concepts(X, y, self.tag_enhancer)
