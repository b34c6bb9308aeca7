"""Adam by torch, its learning rates, when they fall, and what gradients are computed in."""

import itertools
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import nn

from ..persistence.registry import saved
from ..utils._compat import Interval, StrOptions
from ..utils.together import parts_of, together
from .linear import DTYPES
from .network import arrays_of, set_arrays

__all__ = ["AdamSchedule", "Steps", "parameter_groups"]

# Devices for which Adam is one operation of torch's: on a CPU a quarter of the time of its parts,
# which was an eighth of a fit of many rows.
_FUSED = ("cpu", "cuda", "mps")

_LARGE = 1 << 18  # numbers of a matrix that two threads move

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
    dtype : {"auto", "float32", "bfloat16"}, default="auto"
        Of the factors of the layers' products in a step; weights, Adam and the loss are float32.
        "auto" is bfloat16 for layers of many units on a processor with units for such products
        (AMX), where at least 10,000 rows are trained on: steps take .6 to .9 of the
        time. As another machine may be without, give a dtype where models of both should be alike.

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
        "dtype": [StrOptions(set(DTYPES))],
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
        dtype: str = "auto",
    ) -> None:
        self.decay = decay
        self.n_drops = n_drops
        self.drop_period = drop_period
        self.last_layer_factor = last_layer_factor
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.dtype = dtype

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


def _parts(parameter: torch.Tensor) -> list[torch.Tensor]:
    """Return a parameter in parts that share its memory, fixed ones: a large matrix in two."""
    whole = parameter.detach()
    is_large = whole.numel() >= _LARGE and whole.device.type == "cpu"
    if not (is_large and whole.ndim == 2 and whole.is_contiguous()):
        return [whole]
    return [whole[rows] for rows in parts_of(len(whole), 2, 16)]


def _split(whole: torch.Tensor, parts: list[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Return what belongs to each part of a parameter, of what belongs to all of it."""
    return [whole] if len(parts) == 1 else whole.split([len(part) for part in parts])


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
        self._parts = [_parts(parameter) for parameter in self.parameters]
        kinds = [
            (float(own), float(decay)) for parameters, own, decay in groups for _ in parameters
        ]
        pairs = list(zip(self._parts, kinds, strict=True))
        # The first parts of all parameters are one optimizer's, the second ones another's.
        self._adams = [
            self._adam([(parts[k], *kind) for parts, kind in pairs if len(parts) > k])
            for k in range(max(map(len, self._parts)))
        ]
        self._factor = factor or (lambda step: 1.0)
        self._n_scheduled = first
        self._schedules = self._scheduled()

    def _adam(self, parts: list[tuple[torch.Tensor, float, float]]) -> torch.optim.AdamW:
        """Return the optimizer of parts, each with the factor of its rate and its decay."""
        return torch.optim.AdamW(
            [
                {
                    "params": [part for part, *kind in parts if tuple(kind) == (own, decay)],
                    "lr": self.learning_rate * own,
                    # Where LambdaLR starts from; it asks for it when a run goes on in the middle.
                    "initial_lr": self.learning_rate * own,
                    "weight_decay": decay,
                }
                for own, decay in dict.fromkeys((own, decay) for _, own, decay in parts)
            ],
            fused=self.parameters[0].device.type in _FUSED,
            foreach=False,
        )

    def _scheduled(self) -> list[Any]:
        """Return torch's schedules, at the step where this one is."""
        schedule = torch.optim.lr_scheduler.LambdaLR
        first = self._n_scheduled - 1
        return [schedule(adam, self._factor, last_epoch=first) for adam in self._adams]

    @property
    def rate(self) -> float:
        """Learning rate of the next step, of a group of factor 1."""
        return self.learning_rate * self._factor(self._n_scheduled)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Move the parameters once, and the schedule on."""
        if self._max_norm is not None:
            # Of all groups together, whatever their rates.
            torch.nn.utils.clip_grad_norm_(self.parameters, self._max_norm)
        for parameter, parts in zip(self.parameters, self._parts, strict=True):
            if parameter.grad is not None:
                for part, own in zip(parts, _split(parameter.grad, parts), strict=True):
                    part.grad = own
        together([adam.step for adam in self._adams])
        for part in itertools.chain.from_iterable(self._parts):
            part.grad = None  # it would keep the memory of the gradient
        self._n_scheduled += 1
        for schedule in self._schedules:
            schedule.step()

    def state(self) -> dict[str, Any]:
        """Return moments and the number of steps, as numpy."""
        # Not torch's own state dict: files hold plain arrays, in the order of the groups.
        known = [self._known(parts) for parts in self._parts]
        return {
            "n_steps": max((n_steps for n_steps, _, _ in known), default=0),
            "means": arrays_of([mean for _, mean, _ in known]),
            "squares": arrays_of([square for _, _, square in known]),
        }

    def _known(self, parts: list[torch.Tensor]) -> tuple[int, torch.Tensor, torch.Tensor]:
        """Return steps and moments of a parameter; before the first step torch has none."""
        pairs = list(zip(self._adams, parts, strict=False))
        n_steps = max(int(adam.state.get(part, {}).get("step", 0)) for adam, part in pairs)
        moments = []
        for name in ("exp_avg", "exp_avg_sq"):
            own = [adam.state.get(p, {}).get(name, torch.zeros_like(p)) for adam, p in pairs]
            moments.append(own[0] if len(own) == 1 else torch.cat(own))
        return n_steps, moments[0], moments[1]

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
        for parts, mean, square in zip(self._parts, means, squares, strict=True):
            moments = zip(_split(mean, parts), _split(square, parts), strict=True)
            # Fewer parts than optimizers, where another parameter is larger.
            for adam, part, (own_mean, own_square) in zip(
                self._adams, parts, moments, strict=False
            ):
                step = torch.tensor(float(n_steps), device=part.device)
                adam.state[part] = {"step": step, "exp_avg": own_mean, "exp_avg_sq": own_square}
        if n_scheduled is not None:
            # torch's schedule knows no way back; a new one begins at that step.
            self._n_scheduled = n_scheduled
            self._schedules = self._scheduled()
