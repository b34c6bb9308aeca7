"""Additive codes: codebooks learned from vectors, vectors encoded by them, codes decoded.

A code names one codeword of each codebook, and stands for their sum. n samples, D dimensions,
M codebooks of K codewords; codes are (n, M), codebooks (M, K, D). All of it is numpy; float64 in
is computed in float64, everything else in float32, and equations are solved in float64.
"""

from ..utils.public import named_here
from ._functions import (
    decode,
    encode,
    init_codebooks,
    learn_codebooks,
    quantization_error,
    refill_empty_codewords,
)
from ._update import codebook_statistics, solve_codebooks, update_codebooks

__all__ = [
    "codebook_statistics",
    "decode",
    "encode",
    "init_codebooks",
    "learn_codebooks",
    "quantization_error",
    "refill_empty_codewords",
    "solve_codebooks",
    "update_codebooks",
]

named_here(__name__)
