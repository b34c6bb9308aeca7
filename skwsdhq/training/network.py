"""The transform layer: a small network on top of features, and its optimizer."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from ..sphere import normalize_rows
from ..utils.threads import on_one_thread, product

__all__ = [
    "BLOCK",
    "Adam",
    "arrays_of",
    "build_network",
    "forward",
    "make_optimizer",
    "network_arrays",
    "prepare_inputs",
    "raised",
    "set_arrays",
]


BLOCK = 4096  # rows that go through a network at once
_SOFT = 1e-4  # how far from 0 a power of features starts


class _Dropout(nn.Module):
    """Dropout that draws from a generator of its own, not from torch's global one.

    A byte decides for each unit, so probabilities are multiples of 1/256; drawn eight at a time
    they cost a twentieth of a Bernoulli variable each.
    """

    def __init__(self, probability: float, generator: torch.Generator):
        super().__init__()
        self.n_dropped = round(float(probability) * 256)  # of the 256 values of a byte
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
        linear = nn.utils.skip_init(nn.Linear, n_in, n_out, device=device, dtype=torch.float32)
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


@on_one_thread
def forward(inputs: np.ndarray, arrays: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The network's output, tanh, before normalisation.

    Rows go through it in blocks of ``BLOCK``: hidden layers of all of them would take more memory
    than what is returned, and a row's last bits depend on the block that it stands in. Products
    are the calling thread's: those of numpy round by the number of threads, and codes follow.

    Parameters
    ----------
    inputs : ndarray of shape (n, d)
    arrays : as :func:`network_arrays` gives them

    Returns
    -------
    ndarray of shape (n, D), of the dtype of ``inputs``
    """
    dtype = inputs.dtype
    layers = [(w.astype(dtype, copy=False), b.astype(dtype, copy=False)) for w, b in arrays]
    outputs = np.empty((len(inputs), len(layers[-1][1])), dtype)
    for start in range(0, len(inputs), BLOCK):
        x = inputs[start : start + BLOCK]
        for weights, bias in layers[:-1]:
            x = product(x, weights)
            x += bias
            np.maximum(x, 0, out=x)
        out = product(x, layers[-1][0], out=outputs[start : start + BLOCK])
        out += layers[-1][1]
        np.tanh(out, out=out)
    return outputs


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
        self.groups = [(list(p), float(factor), float(decay)) for p, factor, decay in groups]
        self.learning_rate = float(learning_rate)
        self.betas = betas
        self.eps = eps
        self.n_steps = 0
        self.parameters = [p for parameters, _, _ in self.groups for p in parameters]
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, factor: float = 1.0, max_norm: float | None = None) -> None:
        """One step at ``factor`` times the learning rate, by a gradient of at most that norm."""
        self.n_steps += 1
        if max_norm is not None:
            squares = [p.grad.square().sum() for p in self.parameters]
            norm = float(torch.stack(squares).sum().sqrt())
            if norm > max_norm:
                for parameter in self.parameters:
                    parameter.grad.mul_(max_norm / norm)
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
        if type(state["n_steps"]) is not int or state["n_steps"] < 0:
            raise ValueError(f"Adam has done {state['n_steps']!r} steps.")
        self.n_steps = state["n_steps"]
        for name in ("means", "squares"):
            set_arrays(getattr(self, name), state[name])


def prepare_inputs(features: np.ndarray, mean: np.ndarray | None, power: float = 1.0) -> np.ndarray:
    """Centred rows (n, d) of length √d, so that a feature is of the order of 1; dtype kept.

    Features are raised to ``power`` first (:func:`raised`); ``mean`` is that of raised ones, None
    leaves them where they are, and as long as they are.
    """
    if mean is None:
        return raised(features, power)
    mean = mean.astype(features.dtype, copy=False)
    centred = raised(features, power) - mean
    return normalize_rows(centred) * features.dtype.type(features.shape[1] ** 0.5)


def raised(features: Any, power: float) -> Any:
    """sign(x)·|x|^power of an array or tensor, near 0 so softened that its slope stays finite."""
    if power == 1:
        return features
    # Below 1 a few large features no longer outvote the many small ones.
    size = abs(features)
    size = (size + _SOFT) ** power - _SOFT**power
    return size * (np.sign(features) if isinstance(features, np.ndarray) else features.sign())


def make_optimizer(
    network: nn.Sequential,
    learning_rate: float,
    last_layer_factor: float,
    weight_decay: float,
    trunk: Sequence[torch.Tensor] = (),
    trunk_factor: float = 1.0,
) -> Adam:
    """Adam, with a rate of its own for the last layer and twice that for its bias.

    The published runs train the last layer at ten times the rate of the layers below, its bias
    at twenty times. ``trunk`` holds the parameters of a network below that learns along, at
    ``trunk_factor`` times the rate.
    """
    *below, last = [layer for layer in network if isinstance(layer, nn.Linear)]
    factor = last_layer_factor if below or trunk else 1.0
    bias_factor = 2 * factor if factor != 1 else 1.0
    groups = [
        ([p for layer in below for p in layer.parameters()], 1.0, weight_decay),
        ([last.weight], factor, weight_decay),
        ([last.bias], bias_factor, 0.0),
    ]
    if trunk:
        # Biases and the scales of normalisations are not pulled to zero.
        wide = [p for p in trunk if p.ndim > 1]
        groups.append((wide, trunk_factor, weight_decay))
        groups.append(([p for p in trunk if p.ndim <= 1], trunk_factor, 0.0))
    return Adam(groups, learning_rate)


def arrays_of(parameters: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """Copies of parameters, as numpy."""
    return [p.detach().cpu().contiguous().numpy().copy() for p in parameters]


@torch.no_grad()
def set_arrays(parameters: Sequence[torch.Tensor], arrays: Sequence[np.ndarray]) -> None:
    """Set parameters to what :func:`arrays_of` gave; arrays of other shapes are an error."""
    for parameter, array in zip(parameters, arrays, strict=True):
        if not isinstance(array, np.ndarray) or array.shape != tuple(parameter.shape):
            shape = getattr(array, "shape", type(array).__name__)
            raise ValueError(f"a parameter of shape {tuple(parameter.shape)} can't become {shape}.")
        if not np.isfinite(array).all():
            raise ValueError("a parameter can't become NaN or infinite.")
    for parameter, array in zip(parameters, arrays, strict=True):
        parameter.copy_(torch.from_numpy(np.array(array)))
