"""A fit by all processes that torchrun has started."""

import os
from typing import Any

import joblib
import numpy as np
import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from ..backbones.networks import resolve_device
from ..embedding import HypersphereEmbedder, TagKernelRegressor
from ..images import input_kind
from ..quantization import WSDHQuantizer
from ..training.team import Team, TeamRows
from ..utils.rows import is_lazy
from ._paths import TeamImages

__all__ = ["fit"]


def fit(model: Any, X: Any, y: Any = None) -> Any:
    """Fit a model by all processes of ``torch.distributed``, each of which does its part.

    Every process calls this with the same model, rows and tags, and has the same fitted model in
    the end. A step takes ``batch_size`` rows of each process: two end as one does with twice the
    ``batch_size``, to float precision. Features are extracted, rows are summed up for the
    regression, and codes are found, each process its part of the rows; codebooks follow from sums
    over all. A network learns by DistributedDataParallel, from the loss of the whole batch. The
    first process keeps the checkpoint.

    Without ``torchrun``, and by one process, it is ``model.fit(X, y)``. Otherwise, if the processes
    don't know each other yet, they meet as ``torchrun`` has told them: by gloo, or by NCCL where
    the model's device is a GPU; each process then uses the GPU of its number on its machine.

    Parameters
    ----------
    model : WSDHQuantizer, HypersphereEmbedder or TagKernelRegressor
        Fitted in place. With a ``random_state``, since processes have to draw the same.
    X : array of shape (n, d), memory map, or sequence of images or paths
        All of them in each process: a memory map or paths take no memory for it.
    y : tags of n rows
        As for ``model.fit``.

    Returns
    -------
    model
        Fitted, in each process; one of them is enough to save it.

    Raises
    ------
    TypeError
        If the model is of another kind, or X is neither array nor images.
    ValueError
        If there is no ``random_state``, or the processes were given different things.

    See Also
    --------
    skwsdhq.dask.fit : The same of what a cluster holds, without a network.

    Examples
    --------
    >>> from skwsdhq import WSDHQuantizer
    >>> from skwsdhq.datasets import make_tagged_images
    >>> from skwsdhq.distributed import fit
    >>> made = make_tagged_images(100, random_state=0)
    >>> model = fit(WSDHQuantizer(n_bits=16, random_state=0), made.data, made.tags)  # one process
    >>> model.codes_.shape[0]
    100
    """
    if not isinstance(model, (WSDHQuantizer, HypersphereEmbedder, TagKernelRegressor)):
        raise TypeError(
            f"processes fit a WSDHQuantizer, a HypersphereEmbedder or a TagKernelRegressor "
            f"together; got a {type(model).__name__}."
        )
    if not _have_met(model):
        return model.fit(X, y)
    team = Team()
    if team.size == 1:
        return model.fit(X, y)
    _check_alike(team, model, X, y)
    return model.fit(_divided(X, team), y)


def _have_met(model: Any) -> bool:
    """Tell whether there are several processes, once those of torchrun know each other."""
    if not distributed.is_available():
        return False
    if not distributed.is_initialized():
        if not distributed.is_torchelastic_launched():
            return False
        _meet(model)
    return True


def _meet(model: Any) -> None:
    """Have the processes of torchrun know each other."""
    device = resolve_device(getattr(model, "device", "cpu"))
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, size = next(rendezvous("env://"))
    # After a restart, addresses of processes that are no more stand in torchrun's store.
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=distributed.PrefixStore(f"start {start}", store),
        rank=rank,
        world_size=size,
    )


def _divided(X: Any, team: Team) -> Any:
    if input_kind(X) != "features":
        return TeamImages(X, team)
    if not isinstance(X, np.ndarray) and not is_lazy(X):
        raise TypeError(
            f"X is a {type(X).__name__}; give an array of features (n, d), a memory map of one, or "
            "a sequence of images or paths."
        )
    return TeamRows(X, team)


def _check_alike(team: Team, model: Any, X: Any, y: Any) -> None:
    """Refuse what would have the processes draw, or learn from, different things."""
    seed = model.random_state
    if not isinstance(seed, (int, np.integer)):
        raise ValueError(
            f"random_state={seed!r} should be a number: each process draws for itself, and all "
            "have to draw the same."
        )
    shape = getattr(X, "shape", None) or (len(X),)
    some = X[:: max(1, len(X) // 64)] if isinstance(X, np.ndarray) else list(X[:64])
    # Of other objects nothing may be the same in two processes but what they do.
    plain = (str, int, float, tuple, type(None))
    given = {name: v for name, v in model.get_params().items() if isinstance(v, plain)}
    told = joblib.hash([type(model).__name__, given, tuple(shape), some, y])
    if len(set(team.all(told))) > 1:
        raise ValueError(
            "the processes were given different models, rows or tags; give all of them the same, "
            "in the same order."
        )
