"""A network that learns together with the transform layer on top of it, from pictures."""

import copy
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import nn

from ..images.resized import side_for_crops
from ..losses.inputs import directions_and_lengths
from ..persistence.registry import saved
from ..utils._compat import Interval, StrOptions
from .linear import DTYPES
from .network import Dropout, arrays_of, forward, network_arrays, set_arrays, set_share
from .scaling import Scaling, raised
from .team import Share, Team, agreed, team_of

__all__ = ["FineTuned", "FineTuning", "load_trunk_state", "trainable_layers"]

_LAST_SHARE = 0.25  # of the parameters, which the layers of finetune="last" hold at least


def trainable_layers(module: nn.Module, finetune: str) -> list[str]:
    """Return the names of the parameters that learn.

    Parameters
    ----------
    module : nn.Module
        Without its classifier.
    finetune : {"last", "all"}
        ``"last"`` is the last layers, as many as hold a quarter of all parameters.

    Returns
    -------
    list of str
        In the module's order.
    """
    # In the order of the module, which is that of the arrays in a checkpoint.
    names = [name for name, _ in module.named_parameters()]
    if finetune == "all":
        return names
    sizes = {name: p.numel() for name, p in module.named_parameters()}
    total, held, chosen = sum(sizes.values()), 0, set()
    # From the end, layer by layer, until they hold their share.
    for layer in reversed(_layers(module)):
        own = [name for name in names if name == layer or name.startswith(f"{layer}.")]
        chosen.update(own)
        held += sum(sizes[name] for name in own)
        if held >= _LAST_SHARE * total:
            break
    return [name for name in names if name in chosen]


def _layers(module: nn.Module, prefix: str = "") -> list[str]:
    """Return names of the layers that a network runs in turn, as its classes list them."""
    layers = []
    for name, child in module.named_children():
        # Activations and pools learn nothing.
        if not any(True for _ in child.parameters()):
            continue
        if isinstance(child, nn.Sequential | nn.ModuleList):
            layers += _layers(child, f"{prefix}{name}.")
        else:
            layers.append(f"{prefix}{name}")
    return layers


def load_trunk_state(module: nn.Module, state: dict[str, np.ndarray]) -> nn.Module:
    """Return a copy of a network with these of its parameters replaced."""
    module = copy.deepcopy(module)
    own = dict(module.named_parameters())
    with torch.no_grad():
        for name, array in state.items():
            if name not in own or tuple(own[name].shape) != array.shape:
                raise ValueError(f"the network has no parameter {name!r} of shape {array.shape}.")
            # A copy: torch warns of arrays that are read-only.
            own[name].copy_(torch.from_numpy(np.array(array)))
    return module


@saved(local=("cache_dir",))
class FineTuning(BaseEstimator):
    """Describe how a pretrained network learns along with the layers on top of it.

    The layers on top are trained alone first, on frozen features; then everything is. Normalisation
    layers keep their statistics.

    Parameters
    ----------
    layers : {"last", "all"}, default="last"
        The last layers of the network, as many as hold a quarter of its parameters; or all.
    head_iter : int, default=20
        Epochs of the layers on top alone, before those of the whole.
    rate_factor : float, default=0.1
        The network's learning rate is that many times that of the layers on top. At most 1e6.
    augment : bool, default=True
        Whether the network sees random crops (of 7/8 of the picture's side) and mirror images.
    crop_size : int or None, default=None
        Side, in pixels, of the pictures that it learns from; None is that of its input. Smaller
        ones take less time, and serve as well where the network takes any size: 128 for 160, say.
        Features are always those of pictures of its input's size.
    micro_batch_size : int or None, default=None
        Images that go through the network at once, where memory does not hold a batch of them;
        the loss is that of the whole batch all the same, at the price of a second pass.
    dtype : {"auto", "float32", "bfloat16"}, default="auto"
        In which the network multiplies while it learns; ``"auto"`` is bfloat16 where the device is
        faster by it (a CPU with instructions for it, in steps of 32 images and more), else float32.
        ``"float32"`` holds for the layers on top, too, unless their `AdamSchedule` says otherwise.
    cache_dir : str, PathLike or None, default=None
        Folder for resized pictures, so that each file is read once.

    Examples
    --------
    >>> from skwsdhq import HypersphereEmbedder
    >>> from skwsdhq.embedding import FineTuning
    >>> embedder = HypersphereEmbedder(finetune=FineTuning("all", crop_size=128))
    >>> embedder.set_params(finetune__head_iter=5).finetune
    FineTuning(crop_size=128, head_iter=5, layers='all')
    """

    _parameter_constraints: dict = {
        "layers": [StrOptions({"last", "all"})],
        "head_iter": [Interval(Integral, 0, None, closed="left")],
        # A limit of 64 bits, since float16 can't hold 1e6.
        "rate_factor": [Interval(Real, 0, np.float64(1e6), closed="right")],
        "augment": ["boolean"],
        "crop_size": [Interval(Integral, 1, None, closed="left"), None],
        "micro_batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "dtype": [StrOptions(set(DTYPES))],
        "cache_dir": [str, os.PathLike, None],
    }

    def __init__(
        self,
        layers: str = "last",
        *,
        head_iter: int = 20,
        rate_factor: float = 0.1,
        augment: bool = True,
        crop_size: int | None = None,
        micro_batch_size: int | None = None,
        dtype: str = "auto",
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.layers = layers
        self.head_iter = head_iter
        self.rate_factor = rate_factor
        self.augment = augment
        self.crop_size = crop_size
        self.micro_batch_size = micro_batch_size
        self.dtype = dtype
        self.cache_dir = cache_dir


class FineTuned:
    """Train a network and the head on top of it together.

    Normalisations keep the statistics that the network came with, so that an image's features
    don't depend on the rest of its batch. Dropout of the network draws from ``generator``.

    Parameters
    ----------
    head : nn.Sequential
        From :func:`build_network`.
    backbone : Backbone
        Its module is copied.
    images : object with ``rows(indices) -> (b, side, side, 3) uint8`` and ``__len__``
        Pictures at least as large as the network's input; larger ones are cropped.
    scaling : Scaling
        Of the features.
    tuning : FineTuning
        Which layers learn, of what crops, and how many images at once.
    embed_features : callable of a Backbone
        Gives the features (n, d) of all images.
    generator : torch.Generator
        Draws crops and masks; its device is the network's.
    dtype : torch.dtype
        In which the network multiplies; the head and all parameters are float32.
    before : dict of str to ndarray, default=None
        What an earlier fit taught the network, of other layers than those that learn now too.
    team : Team, default=None
        Processes that learn together.

    Attributes
    ----------
    shared_head : nn.Module
        The head, as steps call it: its gradients are those of all processes of a team.
    """

    def __init__(  # noqa: PLR0913 - what it is made of, by name
        self,
        head: nn.Sequential,
        backbone: Any,
        images: Any,
        scaling: Scaling,
        tuning: FineTuning,
        *,
        embed_features: Callable[[dict[str, np.ndarray]], np.ndarray],
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        before: dict[str, np.ndarray] | None = None,
        team: Team | None = None,
    ) -> None:
        self.head, self.device = head, generator.device
        self.shared_head: nn.Module = head
        self.size = backbone.size
        self.images = images
        self.augment = tuning.augment
        chunk = tuning.micro_batch_size
        # A number of numpy's would overflow where it is of few bits.
        self.micro_batch_size = None if chunk is None else int(chunk)
        self._before = dict(before or {})
        self.dtype = dtype
        device = self.device
        # Given from above: extraction belongs to a room higher up.
        self._embed_features = embed_features
        mean = scaling.mean
        self._scaling = scaling
        if mean is not None:
            self._scaling = Scaling(np.asarray(mean, dtype=np.float32), scaling.power)
        self._mean_on_device = (
            None if mean is None else torch.tensor(self._scaling.mean, device=device)
        )
        self._generator = generator
        # Convolutions on a CPU are faster in this order of the axes.
        layout = {"memory_format": torch.channels_last}
        module = copy.deepcopy(backbone.module).to(device, torch.float32, **layout).eval()
        _own_dropout(module, generator)
        learning = set(trainable_layers(module, tuning.layers))
        self._parameters = {}
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in learning)
            if name in learning:
                self._parameters[name] = parameter
        self._module = module
        self._shared_module: nn.Module = module
        on_device: dict[str, Any] = {"device": device, "dtype": torch.float32}
        self._pixel_mean = torch.tensor(backbone.mean, **on_device).reshape(1, 3, 1, 1)
        self._pixel_std = torch.tensor(backbone.std, **on_device).reshape(1, 3, 1, 1)
        self._kept: tuple[Any, ...] | None = None
        self._team = team
        if team is not None:
            pixels = torch.zeros((1, 3, self.size, self.size), dtype=torch.uint8)
            head.eval()  # nothing is drawn here
            with torch.no_grad():
                inputs = self._prepared(pixels)
            self.shared_head = team.wrapped(head, inputs)
            self._shared_module = team.wrapped(module, self._normal(pixels))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """Parameters that learn below the head."""
        return list(self._parameters.values())

    @staticmethod
    def side(size: int, augment: bool) -> int:
        """Return the side of the pictures for a network of that input."""
        return side_for_crops(size) if augment else size

    def inputs(self, rows: np.ndarray, share: Share | None = None) -> torch.Tensor:
        """Return (b, d) of a step, from crops of these images."""
        pixels = self._crops(self._pictures(rows), draw=self.augment, share=share)
        if share is not None and not len(rows):
            # Few networks take no picture at all: one of no consequence.
            pixels = pixels.new_zeros((1, *pixels.shape[1:]))
            share = Share(0, 1, share.n_rows, share.most)
        _set_dropout(self._module, True)
        chunk = self.micro_batch_size
        # Processes call the network alike, whatever number of rows each has.
        if chunk is None or chunk >= (len(rows) if share is None else share.most):
            self._kept = None
            set_share(self._module, share)
            return self._prepared(pixels)[: len(rows)]
        # Parts of a process's own rows draw for themselves.
        set_share(self._module, None)
        # The second pass has to drop the same units as the first.
        before = self._generator.get_state()
        with torch.no_grad():
            parts = [self._prepared(pixels[i : i + chunk]) for i in range(0, len(pixels), chunk)]
        # A leaf: the gradient of the head ends here, and goes on chunk by chunk afterwards.
        inputs = torch.cat(parts).requires_grad_()
        self._kept = (pixels, inputs, before, chunk)
        return inputs[: len(rows)]

    def backward_to_backbone(self) -> None:
        """Bring the gradient of the last inputs down to the network, chunk by chunk."""
        if self._kept is None:
            return
        pixels, inputs, before, chunk = self._kept
        self._kept = None
        after = self._generator.get_state()
        self._generator.set_state(before)  # the same units are dropped again
        for i in range(0, len(pixels), chunk):
            rows = slice(i, i + chunk)
            # Processes add up their gradients once, whatever number of parts each has.
            is_last = i + chunk >= len(pixels)
            alone = None if is_last else getattr(self._shared_module, "no_sync", None)
            with nullcontext() if alone is None else alone():
                self._prepared(pixels[rows]).backward(inputs.grad[rows])
        self._generator.set_state(after)

    def held_inputs(self, rows: np.ndarray) -> torch.Tensor:
        """Return (b, d) for a look at the loss: the middle of each image, nothing dropped."""
        _set_dropout(self._module, False)
        with torch.no_grad():
            return self._prepared(self._crops(self._pictures(rows), draw=False))

    def outputs(self) -> Any:
        """Return (n, D) of all images as they would be transformed now, before normalisation.

        Each process of a team makes those of its own part; the others' come when asked for.
        """
        inputs, arrays = self._scaling.inputs(self.features()), network_arrays(self.head)
        if team_of(inputs) is None:
            return forward(inputs, arrays)
        return inputs.of_part(lambda rows: forward(rows, arrays))

    def rough_outputs(self) -> Any:
        """Return the same: what the network below takes leaves nothing to be gained."""
        return self.outputs()

    def features(self) -> Any:
        """Return (n, d) what the network makes of all images now."""
        return self._embed_features(self.trunk_state())

    def whole(self, outputs: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """Return the outputs: nothing is joined with them before the network has learned."""
        return outputs

    def trunk_state(self) -> dict[str, np.ndarray]:
        """Return what the network learned, by the name of the parameter."""
        own = dict(zip(self._parameters, arrays_of(self.parameters), strict=True))
        return {**self._before, **own}

    def state(self) -> list[np.ndarray]:
        """Return all that is learned, as numpy copies."""
        return arrays_of([*self.head.parameters(), *self.parameters])

    def restore(self, state: list[np.ndarray]) -> None:
        """Set what :meth:`state` gave."""
        set_arrays([*self.head.parameters(), *self.parameters], state)

    def threads(self, batch_size: int) -> AbstractContextManager:
        """Return a context for its steps: those of a network are large enough for all threads."""
        return nullcontext()

    # --- helpers ------------------------------------------------------------------------

    def _prepared(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (b, d) float32 inputs of the head, from (b, 3, size, size) uint8."""
        normal = self._normal(pixels)
        low = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype) if low else nullcontext():
            features = self._shared_module(normal)
            if features.ndim == 4:
                # A network without its own pooling gives a map; extraction takes its mean as well.
                features = features.mean(dim=(2, 3))
        inputs = raised(features.float(), self._scaling.power)
        if self._mean_on_device is None:
            return inputs
        # The mean before tuning: the head has been trained on rows that are so centred.
        centred = inputs - self._mean_on_device
        return directions_and_lengths(centred)[0] * centred.shape[1] ** 0.5

    def _normal(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return what the network takes, from (b, 3, size, size) uint8."""
        normal = (pixels.to(self.device).float() - self._pixel_mean) / self._pixel_std
        return normal.contiguous(memory_format=torch.channels_last)

    def _pictures(self, rows: np.ndarray) -> np.ndarray:
        """Return pictures (b, side, side, 3), none of none."""
        pictures: np.ndarray = agreed(self._team, lambda: self.images.rows(rows))
        return pictures

    def _crops(self, pictures: np.ndarray, draw: bool, share: Share | None = None) -> torch.Tensor:
        """Return (b, 3, size, size) uint8 crops: drawn, half of them mirrored; or the middle."""
        spare = pictures.shape[1] - self.size
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        middle = spare // 2
        if not draw:
            return pixels[:, :, middle : middle + self.size, middle : middle + self.size]
        device = self._generator.device
        shape = (3, len(pictures) if share is None else share.n_rows)
        # For all pictures at once: three numbers each, down, right and mirrored.
        drawn = torch.rand(shape, generator=self._generator, device=device, dtype=torch.float32)
        if share is not None:
            drawn = drawn[:, share.start : share.stop]
        crops = [pixels[:0, :, : self.size, : self.size]]  # where there is no picture
        for picture, (down, right, mirrored) in zip(pixels, drawn.T.cpu().numpy(), strict=True):
            top, left = int(down * (spare + 1)), int(right * (spare + 1))
            crop = picture[:, top : top + self.size, left : left + self.size]
            crops.append((crop.flip(2) if mirrored < 0.5 else crop)[None])
        return torch.cat(crops)


def _own_dropout(module: nn.Module, generator: torch.Generator) -> None:
    """Have a network's dropout draw from a generator of ours, not from torch's global one."""
    # Lists, since children are replaced on the way.
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            # Not any subclass: one that drops in a way of its own is left alone.
            if type(child) in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d):
                share: Any = child.p
                setattr(parent, name, Dropout(share, generator).eval())


def _set_dropout(module: nn.Module, on: bool) -> None:
    """Let a network's dropout drop units, or let all pass."""
    for layer in module.modules():
        if isinstance(layer, Dropout):
            layer.train(on)
