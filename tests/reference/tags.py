"""Tags, graph, enhancement and merging as loops over scalars, written from the formulas."""

import math


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    length = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return dot / length if length else 0.0


def indicator(rows, names):
    return [[1 if name in row else 0 for name in names] for row in rows]


def cooccurrence(table):
    n_tags = len(table[0])
    counts = [[0] * n_tags for _ in range(n_tags)]
    for row in table:
        for i in range(n_tags):
            for j in range(n_tags):
                if row[i] and row[j]:
                    counts[i][j] += 1
    return counts


def ppmi(counts, smoothing):
    n_tags = len(counts)
    total = sum(map(sum, counts))
    row = [sum(counts[i]) for i in range(n_tags)]
    smooth = sum(value**smoothing for value in row)
    one_way = [[0.0] * n_tags for _ in range(n_tags)]
    for i in range(n_tags):
        for j in range(n_tags):
            if counts[i][j]:
                p_ij = counts[i][j] / total
                p_i = row[i] / total
                p_j = row[j] ** smoothing / smooth
                one_way[i][j] = max(0.0, math.log(p_ij / (p_i * p_j)))
    return [[(one_way[i][j] + one_way[j][i]) / 2 for j in range(n_tags)] for i in range(n_tags)]


def graph(vectors, tau, n_neighbors=None):
    n_tags = len(vectors)
    result = [[0.0] * n_tags for _ in range(n_tags)]
    similar = [[cosine(a, b) for b in vectors] for a in vectors]
    nearest = []
    for i in range(n_tags):
        others = sorted((j for j in range(n_tags) if j != i), key=lambda j: (-similar[i][j], j))
        nearest.append(others if n_neighbors is None else others[:n_neighbors])
    for i in range(n_tags):
        for j in range(n_tags):
            chosen = j in nearest[i] or i in nearest[j]
            if i == j:
                result[i][j] = 1.0
            elif chosen and similar[i][j] >= tau and similar[i][j] > 0:
                result[i][j] = similar[i][j]
    return result


def unit(vector):
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector] if length else list(vector)


def enhance(vectors, weights):
    n_dims = len(vectors[0])
    result = []
    for i in range(len(vectors)):
        total = sum(weights[i])
        mean = [0.0] * n_dims
        for j in range(len(vectors)):
            for k, x in enumerate(unit(vectors[j])):
                mean[k] += weights[i][j] * x / total
        result.append(unit(mean))
    return result


def dbscan(vectors, eps, min_samples):
    """Concept of each tag, numbered by first appearance; noise is a concept of its own."""
    n_tags = len(vectors)
    near = [
        [j for j in range(n_tags) if 1 - cosine(vectors[i], vectors[j]) <= eps]
        for i in range(n_tags)
    ]
    core = [len(near[i]) >= min_samples for i in range(n_tags)]
    label = [None] * n_tags
    cluster = 0
    for start in range(n_tags):
        if not core[start] or label[start] is not None:
            continue
        stack = [start]
        label[start] = cluster
        while stack:
            i = stack.pop()
            if not core[i]:
                continue
            for j in near[i]:
                if label[j] is None:
                    label[j] = cluster
                    stack.append(j)
        cluster += 1
    for i in range(n_tags):
        if label[i] is None:
            label[i] = cluster
            cluster += 1
    order = {}
    for value in label:
        order.setdefault(value, len(order))
    return [order[value] for value in label]


def concepts(vectors, labels):
    result = []
    for c in range(max(labels) + 1):
        members = [vectors[i] for i in range(len(vectors)) if labels[i] == c]
        result.append(unit([sum(column) / len(members) for column in zip(*members, strict=True)]))
    return result


def emphasized(vectors, rows, strengths, power):
    """Vectors by strengths and covariance, written with loops; `rows` are lists of concepts."""
    import numpy as np

    n_given = len(vectors[0]) - len(strengths)
    strong = []
    for vector in vectors:
        learned = [x * s for x, s in zip(vector[n_given:], strengths, strict=True)]
        before = math.sqrt(sum(x * x for x in vector[n_given:]))
        after = math.sqrt(sum(x * x for x in learned)) or 1.0
        strong.append([*vector[:n_given], *(x * before / after for x in learned)])
    directions = []
    for row in rows:
        if not len(row):
            continue
        total = [sum(strong[c][d] for c in row) for d in range(len(strong[0]))]
        length = math.sqrt(sum(x * x for x in total))
        directions.append([x / length for x in total])
    covariance = np.cov(np.array(directions).T, bias=True)
    values, axes = np.linalg.eigh(covariance)
    values = [max(value / values[-1], 1e-4) ** power for value in values]
    found = np.array(strong) @ axes @ np.diag(values) @ axes.T
    return found / np.linalg.norm(found, axis=1, keepdims=True)
