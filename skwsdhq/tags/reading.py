"""The one reader of tags and labels, whatever form they come in.

Fit, transform and score all read by it. What decides is the kind of container, never the values
that a fold happens to hold: lists are lists of tags, and an indicator is an array.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from scipy import sparse

from ..utils.text import clean_name, name_of_number
from ..utils.warn import warn_caller

__all__ = [
    "as_rows_of_tags",
    "check_tags",
    "is_missing",
    "is_row",
    "read_indicator",
    "read_matrix",
    "read_names",
    "read_rows",
    "tags_to_lists",
]

# Between two words; what stands between blanks can't be told from a compound tag.
_SEPARATOR = re.compile(r"\w\s*?([,;|\n\t，、；،])\s*[\w#]")
_HASHES = re.compile(r"(#)\w+\s*#\w")
_SHARE_SEPARATED = 0.25  # of different strings, from which on separators are no part of names


def check_tags(
    tags: Any,
    *,
    vocabulary: Mapping[str, int] | Sequence[str] | np.ndarray | None = None,
    lowercase: bool = True,
) -> tuple[sparse.csr_array, np.ndarray]:
    """Return tags in any accepted form as one 0/1 indicator and the names of its columns.

    Parameters
    ----------
    tags : sequence, array, Series, DataFrame or sparse matrix of n rows
        One of

        - a list, Series or object array of lists, sets or tuples of strings or numbers. Lists are
          lists of tags, whatever their lengths and their values. An empty row, or a row or tag
          that is None, NaN or blank, is legal: it says nothing;
        - a list, Series or array of strings or numbers: one tag each. A column of numbers
          (n, 1), as an array or a data frame, is the same;
        - a dense or sparse matrix (n, T) of 0 and 1, an array or a data frame: 1 says that the row
          carries the tag. Columns are named by ``vocabulary``, by the data frame's own column
          names, or by number. A missing entry is an error, as any other value is.
    vocabulary : mapping of str to int, or sequence of str, default=None
        Names of the columns. Tags outside of it are ignored. By default the sorted tags that
        occur. A data frame whose own column names are in it is read by these.
    lowercase : bool, default=True
        Whether to lower-case tags. Blanks are stripped, and runs of them made one, always;
        and names are composed (Unicode's NFC), so that "é" is one letter however it was typed.

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
        If a matrix has entries other than 0 and 1, more than two dimensions, or not as many
        columns as ``vocabulary`` has names; if classes as numbers are NaN or infinite.

    Warns
    -----
    UserWarning
        If many tags hold separators, as "sky,sun": each string is one tag. If lists look like
        rows of an indicator.

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
    names = None if vocabulary is None else read_names(vocabulary, lowercase)
    matrix = read_matrix(tags, one_tag=names is not None and len(names) == 1)
    if matrix is not None:
        values, columns = matrix
        own = None if columns is None else read_names(columns, lowercase)
        return _named(read_indicator(values), own, names)
    known = None if names is None else set(names)
    sets = read_rows(tags, lowercase=lowercase, known=known)
    if names is None:
        names = _as_objects(sorted(set().union(*sets)))
    return _from_sets(sets, {name: t for t, name in enumerate(names)}), names


def indicator_of_known(
    tags: Any, vocabulary: Mapping[str, int], lowercase: bool
) -> sparse.csr_array:
    """Return what :func:`check_tags` does, by names that it has given before.

    They are clean already: a vocabulary of ten thousand tags is not read anew for each image.
    """
    if read_matrix(tags, one_tag=len(vocabulary) == 1) is not None:
        return check_tags(tags, vocabulary=vocabulary, lowercase=lowercase)[0]
    return _from_sets(read_rows(tags, lowercase=lowercase, known=vocabulary), vocabulary)


def tags_to_lists(indicator: Any, names: Sequence[str] | np.ndarray | None = None) -> list:
    """Return lists of tags for an indicator: a form of ``y`` that every scikit-learn tool slices.

    ``cross_val_score`` and ``cross_validate`` refuse a sparse ``y``; lists pass.

    Parameters
    ----------
    indicator : sparse or dense matrix of shape (n, T), or its rows as lists
        A positive entry says that the row carries the tag.
    names : sequence of T str, default=None
        Names of the columns; by default their numbers.

    Returns
    -------
    list of n lists of str
        Tags in the order of their columns.

    Examples
    --------
    >>> from skwsdhq.tags import tags_to_lists
    >>> tags_to_lists([[1, 0], [1, 1]], ["dog", "cat"])
    [['dog'], ['dog', 'cat']]
    """
    values = indicator if sparse.issparse(indicator) else np.asarray(indicator)
    own = None if names is None else read_names(names, lowercase=False)
    matrix, columns = _named(read_indicator(values, strict=False), None, own)
    bounds = zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
    return [list(columns[matrix.indices[start:stop]]) for start, stop in bounds]


# --- matrices -------------------------------------------------------------------------------


def read_matrix(
    tags: Any, *, one_tag: bool = False, name: str = "tags"
) -> tuple[Any, list[str] | None] | None:
    """Return tags that came as a matrix of numbers with its column names; None for other forms.

    A dense column of numbers is no matrix but a class a row, unless it is boolean, or is known to
    be that of ``one_tag`` and holds 0 and 1.
    """
    if sparse.issparse(tags):
        return tags, None
    # Lists are never a matrix, even where all are equally long: in another fold they may not be.
    if isinstance(tags, (list, tuple, str, bytes)) or not hasattr(tags, "__array__"):
        return None
    array = np.asarray(tags)
    if array.ndim == 0 or array.ndim > 2:
        raise ValueError(f"{name} should have 1 or 2 dimensions; got an array of {array.ndim}.")
    columns = getattr(tags, "columns", None)
    columns = None if columns is None else [str(column) for column in columns]
    if array.ndim == 1:
        return None
    if array.dtype.kind == "O":
        numbers = _as_numbers(array, columns, name)
        if numbers is None:
            return None
        array = numbers
    return None if _holds_names(array, one_tag) else (array, columns)


def _holds_names(array: np.ndarray, one_tag: bool) -> bool:
    """Tell whether an array (n, T) holds names or classes, not zeros and ones."""
    if array.dtype.kind not in "biuf":
        return True
    # (n, 1) numbers are what a data frame of one column of classes gives.
    is_class = array.shape[1] == 1 and array.dtype.kind != "b"
    return is_class and not (one_tag and bool(np.isin(array, (0, 1)).all()))


def _as_numbers(array: np.ndarray, columns: list[str] | None, name: str) -> np.ndarray | None:
    """Turn objects (n, T), as of nullable or categorical columns, into numbers; None if unlike."""
    values = array.ravel().tolist()
    missing = [is_missing(value) for value in values]
    if all(missing):
        return None
    if not all(_is_number(value) or gone for value, gone in zip(values, missing, strict=True)):
        if columns is not None and len(columns) > 1 and set(values) <= {"0", "1"}:
            raise ValueError(
                f"{name} are a data frame of the texts '0' and '1'; make numbers of them, as by "
                "tags.astype(int)."
            )
        return None
    numbers = [np.nan if gone else float(v) for v, gone in zip(values, missing, strict=True)]
    result = np.array(numbers).reshape(array.shape)
    booleans = all(isinstance(value, (bool, np.bool_)) for value in values)
    return result.astype(bool) if booleans else result


def read_indicator(matrix: Any, *, strict: bool = True, name: str = "tags") -> sparse.csr_array:
    """Return a numeric matrix as CSR ones, (n, T) float32.

    Without ``strict`` any positive entry is a one.
    """
    if matrix.ndim != 2:
        raise ValueError(f"{name} should have 2 dimensions; they have {matrix.ndim}.")
    values = matrix.data if sparse.issparse(matrix) else matrix
    if sparse.issparse(matrix) and values.dtype.kind == "O":  # of rows in lists
        values = matrix.tocsr().data
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{name} with 2 dimensions should be 0/1; got dtype {values.dtype}.")
    _refuse_entries(values, strict, name)
    # A sparse matrix may store zeros and duplicates: neither is left in what this returns.
    indicator = sparse.csr_array(matrix > 0, dtype=np.float32)
    indicator.sum_duplicates()
    indicator.eliminate_zeros()
    indicator.data[:] = 1
    return indicator


def _refuse_entries(values: np.ndarray, strict: bool, name: str) -> None:
    """Refuse entries of a matrix that say neither yes nor no, and tell the way out."""
    wrong = values[~np.isfinite(values)] if values.dtype.kind == "f" else values[:0]
    if wrong.size:
        raise ValueError(
            f"{'Input y' if name == 'tags' else name} contains NaN or infinity: with 2 dimensions "
            f"it should hold only 0 and 1; got {wrong[0]}. fillna(0) says that what is missing is "
            "not there."
        )
    wrong = values[~np.isin(values, (0, 1))] if strict else values[:0]
    if wrong.size:
        raise ValueError(
            f"{name} with 2 dimensions should hold only 0 and 1; got {wrong[0]}. Weights become "
            "an indicator by (matrix > 0); classes as numbers should have 1 dimension, and several "
            "numbers a row be lists, as by matrix.tolist()."
        )


def _named(
    indicator: sparse.csr_array, own: np.ndarray | None, names: np.ndarray | None
) -> tuple[sparse.csr_array, np.ndarray]:
    """Return the indicator with its own names of columns, or in the columns of a vocabulary."""
    n_columns = indicator.shape[1]
    if names is None:
        if own is None:
            own = _as_objects([str(column) for column in range(n_columns)])
        return indicator, own
    # A data frame that knows a name of the vocabulary is read by names, not by position.
    if own is not None:
        columns = {name: t for t, name in enumerate(own)}
        if any(name in columns for name in names):
            placed = sparse.csc_array(indicator)
            # One empty column stands for all names that the frame does not have.
            empty = sparse.csc_array((indicator.shape[0], 1), dtype=np.float32)
            placed = sparse.hstack([placed, empty], format="csc")
            order = [columns.get(name, n_columns) for name in names]
            return sparse.csr_array(placed[:, order]), names
    if len(names) != n_columns:
        raise ValueError(
            f"the tags have {n_columns} columns, but vocabulary names {len(names)}; "
            "they should be equal."
        )
    return indicator, names


# --- rows -----------------------------------------------------------------------------------


def read_rows(
    tags: Any, *, lowercase: bool = True, known: Collection[str] | None = None, name: str = "tags"
) -> list[set[str]]:
    """Return the set of names of each row of tags that are no matrix.

    Names that are ``known`` may hold separators without a warning.
    """
    tags = _as_sequence(tags, name)
    cleaned: dict[str, str] = {}  # most tags come again and again: each is cleaned once
    in_rows: set[str] = set()  # those that stand beside others, or alone in a list
    sets = []
    for n, row in enumerate(tags):
        single = isinstance(row, str)
        found = set()
        for tag in (row,) if single else _row_items(row, n, name):
            if isinstance(tag, str):
                clean = cleaned.get(tag)
                if clean is None:
                    clean = cleaned[str(tag)] = clean_name(tag, lowercase)
                if not single:
                    in_rows.add(tag)
                found.add(clean)
            elif not is_missing(tag):
                found.add(_name_of(tag, n, name))
        found.discard("")  # a blank tag says nothing
        sets.append(found)
    _warn_of_separators(cleaned, in_rows, () if known is None else known, name)
    _warn_of_lists(tags, name)
    return sets


def _name_of(tag: Any, n: int, name: str) -> str:
    """Return the name of a tag that is a number; refuse what is neither number nor string."""
    if not _is_number(tag):
        raise TypeError(
            f"row {n} of {name} has a tag of type {type(tag).__name__}; tags should be strings."
        )
    if tag in (math.inf, -math.inf):
        raise ValueError(f"row {n} of {name} contains infinity.")
    return name_of_number(tag)


def read_names(vocabulary: Any, lowercase: bool) -> np.ndarray:
    """Return the names (T,) of a vocabulary, ordered by their column."""
    if isinstance(vocabulary, Mapping):
        columns = sorted(vocabulary.values())
        if columns != list(range(len(columns))):
            raise ValueError(
                f"vocabulary should number its {len(columns)} tags from 0 to {len(columns) - 1}, "
                "each number once."
            )
        vocabulary = sorted(vocabulary, key=lambda tag: vocabulary[tag])
    names = [clean_name(str(tag), lowercase) for tag in vocabulary]
    if len(set(names)) < len(names):
        twice = [name for name, n in Counter(names).items() if n > 1]
        raise ValueError(f"vocabulary has tags more than once: {', '.join(twice[:5])}.")
    return _as_objects(names)


def is_missing(value: Any) -> bool:
    """Tell None, NaN, pandas.NA and NaT: values that equal nothing, not even themselves."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return bool(np.isnat(value))
    return isinstance(value, (Real, Decimal)) and value != value


def is_row(value: Any) -> bool:
    """Tell a collection of tags from a single one."""
    if isinstance(value, (str, bytes, Mapping)) or getattr(value, "ndim", 1) == 0:
        return False
    return isinstance(value, Collection)


def _is_number(value: Any) -> bool:
    return isinstance(value, (Real, np.bool_, Decimal))


def _as_sequence(tags: Any, name: str) -> Any:
    """Return the rows as something to go through; refuse what has no rows."""
    if hasattr(tags, "to_list"):  # a Series, which has no other way to say that a number is missing
        return tags.to_list()
    if hasattr(tags, "__array__") and not isinstance(tags, (list, tuple)):
        array = np.asarray(tags)
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        _refuse_infinite(array, name)
        return array
    if isinstance(tags, (str, bytes, Mapping)) or not hasattr(tags, "__len__"):
        raise TypeError(
            f"{name} should be a sequence with a row a sample, or a matrix; got "
            f"{type(tags).__name__}. One sample with one tag is [['dog']]."
        )
    return tags


def _refuse_infinite(array: np.ndarray, name: str) -> None:
    """Refuse numbers as tags that are NaN or infinite, which an array can't leave out."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        wrong = "NaN" if np.isnan(array).any() else "infinity"
        raise ValueError(
            f"{'Input y' if name == 'tags' else name} contains {wrong}; as tags, numbers "
            "should be finite. A row without any is None or [] in a list."
        )


def _row_items(row: Any, n: int, name: str) -> Iterable[Any]:
    """Return the tags of a row, of which a number or nothing may be one."""
    if is_row(row):
        return row
    if _is_number(row) or is_missing(row):
        return (row,)
    raise TypeError(
        f"{name} of row {n} are of type {type(row).__name__}; a row should be a list, set or tuple "
        "of strings, or one string."
    )


def _warn_of_separators(
    cleaned: Mapping[str, str], in_rows: set[str], known: Collection[str], name: str
) -> None:
    """Warn of tags that look like several in one string."""
    texts = [text for text, clean in cleaned.items() if clean and clean not in known]
    marks = _marks_between_words(texts)
    alone = any(text not in in_rows for text, _ in marks)
    # One name among a row's may well be "washington, dc": one alone does not warn.
    if len(marks) < (1 if alone else 2) or len(marks) < _SHARE_SEPARATED * len(texts):
        return
    text, mark = marks[0]
    way = f"[text.split({mark!r}) for text in {name}]"
    if not alone:
        way = f"[[tag for text in row for tag in text.split({mark!r})] for row in {name}]"
    warn_caller(
        f"{len(marks)} of {len(texts)} different {name} hold a separator, as {text!r}; each string "
        f"is read as one tag. Split them first: {way}."
    )


def _marks_between_words(texts: list[str]) -> list[tuple[str, str]]:
    """Return the texts that hold a separator, each with the first one."""
    found = [(text, _SEPARATOR.search(text) or _HASHES.search(text)) for text in texts]
    return [(text, match.group(1)) for text, match in found if match]


def _warn_of_lists(tags: Any, name: str) -> None:
    """Warn of lists that look like the rows of an indicator."""
    if not isinstance(tags, (list, tuple)) or not all(isinstance(r, (list, tuple)) for r in tags):
        return
    if len({len(row) for row in tags}) != 1 or len(tags[0]) < 2:
        return
    # Two numbers a row may well be two tags of a row; three zeros and ones hardly are.
    is_long = len(tags[0]) > 2 or isinstance(tags[0][0], (bool, np.bool_))
    if is_long and all(map(_is_bit, itertools.chain.from_iterable(tags))):
        warn_caller(
            f"{name} are lists of 0 and 1, and lists hold tags, here '0' and '1'. Pass an "
            f"indicator as an array: np.asarray({name})."
        )


def _is_bit(value: Any) -> bool:
    return isinstance(value, (Real, np.bool_)) and value in (0, 1)


def _as_objects(names: Sequence[str]) -> np.ndarray:
    """Return names (T,) as an array of objects: numpy's own strings would all be as long."""
    result = np.empty(len(names), dtype=object)
    result[:] = names
    return result


def _from_sets(sets: list[set[str]], column: Mapping[str, int]) -> sparse.csr_array:
    """Return the indicator (n, T) of sets of names; names that are no column are left out."""
    lists = [sorted(column[tag] for tag in tags if tag in column) for tags in sets]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in lists], dtype=np.int64)])
    indices = np.fromiter((t for row in lists for t in row), dtype=np.int32, count=indptr[-1])
    data = np.ones(len(indices), dtype=np.float32)  # products with vectors are float32 then
    return sparse.csr_array((data, indices, indptr), shape=(len(lists), len(column)))


def as_rows_of_tags(y: Any) -> Any:
    """Return tags as an enhancer reads them: a matrix as it is once checked, classes as lists."""
    if isinstance(y, str):
        check_tags(y)  # says what a plain string should be
    matrix = read_matrix(y)
    if matrix is not None:
        read_indicator(matrix[0])
    elif hasattr(y, "__array__"):
        array = np.asarray(y)
        if array.dtype.kind in "biuf" and (array.ndim == 1 or array.shape[1:] == (1,)):
            return [[*row] for row in read_rows(y)]
    return y
