"""Tags as arrays: indicators, co-occurrence, vectors, the correlation graph, concepts.

All functions are pure: they take arrays (T tags, C concepts, D dimensions, n samples) and
return arrays. :class:`~skwsdhq.TagEnhancer` is the estimator made of them.
"""

import numbers
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from .sphere import normalize_rows, spherical_mean
from .utils._threads import one_openmp_thread

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

_BLOCK = 1024  # rows of a similarity block: 1024 × 10,000 tags are 40 MB


# --- reading tags ---------------------------------------------------------------------------


def check_tags(
    tags: Any,
    *,
    vocabulary: Mapping[str, int] | Sequence[str] | np.ndarray | None = None,
    lowercase: bool = True,
) -> tuple[sparse.csr_array, np.ndarray]:
    """Tags in any accepted form, as one 0/1 indicator matrix and the names of its columns.

    Parameters
    ----------
    tags : sequence, array, Series, DataFrame or sparse matrix of n rows
        One of

        - a list, Series or object array of lists, sets or tuples of strings. An empty row, or
          a row that is None or NaN, is a legal sample without tags;
        - a list, Series or array of strings or numbers: one tag each;
        - a dense or sparse matrix (n, T): a positive entry says that the row carries the tag.
          Columns are named by ``vocabulary``, by the data frame's own column names, or by
          number.
    vocabulary : mapping of str to int, or sequence of str, default=None
        Names of the columns. Tags outside of it are ignored. By default the sorted tags that
        occur.
    lowercase : bool, default=True
        Whether to lower-case tags. Blanks are stripped, and runs of them made one, always.

    Returns
    -------
    indicator : csr_array of shape (n, T), float32
        Ones, sorted, without duplicates.
    names : ndarray of shape (T,), object
        The tag of each column.

    Raises
    ------
    TypeError
        If ``tags`` or one of its rows is of no accepted form; the message names the row.
    ValueError
        If a numeric form has NaN or infinite entries, more than two dimensions, or not as many
        columns as ``vocabulary`` has names.

    Examples
    --------
    >>> from skwsdhq.tags import check_tags
    >>> indicator, names = check_tags([["dog", "Puppy "], [], ["dog"]])
    >>> list(names)
    ['dog', 'puppy']
    >>> indicator.toarray()
    array([[1., 1.],
           [0., 0.],
           [1., 0.]], dtype=float32)
    """
    names = None if vocabulary is None else _vocabulary_names(vocabulary, lowercase)
    no_rows = isinstance(tags, (str, bytes, Mapping)) or not hasattr(tags, "__len__")
    if no_rows and not hasattr(tags, "__array__"):
        raise TypeError(
            f"tags should be a sequence with a row a sample, or a matrix; got "
            f"{type(tags).__name__}. One sample with one tag is [['dog']]."
        )
    if sparse.issparse(tags):
        return _from_matrix(tags, names)
    if hasattr(tags, "columns") and len(getattr(tags, "shape", ())) == 2:  # a data frame
        columns = [str(column) for column in tags.columns]
        frame = np.asarray(tags)
        if frame.dtype.kind in "biuf":
            return _from_matrix(frame, np.array(columns, object) if names is None else names)
        tags = frame
    if hasattr(tags, "__array__") and not isinstance(tags, (list, tuple)):
        array = np.asarray(tags)
        if array.ndim == 0 or array.ndim > 2:
            raise ValueError(f"tags should have 1 or 2 dimensions; got an array of {array.ndim}.")
        if array.ndim == 2 and array.dtype.kind in "biuf":
            return _from_matrix(array, names)
        tags = array
    elif _is_numeric_table(tags):
        return _from_matrix(np.asarray(tags), names)
    return _from_rows(tags, names, lowercase)


def tags_to_lists(indicator: Any, names: Sequence[str] | np.ndarray | None = None) -> list:
    """Lists of tags from an indicator: a form of ``y`` that every scikit-learn tool slices.

    ``cross_val_score`` and ``cross_validate`` refuse a sparse ``y``; lists pass.

    Parameters
    ----------
    indicator : sparse or dense matrix of shape (n, T)
        A positive entry says that the row carries the tag.
    names : sequence of T str, default=None
        Names of the columns; by default their numbers.

    Returns
    -------
    list of n lists of str

    Examples
    --------
    >>> from skwsdhq.tags import tags_to_lists
    >>> tags_to_lists([[1, 0], [1, 1]], ["dog", "cat"])
    [['dog'], ['dog', 'cat']]
    """
    matrix, columns = check_tags(
        indicator if sparse.issparse(indicator) else np.asarray(indicator),
        vocabulary=names,
        lowercase=False,
    )
    bounds = zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
    return [list(columns[matrix.indices[start:stop]]) for start, stop in bounds]


def _vocabulary_names(vocabulary: Any, lowercase: bool) -> np.ndarray:
    """(T,) names, ordered by their column."""
    if isinstance(vocabulary, Mapping):
        columns = sorted(vocabulary.values())
        if columns != list(range(len(columns))):
            raise ValueError(
                f"vocabulary should number its {len(columns)} tags from 0 to {len(columns) - 1}, "
                "each number once."
            )
        vocabulary = sorted(vocabulary, key=lambda tag: vocabulary[tag])
    names = [_clean(str(tag), lowercase) for tag in vocabulary]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"vocabulary has tags more than once: {', '.join(twice[:5])}.")
    result = np.empty(len(names), dtype=object)
    result[:] = names
    return result


def _clean(tag: str, lowercase: bool) -> str:
    tag = " ".join(tag.split())
    return tag.lower() if lowercase else tag


def _is_numeric_table(tags: Any) -> bool:
    """Whether Python rows are an indicator, as [[0, 1], [1, 1]]; lists of strings are not."""
    first = next((row for row in tags if isinstance(row, (list, tuple)) and len(row)), None)
    return first is not None and all(
        isinstance(row, (list, tuple))
        and len(row) == len(first)
        and all(isinstance(value, numbers.Real) for value in row)
        for row in tags
    )


def _from_matrix(matrix: Any, names: np.ndarray | None) -> tuple[sparse.csr_array, np.ndarray]:
    if matrix.ndim != 2:
        raise ValueError(f"a matrix of tags should have 2 dimensions; it has {matrix.ndim}.")
    values = matrix.data if sparse.issparse(matrix) else matrix
    if values.dtype.kind not in "biuf":
        raise TypeError(f"a matrix of tags should be numeric; its dtype is {values.dtype}.")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("Input y contains NaN or infinity; tags should be finite.")
    n_columns = matrix.shape[1]
    if names is None:
        names = np.array([str(column) for column in range(n_columns)], dtype=object)
    elif len(names) != n_columns:
        raise ValueError(
            f"the tags have {n_columns} columns, but vocabulary names {len(names)}; "
            "they should be equal."
        )
    if sparse.issparse(matrix):
        indicator = sparse.csr_array(matrix > 0, dtype=np.float32)
    else:
        indicator = sparse.csr_array(np.asarray(matrix) > 0, dtype=np.float32)
    indicator.sum_duplicates()
    return indicator, names


def _row_tags(row: Any, n: int, lowercase: bool) -> set[str]:
    """The set of tags of row n."""
    if isinstance(row, str):
        row = (row,)
    elif _is_missing(row):
        return set()
    elif isinstance(row, numbers.Real):
        row = (_number_name(row),)
    elif isinstance(row, (bytes, Mapping)) or not isinstance(row, Collection):
        raise TypeError(
            f"the tags of row {n} are of type {type(row).__name__}; a row should be a list, set "
            "or tuple of strings, or one string."
        )
    found = set()
    for tag in row:
        if isinstance(tag, numbers.Real) and not _is_missing(tag):
            tag = _number_name(tag)
        if isinstance(tag, str):
            found.add(_clean(tag, lowercase))
        elif not _is_missing(tag):
            raise TypeError(
                f"row {n} has a tag of type {type(tag).__name__}; tags should be strings."
            )
    found.discard("")
    return found


def _is_missing(value: Any) -> bool:
    """None, NaN, pandas.NA and NaT: the values that equal nothing, not even themselves."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, numbers.Real) and value != value


def _number_name(value: Any) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _from_rows(
    rows: Any, names: np.ndarray | None, lowercase: bool
) -> tuple[sparse.csr_array, np.ndarray]:
    if isinstance(rows, np.ndarray) and rows.dtype.kind == "f" and not np.isfinite(rows).all():
        wrong = "NaN" if np.isnan(rows).any() else "infinity"
        raise ValueError(f"Input y contains {wrong}; as tags, numbers should be finite.")
    sets = [_row_tags(row, n, lowercase) for n, row in enumerate(rows)]
    if names is None:
        found = sorted(set().union(*sets))
        names = np.empty(len(found), dtype=object)
        names[:] = found
    column = {name: t for t, name in enumerate(names)}
    lists = [sorted(column[tag] for tag in tags if tag in column) for tags in sets]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in lists], dtype=np.int64)])
    indices = np.fromiter((t for row in lists for t in row), dtype=np.int32, count=indptr[-1])
    data = np.ones(len(indices), dtype=np.float32)
    return sparse.csr_array((data, indices, indptr), shape=(len(lists), len(names))), names


# --- vectors of tags ------------------------------------------------------------------------


def tag_cooccurrence(indicator: sparse.csr_array) -> sparse.csr_array:
    """How many samples carry both tags, (T, T); the diagonal counts the samples of a tag."""
    counts = sparse.csr_array(indicator.T @ indicator, dtype=np.float64)
    counts.sort_indices()
    return counts


def ppmi(cooccurrence: sparse.csr_array, smoothing: float = 0.75) -> sparse.csr_array:
    """Positive pointwise mutual information of tags, from their co-occurrence.

    ``max(0, log(p_ij / (p_i p_j)))``, with context probabilities ``p_j`` raised to
    ``smoothing`` (Levy, Goldberg and Dagan, 2015, section 3.2), made symmetric by the mean.

    Parameters
    ----------
    cooccurrence : csr_array of shape (T, T)
        Symmetric counts, the diagonal included.
    smoothing : float, default=0.75
        Exponent of the context distribution; 1 is plain PPMI.

    Returns
    -------
    csr_array of shape (T, T), float64
    """
    counts = sparse.coo_array(cooccurrence, dtype=np.float64)
    rows = np.asarray(cooccurrence.sum(axis=1), dtype=np.float64).ravel()
    total = rows.sum()
    if not total:
        return sparse.csr_array(counts.shape, dtype=np.float64)
    context = rows**smoothing / (rows**smoothing).sum()
    i, j = counts.coords
    with np.errstate(divide="ignore"):
        information = np.log(counts.data / (rows[i] * context[j]))
    result = sparse.csr_array((np.maximum(information, 0), (i, j)), shape=counts.shape)
    result = sparse.csr_array((result + result.T) / 2)
    result.eliminate_zeros()
    return result


def vectors_from_cooccurrence(
    cooccurrence: sparse.csr_array, n_components: int = 100, *, smoothing: float = 0.75
) -> np.ndarray:
    """Tag vectors learned from co-occurrence: truncated SVD of the PPMI matrix.

    Parameters
    ----------
    cooccurrence : csr_array of shape (T, T)
        See :func:`tag_cooccurrence`.
    n_components : int, default=100
        Dimensions D; at most T of them are kept.
    smoothing : float, default=0.75
        See :func:`ppmi`.

    Returns
    -------
    ndarray of shape (T, min(D, T)), float32
        ``U S^(1/2)`` (Levy and Goldberg, 2014, section 3.1), not normalised. A tag that the
        leading components do not reach has a vector near zero.
    """
    n_tags = cooccurrence.shape[0]
    information = ppmi(cooccurrence, smoothing)
    # A tag that tells nothing, as one on every sample, still has something in common with itself.
    silent = np.asarray(information.sum(axis=1)).ravel() == 0
    information = sparse.csr_array(information + sparse.diags_array(silent.astype(np.float64)))
    n_components = min(n_components, n_tags)
    if n_tags <= max(1000, 2 * n_components):
        left, strength = _leading_directions(information.toarray(), n_components)
    else:
        from sklearn.utils.extmath import randomized_svd

        # Seeded: the vectors are a function of the counts.
        left, strength, _ = randomized_svd(
            information, n_components, n_iter=7, random_state=np.random.RandomState(0)
        )
    # The sign of a singular vector is arbitrary; its largest entry is made positive.
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])])
    return (left * signs * np.sqrt(strength)).astype(np.float32)


def _leading_directions(matrix: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Left singular vectors (T, k) of a symmetric matrix, and its singular values (k,).

    They are its eigenvectors and the sizes of its eigenvalues. Torch solves this on the calling
    thread alone: the threads of numpy's solver wait for each other on a busy machine, which took
    thirty times as long.
    """
    import torch

    with one_openmp_thread("torch"):
        values, vectors = torch.linalg.eigh(torch.from_numpy(matrix))
    order = np.argsort(-np.abs(values.numpy()), kind="stable")[:n_components]
    return vectors.numpy()[:, order], np.abs(values.numpy()[order])


_WORDS = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_CAMEL = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])")


def split_words(tag: str) -> list[str]:
    """Words of a compound tag, lower-case: at blanks, hyphens, underscores and camel case.

    Examples
    --------
    >>> from skwsdhq.tags import split_words
    >>> split_words("golden_retriever-puppy"), split_words("goldenGate")
    (['golden', 'retriever', 'puppy'], ['golden', 'gate'])
    """
    return [word.lower() for word in _WORDS.findall(_CAMEL.sub(" ", tag))]


def tag_vectors(names: Iterable[str], word_vectors: Any) -> tuple[np.ndarray, np.ndarray]:
    """Vector of each tag: its own, or the mean over the words of a compound tag.

    A tag is looked up as it is, then with its words joined by ``_`` and by ``-``, then word by
    word; in lower case where the case as given is not known. Possessive endings are dropped
    where they are not known.

    Parameters
    ----------
    names : iterable of T str
        Tags.
    word_vectors : mapping of str to ndarray of shape (D,)
        Anything with ``in`` and ``[]``: a dict, a gensim ``KeyedVectors``.

    Returns
    -------
    vectors : ndarray of shape (T, D), float32
        Zeros where no word of the tag has a vector.
    found : ndarray of shape (T,), bool
        Whether at least one word had one.

    Raises
    ------
    ValueError
        If vectors differ in length, or have NaN or infinite entries.
    """
    names = list(names)
    rows = [_words_mean(name, word_vectors) for name in names]
    lengths = {row.size for row in rows if row is not None}
    if len(lengths) > 1:
        raise ValueError(f"word vectors should have one length; got {sorted(lengths)}.")
    n_dims = lengths.pop() if lengths else 0
    vectors = np.zeros((len(names), n_dims), dtype=np.float32)
    for t, row in enumerate(rows):
        if row is not None:
            vectors[t] = row
    if not np.isfinite(vectors).all():
        t = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise ValueError(f"the word vector of tag {names[t]!r} has NaN or infinite entries.")
    return vectors, np.asarray(vectors.any(axis=1))


def _words_mean(tag: str, word_vectors: Any) -> np.ndarray | None:
    words = split_words(tag)
    for whole in (tag, tag.lower(), "_".join(words), "-".join(words)):
        if whole in word_vectors:
            return np.asarray(word_vectors[whole], dtype=np.float32).ravel()
    known = []
    for word in words:
        for form in (word, re.sub(r"['’]s$", "", word), *re.split(r"['’]", word)):
            if form and form in word_vectors:
                known.append(np.asarray(word_vectors[form], dtype=np.float32).ravel())
                break
    if len({vector.size for vector in known}) > 1:
        raise ValueError(f"the words of tag {tag!r} have vectors of different lengths.")
    return np.mean(known, axis=0) if known else None


def vectors_from_neighbors(
    vectors: np.ndarray, found: np.ndarray, cooccurrence: sparse.csr_array
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors for tags that have none, from the tags they occur with.

    The mean of the unit vectors of the tags that share samples with it, weighted by PPMI.

    Parameters
    ----------
    vectors : ndarray of shape (T, D)
    found : ndarray of shape (T,), bool
        Which rows of ``vectors`` are known.
    cooccurrence : csr_array of shape (T, T)

    Returns
    -------
    vectors : ndarray of shape (T, D)
        Known rows unchanged; filled rows as long as known ones are on average.
    found : ndarray of shape (T,), bool
        False where a tag has no neighbour with a vector; that row is zero.
    """
    weights = sparse.csr_array(ppmi(cooccurrence)[~found][:, found])
    filled = normalize_rows(weights @ normalize_rows(vectors[found]))
    length = np.linalg.norm(vectors[found], axis=1).mean() if found.any() else 0
    result = vectors.copy()
    result[~found] = filled * length
    return result, np.asarray(result.any(axis=1))


def remove_common_components(vectors: np.ndarray, n_components: int = 1) -> np.ndarray:
    """Vectors without their mean and their leading principal components.

    Word vectors share a strong common direction that says how frequent a word is rather than
    what it means (Mu and Viswanath, 2018, algorithm 1).

    Parameters
    ----------
    vectors : ndarray of shape (T, D)
    n_components : int, default=1
        Leading principal components to remove after the mean; 0 removes only the mean.

    Returns
    -------
    ndarray of shape (T, D)
        A row that would vanish, as all do when T is 1, is left as it was.
    """
    centred = vectors - vectors.mean(axis=0)
    if n_components:
        _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
        leading = axes[:, ::-1][:, :n_components].astype(vectors.dtype)  # (D, k), unit columns
        centred = centred - (centred @ leading) @ leading.T
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    vanished = np.linalg.norm(centred, axis=1, keepdims=True) <= 1e-5 * length
    return np.where(vanished, vectors, centred)


def join_vectors(given: np.ndarray, learned: np.ndarray, weight: float) -> np.ndarray:
    """Two kinds of tag vectors side by side, so that cosines are weighted means of theirs.

    What words mean in a language and which tags occur together in a collection are different
    knowledge: the cosine of joined vectors is ``(cos_given + weight² cos_learned) / (1 +
    weight²)``.

    Parameters
    ----------
    given : ndarray of shape (T, D)
    learned : ndarray of shape (T, E)
    weight : float

    Returns
    -------
    ndarray of shape (T, D + E)
        Unit rows, but for tags that have no vector of either kind.
    """
    return normalize_rows(np.hstack([normalize_rows(given), weight * normalize_rows(learned)]))


# --- graph, enhancement, merging ------------------------------------------------------------


def correlation_graph(
    vectors: np.ndarray, tau: float, n_neighbors: int | None = None
) -> sparse.csr_array:
    """Tag correlation graph: which tags mean nearly the same, and how nearly.

    Tags i and j are neighbours when their cosine is at least ``tau`` and, where
    ``n_neighbors`` is given, one is among the other's nearest. A tag is its own neighbour.

    Parameters
    ----------
    vectors : ndarray of shape (T, D)
        Tag vectors of any length.
    tau : float
        Smallest cosine of neighbours.
    n_neighbors : int, default=None
        Nearest tags that a tag may choose, itself not counted; None is no limit. Of equal
        cosines the lower row is nearer.

    Returns
    -------
    csr_array of shape (T, T), float32
        Cosines of neighbours, symmetric, with ones on the diagonal. Similarities are computed
        in blocks of rows, so memory grows with the edges, not with T².

    Notes
    -----
    Edges of negative weight (possible where ``tau`` < 0) are left out: a mean weighted by
    them need not exist.
    """
    unit = normalize_rows(np.asarray(vectors, dtype=np.float32))
    n_tags = len(unit)
    parts = []
    for start in range(0, max(n_tags, 1), _BLOCK):
        cosines = unit[start : start + _BLOCK] @ unit.T
        np.fill_diagonal(cosines[:, start:], -np.inf)  # oneself comes last, with exactly 1
        keep = (cosines >= tau) & (cosines > 0)
        if n_neighbors is not None and n_neighbors < n_tags - 1:
            order = np.argsort(-cosines, axis=1, kind="stable")[:, :n_neighbors]
            nearest = np.zeros_like(keep)
            np.put_along_axis(nearest, order, True, axis=1)
            keep &= nearest
        i, j = np.nonzero(keep)
        parts.append((i + start, j, cosines[i, j]))
    i, j, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
    graph = sparse.csr_array((weight, (i, j)), shape=(n_tags, n_tags))
    graph = graph.maximum(graph.T)  # either of the two may have chosen the other
    graph = sparse.csr_array(graph + sparse.eye_array(n_tags, dtype=np.float32, format="csr"))
    graph.sort_indices()
    return graph


def enhance_vectors(vectors: np.ndarray, graph: sparse.csr_array) -> np.ndarray:
    """Each tag vector as the similarity-weighted mean of its neighbours' vectors.

    Parameters
    ----------
    vectors : ndarray of shape (T, D)
        Tag vectors; unit length is made first.
    graph : csr_array of shape (T, T)
        See :func:`correlation_graph`.

    Returns
    -------
    ndarray of shape (T, D), float32
        Unit rows.
    """
    # for i: enhanced[i] = sum_j graph[i, j] vectors[j] / sum_j graph[i, j], then unit length,
    # which makes the division superfluous.
    return normalize_rows(graph @ normalize_rows(np.asarray(vectors, dtype=np.float32)))


def merge_tags(enhanced: np.ndarray, eps: float, min_samples: int = 1) -> np.ndarray:
    """Concept of each tag: DBSCAN over the enhanced vectors, with cosine distance.

    Parameters
    ----------
    enhanced : ndarray of shape (T, D)
        Unit rows.
    eps : float
        Largest cosine distance, 1 − cos, of direct neighbours; 0 or less merges nothing.
    min_samples : int, default=1
        Tags within ``eps``, oneself included, that make a tag a core point.

    Returns
    -------
    ndarray of shape (T,), int64
        Concepts numbered from 0 in the order of their first tag; noise points are concepts
        of their own.
    """
    n_tags = len(enhanced)
    if eps <= 0 or n_tags < 2:
        return np.arange(n_tags)
    from sklearn.cluster import DBSCAN

    labels = DBSCAN(eps=eps, min_samples=min_samples, metric="cosine").fit_predict(enhanced)
    noise = labels < 0
    labels[noise] = labels.max(initial=-1) + 1 + np.arange(noise.sum())
    _, first, labels = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[labels]


def concept_vectors(enhanced: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Normalised mean of the members of each concept.

    Parameters
    ----------
    enhanced : ndarray of shape (T, D)
        Unit rows.
    labels : ndarray of shape (T,)
        Concept of each tag, from 0 to C − 1, each in use.

    Returns
    -------
    ndarray of shape (C, D)
        Unit rows.
    """
    return spherical_mean(enhanced, labels, int(labels.max(initial=-1)) + 1)
