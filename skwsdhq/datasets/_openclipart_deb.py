"""Unpacking Debian's packages with the standard library."""

import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import BinaryIO

__all__ = ["unpack_packages"]

_FOLDER = "usr/share/openclipart"


def unpack_packages(packages: list[Path], data_home: Path) -> Path:
    """Unpack Debian's packages as dpkg would, and return their openclipart folder.

    Nothing but regular files and links below ``usr/share/openclipart`` is taken. They are unpacked
    beside and renamed, so that what is there is whole.
    """
    target = data_home / _FOLDER
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".openclipart-", dir=data_home))
    try:
        for package in packages:
            with open(package, "rb") as file:
                _find_data(file, package)
                _unpack(file, package, beside)
        os.replace(beside / _FOLDER, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


# A link may lead outside; Python before 3.11.4 has nothing to tell.
_safe = getattr(tarfile, "data_filter", lambda member, folder: member)


def _find_data(file: BinaryIO, package: Path) -> None:
    """Move to the begin of the archive that holds the files of a package.

    A package is an ar archive: 8 bytes, then members, each with a head of 60 bytes (name in the
    first 16, size in decimal at 48 to 58) and an even length.
    """
    if file.read(8) != b"!<arch>\n":
        raise OSError(f"{str(package)!r} is no Debian package.")
    while len(head := file.read(60)) == 60:
        name = head[:16].decode("ascii", "replace").strip().rstrip("/")
        size = int(head[48:58])
        if name.startswith("data.tar"):
            if name not in ("data.tar", "data.tar.xz", "data.tar.gz", "data.tar.bz2"):
                raise OSError(
                    f"{str(package)!r} is packed as {name}, which Python can't read; unpack it by "
                    f"`dpkg-deb -x {package.name} FOLDER` and name that folder."
                )
            # tarfile would take a shorter archive for whole, where the cut is between members.
            if file.tell() + size > package.stat().st_size:
                break
            return
        file.seek(size + size % 2, os.SEEK_CUR)
    raise OSError(f"{str(package)!r} is cut off.")


def _unpack(file: BinaryIO, package: Path, folder: Path) -> None:
    """Unpack what is wanted of the archive at the file's place."""
    try:
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                # Packages write "./usr/…"; what climbs out by ".." has another beginning.
                name = os.path.normpath(member.name)
                if name.startswith(_FOLDER + "/") and (member.isreg() or member.issym()):
                    archive.extract(_safe(member, str(folder)), folder)
    except (tarfile.TarError, EOFError) as error:
        raise OSError(f"{str(package)!r} can't be unpacked: {error}") from error
