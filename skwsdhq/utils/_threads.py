"""Work on the calling thread alone, whatever the process's settings; these are left as they are."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache, wraps
from typing import Any, TypeVar

import numpy as np

__all__ = ["on_one_thread", "one_openmp_thread", "product"]

_Function = TypeVar("_Function", bound=Callable)


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


def on_one_thread(function: _Function) -> _Function:
    """The function, with torch's loops and its :func:`product` on the calling thread alone."""

    @wraps(function)
    def on_calling_thread(*args: Any, **kwargs: Any) -> Any:
        with one_openmp_thread("torch"):
            return function(*args, **kwargs)

    return on_calling_thread  # type: ignore[return-value]


def product(
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray | None = None,
    plus: np.ndarray | None = None,
) -> np.ndarray:
    """a @ b, or plus + a @ b, by torch, whose number of threads is the calling thread's own.

    That of numpy is the process's, and its threads wait for each other at every product: where
    the machine is busy, small products take twenty times as long.
    """
    import torch

    given = (a, b) if plus is None else (plus, a, b)
    tensors = [torch.from_numpy(x if x.flags.writeable else x.copy()) for x in given]
    into = None if out is None else torch.from_numpy(out)
    multiply = torch.matmul if plus is None else torch.addmm
    return multiply(*tensors, out=into).numpy()
