"""
Comparing methods
=================

Codes of 32 bits by this library, beside those of methods that one might use instead: faiss's
quantizers, which see no tags, and CCA-ITQ and WDHT, whose binary codes are learned from tags. All
get the same features of the same emoji, the same keywords and the same word vectors. The labels,
Unicode's groups, only judge.

``examples/compare_methods.py`` does the same with more methods and lengths, in a few minutes. This
page needs ``pip install ".[demo]"``, some 45 seconds on two idle cores, and no network.
"""

# %%
# Data and features
# -----------------

import warnings

import faiss
import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from skwsdhq import ImageLoader, TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.baselines import CCAITQ, WDHTHasher
from skwsdhq.datasets import load_emoji
from skwsdhq.metrics import mean_average_precision
from skwsdhq.plotting import PrecisionAtKDisplay
from skwsdhq.sphere import normalize_rows

# A few keywords have no word vector; they get that of the keywords they occur with.
warnings.filterwarnings("ignore", ".* tags have no word vector", UserWarning)
emoji = load_emoji()
features = ImageLoader("stages:efficientnet_lite0", size=112, n_jobs=2).fit_transform(emoji.images)
# The hashers train networks: 256 components keep what they need, and take a tenth of the time.
features = PCA(256, random_state=0).fit_transform(features)
rows = np.arange(len(features))
known, new = rows[rows % 8 > 0], rows[rows % 8 == 0]
X, X_new, tags = features[known], features[new], [emoji.tags[i] for i in known]
labels = emoji.target[new], emoji.target[known]
enhancer = TagEnhancer(emoji.word_vectors, min_count=5)

# %%
# Methods
# -------
# Each is what queries become, and what codes of the database stand for; a query is compared with a
# code by inner product, which for binary codes of 1 and -1 is Hamming distance.

embedder = TagKernelRegressor(enhancer, random_state=0).fit(X, tags)
codes = WSDHQuantizer("passthrough", n_bits=32, random_state=0).fit(embedder.transform(X))
found = {"skwsdhq": (embedder.transform(X_new), codes.index())}
for name, hasher in {
    "CCA-ITQ": CCAITQ(enhancer, n_bits=32, random_state=0),
    "WDHT": WDHTHasher(enhancer, n_bits=32, max_iter=6, random_state=0),
}.items():
    hasher.fit(X, tags)
    found[name] = hasher.transform(X_new), hasher.transform(X)
with threadpool_limits(1):
    pca = PCA(64, random_state=0).fit(X)
    plain, asked = (normalize_rows(pca.transform(part)).astype("f4") for part in (X, X_new))
    for name, kind in {
        "faiss PQ": faiss.ProductQuantizer,
        "faiss RQ": faiss.ResidualQuantizer,
    }.items():
        quantizer = kind(64, 4, 8)
        quantizer.cp.min_points_per_centroid = 1  # else it warns of few rows
        quantizer.train(plain)
        found[name] = asked, quantizer.decode(quantizer.compute_codes(plain))

# %%
# mAP
# ---

for name, (asked, database) in found.items():
    print(f"{name:10s}{mean_average_precision(asked, database, *labels):.3f}")

# %%
# How pure the first results are
# ------------------------------

figure, axis = plt.subplots(figsize=(7, 4.4), layout="constrained")
for name, marker, style in zip(found, "osD^v", ("-", "--", "-.", ":", "-"), strict=True):
    PrecisionAtKDisplay.from_predictions(
        *found[name], *labels, name=name, ax=axis, marker=marker, markevery=0.2,
        linestyle=style,
    )  # fmt: skip
axis.set(title="32 bits", ylim=(0, 1))
plt.show()
