"""The mean over ten crops, one crop of one picture at a time."""

import numpy as np


def ten_crop_mean(squares, function, size):
    """(n, d): mean of ``function`` of ten (1, size, size, 3) crops of each (side, side, 3)."""
    means = []
    for square in squares:
        last = len(square) - size
        middle = last // 2
        total = 0.0
        for mirrored in (False, True):
            seen = square[:, ::-1] if mirrored else square
            places = [(0, 0), (0, last), (last, 0), (last, last)]
            # The mirror image of the middle, which lies elsewhere where an odd number is to spare.
            places.append((middle, last - middle if mirrored else middle))
            for top, left in places:
                crop = np.empty((1, size, size, 3), dtype=np.uint8)
                for y in range(size):
                    for x in range(size):
                        crop[0, y, x] = seen[top + y, left + x]
                total = total + np.asarray(function(crop), dtype=np.float64)[0]
        means.append(total / 10)
    return np.array(means)
