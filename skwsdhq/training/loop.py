"""Training: the loss of a batch, and the loop over epochs.

Nothing here knows an estimator. :func:`train` is a generator that yields an epoch's figures, so
that a caller can show progress, stop, save, or look in between.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import losses as _losses
from ..losses.inputs import directions_and_lengths
from ..sphere import normalize_rows
from ..utils.progress import LongRun
from ..utils.threads import one_openmp_thread
from .network import (
    BLOCK,
    Adam,
    arrays_of,
    build_network,
    forward,
    make_optimizer,
    network_arrays,
    prepare_inputs,
    raised,
    set_arrays,
)
from .trunk import FineTuned, load_trunk_state

__all__ = [
    "BLOCK",
    "Adam",
    "FineTuned",
    "FixedInputs",
    "build_network",
    "forward",
    "joined",
    "load_trunk_state",
    "make_loss",
    "make_optimizer",
    "network_arrays",
    "prepare_inputs",
    "raised",
    "train",
]

logger = logging.getLogger("skwsdhq.training")

_MANY_CONCEPTS = 8192  # beyond which a batch is held against some of them
_SOME_CONCEPTS = 512
_OWN_CONCEPTS = 512  # of rows that are held against the same ones
_DIVISIBLE = 2_000_000_000  # multiplications of a layer product, from which on threads pay


def make_loss(
    name: str,
    concept_vectors: np.ndarray,
    indicator,
    device: torch.device,
    *,
    gamma: float,
    margin: float,
    temperature: float,
    n_hard_negatives: int | None,
) -> Callable[[torch.Tensor, np.ndarray], torch.Tensor]:
    """The embedding loss as a function of a batch's outputs and of its rows.

    ``indicator`` is the CSR matrix (n, C) of all rows; "adaptive_margin" and "fixed_margin" take
    its positives pair by pair, "wdht" and "contrastive" the mean of a row's concept vectors.
    """
    gamma, margin, temperature = float(gamma), float(margin), float(temperature)
    if name in ("adaptive_margin", "fixed_margin"):
        vectors = torch.from_numpy(np.array(concept_vectors)).to(device)
        options = {"n_hard_negatives": n_hard_negatives}
        if name == "adaptive_margin":
            function, options["gamma"] = _losses.cosine_margin_loss, gamma
        else:
            function, options["margin"] = _losses.fixed_margin_loss, margin
        if len(vectors) > _MANY_CONCEPTS:
            return lambda outputs, rows: _against_some(function, outputs, rows, vectors, indicator,
                                                       options)  # fmt: skip
        return lambda outputs, rows: function(outputs, vectors, _pairs(indicator, rows), **options)
    means = normalize_rows(np.asarray(indicator @ concept_vectors, dtype=np.float32))
    means = torch.from_numpy(means).to(device)
    if name == "wdht":
        return lambda outputs, rows: _losses.mean_tag_hinge_loss(
            outputs, means[rows], margin=margin
        )
    if name == "contrastive":
        return lambda outputs, rows: _losses.contrastive_loss(
            outputs, means[rows], temperature=temperature
        )
    raise ValueError(f"loss={name!r} is not known.")


def _against_some(function, outputs, rows, vectors, indicator, options) -> torch.Tensor:
    """The loss of a batch, each part against its own concepts and every so manieth of the others.

    With 100,000 concepts a batch would have 200 million terms. Where its own are thousands, it is
    divided: most of these are other images' and, as negatives, no better than any. Batches are
    drawn at random, and so is where the count begins: at the number of a part's first row.
    """
    step = -(-len(vectors) // _SOME_CONCEPTS)
    n_own = int(np.diff(indicator.indptr)[rows].sum())
    n_rows = -(-len(rows) // max(1, round(n_own / _OWN_CONCEPTS)))
    means, terms = [], []
    for start in range(0, len(rows), n_rows):
        part = rows[start : start + n_rows]
        position, concept = _pairs(indicator, part).numpy()
        columns = np.union1d(concept, np.arange(int(part[0]) % step, len(vectors), step))
        pairs = torch.from_numpy(np.stack([position, np.searchsorted(columns, concept)]))
        chosen = vectors[torch.from_numpy(columns).to(vectors.device)]
        means.append(function(outputs[start : start + n_rows], chosen, pairs, **options))
        terms.append(_n_terms(position, len(columns), options["n_hard_negatives"]))
    if len(means) == 1:
        return means[0]
    shares = [n / max(1, sum(terms)) for n in terms]
    return torch.stack([mean * share for mean, share in zip(means, shares, strict=True)]).sum()


def _n_terms(position: np.ndarray, n_concepts: int, n_hard_negatives: int | None) -> int:
    """Pairs of a positive and a negative, from the row of each positive."""
    counts = np.bincount(position)
    n_negatives = n_concepts - counts
    if n_hard_negatives is not None:
        n_negatives = np.minimum(n_negatives, n_hard_negatives)
    return int(counts @ n_negatives)


def _pairs(indicator, rows: np.ndarray) -> torch.Tensor:
    """(2, P) position in the batch and concept of every positive, sorted."""
    starts, stops = indicator.indptr[rows], indicator.indptr[rows + 1]
    lengths = stops - starts
    position = np.repeat(np.arange(len(rows)), lengths)
    # for n in rows: indices[indptr[n]:indptr[n + 1]], end to end
    offset = np.arange(len(position)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    concept = indicator.indices[np.repeat(starts, lengths) + offset]
    return torch.from_numpy(np.stack([position, concept.astype(np.int64)]))


class FixedInputs:
    """A network on top of features that stay as they are.

    Parameters
    ----------
    head : nn.Sequential
        From :func:`build_network`.
    inputs : ndarray of shape (n, d), float32
        From :func:`prepare_inputs`.
    device : torch.device
    fixed, share : ndarray of shape (n, D), float32, or None, and float
        Unit rows that codes are learned of along with the network's, and their share, see
        :func:`joined`.
    """

    def __init__(
        self,
        head: nn.Sequential,
        inputs: np.ndarray,
        device: torch.device,
        fixed: np.ndarray | None = None,
        share: float = 0.0,
    ) -> None:
        self.head, self.device = head, device
        self._arrays, self._fixed, self._share = inputs, fixed, share
        self._inputs = torch.from_numpy(inputs).to(device)
        self._fixed_on_device = None if fixed is None else torch.from_numpy(fixed).to(device)

    def __len__(self) -> int:
        return len(self._arrays)

    def inputs(self, rows: np.ndarray) -> torch.Tensor:
        """(b, d) of a step."""
        return self._inputs[rows]

    def spread(self) -> None:
        """Bring the gradient of the last inputs to what they were computed from: nothing."""

    def held_inputs(self, rows: np.ndarray) -> torch.Tensor:
        """(b, d) for a look at the loss, without a step."""
        return self._inputs[rows]

    def embeddings(self, normalize: bool = True) -> np.ndarray:
        """(n, D) unit rows, of all images as they would be transformed now; or of any length."""
        outputs = forward(self._arrays, network_arrays(self.head))
        if self._fixed is not None:
            lengths = np.linalg.norm(outputs, axis=1, keepdims=True)
            outputs = joined(outputs, self._fixed, self._share, lengths)
        return normalize_rows(outputs) if normalize else outputs

    def whole(self, outputs: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """(b, D) of the same direction as the embeddings, from the network's outputs."""
        if self._fixed_on_device is None:
            return outputs
        lengths = outputs.norm(dim=1, keepdim=True)
        return joined(outputs, self._fixed_on_device[rows], self._share, lengths)

    def state(self) -> list[np.ndarray]:
        """All that is learned, as numpy copies."""
        return arrays_of(list(self.head.parameters()))

    def restore(self, state: list[np.ndarray]) -> None:
        """Set what :meth:`state` gave."""
        set_arrays(list(self.head.parameters()), state)

    def threads(self, batch_size: int) -> Any:
        """A context for its steps.

        One thread for steps too small to be divided, however many others there are: two threads
        wait for each other after every operation, and on a busy machine they mostly wait; a step
        of the default network took twenty times as long there. It also makes what is learned the
        same however many threads a process has; that of larger networks depends on their number.
        """
        n_products = batch_size * sum(parameter.numel() for parameter in self.head.parameters())
        if self.device.type != "cpu" or n_products > _DIVISIBLE:
            return nullcontext()
        return one_openmp_thread("torch")


def joined(outputs: Any, fixed: Any, share: float, lengths: Any) -> Any:
    """Outputs (n, D) of a network turned towards unit rows, whose share of the direction is given.

    The length is that of the network's outputs, ``lengths`` (n, 1), as far as the two agree. All
    are arrays of one dtype, or tensors.
    """
    return (1 - share) * outputs + share * lengths * fixed


def train(
    model: FixedInputs,
    optimizer: Adam,
    tagged: np.ndarray,
    loss: Callable[[torch.Tensor, np.ndarray], torch.Tensor],
    *,
    n_epochs: int,
    batch_size: int,
    generator: torch.Generator,
    decay: float = 1.0,
    n_drops: int = 0,
    drop_period: int | None = None,
    max_norm: float | None = None,
    first: int = 0,
    alternation: Any = None,
    held: np.ndarray | None = None,
    doing: str | None = None,
) -> Iterator[dict]:
    """Train a network in place; yield the figures of each epoch.

    Parameters
    ----------
    model : FixedInputs or FineTuned
    optimizer
        From :func:`make_optimizer`.
    tagged : ndarray of shape (n,), bool
        Rows that have concepts; the others are left out unless codes are learned along.
    loss : callable
        From :func:`make_loss`.
    n_epochs, batch_size : int
    generator : torch.Generator
        Draws the order of rows.
    decay, n_drops : float, int
        The learning rate is multiplied by ``decay`` ``n_drops`` times, at equal distances.
    drop_period : int, default=None
        Or after each ``drop_period`` steps.
    max_norm : float, default=None
        Gradients longer than that are shortened to it.
    first : int, default=0
        Epochs of the ``n_epochs`` that an earlier run has done.
    alternation : CodeAlternation, default=None
        Codebooks to keep up to date; adds the quantization loss from their first update on.
    held : ndarray of shape (n,), bool, default=None
        Rows to keep apart; the codes of their embeddings are learned all the same.
    doing : str, default=None
        What the log says of a long run, before the number of images and epochs.

    Yields
    ------
    dict
        ``"loss"``, ``"quantization_loss"``, ``"learning_rate"`` (of the epoch's last step),
        ``"quantization_error"`` in
        epochs with an update of the codes, and ``"validation_loss"`` where rows are held.

    Raises
    ------
    FloatingPointError
        If the loss of a batch is not finite; the weights are those before that step.
    """
    # Numbers of numpy's would overflow where they are of few bits.
    n_epochs, batch_size, n_drops = int(n_epochs), int(batch_size), int(n_drops)
    decay = float(decay)
    drop_period = None if drop_period is None else int(drop_period)
    rows = np.flatnonzero(tagged) if alternation is None else np.arange(len(model))
    rows = rows if held is None else rows[~held[rows]]
    metric = None
    n_steps = -(-len(rows) // batch_size)  # of an epoch
    run = None
    if doing is not None:
        what = f"{doing} on {len(rows)} images for {n_epochs - first} epochs on {model.device}"
        run = LongRun(logger, what, (n_epochs - first) * len(rows))
    for epoch in range(first, n_epochs):
        factor = decay ** (epoch * (n_drops + 1) // n_epochs)
        if metric is None and alternation is not None and alternation.codes is not None:
            metric = _metric_tensor(alternation, model.device)
        model.head.train()
        shuffled = torch.randperm(len(rows), generator=generator, device=model.device)
        order = rows[shuffled.cpu().numpy()]
        sums = np.zeros(2)
        with model.threads(batch_size):
            for step, start in enumerate(range(0, len(order), batch_size), epoch * n_steps):
                if drop_period is not None:
                    factor = decay ** (step // drop_period)
                batch = order[start : start + batch_size]
                outputs = model.head(model.inputs(batch))
                total = loss(outputs, batch)
                parts = [float(total.detach()), 0.0]
                if metric is not None:
                    whole = model.whole(outputs, batch)
                    quantization = _quantization_loss(whole, alternation, batch, metric)
                    total = total + alternation.weight * quantization
                    parts[1] = float(quantization.detach())
                if not np.isfinite(parts).all():
                    raise FloatingPointError(
                        f"the loss became {sum(parts)} in epoch {epoch + 1} of {n_epochs}, batch "
                        f"{start // batch_size + 1} of {-(-len(order) // batch_size)}; lower "
                        f"learning_rate={optimizer.learning_rate:g}."
                    )
                optimizer.zero_grad()
                total.backward()
                model.spread()
                optimizer.step(factor, max_norm)
                sums += np.multiply(parts, len(batch))
                if run is not None:
                    run.advance((epoch - first) * len(order) + start + len(batch))
        model.head.eval()
        mean = sums / max(len(order), 1)
        figures = {
            "loss": float(mean[0]),
            "quantization_loss": float(mean[1]),
            "learning_rate": optimizer.learning_rate * factor,
        }
        if held is not None:
            figures["validation_loss"] = _mean_loss(model, np.flatnonzero(held), loss, batch_size)
        if alternation is not None and alternation.is_due(epoch + 1):
            figures["quantization_error"] = alternation.update(
                model.embeddings(alternation.normalize)
            )
        yield figures


def _quantization_loss(outputs, alternation, batch, metric) -> torch.Tensor:
    rows = directions_and_lengths(outputs)[0] if alternation.normalize else outputs
    targets = torch.from_numpy(alternation.reconstructions(batch)).to(outputs.device)
    return _losses.quantization_loss(rows, targets, metric=metric)


def _mean_loss(model, rows, loss, batch_size) -> float:
    """The embedding loss of these rows, without dropout; a batch counts by its rows."""
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            total += float(loss(model.head(model.held_inputs(batch)), batch)) * len(batch)
    return total / len(rows)


def _metric_tensor(alternation, device) -> torch.Tensor:
    """(D, D) float32; the identity where the metric is Euclidean."""
    metric = alternation.metric
    metric = np.eye(alternation.codebooks.shape[2]) if metric is None else metric
    return torch.from_numpy(np.asarray(metric, dtype=np.float32)).to(device)
