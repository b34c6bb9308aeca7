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
    """What a thread is asked for, and its answer."""

    def __init__(self, item: Any) -> None:
        self.item = item
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = threading.Event()


def mapped(
    work: Callable[[Any, Any], Any], items: Iterable, workers: Sequence[Any]
) -> Generator[Any, None, None]:
    """What ``work(worker, item)`` gives for each item, in their order.

    Parameters
    ----------
    work : callable
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
    if len(workers) <= 1:
        for item in items:
            yield work(workers[0], item)
        return
    tasks: queue.SimpleQueue = queue.SimpleQueue()
    stopped = threading.Event()

    def serve(worker: Any) -> None:
        while (call := tasks.get()) is not None:
            if not stopped.is_set():
                try:
                    call.value = work(worker, call.item)
                except BaseException as error:
                    call.error = error
            call.done.set()

    # Daemons: the interpreter's end does not wait for them.
    threads = [threading.Thread(target=serve, args=(one,), daemon=True) for one in workers]
    for thread in threads:
        thread.start()
    waiting: deque[_Call] = deque()
    try:
        for item in items:
            waiting.append(_Call(item))
            tasks.put(waiting[-1])
            if len(waiting) > len(workers):
                yield _answer(waiting.popleft())
        while waiting:
            yield _answer(waiting.popleft())
    finally:
        stopped.set()
        for _ in threads:
            tasks.put(None)
        end_of(threads)


def end_of(threads: Iterable[threading.Thread]) -> None:
    """Wait until threads that were told to have ended; not for one that hangs."""
    last = time.monotonic() + _PATIENCE_S
    for thread in threads:
        thread.join(max(0.0, last - time.monotonic()))


def _answer(call: _Call) -> Any:
    call.done.wait()
    if call.error is not None:
        raise call.error
    return call.value
