"""Training steps: the transform layer, its optimizer, and codebooks that follow it.

Nothing here knows an estimator. :func:`train` is a generator that yields an epoch's figures, so
that a caller can show progress, stop, or look in between.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from . import codebooks as _codebooks
from . import losses as _losses
from .sphere import normalize_rows
from .utils._threads import one_openmp_thread

__all__ = [
    "Adam",
    "CodeAlternation",
    "build_network",
    "final_codes",
    "forward",
    "make_loss",
    "make_optimizer",
    "mixed_metric",
    "network_arrays",
    "prepare_inputs",
    "train",
]


_DIVISIBLE = 2_000_000_000  # multiplications of a layer product, from which on threads pay


# --- network --------------------------------------------------------------------------------


class _Dropout(nn.Module):
    """Dropout that draws from a generator of its own, not from torch's global one.

    A byte decides for each unit, so probabilities are multiples of 1/256; drawn eight at a time
    they cost a twentieth of a Bernoulli variable each.
    """

    def __init__(self, probability: float, generator: torch.Generator):
        super().__init__()
        self.n_dropped = round(probability * 256)  # of the 256 values of a byte
        self.generator = generator

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.n_dropped:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
        words.random_(-(2**63), None, generator=self.generator)
        kept = words.view(torch.uint8)[: x.numel()].reshape(x.shape) >= self.n_dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - self.n_dropped))


def build_network(
    layer_sizes: Sequence[int],
    dropout: float,
    generator: torch.Generator,
    arrays: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
) -> nn.Sequential:
    """Linear layers with ReLU and dropout between them, tanh after the last.

    Parameters
    ----------
    layer_sizes : sequence of int
        Features, hidden layers, dimensions D.
    dropout : float
        Probability that a hidden unit is left out of a step.
    generator : torch.Generator
        Draws the weights and the masks; its device is the network's.
    arrays : sequence of (weights (in, out), bias (out,)), default=None
        Weights to start from, as :func:`network_arrays` gives them; None draws them as
        ``torch.nn.Linear`` does, uniform within ±1/√in.
    """
    device = generator.device
    layers: list[nn.Module] = []
    for k, (n_in, n_out) in enumerate(pairwise(layer_sizes)):
        linear = nn.utils.skip_init(nn.Linear, n_in, n_out, device=device)
        with torch.no_grad():
            if arrays is None:
                bound = n_in**-0.5
                linear.weight.uniform_(-bound, bound, generator=generator)
                linear.bias.uniform_(-bound, bound, generator=generator)
            else:
                linear.weight.copy_(torch.from_numpy(np.array(arrays[k][0].T)))
                linear.bias.copy_(torch.from_numpy(np.array(arrays[k][1])))
        layers.append(linear)
        if k < len(layer_sizes) - 2:
            layers += [nn.ReLU(), _Dropout(dropout, generator)]
    return nn.Sequential(*layers, nn.Tanh())


def network_arrays(network: nn.Sequential) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (in, out) and bias (out,) of each linear layer, as numpy copies."""
    return [
        (layer.weight.detach().cpu().numpy().T.copy(), layer.bias.detach().cpu().numpy().copy())
        for layer in network
        if isinstance(layer, nn.Linear)
    ]


def forward(inputs: np.ndarray, arrays: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The network's output, tanh, before normalisation: numpy is twice as fast here as torch.

    Parameters
    ----------
    inputs : ndarray of shape (n, d)
    arrays : as :func:`network_arrays` gives them

    Returns
    -------
    ndarray of shape (n, D), of the dtype of ``inputs``
    """
    x = inputs
    for k, (weights, bias) in enumerate(arrays):
        x = x @ weights.astype(x.dtype, copy=False)
        x += bias.astype(x.dtype, copy=False)
        np.tanh(x, out=x) if k == len(arrays) - 1 else np.maximum(x, 0, out=x)
    return x


class Adam:
    """Adam with decoupled weight decay, and a rate of its own for each group of parameters.

    Kingma and Ba (2015), algorithm 1; Loshchilov and Hutter (2019), algorithm 2. To make one of
    ``torch.optim`` takes longer than to train on a small set: its first one imports torch's
    compiler.

    Parameters
    ----------
    groups : list of (list of tensors, float, float)
        Parameters, the factor of their learning rate, and their weight decay.
    learning_rate : float
    """

    def __init__(self, groups, learning_rate, *, betas=(0.9, 0.999), eps=1e-8):
        self.groups = groups
        self.learning_rate = learning_rate
        self.betas = betas
        self.eps = eps
        self.n_steps = 0
        self.parameters = [p for parameters, _, _ in groups for p in parameters]
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """One step at ``factor`` times the learning rate."""
        self.n_steps += 1
        beta1, beta2 = self.betas
        correction1 = 1 - beta1**self.n_steps
        correction2 = 1 - beta2**self.n_steps
        moments = zip(self.means, self.squares, strict=True)
        for parameters, group_factor, decay in self.groups:
            rate = self.learning_rate * factor * group_factor
            for parameter in parameters:
                mean, square = next(moments)
                gradient = parameter.grad
                if decay:
                    parameter.mul_(1 - rate * decay)
                mean.lerp_(gradient, 1 - beta1)
                square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                scale = square.sqrt().div_(correction2**0.5).add_(self.eps)
                parameter.addcdiv_(mean, scale, value=-rate / correction1)

    def state(self) -> dict:
        """Moments and number of steps, as numpy."""
        return {
            "n_steps": self.n_steps,
            "means": [mean.cpu().numpy().copy() for mean in self.means],
            "squares": [square.cpu().numpy().copy() for square in self.squares],
        }

    def restore(self, state: dict) -> None:
        """Go on from a :meth:`state`."""
        self.n_steps = state["n_steps"]
        for name in ("means", "squares"):
            for tensor, array in zip(getattr(self, name), state[name], strict=True):
                tensor.copy_(torch.from_numpy(np.array(array)))


def prepare_inputs(features: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Centred rows (n, d) of length √d, so that a feature is of the order of 1; dtype kept."""
    mean = mean.astype(features.dtype, copy=False)
    return normalize_rows(features - mean) * features.dtype.type(features.shape[1] ** 0.5)


def make_optimizer(
    network: nn.Sequential, learning_rate: float, last_layer_factor: float, weight_decay: float
) -> Adam:
    """Adam, with a rate of its own for the last layer and twice that for its bias.

    The published runs train the last layer at ten times the rate of the layers below, its bias
    at twenty times.
    """
    *below, last = [layer for layer in network if isinstance(layer, nn.Linear)]
    factor = last_layer_factor if below else 1.0
    bias_factor = 2 * factor if factor != 1 else 1.0
    groups = [
        ([p for layer in below for p in layer.parameters()], 1.0, weight_decay),
        ([last.weight], factor, weight_decay),
        ([last.bias], bias_factor, 0.0),
    ]
    return Adam(groups, learning_rate)


# --- loss -----------------------------------------------------------------------------------


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
    if name in ("adaptive_margin", "fixed_margin"):
        vectors = torch.from_numpy(np.array(concept_vectors)).to(device)
        options = {"n_hard_negatives": n_hard_negatives}
        if name == "adaptive_margin":
            function, options["gamma"] = _losses.cosine_margin_loss, gamma
        else:
            function, options["margin"] = _losses.fixed_margin_loss, margin
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


def _pairs(indicator, rows: np.ndarray) -> torch.Tensor:
    """(2, P) position in the batch and concept of every positive, sorted."""
    starts, stops = indicator.indptr[rows], indicator.indptr[rows + 1]
    lengths = stops - starts
    position = np.repeat(np.arange(len(rows)), lengths)
    # for n in rows: indices[indptr[n]:indptr[n + 1]], end to end
    offset = np.arange(len(position)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    concept = indicator.indices[np.repeat(starts, lengths) + offset]
    return torch.from_numpy(np.stack([position, concept.astype(np.int64)]))


# --- codebooks that follow the network ------------------------------------------------------


def mixed_metric(concept_vectors: np.ndarray | None, mix: float) -> np.ndarray | None:
    """Metric of quantization errors: ``mix · VᵀV + (1 − mix) · (C / D) · I``.

    At ``mix`` 1 errors count as far as they change the similarities to the concepts (formula of
    the paper), at 0 they count alike in all directions; the identity is scaled to the trace of
    VᵀV, so that the mix leaves the weight of the quantization loss as it is.

    Parameters
    ----------
    concept_vectors : ndarray of shape (C, D) or None
        Unit rows. None is Euclidean.
    mix : float
        From 0 to 1.

    Returns
    -------
    ndarray of shape (D, D), float64, or None
    """
    if concept_vectors is None:
        return None
    vectors = np.asarray(concept_vectors, dtype=np.float64)
    n_concepts, n_dims = vectors.shape
    return mix * vectors.T @ vectors + (1 - mix) * n_concepts / n_dims * np.eye(n_dims)


def final_codes(
    embeddings: np.ndarray,
    codebooks: np.ndarray,
    metric: np.ndarray | None,
    encode_options: dict,
) -> np.ndarray:
    """(n, M) codes by codebooks that are learned: the code of a row depends on nothing else.

    Seeded alike in every call, and without a start from earlier codes.
    """
    return _codebooks.encode(
        embeddings,
        codebooks,
        metric=metric,
        random_state=np.random.RandomState(0),
        **encode_options,
    )


class CodeAlternation:
    """Codebooks and codes that are brought up to date as the embeddings move.

    Parameters
    ----------
    n_codebooks, n_codewords : int
        M, K.
    period : int
        Epochs from one update to the next.
    weight : float
        lambda, of the quantization loss.
    encode_options : dict
        ``n_sweeps`` and ``beam_size``.
    method : str
        Of the initial codebooks.
    ridge : float
    metric_mix : float
        See :func:`mixed_metric`.
    random_state : numpy RandomState
    codebooks : ndarray of shape (M, K, D), default=None
        To go on from.
    """

    def __init__(
        self,
        n_codebooks,
        n_codewords,
        *,
        period,
        weight,
        encode_options,
        method,
        ridge,
        metric_mix,
        random_state,
        codebooks=None,
    ):
        self.n_codebooks = n_codebooks
        self.n_codewords = n_codewords
        self.period = period
        self.weight = weight
        self.encode_options = encode_options
        self.method = method
        self.ridge = ridge
        self.metric_mix = metric_mix
        self.random_state = random_state
        self.metric: np.ndarray | None = None
        self.codebooks = codebooks
        self.codes = None

    def start(self, concept_vectors: np.ndarray) -> None:
        """Fix the metric of the codes, once the concepts are known."""
        self.metric = mixed_metric(concept_vectors, self.metric_mix)

    def is_due(self, epoch: int) -> bool:
        """Whether to update after this epoch, the first being 1."""
        return epoch % self.period == 0

    def update(
        self, embeddings: np.ndarray, earlier: tuple[np.ndarray, np.ndarray] | None = None
    ) -> float:
        """One turn of codes and codewords over all rows; returns the mean squared error."""
        if self.codebooks is None:
            self.codebooks = _codebooks.init_codebooks(
                embeddings,
                self.n_codebooks,
                self.n_codewords,
                method=self.method,
                random_state=self.random_state,
            )
        self.codes = self._encode(embeddings)
        counts, sums = _codebooks.codebook_statistics(embeddings, self.codes, self.n_codewords)
        if earlier is not None:
            counts, sums = counts + earlier[0], sums + earlier[1]
        updated = _codebooks.solve_codebooks(counts, sums, self.n_codebooks, self.ridge)
        updated = updated.astype(np.float32)
        error = _codebooks.quantization_error(embeddings, self.codes, updated)
        if earlier is None:
            updated = _codebooks.refill_empty_codewords(
                embeddings, updated, self.codes, random_state=self.random_state
            )
        self.codebooks = updated
        return error

    def _encode(self, embeddings: np.ndarray) -> np.ndarray:
        return _codebooks.encode(
            embeddings,
            self.codebooks,
            metric=self.metric,
            codes=None if self.encode_options["beam_size"] else self.codes,
            random_state=self.random_state,
            **self.encode_options,
        )

    def finish(
        self,
        embeddings: np.ndarray,
        n_turns: int,
        statistics: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> tuple[tuple[np.ndarray, np.ndarray], list[float]]:
        """Bring codebooks and codes up to date with embeddings that move no more.

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
            Mean squared error of each turn.
        """
        earlier = statistics
        errors = []
        for _ in range(max(n_turns, self.codebooks is None)):
            errors.append(self.update(embeddings, earlier))
        self.codes = final_codes(embeddings, self.codebooks, self.metric, self.encode_options)
        statistics = _codebooks.codebook_statistics(embeddings, self.codes, self.n_codewords)
        if earlier is not None:
            statistics = tuple(new + old for new, old in zip(statistics, earlier, strict=True))
        return statistics, errors

    def reconstructions(self, rows: np.ndarray) -> np.ndarray:
        """(b, D) what the codes of these rows stand for."""
        return _codebooks.decode(self.codes[rows], self.codebooks)


# --- the loop -------------------------------------------------------------------------------


def train(
    network: nn.Sequential,
    optimizer: Adam,
    inputs: np.ndarray,
    tagged: np.ndarray,
    loss: Callable[[torch.Tensor, np.ndarray], torch.Tensor],
    *,
    n_epochs: int,
    batch_size: int,
    generator: torch.Generator,
    decay: float = 1.0,
    n_drops: int = 0,
    alternation: CodeAlternation | None = None,
    held: np.ndarray | None = None,
) -> Iterator[dict]:
    """Train a network in place; yield the figures of each epoch.

    Parameters
    ----------
    network, optimizer
        From :func:`build_network` and :func:`make_optimizer`.
    inputs : ndarray of shape (n, d), float32
    tagged : ndarray of shape (n,), bool
        Rows that have concepts; the others are left out unless codes are learned along.
    loss : callable
        From :func:`make_loss`.
    n_epochs, batch_size : int
    generator : torch.Generator
        Draws the order of rows.
    decay, n_drops : float, int
        The learning rate is multiplied by ``decay`` ``n_drops`` times, at equal distances.
    alternation : CodeAlternation, default=None
        Codebooks to keep up to date; adds the quantization loss from their first update on.
    held : ndarray of shape (n,), bool, default=None
        Rows to keep apart; the codes of their embeddings are learned all the same.

    Yields
    ------
    dict
        ``"loss"``, ``"quantization_loss"``, ``"learning_rate"``, ``"quantization_error"`` in
        epochs with an update of the codes, and ``"validation_loss"`` where rows are held.

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite.
    """
    device = generator.device
    rows = np.flatnonzero(tagged) if alternation is None else np.arange(len(inputs))
    rows = rows if held is None else rows[~held[rows]]
    features = torch.from_numpy(inputs).to(device)
    metric = None
    for epoch in range(n_epochs):
        factor = decay ** (epoch * (n_drops + 1) // n_epochs)
        if metric is None and alternation is not None and alternation.codes is not None:
            metric = _metric_tensor(alternation.metric, network, device)
        network.train()
        order = rows[torch.randperm(len(rows), generator=generator, device=device).cpu().numpy()]
        sums = np.zeros(2)
        with _threads_for(network, batch_size, device):
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                outputs = network(features[batch])
                total = loss(outputs, batch)
                parts = [float(total.detach()), 0.0]
                if metric is not None:
                    unit = nn.functional.normalize(outputs)
                    targets = torch.from_numpy(alternation.reconstructions(batch)).to(device)
                    quantization = _losses.quantization_loss(unit, targets, metric=metric)
                    total = total + alternation.weight * quantization
                    parts[1] = float(quantization.detach())
                optimizer.zero_grad()
                total.backward()
                optimizer.step(factor)
                sums += np.multiply(parts, len(batch))
        network.eval()
        mean = sums / max(len(order), 1)
        if not np.isfinite(mean).all():
            raise FloatingPointError(
                f"the loss became {mean[0]} in epoch {epoch + 1}; lower learning_rate."
            )
        figures = {
            "loss": float(mean[0]),
            "quantization_loss": float(mean[1]),
            "learning_rate": optimizer.learning_rate * factor,
        }
        if held is not None:
            figures["validation_loss"] = _mean_loss(
                network, features, np.flatnonzero(held), loss, batch_size
            )
        if alternation is not None and alternation.is_due(epoch + 1):
            embeddings = normalize_rows(forward(inputs, network_arrays(network)))
            figures["quantization_error"] = alternation.update(embeddings)
        yield figures


def _threads_for(network: nn.Sequential, batch_size: int, device: torch.device):
    """One thread for steps too small to be divided, however many others there are.

    Two threads wait for each other after every operation, and on a busy machine they mostly wait:
    a step of the default network took twenty times as long there. It also makes results the same
    however many threads a process has.
    """
    n_products = batch_size * sum(parameter.numel() for parameter in network.parameters())
    if device.type != "cpu" or n_products > _DIVISIBLE:
        return nullcontext()
    return one_openmp_thread("torch")


def _mean_loss(network, features, rows, loss, batch_size) -> float:
    """The embedding loss of these rows, without dropout; a batch counts by its rows."""
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            total += float(loss(network(features[batch]), batch)) * len(batch)
    return total / len(rows)


def _metric_tensor(metric, network, device) -> torch.Tensor:
    """(D, D) float32; the identity where the metric is Euclidean."""
    n_dims = network[-2].out_features
    metric = np.eye(n_dims) if metric is None else metric
    return torch.from_numpy(np.asarray(metric, dtype=np.float32)).to(device)
