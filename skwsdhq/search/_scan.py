"""Exhaustive scan for many queries at once: the rows of a table of all queries are summed."""

from typing import Any

import numpy as np

from ..utils.threads import one_openmp_thread, without_autocast
from ._engines import NumpyEngine
from .topk import order_by_score, sampled_rank

__all__ = ["ScanEngine"]

# Tables of a group of queries and scores of a chunk of rows should stay in a core's own cache;
# beyond a megabyte, memory for the scores would also be mapped anew for every chunk.
_TABLE_BYTES = 2**19
_CHUNK_BYTES = 2**20
_MAX_SAMPLE = 8192
_MAX_HEAP_RANK = 64  # up to here torch.topk is faster than numpy's partition


class ScanEngine:
    """Score 64 queries in one pass over the codes.

    The look-up tables of a group of queries, transposed, are M * K rows with a number for each
    query. A code's scores are the sum of M such rows: whole vectors are added where a scan for one
    query looks up single numbers. torch's ``embedding_bag`` does just this, adds in the order of
    the codebooks, and so gives the reference's float32 numbers.

    Few of the scores are looked at twice: a sample of the rows gives each query a threshold that
    its k best almost certainly reach. Whether they do is then known, not hoped; if fewer than k
    rows reach it, the query is searched again by the reference.

    codes : (n, M), contiguous.
    """

    def __init__(self, codes: np.ndarray, n_codewords: int) -> None:
        self.codes = codes
        self.n_codewords = n_codewords
        n, n_codebooks = codes.shape
        self.group = 64 if 64 * 4 * n_codebooks * n_codewords <= _TABLE_BYTES else 32
        self.chunk = _CHUNK_BYTES // (4 * self.group)
        step = max(-(-n // _MAX_SAMPLE), 16)
        self.sample = np.ascontiguousarray(codes[::step])
        self.reference = NumpyEngine(codes.T)

    def search(self, tables: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        n = len(self.codes)
        rank = sampled_rank(k, n, len(self.sample)) if n else 0
        if k > n // 8 or rank >= len(self.sample):
            return self.reference.search(tables, k)  # most rows are candidates anyway
        similarities = np.empty((len(tables), k), dtype=np.float32)
        rows = np.empty((len(tables), k), dtype=np.int64)
        for start in range(0, len(tables), self.group):
            part = tables[start : start + self.group]
            transposed = self._transpose(part)
            with one_openmp_thread("torch"), without_autocast():
                thresholds = self._sampled(transposed, rank)[: len(part)]
                reaching = self._above(transposed, thresholds)
            for b, (values, found) in enumerate(reaching):
                if len(found) < k:  # the sample misled; seldom, and the reference is right
                    values, found = (x[0] for x in self.reference.search(part[b : b + 1], k))
                order = order_by_score(values)[:k]
                similarities[start + b], rows[start + b] = values[order], found[order]
        return similarities, rows

    def above(
        self, tables: np.ndarray, thresholds: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        found = []
        for start in range(0, len(tables), self.group):
            part = slice(start, start + self.group)
            transposed = self._transpose(tables[part])
            with one_openmp_thread("torch"), without_autocast():
                reaching = self._above(transposed, thresholds[part])
            for values, rows in reaching:
                order = order_by_score(values)
                found.append((values[order], rows[order]))
        return found

    def _sampled(self, transposed: Any, rank: int) -> np.ndarray:
        """Return the rank-th largest score of the sampled rows for each query, (width,)."""
        import torch

        scores = self._score(transposed, self.sample, _Buffers(len(self.sample), self))
        by_query = np.ascontiguousarray(scores.T)
        if rank <= _MAX_HEAP_RANK:
            with torch.inference_mode():
                return torch.topk(torch.from_numpy(by_query), rank)[0][:, -1].numpy()
        by_query.partition(by_query.shape[1] - rank, axis=1)
        return by_query[:, by_query.shape[1] - rank]

    def _transpose(self, tables: np.ndarray) -> Any:
        """Lay tables (B, M, K) out as a tensor (M * K, width), B padded to a multiple of 8."""
        import torch

        width = -(-len(tables) // 8) * 8
        transposed = np.zeros((tables.shape[1] * tables.shape[2], width), dtype=np.float32)
        transposed[:, : len(tables)] = tables.reshape(len(tables), -1).T
        return torch.from_numpy(transposed)

    def _score(self, transposed: Any, codes: np.ndarray, buffers: "_Buffers") -> np.ndarray:
        """Score a chunk of codes (c, M) for a group of queries: float32 (c, width)."""
        import torch

        size = codes.size
        np.copyto(buffers.index[:size], codes.reshape(-1))
        buffers.index[:size] += buffers.offsets[:size]
        with torch.inference_mode():
            # for c: for b: scores[c, b] = Σ_m transposed[m * K + codes[c, m], b]
            return torch.embedding_bag(
                transposed,
                torch.from_numpy(buffers.index[:size]),
                torch.from_numpy(buffers.bags[: len(codes)]),
                False,
                0,
                False,
            )[0].numpy()

    def _above(
        self, transposed: Any, thresholds: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return scores and rows, ascending, of all rows that reach each query's threshold."""
        n, width = len(self.codes), transposed.shape[1]
        buffers = _Buffers(min(self.chunk, n), self)
        # The columns that fill a group up to a multiple of 8 reach no threshold.
        padded = np.full(width, np.inf, dtype=np.float32)
        padded[: len(thresholds)] = thresholds
        # Repeated for every row of a chunk: numpy compares equal shapes twice as fast.
        tiled = np.tile(padded, (min(self.chunk, n), 1))
        parts = []
        for start in range(0, n, self.chunk):
            scores = self._score(transposed, self.codes[start : start + self.chunk], buffers)
            reached = (scores >= tiled[: len(scores)]).reshape(-1)
            # Hits are rare: look for them eight at a time.
            words = np.flatnonzero(reached.view(np.uint64) != 0)
            hits = (words[:, None] * 8 + np.arange(8))[reached.reshape(-1, 8)[words]]
            parts.append((start * width + hits, scores.reshape(-1)[hits]))
        if not parts:
            return [(np.zeros(0, np.float32), np.zeros(0, np.int64))] * len(thresholds)
        hits = np.concatenate([part[0] for part in parts])
        values = np.concatenate([part[1] for part in parts])
        columns = (hits % width).astype(np.uint8)
        order = np.argsort(columns, kind="stable")
        bounds = np.cumsum(np.bincount(columns, minlength=width))[:-1]
        return list(
            zip(
                np.split(values[order], bounds), np.split(hits[order] // width, bounds), strict=True
            )
        )[: len(thresholds)]


class _Buffers:
    """Hold room for the table rows of a chunk of codes, so that all chunks use the same memory."""

    def __init__(self, n_rows: int, engine: ScanEngine) -> None:
        n_codebooks = engine.codes.shape[1]
        self.index = np.empty(n_rows * n_codebooks, dtype=np.int32)
        self.offsets = np.tile(
            np.arange(n_codebooks, dtype=np.int32) * np.int32(engine.n_codewords), n_rows
        )
        self.bags = np.arange(0, n_rows * n_codebooks, n_codebooks, dtype=np.int32)
