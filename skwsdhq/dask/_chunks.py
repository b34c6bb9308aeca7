"""What Dask holds, as the chunks that a model takes: rows of features, or paths of images."""

import contextlib
import importlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = [
    "as_paths",
    "computed",
    "n_cluster_threads",
    "of_dask",
    "quiet",
    "rows_of",
    "shared",
    "tree_sum",
    "with_known_rows",
]


def of_dask(module: str = "dask") -> Any:
    """Import Dask, or a part of it; an ImportError says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"skwsdhq.dask needs {module}; install it by pip install skwsdhq[dask]."
        ) from error


def rows_of(X: Any, name: str = "X") -> Any:
    """Return a dask.array of numbers (n, d) whose chunks are whole rows."""
    da = of_dask("dask.array")
    if not isinstance(X, da.Array):
        raise TypeError(
            f"{name} is a {type(X).__name__}; give a dask.array (n, d) of features, or a dask.bag "
            "or a column of a dask.dataframe that holds paths. A frame of features is "
            "frame.to_dask_array(lengths=True)."
        )
    if X.ndim != 2 or X.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} should be numbers of shape (n, d); got {X.dtype} of shape {X.shape}."
        )
    if math.isnan(X.shape[1]):
        raise ValueError(f"the columns of {name} should be known; got shape {X.shape}.")
    return X if len(X.chunks[1]) == 1 else X.rechunk({1: -1})


def with_known_rows(X: Any, name: str = "X") -> Any:
    """Return a dask.array, if the sizes of its chunks are known."""
    if any(math.isnan(size) for size in X.chunks[0]):
        raise ValueError(
            f"{name} has chunks of unknown sizes; call {name}.compute_chunk_sizes() first, or make "
            "it by frame.to_dask_array(lengths=True)."
        )
    return X


def as_paths(X: Any) -> list[Any] | None:
    """Return partitions, lazily, of a bag of paths or a column of them; None for all else."""
    bag = of_dask("dask.bag")
    if not isinstance(X, bag.Bag) and not _is_column(X):
        return None
    return [of_dask("dask").delayed(_as_list)(part) for part in X.to_delayed()]


def _is_column(X: Any) -> bool:
    # By what it has: the import of dask.dataframe takes long, and needs pandas.
    is_dask = hasattr(X, "npartitions") and hasattr(X, "to_delayed")
    return is_dask and getattr(X, "ndim", 0) == 1 and not hasattr(X, "chunks")


def _as_list(part: Any) -> list[Any]:
    return list(part)


class _Held:
    """Hold what Dask should neither look into nor copy for each task."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _value_of(held: _Held) -> Any:
    return held.value


def shared(value: Any) -> Any:
    """Return a value as a task of its own, so that each worker gets it once.

    The scheduler keeps how it is made: a worker that is lost takes nothing along. Where there is a
    cluster, it has the value from now on, and what is computed later is small.
    """
    dask = of_dask("dask")
    task = dask.delayed(_value_of, pure=False)(_Held(value))
    if n_cluster_threads():
        with quiet():
            (task,) = dask.persist(task)
    return task


def n_cluster_threads() -> int:
    """Return how many threads the workers of the present cluster have; 0 where there is none."""
    with contextlib.suppress(ImportError, ValueError):
        client = importlib.import_module("distributed").default_client()
        return max(1, sum(client.nthreads().values()))
    return 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let a graph hold what is given here, without a warning of its size."""
    try:
        # First, as its own settings would be lost with this one.
        importlib.import_module("distributed")
    except ImportError:
        yield
        return
    limit = {"distributed.admin.large-graph-warning-threshold": "100GB"}
    with of_dask("dask").config.set(limit):
        yield


def computed(*values: Any) -> tuple[Any, ...]:
    """Compute lazy values together."""
    with quiet():
        return of_dask("dask").compute(*values)


def tree_sum(parts: Sequence[Any]) -> Any:
    """Return the sum of lazy values, neighbours first: in one order, whoever adds them."""
    add = of_dask("dask").delayed(_added, pure=False)
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [add(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return parts[0]


def _added(one: Any, other: Any) -> Any:
    return one + other
