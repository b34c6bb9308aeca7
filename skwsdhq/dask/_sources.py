"""Sources of rows that stay on the cluster: a fit asks for what it makes of them."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from joblib import parallel_config

from ..backbones import extract_features
from ..utils.rows import sum_blocks
from ._chunks import (
    as_paths,
    computed,
    of_dask,
    quiet,
    rows_of,
    shared,
    tree_sum,
    with_known_rows,
)

__all__ = ["ClusterPaths", "ClusterRows", "tags_at_hand"]


class ClusterRows:
    """Stand for a matrix that a cluster holds, as :class:`~skwsdhq.utils.rows.LazyRows` asks it.

    Parameters
    ----------
    X : dask.array of shape (n, d)
        In chunks of known sizes.
    """

    def __init__(self, X: Any) -> None:
        self._X = with_known_rows(rows_of(X))
        self.shape: tuple[int, int] = (int(X.shape[0]), int(X.shape[1]))
        self.dtype = X.dtype
        self._starts = np.concatenate([[0], np.cumsum(self._X.chunks[0])]).astype(np.int64)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return a slice of rows, here."""
        return np.asarray(computed(self._X[rows])[0])

    def taken(self, numbers: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> Any:
        """Return what a function makes of rows by number, here; it is called where they are."""
        wanted, back = np.unique(numbers, return_inverse=True)
        chunk_of = np.searchsorted(self._starts, wanted, side="right") - 1
        held, pick = shared(function), of_dask("dask").delayed(_picked, pure=False)
        blocks = self._blocks()
        parts = [
            pick(held, blocks[i], wanted[chunk_of == i] - self._starts[i])
            for i in np.unique(chunk_of)
        ]
        if not parts:
            return function(self[:0])
        return np.concatenate(computed(*parts))[back.reshape(-1)]

    def sum_blocks(
        self,
        function: Callable,
        aligned: Sequence = (),
        *,
        n_rows: int | None = None,
    ) -> Any:
        """Return the sum of what a function makes of blocks, added up as a tree by the workers."""
        held, work = shared(function), of_dask("dask").delayed(sum_blocks, pure=False)
        parts = []
        for i, block in enumerate(self._blocks()):
            own = slice(int(self._starts[i]), int(self._starts[i + 1]))
            if own.start < own.stop:
                others = [other[own] for other in aligned]
                parts.append(work(block, held, others, n_rows=n_rows))
        return computed(tree_sum(parts))[0]

    def _blocks(self) -> list[Any]:
        return list(self._X.to_delayed()[:, 0])


def _picked(function: Callable, block: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return function(np.asarray(block)[rows])


class ClusterPaths(list):
    """List paths that a cluster holds in partitions, whose workers read the images.

    Parameters
    ----------
    X : dask.bag, or column of a dask.dataframe
        Of paths.
    """

    def __init__(self, X: Any) -> None:
        parts = as_paths(X)
        if parts is None:
            raise TypeError(
                f"images should be a dask.bag of paths or a column of them; got a "
                f"{type(X).__name__}."
            )
        found = computed(*parts)
        super().__init__(path for part in found for path in part)
        for path in self:
            if not isinstance(path, str | os.PathLike):
                raise TypeError(f"a bag of images should hold paths; got a {type(path).__name__}.")
        self._sizes = [len(part) for part in found]

    def features_by(self, backbone: Any, device: Any = None) -> ClusterRows:
        """Return features (n, d), which the cluster extracts once, and holds."""
        da, dask = of_dask("dask.array"), of_dask("dask")
        held = shared(backbone)
        work = dask.delayed(_extracted, pure=False)
        some = [part for part in self._parts() if part]
        parts = [work(held, [self[i] for i in part], device)[0] for part in some]
        with quiet():
            parts = list(dask.persist(*parts))
        width = int(computed(parts[0].shape[1])[0])
        meta = np.empty((0, width), dtype=np.float32)
        blocks = [
            da.from_delayed(part, shape=(len(rows), width), meta=meta)
            for part, rows in zip(parts, some, strict=True)
        ]
        return ClusterRows(da.concatenate(blocks))

    def features_in_parts(
        self, rows: Sequence[int], backbone: Any, *, device: Any = None, on_error: str = "raise"
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield some of these rows and their features, as partitions are done, in their order."""
        dask, wanted = of_dask("dask"), set(rows)
        held, work = shared(backbone), dask.delayed(_extracted, pure=False)
        some = [own for part in self._parts() if (own := [i for i in part if i in wanted])]
        tasks = [work(held, [self[i] for i in own], device, on_error) for own in some]
        with quiet():
            tasks = list(dask.persist(*tasks))
        for i, own in enumerate(some):
            features, read = computed(tasks[i])[0]
            tasks[i] = None  # the cluster need not hold it any more
            yield [own[k] for k in read], features

    def _parts(self) -> list[range]:
        starts = np.concatenate([[0], np.cumsum(self._sizes)]).tolist()
        return [range(a, b) for a, b in itertools.pairwise(starts)]


def _extracted(
    backbone: Any, paths: list, device: Any, on_error: str = "raise"
) -> tuple[np.ndarray, np.ndarray]:
    """Return features (b, d), and which of the paths they are of."""
    # A task is one thread of a worker's.
    with parallel_config("sequential"):
        found = extract_features(paths, backbone, device=device, on_error=on_error)
    return found if on_error == "skip" else (found, np.arange(len(paths)))


def tags_at_hand(tags: Any) -> Any:
    """Return tags as they are, or what Dask holds of them, brought here."""
    return computed(tags)[0] if of_dask("dask").is_dask_collection(tags) else tags
