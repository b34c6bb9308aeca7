"""Codes in faiss: as an engine, and as indexes that faiss alone can search, save and load."""

from typing import Any

import numpy as np

from ..utils.threads import one_openmp_thread
from ._engines import NumpyEngine, score_codes

__all__ = ["FaissEngine", "build_faiss", "pack_codes", "read_faiss", "unpack_codes"]

_MAX_CODEWORDS = 1024  # beyond, the vectors that stand for them take gigabytes


def code_bits(n_codewords: int) -> int:
    """Return the bits that a code takes for each codebook."""
    return max(int(n_codewords - 1).bit_length(), 1)


def pack_codes(codes: np.ndarray, n_bits: int) -> np.ndarray:
    """Pack codes (n, M) into bytes (n, ceil(M * n_bits / 8)), lowest bits first, as faiss does."""
    if n_bits == 8:
        return np.ascontiguousarray(codes, dtype=np.uint8)
    # for n: for m: for b: bit m * n_bits + b of row n = bit b of codes[n, m]
    bits = (codes[:, :, None].astype(np.uint32) >> np.arange(n_bits, dtype=np.uint32)) & 1
    rows = bits.astype(np.uint8).reshape(len(codes), codes.shape[1] * n_bits)
    return np.packbits(rows, axis=1, bitorder="little")


def unpack_codes(packed: np.ndarray, n_codebooks: int, n_bits: int) -> np.ndarray:
    """Unpack codes (n, M) from the bytes of `pack_codes`: uint8, uint16 for more than 8 bits."""
    n = len(packed)
    count = n_codebooks * n_bits
    bits = np.unpackbits(packed, axis=1, bitorder="little", count=count)
    bits = bits.reshape(n, n_codebooks, n_bits)
    weights = 1 << np.arange(n_bits, dtype=np.uint32)
    return (bits * weights).sum(axis=2).astype(np.uint8 if n_bits <= 8 else np.uint16)


class FaissEngine:
    """Search by faiss's product-quantization scan, over look-up tables instead of vectors.

    An additive code is a product-quantization code over the query repeated M times. Taken further,
    with unit vectors as codewords and the look-up table itself as query, faiss's own tables are
    ours to the last bit. What is left to chance is the order of its sums: candidates are scored
    again, and more are fetched until no row outside them can belong to the k best.

    codes : (n, M).
    """

    def __init__(self, codes: np.ndarray, n_codewords: int) -> None:
        import faiss

        if n_codewords > _MAX_CODEWORDS:
            raise ValueError(
                f"n_codewords={n_codewords} should be <= {_MAX_CODEWORDS} for engine='faiss'; "
                "use engine='auto'."
            )
        self.codes = codes
        self.reference = NumpyEngine(codes.T)
        n_codebooks = codes.shape[1]
        n_bits = max(code_bits(n_codewords), 8)
        self.index = faiss.IndexPQ(
            n_codebooks * n_codewords, n_codebooks, n_bits, faiss.METRIC_INNER_PRODUCT
        )
        # With e_k as codeword k, a product with the look-up table is its entry k.
        units = np.zeros((n_codebooks, 2**n_bits, n_codewords), dtype=np.float32)
        units[:, np.arange(n_codewords), np.arange(n_codewords)] = 1
        faiss.copy_array_to_vector(units.ravel(), self.index.pq.centroids)
        self.index.is_trained = True
        if len(codes):
            self.index.add_sa_codes(pack_codes(codes, n_bits))

    def search(self, tables: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        n = len(self.codes)
        similarities = np.empty((len(tables), k), dtype=np.float32)
        rows = np.empty((len(tables), k), dtype=np.int64)
        pending = np.arange(len(tables) if k else 0)
        fetched = k + 8 + k // 32  # a few more than k, so that ties at the end seldom ask again
        # Two float32 sums of M terms in different order differ by less than this.
        slack = 2.0**-23 * tables.shape[1] * np.abs(tables).max(axis=2).sum(axis=1)
        while len(pending) and fetched < min(n, 16 * (k + 8)):
            asked = np.ascontiguousarray(tables[pending].reshape(len(pending), -1))
            with one_openmp_thread("faiss"):
                bounds, candidates = self.index.search(asked, fetched)
            left = []
            for b, bound, found in zip(pending, bounds[:, -1], candidates, strict=True):
                found.sort()
                scores = score_codes(tables[b], self.codes[found].T)
                order = np.argsort(-scores, kind="stable")[:k]
                if scores[order[-1]] > bound + slack[b]:
                    similarities[b], rows[b] = scores[order], found[order]
                else:
                    left.append(b)  # rows that were not fetched may tie with the k-th
            pending = np.array(left, dtype=np.intp)
            fetched *= 4
        if len(pending):
            similarities[pending], rows[pending] = self.reference.search(tables[pending], k)
        return similarities, rows

    def above(
        self, tables: np.ndarray, thresholds: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        return self.reference.above(tables, thresholds)  # faiss's PQ has no range search


def build_faiss(codebooks: np.ndarray, codes: np.ndarray, ids: np.ndarray | None, form: str) -> Any:
    """Build a faiss index over the codes, in additive or product form, by inner product.

    codebooks : (M, K, D) float32.  codes : (n, M).  ids : (n,) int64 or None.
    """
    import faiss

    n_codebooks, n_codewords, n_dims = (int(length) for length in codebooks.shape)
    n_bits = code_bits(n_codewords)
    full = np.zeros((n_codebooks, 2**n_bits, n_dims), dtype=np.float32)
    full[:, :n_codewords] = codebooks  # faiss wants a power of two; no code names the rest
    if form == "additive":
        make_additive: Any = faiss.IndexResidualQuantizer  # its stub lacks the last argument
        index = make_additive(
            n_dims,
            n_codebooks,
            n_bits,
            faiss.METRIC_INNER_PRODUCT,
            faiss.AdditiveQuantizer.ST_LUT_nonorm,
        )
        faiss.copy_array_to_vector(full.ravel(), index.rq.codebooks)
        index.rq.is_trained = True
    else:
        index = faiss.IndexPQ(n_dims * n_codebooks, n_codebooks, n_bits, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(full.ravel(), index.pq.centroids)
    index.is_trained = True
    mapped = None
    if ids is not None:
        mapped = faiss.IndexIDMap(index)  # which wants an index that is still empty
        mapped.own_fields = True
        index.this.disown()  # the map frees it
    if len(codes):
        index.add_sa_codes(pack_codes(codes, n_bits))
    if mapped is None:
        return index
    faiss.copy_array_to_vector(np.ascontiguousarray(ids, dtype=np.int64), mapped.id_map)
    mapped.ntotal = index.ntotal
    return mapped


def read_faiss(
    index: Any, repeated_query: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Read codebooks (M, K, D), codes (n, M) and ids (n,), or None, from a faiss index.

    A product quantizer's codebooks become zero outside their own dimensions; with
    `repeated_query`, each sees all D dimensions, as `build_faiss` makes them.
    """
    import faiss

    ids = None
    index = faiss.downcast_index(index)
    quantizer: Any
    if isinstance(index, faiss.IndexIDMap):
        ids = faiss.vector_to_array(index.id_map).copy()
        index = faiss.downcast_index(index.index)
    name = type(index).__name__
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ValueError(f"{name} should compare by METRIC_INNER_PRODUCT.")
    if isinstance(index, faiss.IndexPQ):
        quantizer = index.pq
        n_codebooks, n_bits, width = quantizer.M, quantizer.nbits, quantizer.dsub
        centroids = faiss.vector_to_array(quantizer.centroids).reshape(n_codebooks, -1, width)
        codebooks = centroids
        if not repeated_query:
            codebooks = np.zeros((*centroids.shape[:2], n_codebooks * width), dtype=np.float32)
            for m in range(n_codebooks):
                codebooks[m, :, m * width : (m + 1) * width] = centroids[m]
    elif isinstance(index, faiss.IndexResidualQuantizer | faiss.IndexLocalSearchQuantizer):
        quantizer = index.rq if isinstance(index, faiss.IndexResidualQuantizer) else index.lsq
        sizes = {int(b) for b in faiss.vector_to_array(quantizer.nbits)}
        if len(sizes) != 1:
            raise ValueError(f"{name} should have codebooks of one size; got bits {sizes}.")
        n_codebooks, n_bits = quantizer.M, sizes.pop()
        codebooks = faiss.vector_to_array(quantizer.codebooks).reshape(n_codebooks, -1, index.d)
    else:
        raise TypeError(
            f"Codes can be read from IndexPQ, IndexResidualQuantizer and IndexLocalSearchQuantizer "
            f"(with an IndexIDMap around them); got {name}."
        )
    packed = faiss.vector_to_array(index.codes).reshape(index.ntotal, index.code_size)
    n_bytes = -(-n_codebooks * n_bits // 8)  # a stored norm may follow the code
    return codebooks.copy(), unpack_codes(packed[:, :n_bytes], n_codebooks, n_bits), ids
