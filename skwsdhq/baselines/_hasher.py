"""What hashers of images with tags do alike."""

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted, validate_data

from ..tags.enhancer import TagEnhancer
from ..tags.reading import as_rows_of_tags

__all__ = ["TagHasher"]


class TagHasher(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What hashers do alike: features and tags in, signs and packed bits out."""

    def transform(self, X):
        """Signs of the bits.

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
        return np.where(self._project(X) >= 0, np.float32(1), np.float32(-1))

    def encode(self, X):
        """Bits, eight to a byte, the first the highest.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        ndarray of shape (n, ceil(n_bits / 8)), uint8
            As faiss's binary indices take them.
        """
        return np.packbits(self.transform(X) > 0, axis=1)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.one_d_labels = True
        tags.target_tags.two_d_labels = True
        tags.target_tags.multi_output = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    @property
    def _n_features_out(self):
        return self.n_bits

    def _read(self, X, y):
        """Features, fitted enhancer and indicator (n, C) of the concepts."""
        self._validate_params()
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None: it "
                "learns from tags."
            )
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        tags = as_rows_of_tags(y)
        check_consistent_length(X, tags)
        enhancer = TagEnhancer() if self.tag_enhancer is None else clone(self.tag_enhancer)
        enhancer = enhancer.fit(tags, None)
        indicator = sparse.csr_array(enhancer.transform(tags))
        if not indicator.nnz:
            raise ValueError(
                f"none of the {len(X)} rows has a tag; there is nothing to learn from."
            )
        return X, enhancer, indicator
