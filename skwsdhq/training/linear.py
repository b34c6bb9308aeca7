"""A linear layer whose products are made in parts, side by side."""

import functools
from typing import Any

import torch
from torch import nn

from ..utils.together import parts_of, together

__all__ = ["DividedLinear"]

_PAYS = 1 << 25  # multiplications of a product, from which on it is divided
_PARTS = 2


class DividedLinear(nn.Linear):
    """Do what a linear layer does, units in fixed parts that several threads share.

    So what comes out is the same however many threads there are. Only on a CPU, for batches large
    enough that it pays.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (b, out) of a batch (b, in)."""
        if x.device.type != "cpu" or x.ndim != 2 or len(x) * self.weight.numel() < _PAYS:
            return super().forward(x)
        return _DividedProduct.apply(x, self.weight, self.bias)


class _DividedProduct(torch.autograd.Function):
    """Multiply, and bring gradients back, with each matrix in parts."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        # Detached: other threads would have them recorded.
        x, weight, bias = x.detach(), weight.detach(), bias.detach()
        out = x.new_empty((len(x), len(weight)))
        together(
            [
                functools.partial(torch.addmm, bias[units], x, weight[units].T, out=out[:, units])
                for units in parts_of(len(weight), _PARTS, 16)
            ]
        )
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = (saved.detach() for saved in ctx.saved_tensors)
        gradient = grad_outputs[0].detach()
        of_weight, of_x, calls = torch.empty_like(weight), None, []
        for units in parts_of(len(weight), _PARTS, 16):
            own = gradient[:, units].T
            calls.append(functools.partial(torch.mm, own, x, out=of_weight[units]))
        if ctx.needs_input_grad[0]:
            of_x = torch.empty_like(x)
            for columns in parts_of(weight.shape[1], _PARTS, 16):
                part = weight[:, columns]
                calls.append(functools.partial(torch.mm, gradient, part, out=of_x[:, columns]))
        together(calls)
        return of_x, of_weight, gradient.sum(dim=0)
