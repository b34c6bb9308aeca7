"""Networks by name as OpenVINO runs them on a CPU, where it is installed: in half of the time."""

import importlib.util
import logging
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

__all__ = ["TOLERANCE", "openvino_runners"]

logger = logging.getLogger("skwsdhq.backbones")
TOLERANCE = 1e-4  # of a row's length, by which features may differ from torch's
_MIN_IMAGES = 512  # what conversion costs, some seconds, is saved by so many
_CONVERTED: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()  # None: it can't be


class _FromPixels(torch.nn.Module):
    """Go from (b, size, size, 3) uint8 to (b, d), as extraction does."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.module = network.module
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(network.mean, dtype=torch.float32).view(shape))
        self.register_buffer("std", torch.tensor(network.std, dtype=torch.float32).view(shape))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        pixels = batch.permute(0, 3, 1, 2).float().sub(self.mean).div(self.std)
        output = self.module(pixels)
        return output.mean(dim=(2, 3)) if output.ndim == 4 else output


def openvino_runners(
    network: Any, n_images: int, n_threads: int
) -> list[Callable[[np.ndarray], np.ndarray]] | None:
    """Return functions from pixels to features (b, d), one for each thread.

    Return None where OpenVINO is not installed, can't run the network, gives other features than
    torch does, or would take longer to prepare than it saves.
    """
    module = network.module
    if any(part.training for part in module.modules()):
        return None
    if module not in _CONVERTED:
        if n_images < _MIN_IMAGES or importlib.util.find_spec("openvino") is None:
            return None
        # Two threads that come at once both convert it.
        _CONVERTED[module] = _converted(network)
    model = _CONVERTED[module]
    if model is None:
        return None
    import openvino

    options = {
        "NUM_STREAMS": n_threads,
        "INFERENCE_NUM_THREADS": n_threads,
        "INFERENCE_PRECISION_HINT": "f32",
        # Other programs may need these cores as well.
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.Core().compile_model(model, "CPU", options)
    return [_runner(compiled.create_infer_request()) for _ in range(n_threads)]


def _runner(request: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return what runs batches by a request, which one thread at a time may use."""

    def run(batch: np.ndarray) -> np.ndarray:
        # A copy: the next batch is written to the same memory.
        return np.array(request.infer([batch])[0], dtype=np.float32)

    return run


def _converted(network: Any) -> Any:
    """Return OpenVINO's form of a network; None where there is none that agrees with torch."""
    try:
        model = _convert(network)
        if _agrees(model, network):
            return model
        logger.info("OpenVINO gives other features than torch, which is taken instead")
    except Exception as error:  # an operation that it does not know, or another release of torch
        logger.info("OpenVINO can't run this network, and torch does: %s", error)
    return None


def _convert(network: Any) -> Any:
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # By its parts: openvino.convert_model would tell its makers that it has been called.
    example = torch.zeros((2, network.size, network.size, 3), dtype=torch.uint8)
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own, of the way that OpenVINO takes
        traced = torch.jit.trace(_FromPixels(network).eval(), example, check_trace=False)
        decoder = TorchScriptPythonDecoder(traced, example_input=(example,))
        frontend = FrontEndManager().load_by_framework("pytorch")
        loaded = frontend.load(decoder)
        model = frontend.convert(loaded)
    pixels = model.inputs[0].get_node()
    pixels.set_element_type(openvino.Type.u8)
    pixels.set_partial_shape(openvino.PartialShape([-1, network.size, network.size, 3]))
    model.validate_nodes_and_infer_types()
    return model


def _agrees(model: Any, network: Any) -> bool:
    """Tell whether a converted network gives torch's features of some pictures of noise."""
    import openvino

    batch = np.random.RandomState(0).randint(0, 256, (3, network.size, network.size, 3), np.uint8)
    options = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
    compiled = openvino.Core().compile_model(model, "CPU", options)
    run = _runner(compiled.create_infer_request())
    with torch.inference_mode():
        expected = _FromPixels(network).eval()(torch.from_numpy(batch)).numpy()
    apart = np.linalg.norm(run(batch) - expected, axis=1)
    # One picture as well: the number of pictures is not part of the network.
    alone = np.linalg.norm(run(batch[:1]) - expected[:1], axis=1)
    limit = TOLERANCE * np.linalg.norm(expected, axis=1)
    return bool((apart <= limit).all() and (alone <= limit[:1]).all())
