"""Tags as arrays: indicators, co-occurrence, vectors, the correlation graph, concepts.

All functions are pure: they take arrays (T tags, C concepts, D dimensions, n samples) and
return arrays. :class:`~skwsdhq.TagEnhancer` is the estimator made of them.
"""

from ..utils.public import named_here
from ..utils.text import split_words
from ._graph import concept_vectors, correlation_graph, enhance_vectors, merge_tags
from ._vectors import (
    join_vectors,
    ppmi,
    remove_common_components,
    tag_cooccurrence,
    tag_vectors,
    vectors_from_cooccurrence,
    vectors_from_neighbors,
)
from .reading import check_tags, tags_to_lists

__all__ = [
    "check_tags",
    "concept_vectors",
    "correlation_graph",
    "enhance_vectors",
    "join_vectors",
    "merge_tags",
    "ppmi",
    "remove_common_components",
    "split_words",
    "tag_cooccurrence",
    "tag_vectors",
    "tags_to_lists",
    "vectors_from_cooccurrence",
    "vectors_from_neighbors",
]

named_here(__name__)
