"""The transform layer: a small network on top of features, in torch and in numpy."""

import functools
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import nn

from ..utils.rows import is_lazy
from ..utils.threads import on_one_thread, product
from ..utils.together import together
from .linear import DividedLinear
from .team import Share

__all__ = [
    "BLOCK",
    "Dropout",
    "arrays_of",
    "build_network",
    "check_layer_sizes",
    "forward",
    "network_arrays",
    "set_arrays",
    "set_share",
]


BLOCK = 4096  # rows that are embedded at once
_ROWS = 1024  # of these, that go through a network in one thread


class Dropout(nn.Module):
    """Drop units by a generator of its own, not by torch's global one.

    A byte decides for each unit, so probabilities are multiples of 1/256; drawn eight at a time
    they cost a twentieth of a Bernoulli variable each.
    """

    def __init__(self, probability: float, generator: torch.Generator) -> None:
        super().__init__()
        self.n_dropped = round(float(probability) * 256)  # of the 256 values of a byte
        self.generator = generator
        # Which rows of a batch these are, where several processes share it: then each draws for
        # all of them, so that a row's units are those that one process would drop.
        self.share: Share | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop units of a batch, and scale the others up, while training."""
        if not self.training or not self.n_dropped:
            return x
        share = self.share
        # Layers within a network may see other axes, of which nothing is known: drawn as they are.
        if share is not None and len(x) != share.stop - share.start:
            share = None
        n_rows = len(x) if share is None else share.n_rows
        n_units = n_rows * math.prod(x.shape[1:])
        # ceil(units / 8) words of eight bytes
        words = torch.empty(-(-n_units // 8), dtype=torch.int64, device=x.device)
        words.random_(-(2**63), None, generator=self.generator)
        drawn = words.view(torch.uint8)[:n_units].reshape(n_rows, *x.shape[1:])
        if share is not None:
            drawn = drawn[share.start : share.stop]
        # The others are scaled up, so that a unit's mean stays what it is without dropout.
        return x * self._factors(drawn, x.dtype)

    def _factors(self, drawn: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return what units are multiplied by, from bytes."""
        scale = 256 / (256 - self.n_dropped)
        if drawn.device.type == "cpu" and dtype == torch.float32:
            # numpy takes a tenth of torch's time to compare bytes.
            factors = (drawn.numpy() >= self.n_dropped).astype(np.float32)
            factors *= np.float32(scale)
            return torch.from_numpy(factors)
        return (drawn >= self.n_dropped).to(dtype).mul_(scale)


def set_share(module: nn.Module, share: Share | None) -> None:
    """Tell the dropout of a network which rows of a batch come next; None is a batch of its own."""
    for layer in module.modules():
        if isinstance(layer, Dropout):
            layer.share = share


def build_network(
    layer_sizes: Sequence[int],
    dropout: float,
    generator: torch.Generator,
    arrays: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
) -> nn.Sequential:
    """Build linear layers with ReLU and dropout between them, tanh after the last.

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
        # Not drawn by torch, whose global generator belongs to the user.
        linear = nn.utils.skip_init(DividedLinear, n_in, n_out, device=device, dtype=torch.float32)
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
            layers += [nn.ReLU(), Dropout(dropout, generator)]
    return nn.Sequential(*layers, nn.Tanh())


def network_arrays(network: nn.Sequential) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return weights (in, out) and bias (out,) of each linear layer, as numpy copies."""
    return [
        (layer.weight.detach().cpu().numpy().T.copy(), layer.bias.detach().cpu().numpy().copy())
        for layer in network
        if isinstance(layer, nn.Linear)
    ]


@on_one_thread
def forward(
    inputs: Any,
    arrays: Sequence[tuple[np.ndarray, np.ndarray]],
    room: Callable[[tuple[int, int], Any], np.ndarray] = np.empty,
    times: Callable[..., np.ndarray] = product,
) -> np.ndarray:
    """Return the network's output, tanh, before normalisation.

    Rows go through it in blocks: hidden layers of all of them would take more memory
    than what is returned, and a row's last bits depend on the block that it stands in. Products
    are the calling thread's: those of numpy round by the number of threads, and codes follow.

    Parameters
    ----------
    inputs : ndarray or MappedRows of shape (n, d)
    arrays : as :func:`network_arrays` gives them
    room : callable, default=numpy.empty
        Makes the array of what is returned.
    times : callable, default=product
        Multiplies; the other one is :func:`~skwsdhq.training.linear.short_product`.

    Returns
    -------
    ndarray of shape (n, D), of the dtype of ``inputs``
    """
    dtype = inputs.dtype
    # In the dtype of the features: float64 in gives float64 out.
    layers = [(w.astype(dtype, copy=False), b.astype(dtype, copy=False)) for w, b in arrays]
    outputs = room((len(inputs), len(layers[-1][1])), dtype)

    def run(start: int) -> None:
        x = inputs[start : start + _ROWS]
        for weights, bias in layers[:-1]:
            x = times(x, weights)
            # In place: the block of a hidden layer is the largest array here.
            x += bias
            np.maximum(x, 0, out=x)
        out = times(x, layers[-1][0], out=outputs[start : start + _ROWS])
        out += layers[-1][1]
        np.tanh(out, out=out)

    calls = [functools.partial(run, start) for start in range(0, len(inputs), _ROWS)]
    if is_lazy(inputs):  # read in turn, by one thread
        for call in calls:
            call()
    else:
        together(calls)
    return outputs


def arrays_of(parameters: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """Copy parameters to numpy."""
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


def check_layer_sizes(sizes: Any) -> tuple[int, ...]:
    """Return units of the hidden layers as ints; anything but whole numbers is an error."""
    sizes = tuple(np.asarray(sizes, dtype=object).ravel())
    for size in sizes:
        if isinstance(size, (bool, np.bool_)) or not isinstance(size, Integral) or size < 1:
            raise ValueError(
                f"hidden_layer_sizes={sizes} should hold whole numbers >= 1; () is one linear "
                "layer without any hidden one."
            )
    return tuple(int(size) for size in sizes)
