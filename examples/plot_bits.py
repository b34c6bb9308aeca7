"""
Bits against mAP
================

How many bits should a code have? Codes of 8 to 48 bits of the same embeddings are compared with the
embeddings themselves, by groups and by the finer subgroups, beside product quantization of the same
features without any tags.

It needs ``pip install ".[demo]"``, some 45 seconds on two idle cores, and no network.
"""

# %%
# Embeddings
# ----------
# They are learned once; codes of any length are learned from them.

import warnings

import faiss
import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from skwsdhq import ImageLoader, TagEnhancer, TagKernelRegressor, WSDHQuantizer
from skwsdhq.datasets import load_emoji
from skwsdhq.plotting import CodebookUsageDisplay, CodeLengthDisplay
from skwsdhq.sphere import normalize_rows

# A few keywords have no word vector; they get that of the keywords they occur with.
warnings.filterwarnings("ignore", ".* tags have no word vector", UserWarning)
emoji = load_emoji()
features = ImageLoader("stages:efficientnet_lite0", size=112, n_jobs=2).fit_transform(emoji.images)
rows = np.arange(len(features))
known, new = rows[rows % 8 > 0], rows[rows % 8 == 0]
embedder = TagKernelRegressor(TagEnhancer(emoji.word_vectors, min_count=5), random_state=0)
embedder.fit(features[known], [emoji.tags[i] for i in known])
database, queries = embedder.transform(features[known]), embedder.transform(features[new])

# %%
# Codes
# -----

bits = (8, 16, 24, 32, 48)
codes = {
    n_bits: WSDHQuantizer("passthrough", n_bits=n_bits, random_state=0).fit(database)
    for n_bits in bits
}

# %%
# What product quantization makes of the features, reduced to their 48 leading components.

with threadpool_limits(1):
    pca = PCA(48, random_state=0).fit(features[known])
    plain, asked = (
        normalize_rows(pca.transform(features[part])).astype("f4") for part in (known, new)
    )
    decoded = {}
    for n_bits in bits:
        product = faiss.ProductQuantizer(48, n_bits // 8, 8)
        product.cp.min_points_per_centroid = 1  # else it warns of few rows
        product.train(plain)
        decoded[n_bits] = product.decode(product.compute_codes(plain))

# %%
# The longer the code, the nearer to the embedding, and groups are found by 8 bits already. What the
# tags teach matters far more than how many bits keep it.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
for axis, (name, labels) in zip(
    axes, {"groups": emoji.target, "subgroups": emoji.subgroup}.items(), strict=True
):
    judged = labels[new], labels[known]
    learned = CodeLengthDisplay.from_predictions(
        queries, {b: q.index() for b, q in codes.items()}, *judged,
        uncompressed=database, name="learned from tags", ax=axis,
    )  # fmt: skip
    CodeLengthDisplay.from_predictions(
        asked, decoded, *judged, uncompressed=plain, name="product quantization", ax=axis,
        marker="s",
    )  # fmt: skip
    axis.set_title(f"{name}; dotted: without codes")
    axis.set_ylim(0, None)
    axis.legend(loc="lower center")
    print(name, dict(zip(bits, learned.scores.round(3).tolist(), strict=True)))

# %%
# Where bits go
# -------------
# A codebook whose codewords are all used alike tells log2(K) bits. Later codebooks refine what
# earlier ones say.

display = CodebookUsageDisplay.from_estimator(codes[32])
plt.show()
