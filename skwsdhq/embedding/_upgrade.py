"""Parameters of older versions, which stood flat beside each other, as parts."""

from typing import Any

from ..losses.objects import NAMES as LOSSES
from ..training.optimizer import AdamSchedule
from ..training.scaling import FeatureScaler
from ..training.stopping import EarlyStopping
from ..training.trunk import FineTuning
from .regressor import TagKernelRegressor

__all__ = ["NEW_NAMES", "parts_from_flat"]

# By the parameter of today: the old names of its part's parameters, and what they are called now.
_PARTS: dict[str, tuple[type, dict[str, str]]] = {
    "kernel": (
        TagKernelRegressor,
        {
            "kernel_gamma": "gamma",
            "kernel_alpha": "alpha",
            "tag_consistency": "consistency",
            "max_landmarks": "max_landmarks",
        },
    ),
    "scaler": (FeatureScaler, {"feature_power": "power", "feature_scaling": "scale"}),
    "optimizer": (
        AdamSchedule,
        {
            "learning_rate_decay": "decay",
            "n_drops": "n_drops",
            "drop_period": "drop_period",
            "last_layer_factor": "last_layer_factor",
            "weight_decay": "weight_decay",
            "max_grad_norm": "max_grad_norm",
        },
    ),
    "finetune": (
        FineTuning,
        {
            "head_iter": "head_iter",
            "backbone_factor": "rate_factor",
            "augment": "augment",
            "crop_size": "crop_size",
            "micro_batch_size": "micro_batch_size",
            "dtype": "dtype",
            "cache_dir": "cache_dir",
        },
    ),
    "early_stopping": (
        EarlyStopping,
        {
            "validation_fraction": "validation_fraction",
            "n_iter_no_change": "n_iter_no_change",
            "tol": "tol",
        },
    ),
}
_OF_LOSSES = ("gamma", "margin", "temperature", "n_hard_negatives")

# What to write in place of an old name.
NEW_NAMES = {
    "gamma": "loss=AdaptiveMargin(gamma=...)",
    "margin": "loss=FixedMargin(margin=...) or loss=MeanTagHinge(margin=...)",
    "temperature": "loss=Contrastive(temperature=...)",
    "n_hard_negatives": "loss=AdaptiveMargin(n_hard_negatives=...)",
    **{
        old: f"{name}={part.__name__}({new}=...)"
        for name, (part, names) in _PARTS.items()
        for old, new in names.items()
    },
}


def parts_from_flat(flat: dict[str, Any]) -> dict[str, Any]:
    """Return parameters of a HypersphereEmbedder from those of versions before it had parts.

    Parameters
    ----------
    flat : dict
        Some or all of them, by their old names; names that are still in use stay.

    Returns
    -------
    dict
        Parts that would be default ones are left to the default.
    """
    given = dict(flat)
    loss = given.get("loss", "adaptive_margin")
    # Flat parameters stood for all losses; a loss takes those that it has.
    of_loss = {name: given.pop(name) for name in _OF_LOSSES if name in given}
    if isinstance(loss, str) and loss in LOSSES:
        known = LOSSES[loss]().get_params()
        own = {name: value for name, value in of_loss.items() if name in known}
        given |= _part("loss", LOSSES[loss](**own), loss)
    for name, (kind, names) in _PARTS.items():
        own = {new: given.pop(old) for old, new in names.items() if old in given}
        if name == "finetune":
            layers = given.pop("finetune", "head")
            # Nothing of the backbone learned, and its parameters meant nothing.
            if layers == "head":
                continue
            given |= _part(name, kind(layers, **own), layers)
        elif name == "early_stopping":
            # Without early stopping its parameters meant nothing.
            if given.pop(name, False):
                given |= _part(name, kind(**own), True)
        else:
            if name == "kernel" and own:  # words counted alike, and images by a ridge of 1
                own = {"alpha": 1.0, "specificity": 0.0, **own}
            given |= _part(name, kind(**own), None)
    return given


def _part(name: str, part: Any, default: Any) -> dict[str, Any]:
    """Return a part by the name of its parameter, or what stands for it where it is the default."""
    positional = (part.layers,) if isinstance(part, FineTuning) else ()
    # None and names say the same in fewer words, and follow later defaults.
    if part.get_params() == type(part)(*positional).get_params():
        return {} if default is None else {name: default}
    return {name: part}
