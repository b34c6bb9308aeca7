"""How codes use their codewords."""

from typing import Any, Self

import numpy as np

from ..utils.estimators import last_step
from ._drawing import BLUE, GREY, ORANGE, new_axes

__all__ = ["CodebookUsageDisplay"]


class CodebookUsageDisplay:
    """Draw how often codes name each codeword, and the entropy against the capacity in bits.

    Each codebook has a line: its codewords in the order of their use, the most used first, with
    the share of the rows that name it. A flat line uses all of them alike, and its entropy is
    log2(K), all that the bits could tell. A dashed line shows that.

    Parameters
    ----------
    counts : array-like of shape (M, K)
        Rows that name each codeword of each codebook.
    name : str, default=None
        Title; None is none.

    Attributes
    ----------
    entropy : ndarray of shape (M,)
        In bits.
    capacity : float
        log2(K).
    n_unused : ndarray of shape (M,)
        Codewords that no row names.
    lines_ : list of matplotlib lines
    ax_ : matplotlib axes
    figure_ : matplotlib figure

    See Also
    --------
    skwsdhq.codebooks.codebook_statistics : Figures of how codes fit embeddings.

    Examples
    --------
    >>> from skwsdhq.plotting import CodebookUsageDisplay
    >>> display = CodebookUsageDisplay([[2, 2, 2, 2], [4, 4, 0, 0]])
    >>> display.entropy, display.capacity, display.n_unused
    (array([2., 1.]), 2.0, array([0, 2]))
    """

    lines_: list[Any]
    ax_: Any
    figure_: Any

    def __init__(self, counts: Any, *, name: str | None = None) -> None:
        found = np.asarray(counts)
        if found.ndim != 2 or not found.size or found.dtype.kind not in "iu":
            raise ValueError(
                f"counts should be whole numbers of shape (M, K); got {found.dtype} of shape "
                f"{found.shape}."
            )
        if found.min() < 0 or not found.sum(axis=1).all():
            raise ValueError("counts should be 0 or more, and some of each codebook more than 0.")
        self.counts, self.name = found, name
        shares = found / found.sum(axis=1, keepdims=True)
        logs = np.log2(shares, out=np.zeros(shares.shape), where=shares > 0)
        self.entropy = np.abs(-(shares * logs).sum(axis=1))  # of one codeword alone 0, not -0
        self.capacity = float(np.log2(found.shape[1]))
        self.n_unused = (found == 0).sum(axis=1)

    @classmethod
    def from_predictions(
        cls, codes: Any, n_codewords: int, *, name: str | None = None, ax: Any = None
    ) -> Self:
        """Make a display from codes.

        Parameters
        ----------
        codes : array-like of shape (n, M), integers
        n_codewords : int
            K.
        name : str, default=None
        ax : matplotlib axes, default=None
            To draw on; None makes a figure.

        Returns
        -------
        CodebookUsageDisplay
        """
        rows = np.asarray(codes)
        if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "iu":
            raise ValueError(
                f"codes should be whole numbers of shape (n, M); got {rows.dtype} of shape "
                f"{rows.shape}."
            )
        if rows.min() < 0 or rows.max() >= n_codewords:
            raise ValueError(
                f"codes should lie from 0 to n_codewords - 1 = {n_codewords - 1}; they go from "
                f"{rows.min()} to {rows.max()}."
            )
        counts = [np.bincount(column, minlength=n_codewords) for column in rows.T.astype(np.int64)]
        return cls(np.array(counts), name=name).plot(ax)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any = None, *, name: str | None = None, ax: Any = None
    ) -> Self:
        """Make a display from a fitted quantizer.

        Parameters
        ----------
        estimator : WSDHQuantizer, or a Pipeline that ends in one
            Fitted.
        X : images or features, default=None
            To be coded; None takes the codes of the fitted rows.
        name : str, default=None
        ax : matplotlib axes, default=None

        Returns
        -------
        CodebookUsageDisplay
        """
        last = last_step(estimator)
        if not (hasattr(last, "codebooks_") and hasattr(last, "codes_")):
            raise TypeError(
                f"{type(last).__name__} holds no codes; fit a WSDHQuantizer, or use "
                "from_predictions."
            )
        codes = last.codes_
        if X is not None:
            codes = last.encode(X if last is estimator else estimator[:-1].transform(X))
        return cls.from_predictions(codes, last.codebooks_.shape[1], name=name, ax=ax)

    def plot(self, ax: Any = None, *, name: str | None = None) -> Self:
        """Draw the lines.

        Parameters
        ----------
        ax : matplotlib axes, default=None
            None makes a figure.
        name : str, default=None
            In place of the display's.

        Returns
        -------
        self
            With ``lines_``, ``ax_`` and ``figure_``.
        """
        ax = new_axes(ax)
        n_codebooks, n_codewords = self.counts.shape
        colours = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#000000")
        styles = ("-", "--", "-.", ":")
        rank = np.arange(1, n_codewords + 1)
        self.lines_ = []
        for m, counts in enumerate(self.counts):
            used = np.sort(counts)[::-1] / counts.sum()
            label = f"codebook {m + 1}: {self.entropy[m]:.2f} of {self.capacity:.4g} bits"
            if self.n_unused[m]:
                label += f", {self.n_unused[m]} unused"
            style = {"color": colours[m % 6], "linestyle": styles[m % 4]}
            self.lines_ += ax.plot(rank, used, label=label, drawstyle="steps-mid", **style)
        ax.axhline(1 / n_codewords, color=GREY, linestyle=(0, (1, 1)), label="all used alike")
        # The first few are used most: on a plain scale they would be one line upwards.
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:.0f}")
        ax.set(xlabel="Codewords, the most used first", ylabel="Share of rows", ylim=(0, None))
        title = self.name if name is None else name
        if title is not None:
            ax.set_title(title, parse_math=False)
        # Of many codebooks the legend would hide the lines.
        ax.legend(loc="upper right", fontsize=8 if n_codebooks < 8 else 6)
        self.ax_, self.figure_ = ax, ax.figure
        return self
