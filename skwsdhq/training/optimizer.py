"""Adam by torch, its learning rates, and when they fall."""

from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import nn

from ..persistence.registry import saved
from ..utils._compat import Interval
from .network import arrays_of, set_arrays

__all__ = ["AdamSchedule", "Steps", "parameter_groups"]

# Devices for which Adam is one operation of torch's: on a CPU a quarter of the time of its parts,
# which was an eighth of a fit of many rows.
_FUSED = ("cpu", "cuda", "mps")

# Parameters, the factor of their learning rate, their weight decay.
Group = tuple[Sequence[torch.Tensor], float, float]


@saved()
class AdamSchedule(BaseEstimator):
    """Describe how a network's weights are moved: Adam, and a learning rate that falls in steps.

    Parameters
    ----------
    decay : float, default=0.5
        Factor of a step of the learning rate.
    n_drops : int, default=3
        Steps of the learning rate, at equal distances within the epochs.
    drop_period : int or None, default=None
        Batches from one step of the learning rate to the next, in place of ``n_drops``.
    last_layer_factor : float, default=1.0
        The last layer's rate is that many times the others', its bias's twice that. 10 is what
        the published runs, which fine-tune all layers, were meant to use. At most 1e6.
    weight_decay : float, default=0.0
        Decoupled (AdamW): a step takes that share, times the learning rate, off each weight; off
        no bias below the last hidden layer. At most 1e6.
    max_grad_norm : float or None, default=None
        Gradients of all parameters together are shortened to that norm.

    Examples
    --------
    >>> from skwsdhq import HypersphereEmbedder
    >>> from skwsdhq.embedding import AdamSchedule
    >>> embedder = HypersphereEmbedder(optimizer=AdamSchedule(weight_decay=0.01))
    >>> embedder.set_params(optimizer__decay=0.1).optimizer
    AdamSchedule(decay=0.1, weight_decay=0.01)
    """

    _parameter_constraints: dict = {
        "decay": [Interval(Real, 0, 1, closed="right")],
        "n_drops": [Interval(Integral, 0, None, closed="left")],
        "drop_period": [Interval(Integral, 1, None, closed="left"), None],
        # Limits of 64 bits, since float16 can't hold 1e6; beyond them float32 would overflow.
        "last_layer_factor": [Interval(Real, 0, np.float64(1e6), closed="right")],
        "weight_decay": [Interval(Real, 0, np.float64(1e6), closed="both")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
    }

    def __init__(
        self,
        decay: float = 0.5,
        *,
        n_drops: int = 3,
        drop_period: int | None = None,
        last_layer_factor: float = 1.0,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = None,
    ) -> None:
        self.decay = decay
        self.n_drops = n_drops
        self.drop_period = drop_period
        self.last_layer_factor = last_layer_factor
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm

    def factor(self, n_epochs: int, n_steps: int) -> Callable[[int], float]:
        """Return the factor of the learning rate as a function of the number of the step.

        Parameters
        ----------
        n_epochs : int
            Epochs in all.
        n_steps : int
            Of an epoch.

        Returns
        -------
        callable
            From steps that are done to a factor from 0 to 1.
        """
        # Numbers of numpy's would overflow where they are of few bits.
        decay, n_drops, n_epochs = float(self.decay), int(self.n_drops), int(n_epochs)
        if self.drop_period is not None:
            period = int(self.drop_period)
            # As the published runs count: by batches, whatever an epoch holds.
            return lambda step: decay ** (step // period)
        n_steps = max(n_steps, 1)
        return lambda step: decay ** (min(step // n_steps, n_epochs) * (n_drops + 1) // n_epochs)


def parameter_groups(
    network: nn.Sequential,
    *,
    last_layer_factor: float = 1.0,
    weight_decay: float = 0.0,
    trunk: Sequence[torch.Tensor] = (),
    trunk_factor: float = 1.0,
) -> list[Group]:
    """Return the parameters of a network by the rate at which they learn.

    The published runs train the last layer at ten times the rate of the layers below, its bias at
    twenty times. ``trunk`` holds the parameters of a network below that learns along, at
    ``trunk_factor`` times the rate.
    """
    # One layer alone is no last one: the rate is then simply its own.
    *below, last = [layer for layer in network if isinstance(layer, nn.Linear)]
    # A number of numpy's would overflow where it is of few bits.
    factor = float(last_layer_factor) if below or trunk else 1.0
    bias_factor = 2 * factor if factor != 1 else 1.0
    groups: list[Group] = [
        ([p for layer in below for p in layer.parameters()], 1.0, weight_decay),
        ([last.weight], factor, weight_decay),
        ([last.bias], bias_factor, 0.0),
    ]
    if trunk:
        # Biases and the scales of normalisations are not pulled to zero.
        groups.append(([p for p in trunk if p.ndim > 1], trunk_factor, weight_decay))
        groups.append(([p for p in trunk if p.ndim <= 1], trunk_factor, 0.0))
    return groups


class Steps:
    """Move parameters against their gradients, by torch's AdamW and a schedule of rates.

    Parameters
    ----------
    groups : list of (list of tensors, float, float)
        From :func:`parameter_groups`.
    learning_rate : float
        Of a group of factor 1, before the schedule.
    factor : callable, default=None
        From steps that are done to the factor of all rates; None is 1 throughout.
    max_norm : float, default=None
        To which the gradient of all parameters together is shortened.
    first : int, default=0
        Steps of the schedule that an earlier run has done.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        learning_rate: float,
        *,
        factor: Callable[[int], float] | None = None,
        max_norm: float | None = None,
        first: int = 0,
    ) -> None:
        self.learning_rate = float(learning_rate)
        self.parameters = [p for parameters, _, _ in groups for p in parameters]
        self._max_norm = None if max_norm is None else float(max_norm)
        self._adam = torch.optim.AdamW(
            [
                {
                    "params": list(parameters),
                    "lr": self.learning_rate * float(own),
                    # Where LambdaLR starts from; it asks for it when a run goes on in the middle.
                    "initial_lr": self.learning_rate * float(own),
                    "weight_decay": float(decay),
                }
                for parameters, own, decay in groups
                if len(parameters)
            ],
            fused=self.parameters[0].device.type in _FUSED,
            foreach=False,
        )
        self._factor = factor or (lambda step: 1.0)
        self._n_scheduled = first
        self._schedule = self._scheduled()

    def _scheduled(self) -> Any:
        """Return torch's schedule, at the step where this one is."""
        schedule = torch.optim.lr_scheduler.LambdaLR
        return schedule(self._adam, self._factor, last_epoch=self._n_scheduled - 1)

    @property
    def rate(self) -> float:
        """Learning rate of the next step, of a group of factor 1."""
        return self.learning_rate * self._factor(self._n_scheduled)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._adam.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Move the parameters once, and the schedule on."""
        if self._max_norm is not None:
            # Of all groups together, whatever their rates.
            torch.nn.utils.clip_grad_norm_(self.parameters, self._max_norm)
        self._adam.step()
        self._n_scheduled += 1
        self._schedule.step()

    def state(self) -> dict[str, Any]:
        """Return moments and the number of steps, as numpy."""
        # Not torch's own state dict: files hold plain arrays, in the order of the groups.
        known = [self._adam.state.get(p, {}) for p in self.parameters]
        n_steps = max((int(s["step"]) for s in known if "step" in s), default=0)
        # Before the first step torch has no moments; they are zero.
        zeros = [torch.zeros_like(p) for p in self.parameters]
        pairs = list(zip(known, zeros, strict=True))
        return {
            "n_steps": n_steps,
            "means": arrays_of([s.get("exp_avg", zero) for s, zero in pairs]),
            "squares": arrays_of([s.get("exp_avg_sq", zero) for s, zero in pairs]),
        }

    def go_on(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`, where other parameters below the head may have learned.

        Where fewer learn now, moments of the others are let go; where others do, Adam begins anew.
        """
        known = [array.shape for array in state["means"]]
        shapes = [tuple(p.shape) for p in self.parameters]
        if known[: len(shapes)] == shapes:  # those of the head come first
            kept = {name: state[name][: len(shapes)] for name in ("means", "squares")}
            self.restore({**state, **kept})

    def restore(self, state: dict[str, Any], *, n_scheduled: int | None = None) -> None:
        """Go on from a :meth:`state`; what can be no such state is an error.

        Parameters
        ----------
        state : dict
            Of the same parameters.
        n_scheduled : int, default=None
            Steps that the schedule has done; None leaves it where it is.
        """
        n_steps = state["n_steps"]
        if type(n_steps) is not int or n_steps < 0:
            raise ValueError(f"Adam has done {n_steps!r} steps.")
        # Checked in copies first, so that an error leaves the optimizer as it was.
        means = [torch.zeros_like(p) for p in self.parameters]
        squares = [torch.zeros_like(p) for p in self.parameters]
        set_arrays(means, state["means"])
        set_arrays(squares, state["squares"])
        for parameter, mean, square in zip(self.parameters, means, squares, strict=True):
            step = torch.tensor(float(n_steps), device=parameter.device)
            self._adam.state[parameter] = {"step": step, "exp_avg": mean, "exp_avg_sq": square}
        if n_scheduled is not None:
            # torch's schedule knows no way back; a new one begins at that step.
            self._n_scheduled = n_scheduled
            self._schedule = self._scheduled()
