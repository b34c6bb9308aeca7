"""A training that can be stopped, saved and gone on with: stages one after the other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..utils.warn import warn_caller
from .checkpoint import Checkpoint

__all__ = ["Run", "Stage"]


@dataclass
class Stage:
    """Epochs over one model.

    Parameters
    ----------
    model : FixedInputs or FineTuned
    optimizer : Adam
    n_epochs : int
    epochs : callable
        From the number of epochs that are done to the figures of the others, one after the other.
    alternation : CodeAlternation, default=None
    stop : ValidationStop, default=None
    """

    model: Any
    optimizer: Any
    n_epochs: int
    epochs: Callable[[int], Iterator[dict]]
    alternation: Any = None
    stop: Any = None


class Run:
    """Stages one after the other, and the state at the end of the last epoch.

    Parameters
    ----------
    stages : list of Stage
    generator : torch.Generator
        All of them draw from it.
    checkpoint : Checkpoint, default=None
        Where to keep the state after each epoch, and to look for one first.

    Attributes
    ----------
    figures : list of dict
        Of the epochs so far, those of an earlier run included.
    is_over : bool
        Set it to end after this epoch.
    """

    def __init__(
        self,
        stages: list[Stage],
        generator: torch.Generator,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.stages, self.generator, self.checkpoint = stages, generator, checkpoint
        self.figures: list[dict] = []
        self.is_over = self._has_warned = False
        self._number = self._n_done = 0
        self._last: tuple[Any, ...] | None = None
        if checkpoint is not None and (saved := checkpoint.load()) is not None:
            try:
                self._restore(saved)
            except (
                KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError,
            ) as error:  # fmt: skip
                raise checkpoint.refusal(error) from error

    @property
    def stage(self) -> Stage:
        """The stage of the epoch that is going on, or ended last."""
        return self.stages[min(self._number, len(self.stages) - 1)]

    @property
    def n_epochs(self) -> int:
        """Of all stages."""
        return sum(stage.n_epochs for stage in self.stages)

    @property
    def has_more(self) -> bool:
        """Whether an epoch is left."""
        return not self.is_over and len(self.figures) < self.n_epochs

    def epochs(self) -> Iterator[dict]:
        """The figures of each epoch that is left. To be run to its end, see ``is_over``."""
        while self._number < len(self.stages) and not self.is_over:
            stage = self.stage
            for figures in stage.epochs(self._n_done):
                self._n_done += 1
                self.figures.append(figures)
                codes = None if stage.alternation is None else stage.alternation.state()
                self._last = (stage, stage.model.state(), codes)
                yield figures
                self._save()
                if self.is_over:
                    return
            self._number, self._n_done = self._number + 1, 0

    def back_to_last_epoch(self) -> None:
        """Undo what the epoch that broke off has changed.

        Raises
        ------
        ValueError
            If no epoch has ended.
        """
        if self._last is None:
            raise ValueError("no epoch has ended.")
        stage, weights, codes = self._last
        stage.model.restore(weights)
        if codes is not None:
            stage.alternation.restore(codes)

    def _save(self) -> None:
        """Keep the state; where that fails, as on a full disk, the training is worth more."""
        if self.checkpoint is None:
            return
        stage = self.stage
        try:
            self.checkpoint.save(
                {
                    "number": self._number,
                    "n_done": self._n_done,
                    "is_over": bool(self.is_over),
                    "figures": self.figures,
                    "generator": self.generator.get_state().numpy(),
                    "model": stage.model.state(),
                    "optimizer": stage.optimizer.state(),
                    "alternation": None if stage.alternation is None else stage.alternation.state(),
                    "stop": None if stage.stop is None else stage.stop.state(),
                }
            )
        except OSError as error:
            if not self._has_warned:
                warn_caller(
                    f"the checkpoint {self.checkpoint.path} can't be written: {error}. Training "
                    "goes on; if it is stopped, it can only go on from the last one that was."
                )
            self._has_warned = True

    def _restore(self, saved: dict) -> None:
        """Set the state that :meth:`_save` kept; any error says that it is none of this run."""
        number, n_done, figures = saved["number"], saved["n_done"], saved["figures"]
        if not (type(number) is int and 0 <= number <= len(self.stages)):
            raise ValueError(f"it is in stage {number!r} of {len(self.stages)}.")
        self._number = number
        stage = self.stage
        n_before = sum(s.n_epochs for s in self.stages[:number])
        if not (type(n_done) is int and 0 <= n_done <= stage.n_epochs):
            raise ValueError(f"it has done {n_done!r} of {stage.n_epochs} epochs.")
        if not (isinstance(figures, list) and len(figures) == n_before + n_done):
            raise ValueError("it has not the figures of each epoch.")
        for row in figures:
            needed = {"loss", "quantization_loss", "learning_rate"}
            if not (needed <= row.keys() and all(isinstance(v, float) for v in row.values())):
                raise ValueError("it has figures that are no numbers.")
        self._n_done, self.is_over, self.figures = n_done, saved["is_over"] is True, figures
        self.generator.set_state(torch.from_numpy(np.array(saved["generator"])))
        stage.model.restore(saved["model"])
        stage.optimizer.restore(saved["optimizer"])
        if stage.alternation is not None:
            stage.alternation.restore(saved["alternation"])
        if stage.stop is not None:
            stage.stop.restore(saved["stop"])
        self._last = (stage, saved["model"], saved["alternation"])
