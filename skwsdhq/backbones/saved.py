"""What a file holds of networks and of an ImageLoader."""

from typing import Any

from ..persistence.checks import check_count, need
from ..persistence.registry import looks_like_path

__all__ = ["REQUIRED", "check_loader", "network_name"]

REQUIRED = {"backbone_", "n_features_out_", "_passes"}


def network_name(backbone: Any) -> str | None:
    """Return a network's name, by which it is found on another machine.

    Parameters
    ----------
    backbone : str, torch.nn.Module, callable, Backbone or None

    Returns
    -------
    str or None
        None where there is no network.

    Raises
    ------
    TypeError
        If it is given as an object or a path.
    """
    if backbone is None or (isinstance(backbone, str) and not looks_like_path(backbone)):
        return backbone
    raise TypeError(
        "only networks with a name can. Extract features first (backbones.extract_features), fit "
        "on these and set backbone='auto'; or use joblib, which pickles the network."
    )


def check_loader(loader: Any) -> None:
    """Raise LoadError where a loader's columns are not those that it passes on."""
    if loader.n_features_out_ is not None:
        check_count(loader.n_features_out_, "n_features_out_", least=1)
    has_columns = hasattr(loader, "n_features_in_")
    need(loader._passes is has_columns, "n_features_in_ just where features pass")
    if has_columns:
        passes = loader.backbone_ is None and loader.n_features_in_ == loader.n_features_out_
        need(passes, "n_features_in_ columns that pass, and no backbone_")
