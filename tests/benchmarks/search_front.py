"""Recall against time of indexes of few bytes a row, and how their cost grows with the rows.

    python tests/benchmarks/search_front.py --features CACHE --front FRONT.png --growth GROWTH.png

One query at a time, one thread, CPU time. Rows are of three kinds: unit vectors near 500 centres;
of the statistics of what the emoji model embeds (as many as are asked for, drawn from its
embeddings: see `like_emoji`); and codes drawn evenly, with codewords of a normal distribution.
CACHE holds features of the emoji set, as for ``quality.py``. hnswlib is compared where it is
installed.
"""

# ruff: noqa: E402 - threads are counted when numpy is first imported
import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import warnings
from pathlib import Path

import faiss
import numpy as np
import torch
from quality import prepare, read
from search import ONE_BY_ONE, compare, make_clustered
from sklearn.cluster import KMeans

from skwsdhq import HypersphereEmbedder, TagEnhancer, WSDHQuantizer
from skwsdhq.codebooks import encode, learn_codebooks
from skwsdhq.datasets import load_emoji
from skwsdhq.search import CodeIndex
from skwsdhq.sphere import normalize_rows

try:
    import hnswlib
except ImportError:  # it has no wheels
    hnswlib = None

N_NEIGHBORS = 10
SIZES = (10**4, 10**5, 10**6, 10**7)
MOST_OF_GRAPHS = 10**5  # rows, in a growth: more take minutes to be built
MOST_OF_SCANS = 10**6  # by tables of all codewords
METRIC = faiss.METRIC_INNER_PRODUCT


def emoji_embeddings(cache):
    """What the default model embeds the emoji set to, and its codebooks."""
    prepare("emoji", "efficientnet_lite0", cache, None)
    features, tags, _ = read("emoji", "efficientnet_lite0", cache)
    embedder = HypersphereEmbedder(TagEnhancer(load_emoji().word_vectors), random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tags without a word vector
        model = WSDHQuantizer(embedder, random_state=0).fit(features, tags)
    return model.transform(features), model.codebooks_


def like_emoji(embeddings, n_dims):
    """A drawer of rows like embeddings: each of them, moved as others of its kind differ.

    Of a row's cluster the drawn rows have the mean, and 1.5 times the covariance. Columns of zeros
    fill up to a number that faiss can divide.
    """
    kinds = KMeans(100, n_init=1, random_state=0).fit_predict(embeddings)
    order = np.argsort(kinds, kind="stable")
    starts = np.searchsorted(kinds[order], np.arange(101))

    def draw(rng, count):
        own = rng.integers(len(embeddings), size=count)
        first, sizes = starts[kinds[own]], np.diff(starts)[kinds[own]]
        others = order[first + (rng.random((2, count)) * sizes).astype(int)]
        rows = embeddings[own] + 0.5 * (embeddings[others[0]] - embeddings[others[1]])
        filled = np.zeros((count, n_dims), np.float32)
        filled[:, : rows.shape[1]] = normalize_rows(rows)
        return filled

    return draw


def codes_of(some, n_codebooks):
    """Codebooks as the quantizer learns them, and a function that encodes by them."""
    codebooks, _ = learn_codebooks(
        some, n_codebooks, 256, n_iter=6, prefix_weight=0.1, random_state=0
    )
    return codebooks, lambda rows: encode(rows, codebooks, prefix_weight=0.1)


def products(some, n_codebooks):
    """IndexPQ and IndexPQFastScan of as many bytes a row as so many codebooks have."""
    n_dims = some.shape[1]
    plain = faiss.IndexPQ(n_dims, n_codebooks, 8, METRIC)
    fast = faiss.IndexPQFastScan(n_dims, 2 * n_codebooks, 4, METRIC)
    for index in (plain, fast):
        index.train(some)
    return plain, fast


def found_by(index):
    """How an index, of ours or of faiss, is asked."""
    return lambda queries: index.search(queries, N_NEIGHBORS)[1]


# --- recall against time ----------------------------------------------------------------------


def ways(rows, some):
    """Names of indexes with their bytes a row, and functions for their settings."""
    n_dims = rows.shape[1]
    half = rows.astype(np.float16)
    calls = {}
    for n_codebooks in (4, 8):
        bits = 8 * n_codebooks
        codebooks, encoded = codes_of(some, n_codebooks)
        index = CodeIndex(codebooks, encoded(rows))
        plain, fast = products(some, n_codebooks)
        for other in (plain, fast):
            other.add(rows)
        refined = faiss.IndexRefineFlat(fast, faiss.swig_ptr(rows))
        exact = f"{n_codebooks + 4 * n_dims} bytes"
        calls[f"ours, {n_codebooks} bytes"] = [found_by(index)]
        calls[f"ours of {bits} bits ranked again, {n_codebooks + 2 * n_dims} bytes"] = [
            lambda q, i=index, s=s: i.search(q, N_NEIGHBORS, vectors=half, shortlist=s)[1]
            for s in (20, 50, 100, 200, 500, 1000)
        ]
        calls[f"IndexPQFastScan, {n_codebooks} bytes"] = [found_by(fast)]
        calls[f"IndexPQ, {n_codebooks} bytes"] = [found_by(plain)]
        calls[f"additive, {n_codebooks} bytes"] = [found_by(index.to_faiss("additive"))]
        calls[f"IndexRefineFlat of FastScan of {bits} bits, {exact}"] = [
            lambda q, i=refined, s=s: search_refined(i, q, s) for s in (2, 5, 10, 20, 50, 100)
        ]
        graph = faiss.IndexHNSWPQ(n_dims, n_codebooks, 16, 8, METRIC)
        graph.train(some)
        graph.add(rows)
        calls[f"IndexHNSWPQ of {bits} bits, {n_codebooks + 32 * 4} bytes"] = [
            lambda q, i=graph, e=e: search_graph(i, q, e) for e in (16, 64, 256)
        ]
    if hnswlib is not None:
        graph = hnswlib_index(rows)
        calls[f"hnswlib, {4 * n_dims + 32 * 4} bytes"] = [
            lambda q, e=e: search_hnswlib(graph, q, e) for e in (10, 20, 40, 80, 160)
        ]
    return calls


def search_refined(index, queries, factor):
    index.k_factor = factor
    return index.search(queries, N_NEIGHBORS)[1]


def search_graph(index, queries, depth):
    index.hnsw.efSearch = depth
    return index.search(queries, N_NEIGHBORS)[1]


def hnswlib_index(rows):
    index = hnswlib.Index(space="ip", dim=rows.shape[1])
    index.init_index(max_elements=len(rows), M=16, ef_construction=100, random_seed=0)
    index.set_num_threads(1)
    index.add_items(rows)
    return index


def search_hnswlib(index, queries, depth):
    index.set_ef(depth)
    return index.knn_query(queries, k=N_NEIGHBORS)[0].astype(np.int64)


def draw_front(axes, name, draw, n, runs):
    """Recall of the ten nearest by exact embeddings against milliseconds a query."""
    rng = np.random.default_rng(0)
    queries, some, rows = draw(rng, 256), draw(rng, 20_000), draw(rng, n)
    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(rows)
    exact = flat.search(queries, N_NEIGHBORS)[1]
    for label, calls in ways(rows, some).items():
        rivals = [
            (i, ONE_BY_ONE, lambda c=call: [c(q[None]) for q in queries[:ONE_BY_ONE]])
            for i, call in enumerate(calls)
        ]
        times = [1e3 * np.median(t) for t in compare(rivals, runs).values()]
        recalls = [
            np.mean([np.isin(t, f) for t, f in zip(exact, call(queries), strict=True)])
            for call in calls
        ]
        for ms, recall in zip(times, recalls, strict=True):
            print(f"{name}, {n:,} rows  {label:50} {ms:8.3f} ms  recall {recall:.3f}", flush=True)
        axes.plot(times, recalls, label=label, **style_of(label))
    axes.set(xscale="log", xlabel="milliseconds a query", title=f"{n:,} rows {name}")
    axes.set_ylabel("of the ten nearest by exact embeddings")
    axes.set_xticks([0.01, 0.03, 0.1, 0.3, 1, 3], ["0.01", "0.03", "0.1", "0.3", "1", "3"])
    axes.minorticks_off()


# A color for a kind; squares are codes alone, hollow where they have four bytes.
COLORS = {
    "ours": "black",
    "IndexPQFastScan": "C3",
    "IndexRefineFlat": "C3",
    "IndexPQ": "C1",
    "additive": "C2",
    "IndexHNSWPQ": "C4",
    "hnswlib": "C0",
}


def style_of(label):
    """How an index is drawn."""
    kind = label.replace(",", " ").split()[0]
    style = {"color": COLORS[kind], "marker": "o", "lw": 2 if kind == "ours" else 1}
    if label.endswith((" 4 bytes", " 8 bytes")) and "again" not in label:
        style |= {"marker": "s", "ls": "", "ms": 8}
    if label.endswith(" 4 bytes") or "32 bits" in label or "of 4" in label:
        style |= {"mfc": "white", "ls": "--" if style["marker"] == "o" else ""}
    return style


# --- growth -----------------------------------------------------------------------------------


def growth(draw, sizes, runs):
    """Milliseconds a query of 32-bit codes by number of rows: {name: [(rows, ms)]}."""
    rng = np.random.default_rng(0)
    queries, some = draw(rng, ONE_BY_ONE), draw(rng, 20_000)
    codebooks, encoded = codes_of(some, 4)
    plain, fast = products(some, 4)
    codes = np.empty((max(sizes), 4), np.uint8)
    kept, done, points = [], 0, {}
    for n in sizes:
        while done < n:
            rows = draw(rng, min(50_000, n - done))
            codes[done : done + len(rows)] = encoded(rows)
            for other in (plain, fast):
                other.add(rows)
            kept += [rows] if n <= MOST_OF_GRAPHS else []
            done += len(rows)
        index = CodeIndex(codebooks, codes[:n])
        drawn = rng.integers(0, 256, (n, 4), dtype=np.uint8)
        even = CodeIndex(rng.standard_normal(codebooks.shape, dtype="f4"), drawn)
        calls = {"ours": found_by(index), "ours, random codes": found_by(even)}
        calls |= {"IndexPQFastScan": found_by(fast), "IndexPQ": found_by(plain)}
        if n <= MOST_OF_SCANS:
            calls["additive"] = found_by(index.to_faiss("additive"))
        if n <= MOST_OF_GRAPHS and hnswlib is not None:
            graph = hnswlib_index(np.concatenate(kept))
            calls["hnswlib, depth 40"] = lambda q, g=graph: search_hnswlib(g, q, 40)
        few = int(np.clip(2e8 // n, 4, ONE_BY_ONE))
        rivals = [
            (name, few, lambda c=call, f=few: [c(q[None]) for q in queries[:f]])
            for name, call in calls.items()
        ]
        for name, times in compare(rivals, runs).items():
            points.setdefault(name, []).append((n, 1e3 * float(np.median(times))))
            print(f"growth, {n:,} rows  {name:20} {points[name][-1][1]:8.3f} ms", flush=True)
    return points


def plain_embeddings(embeddings, codebooks, runs):
    """The same of what the model itself embeds, by its own codebooks."""
    index = CodeIndex(codebooks, encode(embeddings, codebooks, prefix_weight=0.1))
    call = found_by(index)
    rivals = [("ours", ONE_BY_ONE, lambda: [call(q[None]) for q in embeddings[:ONE_BY_ONE]])]
    ms = 1e3 * float(np.median(compare(rivals, runs)["ours"]))
    print(f"the model's own embeddings, {len(embeddings):,} rows: {ms:.3f} ms", flush=True)
    return len(embeddings), ms


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, default=Path("features"), help="cache")
    parser.add_argument("--front", help="picture of recall against time")
    parser.add_argument("--growth", help="picture of milliseconds against rows")
    parser.add_argument("--rows", type=int, default=100_000, help="of the front")
    parser.add_argument("--most", type=int, default=SIZES[-1], help="rows of the growth")
    options = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    embeddings, codebooks = emoji_embeddings(options.features)
    n_dims = -(-embeddings.shape[1] // 16) * 16
    draw = like_emoji(embeddings, n_dims)
    kinds = {"near 500 centres": make_clustered, "as the emoji model embeds": draw}
    if options.front:
        figure, panels = plt.subplots(1, 2, figsize=(11, 6.5), sharey=True, layout="constrained")
        for axes, (name, drawer) in zip(panels, kinds.items(), strict=True):
            draw_front(axes, name, drawer, options.rows, 3)
        for axes in panels:  # bytes differ with the dimensions
            axes.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
        figure.savefig(options.front, dpi=120)
    if options.growth:
        figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        own = plain_embeddings(embeddings, codebooks, 3)
        axes.loglog(*own, "k*", ms=10, label="ours, the model's own embeddings")
        sizes = [n for n in SIZES if n <= options.most]
        for name, points in growth(draw, sizes, 3).items():
            style = style_of(name) | {"ls": "--" if "random" in name else "-"}
            axes.loglog(*zip(*points, strict=True), label=name, **style)
        axes.set(xlabel="rows", ylabel="milliseconds a query, k = 10, 32 bits, one thread")
        axes.legend(fontsize="x-small")
        figure.savefig(options.growth, dpi=120)


if __name__ == "__main__":
    main()
