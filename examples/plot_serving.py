"""
Saving, serving, and faiss
==========================

A model is saved without pickle. To search, two arrays are enough: codebooks and codes. An index of
them is exact, is one file that processes share, and can be handed to faiss, which finds the same.

It needs ``pip install ".[demo]"``, some 20 seconds on two idle cores, and no network.
"""

# %%
# A model in a file
# -----------------
# Features of 50,000 made images, of which 2,000 are learned from; the others are coded.

import tempfile
import time
from pathlib import Path

import faiss
import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits

import skwsdhq
from skwsdhq import TagKernelRegressor, WSDHQuantizer
from skwsdhq.datasets import make_tagged_images
from skwsdhq.search import CodeIndex

folder = tempfile.TemporaryDirectory()
made = make_tagged_images(50_000, n_features=32, random_state=0)
quantizer = WSDHQuantizer(TagKernelRegressor(random_state=0), n_bits=32, random_state=0)
quantizer.fit(made.data[:2000], made.tags[:2000])
path = Path(folder.name) / "model.safetensors"
quantizer.save(path)
loaded = skwsdhq.load(path)
codes = loaded.encode(made.data)
print(f"model {path.stat().st_size / 1e6:.1f} MB, codes {codes.nbytes / 1e6:.1f} MB")

# %%
# An index in a file
# ------------------
# ``load`` maps it into memory: processes on one machine share it. Ids are your own.

index = CodeIndex(loaded.codebooks_, codes, ids=[f"image-{i}" for i in range(len(codes))])
index.save(Path(folder.name) / "images.index")
served = CodeIndex.load(Path(folder.name) / "images.index")
queries = loaded.transform(made.data[:64])
similarities, ids = served.search(queries, k=3)
print(ids[0], similarities[0].round(3))

# %%
# The same in faiss
# -----------------
# faiss has whole numbers for ids. Similarities are the same up to the last bits, in which it adds
# in another order.

numbered = CodeIndex(loaded.codebooks_, codes)
other = numbered.to_faiss()
theirs, rows = other.search(queries, 10)
ours, _ = numbered.search(queries, k=10)
print(type(other).__name__, f"largest difference {np.abs(theirs - ours).max():.1e}")

# %%
# How long a search takes
# -----------------------
# One query after the other, on one thread, for more and more rows: codes repeated. The index looks
# at few of its rows, whatever their number, and finds what a whole scan finds.

sizes = (10_000, 100_000, 1_000_000)
taken = {"CodeIndex": [], "faiss, the same codes": [], "faiss, float32 rows": []}
random = np.random.RandomState(0)


def seconds(search):
    """The median time of a query, after the first ones, which prepare an index."""
    for query in queries[:12]:
        search(query[None])
    times = []
    for query in queries[12:]:
        start = time.perf_counter()
        search(query[None])
        times.append(time.perf_counter() - start)
    return float(np.median(times))


faiss_threads = faiss.omp_get_max_threads()
with threadpool_limits(1):
    faiss.omp_set_num_threads(1)
    for size in sizes:
        more = codes[random.randint(0, len(codes), size)]
        grown = CodeIndex(loaded.codebooks_, more)
        flat = faiss.IndexFlatIP(queries.shape[1])
        flat.add(loaded.decode(more))
        for name, index in zip(taken, (grown, grown.to_faiss(), flat), strict=True):
            taken[name].append(seconds(lambda query, index=index: index.search(query, 10)))
    faiss.omp_set_num_threads(faiss_threads)

figure, axis = plt.subplots(layout="constrained")
for (name, times), marker in zip(taken.items(), "os^", strict=True):
    axis.plot(sizes[: len(times)], np.multiply(times, 1000), marker=marker, label=name)
    print(f"{name:24s}" + "".join(f"{1000 * t:9.3f} ms" for t in times))
axis.set(xscale="log", yscale="log", xlabel="Rows", ylabel="Milliseconds for a query")
axis.legend()
plt.show()
folder.cleanup()
