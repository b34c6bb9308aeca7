"""What learns along with a network, as codebooks do: the seam between an embedder and the rest."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

__all__ = ["Companion", "Training"]


@runtime_checkable
class Companion(Protocol):
    """Learn along with a network, epoch by epoch. The codes of a quantizer are one.

    A training calls :meth:`start` once, :meth:`penalty` for each batch and :meth:`after_epoch` for
    each epoch; it keeps :meth:`state` where it keeps its own, and goes back by :meth:`restore`.
    """

    def start(self, concept_vectors: np.ndarray, lengths: np.ndarray | None = None) -> None:
        """Take the concepts (C, D), unit rows, and the lengths (C,) of their tags' vectors."""

    def parameters(self) -> dict[str, Any]:
        """Return what the companion depends on, beside the outputs: a run is told by it."""

    def penalty(self, outputs: torch.Tensor, rows: np.ndarray) -> torch.Tensor | None:
        """Return a scalar to be added to the loss of these rows (b,), or None for nothing.

        ``outputs`` (b, D) are those of the network, before normalisation.
        """

    def after_epoch(self, n_done: int, outputs: Callable[[], np.ndarray]) -> dict[str, float]:
        """Learn from an epoch; return figures for the history, by name.

        ``outputs()`` gives those of all rows (n, D); it takes a while, and is for the epochs that
        need it. ``n_done`` is 1 after the first epoch.
        """

    def state(self) -> Any:
        """Return what a run that goes on needs."""

    def restore(self, state: Any) -> None:
        """Set what :meth:`state` gave."""


class Training(Protocol):
    """Train epoch by epoch. An embedder's ``start_training`` gives one.

    Who goes through it gets the figures of each epoch; a training owns Ctrl-C, checkpoints and
    early stopping. More is used where a training has it: ``has_more`` (bool), ``failure`` (an
    error to be raised once the estimator is fitted), ``outputs()`` (those of the rows that it
    learns from, so that nobody computes them again) and ``ends_elsewhere`` (bool: whether the
    last outputs are others than those that a companion has followed).
    """

    def __iter__(self) -> Iterator[dict[str, float]]:
        """Train, and give the figures of each epoch."""

    def attributes(self) -> dict[str, Any]:
        """Return what a fit that ended now would set, by name."""
