"""Search over codes as loops, written from the definitions."""

import numpy as np


def lookup_table(embeddings, codebooks):
    """table[q][m][k] = inner product of embedding q with codeword k of codebook m."""
    table = np.zeros((len(embeddings), len(codebooks), len(codebooks[0])))
    for q, embedding in enumerate(embeddings):
        for m, codebook in enumerate(codebooks):
            for k, codeword in enumerate(codebook):
                table[q, m, k] = sum(
                    float(a) * float(b) for a, b in zip(embedding, codeword, strict=True)
                )
    return table


def similarity(table, code):
    """Sum of the table's entries for a code, in float32, first codebook first."""
    total = np.float32(table[0][code[0]])
    for m in range(1, len(code)):
        total = np.float32(total + np.float32(table[m][code[m]]))
    return total


def search(tables, codes, k, excluded=None, allowed=None):
    """For each query the k best (similarity, row) pairs; equal similarities by row.

    excluded : a set of rows for each query.  allowed : a set of rows for each query.
    """
    rankings = []
    for q, table in enumerate(tables):
        pairs = []
        for row, code in enumerate(codes):
            if excluded is not None and row in excluded[q]:
                continue
            if allowed is not None and row not in allowed[q]:
                continue
            pairs.append((similarity(table, code), row))
        pairs.sort(key=lambda pair: (-pair[0], pair[1]))
        rankings.append(pairs[:k])
    return rankings


def range_search(tables, codes, threshold):
    """For each query all (similarity, row) pairs with at least a similarity, best first."""
    return [
        [pair for pair in ranking if pair[0] >= np.float32(threshold)]
        for ranking in search(tables, codes, len(codes))
    ]


def decode(codes, codebooks):
    """Each row's sum of codewords."""
    decoded = np.zeros((len(codes), codebooks.shape[2]))
    for n, code in enumerate(codes):
        for m, k in enumerate(code):
            decoded[n] += codebooks[m][k]
    return decoded
