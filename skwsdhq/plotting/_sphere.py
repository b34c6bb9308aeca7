"""Concepts and pictures of one sphere, in two dimensions."""

from inspect import signature
from typing import Any, Self

import numpy as np

from ..utils.estimators import last_step
from ..utils.validation import check_choice
from ._drawing import BLUE, GREY, ORANGE, new_axes, shortened

__all__ = ["SphereDisplay"]

_METHODS = ("pca", "tsne", "mds")


class SphereDisplay:
    """Draw where pictures and concepts lie beside each other, in two dimensions.

    Points are embeddings of pictures, crosses are concepts, with their names. Two of some hundred
    dimensions are left: what lies together belongs together as a rule, and distances are those of
    the projection.

    Parameters
    ----------
    points : array-like of shape (n, 2)
        Pictures.
    concepts : array-like of shape (c, 2)
    names : sequence of c str
    kinds : sequence of n str, default=None
        What pictures are, by colours and marks; None is none. Of more than six, those of fewer
        pictures are "other".
    axis_name : str, default=""
        What the two dimensions are.

    Attributes
    ----------
    points_ : list of matplotlib collections
        A kind each.
    texts_ : list of matplotlib annotations
    ax_ : matplotlib axes
    figure_ : matplotlib figure

    Examples
    --------
    >>> from skwsdhq.plotting import SphereDisplay
    >>> display = SphereDisplay([[0, 1], [1, 0]], [[0.1, 0.9]], ["dog"])
    >>> display.points.shape, display.names
    ((2, 2), ['dog'])
    """

    points_: list[Any]
    texts_: list[Any]
    ax_: Any
    figure_: Any

    def __init__(
        self, points: Any, concepts: Any, names: Any, *, kinds: Any = None, axis_name: str = ""
    ) -> None:
        self.points, self.concepts = _plane("points", points), _plane("concepts", concepts)
        self.names = [str(name) for name in names]
        if len(self.names) != len(self.concepts):
            raise ValueError(
                f"there are {len(self.names)} names of {len(self.concepts)} concepts; should be "
                "equal."
            )
        self.kinds = None if kinds is None else [_kind(kind) for kind in kinds]
        if self.kinds is not None and len(self.kinds) != len(self.points):
            raise ValueError(
                f"there are {len(self.kinds)} kinds of {len(self.points)} points; should be equal."
            )
        self.axis_name = axis_name

    @classmethod
    def from_predictions(
        cls,
        embeddings: Any,
        concept_vectors: Any,
        names: Any,
        *,
        kinds: Any = None,
        method: str = "pca",
        random_state: Any = None,
        ax: Any = None,
    ) -> Self:
        """Make a display of embeddings and concept vectors, projected together.

        Parameters
        ----------
        embeddings : array-like of shape (n, D)
        concept_vectors : array-like of shape (c, D)
        names : sequence of c str
        kinds : sequence of n str, default=None
        method : {"pca", "tsne", "mds"} or a scikit-learn transformer, default="pca"
            What makes two dimensions of D. PCA and t-SNE take thousands of rows, MDS some hundred.
        random_state : int, RandomState instance or None, default=None
            Of the method, where it is a name.
        ax : matplotlib axes, default=None
            To draw on; None makes a figure.

        Returns
        -------
        SphereDisplay
        """
        rows, vectors = np.asarray(embeddings), np.asarray(concept_vectors)
        if rows.ndim != 2 or vectors.ndim != 2 or rows.shape[1] != vectors.shape[1]:
            raise ValueError(
                f"embeddings (n, D) and concept_vectors (c, D) should have one D; got "
                f"{rows.shape} and {vectors.shape}."
            )
        both = np.concatenate([rows, vectors]).astype(np.float64)
        if len(both) < 3:
            raise ValueError(f"{len(both)} points are too few to project; give 3 or more.")
        found, told = _projected(both, method, random_state)
        display = cls(found[: len(rows)], found[len(rows) :], names, kinds=kinds, axis_name=told)
        return display.plot(ax)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        concepts: Any = None,
        n_concepts: int = 15,
        kinds: Any = None,
        method: str = "pca",
        random_state: Any = None,
        ax: Any = None,
    ) -> Self:
        """Make a display of images and of concepts of a fitted estimator.

        Parameters
        ----------
        estimator : WSDHQuantizer, HypersphereEmbedder, or a Pipeline that ends in one
            Fitted.
        X : images or features
        concepts : sequence of str, default=None
            Tags whose concepts are drawn; None takes the ``n_concepts`` that most images carry.
        n_concepts : int, default=15
        kinds : sequence of n str, default=None
        method : {"pca", "tsne", "mds"} or a scikit-learn transformer, default="pca"
        random_state : int, RandomState instance or None, default=None
        ax : matplotlib axes, default=None
            These four as for `from_predictions`.

        Returns
        -------
        SphereDisplay
        """
        enhancer = getattr(last_step(estimator), "tag_enhancer_", None)
        enhancer = getattr(enhancer, "estimator", enhancer)
        if enhancer is None or not hasattr(enhancer, "concept_vectors_"):
            raise TypeError(
                f"{type(last_step(estimator)).__name__} has no concepts; give a fitted "
                "WSDHQuantizer or HypersphereEmbedder, or use from_predictions."
            )
        if concepts is None:
            counts = np.bincount(enhancer.labels_, enhancer.tag_counts_)
            chosen = np.argsort(-counts, kind="stable")[:n_concepts]
            names, vectors = enhancer.concept_names_[chosen], enhancer.concept_vectors_[chosen]
        else:
            names = [concepts] if isinstance(concepts, str) else list(concepts)
            vectors = enhancer.embed([[name] for name in names])
        return cls.from_predictions(
            estimator.transform(X), vectors, names,
            kinds=kinds, method=method, random_state=random_state, ax=ax,
        )  # fmt: skip

    def plot(self, ax: Any = None) -> Self:
        """Draw points and names.

        Parameters
        ----------
        ax : matplotlib axes, default=None
            None makes a figure.

        Returns
        -------
        self
            With ``points_``, ``texts_``, ``ax_`` and ``figure_``.
        """
        is_own = ax is None
        ax = new_axes(ax)
        if is_own:
            ax.figure.set_layout_engine("constrained")
        self.points_ = []
        for rows, label, style in self._parts():
            self.points_.append(
                ax.scatter(
                    *self.points[rows].T, s=14, alpha=0.6, linewidths=0, label=label, **style
                )
            )
        ax.scatter(*self.concepts.T, marker="P", s=60, color="black", edgecolors="white", zorder=4)
        ax.margins(0.12)  # room for names at the edges
        self.texts_ = _placed_names(ax, self.concepts, [shortened(name) for name in self.names])
        ax.set(xticks=[], yticks=[], xlabel=self.axis_name)
        if self.kinds is not None:
            outside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0}
            ax.legend(fontsize=8, frameon=False, **outside)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _parts(self) -> list[tuple[np.ndarray, str | None, dict[str, Any]]]:
        """Return rows, label and style of each kind, those of most pictures first."""
        if self.kinds is None:
            return [(np.arange(len(self.points)), None, {"color": BLUE, "marker": "o"})]
        kinds = np.array(self.kinds, dtype=object)
        named, counts = np.unique(kinds.astype(str), return_counts=True)
        named = named[np.argsort(-counts, kind="stable")]
        shown = named if len(named) <= len(_STYLES) else named[: len(_STYLES) - 1]
        parts: list[tuple[np.ndarray, str | None, dict[str, Any]]] = [
            (np.flatnonzero(kinds == kind), shortened(kind), {"color": colour, "marker": marker})
            for kind, (colour, marker) in zip(shown, _STYLES, strict=False)
        ]
        rest = np.flatnonzero(~np.isin(kinds.astype(str), shown))
        if len(rest):
            parts.insert(0, (rest, "other", {"color": GREY, "marker": "."}))
        return parts


_STYLES = tuple(
    zip((BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00"), "os^Dv<", strict=True)
)


def _kind(kind: Any) -> str:
    """Return a kind as it is shown; several labels at once are none."""
    if np.ndim(kind) or isinstance(kind, set | frozenset | dict):
        raise TypeError(f"kinds should be one text or number for each point; got {kind!r}.")
    return str(kind)


def _plane(name: str, values: Any) -> np.ndarray:
    """Return finite points (p, 2)."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] != 2 or not np.isfinite(found).all():
        raise ValueError(f"{name} should be finite, of shape (n, 2); got shape {found.shape}.")
    return found


def _projected(rows: np.ndarray, method: Any, random_state: Any) -> tuple[np.ndarray, str]:
    """Return rows in two dimensions, and what these are."""
    if not isinstance(method, str):
        return method.fit_transform(rows), type(method).__name__
    from sklearn.decomposition import PCA
    from sklearn.manifold import MDS, TSNE

    check_choice("method", method, _METHODS)
    if method == "pca":
        pca = PCA(2, random_state=random_state)
        found = pca.fit_transform(rows)
        return found, f"PCA, {pca.explained_variance_ratio_.sum():.0%} of the variance"
    if method == "tsne":
        perplexity = min(30.0, (len(rows) - 1) / 3)
        tsne = TSNE(
            2, metric="cosine", init="random", perplexity=perplexity, random_state=random_state
        )
        return tsne.fit_transform(rows), "t-SNE of cosine distances"
    # Newer releases of scikit-learn want to be told how it begins; older ones know one way.
    begun = {"init": "random"} if "init" in signature(MDS).parameters else {}
    mds = MDS(2, n_init=1, random_state=random_state, **begun)
    return mds.fit_transform(rows), "MDS"


def _placed_names(ax: Any, places: np.ndarray, names: list[str]) -> list[Any]:
    """Write names beside their points, each where it hides no other, if there is such a place."""
    from matplotlib.transforms import Bbox

    figure = ax.figure
    figure.draw_without_rendering()  # else nobody knows how wide a text is
    taken: list[Bbox] = []
    texts = []
    room = ax.get_window_extent()
    for place, name in zip(places, names, strict=True):
        best: Any = None
        least = np.inf
        for dx, dy, side, above in _AROUND:
            text = ax.annotate(
                name, place, (dx, dy), textcoords="offset points", ha=side, va=above, fontsize=8,
                parse_math=False, zorder=5,
                bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8},
            )  # fmt: skip
            box = text.get_window_extent()
            hidden = sum(_overlap(box, other) for other in taken)
            inside = _overlap(box, room)
            cost = hidden + (box.width * box.height - inside)
            if cost < least - 1e-6:
                if best is not None:
                    best.remove()
                best, least = text, cost
            else:
                text.remove()
        taken.append(best.get_window_extent())
        texts.append(best)
    return texts


_AROUND = [
    (distance * x, distance * y, side, above)
    for distance in (6, 16, 28)
    for x, y, side, above in (
        (1, 0, "left", "center"), (-1, 0, "right", "center"),
        (0, 1, "center", "bottom"), (0, -1, "center", "top"),
        (0.7, 0.7, "left", "bottom"), (-0.7, -0.7, "right", "top"),
        (0.7, -0.7, "left", "top"), (-0.7, 0.7, "right", "bottom"),
    )
]  # fmt: skip


def _overlap(one: Any, other: Any) -> float:
    """Return the area that two boxes share."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0) * max(height, 0)
