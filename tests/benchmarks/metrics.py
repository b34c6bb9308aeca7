"""Mean average precision against the loops that research code has: one thread, ratios of CPU time.

    python tests/benchmarks/metrics.py [--quick] [--json FILE]
    python tests/benchmarks/metrics.py --large      5,000 queries against 1,000,000 codes

Every run times the rivals in turn; the ratio is the median over runs of the ratio within a run.
Values are compared in the same run.
"""

# ruff: noqa: E402 - threads are counted when numpy is first imported
import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import json
import platform
import resource
import time

import numpy as np
import scipy

from skwsdhq.codebooks import encode, learn_codebooks
from skwsdhq.metrics import mean_average_precision
from skwsdhq.search import CodeIndex


def naive_loop(queries, database, query_labels, database_labels, top_k):
    """A query at a time: all similarities, a full sort, labels by a dense product."""
    values = []
    for query, labels in zip(queries, query_labels, strict=True):
        order = np.argsort(-(database @ query), kind="stable")
        hits = (database_labels @ labels > 0)[order][:top_k]
        if hits.any():
            places = np.flatnonzero(hits) + 1
            values.append(np.mean(np.arange(1, len(places) + 1) / places))
    return float(np.mean(values))


def argpartition_loop(queries, database, query_labels, database_labels, top_k):
    """Blocks of queries: one product, argpartition, labels by a dense product of what is left."""
    values = []
    for start in range(0, len(queries), 100):
        scores = queries[start : start + 100] @ database.T
        best = np.argpartition(-scores, top_k - 1, axis=1)[:, :top_k]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        relevant = query_labels[start : start + 100] @ database_labels.T > 0
        hits = np.take_along_axis(relevant, best, axis=1)
        precision = np.cumsum(hits, axis=1) / np.arange(1, top_k + 1)
        counts = hits.sum(axis=1)
        sums = (precision * hits).sum(axis=1)
        values.append(sums[counts > 0] / counts[counts > 0])
    return float(np.mean(np.concatenate(values)))


def make_problem(n_queries, n_rows, n_labels, n_dims, seed=0):
    """Embeddings that carry their labels and noise; about three labels a row."""
    rng = np.random.default_rng(seed)
    concepts = rng.standard_normal((n_labels, n_dims)).astype("f4")
    frequency = 3 * (1 / np.arange(1, n_labels + 1)) / (1 / np.arange(1, n_labels + 1)).sum()

    def draw(n):
        labels = (rng.random((n, n_labels)) < frequency).astype("f4")
        noise = rng.standard_normal((n, n_dims)).astype("f4")
        embeddings = labels @ concepts + 2 * noise
        return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), labels

    return *draw(n_queries), *draw(n_rows)


def run_large(n_queries=5000, n_rows=1_000_000, n_labels=81, n_dims=64):
    """Seconds and memory of an evaluation that a whole matrix of similarities (20 GB) forbids."""
    queries, query_labels, _, _ = make_problem(n_queries, 1, n_labels, n_dims)
    database_labels = np.empty((n_rows, n_labels), np.bool_)
    rng = np.random.default_rng(0)
    codebooks = rng.standard_normal((4, 256, n_dims)).astype("f4")
    codes = np.empty((n_rows, 4), np.uint8)
    for start in range(0, n_rows, 20_000):
        part = slice(start, start + 20_000)
        _, _, rows, labels = make_problem(1, 20_000, n_labels, n_dims, seed=start)
        if start == 0:
            codebooks, _ = learn_codebooks(rows, 4, 256, random_state=0)
        codes[part] = encode(rows, codebooks, random_state=0)
        database_labels[part] = labels
    for n_codebooks in (1, 2, 4):
        index = CodeIndex(codebooks[:n_codebooks], codes[:, :n_codebooks])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        value = mean_average_precision(queries, index, query_labels, database_labels, top_k=5000)
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"mAP@5000 of {n_queries:,} queries, {n_rows:,} codes of {8 * n_codebooks} bits: "
            f"{value:.3f} in {seconds:.0f} s CPU, one thread; peak memory {peak / 2**10:.0f} MB, "
            f"{before / 2**10:.0f} MB of it before",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the queries, 3 runs")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--large", action="store_true", help="a large problem, without rivals")
    options = parser.parse_args()
    if options.large:
        run_large()
        return
    n_queries, runs = (200, 3) if options.quick else (2000, 5)
    n_rows, n_labels, top_k = 100_000, 81, 5000
    rows = []
    for n_dims in (64, 300):
        queries, query_labels, database, database_labels = make_problem(
            n_queries, n_rows, n_labels, n_dims
        )
        codes = np.random.default_rng(0).integers(0, 256, (n_rows, 4), dtype=np.uint8)
        codebooks = np.random.default_rng(1).standard_normal((4, 256, n_dims)).astype("f4")
        index = CodeIndex(codebooks, codes)
        # The naive loop is the same work for each query: a tenth of them is enough to time it.
        few = max(n_queries // 10, 50)
        arguments = (queries, database, query_labels, database_labels)
        part = (queries[:few], database, query_labels[:few], database_labels)
        work = {
            "naive loop": (few, lambda part=part: naive_loop(*part, top_k)),
            "argpartition loop": (n_queries, lambda a=arguments: argpartition_loop(*a, top_k)),
            "skwsdhq": (n_queries, lambda a=arguments: mean_average_precision(*a, top_k=top_k)),
            "skwsdhq, tie-aware": (
                n_queries,
                lambda a=arguments: mean_average_precision(*a, top_k=top_k, ties="expected"),
            ),
            "skwsdhq, 32-bit codes": (
                n_queries,
                lambda a=arguments, i=index: mean_average_precision(a[0], i, *a[2:], top_k=top_k),
            ),
        }
        times = {name: [] for name in work}
        for run in range(runs):
            values = {}
            for name, (count, call) in work.items():
                start = time.process_time()
                values[name] = call()
                times[name].append((time.process_time() - start) / count)
            if run == 0:
                exact = mean_average_precision(*part, top_k=top_k)
                assert abs(values["naive loop"] - exact) < 1e-6, (values, exact)
                assert abs(values["argpartition loop"] - values["skwsdhq"]) < 1e-6, values
        for name, seconds in times.items():
            for rival in ("naive loop", "argpartition loop"):
                ratios = np.array(times[rival]) / seconds
                rows.append(
                    {
                        "work": f"mAP@{top_k}, {n_queries} × {n_rows} × {n_labels}, D {n_dims}",
                        "name": name,
                        "rival": rival,
                        "ms_per_query": float(np.median(seconds) * 1e3),
                        "ratio": float(np.median(ratios)),
                        "lowest": float(ratios.min()),
                        "highest": float(ratios.max()),
                    }
                )
    print(f"numpy {np.__version__}, scipy {scipy.__version__}, Python {platform.python_version()}")
    print(f"one thread, process CPU time, median of {runs} alternating runs")
    for row in rows:
        print(
            f"{row['work']:45} {row['name']:22} {row['ms_per_query']:8.3f} ms/query  "
            f"{row['ratio']:6.1f} × {row['rival']} ({row['lowest']:.1f} – {row['highest']:.1f})"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MB")
    if options.json:
        with open(options.json, "w") as file:
            versions = {"numpy": np.__version__, "scipy": scipy.__version__}
            versions |= {"python": platform.python_version()}
            json.dump({"threads": 1, "versions": versions, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
