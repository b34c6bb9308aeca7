"""Resizing pixel by pixel, and networks simple enough to check, that leave a trace."""

import math

import numpy as np
from PIL import Image


def resize_by_loops(path, size):
    """(size, size, 3) uint8: the middle square of a file, resized by Keys's cubic kernel.

    For each pixel of the result the kernel is widened by the factor that the picture shrinks by.
    """
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(float)
    height, width, _ = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels = pixels[top : top + side, left : left + side]
    if side == size:
        return pixels.astype(np.uint8)
    for axis in (1, 0):
        lines = np.moveaxis(pixels, axis, 0)
        out = []
        for i in range(size):
            total, weights = 0.0, 0.0
            stretch = max(1.0, side / size)
            centre = (i + 0.5) * side / size
            for j in range(side):
                weight = _cubic((j + 0.5 - centre) / stretch)
                total, weights = total + weight * lines[j], weights + weight
            out.append(np.clip(np.round(total / weights), 0, 255))
        pixels = np.moveaxis(np.array(out), 0, axis)
    return pixels.astype(np.uint8)


def _cubic(x, a=-0.5):
    x = math.fabs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * (x**3 - 5 * x**2 + 8 * x - 4)
    return 0.0


class MeanColours:
    """Mean colour of each quarter of a picture; a line in a file for each call, for processes."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __call__(self, batch):
        with open(self.trace, "a") as file:
            file.write(f"{len(batch)}\n")
        half = batch.shape[1] // 2
        quarters = [
            batch[:, rows, columns].reshape(len(batch), -1, 3).mean(axis=1)
            for rows in (slice(None, half), slice(half, None))
            for columns in (slice(None, half), slice(half, None))
        ]
        return np.hstack(quarters).astype(np.float32)

    @property
    def n_images(self):
        """How many pictures it was asked for, in all processes."""
        with open(self.trace, "a+") as file:
            file.seek(0)
            return sum(map(int, file.read().split()))
