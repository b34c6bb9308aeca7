"""Collection: images on disk with their codes, tags and columns, to be searched and added to."""

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from .. import metrics
from ..persistence import LoadError
from ..search import CodeIndex
from ..search.checks import check_k
from ..utils.estimators import unfrozen
from ..utils.files import turn
from ..utils.validation import check_choice, check_number, check_whole
from ._build import Wanted, build, codes_of, load_model, places_by_tags
from ._create import DATABASE, begun, check_free, gather, reading_of, rows_to_insert
from ._export import export
from ._items import (
    Item,
    delete_items,
    insert_items,
    items_of,
    read_ids,
    read_tag_rows,
    rows_of_ids,
    set_tags,
)
from ._results import Results
from ._snapshot import Snapshot, code_shape
from ._source import Arrivals, features_of_rows, kept_features
from ._store import Store
from ._where import allowed_rows
from .duplicates import duplicate_pairs

__all__ = ["Collection"]

_TRIES = 10  # at a model that another process replaces at that moment


class Collection:
    """A directory of images' codes, tags and columns, that grows, and is searched at any time.

    Made by :meth:`create` and opened by :meth:`open`. It holds the model (a
    :class:`~skwsdhq.WSDHQuantizer`), a SQLite database with items, tags, columns and codes, and
    the features of the images, so that no image is read twice. A change is on the disk when its
    method returns, and whole or not at all if the process is killed. Threads and processes may
    read while one of them writes; others that write wait. What is read is how things stood at one
    moment.

    Parameters
    ----------
    path : str or PathLike
        Of the directory.
    read_only : bool, default=False
        Whether methods that change something are refused.
    n_jobs : int, default=None
        Threads that read and resize images.
    device : str or torch.device, default=None
        Where the network runs.
    word_vectors : mapping, KeyedVectors, str or PathLike, default=None
        By which words are placed that no image had as a tag when the model was learned; see
        :meth:`skwsdhq.TagEnhancer.embed`. A collection does not hold them.

    Examples
    --------
    >>> import tempfile
    >>> from skwsdhq import Collection
    >>> from skwsdhq.datasets import make_tagged_images
    >>> made = make_tagged_images(200, random_state=0)
    >>> folder = tempfile.TemporaryDirectory()
    >>> photos = Collection.create(folder.name, made.data, made.tags, n_bits=16, random_state=0)
    >>> results = photos.search(tags=["c2_t0", "-c1_t0"], k=3)
    >>> len(photos), len(results), photos.search(like=results[0].id, k=1, has_tags="c2_t0")[0].tags
    (200, 3, [...])
    >>> photos.close()
    >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        read_only: bool = False,
        n_jobs: int | None = None,
        device: Any = None,
        word_vectors: Any = None,
    ) -> None:
        self.path, self.read_only = Path(path), bool(read_only)
        self._word_vectors = word_vectors
        self._refreshing = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._store = Store(self.path / DATABASE, read_only=self.read_only)
        try:
            with self._store.reading():
                if self._store.meta("state") != "ready":
                    raise LoadError(
                        f"the creation of {str(self.path)!r} has not ended; call "
                        "Collection.create again, with the same images, and it goes on."
                    )
                self._reading = reading_of(self._store, n_jobs, device)
            with self._seen():
                pass
        except BaseException:
            self._store.close()
            raise

    @classmethod
    def create(  # noqa: PLR0913 - options of a call, all but three by name
        cls,
        path: str | os.PathLike,
        images: Any,
        tags: Any = None,
        *,
        n_bits: int = 32,
        ids: Any = None,
        columns: Any = None,
        quantizer: Any = None,
        backbone: str = "auto",
        on_error: str = "raise",
        random_state: Any = None,
        n_jobs: int | None = None,
        device: Any = None,
        word_vectors: Any = None,
        separator: str | None = None,
        verbose: int = 0,
    ) -> Self:
        """Make a collection of images, and learn its model from their tags.

        Features are kept as they are extracted. If the process is killed, the same call goes on
        where it was.

        Parameters
        ----------
        path : str or PathLike
            Directory to make; one that is there should be empty, or a creation that was broken off.
        images : str or PathLike, or images or features
            A folder of pictures, or what :meth:`WSDHQuantizer.fit` takes.
        tags : tags of n rows, or the path of a table, default=None
            In any form that :func:`skwsdhq.tags.check_tags` reads; of a folder, what
            :func:`skwsdhq.datasets.load_tagged_folder` takes.
        n_bits : int, default=32
            Of a code.
        ids : sequence of n str or int, default=None
            Distinct; kept as texts. None takes the paths (in a folder those within it), or numbers.
        columns : mapping of str to n values, or sequence of n mappings, default=None
            Anything else to keep and to search by: texts, numbers, or None. Of a folder the other
            columns of its table are kept as well.
        quantizer : WSDHQuantizer, default=None
            Its clone learns the model, in place of one of ``n_bits``. It gets features.
        backbone : str, default="auto"
            Name of the network that reads the images, see :func:`skwsdhq.backbones.load_backbone`.
        on_error : {"raise", "skip"}, default="raise"
            What to do about images that can't be read.
        random_state : int, RandomState instance or None, default=None
        n_jobs, device, word_vectors : default=None
            As for :class:`Collection`; the model learns with the word vectors as well, unless
            there is a ``quantizer``.
        separator : str, default=None
            Between the tags of a cell in a folder's table; None is a comma.
        verbose : int, default=0
            1 shows progress.

        Returns
        -------
        Collection
            Open.

        Raises
        ------
        FileExistsError
            If there is a collection already, or a directory with other things.
        """
        check_choice("on_error", on_error, ("raise", "skip"))
        # What is wrong with the input is said before a directory is made.
        arrivals = Arrivals(images, tags, ids, columns, separator)
        arrivals.numbered(0)
        if not any(arrivals.tags):
            raise ValueError("a collection learns from tags, and no image has any; give tags.")
        folder = Path(path)
        check_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with (
            # A second process that creates the same waits, and then finds it done.
            turn(folder / "creation.lock"),
            contextlib.closing(Store(folder / DATABASE, create=True)) as store,
        ):
            if store.meta("state") == "ready":
                raise FileExistsError(
                    f"{str(folder)!r} is a collection already; use Collection.open, and add."
                )
            reading = begun(store, arrivals, backbone, n_jobs, device)
            gather(store, arrivals, reading, on_error, verbose)
            build(store, reading, Wanted(quantizer, n_bits, random_state, word_vectors))
        return cls(path, n_jobs=n_jobs, device=device, word_vectors=word_vectors)

    @classmethod
    def open(cls, path: str | os.PathLike, read_only: bool = False, **options: Any) -> Self:
        """Open a collection.

        Parameters
        ----------
        path : str or PathLike
        read_only : bool, default=False
        **options : dict
            ``n_jobs``, ``device`` and ``word_vectors``, as for :class:`Collection`.

        Returns
        -------
        Collection

        Raises
        ------
        FileNotFoundError
            If there is none.
        LoadError
            If the directory holds something else, a damaged collection, one of a newer version or
            one whose creation has not ended; a ``ValueError``.
        """
        return cls(path, read_only=read_only, **options)

    def close(self) -> None:
        """Close the files; methods that are called later raise ValueError."""
        self._store.close()
        self._snapshot = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def __reduce__(self) -> tuple:
        # To be opened again where it is unpickled, in another process perhaps.
        return Collection.open, (os.fspath(self.path), self.read_only)

    def __repr__(self) -> str:
        return f"Collection({os.fspath(self.path)!r}, read_only={self.read_only})"

    def __len__(self) -> int:
        with self._seen() as now:
            return len(now)

    def __contains__(self, id: Any) -> bool:
        with self._store.reading() as connection:
            found = connection.execute("SELECT 1 FROM items WHERE id = ?", (str(id),)).fetchone()
        return found is not None

    def __getitem__(self, id: Any) -> Item:
        """Return the item of an id."""
        with self._store.reading():
            return items_of(self._store, rows_of_ids(self._store, read_ids([id])))[0]

    @property
    def quantizer(self) -> Any:
        """The model of now, a fitted :class:`~skwsdhq.WSDHQuantizer` that takes features."""
        with self._seen() as now:
            return now.quantizer

    def ids(self, where: Any = None, has_tags: Any = None, *, untagged: bool = False) -> list[str]:
        """Return the ids of all items, or of those that pass filters, in the order of their coming.

        Parameters
        ----------
        where, has_tags : default=None
            As for :meth:`search`.
        untagged : bool, default=False
            Only those without any tag.

        Returns
        -------
        list of str
            As texts, whatever they were given as.
        """
        with self._store.reading() as connection:
            allowed = allowed_rows(self._store, where, has_tags)
            found = connection.execute("SELECT row, id, tags FROM items ORDER BY row").fetchall()
        kept = None if allowed is None else set(allowed.tolist())
        return [
            name
            for row, name, tags in found
            if (kept is None or row in kept) and not (untagged and tags != "[]")
        ]

    # --- changes ------------------------------------------------------------------------

    def add(
        self,
        images: Any,
        tags: Any = None,
        ids: Any = None,
        columns: Any = None,
        *,
        exist_ok: bool = False,
        on_error: str = "raise",
        separator: str | None = None,
        verbose: int = 0,
    ) -> list[str]:
        """Add images: each is placed by what it shows, and by its tags where the model can.

        Parameters
        ----------
        images : str or PathLike, or images or features
            As for :meth:`create`.
        tags : tags of n rows, or the path of a table, default=None
        ids : sequence of n str or int, default=None
        columns : mapping of str to n values, or sequence of n mappings, default=None
            These three as well.
        exist_ok : bool, default=False
            Whether to leave out images whose ids are there already, so that the call can be
            repeated after it was broken off; else they are an error, and nothing is added.
        on_error : {"raise", "skip"}, default="raise"
            What to do about images that can't be read.
        separator : str, default=None
            As for :meth:`create`.
        verbose : int, default=0
            1 shows progress.

        Returns
        -------
        list of str
            Ids of what was added.
        """
        check_choice("on_error", on_error, ("raise", "skip"))
        self._check_writable()
        arrivals = Arrivals(images, tags, ids, columns, separator)
        with self._store.reading():
            arrivals.numbered(self._next_row())
            # All at once, before the network runs for hours.
            known = {
                name
                for (name,) in self._store.select(
                    "SELECT id FROM items WHERE id IN ({})", arrivals.ids
                )
            }
        if known and not exist_ok:
            raise ValueError(
                f"the collection has {len(known)} of these items already, as {min(known)!r}; "
                "remove them first, or leave them out by exist_ok=True."
            )
        todo = [i for i, name in enumerate(arrivals.ids) if name not in known]
        added = []
        for some, features in arrivals.read(todo, self._reading, on_error, verbose):
            own = [arrivals.tags[i] for i in some]
            with self._coded(features, own) as (version, codes):
                rows = insert_items(self._store, rows_to_insert(arrivals, some), features)
                self._store.append_codes(version, rows, codes)
            added += [arrivals.ids[i] for i in some]
        return added

    def update_tags(self, ids: Any, tags: Any) -> None:
        """Give items other tags, and place them anew by these where the model can.

        Parameters
        ----------
        ids : sequence of n str or int
        tags : tags of n rows
            In place of the tags there were.
        """
        self._check_writable()
        names = read_ids(ids)
        own = read_tag_rows(tags, len(names))
        if not names:
            return
        with self._store.reading():
            rows = rows_of_ids(self._store, names)
            features = features_of_rows(self._store, rows, self._reading)
        with self._coded(features, own) as (version, codes):
            if not np.array_equal(rows_of_ids(self._store, names), rows):
                raise KeyError("another process has replaced some of these items meanwhile.")
            for row, row_tags in zip(rows.tolist(), own, strict=True):
                set_tags(self._store, row, row_tags)
            order = np.argsort(rows)
            shape = codes.shape[1], codes.dtype
            self._store.change_codes(version, rows[order], codes[order], shape)

    def remove(self, ids: Any) -> None:
        """Take items out.

        Parameters
        ----------
        ids : sequence of str or int
            One that is not there is a KeyError, and nothing is removed.
        """
        self._check_writable()
        names = read_ids(ids)
        with self._seen() as now:
            shape = code_shape(now.quantizer)
        with self._store.writing() as (_, version):
            rows = np.sort(rows_of_ids(self._store, names))
            if len(rows):
                self._store.change_codes(version, rows, None, shape)
                delete_items(self._store, rows)

    def refit(
        self, *, n_bits: int | None = None, quantizer: Any = None, random_state: Any = None
    ) -> Self:
        """Learn a new model from all that has gathered, and code all items by it.

        Until that is done, and if the process is killed, all goes on by the old model.

        Parameters
        ----------
        n_bits : int, default=None
            None keeps as many as there are.
        quantizer : WSDHQuantizer, default=None
            As for :meth:`create`.
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        self
            With the new model.
        """
        self._check_writable()
        if n_bits is None:
            n_bits = int(self._store.meta("n_bits"))
        wanted = Wanted(quantizer, n_bits, random_state, self._word_vectors)
        with turn(self.path / "creation.lock"):
            build(self._store, self._reading, wanted)
        return self

    # --- search -------------------------------------------------------------------------

    def search(
        self,
        image: Any = None,
        tags: Any = None,
        like: Any = None,
        k: int = 20,
        where: Any = None,
        has_tags: Any = None,
        *,
        weight: float = 0.5,
        n_expansion: int = 0,
    ) -> Results:
        """Find the items nearest to a picture, to words, to another item, or to both of two.

        Parameters
        ----------
        image : path, picture or row of features, default=None
        tags : str, sequence of str, or mapping of str to float, default=None
            Words, those that begin with "-" against: ``["beach", "-people"]``; or their weights.
        like : str or int, default=None
            Id of an item, which is left out of what is found.
        k : int, default=20
        where : mapping, default=None
            Conditions on columns, all of which hold: a value, or (operator, value) with
            ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``in`` or ``not in``; None is no value.
        has_tags : str or sequence of str, default=None
            Tags that an item carries itself; those that begin with "-" it does not.
        weight : float, default=0.5
            Of the words beside a picture or an item.
        n_expansion : int, default=0
            The query is joined by the mean of its first so many results, of those that filters
            let pass; see :meth:`WSDHQuantizer.kneighbors`.

        Returns
        -------
        Results
            At most k items, the nearest first.
        """
        k = check_k(k, "k")
        n_expansion = check_whole("n_expansion", n_expansion, 0)
        if image is not None and like is not None:
            raise ValueError("image and like are two pictures to look for; give one of them.")
        if image is None and tags is None and like is None:
            raise ValueError("give what to look for: image, tags, like, or tags with one of these.")
        # Before the transaction: a network may take seconds, and old pages would be kept for it.
        features = None if image is None else self._reading.one(image).astype(np.float32)
        with self._seen() as now:
            left_out = None
            if like is not None:
                row = rows_of_ids(self._store, read_ids([like]))
                # An item is nearest to itself, which tells nobody anything.
                left_out = int(row[0])
                features = features_of_rows(self._store, row, self._reading).astype(np.float32)
            words = None if tags is None else [tags]
            query = now.quantizer.embed_query(features, words, weight)
            allowed = allowed_rows(self._store, where, has_tags)
            query = now.expanded(query, n_expansion, allowed, left_out)
            similarities, rows = now.search(query, k, allowed, left_out)
            return Results(items_of(self._store, rows), similarities)

    def suggest_tags(
        self,
        images: Any = None,
        n_tags: int = 5,
        *,
        ids: Any = None,
        prior_weight: float = 0.15,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Suggest tags for images, or for items, which get none that they have.

        Parameters
        ----------
        images : images or features, default=None
        n_tags : int, default=5
        ids : sequence of n str or int, default=None
            Items, in place of images.
        prior_weight : float, default=0.15
            As for :meth:`WSDHQuantizer.suggest_tags`.

        Returns
        -------
        names, scores : ndarray of shape (n, t)
            As :meth:`WSDHQuantizer.suggest_tags` gives them.
        """
        if (images is None) == (ids is None):
            raise ValueError("give either images or ids to suggest tags for.")
        tags = None
        with self._seen() as now:
            model = now.quantizer
            if ids is None:
                features = self._reading.features(images)[0]
            else:
                rows = rows_of_ids(self._store, read_ids(ids))
                features = features_of_rows(self._store, rows, self._reading)
                if places_by_tags(model):
                    tags = [item.tags for item in items_of(self._store, rows)]
        features = features.astype(np.float32)
        if not len(features):
            return np.zeros((0, n_tags), dtype=object), np.zeros((0, n_tags), dtype=np.float32)
        return model.suggest_tags(features, n_tags, tags=tags, prior_weight=prior_weight)

    def find_duplicates(self, threshold: float = 0.95) -> list[tuple[str, str, float]]:
        """Find pairs of images that are the same or nearly so.

        Parameters
        ----------
        threshold : float, default=0.95
            Smallest cosine of the features of two images, up to 1. Images of equal features are a
            pair each with the first of them. Of more than 10,000 images, each is compared with the
            hundred nearest by code.

        Returns
        -------
        list of (id, id, float)
            The most alike first, with the cosine.
        """
        threshold = check_number("threshold", threshold, minimum=-1)
        if threshold > 1:
            raise ValueError(f"threshold={threshold:g} should be at most 1, as a cosine is.")
        with self._seen() as now:
            rows, features = kept_features(self._store, self._reading)
            pairs, values = duplicate_pairs(
                features, now.quantizer.codebooks_, now.codes_of(rows), threshold
            )
            names = [item.id for item in items_of(self._store, rows[np.unique(pairs)])]
        # Names of the few rows that are in a pair, not of all.
        place = dict(zip(np.unique(pairs).tolist(), names, strict=True))
        return [
            (place[a], place[b], float(value))
            for (a, b), value in zip(pairs.tolist(), values, strict=True)
        ]

    def evaluate(self, labels: Any, *, top_k: int = 5000) -> float:
        """Return mAP@``top_k``, each item a query (by its features) against all others' codes.

        Parameters
        ----------
        labels : mapping of id to label or labels, or sequence in the order of :meth:`ids`
            Items that share one are relevant to each other. Items that a mapping leaves out take
            no part.
        top_k : int, default=5000

        Returns
        -------
        float
            From 0 to 1.
        """
        with self._seen() as now:
            if isinstance(labels, Mapping):
                names = read_ids(labels)
                rows, values = rows_of_ids(self._store, names), list(labels.values())
            else:
                rows, values = now.rows, list(labels)
                if len(values) != len(rows):
                    raise ValueError(f"there are {len(values)} labels for {len(rows)} items.")
            features = features_of_rows(self._store, rows, self._reading)
            queries = now.quantizer.embed_query(features.astype(np.float32))
            index = CodeIndex(now.quantizer.codebooks_, now.codes_of(rows))
        return metrics.mean_average_precision(
            queries, index, values, values, top_k=top_k, exclude_self=True
        )

    def export(self, path: str | os.PathLike, form: str = "csv") -> None:
        """Write what the collection holds to a file.

        Parameters
        ----------
        path : str or PathLike
            A file that is there is replaced when the new one is whole.
        form : {"csv", "jsonl", "faiss", "numpy"}, default="csv"
            Items with their tags and columns, as a table or a JSON object a line; an index of
            faiss's over the codes, whose ids are the numbers ``rows`` of ``"numpy"``: a ``.npz``
            with ``codebooks``, ``codes``, ``rows`` and ``ids``.
        """
        with self._seen() as now:
            export(self._store, now, path, form)

    def info(self) -> dict[str, Any]:
        """Return what there is to know of the collection.

        Returns
        -------
        dict
            Numbers of items, of those without tags, of different tags; columns; bits of a code;
            the network; bytes on the disk; how often it was changed and learned.
        """
        with self._seen() as now:
            count = self._store.connection.execute
            columns = [n for (n,) in count("SELECT DISTINCT name FROM columns ORDER BY name")]
            return {
                "path": os.fspath(self.path),
                "n_items": len(now),
                "n_untagged": count("SELECT count(*) FROM items WHERE tags = '[]'").fetchone()[0],
                "n_tags": count("SELECT count(DISTINCT tag) FROM tags").fetchone()[0],
                "columns": columns,
                "n_bits": int(now.quantizer.n_bits_),
                "backbone": self._reading.backbone,
                "n_features": self._reading.n_features,
                "n_bytes": sum(p.stat().st_size for p in self.path.iterdir() if p.is_file()),
                "n_changes": now.version,
                "n_fits": now.model,
            }

    # --- helpers ------------------------------------------------------------------------

    @contextlib.contextmanager
    def _seen(self) -> Iterator[Snapshot]:
        """Yield the codes of now, within a transaction that sees the items of the same moment."""
        for attempt in range(_TRIES):
            with self._store.reading():
                try:
                    now = self._refreshed()
                except FileNotFoundError as error:
                    # Another process has replaced the model since the transaction began.
                    if attempt == _TRIES - 1:
                        raise LoadError(f"{str(self.path)!r} lacks its model: {error}") from error
                    continue
                yield now
                return

    def _refreshed(self) -> Snapshot:
        known = self._snapshot
        version = self._store.meta("version", 0)
        if known is not None and known.version == version:
            return known
        with self._refreshing:
            known = self._snapshot
            if known is not None and known.version == version:
                return known
            number = int(self._store.meta("model"))
            if known is not None and known.model == number:
                model = known.quantizer
            else:
                model = self._with_word_vectors(load_model(self._store, number))
            now = Snapshot.read(self._store, number, model, known)
            # A thread whose transaction began earlier must not bring back the past.
            if self._snapshot is None or self._snapshot.version < now.version:
                self._snapshot = now
            return now

    def _with_word_vectors(self, model: Any) -> Any:
        enhancer = unfrozen(model.tag_enhancer_)
        if self._word_vectors is not None and hasattr(enhancer, "word_vectors"):
            enhancer.set_params(word_vectors=self._word_vectors)
        return model

    @contextlib.contextmanager
    def _coded(
        self, features: np.ndarray, tags: list[list[str]]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number of a change, within it, and codes by the model of then."""
        while True:
            with self._seen() as now:
                model, number = now.quantizer, now.model
            codes = codes_of(model, features, tags)  # outside, since others wait meanwhile
            with self._store.writing() as (_, version):
                if int(self._store.meta("model")) == number:
                    yield version, codes
                    return

    def _next_row(self) -> int:
        found = self._store.connection.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'items'"
        ).fetchone()
        return 0 if found is None else int(found[0])

    def _check_writable(self) -> None:
        if self.read_only:
            raise PermissionError(f"{str(self.path)!r} was opened with read_only=True.")
