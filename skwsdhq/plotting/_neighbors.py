"""A query and its nearest, in pictures: with tags, similarities, hits and misses."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from ..images.reading import thumbnail
from ..metrics.relevance import found_relevant
from ..utils.estimators import last_step

__all__ = ["NeighborsDisplay", "plot_neighbors"]

# Colours that those who see few can tell apart (Okabe and Ito); misses are dashed as well.
_HITS = ("#0072B2", "#56B4E9", "#009E73", "#CC79A7")
_MISS, _UNKNOWN = "#D55E00", "#999999"
_WIDTH = 16  # letters of a line under a picture
_MOST_TAGS = 4  # under a picture; of more, their number is told
_MOST_COLUMNS = 10  # pictures beside a query; more go on in the next line
_SIDE, _LINE = 1.3, 0.14  # inches of a picture and of a line of text
_PIXELS = 224  # a picture is drawn no larger


class NeighborsDisplay:
    """Draw queries, each beside the pictures that were found for it, the nearest first.

    Each picture has its similarity above it and its tags below it, on as many lines as they need.
    Its frame tells a hit from a miss, by colour and by dashes.

    Parameters
    ----------
    query_images : sequence of q pictures
        Paths, arrays or Pillow images; None where a query is words alone.
    images : sequence of q sequences of pictures
        What was found for each; None where there is no picture to be shown.
    similarities : sequence of q sequences of float
    query_names, names : sequence of q texts or of q sequences of texts, default=None
        Words or tags of the queries; tags of what was found, for each query a sequence of these.
    kinds : sequence of q sequences, default=None
        For each picture a name of ``levels``, or True and False for the first and the last of
        them; None where nobody knows.
    levels : sequence of str, default=("hit", "miss")
        Kinds in the order of the legend, misses last.

    Attributes
    ----------
    axes_ : ndarray of matplotlib axes, of shape (lines, columns)
        Queries in the first column; None where nothing is.
    legend_ : matplotlib legend or None
    figure_ : matplotlib figure

    See Also
    --------
    plot_neighbors : Draw what a collection or a quantizer finds.

    Examples
    --------
    >>> import numpy as np
    >>> from skwsdhq.plotting import NeighborsDisplay
    >>> red, blue = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    >>> red[..., 0] = blue[..., 2] = 200
    >>> display = NeighborsDisplay(
    ...     [red], [[red, blue]], [[0.9, 0.3]], query_names=["red"], kinds=[[True, False]]
    ... )
    >>> display.kinds
    [['hit', 'miss']]
    """

    axes_: Any
    legend_: Any
    figure_: Any

    def __init__(
        self,
        query_images: Any,
        images: Any,
        similarities: Any,
        *,
        query_names: Any = None,
        names: Any = None,
        kinds: Any = None,
        levels: Sequence[str] = ("hit", "miss"),
    ) -> None:
        self.query_images = list(query_images)
        self.images = [list(row) for row in images]
        self.similarities = [np.asarray(row, dtype=np.float64) for row in similarities]
        n = len(self.query_images)
        if not n:
            raise ValueError("there are no queries to draw.")
        sizes = [len(row) for row in self.images]
        self.levels = tuple(levels)
        if isinstance(levels, str) or len(self.levels) < 2:
            raise ValueError(f"levels={levels!r} should name two kinds or more, misses last.")
        self.query_names = [None] * n if query_names is None else list(query_names)
        self.names, kinds = _rows_of(names, sizes), _rows_of(kinds, sizes)
        for name, rows in (
            ("similarities", self.similarities), ("names", self.names), ("kinds", kinds)
        ):  # fmt: skip
            if [len(row) for row in rows] != sizes:
                raise ValueError(
                    f"{name} should be as many as the pictures of each query, {sizes}."
                )
        if len(sizes) != n or len(self.query_names) != n:
            raise ValueError(
                f"there are {n} queries, {len(sizes)} rows of what was found and "
                f"{len(self.query_names)} query_names; should be equal."
            )
        self.kinds = [[self._kind(kind) for kind in row] for row in kinds]

    def _kind(self, kind: Any) -> str | None:
        if isinstance(kind, bool | np.bool_):
            return self.levels[0 if kind else -1]
        if kind is not None and kind not in self.levels:
            raise ValueError(f"the kind {kind!r} should be one of {', '.join(self.levels)}.")
        return kind

    @classmethod
    def from_predictions(  # noqa: PLR0913 - pictures, labels and names of both sides
        cls,
        query_images: Any,
        images: Any,
        similarities: Any,
        indices: Any,
        *,
        query_labels: Any = None,
        database_labels: Any = None,
        query_names: Any = None,
        names: Any = None,
        figure: Any = None,
    ) -> Self:
        """Make a display of a ranking, as ``kneighbors`` and ``CodeIndex.search`` give it.

        Parameters
        ----------
        query_images : sequence of q pictures
        images : sequence of n pictures
            Of the database.
        similarities, indices : ndarray of shape (q, k)
            Of the rows that were found.
        query_labels, database_labels : labels of q and of n rows, or mappings, default=None
            Rows that share a label with the query are hits. Mappings of a name to labels tell
            several kinds of hits, the closest first: ``{"same breed": ..., "same animal": ...}``.
        query_names, names : sequence of q and of n texts or sequences of texts, default=None
            Words or tags.
        figure : matplotlib figure, default=None
            To draw on; None makes one.

        Returns
        -------
        NeighborsDisplay
        """
        if (query_labels is None) != (database_labels is None):
            raise ValueError("give labels of both, queries and database, or of none.")
        rows = np.asarray(indices)
        kinds, levels = None, ("hit", "miss")
        if query_labels is not None:
            kinds, levels = _kinds_by_labels(query_labels, database_labels, rows)
        display = cls(
            query_images,
            [[images[i] for i in row] for row in rows],
            similarities,
            query_names=query_names,
            names=None if names is None else [[names[i] for i in row] for row in rows],
            kinds=kinds,
            levels=levels,
        )
        return display.plot(figure)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        images: Any,
        *,
        words: Any = None,
        n_neighbors: int = 10,
        query_images: Any = None,
        **options: Any,
    ) -> Self:
        """Make a display of the fitted rows of a quantizer that are nearest to pictures or words.

        Parameters
        ----------
        estimator : WSDHQuantizer, or a Pipeline that ends in one
            Fitted.
        X : images or features of q queries
            None for words alone.
        images : sequence of n pictures
            Of the fitted rows.
        words : words of q queries, default=None
            As for :meth:`WSDHQuantizer.kneighbors_of_tags`, alone or beside X.
        n_neighbors : int, default=10
        query_images : sequence of q pictures, default=None
            Where X holds features.
        **options
            As for `from_predictions`.

        Returns
        -------
        NeighborsDisplay
        """
        last = last_step(estimator)
        if not hasattr(last, "kneighbors"):
            raise TypeError(
                f"{type(last).__name__} has no kneighbors; give a fitted WSDHQuantizer, or use "
                "from_predictions."
            )
        rows = X if last is estimator or X is None else estimator[:-1].transform(X)
        if words is None:
            similarities, found = last.kneighbors(rows, n_neighbors)
        else:
            words = [words] if isinstance(words, str | Mapping) else list(words)
            similarities, found = last.kneighbors_of_tags(words, n_neighbors, X=rows)
            told = [_of_words(query) for query in words]
            options = {"query_names": told * (len(found) // len(told)), **options}
        if query_images is None:
            is_picture = X is not None and not (hasattr(X, "ndim") and X.ndim == 2)
            query_images = list(X) if is_picture else [None] * len(found)
        return cls.from_predictions(query_images, images, similarities, found, **options)

    @classmethod
    def from_collection(
        cls,
        collection: Any,
        image: Any = None,
        words: Any = None,
        like: Any = None,
        *,
        n_neighbors: int = 10,
        labels: Any = None,
        results: Any = None,
        figure: Any = None,
        **options: Any,
    ) -> Self:
        """Make a display of what a collection finds.

        What carries the words, all that are wanted and none that is not, is a hit; beside an item
        (``like``) what shares a tag with it.

        Parameters
        ----------
        collection : Collection
        image : path or picture, default=None
        words : str, sequence of str or mapping, default=None
            The ``tags`` of :meth:`Collection.search`.
        like : str or int, default=None
            Id of an item.
        n_neighbors : int, default=10
        labels : mapping of id to label or labels, default=None
            Judge in place of tags, beside ``like``.
        results : Results, default=None
            Of that search, where it has been made already.
        figure : matplotlib figure, default=None
            To draw on; None makes one.
        **options
            As for :meth:`Collection.search`.

        Returns
        -------
        NeighborsDisplay
        """
        found = results
        if found is None:
            found = collection.search(image, words, like, n_neighbors, **options)
        query, name = image, None if words is None else _of_words(words)
        own: Any = None
        if like is not None:
            item = collection[like]
            own, query = item.tags, item.path
            if labels is not None:
                own = labels.get(item.id)
            name = name or item.tags or item.id
        kinds = [_kind_of(row, words, own, labels) for row in found]
        is_shown = getattr(query, "ndim", 3) != 1  # else features, of which there is no picture
        display = cls(
            [query if is_shown else None],
            [found.paths],
            [found.similarities],
            query_names=[name],
            names=[[row.tags or [row.id] for row in found]],
            kinds=[kinds],
        )
        return display.plot(figure)

    def plot(self, figure: Any = None) -> Self:
        """Draw the pictures.

        Parameters
        ----------
        figure : matplotlib figure or subfigure, default=None
            To draw on, whose size stays; None makes one that is large enough.

        Returns
        -------
        self
            With ``axes_``, ``legend_`` and ``figure_``.
        """
        columns = min(max(max(map(len, self.images)), 1), _MOST_COLUMNS)
        places = [
            (q, line)
            for q, row in enumerate(self.images)
            for line in range(max(1, -(-len(row) // columns)))
        ]
        texts = [self._texts(q, line, columns) for q, line in places]
        heights = [_SIDE + _LINE * (2 + max(t.count("\n") + 1 for t in row)) for row in texts]
        self.figure_ = _figure(figure, ((columns + 1) * _SIDE + 0.4, sum(heights) + 0.5))
        grid = self.figure_.add_gridspec(len(places), columns + 1, height_ratios=heights)
        self.axes_ = np.full((len(places), columns + 1), None, dtype=object)
        for i, (q, line) in enumerate(places):
            if line == 0:
                title = "query" if self.images[q] else "query: nothing found"
                axis = self._cell(grid, (i, 0), self.query_images[q], texts[i][0], title)
                axis.spines[:].set(edgecolor="black", linewidth=1)
            first = line * columns
            for j, image in enumerate(self.images[q][first : first + columns]):
                title = f"{self.similarities[q][first + j]:.2f}"
                axis = self._cell(grid, (i, j + 1), image, texts[i][j + 1], title)
                axis.spines[:].set(**self._frame(self.kinds[q][first + j]))
        self.legend_ = self._legend()
        return self

    def _cell(self, grid: Any, place: tuple[int, int], image: Any, text: str, title: str) -> Any:
        """Draw one picture with what stands above and below it."""
        axis = self.figure_.add_subplot(grid[place])
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=8, pad=3)
        # A "$" in a tag begins no formula.
        if image is None:
            axis.set(aspect="equal", xlim=(0, 1), ylim=(0, 1))
            shown = text if place[1] == 0 else "no picture"
            axis.text(0.5, 0.5, shown, ha="center", va="center", fontsize=8, parse_math=False)
            text = text if place[1] else ""
        else:
            axis.imshow(_small(image))
            axis.set(xticks=[], yticks=[])
        axis.set_xlabel(text, fontsize=7, labelpad=3, parse_math=False)
        self.axes_[place] = axis
        return axis

    def _frame(self, kind: str | None) -> dict[str, Any]:
        """Return how the frame of a kind looks."""
        if kind is None:
            return {"edgecolor": _UNKNOWN, "linewidth": 1}
        if kind == self.levels[-1]:
            return {"edgecolor": _MISS, "linewidth": 2.5, "linestyle": (0, (3, 1.5))}
        return {"edgecolor": _HITS[self.levels.index(kind) % len(_HITS)], "linewidth": 2.5}

    def _texts(self, q: int, line: int, columns: int) -> list[str]:
        """Return what stands below the pictures of a line, the query's first."""
        own = self.names[q][line * columns : (line + 1) * columns]
        return [_wrapped(self.query_names[q] if line == 0 else None), *map(_wrapped, own)]

    def _legend(self) -> Any:
        """Draw a legend of the kinds that there are."""
        from matplotlib.lines import Line2D

        told = [kind for row in self.kinds for kind in row]
        if all(kind is None for kind in told):
            return None
        named = [*self.levels, *([None] if None in told else [])]
        lines = []
        for kind in named:
            frame = self._frame(kind)
            frame["color"] = frame.pop("edgecolor")
            lines.append(Line2D([], [], label="unknown" if kind is None else kind, **frame))
        return self.figure_.legend(
            handles=lines, loc="outside lower center", ncols=len(lines), fontsize=8, frameon=False
        )


def plot_neighbors(source: Any, query: Any = None, *args: Any, **options: Any) -> NeighborsDisplay:
    """Draw a query and what is nearest to it, by a collection or by a fitted quantizer.

    Parameters
    ----------
    source : Collection, WSDHQuantizer, or a Pipeline that ends in one
        What is asked.
    query : picture, images or features, default=None
        What is looked for: one picture in a collection; several queries of a quantizer. None looks
        for ``words`` alone, or in a collection for what is ``like`` an item.
    *args, **options
        As for :meth:`NeighborsDisplay.from_collection` and
        :meth:`NeighborsDisplay.from_estimator`: ``words=``, ``n_neighbors=`` and others, and for a
        quantizer the pictures of the fitted rows.

    Returns
    -------
    NeighborsDisplay
        Drawn.

    See Also
    --------
    NeighborsDisplay : What is drawn, and how.

    Examples
    --------
    >>> from skwsdhq import WSDHQuantizer
    >>> from skwsdhq.datasets import load_emoji, make_tagged_images
    >>> from skwsdhq.plotting import plot_neighbors
    >>> made, pictures = make_tagged_images(60, random_state=0), load_emoji().images[:60]
    >>> quantizer = WSDHQuantizer(n_bits=8, n_codewords=16, random_state=0)
    >>> quantizer = quantizer.fit(made.data, made.tags)
    >>> display = plot_neighbors(
    ...     quantizer, made.data[:2], pictures, query_images=pictures[:2], n_neighbors=3
    ... )
    >>> display.axes_.shape
    (2, 4)
    """
    if hasattr(source, "search") and hasattr(source, "ids"):
        return NeighborsDisplay.from_collection(source, query, *args, **options)
    return NeighborsDisplay.from_estimator(source, query, *args, **options)


def _kinds_by_labels(query_labels: Any, database_labels: Any, rows: np.ndarray) -> tuple:
    """Return kinds (q lists of k), and their levels."""
    if not isinstance(query_labels, Mapping):
        return found_relevant(query_labels, database_labels, rows).tolist(), ("hit", "miss")
    if set(query_labels) != set(database_labels):
        raise ValueError("query_labels and database_labels should have the same names.")
    levels = (*query_labels, "other")
    kinds = np.full(rows.shape, "other", dtype=object)
    for name in reversed(list(query_labels)):  # the closest is written last
        kinds[found_relevant(query_labels[name], database_labels[name], rows)] = name
    return kinds.tolist(), levels


def _kind_of(found: Any, words: Any, own: Any, labels: Any) -> bool | None:
    """Tell whether an item that a collection found is a hit, by tags or labels."""
    if own is not None:
        theirs = found.tags if labels is None else labels.get(found.id)
        is_known = theirs is not None and bool(_listed(own))
        return bool(set(_listed(own)) & set(_listed(theirs))) if is_known else None
    if words is None:
        return None
    carried = {tag.casefold() for tag in found.tags}
    return all((word in carried) == is_wanted for word, is_wanted in _wanted(words))


def _wanted(words: Any) -> list[tuple[str, bool]]:
    """Return the words of a query, and whether they are looked for or unwanted."""
    given = words if isinstance(words, Mapping) else _signs(words)
    return [(word.strip().casefold(), weight > 0) for word, weight in given.items() if weight]


def _rows_of(values: Any, sizes: list[int]) -> list[list]:
    """Return what is given for each picture as lists; None for all of them where nothing is."""
    if values is None:
        return [[None] * size for size in sizes]
    return [list(row) for row in values]


def _listed(labels: Any) -> list:
    """Return the labels of one item as a list."""
    if labels is None:
        return []
    is_one = isinstance(labels, str) or not isinstance(labels, Iterable)
    return [labels] if is_one else list(labels)


def _signs(words: Any) -> dict[str, float]:
    """Return words without the sign that they begin with, and 1 or -1."""
    words = [words] if isinstance(words, str) else list(words)
    return {word.strip().lstrip("-"): -1.0 if word.strip()[:1] == "-" else 1.0 for word in words}


def _of_words(query: Any) -> list[str]:
    """Return the words of a query as they are shown."""
    if isinstance(query, Mapping):
        return [word if weight > 0 else f"-{word}" for word, weight in query.items()]
    return [query] if isinstance(query, str) else list(query)


def _wrapped(name: Any) -> str:
    """Return a text, or some of several, on lines that are as wide as a picture."""
    if name is None:
        return ""
    tags = [name] if isinstance(name, str) else [str(tag) for tag in name]
    text = ", ".join(tags[:_MOST_TAGS])
    if len(tags) > _MOST_TAGS:
        text += f", and {len(tags) - _MOST_TAGS} more"
    return textwrap.fill(text, _WIDTH)


def _small(image: Any) -> Any:
    """Return a picture to draw, upright and in RGB; one that can't be read is an empty one."""
    try:
        return np.asarray(thumbnail(image, _PIXELS))
    except OSError:  # moved away, perhaps, since it came into a collection
        return np.full((8, 8, 3), 235, dtype=np.uint8)


def _figure(figure: Any, size: tuple[float, float]) -> Any:
    """Return a figure to draw on."""
    if figure is not None:
        return figure
    try:  # heavy, and whoever draws nothing need not have it
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib, which is not installed; pip install matplotlib."
        ) from error
    return plt.figure(figsize=size, layout="constrained")
