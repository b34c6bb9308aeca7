"""Additive codes as loops that decode every candidate and measure it anew, in float64."""

import numpy as np


def decode(codes, codebooks):
    rows = []
    for code in codes:
        row = np.zeros(codebooks.shape[2])
        for m, k in enumerate(code):
            row = row + codebooks[m][k]
        rows.append(row)
    return np.array(rows).reshape(len(codes), codebooks.shape[2])


def error(z, code, codebooks, metric=None):
    """(z − Σ c)ᵀ metric (z − Σ c) of one row, for a code that may be shorter than M."""
    rest = np.array(z, dtype=np.float64)
    for m, k in enumerate(code):
        rest = rest - codebooks[m][k]
    total = 0.0
    for i in range(len(rest)):
        for j in range(len(rest)):
            weight = (1.0 if i == j else 0.0) if metric is None else metric[i][j]
            total += rest[i] * weight * rest[j]
    return total


def quantization_error(embeddings, codes, codebooks, metric=None):
    errors = [error(z, b, codebooks, metric) for z, b in zip(embeddings, codes, strict=True)]
    return sum(errors) / len(errors) if errors else 0.0


def greedy(z, codebooks, metric=None):
    return beam(z, codebooks, 1, metric)


def beam(z, codebooks, beam_size, metric=None):
    beginnings = [()]
    for m in range(len(codebooks)):
        longer = [b + (k,) for b in beginnings for k in range(codebooks.shape[1])]
        # A stable sort: of equal errors, the earlier beginning and the lower number come first.
        longer.sort(key=lambda b: error(z, b, codebooks, metric))
        beginnings = longer[: 1 if m == len(codebooks) - 1 else beam_size]
    return list(beginnings[0])


def wrong_length(z, code, codebooks, metric=None):
    """(‖r‖² − ‖z‖²)² / ‖z‖² of the sum r of a code, as large as errors are in the metric."""
    total = np.zeros(len(z))
    for m, k in enumerate(code):
        total = total + codebooks[m][k]
    wanted = sum(x * x for x in z)
    scale = 1.0 if metric is None else sum(metric[i][i] for i in range(len(z))) / len(z)
    return scale * (sum(x * x for x in total) - wanted) ** 2 / wanted


def icm(z, code, codebooks, orders, metric=None, length_weight=0.0):
    code = list(code)
    for order in orders:
        for m in order:
            errors = []
            for k in range(codebooks.shape[1]):
                candidate = code[:m] + [k] + code[m + 1 :]
                cost = error(z, candidate, codebooks, metric)
                if length_weight:
                    cost += length_weight * wrong_length(z, candidate, codebooks, metric)
                errors.append(cost)
            code[m] = errors.index(min(errors))
    return code


def encode(embeddings, codebooks, orders, metric=None, beam_size=1, codes=None, length_weight=0.0):
    chosen = []
    for n, z in enumerate(embeddings):
        start = beam(z, codebooks, beam_size, metric) if codes is None else codes[n]
        chosen.append(icm(z, start, codebooks, orders, metric, length_weight))
    return np.array(chosen).reshape(len(embeddings), len(codebooks))


def statistics(embeddings, codes, n_codewords):
    n_codebooks = codes.shape[1]
    counts = np.zeros((n_codebooks * n_codewords,) * 2)
    sums = np.zeros((n_codebooks * n_codewords, embeddings.shape[1]))
    for z, code in zip(embeddings, codes, strict=True):
        used = [m * n_codewords + int(k) for m, k in enumerate(code)]
        for a in used:
            sums[a] += z
            for b in used:
                counts[a, b] += 1
    return counts, sums


def update(embeddings, codes, n_codewords, ridge):
    counts, sums = statistics(embeddings, codes, n_codewords)
    flat = np.linalg.inv(counts + ridge * np.eye(len(counts))) @ sums
    return flat.reshape(codes.shape[1], n_codewords, -1)
