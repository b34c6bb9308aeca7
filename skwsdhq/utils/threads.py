"""Work on the calling thread alone, whatever the process's settings; these are left as they are."""

import contextlib
import ctypes
import importlib
import os
from collections.abc import Callable, Iterator
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

__all__ = ["as_outside", "on_one_thread", "one_openmp_thread", "product", "without_autocast"]

_Function = TypeVar("_Function", bound=Callable)


@contextlib.contextmanager
def one_openmp_thread(library: str) -> Iterator[None]:
    """Run the OpenMP loops of a library on the calling thread alone.

    A team of threads for each chunk of a scan costs more than it brings, and several times as much
    on a busy machine; blocks of queries are the better thing to divide. OpenMP keeps the number of
    threads for each calling thread by itself: other threads of the process see no change.

    The MKL within torch keeps a number of its own, from which the last bits of its products
    follow, and with them all that is learned from these. It is told as well, for this thread.

    Parameters
    ----------
    library : {"torch", "faiss"}
        Imported and looked into at the first call.
    """
    set_mkl_threads = None
    if library == "torch":
        import torch

        # At its first loop in a thread torch sets the process's number there: not within, please.
        torch.get_num_threads()
        set_mkl_threads = _mkl_setter()
    before = set_mkl_threads(1) if set_mkl_threads is not None else 0
    try:
        controllers = _openmp(library)
        numbers = [one.get_num_threads() for one in controllers]
        try:
            for one in controllers:
                one.set_num_threads(1)
            yield
        finally:
            for one, number in zip(controllers, numbers, strict=True):
                one.set_num_threads(number)
    finally:
        if set_mkl_threads is not None:
            set_mkl_threads(before)  # 0 is the process's number again


@lru_cache(maxsize=2)
def _openmp(library: str) -> list[Any]:
    """Return what sets the calling thread's number of each OpenMP that is loaded."""
    # threadpoolctl's own context asks all libraries for all that they know, each time.
    from threadpoolctl import ThreadpoolController  # comes with scikit-learn

    importlib.import_module(library)  # what isn't loaded yet would not be limited, now or later
    return ThreadpoolController().select(user_api="openmp").lib_controllers


@lru_cache(maxsize=1)
def _mkl_setter() -> Callable[[int], int] | None:
    """Return MKL's function that sets the calling thread's number and returns the one before.

    Return None where torch is built without MKL, as on other processors than x86.
    """
    import torch

    if not torch.backends.mkl.is_available():
        return None
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "mkl_rt.2.dll", "mkl_rt.1.dll", "libtorch_cpu.dylib"):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(folder / name))
            _forkable(library)
            function = library.MKL_Set_Num_Threads_Local
            function.argtypes, function.restype = [ctypes.c_int], ctypes.c_int
            return function
    return None


def _forkable(library: ctypes.CDLL) -> None:
    """Have MKL give its buffers back before a fork.

    It keeps a list of them by threads. Of threads that are gone, a forked process may wait for one
    without end, at its first product.
    """
    if hasattr(os, "register_at_fork") and hasattr(library, "mkl_serv_free_buffers"):
        free = library.mkl_serv_free_buffers
        free.argtypes, free.restype = [], None
        os.register_at_fork(before=free)


@contextlib.contextmanager
def without_autocast(*devices: str) -> Iterator[None]:
    """Have torch multiply in the dtype of its operands, whoever calls.

    Parameters
    ----------
    *devices : str
        Kinds of device; without any, the CPU alone.
    """
    import torch

    with contextlib.ExitStack() as stack:
        for device in devices or ("cpu",):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def as_outside(function: _Function) -> _Function:
    """Have a function train as it does outside of any inference mode, no_grad or autocast."""

    @wraps(function)
    def outside(*args: Any, **kwargs: Any) -> Any:
        import torch  # heavy, and not needed by all that import this module

        devices = ("cpu", "cuda", "mps", "xpu")
        with torch.inference_mode(False), torch.enable_grad(), without_autocast(*devices):
            return function(*args, **kwargs)

    return outside  # type: ignore[return-value]


def on_one_thread(function: _Function) -> _Function:
    """Have a function keep torch's loops and :func:`product` on the calling thread alone.

    An autocast around the call does not reach inside.
    """

    @wraps(function)
    def on_calling_thread(*args: Any, **kwargs: Any) -> Any:
        with one_openmp_thread("torch"), without_autocast():
            return function(*args, **kwargs)

    return on_calling_thread  # type: ignore[return-value]


def product(
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray | None = None,
    plus: np.ndarray | None = None,
) -> np.ndarray:
    """Return a @ b, or plus + a @ b, by torch, whose number of threads is the calling thread's own.

    The number of numpy is the process's, and its threads wait for each other at every product:
    where the machine is busy, small products take twenty times as long.
    """
    import torch

    # torch warns of read-only arrays, since it can't promise not to write: copy those.
    given = (a, b) if plus is None else (plus, a, b)
    tensors = [torch.from_numpy(x if x.flags.writeable else x.copy()) for x in given]
    into = None if out is None else torch.from_numpy(out)
    multiply = torch.matmul if plus is None else torch.addmm
    with without_autocast():
        return multiply(*tensors, out=into).numpy()
