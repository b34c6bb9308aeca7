"""Images that all processes know, each of which reads its own part."""

from typing import Any

import numpy as np

from ..backbones.features import features_and_skipped
from ..training.team import Team, TeamRows

__all__ = ["TeamImages"]


class TeamImages(list):
    """List images, or their paths, of which each process of a team reads its part.

    Parameters
    ----------
    images : sequence of paths or pictures
    team : Team
    """

    def __init__(self, images: Any, team: Team) -> None:
        super().__init__(images)
        self.team = team

    def features_by(self, backbone: Any, device: Any = None) -> TeamRows:
        """Return features (n, d): a process extracts those of its part, and gets the others'."""
        own, found = self[self.team.part(len(self))], None
        if own:
            found = features_and_skipped(own, backbone, device=device)[0]
        parts = [part for part in self.team.all(found) if part is not None]
        return TeamRows(np.concatenate(parts), self.team)
