"""Tar files in the layout of WebDataset: what belongs together has one name up to its first dot."""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch, check_random_state

from ..images.reading import picture_suffixes
from ..utils.validation import check_choice, check_whole
from ._batches import TAGS, Chosen, batch_of, grouped, mixed

__all__ = ["stream_webdataset"]

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_HELD = 1000  # pictures that wait for their turn where rows are shuffled


def stream_webdataset(  # noqa: PLR0913 - options by keyword
    shards: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    features: str | None = None,
    images: str | None = None,
    tags: str | None = None,
    batch_size: int = 256,
    separator: str = ",",
    shuffle: bool = False,
    on_error: str = "raise",
    random_state: Any = None,
) -> Iterator[Bunch]:
    """Return batches of pictures, with tags and keys, of tar files in WebDataset's layout.

    Parameters
    ----------
    shards : path, pattern, or list of them
        ``"set-{000..009}.tar"`` is ten files. Each is read from its beginning to its end, so that
        compressed ones and pipes will do.
    features : str, default=None
        In place of pictures: the ending of members that hold a vector, as ``"npy"``.
    images : str, default=None
        The ending of the pictures' members; None is any that Pillow reads.
    tags : str, default=None
        The ending of the members with tags, as ``"txt"``, or ``"json.keywords"`` for that key of a
        JSON object. None is a usual key (tags, tag, keywords, hashtags) of ``json``, else ``txt``.
    batch_size : int, default=256
        The last one may be shorter.
    separator : str, default=","
        Between the tags of a text.
    shuffle : bool, default=False
        Whether shards come in a random order, and samples are drawn from a thousand that wait.
    on_error : {"raise", "skip"}, default="raise"
        What becomes of pictures that can't be read: an error, or left out.
    random_state : int, RandomState instance or None, default=None
        Draws the order.

    Returns
    -------
    iterator of Bunch
        ``data``, a list of b pictures (H, W, 3) of uint8, or features (b, d); ``tags``, a list of
        lists of str, empty where a sample has none; ``ids``, the keys.

    Raises
    ------
    FileNotFoundError
        If a shard is not there, when this is called.
    ValueError
        If a shard is no whole tar file, a sample has no picture or two of one ending, or JSON can't
        be read; when its batch is asked for.

    Examples
    --------
    >>> import io, tarfile, tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from skwsdhq.datasets import stream_webdataset
    >>> picture = io.BytesIO()
    >>> Image.new("RGB", (4, 3)).save(picture, "png")
    >>> path = Path(tempfile.mkdtemp(), "set.tar")
    >>> with tarfile.open(path, "w") as shard:
    ...     for name, content in [("a.png", picture.getvalue()), ("a.txt", b"sea, sun")]:
    ...         member = tarfile.TarInfo(name)
    ...         member.size = len(content)
    ...         shard.addfile(member, io.BytesIO(content))
    >>> batch = next(stream_webdataset(path))
    >>> batch.data[0].shape, batch.tags, batch.ids
    ((3, 4, 3), [['sea', 'sun']], ['a'])
    """
    check_whole("batch_size", batch_size)
    check_choice("on_error", on_error, ("raise", "skip"))
    if features is not None and images is not None:
        raise ValueError("features and images are both given; a batch holds one of them.")
    paths = _expanded(shards)
    random = check_random_state(random_state) if shuffle else None
    samples = _samples(paths, features, images, tags, random)
    if random is not None:
        samples = mixed(samples, _HELD, random)
    where = ("data", None) if features else (None, "data")
    chosen = Chosen(where[0], where[1], "tags", "ids")
    return _batches(samples, chosen, int(batch_size), separator, on_error)


def _batches(
    samples: Iterable[dict[str, Any]], chosen: Chosen, size: int, separator: str, on_error: str
) -> Iterator[Bunch]:
    for group in grouped(samples, size):
        columns = {name: [sample[name] for sample in group] for name in ("data", "tags", "ids")}
        batch = batch_of(
            columns,
            chosen,
            "a shard",
            columns["ids"],
            separator=separator,
            on_error=on_error,
        )
        if batch.ids:
            yield batch


def _expanded(shards: Any) -> list[str]:
    """Return paths of shards, with numbers in braces counted out."""
    given = [shards] if isinstance(shards, (str, os.PathLike)) else list(shards)
    paths: list[str] = []
    for path in (str(os.fspath(path)) for path in given):
        forms = [path]
        while found := _BRACES.search(forms[0]):
            first, last = found.groups()
            numbers = [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
            forms = [_BRACES.sub(number, form, count=1) for form in forms for number in numbers]
            if not forms:
                raise ValueError(f"{path!r} names no shard: {first} is more than {last}.")
        paths += forms
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        raise FileNotFoundError(f"{missing[0]!r} is not there, of {len(paths)} shards.")
    if not paths:
        raise ValueError("shards is empty; name at least one tar file.")
    return paths


def _samples(
    paths: list[str], features: str | None, images: str | None, tags: str | None, random: Any
) -> Iterator[dict[str, Any]]:
    """Yield what belongs together: data, tags and key."""
    wanted = features or images
    endings = {wanted} if wanted else {suffix.lstrip(".") for suffix in picture_suffixes()}
    for i in range(len(paths)) if random is None else random.permutation(len(paths)):
        for key, members in _members(paths[i]):
            place = f"{paths[i]!r}, {key!r},"
            data = next((members[ending] for ending in members if ending in endings), None)
            if data is None:
                raise ValueError(f"{place} has no {wanted or 'picture'}; it has {sorted(members)}.")
            yield {
                "data": _vector(data, place) if features else data,
                "tags": _tags_of(members, tags, place),
                "ids": key,
            }


def _members(path: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and members, by their endings, of each sample of a shard."""
    key: str | None = None
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|*") as shard:
            for member in shard:
                folder, _, name = member.name.rpartition("/")
                if not member.isfile() or name.startswith(".") or folder.startswith("__"):
                    continue
                stem, _, ending = name.partition(".")
                own, ending = f"{folder}/{stem}" if folder else stem, ending.lower()
                if own != key:
                    if key is not None:
                        yield key, found
                    key, found = own, {}
                if ending in found:
                    raise ValueError(f"{path!r}, {own!r}, has two members {ending!r}.")
                content = shard.extractfile(member)
                assert content is not None
                found[ending] = content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path!r} is no whole tar file: {error}") from error
    if key is not None:
        yield key, found


def _vector(content: bytes, place: str) -> np.ndarray:
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{place} has no array that numpy reads: {error}") from error


def _tags_of(members: dict[str, bytes], tags: str | None, place: str) -> Any:
    """Return what a sample says of its tags; None is nothing."""
    ending, _, key = ("json", "", "") if tags is None else tags.partition(".")
    if tags is not None and tags in members:  # an ending with a dot of its own
        ending, key = tags, ""
    if ending not in members:
        return _text(members["txt"], place) if tags is None and "txt" in members else None
    text = _text(members[ending], place)
    if not ending.endswith("json"):
        return text
    try:
        told = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place} has no readable JSON: {error}") from error
    if key:
        return told.get(key) if isinstance(told, dict) else None
    if isinstance(told, dict):
        by_lower = {name.lower(): value for name, value in told.items()}
        found = next((by_lower[name] for name in TAGS if name in by_lower), None)
        if found is None and tags is None and "txt" in members:
            return _text(members["txt"], place)
        return found
    return told


def _text(content: bytes, place: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeError as error:
        raise ValueError(f"{place} has a text that is not in UTF-8: {error}") from error
