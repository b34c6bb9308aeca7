"""What a network sees at several stages, beside what its last layer says."""

from typing import Any

import torch
from torch import nn

__all__ = ["PREFIX", "Stages", "stage_names"]

PREFIX = "stages:"
_N_STAGES = 4
_SUM = 1000.0  # of a part's features, so that parts count alike whatever their number of channels
_LEAST = 1e-30  # sum of a part


class Stages(nn.Module):
    """Give the features of a network and of its stages, side by side.

    A stage is pooled over its places by the mean and by the maximum; of a transformer's tokens the
    first is taken, and the mean of the others. Each part is scaled to the same sum of absolute
    values: after the square root, with which features enter, parts are of one length.

    Parameters
    ----------
    network : nn.Module
        Without its classifier, in eval mode.
    """

    def __init__(self, network: nn.Module) -> None:
        # Heavy, and for those who ask for stages alone. What it makes of a network keeps nothing
        # from call to call, as hooks would, so that several threads may use it.
        from torchvision.models.feature_extraction import (
            create_feature_extractor,
            get_graph_node_names,
        )

        super().__init__()
        self.names = stage_names(network)
        # Layers of timm's decide by shapes, which a trace can't follow: they are taken as they are.
        leaves = {
            type(m) for m in network.modules() if type(m).__module__.startswith("timm.layers")
        }
        options = {"leaf_modules": [torch.nn.LayerNorm, *leaves]}
        last = get_graph_node_names(network, options, suppress_diff_warning=True)[1][-1]
        nodes = {**{name: name for name in self.names}, last: "last"}
        self.extract = create_feature_extractor(
            network, nodes, tracer_kwargs=options, suppress_diff_warning=True
        ).eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (b, d) features from (b, 3, size, size) pixels."""
        found = self.extract(pixels)
        parts = [_pooled(found["last"])[0]]
        for name in self.names:
            parts += _pooled(found[name])
        return torch.cat([_of_one_sum(part.float()) for part in parts], dim=1)


def _pooled(outputs: torch.Tensor) -> list[torch.Tensor]:
    """Return one or two (b, d) of what a layer gives."""
    if outputs.ndim == 4:
        return [outputs.mean(dim=(2, 3)), outputs.amax(dim=(2, 3))]
    if outputs.ndim == 3:
        return [outputs[:, 0], outputs[:, 1:].mean(dim=1)]
    return [outputs.flatten(1)]


def _of_one_sum(part: torch.Tensor) -> torch.Tensor:
    sums = part.abs().sum(dim=1, keepdim=True)
    # A part of zeros stays one: _SUM / _LEAST is finite.
    return part * (_SUM / sums.clamp_min(_LEAST))


def stage_names(network: nn.Module) -> list[str]:
    """Return the names of a network's later stages, the last one of a known layout.

    Raises
    ------
    ValueError
        If the network is of another layout.
    """
    children: dict[str, Any] = dict(network.named_children())
    if "encoder" in children and hasattr(children["encoder"], "layers"):  # torchvision's ViT
        names = [
            f"encoder.layers.{name}" for name, _ in children["encoder"].layers.named_children()
        ]
        return names[-_N_STAGES - 1 : -1]
    if "blocks" in children:  # timm's EfficientNet and ViT
        names = [f"blocks.{name}" for name, _ in children["blocks"].named_children()]
        return names[-_N_STAGES:]
    if "layer4" in children:  # ResNet
        return [f"layer{n}" for n in range(2, 5)]
    if isinstance(children.get("features"), nn.Sequential):  # EfficientNet, MobileNet, ConvNeXt
        names = [f"features.{name}" for name, _ in children["features"].named_children()]
        if len(names) > _N_STAGES + 1:
            return names[-_N_STAGES - 1 : -1]
    raise ValueError(
        f"the stages of a {type(network).__name__} are not known; leave '{PREFIX}' out, or "
        "features='stages'."
    )
