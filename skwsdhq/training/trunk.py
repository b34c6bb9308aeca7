"""A network that learns together with the transform layer on top of it, from pictures."""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from ..images.resized import side_for_crops
from ..losses.inputs import directions_and_lengths
from ..sphere import normalize_rows
from .network import (
    _Dropout,
    arrays_of,
    forward,
    network_arrays,
    prepare_inputs,
    raised,
    set_arrays,
)

__all__ = ["FineTuned", "load_trunk_state", "trainable_layers"]

_LAST_SHARE = 0.25  # of the parameters, which the layers of finetune="last" hold at least


def trainable_layers(module: nn.Module, finetune: str) -> list[str]:
    """Names of the parameters that learn.

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
    names = [name for name, _ in module.named_parameters()]
    if finetune == "all":
        return names
    sizes = {name: p.numel() for name, p in module.named_parameters()}
    total, held, chosen = sum(sizes.values()), 0, set()
    for layer in reversed(_layers(module)):
        own = [name for name in names if name == layer or name.startswith(f"{layer}.")]
        chosen.update(own)
        held += sum(sizes[name] for name in own)
        if held >= _LAST_SHARE * total:
            break
    return [name for name in names if name in chosen]


def _layers(module: nn.Module, prefix: str = "") -> list[str]:
    """Names of the layers that a network runs one after the other, as its classes list them."""
    layers = []
    for name, child in module.named_children():
        if not any(True for _ in child.parameters()):
            continue
        if isinstance(child, nn.Sequential | nn.ModuleList):
            layers += _layers(child, f"{prefix}{name}.")
        else:
            layers.append(f"{prefix}{name}")
    return layers


def load_trunk_state(module: nn.Module, state: dict[str, np.ndarray]) -> nn.Module:
    """A copy of a network with these of its parameters replaced."""
    module = copy.deepcopy(module)
    own = dict(module.named_parameters())
    with torch.no_grad():
        for name, array in state.items():
            if name not in own or tuple(own[name].shape) != array.shape:
                raise ValueError(f"the network has no parameter {name!r} of shape {array.shape}.")
            own[name].copy_(torch.from_numpy(np.array(array)))
    return module


class FineTuned:
    """A network and the head on top of it, which learn together; a model of :func:`train`.

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
    mean, power : ndarray of shape (d,) or None, float
        See :func:`prepare_inputs`.
    embed_features : callable of a Backbone
        Gives the features (n, d) of all images.
    device : torch.device
    generator : torch.Generator
    finetune : {"last", "all"}
    augment : bool
        Whether crops and flips are drawn; else the middle is cut out.
    micro_batch_size : int or None
        Images that go through the network at once. The loss is of the whole batch all the same:
        its gradient with respect to the features is kept while the images pass a second time.
    dtype : torch.dtype
        In which the network multiplies; the head and all parameters are float32.
    """

    def __init__(
        self,
        head,
        backbone,
        images,
        mean,
        *,
        power=1.0,
        embed_features,
        device,
        generator,
        finetune="all",
        augment=True,
        micro_batch_size=None,
        dtype=torch.float32,
    ):
        self.head, self.device = head, device
        self.size = backbone.size
        self.power = power
        self.images = images
        self.augment = augment
        self.micro_batch_size = micro_batch_size
        self.dtype = dtype
        self._backbone, self._embed_features = backbone, embed_features
        self._mean = None if mean is None else np.asarray(mean, dtype=np.float32)
        self._mean_on_device = None if mean is None else torch.tensor(self._mean, device=device)
        self._generator = generator
        layout = {"memory_format": torch.channels_last}
        module = copy.deepcopy(backbone.module).to(device, torch.float32, **layout).eval()
        _own_dropout(module, generator)
        learning = set(trainable_layers(module, finetune))
        self._parameters = {}
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in learning)
            if name in learning:
                self._parameters[name] = parameter
        self._module = module
        on_device = {"device": device, "dtype": torch.float32}
        self._pixel_mean = torch.tensor(backbone.mean, **on_device).reshape(1, 3, 1, 1)
        self._pixel_std = torch.tensor(backbone.std, **on_device).reshape(1, 3, 1, 1)
        self._kept: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """What learns below the head."""
        return list(self._parameters.values())

    @staticmethod
    def side(size: int, augment: bool) -> int:
        """Side of the pictures for a network of that input."""
        return side_for_crops(size) if augment else size

    def inputs(self, rows: np.ndarray) -> torch.Tensor:
        """(b, d) of a step, from crops of these images."""
        pixels = self._crops(self.images.rows(rows), draw=self.augment)
        _set_dropout(self._module, True)
        chunk = self.micro_batch_size
        if chunk is None or chunk >= len(rows):
            self._kept = None
            return self._prepared(pixels)
        before = self._generator.get_state()
        with torch.no_grad():
            parts = [self._prepared(pixels[i : i + chunk]) for i in range(0, len(rows), chunk)]
        inputs = torch.cat(parts).requires_grad_()
        self._kept = (pixels, inputs, before)
        return inputs

    def spread(self) -> None:
        """Bring the gradient of the last inputs down to the network, chunk by chunk."""
        if self._kept is None:
            return
        pixels, inputs, before = self._kept
        self._kept = None
        after = self._generator.get_state()
        self._generator.set_state(before)  # the same units are dropped again
        for i in range(0, len(pixels), self.micro_batch_size):
            rows = slice(i, i + self.micro_batch_size)
            self._prepared(pixels[rows]).backward(inputs.grad[rows])
        self._generator.set_state(after)

    def held_inputs(self, rows: np.ndarray) -> torch.Tensor:
        """(b, d) for a look at the loss: the middle of each image, nothing dropped."""
        _set_dropout(self._module, False)
        with torch.no_grad():
            return self._prepared(self._crops(self.images.rows(rows), draw=False))

    def embeddings(self, normalize: bool = True) -> np.ndarray:
        """(n, D) unit rows, of all images as they would be transformed now; or of any length."""
        inputs = prepare_inputs(self.features(), self._mean, self.power)
        outputs = forward(inputs, network_arrays(self.head))
        return normalize_rows(outputs) if normalize else outputs

    def features(self) -> np.ndarray:
        """(n, d) what the network makes of all images now."""
        return self._embed_features(self.trunk_state())

    def whole(self, outputs: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """The outputs: nothing is joined with them before the network has learned."""
        return outputs

    def trunk_state(self) -> dict[str, np.ndarray]:
        """What the network learned, by the name of the parameter."""
        return dict(zip(self._parameters, arrays_of(self.parameters), strict=True))

    def state(self) -> list[np.ndarray]:
        """All that is learned, as numpy copies."""
        return arrays_of([*self.head.parameters(), *self.parameters])

    def restore(self, state: list[np.ndarray]) -> None:
        """Set what :meth:`state` gave."""
        set_arrays([*self.head.parameters(), *self.parameters], state)

    def threads(self, batch_size: int) -> AbstractContextManager:
        """A context for its steps: those of a network are large enough for all threads."""
        return nullcontext()

    # --- helpers ------------------------------------------------------------------------

    def _prepared(self, pixels: torch.Tensor) -> torch.Tensor:
        """(b, d) float32 inputs of the head, from (b, 3, size, size) uint8."""
        normal = (pixels.to(self.device).float() - self._pixel_mean) / self._pixel_std
        normal = normal.contiguous(memory_format=torch.channels_last)
        low = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype) if low else nullcontext():
            features = self._module(normal)
            if features.ndim == 4:
                features = features.mean(dim=(2, 3))
        inputs = raised(features.float(), self.power)
        if self._mean_on_device is None:
            return inputs
        centred = inputs - self._mean_on_device
        return directions_and_lengths(centred)[0] * centred.shape[1] ** 0.5

    def _crops(self, pictures: np.ndarray, draw: bool) -> torch.Tensor:
        """(b, 3, size, size) uint8 crops: drawn, half of them mirrored; or the middle."""
        spare = pictures.shape[1] - self.size
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        middle = spare // 2
        if not draw:
            return pixels[:, :, middle : middle + self.size, middle : middle + self.size]
        device = self._generator.device
        shape = (3, len(pictures))
        drawn = torch.rand(shape, generator=self._generator, device=device, dtype=torch.float32)
        drawn = drawn.cpu().numpy()
        crops = []
        for picture, (down, right, mirrored) in zip(pixels, drawn.T, strict=True):
            top, left = int(down * (spare + 1)), int(right * (spare + 1))
            crop = picture[:, top : top + self.size, left : left + self.size]
            crops.append(crop.flip(2) if mirrored < 0.5 else crop)
        return torch.stack(crops)


def _own_dropout(module: nn.Module, generator: torch.Generator) -> None:
    """Have a network's dropout draw from a generator of ours, not from torch's global one."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d):
                setattr(parent, name, _Dropout(child.p, generator).eval())


def _set_dropout(module: nn.Module, on: bool) -> None:
    for layer in module.modules():
        if isinstance(layer, _Dropout):
            layer.train(on)
