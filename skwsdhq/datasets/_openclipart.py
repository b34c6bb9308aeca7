"""Loader of the Open Clip Art Library as Debian packages it."""

import hashlib
import html
import os
import re
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from sklearn.utils import Bunch

from ._openclipart_deb import unpack_packages
from ._tables import check_whole, label_indicator, tidy_tag

__all__ = ["load_openclipart"]

# What a program drew, or a desktop's theme repeats: hundreds of pictures of a few motifs, whose
# names and tags say how they were made.
_FAMILIES = ("shapes/stars", "computer/icons", "unsorted")
# Written by the tool that uploaded the pictures (Perl's print of a table, and its default folder),
# and words for the format.
_UPLOAD_TAGS = {"hash", "unsorted", "upload", "image", "clip art", "clipart", "svg"}
_ADDRESS = re.compile(r"0x[0-9a-f]+|hash\(0x[0-9a-f]+\)")  # of that table in memory
_MAX_PIXELS = 40_000_000  # 160 MB once decoded; what is larger costs more than a picture is worth
_DC = "{http://purl.org/dc/elements/1.1/}"
_RDF_ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"


@dataclass
class _Picture:
    """Hold a picture, and what all its copies say of it."""

    folders: list[tuple[str, ...]]  # all in which copies of it lie
    path: Path
    svgs: list[Path]
    name: str = ""
    tags: set[str] = field(default_factory=set)


def load_openclipart(
    data_home: str | os.PathLike | None = None,
    *,
    min_pictures: int = 10,
    keep_untagged: bool = False,
    drop_folders: Sequence[str] = _FAMILIES,
    return_X_y: bool = False,
) -> Any:
    """Load some 2,700 drawings with their artists' tags, from Debian's openclipart packages.

    The artists tagged what they uploaded; the library's editors sorted it into folders, which serve
    as labels to evaluate by. Tags that merely say the folder are taken away, so that tags are no
    labels in disguise.

    Parameters
    ----------
    data_home : str, PathLike or None, default=None
        Folder that holds ``png/`` and ``svg/`` (or does at ``usr/share/openclipart`` below it), or
        the two package files ``openclipart-png_*.deb`` and ``openclipart-svg_*.deb``, which are
        then unpacked there, once. None is ``/usr/share/openclipart``, where
        ``apt install openclipart-png openclipart-svg`` puts it.
    min_pictures : int, default=10
        A second-level folder with fewer pictures is merged into its first-level folder. A label
        that still has fewer, at either level, is dropped: its pictures stay, without it.
    keep_untagged : bool, default=False
        Keep pictures that have no tags once the tags are cleaned.
    drop_folders : sequence of str, default=("shapes/stars", "computer/icons", "unsorted")
        Folders whose pictures are left out: generated families, and what nobody sorted.
    return_X_y : bool, default=False
        Return ``(images, tags)`` instead of a Bunch.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        With the attributes

        images : list of n str
            Paths of PNG files, in order. Mostly on transparent ground.
        tags : list of n lists of str
            Sorted, lower-case, without duplicates.
        names : list of n str
            Titles, as the artists gave them.
        target : ndarray of shape (n, L1), int64
            0/1; the first-level folders of each picture. Of a picture that was filed under several
            folders one copy is kept, and it bears the labels and tags of all.
        target_names : list of L1 str
            Names of the folders.
        subgroup : ndarray of shape (n, L2), int64
            0/1; the same for the two first levels.
        subgroup_names : list of L2 str
            As ``"animals/birds"``; ``"animals"`` holds what lies directly there or in small
            folders.
        DESCR : str
            Source, licence, counts, and what was dropped and why.

    Raises
    ------
    FileNotFoundError
        If the pictures are not there; the message says how to get them.
    OSError
        If a package can't be unpacked.

    Notes
    -----
    In this order: pictures of ``drop_folders`` go, then those of more than 40 million pixels, then
    copies, which are files with the same compressed pixels. Tags come from the keywords in the
    metadata of the SVG. Those that the upload tool wrote (as ``"hash"`` or ``"0x851ce54"``),
    words for the format (as ``"clipart"``), addresses and the artist's own name go; words of the
    folders' names, in singular and plural, are taken out of tags.

    Examples
    --------
    >>> from skwsdhq.datasets import load_openclipart
    >>> load_openclipart("/nowhere")
    Traceback (most recent call last):
        ...
    FileNotFoundError: there is no openclipart in '/nowhere': ...
    """
    check_whole("min_pictures", min_pictures, 1)
    root = _find_root(Path("/usr/share/openclipart" if data_home is None else data_home))
    dropped: Counter[str] = Counter()  # how many pictures went, by the reason; for DESCR
    files = _list_files(root, drop_folders, dropped)
    pictures = _without_copies(files, root, dropped)
    for picture in pictures:
        _read_metadata(picture)
    if not keep_untagged:
        dropped["untagged"] = sum(not picture.tags for picture in pictures)
        pictures = [picture for picture in pictures if picture.tags]
    images = [str(picture.path) for picture in pictures]
    tags = [sorted(picture.tags) for picture in pictures]
    if return_X_y:
        return images, tags
    # Labels last: a folder may become small when untagged pictures go.
    first, second, n_small = _labels([picture.folders for picture in pictures], min_pictures)
    target, target_names = label_indicator(first)
    subgroup, subgroup_names = label_indicator(second)
    description = _DESCR.format(
        n=len(pictures),
        n_tags=len({tag for row in tags for tag in row}),
        mean=sum(map(len, tags)) / max(len(tags), 1),
        n_target=len(target_names),
        n_subgroup=len(subgroup_names),
        min_pictures=min_pictures,
        n_small=n_small,
        folders=", ".join(drop_folders) or "none",
        n_families=dropped["family"],
        n_huge=dropped["huge"],
        n_copies=dropped["copy"],
        n_without=dropped["no drawing"],
        n_untagged=f"{dropped['untagged']} dropped" if not keep_untagged else "kept",
    )
    return Bunch(
        images=images,
        tags=tags,
        names=[picture.name for picture in pictures],
        target=target,
        target_names=target_names,
        subgroup=subgroup,
        subgroup_names=subgroup_names,
        DESCR=description,
    )


def _find_root(home: Path) -> Path:
    """Return the folder of png and svg, after unpacking the packages where these are there."""
    for root in (home, home / "usr/share/openclipart"):
        if (root / "png").is_dir() and (root / "svg").is_dir():
            return root
    # Of several versions the last, by name.
    packages = [sorted(home.glob(f"openclipart-{kind}_*.deb"))[-1:] for kind in ("png", "svg")]
    if all(packages):
        return unpack_packages([path for found in packages for path in found], home)
    raise FileNotFoundError(
        f"there is no openclipart in {str(home)!r}: neither the folders png and svg nor the files "
        "openclipart-png_*.deb and openclipart-svg_*.deb. Get Debian's packages openclipart-png "
        "and openclipart-svg (`apt install` or `apt download`), and name the folder."
    )


def _list_files(root: Path, drop_folders: Iterable[str], dropped: Counter) -> list[Path]:
    """List relative paths of PNG files, without their suffix, in order."""
    unwanted = tuple(folder.strip("/") + "/" for folder in drop_folders)
    files = []
    for path in sorted((root / "png").rglob("*.png")):
        stem = path.relative_to(root / "png").with_suffix("")
        if len(stem.parts) < 2:  # in no folder: it has no label
            continue
        if stem.as_posix().startswith(unwanted):
            dropped["family"] += 1
        elif not (root / "svg" / stem).with_suffix(".svg").exists():
            dropped["no drawing"] += 1
        else:
            files.append(stem)
    return files


def _without_copies(files: list[Path], root: Path, dropped: Counter) -> list[_Picture]:
    """Keep one picture of each set of copies: of the deepest folder, then the first by name."""
    kept: dict[bytes, _Picture] = {}
    # The deepest folder says most about a picture.
    for stem in sorted(files, key=lambda stem: (-len(stem.parts), stem)):
        path = (root / "png" / stem).with_suffix(".png")
        key, n_pixels = _png_key(path)
        if n_pixels > _MAX_PIXELS:
            dropped["huge"] += 1
            continue
        dropped["copy"] += key in kept
        picture = kept.setdefault(key, _Picture([], path, []))
        picture.folders.append(stem.parts[:-1])
        picture.svgs.append((root / "svg" / stem).with_suffix(".svg"))
    return sorted(kept.values(), key=lambda picture: picture.path)


def _png_key(path: Path) -> tuple[bytes, int]:
    """Return a digest of what a PNG file shows, and the number of its pixels.

    What it shows are its size, palette and compressed pixels.


    Two files of one picture differ in texts and dates; decoding would find no further copies.
    """
    content = path.read_bytes()
    digest = hashlib.blake2b(digest_size=16)
    place, n_pixels = 8, 0
    # A PNG file is 8 bytes, then chunks: length, kind, data, checksum.
    while place + 8 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        kind = content[place + 4 : place + 8]
        data = content[place + 8 : place + 8 + length]
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT"):
            digest.update(data)
        if kind == b"IHDR":
            width, height = struct.unpack(">II", data[:8])
            n_pixels = width * height
        place += 12 + length
    return digest.digest(), n_pixels


def _read_metadata(picture: _Picture) -> None:
    """Fill in name and tags of a picture from the drawings of all its copies."""
    # Tags that say the folder would be labels in disguise.
    own = {word for folders in picture.folders for name in folders[:2] for word in _words(name)}
    own = {form for word in own for form in _forms(word)}
    for svg in picture.svgs:
        title, keywords, artists = _parse(svg)
        # Of several copies the first that has a title gives it.
        picture.name = picture.name or title or picture.path.stem.replace("_", " ")
        for keyword in keywords:
            # Some were escaped twice, some are several tags in one.
            for tag in re.split(r"[,;]", html.unescape(keyword)):
                tag = tidy_tag(tag)
                if tag in _UPLOAD_TAGS or tag in artists or "://" in tag or "@" in tag:
                    continue
                if _ADDRESS.fullmatch(tag):
                    continue
                picture.tags.add(" ".join(word for word in tag.split() if word not in own))
    picture.tags -= {"", *_UPLOAD_TAGS}


def _words(folder: str) -> set[str]:
    """Return the words of a folder's name, alone and as one."""
    parts = [part for part in re.split(r"[\W_]+", folder.lower()) if part]
    return {*parts, "".join(parts)}


def _forms(word: str) -> set[str]:
    """Return a word, and what may be its singular and plural."""
    forms = {word, word + "s", word + "es"}
    if word.endswith("y"):
        forms.add(word[:-1] + "ies")
    if word.endswith("ies"):
        forms.add(word[:-3] + "y")
    if word.endswith("es"):
        forms.add(word[:-2])
    if word.endswith("s"):
        forms.add(word[:-1])
    return forms | ({"person"} if word == "people" else set())


def _parse(svg: Path) -> tuple[str, list[str], set[str]]:
    """Read title, keywords and people's names in the metadata of a drawing."""
    title, keywords, artists = "", [], set()
    try:
        with open(svg, "rb") as file:
            for _, element in ElementTree.iterparse(file):
                if element.tag == _DC + "subject":
                    keywords += [item.text or "" for item in element.iter(_RDF_ITEM)]
                    keywords.append(element.text or "")
                elif element.tag in (_DC + "creator", _DC + "publisher", _DC + "rights"):
                    artists |= {tidy_tag(part) for part in element.itertext()}
                elif element.tag.endswith("}Work"):
                    title = " ".join((element.findtext(_DC + "title") or "").split())
                elif element.tag.endswith("}metadata") and keywords:
                    break  # the drawing itself may be large
    except ElementTree.ParseError:
        pass  # what was read before the fault counts
    return title, keywords, artists


def _labels(
    folders: list[list[tuple[str, ...]]], min_pictures: int
) -> tuple[list[list[str]], list[list[str]], int]:
    """Return labels of each picture at both levels, and how many folders were merged."""
    first = [sorted({parts[0] for parts in row}) for row in folders]
    second = [sorted({"/".join(parts[:2]) for parts in row}) for row in folders]
    # Counted once, before any is merged: what is small does not depend on an order.
    counts = Counter(name for row in second for name in row)
    small = {name for name, count in counts.items() if "/" in name and count < min_pictures}
    second = [
        sorted({name.split("/")[0] if name in small else name for name in row}) for row in second
    ]
    return _frequent(first, min_pictures), _frequent(second, min_pictures), len(small)


def _frequent(labels: list[list[str]], min_pictures: int) -> list[list[str]]:
    """Return labels without those of few pictures."""
    counts = Counter(name for row in labels for name in row)
    return [[name for name in row if counts[name] >= min_pictures] for row in labels]


_DESCR = """\
Open Clip Art Library, release 0.18, as Debian's packages openclipart-png and openclipart-svg
=============================================================================================

Drawings that artists gave to the Open Clip Art Library (openclipart.org), all dedicated to the
public domain (Creative Commons Public Domain Dedication, today CC0). Debian packages the drawings
as SVG and as PNG.

{n} pictures with {n_tags} different tags, {mean:.1f} a picture; {n_target} first-level folders and
{n_subgroup} folders of the two first levels as labels. {n_small} second-level folders of fewer than
{min_pictures} pictures are merged into their first-level folder; labels that still have fewer are
dropped.

Left out:

- {n_families} pictures of generated families and of what nobody sorted ({folders});
- {n_without} pictures without a drawing, whose tags are not known;
- {n_huge} pictures of more than 40 million pixels;
- {n_copies} copies, whose labels and tags the kept picture bears;
- pictures without a tag once tags are cleaned: {n_untagged}.

Tags are the keywords of the drawings without what the upload tool wrote ("hash", "unsorted",
"0x851ce54"), words for the format ("clipart", "svg"), addresses and the artists' own names, and
without words of the names of the folders that are labels.
"""
