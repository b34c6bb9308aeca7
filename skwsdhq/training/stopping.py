"""When to stop before the last epoch, and the rows that say so."""

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["ValidationStop", "hold_out"]


class ValidationStop:
    """Stops when the loss of held-out rows has not fallen for a while, and keeps the best weights.

    Parameters
    ----------
    n_iter_no_change : int
        Epochs in a row that may pass without the loss falling by more than `tol`.
    tol : float

    Attributes
    ----------
    best : what ``weights`` gave in the epoch of the lowest loss; None before the first
    """

    def __init__(self, n_iter_no_change: int, tol: float) -> None:
        self.n_iter_no_change, self.tol = n_iter_no_change, tol
        self.best: Any = None
        self._lowest = self._to_beat = np.inf
        self._waited = 0

    def update(self, loss: float, weights: Callable[[], Any]) -> bool:
        """Whether to stop after an epoch with this loss."""
        if loss < self._lowest:
            self._lowest, self.best = loss, weights()
        if loss < self._to_beat - self.tol:
            self._to_beat, self._waited = loss, 0
        else:
            self._waited += 1
        return self._waited >= self.n_iter_no_change

    def state(self) -> dict:
        """What a run that goes on needs."""
        return {
            "lowest": float(self._lowest),
            "to_beat": float(self._to_beat),
            "waited": self._waited,
            "best": self.best,
        }

    def restore(self, state: dict) -> None:
        """Set what :meth:`state` gave; what can be no such state is an error."""
        losses = (state["lowest"], state["to_beat"])
        if not all(isinstance(loss, float) for loss in losses) or type(state["waited"]) is not int:
            raise ValueError("the state of early stopping is none.")
        self._lowest, self._to_beat = losses
        self._waited, self.best = state["waited"], state["best"]


def hold_out(tagged: np.ndarray, fraction: float, random_state: Any) -> np.ndarray:
    """Which rows (n,) to keep apart: that fraction of the tagged ones, at least one of them.

    Raises
    ------
    ValueError
        If nothing would be left to learn from.
    """
    rows = np.flatnonzero(tagged)
    n_held = max(1, round(fraction * len(rows)))
    if n_held >= len(rows):
        raise ValueError(
            f"early_stopping with validation_fraction={fraction} leaves none of {len(rows)} tagged "
            "images to learn from; lower it, or set early_stopping=False."
        )
    held = np.zeros(len(tagged), dtype=bool)
    held[random_state.choice(rows, n_held, replace=False)] = True
    return held
