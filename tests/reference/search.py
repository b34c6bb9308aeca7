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


def list_centers(rows, lists, n_lists):
    """Mean of the rows of each list, zeros where there are none."""
    centers = np.zeros((n_lists, len(rows[0])))
    for i in range(n_lists):
        own = [n for n in range(len(rows)) if lists[n] == i]
        for n in own:
            for d, entry in enumerate(rows[n]):
                centers[i, d] += float(entry) / len(own)
    return centers


def search_lists(tables, products, codes, lists, visited, k, excluded=None):
    """As `search`, among the rows of some lists, whose centers are part of the similarity.

    products[q][i] : inner product of query q and the center of list i.  lists[n] : the list of
    row n.  visited[q] : the lists that query q looks at.
    """
    rankings = []
    for q, table in enumerate(tables):
        pairs = []
        for row, code in enumerate(codes):
            if lists[row] not in visited[q]:
                continue
            if excluded is not None and row in excluded[q]:
                continue
            total = np.float32(similarity(table, code) + np.float32(products[q][lists[row]]))
            pairs.append((total, row))
        pairs.sort(key=lambda pair: (-pair[0], pair[1]))
        rankings.append(pairs[:k])
    return rankings
