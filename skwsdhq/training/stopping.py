"""When to stop before the last epoch, and the rows that say so."""

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from ..persistence.registry import saved
from ..utils._compat import Interval

__all__ = ["EarlyStopping", "ValidationStop", "hold_out"]


@saved()
class EarlyStopping(BaseEstimator):
    """Describe when to stop early: as soon as images that are held out gain no more.

    The weights of the epoch where their loss was lowest are taken. ``partial_fit`` takes no part
    in it.

    Parameters
    ----------
    validation_fraction : float, default=0.1
        Of the tagged images, kept apart from training.
    n_iter_no_change : int, default=10
        Epochs in a row without progress after which to stop.
    tol : float, default=1e-4
        A smaller fall of the loss is no progress.

    Examples
    --------
    >>> from skwsdhq import HypersphereEmbedder
    >>> from skwsdhq.embedding import EarlyStopping
    >>> embedder = HypersphereEmbedder(early_stopping=EarlyStopping(0.2), max_iter=200)
    >>> embedder.set_params(early_stopping__n_iter_no_change=5).early_stopping
    EarlyStopping(n_iter_no_change=5, validation_fraction=0.2)
    """

    _parameter_constraints: dict = {
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        validation_fraction: float = 0.1,
        *,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
    ) -> None:
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol


class ValidationStop:
    """Stop when the loss of held-out rows has not fallen for a while, and keep the best weights.

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
        # A loss less a number of numpy's of few bits would be rounded to these.
        self.n_iter_no_change, self.tol = int(n_iter_no_change), float(tol)
        self.best: Any = None
        self._lowest = self._to_beat = np.inf
        self._waited = 0

    def update(self, loss: float, weights: Callable[[], Any]) -> bool:
        """Tell whether to stop after an epoch with this loss."""
        # Two marks: any fall gives better weights, but only one of `tol` counts as progress.
        if loss < self._lowest:
            self._lowest, self.best = loss, weights()
        if loss < self._to_beat - self.tol:
            self._to_beat, self._waited = loss, 0
        else:
            self._waited += 1
        return self._waited >= self.n_iter_no_change

    def state(self) -> dict:
        """Return what a run that goes on needs."""
        return {
            # Infinite before the first epoch, which files can hold.
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
    """Draw which rows (n,) to keep apart: that fraction of the tagged ones, at least one of them.

    Raises
    ------
    ValueError
        If nothing would be left to learn from.
    """
    rows = np.flatnonzero(tagged)
    # Of the tagged ones: the others have no loss to look at.
    n_held = max(1, round(float(fraction) * len(rows)))
    if n_held >= len(rows):
        raise ValueError(
            f"early_stopping with validation_fraction={fraction} leaves none of {len(rows)} tagged "
            "images to learn from; lower it, or set early_stopping=False."
        )
    held = np.zeros(len(tagged), dtype=bool)
    held[random_state.choice(rows, n_held, replace=False)] = True
    return held
