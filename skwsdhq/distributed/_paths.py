"""Images that all processes know, each of which reads its own part."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backbones.features import features_and_skipped
from ..training.team import Team, TeamPart, TeamRows

__all__ = ["TeamImages"]


class _Part(Sequence):
    """Stand for consecutive ones of a sequence of images, which are read when asked for."""

    def __init__(self, images: Any, part: slice) -> None:
        # Labels of a pandas.Series need not be numbers of rows.
        self._images, self._range = getattr(images, "iloc", images), range(part.start, part.stop)

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[own] for own in range(*row.indices(len(self)))]
        return self._images[self._range[row]]


class TeamImages(_Part):
    """Stand for images, or their paths, of which each process of a team reads its part.

    Parameters
    ----------
    images : sequence of paths or pictures
    team : Team
    """

    def __init__(self, images: Any, team: Team) -> None:
        super().__init__(images, slice(0, len(images)))
        self.team = team

    def part_by(self, function: Callable[[Any], np.ndarray]) -> TeamPart:
        """Return what a function makes of images, rows (b, d), each process of its own part."""
        own = _Part(self, self.team.part(len(self)))
        made = self.team.agreed(lambda: function(own) if len(own) else None)
        # A process without images learns from the others what theirs looks like.
        like = self.team.all(None if made is None else made[:0])
        if made is None:
            made = next(rows for rows in like if rows is not None)
        return TeamPart(made, len(self), self.team)

    def features_by(self, backbone: Any, device: Any = None) -> TeamRows:
        """Return features (n, d): a process extracts those of its part, and gets the others'."""
        made = self.part_by(lambda own: features_and_skipped(own, backbone, device=device)[0])
        return TeamRows(made[:], self.team)
