"""Text from people everywhere: names in one form, words, lines."""

import re
import unicodedata
from functools import cache

__all__ = ["clean_name", "name_of_number", "split_lines", "split_words"]

_INVISIBLE = str.maketrans("\u200b\ufeff", "  ")  # a blank of no width, a byte order mark
_LINE_END = re.compile("\r\n|\n|\r")
_ASCII_WORDS = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_CAMEL = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])")


def clean_name(name: str, lowercase: bool = True) -> str:
    """Return a name in the one form in which names are compared.

    Runs of blanks become one space, blanks at the ends go, and Unicode is composed (NFC): "é" is
    one letter, whether it was typed as one or as "e" and an accent.
    """
    if name.isascii():  # most names are, and composing takes ten times as long
        name = " ".join(name.split())
        return name.lower() if lowercase else name
    name = " ".join(unicodedata.normalize("NFC", name.translate(_INVISIBLE)).split())
    if lowercase:
        # The lower case of "İ" is "i" with a second dot over its own.
        name = unicodedata.normalize("NFC", name.lower().replace("i\u0307", "i"))
    return name


def name_of_number(value: object) -> str:
    """Return the name that a number has as a tag or a label: 1, 1.0 and True are "1"."""
    number = float(value)  # type: ignore[arg-type]
    if number.is_integer():
        return str(int(value))  # type: ignore[call-overload]
    return repr(float(str(value)))  # the shortest of its own precision: 0.1 of a float32 too


def split_lines(text: str) -> list[str]:
    """Return the lines of a text, which end at line feeds, carriage returns or both alone.

    ``str.splitlines`` ends them at six more characters, that may stand in a tag.
    """
    lines = _LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def split_words(tag: str) -> list[str]:
    """Return the words of a compound tag, lower-case.

    They end at blanks, hyphens, underscores and camel case. Marks, as vowel signs and accents,
    belong to the letter before them. A tag of symbols alone, as an emoji, is a word.

    Parameters
    ----------
    tag : str

    Returns
    -------
    list of str
        In their order; empty for a tag of marks alone.

    Examples
    --------
    >>> from skwsdhq.tags import split_words
    >>> split_words("golden_retriever-puppy"), split_words("goldenGate")
    (['golden', 'retriever', 'puppy'], ['golden', 'gate'])
    """
    if tag.isascii():
        return [word.lower() for word in _ASCII_WORDS.findall(_CAMEL.sub(" ", tag))]
    tag = clean_name(tag, lowercase=False)
    found = [word.rstrip("\u200c\u200d") for word in _words().findall(_CAMEL.sub(" ", tag))]
    if not found:  # an emoji has no letters, yet it is a tag like others
        found = [part for part in tag.split() if any(map(_is_symbol, part))]
    return [clean_name(word) for word in found]


def _is_symbol(character: str) -> bool:
    return unicodedata.category(character) == "So"


@cache
def _words() -> re.Pattern[str]:
    """Match letters and digits, each with the marks that follow it, and joiners between them."""
    # Python's \\w leaves out marks, and \\X is none of its patterns: look all of them up, once.
    points = (*range(0x300, 0x1F000), *range(0xE0100, 0xE01F0))
    marks = "".join(chr(p) for p in points if unicodedata.category(chr(p)).startswith("M"))
    letters = rf"[^\W_](?:[^\W_]|[{re.escape(marks)}\u200c\u200d])*"
    return re.compile(rf"{letters}(?:['’]{letters})*")
