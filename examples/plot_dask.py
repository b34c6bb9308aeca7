"""
More rows than one process should hold
======================================

Dask holds an array in chunks, on one machine or on many. A model is fitted where the chunks are, by
sums over them; codes are made there, and searched there. The same lines run on a cluster, once a
``distributed.Client`` is connected to it.

It needs ``pip install ".[demo,dask]"``, some 20 seconds on two idle cores, and no network.
"""

# %%
# An array in chunks
# ------------------
# Features of 40,000 made images; on a cluster they would be read by the workers.

import dask.array as da
import matplotlib.pyplot as plt
import numpy as np

from skwsdhq import TagKernelRegressor, WSDHQuantizer
from skwsdhq.dask import PartitionedIndex, encode, fit
from skwsdhq.datasets import make_tagged_images
from skwsdhq.metrics import mean_average_precision
from skwsdhq.plotting import SphereDisplay

made = make_tagged_images(40_100, n_classes=4, spread=0.6, random_state=0)
target = np.asarray(made.target)
known, new = slice(0, 40_000), slice(40_000, None)
X = da.from_array(made.data[known], chunks=(5_000, -1))
print(X)

# %%
# Fit, and code
# -------------
# ``fit`` gives the model of one process. Codes are lazy until they are asked for.

quantizer = WSDHQuantizer(
    TagKernelRegressor(max_landmarks=500, random_state=0), n_bits=16, random_state=0
)
fit(quantizer, X, made.tags[known])
codes = encode(quantizer, X)
print(codes)

# %%
# Search
# ------
# Each chunk is searched where it is, and the best of all are what one index of all would find.

queries = quantizer.transform(made.data[new])
index, whole = PartitionedIndex(quantizer.codebooks_, codes), quantizer.index()
similarities, rows = index.search(queries, k=10)
print("the same as one index finds:", np.array_equal(rows, whole.search(queries, 10)[1]))
print(f"mAP@5000 {mean_average_precision(queries, whole, target[new], target[known]):.3f}")

# %%
# What was learned, in two dimensions: some of the images, and concepts that most of them carry.

some = np.arange(0, 40_000, 40)
display = SphereDisplay.from_estimator(
    quantizer,
    made.data[some],
    n_concepts=4,
    kinds=[f"class {label}" for label in target[some]],
)
plt.show()
