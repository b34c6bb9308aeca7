"""Queries of words as unit vectors among the concepts: tags, other words, compounds, negation.

A word that the fit has seen stands where its concept does. Another one is placed by its word
vector, where the enhancer still has these, as the fit has placed tags: centred, joined with what
tags like it occur with, and drawn to near ones. A query is the weighted sum of its words.
"""

import re
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from rapidfuzz import fuzz, process

from ..sphere import normalize_rows
from ..utils.text import clean_name, split_words
from ._emphasis import emphasized
from ._vectors import (
    common_directions,
    n_common_components,
    tag_vectors,
    whole_vector,
    without_directions,
)
from ._word_vectors import load_word_vectors

__all__ = ["Words", "embed_queries", "read_query", "words_of"]

_N_NEAR = 10  # known tags that say with what else an unknown word would occur
_N_OFFERED = 3  # spellings

# What is looked up of a fitted enhancer once, not at each query: no attribute, which would be
# saved, copied and compared.
_WORDS: weakref.WeakKeyDictionary[Any, tuple] = weakref.WeakKeyDictionary()


def read_query(query: Any) -> dict[str, float]:
    """Return the words of one query with their weights.

    Parameters
    ----------
    query : str, sequence of str, or mapping of str to float
        A word that begins with "-" counts against what carries it. The keys of a mapping are taken
        as they are, and their weights may be negative.

    Returns
    -------
    dict of str to float
        The weights of a word that comes twice add up.
    """
    if isinstance(query, Mapping):
        given = [(word, _weight(word, weight)) for word, weight in query.items()]
    else:
        words = [query] if isinstance(query, str) else query
        if isinstance(words, bytes) or not isinstance(words, Iterable):
            raise TypeError(
                "a query should be a word, several, or a mapping of words to weights; got "
                f"{query!r}."
            )
        given = [_signed(word) for word in words]
    found: dict[str, float] = {}
    for word, weight in given:
        if not isinstance(word, str) or not word.strip():
            raise ValueError(
                f"a query of words should hold texts that are not empty; got {word!r}."
            )
        found[word] = found.get(word, 0.0) + weight
    if not found:
        raise ValueError("a query needs at least one word; it has none.")
    return found


def _signed(word: Any) -> tuple[Any, float]:
    """Return a word without the sign that it begins with, and 1 or -1."""
    stripped = word.strip() if isinstance(word, str) else word
    if isinstance(stripped, str) and len(stripped) > 1 and stripped.startswith("-"):
        return stripped[1:], -1.0
    return word, 1.0


def _weight(word: Any, weight: Any) -> float:
    number = float(weight)
    if not np.isfinite(number):
        raise ValueError(f"the weight of {word!r} should be finite; got {weight}.")
    return number


def embed_queries(words: "Words", queries: Any) -> np.ndarray:
    """Return unit rows (q, D) of queries.

    Parameters
    ----------
    words : Words
        Of a fitted enhancer.
    queries : str, mapping, or sequence of q queries
        One word or mapping is one query; see :func:`read_query` for each of several.

    Returns
    -------
    ndarray of shape (q, D), float32

    Raises
    ------
    ValueError
        If nothing knows a word, or the words of a query cancel each other.
    """
    # One query alone is what most calls are.
    if isinstance(queries, (str, Mapping)):
        queries = [queries]
    read = [read_query(query) for query in queries]
    found = words.vectors(dict.fromkeys(word for query in read for word in query))
    rows = np.zeros((len(read), words.n_dims), dtype=np.float64)
    for q, query in enumerate(read):
        for word, weight in query.items():
            rows[q] += weight * found[word]
        size = sum(map(abs, query.values()))
        # What is left of words that cancel is rounding, a direction without meaning.
        if np.linalg.norm(rows[q]) <= 1e-6 * max(size, 1e-300):
            raise ValueError(f"the words of the query {query} cancel each other; nothing is left.")
    return normalize_rows(rows).astype(np.float32)


def words_of(owner: Any, now: Any, directions: np.ndarray | None = None) -> "Words":
    """Return the words that an enhancer knows; the same object until it is fitted again.

    Parameters
    ----------
    owner : object
        Beside which they are kept: the enhancer, or a quantizer with directions of its own.
    now : TagEnhancer
        As it stands: another thread may fit it meanwhile.
    directions : ndarray of shape (C, D), default=None
        Where to look for concepts; None is where their vectors are.
    """
    known = _WORDS.get(owner)
    key = (now.vocabulary_, now.word_vectors, directions)
    if known is None or any(a is not b for a, b in zip(known[:3], key, strict=True)):
        known = (*key, Words(now, directions))
        _WORDS[owner] = known
    return known[3]


class Words:
    """Look words up among the concepts of a fitted enhancer.

    Parameters
    ----------
    enhancer : TagEnhancer
        Fitted. One that was loaded from a file has no word vectors of its own kept, so that it
        knows the tags of its fit alone.
    directions : ndarray of shape (C, D), default=None
        Where to look for its concepts; None is where their vectors are.
    """

    def __init__(self, enhancer: Any, directions: np.ndarray | None = None) -> None:
        self._rows: dict[str, int] = enhancer.vocabulary_
        self._labels = enhancer.labels_
        self._concepts = enhancer.concept_vectors_ if directions is None else directions
        self._lowercase = bool(enhancer.lowercase)
        self._place = None
        if enhancer.word_vectors is not None:
            self._place = _Placing(enhancer)

    @property
    def n_dims(self) -> int:
        """D."""
        return self._concepts.shape[1]

    def vectors(self, words: Iterable[str]) -> dict[str, np.ndarray]:
        """Return the unit vector (D,) of each word; those that nothing knows are one error."""
        found = {word: self._vector(word) for word in words}
        unknown = [word for word, vector in found.items() if vector is None]
        if unknown:
            raise ValueError(" ".join(map(self._offer, unknown)))
        return {word: vector for word, vector in found.items() if vector is not None}

    def _vector(self, word: str) -> np.ndarray | None:
        name = clean_name(word, self._lowercase)
        whole = self._known(name)
        if whole is None:
            whole = self._placed(name)
        if whole is not None:
            return whole
        # A compound that nobody used as a tag is the mean of its words, of which all should count.
        parts = split_words(name) if self._lowercase else re.split(r"[\s_-]+", name)
        if parts == [name]:
            return None
        vectors = [self._part(part) for part in parts]
        if not vectors or any(vector is None for vector in vectors):
            return None
        mean = np.mean([vector for vector in vectors if vector is not None], axis=0)
        return normalize_rows(mean[None])[0]

    def _part(self, word: str) -> np.ndarray | None:
        """Return the vector of a word of a compound, whose possessive ending may go."""
        for form in (word, re.sub(r"['’]s$", "", word)):
            vector = self._known(form)
            if vector is None:
                vector = self._placed(form)
            if vector is not None:
                return vector
        return None

    def _known(self, name: str) -> np.ndarray | None:
        """Return the concept vector of a tag of the fit, also where its words are joined else."""
        words = split_words(name)
        for form in (name, " ".join(words), "_".join(words), "-".join(words), "".join(words)):
            row = self._rows.get(form)
            if row is not None:
                return self._concepts[self._labels[row]].astype(np.float64)
        return None

    def _placed(self, name: str) -> np.ndarray | None:
        return None if self._place is None else self._place(name)

    def _offer(self, word: str) -> str:
        """Say that nothing knows a word, and which known ones are spelt nearly so."""
        name = clean_name(word, self._lowercase)
        # By edits of letters, words in any order, and parts of words.
        near = process.extract(
            name, list(self._rows), scorer=fuzz.WRatio, limit=_N_OFFERED, score_cutoff=60
        )
        text = f"no tag and no word vector is known for {word!r}"
        if self._place is None:
            text = f"{word!r} is none of the {len(self._rows)} tags of the fit"
        offered = ", ".join(repr(tag) for tag, *_ in near)
        return (
            f"{text}; did you mean {offered}?" if offered else f"{text}, and none is spelt alike."
        )


class _Placing:
    """Place words that the fit has not seen by their word vectors."""

    def __init__(self, enhancer: Any) -> None:
        self._vectors = load_word_vectors(enhancer.word_vectors, allow_pickle=enhancer.allow_pickle)
        raw, found = tag_vectors(enhancer.vocabulary_, self._vectors)
        self._joined = normalize_rows(enhancer.tag_vectors_[found].astype(np.float64))
        self._enhanced = normalize_rows(enhancer.tag_vectors_.astype(np.float64))
        self._emphasis = enhancer.emphasis_
        self._tau = float(enhancer.tau)
        self._n_given = raw.shape[1]
        n_components = n_common_components(enhancer.remove_components, True, len(raw))
        self._directions = common_directions(raw[found], n_components)
        self._given = normalize_rows(without_directions(raw[found], self._directions)).astype(float)

    def __call__(self, name: str) -> np.ndarray | None:
        """Return the unit vector (D,) of a word; None where it has no word vector."""
        raw = whole_vector(name, self._vectors)
        if raw is None or not raw.any():
            return None
        if raw.size != self._n_given or not np.isfinite(raw).all():
            raise ValueError(
                f"the word vector of {name!r} should be {self._n_given} finite numbers, as those "
                "of the tags are."
            )
        own = normalize_rows(without_directions(raw[None], self._directions)).astype(float)[0]
        vector = own
        if self._joined.shape[1] > self._n_given:  # joined with what occurs together
            vector = self._with_learned(own)
        # As the graph enhances tags: near ones draw it to them, by their cosines.
        cosines = self._enhanced @ vector
        near = cosines >= self._tau
        drawn = normalize_rows((vector + cosines[near] @ self._enhanced[near])[None])
        return emphasized(drawn, self._emphasis)[0]

    def _with_learned(self, own: np.ndarray) -> np.ndarray:
        """Join a vector with the mean of those that its nearest tags have of co-occurrence."""
        cosines = self._given @ own
        near = np.argsort(-cosines, kind="stable")[:_N_NEAR]
        weights = np.maximum(cosines[near], 0)
        given, learned = np.split(self._joined, [self._n_given], axis=1)
        share = np.linalg.norm(given, axis=1).mean(), np.linalg.norm(learned, axis=1).mean()
        mean = normalize_rows((weights @ learned[near])[None])[0]
        return normalize_rows(np.concatenate([share[0] * own, share[1] * mean])[None])[0]
