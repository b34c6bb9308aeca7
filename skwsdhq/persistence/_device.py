"""Models from a machine with a device that this one lacks."""

from typing import Any

import torch

from ..utils.warn import warn_caller

__all__ = ["mend_device"]


def mend_device(estimator: Any) -> None:
    """Say so, and forget it, where a fitted model names a device that is not here."""
    device = getattr(estimator, "device", None)
    if device is None or not any(name.endswith("_") for name in vars(estimator)):
        return
    kind = str(device).split(":")[0]
    # Other kinds of devices are torch's to judge, when they are used.
    missing = (kind == "cuda" and not torch.cuda.is_available()) or (
        kind == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        warn_caller(
            f"{type(estimator).__name__} was fitted on device={str(device)!r}, which this machine "
            "does not have; device=None is used in its place."
        )
        estimator.device = None
