"""A fit by all processes that torchrun has started."""

import atexit
import gc
import os
import sys
from typing import Any

import joblib
import numpy as np
import torch
from sklearn.utils import check_array
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from ..backbones.networks import resolve_device
from ..embedding import HypersphereEmbedder, TagKernelRegressor
from ..images import input_kind
from ..quantization import WSDHQuantizer
from ..training.team import Team, TeamRows
from ..utils._compat import callbacks_of
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
    first process keeps the checkpoint. What one process can't read, or raises in a callback, is an
    error in all; callbacks are the same in all, and where one asks to stop, all do.

    Without ``torchrun``, and by one process, it is ``model.fit(X, y)``. Otherwise, if the processes
    don't know each other yet, they meet as ``torchrun`` has told them, until they end: by gloo, or
    by NCCL where the model's device is a GPU; each process then uses the GPU of its number on its
    machine. A group that the program has made itself is left to it.

    Parameters
    ----------
    model : WSDHQuantizer, HypersphereEmbedder or TagKernelRegressor
        Fitted in place. With a number as ``random_state``, since processes have to draw the same.
        ``verbose``, ``device`` and names of folders may differ between processes.
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
        If ``random_state`` is no number, or the processes were given different things: it says
        which. And as for ``model.fit``.

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
    device = _device_of(model)
    if not _have_met(device) or distributed.get_world_size() == 1:
        return model.fit(X, y)
    _check_carried(device)
    team = Team()
    rows = team.agreed(lambda: _divided(model, X, team))
    _check_alike(team, model, X, y)
    return model.fit(rows, y)


def _device_of(model: Any) -> torch.device:
    """Return where a model learns: its embedder says so, if it is given one."""
    given = getattr(model, "embedder", None)
    device: torch.device = resolve_device(
        getattr(model if given is None else given, "device", "cpu")
    )
    return device


def _have_met(device: torch.device) -> bool:
    """Tell whether there are several processes, once those of torchrun know each other."""
    if not distributed.is_available():
        return False
    if not distributed.is_initialized():
        if not distributed.is_torchelastic_launched():
            return False
        _meet(device)
    return True


def _meet(device: torch.device) -> None:
    """Have the processes of torchrun know each other."""
    # Later models may learn elsewhere: a group carries what is on GPUs too, where there are any.
    number, has_gpus = int(os.environ["LOCAL_RANK"]), distributed.is_nccl_available()
    has_gpus = has_gpus and number < torch.cuda.device_count()
    if has_gpus or device.type == "cuda":
        torch.cuda.set_device(number)
    store, rank, size = next(rendezvous("env://"))
    # After a restart, addresses of processes that are no more stand in torchrun's store.
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    # A process that ends while threads of the group's are at work may end with an error.
    atexit.register(_part)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if has_gpus else "gloo",
        store=distributed.PrefixStore(f"start {start}", store),
        rank=rank,
        world_size=size,
    )


def _check_carried(device: torch.device) -> None:
    """Refuse a group of the program's own that carries nothing from where the model learns."""
    config = distributed.get_backend_config()
    if device.type not in [pair.partition(":")[0] for pair in config.split(",")]:
        raise ValueError(
            f"the processes know each other by {config}, which does not serve device={device}; "
            "leave init_process_group to fit, or let it begin with 'cpu:gloo,cuda:nccl' (and set "
            "the GPU of each process), or set the device of the model."
        )


def _part() -> None:
    """Have this process leave those of torchrun, if it is among them still."""
    # Where an error ends it, others may be in the middle of something: nobody waits for them.
    if distributed.is_initialized() and not hasattr(sys, "last_value"):
        gc.collect()  # networks in cycles would keep the group
        distributed.destroy_process_group()


def _divided(model: Any, X: Any, team: Team) -> Any:
    """Return rows or images as a fit takes them that divides them among processes."""
    if input_kind(X) != "features":
        return TeamImages(X, team)
    if isinstance(X, np.ndarray) and not is_lazy(X):
        # Now, since of later blocks each process sees its own.
        options: Any = {"ensure_min_samples": 0, "ensure_min_features": 0, "estimator": model}
        X = check_array(X, input_name="X", **options)
    elif not is_lazy(X):
        raise TypeError(
            f"X is a {type(X).__name__}; give an array of features (n, d), as np.asarray makes "
            "one, a memory map, or a sequence of images or paths."
        )
    return TeamRows(X, team)


def _check_alike(team: Team, model: Any, X: Any, y: Any) -> None:
    """Refuse what would have the processes draw, or learn from, different things."""
    told = team.all(team.agreed(lambda: _told(model, X, y)))
    names = dict.fromkeys(name for other in told for name in other)
    differ = [name for name in names if len({other.get(name) for other in told}) > 1]
    if differ:
        raise ValueError(
            f"the processes were given different {', '.join(differ)}; give all of them the same "
            "model, rows and tags, in the same order."
        )


def _told(model: Any, X: Any, y: Any) -> dict[str, Any]:
    """Return what should be the same in all processes, as digests by name."""
    if not isinstance(model.random_state, (int, np.integer)):
        raise ValueError(
            f"random_state={model.random_state!r} should be a number: each process draws for "
            "itself, and all have to draw the same."
        )
    shape = getattr(X, "shape", None) or (len(X),)
    some: Any = None
    if isinstance(X, np.ndarray):
        some = np.array(X[:: max(1, len(X) // 64)])  # a map or not
    else:
        rows = getattr(X, "iloc", X)  # labels of a pandas.Series need not be numbers
        n_rows = min(64, len(X))
        some = rows[:n_rows] if len(shape) > 1 else [rows[row] for row in range(n_rows)]
    given = {"rows": [tuple(shape), some], "tags": y, "models": type(model).__name__}
    # Callbacks may ask for what all processes have to make together.
    given["callbacks"] = [type(own).__name__ for own in callbacks_of(model)]
    for name, value in model.get_params().items():
        own = name.rpartition("__")[2]
        if own in ("checkpoint_dir", "cache_dir"):
            given[name] = value is None  # each machine has its own folders
        elif own not in ("device", "verbose") and _is_plain(value):
            given[name] = value
    return {name: joblib.hash(value) for name, value in given.items()}


def _is_plain(value: Any) -> bool:
    """Tell whether a parameter says what it is; other objects need not be equal, but act alike."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return all(_is_plain(own) for own in value)
    return value is None or isinstance(value, (str, int, float, np.generic, np.random.RandomState))
