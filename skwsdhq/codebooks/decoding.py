"""The one decoder: codes as sums of codewords."""

import numpy as np

__all__ = ["decode_rows"]


def decode_rows(codes: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """Sum the codewords of each code, without a look at whether the codes are right.

    Parameters
    ----------
    codes : ndarray of shape (n, M)
    codebooks : ndarray of shape (M, K, D)

    Returns
    -------
    ndarray of shape (n, D)
        Of the dtype of the codebooks.
    """
    # for n: sums[n] = codebooks[0, codes[n, 0]] + … + codebooks[M - 1, codes[n, M - 1]]
    sums = codebooks[0][codes[:, 0]]
    for m in range(1, len(codebooks)):
        sums += codebooks[m][codes[:, m]]
    return sums
