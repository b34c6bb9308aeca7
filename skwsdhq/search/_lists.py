"""Dividing rows among lists, and codes of what the lists' centers leave of them."""

from collections.abc import Callable, Iterator

import numpy as np

from ..codebooks import encode, learn_codebooks
from ..codebooks.inputs import code_dtype

__all__ = ["assign_rows", "learn_residual_codes", "train_directions"]

_ROWS_PER_LIST = 64  # of the sample that directions are found from
_ROWS_PER_CODEWORD = 256  # of the sample that codebooks of residuals are learned from
_MIN_SAMPLE = 2**12
_MAX_SAMPLE = 2**17
_BLOCK_ROWS = 2**14

# Float32 rows of a slice or of ascending row numbers.
GetRows = Callable[[slice | np.ndarray], np.ndarray]


def _blocks(n: int) -> Iterator[slice]:
    for start in range(0, n, _BLOCK_ROWS):
        yield slice(start, min(start + _BLOCK_ROWS, n))


def train_directions(
    get_rows: GetRows, n: int, n_lists: int, n_iter: int, rng: np.random.RandomState
) -> np.ndarray:
    """Find unit centroids (n_lists, D) by spherical k-means over a sample of n rows."""
    import faiss

    n_sampled = min(n, max(_ROWS_PER_LIST * n_lists, 256))
    points = get_rows(np.sort(rng.choice(n, n_sampled, replace=False)))
    # Scaled by powers of two, which round nothing, so that squares stay within float32.
    _, exponents = np.frexp(np.abs(points).max(axis=1, keepdims=True))
    points = np.ldexp(points, -exponents)
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    points = np.ascontiguousarray(points / np.where(norms > 0, norms, 1))
    kmeans = faiss.Kmeans(
        points.shape[1],
        n_lists,
        niter=n_iter,
        spherical=True,
        seed=int(rng.randint(2**31 - 1)),
        min_points_per_centroid=1,  # else faiss prints a warning
        max_points_per_centroid=_ROWS_PER_LIST * 256,
    )
    kmeans.train(points)
    return np.array(kmeans.centroids)


def assign_rows(get_rows: GetRows, n: int, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the list of each row, and the mean row of each list.

    directions : (n_lists, D).  Returns (n,) int32 and (n_lists, D) float32; 0 for a list without
    rows.
    """
    nearest = np.empty(n, dtype=np.int32)
    sums = np.zeros(directions.shape)
    for part in _blocks(n):
        rows = get_rows(part)
        lists = nearest[part] = (rows @ directions.T).argmax(axis=1)
        # for n: sums[lists[n]] += rows[n]
        order = np.argsort(lists, kind="stable")
        present, starts = np.unique(lists[order], return_index=True)
        sums[present] += np.add.reduceat(rows[order], starts, axis=0, dtype=np.float64)
    counts = np.bincount(nearest, minlength=len(directions))
    return nearest, (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)


def learn_residual_codes(
    get_rows: GetRows,
    nearest: np.ndarray,
    centers: np.ndarray,
    n_codebooks: int,
    n_codewords: int,
    rng: np.random.RandomState,
    n_jobs: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Learn codebooks and codes of the rows less the centers of their lists.

    nearest : (n,), the list of each row.  centers : (n_lists, D).  Returns (M, K', D) and (n, M);
    K' is n_codewords, or n where there are fewer rows.
    """
    from joblib import Parallel, delayed

    n = len(nearest)
    n_codewords = min(n_codewords, n)
    wanted = int(np.clip(_ROWS_PER_CODEWORD * n_codewords, _MIN_SAMPLE, _MAX_SAMPLE))
    sampled = np.sort(rng.choice(n, min(n, max(wanted, n_codewords)), replace=False))
    residuals = get_rows(sampled) - centers[nearest[sampled]]
    codebooks, _ = learn_codebooks(residuals, n_codebooks, n_codewords, random_state=rng)
    seed = int(rng.randint(2**31 - 1))  # one order of the sweeps, so that blocks don't matter
    codes = np.empty((n, n_codebooks), dtype=code_dtype(n_codewords))

    def encode_block(part: slice) -> None:
        residuals = get_rows(part) - centers[nearest[part]]
        codes[part] = encode(residuals, codebooks, random_state=seed)

    Parallel(n_jobs=n_jobs, backend="threading")(delayed(encode_block)(p) for p in _blocks(n))
    return codebooks, codes
