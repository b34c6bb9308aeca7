"""Vectors of tags: looked up, learned from co-occurrence, filled, centred, joined."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import sparse

from ..sphere import normalize_rows
from ..utils.text import split_words
from ..utils.threads import one_openmp_thread

__all__ = [
    "ENOUGH_TAGS",
    "alike_tags",
    "common_directions",
    "join_vectors",
    "n_common_components",
    "ppmi",
    "remove_common_components",
    "tag_cooccurrence",
    "tag_vectors",
    "vectors_from_cooccurrence",
    "vectors_from_neighbors",
    "whole_vector",
    "without_directions",
]


ENOUGH_TAGS = 100  # from which on their mean and leading component are those of the language
_MAX_ROW = 1000  # tags of a row that count in pairs, a million of them
# From so many pairs or tags on, tags of the same samples are counted as one.
_MANY_PAIRS = 1 << 23
_MANY_TAGS = 20_000


def tag_cooccurrence(indicator: sparse.csr_array) -> sparse.csr_array:
    """Return how many samples carry both tags, (T, T); the diagonal counts the samples of a tag.

    Of a sample with more than 1000 tags, which says little about which belong together, a thousand
    evenly spaced ones make pairs; the diagonal counts all.

    Parameters
    ----------
    indicator : csr_array of shape (n, T)
        0/1.

    Returns
    -------
    csr_array of shape (T, T), float64
        Symmetric counts.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> from skwsdhq.tags import tag_cooccurrence
    >>> tag_cooccurrence(csr_array([[1, 1], [1, 0]])).toarray().tolist()
    [[2.0, 1.0], [1.0, 1.0]]
    """
    lengths = np.diff(indicator.indptr)
    counts = indicator
    if lengths.max(initial=0) > _MAX_ROW:
        kept = np.ones(indicator.nnz, dtype=bool)
        for row in np.flatnonzero(lengths > _MAX_ROW):
            start, stop = indicator.indptr[row], indicator.indptr[row + 1]
            kept[start:stop] = False
            kept[np.linspace(start, stop - 1, _MAX_ROW).astype(np.int64)] = True
        position = np.repeat(np.arange(len(lengths)), lengths)[kept]
        parts = (indicator.data[kept], (position, indicator.indices[kept]))
        counts = sparse.csr_array(parts, shape=indicator.shape)
    pairs = sparse.csr_array(counts.T @ counts, dtype=np.float64)
    if counts is not indicator:
        missed = np.asarray(indicator.sum(axis=0)).ravel() - pairs.diagonal()
        pairs = sparse.csr_array(pairs + sparse.diags_array(missed.astype(np.float64)))
    pairs.sort_indices()
    return pairs


def alike_tags(indicator: sparse.csr_array) -> tuple[np.ndarray, np.ndarray] | None:
    """Return which tags are carried by the same samples, where tags or pairs are very many.

    What is learned from co-occurrence is the same for such tags, so that it can be learned of one
    of them: an image of 5,000 tags that no other image has would be 25 million pairs.

    Returns
    -------
    (first, group) or None
        First tag of each group (G,), and group of each tag (T,). None where there are fewer than 8
        million pairs and 20,000 tags, or no two alike.
    """
    n_pairs = np.square(np.diff(indicator.indptr), dtype=np.float64).sum()
    if n_pairs < _MANY_PAIRS and indicator.shape[1] < _MANY_TAGS:
        return None
    # Tags of the same samples have the same bytes of row numbers, once these are sorted.
    columns = sparse.csc_array(indicator)
    columns.sort_indices()
    groups: dict[bytes, int] = {}
    bounds = zip(columns.indptr[:-1], columns.indptr[1:], strict=True)
    group = np.array(
        [groups.setdefault(columns.indices[a:b].tobytes(), len(groups)) for a, b in bounds]
    )
    return None if len(groups) == len(group) else (np.unique(group, return_index=True)[1], group)


def ppmi(
    cooccurrence: sparse.csr_array,
    smoothing: float = 0.75,
    *,
    multiplicity: np.ndarray | None = None,
) -> sparse.csr_array:
    """Return the positive pointwise mutual information of tags, from their co-occurrence.

    ``max(0, log(p_ij / (p_i p_j)))``, with context probabilities ``p_j`` raised to
    ``smoothing`` (Levy, Goldberg and Dagan, 2015, section 3.2), made symmetric by the mean.

    Parameters
    ----------
    cooccurrence : csr_array of shape (T, T)
        Symmetric counts, the diagonal included.
    smoothing : float, default=0.75
        Exponent of the context distribution; 1 is plain PPMI.
    multiplicity : ndarray of shape (T,), default=None
        Tags that each row stands for, all alike; None is one each.

    Returns
    -------
    csr_array of shape (T, T), float64
        Symmetric, without stored zeros.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> from skwsdhq.tags import ppmi
    >>> apart = csr_array([[2.0, 0.0], [0.0, 2.0]])  # two tags that never stand together
    >>> ppmi(apart, smoothing=1).toarray().round(3).tolist()  # log 2 with themselves
    [[0.693, 0.0], [0.0, 0.693]]
    """
    counts = sparse.coo_array(cooccurrence, dtype=np.float64)
    times = np.ones(counts.shape[0]) if multiplicity is None else multiplicity
    rows = np.asarray(cooccurrence @ times, dtype=np.float64).ravel()
    if not rows.any():
        return sparse.csr_array(counts.shape, dtype=np.float64)
    # Smoothing makes rare contexts less surprising: a tag on two images says little.
    context = rows**smoothing / (times @ rows**smoothing)
    i, j = counts.coords
    with np.errstate(divide="ignore"):  # the logarithm of a stored 0, which becomes 0 below
        information = np.log(counts.data / (rows[i] * context[j]))
    result = sparse.csr_array((np.maximum(information, 0), (i, j)), shape=counts.shape)
    result = sparse.csr_array((result + result.T) / 2)
    result.eliminate_zeros()
    return result


def vectors_from_cooccurrence(
    cooccurrence: sparse.csr_array,
    n_components: int = 100,
    *,
    smoothing: float = 0.75,
    multiplicity: np.ndarray | None = None,
) -> np.ndarray:
    """Learn tag vectors from co-occurrence, by a truncated SVD of the PPMI matrix.

    Parameters
    ----------
    cooccurrence : csr_array of shape (T, T)
        See :func:`tag_cooccurrence`.
    n_components : int, default=100
        Dimensions D; at most T of them are kept.
    smoothing : float, default=0.75
        See :func:`ppmi`.
    multiplicity : ndarray of shape (T,), default=None
        Tags that each row stands for; the vectors are those that the tags themselves would get.

    Returns
    -------
    ndarray of shape (T, min(D, T)), float32
        ``U S^(1/2)`` (Levy and Goldberg, 2014, section 3.1), not normalised. A tag that the
        leading components do not reach has a vector near zero.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> from skwsdhq.tags import tag_cooccurrence, vectors_from_cooccurrence
    >>> counts = tag_cooccurrence(csr_array([[1, 1, 0], [1, 1, 0], [0, 0, 1]]))
    >>> vectors_from_cooccurrence(counts, n_components=2).shape
    (3, 2)
    """
    n_tags = cooccurrence.shape[0]
    information = ppmi(cooccurrence, smoothing, multiplicity=multiplicity)
    # A tag that tells nothing, as one on every sample, still has something in common with itself.
    silent = np.asarray(information.sum(axis=1)).ravel() == 0
    information = sparse.csr_array(information + sparse.diags_array(silent.astype(np.float64)))
    if multiplicity is not None:
        # With E (T, G) that says which row each of T tags is, E·P·Eᵀ has the eigenvectors
        # E·M^(−1/2)·u for those u of M^(1/2)·P·M^(1/2).
        roots = np.sqrt(multiplicity)
        information = sparse.csr_array(
            sparse.diags_array(roots) @ information @ sparse.diags_array(roots)
        )
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
    if multiplicity is not None:
        left = left / roots[:, None]
    return (left * signs * np.sqrt(strength)).astype(np.float32)


def _leading_directions(matrix: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Return left singular vectors (T, k) of a symmetric matrix, and its singular values (k,).

    They are its eigenvectors and the sizes of its eigenvalues. Torch solves this on the calling
    thread alone: the threads of numpy's solver wait for each other on a busy machine, which took
    thirty times as long.
    """
    import torch

    with one_openmp_thread("torch"):
        values, vectors = torch.linalg.eigh(torch.from_numpy(matrix))
    order = np.argsort(-np.abs(values.numpy()), kind="stable")[:n_components]
    return vectors.numpy()[:, order], np.abs(values.numpy()[order])


def tag_vectors(names: Iterable[str], word_vectors: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the vector of each tag: its own, or the mean over the words of a compound tag.

    A tag is looked up as it is, then with its words joined by ``_`` and by ``-``, then word by
    word; in lower case where the case as given is not known. Possessive endings are dropped
    where they are not known. Accents count alike, composed or decomposed (Unicode's NFC and NFD).

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

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.tags import tag_vectors
    >>> words = {"ice": np.array([1.0, 0.0]), "cream": np.array([0.0, 1.0])}
    >>> vectors, found = tag_vectors(["ice cream", "dog"], words)
    >>> vectors.tolist(), found.tolist()
    ([[0.5, 0.5], [0.0, 0.0]], [True, False])
    """
    names = list(names)  # gone through twice
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
    """Return the vector of a tag, or the mean over its words; None where none is known."""
    whole = whole_vector(tag, word_vectors)
    if whole is not None:
        return whole
    known = []
    for word in split_words(tag):
        forms = (word, re.sub(r"['’]s$", "", word), *re.split(r"['’]", word))
        vector = _look_up(forms, word_vectors)
        if vector is not None:
            known.append(vector)
    if len({vector.size for vector in known}) > 1:
        raise ValueError(f"the words of tag {tag!r} have vectors of different lengths.")
    return np.mean(known, axis=0) if known else None


def whole_vector(tag: str, word_vectors: Any) -> np.ndarray | None:
    """Return the vector (D,) that a tag has as a whole; None where it has none."""
    words = split_words(tag)
    return _look_up((tag, tag.lower(), "_".join(words), "-".join(words)), word_vectors)


def _look_up(forms: Iterable[str], word_vectors: Any) -> np.ndarray | None:
    """Return the vector of the first form that is known, composed or else decomposed."""
    for form in forms:
        # Our tags are composed (NFC); files of word vectors may hold either form.
        for written in (form,) if form.isascii() else (form, unicodedata.normalize("NFD", form)):
            if written and written in word_vectors:
                return np.asarray(word_vectors[written], dtype=np.float32).ravel()
    return None


def vectors_from_neighbors(
    vectors: np.ndarray,
    found: np.ndarray,
    cooccurrence: sparse.csr_array,
    *,
    group: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fill in vectors for tags that have none, from the tags they occur with.

    The mean of the unit vectors of the tags that share samples with it, weighted by PPMI.

    Parameters
    ----------
    vectors : ndarray of shape (T, D)
    found : ndarray of shape (T,), bool
        Which rows of ``vectors`` are known.
    cooccurrence : csr_array of shape (T, T)
    group : ndarray of shape (T,), default=None
        Row of ``cooccurrence`` that stands for each tag, where it has one for several alike.

    Returns
    -------
    vectors : ndarray of shape (T, D)
        Known rows unchanged; filled rows as long as known ones are on average.
    found : ndarray of shape (T,), bool
        False where a tag has no neighbour with a vector; that row is zero.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_array
    >>> from skwsdhq.tags import tag_cooccurrence, vectors_from_neighbors
    >>> counts = tag_cooccurrence(csr_array([[1, 1, 0], [0, 0, 1]]))
    >>> vectors = np.array([[0.0, 2.0], [0.0, 0.0], [2.0, 0.0]])
    >>> found = np.array([True, False, True])
    >>> filled, found = vectors_from_neighbors(vectors, found, counts)
    >>> filled[1].tolist(), found.tolist()
    ([0.0, 2.0], [True, True, True])
    """
    if group is None:
        weights = sparse.csr_array(ppmi(cooccurrence)[~found][:, found])
        filled = normalize_rows(weights @ normalize_rows(vectors[found]))
    else:
        sums = np.zeros((cooccurrence.shape[0], vectors.shape[1]), dtype=np.float32)
        np.add.at(sums, group[found], normalize_rows(vectors[found]))
        weights = ppmi(cooccurrence, multiplicity=np.bincount(group))
        filled = normalize_rows(weights @ sums)[group[~found]]
    # As long as the others, so that centring and joining weigh it like them.
    length = np.linalg.norm(vectors[found], axis=1).mean() if found.any() else 0
    result = vectors.copy()
    result[~found] = filled * length
    return result, np.asarray(result.any(axis=1))


def remove_common_components(vectors: np.ndarray, n_components: int = 1) -> np.ndarray:
    """Remove the mean of vectors and their leading principal components.

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

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.tags import remove_common_components
    >>> remove_common_components(np.array([[5.0, 1.0], [5.0, -1.0]]), n_components=0)
    array([[ 0.,  1.],
           [ 0., -1.]])
    """
    return without_directions(vectors, common_directions(vectors, n_components))


def common_directions(
    vectors: np.ndarray, n_components: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (D,) of vectors and their leading principal components (D, k).

    With ``n_components`` None the mean is zeros, and there are no components.
    """
    if n_components is None:
        return np.zeros_like(vectors[0]), np.zeros((vectors.shape[1], 0), dtype=vectors.dtype)
    mean = vectors.mean(axis=0)
    if not n_components:
        return mean, np.zeros((vectors.shape[1], 0), dtype=vectors.dtype)
    centred = vectors - mean
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    return mean, axes[:, ::-1][:, :n_components].astype(vectors.dtype)  # (D, k), unit columns


def without_directions(
    vectors: np.ndarray, directions: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return vectors (n, D) less the mean and the components of :func:`common_directions`.

    A row that would vanish is left as it was.
    """
    mean, leading = directions
    centred = vectors - mean
    if leading.shape[1]:
        centred = centred - (centred @ leading) @ leading.T
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    # What is left of a row may be rounding alone: it would be a direction without meaning.
    vanished = np.linalg.norm(centred, axis=1, keepdims=True) <= 1e-5 * length
    return np.where(vanished, vectors, centred)


def n_common_components(asked: int | str | None, given: bool, n_tags: int) -> int | None:
    """Return how many components of tag vectors to remove; ``"auto"`` says what pays.

    ``given`` tells word vectors that were given from those that are learned.
    """
    if asked == "auto":
        return 1 if given and n_tags >= ENOUGH_TAGS else None
    return None if asked is None else int(asked)


def join_vectors(given: np.ndarray, learned: np.ndarray, weight: float) -> np.ndarray:
    """Join two kinds of tag vectors, so that cosines are weighted means of theirs.

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

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.tags import join_vectors
    >>> given, learned = np.eye(2), np.array([[1.0, 0.0], [1.0, 0.0]])
    >>> joined = join_vectors(given, learned, weight=1.0)
    >>> round(float(joined[0] @ joined[1]), 6)  # the mean of 0 and 1
    0.5
    """
    return normalize_rows(np.hstack([normalize_rows(given), weight * normalize_rows(learned)]))
