"""
Search over hyperparameters, from pictures to codes
===================================================

One pipeline goes from pictures to codes of 2 bytes. A grid of 12 candidates is searched with two
processes; the pretrained network sees each picture once, since ``ImageLoader`` keeps features by
image, whatever folds and candidates ask for them.

Training sees the keywords only. Candidates are judged by Unicode's groups: clean labels that ride
along with the tags through every split, and that no estimator looks at.

It needs ``pip install ".[demo]"``, some 50 seconds on two idle cores, and no network.
"""

# %%
# A pipeline over pictures
# ------------------------

import os
import tempfile
import time
import warnings
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline

from skwsdhq import (
    HypersphereEmbedder,
    ImageLoader,
    TagEnhancer,
    TagKernelRegressor,
    WSDHQuantizer,
)
from skwsdhq.datasets import load_emoji
from skwsdhq.metrics import attach_labels, make_retrieval_scorer

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# A few keywords have no word vector. Each of the 24 fits would say so, in processes that take
# filters from the environment only.
os.environ["PYTHONWARNINGS"] = "ignore::UserWarning"
warnings.simplefilter("ignore", UserWarning)

started = time.perf_counter()


def say(text):
    print(f"[{time.perf_counter() - started:5.1f} s] {text}", flush=True)


say("this takes some 50 s on two idle cores")
emoji = load_emoji()
# Every other picture, to be done within a minute.
images, tags, groups = emoji.images[::2], emoji.tags[::2], emoji.target[::2]
y = attach_labels(tags, groups)
# At 128 pixels in place of the network's own 224 features take a third of the time, and find a
# little less.
memory = tempfile.TemporaryDirectory()
enhancer = TagEnhancer(emoji.word_vectors, min_count=5)
pipeline = Pipeline(
    [
        ("images", ImageLoader("efficientnet_lite0", size=128, memory=memory.name, n_jobs=2)),
        (
            "embedder",
            HypersphereEmbedder(enhancer, max_iter=10, kernel=TagKernelRegressor(), random_state=0),
        ),
        ("quantizer", WSDHQuantizer("passthrough", n_codebooks=2, random_state=0)),
    ]
)

# %%
# Features are computed by whoever asks first. Here that is this process, which may use the whole
# machine; the processes of the search find them ready.

say(f"features of {len(images)} pictures")
pipeline["images"].fit_transform(images)

# %%
# The grid
# --------
# Three thresholds of the tag graph, two shares of the kernel regression (half, and all), and two
# ridges of the regression.

grid = {
    "embedder__tag_enhancer__tau": [0.7, 0.85, 1.0],
    "embedder__kernel_weight": [0.5, 1.0],
    "embedder__kernel__alpha": [0.5, 1.0],
}
scoring = {
    "groups": make_retrieval_scorer(labels="attached"),
    "keywords": make_retrieval_scorer(),
}
search = GridSearchCV(
    pipeline,
    grid,
    scoring=scoring,
    refit="groups",
    cv=KFold(2, shuffle=True, random_state=0),
    n_jobs=2,
    error_score="raise",
)
say("12 candidates on 2 folds")
search.fit(images, y)
say("searched")

results = search.cv_results_
order = np.argsort(-results["mean_test_groups"])
print("\nmAP of codes of 16 bits, by groups and by keywords; the best, and the worst, candidates")
for i in [*order[:5], *order[-2:]]:
    settings = ", ".join(f"{k.split('__')[-1]}={v}" for k, v in results["params"][i].items())
    print(
        f"{results['mean_test_groups'][i]:.3f}  {results['mean_test_keywords'][i]:.3f}  {settings}"
    )
print("\nbest parameters:")
for name, value in search.best_params_.items():
    print(f"  {name} = {value}")
print()

# %%
# Each picture was seen once
# --------------------------
# What is kept has one row for each different picture, after 24 fits and one more of the best
# candidate.

(kept,) = Path(memory.name).rglob("rows-*")
row = 32 + 4 * int(kept.name.removeprefix("rows-")) + 16  # bytes: key, features, checksum
n_different = len({picture.tobytes() for picture in images})
say(f"rows of features kept: {kept.stat().st_size // row}, different pictures: {n_different}")

# %%
# A heat map
# ----------

shape = [len(values) for _, values in sorted(grid.items())]  # in the order of ParameterGrid
scores = results["mean_test_groups"].reshape(shape)  # alpha, weight, tau
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
limits = {"vmin": scores.min(), "vmax": scores.max()}
for axis, alpha, table in zip(axes, grid["embedder__kernel__alpha"], scores, strict=True):
    image = axis.imshow(table, cmap="viridis", aspect="auto", **limits)
    for (row, column), value in np.ndenumerate(table):
        dark = value < scores.min() + 0.6 * np.ptp(scores)
        axis.text(column, row, f"{value:.3f}", ha="center", va="center", color="w" if dark else "k")
    axis.set_xticks(range(3), grid["embedder__tag_enhancer__tau"])
    axis.set_yticks(range(2), grid["embedder__kernel_weight"])
    axis.set_xlabel("tau, threshold of the tag graph")
    axis.set_title(f"alpha = {alpha}")
axes[0].set_ylabel("kernel_weight")
figure.colorbar(image, ax=axes, label="mAP on groups, 16 bits")
picture = Path(os.environ.get("GRID_SEARCH_PICTURE", "grid_search.png"))
figure.savefig(picture, dpi=110)
say(f"wrote {picture}")
memory.cleanup()
