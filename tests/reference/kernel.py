"""Kernel regression of tag vectors, row by row."""

import math

import numpy as np


def kernel(x, y, gamma):
    return math.exp(-gamma * (1 - float(np.dot(x, y))))


def unit(vector):
    length = math.sqrt(float(np.dot(vector, vector)))
    return vector / length if length > 0 else vector


def targets(rows_of_concepts, vectors, rows_of_weights=None):
    """Direction of each row's weighted mean vector, less the mean of these over all rows."""
    directions = []
    for n, concepts in enumerate(rows_of_concepts):
        weights = [1.0] * len(concepts) if rows_of_weights is None else rows_of_weights[n]
        total = sum(w * vectors[c] for w, c in zip(weights, concepts, strict=True))
        directions.append(unit(total))
    mean = sum(directions) / len(directions)
    return np.array([direction - mean for direction in directions])


def ridge(rows, wanted, gamma, noise, asked):
    """What the regression with that noise variance of each row says of the rows asked for."""
    n = len(rows)
    gram = np.array([[kernel(rows[i], rows[j], gamma) for j in range(n)] for i in range(n)])
    coefs = np.linalg.solve(gram + np.diag(noise), wanted)
    return np.array([sum(kernel(x, rows[j], gamma) * coefs[j] for j in range(n)) for x in asked])


def wrong_share(agreement, chance):
    """Four times the share that agrees less than the lower quarter of chance, at most 1."""
    ordered = sorted(chance)
    place = (len(ordered) - 1) / 4  # the quarter lies between two neighbours
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    quarter = below + (place - math.floor(place)) * (above - below)
    return min(1.0, 4 * sum(a < quarter for a in agreement) / len(agreement))


def embeddings(rows, rows_of_concepts, vectors, gamma, alpha, consistency, asked, drawn=None):
    """The whole method; every row has a concept.

    With drawn concepts, as many as the rows have, the consistency is ten times the variance of
    being wrong.
    """
    n = len(rows)
    wanted = targets(rows_of_concepts, vectors)
    agreement, chance = [], []
    drawn = None if drawn is None else list(drawn)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        (expected,) = ridge(
            [rows[j] for j in others], wanted[others], gamma, [alpha] * (n - 1), [rows[i]]
        )
        expected = unit(expected)
        agreement.append([float(expected @ vectors[c]) for c in rows_of_concepts[i]])
        if drawn is not None:
            chance += [float(expected @ vectors[drawn.pop(0)]) for _ in rows_of_concepts[i]]
    if drawn is not None:
        wrong = wrong_share([a for own in agreement for a in own], chance)
        consistency = 10 * wrong * (1 - wrong)
    weights = [[math.exp(consistency * a) for a in own] for own in agreement]
    trust = [math.sqrt(sum(w) / len(w)) for w in weights]
    trust = [t / (sum(trust) / n) for t in trust]
    wanted = targets(rows_of_concepts, vectors, weights)
    found = ridge(rows, wanted, gamma, [alpha / t for t in trust], asked)
    return np.array([unit(z) for z in found])


def later(
    rows, rows_of_concepts, vectors, gamma, alpha, consistency, trusts, weights, asked, own_concepts
):
    """Where later rows stand by their tags: each time a fit of all rows and of that one.

    trusts, weights : what the first fit made of its rows' tags, trusts before they are scaled.
    """
    wanted = targets(rows_of_concepts, vectors, weights)
    directions = [
        unit(sum(w * vectors[c] for w, c in zip(own_w, own, strict=True)))
        for own_w, own in zip(weights, rows_of_concepts, strict=True)
    ]
    mean = sum(directions) / len(directions)
    mean_trust = sum(trusts) / len(trusts)
    noise = [alpha * mean_trust / t for t in trusts]
    placed = []
    for x, own in zip(asked, own_concepts, strict=True):
        (found,) = ridge(rows, wanted, gamma, noise, [x])
        if own:
            expected = unit(found)
            own_weights = [math.exp(consistency * float(expected @ vectors[c])) for c in own]
            trust = math.sqrt(sum(own_weights) / len(own))
            target = unit(sum(w * vectors[c] for w, c in zip(own_weights, own, strict=True)))
            (found,) = ridge(
                np.vstack([rows, [x]]),
                np.vstack([wanted, [target - mean]]),
                gamma,
                [*noise, alpha * mean_trust / trust],
                [x],
            )
        placed.append(unit(found))
    return np.array(placed)


def trusted(rows, rows_of_concepts, vectors, gamma, alpha, consistency):
    """Weights of each row's tags and trust of each row, as `embeddings` has them."""
    wanted = targets(rows_of_concepts, vectors)
    weights = []
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j != i]
        (expected,) = ridge(
            [rows[j] for j in others], wanted[others], gamma, [alpha] * len(others), [rows[i]]
        )
        expected = unit(expected)
        own = rows_of_concepts[i]
        weights.append([math.exp(consistency * float(expected @ vectors[c])) for c in own])
    return weights, [math.sqrt(sum(w) / len(w)) for w in weights]


def word_weights(rows_of_concepts, n_concepts, specificity):
    """Divergence of the concepts beside each from all concepts, to a power, of mean 1."""
    counts = [sum(c in row for row in rows_of_concepts) for c in range(n_concepts)]
    share = [count / sum(counts) for count in counts]
    divergences = []
    for c in range(n_concepts):
        beside = [10.0 * share[other] for other in range(n_concepts)]
        for row in rows_of_concepts:
            if c in row:
                for other in row:
                    beside[other] += other != c
        found = [b / sum(beside) for b in beside]
        terms = [p * math.log(p / q) for p, q in zip(found, share, strict=True) if q > 0]
        divergences.append(max(sum(terms), 0.0))
    usual = sum(d * n for d, n in zip(divergences, counts, strict=True)) / sum(counts)
    weights = [max(d / usual, 0.05) ** specificity for d in divergences]
    mean = sum(w * n for w, n in zip(weights, counts, strict=True)) / sum(counts)
    return [w / mean for w in weights]


def evidence(gram, drawn, alpha):
    """Log likelihood of the columns under a Gaussian process, at the best scale for all of them."""
    n, n_dims = drawn.shape
    covariance = gram + alpha * np.eye(n)
    scale = np.trace(drawn.T @ np.linalg.solve(covariance, drawn)) / (n * n_dims)
    logdet = np.linalg.slogdet(scale * covariance)[1]
    squares = np.trace(drawn.T @ np.linalg.solve(scale * covariance, drawn))
    return -0.5 * (n_dims * logdet + squares)
