"""The SQLite file of a collection: tables, transactions, and codes in blocks.

One transaction holds all that belongs together, so that a process that is killed leaves what was
there before it or what was to be there after. Readers see the database as it was when their
transaction began (SQLite's write-ahead log), and never wait for a writer.

Codes lie in blocks of rows, for 153 reads to bring ten millions of them. A block knows at which
change it was written, so that a reader reads again only what has changed.
"""

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..persistence import LoadError

__all__ = ["BLOCK", "Store"]

FORMAT = 1  # of the tables; it rises when an older version could not read them
_APPLICATION = 0x53574844  # tells our databases from those of others
BLOCK = 65_536  # rows of a full block
_MOST_SMALL = 64  # blocks that are not full, from which on they are joined
_WAIT_S = 120.0  # for another process's transaction
_AT_ONCE = 500  # values in one statement; older SQLites allow 999

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE items (
    row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, path, tags TEXT NOT NULL,
    fitted INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE features (row INTEGER PRIMARY KEY, feature BLOB NOT NULL);
CREATE TABLE tags (tag TEXT, row INTEGER, PRIMARY KEY (tag, row)) WITHOUT ROWID;
CREATE TABLE columns (name TEXT, value, row INTEGER, PRIMARY KEY (name, value, row)) WITHOUT ROWID;
CREATE INDEX columns_of_row ON columns (row);
CREATE TABLE blocks (
    first INTEGER PRIMARY KEY, version INTEGER NOT NULL, rows BLOB NOT NULL, codes BLOB NOT NULL
);
"""


class Store:
    """Open the database of a collection.

    Parameters
    ----------
    path : Path
        Of the file.
    read_only : bool, default=False
    create : bool, default=False
        Whether to make the tables where there are none.
    """

    def __init__(self, path: Path, *, read_only: bool = False, create: bool = False) -> None:
        self.path, self.read_only = path, read_only
        self._local = threading.local()
        self._writing = threading.RLock()
        self._connections: list[sqlite3.Connection] = []
        self._is_closed = False
        if not create and not path.is_file():
            raise FileNotFoundError(f"{str(path.parent)!r} holds no collection.")
        try:
            if create:
                self._make_tables()
            self._check()
        except BaseException:
            self.close()
            raise

    def _make_tables(self) -> None:
        with _told(self.path):
            connection = self.connection
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return
            connection.execute("PRAGMA page_size = 16384")  # features fill small pages badly
            connection.execute("PRAGMA journal_mode = WAL")
            # One statement after the other, within one transaction: all tables or none.
            connection.execute("BEGIN IMMEDIATE")
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute("COMMIT")

    def _check(self) -> None:
        """Refuse databases of others, and of newer versions."""
        with _told(self.path):
            application = self.connection.execute("PRAGMA application_id").fetchone()[0]
            form = self.connection.execute("PRAGMA user_version").fetchone()[0]
        if application != _APPLICATION:
            raise LoadError(f"{self.path} is no collection of skwsdhq's.")
        if form > FORMAT:
            raise LoadError(
                f"{self.path} is of format {form}; this version of skwsdhq reads up to {FORMAT}. "
                "Update it."
            )

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection of this thread, in this process."""
        if self._is_closed:
            raise ValueError("the collection is closed; open it again.")
        # A connection must not go along into the child of a fork.
        known = getattr(self._local, "connection", None)
        if known is None or known[0] != os.getpid():
            known = os.getpid(), self._connect()
            self._local.connection = known
        return known[1]

    def _connect(self) -> sqlite3.Connection:
        uri = self.path.absolute().as_uri()
        # Readers too keep the index of the log; where they can't, nobody writes.
        if self.read_only and not os.access(self.path.parent, os.W_OK):
            uri += "?immutable=1"
        connection = sqlite3.connect(
            uri, uri=True, timeout=_WAIT_S, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA synchronous = FULL")  # what has returned is on the disk
        if self.read_only:
            connection.execute("PRAGMA query_only = ON")
        self._connections.append(connection)
        return connection

    def close(self) -> None:
        """Close all connections; what comes after is an error."""
        self._is_closed = True
        while self._connections:
            with contextlib.suppress(sqlite3.Error):
                self._connections.pop().close()

    # --- transactions -------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that sees the database as it is now, whatever is written meanwhile."""
        with _told(self.path):
            connection = self.connection
            if connection.in_transaction:  # of this thread already
                yield connection
                return
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def writing(self) -> Iterator[tuple[sqlite3.Connection, int]]:
        """Yield a connection and the number of this change, all of which is kept or nothing.

        Other writers, in threads and processes, wait.
        """
        if self.read_only:
            raise PermissionError(f"{str(self.path.parent)!r} was opened with read_only=True.")
        with self._writing, _told(self.path):
            connection = self.connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                version = self.meta("version", 0) + 1
                self.set_meta("version", version)
                yield connection, version
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def meta(self, key: str, default: Any = None) -> Any:
        """Return a value that the collection keeps of itself."""
        found = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return default if found is None else found[0]

    def set_meta(self, key: str, value: Any) -> None:
        """Keep a value."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def select(self, statement: str, values: Iterable[Any]) -> Iterator[tuple]:
        """Yield what a statement finds; its ``{}`` stands for the values, some at a time."""
        values = list(values)
        for start in range(0, len(values), _AT_ONCE):
            some = values[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            yield from self.connection.execute(statement.format(marks), some)

    # --- blocks of codes ----------------------------------------------------------------

    def blocks(self) -> dict[int, int]:
        """Return the versions of all blocks, by their first rows, in order."""
        return dict(
            self.connection.execute("SELECT first, version FROM blocks ORDER BY first").fetchall()
        )

    def read_block(self, first: int, shape: tuple[int, np.dtype]) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows (n,) of a block and their codes (n, M)."""
        found = self.connection.execute(
            "SELECT rows, codes FROM blocks WHERE first = ?", (first,)
        ).fetchone()
        rows = np.frombuffer(found[0], dtype="<i8")
        codes = np.frombuffer(found[1], dtype=shape[1].newbyteorder("<"))
        if len(codes) != len(rows) * shape[0]:
            raise LoadError(f"{self.path} is damaged: block {first} has codes of another width.")
        return rows, codes.reshape(len(rows), shape[0])

    def _write_block(self, first: int, version: int, rows: np.ndarray, codes: np.ndarray) -> None:
        if not len(rows):
            self.connection.execute("DELETE FROM blocks WHERE first = ?", (first,))
            return
        little = codes.astype(codes.dtype.newbyteorder("<"), copy=False)
        self.connection.execute(
            "INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?)",
            (first, version, rows.astype("<i8").tobytes(), np.ascontiguousarray(little).tobytes()),
        )

    def append_codes(self, version: int, rows: np.ndarray, codes: np.ndarray) -> None:
        """Write codes of rows that are larger than all before."""
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            self._write_block(int(rows[start]), version, rows[block], codes[block])
        self._join_small(version, (codes.shape[1], codes.dtype))

    def _join_small(self, version: int, shape: tuple[int, np.dtype]) -> None:
        """Join the blocks at the end where they are many and not full."""
        sizes = self.connection.execute(
            "SELECT first, length(rows) / 8 FROM blocks ORDER BY first DESC LIMIT ?",
            (4 * _MOST_SMALL,),
        ).fetchall()
        small = []
        for first, size in sizes:
            if size >= BLOCK:
                break
            small.append(first)
        if len(small) < _MOST_SMALL:
            return
        parts = [self.read_block(first, shape) for first in reversed(small)]
        rows = np.concatenate([part[0] for part in parts])
        codes = np.concatenate([part[1] for part in parts])
        self.connection.executemany("DELETE FROM blocks WHERE first = ?", [(f,) for f in small])
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            self._write_block(int(rows[start]), version, rows[block], codes[block])

    def change_codes(
        self, version: int, rows: np.ndarray, codes: np.ndarray | None, shape: tuple[int, np.dtype]
    ) -> None:
        """Write other codes of rows (ascending), or take the rows out where there are none."""
        firsts = np.array(list(self.blocks()), dtype=np.int64)
        place = np.searchsorted(firsts, rows, side="right") - 1
        for b in np.unique(place):
            own, old = self.read_block(int(firsts[b]), shape)
            mine = place == b
            at = np.searchsorted(own, rows[mine])
            if codes is None:
                kept = np.ones(len(own), dtype=bool)
                kept[at] = False
                own, new = own[kept], old[kept]
            else:
                new = old.copy()
                new[at] = codes[mine]
            self._write_block(int(firsts[b]), version, own, new)

    def replace_codes(self, version: int, rows: np.ndarray, codes: np.ndarray) -> None:
        """Write the codes of all rows anew."""
        self.connection.execute("DELETE FROM blocks")
        for start in range(0, len(rows), BLOCK):
            block = slice(start, start + BLOCK)
            self._write_block(int(rows[start]), version, rows[block], codes[block])


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say what SQLite's errors mean, as Python's own errors."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "full" in text:
            raise OSError(
                errno.ENOSPC, "the disk is full; the collection is as it was before", str(path)
            ) from error
        if "locked" in text:
            raise TimeoutError(
                f"another process has been writing to {path} for {_WAIT_S:g} s; try again later."
            ) from error
        if "readonly" in text or "unable to open" in text:
            raise PermissionError(f"{path} can't be opened or written: {text}.") from error
        raise LoadError(f"{path} can't be read as a collection: {text}.") from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError):
            raise
        raise LoadError(f"{path} is damaged or no collection: {error}.") from error
