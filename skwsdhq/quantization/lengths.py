"""How many codebooks of how many codewords make a code of so many bits."""

import math
from numbers import Integral
from typing import Any

__all__ = ["code_size"]

_N_CODEBOOKS, _N_CODEWORDS = 4, 256  # where nothing is said
_MOST_BITS = 8  # of a codebook, where nothing is said of codewords
_FEWEST_BITS = 4  # below it, codes of as many bits find much less


def code_size(n_bits: Any, n_codebooks: Any, n_codewords: Any, n_rows: int) -> tuple[int, int]:
    """Return M and K, which bits, codebooks and codewords say together; None says nothing.

    Parameters
    ----------
    n_bits : int or None
        Of a code: M·⌈log2 K⌉.
    n_codebooks, n_codewords : int or None
        Without n_bits, None are 4 and 256. With it, None is what the others leave; of neither it
        is the largest codebooks, of at most 256 codewords, for which there are rows enough.
    n_rows : int

    Returns
    -------
    n_codebooks, n_codewords : int

    Raises
    ------
    ValueError
        If they contradict each other, or the bits can't be shared out.
    """
    if n_bits is None:
        return (
            _N_CODEBOOKS if n_codebooks is None else int(n_codebooks),
            _N_CODEWORDS if n_codewords is None else int(n_codewords),
        )
    if isinstance(n_bits, bool) or not isinstance(n_bits, Integral) or n_bits < 1:
        raise ValueError(f"n_bits={n_bits!r} should be a whole number, as 32.")
    n_bits = int(n_bits)
    if n_codewords is not None:
        of_each = math.ceil(math.log2(n_codewords))
        _check_shared(n_bits, of_each, f"n_codewords={n_codewords}", f"{of_each} bits a codebook")
        n_found = n_bits // of_each
        if n_codebooks is not None and n_codebooks != n_found:
            raise ValueError(
                f"n_bits={n_bits} contradicts n_codebooks={n_codebooks} of "
                f"n_codewords={n_codewords}, which make {int(n_codebooks) * of_each} bits; leave "
                "out one of them."
            )
        return n_found, int(n_codewords)
    if n_codebooks is not None:
        n_codebooks = int(n_codebooks)
        _check_shared(n_bits, n_codebooks, f"n_codebooks={n_codebooks}", "as many codebooks")
        of_each = n_bits // n_codebooks
        if of_each > _MOST_BITS:
            raise ValueError(
                f"n_bits={n_bits} contradicts n_codebooks={n_codebooks} of at most "
                f"{2**_MOST_BITS} codewords; leave out n_codebooks, or say n_codewords as well."
            )
        return n_codebooks, 2**of_each
    return _shared_out(n_bits, n_rows)


def _shared_out(n_bits: int, n_rows: int) -> tuple[int, int]:
    """Return M and K of the largest codebooks that make up the bits and have rows enough."""
    sizes = [size for size in range(_MOST_BITS, 0, -1) if n_bits % size == 0]
    if sizes[0] < _FEWEST_BITS and n_bits > _MOST_BITS:
        raise ValueError(
            f"n_bits={n_bits} can't be shared out by codebooks of {_FEWEST_BITS} to {_MOST_BITS} "
            f"bits; take {n_bits - n_bits % 4} or {n_bits - n_bits % 4 + 4}, or say n_codewords "
            "as well."
        )
    sizes = [size for size in sizes if 2**size <= n_rows]
    if not sizes:
        raise ValueError(f"n_bits={n_bits} needs at least 2 images to learn from, not {n_rows}.")
    return n_bits // sizes[0], 2 ** sizes[0]


def _check_shared(n_bits: int, n_parts: int, given: str, told: str) -> None:
    if n_bits % n_parts or n_bits < n_parts:
        raise ValueError(
            f"n_bits={n_bits} contradicts {given}: it can't be shared out by {told}; leave out "
            "one of them."
        )
