"""One epoch: batches, the loss, the gradient, the step.

Nothing here knows an estimator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..utils.threads import as_outside
from .companion import Companion
from .network import set_share
from .optimizer import Steps
from .team import Team

__all__ = ["Lesson", "run_epoch"]

Loss = Callable[[torch.Tensor, np.ndarray], torch.Tensor]


@dataclass
class Lesson:
    """Hold what the epochs of one model go through.

    Parameters
    ----------
    model : FixedInputs or FineTuned
        What learns.
    steps : Steps
        What moves its parameters.
    loss : callable
        From a batch's outputs (b, D) and its rows (b,) to a scalar.
    rows : ndarray of int
        Those that steps are made of.
    n_epochs : int
        In all.
    batch_size : int
        Rows of a step.
    held : ndarray of int, default=None
        Rows whose loss is looked at after each epoch, and that no step is made of.
    companion : Companion, default=None
        What learns along.
    team : Team, default=None
        Processes among which each batch is divided; None is this one alone.
    """

    model: Any
    steps: Steps
    loss: Loss
    rows: np.ndarray
    n_epochs: int
    batch_size: int
    held: np.ndarray | None = None
    companion: Companion | None = None
    team: Team | None = None

    @property
    def n_steps(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.rows) // self.batch_size)


@as_outside
def run_epoch(
    lesson: Lesson,
    n_done: int,
    generator: torch.Generator,
    advance: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Train a model in place for an epoch.

    Parameters
    ----------
    lesson : Lesson
        The model, and what it learns from.
    n_done : int
        Epochs that came before.
    generator : torch.Generator
        Draws the order of the rows.
    advance : callable, default=None
        Called with the number of rows that the epoch has gone through.

    Returns
    -------
    dict of str to float
        ``"loss"``, ``"learning_rate"`` (of the last step), ``"validation_loss"`` where rows are
        held, and what the companion has to tell.

    Raises
    ------
    FloatingPointError
        If the loss of a batch is not finite, when the weights are those before that step; or if
        weights are not finite after the last step.
    TypeError, ValueError
        If a loss or penalty is no tensor of one number.
    """
    model, rows, team = lesson.model, lesson.rows, lesson.team
    model.head.train()
    if team is not None:
        # Processes may have drawn differently often, as for parts of a batch.
        generator.set_state(team.first(generator.get_state()))
    # Drawn on the device whose generator it is: seeds of devices differ.
    shuffled = torch.randperm(len(rows), generator=generator, device=model.device)
    order = rows[shuffled.cpu().numpy()]
    # The rate that history tells is that of the last step, as it was when the step was made.
    total, rate = 0.0, lesson.steps.rate
    with model.threads(lesson.batch_size):
        for start in range(0, len(order), lesson.batch_size):
            batch = order[start : start + lesson.batch_size]
            rate = lesson.steps.rate
            # Apart from each other: history and early stopping follow the loss alone.
            loss, penalty = _losses(lesson, batch)
            parts = [float(part.detach()) for part in (loss, penalty) if part is not None]
            # Before the step, so that the weights stay finite.
            if not np.isfinite(parts).all():
                raise FloatingPointError(
                    f"the loss became {sum(parts)} in epoch {n_done + 1} of {lesson.n_epochs}, "
                    f"batch {start // lesson.batch_size + 1} of {lesson.n_steps}; lower "
                    f"learning_rate={lesson.steps.learning_rate:g}."
                )
            # By rows: the last batch is smaller than the others.
            total += parts[0] * len(batch)
            lesson.steps.zero_grad()
            (loss if penalty is None else loss + penalty).backward()
            # The gradient stops at the head's inputs where these were made chunk by chunk.
            model.backward_to_backbone()
            lesson.steps.step()
            if advance is not None:
                advance(start + len(batch))
    # No batch follows whose loss would tell that the last step has gone too far.
    if not all(bool(torch.isfinite(p).all()) for p in lesson.steps.parameters):
        raise FloatingPointError(
            f"weights became infinite or NaN in epoch {n_done + 1} of {lesson.n_epochs}; lower "
            f"learning_rate={lesson.steps.learning_rate:g} or weight_decay."
        )
    # Dropout off, for whatever looks at the model until the next epoch.
    model.head.eval()
    figures = {"loss": total / max(len(order), 1), "learning_rate": rate}
    if lesson.held is not None:
        figures["validation_loss"] = _mean_loss(lesson, lesson.held)
    if lesson.companion is not None:
        # Not called here: outputs of all rows cost a pass, and codes need it every other epoch.
        figures |= lesson.companion.after_epoch(n_done + 1, model.rough_outputs)
    if team is None:
        return figures
    # What follows from a last bit, as when to stop, is one thing for all.
    state, figures = team.first((model.state(), figures) if team.rank == 0 else None)
    model.restore(state)
    return figures


def _losses(lesson: Lesson, batch: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the loss of a batch, and what the companion adds to it."""
    outputs = _outputs(lesson, batch)
    loss = _scalar("loss", lesson.loss(outputs, batch))
    if not loss.requires_grad:
        raise ValueError(
            "the loss of a batch does not depend on the outputs by operations of torch's, so "
            "nothing can be learned by it; compute it from the outputs, without detach or numpy."
        )
    if lesson.companion is None:
        return loss, None
    penalty = lesson.companion.penalty(lesson.model.whole(outputs, batch), batch)
    return loss, None if penalty is None else _scalar("penalty", penalty)


def _outputs(lesson: Lesson, batch: np.ndarray) -> torch.Tensor:
    """Return (b, D) what the model makes of a batch, each process of its part of it."""
    model, team = lesson.model, lesson.team
    if team is None:
        return model.head(model.inputs(batch))
    share = team.share(len(batch))
    set_share(model.head, share)
    own = model.inputs(batch[share.start : share.stop], share)
    return team.joined(model.shared_head(own), len(batch))


def _scalar(name: str, value: Any) -> torch.Tensor:
    """Return what a user's loss or companion gave for a batch, if it is one real number."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            f"the {name} of a batch should be a tensor of one number; got a {type(value).__name__}."
        )
    if value.numel() != 1 or value.is_complex():
        raise ValueError(
            f"the {name} of a batch should be a tensor of one real number, as its mean over the "
            f"rows; got {value.dtype} of shape {tuple(value.shape)}."
        )
    return value.reshape(())


def _mean_loss(lesson: Lesson, rows: np.ndarray) -> float:
    """Return the loss of these rows, without dropout; a batch counts by its rows."""
    total, model = 0.0, lesson.model
    # In batches, as in training: a loss that compares the rows of a batch sees as many of them.
    with torch.no_grad():
        for start in range(0, len(rows), lesson.batch_size):
            batch = rows[start : start + lesson.batch_size]
            loss = _scalar("loss", lesson.loss(model.head(model.held_inputs(batch)), batch))
            total += float(loss) * len(batch)
    return total / len(rows)
