"""The losses as loops over scalars, written from their formulas."""

import math


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    length = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return dot / length if length > 0 else 0.0


def adaptive_margin(concepts, gamma):
    margin = []
    for v in concepts:
        row = []
        for w in concepts:
            unlikeness = max(0.0, 1.0 - cosine(v, w))
            row.append(2.0 ** (1.0 - gamma) * unlikeness**gamma)
        margin.append(row)
    return margin


def hinge_loss(embeddings, concepts, positives, margin, n_hard_negatives=None):
    """positives: a set of concept numbers for each row; margin: a list of lists."""
    total, n_terms = 0.0, 0
    for z, own in zip(embeddings, positives, strict=True):
        similarity = [cosine(z, v) for v in concepts]
        negatives = [j for j in range(len(concepts)) if j not in own]
        if n_hard_negatives is not None:
            negatives.sort(key=lambda j: -similarity[j])
            negatives = negatives[:n_hard_negatives]
        for i in own:
            for j in negatives:
                total += max(0.0, margin[i][j] - similarity[i] + similarity[j])
                n_terms += 1
    return total / n_terms if n_terms else 0.0


def cosine_margin_loss(embeddings, concepts, positives, gamma=1.0, n_hard_negatives=None):
    margin = adaptive_margin(concepts, gamma)
    return hinge_loss(embeddings, concepts, positives, margin, n_hard_negatives)


def fixed_margin_loss(embeddings, concepts, positives, margin, n_hard_negatives=None):
    margins = [[margin] * len(concepts) for _ in concepts]
    return hinge_loss(embeddings, concepts, positives, margins, n_hard_negatives)


def quantization_loss(embeddings, reconstructions, concepts):
    total = 0.0
    for z, r in zip(embeddings, reconstructions, strict=True):
        for v in concepts:
            total += sum(v_d * (z_d - r_d) for v_d, z_d, r_d in zip(v, z, r, strict=True)) ** 2
    return total / len(embeddings) if len(embeddings) else 0.0


def _taking_part(embeddings, tag_means):
    return [
        (z, t) for z, t in zip(embeddings, tag_means, strict=True) if any(t_d != 0 for t_d in t)
    ]


def mean_tag_hinge_loss(embeddings, tag_means, margin):
    pairs = _taking_part(embeddings, tag_means)
    total, n_terms = 0.0, 0
    for n, (z, t) in enumerate(pairs):
        for m, (_, other) in enumerate(pairs):
            if m != n:
                total += max(0.0, margin - cosine(z, t) + cosine(z, other))
                n_terms += 1
    return total / n_terms if n_terms else 0.0


def contrastive_loss(embeddings, tag_means, temperature):
    pairs = _taking_part(embeddings, tag_means)
    total = 0.0
    for z, t in pairs:
        denominator = sum(math.exp(cosine(z, other) / temperature) for _, other in pairs)
        total -= math.log(math.exp(cosine(z, t) / temperature) / denominator)
    return total / len(pairs) if pairs else 0.0


def tag_distance_loss(bits, tag_means):
    pairs = _taking_part(bits, tag_means)
    total, n_terms = 0.0, 0
    for n, (h, t) in enumerate(pairs):
        for m, (other_h, other_t) in enumerate(pairs):
            if m != n:
                apart = sum((a - b) ** 2 for a, b in zip(h, other_h, strict=True)) / len(h)
                total += (apart - (1 - cosine(t, other_t))) ** 2
                n_terms += 1
    return total / n_terms if n_terms else 0.0


def binarization_loss(bits):
    values = [b for row in bits for b in row]
    return -sum((b - 0.5) ** 2 for b in values) / len(values) if values else 0.0
