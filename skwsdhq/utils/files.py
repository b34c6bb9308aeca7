"""Files that are replaced whole or not at all, and turns that processes take at them."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["replacing", "turn"]

_SUFFIX = ".part"
_LONGEST = 200  # bytes of a file's name that its part repeats; systems allow 255 in all


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of ``path`` when the block ends without an error.

    A crash, at any moment, leaves the old file as it was. Where ``path`` is a link, the new file
    replaces its target. It takes over the mode of the old one. Parts that killed processes left
    beside it are removed.

    Parameters
    ----------
    path : str or PathLike
        Of the file to replace, if it is there.

    Yields
    ------
    BinaryIO
        Open for writing; no other process sees it under its name before the end.

    Raises
    ------
    OSError
        If the folder does not exist or can't be written, the disk is full, or ``path`` is
        something else than a file.
    """
    # Beside the real file, on its disk: a rename across disks is a copy, which can break off.
    target = Path(os.path.realpath(path))
    mode = _mode(target)
    _remove_left_parts(target)
    part, file = _open_part(target, 0o666 if mode is None else mode)
    try:
        with file:
            if mode is not None:  # the process's mask may have taken some of it away
                with contextlib.suppress(OSError):
                    os.chmod(part, mode)
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the name without the content
            if os.name != "nt":  # renamed while it is locked, so that nobody takes it for left
                os.replace(part, target)
        if os.name == "nt":
            os.replace(part, target)
    except BaseException:  # Ctrl-C too leaves no part
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    _sync_folder(target.parent)


@contextlib.contextmanager
def turn(path: str | os.PathLike) -> Iterator[None]:
    """Hold the lock of a file, which the system releases if this process ends.

    Parameters
    ----------
    path : str or PathLike
        Made where it does not exist; it stays empty.

    Yields
    ------
    None
        While the lock is held.
    """
    with open(path, "ab") as file:
        _lock(file)
        yield


def _mode(target: Path) -> int | None:
    """Return the permissions of the file that is there; None where there is none."""
    try:
        status = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{target} is a folder; name a file to write.")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{target} is no regular file; name another one to write.")
    return stat.S_IMODE(status.st_mode)


def _prefix(target: Path) -> str:
    """Return how the names of all parts of a file begin."""
    name = target.name
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}."


def _open_part(target: Path, mode: int) -> tuple[Path, BinaryIO]:
    """Open a new part, locked while it is open."""
    while True:
        part = target.with_name(f"{_prefix(target)}{os.urandom(6).hex()}{_SUFFIX}")
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(part, flags, mode), "wb")
        # Another process may have taken it for left before it was locked.
        if os.name == "nt" or (
            _lock_at_once(file) is not False and os.fstat(file.fileno()).st_nlink
        ):
            return part, file
        file.close()
        with contextlib.suppress(OSError):
            part.unlink()


def _remove_left_parts(target: Path) -> None:
    """Remove parts that no process holds the lock of."""
    prefix = _prefix(target)
    for name in os.listdir(target.parent):
        if not (name.startswith(prefix) and name.endswith(_SUFFIX)):
            continue
        part = target.with_name(name)
        with contextlib.suppress(OSError):  # one that is gone, or another user's
            if os.name == "nt":  # where a file that is open can't be removed
                part.unlink()
                continue
            with open(part, "rb") as file:
                if _lock_at_once(file):
                    part.unlink()


def _sync_folder(folder: Path) -> None:
    """Have the new name on disk as well, where the system can."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _lock_at_once(file: Any) -> bool | None:
    """Take the lock if it is free, and tell whether; None where there are no locks."""
    import fcntl  # which Windows does not have

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _lock(file: Any) -> None:
    """Take the lock of a file, after waiting for it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        while True:
            try:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]
                return
            except OSError:  # it waits for ten seconds only
                continue
    fcntl.flock(file, fcntl.LOCK_EX)
