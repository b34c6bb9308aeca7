"""What a fitted kernel regression says of each of its rows, as if that row had not been there.

Embeddings of rows that a model was fitted to are nearer to their tags than those of other images
are. Whoever learns from them how far embeddings can be trusted needs these instead.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..sphere import normalize_rows
from ..utils.threads import on_one_thread, product
from ._kernel import cholesky, rbf_kernel

__all__ = ["left_out_embeddings"]


@on_one_thread
def left_out_embeddings(kernel: Mapping[str, Any]) -> np.ndarray | None:
    """Return unit rows (m, D): each landmark placed by a regression to all others.

    With H = (K + N)⁻¹, N the noise on a diagonal and A = H·T the coefficients, it is
    K·A + N·A − A / diag(H) (Rasmussen and Williams, Gaussian Processes for Machine Learning,
    equation 5.12, where targets are T = (K + N)·A).

    Parameters
    ----------
    kernel : mapping
        ``kernel_`` of a fitted regression whose landmarks are all rows of the fit.

    Returns
    -------
    ndarray of shape (m, D), float32, or None
        None where an older version has fitted it, which did not keep the noise.
    """
    if "noise" not in kernel:
        return None
    landmarks = kernel["landmarks"]
    gram = rbf_kernel(landmarks, landmarks, kernel["gamma"]).astype(np.float64)
    noise, coefs = kernel["noise"].astype(np.float64), kernel["coefs"].astype(np.float64)
    inverse = torch.cholesky_inverse(cholesky(gram.copy(), noise)).numpy()
    # K·A + N·A are the targets, which a model does not keep; A / diag(H) takes out their own part.
    moved = (noise - 1 / np.diag(inverse))[:, None] * coefs
    return normalize_rows(product(gram, coefs) + moved).astype(np.float32)
