"""Tags of a training set, or of later images, as concepts: what every estimator does with them."""

from typing import Any

from scipy import sparse
from sklearn.base import clone
from sklearn.utils import check_consistent_length

from .enhancer import TagEnhancer
from .reading import as_rows_of_tags

__all__ = ["concepts_to_learn", "learn_concepts", "read_concepts"]


def learn_concepts(rows: Any, tags: Any, enhancer: Any = None) -> tuple[Any, sparse.csr_array]:
    """Fit an enhancer to the tags of some rows; return it with the concepts of each row.

    Parameters
    ----------
    rows : sequence of length n
        Images or features, of which the number alone is looked at.
    tags : tags of n rows
        In any form that :func:`skwsdhq.tags.check_tags` reads.
    enhancer : TagEnhancer or None, default=None
        Cloned before it is fitted. None is a ``TagEnhancer()``.

    Returns
    -------
    enhancer : TagEnhancer
        Fitted.
    indicator : csr_array of shape (n, C)

    Raises
    ------
    ValueError
        If there are not as many rows as tags, or no row has a tag that is known.
    """
    tags = as_rows_of_tags(tags)
    check_consistent_length(rows, tags)
    enhancer = TagEnhancer() if enhancer is None else clone(enhancer)
    enhancer = enhancer.fit(tags, None)  # a FrozenEstimator wants a y
    return enhancer, concepts_to_learn(rows, tags, enhancer)


def concepts_to_learn(rows: Any, tags: Any, enhancer: Any) -> sparse.csr_array:
    """Return the concepts (n, C) of rows to learn from, by an enhancer that is fitted.

    Parameters
    ----------
    rows : sequence of length n
        Images or features, of which the number alone is looked at.
    tags : tags of n rows
        In any form that :func:`skwsdhq.tags.check_tags` reads.
    enhancer : TagEnhancer
        Fitted.

    Returns
    -------
    csr_array of shape (n, C)

    Raises
    ------
    ValueError
        If there are not as many rows as tags, or no row has a tag that is known.
    """
    indicator = read_concepts(rows, tags, enhancer)
    # A frozen enhancer, or that of an earlier fit, may know none of these tags.
    if not indicator.nnz:
        raise ValueError(
            f"none of the {indicator.shape[0]} images has a tag that is known; there is nothing "
            "to learn from."
        )
    return indicator


def read_concepts(rows: Any, tags: Any, enhancer: Any) -> sparse.csr_array:
    """Return the concepts (n, C) of rows by an enhancer that is fitted.

    Parameters
    ----------
    rows : sequence of length n
        Images or features, of which the number alone is looked at.
    tags : tags of n rows
        In any form that :func:`skwsdhq.tags.check_tags` reads.
    enhancer : TagEnhancer
        Fitted.

    Returns
    -------
    csr_array of shape (n, C)
    """
    tags = as_rows_of_tags(tags)
    check_consistent_length(rows, tags)
    return sparse.csr_array(enhancer.transform(tags))
