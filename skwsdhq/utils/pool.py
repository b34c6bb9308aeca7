"""Work in threads that nobody waits for: one that hangs holds up neither Ctrl-C nor the end."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

__all__ = ["end_of", "mapped"]

_PATIENCE_S = 0.3  # for threads in the midst of something, when their work is not wanted any more


class _Call:
    """Hold what a thread is asked for, and its answer."""

    def __init__(self, item: Any) -> None:
        self.item = item
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = threading.Event()


def mapped(
    work: Callable[[Any, Any], Any], items: Iterable, workers: Sequence[Any]
) -> Generator[Any, None, None]:
    """Yield what ``work(worker, item)`` gives for each item, in their order.

    Parameters
    ----------
    work : callable
        Called in several threads at once, each time with another worker.
    items : iterable
        Asked for one by one, one more than there are workers ahead.
    workers : sequence
        Each has a thread of its own; a single one works in the calling thread.

    Yields
    ------
    object
        The first error, in the order of the items, is raised. The threads end with this generator,
        but for one that hangs.
    """
    # In the caller's own thread errors and Ctrl-C need no detour.
    if len(workers) <= 1:
        for item in items:
            yield work(workers[0], item)
        return
    tasks: queue.SimpleQueue = queue.SimpleQueue()
    stopped = threading.Event()

    # Daemons: the interpreter's end does not wait for them.
    threads = [
        threading.Thread(target=_serve, args=(work, one, tasks, stopped), daemon=True)
        for one in workers
    ]
    for thread in threads:
        thread.start()
    waiting: deque[_Call] = deque()
    try:
        for item in items:
            waiting.append(_Call(item))
            tasks.put(waiting[-1])
            # One more than are worked on, so that no thread waits for the caller.
            if len(waiting) > len(workers):
                yield _answer(waiting.popleft())
        while waiting:
            yield _answer(waiting.popleft())
    finally:
        stopped.set()
        for _ in threads:
            tasks.put(None)  # one for each: a thread takes no second
        end_of(threads)


def _serve(
    work: Callable[[Any, Any], Any], worker: Any, tasks: queue.SimpleQueue, stopped: threading.Event
) -> None:
    """Answer calls until a None comes; once stopped, only say that they are done."""
    while (call := tasks.get()) is not None:
        if not stopped.is_set():
            try:
                call.value = work(worker, call.item)
            except BaseException as error:  # raised where the answer is asked for
                call.error = error
        call.done.set()


def end_of(threads: Iterable[threading.Thread]) -> None:
    """Wait until threads that were told to have ended; not for one that hangs."""
    last = time.monotonic() + _PATIENCE_S
    for thread in threads:
        thread.join(max(0.0, last - time.monotonic()))


def _answer(call: _Call) -> Any:
    """Return a call's answer, after waiting for it; raise its error here."""
    call.done.wait()
    if call.error is not None:
        raise call.error
    return call.value
