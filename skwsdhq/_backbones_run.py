"""Running a frozen network over images, reading ahead."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ._images_resized import ResizedImages, in_order, prefetched, ten_crops

__all__ = ["DTYPES", "compute_dtype", "features_of"]

logger = logging.getLogger("skwsdhq.backbones")

DTYPES = ("auto", "float32", "bfloat16")
_LARGE_BATCH = 32  # images of a step, from which on bfloat16 pays on a CPU (16: 41 ms against 30)


def compute_dtype(dtype: str, device: Any, batch_size: int | None = None) -> Any:
    """The torch.dtype that a network computes in: ``"auto"`` is bfloat16 where it is fast.

    ``batch_size`` is that of a step of training, for which small batches are faster in float32.
    """
    import torch

    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} should be one of {', '.join(map(repr, DTYPES))}.")
    if dtype == "auto":
        small = device.type == "cpu" and batch_size is not None and batch_size < _LARGE_BATCH
        dtype = "float32" if small or not _has_fast_bfloat16(device) else "bfloat16"
    return getattr(torch, dtype)


def _has_fast_bfloat16(device: Any) -> bool:
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Without these instructions bfloat16 is emulated, at half of float32's speed.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def features_of(
    pictures: ResizedImages,
    network: Any,
    *,
    batch_size: int,
    device: Any,
    dtype: Any,
    ten_crop: bool = False,
    then: Callable[[np.ndarray], np.ndarray] | None = None,
    rows: Sequence[int] | None = None,
    verbose: int = 0,
) -> np.ndarray:
    """(n, d) float32 features of a `Backbone`; while it runs on a batch, the next one is read.

    With ``ten_crop`` the mean over ten crops of pictures that are larger than its input; what
    ``then`` makes of the features of a batch takes their place, and is averaged.
    """
    from tqdm.auto import tqdm

    features: np.ndarray | None = None
    done = 0
    start = time.perf_counter()
    n_rows = len(pictures) if rows is None else len(rows)
    bar = tqdm(total=n_rows, desc="features", unit="img", disable=not verbose)
    ahead = contextlib.closing(prefetched(in_order(pictures, batch_size, rows)))
    with bar, ahead as batches, _runner(network, device, dtype) as run:
        for batch in batches:
            # A crop at a time: ten times the batch would not fit the caches.
            crops = ten_crops(batch, network.size) if ten_crop else iter([batch])
            parts = [run(crop) for crop in crops]
            if then is not None:
                parts = [then(part) for part in parts]
            part = parts[0] if len(parts) == 1 else np.mean(parts, axis=0)
            if features is None:
                features = np.empty((n_rows, part.shape[1]), dtype=np.float32)
            features[done : done + len(part)] = part
            done += len(part)
            bar.update(len(part))
    seconds = time.perf_counter() - start
    logger.info("%d images in %.1f s, %.0f a second", done, seconds, done / max(seconds, 1e-9))
    assert features is not None  # there is at least one image
    return features


@contextlib.contextmanager
def _runner(network: Any, device: Any, dtype: Any) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """A function from (b, size, size, 3) uint8 to (b, d) float32."""
    import torch

    if not isinstance(network.module, torch.nn.Module):
        yield lambda batch: _check_features(network.module(batch), len(batch))
        return
    module = network.module.to(device).to(memory_format=torch.channels_last)
    mean = torch.tensor(network.mean, device=device).reshape(1, 3, 1, 1)
    std = torch.tensor(network.std, device=device).reshape(1, 3, 1, 1)
    half = (
        torch.autocast(device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()
    )

    def run(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), half:
            # (b, H, W, 3) seen as (b, 3, H, W) is channels-last already, the faster layout.
            pixels = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2)
            output = module(pixels.float().sub_(mean).div_(std))
            if output.ndim == 4:
                output = output.mean(dim=(2, 3))
            return _check_features(output.float().cpu().numpy(), len(batch))

    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield run
    finally:
        for part, training in modes:
            part.training = training


def _check_features(output: Any, n_images: int) -> np.ndarray:
    rows = np.asarray(output, dtype=np.float32)
    rows = rows.reshape(len(rows), -1) if rows.ndim > 1 else rows
    if rows.ndim != 2 or len(rows) != n_images:
        raise ValueError(
            f"the backbone gave an array of shape {np.shape(output)} for {n_images} images; it "
            "should give a row of features for each."
        )
    return rows
