"""Files of word vectors: word2vec's text and binary format, GloVe's text, each also gzipped.

Nothing is allocated by what a header says: rows grow with what is read. gensim splits lines of
text from the left, so that a word with a space in it spoils the file; here they are split from the
right, by the number of dimensions.
"""

import gzip
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

__all__ = ["WordVectors", "read_vectors"]

_LONGEST = 1 << 22  # bytes of a line: 300 dimensions take some 4,000
_MAX_DIMS = 1 << 20
_SAMPLE = 100  # lines that tell the number of dimensions
_LINES = 1000  # parsed at once


class WordVectors(Mapping[str, np.ndarray]):
    """Map words to their rows of a matrix."""

    def __init__(self, words: dict[str, int], vectors: np.ndarray) -> None:
        self.words, self.vectors = words, vectors

    def __getitem__(self, word: str) -> np.ndarray:
        return self.vectors[self.words[word]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.words


class _Rows:
    """Collect words and vectors as they are read; of equal words the first counts."""

    def __init__(self, n_dims: int) -> None:
        self.words: dict[str, int] = {}
        self.vectors = np.empty((0, n_dims), dtype=np.float32)
        self.n_rows = 0

    def add(self, words: list[bytes], vectors: np.ndarray, line: int) -> None:
        """Append words and their vectors, the first of which is on this line of the file."""
        start, stop = self.n_rows, self.n_rows + len(words)
        if stop > len(self.vectors):  # in place where the system can
            self.vectors.resize((max(stop, 2 * start), vectors.shape[1]), refcheck=False)
        self.vectors[start:stop] = vectors
        self.n_rows = stop
        for i, word in enumerate(words):
            try:
                self.words.setdefault(word.decode("utf-8"), start + i)
            except UnicodeDecodeError as error:
                raise ValueError(f"line {line + i}: the word {word[:40]!r} is no UTF-8") from error

    def done(self) -> WordVectors:
        """Return what has been read, without the room that is left."""
        self.vectors.resize((self.n_rows, self.vectors.shape[1]), refcheck=False)
        return WordVectors(self.words, self.vectors)


def read_vectors(path: Path) -> WordVectors:
    """Return the word vectors of a file.

    Raises
    ------
    ValueError
        If it is no file of word vectors, or a damaged one; the message names the line.
    """
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    opener: Any = gzip.open if packed else open  # files of both read as bytes
    with opener(path, "rb") as stream:
        first = _line(stream).removeprefix(b"\xef\xbb\xbf")  # a byte order mark
        counts = first.split()
        if len(counts) != 2 or not all(count.isdigit() and len(count) < 19 for count in counts):
            return _read_text(stream, [first], None)
        n_words, n_dims = map(int, counts)
        if n_words < 1 or not 0 < n_dims <= _MAX_DIMS:
            raise ValueError(f"its header says {n_words} words of {n_dims} dimensions")
        # A letter and a digit for each number is the least that a row takes in any format.
        if not packed and n_words * (n_dims + 1) > path.stat().st_size:
            raise ValueError(f"its header says {n_words} words of {n_dims}, more than it can hold")
        start = stream.tell()
        sample = stream.read(1 << 16)
        stream.seek(start)
        if _is_text(sample, n_dims):
            return _read_text(stream, [], (n_words, n_dims))
        return _read_binary(stream, n_words, n_dims)


def _is_text(sample: bytes, n_dims: int) -> bool:
    """Tell text from float32 numbers, by the beginning of a file."""
    line = sample.split(b"\n", 1)[0].split()
    if len(line) > n_dims and all(_is_number(value) for value in line[-n_dims:]):
        return True
    try:
        text = sample.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(sample) - error.start > 3:  # else the sample ends within a letter
            return False
        text = sample[: error.start].decode("utf-8")
    return not any(character < " " and character not in "\t\n\r" for character in text)


def _is_number(value: bytes) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _line(stream: IO[bytes]) -> bytes:
    """Read a line; refuse one that could be all of a file without line ends."""
    line = stream.readline(_LONGEST)
    if len(line) == _LONGEST:
        raise ValueError(f"a line is longer than {_LONGEST} bytes")
    return line


def _n_numbers(line: bytes) -> int:
    """Count the numbers at the end of a line, whose first part is a word whatever it is."""
    n = 0
    for value in reversed(line.split()[1:]):
        if not _is_number(value):
            break
        n += 1
    return n


def _read_text(
    stream: IO[bytes], lines: list[bytes], header: tuple[int, int] | None
) -> WordVectors:
    """Read the vectors of a text, of which the first lines have been read."""
    while len(lines) < _SAMPLE and (line := _line(stream)):
        lines.append(line)
    number = 1 if header is None else 2  # of the first of these lines
    rows = _Rows(_dimensions(lines, number, header))
    while lines:
        _parse(lines, number, rows)
        number += len(lines)
        lines = []
        while len(lines) < _LINES and (line := _line(stream)):
            lines.append(line)
    if header is not None and rows.n_rows != header[0]:
        raise ValueError(f"its header says {header[0]} words, but it has {rows.n_rows}")
    return rows.done()


def _dimensions(lines: list[bytes], number: int, header: tuple[int, int] | None) -> int:
    """Return the dimensions that a header says, or else those of most lines."""
    found = Counter(n for n in map(_n_numbers, lines) if n)
    if not found:
        raise ValueError(f"line {number} holds no vector")
    # A word that ends in a number has one more, a damaged line fewer.
    n_dims = max(found, key=lambda n: (found[n], -n))
    if header is None:
        return n_dims
    if header[1] != n_dims and not found[header[1]]:
        raise ValueError(f"its header says {header[1]} dimensions, but lines have {n_dims}")
    return header[1]


def _parse(lines: list[bytes], number: int, rows: _Rows) -> None:
    """Add lines of text to the rows; ``number`` is that of the first line."""
    n_dims = rows.vectors.shape[1]
    pairs = [line.split(None, 1) for line in lines]
    try:  # most words have no space in them
        words, values = zip(*pairs, strict=True)
        vectors = np.loadtxt(values, dtype=np.float32, comments=None, ndmin=2)
        if vectors.shape == (len(lines), n_dims):
            rows.add(list(words), vectors, number)
            return
    except ValueError:
        pass
    # Some word has spaces, or a line is damaged: split from the right, and name the line.
    for i, line in enumerate(lines):
        parts = line.rsplit(None, n_dims)
        if not parts:
            continue
        if len(parts) <= n_dims:
            raise ValueError(
                f"line {number + i} has {len(parts) - 1} numbers after a word, should have {n_dims}"
            )
        try:
            vector = np.array([[float(value) for value in parts[1:]]], dtype=np.float32)
        except ValueError as error:
            raise ValueError(f"line {number + i}: {error}") from error
        rows.add([parts[0].strip()], vector, number + i)


def _read_binary(stream: IO[bytes], n_words: int, n_dims: int) -> WordVectors:
    """Read word2vec's binary format: a word, a space, float32 numbers, perhaps a newline."""
    width = 4 * n_dims
    rows = _Rows(n_dims)
    rest = b""
    while rows.n_rows < n_words:
        read = stream.read(max(1 << 20, width))
        if not read:
            raise ValueError(f"its header says {n_words} words, but it has {rows.n_rows}")
        rest += read
        if len(rest) > _LONGEST + 2 * width and b" " not in rest[:_LONGEST]:
            raise ValueError(f"word {rows.n_rows + 1} is longer than {_LONGEST} bytes")
        words: list[bytes] = []
        numbers: list[bytes] = []
        place = 0
        while rows.n_rows + len(words) < n_words:
            space = rest.find(b" ", place)
            if space < 0 or space + 1 + width > len(rest):
                break
            words.append(rest[place:space].lstrip(b"\n"))
            numbers.append(rest[space + 1 : space + 1 + width])
            place = space + 1 + width
        rest = rest[place:]
        if words:
            vectors = np.frombuffer(b"".join(numbers), dtype="<f4").reshape(-1, n_dims)
            rows.add(words, vectors, rows.n_rows + 1)
    if (rest + stream.read(16)).strip():
        raise ValueError(f"more follows the {n_words} words that its header says")
    return rows.done()
