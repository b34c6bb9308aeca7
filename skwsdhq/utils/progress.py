"""Lines of a log about a long run: what it will do, and how long that takes."""

import logging
import time
from collections.abc import Callable

__all__ = ["LongRun"]

_LONG = 100  # images, from which on a run is announced
_TIMED = 32  # images after those of the first step, which takes longer, that tell the speed


class LongRun:
    """Log once what a run over many images will do, and after its first steps how long it takes.

    Parameters
    ----------
    logger : logging.Logger
        It gets the lines at the level INFO.
    doing : str
        As "extracting features of 300 images".
    total : int
        Images; one that is seen several times counts as often. A short run logs nothing.
    clock : callable
        Seconds.
    """

    def __init__(
        self,
        logger: logging.Logger,
        doing: str,
        total: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._logger, self._total, self._clock = logger, total, clock
        self._is_told = total < _LONG
        self._first: tuple[int, float] | None = None  # images and time after the first step
        if not self._is_told:
            logger.info("%s", doing)

    def advance(self, done: int) -> None:
        """Take note that so many images are done."""
        if self._is_told:
            return
        if self._first is None:
            self._first = (done, self._clock())
            return
        images, start = self._first
        if done - images < _TIMED and done < self._total:
            return
        self._is_told = True
        seconds = max(self._clock() - start, 1e-9) / (done - images)  # of an image
        self._logger.info(
            "%d images take about %s, %.3g a second",
            self._total,
            _duration(seconds * self._total),
            1 / seconds,
        )


def _duration(seconds: float) -> str:
    """Return a duration as people say it: up to 90 in seconds or minutes, beyond in hours."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
