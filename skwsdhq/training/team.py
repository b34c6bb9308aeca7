"""Processes that train one model together: all know all rows, and each does its part of the work.

Whatever is decided is decided alike in all of them, since all see the same sums and outputs. What
follows from the last bit of a float, as when to stop, is told by the first process.
"""

import inspect
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import distributed, nn

from ..utils.rows import LazyRows, row_blocks, sum_blocks

__all__ = ["Share", "Team", "TeamPart", "TeamRows", "agreed", "team_of"]


# Whether buffers are sent at each call, as torch names it today, or did before.
_NAMES = inspect.signature(nn.parallel.DistributedDataParallel).parameters
_OF_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"


class Share(NamedTuple):
    """Hold which rows of a batch are a process's own."""

    start: int
    stop: int
    n_rows: int  # of the whole batch
    most: int  # that a process has of it


class Team:
    """Divide work among the processes of ``torch.distributed``.

    Methods that exchange anything wait for all processes: each has to call them, in one order.

    Attributes
    ----------
    rank : int
        Number of this process.
    size : int
        How many there are.
    """

    def __init__(self) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        # Numbers on a GPU travel by NCCL, which knows no others.
        is_gloo = "gloo" in distributed.get_backend()
        self._objects: Any = None if is_gloo else distributed.new_group(backend="gloo")

    def bounds(self, n_rows: int) -> np.ndarray:
        """Return where the part (size + 1,) of each process begins, and the last one ends."""
        return np.arange(self.size + 1) * n_rows // self.size

    def part(self, n_rows: int) -> slice:
        """Return which of so many rows are this process's."""
        bounds = self.bounds(n_rows)
        return slice(int(bounds[self.rank]), int(bounds[self.rank + 1]))

    def share(self, n_rows: int) -> Share:
        """Return this process's part of a batch."""
        part = self.part(n_rows)
        return Share(part.start, part.stop, n_rows, int(np.diff(self.bounds(n_rows)).max()))

    def first(self, value: Any) -> Any:
        """Return what the first process gives."""
        told = [value]
        distributed.broadcast_object_list(told, src=0, group=self._objects)
        return told[0]

    def all(self, value: Any) -> list[Any]:
        """Return what each process gives, in their order."""
        told = [None] * self.size
        distributed.all_gather_object(told, value, group=self._objects)
        return told

    def agreed(self, work: Callable[[], Any]) -> Any:
        """Return what is made here; an error of one process is raised in all of them.

        Else the others would wait for one that comes no more.
        """
        made, error = None, None
        try:
            made = work()
        except Exception as raised:
            error = raised
        has_failed = torch.tensor([error is not None], dtype=torch.int32)
        distributed.all_reduce(has_failed, distributed.ReduceOp.MAX, group=self._objects)
        if has_failed:
            told = self.all(None if error is None else _sendable(error))
            first = next(rank for rank, other in enumerate(told) if other is not None)
            # With its traceback where it comes from.
            raise error if error is not None and first == self.rank else told[first]
        return made

    def sum(self, value: Any) -> Any:
        """Return the sum of what each process gives, added up as a tree; None counts as nothing."""
        step = 1
        while step < self.size:
            if self.rank % (2 * step):
                distributed.send_object_list([value], self.rank - step, group=self._objects)
                break
            if self.rank + step < self.size:
                other = [None]
                distributed.recv_object_list(other, self.rank + step, group=self._objects)
                value = _added(value, other[0])
            step *= 2
        return self.first(value)

    def joined(self, own: torch.Tensor, n_rows: int) -> torch.Tensor:
        """Return rows (n, D) from each process's own (b, D), through which gradients go back.

        All processes compute the same loss of these. Its gradient reaches each process's own rows
        alone, times the number of processes: DistributedDataParallel takes the mean over them.
        """
        joined: torch.Tensor = _Joined.apply(own, self, n_rows)
        return joined

    def wrapped(self, module: nn.Module, inputs: torch.Tensor) -> nn.Module:
        """Return a module whose gradients are those of all processes; parameters stay its own.

        ``inputs`` are any that it takes: parameters that they do not reach are not waited for.
        """
        learning = [p for p in module.parameters() if p.requires_grad]
        if not learning:
            return module
        with torch.enable_grad():
            outputs = module(inputs)
        reached = torch.autograd.grad(outputs.sum(), learning, allow_unused=True)
        # Looking for them costs each step a walk over the graph.
        has_others = any(gradient is None for gradient in reached)
        # Buffers stay what they are: sent at each call, they would have processes that call
        # differently often wait for each other.
        options: dict[str, Any] = {_OF_BUFFERS: False, "find_unused_parameters": has_others}
        return nn.parallel.DistributedDataParallel(module, **options)


class _Joined(torch.autograd.Function):
    """Join rows of all processes; give each the gradient of its own."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, team: Team, n_rows: int) -> torch.Tensor:
        ctx.part, ctx.size = team.part(n_rows), team.size
        sizes = np.diff(team.bounds(n_rows))
        padded = own.new_zeros((int(sizes.max()), own.shape[1]))
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0][ctx.part] * ctx.size, None, None


def _sendable(error: Exception) -> Exception:
    """Return an error that travels between processes: itself, or what it says."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # of any kind: it is the user's
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _added(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return one if other is None else other
    return one + other


class TeamRows:
    """Stand for rows (n, d) that all processes have, of which each sums up its own part.

    Parameters
    ----------
    X : ndarray, or what slices as one
    team : Team
    """

    def __init__(self, X: Any, team: Team) -> None:
        self._rows, self.team = LazyRows(X, X.dtype), team
        self.shape, self.dtype = self._rows.shape, self._rows.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return rows by a slice or by numbers, here."""
        return self._rows[rows]

    def taken(self, numbers: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> Any:
        """Return what a function makes of rows by number, here."""
        return function(self._rows[numbers])

    def sum_blocks(self, function: Callable, aligned: Sequence = (), **options: Any) -> Any:
        """Return the sum of what a function makes of blocks, each process's own part by itself."""
        own = _Slice(self._rows, self.team.part(len(self)))
        return _sum_of_parts(self, own, function, aligned, options)

    def of_part(self, function: Callable[[np.ndarray], np.ndarray]) -> "TeamPart":
        """Return what a function makes of rows, each process of its own part."""
        return _part_of(self, _Slice(self._rows, self.team.part(len(self))), function)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all rows, for those that can't do with less."""
        return np.asarray(self[:], dtype=dtype)


class TeamPart:
    """Stand for rows (n, d) of which each process has its own part.

    Parameters
    ----------
    own : ndarray of shape (b, d)
    n_rows : int
        n.
    team : Team
    """

    def __init__(self, own: np.ndarray, n_rows: int, team: Team) -> None:
        self.own, self.team = own, team
        self.shape, self.dtype = (n_rows, own.shape[1]), own.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return a slice of rows, of all processes."""
        return self.taken(np.arange(len(self))[rows], _itself)

    def taken(self, numbers: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> Any:
        """Return what a function makes of rows by number; it is called where they are."""
        numbers = np.asarray(numbers)
        owner = np.searchsorted(self.team.bounds(len(self)), numbers, side="right") - 1
        start = self.team.part(len(self)).start
        numbers = numbers[owner == self.team.rank] - start
        own = self.team.agreed(lambda: function(self.own[numbers]))
        order = np.argsort(owner, kind="stable")
        found = np.empty((len(order), *own.shape[1:]), own.dtype)
        found[order] = np.concatenate(self.team.all(own))
        return found

    def sum_blocks(self, function: Callable, aligned: Sequence = (), **options: Any) -> Any:
        """Return the sum of what a function makes of blocks, of each process's own rows."""
        return _sum_of_parts(self, self.own, function, aligned, options)

    def of_part(self, function: Callable[[np.ndarray], np.ndarray]) -> "TeamPart":
        """Return what a function makes of rows, each process of its own."""
        return _part_of(self, self.own, function)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all rows."""
        return np.asarray(self[:], dtype=dtype)


class _Slice:
    """Stand for consecutive rows of others."""

    def __init__(self, rows: Any, part: slice) -> None:
        self._rows, self._start, self._stop = rows, part.start, part.stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        return self._rows[self._start + start : self._start + stop]


def _sum_of_parts(
    rows: Any, own: Any, function: Callable, aligned: Sequence, options: dict[str, Any]
) -> Any:
    part = rows.team.part(len(rows))
    others = [other[part] for other in aligned]
    return rows.team.sum(rows.team.agreed(lambda: sum_blocks(own, function, others, **options)))


def _part_of(rows: Any, own: Any, function: Callable) -> TeamPart:
    def make() -> np.ndarray:
        blocks = [function(block) for block in row_blocks(own)]
        if blocks:
            return np.concatenate(blocks)
        # A process without rows has to know what theirs would look like.
        return function(np.empty((0, rows.shape[1]), rows.dtype))

    return TeamPart(rows.team.agreed(make), len(rows), rows.team)


def _itself(rows: np.ndarray) -> np.ndarray:
    return rows


def agreed(team: Team | None, work: Callable[[], Any]) -> Any:
    """Return what is made here; an error of one process of a team is raised in all of them."""
    return work() if team is None else team.agreed(work)


def team_of(X: Any) -> Team | None:
    """Return the processes that rows or images are divided among; None for this one alone."""
    team: Team | None = getattr(X, "team", None)
    return team
