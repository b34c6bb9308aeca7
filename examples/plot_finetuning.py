"""
Fine-tuning a network
=====================

Features of a frozen, pretrained network are the default. Where pictures are unlike anything that
it has seen, the network can learn along. Here a small network of one's own, which knows nothing,
learns from tags of made pictures alone, and is compared with itself before.

It needs ``pip install ".[demo]"``, some 20 seconds on two idle cores, and no network.
"""

# %%
# Pictures
# --------
# Of twenty classes, with tags of which one in ten is of another class.

import matplotlib.pyplot as plt
import numpy as np
import torch

from skwsdhq import HypersphereEmbedder
from skwsdhq.backbones import Backbone
from skwsdhq.datasets import make_tagged_images
from skwsdhq.embedding import FineTuning
from skwsdhq.metrics import mean_average_precision
from skwsdhq.plotting import TrainingHistoryDisplay

made = make_tagged_images(600, kind="images", n_classes=20, spread=0.6, wrong=0.1, random_state=0)
known, new = np.arange(400), np.arange(400, 600)
tags = [made.tags[i] for i in known]
figure, axes = plt.subplots(2, 8, figsize=(8, 2.4), layout="constrained")
for axis, picture, row in zip(axes.flat, made.data, made.tags, strict=False):
    axis.imshow(picture)
    axis.set(xticks=[], yticks=[])
    axis.set_title(row[0], fontsize=8)

# %%
# A network of one's own
# ----------------------
# Any torch module that makes rows of features of pictures.


def block(n_in, n_out):
    return [torch.nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), torch.nn.ReLU()]


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [*block(3, 16), *block(16, 32)]
        net = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    return Backbone(net, size=24)


# %%
# Frozen, and tuned
# -----------------
# ``FineTuning("all")`` trains all of it: the head alone for ``head_iter`` epochs, then everything,
# at ``rate_factor`` times the head's rate. A network that knows nothing has to learn as fast as the
# head. ``kernel_weight=0`` leaves the kernel regression out: what the network learns is to be seen.

options = {"hidden_layer_sizes": (64,), "kernel_weight": 0, "batch_size": 32, "random_state": 0}
tuning = FineTuning("all", head_iter=2, rate_factor=1.0)
models = {
    "frozen": HypersphereEmbedder(backbone=network(), max_iter=10, **options),
    "tuned": HypersphereEmbedder(backbone=network(), finetune=tuning, max_iter=8, **options),
}
for name, model in models.items():
    model.fit(made.data[known], tags)
    score = mean_average_precision(
        *(model.transform(made.data[new]), model.transform(made.data[known])),
        *(made.target[new], made.target[known]),
    )
    print(f"{name}: mAP@5000 {score:.3f}")

# %%
# What it learned, epoch by epoch: where all layers begin to learn, the loss falls faster.

figure, axis = plt.subplots(layout="constrained")
for name, model in models.items():
    display = TrainingHistoryDisplay({"loss": model.history_["loss"]}).plot(axis, name=name)
    display.lines_["loss"].set(
        color={"frozen": "#999999", "tuned": "#0072B2"}[name],
        marker={"frozen": "s", "tuned": "o"}[name],
    )
axis.legend()
plt.show()
