"""
Which method finds more
=======================

Codes of 8 to 32 bits by this library, beside those of methods that one might use instead: faiss's
quantizers, which see no tags; CCA-ITQ and WDHT, whose binary codes are learned from tags; and two
other losses with this library's codebooks. All get the same features of the same emoji pictures,
the same keywords and the same word vectors. The labels, Unicode's groups, only judge.

One split in five, and fewer methods than the comparison in the user guide has; it takes a few
minutes on two cores. It needs ``pip install ".[demo]"`` and no network after that.
"""

# %%
# Data and features
# -----------------
# A fifth of the pictures are queries; the others are the database, and what is learned from.

import os
import time
import warnings
from pathlib import Path

import faiss
import matplotlib
import numpy as np
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from skwsdhq import HypersphereEmbedder, TagEnhancer, WSDHQuantizer
from skwsdhq.backbones import extract_features
from skwsdhq.baselines import CCAITQ, WDHTHasher
from skwsdhq.datasets import load_emoji
from skwsdhq.metrics import mean_average_precision
from skwsdhq.plotting import CodeLengthDisplay, PrecisionAtKDisplay, PrecisionRecallDisplay
from skwsdhq.search import CodeIndex
from skwsdhq.sphere import normalize_rows

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SEED, BITS = 0, (8, 16, 32)
# A few keywords have no word vector; they get that of the keywords they occur with.
warnings.filterwarnings("ignore", ".* tags have no word vector", UserWarning)
started = time.perf_counter()


def say(text):
    print(f"[{time.perf_counter() - started:5.1f} s] {text}", flush=True)


say("this takes some three minutes on two idle cores")
emoji = load_emoji()
say(f"features of {len(emoji.images)} pictures")
features = extract_features(emoji.images, "efficientnet_lite0", n_jobs=2)
database, queries = train_test_split(
    np.arange(len(features)), test_size=0.2, random_state=SEED, shuffle=True
)
X, X_new, tags = features[database], features[queries], [emoji.tags[i] for i in database]
labels = emoji.target[queries], emoji.target[database]

# %%
# Methods
# -------
# Each is what queries become, and the database at each number of bits; a query is compared with a
# code by inner product, which for binary codes of 1 and -1 is Hamming distance.

found = {}


def keep(name, asked, databases):
    found[name] = (asked, databases)
    scores = [mean_average_precision(asked[b], databases[b], *labels) for b in BITS]
    say(f"{name:22s}" + "".join(f"{score:8.3f}" for score in scores))
    return scores


def keep_codes(name, asked, quantizers):
    codes = {b: CodeIndex(q.codebooks_, q.codes_) for b, q in quantizers.items()}
    return keep(name, dict.fromkeys(BITS, asked), codes)


enhancer = TagEnhancer(emoji.word_vectors)
table = {}

# %%
# This library's default, and its codebooks behind networks that learn by two other losses.
# Embeddings that are learned first serve every number of bits.

embedder = HypersphereEmbedder(enhancer, random_state=SEED).fit(X, tags)
rows, asked = embedder.transform(X), embedder.transform(X_new)


def coded(rows):
    return {
        b: WSDHQuantizer("passthrough", n_codebooks=b // 8, random_state=SEED).fit(rows)
        for b in BITS
    }


table["skwsdhq"] = keep_codes("skwsdhq", asked, coded(rows))
whole = rows
for loss in ("contrastive", "wdht"):
    other = HypersphereEmbedder(enhancer, loss=loss, kernel_weight=0.0, random_state=SEED)
    other.fit(X, tags)
    name = f"{loss} loss"
    table[name] = keep_codes(name, other.transform(X_new), coded(other.transform(X)))

# %%
# Binary codes that are learned from tags.

for name, Hasher in (("CCA-ITQ", CCAITQ), ("WDHT", WDHTHasher)):
    fitted = {b: Hasher(enhancer, n_bits=b, random_state=SEED).fit(X, tags) for b in BITS}
    table[name] = keep(
        name,
        {b: hasher.transform(X_new) for b, hasher in fitted.items()},
        {b: hasher.transform(X) for b, hasher in fitted.items()},
    )

# %%
# faiss, on 64 principal components of centred features of unit length. It keeps to one thread:
# several wait for each other after every loop, and where the machine is busy they mostly wait.

mean = X.mean(axis=0)
limits = threadpool_limits(1)
pca = PCA(64, random_state=SEED).fit(normalize_rows(X - mean))
plain, plain_asked = (
    np.ascontiguousarray(normalize_rows(pca.transform(normalize_rows(x - mean))), dtype="f4")
    for x in (X, X_new)
)
for name, Quantizer in (
    ("faiss PQ", faiss.ProductQuantizer),
    ("faiss RQ", faiss.ResidualQuantizer),
):
    decoded = {}
    for b in BITS:
        quantizer = Quantizer(64, b // 8, 8)
        quantizer.cp.min_points_per_centroid = 1  # else it warns of so few rows
        quantizer.train(plain)
        decoded[b] = quantizer.decode(quantizer.compute_codes(plain))
    table[name] = keep(name, dict.fromkeys(BITS, plain_asked), decoded)
itq_asked, itq_rows = {}, {}
for b in BITS:
    itq = faiss.ITQTransform(64, b, True)
    itq.train(plain)
    itq_asked[b], itq_rows[b] = (
        np.where(itq.apply(x) > 0, 1, -1).astype("f4") for x in (plain_asked, plain)
    )
table["faiss ITQ"] = keep("faiss ITQ", itq_asked, itq_rows)
limits.restore_original_limits()

# %%
# What they find
# --------------

print(f"\nmAP@5000 of groups, {len(queries)} queries, {len(database)} codes")
print(f"{'':22s}" + "".join(f"{b:>5d} bits" for b in BITS))
for name, scores in sorted(table.items(), key=lambda item: -item[1][-1]):
    print(f"{name:22s}" + "".join(f"{score:10.3f}" for score in scores))
print(f"{'skwsdhq, uncompressed':22s}{mean_average_precision(asked, whole, *labels):30.3f}")
print(
    f"{'features, uncompressed':22s}{mean_average_precision(plain_asked, plain, *labels):30.3f}\n"
)

figure, axes = plt.subplots(1, 3, figsize=(16, 4.8))
for name, (asked_by_bits, databases) in found.items():
    given = asked_by_bits[32], databases[32], *labels
    CodeLengthDisplay(BITS, table[name], name=name, score_name="mAP@5000").plot(ax=axes[0])
    PrecisionRecallDisplay.from_predictions(*given, name=name, ax=axes[1])
    PrecisionAtKDisplay.from_predictions(*given, name=name, ax=axes[2])
for axis, title in zip(axes, ("code length", "32 bits", "32 bits"), strict=True):
    axis.set_title(title)
    axis.get_legend().remove()
axes[2].legend(loc="center left", bbox_to_anchor=(1, 0.5))
figure.tight_layout()
picture = Path(os.environ.get("COMPARISON_PICTURE", "compare_methods.png"))
figure.savefig(picture, dpi=100)
say(f"wrote {picture}")
