"""AlexNet in Caffe's layout, from a file of numpy arrays, read without running what it pickles."""

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import nn

__all__ = ["MEAN_RGB", "SIZE", "load_alexnet", "read_arrays"]

SIZE = 227
MEAN_RGB = (123.68, 116.779, 103.939)
# Padding and number of groups of each convolution; the first has stride 4.
_CONVOLUTIONS = {
    "conv1": (0, 1),
    "conv2": (2, 2),
    "conv3": (1, 1),
    "conv4": (1, 2),
    "conv5": (1, 2),
}
_LINEAR = ("fc6", "fc7")
_LAST_SIDE = 6  # of the map that fc6 sees
# All that arrays and containers need of a pickle, under the names of numpy 1 and 2.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("collections", "OrderedDict"),
}


class _ArraysOnly(pickle.Unpickler):
    """Read numpy arrays and builtin containers, and refuse to import anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle asks for by name, where it is allowed."""
        if (module, name) == ("_codecs", "encode"):
            return _latin1  # how Python 2's pickles hold bytes
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which is neither an array nor a container"
            )
        return super().find_class(module, name)


def _latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


def read_arrays(path: str | Path) -> dict:
    """Read a dictionary that was saved by ``np.save`` or ``pickle`` and holds arrays only.

    No code of the file is run: names other than those of numpy's arrays are refused.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it is damaged, holds something else, or asks for other code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the weights {str(path)!r} do not exist.")
    try:
        with open(path, "rb") as file:
            _skip_header(file)
            value = _ArraysOnly(file, encoding="latin1").load()
    # A damaged stream raises whatever the half-read objects happen to raise.
    except Exception as error:
        raise OSError(f"the weights {str(path)!r} can't be read: {error}.") from error
    # np.save wraps a dict into an array of no axes.
    if isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
        value = value.item()
    if not isinstance(value, dict):
        raise OSError(f"{str(path)!r} should hold a dict of layers; it holds {type(value)}.")
    return value


def _skip_header(file: BinaryIO) -> None:
    """Move behind the header that ``np.save`` writes before a pickled object."""
    begin = file.read(6)
    file.seek(0)
    if begin != b"\x93NUMPY":
        return
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    if not read(file)[2].hasobject:
        raise ValueError("it is a plain array, not a dict of layers")


def load_alexnet(path: str | Path, *, swapped: bool = False) -> Any:
    """Build AlexNet up to fc7 as a torch module for RGB pixels less `MEAN_RGB`.

    Layers ``conv1`` to ``conv5``, ``fc6`` and ``fc7`` each hold weights and biases; convolutions as
    (height, width, channels in, channels out) for BGR, linear layers as (in, out), fc6 over a map
    flattened with its channels last. Other layers are left out. Pooling stands before local
    response normalisation, as in Caffe's reference network.

    Parameters
    ----------
    path : str or Path
    swapped : bool, default=False
        Whether RGB pixels go to weights for BGR, as in the published code of WSDHQ.

    Returns
    -------
    torch.nn.Sequential
        From (b, 3, 227, 227) to (b, 4096), in evaluation mode.

    Raises
    ------
    OSError
        If the file can't be read, a layer is missing, or has another shape. It is named.
    """
    layers = read_arrays(path)
    # Initialisation draws weights, which are then replaced; users' random numbers stay theirs.
    with torch.random.fork_rng(devices=[]):
        parts, n_channels = _convolutions(layers, path, swapped)
        parts += [nn.Flatten(), *_linears(layers, path, n_channels)]
        return nn.Sequential(*parts).eval()


def _convolutions(layers: dict, path: str | Path, swapped: bool) -> tuple[list[nn.Module], int]:
    """Return the layers up to the last pooling, and the number of channels that leave it."""
    parts: list[nn.Module] = []
    n_channels = 3
    for name, (padding, n_groups) in _CONVOLUTIONS.items():
        weights, biases = _layer(layers, name, 4, path)
        if weights.shape[2] * n_groups != n_channels:
            raise OSError(
                f"layer {name} of {str(path)!r} has weights of shape {weights.shape}; for "
                f"{n_channels} channels in {n_groups} groups the third should be "
                f"{n_channels // n_groups}."
            )
        kernel = weights.transpose(3, 2, 0, 1)  # (out, in, height, width)
        if name == "conv1" and not swapped:
            kernel = kernel[:, ::-1]  # BGR to RGB
        stride = 4 if name == "conv1" else 1
        n_out = len(kernel)
        convolution = nn.Conv2d(
            n_channels,
            n_out,
            kernel.shape[2:],
            stride,
            padding,
            groups=n_groups,
            dtype=torch.float32,
        )
        _fill(convolution, kernel, biases)
        parts += [convolution, nn.ReLU()]
        if name in ("conv1", "conv2", "conv5"):
            parts.append(nn.MaxPool2d(3, 2))
        if name in ("conv1", "conv2"):
            # Caffe divides alpha by the window's size, as torch does.
            parts.append(nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0))
        n_channels = n_out
    return parts, n_channels


def _linears(layers: dict, path: str | Path, n_channels: int) -> list[nn.Module]:
    """Return fc6 and fc7, each with its ReLU and dropout."""
    parts: list[nn.Module] = []
    n_in = n_channels * _LAST_SIDE**2
    for name in _LINEAR:
        weights, biases = _layer(layers, name, 2, path)
        if len(weights) != n_in:
            raise OSError(
                f"layer {name} of {str(path)!r} has weights of shape {weights.shape}; the "
                f"first should be {n_in}."
            )
        if name == "fc6":  # channels last to channels first
            maps = weights.reshape(_LAST_SIDE, _LAST_SIDE, n_channels, -1)
            weights = maps.transpose(2, 0, 1, 3).reshape(weights.shape)
        n_in = weights.shape[1]
        linear = nn.Linear(len(weights), n_in, dtype=torch.float32)
        _fill(linear, weights.T, biases)
        parts += [linear, nn.ReLU(), nn.Dropout(0.5)]
    return parts


def _layer(layers: dict, name: str, n_dimensions: int, path: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        weights, biases = (np.asarray(array, dtype=np.float32) for array in layers[name])
    except (KeyError, TypeError, ValueError) as error:
        raise OSError(f"{str(path)!r} has no layer {name} with weights and biases.") from error
    if weights.ndim != n_dimensions or biases.shape != weights.shape[-1:]:
        raise OSError(
            f"layer {name} of {str(path)!r} has weights of shape {weights.shape} and biases of "
            f"shape {biases.shape}."
        )
    return weights, biases


def _fill(part: Any, weights: np.ndarray, biases: np.ndarray) -> None:
    with torch.no_grad():
        part.weight.copy_(torch.from_numpy(np.ascontiguousarray(weights)))
        part.bias.copy_(torch.from_numpy(np.array(biases)))
