"""A network that learns on top of features that stay as they are."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from ..utils.rows import is_lazy, room_for
from ..utils.threads import one_openmp_thread, product
from ..utils.together import sharing
from .linear import short_product
from .network import BLOCK, arrays_of, forward, network_arrays, set_arrays
from .team import Share, agreed, team_of

__all__ = ["FixedInputs", "turned_towards"]

_DIVISIBLE = 2_000_000_000  # multiplications of a layer product, from which on threads pay


class FixedInputs:
    """Train a network on top of features that stay as they are.

    Parameters
    ----------
    head : nn.Sequential
        From :func:`~skwsdhq.training.network.build_network`.
    inputs : ndarray or MappedRows of shape (n, d), float32
        Scaled features.
    device : torch.device
        Of the head.
    fixed : ndarray of shape (n, D), float32, default=None
        Unit rows that embeddings are joined with, see :func:`turned_towards`.
    share : float, default=0.0
        Of these rows in the direction of an embedding.

    Attributes
    ----------
    shared_head : nn.Module
        The head, as steps call it: its gradients are those of all processes of a team.
    """

    def __init__(
        self,
        head: nn.Sequential,
        inputs: Any,
        device: torch.device,
        fixed: np.ndarray | None = None,
        share: float = 0.0,
    ) -> None:
        self.head, self.device = head, device
        self._team = team_of(inputs)
        self.shared_head: nn.Module = head
        if self._team is not None:
            head.eval()  # nothing is drawn here
            one = torch.zeros((1, inputs.shape[1]), device=device)
            self.shared_head = self._team.wrapped(head, one)
        self._arrays, self._fixed, self._share = inputs, fixed, share
        # Once, not batch by batch: to a device the way would take longer than the step.
        self._inputs = None if is_lazy(inputs) else torch.from_numpy(inputs).to(device)
        self._fixed_on_device = None if fixed is None else torch.from_numpy(fixed).to(device)

    def __len__(self) -> int:
        return len(self._arrays)

    def inputs(self, rows: np.ndarray, share: Share | None = None) -> torch.Tensor:
        """Return (b, d) of a step; of a memory map these rows alone are read."""
        if self._inputs is not None:
            # Half of the time that indexing by an array takes.
            return self._inputs.index_select(0, torch.from_numpy(rows).to(self.device))
        read = agreed(self._team, lambda: self._arrays[rows])
        return torch.from_numpy(np.ascontiguousarray(read)).to(self.device)

    def backward_to_backbone(self) -> None:
        """Do nothing: no network below has made the inputs."""

    def held_inputs(self, rows: np.ndarray) -> torch.Tensor:
        """Return (b, d) for a look at the loss, without a step."""
        return self.inputs(rows)

    def outputs(self) -> Any:
        """Return (n, D) of all images as they would be transformed now, before normalisation.

        Each process of a team makes those of its own part; the others' come when asked for.
        """
        # By numpy, as `transform` does it: codes are then those of what it gives.
        return self._outputs_by(product)

    def rough_outputs(self) -> Any:
        """Return the same, for what learns along: to the digits that steps are computed to."""
        is_short = any(getattr(layer, "is_short", False) for layer in self.head)
        return self._outputs_by(short_product if is_short else product)

    def _outputs_by(self, times: Callable[..., np.ndarray]) -> Any:
        arrays = network_arrays(self.head)
        with sharing():
            if self._team is None:
                made = forward(self._arrays, arrays, room_for, times)
                return self._turned(made, self._fixed)
            made = self._arrays.of_part(lambda rows: forward(rows, arrays, times=times))
        own = self._team.part(len(self))
        self._turned(made.own, None if self._fixed is None else self._fixed[own])
        return made

    def _turned(self, outputs: np.ndarray, fixed: np.ndarray | None) -> np.ndarray:
        """Turn outputs towards the rows that they are joined with, in place."""
        if fixed is None:
            return outputs
        for start in range(0, len(outputs), BLOCK):  # no copy of all is made
            rows = slice(start, start + BLOCK)
            lengths = np.linalg.norm(outputs[rows], axis=1, keepdims=True)
            outputs[rows] = turned_towards(outputs[rows], fixed[rows], self._share, lengths)
        return outputs

    def whole(self, outputs: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """Return (b, D) of the same direction as the embeddings, from the network's outputs."""
        if self._fixed_on_device is None:
            return outputs
        lengths = outputs.norm(dim=1, keepdim=True)
        return turned_towards(outputs, self._fixed_on_device[rows], self._share, lengths)

    def state(self) -> list[np.ndarray]:
        """Return all that is learned, as numpy copies."""
        return arrays_of(list(self.head.parameters()))

    def restore(self, state: list[np.ndarray]) -> None:
        """Set what :meth:`state` gave."""
        set_arrays(list(self.head.parameters()), state)

    def threads(self, batch_size: int) -> AbstractContextManager:
        """Return a context for its steps.

        One thread for steps too small to be divided, however many others there are: two threads
        wait for each other after every operation, and on a busy machine they mostly wait; a step
        of the default network took twenty times as long there. It also makes what is learned the
        same however many threads a process has; that of larger networks depends on their number.
        """
        n_products = batch_size * sum(parameter.numel() for parameter in self.head.parameters())
        # A GPU has no threads of ours; a large step gains more than waiting costs.
        if self.device.type != "cpu" or n_products > _DIVISIBLE:
            return nullcontext()
        return _one_thread_each()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Have steps use one thread, and those that are free for the parts of its products."""
    with sharing(), one_openmp_thread("torch"):
        yield


def turned_towards(outputs: Any, rows: Any, share: float, lengths: Any) -> Any:
    """Turn outputs (n, D) of a network towards unit rows, whose share of the direction is given.

    The length is that of the network's outputs, ``lengths`` (n, 1), as far as the two agree. All
    are arrays of one dtype, or tensors.
    """
    return (1 - share) * outputs + share * lengths * rows
