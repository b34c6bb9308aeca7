"""One OpenMP thread for the calling thread, for a while."""

from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

__all__ = ["one_openmp_thread"]


def one_openmp_thread(library: str) -> AbstractContextManager:
    """A context in which a library that is loaded runs its OpenMP loops on the calling thread.

    A team of threads for each chunk of a scan costs more than it brings, and several times as much
    on a busy machine; blocks of queries are the better thing to divide. OpenMP keeps the number of
    threads for each calling thread by itself: other threads of the process see no change.

    library : {"torch", "faiss"}, whose OpenMP runtime is looked for at the first call.
    """
    return _controller(library).limit(limits=1, user_api="openmp")


@lru_cache(maxsize=2)
def _controller(library: str) -> Any:
    from threadpoolctl import ThreadpoolController  # comes with scikit-learn

    return ThreadpoolController()
