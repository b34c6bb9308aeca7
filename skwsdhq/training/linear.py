"""A linear layer whose products are made in parts, side by side, and of short numbers at need."""

import functools
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from ..utils.together import parts_of, together

__all__ = ["DTYPES", "DividedLinear", "choose_products", "has_matrix_units", "short_product"]

DTYPES = ("auto", "float32", "bfloat16")
_PAYS = 1 << 25  # multiplications of a product, from which on it is divided
_PARTS = 2
_MANY_ROWS = 10_000  # trained on, from which on products may be short where nobody asked for it


class DividedLinear(nn.Linear):
    """Do what a linear layer does, units in fixed parts that several threads share.

    So what comes out is the same however many threads there are. Only on a CPU, for batches large
    enough that it pays.

    Attributes
    ----------
    is_short : bool
        Whether products are of bfloat16 while training. What goes in and comes out, parameters and
        their gradients stay float32.
    """

    is_short = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (b, out) of a batch (b, in)."""
        is_short = self.is_short and self.training
        is_large = x.device.type == "cpu" and len(x) * self.weight.numel() >= _PAYS
        if x.ndim != 2 or not (is_short or is_large):
            return super().forward(x)
        kind = _ShortProduct if is_short else _DividedProduct
        return kind.apply(x, self.weight, self.bias, _PARTS if is_large else 1)


def choose_products(layers: Iterable[nn.Module], dtype: str, n_rows: int, batch_size: int) -> None:
    """Have linear layers multiply in a dtype while they train.

    Parameters
    ----------
    layers : iterable of Module
    dtype : {"auto", "float32", "bfloat16"}
        "auto" is bfloat16 where this processor has units for products of such matrices, and there
        is much to do: layers whose products are large, and at least 10,000 rows.
    n_rows : int
        That are trained on.
    batch_size : int
    """
    pays = n_rows >= _MANY_ROWS
    for layer in layers:
        if isinstance(layer, DividedLinear):
            weight = layer.weight
            is_large = pays and batch_size * weight.numel() >= _PAYS
            chosen = dtype == "auto" and is_large and has_matrix_units(weight.device)
            layer.is_short = chosen or dtype == "bfloat16"


def has_matrix_units(device: torch.device) -> bool:
    """Tell whether torch multiplies matrices of bfloat16 by units made for it, on a processor.

    Other instructions for bfloat16 are no faster than those for float32 are.
    """
    # Releases of torch before 2.10 do not tell.
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if device.type != "cpu" or not told.get("amx_bf16", False):
        return False
    # oneDNN makes the products, and may be told to leave the units alone.
    asked = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL"
    may_use = "AMX" in asked.upper() or asked.upper() in ("ALL", "DEFAULT")
    onednn = torch.backends.mkldnn
    return may_use and onednn.is_available() and bool(onednn.enabled)


def short_product(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return a @ b of float32 by factors, and to a result, that are rounded to bfloat16."""
    out = np.empty((len(a), b.shape[1]), np.float32) if out is None else out
    # torch warns of read-only arrays, since it can't promise not to write: copy those.
    given = (factor if factor.flags.writeable else factor.copy() for factor in (a, b))
    factors = (torch.from_numpy(factor).bfloat16() for factor in given)
    torch.from_numpy(out).copy_(torch.mm(*factors))
    return out


class _DividedProduct(torch.autograd.Function):
    """Multiply, and bring gradients back, with each matrix in parts."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, n_parts: int
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.n_parts = n_parts
        # Detached: other threads would have them recorded.
        x, weight, bias = x.detach(), weight.detach(), bias.detach()
        out = x.new_empty((len(x), len(weight)))
        together(
            [
                functools.partial(torch.addmm, bias[units], x, weight[units].T, out=out[:, units])
                for units in parts_of(len(weight), n_parts, 16)
            ]
        )
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = (saved.detach() for saved in ctx.saved_tensors)
        gradient = grad_outputs[0].detach()
        of_weight, of_x, calls = torch.empty_like(weight), None, []
        for units in parts_of(len(weight), ctx.n_parts, 16):
            own = gradient[:, units].T
            calls.append(functools.partial(torch.mm, own, x, out=of_weight[units]))
        if ctx.needs_input_grad[0]:
            of_x = torch.empty_like(x)
            for columns in parts_of(weight.shape[1], ctx.n_parts, 16):
                part = weight[:, columns]
                calls.append(functools.partial(torch.mm, gradient, part, out=of_x[:, columns]))
        together(calls)
        return of_x, of_weight, gradient.sum(dim=0), None


class _ShortProduct(torch.autograd.Function):
    """Do so in bfloat16: factors are rounded to it, and so is a product, whose sums are longer."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, n_parts: int
    ) -> torch.Tensor:
        weight, bias, short = weight.detach(), bias.detach(), x.detach().bfloat16()
        short_weight = torch.empty_like(weight, dtype=torch.bfloat16)
        out = x.new_empty((len(x), len(weight)))

        def multiply(units: slice) -> None:
            own = short_weight[units].copy_(weight[units])
            out[:, units].copy_(torch.mm(short, own.T)).add_(bias[units])

        together([functools.partial(multiply, u) for u in parts_of(len(weight), n_parts, 16)])
        ctx.save_for_backward(short, short_weight)
        ctx.n_parts = n_parts
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = (saved.detach() for saved in ctx.saved_tensors)
        gradient = grad_outputs[0].detach()
        short = gradient.bfloat16()
        of_weight = torch.empty_like(weight, dtype=gradient.dtype)
        of_x = torch.empty_like(x, dtype=gradient.dtype)

        def to_weight(units: slice) -> None:
            of_weight[units].copy_(torch.mm(short[:, units].T, x))

        def to_x(columns: slice) -> None:
            of_x[:, columns].copy_(torch.mm(short, weight[:, columns]))

        calls = [functools.partial(to_weight, u) for u in parts_of(len(weight), ctx.n_parts, 16)]
        wants_x = ctx.needs_input_grad[0]
        if wants_x:
            parts = parts_of(weight.shape[1], ctx.n_parts, 16)
            calls += [functools.partial(to_x, columns) for columns in parts]
        together(calls)
        return of_x if wants_x else None, of_weight, gradient.sum(dim=0), None
