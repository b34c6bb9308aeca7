"""Objectives of the binary rivals as loops, written from their formulas."""


def itq_error(projections, rotation):
    """Σ_n Σ_b (sign(v_n · R)_b − (v_n · R)_b)²."""
    total = 0.0
    for v in projections:
        for b in range(len(rotation)):
            rotated = sum(v[a] * rotation[a][b] for a in range(len(v)))
            total += ((1.0 if rotated >= 0 else -1.0) - rotated) ** 2
    return total


def correlation(x, y):
    n = len(x)
    mean_x, mean_y = sum(x) / n, sum(y) / n
    xy = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    xx = sum((a - mean_x) ** 2 for a in x)
    yy = sum((b - mean_y) ** 2 for b in y)
    return xy / (xx * yy) ** 0.5


def hamming(a, b):
    return sum(x != y for x, y in zip(a, b, strict=True))
