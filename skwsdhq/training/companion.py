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
        """Take the concepts.

        Parameters
        ----------
        concept_vectors : ndarray of shape (C, D)
            Unit rows.
        lengths : ndarray of shape (C,), default=None
            How long the vectors of each concept's tags are on average.
        """

    def parameters(self) -> dict[str, Any]:
        """Return what the companion depends on, beside the outputs.

        Returns
        -------
        dict of str to object
            By which a run that goes on is told from others.
        """

    def penalty(self, outputs: torch.Tensor, rows: np.ndarray) -> torch.Tensor | None:
        """Return what is added to the loss of a batch.

        Parameters
        ----------
        outputs : Tensor of shape (b, D)
            Those of the network, before normalisation.
        rows : ndarray of shape (b,)
            Numbers of the images.

        Returns
        -------
        Tensor or None
            A scalar; None is nothing.
        """

    def after_epoch(self, n_done: int, outputs: Callable[[], np.ndarray]) -> dict[str, float]:
        """Learn from an epoch.

        Parameters
        ----------
        n_done : int
            Epochs so far, 1 after the first one.
        outputs : callable
            Gives those of all rows (n, D), to the digits that steps are computed to (see ``dtype``
            of ``AdamSchedule``). It takes a while, and is for epochs that need it. Of several
            processes each has its part of them; ``np.asarray``, called by all, joins these.

        Returns
        -------
        dict of str to float
            Figures for the history, by name.
        """

    def state(self) -> Any:
        """Return what a run that goes on needs.

        Returns
        -------
        object
            Numbers, texts, arrays, random states, and lists and dictionaries of them.
        """

    def restore(self, state: Any) -> None:
        """Set what :meth:`state` gave.

        Parameters
        ----------
        state : object
            From a companion of equal parameters.
        """


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
        """Return what a fit that ended now would set.

        Returns
        -------
        dict of str to object
            Attributes by name.
        """
