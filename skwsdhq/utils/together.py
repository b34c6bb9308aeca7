"""Work in fixed parts, which the threads that are free share among them.

Parts follow from sizes alone, so what comes out is the same to the last bit however many threads
there are: one, or as many as parts. Each of them works by itself, on one thread of OpenMP; a part
that no thread has begun is done by the caller, so that nobody waits for one that gets no time on a
busy machine.
"""

import contextlib
import functools
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .threads import one_openmp_thread, product

__all__ = ["n_free_threads", "parts_of", "sharing", "together", "whole_product"]

_PAYS = 1 << 25  # multiplications of a part of a product, from which on it pays to be one
_SHORT_S = 0.05  # a job: longer ones are always shared
_EVERY = 25  # short jobs, of which one is made the other way, with help or without
_WEIGHT = 0.25  # of the last one in what is remembered of jobs
_here = threading.local()  # a thread that others help has a crew


def n_free_threads() -> int:
    """Return how many threads may share work: as many as torch has, and joblib, in this thread."""
    import torch
    from joblib import effective_n_jobs

    return max(1, min(torch.get_num_threads(), effective_n_jobs(-1)))


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Have the calls of :func:`together`, from this thread, be made by all that are free.

    Within one of these it is that one. To be entered before OpenMP is told to use one thread, or
    that would be all.
    """
    if getattr(_here, "crew", None) is not None:
        yield
        return
    n_threads = n_free_threads()
    if n_threads == 1:
        yield
        return
    crew = _here.crew = _Crew(n_threads - 1)
    try:
        yield
    finally:
        _here.crew = None
        crew.close()


def together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Return what calls give, in their order: made side by side within :func:`sharing`.

    The first error, in that order, is raised once no call is going on.
    """
    crew = getattr(_here, "crew", None)
    if crew is None or len(calls) < 2:
        return [call() for call in calls]
    return crew.made(calls)


def parts_of(n: int, n_parts: int, multiple: int = 1) -> list[slice]:
    """Return slices of so many numbers, about as many parts, each but the last a multiple."""
    step = max(1, -(-n // (max(1, n_parts) * multiple))) * multiple
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def whole_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a @ b as :func:`~skwsdhq.utils.threads.product` does, by parts of the rows of a."""
    n_parts = min(4, max(1, a.shape[0] * a.shape[1] * b.shape[1] // _PAYS))
    out = np.empty((a.shape[0], b.shape[1]), dtype=a.dtype)
    parts = parts_of(len(a), n_parts, 8)
    together([functools.partial(product, a[rows], b, out[rows]) for rows in parts])
    return out


class _Job:
    """Hold calls that several threads take from, one after the other."""

    def __init__(self, calls: Sequence[Callable[[], Any]]) -> None:
        self._calls = calls
        self._numbers = itertools.count()  # the next one to be taken; threads may share it
        self._values: list[Any] = [None] * len(calls)
        self._errors: list[BaseException | None] = [None] * len(calls)
        self._done = threading.Semaphore(0)
        self._worked_s = [0.0] * len(calls)

    @property
    def worked_s(self) -> float:
        """Seconds that processors were busy with the calls."""
        return sum(self._worked_s)

    def work(self) -> None:
        """Make calls until none is left."""
        while (number := next(self._numbers)) < len(self._calls):
            begun = time.thread_time()
            try:
                self._values[number] = self._calls[number]()
            except BaseException as error:  # raised where the answers are asked for
                self._errors[number] = error
            self._worked_s[number] = time.thread_time() - begun
            self._done.release()

    def values(self) -> list[Any]:
        """Return what the calls gave, when all of them are done."""
        for _ in self._calls:
            self._done.acquire()
        for error in self._errors:
            if error is not None:
                raise error
        return self._values


class _Crew:
    """Hold threads that wait for jobs; each starts when there is work for it.

    On a busy machine a thread that has begun a part may have to stand back for milliseconds, and
    the caller waits. So it is looked at now and then what short jobs gain by help, and where they
    lose the caller does them alone: who does a part changes nothing of what comes out.
    """

    def __init__(self, n_threads: int) -> None:
        self._n_threads = n_threads
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._n_short = 0
        self._is_short = False  # the last job
        # Seconds of work done in a second, by whether the caller has help.
        self._rates: dict[bool, float] = {}

    def made(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """Return what calls give."""
        is_helped = self._wants_help()
        job, begun = _Job(calls), time.perf_counter()
        if is_helped:
            self._ask_for_help(job, min(self._n_threads, len(calls) - 1))
        job.work()
        values = job.values()
        took = time.perf_counter() - begun
        self._is_short = took < _SHORT_S
        if self._is_short:
            rate = job.worked_s / max(took, 1e-9)
            before = self._rates.get(is_helped, rate)
            self._rates[is_helped] = before + _WEIGHT * (rate - before)
        return values

    def _wants_help(self) -> bool:
        """Tell whether the next job should be shared, as far as the last ones show."""
        if not self._is_short:
            return True
        self._n_short += 1
        if len(self._rates) < 2:
            return not self._rates.get(True, 0.0)
        is_better = self._rates[True] >= self._rates[False]
        return is_better if self._n_short % _EVERY else not is_better

    def _ask_for_help(self, job: _Job, n_wanted: int) -> None:
        while len(self._threads) < n_wanted:
            # Daemons: the interpreter's end does not wait for them.
            thread = threading.Thread(target=_serve, args=(self._jobs,), daemon=True)
            thread.start()
            self._threads.append(thread)
        for _ in range(n_wanted):
            self._jobs.put(job)

    def close(self) -> None:
        """Let the threads end; nobody waits for them, as none has anything left to do."""
        for _ in self._threads:
            self._jobs.put(None)


def _serve(jobs: "queue.SimpleQueue[_Job | None]") -> None:
    with one_openmp_thread("torch"):  # of this thread: it lasts as long as that does
        while (job := jobs.get()) is not None:
            job.work()
            del job  # what its calls hold would be kept until the next one comes
