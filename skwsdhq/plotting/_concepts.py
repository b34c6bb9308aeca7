"""Tags, which of them are near each other, and which were merged."""

import textwrap
from typing import Any, Self

from ..utils.estimators import last_step
from ._drawing import BLUE, GREY, ORANGE, new_axes, shortened

__all__ = ["ConceptGraphDisplay"]


class ConceptGraphDisplay:
    """Draw concepts of several tags: what was merged, and how near each tag is to its concept.

    Each line is a concept, with the number of uses of its tags. Its members stand beside each
    other, the most frequent first; edges join those that are neighbours in the correlation graph.
    Where nothing was merged, there is nothing to draw, and the axes say so.

    Parameters
    ----------
    members : sequence of lists of str
        Tags of each concept, the most frequent first.
    edges : sequence of lists of (int, int), default=None
        Which members of each concept are neighbours, by their places; None is all.
    n_samples : sequence of int, default=None
        Uses of the tags of each concept, all members together.
    n_tags : int, default=None
        Of all tags, told in the title beside the number of concepts.
    n_concepts : int, default=None

    Attributes
    ----------
    texts_ : list of matplotlib texts
        A tag each.
    edges_ : list of matplotlib patches
    ax_ : matplotlib axes
    figure_ : matplotlib figure

    See Also
    --------
    skwsdhq.TagEnhancer.concept_summary : The table behind it.

    Examples
    --------
    >>> from skwsdhq import TagEnhancer
    >>> from skwsdhq.plotting import ConceptGraphDisplay
    >>> vectors = {"dog": [1, 0], "puppy": [0.99, 0.14], "car": [0, 1]}
    >>> enhancer = TagEnhancer(vectors).fit([["dog", "puppy"], ["car"], ["dog"]])
    >>> ConceptGraphDisplay.from_estimator(enhancer).members
    [['dog', 'puppy']]
    """

    texts_: list[Any]
    edges_: list[Any]
    ax_: Any
    figure_: Any

    def __init__(
        self,
        members: Any,
        *,
        edges: Any = None,
        n_samples: Any = None,
        n_tags: int | None = None,
        n_concepts: int | None = None,
    ) -> None:
        if isinstance(members, str) or any(isinstance(row, str) for row in members):
            raise TypeError("members should be lists of tags, one for each concept.")
        self.members = [[str(tag) for tag in row] for row in members]
        if not all(self.members):
            raise ValueError("each concept should have a tag at least.")
        sizes = [len(row) for row in self.members]
        if edges is None:
            edges = [[(a, b) for b in range(n) for a in range(b)] for n in sizes]
        self.edges = [[(int(a), int(b)) for a, b in row] for row in edges]
        self.n_samples = None if n_samples is None else [int(n) for n in n_samples]
        for name, rows in (("edges", self.edges), ("n_samples", self.n_samples)):
            if rows is not None and len(rows) != len(sizes):
                raise ValueError(
                    f"{name} has {len(rows)} entries for {len(sizes)} concepts; should be equal."
                )
        for row, n in zip(self.edges, sizes, strict=True):
            if any(not (0 <= a < n and 0 <= b < n) for a, b in row):
                raise ValueError(f"edges should name members, from 0 to {n - 1}; got {row}.")
        self.n_tags, self.n_concepts = n_tags, n_concepts

    @classmethod
    def from_predictions(cls, members: Any, *, ax: Any = None, **options: Any) -> Self:
        """Make a display from lists of merged tags.

        Parameters
        ----------
        members : sequence of lists of str
        ax : matplotlib axes, default=None
            To draw on; None makes a figure that is large enough.
        **options
            ``edges``, ``n_samples``, ``n_tags`` and ``n_concepts``, as of the class.

        Returns
        -------
        ConceptGraphDisplay
        """
        return cls(members, **options).plot(ax)

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, max_concepts: int = 12, max_tags: int = 6, ax: Any = None
    ) -> Self:
        """Make a display of what a fit has merged.

        Parameters
        ----------
        estimator : TagEnhancer, WSDHQuantizer, HypersphereEmbedder, or a Pipeline that ends in one
            Fitted.
        max_concepts : int, default=12
            Those of most tags.
        max_tags : int, default=6
            Of each concept; the most frequent.
        ax : matplotlib axes, default=None

        Returns
        -------
        ConceptGraphDisplay
        """
        for name, value in (("max_concepts", max_concepts), ("max_tags", max_tags)):
            if value < 1:
                raise ValueError(f"{name}={value} should be >= 1.")
        last = last_step(estimator)
        enhancer = getattr(last, "tag_enhancer_", last)
        enhancer = getattr(enhancer, "estimator", enhancer)
        if not hasattr(enhancer, "concept_summary"):
            raise TypeError(
                f"{type(last).__name__} has no concepts; give a fitted TagEnhancer or an "
                "estimator that holds one."
            )
        table = [row for row in enhancer.concept_summary() if len(row["tags"]) > 1][:max_concepts]
        graph = enhancer.graph_.tocsr()
        members, edges = [], []
        for row in table:
            tags = row["tags"][:max_tags]
            places = [enhancer.vocabulary_[tag] for tag in tags]
            near = graph[places][:, places].toarray() > 0
            near |= near.T
            members.append(tags)
            edges.append([(a, b) for b in range(len(tags)) for a in range(b) if near[a, b]])
        display = cls(
            members,
            edges=edges,
            n_samples=[row["n_samples"] for row in table],
            n_tags=len(enhancer.vocabulary_),
            n_concepts=len(enhancer.concept_names_),
        )
        return display.plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the concepts, a line each.

        Parameters
        ----------
        ax : matplotlib axes, default=None
            None makes a figure that is large enough.

        Returns
        -------
        self
            With ``texts_``, ``edges_``, ``ax_`` and ``figure_``.
        """
        n, most = len(self.members), max(map(len, self.members), default=1)
        is_own = ax is None
        ax = new_axes(ax)
        if is_own:
            ax.figure.set_size_inches(max(1.7 * most + 1.2, 4.5), max(0.75 * n + 0.6, 1.6))
            ax.figure.set_layout_engine("constrained")
        self.texts_, self.edges_ = [], []
        for line, (tags, edges) in enumerate(zip(self.members, self.edges, strict=True)):
            for a, b in edges:
                self._edge(ax, line, a, b)
            for place, tag in enumerate(tags):
                self._tag(ax, line, place, tag)
        ax.set(xlim=(-0.6, most - 0.4), ylim=(n - 0.4, -0.75), xticks=[])
        ax.set_yticks(range(n), [f"{count} uses" for count in self.n_samples or []] or [""] * n)
        ax.tick_params(axis="y", length=0, labelsize=8)
        ax.spines[:].set_visible(False)
        if not n:
            ax.set(ylim=(1, 0), xlim=(0, 1))
            ax.text(0.5, 0.5, "no tags were merged", ha="center", va="center")
        if self.n_tags is not None and self.n_concepts is not None:
            ax.set_title(f"{self.n_tags} tags in {self.n_concepts} concepts", fontsize=10)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _tag(self, ax: Any, line: int, place: int, tag: str) -> None:
        """Draw one tag; the first names its concept, and is framed twice as wide."""
        colour = ORANGE if place == 0 else BLUE
        frame: dict[str, Any] = {"boxstyle": "round", "facecolor": "white", "edgecolor": colour}
        frame["linewidth"] = 2 if place == 0 else 1
        text = _lines(shortened(tag, 32))
        self.texts_.append(
            ax.text(
                *(place, line, text), ha="center", va="center", fontsize=8, bbox=frame,
                parse_math=False, zorder=3,
            )
        )  # fmt: skip

    def _edge(self, ax: Any, line: int, a: int, b: int) -> None:
        """Draw an edge: beside each other straight, else as an arc above what lies between."""
        from matplotlib.patches import FancyArrowPatch

        a, b = min(a, b), max(a, b)
        arc = 0.0 if b - a == 1 else -0.55 / (b - a)
        edge = FancyArrowPatch(
            (a, line), (b, line), connectionstyle=f"arc3,rad={arc}", arrowstyle="-", color=GREY,
            linewidth=1, shrinkA=0, shrinkB=0, zorder=1,
        )  # fmt: skip
        self.edges_.append(ax.add_patch(edge))


def _lines(tag: str) -> str:
    """Return a tag on as many lines of 16 letters as it needs."""
    return textwrap.fill(tag, 16)
