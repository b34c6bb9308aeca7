"""The codes of a collection in memory, as they were at one change of it."""

from typing import Any

import numpy as np

from ..search import CodeIndex
from ..search.expansion import joined
from ._store import BLOCK, Store

__all__ = ["Snapshot"]

_Block = tuple[int, np.ndarray, np.ndarray]  # version, rows, codes


class Snapshot:
    """Hold the rows of a collection and their codes; nothing of it ever changes.

    Parameters
    ----------
    version : int
        The change that it shows.
    model : int
        The number of the quantizer that made the codes.
    quantizer : WSDHQuantizer
    blocks : dict of int to (version, rows, codes)
        As the database has them, in the order of rows.
    parts : list of (rows, CodeIndex)
        The same to be searched: rows of before, and what came since.
    """

    def __init__(
        self,
        version: int,
        model: int,
        quantizer: Any,
        blocks: dict[int, _Block],
        parts: list[tuple[np.ndarray, CodeIndex]],
    ) -> None:
        self.version, self.model, self.quantizer = version, model, quantizer
        self._blocks, self.parts = blocks, parts

    @classmethod
    def read(
        cls, store: Store, model: int, quantizer: Any, before: "Snapshot | None"
    ) -> "Snapshot":
        """Read the codes of now, within a transaction; only what is new since ``before``."""
        shape = code_shape(quantizer)
        if before is not None and before.model != model:
            # Codes of two models have nothing in common.
            before = None
        known = {} if before is None else before._blocks
        blocks: dict[int, _Block] = {}
        for first, version in store.blocks().items():
            own = known.get(first)
            if own is None or own[0] != version:
                own = (version, *store.read_block(first, shape))
            blocks[first] = own
        added = [block for first, block in blocks.items() if first not in known]
        parts = None
        if before is not None and _only_added(known, blocks):
            # Else a block has changed, and the parts are made anew.
            parts = _with_tail(before.parts, added, quantizer)
        if parts is None:
            rows, codes = _joined(list(blocks.values()), shape)
            parts = [(rows, CodeIndex(quantizer.codebooks_, codes))]
        return cls(store.meta("version", 0), model, quantizer, blocks, parts)

    def __len__(self) -> int:
        return sum(len(rows) for rows, _ in self.parts)

    @property
    def rows(self) -> np.ndarray:
        """All rows (n,), ascending."""
        return np.concatenate([rows for rows, _ in self.parts])

    @property
    def codes(self) -> np.ndarray:
        """Codes (n, M) of all rows."""
        return np.concatenate([index.codes for _, index in self.parts])

    def codes_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the codes (k, M) of rows that are there."""
        shape = code_shape(self.quantizer)
        codes = np.empty((len(rows), shape[0]), dtype=shape[1])
        first = 0
        for own, index in self.parts:  # in the order of rows
            last = own[-1] if len(own) else -1
            mine = (rows >= first) & (rows <= last)
            codes[mine] = index.codes[np.searchsorted(own, rows[mine])]
            first = last + 1
        return codes

    def expanded(
        self, query: np.ndarray, n_expansion: int, allowed: np.ndarray | None, left_out: int | None
    ) -> np.ndarray:
        """Return a query (1, D), joined by the mean of its first results."""
        if not n_expansion:
            return query
        _, rows = self.search(query, n_expansion, allowed, left_out)
        decoded = self.quantizer.decode(self.codes_of(rows))[None]
        return joined(query, decoded, np.ones((1, len(rows)), dtype=bool))

    def search(
        self, query: np.ndarray, k: int, allowed: np.ndarray | None, left_out: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return similarities and rows of the k nearest to a query (1, D), the nearest first."""
        found_values, found_rows = [], []
        for rows, index in self.parts:
            mask = None
            if allowed is not None:
                mask = np.zeros(len(rows), dtype=bool)
                at = np.searchsorted(rows, allowed)
                at = at[(at < len(rows))]
                own = allowed[: len(at)]  # both ascend, so that only the last ones lie beyond
                mask[at[rows[at] == own]] = True
            excluded = None
            if left_out is not None:
                at_row = int(np.searchsorted(rows, left_out))
                if at_row < len(rows) and rows[at_row] == left_out:
                    excluded = [at_row]
            if not len(rows) or (mask is not None and not mask.any()):
                continue
            values, places = index.search(query, k, filter=mask, exclude=excluded)
            # A filter may leave fewer rows than k, which the index fills up.
            is_found = np.isfinite(values[0])
            found_values.append(values[0][is_found])
            found_rows.append(rows[places[0][is_found]])
        if not found_values:
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        values, rows = np.concatenate(found_values), np.concatenate(found_rows)
        order = np.lexsort((rows, -values))[:k]  # of equal ones the older first
        return values[order], rows[order]


def code_shape(quantizer: Any) -> tuple[int, np.dtype]:
    """Return M, and the dtype of codes."""
    n_codebooks, n_codewords, _ = quantizer.codebooks_.shape
    return n_codebooks, np.dtype(np.uint8 if n_codewords <= 256 else np.uint16)


def _only_added(known: dict[int, _Block], blocks: dict[int, _Block]) -> bool:
    """Tell whether all blocks of before are there as they were, and new ones lie behind them."""
    same = all(first in blocks and blocks[first][0] == own[0] for first, own in known.items())
    return same and list(blocks)[: len(known)] == list(known)


def _with_tail(
    parts: list[tuple[np.ndarray, CodeIndex]], added: list[_Block], quantizer: Any
) -> list[tuple[np.ndarray, CodeIndex]] | None:
    """Return parts with blocks behind them; None where the last part would be a large one.

    An index prepares its searches by all its rows, so that one that has grown by an item would do
    so anew. A small one beside it takes what comes.
    """
    if not added:
        return parts
    tail_rows, tail_index = parts[1] if len(parts) > 1 else (np.zeros(0, np.int64), None)
    n_tail = len(tail_rows) + sum(len(block[1]) for block in added)
    if n_tail > BLOCK:
        # The tail has become as long as a block: one index again.
        return None
    own = [] if tail_index is None else [(0, tail_rows, tail_index.codes)]
    rows, codes = _joined([*own, *added], code_shape(quantizer))
    return [parts[0], (rows, CodeIndex(quantizer.codebooks_, codes))]


def _joined(blocks: list[Any], shape: tuple[int, np.dtype]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and codes of blocks, one after the other."""
    if not blocks:
        return np.zeros(0, np.int64), np.zeros((0, shape[0]), shape[1])
    rows = np.concatenate([block[1] for block in blocks]).astype(np.int64, copy=False)
    return rows, np.concatenate([block[2] for block in blocks]).astype(shape[1], copy=False)
