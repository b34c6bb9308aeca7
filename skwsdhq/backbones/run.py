"""Running a frozen network over images, reading ahead."""

import contextlib
import copy
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from joblib import effective_n_jobs
from tqdm.auto import tqdm

from ..images.resized import ResizedImages, in_order, prefetched, ten_crops
from ..utils.pool import mapped
from ..utils.progress import LongRun
from ..utils.threads import on_one_thread
from ._openvino import openvino_runners

__all__ = ["DTYPES", "compute_dtype", "extraction_of", "features_of"]

logger = logging.getLogger("skwsdhq.backbones")

# Held while a module that can't be copied is switched to eval mode, or a copy is made and kept.
_IN_PLACE = threading.RLock()
_MOVED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # to copies by device
DTYPES = ("auto", "float32", "bfloat16")
_LARGE_BATCH = 32  # images of a step, from which on bfloat16 pays on a CPU (16: 41 ms against 30)


def compute_dtype(dtype: str, device: Any, batch_size: int | None = None) -> Any:
    """Return the torch.dtype to compute in: ``"auto"`` is bfloat16 where it is fast.

    ``batch_size`` is that of a step of training, for which small batches are faster in float32.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} should be one of {', '.join(map(repr, DTYPES))}.")
    if dtype == "auto":
        small = device.type == "cpu" and batch_size is not None and batch_size < _LARGE_BATCH
        dtype = "float32" if small or not _has_fast_bfloat16(device) else "bfloat16"
    return getattr(torch, dtype)


def _has_fast_bfloat16(device: Any) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Without these instructions bfloat16 is emulated, at half of float32's speed.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def features_of(  # noqa: PLR0913 - those of extract_features, once they are checked
    pictures: ResizedImages,
    network: Any,
    *,
    batch_size: int,
    device: Any,
    dtype: Any,
    ten_crop: bool = False,
    then: Callable[[np.ndarray], np.ndarray] | None = None,
    rows: Sequence[int] | None = None,
    room: Callable[[tuple[int, int], Any], np.ndarray] = np.empty,
    is_own: bool = False,
    announced_as: str | None = None,
    verbose: int = 0,
) -> np.ndarray:
    """Compute features (n, d), float32; while the network runs on a batch, read the next one.

    With ``ten_crop`` a row is the mean over ten crops of a picture larger than the network's input.
    ``then`` takes the features of a batch, and gives what takes their place, before that mean.
    ``room`` makes the array of all. ``is_own`` says that nobody else changes the network. The log
    calls it ``announced_as``, and is silent where that is None.
    """
    features: np.ndarray | None = None
    done = 0
    start = time.perf_counter()
    n_rows = len(pictures) if rows is None else len(rows)
    n_batches = -(-n_rows // batch_size)
    run = None if announced_as is None else extraction_of(n_rows, announced_as, device)

    def work(run: Callable[[np.ndarray], np.ndarray], batch: np.ndarray) -> list[np.ndarray]:
        # A crop at a time: ten times the batch would not fit the caches.
        return [run(crop) for crop in (ten_crops(batch, network.size) if ten_crop else [batch])]

    bar = tqdm(total=n_rows, desc="features", unit="img", disable=not verbose)
    ahead = contextlib.closing(prefetched(in_order(pictures, batch_size, rows)))
    with (
        bar,
        ahead as batches,
        _runners(network, device, dtype, n_rows, n_batches, is_own) as runs,
        contextlib.closing(mapped(work, batches, runs)) as results,
    ):
        for parts in results:
            if then is not None:
                parts = [then(part) for part in parts]
            part = parts[0] if len(parts) == 1 else np.mean(parts, axis=0)
            # The width is known once the first batch is there.
            if features is None:
                features = room((n_rows, part.shape[1]), np.float32)
            features[done : done + len(part)] = part
            done += len(part)
            bar.update(len(part))
            if run is not None:
                run.advance(done)
    if verbose:
        seconds = time.perf_counter() - start
        logger.info("%d images in %.1f s, %.0f a second", done, seconds, done / max(seconds, 1e-9))
    assert features is not None  # there is at least one image
    return features


def extraction_of(n_images: int, name: str, device: Any) -> LongRun:
    """Return what tells of an extraction in the log."""
    doing = f"extracting features of {n_images} images by {name} on {device}"
    return LongRun(logger, doing, n_images)


@contextlib.contextmanager
def _runners(
    network: Any, device: Any, dtype: Any, n_images: int, n_batches: int, is_own: bool
) -> Iterator[list[Callable[[np.ndarray], np.ndarray]]]:
    """Yield functions from (b, size, size, 3) uint8 to (b, d) float32, for as many threads.

    On a CPU each keeps to one thread: threads share out the batches, not the loops within one. No
    thread then waits for another within a batch, and their number does not change its features.
    """
    module = network.module
    if not isinstance(module, torch.nn.Module):
        yield [lambda batch: _check_features(module(batch), len(batch))]
        return
    divided = device.type == "cpu" and not _has_hooks(module)
    n_threads = min(_n_threads(), n_batches) if divided else 1
    if divided and is_own and dtype == torch.float32:
        # Named networks alone: of others nobody knows whether a form that is kept is still theirs.
        runners = openvino_runners(network, n_images, n_threads)
        if runners is not None:
            yield runners
            return
    with contextlib.ExitStack() as stack:
        runs = []
        for _ in range(n_threads):
            own = stack.enter_context(_eval_copy(module, device, is_own))
            run = _runner(own, network, device, dtype)
            runs.append(on_one_thread(run) if divided else run)
        yield runs


def _n_threads() -> int:
    """Count the threads that torch may use here; one within a worker of joblib."""
    return max(1, min(torch.get_num_threads(), effective_n_jobs(-1)))


def _has_hooks(module: Any) -> bool:
    """Tell whether parts have hooks; these may share what they write to."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


@contextlib.contextmanager
def _eval_copy(module: Any, device: Any, is_own: bool) -> Iterator[Any]:
    """Yield the module in eval mode on a device, in a copy that nobody else can change.

    The copy shares the parameters where they are on that device already. A network that came of a
    name, and is in eval mode, needs no copy; on another device its copy is kept.
    """
    tensors = [*module.parameters(), *module.buffers()]
    is_there = all(
        value.device.type == device.type and device.index in (None, value.device.index)
        for value in tensors
    )
    if is_own and not any(part.training for part in module.modules()):
        yield module if is_there else _moved(module, device)
        return
    # deepcopy takes what its memo holds for copied already.
    shared = {id(value): value for value in module.parameters()} if is_there else {}
    try:
        copied = copy.deepcopy(module, shared).eval()
    except Exception:  # what can't be copied is used by one at a time
        with _IN_PLACE, _evaluating(module):
            yield module.to(device)
        return
    yield copied if is_there else _to_device(copied, device)


def _moved(module: Any, device: Any) -> Any:
    """Return a copy on another device, which is kept as long as the module is."""
    with _IN_PLACE:
        copies = _MOVED.setdefault(module, {})
        if device not in copies:
            copies[device] = _to_device(copy.deepcopy(module), device)
        return copies[device]


def _to_device(module: Any, device: Any) -> Any:
    # Convolutions are faster with channels last, as pictures have them.
    return module.to(device).to(memory_format=torch.channels_last)


@contextlib.contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    # Part by part: a part may be in eval mode on purpose while the whole trains.
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _runner(
    module: Any, network: Any, device: Any, dtype: Any
) -> Callable[[np.ndarray], np.ndarray]:
    # A network of float64 or bfloat16 takes pixels of its own kind.
    floats = (value.dtype for value in module.parameters() if value.is_floating_point())
    own_dtype = next(floats, torch.float32)
    shape = (1, 3, 1, 1)
    mean = torch.tensor(network.mean, device=device, dtype=torch.float32).reshape(shape)
    std = torch.tensor(network.std, device=device, dtype=torch.float32).reshape(shape)
    is_low = dtype != torch.float32

    def run(batch: np.ndarray) -> np.ndarray:
        # Whatever stands around the call, it is as without.
        low = torch.autocast(device.type, dtype if is_low else None, enabled=is_low)
        with torch.inference_mode(), low:
            # (b, H, W, 3) seen as (b, 3, H, W) is channels-last already, the faster layout.
            pixels = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2)
            output = module(pixels.float().sub_(mean).div_(std).to(own_dtype))
            if not isinstance(output, torch.Tensor):
                raise ValueError(
                    f"the backbone gave a {type(output).__name__}; it should give a tensor with a "
                    "row of features for each image."
                )
            if output.ndim == 4:  # a map: the mean over its places, as pooling would
                output = output.mean(dim=(2, 3))
            return _check_features(output.float().cpu().numpy(), len(batch))

    return run


def _check_features(output: Any, n_images: int) -> np.ndarray:
    # Maps of a callable, (b, d, 1, 1) for one, become rows.
    rows = np.asarray(output, dtype=np.float32)
    rows = rows.reshape(len(rows), -1) if rows.ndim > 1 else rows
    if rows.ndim != 2 or len(rows) != n_images:
        raise ValueError(
            f"the backbone gave an array of shape {np.shape(output)} for {n_images} images; it "
            "should give a row of features for each."
        )
    return rows
