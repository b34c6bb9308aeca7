"""Networks simple enough to check, that leave a trace of what they were asked."""

import numpy as np


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
