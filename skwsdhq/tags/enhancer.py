"""TagEnhancer: from messy tags to concepts with vectors."""

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import tags as _tags
from ..persistence import PersistenceMixin
from ..persistence.registry import saved
from ..sphere import normalize_rows
from ..utils._compat import Interval, StrOptions, check_feature_names_in
from ..utils.estimators import clone_sharing, fitted_now
from ..utils.text import clean_name
from ..utils.warn import warn_caller
from ._emphasis import emphasis_of, emphasized, learned_strengths
from ._saved import REQUIRED, check_enhancer, from_format_1, vectors_name
from ._vectors import ENOUGH_TAGS, alike_tags, n_common_components
from ._word_vectors import load_word_vectors
from .queries import embed_queries, words_of
from .reading import indicator_of_known, is_missing, read_indicator, read_matrix, read_names

__all__ = ["TagEnhancer", "concept_lengths"]

_COVARIANCE_POWER = 0.1


@saved(
    required=REQUIRED,
    check=check_enhancer,
    names={"word_vectors": vectors_name},
    upgrade={1: from_format_1},
)
class TagEnhancer(PersistenceMixin, TransformerMixin, BaseEstimator):
    """Merge messy tags into concepts, each with a vector on the unit sphere.

    Tags get word vectors. A correlation graph joins near tags, and each vector becomes the weighted
    mean of its neighbours'. Tags whose vectors are then nearly the same make one concept.

    Parameters
    ----------
    word_vectors : mapping, KeyedVectors, str, PathLike or None, default=None
        None learns vectors from which tags occur together (PPMI and truncated SVD), without any
        download. Else a mapping of words to arrays (D,), a gensim ``KeyedVectors``, the path of
        a word2vec, GloVe or gensim file, or the name of a gensim.downloader model. A compound
        tag gets the mean over its words.
    tau : float, default=0.9
        Smallest cosine of neighbours in the graph.
    n_neighbors : int, default=None
        Nearest tags that a tag may choose as neighbours; None is no limit.
    eps : float, default=0.02
        Largest cosine distance at which enhanced tags are merged; 0 merges nothing.
    min_samples : int, default=1
        DBSCAN's ``min_samples``.
    min_count : int, default=1
        Samples that a tag must occur in to be learned.
    max_tags : int, default=None
        Keep only that many of the most frequent tags; of equal counts the first in the alphabet.
    stop_tags : iterable of str, default=()
        Tags to ignore.
    vocabulary : mapping of str to int, or sequence of str, default=None
        The tags to learn, or names of the columns where tags are an indicator matrix. None
        learns those that occur.
    vector_size : int, default=100
        Dimensions of vectors learned from co-occurrence.
    cooccurrence_weight : float or "auto", default="auto"
        Weight of vectors learned from co-occurrence beside given word vectors: the two are
        joined, so that a cosine is the mean of both. 0 uses the word vectors alone. ``"auto"`` is
        1 where there are at least 100 tags (fewer tell little by what they occur with), else 0.
    remove_components : int, "auto" or None, default="auto"
        Leading principal components to remove from the tag vectors after their mean; 0 removes
        only the mean, None nothing. ``"auto"`` is 1 for given word vectors where there are at
        least 100 tags (the mean of a few says more about them than about the language), else
        None.
    covariance_power : float or "auto", default="auto"
        How much more the directions count in which the samples' concepts differ most: concept
        vectors are multiplied by the covariance of the samples' directions raised to this power,
        and scaled to length 1 (those of co-occurrence by their singular values before). More finds
        broad kinds better, and narrow ones worse. ``"auto"`` is 0.1 where there are at least 100
        tags, else 0, which leaves all directions alike.
    missing : {"cooccurrence", "drop", "error"}, default="cooccurrence"
        What becomes of a tag without a vector: it gets the mean of the tags it occurs with
        (and is dropped where none of these has one), is dropped, or is an error.
        ``missing_tags_`` holds such tags, and a fit warns of them once.
    lowercase : bool, default=True
        Whether to lower-case tags.
    allow_pickle : bool, default=False
        Whether ``word_vectors`` may be a file in gensim's pickled format, which can run any code.
    sparse_output : bool, default=True
        Whether ``transform`` gives a CSR array or a dense one.

    Attributes
    ----------
    vocabulary_ : dict of str to int
        Row of each of the T tags.
    tag_vectors_ : ndarray of shape (T, D), float32
        After centring and joining.
    graph_ : csr_array of shape (T, T)
        Cosines of neighbours; ones on the diagonal. Where these are more than 8 million, those
        of each tag's nearest, see :func:`skwsdhq.tags.correlation_graph`.
    enhanced_vectors_ : ndarray of shape (T, D), float32
        Unit rows.
    labels_ : ndarray of shape (T,)
        Concept of each tag.
    concept_vectors_ : ndarray of shape (C, D), float32
        Unit rows.
    emphasis_ : dict or None
        What concept vectors were multiplied by, see ``covariance_power``: ``"strengths"`` (L,) of
        the dimensions that were learned from co-occurrence, and ``"map"`` (D, D) of all. None is
        nothing.
    concept_names_ : ndarray of shape (C,), object
        The most frequent tag of each concept.
    tag_counts_ : ndarray of shape (T,)
        Samples of each tag.
    missing_tags_ : ndarray of str
        Tags that had no word vector, whether filled or dropped.
    n_features_in_ : int
        Columns, where tags came as a matrix.

    References
    ----------
    Wang et al., "Weakly Supervised Deep Hyperspherical Quantization for Image Retrieval", AAAI
    2021, section "Tag embedding enhancement". The thresholds they used are not published.

    Examples
    --------
    >>> from skwsdhq import TagEnhancer
    >>> vectors = {"dog": [1, 0], "puppy": [0.99, 0.14], "car": [0, 1]}
    >>> enhancer = TagEnhancer(vectors).fit([["dog", "puppy"], ["car"], ["dog"]])
    >>> list(enhancer.concept_names_)
    ['car', 'dog']
    >>> enhancer.transform([["puppy", "car"], ["unheard of"]]).toarray()
    array([[1., 1.],
           [0., 0.]], dtype=float32)
    """

    _parameter_constraints: dict = {
        "word_vectors": "no_validation",
        "tau": [Interval(Real, -1, 1, closed="both")],
        "n_neighbors": [Interval(Integral, 1, None, closed="left"), None],
        "eps": [Interval(Real, 0, 2, closed="both")],
        "min_samples": [Interval(Integral, 1, None, closed="left")],
        "min_count": [Interval(Integral, 1, None, closed="left")],
        "max_tags": [Interval(Integral, 1, None, closed="left"), None],
        "stop_tags": "no_validation",
        "vocabulary": "no_validation",
        "vector_size": [Interval(Integral, 1, None, closed="left")],
        "cooccurrence_weight": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "remove_components": [
            Interval(Integral, 0, None, closed="left"),
            StrOptions({"auto"}),
            None,
        ],
        "covariance_power": [Interval(Real, 0, 1, closed="both"), StrOptions({"auto"})],
        "missing": [StrOptions({"cooccurrence", "drop", "error"})],
        "lowercase": ["boolean"],
        "allow_pickle": ["boolean"],
        "sparse_output": ["boolean"],
    }

    # The first argument is the data, whatever its name: it is no metadata to be routed.
    __metadata_request__fit = {"tags": UNUSED}
    __metadata_request__transform = {"tags": UNUSED}
    __metadata_request__inverse_transform = {"concepts": UNUSED}

    def __init__(  # noqa: PLR0913 - an estimator's parameters
        self,
        word_vectors: Any = None,
        *,
        tau: float = 0.9,
        n_neighbors: int | None = None,
        eps: float = 0.02,
        min_samples: int = 1,
        min_count: int = 1,
        max_tags: int | None = None,
        stop_tags: Iterable[str] = (),
        vocabulary: Any = None,
        vector_size: int = 100,
        cooccurrence_weight: float | str = "auto",
        remove_components: int | str | None = "auto",
        covariance_power: float | str = "auto",
        missing: str = "cooccurrence",
        lowercase: bool = True,
        allow_pickle: bool = False,
        sparse_output: bool = True,
    ) -> None:
        self.word_vectors = word_vectors
        self.tau = tau
        self.n_neighbors = n_neighbors
        self.eps = eps
        self.min_samples = min_samples
        self.min_count = min_count
        self.max_tags = max_tags
        self.stop_tags = stop_tags
        self.vocabulary = vocabulary
        self.vector_size = vector_size
        self.cooccurrence_weight = cooccurrence_weight
        self.remove_components = remove_components
        self.covariance_power = covariance_power
        self.missing = missing
        self.lowercase = lowercase
        self.allow_pickle = allow_pickle
        self.sparse_output = sparse_output

    def fit(self, tags: Any, y: Any = None) -> Self:
        """Learn the concepts of tags.

        Parameters
        ----------
        tags : sequence or matrix of n rows
            In any form that :func:`skwsdhq.tags.check_tags` reads. A matrix may hold weights as
            well, of which the positive ones count, with a warning.
        y : ignored

        Returns
        -------
        self
            Fitted.

        Raises
        ------
        ValueError
            If no tag remains, or none has a vector.
        """
        self._validate_params()
        columns = self._check_matrix(tags, reset=True)
        if columns is None:
            indicator, names = _tags.check_tags(
                tags, vocabulary=self.vocabulary, lowercase=self.lowercase
            )
        else:
            indicator, names = columns, self._names_of_columns(tags)
        # Rare and stopped tags go first: they should not take part in what is learned.
        kept = self._choose(indicator, names)
        indicator, names = sparse.csr_array(indicator[:, kept]), names[kept]
        together = _Together(indicator)
        vectors, found, missing = self._vectors(names, together)
        if not found.all():
            kept, indicator = kept[found], sparse.csr_array(indicator[:, np.flatnonzero(found)])
            names, vectors = names[found], vectors[found]
            together = together.of(found, indicator)
        # Centred before it is joined: only word vectors have a common direction to lose.
        vectors = self._join(self._centre(vectors), together)
        n_neighbors = None if self.n_neighbors is None else int(self.n_neighbors)
        graph = _tags.correlation_graph(vectors, float(self.tau), n_neighbors)
        enhanced = _tags.enhance_vectors(vectors, graph)
        labels = _tags.merge_tags(enhanced, float(self.eps), int(self.min_samples))
        counts = np.asarray(indicator.sum(axis=0), dtype=np.int64).ravel()

        self.vocabulary_ = {name: t for t, name in enumerate(names)}
        self.tag_counts_ = counts
        self.missing_tags_ = missing
        self.tag_vectors_ = vectors
        self.graph_ = graph
        self.enhanced_vectors_ = enhanced
        self.labels_ = labels
        concepts = _tags.concept_vectors(enhanced, labels)
        self.emphasis_ = emphasis_of(
            _carried(indicator, labels), concepts, together.strengths, self._power(len(names))
        )
        self.concept_vectors_ = emphasized(concepts, self.emphasis_)
        self.concept_names_ = _most_frequent(names, counts, labels)
        # transform picks the same columns of a matrix; other forms are read by name.
        self._kept_columns = None if columns is None else kept
        return self

    def transform(self, tags: Any) -> sparse.csr_array:
        """Return which concepts each sample carries: those of which it carries any member.

        Parameters
        ----------
        tags : sequence or matrix of n rows
            As for ``fit``. Tags that were not learned are ignored.

        Returns
        -------
        csr_array or ndarray of shape (n, C), float32
            0/1.
        """
        check_is_fitted(self)
        columns = None
        if self._kept_columns is not None:
            columns = self._check_matrix(tags, reset=False)
        if columns is not None:
            indicator = sparse.csr_array(columns[:, self._kept_columns])
        else:
            indicator = indicator_of_known(tags, self.vocabulary_, self.lowercase)
        concepts = _carried(indicator, self.labels_)
        return concepts if self.sparse_output else concepts.toarray()

    def inverse_transform(self, concepts: Any) -> list[list[str]]:
        """Return the names of the concepts that each row carries.

        Parameters
        ----------
        concepts : sparse or dense matrix of shape (n, C)

        Returns
        -------
        list of n lists of str
            Which ``transform`` maps to the same concepts again.
        """
        check_is_fitted(self)
        n_concepts = len(self.concept_names_)
        if concepts.shape[1] != n_concepts:
            raise ValueError(f"concepts have {concepts.shape[1]} columns; expected {n_concepts}.")
        return _tags.tags_to_lists(concepts, self.concept_names_)

    def embed(self, tags: Any) -> np.ndarray:
        """Embed words among the concepts, to be searched for.

        A tag of the fit is its concept's vector. Another word is placed by its word vector, where
        ``word_vectors`` are still here (a file does not hold them), and a compound that is neither
        by the mean of its words, all of which should be known.

        Parameters
        ----------
        tags : str, mapping, or sequence of q queries
            A query is a word, a sequence of words of which those that begin with "-" count against
            it, or a mapping of words to weights. A list of texts is that many queries: one of
            several words is ``[["beach", "-people"]]``.

        Returns
        -------
        ndarray of shape (q, D), float32
            Unit rows: the normalised, weighted sums of the words' vectors.

        Raises
        ------
        ValueError
            If nothing knows a word, with known ones that are spelt nearly so; if a query has no
            word, or its words cancel each other.

        Examples
        --------
        >>> from skwsdhq import TagEnhancer
        >>> vectors = {"dog": [1, 0], "car": [0, 1], "wolf": [0.8, 0.6]}
        >>> enhancer = TagEnhancer(vectors).fit([["dog"], ["car"]])
        >>> enhancer.embed(["dog", "wolf", ["dog", "-car"]]).round(2)
        array([[ 1.  ,  0.  ],
               [ 0.8 ,  0.6 ],
               [ 0.71, -0.71]], dtype=float32)
        """
        return embed_queries(words_of(self, fitted_now(self)), tags)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the concepts.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the columns, checked where tags came as a matrix.

        Returns
        -------
        ndarray of shape (C,), object
            A copy of ``concept_names_``.
        """
        check_is_fitted(self)
        if hasattr(self, "n_features_in_"):
            check_feature_names_in(self, input_features)
        return self.concept_names_.copy()

    def concept_summary(self) -> list[dict[str, Any]]:
        """Return a table of what was merged.

        Returns
        -------
        list of dict
            For each concept, those of most tags first: ``"concept"`` (name), ``"tags"`` (members,
            the most frequent first), ``"n_samples"`` (sum of the members' counts) and
            ``"similarity"`` (lowest cosine of a member's own vector with the concept's). It makes
            a data frame by ``pandas.DataFrame(...)``.
        """
        check_is_fitted(self)
        names = np.array(list(self.vocabulary_), dtype=object)
        own = normalize_rows(emphasized(self.tag_vectors_.astype(np.float64), self.emphasis_))
        cosines = np.einsum("td,td->t", own, self.concept_vectors_[self.labels_])
        # Rounded, so that a table reads the same on every processor.
        cosines = np.round(np.minimum(cosines, 1), 6)
        order = np.argsort(-self.tag_counts_, kind="stable")
        members: list[list[int]] = [[] for _ in self.concept_names_]
        for t in order:
            members[self.labels_[t]].append(t)
        table = [
            {
                "concept": name,
                "tags": names[rows].tolist(),
                "n_samples": int(self.tag_counts_[rows].sum()),
                "similarity": float(cosines[rows].min()),
            }
            for name, rows in zip(self.concept_names_, members, strict=True)
        ]
        return sorted(table, key=lambda row: -len(row["tags"]))

    def __sklearn_clone__(self) -> Any:
        """Return a clone that shares the word vectors: hundreds of megabytes that nobody edits."""
        return clone_sharing(self, "word_vectors")

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: matrices of tags may be sparse, concepts are float32."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    # --- helpers ------------------------------------------------------------------------

    def _check_matrix(self, tags: Any, reset: bool) -> sparse.csr_array | None:
        """Return tags that came as a matrix, validated as scikit-learn's X, as an indicator.

        Return None for tags of other forms.
        """
        if not _is_matrix(tags, fitted=not reset):
            if reset and hasattr(self, "n_features_in_"):
                del self.n_features_in_
            return None
        matrix = validate_data(self, tags, accept_sparse="csr", dtype="numeric", reset=reset)
        values = matrix.data if sparse.issparse(matrix) else matrix
        wrong = values[~np.isin(values, (0, 1))]
        if wrong.size:
            warn_caller(
                f"a matrix of tags should hold 0 and 1; got {wrong[0]}. Positive entries count as "
                "tags that are carried, as by (matrix > 0)."
            )
        return read_indicator(matrix, strict=False)

    def _names_of_columns(self, tags: Any) -> np.ndarray:
        """Return the names (T,) of the columns of a matrix."""
        n_columns = self.n_features_in_
        given = range(n_columns) if self.vocabulary is None else self.vocabulary
        if self.vocabulary is None and hasattr(tags, "columns"):
            given = tags.columns
        names = read_names(given, self.lowercase)
        if len(names) != n_columns:
            raise ValueError(
                f"the tags have {n_columns} columns, but vocabulary names {len(names)}; "
                "they should be equal."
            )
        return names

    def _choose(self, indicator: sparse.csr_array, names: np.ndarray) -> np.ndarray:
        """Choose columns to keep, by stop_tags, min_count and max_tags."""
        counts = np.asarray(indicator.sum(axis=0)).ravel()
        given = [self.stop_tags] if isinstance(self.stop_tags, str) else self.stop_tags or ()
        stopped = {clean_name(str(tag), self.lowercase) for tag in given}
        # min_count is at least 1, so that what is counted 0 times goes with the rare ones.
        counts[[name in stopped for name in names]] = 0
        kept = np.flatnonzero(counts >= self.min_count)
        if self.max_tags is not None and len(kept) > self.max_tags:
            # lexsort sorts by its last key first: counts downwards, then the alphabet.
            most = np.lexsort((names[kept].astype(str), -counts[kept]))[: int(self.max_tags)]
            kept = np.sort(kept[most])
        if not len(kept):
            raise ValueError(
                f"no tag remains of {len(names)} different ones in {indicator.shape[0]} samples "
                f"with min_count={self.min_count}; there should be at least one."
            )
        return kept

    def _vectors(
        self, names: np.ndarray, together: "_Together"
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return vectors of tags, which of them have one, and the names of those that had none."""
        if self.word_vectors is None:
            vectors = together.vectors(int(self.vector_size))
            length = np.linalg.norm(vectors, axis=1)
            found = length > 1e-4 * length.max()  # what the leading components do not reach
        else:
            loaded = load_word_vectors(self.word_vectors, allow_pickle=self.allow_pickle)
            vectors, found = _tags.tag_vectors(names, loaded)
        missing = names[~found]
        if not found.any():
            raise ValueError(
                f"none of the {len(names)} tags has a word vector; the first are "
                f"{', '.join(map(repr, names[:5]))}. Give other word_vectors, or None to learn "
                "them from the tags."
            )
        # Warned of once, with names: a misspelt file of vectors should not go unnoticed.
        if len(missing):
            if self.missing == "error":
                raise ValueError(
                    f"{len(missing)} of {len(names)} tags have no word vector, as "
                    f"{', '.join(map(repr, missing[:5]))}; missing='drop' or 'cooccurrence' "
                    "goes on without."
                )
            if self.missing == "cooccurrence":
                vectors, found = _tags.vectors_from_neighbors(
                    vectors, found, together.counts, group=together.group
                )
            n_dropped = int((~found).sum())
            warn_caller(
                f"{len(missing)} of {len(names)} tags have no word vector, as "
                f"{', '.join(map(repr, missing[:3]))}: {len(missing) - n_dropped} got that of the "
                f"tags they occur with, {n_dropped} were dropped."
            )
        return vectors, found, missing

    def _join(self, vectors: np.ndarray, together: "_Together") -> np.ndarray:
        """Join given vectors with those learned from co-occurrence, where these have a weight."""
        weight = self.cooccurrence_weight
        if weight == "auto":
            weight = 1.0 if len(vectors) >= ENOUGH_TAGS else 0.0
        if self.word_vectors is None or not weight:
            return vectors
        learned = together.vectors(int(self.vector_size))
        return _tags.join_vectors(vectors, learned, float(weight))

    def _power(self, n_tags: int) -> float:
        """Return how much directions of large variance gain."""
        if self.covariance_power == "auto":
            return _COVARIANCE_POWER if n_tags >= ENOUGH_TAGS else 0.0
        return float(self.covariance_power)

    def _centre(self, vectors: np.ndarray) -> np.ndarray:
        """Remove what all vectors have in common, where that is asked for or pays."""
        n_components = n_common_components(
            self.remove_components, self.word_vectors is not None, len(vectors)
        )
        if n_components is None:
            return vectors
        return _tags.remove_common_components(vectors, n_components)


class _Together:
    """Count which tags occur together, or which groups of tags that are alike."""

    def __init__(self, indicator: sparse.csr_array) -> None:
        self.strengths = np.zeros(0)  # of what `vectors` has given last
        alike = alike_tags(indicator)
        self.group = None if alike is None else alike[1]
        if alike is not None:
            indicator = sparse.csr_array(indicator[:, alike[0]])
        self.counts = _tags.tag_cooccurrence(indicator)

    def of(self, found: np.ndarray, indicator: sparse.csr_array) -> "_Together":
        """Return the counts of the tags that were found, whose indicator is given."""
        # Groups may have lost members, so that they are found anew.
        if self.group is not None:
            anew = _Together(indicator)
            anew.strengths = self.strengths
            return anew
        self.counts = sparse.csr_array(self.counts[found][:, found])
        return self

    def vectors(self, n_components: int) -> np.ndarray:
        """Learn vectors (T, D) from what occurs together."""
        group = self.group
        if group is None:
            learned = _tags.vectors_from_cooccurrence(self.counts, n_components)
        else:
            of_groups = _tags.vectors_from_cooccurrence(
                self.counts, n_components, multiplicity=np.bincount(group)
            )
            learned = of_groups[group]  # each tag gets the vector of its group
        self.strengths = learned_strengths(learned)
        return learned


def _carried(indicator: sparse.csr_array, labels: np.ndarray) -> sparse.csr_array:
    """Return which concepts (n, C) rows carry, 0/1, from their tags (n, T) and the concept of each.

    A row carries a concept of which it carries any member.
    """
    n_tags, n_concepts = len(labels), int(labels.max()) + 1
    ones = np.ones(n_tags, dtype=np.float32)
    # (n, T) times the membership (T, C) counts how many members of a concept a row carries.
    members = sparse.csr_array((ones, (np.arange(n_tags), labels)), shape=(n_tags, n_concepts))
    concepts = sparse.csr_array(indicator @ members)
    concepts.data[:] = 1  # two members of one concept are that concept once
    concepts.sort_indices()
    return concepts


def _is_matrix(tags: Any, fitted: bool) -> bool:
    """Tell whether tags are a table of numbers; a 1-D array of numbers is refused as one.

    A column of numbers is classes, unless what was fitted was a matrix.
    """
    if sparse.issparse(tags):
        return True
    if isinstance(tags, (list, tuple)) or not hasattr(tags, "__array__") or hasattr(tags, "name"):
        return False  # a Series has rows of tags, and lists hold them
    array = np.asarray(tags)
    if array.ndim == 2:
        if read_matrix(tags) is not None:
            return True
        if array.shape[1] == 1 and array.dtype.kind in "iuf" and not fitted:
            return False
    if array.dtype.kind in "biufc":
        return True
    return array.ndim == 2 and not any(map(_is_name_or_row, array.flat))


def _is_name_or_row(value: Any) -> bool:
    """Tell what can be a tag, several of them, or none."""
    known = (str, list, tuple, set, frozenset, np.ndarray)
    return isinstance(value, known) or is_missing(value)


def _most_frequent(names: np.ndarray, counts: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return for each concept (C,) the member of the highest count; of equals the first."""
    order = np.lexsort((np.arange(len(names)), -counts, labels))
    _, first = np.unique(labels[order], return_index=True)
    return names[order][first]


def concept_lengths(enhancer: Any) -> np.ndarray | None:
    """Return how long (C,) the vectors of each concept's tags are on average.

    None where an enhancer, fitted or in a FrozenEstimator, does not tell.
    """
    inner = getattr(enhancer, "estimator", enhancer)
    if not hasattr(inner, "tag_vectors_"):
        return None
    lengths = np.linalg.norm(inner.tag_vectors_.astype(np.float64), axis=1)
    sums = np.bincount(inner.labels_, lengths, minlength=len(inner.concept_vectors_))
    return sums / np.bincount(inner.labels_, minlength=len(inner.concept_vectors_))
