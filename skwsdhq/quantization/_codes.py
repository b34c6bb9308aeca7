"""Codebooks and codes that follow embeddings while these are learned."""

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from .. import codebooks as _codebooks
from .. import losses as _losses
from ..codebooks.inputs import as_codebooks, as_codes, most_rows
from ..codebooks.worst import refilled, worst_rows
from ..losses.inputs import directions_and_lengths
from ..sphere import normalize_rows
from ..utils.rows import is_lazy, mapped_rows, sum_blocks
from ..utils.threads import on_one_thread, product
from ..utils.together import sharing

__all__ = ["CodeAlternation", "final_codes", "mixed_metric"]

_BLOCK = 1 << 16  # rows that are encoded, and counted, at once


@on_one_thread
def mixed_metric(concept_vectors: np.ndarray | None, mix: float) -> np.ndarray | None:
    """Return the metric of quantization errors: ``mix · VᵀV + (1 − mix) · (C / D) · I``.

    At ``mix`` 1 errors count as far as they change the similarities to the concepts (formula of
    the paper), at 0 they count alike in all directions; the identity is scaled to the trace of
    VᵀV, so that the mix leaves the weight of the quantization loss as it is. (C is that trace
    where rows are of unit length.)

    Parameters
    ----------
    concept_vectors : ndarray of shape (C, D) or None
        None is Euclidean.
    mix : float
        From 0 to 1.

    Returns
    -------
    ndarray of shape (D, D), float64, or None
    """
    if concept_vectors is None:
        return None
    vectors = np.asarray(concept_vectors, dtype=np.float64)
    n_dims = vectors.shape[1]
    size = np.square(vectors).sum()
    return mix * product(vectors.T, vectors) + (1 - mix) * size / n_dims * np.eye(n_dims)


def final_codes(
    embeddings: np.ndarray,
    codebooks: np.ndarray,
    metric: np.ndarray | None,
    encode_options: dict,
) -> np.ndarray:
    """Return (n, M) codes by codebooks that are learned: a row's depends on nothing else.

    Seeded alike in every call, and without a start from earlier codes.
    """
    return _codebooks.encode(
        embeddings,
        codebooks,
        metric=metric,
        random_state=np.random.RandomState(0),
        **encode_options,
    )


class _Coded(NamedTuple):
    """Hold codes of consecutive rows, and their statistics; those of the rows behind add up."""

    codes: np.ndarray  # (n, M)
    counts: np.ndarray  # see codebook_statistics
    sums: np.ndarray

    def __add__(self, other: Any) -> Self:
        codes = np.concatenate([self.codes, other.codes])
        return type(self)(codes, self.counts + other.counts, self.sums + other.sums)


def _coded(
    embeddings: np.ndarray, *, codebooks: np.ndarray, metric: np.ndarray | None, options: dict
) -> _Coded:
    codes = final_codes(embeddings, codebooks, metric, options)
    return _Coded(codes, *_codebooks.codebook_statistics(embeddings, codes, codebooks.shape[1]))


def _coded_from(
    embeddings: np.ndarray,
    codes: np.ndarray | None = None,
    *,
    codebooks: np.ndarray,
    metric: np.ndarray | None,
    options: dict,
) -> _Coded:
    # Each block draws from a state of its own, and so the same.
    options = {**options, "random_state": copy.deepcopy(options["random_state"])}
    codes = _codebooks.encode(embeddings, codebooks, metric=metric, codes=codes, **options)
    return _Coded(codes, *_codebooks.codebook_statistics(embeddings, codes, codebooks.shape[1]))


def _squares(embeddings: np.ndarray, codes: np.ndarray, *, codebooks: np.ndarray) -> float:
    """Return the sum of the squared errors of a block."""
    return _codebooks.quantization_error(embeddings, codes, codebooks) * len(embeddings)


class CodeAlternation:
    """Bring codebooks and codes up to date as the embeddings move: a companion of a training.

    Parameters
    ----------
    n_codebooks, n_codewords : int
        M, K.
    period : int
        Epochs from one update to the next.
    weight : float
        lambda, of the quantization loss.
    encode_options : dict
        ``n_sweeps``, ``beam_size`` and ``prefix_weight``.
    length_weight : float, default=0.0
        Of the codes that are kept, see ``codebooks.encode``.
    method : str
        Of the initial codebooks.
    ridge : float
    metric_mix : float
        See :func:`mixed_metric`.
    random_state : numpy RandomState
    codebooks : ndarray of shape (M, K, D), default=None
        To go on from.
    normalize : bool, default=True
        Whether embeddings are of unit length.
    """

    def __init__(  # noqa: PLR0913 - what codes depend on, all but their number by name
        self,
        n_codebooks: int,
        n_codewords: int,
        *,
        period: int,
        weight: float,
        encode_options: dict[str, Any],
        length_weight: float = 0.0,
        method: str,
        ridge: float,
        metric_mix: float,
        random_state: np.random.RandomState,
        codebooks: np.ndarray | None = None,
        normalize: bool = True,
    ) -> None:
        # Numbers of numpy's would overflow where they are of few bits.
        self.n_codebooks = int(n_codebooks)
        self.n_codewords = int(n_codewords)
        self.period = int(period)
        self.weight = float(weight)
        self.encode_options = encode_options
        self.length_weight = float(length_weight)
        self.method = method
        self.ridge = ridge
        self.metric_mix = metric_mix
        self.random_state = random_state
        self.metric: np.ndarray | None = None
        self.codebooks = codebooks
        self.goes_on = codebooks is not None
        self.normalize = normalize
        self.codes: np.ndarray | None = None
        self._on_device: torch.Tensor | float | None = None  # the metric, where the outputs are
        self._sum, self._n_rows = 0.0, 0  # of the quantization loss in this epoch

    def parameters(self) -> dict[str, Any]:
        """Return what the codes depend on, beside the embeddings and the random state."""
        return {
            "n_codebooks": self.n_codebooks,
            "n_codewords": self.n_codewords,
            "period": self.period,
            "weight": self.weight,
            "encode_options": self.encode_options,
            "length_weight": self.length_weight,
            "method": self.method,
            "ridge": self.ridge,
            "metric_mix": self.metric_mix,
            "normalize": self.normalize,
        }

    def start(self, concept_vectors: np.ndarray | None, lengths: np.ndarray | None = None) -> None:
        """Fix the metric of the codes, once the concepts are known.

        Parameters
        ----------
        concept_vectors : ndarray of shape (C, D) or None
            Unit rows; None is Euclidean.
        lengths : ndarray of shape (C,), default=None
            How long the vectors of each concept's tags are on average: concepts count by it where
            embeddings are of any length.
        """
        if concept_vectors is not None and lengths is not None and not self.normalize:
            concept_vectors = concept_vectors * lengths[:, None].astype(concept_vectors.dtype)
        self.metric = mixed_metric(concept_vectors, self.metric_mix)
        self._on_device = None

    def penalty(self, outputs: torch.Tensor, rows: np.ndarray) -> torch.Tensor | None:
        """Return lambda times the quantization loss of rows (b,); None before there are codes."""
        if self.codes is None:
            return None
        loss = self.quantization_loss(outputs, rows)
        self._sum += float(loss.detach()) * len(rows)
        self._n_rows += len(rows)
        return self.weight * loss

    def quantization_loss(self, outputs: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """Return the quantization loss of rows (b,) from the network's outputs (b, D)."""
        points = directions_and_lengths(outputs)[0] if self.normalize else outputs
        targets = torch.from_numpy(self.reconstructions(rows)).to(outputs.device)
        if self._on_device is None:
            self._on_device = self._metric_of_loss()
        if isinstance(self._on_device, torch.Tensor):
            self._on_device = self._on_device.to(outputs.device)
        return _losses.quantization_loss(points, targets, metric=self._on_device)

    def _metric_of_loss(self) -> torch.Tensor | float:
        """Return the metric, or what it multiplies the identity by: no product is then made."""
        if self.metric is None:
            return 1.0
        metric = np.asarray(self.metric, dtype=np.float32)
        return torch.from_numpy(metric) if self.metric_mix else float(metric[0, 0])

    @sharing()
    def after_epoch(self, n_done: int, outputs: Callable[[], np.ndarray]) -> dict[str, float]:
        """Bring the codes up to date where it is their turn; return the mean quantization loss."""
        figures = {"quantization_loss": self._sum / max(self._n_rows, 1)}
        self._sum, self._n_rows = 0.0, 0
        if self.is_due(n_done):
            embeddings = outputs()
            # In place of those of a temporary file: there may be no room for them in memory.
            if self.normalize:
                out = embeddings if isinstance(embeddings, np.memmap) else None
                embeddings = mapped_rows(embeddings, lambda rows: normalize_rows(rows, out))
            self.update(embeddings)
        return figures

    def state(self) -> dict[str, Any]:
        """Return what a run that goes on needs, beside the parameters."""
        return {
            "codebooks": self.codebooks,
            "codes": self.codes,
            "random_state": self.random_state,
        }

    def restore(self, state: dict) -> None:
        """Set what :meth:`state` gave; what can be no such state is an error."""
        if state["codebooks"] is not None:
            shape = (self.n_codebooks, self.n_codewords)
            books = as_codebooks(state["codebooks"])
            if books.shape[:2] != shape:
                raise ValueError(f"codebooks of shape {books.shape} should be {shape} by D.")
            if state["codes"] is not None:
                as_codes(state["codes"], self.n_codewords, n_codebooks=self.n_codebooks)
        elif state["codes"] is not None:
            raise ValueError("there are codes without codebooks.")
        self.codebooks, self.codes = state["codebooks"], state["codes"]
        self._sum, self._n_rows = 0.0, 0
        self.random_state.set_state(state["random_state"].get_state(legacy=True))

    @property
    def _books(self) -> np.ndarray:
        """Codebooks, once there are any."""
        assert self.codebooks is not None
        return self.codebooks

    def forget(self) -> None:
        """Drop what was learned of outputs that are no more what comes out."""
        self.codebooks = self.codes = None

    def is_due(self, epoch: int) -> bool:
        """Tell whether to update after this epoch, the first being 1."""
        return epoch % self.period == 0

    def update(
        self, embeddings: np.ndarray, earlier: tuple[np.ndarray, np.ndarray] | None = None
    ) -> float:
        """Take one turn of codes and codewords over all rows; return the mean squared error."""
        if self.codebooks is None:
            self.codebooks = _codebooks.init_codebooks(
                self._some(embeddings) if is_lazy(embeddings) else embeddings,
                self.n_codebooks,
                self.n_codewords,
                method=self.method,
                random_state=self.random_state,
            )
        self.codes, counts, sums = self._coded_anew(embeddings)
        if earlier is not None:
            counts, sums = counts + earlier[0], sums + earlier[1]
        updated = _codebooks.solve_codebooks(
            counts,
            sums,
            self.n_codebooks,
            self.ridge,
            self.encode_options["prefix_weight"],
            centre=True,
        )
        updated = updated.astype(np.float32)
        error = sum_blocks(
            embeddings, functools.partial(_squares, codebooks=updated), (self.codes,), n_rows=_BLOCK
        )
        self.codebooks = (
            updated if earlier is not None else self._refilled(embeddings, updated, counts)
        )
        return error / len(embeddings)

    def _coded_anew(self, embeddings: Any) -> _Coded:
        """Return the codes of all rows by the codebooks as they are, and their statistics."""
        options = {**self.encode_options, "random_state": copy.deepcopy(self.random_state)}
        code = functools.partial(
            _coded_from, codebooks=self._books, metric=self.metric, options=options
        )
        # A beam finds its own start.
        known = () if self.encode_options["beam_size"] or self.codes is None else (self.codes,)
        found: _Coded = sum_blocks(embeddings, code, known, n_rows=_BLOCK)
        for _ in range(self.encode_options["n_sweeps"]):
            # As each block has drawn, all of them alike: the orders of the sweeps.
            self.random_state.permutation(self.n_codebooks)
        return found

    def _refilled(self, embeddings: Any, codebooks: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Return codebooks without codewords that no row uses."""
        codes = self.codes
        assert codes is not None
        if not is_lazy(embeddings):
            return _codebooks.refill_empty_codewords(
                embeddings, codebooks, codes, random_state=self.random_state
            )
        is_used = counts.diagonal().reshape(codebooks.shape[:2]) > 0
        if is_used.all():
            return codebooks
        self.random_state.permutation(len(embeddings))  # as where all rows are at hand
        find = functools.partial(worst_rows, codebooks=codebooks, most=int((~is_used).sum()))
        return refilled(codebooks, is_used, sum_blocks(embeddings, find, (codes,), n_rows=_BLOCK))

    @sharing()
    def finish(
        self,
        embeddings: np.ndarray,
        n_turns: int,
        statistics: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> tuple[tuple[np.ndarray, np.ndarray], list[float]]:
        """Bring codebooks and codes up to date with embeddings that move no more.

        Codebooks that an earlier fit has left go on from there. Otherwise they are learned anew:
        those that followed the embeddings began when these were far from where they are now.

        Parameters
        ----------
        embeddings : ndarray of shape (n, D)
        n_turns : int
        statistics : tuple (counts, sums), default=None
            Those of earlier batches (see ``codebooks.codebook_statistics``), which the codebooks
            should go on to fit.

        Returns
        -------
        statistics : tuple (counts, sums)
            With this batch's added.
        errors : list of float
            Mean squared error of each turn; of the last one where they were learned anew.
        """
        earlier = statistics
        errors = []
        if n_turns and not self.goes_on:
            part = self._some(embeddings)
            self.codebooks, codes = _codebooks.learn_codebooks(
                part,
                self.n_codebooks,
                self.n_codewords,
                metric=self.metric,
                n_iter=n_turns,
                method=self.method,
                ridge=self.ridge,
                random_state=self.random_state,
                **self.encode_options,
            )
            errors = [_codebooks.quantization_error(part, codes, self.codebooks)]
            n_turns = 0
        for _ in range(max(n_turns, self.codebooks is None)):
            errors.append(self.update(np.asarray(embeddings), earlier))
        statistics = self._take_codes(embeddings)
        if earlier is not None:
            statistics = statistics[0] + earlier[0], statistics[1] + earlier[1]
        return statistics, errors

    def _some(self, embeddings: Any) -> np.ndarray:
        """Return the rows that codebooks are learned from: all, or a part of very many."""
        most = most_rows(self.n_codewords)
        if len(embeddings) <= most:
            return np.asarray(embeddings)
        chosen = self.random_state.choice(len(embeddings), most, replace=False)
        return embeddings[np.sort(chosen)]

    def _take_codes(self, embeddings: Any) -> tuple[np.ndarray, np.ndarray]:
        """Set the codes of rows that move no more; return their counts and sums."""
        options = {**self.encode_options, "length_weight": self.length_weight}
        code = functools.partial(_coded, codebooks=self._books, metric=self.metric, options=options)
        found = sum_blocks(embeddings, code, n_rows=_BLOCK)
        self.codes = found.codes
        return found.counts, found.sums

    def reconstructions(self, rows: np.ndarray) -> np.ndarray:
        """Return (b, D) what the codes of these rows stand for."""
        assert self.codes is not None
        return _codebooks.decode(self.codes[rows], self._books)
