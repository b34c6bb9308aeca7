"""A training that can be stopped, saved and gone on with: lessons one after the other."""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from tqdm.auto import tqdm

from ..persistence.file import LoadError
from ..utils._compat import EpochTasks
from ..utils.estimators import fitted_at_once
from ..utils.progress import LongRun
from ..utils.threads import as_outside
from ..utils.warn import warn_caller
from .checkpoint import Checkpoint
from .loop import Lesson, run_epoch
from .stopping import ValidationStop
from .team import Team, agreed, team_of

__all__ = ["Session", "fit_by", "go_through"]

logger = logging.getLogger("skwsdhq.training")

_WRONG = (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError)


class Session:
    """Train by lessons, one after the other; give the figures of each epoch.

    Ctrl-C and a loss that is no number end the session as it was after the last whole epoch; who
    breaks off the iteration ends it after the present one.

    Parameters
    ----------
    lessons : list of Lesson
        The last one is that which may stop early and has a companion.
    generator : torch.Generator
        All of them draw from it.
    stopping : ValidationStop, default=None
        When to stop the last lesson; its best weights are set at the end.
    checkpoint : Checkpoint, default=None
        Where to keep the state after each epoch, and to look for one first.
    announced_as : str, default=None
        What the log says of the last lesson, where it is a long one.
    verbose : int, default=0
        1 shows a bar of progress.
    team : Team, default=None
        Processes that go through the same session; the first keeps the checkpoint.

    Attributes
    ----------
    figures : list of dict
        Of the epochs so far, those of an earlier run included.
    failure : FloatingPointError or None
        A loss that was no number.
    is_over : bool
        Whether no epoch follows this one.
    has_ended : bool
        Whether the iteration is over, and the weights are those of its end.
    """

    def __init__(
        self,
        lessons: list[Lesson],
        generator: torch.Generator,
        *,
        stopping: ValidationStop | None = None,
        checkpoint: Checkpoint | None = None,
        announced_as: str | None = None,
        verbose: int = 0,
        team: Team | None = None,
    ) -> None:
        self.lessons, self.generator, self.checkpoint = lessons, generator, checkpoint
        self._team = team
        self._stopping, self._announced_as, self._verbose = stopping, announced_as, verbose
        self.figures: list[dict[str, float]] = []
        self.failure: FloatingPointError | None = None
        self.is_over = self.has_ended = self._has_warned = False
        self._number = self._n_done = 0
        # What goes back in place when an epoch breaks off: lesson, weights, a companion's state.
        self._last: tuple[Any, ...] | None = None
        self._run: LongRun | None = None
        self._first = 0  # epoch of the lesson that the log was told in
        if checkpoint is not None and (saved := self._saved(checkpoint)) is not None:
            try:
                self._restore(saved)
            except _WRONG as error:
                raise checkpoint.refusal(error) from error

    def _saved(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """Return what a checkpoint holds; of a team the first reads it, whose folder it is in."""
        if self._team is None:
            return checkpoint.load()
        found: Any = None
        if self._team.rank == 0:
            try:
                found = checkpoint.load()
            except LoadError as error:
                found = error
        found = self._team.first(found)
        if isinstance(found, LoadError):
            raise found
        return found

    @property
    def lesson(self) -> Lesson:
        """The lesson of the epoch that is going on, or ended last."""
        return self.lessons[min(self._number, len(self.lessons) - 1)]

    @property
    def n_epochs(self) -> int:
        """Epochs of all lessons."""
        return sum(lesson.n_epochs for lesson in self.lessons)

    @property
    def has_more(self) -> bool:
        """Whether an epoch is left."""
        return not self.is_over and len(self.figures) < self.n_epochs

    def __iter__(self) -> Iterator[dict[str, float]]:
        """Train, and give the figures of each epoch."""
        with tqdm(desc="training", total=self.n_epochs, disable=not self._verbose) as bar:
            try:
                while self.has_more:
                    figures = self._train()
                    bar.set_postfix(loss=f"{figures['loss']:.4f}", refresh=False)
                    bar.update(len(self.figures) - bar.n)
                    try:
                        yield figures
                    # Thrown in by close(); it has to leave here again.
                    except GeneratorExit:  # the caller wants no more
                        self.is_over = True
                        raise
                    finally:
                        self._save()
            except (KeyboardInterrupt, FloatingPointError) as error:
                # Not in _train: Ctrl-C may also come while the checkpoint is written.
                self._break_off(error)
            finally:
                self.has_ended = True
                if self._stopping is not None and self._stopping.best is not None:
                    self.lesson.model.restore(self._stopping.best)

    def _train(self) -> dict[str, float]:
        """Train for an epoch of the lesson whose turn it is."""
        # A lesson of 0 epochs is passed over.
        while self._n_done == self.lesson.n_epochs:
            self._number, self._n_done, self._run = self._number + 1, 0, None
        lesson = self.lesson
        figures = run_epoch(lesson, self._n_done, self.generator, self._advance(lesson))
        self._n_done += 1
        self.figures.append(figures)
        companion = lesson.companion
        self._last = (
            lesson,
            lesson.model.state(),
            None if companion is None else companion.state(),
        )
        if self._stopping is not None and lesson is self.lessons[-1]:
            # Only the last lesson stops early: its loss is that of the whole model.
            self.is_over = self._stopping.update(figures["validation_loss"], lesson.model.state)
        return figures

    def _advance(self, lesson: Lesson) -> Callable[[int], None] | None:
        """Return what the log is told by, where the lesson is announced."""
        if self._announced_as is None or lesson is not self.lessons[-1]:
            return None
        n_rows, n_done = len(lesson.rows), self._n_done
        if self._run is None:
            # A run that goes on tells how long the rest takes, not the whole.
            n_left, self._first = lesson.n_epochs - n_done, n_done
            what = (
                f"{self._announced_as} on {n_rows} images for {n_left} epochs on "
                f"{lesson.model.device}"
            )
            self._run = LongRun(logger, what, n_left * n_rows)
        run, before = self._run, (n_done - self._first) * n_rows
        return lambda n: run.advance(before + n)

    def _break_off(self, error: BaseException) -> None:
        """Undo what an epoch that broke off has changed; keep its error, or tell of Ctrl-C."""
        # No whole epoch to go back to: the error is the user's.
        if not self.figures or self._last is None:
            raise error
        lesson, weights, learned = self._last
        lesson.model.restore(weights)
        if lesson.companion is not None:
            lesson.companion.restore(learned)
        if isinstance(error, FloatingPointError):
            # Raised by whoever fits, once the estimator has the attributes of the last epoch.
            self.failure = error
            return
        warn_caller(
            f"training was interrupted after {len(self.figures)} of {self.n_epochs} epochs; the "
            "estimator is that of the last one.",
            ConvergenceWarning,
        )

    def _save(self) -> None:
        """Keep the state; where that fails, as on a full disk, the training is worth more."""
        if self.checkpoint is None or (self._team is not None and self._team.rank):
            return
        lesson = self.lesson
        companion, stopping = lesson.companion, self._stopping
        try:
            self.checkpoint.save(
                {
                    "number": self._number,
                    "n_done": self._n_done,
                    "is_over": bool(self.is_over),
                    "figures": self.figures,
                    "generator": self.generator.get_state().numpy(),
                    "model": lesson.model.state(),
                    "optimizer": lesson.steps.state(),
                    "companion": None if companion is None else companion.state(),
                    "stop": None if stopping is None else stopping.state(),
                }
            )
        except OSError as error:
            if not self._has_warned:
                warn_caller(
                    f"the checkpoint {self.checkpoint.path} can't be written: {error}. Training "
                    "goes on; if it is stopped, it can only go on from the last one that was."
                )
            self._has_warned = True

    def _restore(self, saved: dict[str, Any]) -> None:
        """Set the state that :meth:`_save` kept; any error says that it is none of this run."""
        # Each is looked at: a damaged file, or one of another run, may read well.
        number, n_done, figures = saved["number"], saved["n_done"], saved["figures"]
        if not (type(number) is int and 0 <= number < len(self.lessons)):
            raise ValueError(f"it is in stage {number!r} of {len(self.lessons)}.")
        self._number = number
        lesson = self.lesson
        n_before = sum(before.n_epochs for before in self.lessons[:number])
        if not (type(n_done) is int and 0 <= n_done <= lesson.n_epochs):
            raise ValueError(f"it has done {n_done!r} of {lesson.n_epochs} epochs.")
        if not (isinstance(figures, list) and len(figures) == n_before + n_done):
            raise ValueError("it has not the figures of each epoch.")
        for row in figures:
            needed = {"loss", "learning_rate"}
            if not (needed <= row.keys() and all(isinstance(v, float) for v in row.values())):
                raise ValueError("it has figures that are no numbers.")
        self._n_done, self.is_over, self.figures = n_done, saved["is_over"] is True, figures
        self.generator.set_state(torch.from_numpy(np.array(saved["generator"])))
        lesson.model.restore(saved["model"])
        lesson.steps.restore(saved["optimizer"], n_scheduled=n_done * lesson.n_steps)
        if lesson.companion is not None:
            lesson.companion.restore(saved["companion"])
        if self._stopping is not None:
            self._stopping.restore(saved["stop"])
        # The run may break off again before its first whole epoch.
        self._last = (lesson, saved["model"], saved["companion"])


def go_through(training: Any, tasks: EpochTasks, attributes: Callable[[], dict[str, Any]]) -> None:
    """Go through the epochs of a training; tell an estimator's callbacks, and stop where one asks.

    Parameters
    ----------
    training : Training
        Any object that gives the figures of an epoch after the other.
    tasks : EpochTasks
        Callbacks.
    attributes : callable
        Gives what a fit that ended now would set.
    """
    epochs, team = iter(training), team_of(training)
    try:
        # A training that does not tell is asked for the next epoch until there is none.
        while getattr(training, "has_more", True):
            tasks.begin()
            if next(epochs, None) is None or _is_stopped(team, tasks, attributes):
                break
        else:
            next(epochs, None)  # to its end, where a training may have more to do
    except KeyboardInterrupt as error:
        # Between two epochs, as in a callback: a training owns that too, where it can be told.
        if not hasattr(epochs, "throw"):
            raise
        with suppress(StopIteration):
            epochs.throw(error)
    finally:
        if hasattr(epochs, "close"):
            epochs.close()


def _is_stopped(team: Team | None, tasks: EpochTasks, attributes: Callable[[], dict]) -> bool:
    """Tell whether a callback asks to stop, in any process of a team."""
    asks = agreed(team, lambda: tasks.end(attributes))
    return asks if team is None else any(team.all(asks))


@as_outside
def fit_by(
    start: Callable[[Any], Any], estimator: Any, X: Any, y: Any, n_epochs: int | None
) -> Any:
    """Fit an estimator by a training, all at once; return the estimator.

    Parameters
    ----------
    start : callable
        Gives the training of a twin of the estimator, whose attributes become the estimator's
        when the training has ended.
    estimator : estimator
        Fitted in place.
    X, y : what is fitted
        Told to callbacks.
    n_epochs : int or None
        At most; None where nobody knows.

    Raises
    ------
    FloatingPointError
        The training's failure, once the estimator is fitted as it was before it.
    """
    # Of the estimator itself: callbacks know it by what they were set on.
    tasks = EpochTasks(estimator, n_epochs, X, y)
    with fitted_at_once(estimator) as twin:
        training = start(twin)
        go_through(training, tasks, training.attributes)
        for name, value in training.attributes().items():
            setattr(twin, name, value)
    tasks.close()
    # After the attributes are set: the user keeps the model of the last good epoch.
    failure = getattr(training, "failure", None)
    if failure is not None:
        raise failure
    return estimator
