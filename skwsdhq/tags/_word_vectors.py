"""Word vectors from an object, a file or gensim's downloader."""

import os
import zlib
from pathlib import Path
from typing import Any

from ._word_vector_files import read_vectors

__all__ = ["load_word_vectors"]

_PICKLED = (".kv", ".model", ".wordvectors", ".pkl", ".pickle")


def load_word_vectors(word_vectors: Any, *, allow_pickle: bool = False) -> Any:
    """Load word vectors: something with ``in`` and ``[]`` that gives the vector of a word.

    Parameters
    ----------
    word_vectors : mapping, KeyedVectors, str or PathLike
        A mapping or ``KeyedVectors`` is returned as it is. A path is read: word2vec's text or
        binary format, GloVe's text format (no header), each also gzipped, or gensim's own format
        (a pickle, ``allow_pickle`` needed). Words of a text file may hold spaces. Any other
        string is a name for gensim.downloader, which looks in its cache and downloads what is not
        there.
    allow_pickle : bool, default=False
        Whether gensim's pickled format may be loaded. A pickle can run any code.

    Returns
    -------
    mapping of str to ndarray

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    ValueError
        If a file is of no known format, or no model has that name.
    OSError
        If the downloader can't reach its server.
    """
    if hasattr(word_vectors, "__getitem__") and hasattr(word_vectors, "__contains__"):
        # Texts and lists have both methods too, but no words.
        if not isinstance(word_vectors, (str, list, tuple)):
            return word_vectors
    elif hasattr(getattr(word_vectors, "wv", None), "__getitem__"):  # a gensim Word2Vec model
        return word_vectors.wv
    if not isinstance(word_vectors, (str, os.PathLike)):
        raise TypeError(
            "word_vectors should be None, a mapping of words to vectors, a gensim KeyedVectors, a "
            f"path or a name; got {type(word_vectors).__name__}."
        )
    # A file goes before a model of gensim's of the same name: no download by surprise.
    path = Path(word_vectors)
    if path.exists():
        return _read(path, allow_pickle)
    text = os.fspath(word_vectors)
    # What looks like a path is never a model's name: say so before anything is downloaded.
    if isinstance(word_vectors, os.PathLike) or os.sep in text or path.suffix in _SUFFIXES:
        raise FileNotFoundError(f"word vectors {text!r} do not exist.")
    return _download(text)


_SUFFIXES = (*_PICKLED, ".bin", ".txt", ".vec", ".gz", ".w2v")


def _read(path: Path, allow_pickle: bool) -> Any:
    """Read a file of word vectors, by gensim where it is gensim's own format."""
    if path.suffix in _PICKLED:
        if not allow_pickle:
            raise ValueError(
                f"{str(path)!r} is in gensim's pickled format, which can run any code when it is "
                "read; pass allow_pickle=True if you trust it, or save it by "
                "save_word2vec_format."
            )
        from gensim.models import KeyedVectors  # heavy, and few read this format

        loaded = KeyedVectors.load(str(path))
        return getattr(loaded, "wv", loaded)
    try:
        return read_vectors(path)
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{str(path)!r} can't be read as word vectors in word2vec's or GloVe's format: {error}"
        ) from error


def _download(name: str) -> Any:
    """Return a model of gensim's downloader, from its cache or its server."""
    import gensim.downloader  # heavy, and looks at the network only when it is asked to

    try:
        return gensim.downloader.load(name)
    except ValueError as error:
        raise ValueError(
            f"word_vectors={name!r} is neither a file nor a model of gensim.downloader: {error}"
        ) from error
    except OSError as error:
        raise OSError(
            f"word_vectors={name!r} is no file, and gensim.downloader could not be reached: {error}"
        ) from error
