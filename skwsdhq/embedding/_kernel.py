"""Kernel regression of tag vectors on features: the part of an embedding that needs no training.

Letters: n rows, m landmarks (rows that the kernel compares with), d features, C concepts, D
dimensions. Features enter as unit rows; the kernel of x and y is exp(-gamma·(1 − x·y)).
"""

import functools

import numpy as np
import torch
from scipy import sparse

from ..sphere import normalize_rows
from ..utils.threads import on_one_thread, product
from ..utils.together import together
from ._solving import cholesky, inverse_diagonal, solved

__all__ = [
    "coefs_and_left_out",
    "evident_alpha",
    "kernel_embeddings",
    "leave_one_out",
    "mean_direction",
    "rbf_kernel",
    "row_trust",
    "tag_agreement",
    "tag_directions",
    "tag_targets",
    "word_weights",
    "wrong_share",
]

_BLOCK = 1024  # rows whose kernel with all landmarks a thread holds at once
_PRIOR = 10.0  # entries of all concepts together, that each concept's company begins with
_LEAST = 0.05  # divergence, against the usual one, of a word that tells nothing
_EVIDENT_ROWS = 1000
_ALPHAS = np.geomspace(0.01, 10, 31)


def rbf_kernel(units: np.ndarray, landmarks: np.ndarray, gamma: float) -> np.ndarray:
    """Return exp(-gamma·(1 − x·y)) of unit rows (n, d) and (m, d): (n, m), of their dtype."""
    columns = landmarks.T.astype(units.dtype, copy=False)
    kernel = np.empty((len(units), len(landmarks)), dtype=units.dtype)
    blocks = (slice(start, start + _BLOCK) for start in range(0, len(units), _BLOCK))
    together(
        [functools.partial(_rbf, units[block], columns, gamma, kernel[block]) for block in blocks]
    )
    return kernel


def _rbf(units: np.ndarray, columns: np.ndarray, gamma: float, out: np.ndarray) -> np.ndarray:
    product(units, columns, out=out)
    out -= 1
    out *= gamma
    return np.exp(out, out=out)


def tag_targets(
    indicator: sparse.csr_array, concept_vectors: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Return where the tags of each row say that its embedding should be.

    Parameters
    ----------
    indicator : csr_array of shape (n, C)
    concept_vectors : ndarray of shape (C, D)
        Unit rows.
    weights : ndarray of shape (nnz,), default=None
        Of the entries of ``indicator``, in their order; None are its own values.

    Returns
    -------
    ndarray of shape (n, D), float32
        The direction of the weighted mean of a row's concept vectors, less the mean over all rows
        that have a tag: what all images share tells none apart. Rows without a tag are zero.
    """
    tagged = np.diff(indicator.indptr) > 0
    targets = tag_directions(indicator, concept_vectors, weights)
    targets = targets - mean_direction(targets[tagged])
    return np.where(tagged[:, None], targets, 0).astype(np.float32)


def tag_directions(
    indicator: sparse.csr_array, concept_vectors: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Return the direction (n, D) of the weighted mean of each row's concept vectors, float32."""
    if weights is not None:
        indicator = type(indicator)(
            (weights, indicator.indices, indicator.indptr), shape=indicator.shape
        )
    return normalize_rows(np.asarray(indicator @ concept_vectors, dtype=np.float32))


def mean_direction(directions: np.ndarray) -> np.ndarray:
    """Return the mean (D,) of directions; zeros where all are equal, and it is all there is."""
    mean = directions.mean(axis=0)
    left = np.square(directions - mean).sum()
    return mean if left > 1e-8 * np.square(directions).sum() else np.zeros_like(mean)


def leave_one_out(kernel: np.ndarray, targets: np.ndarray, alpha: float) -> np.ndarray:
    """Predict each row from all others by ridge regression, without a fit for each.

    With H = (K + alpha·I)⁻¹ it is tₙ − (H t)ₙ / Hₙₙ (Rasmussen and Williams, Gaussian Processes
    for Machine Learning, equation 5.12).

    Parameters
    ----------
    kernel : ndarray of shape (m, m)
    targets : ndarray of shape (m, D)
    alpha : float

    Returns
    -------
    ndarray of shape (m, D), float64
    """
    return coefs_and_left_out(kernel, targets, alpha)[1]


def coefs_and_left_out(
    kernel: np.ndarray, targets: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficients H t (m, D) of ridge regression, and what it leaves out gives.

    See :func:`leave_one_out`. Both are float64.
    """
    factor = cholesky(kernel, np.full(len(kernel), alpha))
    wide = targets.astype(np.float64)
    coefs = solved(wide, factor).numpy()
    return coefs, wide - coefs / inverse_diagonal(factor)[:, None]


def word_weights(indicator: sparse.csr_array, specificity: float) -> np.ndarray:
    """Return how much each concept tells of an image, by the company that it keeps.

    A word like sky stands beside any other; one like elephant beside few. A concept's weight is
    the Kullback-Leibler divergence of the concepts beside it from those of all images, raised to
    ``specificity``. So a frequent word counts in full where it goes with certain others, as the
    name of a kind does.

    Parameters
    ----------
    indicator : csr_array of shape (n, C)
        Concepts of rows.
    specificity : float
        0 weighs all alike.

    Returns
    -------
    ndarray of shape (C,), float32
        Of mean 1 over the entries of ``indicator``.
    """
    n_concepts = indicator.shape[1]
    if not specificity:
        return np.ones(n_concepts, dtype=np.float32)
    ones = sparse.csr_array(
        (np.ones(indicator.nnz), indicator.indices, indicator.indptr), shape=indicator.shape
    )
    beside = sparse.csr_array(ones.T @ ones)
    counts = beside.diagonal()
    beside = sparse.coo_array(beside - sparse.diags_array(counts))
    beside.eliminate_zeros()
    share = counts / counts.sum()  # of each concept among all

    def summed(values: np.ndarray) -> np.ndarray:
        """Sum values (nnz,) by the concept that they stand beside."""
        return np.bincount(beside.row, values, minlength=n_concepts).astype(np.float64)

    total = summed(beside.data) + _PRIOR
    # With _PRIOR draws from all concepts added, so that a word seen twice tells little.
    found = (beside.data + _PRIOR * share[beside.col]) / total[beside.row]
    terms = found * np.log(found / share[beside.col])
    divergence, met = summed(terms), summed(share[beside.col])
    unmet = _PRIOR / total
    divergence += (1 - met) * unmet * np.log(unmet)
    divergence = np.maximum(divergence, 0)
    usual = float(divergence @ counts) / counts.sum()
    if usual == 0:  # no concept stands beside another
        return np.ones(n_concepts, dtype=np.float32)
    weights = np.maximum(divergence / usual, _LEAST) ** float(specificity)
    return (weights / (float(weights @ counts) / counts.sum())).astype(np.float32)


def evident_alpha(kernel: np.ndarray, targets: np.ndarray) -> float:
    """Return the ridge that the targets speak for, without a look at any label.

    The marginal likelihood of the targets under the regression, whose scale is profiled out, has a
    closed form for all ridges once the kernel's eigenvalues are known. It is highest where tags
    are predicted best as they are; what is wanted is a ridge under which images of one kind come
    together, and that lies between it and 1: its root, in bounds.

    Parameters
    ----------
    kernel : ndarray of shape (m, m)
        Of landmarks; the first thousand or so at equal distances are looked at.
    targets : ndarray of shape (m, D)

    Returns
    -------
    float
        From 0.5 to 2.
    """
    some = np.linspace(0, len(kernel) - 1, min(len(kernel), _EVIDENT_ROWS)).round().astype(int)
    values, vectors = torch.linalg.eigh(torch.from_numpy(kernel[np.ix_(some, some)]))
    values = values.clamp_min(0).numpy()
    moments = torch.from_numpy(targets[some].astype(np.float64))
    energies = (vectors.T @ moments).square().sum(dim=1).numpy()
    if not energies.any():
        return 1.0
    found = [
        np.log(values + a).sum() + len(some) * np.log((energies / (values + a)).sum())
        for a in _ALPHAS
    ]
    return float(np.clip(np.sqrt(_ALPHAS[int(np.argmin(found))]), 0.5, 2.0))


def wrong_share(agreement: np.ndarray, chance: np.ndarray) -> float:
    """Estimate the share of tags that say nothing about their image.

    Such tags agree with what is expected of an image as tags of other images do: a quarter of them
    less than a quarter of these. Few tags that are right agree so little. (Storey's estimate of
    the share of true null hypotheses, JRSS B 2002.)

    Parameters
    ----------
    agreement : ndarray of shape (P,)
        Cosine of each tag with what is expected of its image.
    chance : ndarray of shape (P,)
        The same with tags exchanged between images.

    Returns
    -------
    float
        From 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> chance = np.arange(100.0)
    >>> wrong_share(np.append(chance, np.full(300, 99.0)), chance)  # a quarter is random
    0.25
    """
    return min(1.0, 4 * float(np.mean(agreement < np.quantile(chance, 0.25))))


@on_one_thread
def kernel_embeddings(
    units: np.ndarray, landmarks: np.ndarray, coefs: np.ndarray, gamma: float
) -> np.ndarray:
    """Return unit rows (n, D) that the regression predicts, of the dtype of ``units``."""
    coefs = coefs.astype(units.dtype, copy=False)
    out = np.empty((len(units), coefs.shape[1]), dtype=units.dtype)

    def embed(start: int) -> None:
        block = slice(start, start + _BLOCK)
        product(rbf_kernel(units[block], landmarks, gamma), coefs, out=out[block])
        normalize_rows(out[block], out=out[block])

    together([functools.partial(embed, start) for start in range(0, len(units), _BLOCK)])
    return out


def tag_agreement(
    indicator: sparse.csr_array,
    concepts: np.ndarray,
    concept_vectors: np.ndarray,
    expected: np.ndarray,
) -> np.ndarray:
    """Return the cosine of concepts (nnz,), in the rows of ``indicator``, to what is expected."""
    row = np.repeat(np.arange(indicator.shape[0]), np.diff(indicator.indptr))
    agreement = np.empty(len(row), dtype=np.float32)
    for start in range(0, len(row), 1 << 16):
        pairs = slice(start, start + (1 << 16))
        agreement[pairs] = np.einsum(
            "pd,pd->p", expected[row[pairs]], concept_vectors[concepts[pairs]]
        )
    return agreement


def row_trust(indicator: sparse.csr_array, weights: np.ndarray) -> np.ndarray:
    """Return how much rows (n,), each with a tag, count by the weights (nnz,) of their tags."""
    counts = np.diff(indicator.indptr)
    row = np.repeat(np.arange(len(counts)), counts)
    return np.sqrt(np.bincount(row, weights, minlength=len(counts)) / counts)
